package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

// wrongUse is a way to use the commands wrongly, or to use them while something
// is wrong, and what a person reads then.
type wrongUse struct {
	name string
	// command is what is typed; $API is the sandbox. With before, those commands
	// come first, and must end well.
	before  []string
	command string
	stdin   string
	env     []string // beside MEMBRANE_API_URL; MEMBRANE_TOKEN is the sandbox's unless it is here
	// prepare makes the trouble.
	prepare func(t *testing.T, w *world)
	code    int
	// said is the whole standard error. $API is the sandbox, … any text on the line.
	said string
}

// world is what one wrong use happens in.
type world struct {
	box  *sandbox.Server
	api  string
	home string // the folder of the user, and of the command
}

func (w *world) control(t *testing.T, path, body string) {
	t.Helper()
	answer, err := http.Post(w.api+"/_sandbox/"+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode/100 != 2 {
		t.Fatalf("%s: %s", path, answer.Status)
	}
}

func fault(f sandbox.Fault) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		if f.Times == 0 {
			f.Times = -1
		}
		if err := w.box.Fault(f); err != nil {
			t.Fatal(err)
		}
	}
}

func state(body string) func(*testing.T, *world) {
	return func(t *testing.T, w *world) { w.control(t, "connections/8x8-sandbox", body) }
}

func builds(body string) func(*testing.T, *world) {
	return func(t *testing.T, w *world) { w.control(t, "builds", body) }
}

func file(name, content string, mode os.FileMode) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		path := filepath.Join(w.home, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
}

// nobody is an address where nobody listens.
func nobody() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer func() { _ = l.Close() }()
	return "http://" + l.Addr().String()
}

func expired() string {
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"iss": "sandbox", "id": "acme", "exp": 1767225600}).SignedString([]byte(sandbox.WorkspaceSecret))
	if err != nil {
		panic(err)
	}
	return token
}

// run runs a command in the user's folder, with nothing in the environment but what
// is given.
func (w *world) run(t *testing.T, line, stdin string, env []string) (code int, out, said string) {
	t.Helper()
	for _, name := range []string{
		"XDG_CONFIG_HOME", "PATH", "DISPLAY", "WAYLAND_DISPLAY", // no browser
		"MEMBRANE_TOKEN", "MEMBRANE_TOKEN_FILE", "MEMBRANE_WORKSPACE_KEY", "MEMBRANE_WORKSPACE_SECRET", "MEMBRANE_TENANT_KEY", "MEMBRANE_CONNECTION",
	} {
		t.Setenv(name, "")
	}
	t.Setenv("HOME", w.home)
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		t.Setenv(name, value)
	}
	t.Chdir(w.home)
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), split(strings.ReplaceAll(line, "$API", w.api)), strings.NewReader(stdin), &stdout, &stderr)
	return code, stdout.String(), strings.ReplaceAll(stderr.String(), w.api, "$API")
}

// split cuts a line into arguments, as a shell does with single quotes.
func split(line string) (args []string) {
	for _, m := range regexp.MustCompile(`'([^']*)'|(\S+)`).FindAllStringSubmatch(line, -1) {
		args = append(args, m[1]+m[2])
	}
	return args
}

// fits compares a text with one that has … for what differs.
func fitsText(got, want string) bool {
	var pattern strings.Builder
	for i, part := range strings.Split(want, "…") {
		if i > 0 {
			pattern.WriteString(".*")
		}
		pattern.WriteString(regexp.QuoteMeta(part))
	}
	return regexp.MustCompile("^" + pattern.String() + "$").MatchString(got)
}

// Not parallel: the environment is the process's. Each takes milliseconds.
func TestWrongUses(t *testing.T) { //nolint:paralleltest // it sets the environment
	texts := map[string]bool{}
	for _, tt := range wrongUses() {
		t.Run(tt.name, func(t *testing.T) {
			w := &world{box: sandbox.New(sandbox.Options{BuildDelay: time.Millisecond}), home: t.TempDir()}
			defer w.box.Close()
			web := httptest.NewServer(w.box)
			defer web.Close()
			w.api = web.URL
			env := []string{"MEMBRANE_API_URL=" + w.api, "MEMBRANE_TOKEN=" + sandbox.Token}
			for _, e := range tt.env {
				env = append(env, strings.ReplaceAll(e, "$API", w.api))
			}
			for _, line := range tt.before {
				if line == "sign in" {
					w.signIn(t)
				} else if code, _, said := w.run(t, line, "", env); code != 0 {
					t.Fatalf("%s: %s", line, said)
				}
			}
			if tt.prepare != nil {
				tt.prepare(t, w)
			}
			code, out, said := w.run(t, tt.command, tt.stdin, env)
			if code != tt.code || !fitsText(said, tt.said+"\n") {
				t.Errorf("exit code %d, want %d; it said\n%swant\n%s", code, tt.code, said, tt.said)
			}
			if strings.Contains(said+out, "secret words") || strings.Contains(said, sandbox.Token) || strings.Contains(said, "12025550") {
				t.Errorf("it said what nobody should read: %s", said)
			}
			texts[tt.said] = true
		})
	}
	if len(texts) < 50 {
		t.Errorf("only %d texts", len(texts))
	}
}

// signIn leaves a sign-in of the sandbox in the home.
func (w *world) signIn(t *testing.T) {
	t.Helper()
	env := []string{"MEMBRANE_API_URL=" + w.api}
	code, out, said := w.run(t, "login --no-browser", "", env)
	if code != 0 {
		t.Fatal(said)
	}
	back, err := press(pageAddress.FindStringSubmatch(out)[1], "approve")
	if err != nil {
		t.Fatal(err)
	}
	if code, _, said = w.run(t, "login complete "+back, "", env); code != 0 {
		t.Fatal(said)
	}
}

func wrongUses() []wrongUse {
	unsigned := []string{"MEMBRANE_TOKEN="}
	tenant := []string{"MEMBRANE_TOKEN=", "MEMBRANE_WORKSPACE_KEY=sandbox", "MEMBRANE_WORKSPACE_SECRET=sandbox-secret", "MEMBRANE_TENANT_KEY=acme"}
	const run = "actions run send-sms --input "
	const sms = run + `'{"destination":"+12025550100","text":"secret words"}'`
	return []wrongUse{
		// Who you are.
		{name: "not signed in", command: "whoami", env: unsigned, code: 1, said: "bridge8x8: you are not signed in to Membrane; run bridge8x8 login, or set MEMBRANE_TOKEN"},
		{name: "expired token", command: "whoami", env: []string{"MEMBRANE_TOKEN=" + expired()}, code: 1, said: "bridge8x8: Membrane does not take MEMBRANE_TOKEN: it expired at 2026-01-01T00:00:00Z; set a new one, or unset it and run bridge8x8 login"},
		{name: "revoked personal access token", command: "whoami", env: []string{"MEMBRANE_TOKEN=pat-revoked"}, code: 1, said: "bridge8x8: Membrane does not take MEMBRANE_TOKEN: it is wrong, or was revoked; set a new one, or unset it and run bridge8x8 login"},
		{name: "token with a line break", command: "whoami", env: []string{"MEMBRANE_TOKEN=pat a"}, code: 1, said: "bridge8x8: MEMBRANE_TOKEN holds a space, a line break or a character that no token has"},
		{name: "wrong workspace secret", command: "whoami", env: append([]string{"X=1"}, append(tenant, "MEMBRANE_WORKSPACE_SECRET=wrong")...), code: 1, said: `bridge8x8: Membrane does not take a token of workspace "sandbox" that is signed with MEMBRANE_WORKSPACE_SECRET: check the secret, and MEMBRANE_WORKSPACE_KEY`},
		{name: "wrong workspace key", command: "whoami", env: append([]string{"X=1"}, append(tenant, "MEMBRANE_WORKSPACE_KEY=wrong")...), code: 1, said: `bridge8x8: Membrane does not take a token of workspace "wrong" that is signed with MEMBRANE_WORKSPACE_SECRET: check the secret, and MEMBRANE_WORKSPACE_KEY`},
		{name: "secret without its workspace", command: "whoami", env: []string{"MEMBRANE_TOKEN=", "MEMBRANE_WORKSPACE_SECRET=x"}, code: 1, said: "error: MEMBRANE_WORKSPACE_SECRET without MEMBRANE_WORKSPACE_KEY and MEMBRANE_TENANT_KEY is not enough to sign in (half-set)\n    hint: set all three of MEMBRANE_WORKSPACE_KEY, MEMBRANE_WORKSPACE_SECRET and MEMBRANE_TENANT_KEY, or MEMBRANE_TOKEN alone"},
		{name: "token and secret", command: "whoami", env: []string{"MEMBRANE_WORKSPACE_SECRET=x", "MEMBRANE_WORKSPACE_KEY=y"}, code: 1, said: "error: MEMBRANE_TOKEN and MEMBRANE_WORKSPACE_KEY, MEMBRANE_WORKSPACE_SECRET are both set, and only one way to sign in can be used (set-twice)\n    hint: keep the token, or the workspace's key and secret with the tenant's key"},
		{name: "token file that is not there", command: "whoami", env: []string{"MEMBRANE_TOKEN=", "MEMBRANE_TOKEN_FILE=nowhere"}, code: 1, said: `error: MEMBRANE_TOKEN_FILE names the file "nowhere", which cannot be used: no such file or directory (secret-file)`},
		{name: "forbidden", command: "connections list", prepare: fault(sandbox.Fault{Kind: sandbox.Forbidden, On: sandbox.OnReads}), code: 1, said: "bridge8x8: you may not do this: the tenant may not do this; ask for a management token, or see bridge8x8 whoami"},
		{name: "sign-in that ended", before: []string{"sign in"}, command: "whoami", env: unsigned, prepare: revoke, code: 1, said: "bridge8x8: Membrane no longer takes your sign-in; run bridge8x8 login"},
		{name: "sign-in for another service", before: []string{"sign in"}, command: "whoami", env: []string{"MEMBRANE_TOKEN=", "MEMBRANE_API_URL=http://127.0.0.1:9"}, code: 1, said: "bridge8x8: you are signed in to $API, and MEMBRANE_API_URL is http://127.0.0.1:9: unset it, or run bridge8x8 login"},
		{name: "sign-in that others can read", command: "whoami", env: unsigned, prepare: file(".config/bridge8x8/credentials.json", "{}", 0o644), code: 1, said: "bridge8x8: …/.config/bridge8x8/credentials.json can be read by others (mode 0644): run chmod 600 on it, and bridge8x8 login anew if you do not know why"},
		{name: "sign-in that is damaged", command: "whoami", env: unsigned, prepare: file(".config/bridge8x8/credentials.json", "{", 0o600), code: 1, said: "bridge8x8: …/.config/bridge8x8/credentials.json is damaged: run bridge8x8 login"},
		// Signing in.
		{name: "login over http", command: "login", env: []string{"MEMBRANE_API_URL=http://membrane.example"}, code: 1, said: `bridge8x8: MEMBRANE_API_URL "http://membrane.example" is not https: whoever listens on the way would sign in as you`},
		{name: "login where nobody is", command: "login --no-browser", env: []string{"MEMBRANE_API_URL=" + nobody()}, code: 1, said: "bridge8x8: http://127.0.0.1:… cannot be reached: connection refused; is MEMBRANE_API_URL right?"},
		{name: "login where there is none", command: "login --no-browser", env: []string{"MEMBRANE_API_URL=$API/elsewhere"}, code: 1, said: "bridge8x8: $API/elsewhere has no sign-in: it answered 404 at /.well-known/oauth-authorization-server/elsewhere; set MEMBRANE_TOKEN instead"},
		{name: "login that nobody agrees to", command: "login --timeout 50ms", code: 1, said: "open this address in a browser on this machine (elsewhere: bridge8x8 login --no-browser):\n\n  $API/oauth/authorize?client_id=…\n\nbridge8x8: nobody agreed within 50ms; run bridge8x8 login again"},
		{name: "complete without login", command: "login complete a-code", code: 1, said: "bridge8x8: no login is waiting for a code; begin one with: bridge8x8 login --no-browser"},
		{name: "complete with a wrong code", before: []string{"login --no-browser"}, command: "login complete a-code", code: 1, said: "bridge8x8: the code is not good, or no longer: run bridge8x8 login again, and use its code once"},
		{name: "complete with words", before: []string{"login --no-browser"}, command: "login complete 'a code'", code: 1, said: "bridge8x8: that is no code: copy it, or the whole address of the page, from your browser"},
		{name: "complete with another login's address", before: []string{"login --no-browser"}, command: "login complete 'http://127.0.0.1:1/callback?code=x&state=y'", code: 1, said: "bridge8x8: that address is of another sign-in: use the one that the last login printed"},
		// The service.
		{name: "unreachable", command: "connections list", env: []string{"MEMBRANE_API_URL=" + nobody()}, code: 1, said: "bridge8x8: Membrane cannot be reached at http://127.0.0.1:…: connection refused; is MEMBRANE_API_URL right?"},
		{name: "no address", command: "connections list", env: []string{"MEMBRANE_API_URL=getmembrane"}, code: 1, said: "error: MEMBRANE_API_URL is \"getmembrane\", which is no http or https address (bad-url)\n    hint: write it with its scheme, such as https://example.com"},
		{name: "a login page", command: "connections list", prepare: fault(sandbox.Fault{Kind: sandbox.HTML, On: sandbox.OnReads, Status: 200}), code: 1, said: "bridge8x8: Membrane answered 200 with something that is not JSON: is MEMBRANE_API_URL $API right? the page of a proxy that wants a sign-in looks like that"},
		{name: "a gateway's error", command: "connections list", prepare: fault(sandbox.Fault{Kind: sandbox.HTML, On: sandbox.OnReads}), code: 1, said: "bridge8x8: Membrane, or something before it, answered 502; try again later"},
		{name: "a redirect", command: "connections list", prepare: fault(sandbox.Fault{Kind: sandbox.Status, On: sandbox.OnReads, Status: 302, Headers: map[string]string{"Location": "https://login.example"}}), code: 1, said: "bridge8x8: Membrane, or something before it, answered 302, which leads elsewhere: is MEMBRANE_API_URL $API right?"},
		{name: "an error of Membrane's own", command: "connections list", prepare: fault(sandbox.Fault{Kind: sandbox.ErrorBefore, On: sandbox.OnReads}), code: 1, said: "bridge8x8: Membrane failed (500): Something went wrong; try again later"},
		{name: "too many requests", command: "connections list", prepare: fault(sandbox.Fault{Kind: sandbox.RateLimit, On: sandbox.OnReads, RetryAfter: 7}), code: 1, said: "bridge8x8: too many requests: too many API requests in this workspace; try again in 7s"},
		{name: "too many requests, and no word how long", command: "connections list", prepare: fault(sandbox.Fault{Kind: sandbox.RateLimit, On: sandbox.OnReads}), code: 1, said: "bridge8x8: too many requests: too many API requests in this workspace; try again in a moment"},
		{name: "an answer that breaks off", command: "connections list", prepare: fault(sandbox.Fault{Kind: sandbox.HalfBody, On: sandbox.OnReads}), code: 1, said: "bridge8x8: Membrane's answer cannot be read: it ended half way; try again"},
		{name: "a connection that breaks", command: "connections list", prepare: fault(sandbox.Fault{Kind: sandbox.DropBefore, On: sandbox.OnReads}), code: 1, said: "bridge8x8: the connection to Membrane broke; try again"},
		// Connections.
		{name: "connection of another tenant", command: "connections show 66a08b80000000000000ffff", env: tenant, code: 1, said: `bridge8x8: there is no connection "66a08b80000000000000ffff" of tenant "acme"; see bridge8x8 connections list`},
		{name: "connection that is not there", command: "connections show nothing-like-it", code: 1, said: `bridge8x8: there is no connection "nothing-like-it"; see bridge8x8 connections list`},
		{name: "connection with a slip", command: "connections show 8x8-sandbux", code: 1, said: `bridge8x8: there is no connection "8x8-sandbux"; did you mean 8x8-sandbox?`},
		{name: "no connection", command: "actions list", prepare: noConnection, code: 1, said: "bridge8x8: there is no connection yet; run bridge8x8 connections connect"},
		{name: "two connections", before: []string{"connections connect --key two --wait=false"}, command: "actions list", prepare: secondConnection, code: 2, said: "bridge8x8: there are 2 connections: say which with --connection 8x8-sandbox or two\ntry: bridge8x8 actions list --help"},
		{name: "connection that waits for a person", command: sms, prepare: state(`{"state":"CLIENT_ACTION_REQUIRED"}`), code: 1, said: "bridge8x8: connection 8x8-sandbox waits for a person: Sign in to 8x8 again; run bridge8x8 connections connect --connection 8x8-sandbox"},
		{name: "connection with wrong settings", command: sms, prepare: state(`{"state":"CONFIGURATION_ERROR","message":"the region is missing"}`), code: 1, said: "bridge8x8: connection 8x8-sandbox has wrong settings: the region is missing; change them in Membrane's console, then run bridge8x8 connections wait 8x8-sandbox"},
		{name: "connection that was not set up", command: "connections test 8x8-sandbox", prepare: state(`{"state":"SETUP_FAILED","message":"8x8 refused the API key"}`), code: 1, said: "bridge8x8: connection 8x8-sandbox could not be set up: 8x8 refused the API key; run bridge8x8 connections connect --connection 8x8-sandbox"},
		{name: "unknown connector", command: "connections connect --connector hubspot --key h", code: 1, said: `bridge8x8: Membrane has no connector "hubspot"; try --connector 8x8`},
		{name: "nobody connects", command: "connections connect --key new --timeout 50ms --no-browser", code: 1, said: "open this address in a browser, and connect 8x8 there:\n\n  $API/screens/connections?connectionRequestId=…\n\nbridge8x8: nobody connected within 50ms; the address stays good for now, or run bridge8x8 connections connect again"},
		// Actions.
		{name: "action with a slip", command: "actions show send-smss", code: 1, said: `bridge8x8: there is no action "send-smss"; did you mean send-sms?`},
		{name: "action that is not there", command: "actions show make-coffee", code: 1, said: `bridge8x8: there is no action "make-coffee"; find one with: bridge8x8 actions search "what it is to do"`},
		{name: "action that is not built", before: nil, command: "actions run make-coffee", prepare: building("make coffee", `{"state":"READY","delayMs":60000}`), code: 1, said: "bridge8x8: action make-coffee is still being built; run bridge8x8 actions wait make-coffee"},
		{name: "action that could not be made", command: "actions create 'make coffee'", prepare: builds(`{"state":"SETUP_FAILED","message":"8x8 has no such endpoint"}`), code: 1, said: "bridge8x8: action make-coffee could not be made: 8x8 has no such endpoint; describe it in other words: bridge8x8 actions create"},
		{name: "action that takes too long", command: "actions create 'make coffee' --timeout 50ms", prepare: builds(`{"state":"READY","delayMs":60000}`), code: 1, said: "bridge8x8: action make-coffee is still being built after 50ms; go on waiting with: bridge8x8 actions wait make-coffee"},
		{name: "action with wrong settings", command: "actions create 'make coffee'", prepare: builds(`{"state":"CONFIGURATION_ERROR","message":"the request has no path"}`), code: 1, said: "bridge8x8: action make-coffee has wrong settings: the request has no path; change them in Membrane's console, or describe it in other words: bridge8x8 actions create"},
		// Inputs.
		{name: "required field", command: run + `'{"text":"secret words"}'`, code: 1, said: "bridge8x8: nothing was run: input field destination is required; see bridge8x8 actions show send-sms"},
		{name: "wrong type", command: run + `'{"destination":12025550100,"text":"secret words"}'`, code: 1, said: "bridge8x8: nothing was run: input field destination must be a string; see bridge8x8 actions show send-sms"},
		{name: "both", command: run + `'{"text":5,"encoding":"UTF8"}'`, code: 1, said: "bridge8x8: nothing was run: input field destination is required; input field encoding must be one of AUTO, GSM7, UCS2; input field text must be a string; see bridge8x8 actions show send-sms"},
		{name: "no JSON", command: run + `'{text: secret words}'`, code: 2, said: "bridge8x8: --input is not JSON: line 1, column 2: invalid character 't' looking for beginning of object key string; write it like '{\"text\":\"Hi\"}', or give a file: --input @file.json\ntry: bridge8x8 actions run --help"},
		{name: "no object", command: run + `'[1]'`, code: 2, said: "bridge8x8: --input is JSON, but no object; write it like '{\"text\":\"Hi\"}', or give a file: --input @file.json\ntry: bridge8x8 actions run --help"},
		{name: "file that is not there", command: run + "@nowhere.json", code: 1, said: "bridge8x8: --input @nowhere.json cannot be read: no such file or directory"},
		{name: "folder", command: run + "@.", code: 1, said: "bridge8x8: --input @. cannot be read: is a directory"},
		{name: "file that is no JSON", command: run + "@sms.json", prepare: file("sms.json", `{"text":"secret words",}`, 0o600), code: 2, said: "bridge8x8: --input @sms.json is not JSON: line 1, column 24: invalid character '}' looking for beginning of object key string; write it like '{\"text\":\"Hi\"}', or give a file: --input @file.json\ntry: bridge8x8 actions run --help"},
		{name: "empty standard input", command: run + "-", code: 2, said: "bridge8x8: --input - holds nothing; write it like '{\"text\":\"Hi\"}', or give a file: --input @file.json\ntry: bridge8x8 actions run --help"},
		// Runs.
		{name: "refused by 8x8", command: run + `'{"destination":"+12","text":"secret words"}'`, code: 1, said: "run … failed; see bridge8x8 runs show …\nbridge8x8: 8x8 refused it: Invalid MSISDN format: not an E.164 international number (code 1002)"},
		{name: "rate limit of 8x8", command: run + `'{"destination":"+12025550106","text":"secret words"}'`, code: 1, said: "run … failed; see bridge8x8 runs show …\nbridge8x8: too many requests: 8x8 said Rate limit exceeded, try again in 1 second (code 429); try again in 1s"},
		{name: "it may have been sent", command: sms, prepare: fault(sandbox.Fault{Kind: sandbox.DropAfter}), code: 1, said: "bridge8x8: the connection to Membrane broke: it may have been done all the same; look before you repeat it: bridge8x8 runs list"},
		{name: "an error after it was sent", command: sms, prepare: fault(sandbox.Fault{Kind: sandbox.ErrorAfter}), code: 1, said: "bridge8x8: Membrane failed (500) while it ran: Something went wrong: it may have been done all the same; look before you repeat it: bridge8x8 runs show …"},
		{name: "run that nobody knows", command: "runs show 000000000000000000000000", code: 1, said: `bridge8x8: there is no log of a run "000000000000000000000000": it is not over, its log is late or hidden, or it never was; see bridge8x8 runs list`},
		{name: "path of no API", command: "request GET /api/v1/nothing", code: 1, said: "bridge8x8: 8x8 answered 404 Not Found"},
		{name: "lost connection", command: "request GET /api/v1/accounts/acme/balance", prepare: state(`{"state":"CLIENT_ACTION_REQUIRED"}`), code: 1, said: "bridge8x8: 8x8 no longer takes this connection: The connection must be connected again by a person; run bridge8x8 connections connect"},
	}
}

func noConnection(t *testing.T, w *world) {
	w.ask(t, http.MethodDelete, "/connections/8x8-sandbox", "")
}

func secondConnection(t *testing.T, w *world) {
	w.ask(t, http.MethodPost, "/connections", `{"connectorKey":"8x8","key":"two"}`)
}

func building(intent, script string) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		builds(script)(t, w)
		w.ask(t, http.MethodPost, "/actions", `{"connectionId":"8x8-sandbox","intent":"`+intent+`"}`)
	}
}

// revoke ends the sign-in at the service.
func revoke(t *testing.T, w *world) {
	content, err := os.ReadFile(filepath.Join(w.home, ".config", "bridge8x8", "credentials.json"))
	if err != nil {
		t.Fatal(err)
	}
	var c struct{ RefreshToken string }
	if err := json.Unmarshal(content, &c); err != nil {
		t.Fatal(err)
	}
	answer, err := http.PostForm(w.api+"/oauth/revoke", url.Values{"token": {c.RefreshToken}})
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
}

func (w *world) ask(t *testing.T, method, path, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, w.api+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+sandbox.Token)
	r.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s", method, path, answer.Status)
	}
}
