package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
)

// Intake stores what comes in over HTTP in the stream of events.
type Intake struct {
	Conn  *Conn
	Names Names
}

// Accept stores all messages and returns once the stream has each of them, or
// one of them failed; then some may be stored, and the sender should send all
// again. The error is cloudevent.ErrTooLarge for what the bus will never take.
func (i Intake) Accept(ctx context.Context, messages []cloudevent.Message) error {
	waits := make([]func(context.Context) (uint64, error), 0, len(messages))
	var failed error
	for _, m := range messages {
		if m.Once != "" {
			if m.Header = maps.Clone(m.Header); m.Header == nil {
				m.Header = map[string][]string{}
			}
			m.Header[jetstream.MsgIDHeader] = []string{m.Once}
		}
		subject := i.Names.EventSubject(m.Event.Type())
		size := (&nats.Msg{Subject: subject, Header: m.Header, Data: m.Data}).Size()
		if most := i.Conn.NC.MaxPayload(); most > 0 && int64(size) > most {
			failed = cloudevent.ErrTooLarge
			break
		}
		wait, err := i.Conn.Publisher.Begin(subject, m.Header, m.Data)
		if err != nil {
			failed = storeError(err)
			break
		}
		waits = append(waits, wait)
	}
	for _, wait := range waits {
		if _, err := wait(ctx); err != nil {
			failed = errors.Join(failed, storeError(err))
		}
	}
	return failed
}

func storeError(err error) error {
	if errors.Is(err, nats.ErrMaxPayload) {
		return cloudevent.ErrTooLarge
	}
	return fmt.Errorf("store the event: %w", err)
}
