package bus

import (
	"context"
	"errors"
	"fmt"

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
	futures := make([]jetstream.PubAckFuture, 0, len(messages))
	for _, m := range messages {
		msg := &nats.Msg{Subject: i.Names.EventSubject(m.Event.Type()), Header: m.Header, Data: m.Data}
		if most := i.Conn.NC.MaxPayload(); most > 0 && int64(msg.Size()) > most {
			return cloudevent.ErrTooLarge
		}
		future, err := i.Conn.JS.PublishMsgAsync(msg)
		if err != nil {
			return storeError(err)
		}
		futures = append(futures, future)
	}
	for _, f := range futures {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			return storeError(err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func storeError(err error) error {
	if errors.Is(err, nats.ErrMaxPayload) {
		return cloudevent.ErrTooLarge
	}
	return fmt.Errorf("store the event: %w", err)
}
