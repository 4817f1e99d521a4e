package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const limitedRoute = oneRoute + `    at_most: {per: "${ .data.phone }", times: 2, every: 1h}
`

func effectsOf(w *world) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, times := range w.effects {
		n += times
	}
	return n
}

func happening(s *seams) *seams {
	s.run = func(r Request) (Reply, error) { return s.happen(r, 0), nil }
	return s
}

// A route's at_most lets so many through for each value in each span of time, and
// what is over it ends in the open.
func TestAtMost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := happening(&seams{world: newWorld(t)})
		b := newBridge(t, s, limitedRoute, 4)
		const ana, bo = "+12025550111", "+12025550112"
		for i := range 4 {
			if got := deliver(t, b, orderEvent(fmt.Sprint("a", i), ana)); got.acks != 1 {
				t.Fatalf("%d: %+v", i, got)
			}
		}
		deliver(t, b, orderEvent("b0", bo))
		if n := effectsOf(s.world); n != 3 {
			t.Errorf("%d effects, want 3", n)
		}
		for id, want := range map[string]State{"a0": Succeeded, "a1": Succeeded, "a2": Failed, "a3": Failed, "b0": Succeeded} {
			rec := s.record(keyOf(id, "r"))
			if rec.State != want || rec.State == Failed && (rec.Reason != ReasonOverLimit || strings.Contains(rec.Message, "2025")) {
				t.Errorf("%s: %+v", id, rec)
			}
		}
		if len(s.dead) != 2 || len(s.results) != 5 {
			t.Errorf("%d dead letters, %d results", len(s.dead), len(s.results))
		}
		sleep(t.Context(), time.Hour+time.Second)
		deliver(t, b, orderEvent("a5", ana))
		if rec := s.record(keyOf("a5", "r")); rec.State != Succeeded {
			t.Errorf("an hour later: %+v", rec)
		}
		// A person who replays one of the two chooses to send it now.
		d := orderEvent("a2", ana)
		d.Pair = &Pair{Route: "r", Replay: 1, Decision: &Decision{Reason: ReasonOverLimit, Asked: time.Now()}}
		for range 2 {
			deliver(t, b, orderEvent("a6", ana))
		}
		deliver(t, b, d)
		if rec := s.record(NewKey(EventHash("/shop", "a2"), "r", 1)); rec.State != Succeeded {
			t.Errorf("replayed: %+v", rec)
		}
	})
}

// An event that is handed back is counted once, and while it cannot be counted it
// is not sent.
func TestAtMostCountsAnEventOnce(t *testing.T) {
	t.Parallel()
	refusing := false
	s := happening(&seams{world: newWorld(t)})
	s.fate = func(write) writeFate {
		if refusing {
			return refused
		}
		return stored
	}
	b := newBridge(t, s, limitedRoute, 4)
	refusing = true
	for range 3 {
		if got := deliver(t, b, orderEvent("a0", "+12025550111")); got.naks != 1 {
			t.Fatalf("%+v", got)
		}
	}
	refusing, s.note = false, func() error { return errors.New("away") }
	if got := deliver(t, b, orderEvent("a1", "+12025550111")); got.naks != 1 || effectsOf(s.world) != 0 {
		t.Fatalf("%+v, %d effects", got, effectsOf(s.world))
	}
	s.note = nil
	for i := range 3 {
		again := orderEvent(fmt.Sprint("a", i), "+12025550111")
		again.Redelivered = i < 2
		deliver(t, b, again)
	}
	for id, want := range map[string]State{"a0": Succeeded, "a1": Succeeded, "a2": Failed} {
		if rec := s.record(keyOf(id, "r")); rec.State != want {
			t.Errorf("%s: %+v", id, rec)
		}
	}
}

func TestAtMostOfSeveralReplicas(t *testing.T) {
	t.Parallel()
	s := happening(&seams{world: newWorld(t)})
	var wg sync.WaitGroup
	for range 3 {
		b := newBridge(t, s, strings.Replace(limitedRoute, "times: 2", "times: 5", 1), 8)
		for i := range 20 { // each event at each of them
			wg.Go(func() { deliver(t, b, orderEvent(fmt.Sprint("a", i), "+12025550111")) })
		}
	}
	wg.Wait()
	if n := effectsOf(s.world); n != 5 {
		t.Errorf("%d effects, want 5", n)
	}
}

// A reply is tied to the newest message that was sent, and remembering whom it went
// to neither stops a send nor repeats it.
func TestLastSentTo(t *testing.T) {
	t.Parallel()
	s := happening(&seams{world: newWorld(t)})
	b := newBridge(t, s, oneRoute+"    replies: true\n", 4)
	last := func(want string) {
		t.Helper()
		entry, err := b.LastSentTo(t.Context(), "12025550111")
		if want == "" && errors.Is(err, ErrNotFound) {
			return
		}
		if err != nil || entry.Record.Cause.ID != want {
			t.Errorf("%q, %v; want %q", entry.Record.Cause.ID, err, want)
		}
	}
	last("")
	for i := range 6 {
		deliver(t, b, orderEvent(fmt.Sprint("a", i), "+12025550111"))
	}
	last("a5")
	deliver(t, b, orderEvent("other", "+12025550112"))
	last("a5")
	s.run = func(Request) (Reply, error) { return Reply{}, &Failure{Kind: Permanent, Reason: ReasonRejected} }
	deliver(t, b, orderEvent("refused", "+12025550111"))
	last("a5")
	happening(s).note = func() error { return errors.New("away") }
	if got := deliver(t, b, orderEvent("unnoted", "+12025550111")); got.acks != 1 || s.record(keyOf("unnoted", "r")).State != Succeeded {
		t.Errorf("%+v", got)
	}
	s.note = nil
	last("a5")
	// One that hangs is given up soon enough for the request to begin in time (R5).
	hung := &hanging{seams: s}
	b.Ledger = hung
	began := time.Now()
	if got := deliver(t, b, orderEvent("slowly", "+12025550111")); got.acks != 1 || s.record(keyOf("slowly", "r")).State != Succeeded {
		t.Errorf("%+v after %v", got, time.Since(began))
	}
	b.Ledger = s
	if _, l, _, err := b.lastTo(t.Context(), "12025550111"); err != nil || len(l.Keys) != lastSent {
		t.Errorf("%v, %v", l, err)
	}
	if _, err := b.LastSentTo(t.Context(), ""); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

// hanging is a ledger whose notes never come.
type hanging struct{ *seams }

func (h *hanging) Note(ctx context.Context, _ string) ([]byte, uint64, error) {
	<-ctx.Done()
	return nil, 0, ctx.Err()
}

// What was sent without our reference is found by 8x8's ids, which are remembered
// before the result is published.
func TestSentByItsIDs(t *testing.T) {
	t.Parallel()
	s := &seams{world: newWorld(t)}
	byID := strings.Replace(oneRoute, "run: send-sms", "run: {id: 66f1a0b2c3d4e5f60718293a}", 1)
	b := newBridge(t, s, byID, 4)
	output := ""
	s.run = func(r Request) (Reply, error) {
		reply := s.happen(r, 0)
		reply.Output = json.RawMessage(output)
		return reply, nil
	}
	for id, test := range map[string]struct {
		output string
		want   []string
	}{
		"umid":    {`{"umid":"u-1","status":{"code":"QUEUED"}}`, []string{"u-1"}},
		"batch":   {`{"batchId":"b-1","acceptedCount":2}`, []string{"b-1"}},
		"session": {`{"sessionId":"s-1","umid":null}`, []string{"s-1"}},
		"again":   {`{"umid":"u-1"}`, nil}, // speaks of what somebody else has sent
		"none":    {`[{"umid":"u-2"}]`, nil},
		"numbers": {`{"umid":7}`, nil},
	} {
		if id == "again" {
			continue // the last one
		}
		output = test.output
		if got := deliver(t, b, orderEvent(id, "+12025550111")); got.acks != 1 {
			t.Errorf("%s: %+v", id, got)
		}
		for _, of := range test.want {
			if entry, err := b.Sent(t.Context(), of); err != nil || entry.Record.Cause.ID != id {
				t.Errorf("%s: %q, %v", of, entry.Record.Cause.ID, err)
			}
		}
	}
	output = `{"umid":"u-1"}`
	deliver(t, b, orderEvent("again", "+12025550111"))
	if entry, err := b.Sent(t.Context(), "u-1"); err != nil || entry.Record.Cause.ID != "umid" {
		t.Errorf("%q, %v", entry.Record.Cause.ID, err)
	}
	for _, id := range []string{"", "u-2", "7"} {
		if _, err := b.Sent(t.Context(), id); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", id, err)
		}
	}
	// Without it there is no result yet, and the effect is not repeated for it.
	output, s.note = `{"umid":"u-3"}`, func() error { return errors.New("away") }
	before := effectsOf(s.world)
	if got := deliver(t, b, orderEvent("late", "+12025550111")); got.naks != 1 || s.results[string(keyOf("late", "r"))] != nil {
		t.Errorf("%+v", got)
	}
	s.note = nil
	again := orderEvent("late", "+12025550111")
	again.Redelivered = true
	deliver(t, b, again)
	if entry, err := b.Sent(t.Context(), "u-3"); err != nil || entry.Record.Cause.ID != "late" || len(s.results[string(keyOf("late", "r"))]) != 1 || effectsOf(s.world) != before+1 {
		t.Errorf("%q, %v, %d effects", entry.Record.Cause.ID, err, effectsOf(s.world)-before)
	}
	// What carries our reference costs nothing.
	s.notes = map[string]note{}
	b.SetTable(tableOf(t, oneRoute))
	deliver(t, b, orderEvent("referenced", "+12025550111"))
	if len(s.notes) != 0 {
		t.Errorf("%v", s.notes)
	}
}
