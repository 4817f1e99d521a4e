package ingress

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
)

func address(n uint32) netip.Addr {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], n)
	return netip.AddrFrom4(a)
}

// A client may ask as often as it is allowed to, a tenth of a minute's share at
// once, and is told how long to wait.
func TestClientRate(t *testing.T) {
	t.Parallel()
	s := NewShared(600, nil) // one each 100 ms
	client := address(1)
	at := time.Hour
	for i := range 60 {
		if wait := s.take(client, at); wait != 0 {
			t.Fatalf("request %d has to wait %v", i, wait)
		}
	}
	if wait := s.take(client, at); wait != 100*time.Millisecond {
		t.Errorf("one too many waits %v", wait)
	}
	if wait := s.take(address(2), at); wait != 0 {
		t.Errorf("somebody else waits %v", wait)
	}
	at += 100 * time.Millisecond
	if wait := s.take(client, at); wait != 0 {
		t.Errorf("after the wait: %v", wait)
	}
	if wait := s.take(client, at); wait == 0 {
		t.Error("refused requests were forgiven")
	}
	// Over a minute, whatever it tries, it gets its share and the tenth.
	taken := 0
	for range 60_000 {
		at += time.Millisecond
		if s.take(client, at) == 0 {
			taken++
		}
	}
	if taken < 600 || taken > 661 {
		t.Errorf("%d in a minute", taken)
	}
	for perMinute, want := range map[int]int{1: 1, 5: 1, 10: 1, 20: 2} {
		s, n := NewShared(perMinute, nil), 0
		for range 100 {
			if s.take(client, at) == 0 {
				n++
			}
		}
		if n != want {
			t.Errorf("%d a minute: %d at once, want %d", perMinute, n, want)
		}
	}
}

// A network of IPv6 is one client: its addresses cost nothing.
func TestClientRateOfNetworks(t *testing.T) {
	t.Parallel()
	s := NewShared(10, nil)
	for addr, want := range map[string]bool{"2001:db8::1": true, "2001:db8:0:1::1": true} {
		if got := s.take(netip.MustParseAddr(addr), time.Hour) == 0; got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
	if s.take(netip.MustParseAddr("2001:db8::ffff:2"), time.Hour) == 0 {
		t.Error("another address of the same network is another client")
	}
}

// A million addresses take no memory, and from nobody else: neither if each asks
// once, nor if many flood.
//
//nolint:paralleltest // it counts allocations
func TestClientRateOfAMillion(t *testing.T) {
	s := NewShared(6000, nil)
	at := time.Hour
	addresses := uint32(1_000_000)
	if underRace() {
		addresses /= 20 // each takes 20 times as long
	}
	for n := range addresses {
		if n%1000 == 0 {
			at += 10 * time.Millisecond // 100,000 a second
		}
		if wait := s.take(address(n+1<<24), at); wait != 0 {
			t.Fatalf("address %d has to wait %v", n, wait)
		}
	}
	for range 1000 { // far above what is allowed
		for n := range uint32(30) {
			s.take(address(n+1<<30), at)
		}
		at += time.Millisecond
	}
	for n := range uint32(10_000) {
		if wait := s.take(address(n+1<<28), at); wait != 0 {
			t.Fatalf("somebody who asks once has to wait %v", wait)
		}
	}
	if n := testing.AllocsPerRun(100, func() { s.take(address(7), at) }); n != 0 {
		t.Errorf("%v allocations for each request", n)
	}
}

// underRace says whether the race detector runs.
func underRace() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

func TestClientRateConcurrently(t *testing.T) {
	t.Parallel()
	s := NewShared(1000, nil)
	var taken atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if s.take(address(9), time.Hour) == 0 {
					taken.Add(1)
				}
			}
		})
	}
	wg.Wait()
	// Who asks at the same moment may share a turn, and no more than that.
	if n := taken.Load(); n < 100 || n > 800 {
		t.Errorf("%d of 8000 at once", n)
	}
}

type acceptAll struct{}

func (acceptAll) Accept(context.Context, []cloudevent.Message) error { return nil }

func TestClientsAreToldToWait(t *testing.T) {
	t.Parallel()
	h, err := New(Options{Accept: acceptAll{}, Shared: NewShared(20, []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32"), netip.MustParsePrefix("10.0.0.0/8")})})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(peer, forwarded string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/nowhere", nil)
		r.RemoteAddr = net.JoinHostPort(peer, "1234")
		if forwarded != "" {
			r.Header.Set("X-Forwarded-For", forwarded)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	for _, test := range []struct {
		name, peer, forwarded string
		limited               bool
	}{
		{"a client", "192.0.2.1", "", true},
		{"a client that makes up another", "192.0.2.2", "192.0.2.3", true},
		{"behind a proxy", "10.0.0.1", "192.0.2.4", true},
		{"another behind the same proxy", "10.0.0.1", "192.0.2.5", true},
		{"behind two, one made up", "127.0.0.9", "1.2.3.4, 192.0.2.6, 10.0.0.2", true},
		{"a proxy that says nothing", "10.0.0.3", "", true},
		{"a proxy that says nonsense", "10.0.0.4", "unknown", true},
		{"this machine", "127.0.0.1", "", false},
		{"this machine, which is no proxy", "127.0.0.1", "192.0.2.1", false},
		{"this machine in IPv6", "::1", "", false},
	} {
		for i := range 4 {
			w := ask(test.peer, test.forwarded)
			want := http.StatusNotFound
			if test.limited && i >= 2 {
				want = http.StatusTooManyRequests
			}
			if w.Code != want {
				t.Errorf("%s, request %d: %d, want %d", test.name, i, w.Code, want)
			}
			if want == http.StatusTooManyRequests {
				if wait, err := strconv.Atoi(w.Header().Get("Retry-After")); err != nil || wait < 1 || wait > 3 || !strings.Contains(w.Body.String(), `"code":"client_rate_exceeded"`) {
					t.Errorf("%s: Retry-After %q, %s", test.name, w.Header().Get("Retry-After"), w.Body)
				}
			}
		}
	}
	// What the sender makes up changes nothing.
	if w := ask("10.0.0.1", "6.6.6.6, 192.0.2.4"); w.Code != http.StatusTooManyRequests {
		t.Errorf("a made up hop: %d", w.Code)
	}
}

func TestRoom(t *testing.T) {
	t.Parallel()
	r := &room{free: 10, all: 10}
	if got := r.take(t.Context(), 100); got != 10 {
		t.Fatalf("all of it: %d", got)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if got := r.take(gone, 1); got != 0 {
		t.Fatalf("nothing is left, and %d is given", got)
	}
	// Who came first is served first, and who gives up is in nobody's way.
	leaving, leave := context.WithCancel(t.Context())
	order := make(chan int, 2)
	var wg sync.WaitGroup
	wait := func(ctx context.Context, n, ahead int) {
		wg.Go(func() {
			if got := r.take(ctx, n); got != 0 {
				order <- got
			}
		})
		for waiting := 0; waiting != ahead+1; runtime.Gosched() {
			r.mu.Lock()
			waiting = len(r.waiting)
			r.mu.Unlock()
		}
	}
	wait(leaving, 9, 0)
	wait(t.Context(), 4, 1)
	wait(t.Context(), 3, 2)
	r.give(5)
	leave()
	if first := <-order; first != 4 {
		t.Errorf("%d was served first", first)
	}
	r.give(5)
	<-order
	wg.Wait()
	r.give(7)
	if r.free != 10 || len(r.waiting) != 0 {
		t.Errorf("%d is free, %d wait", r.free, len(r.waiting))
	}
}

// fakeConn is a connection from an address.
type fakeConn struct {
	net.Conn
	from   string
	closed atomic.Bool
}

func (c *fakeConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.from))
}
func (c *fakeConn) Close() error { c.closed.Store(true); return nil }

// fakeListener accepts what it is given.
type fakeListener struct {
	net.Listener
	next chan net.Conn
}

func (l *fakeListener) Accept() (net.Conn, error) {
	c, ok := <-l.next
	if !ok {
		return nil, io.EOF
	}
	return c, nil
}

// Somebody who holds few connections gets in, at the expense of who holds the most;
// and what goes first is what is waited for the longest.
func TestConnectionsAreShared(t *testing.T) {
	t.Parallel()
	raw := &fakeListener{next: make(chan net.Conn, 100)}
	l := NewConnections(raw, 8)
	connect := func(from string) (*fakeConn, net.Conn) {
		t.Helper()
		c := &fakeConn{from: from}
		raw.next <- c
		mark := &fakeConn{from: "9.9.9.9:9"}
		raw.next <- mark // if c is refused
		got, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if c.closed.Load() {
			_ = got.Close()
			return c, nil
		}
		<-raw.next
		return c, got
	}
	var crowd []*fakeConn
	var held []net.Conn
	for i := range 8 {
		c, conn := connect("6.6.6.6:" + strconv.Itoa(1000+i))
		crowd, held = append(crowd, c), append(held, conn)
	}
	l.State(held[0], http.StateActive)
	l.State(held[1], http.StateActive)
	l.State(held[1], http.StateIdle) // just now
	alive := func(want ...bool) {
		t.Helper()
		for i, c := range crowd[:8] {
			if c.closed.Load() == want[i] {
				t.Errorf("connection %d of the crowd: closed %v", i, c.closed.Load())
			}
		}
	}
	if one, conn := connect("1.1.1.1:1"); conn == nil || one.closed.Load() {
		t.Error("a newcomer is refused")
	}
	alive(true, true, false, true, true, true, true, true)
	if _, conn := connect("6.6.6.6:2000"); conn == nil {
		t.Error("who has the most may not even change one for another")
	}
	alive(true, true, false, false, true, true, true, true)
	for i := range held {
		if !crowd[i].closed.Load() {
			l.State(held[i], http.StateActive)
		}
	}
	for range 2 { // 1.1.1.1 has one, the crowd six that are busy and one that is not
		if _, conn := connect("2.2.2.2:1"); conn == nil {
			t.Error("a newcomer is refused")
		}
	}
	alive(false, true, false, false, true, true, true, true)
	for i := range held {
		_ = held[i].Close()
		_ = held[i].Close()
	}
	if len(l.open) != 4-1 || len(l.of) != 2 {
		t.Errorf("%d are counted, of %d clients", len(l.open), len(l.of))
	}
	close(raw.next)
	if _, err := l.Accept(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// Nobody's requests are cut off for somebody who has as many.
func TestBusyConnectionsStay(t *testing.T) {
	t.Parallel()
	l := NewConnections(nil, 4)
	admit := func(from string) bool {
		c := &connection{Conn: &fakeConn{}, all: l, from: netip.MustParseAddr(from), busy: true, since: time.Now()}
		_, ok := l.admit(c)
		return ok
	}
	for i, test := range []struct {
		from string
		want bool
	}{{"1.1.1.1", true}, {"1.1.1.1", true}, {"1.1.1.1", true}, {"2.2.2.2", true}, {"2.2.2.2", true}, {"1.1.1.1", false}, {"2.2.2.2", false}, {"3.3.3.3", true}, {"4.4.4.4", true}, {"5.5.5.5", false}} {
		if got := admit(test.from); got != test.want {
			t.Errorf("connection %d, from %s: %v", i, test.from, got)
		}
	}
}
