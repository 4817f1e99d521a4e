package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/bridge8x8/bridge8x8/config"
)

// startWith starts a server with options of the test's own.
func startWith(t *testing.T, o *server.Options) string {
	t.Helper()
	o.Host, o.Port, o.NoSigs, o.NoLog = "127.0.0.1", server.RANDOM_PORT, true, true
	o.JetStream, o.StoreDir, o.JetStreamMaxStore, o.JetStreamMaxMemory = true, t.TempDir(), 1<<30, 1<<20
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server is not ready")
	}
	return s.ClientURL()
}

func keyPair(t *testing.T, newPair func() (nkeys.KeyPair, error)) (pair nkeys.KeyPair, public string, seed []byte) {
	t.Helper()
	pair, err := newPair()
	if err != nil {
		t.Fatal(err)
	}
	public, err = pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	seed, err = pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return pair, public, seed
}

func fileWith(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// operated is a server whose accounts and users are JWTs, with a resolver in
// memory. It returns the credentials of a user, and of one whom nobody signed for.
func operated(t *testing.T) (url, creds, forged, expired string) {
	t.Helper()
	operator, operatorKey, _ := keyPair(t, nkeys.CreateOperator)
	account, accountKey, _ := keyPair(t, nkeys.CreateAccount)
	stranger, _, _ := keyPair(t, nkeys.CreateAccount)
	_, systemKey, _ := keyPair(t, nkeys.CreateAccount)
	claims := jwt.NewAccountClaims(accountKey)
	claims.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: jwt.NoLimit, MemoryStorage: jwt.NoLimit}
	accountJWT, err := claims.Encode(operator)
	if err != nil {
		t.Fatal(err)
	}
	systemJWT, err := jwt.NewAccountClaims(systemKey).Encode(operator)
	if err != nil {
		t.Fatal(err)
	}
	trusted := jwt.NewOperatorClaims(operatorKey)
	trusted.SystemAccount = systemKey
	resolver := &server.MemAccResolver{}
	if err := errors.Join(resolver.Store(accountKey, accountJWT), resolver.Store(systemKey, systemJWT)); err != nil {
		t.Fatal(err)
	}
	user := func(by nkeys.KeyPair, expires time.Time) string {
		_, public, seed := keyPair(t, nkeys.CreateUser)
		c := jwt.NewUserClaims(public)
		if !expires.IsZero() {
			c.Expires = expires.Unix()
		}
		token, err := c.Encode(by)
		if err != nil {
			t.Fatal(err)
		}
		file, err := jwt.FormatUserConfig(token, seed)
		if err != nil {
			t.Fatal(err)
		}
		return fileWith(t, "user.creds", file)
	}
	url = startWith(t, &server.Options{TrustedOperators: []*jwt.OperatorClaims{trusted}, AccountResolver: resolver, SystemAccount: systemKey})
	return url, user(account, time.Time{}), user(stranger, time.Time{}), user(account, time.Now().Add(-time.Hour))
}

// Each way to sign in works against a real server that wants it, and a wrong one
// is an error that names the variables, at once where somebody waits for it.
func TestWaysToSignIn(t *testing.T) {
	t.Parallel()
	const refused = "the server refuses our credentials (NATS_USER and NATS_PASSWORD, NATS_TOKEN, NATS_CREDS or NATS_NKEY): "
	_, public, seed := keyPair(t, nkeys.CreateUser)
	_, _, otherSeed := keyPair(t, nkeys.CreateUser)
	operatedURL, creds, forged, expired := operated(t)
	dir := t.TempDir()
	caFile, _, ca := certificate(t, dir, "ca", nil)
	otherFile, _, other := certificate(t, dir, "other", nil)
	_, _, serverCert := certificate(t, dir, "server", ca)
	certFile, keyFile, _ := certificate(t, dir, "client", ca)
	strangerFile, strangerKey, _ := certificate(t, dir, "stranger", other)
	pool := x509.NewCertPool()
	pool.AddCert(ca.Leaf)
	secure := func(auth tls.ClientAuthType) *server.Options {
		return &server.Options{TLS: true, TLSVerify: auth == tls.RequireAndVerifyClientCert, TLSTimeout: 30, TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{*serverCert}, ClientCAs: pool, ClientAuth: auth, MinVersion: tls.VersionTLS12,
		}}
	}
	tlsURL, mutualURL, plainURL := startWith(t, secure(tls.NoClientCert)), startWith(t, secure(tls.RequireAndVerifyClientCert)), startWith(t, &server.Options{})
	userURL := startWith(t, &server.Options{Username: "bridge", Password: "right"})
	tokenURL := startWith(t, &server.Options{Authorization: "right"})
	nkeyURL := startWith(t, &server.Options{Nkeys: []*server.NkeyUser{{Nkey: public}}})
	for _, test := range []struct {
		name  string
		right config.NATSEnv
		wrong map[string]config.NATSEnv // by a part of the error
	}{
		{"user and password", config.NATSEnv{URL: userURL, User: "bridge", Password: "right"}, map[string]config.NATSEnv{
			refused + "authorization violation": {URL: userURL, User: "bridge", Password: "wrong"},
			refused + "authorization":           {URL: userURL},
		}},
		{"token", config.NATSEnv{URL: tokenURL, Token: "right"}, map[string]config.NATSEnv{refused: {URL: tokenURL, Token: "wrong"}}},
		{"nkey", config.NATSEnv{URL: nkeyURL, NKey: fileWith(t, "seed", seed)}, map[string]config.NATSEnv{
			refused:                         {URL: nkeyURL, NKey: fileWith(t, "seed", otherSeed)},
			"NATS_NKEY: cannot read a seed": {URL: nkeyURL, NKey: filepath.Join(dir, "missing")},
		}},
		{"credentials of a JWT account", config.NATSEnv{URL: operatedURL, Creds: creds}, map[string]config.NATSEnv{
			refused:                             {URL: operatedURL, Creds: forged},
			refused + "authorization violation": {URL: operatedURL, Creds: expired},
			"NATS_CREDS: cannot read":           {URL: operatedURL, Creds: filepath.Join(dir, "missing.creds")},
		}},
		{"TLS", config.NATSEnv{URL: tlsURL, TLSCA: caFile}, map[string]config.NATSEnv{
			"signed by an authority that NATS_TLS_CA does not name": {URL: tlsURL, TLSCA: otherFile},
			"certificate": {URL: tlsURL}, // the system's authorities
		}},
		{"mutual TLS", config.NATSEnv{URL: mutualURL, TLSCA: caFile, TLSCert: certFile, TLSKey: keyFile}, map[string]config.NATSEnv{
			"the server wants a client certificate that it trusts (NATS_TLS_CERT and NATS_TLS_KEY): remote error":                            {URL: mutualURL, TLSCA: caFile, TLSCert: strangerFile, TLSKey: strangerKey},
			"the server wants a client certificate that it trusts (NATS_TLS_CERT and NATS_TLS_KEY): remote error: tls: certificate required": {URL: mutualURL, TLSCA: caFile},
		}},
		{"no TLS", config.NATSEnv{URL: plainURL}, map[string]config.NATSEnv{
			"the server offers no TLS, which NATS_URL or NATS_TLS_CA ask for": {URL: plainURL, TLSCA: caFile},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := signIn(t, test.right)
			if err := c.Await(within(t), true); err != nil {
				t.Fatal(err)
			}
			for want, env := range test.wrong {
				log := &lines{}
				c, err := Connect(env, "test", log.logger(), nil)
				var said string
				if err != nil {
					said = err.Error()
				} else {
					ctx, cancel := context.WithTimeout(within(t), 10*time.Second)
					eventually(t, want, func() bool { return strings.Contains(log.String(), want) })
					if signInRefused(c.NC.LastError()) { // who is impatient hears it at once
						if err := c.Await(ctx, true); err == nil || !strings.Contains(err.Error(), want) || ctx.Err() != nil {
							t.Errorf("%q: it waits for %v", want, err)
						}
					}
					cancel()
					said = log.String()
					c.Close()
				}
				if !strings.Contains(said, want) {
					t.Errorf("want %q in:\n%s", want, said)
				}
				if strings.Contains(said, "wrong") {
					t.Errorf("a secret is told:\n%s", said)
				}
			}
		})
	}
}

func signIn(t *testing.T, env config.NATSEnv) *Conn {
	t.Helper()
	c, err := Connect(env, "test", (&lines{}).logger(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// A bridge whose credentials were refused goes on trying: a credentials file may
// be mended, which is read at each attempt.
func TestSignInMended(t *testing.T) {
	t.Parallel()
	url, creds, forged, _ := operated(t)
	mended := fileWith(t, "user.creds", read(t, forged))
	log := &lines{}
	c, err := Connect(config.NATSEnv{URL: url, Creds: mended}, "test", log.logger(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	attempts := func() uint64 { return uint64(log.count("refuses our credentials")) }
	eventually(t, "a refusal", func() bool { return attempts() > 0 && signInRefused(c.NC.LastError()) })
	if err := c.Healthy(); err == nil || !strings.Contains(err.Error(), "refuses our credentials") {
		t.Errorf("healthy: %v", err)
	}
	if err := os.WriteFile(mended, read(t, creds), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Await(within(t), false); err != nil {
		t.Error(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// A stream that somebody else made must be what the bridge needs; each difference
// is told, with what it has to be.
func TestStreamsOfOthers(t *testing.T) {
	t.Parallel()
	c := connect(t, startWith(t, &server.Options{}))
	n := NewNames("bridge")
	wanted := n.Streams(72*time.Hour, 1, 1<<20)
	for i := range wanted {
		makeStream(t, c, wanted[i])
	}
	if err := c.CheckStreams(within(t), wanted, false); err != nil {
		t.Errorf("as they are wanted: %v", err)
	}
	for field, change := range changes() {
		for i := range wanted {
			have := wanted[i]
			change(&have)
			d := differences(&have, &wanted[i])
			if len(d) != 1 || !strings.HasPrefix(d[0], field+" is ") || !strings.Contains(d[0], "must be") {
				t.Errorf("%s of %s: %q", field, have.Name, d)
			}
		}
	}
}

// changes are all that can be wrong with a stream.
func changes() map[string]func(*jetstream.StreamConfig) {
	return map[string]func(*jetstream.StreamConfig){
		"subjects":  func(s *jetstream.StreamConfig) { s.Subjects = []string{"other.>"} },
		"storage":   func(s *jetstream.StreamConfig) { s.Storage = jetstream.MemoryStorage },
		"retention": func(s *jetstream.StreamConfig) { s.Retention = jetstream.InterestPolicy },
		"discard":   func(s *jetstream.StreamConfig) { s.Discard = jetstream.DiscardOld },
		"max_age": func(s *jetstream.StreamConfig) {
			if s.MaxAge++; s.MaxAge == 1 {
				s.MaxAge = time.Hour
			}
		},
		"max_bytes":               func(s *jetstream.StreamConfig) { s.MaxBytes = -1 },
		"max_msgs_per_subject":    func(s *jetstream.StreamConfig) { s.MaxMsgsPerSubject = 7 },
		"discard_new_per_subject": func(s *jetstream.StreamConfig) { s.DiscardNewPerSubject = true },
		"max_msg_size":            func(s *jetstream.StreamConfig) { s.MaxMsgSize = 1024 },
		"max_consumers":           func(s *jetstream.StreamConfig) { s.MaxConsumers = 1 },
		"consumer_limits":         func(s *jetstream.StreamConfig) { s.ConsumerLimits.InactiveThreshold = time.Hour },
		"duplicate_window":        func(s *jetstream.StreamConfig) { s.Duplicates = time.Second },
		"allow_direct":            func(s *jetstream.StreamConfig) { s.AllowDirect = true },
		"no_ack":                  func(s *jetstream.StreamConfig) { s.NoAck = true },
		"sealed":                  func(s *jetstream.StreamConfig) { s.Sealed = true },
		"deny_purge":              func(s *jetstream.StreamConfig) { s.DenyPurge = true },
		"deny_delete":             func(s *jetstream.StreamConfig) { s.DenyDelete = true },
		"mirror":                  func(s *jetstream.StreamConfig) { s.Mirror = &jetstream.StreamSource{Name: "X"} },
		"subject_transform":       func(s *jetstream.StreamConfig) { s.SubjectTransform = &jetstream.SubjectTransformConfig{} },
		"persist_mode":            func(s *jetstream.StreamConfig) { s.PersistMode = jetstream.AsyncPersistMode },
	}
}
