package bus

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/natsd"
)

type outside struct {
	c *Conn
	n Names
	o *Outbox
}

func newOutside(t *testing.T, mode cloudevent.Mode, o natsd.Options) *outside {
	t.Helper()
	out := &outside{c: connect(t, startServer(t, o).ClientURL()), n: NewNames("bridge")}
	if err := out.c.EnsureStreams(within(t), out.n, time.Hour, 1, 1<<30); err != nil {
		t.Fatal(err)
	}
	out.o = NewOutbox(out.c, out.n, mode)
	return out
}

var (
	pairKey  = bridge.NewKey(bridge.EventHash("/shop", "1"), "shipped", 0)
	storedAt = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
)

func original1() *bridge.Delivery {
	return &bridge.Delivery{
		Source: "orders", Stream: "ORDERS", Seq: 17, Stored: storedAt, Data: []byte(`{"a":1}`),
		Header: map[string][]string{
			"ce-id": {"1"}, "ce-source": {"/shop"}, "ce-type": {"t"}, "ce-specversion": {"1.0"}, "X-Own": {"a", "b"},
			"Nats-Msg-Id": {"m"}, "Nats-Expected-Last-Sequence": {"9"}, "Nats-TTL": {"1s"}, "Nats-Rollup": {"all"},
			HeaderReason: {"an older letter's"}, HeaderReplay: {"3"},
		},
	}
}

// A dead letter is the event as it came, with our facts beside it.
func TestDead(t *testing.T) {
	t.Parallel()
	out := newOutside(t, cloudevent.Structured, natsd.Options{})
	d := original1()
	letter := bridge.DeadLetter{
		Original: d, Reason: bridge.ReasonRejected, Message: "8x8 refused the number", Key: pairKey, ID: "letter-1", Route: "shipped",
		Cause: &bridge.Cause{ID: "1", Source: "/shop", Type: "t"},
		Record: &bridge.Record{
			Route: "shipped", Routes: []bridge.Frozen{{Route: "other", Action: "send-mms"}, {Route: "shipped", Action: "send-sms", Connection: "main"}},
			Try: "try", Attempts: 2, RunID: "run", ClaimedAt: storedAt,
		},
	}
	for range 2 { // stored again, it is one letter
		if err := out.o.Dead(within(t), letter); err != nil {
			t.Fatal(err)
		}
	}
	all := everything(t, out.c, out.n.Dead())
	if len(all) != 1 {
		t.Fatalf("%d letters, want 1", len(all))
	}
	m := all[0]
	at, err := time.Parse(time.RFC3339Nano, m.Header.Get(HeaderAt))
	if err != nil || at.IsZero() {
		t.Errorf("%s: %v", HeaderAt, err)
	}
	m.Header.Del(HeaderAt)
	want := nats.Header{
		"ce-id": {"1"}, "ce-source": {"/shop"}, "ce-type": {"t"}, "ce-specversion": {"1.0"}, "X-Own": {"a", "b"}, "Nats-Msg-Id": {"letter-1"},
		HeaderFormat: {"1"}, HeaderReason: {"rejected"}, HeaderMessage: {"8x8 refused the number"}, HeaderRoute: {"shipped"}, HeaderKey: {string(pairKey)},
		HeaderSource: {"orders"}, HeaderOrigin: {"ORDERS 17"}, HeaderCauseID: {"1"}, HeaderCauseType: {"t"}, HeaderCauseSrc: {"/shop"},
		HeaderTry: {"try"}, HeaderReplay: {"0"}, HeaderAttempts: {"2"}, HeaderRunID: {"run"}, HeaderClaimedAt: {"2026-01-02T03:04:05.000000006Z"},
		HeaderAction: {"send-sms"}, HeaderConnection: {"main"},
	}
	if diff := cmp.Diff(want, m.Header); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if m.Subject != "bridge.dead.shipped.rejected" || string(m.Data) != `{"a":1}` {
		t.Errorf("at %s: %s", m.Subject, m.Data)
	}
	if diff := cmp.Diff(original1(), d); diff != "" {
		t.Errorf("the delivery was changed (-before +after):\n%s", diff)
	}
}

// What is no event has no route, no key and no record.
func TestDeadMalformed(t *testing.T) {
	t.Parallel()
	out := newOutside(t, cloudevent.Structured, natsd.Options{})
	err := out.o.Dead(within(t), bridge.DeadLetter{
		Original: &bridge.Delivery{Source: "orders", Stream: "ORDERS", Seq: 1, Data: []byte("\x00\xff")}, Reason: bridge.ReasonMalformed, Message: "one\r\nBridge8x8-Key: forged", ID: "m",
	})
	if err != nil {
		t.Fatal(err)
	}
	m := everything(t, out.c, out.n.Dead())[0]
	m.Header.Del(HeaderAt)
	message := m.Header.Get(HeaderMessage)
	m.Header.Del(HeaderMessage)
	want := nats.Header{HeaderFormat: {"1"}, HeaderReason: {"malformed"}, HeaderSource: {"orders"}, HeaderOrigin: {"ORDERS 1"}, "Nats-Msg-Id": {"m"}}
	if diff := cmp.Diff(want, m.Header); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if strings.ContainsAny(message, "\r\n") || !strings.HasPrefix(message, "one") || m.Subject != "bridge.dead._.malformed" || string(m.Data) != "\x00\xff" {
		t.Errorf("at %s: %q, %q", m.Subject, m.Data, message)
	}
}

// A payload that our facts leave no room for is named, not lost.
func TestDeadTooLarge(t *testing.T) {
	t.Parallel()
	const most = 16 << 10
	out := newOutside(t, cloudevent.Structured, natsd.Options{MaxPayload: most})
	d := original1()
	d.Data = make([]byte, most-700)
	if err := out.o.Dead(within(t), bridge.DeadLetter{Original: d, Reason: bridge.ReasonRejected, Message: strings.Repeat("m", 400), ID: "1", Route: "shipped", Key: pairKey}); err != nil {
		t.Fatal(err)
	}
	m := everything(t, out.c, out.n.Dead())[0]
	if len(m.Data) != 0 || m.Header.Get(HeaderReference) == "" || m.Header.Get(HeaderOrigin) != "ORDERS 17" || m.Header.Get("ce-id") != "1" {
		t.Errorf("%d bytes, reference %q to %q", len(m.Data), m.Header.Get(HeaderReference), m.Header.Get(HeaderOrigin))
	}
}

// An outcome that became known takes back its own letter and no other.
func TestWithdraw(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	out := newOutside(t, cloudevent.Structured, natsd.Options{})
	other := bridge.NewKey(bridge.EventHash("/shop", "2"), "shipped", 0)
	if err := out.o.Withdraw(ctx, pairKey, "shipped"); err != nil {
		t.Errorf("withdraw from an empty stream: %v", err)
	}
	letter := func(k bridge.Key, route string, reason bridge.Reason) {
		t.Helper()
		id := string(k) + route + string(reason)
		if err := out.o.Dead(ctx, bridge.DeadLetter{Original: original1(), Reason: reason, Key: k, ID: id, Route: route}); err != nil {
			t.Fatal(err)
		}
	}
	for _, reason := range []bridge.Reason{bridge.ReasonOutcomeUnknown, bridge.ReasonIDReused} {
		letter(pairKey, "shipped", reason)
		letter(other, "shipped", reason)
		letter(pairKey, "returned", reason)
	}
	list := func() (left []string) {
		for _, m := range everything(t, out.c, out.n.Dead()) {
			who := "other"
			if m.Header.Get(HeaderKey) == string(pairKey) {
				who = "pair"
			}
			left = append(left, who+" "+strings.TrimPrefix(m.Subject, "bridge.dead."))
		}
		return left
	}
	want := []string{
		"other shipped.outcome_unknown", "pair returned.outcome_unknown",
		"pair shipped.id_reused", "other shipped.id_reused", "pair returned.id_reused",
	}
	for range 2 {
		if err := out.o.Withdraw(ctx, pairKey, "shipped"); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, list()); diff != "" {
			t.Errorf("letters left (-want +got):\n%s", diff)
		}
	}
}

func result() bridge.Result {
	return bridge.Result{
		ID: string(pairKey), Action: "send-sms", State: bridge.Succeeded,
		Event: cloudevent.Written{
			Attributes: []cloudevent.Attribute{
				{Name: "id", Value: string(pairKey)}, {Name: "source", Value: "/bridge8x8/b"}, {Name: "type", Value: "com.8x8.action.send-sms.succeeded"},
				{Name: "subject", Value: "é 1"}, {Name: "correlationid", Value: "c"},
			},
			Data: []byte(`{"action":"send-sms"}`),
		},
	}
}

func TestResult(t *testing.T) {
	t.Parallel()
	for _, mode := range []cloudevent.Mode{cloudevent.Structured, cloudevent.Binary} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			out := newOutside(t, mode, natsd.Options{})
			for range 2 {
				if err := out.o.Result(within(t), result()); err != nil {
					t.Fatal(err)
				}
			}
			all := everything(t, out.c, out.n.Results())
			if len(all) != 1 {
				t.Fatalf("%d results, want 1: they have one id", len(all))
			}
			m := all[0]
			if m.Subject != "bridge.results.send-sms.succeeded" || m.Header.Get(jetstream.MsgIDHeader) != string(pairKey) {
				t.Errorf("at %s with id %q", m.Subject, m.Header.Get(jetstream.MsgIDHeader))
			}
			e, err := cloudevent.FromNATS(m.Header, m.Data)
			if err != nil {
				t.Fatal(err)
			}
			if e.RawID != string(pairKey) || e.RawSource != "/bridge8x8/b" || e.Subject() != "é 1" || string(e.Data()) != `{"action":"send-sms"}` || e.DataContentType() != "application/json" {
				t.Errorf("the event reads %s", e.String())
			}
		})
	}
}

// While outcomes cannot be stored nothing should be claimed.
func TestOutboxHealth(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	c := connect(t, startServer(t, natsd.Options{}).ClientURL())
	n := NewNames("bridge")
	o := NewOutbox(c, n, cloudevent.Structured)
	if err := o.Healthy(); err != nil {
		t.Fatal(err)
	}
	want := "publish to bridge.results.send-sms.succeeded: not sent: no stream listens on this subject"
	if err := o.Result(ctx, result()); err == nil || err.Error() != want {
		t.Errorf("result without a stream: %v, want %s", err, want)
	}
	if err := o.Healthy(); err == nil || err.Error() != "the last outcome could not be stored" {
		t.Errorf("healthy: %v", err)
	}
	if err := c.EnsureStreams(ctx, n, time.Hour, 1, 1<<30); err != nil {
		t.Fatal(err)
	}
	// Nothing is claimed, so that there may be no outcome to try with: it looks by itself.
	eventually(t, "it to see that outcomes can be stored", func() bool { return o.Healthy() == nil })
	eventually(t, "the look to end", func() bool { return !o.looking.Load() })
	if err := o.Result(ctx, result()); err != nil {
		t.Error(err)
	}
}

// takeAside takes one pair that was set aside for the connection.
func takeAside(t *testing.T, out *outside, connection string) *bridge.Delivery {
	t.Helper()
	durable := out.n.WaitDurable(ConnectionToken(connection), never, "ledger")
	if err := out.c.EnsureDurable(within(t), durable, Start{All: true}); err != nil {
		t.Fatal(err)
	}
	took := make(chan *bridge.Delivery, 1)
	taker, err := Take(TakerOptions{
		Conn: out.c, Source: "wait", Stream: durable.Stream, Consumer: durable.Name, Workers: 1, AckWait: never, Prepare: out.c.Unfold(), Logger: (&lines{}).logger(),
		Handle: func(d *bridge.Delivery) { took <- d },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); taker.Run(ctx) }()
	t.Cleanup(func() { taker.Quiet(); cancel(); <-ended; taker.Stop(within(t)) })
	select {
	case d := <-took:
		return d
	case <-time.After(patience):
		t.Fatal("nothing was taken")
		return nil
	}
}

// A pair comes back as the delivery that it was set aside from.
func TestSetAside(t *testing.T) {
	t.Parallel()
	for _, connection := range []string{"main", "", "8x8.main (EU)"} {
		t.Run(connection, func(t *testing.T) {
			t.Parallel()
			ctx := within(t)
			out := newOutside(t, cloudevent.Structured, natsd.Options{})
			d := original1()
			for range 2 { // twice set aside is once
				if err := out.o.SetAside(ctx, d, bridge.Pair{Route: "shipped", Replay: 2}, pairKey, connection); err != nil {
					t.Fatal(err)
				}
			}
			if err := out.o.SetAside(ctx, d, bridge.Pair{Route: "shipped"}, "other.key", "elsewhere"); err != nil {
				t.Fatal(err)
			}
			if n := streamInfo(t, out.c, out.n.Wait()).State.Msgs; n != 2 {
				t.Errorf("%d pairs wait, want 2", n)
			}
			tokens, err := out.c.Waiting(ctx, out.n)
			if err != nil || len(tokens) != 2 {
				t.Errorf("waiting for %q, %v", tokens, err)
			}
			got := takeAside(t, out, connection)
			settle := got.Settle
			want := original1()
			for _, name := range []string{"Nats-Msg-Id", "Nats-Expected-Last-Sequence", "Nats-TTL", "Nats-Rollup", HeaderReason, HeaderReplay} {
				delete(want.Header, name)
			}
			want.Pair, want.Key, want.Deliveries = &bridge.Pair{Route: "shipped", Replay: 2}, pairKey, 1
			got.Settle, got.Header = nil, map[string][]string(nats.Header(got.Header))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("delivery (-want +got):\n%s", diff)
			}
			settle.Ack()
			eventually(t, "it to leave the stream", func() bool { return streamInfo(t, out.c, out.n.Wait()).State.Msgs == 1 })
		})
	}
}

// A pair too large to be kept beside our facts comes back from where it was.
func TestSetAsideTooLarge(t *testing.T) {
	t.Parallel()
	const most = 16 << 10
	out := newOutside(t, cloudevent.Structured, natsd.Options{MaxPayload: most})
	ctx := within(t)
	data, err := json.Marshal(strings.Repeat("x", most-400))
	if err != nil {
		t.Fatal(err)
	}
	header := nats.Header{"ce-id": {"1"}, "ce-source": {"/shop"}, "ce-type": {"t"}, "ce-specversion": {"1.0"}}
	seq, err := out.c.Publisher.Store(ctx, out.n.EventSubject("t"), header, data)
	if err != nil {
		t.Fatal(err)
	}
	d := &bridge.Delivery{Source: "events", Stream: out.n.Events(), Seq: seq, Stored: storedAt, Header: header, Data: data}
	if err := out.o.SetAside(ctx, d, bridge.Pair{Route: "shipped"}, pairKey, "main"); err != nil {
		t.Fatal(err)
	}
	if kept := everything(t, out.c, out.n.Wait())[0]; len(kept.Data) != 0 {
		t.Errorf("%d bytes are kept beside our facts", len(kept.Data))
	}
	got := takeAside(t, out, "main")
	if diff := cmp.Diff(map[string][]string(header), map[string][]string(got.Header)); diff != "" || string(got.Data) != string(data) || got.Broken != nil {
		t.Errorf("%d bytes came back, want %d; broken %v; headers (-want +got):\n%s", len(got.Data), len(data), got.Broken, diff)
	}
	if got.Seq != seq || got.Stream != out.n.Events() || got.Pair == nil || got.Pair.Route != "shipped" {
		t.Errorf("message %d of %s, pair %v", got.Seq, got.Stream, got.Pair)
	}
}

// A pair whose original is gone can never be read again, and says so.
func TestSetAsideOriginalGone(t *testing.T) {
	t.Parallel()
	const most = 16 << 10
	out := newOutside(t, cloudevent.Structured, natsd.Options{MaxPayload: most})
	d := &bridge.Delivery{Source: "events", Stream: out.n.Events(), Seq: 5, Data: make([]byte, most-100), Header: map[string][]string{}}
	if err := out.o.SetAside(within(t), d, bridge.Pair{Route: "shipped"}, pairKey, "main"); err != nil {
		t.Fatal(err)
	}
	got := takeAside(t, out, "main")
	want := "message 5 of stream BRIDGE_EVENTS, which was too large to be set aside, is gone"
	if got.Broken == nil || got.Broken.Error() != want {
		t.Errorf("broken: %v, want %s", got.Broken, want)
	}
}
