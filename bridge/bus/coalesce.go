package bus

import (
	"errors"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// An event costs four small messages to NATS, and each of the many workers
// writes its own. The client library writes to the socket as soon as one
// message is there, so under load a system call, and a wake-up of the server,
// is spent on each. coalescing gathers what the goroutines that are ready to
// run have to say, and writes it in one go. When nothing else is ready, that
// is at once.
type coalescing struct {
	net.Conn

	mu     sync.Mutex
	filled sync.Cond // buf is not empty, or the connection is closed
	room   sync.Cond // buf has been taken
	buf    []byte
	spare  []byte
	err    error // of a write, told to the next writer
	closed bool
	idle   chan struct{} // closed when the writer has ended
}

const (
	coalesceMost  = 256 << 10 // bytes gathered at most before writers wait
	coalesceYield = 2         // rounds of the run queue that are waited for
	// coalesceStall is how long the server may take nothing. The client library can
	// neither write nor ping nor go to another server while a writer waits for room.
	coalesceStall = 10 * time.Second
	coalesceClose = time.Second
)

func newCoalescing(conn net.Conn) *coalescing {
	c := &coalescing{Conn: conn, idle: make(chan struct{})}
	c.filled.L, c.room.L = &c.mu, &c.mu
	go c.writer()
	return c
}

// Write implements net.Conn. An error of the socket is told to a later write;
// the connection is of no more use then, and nobody can say what had arrived.
func (c *coalescing) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.buf) > coalesceMost && c.err == nil && !c.closed {
		c.room.Wait()
	}
	if c.closed {
		return 0, net.ErrClosed
	}
	if c.err != nil {
		return 0, c.err
	}
	c.buf = append(c.buf, p...)
	c.filled.Signal()
	return len(p), nil
}

func (c *coalescing) writer() {
	defer close(c.idle)
	for {
		c.mu.Lock()
		for len(c.buf) == 0 && !c.closed {
			c.filled.Wait()
		}
		if len(c.buf) == 0 || c.err != nil {
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		for range coalesceYield {
			runtime.Gosched()
		}
		c.mu.Lock()
		out := c.buf
		c.buf = c.spare[:0]
		c.room.Broadcast()
		c.writeBy() // under the lock, so that Close has the last word
		c.mu.Unlock()
		_, err := c.Conn.Write(out)
		c.mu.Lock()
		c.spare = out
		if cap(out) > 2*coalesceMost {
			c.spare = nil // one large message need not be paid for ever
		}
		if err != nil {
			c.err = err
			c.room.Broadcast()
			c.mu.Unlock()
			_ = c.Conn.Close() // so that the reader notices too
			return
		}
		c.mu.Unlock()
	}
}

// writeBy gives the socket its time for the next write, or, once closed, for the last.
func (c *coalescing) writeBy() {
	limit := coalesceStall
	if c.closed {
		limit = coalesceClose
	}
	_ = c.Conn.SetWriteDeadline(time.Now().Add(limit))
}

// SetDeadline implements net.Conn for reads only: what is written here is
// written later, when the deadline of the client library means something else.
func (c *coalescing) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn: see SetDeadline.
func (c *coalescing) SetWriteDeadline(time.Time) error { return nil }

// Close writes what was gathered, and closes.
func (c *coalescing) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.filled.Broadcast()
	c.room.Broadcast()
	c.writeBy()
	c.mu.Unlock()
	<-c.idle
	err := c.Conn.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// dialer dials NATS with coalescing connections, again and again for one Conn. It
// closes the one before, and the last one in the end: the client forgets a
// connection on which it was refused, or that it was about to make when it was
// closed. The client's lock is held meanwhile, by the goroutine that signs in next:
// the only one that looks at the key.
type dialer struct {
	net.Dialer
	conn *Conn  // optional
	nkey string // the file of its seed; optional

	mu     sync.Mutex
	last   *coalescing // the one that is in use, or about to be
	closed bool
}

// Dial implements nats.CustomDialer.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	d.forget()
	d.whoWeAre()
	conn, err := d.Dialer.Dial(network, address)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	d.last = newCoalescing(conn)
	return d.last, nil
}

// whoWeAre reads our public key: the client reads the seed anew for each signature,
// but the key that goes with it only once.
func (d *dialer) whoWeAre() {
	if d.conn == nil || d.nkey == "" {
		return
	}
	nc := d.conn.connected.Load()
	if nc == nil {
		return
	}
	var newest nats.Options
	if o, err := nats.NkeyOptionFromSeed(d.nkey); err == nil && o(&newest) == nil {
		nc.Opts.Nkey = newest.Nkey
	}
}

func (d *dialer) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last != nil {
		_ = d.last.Close()
		d.last = nil
	}
}

func (d *dialer) close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.forget()
}
