package app_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/app"
	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

const traceRoutes = bridgetest.Routes + `
  - name: copy
    on: com.acme.order.shipped
    filters: [{exact: {subject: twice}}]
    run: send-sms
    connection: main
    input: {destination: "${ .data.phone }", text: A secret for you}
`

// steps are the kinds of an event's steps, with their route and state.
func steps(e app.TracedEvent) []string {
	var all []string
	for _, s := range e.Steps {
		all = append(all, strings.TrimSpace(strings.Join([]string{string(s.What), s.Route, s.State, s.Reason}, " ")))
	}
	return all
}

// The life of an event, from what the bus keeps of it: with its source or
// without, and apart from others that have the same id.
func TestTrace(t *testing.T) {
	t.Parallel()
	b := bridgetest.Start(t, bridgetest.Options{YAML: traceRoutes})
	bus := watch(t, b.NATSURL)
	client := b.App.Client()
	send := func(source, id, subject, to string) {
		t.Helper()
		s := sender{t: t, url: b.URL, client: bridgetest.Client(t)}
		if err := s.post(fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":%q,"type":"com.acme.order.shipped","subject":%q,"data":{"phone":%q}}`, id, source, subject, to),
			"Content-Type", cloudevent.ContentTypeStructured); err != nil {
			t.Fatal(err)
		}
	}
	const odd = `a "b\\ é/100%`
	send("/shop", "evt-1", "twice", "+12025550111")
	send("/other", "evt-1", "9", "not a number")
	send("/shop", "evt-11", "9", "+12025550112")
	send("/shop", odd, "9", "+12025550113")
	bridgetest.Await(t, "results and receipts", func() error {
		return errors.Join(bus.atLeast("BRIDGE_RESULTS", 5), bus.atLeast("BRIDGE_EVENTS", 4+2*4))
	})
	bus.awaitIdle()
	trace := func(o app.TraceOptions) *app.Trace {
		t.Helper()
		got, err := client.Trace(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}

	well := []string{"claimed copy", "claimed order-shipped", "ended copy succeeded", "ended order-shipped succeeded", "from 8x8  delivered",
		"from 8x8  delivered", "from 8x8  sent", "from 8x8  sent", "received", "result copy succeeded", "result order-shipped succeeded"}
	bad := []string{"dead letter order-shipped  invalid_input", "ended order-shipped failed invalid_input", "received", "result order-shipped failed invalid_input"}
	all := trace(app.TraceOptions{ID: "evt-1"})
	if len(all.Events) != 2 || all.Events[0].Source != "/other" || all.Events[1].Source != "/shop" {
		t.Fatalf("events %+v", all.Events)
	}
	for i, want := range [][]string{bad, well} {
		e := all.Events[i]
		got := steps(e)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", e.Source, diff)
		}
		if e.ID != "evt-1" || e.Type != "com.acme.order.shipped" || e.Subject == "" {
			t.Errorf("event %+v", e)
		}
		if !slices.IsSortedFunc(e.Steps, func(x, y app.Step) int { return x.At.Compare(y.At) }) {
			t.Errorf("the steps of %s are not in the order of time", e.Source)
		}
		one := trace(app.TraceOptions{ID: "evt-1", Source: e.Source})
		if diff := cmp.Diff([]app.TracedEvent{e}, one.Events); diff != "" {
			t.Errorf("with --source %s (-want +got):\n%s", e.Source, diff)
		}
	}
	want := []app.TracedPair{
		{Route: "copy", Action: "send-sms", Connection: "main", State: bridge.Succeeded, Attempts: 1},
		{Route: "order-shipped", Action: "send-sms", Connection: "main", State: bridge.Succeeded, Attempts: 1},
	}
	if diff := cmp.Diff(want, all.Events[1].Pairs, cmpopts.IgnoreFields(app.TracedPair{}, "Key", "ActionRunID")); diff != "" {
		t.Errorf("pairs (-want +got):\n%s", diff)
	}
	places := map[string]int{}
	for _, s := range all.Searched {
		places[s.Place] = s.Messages
		if s.Missing || s.Place != "BRIDGE_DEAD" && s.Kept == "" {
			t.Errorf("searched %+v", s)
		}
	}
	if diff := cmp.Diff(map[string]int{"KV_BRIDGE_LEDGER": 6, "BRIDGE_EVENTS": 12, "BRIDGE_RESULTS": 5, "BRIDGE_DEAD": 1}, places); diff != "" {
		t.Errorf("searched (-want +got):\n%s", diff)
	}

	if got := trace(app.TraceOptions{ID: odd}); len(got.Events) != 1 || len(got.Events[0].Steps) != 6 {
		t.Errorf("an odd id: %+v", got.Events)
	}
	if got := trace(app.TraceOptions{ID: "evt-1", Source: "/shop", Since: time.Now().Add(time.Hour)}); len(got.Events[0].Steps) != 4 {
		t.Errorf("what the ledger alone knows: %v", steps(got.Events[0]))
	}
	for _, o := range []app.TraceOptions{{ID: "evt"}, {ID: "evt-1", Source: "/nowhere"}} {
		if got := trace(o); len(got.Events) != 0 || len(got.Searched) != 4 {
			t.Errorf("%+v: %+v", o, got)
		}
	}
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"2025550", "not a number", "on its way", "secret"} {
		if strings.Contains(string(text), secret) {
			t.Errorf("it shows %q", secret)
		}
	}
}

// What waits is shown with what it waits for, and what nobody knows as what it is.
func TestTraceOfWhatHasNotEnded(t *testing.T) {
	t.Parallel()
	b := bridgetest.Start(t, bridgetest.Options{})
	faults(t, b.Sandbox, sandbox.Fault{Kind: sandbox.Refuse, Times: -1, RetryAfter: 600})
	bus := watch(t, b.NATSURL)
	publishOrders(t, bus, []string{"evt-1"})
	bridgetest.Await(t, "the pair set aside", func() error { return bus.atLeast("BRIDGE_WAIT", 1) })
	got, err := b.App.Client().Trace(t.Context(), app.TraceOptions{ID: "evt-1"})
	if err != nil || len(got.Events) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	kinds := steps(got.Events[0])
	for _, want := range []string{"received", "waiting order-shipped", "set aside order-shipped"} {
		if !slices.Contains(kinds, want) {
			t.Errorf("no %q in %v", want, kinds)
		}
	}
	if p := got.Events[0].Pairs; len(p) != 1 || p[0].State != bridge.Waiting {
		t.Errorf("pairs %+v", p)
	}
}

// The command itself, with nothing but NATS, and what it says and returns.
func TestTraceCommand(t *testing.T) {
	t.Parallel()
	server := bridgetest.NATSServer(t)
	run := func(want int, args ...string) string {
		t.Helper()
		p := bridgetest.NewProgram(t, map[string]string{"NATS_URL": server.URL}, append([]string{"trace"}, args...)...)
		p.Start()
		if code := p.Wait(); code != want {
			t.Errorf("trace %v: exit code %d, want %d", args, code, want)
		}
		return p.Log.String()
	}
	const missing = "bridge8x8: nothing is known of an event with the id \"evt-1\"; looked in\n" +
		"  KV_BRIDGE_LEDGER: there is no such stream\n  BRIDGE_EVENTS: there is no such stream\n" +
		"  BRIDGE_RESULTS: there is no such stream\n  BRIDGE_DEAD: there is no such stream\n"
	if diff := cmp.Diff(missing, run(1, "evt-1")); diff != "" {
		t.Errorf("without any bridge (-want +got):\n%s", diff)
	}

	b := bridgetest.Start(t, bridgetest.Options{Env: map[string]string{"NATS_URL": server.URL}})
	bus := watch(t, server.URL)
	publishOrders(t, bus, []string{"evt-1"})
	bridgetest.Await(t, "a result and its receipts", func() error {
		return errors.Join(bus.atLeast("BRIDGE_RESULTS", 1), bus.atLeast("BRIDGE_EVENTS", 3))
	})
	b.Stop()
	for _, args := range [][]string{{"evt-1"}, {"evt-1", "--source", "/shop", "--since", "1h"}} {
		got := run(0, args...)
		words := strings.Join(strings.Fields(got), " ")
		for _, want := range []string{
			"event evt-1 from /shop com.acme.order.shipped subject 9 ", " received - BRIDGE_EVENTS 1 ",
			" claimed order-shipped send-sms over main attempt 1 ", " ended order-shipped succeeded run ", " result order-shipped succeeded BRIDGE_RESULTS 1 ",
			" from 8x8 - com.8x8.sms.status delivered (delivered_to_recipient) ", " now succeeded order-shipped run ",
		} {
			if !strings.Contains(words, want) {
				t.Errorf("trace %v does not say %q, but\n%s", args, want, got)
			}
		}
		if strings.Contains(got, phone("evt-1")) || strings.Contains(got, "on its way") {
			t.Errorf("it shows what it should not:\n%s", got)
		}
	}
	var read app.Trace
	if err := json.Unmarshal([]byte(run(0, "evt-1", "--json")), &read); err != nil || len(read.Events) != 1 || read.Events[0].Pairs[0].State != bridge.Succeeded {
		t.Errorf("%+v, %v", read, err)
	}
	got := run(1, "evt-2", "--source", "/shop")
	for _, want := range []string{
		`bridge8x8: nothing is known of an event with the id "evt-2" from "/shop"; looked in`, "KV_BRIDGE_LEDGER: 0 read, kept for 72h0m0s\n",
		"BRIDGE_EVENTS: 3 read, the oldest of ", ", kept for 61h12m0s\n", "BRIDGE_DEAD: 0 read, kept until removed\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("it does not say %q, but\n%s", want, got)
		}
	}
}
