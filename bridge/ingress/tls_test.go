package ingress_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/ingress"
	"github.com/bridge8x8/bridge8x8/config"
)

// secured is a listener with TLS, whose files can change.
type secured struct {
	*bench
	t       *testing.T
	addr    string
	tls     *ingress.TLS
	files   *bridgetest.Mount
	ca      *bridgetest.CA // of the server
	clients *bridgetest.CA
}

func serveTLS(t *testing.T, o ingress.Options) *secured {
	t.Helper()
	s := &secured{bench: &bench{store: &store{}}, t: t, ca: bridgetest.NewCA(t), clients: bridgetest.NewCA(t)}
	s.files = bridgetest.NewMount(t, s.content(s.ca, s.clients))
	log := slog.New(slog.NewTextHandler(s.bench, nil))
	var err error
	if s.tls, err = ingress.NewTLS(s.files.Path("crt"), s.files.Path("key"), s.files.Path("ca"), log); err != nil {
		t.Fatal(err)
	}
	o.Accept, o.TLS = s.bench, s.tls
	h, err := ingress.New(o)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	connections := ingress.NewConnections(listener, 64)
	server := ingress.NewServer("", h, log)
	server.ConnState, server.ConnContext = connections.State, s.tls.Connected
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(s.tls.Listen(connections)) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	s.addr = listener.Addr().String()
	return s
}

func (s *secured) content(ca, clients *bridgetest.CA) map[string]string {
	cert, key := ca.Issue(s.t, nil)
	return map[string]string{"crt": string(cert), "key": string(key), "ca": string(clients.PEM)}
}

// dial connects with what change makes of a usual client.
func (s *secured) dial(change func(*tls.Config)) (*tls.Conn, error) {
	c := &tls.Config{RootCAs: s.ca.Pool, ServerName: "127.0.0.1"}
	if change != nil {
		change(c)
	}
	raw, err := (&tls.Dialer{Config: c}).DialContext(s.t.Context(), "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	conn := raw.(*tls.Conn)
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn, conn.SetDeadline(time.Now().Add(bridgetest.Deadline))
}

// ask posts an event on a connection and gives the status and the body's end.
func ask(conn net.Conn, path, id string) (string, error) {
	body := one(id, "t", "1")
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", path, structured, len(body), body); err != nil {
		return "", err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	defer func() { _ = answer.Body.Close() }()
	said, err := io.ReadAll(answer.Body)
	_, code, _ := strings.Cut(string(said), `"code":"`)
	code, _, _ = strings.Cut(code, `"`)
	return strings.TrimSpace(fmt.Sprint(answer.StatusCode, " ", code)), err
}

func TestTLSIsModern(t *testing.T) {
	t.Parallel()
	s := serveTLS(t, ingress.Options{})
	for _, test := range []struct {
		name   string
		change func(*tls.Config)
		good   bool
	}{
		{"1.3", nil, true},
		{"1.2", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, true},
		{"1.1", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS11, tls.VersionTLS11 }, false},
		{"1.0", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 }, false},
		{"CBC", func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA}
		}, false},
		{"RSA without forward secrecy", func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}
		}, false},
		{"HTTP/2 or nothing", func(c *tls.Config) { c.NextProtos = []string{"h2"} }, false},
		{"HTTP/2 at best", func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} }, true},
	} {
		conn, err := s.dial(test.change)
		if (err == nil) != test.good {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if err == nil {
			if got, err := ask(conn, "/events", "e"); got != "202" || err != nil || conn.ConnectionState().NegotiatedProtocol == "h2" {
				t.Errorf("%s: %s, %v", test.name, got, err)
			}
		}
	}
}

// New files are used by new connections, and those before go on.
func TestTLSFilesChange(t *testing.T) {
	t.Parallel()
	s := serveTLS(t, ingress.Options{})
	old, err := s.dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	post := func(id string) {
		t.Helper()
		if got, err := ask(old, "/events", id); got != "202" || err != nil {
			t.Errorf("%s: the connection from before: %s, %v", id, got, err)
		}
	}
	serial := func() string {
		t.Helper()
		conn, err := s.dial(nil)
		if err != nil {
			t.Fatal(err)
		}
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	post("1")
	logged := func(part string) int { return strings.Count(s.logged(), part) }

	s.tls.Reload()
	if logged("TLS files") != 0 {
		t.Errorf("nothing changed, and the log says %s", s.logged())
	}
	good := s.content(s.ca, s.clients)
	for name, broken := range map[string]map[string]string{
		"another's key": {"crt": good["crt"], "key": s.content(s.ca, s.clients)["key"], "ca": good["ca"]},
		"half a file":   {"crt": good["crt"][:200], "key": good["key"], "ca": good["ca"]},
		"no CA":         {"crt": good["crt"], "key": good["key"], "ca": "nothing\n"},
		"no file":       {"crt": good["crt"], "ca": good["ca"]},
	} {
		before := logged("are not used")
		s.files.Swap(broken)
		s.tls.Reload()
		s.tls.Reload()
		if n := logged("are not used") - before; n != 1 {
			t.Errorf("%s is told %d times", name, n)
		}
		if got := serial(); got != first {
			t.Errorf("%s is used", name)
		}
		post(name)
	}
	s.files.Swap(good)
	s.tls.Reload()
	if got := serial(); got == first || logged("read again") != 1 {
		t.Errorf("the new certificate is not used: %s", s.logged())
	}
	post("last")
	if strings.Contains(s.logged(), "PRIVATE") || strings.Contains(s.logged(), strings.Split(good["key"], "\n")[1]) {
		t.Errorf("the log shows a key: %s", s.logged())
	}

	for name, wrong := range map[string][3]string{
		"no such file":  {"none", "key", "ca"},
		"swapped":       {"key", "crt", "ca"},
		"not clients'":  {"crt", "key", "key"},
		"a whole disk":  {".", "key", "ca"},
		"nobody's file": {"crt", "key", "none"},
	} {
		if _, err := ingress.NewTLS(s.files.Path(wrong[0]), s.files.Path(wrong[1]), s.files.Path(wrong[2]), nil); err == nil || !strings.Contains(err.Error(), "BRIDGE_TLS_") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	names := []string{"shop.acme.internal", "spiffe://acme.internal/shop", "shop@acme.internal", "shop"}
	s := serveTLS(t, ingress.Options{
		Clients: names,
		Webhooks: []config.Webhook{
			{Name: "any", Clients: []string{"*"}}, {Name: "open", Bearer: nil}, {Name: "both", Clients: []string{"*"}, Bearer: []config.Secret{"t"}},
		},
	})
	spiffe, err := url.Parse("spiffe://acme.internal/shop")
	if err != nil {
		t.Fatal(err)
	}
	other := bridgetest.NewCA(t)
	for _, test := range []struct {
		name   string
		ca     *bridgetest.CA // nil: no certificate
		change func(*x509.Certificate)
		events string // "": the handshake fails
		any    string
	}{
		{"none", nil, nil, "401 certificate_required", "401 certificate_required"},
		{"a DNS name", s.clients, func(c *x509.Certificate) { c.DNSNames = []string{"x", "SHOP.acme.internal"} }, "202", "202"},
		{"a URI", s.clients, func(c *x509.Certificate) { c.URIs = []*url.URL{spiffe} }, "202", "202"},
		{"mail", s.clients, func(c *x509.Certificate) { c.EmailAddresses = []string{"shop@acme.internal"} }, "202", "202"},
		{"a common name alone", s.clients, func(c *x509.Certificate) { c.Subject.CommonName = "shop" }, "202", "202"},
		{"a common name beside another", s.clients, func(c *x509.Certificate) { c.Subject.CommonName, c.DNSNames = "shop", []string{"x"} }, "403 certificate_not_allowed", "202"},
		{"another name", s.clients, func(c *x509.Certificate) { c.DNSNames = []string{"xshop.acme.internal"} }, "403 certificate_not_allowed", "202"},
		{"a wildcard of its own", s.clients, func(c *x509.Certificate) { c.DNSNames = []string{"*.acme.internal"} }, "403 certificate_not_allowed", "202"},
		{"a star", s.clients, func(c *x509.Certificate) { c.Subject.CommonName = "*" }, "403 certificate_not_allowed", "202"},
		{"for servers only", s.clients, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, "", ""},
		{"expired", s.clients, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }, "", ""},
		{"of another CA", other, func(c *x509.Certificate) { c.DNSNames = []string{"shop.acme.internal"} }, "", ""},
	} {
		with := func(c *tls.Config) {
			if test.ca != nil {
				pair := test.ca.Client(t, test.change)
				// As it is, also where the server says that it would not take it.
				c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
			}
		}
		for path, want := range map[string]string{"/events": test.events, "/webhooks/any": test.any} {
			before := len(s.stored(t))
			conn, err := s.dial(with)
			got := ""
			if err == nil { // TLS 1.3 tells a client only afterwards that it was refused
				if got, err = ask(conn, path, "e"); err != nil {
					got = ""
				}
			}
			if got != want {
				t.Errorf("%s at %s: %q, %v; want %q", test.name, path, got, err, want)
			}
			if stored := len(s.stored(t)) - before; (stored == 1) != (want == "202") {
				t.Errorf("%s at %s: %d stored", test.name, path, stored)
			}
		}
	}
	bare, err := s.dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ask(bare, "/webhooks/open", "e"); got != "202" || err != nil {
		t.Errorf("where none is asked for: %s, %v", got, err)
	}
	shop := s.clients.Client(t, func(c *x509.Certificate) { c.DNSNames = []string{"shop.acme.internal"} })
	known, err := s.dial(func(c *tls.Config) { c.Certificates = []tls.Certificate{shop} })
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ask(known, "/webhooks/both", "e"); got != "401 unauthorized" || err != nil {
		t.Errorf("a certificate without the token: %s, %v", got, err)
	}

	// Trust that ends, ends at once; and trust that stays, stays.
	s.files.Swap(map[string]string{
		"crt": s.content(s.ca, other)["crt"], "key": "broken", "ca": string(other.PEM),
	})
	s.tls.Reload()
	if got, err := ask(known, "/events", "e"); got != "202" || err != nil {
		t.Errorf("with files that cannot be used: %s, %v", got, err)
	}
	both := s.content(s.ca, other)
	both["ca"] += string(s.clients.PEM)
	s.files.Swap(both)
	s.tls.Reload()
	if got, err := ask(known, "/events", "e"); got != "202" || err != nil {
		t.Errorf("with two CAs: %s, %v", got, err)
	}
	s.files.Swap(s.content(s.ca, other))
	s.tls.Reload()
	if got, err := ask(known, "/events", "e"); got != "401 certificate_required" || err != nil {
		t.Errorf("with another CA: %s, %v", got, err)
	}
	if _, err := known.Read(make([]byte, 1)); err == nil {
		t.Error("its connection stays")
	}
}

func TestMutualTLSWithoutTLS(t *testing.T) {
	t.Parallel()
	accept := &store{}
	for name, o := range map[string]ingress.Options{
		"events": {Accept: accept, Clients: []string{"*"}}, "webhook": {Accept: accept, Webhooks: []config.Webhook{{Name: "a", Clients: []string{"*"}}}},
	} {
		if _, err := ingress.New(o); err == nil {
			t.Errorf("%s: it is served", name)
		}
	}
}
