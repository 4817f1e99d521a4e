package bridge

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/bridge8x8/bridge8x8/handlers"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// The bridge's clockwork. Durations that a run's safety hangs on (rule R5).
const (
	// sendBy is how long after asking for a claim the first byte may still leave.
	sendBy = 5 * time.Second
	// logMargin is how long after a run's last possible moment its log may still be on its way.
	logMargin = 7 * time.Second
	// listBefore is how long before the oldest claim a listing of run logs begins:
	// the service's clock need not agree with ours.
	listBefore = 10 * time.Minute
	// troubleDelay is how soon an event comes again that met a ledger or stream in trouble.
	troubleDelay = 2 * time.Second
	// maxOutput is the largest output that goes into a record and a result whole (rule R13).
	maxOutput = 64 << 10
	// leastAsked is how many requests may be under way at least, whatever the concurrency (rule R19).
	leastAsked = 64
	// maxCause is how large the attributes of an event that are kept in its record may be in all.
	maxCause = 64 << 10
)

// Options is what a Bridge is made of. Everything but Observer and the last
// three is required.
type Options struct {
	// Name is the bridge's logical name, the same for all replicas.
	Name   string
	Ledger Ledger
	Outbox Outbox
	Runner Runner
	// Catalog tells how the outputs of actions are read.
	Catalog  *catalog.Catalog
	Observer Observer
	// Requests answers requests; nil: there are none.
	Requests Requests
	// Concurrency is how many runs may be in flight. Defaults to 64.
	Concurrency int
	// RunLimit is the longest that the service lets a run take. Defaults to 60 seconds.
	RunLimit time.Duration
	// LogMargin replaces the time that a run log may be late. Defaults to 7 seconds.
	LogMargin time.Duration
	// Now is the wall clock. Defaults to time.Now.
	Now func() time.Time
	// Hook is called at named steps of an event's life; only tests set it.
	Hook func(step string, key Key)
}

// Bridge carries events from their delivery to their outcome.
type Bridge struct {
	Options
	source string // of result events

	mu    sync.RWMutex
	table *handlers.Table

	slots    slots         // one for each run in flight
	draining chan struct{} // closed when nothing new may be started
	drain    sync.Once
	gates    gates
	doubts   *reconciler
	turns    turns
	looks    looks

	witnesses witnesses

	asked chan struct{} // one for each request under way

	self     string // this process, in marks (R14)
	care     care
	examined harmless
}

// New makes a bridge that has no routes yet; give it some with SetTable.
func New(o Options) (*Bridge, error) {
	if o.Name == "" || o.Ledger == nil || o.Outbox == nil || o.Runner == nil || o.Catalog == nil {
		return nil, errors.New("a bridge needs a name, a ledger, an outbox, a runner and a catalog")
	}
	if o.Concurrency == 0 {
		o.Concurrency = 64
	}
	if o.Concurrency < 0 {
		return nil, fmt.Errorf("concurrency %d: must be positive", o.Concurrency)
	}
	if o.RunLimit <= 0 {
		o.RunLimit = time.Minute
	}
	if o.LogMargin <= 0 {
		o.LogMargin = logMargin
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Observer == nil {
		o.Observer = silent{}
	}
	if o.Hook == nil {
		o.Hook = func(string, Key) {}
	}
	b := &Bridge{
		Options: o, source: "/bridge8x8/" + o.Name,
		draining: make(chan struct{}),
		asked:    make(chan struct{}, max(leastAsked, 4*o.Concurrency)),
	}
	b.gates.init(o.Now)
	b.slots.init(o.Concurrency, o.Now)
	b.self = newTry()
	b.care.init()
	b.doubts = newReconciler(b)
	b.witnesses.init()
	return b, nil
}

// SetTable swaps the routes. Events already matched keep theirs (rule R2).
func (b *Bridge) SetTable(t *handlers.Table) {
	b.mu.Lock()
	b.table = t
	b.mu.Unlock()
	b.examined.forget()
	b.slots.setShared(t.Places() > 1)
}

func (b *Bridge) routes() *handlers.Table {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.table
}

// Run does the bridge's background work until ctx ends: it settles doubts,
// looks for late evidence and probes closed gates. Deliveries still in doubt at the end are handed back.
func (b *Bridge) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { b.doubts.run(ctx) })
	wg.Go(func() { b.probe(ctx) })
	wg.Go(func() { b.sweep(ctx) })
	wg.Go(func() { b.watchLogs(ctx) })
	wg.Wait()
}

// Drain makes the bridge start nothing more: what was not started is handed
// back, what runs is seen through (rule R16).
func (b *Bridge) Drain() { b.drain.Do(func() { close(b.draining) }) }

// Draining says whether Drain was called.
func (b *Bridge) Draining() bool {
	select {
	case <-b.draining:
		return true
	default:
		return false
	}
}

// HandBack hands back what is held in doubt; another process, or the next one,
// goes on with it.
func (b *Bridge) HandBack() { b.doubts.handBack() }

// Closed says whether runs at a connection are held back, so that pairs set
// aside for it need not be taken yet (rule R9).
func (b *Bridge) Closed(connection string) bool { return b.gates.connectionClosed(connection) }

// InFlight is how many runs are under way right now.
func (b *Bridge) InFlight() int { return b.slots.inUse() }

type silent struct{}

func (silent) Taken(string)                                       {}
func (silent) Unrouted(string)                                    {}
func (silent) Ran(string, string, string, time.Duration)          {}
func (silent) Ended(string, string, State, Reason, time.Duration) {}
func (silent) Waits(string, Reason)                               {}
func (silent) Logged(bool)                                        {}
func (silent) Trouble(string, ...any)                             {}
