package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

const inlineRoutes = `
connections:
  main: {key: 8x8-sandbox}
routes:
  - name: write
    on: com.acme.write
    connection: main
    retry: {attempts: 4, backoff: {initial: 10ms, max: 20ms}}
    request:
      method: POST
      path: /api/v1/subaccounts/acme_hq/messages
      body: {destination: "${ .data.phone }", text: Hi}
  - name: read
    on: com.acme.read
    connection: main
    retry: {attempts: 4, backoff: {initial: 10ms, max: 20ms}}
    request: {method: GET, path: "/api/v1/subaccounts/acme_hq/messages/${ .data.umid }"}
  - name: balance
    on: com.acme.balance
    connection: main
    retry: {attempts: 4, backoff: {initial: 10ms, max: 20ms}}
    request: {method: GET, path: /api/v1/accounts/acme/balance}
`

// What becomes of an inline request, by 8x8's status in its output: no answer that
// leaves a write open is repeated, and none that proves that nothing happened is
// taken for an outcome (R8).
func TestInlineRequests(t *testing.T) {
	t.Parallel()
	box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1})
	running := bridgetest.Start(t, bridgetest.Options{Sandbox: box, YAML: inlineRoutes, Env: soon, LogMargin: soonMargin})
	b := watch(t, running.NATSURL)
	answer := func(id, output string, times int, headers map[string]string) {
		faults(t, box, sandbox.Fault{Kind: sandbox.Status, Status: 200, Match: id, Times: times, Headers: headers, Body: json.RawMessage(`{"actionRunId":"66f1","output":` + output + `}`)})
	}
	answer("w-limited", `{"status":429,"headers":{"retry-after":"1"}}`, 2, nil)
	answer("w-key", `{"status":401}`, 1, nil)
	answer("w-conflict", `{"status":409,"data":{"code":5003,"message":"+12025550111 is taken"}}`, 1, nil)
	answer("r-failed", `{"status":503}`, 2, nil)
	answer("r-odd", `{"state":"?"}`, 1, nil)
	answer("r-always", `{"status":500}`, -1, nil)
	answer("w-odd", `{"state":"?"}`, 1, nil)
	faults(t, box, sandbox.Fault{Kind: sandbox.DropAfter, Match: "w-dropped"})

	want := map[string]string{
		"w-ok": "succeeded 1", "w-limited": "succeeded 1", "w-key": "succeeded 1", "w-conflict": "rejected 1", "w-bad": "rejected 1",
		"w-dropped": "succeeded 1", "w-500": "outcome_unknown", "w-odd": "outcome_unknown",
		"r-failed": "succeeded 3", "r-odd": "succeeded 2", "r-always": "attempts_exhausted 4", "r-missing": "rejected 1",
	}
	for id := range want {
		kind, phone := "com.acme.write", "+12025550111"
		switch {
		case id == "w-500":
			phone = "+12025550105"
		case id == "w-bad":
			phone = "0"
		case id == "r-missing":
			kind = "com.acme.read"
		case id[0] == 'r':
			kind = "com.acme.balance"
		}
		body := fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/shop","type":%q,"data":{"phone":%q,"umid":"0f3c4d5e-0000-4000-8000-000000000001"}}`, id, kind, phone)
		if _, err := b.js.PublishMsg(t.Context(), &nats.Msg{Subject: "bridge.events." + kind, Header: structuredHeader, Data: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	ends := func() map[string]string {
		got := map[string]string{}
		for id, results := range b.results() {
			r := results[0].Data
			got[id] = "succeeded"
			if r.Error != nil {
				got[id] = string(r.Error.Reason)
			}
			got[id] = fmt.Sprint(got[id], " ", r.Attempts)
		}
		for _, l := range b.letters() {
			if l.Reason == string(bridge.ReasonOutcomeUnknown) {
				got[l.Cause] = l.Reason
			}
		}
		return got
	}
	bridgetest.Await(t, "every end", func() error {
		if got := ends(); len(got) < len(want) {
			return fmt.Errorf("%d of %d: %v", len(got), len(want), got)
		}
		return nil
	})
	b.awaitIdle()
	if diff := cmp.Diff(want, ends()); diff != "" {
		t.Errorf("the ends (-want +got):\n%s", diff)
	}
	effects := counts(bridgetest.ByEvent(box.Effects()))
	if diff := cmp.Diff(map[string]int{"w-ok": 1, "w-limited": 1, "w-key": 1, "w-dropped": 1, "w-500": 1}, effects); diff != "" {
		t.Errorf("effects by event (-want +got):\n%s", diff)
	}
	for _, l := range b.letters() {
		if l.Reason == string(bridge.ReasonRejected) && l.Cause == "w-conflict" && l.Header.Get("Bridge8x8-Message") != "8x8 answered 409, code 5003" {
			t.Errorf("the letter says %q", l.Header.Get("Bridge8x8-Message"))
		}
	}
}

// A record of one request does not let another one be taken for its repetition:
// the route's request is changed while the outcome of the first is unknown (R2).
func TestRequestThatIsChangedMeanwhile(t *testing.T) {
	t.Parallel()
	server := bridgetest.NATSServer(t)
	box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1})
	faults(t, box, sandbox.Fault{Kind: sandbox.DropAfter, Times: -1}, sandbox.Fault{Kind: sandbox.HideLog, Times: -1})
	const before = `
connections:
  main: {key: 8x8-sandbox}
routes:
  - name: write
    on: com.acme.write
    connection: main
    request: {method: POST, path: /api/v1/subaccounts/acme_hq/messages, body: {destination: "+12025550111", text: Hi}}
`
	const after = `
connections:
  main: {key: 8x8-sandbox}
routes:
  - name: write
    on: com.acme.write
    connection: main
    on_unknown: retry
    request: {method: GET, path: /api/v1/accounts/acme/balance}
`
	o := bridgetest.Options{Sandbox: box, YAML: before, Env: with(soon, "NATS_URL", server.URL), LogMargin: soonMargin}
	first := bridgetest.Start(t, o)
	b := watch(t, server.URL)
	body := `{"specversion":"1.0","id":"evt","source":"/shop","type":"com.acme.write"}`
	if _, err := b.js.PublishMsg(t.Context(), &nats.Msg{Subject: "bridge.events.com.acme.write", Header: structuredHeader, Data: []byte(body)}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := box.WaitEffects(ctx, 1); err != nil {
		t.Fatal(err)
	}
	first.Stop()
	o.YAML = after
	bridgetest.Start(t, o)
	bridgetest.Await(t, "the dead letter", func() error { return b.atLeast("BRIDGE_DEAD", 1) })
	b.awaitIdle()
	if letters := b.letters(); len(letters) != 1 || letters[0].Reason != string(bridge.ReasonOutcomeUnknown) {
		t.Errorf("dead letters: %v, want one of outcome_unknown", letters)
	}
	if results := b.results(); len(results) > 0 {
		t.Errorf("results: %v; another request's outcome is not this one's", results)
	}
}
