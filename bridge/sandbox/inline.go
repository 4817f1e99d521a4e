package sandbox

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// inline is the "api" of POST /act: a request of 8x8's API without an action.
// source: @membranehq/sdk 0.28.3, ActRequest; its aliases url and data, which
// newer versions dropped, are not taken.
type inline struct {
	method, path string
	query        url.Values
	headers      http.Header
	body         json.RawMessage
}

var inlineMethods = []string{"GET", "POST", "PATCH", "PUT", "DELETE"}

// readInline is as strict as the schema, and refuses a path that is none.
func readInline(raw json.RawMessage) (*inline, *apiError) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		return nil, badRequest(`field "api" must be an object`)
	}
	in := &inline{query: url.Values{}, headers: http.Header{}}
	for name, value := range fields {
		bad := false
		switch name {
		case "method":
			bad = json.Unmarshal(value, &in.method) != nil || !slices.Contains(inlineMethods, in.method)
		case "path":
			bad = json.Unmarshal(value, &in.path) != nil
		case "body":
			in.body = value
		case "headers":
			var headers map[string]string
			bad = value[0] != '{' || json.Unmarshal(value, &headers) != nil
			for name, text := range headers {
				in.headers.Set(name, text)
			}
		case "query":
			var query map[string]any
			bad = value[0] != '{' || json.Unmarshal(value, &query) != nil
			for name, one := range query {
				switch one := one.(type) {
				case string:
					in.query.Set(name, one)
				case float64:
					in.query.Set(name, strconv.FormatFloat(one, 'f', -1, 64))
				case bool:
					in.query.Set(name, strconv.FormatBool(one))
				default:
					bad = true
				}
			}
		default:
			return nil, badRequest("unknown field %q of api: want method, path, query, headers, body", name)
		}
		if bad {
			return nil, badRequest("field %q of api has a value that it does not take", name)
		}
	}
	switch {
	case in.method == "":
		return nil, badRequest("api needs a method")
	case in.path == "" || strings.Contains(in.path, "://"):
		return nil, badRequest("api needs a path")
	}
	if !strings.HasPrefix(in.path, "/") {
		in.path = "/" + in.path
	}
	return in, nil
}

// actInline runs a request like an action that was built for it: with a run log,
// and its meta.
func (s *Server) actInline(w http.ResponseWriter, r *http.Request, at *world, who caller, over *connectionElement, raw, meta json.RawMessage) {
	in, failed := readInline(raw)
	if failed != nil {
		writeError(w, failed)
		return
	}
	done := make(chan struct{})
	close(done)
	a := &action{
		id: stableID("inline/" + in.method), key: in.effect(), name: in.method + " request", input: json.RawMessage(`{}`), output: json.RawMessage(`{}`),
		built: &built{connectionID: over.ID, createdAt: s.opts.Now(), done: done, state: stateReady}, inline: in,
	}
	s.run(w, r, at, who, a, over, raw, meta)
}

// effect is the action that makes the same request, by which effects are told apart.
func (in *inline) effect() string {
	key, _, ok := endpointOf(in.method, in.path)
	if _, isChat := in.object()["user"]; ok && !isChat {
		return key
	}
	return "request"
}

// call makes the request. Its answer is the run's output, whatever its status:
// what Membrane makes of a 4xx here is not published, and a connection's proxy
// gives answers back as they are. source: a public user script reads output.status.
func (in *inline) call(a *account, host string) (*exchange, bool) {
	x, effect := in.send(a, host)
	status, data, headers := x.status, x.output, map[string]string{"content-type": "application/json"}
	if f := x.failed; f != nil {
		status, effect = f.status, f.happened
		data = map[string]any{"code": f.code, "message": f.message, "errorId": newUUID(), "timestamp": timestamp(a.server.opts.Now())}
		if f.retryAfter > 0 {
			headers["retry-after"] = strconv.Itoa(f.retryAfter)
		}
		x.failed = nil
	}
	x.status, x.output = status, map[string]any{"status": status, "headers": headers, "data": data}
	return x, effect
}

func (in *inline) send(a *account, host string) (*exchange, bool) {
	if x, effect, ok := a.family(in); ok {
		return x, effect
	}
	key, variables, ok := endpointOf(in.method, in.path)
	if !ok {
		if x, effect, ok := a.neighbour(in.method, in.path, in.body); ok {
			return x, effect
		}
		return &exchange{method: in.method, path: in.path, failed: unknownObject("Not found")}, false
	}
	for name, text := range variables {
		decoded, err := url.PathUnescape(text)
		if err != nil {
			return &exchange{method: in.method, path: in.path, failed: refused(1000, "Invalid parameter: the path")}, false
		}
		variables[name] = decoded
	}
	input, failed := merge(key, variables, in.query, in.body)
	if failed != nil {
		return &exchange{method: in.method, path: in.path, failed: failed}, false
	}
	x, effect := a.call(key, input, host)
	x.method, x.path = in.method, in.path
	return x, effect
}
