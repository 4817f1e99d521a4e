package bridge

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func (s *seams) NoteReceipt(_ context.Context, key Key, try string, r Receipt) error {
	if s.note != nil {
		if err := s.note(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if was, ok := s.receipts[Reference(key, try)]; !ok || r.After(was) {
		s.receipts[Reference(key, try)] = r
	}
	return nil
}

func (s *seams) ReceiptOf(_ context.Context, key Key, try string) (Receipt, error) {
	if s.note != nil {
		if err := s.note(); err != nil {
			return Receipt{}, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.receipts[Reference(key, try)]; ok {
		return r, nil
	}
	return Receipt{}, ErrNotFound
}

func (s *seams) Unknowns(context.Context) ([]Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.unknowns)), nil
}

func (s *seams) Settled(_ context.Context, key Key) error {
	if s.note != nil {
		if err := s.note(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.unknowns, key)
	return nil
}

func (s *seams) Turn(_ context.Context, what string, every time.Duration) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.turns[what]) {
		return false, nil
	}
	s.turns[what] = time.Now().Add(every)
	return true, nil
}

func (s *seams) Held(_ context.Context, key Key, _ string) (*Delivery, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.dead {
		if l.key == key && l.reason == ReasonOutcomeUnknown {
			d := *l.of
			d.Settle = nil
			return &d, nil
		}
	}
	return nil, ErrNotFound
}

// unheard is a service that takes the request, whose reply is lost, and whose
// run log nobody ever sees.
func unheard(s *seams) {
	s.run = func(r Request) (Reply, error) {
		s.happen(r, 1000*time.Hour)
		return Reply{}, &Failure{Kind: Unknown, Reason: ReasonOutcomeUnknown, Message: "no answer"}
	}
}

// doubted delivers an event whose run nobody knows the end of, and gives the
// reconciler its pair.
func doubted(t *testing.T, b *Bridge) *settled {
	t.Helper()
	deliver(t, b, orderEvent("1", "+12025550101"))
	d := orderEvent("1", "+12025550101")
	d.Pair, d.Redelivered = &Pair{Route: "r"}, true
	return deliver(t, b, d)
}

// receipted posts a receipt of the record's newest try.
func receipted(t *testing.T, b *Bridge, s *seams, k Key) error {
	t.Helper()
	_, err := b.Receipt(t.Context(), k, s.record(k).Try, Receipt{UMID: "0f3c", State: "undelivered", At: time.Now()})
	return err
}

// shownByReceipt says what is wrong with the end of a pair that a receipt has shown.
func shownByReceipt(s *seams, k Key) error {
	rec := s.record(k)
	var err error
	if rec.State != Succeeded || string(rec.Output) != `{"umid":"0f3c"}` {
		err = fmt.Errorf("the record is %s, with output %s", rec.State, rec.Output)
	}
	if n := len(s.results[string(k)]); n == 0 {
		err = errors.Join(err, errors.New("no result"))
	}
	if letters := s.reasons(); len(letters) != 0 {
		err = errors.Join(err, fmt.Errorf("dead letters %v", letters))
	}
	if rec.Overturned && (!rec.Published || len(s.unknowns) != 0) {
		err = errors.Join(err, fmt.Errorf("overturned, and published is %v, unknowns %v", rec.Published, s.unknowns))
	}
	if s.effects[k] != 1 {
		err = errors.Join(err, fmt.Errorf("%d effects", s.effects[k]))
	}
	return err
}

// Whenever the one receipt of a send comes whose reply and log are lost, the
// pair ends as sent, and no dead letter is left (R15).
func TestReceiptAtEveryStep(t *testing.T) {
	t.Parallel()
	// Each arranges for come to be called at its step; come is called at the end if
	// the step is after everything.
	steps := map[string]func(b *Bridge, s *seams, come func()){
		"while it runs": func(_ *Bridge, s *seams, come func()) {
			run := s.run
			s.run = func(r Request) (Reply, error) {
				reply, err := run(r)
				come()
				return reply, err
			}
		},
		"in doubt": func(b *Bridge, _ *seams, come func()) {
			b.Hook = func(step string, _ Key) {
				if step == "ran" {
					go func() { <-time.After(time.Second); come() }()
				}
			}
		},
		"before unknown is written": func(_ *Bridge, s *seams, come func()) {
			s.fate = func(w write) writeFate {
				if w.rec.State == UnknownSt {
					come()
				}
				return stored
			}
		},
		"after unknown is written": func(b *Bridge, s *seams, come func()) {
			b.Hook = func(step string, k Key) {
				if step == "recorded" && s.record(k).State == UnknownSt {
					come()
				}
			}
		},
		"before its dead letter is stored": func(_ *Bridge, s *seams, come func()) {
			s.store = func() error { s.store = nil; come(); return nil }
		},
		"after everything": func(b *Bridge, _ *seams, come func()) {
			b.Hook = func(step string, _ Key) {
				if step == "published" {
					go func() { <-time.After(time.Hour); come() }()
				}
			}
		},
	}
	for name, arrange := range steps {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s, b := alone(t, oneRoute)
				unheard(s)
				k := keyOf("1", "r")
				times := 0
				arrange(b, s, func() {
					if times++; times > 1 {
						return
					}
					if err := receipted(t, b, s, k); err != nil {
						t.Error(err)
					}
				})
				held := doubted(t, b)
				<-time.After(2 * time.Minute)
				b.doubts.look(t.Context())
				<-time.After(2 * time.Hour)
				synctest.Wait()
				if held.acks != 1 || times == 0 {
					t.Errorf("%d acks, %d naks, %d receipts", held.acks, held.naks, times)
				}
				if err := shownByReceipt(s, k); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A listing that always fails is no silence, and a receipt needs none.
func TestReceiptWhileNoLogCanBeRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, b := alone(t, oneRoute)
		unheard(s)
		k := keyOf("1", "r")
		s.list = func() error { return errRefused }
		held := doubted(t, b)
		<-time.After(2 * time.Minute)
		b.doubts.look(t.Context())
		if held.acks != 0 || s.record(k).State != Running {
			t.Errorf("%d acks, %s", held.acks, s.record(k).State)
		}
		if err := receipted(t, b, s, k); err != nil {
			t.Error(err)
		}
		b.doubts.look(t.Context())
		if err := shownByReceipt(s, k); err != nil || held.acks != 1 {
			t.Error(held.acks, err)
		}
	})
}

// What cannot be looked up or stored just now is an error, so that 8x8 comes
// again; and what comes again ends what the first time began (R15).
func TestReceiptComesAgain(t *testing.T) {
	t.Parallel()
	breaks := map[string]func(s *seams){
		"the record cannot be read":     func(s *seams) { s.get = func(Key) error { return errRefused } },
		"the receipt cannot be stored":  func(s *seams) { s.note = func() error { return errRefused } },
		"the record cannot be written":  func(s *seams) { s.fate = func(write) writeFate { return refused } },
		"the result cannot be stored":   func(s *seams) { s.store = func() error { return errRefused } },
		"the letter stays":              func(s *seams) { s.withdraw = func() error { return errRefused } },
		"nobody said that it is stored": func(s *seams) { s.fate = func(write) writeFate { s.fate = nil; return storedUnsaid } },
	}
	for name, fails := range breaks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s, b := alone(t, oneRoute)
				unheard(s)
				k := keyOf("1", "r")
				doubted(t, b)
				<-time.After(2 * time.Minute)
				b.doubts.look(t.Context())
				if diff := cmp.Diff([]Reason{ReasonOutcomeUnknown}, s.reasons()); diff != "" {
					t.Fatal(diff)
				}
				fails(s)
				if err := receipted(t, b, s, k); err == nil && name != "nobody said that it is stored" {
					t.Error("no error")
				}
				s.get, s.note, s.fate, s.store, s.withdraw = nil, nil, nil, nil, nil
				if err := receipted(t, b, s, k); err != nil {
					t.Error(err)
				}
				if err := shownByReceipt(s, k); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Who recorded that an unknown is none and died before it said so leaves the
// rest to whoever lives, although no message and no receipt is left (R6).
func TestOverturnedThenDiedForGood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, b := alone(t, oneRoute)
		unheard(s)
		k := keyOf("1", "r")
		doubted(t, b)
		<-time.After(2 * time.Minute)
		b.doubts.look(t.Context())
		s.store = func() error { return errRefused }
		if err := receipted(t, b, s, k); err == nil || s.record(k).State != Succeeded {
			t.Fatalf("%v, %s", err, s.record(k).State)
		}
		s.store = nil
		next := &sweeper{b: newBridge(t, s, oneRoute, 1), known: map[Key]*swept{}}
		next.round(t.Context())
		if err := shownByReceipt(s, k); err != nil {
			t.Error(err)
		}
	})
}

// Who wrote the unknown and died before it read the receipt leaves that to
// whoever has the message next (R15).
func TestUnknownThenDiedBeforeTheReceiptWasRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, b := alone(t, oneRoute)
		unheard(s)
		k := keyOf("1", "r")
		s.fate = func(w write) writeFate {
			if w.rec.State == UnknownSt {
				if err := receipted(t, b, s, k); err != nil {
					t.Error(err)
				}
				s.fate, s.note = nil, func() error { return errRefused }
			}
			return stored
		}
		held := doubted(t, b)
		<-time.After(2 * time.Minute)
		b.doubts.look(t.Context())
		if held.naks != 1 || s.record(k).State != UnknownSt || len(s.reasons()) != 0 {
			t.Errorf("%d naks, %s, dead letters %v", held.naks, s.record(k).State, s.reasons())
		}
		s.note = nil
		d := orderEvent("1", "+12025550101")
		d.Pair, d.Redelivered = &Pair{Route: "r"}, true
		if got := deliver(t, newBridge(t, s, oneRoute, 1), d); got.acks != 1 {
			t.Errorf("%d acks, %d naks", got.acks, got.naks)
		}
		if err := shownByReceipt(s, k); err != nil {
			t.Error(err)
		}
	})
}

// An unknown that was only marked as published since it was read is overturned
// all the same (R6, R18).
func TestMarkedWhileTheEvidenceCame(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, b := alone(t, oneRoute)
		unheard(s)
		k := keyOf("1", "r")
		unknowns(t, s, b, "1")
		again := true
		s.fate = func(w write) writeFate {
			if w.rec.State == Succeeded && again {
				again = false
				d := orderEvent("1", "+12025550101")
				d.Pair, d.Redelivered = &Pair{Route: "r"}, true
				deliver(t, newBridge(t, &seams{world: s.world}, oneRoute, 1), d)
				if !s.record(k).Published {
					t.Error("not marked")
				}
			}
			return stored
		}
		s.logs[0].by = time.Now()
		<-time.After(time.Minute)
		(&sweeper{b: b, known: map[Key]*swept{}}).round(t.Context())
		if rec := s.record(k); rec.State != Succeeded || len(s.reasons()) != 0 || len(s.results[string(k)]) != 1 {
			t.Errorf("%s, dead letters %v, results %v", rec.State, s.reasons(), s.results)
		}
	})
}

// A receipt of a try that was replaced says nothing about the newer one (R3).
func TestReceiptOfAnOldTry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, b := alone(t, oneRoute)
		unheard(s)
		k := keyOf("1", "r")
		doubted(t, b)
		<-time.After(2 * time.Minute)
		b.doubts.look(t.Context())
		for _, try := range []string{newTry(), ""} {
			rec, err := b.Receipt(t.Context(), k, try, Receipt{UMID: "0f3c", State: "sent"})
			if err != nil || rec.Cause.ID != "1" {
				t.Errorf("%v, about %q", err, rec.Cause.ID)
			}
		}
		if s.record(k).State != UnknownSt || len(s.receipts) != 0 || len(s.reasons()) != 1 {
			t.Errorf("%s, receipts %v, dead letters %v", s.record(k).State, s.receipts, s.reasons())
		}
		if _, err := b.Receipt(t.Context(), keyOf("2", "r"), newTry(), Receipt{}); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	})
}

// A route that repeats what is unclear does not repeat what a receipt has shown,
// whether that came before or after it was set to wait (R15, R17).
func TestReceiptStopsARepeat(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"in doubt", "as it is released", "while it waits"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s, b := alone(t, retryRoute)
				unheard(s)
				k := keyOf("1", "r")
				come := func(at string) {
					if at != when {
						return
					}
					if err := receipted(t, b, s, k); err != nil {
						t.Error(err)
					}
				}
				s.fate = func(w write) writeFate {
					if w.rec.State == Waiting {
						come("as it is released")
					}
					return stored
				}
				doubted(t, b)
				come("in doubt")
				<-time.After(2 * time.Minute)
				b.doubts.look(t.Context())
				come("while it waits")
				<-time.After(time.Hour)
				d := orderEvent("1", "+12025550101")
				d.Pair, d.Redelivered = &Pair{Route: "r"}, true
				if got := deliver(t, b, d); got.acks != 1 {
					t.Errorf("%d acks, %d naks", got.acks, got.naks)
				}
				if err := shownByReceipt(s, k); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// unknowns makes an unknown of each event.
func unknowns(t *testing.T, s *seams, b *Bridge, ids ...string) {
	t.Helper()
	for _, id := range ids {
		d := orderEvent(id, "+12025550101")
		deliver(t, b, d)
		d.Pair, d.Redelivered = &Pair{Route: "r"}, true
		deliver(t, b, d)
	}
	<-time.After(2 * time.Minute)
	b.doubts.look(t.Context())
	for _, id := range ids {
		if got := s.record(keyOf(id, "r")).State; got != UnknownSt {
			t.Fatalf("event %s is %s", id, got)
		}
	}
}

// A run log that shows hours later ends the unknown that a process long dead has
// left, with what it says (R6).
func TestLateLog(t *testing.T) {
	t.Parallel()
	rejected := &Failure{Kind: Permanent, Reason: ReasonRejected, Message: "8x8 said no"}
	tests := map[string]struct {
		log     func(l *RunLog)
		state   State
		letters []Reason
	}{
		"succeeded":               {func(*RunLog) {}, Succeeded, nil},
		"rejected":                {func(l *RunLog) { l.Succeeded, l.Failure = false, rejected }, Failed, []Reason{ReasonRejected}},
		"an output that says no":  {func(l *RunLog) { l.Output = []byte(`{"umid":"0f3c","status":{"code":"REJECTED"}}`) }, Failed, []Reason{ReasonRejected}},
		"an output without sense": {func(l *RunLog) { l.Output = []byte(`7`) }, UnknownSt, []Reason{ReasonOutcomeUnknown}},
		"leaves it open":          {func(l *RunLog) { l.Succeeded, l.Failure = false, &Failure{Kind: Unknown} }, UnknownSt, []Reason{ReasonOutcomeUnknown}},
		"nothing happened":        {func(l *RunLog) { l.Succeeded, l.Failure = false, &Failure{Kind: Outage} }, UnknownSt, []Reason{ReasonOutcomeUnknown}},
		"another try":             {func(l *RunLog) { l.Meta.Try = newTry() }, UnknownSt, []Reason{ReasonOutcomeUnknown}},
		"another key":             {func(l *RunLog) { l.Meta.Key = string(keyOf("2", "r")) }, UnknownSt, []Reason{ReasonOutcomeUnknown}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s, b := alone(t, oneRoute)
				unheard(s)
				k := keyOf("1", "r")
				unknowns(t, s, b, "1")
				test.log(&s.logs[0].log)
				s.logs[0].by = time.Now().Add(5 * time.Hour)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				next := newBridge(t, s, strings.Replace(oneRoute, "name: r", "name: another", 1), 1) // its route has gone
				go next.Run(ctx)
				<-time.After(4 * time.Hour)
				if got := s.record(k); got.State != UnknownSt {
					t.Errorf("%s before anything shows", got.State)
				}
				<-time.After(20 * time.Hour)
				s.mu.Lock()
				listings := s.listings
				s.mu.Unlock()
				rec := s.record(k)
				if rec.State != test.state {
					t.Errorf("%s, want %s", rec.State, test.state)
				}
				if diff := cmp.Diff(test.letters, s.reasons()); diff != "" {
					t.Error(diff)
				}
				if test.state.Final() != (len(s.results[string(k)]) == 1) || test.state.Final() != (len(s.unknowns) == 0) {
					t.Errorf("results %v, unknowns %v", s.results, s.unknowns)
				}
				for _, l := range s.dead {
					if string(l.of.Data) != string(orderEvent("1", "+12025550101").Data) {
						t.Errorf("the dead letter holds %q", l.of.Data)
					}
				}
				if listings > 16 {
					t.Errorf("%d listings in a day", listings)
				}
			})
		})
	}
}

// The letter of an unknown that a person has taken is not stored again when its
// run turns out to have failed.
func TestLateLogAfterTheLetterIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, b := alone(t, oneRoute)
		unheard(s)
		k := keyOf("1", "r")
		unknowns(t, s, b, "1")
		clear(s.dead)
		s.logs[0].log.Succeeded, s.logs[0].log.Failure, s.logs[0].by = false, &Failure{Kind: Permanent, Reason: ReasonRejected}, time.Now()
		<-time.After(time.Minute)
		(&sweeper{b: b, known: map[Key]*swept{}}).round(t.Context())
		if s.record(k).State != Failed || len(s.results[string(k)]) != 1 || len(s.reasons()) != 0 {
			t.Errorf("%s, results %v, dead letters %v", s.record(k).State, s.results, s.reasons())
		}
	})
}

// A run whose id is known is fetched, although no listing shows it (R6).
func TestLateLogByItsID(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, b := alone(t, oneRoute)
		s.run = func(r Request) (Reply, error) {
			reply := s.happen(r, 0)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.logs[0].log.Succeeded, s.logs[0].log.Failure = false, &Failure{Kind: Unknown, RunID: reply.RunID}
			return Reply{}, &Failure{Kind: Unknown, RunID: reply.RunID}
		}
		k := keyOf("1", "r")
		deliver(t, b, orderEvent("1", "+12025550101"))
		if rec := s.record(k); rec.State != UnknownSt || rec.RunID == "" {
			t.Fatalf("%s of run %q", rec.State, rec.RunID)
		}
		s.logs[0].log.Succeeded, s.logs[0].log.Failure = true, nil
		s.list = func() error { return errRefused }
		<-time.After(time.Minute)
		(&sweeper{b: b, known: map[Key]*swept{}}).round(t.Context())
		if rec := s.record(k); rec.State != Succeeded || len(s.reasons()) != 0 {
			t.Errorf("%s, dead letters %v", rec.State, s.reasons())
		}
	})
}

// Thousands of unknowns are looked for with one listing, whichever of the
// replicas has the turn, and all end by it.
func TestManyUnknownsOneListing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const many = 5000
		s, b := alone(t, oneRoute)
		unheard(s)
		unknowns(t, s, b, "0")
		first, log := s.records[keyOf("0", "r")], s.logs[0]
		for i := range many {
			d := orderEvent(fmt.Sprint(i), "+12025550101")
			entry, shown := first, log
			entry.Key = keyOf(fmt.Sprint(i), "r")
			entry.Record.Cause.ID, entry.Record.Try = fmt.Sprint(i), newTry()
			shown.by, shown.log.ID = time.Now(), fmt.Sprint("run-", i)
			shown.log.Meta.Key, shown.log.Meta.Try = string(entry.Key), entry.Record.Try
			s.records[entry.Key], s.unknowns[entry.Key] = entry, true
			s.dead[string(entry.Key)+".outcome_unknown"] = letter{key: entry.Key, reason: ReasonOutcomeUnknown, of: &d}
			s.logs = append(s.logs, shown)
		}
		<-time.After(time.Minute)
		s.listings = 0
		replicas := []*sweeper{}
		for range 3 {
			replicas = append(replicas, &sweeper{b: newBridge(t, s, oneRoute, 1), known: map[Key]*swept{}})
		}
		for _, r := range replicas {
			r.round(t.Context())
		}
		if s.listings != 1 || len(s.unknowns) != 0 || len(s.reasons()) != 0 {
			t.Errorf("%d listings, %d still unknown, %d dead letters", s.listings, len(s.unknowns), len(s.reasons()))
		}
	})
}
