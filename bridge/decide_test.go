package bridge

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// decided is the message by which a person decides about the letters of a pair.
func decided(s *seams, d Delivery, k Key, route string, replay int, discard bool) Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	decision := &Decision{Discard: discard, Asked: time.Now()}
	for _, l := range s.dead {
		if l.key == k {
			decision.Letters, decision.Reason = append(decision.Letters, l.seq), l.reason
		}
	}
	if decision.Reason == ReasonOutcomeUnknown {
		decision.Unclear = 1
	}
	d.Pair = &Pair{Route: route, Replay: replay, Decision: decision}
	return d
}

func replayed(id, route string, replay int) Key { return NewKey(EventHash("/shop", id), route, replay) }

// leftUnknown makes a pair whose outcome is unknown, with its letter.
func leftUnknown(t *testing.T, s *seams, b *Bridge, d Delivery, run func(Request)) {
	t.Helper()
	s.run = func(r Request) (Reply, error) {
		run(r)
		return Reply{}, &Failure{Kind: Unknown, Reason: ReasonOutcomeUnknown, Message: "no answer"}
	}
	deliver(t, b, d)
	aside := d
	aside.Pair, aside.Redelivered = &Pair{Route: "r"}, true
	held := deliver(t, b, aside)
	<-time.After(2 * time.Minute)
	b.doubts.lookThrough(t.Context())
	if held.acks != 1 || !cmp.Equal(s.reasons(), []Reason{ReasonOutcomeUnknown}) {
		t.Fatalf("%d acks, %d naks, dead letters %v", held.acks, held.naks, s.reasons())
	}
	sends(s)
}

// Two people replay the letter of one route at once, and of two routes that
// matched: the one route's effect comes about once, the other's not again (R11).
func TestTwoReplaysAreOne(t *testing.T) {
	t.Parallel()
	s, b := alone(t, twoRoutes)
	s.run = func(r Request) (Reply, error) {
		if r.Meta.Route == "r" {
			return Reply{}, &Failure{Kind: Permanent, Reason: ReasonRejected}
		}
		return s.happen(r, 0), nil
	}
	d := orderEvent("1", "+12025550101")
	deliver(t, b, d)
	sends(s)
	message := decided(s, d, keyOf("1", "r"), "r", 1, false)
	other := newBridge(t, s, twoRoutes, 1)
	var both sync.WaitGroup
	for _, at := range []*Bridge{b, other} {
		both.Go(func() {
			if got := deliver(t, at, message); got.acks != 1 {
				t.Errorf("%d acks, %d naks", got.acks, got.naks)
			}
		})
	}
	both.Wait()
	want := map[Key]int{keyOf("1", "q"): 1, replayed("1", "r", 1): 1}
	if diff := cmp.Diff(want, s.effects); diff != "" {
		t.Errorf("effects (-want +got):\n%s", diff)
	}
	if len(s.reasons()) != 0 || s.record(keyOf("1", "r")).State != Failed || s.record(replayed("1", "r", 1)).State != Succeeded {
		t.Errorf("dead letters %v, records %+v", s.reasons(), s.records)
	}
}

// A letter is gone before its event is sent, so that whoever dies in between
// leaves nothing that could be replayed a second time; what was stored comes
// again, and is sent once.
func TestReplayDiesBeforeItsClaim(t *testing.T) {
	t.Parallel()
	s, b := alone(t, oneRoute)
	s.mayPanic = true
	refuses(&Failure{Kind: Permanent, Reason: ReasonRejected})(s)
	d := orderEvent("1", "+12025550101")
	deliver(t, b, d)
	sends(s)
	b.Hook = func(step string, _ Key) {
		if step == "letters removed" {
			panic("killed")
		}
	}
	message := decided(s, d, keyOf("1", "r"), "r", 1, false)
	if got := deliver(t, b, message); got.acks != 0 || got.naks != 1 || len(s.reasons()) != 0 || len(s.effects) != 0 {
		t.Errorf("%d acks, %d naks, dead letters %v, effects %v", got.acks, got.naks, s.reasons(), s.effects)
	}
	b.Hook = func(string, Key) {}
	for range 2 {
		if got := deliver(t, b, redelivered(message)); got.acks != 1 {
			t.Errorf("%d acks, %d naks", got.acks, got.naks)
		}
	}
	if n := s.effects[replayed("1", "r", 1)]; n != 1 || len(s.effects) != 1 {
		t.Errorf("effects %v", s.effects)
	}
}

// A replay that fails is a letter again, with the next number; the letter of a
// number is removed by the replay of that number only.
func TestReplayThatFails(t *testing.T) {
	t.Parallel()
	s, b := alone(t, oneRoute)
	refuses(&Failure{Kind: Permanent, Reason: ReasonRejected})(s)
	d := orderEvent("1", "+12025550101")
	deliver(t, b, d)
	first := decided(s, d, keyOf("1", "r"), "r", 1, false)
	deliver(t, b, first)
	if diff := cmp.Diff([]Reason{ReasonRejected}, s.reasons()); diff != "" {
		t.Fatal(diff)
	}
	sends(s)
	second := decided(s, d, replayed("1", "r", 1), "r", 2, false)
	if len(second.Pair.Decision.Letters) != 1 {
		t.Fatalf("the new letter is not about replay 1: %+v", s.dead)
	}
	for _, m := range []Delivery{first, second, first} {
		deliver(t, b, m)
	}
	if diff := cmp.Diff(map[Key]int{replayed("1", "r", 2): 1}, s.effects); diff != "" || s.record(replayed("1", "r", 1)).Reason != ReasonRejected {
		t.Errorf("effects (-want +got):\n%s", diff)
	}
}

// What a replay of an unknown finds out first.
func TestReplayOfUnknown(t *testing.T) {
	t.Parallel()
	happened := func(shows time.Duration) func(s *seams, r Request) {
		return func(s *seams, r Request) { s.happen(r, shows) }
	}
	failedLog := func(f Failure) func(s *seams, r Request) {
		return func(s *seams, r Request) {
			s.logs = append(s.logs, shownLog{at: r.Place, by: time.Now().Add(time.Hour), log: RunLog{ID: "run", Meta: r.Meta, Failure: &f, CreatedAt: time.Now()}})
		}
	}
	tests := map[string]struct {
		run     func(s *seams, r Request)
		first   State // the first record's state in the end
		effects int
		second  State // of the replay's record; "" if there is none
		reasons []Reason
	}{
		"its log shows by now":          {happened(time.Hour), Succeeded, 1, "", nil},
		"its log never shows":           {happened(9999 * time.Hour), UnknownSt, 2, Succeeded, nil},
		"it never was":                  {func(*seams, Request) {}, UnknownSt, 1, Succeeded, nil},
		"its log says that it failed":   {failedLog(Failure{Kind: Permanent, Reason: ReasonRejected}), Failed, 0, "", []Reason{ReasonRejected}},
		"its log leaves it open":        {failedLog(Failure{Kind: Unknown}), UnknownSt, 1, Succeeded, nil},
		"its log says that nothing was": {failedLog(Failure{Kind: Outage}), UnknownSt, 1, Succeeded, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s, b := alone(t, oneRoute)
				d := orderEvent("1", "+12025550101")
				leftUnknown(t, s, b, d, func(r Request) { test.run(s, r) })
				<-time.After(2 * time.Hour)
				message := decided(s, d, keyOf("1", "r"), "r", 1, false)
				for range 2 { // and by two people
					if got := deliver(t, b, message); got.acks != 1 {
						t.Errorf("%d acks, %d naks", got.acks, got.naks)
					}
				}
				total := s.effects[keyOf("1", "r")] + s.effects[replayed("1", "r", 1)]
				first, second := s.record(keyOf("1", "r")), s.record(replayed("1", "r", 1))
				if total != test.effects || first.State != test.first || second.State != test.second {
					t.Errorf("%d effects, states %s and %q; want %d, %s and %q", total, first.State, second.State, test.effects, test.first, test.second)
				}
				if diff := cmp.Diff(test.reasons, s.reasons()); diff != "" {
					t.Errorf("dead letters (-want +got):\n%s", diff)
				}
				if first.State.Final() && len(s.results[string(keyOf("1", "r"))]) == 0 {
					t.Error("its real outcome was not published")
				}
				if first.State == UnknownSt && (!first.Expires() || second.Unclear != 1) {
					t.Errorf("decided %v, unclear %d", first.Decided, second.Unclear)
				}
			})
		})
	}
}

// While nobody can be asked for evidence an unknown is not sent again, and its
// letter stays.
func TestReplayOfUnknownWithoutALook(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, b := alone(t, oneRoute)
		d := orderEvent("1", "+12025550101")
		leftUnknown(t, s, b, d, func(r Request) { s.happen(r, time.Hour) })
		s.list = func() error { return errors.New("page 2 is missing") }
		message := decided(s, d, keyOf("1", "r"), "r", 1, false)
		if got := deliver(t, b, message); got.naks != 1 || got.delay != lookAgain || len(s.reasons()) != 1 || s.record(keyOf("1", "r")).Decided {
			t.Errorf("%d acks, %d naks, dead letters %v", got.acks, got.naks, s.reasons())
		}
		s.list = nil
		<-time.After(2 * time.Hour)
		if got := deliver(t, b, message); got.acks != 1 || s.effects[replayed("1", "r", 1)] != 0 || s.record(keyOf("1", "r")).State != Succeeded {
			t.Errorf("%d acks, effects %v", got.acks, s.effects)
		}
	})
}

// The ledger may have forgotten the record: of a failure that is in order; an
// unknown it never forgets by itself, so that one is held.
func TestReplayWithoutARecord(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		failure Failure
		effects int
		reasons []Reason
	}{
		"failed":  {Failure{Kind: Permanent, Reason: ReasonRejected}, 1, nil},
		"unknown": {Failure{Kind: Unknown, Reason: ReasonOutcomeUnknown}, 0, []Reason{ReasonUnledgered}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s, b := alone(t, oneRoute)
				d := orderEvent("1", "+12025550101")
				if test.failure.Kind == Unknown {
					leftUnknown(t, s, b, d, func(Request) {})
				} else {
					refuses(&test.failure)(s)
					deliver(t, b, d)
					sends(s)
				}
				message := decided(s, d, keyOf("1", "r"), "r", 1, false)
				delete(s.records, keyOf("1", "r"))
				deliver(t, b, message)
				if n := s.effects[replayed("1", "r", 1)]; n != test.effects {
					t.Errorf("%d effects, want %d", n, test.effects)
				}
				if diff := cmp.Diff(test.reasons, s.reasons()); diff != "" {
					t.Errorf("dead letters (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// A replay that lay about for longer than the ledger remembers may have been
// sent already, and its record forgotten: it is held (R12).
func TestReplayLayAbout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, b := alone(t, oneRoute)
		s.forgets = 65 * time.Hour
		refuses(&Failure{Kind: Permanent, Reason: ReasonRejected})(s)
		d := orderEvent("1", "+12025550101")
		deliver(t, b, d)
		sends(s)
		message := decided(s, d, keyOf("1", "r"), "r", 1, false)
		deliver(t, b, message) // its ack is lost, and every bridge is down for days
		<-time.After(73 * time.Hour)
		clear(s.records)
		deliver(t, b, redelivered(message))
		if n := s.effects[replayed("1", "r", 1)]; n != 1 {
			t.Errorf("%d effects, want 1", n)
		}
		if diff := cmp.Diff([]Reason{ReasonUnledgered}, s.reasons()); diff != "" {
			t.Errorf("dead letters (-want +got):\n%s", diff)
		}
	})
}

// A replay whose gate is closed waits with its connection like any other pair,
// and is sent from there, once.
func TestReplayWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, b := alone(t, oneRoute)
		refuses(&Failure{Kind: Permanent, Reason: ReasonRejected})(s)
		d := orderEvent("1", "+12025550101")
		deliver(t, b, d)
		refuses(&Failure{Kind: Outage})(s)
		got := deliver(t, b, decided(s, d, keyOf("1", "r"), "r", 1, false))
		k := replayed("1", "r", 1)
		waiting := s.aside[k]
		if got.acks != 1 || waiting == nil || waiting.d.Pair.Decision != nil || waiting.d.Pair.Replay != 1 || s.record(k).State != Waiting || s.record(k).Attempts != 0 {
			t.Fatalf("%d acks, %d naks, aside %+v, record %+v", got.acks, got.naks, waiting, s.record(k))
		}
		sends(s)
		b.gates.all = map[gateKey]*gate{}
		if got := deliver(t, b, waiting.d); got.acks != 1 || s.effects[k] != 1 {
			t.Errorf("%d acks, %d naks, effects %v", got.acks, got.naks, s.effects)
		}
	})
}

// A person gives up: one result says so, whoever says it and however often, and
// of a replay and a discard at once one wins.
func TestDiscard(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		unknown bool
		discard []bool // the decisions, one after the other; false is a replay
		state   State
		effects int
	}{
		"failed":                {false, []bool{true}, Failed, 0},
		"failed, twice":         {false, []bool{true, true, true}, Failed, 0},
		"unknown, twice":        {true, []bool{true, true}, Failed, 0},
		"discarded, replayed":   {false, []bool{true, false}, Failed, 0},
		"replayed, discarded":   {false, []bool{false, true}, Succeeded, 1},
		"unknown and both":      {true, []bool{false, true, false}, Succeeded, 1},
		"unknown, gave up once": {true, []bool{true, false}, Failed, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s, b := alone(t, oneRoute)
				d := orderEvent("1", "+12025550101")
				if test.unknown {
					leftUnknown(t, s, b, d, func(Request) {})
				} else {
					refuses(&Failure{Kind: Permanent, Reason: ReasonRejected})(s)
					deliver(t, b, d)
					sends(s)
				}
				k := replayed("1", "r", 1)
				var messages []Delivery
				for _, discard := range test.discard { // all have seen the letter
					messages = append(messages, decided(s, d, keyOf("1", "r"), "r", 1, discard))
				}
				for _, m := range messages {
					if got := deliver(t, b, m); got.acks != 1 {
						t.Errorf("%d acks, %d naks", got.acks, got.naks)
					}
				}
				rec := s.record(k)
				if rec.State != test.state || s.effects[k] != test.effects || len(s.reasons()) != 0 {
					t.Errorf("state %s, %d effects, dead letters %v", rec.State, s.effects[k], s.reasons())
				}
				if test.state == Failed && (rec.Reason != ReasonDiscarded || rec.Try != "" || rec.Attempts != 0) {
					t.Errorf("record %+v", rec)
				}
				for _, published := range s.results[string(k)] {
					if published != test.state {
						t.Errorf("results %v", s.results[string(k)])
					}
				}
				if n := len(s.results[string(k)]); n < 1 || n > 2 { // again for the first that met the record (R18)
					t.Errorf("published %d times", n)
				}
			})
		})
	}
}

// A discard of a letter whose route has gone still says what it was about.
func TestDiscardWithoutARoute(t *testing.T) {
	t.Parallel()
	s, b := alone(t, oneRoute)
	refuses(&Failure{Kind: Permanent, Reason: ReasonRejected})(s)
	d := orderEvent("1", "+12025550101")
	deliver(t, b, d)
	message := decided(s, d, keyOf("1", "r"), "r", 1, true)
	b.SetTable(tableOf(t, "routes: []"))
	deliver(t, b, message)
	if f := func() Frozen { r := s.record(replayed("1", "r", 1)); return r.frozen() }(); f.Action != "send-sms" || f.Connection != "main" {
		t.Errorf("frozen %+v", f)
	}

	other := orderEvent("2", "+12025550101")
	late := decided(s, other, keyOf("2", "r"), "r", 1, true)
	late.Pair.Decision.Action, late.Pair.Decision.Connection = "send-mms", "other"
	deliver(t, b, late) // of which the ledger knows nothing any more
	if f := func() Frozen { r := s.record(replayed("2", "r", 1)); return r.frozen() }(); f.Action != "send-mms" || f.Connection != "other" {
		t.Errorf("frozen %+v", f)
	}
}

// A replay whose route has gone is a letter again, and nothing is sent.
func TestReplayWithoutARoute(t *testing.T) {
	t.Parallel()
	s, b := alone(t, oneRoute)
	refuses(&Failure{Kind: Permanent, Reason: ReasonRejected})(s)
	d := orderEvent("1", "+12025550101")
	deliver(t, b, d)
	sends(s)
	b.SetTable(tableOf(t, "routes: []"))
	deliver(t, b, decided(s, d, keyOf("1", "r"), "r", 1, false))
	if diff := cmp.Diff([]Reason{ReasonRouteRemoved}, s.reasons()); diff != "" {
		t.Fatal(diff)
	}
	b.SetTable(tableOf(t, oneRoute)) // and with the route back, it goes
	deliver(t, b, decided(s, d, replayed("1", "r", 1), "r", 2, false))
	if s.effects[replayed("1", "r", 2)] != 1 || len(s.effects) != 1 || len(s.reasons()) != 0 {
		t.Errorf("effects %v, dead letters %v", s.effects, s.reasons())
	}
}

// Under the letter's identity other content was handled meanwhile (R2).
func TestReplayMeetsAnotherEvent(t *testing.T) {
	t.Parallel()
	s, b := alone(t, oneRoute)
	refuses(&Failure{Kind: Permanent, Reason: ReasonRejected})(s)
	d := orderEvent("1", "+12025550101")
	deliver(t, b, d)
	sends(s)
	message := decided(s, d, keyOf("1", "r"), "r", 1, false)
	delete(s.records, keyOf("1", "r")) // it expires
	deliver(t, b, orderEvent("1", "+12025550102"))
	deliver(t, b, message)
	if diff := cmp.Diff(map[Key]int{keyOf("1", "r"): 1}, s.effects); diff != "" {
		t.Errorf("effects (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Reason{ReasonIDReused}, s.reasons()); diff != "" {
		t.Errorf("dead letters (-want +got):\n%s", diff)
	}
}

// A hundred replays of unknowns at once cost a few listings, not a hundred (R6).
func TestManyReplaysLookTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, b := alone(t, oneRoute)
		const many = 100
		pairs := make([]*pair, many)
		for i := range pairs {
			d := orderEvent(fmt.Sprint(i), "+12025550101")
			e, err := b.decode(&d)
			if err != nil {
				t.Fatal(err)
			}
			p := b.pairOf(e, "r", 0, Entry{})
			p.rec.Try, p.rec.ClaimedAt = fmt.Sprintf("try-%d", i), time.Now().Add(-time.Duration(i)*time.Second)
			if i%2 == 0 {
				s.logs = append(s.logs, shownLog{log: RunLog{ID: "run", Succeeded: true, CreatedAt: p.rec.ClaimedAt, Meta: Meta{Key: string(p.key), Try: p.rec.Try}}, at: p.frozen.Place()})
			}
			pairs[i] = p
		}
		listings := 0
		s.list = func() error {
			listings++ // one at a time
			<-time.After(time.Second)
			return nil
		}
		var all sync.WaitGroup
		for i, p := range pairs {
			all.Go(func() {
				log, found, err := b.looks.find(t.Context(), s, p)
				if err != nil || found != (i%2 == 0) || found && log.Meta.Try != p.rec.Try {
					t.Errorf("pair %d: found %v, %v", i, found, err)
				}
			})
		}
		all.Wait()
		if listings > 2 || len(b.looks.last) != 0 {
			t.Errorf("%d listings, %d left", listings, len(b.looks.last))
		}
	})
}

// An event whose dead letter cannot be stored is not acknowledged, whatever the
// letter is for, and ends once it can be.
func TestNoAckWithoutItsDeadLetter(t *testing.T) {
	t.Parallel()
	full := errors.New("the stream is full")
	tests := map[string]struct {
		before func(s *seams, b *Bridge)
		d      Delivery
		reason Reason
	}{
		"rejected":  {func(s *seams, _ *Bridge) { refuses(&Failure{Kind: Permanent, Reason: ReasonRejected})(s) }, orderEvent("1", "+12025550101"), ReasonRejected},
		"mapping":   {func(*seams, *Bridge) {}, orderEvent("1", "not a number"), ReasonInvalidInput},
		"malformed": {func(*seams, *Bridge) {}, Delivery{Source: "events", Data: []byte("no event")}, ReasonMalformed},
		"id reused": {func(_ *seams, b *Bridge) {
			d := orderEvent("1", "+12025550102")
			d.Settle = &settled{}
			b.Handle(t.Context(), &d)
		}, orderEvent("1", "+12025550101"), ReasonIDReused},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, b := alone(t, oneRoute)
			test.before(s, b)
			s.store = func() error { return full }
			if got := deliver(t, b, test.d); got.acks != 0 || got.naks != 1 || len(s.reasons()) != 0 {
				t.Errorf("%d acks, %d naks, dead letters %v", got.acks, got.naks, s.reasons())
			}
			s.store = nil
			if got := deliver(t, b, redelivered(test.d)); got.acks != 1 || !cmp.Equal(s.reasons(), []Reason{test.reason}) {
				t.Errorf("%d acks, %d naks, dead letters %v", got.acks, got.naks, s.reasons())
			}
		})
	}
}
