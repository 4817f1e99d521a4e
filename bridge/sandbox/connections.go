package sandbox

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The states of an element. source: @membranehq/sdk WorkspaceElementState.
const (
	stateBuilding       = "BUILDING"
	stateReady          = "READY"
	stateClientAction   = "CLIENT_ACTION_REQUIRED"
	stateConfiguration  = "CONFIGURATION_ERROR"
	stateSetupFailed    = "SETUP_FAILED"
	connectorKey        = "8x8"
	connectorID         = "66a08b8000000000000000d1"
	maxConnectionKey    = 100
	defaultPoll         = 30 * time.Second
	connectionScreen    = "/screens/connections"
	clientActionConnect = "connect"
)

var endStates = []string{stateReady, stateClientAction, stateConfiguration, stateSetupFailed}

// connectionElement is a connection as Membrane shows it. One that somebody
// holds never changes: a change puts another in its place. source:
// @membranehq/sdk ConnectionApiResponse.
type connectionElement struct {
	ID               string          `json:"id"`
	Key              string          `json:"key,omitempty"`
	Name             string          `json:"name"`
	UserID           string          `json:"userId"`
	TenantID         string          `json:"tenantId"`
	State            string          `json:"state"`
	Errors           []*apiError     `json:"errors,omitempty"`
	ClientAction     *clientAction   `json:"clientAction,omitempty"`
	Connected        bool            `json:"connected"`
	Disconnected     bool            `json:"disconnected"`
	IsTest           bool            `json:"isTest"`
	IntegrationID    string          `json:"integrationId"`
	ConnectorID      string          `json:"connectorId"`
	AuthOptionKey    string          `json:"authOptionKey"`
	CreatedAt        string          `json:"createdAt"`
	UpdatedAt        string          `json:"updatedAt"`
	ArchivedAt       string          `json:"archivedAt,omitempty"`
	CanTest          bool            `json:"canTest"`
	ConnectorVersion string          `json:"connectorVersion"`
	ExternalAppID    string          `json:"externalAppId"`
	CanRefresh       bool            `json:"canRefreshCredentials"`
	Meta             json.RawMessage `json:"meta,omitempty"`

	building chan struct{} // closed at the end of BUILDING; nil if it was never built
}

// clientAction says what a person has to do. source: @membranehq/sdk
// ConnectionClientAction.
type clientAction struct {
	Type        string `json:"type"`
	Description string `json:"description"`
}

func (c *connectionElement) healthy() bool {
	return c.State == stateReady && c.Connected && c.ArchivedAt == ""
}

// connections is every tenant's. Each has the sandbox's own from the start.
type connections struct {
	mu       sync.RWMutex
	byTenant map[string][]*connectionElement // in the order in which they were made
	requests map[string]*connectionRequest
	builds   []build
}

// build is how the next thing that is built ends.
type build struct {
	State   string `json:"state"`
	Message string `json:"message,omitempty"`
	DelayMs *int   `json:"delayMs,omitempty"`
}

func (s *Server) firstConnection(who caller) *connectionElement {
	created := timestamp(s.createdAt)
	return &connectionElement{
		ID: ConnectionID, Key: ConnectionKey, Name: "8x8 sandbox", UserID: who.id(), TenantID: who.id(), State: stateReady,
		Connected: true, IsTest: true, IntegrationID: IntegrationID, ConnectorID: connectorID, AuthOptionKey: "api-key",
		CreatedAt: created, UpdatedAt: created, CanTest: true, ConnectorVersion: "1.0.0",
		ExternalAppID: externalAppID, CanRefresh: true,
	}
}

// all is a tenant's connections, archived ones too; nobody may change the list.
func (s *Server) connectionsOf(at *world, who caller) []*connectionElement {
	c := &at.connections
	c.mu.RLock()
	list, ok := c.byTenant[who.tenant]
	c.mu.RUnlock()
	if ok {
		return list
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ofLocked(s, who)
}

func (c *connections) ofLocked(s *Server, who caller) []*connectionElement {
	if c.byTenant == nil {
		c.byTenant, c.requests = map[string][]*connectionElement{}, map[string]*connectionRequest{}
	}
	if c.byTenant[who.tenant] == nil {
		c.byTenant[who.tenant] = []*connectionElement{s.firstConnection(who)}
	}
	return c.byTenant[who.tenant]
}

// findConnection reads a connection selector: id, key, or the integration's key
// or id, which stands for the tenant's oldest connection.
func (s *Server) findConnection(at *world, who caller, selector string) (*connectionElement, *apiError) {
	list := s.connectionsOf(at, who)
	for _, c := range list {
		if c.ID == selector || c.Key == selector && c.Key != "" && c.ArchivedAt == "" {
			return c, nil
		}
	}
	if selector == IntegrationID || selector == IntegrationKey {
		for _, c := range list {
			if c.ArchivedAt == "" {
				return c, nil
			}
		}
	}
	return nil, notFound("Connection %q not found; the sandbox's has the key %q", selector, ConnectionKey)
}

// change puts a changed copy of a tenant's connection in its place. The lock is held.
func (c *connections) change(s *Server, who caller, id string, edit func(*connectionElement)) *connectionElement {
	list := slices.Clone(c.ofLocked(s, who))
	for i, old := range list {
		if old.ID != id {
			continue
		}
		changed := *old
		edit(&changed)
		changed.UpdatedAt = timestamp(s.opts.Now())
		list[i] = &changed
		c.byTenant[who.tenant] = list
		return &changed
	}
	return nil
}

func (c *connectionElement) settle(b build) {
	c.State, c.Errors, c.ClientAction = b.State, nil, nil
	c.Connected, c.Disconnected = b.State == stateReady, false
	switch b.State {
	case stateClientAction:
		c.Disconnected = true
		c.ClientAction = &clientAction{Type: clientActionConnect, Description: cmp.Or(b.Message, "Sign in to 8x8 again.")}
	case stateConfiguration:
		c.Errors = []*apiError{{Type: "configuration", Message: cmp.Or(b.Message, "a connector parameter is missing")}}
	case stateSetupFailed:
		c.Errors = []*apiError{{Type: "custom_code", Message: cmp.Or(b.Message, "8x8 refused the credentials")}}
	}
}

// nextBuild takes the script of the next thing to be built. The lock is held.
func (c *connections) nextBuild(s *Server) (build, time.Duration) {
	b := build{State: stateReady}
	if len(c.builds) > 0 {
		b, c.builds = c.builds[0], c.builds[1:]
	}
	delay := s.opts.BuildDelay
	if b.DelayMs != nil {
		delay = time.Duration(*b.DelayMs) * time.Millisecond
	}
	return b, delay
}

// create makes a connection, which is being built for a moment. The lock is held.
func (c *connections) create(s *Server, at *world, who caller, key, name string) *connectionElement {
	c.ofLocked(s, who)
	b, delay := c.nextBuild(s)
	made := s.firstConnection(who)
	now := timestamp(s.opts.Now())
	made.ID, made.Key, made.Name, made.CreatedAt, made.UpdatedAt = newID(), key, cmp.Or(name, "8x8"), now, now
	made.State, made.Connected, made.building = stateBuilding, false, make(chan struct{})
	c.byTenant[who.tenant] = append(slices.Clone(c.byTenant[who.tenant]), made)
	s.opts.AfterFunc(delay, func() {
		at.connections.mu.Lock()
		defer at.connections.mu.Unlock()
		at.connections.change(s, who, made.ID, func(e *connectionElement) { e.settle(b) })
		close(made.building)
	})
	return made
}

// connectionRequest asks a person to connect. source: @membranehq/sdk ConnectionRequest.
type connectionRequest struct {
	RequestID string `json:"requestId"`
	TenantID  string `json:"tenantId"`
	connectionInputs
	Status             string    `json:"status"`
	ResultConnectionID string    `json:"resultConnectionId,omitempty"`
	ResultError        *apiError `json:"resultError,omitempty"`
	CreatedAt          string    `json:"createdAt"`
	URL                string    `json:"url"`

	who caller
}

// connectionInputs. source: @membranehq/sdk CreateConnectionRequestPayload.
type connectionInputs struct {
	IntegrationID            string         `json:"integrationId,omitempty"`
	IntegrationKey           string         `json:"integrationKey,omitempty"`
	ConnectorID              string         `json:"connectorId,omitempty"`
	ConnectorKey             string         `json:"connectorKey,omitempty"`
	ConnectorVersion         string         `json:"connectorVersion,omitempty"`
	ConnectionID             string         `json:"connectionId,omitempty"`
	ConnectionKey            string         `json:"connectionKey,omitempty"`
	Name                     string         `json:"name,omitempty"`
	AllowMultipleConnections bool           `json:"allowMultipleConnections,omitempty"`
	ConnectorParameters      map[string]any `json:"connectorParameters,omitempty"`
	RedirectURI              string         `json:"redirectUri,omitempty"`
	Prompt                   string         `json:"prompt,omitempty"`
}

func (s *Server) connectionRoutes(handle func(pattern, on string, serve handler)) {
	one := func(pattern string, serve func(http.ResponseWriter, *http.Request, *world, caller, *connectionElement)) {
		handle(pattern, OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
			c, failed := s.findConnection(at, who, r.PathValue("connection"))
			if failed != nil {
				writeError(w, failed)
				return
			}
			serve(w, r, at, who, c)
		})
	}
	handle("GET /connections", OnReads, s.listConnections)
	one("GET /connections/{connection}", func(w http.ResponseWriter, r *http.Request, at *world, who caller, c *connectionElement) {
		wait, failed := readWait(r.URL.Query())
		if failed != nil {
			writeError(w, failed)
			return
		}
		if c.building != nil && wait > 0 {
			s.poll(r, at, c.building, wait)
			if c, failed = s.findConnection(at, who, c.ID); failed != nil {
				writeError(w, failed)
				return
			}
		}
		writeJSON(w, http.StatusOK, c)
	})
	handle("POST /connections", OnReads, s.createConnection)
	handle("POST /connections/ensure", OnReads, s.ensureConnection)
	one("PATCH /connections/{connection}", func(w http.ResponseWriter, r *http.Request, at *world, who caller, c *connectionElement) {
		s.changeConnection(w, r, at, who, c, false)
	})
	one("PUT /connections/{connection}", func(w http.ResponseWriter, r *http.Request, at *world, who caller, c *connectionElement) {
		s.changeConnection(w, r, at, who, c, true)
	})
	one("POST /connections/{connection}/restore", func(w http.ResponseWriter, _ *http.Request, at *world, who caller, c *connectionElement) {
		if failed := s.free(at, who, c.Key, c.ID); failed != nil {
			writeError(w, failed)
			return
		}
		writeJSON(w, http.StatusOK, s.edit(at, who, c, func(e *connectionElement) {
			if e.ArchivedAt != "" {
				e.ArchivedAt, e.Connected = "", e.State == stateReady
			}
		}))
	})
	one("POST /connections/{connection}/refresh", func(w http.ResponseWriter, _ *http.Request, _ *world, _ caller, c *connectionElement) {
		writeJSON(w, http.StatusOK, c) // nothing about it is ever out of date
	})
	one("GET /connections/{connection}/logs", func(w http.ResponseWriter, _ *http.Request, _ *world, _ caller, _ *connectionElement) {
		writeJSON(w, http.StatusOK, []any{})
	})
	// A person is needed where the connection was lost: credentials cannot be made up.
	one("POST /connections/{connection}/reconnect", func(w http.ResponseWriter, _ *http.Request, at *world, who caller, c *connectionElement) {
		writeJSON(w, http.StatusOK, s.edit(at, who, c, func(e *connectionElement) {
			if !e.healthy() {
				e.settle(build{State: stateClientAction})
			}
		}))
	})
	one("DELETE /connections/{connection}", func(w http.ResponseWriter, _ *http.Request, at *world, who caller, c *connectionElement) {
		s.edit(at, who, c, func(e *connectionElement) { e.ArchivedAt, e.Connected = timestamp(s.opts.Now()), false })
		w.WriteHeader(http.StatusOK)
	})
	one("POST /connections/{connection}/test", func(w http.ResponseWriter, _ *http.Request, _ *world, _ caller, c *connectionElement) {
		writeJSON(w, http.StatusOK, map[string]bool{"success": c.healthy()})
	})
	one("POST /connections/{connection}/refresh-credentials", func(w http.ResponseWriter, _ *http.Request, _ *world, _ caller, _ *connectionElement) {
		w.WriteHeader(http.StatusNoContent)
	})
	one("POST /connections/{connection}/disconnect", func(w http.ResponseWriter, _ *http.Request, at *world, who caller, c *connectionElement) {
		s.edit(at, who, c, func(e *connectionElement) { e.settle(build{State: stateClientAction}) })
		w.WriteHeader(http.StatusNoContent)
	})
	handle("POST /connection-requests", OnReads, s.createConnectionRequest)
	handle("GET /connection-requests/{request}", OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		at.connections.mu.RLock()
		defer at.connections.mu.RUnlock()
		request, ok := at.connections.requests[r.PathValue("request")]
		if !ok || request.who.tenant != who.tenant {
			writeError(w, notFound("Connection request %q not found", r.PathValue("request")))
			return
		}
		writeJSON(w, http.StatusOK, request)
	})
}

// poll waits for done, or as long as the caller would.
func (s *Server) poll(r *http.Request, at *world, done <-chan struct{}, wait time.Duration) {
	late := make(chan struct{})
	s.opts.AfterFunc(wait, func() { close(late) })
	select {
	case <-done:
	case <-late:
	case <-r.Context().Done():
	case <-at.ctx.Done():
	}
}

// readWait reads a long poll's query: how long to wait, 0 for not at all.
func readWait(q url.Values) (time.Duration, *apiError) {
	wait, _, failed := readBool(q, "wait")
	if failed != nil {
		return 0, failed
	}
	timeout := defaultPoll
	if text := q.Get("timeout"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 60 {
			return 0, badRequest("timeout %q: want seconds from 1 to 60", text)
		}
		timeout = time.Duration(n) * time.Second
	}
	if !wait {
		timeout = 0
	}
	return timeout, nil
}

func (s *Server) edit(at *world, who caller, c *connectionElement, change func(*connectionElement)) *connectionElement {
	at.connections.mu.Lock()
	defer at.connections.mu.Unlock()
	return at.connections.change(s, who, c.ID, change)
}

func (s *Server) listConnections(w http.ResponseWriter, r *http.Request, at *world, who caller) {
	q := r.URL.Query()
	archived, _, failed := readBool(q, "includeArchived")
	if failed != nil {
		writeError(w, failed)
		return
	}
	items := []*connectionElement{}
	for _, c := range s.connectionsOf(at, who) {
		keep := c.ArchivedAt == "" || archived
		for _, filter := range []struct {
			name string
			is   bool
		}{{"connected", c.Connected}, {"disconnected", c.Disconnected}, {"isTest", c.IsTest}} {
			value, set, failed := readBool(q, filter.name)
			if failed != nil {
				writeError(w, failed)
				return
			}
			keep = keep && (!set || value == filter.is)
		}
		for name, values := range map[string][]string{
			"integrationId": {IntegrationID}, "integrationKey": {IntegrationKey}, "tenantId": {c.TenantID, who.tenant}, "userId": {c.UserID},
			"connectorId": {connectorID}, "externalAppId": {externalAppID}, "connectorVersion": {c.ConnectorVersion},
		} {
			keep = keep && (q.Get(name) == "" || slices.Contains(values, q.Get(name)))
		}
		if keep && strings.Contains(strings.ToLower(c.Key+" "+c.Name), strings.ToLower(q.Get("search"))) {
			items = append(items, c)
		}
	}
	answerPage(w, q, items)
}

func (s *Server) createConnection(w http.ResponseWriter, r *http.Request, at *world, who caller) {
	var body struct{ Intent, Name, Key, IntegrationID, IntegrationKey, ConnectorID, ConnectorKey string }
	failed := connectionBody.read(w, r, &body)
	if failed == nil && cmp.Or(body.Intent, body.IntegrationID, body.IntegrationKey, body.ConnectorID, body.ConnectorKey) == "" {
		failed = badRequest("one of intent, integrationId, integrationKey, connectorId and connectorKey must say what to connect")
	}
	if failed == nil {
		failed = leadsTo8x8(body.IntegrationID, body.IntegrationKey, body.ConnectorID, body.ConnectorKey)
	}
	if failed == nil && body.Key != "" {
		failed = s.free(at, who, body.Key, "")
	}
	if failed != nil {
		writeError(w, failed)
		return
	}
	at.connections.mu.Lock()
	made := at.connections.create(s, at, who, body.Key, body.Name)
	at.connections.mu.Unlock()
	writeJSON(w, http.StatusOK, made)
}

// leadsTo8x8 refuses what is not the one application there is here.
func leadsTo8x8(integrationID, integrationKey, connectorIDGiven, connectorKeyGiven string) *apiError {
	for _, given := range []struct{ what, is, want string }{
		{"Integration", integrationID, IntegrationID}, {"Integration", integrationKey, IntegrationKey},
		{"Connector", connectorIDGiven, connectorID}, {"Connector", connectorKeyGiven, connectorKey},
	} {
		if given.is != "" && given.is != given.want {
			return notFound("%s %q not found; the sandbox's is %q", given.what, given.is, given.want)
		}
	}
	return nil
}

// free says that a key is not another connection's.
func (s *Server) free(at *world, who caller, key, id string) *apiError {
	for _, c := range s.connectionsOf(at, who) {
		if c.Key == key && key != "" && c.ID != id && c.ArchivedAt == "" {
			return &apiError{Type: "bad_request", Key: "already_exists", Message: "a connection with the key " + strconv.Quote(key) + " exists"}
		}
	}
	return nil
}

// ensureConnection finds or makes the connection of an address. source:
// @membranehq/sdk EnsureConnectionRequest.
func (s *Server) ensureConnection(w http.ResponseWriter, r *http.Request, at *world, who caller) {
	var body struct{ AppURL, Name string }
	if failed := ensureBody.read(w, r, &body); failed != nil {
		writeError(w, failed)
		return
	}
	if host := appHost(body.AppURL); host != "8x8.com" && !strings.HasSuffix(host, ".8x8.com") {
		writeError(w, notFound("no application is known at %q; the sandbox has 8x8's", body.AppURL))
		return
	}
	c, missing := s.findConnection(at, who, IntegrationKey)
	if missing != nil {
		at.connections.mu.Lock()
		c = at.connections.create(s, at, who, "", body.Name)
		at.connections.mu.Unlock()
	}
	writeJSON(w, http.StatusOK, c)
}

// changeConnection merges a body into a connection, or with whole puts it in the
// place of what was there. A key of null is none.
func (s *Server) changeConnection(w http.ResponseWriter, r *http.Request, at *world, who caller, c *connectionElement, whole bool) {
	var body struct {
		Name *string
		Key  json.RawMessage
		Meta json.RawMessage
	}
	failed := connectionBody.read(w, r, &body)
	var key string
	_ = json.Unmarshal(body.Key, &key) // a string or null, as checked
	if failed == nil && key != "" {
		failed = s.free(at, who, key, c.ID)
	}
	if failed != nil {
		writeError(w, failed)
		return
	}
	writeJSON(w, http.StatusOK, s.edit(at, who, c, func(e *connectionElement) {
		e.Name = cmp.Or(deref(body.Name), e.Name)
		if body.Key != nil || whole {
			e.Key = key
		}
		if body.Meta != nil || whole {
			e.Meta = body.Meta
		}
	}))
}

func (s *Server) createConnectionRequest(w http.ResponseWriter, r *http.Request, at *world, who caller) {
	var in connectionInputs
	failed := connectionRequestBody.read(w, r, &in)
	switch {
	case failed != nil:
	case cmp.Or(in.ConnectorID, in.ConnectorKey, in.IntegrationID, in.IntegrationKey, in.ConnectionID) == "":
		failed = badRequest("at least one of connectorId, connectorKey, integrationId, integrationKey and connectionId is required")
	case in.RedirectURI != "" && !isURL(in.RedirectURI):
		failed = badRequest("redirectUri %q is no address that a browser can be sent to", in.RedirectURI)
	default:
		failed = leadsTo8x8(in.IntegrationID, in.IntegrationKey, in.ConnectorID, in.ConnectorKey)
	}
	if failed == nil && in.ConnectionID != "" {
		_, failed = s.findConnection(at, who, in.ConnectionID)
	}
	if failed != nil {
		writeError(w, failed)
		return
	}
	request := &connectionRequest{
		RequestID: newID(), TenantID: who.id(), connectionInputs: in, Status: "pending", CreatedAt: timestamp(s.opts.Now()), who: who,
	}
	request.URL = baseURL(r) + connectionScreen + "?connectionRequestId=" + request.RequestID
	at.connections.mu.Lock()
	at.connections.ofLocked(s, who)
	at.connections.requests[request.RequestID] = request
	at.connections.mu.Unlock()
	writeJSON(w, http.StatusOK, request)
}

// baseURL is where the caller found us.
func baseURL(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + r.Host
}

type connectScreen struct{ Title, ID, Action string }

func connectPage(c connectScreen) form {
	p := form{tab: "Connect 8x8", title: c.Title, note: "nothing is connected to anything real", action: c.Action}
	if c.ID != "" {
		p.fields = map[string]string{"connectionRequestId": c.ID}
		p.buttons = []button{{"approve", "Connect"}, {"fail", "Let 8x8 refuse"}, {"cancel", "Cancel"}}
	}
	return p
}

// showConnect is the page on which a person connects.
func (s *Server) showConnect(w http.ResponseWriter, r *http.Request) {
	at := s.world.Load()
	id := r.URL.Query().Get("connectionRequestId")
	at.connections.mu.RLock()
	request, ok := at.connections.requests[id]
	pending := ok && request.Status == "pending"
	at.connections.mu.RUnlock()
	switch {
	case !ok:
		writePage(w, http.StatusNotFound, connectPage, connectScreen{Title: "There is no such connection request"})
	case !pending:
		writePage(w, http.StatusOK, connectPage, connectScreen{Title: "This request is done: you can close this page"})
	default:
		writePage(w, http.StatusOK, connectPage, connectScreen{Title: "Connect 8x8?", ID: id, Action: connectionScreen})
	}
}

// decideConnect is what the person pressed.
func (s *Server) decideConnect(w http.ResponseWriter, r *http.Request) {
	at := s.world.Load()
	r.Body = http.MaxBytesReader(w, r.Body, 1<<16)
	decision := r.PostFormValue("decision")
	c := &at.connections
	c.mu.Lock()
	request, ok := c.requests[r.PostFormValue("connectionRequestId")]
	title, status := "Connected: you can close this page", http.StatusOK
	switch {
	case !ok:
		title, status = "There is no such connection request", http.StatusNotFound
	case request.Status != "pending":
		title, status = "This request is done", http.StatusConflict
	case decision == "approve":
		request = s.connect(at, request)
		c.requests[request.RequestID] = request
	case decision == "cancel" || decision == "fail":
		answered := *request
		title, answered.Status = "Cancelled", "cancelled"
		if decision == "fail" {
			title, answered.Status = "8x8 refused", "error"
			answered.ResultError = &apiError{Type: "connection", Message: "8x8 refused the API key"}
		}
		request = &answered
		c.requests[request.RequestID] = request
	default:
		title, status = "decision: want approve, fail or cancel", http.StatusBadRequest
	}
	c.mu.Unlock()
	if ok && status == http.StatusOK && request.RedirectURI != "" {
		http.Redirect(w, r, request.RedirectURI, http.StatusSeeOther)
		return
	}
	writePage(w, status, connectPage, connectScreen{Title: title})
}

// connect does what a request asks for. The lock is held.
func (s *Server) connect(at *world, request *connectionRequest) *connectionRequest {
	c, done := &at.connections, *request
	done.Status = "success"
	again := request.ConnectionID
	for _, e := range c.ofLocked(s, request.who) {
		if e.ArchivedAt != "" {
			continue
		}
		taken := request.ConnectionKey != "" && e.Key == request.ConnectionKey
		if again == "" && (taken || !request.AllowMultipleConnections) {
			again = e.ID // what there is, is connected again: a second one would be a surprise
		}
	}
	if again == "" {
		done.ResultConnectionID = c.create(s, at, request.who, request.ConnectionKey, request.Name).ID
		return &done
	}
	b, _ := c.nextBuild(s)
	c.change(s, request.who, again, func(e *connectionElement) { e.settle(b) })
	done.ResultConnectionID = again
	return &done
}

// controlConnection puts a connection of a tenant into a state.
func (s *Server) controlConnection(w http.ResponseWriter, r *http.Request) {
	var body struct {
		build
		Tenant string `json:"tenant"`
	}
	if err := readControl(w, r, &body); err != nil {
		writeControl(w, http.StatusBadRequest, err.Error())
		return
	}
	if !slices.Contains(endStates, body.State) {
		writeControl(w, http.StatusBadRequest, "state: want one of "+strings.Join(endStates, ", "))
		return
	}
	at, who := s.world.Load(), caller{tenant: cmp.Or(body.Tenant, DefaultTenant)}
	c, failed := s.findConnection(at, who, r.PathValue("connection"))
	if failed != nil {
		writeControl(w, http.StatusNotFound, failed.Message)
		return
	}
	writeJSON(w, http.StatusOK, s.edit(at, who, c, func(e *connectionElement) { e.settle(body.build) }))
}

// controlBuilds says how the next things that are built will end.
func (s *Server) controlBuilds(w http.ResponseWriter, r *http.Request) {
	var b build
	err := readControl(w, r, &b)
	switch {
	case err != nil:
	case !slices.Contains(endStates, b.State):
		writeControl(w, http.StatusBadRequest, "state: want one of "+strings.Join(endStates, ", "))
		return
	case b.DelayMs != nil && *b.DelayMs < 0:
		writeControl(w, http.StatusBadRequest, "delayMs: want milliseconds, 0 or more")
		return
	}
	if err != nil {
		writeControl(w, http.StatusBadRequest, err.Error())
		return
	}
	c := &s.world.Load().connections
	c.mu.Lock()
	c.builds = append(c.builds, b)
	n := len(c.builds)
	c.mu.Unlock()
	writeJSON(w, http.StatusOK, map[string]int{"waiting": n})
}
