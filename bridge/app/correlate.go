package app

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/ingress"
	"github.com/bridge8x8/bridge8x8/bridge/ledger"
	"github.com/bridge8x8/bridge8x8/bridge/native"
)

// message is what the ledger remembers of one message at 8x8: which run sent it,
// and what was said of it. It is written once for each status that is new, before
// its event is stored, and never when something is sent.
type message struct {
	// Key is that of the record of the run that sent it; "" if none is known.
	Key  bridge.Key `json:"key,omitempty"`
	Said []said     `json:"said"`
}

// said is one receipt. Posted again, it becomes the same event, with the outcome
// that it had then.
type said struct {
	ID      string `json:"id"` // of its event
	Channel string `json:"channel,omitempty"`
	// Outcome is that of the message at this channel, with all that was said before. With
	// a fallback there are several, each with its own end.
	Outcome native.Outcome `json:"outcome"`
	// At is when it came, where nothing was known that it could answer. What is still
	// not known long after the first such receipt is another system's message.
	At time.Time `json:"at,omitzero"`
}

const (
	// mostSaid bounds what is remembered of one message. No message has as many states.
	mostSaid = 64
	// earlyFor is for how long a receipt is refused that may be of something sent without
	// our reference, whose 8x8 ids are in a reply that is not there yet. 8x8 posts again
	// after 1, 10, 30 and 90 s: two of five posts at most are refused.
	earlyFor = 5 * time.Second
)

var errEarly = errors.New("a receipt came before the reply that would say what it is about")

// messageName is the note about a message.
func messageName(umid string) string { return "message." + bridge.NoteHash(umid) }

// correlate finds the event that caused what 8x8 says, and how far the message has
// come that a receipt speaks of. An error means that 8x8 has to come again.
func (a *App) correlate(ctx context.Context, e *event.Event) (ingress.Correlation, error) {
	l := a.ledger.Load()
	if l == nil {
		return ingress.Correlation{}, errors.New("the ledger is not open yet")
	}
	var entry bridge.Entry
	err := bridge.ErrNotFound
	if r, ok := native.ParseReceipt(e); ok {
		return a.receipt(ctx, l, e.ID(), r)
	} else if reply, ok := native.ParseReply(e); ok {
		entry, err = a.answered(ctx, l, reply)
	} else if about := e.Subject(); about != "" && (e.Type() == native.TypeSMSClicked || e.Type() == native.TypeSMSSurvey || strings.HasPrefix(e.Type(), native.PrefixVoice)) {
		entry, err = a.about(ctx, l, about)
	}
	if errors.Is(err, bridge.ErrNotFound) {
		return ingress.Correlation{}, nil
	}
	return correlation(&entry.Record), err
}

func correlation(rec *bridge.Record) ingress.Correlation {
	c := &rec.Cause
	return ingress.Correlation{
		CausationID: c.ID, CausationSource: c.Source, CorrelationID: c.Correlation(),
		TraceParent: c.TraceParent, TraceState: c.TraceState,
	}
}

// answered is the record of what an inbound message answers: the message that its
// writer chose, or else the last one to the number, if a route wants that.
func (a *App) answered(ctx context.Context, l *ledger.Ledger, reply native.Reply) (bridge.Entry, error) {
	if reply.UMID != "" {
		if entry, err := a.about(ctx, l, reply.UMID); !errors.Is(err, bridge.ErrNotFound) {
			return entry, err
		}
	}
	if !a.serving.Load().Replies() {
		return bridge.Entry{}, bridge.ErrNotFound
	}
	return a.bridge.LastSentTo(ctx, reply.From)
}

// about is the record of the run that sent what 8x8 knows by an id, as far as
// receipts or the run's output have told. Error: bridge.ErrNotFound.
func (a *App) about(ctx context.Context, l *ledger.Ledger, id string) (bridge.Entry, error) {
	m, _, err := readMessage(ctx, l, id)
	if err != nil {
		return bridge.Entry{}, err
	}
	if m.Key != "" {
		return l.Get(ctx, m.Key)
	}
	return a.bridge.Sent(ctx, id)
}

func readMessage(ctx context.Context, l *ledger.Ledger, umid string) (m message, rev uint64, err error) {
	body, rev, err := l.Note(ctx, messageName(umid))
	if err != nil || body == nil {
		return message{}, rev, err
	}
	if json.Unmarshal(body, &m) != nil {
		return message{}, rev, nil // nobody's that we know: a receipt must not be lost over it
	}
	return m, rev, nil
}

// receipt finds what a receipt answers, takes it for proof that it was sent (rule
// R15), and brings the message's outcome up to date.
func (a *App) receipt(ctx context.Context, l *ledger.Ledger, id string, r native.Receipt) (ingress.Correlation, error) {
	m, rev, err := readMessage(ctx, l, r.UMID)
	if err != nil {
		return ingress.Correlation{}, err
	}
	rec, key, err := a.causeOf(ctx, l, r, m.Key)
	found := err == nil
	if err != nil && !errors.Is(err, bridge.ErrNotFound) {
		return ingress.Correlation{}, err
	}
	now := time.Now().UTC()
	for {
		if i := slices.IndexFunc(m.Said, func(s said) bool { return s.ID == id }); i >= 0 {
			s := m.Said[i]
			if age := now.Sub(m.Said[0].At); !found && age >= 0 && age < earlyFor && a.mayComeEarly(r) {
				return ingress.Correlation{}, errEarly
			}
			c := correlation(&rec)
			c.Outcome = &s.Outcome
			return c, nil
		}
		if rev == 0 {
			if err := l.Crowded(); err != nil {
				return ingress.Correlation{}, err
			}
		}
		if m.add(id, r, now, found); found && m.Key == "" {
			m.Key = key
		}
		body, err := json.Marshal(m)
		if err != nil {
			return ingress.Correlation{}, err
		}
		_, err = l.PutNote(ctx, messageName(r.UMID), body, rev, 0)
		if err != nil && !errors.Is(err, bridge.ErrConflict) {
			return ingress.Correlation{}, err // it may be stored, and is the same when it comes again
		}
		if err == nil {
			continue
		}
		if m, rev, err = readMessage(ctx, l, r.UMID); err != nil { // another receipt came first
			return ingress.Correlation{}, err
		}
	}
}

// add says one thing more of a message. What was said so far is never taken back.
func (m *message) add(id string, r native.Receipt, now time.Time, found bool) {
	s := said{ID: id, Channel: r.Channel, Outcome: r.Outcome}
	if !found {
		s.At = now
	}
	for _, before := range slices.Backward(m.Said) {
		if before.Channel == r.Channel {
			s.Outcome = r.Outcome.After(before.Outcome)
			break
		}
	}
	if m.Said = append(m.Said, s); len(m.Said) > mostSaid {
		m.Said = m.Said[1:]
	}
}

// mayComeEarly says whether what a receipt answers may yet become known.
func (a *App) mayComeEarly(r native.Receipt) bool {
	_, _, ours := bridge.ParseReference(r.ClientMessageID)
	return !ours && a.serving.Load().Unreferenced()
}

// causeOf is the record of the run that a receipt answers. Error: bridge.ErrNotFound.
func (a *App) causeOf(ctx context.Context, l *ledger.Ledger, r native.Receipt, known bridge.Key) (bridge.Record, bridge.Key, error) {
	key, try, ok := bridge.ParseReference(r.ClientMessageID)
	if !ok {
		entry, err := l.ByBatch(ctx, r.ClientBatchID)
		if err == nil && bridge.BatchReference(entry.Key, entry.Record.Try) == r.ClientBatchID {
			try = entry.Record.Try
		}
		if errors.Is(err, bridge.ErrNotFound) && known != "" {
			entry, err = l.Get(ctx, known)
		} else if errors.Is(err, bridge.ErrNotFound) {
			if entry, err = a.bridge.Sent(ctx, r.UMID); errors.Is(err, bridge.ErrNotFound) {
				entry, err = a.bridge.Sent(ctx, r.BatchID)
			}
		}
		if err != nil {
			return bridge.Record{}, "", err
		}
		key = entry.Key
		if try == "" {
			return entry.Record, key, nil // it carries no try: no proof (rule R3)
		}
	}
	rec, err := a.bridge.Receipt(ctx, key, try, bridge.Receipt{
		UMID: r.UMID, BatchID: r.BatchID, State: r.State, At: r.Timestamp, Outcome: r.Outcome.State, Final: r.Outcome.Final,
	})
	return rec, key, err
}
