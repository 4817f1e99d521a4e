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

	"github.com/nats-io/nats.go"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/admin"
	"github.com/bridge8x8/bridge8x8/bridge/bus"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/ingress"
	"github.com/bridge8x8/bridge8x8/bridge/ledger"
	"github.com/bridge8x8/bridge8x8/bridge/membrane"
	"github.com/bridge8x8/bridge8x8/bridge/natsd"
	"github.com/bridge8x8/bridge8x8/bridge/telemetry"
	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// Options is what an App is made of.
type Options struct {
	Env config.Env
	// Environ reads the environment, and the files that it names, again: for secrets
	// that change. Nil: they do not.
	Environ func() (config.Env, config.Problems)
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
	tls           *ingress.TLS // nil: plain HTTP
	connections   *ingress.Connections
	shared        *ingress.Shared
	door          sync.Mutex // held while handler is made anew
	handler       atomic.Pointer[http.Handler]
	env           atomic.Pointer[config.Env] // o.Env with the newest secrets
	rotating      sync.Mutex                 // guards trouble, and env against a second writer
	trouble       string

	server *natsd.Server
	conn   *bus.Conn
	names  bus.Names
	outbox *bus.Outbox
	sink   *outlet // nil without a sink
	ledger atomic.Pointer[ledger.Ledger]
	bridge *bridge.Bridge

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
	pending atomic.Pointer[string] // what it is waiting for; nil once it is ready
	serving atomic.Pointer[inUse]  // file and table, for the webhooks: they wait for no reload
	seen    string                 // fingerprint of the configuration that was read last

	discovery discovery
	heldNow   config.Problems        // of the table that was compiled last
	held      atomic.Pointer[string] // what is wrong with routes' actions; "" as a rule
	unasked   atomic.Pointer[string] // why connections could not be asked; nil before that, "" if all were
}

const (
	// The ledger's share of the storage that is reserved, and that of all streams.
	ledgerUnits = 2
	allUnits    = 9
	// What is reserved at most: on a server of its own, and on the embedded one,
	// whose store is limited (natsd.DefaultMaxStore).
	reserveMost     = 36 << 30
	reserveEmbedded = 9 << 30
	eventsName      = bus.EventsSource
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
	a.env.Store(&o.Env)
	a.held.Store(new(string))
	a.discovery = discovery{fitted: map[string]*catalog.Catalog{}, asked: make(chan struct{}, 1)}

	var noClient error
	a.client, noClient = a.membrane()
	file, table, err := a.load(context.Background())
	if err == nil {
		err = noClient
	}
	if err != nil {
		return nil, err
	}
	a.file, a.table = file, table
	a.seen = a.fingerprint()
	a.serving.Store(&inUse{file, table})
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
func (a *App) load(ctx context.Context) (*config.File, *handlers.Table, error) {
	file := a.o.File
	var problems config.Problems
	if file == nil {
		file, problems = config.Load(a.o.Env.Bridge.Config, a.o.Lookup)
	}
	if problems.Errors() {
		return nil, nil, problems // what follows from these would say the same again; check tells all
	}
	if a.o.File == nil {
		synced, err := ReadSynced(SyncedPath(a.o.Env.Bridge.Config))
		if err != nil {
			return nil, nil, config.Problems{{
				Pos: config.Pos{File: SyncedPath(a.o.Env.Bridge.Config)}, Level: config.LevelError, Code: "actions-unreadable", Msg: err.Error(),
				Hint: "bridge8x8 actions sync writes it again",
			}}
		}
		if encoded, _ := synced.Encode(); sha256.Sum256(encoded) != a.discovery.written {
			a.discovery.written = sha256.Sum256(encoded)
			a.discovery.synced, a.discovery.fitted = synced.Known(false), map[string]*catalog.Catalog{}
		}
	}
	table, more := a.compile(file)
	if curable(more) && a.client != nil {
		ctx, cancel := context.WithTimeout(ctx, discoverLimit)
		offered, _ := Ask(ctx, a.client, ToAsk(file, &a.o.Env)) // what could not be asked is asked again, once it runs
		cancel()
		if len(offered) > 0 {
			a.discovery.take(offered)
			table, more = a.compile(file)
		}
	}
	a.heldNow = aboutActions(more)
	more = slices.DeleteFunc(more, func(p config.Problem) bool { return strings.HasPrefix(p.Code, "action-") })
	problems = append(problems, more...)
	problems = append(problems, config.Check(&a.o.Env, file)...)
	problems = append(problems, a.o.Env.CheckListeners(file)...)
	problems = append(problems, CheckBuild(&a.o.Env)...)
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
		SignIn: a.o.SignIn, Refresh: a.rotate,
		BaseURL: m.APIURL, Token: m.Token, WorkspaceKey: m.WorkspaceKey, WorkspaceSecret: m.WorkspaceSecret, TenantKey: m.TenantKey,
		RunLimit: m.RunLimit, Concurrency: a.o.Env.Bridge.Concurrency, UserAgent: "bridge8x8/" + a.o.Version,
	})
}

func (a *App) listen() (err error) {
	var binding net.ListenConfig
	ctx := context.Background()
	b := a.o.Env.Bridge
	if addr := b.HTTPAddr; addr != "" {
		if b.TLSCert != "" {
			if a.tls, err = ingress.NewTLS(b.TLSCert, b.TLSKey, b.TLSClientCA, a.log); err != nil {
				return err
			}
		}
		a.shared = ingress.NewShared(b.ClientRate, b.Proxies)
		if a.public, err = binding.Listen(ctx, "tcp", addr); err != nil {
			return fmt.Errorf("BRIDGE_HTTP_ADDR: %w", err)
		}
		a.connections = ingress.NewConnections(a.public, b.Connections)
		a.public = a.connections
		if a.tls != nil {
			a.public = a.tls.Listen(a.public)
		}
	}
	if addr := b.AdminAddr; addr != "" {
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
	extra = append(extra, nats.CustomInboxPrefix(a.names.Inbox()), bus.Credentials(a.newestNATS))
	conn, err := bus.Connect(a.o.Env.NATS, b.Name, a.log, a.metrics.Connected, extra...)
	if err == nil {
		conn.Expect(Access(&a.o.Env, a.file).Serve())
	}
	return conn, err
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
	background.Go(func() { a.watchFiles(life) })

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
	a.mu.Lock()
	routes := len(a.file.Routes)
	a.mu.Unlock()
	a.log.Info("bridge8x8 is ready", "version", a.o.Version, "http", public, "admin", admin, "nats", server, "routes", routes)

	reload := time.NewTicker(reloadEvery)
	defer reload.Stop()
	for err == nil {
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case err = <-failed:
		case <-reload.C:
			if a.changed() {
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
	if err := a.conn.Await(ctx, false); err != nil {
		return err
	}
	if err := a.mayServe(ctx); err != nil {
		return err
	}
	a.waitFor("the streams")
	b := a.o.Env.Bridge
	var l *ledger.Ledger
	err := a.persist(ctx, func(ctx context.Context) (err error) {
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
	background.Go(func() { a.discover(life) })
	if a.sink != nil { // before anything is taken whose outcome it is to have
		if err := a.persist(ctx, func(ctx context.Context) error { return a.takeForSink(ctx, life) }); err != nil {
			return err
		}
		background.Go(func() { a.watchSink(life) })
	}
	if err := a.persist(ctx, func(ctx context.Context) error { return a.take(ctx, life) }); err != nil {
		return err
	}
	if b.Commands {
		err = a.conn.Permitted(ctx, func(context.Context) (err error) {
			a.unlistenRequests, err = requests.Listen(func(ask bridge.Ask) { a.bridge.Ask(life, ask) })
			return err
		})
		if err != nil {
			return err
		}
	}
	background.Go(func() {
		<-life.Done()
		a.taking.Wait()
	})
	return nil
}

// mayServe says which permissions are missing, all of them before any is used.
// Where the server does not tell, their use will.
func (a *App) mayServe(ctx context.Context) error {
	if a.server != nil {
		return nil
	}
	missing, err := a.conn.Missing(ctx, Access(&a.o.Env, a.file).Serve())
	switch {
	case err != nil:
		a.log.Debug("NATS does not tell what this user may", "error", err)
	case len(missing) > 0:
		return &bus.MissingError{Missing: missing}
	}
	return nil
}

// persist does what needs NATS, and again for as long as NATS is merely away: a
// server that restarts, or a cluster that is choosing a leader.
func (a *App) persist(ctx context.Context, do func(context.Context) error) error {
	told := false
	for {
		err := a.conn.Permitted(ctx, do)
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
	existing := a.file.Streams == config.StreamsExisting
	unit, release := int64(0), func() error { return nil }
	if existing {
		err = a.conn.CheckStreams(ctx, WantedStreams(&a.o.Env, 0), false)
	} else {
		unit, release, err = a.unit(ctx)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	l, err = ledger.Open(ctx, ledger.Options{
		Target: ledger.WriteIn(a.o.Env.NATS.JSDomain), Existing: existing,
		JetStream: a.conn.JS, Publish: a.conn.Publisher.Store, Unclear: func(err error) bool { return errors.Is(err, bus.ErrUnclear) },
		NoRoom: bus.NoRoom,
		Prefix: b.Prefix, Retention: b.Retention, Replicas: b.Replicas, MaxBytes: ledgerUnits * unit,
		Logger: a.log, Healthy: a.outbox.Healthy, Failed: a.metrics.LedgerFailed,
	})
	if err != nil || existing {
		return l, err
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
		if err := a.takeStream(ctx, life, s.Name, bus.StreamIn(s.NATS.Domain, s.NATS.Stream), s.NATS.Subjects, start); err != nil {
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
		if err := a.openDoor(nil); err != nil {
			return nil, nil, err
		}
		s := a.servePublic()
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
				{Name: "permissions", Detail: true, Func: func(context.Context) error { return a.conn.Denied() }},
				{Name: "ledger", Func: func(context.Context) error {
					if l := a.ledger.Load(); l != nil {
						return l.Usable()
					}
					return errors.New("not open yet")
				}},
				{Name: "actions", Detail: true, Func: func(context.Context) error {
					if held := *a.held.Load(); held != "" {
						return errors.New(held)
					}
					if unasked := a.unasked.Load(); unasked != nil && *unasked != "" {
						return errors.New("what the connections offer could not be asked: " + *unasked)
					}
					return nil
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
		if err := a.conn.Awaits(); err != nil {
			return fmt.Errorf("%s: %w", *p, err)
		}
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

// --- reload --------------------------------------------------------------------

// Reload reads the configuration, and the secrets, again and swaps the whole table
// of routes and the webhooks, or nothing. Sources are bound at the start, and keep
// until the next.
func (a *App) Reload() error {
	a.rotate()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.notStarted() != nil {
		return errors.New("not started yet")
	}
	file, table, err := a.load(a.life)
	if err != nil {
		a.metrics.Reloaded(false)
		a.log.Error("the configuration was not reloaded; the one before stays in use", "problems", err.Error())
		return err
	}
	if file.Streams != a.file.Streams || !slices.EqualFunc(file.Sources, a.file.Sources, sameSource) {
		a.log.Warn("sources changed: restart to use them; routes, connections and webhooks are in use now")
	}
	file.Streams, file.Sources = a.file.Streams, a.file.Sources
	before := a.file
	a.file = file
	ctx, cancel := context.WithTimeout(a.life, 5*time.Second)
	defer cancel()
	err = a.takeWaiting(ctx, a.life) // what is set aside for a new connection must be taken too (R10)
	if err == nil {
		err = a.openDoor(&inUse{file, table})
	}
	if err != nil {
		a.file = before
		a.metrics.Reloaded(false)
		a.log.Error("the configuration was not reloaded; the one before stays in use", "error", err)
		return err
	}
	a.use(file, table)
	a.log.Info("the configuration was reloaded", "routes", len(file.Routes))
	select {
	case a.discovery.asked <- struct{}{}: // what else it may run
	default:
	}
	return nil
}

func sameSource(x, y config.Source) bool {
	return x.Name == y.Name && x.NATS.Stream == y.NATS.Stream && x.NATS.Domain == y.NATS.Domain && x.NATS.Core == y.NATS.Core && slices.Equal(x.NATS.Subjects, y.NATS.Subjects)
}

func (a *App) use(file *config.File, table *handlers.Table) {
	a.put(file, table)
	a.discovery.fits(table, a.discovery.known())
	a.tellActions(a.heldNow)
	a.metrics.Reloaded(true)
}

func (a *App) put(file *config.File, table *handlers.Table) {
	a.file, a.table = file, table
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
}

// changed says whether the configuration is another than the one that was read last.
func (a *App) changed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.fingerprint()
	if now == "" || now == a.seen {
		return false
	}
	a.seen = now
	return true
}

// fingerprint tells one content of the configuration file, and of the files that its
// secrets are in, from another; "" if there is no file to watch, or it cannot be read
// just now.
func (a *App) fingerprint() string {
	if a.o.File != nil {
		return ""
	}
	data, err := os.ReadFile(a.o.Env.Bridge.Config)
	if err != nil {
		return ""
	}
	all := sha256.New()
	for _, path := range append([]string{SyncedPath(a.o.Env.Bridge.Config)}, a.file.SecretFiles...) {
		beside, _ := os.ReadFile(path) // that it is gone is a change, too
		sum := sha256.Sum256(beside)
		all.Write(sum[:])
	}
	all.Write(data)
	return hex.EncodeToString(all.Sum(nil))
}
