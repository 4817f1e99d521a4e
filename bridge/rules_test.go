package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// The tests of this file stop a process exactly where an earlier design broke,
// and let the others go on.

// stage is one process' seams whose listings, memory, fullness and clock a test can set.
type stage struct {
	seams
	list      func(at Place, from time.Time, each func(RunLog)) error
	remembers func(source string, stored time.Time) bool
	usable    func() error
	ahead     atomic.Int64 // ns that its clock is ahead
	hook      func(step string, key Key)
	limit     time.Duration // the run limit

	bodies map[string]map[string]bool // by result id: each different event that was published under it
}

func (s *stage) RunLogs(ctx context.Context, at Place, from time.Time, each func(RunLog)) error {
	if s.list != nil {
		return s.list(at, from, each)
	}
	return s.seams.RunLogs(ctx, at, from, each)
}

func (s *stage) Remembers(source string, stored time.Time) bool {
	return s.remembers == nil || s.remembers(source, stored)
}

func (s *stage) Usable() error {
	if s.usable == nil {
		return nil
	}
	return s.usable()
}

func (s *stage) Result(ctx context.Context, r Result) error {
	s.mu.Lock()
	if s.bodies == nil {
		s.bodies = map[string]map[string]bool{}
	}
	if s.bodies[r.ID] == nil {
		s.bodies[r.ID] = map[string]bool{}
	}
	s.bodies[r.ID][string(r.Event.AppendJSON(nil))] = true
	s.mu.Unlock()
	return s.seams.Result(ctx, r)
}

// Event knows the routes of these tests, since there may be many records.
func (s *stage) Event(ctx context.Context, eventHash string) ([]Entry, error) {
	var entries []Entry
	for _, route := range []string{"r", "q"} {
		switch e, err := s.Get(ctx, NewKey(eventHash, route, 0)); {
		case err == nil:
			entries = append(entries, e)
		case !errors.Is(err, ErrNotFound):
			return nil, err
		}
	}
	return entries, nil
}

func (s *stage) now() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) }

// Run refuses what comes too late by this process' clock, as the real client does.
func (s *stage) Run(_ context.Context, r Request) (Reply, error) {
	if now := s.now(); now.After(r.SendBy) || now.Round(0).After(r.SendBy.Round(0)) {
		return Reply{}, TooLate()
	}
	return s.run(r)
}

// join lets another process into a world.
func join(w *world) *stage {
	s := &stage{seams: seams{world: w}}
	sends(&s.seams)
	return s
}

func (s *stage) bridge(t *testing.T, routes string) *Bridge {
	t.Helper()
	b, err := New(Options{
		Name: "b", Ledger: s, Outbox: s, Runner: s, Catalog: catalog.Builtin(), Observer: s, Concurrency: 64, Hook: s.hook, Now: s.now, RunLimit: s.limit,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.SetTable(tableOf(t, routes))
	return b
}

// carried is a message in the hands of one of the bridges of a run.
type carried struct {
	w *world
	m *message
}

func (c carried) Ack() {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if !c.m.acked {
		c.m.acked = true
		c.w.pending--
	}
}

func (c carried) Nak(delay time.Duration) {
	time.AfterFunc(delay, func() { c.w.queue <- c.m })
}

// carry gives what is in the queue to the bridges, by turns, as often as it
// comes back, until everything has ended. It must be called within synctest.
func (w *world) carry(t *testing.T, bridges ...*Bridge) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, b := range bridges {
		wg.Go(func() { b.Run(ctx) })
	}
	limit := time.After(24 * time.Hour)
	for turn := 0; w.open() > 0; {
		select {
		case m := <-w.queue:
			w.mu.Lock()
			d, acked := m.d, m.acked
			d.Redelivered, d.Settle = m.times > 0, carried{w, m}
			m.times++
			w.mu.Unlock()
			if acked {
				continue
			}
			b := bridges[turn%len(bridges)]
			turn++
			wg.Go(func() { b.Handle(ctx, &d) })
		case <-time.After(50 * time.Millisecond):
		case <-limit:
			t.Errorf("%d messages are not acknowledged", w.open())
			cancel()
			wg.Wait()
			return
		}
	}
	cancel()
	wg.Wait()
}

func (w *world) open() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pending
}

// ending is how a pair ended, and what it cost.
type ending struct {
	State   State
	Effects int
	Results int // different ones that consumers saw
	Dead    []Reason
}

func (w *world) ending(k Key) ending {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := ending{State: w.records[k].Record.State, Effects: w.effects[k]}
	e.Results = len(slices.Compact(slices.Clone(w.results[string(k)])))
	for _, l := range w.dead {
		if l.key == k {
			e.Dead = append(e.Dead, l.reason)
		}
	}
	return e
}

func expect(t *testing.T, w *world, k Key, want ending) {
	t.Helper()
	if diff := cmp.Diff(want, w.ending(k)); diff != "" {
		t.Errorf("how it ended (-want +got):\n%s", diff)
	}
}

var (
	wentWell = ending{State: Succeeded, Effects: 1, Results: 1}
	isHeld   = ending{State: UnknownSt, Dead: []Reason{ReasonOutcomeUnknown}}
)

// logged adds a run log.
func (s *stage) logged(at Place, by time.Duration, log RunLog) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if log.CreatedAt.IsZero() {
		log.CreatedAt = time.Now()
	}
	s.logs = append(s.logs, shownLog{at: at, by: time.Now().Add(by), log: log})
}

func noAnswer() error {
	return &Failure{Kind: Unknown, Reason: ReasonOutcomeUnknown, Message: "no answer"}
}

const phoneNumber = "+12025550101"

// The log of a first try that was refused stands beside the second try's
// effect. It proves something about the first try only (R3).
func TestOnlyTheCurrentTryCounts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name           string
		refusal, shows time.Duration // when the two logs show
	}{
		{"the refusal shows first", 0, 9 * time.Second},
		{"the refusal shows while the second try is in doubt", 4 * time.Second, 9 * time.Second},
		{"both show at once", 9 * time.Second, 9 * time.Second},
		{"the refusal shows last", 20 * time.Second, time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := join(newWorld(t))
				runs := 0
				s.run = func(r Request) (Reply, error) {
					if runs++; runs == 1 {
						f := &Failure{Kind: Outage, Message: "429"}
						s.logged(r.Place, test.refusal, RunLog{ID: "first", Meta: r.Meta, Failure: f, OneCallFailure: f})
						return Reply{}, f
					}
					s.happen(r, test.shows)
					return Reply{}, noAnswer()
				}
				s.publish(orderEvent("1", phoneNumber))
				s.carry(t, s.bridge(t, oneRoute))
				expect(t, s.world, keyOf("1", "r"), wentWell)
				if runs != 2 {
					t.Errorf("%d runs, want 2", runs)
				}
			})
		})
	}
}

// What other runs left in the log says nothing about ours, and what ours left
// there twice says the same twice (R3, R6).
func TestOddLogs(t *testing.T) {
	t.Parallel()
	refused := &Failure{Kind: Permanent, Reason: ReasonRejected, Message: "no"}
	open := &Failure{Kind: Unknown, Reason: ReasonOutcomeUnknown, Message: "500"}
	success := json.RawMessage(`{"umid":"0f3c","status":{"code":"QUEUED"}}`)
	tests := map[string]struct {
		logs func(Meta) []RunLog
		want ending
	}{
		"our key, another try": {
			func(m Meta) []RunLog {
				m.Try = "another"
				return []RunLog{{ID: "x", Meta: m, Succeeded: true, Output: success}, {ID: "y", Meta: m, Failure: refused}}
			}, isHeld,
		},
		"our try, another key": { // somebody copied our meta, or drew the same nonce
			func(m Meta) []RunLog {
				m.Key = "another"
				return []RunLog{{ID: "x", Meta: m, Succeeded: true, Output: success}}
			}, isHeld,
		},
		"our key without a try": {
			func(m Meta) []RunLog {
				m.Try = ""
				return []RunLog{{ID: "x", Meta: m, Succeeded: true, Output: success}}
			}, isHeld,
		},
		"no meta": {
			func(Meta) []RunLog {
				return []RunLog{{ID: "x", Succeeded: true, Output: success}, {ID: "y", Failure: refused}}
			}, isHeld,
		},
		"twice": {
			func(m Meta) []RunLog {
				log := RunLog{ID: "x", Meta: m, Succeeded: true, Output: success}
				return []RunLog{log, log}
			}, ending{State: Succeeded, Results: 1},
		},
		"twice, and they do not agree": { // an effect outweighs an error
			func(m Meta) []RunLog {
				return []RunLog{{ID: "x", Meta: m, Failure: open}, {ID: "x", Meta: m, Succeeded: true, Output: success}, {ID: "x", Meta: m, Failure: open}}
			}, ending{State: Succeeded, Results: 1},
		},
		"ours among all of these": {
			func(m Meta) []RunLog {
				foreign := m
				foreign.Try = "another"
				return []RunLog{{ID: "a"}, {ID: "b", Meta: foreign, Succeeded: true, Output: success}, {ID: "c", Meta: m, Failure: refused}, {ID: "d"}}
			}, ending{State: Failed, Results: 1, Dead: []Reason{ReasonRejected}},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := join(newWorld(t))
				s.run = func(r Request) (Reply, error) {
					for _, log := range test.logs(r.Meta) {
						s.logged(r.Place, 0, log)
					}
					return Reply{}, noAnswer()
				}
				s.publish(orderEvent("1", phoneNumber))
				s.carry(t, s.bridge(t, oneRoute))
				expect(t, s.world, keyOf("1", "r"), test.want)
			})
		})
	}
}

// Silence is one complete listing that was begun after the last moment. One
// that fails says nothing, however long it goes on failing; what it showed
// before it failed is evidence all the same (R5, R6).
func TestWhatIsNotSilence(t *testing.T) {
	t.Parallel()
	const down = 3 * time.Hour
	broken := errors.New("page 2: 500")
	t.Run("a listing that fails", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := join(newWorld(t))
			began := time.Now()
			s.run = func(r Request) (Reply, error) { s.happen(r, down); return Reply{}, noAnswer() }
			s.list = func(at Place, from time.Time, each func(RunLog)) error {
				if time.Since(began) < down {
					return broken
				}
				return s.seams.RunLogs(t.Context(), at, from, each)
			}
			s.publish(orderEvent("1", phoneNumber))
			s.carry(t, s.bridge(t, oneRoute))
			expect(t, s.world, keyOf("1", "r"), wentWell)
			if s.record(keyOf("1", "r")).Overturned {
				t.Error("it was taken for silence meanwhile")
			}
		})
	})
	t.Run("a listing that fails after it showed our run", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := join(newWorld(t))
			s.run = func(r Request) (Reply, error) { s.happen(r, 0); return Reply{}, noAnswer() }
			s.list = func(at Place, from time.Time, each func(RunLog)) error {
				return errors.Join(s.seams.RunLogs(t.Context(), at, from, each), broken)
			}
			s.publish(orderEvent("1", phoneNumber))
			s.carry(t, s.bridge(t, oneRoute))
			expect(t, s.world, keyOf("1", "r"), wentWell)
		})
	})
	t.Run("a listing that was begun too early", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := join(newWorld(t))
			shows := sendBy + time.Minute + logMargin // the last moment
			s.run = func(r Request) (Reply, error) { s.happen(r, shows); return Reply{}, noAnswer() }
			listings := 0
			s.list = func(at Place, from time.Time, each func(RunLog)) error {
				if listings++; listings == 1 { // it reads what there is at its beginning, and takes long to say so
					<-time.After(2 * shows)
					return nil
				}
				return s.seams.RunLogs(t.Context(), at, from, each)
			}
			s.publish(orderEvent("1", phoneNumber))
			s.carry(t, s.bridge(t, oneRoute))
			expect(t, s.world, keyOf("1", "r"), wentWell)
			if s.record(keyOf("1", "r")).Overturned {
				t.Error("it was taken for silence")
			}
		})
	})
	t.Run("a process that was paused between the listing and its judgement", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := join(newWorld(t))
			s.run = func(r Request) (Reply, error) { s.happen(r, 70*time.Second); return Reply{}, noAnswer() }
			s.list = func(at Place, from time.Time, each func(RunLog)) error {
				err := s.seams.RunLogs(t.Context(), at, from, each)
				<-time.After(5 * time.Minute)
				return err
			}
			s.publish(orderEvent("1", phoneNumber))
			s.carry(t, s.bridge(t, oneRoute))
			expect(t, s.world, keyOf("1", "r"), wentWell)
		})
	})
}

// While a request may be under way, its record alone decides how its event goes
// on: no mapping, ttl or table of a later process comes first (R1, R2).
func TestRunningOutlivesTheConfiguration(t *testing.T) {
	t.Parallel()
	tables := map[string]string{
		"broken mapping":     strings.Replace(oneRoute, "text: hello", `text: "${ .data.none.such | error }"`, 1),
		"expired ttl":        oneRoute + "    ttl: 1s\n",
		"renamed":            strings.Replace(oneRoute, "name: r", "name: renamed\n    formerly: r", 1),
		"removed":            strings.Replace(oneRoute, "name: r", "name: another", 1),
		"another type":       strings.Replace(oneRoute, "com.acme.order.shipped", "com.acme.other", 1),
		"another action":     strings.Replace(strings.Replace(oneRoute, "send-sms", "get-account-balance", 1), `    input: {destination: "${ .data.phone }", text: hello}`+"\n", "", 1),
		"another connection": strings.Replace(oneRoute, "connection: main", "connection: other", 1),
	}
	left := map[string]struct {
		run  func(s *stage, r Request)
		want ending
	}{
		"its log shows":   {func(s *stage, r Request) { s.happen(r, 0) }, wentWell},
		"its log is late": {func(s *stage, r Request) { s.happen(r, 50*time.Second) }, wentWell},
		"nothing shows":   {func(*stage, Request) {}, isHeld},
		"it was rejected": {func(s *stage, r Request) {
			s.logged(r.Place, 0, RunLog{ID: "x", Meta: r.Meta, Failure: &Failure{Kind: Permanent, Reason: ReasonRejected, Message: "no"}})
		}, ending{State: Failed, Results: 1, Dead: []Reason{ReasonRejected}}},
	}
	for change, table := range tables {
		for what, happens := range left {
			t.Run(change+", "+what, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					dead, next := join(w), join(w)
					dead.run = func(r Request) (Reply, error) {
						happens.run(dead, r)
						return Reply{}, noAnswer()
					}
					dead.store = func() error { return errRefused } // it dies before it could set the pair aside
					again := orderEvent("1", phoneNumber)
					again.Stored = time.Now()
					deliver(t, dead.bridge(t, oneRoute), again)
					if s := w.record(keyOf("1", "r")).State; s != Running {
						t.Fatalf("it left a record that is %q", s)
					}
					next.run = func(Request) (Reply, error) {
						t.Error("sent again")
						return Reply{}, noAnswer()
					}
					<-time.After(5 * time.Second)
					w.publish(again).times = 1
					w.carry(t, next.bridge(t, table))
					expect(t, w, keyOf("1", "r"), happens.want)
				})
			})
		}
		t.Run(change+", while its result is not published", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				dead, next := join(w), join(w)
				dead.store = func() error { return errRefused }
				again := orderEvent("1", phoneNumber)
				again.Stored = time.Now()
				deliver(t, dead.bridge(t, oneRoute), again)
				if got := w.ending(keyOf("1", "r")); got.State != Succeeded || got.Results != 0 {
					t.Fatalf("it left %+v", got)
				}
				<-time.After(5 * time.Second)
				w.publish(again).times = 1
				w.carry(t, next.bridge(t, table))
				expect(t, w, keyOf("1", "r"), wentWell)
			})
		})
	}
}

// What waits, and whose route has gone, is a dead letter; under a new name it is sent (R2).
func TestWaitingOutlivesTheConfiguration(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, table string
		want        ending
	}{
		{"removed", strings.Replace(oneRoute, "name: r", "name: another", 1), ending{State: Failed, Results: 1, Dead: []Reason{ReasonRouteRemoved}}},
		{"renamed", strings.Replace(oneRoute, "name: r", "name: renamed\n    formerly: r", 1), wentWell},
		{"broken mapping", strings.Replace(oneRoute, "text: hello", `text: "${ .data.none.such | error }"`, 1), ending{State: Failed, Results: 1, Dead: []Reason{ReasonMapping}}},
		{"expired ttl", oneRoute + "    ttl: 1s\n", ending{State: Failed, Results: 1, Dead: []Reason{ReasonExpired}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				first, next := join(w), join(w)
				refuses(&Failure{Kind: Outage})(&first.seams)
				d := orderEvent("1", phoneNumber)
				d.Stored = time.Now()
				deliver(t, first.bridge(t, oneRoute), d)
				<-time.After(5 * time.Second)
				w.carry(t, next.bridge(t, test.table))
				expect(t, w, keyOf("1", "r"), test.want)
			})
		})
	}
}

// What may have been sent by somebody whom the ledger does not remember is held:
// nothing is sent, and a person sees it (R12).
func TestUnledgered(t *testing.T) {
	t.Parallel()
	gone := ending{State: Failed, Results: 1, Dead: []Reason{ReasonUnledgered}}
	t.Run("older than the ledger or its retention", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := join(newWorld(t))
			began := time.Now()
			<-time.After(time.Hour)
			s.remembers = func(source string, stored time.Time) bool { return source == "events" && !stored.Before(began) }
			old, fresh := orderEvent("old", phoneNumber), orderEvent("new", phoneNumber)
			old.Stored = began.Add(-time.Second)
			s.publish(old)
			s.publish(fresh)
			s.carry(t, s.bridge(t, oneRoute))
			expect(t, s.world, keyOf("old", "r"), gone)
			expect(t, s.world, keyOf("new", "r"), wentWell)
		})
	})
	t.Run("a pair set aside whose record is gone", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := join(newWorld(t))
			runs := 0
			s.run = func(Request) (Reply, error) { runs++; return Reply{}, noAnswer() }
			d := orderEvent("1", phoneNumber)
			d.Stored = time.Now()
			deliver(t, s.bridge(t, oneRoute), d)
			s.mu.Lock()
			clear(s.records)
			s.mu.Unlock()
			s.carry(t, s.bridge(t, oneRoute))
			expect(t, s.world, keyOf("1", "r"), gone)
			if runs != 1 {
				t.Errorf("%d runs, want the one before", runs)
			}
		})
	})
	t.Run("older, but with a record", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := join(newWorld(t))
			refuses(&Failure{Kind: Outage})(&s.seams)
			d := orderEvent("1", phoneNumber)
			d.Stored = time.Now()
			deliver(t, s.bridge(t, oneRoute), d)
			sends(&s.seams)
			s.remembers = func(string, time.Time) bool { return false }
			s.carry(t, s.bridge(t, oneRoute))
			expect(t, s.world, keyOf("1", "r"), wentWell)
		})
	})
}

// One worker's reply has come, and it is stopped before it can say so, until
// another has held the pair as unknown. When it goes on, what it knows replaces
// that: one result, and no dead letter (R6).
func TestTwoConclusions(t *testing.T) {
	t.Parallel()
	answers := map[string]struct {
		answer func(s *stage, r Request) (Reply, error)
		want   ending
	}{
		"it went well": {func(s *stage, r Request) (Reply, error) { return s.happen(r, 24*time.Hour), nil }, wentWell},
		"it was rejected": {func(*stage, Request) (Reply, error) {
			return Reply{}, &Failure{Kind: Permanent, Reason: ReasonRejected, Message: "no"}
		}, ending{State: Failed, Results: 1, Dead: []Reason{ReasonRejected}}},
		// Neither knows more than the other.
		"it had no answer": {func(s *stage, r Request) (Reply, error) {
			s.happen(r, 24*time.Hour)
			return Reply{}, noAnswer()
		}, ending{State: UnknownSt, Effects: 1, Dead: []Reason{ReasonOutcomeUnknown}}},
	}
	for name, test := range answers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				k := keyOf("1", "r")
				stopped, other := join(w), join(w)
				stopped.run = func(r Request) (Reply, error) { return test.answer(stopped, r) }
				goOn := make(chan struct{})
				stopped.hook = func(step string, _ Key) {
					if step == "ran" {
						<-goOn
					}
				}
				other.run = func(Request) (Reply, error) { t.Error("sent again"); return Reply{}, noAnswer() }
				first := stopped.bridge(t, oneRoute)
				var owner settled
				done := make(chan struct{})
				go func() {
					defer close(done)
					owner = *deliver(t, first, orderEvent("1", phoneNumber))
				}()
				synctest.Wait() // it has claimed, run, and stands still

				w.publish(orderEvent("1", phoneNumber)) // the publisher repeats itself
				w.carry(t, other.bridge(t, oneRoute))
				held := isHeld
				held.Effects = w.ending(k).Effects
				expect(t, w, k, held)

				close(goOn)
				<-done
				if w.open() > 0 { // what it set aside
					w.carry(t, other.bridge(t, oneRoute))
				}
				expect(t, w, k, test.want)
				if owner.acks+owner.naks != 1 {
					t.Errorf("its own message: %+v", owner)
				}
			})
		})
	}
}

// A route that chose to repeat what is unknown does not repeat what its owner
// knows after all, as long as nobody has claimed the next try (R6, R17).
func TestOwnerKnowsBeforeTheRepetition(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		k := keyOf("1", "r")
		stopped, other := join(w), join(w)
		runs := 0
		stopped.run = func(r Request) (Reply, error) { runs++; return stopped.happen(r, 24*time.Hour), nil }
		other.run = stopped.run
		goOn := make(chan struct{})
		stopped.hook = func(step string, _ Key) {
			if step == "ran" {
				<-goOn
			}
		}
		var once sync.Once
		other.fate = func(p write) writeFate {
			if p.rec.State == Waiting && p.rec.Unclear == 1 {
				time.AfterFunc(time.Millisecond, func() { once.Do(func() { close(goOn) }) })
			}
			return stored
		}
		first := stopped.bridge(t, retryRoute)
		done := make(chan struct{})
		go func() {
			defer close(done)
			deliver(t, first, orderEvent("1", phoneNumber))
		}()
		synctest.Wait()
		w.publish(orderEvent("1", phoneNumber))
		w.carry(t, other.bridge(t, retryRoute))
		<-done
		expect(t, w, k, wentWell)
		if runs != 1 {
			t.Errorf("%d runs, want 1", runs)
		}
	})
}

// The owner of a try that certainly did not happen releases it while another
// process judges its silence. Whoever's write comes first, the other one's is
// refused, and nothing is sent twice (R3, R4).
func TestReleaseAgainstTakeover(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		first State // whose write comes first: the owner's waiting, or the judge's unknown
		want  ending
		runs  int
	}{
		{"the release comes first", Waiting, wentWell, 2},
		{"the judgement comes first", UnknownSt, isHeld, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				k := keyOf("1", "r")
				owner, judge := join(w), join(w)
				runs := 0
				refuse := func(Request) (Reply, error) {
					runs++
					<-time.After(2 * time.Minute) // longer than a run may take
					return Reply{}, &Failure{Kind: Temporary, Message: "busy"}
				}
				owner.run = refuse
				judge.run = func(r Request) (Reply, error) { runs++; return judge.happen(r, 0), nil }
				// Both have read the claim, and come to write. The second waits for the first.
				written := make(chan struct{})
				var once sync.Once
				order := func(p write) writeFate {
					if p.rec.State == Running || p.rec.Try != w.record(k).Try {
						return stored
					}
					if p.rec.State == test.first {
						time.AfterFunc(time.Second, func() { once.Do(func() { close(written) }) })
					} else {
						<-written
					}
					return stored
				}
				owner.fate, judge.fate = order, order
				b := owner.bridge(t, oneRoute)
				done := make(chan struct{})
				go func() {
					defer close(done)
					deliver(t, b, orderEvent("1", phoneNumber))
				}()
				synctest.Wait()
				w.publish(orderEvent("1", phoneNumber))
				w.carry(t, judge.bridge(t, oneRoute))
				<-done
				if w.open() > 0 {
					w.carry(t, judge.bridge(t, oneRoute))
				}
				expect(t, w, k, test.want)
				if runs != test.runs {
					t.Errorf("%d runs, want %d", runs, test.runs)
				}
			})
		})
	}
}

// A claim whose answer is lost, whatever became of it, is neither sent twice nor
// lost, and not if another process comes for the same pair meanwhile (R7).
func TestClaimWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	for name, fate := range map[string]writeFate{"stored": storedUnsaid, "lost": lost, "stored late": late} {
		for _, blind := range []time.Duration{0, time.Second, 10 * time.Second} {
			for _, rivalled := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, nothing can be read for %v, rivalled %v", name, blind, rivalled), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						w := newWorld(t)
						s, rival := join(w), join(w)
						other := rival.bridge(t, oneRoute)
						var until time.Time
						claims := 0
						s.fate = func(write) writeFate {
							if claims++; claims > 1 {
								return stored
							}
							until = time.Now().Add(blind)
							if rivalled {
								time.AfterFunc(time.Millisecond, func() { deliver(t, other, orderEvent("1", phoneNumber)) })
							}
							<-time.After(time.Second) // nobody says anything
							time.AfterFunc(2*time.Second, s.arrive)
							return fate
						}
						s.get = func(Key) error {
							if time.Now().Before(until) {
								return errRefused
							}
							return nil
						}
						w.publish(orderEvent("1", phoneNumber))
						w.carry(t, s.bridge(t, oneRoute))
						expect(t, w, keyOf("1", "r"), wentWell)
						if got := w.record(keyOf("1", "r")).Attempts; got != 1 {
							t.Errorf("%d attempts, want 1: no request was made for the others", got)
						}
					})
				})
			}
		}
	}
}

// Replicas whose clocks differ by ten minutes, and a service whose clock is
// another again, agree on every outcome: what is silent is judged by the
// server's time (R5).
func TestClocksThatDiffer(t *testing.T) {
	t.Parallel()
	const off = 10 * time.Minute
	for _, clocks := range [][2]time.Duration{{off, 0}, {-off, 0}, {0, off}, {0, -off}, {off, -off}, {-off, off}} {
		for _, service := range []time.Duration{0, off / 2, -off / 2} {
			for name, test := range map[string]struct {
				shows, after time.Duration // its log shows, and it is taken over, so long after the claim
				want         ending
			}{
				"its log shows late":                      {65 * time.Second, 30 * time.Second, wentWell},
				"its log shows long before anybody looks": {time.Second, 2 * time.Hour, wentWell},
				"its log shows never":                     {240 * time.Hour, 30 * time.Second, ending{State: UnknownSt, Effects: 1, Dead: []Reason{ReasonOutcomeUnknown}}},
			} {
				t.Run(fmt.Sprintf("claimed at %v, judged at %v, run at %v, %s", clocks[0], clocks[1], service, name), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						w := newWorld(t)
						dead, next := join(w), join(w)
						dead.ahead.Store(int64(clocks[0]))
						next.ahead.Store(int64(clocks[1]))
						dead.run = func(r Request) (Reply, error) {
							dead.happen(r, test.shows)
							w.mu.Lock()
							w.logs[0].log.CreatedAt = time.Now().Add(service)
							w.mu.Unlock()
							return Reply{}, noAnswer()
						}
						next.run = func(Request) (Reply, error) { t.Error("sent again"); return Reply{}, noAnswer() }
						dead.store = func() error { return errRefused }
						deliver(t, dead.bridge(t, oneRoute), orderEvent("1", phoneNumber))
						began := time.Now()
						<-time.After(test.after)
						w.publish(orderEvent("1", phoneNumber)).times = 1
						w.carry(t, next.bridge(t, oneRoute))
						expect(t, w, keyOf("1", "r"), test.want)
						if took := time.Since(began); took < sendBy+time.Minute && test.want.State == UnknownSt || took > test.after+2*time.Minute {
							t.Errorf("judged after %v", took)
						}
					})
				})
			}
		}
	}
}

// A clock that jumps between claim and send, or a process that stands still
// there, never lets a request start after its send-by, and costs the event
// nothing but a new claim (R5). The client looks at the monotonic clock, too:
// that is shown there, since synctest has none.
func TestClockJumpsBeforeTheSend(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		wall   time.Duration
		pause  time.Duration
		claims int
	}{
		{"forwards", 10 * time.Minute, 0, 2},
		{"backwards", -10 * time.Minute, 0, 1},
		{"over a pause", 0, 6 * time.Second, 2},
		{"over a pause that is short enough", 0, 4 * time.Second, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := join(newWorld(t))
				claims := 0
				s.hook = func(step string, _ Key) {
					if step == "claimed" {
						if claims++; claims == 1 {
							s.ahead.Store(int64(test.wall))
							<-time.After(test.pause)
						}
					}
				}
				var states []State
				s.fate = func(p write) writeFate { states = append(states, p.rec.State); return stored }
				s.publish(orderEvent("1", phoneNumber))
				s.carry(t, s.bridge(t, oneRoute))
				expect(t, s.world, keyOf("1", "r"), wentWell)
				want := slices.Repeat([]State{Running, Waiting}, test.claims-1)
				if diff := cmp.Diff(append(want, Running, Succeeded), states); diff != "" {
					t.Errorf("its record (-want +got):\n%s", diff)
				}
				if got := s.record(keyOf("1", "r")).Attempts; got != 1 {
					t.Errorf("%d attempts, want 1", got)
				}
			})
		})
	}
}

// A crash leaves 5,000 runs behind. One process looks for all of them with few
// listings of the run log, and its workers go on with what is new (R6). A
// listing is one complete reading of a connection's logs, whatever its pages.
func TestManyRunsLeftBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const many, hidden, fresh = 5000, 20, 500
		w := newWorld(t)
		dead, next := join(w), join(w)
		n := 0
		dead.run = func(r Request) (Reply, error) {
			shows := time.Duration(n%100) * 100 * time.Millisecond // for as long as 10 s they come in bit by bit
			if n++; n <= hidden {
				shows = 240 * time.Hour
			}
			dead.happen(r, 20*time.Second+shows)
			return Reply{}, noAnswer()
		}
		dead.store = func() error { return errRefused }
		b := dead.bridge(t, oneRoute)
		b.gates.now = func() time.Time { return time.Time{} }
		for i := range many {
			b.gates.all = map[gateKey]*gate{} // they all left before one of them failed
			deliver(t, b, orderEvent(fmt.Sprint("left-", i), phoneNumber))
			w.publish(orderEvent(fmt.Sprint("left-", i), phoneNumber)).times = 1
		}
		<-time.After(20 * time.Second) // until its messages come again
		listings, doubtsLeft, most := 0, 0, time.Duration(0)
		next.list = func(at Place, from time.Time, each func(RunLog)) error {
			listings++
			return next.seams.RunLogs(t.Context(), at, from, each)
		}
		published := map[Key]time.Time{}
		next.run = func(r Request) (Reply, error) {
			w.mu.Lock()
			for _, e := range w.records {
				if e.Record.State == Running {
					doubtsLeft++
				}
			}
			most = max(most, time.Since(published[Key(r.Meta.Key)]))
			w.mu.Unlock()
			return next.happen(r, 0), nil
		}
		began := time.Now()
		go func() {
			for i := range fresh {
				<-time.After(10 * time.Millisecond)
				id := fmt.Sprint("new-", i)
				w.mu.Lock()
				published[keyOf(id, "r")] = time.Now()
				w.mu.Unlock()
				w.publish(orderEvent(id, phoneNumber))
			}
		}()
		w.carry(t, next.bridge(t, oneRoute))
		took := time.Since(began)
		if listings > 60 {
			t.Errorf("%d listings for %d runs, want at most 60", listings, many)
		}
		if doubtsLeft == 0 || most > 0 {
			t.Errorf("new events waited for up to %v, beside %d runs in doubt: no worker may wait for those", most, doubtsLeft)
		}
		held, effects := 0, 0
		for i := range many {
			e := w.ending(keyOf(fmt.Sprint("left-", i), "r"))
			effects += e.Effects
			switch {
			case e.State == UnknownSt && len(e.Dead) == 1:
				held++
			case e.State != Succeeded || e.Results != 1 || e.Effects != 1:
				t.Errorf("left-%d ended as %+v", i, e)
			}
		}
		for i := range fresh {
			expect(t, w, keyOf(fmt.Sprint("new-", i), "r"), wentWell)
		}
		if held != hidden || effects != many {
			t.Errorf("%d held and %d effects, want %d and %d", held, effects, hidden, many)
		}
		t.Logf("%d runs left behind, %d of them hidden: %d listings in %v", many, hidden, listings, took)
	})
}

// One route of an event waits for longer than JetStream remembers duplicates,
// while the other one is done. What consumers may see again of the first is the
// same event under the same id; and the second ends as usual (R4 of results, R18).
func TestOneRouteWaitsPastTheDuplicateWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := join(newWorld(t))
		until := time.Now().Add(time.Hour)
		s.run = func(r Request) (Reply, error) {
			if r.ConnectionKey == "8x8-other" && time.Now().Before(until) {
				return Reply{}, &Failure{Kind: Outage, RetryAfter: 10 * time.Minute}
			}
			return s.happen(r, 0), nil
		}
		b := s.bridge(t, twoRoutes)
		s.publish(orderEvent("1", phoneNumber))
		for range 3 { // and its publisher repeats itself, long after
			time.AfterFunc(20*time.Minute, func() { s.publish(orderEvent("1", phoneNumber)) })
		}
		s.carry(t, b)
		<-time.After(time.Hour)
		s.publish(orderEvent("1", phoneNumber)).times = 1
		s.carry(t, b)
		for _, route := range []string{"r", "q"} {
			k := keyOf("1", route)
			expect(t, s.world, k, wentWell)
			if n := len(s.results[string(k)]); n > 2 {
				t.Errorf("route %s: published %d times, want at most once more (R18)", route, n)
			}
			if n := len(s.bodies[string(k)]); n != 1 {
				t.Errorf("route %s: %d different events under one id: %v", route, n, slices.Collect(maps.Keys(s.bodies[string(k)])))
			}
		}
	})
}

// Nothing is claimed while the ledger may not be written, and nothing is lost
// by it: the events come again, and go on once there is room (R13).
func TestNothingIsClaimedWhileTheLedgerIsFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := join(newWorld(t))
		until := time.Now().Add(time.Minute)
		s.usable = func() error {
			if time.Now().Before(until) {
				return errors.New("the ledger is over 90 % full")
			}
			return nil
		}
		s.run = func(r Request) (Reply, error) {
			if time.Now().Before(until) {
				t.Error("sent while the ledger was full")
			}
			return s.happen(r, 0), nil
		}
		for i := range 20 {
			s.publish(orderEvent(fmt.Sprint(i), phoneNumber))
		}
		s.carry(t, s.bridge(t, oneRoute))
		for i := range 20 {
			expect(t, s.world, keyOf(fmt.Sprint(i), "r"), wentWell)
		}
	})
}

// An output that is too large to carry is cut, whether it came with the reply
// or from the run log, and its run's id leads to it (R13).
func TestLargeOutput(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		size int
		cut  bool
	}{{"at the limit", maxOutput, false}, {"above it", maxOutput + 1, true}, {"30 MB", 30 << 20, true}} {
		for _, replied := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, replied %v", test.name, replied), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					s := join(newWorld(t))
					const around = `{"umid":"0f3c","status":{"code":"QUEUED"},"pad":""}`
					output := json.RawMessage(strings.Replace(around, `"pad":"`, `"pad":"`+strings.Repeat("x", test.size-len(around)), 1))
					s.run = func(r Request) (Reply, error) {
						reply := s.happen(r, 0)
						reply.Output = output
						s.logs[0].log.Output = output
						if replied {
							return reply, nil
						}
						return Reply{}, noAnswer()
					}
					s.publish(orderEvent("1", phoneNumber))
					s.carry(t, s.bridge(t, oneRoute))
					k := keyOf("1", "r")
					expect(t, s.world, k, wentWell)
					rec := s.record(k)
					if rec.OutputTruncated != test.cut || (len(rec.Output) == 0) != test.cut || rec.RunID != "run-"+rec.Try {
						t.Errorf("truncated %v, %d bytes of output, run %q", rec.OutputTruncated, len(rec.Output), rec.RunID)
					}
					for body := range s.bodies[string(k)] {
						var e struct{ Data ResultData }
						if err := json.Unmarshal([]byte(body), &e); err != nil {
							t.Fatal(err)
						}
						if e.Data.OutputTruncated != test.cut || e.Data.ActionRunID != rec.RunID || len(body) > maxOutput+4<<10 {
							t.Errorf("a result of %d bytes, truncated %v, run %q", len(body), e.Data.OutputTruncated, e.Data.ActionRunID)
						}
					}
				})
			})
		}
	}
}
