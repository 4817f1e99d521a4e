package catalog

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// RequestKey names an inline request of 8x8's API in results, metrics and
// subjects, where an action has its key. It is in no catalog.
const RequestKey = "request"

// Methods are what an inline request may be. source: @membranehq/sdk 0.28.3, ActRequest.
var Methods = []string{"GET", "POST", "PATCH", "PUT", "DELETE"}

// Request is an inline request as an action: one call, safe to repeat if it is a
// read. call tells it from others, so that what one did is not taken for another's.
func Request(method, call string) *Action {
	return &Action{
		Key: RequestKey, Name: method + " request", Call: call,
		Safe: method == "GET", OneCall: true, Check: checkRequest,
	}
}

// checkRequest reads the output of an inline request: an object with 8x8's HTTP
// status. Its other members are not published; headers and data are read where
// they are there, as a Retry-After and as 8x8's code.
// source: a public user script reads output.status; all else is inferred.
func checkRequest(output json.RawMessage) Verdict {
	fields := object(output)
	status, ok := httpStatus(fields["status"])
	if !ok {
		return Verdict{Unclear: true, Message: "the output has no HTTP status"}
	}
	if status >= 200 && status < 300 {
		return Verdict{OK: true}
	}
	v := Verdict{Status: status, Message: "8x8 answered " + strconv.Itoa(status), Details: map[string]any{"status": status}}
	for _, name := range []string{"data", "body"} {
		// 8x8's codes have up to four digits; whatever is longer may be anybody's number.
		if n, err := strconv.Atoi(string(object(fields[name])["code"])); err == nil && n > 0 && n <= 99999 {
			v.Details["code"] = n
			v.Message += ", code " + strconv.Itoa(n)
			break
		}
	}
	v.RetryAfter = retryAfter(object(fields["headers"])["retry-after"])
	return v
}

func httpStatus(raw json.RawMessage) (int, bool) {
	n, err := strconv.Atoi(strings.Trim(string(raw), `"`))
	return n, err == nil && n >= 100 && n <= 999
}

// retryAfter reads seconds, as 8x8 sends them; a time is left to the gate's own
// patience. A header may be a list.
func retryAfter(raw json.RawMessage) time.Duration {
	var many []json.RawMessage
	if json.Unmarshal(raw, &many) == nil && len(many) > 0 {
		raw = many[0]
	}
	seconds, err := strconv.ParseFloat(strings.TrimSpace(strings.Trim(string(raw), `"`)), 64)
	if err != nil || !(seconds > 0) {
		return 0
	}
	return time.Duration(min(seconds, time.Hour.Seconds()) * float64(time.Second))
}
