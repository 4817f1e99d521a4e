package ingress

import (
	"context"
	"errors"
	"hash/maphash"
	"io"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bridge8x8/bridge8x8/config"
)

// Shared is what all requests to the listener share, however often the handler is
// made anew: who asks too often, how much is in memory, and senders' public keys.
type Shared struct {
	every   time.Duration // between two requests of a client; 0: no limit
	ahead   time.Duration // that a client may have asked for already
	proxies []netip.Prefix
	seed    maphash.Seed
	until   [slots]atomic.Int64 // when each slot's clients have had their turn, in ns since start
	start   time.Time

	bodies room

	mu       sync.Mutex
	bearers  map[config.JWT]*bearer
	keyrings map[string]*keyring // by address
}

const (
	// Clients share slots, a few each, by the hash of their address; the one with the
	// most left counts. So a million addresses take no more memory than one, and
	// somebody who floods takes only from those who share all of their slots.
	slots       = 1 << 16
	slotsOfEach = 4

	// bodiesAtOnce is how many bytes of bodies may be in memory, those left out that
	// are shorter than freeBody: these are bounded by the number of connections.
	bodiesAtOnce = 8 << 20
	freeBody     = 8 << 10

	// A body has bodyPatience, and a second more for each slowestBody bytes that came.
	bodyPatience = 10 * time.Second
	slowestBody  = 64 << 10
)

// NewShared lets each client make so many requests a minute; 0 is any number. proxies are whose X-Forwarded-For is believed.
func NewShared(perMinute int, proxies []netip.Prefix) *Shared {
	s := &Shared{
		proxies: proxies, seed: maphash.MakeSeed(), start: time.Now(), bodies: room{free: bodiesAtOnce, all: bodiesAtOnce},
		bearers: map[config.JWT]*bearer{}, keyrings: map[string]*keyring{},
	}
	if perMinute > 0 {
		s.every = time.Minute / time.Duration(perMinute)
		s.ahead = max(s.every*time.Duration(perMinute/10), s.every)
	}
	return s
}

// bearer checks the tokens of an OAuth server, with the keys that are known already.
func (s *Shared) bearer(j *config.JWT) *bearer {
	if j == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bearers[*j] == nil {
		s.bearers[*j] = newBearer(j)
	}
	return s.bearers[*j]
}

func (s *Shared) keyring(address string) *keyring {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keyrings[address] == nil {
		s.keyrings[address] = newKeyring(address)
	}
	return s.keyrings[address]
}

// delay is how long a client has to wait, or zero, and its request is counted.
func (s *Shared) delay(r *http.Request) time.Duration {
	if s.every == 0 {
		return 0
	}
	client, known := sender(r, s.proxies)
	if !known {
		// Behind a proxy that does not say for whom it speaks there is one client.
		client = peer(r)
	}
	// Who is on this machine has better ways to harm it.
	if client.IsLoopback() && !within(client, s.proxies) {
		return 0
	}
	return s.take(client, time.Since(s.start))
}

func (s *Shared) take(client netip.Addr, now time.Duration) time.Duration {
	key := network(client).As16()
	hash := maphash.Bytes(s.seed, key[:])
	slot := func(i int) *atomic.Int64 { return &s.until[hash>>(16*i)%slots] }
	least := int64(1<<63 - 1)
	for i := range slotsOfEach {
		least = min(least, slot(i).Load())
	}
	least = max(least, int64(now))
	if wait := time.Duration(least) + s.every - now - s.ahead; wait > 0 {
		return wait
	}
	next := least + int64(s.every)
	for i := range slotsOfEach {
		for one := slot(i); ; {
			if old := one.Load(); old >= next || one.CompareAndSwap(old, next) {
				break
			}
		}
	}
	return 0
}

// network is what a client can take all addresses of.
func network(a netip.Addr) netip.Addr {
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// room is an amount that is shared, first come, first served.
type room struct {
	mu        sync.Mutex
	free, all int
	waiting   []*waiter
}

type waiter struct {
	n     int
	given chan struct{}
}

// take takes n, or all there is if that is less, and returns how much; 0 if ctx
// ended first.
func (r *room) take(ctx context.Context, n int) int {
	n = min(n, r.all)
	r.mu.Lock()
	if len(r.waiting) == 0 && r.free >= n {
		r.free -= n
		r.mu.Unlock()
		return n
	}
	w := &waiter{n, make(chan struct{})}
	r.waiting = append(r.waiting, w)
	r.mu.Unlock()
	select {
	case <-w.given:
		return n
	case <-ctx.Done():
	}
	r.mu.Lock()
	for i := range r.waiting {
		if r.waiting[i] == w {
			r.waiting = append(r.waiting[:i], r.waiting[i+1:]...)
			break
		}
	}
	r.mu.Unlock()
	select {
	case <-w.given: // at the same moment
		r.give(n)
	default:
		r.give(0) // who waits behind may fit
	}
	return 0
}

func (r *room) give(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free += n
	for len(r.waiting) > 0 && r.free >= r.waiting[0].n {
		r.free -= r.waiting[0].n
		close(r.waiting[0].given)
		r.waiting = r.waiting[1:]
	}
}

// slowBody reads a body that must keep coming.
type slowBody struct {
	io.Reader
	control *http.ResponseController
	start   time.Time
	read    int
	due     int // when the deadline is moved next
}

// newSlowBody also gives the answer its time anew once the body is there.
func newSlowBody(w http.ResponseWriter, body io.Reader) *slowBody {
	b := &slowBody{Reader: body, control: http.NewResponseController(w), start: time.Now()}
	b.extend()
	return b
}

func (b *slowBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if b.read += n; b.read >= b.due {
		b.extend()
	}
	return n, err
}

// extend fails where there is no connection, which has no end to wait for either.
func (b *slowBody) extend() {
	b.due = b.read + slowestBody
	end := b.start.Add(bodyPatience + time.Duration(b.read)*time.Second/slowestBody)
	_ = b.control.SetReadDeadline(end)
	_ = b.control.SetWriteDeadline(end.Add(bodyWait + storeLimit + answerLimit))
}

func isSlow(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
