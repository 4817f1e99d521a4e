package bridge

import (
	"context"
	"sync"
	"time"

	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// Gates hold runs back while a connection or a route cannot do any good (rules
// R8, R9): one gate for each connection of each tenant, closed by refusals and
// by unclear outcomes in a row, and one for each route, closed by answers that
// say the route itself must be mended. A closed gate is probed with a read,
// then lets one event at a time through until one comes back well.
//
// There is an entry only for a gate that has seen trouble, so that the usual
// way costs one look at an empty map.
const (
	gateFirst     = time.Second     // closed for this long at first, without a Retry-After
	gateMost      = 4 * time.Second // and at most for this long between probes
	gateUnknowns  = 5               // this many unclear outcomes in a row close a connection
	gateRetry     = 250 * time.Millisecond
	maxRetryAfter = time.Hour
)

type gateKey struct {
	route  string // either a route's identity,
	name   string // or a connection's name, id or key
	tenant string
}

type gate struct {
	place    Place
	until    time.Time // closed at least until then
	closed   bool
	trial    bool // half open, and one event is through
	failures int  // closings in a row
	unknowns int
	why      Reason
}

type gates struct {
	now  func() time.Time
	mu   sync.RWMutex
	all  map[gateKey]*gate
	wake chan struct{}
}

func (g *gates) init(now func() time.Time) {
	g.now, g.all, g.wake = now, map[gateKey]*gate{}, make(chan struct{}, 1)
}

// pass is the right to make one run.
type pass struct {
	g     *gates
	f     Frozen
	route gateKey
	trial bool
	// poll says that an outage shuts the route's gate alone: 8x8 bounds some reads far
	// below what it takes otherwise.
	poll bool
}

// shut says why a run is held back, and when it is worth asking again.
type shut struct {
	why   Reason
	delay time.Duration
}

func connectionKey(f Frozen) gateKey {
	return gateKey{name: f.Connection + "\x00" + f.ConnID + "\x00" + f.ConnKey, tenant: f.Tenant}
}

func (g *gates) enter(f Frozen) (pass, *shut) {
	return g.admit(pass{g: g, f: f, route: gateKey{route: f.Route}})
}

// enterPoll is enter for a poll of a follow-up.
func (g *gates) enterPoll(f Frozen, a *catalog.Action) (pass, *shut) {
	return g.admit(pass{g: g, f: f, route: pollKey(f, a), poll: true})
}

func (g *gates) admit(p pass) (pass, *shut) {
	g.mu.RLock()
	quiet := len(g.all) == 0
	g.mu.RUnlock()
	if quiet {
		return p, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	two := [2]*gate{g.all[p.route], g.all[connectionKey(p.f)]}
	for _, one := range two {
		switch {
		case one == nil:
		case one.closed:
			return p, &shut{why: one.why, delay: max(one.until.Sub(g.now()), gateRetry)}
		case one.trial:
			return p, &shut{why: one.why, delay: gateRetry}
		}
	}
	for _, one := range two {
		if one != nil && one.failures > 0 {
			one.trial, p.trial = true, true
		}
	}
	return p, nil
}

// leave returns the pass. ran is false if no request was made; f is how the
// run failed, nil if it went well.
func (p pass) leave(ran bool, f *Failure) {
	g := p.g
	if !p.trial && f == nil {
		g.mu.RLock()
		quiet := len(g.all) == 0
		g.mu.RUnlock()
		if quiet {
			return
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	connection, route := connectionKey(p.f), p.route
	if p.trial {
		for _, k := range []gateKey{connection, route} {
			if one := g.all[k]; one != nil {
				one.trial = false
			}
		}
	}
	switch {
	case !ran || f.tooLate():
	case f == nil || f.Kind == Permanent || f.Kind == Temporary: // the service works
		if one := g.all[connection]; one != nil && !one.closed {
			delete(g.all, connection)
		}
		if one := g.all[route]; one != nil && !one.closed {
			delete(g.all, route)
		}
	case f.Kind == Outage && !p.poll:
		g.shut(connection, p.f.Place(), f)
	case f.Kind == Outage, f.Kind == Blocked:
		g.shut(route, p.f.Place(), f)
	default:
		one := g.at(connection, p.f.Place())
		if one.unknowns++; one.unknowns >= gateUnknowns || one.failures > 0 {
			g.shut(connection, p.f.Place(), f)
		}
	}
}

func (g *gates) at(k gateKey, place Place) *gate {
	one := g.all[k]
	if one == nil {
		one = &gate{place: place}
		g.all[k] = one
	}
	return one
}

func (g *gates) shut(k gateKey, place Place, f *Failure) {
	one := g.at(k, place)
	if !one.closed { // the others that were in flight say nothing new
		one.until = g.now().Add(min(gateMost, gateFirst<<min(one.failures, 10)))
		one.failures++
		one.closed, one.unknowns, one.why = true, 0, f.Reason
	}
	if f.RetryAfter > 0 {
		if until := g.now().Add(min(f.RetryAfter, maxRetryAfter)); until.After(one.until) {
			one.until = until
		}
	}
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

func (g *gates) connectionClosed(name string) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	for k, one := range g.all {
		if k.route == "" && one.closed && k.tenant == "" && cutName(k.name) == name {
			return true
		}
	}
	return false
}

func cutName(s string) string {
	for i := range len(s) {
		if s[i] == 0 {
			return s[:i]
		}
	}
	return s
}

// next returns the gates whose time is up and how long until another one's is.
func (g *gates) next() (due map[gateKey]Place, in time.Duration) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	due, in = map[gateKey]Place{}, time.Hour
	for k, one := range g.all {
		if !one.closed {
			continue
		}
		if left := one.until.Sub(g.now()); left > 0 {
			in = min(in, left)
		} else {
			due[k] = one.place
		}
	}
	return due, in
}

// probed opens a gate half way, or keeps it closed for a while longer.
func (g *gates) probed(k gateKey, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	one := g.all[k]
	if one == nil {
		return
	}
	if err == nil {
		one.closed, one.trial = false, false
		return
	}
	wait := min(gateMost, gateFirst<<min(one.failures, 10))
	if f := AsFailure(err); f.RetryAfter > 0 {
		wait = min(f.RetryAfter, maxRetryAfter)
	}
	one.failures++
	one.until = g.now().Add(wait)
}

// probe asks closed gates' places with a read, until ctx ends.
func (b *Bridge) probe(ctx context.Context) {
	for {
		due, in := b.gates.next()
		var wg sync.WaitGroup
		for k, place := range due {
			wg.Go(func() { b.gates.probed(k, b.Runner.Probe(ctx, place)) })
		}
		wg.Wait()
		if len(due) > 0 {
			continue
		}
		timer := time.NewTimer(in)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-b.gates.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}
