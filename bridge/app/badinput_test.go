package app_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/app"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
	"github.com/bridge8x8/bridge8x8/config"
)

// patience is how long a test waits for what must come. It is long, because
// the machine may be slow, and never a part of what is tested.
const patience = 60 * time.Second

// wholeBridge is a real bridge on its embedded NATS, the sandbox that it runs
// against, and everything that it published.
type wholeBridge struct {
	t      *testing.T
	box    *sandbox.Server
	boxURL string
	app    *app.App
	public string // base URLs
	admin  string
	nats   *nats.Conn
	js     jetstream.JetStream

	mu      sync.Mutex
	changed chan struct{}    // closed and replaced when anything below changes
	acts    map[string]int   // POST /act, by the event's id
	bodies  [][]byte         // of them
	results []publishedEvent // BRIDGE_RESULTS
	dead    []publishedEvent // BRIDGE_DEAD
}

// publishedEvent is a message on one of the bridge's streams.
type publishedEvent struct {
	subject string
	header  nats.Header
	body    []byte
}

// wholeOptions change how a wholeBridge is made; all are optional.
type wholeOptions struct {
	yaml   string
	env    map[string]string
	log    *slog.Logger
	box    sandbox.Options
	boxURL string // instead of the sandbox
	token  string // of NATS
}

// startWhole starts a bridge and waits until it takes events.
func startWhole(t *testing.T, o wholeOptions) *wholeBridge {
	t.Helper()
	w := &wholeBridge{t: t, changed: make(chan struct{}), acts: map[string]int{}}
	if o.box.ReceiptDelay == 0 {
		o.box.ReceiptDelay = 5 * time.Millisecond
	}
	w.box = sandbox.New(o.box)
	t.Cleanup(w.box.Close)
	web := httptest.NewServer(w.recorder(w.box))
	t.Cleanup(web.Close)
	w.boxURL = cmp.Or(o.boxURL, web.URL)

	variables := map[string]string{
		"NATS_URL": "embedded", "BRIDGE_DATA_DIR": t.TempDir(), "BRIDGE_NATS_ADDR": "127.0.0.1:0",
		"BRIDGE_HTTP_ADDR": "127.0.0.1:0", "BRIDGE_ADMIN_ADDR": "127.0.0.1:0", "BRIDGE_GRACE": "5s",
		"MEMBRANE_API_URL": w.boxURL, "MEMBRANE_TOKEN": sandbox.Token, "MEMBRANE_RUN_LIMIT": "1s",
	}
	for name, value := range o.env {
		if value == "" {
			delete(variables, name)
		} else {
			variables[name] = value
		}
	}
	env, problems := config.LoadEnv(variables)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	file, problems := config.Parse("bridge.yaml", []byte(o.yaml), func(string) (string, bool) { return "", false })
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	a, err := app.New(app.Options{
		Env: env, Version: "test", Logger: o.log, File: file, FastStore: true, LogMargin: 2 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.app = a
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the bridge ended with %v", err)
			}
		case <-time.After(patience):
			t.Error("the bridge does not stop")
		}
	})
	select {
	case <-a.Ready():
	case err := <-ended:
		t.Fatalf("the bridge ended with %v", err)
	case <-time.After(patience):
		t.Fatal("the bridge does not become ready")
	}
	public, admin := a.Addrs()
	w.public, w.admin = "http://"+public, "http://"+admin
	w.box.SetWebhook(w.public+"/webhooks/8x8", "")

	if w.nats, err = nats.Connect(a.NATSURL(), nats.Token(o.token)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.nats.Close)
	if w.js, err = jetstream.New(w.nats); err != nil {
		t.Fatal(err)
	}
	w.collect("BRIDGE_RESULTS", &w.results)
	w.collect("BRIDGE_DEAD", &w.dead)
	return w
}

// recorder counts the runs that reach the sandbox, whatever comes of them.
func (w *wholeBridge) recorder(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.URL.Path == "/act" {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			var act struct{ Meta bridge.Meta }
			if err := json.Unmarshal(body, &act); err != nil {
				w.t.Errorf("POST /act with a body that is no JSON: %v", err)
			}
			w.change(func() {
				w.acts[act.Meta.EventID]++
				w.bodies = append(w.bodies, body)
			})
		}
		next.ServeHTTP(rw, r)
	})
}

// collect keeps what is published on a stream.
func (w *wholeBridge) collect(stream string, into *[]publishedEvent) {
	w.t.Helper()
	consumer, err := w.js.OrderedConsumer(context.Background(), stream, jetstream.OrderedConsumerConfig{})
	if err != nil {
		w.t.Fatal(err)
	}
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		w.change(func() { *into = append(*into, publishedEvent{m.Subject(), m.Headers(), m.Data()}) })
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(consuming.Stop)
}

func (w *wholeBridge) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	close(w.changed)
	w.changed = make(chan struct{})
}

// await waits until done says so. It asks whenever something is published or
// run, and now and then, for what shows elsewhere.
func (w *wholeBridge) await(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		w.mu.Lock()
		changed := w.changed
		w.mu.Unlock()
		if done() {
			return
		}
		select {
		case <-changed:
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

const trialSource = "/trial"

// trialEvent is an event in the JSON format.
func trialEvent(id, eventType string, data map[string]any) []byte {
	body, err := json.Marshal(map[string]any{
		"specversion": "1.0", "id": id, "source": trialSource, "type": eventType, "datacontenttype": "application/json", "data": data,
	})
	if err != nil {
		panic(err)
	}
	return body
}

// post sends an event to POST /events, which must take it.
func (w *wholeBridge) post(t *testing.T, event []byte) {
	t.Helper()
	answer := w.request(t, "/events", event, "Content-Type", "application/cloudevents+json")
	if answer.status != http.StatusAccepted {
		t.Fatalf("POST /events: %d %s", answer.status, answer.body)
	}
}

type httpAnswer struct {
	status int
	header http.Header
	body   string
}

// request posts to the public listener; headers are names and values.
func (w *wholeBridge) request(t *testing.T, path string, body []byte, headers ...string) httpAnswer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.public+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return httpAnswer{response.StatusCode, response.Header, string(answer)}
}

// record is what the ledger knows of an event and a route.
func (w *wholeBridge) record(t *testing.T, id, route string) (bridge.Record, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream, err := w.js.Stream(ctx, "KV_BRIDGE_LEDGER")
	if err != nil {
		t.Fatal(err)
	}
	key := bridge.NewKey(bridge.EventHash(trialSource, id), route, 0)
	m, err := stream.GetLastMsgForSubject(ctx, "$KV.BRIDGE_LEDGER."+string(key))
	if err != nil {
		return bridge.Record{}, false
	}
	var r bridge.Record
	if err := json.Unmarshal(m.Data, &r); err != nil {
		t.Fatal(err)
	}
	return r, true
}

// trialResult is a result event, as far as the tests look at it.
type trialResult struct {
	Type        string            `json:"type"`
	CausationID string            `json:"causationid"`
	Data        bridge.ResultData `json:"data"`
}

// resultsOf are the results of an event.
func (w *wholeBridge) resultsOf(t *testing.T, id string) []trialResult {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []trialResult
	for _, m := range w.results {
		var r trialResult
		if err := json.Unmarshal(m.body, &r); err != nil {
			t.Fatal(err)
		}
		if r.CausationID == id {
			found = append(found, r)
		}
	}
	return found
}

// lettersOf are the dead letters of an event.
func (w *wholeBridge) lettersOf(id string) []publishedEvent {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []publishedEvent
	for _, m := range w.dead {
		if m.header.Get("Bridge8x8-Cause-Id") == id {
			found = append(found, m)
		}
	}
	return found
}

// effectsOf counts what really happened because of an event.
func (w *wholeBridge) effectsOf(t *testing.T, id string) int {
	t.Helper()
	n := 0
	for _, effect := range w.box.Effects() {
		var meta bridge.Meta
		if err := json.Unmarshal(effect.Meta, &meta); err != nil {
			t.Fatal(err)
		}
		if meta.EventID == id {
			n++
		}
	}
	return n
}

func (w *wholeBridge) actsOf(id string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.acts[id]
}

// setAside is how many pairs lie in BRIDGE_WAIT.
func (w *wholeBridge) setAside(t *testing.T) uint64 {
	t.Helper()
	return w.stream(t, "BRIDGE_WAIT").State.Msgs
}

func (w *wholeBridge) stream(t *testing.T, name string) *jetstream.StreamInfo {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream, err := w.js.Stream(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	info, err := stream.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// nothingHeld waits until no event is unacknowledged and none is set aside:
// whatever was taken in has ended.
func (w *wholeBridge) nothingHeld(t *testing.T) {
	t.Helper()
	w.await(t, "events are still held", func() bool {
		consumer, err := w.js.Consumer(context.Background(), "BRIDGE_EVENTS", "bridge-events")
		if err != nil {
			t.Fatal(err)
		}
		info, err := consumer.Info(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return info.NumPending == 0 && info.NumAckPending == 0 && w.setAside(t) == 0
	})
}

// outcome is how one event ended, all of it that is the same each time.
type outcome struct {
	Type     string // of the result event; "" if there is none
	Attempts int    // in the result, or in the dead letter where there is no result
	Reason   string
	Message  string
	Dead     string // reason of the dead letter; "" if there is none
	Effects  int
}

// awaitOutcome waits for an event's end, and says what it was.
func (w *wholeBridge) awaitOutcome(t *testing.T, id string) outcome {
	t.Helper()
	w.await(t, "event "+id+" has no outcome", func() bool {
		letters, results := w.lettersOf(id), w.resultsOf(t, id)
		switch {
		case len(letters) > 0 && letters[0].header.Get("Bridge8x8-Reason") == string(bridge.ReasonOutcomeUnknown):
			return true
		case len(results) > 0 && results[0].Data.Error != nil:
			return len(letters) > 0
		}
		return len(results) > 0
	})
	results, letters := w.resultsOf(t, id), w.lettersOf(id)
	if len(results) > 1 || len(letters) > 1 {
		t.Errorf("event %s has %d results and %d dead letters, want at most one of each", id, len(results), len(letters))
	}
	o := outcome{Effects: w.effectsOf(t, id)}
	for _, letter := range letters {
		o.Dead, o.Message = letter.header.Get("Bridge8x8-Reason"), letter.header.Get("Bridge8x8-Message")
		o.Attempts, _ = strconv.Atoi(letter.header.Get("Bridge8x8-Attempts"))
	}
	for _, r := range results {
		o.Type, o.Attempts = r.Type, r.Data.Attempts
		if e := r.Data.Error; e != nil {
			if o.Message != e.Message {
				t.Errorf("the dead letter says %q, and the result %q", o.Message, e.Message)
			}
			o.Reason, o.Message = string(e.Reason), e.Message
			if r.Data.Output != nil {
				t.Errorf("a failed result has an output")
			}
		} else if r.Data.Output == nil {
			t.Errorf("a succeeded result has no output")
		}
	}
	return o
}

// routesYAML makes a route for each name, and for each a connection of its own:
// a gate that one closes is not the other's.
func routesYAML(names []string, extra map[string]string) string {
	var b strings.Builder
	b.WriteString("connections:\n")
	for _, name := range names {
		fmt.Fprintf(&b, "  %s: {key: 8x8-sandbox}\n", name)
	}
	b.WriteString("routes:\n")
	for _, name := range names {
		fmt.Fprintf(&b, "  - name: %s\n    on: com.example.%[1]s\n    connection: %[1]s\n", name)
		more, ok := extra[name]
		if !ok {
			more = sendSMSRoute
		}
		b.WriteString(more)
	}
	return b.String()
}

const sendSMSRoute = `    run: send-sms
    input: {destination: "${ .data.to }", text: "${ .data.text }"}
    retry: {attempts: 2, backoff: {initial: 10ms, max: 20ms}}
`

var goodData = map[string]any{"to": "+12025550100", "text": "hello"}

const (
	smsSucceeded = "com.8x8.action.send-sms.succeeded"
	smsFailed    = "com.8x8.action.send-sms.failed"
)

// routePlace is where in the file an expression stands.
var routePlace = regexp.MustCompile(`^bridge\.yaml:[1-9][0-9]*:[1-9][0-9]*: `)

// envelope is Membrane's error in an answer with a status.
func envelope(status int, body string) sandbox.Fault {
	return sandbox.Fault{Kind: sandbox.Status, Status: status, Body: json.RawMessage(body)}
}

func withHeader(f sandbox.Fault, name, value string) sandbox.Fault {
	f.Headers = map[string]string{name: value}
	return f
}

// An outage, missing rights or a connection that needs a person is not the
// event's fault: it waits, visibly, with no attempt counted, for as long as it
// lasts, and is sent once when it ends.
func TestWhatIsNotTheEventsFaultWaits(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		fault sandbox.Fault
		why   bridge.Reason
	}{
		{"http-503", sandbox.Fault{Kind: sandbox.Refuse}, ""},
		{"http-503-retry-after", sandbox.Fault{Kind: sandbox.Refuse, RetryAfter: 1}, ""},
		{"http-429", sandbox.Fault{Kind: sandbox.RateLimit}, ""},
		{"http-429-retry-after", sandbox.Fault{Kind: sandbox.RateLimit, RetryAfter: 1}, ""},
		{"http-429-retry-after-date", withHeader(envelope(429, `{}`), "Retry-After", "Fri, 02 Jan 2026 03:04:05 GMT"), ""},
		{"vendor-429", sandbox.Fault{Kind: sandbox.VendorRateLimit}, ""},
		{"http-401", sandbox.Fault{Kind: sandbox.Unauthorized}, bridge.ReasonUnauthorized},
		{"http-403", sandbox.Fault{Kind: sandbox.Forbidden}, bridge.ReasonUnauthorized},
		{"vendor-401", envelope(400, `{"type":"action_run","message":"x","actionRunId":"66f100000000000000000001","causedByError":
			{"type":"connection","message":"x","data":{"response":{"status":401,"data":{"code":1200}}}}}`), bridge.ReasonUnauthorized},
		{"action-404", envelope(404, `{"type":"bad_request","key":"not_found","message":"Action not found"}`), bridge.ReasonActionMissing},
		{"connection-404", envelope(404, `{"type":"bad_request","key":"not_found","message":"Connection not found"}`), bridge.ReasonNotReady},
		{"plain-404", envelope(404, `"no such page"`), bridge.ReasonActionMissing},
		{"defunct", sandbox.Fault{Kind: sandbox.Defunct}, bridge.ReasonNotReady},
		{"token-expired", envelope(400, `{"type":"connection","key":"access_token_expired","message":"x"}`), bridge.ReasonNotReady},
		{"configuration", envelope(400, `{"type":"configuration","message":"x"}`), bridge.ReasonNotReady},
		{"dependency", envelope(400, `{"type":"dependency_error","message":"x"}`), bridge.ReasonNotReady},
		{"credit", envelope(400, `{"type":"insufficient_credit","message":"x"}`), bridge.ReasonNotReady},
	}
	names := []string{"patient"}
	for _, test := range tests {
		names = append(names, test.name)
	}
	w := startWhole(t, wholeOptions{yaml: routesYAML(names, nil)})

	// One is told to wait for an hour, and is asked for once.
	faults := []sandbox.Fault{{Kind: sandbox.RateLimit, RetryAfter: 3600, Match: "patient-1", Times: -1}}
	for _, test := range tests {
		test.fault.Match, test.fault.Times = test.name+"-1", -1
		faults = append(faults, test.fault)
	}
	for _, f := range faults {
		if err := w.box.Fault(f); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		w.post(t, trialEvent(name+"-1", "com.example."+name, goodData))
	}

	// Refused at least twice, so that it is seen not to be given up.
	for _, test := range tests {
		id := test.name + "-1"
		w.await(t, id+" is not tried again", func() bool { return w.actsOf(id) >= 2 })
		w.await(t, id+" does not wait", func() bool {
			r, ok := w.record(t, id, test.name)
			return ok && r.State == bridge.Waiting
		})
		if r, _ := w.record(t, id, test.name); r.State == bridge.Waiting && (r.Attempts != 0 || r.Why != test.why) {
			t.Errorf("%s waits with %d attempts for %q, want none, for %q", id, r.Attempts, r.Why, test.why)
		}
	}
	w.await(t, "not every pair is set aside", func() bool { return w.setAside(t) == uint64(len(names)) })
	if len(w.box.Effects()) != 0 {
		t.Errorf("%d effects while every run was refused", len(w.box.Effects()))
	}
	w.mu.Lock()
	if len(w.results) != 0 || len(w.dead) != 0 {
		t.Errorf("%d results and %d dead letters of events that wait", len(w.results), len(w.dead))
	}
	w.mu.Unlock()

	// The trouble ends.
	forget, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, w.boxURL+"/_sandbox/faults", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(forget)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			want := outcome{Type: smsSucceeded, Attempts: 1, Effects: 1}
			if diff := gocmp.Diff(want, w.awaitOutcome(t, test.name+"-1")); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
		})
	}
	w.await(t, "more than one pair is set aside", func() bool { return w.setAside(t) == 1 })
	if r, _ := w.record(t, "patient-1", "patient"); r.State != bridge.Waiting || r.Attempts != 0 || w.actsOf("patient-1") != 1 {
		t.Errorf("with Retry-After: 3600 it is %s with %d attempts after %d runs, want waiting, none, one", r.State, r.Attempts, w.actsOf("patient-1"))
	}
}

// A definite no about an event ends it; an answer that may go better next time
// counts an attempt. What is not sent at all has none.
func TestAnswersAboutTheEvent(t *testing.T) {
	t.Parallel()
	vendor := func(status, code int) sandbox.Fault {
		return envelope(400, fmt.Sprintf(`{"type":"action_run","message":"to +12025550100: hello","actionRunId":"66f100000000000000000002","causedByError":
			{"type":"connection","message":"x","data":{"response":{"status":%d,"data":{"code":%d,"message":"hello","errorId":"0f3c8a1e-2b4d-4c6e-8f90-123456789abc"}}}}}`, status, code))
	}
	const busy = `{"type":"concurrency","key":"lock_timeout","message":"x"}`
	tests := []struct {
		name  string
		fault sandbox.Fault
		times int
		route string
		data  map[string]any
		want  outcome
	}{
		{
			name: "validation", fault: envelope(400, `{"type":"bad_request","message":"Invalid input: hello"}`),
			want: outcome{Type: smsFailed, Attempts: 1, Reason: "invalid_input", Message: "membrane answered 400 (bad_request)"},
		},
		{
			name: "already-exists", fault: envelope(400, `{"type":"bad_request","key":"already_exists","message":"x"}`),
			want: outcome{Type: smsFailed, Attempts: 1, Reason: "rejected", Message: "membrane answered 400 (bad_request already_exists)"},
		},
		{
			name: "too-large-for-membrane", fault: envelope(413, `"too large"`),
			want: outcome{Type: smsFailed, Attempts: 1, Reason: "invalid_input", Message: "membrane answered 413"},
		},
		{
			name: "vendor-400", fault: vendor(400, 1002),
			want: outcome{Type: smsFailed, Attempts: 1, Reason: "rejected", Message: "membrane answered 400 (action_run, connection, vendor status 400, code 1002)"},
		},
		{
			name: "vendor-422", fault: vendor(422, 1300),
			want: outcome{Type: smsFailed, Attempts: 1, Reason: "rejected", Message: "membrane answered 400 (action_run, connection, vendor status 422, code 1300)"},
		},
		{
			name: "rejected", data: map[string]any{"to": "+12025550108", "text": "hello"},
			want: outcome{Type: smsFailed, Attempts: 1, Reason: "rejected", Message: "8x8 rejected the message"},
		},
		{
			name: "busy-once", fault: envelope(400, busy), times: 1,
			want: outcome{Type: smsSucceeded, Attempts: 2, Effects: 1},
		},
		{
			name: "busy", fault: envelope(400, busy),
			want: outcome{
				Type: smsFailed, Attempts: 2, Reason: "attempts_exhausted",
				Message: "the last of its attempts failed: membrane answered 400 (concurrency lock_timeout)",
			},
		},
		{
			name: "no-number", data: map[string]any{"to": "12", "text": "hello"},
			want: outcome{Type: smsFailed, Reason: "invalid_input", Message: "input field destination is not a phone number"},
		},
		{
			name: "no-text", data: map[string]any{"to": "+12025550100", "text": 5},
			want: outcome{Type: smsFailed, Reason: "invalid_input", Message: "input field text must be a string"},
		},
		{
			name: "mapping",
			route: `    run: send-sms
    input: {destination: "${ .data.to.number }", text: "hello"}
`,
			want: outcome{Type: smsFailed, Reason: "mapping", Message: "input field destination: ${ .data.to.number } fails on this event: expected an object but got a string"},
		},
		{
			name: "endless",
			route: `    run: send-sms
    input: {destination: "${ .data.to }", text: "${ def f: f; f }"}
`,
			want: outcome{Type: smsFailed, Reason: "mapping", Message: "input field text: ${ def f: f; f } was stopped after 1000000 steps or 2s: it loops, or does too much"},
		},
		{
			name: "endless-results",
			route: `    run: send-sms
    input: {destination: "${ .data.to }", text: "${ [repeat(1)] | tostring }"}
`,
			want: outcome{Type: smsFailed, Reason: "mapping", Message: "input field text: ${ [repeat(1)] | tostring } was stopped after 1000000 steps or 2s: it loops, or does too much"},
		},
		{
			name: "no-result",
			route: `    run: send-sms
    input: {destination: "${ .data.to }", text: "${ empty }"}
`,
			want: outcome{Type: smsFailed, Reason: "mapping", Message: "input field text: ${ empty } gives no result; use // to give it a default"},
		},
		{
			// What may be repeated is: a 500 is no reason to hold it.
			name: "safe-500", fault: sandbox.Fault{Kind: sandbox.ErrorBefore}, times: 1,
			route: "    run: get-account-balance\n    retry: {attempts: 3, backoff: {initial: 10ms, max: 20ms}}\n",
			want:  outcome{Type: "com.8x8.action.get-account-balance.succeeded", Attempts: 2},
		},
	}
	var names []string
	routes := map[string]string{}
	for _, test := range tests {
		names = append(names, test.name)
		if test.route != "" {
			routes[test.name] = test.route
		}
	}
	w := startWhole(t, wholeOptions{yaml: routesYAML(names, routes)})
	for _, test := range tests {
		if test.fault.Kind != "" {
			test.fault.Match, test.fault.Times = test.name+"-1", cmp.Or(test.times, -1)
			if err := w.box.Fault(test.fault); err != nil {
				t.Fatal(err)
			}
		}
		data := test.data
		if data == nil {
			data = goodData
		}
		w.post(t, trialEvent(test.name+"-1", "com.example."+test.name, data))
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			want := test.want
			if want.Reason != "" {
				want.Dead = want.Reason
			}
			got := w.awaitOutcome(t, test.name+"-1")
			if want.Reason == "mapping" {
				if !routePlace.MatchString(got.Message) {
					t.Errorf("%q does not say where in the file it is", got.Message)
				}
				got.Message = routePlace.ReplaceAllString(got.Message, "")
			}
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
			if got := w.actsOf(test.name + "-1"); got != want.Attempts {
				t.Errorf("%d runs, and %d attempts", got, want.Attempts)
			}
		})
	}
	w.nothingHeld(t)
}

// Where an answer leaves open whether it happened, run logs decide. Without
// evidence, and here no receipt comes either, the outcome is unknown: held for a person, and never sent again.
func TestAnswersThatLeaveTheOutcomeOpen(t *testing.T) {
	t.Parallel()
	const (
		silence = "no reply came, and no run log shows its try: it may or may not have been sent"
		logged  = "membrane's run log says error (internal)"
	)
	happened := outcome{Type: smsSucceeded, Attempts: 1, Effects: 1}
	unknown := func(effects int, message string) outcome {
		return outcome{Attempts: 1, Dead: "outcome_unknown", Message: message, Effects: effects}
	}
	status := func(code int, body string, after bool) sandbox.Fault {
		f := envelope(code, body)
		f.After = after
		return f
	}
	tests := []struct {
		name   string
		faults []sandbox.Fault
		route  string
		want   outcome
	}{
		{"error-before", []sandbox.Fault{{Kind: sandbox.ErrorBefore}}, "", unknown(0, logged)},
		{"error-after", []sandbox.Fault{{Kind: sandbox.ErrorAfter}}, "", unknown(1, logged)},
		{"html-before", []sandbox.Fault{{Kind: sandbox.HTML}}, "", unknown(0, silence)},
		{"html-after", []sandbox.Fault{{Kind: sandbox.HTML, After: true}}, "", happened},
		{"login-page", []sandbox.Fault{{Kind: sandbox.HTML, Status: 200}}, "", unknown(0, silence)},
		{"empty-before", []sandbox.Fault{status(200, "", false)}, "", unknown(0, silence)},
		{"empty-after", []sandbox.Fault{status(200, "", true)}, "", happened},
		{"other-json", []sandbox.Fault{status(200, `{"ok":true}`, true)}, "", happened},
		{"redirect", []sandbox.Fault{withHeader(status(302, "", false), "Location", "/act")}, "", unknown(0, silence)},
		{"half-body", []sandbox.Fault{{Kind: sandbox.HalfBody}}, "", happened},
		{"drop-before", []sandbox.Fault{{Kind: sandbox.DropBefore}}, "", unknown(0, silence)},
		{"drop-after", []sandbox.Fault{{Kind: sandbox.DropAfter}}, "", happened},
		{"drop-hidden", []sandbox.Fault{{Kind: sandbox.DropAfter}, {Kind: sandbox.HideLog}}, "", unknown(1, silence)},
		{"drop-delayed", []sandbox.Fault{{Kind: sandbox.DropAfter}, {Kind: sandbox.DelayLog, DelayMs: 2000}}, "", happened},
		{"custom-code", []sandbox.Fault{status(400, `{"type":"custom_code","message":"x"}`, false)}, "", unknown(0, silence)},
		{"concurrency", []sandbox.Fault{status(400, `{"type":"concurrency","message":"x"}`, false)}, "", unknown(0, silence)},
		{"broken-call", []sandbox.Fault{status(400, `{"type":"connection","message":"x"}`, false)}, "", unknown(0, silence)},
		// The answer comes within the limit, and after it.
		{"slow", []sandbox.Fault{{Kind: sandbox.Slow, DelayMs: 500}}, "", happened},
		{"slow-answer", []sandbox.Fault{{Kind: sandbox.Slow, DelayMs: 9000, After: true}}, "", happened},
		{
			"chosen-retry", []sandbox.Fault{{Kind: sandbox.DropBefore}}, sendSMSRoute + "    on_unknown: retry\n",
			outcome{Type: smsSucceeded, Attempts: 2, Effects: 1},
		},
		{
			"vendor-500", []sandbox.Fault{status(400, `{"type":"action_run","message":"x","actionRunId":"66f100000000000000000003","causedByError":
				{"type":"connection","message":"x","data":{"response":{"status":500,"data":{"code":1000}}}}}`, false)}, "", unknown(0, silence),
		},
	}
	var names []string
	routes := map[string]string{}
	for _, test := range tests {
		names = append(names, test.name)
		if test.route != "" {
			routes[test.name] = test.route
		}
	}
	w := startWhole(t, wholeOptions{yaml: routesYAML(names, routes)})
	w.box.SetWebhook("", "") // a receipt would tell
	for _, test := range tests {
		for _, f := range test.faults {
			f.Match = test.name + "-1"
			if err := w.box.Fault(f); err != nil {
				t.Fatal(err)
			}
		}
		w.post(t, trialEvent(test.name+"-1", "com.example."+test.name, goodData))
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if diff := gocmp.Diff(test.want, w.awaitOutcome(t, test.name+"-1")); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
			if got := w.actsOf(test.name + "-1"); got != test.want.Attempts {
				t.Errorf("%d runs, and %d attempts", got, test.want.Attempts)
			}
		})
	}
	w.nothingHeld(t)
}

// A run that Membrane lets go on beyond its own limit may end after it was
// declared unknown. It is still one effect, and one dead letter.
func TestRunBeyondTheRunLimit(t *testing.T) {
	t.Parallel()
	w := startWhole(t, wholeOptions{yaml: routesYAML([]string{"late"}, nil)})
	for _, f := range []sandbox.Fault{{Kind: sandbox.Slow, DelayMs: 12_000}, {Kind: sandbox.HideLog}} {
		if err := w.box.Fault(f); err != nil {
			t.Fatal(err)
		}
	}
	w.post(t, trialEvent("late-1", "com.example.late", goodData))
	want := outcome{Attempts: 1, Dead: "outcome_unknown", Message: "no reply came, and no run log shows its try: it may or may not have been sent"}
	got := w.awaitOutcome(t, "late-1")
	got.Effects = 0 // it may have happened by now
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("outcome (-want +got):\n%s", diff)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := w.box.WaitEffects(ctx, 1); err != nil {
		t.Fatal(err)
	}
	w.nothingHeld(t)
	if effects, acts := w.effectsOf(t, "late-1"), w.actsOf("late-1"); effects != 1 || acts != 1 {
		t.Errorf("%d effects of %d runs, want one of one", effects, acts)
	}
}

// A Membrane that cannot be reached is an outage, whatever the events.
func TestMembraneOutOfReach(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	w := startWhole(t, wholeOptions{yaml: routesYAML([]string{"away"}, nil), boxURL: "http://" + addr})
	for i := range 3 {
		w.post(t, trialEvent(fmt.Sprint("away-", i), "com.example.away", goodData))
	}
	for i := range 3 {
		id := fmt.Sprint("away-", i)
		w.await(t, id+" does not wait", func() bool {
			r, ok := w.record(t, id, "away")
			return ok && r.State == bridge.Waiting && r.Attempts == 0
		})
	}
	w.await(t, "not every pair is set aside", func() bool { return w.setAside(t) == 3 })

	w.await(t, "the address is taken", func() bool {
		listener, err = net.Listen("tcp", addr)
		return err == nil
	})
	server := &http.Server{Handler: w.recorder(w.box), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	for i := range 3 {
		want := outcome{Type: smsSucceeded, Attempts: 1, Effects: 1}
		if diff := gocmp.Diff(want, w.awaitOutcome(t, fmt.Sprint("away-", i))); diff != "" {
			t.Errorf("outcome (-want +got):\n%s", diff)
		}
	}
	w.nothingHeld(t)
}

// What POST /events refuses, it refuses with a clear text, and stores nothing of.
func TestRefusedOverHTTP(t *testing.T) {
	t.Parallel()
	w := startWhole(t, wholeOptions{
		yaml: routesYAML([]string{"http"}, nil),
		env:  map[string]string{"BRIDGE_HTTP_TOKEN": "first-token", "BRIDGE_HTTP_TOKEN_2": "second-token"},
	})
	const (
		structured = "application/cloudevents+json"
		batched    = "application/cloudevents-batch+json"
	)
	large := func(n int) []byte {
		return trialEvent("large", "com.example.http", map[string]any{"to": "+12025550100", "text": strings.Repeat("x", n)})
	}
	good := string(trialEvent("good", "com.example.http", goodData))
	tests := []struct {
		name    string
		token   string
		headers []string
		body    string
		status  int
		want    string // the problem without type, title and status
	}{
		{"no token", "", []string{"Content-Type", structured}, good, 401, `{"code":"unauthorized","detail":"no token; send \"Authorization: Bearer <token>\""}`},
		{"wrong token", "third-token", []string{"Content-Type", structured}, good, 401, `{"code":"unauthorized","detail":"the token is not valid here"}`},
		{"12 MB structured", "first-token", []string{"Content-Type", structured}, string(large(12 << 20)), 413, `{"code":"too_large","detail":"the body may have 1015808 bytes"}`},
		{"12 MB binary", "first-token", []string{"Ce-Id", "1", "Ce-Source", "/s", "Ce-Type", "t", "Ce-Specversion", "1.0"}, strings.Repeat("x", 12<<20), 413, `{"code":"too_large","detail":"the body may have 1015808 bytes"}`},
		{"12 MB batch", "first-token", []string{"Content-Type", batched}, "[" + string(large(12<<20)) + "]", 413, `{"code":"too_large","detail":"the body may have 8126464 bytes"}`},
		{"a large item", "first-token", []string{"Content-Type", batched}, "[" + good + "," + string(large(2<<20)) + "]", 413, `{"code":"too_large","detail":"an event may have 1015808 bytes","errors":[{"detail":"an event may have 1015808 bytes","index":1}]}`},
		{"structured: no JSON", "first-token", []string{"Content-Type", structured}, `{"specversion":`, 400, `{"code":"malformed","detail":"not JSON: it ends too early"}`},
		{"structured: an array", "first-token", []string{"Content-Type", structured}, `[]`, 400, `{"code":"malformed","detail":"not a JSON object"}`},
		{"structured: empty", "first-token", []string{"Content-Type", structured}, ``, 400, `{"code":"malformed","detail":"there is nothing in it"}`},
		{"structured: no id", "first-token", []string{"Content-Type", structured}, `{"specversion":"1.0","source":"/s","type":"t"}`, 400, `{"attribute":"id","code":"malformed","detail":"id: is missing"}`},
		{"structured: old", "first-token", []string{"Content-Type", structured}, `{"specversion":"0.3","id":"1","source":"/s","type":"t"}`, 400, `{"attribute":"specversion","code":"malformed","detail":"specversion: must be \"1.0\""}`},
		{"structured: base64 number", "first-token", []string{"Content-Type", structured}, `{"specversion":"1.0","data_base64":5}`, 400, `{"attribute":"data_base64","code":"malformed","detail":"data_base64: must be a string in base64"}`},
		{"structured: bad time", "first-token", []string{"Content-Type", structured}, `{"specversion":"1.0","id":"1","source":"/s","type":"t","time":"today"}`, 400, `{"attribute":"time","code":"malformed","detail":"time: is not an RFC 3339 timestamp"}`},
		{"binary: no id", "first-token", []string{"Ce-Source", "/s", "Ce-Type", "t", "Ce-Specversion", "1.0"}, `{}`, 400, `{"attribute":"id","code":"malformed","detail":"id: is missing"}`},
		{"binary: no JSON", "first-token", []string{"Ce-Id", "1", "Ce-Source", "/s", "Ce-Type", "t", "Ce-Specversion", "1.0", "Content-Type", "application/json"}, `{`, 400, `{"attribute":"data","code":"malformed","detail":"data: is not JSON, although its content type says so"}`},
		{"batch: no array", "first-token", []string{"Content-Type", batched}, `{}`, 400, `{"code":"malformed","detail":"a batch must be a JSON array"}`},
		{"batch: two bad", "first-token", []string{"Content-Type", batched}, `[` + good + `,{"specversion":"1.0"},5]`, 400, `{"code":"malformed","detail":"2 of the batch's items are no events; nothing was stored","errors":[{"attribute":"id","detail":"id: is missing","index":1},{"detail":"not a JSON object","index":2}]}`},
		{"no event", "first-token", []string{"Content-Type", "application/json"}, `{}`, 415, `{"code":"not_a_cloudevent","detail":"not a CloudEvent: neither a CloudEvents content type nor ce- headers; send Content-Type: application/cloudevents+json, or the attributes as ce- headers"}`},
		{"another format", "first-token", []string{"Content-Type", "application/cloudevents+avro"}, `{}`, 415, `{"code":"unsupported_format","detail":"the only CloudEvents format that is read is JSON (application/cloudevents+json)"}`},
		{"a command", "first-token", []string{"Content-Type", structured}, `{"specversion":"1.0","id":"1","source":"/s","type":"com.8x8.run.send-sms","data":{}}`, 403, `{"code":"reserved_type","detail":"type: com.8x8.run.* is reserved for commands, which are off; BRIDGE_COMMANDS=true turns them on"}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			headers := test.headers
			if test.token != "" {
				headers = append(slices.Clone(headers), "Authorization", "Bearer "+test.token)
			}
			answer := w.request(t, "/events", []byte(test.body), headers...)
			if answer.status != test.status || answer.header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%d %s, want %d application/problem+json", answer.status, answer.header.Get("Content-Type"), test.status)
			}
			var problem map[string]any
			if err := json.Unmarshal([]byte(answer.body), &problem); err != nil {
				t.Fatalf("%v in %s", err, answer.body)
			}
			if problem["type"] != "about:blank" || problem["title"] != http.StatusText(test.status) || problem["status"] != float64(test.status) {
				t.Errorf("problem %s", answer.body)
			}
			for _, name := range []string{"type", "title", "status"} {
				delete(problem, name)
			}
			got, err := json.Marshal(problem)
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(test.want, unescaped(got)); diff != "" {
				t.Errorf("problem (-want +got):\n%s", diff)
			}
		})
	}
	if stored := w.stream(t, "BRIDGE_EVENTS").State.Msgs; stored != 0 {
		t.Errorf("%d messages are stored of what was refused", stored)
	}
	for i, token := range []string{"first-token", "second-token"} {
		answer := w.request(t, "/events", trialEvent(fmt.Sprint("token-", i), "com.example.http", goodData),
			"Content-Type", structured, "Authorization", "Bearer "+token)
		if answer.status != http.StatusAccepted {
			t.Errorf("with token %d: %d %s", i+1, answer.status, answer.body)
		}
		if got := w.awaitOutcome(t, fmt.Sprint("token-", i)); got.Type != smsSucceeded || got.Effects != 1 {
			t.Errorf("with token %d: %+v", i+1, got)
		}
	}
}

// unescaped undoes what package json does to < and >.
func unescaped(b []byte) string {
	return strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(string(b))
}

// What is no CloudEvent on NATS becomes a dead letter, untouched, and stops nobody.
func TestMalformedOnNATS(t *testing.T) {
	t.Parallel()
	w := startWhole(t, wholeOptions{yaml: routesYAML([]string{"bus"}, nil)})
	tests := []struct {
		name   string
		header nats.Header
		body   string
		want   string
	}{
		{"no header, no JSON", nil, "hello +12025550100", "not a CloudEvent: neither a CloudEvents content type nor ce- headers"},
		{"empty", nil, "", "not a CloudEvent: neither a CloudEvents content type nor ce- headers"},
		{"structured without an id", nats.Header{"Content-Type": {"application/cloudevents+json"}}, `{"specversion":"1.0","source":"/s","type":"t"}`, "id: is missing"},
		{"structured, cut", nats.Header{"content-type": {"application/cloudevents+json"}}, `{"specversion":"1.0","id":"1"`, "not JSON: it ends too early"},
		{"binary without a type", nats.Header{"ce-specversion": {"1.0"}, "ce-id": {"1"}, "ce-source": {"/s"}}, `{}`, "type: is missing"},
		{"a batch", nats.Header{"content-type": {"application/cloudevents-batch+json"}}, `[]`, "a batch, where one event is expected"},
		{"base64 that is a number", nats.Header{"content-type": {"application/cloudevents+json"}}, `{"specversion":"1.0","data_base64":5}`, "data_base64: must be a string in base64"},
	}
	for _, test := range tests {
		m := nats.NewMsg("bridge.events.anything")
		m.Header, m.Data = test.header, []byte(test.body)
		if _, err := w.js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	w.await(t, "not every malformed message is a dead letter", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.dead) == len(tests)
	})
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, letter := range w.dead {
				if string(letter.body) != test.body {
					continue
				}
				if letter.subject != "bridge.dead._.malformed" || letter.header.Get("Bridge8x8-Reason") != "malformed" {
					t.Errorf("dead letter on %s for %q", letter.subject, letter.header.Get("Bridge8x8-Reason"))
				}
				if got := letter.header.Get("Bridge8x8-Message"); got != test.want {
					t.Errorf("message %q, want %q", got, test.want)
				}
				for name, values := range test.header {
					if !slices.Equal(letter.header[name], values) {
						t.Errorf("header %s is %q, and was %q", name, letter.header[name], values)
					}
				}
				return
			}
			t.Errorf("no dead letter holds %q", test.body)
		})
	}
	w.post(t, trialEvent("bus-1", "com.example.bus", goodData))
	if diff := gocmp.Diff(outcome{Type: smsSucceeded, Attempts: 1, Effects: 1}, w.awaitOutcome(t, "bus-1")); diff != "" {
		t.Errorf("an event after them (-want +got):\n%s", diff)
	}
	w.nothingHeld(t)
}
