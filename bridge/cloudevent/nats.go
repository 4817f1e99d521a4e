package cloudevent

import "errors"

// IsBatch says whether a NATS message holds a batch, which is an extension of
// ours to the NATS binding: read it with SplitBatch, and each item with FromJSON.
func IsBatch(header map[string][]string) bool {
	return len(header) > 0 && hasPrefixFold(headerValue(header, "Content-Type"), "application/cloudevents-batch")
}

// FromNATS reads the one event of a NATS message, by the first of these that holds:
//
//  1. Content-Type begins with application/cloudevents: structured.
//  2. A header ce-specversion: binary. The data's content type is
//     ce-datacontenttype, else Content-Type.
//  3. A JSON object with a member specversion: structured without a header, as
//     older SDKs publish it.
//
// Header names may be in any case. The error is a *MalformedError, an
// *UnsupportedError or ErrNotCloudEvent.
func FromNATS(header map[string][]string, data []byte) (Event, error) {
	if len(header) > 0 {
		contentType := headerValue(header, "Content-Type")
		switch mode, err := modeOf(contentType); {
		case err != nil:
			return Event{}, err
		case mode == Structured:
			return FromJSON(data)
		case mode == Batched:
			return Event{}, malformed("", "a batch, where one event is expected")
		}
		if headerValue(header, "ce-specversion") != "" {
			return fromBinary(header, contentType, data, false)
		}
	}
	e, err := FromJSON(data)
	if err == nil {
		return e, nil
	}
	if claimsToBe(data) {
		return Event{}, err
	}
	if hasAttributes(header) {
		return Event{}, malformed("specversion", "is missing")
	}
	return Event{}, ErrNotCloudEvent
}

func fromBinary(header map[string][]string, contentType string, data []byte, outranks bool) (Event, error) {
	r, bad := fromHeader(header, contentType, outranks)
	if bad != nil {
		return Event{}, bad
	}
	e, bad := r.event()
	if bad != nil {
		return Event{}, bad
	}
	if len(data) > 0 {
		e.DataEncoded = data
	}
	return e, nil
}

// hasAttributes says whether a header holds one of the attributes that every
// event has.
func hasAttributes(header map[string][]string) bool {
	var buf [32]byte
	for key := range header {
		if name, ok := attributeName(key, &buf); ok {
			switch attrOf(name) {
			case attrSpecVersion, attrID, attrSource, attrType:
				return true
			}
		}
	}
	return false
}

// modeOf tells the content mode from a Content-Type. The error is an
// *UnsupportedError.
func modeOf(contentType string) (Mode, error) {
	const prefix = "application/cloudevents"
	if !hasPrefixFold(contentType, prefix) {
		return Binary, nil
	}
	// The batch's prefix also begins with the shorter one.
	mode, format := Structured, mediaType(contentType)[len(prefix):]
	if hasPrefixFold(format, "-batch") {
		mode, format = Batched, format[len("-batch"):]
	}
	if format != "" && !hasPrefixFold(format, "+json") || len(format) > len("+json") {
		return "", &UnsupportedError{"the only CloudEvents format that is read is JSON (application/cloudevents+json)"}
	}
	if !isUTF8(contentType) {
		return "", &UnsupportedError{"the only character set that is read is UTF-8"}
	}
	return mode, nil
}

// ToNATS writes an event as a NATS message.
func ToNATS(e *Event, mode Mode) (header map[string][]string, data []byte, err error) {
	switch mode {
	case Structured:
		data, err = ToJSON(e)
		return map[string][]string{"Content-Type": {ContentTypeStructured}}, data, err
	case Binary:
		return ToBinary(e)
	default:
		return nil, nil, errors.New("an event is written in structured or binary mode")
	}
}
