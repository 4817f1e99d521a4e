package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/bridge8x8/bridge8x8/handlers"
)

// Evidence is what comes after everybody has stopped to wait: a delivery receipt
// from 8x8 (rule R15), or a run log that shows late (rule R6). It ends an unknown
// with its real outcome, whoever wrote it, and however long ago.
//
// Receipts and records meet whatever the order: a receipt is stored beside the
// record before the record is read; who makes an unknown of a record, or is
// about to repeat its run, reads the receipt after the record is written. So one
// of the two sees both.

// Receipt is what a delivery receipt tells of a send that nobody else knows the
// end of. Whatever state it reports, 8x8 has taken the message.
type Receipt struct {
	Version int       `json:"v,omitempty"`       // see Format; absent in those of old
	UMID    string    `json:"umid,omitempty"`    // 8x8's message id; of a batch: of one of its messages
	BatchID string    `json:"batchId,omitempty"` // of a batch only
	State   string    `json:"state,omitempty"`   // such as "delivered"
	Outcome string    `json:"outcome,omitempty"` // how far the message has come, in one word for all channels
	Final   bool      `json:"final,omitempty"`   // nothing but "read" follows
	At      time.Time `json:"at,omitzero"`       // of the state
}

// After says whether a receipt says more of its message than one that came
// before: the better of two states, of two that end it the first.
func (r Receipt) After(was Receipt) bool {
	const failed = 3 // after what only the operator has, before what the recipient has
	rank := func(r Receipt) int {
		switch i := slices.Index(handlers.ReceiptStates, r.Outcome); {
		case i < 0 && r.Final:
			return failed
		case i >= slices.Index(handlers.ReceiptStates, "delivered"):
			return failed + 1 + i
		default:
			return 1 + i
		}
	}
	return rank(was) != failed && rank(r) > rank(was)
}

// receiptMessage is what a record says that a receipt has ended.
const receiptMessage = "a delivery receipt of 8x8 shows that it was sent"

// output is what is known of the output that nobody received.
func (r Receipt) output() json.RawMessage {
	var known any = struct {
		UMID string `json:"umid,omitempty"`
	}{r.UMID}
	if r.BatchID != "" {
		known = struct {
			BatchID string `json:"batchId"`
		}{r.BatchID}
	}
	body, _ := json.Marshal(known) // never fails for these
	return body
}

// proven is the record of a pair that a receipt shows to have been sent.
func (p *pair) proven(r Receipt) Record {
	took := time.Duration(0)
	if !r.At.IsZero() {
		took = max(0, r.At.Sub(p.rec.ClaimedAt))
	}
	rec := p.succeeded(Reply{RunID: p.rec.RunID, Output: r.output()}, took, nil)
	rec.Message = receiptMessage
	rec.NotBefore, rec.Why = time.Time{}, ""
	return rec
}

// Receipt takes a delivery receipt that carries a try of a record's (rule R15),
// and returns the record that it belongs to, as it then is. A receipt of another
// try than the record's newest is no evidence (rule R3). An error means that the
// receipt must come again; ErrNotFound, that there is no such record.
func (b *Bridge) Receipt(ctx context.Context, key Key, try string, r Receipt) (Record, error) {
	entry, err := b.Ledger.Get(ctx, key)
	if err != nil {
		return Record{}, err
	}
	if try == "" || entry.Record.Try != try {
		return entry.Record, nil
	}
	if !entry.Record.State.Final() { // its own key first, then the record (R15)
		if err := b.Ledger.NoteReceipt(ctx, key, try, r); err != nil {
			return entry.Record, err
		}
		b.Hook("receipt noted", key)
		if entry, err = b.Ledger.Get(ctx, key); err != nil {
			return Record{}, err
		}
	}
	rec := &entry.Record
	switch {
	case rec.Version > recordVersion: // a newer bridge finds the receipt
	case rec.Try != try: // a newer try was chosen meanwhile: nothing follows for that one (R3)
	case rec.State == Running: // its owner has the reply soon, or the reconciler reads the receipt
	case rec.State == UnknownSt, rec.State == Waiting: // R6: what waits to be repeated must not be
		p := b.recall(entry)
		return p.rec, b.overturn(ctx, p, p.proven(r))
	case rec.State == Following:
		return b.receiptFollowed(ctx, entry)
	case rec.Overturned && !rec.Published: // who overturned it may have died before it could say so
		p := b.recall(entry)
		return p.rec, b.proclaim(ctx, p)
	}
	return *rec, nil
}

// receipt looks for one with the pair's try.
func (b *Bridge) receipt(ctx context.Context, p *pair) (r Receipt, found bool, err error) {
	r, err = b.Ledger.ReceiptOf(ctx, p.key, p.rec.Try)
	if errors.Is(err, ErrNotFound) {
		return Receipt{}, false, nil
	}
	if err != nil {
		b.Observer.Trouble("cannot look for a receipt", "error", err)
	}
	return r, err == nil, err
}

// byReceipt ends the pair if there is a receipt with its try. ok is false if
// there is none, and fate again if nobody can tell (R15).
func (b *Bridge) byReceipt(ctx context.Context, e *occurrence, p *pair) (f fate, ok bool) {
	r, found, err := b.receipt(ctx, p)
	switch {
	case err != nil:
		return fate{kind: again, delay: troubleDelay}, true
	case !found:
		return fate{}, false
	}
	return b.conclude(ctx, e, p, p.proven(r)), true
}

// recall makes a pair of a record alone, whose event is not at hand.
func (b *Bridge) recall(entry Entry) *pair {
	rec := entry.Record
	e := &occurrence{
		d:    &Delivery{Stored: rec.ClaimedAt},
		hash: entry.Key.Event(), content: rec.Content, cause: rec.Cause, recalled: true,
		view: sync.OnceValue(func() *handlers.View {
			ev := event.New()
			ev.SetType(rec.Cause.Type)
			return handlers.NewViewRaw(&ev, rec.Cause.Source, rec.Cause.ID)
		}),
	}
	p := &pair{
		e: e, key: entry.Key, route: rec.Route, replay: rec.Replay, frozen: rec.frozen(), routes: rec.Routes,
		rec: rec, rev: entry.Revision, storedAt: entry.StoredAt,
	}
	p.handler, _ = b.routes().ByIdentity(rec.Route)
	return p
}

// overturn ends a recalled pair by evidence, and tells everybody (R6).
func (b *Bridge) overturn(ctx context.Context, p *pair, rec Record) error {
	if rec.State == Following {
		return b.followLate(ctx, p, rec)
	}
	if err := b.original(ctx, p, rec.State); err != nil {
		return err
	}
	if f := b.conclude(ctx, p.e, p, rec); f.kind == again {
		return errEvidence
	}
	return nil
}

// proclaim publishes an outcome that was overturned by somebody who may not have
// come to it.
func (b *Bridge) proclaim(ctx context.Context, p *pair) error {
	if p.rec.State == Failed {
		switch found, err := b.regain(ctx, p); {
		case err != nil:
			return err
		case !found && p.rec.Follow != nil: // its own message will, and has the event: see resume
			return b.Ledger.Settled(ctx, p.key)
		}
	}
	if f := b.finish(ctx, p.e, p); f.kind == again {
		return errEvidence
	}
	return nil
}

var errEvidence = errors.New("an outcome that became known cannot be recorded or published just now")

// original gets the event of a recalled pair back from its dead letter, where a
// new letter will need it, or the shape of its result.
func (b *Bridge) original(ctx context.Context, p *pair, end State) error {
	wanted := end == Failed
	if !wanted && p.handler != nil && p.rec.State == UnknownSt {
		_, wanted = p.handler.ShapesResult(true)
	}
	if !wanted {
		return nil
	}
	_, err := b.regain(ctx, p) // if there is none, a person has it: a letter about it is nobody's business any more
	return err
}

// regain gets the event of a recalled pair from the letter that holds it.
func (b *Bridge) regain(ctx context.Context, p *pair) (found bool, err error) {
	d, err := b.Outbox.Held(ctx, p.key, p.route)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read a dead letter: %w", err)
	}
	if d.Stored.IsZero() {
		d.Stored = p.e.d.Stored
	}
	p.e.d, p.e.recalled = d, false
	if e, err := b.decode(d); err == nil && e.content == p.e.content {
		p.e.view, p.e.whole = e.view, true
	}
	return true, nil
}

// --- late run logs -------------------------------------------------------------

// sweepEvery is how often a process looks whether an unknown is due for another
// look at the run logs. Each is looked for when it is this old, and whenever it
// has become twice as old since: some fifteen looks in two days. The ledger says
// for how long (see Ledger.Unknowns).
const (
	sweepEvery  = 15 * time.Second
	sweepMost   = maxDoubts
	sweepTurn   = 10 * time.Second // less than sweepEvery, so that nobody is in its own way
	sweepDirect = 100              // runs fetched by their id in one look, at most
	sweepPlaces = 8                // looked at together: one that does not answer holds up none of the others
)

// sweeper looks for late evidence of unknowns, of this process and of any other,
// also of those that died long ago (rule R6). Where there are several replicas,
// one of them looks each time.
type sweeper struct {
	b      *Bridge
	mu     sync.Mutex // held by the looks of a round, who change known
	known  map[Key]*swept
	loaded bool // once at least
}

// swept is one unknown that is looked for.
type swept struct {
	entry Entry
	since time.Time // when it became unknown
	next  time.Time
	// inherited says that it was there before this process, which has not looked for it
	// yet: who had the turn may have died over it.
	inherited bool
}

func (b *Bridge) sweep(ctx context.Context) {
	s := &sweeper{b: b, known: map[Key]*swept{}}
	for {
		s.guarded(func() { s.round(ctx) })
		if !sleep(ctx, sweepEvery) {
			return
		}
	}
}

// guarded keeps a fault over one unknown from ending the process (R14).
func (s *sweeper) guarded(do func()) {
	var f fate
	defer s.b.guard(&Delivery{}, &f)
	do()
}

// round brings the list of unknowns up to date and looks for those that are due,
// with one listing for each place.
func (s *sweeper) round(ctx context.Context) {
	b := s.b
	if err := s.load(ctx); err != nil {
		if ctx.Err() == nil {
			b.Observer.Trouble("cannot look for what is unknown", "error", err)
		}
		return
	}
	now := b.Now()
	due := map[Place][]*swept{}
	for _, u := range s.known {
		if !now.Before(u.next) {
			at := u.entry.Record.frozen().Place()
			due[at] = append(due[at], u)
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	places := make(chan struct{}, sweepPlaces)
	for at, some := range due {
		if ctx.Err() != nil {
			return
		}
		ours, err := b.Ledger.Turn(ctx, "sweep."+hash(at.Tenant, at.ConnectionID, at.ConnectionKey), sweepTurn)
		if err != nil {
			b.Observer.Trouble("cannot look for what is unknown", "error", err)
			return
		}
		for _, u := range some {
			if !ours && u.inherited {
				u.next = now.Add(sweepEvery)
				continue
			}
			u.inherited, u.next = false, now.Add(max(sweepEvery, now.Sub(u.since)))
		}
		if ours {
			places <- struct{}{}
			wg.Go(func() {
				defer func() { <-places }()
				s.guarded(func() { s.lookAt(ctx, at, some) })
			})
		}
	}
}

// load reads the records of unknowns that are new here, and drops those that are
// none any more.
func (s *sweeper) load(ctx context.Context) error {
	b := s.b
	keys, err := b.Ledger.Unknowns(ctx)
	if err != nil {
		return err
	}
	have := make(map[Key]bool, len(keys))
	for _, k := range keys {
		have[k] = true
		if s.known[k] != nil || len(s.known) >= sweepMost {
			continue
		}
		entry, err := b.Ledger.Get(ctx, k)
		if errors.Is(err, ErrNotFound) {
			continue // about to be written, or forgotten
		}
		if err != nil {
			return err
		}
		switch rec := &entry.Record; {
		case rec.Version > recordVersion:
		case rec.State == UnknownSt:
			s.known[k] = &swept{entry: entry, since: entry.StoredAt, next: entry.StoredAt.Add(sweepEvery), inherited: !s.loaded}
		case rec.happened():
			s.tell(ctx, entry)
		}
	}
	for k := range s.known {
		if !have[k] {
			delete(s.known, k)
		}
	}
	s.loaded = true
	return nil
}

// tell sees to it that the outcome of what was unknown is published: who
// overturned it may have died before it could.
func (s *sweeper) tell(ctx context.Context, entry Entry) {
	var err error
	switch p := s.b.recall(entry); {
	case p.rec.State == Following:
		err = s.b.resumeAgain(ctx, entry)
	case p.rec.Overturned && !p.rec.Published:
		err = s.b.proclaim(ctx, p)
	default:
		err = s.b.Ledger.Settled(ctx, entry.Key)
	}
	if err != nil {
		s.b.Observer.Trouble("cannot publish an outcome that became known", "error", err)
	}
}

// lookAt lists one place for all that is due there.
func (s *sweeper) lookAt(ctx context.Context, at Place, due []*swept) {
	b := s.b
	wanted := make(map[string]Key, len(due))
	since := b.Now()
	for _, u := range due {
		wanted[u.entry.Record.Try] = u.entry.Key
		if claimed := u.entry.Record.ClaimedAt; claimed.Before(since) {
			since = claimed
		}
	}
	found, err := b.logsOf(ctx, at, since, wanted)
	if err != nil && ctx.Err() == nil {
		b.Observer.Trouble("cannot list run logs", "error", err)
	}
	direct := sweepDirect
	for _, u := range due {
		log, ok := found[u.entry.Record.Try]
		if id := u.entry.Record.RunID; !ok && id != "" && direct > 0 {
			direct--
			log, ok, err = b.Runner.RunLog(ctx, at, id)
			ok = ok && err == nil && log.Meta.Try == u.entry.Record.Try && log.Meta.Key == string(u.entry.Key)
		}
		s.guarded(func() { s.judge(ctx, u, log, ok) })
	}
}

// judge ends an unknown by its run log, or by a receipt that nobody was there to
// read. A log that leaves the effect open says nothing new. One that shows that
// nothing happened does not send it again: it is with a person, who may have.
func (s *sweeper) judge(ctx context.Context, u *swept, log RunLog, ok bool) {
	b := s.b
	p := b.recall(u.entry)
	var rec Record
	if ok {
		rec, ok = b.shownBy(p, log)
	}
	if !ok {
		r, found, err := b.receipt(ctx, p)
		if err != nil || !found {
			return
		}
		rec = p.proven(r)
	}
	if err := b.overturn(ctx, p, rec); err != nil {
		b.Observer.Trouble("cannot end what was unknown", "error", err)
		u.next = b.Now().Add(sweepEvery)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, u.entry.Key)
}
