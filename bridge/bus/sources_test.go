package bus

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge/natsd"
)

func TestDurable(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	c := connect(t, startServer(t, natsd.Options{}).ClientURL())
	makeStream(t, c, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})

	if exists, _, err := c.FindDurable(ctx, "ORDERS", "bridge-orders"); exists || err != nil {
		t.Errorf("found %v, %v", exists, err)
	}
	want := `stream "ORDER" does not exist; did you mean "ORDERS"?`
	if _, _, err := c.FindDurable(ctx, "ORDER", "bridge-orders"); err == nil || err.Error() != want {
		t.Errorf("misspelt: %v, want %s", err, want)
	}
	want = `stream "INVOICES" does not exist: make it, or correct sources[].nats.stream`
	if _, _, err := c.FindDurable(ctx, "INVOICES", "bridge-orders"); err == nil || err.Error() != want {
		t.Errorf("unheard of: %v, want %s", err, want)
	}

	d := Durable{Name: "bridge-orders", Stream: "ORDERS", Subjects: []string{"orders.a", "orders.b"}, AckWait: 30 * time.Second, Ledger: "one"}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if err := c.EnsureDurable(ctx, d, Start{At: at}); err != nil {
		t.Fatal(err)
	}
	if exists, ledger, err := c.FindDurable(ctx, "ORDERS", "bridge-orders"); !exists || ledger != "one" || err != nil {
		t.Errorf("found %v of ledger %q, %v", exists, ledger, err)
	}
	// Another time, ledger, subjects and start: everything follows but its place in the stream.
	d.AckWait, d.Ledger, d.Subjects = time.Minute, "two", []string{"orders.a"}
	if err := c.EnsureDurable(ctx, d, Start{All: true}); err != nil {
		t.Fatal(err)
	}
	cons, err := c.JS.Consumer(ctx, "ORDERS", "bridge-orders")
	if err != nil {
		t.Fatal(err)
	}
	cfg := cons.CachedInfo().Config
	if cfg.DeliverPolicy != jetstream.DeliverByStartTimePolicy || cfg.OptStartTime == nil || !cfg.OptStartTime.Equal(at) {
		t.Errorf("its start is %v at %v", cfg.DeliverPolicy, cfg.OptStartTime)
	}
	if cfg.AckWait != time.Minute || cfg.Metadata[ledgerMetadata] != "two" || cfg.FilterSubject != "orders.a" || cfg.AckPolicy != jetstream.AckExplicitPolicy || cfg.MaxDeliver != -1 {
		t.Errorf("brought up to date: %+v", cfg)
	}
}

func TestDurableStarts(t *testing.T) {
	t.Parallel()
	c := connect(t, startServer(t, natsd.Options{}).ClientURL())
	orders(t, c)
	publish(t, c, 1, 3)
	second := everything(t, c, "S")[1].Time
	for name, test := range map[string]struct {
		start Start
		want  uint64
	}{
		"all": {Start{All: true}, 3}, "from a time": {Start{At: second}, 2}, "new": {Start{At: time.Now().Add(time.Hour)}, 0},
	} {
		d := Durable{Name: "bridge-" + token(name), Stream: "S", AckWait: never, Ledger: "l"}
		if err := c.EnsureDurable(within(t), d, test.start); err != nil {
			t.Fatal(err)
		}
		cons, err := c.JS.Consumer(within(t), "S", d.Name)
		if err != nil {
			t.Fatal(err)
		}
		if got := cons.CachedInfo().NumPending; got != test.want {
			t.Errorf("%s: %d of 3 messages are to come, want %d", name, got, test.want)
		}
	}
}

// What arrives on plain subjects is stored once, whoever of the replicas took it.
func TestCore(t *testing.T) {
	t.Parallel()
	const many = 300
	server := startServer(t, natsd.Options{})
	n := NewNames("bridge")
	witness := connect(t, server.ClientURL())
	makeStream(t, witness, jetstream.StreamConfig{Name: n.Events(), Subjects: []string{"bridge.events.>"}, Storage: jetstream.MemoryStorage})
	for range 2 {
		c := connect(t, server.ClientURL())
		stop, err := c.Core(n, "alerts", []string{"alerts.*", "alarms"}, func(err error) { t.Errorf("lost: %v", err) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
		if err := c.NC.FlushWithContext(within(t)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range many {
		m := nats.NewMsg(fmt.Sprintf("alerts.%d", i%3))
		m.Header = nats.Header{"ce-id": {fmt.Sprint(i)}, "ce-source": {"/s"}, "ce-type": {"com.example.alert"}, "ce-specversion": {"1.0"}, "Nats-Msg-Id": {"same"}}
		if i%3 == 0 {
			m = &nats.Msg{Subject: "alarms", Data: []byte(fmt.Sprint(i))}
		}
		if err := witness.NC.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all to be stored", func() bool { return streamInfo(t, witness, n.Events()).State.Msgs >= many })
	subjects, ids := map[string]int{}, map[string]int{}
	for _, m := range everything(t, witness, n.Events()) {
		subjects[m.Subject]++
		ids[m.Header.Get("ce-id")+string(m.Data)]++
	}
	if subjects["bridge.events.com.example.alert"] != 200 || subjects["bridge.events.core.alerts"] != 100 || len(subjects) != 2 {
		t.Errorf("stored at %v", subjects)
	}
	for id, n := range ids {
		if n != 1 {
			t.Errorf("%s was stored %d times", id, n)
		}
	}
}

func TestCoreLost(t *testing.T) {
	t.Parallel()
	c := connect(t, startServer(t, natsd.Options{}).ClientURL())
	lost := make(chan error, 1)
	stop, err := c.Core(NewNames("bridge"), "alerts", []string{"alerts"}, func(err error) { lost <- err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	if err := c.NC.Publish("alerts", []byte("x")); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-lost:
		if err.Error() != "not sent: no stream listens on this subject" {
			t.Errorf("lost: %v", err)
		}
	case <-time.After(patience):
		t.Error("nobody was told")
	}
	if _, err := c.Core(NewNames("bridge"), "alerts", []string{"ok", "not ok"}, nil); err == nil || err.Error() != "subscribe to not ok: nats: invalid subject" {
		t.Errorf("invalid subject: %v", err)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	c := connect(t, startServer(t, natsd.Options{}).ClientURL())
	n := NewNames("bridge")
	if _, err := c.Watch(ctx, n.Results(), []string{n.AllResults()}, nil); err == nil {
		t.Error("watches a stream that does not exist")
	}
	if err := c.EnsureStreams(ctx, n, time.Hour, 1, 1<<30); err != nil {
		t.Fatal(err)
	}
	store(t, c, "bridge.results.send-sms.failed", "before")
	var mu sync.Mutex
	var seen []string
	stop, err := c.Watch(ctx, n.Results(), []string{n.AllResults()}, func(w Watched) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, w.Subject+" "+string(w.Data))
	})
	if err != nil {
		t.Fatal(err)
	}
	store(t, c, "bridge.results.send-sms.succeeded", "1")
	store(t, c, "bridge.results.send-sms.failed", "2")
	want := []string{"bridge.results.send-sms.succeeded 1", "bridge.results.send-sms.failed 2"}
	eventually(t, "both", func() bool { mu.Lock(); defer mu.Unlock(); return slices.Equal(seen, want) })
	stop()
}
