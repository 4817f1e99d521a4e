// Package sandbox pretends to be Membrane and 8x8 over HTTP: the run without
// an account, and the double that tests talk to.
//
// It behaves as their documents say, takes real requests of the official
// Membrane SDK, posts delivery receipts back with 8x8's retry schedule, counts
// every effect (so that a test can say "exactly one") and fails on demand. It
// never merges two equal sends into one, because 8x8 does not.
//
// Ways in: token "pat-sandbox", or a JWT of workspace "sandbox" signed with
// "sandbox-secret" for any tenant; connection key "8x8-sandbox". Controls are
// under /_sandbox/ and need no token. Every answer has the header
// "X-Sandbox: bridge8x8".
//
// What the last two digits of a destination script:
//
//	00  delivered to the recipient (so does anything not listed)
//	01  undelivered, rejected by the operator
//	02  stays sent
//	03  a receipt says rejected
//	04  delivered to the operator, and no further
//	05  8x8 answers 500, although it took the message
//	06  8x8 answers 429, Retry-After 1
//	07  delivered; its receipts come twice and in the wrong order
//	08  8x8 answers 200 with status REJECTED
//
// A sub-account whose name begins with "foreign_" is somebody else's: 400, code
// 1001. 8x8's own API is at /8x8/, with the key "8x8-sandbox-key".
//
// Runs, messages and effects are kept in memory until a reset: about 2 KB for
// each send.
package sandbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// The fixed ways in.
const (
	Token           = "pat-sandbox"
	WorkspaceKey    = "sandbox"
	WorkspaceSecret = "sandbox-secret"
	// DefaultTenant is who a caller is whose token names no tenant.
	DefaultTenant = "sandbox"
	ConnectionKey = "8x8-sandbox"
	ConnectionID  = "66a08b8000000000000000c1"
	// IntegrationKey is the key of the integration that the connection belongs to.
	IntegrationKey = "8x8"
	IntegrationID  = "66a08b8000000000000000e1"
	// SubAccountID is the 8x8 sub-account that a message leaves from when the input names none.
	SubAccountID = "sandbox_hq"
)

// Options are all optional.
type Options struct {
	// WebhookURL is 8x8's account-wide webhook: receipts and inbound messages are
	// posted there. Empty: nothing is posted, except to a message's own
	// dlrCallbackUrl. It can be changed later with SetWebhook.
	WebhookURL string
	// WebhookAuthorization is sent as the Authorization header to WebhookURL, as it
	// is. A message's own dlrCallbackUrl does not get it.
	WebhookAuthorization string
	// Latency is drawn once for each run, and waited for before its effect.
	Latency func() time.Duration
	// ReceiptDelay is the time between two states of a message, and of an export.
	// Defaults to 100 ms; negative means none.
	ReceiptDelay time.Duration
	// Postpaid makes 8x8 refuse to tell the balance, as it does for postpaid accounts.
	Postpaid bool
	// BuildDelay is how long an action or a connection is BUILDING. Defaults to
	// 100 ms; negative means no time at all.
	BuildDelay time.Duration
	// TokenLife is how long an access token that OAuth gave out is good. Defaults to an hour.
	TokenLife time.Duration
	// RefuseLongTexts has 8x8 refuse a text of more than 10 parts with 1004; it cuts
	// one off otherwise.
	RefuseLongTexts bool
	// Rate and RatePerIP are how many sends 8x8 takes in a second from a sub-account,
	// and for one clientIp. 0 is no limit; 8x8's own is 1800.
	Rate, RatePerIP int
	// RunLogs is what becomes of run logs, and RunLogDelay when LogsLate shows them
	// (2 s if 0). It can be changed later with SetRunLogs.
	RunLogs     RunLogs
	RunLogDelay time.Duration
	// Seed makes the faults with a probability repeatable. Defaults to 1.
	Seed uint64
	// Now and AfterFunc replace the clock, for tests that cannot wait 90 s. AfterFunc
	// calls f in its own goroutine after d. Default to those of package time.
	Now       func() time.Time
	AfterFunc func(d time.Duration, f func())
	// Logger hears about receipts that were given up. Nil: nobody does.
	Logger *slog.Logger
}

// Server is the sandbox, an http.Handler. It is safe for concurrent use.
type Server struct {
	opts      Options
	mux       *http.ServeMux
	actions   directory
	tokens    tokens
	createdAt time.Time
	webhook   atomic.Pointer[webhook]
	hooks     hooks
	runLogs   atomic.Value // RunLogs
	client    *http.Client
	world     atomic.Pointer[world]
}

// world is all that a reset forgets. A run that is under way during a reset
// ends in the world that it began in.
type world struct {
	ctx     context.Context
	cancel  context.CancelFunc
	faults  faults
	effects effects
	logs    logs
	account *account
	courier *courier

	connections connections
	built       workshop
	agents      agents
	tenants     tenants
	oauth       oauth
}

type webhook struct{ url, authorization string }

// New makes a sandbox. Close it when done.
func New(opts Options) *Server {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.AfterFunc == nil {
		opts.AfterFunc = func(d time.Duration, f func()) { time.AfterFunc(d, f) }
	}
	switch {
	case opts.ReceiptDelay == 0:
		opts.ReceiptDelay = 100 * time.Millisecond
	case opts.ReceiptDelay < 0:
		opts.ReceiptDelay = 0
	}
	switch {
	case opts.BuildDelay == 0:
		opts.BuildDelay = 100 * time.Millisecond
	case opts.BuildDelay < 0:
		opts.BuildDelay = 0
	}
	if opts.TokenLife <= 0 {
		opts.TokenLife = time.Hour
	}
	if opts.RunLogDelay <= 0 {
		opts.RunLogDelay = 2 * time.Second
	}
	if opts.Seed == 0 {
		opts.Seed = 1
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = maxPosts
	s := &Server{
		opts:      opts,
		actions:   newDirectory(catalog.Builtin().All()),
		createdAt: opts.Now().UTC(),
		client: &http.Client{
			Transport: transport,
			Timeout:   postTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return http.ErrUseLastResponse
			},
		},
	}
	s.SetWebhook(opts.WebhookURL, opts.WebhookAuthorization)
	s.SetRunLogs(opts.RunLogs)
	s.world.Store(s.newWorld())
	s.mux = s.routes()
	return s
}

func (s *Server) newWorld() *world {
	ctx, cancel := context.WithCancel(context.Background())
	w := &world{ctx: ctx, cancel: cancel}
	w.faults.seed(s.opts.Seed)
	w.courier = &courier{ctx: ctx, server: s, slots: make(chan struct{}, maxPosts)}
	w.account = newAccount(s, w.courier)
	return w
}

// Close stops the receipts and waits for those that are being posted.
func (s *Server) Close() {
	s.world.Load().end()
	s.client.CloseIdleConnections()
}

func (w *world) end() {
	w.cancel()
	w.courier.stop()
}

// Reset forgets every run, effect, message, contact and fault, and the
// receipts that were still to come. The webhook stays.
func (s *Server) Reset() {
	s.world.Swap(s.newWorld()).end()
}

// SetWebhook sets where receipts and inbound messages go from now on; an empty
// url turns them off.
func (s *Server) SetWebhook(url, authorization string) {
	s.webhook.Store(&webhook{url, authorization})
}

// Effects is every effect so far, in the order in which they happened.
func (s *Server) Effects() []Effect { return s.world.Load().effects.all() }

// WaitEffects returns once there are n effects or more.
func (s *Server) WaitEffects(ctx context.Context, n int) error {
	return s.world.Load().effects.wait(ctx, n)
}

// Fault adds a rule of failure; it has the same fields and defaults over HTTP.
func (s *Server) Fault(f Fault) error { return s.world.Load().faults.add(f) }

// ClearFaults removes the rules of failure about a tenant; all rules if it is empty.
func (s *Server) ClearFaults(tenant string) { s.world.Load().faults.clear(tenant) }

// Idle says that no receipt is waiting to be posted or posted again.
func (s *Server) Idle() bool { return s.world.Load().courier.idle() }

// WaitReceipts returns once Idle.
func (s *Server) WaitReceipts(ctx context.Context) error {
	return s.world.Load().courier.wait(ctx)
}

// Inbound makes a phone send an SMS to the account: it is posted to the
// webhook, and its umid returned. An empty destination is the account's own number.
func (s *Server) Inbound(source, destination, body string) (umid string, err error) {
	return s.inbound(inboundRequest{Source: source, Destination: destination, Body: body})
}

// ServeHTTP serves Membrane's API, 8x8's export downloads, and the controls.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Sandbox", "bridge8x8")
	s.mux.ServeHTTP(w, r)
}

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	s.membraneRoutes(mux)
	s.controlRoutes(mux)
	s.oauthRoutes(mux)
	mux.HandleFunc("GET "+connectionScreen, s.showConnect)
	mux.HandleFunc("POST "+connectionScreen, s.decideConnect)
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
		mux.HandleFunc(method+" /8x8/{path...}", s.direct)
	}
	mux.HandleFunc("GET /8x8/api/v1/subaccounts/{subAccountId}/messages/download/{jobId}", s.downloadExport)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, notFound("cannot %s %s", r.Method, r.URL.Path))
	})
	return mux
}

// pause waits for d by the sandbox's clock. It does not end when the caller
// hangs up: a run that has started goes on.
func (s *Server) pause(w *world, d time.Duration) {
	if d <= 0 {
		return
	}
	done := make(chan struct{})
	s.opts.AfterFunc(d, func() { close(done) })
	select {
	case <-done:
	case <-w.ctx.Done():
	}
}

// RunLogs is what becomes of the logs of runs: a workspace may keep none, and
// nobody says how soon one shows.
type RunLogs string

// What a fault of kind hide-log or delay-log says of one run wins.
const (
	LogsOn     RunLogs = "on"     // they show at once
	LogsOff    RunLogs = "off"    // none is kept
	LogsLate   RunLogs = "late"   // they show after RunLogDelay
	LogsHidden RunLogs = "hidden" // they can be read by their id, and are in no list
)

var runLogWords = []RunLogs{LogsOn, LogsOff, LogsLate, LogsHidden}

// Valid says that it is one of the four.
func (l RunLogs) Valid() bool { return slices.Contains(runLogWords, l) }

// SetRunLogs sets what becomes of the logs of the runs that begin from now on.
func (s *Server) SetRunLogs(l RunLogs) { s.runLogs.Store(cmp.Or(l, LogsOn)) }

// Effect is one thing that really happened at 8x8: messages taken, a contact
// written, a group changed, an export begun. Reads and refusals are none.
type Effect struct {
	Action      string          `json:"action"`
	Input       json.RawMessage `json:"input"`
	Meta        json.RawMessage `json:"meta,omitempty"` // as sent to Membrane
	At          time.Time       `json:"at"`
	Tenant      string          `json:"tenant"`
	ActionRunID string          `json:"actionRunId"`
}

type effects struct {
	mu      sync.Mutex
	items   []Effect
	waiters []waiter
}

type waiter struct {
	n    int
	done chan struct{}
}

func (e *effects) add(effect Effect) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.items = append(e.items, effect)
	e.waiters = slices.DeleteFunc(e.waiters, func(w waiter) bool {
		if len(e.items) < w.n {
			return false
		}
		close(w.done)
		return true
	})
}

func (e *effects) all() []Effect {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.items)
}

func (e *effects) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.items)
}

func (e *effects) wait(ctx context.Context, n int) error {
	e.mu.Lock()
	if len(e.items) >= n {
		e.mu.Unlock()
		return nil
	}
	w := waiter{n, make(chan struct{})}
	e.waiters = append(e.waiters, w)
	e.mu.Unlock()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return errors.Join(errors.New("waiting for effects"), ctx.Err())
	}
}
