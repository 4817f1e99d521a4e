package telemetry

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/bridge8x8/bridge8x8/bridge"
)

// Log lines of one kind of trouble: so many at once, then so many a second. With
// NATS away every worker has the same to say, over and over.
const (
	troubleBurst = 10
	troubleRate  = rate.Limit(1)
)

// Observer is told what happens in a bridge, counts it and logs it. It is a
// bridge.Observer.
type Observer struct {
	metrics *Metrics
	log     *slog.Logger
	now     func() time.Time

	mu       sync.Mutex
	troubles map[string]*trouble // by what; as many as the code has texts
}

type trouble struct {
	limit   *rate.Limiter
	dropped int // lines since the last one that was written
}

var _ bridge.Observer = (*Observer)(nil)

// NewObserver makes an Observer of both.
func NewObserver(m *Metrics, log *slog.Logger) *Observer {
	return &Observer{metrics: m, log: log, now: time.Now, troubles: map[string]*trouble{}}
}

// Taken counts an event taken from a source.
func (o *Observer) Taken(source string) { o.metrics.Taken(source) }

// Unrouted counts an event that no route matches.
func (o *Observer) Unrouted(source string) {
	o.metrics.Unrouted(source)
	o.debug("no route matches an event", slog.String("source", source))
}

// Ran counts a request that ended.
func (o *Observer) Ran(route, action, kind string, took time.Duration) {
	o.metrics.Ran(action, kind, took)
	o.debug("run ended", slog.String("route", route), slog.String("action", action), slog.String("kind", kind), slog.Duration("took", took))
}

// Ended counts a pair's outcome and logs it: a failure is one of the normal ends
// of an event, an unknown outcome needs a person.
func (o *Observer) Ended(route, action string, state bridge.State, reason bridge.Reason, since time.Duration) {
	o.metrics.Ended(route, action, state, reason, since)
	level := slog.LevelInfo
	switch state {
	case bridge.Succeeded:
		level = slog.LevelDebug
	case bridge.UnknownSt:
		level = slog.LevelWarn
	}
	o.log.LogAttrs(context.Background(), level, "event ended", slog.String("route", route), slog.String("action", action),
		slog.String("state", string(state)), slog.String("reason", string(reason)), slog.Duration("since", since))
}

// debug logs what happens to every event, which costs next to nothing when debug
// lines are off.
func (o *Observer) debug(what string, attrs ...slog.Attr) {
	o.log.LogAttrs(context.Background(), slog.LevelDebug, what, attrs...)
}

// Waits counts a pair that was set to wait.
func (o *Observer) Waits(route string, why bridge.Reason) {
	o.metrics.Waits(route, why)
	o.debug("event waits", slog.String("route", route), slog.String("why", whyLabel(why)))
}

// Logged tells whether Membrane shows the logs of our runs.
func (o *Observer) Logged(kept bool) { o.metrics.Logged(kept) }

// Trouble logs what an operator should see, and how many lines of the same kind
// were left out before it. what must be a constant of the code.
func (o *Observer) Trouble(what string, args ...any) {
	o.metrics.Trouble()
	o.mu.Lock()
	t := o.troubles[what]
	if t == nil {
		t = &trouble{limit: rate.NewLimiter(troubleRate, troubleBurst)}
		o.troubles[what] = t
	}
	if !t.limit.AllowN(o.now(), 1) {
		t.dropped++
		o.mu.Unlock()
		return
	}
	dropped := t.dropped
	t.dropped = 0
	o.mu.Unlock()
	if dropped > 0 {
		args = append(slices.Clip(args), "leftOut", dropped)
	}
	o.log.Error(what, args...)
}
