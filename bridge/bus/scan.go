package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge"
)

// Stored is a message as a stream keeps it.
type Stored struct {
	Watched
	Seq uint64
	At  time.Time // by the server's clock
}

// Scanned says what a scan went through.
type Scanned struct {
	Stream   string
	Messages uint64        // read
	From, To time.Time     // of the first and last message in the stream; zero if it is empty
	MaxAge   time.Duration // how long the stream keeps a message; 0: until it is removed
}

// Scan calls each for every message on a subject that a stream has stored since
// a time, or all of them if that is zero, up to the newest at the start; each
// must not keep what it is given. Error: bridge.ErrNotFound if there is no such stream.
func (c *Conn) Scan(ctx context.Context, stream, subject string, since time.Time, each func(Stored)) (Scanned, error) {
	scanned := Scanned{Stream: stream}
	st, err := c.JS.Stream(ctx, stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return scanned, fmt.Errorf("stream %s: %w", stream, bridge.ErrNotFound)
	}
	if err != nil {
		return scanned, fmt.Errorf("stream %s: %w", stream, err)
	}
	info := st.CachedInfo()
	scanned.MaxAge = info.Config.MaxAge
	if info.State.Msgs == 0 {
		return scanned, nil
	}
	scanned.From, scanned.To = info.State.FirstTime, info.State.LastTime
	o := jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}}
	if !since.IsZero() {
		o.DeliverPolicy, o.OptStartTime = jetstream.DeliverByStartTimePolicy, &since
	}
	cons, err := st.OrderedConsumer(ctx, o)
	if err != nil {
		return scanned, fmt.Errorf("read stream %s: %w", stream, err)
	}
	if cons.CachedInfo().NumPending == 0 {
		return scanned, nil
	}
	last, done := info.State.LastSeq, make(chan struct{})
	end := sync.OnceFunc(func() { close(done) })
	over := false
	consuming, err := cons.Consume(func(m jetstream.Msg) {
		meta, err := m.Metadata()
		if err != nil || over {
			return
		}
		if meta.Sequence.Stream <= last {
			scanned.Messages++
			each(Stored{Watched: Watched{Subject: m.Subject(), Header: m.Headers(), Data: m.Data()}, Seq: meta.Sequence.Stream, At: meta.Timestamp})
		}
		if meta.NumPending == 0 || meta.Sequence.Stream >= last {
			over = true
			end()
		}
	})
	if err != nil {
		return scanned, fmt.Errorf("read stream %s: %w", stream, err)
	}
	defer func() {
		consuming.Stop()
		<-consuming.Closed()
	}()
	select {
	case <-done:
		return scanned, nil
	case <-ctx.Done():
		return scanned, fmt.Errorf("read stream %s: %w", stream, context.Cause(ctx))
	}
}

// Aside finds the pairs of an event that are set aside, by their keys.
func (c *Conn) Aside(ctx context.Context, n Names, eventHash string) (map[bridge.Key]Stored, error) {
	st, err := c.JS.Stream(ctx, n.Wait())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", n.Wait(), err)
	}
	info, err := st.Info(ctx, jetstream.WithSubjectFilter(n.prefix+".wait.*."+eventHash+".*"))
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", n.Wait(), err)
	}
	aside := map[bridge.Key]Stored{}
	for subject := range info.State.Subjects {
		m, err := st.GetLastMsgForSubject(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // taken just now
		}
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w", n.Wait(), err)
		}
		key := bridge.Key(subject[len(subject)-len(eventHash)-1-keyHalf:])
		aside[key] = Stored{Watched: Watched{Subject: m.Subject, Header: m.Header, Data: m.Data}, Seq: m.Sequence, At: m.Time}
	}
	return aside, nil
}

const keyHalf = 22 // characters of each half of a key
