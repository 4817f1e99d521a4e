package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge"
)

// Peek opens a ledger for reading only, and makes and mends nothing.
// Error: bridge.ErrNotFound if there is none.
func Peek(ctx context.Context, js jetstream.JetStream, prefix string) (*Ledger, error) {
	name := StreamName(prefix)
	st, err := js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("ledger stream %s: %w", name, bridge.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("ledger stream %s: %w", name, err)
	}
	return &Ledger{
		o: Options{JetStream: js, Prefix: prefix, Logger: slog.New(slog.DiscardHandler), Now: time.Now}, bucket: strings.ToUpper(prefix) + "_LEDGER",
		stream: st, sources: map[string]Source{},
	}, nil
}

// Find goes through all records for those of events with an id, whatever their
// source, and says how many entries it has read.
func (l *Ledger) Find(ctx context.Context, id string) (found []bridge.Entry, read int, err error) {
	cons, err := l.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{FilterSubjects: []string{l.subject("*.*")}})
	if err != nil {
		return nil, 0, fmt.Errorf("read the ledger: %w", err)
	}
	if cons.CachedInfo().NumPending == 0 {
		return nil, 0, nil
	}
	quoted, err := json.Marshal(id) // as every record has it
	if err != nil {
		return nil, 0, err
	}
	last, done := l.stream.CachedInfo().State.LastSeq, make(chan struct{})
	end := sync.OnceFunc(func() { close(done) })
	over := false
	consuming, err := cons.Consume(func(m jetstream.Msg) {
		meta, err := m.Metadata()
		if err != nil || over {
			return
		}
		read++
		if bytes.Contains(m.Data(), quoted) {
			e := bridge.Entry{Key: bridge.Key(strings.TrimPrefix(m.Subject(), l.subject(""))), Revision: meta.Sequence.Stream, StoredAt: meta.Timestamp}
			if json.Unmarshal(m.Data(), &e.Record) == nil && e.Record.Cause.ID == id && e.Record.State != "" {
				found = append(found, e)
			}
		}
		if meta.NumPending == 0 || meta.Sequence.Stream >= last {
			over = true
			end()
		}
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read the ledger: %w", err)
	}
	defer func() {
		consuming.Stop()
		<-consuming.Closed()
	}()
	select {
	case <-done:
		return found, read, nil
	case <-ctx.Done():
		consuming.Stop()
		<-consuming.Closed()
		return found, read, fmt.Errorf("read the ledger: %w", context.Cause(ctx))
	}
}
