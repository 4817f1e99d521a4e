package handlers

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// An inline request is mapped like an input: it is a mapping of method, path,
// query, headers and body, which is what Membrane takes as the "api" of a run.
//
// Where it goes cannot be changed by an event: the path begins with a slash that
// is written down, so that it is relative to the connection's own address; what
// an expression gives is escaped as a part of one segment; and no segment may
// lead upwards, not even for a server that decodes %2F too early.

// request makes the template of a route's inline request.
func (c *compiler) request(h *Handler, r *config.Route) {
	q := r.Request
	h.Action = catalog.Request(q.Method, callOf(q))
	if r.Connection == "" && h.place == (Place{}) {
		c.fail(q.Pos, "request-without-connection", "name one with connection:, or set MEMBRANE_CONNECTION",
			"a request needs a connection, which says whose 8x8 it is")
	}
	root := &template{pos: q.Pos, field: "request", kind: config.KindMap}
	add := func(name string, v config.Value) *template {
		if v.Kind == config.KindNone {
			return nil
		}
		t := c.template(v, "request", name)
		root.fields = append(root.fields, field{name, t})
		return t
	}
	add("method", config.Value{Pos: q.Pos, Kind: config.KindScalar, Scalar: strings.ReplaceAll(q.Method, "$", "$$")})
	if t := add("path", q.Path); t != nil {
		t.escape = segment
		c.checkPath(t)
	}
	add("query", q.Query)
	add("headers", q.Headers)
	add("body", q.Body)
	h.input, h.inline = root, true
}

// callOf tells one request from another, as long as nothing of it is changed.
func callOf(q *config.Request) string {
	text, _ := json.Marshal([]any{q.Method, q.Path.Plain(), q.Query.Plain(), q.Headers.Plain(), q.Body.Plain()})
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:6])
}

// checkPath finds what is wrong with the parts of a path that are written down.
func (c *compiler) checkPath(t *template) {
	var b strings.Builder // with a letter where an expression stands
	if text, ok := t.value.(string); ok && t.parts == nil {
		b.WriteString(text)
	}
	for _, p := range t.parts {
		if p.expr != nil {
			b.WriteByte('x')
		}
		b.WriteString(p.text)
	}
	if problem, hint := badPath(b.String()); problem != "" {
		c.fail(t.pos, "bad-path", hint, "%s: %s", t.field, problem)
	}
}

// badPath says why a path must not be asked for; "" if nothing speaks against it.
func badPath(path string) (problem, hint string) {
	switch {
	case strings.Contains(path, "?"):
		return "holds a ?", "write query: {name: value}"
	case strings.ContainsAny(path, `#\`) || strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return `holds a space, a # or a \`, "percent-encode it"
	}
	for i, part := range strings.Split(path, "/") {
		switch _, err := url.PathUnescape(part); {
		case err != nil:
			return "holds a % without two hexadecimal digits", "write %25 for a plain %"
		case leadsOut(part):
			return "leads out of itself, by . or ..", "write the path without it"
		case i > 0 && part == "" && i < strings.Count(path, "/"):
			return "has nothing between two slashes", ""
		}
	}
	return "", ""
}

// leadsOut says that a segment is . or .., or has one of them as a part for who
// decodes it before taking the path apart, once or more often.
func leadsOut(segment string) bool {
	for {
		if slices.ContainsFunc(strings.FieldsFunc(segment, func(r rune) bool { return r == '/' || r == '\\' }), func(part string) bool {
			return part == "." || part == ".."
		}) {
			return true
		}
		decoded, err := url.PathUnescape(segment)
		if err != nil || decoded == segment {
			return false
		}
		segment = decoded
	}
}

var (
	errEmptySegment = errors.New("gives an empty text, which has no place in a path; use // to give it a default")
	errLeadsOut     = errors.New("gives a text that would lead out of the path")
	errControl      = errors.New("gives a text with a line break or another control character")
)

// segment is a text as a part of one segment of a path.
func segment(text string) (string, error) {
	switch {
	case text == "":
		return "", errEmptySegment
	case hasControl(text):
		return "", errControl
	case leadsOut(text):
		return "", errLeadsOut
	}
	return url.PathEscape(text), nil
}

func hasControl(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// checkRequest checks what was made of an event, and puts it into the types that
// Membrane takes. source: @membranehq/sdk 0.28.3, ActRequest
func (h *Handler) checkRequest(request map[string]any) error {
	path, _ := request["path"].(string)
	if problem, _ := badPath(path); problem != "" {
		return &MappingError{Pos: h.input.pos, Msg: "request field path: " + problem}
	}
	query, _ := request["query"].(map[string]any)
	for name, value := range query {
		switch value.(type) {
		case nil, map[string]any, []any:
			return &MappingError{Pos: h.input.pos, Msg: "request field query." + name + ": must be a single value"}
		}
	}
	headers, _ := request["headers"].(map[string]any)
	for name, value := range headers {
		text, isText := value.(string)
		switch number := value.(type) {
		case bool, int, json.Number:
			encoded, err := json.Marshal(number)
			text, isText = string(encoded), err == nil
		}
		if !isText || hasControl(text) {
			return &MappingError{Pos: h.input.pos, Msg: "request field headers." + name + ": must be a text on one line"}
		}
		headers[name] = text
	}
	for _, name := range []string{"query", "headers"} { // all of it was left out
		if made, ok := request[name].(map[string]any); ok && len(made) == 0 {
			delete(request, name)
		}
	}
	return nil
}
