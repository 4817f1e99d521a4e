package membrane

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge"
)

// maxRetryAfter caps what a service may ask us to wait.
const maxRetryAfter = time.Hour

// maxCauses bounds the walk through causedByError.
const maxCauses = 16

// text is a JSON string; any other JSON value reads as "". The envelope is not
// always what its schema says, and one odd field must not hide the others.
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	*t = ""
	switch {
	case len(b) < 2 || b[0] != '"':
	case bytes.IndexByte(b, '\\') < 0:
		*t = text(b[1 : len(b)-1])
	default:
		var s string
		if json.Unmarshal(b, &s) == nil {
			*t = text(s)
		}
	}
	return nil
}

// errorData is one level of Membrane's error envelope. Its message is read for
// one decision only (see aboutConnection) and never shown: it may quote what the
// user sent.
type errorData struct {
	Type          text            `json:"type"`
	Key           text            `json:"key"`
	Code          text            `json:"code"` // in no schema; one vendor sample tests it
	Message       text            `json:"message"`
	Data          json.RawMessage `json:"data"`
	CausedByError json.RawMessage `json:"causedByError"`
	ActionRunID   text            `json:"actionRunId"`
}

// vendorAnswer is how a failed call to 8x8 is packed into an error's data.
// source: @membranehq/sdk 0.28.3; that the server sends it is inferred.
type vendorAnswer struct {
	status     int
	code       any // an int or a word, nil if there is none
	errorID    string
	retryAfter time.Duration
}

// words are the types and keys that we show. Others may be free text.
// source: @membranehq/sdk 0.28.3
var words = map[text]bool{
	"bad_request": true, "connection": true, "configuration": true, "dependency_error": true, "flow_run": true,
	"flow_instance_setup": true, "concurrency": true, "internal": true, "action_run": true, "action_instance_setup": true,
	"unit_run": true, "custom_code": true, "insufficient_credit": true, "openrouter_not_configured": true,
	"not_found": true, "not_authenticated": true, "access_denied": true, "already_exists": true, "rate_limit_exceeded": true,
	"connection_is_defunct": true, "access_token_expired": true, "lock_timeout": true,
}

// meaning is what one level, or an HTTP status, says about the run.
type meaning struct {
	known  bool
	kind   bridge.Kind
	reason bridge.Reason
	// weak gives way to the answer of 8x8 where there is one.
	weak bool
	// outside holds only for an error that no run wraps.
	outside bool
	// inside, if it is known, is meant instead where a run wraps it.
	inside *meaning
}

var (
	unknown      = meaning{known: true, kind: bridge.Unknown, reason: bridge.ReasonOutcomeUnknown}
	outage       = meaning{known: true, kind: bridge.Outage}
	unauthorized = meaning{known: true, kind: bridge.Blocked, reason: bridge.ReasonUnauthorized}
	missing      = meaning{known: true, kind: bridge.Blocked, reason: bridge.ReasonActionMissing}
	notReady     = meaning{known: true, kind: bridge.Blocked, reason: bridge.ReasonNotReady}
	invalid      = meaning{known: true, kind: bridge.Permanent, reason: bridge.ReasonInvalidInput}
	rejected     = meaning{known: true, kind: bridge.Permanent, reason: bridge.ReasonRejected}
)

// reading is an error envelope, walked.
type reading struct {
	levels   []errorData
	envelope bool // there is a type that we know
	ran      bool // the error comes out of a run that was under way
	doubt    bool // and of a part of it about which nothing can be said
	found    meaning
	vendor   *vendorAnswer
	runID    string
}

// read walks an error from the top to its deepest cause. The deepest level that
// says something decides; source: docs.getmembrane.com, errors ("read the body").
func read(body []byte, now time.Time) reading {
	var r reading
	for raw := body; len(raw) > 0 && len(r.levels) < maxCauses; {
		var level errorData
		if json.Unmarshal(raw, &level) != nil {
			break
		}
		if len(r.levels) == 0 {
			r.runID = identifier(string(level.ActionRunID))
		}
		if v := readVendor(level.Data, now); v != nil {
			r.vendor = v
		}
		r.envelope = r.envelope || words[level.Type]
		switch level.Type {
		case "action_run":
			r.ran = true
		case "custom_code", "unit_run", "flow_run":
			r.ran, r.doubt = true, true
		case "internal":
			r.doubt = true
		default:
			m := level.meaning()
			switch {
			case !m.known:
				r.doubt = r.doubt || level.Type != ""
			case !m.weak || !r.found.known || r.found.weak:
				r.found = m
			}
		}
		r.levels = append(r.levels, level)
		raw = level.CausedByError
	}
	if len(r.levels) == maxCauses {
		r.doubt = true // the deepest cause was not seen
	}
	return r
}

// meaning is what a level says when it stands alone. Whether the call to 8x8 was
// made follows the table in the vendor's error reference as far as it goes.
func (e *errorData) meaning() meaning {
	if e.Code == "CONNECTION_DISCONNECTED" {
		return notReady
	}
	switch e.Type {
	case "bad_request":
		switch e.Key {
		case "rate_limit_exceeded":
			return outage
		case "not_authenticated", "access_denied":
			return unauthorized
		case "already_exists":
			return rejected
		case "not_found":
			m := missing
			if e.aboutConnection() {
				m = notReady
			}
			m.inside = &rejected // of a run: something that its input names
			m.weak = true
			return m
		default:
			m := invalid
			// Out of a run it may be about what came back.
			m.weak, m.outside = true, true
			return m
		}
	case "connection":
		switch e.Key {
		case "rate_limit_exceeded":
			return outage
		case "connection_is_defunct", "access_token_expired":
			return notReady
		}
		// Without a known key it may be a call that broke half way.
		return meaning{known: true, kind: bridge.Unknown, reason: bridge.ReasonOutcomeUnknown, weak: true}
	case "configuration", "dependency_error", "action_instance_setup", "flow_instance_setup", "insufficient_credit", "openrouter_not_configured":
		m := notReady
		m.weak = true
		return m
	case "concurrency":
		if e.Key == "lock_timeout" {
			// It waited for a lock and did not get it. Out of a run, nobody says which one.
			return meaning{known: true, kind: bridge.Temporary, outside: true}
		}
		return unknown
	}
	return meaning{}
}

// aboutConnection tells a connection that is not found from an action that is not.
func (e *errorData) aboutConnection() bool {
	var data struct {
		ConnectionID  json.RawMessage `json:"connectionId"`
		ConnectionKey json.RawMessage `json:"connectionKey"`
		ElementType   text            `json:"elementType"`
	}
	_ = json.Unmarshal(e.Data, &data)
	if strings.EqualFold(string(data.ElementType), "connection") || data.ConnectionID != nil || data.ConnectionKey != nil {
		return true
	}
	said := strings.ToLower(string(e.Message))
	return strings.Contains(said, "connection") && !strings.Contains(said, "action")
}

// ofStatus is what an HTTP status says where the body does not say more.
func ofStatus(status int) meaning {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return unauthorized
	case http.StatusNotFound:
		return missing
	case http.StatusRequestEntityTooLarge:
		return invalid
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return outage
	}
	return unknown
}

// meaning is what 8x8's own answer says about an action that makes one call to it.
func (v *vendorAnswer) meaning() meaning {
	kind, reason := bridge.OfVendor(v.status)
	return meaning{known: true, kind: kind, reason: reason}
}

// decide is rule R8. oneCall says that the action makes one call to 8x8, so that
// a refusal out of its run means that nothing happened. status is 0 for a run
// log, which has none.
func (r *reading) decide(status int, oneCall bool) meaning {
	switch {
	case status == http.StatusServiceUnavailable && !r.ran:
		return outage
	case status > 0 && status < 400, status >= 500 && r.vendor == nil:
		return unknown // of Membrane's own errors only internal comes with such a status
	case r.doubt && (r.ran || r.envelope):
		return unknown
	}
	m := r.found
	if r.vendor != nil && (!m.known || m.weak) {
		if !oneCall {
			return unknown
		}
		return r.vendor.meaning()
	}
	if !m.known {
		if r.ran {
			return unknown
		}
		return ofStatus(status)
	}
	if r.ran {
		switch {
		case !oneCall, m.outside:
			return unknown
		case m.inside != nil:
			return *m.inside
		}
	}
	return m
}

// classify makes a failure of an HTTP answer that is not 200. retryAfter is from
// its header.
func (r *reading) classify(status int, retryAfter time.Duration, oneCall bool) *bridge.Failure {
	m := r.decide(status, oneCall)
	f := r.failure(m, "membrane answered "+strconv.Itoa(status))
	if m.kind == bridge.Outage {
		f.RetryAfter = max(f.RetryAfter, retryAfter)
	}
	if !r.envelope && (status == http.StatusNotFound || status == http.StatusMethodNotAllowed) {
		f.Message += " without its error envelope; check MEMBRANE_API_URL"
	}
	return f
}

// classifyLog makes a failure of the error in a run log.
func classifyLog(raw []byte, oneCall bool, now time.Time) *bridge.Failure {
	r := read(raw, now)
	m := unknown
	if r.envelope {
		m = r.decide(0, oneCall)
	}
	return r.failure(m, "membrane's run log says error")
}

func (r *reading) failure(m meaning, message string) *bridge.Failure {
	f := &bridge.Failure{Kind: m.kind, Reason: m.reason, RunID: r.runID}
	var facts []string
	for _, level := range r.levels {
		var fact string
		if words[level.Type] {
			fact = string(level.Type)
		}
		if words[level.Key] {
			fact = strings.TrimSpace(fact + " " + string(level.Key))
		}
		if fact != "" {
			facts = append(facts, fact)
		}
	}
	if v := r.vendor; v != nil {
		f.Details = map[string]any{"status": v.status}
		facts = append(facts, "vendor status "+strconv.Itoa(v.status))
		switch code := v.code.(type) {
		case int:
			f.Details["code"] = code
			facts = append(facts, "code "+strconv.Itoa(code))
		case string:
			f.Details["code"] = code
			facts = append(facts, "code "+code)
		}
		if v.errorID != "" {
			f.Details["errorId"] = v.errorID
		}
		if m.kind == bridge.Outage {
			f.RetryAfter = v.retryAfter
		}
	}
	f.Message = message
	if len(facts) > 0 {
		f.Message += " (" + strings.Join(facts, ", ") + ")"
	}
	return f
}

func readVendor(data json.RawMessage, now time.Time) *vendorAnswer {
	var packed struct {
		Response *struct {
			Status  json.RawMessage            `json:"status"`
			Headers map[string]json.RawMessage `json:"headers"`
			Data    json.RawMessage            `json:"data"`
		} `json:"response"`
	}
	if len(data) == 0 || data[0] != '{' {
		return nil
	}
	// A part of another shape is skipped, the others are read all the same.
	_ = json.Unmarshal(data, &packed)
	if packed.Response == nil {
		return nil
	}
	v := &vendorAnswer{status: number(packed.Response.Status, 999)}
	for name, value := range packed.Response.Headers {
		if !strings.EqualFold(name, "Retry-After") {
			continue
		}
		var one text
		var many []text
		switch {
		case json.Unmarshal(value, &one) == nil && one != "":
			v.retryAfter = parseRetryAfter(string(one), now)
		case json.Unmarshal(value, &many) == nil && len(many) > 0:
			v.retryAfter = parseRetryAfter(string(many[0]), now)
		default:
			v.retryAfter = parseRetryAfter(string(value), now)
		}
	}
	var body struct {
		Code    json.RawMessage `json:"code"`
		ErrorID text            `json:"errorId"`
	}
	_ = json.Unmarshal(packed.Response.Data, &body)
	// 8x8's codes have up to four digits; whatever is longer may be anybody's number.
	if n := number(body.Code, 99999); n > 0 {
		v.code = n
	} else {
		var word text
		_ = json.Unmarshal(body.Code, &word)
		if isCode(string(word)) {
			v.code = string(word)
		}
	}
	if isUUID(string(body.ErrorID)) {
		v.errorID = string(body.ErrorID)
	}
	return v
}

// number reads a JSON integer from 1 to most, bare or in quotes; 0 is none.
func number(raw json.RawMessage, most int) int {
	n, err := strconv.Atoi(strings.Trim(string(raw), `"`))
	if err != nil || n < 0 || n > most {
		return 0
	}
	return n
}

// parseRetryAfter reads seconds or an HTTP date; 0 is none. At most an hour.
func parseRetryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if value == "" {
		return 0
	}
	if seconds, err := strconv.ParseFloat(value, 64); err == nil {
		if !(seconds > 0) {
			return 0
		}
		return time.Duration(min(seconds, maxRetryAfter.Seconds()) * float64(time.Second))
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

// identifier passes what can be an id and nothing else.
func identifier(s string) string {
	if len(s) > 128 || strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	}) {
		return ""
	}
	return s
}

// isCode says whether s looks like a constant, such as REJECTED.
func isCode(s string) bool {
	return s != "" && len(s) <= 40 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") == ""
}

func isUUID(s string) bool {
	return len(s) == 36 && strings.Count(s, "-") == 4 && strings.Trim(strings.ToLower(s), "0123456789abcdef-") == ""
}
