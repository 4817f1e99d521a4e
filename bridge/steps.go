package bridge

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// claim takes the pair for one try: a create, or a compare-and-set from the
// revision that was read (R4). A claim without a clear answer is asked for
// again with the same nonce until the ledger says what became of it (R7).
// fate.kind is none if the pair's record now says something else.
func (b *Bridge) claim(ctx context.Context, p *pair, now, deadline time.Time) (fate, bool) {
	if err := b.Ledger.Usable(); err != nil { // R13
		b.Observer.Trouble("nothing is claimed", "error", err)
		return fate{kind: again, delay: troubleDelay}, false
	}
	rec := p.base()
	rec.State, rec.Try, rec.ClaimedAt = Running, newTry(), now.UTC()
	rec.Attempts++
	rec.NotBefore, rec.Why = time.Time{}, ""
	try, unclear := rec.Try, false // unclear: a write of this claim may still be on its way
	for {
		rev, err := b.Ledger.Put(ctx, p.key, rec, p.rev)
		if err == nil {
			p.rec, p.rev = rec, rev
			return fate{kind: none}, rec.State == Running
		}
		unclear = unclear || errors.Is(err, ErrUnclear)
		if !unclear && !errors.Is(err, ErrConflict) {
			b.Observer.Trouble("cannot write to the ledger", "error", err)
			return fate{kind: again, delay: troubleDelay}, false
		}
		before := p.rev
		if !b.again(ctx, p, err) {
			return fate{kind: again, delay: troubleDelay}, false
		}
		switch {
		case p.rec.State == Running && p.rec.Try == try:
			return fate{}, true
		case p.rev != before: // and so a write of ours on its way will be refused
			return fate{kind: none}, false
		case b.Now().After(deadline):
			// It would come too late, but it may still come, and nobody could tell that
			// nothing was sent. A record that moves on without it refuses it.
			rec = p.base()
			rec.State = Waiting
		}
	}
}

// reread brings the pair's record up to date; a record that is not there is an empty one.
func (b *Bridge) reread(ctx context.Context, p *pair) error {
	entry, err := b.Ledger.Get(ctx, p.key)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	p.adopt(entry)
	return nil
}

// release puts a claim back to waiting, because its request certainly had no
// effect (R3, R4). An attempt stays counted only if the answer was about this
// event. ok is false if the record meanwhile says something else, and the fate
// follows from that.
func (b *Bridge) release(ctx context.Context, e *occurrence, p *pair, f *Failure, wait time.Duration) (fate, bool) {
	try := p.rec.Try
	for {
		rec := p.base()
		rec.State, rec.Why = Waiting, f.Reason
		if f.Kind == Temporary {
			rec.NotBefore = b.Now().Add(wait).UTC()
		} else {
			rec.Attempts--
		}
		if f.Reason == ReasonOutcomeUnknown {
			rec.Unclear++ // it may have had an effect, and is repeated by choice (R17)
		}
		rev, err := b.Ledger.Put(ctx, p.key, rec, p.rev)
		if err == nil {
			p.rec, p.rev = rec, rev
			return fate{}, true
		}
		if !b.again(ctx, p, err) {
			return fate{kind: again, delay: troubleDelay}, false
		}
		switch {
		case p.rec.State == Waiting && p.rec.Try == try: // stored, although nobody said so
			return fate{}, true
		case p.rec.State != Running || p.rec.Try != try:
			return b.fromRecord(ctx, e, p), false
		}
	}
}

// again looks what the record says now, after a write that did not succeed. It
// keeps asking while NATS is away: what is known of a run must not be lost.
func (b *Bridge) again(ctx context.Context, p *pair, err error) bool {
	before, conflict := p.rev, errors.Is(err, ErrConflict)
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		if !errors.Is(err, ErrConflict) {
			b.Observer.Trouble("cannot write to the ledger", "error", err)
			if !sleep(ctx, pause) {
				return false
			}
		}
		if err = b.reread(ctx, p); err == nil {
			// A conflict with what has not changed is one with a write still on its way.
			return !conflict || p.rev != before || sleep(ctx, pause)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// fromRecord is the fate of a pair whose record somebody else has moved on.
func (b *Bridge) fromRecord(ctx context.Context, e *occurrence, p *pair) fate {
	switch {
	case p.rec.State == "": // it is not there any more, or not yet
		return fate{kind: again, delay: troubleDelay}
	case p.rec.Version > recordVersion:
		return fate{kind: again, delay: newerDelay} // a newer bridge's: leave it to one
	case p.rec.Content != e.content:
		return b.reused(ctx, e, p)
	case p.rec.State.Final() || p.rec.State == UnknownSt:
		return b.finish(ctx, e, p)
	case p.rec.State == Running:
		return fate{kind: inDoubt}
	default:
		return fate{kind: waits, delay: max(0, p.rec.NotBefore.Sub(b.Now()))}
	}
}

// conclude records an outcome, and publishes it if the record won (R1). An
// outcome that is better evidence than an unknown replaces that (R6).
func (b *Bridge) conclude(ctx context.Context, e *occurrence, p *pair, rec Record) fate {
	try, wasRunning, wasUnknown := p.rec.Try, p.rec.State == Running, p.rec.State == UnknownSt
	rec.ConcludedAt = b.Now().UTC()
	if rec.State == Following {
		rec.NotBefore = rec.ConcludedAt.Add(p.handler.Then.Initial)
	}
	b.shape(e, p, &rec)
	for {
		rec.Overturned = p.rec.State == UnknownSt || p.rec.State == Following && p.rec.Overturned
		before := p.rev
		rev, err := b.Ledger.Put(ctx, p.key, rec, before)
		if err == nil {
			p.rec, p.rev = rec, rev
			return b.concluded(ctx, e, p)
		}
		if !wasRunning && !errors.Is(err, ErrConflict) && !errors.Is(err, ErrUnclear) {
			b.Observer.Trouble("cannot write to the ledger", "error", err)
			return fate{kind: again, delay: troubleDelay} // nothing was sent: nothing is lost by coming again
		}
		if !b.again(ctx, p, err) {
			return fate{kind: again, delay: troubleDelay}
		}
		ours := wasRunning && p.rec.Try == try
		switch {
		case p.rec.State == rec.State && p.rec.Try == rec.Try && p.rec.ConcludedAt.Equal(rec.ConcludedAt):
			return b.concluded(ctx, e, p) // stored, although nobody said so
		case p.rev == before: // not stored, and nobody else came: once more
		case ours && p.rec.State == Running: // a write of ours that was stored late: once more
		case ours && p.rec.State == UnknownSt && rec.State != UnknownSt: // R6
		case wasUnknown && p.rec.State == UnknownSt && p.rec.Try == try: // it was only marked as published (R6)
		case ours && p.rec.State == Waiting && rec.happened(): // R6: given up for a repetition that nobody has begun (R17)
		case wasRunning && p.rec.State == "": // the ledger was lost; what we know of the run is not
		default:
			return b.fromRecord(ctx, e, p)
		}
	}
}

// concluded publishes an outcome that was recorded just now.
func (b *Bridge) concluded(ctx context.Context, e *occurrence, p *pair) fate {
	b.Hook("recorded", p.key)
	if p.rec.State == UnknownSt { // written first, then the receipt is read (R15)
		if f, ok := b.byReceipt(ctx, e, p); ok {
			return f
		}
	}
	if p.rec.State == Following {
		b.Observer.Waits(p.routeName(), WhyFollowing)
		if p.rec.Overturned { // the message in hand may be gone: who held it as unknown has acknowledged it
			if err := b.resume(ctx, p); err != nil {
				b.Observer.Trouble("cannot set a pair aside", "route", p.route, "error", err)
				return fate{kind: again, delay: troubleDelay}
			}
		}
		if err := b.noteSent(ctx, p); err != nil { // the end of it notes it once more
			b.Observer.Trouble("what 8x8 says of it meanwhile will not be tied to its event", "route", p.route, "error", err)
		}
		return b.follow(ctx, e, p)
	}
	b.Observer.Ended(p.routeName(), p.action(), p.rec.State, p.rec.Reason, b.Now().Sub(e.d.Stored))
	f := b.publish(ctx, e, p)
	if f.kind == ended && p.rec.Overturned { // no message may be left that would bring anybody here again
		b.mark(ctx, p)
	}
	return f
}

// finish ends a pair whose record already has its outcome: the first such
// meeting publishes once more, for the process that recorded it may have died
// before it could; then the record is marked, and met again in silence (R18).
func (b *Bridge) finish(ctx context.Context, e *occurrence, p *pair) fate {
	if p.rec.Published {
		if p.rec.Overturned { // who held it as unknown may have died over a letter that came too late to be withdrawn (R6)
			if err := b.Outbox.Withdraw(ctx, p.key, p.route); err != nil {
				b.Observer.Trouble("cannot withdraw a dead letter", "route", p.route, "error", err)
				return fate{kind: again, delay: troubleDelay}
			}
		}
		return fate{kind: ended}
	}
	if p.rec.State == UnknownSt { // who wrote it may have died before the receipt was read (R15)
		if f, ok := b.byReceipt(ctx, e, p); ok {
			return f
		}
	}
	if f := b.publish(ctx, e, p); f.kind != ended {
		return f
	}
	b.mark(ctx, p)
	return fate{kind: ended}
}

// mark notes that an outcome is published everywhere (R18), and that nobody has
// to look for evidence any more (R6).
func (b *Bridge) mark(ctx context.Context, p *pair) {
	marked := p.rec
	marked.Published = true
	rev, err := b.Ledger.Put(ctx, p.key, marked, p.rev)
	if err == nil {
		p.rec, p.rev = marked, rev
		if marked.Overturned {
			err = b.Ledger.Settled(ctx, p.key)
		}
	}
	if err != nil && !errors.Is(err, ErrConflict) {
		b.Observer.Trouble("cannot mark a record as published", "error", err)
	}
}

// publish sends out what the record says: a result for what ended, a dead
// letter for what a person should see (guarantee 2).
func (b *Bridge) publish(ctx context.Context, e *occurrence, p *pair) fate {
	var err error
	switch p.rec.State {
	case Succeeded:
		if err = b.noteSent(ctx, p); err == nil {
			err = b.Outbox.Result(ctx, b.result(p))
		}
	case Failed:
		if p.rec.Reason == ReasonDiscarded || e.recalled { // a person gave up on it, or has its letter already
			err = b.Outbox.Result(ctx, b.result(p))
			break
		}
		stored := make(chan error, 1)
		go func() { stored <- b.Outbox.Dead(ctx, b.letter(e, p)) }()
		err = b.Outbox.Result(ctx, b.result(p))
		err = errors.Join(err, <-stored)
	default:
		if err = b.Outbox.Dead(ctx, b.letter(e, p)); err == nil {
			err = b.recheck(ctx, p)
		}
	}
	if p.rec.Overturned && err == nil { // not before: who publishes it again gets the event from there
		err = b.Outbox.Withdraw(ctx, p.key, p.route)
	}
	if err != nil {
		b.Observer.Trouble("cannot publish an outcome", "route", p.route, "error", err)
		return fate{kind: again, delay: troubleDelay}
	}
	b.Hook("published", p.key)
	return fate{kind: ended}
}

// recheck withdraws the letter of an unknown whose evidence came while the
// letter was on its way: who brought it found none to withdraw (R6).
func (b *Bridge) recheck(ctx context.Context, p *pair) error {
	entry, err := b.Ledger.Get(ctx, p.key)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if entry.Record.State.Final() {
		return b.Outbox.Withdraw(ctx, p.key, p.route)
	}
	return nil
}

func (b *Bridge) letter(e *occurrence, p *pair) DeadLetter {
	return DeadLetter{
		Original: e.d, Reason: p.rec.Reason, Message: p.rec.Message, Key: p.key,
		ID: string(p.key) + "." + string(p.rec.Reason), Route: p.route, Record: &p.rec, Cause: &e.cause,
	}
}

// park sets a pair aside that a closed gate holds back. That it waits is
// recorded, so that its routes are frozen; no attempt is counted.
func (b *Bridge) park(ctx context.Context, e *occurrence, p *pair, s *shut) fate {
	if e.d.Deliveries == suspectFrom-1 { // it was decoded and mapped here, and did no harm (R14)
		b.examined.add(markID(e.d))
	}
	if p.rec.State == "" {
		rec := p.base()
		rec.State, rec.Why = Waiting, s.why
		rev, err := b.Ledger.Put(ctx, p.key, rec, p.rev)
		switch {
		case err == nil:
			p.rec, p.rev = rec, rev
		case errors.Is(err, ErrConflict):
			if err := b.reread(ctx, p); err != nil {
				return fate{kind: again, delay: troubleDelay}
			}
			return b.fromRecord(ctx, e, p)
		default:
			b.Observer.Trouble("cannot write to the ledger", "error", err)
			return fate{kind: again, delay: troubleDelay}
		}
		b.Observer.Waits(p.routeName(), s.why)
	}
	return fate{kind: waits, delay: s.delay}
}

// doubt is what follows a run whose reply leaves its effect open. Where the
// answer named the run, that run is looked up at once (R6).
func (b *Bridge) doubt(ctx context.Context, e *occurrence, p *pair, f *Failure, took time.Duration) fate {
	if f.RunID == "" {
		return fate{kind: inDoubt}
	}
	log, found, err := b.Runner.RunLog(ctx, p.frozen.Place(), f.RunID)
	if err != nil || !found || log.Meta.Try != p.rec.Try {
		return fate{kind: inDoubt}
	}
	return b.weigh(ctx, e, p, log, took)
}

// weigh ends a running or unknown pair by the log of its own try (R3, R6).
func (b *Bridge) weigh(ctx context.Context, e *occurrence, p *pair, log RunLog, took time.Duration) fate {
	f := b.failureIn(p, log)
	switch {
	case f == nil:
		return b.conclude(ctx, e, p, p.succeeded(Reply{RunID: log.ID, Output: log.Output}, took, nil))
	case f.Kind == Permanent:
		return b.conclude(ctx, e, p, p.refused(f, took))
	case f.Kind == Unknown:
		return b.undecided(ctx, e, p, f)
	case p.rec.State != Running:
		return b.fromRecord(ctx, e, p)
	case p.exhausted(f):
		return b.conclude(ctx, e, p, p.refused(f.last(), took))
	default: // a log that proves that nothing happened
		wait := time.Second
		if p.handler != nil {
			wait = p.backoff(f)
		}
		if fate, ok := b.release(ctx, e, p, f, wait); !ok {
			return fate
		}
		return fate{kind: waits, delay: wait}
	}
}

// failureIn is why the run of a log did not succeed; nil if it did.
func (b *Bridge) failureIn(p *pair, log RunLog) *Failure {
	f := log.FailureOf(p.frozen.OneCall)
	if log.Succeeded {
		f = check(b.actionOf(p), Reply{RunID: log.ID, Output: log.Output})
	} else if f == nil {
		f = &Failure{Kind: Unknown, Reason: ReasonOutcomeUnknown, Message: "the run log holds an error without a type"}
	}
	if f != nil && f.RunID == "" {
		f.RunID = log.ID
	}
	return f
}

// shownBy is the outcome that a log shows of a pair which nobody runs any more.
// ends is false if it leaves the effect open, or proves that there was none.
func (b *Bridge) shownBy(p *pair, log RunLog) (rec Record, ends bool) {
	took := max(0, log.CreatedAt.Sub(p.rec.ClaimedAt))
	switch f := b.failureIn(p, log); {
	case f == nil:
		return p.succeeded(Reply{RunID: log.ID, Output: log.Output}, took, nil), true
	case f.Kind == Permanent:
		return p.refused(f, took), true
	}
	return Record{}, false
}

// undecided is a run of which nothing more will be learnt. An action that is
// safe to repeat, or a route that chose to, tries again, once for the route
// (R17); everything else is held for a person (guarantee 5).
func (b *Bridge) undecided(ctx context.Context, e *occurrence, p *pair, f *Failure) fate {
	h := p.handler
	if p.runsTheSame() && // another action's run would repeat nothing (R2)
		p.rec.State == Running && p.rec.Attempts < h.Retry.Attempts {
		chosen := h.OnUnknown == "retry" && p.rec.Unclear == 0
		if chosen || h.Action.Safe {
			step := &Failure{Kind: Temporary, Reason: ReasonOutcomeUnknown}
			wait := p.backoff(step)
			if fate, ok := b.release(ctx, e, p, step, wait); !ok {
				return fate
			}
			return fate{kind: waits, delay: wait}
		}
	}
	return b.conclude(ctx, e, p, p.unknown(f))
}

// actionOf is the catalog's entry for what a pair ran, even if its route has gone.
func (b *Bridge) actionOf(p *pair) *catalog.Action {
	if p.runsTheSame() {
		return p.handler.Action
	}
	if p.frozen.Call != "" {
		return catalog.Request("", p.frozen.Call)
	}
	a, _ := b.Catalog.Lookup(p.frozen.Action)
	return a
}

// runsTheSame says that the pair's route still runs what its record speaks of.
func (p *pair) runsTheSame() bool {
	return p.handler != nil && p.handler.Action != nil && actionName(p.handler.Action) == p.frozen.Action && p.handler.Action.Call == p.frozen.Call
}

func (p *pair) routeName() string {
	if p.handler != nil {
		return p.handler.Name
	}
	return p.route
}

// malformed stores what is no CloudEvent as a dead letter.
func (b *Bridge) malformed(ctx context.Context, d *Delivery, cause error) {
	route := ""
	if d.Pair != nil {
		route = d.Pair.Route
	}
	err := b.Outbox.Dead(ctx, DeadLetter{
		Original: d, Reason: ReasonMalformed, Message: cause.Error(),
		ID:    hash("malformed", d.Stream, strconv.FormatUint(d.Seq, 10), d.Stored.UTC().Format(time.RFC3339Nano), route, string(d.Data)),
		Route: route,
	})
	if err != nil {
		b.Observer.Trouble("cannot store a dead letter", "error", err)
		d.Settle.Nak(troubleDelay)
		return
	}
	b.Observer.Ended("_", "_", Failed, ReasonMalformed, b.Now().Sub(d.Stored))
	d.Settle.Ack()
}

const reusedMessage = "an event with this source and id, but another type, subject or data, was handled before"

// reused stores an event that came under an identity whose record speaks of
// other content (R2). The record, and its outcome, stay with the first.
func (b *Bridge) reused(ctx context.Context, e *occurrence, p *pair) fate {
	err := b.Outbox.Dead(ctx, DeadLetter{
		Original: e.d, Reason: ReasonIDReused, Message: reusedMessage,
		Key: p.key, ID: string(p.key) + "." + e.content, Route: p.route, Cause: &e.cause,
	})
	if err != nil {
		b.Observer.Trouble("cannot store a dead letter", "error", err)
		return fate{kind: again, delay: troubleDelay}
	}
	b.Observer.Ended(p.routeName(), p.action(), Failed, ReasonIDReused, b.Now().Sub(e.d.Stored))
	return fate{kind: ended}
}
