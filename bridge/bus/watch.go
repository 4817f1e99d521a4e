package bus

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Watched is a message seen in passing; nothing is acknowledged.
type Watched struct {
	Subject string
	Header  map[string][]string
	Data    []byte
}

// Watch calls each for every message that a stream stores on the subjects from
// now on, one after the other, until the function it returns is called.
func (c *Conn) Watch(ctx context.Context, stream string, subjects []string, each func(Watched)) (func(), error) {
	cons, err := c.JS.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{
		FilterSubjects: subjects, DeliverPolicy: jetstream.DeliverNewPolicy,
	})
	if err != nil {
		return nil, fmt.Errorf("watch stream %s: %w", stream, err)
	}
	consuming, err := cons.Consume(func(m jetstream.Msg) {
		each(Watched{Subject: m.Subject(), Header: m.Headers(), Data: m.Data()})
	})
	if err != nil {
		return nil, fmt.Errorf("watch stream %s: %w", stream, err)
	}
	return consuming.Stop, nil
}

// FromEightByEight is what matches the subjects of every event that 8x8 sends.
func (n Names) FromEightByEight() string { return n.prefix + ".events.com.8x8.>" }

// AllEvents is what matches the subjects of everything that comes in.
func (n Names) AllEvents() string { return n.prefix + ".events.>" }

// AllResults is what matches the subjects of every result.
func (n Names) AllResults() string { return n.prefix + ".results.>" }

// AllDead is what matches the subjects of every dead letter.
func (n Names) AllDead() string { return n.prefix + ".dead.>" }
