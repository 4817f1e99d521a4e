package app_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/app"
	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/bus"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
	"github.com/bridge8x8/bridge8x8/config"
)

const bothRoutes = bridgetest.Routes + `  - name: warehouse
    on: com.acme.order.shipped
    run: send-sms
    connection: main
    input:
      destination: ${ .data.phone }
      text: Order ${ .subject } has left.
`

// person is somebody with access to the bus, and no part in the bridge.
func person(t *testing.T, natsURL string) *bus.Letters {
	t.Helper()
	conn, err := bus.Connect(config.NATSEnv{URL: natsURL}, "a person", slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	if err := conn.Await(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	return &bus.Letters{Conn: conn, Names: bus.NewNames("bridge")}
}

// onlyLetter waits for one dead letter.
func onlyLetter(t *testing.T, box *bus.Letters, reason bridge.Reason) bus.Letter {
	t.Helper()
	var letters []bus.Letter
	bridgetest.Await(t, "one dead letter", func() (err error) {
		letters, err = box.List(t.Context(), bus.LetterFilter{})
		if err == nil && len(letters) != 1 {
			err = fmt.Errorf("%d letters", len(letters))
		}
		return err
	})
	if letters[0].Reason != reason {
		t.Fatalf("the letter is %s: %s", letters[0].Reason, letters[0].Message)
	}
	return letters[0]
}

// ends are the results of one event, as "route state" by result id.
func (b *observed) ends(id string) map[string]string {
	ends := map[string]string{}
	for _, r := range b.results()[id] {
		end := r.Data.Route + " succeeded"
		if r.Data.Error != nil {
			end = r.Data.Route + " " + string(r.Data.Error.Reason)
		}
		ends[r.Event.RawID] = end
	}
	return ends
}

func (b *observed) awaitEnds(id string, want map[string]string) {
	b.t.Helper()
	bridgetest.Await(b.t, "the outcomes", func() error {
		if diff := cmp.Diff(want, b.ends(id)); diff != "" {
			return errors.New("outcomes (-want +got):\n" + diff)
		}
		return nil
	})
}

func shopKey(id, route string, replay int) string {
	return string(bridge.NewKey(bridge.EventHash("/shop", id), route, replay))
}

// refused makes the sandbox refuse one run, for good.
func refused(t *testing.T, box *bridgetest.Sandbox, key string) {
	t.Helper()
	err := box.Fault(sandbox.Fault{
		Kind: sandbox.Status, Status: 400, Match: key,
		Body: json.RawMessage(`{"type":"bad_request","key":"invalid_input","message":"refused by a test"}`),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Two people replay one letter at the same moment, of an event that two routes
// took: the one route's effect comes about once, and the other's not again (R11).
func TestTwoPeopleReplayOneLetter(t *testing.T) {
	t.Parallel()
	options := bridgetest.Options{
		YAML: bothRoutes, Sandbox: bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1}), Env: map[string]string{"NATS_URL": bridgetest.NATSServer(t).URL},
	}
	b := bridgetest.Start(t, options)
	o := watch(t, b.NATSURL)
	refused(t, b.Sandbox, shopKey("1", "warehouse", 0))
	s := sender{t: t, url: b.URL, client: bridgetest.Client(t)}
	if err := s.postStructured("1"); err != nil {
		t.Fatal(err)
	}
	people := []*bus.Letters{person(t, b.NATSURL), person(t, b.NATSURL)}
	letter := onlyLetter(t, people[0], bridge.ReasonInvalidInput)
	before := map[string]string{shopKey("1", "order-shipped", 0): "order-shipped succeeded", shopKey("1", "warehouse", 0): "warehouse invalid_input"}
	o.awaitEnds("1", before)
	b.Stop() // it would be quicker than the second of them

	var both sync.WaitGroup // stored by both before either removes the letter
	both.Add(len(people))
	asked, err := people[0].Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var replays []func() error
	for _, p := range people {
		p.Hook = func() { both.Done(); both.Wait() }
		replays = append(replays, func() error {
			return p.Decide(t.Context(), letter.ID, []uint64{letter.ID}, asked, false)
		})
	}
	if err := together(2, replays); err != nil {
		t.Fatal(err)
	}
	bridgetest.Start(t, options)
	before[shopKey("1", "warehouse", 1)] = "warehouse succeeded"
	o.awaitEnds("1", before)
	o.awaitIdle()
	if n := len(b.Sandbox.Effects()); n != 2 {
		t.Errorf("%d effects, want one for each route", n)
	}
	if letters := o.letters(); len(letters) != 0 || o.count("BRIDGE_WAIT") != 0 {
		t.Errorf("dead letters %v, %d pairs set aside", letters, o.count("BRIDGE_WAIT"))
	}
	for _, r := range o.results()["1"] {
		if source, id := app.Causation(&r.Event); source != "/shop" || id != "1" {
			t.Errorf("a result's cause is %s of %s", id, source)
		}
	}
}

// Whoever dies between storing a replay and removing its letter leaves nothing
// behind: the bridge removes it, before it sends.
func TestReplayerDies(t *testing.T) {
	t.Parallel()
	b := bridgetest.Start(t, bridgetest.Options{})
	o := watch(t, b.NATSURL)
	refused(t, b.Sandbox, shopKey("1", "order-shipped", 0))
	s := sender{t: t, url: b.URL, client: bridgetest.Client(t)}
	if err := s.postStructured("1"); err != nil {
		t.Fatal(err)
	}
	box := person(t, b.NATSURL)
	letter := onlyLetter(t, box, bridge.ReasonInvalidInput)
	asked, err := box.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dying, kill := context.WithCancel(t.Context())
	box.Hook = kill
	if err := box.Decide(dying, letter.ID, []uint64{letter.ID}, asked, false); err == nil {
		t.Fatal("it did not die")
	}
	o.awaitEnds("1", map[string]string{shopKey("1", "order-shipped", 0): "order-shipped invalid_input", shopKey("1", "order-shipped", 1): "order-shipped succeeded"})
	o.awaitIdle()
	if n := len(b.Sandbox.Effects()); n != 1 {
		t.Errorf("%d effects, want 1", n)
	}
	if err := box.Decide(t.Context(), letter.ID, []uint64{letter.ID}, asked, false); !errors.Is(err, bus.ErrLetterGone) {
		t.Errorf("replayed again: %v", err)
	}
}

// An unknown is replayed whose run log shows up after all: nothing is sent, and
// its real outcome is published.
func TestReplayOfAnUnknownThatHappened(t *testing.T) {
	t.Parallel()
	inside := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1})
	target, err := url.Parse(inside.URL)
	if err != nil {
		t.Fatal(err)
	}
	var shown atomic.Bool
	proxy := httputil.NewSingleHostReverseProxy(target)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "run-logs") && !shown.Load() {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(`{"items":[]}`))
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	b := bridgetest.Start(t, bridgetest.Options{
		Sandbox: &bridgetest.Sandbox{Server: inside.Server, URL: front.URL}, LogMargin: 100 * time.Millisecond,
		Env: map[string]string{"MEMBRANE_RUN_LIMIT": "1s"},
	})
	inside.SetWebhook("", "") // a receipt would tell
	o := watch(t, b.NATSURL)
	key := shopKey("1", "order-shipped", 0)
	// Half an answer, and no connection that is cut: the proxy would answer for it.
	if err := inside.Fault(sandbox.Fault{Kind: sandbox.HTML, After: true, Match: key}); err != nil {
		t.Fatal(err)
	}
	s := sender{t: t, url: b.URL, client: bridgetest.Client(t)}
	if err := s.postStructured("1"); err != nil {
		t.Fatal(err)
	}
	box := person(t, b.NATSURL)
	letter := onlyLetter(t, box, bridge.ReasonOutcomeUnknown)
	shown.Store(true)
	asked, err := box.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := box.Decide(t.Context(), letter.ID, []uint64{letter.ID}, asked, false); err != nil {
		t.Fatal(err)
	}
	o.awaitEnds("1", map[string]string{key: "order-shipped succeeded"})
	o.awaitIdle()
	if n := len(inside.Effects()); n != 1 {
		t.Errorf("%d effects, want the first one only", n)
	}
	if letters := o.letters(); len(letters) != 0 {
		t.Errorf("dead letters %v", letters)
	}
}

// A person gives up: one failed result says so, and nothing is sent.
func TestDiscardALetter(t *testing.T) {
	t.Parallel()
	b := bridgetest.Start(t, bridgetest.Options{})
	o := watch(t, b.NATSURL)
	refused(t, b.Sandbox, shopKey("1", "order-shipped", 0))
	s := sender{t: t, url: b.URL, client: bridgetest.Client(t)}
	if err := s.postStructured("1"); err != nil {
		t.Fatal(err)
	}
	box := person(t, b.NATSURL)
	letter := onlyLetter(t, box, bridge.ReasonInvalidInput)
	client := b.App.Client()
	first, err := client.Decisions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second, err := client.Decisions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // done by one, done is done
		if err := first.Discard(t.Context(), &letter); err != nil {
			t.Fatal(err)
		}
	}
	if err := second.Discard(t.Context(), &letter); !errors.Is(err, app.ErrLetterGone) {
		t.Errorf("discarded by another: %v", err)
	}
	o.awaitEnds("1", map[string]string{shopKey("1", "order-shipped", 0): "order-shipped invalid_input", shopKey("1", "order-shipped", 1): "order-shipped discarded"})
	o.awaitIdle()
	if n := len(b.Sandbox.Effects()); n != 0 || len(o.letters()) != 0 {
		t.Errorf("%d effects, dead letters %v", n, o.letters())
	}
	for _, r := range o.results()["1"] {
		if r.Subject != "bridge.results.send-sms.failed" || r.Event.Type() != "com.8x8.action.send-sms.failed" {
			t.Errorf("a result %s is on %s", r.Event.Type(), r.Subject)
		}
	}
}
