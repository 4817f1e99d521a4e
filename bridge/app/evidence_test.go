package app_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

const batchRoutes = bridgetest.Routes + `
  - name: listed
    on: com.acme.listed
    run: send-batch-sms
    connection: main
    input:
      messages: [{destination: "${ .data.phone }", text: hello}]
  - name: destinations
    on: com.acme.destinations
    run: send-batch-sms
    connection: main
    input: {destinations: ["${ .data.phone }"], template: {text: hello}}
  - name: lists
    on: com.acme.lists
    run: send-batch-sms
    connection: main
    input:
      messages: '${ [.data.phones[] | {destination: ., text: "hello"}] }'
  - name: numbers
    on: com.acme.numbers
    run: send-batch-sms
    connection: main
    input: {destinations: "${ .data.phones }", template: {text: hello}}
`

func faults(t *testing.T, box *bridgetest.Sandbox, rules ...sandbox.Fault) {
	t.Helper()
	for _, f := range rules {
		if err := box.Fault(f); err != nil {
			t.Fatal(err)
		}
	}
}

// Sends whose reply is lost and whose run log never shows are held as unknown,
// until their receipt tells what became of them: whether it came before that was
// judged or after, and whether it names the message or only its batch. Then
// nothing is held any more (R15).
func TestReceiptsProveSends(t *testing.T) {
	t.Parallel()
	b := bridgetest.Start(t, bridgetest.Options{
		YAML: batchRoutes, Env: map[string]string{"MEMBRANE_RUN_LIMIT": "1s", "BRIDGE_ACK_WAIT": "1s"}, LogMargin: time.Second,
	})
	box, bus := b.Sandbox, watch(t, b.NATSURL)
	// The connection drops after the effect, and its log never shows.
	faults(t, box, sandbox.Fault{Kind: sandbox.DropAfter, Times: -1}, sandbox.Fault{Kind: sandbox.HideLog, Times: -1})
	client := bridgetest.Client(t)
	post := func(path, body, contentType string, want int) {
		t.Helper()
		answer, err := bridgetest.Do(t.Context(), client, http.MethodPost, b.URL+path, body, "Content-Type", contentType)
		if err != nil || answer.Status != want {
			t.Fatalf("%d %s, %v; want %d", answer.Status, answer.Body, err, want)
		}
	}
	send := func(id, typ string) {
		t.Helper()
		post("/events", fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/shop","type":%q,"subject":"9","data":{"phone":"+12025550111"}}`, id, typ),
			cloudevent.ContentTypeStructured, http.StatusAccepted)
	}
	effects := func(n int) func() error {
		return func() error {
			if have := len(box.Effects()); have != n {
				return fmt.Errorf("%d effects", have)
			}
			return nil
		}
	}

	// The receipts of the first come at once, while it is running as far as anybody knows.
	send("evt-early", "com.acme.order.shipped")
	bridgetest.Await(t, "the first effect", effects(1))
	bridgetest.Await(t, "its receipts", func() error { return bus.atLeast("BRIDGE_EVENTS", 3) })
	box.SetWebhook("", "")
	late := map[string]string{"evt-late": "com.acme.order.shipped", "evt-listed": "com.acme.listed", "evt-destinations": "com.acme.destinations"}
	for id, typ := range late {
		send(id, typ)
	}
	bridgetest.Await(t, "all effects", effects(4))
	bridgetest.Await(t, "the first result, and three dead letters", func() error {
		return errors.Join(bus.atLeast("BRIDGE_RESULTS", 1), bus.atLeast("BRIDGE_DEAD", 3))
	})

	var sent struct {
		Items []struct{ Umid, BatchID, ClientMessageID, ClientBatchID, SubAccountID string }
	}
	answer, err := bridgetest.Do(t.Context(), client, http.MethodGet, box.URL+"/_sandbox/messages", "")
	if err != nil || json.Unmarshal([]byte(answer.Body), &sent) != nil {
		t.Fatal(err, answer.Body)
	}
	for _, m := range sent.Items {
		payload, err := json.Marshal(map[string]any{
			"umid": m.Umid, "batchId": m.BatchID, "clientMessageId": m.ClientMessageID, "clientBatchId": m.ClientBatchID, "subAccountId": m.SubAccountID,
			"status": map[string]any{"state": "undelivered", "detail": "rejected_by_operator", "timestamp": time.Now().UTC().Format(time.RFC3339)},
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // a second one changes nothing
			post("/webhooks/8x8", `{"namespace":"SMS","eventType":"outbound_message_status_changed","payload":`+string(payload)+`}`, "application/json", http.StatusOK)
		}
	}
	// What a receipt ended is published and withdrawn before 8x8 has its answer.
	results := bus.results()
	for _, id := range []string{"evt-early", "evt-late", "evt-listed", "evt-destinations"} {
		if n := len(results[id]); n != 1 {
			t.Errorf("event %s: %d results", id, n)
			continue
		}
		var output struct{ UMID, BatchID string }
		r := results[id][0]
		if err := json.Unmarshal(r.Data.Output, &output); err != nil || output.UMID == "" && output.BatchID == "" || r.Data.Error != nil {
			t.Errorf("event %s: %v, output %s, error %v", id, err, r.Data.Output, r.Data.Error)
		}
	}
	if letters := bus.letters(); len(letters) != 0 {
		t.Errorf("dead letters: %v", letters)
	}
	if err := effects(4)(); err != nil {
		t.Error(err)
	}
	bus.awaitIdle()
}

// A run log that shows long after its run was held as unknown ends that, also
// for the process that comes after (R6).
func TestLateLogAfterARestart(t *testing.T) {
	t.Parallel()
	box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: time.Hour})
	faults(t, box, sandbox.Fault{Kind: sandbox.DropAfter, Times: -1}, sandbox.Fault{Kind: sandbox.DelayLog, DelayMs: 16_000, Times: -1})
	o := bridgetest.Options{
		Sandbox: box, Dir: t.TempDir(), Env: map[string]string{"MEMBRANE_RUN_LIMIT": "1s", "BRIDGE_ACK_WAIT": "1s"}, LogMargin: time.Millisecond,
	}
	first := bridgetest.Start(t, o)
	ids := numbered("evt", 3)
	bus := watch(t, first.NATSURL)
	publishOrders(t, bus, ids)
	bridgetest.Await(t, "three dead letters", func() error { return bus.atLeast("BRIDGE_DEAD", len(ids)) })
	first.Stop()

	second := bridgetest.Start(t, o)
	bus = watch(t, second.NATSURL)
	if bus.count("BRIDGE_RESULTS") != 0 {
		t.Fatal("the logs showed too early to try anything")
	}
	bridgetest.Await(t, "three results", func() error { return bus.atLeast("BRIDGE_RESULTS", len(ids)) })
	bridgetest.Await(t, "no dead letters", func() error {
		if letters := bus.letters(); len(letters) > 0 {
			return fmt.Errorf("%v", letters)
		}
		return nil
	})
	if err := errors.Join(expectCounts(once(ids), counts(bus.results())), expectCounts(once(ids), counts(bridgetest.ByEvent(box.Effects())))); err != nil {
		t.Error(err)
	}
}
