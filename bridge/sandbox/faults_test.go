package sandbox_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

func (b *bundle) fault(f sandbox.Fault) {
	b.t.Helper()
	if err := b.Fault(f); err != nil {
		b.t.Fatal(err)
	}
}

func TestFaultKinds(t *testing.T) {
	t.Parallel()
	type outcome struct {
		Status     int // 0: the connection broke
		Type, Key  string
		Cause      string // key of the cause
		RetryAfter string
		Effects    int
		Logs       string // statuses
	}
	for _, tt := range []struct {
		name  string
		fault sandbox.Fault
		want  outcome
	}{
		{"refuse", sandbox.Fault{Kind: sandbox.Refuse, RetryAfter: 2}, outcome{Status: 503, RetryAfter: "2"}},
		{"rate-limit", sandbox.Fault{Kind: sandbox.RateLimit, RetryAfter: 3}, outcome{Status: 429, Type: "bad_request", Key: "rate_limit_exceeded", RetryAfter: "3"}},
		{"rate-limit without Retry-After", sandbox.Fault{Kind: sandbox.RateLimit}, outcome{Status: 429, Type: "bad_request", Key: "rate_limit_exceeded"}},
		{"unauthorized", sandbox.Fault{Kind: sandbox.Unauthorized}, outcome{Status: 401, Type: "bad_request", Key: "not_authenticated"}},
		{"forbidden", sandbox.Fault{Kind: sandbox.Forbidden}, outcome{Status: 403, Type: "bad_request", Key: "access_denied"}},
		{"drop-before", sandbox.Fault{Kind: sandbox.DropBefore}, outcome{}},
		{"error-before", sandbox.Fault{Kind: sandbox.ErrorBefore}, outcome{Status: 500, Type: "internal", Logs: "error"}},
		{"vendor-rate-limit", sandbox.Fault{Kind: sandbox.VendorRateLimit}, outcome{Status: 429, Type: "action_run", Cause: "rate_limit_exceeded", RetryAfter: "1", Logs: "error"}},
		{"defunct", sandbox.Fault{Kind: sandbox.Defunct}, outcome{Status: 400, Type: "action_run", Cause: "connection_is_defunct", Logs: "error"}},
		{"error-after", sandbox.Fault{Kind: sandbox.ErrorAfter}, outcome{Status: 500, Type: "internal", Effects: 1, Logs: "error"}},
		{"drop-after", sandbox.Fault{Kind: sandbox.DropAfter}, outcome{Effects: 1, Logs: "success"}},
		{"half-body", sandbox.Fault{Kind: sandbox.HalfBody}, outcome{Effects: 1, Logs: "success"}},
		{
			"status",
			sandbox.Fault{Kind: sandbox.Status, Status: 400, Body: json.RawMessage(`{"type":"configuration","message":"x"}`), Headers: map[string]string{"Retry-After": "9"}},
			outcome{Status: 400, Type: "configuration", RetryAfter: "9"},
		},
		{"status after", sandbox.Fault{Kind: sandbox.Status, Status: 200, Body: json.RawMessage(`{"type":"?"}`), After: true}, outcome{Status: 200, Type: "?", Effects: 1, Logs: "success"}},
		{"html", sandbox.Fault{Kind: sandbox.HTML}, outcome{Status: 502}},
		{"html after", sandbox.Fault{Kind: sandbox.HTML, Status: 504, After: true}, outcome{Status: 504, Effects: 1, Logs: "success"}},
		{"hide-log", sandbox.Fault{Kind: sandbox.HideLog}, outcome{Status: 200, Effects: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.fault(tt.fault)
			body := object{"key": "send-sms", "input": object{"destination": "+12025550100", "text": "Hi"}}
			var got outcome
			answer, err := b.request("POST", "/act", body)
			if err == nil {
				got.Status, got.RetryAfter = answer.status, answer.header.Get("Retry-After")
				var e envelope
				if json.Unmarshal([]byte(answer.body), &e) == nil {
					got.Type, got.Key, got.Cause = e.Type, e.Key, e.CausedByError.Key
					if hasLog := tt.want.Logs == "error"; (e.ActionRunID != "") != hasLog && e.Type != "" && e.Type != "?" {
						t.Errorf("actionRunId %q", e.ActionRunID)
					}
				}
			}
			got.Effects = len(b.Effects())
			for _, item := range b.logs("").Items {
				got.Logs += item.Status
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s\n%s", diff, answer.body)
			}
			if answer, err := b.request("POST", "/act", body); err != nil || answer.status != 200 {
				t.Errorf("the next run: %v %d, but the rule was for one", err, answer.status)
			}
		})
	}
}

func TestHTMLAndTextBodies(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.fault(sandbox.Fault{Kind: sandbox.HTML})
	b.fault(sandbox.Fault{Kind: sandbox.Status, Status: 200, Body: json.RawMessage(`"plain words"`)})
	b.fault(sandbox.Fault{Kind: sandbox.Status, Status: 204})
	run := object{"key": "list-groups"}
	page, text, empty := b.do("POST", "/act", run), b.do("POST", "/act", run), b.do("POST", "/act", run)
	if !strings.HasPrefix(page.header.Get("Content-Type"), "text/html") || !strings.Contains(page.body, "<h1>502 Bad Gateway</h1>") {
		t.Errorf("page: %v %s", page.header, page.body)
	}
	if text.body != "plain words" {
		t.Errorf("text: %q", text.body)
	}
	if empty.status != 204 || empty.body != "" {
		t.Errorf("empty: %d %q", empty.status, empty.body)
	}
}

func TestSlowGoesOnWithoutItsCaller(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.fault(sandbox.Fault{Kind: sandbox.Slow, DelayMs: 90_000})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := b.request("POST", "/act", object{"key": "send-sms", "input": object{"destination": "+12025550100", "text": "Hi"}},
			func(r *http.Request) { *r = *r.WithContext(ctx) })
		done <- err
	}()
	if d := b.awaitTimer(); d != 90*time.Second {
		t.Errorf("it waits for %v", d)
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("the caller did not hang up")
	}
	if len(b.Effects()) != 0 {
		t.Error("the effect came first")
	}
	b.clock.advance(90 * time.Second)
	wait, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	if err := b.WaitEffects(wait, 1); err != nil {
		t.Error(err)
	}
}

func TestSlowAfterTheEffect(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.fault(sandbox.Fault{Kind: sandbox.Slow, DelayMs: 5000, After: true})
	done := make(chan sentSMS)
	go func() { done <- b.send("+12025550102") }()
	wait, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	if err := b.WaitEffects(wait, 1); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
		t.Fatal("the answer came at once")
	default:
	}
	for {
		select {
		case sent := <-done:
			if sent.Status.Code != "QUEUED" {
				t.Errorf("answer %+v", sent)
			}
			return
		case <-wait.Done():
			t.Fatal("no answer came")
		case <-time.After(time.Millisecond):
			b.clock.advance(time.Second)
		}
	}
}

func TestDelayedLog(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.fault(sandbox.Fault{Kind: sandbox.DelayLog, DelayMs: 30_000})
	var sent sentSMS
	id := b.act("send-sms", object{"destination": "+12025550100", "text": "Hi"}, 200, &sent)
	if n := len(b.logs("").Items); n != 0 {
		t.Errorf("%d logs at once", n)
	}
	if answer := b.do("GET", "/action-run-logs/"+id, nil); answer.status != 404 {
		t.Errorf("by id: %d", answer.status)
	}
	b.clock.advance(30 * time.Second)
	if n := len(b.logs("").Items); n != 1 {
		t.Errorf("%d logs in time", n)
	}
}

func TestFaultsCombine(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.fault(sandbox.Fault{Kind: sandbox.HideLog})
	b.fault(sandbox.Fault{Kind: sandbox.DropAfter})
	b.fault(sandbox.Fault{Kind: sandbox.Refuse})
	body := object{"key": "send-sms", "input": object{"destination": "+12025550100", "text": "Hi"}}
	if _, err := b.request("POST", "/act", body); err == nil {
		t.Error("the connection was not closed")
	}
	if len(b.Effects()) != 1 || len(b.logs("").Items) != 0 {
		t.Errorf("%d effects, %d logs", len(b.Effects()), len(b.logs("").Items))
	}
	if answer := b.do("POST", "/act", body); answer.status != 503 {
		t.Errorf("the rule that had to wait: %d", answer.status)
	}
}

func TestFaultsFindTheirRun(t *testing.T) {
	t.Parallel()
	b := setup(t)
	status := func(action, meta string) int {
		t.Helper()
		input := `{"destination":"+12025550100","text":"Hi"}`
		return b.do("POST", "/act", `{"key":"`+action+`","input":`+input+`,"meta":`+meta+`}`).status
	}
	b.fault(sandbox.Fault{Kind: sandbox.Refuse, Match: "evt-7", Times: -1})
	b.fault(sandbox.Fault{Kind: sandbox.Forbidden, Action: "list-groups", Times: 2})
	for _, tt := range []struct {
		action, meta string
		want         int
	}{
		{"send-sms", `{"eventId":"evt-1"}`, 200},
		{"send-sms", `{"eventId":"x-evt-7-y"}`, 503},
		{"send-sms", `{"key":"k.evt-7"}`, 503},
		{"send-sms", `{"other":"evt-7"}`, 200},
		{"send-sms", `{"eventId":7}`, 200},
		{"list-groups", `{"eventId":"evt-7"}`, 503},
		{"list-groups", `{}`, 403},
		{"list-groups", `{}`, 403},
		{"list-groups", `{}`, 200},
	} {
		if got := status(tt.action, tt.meta); got != tt.want {
			t.Errorf("%s with %s: %d, want %d", tt.action, tt.meta, got, tt.want)
		}
	}
	b.control("DELETE", "/_sandbox/faults", nil, 204)
	if got := status("send-sms", `{"eventId":"evt-7"}`); got != 200 {
		t.Errorf("after all rules are gone: %d", got)
	}
}

func TestProbabilityIsRepeatable(t *testing.T) {
	t.Parallel()
	play := func(seed uint64) (refusals string) {
		b := setup(t, func(o *sandbox.Options) { o.Seed = seed })
		b.fault(sandbox.Fault{Kind: sandbox.Refuse, Probability: 0.5, Times: -1})
		for range 40 {
			refusals += fmt.Sprint(b.do("POST", "/act", object{"key": "list-groups"}).status, " ")
		}
		return refusals
	}
	first, again, other := play(7), play(7), play(8)
	if first != again || first == other {
		t.Errorf("seed 7: %s\nagain:  %s\nseed 8: %s", first, again, other)
	}
	if n := strings.Count(first, "503"); n < 8 || n > 32 {
		t.Errorf("%d of 40 were refused", n)
	}
}

func TestFaultsOnReads(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.send("+12025550100")
	get := func(path string) int {
		answer, err := b.request("GET", path, nil)
		if err != nil {
			return 0
		}
		return answer.status
	}
	for _, kind := range []sandbox.Kind{sandbox.Refuse, sandbox.ErrorBefore, sandbox.HalfBody, sandbox.DropBefore} {
		b.fault(sandbox.Fault{Kind: kind, On: sandbox.OnLogs})
	}
	b.fault(sandbox.Fault{Kind: sandbox.Unauthorized, On: sandbox.OnReads})
	var got []int
	for _, path := range []string{"/action-run-logs", "/action-run-logs", "/action-run-logs", "/action-run-logs", "/action-run-logs", "/actions", "/actions"} {
		got = append(got, get(path))
	}
	if diff := cmp.Diff([]int{503, 500, 0, 0, 200, 401, 200}, got); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
}

func TestBadFaultsAreRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const all = "refuse, rate-limit, unauthorized, forbidden, drop-before, hang, error-before, vendor-rate-limit, defunct, error-after, drop-after, half-body, status, html, slow, hide-log, delay-log, duplicate-log"
	for _, tt := range []struct{ body, message string }{
		{`x`, "the body cannot be read: invalid character 'x' looking for beginning of value"},
		{`{}`, "kind is required: one of " + all},
		{`{"kind":"explode"}`, `unknown kind "explode": want one of ` + all},
		{`{"kind":"refuse","tmes":1}`, `the body cannot be read: unknown field "tmes"`},
		{`{"kind":"refuse","times":-2}`, "times -2: want a count, or -1 for ever"},
		{`{"kind":"refuse","probability":1.5}`, "probability 1.5: want a number between 0 and 1"},
		{`{"kind":"slow"}`, "kind slow needs delayMs, in milliseconds"},
		{`{"kind":"refuse","delayMs":5}`, "delayMs belongs to kinds slow and delay-log, not to refuse"},
		{`{"kind":"refuse","after":true}`, "after belongs to kinds slow, status and html, not to refuse"},
		{`{"kind":"html","retryAfter":1}`, "retryAfter belongs to kinds refuse, rate-limit and vendor-rate-limit, in seconds"},
		{`{"kind":"status"}`, "kind status needs status, from 200 to 599"},
		{`{"kind":"html","status":99}`, "status belongs to kinds status and html, from 200 to 599"},
		{`{"kind":"refuse","body":{}}`, "body and headers belong to kind status, not to refuse"},
		{`{"kind":"hide-log","on":"logs"}`, "kind hide-log works on runs only, not on logs"},
		{`{"kind":"refuse","on":"logs","action":"send-sms"}`, "action and match limit rules on runs only, not on logs"},
		{`{"kind":"refuse","on":"everything"}`, `unknown on "everything": want runs, logs or reads`},
		{`[{"kind":"refuse"},{"kind":"no"}]`, `rule 2: unknown kind "no": want one of ` + all},
	} {
		var answer struct{ Message string }
		b.control("POST", "/_sandbox/faults", tt.body, 400).json(t, &answer)
		if answer.Message != tt.message {
			t.Errorf("%s: %q, want %q", tt.body, answer.Message, tt.message)
		}
	}
	if answer := b.control("GET", "/_sandbox/faults", nil, 200); answer.body != `{"items":[]}` {
		t.Errorf("rules after refusals: %s", answer.body)
	}
	answer := b.control("POST", "/_sandbox/faults", `[{"kind":"refuse","times":2},{"kind":"hide-log"}]`, 200)
	if want := `{"items":[{"kind":"refuse","on":"runs","times":2},{"kind":"hide-log","on":"runs","times":1}]}`; answer.body != want {
		t.Errorf("rules %s, want %s", answer.body, want)
	}
}

func TestControls(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.do("POST", "/act", `{"key":"send-sms","input":{"destination":"+12025550100","text":"Hi"},"meta":{"eventId":"evt-1"}}`)
	b.do("POST", "/act", `{"key":"list-groups"}`) // a read is no effect
	var effects struct {
		Items []struct {
			Action      string
			Input, Meta json.RawMessage
			At          time.Time
			Tenant      string
		}
	}
	b.control("GET", "/_sandbox/effects", nil, 200).json(t, &effects)
	if len(effects.Items) != 1 {
		t.Fatalf("effects %+v", effects)
	}
	e := effects.Items[0]
	if e.Action != "send-sms" || string(e.Input) != `{"destination":"+12025550100","text":"Hi"}` || string(e.Meta) != `{"eventId":"evt-1"}` || !e.At.Equal(b.clock.Now()) || e.Tenant != "sandbox" {
		t.Errorf("effect %+v", e)
	}
	if got := b.control("GET", "/_sandbox/effects?count=true", nil, 200).body; got != `{"count":1}` {
		t.Errorf("count %s", got)
	}
	b.control("GET", "/_sandbox/effects?count=maybe", nil, 400)
	b.control("GET", "/_sandbox/nothing", nil, 404)
	b.control("PUT", "/_sandbox/effects", nil, 404)
	for _, path := range []string{"/", "/_sandbox/"} {
		if got := b.control("GET", path, nil, 200).body; !strings.Contains(got, "pat-sandbox") {
			t.Errorf("%s: %s", path, got)
		}
	}

	b.fault(sandbox.Fault{Kind: sandbox.Refuse, Times: -1})
	b.control("POST", "/_sandbox/reset", nil, 204)
	if !b.Idle() {
		t.Error("receipts are still to come after a reset")
	}
	b.clock.advance(time.Hour)
	if got := b.control("GET", "/_sandbox/effects", nil, 200).body; got != `{"items":[]}` {
		t.Errorf("effects after a reset: %s", got)
	}
	if got := b.control("GET", "/_sandbox/messages", nil, 200).body; got != `{"items":[]}` {
		t.Errorf("messages after a reset: %s", got)
	}
	if n := len(b.logs("").Items); n != 0 {
		t.Errorf("%d run logs after a reset", n)
	}
	b.send("+12025550102") // no fault is left
	b.settle()
	if len(b.posts) != 1 {
		t.Errorf("%d posts: those from before the reset came too", len(b.posts))
	}
}

func TestInbound(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var made struct{ Umid string }
	b.control("POST", "/_sandbox/inbound", object{"source": "12025550101", "body": "YES"}, 202).json(t, &made)
	p := b.next()
	want := `{"namespace":"SMS","eventType":"inbound_message_received","description":"Inbound SMS received","payload":{"umid":"` + made.Umid +
		`","subAccountId":"sandbox_hq","timestamp":"2026-03-01T10:00:00.000Z","source":"+12025550101","destination":"+12025550199","body":"YES",` +
		`"encoding":"GSM7","smsCount":1,"price":{"total":0.02,"perSms":0.02,"currency":"USD"}}}`
	if p.body != want || p.authorization != "Bearer hook" {
		t.Errorf("posted %s with %q, want %s", p.body, p.authorization, want)
	}
	var got struct{ Direction, Msisdn string }
	b.act("get-sms-status", object{"umid": made.Umid}, 200, &got)
	if got.Direction != "inbound" || got.Msisdn != "+1202555xxxx" {
		t.Errorf("status %+v", got)
	}
	for body, message := range map[string]string{
		`{"source":"+12025550101"}`:                               "body is required: the text of the message",
		`{"source":"bo","body":"x"}`:                              "source must be a phone number in international form, such as +12025550101",
		`{"source":"+12025550101","body":"x","destination":"me"}`: "destination must be a phone number in international form, such as +12025550199",
		`{"from":"+12025550101"}`:                                 `the body cannot be read: unknown field "from"`,
	} {
		var answer struct{ Message string }
		b.control("POST", "/_sandbox/inbound", body, 400).json(t, &answer)
		if answer.Message != message {
			t.Errorf("%s: %q, want %q", body, answer.Message, message)
		}
	}
	b.control("POST", "/_sandbox/webhook", `{"url":"ftp://x"}`, 400)
	b.control("POST", "/_sandbox/webhook", `{"url":""}`, 204)
	b.control("POST", "/_sandbox/inbound", object{"source": "+12025550101", "body": "YES"}, 400)
	b.send("+12025550100")
	if !b.Idle() {
		t.Error("receipts without a webhook")
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *sandbox.Options) { o.Now, o.AfterFunc, o.ReceiptDelay = nil, nil, time.Millisecond })
	b.fault(sandbox.Fault{Kind: sandbox.DropAfter, Probability: 0.05, Times: -1})
	const callers, each = 8, 50
	var group sync.WaitGroup
	for i := range callers {
		group.Go(func() {
			for n := range each {
				_, _ = b.request("POST", "/act", object{
					"key": "send-sms", "input": object{"destination": "+12025550100", "text": "Hi"}, "meta": object{"eventId": fmt.Sprint(i, "-", n)},
				})
				if n%10 == 0 {
					b.logs("?limit=5")
					b.control("GET", "/_sandbox/messages", nil, 200)
				}
			}
		})
	}
	group.Wait()
	seen := map[string]int{}
	for _, e := range b.Effects() {
		seen[string(e.Meta)]++
	}
	if len(seen) != callers*each || len(b.Effects()) != callers*each {
		t.Errorf("%d effects of %d events, want %d", len(b.Effects()), len(seen), callers*each)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := b.WaitReceipts(ctx); err != nil {
		t.Fatal(err)
	}
	if n := len(b.posts); n != 2*callers*each {
		t.Errorf("%d receipts, want %d", n, 2*callers*each)
	}
}

func BenchmarkAct(b *testing.B) {
	server := sandbox.New(sandbox.Options{})
	defer server.Close()
	const body = `{"key":"send-sms","connectionKey":"8x8-sandbox","input":{"destination":"+12025550100","text":"Hi Bo, your order is on its way.","clientMessageId":"k.r.0123456789"},"meta":{"bridge":"b","source":"/shop","eventId":"evt-1","route":"r","key":"k.r","try":"0123456789","attempt":1}}`
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r, _ := http.NewRequest("POST", "http://sandbox/act", strings.NewReader(body))
			r.Header.Set("Authorization", "Bearer "+sandbox.Token)
			r.Header.Set("Content-Type", "application/json")
			server.ServeHTTP(discard{http.Header{}}, r)
		}
	})
}

// discard is a ResponseWriter that forgets.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}
