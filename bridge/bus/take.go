package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/bridge8x8/bridge8x8/bridge"
)

// Taker takes messages from a durable pull consumer and gives each to a worker.
// It asks the server for as many as it has free workers and never for
// more, so that nothing waits here while its ack clock runs; and while
// something is held, its ack clock is renewed.
//
// It speaks the pull protocol itself: the client library's consumers either
// read ahead of the workers or make a subscription for each batch.
type Taker struct {
	o     TakerOptions
	sub   *nats.Subscription
	inbox string
	next  string // the API subject that a pull request goes to

	work chan *nats.Msg // to a worker that has nothing to do
	quit chan struct{}  // closed when the workers should end
	wg   sync.WaitGroup // of the workers

	mu        sync.Mutex
	busy      int // messages with a worker, or on their way to one
	requested int // messages asked for and not here yet
	heard     time.Time
	missing   bool // the consumer is not there
	stopping  bool

	heldMu  sync.Mutex
	held    map[*held]struct{}
	settled string // where the last message was settled, and how
	verb    []byte
}

// TakerOptions says what is taken and by whom.
type TakerOptions struct {
	Conn     *Conn
	Source   string // the configured name, for the delivery
	Stream   string // see StreamIn
	Consumer string
	Workers  int
	AckWait  time.Duration
	Handle   func(*bridge.Delivery)
	// Prepare makes a delivery whole that is not the event itself, such as a pair
	// set aside; nil: it is.
	Prepare func(*bridge.Delivery) error
	// Paused stops the asking for more while it says so; nil: never.
	Paused func() bool
	// Ensure makes the consumer again where somebody deleted it.
	Ensure func(context.Context) error
	Logger *slog.Logger
}

const (
	pullExpires   = 30 * time.Second
	pullHeartbeat = 5 * time.Second
	pullRetry     = 250 * time.Millisecond
	// quietGap without a message says that what was asked for is not on its way, and
	// quietMost is how long that is waited for.
	quietGap  = 25 * time.Millisecond
	quietMost = 250 * time.Millisecond
)

// Take starts to take messages. Its inbox must not be one of the client's own
// for replies: a message that arrives there and fits no request is handed to
// the only one that waits, whatever it asked for.
func Take(o TakerOptions) (*Taker, error) {
	_, api, stream, err := o.Conn.place(o.Stream)
	if err != nil {
		return nil, fmt.Errorf("take from stream %s: %w", o.Stream, err)
	}
	t := &Taker{
		o: o, inbox: o.Conn.NC.NewInbox(), work: make(chan *nats.Msg), quit: make(chan struct{}), held: map[*held]struct{}{},
		next: api + "CONSUMER.MSG.NEXT." + stream + "." + o.Consumer, heard: time.Now(),
	}
	sub, err := o.Conn.NC.Subscribe(t.inbox, t.arrived)
	if err != nil {
		return nil, fmt.Errorf("take from stream %s: %w", o.Stream, err)
	}
	_ = sub.SetPendingLimits(-1, -1) // what may be pending is what was asked for
	t.sub = sub
	return t, nil
}

// Run keeps asking until ctx ends.
func (t *Taker) Run(ctx context.Context) {
	tick := time.NewTicker(pullRetry)
	defer tick.Stop()
	renew := time.NewTicker(max(t.o.AckWait/3, 10*time.Millisecond))
	defer renew.Stop()
	reconnects := t.o.Conn.reconnects.Load()
	var ensured chan struct{} // closed when the consumer was looked after; nil: nobody does
	t.ask(true)
	for {
		select {
		case <-ctx.Done():
			if ensured != nil {
				<-ensured
			}
			return
		case <-ensured:
			ensured = nil
		case <-renew.C:
			t.renew()
		case now := <-tick.C:
			again := t.o.Conn.reconnects.Load()
			t.mu.Lock()
			stopping, missing := t.stopping, t.missing
			if t.requested > 0 && (again != reconnects || now.Sub(t.heard) > 2*pullHeartbeat) {
				// The requests went down with the server, or it forgot them. One that only the
				// connection was cut to still serves them, on top of what is asked for now, so
				// that up to twice as many may be in hand for once. A new inbox would prevent it,
				// and lose what is on its way to the old one until its ack clock ends.
				t.requested = 0
			}
			reconnects = again
			t.mu.Unlock()
			if missing && !stopping && ensured == nil {
				ensured = make(chan struct{})
				go func(done chan struct{}) { defer close(done); t.ensure(ctx) }(ensured)
			}
			t.ask(false)
		}
	}
}

// ensure makes the consumer again.
func (t *Taker) ensure(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*pullHeartbeat)
	defer cancel()
	err := t.o.Ensure(ctx)
	if err != nil {
		t.o.Logger.Debug("a consumer cannot be made again", "stream", t.o.Stream, "consumer", t.o.Consumer, "error", err)
		return
	}
	t.mu.Lock()
	t.missing = false
	t.mu.Unlock()
}

// ask requests as many messages as there are free workers, in batches of at
// least a quarter of them: a request for each worker that gets free would cost
// the server more than the messages do.
func (t *Taker) ask(now bool) {
	if t.o.Paused != nil && t.o.Paused() {
		return
	}
	t.mu.Lock()
	free := t.o.Workers - t.busy - t.requested
	if t.stopping || free <= 0 || (!now && free < (t.o.Workers+3)/4 && t.busy+t.requested > 0) {
		t.mu.Unlock()
		return
	}
	if t.requested == 0 {
		t.heard = time.Now()
	}
	t.requested += free
	t.mu.Unlock()
	req, _ := json.Marshal(struct {
		Batch     int           `json:"batch"`
		Expires   time.Duration `json:"expires"`
		Heartbeat time.Duration `json:"idle_heartbeat"`
	}{free, pullExpires, pullHeartbeat})
	if err := t.o.Conn.NC.PublishRequest(t.next, t.inbox, req); err != nil {
		t.mu.Lock()
		t.requested -= free
		t.mu.Unlock()
	}
}

// arrived is called for one message after the other.
func (t *Taker) arrived(m *nats.Msg) {
	if m.Reply == "" { // what can be acknowledged is a message, whatever headers its publisher gave it
		t.status(m.Header.Get("Status"), m)
		return
	}
	t.mu.Lock()
	t.heard = time.Now()
	t.requested = max(0, t.requested-1)
	t.busy++
	stopping := t.stopping
	t.mu.Unlock()
	if stopping { // R16: what was not started goes back at once
		t.settle(m.Reply, nakVerb(quietMost)) // once we have ceased to listen: it would come here again
		t.done()
		return
	}
	select {
	case t.work <- m:
	default: // all that there are have something to do
		t.wg.Go(func() { t.worker(m) })
	}
}

// worker handles one message after the other: a stack that has grown once is
// used again.
func (t *Taker) worker(m *nats.Msg) {
	for {
		t.handle(m)
		t.done()
		select {
		case m = <-t.work:
		case <-t.quit:
			return
		}
	}
}

// status is the server's word on a pull request.
// source: nats-server, JetStream pull consumer statuses.
func (t *Taker) status(status string, m *nats.Msg) {
	description := m.Header.Get("Description")
	t.mu.Lock()
	t.heard = time.Now()
	if status == "100" { // idle heartbeat
		t.mu.Unlock()
		return
	}
	left, err := strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
	if err != nil || left > t.requested {
		left = t.requested
	}
	t.requested -= left
	deleted := description == "Consumer Deleted"
	lost := deleted && !t.missing
	t.missing = t.missing || deleted || status == "503" // nobody answers for it
	t.mu.Unlock()
	switch {
	case status == "408" || strings.HasPrefix(description, "Batch Completed"):
		t.ask(false)
	case lost:
		t.o.Logger.Warn("a consumer was deleted", "stream", t.o.Stream, "consumer", t.o.Consumer)
	default: // asked for again by the next tick
		t.o.Logger.Debug("a pull request ended", "consumer", t.o.Consumer, "status", status, "description", description)
	}
}

func (t *Taker) done() {
	t.mu.Lock()
	t.busy--
	t.mu.Unlock()
	t.ask(false)
}

func (t *Taker) handle(m *nats.Msg) {
	meta, ok := readDelivered(m.Reply)
	if !ok {
		t.o.Logger.Warn("a message came without JetStream's metadata", "consumer", t.o.Consumer)
		return
	}
	h := &held{t: t, reply: m.Reply}
	t.heldMu.Lock()
	t.held[h] = struct{}{}
	t.heldMu.Unlock()
	d := &bridge.Delivery{
		Source: t.o.Source, Header: m.Header, Data: m.Data, Stream: t.o.Stream, Seq: meta.seq,
		Reply:  m.Header.Get(HeaderReplyTo),
		Stored: time.Unix(0, meta.stored), Redelivered: meta.times > 1, Deliveries: int(min(meta.times, math.MaxInt32)), Settle: h,
	}
	if t.o.Prepare != nil {
		if err := t.o.Prepare(d); err != nil {
			t.o.Logger.Warn("cannot read what was set aside", "consumer", t.o.Consumer, "seq", d.Seq, "error", err)
			h.Nak(10 * time.Second)
			return
		}
	}
	t.o.Handle(d)
}

// delivered is what the subject for a message's acknowledgement tells of it.
type delivered struct {
	times, seq uint64 // deliveries so far, and the place in the stream
	stored     int64  // ns since 1970, by the server's clock
}

// readDelivered reads an ack subject, of either form:
//
//	$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<stored>.<pending>
//	$JS.ACK.<domain>.<account hash>.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<stored>.<pending>[.<random>]
//
// source: nats-architecture-and-design ADR-15
func readDelivered(subject string) (d delivered, ok bool) {
	const short, long = 9, 11
	rest, isAck := strings.CutPrefix(subject, "$JS.ACK.")
	tokens := strings.Count(subject, ".") + 1
	if !isAck || tokens < short || tokens > short && tokens < long {
		return d, false
	}
	skip := 2
	if tokens >= long {
		skip = 4
	}
	token := func() (t string) {
		t, rest, _ = strings.Cut(rest, ".")
		return t
	}
	for range skip {
		token()
	}
	var err [3]error
	d.times, err[0] = strconv.ParseUint(token(), 10, 64)
	d.seq, err[1] = strconv.ParseUint(token(), 10, 64)
	token()
	d.stored, err[2] = strconv.ParseInt(token(), 10, 64)
	return d, err == [3]error{}
}

// renew restarts the ack clock of everything that is held.
func (t *Taker) renew() {
	t.heldMu.Lock()
	replies := make([]string, 0, len(t.held))
	for h := range t.held {
		if h.seen { // held for a whole period
			replies = append(replies, h.reply)
		}
		h.seen = true
	}
	t.heldMu.Unlock()
	for _, reply := range replies {
		_ = t.o.Conn.NC.Publish(reply, []byte("+WPI"))
	}
}

// Quiet makes the taker ask for nothing more and hand back what no worker has
// begun. It returns when no more can arrive.
func (t *Taker) Quiet() {
	t.mu.Lock()
	t.stopping = true
	t.mu.Unlock()
	t.awaitRequested()
	done := t.sub.StatusChanged(nats.SubscriptionClosed)
	if err := t.sub.Drain(); err == nil {
		select {
		case <-done:
		case <-time.After(2 * time.Second):
		}
	}
}

// awaitRequested waits until what was asked for has come, where there is anything
// to come. A message that is on its way when its inbox goes is one that the server
// has to give out again, and would forget about if it stopped with us.
func (t *Taker) awaitRequested() {
	began := time.Now()
	for now := began; now.Sub(began) < quietMost; now = <-time.After(quietGap / 5) {
		t.mu.Lock()
		calm := t.requested == 0 || now.Sub(t.heard) > quietGap && now.Sub(began) > quietGap
		t.mu.Unlock()
		if calm {
			return
		}
	}
}

// Stop waits until the workers have finished, or ctx ends. Call Quiet first.
func (t *Taker) Stop(ctx context.Context) {
	close(t.quit)
	finished := make(chan struct{})
	go func() { t.wg.Wait(); close(finished) }()
	select {
	case <-finished:
	case <-ctx.Done():
	}
}

// held is a message that is ours until it is settled.
type held struct {
	t     *Taker
	reply string
	seen  bool
}

func (h *held) settle(verb []byte) {
	h.t.heldMu.Lock()
	delete(h.t.held, h)
	h.t.heldMu.Unlock()
	h.t.settle(h.reply, verb)
}

func (t *Taker) settle(reply string, verb []byte) {
	t.heldMu.Lock()
	t.settled, t.verb = reply, verb
	t.heldMu.Unlock()
	_ = t.o.Conn.NC.Publish(reply, verb) // lost: it comes again, and is finished from its record
}

// Settled waits until the server has dealt with all that was settled, or ctx
// ends. It deals with one after the other: the answer to the last verb, said once
// more, comes after all. Without it, a server that stops with us could forget
// what was handed back, and not give it out again before its ack clock ends. Any
// other verb, such as that work is in progress, would wind up that clock.
func (t *Taker) Settled(ctx context.Context) error {
	t.heldMu.Lock()
	last, verb := t.settled, t.verb
	t.heldMu.Unlock()
	if last == "" {
		return nil
	}
	_, err := t.o.Conn.NC.RequestWithContext(ctx, last, verb)
	return err
}

// Ack implements bridge.Settler.
func (h *held) Ack() { h.settle([]byte("+ACK")) }

// Nak implements bridge.Settler.
func (h *held) Nak(delay time.Duration) { h.settle(nakVerb(delay)) }

// nakVerb asks for a message again after a delay, at once if there is none: the
// server keeps a delay with the consumer's state, while it would forget a message
// that comes back without one if it was restarted before it could give it out.
func nakVerb(delay time.Duration) []byte {
	return fmt.Appendf(nil, `-NAK {"delay": %d}`, max(delay, time.Millisecond).Nanoseconds())
}
