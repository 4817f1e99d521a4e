package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"
)

// What 8x8 says leads back to the event that caused it by our own reference, and
// for that nothing has to be written when something is sent (rule R15). Only two
// things have: what was sent by an action that takes no reference is known by 8x8's
// ids in its output; and who answers a message names a phone number.

const (
	// lastSent is how many messages to a number are remembered: the newest may turn out
	// not to have been sent.
	lastSent = 3
	// recipientLimit is how long a send may be held up by remembering whom it goes to.
	recipientLimit = 2 * time.Second
)

// NoteHash makes a part of a note's name of an id that need not be hidden.
func NoteHash(id string) string { return hash(id) }

// sentName is the note that leads from an id of 8x8's to the record of the run
// that had it in its output.
func sentName(id string) string { return "sent." + hash(id) }

// ids are 8x8's ids of what a run sent.
func ids(output json.RawMessage) []string {
	var o struct {
		UMID      json.RawMessage `json:"umid"`
		BatchID   json.RawMessage `json:"batchId"`
		SessionID json.RawMessage `json:"sessionId"`
	}
	if json.Unmarshal(output, &o) != nil {
		return nil // not an object
	}
	var found []string
	for _, raw := range []json.RawMessage{o.UMID, o.BatchID, o.SessionID} {
		var id string
		if json.Unmarshal(raw, &id) == nil && id != "" {
			found = append(found, id)
		}
	}
	return found
}

// noteSent remembers what a run has sent without our reference, before its result
// is published.
func (b *Bridge) noteSent(ctx context.Context, p *pair) error {
	if a := b.actionOf(p); a != nil && !a.Unreferenced() {
		return nil
	}
	for _, id := range ids(p.rec.Output) {
		// Who had the id first is who sent it: a later output may speak of the same message.
		if _, err := b.Ledger.PutNote(ctx, sentName(id), []byte(p.key), 0, 0); err != nil && !errors.Is(err, ErrConflict) {
			return err
		}
	}
	return nil
}

// Sent finds the record of the run that sent what 8x8 knows by an id: a umid, the
// id of a batch, or that of a session. Error: ErrNotFound.
func (b *Bridge) Sent(ctx context.Context, id string) (Entry, error) {
	if id == "" {
		return Entry{}, ErrNotFound
	}
	body, _, err := b.Ledger.Note(ctx, sentName(id))
	if err != nil {
		return Entry{}, err
	}
	if body == nil {
		return Entry{}, ErrNotFound
	}
	return b.Ledger.Get(ctx, Key(body))
}

// recipient is the phone number that an input is for, in digits; "" if it names none.
func recipient(input map[string]any) string {
	number, _ := input["destination"].(string)
	if user, ok := input["user"].(map[string]any); ok && number == "" {
		number, _ = user["msisdn"].(string)
	}
	return strings.TrimPrefix(number, "+")
}

type lately struct {
	Keys []Key `json:"keys"` // newest first
}

// noteRecipient remembers that a run is about to send something to a number,
// before it does, so that no reply comes too early. Without it, a reply is not tied;
// nothing else depends on it.
func (b *Bridge) noteRecipient(ctx context.Context, p *pair, input map[string]any) {
	ctx, cancel := context.WithTimeout(ctx, recipientLimit)
	defer cancel()
	err := errors.New("its input names no phone number")
	if number := recipient(input); number != "" {
		err = b.rememberLast(ctx, number, p.key)
	}
	if err != nil {
		b.Observer.Trouble("replies will not be tied to what was sent", "route", p.route, "error", err)
	}
}

func (b *Bridge) rememberLast(ctx context.Context, number string, key Key) error {
	name, was, rev, err := b.lastTo(ctx, number)
	for err == nil {
		if len(was.Keys) > 0 && was.Keys[0] == key {
			return nil // another attempt
		}
		now := lately{Keys: append([]Key{key}, slices.DeleteFunc(was.Keys, func(k Key) bool { return k == key })...)}
		now.Keys = now.Keys[:min(len(now.Keys), lastSent)]
		body, failed := json.Marshal(now)
		if failed != nil {
			return failed
		}
		if _, err = b.Ledger.PutNote(ctx, name, body, rev, 0); !errors.Is(err, ErrConflict) {
			return err
		}
		_, was, rev, err = b.lastTo(ctx, number)
	}
	return err
}

func (b *Bridge) lastTo(ctx context.Context, number string) (name string, l lately, rev uint64, err error) {
	hidden, err := b.Ledger.Hide(ctx, number)
	if err != nil {
		return "", l, 0, err
	}
	name = "to." + hidden
	body, rev, err := b.Ledger.Note(ctx, name)
	if err == nil && body != nil {
		_ = json.Unmarshal(body, &l) // what cannot be read is written anew
	}
	return name, l, rev, err
}

// LastSentTo finds the record of what was sent last to a phone number, in digits,
// by a route that has its replies tied. Error: ErrNotFound.
func (b *Bridge) LastSentTo(ctx context.Context, number string) (Entry, error) {
	if number == "" {
		return Entry{}, ErrNotFound
	}
	_, l, _, err := b.lastTo(ctx, number)
	if err != nil {
		return Entry{}, err
	}
	for _, key := range l.Keys {
		entry, err := b.Ledger.Get(ctx, key)
		switch {
		case errors.Is(err, ErrNotFound):
		case err != nil:
			return Entry{}, err
		case entry.Record.State == Failed || entry.Record.State == Waiting: // it was not sent
		default:
			return entry, nil
		}
	}
	return Entry{}, ErrNotFound
}
