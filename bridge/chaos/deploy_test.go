//go:build unix

package chaos_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
)

// TestDeploy ends the bridge with SIGTERM again and again under load, and
// starts the next one, which finds what was handed back at once: it does not
// have to wait for the 30 s of the ack clock. Nothing is repeated, and nothing
// is held. Guarantees 1 and 2, rule R16.
//
// Short: 400 events, three deploys. Long: 5,000 events, ten.
func TestDeploy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 8004, form(400, 5000), false)
	server := bridgetest.NATSServerConfig(t, synced)
	w.connect(server.URL)
	const ackWait = 30 * time.Second
	deploys := form(3, 10)
	w.serve(1, server.URL, map[string]string{"BRIDGE_ACK_WAIT": ackWait.String(), "MEMBRANE_RUN_LIMIT": "60s", "BRIDGE_CONCURRENCY": "4"})
	// All of it is there at once, so that every process has all that it can take in hand.
	w.publish(time.Millisecond)()
	r := w.bridges[0]
	share := len(w.pairs) / (deploys + 1)
	var slowest time.Duration
	handed := 0
	for i := range deploys {
		w.await("the middle", time.Minute, func() error {
			if n := len(w.box.Effects()); n < (i+1)*share {
				return fmt.Errorf("%d effects", n)
			}
			return nil
		})
		asked := time.Now()
		if code := r.Terminate(); code != 0 {
			t.Fatalf("deploy %d: exit code %d, want 0", i, code)
		}
		stopped := time.Now()
		before := w.effects()
		all, err := w.outcomes()
		if err != nil {
			t.Fatal(err)
		}
		for p, of := range before {
			if all[p] == nil || len(of) != 1 {
				t.Errorf("deploy %d: %s has %d effects and the outcome %v: a run was left behind that there was time to finish", i, p, len(of), all[p])
			}
		}
		back := w.handedBack(all)
		started := time.Now()
		r.Start()
		w.awaitReady(r)
		ready := time.Now()
		w.await("what was handed back", time.Minute, func() error {
			effects := w.effects()
			for _, p := range back {
				if len(effects[p]) == 0 {
					return fmt.Errorf("%s has no effect yet", p)
				}
			}
			return nil
		})
		effects := w.effects()
		var first, last time.Time
		for _, p := range back {
			at := effects[p][0].At
			if first.IsZero() || at.Before(first) {
				first = at
			}
			if at.After(last) {
				last = at
			}
		}
		if len(back) == 0 {
			t.Logf("deploy %d: nothing was handed back", i)
			continue
		}
		handed += len(back)
		// They are taken before their runs end: 5 to 80 ms later, and 8 in hand share 4 slots.
		took := last.Sub(ready)
		slowest = max(slowest, took)
		t.Logf("deploy %d: stopped in %v, with %d pairs handed back; the next was ready %v after its start, and their effects came %v to %v after that",
			i, stopped.Sub(asked).Round(time.Millisecond), len(back), ready.Sub(started).Round(time.Millisecond),
			first.Sub(ready).Round(time.Millisecond), took.Round(time.Millisecond))
		if took > ackWait/3 {
			t.Errorf("deploy %d: what was handed back took %v, as if the ack clock of %v had to run out", i, took, ackWait)
		}
	}
	if handed == 0 {
		t.Error("nothing was ever handed back: every process was stopped too late")
	}
	v := w.judge(form(time.Minute, 10*time.Minute), false)
	if v.heldHidden+v.heldUnsent > 0 || v.again > 0 {
		t.Errorf("a deploy holds nothing and repeats nothing: %s", v)
	}
	t.Logf("%d deploys, %d pairs handed back, the last of them at most %v after the next process was ready: %s", deploys, handed, slowest.Round(time.Millisecond), v)
	w.terminate()
}

// handedBack are the pairs that were delivered, are not set aside, and have no
// outcome: since no process runs, none of them is in anybody's hand. Those set aside
// wait for their connection's turn (R10), as they do where it is slow, or we are.
func (w *world) handedBack(all map[pair]*outcome) (back []pair) {
	w.t.Helper()
	waiting, err := w.js.Stream(w.t.Context(), "BRIDGE_WAIT")
	if err != nil {
		w.t.Fatal(err)
	}
	info, err := waiting.Info(w.t.Context(), jetstream.WithSubjectFilter(">"))
	if err != nil {
		w.t.Fatal(err)
	}
	isAside := func(p pair) bool {
		for subject := range info.State.Subjects {
			if strings.HasSuffix(subject, "."+string(p.key())) {
				return true
			}
		}
		return false
	}
	consumer, err := w.js.Consumer(w.t.Context(), "BRIDGE_EVENTS", "bridge-events")
	if err != nil {
		w.t.Fatal(err)
	}
	delivered := consumer.CachedInfo().Delivered.Stream
	err = w.read("BRIDGE_EVENTS", func(m jetstream.Msg) error {
		meta, err := m.Metadata()
		if err != nil || meta.Sequence.Stream > delivered {
			return err
		}
		e, err := cloudevent.FromNATS(m.Headers(), m.Data())
		if err != nil {
			return err
		}
		for _, route := range []string{first, second} {
			p := pair{e.RawID, route}
			if route == second && !w.vip[p.event] || all[p] != nil || isAside(p) || slices.Contains(back, p) {
				continue
			}
			back = append(back, p)
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return back
}
