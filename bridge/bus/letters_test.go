package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/natsd"
)

// deadLetter stores a letter of event id on a route, as the bridge does.
func (out *outside) deadLetter(t *testing.T, id, route string, replay int, reason bridge.Reason) bridge.Key {
	t.Helper()
	key := bridge.NewKey(bridge.EventHash("/shop", id), route, replay)
	l := bridge.DeadLetter{
		Original: &bridge.Delivery{
			Source: "events", Stream: out.n.Events(), Seq: 17, Stored: storedAt,
			Header: map[string][]string{"ce-id": {id}, "ce-source": {"/shop"}, "ce-type": {"com.acme." + route}, "ce-specversion": {"1.0"}}, Data: []byte(`{"a":1}`),
		},
		Reason: reason, Message: "a message", Key: key, ID: fmt.Sprintf("%s %s %d", key, reason, time.Now().UnixNano()), Route: route,
		Cause: &bridge.Cause{ID: id, Source: "/shop", Type: "com.acme." + route},
		Record: &bridge.Record{
			Route: route, Replay: replay, Routes: []bridge.Frozen{{Route: route, Action: "send-sms", Connection: "main"}},
			Try: "try", Attempts: 2, RunID: "run", ClaimedAt: storedAt, Unclear: replay,
		},
	}
	if reason == bridge.ReasonIDReused {
		l.Record = nil
	}
	if reason == bridge.ReasonMalformed {
		l.Record, l.Cause, l.Key, l.Route = nil, nil, "", ""
	}
	if err := out.o.Dead(within(t), l); err != nil {
		t.Fatal(err)
	}
	return key
}

func ids(letters []Letter) []uint64 {
	list := []uint64{}
	for _, l := range letters {
		list = append(list, l.ID)
	}
	return list
}

func TestListLetters(t *testing.T) {
	t.Parallel()
	out := newOutside(t, cloudevent.Structured, natsd.Options{})
	box := &Letters{Conn: out.c, Names: out.n}
	if letters, err := box.List(within(t), LetterFilter{}); err != nil || len(letters) != 0 {
		t.Errorf("of an empty stream: %v, %v", letters, err)
	}
	out.deadLetter(t, "1", "shipped", 0, bridge.ReasonRejected)
	key := out.deadLetter(t, "2", "shipped", 3, bridge.ReasonOutcomeUnknown)
	out.deadLetter(t, "3", "a.b", 0, bridge.ReasonRejected)
	out.deadLetter(t, "4", "a_b", 0, bridge.ReasonRejected) // on the same subject as the one before
	out.deadLetter(t, "5", "", 0, bridge.ReasonMalformed)
	all, err := box.List(within(t), LetterFilter{})
	if err != nil || len(all) != 5 {
		t.Fatalf("%d letters, %v", len(all), err)
	}
	want := Letter{
		ID: 2, Stored: all[1].Stored, Reason: bridge.ReasonOutcomeUnknown, Message: "a message", Route: "shipped", Action: "send-sms", Connection: "main", Key: key,
		Try: "try", Replay: 3, Attempts: 2, Unclear: 3, RunID: "run", ClaimedAt: storedAt, Source: "events", Stream: out.n.Events(), Seq: 17,
		Cause: bridge.Cause{ID: "2", Source: "/shop", Type: "com.acme.shipped"}, recorded: true, header: all[1].header,
	}
	if diff := cmp.Diff(want, all[1], cmp.AllowUnexported(Letter{})); diff != "" {
		t.Errorf("letter (-want +got):\n%s", diff)
	}
	tests := map[string]struct {
		f    LetterFilter
		want []uint64
	}{
		"route":             {LetterFilter{Route: "shipped"}, []uint64{1, 2}},
		"a like route":      {LetterFilter{Route: "a.b"}, []uint64{3}},
		"reason":            {LetterFilter{Reason: bridge.ReasonMalformed}, []uint64{5}},
		"route and reason":  {LetterFilter{Route: "shipped", Reason: bridge.ReasonRejected}, []uint64{1}},
		"type":              {LetterFilter{Type: "com.acme.shipped"}, []uint64{1, 2}},
		"types":             {LetterFilter{Type: "com.acme.a*"}, []uint64{3, 4}},
		"half a type":       {LetterFilter{Type: "com.acme"}, []uint64{}},
		"any type":          {LetterFilter{Type: "*"}, []uint64{1, 2, 3, 4, 5}},
		"since":             {LetterFilter{Since: all[2].Stored}, []uint64{3, 4, 5}},
		"until":             {LetterFilter{Until: all[2].Stored}, []uint64{1, 2, 3}},
		"since later":       {LetterFilter{Since: time.Now().Add(time.Hour)}, []uint64{}},
		"no such route":     {LetterFilter{Route: "nope"}, []uint64{}},
		"between, of route": {LetterFilter{Route: "shipped", Since: all[1].Stored, Until: all[3].Stored}, []uint64{2}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := box.List(within(t), test.f)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, ids(got)); diff != "" {
				t.Errorf("ids (-want +got):\n%s", diff)
			}
		})
	}
}

func TestGetLetter(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	out := newOutside(t, cloudevent.Structured, natsd.Options{})
	box := &Letters{Conn: out.c, Names: out.n}
	for range 2 {
		out.deadLetter(t, "1", "shipped", 0, bridge.ReasonRejected)
	}
	l, err := box.Get(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	header, data, err := box.Original(ctx, &l)
	if err != nil || string(data) != `{"a":1}` || len(header) != 4 {
		t.Errorf("original %v %s, %v", header, data, err)
	}
	if err := out.o.Remove(ctx, "another key", []uint64{1, 2}); err != nil {
		t.Error(err)
	}
	for range 2 { // removed twice is removed
		if err := out.o.Remove(ctx, l.Key, []uint64{1, 7}); err != nil {
			t.Error(err)
		}
	}
	if _, err := box.Get(ctx, 1); !errors.Is(err, ErrLetterGone) {
		t.Errorf("a letter that is gone: %v", err)
	}
	for _, id := range []uint64{0, 3} {
		if _, err := box.Get(ctx, id); !errors.Is(err, ErrNoLetter) {
			t.Errorf("letter %d: %v", id, err)
		}
	}
	if _, err := box.Get(ctx, 2); err != nil {
		t.Errorf("a letter of which others were removed: %v", err)
	}
	elsewhere := &Letters{Conn: out.c, Names: NewNames("other")}
	if _, err := elsewhere.List(ctx, LetterFilter{}); err == nil || !strings.Contains(err.Error(), "no stream OTHER_DEAD") {
		t.Errorf("without a stream: %v", err)
	}
}

// What a letter cannot be replayed for, and which letters are about something
// that may have been sent.
func TestReplayable(t *testing.T) {
	t.Parallel()
	out := newOutside(t, cloudevent.Structured, natsd.Options{})
	box := &Letters{Conn: out.c, Names: out.n}
	for i, reason := range bridge.Reasons {
		out.deadLetter(t, fmt.Sprint(i), "shipped", 0, reason)
	}
	out.deadLetter(t, "repeated before", "shipped", 1, bridge.ReasonRejected)
	letters, err := box.List(within(t), LetterFilter{})
	if err != nil {
		t.Fatal(err)
	}
	var not, maybe []string
	for _, l := range letters {
		if l.Replayable() != nil {
			not = append(not, string(l.Reason))
			if err := box.Decide(within(t), l.ID, []uint64{l.ID}, time.Now(), false); err == nil {
				t.Errorf("%s: was replayed", l.Reason)
			}
		}
		if l.MayBeSent() {
			maybe = append(maybe, string(l.Reason))
		}
	}
	if diff := cmp.Diff([]string{"malformed", "id_reused"}, not); diff != "" {
		t.Errorf("not replayable (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"outcome_unknown", "unledgered", "follow_up_failed", "rejected"}, maybe); diff != "" {
		t.Errorf("may be sent (-want +got):\n%s", diff)
	}
	if n := streamInfo(t, out.c, out.n.Wait()).State.Msgs; n != 0 {
		t.Errorf("%d decisions are stored", n)
	}
}

// A decision is stored before its letters go, all those of its pair; whoever
// dies in between leaves the letter, and deciding again leaves one decision.
func TestDecide(t *testing.T) {
	t.Parallel()
	out := newOutside(t, cloudevent.Structured, natsd.Options{})
	box := &Letters{Conn: out.c, Names: out.n}
	out.deadLetter(t, "1", "shipped", 1, bridge.ReasonRejected)
	out.deadLetter(t, "1", "returned", 1, bridge.ReasonRejected)
	out.deadLetter(t, "1", "shipped", 1, bridge.ReasonRejected) // stored again
	out.deadLetter(t, "1", "shipped", 2, bridge.ReasonRejected)
	out.deadLetter(t, "1", "shipped", 1, bridge.ReasonIDReused) // another event
	all, err := box.List(within(t), LetterFilter{})
	if err != nil {
		t.Fatal(err)
	}
	same := Same(all)(&all[0])
	if diff := cmp.Diff([]uint64{1, 3}, same); diff != "" {
		t.Fatalf("letters of the pair (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]uint64{5}, Same(all)(&all[4])); diff != "" {
		t.Errorf("letters of no pair (-want +got):\n%s", diff)
	}

	dying, kill := context.WithCancel(within(t))
	box.Hook = kill // between the two
	if err := box.Decide(dying, 1, same, storedAt, false); err == nil {
		t.Error("it did not die")
	}
	if n := len(everything(t, out.c, out.n.Dead())); n != 5 {
		t.Errorf("%d letters are left, want 5", n)
	}
	box.Hook = nil
	if err := box.Decide(within(t), 1, same, storedAt, false); err != nil {
		t.Fatal(err)
	}
	if err := box.Decide(within(t), 3, same, storedAt, false); !errors.Is(err, ErrLetterGone) {
		t.Errorf("decided again: %v", err)
	}
	left, err := box.List(within(t), LetterFilter{})
	if diff := cmp.Diff([]uint64{2, 4, 5}, ids(left)); diff != "" || err != nil {
		t.Errorf("letters left (-want +got):\n%s%v", diff, err)
	}

	stored := everything(t, out.c, out.n.Wait())
	want := "bridge.wait.=replay." + string(bridge.NewKey(bridge.EventHash("/shop", "1"), "shipped", 2))
	if len(stored) != 1 || stored[0].Subject != want {
		t.Fatalf("%d decisions, the first at %s, want one at %s", len(stored), stored[0].Subject, want)
	}
	d := &bridge.Delivery{Header: stored[0].Header, Data: stored[0].Data}
	if err := out.c.unfold(within(t), d); err != nil {
		t.Fatal(err)
	}
	wantPair := &bridge.Pair{Route: "shipped", Replay: 2, Decision: &bridge.Decision{
		Reason: bridge.ReasonRejected, Action: "send-sms", Connection: "main", Unclear: 1, Letters: same, Asked: storedAt,
	}}
	if diff := cmp.Diff(wantPair, d.Pair); diff != "" {
		t.Errorf("decision (-want +got):\n%s", diff)
	}
	if d.Source != "events" || d.Stream != out.n.Events() || d.Seq != 17 || string(d.Data) != `{"a":1}` || d.Header["ce-id"][0] != "1" {
		t.Errorf("delivery %+v", d)
	}
}

// What has no record is removed, and no more.
func TestDiscardWhatHasNoRecord(t *testing.T) {
	t.Parallel()
	out := newOutside(t, cloudevent.Structured, natsd.Options{})
	box := &Letters{Conn: out.c, Names: out.n}
	out.deadLetter(t, "1", "", 0, bridge.ReasonMalformed)
	out.deadLetter(t, "1", "shipped", 0, bridge.ReasonIDReused)
	for id := uint64(1); id <= 2; id++ {
		if err := box.Decide(within(t), id, []uint64{id}, storedAt, true); err != nil {
			t.Error(err)
		}
	}
	if left, set := len(everything(t, out.c, out.n.Dead())), streamInfo(t, out.c, out.n.Wait()).State.Msgs; left != 0 || set != 0 {
		t.Errorf("%d letters left, %d decisions stored", left, set)
	}
}

// An event that was too large for its letter is read from where it was, and
// when it is gone there it can only be discarded.
func TestDecideTooLarge(t *testing.T) {
	t.Parallel()
	const most = 16 << 10
	ctx := within(t)
	out := newOutside(t, cloudevent.Structured, natsd.Options{MaxPayload: most})
	box := &Letters{Conn: out.c, Names: out.n}
	body := fmt.Sprintf(`{"specversion":"1.0","id":"1","source":"/shop","type":"t","data":%q}`, strings.Repeat("x", most-700))
	header := map[string][]string{"Content-Type": {cloudevent.ContentTypeStructured}}
	seq, err := out.c.Publisher.Store(ctx, out.n.EventSubject("t"), header, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	for replay := range 3 {
		err := out.o.Dead(ctx, bridge.DeadLetter{
			Original: &bridge.Delivery{Source: "events", Stream: out.n.Events(), Seq: seq, Header: header, Data: []byte(body)},
			Reason:   bridge.ReasonRejected, Message: strings.Repeat("m", 400), ID: fmt.Sprint(replay), Route: "shipped",
			Key: bridge.NewKey(bridge.EventHash("/shop", "1"), "shipped", replay), Cause: &bridge.Cause{ID: "1", Source: "/shop", Type: "t"},
			Record: &bridge.Record{Route: "shipped", Replay: replay},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	l, err := box.Get(ctx, 1)
	if err != nil || !l.Reference {
		t.Fatalf("letter %+v, %v", l, err)
	}
	if _, data, err := box.Original(ctx, &l); err != nil || string(data) != body {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if err := box.Decide(ctx, 1, []uint64{1}, storedAt, false); err != nil {
		t.Fatal(err)
	}
	kept := everything(t, out.c, out.n.Wait())[0]
	d := &bridge.Delivery{Header: kept.Header, Data: kept.Data}
	if err := out.c.unfold(ctx, d); err != nil || d.Broken != nil || string(d.Data) != body {
		t.Errorf("%d bytes come back, %v, %v", len(d.Data), err, d.Broken)
	}

	events, err := out.c.JS.Stream(ctx, out.n.Events())
	if err != nil {
		t.Fatal(err)
	}
	if err := events.DeleteMsg(ctx, seq); err != nil {
		t.Fatal(err)
	}
	if err := box.Decide(ctx, 2, []uint64{2}, storedAt, false); !errors.Is(err, ErrOriginalGone) {
		t.Errorf("replayed without its event: %v", err)
	}
	if l, err = box.Get(ctx, 2); err != nil {
		t.Fatalf("its letter: %v", err)
	}
	if err := box.Decide(ctx, 3, []uint64{3}, storedAt, true); err != nil {
		t.Fatal(err)
	}
	waiting := everything(t, out.c, out.n.Wait())
	kept = waiting[len(waiting)-1]
	d = &bridge.Delivery{Header: kept.Header, Data: kept.Data}
	if err := out.c.unfold(ctx, d); err != nil || d.Broken != nil || !d.Pair.Decision.Discard {
		t.Fatalf("%v, %v, %+v", err, d.Broken, d.Pair)
	}
	e, err := cloudevent.FromNATS(d.Header, d.Data)
	if err != nil || e.RawID != "1" || e.RawSource != "/shop" || e.Type() != "t" {
		t.Errorf("what stands for the event: %v, %v", e, err)
	}
}

// Decisions wait apart from all connections, whatever those are called.
func TestDecisionToken(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"replay", "=replay", "", "_"} {
		if ConnectionToken(name) == DecisionToken() {
			t.Errorf("connection %q waits where decisions do", name)
		}
	}
	if hex := strings.TrimPrefix(DecisionToken(), "="); !slices.ContainsFunc([]byte(hex), func(c byte) bool { return c > 'f' }) {
		t.Errorf("%s could be the token of a connection", DecisionToken())
	}
}

// Two who delete the same message both have what they want.
func TestDeleteMessageTwice(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	out := newOutside(t, cloudevent.Structured, natsd.Options{})
	out.deadLetter(t, "1", "shipped", 0, bridge.ReasonRejected)
	st, err := out.c.JS.Stream(ctx, out.n.Dead())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := deleteMessage(ctx, st, 1); err != nil {
			t.Error(err)
		}
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := deleteMessage(gone, st, 1); err == nil {
		t.Error("a deletion that nobody answered succeeded")
	}
}
