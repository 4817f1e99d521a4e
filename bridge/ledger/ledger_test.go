package ledger_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/bridgetest/proxy"
	"github.com/bridge8x8/bridge8x8/bridge/bus"
	"github.com/bridge8x8/bridge8x8/bridge/ledger"
	"github.com/bridge8x8/bridge8x8/bridge/natsd"
	"github.com/bridge8x8/bridge8x8/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come about; it is never the
// measure of anything.
const patience = time.Minute

const (
	stream  = "KV_BRIDGE_LEDGER"
	subject = "$KV.BRIDGE_LEDGER."
	enough  = 16 << 20 // bytes of a ledger that is to have room
)

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually asks until it is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	late := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("in vain waited for: %s", what)
		}
	}
}

func startServer(t *testing.T) *natsd.Server {
	t.Helper()
	s, err := natsd.Start(natsd.Options{Dir: t.TempDir(), Fast: true, Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func connect(t *testing.T, url string) *bus.Conn {
	t.Helper()
	c, err := bus.Connect(config.NATSEnv{URL: url}, "test", slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := c.Await(within(t), false); err != nil {
		t.Fatal(err)
	}
	return c
}

func options(c *bus.Conn) ledger.Options {
	return ledger.Options{
		JetStream: c.JS, Publish: c.Publisher.Store, Unclear: func(err error) bool { return errors.Is(err, bus.ErrUnclear) },
		NoRoom: bus.NoRoom,
		Prefix: "bridge", Retention: time.Hour, MaxBytes: enough,
	}
}

func open(t *testing.T, o ledger.Options) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(within(t), o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// watch keeps the ledger's eye open until the test ends.
func watch(t *testing.T, l *ledger.Ledger) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); l.Watch(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

func record(state bridge.State) bridge.Record {
	return bridge.Record{
		Version: 1, State: state, Content: "c", Cause: bridge.Cause{Source: "/shop", ID: "1", Type: "com.example.shipped"},
		Route: "shipped", Routes: []bridge.Frozen{{Route: "shipped", Action: "send-sms"}}, Try: "abcdefghijkl", Attempts: 1,
		ClaimedAt: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
	}
}

func key(id string) bridge.Key { return bridge.NewKey(bridge.EventHash("/shop", id), "shipped", 0) }

func put(t *testing.T, l *ledger.Ledger, k bridge.Key, rec bridge.Record, rev uint64) uint64 {
	t.Helper()
	got, err := l.Put(within(t), k, rec, rev)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestPut(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	l := open(t, options(connect(t, startServer(t).ClientURL())))
	k := key("1")

	if _, err := l.Get(ctx, k); !errors.Is(err, bridge.ErrNotFound) {
		t.Errorf("get before any put: %v", err)
	}
	if _, err := l.Put(ctx, k, record(bridge.Running), 7); !errors.Is(err, bridge.ErrConflict) {
		t.Errorf("update of what is not there: %v", err)
	}
	first := put(t, l, k, record(bridge.Running), 0)
	if _, err := l.Put(ctx, k, record(bridge.Running), 0); !errors.Is(err, bridge.ErrConflict) {
		t.Errorf("second create: %v", err)
	}
	ended := record(bridge.Succeeded)
	ended.Output = json.RawMessage(`{"umid":"u"}`)
	second := put(t, l, k, ended, first)
	if second <= first {
		t.Errorf("revision %d follows %d", second, first)
	}
	if _, err := l.Put(ctx, k, record(bridge.Failed), first); !errors.Is(err, bridge.ErrConflict) {
		t.Errorf("update from an old revision: %v", err)
	}
	if err := l.Usable(); err != nil {
		t.Errorf("a conflict is an answer, not trouble: %v", err)
	}
	got, err := l.Get(ctx, k)
	if err != nil {
		t.Fatal(err)
	}
	want := bridge.Entry{Key: k, Record: ended, Revision: second}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(bridge.Entry{}, "StoredAt")); diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}
	now, err := l.Now(ctx)
	if err != nil || got.StoredAt.IsZero() || got.StoredAt.After(now) {
		t.Errorf("stored at %v, and now is %v, %v", got.StoredAt, now, err)
	}
}

// Of many who create one record, one succeeds and the others are told that they
// did not.
func TestPutAtOnce(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	l := open(t, options(connect(t, startServer(t).ClientURL())))
	const many = 50
	errs := make(chan error, many)
	for i := range many {
		go func() {
			rec := record(bridge.Running)
			rec.Try = fmt.Sprintf("try-%08d", i)
			_, err := l.Put(ctx, key("1"), rec, 0)
			errs <- err
		}()
	}
	won := 0
	for range many {
		switch err := <-errs; {
		case err == nil:
			won++
		case !errors.Is(err, bridge.ErrConflict):
			t.Errorf("neither stored nor a conflict: %v", err)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d creates succeeded, want 1", won, many)
	}
}

// What is asked for while nobody answers may be stored all the same, at once or
// later: nobody must be told that it was not.
func TestUnclear(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		breaks func(*proxy.Proxy)
		mend   func(*proxy.Proxy)
		early  bool // whether it is stored before the line is mended
	}{
		{"answer lost", func(p *proxy.Proxy) { p.Lose(true) }, func(p *proxy.Proxy) { p.Lose(false) }, true},
		{"stored late", func(p *proxy.Proxy) { p.Hold(true, false) }, func(p *proxy.Proxy) { p.Hold(false, false) }, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx := within(t)
			server := startServer(t)
			p := proxy.Start(t, server.Addr().String())
			l := open(t, options(connect(t, p.URL())))
			witness := open(t, options(connect(t, server.ClientURL())))

			test.breaks(p)
			if _, err := l.Put(ctx, key("1"), record(bridge.Running), 0); !errors.Is(err, bridge.ErrUnclear) {
				t.Fatalf("put without an answer: %v, want ErrUnclear", err)
			}
			if err := l.Usable(); err == nil || err.Error() != "the last write to the ledger failed" {
				t.Errorf("usable: %v", err)
			}
			stored := func() bool {
				e, err := witness.Get(ctx, key("1"))
				if err != nil && !errors.Is(err, bridge.ErrNotFound) {
					t.Fatal(err)
				}
				return err == nil && e.Record.Try == "abcdefghijkl"
			}
			if test.early {
				eventually(t, "the record", stored)
			} else if stored() {
				t.Error("stored, although the server never heard of it")
			}
			test.mend(p)
			eventually(t, "the record", stored)
		})
	}
}

// A connection that breaks under a write leaves it unclear at once; after it is
// back, the ledger says what became of it.
func TestUnclearWhenCut(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	server := startServer(t)
	p := proxy.Start(t, server.Addr().String())
	l := open(t, options(connect(t, p.URL())))
	witness := open(t, options(connect(t, server.ClientURL())))

	p.Lose(true)
	answer := make(chan error, 1)
	go func() {
		_, err := l.Put(ctx, key("1"), record(bridge.Running), 0)
		answer <- err
	}()
	eventually(t, "the record", func() bool { _, err := witness.Get(ctx, key("1")); return err == nil })
	p.Cut()
	p.Lose(false)
	if err := <-answer; !errors.Is(err, bridge.ErrUnclear) {
		t.Errorf("put on a line that was cut: %v, want ErrUnclear", err)
	}
	eventually(t, "the record over the mended line", func() bool { _, err := l.Get(ctx, key("1")); return err == nil })
}

func TestTimeToLive(t *testing.T) {
	t.Parallel()
	tests := []struct {
		state bridge.State
		want  string
	}{
		{bridge.Waiting, ""}, {bridge.Running, ""}, {bridge.UnknownSt, ""},
		{bridge.Succeeded, "72h0m0s"}, {bridge.Failed, "72h0m0s"},
	}
	c := connect(t, startServer(t).ClientURL())
	o := options(c)
	o.Retention = 72 * time.Hour
	l := open(t, o)
	for _, test := range tests {
		k := key(string(test.state))
		// A final record first: what is written over it must not inherit its time to live.
		rev := put(t, l, k, record(bridge.Failed), 0)
		put(t, l, k, record(test.state), rev)
		m := last(t, c, subject+string(k))
		if got := m.Header.Get("Nats-TTL"); got != test.want {
			t.Errorf("a %s record lives for %q, want %q", test.state, got, test.want)
		}
	}
	if err := l.Batch(within(t), "batch", key("1")); err != nil {
		t.Fatal(err)
	}
	if got := last(t, c, subject+"batch.batch").Header.Get("Nats-TTL"); got != "72h0m0s" {
		t.Errorf("a batch reference lives for %q", got)
	}
}

func last(t *testing.T, c *bus.Conn, subject string) *jetstream.RawStreamMsg {
	t.Helper()
	st, err := c.JS.Stream(within(t), stream)
	if err != nil {
		t.Fatal(err)
	}
	m, err := st.GetLastMsgForSubject(within(t), subject)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	return m
}

// A key whose record has expired is free again.
func TestExpiry(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	o := options(connect(t, startServer(t).ClientURL()))
	o.Retention = time.Second
	l := open(t, o)
	put(t, l, key("kept"), record(bridge.UnknownSt), 0)
	put(t, l, key("gone"), record(bridge.Succeeded), 0)
	eventually(t, "the record to expire", func() bool {
		_, err := l.Get(ctx, key("gone"))
		if err != nil && !errors.Is(err, bridge.ErrNotFound) {
			t.Fatal(err)
		}
		return err != nil
	})
	put(t, l, key("gone"), record(bridge.Running), 0)
	if _, err := l.Get(ctx, key("kept")); err != nil {
		t.Errorf("an unknown record must not expire: %v", err)
	}
}

func TestEvent(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	l := open(t, options(connect(t, startServer(t).ClientURL())))
	hash := bridge.EventHash("/shop", "1")
	want := map[bridge.Key]bridge.State{
		bridge.NewKey(hash, "a", 0): bridge.Running, bridge.NewKey(hash, "b", 0): bridge.Succeeded, bridge.NewKey(hash, "b", 1): bridge.Waiting,
	}
	for k, state := range want {
		put(t, l, k, record(state), 0)
	}
	put(t, l, key("2"), record(bridge.Running), 0)
	if err := l.Batch(ctx, "batch", key("1")); err != nil {
		t.Fatal(err)
	}
	entries, err := l.Event(ctx, hash)
	if err != nil {
		t.Fatal(err)
	}
	got := map[bridge.Key]bridge.State{}
	for _, e := range entries {
		got[e.Key] = e.Record.State
		if one, err := l.Get(ctx, e.Key); err != nil || one.Revision != e.Revision || !one.StoredAt.Equal(e.StoredAt) {
			t.Errorf("%s by itself: revision %d at %v, %v; among its event's: %d at %v", e.Key, one.Revision, one.StoredAt, err, e.Revision, e.StoredAt)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records of the event (-want +got):\n%s", diff)
	}
	if entries, err := l.Event(ctx, bridge.EventHash("/shop", "3")); err != nil || len(entries) != 0 {
		t.Errorf("records of an event that never was: %v, %v", entries, err)
	}
}

func TestStream(t *testing.T) {
	t.Parallel()
	c := connect(t, startServer(t).ClientURL())
	open(t, options(c))
	st, err := c.JS.Stream(within(t), stream)
	if err != nil {
		t.Fatal(err)
	}
	cfg := st.CachedInfo().Config
	type facts struct {
		Direct, TTL, DenyDelete bool
		Revisions, MaxBytes     int64
		MaxAge                  time.Duration
		Discard                 jetstream.DiscardPolicy
		Storage                 jetstream.StorageType
		Subjects                []string
	}
	got := facts{cfg.AllowDirect, cfg.AllowMsgTTL, cfg.DenyDelete, cfg.MaxMsgsPerSubject, cfg.MaxBytes, cfg.MaxAge, cfg.Discard, cfg.Storage, cfg.Subjects}
	want := facts{false, true, true, 1, enough, 0, jetstream.DiscardNew, jetstream.FileStorage, []string{"$KV.BRIDGE_LEDGER.>"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the ledger's stream (-want +got):\n%s", diff)
	}
	// The usual tools read it as a bucket.
	kv, err := c.JS.KeyValue(within(t), "BRIDGE_LEDGER")
	if err != nil {
		t.Fatal(err)
	}
	if status, err := kv.Status(within(t)); err != nil || status.History() != 1 {
		t.Errorf("as a bucket: %v, %v", status, err)
	}
}

// A bucket that has no room refuses, forgets nothing, and says so.
func TestFull(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	c := connect(t, startServer(t).ClientURL())
	o := options(c)
	o.MaxBytes = 64 << 10
	l := open(t, o)
	fat := record(bridge.UnknownSt)
	fat.Message = strings.Repeat("m", 3<<10)
	var refused error
	n := 0
	for ; n < 100 && refused == nil; n++ {
		_, refused = l.Put(ctx, key(fmt.Sprint(n)), fat, 0)
	}
	if refused == nil || errors.Is(refused, bridge.ErrConflict) || errors.Is(refused, bridge.ErrUnclear) {
		t.Fatalf("a write to a full ledger: %v", refused)
	}
	if want := "the ledger cannot be written: nats: API error: code=503 err_code=10077 description=maximum bytes exceeded"; refused.Error() != want {
		t.Errorf("refused with\n%q, want\n%q", refused, want)
	}
	if _, err := l.Get(ctx, key(fmt.Sprint(n-1))); !errors.Is(err, bridge.ErrNotFound) {
		t.Errorf("a refused write left a record: %v", err)
	}
	if _, err := l.Get(ctx, key("0")); err != nil {
		t.Errorf("the oldest record is gone: %v", err)
	}
	if err := l.Usable(); err == nil || err.Error() != "the last write to the ledger failed" {
		t.Errorf("usable after a refused write: %v", err)
	}

	watch(t, l)
	eventually(t, "the watch to see how full it is", func() bool {
		err := l.Usable()
		return err != nil && strings.HasPrefix(err.Error(), "the ledger is over 90 % full (")
	})
	st, err := c.JS.Stream(ctx, stream)
	if err != nil {
		t.Fatal(err)
	}
	info, err := st.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("the ledger is over 90 %% full (%d of 65536 bytes): raise the limit of stream %s, or lower BRIDGE_RETENTION", info.State.Bytes, stream)
	if err := l.Usable(); err == nil || err.Error() != want {
		t.Errorf("usable: %v\nwant %s", err, want)
	}
	if _, err := ledger.Open(ctx, o); err != nil {
		t.Errorf("a full ledger must open all the same: its records can still end: %v", err)
	}

	cfg := info.Config
	cfg.MaxBytes = enough // as the text advises
	if _, err := c.JS.UpdateStream(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the ledger to be usable again", func() bool { return l.Usable() == nil })
	put(t, l, key("new"), fat, 0)
}

// After a write that failed nothing is claimed until one succeeds, be it the
// watch's own.
func TestFailing(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	c := connect(t, startServer(t).ClientURL())
	var broken atomic.Bool
	var failures atomic.Int64
	outside := errors.New("results cannot be stored")
	var healthy atomic.Bool
	healthy.Store(true)
	o := options(c)
	o.Publish = func(ctx context.Context, subject string, h nats.Header, data []byte) (uint64, error) {
		if broken.Load() {
			return 0, bus.ErrUnsent
		}
		return c.Publisher.Store(ctx, subject, h, data)
	}
	o.Failed = func() { failures.Add(1) }
	o.Healthy = func() error {
		if healthy.Load() {
			return nil
		}
		return outside
	}
	l := open(t, o)
	if err := l.Usable(); err != nil {
		t.Fatal(err)
	}

	broken.Store(true)
	if _, err := l.Put(ctx, key("1"), record(bridge.Running), 0); err == nil || err.Error() != "the ledger cannot be written: not sent" {
		t.Errorf("put: %v", err)
	}
	if l.Usable() == nil || failures.Load() != 1 {
		t.Errorf("after a failed write: usable %v, %d failures counted", l.Usable(), failures.Load())
	}
	broken.Store(false)
	put(t, l, key("1"), record(bridge.Running), 0)
	if err := l.Usable(); err != nil {
		t.Errorf("after a write that succeeded: %v", err)
	}

	broken.Store(true)
	if _, err := l.Put(ctx, key("2"), record(bridge.Running), 0); err == nil {
		t.Error("put succeeded")
	}
	watch(t, l) // publishes past what is broken
	eventually(t, "the watch to find that writing works", func() bool { return l.Usable() == nil })

	healthy.Store(false)
	if err := l.Usable(); !errors.Is(err, outside) {
		t.Errorf("usable although results cannot be stored: %v", err)
	}
}

func TestJoin(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	c := connect(t, startServer(t).ClientURL())
	first := open(t, options(c))
	put(t, first, key("1"), record(bridge.Running), 0)
	second := open(t, options(c))
	if first.ID() == "" || first.ID() != second.ID() || !first.Since().Equal(second.Since()) {
		t.Errorf("joined %q since %v, want %q since %v", second.ID(), second.Since(), first.ID(), first.Since())
	}
	if _, err := second.Get(ctx, key("1")); err != nil {
		t.Error(err)
	}
	if err := c.JS.DeleteStream(ctx, stream); err != nil {
		t.Fatal(err)
	}
	if third := open(t, options(c)); third.ID() == first.ID() || third.Since().Before(first.Since()) {
		t.Errorf("a new ledger is called %q since %v, like the lost one %q since %v", third.ID(), third.Since(), first.ID(), first.Since())
	}
}

// Replicas that start together end up with one ledger.
func TestOpenAtOnce(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	c := connect(t, startServer(t).ClientURL())
	const many = 8
	ids, errs := make([]string, many), make(chan error, many)
	for i := range many {
		go func() {
			l, err := ledger.Open(ctx, options(c))
			if err == nil {
				ids[i] = l.ID()
			}
			errs <- err
		}()
	}
	for range many {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Errorf("ledgers %q are not one", ids)
			break
		}
	}
}

// A bucket that somebody made with the usual tools is mended as far as it can be.
func TestMend(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	c := connect(t, startServer(t).ClientURL())
	if _, err := c.JS.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "BRIDGE_LEDGER"}); err != nil {
		t.Fatal(err)
	}
	l := open(t, options(c))
	if l.ID() == "" || l.Since().IsZero() {
		t.Errorf("a mended ledger has no id %q or beginning %v", l.ID(), l.Since())
	}
	st, err := c.JS.Stream(ctx, stream)
	if err != nil {
		t.Fatal(err)
	}
	if cfg := st.CachedInfo().Config; cfg.AllowDirect || !cfg.AllowMsgTTL {
		t.Errorf("direct reads %v, times to live %v", cfg.AllowDirect, cfg.AllowMsgTTL)
	}
	put(t, l, key("1"), record(bridge.Succeeded), 0)
	if again := open(t, options(c)); again.ID() != l.ID() {
		t.Errorf("id %q, then %q", l.ID(), again.ID())
	}
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		cfg  jetstream.StreamConfig
		want string
	}{
		{
			"history", jetstream.StreamConfig{MaxMsgsPerSubject: 5, Discard: jetstream.DiscardNew},
			`ledger stream KV_BRIDGE_LEDGER keeps 5 revisions of a key, and the ledger needs 1: let the bridge make the stream`,
		},
		{
			"max age", jetstream.StreamConfig{MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, MaxAge: time.Hour},
			`ledger stream KV_BRIDGE_LEDGER forgets by itself (max age 1h0m0s, discard DiscardNew): let the bridge make the stream`,
		},
		{
			"discards old", jetstream.StreamConfig{MaxMsgsPerSubject: 1, Discard: jetstream.DiscardOld},
			`ledger stream KV_BRIDGE_LEDGER forgets by itself (max age 0s, discard DiscardOld): let the bridge make the stream`,
		},
		{
			"format", jetstream.StreamConfig{MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, Metadata: map[string]string{"bridge8x8-format": "2"}},
			`ledger stream KV_BRIDGE_LEDGER has format "2", and this bridge knows "1": run a newer bridge`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx := within(t)
			c := connect(t, startServer(t).ClientURL())
			test.cfg.Name, test.cfg.Subjects = stream, []string{subject + ">"}
			if _, err := c.JS.CreateStream(ctx, test.cfg); err != nil {
				t.Fatal(err)
			}
			if _, err := ledger.Open(ctx, options(c)); err == nil || err.Error() != test.want {
				t.Errorf("opened with\n%v, want\n%s", err, test.want)
			}
		})
	}
}

// The ledger takes what room there is.
func TestLessRoom(t *testing.T) {
	t.Parallel()
	s, err := natsd.Start(natsd.Options{Dir: t.TempDir(), Fast: true, Addr: "127.0.0.1:0", MaxStore: 300 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	c := connect(t, s.ClientURL())
	o := options(c)
	o.MaxBytes = 1 << 30
	open(t, o)
	st, err := c.JS.Stream(within(t), stream)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := st.CachedInfo().Config.MaxBytes, int64(256<<20); got != want {
		t.Errorf("the ledger has %d bytes, want %d", got, want)
	}
}

func TestSources(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	c := connect(t, startServer(t).ClientURL())
	l := open(t, options(c))
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	first := ledger.Source{Since: at, From: at.Add(-time.Hour)}
	if _, ok := l.Source("orders.eu > *"); ok {
		t.Error("knows a source that nobody added")
	}
	for i, s := range []ledger.Source{first, {Since: at.Add(time.Hour), From: at.Add(time.Hour)}} {
		got, err := l.AddSource(ctx, "orders.eu > *", s) // a name may hold anything
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, got); diff != "" {
			t.Errorf("added %d. (-want +got):\n%s", i+1, diff)
		}
	}
	again := open(t, options(c))
	got, ok := again.Source("orders.eu > *")
	if diff := cmp.Diff(first, got); !ok || diff != "" {
		t.Errorf("a reopened ledger knows it: %v (-want +got):\n%s", ok, diff)
	}
}

func TestRemembers(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	c := connect(t, startServer(t).ClientURL())
	since := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	var now atomic.Pointer[time.Time]
	o := options(c)
	o.Retention = 100 * time.Hour
	o.Now = func() time.Time { return *now.Load() }
	l := open(t, o)
	add := func(name string, from time.Time) {
		if _, err := l.AddSource(ctx, name, ledger.Source{Since: since, From: from}); err != nil {
			t.Fatal(err)
		}
	}
	add("new", since)
	add("backlog", time.Time{})
	add("from", since.Add(-24*time.Hour))

	tests := []struct {
		name        string
		source      string
		now, stored time.Duration // after since
		want        bool
	}{
		{"stored after the start", "new", 2 * time.Hour, time.Hour, true},
		{"stored at the start", "new", time.Hour, 0, true},
		{"stored before the start", "new", time.Hour, -time.Second, false},
		{"unknown source", "other", 2 * time.Hour, time.Hour, false},
		{"backlog, however old", "backlog", time.Hour, -1000 * time.Hour, true},
		{"backlog, on the last day", "backlog", 89 * time.Hour, -1000 * time.Hour, true},
		{"backlog, too late", "backlog", 91 * time.Hour, -1000 * time.Hour, false},
		{"before the chosen time", "from", time.Hour, -25 * time.Hour, false},
		{"after the chosen time", "from", time.Hour, -23 * time.Hour, true},
		{"waited for less than nine tenths", "new", 190 * time.Hour, 101 * time.Hour, true},
		{"waited for more than nine tenths", "new", 190 * time.Hour, 99 * time.Hour, false},
		{"stored by a clock ahead of ours", "new", time.Hour, 2 * time.Hour, true},
	}
	for _, test := range tests {
		at := since.Add(test.now)
		now.Store(&at)
		if got := l.Remembers(test.source, since.Add(test.stored)); got != test.want {
			t.Errorf("%s: remembers %v, want %v", test.name, got, test.want)
		}
	}
}

func TestByBatch(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	l := open(t, options(connect(t, startServer(t).ClientURL())))
	rev := put(t, l, key("1"), record(bridge.Running), 0)
	ref := bridge.BatchReference(key("1"), "abcdefghijkl")
	if err := l.Batch(ctx, ref, key("1")); err != nil {
		t.Fatal(err)
	}
	got, err := l.ByBatch(ctx, ref)
	if err != nil || got.Key != key("1") || got.Revision != rev {
		t.Errorf("batch %q: %s at %d, %v", ref, got.Key, got.Revision, err)
	}
	if err := l.Batch(ctx, bridge.BatchReference(key("2"), "abcdefghijkl"), key("2")); err != nil {
		t.Fatal(err)
	}
	for _, odd := range []string{"", "unheard-of", "*", ">", "a b", "a.b", "x\t", bridge.BatchReference(key("2"), "abcdefghijkl")} {
		if _, err := l.ByBatch(ctx, odd); !errors.Is(err, bridge.ErrNotFound) {
			t.Errorf("batch %q: %v, want ErrNotFound", odd, err)
		}
	}
}

// A mark beside the records is compared and set as they are, is no record, and
// leaves nothing behind (R14).
func TestMark(t *testing.T) {
	t.Parallel()
	c := connect(t, startServer(t).ClientURL())
	l := open(t, options(c))
	ctx, id := within(t), bridge.EventHash("/shop", "1")
	look := func(want bridge.Mark, wantRev uint64) {
		t.Helper()
		got, rev, err := l.Marked(ctx, id)
		if err != nil || got != want || rev != wantRev {
			t.Fatalf("marked %+v at %d, %v; want %+v at %d", got, rev, err, want, wantRev)
		}
	}
	look(bridge.Mark{}, 0)
	one, two := bridge.Mark{Times: 1, By: "a"}, bridge.Mark{Times: 2, By: "b"}
	rev, err := l.Mark(ctx, id, one, 0)
	if err != nil {
		t.Fatal(err)
	}
	look(one, rev)
	if _, err := l.Mark(ctx, id, two, 0); !errors.Is(err, bridge.ErrConflict) {
		t.Fatalf("marked over another's mark: %v", err)
	}
	if l.Usable() != nil {
		t.Errorf("a conflict is no trouble: %v", l.Usable())
	}
	if rev, err = l.Mark(ctx, id, two, rev); err != nil {
		t.Fatal(err)
	}
	look(two, rev)
	if entries, err := l.Event(ctx, id); err != nil || len(entries) != 0 {
		t.Errorf("a mark is among the records: %v, %v", entries, err)
	}
	if rev, err = l.Mark(ctx, id, bridge.Mark{}, rev); err != nil {
		t.Fatal(err)
	}
	look(bridge.Mark{}, rev)
	eventually(t, "the last of it is gone", func() bool {
		_, rev, err := l.Marked(ctx, id)
		return err == nil && rev == 0
	})
	if _, err := l.Mark(ctx, id, one, 0); err != nil {
		t.Errorf("marking again: %v", err)
	}
}
