package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/config"
)

// EventsSource is the source of everything that came in over HTTP or on our own subjects.
const EventsSource = "events"

// ledgerMetadata is where a durable says which ledger knows what it delivered (rule R12).
const ledgerMetadata = "bridge8x8-ledger"

// Start is where a durable consumer that has to be made begins.
type Start struct {
	All bool
	At  time.Time // unless All
}

// Durable is a durable consumer that is wanted on a stream.
type Durable struct {
	Name     string
	Stream   string   // see StreamIn
	Subjects []string // all if empty
	AckWait  time.Duration
	Ledger   string // the ledger's id
	// MaxAckPending is how many messages may be out at once; 0 is any number.
	MaxAckPending int
}

// FindDurable says whether a durable exists, and which ledger it names.
func (c *Conn) FindDurable(ctx context.Context, stream, name string) (exists bool, ledger string, err error) {
	js, _, own, err := c.place(stream)
	if err != nil {
		return false, "", fmt.Errorf("consumer %s of stream %s: %w", name, stream, err)
	}
	cons, err := js.Consumer(ctx, own, name)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		return false, "", nil
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return false, "", fmt.Errorf("stream %q does not exist%s", stream, c.didYouMean(ctx, stream))
	case err != nil:
		return false, "", fmt.Errorf("consumer %s of stream %s: %w", name, stream, err)
	}
	return true, cons.CachedInfo().Config.Metadata[ledgerMetadata], nil
}

func (c *Conn) didYouMean(ctx context.Context, stream string) string {
	if near := config.Nearest(stream, c.streamNames(ctx)); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ": make it, or correct sources[].nats.stream"
}

// EnsureDurable makes the consumer, or brings one that exists up to date
// without moving its place in the stream.
func (c *Conn) EnsureDurable(ctx context.Context, d Durable, start Start) error {
	cfg := jetstream.ConsumerConfig{
		Durable: d.Name, AckPolicy: jetstream.AckExplicitPolicy, AckWait: d.AckWait, MaxDeliver: -1, MaxAckPending: -1,
		MaxWaiting: 1024, Description: "bridge8x8",
		Metadata: map[string]string{ledgerMetadata: d.Ledger}, DeliverPolicy: jetstream.DeliverAllPolicy,
	}
	if d.MaxAckPending > 0 {
		cfg.MaxAckPending = d.MaxAckPending
	}
	switch len(d.Subjects) {
	case 0:
	case 1:
		cfg.FilterSubject = d.Subjects[0]
	default:
		cfg.FilterSubjects = d.Subjects
	}
	if !start.All {
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &start.At
	}
	js, _, stream, err := c.place(d.Stream)
	if err != nil {
		return fmt.Errorf("consumer %s of stream %s: %w", d.Name, d.Stream, err)
	}
	for second := false; ; second = true {
		cons, err := js.Consumer(ctx, stream, d.Name)
		if err == nil {
			have := cons.CachedInfo().Config
			cfg.DeliverPolicy, cfg.OptStartTime, cfg.OptStartSeq = have.DeliverPolicy, have.OptStartTime, have.OptStartSeq
			if have.AckWait == cfg.AckWait && have.FilterSubject == cfg.FilterSubject && slices.Equal(have.FilterSubjects, cfg.FilterSubjects) &&
				have.Metadata[ledgerMetadata] == d.Ledger && have.MaxAckPending == cfg.MaxAckPending {
				return nil
			}
		}
		found := err == nil
		_, err = js.CreateOrUpdateConsumer(ctx, stream, cfg)
		switch {
		case err == nil:
			return nil
		case !found && !second: // another replica may have been quicker, with a start that is its own
		default:
			return fmt.Errorf("consumer %s of stream %s: %w", d.Name, d.Stream, err)
		}
	}
}

// Waiting names the connections that pairs are set aside for, by their tokens.
func (c *Conn) Waiting(ctx context.Context, n Names) ([]string, error) {
	st, err := c.JS.Stream(ctx, n.Wait())
	if err != nil {
		return nil, err
	}
	info, err := st.Info(ctx, jetstream.WithSubjectFilter(n.prefix+".wait.>"))
	if err != nil {
		return nil, err
	}
	var tokens []string
	for subject := range info.State.Subjects {
		if parts := strings.Split(subject, "."); len(parts) > 2 && !slices.Contains(tokens, parts[2]) {
			tokens = append(tokens, parts[2])
		}
	}
	return tokens, nil
}

// ConnectionToken is the subject token that stands for a connection in BRIDGE_WAIT.
func ConnectionToken(name string) string { return connectionToken(name) }

// WaitDurable is the consumer of the pairs set aside for one connection, which is
// named by its token.
func (n Names) WaitDurable(connToken string, ackWait time.Duration, ledger string) Durable {
	return Durable{
		Name: n.prefix + "-wait-" + connToken, Stream: n.Wait(), AckWait: ackWait, Ledger: ledger,
		Subjects: []string{n.prefix + ".wait." + connToken + ".>"},
	}
}

// Unfold returns the Prepare of a taker of pairs set aside.
func (c *Conn) Unfold() func(*bridge.Delivery) error {
	return func(d *bridge.Delivery) error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return c.unfold(ctx, d)
	}
}

// Core stores what arrives on plain subjects in the stream of events, until it
// is closed. Replicas share the subjects through a queue group. A message is
// safe only once it is stored: lost is called for each that could not be.
func (c *Conn) Core(n Names, source string, subjects []string, lost func(error)) (func(), error) {
	var subs []*nats.Subscription
	closeAll := func() {
		for _, s := range subs {
			_ = s.Drain()
		}
	}
	for _, subject := range subjects {
		sub, err := c.NC.QueueSubscribe(subject, n.Durable(source), func(m *nats.Msg) {
			eventType := "core." + source
			if e, err := cloudevent.FromNATS(m.Header, m.Data); err == nil {
				eventType = e.Type()
			}
			wait, err := c.Publisher.Begin(n.EventSubject(eventType), original(m.Header), m.Data)
			if err != nil {
				lost(err)
				return
			}
			go func() {
				if _, err := wait(context.Background()); err != nil {
					lost(err)
				}
			}()
		})
		if err != nil {
			closeAll()
			return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
		}
		subs = append(subs, sub)
	}
	return closeAll, nil
}
