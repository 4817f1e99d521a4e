package ledger

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge"
)

// Entries about what became unknown. Their subjects are longer than a record's,
// or begin with a word that is no hash, so that reading an event's records meets none.
//
//	receipt.<key>.<try>  a delivery receipt of that try (R15)
//	unknown.<key>        the record is unknown, or was about to be; evidence may still come (R6)
//	turn.<what>          somebody does this just now
const (
	receiptToken = "receipt"
	unknownToken = "unknown"
	turnToken    = "turn"
	// evidenceFor is how long evidence may come: 8x8's receipts end after 48 hours.
	evidenceFor = 48 * time.Hour
)

func (l *Ledger) receiptSubject(key bridge.Key, try string) string {
	return l.subject(receiptToken + "." + string(key) + "." + try)
}

// create stores an entry beside the records. One that is there stays, and is no error.
func (l *Ledger) create(ctx context.Context, key string, body []byte, ttl time.Duration) error {
	w := writes.Get().(*write)
	defer writes.Put(w)
	if _, err := l.put(ctx, w, key, body, 0, ttl); err != nil && !errors.Is(err, bridge.ErrConflict) {
		return err
	}
	return nil
}

// NoteReceipt implements bridge.Ledger.
func (l *Ledger) NoteReceipt(ctx context.Context, key bridge.Key, try string, r bridge.Receipt) error {
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	w := writes.Get().(*write)
	defer writes.Put(w)
	for rev := uint64(0); ; {
		_, err := l.put(ctx, w, receiptToken+"."+string(key)+"."+try, body, rev, l.o.Retention)
		if !errors.Is(err, bridge.ErrConflict) {
			return err
		}
		var was bridge.Receipt
		was, rev, err = l.receipt(ctx, key, try)
		if err != nil && !errors.Is(err, bridge.ErrNotFound) || err == nil && !r.After(was) {
			return err
		}
	}
}

// ReceiptOf implements bridge.Ledger.
func (l *Ledger) ReceiptOf(ctx context.Context, key bridge.Key, try string) (bridge.Receipt, error) {
	if try == "" {
		return bridge.Receipt{}, bridge.ErrNotFound
	}
	r, _, err := l.receipt(ctx, key, try)
	return r, err
}

// receipt reads a receipt and its revision.
func (l *Ledger) receipt(ctx context.Context, key bridge.Key, try string) (bridge.Receipt, uint64, error) {
	var r bridge.Receipt
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	m, err := l.stream.GetLastMsgForSubject(ctx, l.receiptSubject(key, try))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return r, 0, bridge.ErrNotFound
	}
	if err != nil {
		return r, 0, fmt.Errorf("read the ledger: %w", err)
	}
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return r, 0, fmt.Errorf("the ledger's receipt of %s cannot be read: %w", key, err)
	}
	return r, m.Sequence, nil
}

// noteUnknown puts a record on the list of Unknowns before it becomes unknown,
// so that none can be missing there whoever dies when.
func (l *Ledger) noteUnknown(ctx context.Context, key bridge.Key) error {
	if err := l.create(ctx, unknownToken+"."+string(key), nil, min(evidenceFor, l.o.Retention)); err != nil {
		return fmt.Errorf("the ledger cannot be written: %s", err.Error()) // not unclear: the record was not written
	}
	return nil
}

// Unknowns implements bridge.Ledger. The list is kept beside the records, so
// that it costs one question however many records there are.
func (l *Ledger) Unknowns(ctx context.Context) ([]bridge.Key, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	prefix := l.subject(unknownToken + ".")
	info, err := l.stream.Info(ctx, jetstream.WithSubjectFilter(prefix+">"))
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	keys := make([]bridge.Key, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		keys = append(keys, bridge.Key(strings.TrimPrefix(subject, prefix)))
	}
	return keys, nil
}

// Settled implements bridge.Ledger.
func (l *Ledger) Settled(ctx context.Context, key bridge.Key) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	if err := l.stream.Purge(ctx, jetstream.WithPurgeSubject(l.subject(unknownToken+"."+string(key)))); err != nil {
		return fmt.Errorf("the ledger cannot be written: %w", err)
	}
	return nil
}

// Turn implements bridge.Ledger. every is at least a second.
func (l *Ledger) Turn(ctx context.Context, what string, every time.Duration) (bool, error) {
	w := writes.Get().(*write)
	defer writes.Put(w)
	key := turnToken + "." + base64.RawURLEncoding.EncodeToString([]byte(what))
	switch _, err := l.put(ctx, w, key, nil, 0, max(every, time.Second)); {
	case err == nil:
		return true, nil
	case errors.Is(err, bridge.ErrConflict):
		return false, nil
	default:
		return false, err
	}
}
