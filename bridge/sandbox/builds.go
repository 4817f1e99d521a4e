package sandbox

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// built is what an action that was made here has and the ten have not. Copies of
// an action share it.
type built struct {
	connectionID string // empty: it is of no one connection
	sessionID    string // of the agent that builds it; empty: it was specified
	createdAt    time.Time
	done         chan struct{} // closed at the end of BUILDING

	mu     sync.Mutex
	state  string
	errors []*apiError
}

func (b *built) now() (state string, errors []*apiError) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state, b.errors
}

func (a *action) describe(e *actionElement) {
	b := a.built
	e.State, e.Errors = b.now()
	e.ConnectionID, e.Type, e.AgentSessionID = b.connectionID, "api-request-to-external-app", b.sessionID
	e.CreatedAt, e.UpdatedAt, e.ArchivedAt = timestamp(b.createdAt), timestamp(a.updatedAt), a.archivedAt
	e.Meta, e.IsReadOnly = a.meta, false
	if a.path != "" {
		e.Config = map[string]any{"request": map[string]string{"method": a.method, "path": a.path}}
	}
}

// call does what a built action asks.
func (a *action) call(of *account, input json.RawMessage, host string) (*exchange, bool) {
	if a.inline != nil {
		return a.inline.call(of, host)
	}
	if a.path != "" {
		return of.request(a.method, a.path, input, host)
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

// find finds an action by id or key. One that is archived has given up its key.
func (w *workshop) find(tenant, selector string) *action {
	for _, a := range w.of(tenant) {
		if a.id == selector || a.key == selector && a.archivedAt == "" {
			return a
		}
	}
	return nil
}

// put has an action stand in the place of the one with its id, or at the end.
func (w *workshop) put(tenant string, a *action) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.putLocked(tenant, a)
}

func (w *workshop) putLocked(tenant string, a *action) {
	if w.byTenant == nil {
		w.byTenant = map[string][]*action{}
	}
	list := slices.Clone(w.byTenant[tenant])
	if i := slices.IndexFunc(list, func(x *action) bool { return x.id == a.id }); i >= 0 {
		list[i] = a
	} else {
		list = append(list, a)
	}
	w.byTenant[tenant] = list
}

// buildRoutes are those that make and change actions, in each of the four ways to
// name one.
func (s *Server) buildRoutes(handle func(pattern, on string, serve handler)) {
	handle("POST /actions", OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		s.createAction(w, r, at, who, false)
	})
	handle("POST /integrations/{integration}/actions", OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		if failed := knownIntegration(r.PathValue("integration")); failed != nil {
			writeError(w, failed)
			return
		}
		s.createAction(w, r, at, who, true)
	})
	for _, place := range []struct {
		path     string
		selector func(*http.Request) string
	}{
		{"/actions/{action}", func(r *http.Request) string { return r.PathValue("action") }},
		{"/action", func(r *http.Request) string { return selector(r.URL.Query()) }},
		{"/connections/{connection}/actions/{action}", func(r *http.Request) string { return r.PathValue("action") }},
		{"/integrations/{integration}/actions/{action}", func(r *http.Request) string { return r.PathValue("action") }},
	} {
		one := func(method, operation string, serve func(http.ResponseWriter, *http.Request, *world, caller, *action)) {
			handle(method+" "+place.path+operation, OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
				a, failed := s.scopedAction(r, at, who, place.selector(r))
				if failed != nil {
					writeError(w, failed)
					return
				}
				serve(w, r, at, who, a)
			})
		}
		show := func(w http.ResponseWriter, r *http.Request, at *world, who caller, a *action) {
			e := s.element(a, "")
			if r.PathValue("connection") != "" {
				c, failed := s.findConnection(at, who, r.PathValue("connection"))
				if failed != nil {
					writeError(w, failed)
					return
				}
				e.ConnectionID = c.ID
			}
			writeJSON(w, http.StatusOK, e)
		}
		one("PATCH", "", s.changeAction(false, show))
		one("PUT", "", s.changeAction(true, show))
		one("DELETE", "", func(w http.ResponseWriter, _ *http.Request, at *world, who caller, a *action) {
			if failed := mayChange(who, a); failed != nil {
				writeError(w, failed)
				return
			}
			gone := *a
			gone.archivedAt = cmp.Or(a.archivedAt, timestamp(s.opts.Now()))
			at.built.put(who.tenant, &gone)
			w.WriteHeader(http.StatusOK)
		})
		one("POST", "/restore", func(w http.ResponseWriter, r *http.Request, at *world, who caller, a *action) {
			failed := mayChange(who, a)
			if failed == nil && a.archivedAt != "" && s.taken(at, who, a.key, a.id) {
				failed = keyTaken()
			}
			if failed != nil {
				writeError(w, failed)
				return
			}
			back := *a
			back.archivedAt = ""
			at.built.put(who.tenant, &back)
			show(w, r, at, who, &back)
		})
		// Nothing here is customized, or could be out of date.
		one("POST", "/reset", show)
		one("POST", "/refresh", show)
		one("POST", "/setup", show)
		one("POST", "/clone", func(w http.ResponseWriter, r *http.Request, at *world, who caller, a *action) {
			copied := *a
			copied.id, copied.archivedAt, copied.updatedAt = newID(), "", s.opts.Now()
			if copied.built == nil {
				copied.method, copied.path = endpoints[a.key].method, endpoints[a.key].path
				copied.built = &built{createdAt: s.opts.Now(), done: closed(), state: stateReady}
			}
			if copied.built.connectionID == "" && !who.admin {
				writeError(w, needsManagement())
				return
			}
			s.keep(at, who, &copied)
			show(w, r, at, who, &copied)
		})
		one("GET", "/dependencies", func(w http.ResponseWriter, _ *http.Request, _ *world, _ caller, _ *action) {
			writeJSON(w, http.StatusOK, []any{})
		})
		one("GET", "/export", func(w http.ResponseWriter, _ *http.Request, _ *world, _ caller, a *action) {
			e := s.element(a, "")
			writeJSON(w, http.StatusOK, map[string]any{
				"key": e.Key, "name": e.Name, "description": e.Description, "type": e.Type, "integrationKey": e.IntegrationKey,
				"inputSchema": e.InputSchema, "config": e.Config,
			})
		})
	}
}

func closed() chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}

// knownIntegration refuses a selector that is not the one integration's.
func knownIntegration(selector string) *apiError {
	if selector == IntegrationID {
		return nil
	}
	return leadsTo8x8("", selector, "", "")
}

// scopedAction finds the action that a request is about. A scope that it names
// must be the action's.
func (s *Server) scopedAction(r *http.Request, at *world, who caller, selector string) (*action, *apiError) {
	if integration := r.PathValue("integration"); integration != "" {
		if failed := knownIntegration(integration); failed != nil {
			return nil, failed
		}
	}
	a, failed := s.findAction(at, who, selector)
	if failed != nil {
		return nil, failed
	}
	q := r.URL.Query()
	if connection := r.PathValue("connection"); connection != "" {
		q.Set("connectionId", connection)
	}
	over, failed := s.scope(at, who, q)
	if failed == nil && a.built != nil && a.built.connectionID != "" && (q.Has("connectionId") || q.Has("connectionKey")) && over.ID != a.built.connectionID {
		failed = notFound("Action %q not found at this connection", selector)
	}
	return a, failed
}

func needsManagement() *apiError {
	return &apiError{Type: "bad_request", Key: "access_denied", Message: "an action that is not of one connection needs a management token"}
}

func keyTaken() *apiError {
	return &apiError{Type: "bad_request", Key: "already_exists", Message: "an action with this key exists"}
}

func mayChange(who caller, a *action) *apiError {
	switch {
	case a.built == nil:
		return &apiError{Type: "bad_request", Key: "access_denied", Message: "an action of the catalog cannot be changed; clone it, or make one of your own"}
	case a.built.connectionID == "" && !who.admin:
		return needsManagement()
	}
	return nil
}

// actionFields is what a body says of an action.
type actionFields struct {
	Intent, Name, Key, Description, Type        *string
	ConnectionID, IntegrationID, IntegrationKey *string
	Config                                      *struct {
		Request struct{ Method, Path string }
	}
	InputSchema json.RawMessage
	Meta        json.RawMessage
}

// changeAction merges a body into an action, or with whole puts it in the place of
// what was there. An intent has it built anew.
func (s *Server) changeAction(whole bool, show func(http.ResponseWriter, *http.Request, *world, caller, *action)) func(http.ResponseWriter, *http.Request, *world, caller, *action) {
	return func(w http.ResponseWriter, r *http.Request, at *world, who caller, a *action) {
		var body actionFields
		if r.ContentLength == 0 && whole {
			show(w, r, at, who, a) // the SDK's way to make sure that it is there
			return
		}
		failed := actionBody.read(w, r, &body)
		changed := *a
		if failed == nil {
			failed = mayChange(who, a)
		}
		if whole {
			changed.description, changed.meta = "", nil
			if body.Config == nil {
				changed.method, changed.path = "", ""
			}
		}
		if failed == nil {
			failed = s.apply(at, who, &changed, &body)
		}
		if failed != nil {
			writeError(w, failed)
			return
		}
		changed.updatedAt = s.opts.Now()
		if intent := deref(body.Intent); intent != "" {
			changed.built = s.build(at, who, changed.built.connectionID, intent, changed.id)
		}
		at.built.put(who.tenant, &changed)
		show(w, r, at, who, &changed)
	}
}

// apply writes the fields of a body into an action that nobody else has.
func (s *Server) apply(at *world, who caller, a *action, body *actionFields) *apiError {
	if failed := leadsTo8x8(deref(body.IntegrationID), deref(body.IntegrationKey), "", ""); failed != nil {
		return failed
	}
	if key := deref(body.Key); key != "" && key != a.key {
		if s.taken(at, who, key, a.id) {
			return keyTaken()
		}
		a.key = key
	}
	a.name, a.description = cmp.Or(deref(body.Name), a.name), cmp.Or(deref(body.Description), a.description)
	if body.Config != nil {
		a.method, a.path = strings.ToUpper(body.Config.Request.Method), body.Config.Request.Path
	}
	if body.Meta != nil {
		a.meta = body.Meta
	}
	if len(body.InputSchema) > 0 {
		if _, err := catalog.ParseSchema(body.InputSchema); err != nil {
			return badRequest("inputSchema: %v", err)
		}
		a.input, a.check = body.InputSchema, lenient(body.InputSchema)
	}
	return nil
}

// createAction makes an action by intent, which takes a while, or by its
// specification. source: @membranehq/sdk CreateActionRequest.
func (s *Server) createAction(w http.ResponseWriter, r *http.Request, at *world, who caller, ofIntegration bool) {
	var body actionFields
	failed := actionBody.read(w, r, &body)
	intent, connectionID := deref(body.Intent), deref(body.ConnectionID)
	if ofIntegration {
		connectionID = ""
	}
	switch {
	case failed != nil:
	case intent == "" && (deref(body.Type) == "" || deref(body.Name) == ""):
		failed = badRequest("an action needs an intent, or a name and a type")
	case intent == "" && deref(body.Type) != "api-request-to-external-app":
		failed = badRequest("the sandbox builds actions of type api-request-to-external-app, not %q", deref(body.Type))
	case intent == "" && (body.Config == nil || body.Config.Request.Method == "" || body.Config.Request.Path == ""):
		failed = badRequest("config.request needs a method and a path")
	case connectionID == "" && !who.admin:
		failed = needsManagement()
	}
	if failed == nil && connectionID != "" {
		var c *connectionElement
		if c, failed = s.findConnection(at, who, connectionID); failed == nil {
			connectionID = c.ID
		}
	}
	a := newAction(cmp.Or(deref(body.Name), intent), intent)
	if failed == nil {
		failed = s.apply(at, who, a, &body)
	}
	if failed != nil {
		writeError(w, failed)
		return
	}
	a.key = cmp.Or(deref(body.Key), slug(cmp.Or(intent, a.name)))
	a.updatedAt = s.opts.Now()
	if intent == "" {
		a.built = &built{connectionID: connectionID, createdAt: s.opts.Now(), done: closed(), state: stateReady}
	} else {
		a.built = s.build(at, who, connectionID, intent, a.id)
	}
	s.keep(at, who, a)
	writeJSON(w, http.StatusOK, s.element(a, ""))
}

func newAction(name, description string) *action {
	a := &action{id: newID(), name: name, description: description, input: json.RawMessage(`{"type":"object","properties":{}}`), output: json.RawMessage(`{}`)}
	a.check = lenient(a.input)
	return a
}

// buildByIntent makes an action of a connection for the agent.
func (s *Server) buildByIntent(at *world, who caller, connectionID, intent string) *action {
	a := newAction(intent, intent)
	a.key, a.updatedAt = slug(intent), s.opts.Now()
	a.built = s.build(at, who, connectionID, intent, a.id)
	s.keep(at, who, a)
	return a
}

// build begins to build an action, by a session of the agent.
func (s *Server) build(at *world, who caller, connectionID, intent, actionID string) *built {
	at.connections.mu.Lock()
	end, delay := at.connections.nextBuild(s)
	at.connections.mu.Unlock()
	at.agents.mu.Lock()
	session := at.agents.newSession(s, who, "action", actionID, "action-building", intent)
	session.Status, session.HasWorker = sessionRunning, true
	at.agents.mu.Unlock()
	b := &built{connectionID: connectionID, sessionID: session.ID, createdAt: s.opts.Now(), done: make(chan struct{}), state: stateBuilding}
	s.opts.AfterFunc(delay, func() {
		b.finish(end)
		at.agents.ended(s, who, session.ID, end, map[string]any{"actionId": actionID})
	})
	return b
}

// keep adds an action, under a key of its own.
func (s *Server) keep(at *world, who caller, a *action) {
	at.built.mu.Lock()
	defer at.built.mu.Unlock()
	first := a.key
	for n := 2; s.takenLocked(at, who, a.key, a.id); n++ {
		a.key = first + "-" + strconv.Itoa(n)
	}
	at.built.putLocked(who.tenant, a)
}

// taken says that a key is another action's.
func (s *Server) taken(at *world, who caller, key, id string) bool {
	at.built.mu.RLock()
	defer at.built.mu.RUnlock()
	return s.takenLocked(at, who, key, id)
}

// takenLocked is taken with the workshop's lock held.
func (s *Server) takenLocked(at *world, who caller, key, id string) bool {
	if _, ok := s.actions.byName[key]; ok {
		return true
	}
	return slices.ContainsFunc(at.built.byTenant[who.tenant], func(a *action) bool { return a.key == key && a.id != id && a.archivedAt == "" })
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
