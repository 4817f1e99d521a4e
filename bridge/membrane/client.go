// Package membrane is the HTTP client for Membrane: it runs an action, reads
// back what was run, and says of every failure whether the action can have had
// an effect.
//
// What is known about the service stands in comments beside the code that needs
// it. A run is one POST /act that is never repeated once a byte of it may have
// left, never redirected and never cancelled under way (rules R5 and R8); conn.go
// holds the proof that nothing left, classify.go the meaning of every answer.
package membrane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/config"
)

const (
	// apiVersion is what the vendor's SDK sends. source: @membranehq/sdk 0.28.3
	apiVersion = "2025-10-21"

	// Membrane takes requests up to 10 MB and answers with up to 30 MB.
	// source: docs.getmembrane.com limits
	maxRequest  = 10 << 20
	maxResponse = 30 << 20

	// runSlack is how much longer than the run limit we wait for an answer, for the
	// way there and back.
	runSlack = 5 * time.Second

	// idleTimeout is below the 61 s after which Membrane closes an idle connection
	// (source: its self-hosting page), so that we close first and do not write into
	// a connection that is just going away.
	idleTimeout = 30 * time.Second

	// connectTimeout is for TCP and TLS together. It is below the 5 s of send-by, so
	// that a service that cannot be reached shows as that and not as us being late.
	connectTimeout = 4 * time.Second
	aheadTimeout   = 4 * time.Second // below those 5 s, too
	lookupTimeout  = 65 * time.Second
	probeTimeout   = 10 * time.Second // a place that takes longer to answer a read is none to send to

	// Lookups have connections of their own. One tenant may use two of them, so that one
	// whose reads hang leaves the others theirs.
	lookupConns  = 32
	tenantsConns = 2
)

// Options says where Membrane is and who we are. Either Token is set, or
// WorkspaceKey and WorkspaceSecret are, or SignIn is.
type Options struct {
	// BaseURL is such as https://api.getmembrane.com; it may have a path.
	BaseURL string
	// Token is a personal access token, a client token or a ready-made JWT.
	Token config.Secret
	// WorkspaceKey, WorkspaceSecret and TenantKey are what JWTs are minted from, one
	// per tenant. TenantKey is the tenant of every Place that names none.
	WorkspaceKey    string
	WorkspaceSecret config.Secret
	TenantKey       string
	// SignIn gives the tokens of somebody who signed in.
	SignIn TokenSource
	// Refresh is called before a refusal of our token is believed: it may call
	// SetSecrets. Optional.
	Refresh func()
	// RunLimit is the longest Membrane lets a run take. We wait 5 s longer.
	// Defaults to 60 s.
	RunLimit time.Duration
	// Concurrency is how many runs may be in flight, and so how many connections
	// runs may use. Lookups have others, so that neither waits for the other.
	// Defaults to 64.
	Concurrency int
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
	// UserAgent is sent with each request. Defaults to "bridge8x8".
	UserAgent string

	// For tests.
	rootCAs *x509.CertPool // nil: the system's
	connect time.Duration  // 0: connectTimeout
}

// Client talks to Membrane. It implements bridge.Runner and may be used from any
// number of goroutines.
type Client struct {
	base   url.URL
	actURL *url.URL
	tokens *tokens
	wait   time.Duration // for the answer to a run, from its first byte
	now    func() time.Time
	ahead  time.Duration // aheadTimeout, but in tests

	// Runs and lookups have a transport each: a run may hold its connection for a
	// minute, and the reconciler's lookups must not wait for that.
	runs    *http.Transport
	lookups *http.Transport
	turns   turns // at lookups
}

var _ bridge.Runner = (*Client)(nil)

// New makes a client. It sends nothing.
func New(o Options) (*Client, error) {
	base, err := url.Parse(o.BaseURL)
	switch {
	case err != nil:
		return nil, errors.New("MEMBRANE_API_URL is not a URL; write it like https://api.getmembrane.com")
	case base.Scheme != "https" && base.Scheme != "http", base.Host == "":
		return nil, fmt.Errorf("MEMBRANE_API_URL is %q; write it like https://api.getmembrane.com", base.Redacted())
	case base.User != nil, base.RawQuery != "", base.Fragment != "":
		return nil, errors.New("MEMBRANE_API_URL may hold a scheme, a host and a path, nothing else; credentials go into MEMBRANE_TOKEN")
	}
	base.Path, base.RawPath = strings.TrimRight(base.Path, "/")+"/", "" // JoinPath keeps a path relative
	switch {
	case o.Token != "" && o.WorkspaceSecret != "":
		return nil, errors.New("MEMBRANE_TOKEN and MEMBRANE_WORKSPACE_SECRET are both set; keep one")
	case o.Token == "" && o.SignIn == nil && (o.WorkspaceKey == "" || o.WorkspaceSecret == ""):
		return nil, errors.New("no way to sign in to Membrane; set MEMBRANE_TOKEN, or MEMBRANE_WORKSPACE_KEY, MEMBRANE_WORKSPACE_SECRET and MEMBRANE_TENANT_KEY")
	case o.RunLimit < 0 || o.Concurrency < 0:
		return nil, errors.New("the run limit and the concurrency cannot be negative")
	}
	if err := checkToken(o.Token); err != nil {
		return nil, err
	}
	if o.RunLimit == 0 {
		o.RunLimit = time.Minute
	}
	if o.Concurrency == 0 {
		o.Concurrency = 64
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.UserAgent == "" {
		o.UserAgent = "bridge8x8"
	}
	if o.connect == 0 {
		o.connect = connectTimeout
	}
	if _, err := http.ProxyFromEnvironment(&http.Request{URL: base}); err != nil {
		return nil, errors.New("HTTPS_PROXY or HTTP_PROXY is not a URL") // its text would quote a password
	}
	return &Client{
		base:    *base,
		actURL:  base.JoinPath("act"),
		tokens:  newTokens(o),
		wait:    o.RunLimit + runSlack,
		now:     o.Now,
		ahead:   aheadTimeout,
		runs:    newTransport(o.Concurrency, o),
		lookups: newTransport(lookupConns, o),
		turns:   turns{most: tenantsConns, of: map[string]*turn{}},
	}, nil
}

func checkToken(token config.Secret) error {
	if strings.ContainsFunc(token.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("MEMBRANE_TOKEN holds a space, a line break or a character that no token has")
	}
	return nil
}

// SetSecrets puts newer secrets in place of those that the client was made with.
// Requests under way keep theirs.
func (c *Client) SetSecrets(token, workspaceSecret config.Secret) error {
	if err := checkToken(token); err != nil {
		return err
	}
	c.tokens.set(token, workspaceSecret)
	return nil
}

// Close closes idle connections. Requests under way are left alone.
func (c *Client) Close() {
	c.runs.CloseIdleConnections()
	c.lookups.CloseIdleConnections()
}

// newTransport makes a transport whose connections count what they write.
// It is used without http.Client, which would follow redirects.
func newTransport(conns int, o Options) *http.Transport {
	dialer := &net.Dialer{Timeout: o.connect}
	tlsConfig := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		RootCAs:            o.rootCAs,
		NextProtos:         []string{"http/1.1"},
		ClientSessionCache: tls.NewLRUClientSessionCache(0),
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &countedConn{Conn: conn}, nil
		},
		// The counting sits above TLS, so that it counts the request and nothing that
		// TLS says by itself, such as the alert with which it closes.
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(ctx, o.connect)
			defer cancel()
			conn, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			ours := tlsConfig.Clone()
			ours.ServerName = host
			secured := tls.Client(conn, ours)
			if err := secured.HandshakeContext(ctx); err != nil {
				_ = conn.Close()
				return nil, err
			}
			return &countedConn{Conn: secured}, nil
		},
		TLSClientConfig:        tlsConfig, // for a connection through a proxy
		TLSHandshakeTimeout:    o.connect,
		Protocols:              protocols, // one request at a time on a connection, or nothing could be counted
		DisableCompression:     true,
		MaxConnsPerHost:        conns,
		MaxIdleConnsPerHost:    conns,
		MaxIdleConns:           conns,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: 1 << 18,
	}
}
