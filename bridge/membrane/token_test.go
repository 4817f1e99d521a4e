package membrane

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
)

// clock is a clock that is moved by hand, from 2026-01-02 03:04:05 on.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time {
	return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(time.Duration(c.ahead.Load()))
}

func minting(c *clock) func(*Options) {
	return func(o *Options) {
		o.Token, o.WorkspaceKey, o.WorkspaceSecret, o.TenantKey, o.Now = "", "ws", "c2VjcmV0", "acme", c.now
	}
}

// bearers records the tokens that arrive.
type bearers struct {
	mu  sync.Mutex
	all []string
}

func (b *bearers) add(r *http.Request) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = append(b.all, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	return len(b.all)
}

func TestMintedTokens(t *testing.T) {
	t.Parallel()
	var c clock
	var got bearers
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got.add(r)
		body(200, `{"output":{}}`)(w, r)
	}).start(t)
	client := connect(t, s.URL, minting(&c))
	for _, step := range []struct {
		ahead  time.Duration
		tenant string
	}{
		{0, ""}, {58 * time.Minute, "acme"}, {59 * time.Minute, ""}, {59 * time.Minute, "other"}, {-time.Hour, "acme"},
	} {
		c.ahead.Store(int64(step.ahead))
		r := request()
		r.Tenant, r.SendBy = step.tenant, c.now().Add(time.Minute)
		if _, err := client.Run(background, r); err != nil {
			t.Fatal(err)
		}
	}
	var claims []map[string]any
	for _, token := range got.all {
		// The secret is taken as it is, not as base64.
		parsed, err := jwt.Parse(token, func(*jwt.Token) (any, error) { return []byte("c2VjcmV0"), nil },
			jwt.WithValidMethods([]string{"HS256"}), jwt.WithTimeFunc(func() time.Time { return (&clock{}).now().Add(-time.Hour) }))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]any{"alg": "HS256", "typ": "JWT"}, parsed.Header); diff != "" {
			t.Error(diff)
		}
		claims = append(claims, parsed.Claims.(jwt.MapClaims))
	}
	start := float64((&clock{}).now().Unix())
	want := []map[string]any{
		{"iss": "ws", "id": "acme", "exp": start + 3600},
		{"iss": "ws", "id": "acme", "exp": start + 3600},         // kept
		{"iss": "ws", "id": "acme", "exp": start + 59*60 + 3600}, // its last minute had begun
		{"iss": "ws", "id": "other", "exp": start + 59*60 + 3600},
		{"iss": "ws", "id": "acme", "exp": start}, // the clock went back
	}
	if diff := cmp.Diff(want, claims); diff != "" {
		t.Error(diff)
	}
}

func TestRefusedToken(t *testing.T) {
	t.Parallel()
	const refusal = `{"type":"bad_request","key":"not_authenticated","message":"m"}`
	for _, test := range []struct {
		name     string
		refusals int
		age      time.Duration // of the token that is refused
		fixed    bool
		answer   string
		requests int64
		want     string
	}{
		{"minted anew, once", 1, time.Minute, false, refusal, 2, ""},
		{"and not twice", 9, time.Minute, false, refusal, 2, "blocked (unauthorized): membrane answered 401 (bad_request not_authenticated)"},
		{"a fresh one is not worth it", 9, 0, false, refusal, 1, "blocked (unauthorized): membrane answered 401 (bad_request not_authenticated)"},
		{"there is no other", 9, time.Minute, true, refusal, 1, "blocked (unauthorized): membrane answered 401 (bad_request not_authenticated)"},
		{"it was 8x8 that refused", 9, time.Minute, false,
			`{"type":"action_run","message":"m","causedByError":{"type":"connection","message":"m","data":{"response":{"status":401}}}}`, 1,
			"blocked (unauthorized): membrane answered 401 (action_run, connection, vendor status 401)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var c clock
			var got bearers
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if got.add(r) <= test.refusals {
					body(401, test.answer)(w, r)
					return
				}
				body(200, `{"output":{}}`)(w, r)
			}).start(t)
			client := connect(t, s.URL, func(o *Options) {
				if o.Now = c.now; !test.fixed {
					minting(&c)(o)
				}
			})
			if _, err := client.tokens.header(""); err != nil { // minted now
				t.Fatal(err)
			}
			c.ahead.Store(int64(test.age))
			r := request()
			r.SendBy = c.now().Add(time.Minute)
			_, err := client.Run(background, r)
			if text := errorText(err); text != test.want {
				t.Errorf("got %q, want %q", text, test.want)
			}
			if n := s.requests.Load(); n != test.requests {
				t.Errorf("%d requests arrived, want %d", n, test.requests)
			}
			if len(got.all) == 2 && got.all[0] == got.all[1] {
				t.Error("the token that was refused came again")
			}
		})
	}
}

func TestLookupMintsAnew(t *testing.T) {
	t.Parallel()
	var c clock
	var got bearers
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if got.add(r) == 1 {
			body(401, `{"type":"bad_request","key":"not_authenticated","message":"m"}`)(w, r)
			return
		}
		body(200, `{"id":"t1","name":"Acme","internalId":"acme","workspaceKey":"ws"}`)(w, r)
	}).start(t)
	client := connect(t, s.URL, minting(&c))
	if _, err := client.tokens.header(""); err != nil {
		t.Fatal(err)
	}
	c.ahead.Store(int64(time.Minute))
	who, err := client.Self(background)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Tenant{ID: "t1", Key: "acme", Name: "Acme", WorkspaceKey: "ws"}, who); diff != "" {
		t.Error(diff)
	}
}

func TestTokensAreBounded(t *testing.T) {
	t.Parallel()
	var c clock
	o := Options{}
	minting(&c)(&o)
	tokens := newTokens(o)
	for i := range 3 * maxTenants {
		if _, err := tokens.header(string(rune('a'+i%26)) + time.Duration(i).String()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(tokens.minted); n > maxTenants {
		t.Errorf("%d tokens are kept, want at most %d", n, maxTenants)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		o    Options
		want string
	}{
		{"no URL", Options{Token: "pat-x"}, `MEMBRANE_API_URL is ""; write it like https://api.getmembrane.com`},
		{"no scheme", Options{Token: "pat-x", BaseURL: "api.getmembrane.com"}, `MEMBRANE_API_URL is "api.getmembrane.com"; write it like https://api.getmembrane.com`},
		{"not a URL", Options{Token: "pat-x", BaseURL: "https://canary:%zz@example.com"}, `MEMBRANE_API_URL is not a URL; write it like https://api.getmembrane.com`},
		{"credentials in it", Options{Token: "pat-x", BaseURL: "https://u:canary@example.com"},
			`MEMBRANE_API_URL may hold a scheme, a host and a path, nothing else; credentials go into MEMBRANE_TOKEN`},
		{"a query", Options{Token: "pat-x", BaseURL: "https://example.com?a=b"},
			`MEMBRANE_API_URL may hold a scheme, a host and a path, nothing else; credentials go into MEMBRANE_TOKEN`},
		{"nobody", Options{BaseURL: "https://example.com"},
			`no way to sign in to Membrane; set MEMBRANE_TOKEN, or MEMBRANE_WORKSPACE_KEY, MEMBRANE_WORKSPACE_SECRET and MEMBRANE_TENANT_KEY`},
		{"half a workspace", Options{BaseURL: "https://example.com", WorkspaceKey: "ws"},
			`no way to sign in to Membrane; set MEMBRANE_TOKEN, or MEMBRANE_WORKSPACE_KEY, MEMBRANE_WORKSPACE_SECRET and MEMBRANE_TENANT_KEY`},
		{"two ways", Options{BaseURL: "https://example.com", Token: "pat-x", WorkspaceSecret: "s"},
			`MEMBRANE_TOKEN and MEMBRANE_WORKSPACE_SECRET are both set; keep one`},
		{"a line break", Options{BaseURL: "https://example.com", Token: "pat-x\n"},
			`MEMBRANE_TOKEN holds a space, a line break or a character that no token has`},
		{"negative", Options{BaseURL: "https://example.com", Token: "pat-x", Concurrency: -1},
			`the run limit and the concurrency cannot be negative`},
	} {
		if _, err := New(test.o); errorText(err) != test.want {
			t.Errorf("%s: got %v, want %s", test.name, err, test.want)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
