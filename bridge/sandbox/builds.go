package sandbox

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// built is what an action that was made here has and the ten have not.
type built struct {
	connectionID string // empty: it is of no one connection
	method, path string // of 8x8's API; empty: it does nothing but count as an effect
	createdAt    time.Time
	done         chan struct{} // closed at the end of BUILDING

	mu     sync.Mutex
	state  string
	errors []*apiError

	inline *inline // what it does, where it is no action but a request
}

func (b *built) now() (state string, errors []*apiError) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state, b.errors
}

func (b *built) describe(e *actionElement) {
	e.State, e.Errors = b.now()
	e.ConnectionID, e.Type = b.connectionID, "api-request-to-external-app"
	e.CreatedAt, e.UpdatedAt = timestamp(b.createdAt), timestamp(b.createdAt)
}

// call does what a built action asks.
func (b *built) call(a *account, input json.RawMessage, host string) (*exchange, bool) {
	if b.inline != nil {
		return b.inline.call(a, host)
	}
	if b.path != "" {
		return a.request(b.method, b.path, input, host)
	}
	return &exchange{
		method: http.MethodPost, path: "/api/v1/accounts/{accountId}", input: input, status: http.StatusOK, output: map[string]bool{"ok": true},
	}, true
}

// workshop is every action that was built, by tenant.
type workshop struct {
	mu       sync.RWMutex
	byTenant map[string][]*action
}

func (w *workshop) of(tenant string) []*action {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.byTenant[tenant]
}

func (w *workshop) find(tenant, selector string) *action {
	for _, a := range w.of(tenant) {
		if a.id == selector || a.key == selector {
			return a
		}
	}
	return nil
}

func (s *Server) buildRoutes(handle func(pattern, on string, serve handler)) {
	handle("POST /actions", OnReads, s.createAction)
	handle("DELETE /actions/{action}", OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		a, failed := s.findAction(at, who, r.PathValue("action"))
		if failed == nil && a.built == nil {
			failed = &apiError{Type: "bad_request", Key: "access_denied", Message: "an action of the catalog cannot be archived"}
		}
		if failed != nil {
			writeError(w, failed)
			return
		}
		at.built.mu.Lock()
		at.built.byTenant[who.tenant] = slices.DeleteFunc(slices.Clone(at.built.byTenant[who.tenant]), func(x *action) bool { return x == a })
		at.built.mu.Unlock()
		w.WriteHeader(http.StatusOK)
	})
}

// createAction makes an action by intent, which takes a while, or by its
// specification. source: @membranehq/sdk CreateActionRequest.
func (s *Server) createAction(w http.ResponseWriter, r *http.Request, at *world, who caller) {
	var body struct {
		Intent, Name, Key, Description, Type        string
		ConnectionID, IntegrationID, IntegrationKey string
		Config                                      struct {
			Request struct{ Method, Path string }
		}
		InputSchema json.RawMessage
	}
	a, failed := &action{id: newID()}, decode(w, r, &body)
	switch {
	case failed != nil:
	case body.Intent == "" && (body.Type == "" || body.Name == ""):
		failed = badRequest("an action needs an intent, or a name and a type")
	case body.Intent == "" && body.Type != "api-request-to-external-app":
		failed = badRequest("the sandbox builds actions of type api-request-to-external-app, not %q", body.Type)
	case body.Intent == "" && (body.Config.Request.Method == "" || body.Config.Request.Path == ""):
		failed = badRequest("config.request needs a method and a path")
	case body.ConnectionID == "" && !who.admin:
		failed = &apiError{Type: "bad_request", Key: "access_denied", Message: "an action that is not of one connection needs a management token"}
	default:
		failed = leadsTo8x8(body.IntegrationID, body.IntegrationKey, "", "")
	}
	if failed == nil && body.ConnectionID != "" {
		var c *connectionElement
		if c, failed = s.findConnection(at, who, body.ConnectionID); failed == nil {
			body.ConnectionID = c.ID
		}
	}
	a.key = cmp.Or(body.Key, slug(cmp.Or(body.Intent, body.Name)))
	if failed == nil && body.Key != "" {
		if _, missing := s.findAction(at, who, body.Key); missing == nil {
			failed = &apiError{Type: "bad_request", Key: "already_exists", Message: "an action with this key exists"}
		}
	}
	if len(body.InputSchema) == 0 {
		body.InputSchema = json.RawMessage(`{"type":"object","properties":{}}`)
	}
	if _, err := catalog.ParseSchema(body.InputSchema); failed == nil && err != nil {
		failed = badRequest("inputSchema: %v", err)
	}
	if failed != nil {
		writeError(w, failed)
		return
	}
	a.name, a.description = cmp.Or(body.Name, body.Intent), cmp.Or(body.Description, body.Intent)
	a.input, a.output, a.check = body.InputSchema, json.RawMessage(`{}`), lenient(body.InputSchema)
	a.built = &built{
		connectionID: body.ConnectionID, method: strings.ToUpper(body.Config.Request.Method), path: body.Config.Request.Path,
		createdAt: s.opts.Now(), done: make(chan struct{}), state: stateReady,
	}
	if body.Intent == "" {
		close(a.built.done)
	} else {
		a.built.state = stateBuilding
		at.connections.mu.Lock()
		end, delay := at.connections.nextBuild(s)
		at.connections.mu.Unlock()
		s.opts.AfterFunc(delay, func() { a.built.finish(end) })
	}
	at.built.mu.Lock()
	if at.built.byTenant == nil {
		at.built.byTenant = map[string][]*action{}
	}
	for n := 2; body.Key == "" && s.takenLocked(at, who, a.key); n++ {
		a.key = strings.TrimRight(a.key, "0123456789-") + "-" + string(rune('0'+min(n, 9)))
		if n > 9 {
			a.key += "-" + newID()
		}
	}
	at.built.byTenant[who.tenant] = append(slices.Clone(at.built.byTenant[who.tenant]), a)
	at.built.mu.Unlock()
	writeJSON(w, http.StatusOK, s.element(a, ""))
}

// takenLocked says that a key is an action's. The workshop's lock is held.
func (s *Server) takenLocked(at *world, who caller, key string) bool {
	if _, ok := s.actions.byName[key]; ok {
		return true
	}
	return slices.ContainsFunc(at.built.byTenant[who.tenant], func(a *action) bool { return a.key == key })
}

func (b *built) finish(end build) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state = end.State
	switch end.State {
	case stateConfiguration:
		b.errors = []*apiError{{Type: "configuration", Message: cmp.Or(end.Message, "the request has no path")}}
	case stateSetupFailed:
		b.errors = []*apiError{{Type: "custom_code", Message: cmp.Or(end.Message, "8x8's API has nothing like it")}}
	case stateClientAction:
		b.errors = []*apiError{{Type: "connection", Message: cmp.Or(end.Message, "the connection must be connected again")}}
	}
	close(b.done)
}

// slug makes a key of an intent: its words, joined by hyphens.
func slug(text string) string {
	words := strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
	words = slices.DeleteFunc(words, func(w string) bool { return w == "a" || w == "an" || w == "the" })
	return cmp.Or(strings.Join(words[:min(len(words), 6)], "-"), "action")
}
