package membrane

import (
	"errors"
	"net/http"
	"sync"
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
	fixed     http.Header // with a ready-made token, which belongs to one tenant
	tenant    string      // ours
	workspace string
	secret    config.Secret
	now       func() time.Time
	userAgent string

	mu     sync.Mutex
	minted map[string]minted
}

type minted struct {
	header http.Header
	until  time.Time
}

var errOtherTenant = errors.New("MEMBRANE_TOKEN belongs to one tenant; a connection of another tenant needs MEMBRANE_WORKSPACE_KEY and MEMBRANE_WORKSPACE_SECRET")

func newTokens(o Options) *tokens {
	t := &tokens{
		tenant:    o.TenantKey,
		workspace: o.WorkspaceKey,
		secret:    o.WorkspaceSecret,
		now:       o.Now,
		userAgent: o.UserAgent,
		minted:    map[string]minted{},
	}
	if o.Token != "" {
		t.fixed = t.headers(o.Token.Reveal())
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
	if t.fixed != nil {
		if tenant != t.tenant {
			return nil, errOtherTenant
		}
		return t.fixed, nil
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

// renew mints the tenant's token anew after the one in refused was refused. It
// says whether the new one is another, so that there is any use in asking again.
func (t *tokens) renew(tenant string, refused http.Header) bool {
	if t.fixed != nil {
		return false
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
