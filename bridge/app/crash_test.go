package app_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
)

// quick are settings with which a dead process' work is taken over soon, and a
// run's silence is judged 17 s after its claim: 5 s send-by, the run limit, 10 s
// for its log to show.
var quick = map[string]string{
	"BRIDGE_ACK_WAIT": "1s", "MEMBRANE_RUN_LIMIT": "2s", "BRIDGE_CONCURRENCY": "16",
}

// publishOrders stores events straight in the stream.
func publishOrders(t *testing.T, b *observed, ids []string) {
	t.Helper()
	s := sender{t: t, js: b.js}
	var sends []func() error
	for _, id := range ids {
		sends = append(sends, func() error { return s.publishStructured(id) })
	}
	if err := together(8, sends); err != nil {
		t.Fatal(err)
	}
}

func numbered(prefix string, n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("%s-%03d", prefix, i)
	}
	return ids
}

// A process that is killed leaves runs behind of which it never heard the end.
// The next one adopts those that the run log shows, and holds those of which
// nothing can be known; none is sent again.
func TestKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	server := bridgetest.NATSServer(t)
	box := bridgetest.StartSandbox(t, "--latency", "20ms")
	served := bridgetest.Serve(t, server.URL, box, "", quick)
	served.Start()
	served.AwaitReady()
	box.Control("webhook", `{"url":""}`) // a receipt would tell
	b := watch(t, server.URL)

	// Of these four nobody will ever know: they take longer than a run may, and no log shows them.
	silent := numbered("silent", 4)
	// And these are under way when it dies.
	slow := numbered("slow", 4)
	box.Control("faults", `[{"kind":"slow","match":"silent-","delayMs":4000,"times":-1},{"kind":"hide-log","match":"silent-","times":-1},
		{"kind":"slow","match":"slow-","delayMs":1500,"times":-1}]`)
	orders := append(slow, numbered("evt", 296)...)
	publishOrders(t, b, silent)
	publishOrders(t, b, orders)
	bridgetest.Await(t, "the middle", func() error {
		if n := box.CountEffects(); n < 60 {
			return fmt.Errorf("%d effects", n)
		}
		return nil
	})
	served.Kill()

	died, known := time.Now(), b.results() // all that it could tell of
	if len(known) == len(orders) {
		t.Fatal("it was killed too late to leave anything behind")
	}
	served.Start()
	served.AwaitReady()
	ids := append(silent, orders...)
	bridgetest.Await(t, "an outcome for each event", func() error {
		if n := b.count("BRIDGE_RESULTS") + b.count("BRIDGE_DEAD"); n < len(ids) {
			return fmt.Errorf("%d outcomes of %d", n, len(ids))
		}
		return nil
	})
	b.awaitIdle()

	effects, results := bridgetest.ByEvent(box.Effects()), b.results()
	held := map[string][]letter{}
	for _, l := range b.letters() {
		if l.Subject != "bridge.dead.order-shipped.outcome_unknown" {
			t.Errorf("dead letter %v", l)
		}
		held[l.Cause] = append(held[l.Cause], l)
	}
	adopted, unsent := 0, 0
	for _, id := range ids {
		if n := len(effects[id]); n > 1 {
			t.Errorf("event %s: %d effects", id, n)
		}
		if n := len(results[id]) + len(held[id]); n != 1 {
			t.Errorf("event %s: %d results and %d dead letters, want one of either", id, len(results[id]), len(held[id]))
			continue
		}
		switch isSilent := strings.HasPrefix(id, "silent-"); {
		case isSilent && len(held[id]) == 0:
			t.Errorf("event %s: has a result, although nobody can know of its run", id)
		case isSilent:
		case len(effects[id]) == 0:
			if unsent++; len(held[id]) == 0 {
				t.Errorf("event %s: has a result without an effect", id)
			}
		case len(held[id]) > 0:
			t.Errorf("event %s: is held, although its run log shows", id)
		default:
			r := results[id][0]
			if want := effects[id][0].ActionRunID; r.Data.ActionRunID != want || r.Subject != "bridge.results.send-sms.succeeded" {
				t.Errorf("event %s: result of run %q on %s, want that of run %s", id, r.Data.ActionRunID, r.Subject, want)
			}
			var meta struct{ Try string }
			if err := json.Unmarshal(effects[id][0].Meta, &meta); err != nil || meta.Try == "" {
				t.Errorf("event %s: its run carries no try: %s", id, effects[id][0].Meta)
			}
			if len(known[id]) == 0 && r.Data.StartedAt.Before(died) {
				adopted++
			}
		}
	}
	if adopted == 0 {
		t.Error("nothing was adopted: it left no run behind that had an effect")
	}
	t.Logf("killed with %d of %d results published; %d of its runs adopted, %d held (%d of them never sent), %d results in the end, and no effect twice",
		len(known), len(ids), adopted, len(held), unsent, len(results))
}

// SIGTERM under load loses nothing and repeats nothing: what runs is finished,
// the rest is handed back.
func TestTerminatedUnderLoad(t *testing.T) {
	t.Parallel()
	server := bridgetest.NATSServer(t)
	box := bridgetest.StartSandbox(t, "--latency", "50ms")
	served := bridgetest.Serve(t, server.URL, box, "", map[string]string{"BRIDGE_CONCURRENCY": "16"})
	served.Start()
	served.AwaitReady()
	b := watch(t, server.URL)
	orders := numbered("evt", 300)
	publishOrders(t, b, orders)
	bridgetest.Await(t, "the middle", func() error {
		if n := box.CountEffects(); n < 60 {
			return fmt.Errorf("%d effects", n)
		}
		return nil
	})
	if code := served.Terminate(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	before := b.results()
	if effects := bridgetest.ByEvent(box.Effects()); len(effects) != len(before) {
		t.Errorf("%d effects and %d results: it left runs behind that it had the time to finish", len(effects), len(before))
	}
	if len(before) == len(orders) {
		t.Fatal("it was stopped too late to hand anything back")
	}
	served.Start()
	served.AwaitReady()
	bridgetest.Await(t, "300 results", func() error { return b.atLeast("BRIDGE_RESULTS", len(orders)) })
	b.awaitIdle()
	if err := errors.Join(
		expectCounts(once(orders), counts(b.results())),
		expectCounts(once(orders), counts(bridgetest.ByEvent(box.Effects()))),
	); err != nil {
		t.Error(err)
	}
	if letters := b.letters(); len(letters) > 0 {
		t.Errorf("held: %v", letters)
	}
	t.Logf("stopped after %d of 300 results; 300 effects and 300 results in the end, none held", len(before))
}
