package bridge

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// desk is where requests are stored and answered.
type desk struct {
	mu      sync.Mutex
	stored  []string
	fail    error
	replies chan replied
}

type replied struct {
	To     string
	State  State
	Reason Reason
}

func (d *desk) Store(_ context.Context, m cloudevent.Message, replyTo string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail == nil {
		d.stored = append(d.stored, m.Event.ID()+" "+replyTo)
	}
	return d.fail
}

func (d *desk) Reply(to string, r Result, failure *ResultError) error {
	x := replied{To: to, State: r.State}
	if failure != nil {
		x.Reason = failure.Reason
	}
	d.replies <- x
	return nil
}

// answering is a bridge that takes commands.
func answering(t *testing.T, concurrency int) (*seams, *desk, *Bridge) {
	t.Helper()
	s, d := &seams{world: newWorld(t)}, &desk{replies: make(chan replied, 1000)}
	sends(s)
	b := newBridge(t, s, oneRoute, concurrency)
	b.Requests = d
	f, _ := config.Parse("bridge.yaml", []byte(oneRoute), func(string) (string, bool) { return "", false })
	table, problems := handlers.Compile(f, catalog.Builtin(), handlers.Options{Commands: true, DefaultConnection: "c"})
	if problems.Errors() {
		t.Fatal(problems)
	}
	b.SetTable(table)
	return s, d, b
}

func balance(to string) Ask { return Ask{Action: "get-account-balance", ReplyTo: to} }

func text(id string) Ask {
	return Ask{
		Action: "send-sms", ReplyTo: "inbox." + id, Header: map[string][]string{"ce-id": {id}},
		Data: []byte(`{"destination":"+12025550101","text":"hello"}`),
	}
}

// However many ask, so many are worked on, and the others are told at once.
func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, d, b := answering(t, 1)
		let := make(chan struct{})
		s.run = func(Request) (Reply, error) {
			<-let
			return Reply{Output: []byte(`{}`)}, nil
		}
		for range leastAsked {
			b.Ask(t.Context(), balance("taken"))
		}
		synctest.Wait()
		b.Ask(t.Context(), balance("one too many"))
		if diff := cmp.Diff(replied{"one too many", Failed, ReasonNotReady}, <-d.replies); diff != "" {
			t.Error(diff)
		}
		<-time.After(sendBy + time.Second) // all but the one that runs have waited for their turn in vain
		for range leastAsked - 1 {
			if diff := cmp.Diff(replied{"taken", Failed, ReasonNotReady}, <-d.replies); diff != "" {
				t.Fatal(diff)
			}
		}
		close(let)
		if got := <-d.replies; got.State != Succeeded {
			t.Errorf("%+v", got)
		}
		b.Asked(t.Context())
		if b.InFlight() != 0 {
			t.Errorf("%d in flight", b.InFlight())
		}
	})
}

// What becomes of a request that is not run here.
func TestRequestsRefused(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		ask    Ask
		before func(*seams, *desk, *Bridge)
		want   Reason
	}{
		"stopping":       {balance("inbox.1"), func(_ *seams, _ *desk, b *Bridge) { b.Drain() }, ReasonNotReady},
		"not stored":     {text("1"), func(_ *seams, d *desk, _ *Bridge) { d.fail = errRefused }, ReasonNotReady},
		"perhaps stored": {text("1"), func(_ *seams, d *desk, _ *Bridge) { d.fail = ErrUnclear }, ReasonNotReady},
		"too large":      {text("1"), func(_ *seams, d *desk, _ *Bridge) { d.fail = cloudevent.ErrTooLarge }, ReasonMalformed},
		"an outage":      {balance("inbox.1"), func(s *seams, _ *desk, _ *Bridge) { refuses(&Failure{Kind: Outage})(s) }, ReasonNotReady},
		"to be mended":   {balance("inbox.1"), func(s *seams, _ *desk, _ *Bridge) { refuses(&Failure{Kind: Blocked, Reason: ReasonUnauthorized})(s) }, ReasonUnauthorized},
		"rejected":       {balance("inbox.1"), func(s *seams, _ *desk, _ *Bridge) { refuses(&Failure{Kind: Permanent})(s) }, ReasonRejected},
		"no answer":      {balance("inbox.1"), func(s *seams, _ *desk, _ *Bridge) { refuses(&Failure{Kind: Unknown})(s) }, ReasonAttemptsExhausted},
		"an error of no class": {balance("inbox.1"), func(s *seams, _ *desk, _ *Bridge) {
			s.run = func(Request) (Reply, error) { return Reply{}, errors.New("?") }
		}, ReasonAttemptsExhausted},
		"a fault of ours": {balance("inbox.1"), func(s *seams, _ *desk, _ *Bridge) {
			s.run = func(Request) (Reply, error) { panic("of a test") }
		}, ReasonMalformed},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, d, b := answering(t, 1)
			test.before(s, d, b)
			b.Ask(t.Context(), test.ask)
			b.Asked(t.Context())
			if diff := cmp.Diff(replied{"inbox.1", Failed, test.want}, <-d.replies); diff != "" || len(d.replies) > 0 {
				t.Errorf("%d more replies: %s", len(d.replies), diff)
			}
			if len(s.records) > 0 || b.InFlight() != 0 {
				t.Errorf("records %v, %d in flight", s.records, b.InFlight())
			}
		})
	}
}

// A stored request is answered by whoever ends it, and again whenever it is
// asked again; what nobody knows is said too.
func TestStoredRequestIsAnswered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, d, b := answering(t, 1)
		b.Ask(t.Context(), text("1"))
		b.Asked(t.Context())
		if diff := cmp.Diff([]string{"1 inbox.1"}, d.stored); diff != "" {
			t.Fatal(diff)
		}
		m, _, err := b.requested(text("1"))
		if err != nil {
			t.Fatal(err)
		}
		stored := Delivery{Source: "events", Header: m.Header, Data: m.Data, Reply: "inbox.1"}
		other := stored
		other.Data = []byte(`{"destination":"+12025550102","text":"hello"}`)
		for i, step := range []struct {
			d    Delivery
			want replied
		}{
			{stored, replied{"inbox.1", Succeeded, ""}},
			{stored, replied{"inbox.1", Succeeded, ""}},
			{other, replied{"inbox.1", Failed, ReasonIDReused}},
		} {
			if got := deliver(t, b, step.d); got.acks != 1 {
				t.Errorf("step %d: %d acks", i, got.acks)
			}
			if diff := cmp.Diff(step.want, <-d.replies); diff != "" {
				t.Errorf("step %d: %s", i, diff)
			}
		}

		ctx, cancel := context.WithCancel(t.Context())
		go b.Run(ctx)
		refuses(&Failure{Kind: Unknown})(s)
		m, _, err = b.requested(text("2"))
		if err != nil {
			t.Fatal(err)
		}
		deliver(t, b, Delivery{Source: "events", Header: m.Header, Data: m.Data, Reply: "inbox.2"}) // is set aside
		aside := (<-s.queue).d
		aside.Settle, aside.Stored = &settled{}, time.Now()
		b.Handle(ctx, &aside)
		if diff := cmp.Diff(replied{"inbox.2", Failed, ReasonOutcomeUnknown}, <-d.replies); diff != "" {
			t.Error(diff)
		}
		cancel()
		synctest.Wait()
	})
}
