package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/bridge8x8/bridge8x8/handlers"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// Some work is not done when its action returns: an export is only requested, a
// message only queued. A route may say what has to come about then, and its
// record follows until it has. The effect has happened: whatever comes of the
// follow-up, nothing is sent again.
//
// A pair that follows waits in BRIDGE_WAIT as any pair set aside does, and its
// record says what is awaited, so that any process goes on where another ended.
// Polls need no claim: they have no effect, and whoever ends the record by
// compare-and-set publishes (R1).
const (
	// followRefusals is how many definite refusals of a poll in a row end the follow-up.
	// 8x8 may say of something new that there is no such thing (source: 8x8-api, error codes).
	followRefusals = 3
	// reservedFor is how long a poll's turn is kept for a pair that does not come back for it.
	reservedFor = time.Minute
)

// Follow is how far a record has followed what its action began.
type Follow struct {
	// Since is when the action's outcome was recorded; the deadline counts from it.
	Since time.Time `json:"since,omitzero"`
	// Action is what was polled, Polls how often, and Output its last answer. Refused
	// counts its latest answers that were refusals.
	Action  string          `json:"action,omitempty"`
	Polls   int             `json:"polls,omitempty"`
	Refused int             `json:"refused,omitempty"`
	RunID   string          `json:"actionRunId,omitempty"`
	Output  json.RawMessage `json:"output,omitempty"`
	// OutputTruncated: see Record.
	OutputTruncated bool `json:"outputTruncated,omitempty"`
	// Receipt is the state of the receipt that ended it.
	Receipt string `json:"receipt,omitempty"`
}

// begun makes of a success the record of a pair that has something to follow.
func (p *pair) begun(r Record) Record {
	h := p.handler
	if h == nil || h.Then == nil || h.Action == nil || actionName(h.Action) != p.frozen.Action {
		return r
	}
	r.State, r.Version, r.Follow = Following, followVersion, &Follow{}
	if a := h.Then.Action; a != nil {
		r.Follow.Action = actionName(a)
	}
	return r
}

// follow takes a pair that follows one look further.
func (b *Bridge) follow(ctx context.Context, e *occurrence, p *pair) fate {
	h := p.handler
	switch {
	case h == nil:
		return b.conclude(ctx, e, p, p.lost(fmt.Sprintf("route %q is no longer in the configuration", p.route)))
	case h.Then == nil: // there is nothing to wait for any more
		return b.conclude(ctx, e, p, p.followed(nil))
	case h.Then.Action == nil:
		return b.awaitReceipt(ctx, e, p)
	}
	if left := p.rec.NotBefore.Sub(b.Now()); left > 0 {
		return fate{kind: waits, delay: left}
	}
	return b.poll(ctx, e, p)
}

// awaitReceipt ends a pair by the receipt that is there, or waits on.
func (b *Bridge) awaitReceipt(ctx context.Context, e *occurrence, p *pair) fate {
	r, found, err := b.receipt(ctx, p)
	if err != nil {
		return fate{kind: again, delay: troubleDelay}
	}
	if found {
		if rec, ends := p.receiptEnds(r); ends {
			return b.conclude(ctx, e, p, rec)
		}
	}
	h := p.handler
	left := p.rec.ConcludedAt.Add(h.Then.Deadline).Sub(b.Now())
	if left <= 0 {
		return b.conclude(ctx, e, p, p.lost(fmt.Sprintf("no receipt said %s within %v", h.Then.Receipt, h.Then.Deadline)))
	}
	return fate{kind: waits, delay: min(left, p.pause(b.Now()))}
}

// receiptEnds is the record of a pair that a receipt ends, well or badly.
func (p *pair) receiptEnds(r Receipt) (Record, bool) {
	h := p.handler
	if h == nil || h.Then == nil || h.Then.Action != nil || p.rec.State != Following {
		return Record{}, false
	}
	states := handlers.ReceiptStates
	switch i := slices.Index(states, r.Outcome); {
	case i >= 0 && i >= slices.Index(states, h.Then.Receipt):
		return p.followed(func(f *Follow) { f.Receipt = r.Outcome }), true
	case i < 0 && r.Final:
		rec := p.lost(fmt.Sprintf("8x8 says %s, and %s was awaited", r.Outcome, h.Then.Receipt))
		rec.Follow.Receipt = r.Outcome
		return rec, true
	}
	return Record{}, false
}

// pause is how long to wait before the next look: each takes as long as all
// before it, within the route's bounds.
func (p *pair) pause(now time.Time) time.Duration {
	t := p.handler.Then
	return min(max(now.Sub(p.rec.ConcludedAt), t.Initial), t.Max)
}

// poll asks once. The deadline ends a follow-up with an answer in hand, or with
// the lack of one: while a gate is closed nobody can look, and an outage is no
// failure (guarantee 3).
func (b *Bridge) poll(ctx context.Context, e *occurrence, p *pair) fate {
	then := p.handler.Then
	if left := b.turns.reserve(pollKey(p.frozen, then.Action), p.key, then.Action.Gap, b.Now()); left > 0 {
		return fate{kind: waits, delay: left}
	}
	input, err := b.followInput(p)
	if err != nil {
		return b.conclude(ctx, e, p, p.lost(err.Error()))
	}
	pass, held := b.gates.enterPoll(p.frozen, then.Action)
	if held != nil {
		return fate{kind: waits, delay: held.delay}
	}
	limit := time.Duration(0)
	if p.frozen.Tenant != "" && b.slots.isShared() {
		limit = slotPatience // as in pair
	}
	slot, got := b.slots.take(p.frozen, b.draining, limit)
	if got != slotTaken {
		pass.leave(false, nil)
		if got == slotLater {
			return fate{kind: waits, delay: b.slots.later(p.frozen)}
		}
		return fate{kind: again}
	}
	reply, failure := b.runPoll(ctx, p, pass, slot, input)
	b.Hook("polled", p.key)

	next := *p.rec.Follow
	next.Polls++
	switch {
	case failure == nil:
		next.Refused, next.RunID = 0, reply.RunID
		next.Output, next.OutputTruncated = cut(reply.Output)
		done, failed, err := b.followEnds(p, reply.Output)
		switch {
		case err != nil:
			return b.conclude(ctx, e, p, p.lostAt(next, err.Error()))
		case done:
			return b.conclude(ctx, e, p, p.followed(func(f *Follow) { *f = next }))
		case failed:
			return b.conclude(ctx, e, p, p.lostAt(next, "the answer of "+next.Action+" says that it has failed"))
		}
	case failure.Kind == Permanent:
		if next.Refused++; next.Refused >= followRefusals {
			return b.conclude(ctx, e, p, p.lostAt(next, fmt.Sprintf("%s was refused %d times in a row: %s", next.Action, next.Refused, failure.Message)))
		}
	}
	if !b.Now().Before(p.rec.ConcludedAt.Add(then.Deadline)) {
		why := fmt.Sprintf("it did not come about within %v", then.Deadline)
		if failure != nil {
			why += ": " + failure.Message
		}
		return b.conclude(ctx, e, p, p.lostAt(next, why))
	}
	wait := p.pause(b.Now())
	if failure != nil {
		wait = max(wait, failure.RetryAfter)
	}
	next.Output, next.OutputTruncated = nil, false // only the last one matters
	rec := p.rec
	rec.Follow, rec.NotBefore = &next, b.Now().Add(wait).UTC()
	switch rev, err := b.Ledger.Put(ctx, p.key, rec, p.rev); {
	case err == nil:
		p.rec, p.rev = rec, rev
		return fate{kind: waits, delay: wait}
	case errors.Is(err, ErrConflict):
		if err := b.reread(ctx, p); err != nil {
			return fate{kind: again, delay: troubleDelay}
		}
		return b.fromRecord(ctx, e, p)
	default: // it is polled once more than it says
		b.Observer.Trouble("cannot write to the ledger", "error", err)
		return fate{kind: again, delay: troubleDelay}
	}
}

// runPoll makes one request. The pass and the slot are given back whatever happens.
func (b *Bridge) runPoll(ctx context.Context, p *pair, pass pass, slot slot, input map[string]any) (reply Reply, failure *Failure) {
	ran := false
	defer func() {
		pass.leave(ran, failure)
		slot.free(ran)
	}()
	a, began := p.handler.Then.Action, b.Now()
	reply, err := b.Runner.Run(ctx, Request{
		Place: p.frozen.Place(), ActionKey: a.Key, ActionID: a.ID, OneCall: a.OneCall, ProxyForwards: p.handler.ProxyForwards,
		Input: input, SendBy: began.Add(sendBy),
		// Another try than the record's: the log of a poll is no evidence of the run (R3).
		Meta: Meta{Bridge: b.Name, Source: p.e.cause.Source, EventID: p.e.cause.ID, Route: p.route, Key: string(p.key), Try: newTry(), Attempt: p.rec.Follow.Polls + 1},
	})
	failure, ran = verdictOf(a, reply, err), true
	if failure != nil && failure.Kind == Unknown { // of an action that nobody knows to be safe: it is asked again all the same
		failure.Kind = Temporary
	}
	b.Observer.Ran(p.handler.Name, actionName(a), kindName(failure), b.Now().Sub(began))
	return reply, failure
}

// polls says whether a pair follows by asking.
func (p *pair) polls() bool {
	return p.rec.State == Following && p.handler != nil && p.handler.Then != nil && p.handler.Then.Action != nil
}

// followInput makes the input of a poll, and followEnds reads its answer. A fault
// in that is the event's (R14).
func (b *Bridge) followInput(p *pair) (input map[string]any, err error) {
	b.care.enter()
	defer b.care.leave()
	defer faulted(&err)
	return p.handler.Then.Input(p.e.view(), p.rec.Output)
}

func (b *Bridge) followEnds(p *pair, answer json.RawMessage) (done, failed bool, err error) {
	b.care.enter()
	defer b.care.leave()
	defer faulted(&err)
	return p.handler.Then.Ended(answer, p.rec.Output)
}

func faulted(err *error) {
	if p := recover(); p != nil {
		*err = errors.New("the program faults over its follow-up")
	}
}

// followed is the record of a pair whose follow-up has ended well.
func (p *pair) followed(change func(*Follow)) Record {
	r := p.rec
	f := *r.Follow
	f.Since = p.rec.ConcludedAt
	if change != nil {
		change(&f)
		f.Since = p.rec.ConcludedAt
	}
	r.State, r.Follow, r.NotBefore = Succeeded, &f, time.Time{}
	return r
}

// lost is the record of a pair whose follow-up has ended badly. What its action
// gave stays in the record: it has happened.
func (p *pair) lost(message string) Record { return p.lostAt(*p.rec.Follow, message) }

func (p *pair) lostAt(f Follow, message string) Record {
	r := p.followed(func(was *Follow) { *was = f })
	r.State, r.Reason = Failed, ReasonFollowUpFailed
	r.Message = "the action itself succeeded, and what was to come of it did not: " + message
	return r
}

// followLate begins the follow-up of a pair whose outcome became known when its
// message was gone: it gets a new one, of the event in its dead letter (R6).
func (b *Bridge) followLate(ctx context.Context, p *pair, rec Record) error {
	switch found, err := b.regain(ctx, p); {
	case err != nil:
		return err
	case !found: // a person has it, and so nobody can go on
		rec.State, rec.Version, rec.Follow = Succeeded, plainVersion, nil
		if f := b.conclude(ctx, p.e, p, rec); f.kind == again {
			return errEvidence
		}
		return nil
	}
	if f := b.conclude(ctx, p.e, p, rec); f.kind == again { // that resumes it
		return errEvidence
	}
	return nil
}

// resume gives a pair that follows a message in BRIDGE_WAIT, and takes its
// letter away.
func (b *Bridge) resume(ctx context.Context, p *pair) error {
	if err := b.Outbox.SetAside(ctx, p.e.d, Pair{Route: p.route, Replay: p.replay}, p.key, p.waitsFor()); err != nil {
		return err
	}
	b.Hook("resumed", p.key)
	if err := b.Outbox.Withdraw(ctx, p.key, p.route); err != nil {
		return err
	}
	return b.Ledger.Settled(ctx, p.key)
}

// resumeAgain does what followLate began: who did may have died over it.
func (b *Bridge) resumeAgain(ctx context.Context, entry Entry) error {
	p := b.recall(entry)
	switch found, err := b.regain(ctx, p); {
	case err != nil:
		return err
	case !found: // the letter goes last
		return b.Ledger.Settled(ctx, entry.Key)
	}
	return b.resume(ctx, p)
}

// waitsFor is the connection in whose line a pair set aside waits: "" for that
// of a route that has gone; a connection of old may have nobody who takes what
// waits for it.
func (p *pair) waitsFor() string {
	if p.handler == nil {
		return ""
	}
	return p.handler.Connection
}

// turns are those of polls of which the service takes only so many in a time.
type turns struct {
	mu   sync.Mutex
	next map[gateKey]time.Time
	kept map[Key]time.Time
}

// reserve says how long a pair has to wait for its turn; zero: it is now. Whoever
// comes back after that time has kept it.
func (t *turns) reserve(what gateKey, k Key, gap time.Duration, now time.Time) time.Duration {
	if gap <= 0 {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if at, ok := t.kept[k]; ok {
		if at.After(now) {
			return at.Sub(now)
		}
		delete(t.kept, k)
		if now.Sub(at) < reservedFor {
			return 0
		}
	}
	if t.next == nil {
		t.next, t.kept = map[gateKey]time.Time{}, map[Key]time.Time{}
	}
	at := t.next[what]
	if at.Before(now) {
		at = now
	}
	t.next[what] = at.Add(gap)
	if !at.After(now) {
		return 0
	}
	for k, at := range t.kept { // another process may have come back for it: one is looked at each time
		if now.Sub(at) >= reservedFor {
			delete(t.kept, k)
		}
		break
	}
	t.kept[k] = at
	return at.Sub(now)
}

func pollKey(f Frozen, a *catalog.Action) gateKey {
	k := connectionKey(f)
	k.route = "then\x00" + actionName(a)
	return k
}

// receiptFollowed ends a pair that awaits a receipt, if this is the one: a good
// end at once; a bad one when its message comes, which has the event that its
// dead letter needs, and so does one whose result shows something of the event.
func (b *Bridge) receiptFollowed(ctx context.Context, entry Entry) (Record, error) {
	p := b.recall(entry)
	r, found, err := b.receipt(ctx, p)
	if err != nil {
		return p.rec, err
	}
	rec, ends := p.receiptEnds(r)
	if !found || !ends || rec.State != Succeeded {
		return p.rec, nil
	}
	if _, readsEvent := p.handler.ShapesResult(true); readsEvent {
		return p.rec, nil
	}
	if f := b.conclude(ctx, p.e, p, rec); f.kind == again {
		return p.rec, errEvidence
	}
	if p.rec.State == Succeeded && !p.rec.Published {
		b.mark(ctx, p) // its message has nothing left to say
	}
	return p.rec, nil
}
