package bridge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/handlers"
)

// Requests is the bus' side of request and reply (rule R19).
type Requests interface {
	// Store puts the event of a request into the stream of events, together with where
	// its result is wanted. It returns once the stream has it. Errors:
	// cloudevent.ErrTooLarge; ErrUnclear when nobody can tell whether it was stored.
	Store(ctx context.Context, m cloudevent.Message, replyTo string) error
	// Reply sends a result to who asked. failure is why there is no output; nil if there is.
	Reply(to string, r Result, failure *ResultError) error
}

// Ask is one request for an action: its input, as data or as a CloudEvent.
type Ask struct {
	Action  string // its key
	Header  map[string][]string
	Data    []byte
	ReplyTo string
}

// Ask takes a request, answers it, and returns at once (rule R19). Every
// request gets one answer, which is a result event: at once if nothing can be
// done; once it has run, if the action is safe to repeat; any other is stored as
// an event first, goes the way of all events, and whoever ends it answers: that
// survives the end of the process that took it.
func (b *Bridge) Ask(ctx context.Context, a Ask) {
	select {
	case b.asked <- struct{}{}:
	default:
		b.refuse(a, ReasonNotReady, "too many requests are under way: ask again later")
		return
	}
	go func() {
		defer func() { <-b.asked }()
		defer func() { // R14
			if p := recover(); p != nil {
				b.Observer.Trouble("panic while handling a request", "action", a.Action, "stack", string(debug.Stack()))
				b.refuse(a, ReasonMalformed, "the program faults whenever it handles this request")
			}
		}()
		b.ask(ctx, a)
	}()
}

// Asked waits until every request that was taken is answered or stored, or ctx
// ends. None is taken after it.
func (b *Bridge) Asked(ctx context.Context) {
	for range cap(b.asked) {
		select {
		case b.asked <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
}

func (b *Bridge) ask(ctx context.Context, a Ask) {
	h, _ := b.routes().ByIdentity(handlers.CommandIdentity(a.Action))
	switch {
	case b.Draining():
		b.refuse(a, ReasonNotReady, "the bridge is stopping: ask again")
		return
	case h == nil:
		b.refuse(a, ReasonActionMissing, "requests are off: set BRIDGE_COMMANDS=true")
		return
	case h.Action == nil:
		_, err := h.Input(nil)
		b.refuse(a, ReasonActionMissing, err.Error())
		return
	case h.Problem != "" && h.Action.Safe: // any other is stored, and waits
		b.refuse(a, ReasonNotReady, h.Problem)
		return
	}
	if err := b.Ledger.Usable(); err != nil && !h.Action.Safe {
		b.refuse(a, ReasonNotReady, "nothing can be claimed right now: ask again later")
		return
	}
	m, named, err := b.requested(a)
	if err == nil && !named && !h.Action.Safe {
		err = fmt.Errorf("%s has an effect that must not be repeated: give the request an id, as a CloudEvent or in the header ce-id, and use the same one when asking again", a.Action)
	}
	if err != nil {
		b.refuse(a, ReasonMalformed, err.Error())
		return
	}
	e := b.newEvent(&Delivery{Header: m.Header, Data: m.Data, Stored: b.Now(), Reply: a.ReplyTo}, &m.Event)
	p := &pair{e: e, key: NewKey(e.hash, h.Identity, 0), route: h.Identity, handler: h}
	p.frozen, p.placeErr = freeze(h, e.view())
	p.routes = []Frozen{p.frozen}
	if e.cause.size() > maxCause {
		b.refuse(a, ReasonMalformed, fmt.Sprintf("its attributes are larger than %d KiB in all", maxCause>>10))
		return
	}
	patience, err := a.patience(b.RunLimit)
	if err != nil {
		b.refuse(a, ReasonMalformed, err.Error())
		return
	}
	input, err := b.input(p)
	late := func() bool { return false }
	switch {
	case err != nil: // nothing was accepted yet, so nothing needs to be recorded
		reason := inputReason(err)
		if reason == ReasonMapping {
			reason = ReasonMalformed // a command maps nothing: its data cannot be read
		}
		p.rec = p.failed(reason, err.Error(), nil)
	case h.Action.Safe:
		late = b.hurry(ctx, a, p, patience, false)
		p.rec = b.runAtOnce(ctx, p, input)
	default:
		if failed := b.storeRequest(ctx, a, m); failed != nil {
			p.rec = p.failed(failed.Reason, failed.Message, nil)
			break
		}
		b.hurry(ctx, a, p, patience, true)
		return // who ends it replies
	}
	p.rec.ConcludedAt = b.Now().UTC()
	b.Observer.Ended(p.routeName(), p.action(), p.rec.State, p.rec.Reason, b.Now().Sub(e.d.Stored))
	id := string(p.key) + "." + cmp.Or(p.rec.Try, newTry())
	if late() { // who asked may have gone by now
		if err := b.Outbox.Result(ctx, renamed(b.result(p), id)); err != nil {
			b.Observer.Trouble("the result of a request that was not waited for cannot be published", "action", p.action(), "error", err)
		}
	}
	b.reply(a.ReplyTo, p, id)
}

func (b *Bridge) storeRequest(ctx context.Context, a Ask, m cloudevent.Message) *Failure {
	err := b.Requests.Store(ctx, m, a.ReplyTo)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, cloudevent.ErrTooLarge):
		return &Failure{Reason: ReasonMalformed, Message: "the request is larger than the bus takes"}
	case errors.Is(err, ErrUnclear):
		return &Failure{Reason: ReasonNotReady, Message: "nobody can tell whether the request was stored: ask again with the same id"}
	default:
		return &Failure{Reason: ReasonNotReady, Message: "the request could not be stored: ask again with the same id"}
	}
}

// requested makes the event of a request, which is a command (see
// handlers.CommandType). What is no CloudEvent becomes one; an id and a source
// may stand in its headers. named is false if it has an id of our making.
func (b *Bridge) requested(a Ask) (m cloudevent.Message, named bool, err error) {
	want := handlers.CommandType + a.Action
	ev, err := cloudevent.FromNATS(a.Header, a.Data)
	if bad, ok := errors.AsType[*cloudevent.MalformedError](err); errors.Is(err, cloudevent.ErrNotCloudEvent) ||
		ok && bad.Attr == "specversion" && !hasHeader(a.Header, "ce-specversion") {
		header := maps.Clone(a.Header)
		if header == nil {
			header = map[string][]string{}
		}
		named = hasHeader(header, "ce-id")
		for name, value := range map[string]string{
			"ce-specversion": "1.0", "ce-type": want, "ce-source": b.source + "/requests", "ce-id": newTry(), "ce-datacontenttype": "application/json",
		} {
			if !hasHeader(header, name) {
				header[name] = []string{value}
			}
		}
		ev, err = cloudevent.FromNATS(header, a.Data)
		a.Header = header
	} else {
		named = true
	}
	if err != nil {
		return m, named, err
	}
	m = cloudevent.Message{Event: ev, Header: a.Header, Data: a.Data}
	switch has := ev.Type(); {
	case has == want:
	case strings.HasPrefix(has, handlers.CommandType):
		return m, named, fmt.Errorf("its type is %s, and it was sent to %s: one of the two is wrong", has, a.Action)
	default: // the subject says what is asked for
		m.Event.SetType(want)
		if m.Header, m.Data, err = cloudevent.ToNATS(&m.Event, cloudevent.Structured); err != nil {
			return m, named, err
		}
	}
	return m, named, nil
}

func hasHeader(header map[string][]string, name string) bool {
	for key, values := range header {
		if len(values) > 0 && strings.EqualFold(key, name) {
			return true
		}
	}
	return false
}

// runAtOnce runs an action that is safe to repeat, without a claim. Whatever
// holds it back is told to who asked, who knows best how long it is worth
// waiting.
func (b *Bridge) runAtOnce(ctx context.Context, p *pair, input map[string]any) Record {
	if p.expired(b.Now()) {
		return p.failed(ReasonExpired, "its time ran out before it could be run", nil)
	}
	pass, shut := b.gates.enter(p.frozen)
	if shut != nil {
		return p.failed(cmp.Or(shut.why, ReasonNotReady), "runs at this connection are held back, as those before it were refused: ask again later", nil)
	}
	slot, got := b.slots.take(p.frozen, b.draining, sendBy)
	switch got {
	case slotLater:
		pass.leave(false, nil)
		return p.failed(ReasonNotReady, "all runs that may be in flight are: ask again later", nil)
	case slotNever:
		pass.leave(false, nil)
		return p.failed(ReasonNotReady, "the bridge is stopping: ask again", nil)
	}
	claimed := b.Now()
	p.rec = p.base()
	p.rec.Try, p.rec.Attempts, p.rec.ClaimedAt = newTry(), 1, claimed.UTC()
	reply, failure, measured, took := b.run(ctx, p, pass, slot, input, claimed, claimed.Add(sendBy))
	b.Observer.Ran(p.handler.Name, p.action(), kindName(failure), took)
	switch {
	case failure == nil:
		return p.succeeded(reply, took, measured)
	case failure.Kind == Temporary:
		return p.refused(failure.last(), took)
	case failure.Kind == Permanent:
		return p.refused(failure, took)
	default: // an outage, or something to be mended
		held := *failure
		held.Reason = cmp.Or(held.Reason, ReasonNotReady)
		return p.refused(&held, took)
	}
}

// refuse answers a request that has no event, or is not looked at.
func (b *Bridge) refuse(a Ask, reason Reason, message string) {
	id := newTry()
	e := &occurrence{cause: Cause{Source: b.source + "/requests", ID: id, Type: handlers.CommandType + a.Action}}
	p := &pair{e: e, key: NewKey(EventHash(e.cause.Source, id), handlers.CommandIdentity(a.Action), 0), route: handlers.CommandIdentity(a.Action)}
	p.frozen = Frozen{Route: p.route, Name: handlers.CommandName, Action: a.Action}
	p.rec = p.failed(reason, message, nil)
	p.rec.ConcludedAt = b.Now().UTC()
	b.reply(a.ReplyTo, p, string(p.key))
}

// answer replies to the request that an event came with, if it did, once the
// pair that it asked for has ended.
func (b *Bridge) answer(e *occurrence, p *pair) {
	if e.d.Reply == "" || b.Requests == nil || p.replay != 0 {
		return
	}
	action, isCommand := strings.CutPrefix(e.cause.Type, handlers.CommandType)
	if !isCommand || p.route != handlers.CommandIdentity(action) {
		return
	}
	id, q := string(p.key), *p
	switch {
	case p.rec.Content != e.content: // R2
		q.rec = Record{}
		q.rec = q.failed(ReasonIDReused, reusedMessage, nil)
		q.rec.ConcludedAt = b.Now().UTC()
		id += "." + e.content
	case p.rec.State == UnknownSt: // no outcome yet, but all that there is for who waits
		q.rec.State = Failed
		id += "." + string(ReasonOutcomeUnknown)
	case !p.rec.State.Final():
		return
	}
	b.reply(e.d.Reply, &q, id)
}

// unanswered refuses the request of an event that no route takes.
func (b *Bridge) unanswered(e *occurrence) {
	if e.d.Reply == "" || b.Requests == nil {
		return
	}
	action := strings.TrimPrefix(e.cause.Type, handlers.CommandType)
	b.refuse(Ask{Action: action, ReplyTo: e.d.Reply}, ReasonActionMissing, "requests are off: set BRIDGE_COMMANDS=true")
}

func (b *Bridge) reply(to string, p *pair, id string) {
	r := renamed(b.result(p), id)
	var failure *ResultError
	if p.rec.State == Failed {
		failure = &ResultError{Reason: p.rec.Reason, Message: p.rec.Message, Retryable: retryable[p.rec.Reason]}
	}
	if err := b.Requests.Reply(to, r, failure); err != nil {
		b.Observer.Trouble("a request could not be answered", "action", p.action(), "error", err)
	}
}

// renamed is a result under another id.
func renamed(r Result, id string) Result {
	r.ID = id
	if i := slices.IndexFunc(r.Event.Attributes, func(a cloudevent.Attribute) bool { return a.Name == "id" }); i >= 0 {
		r.Event.Attributes[i].Value = id
	}
	return r
}
