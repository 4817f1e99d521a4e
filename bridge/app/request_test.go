package app_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

// asking is somebody who requests actions.
type asking struct {
	t  *testing.T
	nc *nats.Conn
}

// answered is one reply.
type answered struct {
	Event  cloudevent.Event
	Data   bridge.ResultData
	Header nats.Header
}

func (a answered) String() string {
	return fmt.Sprintf("%s %+v %v", a.Event.Type(), a.Data, a.Header)
}

func (a asking) try(action string, header nats.Header, data string) (answered, error) {
	m, err := a.nc.RequestMsg(&nats.Msg{Subject: "bridge.run." + action, Header: header, Data: []byte(data)}, bridgetest.Deadline)
	if err != nil {
		return answered{}, err
	}
	return readReply(m)
}

func readReply(m *nats.Msg) (answered, error) {
	e, err := cloudevent.FromNATS(m.Header, m.Data)
	if err != nil {
		return answered{}, fmt.Errorf("the reply is no CloudEvent: %w: %s", err, m.Data)
	}
	r := answered{Event: e, Header: m.Header}
	return r, json.Unmarshal(e.Data(), &r.Data)
}

func (a asking) ask(action string, header nats.Header, data string) answered {
	a.t.Helper()
	r, err := a.try(action, header, data)
	if err != nil {
		a.t.Fatal(err)
	}
	return r
}

// fails wants a failure with a reason, which its headers tell too.
func (a asking) fails(r answered, action string, reason bridge.Reason, code string, retryable bool, says string) {
	a.t.Helper()
	if r.Event.Type() != "com.8x8.action."+action+".failed" || r.Data.Error == nil || r.Data.Error.Reason != reason || r.Data.Error.Retryable != retryable ||
		!strings.Contains(r.Data.Error.Message, says) || len(r.Data.Output) > 0 {
		a.t.Errorf("%s answers %v, and error %+v; want %s about %q", action, r, r.Data.Error, reason, says)
	}
	if r.Header.Get("Nats-Service-Error-Code") != code || !strings.HasPrefix(r.Header.Get("Nats-Service-Error"), string(reason)+": ") {
		a.t.Errorf("%s answers with headers %v, want code %s", action, r.Header, code)
	}
}

func (a asking) succeeds(r answered, action string) {
	a.t.Helper()
	if r.Event.Type() != "com.8x8.action."+action+".succeeded" || len(r.Data.Output) == 0 || r.Data.Error != nil || r.Header.Get("Nats-Service-Error") != "" {
		a.t.Errorf("%s answers %v, error %+v", action, r, r.Data.Error)
	}
}

var commands = map[string]string{"BRIDGE_COMMANDS": "true"}

func sms(id string) string { return fmt.Sprintf(`{"destination":%q,"text":"hello"}`, phone(id)) }

// What can be asked for, and what is answered (R19).
func TestRequests(t *testing.T) {
	t.Parallel()
	b := bridgetest.Start(t, bridgetest.Options{Env: commands})
	o := watch(t, b.NATSURL)
	a := asking{t, o.nc}
	id := func(id string) nats.Header { return nats.Header{"ce-id": {id}} }

	// Safe to repeat: run at once, each time, and nothing is recorded.
	for range 2 {
		r := a.ask("get-account-balance", nil, "")
		a.succeeds(r, "get-account-balance")
		if r.Data.Route != "run" || r.Data.Action != "get-account-balance" || r.Data.Attempts != 1 || r.Data.ActionRunID == "" {
			t.Errorf("%+v", r.Data)
		}
	}
	a.succeeds(a.ask("list-contacts", nil, `{}`), "list-contacts")
	if n := o.count("BRIDGE_EVENTS") + o.count("BRIDGE_RESULTS"); n != 0 {
		t.Errorf("%d messages are stored", n)
	}

	// Anything else goes the way of all events, once.
	first := a.ask("send-sms", id("one"), sms("one"))
	a.succeeds(first, "send-sms")
	again := a.ask("send-sms", id("one"), sms("one"))
	if again.Event.ID() != first.Event.ID() || again.Data.ActionRunID != first.Data.ActionRunID {
		t.Errorf("asked again: %v, and first: %v", again, first)
	}
	if r := first.Data; r.Cause.ID != "one" || r.Cause.Source != "/bridge8x8/bridge8x8/requests" || first.Event.Source() != "/bridge8x8/bridge8x8" {
		t.Errorf("%v", first)
	}
	event := func(id, eventType string) string {
		return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/shop","type":%q,"datacontenttype":"application/json","data":%s}`, id, eventType, sms(id))
	}
	structuredCE := nats.Header{"Content-Type": {cloudevent.ContentTypeStructured}}
	a.succeeds(a.ask("send-sms", structuredCE, event("two", "com.8x8.run.send-sms")), "send-sms")
	three := a.ask("send-sms", nil, event("three", "com.acme.say.hello"))
	a.succeeds(three, "send-sms")
	if three.Data.Cause.ID != "three" || three.Data.Cause.Source != "/shop" {
		t.Errorf("%v", three)
	}
	a.succeeds(a.ask("send-sms", nats.Header{
		"CE-ID": {"four"}, "CE-Source": {"/shop"}, "CE-SpecVersion": {"1.0"}, "CE-Type": {"com.8x8.run.send-sms"}, "CE-DataContentType": {"application/json"},
	}, sms("four")), "send-sms")

	// And what is no request.
	a.fails(a.ask("send-sms", id("one"), sms("other")), "send-sms", bridge.ReasonIDReused, "409", false, "another type, subject or data")
	a.fails(a.ask("send-sms", nil, sms("one")), "send-sms", bridge.ReasonMalformed, "400", false, "give the request an id")
	a.fails(a.ask("send-sms", id("five"), `{"destination":"no number"}`), "send-sms", bridge.ReasonInvalidInput, "400", false, "input")
	a.fails(a.ask("send-sms", id("five"), `{"destination":`), "send-sms", bridge.ReasonMalformed, "400", false, "JSON")
	a.fails(a.ask("send-sms", structuredCE, `{"specversion":"1.0"}`), "send-sms", bridge.ReasonMalformed, "400", false, "is missing")
	a.fails(a.ask("send-sms", nil, event("six", "com.8x8.run.send-batch-sms")), "send-sms", bridge.ReasonMalformed, "400", false, "one of the two is wrong")
	a.fails(a.ask("send-smss", id("five"), sms("five")), "send-smss", bridge.ReasonActionMissing, "404", true, `did you mean "send-sms"`)
	a.fails(a.ask("send-sms", id("rejected"), `{"destination":"+12025550108","text":"hello"}`), "send-sms", bridge.ReasonRejected, "422", false, "")

	o.awaitIdle()
	effects := bridgetest.ByEvent(b.Sandbox.Effects())
	for _, id := range []string{"one", "two", "three", "four"} {
		if len(effects[id]) != 1 {
			t.Errorf("request %s: %d effects", id, len(effects[id]))
		}
	}
	if letters := o.letters(); len(letters) != 2 { // id_reused and rejected
		t.Errorf("dead letters: %v", letters)
	}
	for _, line := range b.Log.Lines("") {
		if strings.Contains(line, "202555") {
			t.Errorf("a number in the log: %s", line)
		}
	}
}

// Without BRIDGE_COMMANDS nobody listens.
func TestRequestsAreOff(t *testing.T) {
	t.Parallel()
	b := bridgetest.Start(t, bridgetest.Options{})
	_, err := asking{t, watch(t, b.NATSURL).nc}.try("get-account-balance", nil, "")
	if !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("%v", err)
	}
}

// A request that cannot be run now is not kept waiting if it can be asked again
// as well, and is kept if it was stored.
func TestRequestAtAClosedGate(t *testing.T) {
	t.Parallel()
	b := bridgetest.Start(t, bridgetest.Options{Env: commands})
	o := watch(t, b.NATSURL)
	a := asking{t, o.nc}
	faults := func(f ...sandbox.Fault) {
		t.Helper()
		for _, f := range f {
			if err := b.Sandbox.Fault(f); err != nil {
				t.Fatal(err)
			}
		}
	}
	faults(sandbox.Fault{Kind: sandbox.Refuse, Times: -1}, sandbox.Fault{Kind: sandbox.Refuse, On: sandbox.OnReads, Times: -1})
	a.fails(a.ask("get-account-balance", nil, ""), "get-account-balance", bridge.ReasonNotReady, "503", true, "")
	a.fails(a.ask("get-account-balance", nil, ""), "get-account-balance", bridge.ReasonNotReady, "503", true, "held back")

	// Two ask for the same while it waits.
	replies := make(chan answered, 2)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			r, err := a.try("send-sms", nats.Header{"ce-id": {"patient"}}, sms("patient"))
			if err != nil {
				t.Error(err)
			}
			replies <- r
		})
	}
	bridgetest.Await(t, "both are set aside", func() error { return o.atLeast("BRIDGE_WAIT", 2) })
	if _, err := bridgetest.Do(t.Context(), bridgetest.Client(t), "DELETE", b.Sandbox.URL+"/_sandbox/faults", ""); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	one, two := <-replies, <-replies
	a.succeeds(one, "send-sms")
	a.succeeds(two, "send-sms")
	if one.Event.ID() != two.Event.ID() || len(b.Sandbox.Effects()) != 1 {
		t.Errorf("%v and %v, %d effects", one, two, len(b.Sandbox.Effects()))
	}
}

// Three replicas and one request: one effect and one reply, although the one
// that took the request dies.
func TestRequestsOfThreeReplicas(t *testing.T) {
	t.Parallel()
	const many = 60
	server := bridgetest.NATSServer(t)
	box := bridgetest.StartSandbox(t, "--latency", "100ms")
	env := maps.Clone(quick)
	maps.Copy(env, commands)
	var replicas []*bridgetest.Served
	for range 3 {
		served := bridgetest.Serve(t, server.URL, box, "", env)
		served.Start()
		served.AwaitReady()
		replicas = append(replicas, served)
	}
	o := watch(t, server.URL)

	var mu sync.Mutex
	replies := map[string][]answered{}
	inbox := o.nc.NewInbox()
	sub, err := o.nc.Subscribe(inbox+".*", func(m *nats.Msg) {
		r, err := readReply(m)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		id := m.Subject[len(inbox)+1:]
		replies[id] = append(replies[id], r)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	answers := func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		return counts(replies)
	}
	request := func(ids []string) {
		t.Helper()
		for _, id := range ids {
			m := &nats.Msg{Subject: "bridge.run.send-sms", Reply: inbox + "." + id, Header: nats.Header{"ce-id": {id}}, Data: []byte(sms(id))}
			if err := o.nc.PublishMsg(m); err != nil {
				t.Fatal(err)
			}
		}
	}
	ids := numbered("req", many)
	request(ids)
	bridgetest.Await(t, "all replies", func() error { return expectCounts(once(ids), answers()) })
	o.awaitIdle()
	if err := errors.Join(expectCounts(once(ids), answers()), expectCounts(once(ids), counts(bridgetest.ByEvent(box.Effects())))); err != nil {
		t.Error(err)
	}

	// These are stored, and then all who know of them die.
	box.Control("faults", `[{"kind":"slow","match":"late-","delayMs":1500,"times":-1}]`)
	late := numbered("late", 10)
	request(late)
	bridgetest.Await(t, "all are stored", func() error {
		if n := len(o.messages("BRIDGE_EVENTS", "bridge.events.com.8x8.run.send-sms")); n < many+len(late) {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
	for _, r := range replicas {
		r.Kill()
	}
	box.ClearFaults()
	replicas[0].Start()
	replicas[0].AwaitReady()
	all := slices.Concat(ids, late)
	bridgetest.Await(t, "a reply to each", func() error {
		got := answers()
		for _, id := range all {
			if got[id] == 0 {
				return fmt.Errorf("none to %s", id)
			}
		}
		return nil
	})
	o.awaitIdle()
	for id, n := range counts(bridgetest.ByEvent(box.Effects())) {
		if n > 1 {
			t.Errorf("request %s: %d effects", id, n)
		}
	}
}

// A request over bridge.run.get-account-balance answers with a result; one whose
// action is slow tells who asked that its time is up, and the outcome is on the bus
// all the same: of an action that is safe to repeat, and of one that is not.
func TestSlowRequest(t *testing.T) {
	t.Parallel()
	b := bridgetest.Start(t, bridgetest.Options{Env: commands})
	o := watch(t, b.NATSURL)
	a := asking{t, o.nc}
	a.succeeds(a.ask("get-account-balance", nil, ""), "get-account-balance")
	if n := o.count("BRIDGE_RESULTS"); n != 0 {
		t.Errorf("%d results on the bus of what was answered", n)
	}
	if err := b.Sandbox.Fault(sandbox.Fault{Kind: sandbox.Slow, DelayMs: 2000, Times: -1}); err != nil {
		t.Fatal(err)
	}
	impatient := func(id string) nats.Header { return nats.Header{"ce-id": {id}, "Bridge8x8-Timeout": {"100ms"}} }
	a.fails(a.ask("get-account-balance", impatient("slow-1"), ""), "get-account-balance", bridge.ReasonOutcomeUnknown, "504", false, "no outcome within 100ms: it goes on")
	a.fails(a.ask("send-sms", impatient("slow-2"), sms("slow-2")), "send-sms", bridge.ReasonOutcomeUnknown, "504", false, "no outcome within 100ms: it goes on")
	o.awaitResults([]string{"slow-1", "slow-2"})
	for id, results := range o.results() {
		if len(results) != 1 || results[0].Data.Error != nil || len(results[0].Data.Output) == 0 {
			t.Errorf("%s: %+v", id, results)
		}
	}
	a.succeeds(a.ask("send-sms", impatient("slow-2"), sms("slow-2")), "send-sms") // recorded by now
	if n := len(bridgetest.ByEvent(b.Sandbox.Effects())["slow-2"]); n != 1 {
		t.Errorf("%d effects", n)
	}
	for _, odd := range []string{"soon", "-1s", "0s", "25h"} {
		a.fails(a.ask("get-account-balance", nats.Header{"bridge8x8-timeout": {odd}}, ""), "get-account-balance", bridge.ReasonMalformed, "400", false, "is no duration such as 5s")
	}
}
