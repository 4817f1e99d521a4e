package bus

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/natsd"
)

// The event that a dead letter holds comes back as it was; one that was too
// large for a letter from where it came.
func TestHeld(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	out := newOutside(t, cloudevent.Structured, natsd.Options{})
	hold := func(d *bridge.Delivery, k bridge.Key, reason bridge.Reason) {
		t.Helper()
		if err := out.o.Dead(ctx, bridge.DeadLetter{Original: d, Reason: reason, Key: k, ID: string(k) + string(reason), Route: "shipped"}); err != nil {
			t.Fatal(err)
		}
	}
	hold(original1(), pairKey, bridge.ReasonIDReused)
	if _, err := out.o.Held(ctx, pairKey, "shipped"); !errors.Is(err, bridge.ErrNotFound) {
		t.Errorf("held for another reason: %v", err)
	}
	hold(original1(), pairKey, bridge.ReasonOutcomeUnknown)
	got, err := out.o.Held(ctx, pairKey, "shipped")
	if err != nil {
		t.Fatal(err)
	}
	want := &bridge.Delivery{
		Source: "orders", Stream: "ORDERS", Seq: 17, Data: []byte(`{"a":1}`),
		Header: map[string][]string{"ce-id": {"1"}, "ce-source": {"/shop"}, "ce-type": {"t"}, "ce-specversion": {"1.0"}, "X-Own": {"a", "b"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("held (-want +got):\n%s", diff)
	}

	large := bytes.Repeat([]byte("x"), int(out.c.NC.MaxPayload())-100)
	seq, err := out.c.Publisher.Store(ctx, "bridge.events.t", nil, large)
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]uint64{"there": seq, "gone": seq + 1} {
		k := bridge.NewKey(bridge.EventHash("/shop", name), "shipped", 0)
		hold(&bridge.Delivery{Source: "events", Stream: "BRIDGE_EVENTS", Seq: at, Data: large}, k, bridge.ReasonOutcomeUnknown)
		d, err := out.o.Held(ctx, k, "shipped")
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(d.Data, large) != (name == "there") || d.Stored.IsZero() != (name == "gone") {
			t.Errorf("%s: %d bytes, stored %v", name, len(d.Data), d.Stored)
		}
	}
}
