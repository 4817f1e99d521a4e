package membrane

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bridge8x8/bridge8x8/bridge"
)

// answers is a service that reads each path from a list, in order, the last one
// for ever, and keeps the queries.
type answers struct {
	mu    sync.Mutex
	pages map[string][]string
	asked []string
}

func (a *answers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, r.Method+" "+r.URL.RequestURI())
	left := a.pages[r.URL.EscapedPath()]
	if len(left) == 0 {
		body(404, `{"type":"bad_request","key":"not_found","message":"not found"}`)(w, r)
		return
	}
	if len(left) > 1 {
		a.pages[r.URL.EscapedPath()] = left[1:]
	}
	switch page := left[0]; {
	case page == "500":
		body(500, `{"type":"internal","message":"m"}`)(w, r)
	case page == "502":
		body(502, `<html>`)(w, r)
	case page == "404":
		body(404, `<html>`)(w, r)
	case page == "429":
		body(429, `{"type":"bad_request","key":"rate_limit_exceeded","message":"m"}`, "Retry-After", "5")(w, r)
	case strings.HasPrefix(page, "half "):
		w.Header().Set("Content-Length", "10000")
		_, _ = w.Write([]byte(page[len("half "):]))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	default:
		body(200, page)(w, r)
	}
}

var (
	from = time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.FixedZone("", 3600))
	logs = "/action-run-logs"
)

const ours = `{"bridge":"b1","source":"/shop","eventId":"evt-17","route":"r","key":"k","try":"t1","attempt":2}`

func TestRunLogs(t *testing.T) {
	t.Parallel()
	meta := bridge.Meta{Bridge: "b1", Source: "/shop", EventID: "evt-17", Route: "r", Key: "k", Try: "t1", Attempt: 2}
	at := time.Date(2026, 1, 2, 3, 5, 0, 250e6, time.UTC)
	unknown := func(id string) *bridge.Failure {
		return &bridge.Failure{Kind: bridge.Unknown, Reason: bridge.ReasonOutcomeUnknown, RunID: id, Message: "membrane's run log says error"}
	}
	page1 := `{"next":{"a":[1]},"items":[
		{"id":"r1","name":"n","status":"success","userId":"u","createdAt":"2026-01-02T03:05:00.250Z","input":{"to":"x"},"output":{"umid":"u1"},"meta":` + ours + `,"duration":12},
		{"id":"r2","status":"success","createdAt":"2026-01-02T03:05:00.250Z","output":[],"meta":null,"action":{"type":"x","key":"send-sms","meta":` + ours + `}},
		{"id":"r3","status":"error","createdAt":"yesterday","meta":["foreign"],"action":"send-sms",
		 "error":{"type":"action_run","message":"m","causedByError":{"type":"connection","data":{"response":{"status":422,"data":{"code":1002}}}}}}
	],"cursor":"c2"}`
	page2 := `{"cursor":null,"items":[
		{"id":"r4","status":"error","meta":{"try":5,"attempt":"x"}},
		{"id":"r5","status":"running","meta":"foreign","error":{"type":"bad_request","key":"rate_limit_exceeded"}},
		{"id":"r6","status":"error","meta":` + ours + `,"error":{"type":"bad_request","key":"rate_limit_exceeded","message":"m"}}
	]}`
	refused := &bridge.Failure{Kind: bridge.Outage, RunID: "r6", Message: "membrane's run log says error (bad_request rate_limit_exceeded)"}
	rejected := &bridge.Failure{Kind: bridge.Permanent, Reason: bridge.ReasonRejected, RunID: "r3", Details: map[string]any{"status": 422, "code": 1002},
		Message: "membrane's run log says error (action_run, connection, vendor status 422, code 1002)"}
	doubtful := *rejected
	doubtful.Kind, doubtful.Reason = bridge.Unknown, bridge.ReasonOutcomeUnknown
	want := []bridge.RunLog{
		{ID: "r1", Meta: meta, Succeeded: true, Output: json.RawMessage(`{"umid":"u1"}`), CreatedAt: at},
		{ID: "r2", Meta: meta, Succeeded: true, Output: json.RawMessage(`[]`), CreatedAt: at},
		{ID: "r3", Failure: &doubtful, OneCallFailure: rejected},
		{ID: "r4", Failure: unknown("r4"), OneCallFailure: unknown("r4")},
		{ID: "r5", Failure: unknown("r5"), OneCallFailure: unknown("r5")},
		{ID: "r6", Meta: meta, Failure: refused, OneCallFailure: refused},
	}
	a := &answers{pages: map[string][]string{
		logs:                      {page1, page2},
		"/connections/8x8%2Fmain": {`{"id":"c 1","key":"8x8/main","state":"READY"}`},
	}}
	s := serve(t, a.ServeHTTP).start(t)
	c := connect(t, s.URL)
	var got []bridge.RunLog
	if err := c.RunLogs(background, bridge.Place{ConnectionKey: "8x8/main"}, from, func(l bridge.RunLog) { got = append(got, l) }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(bridge.Failure{})); diff != "" {
		t.Error(diff)
	}
	if got[2].FailureOf(true) != got[2].OneCallFailure || got[2].FailureOf(false) != got[2].Failure {
		t.Error("FailureOf mixes them up")
	}
	asked := []string{
		"GET /connections/8x8%2Fmain?includeSecrets=false",
		"GET /action-run-logs?connectionId=c+1&from=2026-01-02T02%3A04%3A05.006Z&limit=1000",
		"GET /action-run-logs?connectionId=c+1&cursor=c2&from=2026-01-02T02%3A04%3A05.006Z&limit=1000",
	}
	if diff := cmp.Diff(asked, a.asked); diff != "" {
		t.Error(diff)
	}
	if n := s.conns.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// TestWhatIsNotSilence: only a listing that came to its end may be taken for all there is.
func TestWhatIsNotSilence(t *testing.T) {
	t.Parallel()
	item := func(id string) string { return fmt.Sprintf(`{"id":%q,"status":"success","output":{}}`, id) }
	list := func(cursor string, ids ...string) string {
		var items []string
		for _, id := range ids {
			items = append(items, item(id))
		}
		page := `{"items":[` + strings.Join(items, ",") + `]`
		if cursor != "" {
			page += fmt.Sprintf(`,"cursor":%q`, cursor)
		}
		return page + "}"
	}
	byID := bridge.Place{ConnectionID: "c1"}
	for _, test := range []struct {
		name  string
		at    bridge.Place
		pages map[string][]string
		logs  int
		asked int
		want  string
	}{
		{"empty", byID, map[string][]string{logs: {list("")}}, 0, 1, ""},
		{"empty last page", byID, map[string][]string{logs: {list("2", "a"), list("")}}, 1, 2, ""},
		{"empty cursor", byID, map[string][]string{logs: {`{"items":[],"cursor":""}`}}, 0, 1, ""},
		{"pages that overlap", byID, map[string][]string{logs: {list("2", "a", "b"), list("3", "b", "c"), list("", "c")}}, 5, 3, ""},
		{"the tenant's own", bridge.Place{}, map[string][]string{logs: {list("", "a")}}, 1, 1, ""},
		{"the connection is gone", bridge.Place{ConnectionKey: "gone"}, map[string][]string{logs: {list("", "a")}}, 1, 2, ""},

		{"a loop", byID, map[string][]string{logs: {list("2", "a"), list("3", "b"), list("2", "a")}}, 3, 3,
			"outage: membrane's run logs did not come to an end: a page of 1 added nothing and had a cursor"},
		{"a cursor after nothing", byID, map[string][]string{logs: {list("2")}}, 0, 1,
			"outage: membrane's run logs did not come to an end: a page of 0 added nothing and had a cursor"},
		{"second page fails", byID, map[string][]string{logs: {list("2", "a"), "500"}}, 1, 2, "outage: membrane answered 500 (internal)"},
		{"second page is refused", byID, map[string][]string{logs: {list("2", "a"), "429"}}, 1, 2, "outage: membrane answered 429 (bad_request rate_limit_exceeded)"},
		{"a gateway", byID, map[string][]string{logs: {"502"}}, 0, 1, "outage: membrane answered 502"},
		{"half a page", byID, map[string][]string{logs: {`half {"items":[` + item("a") + `,{"id":`}}, 1, 1, "outage: membrane's answer cannot be read: it ended half way"},
		{"half a page that looks whole", byID, map[string][]string{logs: {`half {"items":[` + item("a") + `]}`}}, 1, 1, "outage: membrane's answer cannot be read: it ended half way"},
		{"a page cut off inside", byID, map[string][]string{logs: {`{"items":[` + item("a")}}, 1, 1, "outage: membrane's answer cannot be read: it ended half way"},
		{"nothing", byID, map[string][]string{logs: {``}}, 0, 1, "outage: membrane's answer cannot be read: it ended half way"},
		{"a sign-in page", byID, map[string][]string{logs: {`<html>`}}, 0, 1, "outage: membrane's answer cannot be read: it is not JSON"},
		{"a list", byID, map[string][]string{logs: {`[]`}}, 0, 1, "outage: membrane's answer cannot be read: it is not a list of run logs"},
		{"no items", byID, map[string][]string{logs: {`{}`}}, 0, 1, "outage: membrane's answer cannot be read: it has no items"},
		{"items null", byID, map[string][]string{logs: {`{"items":null}`}}, 0, 1, "outage: membrane's answer cannot be read: it is not a list of run logs"},
		{"an item without an id", byID, map[string][]string{logs: {`{"items":[{}]}`}}, 0, 1, "outage: membrane's answer cannot be read: it has an item without an id"},
		{"an odd cursor", byID, map[string][]string{logs: {`{"items":[],"cursor":2}`}}, 0, 1, "outage: membrane's answer cannot be read: it has a cursor that is not a string"},
		{"the connection cannot be read", bridge.Place{ConnectionKey: "k"}, map[string][]string{"/connections/k": {"502"}, logs: {list("")}}, 0, 1, "outage: membrane answered 502"},
		{"the connection hides behind a page", bridge.Place{ConnectionKey: "k"}, map[string][]string{"/connections/k": {"404"}, logs: {list("")}}, 0, 1,
			"blocked (action_missing): membrane answered 404 without its error envelope; check MEMBRANE_API_URL"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a := &answers{pages: test.pages}
			c := connect(t, serve(t, a.ServeHTTP).start(t).URL)
			n := 0
			err := c.RunLogs(background, test.at, from, func(bridge.RunLog) { n++ })
			if errorText(err) != test.want {
				t.Errorf("got %q, want %q", errorText(err), test.want)
			}
			if n != test.logs {
				t.Errorf("%d logs, want %d", n, test.logs)
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			if len(a.asked) != test.asked {
				t.Errorf("asked %q, want %d requests", a.asked, test.asked)
			}
		})
	}
}

func TestRunLog(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, page string
		found      bool
		want       string
	}{
		{"there", `{"id":"r1","status":"success","output":{"a":1},"meta":` + ours + `}`, true, ""},
		{"not there", "", false, ""},
		{"no page", "404", false, "blocked (action_missing): membrane answered 404 without its error envelope; check MEMBRANE_API_URL"},
		{"a failure", "500", false, "outage: membrane answered 500 (internal)"},
		{"something else", "[]", false, "outage: membrane's answer is not a run log"},
		{"half", `half {"id":"r1","status":"success"`, false, "outage: membrane's answer cannot be read: it ended half way"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a := &answers{pages: map[string][]string{}}
			if test.page != "" {
				a.pages[logs+"/r1"] = []string{test.page}
			}
			c := connect(t, serve(t, a.ServeHTTP).start(t).URL)
			log, found, err := c.RunLog(background, bridge.Place{}, "r1")
			if found != test.found || errorText(err) != test.want {
				t.Errorf("got %v, %v; want %v, %q", found, err, test.found, test.want)
			}
			if found && (log.Meta.Try != "t1" || string(log.Output) != `{"a":1}`) {
				t.Errorf("got %+v", log)
			}
		})
	}
}

func TestProbeAndConnection(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, page, want string }{
		{"ready", `{"id":"c1","key":"k","name":"8x8","state":"READY","connected":true,"disconnected":false}`, ""},
		{"no state", `{"id":"c1"}`, ""},
		{"odd fields", `{"id":"c1","state":"READY","name":5,"meta":[]}`, ""},
		{"client action", `{"id":"c1","state":"CLIENT_ACTION_REQUIRED","disconnected":true}`, "blocked (not_ready): the connection cannot be used: a person has to reconnect it"},
		{"building", `{"id":"c1","state":"BUILDING"}`, "blocked (not_ready): the connection cannot be used: its state is not READY"},
		{"a state of the future", `{"id":"c1","state":"ASLEEP"}`, "blocked (not_ready): the connection cannot be used: its state is not READY"},
		{"disconnected", `{"id":"c1","state":"READY","disconnected":true}`, "blocked (not_ready): the connection cannot be used: it is disconnected"},
		{"not connected", `{"id":"c1","state":"READY","connected":false}`, "blocked (not_ready): the connection cannot be used: it is disconnected"},
		{"archived", `{"id":"c1","state":"READY","archivedAt":"2026-01-02T03:04:05Z"}`, "blocked (not_ready): the connection cannot be used: it is archived"},
		{"deactivated", `{"id":"c1","state":"READY","isDeactivated":true}`, "blocked (not_ready): the connection cannot be used: it is deactivated"},
		{"unknown", "", "blocked (not_ready): membrane does not know the connection"},
		{"nothing", "{}", "outage: membrane's answer is not a connection"},
		{"down", "502", "outage: membrane answered 502"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a := &answers{pages: map[string][]string{}}
			if test.page != "" {
				a.pages["/connections/c1"] = []string{test.page}
			}
			c := connect(t, serve(t, a.ServeHTTP).start(t).URL)
			if got := errorText(c.Probe(background, bridge.Place{ConnectionID: "c1", ConnectionKey: "k"})); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			conn, err := c.Connection(background, "c1")
			if (conn.Problem != "" || err != nil) != (test.want != "") {
				t.Errorf("got %+v, %v beside a probe that says %q", conn, err, test.want)
			}
		})
	}
	t.Run("without a connection", func(t *testing.T) {
		t.Parallel()
		a := &answers{pages: map[string][]string{"/self": {`{"id":"t1"}`, "429"}}}
		c := connect(t, serve(t, a.ServeHTTP).start(t).URL)
		if err := c.Probe(background, bridge.Place{}); err != nil {
			t.Error(err)
		}
		if f := failureOf(t, c.Probe(background, bridge.Place{})); f.Kind != bridge.Outage || f.RetryAfter != 5*time.Second {
			t.Errorf("got %+v", f)
		}
	})
}

func TestAction(t *testing.T) {
	t.Parallel()
	a := &answers{pages: map[string][]string{
		"/actions/send-sms": {`{"id":"a1","key":"send-sms","name":"Send SMS","state":"READY","connectionId":"c9","inputSchema":{"type":"object"}}`},
		"/actions/a2":       {`{"id":"a2","name":"n","state":"BUILDING","key":""}`},
	}}
	c := connect(t, serve(t, a.ServeHTTP).start(t).URL)
	got, err := c.Action(background, bridge.Place{ConnectionKey: "k"}, "send-sms")
	want := Action{ID: "a1", Key: "send-sms", Name: "Send SMS", State: "READY", ConnectionID: "c9", InputSchema: json.RawMessage(`{"type":"object"}`)}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	got, err = c.Action(background, bridge.Place{ConnectionID: "c1", ConnectionKey: "k"}, "a2")
	if err != nil || got.Problem != "its state is not READY" {
		t.Errorf("got %+v, %v", got, err)
	}
	_, err = c.Action(background, bridge.Place{}, "a/3")
	if f := failureOf(t, err); f.Reason != bridge.ReasonActionMissing {
		t.Errorf("got %v", f)
	}
	if diff := cmp.Diff([]string{"GET /actions/send-sms?connectionKey=k", "GET /actions/a2?connectionId=c1", "GET /actions/a%2F3"}, a.asked); diff != "" {
		t.Error(diff)
	}
}
