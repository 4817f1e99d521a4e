package handlers

import (
	"encoding/base64"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
)

// View is what filters and expressions see of an event: an object with the
// event's attributes and extensions at its top, and
//
//   - .data: the decoded JSON (integers of any size stay exact), or a text if the
//     content type is not JSON and the data is UTF-8 text;
//   - .data_base64: a text in base64, if the data is neither.
//
// What the event does not have is absent, which an expression reads as null.
// .time is an RFC 3339 text with the offset that the event came with.
//
// A View is made once per event and shared by all routes. It reads the data the
// first time that somebody asks, and may be used by many goroutines. The event
// must not change meanwhile.
type View struct {
	event      *event.Event
	source, id string

	checking sync.Once
	json     jsonText // the data, where it is JSON
	isJSON   bool
	broken   error // the data is not what its content type says

	decoding sync.Once
	decoded  payload

	building sync.Once
	built    map[string]any

	isRequest bool
	request   any // instead of an event: see newRequestView, FollowUp.Ended
}

// payload is an event's data: value under ".data", or base64 under ".data_base64".
type payload struct {
	value  any
	base64 string
}

// errNotJSON is data whose content type says JSON, and which is none.
var errNotJSON = errors.New("the event's data is not the JSON that its content type promises")

// NewView is the view of an event.
func NewView(e *event.Event) *View { return NewViewRaw(e, e.Source(), e.ID()) }

// NewViewRaw is NewView with the source and id as they were received, which the
// SDK's event type may have rewritten.
func NewViewRaw(e *event.Event, rawSource, rawID string) *View {
	return &View{event: e, source: rawSource, id: rawID}
}

// check finds out, once, whether the data is what its content type says.
func (v *View) check() error {
	v.checking.Do(func() {
		if v.isJSON = v.event.DataEncoded != nil && isJSON(v.event); v.isJSON {
			v.json, v.broken = checkJSON(v.event.DataEncoded)
		}
	})
	return v.broken
}

// data is the event's data, decoded once.
func (v *View) data() (payload, error) {
	if err := v.check(); err != nil {
		return payload{}, err
	}
	v.decoding.Do(func() { v.decoded = v.decode() })
	return v.decoded, nil
}

func (v *View) decode() payload {
	data := v.event.DataEncoded
	switch {
	case data == nil:
		return payload{}
	case v.isJSON:
		return payload{value: v.json.value()}
	case !v.event.DataBase64 && utf8.Valid(data):
		return payload{value: string(data)}
	default:
		return payload{base64: base64.StdEncoding.EncodeToString(data)}
	}
}

// at is the value at a path of names. Of JSON it reads no other value. The error
// is a *noObjectError for a name in a value that has none.
func (v *View) at(path []string) (any, error) {
	if v.isRequest {
		return v.inRequest(path)
	}
	if err := v.check(); err != nil {
		return nil, err
	}
	if path[0] == "data" && v.isJSON {
		return v.json.find(path[1:])
	}
	value, err := v.field(path[0])
	switch {
	case err != nil || len(path) == 1 || value == nil:
		return value, err
	default: // all but JSON is text, numbers and truth values
		return nil, &noObjectError{value}
	}
}

// isJSON follows the CloudEvents JSON format: media types */json and *+json,
// and no media type at all unless the data came as base64.
func isJSON(e *event.Event) bool {
	t := e.DataContentType()
	if t == "" {
		return !e.DataBase64
	}
	if t == event.ApplicationJSON {
		return true
	}
	t, _, _ = strings.Cut(t, ";")
	t = strings.ToLower(strings.TrimSpace(t))
	return strings.HasSuffix(t, "/json") || strings.HasSuffix(t, "+json")
}

// object is the whole event, built once, for expressions that are more than a path.
func (v *View) object() (any, error) {
	if v.isRequest {
		return v.request, nil
	}
	data, err := v.data()
	if err != nil {
		return nil, err
	}
	v.building.Do(func() { v.built = v.build(data) })
	return v.built, nil
}

func (v *View) build(data payload) map[string]any {
	object := make(map[string]any, 12)
	if ctx, ok := v.event.Context.(*event.EventContextV1); ok {
		for name, value := range ctx.Extensions {
			object[name] = attributeValue(value)
		}
	} else {
		for name, value := range v.event.Extensions() {
			object[name] = attributeValue(value)
		}
	}
	for _, name := range attributes {
		if text := v.attribute(name); text != "" {
			object[name] = text
		}
	}
	if data.base64 != "" {
		object["data_base64"] = data.base64
	} else if v.event.DataEncoded != nil {
		object["data"] = data.value
	}
	return object
}

// field is one member of the object, without building the others; nil if absent.
func (v *View) field(name string) (any, error) {
	data, err := v.data()
	if err != nil {
		return nil, err
	}
	switch name {
	case "data":
		return data.value, nil
	case "data_base64":
		if data.base64 == "" {
			return nil, nil
		}
		return data.base64, nil
	}
	if isAttribute(name) {
		if text := v.attribute(name); text != "" {
			return text, nil
		}
		return nil, nil
	}
	value, ok := v.extension(name)
	if !ok {
		return nil, nil
	}
	return attributeValue(value), nil
}

// text is an attribute or extension as filters compare it.
func (v *View) text(name string) (text string, ok bool) {
	if isAttribute(name) {
		text = v.attribute(name)
		return text, text != ""
	}
	value, ok := v.extension(name)
	if !ok {
		return "", false
	}
	switch value := attributeValue(value).(type) {
	case string:
		return value, true
	case bool:
		return strconv.FormatBool(value), true
	case int:
		return strconv.Itoa(value), true
	default:
		return "", false
	}
}

// attributes are those that the CloudEvents specification defines.
var attributes = []string{"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"}

func isAttribute(name string) bool {
	switch name {
	case "specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema":
		return true
	}
	return false
}

// attribute is the text of a defined attribute, "" if the event does not have it.
func (v *View) attribute(name string) string {
	switch name {
	case "specversion":
		return v.event.SpecVersion()
	case "id":
		return v.id
	case "source":
		return v.source
	case "type":
		return v.event.Type()
	case "subject":
		return v.event.Subject()
	case "time":
		if t := v.event.Time(); !t.IsZero() {
			return t.Format(time.RFC3339Nano)
		}
	case "datacontenttype":
		return v.event.DataContentType()
	case "dataschema":
		return v.event.DataSchema()
	}
	return ""
}

func (v *View) extension(name string) (any, bool) {
	if ctx, ok := v.event.Context.(*event.EventContextV1); ok {
		value, ok := ctx.Extensions[name]
		return value, ok
	}
	value, ok := v.event.Extensions()[name]
	return value, ok
}

// attributeValue is an extension's value as JSON has it.
func attributeValue(value any) any {
	switch value := value.(type) {
	case string, bool, int, nil:
		return value
	case int32:
		return int(value)
	case time.Time:
		return value.Format(time.RFC3339Nano)
	case types.Timestamp:
		return value.Format(time.RFC3339Nano)
	case *types.Timestamp:
		return value.Format(time.RFC3339Nano)
	default:
		text, err := types.Format(value)
		if err != nil {
			return nil
		}
		return text
	}
}

// raw is the event with its source as it was received, for CESQL, which reads
// the SDK's type.
func (v *View) raw() event.Event {
	ctx, ok := v.event.Context.(*event.EventContextV1)
	if !ok || (ctx.ID == v.id && ctx.Source.String() == v.source) {
		return *v.event
	}
	copied := *ctx
	copied.ID = v.id
	// An opaque URL is written as it stands.
	copied.Source = types.URIRef{URL: url.URL{Opaque: v.source}}
	return event.Event{Context: &copied}
}
