package handlers

import (
	"encoding/json"
	"strings"
	"unicode"

	"github.com/itchyny/gojq"

	"github.com/bridge8x8/bridge8x8/config"
)

// Bounds of a shaped result.
const (
	longestAttribute = 1024
	// LargestResult is the most bytes that the data of a shaped result has as JSON.
	LargestResult = 64 << 10
)

// reservedType is what the types of the bridge's own events and of 8x8's begin with.
const reservedType = "com.8x8."

// shape makes result events look as their route says.
type shape struct {
	pos                config.Pos
	typ, subject, data *template // nil leaves that part as it is
	readsEvent         bool
}

// Shaped is what a result event gets in place of what it has; empty parts stay as
// they are.
type Shaped struct {
	Type, Subject string
	Data          json.RawMessage
}

func (c *compiler) shape(r *config.ResultShape) *shape {
	if r == nil {
		return nil
	}
	s := &shape{pos: r.Pos}
	for _, part := range []struct {
		name string
		v    config.Value
		to   **template
	}{{"type", r.Type, &s.typ}, {"subject", r.Subject, &s.subject}, {"data", r.Data, &s.data}} {
		if part.v.Kind == config.KindNone {
			continue
		}
		known := len(c.problems)
		t := c.template(part.v, "result "+part.name, "")
		*part.to, s.readsEvent = t, s.readsEvent || t.reads("event")
		if text, ok := t.value.(string); ok && part.name != "data" && !t.hasExpressions() && len(c.problems) == known {
			if problem := badAttribute(part.name, text); problem != "" {
				c.fail(part.v.Pos, "bad-value", "", "result %s: %s", part.name, problem)
			}
		}
	}
	return s
}

// reads says whether any of its expressions may look at what is called name.
func (t *template) reads(name string) bool {
	for _, p := range t.parts {
		if x := p.expr; x != nil && (x.path != nil && x.path[0] == name || x.path == nil && strings.Contains(x.text, name)) {
			return true
		}
	}
	for _, f := range t.fields {
		if f.reads(name) {
			return true
		}
	}
	for _, item := range t.items {
		if item.reads(name) {
			return true
		}
	}
	return false
}

// badAttribute says why a text cannot be a result's type or subject.
func badAttribute(name, text string) string {
	switch {
	case text == "":
		return "is empty"
	case len(text) > longestAttribute:
		return "is longer than 1024 bytes"
	case strings.ContainsFunc(text, unicode.IsControl):
		return "holds control characters"
	case name == "type" && strings.ContainsFunc(text, unicode.IsSpace):
		return "holds spaces"
	case name == "type" && strings.HasPrefix(text, reservedType):
		return "begins with " + reservedType + ", as the types of 8x8's own events and of results that are not shaped do"
	}
	return ""
}

// ShapesResult says whether the route shapes the results of its successes, or of
// its failures, and whether it needs the event for that.
func (h *Handler) ShapesResult(succeeded bool) (shapes, readsEvent bool) {
	s := h.result[at(succeeded)]
	return s != nil, s != nil && s.readsEvent
}

func at(succeeded bool) int {
	if succeeded {
		return 1
	}
	return 0
}

// ShapeResult makes what a result event gets in place of what it has. standard is
// the data that it has, and event the one that it answers; nil if that is not at
// hand. Expressions see {"event", "result", "output"} or {"event", "result",
// "error"}. The error is a *MappingError.
func (h *Handler) ShapeResult(succeeded bool, standard []byte, event *View) (Shaped, error) {
	s := h.result[at(succeeded)]
	if s == nil {
		return Shaped{}, nil
	}
	value, err := decodeJSON(standard)
	if err != nil {
		return Shaped{}, &MappingError{Pos: s.pos, Msg: "result: its data is no JSON"}
	}
	seen := map[string]any{"result": value}
	if members, ok := value.(map[string]any); ok {
		for _, name := range []string{"output", "error"} {
			if member, there := members[name]; there {
				seen[name] = member
			}
		}
	}
	switch {
	case event != nil:
		object, err := event.object()
		if err != nil {
			return Shaped{}, &MappingError{Pos: s.pos, Msg: "result: " + err.Error()}
		}
		seen["event"] = object
	case s.readsEvent:
		return Shaped{}, &MappingError{Pos: s.pos, Msg: "result: it needs the event, which is no longer at hand"}
	}
	v := &View{request: seen, isRequest: true}
	var shaped Shaped
	for _, part := range []struct {
		name string
		t    *template
		to   *string
	}{{"type", s.typ, &shaped.Type}, {"subject", s.subject, &shaped.Subject}} {
		if part.t == nil {
			continue
		}
		if err := part.t.attribute(v, part.to); err != nil {
			return Shaped{}, err
		}
		if problem := badAttribute(part.name, *part.to); problem != "" {
			return Shaped{}, part.t.fail(problem)
		}
	}
	if s.data != nil {
		value, err := s.data.evaluate(v)
		if err != nil {
			return Shaped{}, err
		}
		if shaped.Data, err = gojq.Marshal(plain(value)); err != nil {
			return Shaped{}, s.data.fail("cannot be written as JSON")
		}
		if len(shaped.Data) > LargestResult {
			return Shaped{}, s.data.fail("is larger than 65536 bytes")
		}
	}
	return shaped, nil
}

// Look is what is known of a shaped result before any outcome has come.
type Look struct {
	Type string // may end in "*"; "" is the standard one
	Data any    // JSON Schema; nil is the standard one
}

// ResultLook is how the results of the route's successes, or failures, look. ok is
// false if they have the standard form.
func (h *Handler) ResultLook(succeeded bool) (look Look, ok bool) {
	s := h.result[at(succeeded)]
	if s == nil {
		return Look{}, false
	}
	if s.typ != nil {
		look.Type = s.typ.beginning()
	}
	if s.data != nil {
		look.Data = s.data.schema()
	}
	return look, true
}

// beginning is a text as far as it is the same for all events, and "*" after it
// where more follows.
func (t *template) beginning() string {
	if !t.hasExpressions() {
		text, _ := t.value.(string)
		return text
	}
	if t.parts[0].expr == nil {
		return t.parts[0].text + "*"
	}
	return "*"
}

// schema is the JSON Schema of what a template makes.
func (t *template) schema() any {
	switch {
	case t.kind == config.KindMap:
		properties, required := map[string]any{}, []string{}
		for _, f := range t.fields {
			properties[f.name] = f.schema()
			if f.lone() == nil { // which null would leave out
				required = append(required, f.name)
			}
		}
		object := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
		if len(required) > 0 {
			object["required"] = required
		}
		return object
	case t.kind == config.KindList:
		return map[string]any{"type": "array", "minItems": len(t.items), "maxItems": len(t.items)}
	case t.lone() != nil:
		return map[string]any{}
	case t.hasExpressions():
		return map[string]any{"type": "string"}
	default:
		return map[string]any{"const": t.value}
	}
}
