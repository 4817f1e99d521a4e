package membrane

import (
	"context"
	"errors"
	"net"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

// countedConn asks the attempt that uses it before the first byte leaves, and
// counts its bytes. net/http knows nothing of it: a refused Write ends in an
// error, and net/http then discards the connection.
type countedConn struct {
	net.Conn
	attempt atomic.Pointer[attempt]
}

func (c *countedConn) Write(p []byte) (int, error) {
	a := c.attempt.Load()
	if a == nil { // a lookup
		return c.Conn.Write(p)
	}
	if err := a.leave(); err != nil {
		return 0, err
	}
	// While Write is busy, all of p counts as having left.
	a.left.Add(int64(len(p)))
	n, err := c.Conn.Write(p)
	a.left.Add(int64(n - len(p)))
	return n, err
}

// The states of an attempt. From held it goes to exactly one of the others, and
// stays there.
const (
	held      int32 = iota // nothing has left yet
	leaving                // bytes may leave; nobody stops it any more
	late                   // send-by passed while nothing had left
	cancelled              // the caller gave up while nothing had left
)

var (
	errHeld     = errors.New("the request was held back")
	errRunLimit = errors.New("no answer within the run limit")
)

// attempt is one writing of one request. It decides, at the last possible place,
// whether the first byte may leave, and afterwards knows how many did.
type attempt struct {
	caller context.Context
	sendBy time.Time
	now    func() time.Time
	limit  time.Duration // for the answer, from the first byte

	state  atomic.Int32
	left   atomic.Int64 // bytes that were given to the connection
	leftAt atomic.Int64 // by the monotonic clock, ns since start
	start  time.Time

	timer  *time.Timer // at first for send-by, then for the limit
	cancel context.CancelCauseFunc

	// Set before anything is written, by the goroutine of the request.
	gotConn bool
	reused  bool
}

// isLate looks at both clocks: the monotonic one stands still while a machine
// sleeps, and the wall clock may be set back.
func (a *attempt) isLate() bool {
	now := a.now()
	return now.After(a.sendBy) || now.Round(0).After(a.sendBy.Round(0))
}

// leave is called before every write. Its first success lets the request go.
func (a *attempt) leave() error {
	if a.state.Load() == leaving {
		return nil
	}
	switch {
	case a.isLate():
		a.state.CompareAndSwap(held, late)
	case a.caller.Err() != nil:
		a.state.CompareAndSwap(held, cancelled)
	default:
		a.leftAt.Store(int64(time.Since(a.start)))
		if a.state.CompareAndSwap(held, leaving) {
			a.timer.Reset(a.limit)
		}
	}
	if a.state.Load() != leaving {
		return errHeld
	}
	return nil
}

// begin arms the clocks. The context that it returns ends when the attempt is
// held back or has waited too long, never because the caller gave up on a
// request that may have left.
func (a *attempt) begin() (ctx context.Context, end func()) {
	ctx, a.cancel = context.WithCancelCause(context.WithoutCancel(a.caller))
	a.start = time.Now()
	a.timer = time.AfterFunc(a.sendBy.Sub(a.now()), func() {
		switch {
		case a.state.CompareAndSwap(held, late):
			a.cancel(errHeld)
		case a.state.Load() != leaving || time.Since(a.start)-time.Duration(a.leftAt.Load()) >= a.limit:
			a.cancel(errRunLimit)
		default:
			// It left just now: leave() winds the timer up again.
		}
	})
	stop := context.AfterFunc(a.caller, func() {
		if a.state.CompareAndSwap(held, cancelled) {
			a.cancel(errHeld)
		}
	})
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: a.got})
	return ctx, func() {
		stop()
		a.timer.Stop()
		a.cancel(nil)
	}
}

// got puts the attempt in charge of its connection.
func (a *attempt) got(info httptrace.GotConnInfo) {
	a.gotConn, a.reused = true, info.Reused
	conn := info.Conn
	for {
		switch c := conn.(type) {
		case *countedConn:
			c.attempt.Store(a)
			return
		case interface{ NetConn() net.Conn }: // TLS through a proxy
			conn = c.NetConn()
		default:
			// Not a connection of ours: nothing can be proved about it.
			a.left.Add(1)
			return
		}
	}
}

// nothingLeft is the proof that the service cannot have seen the request: no
// byte of it was taken by a connection. Call it after the round trip has ended;
// net/http returns its error only after it has stopped writing.
func (a *attempt) nothingLeft() bool { return a.left.Load() == 0 }
