package membrane

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/bridge8x8/bridge8x8/bridge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = time.Minute

// service is a Membrane that answers as told and counts.
type service struct {
	*httptest.Server
	requests atomic.Int64
	conns    atomic.Int64
}

func serve(t *testing.T, answer http.HandlerFunc) *service {
	t.Helper()
	s := &service{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		answer(w, r)
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.conns.Add(1)
		}
	}
	return s
}

func (s *service) start(t *testing.T) *service {
	t.Helper()
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func connect(t *testing.T, base string, change ...func(*Options)) *Client {
	t.Helper()
	o := Options{BaseURL: base, Token: "pat-test-secret", Concurrency: 4, connect: time.Minute}
	for _, f := range change {
		f(&o)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func request() bridge.Request {
	return bridge.Request{
		Place:     bridge.Place{ConnectionKey: "8x8-main"},
		ActionKey: "send-sms",
		OneCall:   true,
		Input:     map[string]any{"destination": "+12025550101", "text": "Hi <Bo>"},
		Meta:      bridge.Meta{Bridge: "b1", Source: "/shop", EventID: "evt-17", Route: "order-shipped", Key: "k", Try: "t1", Attempt: 1},
		SendBy:    time.Now().Add(time.Minute), // a busy machine is not what is tested
	}
}

// body answers with a status, a content type and a body.
func body(status int, text string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
}

// raw answers with bytes of its own and closes the connection.
func raw(t *testing.T, text string) http.HandlerFunc {
	t.Helper()
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, text)
		_ = conn.Close()
	}
}

func failureOf(t *testing.T, err error) *bridge.Failure {
	t.Helper()
	f, ok := err.(*bridge.Failure)
	if !ok {
		t.Fatalf("got %v, want a *bridge.Failure", err)
	}
	return f
}

func await(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
	}
}

func decodeJSON(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

var background = context.Background()
