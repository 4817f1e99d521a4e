package sandbox

import (
	"cmp"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// tokens knows the bearer tokens that it has checked before, because a load
// test sends the same one thousands of times a second.
type tokens struct {
	mu    sync.RWMutex
	known map[string]caller
	// revoked are access tokens of OAuth that were taken back.
	revoked map[string]bool
	// token and secret are the two fixed ways in, once they were changed.
	token, secret string
}

// SetCredentials changes the fixed ways in: the token and the workspace's secret.
// Those before are refused from now on. An empty one stays.
func (s *Server) SetCredentials(token, workspaceSecret string) {
	t := &s.tokens
	t.mu.Lock()
	defer t.mu.Unlock()
	t.token, t.secret = cmp.Or(token, t.token), cmp.Or(workspaceSecret, t.secret)
	if workspaceSecret != "" {
		t.known = nil
	}
}

func (t *tokens) credentials() (token, secret string) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return cmp.Or(t.token, Token), cmp.Or(t.secret, WorkspaceSecret)
}

// caller is who a token speaks for.
type caller struct {
	tenant string // tenant key
	name   string
	fields any
	admin  bool      // may manage the workspace
	until  time.Time // zero: for ever
}

const maxKnownTokens = 10_000

// claims holds both dialects that Membrane accepts (membrane-sdk: iss and id;
// Membrane's documentation: workspaceKey and tenantKey).
type claims struct {
	jwt.RegisteredClaims
	TenantID     string         `json:"id"`
	WorkspaceKey string         `json:"workspaceKey"`
	TenantKey    string         `json:"tenantKey"`
	Name         string         `json:"name"`
	Fields       map[string]any `json:"fields"`
	IsAdmin      bool           `json:"isAdmin"`
}

// authenticate says who is calling.
func (s *Server) authenticate(r *http.Request) (caller, *apiError) {
	fixed, secret := s.tokens.credentials()
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case !ok || token == "":
		return caller{}, notAuthenticated("the request has no bearer token")
	case token == fixed:
		return caller{tenant: DefaultTenant, admin: true}, nil
	}
	now := s.opts.Now()
	s.tokens.mu.RLock()
	who, ok := s.tokens.known[token]
	s.tokens.mu.RUnlock()
	if ok && (who.until.IsZero() || now.Before(who.until)) {
		return who, nil
	}
	who, failed := s.verify(token, secret)
	if failed == nil && s.tokens.isRevoked(token) {
		failed = notAuthenticated("the token was revoked")
	}
	if failed != nil {
		return caller{}, failed
	}
	s.tokens.mu.Lock()
	defer s.tokens.mu.Unlock()
	if secret != cmp.Or(s.tokens.secret, WorkspaceSecret) {
		return who, nil // it was changed meanwhile: this one was just in time
	}
	if s.tokens.known == nil || len(s.tokens.known) >= maxKnownTokens {
		s.tokens.known = map[string]caller{}
	}
	s.tokens.known[token] = who
	return who, nil
}

func (s *Server) verify(token, secret string) (caller, *apiError) {
	if strings.HasPrefix(token, "pat-") {
		return caller{}, notAuthenticated("the personal access token is not known here; the sandbox's is " + Token)
	}
	var c claims
	_, err := jwt.ParseWithClaims(token, &c,
		// The secret is used as it is, not base64-decoded, as the SDK does.
		func(*jwt.Token) (any, error) { return []byte(secret), nil },
		jwt.WithValidMethods([]string{"HS256", "HS512"}), jwt.WithTimeFunc(s.opts.Now))
	if err != nil {
		return caller{}, notAuthenticated("the token is no valid JWT of this workspace: " + err.Error())
	}
	for _, workspace := range []string{c.Issuer, c.WorkspaceKey} {
		if workspace != "" && workspace != WorkspaceKey {
			return caller{}, notAuthenticated("the token is of another workspace; the sandbox's is " + WorkspaceKey)
		}
	}
	if c.Issuer == "" && c.WorkspaceKey == "" {
		return caller{}, notAuthenticated("the token names no workspace; set iss or workspaceKey")
	}
	who := caller{tenant: DefaultTenant, name: c.Name, admin: c.IsAdmin}
	if c.Fields != nil {
		who.fields = c.Fields
	}
	if c.TenantID != "" {
		who.tenant = c.TenantID
	} else if c.TenantKey != "" {
		who.tenant = c.TenantKey
	}
	if c.ExpiresAt != nil {
		who.until = c.ExpiresAt.Time
	}
	return who, nil
}
