package ledger_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/bridgetest/proxy"
)

// What is kept beside a record is found by it, lives as long as it may be of
// use, and is no record of its event.
func TestEvidence(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	c := connect(t, startServer(t).ClientURL())
	o := options(c)
	o.Retention = 72 * time.Hour
	l := open(t, o)
	k := key("1")
	const try = "abcdefghijkl"
	for _, one := range []string{try, ""} {
		if _, err := l.ReceiptOf(ctx, k, one); !errors.Is(err, bridge.ErrNotFound) {
			t.Errorf("a receipt of %q before any: %v", one, err)
		}
	}
	first := bridge.Receipt{UMID: "u", BatchID: "b", State: "sent", At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	for _, r := range []bridge.Receipt{first, {UMID: "u", State: "delivered"}} {
		if err := l.NoteReceipt(ctx, k, try, r); err != nil {
			t.Fatal(err)
		}
	}
	got, err := l.ReceiptOf(ctx, k, try)
	if diff := cmp.Diff(first, got); diff != "" || err != nil {
		t.Errorf("receipt, %v (-want +got):\n%s", err, diff)
	}
	if _, err := l.ReceiptOf(ctx, k, "another-try-"); !errors.Is(err, bridge.ErrNotFound) {
		t.Errorf("a receipt of another try: %v", err)
	}

	rev := put(t, l, k, record(bridge.Running), 0)
	if keys, err := l.Unknowns(ctx); err != nil || len(keys) != 0 {
		t.Errorf("unknowns %v, %v", keys, err)
	}
	rev = put(t, l, k, record(bridge.UnknownSt), rev)
	rev = put(t, l, k, record(bridge.UnknownSt), rev) // as when it is marked as published
	if _, err := l.Put(ctx, key("2"), record(bridge.UnknownSt), 7); !errors.Is(err, bridge.ErrConflict) {
		t.Errorf("%v, want a conflict", err)
	}
	keys, err := l.Unknowns(ctx)
	slices.Sort(keys)
	want := []bridge.Key{k, key("2")} // the second is about to be, as far as anybody can tell
	slices.Sort(want)
	if diff := cmp.Diff(want, keys); diff != "" || err != nil {
		t.Errorf("unknowns, %v (-want +got):\n%s", err, diff)
	}
	for subject, ttl := range map[string]string{
		subject + "receipt." + string(k) + "." + try: "72h0m0s", subject + "unknown." + string(k): "48h0m0s",
	} {
		if got := last(t, c, subject).Header.Get("Nats-TTL"); got != ttl {
			t.Errorf("%s lives for %q, want %s", subject, got, ttl)
		}
	}
	if entries, err := l.Event(ctx, k.Event()); err != nil || len(entries) != 1 || entries[0].Revision != rev {
		t.Errorf("records of the event: %v, %v", entries, err)
	}
	for range 2 {
		if err := l.Settled(ctx, k); err != nil {
			t.Fatal(err)
		}
	}
	if keys, err := l.Unknowns(ctx); err != nil || len(keys) != 1 || keys[0] != key("2") {
		t.Errorf("unknowns %v, %v", keys, err)
	}
	if e, err := l.Get(ctx, k); err != nil || e.Record.State != bridge.UnknownSt {
		t.Errorf("the record itself: %v, %v", e.Record.State, err)
	}
}

// A turn is for one of all who ask, until its time is over.
func TestTurn(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	server := startServer(t)
	var had []string
	for i := range 3 {
		l := open(t, options(connect(t, server.ClientURL())))
		for _, what := range []string{"sweep.a", "sweep b"} {
			ours, err := l.Turn(ctx, what, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if ours {
				had = append(had, fmt.Sprint(i, " ", what))
			}
		}
		if i == 2 {
			eventually(t, "the next turn", func() bool {
				ours, err := l.Turn(ctx, "sweep.a", time.Second)
				return ours && err == nil
			})
		}
	}
	if diff := cmp.Diff([]string{"0 sweep.a", "0 sweep b"}, had); diff != "" {
		t.Error(diff)
	}
}

// An unknown that cannot be put on the list is not written, and said not to be.
func TestUnknownThatCannotBeNoted(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	server := startServer(t)
	p := proxy.Start(t, server.Addr().String())
	l := open(t, options(connect(t, p.URL())))
	witness := open(t, options(connect(t, server.ClientURL())))
	rev := put(t, l, key("1"), record(bridge.Running), 0)
	p.Lose(true)
	_, err := l.Put(ctx, key("1"), record(bridge.UnknownSt), rev)
	if err == nil || errors.Is(err, bridge.ErrUnclear) || errors.Is(err, bridge.ErrConflict) {
		t.Errorf("%v, want that it was not written", err)
	}
	if e, err := witness.Get(ctx, key("1")); err != nil || e.Record.State != bridge.Running {
		t.Errorf("the record is %s, %v", e.Record.State, err)
	}
}
