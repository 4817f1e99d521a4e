package sandbox

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// APIKey is what 8x8's own API takes at /8x8/; through Membrane nobody needs it.
const APIKey = "8x8-sandbox-key" //nolint:gosec // G101: it is nobody's

// neighbours are the endpoints of 8x8 beside those of the ten actions: what a
// request through the proxy, or an action that was made, may want. source:
// sms_api.json, contacts_api.json.
var neighbours = []struct {
	method, path string
	call         func(a *account, v map[string]string, body json.RawMessage) (status int, output any, effect bool, failed *vendorError)
}{
	{"DELETE", "/api/v1/subaccounts/{subAccountId}/messages/{umid}", (*account).cancelMessage},
	{"DELETE", "/api/v1/subaccounts/{subAccountId}/messages/batch/{batchId}", (*account).cancelMessage},
	{"DELETE", "/api/v1/subaccounts/{subAccountId}/messages/exports/{jobId}", (*account).cancelExport},
	{"POST", "/api/v1/accounts/{accountId}/groups", (*account).createGroup},
	{"POST", "/api/v1/accounts/{accountId}/contacts/blacklist/{msisdn}", (*account).blacklist},
	{"GET", "/api/v1/accounts/{accountId}/webhooks", (*account).listWebhooks},
	{"POST", "/api/v1/accounts/{accountId}/webhooks", (*account).setWebhooks},
	{"DELETE", "/api/v1/accounts/{accountId}/webhooks", (*account).dropWebhooks},
}

// neighbour makes a request of one of them; false if there is none such.
func (a *account) neighbour(method, path string, body json.RawMessage) (x *exchange, effect, ok bool) {
	for _, n := range neighbours {
		v, fits := fit(n.path, path)
		if n.method != method || !fits {
			continue
		}
		x = &exchange{method: method, path: path, input: body}
		if sub, named := v["subAccountId"]; named {
			x.failed = settle(&sub)
		}
		if x.failed == nil {
			x.status, x.output, effect, x.failed = n.call(a, v, body)
		}
		if x.failed != nil {
			x.status = x.failed.status
		}
		return x, effect, true
	}
	return nil, false, false
}

// fit compares a path with a pattern, whose variables it gives.
func fit(pattern, path string) (variables map[string]string, ok bool) {
	want, have := strings.Split(pattern, "/"), strings.Split(path, "/")
	if len(want) != len(have) {
		return nil, false
	}
	variables = map[string]string{}
	for i := range want {
		switch name, isVariable := strings.CutPrefix(want[i], "{"); {
		case isVariable && have[i] != "":
			variables[strings.TrimSuffix(name, "}")] = have[i]
		case want[i] != have[i]:
			return nil, false
		}
	}
	return variables, true
}

// foreign is how the sub-accounts of somebody else's account begin here.
const foreign = "foreign_"

// settle checks a sub-account; an empty one is the first.
func settle(subAccount *string) *vendorError {
	if *subAccount == "" {
		*subAccount = SubAccountID
	}
	if !subAccountPattern.MatchString(*subAccount) || strings.HasPrefix(*subAccount, foreign) {
		return refused(1001, "Illegal sub-account")
	}
	return nil
}

// direct is 8x8's own API, for who has its key.
func (s *Server) direct(w http.ResponseWriter, r *http.Request) {
	at := s.world.Load()
	body, failed := readBody(w, r)
	x := &exchange{}
	path := "/" + r.PathValue("path")
	switch {
	case r.Header.Get("Authorization") != "Bearer "+APIKey:
		x.failed = &vendorError{status: http.StatusUnauthorized, code: 1200, message: "Unauthorized"}
	case failed != nil:
		x.failed = refused(1000, "Invalid parameter: "+failed.Message)
	default:
		x = s.request(at, r, path, body, "")
	}
	s.writeExchange(w, x)
}

// request makes a request of 8x8's API, and counts its effect.
func (s *Server) request(at *world, r *http.Request, path string, body json.RawMessage, tenant string) *exchange {
	input, unread := asInput(r.Method, path, r.URL.Query(), body)
	if unread != nil {
		return &exchange{method: r.Method, path: path, failed: unread}
	}
	x, effect := at.account.request(r.Method, path, input, r.Host)
	if effect {
		key, _, ok := endpointOf(r.Method, path)
		if !ok {
			key = r.Method + " " + path
		}
		at.effects.add(Effect{Action: key, Input: input, At: s.opts.Now().UTC(), Tenant: tenant})
	}
	return x
}

// cancelMessage takes back what is scheduled. What has been sent stays.
func (a *account) cancelMessage(v map[string]string, _ json.RawMessage) (int, any, bool, *vendorError) {
	umid, batch := strings.ToLower(v["umid"]), strings.ToLower(v["batchId"])
	if !uuidPattern.MatchString(umid + batch) {
		return 0, nil, false, refused(1000, "Invalid parameter: that is no UUID")
	}
	now := a.server.opts.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	known, count := false, 0
	a.order = slices.Clone(a.order) // somebody may be reading it
	for i, m := range a.order {
		if m.subAccountID != v["subAccountId"] || m.inbound || m.umid != umid && (batch == "" || m.batchID != batch) {
			continue
		}
		known = true
		if !m.startAt.After(now) || len(m.timeline) < 2 || m.cancelled {
			continue
		}
		count++
		gone := *m
		gone.cancelled = true
		gone.timeline = []moment{m.timeline[0], {at: now, state: "undelivered", detail: "undelivered_to_recipient", errorCode: 20, errorMessage: "Local cancel"}}
		for _, n := range m.receipts {
			n.cancel()
		}
		if !m.free {
			a.spent -= centsPerSMS * m.smsCount
		}
		a.order[i], a.messages[m.umid] = &gone, &gone
	}
	if !known {
		return 0, nil, false, unknownObject("Message not found")
	}
	return http.StatusOK, map[string]int{"cancelledCount": count}, count > 0, nil
}

func (a *account) cancelExport(v map[string]string, _ json.RawMessage) (int, any, bool, *vendorError) {
	a.mu.Lock()
	defer a.mu.Unlock()
	job, ok := a.exports[v["jobId"]]
	if !ok || job.subAccountID != v["subAccountId"] {
		return 0, nil, false, &vendorError{status: http.StatusNotFound, code: 4018, message: "Export job not found"}
	}
	job.cancelled = true
	return http.StatusNoContent, nil, true, nil
}

func (a *account) createGroup(_ map[string]string, body json.RawMessage) (int, any, bool, *vendorError) {
	var r struct {
		Name        string
		Description string
		IsBlacklist bool
	}
	if failed := read(body, &r, nil); failed != nil {
		return 0, nil, false, failed
	}
	if n := utf8.RuneCountInString(r.Name); n < 1 || n > 100 || utf8.RuneCountInString(r.Description) > 100 {
		return 0, nil, false, refused(1010, "name or description is out of range: at most 100 characters")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, g := range a.groups {
		if strings.EqualFold(g.Name, r.Name) {
			return 0, nil, false, &vendorError{status: http.StatusConflict, code: 5003, message: "A group with this name exists"}
		}
	}
	made := &group{
		ID: int64(len(a.groups) + 1), CreatedAt: timestamp(a.server.opts.Now()), Name: r.Name, Description: r.Description,
		IsBlacklist: r.IsBlacklist, members: map[int64]bool{},
	}
	a.groups = append(a.groups, made)
	return http.StatusCreated, made.view(), true, nil
}

func (a *account) blacklist(v map[string]string, _ json.RawMessage) (int, any, bool, *vendorError) {
	if !msisdnPattern.MatchString(v["msisdn"]) {
		return 0, nil, false, refused(1002, "Invalid MSISDN format: not an E.164 international number")
	}
	return http.StatusOK, map[string]any{}, true, nil // who is on it is looked at hourly: no send here lives so long
}

// hooks are the webhooks of sub-accounts, which come before the account's own.
type hooks struct {
	mu    sync.RWMutex
	bySub map[string]webhook
}

// webhookOf is where what is about a sub-account is posted.
func (s *Server) webhookOf(subAccount string) webhook {
	s.hooks.mu.RLock()
	defer s.hooks.mu.RUnlock()
	if own, ok := s.hooks.bySub[subAccount]; ok {
		return own
	}
	return *s.webhook.Load()
}

// webhookEntry is one as 8x8 shows it, and takes it. source: sms_api.json,
// Webhook Configuration API.
type webhookEntry struct {
	SubAccountID      string `json:"subAccountId"`
	URL               string `json:"url,omitempty"`
	Enabled           *bool  `json:"enabled,omitempty"`
	HTTPAuthorization string `json:"httpAuthorization,omitempty"`
}

const everySubAccount = "*"

func (a *account) listWebhooks(map[string]string, json.RawMessage) (int, any, bool, *vendorError) {
	s, on := a.server, true
	entries := []webhookEntry{}
	add := func(sub string, w webhook) {
		e := webhookEntry{SubAccountID: sub, URL: w.url, Enabled: &on}
		if w.authorization != "" {
			e.HTTPAuthorization = "***"
		}
		entries = append(entries, e)
	}
	if w := *s.webhook.Load(); w.url != "" {
		add(everySubAccount, w)
	}
	s.hooks.mu.RLock()
	defer s.hooks.mu.RUnlock()
	for _, sub := range slices.Sorted(maps.Keys(s.hooks.bySub)) {
		add(sub, s.hooks.bySub[sub])
	}
	return http.StatusOK, entries, false, nil
}

func (a *account) setWebhooks(_ map[string]string, body json.RawMessage) (int, any, bool, *vendorError) {
	var entries []webhookEntry
	if failed := read(body, &entries, nil); failed != nil {
		return 0, nil, false, failed
	}
	for i, e := range entries {
		if e.SubAccountID != everySubAccount {
			if failed := settle(&entries[i].SubAccountID); failed != nil {
				return 0, nil, false, failed
			}
		}
		if !isURL(e.URL) {
			return 0, nil, false, refused(1000, "Invalid parameter: url")
		}
	}
	for _, e := range entries {
		w := webhook{e.URL, e.HTTPAuthorization}
		if e.Enabled != nil && !*e.Enabled {
			w = webhook{}
		}
		a.server.setWebhook(e.SubAccountID, w)
	}
	status, list, _, failed := a.listWebhooks(nil, nil)
	return status, list, true, failed
}

func (a *account) dropWebhooks(_ map[string]string, body json.RawMessage) (int, any, bool, *vendorError) {
	var entries []webhookEntry
	if failed := read(body, &entries, nil); failed != nil {
		return 0, nil, false, failed
	}
	for _, e := range entries {
		if e.SubAccountID == everySubAccount {
			a.server.SetWebhook("", "")
			continue
		}
		a.server.hooks.mu.Lock()
		delete(a.server.hooks.bySub, e.SubAccountID)
		a.server.hooks.mu.Unlock()
	}
	return a.listWebhooks(nil, nil)
}

func (s *Server) setWebhook(subAccount string, w webhook) {
	if subAccount == everySubAccount || subAccount == "" {
		s.SetWebhook(w.url, w.authorization)
		return
	}
	s.hooks.mu.Lock()
	defer s.hooks.mu.Unlock()
	if s.hooks.bySub == nil {
		s.hooks.bySub = map[string]webhook{}
	}
	s.hooks.bySub[subAccount] = w
}

// limiter takes so many requests a second of each name.
type limiter struct {
	second int64
	taken  map[string]int
}

// takes says that one more of a name fits into this second. The account's lock is held.
func (l *limiter) takes(name string, most int, now time.Time) bool {
	if most <= 0 {
		return true
	}
	if second := now.Unix(); second != l.second || l.taken == nil {
		l.second, l.taken = second, map[string]int{}
	}
	l.taken[name]++
	return l.taken[name] <= most
}

// admit is 8x8's rate limit on sending, by sub-account and by the end user's address.
func (a *account) admit(subAccount, clientIP string, now time.Time) *vendorError {
	o := &a.server.opts
	if o.Rate <= 0 && o.RatePerIP <= 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sends.takes("sub "+subAccount, o.Rate, now) && (clientIP == "" || a.sends.takes("ip "+clientIP, o.RatePerIP, now)) {
		return nil
	}
	return &vendorError{status: http.StatusTooManyRequests, code: 429, message: "Rate limit exceeded, try again in 1 second", retryAfter: 1}
}

// cut is as much of a text as 10 parts hold, which is what 8x8 sends.
func cut(text, encoding string) string {
	runes := []rune(text)
	low, high := 0, len(runes)
	for low < high {
		middle := (low + high + 1) / 2
		if catalog.Parts(string(runes[:middle]), encoding).SMSCount <= catalog.MaxParts {
			low = middle
		} else {
			high = middle - 1
		}
	}
	return string(runes[:low])
}

// operation is what a connector can do, which are the calls of the ten actions.
// source: @membranehq/sdk OperationSpec
type operation struct {
	Key          string          `json:"key"`
	Name         string          `json:"name"`
	Description  string          `json:"description"`
	InputSchema  json.RawMessage `json:"inputSchema"`
	OutputSchema json.RawMessage `json:"outputSchema"`
}

func (s *Server) operationRoutes(handle func(pattern, on string, serve handler)) {
	one := func(pattern, on string, serve func(http.ResponseWriter, *http.Request, *world, caller, *action, *connectionElement)) {
		handle(pattern, on, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
			c, failed := s.findConnection(at, who, r.PathValue("connection"))
			a := s.actions.byName[r.PathValue("operation")]
			if failed == nil && (a == nil || a.key != r.PathValue("operation")) {
				failed = notFound("Operation %q not found", r.PathValue("operation"))
			}
			if failed != nil {
				writeError(w, failed)
				return
			}
			serve(w, r, at, who, a, c)
		})
	}
	one("GET /connections/{connection}/operations/{operation}", OnReads, func(w http.ResponseWriter, _ *http.Request, _ *world, _ caller, a *action, _ *connectionElement) {
		writeJSON(w, http.StatusOK, operation{a.key, a.name, a.description, a.input, a.output})
	})
	// No run and no log: those are of actions.
	one("POST /connections/{connection}/operations/{operation}/run", OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller, a *action, c *connectionElement) {
		fields, failed := readObject(w, r)
		if failed == nil && !c.healthy() {
			failed = &apiError{Type: "connection", Key: "connection_is_defunct", Message: "The connection must be connected again by a person"}
		}
		if failed != nil {
			writeError(w, failed)
			return
		}
		x, effect := at.account.call(a.key, fields["input"], r.Host)
		if effect {
			at.effects.add(Effect{Action: a.key, Input: fields["input"], At: s.opts.Now().UTC(), Tenant: who.tenant})
		}
		if x.failed != nil {
			writeError(w, x.failure(s.opts.Now()))
			return
		}
		writeJSON(w, http.StatusOK, map[string]any{"output": x.output, "executionLogs": []any{}})
	})
}
