package sandbox

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// The proxy hands a request on to 8x8's own API, and its answer back as it is:
// errors of 8x8 are not in Membrane's envelope, and there is no run and no log.
// source: docs.getmembrane.com, connections/api-proxy.
func (s *Server) proxyRoutes(handle func(pattern, on string, serve handler)) {
	for _, word := range []string{"proxy", "api"} {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
			handle(method+" /connections/{connection}/"+word+"/{path...}", OnReads, s.proxy)
		}
	}
}

func (s *Server) proxy(w http.ResponseWriter, r *http.Request, at *world, who caller) {
	c, failed := s.findConnection(at, who, r.PathValue("connection"))
	if failed == nil && !c.healthy() {
		failed = &apiError{
			Type: "connection", Key: "connection_is_defunct", Message: "The connection must be connected again by a person",
			Data: map[string]any{"connectionId": c.ID},
		}
	}
	var body json.RawMessage
	if failed == nil {
		body, failed = readBody(w, r)
	}
	if failed != nil {
		writeError(w, failed)
		return
	}
	path := "/" + strings.TrimPrefix(r.PathValue("path"), "/")
	if full, err := url.Parse(r.PathValue("path")); err == nil && full.Host != "" {
		path = full.Path // a full address is taken as it is
	}
	s.writeExchange(w, s.request(at, r, path, body, who.tenant))
}

// writeExchange answers as 8x8 does.
func (s *Server) writeExchange(w http.ResponseWriter, x *exchange) {
	if f := x.failed; f != nil {
		if f.retryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(f.retryAfter))
		}
		writeJSON(w, f.status, map[string]any{"code": f.code, "message": f.message, "errorId": newUUID(), "timestamp": timestamp(s.opts.Now())})
		return
	}
	if x.status == http.StatusNoContent {
		w.WriteHeader(x.status)
		return
	}
	writeJSON(w, x.status, x.output)
}

// endpointOf finds the endpoint that a path is of, and what its variables are.
func endpointOf(method, path string) (key string, variables map[string]string, ok bool) {
	for _, key := range sortedEndpoints {
		if variables, ok := fit(endpoints[key].path, path); ok && endpoints[key].method == method {
			return key, variables, true
		}
	}
	return "", nil, false
}

// sortedEndpoints has those with fewer variables first: …/messages/exports is no {umid}.
var sortedEndpoints = func() []string {
	var keys []string
	for key := range endpoints {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int {
		if d := strings.Count(endpoints[a].path, "{") - strings.Count(endpoints[b].path, "{"); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return keys
}()

// request makes a request of 8x8's API, with an input in the form of the action
// that makes the same one.
func (a *account) request(method, path string, input json.RawMessage, host string) (*exchange, bool) {
	key, variables, ok := endpointOf(method, path)
	if !ok {
		if x, effect, ok := a.neighbour(method, path, input); ok {
			return x, effect
		}
		return &exchange{method: method, path: path, input: input, failed: unknownObject("Not found: " + method + " " + path)}, false
	}
	merged, failed := merge(key, variables, nil, input)
	if failed != nil {
		return &exchange{method: method, path: path, input: input, failed: failed}, false
	}
	x, effect := a.call(key, merged, host)
	x.method, x.path = method, path
	return x, effect
}

// asInput puts a request's parts together as the input of the action that makes
// the same request.
func asInput(method, path string, query url.Values, body json.RawMessage) (json.RawMessage, *vendorError) {
	key, variables, ok := endpointOf(method, path)
	if !ok {
		return body, nil // of none of the actions
	}
	return merge(key, variables, query, body)
}

func merge(key string, variables map[string]string, query url.Values, body json.RawMessage) (json.RawMessage, *vendorError) {
	input := map[string]any{}
	switch {
	case len(body) == 0:
	case key == "add-contacts-to-group" && body[0] == '[':
		input["contacts"] = body // the endpoint takes the list itself
	case json.Unmarshal(body, &input) != nil:
		return nil, refused(1000, "Invalid parameter: the body must be an object")
	}
	known, _ := catalog.Builtin().Lookup(key)
	put := func(name, text string) {
		var value any = text
		if number, err := strconv.ParseFloat(text, 64); err == nil && known != nil && known.Input != nil {
			// A path and a query hold texts only.
			if p, ok := known.Input.Property(name); ok && p.Validate(text) != nil && p.Validate(number) == nil {
				value = json.Number(text)
			}
		}
		input[name] = value
	}
	for name, values := range query {
		put(name, values[0])
	}
	for name, text := range variables {
		put(name, text)
	}
	encoded, err := json.Marshal(input)
	if err != nil {
		return nil, refused(1000, "Invalid parameter")
	}
	return encoded, nil
}
