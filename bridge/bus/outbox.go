package bus

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
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
	HeaderUnclear    = "Bridge8x8-Unclear" // how many of the runs before may have had an effect; absent for none
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
	// HeaderReplyTo is where the result of a stored request is wanted (rule R19).
	HeaderReplyTo = "Bridge8x8-Reply-To"
	// HeaderFormat is the version of a dead letter; see bridge.Format. Those of old have none.
	HeaderFormat = "Bridge8x8-Format"
	headerPair   = "Bridge8x8-Pair"
	headerPrefix = "Bridge8x8-"
)

// Outbox implements bridge.Outbox on JetStream.
type Outbox struct {
	conn  *Conn
	names Names
	mode  cloudevent.Mode

	failing atomic.Bool // the last message was not stored
	looking atomic.Bool // somebody looks whether the streams take messages again
}

// NewOutbox makes an outbox. mode is the content mode of results.
func NewOutbox(c *Conn, n Names, mode cloudevent.Mode) *Outbox {
	return &Outbox{conn: c, names: n, mode: mode}
}

// Healthy says why nothing should be claimed: the last outcome could not be
// stored (rule R13).
func (o *Outbox) Healthy() error {
	if !o.failing.Load() {
		return nil
	}
	if !o.looking.Swap(true) {
		go o.look()
	}
	return errors.New("the last outcome could not be stored")
}

// lookEvery is how often the streams are looked at while the last message was not stored.
const lookEvery = time.Second

// look ends the trouble once the streams have room again. The next outcome
// would tell, but there may be none here: the message whose outcome it was may
// have gone to another replica, and nothing new is claimed meanwhile.
func (o *Outbox) look() {
	defer o.looking.Store(false)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, name := range []string{o.names.Results(), o.names.Dead()} {
		if !o.takes(ctx, name) {
			<-time.After(lookEvery)
			return
		}
	}
	o.failing.Store(false)
}

// takes says whether a stream answers and has room.
func (o *Outbox) takes(ctx context.Context, name string) bool {
	st, err := o.conn.JS.Stream(ctx, name)
	if err != nil {
		return false
	}
	const full = 0.98 // as good as full: what is stored is small
	info := st.CachedInfo()
	limits, state := info.Config, info.State
	return (limits.MaxBytes <= 0 || float64(state.Bytes) < full*float64(limits.MaxBytes)) &&
		(limits.MaxMsgs <= 0 || float64(state.Msgs) < full*float64(limits.MaxMsgs))
}

// store publishes m and waits until its stream has it.
func (o *Outbox) store(ctx context.Context, m *nats.Msg, id string) error {
	m.Header.Set(jetstream.MsgIDHeader, id)
	return o.send(ctx, m.Subject, m.Header, m.Data)
}

func (o *Outbox) send(ctx context.Context, subject string, header nats.Header, data []byte) error {
	if _, err := o.conn.Publisher.Store(ctx, subject, header, data); err != nil {
		o.failing.Store(true)
		return fmt.Errorf("publish to %s: %w", subject, err)
	}
	if o.failing.Load() {
		o.failing.Store(false)
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
	set(HeaderFormat, strconv.Itoa(bridge.Format))
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
		if r.Unclear > 0 {
			set(HeaderUnclear, strconv.Itoa(r.Unclear))
		}
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

// shrink replaces what no longer fits beside our headers by a reference: the
// payload, and if that is not enough the headers that it came with.
func (o *Outbox) shrink(m *nats.Msg) {
	most := o.conn.NC.MaxPayload()
	if most <= 0 || int64(m.Size()+512) <= most {
		return
	}
	m.Data = nil
	m.Header.Set(HeaderReference, "origin")
	if int64(m.Size()+512) > most {
		for name := range m.Header {
			if !strings.HasPrefix(name, headerPrefix) {
				delete(m.Header, name)
			}
		}
	}
}

// Withdraw implements bridge.Outbox: it looks through the held letters of the
// route, which is a rare thing to have to do. There may be more than one of the
// pair: a letter stored again after the server's window for duplicates is two.
func (o *Outbox) Withdraw(ctx context.Context, key bridge.Key, route string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	letters, err := o.held(ctx, key, route)
	if err != nil {
		return err
	}
	st, err := o.letters().stream(ctx)
	if err != nil {
		return err
	}
	for _, l := range letters {
		if err := deleteMessage(ctx, st, l.ID); err != nil {
			return err
		}
	}
	return nil
}

func (o *Outbox) letters() *Letters { return &Letters{Conn: o.conn, Names: o.names} }

// held finds the letters that hold a pair as unknown, without their events.
func (o *Outbox) held(ctx context.Context, key bridge.Key, route string) ([]Letter, error) {
	letters, err := o.letters().List(ctx, LetterFilter{Route: route, Reason: bridge.ReasonOutcomeUnknown})
	return slices.DeleteFunc(letters, func(l Letter) bool { return l.Key != key }), err
}

// Held implements bridge.Outbox.
func (o *Outbox) Held(ctx context.Context, key bridge.Key, route string) (*bridge.Delivery, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	letters, err := o.held(ctx, key, route)
	if err != nil {
		return nil, err
	}
	for _, l := range letters {
		if l.Newer {
			return nil, bridge.ErrNewer
		}
		l, err := o.letters().Get(ctx, l.ID)
		if errors.Is(err, ErrLetterGone) {
			continue // withdrawn just now
		}
		if err != nil {
			return nil, err
		}
		d := &bridge.Delivery{Source: l.Source, Header: original(l.header), Data: l.data, Stream: l.Stream, Seq: l.Seq}
		if !l.Reference {
			return d, nil
		}
		whole, err := o.conn.message(ctx, d.Stream, d.Seq) // too large for a letter, and so where it came from
		switch {
		case err == nil:
			d.Header, d.Data, d.Stored = original(whole.Header), whole.Data, whole.Time
		case !errors.Is(err, jetstream.ErrMsgNotFound) && !errors.Is(err, jetstream.ErrStreamNotFound):
			return nil, fmt.Errorf("the original, message %d of stream %s: %w", d.Seq, d.Stream, err)
		}
		return d, nil
	}
	return nil, bridge.ErrNotFound
}

// aside is what a pair set aside keeps of the delivery that it came with.
type aside struct {
	Version int `json:"v,omitempty"` // see bridge.Format; absent in those of old
	bridge.Pair
	Key    bridge.Key `json:"key,omitempty"`
	Reply  string     `json:"reply,omitempty"`
	Source string     `json:"source"`
	Stream string     `json:"stream"`
	Seq    uint64     `json:"seq"`
	Stored time.Time  `json:"stored"`
}

// SetAside implements bridge.Outbox.
func (o *Outbox) SetAside(ctx context.Context, d *bridge.Delivery, p bridge.Pair, key bridge.Key, connection string) error {
	facts, err := json.Marshal(aside{Version: bridge.Format, Pair: p, Key: key, Reply: d.Reply, Source: d.Source, Stream: d.Stream, Seq: d.Seq, Stored: d.Stored})
	if err != nil {
		return err
	}
	h := original(d.Header)
	h.Set(headerPair, string(facts))
	m := &nats.Msg{Subject: o.names.WaitSubject(connection, string(key)), Header: h, Data: d.Data}
	if d.Reply != "" { // everybody who asks for the same is answered
		asker := sha256.Sum256([]byte(d.Reply))
		m.Subject += "." + hex.EncodeToString(asker[:8])
	}
	o.shrink(m)
	// Not send: a full BRIDGE_WAIT must not stop the claims by which alone it empties.
	if _, err := o.conn.Publisher.Store(ctx, m.Subject, m.Header, m.Data); err != nil {
		return fmt.Errorf("publish to %s: %w", m.Subject, err)
	}
	return nil
}

// unfold makes the delivery of a pair set aside look like the one it came with.
// What will never be possible is noted in it; an error is worth another try.
func (c *Conn) unfold(ctx context.Context, d *bridge.Delivery) error {
	var facts aside
	if err := json.Unmarshal([]byte(nats.Header(d.Header).Get(headerPair)), &facts); err != nil {
		d.Broken = fmt.Errorf("header %s of a pair set aside: %w", headerPair, err)
		return nil
	}
	if facts.Version > bridge.Format {
		return bridge.ErrNewer
	}
	reference := nats.Header(d.Header).Get(HeaderReference) != ""
	d.Header = original(d.Header)
	d.Pair, d.Key, d.Reply = &facts.Pair, facts.Key, facts.Reply
	d.Source, d.Stream, d.Seq, d.Stored = facts.Source, facts.Stream, facts.Seq, facts.Stored
	if !reference {
		return nil
	}
	m, err := c.message(ctx, facts.Stream, facts.Seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		d.Broken = fmt.Errorf("message %d of stream %s, which was too large to be set aside, is gone", facts.Seq, facts.Stream)
		return nil
	}
	if err != nil {
		return fmt.Errorf("the original, message %d of stream %s: %w", facts.Seq, facts.Stream, err)
	}
	d.Header, d.Data = original(m.Header), m.Data
	return nil
}

// message reads one message of a stream. It asks with the one request that works
// whatever the stream's configuration: the client library would need the right
// to look at that first. Errors: jetstream.ErrMsgNotFound, jetstream.ErrStreamNotFound.
func (c *Conn) message(ctx context.Context, stream string, seq uint64) (*jetstream.RawStreamMsg, error) {
	_, api, name, err := c.place(stream)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	m, err := c.NC.RequestWithContext(ctx, api+"STREAM.MSG.GET."+name, fmt.Appendf(nil, `{"seq":%d}`, seq))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Error   *jetstream.APIError
		Message *struct {
			Subject    string
			Seq        uint64
			Hdrs, Data []byte
			Time       time.Time
		}
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return nil, fmt.Errorf("the server's answer cannot be read: %w", err)
	}
	switch found := answer.Message; {
	case answer.Error != nil:
		return nil, answer.Error
	case found == nil:
		return nil, errors.New("the server's answer holds no message")
	default:
		raw := &jetstream.RawStreamMsg{Subject: found.Subject, Sequence: found.Seq, Data: found.Data, Time: found.Time}
		if len(found.Hdrs) > 0 {
			if raw.Header, err = nats.DecodeHeadersMsg(found.Hdrs); err != nil {
				return nil, fmt.Errorf("its headers cannot be read: %w", err)
			}
		}
		return raw, nil
	}
}

var _ bridge.Outbox = (*Outbox)(nil)
