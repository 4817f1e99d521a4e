package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/types"

	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/handlers"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// Handle carries one delivery from its arrival to its end:
//
//	take → decode → ledger first → match → map + validate → gate → claim → run → record → publish → ack
//
// The first half is here, the share of each route in pair. ctx ends when the
// process stops: nothing new is started then, and what was sent is seen through.
func (b *Bridge) Handle(ctx context.Context, d *Delivery) {
	var fault fate
	defer func() { // a fault in the handling of one event is that event's, not the process's (R14)
		if fault.kind == again {
			d.Settle.Nak(fault.delay)
		}
	}()
	defer b.guard(d, &fault)

	// take
	if d.Pair == nil {
		b.Observer.Taken(d.Source)
	}

	// poison is not decoded (R14)
	if d.Deliveries >= suspectFrom && !b.examine(ctx, d) {
		return
	}

	// decode
	e, err := b.decodeAmong(d)
	if err != nil {
		b.malformed(ctx, d, err)
		return
	}

	// ledger first: what was claimed before is finished from its records (R1, R2)
	pairs, err := b.known(ctx, e)
	if err != nil {
		b.Observer.Trouble("cannot read the ledger", "error", err)
		d.Settle.Nak(troubleDelay)
		return
	}

	// match
	if pairs == nil {
		if pairs = b.matchAmong(e); len(pairs) == 0 {
			b.Observer.Unrouted(d.Source)
			b.unanswered(e)
			d.Settle.Ack()
			return
		}
	}

	// map + validate → gate → claim → run → record → publish, for each route
	fates := make([]fate, len(pairs))
	if len(pairs) == 1 {
		fates[0] = b.pair(ctx, e, pairs[0])
	} else {
		b.prepare(pairs)
		var wg sync.WaitGroup
		for i, p := range pairs {
			wg.Go(func() { fates[i] = b.pair(ctx, e, p) })
		}
		wg.Wait()
	}

	// ack, once every pair has ended or is set aside (R10)
	b.settle(ctx, e, pairs, fates)
}

// pair takes one route's share of an event as far as it can go now.
func (b *Bridge) pair(ctx context.Context, e *occurrence, p *pair) (f fate) {
	defer b.guard(e.d, &f)
	decision := e.d.decision()
	if decision != nil { // R11
		if f, done := b.decide(ctx, e, p); done {
			return f
		}
	}
	for !b.Draining() {
		// ledger first (R1)
		switch {
		case p.rec.Version > recordVersion:
			return fate{kind: again, delay: newerDelay} // a newer bridge's: leave it to one
		case p.rec.State != "" && p.rec.Content != e.content:
			return b.reused(ctx, e, p)
		case p.rec.State.Final() || p.rec.State == UnknownSt:
			return b.finish(ctx, e, p)
		case p.rec.State == Running:
			return fate{kind: inDoubt}
		case p.rec.State == Following:
			return b.follow(ctx, e, p)
		case p.rec.NotBefore.After(b.Now()):
			return fate{kind: waits, delay: p.rec.NotBefore.Sub(b.Now())}
		}

		// a receipt may have shown that what is to be repeated was sent after all (R15, R17)
		if p.rec.State == Waiting && p.rec.Why == ReasonOutcomeUnknown {
			if f, ok := b.byReceipt(ctx, e, p); ok {
				return f
			}
		}

		// without a record where there should be one, or stored before anybody
		// remembers: it may have been sent already (R12)
		if p.rec.State == "" && decision == nil && (e.d.Pair != nil || !b.Ledger.Remembers(e.d.Source, e.d.Stored)) {
			return b.conclude(ctx, e, p, p.failed(ReasonUnledgered, "stored before the ledger's memory begins: it may have been sent already", nil))
		}
		if p.handler == nil {
			return b.conclude(ctx, e, p, p.failed(ReasonRouteRemoved, fmt.Sprintf("route %q is no longer in the configuration", p.route), nil))
		}
		if p.expired(b.Now()) {
			return b.conclude(ctx, e, p, p.failed(ReasonExpired, "its time ran out before it could be sent", nil))
		}
		if p.handler.Problem != "" { // about the route, not the event: it waits until that is mended (R8)
			return b.park(ctx, e, p, &shut{why: ReasonNotReady, delay: mendDelay})
		}

		// map + validate
		input, err := b.input(p)
		if err != nil {
			return b.conclude(ctx, e, p, p.failed(inputReason(err), err.Error(), nil))
		}

		// a route's at_most, counted when its event is first met
		if p.handler.AtMost != nil && p.rec.State == "" && p.replay == 0 {
			ok, err := b.within(ctx, p)
			if err != nil {
				b.Observer.Trouble("cannot count what at_most allows", "route", p.route, "error", err)
				return fate{kind: again, delay: troubleDelay}
			}
			if !ok {
				return b.conclude(ctx, e, p, p.failed(ReasonOverLimit, p.handler.AtMost.String(), nil))
			}
		}

		// gate (R9), and a slot among the runs in flight
		pass, held := b.gates.enter(p.frozen)
		if held != nil {
			return b.park(ctx, e, p, held)
		}
		limit := time.Duration(0)
		if (e.d.Pair == nil || p.frozen.Tenant != "") && b.slots.isShared() {
			limit = slotPatience // whoever takes it takes those of other connections, or tenants, too (R10)
		}
		slot, got := b.slots.take(p.frozen, b.draining, limit)
		if got != slotTaken {
			pass.leave(false, nil)
			if got == slotLater {
				return b.park(ctx, e, p, &shut{why: WhyBusy, delay: b.slots.later(p.frozen)})
			}
			return fate{kind: again}
		}

		// claim (R3, R4, R5)
		claimed := b.Now()
		deadline := claimed.Add(sendBy)
		if f, ok := b.claim(ctx, p, claimed, deadline); !ok {
			pass.leave(false, nil)
			slot.free(false)
			if f.kind == none {
				continue // somebody else has it: finish from the record
			}
			return f
		}
		b.Hook("claimed", p.key)

		// run
		reply, failure, measured, took := b.run(ctx, p, pass, slot, input, claimed, deadline)
		b.Observer.Ran(p.handler.Name, p.action(), kindName(failure), took)
		b.Hook("ran", p.key)

		// record → publish
		switch {
		case failure == nil:
			b.witnesses.saw(p.frozen.Place(), reply.RunID, b.Now())
			return b.conclude(ctx, e, p, p.succeeded(reply, took, measured))
		case failure.Kind == Permanent:
			return b.conclude(ctx, e, p, p.refused(failure, took))
		case failure.Kind == Unknown:
			return b.doubt(ctx, e, p, failure, took)
		case p.exhausted(failure):
			return b.conclude(ctx, e, p, p.refused(failure.last(), took))
		default: // it did not happen: it waits for its next attempt, or for the gate
			wait := p.backoff(failure)
			if f, ok := b.release(ctx, e, p, failure, wait); !ok {
				return f
			}
			b.Observer.Waits(p.handler.Name, p.rec.Why)
			if failure.tooLate() {
				continue // we were too slow ourselves (R5): nothing to wait for
			}
			return fate{kind: waits, delay: wait}
		}
	}
	return fate{kind: again}
}

// guard makes of a fault in the handling of one event a message that comes
// again (R14). It is for defer.
func (b *Bridge) guard(d *Delivery, f *fate) {
	if p := recover(); p != nil {
		b.Observer.Trouble("panic while handling an event", "source", d.Source, "seq", d.Seq, "stack", string(debug.Stack()))
		*f = fate{kind: again, delay: time.Minute}
	}
}

// settle ends our having a delivery: pairs that cannot end now are set aside
// first, and if even that cannot be stored the message comes again.
func (b *Bridge) settle(ctx context.Context, e *occurrence, pairs []*pair, fates []fate) {
	d := e.d
	for i, f := range fates {
		if f.kind == ended {
			b.answer(e, pairs[i])
		}
	}
	if d.Pair != nil && d.Pair.Decision == nil { // one pair, set aside before: it waits where it is
		switch f := fates[0]; f.kind {
		case ended:
			d.Settle.Ack()
		case inDoubt:
			b.doubts.take(e, pairs[0])
		default:
			d.Settle.Nak(f.delay)
		}
		return
	}
	delay, back := time.Duration(0), false
	for i, f := range fates {
		switch f.kind {
		case ended:
		case waits, inDoubt:
			p := pairs[i]
			if err := b.Outbox.SetAside(ctx, d, Pair{Route: p.route, Replay: p.replay}, p.key, p.waitsFor()); err != nil {
				b.Observer.Trouble("cannot set a pair aside", "route", p.route, "error", err)
				back, delay = true, max(delay, troubleDelay)
			}
		default:
			back, delay = true, max(delay, f.delay)
		}
	}
	if back {
		d.Settle.Nak(delay)
		return
	}
	b.Hook("ack", "")
	d.Settle.Ack()
}

// fate is how far a pair has come.
type fate struct {
	kind  fateKind
	delay time.Duration // for waits and again
}

type fateKind int

const (
	none    fateKind = iota // not decided
	ended                   // its outcome is recorded and published
	waits                   // nothing has left; it may go on after delay
	inDoubt                 // a request may have left: the reconciler's
	again                   // something of ours is in trouble; the message comes again after delay
)

// occurrence is one event in hand, decoded once.
type occurrence struct {
	d       *Delivery
	event   *cloudevent.Event
	hash    string
	content string
	cause   Cause
	expires time.Time // the expirytime extension; zero if none
	view    func() *handlers.View
	// recalled says that only the record was at hand, not the event itself.
	recalled bool
	// whole says that view shows the event with its data.
	whole bool
}

// decode reads the event of a delivery. One whose attributes no record could
// hold is refused here: it would come again for ever (guarantee 2).
func (b *Bridge) decode(d *Delivery) (*occurrence, error) {
	if d.Broken != nil {
		return nil, d.Broken
	}
	decoded, err := cloudevent.FromNATS(d.Header, d.Data)
	if err != nil {
		return nil, err
	}
	e := b.newEvent(d, &decoded)
	if e.cause.size() > maxCause {
		return nil, fmt.Errorf("its attributes are larger than %d KiB in all", maxCause>>10)
	}
	return e, nil
}

func (b *Bridge) newEvent(d *Delivery, ev *cloudevent.Event) *occurrence {
	e := &occurrence{d: d, event: ev, hash: EventHash(ev.RawSource, ev.RawID), content: contentHash(ev), cause: newCause(ev), whole: true}
	if v, ok := ev.Extensions()["expirytime"]; ok {
		if t, err := types.ToTime(v); err == nil {
			e.expires = t
		}
	}
	e.view = sync.OnceValue(func() *handlers.View { return handlers.NewViewRaw(&ev.Event, ev.RawSource, ev.RawID) })
	return e
}

// pair is one route's share of an event, and its record as last read or written.
type pair struct {
	key     Key
	route   string // identity
	replay  int
	handler *handlers.Handler // nil if the route has gone
	frozen  Frozen
	routes  []Frozen
	rec     Record
	rev     uint64
	// storedAt is the server's time of the revision that was read; zero for one that we wrote.
	storedAt time.Time
	e        *occurrence
	placeErr error
	made     *made  // its input, if that was made beforehand
	per      string // what the route's at_most counts by, made with the input
}

// known finds what the ledger already knows of an event: the routes that
// matched when it was first claimed, whatever the table says now (R2). It
// returns nil for an event that nobody has claimed.
func (b *Bridge) known(ctx context.Context, e *occurrence) ([]*pair, error) {
	if p := e.d.Pair; p != nil {
		key := NewKey(e.hash, p.Route, p.Replay)
		entry, err := b.Ledger.Get(ctx, key)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		return []*pair{b.pairOf(e, p.Route, p.Replay, entry)}, nil
	}
	if !e.d.Redelivered {
		return nil, nil // its claim will tell: a create that finds a record is refused
	}
	entries, err := b.Ledger.Event(ctx, e.hash)
	if err != nil {
		return nil, err
	}
	return b.frozenPairs(e, entries), nil
}

// frozenPairs are the pairs that an event's records speak of; nil if there are none.
func (b *Bridge) frozenPairs(e *occurrence, entries []Entry) []*pair {
	var pairs []*pair
	have := map[string]bool{}
	for _, entry := range entries {
		if entry.Record.Replay != 0 {
			continue // a replay has its own message
		}
		have[entry.Record.Route] = true
		pairs = append(pairs, b.pairOf(e, entry.Record.Route, 0, entry))
	}
	for _, entry := range entries {
		if entry.Record.Replay != 0 {
			continue
		}
		for _, f := range entry.Record.Routes {
			if have[f.Route] {
				continue // claimed, or about to be
			}
			have[f.Route] = true
			p := b.pairOf(e, f.Route, 0, Entry{})
			p.routes = entry.Record.Routes
			if p.handler == nil {
				p.frozen = f
			}
			pairs = append(pairs, p)
		}
	}
	return pairs
}

func (b *Bridge) pairOf(e *occurrence, route string, replay int, entry Entry) *pair {
	p := &pair{e: e, key: NewKey(e.hash, route, replay), route: route, replay: replay, frozen: Frozen{Route: route}}
	p.handler, _ = b.routes().ByIdentity(route)
	p.adopt(entry)
	return p
}

// adopt makes a record that was read the pair's own, with the routes that were
// frozen in it. What may have been sent went where it was sent; what was not
// goes where the configuration says now (R2).
func (p *pair) adopt(entry Entry) {
	p.rec, p.rev, p.storedAt = entry.Record, entry.Revision, entry.StoredAt
	if len(p.rec.Routes) > 0 {
		p.routes = p.rec.Routes
	}
	switch unsent := p.rec.State == "" || p.rec.State == Waiting; {
	case unsent && p.handler != nil:
		p.frozen, p.placeErr = freeze(p.handler, p.e.view())
	case len(p.rec.Routes) > 0:
		p.frozen = p.rec.frozen()
	}
}

// match makes a pair for each route that takes the event.
func (b *Bridge) match(e *occurrence) []*pair {
	table := b.routes()
	if table == nil {
		return nil
	}
	matched := table.Match(e.view())
	if len(matched) == 0 {
		return nil
	}
	pairs := make([]*pair, len(matched))
	frozen := make([]Frozen, len(matched))
	for i, h := range matched {
		p := &pair{e: e, key: NewKey(e.hash, h.Identity, 0), route: h.Identity, handler: h, routes: frozen}
		p.frozen, p.placeErr = freeze(h, e.view())
		frozen[i] = p.frozen
		pairs[i] = p
	}
	return pairs
}

func freeze(h *handlers.Handler, v *handlers.View) (Frozen, error) {
	place, err := h.Place(v)
	f := Frozen{Route: h.Identity, Connection: place.Connection, ConnID: place.ConnectionID, ConnKey: place.ConnectionKey, Tenant: place.Tenant}
	if h.Name != h.Identity {
		f.Name = h.Name
	}
	if h.Action != nil {
		f.Action, f.OneCall, f.Call = actionName(h.Action), h.Action.OneCall, h.Action.Call
	} else if missing, ok := errors.AsType[*handlers.ActionMissingError](err); ok {
		f.Action = missing.Key
	}
	return f, err
}

// inputReason is why an event gives no input.
func inputReason(err error) Reason {
	if _, ok := errors.AsType[*catalog.InputError](err); ok {
		return ReasonInvalidInput
	}
	if _, ok := errors.AsType[*handlers.ActionMissingError](err); ok {
		return ReasonActionMissing
	}
	return ReasonMapping
}

func actionName(a *catalog.Action) string {
	if a.Key != "" {
		return a.Key
	}
	return a.ID
}

func (p *pair) action() string { return p.frozen.Action }

func (p *pair) expired(now time.Time) bool {
	if p.replay != 0 {
		return false // a person chose to send it now
	}
	if !p.e.expires.IsZero() && now.After(p.e.expires) {
		return true
	}
	return p.handler.TTL > 0 && now.After(p.e.d.Stored.Add(p.handler.TTL))
}

func (p *pair) input() (map[string]any, error) {
	if p.placeErr != nil {
		return nil, p.placeErr
	}
	input, err := p.handler.Input(p.e.view())
	if err == nil && p.handler.AtMost != nil {
		p.per, err = p.handler.AtMost.By(p.e.view())
	}
	return input, err
}

// refer puts our reference into the input (R3, R15), and counts its texts'
// parts. A batch names its messages one by one where it lists them; where it
// has one text for a list of numbers, its own short reference is all there is,
// and the ledger notes what that stands for.
func (b *Bridge) refer(ctx context.Context, p *pair, input map[string]any) *catalog.SMS {
	a := p.handler.Action
	if p.handler.Replies {
		b.noteRecipient(ctx, p, input)
	}
	reference := Reference(p.key, p.rec.Try)
	switch a.Reference {
	case catalog.ClientMessageID:
		input[string(a.Reference)] = reference
	case catalog.ClientBatchID:
		short := BatchReference(p.key, p.rec.Try)
		input[string(a.Reference)] = short
		messages, listed := input["messages"].([]any)
		indexed := false
		if listed {
			messages = slices.Clone(messages) // an input may share its parts with the event
			for i, m := range messages {
				m, ok := m.(map[string]any)
				switch {
				case !ok:
				case m["clientMessageId"] != nil:
					indexed = true // its receipt has the short reference alone
				default:
					m = maps.Clone(m)
					m["clientMessageId"] = reference + "#" + strconv.Itoa(i)
					messages[i] = m
				}
			}
			input["messages"] = messages
		}
		if indexed || len(messages) == 0 {
			if err := b.Ledger.Batch(ctx, short, p.key); err != nil {
				b.Observer.Trouble("the receipts of a batch will not be tied to its event", "route", p.route, "error", err)
			}
		}
	}
	if a.Measure == nil {
		return nil
	}
	return a.Measure(input)
}

// run makes the request. The pass and the slot are given back whatever happens.
func (b *Bridge) run(ctx context.Context, p *pair, pass pass, slot slot, input map[string]any, claimed, deadline time.Time) (reply Reply, failure *Failure, measured *catalog.SMS, took time.Duration) {
	ran := false
	defer func() {
		pass.leave(ran, failure)
		slot.free(ran)
	}()
	measured = b.refer(ctx, p, input)
	reply, err := b.Runner.Run(ctx, Request{
		Place: p.frozen.Place(), ActionKey: p.handler.Action.Key, ActionID: p.handler.Action.ID, Inline: p.handler.Action.Call != "",
		OneCall: p.handler.Action.OneCall, ProxyForwards: p.handler.ProxyForwards, Input: input, SendBy: deadline,
		Meta: Meta{Bridge: b.Name, Source: p.e.cause.Source, EventID: p.e.cause.ID, Route: p.route, Key: string(p.key), Try: p.rec.Try, Attempt: p.rec.Attempts},
	})
	took = b.Now().Sub(claimed)
	failure, ran = p.verdict(reply, err), true
	return reply, failure, measured, took
}

// exhausted says whether a failure was that of the pair's last attempt.
func (p *pair) exhausted(f *Failure) bool {
	return f.Kind == Temporary && p.handler != nil && p.rec.Attempts >= p.handler.Retry.Attempts
}

// last is the failure after which there is no other attempt.
func (f *Failure) last() *Failure {
	c := *f
	c.Reason, c.Message = ReasonAttemptsExhausted, "the last of its attempts failed: "+f.Message
	return &c
}

// verdict reads a reply: a 200 is a success only if the action's check says so (R8).
func (p *pair) verdict(reply Reply, err error) *Failure {
	return verdictOf(p.handler.Action, reply, err)
}

func verdictOf(a *catalog.Action, reply Reply, err error) *Failure {
	f := AsFailure(err)
	if err == nil {
		f = check(a, reply)
	}
	if f != nil && f.Kind == Unknown && a.Safe {
		f.Kind, f.Reason = Temporary, "" // repeating it is harmless, so doubt is not a problem
	}
	return f
}

func check(a *catalog.Action, reply Reply) *Failure {
	if a == nil || a.Check == nil {
		return nil
	}
	v := a.Check(reply.Output)
	switch {
	case v.OK:
		return nil
	case v.Status != 0:
		kind, reason := OfVendor(v.Status)
		return &Failure{Kind: kind, Reason: reason, Message: v.Message, RetryAfter: v.RetryAfter, RunID: reply.RunID, Details: v.Details}
	case v.Unclear:
		return &Failure{Kind: Unknown, Reason: ReasonOutcomeUnknown, Message: "the output says neither yes nor no: " + v.Message, RunID: reply.RunID, Details: v.Details}
	default:
		return &Failure{Kind: Permanent, Reason: ReasonRejected, Message: v.Message, RunID: reply.RunID, Details: v.Details}
	}
}

// backoff is how long a failed pair waits: for as long as the service asked,
// or on the route's schedule with full jitter above half of each step.
func (p *pair) backoff(f *Failure) time.Duration {
	if f.Kind != Temporary {
		return max(f.RetryAfter, time.Second)
	}
	r := p.handler.Retry
	step := r.Initial
	for range p.rec.Attempts - 1 {
		if step *= 2; step >= r.Max {
			step = r.Max
			break
		}
	}
	step = max(step, time.Millisecond)
	return max(f.RetryAfter, step/2+rand.N(step/2+1))
}

func kindName(f *Failure) string {
	if f == nil {
		return "ok"
	}
	return f.Kind.String()
}

// --- what a record becomes ---------------------------------------------------

// base is the pair's record with what every revision of it carries, and
// nothing of an outcome that it may have had.
func (p *pair) base() Record {
	was := &p.rec
	r := Record{
		Version: plainVersion, Content: p.e.content, Cause: p.e.cause, Route: p.route, Replay: p.replay, Routes: p.routes,
		Try: was.Try, Attempts: was.Attempts, ClaimedAt: was.ClaimedAt, NotBefore: was.NotBefore, Why: was.Why, Unclear: was.Unclear,
	}
	if i := slices.IndexFunc(r.Routes, func(f Frozen) bool { return f.Route == p.route }); i < 0 {
		r.Routes = append(slices.Clone(r.Routes), p.frozen)
	} else if r.Routes[i] != p.frozen {
		r.Routes = slices.Clone(r.Routes)
		r.Routes[i] = p.frozen
	}
	return r
}

func (p *pair) failed(reason Reason, message string, details map[string]any) Record {
	r := p.base()
	r.State, r.Reason, r.Message, r.Details = Failed, reason, message, details
	return r
}

func (p *pair) refused(f *Failure, took time.Duration) Record {
	reason := f.Reason
	if reason == "" {
		reason = ReasonRejected
	}
	r := p.failed(reason, f.Message, f.Details)
	r.RunID, r.DurationMs = f.RunID, took.Milliseconds()
	return r
}

func (p *pair) succeeded(reply Reply, took time.Duration, sms *catalog.SMS) Record {
	r := p.base()
	r.State, r.RunID, r.DurationMs, r.SMS = Succeeded, reply.RunID, took.Milliseconds(), sms
	r.Output, r.OutputTruncated = cut(reply.Output)
	return p.begun(r)
}

// cut keeps an output that fits and replaces one that does not: half a JSON
// value is none, and the run's id leads to the whole of it (R13).
func cut(output json.RawMessage) (json.RawMessage, bool) {
	if len(output) <= maxOutput {
		return output, false
	}
	return nil, true
}

func (p *pair) unknown(f *Failure) Record {
	r := p.base()
	r.State, r.Reason, r.RunID, r.Message, r.Details = UnknownSt, ReasonOutcomeUnknown, f.RunID, f.Message, f.Details
	return r
}
