package ledger

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge"
)

// Notes are entries beside the records, in which something is remembered that
// several processes change.
//
//	note.<name>  a note
//	hiding       the key of Hide
const (
	noteToken = "note"
	hidingKey = "hiding"
)

// Note implements bridge.Ledger.
func (l *Ledger) Note(ctx context.Context, name string) (body []byte, rev uint64, err error) {
	m, err := l.last(ctx, noteToken+"."+name)
	if errors.Is(err, bridge.ErrNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	return m.Data, m.Sequence, nil
}

// PutNote implements bridge.Ledger.
func (l *Ledger) PutNote(ctx context.Context, name string, body []byte, rev uint64, ttl time.Duration) (uint64, error) {
	if ttl <= 0 {
		ttl = l.o.Retention
	}
	w := writes.Get().(*write)
	defer writes.Put(w)
	return l.put(ctx, w, noteToken+"."+name, body, rev, max(ttl, time.Second))
}

// Crowded says why nothing new should be remembered of what others say, or nil.
func (l *Ledger) Crowded() error {
	if !l.crowded.Load() {
		return nil
	}
	return fmt.Errorf("the ledger is over %d %% full: what is left is kept for what is to be sent", int(crowdedShare*100))
}

// last reads the newest entry under a key. Error: bridge.ErrNotFound.
func (l *Ledger) last(ctx context.Context, key string) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	m, err := l.stream.GetLastMsgForSubject(ctx, l.subject(key))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, bridge.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	return m, nil
}

// Hide implements bridge.Ledger. Its key lies in the ledger itself, made by whoever
// needs it first: what it hides is hidden from all who see the names of entries,
// in lists, statistics and advisories, and not from those who may read them.
func (l *Ledger) Hide(ctx context.Context, text string) (string, error) {
	key, err := l.hidingKey(ctx)
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16]), nil
}

func (l *Ledger) hidingKey(ctx context.Context) ([]byte, error) {
	if key := l.hiding.Load(); key != nil {
		return *key, nil
	}
	for range 2 {
		m, err := l.last(ctx, hidingKey)
		if err == nil {
			l.hiding.Store(&m.Data)
			return m.Data, nil
		}
		if !errors.Is(err, bridge.ErrNotFound) {
			return nil, err
		}
		key := make([]byte, 32)
		_, _ = rand.Read(key)                                    // never fails: see crypto/rand
		if err := l.create(ctx, hidingKey, key, 0); err != nil { // another replica's stays, and is read
			return nil, err
		}
	}
	return nil, errors.New("the ledger's key to hide numbers with is written and cannot be read")
}
