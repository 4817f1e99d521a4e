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

// Source is what the ledger remembers of a source (rule R12).
type Source struct {
	// Since is when this ledger began to watch the source.
	Since time.Time `json:"since"`
	// From is the time from which on its events were to be taken: before Since where
	// the source began with a backlog. Events stored earlier are held.
	From time.Time `json:"from"`
}

func (l *Ledger) sourceSubject(name string) string {
	return l.subject(sourceToken + "." + base64.RawURLEncoding.EncodeToString([]byte(name)))
}

func (l *Ledger) loadSources(ctx context.Context) error {
	info, err := l.stream.Info(ctx, jetstream.WithSubjectFilter(l.subject(sourceToken+".*")))
	if err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	for subject := range info.State.Subjects {
		token := subject[strings.LastIndexByte(subject, '.')+1:]
		name, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil {
			return fmt.Errorf("the ledger's entry %s names no source", subject)
		}
		if _, err := l.readSource(ctx, string(name)); err != nil {
			return err
		}
	}
	return nil
}

func (l *Ledger) readSource(ctx context.Context, name string) (Source, error) {
	m, err := l.stream.GetLastMsgForSubject(ctx, l.sourceSubject(name))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Source{}, bridge.ErrNotFound
	}
	if err != nil {
		return Source{}, fmt.Errorf("read the ledger: %w", err)
	}
	var s Source
	if err := json.Unmarshal(m.Data, &s); err != nil {
		return Source{}, fmt.Errorf("the ledger's entry of source %q cannot be read: %w", name, err)
	}
	l.mu.Lock()
	l.sources[name] = s
	l.mu.Unlock()
	return s, nil
}

// Source returns what the ledger remembers of a source, and whether it does.
func (l *Ledger) Source(name string) (Source, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	s, ok := l.sources[name]
	return s, ok
}

// AddSource makes the ledger remember a source that it has not seen before.
// Who comes second gets what the first one stored.
func (l *Ledger) AddSource(ctx context.Context, name string, s Source) (Source, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return Source{}, err
	}
	_, err = l.o.JetStream.Publish(ctx, l.o.Target+l.sourceSubject(name), body, jetstream.WithExpectLastSequencePerSubject(0))
	if err != nil && !conflict(err) {
		return Source{}, fmt.Errorf("remember source %q: %w", name, err)
	}
	return l.readSource(ctx, name)
}

// Remembers implements bridge.Ledger.
func (l *Ledger) Remembers(source string, stored time.Time) bool {
	s, ok := l.Source(source)
	if !ok || stored.Before(s.From) {
		return false
	}
	if stored.Before(s.Since) {
		stored = s.Since // a backlog is new to everybody on the day it is first taken
	}
	return l.o.Now().Sub(stored) < time.Duration(float64(l.o.Retention)*forgetShare)
}

var _ bridge.Ledger = (*Ledger)(nil)
