package handlers

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"mime"
	"strings"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/itchyny/gojq"

	"github.com/bridge8x8/bridge8x8/config"
)

// wrap makes CloudEvents of a webhook's bodies.
type wrap struct {
	pos                      config.Pos
	path                     string
	typ, source, id, subject *template // nil if not set
}

// webhooks compiles what the file says of webhooks beyond who may post to them.
func (c *compiler) webhooks(t *Table) {
	t.answers, t.wraps = map[string]*template{}, map[string]*wrap{}
	for i := range c.file.Webhooks {
		w := &c.file.Webhooks[i]
		for _, a := range w.Answers {
			t.answers[a.Type] = c.template(a.Body, fmt.Sprintf("webhook %q: answer to %s", w.Name, a.Type), "")
		}
		if w.Event == nil {
			continue
		}
		attribute := func(name string, v config.Value) *template {
			if v.Kind == config.KindNone {
				return nil
			}
			return c.template(v, fmt.Sprintf("webhook %q: %s", w.Name, name), "")
		}
		t.wraps[w.Name] = &wrap{
			pos: w.Pos, path: "/webhooks/" + w.Name,
			typ: attribute("type", w.Event.Type), source: attribute("source", w.Event.Source),
			id: attribute("id", w.Event.ID), subject: attribute("subject", w.Event.Subject),
		}
	}
}

// Answer makes the JSON that one of 8x8's questions is answered with. ok is false
// if the configuration has none for events of this type. The error is a
// *MappingError.
func (t *Table) Answer(e *event.Event) (body []byte, ok bool, err error) {
	answer := t.answers[e.Type()]
	if answer == nil {
		return nil, false, nil
	}
	value, err := answer.evaluate(NewView(e))
	if err != nil {
		return nil, true, err
	}
	body, err = gojq.Marshal(plain(value))
	if err != nil {
		return nil, true, answer.fail("cannot be written as JSON")
	}
	return body, true, nil
}

// plain is a value as gojq writes it.
func plain(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for name, item := range value {
			value[name] = plain(item)
		}
	case []any:
		for i, item := range value {
			value[i] = plain(item)
		}
	case int64:
		return int(value)
	case uint64:
		return json.Number(fmt.Sprint(value))
	}
	return value
}

// Wraps says whether bodies that are no CloudEvents are taken at a webhook.
func (t *Table) Wraps(webhook string) bool { return t.wraps[webhook] != nil }

// Wrap makes a CloudEvent of what was posted to a webhook, whose data is the body
// as it came. header is as net/http has it. The same body with the same headers gives the same source and id:
// where the configuration names no id, it is made of the body. The error is a
// *MappingError.
func (t *Table) Wrap(webhook string, header map[string][]string, body []byte) (event.Event, error) {
	w := t.wraps[webhook]
	if w == nil {
		return event.Event{}, &MappingError{Msg: "the webhook takes CloudEvents only"}
	}
	v := newRequestView(header, body)
	sum := sha256.Sum256(body)
	typ, source, id, subject := "", w.path, hex.EncodeToString(sum[:16]), ""
	for _, a := range []struct {
		from *template
		to   *string
	}{{w.typ, &typ}, {w.source, &source}, {w.id, &id}, {w.subject, &subject}} {
		if err := a.from.attribute(v, a.to); err != nil {
			return event.Event{}, err
		}
	}
	e := event.New()
	e.SetType(typ)
	e.SetSource(source)
	e.SetID(id)
	if subject != "" {
		e.SetSubject(subject)
	}
	if len(body) > 0 {
		e.SetDataContentType(mediaType(header, body))
		e.DataEncoded = body
	}
	if typ == "" || strings.ContainsFunc(typ, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return event.Event{}, &MappingError{Pos: w.pos, Msg: "the webhook's type is empty, or holds spaces"}
	}
	if e.Validate() != nil { // its text would quote the value
		return event.Event{}, &MappingError{Pos: w.pos, Msg: "the webhook's type, source, id and subject do not make a CloudEvent"}
	}
	return e, nil
}

// attribute puts the text that a template makes into to. Without a template, and
// where it gives null, to stays what it is.
func (t *template) attribute(v *View, to *string) error {
	if t == nil {
		return nil
	}
	value, err := t.evaluate(v)
	if err != nil || value == nil {
		return err
	}
	x := t.lone()
	if x == nil {
		*to, _ = value.(string)
		return nil
	}
	var b strings.Builder
	if err := x.appendTo(&b, value); err != nil {
		return err
	}
	if b.Len() > 1024 {
		return t.fail("is longer than 1024 bytes")
	}
	*to = b.String()
	return nil
}

func mediaType(header map[string][]string, body []byte) string {
	media, _, err := mime.ParseMediaType(strings.Join(header["Content-Type"], ","))
	isJSON := strings.HasSuffix(media, "/json") || strings.HasSuffix(media, "+json")
	switch {
	case err != nil && json.Valid(body):
		return event.ApplicationJSON
	case err != nil || isJSON && !json.Valid(body):
		return "application/octet-stream"
	default:
		return media
	}
}

// newRequestView is the view of a request that is no event: "headers", their names
// in small letters and without those that prove who sends, and "body", which is
// JSON, or else a text.
func newRequestView(header map[string][]string, body []byte) *View {
	headers := make(map[string]any, len(header))
	for name, values := range header {
		switch name = strings.ToLower(name); name {
		case "authorization", "cookie", "proxy-authorization":
		default:
			headers[name] = strings.Join(values, ", ")
		}
	}
	request := map[string]any{"headers": headers}
	if text, err := checkJSON(body); err == nil {
		request["body"] = text.value()
	} else if utf8.Valid(body) {
		request["body"] = string(body)
	}
	return &View{request: request, isRequest: true}
}

// inRequest is at, for a request.
func (v *View) inRequest(path []string) (any, error) {
	value := v.request
	for _, name := range path {
		switch members := value.(type) {
		case nil:
			return nil, nil
		case map[string]any:
			value = members[name]
		default:
			return nil, &noObjectError{value}
		}
	}
	return value, nil
}
