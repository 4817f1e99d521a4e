package app_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

// hubAndLeaf starts a hub with JetStream domain "hub" and a leaf node of it with
// domain "leaf", and returns once they are connected.
func hubAndLeaf(t *testing.T) (hub, leaf *bridgetest.NATS) {
	t.Helper()
	between := bridgetest.FreeAddr(t)
	hub = bridgetest.NATSServerConfig(t, fmt.Sprintf(`
		server_name: hub
		jetstream { store_dir: "{{dir}}", domain: hub }
		leafnodes { listen: %q, no_advertise: true }`, between))
	leaf = bridgetest.NATSServerConfig(t, fmt.Sprintf(`
		server_name: leaf
		jetstream { store_dir: "{{dir}}", domain: leaf }
		leafnodes { remotes: [ {url: "nats-leaf://test:test@%s"} ] }`, between))
	b := watch(t, leaf.URL)
	bridgetest.Await(t, "the leaf node", func() error {
		_, err := b.nc.Request("$JS.hub.API.INFO", nil, bridgetest.Deadline)
		return err
	})
	return hub, leaf
}

// in is what a test sees in a JetStream domain.
func (b *observed) in(domain string) *observed {
	b.t.Helper()
	js, err := jetstream.NewWithDomain(b.nc, domain, jetstream.WithDefaultTimeout(bridgetest.Deadline))
	if err != nil {
		b.t.Fatal(err)
	}
	return &observed{t: b.t, nc: b.nc, js: js}
}

// A bridge on a leaf node keeps its streams there, and takes from streams there,
// in the hub's domain, and from a mirror here of one there.
func TestLeafNodeOwnDomain(t *testing.T) {
	t.Parallel()
	_, leaf := hubAndLeaf(t)
	b := watch(t, leaf.URL)
	hub := b.in("hub")
	for _, name := range []string{"ORDERS", "NEWS"} {
		if _, err := hub.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{"hub." + name + ".>"}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "COPY", Mirror: &jetstream.StreamSource{Name: "NEWS", Domain: "hub"}}); err != nil {
		t.Fatal(err)
	}
	box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1})
	running := bridgetest.Start(t, bridgetest.Options{
		Sandbox: box, Env: map[string]string{"NATS_URL": leaf.URL, "BRIDGE_ACK_WAIT": "2s"},
		YAML: `
sources:
  - name: orders
    nats: {stream: ORDERS, domain: hub, subjects: [hub.ORDERS.eu.>], start: all}
  - name: copy
    nats: {stream: COPY, start: all}
` + bridgetest.Routes,
	})
	publishOrders(t, b, []string{"here"})
	hub.storeIn("hub.ORDERS.eu.1", "from-hub")
	hub.storeIn("hub.ORDERS.us.1", "not-ours")
	hub.storeIn("hub.NEWS.1", "mirrored")
	want := []string{"here", "from-hub", "mirrored"}
	b.awaitResults(want)
	b.awaitIdle()
	bridgetest.Await(t, "the hub's consumer to be idle", func() error {
		consumer, err := hub.js.Consumer(t.Context(), "ORDERS", "bridge-orders")
		if err != nil {
			return err
		}
		if info := consumer.CachedInfo(); info.NumAckPending > 0 || info.NumPending > 0 || info.Delivered.Consumer != 1 {
			return fmt.Errorf("%d pending, %d not acknowledged, %d delivered", info.NumPending, info.NumAckPending, info.Delivered.Consumer)
		}
		return nil
	})
	if diff := cmp.Diff(once(want), counts(bridgetest.ByEvent(box.Effects()))); diff != "" {
		t.Errorf("effects by event (-want +got):\n%s", diff)
	}
	for info := range hub.js.ListStreams(t.Context()).Info() {
		if info.Config.Name != "ORDERS" && info.Config.Name != "NEWS" {
			t.Errorf("the bridge made stream %s in the hub", info.Config.Name)
		}
	}
	running.Stop()
	if lines := running.Log.Lines("permission"); len(lines) > 0 {
		t.Errorf("refused: %v", lines)
	}
}

// A bridge on a leaf node whose domain is the hub's keeps everything there: another
// on the hub goes on with the same ledger. It waits for a hub that is away.
func TestLeafNodeHubDomain(t *testing.T) {
	t.Parallel()
	hub, leaf := hubAndLeaf(t)
	b := watch(t, leaf.URL)
	box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1})
	env := map[string]string{"NATS_URL": leaf.URL, "NATS_JS_DOMAIN": "hub"}
	running := bridgetest.Start(t, bridgetest.Options{Sandbox: box, Env: env})
	publishOrders(t, b, []string{"one"})
	b.in("hub").awaitResults([]string{"one"})
	running.Stop()
	if lines := running.Log.Lines("permission"); len(lines) > 0 {
		t.Errorf("refused: %v", lines)
	}
	for range b.js.ListStreams(t.Context()).Info() {
		t.Error("the bridge made a stream in the leaf's domain")
	}

	there := watch(t, hub.URL)
	bridgetest.Start(t, bridgetest.Options{Sandbox: box, Env: map[string]string{"NATS_URL": hub.URL}})
	publishOrders(t, there, []string{"one", "two"})
	bridgetest.Await(t, "the second", func() error {
		if n := len(bridgetest.ByEvent(box.Effects())["two"]); n == 0 {
			return fmt.Errorf("no effect")
		}
		return nil
	})
	there.awaitIdle()
	if diff := cmp.Diff(once([]string{"one", "two"}), counts(bridgetest.ByEvent(box.Effects()))); diff != "" {
		t.Errorf("effects by event (-want +got):\n%s", diff)
	}
}

// A domain that does not answer is waited for by a bridge, and named to a person.
func TestDomainAway(t *testing.T) {
	t.Parallel()
	server := bridgetest.NATSServer(t)
	const want = `no JetStream answers in the domain "moon" of NATS_JS_DOMAIN: is it the right one, and the leaf node connected?`
	env := map[string]string{"NATS_URL": server.URL, "NATS_JS_DOMAIN": "moon"}
	trace := bridgetest.NewProgram(t, env, "trace", "x")
	trace.Start()
	served := bridgetest.Serve(t, server.URL, bridgetest.StartSandbox(t), "", env)
	served.Start()
	bridgetest.Await(t, "the reason in /readyz", func() error {
		answer, err := bridgetest.Do(t.Context(), served.Client, "GET", served.AdminURL+"/readyz", "")
		if err == nil && !strings.Contains(unquoted(answer.Body), want) {
			err = fmt.Errorf("%s", answer.Body)
		}
		return err
	})
	if code := trace.Wait(); code != 1 || !strings.Contains(trace.Log.String(), want) {
		t.Errorf("exit code %d: %s", code, trace.Log)
	}
	if code := served.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// Streams of another account come in as mirrors: what that account exports is its
// decision, and the bridge sees an existing stream of its own.
func TestStreamOfAnotherAccount(t *testing.T) {
	t.Parallel()
	server := bridgetest.NATSServerConfig(t, `
		jetstream { store_dir: "{{dir}}" }
		accounts {
			SHOP: {
				jetstream: enabled
				users: [ {user: shop, password: p} ]
				exports: [
					{service: "$JS.API.CONSUMER.CREATE.ORDERS"}
					{service: "$JS.API.CONSUMER.CREATE.ORDERS.>"}
					{service: "$JS.API.STREAM.INFO.ORDERS"}
					{stream: "deliver.bridge.>"}
					{service: "$JS.FC.>"}
				]
			}
			BRIDGE: {
				jetstream: enabled
				users: [ {user: bridge, password: p} ]
				imports: [
					{service: {account: SHOP, subject: "$JS.API.CONSUMER.CREATE.ORDERS"}, to: "shop.api.CONSUMER.CREATE.ORDERS"}
					{service: {account: SHOP, subject: "$JS.API.CONSUMER.CREATE.ORDERS.>"}, to: "shop.api.CONSUMER.CREATE.ORDERS.>"}
					{service: {account: SHOP, subject: "$JS.API.STREAM.INFO.ORDERS"}, to: "shop.api.STREAM.INFO.ORDERS"}
					{stream: {account: SHOP, subject: "deliver.bridge.>"}}
					{service: {account: SHOP, subject: "$JS.FC.>"}}
				]
			}
		}`)
	shop, ours := watchAs(t, server.URL, "shop"), watchAs(t, server.URL, "bridge")
	if _, err := shop.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}); err != nil {
		t.Fatal(err)
	}
	_, err := ours.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORDERS", Mirror: &jetstream.StreamSource{
		Name: "ORDERS", External: &jetstream.ExternalStream{APIPrefix: "shop.api", DeliverPrefix: "deliver.bridge"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1})
	bridgetest.Start(t, bridgetest.Options{
		Sandbox: box, Env: map[string]string{"NATS_URL": server.URL, "NATS_USER": "bridge", "NATS_PASSWORD": "p"},
		YAML: "sources:\n  - name: orders\n    nats: {stream: ORDERS}\n" + bridgetest.Routes,
	})
	shop.storeIn("orders.1", "from-the-shop")
	ours.awaitResults([]string{"from-the-shop"})
	ours.awaitIdle()
	if diff := cmp.Diff(once([]string{"from-the-shop"}), counts(bridgetest.ByEvent(box.Effects()))); diff != "" {
		t.Errorf("effects by event (-want +got):\n%s", diff)
	}
}

func watchAs(t *testing.T, url, user string) *observed {
	t.Helper()
	nc, err := nats.Connect(url, nats.UserInfo(user, "p"), nats.MaxReconnects(-1), nats.Name("test"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(bridgetest.Deadline))
	if err != nil {
		t.Fatal(err)
	}
	return &observed{t: t, nc: nc, js: js}
}

// unquoted is the text of a JSON string's content, as far as quotes go.
func unquoted(s string) string { return strings.ReplaceAll(s, `\"`, `"`) }
