package bridge

import (
	"errors"
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

// due lists the places to be probed now, and when the next one is.
func (h *gateHouse) due(want int, in time.Duration) []gateKey {
	h.t.Helper()
	due, next := h.next()
	if len(due) != want || want == 0 && next != in {
		h.t.Fatalf("%d gates to be probed and the next in %v, want %d in %v", len(due), next, want, in)
	}
	var keys []gateKey
	for k := range due {
		keys = append(keys, k)
	}
	return keys
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
	due, _ := h.next()
	if len(due) != 1 {
		t.Fatalf("%d gates to be probed, want 1", len(due))
	}
	for _, place := range due {
		if diff := cmp.Diff(Place{Tenant: "acme", ConnectionKey: "8x8-main"}, place); diff != "" {
			t.Errorf("probed at (-want +got):\n%s", diff)
		}
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
