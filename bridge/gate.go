package bridge

import (
	"context"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// Gates hold runs back while a connection or a route cannot do any good (rules
// R8, R9): one gate for each connection of each tenant, closed by refusals and
// by unclear outcomes in a row, and one for each route there, closed by answers
// that say the route itself must be mended, or this tenant's connection. A
// closed gate is probed with a read, then lets one event at a time through until
// one comes back well.
//
// There is an entry only for a gate that has seen trouble, so that the usual
// way costs one look at an empty map.
//
// Tenants may be many, and so may closed gates be. What they cost all others is
// bounded: how many pairs come to ask at them (see line), and how many probes
// fail, since who waits to be probed waits in turn.
const (
	gateFirst     = time.Second     // closed for this long at first, without a Retry-After
	gateMost      = 4 * time.Second // and at most for this long between probes
	gateUnknowns  = 5               // this many unclear outcomes in a row close a connection
	gateRetry     = 250 * time.Millisecond
	maxRetryAfter = time.Hour

	maxGates   = 10_000                 // remembered; beyond them each pair finds out for itself
	maxProbes  = 8                      // at a time: one that is not answered holds up none of the others
	probePause = 500 * time.Millisecond // after one that failed: two of those in a second, whatever the number of gates
	gateForget = time.Minute            // a tenant's gate that nobody has come to for so long is not probed any more
)

type gateKey struct {
	route  string // identity of the one route that it is for; "" for all at the place
	name   string // of the connection, its id and its key
	tenant string
}

type gate struct {
	place    Place
	until    time.Time // closed at least until then
	closed   bool
	asked    bool // by a probe that is under way
	trial    bool // half open, and one event is through
	failures int  // closings in a row
	unknowns int
	why      Reason
	line     line // of those who are sent away
}

type gates struct {
	now  func() time.Time
	mu   sync.RWMutex
	all  map[gateKey]*gate
	shut map[string]int // closed gates of connections, without those of tenants, by name
	rest time.Time      // no probe before
	wake chan struct{}
}

func (g *gates) init(now func() time.Time) {
	g.now, g.all, g.shut, g.wake = now, map[gateKey]*gate{}, map[string]int{}, make(chan struct{}, 1)
}

// line tells those who are sent away when to come again, so that they do not all
// come at once: there may be thousands that wait for one tenant, and each time
// that they come they take turns with the pairs of all others.
type line struct {
	at   time.Time
	here int // told to come then
}

// How many come in each gateRetry, of one line and of all together: 64 and 512 in
// a second, each of which costs half of what an event costs that is sent.
const (
	lineMost  = 16
	linesMost = 128
)

// next is when to come again, not sooner than after so long; of is how many lines there are.
func (l *line) next(now time.Time, soonest time.Duration, of int) time.Duration {
	at, step := now.Add(soonest), gateRetry*time.Duration(1+of/linesMost)
	switch {
	case !at.Before(l.at.Add(step)):
		l.at, l.here = at, 0
	case at.Before(l.at):
		at = l.at
	}
	if l.here++; l.here >= max(1, min(lineMost, linesMost/max(1, of))) {
		l.at, l.here = l.at.Add(step), 0
	}
	return at.Sub(now)
}

// pass is the right to make one run.
type pass struct {
	g     *gates
	f     Frozen
	route string // whose gate is asked beside the connection's
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

// of is the key of one route, or of what polls for one, at the same place.
func (k gateKey) of(route string) gateKey {
	k.route = route
	return k
}

func (g *gates) enter(f Frozen) (pass, *shut) {
	return g.admit(pass{g: g, f: f, route: f.Route})
}

// enterPoll is enter for a poll of a follow-up.
func (g *gates) enterPoll(f Frozen, a *catalog.Action) (pass, *shut) {
	return g.admit(pass{g: g, f: f, route: pollKey(f, a).route, poll: true})
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
	now, connection := g.now(), connectionKey(p.f)
	two := [2]*gate{g.all[connection.of(p.route)], g.all[connection]}
	for _, one := range two {
		switch {
		case one == nil:
		case one.closed:
			return p, g.sendAway(p.f, one, max(one.until.Sub(now), gateRetry))
		case one.trial:
			return p, g.sendAway(p.f, one, gateRetry)
		}
	}
	for _, one := range two {
		if one != nil && one.failures > 0 {
			one.trial, p.trial = true, true
		}
	}
	return p, nil
}

// sendAway says when to come again. Those of a tenant stand in line; what waits for a
// connection that has only one keeps nobody from anything, and is wanted at once when
// its gate opens.
func (g *gates) sendAway(f Frozen, one *gate, delay time.Duration) *shut {
	if f.Tenant != "" {
		delay = one.line.next(g.now(), delay, len(g.all))
	}
	return &shut{why: one.why, delay: delay}
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
	connection := connectionKey(p.f)
	route := connection.of(p.route)
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
		g.close(connection, p.f.Place(), f)
	case f.Kind == Outage, f.Kind == Blocked:
		g.close(route, p.f.Place(), f)
	default:
		one := g.at(connection, p.f.Place())
		if one == nil {
			return
		}
		if one.unknowns++; one.unknowns >= gateUnknowns || one.failures > 0 {
			g.close(connection, p.f.Place(), f)
		}
	}
}

// at is the gate of a key; nil if it is none yet and there are too many.
func (g *gates) at(k gateKey, place Place) *gate {
	one := g.all[k]
	if one == nil {
		if len(g.all) >= maxGates {
			maps.DeleteFunc(g.all, func(_ gateKey, one *gate) bool { return !one.closed && !one.trial })
		}
		if len(g.all) >= maxGates {
			return nil
		}
		one = &gate{place: place}
		g.all[k] = one
	}
	return one
}

func (g *gates) close(k gateKey, place Place, f *Failure) {
	one := g.at(k, place)
	if one == nil {
		return
	}
	if !one.closed { // the others that were in flight say nothing new
		one.until = g.now().Add(min(gateMost, gateFirst<<min(one.failures, 10)))
		one.failures++
		one.closed, one.unknowns, one.why = true, 0, f.Reason
		if one.line.at.Before(one.until) {
			one.line.at = one.until // whose run it was comes then
		}
		if k.ofAll() {
			g.shut[cutName(k.name)]++
		}
	}
	if f.RetryAfter > 0 {
		if until := g.now().Add(min(f.RetryAfter, maxRetryAfter)); until.After(one.until) {
			one.until = until
		}
	}
	g.stir()
}

// stir makes the prober look again.
func (g *gates) stir() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// ofAll says whether nothing can pass at the connection while the gate is closed.
func (k gateKey) ofAll() bool { return k.route == "" && k.tenant == "" }

func (g *gates) connectionClosed(name string) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.shut[name] > 0
}

func cutName(s string) string {
	name, _, _ := strings.Cut(s, "\x00")
	return name
}

// next picks the gate to be probed now, or says how long until there may be one.
// One that was closed just now comes before those that were often looked at in
// vain, so that these, however many, do not hold it up.
func (g *gates) next() (k gateKey, place Place, in time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	if left := g.rest.Sub(now); left > 0 {
		return k, place, left
	}
	in = time.Hour
	var best *gate
	for key, one := range g.all {
		if !one.closed || one.asked {
			continue
		}
		if left := one.until.Sub(now); left > 0 {
			in = min(in, left)
			continue
		}
		if key.tenant != "" && now.Sub(one.line.at) > gateForget {
			delete(g.all, key) // who comes after all tries it himself
			continue
		}
		if best == nil || one.failures < best.failures || one.failures == best.failures && one.until.Before(best.until) {
			k, best = key, one
		}
	}
	if best == nil {
		return k, place, in
	}
	best.asked = true
	return k, best.place, 0
}

// probed opens a gate half way, or keeps it closed for a while longer.
func (g *gates) probed(k gateKey, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	if err != nil {
		g.rest = now.Add(probePause)
	}
	one := g.all[k]
	if one == nil || !one.closed {
		return
	}
	one.asked = false
	if err == nil {
		one.closed, one.trial = false, false
		if k.ofAll() {
			if name := cutName(k.name); g.shut[name] > 1 {
				g.shut[name]--
			} else {
				delete(g.shut, name)
			}
		}
		return
	}
	wait := min(gateMost, gateFirst<<min(one.failures, 10))
	if f := AsFailure(err); f.RetryAfter > 0 {
		wait = min(f.RetryAfter, maxRetryAfter)
	}
	one.failures++
	one.until = now.Add(wait)
	g.stir()
}

// probe asks closed gates' places with a read, until ctx ends.
func (b *Bridge) probe(ctx context.Context) {
	busy := make(chan struct{}, maxProbes)
	var wg sync.WaitGroup
	defer wg.Wait()
	for ctx.Err() == nil {
		k, place, in := b.gates.next()
		if in > 0 {
			timer := time.NewTimer(in)
			select {
			case <-ctx.Done():
			case <-b.gates.wake:
			case <-timer.C:
			}
			timer.Stop()
			continue
		}
		select {
		case busy <- struct{}{}:
		case <-ctx.Done():
			return
		}
		wg.Go(func() {
			defer func() { <-busy }()
			b.gates.probed(k, b.Runner.Probe(ctx, place))
		})
	}
}
