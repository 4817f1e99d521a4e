// Package signin signs a person in to Membrane (OAuth 2.1: authorization code
// with PKCE, found through the server's metadata), keeps the credentials in the
// user's configuration folder, and renews them.
//
// Secrets are in the files of Store, in the requests that need them, and nowhere
// else: no error and no log holds one.
package signin

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/config"
)

const (
	requestTimeout = 20 * time.Second
	maxAnswer      = 1 << 20
	// codeTime is how long we keep a sign-in that waits for its code. RFC 6749
	// recommends that a code ends after 10 minutes; a person may take some before.
	codeTime = 30 * time.Minute
	// spare is how long before its end a token is renewed.
	spare = time.Minute
)

// Server is the authorization server of a Membrane API.
type Server struct {
	// APIURL is such as https://api.getmembrane.com.
	APIURL    string
	UserAgent string
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
	// Transport defaults to http.DefaultTransport.
	Transport http.RoundTripper
}

func (s *Server) now() time.Time {
	if s.Now == nil {
		return time.Now()
	}
	return s.Now()
}

// metadata. source: RFC 8414
type metadata struct {
	Issuer                string   `json:"issuer"`
	AuthorizationEndpoint string   `json:"authorization_endpoint"`
	TokenEndpoint         string   `json:"token_endpoint"`
	RegistrationEndpoint  string   `json:"registration_endpoint"`
	RevocationEndpoint    string   `json:"revocation_endpoint"`
	ChallengeMethods      []string `json:"code_challenge_methods_supported"`
	IssSupported          bool     `json:"authorization_response_iss_parameter_supported"`
}

// discover reads the server's metadata.
func (s *Server) discover(ctx context.Context) (metadata, error) {
	base, err := url.Parse(s.APIURL)
	if err != nil || base.Host == "" || base.User != nil || base.RawQuery != "" {
		return metadata{}, errors.New("MEMBRANE_API_URL is not a URL; write it like https://api.getmembrane.com")
	}
	if !private(base) {
		return metadata{}, fmt.Errorf("MEMBRANE_API_URL %q is not https: whoever listens on the way would sign in as you", base)
	}
	at := *base
	at.Path = "/.well-known/oauth-authorization-server" + strings.TrimRight(base.Path, "/")
	var m metadata
	status, err := s.do(ctx, http.MethodGet, at.String(), nil, "", &m)
	switch {
	case err != nil:
		return m, err
	case status == http.StatusNotFound:
		return m, fmt.Errorf("%s has no sign-in: it answered 404 at %s; set MEMBRANE_TOKEN instead", s.APIURL, at.Path)
	case status != http.StatusOK:
		return m, fmt.Errorf("%s answered %d at %s; try again later", s.APIURL, status, at.Path)
	}
	// Another issuer's metadata would send the code to somebody else (RFC 8414, section 3.3).
	if strings.TrimRight(m.Issuer, "/") != strings.TrimRight(s.APIURL, "/") {
		return m, fmt.Errorf("%s says that its sign-in is that of %q: if that is right, set MEMBRANE_API_URL to it", s.APIURL, m.Issuer)
	}
	for _, endpoint := range []struct{ name, url string }{
		{"authorization_endpoint", m.AuthorizationEndpoint}, {"token_endpoint", m.TokenEndpoint},
		{"registration_endpoint", m.RegistrationEndpoint}, {"revocation_endpoint", m.RevocationEndpoint},
	} {
		u, err := url.Parse(endpoint.url)
		switch {
		case endpoint.url == "" && endpoint.name == "revocation_endpoint":
		case endpoint.url == "":
			return m, fmt.Errorf("the sign-in of %s has no %s; set MEMBRANE_TOKEN instead", s.APIURL, endpoint.name)
		case err != nil || u.Host == "" || !private(u):
			return m, fmt.Errorf("the %s of %s is not an https address", endpoint.name, s.APIURL)
		}
	}
	if len(m.ChallengeMethods) > 0 && !slices.Contains(m.ChallengeMethods, "S256") {
		return m, fmt.Errorf("the sign-in of %s does not know PKCE with S256; set MEMBRANE_TOKEN instead", s.APIURL)
	}
	return m, nil
}

// private says that nobody on the way can read along.
func private(u *url.URL) bool {
	if u.Scheme == "https" {
		return true
	}
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback())
}

// do makes one request and decodes a JSON answer. It follows no redirect, which
// could carry the body elsewhere.
func (s *Server) do(ctx context.Context, method, address string, body io.Reader, contentType string, into any) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return 0, errors.New("the address of the sign-in is not a URL")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", cmp.Or(s.UserAgent, "bridge8x8"))
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	client := http.Client{Transport: s.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		at := req.URL.Scheme + "://" + req.URL.Host
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
			why := op.Error()
			return 0, fmt.Errorf("%s cannot be reached: %s; is MEMBRANE_API_URL right?", at, why[strings.LastIndex(why, ": ")+2:])
		}
		if ctx.Err() != nil {
			return 0, fmt.Errorf("%s did not answer in time", at)
		}
		return 0, fmt.Errorf("the connection to %s broke", at)
	}
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return resp.StatusCode, errors.New("the answer of the sign-in broke off")
	}
	if json.Unmarshal(content, into) != nil && resp.StatusCode/100 == 2 {
		return resp.StatusCode, fmt.Errorf("%s answered with something that is not JSON; is MEMBRANE_API_URL right?", req.URL.Host)
	}
	return resp.StatusCode, nil
}

// Ask is how somebody wants to sign in.
type Ask struct {
	// ClientName is shown to the person who is asked. Defaults to bridge8x8.
	ClientName string
	// Tenant asks for a token of one tenant, not of the user.
	Tenant bool
	// Redirect is where the browser is to be sent, on this machine.
	Redirect string
}

// Begin registers us and makes the address that a person has to open.
func (s *Server) Begin(ctx context.Context, ask Ask) (Pending, error) {
	m, err := s.discover(ctx)
	if err != nil {
		return Pending{}, err
	}
	registration, err := json.Marshal(map[string]any{ // source: RFC 7591
		"client_name": cmp.Or(ask.ClientName, "bridge8x8"), "redirect_uris": []string{ask.Redirect}, "token_endpoint_auth_method": "none",
		"grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"},
	})
	if err != nil {
		return Pending{}, err
	}
	var client struct {
		ID          string `json:"client_id"`
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	status, err := s.do(ctx, http.MethodPost, m.RegistrationEndpoint, strings.NewReader(string(registration)), "application/json", &client)
	if err != nil {
		return Pending{}, err
	}
	if status/100 != 2 || client.ID == "" {
		return Pending{}, fmt.Errorf("the sign-in does not take us as a client (%d)%s", status, said(client.Error, client.Description))
	}
	p := Pending{
		Credentials: Credentials{
			APIURL: s.APIURL, Tenant: ask.Tenant, ClientID: client.ID, TokenEndpoint: m.TokenEndpoint, RevocationEndpoint: m.RevocationEndpoint,
		},
		Issuer: m.Issuer, Redirect: ask.Redirect, State: random(), Verifier: random(), Until: s.now().Add(codeTime), needIss: m.IssSupported,
	}
	sum := sha256.Sum256([]byte(p.Verifier.Reveal()))
	q := url.Values{
		"response_type": {"code"}, "client_id": {client.ID}, "redirect_uri": {ask.Redirect}, "state": {p.State.Reveal()},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}
	if ask.Tenant {
		// The word is that of @membranehq/sdk's OAUTH_TOKEN_TYPES; that the parameter is
		// called so is inferred.
		q.Set("token_type", "tenant")
	}
	to, err := url.Parse(m.AuthorizationEndpoint)
	if err != nil {
		return Pending{}, errors.New("the authorization_endpoint is not a URL")
	}
	maps.Copy(q, to.Query())
	to.RawQuery = q.Encode()
	p.URL = to.String()
	return p, nil
}

// random is 256 bits in the letters that a PKCE verifier may have (RFC 7636).
func random() config.Secret {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return config.Secret(base64.RawURLEncoding.EncodeToString(b[:]))
}

// said is an OAuth error in brackets. Its words are not ours: they are cut, and
// kept to one line.
func said(code, description string) string {
	text := strings.Join(strings.FieldsFunc(code+" "+description, func(r rune) bool { return r <= ' ' || r >= 0x7f && r < 0xa0 }), " ")
	if len(text) > 200 {
		text = text[:200] + "…"
	}
	if text == "" {
		return ""
	}
	return ": it said " + text
}

// Code reads what a person brings back: the code alone, or the whole address
// that the browser was sent to.
func (p *Pending) Code(given string) (config.Secret, error) {
	given = strings.TrimSpace(given)
	if !strings.Contains(given, "://") {
		if given == "" || strings.ContainsFunc(given, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return "", errors.New("that is no code: copy it, or the whole address of the page, from your browser")
		}
		return config.Secret(given), nil
	}
	u, err := url.Parse(given)
	if err != nil {
		return "", errors.New("that is no address: copy it whole from your browser")
	}
	return p.callback(u.Query())
}

// callback reads the query that the browser was sent back with.
func (p *Pending) callback(q url.Values) (config.Secret, error) {
	if subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(p.State.Reveal())) != 1 {
		return "", errors.New("that address is of another sign-in: use the one that the last login printed")
	}
	if iss := q.Get("iss"); iss != p.Issuer && (iss != "" || p.needIss) {
		return "", errors.New("another server than the one you signed in to sent the code") // RFC 9207
	}
	switch code := q.Get("error"); {
	case code == "access_denied":
		return "", errors.New("you refused; run bridge8x8 login to try again")
	case code != "":
		return "", fmt.Errorf("the sign-in failed%s", said(code, q.Get("error_description")))
	case q.Get("code") == "":
		return "", errors.New("that address holds no code: copy it whole from your browser")
	}
	return config.Secret(q.Get("code")), nil
}

// tokenAnswer. source: RFC 6749, and @membranehq/sdk 0.28.3, OAuthTokenResponse
type tokenAnswer struct {
	AccessToken  string  `json:"access_token"`
	TokenType    string  `json:"token_type"`
	ExpiresIn    float64 `json:"expires_in"`
	RefreshToken string  `json:"refresh_token"`
	WorkspaceKey string  `json:"default_workspace_key"`
	TenantKey    string  `json:"default_tenant_key"`
	Email        string  `json:"email"`
	Error        string  `json:"error"`
	Description  string  `json:"error_description"`
}

// refused is the server's no to a code or a refresh token.
type refused struct {
	code string
	text string
}

func (r refused) Error() string { return r.text }

func (s *Server) token(ctx context.Context, c Credentials, form url.Values) (Credentials, error) {
	form.Set("client_id", c.ClientID)
	asked := s.now()
	var got tokenAnswer
	status, err := s.do(ctx, http.MethodPost, c.TokenEndpoint, strings.NewReader(form.Encode()), "application/x-www-form-urlencoded", &got)
	switch {
	case err != nil:
		return c, err
	case status != http.StatusOK:
		return c, refused{got.Error, fmt.Sprintf("the sign-in answered %d%s", status, said(got.Error, got.Description))}
	case got.AccessToken == "" || !strings.EqualFold(got.TokenType, "bearer"):
		return c, errors.New("the sign-in answered without a bearer token")
	case strings.ContainsFunc(got.AccessToken, func(r rune) bool { return r <= ' ' || r > '~' }):
		return c, errors.New("the sign-in answered with a token that no header can hold")
	}
	c.AccessToken, c.ExpiresAt = config.Secret(got.AccessToken), time.Time{}
	if got.ExpiresIn > 0 {
		c.ExpiresAt = asked.Add(time.Duration(got.ExpiresIn * float64(time.Second)))
	}
	if got.RefreshToken != "" {
		c.RefreshToken = config.Secret(got.RefreshToken)
	}
	c.WorkspaceKey, c.TenantKey, c.Email = cmp.Or(got.WorkspaceKey, c.WorkspaceKey), cmp.Or(got.TenantKey, c.TenantKey), cmp.Or(got.Email, c.Email)
	return c, nil
}

// Complete turns a code into credentials.
func (s *Server) Complete(ctx context.Context, p Pending, code config.Secret) (Credentials, error) {
	if s.now().After(p.Until) {
		return Credentials{}, errors.New("the sign-in was begun too long ago; run bridge8x8 login again")
	}
	c, err := s.token(ctx, p.Credentials, url.Values{
		"grant_type": {"authorization_code"}, "code": {code.Reveal()}, "redirect_uri": {p.Redirect}, "code_verifier": {p.Verifier.Reveal()},
	})
	if r, ok := errors.AsType[refused](err); ok && r.code == "invalid_grant" {
		return Credentials{}, errors.New("the code is not good, or no longer: run bridge8x8 login again, and use its code once")
	}
	return c, err
}

// Revoke ends the credentials at the server. Those without a place to be revoked
// end by themselves.
func (s *Server) Revoke(ctx context.Context, c Credentials) error {
	if c.RevocationEndpoint == "" {
		return nil
	}
	token := c.RefreshToken
	if token == "" {
		token = c.AccessToken
	}
	var ignored any
	form := url.Values{"token": {token.Reveal()}, "client_id": {c.ClientID}}
	status, err := s.do(ctx, http.MethodPost, c.RevocationEndpoint, strings.NewReader(form.Encode()), "application/x-www-form-urlencoded", &ignored)
	if status/100 == 2 {
		return nil // its body says nothing
	}
	if err == nil {
		err = fmt.Errorf("it answered %d", status)
	}
	return err
}

// Listener waits on this machine for the browser to bring the code.
type Listener struct{ l net.Listener }

// Listen binds a free port of this machine.
func Listen(ctx context.Context) (*Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("no port for the browser to come back to: %w", err)
	}
	return &Listener{l}, nil
}

// Redirect is the address that the browser is to be sent to.
func (l *Listener) Redirect() string { return "http://" + l.l.Addr().String() + "/callback" }

// Close stops listening.
func (l *Listener) Close() { _ = l.l.Close() }

// Wait waits for the browser until ctx ends. Whatever comes without the right
// state is not ours, and ignored.
func (l *Listener) Wait(ctx context.Context, p *Pending) (config.Secret, error) {
	type brought struct {
		code config.Secret
		err  error
	}
	result := make(chan brought, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /callback", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Referrer-Policy", "no-referrer")
		q := r.URL.Query()
		if subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(p.State.Reveal())) != 1 {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, "This is not the sign-in that bridge8x8 waits for.\n")
			return
		}
		code, err := p.callback(q)
		text := "bridge8x8 has the code: you can close this page.\n"
		if err != nil {
			text = "bridge8x8 did not get a code: see the terminal.\n"
		}
		_, _ = io.WriteString(w, text)
		select {
		case result <- brought{code, err}:
		default:
		}
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l.l) }()
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = server.Shutdown(stop) // lets the page be shown
		_ = server.Close()
	}()
	select {
	case b := <-result:
		return b.code, b.err
	case err := <-failed:
		return "", err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// Source gives the tokens of a stored sign-in, and renews it. It implements
// membrane.TokenSource.
type Source struct {
	Store  Store
	Server Server
}

// Token gives an access token that is good for a minute or more. Only one of the
// user's processes renews at a time; the others take what it got.
func (s *Source) Token(ctx context.Context, refusedToken config.Secret) (config.Secret, time.Time, error) {
	if c, ok, err := s.good(refusedToken); ok || err != nil {
		return c.AccessToken, c.ExpiresAt, err
	}
	unlock, err := s.Store.lock(ctx)
	if err != nil {
		return "", time.Time{}, outage(err)
	}
	defer unlock()
	c, ok, err := s.good(refusedToken)
	switch {
	case ok || err != nil:
		return c.AccessToken, c.ExpiresAt, err
	case c.RefreshToken == "":
		return "", time.Time{}, ended()
	}
	fresh, err := s.Server.token(ctx, c, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {c.RefreshToken.Reveal()}})
	if err != nil {
		if r, ok := errors.AsType[refused](err); ok && (r.code == "invalid_grant" || r.code == "invalid_client") {
			return "", time.Time{}, ended()
		}
		return "", time.Time{}, outage(err)
	}
	if err := s.Store.Save(fresh); err != nil {
		return "", time.Time{}, outage(err)
	}
	return fresh.AccessToken, fresh.ExpiresAt, nil
}

// good reads the stored credentials, and says whether they can be used as they are.
func (s *Source) good(refusedToken config.Secret) (Credentials, bool, error) {
	c, err := s.Store.Load()
	switch {
	case errors.Is(err, ErrNone):
		return Credentials{}, false, blocked("nobody is signed in any more; run bridge8x8 login")
	case err != nil:
		return Credentials{}, false, blocked(err.Error())
	case c.APIURL != s.Server.APIURL:
		return Credentials{}, false, blocked("the sign-in is now for " + c.APIURL + ", not for " + s.Server.APIURL)
	}
	return c, c.AccessToken != refusedToken && (c.ExpiresAt.IsZero() || c.ExpiresAt.Sub(s.Server.now()) > spare), nil
}

func ended() error { return blocked("the sign-in has ended; run bridge8x8 login") }

func blocked(message string) *bridge.Failure {
	return &bridge.Failure{Kind: bridge.Blocked, Reason: bridge.ReasonUnauthorized, Message: message}
}

func outage(err error) *bridge.Failure {
	return &bridge.Failure{Kind: bridge.Outage, Message: "the sign-in cannot be renewed: " + err.Error()}
}
