package sandbox

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxBody. source: Membrane documentation, limits.
const maxBody = 10 << 20

// handler answers one endpoint for a caller who has been let in.
type handler func(w http.ResponseWriter, r *http.Request, at *world, who caller)

func (s *Server) membraneRoutes(mux *http.ServeMux) {
	handle := func(pattern, on string, serve handler) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			who, failed := s.authenticate(r)
			if failed != nil {
				writeError(w, failed)
				return
			}
			at := s.world.Load()
			if on == OnRuns { // those look at the faults once they know the action
				serve(w, r, at, who)
				return
			}
			s.spoiled(w, r, at.faults.pick(on, who.tenant, "", nil), at, func(w http.ResponseWriter) { serve(w, r, at, who) })
		})
	}

	handle("POST /act", OnRuns, s.act)
	handle("POST /actions/{action}/run", OnRuns, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		s.runWrapped(w, r, at, who, r.PathValue("action"))
	})
	handle("POST /action/run", OnRuns, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		s.runWrapped(w, r, at, who, selector(r.URL.Query()))
	})
	handle("POST /connections/{connection}/actions/{action}/run", OnRuns, s.runRaw)
	// An instance is what an action of a connection was called before; its body is raw too.
	handle("POST /action-instance/run", OnRuns, s.runRaw)

	handle("GET /actions", OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		s.listActions(w, r.URL.Query(), at, who, "")
	})
	handle("GET /actions/{action}", OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		s.getAction(w, r, at, who, r.PathValue("action"), "")
	})
	handle("GET /action", OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		s.getAction(w, r, at, who, selector(r.URL.Query()), "")
	})
	handle("GET /connections/{connection}/actions", OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		c, failed := s.findConnection(at, who, r.PathValue("connection"))
		if failed != nil {
			writeError(w, failed)
			return
		}
		s.listActions(w, r.URL.Query(), at, who, c.ID)
	})
	handle("GET /connections/{connection}/actions/{action}", OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		c, failed := s.findConnection(at, who, r.PathValue("connection"))
		if failed != nil {
			writeError(w, failed)
			return
		}
		s.getAction(w, r, at, who, r.PathValue("action"), c.ID)
	})
	s.connectionRoutes(handle)
	s.buildRoutes(handle)
	s.proxyRoutes(handle)
	s.sessionRoutes(handle)
	s.searchRoutes(handle)
	s.tenantRoutes(handle)
	s.operationRoutes(handle)
	handle("GET /self", OnReads, func(w http.ResponseWriter, _ *http.Request, at *world, who caller) {
		writeJSON(w, http.StatusOK, s.self(at, who))
	})

	handle("GET /action-run-logs", OnLogs, s.listLogs)
	handle("GET /action-run-logs/{id}", OnLogs, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		details, _, failed := readBool(r.URL.Query(), "details")
		s.getLog(w, r, at, who, details, failed)
	})
	handle("GET /action-run-logs/{id}/details", OnLogs, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		s.getLog(w, r, at, who, true, nil)
	})
}

func errorOf(errs ...*apiError) *apiError {
	for _, e := range errs {
		if e != nil {
			return e
		}
	}
	return nil
}

// selector reads the SDK's object selector, which comes as a query.
func selector(q url.Values) string {
	if id := q.Get("id"); id != "" {
		return id
	}
	return q.Get("key")
}

// spoiled answers a read, with the trouble that the faults make.
func (s *Server) spoiled(w http.ResponseWriter, r *http.Request, t trouble, at *world, serve func(http.ResponseWriter)) {
	if !t.slow.After {
		s.pause(at, t.slow.delay())
	}
	switch t.answer.Kind {
	case ErrorBefore:
		writeError(w, internalError("Something went wrong"))
		return
	case HalfBody:
		w = halfWriter{w}
	default:
		if t.answer.spoil(w, r, at) {
			return
		}
	}
	if t.slow.After {
		s.pause(at, t.slow.delay())
	}
	serve(w)
}

// actFields is what POST /act takes; all but the two are strings. source:
// @membranehq/sdk ActRequest, which is strict.
var actFields = []string{"id", "key", "api", "code", "integrationId", "integrationKey", "connectionId", "connectionKey", "input", "meta"}

func (s *Server) act(w http.ResponseWriter, r *http.Request, at *world, who caller) {
	fields, failed := readObject(w, r)
	if failed != nil {
		writeError(w, failed)
		return
	}
	text := url.Values{} // the fields that are strings, as scope wants them
	dispatch := ""
	for name, value := range fields {
		switch {
		case !slices.Contains(actFields, name):
			failed = badRequest("unknown field %q: want %s", name, strings.Join(actFields, ", "))
		case string(value) == "null":
			failed = badRequest("field %q is null; leave it out", name)
		case name == "input":
		case name == "meta" || name == "api":
			if value[0] != '{' {
				failed = badRequest("field %q must be an object", name)
			}
		default:
			var field string
			if json.Unmarshal(value, &field) != nil {
				failed = badRequest("field %q must be a string", name)
			}
			text.Set(name, field)
		}
		if failed != nil {
			writeError(w, failed)
			return
		}
		if slices.Contains(actFields[:4], name) {
			if dispatch != "" {
				writeError(w, badRequest("only one of id, key, api and code can say what to run"))
				return
			}
			dispatch = name
		}
	}
	switch dispatch {
	case "":
		writeError(w, badRequest("one of id, key, api and code must say what to run"))
		return
	case "code":
		writeError(w, badRequest("the sandbox runs actions by id or key and inline api, not inline %s", dispatch))
		return
	}
	over, failed := s.scope(at, who, text)
	if failed != nil {
		writeError(w, failed)
		return
	}
	if dispatch == "api" {
		s.actInline(w, r, at, who, over, fields["api"], fields["meta"])
		return
	}
	a, failed := s.findAction(at, who, text.Get(dispatch))
	if failed == nil && (dispatch == "id") != (a.id == text.Get(dispatch)) {
		failed = notFound("Action with the %s %q not found", dispatch, text.Get(dispatch))
	}
	if failed != nil {
		writeError(w, failed)
		return
	}
	s.run(w, r, at, who, a, over, fields["input"], fields["meta"])
}

// runWrapped takes {input, meta}; fields that it does not know are dropped.
func (s *Server) runWrapped(w http.ResponseWriter, r *http.Request, at *world, who caller, selector string) {
	fields, failed := readObject(w, r)
	a, missing := s.findAction(at, who, selector)
	over, badScope := s.scope(at, who, r.URL.Query())
	if failed == nil {
		failed = runBody.check(fields)
	}
	if failed = errorOf(failed, badScope, missing); failed != nil {
		writeError(w, failed)
		return
	}
	s.run(w, r, at, who, a, over, fields["input"], fields["meta"])
}

// runRaw takes the input itself as the body.
func (s *Server) runRaw(w http.ResponseWriter, r *http.Request, at *world, who caller) {
	body, failed := readBody(w, r)
	a, missing := s.findAction(at, who, cmp.Or(r.PathValue("action"), selector(r.URL.Query())))
	over, unknown := s.findConnection(at, who, cmp.Or(r.PathValue("connection"), r.URL.Query().Get("connectionId"), IntegrationKey))
	if failed = errorOf(failed, unknown, missing); failed != nil {
		writeError(w, failed)
		return
	}
	s.run(w, r, at, who, a, over, body, nil)
}

// readBody reads JSON, or nothing: the SDK sends a POST without a body as an
// empty form.
func readBody(w http.ResponseWriter, r *http.Request) (json.RawMessage, *apiError) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, badRequest("the request is larger than 10 MB")
	} else if err != nil {
		return nil, badRequest("the request could not be read to its end")
	}
	if body = bytes.TrimSpace(body); len(body) == 0 {
		return nil, nil
	}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/json" {
		return nil, badRequest("content type %q: want application/json", r.Header.Get("Content-Type"))
	}
	if !json.Valid(body) {
		return nil, badRequest("the body is no valid JSON")
	}
	return body, nil
}

func readObject(w http.ResponseWriter, r *http.Request) (map[string]json.RawMessage, *apiError) {
	body, failed := readBody(w, r)
	if failed != nil || body == nil {
		return nil, failed
	}
	if body[0] != '{' {
		return nil, badRequest("the body must be an object")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, badRequest("the body is no valid JSON")
	}
	return fields, nil
}

// runResponse. source: @membranehq/sdk ActionRunResponse.
type runResponse struct {
	Output      any    `json:"output"`
	ActionRunID string `json:"actionRunId"`
}

// run runs an action, with the trouble that the faults make, and answers.
func (s *Server) run(w http.ResponseWriter, r *http.Request, at *world, who caller, a *action, over *connectionElement, input, meta json.RawMessage) {
	if a.archivedAt != "" {
		writeError(w, notFound("Action %q is archived", a.key))
		return
	}
	if a.built != nil && a.built.connectionID != "" && a.built.connectionID != over.ID {
		// The action's own connection wins. source: docs.getmembrane.com, act
		own, failed := s.findConnection(at, who, a.built.connectionID)
		if failed != nil {
			writeError(w, failed)
			return
		}
		over = own
	}
	t := at.faults.pick(OnRuns, who.tenant, a.key, meta)
	if !t.slow.After {
		s.pause(at, t.slow.delay())
	}
	if !t.answer.After && t.answer.Kind != DropAfter && t.answer.spoil(w, r, at) {
		return
	}
	run := &runLog{id: newID(), action: a, connection: over, input: input, meta: meta, tenantID: who.id(), createdAt: s.opts.Now()}
	if s.opts.Latency != nil {
		s.pause(at, s.opts.Latency())
	}
	failed := s.perform(at, who, run, t.answer.Kind, r.Host)
	if failed != nil {
		failed.ActionRunID = run.id
		run.failed = failed
	}
	run.completedAt = s.opts.Now()
	kept := s.runLogs.Load().(RunLogs)
	switch {
	case t.log.Kind == HideLog, t.log.Kind == "" && kept == LogsOff:
	case t.log.Kind == DelayLog:
		run.visibleAt = run.completedAt.Add(t.log.delay())
		at.logs.add(run)
	default:
		if kept == LogsLate {
			run.visibleAt = run.completedAt.Add(s.opts.RunLogDelay)
		}
		run.unlisted = kept == LogsHidden
		run.twice = t.log.Kind == DuplicateLog
		at.logs.add(run)
	}

	if t.slow.After {
		s.pause(at, t.slow.delay())
	}
	switch {
	case t.answer.After || t.answer.Kind == DropAfter:
		t.answer.spoil(w, r, at)
		return
	case t.answer.Kind == HalfBody:
		w = halfWriter{w}
	}
	if failed != nil {
		writeError(w, failed)
		return
	}
	writeJSON(w, http.StatusOK, runResponse{run.output, run.id})
}

// perform does what the run is about.
func (s *Server) perform(at *world, who caller, run *runLog, fault Kind, host string) *apiError {
	switch fault {
	case ErrorBefore:
		return internalError("Something went wrong")
	case VendorRateLimit:
		run.exchange = &exchange{
			method: endpoints[run.action.key].method, path: endpoints[run.action.key].path, input: run.input, status: http.StatusTooManyRequests,
			failed: &vendorError{status: http.StatusTooManyRequests, code: 429, message: "Rate limit exceeded, try again in 1 second", retryAfter: 1},
		}
		return run.exchange.failure(s.opts.Now())
	case Defunct:
		return &apiError{Type: "action_run", Message: "The connection is disconnected", CausedByError: &apiError{
			Type: "connection", Key: "connection_is_defunct", Message: "The connection must be connected again by a person",
			Data: map[string]any{"connectionId": ConnectionID},
		}}
	}
	if !run.connection.healthy() {
		return &apiError{Type: "action_run", Message: "The connection cannot be used", CausedByError: &apiError{
			Type: "connection", Key: "connection_is_defunct", Message: "The connection must be connected again by a person",
			Data: map[string]any{"connectionId": run.connection.ID},
		}}
	}
	if b := run.action.built; b != nil {
		if state, _ := b.now(); state != stateReady {
			return &apiError{Type: "configuration", Message: "The action is " + state + ", not READY"}
		}
	}
	var value any = map[string]any{}
	if len(run.input) > 0 && string(run.input) != "null" {
		if err := json.Unmarshal(run.input, &value); err != nil {
			return badRequest("the input is no valid JSON")
		}
	}
	if err := run.action.check.Validate(value); err != nil {
		return badRequest("Invalid input: %v", err)
	}
	var exchange *exchange
	var effect bool
	if run.action.built == nil {
		exchange, effect = at.account.call(run.action.key, run.input, host)
	} else {
		exchange, effect = run.action.call(at.account, run.input, host)
	}
	run.exchange = exchange
	if effect {
		at.effects.add(Effect{
			Action: run.action.key, Input: run.input, Meta: run.meta, At: s.opts.Now().UTC(), Tenant: who.tenant, ActionRunID: run.id,
		})
	}
	if exchange.failed != nil {
		return exchange.failure(s.opts.Now())
	}
	if fault == ErrorAfter {
		return internalError("Something went wrong")
	}
	run.output = exchange.output
	return nil
}

// runLog is one run. It never changes once it is in the logs.
type runLog struct {
	id          string
	action      *action
	connection  *connectionElement // as it was then
	tenantID    string
	input, meta json.RawMessage
	output      any
	failed      *apiError
	exchange    *exchange
	createdAt   time.Time
	completedAt time.Time
	visibleAt   time.Time // zero: at once
	unlisted    bool      // only to be read by its id
	twice       bool      // it is listed twice
}

// logs keeps the runs of each tenant apart.
type logs struct {
	mu       sync.RWMutex
	byTenant map[string][]*runLog // by tenant id, in the order in which they ended
	byID     map[string]*runLog
}

func (l *logs) add(run *runLog) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byID == nil {
		l.byID, l.byTenant = map[string]*runLog{}, map[string][]*runLog{}
	}
	l.byID[run.id] = run
	l.byTenant[run.tenantID] = append(l.byTenant[run.tenantID], run)
}

// of is a tenant's runs; the slice only ever grows beyond what is returned.
func (l *logs) of(tenantID string) []*runLog {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.byTenant[tenantID]
}

// logRecord is a run log as Membrane shows it. source: @membranehq/sdk
// ActionRunLogRecordApiResponse. Action is the element of SDK 0.28.3 and, in
// the same object, the snapshot of the request of later versions.
type logRecord struct {
	ID                  string          `json:"id"`
	Name                string          `json:"name"`
	Status              string          `json:"status"`
	UserID              string          `json:"userId"`
	TenantID            string          `json:"tenantId"`
	IntegrationID       string          `json:"integrationId"`
	ConnectionID        string          `json:"connectionId"`
	IntegrationActionID string          `json:"integrationActionId"`
	ActionID            string          `json:"actionId"`
	Input               json.RawMessage `json:"input,omitempty"`
	Output              any             `json:"output,omitempty"`
	Error               *apiError       `json:"error,omitempty"`
	CreatedAt           string          `json:"createdAt"`
	CompletedAt         string          `json:"completedAt"`
	Duration            int64           `json:"duration"` // milliseconds
	Meta                json.RawMessage `json:"meta,omitempty"`
	Action              logAction       `json:"action"`
	// Request and Response are the exchange with 8x8, in the details only.
	Request  any `json:"request,omitempty"`
	Response any `json:"response,omitempty"`
}

type logAction struct {
	Type           string          `json:"type"`
	ID             string          `json:"id"`
	Key            string          `json:"key"`
	Name           string          `json:"name"`
	IntegrationKey string          `json:"integrationKey"`
	ConnectionID   string          `json:"connectionId"`
	Input          json.RawMessage `json:"input,omitempty"`
	Meta           json.RawMessage `json:"meta,omitempty"`
}

func (run *runLog) record(details bool) logRecord {
	a := run.action
	record := logRecord{
		ID: run.id, Name: a.name, Status: "success", UserID: run.tenantID, TenantID: run.tenantID,
		IntegrationID: IntegrationID, ConnectionID: run.connection.ID, IntegrationActionID: a.id, ActionID: a.id,
		Input: run.input, Output: run.output, CreatedAt: timestamp(run.createdAt), CompletedAt: timestamp(run.completedAt),
		Duration: run.completedAt.Sub(run.createdAt).Milliseconds(), Meta: run.meta,
		Action: logAction{
			Type: "connector-operation", ID: a.id, Key: a.key, Name: a.name, IntegrationKey: IntegrationKey, ConnectionID: run.connection.ID,
			Input: run.input, Meta: run.meta,
		},
	}
	if run.failed != nil {
		failed := *run.failed
		failed.ActionRunID = "" // the record has its own id
		record.Status, record.Error = "error", &failed
	}
	if x := run.exchange; details && x != nil {
		record.Request = map[string]any{"method": strings.ToLower(x.method), "url": x.path, "data": x.input}
		response := map[string]any{"status": x.status}
		if x.failed != nil {
			response["data"] = map[string]any{"code": x.failed.code, "message": x.failed.message}
		} else {
			response["data"] = x.output
		}
		record.Response = response
	}
	return record
}

// listLogs lists the newest first. There is no filter by meta, and filters
// that are unknown are ignored, as Membrane does.
func (s *Server) listLogs(w http.ResponseWriter, r *http.Request, at *world, who caller) {
	q := r.URL.Query()
	limit, cursor, failed := readPage(q)
	from, badFrom := readTime(q, "from")
	to, badTo := readTime(q, "to")
	failed = errorOf(failed, badFrom, badTo)
	if status := q.Get("status"); failed == nil && status != "" && status != "success" && status != "error" {
		failed = badRequest("status %q: want success or error", status)
	}
	if failed != nil {
		writeError(w, failed)
		return
	}
	now := s.opts.Now()
	runs := at.logs.of(who.id())
	if cursor == 0 || cursor > len(runs) {
		cursor = len(runs)
	}
	found := listing[logRecord]{Items: []logRecord{}}
	// A cursor is how many runs, the oldest, are still to be looked at.
	for i := cursor - 1; i >= 0; i-- {
		run := runs[i]
		if run.unlisted || run.visibleAt.After(now) || !from.IsZero() && run.createdAt.Before(from) || !to.IsZero() && run.createdAt.After(to) || !run.fits(q) {
			continue
		}
		if len(found.Items) >= limit {
			found.Cursor = strconv.Itoa(i + 1)
			break
		}
		found.Items = append(found.Items, run.record(false))
		if run.twice {
			found.Items = append(found.Items, run.record(false))
		}
	}
	writeJSON(w, http.StatusOK, found)
}

// fits compares a run with the filters of a query.
func (run *runLog) fits(q url.Values) bool {
	status := "success"
	if run.failed != nil {
		status = "error"
	}
	for _, filter := range [...]struct{ name, is string }{
		{"actionId", run.action.id}, {"integrationActionId", run.action.id}, {"universalActionId", ""}, {"connectionActionId", ""},
		{"integrationId", IntegrationID}, {"connectionId", run.connection.ID}, {"tenantId", run.tenantID}, {"userId", run.tenantID},
		{"status", status}, {"externalAppId", ""},
	} {
		if want := q.Get(filter.name); want != "" && want != filter.is {
			return false
		}
	}
	return true
}

func readTime(q url.Values, name string) (time.Time, *apiError) {
	text := q.Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, badRequest("%s %q: want an ISO 8601 time, such as 2026-01-02T03:04:05Z", name, text)
}

func (s *Server) getLog(w http.ResponseWriter, r *http.Request, at *world, who caller, details bool, failed *apiError) {
	if failed != nil {
		writeError(w, failed)
		return
	}
	id := r.PathValue("id")
	at.logs.mu.RLock()
	run, ok := at.logs.byID[id]
	at.logs.mu.RUnlock()
	if !ok || run.tenantID != who.id() || run.visibleAt.After(s.opts.Now()) {
		writeError(w, notFound("Action run log %q not found", id))
		return
	}
	writeJSON(w, http.StatusOK, run.record(details))
}
