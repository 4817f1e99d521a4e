package bridge

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Decision is what a person decided about a dead letter: to replay it, or to
// give up on it (rule R11). It comes as a pair whose replay number is the
// letter's plus one, so that all who decide about the same letter speak of the
// same record, and one of them wins: the event is sent once, or discarded once.
//
// A letter is removed before its event may be sent. So who saw it at Asked saw
// it before anything was sent, and a record that does not exist less than the
// ledger's memory after that was never there (rule R12).
type Decision struct {
	Discard bool `json:"discard,omitempty"`
	// Reason is the letter's; Action and Connection are what it ran, as far as it says.
	Reason     Reason `json:"reason"`
	Action     string `json:"action,omitempty"`
	Connection string `json:"connection,omitempty"`
	// Unclear counts the runs before this one that may have had an effect.
	Unclear int `json:"unclear,omitempty"`
	// Letters are the sequences in BRIDGE_DEAD of the letters that this answers: one,
	// or more where one was stored again after the server's window for duplicates.
	Letters []uint64 `json:"letters"`
	// Asked is when they were last seen, by the server's clock.
	Asked time.Time `json:"asked"`
}

// lookAgain is how soon a replay comes again whose evidence could not be asked for.
const lookAgain = 10 * time.Second

// decide does what a person decided about a dead letter. done is false if its
// event is now to be sent like any other.
func (b *Bridge) decide(ctx context.Context, e *occurrence, p *pair) (f fate, done bool) {
	d := e.d.Pair.Decision
	first := p.rec.State == "" // nobody has answered the letter before
	before := b.pairOf(e, p.route, p.replay-1, Entry{})
	what := goOn
	if first {
		if what, f = b.standing(ctx, e, before, d); what == later {
			return f, true
		}
		p.rec.Unclear = d.Unclear
		if p.handler == nil { // what it ran is known from before
			p.frozen = Frozen{Route: p.route, Action: d.Action, Connection: d.Connection}
			if before.rec.State != "" {
				p.frozen = before.frozen
			}
		}
	}
	if err := b.Outbox.Remove(ctx, before.key, d.Letters); err != nil {
		b.Observer.Trouble("cannot remove a dead letter", "route", p.route, "error", err)
		return fate{kind: again, delay: troubleDelay}, true
	}
	b.Hook("letters removed", p.key)
	switch {
	case what == moot:
		return fate{kind: ended}, true
	case what == anothers:
		return b.reused(ctx, e, p), true
	case first && d.Discard:
		f = b.conclude(ctx, e, p, p.failed(ReasonDiscarded, "a person gave up on it", nil))
	case d.Discard && p.rec.State.Final() && p.rec.Content == e.content:
		f = b.finish(ctx, e, p)
	case d.Discard: // somebody replays it: that has its own message
		return fate{kind: ended}, true
	case first && (what == forgotten || !b.Ledger.Remembers(e.d.Source, d.Asked)):
		return b.conclude(ctx, e, p, p.failed(ReasonUnledgered, "the ledger no longer knows what became of its dead letter: it may have been sent already", nil)), true
	default:
		return fate{}, false
	}
	if f.kind == waits || f.kind == inDoubt { // somebody replays it
		f = fate{kind: ended}
	}
	return f, true
}

// standing is what the record that a letter is about says by now.
type standing int

const (
	goOn      standing = iota // nothing speaks against it
	moot                      // the outcome is known by now: there is nothing to decide any more
	forgotten                 // it was unknown, and the ledger does not know it any more
	anothers                  // another event came under the same identity meanwhile
	later                     // cannot be told just now
)

// standing reads the record before a decision, and of an outcome that is still
// unknown looks once more for evidence.
func (b *Bridge) standing(ctx context.Context, e *occurrence, before *pair, d *Decision) (standing, fate) {
	if err := b.reread(ctx, before); err != nil {
		b.Observer.Trouble("cannot read the ledger", "error", err)
		return later, fate{kind: again, delay: troubleDelay}
	}
	rec := &before.rec
	switch {
	case rec.Version > recordVersion:
		return later, fate{kind: again, delay: time.Minute}
	case rec.State == "" && d.Reason == ReasonOutcomeUnknown && !d.Discard:
		return forgotten, fate{}
	case rec.State == "":
		return goOn, fate{}
	case rec.Content != e.content && !d.Discard:
		return anothers, fate{}
	case rec.Content != e.content:
		return goOn, fate{}
	case rec.State == Succeeded || rec.State == Failed && d.Reason == ReasonOutcomeUnknown:
		if f := b.finish(ctx, e, before); f.kind != ended {
			return later, f
		}
		return moot, fate{}
	case rec.State == Failed:
		return goOn, fate{}
	case rec.State == Following: // it is known to have happened: the event goes on with what it awaits
		return b.carryOn(ctx, e, before)
	case rec.State != UnknownSt: // its event came again, and is under way
		return later, fate{kind: again, delay: lookAgain}
	}
	if !d.Discard {
		if what, f := b.lookOnce(ctx, e, before); what != goOn {
			return what, f
		}
	}
	if !rec.Decided { // nobody waits for it any more: evidence still counts, but it may expire
		marked := before.rec
		marked.Decided = true
		if _, err := b.Ledger.Put(ctx, before.key, marked, before.rev); err != nil {
			if !errors.Is(err, ErrConflict) {
				b.Observer.Trouble("cannot write to the ledger", "error", err)
			}
			return later, fate{kind: again, delay: time.Second}
		}
	}
	return goOn, fate{}
}

// lookOnce looks for evidence of an unknown outcome. What it finds becomes that
// record's outcome, and nothing is replayed; where it cannot look, the replay waits.
func (b *Bridge) lookOnce(ctx context.Context, e *occurrence, before *pair) (standing, fate) {
	log, found, err := b.looks.find(ctx, b.Runner, before)
	switch {
	case err != nil:
		b.Observer.Trouble("cannot list run logs", "error", err)
		return later, fate{kind: again, delay: lookAgain}
	case !found:
		return goOn, fate{}
	}
	rec, ends := b.shownBy(before, log)
	if !ends {
		return goOn, fate{}
	}
	switch f := b.conclude(ctx, e, before, rec); {
	case f.kind == waits && before.rec.State == Following:
		return b.carryOn(ctx, e, before)
	case f.kind != ended:
		return later, f
	}
	return moot, fate{}
}

// carryOn sets the event of a letter aside for what its pair awaits.
func (b *Bridge) carryOn(ctx context.Context, e *occurrence, before *pair) (standing, fate) {
	d := *e.d
	d.Pair = nil
	if err := b.Outbox.SetAside(ctx, &d, Pair{Route: before.route, Replay: before.replay}, before.key, before.waitsFor()); err != nil {
		b.Observer.Trouble("cannot set a pair aside", "route", before.route, "error", err)
		return later, fate{kind: again, delay: troubleDelay}
	}
	return moot, fate{}
}

// looks asks for the run logs of a place with one listing for all who ask while
// the one before is under way: a thousand replays cost a few listings.
type looks struct {
	mu   sync.Mutex
	last map[Place]*look
}

// look is one listing.
type look struct {
	begun bool
	since time.Time
	tries map[string]RunLog // those asked for; without an ID where there is no log
	done  chan struct{}
	err   error
}

// find finds the log of a pair's try. found is false if a complete listing has none.
func (l *looks) find(ctx context.Context, runner Runner, p *pair) (log RunLog, found bool, err error) {
	at, try := p.frozen.Place(), p.rec.Try
	if id := p.rec.RunID; id != "" {
		if log, found, err := runner.RunLog(ctx, at, id); err == nil && found && log.Meta.Try == try && log.Meta.Key == string(p.key) {
			return log, true, nil
		}
	}
	l.mu.Lock()
	if l.last == nil {
		l.last = map[Place]*look{}
	}
	one := l.last[at]
	if one == nil || one.begun {
		previous := one
		one = &look{since: p.rec.ClaimedAt, tries: map[string]RunLog{}, done: make(chan struct{})}
		l.last[at] = one
		go l.list(ctx, runner, at, one, previous)
	}
	one.tries[try] = RunLog{}
	if p.rec.ClaimedAt.Before(one.since) {
		one.since = p.rec.ClaimedAt
	}
	l.mu.Unlock()
	select {
	case <-one.done:
	case <-ctx.Done():
		return RunLog{}, false, ctx.Err()
	}
	log = one.tries[try]
	return log, log.ID != "" && log.Meta.Key == string(p.key), one.err
}

// list makes one listing, after the one before it.
func (l *looks) list(ctx context.Context, runner Runner, at Place, one, previous *look) {
	defer close(one.done)
	if previous != nil {
		<-previous.done
	}
	l.mu.Lock()
	one.begun = true
	l.mu.Unlock()
	one.err = runner.RunLogs(ctx, at, one.since.Add(-listBefore), func(log RunLog) {
		if was, wanted := one.tries[log.Meta.Try]; wanted && !was.Succeeded { // R3
			one.tries[log.Meta.Try] = log
		}
	})
	l.mu.Lock()
	if l.last[at] == one {
		delete(l.last, at)
	}
	l.mu.Unlock()
}
