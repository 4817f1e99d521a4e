package membrane

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/config"
)

// login is a source whose tokens, and failures, a test chooses.
type login struct {
	mu     sync.Mutex
	asked  int
	token  config.Secret
	until  time.Time
	failed error
	hold   chan struct{} // if set, an answer waits for it
}

func (l *login) Token(context.Context, config.Secret) (config.Secret, time.Time, error) {
	l.mu.Lock()
	l.asked++
	token, until, err, hold := l.token, l.until, l.failed, l.hold
	l.mu.Unlock()
	if hold != nil {
		<-hold
	}
	return token, until, err
}

// While a token is renewed, and where it cannot be, the old one is used until
// its end; runs go on.
func TestSignInNearItsEnd(t *testing.T) {
	t.Parallel()
	var c clock
	var got bearers
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got.add(r)
		body(200, `{"output":{}}`)(w, r)
	}).start(t)
	source := &login{token: "one", until: c.now().Add(time.Hour)}
	client := connect(t, s.URL, func(o *Options) { o.Token, o.SignIn, o.Now = "", source, c.now })
	run := func() error {
		r := request()
		r.SendBy = c.now().Add(time.Minute)
		_, err := client.Run(background, r)
		return err
	}
	if err := run(); err != nil {
		t.Fatal(err)
	}
	away := &bridge.Failure{Kind: bridge.Outage, Message: "the sign-in cannot be renewed: away"}
	source.mu.Lock()
	source.failed = away
	source.mu.Unlock()
	c.ahead.Store(int64(59*time.Minute + 30*time.Second))
	if err := run(); err != nil {
		t.Errorf("a token that is still good was not used: %v", err)
	}
	c.ahead.Store(int64(time.Hour + time.Second))
	if err := run(); !errors.Is(err, away) {
		t.Errorf("got %v, want the source's own failure", err)
	}
	source.mu.Lock()
	source.failed, source.token, source.until = nil, "two", c.now().Add(time.Hour)
	source.mu.Unlock()
	if err := run(); err != nil {
		t.Error(err)
	}

	// One asks, and the others do not wait for it.
	c.ahead.Store(int64(2*time.Hour - 20*time.Second))
	hold := make(chan struct{})
	source.mu.Lock()
	before := source.asked
	source.hold, source.token, source.until = hold, "three", c.now().Add(time.Hour)
	source.mu.Unlock()
	slow := make(chan error, 1)
	go func() { slow <- run() }()
	for { // until it has asked
		source.mu.Lock()
		asked := source.asked
		source.mu.Unlock()
		if asked > before {
			break
		}
		select {
		case <-t.Context().Done():
			t.Fatal("nobody asked")
		case <-time.After(time.Millisecond):
		}
	}
	if err := run(); err != nil {
		t.Error(err)
	}
	close(hold)
	if err := <-slow; err != nil {
		t.Error(err)
	}
	want := []string{"one", "one", "two", "two", "three"}
	got.mu.Lock()
	defer got.mu.Unlock()
	if len(got.all) != len(want) {
		t.Fatalf("got %q, want %q", got.all, want)
	}
	for i := range want {
		if got.all[i] != want[i] {
			t.Errorf("got %q, want %q", got.all, want)
			break
		}
	}
	r := request()
	r.Tenant, r.SendBy = "other", c.now().Add(time.Minute)
	if _, err := client.Run(background, r); bridge.AsFailure(err).Reason != bridge.ReasonUnauthorized {
		t.Errorf("another tenant: %v", err)
	}
}
