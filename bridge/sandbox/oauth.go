package sandbox

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// OAuth 2.1 as far as Membrane is known to have it: public clients that register
// themselves (RFC 7591), the authorization code with PKCE S256 only (RFC 7636),
// refresh tokens that are good once, revocation (RFC 7009), metadata (RFC 8414).
type oauth struct {
	mu      sync.Mutex
	clients map[string]oauthClient
	codes   map[string]*oauthCode
	grants  map[string]*oauthGrant // by refresh token, used ones too
}

type oauthClient struct {
	name      string
	redirects []string
}

type oauthCode struct {
	clientID, redirect, challenge, kind string
	until                               time.Time
	grant                               *oauthGrant // set once it was used
}

// oauthGrant is what a person agreed to.
type oauthGrant struct {
	clientID, kind string
	access         []string // every access token given out for it
	refresh        string   // the one that is good
	revoked        bool
}

const (
	codeLife   = 10 * time.Minute
	maxClients = 1000
	// tokenTypeUser and tokenTypeTenant are what a token speaks for. source:
	// @membranehq/sdk OAUTH_TOKEN_TYPES.
	tokenTypeUser   = "platform-user"
	tokenTypeTenant = "tenant"
)

func (s *Server) oauthRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", func(w http.ResponseWriter, r *http.Request) {
		base := baseURL(r)
		writeJSON(w, http.StatusOK, map[string]any{
			"issuer": base, "authorization_endpoint": base + "/oauth/authorize", "token_endpoint": base + "/oauth/token",
			"registration_endpoint": base + "/oauth/register", "revocation_endpoint": base + "/oauth/revoke",
			"response_types_supported": []string{"code"}, "grant_types_supported": []string{"authorization_code", "refresh_token"},
			"code_challenge_methods_supported": []string{"S256"}, "token_endpoint_auth_methods_supported": []string{"none"},
			"authorization_response_iss_parameter_supported": true,
		})
	})
	mux.HandleFunc("POST /oauth/register", s.oauthRegister)
	mux.HandleFunc("GET /oauth/authorize", s.oauthAsk)
	mux.HandleFunc("POST /oauth/authorize", s.oauthDecide)
	mux.HandleFunc("POST /oauth/token", s.oauthToken)
	mux.HandleFunc("POST /oauth/revoke", s.oauthRevoke)
}

// oauthError answers as RFC 6749 has it, which is not Membrane's envelope.
func oauthError(w http.ResponseWriter, code, description string) {
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusBadRequest, map[string]string{"error": code, "error_description": description})
}

// clientBody is of a registration. source: RFC 7591
var clientBody = shape{"client_name": isText, "redirect_uris": listOf(isText), "token_endpoint_auth_method": isText}

func (s *Server) oauthRegister(w http.ResponseWriter, r *http.Request) {
	var body struct {
		ClientName   string   `json:"client_name"`
		RedirectURIs []string `json:"redirect_uris"`
		AuthMethod   string   `json:"token_endpoint_auth_method"`
	}
	if failed := clientBody.read(w, r, &body); failed != nil {
		oauthError(w, "invalid_client_metadata", failed.Message)
		return
	}
	if body.AuthMethod != "" && body.AuthMethod != "none" {
		oauthError(w, "invalid_client_metadata", "only public clients are taken: token_endpoint_auth_method must be none")
		return
	}
	if len(body.RedirectURIs) == 0 || slices.ContainsFunc(body.RedirectURIs, func(u string) bool { return !loopbackURL(u) }) {
		oauthError(w, "invalid_redirect_uri", "redirect_uris must be http addresses of this machine")
		return
	}
	o, id := &s.world.Load().oauth, newUUID()
	o.mu.Lock()
	if o.clients == nil || len(o.clients) >= maxClients {
		o.clients = map[string]oauthClient{}
	}
	o.clients[id] = oauthClient{body.ClientName, body.RedirectURIs}
	o.mu.Unlock()
	writeJSON(w, http.StatusCreated, map[string]any{
		"client_id": id, "client_name": body.ClientName, "redirect_uris": body.RedirectURIs, "token_endpoint_auth_method": "none",
		"grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"},
	})
}

func loopbackURL(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" || u.Fragment != "" {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

type consent struct {
	Title  string
	Fields map[string]string
}

func consentPage(c consent) form {
	p := form{tab: "Sign in", title: c.Title, note: "there is no account", fields: c.Fields, action: "/oauth/authorize"}
	if c.Fields != nil {
		p.buttons = []button{{"approve", "Allow"}, {"deny", "Refuse"}}
	}
	return p
}

var authorizeFields = []string{
	"response_type", "client_id", "redirect_uri", "state", "code_challenge", "code_challenge_method", "token_type", "scope",
}

// authorizeRequest checks a request. A problem with the client or with where to
// go back to is told on a page, all others where the client waits.
func (s *Server) authorizeRequest(form url.Values) (client oauthClient, page, problem string) {
	o := &s.world.Load().oauth
	o.mu.Lock()
	client, ok := o.clients[form.Get("client_id")]
	o.mu.Unlock()
	switch {
	case !ok:
		return client, "The program that asks is not registered", ""
	case !slices.Contains(client.redirects, form.Get("redirect_uri")):
		return client, "redirect_uri is not one that the program registered", ""
	case form.Get("response_type") != "code":
		return client, "", "unsupported_response_type"
	case form.Get("code_challenge_method") != "S256" || len(form.Get("code_challenge")) != 43:
		return client, "", "invalid_request"
	case !slices.Contains([]string{"", tokenTypeUser, tokenTypeTenant}, form.Get("token_type")):
		return client, "", "invalid_request"
	}
	return client, "", ""
}

func (s *Server) oauthAsk(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	client, page, problem := s.authorizeRequest(q)
	switch {
	case page != "":
		writePage(w, http.StatusBadRequest, consentPage, consent{Title: page})
	case problem != "":
		goBack(w, r, q, url.Values{"error": {problem}})
	default:
		fields := map[string]string{}
		for _, name := range authorizeFields {
			if value := q.Get(name); value != "" {
				fields[name] = value
			}
		}
		writePage(w, http.StatusOK, consentPage, consent{Title: "Let " + cmp.Or(client.name, "a program") + " act for you?", Fields: fields})
	}
}

// goBack sends the browser to where the client waits.
func goBack(w http.ResponseWriter, r *http.Request, form, with url.Values) {
	to, err := url.Parse(form.Get("redirect_uri"))
	if err != nil {
		writePage(w, http.StatusBadRequest, consentPage, consent{Title: "redirect_uri is no address"})
		return
	}
	q := to.Query()
	maps.Copy(q, with)
	if state := form.Get("state"); state != "" {
		q.Set("state", state)
	}
	q.Set("iss", baseURL(r))
	to.RawQuery = q.Encode()
	http.Redirect(w, r, to.String(), http.StatusSeeOther) //nolint:gosec // G710: the address is one that the client registered, and of this machine
}

func (s *Server) oauthDecide(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<16)
	if err := r.ParseForm(); err != nil {
		writePage(w, http.StatusBadRequest, consentPage, consent{Title: "The form cannot be read"})
		return
	}
	form := r.PostForm
	_, page, problem := s.authorizeRequest(form)
	switch {
	case page != "":
		writePage(w, http.StatusBadRequest, consentPage, consent{Title: page})
		return
	case problem != "":
		goBack(w, r, form, url.Values{"error": {problem}})
		return
	case form.Get("decision") != "approve":
		goBack(w, r, form, url.Values{"error": {"access_denied"}})
		return
	}
	o, code := &s.world.Load().oauth, "code-"+newID()+newID()
	o.mu.Lock()
	if o.codes == nil {
		o.codes = map[string]*oauthCode{}
	}
	o.codes[code] = &oauthCode{
		clientID: form.Get("client_id"), redirect: form.Get("redirect_uri"), challenge: form.Get("code_challenge"),
		kind: cmp.Or(form.Get("token_type"), tokenTypeUser), until: s.opts.Now().Add(codeLife),
	}
	o.mu.Unlock()
	goBack(w, r, form, url.Values{"code": {code}})
}

func (s *Server) oauthToken(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<16)
	if err := r.ParseForm(); err != nil {
		oauthError(w, "invalid_request", "the form cannot be read")
		return
	}
	form, o := r.PostForm, &s.world.Load().oauth
	o.mu.Lock()
	defer o.mu.Unlock()
	var grant *oauthGrant
	switch form.Get("grant_type") {
	case "authorization_code":
		code, ok := o.codes[form.Get("code")]
		sum := sha256.Sum256([]byte(form.Get("code_verifier")))
		switch {
		case !ok || code.clientID != form.Get("client_id") || s.opts.Now().After(code.until):
			oauthError(w, "invalid_grant", "the code is unknown, of another client, or too old")
			return
		case code.grant != nil:
			s.revoke(code.grant) // somebody else has it too
			oauthError(w, "invalid_grant", "the code was used before")
			return
		case code.redirect != form.Get("redirect_uri"):
			oauthError(w, "invalid_grant", "redirect_uri is not the one that the code was made for")
			return
		case subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])), []byte(code.challenge)) != 1:
			oauthError(w, "invalid_grant", "code_verifier does not fit the code_challenge")
			return
		}
		grant = &oauthGrant{clientID: code.clientID, kind: code.kind}
		code.grant = grant
	case "refresh_token":
		var ok bool
		grant, ok = o.grants[form.Get("refresh_token")]
		switch {
		case !ok || grant.revoked || grant.clientID != form.Get("client_id"):
			oauthError(w, "invalid_grant", "the refresh token is unknown, revoked, or of another client")
			return
		case grant.refresh != form.Get("refresh_token"):
			s.revoke(grant) // a used one comes again: somebody stole it
			oauthError(w, "invalid_grant", "the refresh token was used before")
			return
		}
	default:
		oauthError(w, "unsupported_grant_type", "want authorization_code or refresh_token")
		return
	}
	// A user's token acts for the default tenant too: which one a real one acts for is not published.
	_, secret := s.tokens.credentials()
	access, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"iss": WorkspaceKey, "id": DefaultTenant, "exp": s.opts.Now().Add(s.opts.TokenLife).Unix(), "jti": newID(),
		"isAdmin": grant.kind == tokenTypeUser,
	}).SignedString([]byte(secret))
	if err != nil {
		panic(err)
	}
	grant.access = append(grant.access, access)
	grant.refresh = "refresh-" + newID() + newID()
	if o.grants == nil {
		o.grants = map[string]*oauthGrant{}
	}
	o.grants[grant.refresh] = grant
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusOK, map[string]any{
		"access_token": access, "token_type": "Bearer", "expires_in": int(s.opts.TokenLife / time.Second), "refresh_token": grant.refresh,
		"default_workspace_key": WorkspaceKey, "default_tenant_key": DefaultTenant, "email": "someone@sandbox.invalid", "org_id": stableID("org"),
	})
}

// oauthRevoke ends a grant; a token that is unknown is no error (RFC 7009).
func (s *Server) oauthRevoke(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<16)
	token := r.PostFormValue("token")
	o := &s.world.Load().oauth
	o.mu.Lock()
	defer o.mu.Unlock()
	for refresh, grant := range o.grants {
		if refresh == token || slices.Contains(grant.access, token) {
			s.revoke(grant)
			break
		}
	}
	w.WriteHeader(http.StatusOK)
}

// revoke ends a grant and every token of it. The lock is held.
func (s *Server) revoke(grant *oauthGrant) {
	grant.revoked = true
	s.tokens.mu.Lock()
	defer s.tokens.mu.Unlock()
	if s.tokens.revoked == nil {
		s.tokens.revoked = map[string]bool{}
	}
	for _, access := range grant.access {
		delete(s.tokens.known, access)
		s.tokens.revoked[access] = true
	}
}

// isRevoked says that a token was taken back.
func (t *tokens) isRevoked(token string) bool {
	if !strings.HasPrefix(token, "ey") {
		return false
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.revoked[token]
}
