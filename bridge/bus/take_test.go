package bus

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/bridgetest/proxy"
	"github.com/bridge8x8/bridge8x8/bridge/natsd"
)

// never is an ack wait that no test lives to see the end of.
const never = 10 * time.Minute

// hands is a taker whose handlers hold what they are given until the test lets
// go of it.
type hands struct {
	t     *testing.T
	taker *Taker
	took  chan *bridge.Delivery
	stop  func()

	mu   sync.Mutex
	seen map[uint64]int
}

type handOptions struct {
	workers int
	ackWait time.Duration
	log     *lines
	paused  func() bool
}

// take takes what stream S holds.
func take(t *testing.T, c *Conn, o handOptions) *hands {
	t.Helper()
	h := &hands{t: t, took: make(chan *bridge.Delivery, 10_000), seen: map[uint64]int{}}
	if o.log == nil {
		o.log = &lines{}
	}
	if o.ackWait == 0 {
		o.ackWait = never
	}
	ensure := func(ctx context.Context) error {
		return c.EnsureDurable(ctx, Durable{Name: "d", Stream: "S", AckWait: o.ackWait, Ledger: "l"}, Start{All: true})
	}
	if err := ensure(within(t)); err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	taker, err := Take(TakerOptions{
		Conn: c, Source: "orders", Stream: "S", Consumer: "d", Workers: o.workers, AckWait: o.ackWait, Logger: o.log.logger(), Paused: o.paused, Ensure: ensure,
		Handle: func(d *bridge.Delivery) {
			h.mu.Lock()
			h.seen[d.Seq]++
			h.mu.Unlock()
			s := &letGo{Settler: d.Settle, done: make(chan struct{})}
			d.Settle = s
			h.took <- d
			select {
			case <-s.done:
			case <-release:
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	h.taker = taker
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); taker.Run(ctx) }()
	var once sync.Once
	h.stop = func() {
		once.Do(func() {
			taker.Quiet()
			close(release)
			cancel()
			<-ended
			taker.Stop(within(t))
		})
	}
	t.Cleanup(h.stop)
	return h
}

// letGo ends the handler of what it settles.
type letGo struct {
	bridge.Settler
	done chan struct{}
}

func (l *letGo) Ack()                    { l.Settler.Ack(); close(l.done) }
func (l *letGo) Nak(delay time.Duration) { l.Settler.Nak(delay); close(l.done) }

// next waits for the next message to be taken.
func (h *hands) next() *bridge.Delivery {
	h.t.Helper()
	select {
	case d := <-h.took:
		return d
	case <-time.After(patience):
		h.t.Fatal("nothing was taken")
		return nil
	}
}

// times is how often the message was taken.
func (h *hands) times(seq uint64) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen[seq]
}

func consumer(t *testing.T, c *Conn) *jetstream.ConsumerInfo {
	t.Helper()
	cons, err := c.JS.Consumer(within(t), "S", "d")
	if err != nil {
		t.Fatal(err)
	}
	return cons.CachedInfo()
}

func orders(t *testing.T, c *Conn) {
	t.Helper()
	makeStream(t, c, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Storage: jetstream.MemoryStorage})
}

func publish(t *testing.T, c *Conn, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		store(t, c, "s.a", strconv.Itoa(i))
	}
}

func TestTake(t *testing.T) {
	t.Parallel()
	c := connect(t, startServer(t, natsd.Options{}).ClientURL())
	orders(t, c)
	if _, err := c.Publisher.Store(within(t), "s.a", nats.Header{"Ce-Id": {"1"}}, []byte("data")); err != nil {
		t.Fatal(err)
	}
	h := take(t, c, handOptions{workers: 1})
	d := h.next()
	stored := everything(t, c, "S")[0]
	want := &bridge.Delivery{Source: "orders", Header: map[string][]string{"Ce-Id": {"1"}}, Data: []byte("data"), Stream: "S", Seq: 1, Stored: stored.Time, Deliveries: 1}
	settle := d.Settle
	d.Settle, d.Header, d.Stored = nil, map[string][]string(d.Header), d.Stored.UTC()
	if diff := cmp.Diff(want, d); diff != "" {
		t.Errorf("delivery (-want +got):\n%s", diff)
	}
	settle.Nak(0)
	if d = h.next(); d.Seq != 1 || !d.Redelivered {
		t.Errorf("handed back, it came as %d, redelivered %v", d.Seq, d.Redelivered)
	}
	d.Settle.Ack()
	eventually(t, "the ack", func() bool { return consumer(t, c).AckFloor.Stream == 1 })
}

// What a publisher writes into headers cannot pass for the server's word.
func TestTakeMessageWithStatus(t *testing.T) {
	t.Parallel()
	c := connect(t, startServer(t, natsd.Options{}).ClientURL())
	orders(t, c)
	h := take(t, c, handOptions{workers: 2})
	for _, status := range []string{"100", "404", "408", "409", "503", "delivered"} {
		header := nats.Header{"Status": {status}, "Description": {"Batch Completed"}, "Nats-Pending-Messages": {"1"}}
		if _, err := c.Publisher.Store(within(t), "s.a", header, nil); err != nil {
			t.Fatal(err)
		}
		d := h.next()
		if got := nats.Header(d.Header).Get("Status"); got != status {
			t.Errorf("took a message with status %q, want %q", got, status)
		}
		d.Settle.Ack()
	}
	eventually(t, "all acks", func() bool { return consumer(t, c).AckFloor.Stream == 6 })
}

// No more is taken than there are workers, whatever is waiting and however often
// they get free.
func TestTakeNeverMoreThanWorkers(t *testing.T) {
	t.Parallel()
	const workers, many = 5, 60
	c := connect(t, startServer(t, natsd.Options{}).ClientURL())
	orders(t, c)
	publish(t, c, 1, many/2)
	h := take(t, c, handOptions{workers: workers})
	var inHand []*bridge.Delivery
	for range workers {
		inHand = append(inHand, h.next())
	}
	most := func() {
		t.Helper()
		if got := len(inHand) + len(h.took); got > workers {
			t.Fatalf("%d handlers hold a message, want no more than %d", got, workers)
		}
		// The server takes up acks a moment after the request that followed them.
		eventually(t, "the server to see no more in hand than there are workers", func() bool { return consumer(t, c).NumAckPending <= workers })
	}
	most()
	publish(t, c, many/2+1, many) // more come while all are busy
	most()
	for taken := workers; taken < many; {
		// One gets free, then two, then three: as many come, in any batches.
		for range min(1+taken%3, len(inHand)) {
			inHand[0].Settle.Ack()
			inHand = inHand[1:]
			most()
		}
		for len(inHand) == 0 || len(h.took) > 0 {
			inHand = append(inHand, h.next())
			taken++
			most()
		}
	}
	for _, d := range inHand {
		d.Settle.Ack()
	}
	eventually(t, "all acks", func() bool { return consumer(t, c).AckFloor.Stream == many })
	for seq := range uint64(many) {
		if n := h.times(seq + 1); n != 1 {
			t.Errorf("message %d was taken %d times", seq+1, n)
		}
	}
}

// As long as something is held, nobody else gets it.
func TestTakeKeepsTheAckClock(t *testing.T) {
	t.Parallel()
	const ackWait = 3 * time.Second
	c := connect(t, startServer(t, natsd.Options{}).ClientURL())
	orders(t, c)
	var renewed, other atomic.Int64
	sub, err := c.NC.Subscribe("$JS.ACK.S.d.>", func(m *nats.Msg) {
		if string(m.Data) == "+WPI" {
			renewed.Add(1)
		} else {
			other.Add(1)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	publish(t, c, 1, 2)
	h := take(t, c, handOptions{workers: 4, ackWait: ackWait})
	first, second := h.next(), h.next()
	eventually(t, "several ack waits to pass, by the renewals of three in each", func() bool { return renewed.Load() >= 2*10 })
	if info := consumer(t, c); info.NumRedelivered != 0 || info.NumAckPending != 2 || h.times(1) != 1 || h.times(2) != 1 {
		t.Errorf("%d redelivered, %d in hand; taken %d and %d times", info.NumRedelivered, info.NumAckPending, h.times(1), h.times(2))
	}
	first.Settle.Ack()
	second.Settle.Ack()
	eventually(t, "the acks", func() bool { return consumer(t, c).AckFloor.Stream == 2 })
	eventually(t, "both to have been settled", func() bool { return other.Load() >= 2 })
	if n := other.Load(); n != 2 {
		t.Errorf("settled %d times, want 2", n)
	}
}

// What arrives once the taker stops goes back at once, to whoever comes next.
func TestTakeQuiet(t *testing.T) {
	t.Parallel()
	const workers = 4
	server := startServer(t, natsd.Options{})
	witness := connect(t, server.ClientURL())
	orders(t, witness)
	p := proxy.Start(t, server.Addr().String())
	c := connect(t, p.URL())
	h := take(t, c, handOptions{workers: workers})
	publish(t, witness, 1, 1)
	started := h.next()
	eventually(t, "the requests", func() bool { return consumer(t, witness).NumWaiting > 0 })

	p.Hold(false, true) // what is delivered stays on its way
	publish(t, witness, 2, 20)
	asked := 0
	eventually(t, "deliveries", func() bool { asked = consumer(t, witness).NumAckPending - 1; return asked > 0 })
	quiet := make(chan struct{})
	go func() { defer close(quiet); h.taker.Quiet() }()
	eventually(t, "the taker to stop", func() bool {
		h.taker.mu.Lock()
		defer h.taker.mu.Unlock()
		return h.taker.stopping
	})
	p.Hold(false, false)
	<-quiet

	cons, err := witness.JS.Consumer(within(t), "S", "d")
	if err != nil {
		t.Fatal(err)
	}
	again := 0
	for got := 0; got < 19; {
		batch, err := cons.Fetch(19-got, jetstream.FetchMaxWait(patience))
		if err != nil {
			t.Fatal(err)
		}
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				t.Fatal(err)
			}
			if got++; meta.NumDelivered == 2 {
				again++
			}
			_ = m.Ack()
		}
		if err := batch.Error(); err != nil {
			t.Fatalf("only %d of 19 came back: %v", got, err)
		}
	}
	if again != asked {
		t.Errorf("%d messages were handed back, want the %d that were on their way", again, asked)
	}
	for seq := uint64(2); seq <= 20; seq++ {
		if n := h.times(seq); n != 0 {
			t.Errorf("message %d was begun after the taker had stopped", seq)
		}
	}
	started.Settle.Ack() // what was begun is seen through
	eventually(t, "the ack of what was begun", func() bool { return consumer(t, witness).AckFloor.Stream == 20 })
}

// After the connection is back it goes on.
func TestTakeReconnects(t *testing.T) {
	t.Parallel()
	server := startServer(t, natsd.Options{})
	witness := connect(t, server.ClientURL())
	orders(t, witness)
	p := proxy.Start(t, server.Addr().String())
	c := connect(t, p.URL())
	h := take(t, c, handOptions{workers: 4})
	for round := range 3 {
		p.Cut()
		eventually(t, "the connection", func() bool { return c.reconnects.Load() > int64(round) })
		publish(t, witness, 10*round+1, 10*round+10)
		for range 10 {
			h.next().Settle.Ack()
		}
		eventually(t, "all acks", func() bool { return consumer(t, witness).AckFloor.Stream == uint64(10*round+10) })
	}
}

// A connection that breaks while something is in hand does not lose it: it is
// seen through, and its ack is sent over the new one.
func TestTakeAcksAfterReconnect(t *testing.T) {
	t.Parallel()
	server := startServer(t, natsd.Options{})
	witness := connect(t, server.ClientURL())
	orders(t, witness)
	p := proxy.Start(t, server.Addr().String())
	c := connect(t, p.URL())
	h := take(t, c, handOptions{workers: 2})
	publish(t, witness, 1, 1)
	d := h.next()
	p.Cut()
	eventually(t, "the connection", func() bool { return c.reconnects.Load() > 0 })
	d.Settle.Ack()
	eventually(t, "the ack", func() bool { return consumer(t, witness).AckFloor.Stream == 1 })
	publish(t, witness, 2, 2)
	h.next().Settle.Ack()
}

// A consumer that somebody deletes is made again and taken from, and that is said once.
func TestTakeConsumerDeleted(t *testing.T) {
	t.Parallel()
	c := connect(t, startServer(t, natsd.Options{}).ClientURL())
	orders(t, c)
	log := &lines{}
	h := take(t, c, handOptions{workers: 2, log: log})
	publish(t, c, 1, 1)
	h.next().Settle.Ack()
	eventually(t, "the ack, and a request", func() bool { i := consumer(t, c); return i.AckFloor.Stream == 1 && i.NumWaiting > 0 })
	if err := c.JS.DeleteConsumer(within(t), "S", "d"); err != nil {
		t.Fatal(err)
	}
	publish(t, c, 2, 3)
	for range 3 { // from the beginning, as Ensure has it
		h.next().Settle.Ack()
	}
	if n := log.count("a consumer was deleted"); n != 1 {
		t.Errorf("said so %d times", n)
	}
}

func TestTakePaused(t *testing.T) {
	t.Parallel()
	c := connect(t, startServer(t, natsd.Options{}).ClientURL())
	orders(t, c)
	var paused atomic.Bool
	var looked atomic.Int64
	paused.Store(true)
	h := take(t, c, handOptions{workers: 2, paused: func() bool { looked.Add(1); return paused.Load() }})
	publish(t, c, 1, 3)
	eventually(t, "some looks", func() bool { return looked.Load() > 4 })
	if info := consumer(t, c); info.NumWaiting != 0 || info.Delivered.Stream != 0 {
		t.Errorf("while paused: %d requests, delivered up to %d", info.NumWaiting, info.Delivered.Stream)
	}
	paused.Store(false)
	for range 3 {
		h.next().Settle.Ack()
	}
}

// Many workers on many messages: each is taken once, and all end.
func TestTakeMany(t *testing.T) {
	t.Parallel()
	const many = 3000
	c := connect(t, startServer(t, natsd.Options{}).ClientURL())
	orders(t, c)
	h := take(t, c, handOptions{workers: 64})
	go func() {
		for i := range many {
			if _, err := c.Publisher.Begin("s.a", nil, []byte(strconv.Itoa(i))); err != nil {
				t.Error(err)
			}
		}
	}()
	for range many {
		h.next().Settle.Ack()
	}
	eventually(t, "all acks", func() bool { return consumer(t, c).AckFloor.Stream == many })
	for seq := range uint64(many) {
		if n := h.times(seq + 1); n != 1 {
			t.Errorf("message %d was taken %d times", seq+1, n)
		}
	}
}

func TestNak(t *testing.T) {
	t.Parallel()
	for delay, want := range map[time.Duration]string{0: `-NAK {"delay": 1000000}`, -time.Second: `-NAK {"delay": 1000000}`, 1500 * time.Millisecond: `-NAK {"delay": 1500000000}`} {
		if got := string(nakVerb(delay)); got != want {
			t.Errorf("%v: %q, want %q", delay, got, want)
		}
	}
}

// What is read of an ack subject is what the client library reads.
func TestReadDelivered(t *testing.T) {
	t.Parallel()
	for _, subject := range []string{
		"$JS.ACK.ORDERS.bridge-orders.2.345.7.1767323045123456789.9",
		"$JS.ACK._.hash.ORDERS.bridge-orders.1.345.7.1767323045123456789.9",
		"$JS.ACK.hub.hash.ORDERS.bridge-orders.3.345.7.1767323045123456789.9.random",
		"", "$JS.ACK.", "$JS.API.ORDERS.bridge-orders.2.345.7.1767323045123456789.9", "$JS.ACK.ORDERS.bridge-orders.2.345.7.1767323045123456789",
		"$JS.ACK.a.ORDERS.bridge-orders.2.345.7.1767323045123456789.9",
	} {
		m := nats.NewMsg("s")
		m.Reply, m.Sub = subject, &nats.Subscription{}
		var want delivered
		meta, err := m.Metadata()
		if err == nil {
			want = delivered{meta.NumDelivered, meta.Sequence.Stream, meta.Timestamp.UnixNano()}
		}
		if got, ok := readDelivered(subject); ok != (err == nil) || got != want {
			t.Errorf("%q: read %v %+v, want %v %+v", subject, ok, got, err == nil, want)
		}
	}
	for _, broken := range []string{"$JS.ACK.O.c.x.345.7.1.9", "$JS.ACK.O.c.1.x.7.1.9", "$JS.ACK.O.c.1.1.7.x.9"} {
		if got, ok := readDelivered(broken); ok {
			t.Errorf("%q: read %+v", broken, got)
		}
	}
}
