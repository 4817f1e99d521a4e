package app_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/app"
	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/bus"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/ledger"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
	"github.com/bridge8x8/bridge8x8/config"
)

// tenant is somebody who has a bridge of their own on a server that others share:
// a prefix, and a user with some permissions.
type tenant struct {
	prefix string
	yaml   string
	missed app.Permission // which the user lacks
	list   []app.Permission
}

// tenantOf is one whose bridge does all that needs permissions.
func tenantOf(t *testing.T, prefix string) (tenant, config.Env, *config.File) {
	t.Helper()
	w := tenant{prefix: prefix, yaml: strings.NewReplacer("{{prefix}}", prefix).Replace(`
sources:
  - name: orders
    nats: {stream: ORDERS_{{prefix}}, subjects: [orders.{{prefix}}.*], start: all}
  - name: alerts
    nats: {subjects: [alerts.{{prefix}}], core: true}
`) + bridgetest.Routes}
	env, problems := config.LoadEnv(map[string]string{"BRIDGE_PREFIX": prefix, "BRIDGE_COMMANDS": "true", "BRIDGE_SINK_URL": "http://127.0.0.1:9/"})
	if problems.Errors() {
		t.Fatal(problems)
	}
	file, problems := config.Parse("bridge.yaml", []byte(w.yaml), nil)
	if problems.Errors() {
		t.Fatal(problems)
	}
	return w, env, file
}

// without is a list without some.
func without(list []app.Permission, out ...string) []app.Permission {
	return slices.DeleteFunc(slices.Clone(list), func(p app.Permission) bool { return slices.Contains(out, p.Entry()) })
}

const userInfo = "$SYS.REQ.USER.INFO"

// serverOf starts a server that knows each tenant by its prefix, and "test", who may do everything.
func serverOf(t *testing.T, tenants []tenant) *bridgetest.NATS {
	t.Helper()
	var conf strings.Builder
	conf.WriteString("jetstream { store_dir: \"{{dir}}\", max_file_store: 900TB }\nmax_payload: 64KB\nno_auth_user: test\nauthorization { users: [\n  {user: test, password: test}\n")
	for _, w := range tenants {
		fmt.Fprintf(&conf, "  {user: %s, password: p, %s}\n", w.prefix, app.PermissionsConfig(w.list))
	}
	conf.WriteString("]}\n")
	return bridgetest.NATSServerConfig(t, conf.String())
}

// Whichever of a bridge's permissions is missing, it is named, with what it is for
// and what to add: when the bridge starts, or when it would need it.
func TestEachPermissionMissing(t *testing.T) {
	t.Parallel()
	_, env, file := tenantOf(t, "bridge")
	var tenants []tenant
	for i := range app.Access(&env, file).Serve() {
		w, env, file := tenantOf(t, fmt.Sprintf("p%02d", i))
		all := app.Access(&env, file).Serve()
		w.missed = all[i]
		w.list = without(all, w.missed.Entry(), userInfo) // so that only its use can tell
		tenants = append(tenants, w)
	}
	server := serverOf(t, tenants)
	admin := watch(t, server.URL)
	for _, w := range tenants {
		t.Run(w.missed.String(), func(t *testing.T) {
			t.Parallel()
			w.tellsWhatIsMissing(t, server.URL, admin)
		})
	}
}

func (w tenant) tellsWhatIsMissing(t *testing.T, url string, admin *observed) {
	t.Helper()
	ctx := t.Context()
	if _, err := admin.js.CreateStream(ctx, jetstream.StreamConfig{Name: "ORDERS_" + w.prefix, Subjects: []string{"orders." + w.prefix + ".*"}}); err != nil {
		t.Fatal(err)
	}
	names := bus.NewNames(w.prefix)
	switch {
	case strings.Contains(w.missed.Subject, "STREAM.UPDATE.KV_"): // there is something to mend
		cfg := ledger.StreamConfig(w.prefix, 1, 1<<30)
		cfg.AllowDirect = true
		if _, err := admin.js.CreateStream(ctx, cfg); err != nil {
			t.Fatal(err)
		}
	case strings.HasSuffix(w.missed.Subject, "STREAM.UPDATE."+names.Events()): // one of an earlier version
		if _, err := admin.js.CreateStream(ctx, jetstream.StreamConfig{Name: names.Events(), Subjects: []string{names.AllEvents()}, MaxBytes: 1 << 30, Duplicates: time.Minute}); err != nil {
			t.Fatal(err)
		}
	case strings.Contains(w.missed.Subject, "STREAM.INFO.") && strings.HasSuffix(w.missed.Subject, "_ROOM"): // another replica asks
		if _, err := admin.js.CreateStream(ctx, jetstream.StreamConfig{Name: strings.ToUpper(w.prefix) + "_ROOM", MaxBytes: 1 << 20}); err != nil {
			t.Fatal(err)
		}
	}
	box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1})
	var log bridgetest.Log
	logger := slog.New(slog.NewTextHandler(&log, nil))
	env, problems := config.LoadEnv(map[string]string{
		"NATS_URL": url, "NATS_USER": w.prefix, "NATS_PASSWORD": "p", "BRIDGE_PREFIX": w.prefix, "BRIDGE_COMMANDS": "true", "BRIDGE_ACK_WAIT": "1s", "BRIDGE_SINK_URL": "http://127.0.0.1:9/",
		"BRIDGE_HTTP_ADDR": "127.0.0.1:0", "BRIDGE_ADMIN_ADDR": "127.0.0.1:0", "BRIDGE_GRACE": "1s",
		"MEMBRANE_API_URL": box.URL, "MEMBRANE_TOKEN": sandbox.Token,
	})
	if problems.Errors() {
		t.Fatal(problems)
	}
	file, problems := config.Parse("bridge.yaml", []byte(w.yaml), nil)
	if problems.Errors() {
		t.Fatal(problems)
	}
	a, err := app.New(app.Options{Env: env, File: file, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	run, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- a.Run(run) }()
	t.Cleanup(func() { cancel(); <-ended })
	want := "add the permission " + w.missed.String() + ", which is needed " + w.missed.For
	select {
	case err := <-ended:
		ended <- nil
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("it ended with: %v\nand not with: …%s", err, want)
		}
		return
	case <-a.Ready():
	case <-time.After(bridgetest.Deadline):
		t.Fatalf("neither an error nor ready:\n%s", &log)
	}
	done := make(chan struct{})
	go func() { defer close(done); w.useAll(t, names, url, logger, admin, box) }()
	logged := strings.ReplaceAll(want, `"`, `\"`)
	bridgetest.Await(t, "a word about it", func() error {
		if !strings.Contains(log.String(), logged) {
			return fmt.Errorf("no line with %s in:\n%s", logged, &log)
		}
		return nil
	})
	_, at := a.Addrs()
	if answer, err := bridgetest.Do(ctx, bridgetest.Client(t), http.MethodGet, "http://"+at+"/readyz", ""); err != nil || w.missed.Subject != userInfo && !strings.Contains(answer.Body, "does not permit") {
		t.Errorf("/readyz: %v %s", err, answer.Body)
	}
	cancel()
	<-done
}

// useAll makes a bridge use each permission that it did not need to start. What
// fails of it is not looked at.
func (w tenant) useAll(t *testing.T, n bus.Names, url string, logger *slog.Logger, admin *observed, box *bridgetest.Sandbox) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	publish := func(subject, id, data string, header nats.Header) {
		body := fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/shop","type":"com.acme.order.shipped","subject":"9","data":%s}`, id, data)
		if header == nil {
			header = structuredHeader
		}
		_ = admin.nc.PublishMsg(&nats.Msg{Subject: subject, Header: header, Data: []byte(body)})
	}
	later := func(id string) {
		_ = box.Fault(sandbox.Fault{Kind: sandbox.RateLimit, RetryAfter: 1, Match: string(bridge.NewKey(bridge.EventHash("/shop", id), "order-shipped", 0))})
	}
	good := `{"phone":"+12025550111"}`
	publish("alerts."+w.prefix, "alert", good, nil)
	later("later")
	publish(w.prefix+".events.x", "later", good, nil)    // set aside
	publish(w.prefix+".events.x", "unmapped", `{}`, nil) // a dead letter
	publish("orders."+w.prefix+".1", "from-orders", good, nil)
	publish(w.prefix+".events.com.8x8.unrecognized", "heard", `{}`, nil) // for the sink to look at
	reply := make(chan *nats.Msg, 1)
	inbox := nats.NewInbox()
	if sub, err := admin.nc.ChanSubscribe(inbox, reply); err == nil {
		defer func() { _ = sub.Unsubscribe() }()
		_ = admin.nc.PublishRequest(w.prefix+".run.get-account-balance", inbox, nil)
	}

	// What a bridge does rarely, done by its own parts for the same user.
	conn, err := bus.Connect(config.NATSEnv{URL: url, User: w.prefix, Password: "p"}, "test", logger, nil, nats.CustomInboxPrefix(n.Inbox()))
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	conn.Expect(w.listAll(t))
	if conn.Await(ctx, false) != nil {
		return
	}
	event, rec := &bridge.Delivery{Stream: n.Events(), Seq: 1, Data: []byte("{}")}, &bridge.Record{Route: "order-shipped"}
	key := bridge.NewKey(bridge.EventHash("/shop", "held"), "order-shipped", 0)
	their, err := bus.Connect(config.NATSEnv{URL: url}, "test", logger, nil)
	if err != nil {
		t.Error(err)
		return
	}
	defer their.Close()
	held := bridge.DeadLetter{Original: event, Reason: bridge.ReasonOutcomeUnknown, Key: key, ID: "held", Route: "order-shipped", Record: rec}
	_ = bus.NewOutbox(their, n, "structured").Dead(ctx, held)
	out := bus.NewOutbox(conn, n, "structured")
	_, _ = out.Held(ctx, key, "order-shipped")
	_ = out.Remove(ctx, key, []uint64{1 << 40})
	_ = out.Withdraw(ctx, key, "order-shipped")
	letters := &bus.Letters{Conn: conn, Names: n}
	for _, stream := range []string{n.Events(), "ORDERS_" + w.prefix} {
		_, _, _ = letters.Original(ctx, &bus.Letter{Reference: true, Stream: stream, Seq: 1})
	}
	if l, err := ledger.Open(ctx, ledger.Options{JetStream: conn.JS, Prefix: w.prefix, Retention: time.Hour, Existing: true, Publish: conn.Publisher.Store, Unclear: func(error) bool { return false }}); err == nil {
		_ = l.Settled(ctx, key)
	}
	select {
	case <-reply:
	case <-ctx.Done():
	}
}

// listAll is all that the tenant should be permitted.
func (w tenant) listAll(t *testing.T) []app.Permission {
	t.Helper()
	_, env, file := tenantOf(t, w.prefix)
	return app.Access(&env, file).Serve()
}

// A server that tells what a user may is asked, and everything that is missing is
// said at once, before anything is done; and where nothing is, nothing is said.
func TestPermissionsMissingAtTheStart(t *testing.T) {
	t.Parallel()
	var tenants []tenant
	all, env, file := tenantOf(t, "all")
	all.list = app.Access(&env, file).Serve()
	tenants = append(tenants, all)
	for i := range all.list {
		w, env, file := tenantOf(t, fmt.Sprintf("p%02d", i))
		w.list = app.Access(&env, file).Serve()
		w.missed = w.list[i]
		w.list = without(w.list, w.missed.Entry())
		tenants = append(tenants, w)
	}
	server := serverOf(t, tenants)
	for _, w := range tenants {
		conn, err := bus.Connect(config.NATSEnv{URL: server.URL, User: w.prefix, Password: "p"}, "test", slog.New(slog.DiscardHandler), nil,
			nats.CustomInboxPrefix(bus.NewNames(w.prefix).Inbox()))
		if err != nil {
			t.Fatal(err)
		}
		missing, err := conn.Missing(t.Context(), w.listAll(t))
		conn.Close()
		switch w.missed.Subject {
		case userInfo, bus.NewNames(w.prefix).Inbox() + ".>": // nobody can be asked
			if denied, ok := errors.AsType[*bus.DeniedError](err); !ok || denied.Subject != userInfo && denied.Verb != bus.Subscribe {
				t.Errorf("without %s: %v", w.missed, err)
			}
			continue
		case "":
			if len(missing) > 0 || err != nil {
				t.Errorf("nothing is missing, and it says %v, %v", missing, err)
			}
			continue
		}
		if diff := cmp.Diff([]app.Permission{w.missed}, missing); diff != "" || err != nil {
			t.Errorf("without %s: %v (-want +got):\n%s", w.missed, err, diff)
		}
	}

	// A bridge ends with all that is missing.
	open := bridgetest.NATSServerConfig(t, `
		jetstream { store_dir: "{{dir}}" }
		authorization { users: [ {user: u, password: p, permissions: {publish: {deny: ["bridge.results.>", "$JS.ACK.>"]}}} ] }`)
	served := bridgetest.Serve(t, open.URL, bridgetest.StartSandbox(t), "", map[string]string{"NATS_USER": "u", "NATS_PASSWORD": "p"})
	served.Start()
	if code := served.Wait(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	for _, line := range []string{
		"NATS does not permit this user what the bridge needs (bridge8x8 nats permissions prints all of it); add:\n",
		`  publish "$JS.ACK.BRIDGE_EVENTS.bridge-events.>", needed to take events` + "\n",
		`  publish "$JS.ACK.BRIDGE_WAIT.>", needed to take what was set aside`,
		`  publish "bridge.results.>", needed to publish outcomes`,
	} {
		if !strings.Contains(served.Log.String(), line) {
			t.Errorf("it does not say %q:\n%s", line, served.Log)
		}
	}
}

// Each of our commands says which permission is missing, and ends at once.
func TestEachPermissionOfACommandMissing(t *testing.T) {
	t.Parallel()
	type tool struct {
		tenant
		use func(ctx context.Context, c *app.Client) error
	}
	var env config.Env
	env.Bridge.Prefix = "bridge"
	access := app.Access(&env, &config.File{Sources: []config.Source{{Name: "orders", NATS: config.SourceNATS{Stream: "ORDERS"}}}})
	letter := func(ctx context.Context, c *app.Client) error {
		decisions, err := c.Decisions(ctx)
		if err != nil {
			return err
		}
		if len(decisions.Letters) == 0 {
			return errors.New("no letters")
		}
		for i := range decisions.Letters[:2] { // one of each kind
			if _, err := c.Letter(ctx, decisions.Letters[i].ID); err != nil {
				return err
			}
		}
		if _, err := c.Letter(ctx, decisions.Letters[len(decisions.Letters)-1].ID); err != nil {
			return err
		}
		return decisions.Replay(ctx, &decisions.Letters[len(decisions.Letters)-1])
	}
	var tools []tool
	var tenants []tenant
	for _, command := range []struct {
		name string
		list []app.Permission
		use  func(ctx context.Context, c *app.Client) error
	}{
		{"send", access.Send(), func(ctx context.Context, c *app.Client) error {
			e, err := cloudevent.FromJSON([]byte(`{"specversion":"1.0","id":"1","source":"/shop","type":"com.acme.nobody.cares"}`))
			if err != nil {
				return err
			}
			return c.Send(ctx, e)
		}},
		{"tail", access.Tail(), func(ctx context.Context, c *app.Client) error {
			stop, err := c.Follow(ctx, func(app.Seen) {})
			if err == nil {
				stop()
			}
			return err
		}},
		{"trace", access.Trace(), func(ctx context.Context, c *app.Client) error {
			for _, source := range []string{"", "/shop"} {
				if _, err := c.Trace(ctx, app.TraceOptions{ID: "waits", Source: source}); err != nil {
					return err
				}
			}
			return nil
		}},
		{"dead", access.Letters(), letter},
	} {
		for i := -1; i < len(command.list); i++ {
			w := tool{tenant{prefix: command.name + strconv.Itoa(i+1), list: command.list}, command.use}
			if i >= 0 {
				w.missed = command.list[i]
				w.list = without(command.list, w.missed.Entry())
			}
			tools, tenants = append(tools, w), append(tenants, w.tenant)
		}
	}
	server := serverOf(t, tenants)
	b := watch(t, server.URL)
	if _, err := b.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}); err != nil {
		t.Fatal(err)
	}
	box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1})
	running := bridgetest.Start(t, bridgetest.Options{Sandbox: box, Env: map[string]string{"NATS_URL": server.URL}})
	if err := box.Fault(sandbox.Fault{Kind: sandbox.RateLimit, RetryAfter: 600, Match: shopKey("waits", "order-shipped", 0)}); err != nil {
		t.Fatal(err)
	}
	publishOrders(t, b, []string{"unheard"})
	b.awaitResults([]string{"unheard"})
	publishOrders(t, b, []string{"waits"})
	bridgetest.Await(t, "a pair that waits", func() error { return b.atLeast("BRIDGE_WAIT", 1) })
	running.Stop()
	// Letters about events that are too large, of both streams, and one to replay for each who may.
	conn := person(t, server.URL).Conn
	out := bus.NewOutbox(conn, bus.NewNames("bridge"), "structured")
	if _, err := b.js.Publish(t.Context(), "orders.1", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	large := make([]byte, 64<<10)
	for i, stream := range append([]string{"BRIDGE_EVENTS", "ORDERS"}, slices.Repeat([]string{""}, len(access.Letters())+1)...) {
		id := fmt.Sprint("letter-", i)
		d := &bridge.Delivery{Stream: stream, Seq: 1, Data: []byte(structured(id)), Header: structuredHeader}
		if stream != "" {
			d.Data = large
		}
		err := out.Dead(t.Context(), bridge.DeadLetter{
			Original: d, Reason: bridge.ReasonRejected, ID: id, Route: "order-shipped", Key: bridge.Key(shopKey(id, "order-shipped", 0)),
			Record: &bridge.Record{Route: "order-shipped"}, Cause: &bridge.Cause{ID: id, Source: "/shop", Type: "com.acme.order.shipped"},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range tools {
		began := time.Now()
		env, problems := config.LoadEnv(map[string]string{"NATS_URL": server.URL, "NATS_USER": w.prefix, "NATS_PASSWORD": "p"})
		if problems.Errors() {
			t.Fatal(problems)
		}
		ctx, cancel := context.WithTimeout(t.Context(), bridgetest.Deadline)
		client, err := app.Dial(ctx, env)
		if err == nil {
			err = w.use(ctx, client)
			client.Close()
		}
		cancel()
		switch want := "add the permission " + w.missed.String(); {
		case w.missed.Subject == "" && err != nil:
			t.Errorf("%s with all that it needs: %v", w.prefix, err)
		case w.missed.Subject == "":
		case strings.HasSuffix(w.missed.Subject, "STREAM.MSG.GET.ORDERS"): // the tools know no sources
			if err == nil || !strings.Contains(err.Error(), `NATS does not permit this user to publish "$JS.API.STREAM.MSG.GET.ORDERS"`) {
				t.Errorf("%s without %s: %v", w.prefix, w.missed, err)
			}
		case err == nil || !strings.Contains(err.Error(), want):
			t.Errorf("%s without %s: %v", w.prefix, w.missed, err)
		}
		if took := time.Since(began); took > bridgetest.Deadline/2 {
			t.Errorf("%s without %s: took %v", w.prefix, w.missed, took)
		}
	}
}

// Streams that an administrator made as the bridge prints them serve a bridge that
// may change none of them; whatever is otherwise about them is said at the start.
func TestStreamsExisting(t *testing.T) {
	t.Parallel()
	const yaml = "streams: existing\n" + bridgetest.Routes
	server := bridgetest.NATSServer(t)
	b := watch(t, server.URL)
	env, problems := config.LoadEnv(nil)
	if problems.Errors() {
		t.Fatal(problems)
	}
	box := bridgetest.StartSandbox(t)
	none := bridgetest.Serve(t, server.URL, box, yaml, nil)
	none.Start()
	if code := none.Wait(); code != 1 {
		t.Errorf("without any stream: exit code %d", code)
	}
	for _, name := range []string{"BRIDGE_EVENTS", "BRIDGE_RESULTS", "BRIDGE_DEAD", "BRIDGE_WAIT", "KV_BRIDGE_LEDGER"} {
		if line := "stream " + name + ": there is none: make it, or let the bridge do so (streams: make)"; !strings.Contains(none.Log.String(), line) {
			t.Errorf("it does not say %q:\n%s", line, none.Log)
		}
	}
	for _, cfg := range app.WantedStreams(&env, 1<<30) {
		body, err := json.Marshal(cfg)
		if err != nil {
			t.Fatal(err)
		}
		m, err := b.nc.Request("$JS.API.STREAM.CREATE."+cfg.Name, body, bridgetest.Deadline) // as an administrator's tool does
		if err != nil || strings.Contains(string(m.Data), `"error"`) {
			t.Fatalf("%v %s", err, m.Data)
		}
	}
	before := configs(b)
	running := bridgetest.Start(t, bridgetest.Options{YAML: yaml, Env: map[string]string{"NATS_URL": server.URL}})
	publishOrders(t, b, []string{"evt"})
	b.awaitResults([]string{"evt"})
	running.Stop()
	if diff := cmp.Diff(before, configs(b)); diff != "" {
		t.Errorf("the bridge changed a stream (-before +after):\n%s", diff)
	}
}

// configs are what the streams are made of, as the server tells it.
func configs(b *observed) map[string]string {
	b.t.Helper()
	all := map[string]string{}
	for info := range b.js.ListStreams(b.t.Context()).Info() {
		body, err := json.Marshal(info.Config)
		if err != nil {
			b.t.Fatal(err)
		}
		all[info.Config.Name] = string(body)
	}
	if len(slices.Collect(maps.Keys(all))) != 5 {
		b.t.Fatalf("%d streams", len(all))
	}
	return all
}
