package sandbox_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a clock that stands still until it is told to go on.
type clock struct {
	mu      sync.Mutex
	changed *sync.Cond
	now     time.Time
	timers  []timer
}

type timer struct {
	due time.Time
	f   func()
}

func newClock() *clock {
	c := &clock{now: time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)}
	c.changed = sync.NewCond(&c.mu)
	return c
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) AfterFunc(d time.Duration, f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d <= 0 {
		go f()
		return
	}
	c.timers = append(c.timers, timer{c.now.Add(d), f})
	c.changed.Broadcast()
}

// awaitTimer waits until something waits for the clock, and says for how long.
func (b *bundle) awaitTimer() time.Duration {
	b.t.Helper()
	c := b.clock
	deadline := time.Now().Add(10 * time.Second)
	late := time.AfterFunc(10*time.Second, c.changed.Broadcast)
	defer late.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.timers) == 0 {
		if !time.Now().Before(deadline) {
			b.t.Fatal("nothing waits for the clock")
		}
		c.changed.Wait()
	}
	first := c.timers[0].due
	for _, t := range c.timers {
		if t.due.Before(first) {
			first = t.due
		}
	}
	return first.Sub(c.now)
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	c.timers = slices.DeleteFunc(c.timers, func(t timer) bool {
		if t.due.After(c.now) {
			return false
		}
		go t.f()
		return true
	})
}

// bundle is a sandbox, and a webhook that it posts to.
type bundle struct {
	*sandbox.Server
	t     *testing.T
	url   string
	clock *clock
	posts chan post
	// answer is the webhook's; 200 where it is nil.
	mu     sync.Mutex
	answer func(post) int
}

type post struct {
	path          string
	authorization string
	body          string
	at            time.Time
}

// receipt is the payload of a webhook, as far as the tests look at it.
type receipt struct {
	EventType string `json:"eventType"`
	Payload   struct {
		Umid, BatchID, ClientMessageID, ClientBatchID, SubAccountID, Source, Destination, Body string
		Status                                                                                 struct {
			State, Detail, Timestamp string
			ErrorCode                int
		}
		Price *struct{ Total, PerSMS json.Number }
	}
}

func (p post) receipt(t *testing.T) receipt {
	t.Helper()
	var r receipt
	if err := json.Unmarshal([]byte(p.body), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func setup(t *testing.T, change ...func(*sandbox.Options)) *bundle {
	t.Helper()
	b := &bundle{t: t, clock: newClock(), posts: make(chan post, 1000)}
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		p := post{r.URL.Path, r.Header.Get("Authorization"), string(body), b.clock.Now()}
		b.mu.Lock()
		answer := b.answer
		b.mu.Unlock()
		status := http.StatusOK
		if answer != nil {
			status = answer(p)
		}
		b.posts <- p
		w.WriteHeader(status)
	}))
	t.Cleanup(hook.Close)
	options := sandbox.Options{
		WebhookURL: hook.URL + "/webhooks/8x8", WebhookAuthorization: "Bearer hook", ReceiptDelay: time.Second,
		Now: b.clock.Now, AfterFunc: b.clock.AfterFunc,
	}
	for _, f := range change {
		f(&options)
	}
	b.Server = sandbox.New(options)
	t.Cleanup(b.Close)
	web := httptest.NewServer(b.Server)
	t.Cleanup(web.Close)
	b.url = web.URL
	return b
}

// response is an answer, read to its end.
type response struct {
	status int
	header http.Header
	body   string
}

func (r response) json(t *testing.T, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.body), into); err != nil {
		t.Fatalf("%v in %s", err, r.body)
	}
}

// request sends JSON as the personal access token's owner. The error is that of
// a connection that broke.
func (b *bundle) request(method, path string, body any, change ...func(*http.Request)) (response, error) {
	b.t.Helper()
	var reader io.Reader
	switch content := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(content)
	default:
		encoded, err := json.Marshal(content)
		if err != nil {
			b.t.Fatal(err)
		}
		reader = bytes.NewReader(encoded)
	}
	r, err := http.NewRequestWithContext(context.Background(), method, b.url+path, reader)
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+sandbox.Token)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, f := range change {
		f(r)
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return response{}, err
	}
	defer answer.Body.Close()
	if got := answer.Header.Get("X-Sandbox"); got != "bridge8x8" {
		b.t.Errorf("%s %s: X-Sandbox is %q", method, path, got)
	}
	content, err := io.ReadAll(answer.Body)
	return response{answer.StatusCode, answer.Header, string(content)}, err
}

func (b *bundle) do(method, path string, body any, change ...func(*http.Request)) response {
	b.t.Helper()
	answer, err := b.request(method, path, body, change...)
	if err != nil {
		b.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer
}

func (b *bundle) control(method, path string, body any, want int) response {
	b.t.Helper()
	answer := b.do(method, path, body, func(r *http.Request) { r.Header.Del("Authorization") })
	if answer.status != want {
		b.t.Fatalf("%s %s: status %d, want %d: %s", method, path, answer.status, want, answer.body)
	}
	return answer
}

type object = map[string]any

// envelope is Membrane's, as far as the tests look at it.
type envelope struct {
	Type, Key, Message, ActionRunID string
	CausedByError                   struct {
		Type, Key string
		Data      struct {
			Response struct {
				Status  int
				Headers map[string]string
				Data    struct{ Code int }
			}
		}
	}
}

// act runs an action that must answer with the status, and decodes its output
// or the error.
func (b *bundle) act(key string, input object, want int, into any) (runID string) {
	b.t.Helper()
	answer := b.do("POST", "/act", object{"key": key, "connectionKey": sandbox.ConnectionKey, "input": input})
	if answer.status != want {
		b.t.Fatalf("%s: status %d, want %d: %s", key, answer.status, want, answer.body)
	}
	if want != http.StatusOK {
		answer.json(b.t, into)
		var e envelope
		answer.json(b.t, &e)
		return e.ActionRunID
	}
	run := struct {
		Output      any
		ActionRunID string
	}{Output: into}
	answer.json(b.t, &run)
	return run.ActionRunID
}

type sentSMS struct {
	Umid            string
	ClientMessageID *string
	Destination     string
	Encoding        string
	Status          struct{ Code, Description string }
}

func (b *bundle) send(destination string) (sent sentSMS) {
	b.t.Helper()
	b.act("send-sms", object{"destination": destination, "text": "Hi"}, http.StatusOK, &sent)
	return sent
}

// next is the next post to the webhook.
func (b *bundle) next() post {
	b.t.Helper()
	select {
	case p := <-b.posts:
		return p
	case <-time.After(10 * time.Second):
		b.t.Fatal("no webhook was posted")
		return post{}
	}
}

// settle lets the clock go on until every receipt is posted or given up.
func (b *bundle) settle() {
	b.t.Helper()
	deadline := time.After(10 * time.Second)
	for !b.Idle() {
		select {
		case <-deadline:
			b.t.Fatal("the receipts never end")
		case <-time.After(time.Millisecond):
			b.clock.advance(time.Second)
		}
	}
}

type runLogs struct {
	Items []struct {
		ID, Status string
		Meta       json.RawMessage
		Input      json.RawMessage
		Output     json.RawMessage
		Error      *envelope
		CreatedAt  string
	}
	Cursor string
}

func (b *bundle) logs(query string) (l runLogs) {
	b.t.Helper()
	answer := b.do("GET", "/action-run-logs"+query, nil)
	if answer.status != http.StatusOK {
		b.t.Fatalf("run logs: %d %s", answer.status, answer.body)
	}
	answer.json(b.t, &l)
	return l
}
