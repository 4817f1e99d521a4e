package membrane

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/bridge8x8/bridge8x8/config"
)

const (
	// A minted token lives an hour and is replaced in its last minute, as the
	// vendor's SDK does.
	tokenLife  = time.Hour
	tokenSpare = time.Minute

	// maxTenants bounds the tokens kept at a time.
	maxTenants = 4096
)

// tokens gives each request its headers. They are built once per token and
// shared by all requests that carry it: nobody may change them.
type tokens struct {
	fixed     atomic.Pointer[http.Header] // with a ready-made token, which belongs to one tenant
	tenant    string                      // ours
	workspace string
	refresh   func() // may change the secrets; optional
	now       func() time.Time
	userAgent string

	source   TokenSource // of somebody who signed in; nil if the two above are used
	fetching sync.Mutex  // held while the source is asked
	signedIn atomic.Pointer[minted]

	mu     sync.Mutex
	secret config.Secret
	minted map[string]minted
}

type minted struct {
	header http.Header
	until  time.Time
}

// TokenSource gives the token of somebody who signed in. It may be used by many
// goroutines.
type TokenSource interface {
	// Token gives a token and when it ends (zero: not known). refused is one that
	// Membrane has just refused, which must not be given again; or empty. Errors are
	// *bridge.Failure.
	Token(ctx context.Context, refused config.Secret) (token config.Secret, until time.Time, err error)
}

// sourceTimeout bounds the wait for a new token.
const sourceTimeout = 30 * time.Second

var errNotYours = errors.New("the sign-in is for one tenant; a connection of another tenant needs MEMBRANE_WORKSPACE_KEY and MEMBRANE_WORKSPACE_SECRET")

var errOtherTenant = errors.New("MEMBRANE_TOKEN belongs to one tenant; a connection of another tenant needs MEMBRANE_WORKSPACE_KEY and MEMBRANE_WORKSPACE_SECRET")

func newTokens(o Options) *tokens {
	t := &tokens{
		tenant:    o.TenantKey,
		workspace: o.WorkspaceKey,
		secret:    o.WorkspaceSecret,
		now:       o.Now,
		userAgent: o.UserAgent,
		refresh:   o.Refresh,
		source:    o.SignIn,
		minted:    map[string]minted{},
	}
	if o.Token != "" {
		t.fixed.Store(new(t.headers(o.Token.Reveal())))
	}
	return t
}

func (t *tokens) headers(token string) http.Header {
	return http.Header{
		"Authorization":        {"Bearer " + token},
		"Content-Type":         {"application/json"},
		"Accept":               {"application/json"},
		"Membrane-Api-Version": {apiVersion},
		"User-Agent":           {t.userAgent},
	}
}

// header gives the headers for a tenant; the empty name is our own tenant.
func (t *tokens) header(tenant string) (http.Header, error) {
	if tenant == "" {
		tenant = t.tenant
	}
	if fixed := t.fixed.Load(); fixed != nil {
		if tenant != t.tenant {
			return nil, errOtherTenant
		}
		return *fixed, nil
	}
	if t.source != nil {
		if tenant != t.tenant {
			return nil, errNotYours
		}
		return t.fetch("")
	}
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	// A token from the future means that the clock was set back: its owner would
	// be refused by a service whose clock is right.
	if m, ok := t.minted[tenant]; ok && m.until.Sub(now) > tokenSpare && m.until.Sub(now) <= tokenLife {
		return m.header, nil
	}
	if len(t.minted) >= maxTenants {
		clear(t.minted) // minting takes microseconds; remembering who came last is not worth it
	}
	until := now.Add(tokenLife)
	// The SDK's dialect: exactly these claims, HS256, the secret's own bytes.
	claims := jwt.MapClaims{"iss": t.workspace, "exp": until.Unix()}
	if tenant != "" {
		claims["id"] = tenant
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(t.secret.Reveal()))
	if err != nil {
		return nil, errors.New("cannot sign a token for Membrane with MEMBRANE_WORKSPACE_SECRET")
	}
	m := minted{header: t.headers(token), until: until}
	t.minted[tenant] = m
	return m.header, nil
}

// fetch gives the headers of the sign-in, and asks the source where they are
// about to end. While one asks, the others go on with what is still good.
func (t *tokens) fetch(refused config.Secret) (http.Header, error) {
	good := func(spare time.Duration) http.Header {
		held := t.signedIn.Load()
		if held == nil || refused != "" && held.header.Get("Authorization") == "Bearer "+refused.Reveal() {
			return nil
		}
		if !held.until.IsZero() && held.until.Sub(t.now()) <= spare {
			return nil
		}
		return held.header
	}
	if h := good(tokenSpare); h != nil {
		return h, nil
	}
	if !t.fetching.TryLock() {
		if h := good(0); h != nil {
			return h, nil
		}
		t.fetching.Lock()
	}
	defer t.fetching.Unlock()
	if h := good(tokenSpare); h != nil {
		return h, nil // somebody else was faster
	}
	ctx, cancel := context.WithTimeout(context.Background(), sourceTimeout)
	defer cancel()
	token, until, err := t.source.Token(ctx, refused)
	if err != nil {
		if h := good(0); h != nil {
			return h, nil
		}
		return nil, err
	}
	fresh := &minted{header: t.headers(token.Reveal()), until: until}
	t.signedIn.Store(fresh)
	return fresh.header, nil
}

// set takes other secrets from now on, each in place of the one that was there.
func (t *tokens) set(token, secret config.Secret) {
	if t.fixed.Load() != nil {
		t.fixed.Store(new(t.headers(token.Reveal())))
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.secret != secret {
		t.secret = secret
		clear(t.minted)
	}
}

// renew looks for a newer secret, or mints the tenant's token anew, after the one in
// refused was refused. It says whether the new one is another, so that there is any use in asking again.
func (t *tokens) renew(tenant string, refused http.Header) bool {
	if t.refresh != nil {
		t.refresh()
	}
	if t.fixed.Load() != nil {
		fresh, err := t.header(tenant)
		return err == nil && fresh.Get("Authorization") != refused.Get("Authorization")
	}
	if t.source != nil {
		fresh, err := t.fetch(config.Secret(strings.TrimPrefix(refused.Get("Authorization"), "Bearer ")))
		return err == nil && fresh.Get("Authorization") != refused.Get("Authorization")
	}
	if tenant == "" {
		tenant = t.tenant
	}
	t.mu.Lock()
	if m, ok := t.minted[tenant]; ok && m.header.Get("Authorization") == refused.Get("Authorization") {
		delete(t.minted, tenant)
	}
	t.mu.Unlock()
	fresh, err := t.header(tenant)
	return err == nil && fresh.Get("Authorization") != refused.Get("Authorization")
}
