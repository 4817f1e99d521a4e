// Package ingress is the public HTTP side: CloudEvents at /events and at the
// declared webhooks, 8x8's own webhooks at /webhooks/8x8. A request is
// authenticated, read, stored, and only then answered with a 2xx; what happens to
// the event after that is not its business.
//
// Answers of /events and /webhooks/{name}: 202 without a body once every event is
// stored; otherwise RFC 9457 application/problem+json with a stable code. A batch
// is stored only if each item is an event. If storing fails half way, some items
// may be stored: the sender repeats the batch, and identity (source and id) makes
// one event of both. Answers of /webhooks/8x8: 200, or a problem, after which
// 8x8 posts again (source: 8x8 delivery-receipts-for-outbound-sms.md).
package ingress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"golang.org/x/time/rate"

	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/native"
	"github.com/bridge8x8/bridge8x8/config"
)

// Accepter stores events. It returns nil only when all of them are stored for
// good. An error that is cloudevent.ErrTooLarge is answered 413; after any other
// the sender is told to come again.
type Accepter interface {
	Accept(ctx context.Context, events []cloudevent.Message) error
}

// Correlation is what the ledger knows of the event that caused what 8x8 says.
// Empty parts are left out of its event.
type Correlation struct {
	CausationID     string
	CausationSource string
	CorrelationID   string
	TraceParent     string
	TraceState      string
	// Outcome is how far the message of a receipt has come, with all that was said before.
	Outcome *native.Outcome
}

// Request is what an Observer is told about one request that was answered. None
// of it comes from the sender's content.
type Request struct {
	Endpoint string // "/events", "/webhooks/8x8", "/webhooks/<name>", or "" for an address that does not exist
	Method   string // "POST", "OPTIONS", or "other"
	Status   int
	Code     string          // of the problem; empty for a success
	Mode     cloudevent.Mode // empty if it did not come to that
	Events   int             // stored
	Bytes    int             // of the body, as far as it was read
	// BarePercents counts the events with a header value that was not
	// percent-encoded as it should be.
	BarePercents int
	Took         time.Duration
}

// Options say what is served and to whom.
type Options struct {
	// Accept stores what comes in. Required.
	Accept Accepter
	// Correlate finds the event that one from 8x8 answers to. No match is an empty
	// Correlation without an error; after an error 8x8 is told to come again
	// (rule R15). Nil leaves what 8x8 says uncorrelated.
	Correlate func(ctx context.Context, e *event.Event) (Correlation, error)

	// Tokens are the bearer tokens of /events; without any, it is open to everybody.
	Tokens []config.Secret
	// WebhookSecret opens /webhooks/8x8/{secret}; WebhookAuth is the Authorization
	// value that 8x8 was told to send. One that fits is enough; without both,
	// /webhooks/8x8 is open to everybody.
	WebhookSecret config.Secret
	WebhookAuth   config.Secret
	// Webhooks are served at /webhooks/<name>, each like /events. The one named 8x8
	// says how 8x8's own webhooks prove that they are.
	Webhooks []config.Webhook
	// Answer makes the JSON that one of 8x8's questions is answered with; ok is false
	// where none is configured. Optional.
	Answer func(*event.Event) (body []byte, ok bool, err error)
	// Wrap makes a CloudEvent of what was posted to a webhook with an event mapping.
	// Required if there is one.
	Wrap func(webhook string, header map[string][]string, body []byte) (event.Event, error)

	// Origins are the WebHook-Request-Origin values that the OPTIONS handshake
	// grants; "*" grants any. Without one no origin is granted, and deliveries are
	// not asked for theirs.
	Origins []string
	// Rate is how many requests a minute are taken on each of /events and the declared
	// webhooks, and what the handshake allows. Zero is no limit.
	Rate int
	// MaxEvent is the longest event in bytes, its headers not counted. Defaults to
	// 1 MiB less 32 KiB, so that headers still fit into NATS's usual maximum.
	// A batch may be eight times as long.
	MaxEvent int
	// Commands lets com.8x8.run.* events in.
	Commands bool

	// Ready says why nothing can be taken right now, or nil. It is asked before a
	// body is read. Optional.
	Ready func() error
	// Observe is told of every request. It must not block. Optional.
	Observe func(Request)
	// Logger is told what an operator should see. Defaults to none.
	Logger *slog.Logger
}

const (
	defaultMaxEvent = 1<<20 - 32<<10
	batchFactor     = 8
	maxBatch        = 1000 // events in a batch

	// 8x8 wants its answer within 5 s (source: 8x8 whatsapp-webhooks.md).
	nativeLimit = 4 * time.Second
	storeLimit  = 10 * time.Second

	// retryAfter is how long a sender is asked to wait when nothing can be stored.
	retryAfter = 5 * time.Second

	nativeName    = "8x8"
	commandPrefix = "com.8x8.run."
)

// handler serves the public addresses.
type handler struct {
	Options
	events   *endpoint
	webhooks map[string]*endpoint // by name
	native   proofs
	warned   atomic.Int64 // when the last warning was written, in Unix ns
}

// warnEvery is how long a warning about requests that cannot be taken stands for the next ones.
const warnEvery = 10 * time.Second

// endpoint is an address that takes CloudEvents.
type endpoint struct {
	path    string
	tokens  tokens
	limiter *rate.Limiter // nil: no limit

	// Of a declared webhook only. All that is asked for must fit.
	name               string
	signature          *config.Signature
	authorizations     tokens
	jwt                *bearer
	addresses, proxies []netip.Prefix
	wraps              bool
}

// New makes the handler of the public listener.
func New(o Options) (http.Handler, error) {
	if o.Accept == nil {
		return nil, errors.New("ingress: no Accept to store events with")
	}
	if o.Rate < 0 || o.MaxEvent < 0 {
		return nil, errors.New("ingress: Rate and MaxEvent cannot be negative")
	}
	if o.MaxEvent == 0 {
		o.MaxEvent = defaultMaxEvent
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if slices.Contains(o.Tokens, "") {
		return nil, errors.New("a bearer token of /events is empty; set it, or leave it out")
	}
	h := &handler{Options: o, webhooks: make(map[string]*endpoint)}
	endpointAt := func(path string, secrets []config.Secret) *endpoint {
		e := &endpoint{path: path, tokens: newTokens(secrets)}
		if o.Rate > 0 {
			// A sender may use its minute's allowance at once.
			e.limiter = rate.NewLimiter(rate.Limit(float64(o.Rate)/60), o.Rate)
		}
		return e
	}
	h.events = endpointAt("/events", o.Tokens)
	for _, w := range o.Webhooks {
		if w.Name == nativeName {
			continue // see newProofs
		}
		if h.webhooks[w.Name] != nil {
			return nil, fmt.Errorf("webhook %q is declared twice; choose another name", w.Name)
		}
		if slices.Contains(w.Bearer, "") {
			return nil, fmt.Errorf("webhook %q: a bearer token is empty; set it, or leave it out", w.Name)
		}
		if w.Event != nil && o.Wrap == nil {
			return nil, fmt.Errorf("webhook %q: no Wrap to make events with", w.Name)
		}
		e := endpointAt("/webhooks/"+w.Name, w.Bearer)
		e.authorizations, e.jwt = newTokens(w.Authorizations), newBearer(w.JWT)
		e.name, e.signature, e.addresses, e.proxies, e.wraps = w.Name, w.Signature, w.Addresses, w.Proxies, w.Event != nil
		h.webhooks[w.Name] = e
	}
	h.native = newProofs(&o)
	return h, nil
}

// ServeHTTP answers one request and tells of it.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	seen := Request{Method: "other"}
	if r.Method == http.MethodPost || r.Method == http.MethodOptions {
		seen.Method = r.Method
	}
	a := h.route(w, r, &seen)
	seen.Status, seen.Code = a.status, a.problem.Code
	a.write(w)
	seen.Took = time.Since(start)
	if h.Observe != nil {
		h.Observe(seen)
	}
	if a.cause != nil {
		level := slog.LevelDebug
		if now, last := start.UnixNano(), h.warned.Load(); now-last > int64(warnEvery) && h.warned.CompareAndSwap(last, now) {
			level = slog.LevelWarn // senders come again and again while nothing can be stored: one line will do
		}
		h.Logger.Log(r.Context(), level, "a request could not be taken", "endpoint", seen.Endpoint, "status", a.status, "code", a.problem.Code, "error", a.cause)
	} else if a.problem.Code != "" {
		h.Logger.Debug("a request was refused", "endpoint", seen.Endpoint, "status", a.status, "code", a.problem.Code)
	}
}

// route finds who answers. Addresses are compared by hand and not by
// http.ServeMux, which would answer some of them without a problem document.
func (h *handler) route(w http.ResponseWriter, r *http.Request, seen *Request) answer {
	if r.URL.Path == h.events.path {
		seen.Endpoint = h.events.path
		return h.serveEvents(h.events, w, r, seen)
	}
	name, found := strings.CutPrefix(r.URL.Path, "/webhooks/")
	if !found {
		return refuse(http.StatusNotFound, "not_found", "there is nothing at this address; events go to /events")
	}
	name, secret, hasSecret := strings.Cut(name, "/")
	if name == nativeName {
		seen.Endpoint = "/webhooks/8x8"
		return h.serveNative(secret, hasSecret, w, r, seen)
	}
	if e := h.webhooks[name]; e != nil && !hasSecret {
		seen.Endpoint = e.path
		return h.serveEvents(e, w, r, seen)
	}
	return refuse(http.StatusNotFound, "not_found", "no webhook of this name is declared in the configuration")
}

// serveEvents takes CloudEvents in every mode, and the validation handshake.
func (h *handler) serveEvents(e *endpoint, w http.ResponseWriter, r *http.Request, seen *Request) answer {
	if r.Method == http.MethodOptions {
		return h.handshake(r)
	}
	if r.Method != http.MethodPost {
		return refuse(http.StatusMethodNotAllowed, "method_not_allowed", "use POST").with("Allow", "POST, OPTIONS")
	}
	if len(e.addresses) > 0 && !comesFrom(r, e.addresses, e.proxies) {
		return refuse(http.StatusForbidden, "address_not_allowed", "the sender's address is not one of those that are allowed here")
	}
	a, byQuery := e.tokens.check(r)
	if a == nil && len(e.authorizations) > 0 && !e.authorizations.fit(r.Header.Get("Authorization")) {
		refusal := unauthorized("the Authorization header is not the one that is configured")
		a = &refusal
	}
	if a == nil && e.jwt != nil {
		a = e.checkToken(r)
	}
	if a != nil {
		return *a
	}
	answered := h.takeEvents(e, w, r, seen)
	if byQuery {
		// What was asked for with a token in the address is nobody else's (CloudEvents
		// Web Hooks 3.2).
		answered = answered.with("Cache-Control", "private")
	}
	return answered
}

func (h *handler) takeEvents(e *endpoint, w http.ResponseWriter, r *http.Request, seen *Request) answer {
	if origin := r.Header.Get("WebHook-Request-Origin"); origin != "" && len(h.Origins) > 0 && !h.grants(origin) {
		return refuse(http.StatusForbidden, "origin_not_allowed", "WebHook-Request-Origin names an origin that is not allowed here")
	}
	if e.limiter != nil {
		if turn := e.limiter.Reserve(); turn.Delay() > 0 {
			wait := turn.Delay()
			turn.Cancel()
			return refuse(http.StatusTooManyRequests, "rate_exceeded", fmt.Sprintf("more than the allowed %d requests a minute", h.Rate)).after(wait)
		}
	}
	if err := h.ready(); err != nil {
		return unavailable(err)
	}
	mode, err := cloudevent.ModeOf(r.Header)
	wrapped := err != nil && e.wraps
	if err != nil && !wrapped {
		return unreadable(err)
	}
	seen.Mode = mode
	limit := h.MaxEvent
	if mode == cloudevent.Batched {
		limit *= batchFactor
	}
	body, a := readBody(w, r, limit)
	seen.Bytes = len(body)
	if a != nil {
		return *a
	}
	if e.signature != nil {
		if err := verify(e.signature, r.Header, body, time.Now()); err != nil {
			return unauthorized(err.Error())
		}
	}
	if wrapped {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), storeLimit)
		defer cancel()
		return h.takeWrapped(ctx, e, r, body, seen)
	}
	messages, err := cloudevent.FromHTTP(r.Header, body)
	if err != nil {
		return unreadable(err)
	}
	if a := h.admit(mode, messages); a != nil {
		return *a
	}
	for i := range messages {
		if messages[i].Event.BarePercent {
			seen.BarePercents++
		}
		carryTrace(messages[i].Header, r.Header)
	}
	if len(messages) > 0 {
		// A sender that hangs up must not leave it open whether its events are stored.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), storeLimit)
		defer cancel()
		if err := h.Accept.Accept(ctx, messages); err != nil {
			return notStored(err)
		}
	}
	seen.Events = len(messages)
	return answer{status: http.StatusAccepted}
}

// admit applies what depends on an event's content: its size and its type.
func (h *handler) admit(mode cloudevent.Mode, messages []cloudevent.Message) *answer {
	if len(messages) > maxBatch {
		a := refuse(http.StatusRequestEntityTooLarge, "batch_too_long", fmt.Sprintf("a batch may hold %d events; split it", maxBatch))
		return &a
	}
	var large, reserved []itemProblem
	for i := range messages {
		if len(messages[i].Data) > h.MaxEvent {
			large = append(large, itemProblem{Index: i, Detail: tooLarge(h.MaxEvent)})
		}
		if !h.Commands && strings.HasPrefix(messages[i].Event.Type(), commandPrefix) {
			reserved = append(reserved, itemProblem{Index: i, Attribute: "type", Detail: "type: is reserved for commands"})
		}
	}
	var a answer
	switch {
	case large != nil:
		a = refuse(http.StatusRequestEntityTooLarge, "too_large", tooLarge(h.MaxEvent))
		a.problem.Errors = large
	case reserved != nil:
		a = refuse(http.StatusForbidden, "reserved_type", "type: com.8x8.run.* is reserved for commands, which are off; BRIDGE_COMMANDS=true turns them on")
		a.problem.Errors = reserved
	default:
		return nil
	}
	if mode != cloudevent.Batched {
		a.problem.Errors = nil
	}
	return &a
}

// serveNative takes one of 8x8's own webhooks.
func (h *handler) serveNative(secret string, hasSecret bool, w http.ResponseWriter, r *http.Request, seen *Request) answer {
	if r.Method != http.MethodPost {
		return refuse(http.StatusMethodNotAllowed, "method_not_allowed", "use POST").with("Allow", "POST")
	}
	if refusal := h.native.beforeBody(r.Context(), secret, hasSecret, r); refusal != nil {
		return *refusal
	}
	if err := h.ready(); err != nil {
		return unavailable(err)
	}
	body, a := readBody(w, r, h.MaxEvent)
	seen.Bytes = len(body)
	if a != nil {
		return *a
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), nativeLimit)
	defer cancel()
	if refusal := h.native.withBody(ctx, r, body, time.Now()); refusal != nil {
		return *refusal
	}
	event := native.Convert(r.Header, body, time.Now())
	if h.Correlate != nil {
		c, err := h.Correlate(ctx, &event)
		if err != nil {
			return unavailable(fmt.Errorf("look up what 8x8's webhook answers to: %w", err))
		}
		c.extend(event.SetExtension)
		if c.Outcome != nil {
			native.SetOutcome(&event, *c.Outcome)
		}
	}
	m, err := stored(event)
	if err != nil {
		// Convert makes valid events; only a correlation could have spoilt it.
		return unavailable(fmt.Errorf("write 8x8's webhook as an event: %w", err))
	}
	if err := h.Accept.Accept(ctx, []cloudevent.Message{m}); err != nil {
		return notStored(err)
	}
	seen.Events = 1
	return h.answerTo(&event)
}

// extend adds what is known to an event.
func (c Correlation) extend(set func(name string, value any)) {
	for _, ext := range [...]struct{ name, value string }{
		{"causationid", c.CausationID},
		{"causationsource", c.CausationSource},
		{"correlationid", c.CorrelationID},
		{"traceparent", c.TraceParent},
		{"tracestate", c.TraceState},
	} {
		if ext.value != "" {
			set(ext.name, ext.value)
		}
	}
}

func (h *handler) ready() error {
	if h.Ready == nil {
		return nil
	}
	return h.Ready()
}

// carryTrace hands the request's trace on in the stored message's own headers:
// an event's traceparent extension tells of its first hop and is not touched.
func carryTrace(to map[string][]string, from http.Header) {
	parent := from.Get("Traceparent")
	if !plainHeader(parent, 128) {
		return
	}
	to["traceparent"] = []string{parent}
	if state := from.Get("Tracestate"); plainHeader(state, 512) {
		to["tracestate"] = []string{state}
	}
}

func plainHeader(s string, longest int) bool {
	return s != "" && len(s) <= longest && !slices.ContainsFunc([]byte(s), func(c byte) bool { return c < 0x20 || c > 0x7e })
}

// NewServer makes the server for the public listener, with a limit on
// everything a client could draw out.
func NewServer(addr string, h http.Handler, logger *slog.Logger) *http.Server {
	s := &http.Server{
		Addr:              addr,
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		// Counted from the end of the header: reading and storing must fit in.
		WriteTimeout:   30*time.Second + storeLimit + 5*time.Second,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 32 << 10,
	}
	if logger != nil {
		s.ErrorLog = slog.NewLogLogger(logger.Handler(), slog.LevelDebug)
	}
	return s
}
