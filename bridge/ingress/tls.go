package ingress

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// TLS is the certificate of the public listener, and what clients' certificates
// are checked against. Its files may change at any time.
type TLS struct {
	cert, key, clientCA string
	logger              *slog.Logger

	held atomic.Pointer[tls.Config]
	mu   sync.Mutex // held while the files are read
	read [sha256.Size]byte
}

// suites of TLS 1.2; those of 1.3 are all good, and cannot be chosen.
var suites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

const longestPEM = 1 << 20

// NewTLS reads the files. clientCA may be empty: then no client is asked for a
// certificate.
func NewTLS(cert, key, clientCA string, logger *slog.Logger) (*TLS, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	t := &TLS{cert: cert, key: key, clientCA: clientCA, logger: logger}
	files, err := t.files()
	if err != nil {
		return nil, err
	}
	return t, t.use(files)
}

// Reload reads the files again, if they changed. Ones that cannot be used change
// nothing: what was there before is used on, and the log says why, once.
func (t *TLS) Reload() {
	files, err := t.files()
	if err == nil {
		if t.same(files) {
			return
		}
		err = t.use(files)
	} else if t.same([3][]byte{[]byte(err.Error())}) {
		return
	}
	if err != nil {
		t.logger.Error("the new TLS files are not used; those before stay in use", "error", err)
		return
	}
	t.logger.Info("the TLS files were read again", "expires", t.held.Load().Certificates[0].Leaf.NotAfter)
}

// same says whether that was what was read last, good or not, and remembers it.
func (t *TLS) same(files [3][]byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.read
	t.read = sum(files)
	return t.read == before
}

func sum(files [3][]byte) [sha256.Size]byte {
	h := sha256.New()
	for _, content := range files {
		part := sha256.Sum256(content)
		h.Write(part[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func (t *TLS) files() (files [3][]byte, err error) {
	for i, f := range []struct{ name, path string }{{"BRIDGE_TLS_CERT", t.cert}, {"BRIDGE_TLS_KEY", t.key}, {"BRIDGE_TLS_CLIENT_CA", t.clientCA}} {
		if f.path == "" {
			continue
		}
		info, err := os.Stat(f.path)
		if err == nil && info.Size() > longestPEM {
			err = fmt.Errorf("it is larger than %d bytes", longestPEM)
		}
		if err == nil {
			files[i], err = os.ReadFile(f.path)
		}
		if err != nil {
			return files, fmt.Errorf("%s names the file %q, which cannot be used: %w", f.name, f.path, err)
		}
	}
	return files, nil
}

// use takes files over, all of them or none. Its errors hold nothing of a key.
func (t *TLS) use(files [3][]byte) error {
	pair, err := tls.X509KeyPair(files[0], files[1])
	if err != nil {
		return fmt.Errorf("BRIDGE_TLS_CERT %q and BRIDGE_TLS_KEY %q are no certificate and its key: %w", t.cert, t.key, err)
	}
	c := &tls.Config{
		MinVersion: tls.VersionTLS12, CipherSuites: suites, Certificates: []tls.Certificate{pair},
		// Not HTTP/2: nobody who posts events gains by it, and its floods are many.
		NextProtos: []string{"http/1.1"},
	}
	if t.clientCA != "" {
		c.ClientCAs = x509.NewCertPool()
		if !c.ClientCAs.AppendCertsFromPEM(files[2]) {
			return fmt.Errorf("BRIDGE_TLS_CLIENT_CA %q holds no certificate in PEM", t.clientCA)
		}
		// An address decides for itself whether it demands one; one that is shown must be good.
		c.ClientAuth = tls.VerifyClientCertIfGiven
		// Whoever resumed a session would show no certificate, also one that is good no more.
		c.SessionTicketsDisabled = true
	}
	if leaf := pair.Leaf; time.Now().After(leaf.NotAfter) {
		t.logger.Warn("the TLS certificate has expired: clients will not connect", "expired", leaf.NotAfter)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.read = sum(files)
	t.held.Store(c)
	return nil
}

// Listen makes TLS of what connects to l. Each connection begins with the newest files.
func (t *TLS) Listen(l net.Listener) net.Listener {
	return tls.NewListener(l, &tls.Config{
		MinVersion: tls.VersionTLS12, SessionTicketsDisabled: t.clientCA != "",
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return t.held.Load(), nil },
	})
}

// trusts says whether a certificate that was good when its connection began still is.
func (t *TLS) trusts(chain []*x509.Certificate, now time.Time) bool {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: t.held.Load().ClientCAs, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err == nil
}

// filesOf is which files were in use when a connection was accepted.
type filesOf struct{}

// Connected remembers with which files a connection began; it is for
// http.Server.ConnContext.
func (t *TLS) Connected(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, filesOf{}, t.held.Load())
}

var errNoTLS = errors.New("client certificates are asked for, and there is no TLS")

// anyClient stands for every name.
const anyClient = "*"

// certified refuses a request whose client has not shown a certificate with one of
// the names.
func (h *handler) certified(names []string, r *http.Request) *answer {
	if len(names) == 0 {
		return nil
	}
	a := refuse(http.StatusUnauthorized, "certificate_required", "no client certificate was shown, and one is required here").with("WWW-Authenticate", "Mutual")
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || h.TLS == nil {
		return &a
	}
	leaf, now := r.TLS.VerifiedChains[0][0], time.Now()
	// A connection may outlive its certificate, and the trust in who issued that.
	if now.After(leaf.NotAfter) || r.Context().Value(filesOf{}) != h.TLS.held.Load() && !h.TLS.trusts(r.TLS.PeerCertificates, now) {
		a = refuse(http.StatusUnauthorized, "certificate_required", "the client certificate is not good any more").
			with("WWW-Authenticate", "Mutual").with("Connection", "close")
		return &a
	}
	if slices.Contains(names, anyClient) || slices.ContainsFunc(names, func(name string) bool { return isNamed(leaf, name) }) {
		return nil
	}
	a = refuse(http.StatusForbidden, "certificate_not_allowed", "the client certificate has none of the names that are allowed here")
	return &a
}

// isNamed says whether a certificate is somebody's: by a DNS name, an address of
// mail or a URI; and only where it has none of these by its common name, which
// issuers check less.
func isNamed(c *x509.Certificate, name string) bool {
	for _, dns := range c.DNSNames {
		if strings.EqualFold(dns, name) {
			return true
		}
	}
	if slices.Contains(c.EmailAddresses, name) {
		return true
	}
	for _, uri := range c.URIs {
		if uri.String() == name {
			return true
		}
	}
	return len(c.DNSNames)+len(c.EmailAddresses)+len(c.URIs)+len(c.IPAddresses) == 0 && c.Subject.CommonName == name
}
