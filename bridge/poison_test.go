package bridge

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// often is a delivery of the one message of these tests, for the so-manieth time.
func often(times int, d Delivery) Delivery {
	d.Deliveries, d.Redelivered = times, times > 1
	d.Stream, d.Seq, d.Stored = "EVENTS", 7, time.Now().Truncate(time.Hour)
	return d
}

// give hands d to b once, as it is.
func give(t *testing.T, b *Bridge, d Delivery) *settled {
	t.Helper()
	s := &settled{}
	d.Settle = s
	b.Handle(t.Context(), &d)
	return s
}

func (w *world) markOf(d Delivery) marked {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.marks[markID(&d)]
}

// dies hands d to a new process that ends while it maps the pair k: nothing that
// was to come after that comes.
func dies(t *testing.T, w *world, routes string, k Key, d Delivery) {
	t.Helper()
	s := &seams{world: w}
	sends(s)
	b := newBridge(t, s, routes, 1)
	var died atomic.Bool
	b.Hook = func(step string, key Key) {
		if step == "mapping" && key == k {
			died.Store(true)
			runtime.Goexit()
		}
	}
	var wg sync.WaitGroup
	settle := &settled{}
	d.Settle = settle
	wg.Go(func() { b.Handle(t.Context(), &d) })
	wg.Wait()
	if !died.Load() || settle.acks+settle.naks > 0 {
		t.Fatalf("died %v, %d acks, %d naks", died.Load(), settle.acks, settle.naks)
	}
}

// An event that takes process after process down is a dead letter once two of
// them have died while it was examined, the second time alone (R14).
func TestPoison(t *testing.T) {
	t.Parallel()
	s, b := alone(t, oneRoute)
	k, d := keyOf("1", "r"), orderEvent("1", "+12025550101")
	for times := 1; times < suspectFrom; times++ {
		dies(t, s.world, oneRoute, k, often(times, d))
		if got := s.markOf(often(times, d)).mark; got.Times != 0 {
			t.Fatalf("marked at delivery %d: %+v", times, got)
		}
	}
	for i := range poisonFrom {
		dies(t, s.world, oneRoute, k, often(suspectFrom+i, d))
		if got := s.markOf(often(9, d)).mark; got.Times != i+1 {
			t.Fatalf("after %d marked deaths: %+v", i+1, got)
		}
	}
	b.Hook = func(step string, _ Key) { t.Errorf("it came to %q", step) }
	if got := give(t, b, often(suspectFrom+poisonFrom, d)); got.acks != 1 || got.naks != 0 {
		t.Errorf("%d acks, %d naks", got.acks, got.naks)
	}
	if diff := cmp.Diff([]Reason{ReasonMalformed}, s.reasons()); diff != "" {
		t.Error(diff)
	}
	if s.effects[k] != 0 || len(s.records) != 0 {
		t.Errorf("%d effects, %d records", s.effects[k], len(s.records))
	}
}

// However often an event comes, it is no poison as long as its process lives,
// or died over it once, or over something else.
func TestNoPoison(t *testing.T) {
	t.Parallel()
	d := orderEvent("1", "+12025550101")
	tests := map[string]func(s *seams, b *Bridge) Mark{
		"handed back often":               func(*seams, *Bridge) Mark { return Mark{} },
		"a process died over it once":     func(*seams, *Bridge) Mark { return Mark{Times: 1, By: "another"} },
		"a mark that could not be undone": func(_ *seams, b *Bridge) Mark { return Mark{Times: poisonFrom, By: b.self} },
	}
	for name, before := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, b := alone(t, oneRoute)
			d := often(200, d)
			if m := before(s, b); m.Times > 0 {
				s.seq++
				s.marks[markID(&d)] = marked{m, s.seq}
			}
			if got := give(t, b, d); got.acks != 1 || s.effects[keyOf("1", "r")] != 1 {
				t.Errorf("%d acks, %d naks, %d effects", got.acks, got.naks, s.effects[keyOf("1", "r")])
			}
			first := s.markOf(d)
			if first.mark != (Mark{}) || first.rev == 0 {
				t.Errorf("left behind: %+v", first)
			}
			// A process examines once what comes often, and again with another table.
			give(t, b, d)
			if got := s.markOf(d); got != first {
				t.Errorf("examined twice: %+v", got)
			}
			b.SetTable(tableOf(t, twoRoutes))
			give(t, b, d)
			if got := s.markOf(d); got.rev == first.rev || got.mark != (Mark{}) {
				t.Errorf("not examined with the new table: %+v", got)
			}
		})
	}
}

// What cannot be marked is not decoded: it comes again.
func TestSuspectWithoutLedger(t *testing.T) {
	t.Parallel()
	s, b := alone(t, oneRoute)
	s.fate = func(write) writeFate { return refused }
	b.Hook = func(step string, _ Key) { t.Errorf("it came to %q", step) }
	if got := give(t, b, often(suspectFrom, orderEvent("1", "+12025550101"))); got.naks != 1 || got.delay != troubleDelay {
		t.Errorf("%d acks, %d naks after %v", got.acks, got.naks, got.delay)
	}
}

// A mark stays no longer than it takes to say so: nothing accuses an event
// because NATS was away for a while.
func TestMarkIsTakenAwayInTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, b := alone(t, oneRoute)
		d := often(suspectFrom, orderEvent("1", "+12025550101"))
		writes := 0
		s.fate = func(w write) writeFate {
			if w.key != "" {
				return stored
			}
			if writes++; writes > 1 && writes < 20 {
				return lost
			}
			return stored
		}
		if got := give(t, b, d); got.acks != 1 || writes != 20 || s.markOf(d).mark != (Mark{}) {
			t.Errorf("%d acks, %d writes, mark %+v", got.acks, writes, s.markOf(d))
		}
	})
}

// Of a pair set aside, the record is there: it ends as one that failed.
func TestPoisonSetAside(t *testing.T) {
	t.Parallel()
	s, b := alone(t, oneRoute)
	refuses(&Failure{Kind: Outage})(s)
	k, d := keyOf("1", "r"), orderEvent("1", "+12025550101")
	deliver(t, b, d)
	d = often(50, d)
	d.Pair, d.Key = &Pair{Route: "r"}, k
	for range poisonFrom {
		dies(t, s.world, oneRoute, k, d)
	}
	if got := give(t, b, d); got.acks != 1 {
		t.Errorf("%d acks, %d naks", got.acks, got.naks)
	}
	if rec := s.record(k); rec.State != Failed || rec.Reason != ReasonMalformed || rec.Cause.ID != "1" {
		t.Errorf("record %+v", rec)
	}
	if diff := cmp.Diff([]State{Failed}, s.results[string(k)]); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]Reason{ReasonMalformed}, s.reasons()); diff != "" {
		t.Error(diff)
	}
}

// A route whose mapping takes the process down leaves no other route's run
// behind that nobody would settle.
func TestPoisonOfOneRoute(t *testing.T) {
	t.Parallel()
	s := &seams{world: newWorld(t)}
	dies(t, s.world, twoRoutes, keyOf("1", "q"), often(1, orderEvent("1", "+12025550101")))
	if len(s.records) > 0 || len(s.effects) > 0 {
		t.Errorf("records %v, effects %v", s.records, s.effects)
	}
}

// A mapping that panics ends nothing but its own pair, once it is clear that it
// always will.
func TestMappingThatPanics(t *testing.T) {
	t.Parallel()
	s, b := alone(t, twoRoutes)
	s.mayPanic = true
	r, q := keyOf("1", "r"), keyOf("1", "q")
	b.Hook = func(step string, key Key) {
		if step == "mapping" && key == q {
			panic(errors.New("of a test"))
		}
	}
	d := orderEvent("1", "+12025550101")
	if got := give(t, b, often(1, d)); got.naks != 1 || got.delay != time.Minute {
		t.Errorf("%d acks, %d naks after %v", got.acks, got.naks, got.delay)
	}
	if got := give(t, b, often(suspectFrom, d)); got.acks != 1 {
		t.Errorf("%d acks, %d naks", got.acks, got.naks)
	}
	if s.record(r).State != Succeeded || s.record(q).State != Failed || s.record(q).Reason != ReasonMapping || s.effects[r] != 1 {
		t.Errorf("r %+v\nq %+v", s.record(r), s.record(q))
	}
}

// While one is examined alone, nothing else is mapped; and while something else
// is, nothing is alone.
func TestCare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c care
		c.init()
		var inside, alone, most atomic.Int32
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				<-time.After(time.Duration(i%17) * time.Millisecond)
				if i%5 == 0 {
					c.enterAlone()
					if alone.Add(1) != 1 || inside.Load() != 0 {
						t.Error("not alone")
					}
					<-time.After(time.Millisecond)
					alone.Add(-1)
					c.leaveAlone()
					return
				}
				c.enter()
				most.Store(max(most.Load(), inside.Add(1)))
				if alone.Load() != 0 {
					t.Error("beside one that is alone")
				}
				<-time.After(time.Millisecond)
				inside.Add(-1)
				c.leave()
			})
		}
		wg.Wait()
		if most.Load() < 2 {
			t.Error("one after the other")
		}
	})
}
