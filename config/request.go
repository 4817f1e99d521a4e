package config

import (
	"fmt"
	"slices"
	"strings"
)

// Request is a request of 8x8's own API, which Membrane makes and signs. Texts in
// all but Method may hold ${ jq }.
type Request struct {
	Pos    Pos
	Method string // in capitals
	// Path is a text that begins with one slash; it is relative to the connection.
	Path Value
	// Query and Headers are mappings to single values; KindNone if there are none.
	Query   Value
	Headers Value
	// Body is any tree; KindNone if there is none.
	Body Value
}

// source: @membranehq/sdk 0.28.3, ActRequest
var requestMethods = []string{methodGet, "POST", "PATCH", "PUT", "DELETE"}

const methodGet = "GET"

// signed are the headers that are Membrane's to set, or that it does not pass on.
// source: docs.getmembrane.com, connections/api-proxy
var signed = []string{
	"authorization", "cookie", "host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade",
	"keep-alive", "proxy-authorization", "proxy-authenticate", "forwarded", "x-request-id", "x-real-ip", "expect",
}

// request decodes what a route does instead of running an action.
func (d *decoder) request(r *Route, route object) {
	v, _ := route.get("request")
	r.RunPos = v.Pos
	for _, other := range []string{"run", "input"} {
		if route.has(other) {
			d.fail(route.pos(other), "run-and-request", "leave out one of the two; what a request sends is its path, query, headers and body",
				"%s has both %q and \"request\"", route.called, other)
		}
	}
	o := d.object(v, "request", "method", "path", "query", "headers", "body")
	if v.Kind != KindMap {
		return
	}
	q := &Request{Pos: v.Pos}
	r.Request = q
	if _, ok := d.required(o, "method"); ok {
		if text, ok := d.text(o, "method"); ok {
			q.Method = text
			if !slices.Contains(requestMethods, text) {
				hint := "write one of " + strings.Join(requestMethods, ", ")
				if upper := strings.ToUpper(text); slices.Contains(requestMethods, upper) {
					hint = "write " + upper
				}
				d.fail(o.pos("method"), "bad-method", hint, "%q is not a method of a request", text)
			}
		}
	}
	if path, ok := d.required(o, "path"); ok {
		if text, ok := d.text(o, "path"); ok { // the rest of it is looked at with its expressions
			q.Path = path
			if !strings.HasPrefix(text, "/") || strings.HasPrefix(text, "//") {
				d.fail(path.Pos, "bad-path", "begin it with one /, such as /api/v1/…; which host it is of, the connection says", "the path %q does not begin with one /", text)
			}
		}
	}
	q.Query = d.flat(o, "query")
	q.Headers = d.flat(o, "headers")
	for _, e := range q.Headers.Map {
		name := strings.ToLower(e.Key)
		switch {
		case !isToken(name):
			d.fail(e.Pos, "bad-header", "", "%q cannot be the name of a header", e.Key)
		case slices.Contains(signed, name) || strings.HasPrefix(name, "x-forwarded-") || strings.HasPrefix(name, "cf-"):
			d.fail(e.Pos, "bad-header", "leave it out", "the header %q is Membrane's: it signs the request and sends it", e.Key)
		}
	}
	if body, ok := o.get("body"); ok {
		if q.Method == methodGet {
			d.fail(body.Pos, "bad-body", "use query:, or another method", "a GET request has no body")
		}
		q.Body = body
	}
}

// flat is a mapping from names to single values.
func (d *decoder) flat(o object, key string) Value {
	v, ok := o.get(key)
	if !ok {
		return Value{}
	}
	if v.Kind != KindMap {
		d.fail(v.Pos, "wrong-type", fmt.Sprintf("write %s: {name: value}", key), "%q must be a mapping, not %s", key, v.what())
		return Value{}
	}
	for _, e := range v.Map {
		if e.Value.Kind != KindScalar || e.Value.Scalar == nil {
			d.fail(e.Value.Pos, "wrong-type", "write a text, a number, true or false", "%s %q must be a single value, not %s", key, e.Key, e.Value.what())
		}
	}
	return v
}

// isToken says whether s can be a header's name. source: RFC 9110
func isToken(s string) bool {
	return s != "" && strings.Trim(s, "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz") == ""
}
