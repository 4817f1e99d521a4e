package bus

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge/natsd"
	"github.com/bridge8x8/bridge8x8/config"
)

// What waiting cannot mend is an error at once.
func TestConnectRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte("no seed in here"), 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing")
	const url = "nats://127.0.0.1:1"
	tests := []struct {
		name string
		env  config.NATSEnv
		want string // where it ends in "…", the beginning
	}{
		{"missing nkey", config.NATSEnv{URL: url, NKey: missing}, `NATS_NKEY: cannot read a seed from "` + missing + `"`},
		{"no nkey in it", config.NATSEnv{URL: url, NKey: garbage}, `NATS_NKEY: cannot read a seed from "` + garbage + `"`},
		{"certificate without key", config.NATSEnv{URL: url, TLSCert: garbage}, "NATS_TLS_CERT and NATS_TLS_KEY go together: set both or neither"},
		{"key without certificate", config.NATSEnv{URL: url, TLSKey: garbage}, "NATS_TLS_CERT and NATS_TLS_KEY go together: set both or neither"},
		{"missing certificate", config.NATSEnv{URL: url, TLSCert: missing, TLSKey: missing}, "connect to NATS: nats: error loading client certificate: open " + missing + "…"},
		{"missing authority", config.NATSEnv{URL: url, TLSCA: missing}, "connect to NATS: nats: error loading or parsing rootCA file: open " + missing + "…"},
		{"no authority in it", config.NATSEnv{URL: url, TLSCA: garbage}, `connect to NATS: nats: failed to parse root certificate from "` + garbage + `"`},
	}
	for _, test := range tests {
		c, err := Connect(test.env, "test", (&lines{}).logger(), nil)
		if c != nil {
			c.Close()
		}
		if err == nil {
			t.Errorf("%s: connects", test.name)
			continue
		}
		got, want := err.Error(), test.want
		if beginning, cut := strings.CutSuffix(want, "…"); cut {
			got, want = got[:min(len(got), len(beginning))], beginning
		}
		if got != want {
			t.Errorf("%s:\n got %s\nwant %s", test.name, err, test.want)
		}
		if strings.Contains(err.Error(), "no seed") {
			t.Errorf("%s: the error holds the file's content: %v", test.name, err)
		}
	}
}

// A credentials file is read when a connection is made, and its being wrong
// keeps the bridge from ever connecting.
func TestConnectWithoutCredentials(t *testing.T) {
	t.Parallel()
	ns := startServer(t, natsd.Options{User: "u", Password: "p"})
	for name, env := range map[string]config.NATSEnv{
		"none":           {},
		"no such file":   {Creds: filepath.Join(t.TempDir(), "missing.creds")},
		"wrong password": {User: "u", Password: "wrong"},
	} {
		env.URL = ns.ClientURL()
		log := &lines{}
		c, err := Connect(env, "test", log.logger(), nil)
		if err == nil && !strings.Contains(log.String(), "authorization violation") {
			t.Errorf("%s: the log does not say why it cannot connect:\n%s", name, log)
		}
		if err == nil {
			if c.Healthy() == nil {
				t.Errorf("%s: connected", name)
			}
			c.Close()
		}
		if strings.Contains(log.String(), "wrong") {
			t.Errorf("%s: the password was logged:\n%s", name, log)
		}
	}
	right := config.NATSEnv{URL: ns.ClientURL(), User: "u", Password: "p"}
	c, err := Connect(right, "test", (&lines{}).logger(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Await(within(t), false); err != nil {
		t.Error(err)
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// ups keeps what Connect tells of the connection.
type ups struct {
	mu   sync.Mutex
	told []bool
}

func (u *ups) tell(up bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if n := len(u.told); n == 0 || u.told[n-1] != up {
		u.told = append(u.told, up)
	}
}

func (u *ups) all() []bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]bool(nil), u.told...)
}

// A server that is away is waited for, also when it goes and comes again.
func TestConnectWaits(t *testing.T) {
	t.Parallel()
	addr, dir := freeAddr(t), t.TempDir()
	log, up := &lines{}, &ups{}
	c, err := Connect(config.NATSEnv{URL: "nats://" + addr}, "test", log.logger(), up.tell)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := c.Healthy(); err == nil || err.Error() != "NATS is RECONNECTING" {
		t.Errorf("healthy: %v", err)
	}
	ctx, cancel := context.WithCancelCause(within(t))
	cancel(errors.New("stopped"))
	if err := c.Await(ctx, false); err == nil || err.Error() != "NATS did not answer: stopped" {
		t.Errorf("await: %v", err)
	}
	if _, err := c.Publisher.Store(within(t), "s.a", nil, nil); !errors.Is(err, ErrUnsent) {
		t.Errorf("stored before the first connection: %v", err)
	}
	eventually(t, "the log to say so", func() bool { return log.count("NATS cannot be reached") == 1 })
	for round := range 2 {
		ns, err := natsd.Start(natsd.Options{Dir: dir, Addr: addr, Fast: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Await(within(t), false); err != nil {
			t.Fatal(err)
		}
		if err := c.Healthy(); err != nil {
			t.Error(err)
		}
		if round == 0 {
			makeStream(t, c, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
		}
		if seq := store(t, c, "s.a", "x"); seq != uint64(round)+1 {
			t.Errorf("round %d: sequence %d", round, seq)
		}
		ns.Stop()
		eventually(t, "the client to notice", func() bool { return c.Healthy() != nil })
	}
	eventually(t, "all to be told", func() bool { return len(up.all()) >= 4 })
	if diff := cmp.Diff([]bool{true, false, true, false}, up.all()); diff != "" {
		t.Errorf("told that it is up (-want +got):\n%s", diff)
	}
	// One line for each change, and none for each attempt.
	eventually(t, "the log of the last change", func() bool { return log.count("NATS is away") == 2 })
	for _, once := range []string{"NATS cannot be reached", "NATS is here", "NATS is back"} {
		if n := log.count(once); n != 1 {
			t.Errorf("said %d times %q, want once:\n%s", n, once, log)
		}
	}
}

// A password in the address is nobody's business.
func TestConnectKeepsThePassword(t *testing.T) {
	t.Parallel()
	log := &lines{}
	c, err := Connect(config.NATSEnv{URL: "nats://user:hunter2@" + freeAddr(t)}, "test", log.logger(), nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if strings.Contains(log.String(), "hunter2") {
		t.Errorf("the log holds the password:\n%s", log)
	}
	if c, err := Connect(config.NATSEnv{URL: "nats://user:hunter2@ bad host:x"}, "test", log.logger(), nil); err == nil {
		c.Close()
		t.Error("connects to a bad address")
	} else if want := `connect to NATS: NATS_URL: invalid port ":x" after host`; err.Error() != want {
		t.Errorf("bad address: %v, want %s", err, want)
	}
}

// Stopping is no outage.
func TestCloseIsQuiet(t *testing.T) {
	t.Parallel()
	log := &lines{}
	c, err := Connect(config.NATSEnv{URL: startServer(t, natsd.Options{}).ClientURL()}, "test", log.logger(), nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	eventually(t, "the end", func() bool { return c.NC.IsClosed() })
	if strings.Contains(log.String(), "level=WARN") || strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("closing was logged as trouble:\n%s", log)
	}
}

// certificate makes one that is signed by the parent, or by itself.
func certificate(t *testing.T, dir, name string, parent *tls.Certificate) (certFile, keyFile string, cert *tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: parent == nil, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	signer, by := template, any(key)
	if parent != nil {
		signer, by = parent.Leaf, parent.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	certFile, keyFile = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	if err := errors.Join(os.WriteFile(certFile, certPEM, 0o600), os.WriteFile(keyFile, keyPEM, 0o600)); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	if pair.Leaf, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile, &pair
}

// A server that wants to see a certificate is shown ours, and its own is looked at.
func TestConnectTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	caFile, _, ca := certificate(t, dir, "ca", nil)
	otherFile, _, _ := certificate(t, dir, "other", nil)
	_, _, serverCert := certificate(t, dir, "server", ca)
	certFile, keyFile, _ := certificate(t, dir, "client", ca)
	pool := x509.NewCertPool()
	pool.AddCert(ca.Leaf)
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, TLS: true, TLSVerify: true, TLSTimeout: 30, JetStream: true, StoreDir: dir,
		JetStreamMaxStore: 1 << 30, JetStreamMaxMemory: 1 << 20,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{*serverCert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	env := config.NATSEnv{URL: s.ClientURL(), TLSCA: caFile, TLSCert: certFile, TLSKey: keyFile}
	c, err := Connect(env, "test", (&lines{}).logger(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Await(within(t), false); err != nil {
		t.Fatal(err)
	}
	makeStream(t, c, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	if seq := store(t, c, "s.a", "x"); seq != 1 {
		t.Errorf("sequence %d", seq)
	}
	state, err := c.NC.TLSConnectionState()
	if err != nil || state.Version < tls.VersionTLS12 {
		t.Errorf("version %x, %v", state.Version, err)
	}
	for name, env := range map[string]config.NATSEnv{
		"without our certificate": {URL: s.ClientURL(), TLSCA: caFile},
		"with another authority":  {URL: s.ClientURL(), TLSCA: otherFile, TLSCert: certFile, TLSKey: keyFile},
	} {
		c, err := Connect(env, "test", (&lines{}).logger(), nil)
		if err != nil {
			continue
		}
		if _, err := c.Publisher.Store(within(t), "s.a", nil, nil); err == nil {
			t.Errorf("%s: stored", name)
		}
		c.Close()
	}
}
