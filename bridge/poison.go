package bridge

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"sync"
)

// An event can take the whole process down: out of memory, a stack that
// overflows, a fault that no recover catches. It comes again, and the next
// process dies of it (rule R14). From its fourth delivery on, an event is
// therefore examined before it is handled: a mark is left beside the ledger's
// records, the event is decoded, matched and mapped to see whether that goes
// well, and the mark is taken away. A process that dies on the way leaves it.
//
// Deliveries alone prove nothing: an event also comes again because we handed
// it back, or because some process ended for other reasons. Nor does one mark:
// others were in hand when the process died, and somebody may have killed it.
// Who finds a mark examines the event alone, while nothing else is decoded,
// matched or mapped here, and says so in the mark. If that is found, it was
// this event twice, the second time alone: it is a dead letter, and is not
// decoded again.
const (
	suspectFrom = 4 // deliveries
	poisonFrom  = 2 // processes that ended over it
	// maxExamined is how many events found to be harmless are remembered, so that those
	// which come again often, such as pairs set aside, are examined once by each process.
	maxExamined = 50_000
)

// Mark says that an event is being examined.
type Mark struct {
	// Times is how many processes have begun to, each after the one before had ended
	// over it; 0: the event is not marked.
	Times int `json:"times"`
	// By is the process that marked it last.
	By string `json:"by"`
}

// examine says whether a delivery may be handled. If not, it has been settled.
func (b *Bridge) examine(ctx context.Context, d *Delivery) bool {
	id := markID(d)
	if b.examined.has(id) {
		return true
	}
	var found Mark
	var rev uint64
	for {
		next := Mark{Times: found.Times + 1, By: b.self}
		switch {
		case found.By == b.self: // we live: it did not end us
			next.Times = max(1, found.Times)
		case found.Times >= poisonFrom:
			b.poisoned(ctx, d, fmt.Errorf("the process that decoded and mapped it ended in the middle of that, %d times: it is not tried again", found.Times))
			return false
		}
		poison, err := b.examineAs(ctx, d, id, next, rev)
		if errors.Is(err, ErrConflict) {
			found, rev, err = b.Ledger.Marked(ctx, id)
			if err == nil {
				continue
			}
		}
		switch {
		case err != nil:
			b.Observer.Trouble("cannot mark an event that came often", "source", d.Source, "seq", d.Seq, "error", err)
			d.Settle.Nak(troubleDelay)
			return false
		case poison != nil:
			b.poisoned(ctx, d, poison)
			return false
		}
		b.examined.add(id)
		return true
	}
}

// examineAs marks the event, rehearses it and takes the mark away.
func (b *Bridge) examineAs(ctx context.Context, d *Delivery, id string, m Mark, rev uint64) (poison, err error) {
	if m.Times > 1 {
		b.care.enterAlone()
		defer b.care.leaveAlone()
	}
	if rev, err = b.accuse(ctx, id, m, rev); err != nil {
		return nil, err
	}
	if m.Times > 1 {
		poison = b.rehearse(ctx, d)
	} else {
		b.care.enter()
		poison = b.rehearse(ctx, d)
		b.care.leave()
	}
	for { // until it is gone, for what is left of it accuses the event
		if _, err = b.Ledger.Mark(ctx, id, Mark{}, rev); err == nil || errors.Is(err, ErrConflict) {
			return poison, nil // a conflict: taken away although nobody said so, or somebody else examines it
		}
		b.Observer.Trouble("cannot take the mark of an event away", "source", d.Source, "seq", d.Seq, "error", err)
		if !sleep(ctx, troubleDelay/4) {
			return poison, nil
		}
	}
}

// accuse leaves a mark. One without a clear answer is looked for, or fenced off: if
// it was stored all the same, it would accuse the event of ending us.
func (b *Bridge) accuse(ctx context.Context, id string, m Mark, rev uint64) (uint64, error) {
	at, err := b.Ledger.Mark(ctx, id, m, rev)
	for errors.Is(err, ErrUnclear) {
		found, now, lookErr := b.Ledger.Marked(ctx, id)
		switch {
		case lookErr == nil && now != rev && found == m:
			return now, nil
		case lookErr == nil && now != rev:
			return 0, ErrConflict
		case lookErr == nil:
			_, fenceErr := b.Ledger.Mark(ctx, id, Mark{}, rev) // a mark that is still on its way is refused then
			if fenceErr == nil {
				return 0, err
			}
		}
		if !sleep(ctx, troubleDelay/4) {
			return 0, err
		}
	}
	return at, err
}

// rehearse does everything with an event that could end the process, and
// nothing that anybody else could see. The error is a panic over the event as a
// whole; one over a route's share is that pair's: see input.
func (b *Bridge) rehearse(ctx context.Context, d *Delivery) (poison error) {
	defer func() {
		if p := recover(); p != nil {
			b.Observer.Trouble("panic while examining an event", "source", d.Source, "seq", d.Seq, "stack", string(debug.Stack()))
			poison = errors.New("the program faults whenever it decodes or matches it")
		}
	}()
	e, err := b.decode(d)
	if err != nil {
		return nil
	}
	pairs, err := b.known(ctx, e)
	if err != nil {
		return nil
	}
	if pairs == nil {
		pairs = b.match(e)
	}
	for _, p := range pairs {
		switch {
		case p.unsent():
			_, _ = b.makeInput(p)
		case p.polls():
			_, _ = p.handler.Then.Input(p.e.view(), p.rec.Output)
		}
	}
	return nil
}

// poisoned ends a delivery that is not to be decoded. A pair set aside has a
// record with all that its outcome needs.
func (b *Bridge) poisoned(ctx context.Context, d *Delivery, cause error) {
	if d.Pair == nil || d.Key == "" {
		b.malformed(ctx, d, cause)
		return
	}
	entry, err := b.Ledger.Get(ctx, d.Key)
	if errors.Is(err, ErrNotFound) {
		b.malformed(ctx, d, cause)
		return
	}
	if err != nil {
		b.Observer.Trouble("cannot read the ledger", "error", err)
		d.Settle.Nak(troubleDelay)
		return
	}
	e := &occurrence{d: d, hash: d.Key.Event(), content: entry.Record.Content, cause: entry.Record.Cause}
	p := &pair{e: e, key: d.Key, route: d.Pair.Route, replay: d.Pair.Replay, frozen: Frozen{Route: d.Pair.Route}} // and no handler: nothing is mapped
	p.adopt(entry)
	var f fate
	switch {
	case p.rec.Version > recordVersion:
		f = b.fromRecord(ctx, e, p)
	case p.rec.State == Waiting:
		f = b.conclude(ctx, e, p, p.failed(ReasonMalformed, cause.Error(), nil))
	case p.rec.State == Following:
		f = b.conclude(ctx, e, p, p.lost(cause.Error()))
	default:
		f = b.fromRecord(ctx, e, p)
	}
	b.settle(ctx, e, []*pair{p}, []fate{f})
}

// markID names one message, or one pair set aside.
func markID(d *Delivery) string {
	route, replay := "", 0
	if d.Pair != nil {
		route, replay = d.Pair.Route, d.Pair.Replay
	}
	return hash("suspect", d.Stream, strconv.FormatUint(d.Seq, 10), strconv.FormatInt(d.Stored.UnixNano(), 10), route, strconv.Itoa(replay))
}

// --- mapping with care ---------------------------------------------------------

// unsent says whether a pair's input would have to be made before it could end.
func (p *pair) unsent() bool {
	return p.handler != nil && (p.rec.State == "" || p.rec.State == Waiting)
}

// prepare makes the inputs of all pairs before any of them is claimed: one that
// takes the process down leaves none of the others half done (R14).
func (b *Bridge) prepare(pairs []*pair) {
	for _, p := range pairs {
		if !p.unsent() {
			continue
		}
		func() {
			defer func() { _ = recover() }() // it will happen again, to that pair alone
			m := b.makeAmong(p)
			p.made = &m
		}()
	}
}

// made is the input that was made of an event for a route.
type made struct {
	input map[string]any
	err   error
}

// input is the pair's input. It belongs to the caller.
func (b *Bridge) input(p *pair) (map[string]any, error) {
	if m := p.made; m != nil {
		p.made = nil // the caller may change it
		return m.input, m.err
	}
	m := b.makeAmong(p)
	return m.input, m.err
}

// What is done among others of its kind, and so never beside one that is
// examined alone. None of it asks for that again.

func (b *Bridge) decodeAmong(d *Delivery) (e *occurrence, err error) {
	b.care.enter()
	defer b.care.leave()
	return b.decode(d)
}

func (b *Bridge) matchAmong(e *occurrence) []*pair {
	b.care.enter()
	defer b.care.leave()
	return b.match(e)
}

func (b *Bridge) makeAmong(p *pair) (m made) {
	b.care.enter()
	defer b.care.leave()
	m.input, m.err = b.makeInput(p)
	return m
}

// makeInput maps and validates. A panic is for the guard of the event, who
// hands it back; if it has come often, it will be the same every time.
func (b *Bridge) makeInput(p *pair) (input map[string]any, err error) {
	if p.e.d.Deliveries >= suspectFrom {
		defer func() {
			if r := recover(); r != nil {
				b.Observer.Trouble("panic while mapping an event", "route", p.route, "seq", p.e.d.Seq, "stack", string(debug.Stack()))
				err = errors.New("the program faults whenever it makes the input of this event")
			}
		}()
	}
	b.Hook("mapping", p.key)
	return p.input()
}

// --- one alone, or any number together -------------------------------------------

// care lets either any number of events be decoded, matched and mapped, or one
// alone.
type care struct {
	mu      sync.Mutex
	changed sync.Cond
	inside  int
	alone   bool // one is inside alone, or waits until the others have left
}

func (c *care) init() { c.changed.L = &c.mu }

func (c *care) enter() {
	c.mu.Lock()
	for c.alone {
		c.changed.Wait()
	}
	c.inside++
	c.mu.Unlock()
}

func (c *care) leave() {
	c.mu.Lock()
	if c.inside--; c.inside == 0 && c.alone {
		c.changed.Broadcast()
	}
	c.mu.Unlock()
}

func (c *care) enterAlone() {
	c.mu.Lock()
	for c.alone {
		c.changed.Wait()
	}
	c.alone = true
	for c.inside > 0 {
		c.changed.Wait()
	}
	c.mu.Unlock()
}

func (c *care) leaveAlone() {
	c.mu.Lock()
	c.alone = false
	c.changed.Broadcast()
	c.mu.Unlock()
}

// harmless remembers events that were examined with the table of routes in use.
type harmless struct {
	mu  sync.Mutex
	ids map[string]struct{}
}

func (h *harmless) has(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.ids[id]
	return ok
}

func (h *harmless) add(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ids == nil || len(h.ids) >= maxExamined {
		h.ids = map[string]struct{}{}
	}
	h.ids[id] = struct{}{}
}

// forget is for a new table of routes.
func (h *harmless) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ids = nil
}
