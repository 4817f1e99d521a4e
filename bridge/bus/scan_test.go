package bus

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/natsd"
)

// A scan reads what is on its subjects once, in order, to the end.
func TestScan(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	out := newOutside(t, cloudevent.Structured, natsd.Options{})
	scan := func(subject string, since time.Time) (data []string, s Scanned) {
		t.Helper()
		s, err := out.c.Scan(ctx, out.n.Events(), subject, since, func(m Stored) { data = append(data, fmt.Sprint(m.Seq, " ", string(m.Data))) })
		if err != nil {
			t.Fatal(err)
		}
		return data, s
	}
	if data, s := scan(out.n.AllEvents(), time.Time{}); len(data) != 0 || s.Messages != 0 || !s.From.IsZero() || s.MaxAge != 51*time.Minute {
		t.Errorf("an empty stream: %v, %+v", data, s)
	}
	var want []string
	const many = 2500 // more than the client pulls at a time
	for i := range many {
		seq, err := out.c.Publisher.Store(ctx, fmt.Sprintf("bridge.events.t%d", i%2), nil, fmt.Appendf(nil, "%d", i))
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			want = append(want, fmt.Sprint(seq, " ", i))
		}
	}
	data, s := scan("bridge.events.t0", time.Time{})
	if diff := cmp.Diff(want, data); diff != "" || s.Messages != many/2 || s.From.IsZero() || s.To.Before(s.From) {
		t.Errorf("%+v (-want +got):\n%s", s, diff)
	}
	if data, _ := scan(out.n.AllEvents(), time.Time{}); len(data) != many {
		t.Errorf("%d of %d", len(data), many)
	}
	for _, none := range []struct {
		subject string
		since   time.Time
	}{{"bridge.events.other", time.Time{}}, {out.n.AllEvents(), time.Now().Add(time.Hour)}} {
		if data, s := scan(none.subject, none.since); len(data) != 0 || s.From.IsZero() {
			t.Errorf("%v: %d messages, %+v", none, len(data), s)
		}
	}
	if _, err := out.c.Scan(ctx, "NOWHERE", ">", time.Time{}, nil); !errors.Is(err, bridge.ErrNotFound) {
		t.Errorf("no such stream: %v", err)
	}
	over, cancel := context.WithCancel(ctx)
	_, err := out.c.Scan(over, out.n.Events(), out.n.AllEvents(), time.Time{}, func(Stored) {
		cancel()
		<-time.After(50 * time.Millisecond) // it goes on only if it does not hear that it is over
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Pairs set aside are found by their event, on whatever connection they wait.
func TestAside(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	out := newOutside(t, cloudevent.Structured, natsd.Options{})
	other := bridge.NewKey(bridge.EventHash("/shop", "1"), "returned", 0)
	foreign := bridge.NewKey(bridge.EventHash("/shop", "2"), "shipped", 0)
	for k, connection := range map[bridge.Key]string{pairKey: "main", other: "the other one", foreign: "main"} {
		if err := out.o.SetAside(ctx, original1(), bridge.Pair{Route: "shipped"}, k, connection); err != nil {
			t.Fatal(err)
		}
	}
	got, err := out.c.Aside(ctx, out.n, pairKey.Event())
	if err != nil || len(got) != 2 || got[pairKey].At.IsZero() || got[other].Seq == 0 {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := out.c.Aside(ctx, NewNames("nowhere"), pairKey.Event()); err != nil || len(got) != 0 {
		t.Errorf("without the stream: %v, %v", got, err)
	}
}
