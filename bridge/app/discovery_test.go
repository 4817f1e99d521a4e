package app_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/admin"
	"github.com/bridge8x8/bridge8x8/bridge/app"
	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
	"github.com/bridge8x8/bridge8x8/config"
)

// makeAction is an action that is not one of the ten, made in the sandbox.
func makeAction(t *testing.T, box *bridgetest.Sandbox, schema string) {
	t.Helper()
	membraneDo(t, box, http.MethodPost, "/actions", `{"key":"blacklist-number","name":"Blacklist a number","type":"api-request-to-external-app","connectionId":"`+sandbox.ConnectionID+`",
		"config":{"request":{"method":"GET","path":"/api/v1/accounts/{accountId}/balance"}},"inputSchema":`+schema+`}`)
}

func membraneDo(t *testing.T, box *bridgetest.Sandbox, method, path, body string) string {
	t.Helper()
	answer, err := bridgetest.Do(t.Context(), bridgetest.Client(t), method, box.URL+path, body, "Authorization", "Bearer "+sandbox.Token, "Content-Type", "application/json")
	if err != nil || answer.Status != http.StatusOK {
		t.Fatalf("%s %s: %v, %d %s", method, path, err, answer.Status, answer.Body)
	}
	return answer.Body
}

const (
	needsNumber = `{"type":"object","properties":{"number":{"type":"string"}},"required":["number"]}`
	needsReason = `{"type":"object","properties":{"number":{"type":"string"},"reason":{"type":"string"}},"required":["number","reason"]}`
)

const blacklistRoute = `
connections:
  main: {key: 8x8-sandbox}
routes:
  - name: block
    on: com.acme.blocked
    run: blacklist-number
    connection: main
    input: {number: "${ .data.phone }"}
`

func (b *observed) blocked(ids ...string) {
	b.t.Helper()
	for _, id := range ids {
		body := fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/shop","type":"com.acme.blocked","data":{"phone":"+12025550111"}}`, id)
		if _, err := b.js.PublishMsg(b.t.Context(), &nats.Msg{Subject: "bridge.events.com.acme.blocked", Header: structuredHeader, Data: []byte(body)}); err != nil {
			b.t.Fatal(err)
		}
	}
}

func readyz(t *testing.T, b *bridgetest.Bridge) string {
	t.Helper()
	answer, err := bridgetest.Do(t.Context(), bridgetest.Client(t), http.MethodGet, b.AdminURL+"/readyz", "")
	if err != nil {
		t.Fatal(err)
	}
	var readiness admin.Readiness
	if err := json.Unmarshal([]byte(answer.Body), &readiness); err != nil {
		t.Fatal(err)
	}
	others := !slices.ContainsFunc(readiness.Checks, func(c admin.CheckResult) bool { return c.Name != "actions" && !c.OK })
	if others && answer.Status != http.StatusOK {
		t.Errorf("/readyz answers %d: what a connection offers does not decide about readiness", answer.Status)
	}
	return answer.Body
}

func contains(text func() string, part string) func() error {
	return func() error {
		if got := text(); !strings.Contains(got, part) {
			return fmt.Errorf("%s: there is no %q", got, part)
		}
		return nil
	}
}

// A route runs an action that only its connection knows. When the service changes
// it so that the route does not fit, the route's events wait, loudly, and go on
// once it fits again; the others go on meanwhile. None is lost.
func TestActionThatChanges(t *testing.T) {
	t.Parallel()
	box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1})
	makeAction(t, box, needsNumber)
	running := bridgetest.Start(t, bridgetest.Options{Sandbox: box, YAML: blacklistRoute + strings.SplitN(bridgetest.Routes, "routes:", 2)[1]})
	b := watch(t, running.NATSURL)
	b.blocked("before")
	b.awaitResults([]string{"before"})
	if r := b.results()["before"][0]; r.Subject != "bridge.results.blacklist-number.succeeded" {
		t.Errorf("the result is on %s", r.Subject)
	}

	membraneDo(t, box, http.MethodDelete, "/actions/blacklist-number", "")
	makeAction(t, box, needsReason)
	if err := running.App.Reload(); err != nil {
		t.Fatalf("a reload asks anew, and the route is no mistake of the file's: %v", err)
	}
	bridgetest.Await(t, "the report", contains(func() string { return readyz(t, running) }, "input field reason is required"))
	bridgetest.Await(t, "the log", contains(running.Log.String, "code=action-changed"))
	b.blocked("meanwhile-1", "meanwhile-2")
	publishOrders(t, b, []string{"order"})
	b.awaitResults([]string{"before", "order"})
	bridgetest.Await(t, "what waits", func() error { return b.atLeast("BRIDGE_WAIT", 2) })

	membraneDo(t, box, http.MethodDelete, "/actions/blacklist-number", "")
	makeAction(t, box, needsNumber)
	if err := running.App.Reload(); err != nil {
		t.Fatal(err)
	}
	b.awaitResults([]string{"before", "order", "meanwhile-1", "meanwhile-2"})
	b.awaitIdle()
	if letters := b.letters(); len(letters) > 0 {
		t.Errorf("dead letters: %v", letters)
	}
	bridgetest.Await(t, "the log", contains(running.Log.String, "all actions are as the routes need them"))
	if strings.Contains(readyz(t, running), "reason") {
		t.Error("/readyz speaks of what was mended")
	}
}

// An action that is being built holds its events until it is ready, without
// being run before.
func TestActionThatIsBeingBuilt(t *testing.T) {
	t.Parallel()
	box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1, BuildDelay: 2 * time.Second})
	var made struct{ ID string }
	if err := json.Unmarshal([]byte(membraneDo(t, box, http.MethodPost, "/actions", `{"intent":"block number","connectionId":"`+sandbox.ConnectionID+`"}`)), &made); err != nil {
		t.Fatal(err)
	}
	running := bridgetest.Start(t, bridgetest.Options{Sandbox: box, YAML: strings.Replace(blacklistRoute, "run: blacklist-number", "run: {id: "+made.ID+"}", 1)})
	b := watch(t, running.NATSURL)
	b.blocked("evt")
	bridgetest.Await(t, "the report", contains(func() string { return readyz(t, running) + running.Log.String() }, "its state is BUILDING"))
	b.awaitResults([]string{"evt"})
	if r := b.results()["evt"][0]; r.Data.Attempts != 1 || r.Data.Action != made.ID {
		t.Errorf("%d attempts of %s, want 1 of %s", r.Data.Attempts, r.Data.Action, made.ID)
	}
	if n := len(box.Effects()); n != 1 {
		t.Errorf("%d effects, want 1", n)
	}
}

// A key that nobody knows is a mistake where the service can be asked, and no
// reason not to start where it cannot: events then wait for its word.
func TestActionThatNobodyKnows(t *testing.T) {
	t.Parallel()
	t.Run("a misspelling is refused", func(t *testing.T) {
		t.Parallel()
		box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1})
		makeAction(t, box, needsNumber)
		_, err := newApp(t, box.URL, strings.Replace(blacklistRoute, "blacklist-number", "blacklist-numbr", 1), nil)
		if err == nil || !strings.Contains(err.Error(), `there is no action "blacklist-numbr"`) || !strings.Contains(err.Error(), `did you mean "blacklist-number"?`) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("an action that was removed", func(t *testing.T) {
		t.Parallel()
		box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1})
		makeAction(t, box, needsNumber)
		running := bridgetest.Start(t, bridgetest.Options{Sandbox: box, YAML: blacklistRoute + "    ttl: 5s\n"})
		b := watch(t, running.NATSURL)
		states := b.states()
		membraneDo(t, box, http.MethodDelete, "/actions/blacklist-number", "")
		b.blocked("evt")
		bridgetest.Await(t, "its end", func() error { return b.atLeast("BRIDGE_RESULTS", 1) })
		if r := b.results()["evt"][0]; r.Data.Error == nil || r.Data.Error.Reason != bridge.ReasonExpired {
			t.Errorf("the result is %+v, want expired: the route waits, and its ttl ends that", r.Data)
		}
		waited := false
		for _, s := range states() {
			waited = waited || s == bridge.Waiting
		}
		if !waited {
			t.Errorf("its record was %v, and never waited", states())
		}
	})
	t.Run("Membrane is away, then back", func(t *testing.T) {
		t.Parallel()
		addr := bridgetest.FreeAddr(t)
		begun := time.Now()
		running := bridgetest.Start(t, bridgetest.Options{
			YAML: blacklistRoute, Env: map[string]string{"MEMBRANE_API_URL": "http://" + addr},
		})
		t.Logf("started after %v", time.Since(begun))
		b := watch(t, running.NATSURL)
		b.blocked("evt")
		bridgetest.Await(t, "the report", contains(func() string { return readyz(t, running) }, "is not known, and its connection could not be asked yet"))
		box := sandboxAt(t, addr)
		makeAction(t, box, needsNumber)
		b.awaitResults([]string{"evt"})
		bridgetest.Await(t, "the report's end", func() error {
			if strings.Contains(readyz(t, running), "could not be asked") {
				return errors.New("it is still there")
			}
			return nil
		})
	})
}

func sandboxAt(t *testing.T, addr string) *bridgetest.Sandbox {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	box := sandbox.New(sandbox.Options{ReceiptDelay: -1})
	server := &http.Server{Handler: box, ReadHeaderTimeout: time.Minute}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-ended; box.Close() })
	return &bridgetest.Sandbox{Server: box, URL: "http://" + addr}
}

// newApp makes an App of a file on disk, beside which the actions may be written
// down, and ends it again.
func newApp(t *testing.T, membraneURL, yaml string, actions app.Synced) (string, error) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "bridge.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	if actions != nil {
		encoded, err := actions.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(app.SyncedPath(path), encoded, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env, problems := config.LoadEnv(map[string]string{
		"NATS_URL": "embedded", "BRIDGE_DATA_DIR": dir, "BRIDGE_CONFIG": path, "BRIDGE_HTTP_ADDR": "", "BRIDGE_ADMIN_ADDR": "127.0.0.1:0",
		"MEMBRANE_API_URL": membraneURL, "MEMBRANE_TOKEN": sandbox.Token,
	})
	if problems.Errors() {
		t.Fatal(problems)
	}
	a, err := app.New(app.Options{Env: env, Version: "test", FastStore: true})
	if err != nil {
		return path, err
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-a.Ready(); cancel() }()
	if err := a.Run(ctx); err != nil {
		t.Errorf("it ended with: %v", err)
	}
	return path, nil
}

// With the actions written down, a start needs no word of Membrane's, and a route
// that is wrong by them is refused.
func TestStartWithWhatWasWrittenDown(t *testing.T) {
	t.Parallel()
	known := app.Synced{"main": {{Key: "blacklist-number", ID: "a1", Name: "Blacklist", Problem: "its state is BUILDING", Input: json.RawMessage(needsNumber)}}}
	away := "http://" + bridgetest.FreeAddr(t)
	if _, err := newApp(t, away, blacklistRoute, known); err != nil {
		t.Errorf("with a route that fits: %v", err)
	}
	known["main"][0].Input = json.RawMessage(needsReason)
	if _, err := newApp(t, away, blacklistRoute, known); err == nil || !strings.Contains(err.Error(), "input field reason is required (input-unsatisfiable)") {
		t.Errorf("with a route that does not fit: %v", err)
	}
	path, _ := newApp(t, away, blacklistRoute, known)
	if err := os.WriteFile(app.SyncedPath(path), []byte(`{"connections":7}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := app.ReadSynced(app.SyncedPath(path)); err == nil || !strings.Contains(err.Error(), "is not what bridge8x8 actions sync writes") {
		t.Errorf("of a broken file: %v", err)
	}
}

// What is written down is the same bytes for the same actions, whatever the order
// in which Membrane gives members, and reads back as what it was.
func TestSyncedIsStable(t *testing.T) {
	t.Parallel()
	one := app.Synced{"": {{Key: "a", ID: "1", Name: "A & B", Input: json.RawMessage(`{"b":1.50,"a":{"d":[3,1],"c":null}}`)}}}
	two := app.Synced{"": {{Key: "a", ID: "1", Name: "A & B", Input: json.RawMessage(`{ "a": {"c":null,"d":[3,1]}, "b":1.50}`)}}}
	x, err := one.Encode()
	if err != nil {
		t.Fatal(err)
	}
	y, err := two.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if string(x) != string(y) || !strings.Contains(string(x), "A & B") || !strings.Contains(string(x), "1.50") || !strings.Contains(string(x), `"MEMBRANE_CONNECTION"`) {
		t.Errorf("one is\n%s\nand the other\n%s", x, y)
	}
	back, err := app.ParseSynced("x", x)
	if err != nil {
		t.Fatal(err)
	}
	if z, err := back.Encode(); err != nil || string(z) != string(x) {
		t.Errorf("read back it is\n%s, %v", z, err)
	}
	if _, ok := back.Known(true)[""].Known.Lookup("send-sms"); !ok {
		t.Error("the built-in actions are gone")
	}
}

// A place whose tenants the events tell is not asked; each other one is, once.
func TestWhoIsAsked(t *testing.T) {
	t.Parallel()
	file, problems := config.Parse("x", []byte(`
connections:
  one: {key: k1}
  fixed: {id: i2, tenant: acme}
  many: {key: k3, tenant: "${ .tenantid }"}
  idle: {key: k4}
routes:
  - {name: a, on: "*", run: send-sms, connection: one}
  - {name: b, on: "*", run: {id: x9}, connection: fixed}
  - {name: c, on: "*", run: send-sms, connection: many}
  - {name: d, on: "*", connection: one, request: {method: GET, path: /x}}
  - {name: e, on: "*", run: list-groups}
`), nil)
	if problems.Errors() {
		t.Fatal(problems)
	}
	env := config.Env{}
	env.Membrane.Connection = "dflt"
	got := fmt.Sprintf("%+v", app.ToAsk(file, &env))
	want := fmt.Sprintf("%+v", []app.Asked{
		{Name: "", Place: bridge.Place{ConnectionKey: "dflt"}, Wanted: []string{"list-groups"}},
		{Name: "one", Place: bridge.Place{ConnectionKey: "k1"}, Wanted: []string{"send-sms"}},
		{Name: "fixed", Place: bridge.Place{Tenant: "acme", ConnectionID: "i2"}, Wanted: []string{"x9"}},
	})
	if got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}
