package sandbox

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// The states of a session. source: @membranehq/sdk AgentSessionStatus, AgentSessionState.
const (
	sessionQueued    = "queued"
	sessionStarting  = "starting"
	sessionRunning   = "running"
	sessionCompleted = "completed"
	sessionFailed    = "failed"
	sessionCancelled = "cancelled"
	sessionBusy      = "busy"
	sessionIdle      = "idle"
)

// sessionElement is a session of Membrane's agent. source: @membranehq/sdk AgentSession.
type sessionElement struct {
	ID                   string         `json:"id"`
	WorkspaceID          string         `json:"workspaceId"`
	WorkspaceElementType string         `json:"workspaceElementType"`
	WorkspaceElementID   string         `json:"workspaceElementId"`
	Type                 string         `json:"type"`
	Status               string         `json:"status"`
	State                string         `json:"state"`
	Prompt               string         `json:"prompt"`
	Title                string         `json:"title,omitempty"`
	Summary              string         `json:"summary,omitempty"`
	AgentName            string         `json:"agentName"`
	HasWorker            bool           `json:"hasWorker"`
	IsExternal           bool           `json:"isExternal"`
	Error                *apiError      `json:"error,omitempty"`
	Output               map[string]any `json:"output,omitempty"`
	LastActivityAt       string         `json:"lastActivityAt"`
	CreatedAt            string         `json:"createdAt"`
	UpdatedAt            string         `json:"updatedAt"`
	UserID               string         `json:"userId"`
	TenantID             string         `json:"tenantId"`

	createdAt time.Time
	turn      int           // what it was asked last; an older turn's end says nothing
	done      chan struct{} // closed once it is idle
}

// agents is every tenant's sessions. The lock covers the sessions too.
type agents struct {
	mu       sync.Mutex
	byTenant map[string][]*sessionElement
}

func (s *Server) sessionRoutes(handle func(pattern, on string, serve handler)) {
	handle("POST /agent/sessions", OnReads, s.createSession)
	handle("GET /agent/sessions", OnReads, s.listSessions)
	one := func(pattern string, serve func(http.ResponseWriter, *http.Request, *world, *sessionElement)) {
		handle(pattern, OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
			at.agents.mu.Lock()
			all := at.agents.byTenant[who.tenant]
			i := slices.IndexFunc(all, func(e *sessionElement) bool { return e.ID == r.PathValue("session") })
			at.agents.mu.Unlock()
			if i < 0 {
				writeError(w, notFound("Agent session %q not found", r.PathValue("session")))
				return
			}
			serve(w, r, at, all[i])
		})
	}
	one("GET /agent/sessions/{session}", func(w http.ResponseWriter, r *http.Request, at *world, e *sessionElement) {
		wait, failed := readWait(r.URL.Query())
		if failed != nil {
			writeError(w, failed)
			return
		}
		if wait > 0 {
			at.agents.mu.Lock()
			done := e.done
			at.agents.mu.Unlock()
			s.poll(r, at, done, wait)
		}
		at.agents.show(w, e)
	})
	one("POST /agent/sessions/{session}/message", func(w http.ResponseWriter, r *http.Request, at *world, e *sessionElement) {
		var body struct{ Input string }
		failed := sessionMessage.read(w, r, &body)
		if failed == nil {
			at.agents.mu.Lock()
			if e.Status == sessionCancelled || e.Status == sessionFailed {
				failed = badRequest("the session is %s: begin another", e.Status)
			} else {
				s.turn(at, e, body.Input)
			}
			at.agents.mu.Unlock()
		}
		if failed != nil {
			writeError(w, failed)
			return
		}
		at.agents.show(w, e)
	})
	one("POST /agent/sessions/{session}/interrupt", func(w http.ResponseWriter, _ *http.Request, at *world, e *sessionElement) {
		at.agents.mu.Lock()
		busy := e.State == sessionBusy
		if busy {
			e.rest(s, sessionRunning) // it waits for what it is told next
		}
		at.agents.mu.Unlock()
		writeJSON(w, http.StatusOK, map[string]bool{"interrupted": busy})
	})
	one("PATCH /agent/sessions/{session}/stop", func(w http.ResponseWriter, _ *http.Request, at *world, e *sessionElement) {
		at.agents.mu.Lock()
		if !e.over() {
			e.rest(s, sessionCancelled)
		}
		at.agents.mu.Unlock()
		at.agents.show(w, e)
	})
	one("PATCH /agent/sessions/{session}", func(w http.ResponseWriter, r *http.Request, at *world, e *sessionElement) {
		var body struct {
			State, Status, Title, Summary *string
			Error                         *apiError
			Output                        map[string]any
		}
		if failed := sessionPatch.read(w, r, &body); failed != nil {
			writeError(w, failed)
			return
		}
		at.agents.mu.Lock()
		e.Title, e.Summary = cmp.Or(deref(body.Title), e.Title), cmp.Or(deref(body.Summary), e.Summary)
		if body.Error != nil {
			e.Error = body.Error
		}
		if body.Output != nil {
			e.Output = body.Output
		}
		status := cmp.Or(deref(body.Status), e.Status)
		switch {
		case deref(body.State) == sessionIdle || slices.Contains([]string{sessionCompleted, sessionFailed, sessionCancelled}, status):
			e.rest(s, status)
		case deref(body.State) == sessionBusy && e.State == sessionIdle:
			e.State, e.done = sessionBusy, make(chan struct{})
		}
		e.Status, e.UpdatedAt = status, timestamp(s.opts.Now())
		at.agents.mu.Unlock()
		at.agents.show(w, e)
	})
}

func (a *agents) show(w http.ResponseWriter, e *sessionElement) {
	a.mu.Lock()
	shown := *e
	a.mu.Unlock()
	writeJSON(w, http.StatusOK, shown)
}

func (e *sessionElement) over() bool {
	return slices.Contains([]string{sessionCompleted, sessionFailed, sessionCancelled}, e.Status)
}

// rest ends what a session is doing. The lock is held.
func (e *sessionElement) rest(s *Server, status string) {
	e.turn++
	e.Status = status
	e.HasWorker = status == sessionRunning
	e.UpdatedAt = timestamp(s.opts.Now())
	e.LastActivityAt = e.UpdatedAt
	if e.State == sessionBusy {
		e.State = sessionIdle
		close(e.done)
	}
}

// newSession adds a session, which is queued. The lock is held.
func (a *agents) newSession(s *Server, who caller, elementType, elementID, agent, prompt string) *sessionElement {
	now := s.opts.Now()
	e := &sessionElement{
		ID: newID(), WorkspaceID: stableID("workspace"), WorkspaceElementType: elementType, WorkspaceElementID: elementID, Type: "agent",
		Status: sessionQueued, State: sessionBusy, Prompt: prompt, AgentName: agent, createdAt: now, done: make(chan struct{}),
		LastActivityAt: timestamp(now), CreatedAt: timestamp(now), UpdatedAt: timestamp(now), UserID: who.id(), TenantID: who.id(),
	}
	if a.byTenant == nil {
		a.byTenant = map[string][]*sessionElement{}
	}
	a.byTenant[who.tenant] = append(slices.Clone(a.byTenant[who.tenant]), e)
	return e
}

// createSession starts a session. One that is about a connection, by its element
// or because its prompt holds the connection's id or key, builds an action of it.
func (s *Server) createSession(w http.ResponseWriter, r *http.Request, at *world, who caller) {
	var body struct {
		WorkspaceElementType, WorkspaceElementID, Prompt, AgentName string
		IsExternal                                                  bool
	}
	failed := sessionBody.read(w, r, &body)
	var of *connectionElement
	if failed == nil && body.WorkspaceElementType == "connection" && body.WorkspaceElementID != "" {
		of, failed = s.findConnection(at, who, body.WorkspaceElementID)
	}
	if failed != nil {
		writeError(w, failed)
		return
	}
	for _, c := range s.connectionsOf(at, who) {
		if of == nil && c.ArchivedAt == "" && (strings.Contains(body.Prompt, c.ID) || c.Key != "" && strings.Contains(body.Prompt, c.Key)) {
			of = c
		}
	}
	if of != nil && body.AgentName != "connection-building" {
		made := s.buildByIntent(at, who, of.ID, body.Prompt)
		at.agents.mu.Lock()
		i := slices.IndexFunc(at.agents.byTenant[who.tenant], func(e *sessionElement) bool { return e.ID == made.built.sessionID })
		e := at.agents.byTenant[who.tenant][i]
		e.IsExternal, e.AgentName = body.IsExternal, cmp.Or(body.AgentName, e.AgentName)
		at.agents.mu.Unlock()
		at.agents.show(w, e)
		return
	}
	at.agents.mu.Lock()
	e := at.agents.newSession(s, who, cmp.Or(body.WorkspaceElementType, "customer"), cmp.Or(body.WorkspaceElementID, who.id()),
		cmp.Or(body.AgentName, "membrane"), body.Prompt)
	e.IsExternal = body.IsExternal
	s.turn(at, e, body.Prompt)
	e.Status = sessionQueued // its worker comes in a moment
	at.agents.mu.Unlock()
	at.agents.show(w, e)
}

// turn has a session work on something, which takes as long as a build, and ends
// as the next build's script says. The lock is held.
func (s *Server) turn(at *world, e *sessionElement, input string) {
	e.turn++
	e.Status, e.HasWorker = sessionRunning, true
	e.UpdatedAt = timestamp(s.opts.Now())
	e.LastActivityAt = e.UpdatedAt
	if e.State == sessionIdle {
		e.State, e.done = sessionBusy, make(chan struct{})
	}
	at.connections.mu.Lock()
	end, delay := at.connections.nextBuild(s)
	at.connections.mu.Unlock()
	turn := e.turn
	s.opts.AfterFunc(delay, func() {
		at.agents.mu.Lock()
		defer at.agents.mu.Unlock()
		if e.turn == turn {
			e.finish(s, end, map[string]any{"text": "The sandbox has no agent: nothing was done about " + input})
		}
	})
}

// finish ends a session as a build ended. The lock is held.
func (e *sessionElement) finish(s *Server, end build, output map[string]any) {
	if end.State != stateReady {
		e.Error = &apiError{Type: "internal", Message: cmp.Or(end.Message, "the session ended in "+end.State)}
		e.rest(s, sessionFailed)
		return
	}
	e.Output = output
	e.rest(s, sessionCompleted)
}

// ended tells the session that built an action how that ended.
func (a *agents) ended(s *Server, who caller, id string, end build, output map[string]any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.byTenant[who.tenant] {
		if e.ID == id && !e.over() {
			e.finish(s, end, output)
		}
	}
}

func (s *Server) listSessions(w http.ResponseWriter, r *http.Request, at *world, who caller) {
	q := r.URL.Query()
	from, badFrom := readTime(q, "startDatetime")
	to, badTo := readTime(q, "endDatetime")
	external, externalSet, badExternal := readBool(q, "isExternal")
	if failed := errorOf(queryOneOf(q, "status", sessionStatuses...), queryOneOf(q, "workspaceElementType", elementTypes...),
		badFrom, badTo, badExternal); failed != nil {
		writeError(w, failed)
		return
	}
	items := []sessionElement{}
	at.agents.mu.Lock()
	for _, e := range slices.Backward(at.agents.byTenant[who.tenant]) { // the newest first
		fits := (!externalSet || e.IsExternal == external) && (from.IsZero() || !e.createdAt.Before(from)) && (to.IsZero() || !e.createdAt.After(to))
		for name, is := range map[string]string{
			"status": e.Status, "workspaceElementType": e.WorkspaceElementType, "workspaceElementId": e.WorkspaceElementID,
		} {
			fits = fits && (q.Get(name) == "" || q.Get(name) == is)
		}
		if fits {
			items = append(items, *e)
		}
	}
	at.agents.mu.Unlock()
	answerPage(w, q, items)
}
