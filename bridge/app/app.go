// Package app builds one bridge out of its parts and runs it: it reads the
// configuration, binds the listeners, connects, and takes everything down again
// in the reverse order. It is the only package that knows all the others.
package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/nats-io/nats.go"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/admin"
	"github.com/bridge8x8/bridge8x8/bridge/bus"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/ingress"
	"github.com/bridge8x8/bridge8x8/bridge/ledger"
	"github.com/bridge8x8/bridge8x8/bridge/membrane"
	"github.com/bridge8x8/bridge8x8/bridge/native"
	"github.com/bridge8x8/bridge8x8/bridge/natsd"
	"github.com/bridge8x8/bridge8x8/bridge/telemetry"
	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// Options is what an App is made of.
type Options struct {
	Env     config.Env
	Version string
	Logger  *slog.Logger
	// File is the configuration; nil: it is read from Env.Bridge.Config, and again
	// whenever that file changes.
	File *config.File
	// Lookup finds the variables that the file refers to. Defaults to os.LookupEnv.
	Lookup func(string) (string, bool)
	// SignIn gives Membrane's tokens where the environment has no way to sign in.
	SignIn membrane.TokenSource
	// LogMargin and Hook are the bridge's; only tests set them.
	LogMargin time.Duration
	Hook      func(step string, key bridge.Key)
	// FastStore lets the embedded server acknowledge before it has synced; only tests set it.
	FastStore bool
}

// App is one bridge, running or about to.
type App struct {
	o        Options
	log      *slog.Logger
	metrics  *telemetry.Metrics
	observer *telemetry.Observer
	catalog  *catalog.Catalog

	public, admin net.Listener
	server        *natsd.Server
	conn          *bus.Conn
	names         bus.Names
	outbox        *bus.Outbox
	sink          *outlet // nil without a sink
	ledger        atomic.Pointer[ledger.Ledger]
	bridge        *bridge.Bridge

	client *membrane.Client
	mu     sync.Mutex // guards what follows against a reload
	file   *config.File
	table  *handlers.Table
	takers map[string]*bus.Taker
	life   context.Context // of what takes; set before anything does
	taking sync.WaitGroup
	// unlistenRequests ends the taking of requests; nil if none are taken.
	unlistenRequests func()

	ready   chan struct{}
	pending atomic.Pointer[string]         // what it is waiting for; nil once it is ready
	serving atomic.Pointer[handlers.Table] // table, for the webhooks: they wait for no reload
}

const (
	// The ledger's share of the storage that is reserved, and that of all streams.
	ledgerUnits = 2
	allUnits    = 9
	// What is reserved at most: on a server of its own, and on the embedded one,
	// whose store is limited (natsd.DefaultMaxStore).
	reserveMost     = 36 << 30
	reserveEmbedded = 9 << 30
	eventsName      = "events" // the source of everything that came in over HTTP or on our own subjects
	reloadEvery     = 5 * time.Second
	startAgain      = time.Second // after NATS did not answer at the start
)

// New reads the configuration, compiles its routes and binds the listeners, so
// that everything that can be wrong by itself is wrong before anything runs.
// The error is config.Problems where it is about the configuration.
func New(o Options) (*App, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Lookup == nil {
		o.Lookup = os.LookupEnv
	}
	a := &App{
		o: o, log: o.Logger, catalog: catalog.Builtin(), metrics: telemetry.NewMetrics(o.Version),
		names: bus.NewNames(o.Env.Bridge.Prefix), takers: map[string]*bus.Taker{}, ready: make(chan struct{}),
	}
	a.observer = telemetry.NewObserver(a.metrics, a.log)
	a.waitFor("the start")

	file, table, err := a.load()
	if err != nil {
		return nil, err
	}
	a.file, a.table = file, table
	a.serving.Store(table)
	if a.client, err = a.membrane(); err != nil {
		return nil, err
	}
	if err := a.listen(); err != nil {
		return nil, err
	}
	a.conn, err = a.connect()
	if err != nil {
		a.unlisten()
		return nil, err
	}
	a.outbox = bus.NewOutbox(a.conn, a.names, cloudevent.Mode(o.Env.Bridge.Encoding))
	if a.sink, err = a.newOutlet(); err != nil {
		a.unlisten()
		return nil, err
	}
	return a, nil
}

// load reads and compiles the configuration, all problems at once.
func (a *App) load() (*config.File, *handlers.Table, error) {
	file := a.o.File
	var problems config.Problems
	if file == nil {
		file, problems = config.Load(a.o.Env.Bridge.Config, a.o.Lookup)
	}
	if problems.Errors() {
		return nil, nil, problems // what follows from these would say the same again; check tells all
	}
	table, more := handlers.Compile(file, a.catalog, handlers.Options{
		Commands: a.o.Env.Bridge.Commands, DefaultConnection: a.o.Env.Membrane.Connection,
	})
	problems = append(problems, more...)
	problems = append(problems, config.Check(&a.o.Env, file)...)
	problems = append(problems, a.o.Env.CheckListeners(file)...)
	if problems.Errors() {
		return nil, nil, problems
	}
	for _, p := range problems {
		a.log.Warn("configuration", "problem", p.String())
	}
	return file, table, nil
}

func (a *App) membrane() (*membrane.Client, error) {
	m := a.o.Env.Membrane
	if problems := a.o.Env.RequireMembrane(); problems.Errors() && a.o.SignIn == nil {
		return nil, problems
	}
	return membrane.New(membrane.Options{
		SignIn:  a.o.SignIn,
		BaseURL: m.APIURL, Token: m.Token, WorkspaceKey: m.WorkspaceKey, WorkspaceSecret: m.WorkspaceSecret, TenantKey: m.TenantKey,
		RunLimit: m.RunLimit, Concurrency: a.o.Env.Bridge.Concurrency, UserAgent: "bridge8x8/" + a.o.Version,
	})
}

func (a *App) listen() (err error) {
	var binding net.ListenConfig
	ctx := context.Background()
	if addr := a.o.Env.Bridge.HTTPAddr; addr != "" {
		if a.public, err = binding.Listen(ctx, "tcp", addr); err != nil {
			return fmt.Errorf("BRIDGE_HTTP_ADDR: %w", err)
		}
	}
	if addr := a.o.Env.Bridge.AdminAddr; addr != "" {
		if a.admin, err = binding.Listen(ctx, "tcp", addr); err != nil {
			a.unlisten()
			return fmt.Errorf("BRIDGE_ADMIN_ADDR: %w", err)
		}
	}
	return nil
}

func (a *App) unlisten() {
	for _, l := range []net.Listener{a.public, a.admin} {
		if l != nil {
			_ = l.Close()
		}
	}
	if a.conn != nil {
		a.conn.Close()
	}
	if a.sink != nil {
		a.sink.Close()
	}
	if a.server != nil {
		a.server.Stop()
	}
}

func (a *App) connect() (*bus.Conn, error) {
	b := a.o.Env.Bridge
	var extra []nats.Option
	if a.o.Env.NATS.Embedded() {
		var err error
		a.server, err = natsd.Start(natsd.Options{
			Dir: b.DataDir, Addr: b.NATSAddr, Logger: a.log, Fast: a.o.FastStore,
			User: a.o.Env.NATS.User, Password: a.o.Env.NATS.Password.Reveal(), Token: a.o.Env.NATS.Token.Reveal(),
			AllowUnauthenticated: b.AllowUnauthenticated,
		})
		if err != nil {
			return nil, err
		}
		extra = append(extra, a.server.Option())
	}
	return bus.Connect(a.o.Env.NATS, b.Name, a.log, a.metrics.Connected, extra...)
}

// Addrs are the addresses that the listeners are bound to; empty where there is none.
func (a *App) Addrs() (public, admin string) {
	if a.public != nil {
		public = a.public.Addr().String()
	}
	if a.admin != nil {
		admin = a.admin.Addr().String()
	}
	return public, admin
}

// NATSURL is where other programs reach the embedded server; "" if it does not
// listen, or is not embedded.
func (a *App) NATSURL() string {
	if a.server == nil || a.server.Addr() == nil {
		return ""
	}
	return "nats://" + a.server.Addr().String()
}

// Ready is closed once events are taken.
func (a *App) Ready() <-chan struct{} { return a.ready }

// Run runs the bridge until ctx ends, and then stops it within the grace. It is
// one straight line: what is set up later is taken down earlier.
func (a *App) Run(ctx context.Context) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx)) // outlives ctx by the grace
	defer end()
	var background sync.WaitGroup
	defer background.Wait()
	defer a.unlisten()
	defer end()

	// Listeners first, so that an orchestrator sees a process that lives while NATS is away.
	stopHTTP, failed, err := a.serve()
	if err != nil {
		return err
	}
	defer stopHTTP()

	if err := a.assemble(ctx, life, &background); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	a.pending.Store(nil)
	close(a.ready)
	public, admin := a.Addrs()
	server := a.conn.NC.ConnectedUrlRedacted()
	if a.server != nil {
		server = strings.TrimSpace("embedded " + a.NATSURL())
	}
	a.log.Info("bridge8x8 is ready", "version", a.o.Version, "http", public, "admin", admin, "nats", server, "routes", len(a.file.Routes))

	reload := time.NewTicker(reloadEvery)
	defer reload.Stop()
	seen := a.fingerprint()
	for err == nil {
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case err = <-failed:
		case <-reload.C:
			if now := a.fingerprint(); now != "" && now != seen {
				seen = now
				_ = a.Reload()
			}
		}
	}
	a.stop(stopHTTP)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// assemble brings everything up that needs NATS.
func (a *App) assemble(ctx, life context.Context, background *sync.WaitGroup) error {
	a.waitFor("NATS")
	if err := a.conn.Await(ctx); err != nil {
		return err
	}
	a.waitFor("the streams")
	b := a.o.Env.Bridge
	var l *ledger.Ledger
	err := a.persist(ctx, func() (err error) {
		l, err = a.openStreams(ctx)
		return err
	})
	if err != nil {
		return err
	}
	a.ledger.Store(l)
	requests := bus.Requests{Conn: a.conn, Names: a.names, Mode: cloudevent.Mode(b.Encoding)}
	a.bridge, err = bridge.New(bridge.Options{
		Requests: requests,
		Name:     b.Name, Ledger: l, Outbox: a.outbox, Runner: a.client, Catalog: a.catalog, Observer: a.observer,
		Concurrency: b.Concurrency, RunLimit: a.o.Env.Membrane.RunLimit, LogMargin: a.o.LogMargin, Hook: a.o.Hook,
	})
	if err != nil {
		return err
	}
	a.metrics.InFlight(a.bridge.InFlight)
	a.use(a.file, a.table)
	background.Go(func() { l.Watch(life) })
	background.Go(func() { a.bridge.Run(life) })
	if a.sink != nil { // before anything is taken whose outcome it is to have
		if err := a.persist(ctx, func() error { return a.takeForSink(ctx, life) }); err != nil {
			return err
		}
		background.Go(func() { a.watchSink(life) })
	}
	if err := a.persist(ctx, func() error { return a.take(ctx, life) }); err != nil {
		return err
	}
	if b.Commands {
		if a.unlistenRequests, err = requests.Listen(func(ask bridge.Ask) { a.bridge.Ask(life, ask) }); err != nil {
			return err
		}
	}
	background.Go(func() {
		<-life.Done()
		a.taking.Wait()
	})
	return nil
}

// persist does what needs NATS, and again for as long as NATS is merely away: a
// server that restarts, or a cluster that is choosing a leader.
func (a *App) persist(ctx context.Context, do func() error) error {
	told := false
	for {
		err := do()
		if err == nil || ctx.Err() != nil || !bus.Passing(err) {
			return err
		}
		if !told {
			a.log.Warn("NATS does not answer well enough to start; trying again", "error", err)
			told = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(startAgain):
		}
	}
}

// openStreams makes the ledger and the streams where they are missing.
func (a *App) openStreams(ctx context.Context) (l *ledger.Ledger, err error) {
	b := a.o.Env.Bridge
	unit, release, err := a.unit(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	l, err = ledger.Open(ctx, ledger.Options{
		JetStream: a.conn.JS, Publish: a.conn.Publisher.Store, Unclear: func(err error) bool { return errors.Is(err, bus.ErrUnclear) },
		NoRoom: bus.NoRoom,
		Prefix: b.Prefix, Retention: b.Retention, Replicas: b.Replicas, MaxBytes: ledgerUnits * unit,
		Logger: a.log, Healthy: a.outbox.Healthy, Failed: a.metrics.LedgerFailed,
	})
	if err != nil {
		return nil, err
	}
	return l, a.conn.EnsureStreams(ctx, a.names, b.Retention, b.Replicas, unit)
}

// unit is what one share of the storage is, in bytes; release comes after the
// streams are made. Only the first start has to find out; streams that are there
// keep their sizes.
func (a *App) unit(ctx context.Context) (unit int64, release func() error, err error) {
	most := int64(reserveMost)
	if a.server != nil {
		most = reserveEmbedded
	}
	if there, err := a.conn.Exists(ctx, ledger.StreamName(a.o.Env.Bridge.Prefix)); there || err != nil {
		return most / allUnits, func() error { return nil }, err
	}
	room, release, err := a.conn.Room(ctx, a.names, most, a.o.Env.Bridge.Replicas)
	if err == nil && room < most {
		a.log.Warn("the server has less room than the streams would take: they are smaller", "bytes", room, "wanted", most)
	}
	return room / allUnits, release, err
}

// take starts to take from the stream of events, from each source and from what
// was set aside. Called again after an error, it goes on with what is missing.
func (a *App) take(ctx, life context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.life = life
	if err := a.takeStream(ctx, life, eventsName, a.names.Events(), nil, bus.Start{All: true}); err != nil {
		return err
	}
	for _, s := range a.file.Sources {
		if s.NATS.Core {
			continue
		}
		start := bus.Start{All: s.NATS.Start == config.StartAll, At: s.NATS.StartAt}
		if err := a.takeStream(ctx, life, s.Name, s.NATS.Stream, s.NATS.Subjects, start); err != nil {
			return fmt.Errorf("source %q: %w", s.Name, err)
		}
	}
	if err := a.takeWaiting(ctx, life); err != nil {
		return err
	}
	for _, s := range a.file.Sources { // last: to subscribe is nothing that can be tried again
		if !s.NATS.Core {
			continue
		}
		closeCore, err := a.conn.Core(a.names, s.Name, s.NATS.Subjects, func(err error) {
			a.observer.Trouble("a message from a core source could not be stored, and is lost", "source", s.Name, "error", err)
		})
		if err != nil {
			return err
		}
		a.taking.Go(func() { <-life.Done(); closeCore() })
	}
	return nil
}

// takeStream takes from a source, through its durable consumer.
func (a *App) takeStream(ctx, life context.Context, name, stream string, subjects []string, start bus.Start) error {
	durable := bus.Durable{
		Name: a.names.Durable(name), Stream: stream, Subjects: subjects, AckWait: a.o.Env.Bridge.AckWait, Ledger: a.ledger.Load().ID(),
	}
	ensure := func(ctx context.Context) error { return a.ensureSource(ctx, name, durable, start) }
	return a.takeFrom(ctx, life, name, stream, durable.Name, ensure, nil, nil)
}

// ensureSource makes a source's durable where it is missing. It begins where the
// source is new, known to both ledger and durable, or known to only one of them,
// because the other was lost (rule R12).
func (a *App) ensureSource(ctx context.Context, name string, durable bus.Durable, start bus.Start) error {
	l := a.ledger.Load()
	now, err := l.Now(ctx)
	if err != nil {
		return err
	}
	exists, itsLedger, err := a.conn.FindDurable(ctx, durable.Stream, durable.Name)
	if err != nil {
		return err
	}
	source, known := l.Source(name)
	switch {
	case !known && !exists: // new to everybody: start is honoured, this once
		source = ledger.Source{Since: now, From: start.At}
		if !start.All && start.At.IsZero() {
			source.From = now
		}
		// Another replica may be as new, and have come first.
		if source, err = l.AddSource(ctx, name, source); err != nil {
			return err
		}
		start = bus.Start{All: source.From.IsZero(), At: source.From}
	case !known: // the ledger was lost, or is new to a durable that is not; or another replica was quicker
		stored, err := l.AddSource(ctx, name, ledger.Source{Since: now, From: now})
		if err != nil {
			return err
		}
		if stored.Since.Equal(now) {
			a.log.Error("this ledger does not know a source that was taken before: what is older than the ledger is held, not sent",
				"source", name, "stream", durable.Stream, "ledger", l.ID(), "durable's ledger", itsLedger)
		}
	case !exists: // it was deleted, or never made: what the ledger still remembers is gone through again
		start = bus.Start{All: source.From.IsZero(), At: source.From}
		// A source that is younger than that has lost none of its records.
		if horizon := now.Add(-time.Duration(float64(a.o.Env.Bridge.Retention) * 0.8)); source.Since.Before(horizon) && source.From.Before(horizon) {
			start = bus.Start{At: horizon}
		}
		a.log.Warn("a durable consumer is missing and is made again: its events are gone through again, and finished from the ledger",
			"source", name, "stream", durable.Stream, "consumer", durable.Name)
	}
	return a.conn.EnsureDurable(ctx, durable, start)
}

// takeWaiting takes what was set aside: one consumer for each connection that
// the configuration names, and for each that something still waits for (rule R10).
func (a *App) takeWaiting(ctx, life context.Context) error {
	byToken := map[string]string{bus.ConnectionToken(""): ""}
	for _, c := range a.file.Connections {
		byToken[bus.ConnectionToken(c.Name)] = c.Name
	}
	waiting, err := a.conn.Waiting(ctx, a.names)
	if err != nil {
		return err
	}
	for _, token := range waiting {
		if _, ok := byToken[token]; !ok {
			byToken[token] = token
		}
	}
	decisions := bus.DecisionToken() // about dead letters, of all connections (rule R11)
	byToken[decisions] = ""
	for token, connection := range byToken {
		durable := a.names.WaitDurable(token, a.o.Env.Bridge.AckWait, a.ledger.Load().ID())
		ensure := func(ctx context.Context) error { return a.conn.EnsureDurable(ctx, durable, bus.Start{All: true}) }
		paused := func() bool { return a.bridge.Closed(connection) }
		if token == decisions {
			paused = nil
		}
		if err := a.takeFrom(ctx, life, "wait/"+token, durable.Stream, durable.Name, ensure, a.conn.Unfold(), paused); err != nil {
			return err
		}
	}
	return nil
}

// takeFrom takes through a consumer that ensure makes where it is missing, unless
// that is done already.
func (a *App) takeFrom(
	ctx, life context.Context, name, stream, consumer string, ensure func(context.Context) error, prepare func(*bridge.Delivery) error, paused func() bool,
) error {
	if a.takers[name] != nil {
		return nil
	}
	if err := ensure(ctx); err != nil {
		return err
	}
	c := a.o.Env.Bridge.Concurrency
	t, err := bus.Take(bus.TakerOptions{
		Conn: a.conn, Source: name, Stream: stream, Consumer: consumer, AckWait: a.o.Env.Bridge.AckWait, Logger: a.log,
		Workers: 2 * c, // more than may run: the others claim, record and publish meanwhile
		Handle:  func(d *bridge.Delivery) { a.bridge.Handle(life, d) }, Prepare: prepare, Paused: paused, Ensure: ensure,
	})
	if err != nil {
		return err
	}
	a.takers[name] = t
	a.taking.Go(func() { t.Run(life) })
	return nil
}

// stop hands back what was not started, lets what runs finish within the grace,
// and leaves the rest running in the ledger (rule R16).
func (a *App) stop(stopHTTP func()) {
	grace, cancel := context.WithTimeout(context.Background(), a.o.Env.Bridge.Grace)
	defer cancel()
	a.log.Info("stopping", "runs", a.bridge.InFlight())
	stopHTTP() // what was posted is stored before it is answered
	if a.unlistenRequests != nil {
		a.unlistenRequests() // other replicas get them from now on
	}
	a.bridge.Drain()
	a.sink.stop()
	a.mu.Lock()
	defer a.mu.Unlock()
	var quiet sync.WaitGroup
	for _, t := range a.takers {
		quiet.Go(func() { t.Quiet(); t.Stop(grace) })
	}
	quiet.Go(func() { a.bridge.Asked(grace) })
	quiet.Wait()
	a.bridge.HandBack()
	settled, cancelSettled := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancelSettled()
	for _, t := range a.takers {
		quiet.Go(func() {
			if err := t.Settled(settled); err != nil && a.conn.NC.IsConnected() {
				a.log.Warn("the last acknowledgements may not have reached NATS", "error", err)
			}
		})
	}
	quiet.Wait()
	a.log.Info("stopped", "left running", a.bridge.InFlight())
}

// serve starts the two HTTP servers. The function it returns stops them.
func (a *App) serve() (stop func(), failed chan error, err error) {
	failed = make(chan error, 2)
	var servers []*http.Server
	if a.public != nil {
		handler, err := ingress.New(ingress.Options{
			Accept: bus.Intake{Conn: a.conn, Names: a.names}, Correlate: a.correlate,
			Tokens: a.o.Env.Bridge.HTTPTokens, WebhookSecret: a.o.Env.Bridge.WebhookSecret, WebhookAuth: a.o.Env.Bridge.WebhookAuth,
			Webhooks: a.file.Webhooks, Origins: a.o.Env.Bridge.HTTPOrigins, Rate: a.o.Env.Bridge.HTTPRate,
			Answer: func(e *event.Event) ([]byte, bool, error) { return a.serving.Load().Answer(e) },
			Wrap: func(webhook string, header map[string][]string, body []byte) (event.Event, error) {
				return a.serving.Load().Wrap(webhook, header, body)
			},
			MaxEvent: a.o.Env.Bridge.MaxEvent, Commands: a.o.Env.Bridge.Commands, Ready: a.notReady, Logger: a.log,
		})
		if err != nil {
			return nil, nil, err
		}
		s := ingress.NewServer(a.public.Addr().String(), a.metrics.Requests(handler), a.log)
		servers = append(servers, s)
		go func() { failed <- s.Serve(a.public) }()
	}
	if a.admin != nil {
		s := admin.NewServer(admin.New(admin.Options{
			Version: a.o.Version, Metrics: a.metrics.Handler(),
			Checks: a.checkSink([]admin.Check{
				{Name: "started", Func: func(context.Context) error { return a.notStarted() }},
				{Name: "nats", Func: func(ctx context.Context) error {
					if a.server != nil {
						return a.server.Check(ctx) // JetStream ends on a full disk while connections stay up
					}
					return a.conn.Healthy()
				}},
				{Name: "ledger", Func: func(context.Context) error {
					if l := a.ledger.Load(); l != nil {
						return l.Usable()
					}
					return errors.New("not open yet")
				}},
				{Name: "run logs", Detail: true, Func: func(context.Context) error {
					if a.pending.Load() != nil { // not started: see there
						return nil
					}
					if kept, known := a.bridge.RunLogsKept(); known && !kept {
						return errors.New("membrane shows no log of runs that ended well: a crash leaves what was in flight as outcome_unknown")
					}
					return nil
				}},
			}),
		}), a.log)
		servers = append(servers, s)
		go func() { failed <- s.Serve(a.admin) }()
	}
	stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		for _, s := range servers {
			if s.Shutdown(ctx) != nil {
				_ = s.Close()
			}
		}
	})
	return stop, failed, nil
}

func (a *App) waitFor(what string) { s := "waiting for " + what; a.pending.Store(&s) }

func (a *App) notStarted() error {
	if p := a.pending.Load(); p != nil {
		return errors.New(*p)
	}
	return nil
}

// notReady says why nothing can be taken in over HTTP.
func (a *App) notReady() error {
	if err := a.notStarted(); err != nil {
		return err
	}
	return a.conn.Healthy()
}

// correlate finds the event that caused a message, by the reference that the
// message carried, and takes the receipt for proof that it was sent (rule R15).
func (a *App) correlate(ctx context.Context, r native.Receipt) (ingress.Correlation, error) {
	l := a.ledger.Load()
	if l == nil {
		return ingress.Correlation{}, errors.New("the ledger is not open yet")
	}
	key, try, ok := bridge.ParseReference(r.ClientMessageID)
	if !ok {
		entry, err := l.ByBatch(ctx, r.ClientBatchID)
		if errors.Is(err, bridge.ErrNotFound) {
			return ingress.Correlation{}, nil
		}
		if err != nil {
			return ingress.Correlation{}, err
		}
		key = entry.Key
		if bridge.BatchReference(key, entry.Record.Try) == r.ClientBatchID {
			try = entry.Record.Try
		}
	}
	rec, err := a.bridge.Receipt(ctx, key, try, bridge.Receipt{
		UMID: r.UMID, BatchID: r.BatchID, State: r.State, At: r.Timestamp, Outcome: r.Outcome.State, Final: r.Outcome.Final,
	})
	if errors.Is(err, bridge.ErrNotFound) {
		return ingress.Correlation{}, nil // not ours, or longer ago than we remember
	}
	if err != nil {
		return ingress.Correlation{}, err
	}
	c := rec.Cause
	return ingress.Correlation{
		CausationID: c.ID, CausationSource: c.Source, CorrelationID: c.Correlation(),
		TraceParent: c.TraceParent, TraceState: c.TraceState,
	}, nil
}

// --- reload --------------------------------------------------------------------

// Reload reads the configuration again and swaps the whole table of routes, or
// nothing. Sources and webhooks are bound at the start, and keep until the next.
func (a *App) Reload() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.notStarted() != nil {
		return errors.New("not started yet")
	}
	file, table, err := a.load()
	if err != nil {
		a.metrics.Reloaded(false)
		a.log.Error("the configuration was not reloaded; the one before stays in use", "problems", err.Error())
		return err
	}
	if !slices.EqualFunc(file.Sources, a.file.Sources, sameSource) || len(file.Webhooks) != len(a.file.Webhooks) {
		a.log.Warn("sources and webhooks changed: restart to use them; routes and connections are in use now")
	}
	file.Sources, file.Webhooks = a.file.Sources, a.file.Webhooks
	before := a.file
	a.file = file
	ctx, cancel := context.WithTimeout(a.life, 5*time.Second)
	defer cancel()
	if err := a.takeWaiting(ctx, a.life); err != nil { // what is set aside for a new connection must be taken too (R10)
		a.file = before
		a.metrics.Reloaded(false)
		a.log.Error("the configuration was not reloaded; the one before stays in use", "error", err)
		return err
	}
	a.use(file, table)
	a.log.Info("the configuration was reloaded", "routes", len(file.Routes))
	return nil
}

func sameSource(x, y config.Source) bool {
	return x.Name == y.Name && x.NATS.Stream == y.NATS.Stream && x.NATS.Core == y.NATS.Core && slices.Equal(x.NATS.Subjects, y.NATS.Subjects)
}

func (a *App) use(file *config.File, table *handlers.Table) {
	a.file, a.table = file, table
	a.serving.Store(table)
	a.bridge.SetTable(table)
	sources := []string{eventsName}
	for _, s := range file.Sources {
		sources = append(sources, s.Name)
	}
	var routes []telemetry.Route
	for _, h := range table.Handlers() {
		r := telemetry.Route{Name: h.Name}
		if h.Action != nil {
			if r.Action = h.Action.Key; r.Action == "" {
				r.Action = h.Action.ID
			}
		}
		routes = append(routes, r)
	}
	a.metrics.Preset(sources, routes)
	a.metrics.Reloaded(true)
}

// fingerprint tells one content of the configuration file from another; "" if
// there is no file to watch, or it cannot be read just now.
func (a *App) fingerprint() string {
	if a.o.File != nil {
		return ""
	}
	data, err := os.ReadFile(a.o.Env.Bridge.Config)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
