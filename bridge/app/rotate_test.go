package app_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/bus"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
	"github.com/bridge8x8/bridge8x8/config"
)

// secretive values of a generation of secrets.
func generation(n int) map[string]string {
	value := func(name string) string { return fmt.Sprintf("%s-generation-%d", name, n) }
	files := map[string]string{}
	for _, name := range []string{"nats", "membrane", "http", "hook", "path", "shop"} {
		files[name] = value(name) + "\n" // as editors and echo leave it
	}
	files["membrane"] = "pat-" + files["membrane"]
	return files
}

// Every secret changes while events come in: at the same time here and there, and
// first there, where the old one is refused for a while. The process stays the same,
// and each event that it took has one effect and one result.
func TestSecretsChange(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, authorization string
		env                 map[string]string
		workspace           bool
	}{
		{"tokens", `token: %q`, nil, false},
		{"passwords and JWTs", `user: bridge, password: %q`, map[string]string{
			"NATS_USER": "bridge", "MEMBRANE_TOKEN": "", "MEMBRANE_WORKSPACE_KEY": sandbox.WorkspaceKey, "MEMBRANE_TENANT_KEY": sandbox.DefaultTenant,
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			secretsChange(t, test.authorization, test.env, test.workspace)
		})
	}
}

func secretsChange(t *testing.T, authorization string, more map[string]string, workspace bool) {
	t.Helper()
	now := generation(1)
	mount := bridgetest.NewMount(t, now)
	conf := func(files map[string]string) string {
		return "jetstream { store_dir: \"{{dir}}\" }\nauthorization { " + fmt.Sprintf(authorization, strings.TrimSpace(files["nats"])) + " }"
	}
	membrane := func(files map[string]string) string {
		name := "token"
		if workspace {
			name = "workspaceSecret"
		}
		return fmt.Sprintf(`{%q: %q}`, name, strings.TrimSpace(files["membrane"]))
	}
	server := bridgetest.NATSServerConfig(t, conf(now))
	box := bridgetest.StartSandbox(t)
	box.Control("credentials", membrane(now))
	env := map[string]string{
		"NATS_TOKEN_FILE": mount.Path("nats"), "MEMBRANE_TOKEN": "", "MEMBRANE_TOKEN_FILE": mount.Path("membrane"), "BRIDGE_HTTP_TOKEN_FILE": mount.Path("http"),
		"BRIDGE_WEBHOOK_AUTHORIZATION_FILE": mount.Path("hook"), "BRIDGE_WEBHOOK_SECRET_FILE": mount.Path("path"), "SHOP_FILE": mount.Path("shop"), "BRIDGE_ACK_WAIT": "1s", "MEMBRANE_RUN_LIMIT": "1s",
	}
	maps.Copy(env, more)
	if workspace {
		env["NATS_PASSWORD_FILE"], env["MEMBRANE_WORKSPACE_SECRET_FILE"] = env["NATS_TOKEN_FILE"], env["MEMBRANE_TOKEN_FILE"]
		delete(env, "NATS_TOKEN_FILE")
		delete(env, "MEMBRANE_TOKEN_FILE")
	}
	served := bridgetest.Serve(t, server.URL, box, "webhooks:\n  - name: shop\n    auth: {bearer: \"${SHOP}\"}\n"+bridgetest.Routes, env)
	served.Start()
	served.AwaitReady()
	pid := served.PID()

	// try posts once with a generation's secret.
	try := func(path, id string, files map[string]string) (int, error) {
		header := []string{"Content-Type", cloudevent.ContentTypeStructured}
		secret := func(name string) string { return strings.TrimSpace(files[name]) }
		switch path {
		case "/events":
			header = append(header, "Authorization", "Bearer "+secret("http"))
		case "/webhooks/shop":
			header = append(header, "Authorization", "Bearer "+secret("shop"))
		case "/webhooks/8x8":
			header = append(header, "Authorization", secret("hook"))
		default:
			path += secret("path")
		}
		got, err := bridgetest.Do(t.Context(), served.Client, http.MethodPost, served.URL+path, structured(id), header...)
		return got.Status, err
	}

	// A sender posts all the while, again until it is taken, and knows the new secret
	// a little late or early.
	var newest atomic.Pointer[map[string]string]
	know := func(files map[string]string) { newest.Store(&files) }
	know(now)
	var mu sync.Mutex
	var accepted []string
	sending, stop := context.WithCancel(t.Context())
	sent := make(chan error, 1)
	go func() {
		sent <- func() error {
			for n := 0; sending.Err() == nil; n++ {
				id, path := fmt.Sprintf("evt-%d", n), []string{"/events", "/webhooks/shop"}[n%2]
				for status := 0; status != http.StatusAccepted; {
					var err error
					if status, err = try(path, id, *newest.Load()); err != nil {
						return err
					}
					switch status {
					case http.StatusAccepted, http.StatusUnauthorized, http.StatusServiceUnavailable:
					default:
						return fmt.Errorf("%s at %s: %d", id, path, status)
					}
					select {
					case <-sending.Done():
						if status != http.StatusAccepted {
							return nil
						}
					case <-time.After(10 * time.Millisecond):
					}
				}
				mu.Lock()
				accepted = append(accepted, id)
				mu.Unlock()
			}
			return nil
		}()
	}()
	defer stop()
	arrived := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(accepted)
	}
	more50 := func(what string) {
		t.Helper()
		want, effects := arrived()+50, box.CountEffects()+50
		bridgetest.Await(t, "events and effects "+what, func() error {
			if a, e := arrived(), box.CountEffects(); a < want || e < effects {
				return fmt.Errorf("%d of %d events, %d of %d effects", a, want, e, effects)
			}
			return nil
		})
	}
	doors := []string{"/events", "/webhooks/shop", "/webhooks/8x8", "/webhooks/8x8/"}
	onlyNew := func(old, files map[string]string) {
		t.Helper()
		for _, path := range doors {
			bridgetest.Await(t, "the new secret of "+path, func() error {
				if status, err := try(path, "door", files); err != nil || status/100 != 2 {
					return fmt.Errorf("%d, %w", status, err)
				}
				return nil
			})
			if status, err := try(path, "old", old); err != nil || status != http.StatusUnauthorized {
				t.Errorf("%s with the old secret: %d, %v", path, status, err)
			}
		}
	}
	more50("at first")

	// Here first, told by SIGHUP.
	before, next := now, generation(2)
	mount.Swap(next)
	served.Signal(syscall.SIGHUP)
	know(next)
	onlyNew(before, next)
	box.Control("credentials", membrane(next))
	server.Reconfigure(conf(next))
	more50("after the files changed first")

	// There first, and found out here by itself.
	before, next = next, generation(3)
	box.Control("credentials", membrane(next))
	server.Reconfigure(conf(next))
	bridgetest.Await(t, "the bridge to be thrown out", func() error {
		if served.Get("/readyz").Status == http.StatusOK {
			return errors.New("it is ready")
		}
		return nil
	})
	mount.Swap(next)
	know(next)
	served.AwaitReady()
	more50("after the servers changed first")
	onlyNew(before, next)

	// What cannot be read changes nothing.
	broken := generation(4)
	broken["http"] = ""
	delete(broken, "shop")
	mount.Swap(broken)
	served.Signal(syscall.SIGHUP)
	bridgetest.Await(t, "words about the broken files", func() error {
		if len(served.Log.Lines("the secrets were not read again")) != 1 || len(served.Log.Lines("was not reloaded")) == 0 {
			return errors.New("none")
		}
		return nil
	})
	more50("with broken files")
	stop()
	if err := <-sent; err != nil {
		t.Fatal(err)
	}

	token := strings.TrimSpace(next["nats"])
	as := nats.Token(token)
	if workspace {
		as = nats.UserInfo("bridge", token)
	}
	nc, err := nats.Connect(server.URL, as)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	b := &observed{t: t, nc: nc, js: js}
	b.awaitIdle()
	mu.Lock()
	defer mu.Unlock()
	ids := append(accepted, "door")
	if diff := cmp.Diff(once(ids), counts(bridgetest.ByEvent(box.Effects()))); diff != "" {
		t.Errorf("effects by event (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(once(ids), counts(b.results())); diff != "" {
		t.Errorf("results by event (-want +got):\n%s", diff)
	}
	if letters := b.letters(); len(letters) > 0 {
		t.Errorf("held: %v", letters)
	}
	if !served.Running() || served.PID() != pid {
		t.Error("it was restarted")
	}
	if log := served.Log.String(); strings.Contains(log, "-generation-") {
		t.Error("the log shows a secret")
	}
	t.Logf("%d events while all secrets changed twice", len(ids))
}

// What files hold for NATS is read anew for each connection, and a server that
// refuses the old for a while is asked again.
func TestNATSFilesChange(t *testing.T) {
	t.Parallel()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	nkeyUser := func() map[string]string {
		user, err := nkeys.CreateUser()
		check(err)
		public, err := user.PublicKey()
		check(err)
		seed, err := user.Seed()
		check(err)
		return map[string]string{"seed": string(seed), "public": public}
	}
	operator, err := nkeys.CreateOperator()
	check(err)
	account, err := nkeys.CreateAccount()
	check(err)
	operatorKey, err := operator.PublicKey()
	check(err)
	accountKey, err := account.PublicKey()
	check(err)
	operatorJWT, err := jwt.NewOperatorClaims(operatorKey).Encode(operator)
	check(err)
	accounts := jwt.NewAccountClaims(accountKey)
	credsUser := func() map[string]string {
		user := nkeyUser()
		claims := jwt.NewUserClaims(user["public"])
		token, err := claims.Encode(account)
		check(err)
		creds, err := jwt.FormatUserConfig(token, []byte(user["seed"]))
		check(err)
		user["creds"] = string(creds)
		return user
	}
	revoked := "" // who was let in before
	ca := bridgetest.NewCA(t)
	serverCert, serverKey := ca.Issue(t, nil)
	dir := t.TempDir()
	for name, content := range map[string][]byte{"crt": serverCert, "key": serverKey, "ca": ca.PEM} {
		check(os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	certUser := func() map[string]string {
		name := fmt.Sprint("user-", time.Now().UnixNano())
		cert, key := ca.Issue(t, func(c *x509.Certificate) { c.DNSNames = []string{name} })
		return map[string]string{"cert": string(cert), "certkey": string(key), "name": name}
	}
	for name, test := range map[string]struct {
		user func() map[string]string
		conf func(user map[string]string) string
		env  func(m *bridgetest.Mount) config.NATSEnv
	}{
		"NKey": {
			nkeyUser, func(user map[string]string) string {
				return fmt.Sprintf("authorization { users: [{nkey: %s}] }", user["public"])
			}, func(m *bridgetest.Mount) config.NATSEnv { return config.NATSEnv{NKey: m.Path("seed")} },
		},
		"credentials": {
			credsUser, func(user map[string]string) string {
				if revoked != "" {
					accounts.RevokeAt(revoked, time.Now().Add(time.Hour))
				}
				revoked = user["public"]
				token, err := accounts.Encode(operator)
				check(err)
				return fmt.Sprintf("operator: %s\nresolver: MEMORY\nresolver_preload: { %s: %s }", operatorJWT, accountKey, token)
			}, func(m *bridgetest.Mount) config.NATSEnv { return config.NATSEnv{Creds: m.Path("creds")} },
		},
		"certificate": {
			certUser, func(user map[string]string) string {
				return fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify_and_map: true }\nauthorization { users: [{user: %q}] }",
					filepath.Join(dir, "crt"), filepath.Join(dir, "key"), filepath.Join(dir, "ca"), user["name"])
			}, func(m *bridgetest.Mount) config.NATSEnv {
				return config.NATSEnv{TLSCA: filepath.Join(dir, "ca"), TLSCert: m.Path("cert"), TLSKey: m.Path("certkey")}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, second := test.user(), test.user()
			mount := bridgetest.NewMount(t, first)
			server := bridgetest.NATSServerConfig(t, test.conf(first))
			env := test.env(mount)
			env.URL = server.URL
			var connected atomic.Int64
			conn, err := bus.Connect(env, "test", slog.New(slog.DiscardHandler), func(up bool) {
				if up {
					connected.Add(1)
				}
			})
			check(err)
			t.Cleanup(conn.Close)
			works := func() error {
				if !conn.NC.IsConnected() {
					return fmt.Errorf("it is %s: %w", conn.NC.Status(), conn.NC.LastError())
				}
				return conn.NC.FlushTimeout(2 * time.Second)
			}
			bridgetest.Await(t, "a connection", works)
			server.Reconfigure(test.conf(second))
			bridgetest.Await(t, "several refusals", func() error {
				if n := len(server.Log.Lines("uthentication error")) + len(server.Log.Lines("uthorization")) + len(server.Log.Lines("revoked")); n < 4 {
					return fmt.Errorf("%d", n)
				}
				return nil
			})
			if conn.NC.IsClosed() {
				t.Fatal("it gave up")
			}
			before := connected.Load()
			mount.Swap(second)
			bridgetest.Await(t, "a connection with the new one", works)
			if connected.Load() == before {
				t.Error("it was never thrown out")
			}
		})
	}
}
