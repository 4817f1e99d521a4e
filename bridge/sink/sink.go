// Package sink posts events to one HTTP address, at least once each: whoever
// receives them tells repetitions by source and id. What is to be posted, and
// what was, is kept by the consumer that the deliveries come from.
package sink

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/config"
)

// Options says where to post to and how.
type Options struct {
	URL string
	// Token is shown as a bearer token, the newest for each request; nil, or "", shows none.
	Token func() config.Secret
	Mode  cloudevent.Mode
	// Extensions are set on every event.
	Extensions map[string]string
	UserAgent  string
	// InFlight is how many requests may be under way.
	InFlight int
	// Posted is told of each request that ended, GivenUp of each event that is not
	// posted again, and State of each change between a sink that takes events and one
	// that does not. They may be nil.
	Posted  func(Verdict)
	GivenUp func(GivenUp)
	State   func(down error)
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time

	// For tests.
	rootCAs *x509.CertPool // nil: the system's
	timeout time.Duration  // 0: requestTimeout
	backoff time.Duration  // 0: firstBackoff
}

func (s *Sink) token() config.Secret {
	if s.o.Token == nil {
		return ""
	}
	return s.o.Token()
}

// Verdict is what an answer means.
type Verdict string

// The verdicts.
const (
	Accepted Verdict = "accepted"
	// Refused: the answer is about this event, and no.
	Refused Verdict = "refused"
	// Failed: the sink failed over it, or did not answer in time.
	Failed Verdict = "failed"
	// Unavailable: the sink takes nothing right now, or not from us.
	Unavailable Verdict = "unavailable"
)

// Verdicts are all of them.
var Verdicts = []Verdict{Accepted, Refused, Failed, Unavailable}

// GivenUp is an event that is not posted again. It stays in its stream.
type GivenUp struct {
	Type, ID, Stream string
	Seq              uint64
	Verdict          Verdict
	Why              string
}

const (
	requestTimeout = 30 * time.Second
	firstBackoff   = time.Second
	mostBackoff    = time.Minute
	mostRetryAfter = time.Hour
	// An event that the sink refuses is posted so often in all. One that it fails over
	// is given up later, and only if it took others meanwhile: a sink that is broken
	// for all events has them all kept.
	mostRefused = 5
	mostFailed  = 20
	// mostTried is how many events are remembered as tried and not accepted; the
	// consumers hold fewer.
	mostTried = 8192
)

// Sink posts events. It may be used from many goroutines.
type Sink struct {
	o         Options
	url       url.URL
	transport *http.Transport

	mu       sync.Mutex
	tried    map[place]tried
	accepted uint64 // events so far
	failing  int    // answers in a row that said neither yes nor no
	rounds   int    // pauses in a row
	until    time.Time
	down     error // why it takes nothing; nil while it does
}

// place is where an event is kept.
type place struct {
	stream string
	seq    uint64
}

// tried is what came of the posts of an event that was not accepted yet.
type tried struct {
	times, refused, failed int
	accepted               uint64 // other events, by the last time
}

// New makes a sink. It sends nothing.
func New(o Options) (*Sink, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("BRIDGE_SINK_URL is no http or https address")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.timeout == 0 {
		o.timeout = requestTimeout
	}
	if o.backoff == 0 {
		o.backoff = firstBackoff
	}
	if o.Posted == nil {
		o.Posted = func(Verdict) {}
	}
	if o.GivenUp == nil {
		o.GivenUp = func(GivenUp) {}
	}
	if o.State == nil {
		o.State = func(error) {}
	}
	o.InFlight = max(1, o.InFlight)
	return &Sink{o: o, url: *u, tried: map[place]tried{}, transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.rootCAs},
		TLSHandshakeTimeout:    5 * time.Second,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxConnsPerHost:        o.InFlight,
		MaxIdleConnsPerHost:    o.InFlight,
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: 64 << 10,
	}}, nil
}

// Host is where it posts to, without what may be secret in the address.
func (s *Sink) Host() string { return s.url.Scheme + "://" + s.url.Host }

// Close closes idle connections.
func (s *Sink) Close() { s.transport.CloseIdleConnections() }

// Paused says whether the sink was found to take nothing a moment ago, so that
// nothing should be fetched for it.
func (s *Sink) Paused() bool { return s.pause() > 0 }

func (s *Sink) pause() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.until.Sub(s.o.Now())
}

// Healthy says why the sink took nothing when it was last tried.
func (s *Sink) Healthy() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down
}

// Handle posts one event, and settles its delivery: what was not accepted comes
// again. wanted says which events are posted; the others are done with. ctx ends
// when the process stops: a post under way is then broken off, and comes again.
func (s *Sink) Handle(ctx context.Context, d *bridge.Delivery, wanted func(*cloudevent.Event) bool) {
	e, err := cloudevent.FromNATS(d.Header, d.Data)
	if err != nil || !wanted(&e) { // what is no event has its dead letter
		d.Settle.Ack()
		return
	}
	if wait := s.pause(); wait > 0 { // it was asked for before that was known
		d.Settle.Nak(wait)
		return
	}
	a := s.post(ctx, &e)
	if ctx.Err() != nil && a.verdict != Accepted {
		d.Settle.Nak(0)
		return
	}
	s.o.Posted(a.verdict)
	wait, over := s.learn(place{d.Stream, d.Seq}, a)
	switch {
	case a.verdict == Accepted:
		d.Settle.Ack()
	case over:
		s.o.GivenUp(GivenUp{Type: e.Type(), ID: e.ID(), Stream: d.Stream, Seq: d.Seq, Verdict: a.verdict, Why: a.why})
		d.Settle.Ack()
	default:
		d.Settle.Nak(wait)
	}
}

// learn notes what came of a post. wait is when the event is to be posted again,
// unless it is over.
func (s *Sink) learn(at place, a answer) (wait time.Duration, over bool) {
	s.mu.Lock()
	now, was := s.o.Now(), s.down
	defer func() {
		is := s.down
		s.mu.Unlock()
		if (is == nil) != (was == nil) {
			s.o.State(is)
		}
	}()
	t := s.tried[at]
	t.times++
	switch a.verdict {
	case Accepted:
		delete(s.tried, at)
		s.accepted++
		s.failing, s.rounds, s.until, s.down = 0, 0, time.Time{}, nil
		return 0, true
	case Refused: // it reads what it is sent
		t.refused++
		s.failing, s.rounds, s.until, s.down = 0, 0, time.Time{}, nil
	default:
		if t.times > 1 && s.accepted != t.accepted {
			t.failed++
		}
		s.failing++
		if a.verdict == Unavailable || s.failing >= s.o.InFlight {
			s.down = errors.New(a.why)
			if !now.Before(s.until) { // those that were under way together are one reason to wait
				s.rounds++
				s.until = now.Add(max(s.step(s.rounds), a.after))
			}
		}
	}
	if t.refused >= mostRefused || t.failed >= mostFailed {
		delete(s.tried, at)
		return 0, true
	}
	t.accepted = s.accepted
	if len(s.tried) >= mostTried {
		clear(s.tried) // some were deleted from their stream
	}
	s.tried[at] = t
	return max(s.step(t.times), a.after, s.until.Sub(now)), false
}

// step is the nth wait: twice the one before, with jitter above half of it.
func (s *Sink) step(n int) time.Duration {
	d := min(s.o.backoff<<min(n-1, 16), mostBackoff)
	return d/2 + rand.N(d/2+1)
}

// answer is what became of one request.
type answer struct {
	verdict Verdict
	why     string // in words, without the sink's own
	after   time.Duration
}

func (s *Sink) post(ctx context.Context, e *cloudevent.Event) answer {
	ctx, cancel := context.WithTimeout(ctx, s.o.timeout)
	defer cancel()
	request, err := s.request(ctx, e)
	if err != nil {
		return answer{verdict: Refused, why: "it cannot be written for HTTP: " + err.Error()}
	}
	response, err := s.transport.RoundTrip(request) // follows no redirect
	switch {
	case err != nil && errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		return answer{verdict: Failed, why: fmt.Sprintf("no answer within %v", s.o.timeout)}
	case err != nil:
		return answer{verdict: Unavailable, why: err.Error()}
	}
	defer func() { _ = response.Body.Close() }()
	if n := response.ContentLength; n > 0 && n <= 64<<10 { // so that the connection can be used again; nobody reads it
		_, _ = io.CopyN(io.Discard, response.Body, n)
	}
	return s.read(response)
}

// read tells what a status code means. 3xx, 401, 403 and the like are about the
// sink's address and our right to post there: nothing that another event would
// change.
func (s *Sink) read(response *http.Response) answer {
	a := answer{why: "it answers " + strconv.Itoa(response.StatusCode), after: s.retryAfter(response.Header.Get("Retry-After"))}
	switch code := response.StatusCode; {
	case code >= 200 && code < 300:
		a.verdict = Accepted
	case code >= 300 && code < 400:
		a.verdict, a.why = Unavailable, a.why+": redirects are not followed; correct the sink's address"
	default:
		switch code {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusProxyAuthRequired,
			http.StatusRequestTimeout, http.StatusGone, http.StatusMisdirectedRequest, http.StatusTooEarly, http.StatusTooManyRequests,
			http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			a.verdict = Unavailable
		default:
			if a.verdict = Failed; code >= 400 && code < 500 {
				a.verdict = Refused
			}
		}
	}
	return a
}

func (s *Sink) retryAfter(text string) time.Duration {
	var wait time.Duration
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		wait = time.Duration(n) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = at.Sub(s.o.Now())
	}
	return min(max(wait, 0), mostRetryAfter)
}

func (s *Sink) request(ctx context.Context, e *cloudevent.Event) (*http.Request, error) {
	for name, value := range s.o.Extensions {
		e.SetExtension(name, value)
	}
	if e.FieldErrors != nil {
		return nil, errors.New("an extension cannot be set")
	}
	var (
		header http.Header
		body   []byte
		err    error
	)
	if s.o.Mode == cloudevent.Structured {
		header = http.Header{"Content-Type": {cloudevent.ContentTypeStructured}}
		body, err = cloudevent.ToJSON(e)
	} else {
		header, body, err = cloudevent.HTTPHeader(e)
	}
	if err == nil && strings.ContainsFunc(header.Get("Content-Type"), unicode.IsControl) {
		err = errors.New("its datacontenttype holds control characters") // which the transport would take for a broken sink
	}
	if err != nil {
		return nil, err
	}
	request, err := s.newRequest(ctx, http.MethodPost, body)
	if err == nil {
		maps.Copy(request.Header, header)
	}
	return request, err
}

func (s *Sink) newRequest(ctx context.Context, method string, body []byte) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, method, s.url.String(), bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("the sink's address cannot be used")
	}
	request.Header.Set("User-Agent", s.o.UserAgent)
	if token := s.token(); token != "" {
		request.Header.Set("Authorization", "Bearer "+token.Reveal())
	}
	return request, nil
}

// Ask makes the request of the CloudEvents webhook handshake, which has no
// effect, and says what the sink answers. Any answer shows that it is there; the
// error says that there is none, or that it takes nothing from us.
func (s *Sink) Ask(ctx context.Context, origin string) (note string, err error) {
	request, err := s.newRequest(ctx, http.MethodOptions, nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("WebHook-Request-Origin", origin)
	response, err := s.transport.RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	note = fmt.Sprintf("answers OPTIONS with %d", response.StatusCode)
	switch code := response.StatusCode; {
	case code >= 300 && code < 400, code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusGone, code >= 500 && code != http.StatusNotImplemented:
		return "", errors.New("it " + note)
	case response.Header.Get("WebHook-Allowed-Origin") != "":
		note += ", and lets us post"
	}
	return note, nil
}
