package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/bridgetest/proxy"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

// soon makes a run's silence judged about 8 s after its claim.
var soon = map[string]string{"BRIDGE_ACK_WAIT": "1s", "MEMBRANE_RUN_LIMIT": "1s"}

const soonMargin = 2 * time.Second

func with(env map[string]string, more ...string) map[string]string {
	all := maps.Clone(env)
	for i := 0; i+1 < len(more); i += 2 {
		all[more[i]] = more[i+1]
	}
	return all
}

// states hears every revision of every record, from now on, but not that an
// outcome was met again (R18), as it is where an acknowledgement comes late. Of two
// workers who write the same at the same revision, one is refused, and both are heard:
// that is one.
func (b *observed) states() func() []bridge.State {
	b.t.Helper()
	var mu sync.Mutex
	var heard []bridge.State
	written := map[string]bool{}
	sub, err := b.nc.Subscribe("$KV.BRIDGE_LEDGER.*.*", func(m *nats.Msg) {
		var r bridge.Record
		if json.Unmarshal(m.Data, &r) != nil || r.State == "" || r.Published {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if at := m.Subject + " " + m.Header.Get(jetstream.ExpectedLastSubjSeqHeader) + " " + string(r.State); !written[at] {
			written[at] = true
			heard = append(heard, r.State)
		}
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := b.nc.Flush(); err != nil {
		b.t.Fatal(err)
	}
	return func() []bridge.State {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(heard)
	}
}

// A proxy swallows the answer to a claim. Its owner asks until it knows: the
// request is made once, and if it came to know too late, after a claim of which
// that is certain (R7).
func TestClaimAckSwallowed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		blind time.Duration // for how long nothing else that the ledger says comes through
		want  []bridge.State
	}{
		{"it reads its own try", 0, []bridge.State{bridge.Running, bridge.Succeeded}},
		{"it can read only after send-by", 7 * time.Second, []bridge.State{bridge.Running, bridge.Waiting, bridge.Running, bridge.Succeeded}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := bridgetest.NATSServer(t)
			var armed atomic.Bool
			var until atomic.Int64
			swallowed := make(chan struct{})
			wire := proxy.StartSwallowing(t, strings.TrimPrefix(server.URL, "nats://"), func(_ string, payload []byte) bool {
				if armed.Load() && bytes.HasPrefix(payload, []byte(`{"stream":"KV_BRIDGE_LEDGER"`)) {
					armed.Store(false)
					until.Store(time.Now().Add(test.blind).UnixNano())
					close(swallowed)
					return true
				}
				return time.Now().UnixNano() < until.Load() && bytes.Contains(payload, []byte("stream_msg_get_response"))
			})
			o := bridgetest.Options{Env: with(soon, "NATS_URL", wire.URL()), LogMargin: soonMargin, Sandbox: bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1})}
			bridgetest.Start(t, o)
			b := watch(t, server.URL)
			states := b.states()
			armed.Store(true)
			publishOrders(t, b, []string{"evt"})
			<-swallowed
			b.awaitResults([]string{"evt"})
			b.awaitIdle()
			if diff := cmp.Diff(map[string]int{"evt": 1}, counts(bridgetest.ByEvent(o.Sandbox.Effects()))); diff != "" {
				t.Errorf("effects by event (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.want, states()); diff != "" {
				t.Errorf("the record (-want +got):\n%s", diff)
			}
			if r := b.results()["evt"][0]; r.Data.Attempts != 1 {
				t.Errorf("%d attempts, want 1", r.Data.Attempts)
			}
			if letters := b.letters(); len(letters) > 0 {
				t.Errorf("dead letters: %v", letters)
			}
		})
	}
}

// A process that stands still between claim and send for longer than send-by
// starts no request when it goes on: the pair waits, and is sent once (R5).
func TestPausedBetweenClaimAndSend(t *testing.T) {
	t.Parallel()
	const tooLong = 5500 * time.Millisecond // send-by is 5 s
	server := bridgetest.NATSServer(t)
	var once sync.Once
	o := bridgetest.Options{
		Env: with(soon, "NATS_URL", server.URL), LogMargin: soonMargin, Sandbox: bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1}),
		Hook: func(step string, _ bridge.Key) {
			if step == "claimed" {
				once.Do(func() { <-time.After(tooLong) })
			}
		},
	}
	bridgetest.Start(t, o)
	b := watch(t, server.URL)
	states := b.states()
	publishOrders(t, b, []string{"evt"})
	b.awaitResults([]string{"evt"})
	b.awaitIdle()
	if diff := cmp.Diff([]bridge.State{bridge.Running, bridge.Waiting, bridge.Running, bridge.Succeeded}, states()); diff != "" {
		t.Errorf("the record (-want +got):\n%s", diff)
	}
	if n := len(o.Sandbox.Effects()); n != 1 {
		t.Errorf("%d effects, want 1", n)
	}
	if r := b.results()["evt"][0]; r.Data.Attempts != 1 {
		t.Errorf("%d attempts, want 1", r.Data.Attempts)
	}
}

// One replica's worker is stopped after its reply came, until the other replica
// has held the pair as unknown, with a dead letter. When it goes on there is one
// result, and that letter is withdrawn (R6).
func TestStoppedAfterTheReply(t *testing.T) {
	t.Parallel()
	server := bridgetest.NATSServer(t)
	stopped, goOn := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(goOn) })
	var once sync.Once
	o := bridgetest.Options{
		Env: with(soon, "NATS_URL", server.URL), LogMargin: soonMargin, Sandbox: bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1}),
		Hook: func(step string, _ bridge.Key) {
			if step == "ran" {
				once.Do(func() { close(stopped); <-goOn })
			}
		},
	}
	if err := o.Sandbox.Fault(sandbox.Fault{Kind: sandbox.HideLog, Times: -1}); err != nil {
		t.Fatal(err)
	}
	bridgetest.Start(t, o)
	bridgetest.Start(t, o)
	o.Sandbox.SetWebhook("", "") // a receipt would tell
	t.Cleanup(release)           // before they are stopped
	b := watch(t, server.URL)
	publishOrders(t, b, []string{"evt"})
	<-stopped
	publishOrders(t, b, []string{"evt"}) // its publisher repeats itself, and another worker has it
	bridgetest.Await(t, "the dead letter", func() error { return b.atLeast("BRIDGE_DEAD", 1) })
	if l := b.letters()[0]; l.Reason != "outcome_unknown" || b.count("BRIDGE_RESULTS") != 0 {
		t.Errorf("%v, and %d results", l, b.count("BRIDGE_RESULTS"))
	}
	release()
	b.awaitResults([]string{"evt"})
	b.awaitIdle()
	if letters := b.letters(); len(letters) > 0 {
		t.Errorf("not withdrawn: %v", letters)
	}
	r := b.results()["evt"][0]
	if effects := o.Sandbox.Effects(); len(effects) != 1 || r.Data.ActionRunID != effects[0].ActionRunID || r.Data.Error != nil {
		t.Errorf("%d effects, and a result of run %q with error %v", len(effects), r.Data.ActionRunID, r.Data.Error)
	}
}

// A ledger that somebody deletes under a running bridge is noticed. Nothing is
// sent without one, and with a new one what is older than it is held: it may
// have been sent (R12).
func TestLedgerDeleted(t *testing.T) {
	t.Parallel()
	server := bridgetest.NATSServer(t)
	box := bridgetest.StartSandbox(t)
	served := bridgetest.Serve(t, server.URL, box, "", quick)
	served.Start()
	served.AwaitReady()
	b := watch(t, server.URL)
	publishOrders(t, b, []string{"done"})
	b.awaitResults([]string{"done"})
	box.Control("faults", `[{"kind":"drop-after","match":"running"},{"kind":"hide-log","match":"running"}]`)
	publishOrders(t, b, []string{"running"})
	bridgetest.Await(t, "a pair in doubt", func() error { return b.atLeast("BRIDGE_WAIT", 1) })

	if err := b.js.DeleteStream(t.Context(), "KV_BRIDGE_LEDGER"); err != nil {
		t.Fatal(err)
	}
	publishOrders(t, b, []string{"during"})
	bridgetest.Await(t, "its trouble", func() error {
		if len(served.Log.Lines("cannot write to the ledger")) == 0 {
			return errors.New("nothing is logged")
		}
		return nil
	})
	served.Kill()
	publishOrders(t, b, []string{"between"})
	served.Start()
	served.AwaitReady()
	publishOrders(t, b, []string{"new"})
	bridgetest.Await(t, "five results", func() error { return b.atLeast("BRIDGE_RESULTS", 5) })
	b.awaitIdle()

	if diff := cmp.Diff(map[string]int{"done": 1, "running": 1, "new": 1}, counts(bridgetest.ByEvent(box.Effects()))); diff != "" {
		t.Errorf("effects by event (-want +got):\n%s", diff)
	}
	held := map[string]string{}
	for _, l := range b.letters() {
		held[l.Cause] += l.Reason
	}
	if diff := cmp.Diff(map[string]string{"running": "unledgered", "during": "unledgered", "between": "unledgered"}, held); diff != "" {
		t.Errorf("dead letters (-want +got):\n%s", diff)
	}
	failed := map[string]bool{}
	for id, of := range b.results() {
		failed[id] = of[0].Data.Error != nil
	}
	if diff := cmp.Diff(map[string]bool{"done": false, "running": true, "during": true, "between": true, "new": false}, failed); diff != "" {
		t.Errorf("failed results (-want +got):\n%s", diff)
	}
	if len(served.Log.Lines("this ledger does not know a source that was taken before")) == 0 {
		t.Error("the lost ledger was not noticed")
	}
}

// Under another name, or with its durable gone, a source is gone through again,
// and finished from the ledger: nothing is sent twice. Under another prefix
// there is another ledger, and what is older than that is not sent (R12).
func TestDurableRenamed(t *testing.T) {
	t.Parallel()
	const yaml = `
sources:
  - name: orders
    nats: {stream: ORDERS, start: all}
` + bridgetest.Routes
	for _, test := range []struct {
		name    string
		yaml    string
		env     map[string]string
		between func(t *testing.T, b *observed)
		results string // the stream
	}{
		{name: "another name", yaml: strings.Replace(yaml, "name: orders", "name: shop-orders", 1)},
		{name: "the durable is deleted", yaml: yaml, between: func(t *testing.T, b *observed) {
			t.Helper()
			if err := b.js.DeleteConsumer(t.Context(), "ORDERS", "bridge-orders"); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "another prefix", yaml: strings.Replace(yaml, "start: all", "start: new", 1), env: map[string]string{"BRIDGE_PREFIX": "second"}, results: "SECOND_RESULTS"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := bridgetest.NATSServer(t)
			b := watch(t, server.URL)
			if _, err := b.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}); err != nil {
				t.Fatal(err)
			}
			o := bridgetest.Options{Env: map[string]string{"NATS_URL": server.URL}, YAML: yaml, Sandbox: bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1})}
			old := numbered("old", 10)
			b.storeIn("orders.1", old...)
			first := bridgetest.Start(t, o)
			b.awaitResults(old)
			b.awaitIdle()
			first.Stop()
			if test.between != nil {
				test.between(t, b)
			}
			b.storeIn("orders.2", "between")
			o.YAML, o.Env = test.yaml, with(o.Env)
			maps.Copy(o.Env, test.env)
			bridgetest.Start(t, o)
			b.storeIn("orders.3", "new")
			want := append(slices.Clone(old), "between", "new")
			if test.results != "" { // before the other bridge's time
				want = append(slices.Clone(old), "new")
				bridgetest.Await(t, "the result", func() error { return b.atLeast(test.results, 1) })
			} else {
				bridgetest.Await(t, "the results", func() error {
					if got := counts(b.results()); len(got) < len(want) {
						return fmt.Errorf("%d of %d", len(got), len(want))
					}
					return nil
				})
			}
			if test.between == nil { // nobody takes by the old name any more
				if err := b.js.DeleteConsumer(t.Context(), "ORDERS", "bridge-orders"); err != nil {
					t.Fatal(err)
				}
			}
			b.awaitIdle()
			if diff := cmp.Diff(once(want), counts(bridgetest.ByEvent(o.Sandbox.Effects()))); diff != "" {
				t.Errorf("effects by event (-want +got):\n%s", diff)
			}
			for id, of := range b.results() {
				for _, r := range of { // published once more at most (R18), and the same
					if r.Event.RawID != of[0].Event.RawID || len(of) > 2 {
						t.Errorf("event %s has %d results, of ids %s and %s", id, len(of), of[0].Event.RawID, r.Event.RawID)
					}
				}
			}
			if letters := b.letters(); len(letters) > 0 {
				t.Errorf("dead letters: %v", letters)
			}
		})
	}
}

// Events as large as may be go every way that there is: sent at once, set aside
// first, and given up on. Outputs up to what Membrane answers end well, and what
// is too large to carry is cut (R10, R13).
func TestLargest(t *testing.T) {
	t.Parallel()
	const limit = 1<<20 - 32<<10
	w := startWhole(t, wholeOptions{
		yaml: routesYAML([]string{"sent", "parked", "rejected", "output", "beyond"}, nil),
		env:  map[string]string{"MEMBRANE_RUN_LIMIT": "60s"}, // 30 MB take their time on a slow machine
	})
	padded := func(id, kind, to string, size int) []byte {
		data := map[string]any{"to": to, "text": "hello", "pad": ""}
		data["pad"] = strings.Repeat("x", size-len(trialEvent(id, kind, data)))
		return trialEvent(id, kind, data)
	}
	output := func(size int) json.RawMessage {
		const around = `{"output":{"umid":"u","status":{"code":"QUEUED"},"pad":""},"actionRunId":"66f100000000000000000009"}`
		return json.RawMessage(strings.Replace(around, `"pad":"`, `"pad":"`+strings.Repeat("x", size-len(around)), 1))
	}
	for _, f := range []sandbox.Fault{
		{Kind: sandbox.RateLimit, RetryAfter: 1, Match: "parked-1"},
		{Kind: sandbox.Status, Status: 200, After: true, Body: output(30 << 20), Match: "output-1"},
		{Kind: sandbox.Status, Status: 200, After: true, Body: output(30<<20 + 1), Match: "beyond-1"},
	} {
		if err := w.box.Fault(f); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range [][]byte{
		padded("sent-1", "com.example.sent", "+12025550100", limit),
		padded("parked-1", "com.example.parked", "+12025550100", limit),
		padded("rejected-1", "com.example.rejected", "+12025550108", limit),
		trialEvent("output-1", "com.example.output", goodData),
		trialEvent("beyond-1", "com.example.beyond", goodData),
	} {
		w.post(t, e)
	}
	if got := w.request(t, "/events", padded("more", "com.example.sent", "+12025550100", limit+1), "Content-Type", "application/cloudevents+json"); got.status != http.StatusRequestEntityTooLarge {
		t.Errorf("an event of one byte more: %d %s", got.status, got.body)
	}
	// On NATS the server's own limit holds, of headers and data.
	most := int(w.nats.MaxPayload())
	m := &nats.Msg{Subject: "bridge.events.any", Header: structuredHeader}
	m.Data = padded("sent-2", "com.example.sent", "+12025550100", most-m.Size()+len(m.Subject))
	if _, err := w.js.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}

	well := outcome{Type: smsSucceeded, Attempts: 1, Effects: 1}
	for id, want := range map[string]outcome{
		"sent-1": well, "sent-2": well, "parked-1": well, "beyond-1": well,
		"rejected-1": {Type: smsFailed, Attempts: 1, Reason: "rejected", Message: "8x8 rejected the message", Dead: "rejected"},
	} {
		if diff := cmp.Diff(want, w.awaitOutcome(t, id)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", id, diff)
		}
	}
	w.await(t, "output-1 has no result", func() bool { return len(w.resultsOf(t, "output-1")) > 0 })
	r := w.resultsOf(t, "output-1")[0].Data
	rec, _ := w.record(t, "output-1", "output")
	if !r.OutputTruncated || r.Output != nil || r.ActionRunID != "66f100000000000000000009" || !rec.OutputTruncated || rec.Output != nil || rec.RunID != r.ActionRunID {
		t.Errorf("30 MB of output: truncated %v, %d bytes, run %q; in the record %v, %d bytes, run %q",
			r.OutputTruncated, len(r.Output), r.ActionRunID, rec.OutputTruncated, len(rec.Output), rec.RunID)
	}
	if n := w.effectsOf(t, "output-1"); n != 1 || w.actsOf("output-1") != 1 {
		t.Errorf("output-1: %d effects of %d runs", n, w.actsOf("output-1"))
	}
	if l := w.lettersOf("rejected-1"); len(l) == 1 && len(l[0].body) < limit && l[0].header.Get("Bridge8x8-Reference") == "" {
		t.Errorf("the dead letter holds %d bytes of %d, and no reference", len(l[0].body), limit)
	}
	w.nothingHeld(t)
}

// With a ledger that is over 90 % full nothing is claimed. The events wait, and
// go on as soon as somebody makes room (R13).
func TestLedgerFull(t *testing.T) {
	t.Parallel()
	w := startWhole(t, wholeOptions{yaml: routesYAML([]string{"full"}, nil)})
	for i := range 20 {
		w.post(t, trialEvent(fmt.Sprint("before-", i), "com.example.full", goodData))
	}
	w.await(t, "20 results", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.results) == 20 })
	resize := func(share float64) {
		t.Helper()
		info := w.stream(t, "KV_BRIDGE_LEDGER")
		cfg := info.Config
		cfg.MaxBytes = int64(float64(info.State.Bytes) / share)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if _, err := w.js.UpdateStream(ctx, cfg); err != nil {
			t.Fatal(err)
		}
	}
	ready := func() (bool, string) {
		answer, err := bridgetest.Do(t.Context(), http.DefaultClient, http.MethodGet, w.admin+"/readyz", "")
		if err != nil {
			t.Fatal(err)
		}
		return answer.Status == http.StatusOK, answer.Body
	}
	resize(0.93)
	w.await(t, "it is not seen to be full", func() bool { ok, body := ready(); return !ok && strings.Contains(body, "over 90 % full") })
	for i := range 20 {
		w.post(t, trialEvent(fmt.Sprint("full-", i), "com.example.full", goodData))
	}
	// Each is handed back at least once.
	w.await(t, "the events are not handed back", func() bool {
		consumer, err := w.js.Consumer(t.Context(), "BRIDGE_EVENTS", "bridge-events")
		if err != nil {
			t.Fatal(err)
		}
		return consumer.CachedInfo().NumRedelivered >= 20
	})
	if acts := len(w.box.Effects()); acts != 20 {
		t.Errorf("%d effects, want the 20 from before", acts)
	}
	w.mu.Lock()
	if len(w.results) != 20 || len(w.dead) != 0 {
		t.Errorf("%d results and %d dead letters while it was full", len(w.results), len(w.dead))
	}
	w.mu.Unlock()
	resize(0.01)
	for i := range 20 {
		if diff := cmp.Diff(outcome{Type: smsSucceeded, Attempts: 1, Effects: 1}, w.awaitOutcome(t, fmt.Sprint("full-", i))); diff != "" {
			t.Errorf("full-%d (-want +got):\n%s", i, diff)
		}
	}
	w.nothingHeld(t)
}

// An event is the same one exactly if its source and id are the same bytes,
// whatever door it comes by and however that door writes them (R2).
func TestOneIdentityByEveryDoor(t *testing.T) {
	t.Parallel()
	type identity struct{ source, id string }
	var all []identity
	for i, source := range []string{
		"/shop", "/Shop", "/shop/", "/shop a", "/shop%20a", "/shop%2520a", "/shop+a", "/shop?q=1&r=%41#f", "urn:é", "urn:e\u0301", "urn:%C3%A9",
		"https://例え.jp/ショップ", "/🛒", `/"quoted"\back`, "/shop/../shop", "/" + strings.Repeat("long/", 1600),
	} {
		for _, id := range []string{"1", "%31", "a b", "a%20b", "ü/%", strings.Repeat("i", 1000)} {
			if i > 5 && len(id) > 1 { // not every one with every one
				continue
			}
			all = append(all, identity{source, id})
		}
	}
	w := startWhole(t, wholeOptions{yaml: routesYAML([]string{"door"}, nil)})
	const data = `{"text":"hello","to":"+12025550100"}`
	structured := func(e identity) []byte {
		body, err := json.Marshal(map[string]any{"specversion": "1.0", "id": e.id, "source": e.source, "type": "com.example.door", "datacontenttype": "application/json", "data": json.RawMessage(data)})
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	// source: CloudEvents HTTP and NATS bindings, 3.1.3.2: what is no printable ASCII, space, quote and percent sign are percent-encoded.
	encoded := func(s string) string {
		var b strings.Builder
		for _, c := range []byte(s) {
			if c <= ' ' || c > '~' || c == '"' || c == '%' {
				fmt.Fprintf(&b, "%%%02X", c)
			} else {
				b.WriteByte(c)
			}
		}
		return b.String()
	}
	store := func(m *nats.Msg) {
		m.Subject = "bridge.events.door"
		if _, err := w.js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	doors := []func(e identity){
		func(e identity) { w.post(t, structured(e)) },
		func(e identity) {
			answer := w.request(t, "/events", []byte(data), "ce-specversion", "1.0", "ce-type", "com.example.door", "Content-Type", "application/json",
				"ce-source", encoded(e.source), "ce-id", encoded(e.id))
			if answer.status != http.StatusAccepted {
				t.Errorf("%q of %q in binary over HTTP: %d %s", e.id, e.source, answer.status, answer.body)
			}
		},
		func(e identity) { store(&nats.Msg{Header: structuredHeader, Data: structured(e)}) },
		func(e identity) {
			store(&nats.Msg{Data: []byte(data), Header: nats.Header{
				"ce-specversion": {"1.0"}, "ce-type": {"com.example.door"}, "ce-datacontenttype": {"application/json"},
				"ce-source": {encoded(e.source)}, "ce-id": {encoded(e.id)},
			}})
		},
	}
	for i, e := range all {
		for door := range doors { // each is the first one by turns
			doors[(i+door)%len(doors)](e)
		}
	}
	w.await(t, "not every identity has its result", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.results) >= len(all)
	})
	w.nothingHeld(t)
	got, want := map[identity]int{}, map[identity]int{}
	for _, e := range all {
		want[e] = 1
	}
	for _, effect := range w.box.Effects() {
		var meta bridge.Meta
		if err := json.Unmarshal(effect.Meta, &meta); err != nil {
			t.Fatal(err)
		}
		got[identity{meta.Source, meta.EventID}]++
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("effects by identity (-want +got):\n%s", diff)
	}
	w.mu.Lock()
	if len(w.dead) > 0 {
		t.Errorf("%d dead letters, the first: %v", len(w.dead), w.dead[0].header)
	}
	w.mu.Unlock()

	// And the same identity with other data is told, by whatever door it comes.
	other := strings.Replace(string(structured(all[0])), "hello", "other", 1)
	w.post(t, []byte(other))
	w.await(t, "no dead letter", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.dead) == 1 })
	w.mu.Lock()
	if reason := w.dead[0].header.Get("Bridge8x8-Reason"); reason != "id_reused" {
		t.Errorf("dead letter %s", reason)
	}
	w.mu.Unlock()
	if n := len(w.box.Effects()); n != len(all) {
		t.Errorf("%d effects, want %d", n, len(all))
	}
	t.Logf("%d identities by %d doors each: as many effects", len(all), len(doors))
}

// 2,000 events are parked at one connection. Those of another connection go
// through meanwhile, as many as without them (R10).
func TestParkedEventsDelayNobodyElse(t *testing.T) {
	t.Parallel()
	const parked, others = 2000, 200
	w := startWhole(t, wholeOptions{yaml: routesYAML([]string{"stuck", "free"}, nil)})
	send := func(prefix, kind string, n int) {
		t.Helper()
		var sends []func() error
		for i := range n {
			sends = append(sends, func() error {
				_, err := w.js.PublishMsg(t.Context(), &nats.Msg{Subject: "bridge.events.any", Header: structuredHeader, Data: trialEvent(fmt.Sprint(prefix, i), kind, goodData)})
				return err
			})
		}
		if err := together(8, sends); err != nil {
			t.Fatal(err)
		}
	}
	count := func(prefix string) int {
		w.mu.Lock()
		defer w.mu.Unlock()
		n := 0
		for _, m := range w.results {
			if bytes.Contains(m.body, []byte(`"causationid":"`+prefix)) {
				n++
			}
		}
		return n
	}
	// p99 of the time from an event's being stored to its outcome, for those of one prefix.
	p99 := func(prefix string) time.Duration {
		stored := map[string]time.Time{}
		b := &observed{t: t, nc: w.nats, js: w.js}
		for _, m := range b.messages("BRIDGE_EVENTS", "bridge.events.any") {
			var e struct{ ID string }
			if err := json.Unmarshal(m.Data(), &e); err != nil {
				t.Fatal(err)
			}
			meta, err := m.Metadata()
			if err != nil {
				t.Fatal(err)
			}
			stored[e.ID] = meta.Timestamp
		}
		var took []time.Duration
		for _, m := range b.messages("BRIDGE_RESULTS") {
			var r struct {
				CausationID string
				Time        time.Time
			}
			if err := json.Unmarshal(m.Data(), &r); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(r.CausationID, prefix) {
				took = append(took, r.Time.Sub(stored[r.CausationID]))
			}
		}
		slices.Sort(took)
		return took[len(took)*99/100]
	}
	send("alone-", "com.example.free", others)
	w.await(t, "the events before", func() bool { return count("alone-") == others })

	if err := w.box.Fault(sandbox.Fault{Kind: sandbox.Refuse, RetryAfter: 3600, Match: "stuck-", Times: -1}); err != nil {
		t.Fatal(err)
	}
	send("stuck-", "com.example.stuck", parked)
	w.await(t, "not all are set aside", func() bool { return w.setAside(t) == parked })
	send("beside-", "com.example.free", others)
	w.await(t, "the events beside", func() bool { return count("beside-") == others })
	// On a slow machine some of those beside have waited there for a slot, too, and
	// are gone once their acknowledgements have arrived.
	w.await(t, "not all parked events are set aside, and they alone", func() bool { return w.setAside(t) == parked })
	if n := count("stuck-"); n != 0 {
		t.Errorf("%d of them have a result", n)
	}
	// They were refused once or so, and are not tried over and over.
	w.mu.Lock()
	acts := 0
	for id, n := range w.acts {
		if strings.HasPrefix(id, "stuck-") {
			acts += n
		}
	}
	w.mu.Unlock()
	if acts > 200 {
		t.Errorf("%d requests for events that were told to wait for an hour", acts)
	}
	alone, beside := p99("alone-"), p99("beside-")
	t.Logf("p99 of the other connection: %v alone, %v beside %d parked: a ratio of %.2f; %d requests for those", alone, beside, parked, float64(beside)/float64(alone), acts)
}

// One route's pair waits for longer than the results' stream remembers
// duplicates, while the other one is done and its event is published again. What
// consumers get twice is the same event under the same id, and no more than
// once more (R18).
func TestWaitsPastTheDuplicateWindow(t *testing.T) {
	t.Parallel()
	const window = 200 * time.Millisecond
	server := bridgetest.NATSServer(t)
	b := watch(t, server.URL)
	if _, err := b.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "BRIDGE_RESULTS", Subjects: []string{"bridge.results.>"}, Duplicates: window}); err != nil {
		t.Fatal(err)
	}
	o := bridgetest.Options{
		Env: map[string]string{"NATS_URL": server.URL}, Sandbox: bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1}),
		YAML: strings.Replace(bridgetest.Routes, "routes:", "  other: {key: 8x8-sandbox}\nroutes:", 1) + `
  - name: second
    on: com.acme.order.shipped
    run: send-sms
    connection: other
    input: {destination: "${ .data.phone }", text: "And this."}
`,
	}
	first, second := bridge.NewKey(bridge.EventHash("/shop", "evt"), "order-shipped", 0), bridge.NewKey(bridge.EventHash("/shop", "evt"), "second", 0)
	if err := o.Sandbox.Fault(sandbox.Fault{Kind: sandbox.Refuse, Match: string(second), Times: -1}); err != nil {
		t.Fatal(err)
	}
	bridgetest.Start(t, o)
	publishOrders(t, b, []string{"evt"})
	bridgetest.Await(t, "one result and one pair set aside", func() error {
		return errors.Join(b.atLeast("BRIDGE_RESULTS", 1), b.atLeast("BRIDGE_WAIT", 1))
	})
	for again := range 3 {
		last := b.messages("BRIDGE_RESULTS")
		meta, err := last[len(last)-1].Metadata()
		if err != nil {
			t.Fatal(err)
		}
		bridgetest.Await(t, "the end of the window", func() error {
			if age := time.Since(meta.Timestamp); age < 3*window {
				return fmt.Errorf("%v", age)
			}
			return nil
		})
		publishOrders(t, b, []string{"evt"})
		bridgetest.Await(t, "the event to be dealt with", func() error {
			consumer, err := b.js.Consumer(t.Context(), "BRIDGE_EVENTS", "bridge-events")
			if err != nil {
				return err
			}
			if info := consumer.CachedInfo(); info.AckFloor.Stream < uint64(again+2) {
				return fmt.Errorf("acknowledged up to %d", info.AckFloor.Stream)
			}
			return nil
		})
	}
	if _, err := bridgetest.Do(t.Context(), bridgetest.Client(t), http.MethodDelete, o.Sandbox.URL+"/_sandbox/faults", ""); err != nil {
		t.Fatal(err)
	}
	bridgetest.Await(t, "the other's result", func() error { return b.atLeast("BRIDGE_RESULTS", 3) })
	b.awaitIdle()

	seen := map[string][]string{}
	for _, m := range b.messages("BRIDGE_RESULTS") {
		seen[m.Headers().Get(jetstream.MsgIDHeader)] = append(seen[m.Headers().Get(jetstream.MsgIDHeader)], string(m.Data()))
	}
	if n := len(seen[string(first)]); n != 2 {
		t.Errorf("the first route's result was stored %d times, want once and once more", n)
	}
	if n := len(seen[string(second)]); n < 1 || n > 2 {
		t.Errorf("the second route's result was stored %d times", n)
	}
	for id, bodies := range seen {
		if same := slices.Compact(bodies); len(same) != 1 {
			t.Errorf("different results under the id %s:\n%s", id, strings.Join(same, "\n"))
		}
	}
	if len(seen) != 2 {
		t.Errorf("results under %d ids, want 2", len(seen))
	}
	if diff := cmp.Diff(map[string]int{"evt": 2}, counts(bridgetest.ByEvent(o.Sandbox.Effects()))); diff != "" {
		t.Errorf("effects by event (-want +got):\n%s", diff)
	}
}
