package bus

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// slowConn is a socket that takes a write only when the test lets it.
type slowConn struct {
	net.Conn
	began  chan string // what a write brings
	finish chan error  // how it ends
	mu     sync.Mutex
	closed int
}

func newSlowConn() *slowConn {
	return &slowConn{began: make(chan string), finish: make(chan error)}
}

func (c *slowConn) Write(p []byte) (int, error) {
	c.began <- string(p)
	if err := <-c.finish; err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *slowConn) Close() error {
	c.mu.Lock()
	c.closed++
	c.mu.Unlock()
	return nil
}

func (*slowConn) SetWriteDeadline(time.Time) error { return nil }

func (c *slowConn) closings() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

func write(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if n, err := c.Write([]byte(text)); n != len(text) || err != nil {
		t.Errorf("write %q: %d, %v", text, n, err)
	}
}

// What is written while a write is under way goes out in one, in its order; and
// closing writes what is left.
func TestCoalesce(t *testing.T) {
	t.Parallel()
	slow := newSlowConn()
	c := newCoalescing(slow)
	write(t, c, "one ")
	if got := <-slow.began; got != "one " {
		t.Errorf("first write %q", got)
	}
	write(t, c, "two ")
	write(t, c, "three ")
	slow.finish <- nil
	if got := <-slow.began; got != "two three " {
		t.Errorf("second write %q", got)
	}
	write(t, c, "four")
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	slow.finish <- nil
	if got := <-slow.began; got != "four" || slow.closings() != 0 {
		t.Errorf("last write %q, closed %d times before it", got, slow.closings())
	}
	slow.finish <- nil
	if err := <-closed; err != nil || slow.closings() != 1 {
		t.Errorf("closed %d times: %v", slow.closings(), err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
	if _, err := c.Write([]byte("late")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after the end: %v", err)
	}
}

// A broken socket is told to the next writer, also to one that waits for room,
// and closed so that the reader notices.
func TestCoalesceBroken(t *testing.T) {
	t.Parallel()
	slow := newSlowConn()
	c := newCoalescing(slow)
	write(t, c, "one")
	<-slow.began
	for range 3 {
		write(t, c, strings.Repeat("x", coalesceMost/2)) // no more than that has room
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := c.Write([]byte("waits"))
		waiting <- err
	}()
	broken := errors.New("connection reset by peer")
	slow.finish <- broken
	if err := <-waiting; !errors.Is(err, broken) {
		t.Errorf("write that waited: %v", err)
	}
	if _, err := c.Write([]byte("late")); !errors.Is(err, broken) {
		t.Errorf("later write: %v", err)
	}
	<-c.idle
	if slow.closings() != 1 {
		t.Errorf("the socket was closed %d times, want once", slow.closings())
	}
	_ = c.Close()
}

// Who waits for room is let go when the connection is closed.
func TestCoalesceClosedWhileFull(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe() // nobody reads
	defer far.Close()
	c := newCoalescing(near)
	full := make(chan error, 1)
	go func() {
		for {
			if _, err := c.Write(make([]byte, coalesceMost)); err != nil {
				full <- err
				return
			}
		}
	}()
	eventually(t, "the buffer to be full", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.buf) > coalesceMost
	})
	_ = c.Close()
	if err := <-full; err == nil {
		t.Error("written to a closed connection")
	}
}

// Many writers at once: nothing is lost, nothing is mixed, and each one's own
// order is kept.
func TestCoalesceManyWriters(t *testing.T) {
	t.Parallel()
	const writers, each = 16, 500
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, _ := listener.Accept()
		accepted <- conn
	}()
	conn, err := (&dialer{}).Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far := <-accepted
	defer far.Close()

	go func() {
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range each {
					if _, err := fmt.Fprintf(conn, "%d %d %s\n", w, i, strings.Repeat("x", i%300)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		_ = conn.Close()
	}()

	next := [writers]int{}
	lines := bufio.NewReader(far)
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF && line == "" {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		var w, i int
		var rest string
		_, _ = fmt.Sscanf(line, "%d %d %s\n", &w, &i, &rest)
		if w < 0 || w >= writers || i != next[w] || line != fmt.Sprintf("%d %d %s\n", w, i, strings.Repeat("x", i%300)) {
			t.Fatalf("writer %d wrote %q where %d was next", w, line, next[w])
		}
		next[w]++
	}
	for w, n := range next {
		if n != each {
			t.Errorf("of writer %d, %d lines arrived, want %d", w, n, each)
		}
	}
}

func TestDialNobody(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	_ = listener.Close()
	if conn, err := (&dialer{}).Dial("tcp", addr); err == nil || conn != nil {
		t.Errorf("dialled %v, %v", conn, err)
	}
}
