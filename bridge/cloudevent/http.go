package cloudevent

import (
	"fmt"
	"net/http"
)

// ModeOf tells the content mode of an HTTP request from its header alone. The
// error is an *UnsupportedError, or ErrNotCloudEvent for a request that has
// neither a CloudEvents content type nor any ce- header of the required ones.
func ModeOf(header http.Header) (Mode, error) {
	mode, err := modeOf(header.Get("Content-Type"))
	if err != nil {
		return "", err
	}
	if mode == Binary && !hasAttributes(header) {
		return "", ErrNotCloudEvent
	}
	return mode, nil
}

// BatchError is a batch with items that are no events; the others may be good.
type BatchError struct{ Items []ItemError }

// ItemError is what is wrong with one item, counted from 0.
type ItemError struct {
	Index int
	Err   error
}

func (e *BatchError) Error() string {
	switch n := len(e.Items); n {
	case 0:
		return "malformed batch"
	case 1:
		return fmt.Sprintf("item %d: %s", e.Items[0].Index, e.Items[0].Err)
	default:
		return fmt.Sprintf("item %d: %s (and %d more)", e.Items[0].Index, e.Items[0].Err, n-1)
	}
}

// FromHTTP reads the events of a request, in the form in which they are stored
// on NATS. Nothing about an event changes on the way: a body in structured mode
// is stored byte for byte, a batch as one structured message per item, and
// binary mode as NATS binary mode. An empty batch gives no messages.
//
// The error is a *MalformedError, a *BatchError, an *UnsupportedError or
// ErrNotCloudEvent.
func FromHTTP(header http.Header, body []byte) ([]Message, error) {
	mode, err := ModeOf(header)
	if err != nil {
		return nil, err
	}
	switch mode {
	case Structured:
		m, err := structured(body)
		if err != nil {
			return nil, err
		}
		return []Message{m}, nil
	case Batched:
		return batch(body)
	}
	contentType := header.Get("Content-Type")
	e, err := fromBinary(header, contentType, body, true)
	if err != nil {
		return nil, err
	}
	if len(body) > 0 && contentType != "" && e.IsJSON() && !validJSON(body) {
		return nil, malformed("data", "is not JSON, although its content type says so")
	}
	return []Message{{Event: e, Header: forward(header, contentType), Data: body}}, nil
}

func structured(body []byte) (Message, error) {
	e, err := FromJSON(body)
	if err != nil {
		return Message{}, err
	}
	return Message{Event: e, Header: map[string][]string{"Content-Type": {ContentTypeStructured}}, Data: body}, nil
}

func batch(body []byte) ([]Message, error) {
	items, err := SplitBatch(body)
	if err != nil {
		return nil, err
	}
	messages := make([]Message, 0, len(items))
	var bad []ItemError
	for i, item := range items {
		m, err := structured(item)
		if err != nil {
			bad = append(bad, ItemError{i, err})
			continue
		}
		messages = append(messages, m)
	}
	if bad != nil {
		return nil, &BatchError{bad}
	}
	return messages, nil
}

// forward rewrites the header of a request in binary mode for NATS. Values are
// decoded and encoded again, because nats.go trims and replaces what is not
// encoded. The header is known to be good.
func forward(header http.Header, contentType string) map[string][]string {
	out := make(map[string][]string, len(header))
	var buf [32]byte
	for key, values := range header {
		name, ok := attributeName(key, &buf)
		if !ok || len(values) == 0 {
			continue
		}
		v, _, _ := decodeHeader(values[0])
		out["ce-"+string(name)] = []string{encodeHeader(v)}
	}
	if contentType != "" {
		out["ce-datacontenttype"] = []string{encodeHeader(contentType)}
	}
	return out
}
