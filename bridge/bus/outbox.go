package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
)

// Headers that carry our facts beside an event that is kept untouched.
const (
	HeaderReason     = "Bridge8x8-Reason"
	HeaderMessage    = "Bridge8x8-Message"
	HeaderRoute      = "Bridge8x8-Route"
	HeaderAction     = "Bridge8x8-Action"
	HeaderConnection = "Bridge8x8-Connection"
	HeaderKey        = "Bridge8x8-Key"
	HeaderTry        = "Bridge8x8-Try"
	HeaderReplay     = "Bridge8x8-Replay"
	HeaderAttempts   = "Bridge8x8-Attempts"
	HeaderRunID      = "Bridge8x8-Action-Run-Id"
	HeaderClaimedAt  = "Bridge8x8-Claimed-At"
	HeaderAt         = "Bridge8x8-At"
	HeaderSource     = "Bridge8x8-Source" // the configured source
	HeaderOrigin     = "Bridge8x8-Origin" // "<stream> <sequence>" of the original
	HeaderCauseID    = "Bridge8x8-Cause-Id"
	HeaderCauseType  = "Bridge8x8-Cause-Type"
	HeaderCauseSrc   = "Bridge8x8-Cause-Source"
	// HeaderReference says that the payload was too large to be kept beside our
	// facts: it is the message named by HeaderOrigin.
	HeaderReference = "Bridge8x8-Reference"
	headerPair      = "Bridge8x8-Pair"
	headerPrefix    = "Bridge8x8-"
)

// Outbox implements bridge.Outbox on JetStream.
type Outbox struct {
	conn    *Conn
	names   Names
	mode    cloudevent.Mode
	failing atomic.Pointer[string]
}

// NewOutbox makes an outbox. mode is the content mode of results.
func NewOutbox(c *Conn, n Names, mode cloudevent.Mode) *Outbox {
	return &Outbox{conn: c, names: n, mode: mode}
}

// Healthy says why nothing should be claimed: the last outcome could not be
// stored (rule R13).
func (o *Outbox) Healthy() error {
	if why := o.failing.Load(); why != nil {
		return errors.New(*why)
	}
	return nil
}

// store publishes m and waits until its stream has it.
func (o *Outbox) store(ctx context.Context, m *nats.Msg, id string) error {
	if id != "" {
		m.Header.Set(jetstream.MsgIDHeader, id)
	}
	return o.send(ctx, m.Subject, m.Header, m.Data)
}

func (o *Outbox) send(ctx context.Context, subject string, header nats.Header, data []byte) error {
	if _, err := o.conn.Publisher.Store(ctx, subject, header, data); err != nil {
		why := "the last outcome could not be stored"
		o.failing.Store(&why)
		return fmt.Errorf("publish to %s: %w", subject, err)
	}
	if o.failing.Load() != nil {
		o.failing.Store(nil)
	}
	return nil
}

// outgoing is what a result needs on its way out, kept for the next one.
type outgoing struct {
	body   []byte
	id     [1]string
	header nats.Header
}

var (
	outgoings         = sync.Pool{New: func() any { return &outgoing{header: make(nats.Header, 2)} }}
	structuredContent = []string{cloudevent.ContentTypeStructured}
)

// Result implements bridge.Outbox.
func (o *Outbox) Result(ctx context.Context, r bridge.Result) error {
	subject := o.names.ResultSubject(r.Action, string(r.State))
	if o.mode == cloudevent.Binary {
		return o.store(ctx, &nats.Msg{Subject: subject, Header: r.Event.Binary(), Data: r.Event.Data}, r.ID)
	}
	out := outgoings.Get().(*outgoing)
	defer outgoings.Put(out)
	out.body, out.id[0] = r.Event.AppendJSON(out.body[:0]), r.ID
	out.header["Content-Type"], out.header[jetstream.MsgIDHeader] = structuredContent, out.id[:]
	return o.send(ctx, subject, out.header, out.body)
}

// Dead implements bridge.Outbox.
func (o *Outbox) Dead(ctx context.Context, l bridge.DeadLetter) error {
	h := original(l.Original.Header)
	set := func(name, value string) {
		if value != "" {
			h.Set(name, value)
		}
	}
	set(HeaderReason, string(l.Reason))
	set(HeaderMessage, l.Message)
	set(HeaderRoute, l.Route)
	set(HeaderKey, string(l.Key))
	set(HeaderAt, time.Now().UTC().Format(time.RFC3339Nano))
	set(HeaderSource, l.Original.Source)
	set(HeaderOrigin, l.Original.Stream+" "+strconv.FormatUint(l.Original.Seq, 10))
	if c := l.Cause; c != nil {
		set(HeaderCauseID, c.ID)
		set(HeaderCauseType, c.Type)
		set(HeaderCauseSrc, c.Source)
	}
	if r := l.Record; r != nil {
		set(HeaderTry, r.Try)
		set(HeaderReplay, strconv.Itoa(r.Replay))
		set(HeaderAttempts, strconv.Itoa(r.Attempts))
		set(HeaderRunID, r.RunID)
		if !r.ClaimedAt.IsZero() {
			set(HeaderClaimedAt, r.ClaimedAt.Format(time.RFC3339Nano))
		}
		for _, f := range r.Routes {
			if f.Route == r.Route {
				set(HeaderAction, f.Action)
				set(HeaderConnection, f.Connection)
			}
		}
	}
	m := &nats.Msg{Subject: o.names.DeadSubject(l.Route, string(l.Reason)), Header: h, Data: l.Original.Data}
	o.shrink(m)
	return o.store(ctx, m, l.ID)
}

// original copies the headers that a message came with, without those that
// would mean something to the server if they were published again.
func original(h map[string][]string) nats.Header {
	c := nats.Header(maps.Clone(h))
	if c == nil {
		c = nats.Header{}
	}
	for name := range c {
		if strings.HasPrefix(name, "Nats-") || strings.HasPrefix(name, headerPrefix) {
			delete(c, name)
		}
	}
	return c
}

// shrink replaces a payload that no longer fits beside its headers by a reference.
func (o *Outbox) shrink(m *nats.Msg) {
	if most := o.conn.NC.MaxPayload(); most > 0 && int64(m.Size()+512) > most {
		m.Header.Set(HeaderReference, "origin")
		m.Data = nil
	}
}

// Withdraw implements bridge.Outbox: it looks through the held letters of the
// route, which is a rare thing to have to do.
func (o *Outbox) Withdraw(ctx context.Context, key bridge.Key, route string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	st, err := o.conn.JS.Stream(ctx, o.names.Dead())
	if err != nil {
		return err
	}
	subject := o.names.DeadSubject(route, string(bridge.ReasonOutcomeUnknown))
	cons, err := st.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}, HeadersOnly: true})
	if err != nil {
		return err
	}
	for {
		batch, err := cons.FetchNoWait(256)
		if err != nil {
			return err
		}
		n := 0
		for m := range batch.Messages() {
			n++
			if m.Headers().Get(HeaderKey) != string(key) {
				continue
			}
			meta, err := m.Metadata()
			if err != nil {
				return err
			}
			return st.DeleteMsg(ctx, meta.Sequence.Stream)
		}
		if n == 0 {
			return batch.Error()
		}
	}
}

// aside is what a pair set aside keeps of the delivery that it came with.
type aside struct {
	bridge.Pair
	Source string    `json:"source"`
	Stream string    `json:"stream"`
	Seq    uint64    `json:"seq"`
	Stored time.Time `json:"stored"`
}

// SetAside implements bridge.Outbox.
func (o *Outbox) SetAside(ctx context.Context, d *bridge.Delivery, p bridge.Pair, key bridge.Key, connection string) error {
	facts, err := json.Marshal(aside{Pair: p, Source: d.Source, Stream: d.Stream, Seq: d.Seq, Stored: d.Stored})
	if err != nil {
		return err
	}
	h := original(d.Header)
	h.Set(headerPair, string(facts))
	m := &nats.Msg{Subject: o.names.WaitSubject(connection, string(key)), Header: h, Data: d.Data}
	o.shrink(m)
	return o.store(ctx, m, "")
}

// unfold makes the delivery of a pair set aside look like the one it came with.
func (c *Conn) unfold(ctx context.Context, d *bridge.Delivery) error {
	var facts aside
	if err := json.Unmarshal([]byte(nats.Header(d.Header).Get(headerPair)), &facts); err != nil {
		return fmt.Errorf("header %s: %w", headerPair, err)
	}
	reference := nats.Header(d.Header).Get(HeaderReference) != ""
	d.Header = original(d.Header)
	d.Pair, d.Source, d.Stream, d.Seq, d.Stored = &facts.Pair, facts.Source, facts.Stream, facts.Seq, facts.Stored
	if !reference {
		return nil
	}
	st, err := c.JS.Stream(ctx, facts.Stream)
	if err != nil {
		return err
	}
	m, err := st.GetMsg(ctx, facts.Seq)
	if err != nil {
		return fmt.Errorf("the original, message %d of stream %s: %w", facts.Seq, facts.Stream, err)
	}
	d.Data = m.Data
	return nil
}

var _ bridge.Outbox = (*Outbox)(nil)
