package ingress_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/ingress"
	"github.com/bridge8x8/bridge8x8/bridge/native"
	"github.com/bridge8x8/bridge8x8/config"
)

// store is an Accepter that keeps what it is given, or fails.
type store struct {
	mu     sync.Mutex
	events []cloudevent.Message
	err    error
	ctx    context.Context // of the last call
}

func (s *store) Accept(ctx context.Context, events []cloudevent.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctx = ctx
	if s.err != nil {
		return s.err
	}
	s.events = append(s.events, events...)
	return nil
}

// stored reads back from the bus's form what was stored.
func (s *store) stored(t *testing.T) []string {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, m := range s.events {
		e, err := cloudevent.FromNATS(m.Header, m.Data)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%s %s %s %s", e.RawSource, e.RawID, e.Type(), e.Data()))
	}
	return out
}

// bench is one listener with what it stored and logged.
type bench struct {
	*store
	url string
	mu  sync.Mutex
	log bytes.Buffer
}

func (b *bench) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Write(p)
}

func (b *bench) logged() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.String()
}

func setup(t *testing.T, o ingress.Options) *bench {
	t.Helper()
	b := &bench{store: &store{}}
	o.Accept = b.store
	o.Logger = slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h, err := ingress.New(o)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(h)
	server.Config = ingress.NewServer("", h, o.Logger)
	server.Start()
	t.Cleanup(server.Close)
	b.url = server.URL
	return b
}

type reply = bridgetest.Answer

func do(t *testing.T, method, url, body string, header ...string) reply {
	t.Helper()
	got, err := bridgetest.Do(t.Context(), http.DefaultClient, method, url, body, header...)
	if err != nil {
		t.Fatal(err)
	}
	got.Header.Del("Date")
	return got
}

const (
	structured = "application/cloudevents+json"
	batched    = "application/cloudevents-batch+json"
)

// one is an event in the JSON format.
func one(id, typ, data string) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/shop","type":%q,"data":%s}`, id, typ, data)
}

func TestEventsAreStored(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		body   string
		header []string
		want   []string
		mode   cloudevent.Mode
	}{
		{"structured", one("1", "t", `{"a": 1}`), []string{"Content-Type", structured}, []string{`/shop 1 t {"a": 1}`}, cloudevent.Structured},
		{"structured, in capitals", one("1", "t", `1`), []string{"Content-Type", "Application/CloudEvents+JSON; charset=UTF-8"}, []string{`/shop 1 t 1`}, cloudevent.Structured},
		{"binary", `{"a": 1}`, []string{"Content-Type", "application/json", "ce-specversion", "1.0", "ce-id", "a%20b", "ce-source", "/shop", "ce-type", "t"}, []string{`/shop a b t {"a": 1}`}, cloudevent.Binary},
		{"binary without data", "", []string{"ce-specversion", "1.0", "ce-id", "1", "ce-source", "/shop", "ce-type", "t"}, []string{`/shop 1 t `}, cloudevent.Binary},
		{"batch", "[" + one("1", "t", "1") + "," + one("2", "t", "2") + "]", []string{"Content-Type", batched}, []string{`/shop 1 t 1`, `/shop 2 t 2`}, cloudevent.Batched},
		{"empty batch", "[]", []string{"Content-Type", batched}, nil, cloudevent.Batched},
		{"not compressed, and says so", one("1", "t", "1"), []string{"Content-Type", structured, "Content-Encoding", "identity"}, []string{`/shop 1 t 1`}, cloudevent.Structured},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, ingress.Options{})
			want := reply{Status: http.StatusAccepted, Header: http.Header{"Content-Length": {"0"}}}
			if diff := cmp.Diff(want, do(t, "POST", b.url+"/events", test.body, test.header...)); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(test.want, b.stored(t)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTheTraceOfTheRequestIsCarried(t *testing.T) {
	t.Parallel()
	b := setup(t, ingress.Options{})
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	do(t, "POST", b.url+"/events", one("1", "t", "1"), "Content-Type", structured, "traceparent", parent, "tracestate", "a=b")
	want := map[string][]string{"Content-Type": {structured}, "traceparent": {parent}, "tracestate": {"a=b"}}
	if len(b.events) != 1 {
		t.Fatalf("%d events", len(b.events))
	}
	if diff := cmp.Diff(want, b.events[0].Header); diff != "" {
		t.Error(diff)
	}
}

// problem is the whole document that a refusal is expected to have.
func problem(status int, code, detail, more string) string {
	if more != "" {
		more = "," + more
	}
	d, _ := json.Marshal(detail)
	return fmt.Sprintf(`{"type":"about:blank","title":%q,"status":%d,"detail":%s,"code":%q%s}`, http.StatusText(status), status, d, code, more)
}

func TestEventsAreRefused(t *testing.T) {
	t.Parallel()
	const maxEvent = 2000
	binary := func(more ...string) []string {
		return append([]string{"Content-Type", "application/json", "ce-specversion", "1.0", "ce-id", "1", "ce-source", "/shop", "ce-type", "t"}, more...)
	}
	long := `"` + strings.Repeat("x", maxEvent) + `"`
	notCE := "not a CloudEvent: neither a CloudEvents content type nor ce- headers; send Content-Type: application/cloudevents+json, or the attributes as ce- headers"
	formats := "the only CloudEvents format that is read is JSON (application/cloudevents+json)"
	var zipped bytes.Buffer
	zip := gzip.NewWriter(&zipped)
	_, _ = zip.Write([]byte(one("1", "t", "1")))
	_ = zip.Close()
	thousand := "[" + strings.TrimSuffix(strings.Repeat("{},", 10), ",") + "]"

	for _, test := range []struct {
		name   string
		method string
		body   string
		header []string
		status int
		want   string
	}{
		{"structured: not JSON", "POST", "hello +12025550101", []string{"Content-Type", structured}, 400, problem(400, "malformed", "not a JSON object", "")},
		{"structured: empty", "POST", "", []string{"Content-Type", structured}, 400, problem(400, "malformed", "there is nothing in it", "")},
		{"structured: cut off", "POST", `{"specversion":"1.0","id":"+1202`, []string{"Content-Type", structured}, 400, problem(400, "malformed", "not JSON: it ends too early", "")},
		{"structured: where the SDK panics", "POST", `{"specversion":"1.0","data_base64":5}`, []string{"Content-Type", structured}, 400, problem(400, "malformed", "data_base64: must be a string in base64", `"attribute":"data_base64"`)},
		{"structured: no id", "POST", `{"specversion":"1.0","source":"/s","type":"t"}`, []string{"Content-Type", structured}, 400, problem(400, "malformed", "id: is missing", `"attribute":"id"`)},
		{"structured: a bad extension", "POST", `{"specversion":"1.0","weight":1.5}`, []string{"Content-Type", structured}, 400, problem(400, "malformed", "weight: is not an integer of 32 bits", `"attribute":"weight"`)},
		{"structured: too deep", "POST", `{"data":` + strings.Repeat("[", 500), []string{"Content-Type", structured}, 400, problem(400, "malformed", "is nested deeper than 128 levels", "")},
		{"structured: too large", "POST", one("1", "t", long), []string{"Content-Type", structured}, 413, problem(413, "too_large", "the body may have 2000 bytes", "")},
		{"structured: a command", "POST", one("1", "com.8x8.run.send-sms", "{}"), []string{"Content-Type", structured}, 403, problem(403, "reserved_type", "type: com.8x8.run.* is reserved for commands, which are off; BRIDGE_COMMANDS=true turns them on", "")},
		{"structured: UTF-16", "POST", "x", []string{"Content-Type", structured + "; charset=UTF-16"}, 415, problem(415, "unsupported_format", "the only character set that is read is UTF-8", "")},
		{"structured: avro", "POST", "x", binary("Content-Type", "application/cloudevents+avro"), 415, problem(415, "unsupported_format", formats, "")},
		{"compressed", "POST", zipped.String(), []string{"Content-Type", structured, "Content-Encoding", "gzip"}, 415, problem(415, "unsupported_encoding", "the body is compressed; send it as it is", "")},

		{"binary: no id", "POST", "{}", []string{"ce-specversion", "1.0", "ce-source", "/s", "ce-type", "t"}, 400, problem(400, "malformed", "id: is missing", `"attribute":"id"`)},
		{"binary: no specversion", "POST", "{}", []string{"ce-id", "1"}, 400, problem(400, "malformed", "specversion: is missing", `"attribute":"specversion"`)},
		{"binary: another specversion", "POST", "{}", binary("ce-specversion", "0.3"), 400, problem(400, "malformed", `specversion: must be "1.0"`, `"attribute":"specversion"`)},
		{"binary: not UTF-8", "POST", "{}", binary("ce-subject", "%C0%A0"), 400, problem(400, "malformed", "subject: is not UTF-8 after percent-decoding", `"attribute":"subject"`)},
		{"binary: data that is no JSON", "POST", "{", binary(), 400, problem(400, "malformed", "data: is not JSON, although its content type says so", `"attribute":"data"`)},
		{"binary: too large", "POST", long, binary(), 413, problem(413, "too_large", "the body may have 2000 bytes", "")},
		{"binary: a command", "POST", "{}", binary("ce-type", "com.8x8.run.x"), 403, problem(403, "reserved_type", "type: com.8x8.run.* is reserved for commands, which are off; BRIDGE_COMMANDS=true turns them on", "")},

		{"batch: not an array", "POST", "{}", []string{"Content-Type", batched}, 400, problem(400, "malformed", "a batch must be a JSON array", "")},
		{"batch: one bad item", "POST", "[" + one("1", "t", "1") + `,{"specversion":"1.0"}]`, []string{"Content-Type", batched}, 400,
			problem(400, "malformed", "one of the batch's items is no event; nothing was stored", `"errors":[{"index":1,"attribute":"id","detail":"id: is missing"}]`)},
		{"batch: bad items", "POST", "[5," + one("1", "t", "1") + `,{"specversion":"1.0"}]`, []string{"Content-Type", batched}, 400,
			problem(400, "malformed", "2 of the batch's items are no events; nothing was stored", `"errors":[{"index":0,"detail":"not a JSON object"},{"index":2,"attribute":"id","detail":"id: is missing"}]`)},
		{"batch: a large item", "POST", "[" + one("1", "t", "1") + "," + one("2", "t", long) + "]", []string{"Content-Type", batched}, 413,
			problem(413, "too_large", "an event may have 2000 bytes", `"errors":[{"index":1,"detail":"an event may have 2000 bytes"}]`)},
		{"batch: a command", "POST", "[" + one("1", "t", "1") + "," + one("2", "com.8x8.run.x", "1") + "]", []string{"Content-Type", batched}, 403,
			problem(403, "reserved_type", "type: com.8x8.run.* is reserved for commands, which are off; BRIDGE_COMMANDS=true turns them on", `"errors":[{"index":1,"attribute":"type","detail":"type: is reserved for commands"}]`)},
		{"batch: too large", "POST", "[" + strings.Repeat(" ", 8*maxEvent) + "]", []string{"Content-Type", batched}, 413, problem(413, "too_large", "the body may have 16000 bytes", "")},
		{"batch: items that are nothing", "POST", thousand, []string{"Content-Type", batched}, 400,
			problem(400, "malformed", "10 of the batch's items are no events; nothing was stored", `"errors":[`+strings.TrimSuffix(strings.Join(func() (s []string) {
				for i := range 10 {
					s = append(s, fmt.Sprintf(`{"index":%d,"attribute":"specversion","detail":"specversion: is missing"}`, i))
				}
				return s
			}(), ","), ",")+"]")},

		{"not a CloudEvent", "POST", `{"a":1}`, []string{"Content-Type", "application/json"}, 415, problem(415, "not_a_cloudevent", notCE, "")},
		{"an event under a plain content type", "POST", one("1", "t", "1"), []string{"Content-Type", "application/json"}, 415, problem(415, "not_a_cloudevent", notCE, "")},
		{"GET", "GET", "", nil, 405, problem(405, "method_not_allowed", "use POST", "")},
		{"PUT", "PUT", one("1", "t", "1"), []string{"Content-Type", structured}, 405, problem(405, "method_not_allowed", "use POST", "")},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, ingress.Options{MaxEvent: maxEvent})
			got := do(t, test.method, b.url+"/events", test.body, test.header...)
			if got.Status != test.status {
				t.Errorf("status %d, want %d", got.Status, test.status)
			}
			if diff := cmp.Diff(test.want, got.Body); diff != "" {
				t.Error(diff)
			}
			if ct := got.Header.Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("Content-Type is %q", ct)
			}
			if allow := got.Header.Get("Allow"); (test.status == 405) != (allow == "POST, OPTIONS") {
				t.Errorf("Allow is %q", allow)
			}
			if stored := b.stored(t); stored != nil {
				t.Errorf("stored %v", stored)
			}
		})
	}
}

func TestLimitsOfABatch(t *testing.T) {
	t.Parallel()
	b := setup(t, ingress.Options{})
	events := func(n int) string {
		return "[" + strings.TrimSuffix(strings.Repeat(one("1", "t", "1")+",", n), ",") + "]"
	}
	got := do(t, "POST", b.url+"/events", events(1001), "Content-Type", batched)
	if diff := cmp.Diff(problem(413, "batch_too_long", "a batch may hold 1000 events; split it", ""), got.Body); diff != "" {
		t.Error(diff)
	}
	if got := do(t, "POST", b.url+"/events", events(1000), "Content-Type", batched); got.Status != 202 || len(b.stored(t)) != 1000 {
		t.Errorf("%v, %d stored", got, len(b.stored(t)))
	}
	if got := do(t, "POST", b.url+"/events", "["+strings.TrimSuffix(strings.Repeat("5,", 500), ",")+"]", "Content-Type", batched); strings.Count(got.Body, `"index"`) != 100 {
		t.Errorf("an answer with %d items", strings.Count(got.Body, `"index"`))
	}
}

// endless is a body of unknown length that counts what was taken of it.
type endless struct{ left, taken int }

func (e *endless) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), e.left, 32<<10)
	for i := range n {
		p[i] = ' '
	}
	e.left -= n
	e.taken += n
	return n, nil
}

func TestALargeBodyIsNotRead(t *testing.T) {
	t.Parallel()
	b := setup(t, ingress.Options{})
	want := problem(413, "too_large", "the body may have 1015808 bytes", "")
	for name, length := range map[string]int64{"announced": 12 << 20, "not announced": -1} {
		body := &endless{left: 12 << 20}
		r := httptest.NewRequest("POST", "/events", body)
		r.ContentLength = length
		r.Header.Set("Content-Type", structured)
		h, err := ingress.New(ingress.Options{Accept: b.store})
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if diff := cmp.Diff(want, w.Body.String()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if body.taken > 1<<20+64<<10 || length > 0 && body.taken != 0 {
			t.Errorf("%s: %d bytes were read", name, body.taken)
		}
	}
	// The same over a connection, where the client must get to see the answer.
	got := do(t, "POST", b.url+"/events", strings.Repeat(" ", 12<<20), "Content-Type", structured)
	if diff := cmp.Diff(want, got.Body); diff != "" || got.Status != 413 {
		t.Errorf("%d %s", got.Status, diff)
	}
}

func TestABodyThatBreaksOff(t *testing.T) {
	t.Parallel()
	b := setup(t, ingress.Options{})
	h, err := ingress.New(ingress.Options{Accept: b.store})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("POST", "/events", io.MultiReader(strings.NewReader(`{"specv`), errReader{}))
	r.Header.Set("Content-Type", structured)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if diff := cmp.Diff(problem(400, "incomplete", "the body could not be read to its end", ""), w.Body.String()); diff != "" {
		t.Error(diff)
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("connection reset by +12025550101") }

func TestBearer(t *testing.T) {
	t.Parallel()
	b := setup(t, ingress.Options{
		Tokens:   []config.Secret{"first-token", "second-token"},
		Webhooks: []config.Webhook{{Name: "shop", Bearer: []config.Secret{"shop-token"}}},
	})
	none := problem(401, "unauthorized", `no token; send "Authorization: Bearer <token>"`, "")
	wrong := problem(401, "unauthorized", "the token is not valid here", "")
	scheme := problem(401, "unauthorized", `the Authorization header is not of the form "Bearer <token>"`, "")
	for _, test := range []struct {
		name, path, auth string
		status           int
		body, challenge  string
		cache            string
	}{
		{"none", "/events", "", 401, none, "Bearer", ""},
		{"first", "/events", "Bearer first-token", 202, "", "", ""},
		{"second, scheme in small letters", "/events", "bearer second-token", 202, "", "", ""},
		{"wrong", "/events", "Bearer third-token", 401, wrong, `Bearer error="invalid_token"`, ""},
		{"a part of it", "/events", "Bearer first-toke", 401, wrong, `Bearer error="invalid_token"`, ""},
		{"empty", "/events", "Bearer ", 401, wrong, `Bearer error="invalid_token"`, ""},
		{"another scheme", "/events", "Basic first-token", 401, scheme, "Bearer", ""},
		{"in the address", "/events?access_token=second-token", "", 202, "", "", "private"},
		{"wrong in the address", "/events?access_token=x", "", 401, wrong, `Bearer error="invalid_token"`, ""},
		{"the header outranks the address", "/events?access_token=first-token", "Bearer x", 401, wrong, `Bearer error="invalid_token"`, ""},
		{"a webhook with its own", "/webhooks/shop", "Bearer shop-token", 202, "", "", ""},
		{"a webhook with another's", "/webhooks/shop", "Bearer first-token", 401, wrong, `Bearer error="invalid_token"`, ""},
		{"a webhook without", "/webhooks/shop", "", 401, none, "Bearer", ""},
	} {
		header := []string{"Content-Type", structured}
		if test.auth != "" {
			header = append(header, "Authorization", test.auth)
		}
		got := do(t, "POST", b.url+test.path, one("1", "t", "1"), header...)
		if got.Status != test.status || got.Body != test.body || got.Header.Get("WWW-Authenticate") != test.challenge || got.Header.Get("Cache-Control") != test.cache {
			t.Errorf("%s: %+v", test.name, got)
		}
	}
	if strings.Contains(b.logged(), "token=") || strings.Contains(b.logged(), "-token") {
		t.Errorf("a token is in the log:\n%s", b.logged())
	}
	if n := len(b.stored(t)); n != 4 {
		t.Errorf("%d stored", n)
	}
}

func TestUnknownAddresses(t *testing.T) {
	t.Parallel()
	b := setup(t, ingress.Options{Webhooks: []config.Webhook{{Name: "shop"}}})
	for path, detail := range map[string]string{
		"/":                   "there is nothing at this address; events go to /events",
		"/events/":            "there is nothing at this address; events go to /events",
		"/webhooks/":          "no webhook of this name is declared in the configuration",
		"/webhooks/other":     "no webhook of this name is declared in the configuration",
		"/webhooks/shop/more": "no webhook of this name is declared in the configuration",
	} {
		got := do(t, "POST", b.url+path, one("1", "t", "1"), "Content-Type", structured)
		if diff := cmp.Diff(problem(404, "not_found", detail, ""), got.Body); diff != "" || got.Status != 404 {
			t.Errorf("%s: %d %s", path, got.Status, diff)
		}
	}
}

func TestWhenNothingCanBeStored(t *testing.T) {
	t.Parallel()
	down := problem(503, "unavailable", "nothing can be stored right now; send it again", "")
	for _, test := range []struct {
		name       string
		err, ready error
		want       string
		status     int
	}{
		{"the store is away", errors.New("nats: no response from stream"), nil, down, 503},
		{"not ready", nil, errors.New("stopping"), down, 503},
		{"the store finds it too large", fmt.Errorf("publish: %w", cloudevent.ErrTooLarge), nil, problem(413, "too_large", "publish: the event is larger than the bus takes", ""), 413},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, ingress.Options{Ready: func() error { return test.ready }})
			b.err = test.err
			requests := map[string]reply{
				"/events":       do(t, "POST", b.url+"/events", one("1", "t", "1"), "Content-Type", structured),
				"/webhooks/8x8": do(t, "POST", b.url+"/webhooks/8x8", inbound),
			}
			for path, got := range requests {
				if got.Status != test.status || got.Body != test.want {
					t.Errorf("%s: %+v", path, got)
				}
				if after := got.Header.Get("Retry-After"); (test.status == 503) != (after == "5") {
					t.Errorf("%s: Retry-After is %q", path, after)
				}
			}
		})
	}
}

// A sender that hangs up must not cut off the store.
func TestStoringOutlivesTheRequest(t *testing.T) {
	t.Parallel()
	b := setup(t, ingress.Options{})
	h, err := ingress.New(ingress.Options{Accept: b.store})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequest("POST", "/events", strings.NewReader(one("1", "t", "1"))).WithContext(ctx)
	r.Header.Set("Content-Type", structured)
	h.ServeHTTP(httptest.NewRecorder(), r)
	if len(b.events) != 1 {
		t.Fatal("not stored")
	}
	if _, limited := b.ctx.Deadline(); !limited {
		t.Error("storing has no deadline")
	}
}

func TestHandshake(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		origins []string
		rate    int
		header  []string
		want    http.Header
	}{
		{"granted, as in the specification", []string{"shop.example.com"}, 300, []string{"WebHook-Request-Origin", "shop.example.com", "WebHook-Request-Rate", "600"},
			http.Header{"Webhook-Allowed-Origin": {"shop.example.com"}, "Webhook-Allowed-Rate": {"300"}}},
		{"asks for less", []string{"shop.example.com"}, 300, []string{"WebHook-Request-Origin", "Shop.Example.com", "WebHook-Request-Rate", "60"},
			http.Header{"Webhook-Allowed-Origin": {"Shop.Example.com"}, "Webhook-Allowed-Rate": {"60"}}},
		{"no rate asked", []string{"shop.example.com"}, 300, []string{"WebHook-Request-Origin", "shop.example.com"},
			http.Header{"Webhook-Allowed-Origin": {"shop.example.com"}, "Webhook-Allowed-Rate": {"300"}}},
		{"no limit", []string{"*"}, 0, []string{"WebHook-Request-Origin", "any.example.com", "WebHook-Request-Rate", "60"},
			http.Header{"Webhook-Allowed-Origin": {"any.example.com"}, "Webhook-Allowed-Rate": {"*"}}},
		{"a callback changes nothing", []string{"*"}, 0, []string{"WebHook-Request-Origin", "any.example.com", "WebHook-Request-Callback", "https://any.example.com/cb"},
			http.Header{"Webhook-Allowed-Origin": {"any.example.com"}, "Webhook-Allowed-Rate": {"*"}}},
		{"an origin that begins like one that is allowed", []string{"shop.example"}, 300, []string{"WebHook-Request-Origin", "shop.example.com"}, http.Header{}},
		{"another origin", []string{"shop.example.com"}, 300, []string{"WebHook-Request-Origin", "example.com"}, http.Header{}},
		{"no origins configured", nil, 300, []string{"WebHook-Request-Origin", "example.com"}, http.Header{}},
		{"no origin", []string{"*"}, 300, nil, http.Header{}},
		{"Origin is another header", []string{"*"}, 300, []string{"Origin", "https://example.com"}, http.Header{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, ingress.Options{Origins: test.origins, Rate: test.rate, Tokens: []config.Secret{"x"}, Webhooks: []config.Webhook{{Name: "shop"}}})
			test.want.Set("Allow", "POST, OPTIONS")
			test.want.Set("Content-Length", "0")
			for _, path := range []string{"/events", "/webhooks/shop"} {
				got := do(t, "OPTIONS", b.url+path, "", test.header...)
				if diff := cmp.Diff(reply{Status: 200, Header: test.want}, got); diff != "" {
					t.Errorf("%s: %s", path, diff)
				}
			}
		})
	}
	b := setup(t, ingress.Options{Origins: []string{"*"}})
	got := do(t, "OPTIONS", b.url+"/events", "", "WebHook-Request-Origin", "example.com", "WebHook-Request-Rate", "fast")
	if diff := cmp.Diff(problem(400, "malformed", "WebHook-Request-Rate is not a number of requests a minute", ""), got.Body); diff != "" {
		t.Error(diff)
	}
}

func TestDeliveriesFromAnotherOrigin(t *testing.T) {
	t.Parallel()
	b := setup(t, ingress.Options{Origins: []string{"shop.example.com"}})
	for origin, want := range map[string]int{"shop.example.com": 202, "": 202, "example.com": 403} {
		header := []string{"Content-Type", structured}
		if origin != "" {
			header = append(header, "WebHook-Request-Origin", origin)
		}
		if got := do(t, "POST", b.url+"/events", one("1", "t", "1"), header...); got.Status != want {
			t.Errorf("%q: %+v", origin, got)
		}
	}
}

func TestRate(t *testing.T) {
	t.Parallel()
	b := setup(t, ingress.Options{Rate: 1, Tokens: []config.Secret{"good"}, Webhooks: []config.Webhook{{Name: "shop"}}})
	post := func(path, token string) reply {
		return do(t, "POST", b.url+path, one("1", "t", "1"), "Content-Type", structured, "Authorization", "Bearer "+token)
	}
	if got := post("/events", "bad"); got.Status != 401 {
		t.Errorf("%+v", got)
	}
	if got := post("/events", "good"); got.Status != 202 {
		t.Errorf("a refused sender used the allowance up: %+v", got)
	}
	got := post("/events", "good")
	if diff := cmp.Diff(problem(429, "rate_exceeded", "more than the allowed 1 requests a minute", ""), got.Body); diff != "" || got.Status != 429 || got.Header.Get("Retry-After") == "" {
		t.Errorf("%+v", got)
	}
	if got := post("/webhooks/shop", ""); got.Status != 202 {
		t.Errorf("another endpoint has an allowance of its own: %+v", got)
	}
	for range 3 {
		if got := do(t, "POST", b.url+"/webhooks/8x8", inbound); got.Status != 200 {
			t.Errorf("8x8 is never told to slow down: %+v", got)
		}
	}
}

func TestCommands(t *testing.T) {
	t.Parallel()
	b := setup(t, ingress.Options{Commands: true})
	if got := do(t, "POST", b.url+"/events", one("1", "com.8x8.run.send-sms", "{}"), "Content-Type", structured); got.Status != 202 || len(b.stored(t)) != 1 {
		t.Errorf("%+v", got)
	}
}

const (
	receipt = `{"namespace":"SMS","eventType":"outbound_message_status_changed","payload":{"umid":"0f3c","clientMessageId":"try-1","subAccountId":"acme_hq","destination":"+12025550101","status":{"state":"delivered","detail":"delivered_to_recipient","timestamp":"2026-03-01T10:00:05.12Z"}}}`
	inbound = `{"namespace":"SMS","eventType":"inbound_message_received","payload":{"umid":"a1","subAccountId":"acme_hq","timestamp":"2026-03-01T10:02:00.017Z","source":"+12025550101","destination":"+12025550102","body":"a private word"}}`
)

func TestReceiptIsTiedToItsCause(t *testing.T) {
	t.Parallel()
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	var asked []native.Receipt
	b := setup(t, ingress.Options{Correlate: func(_ context.Context, e *event.Event) (ingress.Correlation, error) {
		r, ok := native.ParseReceipt(e)
		if !ok {
			return ingress.Correlation{}, nil
		}
		asked = append(asked, r)
		if r.ClientMessageID != "try-1" {
			return ingress.Correlation{}, nil
		}
		return ingress.Correlation{CausationID: "evt 17", CausationSource: "a b/%7Ec", CorrelationID: "c", TraceParent: parent, Outcome: &native.Outcome{State: "read", Final: true, Rank: 6}}, nil
	}})
	unknown := strings.Replace(receipt, "try-1", "try-2", 1)
	for _, body := range []string{receipt, unknown, inbound} {
		want := reply{Status: 200, Header: http.Header{"Content-Length": {"0"}}}
		if diff := cmp.Diff(want, do(t, "POST", b.url+"/webhooks/8x8", body)); diff != "" {
			t.Fatal(diff)
		}
	}
	if len(asked) != 2 || asked[0].UMID != "0f3c" || asked[0].State != "delivered" {
		t.Errorf("asked about %v", asked)
	}
	var got []string
	for _, m := range b.events {
		if diff := cmp.Diff(map[string][]string{"Content-Type": {structured}}, m.Header); diff != "" {
			t.Error(diff)
		}
		got = append(got, string(m.Data))
	}
	head := func(id, typ, subject, at string) string {
		return `{"specversion":"1.0","id":"` + id + `","source":"/8x8/sms/acme_hq","type":"` + typ + `","subject":"` + subject + `","time":"` + at + `","datacontenttype":"application/json"`
	}
	data := func(body string) string { return `,"data":` + body[strings.Index(body, `"payload":`)+10:] }
	withOutcome := func(body, outcome string) string {
		return strings.TrimSuffix(data(body), "}}") + `,"outcome":` + outcome + `}}`
	}
	id := b.events[0].Event.ID()
	want := []string{
		head(id, native.TypeSMSStatus, "0f3c", "2026-03-01T10:00:05.12Z") + `,"causationid":"evt 17","causationsource":"a b/%7Ec","correlationid":"c","traceparent":"` + parent + `"` + withOutcome(receipt, `{"state":"read","final":true,"rank":6}`),
		head(id, native.TypeSMSStatus, "0f3c", "2026-03-01T10:00:05.12Z") + withOutcome(unknown, `{"state":"delivered","final":true,"rank":5}`),
		head("a1", native.TypeSMSReceived, "a1", "2026-03-01T10:02:00.017Z") + data(inbound),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Rule R15: after a failed lookup 8x8 comes again, and nothing is stored untied.
func TestReceiptWhoseCauseCannotBeLookedUp(t *testing.T) {
	t.Parallel()
	b := setup(t, ingress.Options{Correlate: func(context.Context, *event.Event) (ingress.Correlation, error) {
		return ingress.Correlation{}, errors.New("no answer from the ledger")
	}})
	got := do(t, "POST", b.url+"/webhooks/8x8", receipt)
	if got.Status != 503 || got.Header.Get("Retry-After") != "5" || got.Body != problem(503, "unavailable", "nothing can be stored right now; send it again", "") {
		t.Errorf("%+v", got)
	}
	if stored := b.stored(t); stored != nil {
		t.Errorf("stored %v", stored)
	}
}

func TestNativeRefusals(t *testing.T) {
	t.Parallel()
	b := setup(t, ingress.Options{MaxEvent: 1000})
	for _, test := range []struct {
		name, method, body string
		header             []string
		want               string
	}{
		{"too large", "POST", strings.Repeat(" ", 1001), nil, problem(413, "too_large", "the body may have 1000 bytes", "")},
		{"compressed", "POST", "x", []string{"Content-Encoding", "br"}, problem(415, "unsupported_encoding", "the body is compressed; send it as it is", "")},
		{"GET", "GET", "", nil, problem(405, "method_not_allowed", "use POST", "")},
		{"OPTIONS", "OPTIONS", "", nil, problem(405, "method_not_allowed", "use POST", "")},
	} {
		if diff := cmp.Diff(test.want, do(t, test.method, b.url+"/webhooks/8x8", test.body, test.header...).Body); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
	// What is of no known kind is kept: 8x8 would only repeat it.
	for i, body := range []string{`{"namespace":"NEW"}`, "<umid>+12025550101</umid>", "{", ""} {
		if got := do(t, "POST", b.url+"/webhooks/8x8", body); got.Status != 200 || b.events[i].Event.Type() != native.TypeUnrecognized {
			t.Errorf("%q: %+v", body, got)
		}
	}
	if stored := b.stored(t); !strings.HasSuffix(stored[1], "com.8x8.unrecognized <umid>+12025550101</umid>") || !strings.HasSuffix(stored[2], "com.8x8.unrecognized {") {
		t.Errorf("not as it came: %v", stored)
	}
}

func TestNativeAuthentication(t *testing.T) {
	t.Parallel()
	refused := problem(401, "unauthorized", "neither the secret in the address nor the Authorization header fits what is configured", "")
	for _, test := range []struct {
		name         string
		secret, auth config.Secret
		path, header string
		want         int
	}{
		{"open", "", "", "/webhooks/8x8", "", 200},
		{"open, with a secret nobody configured", "", "", "/webhooks/8x8/x", "", 401},
		{"secret", "s3cret", "", "/webhooks/8x8/s3cret", "", 200},
		{"secret, wrong", "s3cret", "", "/webhooks/8x8/s3cre", "", 401},
		{"secret, empty", "s3cret", "", "/webhooks/8x8/", "", 401},
		{"secret, left out", "s3cret", "", "/webhooks/8x8", "", 401},
		{"secret with a slash", "s3/cret", "", "/webhooks/8x8/s3/cret", "", 200},
		{"header", "", "Basic abc=", "/webhooks/8x8", "Basic abc=", 200},
		{"header, wrong", "", "Basic abc=", "/webhooks/8x8", "Basic abd=", 401},
		{"header, left out", "", "Basic abc=", "/webhooks/8x8", "", 401},
		{"both, by secret", "s3cret", "Basic abc=", "/webhooks/8x8/s3cret", "", 200},
		{"both, by header", "s3cret", "Basic abc=", "/webhooks/8x8", "Basic abc=", 200},
		{"both, none", "s3cret", "Basic abc=", "/webhooks/8x8", "", 401},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, ingress.Options{WebhookSecret: test.secret, WebhookAuth: test.auth})
			var header []string
			if test.header != "" {
				header = []string{"Authorization", test.header}
			}
			got := do(t, "POST", b.url+test.path, inbound, header...)
			if got.Status != test.want || got.Status == 401 && got.Body != refused {
				t.Errorf("%+v", got)
			}
			if (len(b.stored(t)) == 1) != (test.want == 200) {
				t.Errorf("%d stored", len(b.stored(t)))
			}
			for _, secret := range []string{"s3c", "abc="} {
				if strings.Contains(b.logged(), secret) {
					t.Errorf("a secret is in the log: %s", b.logged())
				}
			}
		})
	}
}

// Whatever is sent, nothing of it is written down or sent back.
func TestNothingPrivateIsLoggedOrAnswered(t *testing.T) {
	t.Parallel()
	b := setup(t, ingress.Options{MaxEvent: 500, WebhookAuth: "Bearer tok-5550101"})
	number := `"+12025550101 a private word"`
	b.err = errors.New("nats: timeout")
	for _, r := range []struct{ path, body, contentType, auth string }{
		{"/events", one("1", "t", number), structured, "x"},
		{"/events", `{"specversion":"1.0","id":` + number + `,"source":` + number + `}`, structured, "x"},
		{"/events", `{"specversion":` + number + `}`, structured, "x"},
		{"/events", `{"time":` + number + `}`, structured, "x"},
		{"/events", `{"data_base64":` + number + `}`, structured, "x"},
		{"/events", `{` + number + `:1}`, structured, "x"},
		{"/events", `{"12025550101":1.5}`, structured, "x"},
		{"/events", number, structured, "x"},
		{"/events", "[" + number + "]", batched, "x"},
		{"/events?access_token=tok-5550101", number, "application/" + strings.Trim(number, `"`), "x"},
		{"/webhooks/8x8", inbound, "", "Bearer tok-5550101"},
		{"/webhooks/8x8", number + "x", "", "Bearer tok-555010"},
		{"/webhooks/8x8/tok-5550101", inbound, "", ""},
		{"/webhooks/tok-5550101", inbound, "", ""},
	} {
		got := do(t, "POST", b.url+r.path, r.body, "Content-Type", r.contentType, "Authorization", r.auth)
		if got.Status < 400 {
			t.Errorf("%s %s: %d", r.path, r.body, got.Status)
		}
		if strings.Contains(got.Body, "5550101") || strings.Contains(got.Body, "private") {
			t.Errorf("%s: the answer repeats it: %s", r.path, got.Body)
		}
	}
	log := b.logged()
	if !strings.Contains(log, "nats: timeout") || !strings.Contains(log, "code=malformed") {
		t.Errorf("the log says nothing:\n%s", log)
	}
	if strings.Contains(log, "5550101") || strings.Contains(log, "private") {
		t.Errorf("the log repeats it:\n%s", log)
	}
}

func TestObserve(t *testing.T) {
	t.Parallel()
	var seen []ingress.Request
	s := &store{}
	h, err := ingress.New(ingress.Options{Accept: s, Observe: func(r ingress.Request) { seen = append(seen, r) }, Webhooks: []config.Webhook{{Name: "shop"}}})
	if err != nil {
		t.Fatal(err)
	}
	post := func(method, path, body string, header ...string) {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	post("POST", "/events", "[]", "Content-Type", batched)
	post("POST", "/webhooks/shop", "x", "ce-specversion", "1.0", "ce-id", "100%", "ce-source", "/s", "ce-type", "t")
	post("POST", "/webhooks/8x8/", "{")
	post("POST", "/webhooks/8x8", "{}")
	post("BREW", "/other", "")
	post("OPTIONS", "/events", "")
	want := []ingress.Request{
		{Endpoint: "/events", Method: "POST", Status: 202, Mode: cloudevent.Batched, Bytes: 2},
		{Endpoint: "/webhooks/shop", Method: "POST", Status: 202, Mode: cloudevent.Binary, Bytes: 1, Events: 1, BarePercents: 1},
		{Endpoint: "/webhooks/8x8", Method: "POST", Status: 401, Code: "unauthorized"},
		{Endpoint: "/webhooks/8x8", Method: "POST", Status: 200, Bytes: 2, Events: 1},
		{Method: "other", Status: 404, Code: "not_found"},
		{Endpoint: "/events", Method: "OPTIONS", Status: 200},
	}
	if diff := cmp.Diff(want, seen, cmpopts.IgnoreFields(ingress.Request{}, "Took")); diff != "" {
		t.Error(diff)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	s := &store{}
	for _, test := range []struct {
		o    ingress.Options
		want string
	}{
		{ingress.Options{}, "ingress: no Accept to store events with"},
		{ingress.Options{Accept: s, Rate: -1}, "ingress: Rate and MaxEvent cannot be negative"},
		{ingress.Options{Accept: s, Webhooks: []config.Webhook{{Name: "a", Event: &config.WebhookEvent{}}}}, `webhook "a": no Wrap to make events with`},
		{ingress.Options{Accept: s, Webhooks: []config.Webhook{{Name: "a"}, {Name: "a"}}}, `webhook "a" is declared twice; choose another name`},
		{ingress.Options{Accept: s, Tokens: []config.Secret{""}}, "a bearer token of /events is empty; set it, or leave it out"},
		{ingress.Options{Accept: s, Webhooks: []config.Webhook{{Name: "a", Bearer: []config.Secret{""}}}}, `webhook "a": a bearer token is empty; set it, or leave it out`},
	} {
		if _, err := ingress.New(test.o); fmt.Sprint(err) != test.want {
			t.Errorf("%v, want %s", err, test.want)
		}
	}
}

func TestServerHasLimits(t *testing.T) {
	t.Parallel()
	s := ingress.NewServer("127.0.0.1:0", http.NotFoundHandler(), nil)
	if s.ReadHeaderTimeout == 0 || s.ReadTimeout == 0 || s.WriteTimeout <= s.ReadTimeout || s.IdleTimeout == 0 || s.MaxHeaderBytes == 0 {
		t.Errorf("%+v", s)
	}
}
