package config_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"github.com/bridge8x8/bridge8x8/config"
)

var reveal = cmp.Transformer("reveal", config.Secret.Reveal)

func TestEnvDefaults(t *testing.T) {
	t.Parallel()
	got, problems := config.LoadEnv(nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	want := config.Env{
		NATS:     config.NATSEnv{URL: "nats://127.0.0.1:4222"},
		Membrane: config.MembraneEnv{APIURL: "https://api.getmembrane.com", RunLimit: time.Minute},
		Bridge: config.BridgeEnv{
			Name: "bridge8x8", Config: "bridge.yaml", DataDir: "./data", Prefix: "bridge", SinkEncoding: "binary",
			HTTPAddr: "127.0.0.1:8080", AdminAddr: "127.0.0.1:9090", Concurrency: 64,
			AckWait: 30 * time.Second, Grace: 25 * time.Second, Replicas: 1, Retention: 72 * time.Hour,
			ClientRate: 60000, Connections: 256,
			MaxEvent: 1<<20 - 32<<10, Encoding: "structured",
		},
		Log: config.LogEnv{Level: "info"},
	}
	if diff := cmp.Diff(want, got, reveal); diff != "" {
		t.Errorf("env (-want +got):\n%s", diff)
	}
}

func TestEnvEverything(t *testing.T) {
	t.Parallel()
	got, problems := config.LoadEnv(map[string]string{
		"NATS_URL": "tls://a.example.com:4222, b.example.com", "NATS_USER": "u", "NATS_PASSWORD": "p",
		"NATS_TLS_CA": "ca.pem", "NATS_TLS_CERT": "c.pem", "NATS_TLS_KEY": "k.pem",
		"MEMBRANE_API_URL": "http://127.0.0.1:8081", "MEMBRANE_WORKSPACE_KEY": "w", "MEMBRANE_WORKSPACE_SECRET": "s",
		"MEMBRANE_TENANT_KEY": "t", "MEMBRANE_CONNECTION": "c", "MEMBRANE_RUN_LIMIT": "90s",
		"BRIDGE_NAME": "eu-1", "BRIDGE_CONFIG": "x.yaml", "BRIDGE_DATA_DIR": "/data", "BRIDGE_PREFIX": "b_2-x",
		"BRIDGE_HTTP_ADDR": ":80", "BRIDGE_ADMIN_ADDR": "[::1]:90",
		"BRIDGE_CONCURRENCY": "4096", "BRIDGE_ACK_WAIT": "1s", "BRIDGE_GRACE": "0s", "BRIDGE_REPLICAS": "3",
		"BRIDGE_RETENTION": "7d", "BRIDGE_COMMANDS": "true", "K_SINK": "https://sink.example.com/x", "BRIDGE_SINK_TOKEN": "st",
		"BRIDGE_SINK_ENCODING": "structured", "K_CE_OVERRIDES": `{"extensions":{"tier":"gold"},"other":1}`,
		"BRIDGE_HTTP_TOKEN_2": "two", "BRIDGE_ALLOW_UNAUTHENTICATED": "1", "BRIDGE_HTTP_ORIGINS": "a.example.com, *,",
		"BRIDGE_HTTP_RATE": "600", "BRIDGE_MAX_EVENT": "65536", "BRIDGE_WEBHOOK_SECRET": "ws",
		"BRIDGE_WEBHOOK_AUTHORIZATION": "Bearer wa", "BRIDGE_ENCODING": "binary", "LOG_LEVEL": "DEBUG", "LOG_FORMAT": "json",
	})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	want := config.Env{
		NATS: config.NATSEnv{
			URL: "tls://a.example.com:4222, b.example.com", User: "u", Password: "p",
			TLSCA: "ca.pem", TLSCert: "c.pem", TLSKey: "k.pem",
		},
		Membrane: config.MembraneEnv{
			APIURL: "http://127.0.0.1:8081", WorkspaceKey: "w", WorkspaceSecret: "s", TenantKey: "t",
			Connection: "c", RunLimit: 90 * time.Second,
		},
		Bridge: config.BridgeEnv{
			Name: "eu-1", Config: "x.yaml", DataDir: "/data", Prefix: "b_2-x", HTTPAddr: ":80", AdminAddr: "[::1]:90",
			Concurrency: 4096, AckWait: time.Second, Replicas: 3, Retention: 7 * 24 * time.Hour, Commands: true,
			SinkURL: "https://sink.example.com/x", SinkToken: "st", SinkEncoding: "structured", SinkExtensions: map[string]string{"tier": "gold"}, HTTPTokens: []config.Secret{"two"}, AllowUnauthenticated: true,
			HTTPOrigins: []string{"a.example.com", "*"}, HTTPRate: 600, ClientRate: 60000, Connections: 256, MaxEvent: 65536,
			WebhookSecret: "ws", WebhookAuth: "Bearer wa", Encoding: "binary",
		},
		Log: config.LogEnv{Level: "debug", Format: "json"},
	}
	if diff := cmp.Diff(want, got, reveal); diff != "" {
		t.Errorf("env (-want +got):\n%s", diff)
	}
}

// Set but empty is not the default for the one variable where empty means off.
func TestEnvEmptyIsUnsetExceptHTTPAddr(t *testing.T) {
	t.Parallel()
	environ := map[string]string{"BRIDGE_TEST_SERVER": ""}
	for _, v := range config.EnvReference() {
		environ[v.Name] = ""
		if v.Secret {
			environ[v.Name+"_FILE"] = ""
		}
	}
	got, problems := config.LoadEnv(environ)
	want, _ := config.LoadEnv(nil)
	want.Bridge.HTTPAddr = ""
	if diff := cmp.Diff(want, got, reveal); diff != "" || len(problems) > 0 {
		t.Errorf("%v\nenv (-want +got):\n%s", problems, diff)
	}
}

func TestEnvProblems(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		environ map[string]string
		want    string // every problem, without hints
	}{
		{"no number", map[string]string{"BRIDGE_CONCURRENCY": "many"}, `error: BRIDGE_CONCURRENCY is "many", which is no whole number (bad-value)`},
		{"too large a number", map[string]string{"BRIDGE_REPLICAS": "99999999999"}, `error: BRIDGE_REPLICAS is "99999999999", which is too large (bad-value)`},
		{"concurrency 0", map[string]string{"BRIDGE_CONCURRENCY": "0"}, `error: BRIDGE_CONCURRENCY is 0, and must be 1 to 4096 (bad-value)`},
		{"concurrency 4097", map[string]string{"BRIDGE_CONCURRENCY": "4097"}, `error: BRIDGE_CONCURRENCY is 4097, and must be 1 to 4096 (bad-value)`},
		{"no duration", map[string]string{"BRIDGE_ACK_WAIT": "30"}, `error: BRIDGE_ACK_WAIT is "30", which is no duration (bad-duration)`},
		{"short ack wait", map[string]string{"BRIDGE_ACK_WAIT": "999ms"}, `error: BRIDGE_ACK_WAIT is 999ms, less than 1s (bad-value)`},
		{"negative grace", map[string]string{"BRIDGE_GRACE": "-1s"}, `error: BRIDGE_GRACE is -1s, less than nothing (bad-value)`},
		{"no bool", map[string]string{"BRIDGE_COMMANDS": "yes"}, `error: BRIDGE_COMMANDS is "yes", which is neither true nor false (bad-value)`},
		{"two replicas", map[string]string{"BRIDGE_REPLICAS": "2"}, `error: BRIDGE_REPLICAS is 2, and must be 1, 3 or 5 (bad-value)`},
		{"replicas of one server", map[string]string{"BRIDGE_REPLICAS": "3", "NATS_URL": "embedded"}, `error: BRIDGE_REPLICAS is 3, but NATS_URL=embedded is one server (bad-nesting)`},
		{"short retention", map[string]string{"BRIDGE_RETENTION": "61m", "MEMBRANE_RUN_LIMIT": "1m"}, `error: BRIDGE_RETENTION is 1h1m, which is not longer than MEMBRANE_RUN_LIMIT (1m) + 1h: a record could be forgotten while its run can still be heard of (bad-nesting)`},
		{"long run limit", map[string]string{"MEMBRANE_RUN_LIMIT": "4d"}, `error: BRIDGE_RETENTION is 72h, which is not longer than MEMBRANE_RUN_LIMIT (96h) + 1h: a record could be forgotten while its run can still be heard of (bad-nesting)`},
		{"no run limit", map[string]string{"MEMBRANE_RUN_LIMIT": "0s"}, `error: MEMBRANE_RUN_LIMIT is 0s, less than 1s (bad-value)`},
		{"bad prefix", map[string]string{"BRIDGE_PREFIX": "a.b"}, `error: BRIDGE_PREFIX is "a.b", which cannot be part of a NATS subject (bad-name)`},
		{"bad name", map[string]string{"BRIDGE_NAME": "a b"}, `error: BRIDGE_NAME is "a b", which cannot be part of the source of an event (bad-name)`},
		{"no port", map[string]string{"BRIDGE_HTTP_ADDR": "localhost"}, `error: BRIDGE_HTTP_ADDR is "localhost", which is no address to listen on (bad-address)`},
		{"bad proxy", map[string]string{"BRIDGE_HTTP_PROXIES": "10.0.0.0/8, proxy"}, `error: BRIDGE_HTTP_PROXIES holds "proxy", which is no address (bad-address)`},
		{"negative client rate", map[string]string{"BRIDGE_HTTP_CLIENT_RATE": "-1"}, `error: BRIDGE_HTTP_CLIENT_RATE is -1, less than nothing (bad-value)`},
		{"no connections", map[string]string{"BRIDGE_HTTP_CONNECTIONS": "0"}, `error: BRIDGE_HTTP_CONNECTIONS is 0, and must be 8 to 65536 (bad-value)`},
		{"half of TLS", map[string]string{"BRIDGE_TLS_CERT": "c"}, `error: BRIDGE_TLS_CERT is set, but BRIDGE_TLS_KEY is not (half-set)`},
		{"clients without a CA", map[string]string{"BRIDGE_TLS_CLIENT_NAMES": " a , b"}, `error: BRIDGE_TLS_CLIENT_NAMES is set, but BRIDGE_TLS_CLIENT_CA is not (half-set)`},
		{"bad port", map[string]string{"BRIDGE_ADMIN_ADDR": ":http"}, `error: BRIDGE_ADMIN_ADDR is ":http", which is no address to listen on (bad-address)`},
		{"same address", map[string]string{"BRIDGE_ADMIN_ADDR": "127.0.0.1:8080"}, `error: BRIDGE_ADMIN_ADDR and BRIDGE_HTTP_ADDR are both "127.0.0.1:8080" (same-address)`},
		{"both on any port", map[string]string{"BRIDGE_ADMIN_ADDR": "127.0.0.1:0", "BRIDGE_HTTP_ADDR": "127.0.0.1:0"}, ``},
		{"nats address without server", map[string]string{"BRIDGE_NATS_ADDR": "127.0.0.1:4222"}, `warning: BRIDGE_NATS_ADDR has no effect, since NATS_URL is not embedded (no-effect)`},
		{"http sink", map[string]string{"BRIDGE_SINK_URL": "ftp://sink.example.com"}, `error: BRIDGE_SINK_URL is "ftp://sink.example.com", which is no http or https address (bad-url)`},
		{"sink with a user", map[string]string{"BRIDGE_SINK_URL": "https://me:hidden@sink.example.com"}, `error: BRIDGE_SINK_URL holds a user or a password (bad-url)`},
		{"sink with a fragment", map[string]string{"K_SINK": "https://sink.example.com/#x"}, `error: K_SINK holds a fragment (#…), which is never sent (bad-url)`},
		{"sink token in clear", map[string]string{"BRIDGE_SINK_URL": "http://sink.example.com", "BRIDGE_SINK_TOKEN": "hidden"}, `warning: BRIDGE_SINK_URL is a http address, so BRIDGE_SINK_TOKEN can be read on the way (token-in-clear)`},
		{"sink token on this machine", map[string]string{"BRIDGE_SINK_URL": "http://127.0.0.1", "BRIDGE_SINK_TOKEN": "hidden"}, ``},
		{"no sink", map[string]string{"BRIDGE_SINK_TOKEN": "hidden"}, `warning: BRIDGE_SINK_TOKEN or K_CE_OVERRIDES has no effect, since there is no sink (no-effect)`},
		{"sink encoding", map[string]string{"BRIDGE_SINK_ENCODING": "bin"}, `error: BRIDGE_SINK_ENCODING is "bin", and must be binary or structured (bad-value)`},
		{"overrides are no JSON", map[string]string{"K_SINK": "http://a", "K_CE_OVERRIDES": "tier=gold"}, `error: K_CE_OVERRIDES is no JSON object with texts under extensions (bad-value)`},
		{"overrides are no texts", map[string]string{"K_SINK": "http://a", "K_CE_OVERRIDES": `{"extensions":{"tier":1}}`}, `error: K_CE_OVERRIDES is no JSON object with texts under extensions (bad-value)`},
		{"overrides of an attribute", map[string]string{"K_SINK": "http://a", "K_CE_OVERRIDES": `{"extensions":{"source":"x"}}`}, `error: K_CE_OVERRIDES sets "source", which is no extension (bad-value)`},
		{"overrides of no name", map[string]string{"K_SINK": "http://a", "K_CE_OVERRIDES": `{"extensions":{"My-Tier":"x"}}`}, `error: K_CE_OVERRIDES sets "My-Tier", which cannot be the name of an extension (bad-value)`},
		{"overrides without a value", map[string]string{"K_SINK": "http://a", "K_CE_OVERRIDES": `{"extensions":{"tier":""}}`}, `error: K_CE_OVERRIDES sets "tier" to a text that is empty or holds control characters (bad-value)`},
		{"knative sink", map[string]string{"K_SINK": "sink.example.com"}, `error: K_SINK is "sink.example.com", which is no http or https address (bad-url)`},
		{"two sinks", map[string]string{"K_SINK": "http://a.example.com", "BRIDGE_SINK_URL": "http://b.example.com"}, `warning: K_SINK is not used, since BRIDGE_SINK_URL is set as well (set-twice)`},
		{"url with password", map[string]string{"BRIDGE_SINK_URL": "//me:hidden@sink.example.com?key=hidden"}, `error: BRIDGE_SINK_URL is "<secret>@sink.example.com", which is no http or https address (bad-url)`},
		{"api url", map[string]string{"MEMBRANE_API_URL": "api.example.com"}, `error: MEMBRANE_API_URL is "api.example.com", which is no http or https address (bad-url)`},
		{"nats url", map[string]string{"NATS_URL": "nats://a.example.com,http://me:hidden@b.example.com,"}, `error: NATS_URL holds "http://<secret>@b.example.com", which is no NATS server (bad-url)
error: NATS_URL holds "", which is no NATS server (bad-url)`},
		{"embedded and another", map[string]string{"NATS_URL": "embedded,nats://a.example.com"}, `error: NATS_URL holds "embedded", which is no NATS server (bad-url)`},
		{"negative rate", map[string]string{"BRIDGE_HTTP_RATE": "-1"}, `error: BRIDGE_HTTP_RATE is -1, less than nothing (bad-value)`},
		{"small events", map[string]string{"BRIDGE_MAX_EVENT": "65535"}, `error: BRIDGE_MAX_EVENT is 65535, and must be 65536 to 67108864 bytes (bad-value)`},
		{"encoding", map[string]string{"BRIDGE_ENCODING": "Binary"}, `error: BRIDGE_ENCODING is "Binary", and must be structured or binary (bad-value)`},
		{"log", map[string]string{"LOG_LEVEL": "warning", "LOG_FORMAT": "xml"}, `error: LOG_LEVEL is "warning", and must be debug, info, warn or error (bad-value)
error: LOG_FORMAT is "xml", and must be text or json (bad-value)`},
		{"password without user", map[string]string{"NATS_PASSWORD": "hidden"}, `error: NATS_PASSWORD is set, but NATS_USER is not (half-set)`},
		{"certificate without key", map[string]string{"NATS_TLS_CERT": "c"}, `error: NATS_TLS_CERT is set, but NATS_TLS_KEY is not (half-set)`},
		{"key without certificate", map[string]string{"NATS_TLS_KEY": "c"}, `error: NATS_TLS_KEY is set, but NATS_TLS_CERT is not (half-set)`},
		{"two ways into nats", map[string]string{"NATS_TOKEN": "hidden", "NATS_CREDS": "c"}, `error: NATS_CREDS and NATS_TOKEN are different ways to sign in, and only one can be used (set-twice)`},
		{"half a workspace", map[string]string{"MEMBRANE_WORKSPACE_SECRET": "hidden"}, `error: MEMBRANE_WORKSPACE_SECRET without MEMBRANE_WORKSPACE_KEY and MEMBRANE_TENANT_KEY is not enough to sign in (half-set)`},
		{"no tenant", map[string]string{"MEMBRANE_WORKSPACE_SECRET": "hidden", "MEMBRANE_WORKSPACE_KEY": "k"}, `error: MEMBRANE_WORKSPACE_KEY and MEMBRANE_WORKSPACE_SECRET without MEMBRANE_TENANT_KEY is not enough to sign in (half-set)`},
		{"token and workspace", map[string]string{"MEMBRANE_TOKEN": "hidden", "MEMBRANE_WORKSPACE_KEY": "k"}, `error: MEMBRANE_TOKEN and MEMBRANE_WORKSPACE_KEY are both set, and only one way to sign in can be used (set-twice)`},
		{"token and tenant", map[string]string{"MEMBRANE_TOKEN": "hidden", "MEMBRANE_TENANT_KEY": "t"}, ``},
		{"line break in a secret", map[string]string{"MEMBRANE_TOKEN": "hidden\n"}, `error: MEMBRANE_TOKEN holds a line break or another control character (bad-secret)`},
		{"misspelt", map[string]string{"BRIDGE_CONCURENCY": "1", "MEMBRANE_TOKEN_FIEL": "x", "NATS_URLS": "x", "BRIDGE_WHATEVER_ELSE": "x"}, `warning: BRIDGE_CONCURENCY is not a variable of bridge8x8, and has no effect (unknown-variable)
warning: BRIDGE_WHATEVER_ELSE is not a variable of bridge8x8, and has no effect (unknown-variable)
warning: MEMBRANE_TOKEN_FIEL is not a variable of bridge8x8, and has no effect (unknown-variable)
warning: NATS_URLS is not a variable of bridge8x8, and has no effect (unknown-variable)`},
		{"a file for what is no secret", map[string]string{"MEMBRANE_CONNECTION_FILE": "x"}, `warning: MEMBRANE_CONNECTION_FILE is not a variable of bridge8x8, and has no effect (unknown-variable)`},
		{"not ours", map[string]string{
			"BRIDGE_TEST_NATS": "x", "BENCH_N": "1", "NATS_SERVER_CONFIG_DIR": "x", "HOME": "/root",
			"BRIDGE_SERVICE_HOST": "10.0.0.1", "BRIDGE_SERVICE_PORT_HTTP": "80", "BRIDGE_PORT": "tcp://10.0.0.1:80",
			"BRIDGE_PORT_80_TCP": "tcp://10.0.0.1:80", "BRIDGE_PORT_80_TCP_ADDR": "10.0.0.1", "NATS_PORT": "tcp://10.0.0.2:4222",
		}, ``},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, problems := config.LoadEnv(c.environ)
			var lines []string
			for _, p := range problems {
				if strings.Contains(p.String(), "hidden") {
					t.Errorf("a secret is shown: %v", p)
				}
				p.Hint = ""
				lines = append(lines, p.String())
			}
			if diff := cmp.Diff(c.want, strings.Join(lines, "\n")); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEnvHints(t *testing.T) {
	t.Parallel()
	_, problems := config.LoadEnv(map[string]string{
		"BRIDGE_CONCURRENCY": "many", "BRIDGE_ACK_WAIT": "30", "BRIDGE_CONFG": "x", "LOG_LEVEL": "warning", "MEMBRANE_CONNECTION_FILE": "x",
	})
	want := `error: BRIDGE_CONCURRENCY is "many", which is no whole number (bad-value)
    hint: write digits only, such as BRIDGE_CONCURRENCY=64
error: BRIDGE_ACK_WAIT is "30", which is no duration (bad-duration)
    hint: write numbers with units, such as BRIDGE_ACK_WAIT=30s
error: LOG_LEVEL is "warning", and must be debug, info, warn or error (bad-value)
    hint: write debug, info, warn or error
warning: BRIDGE_CONFG is not a variable of bridge8x8, and has no effect (unknown-variable)
    hint: did you mean BRIDGE_CONFIG?
warning: MEMBRANE_CONNECTION_FILE is not a variable of bridge8x8, and has no effect (unknown-variable)
    hint: only secrets are read from files: set MEMBRANE_CONNECTION`
	if diff := cmp.Diff(want, problems.Error()); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestSecretFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for content, want := range map[string]string{
		"hidden": "hidden", "hidden\n": "hidden", "hidden\r\n": "hidden", " hidden ": " hidden ",
	} {
		path := file("token", content)
		e, problems := config.LoadEnv(map[string]string{"MEMBRANE_TOKEN_FILE": path, "MEMBRANE_TOKEN": ""})
		if len(problems) > 0 || e.Membrane.Token.Reveal() != want {
			t.Errorf("%q: %q, %v", content, e.Membrane.Token.Reveal(), problems)
		}
	}

	nowhere, empty, lines := filepath.Join(dir, "nowhere"), file("empty", "\n"), file("lines", "hidden\nhidden\n")
	_, problems := config.LoadEnv(map[string]string{
		"MEMBRANE_TOKEN_FILE":          nowhere,
		"NATS_TOKEN":                   "hidden",
		"NATS_TOKEN_FILE":              file("both", "hidden"),
		"BRIDGE_HTTP_TOKEN_FILE":       empty,
		"BRIDGE_HTTP_TOKEN_2_FILE":     dir,
		"BRIDGE_WEBHOOK_SECRET_FILE":   lines,
		"MEMBRANE_WORKSPACE_KEY":       "k",
		"MEMBRANE_TENANT_KEY":          "t",
		"BRIDGE_HTTP_TOKEN_3_FILE":     "x",
		"MEMBRANE_WORKSPACE_KEY_FILE":  "x",
		"BRIDGE_TEST_SOMETHING_FILE":   "x",
		"BRIDGE_WEBHOOK_AUTHORIZATION": "",
	})
	want := `error: NATS_TOKEN and NATS_TOKEN_FILE are both set (set-twice)
    hint: keep one of the two
error: MEMBRANE_TOKEN_FILE names the file "` + nowhere + `", which cannot be used: no such file or directory (secret-file)
error: BRIDGE_WEBHOOK_SECRET holds a line break or another control character (bad-secret)
    hint: check for a stray line break in the middle or at the end
error: BRIDGE_HTTP_TOKEN_FILE names the file "` + empty + `", which cannot be used: it is empty (secret-file)
error: BRIDGE_HTTP_TOKEN_2_FILE names the file "` + dir + `", which cannot be used: is a directory (secret-file)
error: MEMBRANE_WORKSPACE_KEY and MEMBRANE_TENANT_KEY without MEMBRANE_WORKSPACE_SECRET is not enough to sign in (half-set)
    hint: set all three of MEMBRANE_WORKSPACE_KEY, MEMBRANE_WORKSPACE_SECRET and MEMBRANE_TENANT_KEY, or MEMBRANE_TOKEN alone
warning: BRIDGE_HTTP_TOKEN_3_FILE is not a variable of bridge8x8, and has no effect (unknown-variable)
    hint: did you mean BRIDGE_HTTP_TOKEN_2_FILE?
warning: MEMBRANE_WORKSPACE_KEY_FILE is not a variable of bridge8x8, and has no effect (unknown-variable)
    hint: only secrets are read from files: set MEMBRANE_WORKSPACE_KEY`
	if diff := cmp.Diff(want, problems.Error()); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

// Whatever else is wrong, the value of a secret variable is in no problem.
func TestEnvNeverQuotesSecrets(t *testing.T) {
	t.Parallel()
	for _, hidden := range []string{"hunter2", "hunter2\nhunter2", "${hunter2}", "hunter2=%s,hunter2"} {
		environ := map[string]string{}
		for _, v := range config.EnvReference() {
			environ[v.Name] = "x y"
			if v.Secret {
				environ[v.Name] = hidden
			}
		}
		e, problems := config.LoadEnv(environ)
		if len(problems) < 10 {
			t.Errorf("only %d problems", len(problems))
		}
		if text := problems.Error() + e.CheckListeners(nil).Error(); strings.Contains(text, "hunter2") {
			t.Errorf("a secret is shown:\n%s", text)
		}
	}
}

func TestRequireMembrane(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		environ map[string]string
		missing bool
	}{
		{nil, true},
		{map[string]string{"MEMBRANE_TOKEN": "t"}, false},
		{map[string]string{"MEMBRANE_WORKSPACE_KEY": "k", "MEMBRANE_WORKSPACE_SECRET": "s", "MEMBRANE_TENANT_KEY": "t"}, false},
		{map[string]string{"MEMBRANE_TENANT_KEY": "t"}, true},
	} {
		e, _ := config.LoadEnv(c.environ)
		if got := e.RequireMembrane(); got.Errors() != c.missing {
			t.Errorf("%v: %v", c.environ, got)
		}
	}
}

func TestLoopback(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]bool{
		"127.0.0.1:8080": true, "127.9.9.9:1": true, "[::1]:80": true, "[::ffff:127.0.0.1]:80": true, "localhost:80": true, "LOCALHOST:0": true,
		":8080": false, "0.0.0.0:80": false, "[::]:80": false, "10.0.0.1:80": false, "localhost.example.com:80": false, "": false, "127.0.0.1": false,
	} {
		if got := config.Loopback(addr); got != want {
			t.Errorf("%q: %v", addr, got)
		}
	}
}

func TestCheckListeners(t *testing.T) {
	t.Parallel()
	f, problems := config.Parse("x.yaml", []byte("webhooks:\n- {name: shop, auth: {bearer: '${SHOP_TOKEN}'}}\n- {name: open}\nroutes: []\n"), variables)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	for _, c := range []struct {
		name    string
		environ map[string]string
		want    string
	}{
		{"loopback", nil, ""},
		{"everything open", map[string]string{"BRIDGE_HTTP_ADDR": ":8080", "BRIDGE_ADMIN_ADDR": "0.0.0.0:9090", "NATS_URL": "embedded", "BRIDGE_NATS_ADDR": ":4222"},
			`error: BRIDGE_HTTP_ADDR (:8080) listens beyond loopback without authentication for POST /events (unauthenticated-listener)
    hint: set BRIDGE_HTTP_TOKEN, or BRIDGE_TLS_CLIENT_NAMES, or listen on 127.0.0.1, or set BRIDGE_ALLOW_UNAUTHENTICATED=true
error: BRIDGE_HTTP_ADDR (:8080) listens beyond loopback without authentication for POST /webhooks/8x8 (unauthenticated-listener)
    hint: set BRIDGE_WEBHOOK_SECRET or BRIDGE_WEBHOOK_AUTHORIZATION, or listen on 127.0.0.1, or set BRIDGE_ALLOW_UNAUTHENTICATED=true
x.yaml:3:3: error: BRIDGE_HTTP_ADDR (:8080) listens beyond loopback without authentication for POST /webhooks/open (unauthenticated-listener)
    hint: give the webhook auth: {bearer: "${NAME}"}, or listen on 127.0.0.1, or set BRIDGE_ALLOW_UNAUTHENTICATED=true
error: BRIDGE_ADMIN_ADDR (0.0.0.0:9090) listens beyond loopback without authentication for the admin API, which has none (unauthenticated-listener)
    hint: listen on 127.0.0.1, with a proxy that signs people in before it, or set BRIDGE_ADMIN_ALLOW_UNAUTHENTICATED=true
error: BRIDGE_NATS_ADDR (:4222) listens beyond loopback without authentication for the embedded NATS server (unauthenticated-listener)
    hint: set NATS_TOKEN, or NATS_USER and NATS_PASSWORD, or listen on 127.0.0.1, or set BRIDGE_ALLOW_UNAUTHENTICATED=true`},
		{"the admin's alone is permitted", map[string]string{"BRIDGE_HTTP_ADDR": "", "BRIDGE_ADMIN_ADDR": "0.0.0.0:9090", "BRIDGE_ADMIN_ALLOW_UNAUTHENTICATED": "true"}, ""},
		{"which is nothing for the others", map[string]string{"BRIDGE_HTTP_ADDR": ":8080", "BRIDGE_WEBHOOK_SECRET": "s", "BRIDGE_ADMIN_ADDR": "0.0.0.0:9090", "BRIDGE_ADMIN_ALLOW_UNAUTHENTICATED": "true"},
			`error: BRIDGE_HTTP_ADDR (:8080) listens beyond loopback without authentication for POST /events (unauthenticated-listener)
    hint: set BRIDGE_HTTP_TOKEN, or BRIDGE_TLS_CLIENT_NAMES, or listen on 127.0.0.1, or set BRIDGE_ALLOW_UNAUTHENTICATED=true
x.yaml:3:3: error: BRIDGE_HTTP_ADDR (:8080) listens beyond loopback without authentication for POST /webhooks/open (unauthenticated-listener)
    hint: give the webhook auth: {bearer: "${NAME}"}, or listen on 127.0.0.1, or set BRIDGE_ALLOW_UNAUTHENTICATED=true`},
		{"permitted", map[string]string{"BRIDGE_HTTP_ADDR": ":8080", "BRIDGE_ADMIN_ADDR": "0.0.0.0:9090", "BRIDGE_ALLOW_UNAUTHENTICATED": "true"}, ""},
		{"off", map[string]string{"BRIDGE_HTTP_ADDR": ""}, ""},
		{"only the webhook is open", map[string]string{"BRIDGE_HTTP_ADDR": ":8080", "BRIDGE_HTTP_TOKEN": "a", "BRIDGE_WEBHOOK_AUTHORIZATION": "b"},
			`x.yaml:3:3: error: BRIDGE_HTTP_ADDR (:8080) listens beyond loopback without authentication for POST /webhooks/open (unauthenticated-listener)
    hint: give the webhook auth: {bearer: "${NAME}"}, or listen on 127.0.0.1, or set BRIDGE_ALLOW_UNAUTHENTICATED=true`},
		{"nats with a token", map[string]string{"NATS_URL": "embedded", "BRIDGE_NATS_ADDR": ":4222", "NATS_TOKEN": "t"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e, problems := config.LoadEnv(c.environ)
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			if diff := cmp.Diff(c.want, e.CheckListeners(f).Error()); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

// The reference is what the README shows: every variable once, with words.
// Any proof that a webhook's entry asks for is authentication.
func TestCheckListenersOfSignedWebhooks(t *testing.T) {
	t.Parallel()
	e, problems := config.LoadEnv(map[string]string{"BRIDGE_HTTP_ADDR": ":8080", "BRIDGE_HTTP_TOKEN": "a"})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	const bearer = "auth: {bearer: '${SHOP_TOKEN}'}"
	for _, c := range []struct {
		auth, other string
		open        int
	}{
		{"", "", 2},
		{"answers: {}", bearer, 1},
		{"auth: {secret: '${SHOP_TOKEN}'}", bearer, 0},
		{"auth: {authorization: ['${SHOP_TOKEN}', 'Basic ${OLD_TOKEN}']}", "event: {type: t}", 1},
		{"auth: {signature: {preset: 8x8, secret: '${SHOP_TOKEN}'}}", "auth: {signature: {preset: github, secret: '${SHOP_TOKEN}'}}", 0},
		{"auth: {keys: 'https://api.8x8.com/chat-gateway/v1/jwk/{kid}/public'}", bearer, 0},
		{"auth: {addresses: [52.220.117.120, 10.0.0.0/8], proxies: '::ffff:10.0.0.1'}", "auth: {addresses: 2001:db8::/32}", 0},
	} {
		f, problems := config.Parse("x.yaml", []byte("webhooks:\n- name: 8x8\n  "+c.auth+"\n- name: shop\n  "+c.other+"\nroutes: []\n"), variables)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		if got := e.CheckListeners(f); len(got) != c.open {
			t.Errorf("%s: %v", c.auth, got)
		}
	}
}

func TestEnvReference(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	var secrets []string
	for _, v := range config.EnvReference() {
		if seen[v.Name] || v.Doc == "" {
			t.Errorf("twice, or without words: %+v", v)
		}
		seen[v.Name] = true
		if v.Secret {
			secrets = append(secrets, v.Name)
		}
	}
	want := []string{
		"NATS_TOKEN", "NATS_PASSWORD", "MEMBRANE_TOKEN", "MEMBRANE_WORKSPACE_SECRET",
		"BRIDGE_SINK_TOKEN", "BRIDGE_WEBHOOK_SECRET", "BRIDGE_WEBHOOK_AUTHORIZATION", "BRIDGE_HTTP_TOKEN", "BRIDGE_HTTP_TOKEN_2",
	}
	if diff := cmp.Diff(want, secrets); diff != "" {
		t.Errorf("secrets (-want +got):\n%s", diff)
	}
	for _, name := range []string{"NATS_URL", "K_SINK", "LOG_FORMAT", "BRIDGE_MAX_EVENT", "MEMBRANE_RUN_LIMIT"} {
		if !seen[name] {
			t.Errorf("%s is missing", name)
		}
	}
}

// LoadEnv finds a variable by its Go field, since that is what a parse error
// of caarlos0/env names; so those names have to be unique.
func TestParsedFieldNamesAreUnique(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	var walk func(reflect.Type)
	walk = func(s reflect.Type) {
		for field := range s.Fields() {
			name := field.Tag.Get("env")
			switch {
			case name == "" && field.Type.Kind() == reflect.Struct:
				walk(field.Type)
			case name != "" && field.Type.Kind() != reflect.String:
				if other := seen[field.Name]; other != "" {
					t.Errorf("%s and %s are both in a field %s", other, name, field.Name)
				}
				seen[field.Name] = name
			}
		}
	}
	walk(reflect.TypeFor[config.Env]())
	if len(seen) < 8 {
		t.Errorf("only %v", seen)
	}
}

func TestMaskURL(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"nats://a.example.com:4222":                           "nats://a.example.com:4222",
		"nats://u:hidden@a.example.com,tls://hidden@b:1":      "nats://<secret>@a.example.com,tls://<secret>@b:1",
		"u:hidden@a.example.com":                              "<secret>@a.example.com",
		"https://u:hid@den@a.example.com/path?key=hidden#top": "https://<secret>@a.example.com/path",
		"": "",
	} {
		if got := config.MaskURL(raw); got != want {
			t.Errorf("%q: %q, want %q", raw, got, want)
		}
	}
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	t.Parallel()
	const hidden = config.Secret("hunter2")
	env := config.Env{}
	env.NATS.Token, env.Bridge.HTTPTokens = hidden, []config.Secret{hidden, hidden}
	file := &config.File{Webhooks: []config.Webhook{{Bearer: []config.Secret{hidden}}}}
	values := []any{hidden, new(hidden), []config.Secret{hidden}, map[string]config.Secret{"k": hidden}, env, &env, file, struct{ S any }{hidden}}

	var out bytes.Buffer
	text, js := slog.New(slog.NewTextHandler(&out, nil)), slog.New(slog.NewJSONHandler(&out, nil))
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%10v", "%!"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		b, err := yaml.Dump(v)
		if err != nil {
			t.Error(err)
		}
		out.Write(b)
		b, err = json.Marshal(v)
		if err != nil {
			t.Error(err)
		}
		out.Write(b)
		text.Info("x", "v", v, slog.Group("g", "v", v))
		js.Info("x", "v", v)
	}
	fmt.Fprintln(&out, fmt.Errorf("wrapped: %v %w", hidden, fmt.Errorf("%s", hidden)))
	printed := out.String()
	if strings.Contains(printed, "hunter2") || strings.Contains(printed, "68756e74657232") {
		t.Errorf("a secret is shown:\n%s", printed)
	}
	if !strings.Contains(printed, "<secret>") {
		t.Error("nothing was printed")
	}
	if got := fmt.Sprintf("%v|%q|%s|%#v", hidden, hidden, config.Secret(""), config.Secret("")); got != `<secret>|"<secret>"||` {
		t.Errorf("printed %s", got)
	}
}

func TestParseDuration(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"15m": 15 * time.Minute, "1d": 24 * time.Hour, "1d12h": 36 * time.Hour, "0.5d": 12 * time.Hour, "-1d": -24 * time.Hour, "0s": 0, "1h30m": 90 * time.Minute,
	} {
		if got, err := config.ParseDuration(text); got != want || err != nil {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "15", "d", "1d2", "1d-2h", "1d1d", "1 d", "999999999d", "106751d99h", "1w", "12h1d"} {
		if got, err := config.ParseDuration(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
	for d, want := range map[time.Duration]string{72 * time.Hour: "72h", 90 * time.Second: "1m30s", time.Minute: "1m", time.Hour + time.Second: "1h0m1s", 0: "0s", 100 * time.Minute: "1h40m", 10 * time.Second: "10s"} {
		if got := config.FormatDuration(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	known := []string{"connection", "connections", "on", "input", "ttl"}
	for word, want := range map[string]string{
		"conection": "connection", "Connections": "connections", "inptu": "input", "tll": "ttl", "o": "on", "whatever": "", "": "",
	} {
		if got := config.Nearest(word, known); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}
