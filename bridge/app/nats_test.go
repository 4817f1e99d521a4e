package app_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

var structuredHeader = nats.Header{"Content-Type": {cloudevent.ContentTypeStructured}}

// A bridge that starts before its NATS lives, says that it is not ready, and
// refuses what it could not store.
func TestNATSAwayAtTheStart(t *testing.T) {
	t.Parallel()
	server := bridgetest.NATSServer(t)
	server.Kill()
	box := bridgetest.StartSandbox(t)
	served := bridgetest.Serve(t, server.URL, box, "", nil)
	served.Start()
	bridgetest.Await(t, "an answer", func() error {
		_, err := bridgetest.Do(t.Context(), served.Client, "GET", served.AdminURL+"/healthz", "")
		return err
	})
	if got := served.Get("/healthz"); got.Status != http.StatusOK {
		t.Errorf("/healthz answers %d: %s", got.Status, got.Body)
	}
	if got := served.Get("/readyz"); got.Status != http.StatusServiceUnavailable || !strings.Contains(got.Body, `"waiting for NATS"`) {
		t.Errorf("/readyz answers %d: %s", got.Status, got.Body)
	}
	refused := served.Post("/events", structured("early"), "Content-Type", cloudevent.ContentTypeStructured)
	wantBody := `{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"nothing can be stored right now; send it again","code":"unavailable"}`
	if refused.Status != http.StatusServiceUnavailable || refused.Header.Get("Retry-After") != "5" || refused.Body != wantBody {
		t.Errorf("POST /events answers %d, Retry-After %q: %s", refused.Status, refused.Header.Get("Retry-After"), refused.Body)
	}

	server.Start()
	served.AwaitReady()
	b := watch(t, server.URL)
	s := sender{t: t, url: served.URL, client: served.Client}
	if err := s.postStructured("early"); err != nil {
		t.Fatal(err)
	}
	b.awaitResults([]string{"early"})
	if n := box.CountEffects(); n != 1 {
		t.Errorf("%d effects, want 1", n)
	}
	if code := served.Terminate(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	// Its own end is not NATS going away.
	if diff := cmp.Diff([]string{"NATS cannot be reached", "NATS is here", "bridge8x8 is ready"}, changes(served.Log)); diff != "" {
		t.Errorf("changes in the log (-want +got):\n%s", diff)
	}
}

var change = regexp.MustCompile(`NATS (cannot be reached|is here|is away|is back)|bridge8x8 is ready`)

// changes are what a log says of whether NATS is there, one for each line.
func changes(log *bridgetest.Log) []string {
	var said []string
	for _, line := range log.Lines("") {
		if what := change.FindString(line); what != "" {
			said = append(said, what)
		}
	}
	return said
}

// A bridge outlives its NATS: while that is away it refuses what it cannot
// store, and it loses and repeats nothing of what it had in hand.
func TestNATSKilledInFlight(t *testing.T) {
	t.Parallel()
	server := bridgetest.NATSServer(t)
	box := bridgetest.StartSandbox(t, "--latency", "50ms")
	served := bridgetest.Serve(t, server.URL, box, "", quick)
	served.Start()
	served.AwaitReady()
	b := watch(t, server.URL)
	s := sender{t: t, url: served.URL, client: served.Client}
	before, after := numbered("before", 200), append(numbered("after", 50), "meanwhile")
	var sends []func() error
	for _, id := range before {
		sends = append(sends, func() error { return s.postStructured(id) })
	}
	if err := together(8, sends); err != nil {
		t.Fatal(err)
	}
	bridgetest.Await(t, "the middle", func() error {
		if n := box.CountEffects(); n < 40 {
			return fmt.Errorf("%d effects", n)
		}
		return nil
	})
	server.Kill()
	if n := box.CountEffects(); n == len(before) {
		t.Fatal("it was killed too late to have anything in flight")
	}
	for i := range 20 {
		got := served.Post("/events", structured("meanwhile"), "Content-Type", cloudevent.ContentTypeStructured)
		if got.Status != http.StatusServiceUnavailable || got.Header.Get("Retry-After") == "" {
			t.Errorf("POST %d without NATS answers %d, Retry-After %q: %s", i, got.Status, got.Header.Get("Retry-After"), got.Body)
		}
	}
	if got := served.Get("/healthz"); got.Status != http.StatusOK {
		t.Errorf("/healthz answers %d: %s", got.Status, got.Body)
	}
	if got := served.Get("/readyz"); got.Status != http.StatusServiceUnavailable || !strings.Contains(got.Body, `"NATS is `) {
		t.Errorf("/readyz answers %d: %s", got.Status, got.Body)
	}

	server.Start()
	served.AwaitReady()
	for _, id := range after {
		if err := s.postStructured(id); err != nil {
			t.Fatal(err)
		}
	}
	ids := slices.Concat(before, after)
	b.awaitResults(ids)
	b.awaitIdle()
	if diff := cmp.Diff(once(ids), counts(bridgetest.ByEvent(box.Effects()))); diff != "" {
		t.Errorf("effects by event (-want +got):\n%s", diff)
	}
	if letters := b.letters(); len(letters) > 0 {
		t.Errorf("held: %v", letters)
	}

	if code := served.Terminate(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	// One line for each change, and few of the trouble that it makes: not one for
	// each worker, over and over. Only refused requests have a line each.
	if diff := cmp.Diff([]string{"bridge8x8 is ready", "NATS is away", "NATS is back"}, changes(served.Log)); diff != "" {
		t.Errorf("changes in the log (-want +got):\n%s", diff)
	}
	others := 0
	for _, line := range served.Log.Lines("") {
		if !change.MatchString(line) && !strings.Contains(line, "a request could not be taken") {
			others++
		}
	}
	if others > 200 {
		t.Errorf("%d lines of trouble", others)
	}
	t.Logf("%d events, as many effects and results; %d lines logged, %d of trouble", len(ids), len(served.Log.Lines("")), others)
}

// What waits for its next attempt is on disk: it survives a restart of a bridge
// whose NATS is a part of it. Nobody else can use its folder meanwhile.
func TestEmbeddedRestart(t *testing.T) {
	t.Parallel()
	box := bridgetest.StartSandbox(t)
	box.Control("faults", `[{"kind":"rate-limit","retryAfter":1},{"kind":"refuse","times":-1}]`)
	dir := filepath.Join(t.TempDir(), "data")
	addr := bridgetest.FreeAddr(t)
	settings := map[string]string{"BRIDGE_DATA_DIR": dir, "BRIDGE_NATS_ADDR": addr, "BRIDGE_ACK_WAIT": "1s"}
	served := bridgetest.Serve(t, "embedded", box, "", settings)
	served.Start()
	served.AwaitReady()
	b := watch(t, "nats://"+addr)
	s := sender{t: t, url: served.URL, client: served.Client}
	ids := numbered("evt", 5)
	for _, id := range ids {
		if err := s.postStructured(id); err != nil {
			t.Fatal(err)
		}
	}
	bridgetest.Await(t, "5 pairs set aside", func() error { return b.atLeast("BRIDGE_WAIT", len(ids)) })

	second := bridgetest.Serve(t, "embedded", box, "", map[string]string{"BRIDGE_DATA_DIR": dir})
	second.Start()
	want := fmt.Sprintf("bridge8x8: folder %q is in use by process %d: stop it, or give this one another BRIDGE_DATA_DIR\n", dir, served.PID())
	if code := second.Wait(); code != 1 || second.Log.String() != want {
		t.Errorf("a second process ended with exit code %d and said\n%s\nwant 1 and\n%s", code, second.Log, want)
	}

	if code := served.Terminate(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if n := box.CountEffects(); n != 0 {
		t.Fatalf("%d effects, although every run was refused", n)
	}
	box.ClearFaults()
	served.Start()
	served.AwaitReady()
	bridgetest.Await(t, "5 results", func() error { return b.atLeast("BRIDGE_RESULTS", len(ids)) })
	b.awaitIdle()
	results := b.results()
	if diff := cmp.Diff(once(ids), counts(results)); diff != "" {
		t.Errorf("results by event (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(once(ids), counts(bridgetest.ByEvent(box.Effects()))); diff != "" {
		t.Errorf("effects by event (-want +got):\n%s", diff)
	}
	for id, of := range results {
		if of[0].Data.Attempts != 1 {
			t.Errorf("event %s: %d attempts, although an outage counts as none", id, of[0].Data.Attempts)
		}
	}
}

// storeIn publishes an event to a stream of somebody else's.
func (b *observed) storeIn(subject string, ids ...string) {
	b.t.Helper()
	for _, id := range ids {
		if _, err := b.js.PublishMsg(b.t.Context(), &nats.Msg{Subject: subject, Header: structuredHeader, Data: []byte(structured(id))}); err != nil {
			b.t.Fatal(err)
		}
	}
}

// An existing stream is taken from its beginning or from now on, as the source
// says, and that once: a later start goes on where the last one ended.
func TestStreamSources(t *testing.T) {
	t.Parallel()
	server := bridgetest.NATSServer(t)
	b := watch(t, server.URL)
	for name, subject := range map[string]string{"ORDERS": "orders.>", "NEWS": "news.>"} {
		if _, err := b.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{subject}}); err != nil {
			t.Fatal(err)
		}
	}
	b.storeIn("orders.eu.1", "order-1", "order-2")
	b.storeIn("orders.us.1", "not-ours-1")
	b.storeIn("news.1", "news-1", "news-2")

	o := bridgetest.Options{
		Env:     map[string]string{"NATS_URL": server.URL},
		Sandbox: bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1}),
		YAML: `
sources:
  - name: orders
    nats: {stream: ORDERS, subjects: [orders.eu.>], start: all}
  - name: news
    nats: {stream: NEWS, start: new}
` + bridgetest.Routes,
	}
	first := bridgetest.Start(t, o)
	b.storeIn("orders.eu.2", "order-3")
	b.storeIn("orders.us.2", "not-ours-2")
	b.storeIn("news.2", "news-3")
	want := []string{"order-1", "order-2", "order-3", "news-3"}
	b.awaitResults(want)
	first.Stop()

	b.storeIn("orders.eu.3", "order-4") // while nobody is there
	b.storeIn("news.3", "news-4")
	bridgetest.Start(t, o)
	want = append(want, "order-4", "news-4")
	b.awaitResults(want)
	b.awaitIdle()
	if diff := cmp.Diff(once(want), counts(bridgetest.ByEvent(o.Sandbox.Effects()))); diff != "" {
		t.Errorf("effects by event (-want +got):\n%s", diff)
	}
	for _, name := range []string{"bridge-orders", "bridge-news"} {
		found := false
		for _, stream := range []string{"ORDERS", "NEWS"} {
			_, err := b.js.Consumer(t.Context(), stream, name)
			found = found || err == nil
		}
		if !found {
			t.Errorf("there is no durable consumer %s", name)
		}
	}
}

func (b *observed) awaitResults(ids []string) {
	b.t.Helper()
	bridgetest.Await(b.t, "results", func() error { return b.atLeast("BRIDGE_RESULTS", len(ids)) })
	if diff := cmp.Diff(once(ids), counts(b.results())); diff != "" {
		b.t.Errorf("results by event (-want +got):\n%s", diff)
	}
}

// Replicas share what comes on plain subjects: each message is stored once.
func TestCoreSourceSharedByReplicas(t *testing.T) {
	t.Parallel()
	server := bridgetest.NATSServer(t)
	o := bridgetest.Options{
		Env:     map[string]string{"NATS_URL": server.URL},
		Sandbox: bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1}),
		YAML: `
sources:
  - name: alerts
    nats: {subjects: [alerts.*], core: true}
` + bridgetest.Routes,
	}
	bridgetest.Start(t, o)
	bridgetest.Start(t, o)
	b := watch(t, server.URL)
	ids := numbered("alert", 40)
	for _, id := range ids {
		if err := b.nc.PublishMsg(&nats.Msg{Subject: "alerts.fire", Header: structuredHeader, Data: []byte(structured(id))}); err != nil {
			t.Fatal(err)
		}
	}
	b.awaitResults(ids)
	b.awaitIdle()
	if n := len(b.messages("BRIDGE_EVENTS", "bridge.events.com.acme.order.shipped")); n != len(ids) {
		t.Errorf("%d messages were stored, want %d", n, len(ids))
	}
	if diff := cmp.Diff(once(ids), counts(bridgetest.ByEvent(o.Sandbox.Effects()))); diff != "" {
		t.Errorf("effects by event (-want +got):\n%s", diff)
	}
}

// A route that was renamed is still the same to events that it has handled, and
// to those that wait for it.
func TestRenamedRouteKeepsItsIdentity(t *testing.T) {
	t.Parallel()
	o := bridgetest.Options{
		Env: map[string]string{"BRIDGE_ACK_WAIT": "1s"}, Dir: t.TempDir(),
		Sandbox: bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1}),
	}
	first := bridgetest.Start(t, o)
	b := watch(t, first.NATSURL)
	s := sender{t: t, js: b.js}
	if err := s.publishStructured("done"); err != nil {
		t.Fatal(err)
	}
	b.awaitResults([]string{"done"})
	if err := o.Sandbox.Fault(sandbox.Fault{Kind: sandbox.Refuse, Times: -1}); err != nil {
		t.Fatal(err)
	}
	if err := s.publishStructured("waiting"); err != nil {
		t.Fatal(err)
	}
	bridgetest.Await(t, "a pair set aside", func() error { return b.atLeast("BRIDGE_WAIT", 1) })
	first.Stop()

	effects := bridgetest.ByEvent(o.Sandbox.Effects())
	o.Sandbox.Reset() // of the fault
	o.YAML = strings.Replace(bridgetest.Routes, "- name: order-shipped", "- name: on-its-way\n    formerly: order-shipped", 1)
	second := bridgetest.Start(t, o)
	b = watch(t, second.NATSURL)
	s.js = b.js
	if err := s.publishBinary("done"); err != nil { // the same event, again
		t.Fatal(err)
	}
	b.awaitResults([]string{"done", "waiting"})
	b.awaitIdle()
	if diff := cmp.Diff(map[string]int{"done": 1}, counts(effects)); diff != "" {
		t.Errorf("effects under the old name (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int{"waiting": 1}, counts(bridgetest.ByEvent(o.Sandbox.Effects()))); diff != "" {
		t.Errorf("effects under the new name (-want +got):\n%s", diff)
	}
	routes := map[string]string{}
	for id, of := range b.results() {
		routes[id] = of[0].Data.Route
	}
	if diff := cmp.Diff(map[string]string{"done": "order-shipped", "waiting": "on-its-way"}, routes); diff != "" {
		t.Errorf("routes in results (-want +got):\n%s", diff)
	}
}

// SIGHUP swaps the whole table of routes, or nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	server := bridgetest.NATSServer(t)
	box := bridgetest.StartSandbox(t)
	served := bridgetest.Serve(t, server.URL, box, "", nil)
	served.Start()
	served.AwaitReady()
	b := watch(t, server.URL)
	s := sender{t: t, js: b.js}
	var sent []string
	send := func(id string) {
		t.Helper()
		if err := s.publishStructured(id); err != nil {
			t.Fatal(err)
		}
		sent = append(sent, id)
		b.awaitResults(sent)
	}
	logged := func(what string, times int) {
		t.Helper()
		bridgetest.Await(t, "the log", func() error {
			if n := len(served.Log.Lines(what)); n < times {
				return fmt.Errorf("%q stands there %d times, want %d", what, n, times)
			}
			return nil
		})
	}
	write := func(yaml string) {
		t.Helper()
		if err := os.WriteFile(served.Config, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	send("first")
	served.Signal(syscall.SIGHUP) // the file is as it was: it is the signal that counts
	logged("the configuration was reloaded", 1)

	write(strings.Replace(bridgetest.Routes, "is on its way", "has left", 1))
	served.Signal(syscall.SIGHUP)
	logged("the configuration was reloaded", 2)
	send("second")

	write(strings.Replace(bridgetest.Routes, "run: send-sms", "run: send-smoke", 1))
	served.Signal(syscall.SIGHUP)
	logged("the one before stays in use", 1)
	logged("bridge.yaml:7:10", 1)
	send("third")

	texts := map[string]string{}
	for id, of := range bridgetest.ByEvent(box.Effects()) {
		texts[id] = textOf(t, of[0])
	}
	want := map[string]string{"first": "Order 9 is on its way.", "second": "Order 9 has left.", "third": "Order 9 has left."}
	if diff := cmp.Diff(want, texts); diff != "" {
		t.Errorf("texts by event (-want +got):\n%s", diff)
	}
}

// What cannot become a message lands where its reason says, untouched, and each
// pair that failed for good gives one failed result.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	bridge := bridgetest.Start(t, bridgetest.Options{YAML: bridgetest.Routes + `
  - name: shouts
    on: com.acme.shout
    run: send-sms
    connection: main
    input:
      destination: ${ .data.phone }
      text: ${ .data.text | ascii_upcase }
`})
	b := watch(t, bridge.NATSURL)
	event := func(id, eventType, data string) string {
		// Spaces, the order of members and an unknown extension must all survive.
		return fmt.Sprintf(`{ "data": %s,  "id":%q, "type":%q, "shelf": "7b", "source":"/shop","subject":"9", "specversion":"1.0" }`, data, id, eventType)
	}
	const order, shout = "com.acme.order.shipped", "com.acme.shout"
	cases := []struct {
		name   string
		header nats.Header
		data   string
		// first is stored before, and succeeds.
		first       string
		wantSubject string
		wantMessage string
		wantResult  bool // a failed one; else none
	}{
		{name: "no event", data: "\x00 hello", wantSubject: "bridge.dead._.malformed", wantMessage: cloudevent.ErrNotCloudEvent.Error()},
		{name: "no JSON", header: structuredHeader, data: `{"specversion":"1.0","id":`, wantSubject: "bridge.dead._.malformed"},
		{
			name: "binary without an id", header: nats.Header{"ce-specversion": {"1.0"}, "ce-source": {"/shop"}, "ce-type": {order}, "X-Own": {"kept"}}, data: `{"phone":"+12025550111"}`,
			wantSubject: "bridge.dead._.malformed", wantMessage: "id: is missing",
		},
		{
			name: "mapping", header: structuredHeader, data: event("mapping", shout, `{"phone":"+12025550111","text":17}`),
			wantSubject: "bridge.dead.shouts.mapping", wantResult: true,
		},
		{
			name: "invalid input", header: structuredHeader, data: event("invalid", order, `{"phone":"12"}`),
			wantSubject: "bridge.dead.order-shipped.invalid_input", wantResult: true,
		},
		{
			name: "rejected", header: structuredHeader, data: event("rejected", order, `{"phone":"+12025550108"}`),
			wantSubject: "bridge.dead.order-shipped.rejected", wantResult: true,
		},
		{
			name: "rejected, binary", header: nats.Header{"ce-specversion": {"1.0"}, "ce-id": {"binary"}, "ce-source": {"/shop"}, "ce-type": {order}, "ce-subject": {"9"}, "X-Own": {"kept"}},
			data: `{"phone":  "+12025550108"}`, wantSubject: "bridge.dead.order-shipped.rejected", wantResult: true,
		},
		{
			name: "an id used again", first: event("reused", order, `{"phone":"+12025550111"}`),
			header: structuredHeader, data: event("reused", order, `{"phone":"+12025550112"}`),
			wantSubject: "bridge.dead.order-shipped.id_reused", wantMessage: "an event with this source and id, but another type, subject or data, was handled before",
		},
	}
	store := func(header nats.Header, data string) {
		t.Helper()
		if _, err := b.js.PublishMsg(t.Context(), &nats.Msg{Subject: "bridge.events.any", Header: header, Data: []byte(data)}); err != nil {
			t.Fatal(err)
		}
	}
	results := 0
	for i, c := range cases {
		if c.first != "" {
			store(structuredHeader, c.first)
			results++
			bridgetest.Await(t, "the first result", func() error { return b.atLeast("BRIDGE_RESULTS", results) })
		}
		store(c.header, c.data)
		if c.wantResult {
			results++
		}
		bridgetest.Await(t, c.name, func() error { return b.atLeast("BRIDGE_DEAD", i+1) })
		l := b.letters()[i]
		_, reason, _ := strings.Cut(strings.TrimPrefix(c.wantSubject, "bridge.dead."), ".")
		if l.Subject != c.wantSubject || l.Reason != reason {
			t.Errorf("%s: dead letter on %s for %q, want on %s", c.name, l.Subject, l.Reason, c.wantSubject)
		}
		if l.Data != c.data {
			t.Errorf("%s: the letter holds\n%q\nand the event was\n%q", c.name, l.Data, c.data)
		}
		for name, value := range c.header {
			if diff := cmp.Diff(value, l.Header[name]); diff != "" {
				t.Errorf("%s: header %s of the letter (-want +got):\n%s", c.name, name, diff)
			}
		}
		message := l.Header.Get("Bridge8x8-Message")
		if c.wantMessage != "" && message != c.wantMessage || message == "" || strings.Contains(message, "555") {
			t.Errorf("%s: the letter says %q, want %q and never a number", c.name, message, c.wantMessage)
		}
	}
	b.awaitIdle()
	failed := map[string]int{}
	for _, of := range b.results() {
		for _, r := range of {
			if r.Data.Error == nil {
				continue
			}
			failed[r.Data.Cause.ID+" "+string(r.Data.Error.Reason)]++
			if r.Subject != "bridge.results.send-sms.failed" || r.Event.Type() != "com.8x8.action.send-sms.failed" || r.Data.Output != nil {
				t.Errorf("a failed result on %s of type %s with output %s", r.Subject, r.Event.Type(), r.Data.Output)
			}
		}
	}
	want := map[string]int{"mapping mapping": 1, "invalid invalid_input": 1, "rejected rejected": 1, "binary rejected": 1}
	if diff := cmp.Diff(want, failed); diff != "" {
		t.Errorf("failed results (-want +got):\n%s", diff)
	}
	if n := b.count("BRIDGE_RESULTS"); n != results {
		t.Errorf("%d results, want %d", n, results)
	}
	if diff := cmp.Diff(map[string]int{"reused": 1}, counts(bridgetest.ByEvent(bridge.Sandbox.Effects()))); diff != "" {
		t.Errorf("effects by event (-want +got):\n%s", diff)
	}
}

// What an embedded bridge hands back as it stops is taken again as it starts,
// long before the ack clock of anything ends.
func TestEmbeddedHandsBack(t *testing.T) {
	t.Parallel()
	const events = 20
	dir, effects := t.TempDir(), map[string]int{}
	start := func(t *testing.T) (w *wholeBridge) {
		t.Cleanup(func() { // once the bridge has stopped
			for i := range events {
				id := fmt.Sprint("again-", i)
				effects[id] += w.effectsOf(t, id)
			}
		})
		w = startWhole(t, wholeOptions{
			yaml: routesYAML([]string{"again"}, nil), box: sandbox.Options{Latency: func() time.Duration { return 20 * time.Millisecond }},
			env: map[string]string{"BRIDGE_DATA_DIR": dir, "BRIDGE_ACK_WAIT": "10m", "BRIDGE_CONCURRENCY": "4"},
		})
		return w
	}
	t.Run("first", func(t *testing.T) {
		w := start(t)
		for i := range events {
			w.post(t, trialEvent(fmt.Sprint("again-", i), "com.example.again", goodData))
		}
		w.await(t, "no run", func() bool { return len(w.box.Effects()) > 0 })
	})
	t.Run("second", func(t *testing.T) {
		w := start(t)
		w.await(t, "not every event has its result", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(w.results) == events
		})
	})
	for i := range events {
		if id := fmt.Sprint("again-", i); effects[id] != 1 {
			t.Errorf("event %s: %d effects", id, effects[id])
		}
	}
}
