package bus

import (
	"math/rand"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge/natsd"
)

// stored is what matters of a stream's configuration.
type stored struct {
	Subjects           []string
	MaxBytes, PerKey   int64
	MaxAge, Duplicates time.Duration
	Discard            jetstream.DiscardPolicy
	Storage            jetstream.StorageType
	Retention          jetstream.RetentionPolicy
	Replicas           int
}

func storedOf(t *testing.T, c *Conn, name string) stored {
	t.Helper()
	cfg := streamInfo(t, c, name).Config
	return stored{
		cfg.Subjects, cfg.MaxBytes, cfg.MaxMsgsPerSubject, cfg.MaxAge, cfg.Duplicates, cfg.Discard, cfg.Storage, cfg.Retention, cfg.Replicas,
	}
}

func TestEnsureStreams(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	c := connect(t, startServer(t, natsd.Options{}).ClientURL())
	n := NewNames("acme")
	for range 2 {
		if err := c.EnsureStreams(ctx, n, 100*time.Hour, 1, 1<<30); err != nil {
			t.Fatal(err)
		}
	}
	ours := stored{Discard: jetstream.DiscardNew, Storage: jetstream.FileStorage, Replicas: 1, PerKey: -1, Duplicates: 2 * time.Minute}
	with := func(subject string, bytes int64, age time.Duration, perKey int64, kept jetstream.RetentionPolicy) stored {
		s := ours
		s.Subjects, s.MaxBytes, s.MaxAge, s.PerKey, s.Retention = []string{subject}, bytes, age, perKey, kept
		return s
	}
	want := map[string]stored{
		"ACME_EVENTS":  with("acme.events.>", 2<<30, 85*time.Hour, -1, jetstream.LimitsPolicy),
		"ACME_RESULTS": with("acme.results.>", 2<<30, 85*time.Hour, -1, jetstream.LimitsPolicy),
		"ACME_DEAD":    with("acme.dead.>", 2<<30, 0, -1, jetstream.LimitsPolicy),
		"ACME_WAIT":    with("acme.wait.>", 1<<30, 0, 1, jetstream.WorkQueuePolicy),
	}
	events := want["ACME_EVENTS"]
	events.Duplicates = 4 * time.Minute // as long as 8x8 repeats a webhook, and more
	want["ACME_EVENTS"] = events
	got := map[string]stored{}
	for _, name := range []string{n.Events(), n.Results(), n.Dead(), n.Wait()} {
		got[name] = storedOf(t, c, name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("streams (-want +got):\n%s", diff)
	}
}

// What somebody has chosen for a stream that is there stays, but for the window in
// which it drops what 8x8 repeats.
func TestEnsureStreamsLeavesWhatIsThere(t *testing.T) {
	t.Parallel()
	c := connect(t, startServer(t, natsd.Options{}).ClientURL())
	makeStream(t, c, jetstream.StreamConfig{Name: "BRIDGE_EVENTS", Subjects: []string{"orders.>", "bridge.events.>"}, MaxBytes: 1 << 20, Storage: jetstream.MemoryStorage})
	before := storedOf(t, c, "BRIDGE_EVENTS")
	once := &nats.Msg{Subject: "bridge.events.x", Data: []byte("kept"), Header: nats.Header{jetstream.MsgIDHeader: {"once"}}}
	if _, err := c.JS.PublishMsg(within(t), once); err != nil {
		t.Fatal(err)
	}
	if err := c.EnsureStreams(within(t), NewNames("bridge"), time.Hour, 1, 1<<30); err != nil {
		t.Fatal(err)
	}
	before.Duplicates = 4 * time.Minute
	if diff := cmp.Diff(before, storedOf(t, c, "BRIDGE_EVENTS")); diff != "" {
		t.Errorf("the stream that was there (-before +after):\n%s", diff)
	}
	if ack, err := c.JS.PublishMsg(within(t), once); err != nil || !ack.Duplicate { // it knows what came before it was changed
		t.Errorf("%+v, %v", ack, err)
	}
	if n := streamInfo(t, c, "BRIDGE_EVENTS").State.Msgs; n != 1 {
		t.Errorf("%d messages in it, want 1", n)
	}
}

// A window cannot be longer than what the stream keeps, and one that is long enough stays.
func TestEnsureStreamsWindow(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ age, have, want time.Duration }{
		{time.Minute, 30 * time.Second, time.Minute},
		{time.Hour, 10 * time.Minute, 10 * time.Minute},
		{0, 2 * time.Minute, 4 * time.Minute},
	} {
		c := connect(t, startServer(t, natsd.Options{}).ClientURL())
		makeStream(t, c, jetstream.StreamConfig{Name: "BRIDGE_EVENTS", Subjects: []string{"bridge.events.>"}, MaxAge: test.age, Duplicates: test.have})
		if err := c.EnsureStreams(within(t), NewNames("bridge"), time.Hour, 1, 1<<30); err != nil {
			t.Fatal(err)
		}
		if got := storedOf(t, c, "BRIDGE_EVENTS").Duplicates; got != test.want {
			t.Errorf("%v of %v: %v, want %v", test.have, test.age, got, test.want)
		}
	}
}

func TestEnsureStreamsRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		have jetstream.StreamConfig
		want string
	}{
		{
			"overlap", jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>", "bridge.events.orders"}},
			"stream BRIDGE_EVENTS: its subjects bridge.events.> belong to stream ORDERS already: give this bridge another BRIDGE_PREFIX, or remove that stream's subjects",
		},
		{
			"wider overlap", jetstream.StreamConfig{Name: "ALL", Subjects: []string{"bridge.dead.*.rejected"}},
			"stream BRIDGE_DEAD: its subjects bridge.dead.> belong to stream ALL already: give this bridge another BRIDGE_PREFIX, or remove that stream's subjects",
		},
		{
			"other subjects", jetstream.StreamConfig{Name: "BRIDGE_RESULTS", Subjects: []string{"a.>", "b"}},
			"stream BRIDGE_RESULTS exists with subjects a.>, b, and the bridge needs bridge.results.> in it",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := connect(t, startServer(t, natsd.Options{}).ClientURL())
			makeStream(t, c, test.have)
			if err := c.EnsureStreams(within(t), NewNames("bridge"), time.Hour, 1, 1<<30); err == nil || err.Error() != test.want {
				t.Errorf("got\n%v, want\n%s", err, test.want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	n := NewNames("bridge")
	tests := []struct{ got, want string }{
		{n.EventSubject("com.acme.order.shipped"), "bridge.events.com.acme.order.shipped"},
		{n.EventSubject("com.acme.*.>"), "bridge.events.com.acme._._"},
		{n.EventSubject("a b\tc"), "bridge.events.a_b_c"},
		{n.EventSubject(""), "bridge.events._"},
		{n.EventSubject("."), "bridge.events._._"},
		{n.EventSubject("..a."), "bridge.events._._.a._"},
		{n.EventSubject("größe"), "bridge.events.gr__e"},
		{n.EventSubject("$JS.API"), "bridge.events._JS.API"},
		{n.ResultSubject("send-sms", "succeeded"), "bridge.results.send-sms.succeeded"},
		{n.ResultSubject("a.b", "failed"), "bridge.results.a_b.failed"},
		{n.DeadSubject("", "malformed"), "bridge.dead._.malformed"},
		{n.DeadSubject("run:send-sms", "rejected"), "bridge.dead.run_send-sms.rejected"},
		{n.WaitSubject("main", "k.l"), "bridge.wait.main.k.l"},
		{n.WaitSubject("", "k.l"), "bridge.wait._.k.l"},
		{n.Durable("orders"), "bridge-orders"},
		{n.Durable("orders.eu"), "bridge-orders_eu"},
	}
	for _, test := range tests {
		if test.got != test.want {
			t.Errorf("got %q, want %q", test.got, test.want)
		}
	}
}

var awkward = []string{
	"", ".", "..", "*", ">", "_", "-", "x", "x2e", "=", "=2e", " ", "\t", "\r\n", "\x00", "a", "A", "0", "com.acme", "a.b", "$JS.API", "é", "日本", "\xff", "/", "\\", "%2e", strings.Repeat("n", 250),
}

func awkwardText(r *rand.Rand) string {
	var b strings.Builder
	for range r.Intn(4) {
		b.WriteString(awkward[r.Intn(len(awkward))])
	}
	return b.String()
}

var publishable = regexp.MustCompile(`^[-_=a-zA-Z0-9]+(\.[-_=a-zA-Z0-9]+)*$`)

// Whatever an event's type, an action, a route or a connection is called, its
// subject is one that can be published to, and stays below the stream's.
func TestSubjectsArePublishable(t *testing.T) {
	t.Parallel()
	n := NewNames("bridge")
	for seed := range 5000 {
		r := rand.New(rand.NewSource(int64(seed)))
		text := awkwardText(r)
		for prefix, subject := range map[string]string{
			"bridge.events.": n.EventSubject(text), "bridge.results.": n.ResultSubject(text, "failed"),
			"bridge.dead.": n.DeadSubject(text, "rejected"), "bridge.wait.": n.WaitSubject(text, "k.l"),
		} {
			if !publishable.MatchString(subject) || !strings.HasPrefix(subject, prefix) {
				t.Fatalf("seed %d: %q gives the subject %q", seed, text, subject)
			}
		}
		if got := n.EventSubject(text); len(got) > 300 {
			t.Fatalf("seed %d: a subject of %d characters", seed, len(got))
		}
		if durable := n.Durable(text); strings.ContainsAny(durable, " .*>/\\\t\r\n") {
			t.Fatalf("seed %d: %q gives the consumer name %q", seed, text, durable)
		}
	}
}

func TestSubjectsAreStored(t *testing.T) {
	t.Parallel()
	c := connect(t, startServer(t, natsd.Options{}).ClientURL())
	n := NewNames("bridge")
	if err := c.EnsureStreams(within(t), n, time.Hour, 1, 1<<30); err != nil {
		t.Fatal(err)
	}
	for _, text := range awkward {
		store(t, c, n.EventSubject(text), "x")
		store(t, c, n.WaitSubject(text, "k.l"), "x")
	}
	if got := int(streamInfo(t, c, n.Events()).State.Msgs); got != len(awkward) {
		t.Errorf("%d of %d events stored", got, len(awkward))
	}
	if got := int(streamInfo(t, c, n.Wait()).State.Msgs); got != len(awkward) {
		t.Errorf("%d of %d connections have a place of their own", got, len(awkward))
	}
}

// Two connections never share a place to wait.
func TestConnectionTokensDiffer(t *testing.T) {
	t.Parallel()
	owner := map[string]string{}
	for seed := range 20_000 {
		name := awkwardText(rand.New(rand.NewSource(int64(seed))))
		tok := connectionToken(name)
		if other, taken := owner[tok]; taken && other != name {
			t.Fatalf("%q and %q are both called %q", name, other, tok)
		}
		owner[tok] = name
	}
}
