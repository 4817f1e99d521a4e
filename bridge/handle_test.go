package bridge

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// sends is a service at which everything goes well.
func sends(s *seams) {
	s.run = func(r Request) (Reply, error) { return s.happen(r, 0), nil }
}

// alone is a bridge with a world of its own.
func alone(t *testing.T, routes string) (*seams, *Bridge) {
	t.Helper()
	s := &seams{world: newWorld(t)}
	sends(s)
	return s, newBridge(t, s, routes, 1)
}

func (w *world) reasons() []Reason {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []Reason
	for _, l := range w.dead {
		all = append(all, l.reason)
	}
	return all
}

func redelivered(d Delivery) Delivery {
	d.Redelivered = true
	return d
}

func TestOneEvent(t *testing.T) {
	t.Parallel()
	s, b := alone(t, oneRoute)
	k := keyOf("1", "r")
	for i, d := range []Delivery{orderEvent("1", "+12025550101"), redelivered(orderEvent("1", "+12025550101")), orderEvent("1", "+12025550101")} {
		if got := deliver(t, b, d); got.acks != 1 || got.naks != 0 {
			t.Errorf("delivery %d: %d acks, %d naks", i, got.acks, got.naks)
		}
	}
	if s.effects[k] != 1 || s.record(k).State != Succeeded || !s.record(k).Published {
		t.Errorf("%d effects, record %+v", s.effects[k], s.record(k))
	}
	// Once, once more for the first that met its record, and no more (R18).
	if diff := cmp.Diff([]State{Succeeded, Succeeded}, s.results[string(k)]); diff != "" {
		t.Error(diff)
	}
}

// Whatever the record is met by, other content under the same identity is told
// apart, and the first one's record stays as it is (R2).
func TestIDReused(t *testing.T) {
	t.Parallel()
	const bad = "not a number"
	other := orderEvent("1", "+12025550102")
	tests := map[string]struct {
		first  func(s *seams)
		second Delivery
	}{
		"ended, met by a claim":          {sends, other},
		"ended, met by a bad input":      {sends, orderEvent("1", bad)},
		"ended, met redelivered":         {sends, redelivered(other)},
		"waiting, met by a bad input":    {refuses(&Failure{Kind: Temporary}), orderEvent("1", bad)},
		"waiting, met at a closed gate":  {refuses(&Failure{Kind: Outage}), other},
		"in doubt, met by a bad input":   {refuses(&Failure{Kind: Unknown}), orderEvent("1", bad)},
		"in doubt, met by another claim": {refuses(&Failure{Kind: Unknown}), other},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, b := alone(t, oneRoute)
			test.first(s)
			k := keyOf("1", "r")
			deliver(t, b, orderEvent("1", "+12025550101"))
			first := s.record(k)
			if got := deliver(t, b, test.second); got.acks != 1 {
				t.Errorf("%d acks, %d naks", got.acks, got.naks)
			}
			if diff := cmp.Diff([]Reason{ReasonIDReused}, s.reasons()); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(first, s.record(k)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func refuses(f *Failure) func(*seams) {
	return func(s *seams) {
		s.run = func(Request) (Reply, error) { c := *f; return Reply{}, &c }
	}
}

const retryRoute = oneRoute + "    on_unknown: retry\n"

// A run that nobody knows the end of is repeated once and no more, although the
// write that says so was lost the first time (R17).
func TestUnknownIsRepeatedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, b := alone(t, retryRoute)
		runs, failed := 0, false
		s.run = func(Request) (Reply, error) {
			runs++
			return Reply{}, &Failure{Kind: Unknown, Reason: ReasonOutcomeUnknown}
		}
		s.fate = func(w write) writeFate {
			if w.rec.State == Waiting && !failed {
				failed = true
				return lost
			}
			return stored
		}
		k := keyOf("1", "r")
		d := orderEvent("1", "+12025550101")
		d.Pair = &Pair{Route: "r"}
		deliver(t, b, orderEvent("1", "+12025550101"))
		for range 3 {
			d.Redelivered = true
			held := deliver(t, b, d)
			<-time.After(2 * time.Minute)
			b.doubts.lookThrough(t.Context())
			if held.acks+held.naks != 1 {
				t.Fatalf("%d acks, %d naks", held.acks, held.naks)
			}
			<-time.After(time.Minute)
		}
		rec := s.record(k)
		if runs != 2 || rec.State != UnknownSt || rec.Unclear != 1 {
			t.Errorf("%d runs, state %s, unclear %d", runs, rec.State, rec.Unclear)
		}
	})
}

// Who dies between recording that an unknown was none and withdrawing its dead
// letter leaves both to whoever meets the record next (R6, R18).
func TestOverturnedThenDied(t *testing.T) {
	t.Parallel()
	s, b := alone(t, oneRoute)
	k := keyOf("1", "r")
	deliver(t, b, orderEvent("1", "+12025550101"))
	e := s.records[k]
	e.Record.Overturned = true
	s.records[k] = e
	s.dead["old"] = letter{key: k, reason: ReasonOutcomeUnknown, of: &Delivery{}}
	clear(s.results)
	deliver(t, b, redelivered(orderEvent("1", "+12025550101")))
	if len(s.reasons()) != 0 || len(s.results[string(k)]) != 1 {
		t.Errorf("dead letters %v, results %v", s.reasons(), s.results)
	}
}

// Evidence that comes while the dead letter of an unknown is on its way finds
// none to withdraw: who stores the letter looks once more (R6).
func TestEvidenceWhileTheLetterIsOnItsWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, b := alone(t, oneRoute)
		refuses(&Failure{Kind: Unknown})(s)
		k := keyOf("1", "r")
		deliver(t, b, orderEvent("1", "+12025550101"))
		d := orderEvent("1", "+12025550101")
		d.Pair, d.Redelivered = &Pair{Route: "r"}, true
		held := deliver(t, b, d)
		<-time.After(2 * time.Minute)
		s.store = func() error {
			s.store = nil
			s.mu.Lock()
			defer s.mu.Unlock()
			e := s.records[k]
			e.Record.State = Succeeded
			_, err := s.put(write{k, e.Record, e.Revision})
			return err
		}
		b.doubts.lookThrough(t.Context())
		if held.acks != 1 || len(s.reasons()) != 0 {
			t.Errorf("%d acks, %d naks, dead letters %v", held.acks, held.naks, s.reasons())
		}
	})
}

const twoRoutes = oneRoute + `  - name: q
    on: com.acme.order.shipped
    run: send-sms
    connection: other
    input: {destination: "${ .data.phone }", text: hello}
`

// A fault over one event, on whichever route, neither ends the process nor
// costs it a slot for ever (R14).
func TestPanicGivesItsSlotBack(t *testing.T) {
	t.Parallel()
	s, b := alone(t, twoRoutes)
	s.mayPanic = true
	s.run = func(Request) (Reply, error) { panic("of a test") }
	for i := range 5 {
		if got := deliver(t, b, orderEvent(fmt.Sprint(i), "+12025550101")); got.acks != 0 || got.naks != 1 || got.delay != time.Minute {
			t.Errorf("%d acks, %d naks after %v", got.acks, got.naks, got.delay)
		}
	}
	sends(s)
	if got := deliver(t, b, orderEvent("well", "+12025550101")); got.acks != 1 || b.InFlight() != 0 || s.panics != 10 {
		t.Errorf("%d acks, %d in flight, %d panics", got.acks, b.InFlight(), s.panics)
	}
}

// Which routes a set of records speaks of stays with the first claim, whatever
// table the next process has (R2).
func TestFrozenRoutesSurviveAnotherTable(t *testing.T) {
	t.Parallel()
	s, b := alone(t, twoRoutes)
	r, q := keyOf("1", "r"), keyOf("1", "q")
	refuses(&Failure{Kind: Temporary})(s)
	s.fate = func(w write) writeFate { // the process dies before it comes to q
		if w.key == q {
			return refused
		}
		return stored
	}
	deliver(t, b, orderEvent("1", "+12025550101"))
	if s.record(r).State != Waiting || s.record(q).State != "" {
		t.Fatalf("r is %q and q %q", s.record(r).State, s.record(q).State)
	}
	s.fate = nil
	sends(s)
	e := s.records[r]
	e.Record.NotBefore = time.Time{}
	s.records[r] = e
	younger := newBridge(t, s, oneRoute, 1)
	deliver(t, younger, orderEvent("1", "+12025550101")) // published again, to a process that does not know q
	deliver(t, b, redelivered(orderEvent("1", "+12025550101")))
	if s.record(r).State != Succeeded || s.record(q).State != Succeeded {
		t.Errorf("r is %q and q %q", s.record(r).State, s.record(q).State)
	}
}

// What a process doubts was sent where the record says, not where its own
// table would send it now (R2, R5).
func TestDoubtLooksWhereItWasSent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, b := alone(t, oneRoute)
		k := keyOf("1", "r")
		elsewhere := newBridge(t, s, strings.Replace(oneRoute, "connection: main", "connection: other", 1), 1)
		s.run = func(r Request) (Reply, error) {
			s.happen(r, 0)
			return Reply{}, &Failure{Kind: Unknown}
		}
		deliver(t, b, orderEvent("1", "+12025550101"))
		d := orderEvent("1", "+12025550101")
		d.Pair = &Pair{Route: "r"}
		first := true
		s.get = func(Key) error { // it reads before the other claims, and loses the race
			if first {
				first = false
				return ErrNotFound
			}
			return nil
		}
		held := deliver(t, elsewhere, d)
		elsewhere.doubts.lookThrough(t.Context())
		if s.record(k).State != Succeeded || held.acks != 1 {
			t.Errorf("state %s, %d acks, %d naks", s.record(k).State, held.acks, held.naks)
		}
	})
}

// A success that is known is recorded although the ledger was lost meanwhile.
func TestLedgerLostDuringARun(t *testing.T) {
	t.Parallel()
	s, b := alone(t, oneRoute)
	k := keyOf("1", "r")
	s.run = func(r Request) (Reply, error) {
		s.mu.Lock()
		clear(s.records)
		s.mu.Unlock()
		return s.happen(r, 0), nil
	}
	got := deliver(t, b, orderEvent("1", "+12025550101"))
	if got.acks != 1 || s.record(k).State != Succeeded || len(s.results[string(k)]) != 1 {
		t.Errorf("%d acks, state %q, results %v", got.acks, s.record(k).State, s.results)
	}
}

// An outcome whose ack was lost counts and is published once.
func TestOutcomeStoredUnsaid(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, b := alone(t, oneRoute)
		k := keyOf("1", "r")
		s.fate = func(w write) writeFate {
			if w.rec.State == Succeeded {
				return storedUnsaid
			}
			return stored
		}
		got := deliver(t, b, orderEvent("1", "+12025550101"))
		if got.acks != 1 || len(s.results[string(k)]) != 1 || len(s.ended) != 1 {
			t.Errorf("%d acks, results %v, ended %v", got.acks, s.results, s.ended)
		}
	})
}

func TestWhatNoRecordCouldHold(t *testing.T) {
	t.Parallel()
	s, b := alone(t, oneRoute)
	large := orderEvent(strings.Repeat("1", maxCause), "+12025550101")
	gone := orderEvent("1", "+12025550101")
	gone.Pair, gone.Broken = &Pair{Route: "r"}, fmt.Errorf("message 7 of stream EVENTS, which was too large to be set aside, is gone")
	for _, d := range []Delivery{large, gone} {
		if got := deliver(t, b, d); got.acks != 1 {
			t.Errorf("%d acks, %d naks", got.acks, got.naks)
		}
	}
	if diff := cmp.Diff([]Reason{ReasonMalformed, ReasonMalformed}, s.reasons()); diff != "" {
		t.Error(diff)
	}
}
