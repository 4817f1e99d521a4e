// Package cloudevent reads and writes CloudEvents 1.0 over NATS and HTTP. It
// uses the CloudEvents SDK's event type and none of its decoders, which are too
// lenient in some places, too strict in others, and panic in one.
//
// Reading is strict where a lax reader would lose or change something (members
// named twice, numbers that do not fit, data given twice) and lenient where two
// readings cannot differ (the case of header names and media types, needless
// percent-encoding). What cannot be read gives a *MalformedError, which names
// the attribute and never holds a value.
package cloudevent

import (
	"errors"

	"github.com/cloudevents/sdk-go/v2/event"
)

// Event is a CloudEvent together with its identity exactly as it was received:
// the SDK normalises a source's text, and identity must not depend on that.
//
// The event's data is a part of the bytes it was read from, not a copy.
type Event struct {
	event.Event
	// RawSource and RawID are the attributes as received, after undoing the
	// transport's own encoding (percent-encoding of headers, escapes of JSON) and
	// nothing else.
	RawSource string
	RawID     string
	// BarePercent says that a header value held a "%" that starts no escape, as
	// senders without percent-encoding write it. Such a value is taken as it stands.
	BarePercent bool
}

// IsJSON says whether the data is JSON: its content type says so, or there is
// no content type and the data did not come as base64.
func (e *Event) IsJSON() bool { return isJSONData(&e.Event) }

// Mode is a CloudEvents content mode.
type Mode string

// The content modes. Events are written in the first two; Batched is read only.
const (
	Structured Mode = "structured"
	Binary     Mode = "binary"
	Batched    Mode = "batched"
)

// The content types of the JSON format.
const (
	ContentTypeStructured = "application/cloudevents+json"
	ContentTypeBatched    = "application/cloudevents-batch+json"
)

// Message is a CloudEvent in the form in which it is stored on NATS: FromNATS
// reads Event back from Header and Data.
type Message struct {
	Event  Event
	Header map[string][]string
	Data   []byte
	// Once is an id under which the message is stored once, while the store
	// remembers it; empty stores each.
	Once string
}

// MalformedError is input that is no valid CloudEvent.
type MalformedError struct {
	// Attr is the attribute, or the member "data" or "data_base64", that is at fault;
	// empty if it is the whole.
	Attr string
	// Msg says what is wrong, and never holds a value.
	Msg string
}

func (e *MalformedError) Error() string {
	if e.Attr == "" {
		return e.Msg
	}
	return e.Attr + ": " + e.Msg
}

// UnsupportedError is a CloudEvent in a format or a character set that is not
// read here.
type UnsupportedError struct{ Msg string }

func (e *UnsupportedError) Error() string { return e.Msg }

// ErrNotCloudEvent is input that does not claim to be a CloudEvent.
var ErrNotCloudEvent = errors.New("not a CloudEvent: neither a CloudEvents content type nor ce- headers")

// ErrTooLarge is what storing an event fails with when it is larger than the
// bus takes.
var ErrTooLarge = errors.New("the event is larger than the bus takes")

func malformed(attr, msg string) *MalformedError { return &MalformedError{Attr: attr, Msg: msg} }

// quoted prepares an attribute's name for an error text: bounded, and without a
// run of digits that could be somebody's number. It is empty for what looks like
// no name at all, and so could be anything.
func quoted(name string) string {
	const longest = 40
	b := make([]byte, 0, len(name))
	digits := 0
	for i, c := range []byte(name) {
		switch {
		case c >= '0' && c <= '9':
			if digits++; digits > 4 {
				c = '*'
			}
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_', c == '-', c == '.':
		default:
			return ""
		}
		if i < longest {
			b = append(b, c)
		}
	}
	if len(name) > longest {
		b = append(b, "..."...)
	}
	return string(b)
}
