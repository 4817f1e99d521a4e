package signin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/membrane"
	"github.com/bridge8x8/bridge8x8/bridge/membrane/signin"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
	"github.com/bridge8x8/bridge8x8/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ membrane.TokenSource = (*signin.Source)(nil)

// service is a sandbox, a store, and a count of the refreshes.
type service struct {
	*httptest.Server
	box       *sandbox.Server
	store     signin.Store
	dir       string
	transport *http.Transport
	refreshes atomic.Int32
	ahead     atomic.Int64 // of our clock
}

func start(t *testing.T) *service {
	t.Helper()
	s := &service{box: sandbox.New(sandbox.Options{}), dir: filepath.Join(t.TempDir(), "bridge8x8"), transport: &http.Transport{}}
	s.store = signin.NewStore(s.dir)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/oauth/token" {
			body, _ := io.ReadAll(r.Body)
			if strings.Contains(string(body), "grant_type=refresh_token") {
				s.refreshes.Add(1)
			}
			r.Body = io.NopCloser(strings.NewReader(string(body)))
		}
		s.box.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		s.transport.CloseIdleConnections()
		s.Close()
		s.box.Close()
	})
	return s
}

func (s *service) server() signin.Server {
	return signin.Server{APIURL: s.URL, Transport: s.transport, Now: func() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) }}
}

func (s *service) source() *signin.Source { return &signin.Source{Store: s.store, Server: s.server()} }

// agree is the person at the page.
func (s *service) agree(t *testing.T, page, decision string) (back string) {
	t.Helper()
	u, err := url.Parse(page)
	if err != nil {
		t.Fatal(err)
	}
	form := u.Query()
	form.Set("decision", decision)
	client := &http.Client{Transport: s.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.PostForm(s.URL+"/oauth/authorize", form)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	return answer.Header.Get("Location")
}

func (s *service) signIn(t *testing.T) signin.Credentials {
	t.Helper()
	server := s.server()
	p, err := server.Begin(t.Context(), signin.Ask{Redirect: "http://127.0.0.1:9/callback"})
	if err != nil {
		t.Fatal(err)
	}
	code, err := p.Code(s.agree(t, p.URL, "approve"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := server.Complete(t.Context(), p, code)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.store.Save(c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestStoredForTheUserAlone(t *testing.T) {
	t.Parallel()
	s := start(t)
	saved := s.signIn(t)
	info, err := os.Stat(s.store.Path())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if info, err := os.Stat(s.dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v %v", info.Mode(), err)
	}
	loaded, err := s.store.Load()
	if err != nil || loaded.AccessToken != saved.AccessToken || loaded.RefreshToken != saved.RefreshToken || loaded.Email == "" {
		t.Errorf("%+v %v", loaded, err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.dir, ".new-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	// However it is printed, it gives nothing away.
	for _, text := range []string{fmt.Sprintf("%v %+v %#v", loaded, loaded, loaded), string(marshal(t, loaded))} {
		if strings.Contains(text, saved.AccessToken.Reveal()) || strings.Contains(text, saved.RefreshToken.Reveal()) {
			t.Errorf("it holds a token: %s", text)
		}
	}
	if err := os.Chmod(s.store.Path(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.store.Load(); err == nil || !strings.Contains(err.Error(), "can be read by others (mode 0644): run chmod 600") {
		t.Errorf("open to all: %v", err)
	}
	if err := os.WriteFile(s.store.Path(), []byte(`{"accessToken":"secret-`), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = os.Chmod(s.store.Path(), 0o600)
	if _, err := s.store.Load(); err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "is damaged: run bridge8x8 login") {
		t.Errorf("damaged: %v", err)
	}
	if err := s.store.Delete(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.store.Load(); !errors.Is(err, signin.ErrNone) {
		t.Errorf("deleted: %v", err)
	}
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A refresh token is good once: of many that want a new token at the same time,
// with a source each as processes have, one asks for it.
func TestRenewedOnceForAll(t *testing.T) {
	t.Parallel()
	s := start(t)
	first := s.signIn(t)
	if token, _, err := s.source().Token(t.Context(), ""); err != nil || token != first.AccessToken || s.refreshes.Load() != 0 {
		t.Fatalf("a good token is used as it is: %v, %d refreshes", err, s.refreshes.Load())
	}
	s.ahead.Store(int64(59*time.Minute + 30*time.Second))
	var all sync.WaitGroup
	got := make([]config.Secret, 16)
	for i := range got {
		all.Go(func() {
			token, until, err := s.source().Token(t.Context(), "")
			if err != nil || time.Until(until) < time.Hour {
				t.Errorf("%v %v", until, err)
			}
			got[i] = token
		})
	}
	all.Wait()
	if n := s.refreshes.Load(); n != 1 {
		t.Errorf("%d refreshes, want 1", n)
	}
	for _, token := range got {
		if token != got[0] || token == first.AccessToken {
			t.Error("not all have the one new token")
		}
	}
}

// The client takes a token that was refused to be renewed, and runs once.
func TestClientRenewsWhatIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.signIn(t)
	client, err := membrane.New(membrane.Options{BaseURL: s.URL, SignIn: s.source()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := s.box.Fault(sandbox.Fault{Kind: sandbox.Unauthorized}); err != nil {
		t.Fatal(err)
	}
	_, err = client.Run(t.Context(), bridge.Request{
		Place: bridge.Place{ConnectionKey: sandbox.ConnectionKey}, ActionKey: "send-sms", OneCall: true,
		Input: map[string]any{"destination": "+12025550100", "text": "Hi"}, SendBy: time.Now().Add(time.Minute),
	})
	if err != nil || len(s.box.Effects()) != 1 || s.refreshes.Load() != 1 {
		t.Errorf("%v, %d effects, %d refreshes", err, len(s.box.Effects()), s.refreshes.Load())
	}
	if now, err := s.store.Load(); err != nil || now.AccessToken == c.AccessToken || now.RefreshToken == c.RefreshToken {
		t.Errorf("the new tokens are not kept: %v", err)
	}
}

func TestTokenFailures(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		spoil func(t *testing.T, s *service)
		kind  bridge.Kind
		want  string
	}{
		{"signed out meanwhile", func(_ *testing.T, s *service) { _ = s.store.Delete() }, bridge.Blocked, "nobody is signed in any more; run bridge8x8 login"},
		{"revoked", func(t *testing.T, s *service) {
			t.Helper()
			c, err := s.store.Load()
			server := s.server()
			if err = errors.Join(err, server.Revoke(t.Context(), c)); err != nil {
				t.Fatal(err)
			}
		}, bridge.Blocked, "the sign-in has ended; run bridge8x8 login"},
		{"nothing to renew it with", func(t *testing.T, s *service) {
			t.Helper()
			c, err := s.store.Load()
			c.RefreshToken = ""
			if err = errors.Join(err, s.store.Save(c)); err != nil {
				t.Fatal(err)
			}
		}, bridge.Blocked, "the sign-in has ended; run bridge8x8 login"},
		{"signed in elsewhere", func(t *testing.T, s *service) {
			t.Helper()
			c, err := s.store.Load()
			c.APIURL = "https://other.example"
			if err = errors.Join(err, s.store.Save(c)); err != nil {
				t.Fatal(err)
			}
		}, bridge.Blocked, "the sign-in is now for https://other.example, not for "},
		{"the service is away", func(_ *testing.T, s *service) { s.Close() }, bridge.Outage, "the sign-in cannot be renewed: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			c := s.signIn(t)
			test.spoil(t, s)
			s.ahead.Store(int64(2 * time.Hour))
			_, _, err := s.source().Token(t.Context(), "")
			f, ok := errors.AsType[*bridge.Failure](err)
			if !ok || f.Kind != test.kind || !strings.HasPrefix(f.Message, test.want) {
				t.Fatalf("got %v", err)
			}
			if strings.Contains(err.Error(), c.AccessToken.Reveal()) || strings.Contains(err.Error(), c.RefreshToken.Reveal()) {
				t.Error("the error holds a token")
			}
		})
	}
}

func TestCode(t *testing.T) {
	t.Parallel()
	s := start(t)
	server := s.server()
	p, err := server.Begin(t.Context(), signin.Ask{Redirect: "http://127.0.0.1:9/callback"})
	if err != nil {
		t.Fatal(err)
	}
	back := s.agree(t, p.URL, "approve")
	for _, test := range []struct{ given, want string }{
		{back, ""},
		{" a-code\n", ""},
		{"", "that is no code: copy it, or the whole address of the page, from your browser"},
		{"a code", "that is no code: copy it, or the whole address of the page, from your browser"},
		{strings.Replace(back, "state=", "state=x", 1), "that address is of another sign-in: use the one that the last login printed"},
		{"http://127.0.0.1:9/callback?code=x", "that address is of another sign-in: use the one that the last login printed"},
		{strings.Replace(back, "iss=", "iss=x", 1), "another server than the one you signed in to sent the code"},
		{strings.Replace(back, "iss=", "was=", 1), "another server than the one you signed in to sent the code"},
		{strings.Replace(back, "code=", "was=", 1), "that address holds no code: copy it whole from your browser"},
		{s.agree(t, p.URL, "deny"), "you refused; run bridge8x8 login to try again"},
	} {
		_, err := p.Code(test.given)
		if got := fmt.Sprint(err); err == nil && test.want != "" || err != nil && got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
	// A code that was used, or is not one.
	code, err := p.Code(back)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Complete(t.Context(), p, code); err != nil {
		t.Fatal(err)
	}
	for _, code := range []config.Secret{code, "nonsense"} {
		_, err := server.Complete(t.Context(), p, code)
		if err == nil || err.Error() != "the code is not good, or no longer: run bridge8x8 login again, and use its code once" {
			t.Errorf("got %v", err)
		}
	}
	s.ahead.Store(int64(time.Hour))
	if _, err := server.Complete(t.Context(), p, "any"); err == nil || !strings.Contains(err.Error(), "begun too long ago") {
		t.Errorf("got %v", err)
	}
}

func TestPendingSurvivesItsProcess(t *testing.T) {
	t.Parallel()
	s := start(t)
	server := s.server()
	p, err := server.Begin(t.Context(), signin.Ask{Redirect: "http://127.0.0.1:9/callback", Tenant: true, ClientName: "laptop"})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(p.URL, "token_type=tenant") || strings.Contains(p.URL, p.Verifier.Reveal()) {
		t.Errorf("the address is %s", p.URL)
	}
	if err := s.store.SavePending(p); err != nil {
		t.Fatal(err)
	}
	later, err := s.store.LoadPending()
	if err != nil {
		t.Fatal(err)
	}
	code, err := later.Code(s.agree(t, p.URL, "approve"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := server.Complete(t.Context(), later, code)
	if err != nil || !c.Tenant || c.TenantKey != "sandbox" {
		t.Errorf("%+v %v", c, err)
	}
}

// A page on the way that is not ours must not end the wait.
func TestListenerIgnoresStrangers(t *testing.T) {
	t.Parallel()
	s := start(t)
	server := s.server()
	l, err := signin.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, err := server.Begin(t.Context(), signin.Ask{Redirect: l.Redirect()})
	if err != nil {
		t.Fatal(err)
	}
	type result struct {
		code config.Secret
		err  error
	}
	done := make(chan result, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() {
		code, err := l.Wait(ctx, &p)
		done <- result{code, err}
	}()
	client := &http.Client{Transport: s.transport}
	open := func(address string) int {
		answer, err := client.Get(address)
		if err != nil {
			t.Error(err)
			return 0
		}
		_ = answer.Body.Close()
		return answer.StatusCode
	}
	if status := open(l.Redirect() + "?code=stolen&state=guessed"); status != http.StatusBadRequest {
		t.Errorf("a stranger was answered %d", status)
	}
	if status := open(s.agree(t, p.URL, "approve")); status != http.StatusOK {
		t.Errorf("the browser was answered %d", status)
	}
	got := <-done
	if got.err != nil || got.code == "stolen" {
		t.Fatal(got.err)
	}
	if _, err := server.Complete(t.Context(), p, got.code); err != nil {
		t.Error(err)
	}
}

func TestServersThatAreNotTrusted(t *testing.T) {
	t.Parallel()
	good := func(base string) map[string]any {
		return map[string]any{
			"issuer": base, "authorization_endpoint": base + "/a", "token_endpoint": base + "/t", "registration_endpoint": base + "/r",
			"code_challenge_methods_supported": []string{"S256"},
		}
	}
	for _, test := range []struct {
		name, want string
		edit       func(m map[string]any)
	}{
		{"another issuer", `says that its sign-in is that of "https://evil.example": if that is right, set MEMBRANE_API_URL to it`, func(m map[string]any) { m["issuer"] = "https://evil.example" }},
		{"tokens in clear", "the token_endpoint of ", func(m map[string]any) { m["token_endpoint"] = "http://evil.example/t" }},
		{"no address", "the authorization_endpoint of ", func(m map[string]any) { m["authorization_endpoint"] = "file:///etc/passwd" }},
		{"no registration", "has no registration_endpoint; set MEMBRANE_TOKEN instead", func(m map[string]any) { delete(m, "registration_endpoint") }},
		{"no PKCE", "does not know PKCE with S256; set MEMBRANE_TOKEN instead", func(m map[string]any) { m["code_challenge_methods_supported"] = []string{"plain"} }},
		{"refuses clients", "the sign-in does not take us as a client (404)", func(map[string]any) {}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			transport := &http.Transport{}
			var web *httptest.Server
			web = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !strings.HasPrefix(r.URL.Path, "/.well-known/") {
					http.NotFound(w, r)
					return
				}
				m := good(web.URL)
				test.edit(m)
				_ = json.NewEncoder(w).Encode(m)
			}))
			defer web.Close()
			defer transport.CloseIdleConnections()
			server := signin.Server{APIURL: web.URL, Transport: transport}
			_, err := server.Begin(t.Context(), signin.Ask{Redirect: "http://127.0.0.1:9/callback"})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	server := signin.Server{APIURL: "http://membrane.example"}
	if _, err := server.Begin(t.Context(), signin.Ask{}); err == nil || !strings.Contains(err.Error(), "is not https") {
		t.Errorf("in clear: %v", err)
	}
}
