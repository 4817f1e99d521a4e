package telemetry

import (
	"maps"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/bridge8x8/bridge8x8/bridge"
)

// none is the label value of what belongs to no source or route of the
// configuration: an event that is no CloudEvent, the rest of a route that has
// been removed. Dead letters use the same sign in their subjects.
const none = "_"

// outage is the "why" of a pair that waits for no reason of its own.
const outage = "outage"

// Metrics are the process' own Prometheus metrics, on a registry of their own.
// Its methods may be called by many goroutines at once and cost no more than a
// map lookup.
type Metrics struct {
	registry *prometheus.Registry

	taken     *prometheus.CounterVec   // source
	unrouted  *prometheus.CounterVec   // source
	outcomes  *prometheus.CounterVec   // route, action, state
	failures  *prometheus.CounterVec   // route, reason
	runs      *prometheus.CounterVec   // action, kind
	waits     *prometheus.CounterVec   // route, why
	runTime   *prometheus.HistogramVec // action
	eventTime *prometheus.HistogramVec // route
	requests  *prometheus.CounterVec   // endpoint, code
	posts     *prometheus.CounterVec   // verdict

	troubles     prometheus.Counter
	ledgerFailed prometheus.Counter
	connected    prometheus.Gauge
	logsMissing  prometheus.Gauge
	givenUp      prometheus.Counter
	sinkWaiting  prometheus.Gauge
	reloaded     prometheus.Gauge
	reloadedAt   prometheus.Gauge
	inFlight     atomic.Pointer[func() int]

	mu     sync.Mutex // for writers of series
	series atomic.Pointer[series]
}

// series are the handles of what the configuration names, looked up once.
type series struct {
	sources  map[string]sourceSeries
	routes   map[string]routeSeries
	actions  map[string]actionSeries
	outcomes map[Route]map[bridge.State]prometheus.Counter
}

type sourceSeries struct {
	taken, unrouted prometheus.Counter
}

type routeSeries struct {
	failures  map[bridge.Reason]prometheus.Counter
	waits     map[bridge.Reason]prometheus.Counter
	eventTime prometheus.Observer
}

type actionSeries struct {
	runs    map[string]prometheus.Counter // by kind
	runTime prometheus.Observer
}

// Route is a route of the configuration and the action that it runs, by key or
// else by id.
type Route struct {
	Name, Action string
}

// NewMetrics makes the metrics of a process of that version. Everything whose
// labels do not depend on the configuration is there from the start; Preset adds
// the rest.
func NewMetrics(version string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "bridge8x8_" + name, Help: help}, labels)
		m.registry.MustRegister(c)
		return c
	}
	seconds := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "bridge8x8_" + name, Help: help, Buckets: buckets}, labels)
		m.registry.MustRegister(h)
		return h
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "bridge8x8_" + name, Help: help})
		m.registry.MustRegister(g)
		return g
	}

	m.taken = counter("events_taken_total", "Events taken from a source, redeliveries included.", "source")
	m.unrouted = counter("events_unrouted_total", "Events that no route matches.", "source")
	m.outcomes = counter("outcomes_total", "Pairs of event and route that ended, by how: succeeded, failed or unknown.", "route", "action", "state")
	m.failures = counter("failures_total", "Pairs that ended as failed or unknown, by reason.", "route", "reason")
	m.runs = counter("runs_total", "Requests to run an action that ended, by kind: ok, outage, blocked, temporary, permanent or unknown.", "action", "kind")
	m.waits = counter("waits_total", "Times that a pair was set to wait, by why.", "route", "why")
	// An action takes a fraction of a second, and never longer than Membrane's limit.
	m.runTime = seconds("run_seconds", "Time from a claim to the answer of its run.",
		[]float64{.025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120}, "action")
	// An event that has to wait may take days.
	m.eventTime = seconds("event_seconds", "Time from when an event was stored to its outcome on a route.",
		[]float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 6 * 3600, 24 * 3600}, "route")
	m.requests = counter("http_requests_total", "Requests answered by the public listener, by endpoint and status code.", "endpoint", "code")

	troubles := counter("troubles_total", "Things that an operator should look at; each has a log line, unless there are too many.")
	m.troubles = troubles.WithLabelValues()
	ledger := counter("ledger_failed_total", "Reads and writes of the ledger that failed or stayed unclear.")
	m.ledgerFailed = ledger.WithLabelValues()
	m.connected = gauge("nats_connected", "1 while the connection to NATS is up.")
	m.posts = counter("sink_posts_total", "Events posted to the sink, repetitions included, by what it answered: accepted, refused, failed or unavailable.", "verdict")
	for _, verdict := range []string{"accepted", "refused", "failed", "unavailable"} {
		m.posts.WithLabelValues(verdict)
	}
	givenUp := counter("sink_given_up_total", "Events that the sink refused or failed over too often, and that are not posted again; each has a log line.")
	m.givenUp = givenUp.WithLabelValues()
	m.sinkWaiting = gauge("sink_waiting", "Events that the sink has not accepted yet.")
	m.logsMissing = gauge("run_logs_missing", "1 once Membrane was found to show no logs of our runs, by which a crash is settled.")
	m.reloaded = gauge("config_last_reload_successful", "1 if the newest configuration is in use, 0 if it was refused.")
	m.reloadedAt = gauge("config_last_reload_success_timestamp_seconds", "When the configuration in use was loaded.")
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bridge8x8_runs_in_flight", Help: "Runs under way right now.",
	}, func() float64 {
		if count := m.inFlight.Load(); count != nil {
			return float64((*count)())
		}
		return 0
	}))

	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "bridge8x8_build_info", Help: "1, with the version as labels.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	m.registry.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	m.series.Store(&series{})
	m.Preset([]string{none}, []Route{{Name: none, Action: none}})
	return m
}

// Preset makes every series of the configuration's sources and routes appear, at
// zero, so that a rate or an alert has something to start from. A reload calls
// it again; what is no longer configured keeps its last values. Names that
// were never preset are counted under "_".
func (m *Metrics) Preset(sources []string, routes []Route) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.series.Load()
	next := &series{
		sources: copied(old.sources), routes: copied(old.routes), actions: copied(old.actions), outcomes: copied(old.outcomes),
	}
	for _, name := range sources {
		next.sources[name] = sourceSeries{taken: m.taken.WithLabelValues(name), unrouted: m.unrouted.WithLabelValues(name)}
	}
	for _, route := range routes {
		next.routes[route.Name] = m.newRoute(route.Name)
		next.actions[route.Action] = m.newAction(route.Action)
		next.outcomes[route] = m.newOutcomes(route)
	}
	m.series.Store(next)
}

func copied[K comparable, V any](from map[K]V) map[K]V {
	to := make(map[K]V, len(from))
	maps.Copy(to, from)
	return to
}

// waitsFor are the reasons that make a pair wait; "" is an outage.
var waitsFor = []bridge.Reason{"", bridge.ReasonUnauthorized, bridge.ReasonActionMissing, bridge.ReasonNotReady, bridge.ReasonOutcomeUnknown, bridge.WhyBusy, bridge.WhyFollowing}

// runKinds are how a run ends.
var runKinds = []string{
	"ok", bridge.Outage.String(), bridge.Blocked.String(), bridge.Temporary.String(), bridge.Permanent.String(), bridge.Unknown.String(),
}

func (m *Metrics) newRoute(name string) routeSeries {
	s := routeSeries{
		failures:  map[bridge.Reason]prometheus.Counter{},
		waits:     map[bridge.Reason]prometheus.Counter{},
		eventTime: m.eventTime.WithLabelValues(name),
	}
	for _, reason := range bridge.Reasons {
		s.failures[reason] = m.failures.WithLabelValues(name, string(reason))
	}
	for _, why := range waitsFor {
		s.waits[why] = m.waits.WithLabelValues(name, whyLabel(why))
	}
	return s
}

func (m *Metrics) newAction(name string) actionSeries {
	s := actionSeries{runs: map[string]prometheus.Counter{}, runTime: m.runTime.WithLabelValues(name)}
	for _, kind := range runKinds {
		s.runs[kind] = m.runs.WithLabelValues(name, kind)
	}
	return s
}

func (m *Metrics) newOutcomes(r Route) map[bridge.State]prometheus.Counter {
	s := map[bridge.State]prometheus.Counter{}
	for _, state := range []bridge.State{bridge.Succeeded, bridge.Failed, bridge.UnknownSt} {
		s[state] = m.outcomes.WithLabelValues(r.Name, r.Action, string(state))
	}
	return s
}

func whyLabel(why bridge.Reason) string {
	if why == "" {
		return outage
	}
	return string(why)
}

// known is what m has under name, or else what it counts nameless things under.
func known[K comparable, V any](m map[K]V, name, nameless K) V {
	if v, ok := m[name]; ok {
		return v
	}
	return m[nameless]
}

// Taken counts an event taken from a source.
func (m *Metrics) Taken(source string) { known(m.series.Load().sources, source, none).taken.Inc() }

// Unrouted counts an event that no route matches.
func (m *Metrics) Unrouted(source string) {
	known(m.series.Load().sources, source, none).unrouted.Inc()
}

// Ran counts a request that ended, with its kind: "ok", or the name of a
// bridge.Kind. took is from its claim to its answer.
func (m *Metrics) Ran(action, kind string, took time.Duration) {
	s := known(m.series.Load().actions, action, none)
	if c, ok := s.runs[kind]; ok {
		c.Inc()
	}
	s.runTime.Observe(max(took, 0).Seconds())
}

// Ended counts a pair's outcome; reason is "" for a success. since is the time
// from when its event was stored, by two clocks that need not agree.
func (m *Metrics) Ended(route, action string, state bridge.State, reason bridge.Reason, since time.Duration) {
	s := m.series.Load()
	if c, ok := known(s.outcomes, Route{route, action}, Route{none, none})[state]; ok {
		c.Inc()
	}
	r := known(s.routes, route, none)
	if c, ok := r.failures[reason]; ok {
		c.Inc()
	}
	r.eventTime.Observe(max(since, 0).Seconds())
}

// Waits counts a pair that was set to wait; why is "" for an outage.
func (m *Metrics) Waits(route string, why bridge.Reason) {
	s := m.series.Load()
	if c, ok := known(s.routes, route, none).waits[why]; ok {
		c.Inc()
		return
	}
	if _, ok := s.routes[route]; !ok {
		route = none
	}
	m.waits.WithLabelValues(route, whyLabel(why)).Inc()
}

// Trouble counts something that an operator should look at.
func (m *Metrics) Trouble() { m.troubles.Inc() }

// LedgerFailed counts a read or write of the ledger that failed or stayed unclear.
func (m *Metrics) LedgerFailed() { m.ledgerFailed.Inc() }

// Logged tells whether Membrane shows the logs of our runs.
func (m *Metrics) Logged(kept bool) { m.logsMissing.Set(zeroOne(!kept)) }

// Posted counts an event that was posted to the sink, by what it answered.
func (m *Metrics) Posted(verdict string) { m.posts.WithLabelValues(verdict).Inc() }

// GivenUp counts an event that is not posted to the sink again.
func (m *Metrics) GivenUp() { m.givenUp.Inc() }

// SinkWaiting tells how many events the sink has not accepted yet.
func (m *Metrics) SinkWaiting(n int) { m.sinkWaiting.Set(float64(n)) }

// Connected tells whether the connection to NATS is up.
func (m *Metrics) Connected(up bool) { m.connected.Set(zeroOne(up)) }

// Reloaded tells whether the newest configuration is in use; the first load
// counts too.
func (m *Metrics) Reloaded(ok bool) {
	m.reloaded.Set(zeroOne(ok))
	if ok {
		m.reloadedAt.SetToCurrentTime()
	}
}

// InFlight sets what tells the number of runs under way.
func (m *Metrics) InFlight(count func() int) { m.inFlight.Store(&count) }

func zeroOne(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// Handler serves the metrics in Prometheus' formats.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// Requests counts what next answers, by the http.ServeMux pattern that took the
// request: an address as the sender wrote it is never a label.
func (m *Metrics) Requests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := &answer{ResponseWriter: w, code: http.StatusOK}
		next.ServeHTTP(answer, r)
		m.requests.WithLabelValues(endpoint(r.Pattern), strconv.Itoa(answer.code)).Inc()
	})
}

// endpoint is the path of a pattern such as "POST /events".
func endpoint(pattern string) string {
	if i := strings.IndexByte(pattern, '/'); i >= 0 {
		return pattern[i:]
	}
	return none
}

// answer remembers the status code of a response.
type answer struct {
	http.ResponseWriter
	code    int
	written bool
}

func (a *answer) WriteHeader(code int) {
	if !a.written && code >= 200 { // 1xx are followed by the real one
		a.code, a.written = code, true
	}
	a.ResponseWriter.WriteHeader(code)
}

func (a *answer) Write(b []byte) (int, error) {
	a.written = true
	return a.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
