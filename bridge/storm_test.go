package bridge

import (
	"context"
	"fmt"
	"math/rand"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestStorm lets two processes work on a few events while writes are lost,
// stored late or stored in silence, processes die at any step and others take
// over, publishers repeat themselves, and the service refuses, forgets to
// answer and hides its logs. Whatever the order, the guarantees hold. In two
// storms of three, the route has something to follow: an answer, or a receipt.
func TestStorm(t *testing.T) {
	t.Parallel()
	storms := 300
	if testing.Short() {
		storms = 50
	}
	for seed := range storms {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &storm{
					world: newWorld(t), t: t, rand: rand.New(rand.NewSource(int64(seed))),
					routes: oneRoute + []string{"", followPolls, followReceipts}[seed/15%3],
					harsh:  10 + 15*(seed%5), faults: 15, crashes: seed % 3, sent: map[string]bool{}, told: map[string]*process{}, proven: map[string]bool{},
				}
				s.run()
			})
		})
	}
}

type storm struct {
	*world
	t *testing.T

	dice    sync.Mutex
	rand    *rand.Rand
	harsh   int // percent of the writes that go wrong, while faults are left
	faults  int // left
	crashes int // left
	crashed bool
	paused  bool // for so long that others go on without whoever was paused
	routes  string
	sent    map[string]bool     // tries of which a request left
	told    map[string]*process // tries that succeeded, and who was told so
	proven  map[string]bool     // tries whose receipt was taken
	procs   []*process
	over    bool
	working atomic.Int32 // deliveries in hand
	wg      sync.WaitGroup
}

// process is one bridge until it dies.
type process struct {
	seams
	b    *Bridge
	ctx  context.Context
	die  context.CancelFunc
	dead chan struct{}
	once sync.Once

	diedEarly bool // before the end of the storm
}

func (s *storm) chance(percent int) bool {
	s.dice.Lock()
	defer s.dice.Unlock()
	return s.rand.Intn(100) < percent
}

func (s *storm) upTo(d time.Duration) time.Duration {
	s.dice.Lock()
	defer s.dice.Unlock()
	return time.Duration(s.rand.Int63n(int64(d)))
}

// fault says whether one happens, if there is one left.
func (s *storm) fault(percent int, left *int) bool {
	s.dice.Lock()
	defer s.dice.Unlock()
	if *left == 0 || s.rand.Intn(100) >= percent {
		return false
	}
	*left--
	return true
}

func (s *storm) later(d time.Duration, do func()) {
	s.wg.Go(func() {
		<-time.After(d)
		do()
	})
}

func (s *storm) start() *process {
	p := &process{seams: seams{world: s.world}, dead: make(chan struct{})}
	p.ctx, p.die = context.WithCancel(context.Background())
	p.seams.fate = func(w write) writeFate { return s.write(p, w) }
	p.seams.get = func(Key) error { return s.step(p) }
	p.seams.note = func() error { return s.step(p) }
	p.seams.store = func() error {
		if err := s.step(p); err != nil {
			return err
		}
		if s.fault(10, &s.faults) {
			return errRefused
		}
		return nil
	}
	p.seams.run = func(r Request) (Reply, error) { return s.serve(p, r) }
	p.b = newBridge(s.t, &p.seams, s.routes, 4)
	s.wg.Go(func() { p.b.Run(p.ctx) })
	return p
}

// kill ends a process: nothing that it does from now on reaches anybody.
func (s *storm) kill(p *process) {
	p.once.Do(func() { close(p.dead); p.die() })
}

func (p *process) isDead() bool {
	select {
	case <-p.dead:
		return true
	default:
		return false
	}
}

// step is a moment at which a process may pause or die.
func (s *storm) step(p *process) error {
	if !p.isDead() && s.fault(4, &s.crashes) {
		s.mu.Lock()
		s.crashed, p.diedEarly = true, true
		s.mu.Unlock()
		s.kill(p)
	}
	if p.isDead() {
		return errRefused
	}
	switch {
	case s.chance(3):
		<-time.After(s.upTo(8 * time.Second))
	case s.chance(2):
		s.mu.Lock()
		s.paused = true
		s.mu.Unlock()
		<-time.After(s.upTo(4 * time.Minute))
	}
	return nil
}

func (s *storm) write(p *process, _ write) writeFate {
	if s.step(p) != nil {
		return refused
	}
	if !s.fault(s.harsh, &s.faults) {
		return stored
	}
	const ackTimeout = 3 * time.Second
	switch s.upTo(4) {
	case 0:
		return storedUnsaid
	case 1:
		<-time.After(ackTimeout)
		return lost
	case 2:
		<-time.After(ackTimeout)
		s.later(s.upTo(6*time.Second), s.arrive)
		return late
	default:
		return refused
	}
}

// serve is the service.
func (s *storm) serve(p *process, r Request) (Reply, error) {
	_ = s.step(p) // a pause before the last look at the clock
	if time.Now().After(r.SendBy) || p.isDead() {
		return Reply{}, TooLate()
	}
	if r.ActionKey == "get-sms-status" {
		return s.status()
	}
	s.mu.Lock()
	s.sent[r.Meta.Try] = true
	s.mu.Unlock()
	slow := s.upTo(time.Second)
	if s.chance(15) {
		slow = s.upTo(time.Minute)
	}
	<-time.After(slow)
	doubt := &Failure{Kind: Unknown, Reason: ReasonOutcomeUnknown, Message: "no answer"}
	shows := s.upTo(9 * time.Second)
	switch n := s.upTo(100); {
	case n < 45:
		return s.happenAt(p, r, shows, nil)
	case n < 55:
		return s.happenAt(p, r, 10*time.Minute, nil)
	case n < 65:
		return s.happenAt(p, r, shows, doubt)
	case n < 70: // hidden, or for long
		return s.happenAt(p, r, 10*time.Minute, doubt)
	case n < 75:
		return s.happenAt(p, r, 0, &Failure{Kind: Unknown, Reason: ReasonOutcomeUnknown, Message: "cut off", RunID: "run-" + r.Meta.Try})
	case n < 80:
		return Reply{}, doubt // and nothing happened
	case n < 88:
		return Reply{}, &Failure{Kind: Outage, Message: "503"}
	case n < 94:
		return Reply{}, &Failure{Kind: Temporary, Message: "once more"}
	default:
		return Reply{}, &Failure{Kind: Permanent, Reason: ReasonRejected, Message: "no"}
	}
}

const (
	followPolls = `    then:
      run: get-sms-status
      input: {umid: "${ $output.umid }"}
      until: ${ .status.state == "delivered" }
      fails: ${ .status.state == "undelivered" }
      deadline: 30m
`
	followReceipts = `    then: {until: delivered, deadline: 30m}
`
)

// status answers a poll.
func (s *storm) status() (Reply, error) {
	<-time.After(s.upTo(2 * time.Second))
	state := "queued"
	switch n := s.upTo(100); {
	case n < 20:
		state = "delivered"
	case n < 25:
		state = "undelivered"
	case n < 35:
		return Reply{}, &Failure{Kind: Permanent, Reason: ReasonRejected, Message: "no such message"}
	case n < 45:
		return Reply{}, &Failure{Kind: Outage, Message: "429", RetryAfter: time.Second}
	case n < 55:
		return Reply{}, &Failure{Kind: Unknown, Message: "no answer"}
	}
	return Reply{RunID: "poll", Output: fmt.Appendf(nil, `{"umid":"0f3c","status":{"state":%q}}`, state)}, nil
}

func (s *storm) happenAt(p *process, r Request, shows time.Duration, f *Failure) (Reply, error) {
	reply := p.happen(r, shows)
	switch {
	case s.routes != oneRoute+followReceipts:
		if s.chance(25) {
			s.later(s.upTo(5*time.Minute), func() { s.receipt(r, Receipt{UMID: "0f3c", State: "sent"}) })
		}
	case s.chance(70):
		end := Receipt{UMID: "0f3c", State: "delivered", Outcome: "delivered", Final: true}
		if s.chance(20) {
			end = Receipt{UMID: "0f3c", State: "undelivered", Outcome: "undelivered", Final: true}
		}
		for _, one := range []Receipt{{UMID: "0f3c", State: "sent", Outcome: "sent"}, end, end} { // in any order
			s.later(s.upTo(5*time.Minute), func() { s.receipt(r, one) })
		}
	}
	if f != nil {
		return Reply{}, f
	}
	s.mu.Lock()
	s.told[r.Meta.Try] = p
	s.mu.Unlock()
	return reply, nil
}

// receipt is 8x8's, which comes five times until somebody takes it (R15).
func (s *storm) receipt(r Request, receipt Receipt) {
	for range 5 {
		s.mu.Lock()
		p := s.procs[s.upTo(2)]
		s.mu.Unlock()
		if _, err := p.b.Receipt(p.ctx, Key(r.Meta.Key), r.Meta.Try, receipt); err == nil && !p.isDead() {
			s.mu.Lock()
			s.proven[r.Meta.Try] = true
			s.mu.Unlock()
			return
		}
		<-time.After(s.upTo(time.Minute))
	}
}

// settler settles one delivery to one process, unless that has died.
type settler struct {
	s    *storm
	p    *process
	m    *message
	done chan struct{}
}

const ackWait = 30 * time.Second

func (x settler) end() bool {
	if x.p.isDead() {
		return false
	}
	select {
	case <-x.done:
		x.s.t.Error("a delivery was settled twice")
	default:
		close(x.done)
	}
	return true
}

func (x settler) Ack() {
	if !x.end() {
		return
	}
	if x.s.fault(5, &x.s.faults) { // the ack is lost
		x.s.later(ackWait, func() { x.s.again(x.m) })
		return
	}
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	if !x.m.acked {
		x.m.acked = true
		x.s.pending--
	}
}

func (x settler) Nak(delay time.Duration) {
	if x.end() {
		x.s.later(delay, func() { x.s.again(x.m) })
	}
}

func (s *storm) again(m *message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !m.acked && !s.over {
		s.queue <- m
	}
}

func (s *storm) deliver(m *message) {
	s.mu.Lock()
	i := int(s.upTo(2))
	if s.procs[i].isDead() {
		s.procs[i] = s.start()
	}
	p := s.procs[i]
	d := m.d
	d.Redelivered = m.times > 0
	m.times++
	d.Deliveries = m.times
	skip := m.acked
	s.mu.Unlock()
	if skip {
		return
	}
	x := settler{s, p, m, make(chan struct{})}
	d.Settle = x
	s.working.Add(1)
	s.wg.Go(func() {
		defer s.working.Add(-1)
		p.b.Handle(p.ctx, &d)
	})
	s.wg.Go(func() {
		select {
		case <-x.done:
		case <-p.dead:
			<-time.After(ackWait)
			s.again(m)
		}
	})
}

func (s *storm) run() {
	s.procs = []*process{s.start(), s.start()}
	const events = 4
	var ids []string
	for i := range events {
		id := fmt.Sprint("evt-", i)
		ids = append(ids, id)
		for again := 0; again == 0 || again < 3 && s.chance(30); again++ {
			s.later(s.upTo(20*time.Second), func() { s.publish(orderEvent(id, "+12025550101")) })
		}
	}
	<-time.After(21 * time.Second)
	s.carry(0)
	// Long after, in calm weather, somebody looks once more for what is unknown (R6).
	s.mu.Lock()
	s.faults, s.crashes, s.over = 0, 0, false
	last := s.start()
	s.procs = []*process{last, last}
	s.mu.Unlock()
	s.carry(30 * time.Minute)
	for _, id := range ids {
		s.judge(keyOf(id, "r"))
	}
}

// carry delivers what is in the queue until all of it is acknowledged, but for as
// long as least, and lets everybody die then.
func (s *storm) carry(least time.Duration) {
	began, limit := time.Now(), time.After(3*time.Hour)
	for left := 1; left > 0 || time.Since(began) < least; {
		select {
		case m := <-s.queue:
			s.deliver(m)
			left = 1
		case <-time.After(time.Minute):
			s.mu.Lock()
			left = s.pending + int(s.working.Load())
			s.mu.Unlock()
		case <-limit:
			s.t.Errorf("%d messages are not acknowledged", s.pending)
			left, least = 0, 0
		}
	}
	s.mu.Lock()
	s.over = true
	procs := s.procs
	s.mu.Unlock()
	for _, p := range procs {
		s.kill(p)
	}
	s.wg.Wait()
}

// judge says what is wrong with the end of one pair.
func (s *storm) judge(k Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec := s.records[k].Record
	if !rec.State.Final() && rec.State != UnknownSt {
		s.t.Errorf("the record ends as %q", rec.State)
	}
	if s.effects[k] > 1 {
		s.t.Errorf("%d effects", s.effects[k])
	}
	happened := rec.State == Succeeded || rec.Reason == ReasonFollowUpFailed
	if happened && s.effects[k] != 1 || rec.State == Failed && !happened && s.effects[k] != 0 {
		s.t.Errorf("%s with %d effects", rec.State, s.effects[k])
	}
	if rec.State.Final() != (len(s.results[string(k)]) > 0) {
		s.t.Errorf("%s with %d results", rec.State, len(s.results[string(k)]))
	}
	for _, state := range s.results[string(k)] {
		if state != rec.State {
			s.t.Errorf("%s with a result that says %s", rec.State, state)
		}
	}
	if s.proven[rec.Try] && !happened {
		s.t.Errorf("%s, although its receipt was taken", rec.State)
	}
	want := map[State]Reason{Failed: rec.Reason, UnknownSt: ReasonOutcomeUnknown}[rec.State]
	found := want == ""
	for _, l := range s.dead {
		if l.key == k && l.reason != want {
			s.t.Errorf("%s with a dead letter %s", rec.State, l.reason)
		}
		found = found || l.key == k
	}
	if !found {
		s.t.Errorf("%s without a dead letter", rec.State)
	}
	if rec.State != UnknownSt {
		return
	}
	if !s.crashed && !s.paused && !s.sent[rec.Try] {
		s.t.Error("unknown, although everybody lived and nothing was sent")
	}
	if p := s.told[rec.Try]; p != nil && !p.diedEarly {
		s.t.Error("unknown, although somebody who lived knew of the success")
	}
	for _, l := range s.logs {
		if l.log.Meta.Try == rec.Try {
			s.t.Error("unknown, although its run log shows")
		}
	}
}
