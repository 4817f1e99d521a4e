package bus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Publisher stores messages in streams and waits for each one's PubAck, many at
// once over one subscription. It does what the client library's asynchronous
// publishing does, with less garbage, and says of every failure whether the
// message can have been stored (rule R7).
type Publisher struct {
	nc     *nats.Conn
	prefix string // of the reply subjects
	sub    *nats.Subscription

	mu     sync.Mutex
	next   uint64
	await  map[uint64]*ticket
	closed bool
	stop   chan struct{}
}

// ticket is one message on its way.
type ticket struct {
	at      time.Time
	subject string
	answer  chan answer // takes one
}

type answer struct {
	seq uint64
	err error
}

// ackTimeout is how long a message may go without its stream's answer before
// its fate counts as unclear. It stays below the send-by of a claim.
const ackTimeout = 3 * time.Second

// The fates of a message that got no PubAck.
var (
	// ErrUnclear: it may be stored, or may yet be.
	ErrUnclear = fmt.Errorf("no answer from the stream: it may have been stored")
	// ErrUnsent: it is not stored, and will not be.
	ErrUnsent = fmt.Errorf("not sent")
)

var tickets = sync.Pool{New: func() any { return &ticket{answer: make(chan answer, 1)} }}

func newPublisher(nc *nats.Conn) (*Publisher, error) {
	p := &Publisher{nc: nc, prefix: nc.NewInbox() + ".", await: map[uint64]*ticket{}, stop: make(chan struct{})}
	sub, err := nc.Subscribe(p.prefix+"*", p.answered)
	if err != nil {
		return nil, err
	}
	_ = sub.SetPendingLimits(-1, -1)
	p.sub = sub
	go p.sweep()
	return p, nil
}

// Store publishes one message and waits until its stream has it. header and
// data may be used again once it returns. The error is an *APIError if the
// stream refused it, or wraps ErrUnsent or ErrUnclear.
func (p *Publisher) Store(ctx context.Context, subject string, header nats.Header, data []byte) (seq uint64, err error) {
	wait, err := p.Begin(subject, header, data)
	if err != nil {
		return 0, err
	}
	return wait(ctx)
}

// Begin is the first half of Store: wait is the second, and must be called.
func (p *Publisher) Begin(subject string, header nats.Header, data []byte) (wait func(context.Context) (uint64, error), err error) {
	t := tickets.Get().(*ticket)
	t.at, t.subject = time.Now(), subject
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, fmt.Errorf("%w: the connection is closed", ErrUnsent)
	}
	p.next++
	id := p.next
	p.await[id] = t
	p.mu.Unlock()
	m := nats.Msg{Subject: subject, Reply: p.prefix + strconv.FormatUint(id, 36), Header: header, Data: data}
	if err := p.nc.PublishMsg(&m); err != nil {
		if p.forget(id) {
			tickets.Put(t)
		}
		if neverTaken(err) {
			return nil, fmt.Errorf("%w: %w", ErrUnsent, err)
		}
		return nil, fmt.Errorf("%w: %w", ErrUnclear, err) // the socket failed, after it may have taken all of it
	}
	return func(ctx context.Context) (uint64, error) {
		select {
		case a := <-t.answer:
			tickets.Put(t)
			return a.seq, a.err
		case <-ctx.Done():
			if p.forget(id) {
				tickets.Put(t)
			}
			return 0, fmt.Errorf("%w: %w", ErrUnclear, context.Cause(ctx))
		}
	}, nil
}

// neverTaken says whether the client refused a message before it wrote anything
// (there is no reconnect buffer: see Connect).
func neverTaken(err error) bool {
	return slices.ContainsFunc([]error{
		nats.ErrReconnectBufExceeded, nats.ErrConnectionClosed, nats.ErrConnectionDraining, nats.ErrMaxPayload,
		nats.ErrBadSubject, nats.ErrHeadersNotSupported, nats.ErrInvalidMsg,
	}, func(refusal error) bool { return errors.Is(err, refusal) })
}

// forget says whether nobody else had taken the ticket to answer it.
func (p *Publisher) forget(id uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ours := p.await[id]
	delete(p.await, id)
	return ours
}

// answered takes one PubAck.
func (p *Publisher) answered(m *nats.Msg) {
	id, err := strconv.ParseUint(strings.TrimPrefix(m.Subject, p.prefix), 36, 64)
	if err != nil {
		return
	}
	p.mu.Lock()
	t := p.await[id]
	delete(p.await, id)
	p.mu.Unlock()
	if t != nil {
		t.answer <- readPubAck(m)
	}
}

// readPubAck reads what a stream answers.
// source: nats-server, JSPubAckResponse: {"stream","seq","duplicate"} or {"error":{"code","err_code","description"}}.
func readPubAck(m *nats.Msg) answer {
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return answer{err: fmt.Errorf("%w: no stream listens on this subject", ErrUnsent)}
	}
	if !bytes.Contains(m.Data, []byte(`"error"`)) {
		if _, after, ok := bytes.Cut(m.Data, []byte(`"seq":`)); ok {
			end := 0
			for end < len(after) && after[end] >= '0' && after[end] <= '9' {
				end++
			}
			if seq, err := strconv.ParseUint(string(after[:end]), 10, 64); err == nil && seq > 0 {
				return answer{seq: seq}
			}
		}
	}
	var ack struct {
		Seq   uint64              `json:"seq"`
		Error *jetstream.APIError `json:"error"`
	}
	switch err := json.Unmarshal(m.Data, &ack); {
	case err != nil:
		return answer{err: fmt.Errorf("%w: its answer cannot be read", ErrUnclear)}
	case ack.Error != nil:
		return answer{err: ack.Error}
	case ack.Seq == 0:
		return answer{err: fmt.Errorf("%w: its answer has no sequence", ErrUnclear)}
	}
	return answer{seq: ack.Seq}
}

// sweep ends waits that have lasted too long.
func (p *Publisher) sweep() {
	tick := time.NewTicker(ackTimeout / 10)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case now := <-tick.C:
			p.fail(func(t *ticket) bool { return now.Sub(t.at) > ackTimeout }, fmt.Errorf("%w: timeout", ErrUnclear))
		}
	}
}

// disconnected ends all waits: their answers went down with the connection.
func (p *Publisher) disconnected() {
	p.fail(func(*ticket) bool { return true }, fmt.Errorf("%w: NATS went away", ErrUnclear))
}

// denied ends the waits for what a server refused to take.
func (p *Publisher) denied(e *DeniedError) {
	p.fail(func(t *ticket) bool { return t.subject == e.Subject }, e)
}

func (p *Publisher) fail(which func(*ticket) bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, t := range p.await {
		if which(t) {
			delete(p.await, id)
			t.answer <- answer{err: err}
		}
	}
}

func (p *Publisher) close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closed = true
	p.mu.Unlock()
	close(p.stop)
	p.disconnected()
}
