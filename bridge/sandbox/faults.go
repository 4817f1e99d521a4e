package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Kind is a way to fail.
type Kind string

// The kinds. Of the rules that fit a request, the first of each of three sorts
// applies: one that slows it, one that spoils its answer, one that spoils its log.
const (
	// No effect, and no run log.
	Refuse       Kind = "refuse"       // 503
	RateLimit    Kind = "rate-limit"   // 429 of Membrane itself
	Unauthorized Kind = "unauthorized" // 401
	Forbidden    Kind = "forbidden"    // 403
	DropBefore   Kind = "drop-before"  // the connection is closed
	Hang         Kind = "hang"         // nothing ever, until the caller gives up

	// No effect, but a run log that says error.
	ErrorBefore     Kind = "error-before"      // 500
	VendorRateLimit Kind = "vendor-rate-limit" // 8x8's 429 inside an action_run error
	Defunct         Kind = "defunct"           // the connection needs a person: connection_is_defunct inside an action_run error

	// The effect happens.
	ErrorAfter Kind = "error-after" // 500, and a run log that says error
	DropAfter  Kind = "drop-after"  // the connection is closed; the run log says success
	HalfBody   Kind = "half-body"   // the right answer, cut in half; the run log says success

	// Any answer, before the effect and without a run log, or with after: true once
	// the run has ended well and is logged.
	Status Kind = "status" // Fault.Status, Headers and Body
	HTML   Kind = "html"   // a gateway's error page, 502 or Fault.Status

	// Delay is waited for before the effect, or with after: true before the answer.
	Slow Kind = "slow"

	// The run itself goes its way.
	HideLog  Kind = "hide-log"  // its log never shows
	DelayLog Kind = "delay-log" // its log shows after Delay
	// DuplicateLog lists its log twice.
	DuplicateLog Kind = "duplicate-log"
)

var answerKinds = []Kind{
	Refuse, RateLimit, Unauthorized, Forbidden, DropBefore, Hang, ErrorBefore, VendorRateLimit, Defunct,
	ErrorAfter, DropAfter, HalfBody, Status, HTML,
}

var kinds = append(slices.Clone(answerKinds), Slow, HideLog, DelayLog, DuplicateLog)

// runKinds make no sense on a read: it has no effect to come before or after,
// and no log.
var runKinds = []Kind{ErrorAfter, DropAfter, VendorRateLimit, Defunct, HideLog, DelayLog, DuplicateLog}

// What a rule is about.
const (
	OnRuns  = "runs"  // every way to run an action
	OnLogs  = "logs"  // listing and fetching run logs
	OnReads = "reads" // all else of Membrane's API: actions, connections, self, and the proxy
)

// Fault is a rule of failure.
type Fault struct {
	Kind Kind `json:"kind"`
	// On is runs (the default), logs or reads.
	On string `json:"on,omitempty"`
	// Tenant limits a rule to requests of a tenant, by the key that its JWTs name.
	Tenant string `json:"tenant,omitempty"`
	// Action limits a rule on runs to an action key.
	Action string `json:"action,omitempty"`
	// Match limits a rule on runs to those whose meta.eventId or meta.key contains it.
	Match string `json:"match,omitempty"`
	// Times is how often it applies; 0 means once, -1 for ever.
	Times int `json:"times,omitempty"`
	// Probability, between 0 and 1, is how likely it applies when it could; 0 means always.
	Probability float64 `json:"probability,omitempty"`
	// After: see the kinds.
	After bool `json:"after,omitempty"`
	// DelayMs is how long slow and delay-log take, in milliseconds.
	DelayMs int `json:"delayMs,omitempty"`
	// RetryAfter, in seconds, is sent as a header with 429 and 503; 0 sends none.
	RetryAfter int `json:"retryAfter,omitempty"`
	// Status, Headers and Body are the answer of kind status. A Body that is a JSON
	// string is sent as that text, anything else as JSON.
	Status  int               `json:"status,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	Body    json.RawMessage   `json:"body,omitempty"`
}

func (f Fault) delay() time.Duration { return time.Duration(f.DelayMs) * time.Millisecond }

func (f Fault) check() error {
	has := func(k ...Kind) bool { return slices.Contains(k, f.Kind) }
	switch {
	case f.Kind == "":
		return fmt.Errorf("kind is required: one of %s", join(kinds))
	case !has(kinds...):
		return fmt.Errorf("unknown kind %q: want one of %s", f.Kind, join(kinds))
	case !slices.Contains([]string{"", OnRuns, OnLogs, OnReads}, f.On):
		return fmt.Errorf("unknown on %q: want runs, logs or reads", f.On)
	case f.onReading() && has(runKinds...):
		return fmt.Errorf("kind %s works on runs only, not on %s", f.Kind, f.On)
	case f.onReading() && (f.Action != "" || f.Match != ""):
		return fmt.Errorf("action and match limit rules on runs only, not on %s", f.On)
	case f.Times < -1:
		return fmt.Errorf("times %d: want a count, or -1 for ever", f.Times)
	case f.Probability < 0 || f.Probability > 1:
		return fmt.Errorf("probability %v: want a number between 0 and 1", f.Probability)
	case has(Slow, DelayLog) && f.DelayMs <= 0:
		return fmt.Errorf("kind %s needs delayMs, in milliseconds", f.Kind)
	case f.DelayMs != 0 && !has(Slow, DelayLog):
		return fmt.Errorf("delayMs belongs to kinds slow and delay-log, not to %s", f.Kind)
	case f.After && !has(Slow, Status, HTML):
		return fmt.Errorf("after belongs to kinds slow, status and html, not to %s", f.Kind)
	case f.RetryAfter < 0 || f.RetryAfter != 0 && !has(Refuse, RateLimit, VendorRateLimit):
		return errors.New("retryAfter belongs to kinds refuse, rate-limit and vendor-rate-limit, in seconds")
	case f.Kind == Status && (f.Status < 200 || f.Status > 599):
		return errors.New("kind status needs status, from 200 to 599")
	case f.Status != 0 && !has(Status, HTML) || f.Kind == HTML && f.Status != 0 && (f.Status < 200 || f.Status > 599):
		return errors.New("status belongs to kinds status and html, from 200 to 599")
	case (f.Body != nil || f.Headers != nil) && f.Kind != Status:
		return fmt.Errorf("body and headers belong to kind status, not to %s", f.Kind)
	}
	return nil
}

func (f Fault) onReading() bool { return f.On == OnLogs || f.On == OnReads }

func join(kinds []Kind) string {
	var words []string
	for _, k := range kinds {
		words = append(words, string(k))
	}
	return strings.Join(words, ", ")
}

// faults is the list of rules, in the order in which they were added.
type faults struct {
	active atomic.Int32 // rules that can still apply: the way past without a lock
	mu     sync.Mutex
	rules  []*Fault
	dice   *rand.Rand
}

func (f *faults) seed(seed uint64) { f.dice = rand.New(rand.NewPCG(seed, seed)) }

// add takes all of the rules or none.
func (f *faults) add(rules ...Fault) error {
	for i, rule := range rules {
		if err := rule.check(); err != nil {
			if len(rules) > 1 {
				return fmt.Errorf("rule %d: %w", i+1, err)
			}
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, rule := range rules {
		if rule.Times == 0 {
			rule.Times = 1
		}
		if rule.On == "" {
			rule.On = OnRuns
		}
		f.rules = append(f.rules, &rule)
	}
	f.active.Store(int32(len(f.rules)))
	return nil
}

// clear removes the rules about a tenant, or all if it is empty.
func (f *faults) clear(tenant string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = slices.DeleteFunc(f.rules, func(rule *Fault) bool { return tenant == "" || rule.Tenant == tenant })
	f.active.Store(int32(len(f.rules)))
}

func (f *faults) list() []Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := make([]Fault, len(f.rules))
	for i, rule := range f.rules {
		list[i] = *rule
	}
	return list
}

// trouble is what the rules do to one request.
type trouble struct {
	slow   Fault
	answer Fault
	log    Fault
}

// pick draws the trouble of one request of a tenant; action and meta are of a run.
func (f *faults) pick(on, tenant, action string, meta json.RawMessage) (t trouble) {
	if f.active.Load() == 0 {
		return t
	}
	var ids struct{ EventID, Key string }
	_ = json.Unmarshal(meta, &ids) // a meta of other shape matches nothing
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = slices.DeleteFunc(f.rules, func(rule *Fault) bool {
		slot := &t.answer
		switch rule.Kind {
		case Slow:
			slot = &t.slow
		case HideLog, DelayLog, DuplicateLog:
			slot = &t.log
		}
		if slot.Kind != "" || rule.On != on || rule.Tenant != "" && rule.Tenant != tenant ||
			rule.Action != "" && rule.Action != action {
			return false
		}
		if rule.Match != "" && !strings.Contains(ids.EventID, rule.Match) && !strings.Contains(ids.Key, rule.Match) {
			return false
		}
		if rule.Probability > 0 && f.dice.Float64() >= rule.Probability {
			return false
		}
		*slot = *rule
		if rule.Times > 0 {
			rule.Times--
		}
		return rule.Times == 0
	})
	f.active.Store(int32(len(f.rules)))
	return t
}

// spoil writes an answer that Membrane or a gateway gives in place of the right
// one. It reports false for a fault that leaves the answer to the run.
func (f Fault) spoil(w http.ResponseWriter, r *http.Request, at *world) bool {
	switch f.Kind {
	case Hang:
		select {
		case <-r.Context().Done():
		case <-at.ctx.Done():
		}
		panic(http.ErrAbortHandler)
	case Refuse:
		retryAfter(w, f.RetryAfter)
		writeText(w, http.StatusServiceUnavailable, "text/plain; charset=utf-8", "no healthy upstream")
	case RateLimit:
		writeError(w, &apiError{Type: "bad_request", Key: "rate_limit_exceeded", Message: "too many API requests in this workspace", retryAfter: f.RetryAfter})
	case Unauthorized:
		writeError(w, notAuthenticated("the token is no longer accepted"))
	case Forbidden:
		writeError(w, &apiError{Type: "bad_request", Key: "access_denied", Message: "the tenant may not do this"})
	case DropBefore, DropAfter:
		panic(http.ErrAbortHandler) // net/http closes the connection without an answer
	case Status:
		for name, value := range f.Headers {
			w.Header().Set(name, value)
		}
		body, contentType := string(f.Body), "application/json; charset=utf-8"
		if json.Unmarshal(f.Body, &body) == nil {
			contentType = "text/plain; charset=utf-8"
		}
		if w.Header().Get("Content-Type") != "" {
			contentType = w.Header().Get("Content-Type")
		}
		writeText(w, f.Status, contentType, body)
	case HTML:
		status := f.Status
		if status == 0 {
			status = http.StatusBadGateway
		}
		writeText(w, status, "text/html; charset=utf-8",
			fmt.Sprintf("<html><head><title>%d %s</title></head><body><h1>%[1]d %[2]s</h1></body></html>\n", status, http.StatusText(status)))
	default:
		return false
	}
	return true
}

func retryAfter(w http.ResponseWriter, seconds int) {
	if seconds > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(seconds))
	}
}

func writeText(w http.ResponseWriter, status int, contentType, body string) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}

// halfWriter promises a whole answer, sends half of it and breaks off.
type halfWriter struct {
	http.ResponseWriter
}

func (h halfWriter) Write(body []byte) (int, error) {
	_, _ = h.ResponseWriter.Write(body[:len(body)/2])
	_ = http.NewResponseController(h.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}

func (h halfWriter) WriteHeader(status int) {
	h.ResponseWriter.WriteHeader(status)
}
