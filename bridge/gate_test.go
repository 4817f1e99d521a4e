package bridge

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// gateHouse is the gates with a clock that the test moves.
type gateHouse struct {
	gates
	t     *testing.T
	clock time.Time
}

func newGateHouse(t *testing.T) *gateHouse {
	h := &gateHouse{t: t, clock: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	h.init(func() time.Time { return h.clock })
	return h
}

// goes enters and must be let in.
func (h *gateHouse) goes(f Frozen) pass {
	h.t.Helper()
	p, shut := h.enter(f)
	if shut != nil {
		h.t.Fatalf("%s at %s is held back for %v: %q", f.Route, f.Connection, shut.delay, shut.why)
	}
	return p
}

// waits enters and must be held back.
func (h *gateHouse) waits(f Frozen, delay time.Duration, why Reason) {
	h.t.Helper()
	_, got := h.enter(f)
	if got == nil {
		h.t.Fatalf("%s at %s goes through, want it held back", f.Route, f.Connection)
	}
	if got.delay != delay || got.why != why {
		h.t.Fatalf("%s at %s is held back for %v: %q, want %v: %q", f.Route, f.Connection, got.delay, got.why, delay, why)
	}
}

// due lists the gates to be probed now, and looks when the next one is.
func (h *gateHouse) due(want int, in time.Duration) (due []gateKey) {
	h.t.Helper()
	for {
		k, _, next := h.next()
		if next > 0 {
			if len(due) != want || want == 0 && next != in {
				h.t.Fatalf("%d gates to be probed and the next in %v, want %d in %v", len(due), next, want, in)
			}
			return due
		}
		due = append(due, k)
	}
}

func (h *gateHouse) open(n int) {
	h.t.Helper()
	if len(h.all) != n {
		h.t.Fatalf("%d gates are remembered, want %d: %v", len(h.all), n, h.all)
	}
}

var (
	shipped  = Frozen{Route: "shipped", Connection: "main", ConnKey: "8x8-main"}
	returned = Frozen{Route: "returned", Connection: "main", ConnKey: "8x8-main"}
	abroad   = Frozen{Route: "abroad", Connection: "other", ConnKey: "8x8-other"}
	outage   = &Failure{Kind: Outage, Reason: "away"}
	blocked  = &Failure{Kind: Blocked, Reason: ReasonActionMissing}
	unclear  = &Failure{Kind: Unknown, Reason: ReasonOutcomeUnknown}
)

func TestGateOutage(t *testing.T) {
	t.Parallel()
	h := newGateHouse(t)
	h.goes(shipped).leave(true, nil)
	h.open(0)
	h.goes(shipped).leave(true, outage)
	h.waits(shipped, time.Second, "away")
	h.waits(returned, time.Second, "away") // the connection is shut, not the route
	h.goes(abroad).leave(true, nil)
	h.due(0, time.Second)
	h.clock = h.clock.Add(time.Second)
	h.waits(shipped, gateRetry, "away") // its time is up, but nobody has looked yet

	key := h.due(1, 0)[0]
	h.probed(key, outage)
	h.waits(shipped, 2*time.Second, "away")
	h.clock = h.clock.Add(2 * time.Second)
	h.probed(key, errors.New("no answer"))
	h.waits(shipped, gateMost, "away")
	for range 20 { // however long it lasts
		h.clock = h.clock.Add(gateMost)
		h.due(1, 0)
		h.probed(key, outage)
		h.waits(shipped, gateMost, "away")
	}
}

func TestGateRetryAfter(t *testing.T) {
	t.Parallel()
	tests := []struct{ asked, want time.Duration }{
		{0, time.Second}, {100 * time.Millisecond, time.Second}, {30 * time.Second, 30 * time.Second}, {48 * time.Hour, time.Hour},
	}
	for _, test := range tests {
		h := newGateHouse(t)
		h.goes(shipped).leave(true, &Failure{Kind: Outage, Reason: "away", RetryAfter: test.asked})
		h.waits(shipped, test.want, "away")
	}
	h := newGateHouse(t)
	h.goes(shipped).leave(true, outage)
	h.clock = h.clock.Add(time.Second)
	h.probed(h.due(1, 0)[0], &Failure{Kind: Outage, RetryAfter: 20 * time.Second}) // to the probe
	h.waits(shipped, 20*time.Second, "away")
}

// What was in flight when a gate was shut says nothing new, except when it was
// told to wait for longer.
func TestGateInFlight(t *testing.T) {
	t.Parallel()
	h := newGateHouse(t)
	var flying []pass
	for range 6 {
		flying = append(flying, h.goes(shipped))
	}
	for _, p := range flying[:4] {
		p.leave(true, outage)
	}
	h.waits(shipped, time.Second, "away")
	flying[4].leave(true, &Failure{Kind: Outage, RetryAfter: 10 * time.Second})
	h.waits(shipped, 10*time.Second, "away")
	flying[5].leave(true, nil) // began before the trouble did
	h.waits(shipped, 10*time.Second, "away")
	h.clock = h.clock.Add(10 * time.Second)
	h.probed(h.due(1, 0)[0], nil)
	h.goes(shipped).leave(true, outage)
	h.waits(shipped, 2*time.Second, "away") // the second time in a row
}

func TestGateHalfOpen(t *testing.T) {
	t.Parallel()
	h := newGateHouse(t)
	h.goes(shipped).leave(true, outage)
	h.clock = h.clock.Add(time.Second)
	h.probed(h.due(1, 0)[0], nil)

	trial := h.goes(shipped)
	h.waits(shipped, gateRetry, "away")
	h.waits(returned, gateRetry, "away") // one at a time, of all that share the connection
	trial.leave(false, nil)              // it never ran: somebody else may try
	trial = h.goes(returned)
	h.waits(shipped, gateRetry, "away")
	trial.leave(true, TooLate()) // nor did this one
	trial = h.goes(shipped)
	h.waits(shipped, gateRetry, "away")
	trial.leave(true, nil)
	h.open(0)
	h.goes(shipped)
	h.goes(shipped)
}

// An answer about the event shows that the service works.
func TestGateOpens(t *testing.T) {
	t.Parallel()
	for _, kind := range []Kind{Permanent, Temporary} {
		h := newGateHouse(t)
		h.goes(shipped).leave(true, outage)
		h.clock = h.clock.Add(time.Second)
		h.probed(h.due(1, 0)[0], nil)
		h.goes(shipped).leave(true, &Failure{Kind: kind})
		h.open(0)
		h.goes(shipped)
		h.goes(returned)
	}
}

func TestGateBlocked(t *testing.T) {
	t.Parallel()
	h := newGateHouse(t)
	h.goes(shipped).leave(true, blocked)
	h.waits(shipped, time.Second, ReasonActionMissing)
	h.goes(returned).leave(true, nil) // nothing is wrong with the connection
	h.waits(shipped, time.Second, ReasonActionMissing)
	if h.connectionClosed("main") {
		t.Error("the connection is closed because of a route")
	}
	h.clock = h.clock.Add(time.Second)
	h.probed(h.due(1, 0)[0], nil)
	trial := h.goes(shipped)
	h.waits(shipped, gateRetry, ReasonActionMissing)
	h.goes(returned).leave(true, nil)
	trial.leave(true, blocked)
	h.waits(shipped, 2*time.Second, ReasonActionMissing)
}

func TestGateUnknowns(t *testing.T) {
	t.Parallel()
	h := newGateHouse(t)
	for range gateUnknowns - 1 {
		h.goes(shipped).leave(true, unclear)
	}
	h.goes(returned).leave(true, nil) // not in a row
	h.open(0)
	for range gateUnknowns - 1 {
		h.goes(shipped).leave(true, unclear)
	}
	h.goes(returned).leave(true, unclear)
	h.waits(shipped, time.Second, ReasonOutcomeUnknown)
	h.goes(abroad)

	h.clock = h.clock.Add(time.Second)
	h.probed(h.due(1, 0)[0], nil)
	h.goes(shipped).leave(true, unclear) // on trial, one is enough
	h.waits(shipped, 2*time.Second, ReasonOutcomeUnknown)
}

// Neither a run that did not happen nor one that came too late says anything.
func TestGateSaysNothing(t *testing.T) {
	t.Parallel()
	h := newGateHouse(t)
	for range 10 {
		h.goes(shipped).leave(false, outage)
		h.goes(shipped).leave(true, TooLate())
	}
	h.open(0)
	h.goes(shipped)
}

func TestGateTenants(t *testing.T) {
	t.Parallel()
	h := newGateHouse(t)
	ours, theirs := shipped, shipped
	ours.Tenant, theirs.Tenant = "acme", "example"
	h.goes(ours).leave(true, outage)
	h.waits(ours, time.Second, "away")
	h.goes(theirs).leave(true, nil)
	h.goes(shipped).leave(true, nil)
	if h.connectionClosed("main") {
		t.Error("the connection is closed for all because one tenant's is")
	}
	h.clock = h.clock.Add(time.Second)
	_, place, _ := h.next()
	if diff := cmp.Diff(Place{Tenant: "acme", ConnectionKey: "8x8-main"}, place); diff != "" {
		t.Errorf("probed at (-want +got):\n%s", diff)
	}
}

func TestConnectionClosed(t *testing.T) {
	t.Parallel()
	h := newGateHouse(t)
	closed := func(want map[string]bool) {
		t.Helper()
		got := map[string]bool{}
		for name := range want {
			got[name] = h.connectionClosed(name)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("closed connections (-want +got):\n%s", diff)
		}
	}
	closed(map[string]bool{"main": false, "other": false, "": false})
	h.goes(shipped).leave(true, outage)
	closed(map[string]bool{"main": true, "other": false, "": false})
	unnamed := Frozen{Route: "plain", ConnID: "0123456789abcdef01234567"}
	h.goes(unnamed).leave(true, outage)
	closed(map[string]bool{"main": true, "other": false, "": true})
	h.clock = h.clock.Add(time.Second)
	for _, k := range h.due(2, 0) {
		h.probed(k, nil)
	}
	closed(map[string]bool{"main": false, "other": false, "": false}) // half open: its pairs must be taken for one to be tried
}

// A gate that nobody shut is not made by asking about it.
func TestGateProbedAfterItOpened(t *testing.T) {
	t.Parallel()
	h := newGateHouse(t)
	h.goes(shipped).leave(true, outage)
	h.clock = h.clock.Add(time.Second)
	key := h.due(1, 0)[0]
	h.probed(key, nil)
	h.goes(shipped).leave(true, nil)
	h.probed(key, outage) // of a look that took long
	h.open(0)
}

// What one tenant's connection needs a person for is nothing to the others, of the
// same route too.
func TestGateBlockedTenant(t *testing.T) {
	t.Parallel()
	h := newGateHouse(t)
	ours, theirs := shipped, shipped
	ours.Tenant, theirs.Tenant = "acme", "example"
	h.goes(ours).leave(true, &Failure{Kind: Blocked, Reason: ReasonNotReady})
	h.waits(ours, time.Second, ReasonNotReady)
	h.goes(theirs).leave(true, nil)
	h.waits(ours, time.Second, ReasonNotReady)
	if h.connectionClosed("main") {
		t.Error("the connection is closed for all because one tenant's is")
	}
}

func tenant(i int) Frozen {
	f := shipped
	f.Tenant = "t" + strconv.Itoa(i)
	return f
}

// Those who are sent away come again so many at a time, whatever their number and
// that of the gates.
func TestGateLine(t *testing.T) {
	t.Parallel()
	for _, gates := range []int{1, 10, 1000} {
		h := newGateHouse(t)
		for i := range gates {
			h.goes(tenant(i)).leave(true, outage)
		}
		come := map[int]int{} // by the gateRetry in which they do
		for i := range 20_000 {
			_, shut := h.enter(tenant(i % gates))
			if shut == nil || shut.delay < time.Second {
				t.Fatalf("%d: %+v", i, shut)
			}
			come[int(shut.delay/gateRetry)]++
		}
		for at, n := range come {
			// Each gate may begin with one, whatever the others do.
			if n > max(min(linesMost, gates*lineMost), gates) {
				t.Errorf("%d gates: %d come in the %dth %v", gates, n, at, gateRetry)
			}
		}
	}
}

// However many gates are closed, two probes in a second fail, and a gate that was
// closed just now does not stand behind those which have been closed for long.
func TestGatesAreProbedInTurn(t *testing.T) {
	t.Parallel()
	const many = 200
	h := newGateHouse(t)
	for i := range many {
		h.goes(tenant(i)).leave(true, outage)
	}
	probes := map[string]int{}
	probe := func(d time.Duration) (n int) {
		for end := h.clock.Add(d); h.clock.Before(end); {
			k, place, in := h.next()
			if in > 0 {
				h.clock = h.clock.Add(in)
				continue
			}
			for i := range many { // whose pairs still wait
				h.enter(tenant(i))
			}
			n++
			probes[place.Tenant]++
			h.probed(k, outage)
		}
		return n
	}
	if n := probe(2 * time.Minute); n > 241 {
		t.Errorf("%d probes in two minutes", n)
	}
	for i := range many {
		if n := probes[tenant(i).Tenant]; n < 1 || n > 2 {
			t.Errorf("tenant %d was probed %d times", i, n)
		}
	}
	fresh := shipped
	fresh.Tenant = "fresh"
	h.goes(fresh).leave(true, outage)
	probe(2 * time.Second)
	if probes["fresh"] == 0 {
		t.Error("a gate closed just now waits for those that were closed before")
	}

	// Once they are well, nothing holds them up.
	opened, begun := 0, h.clock
	for h.clock.Sub(begun) < 2*gateMost {
		k, _, in := h.next()
		if in > 0 {
			h.clock = h.clock.Add(in)
			continue
		}
		opened++
		h.probed(k, nil)
	}
	if opened != many+1 {
		t.Errorf("%d of %d gates opened within %v", opened, many+1, 2*gateMost)
	}
}

// A tenant that nobody sends to any more is not probed for ever, and gates are not
// remembered without end.
func TestGatesAreForgotten(t *testing.T) {
	t.Parallel()
	h := newGateHouse(t)
	gone := shipped
	gone.Tenant = "gone"
	h.goes(gone).leave(true, outage)
	h.goes(shipped).leave(true, outage) // this one is looked at whatever comes: its pairs are not taken while it is closed
	for range 100 {
		h.clock = h.clock.Add(gateMost)
		if k, _, in := h.next(); in <= 0 {
			h.probed(k, outage)
		}
	}
	h.open(1)

	for i := range 2 * maxGates {
		p := h.goes(tenant(i))
		if i%2 == 0 {
			p.leave(true, unclear)
		} else {
			p.leave(true, outage)
		}
	}
	if len(h.all) > maxGates {
		t.Errorf("%d gates are remembered", len(h.all))
	}
	h.goes(gone).leave(true, outage) // beyond them, each finds out for itself
	h.goes(gone)
}
