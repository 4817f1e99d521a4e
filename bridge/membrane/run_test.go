package membrane

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge"
)

func TestRunSendsOneStrictRequest(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(*bridge.Request)
		want   string
	}{
		{"by keys", func(*bridge.Request) {}, `{"key":"send-sms","connectionKey":"8x8-main",
			"input":{"destination":"+12025550101","text":"Hi <Bo>"},
			"meta":{"bridge":"b1","source":"/shop","eventId":"evt-17","route":"order-shipped","key":"k","try":"t1","attempt":1}}`},
		{"by ids, which win", func(r *bridge.Request) {
			r.ActionKey, r.ActionID, r.ConnectionID = "", "a1", "c1"
			r.Input = map[string]any{}
		}, `{"id":"a1","connectionId":"c1","input":{},
			"meta":{"bridge":"b1","source":"/shop","eventId":"evt-17","route":"order-shipped","key":"k","try":"t1","attempt":1}}`},
		{"an inline request", func(r *bridge.Request) {
			r.ActionKey, r.Inline = "request", true
			r.Input = map[string]any{"method": "GET", "path": "/x", "query": map[string]any{"limit": 5}}
		}, `{"api":{"method":"GET","path":"/x","query":{"limit":5}},"connectionKey":"8x8-main",
			"meta":{"bridge":"b1","source":"/shop","eventId":"evt-17","route":"order-shipped","key":"k","try":"t1","attempt":1}}`},
		{"nothing is null", func(r *bridge.Request) {
			r.Input, r.Place, r.Meta = nil, bridge.Place{}, bridge.Meta{}
		}, `{"key":"send-sms","input":{},"meta":{"bridge":"","source":"","eventId":"","route":"","key":"","try":"","attempt":0}}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var got *http.Request
			var sent []byte
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				got = r
				sent, _ = io.ReadAll(r.Body)
				body(200, `{"output":{"umid":"u1"},"actionRunId":"66f1"}`)(w, r)
			}).start(t)
			c := connect(t, s.URL+"/membrane/", func(o *Options) { o.UserAgent = "bridge8x8/test" })
			r := request()
			test.change(&r)
			reply, err := c.Run(background, r)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(bridge.Reply{RunID: "66f1", Output: []byte(`{"umid":"u1"}`)}, reply); diff != "" {
				t.Error(diff)
			}
			if got.Method != "POST" || got.URL.String() != "/membrane/act" || got.Proto != "HTTP/1.1" {
				t.Errorf("got %s %s %s, want POST /membrane/act HTTP/1.1", got.Method, got.URL, got.Proto)
			}
			if diff := cmp.Diff(decodeJSON(t, test.want), decodeJSON(t, string(sent))); diff != "" {
				t.Error(diff)
			}
			want := http.Header{
				"Accept": {"application/json"}, "Authorization": {"Bearer pat-test-secret"}, "Content-Type": {"application/json"},
				"Content-Length": {fmt.Sprint(len(sent))}, "Membrane-Api-Version": {"2025-10-21"}, "User-Agent": {"bridge8x8/test"},
			}
			if diff := cmp.Diff(want, got.Header); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestAnswers is rule R8: every answer, what it means, and that nobody asked twice.
func TestAnswers(t *testing.T) {
	t.Parallel()
	const page = "<html><body>Please sign in</body></html>"
	vendor := func(status int, code string) string {
		return fmt.Sprintf(`{"type":"action_run","message":"m","actionRunId":"66f1","causedByError":{"type":"connection","message":"m",
			"data":{"request":{"url":"/x"},"response":{"status":%d,"headers":{"retry-after":"7"},"data":{"code":%s,"message":"m","errorId":"5d0c1f7a-0b1c-4d2e-8f3a-123456789abc"}}}}}`, status, code)
	}
	details := func(status int, code any) map[string]any {
		return map[string]any{"status": status, "code": code, "errorId": "5d0c1f7a-0b1c-4d2e-8f3a-123456789abc"}
	}
	wrap := func(cause string) string {
		return `{"type":"action_run","message":"m","actionRunId":"66f1","causedByError":` + cause + `}`
	}
	date := time.Now().Add(30 * time.Minute).UTC().Format(http.TimeFormat)
	type want = bridge.Failure
	const (
		unknownOutcome = bridge.ReasonOutcomeUnknown
		many           = true
	)
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		many   bool // the action makes several calls
		want   want
	}{
		// The token, the rights, the route.
		{"401", body(401, `{"type":"bad_request","key":"not_authenticated","message":"m"}`), false,
			want{Kind: bridge.Blocked, Reason: bridge.ReasonUnauthorized, Message: "membrane answered 401 (bad_request not_authenticated)"}},
		{"401 with a page", body(401, page), false,
			want{Kind: bridge.Blocked, Reason: bridge.ReasonUnauthorized, Message: "membrane answered 401"}},
		{"401 cut off", raw(t, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 100\r\n\r\n{"), false,
			want{Kind: bridge.Blocked, Reason: bridge.ReasonUnauthorized, Message: "membrane answered 401, and the answer ended half way"}},
		{"403", body(403, `{"type":"bad_request","key":"access_denied","message":"m"}`), false,
			want{Kind: bridge.Blocked, Reason: bridge.ReasonUnauthorized, Message: "membrane answered 403 (bad_request access_denied)"}},
		{"403 with a page", body(403, page), false,
			want{Kind: bridge.Blocked, Reason: bridge.ReasonUnauthorized, Message: "membrane answered 403"}},
		{"404 of an action", body(404, `{"type":"bad_request","key":"not_found","message":"Action \"send-sms\" not found on connection"}`), false,
			want{Kind: bridge.Blocked, Reason: bridge.ReasonActionMissing, Message: "membrane answered 404 (bad_request not_found)"}},
		{"404 of a connection", body(404, `{"type":"bad_request","key":"not_found","message":"Connection not found"}`), false,
			want{Kind: bridge.Blocked, Reason: bridge.ReasonNotReady, Message: "membrane answered 404 (bad_request not_found)"}},
		{"404 of a connection by its data", body(404, `{"type":"bad_request","key":"not_found","message":"m","data":{"connectionId":"c1"}}`), false,
			want{Kind: bridge.Blocked, Reason: bridge.ReasonNotReady, Message: "membrane answered 404 (bad_request not_found)"}},
		{"404 with a page", body(404, page), false,
			want{Kind: bridge.Blocked, Reason: bridge.ReasonActionMissing, Message: "membrane answered 404 without its error envelope; check MEMBRANE_API_URL"}},
		{"413", body(413, page), false,
			want{Kind: bridge.Permanent, Reason: bridge.ReasonInvalidInput, Message: "membrane answered 413"}},

		// Refused for now.
		{"429 with seconds", body(429, `{"type":"bad_request","key":"rate_limit_exceeded","message":"m"}`, "Retry-After", "12"), false,
			want{Kind: bridge.Outage, RetryAfter: 12 * time.Second, Message: "membrane answered 429 (bad_request rate_limit_exceeded)"}},
		{"429 without Retry-After", body(429, `{"type":"bad_request","key":"rate_limit_exceeded","message":"m"}`), false,
			want{Kind: bridge.Outage, Message: "membrane answered 429 (bad_request rate_limit_exceeded)"}},
		{"429 for a year", body(429, page, "Retry-After", "31536000"), false,
			want{Kind: bridge.Outage, RetryAfter: time.Hour, Message: "membrane answered 429"}},
		{"429 with nonsense", body(429, page, "Retry-After", "soon"), false,
			want{Kind: bridge.Outage, Message: "membrane answered 429"}},
		{"429 cut off", raw(t, "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 100\r\n\r\n{"), false,
			want{Kind: bridge.Outage, Message: "membrane answered 429, and the answer ended half way"}},
		{"429 cut off, many calls", raw(t, "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 100\r\n\r\n{"), many,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 429, and the answer ended half way"}},
		{"429 of the vendor, not wrapped, many calls", body(429, `{"type":"connection","key":"rate_limit_exceeded","message":"m"}`), many,
			want{Kind: bridge.Outage, Message: "membrane answered 429 (connection rate_limit_exceeded)"}},
		{"429 of the vendor, wrapped", body(429, wrap(`{"type":"connection","key":"rate_limit_exceeded","message":"m","data":{"response":{"status":429,"headers":{"Retry-After":["9"]},"data":{"code":429}}}}`)), false,
			want{Kind: bridge.Outage, RetryAfter: 9 * time.Second, RunID: "66f1", Details: map[string]any{"status": 429, "code": 429},
				Message: "membrane answered 429 (action_run, connection rate_limit_exceeded, vendor status 429, code 429)"}},
		{"429 of the vendor, wrapped, many calls", body(429, wrap(`{"type":"connection","key":"rate_limit_exceeded","message":"m"}`)), many,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, RunID: "66f1", Message: "membrane answered 429 (action_run, connection rate_limit_exceeded)"}},
		{"503", body(503, `{"error":{"message":"m"}}`, "Retry-After", "3"), many,
			want{Kind: bridge.Outage, RetryAfter: 3 * time.Second, Message: "membrane answered 503"}},
		{"503 with a page", body(503, page), false,
			want{Kind: bridge.Outage, Message: "membrane answered 503"}},
		{"503 out of a run", body(503, wrap(`{"message":"m"}`)), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, RunID: "66f1", Message: "membrane answered 503 (action_run)"}},

		// 400 of each class.
		{"validation", body(400, `{"type":"bad_request","message":"m","data":{"errors":[1]},"causedByError":{"message":"zod"}}`), many,
			want{Kind: bridge.Permanent, Reason: bridge.ReasonInvalidInput, Message: "membrane answered 400 (bad_request)"}},
		{"validation in a run", body(400, wrap(`{"type":"bad_request","message":"m"}`)), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, RunID: "66f1", Message: "membrane answered 400 (action_run, bad_request)"}},
		{"already_exists", body(400, `{"type":"bad_request","key":"already_exists","message":"m"}`), false,
			want{Kind: bridge.Permanent, Reason: bridge.ReasonRejected, Message: "membrane answered 400 (bad_request already_exists)"}},
		{"not_found in a run", body(404, wrap(`{"type":"bad_request","key":"not_found","message":"m"}`)), false,
			want{Kind: bridge.Permanent, Reason: bridge.ReasonRejected, RunID: "66f1", Message: "membrane answered 404 (action_run, bad_request not_found)"}},
		{"configuration", body(400, `{"type":"configuration","message":"m"}`), many,
			want{Kind: bridge.Blocked, Reason: bridge.ReasonNotReady, Message: "membrane answered 400 (configuration)"}},
		{"configuration below bad_request", body(400, `{"type":"bad_request","message":"m","causedByError":{"type":"configuration","message":"m"}}`), many,
			want{Kind: bridge.Blocked, Reason: bridge.ReasonNotReady, Message: "membrane answered 400 (bad_request, configuration)"}},
		{"dependency_error", body(400, `{"type":"dependency_error","message":"m"}`), many,
			want{Kind: bridge.Blocked, Reason: bridge.ReasonNotReady, Message: "membrane answered 400 (dependency_error)"}},
		{"action_instance_setup", body(400, `{"type":"action_instance_setup","message":"m"}`), many,
			want{Kind: bridge.Blocked, Reason: bridge.ReasonNotReady, Message: "membrane answered 400 (action_instance_setup)"}},
		{"insufficient_credit", body(400, `{"type":"insufficient_credit","message":"m"}`), many,
			want{Kind: bridge.Blocked, Reason: bridge.ReasonNotReady, Message: "membrane answered 400 (insufficient_credit)"}},
		{"openrouter_not_configured", body(400, `{"type":"openrouter_not_configured","message":"m"}`), many,
			want{Kind: bridge.Blocked, Reason: bridge.ReasonNotReady, Message: "membrane answered 400 (openrouter_not_configured)"}},
		{"connection_is_defunct", body(400, `{"type":"connection","key":"connection_is_defunct","message":"m"}`), many,
			want{Kind: bridge.Blocked, Reason: bridge.ReasonNotReady, Message: "membrane answered 400 (connection connection_is_defunct)"}},
		{"access_token_expired", body(401, wrap(`{"type":"connection","key":"access_token_expired","message":"m","data":{"response":{"status":401}}}`)), false,
			want{Kind: bridge.Blocked, Reason: bridge.ReasonNotReady, RunID: "66f1", Details: map[string]any{"status": 401},
				Message: "membrane answered 401 (action_run, connection access_token_expired, vendor status 401)"}},
		{"access_token_expired in many calls", body(400, wrap(`{"type":"connection","key":"access_token_expired","message":"m"}`)), many,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, RunID: "66f1", Message: "membrane answered 400 (action_run, connection access_token_expired)"}},
		{"disconnected by its code", body(401, `{"code":"CONNECTION_DISCONNECTED","message":"m"}`), false,
			want{Kind: bridge.Blocked, Reason: bridge.ReasonNotReady, Message: "membrane answered 401"}},
		{"connection without a key", body(400, `{"type":"connection","message":"m"}`), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 400 (connection)"}},
		{"lock_timeout", body(400, `{"type":"concurrency","key":"lock_timeout","message":"m"}`), many,
			want{Kind: bridge.Temporary, Message: "membrane answered 400 (concurrency lock_timeout)"}},
		{"lock_timeout in a run", body(400, wrap(`{"type":"concurrency","key":"lock_timeout","message":"m"}`)), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, RunID: "66f1", Message: "membrane answered 400 (action_run, concurrency lock_timeout)"}},
		{"custom_code", body(400, `{"type":"custom_code","message":"m","data":{"code":"1"}}`), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 400 (custom_code)"}},
		{"custom_code that was refused", body(400, `{"type":"custom_code","message":"m","causedByError":{"type":"connection","key":"rate_limit_exceeded","message":"m"}}`), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 400 (custom_code, connection rate_limit_exceeded)"}},
		{"unit_run", body(400, `{"type":"unit_run","message":"m"}`), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 400 (unit_run)"}},
		{"a type of the future", body(400, `{"type":"quantum","message":"m"}`), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 400"}},
		{"no type", body(400, `{"message":"m","actionRunId":"66f1"}`), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, RunID: "66f1", Message: "membrane answered 400"}},
		{"400 with a page", body(400, page), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 400"}},
		{"causes without end", body(400, strings.Repeat(`{"type":"bad_request","causedByError":`, 40)+`{"type":"bad_request"}`+strings.Repeat("}", 40)), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 400 (" + strings.TrimSuffix(strings.Repeat("bad_request, ", maxCauses), ", ") + ")"}},
		{"odd fields", body(400, `{"type":"action_run","key":7,"message":{},"actionRunId":[1],"data":"x","causedByError":{"type":"connection","key":"rate_limit_exceeded","data":[]}}`), false,
			want{Kind: bridge.Outage, Message: "membrane answered 400 (action_run, connection rate_limit_exceeded)"}},

		// What 8x8 said, through a run.
		{"vendor 422", body(400, vendor(422, "1002")), false,
			want{Kind: bridge.Permanent, Reason: bridge.ReasonRejected, RunID: "66f1", Details: details(422, 1002),
				Message: "membrane answered 400 (action_run, connection, vendor status 422, code 1002)"}},
		{"vendor 422 under a 500", body(500, vendor(422, "1002")), false,
			want{Kind: bridge.Permanent, Reason: bridge.ReasonRejected, RunID: "66f1", Details: details(422, 1002),
				Message: "membrane answered 500 (action_run, connection, vendor status 422, code 1002)"}},
		{"vendor 400 with a word", body(400, vendor(400, `"INVALID_MSISDN"`)), false,
			want{Kind: bridge.Permanent, Reason: bridge.ReasonRejected, RunID: "66f1", Details: details(400, "INVALID_MSISDN"),
				Message: "membrane answered 400 (action_run, connection, vendor status 400, code INVALID_MSISDN)"}},
		{"vendor 422 of many calls", body(400, vendor(422, "1002")), many,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, RunID: "66f1", Details: details(422, 1002),
				Message: "membrane answered 400 (action_run, connection, vendor status 422, code 1002)"}},
		{"vendor 401", body(400, vendor(401, "1200")), false,
			want{Kind: bridge.Blocked, Reason: bridge.ReasonUnauthorized, RunID: "66f1", Details: details(401, 1200),
				Message: "membrane answered 400 (action_run, connection, vendor status 401, code 1200)"}},
		{"vendor 401 as 401", body(401, vendor(401, "1200")), false,
			want{Kind: bridge.Blocked, Reason: bridge.ReasonUnauthorized, RunID: "66f1", Details: details(401, 1200),
				Message: "membrane answered 401 (action_run, connection, vendor status 401, code 1200)"}},
		{"vendor 403", body(400, vendor(403, "1201")), false,
			want{Kind: bridge.Blocked, Reason: bridge.ReasonUnauthorized, RunID: "66f1", Details: details(403, 1201),
				Message: "membrane answered 400 (action_run, connection, vendor status 403, code 1201)"}},
		{"vendor 429", body(400, vendor(429, "429")), false,
			want{Kind: bridge.Outage, RetryAfter: 7 * time.Second, RunID: "66f1", Details: details(429, 429),
				Message: "membrane answered 400 (action_run, connection, vendor status 429, code 429)"}},
		{"vendor 500", body(400, vendor(500, "2000")), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, RunID: "66f1", Details: details(500, 2000),
				Message: "membrane answered 400 (action_run, connection, vendor status 500, code 2000)"}},
		{"vendor 503", body(400, vendor(503, "2000")), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, RunID: "66f1", Details: details(503, 2000),
				Message: "membrane answered 400 (action_run, connection, vendor status 503, code 2000)"}},
		{"vendor 408", body(400, vendor(408, "1000")), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, RunID: "66f1", Details: details(408, 1000),
				Message: "membrane answered 400 (action_run, connection, vendor status 408, code 1000)"}},
		{"vendor 200 that failed later", body(400, vendor(200, "1000")), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, RunID: "66f1", Details: details(200, 1000),
				Message: "membrane answered 400 (action_run, connection, vendor status 200, code 1000)"}},
		{"action_run alone", body(400, `{"type":"action_run","message":"m","actionRunId":"66f1"}`), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, RunID: "66f1", Message: "membrane answered 400 (action_run)"}},

		// Nobody knows.
		{"500", body(500, `{"type":"internal","message":"m","data":{"errorId":"e"}}`), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 500 (internal)"}},
		{"500 that says bad_request", body(500, `{"type":"bad_request","message":"m"}`), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 500 (bad_request)"}},
		{"502 with a page", body(502, page), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 502"}},
		{"504", body(504, ""), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 504"}},
		{"302", body(302, "", "Location", "/elsewhere"), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 302"}},
		{"307", body(307, "", "Location", "/elsewhere"), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 307"}},
		{"204", body(204, ""), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 204"}},
		{"202", body(202, `{"output":{},"actionRunId":"66f1"}`), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, RunID: "66f1", Message: "membrane answered 202"}},
		{"200 with a page", body(200, page), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 200 with something that is not the JSON of a run"}},
		{"200 with a list", body(200, `[]`), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 200 with something that is not the JSON of a run"}},
		{"200 of somebody else", body(200, `{"status":"ok"}`), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 200 with neither output nor actionRunId"}},
		{"200 without a body", body(200, ""), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 200 without a body"}},
		{"200 with half its JSON", body(200, `{"output":{"umid":`), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 200 with something that is not the JSON of a run"}},
		{"200 with half a body", raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"output\":"), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 200, and the answer ended half way"}},
		{"200 with half a chunk", raw(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{\"output\":"), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 200, and the answer ended half way"}},
		{"200 that announces too much", raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 31457281\r\n\r\n{\"output\":"), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane answered 200, and the answer is larger than 30 MB"}},
		{"half a header", raw(t, "HTTP/1.1 200 OK\r\nContent-Le"), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane gave no answer: the connection broke"}},
		{"nothing", raw(t, ""), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane gave no answer: the connection ended half way"}},
		{"not HTTP", raw(t, "SSH-2.0-OpenSSH +12025550101\r\n"), false,
			want{Kind: bridge.Unknown, Reason: unknownOutcome, Message: "membrane gave no answer: the connection broke"}},
		{"429 until a date", body(429, page, "Retry-After", date), false,
			want{Kind: bridge.Outage, RetryAfter: 30 * time.Minute, Message: "membrane answered 429"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, test.answer).start(t)
			c := connect(t, s.URL)
			r := request()
			r.OneCall = !test.many
			reply, err := c.Run(background, r)
			if err == nil {
				t.Fatalf("got reply %+v, want a failure", reply)
			}
			got := *failureOf(t, err)
			if test.want.RetryAfter > 29*time.Minute && test.want.RetryAfter < time.Hour {
				// A date has whole seconds, and time passes until it is read.
				if got.RetryAfter > 30*time.Minute || got.RetryAfter < 28*time.Minute {
					t.Errorf("got Retry-After %v, want about 30 minutes", got.RetryAfter)
				}
				got.RetryAfter = test.want.RetryAfter
			}
			// Field by field: a Failure has unexported ones.
			if diff := cmp.Diff(
				[]any{test.want.Kind.String(), test.want.Reason, test.want.Message, test.want.RetryAfter, test.want.RunID, test.want.Details},
				[]any{got.Kind.String(), got.Reason, got.Message, got.RetryAfter, got.RunID, got.Details}); diff != "" {
				t.Error(diff)
			}
			if n := s.requests.Load(); n != 1 {
				t.Errorf("%d requests arrived, want exactly 1", n)
			}
		})
	}
}

func TestGoodAnswers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, body, runID, output string }{
		{"all", `{"output":{"umid":"u1"},"actionRunId":"66f1"}`, "66f1", `{"umid":"u1"}`},
		{"no output", `{"actionRunId":"66f1"}`, "66f1", ``},
		{"output null", `{"output":null}`, "", `null`},
		{"more than we know", ` {"output":[1, 2],"actionRunId":7,"logs":[]} `, "", `[1, 2]`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := connect(t, serve(t, body(200, test.body)).start(t).URL)
			reply, err := c.Run(background, request())
			if err != nil {
				t.Fatal(err)
			}
			if reply.RunID != test.runID || string(reply.Output) != test.output {
				t.Errorf("got %q %s, want %q %s", reply.RunID, reply.Output, test.runID, test.output)
			}
		})
	}
}

func TestBadRequestsNeverLeave(t *testing.T) {
	t.Parallel()
	s := serve(t, body(200, `{"output":{}}`)).start(t)
	c := connect(t, s.URL)
	for _, test := range []struct {
		name   string
		change func(*bridge.Request)
		want   string
	}{
		{"no action", func(r *bridge.Request) { r.ActionKey = "" }, "blocked (action_missing): the route names no action"},
		{"no JSON", func(r *bridge.Request) { r.Input["text"] = make(chan int) }, "permanent (invalid_input): the input cannot be written as JSON"},
		{"too large", func(r *bridge.Request) { r.Input["text"] = strings.Repeat("x", maxRequest) },
			"permanent (invalid_input): the input is larger than the 10 MB that membrane takes"},
		{"too late", func(r *bridge.Request) { r.SendBy = time.Now().Add(-time.Millisecond) },
			"outage: send-by passed before the request could be written"},
		{"another tenant", func(r *bridge.Request) { r.Tenant = "t2" },
			"blocked (unauthorized): MEMBRANE_TOKEN belongs to one tenant; a connection of another tenant needs MEMBRANE_WORKSPACE_KEY and MEMBRANE_WORKSPACE_SECRET"},
	} {
		r := request()
		test.change(&r)
		if _, err := c.Run(background, r); err == nil || err.Error() != test.want {
			t.Errorf("%s: got %v, want %s", test.name, err, test.want)
		}
	}
	if n := s.requests.Load(); n != 0 {
		t.Errorf("%d requests arrived, want none", n)
	}
}

// arrivals is a server that keeps what arrives on each connection and answers
// nothing. With a certificate it keeps what TLS carried.
type arrivals struct {
	url  string
	ends chan string // what arrived on a connection, once it is closed
}

func listen(t *testing.T, secured bool) (*arrivals, *x509.CertPool) {
	t.Helper()
	a := &arrivals{ends: make(chan string, 16)}
	// httptest brings the certificate; its handler is never reached, since Serve is ours.
	var roots *x509.CertPool
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a.url = "http://" + l.Addr().String()
	if secured {
		s := httptest.NewUnstartedServer(nil)
		s.StartTLS()
		roots = x509.NewCertPool()
		roots.AddCert(s.Certificate())
		l = tls.NewListener(l, s.TLS)
		s.Close()
		a.url = "https://" + l.Addr().String()
	}
	var open sync.WaitGroup
	open.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				defer conn.Close()
				got, _ := io.ReadAll(conn)
				a.ends <- string(got)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		open.Wait()
	})
	return a, roots
}

// TestHeldBack proves that a request which may not leave any more leaves no byte
// behind, not even of its headers, however far it had come.
func TestHeldBack(t *testing.T) {
	t.Parallel()
	for _, secured := range []bool{false, true} {
		for _, size := range []int{10, 1 << 20} {
			for _, cancelling := range []bool{false, true} {
				t.Run(fmt.Sprintf("tls=%v/size=%d/cancelling=%v", secured, size, cancelling), func(t *testing.T) {
					t.Parallel()
					a, roots := listen(t, secured)
					var ahead atomic.Int64
					c := connect(t, a.url, func(o *Options) {
						o.rootCAs = roots
						o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
					})
					r := request()
					r.SendBy = time.Now().Add(time.Hour)
					r.Input["text"] = strings.Repeat("x", size)
					ctx, cancel := context.WithCancel(background)
					defer cancel()
					// The connection is there, the request is about to be written.
					ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
						if cancelling {
							cancel()
						} else {
							ahead.Store(int64(2 * time.Hour))
						}
					}})
					_, err := c.Run(ctx, r)
					want := "outage: send-by passed before the request could be written"
					if cancelling {
						want = "outage: cancelled before the request was written"
					}
					if err == nil || err.Error() != want {
						t.Fatalf("got %v, want %s", err, want)
					}
					select {
					case got := <-a.ends:
						if got != "" {
							t.Errorf("%d bytes arrived, want none: %.80q", len(got), got)
						}
					case <-time.After(patience):
						t.Fatal("the connection was not discarded")
					}
				})
			}
		}
	}
}

// TestThroughProxy: net/http puts TLS on top of our connection to a proxy, and
// holding back and counting work there, too.
func TestThroughProxy(t *testing.T) {
	t.Parallel()
	var tunnels sync.WaitGroup
	t.Cleanup(tunnels.Wait)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		far, err := net.Dial("tcp", r.Host)
		if err != nil {
			t.Error(err)
			return
		}
		tunnels.Add(2) // before Hijack, after which proxy.Close waits for us no more
		near, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			tunnels.Add(-2)
			t.Error(err)
			return
		}
		_, _ = io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
		copyAll := func(to, from net.Conn) {
			defer tunnels.Done()
			_, _ = io.Copy(to, from)
			_ = to.Close()
		}
		go copyAll(far, near)
		go copyAll(near, far)
	}))
	t.Cleanup(proxy.Close)
	at, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}

	s := serve(t, body(200, `{"output":{},"actionRunId":"66f1"}`))
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	c := connect(t, s.URL, func(o *Options) { o.rootCAs = roots })
	c.runs.Proxy = http.ProxyURL(at)
	for range 2 {
		if reply, err := c.Run(background, request()); err != nil || reply.RunID != "66f1" {
			t.Fatalf("got %+v, %v", reply, err)
		}
	}
	if s.requests.Load() != 2 || s.conns.Load() != 1 {
		t.Errorf("%d requests over %d connections, want 2 over 1", s.requests.Load(), s.conns.Load())
	}

	a, roots := listen(t, true)
	c = connect(t, a.url, func(o *Options) { o.rootCAs = roots })
	c.runs.Proxy = http.ProxyURL(at)
	ctx, cancel := context.WithCancel(background)
	defer cancel()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { cancel() }})
	if _, err := c.Run(ctx, request()); errorText(err) != "outage: cancelled before the request was written" {
		t.Errorf("got %v", err)
	}
	select {
	case got := <-a.ends:
		if got != "" {
			t.Errorf("%d bytes arrived, want none", len(got))
		}
	case <-time.After(patience):
		t.Fatal("the connection was not discarded")
	}
}

func TestSendByEndsTheWaitForAConnection(t *testing.T) {
	t.Parallel()
	release, arrived := make(chan struct{}), make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-release
		body(200, `{"output":{}}`)(w, r)
	}).start(t)
	c := connect(t, s.URL, func(o *Options) { o.Concurrency = 1 })
	first := make(chan error, 1)
	go func() {
		_, err := c.Run(background, request())
		first <- err
	}()
	await(t, "the first request", arrived)

	r := request()
	r.SendBy = time.Now().Add(20 * time.Millisecond)
	if _, err := c.Run(background, r); err == nil || err.Error() != bridge.TooLate().Error() {
		t.Errorf("got %v, want %v", err, bridge.TooLate())
	}
	ctx, cancel := context.WithCancel(background)
	cancel()
	if _, err := c.Run(ctx, request()); err == nil || err.Error() != "outage: cancelled before the request was written" {
		t.Errorf("got %v, want one that was cancelled", err)
	}
	close(release)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if n := s.requests.Load(); n != 1 {
		t.Errorf("%d requests arrived, want 1", n)
	}
}

func TestNotCancelledUnderWay(t *testing.T) {
	t.Parallel()
	release, arrived := make(chan struct{}), make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-release
		body(200, `{"output":{},"actionRunId":"66f1"}`)(w, r)
	}).start(t)
	c := connect(t, s.URL)
	ctx, cancel := context.WithCancel(background)
	var reply bridge.Reply
	done := make(chan error, 1)
	r := request()
	r.SendBy = time.Now().Add(200 * time.Millisecond)
	go func() {
		var err error
		reply, err = c.Run(ctx, r)
		done <- err
	}()
	await(t, "the request", arrived)
	cancel()
	// Past send-by too: it only holds for the first byte.
	<-time.After(time.Until(r.SendBy) + 10*time.Millisecond)
	select {
	case err := <-done:
		t.Fatalf("the run ended with %v before its answer", err)
	default:
	}
	close(release)
	if err := <-done; err != nil || reply.RunID != "66f1" {
		t.Errorf("got %+v, %v; want the run's own answer", reply, err)
	}
}

func TestSlow(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, first, want string
	}{
		{"no answer", "", "unknown (outcome_unknown): membrane gave no answer: the connection did not come within the run limit"},
		{"half an answer", `{"output":`, "unknown (outcome_unknown): membrane answered 200, and the answer did not come within the run limit"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			release := make(chan struct{})
			s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if test.first != "" {
					_, _ = io.WriteString(w, test.first)
					_ = http.NewResponseController(w).Flush()
				}
				<-release
			}).start(t)
			defer close(release)
			c := connect(t, s.URL, func(o *Options) { o.RunLimit = time.Second })
			if c.wait != 6*time.Second {
				t.Errorf("waits %v, want the run limit and 5 s", c.wait)
			}
			c.wait = 50 * time.Millisecond
			if _, err := c.Run(background, request()); err == nil || err.Error() != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
			if n := s.requests.Load(); n != 1 {
				t.Errorf("%d requests arrived, want 1", n)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := l.Addr().String()
	_ = l.Close()
	silent, _ := listen(t, false)
	untrusted, _ := listen(t, true)
	for _, test := range []struct{ name, url, want string }{
		{"refused", "http://" + refusing, "outage: membrane cannot be reached: dial tcp " + refusing + ": connect: connection refused"},
		{"no such host", "http://membrane.invalid", "outage: membrane cannot be reached: dial tcp: lookup membrane.invalid"},
		{"no TLS", strings.Replace(silent.url, "http:", "https:", 1), "outage: membrane cannot be reached: context deadline exceeded"},
		{"unknown certificate", untrusted.url, "outage: membrane cannot be reached: tls: failed to verify certificate: x509: certificate signed by unknown authority"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := connect(t, test.url, func(o *Options) {
				if test.name == "no TLS" {
					o.connect = 50 * time.Millisecond
				}
			})
			if _, err := c.Run(background, request()); err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

// TestStaleConnection: a pooled connection that is closed before it takes a byte
// costs nothing, and the request goes over another.
func TestStaleConnection(t *testing.T) {
	t.Parallel()
	s := serve(t, body(200, `{"output":{}}`)).start(t)
	c := connect(t, s.URL)
	if _, err := c.Run(background, request()); err != nil {
		t.Fatal(err)
	}
	var got []bool
	ctx := httptrace.WithClientTrace(background, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		got = append(got, info.Reused)
		if info.Reused {
			_ = info.Conn.Close()
		}
	}})
	if _, err := c.Run(ctx, request()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]bool{true, false}, got); diff != "" {
		t.Error(diff)
	}
	if n := s.requests.Load(); n != 2 {
		t.Errorf("%d requests arrived, want 2", n)
	}

	// A new connection that breaks is not tried again: something is wrong there.
	c.Close()
	ctx = httptrace.WithClientTrace(background, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { _ = info.Conn.Close() }})
	_, err := c.Run(ctx, request())
	if want := "outage: the connection to membrane broke before anything was written"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if n := s.requests.Load(); n != 2 {
		t.Errorf("%d requests arrived, want still 2", n)
	}
}

// TestServerClosesIdleConnection: the usual end of a pooled connection.
func TestServerClosesIdleConnection(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	noticed := make(chan struct{}, 2)
	var served sync.WaitGroup
	served.Go(func() {
		for range 2 {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 64<<10)
			_, _ = conn.Read(buf)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"output\":{}}")
			_ = conn.(*net.TCPConn).CloseWrite()
			rest, _ := io.ReadAll(conn) // until the client has closed, too
			if len(rest) > 0 {
				t.Errorf("%d bytes were written into a connection that was closed", len(rest))
			}
			_ = conn.Close()
			noticed <- struct{}{}
		}
	})
	c := connect(t, "http://"+l.Addr().String())
	for range 2 {
		if _, err := c.Run(background, request()); err != nil {
			t.Fatal(err)
		}
		await(t, "the client to notice", noticed)
	}
	served.Wait()
}

func TestDroppedAfterTheRequest(t *testing.T) {
	t.Parallel()
	// On a fresh and on a pooled connection alike: the bytes were taken.
	var n atomic.Int64
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			body(200, `{"output":{}}`)(w, r)
			return
		}
		raw(t, "")(w, r)
	}).start(t)
	c := connect(t, s.URL)
	if _, err := c.Run(background, request()); err != nil {
		t.Fatal(err)
	}
	_, err := c.Run(background, request())
	if want := "unknown (outcome_unknown): membrane gave no answer: the connection ended half way"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if s.requests.Load() != 2 || s.conns.Load() != 1 {
		t.Errorf("%d requests over %d connections, want 2 over 1", s.requests.Load(), s.conns.Load())
	}
}

func TestHugeBody(t *testing.T) {
	t.Parallel()
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		chunk := make([]byte, 1<<20)
		for i := range chunk {
			chunk[i] = ' '
		}
		for range 32 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}).start(t)
	c := connect(t, s.URL)
	_, err := c.Run(background, request())
	if want := "unknown (outcome_unknown): membrane answered 200, and the answer is larger than 30 MB"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestConnectionsAreReused(t *testing.T) {
	t.Parallel()
	for _, secured := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%v", secured), func(t *testing.T) {
			t.Parallel()
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.ProtoMajor != 1 || secured != (r.TLS != nil) {
					t.Errorf("got %s, TLS %v", r.Proto, r.TLS != nil)
				}
				body(200, `{"output":{"umid":"u1"}}`)(w, r)
			})
			var roots *x509.CertPool
			if secured {
				s.EnableHTTP2 = true
				s.StartTLS()
				t.Cleanup(s.Close)
				roots = x509.NewCertPool()
				roots.AddCert(s.Certificate())
			} else {
				s.start(t)
			}
			c := connect(t, s.URL, func(o *Options) { o.rootCAs = roots })
			var workers sync.WaitGroup
			for range 4 {
				workers.Go(func() {
					for range 100 {
						if _, err := c.Run(background, request()); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			workers.Wait()
			if s.requests.Load() != 400 || s.conns.Load() > 4 {
				t.Errorf("%d requests over %d connections, want 400 over at most 4", s.requests.Load(), s.conns.Load())
			}
		})
	}
}

func TestLookupsDoNotWaitForRuns(t *testing.T) {
	t.Parallel()
	release, arrived := make(chan struct{}), make(chan struct{}, 4)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			body(200, `{"id":"t1","internalId":"acme"}`)(w, r)
			return
		}
		arrived <- struct{}{}
		<-release
		body(200, `{"output":{}}`)(w, r)
	}).start(t)
	c := connect(t, s.URL)
	var runs sync.WaitGroup
	for range 4 {
		runs.Go(func() {
			if _, err := c.Run(background, request()); err != nil {
				t.Error(err)
			}
		})
	}
	for range 4 {
		await(t, "a run", arrived)
	}
	if who, err := c.Self(background); err != nil || who.Key != "acme" {
		t.Errorf("got %+v, %v", who, err)
	}
	close(release)
	runs.Wait()
}

// TestNothingIsGivenAway puts canaries wherever an answer may quote what the user
// sent, and looks for them in all that is shown.
func TestNothingIsGivenAway(t *testing.T) {
	t.Parallel()
	canaries := []string{"12025550101", "2025550101", "Hi <Bo>", "Hi \\u003cBo", "canary", "pat-test-secret"}
	said := func(status int, top, cause string) string {
		return fmt.Sprintf(`{"type":%q,"key":"canary +12025550101","code":"canary","message":"Hi <Bo> +12025550101 pat-test-secret","stack":"canary","actionRunId":"canary +12025550101",
			"logs":["canary"],"data":{"destination":"+12025550101","response":{"status":%d,"headers":{"retry-after":"12025550101","x":"canary"},
			"data":{"code":12025550101,"errorId":"canary-12025550101","message":"canary"}}},
			"causedByError":{"type":%q,"key":"+12025550101","message":"Hi <Bo>","data":{"response":{"status":%d,"data":{"code":"+12025550101 CANARY","errorId":"+12025550101"}}}}}`, top, status, cause, status)
	}
	answers := []http.HandlerFunc{
		raw(t, "HTTP/1.1 200 +12025550101\r\n: canary\r\n\r\n"), raw(t, "+12025550101 canary\r\n\r\n"),
		raw(t, "HTTP/1.1 200 OK\r\nContent-Length: canary\r\n\r\n"), raw(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ncanary\r\n"),
		body(200, "<html>canary +12025550101"), body(200, `{"output":canary}`), body(302, "canary", "Location", "/canary"),
	}
	for _, status := range []int{400, 401, 403, 404, 429, 500, 503} {
		for _, top := range []string{"bad_request", "connection", "action_run", "canary", "internal"} {
			for _, vendor := range []int{400, 401, 429, 500} {
				answers = append(answers, body(status, said(vendor, top, "connection"), "Retry-After", "canary"), body(status, said(vendor, top, "canary")))
			}
		}
	}
	var next atomic.Int64
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { answers[next.Load()](w, r) }).start(t)
	c := connect(t, s.URL)
	look := func(what string, err error) {
		t.Helper()
		f := failureOf(t, err)
		shown := fmt.Sprintf("%v %+v %#v %v", f, *f, f.Details, f.RunID)
		for _, canary := range canaries {
			if strings.Contains(shown, canary) {
				t.Errorf("%s %d: %q is shown in %s", what, next.Load(), canary, shown)
			}
		}
	}
	for i := range answers {
		next.Store(int64(i))
		_, err := c.Run(background, request())
		look("run", err)
		// The same answers to a read, and as the error of a log.
		_, err = c.Self(background)
		if err != nil {
			look("self", bridge.AsFailure(err))
		}
	}
	log := (&record{ID: "r1", Status: "error", Error: []byte(said(400, "action_run", "connection"))}).runLog(time.Now())
	look("log", log.Failure)
	look("log", log.OneCallFailure)

	s.Close()
	_, err := c.Run(background, request())
	look("closed", err)
	if _, err := New(Options{BaseURL: s.URL, Token: "canary 12025550101"}); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("got %v", err)
	}
	if out := fmt.Sprintf("%+v", Options{Token: "canary", WorkspaceSecret: "canary"}); strings.Contains(out, "canary") {
		t.Errorf("options print as %s", out)
	}
	if !errors.As(err, new(*bridge.Failure)) {
		t.Errorf("got %T", err)
	}
}

// BenchmarkBare is what net/http alone takes for the same exchange.
func BenchmarkBare(b *testing.B) {
	s := httptest.NewServer(body(200, `{"output":{"umid":"0f3c","status":{"code":"QUEUED"}},"actionRunId":"66f1"}`))
	defer s.Close()
	transport := &http.Transport{MaxIdleConnsPerHost: 64, MaxConnsPerHost: 64}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: time.Minute}
	sent, failure := encode(request())
	if failure != nil {
		b.Fatal(failure)
	}
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			resp, err := client.Post(s.URL+"/act", "application/json", bytes.NewReader(sent))
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	})
}

func BenchmarkRun(b *testing.B) {
	s := httptest.NewServer(body(200, `{"output":{"umid":"0f3c","status":{"code":"QUEUED"}},"actionRunId":"66f1"}`))
	defer s.Close()
	c, err := New(Options{BaseURL: s.URL, Token: "pat-test-secret", Concurrency: 64})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	r := request()
	r.SendBy = time.Now().Add(time.Hour)
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.Run(background, r); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// A 503 that a proxy may have made after it passed the request on proves nothing (R8).
func TestProxyForwards(t *testing.T) {
	t.Parallel()
	const said = ", or a proxy did that may have passed the request on first"
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"a page":  {body(503, "<html>"), "unknown (outcome_unknown): membrane answered 503" + said},
		"cut off": {raw(t, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 100\r\n\r\n{"), "unknown (outcome_unknown): membrane answered 503, and the answer ended half way" + said},
		"429":     {body(429, "{}"), "outage: membrane answered 429"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := request()
			r.ProxyForwards = true
			if _, err := connect(t, serve(t, test.answer).start(t).URL).Run(background, r); err == nil || err.Error() != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}
