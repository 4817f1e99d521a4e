package sandbox_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

const acmeMessages = "/8x8/api/v1/subaccounts/acme_hq/messages"

// 8x8's own API, past Membrane: its key, its errors, and one effect for each send.
func TestOwnAPI(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var refused struct{ Code int }
	sms := object{"destination": "+12025550102", "text": "Hi"}
	for _, token := range []string{"", "nonsense", sandbox.Token} {
		answer := b.do("POST", acmeMessages, sms, bearer(token))
		if answer.json(t, &refused); answer.status != 401 || refused.Code != 1200 {
			t.Errorf("token %q: %d %s", token, answer.status, answer.body)
		}
	}
	key := bearer(sandbox.APIKey)
	if answer := b.do("POST", acmeMessages, sms, key); answer.status != 200 {
		t.Errorf("%d %s", answer.status, answer.body)
	}
	if effects := b.Effects(); len(effects) != 1 || effects[0].Action != "send-sms" {
		t.Errorf("effects: %+v", effects)
	}
	for path, code := range map[string]int{"/8x8/api/v1/subaccounts/foreign_hq/messages": 1001, "/8x8/api/v1/nothing": 1300} {
		answer := b.do("POST", path, sms, key)
		if answer.json(t, &refused); refused.Code != code {
			t.Errorf("%s: %d %s, want %d", path, answer.status, answer.body, code)
		}
	}
	for path, code := range map[string]int{
		"/8x8/api/v1/accounts/acme/contacts/blacklist/12": 1002, acmeMessages + "/x": 1000,
		acmeMessages + "/7b9d4bb0-1111-4222-8333-444455556666": 1300, acmeMessages + "/exports/x": 4018,
	} {
		method := "DELETE"
		if strings.Contains(path, "blacklist") {
			method = "POST"
		}
		answer := b.do(method, path, nil, key)
		if answer.json(t, &refused); refused.Code != code {
			t.Errorf("%s %s: %d %s, want %d", method, path, answer.status, answer.body, code)
		}
	}
}

// A sub-account's own webhook comes before the account's; a message's own before both.
func TestWebhookOfASubAccount(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := bearer(sandbox.APIKey)
	hook := strings.TrimSuffix(b.control("GET", "/_sandbox/webhook", nil, 200).hookURL(t), "/webhooks/8x8")
	answer := b.do("POST", "/8x8/api/v1/accounts/acme/webhooks", []object{{"subAccountId": "acme_hq", "url": hook + "/own", "httpAuthorization": "Basic x"}}, key)
	if answer.status != 200 || !strings.Contains(answer.body, `"httpAuthorization":"***"`) || strings.Contains(answer.body, "Basic x") {
		t.Errorf("%d %s", answer.status, answer.body)
	}
	posted := func(sub string) post {
		t.Helper()
		b.act("send-sms", object{"destination": "+12025550102", "text": "Hi", "subAccountId": sub}, http.StatusOK, new(sentSMS))
		b.settle()
		return b.next()
	}
	if p := posted("acme_hq"); p.path != "/own" || p.authorization != "Basic x" {
		t.Errorf("posted to %s with %q", p.path, p.authorization)
	}
	if p := posted("acme_two"); p.path != "/webhooks/8x8" || p.authorization != "Bearer hook" {
		t.Errorf("posted to %s with %q", p.path, p.authorization)
	}
	if answer := b.do("DELETE", "/8x8/api/v1/accounts/acme/webhooks", []object{{"subAccountId": "acme_hq"}}, key); strings.Contains(answer.body, "/own") {
		t.Error(answer.body)
	}
	if p := posted("acme_hq"); p.path != "/webhooks/8x8" {
		t.Errorf("posted to %s", p.path)
	}
}

// So many sends a second from a sub-account, and for an end user's address.
func TestSendRate(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *sandbox.Options) { o.Rate, o.RatePerIP = 3, 2 })
	send := func(sub, ip string) int {
		input := object{"destination": "+12025550102", "text": "Hi", "subAccountId": sub}
		if ip != "" {
			input["clientIp"] = ip
		}
		answer := b.do("POST", "/act", object{"key": "send-sms", "input": input})
		if answer.status == 429 && answer.header.Get("Retry-After") != "1" {
			t.Errorf("Retry-After: %q", answer.header.Get("Retry-After"))
		}
		return answer.status
	}
	for i, step := range []struct {
		sub, ip string
		want    int
	}{
		{"one", "", 200}, {"one", "", 200}, {"one", "", 200}, {"one", "", 429}, {"two", "192.0.2.1", 200}, {"two", "192.0.2.1", 200}, {"two", "192.0.2.1", 429},
		{"three", "192.0.2.2", 200},
	} {
		if got := send(step.sub, step.ip); got != step.want {
			t.Errorf("send %d: %d, want %d", i+1, got, step.want)
		}
	}
	b.clock.advance(time.Second)
	if got := send("one", "192.0.2.1"); got != 200 {
		t.Errorf("in the next second: %d", got)
	}
	if n := len(b.Effects()); n != 7 {
		t.Errorf("%d effects, want 7: what is refused is not sent", n)
	}
}

// A text of more than 10 parts is cut off and sent, or refused.
func TestLongTexts(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.act("send-sms", object{"destination": "+12025550102", "text": strings.Repeat("a", 1600)}, http.StatusOK, new(sentSMS))
	var messages struct{ Items []struct{ Text string } }
	b.control("GET", "/_sandbox/messages", nil, 200).json(t, &messages)
	if n := len(messages.Items[0].Text); n != 1530 {
		t.Errorf("%d characters were sent, want 1530", n)
	}
	strict := setup(t, func(o *sandbox.Options) { o.RefuseLongTexts = true })
	var e envelope
	strict.act("send-sms", object{"destination": "+12025550102", "text": strings.Repeat("a", 1531)}, http.StatusBadRequest, &e)
	if e.CausedByError.Data.Response.Data.Code != 1004 {
		t.Errorf("%+v", e)
	}
	strict.act("send-sms", object{"destination": "+12025550102", "text": strings.Repeat("a", 1530)}, http.StatusOK, new(sentSMS))
}

// What is scheduled and cancelled is never posted about, and costs nothing; what
// was sent stays sent.
func TestCancelledBeforeItWasSent(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := bearer(sandbox.APIKey)
	balance := func() string { return b.do("GET", "/8x8/api/v1/accounts/acme/balance", nil, key).body }
	full := balance()
	var batch struct{ BatchID string }
	b.do("POST", acmeMessages+"/batch", object{"messages": []object{
		{"destination": "+12025550102", "text": "later", "scheduled": "2026-03-01T11:00:00Z"}, {"destination": "+12025550103", "text": "now"},
	}}, key).json(t, &batch)
	var cancelled struct{ CancelledCount int }
	b.do("DELETE", acmeMessages+"/batch/"+batch.BatchID, nil, key).json(t, &cancelled)
	if cancelled.CancelledCount != 1 {
		t.Errorf("%d were cancelled, want the scheduled one", cancelled.CancelledCount)
	}
	b.clock.advance(2 * time.Hour)
	b.settle()
	for len(b.posts) > 0 {
		if p := b.next(); strings.Contains(p.body, "12025550102") {
			t.Errorf("posted: %s", p.body)
		}
	}
	if balance() != full { // the one that was sent is rejected later, and so free
		t.Errorf("balance %s, and %s before", balance(), full)
	}
}

// A long poll on a session ends with the session's work, and many at once are no trouble.
func TestSessionsAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *sandbox.Options) { o.Now, o.AfterFunc, o.BuildDelay = nil, nil, 5*time.Millisecond })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			var e struct{ ID, State, Status string }
			b.do("POST", "/agent/sessions", object{"prompt": "make something with " + sandbox.ConnectionKey}).json(t, &e)
			for range 3 {
				b.do("POST", "/agent/sessions/"+e.ID+"/interrupt", nil)
				b.do("POST", "/agent/sessions/"+e.ID+"/message", object{"input": "go on"})
				b.do("PATCH", "/agent/sessions/"+e.ID, object{"state": "idle"})
			}
			b.do("GET", "/agent/sessions/"+e.ID+"?wait=true&timeout=20", nil).json(t, &e)
			if e.State != "idle" {
				t.Errorf("after the poll: %+v", e)
			}
			b.do("PATCH", "/agent/sessions/"+e.ID+"/stop", nil)
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		t.Error("it took too long")
	}
}

// Who changes, archives and runs an action at once gets an answer each time.
func TestActionsChangeAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var made struct{ ID, Key string }
	b.do("POST", "/actions", object{
		"name": "Balance", "type": "api-request-to-external-app", "connectionId": sandbox.ConnectionKey,
		"config": object{"request": object{"method": "GET", "path": "/api/v1/accounts/acme/balance"}},
	}).json(t, &made)
	var all sync.WaitGroup
	for _, call := range []struct {
		method, path string
		body         any
		want         []int
	}{
		{"PATCH", "", object{"name": "Other"}, []int{200}}, {"DELETE", "", nil, []int{200}}, {"POST", "/restore", nil, []int{200, 400}}, // a clone may have taken its key
		{"POST", "/run", object{}, []int{200, 404}}, {"GET", "", nil, []int{200}}, {"POST", "/clone", nil, []int{200}},
		{"PUT", "", object{"name": "Whole"}, []int{200}},
	} {
		all.Go(func() {
			for range 20 {
				answer := b.do(call.method, "/actions/"+made.ID+call.path, call.body)
				if answer.status != call.want[0] && answer.status != call.want[len(call.want)-1] {
					t.Errorf("%s %s: %d %s", call.method, call.path, answer.status, answer.body)
				}
			}
		})
	}
	all.Wait()
}
