package app_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

// farEnd is somebody who receives what is posted to the sink.
type farEnd struct {
	t      *testing.T
	server *httptest.Server

	mu      sync.Mutex
	answer  func(e *cloudevent.Event) int
	posts   int
	events  map[string]cloudevent.Event // those that were accepted, by source and id
	repeats int
}

func newFarEnd(t *testing.T, answer func(*cloudevent.Event) int) *farEnd {
	t.Helper()
	x := &farEnd{t: t, answer: answer, events: map[string]cloudevent.Event{}}
	x.server = httptest.NewServer(x)
	t.Cleanup(x.server.Close)
	return x
}

func (x *farEnd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // broken off
	}
	messages, err := cloudevent.FromHTTP(r.Header, body)
	if err != nil || len(messages) != 1 || r.Method != http.MethodPost {
		x.t.Errorf("%s of what is no event: %v, %v", r.Method, err, r.Header)
		return
	}
	e := messages[0].Event
	x.mu.Lock()
	defer x.mu.Unlock()
	x.posts++
	code := x.answer(&e)
	if key := e.RawSource + " " + e.RawID; code < 300 {
		if _, again := x.events[key]; again {
			x.repeats++
		}
		x.events[key] = e
	}
	w.WriteHeader(code)
}

// becomes changes what is answered.
func (x *farEnd) becomes(answer func(*cloudevent.Event) int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.answer = answer
}

func always(code int) func(*cloudevent.Event) int { return func(*cloudevent.Event) int { return code } }

// by is the number of events of each type and cause.
func (x *farEnd) by() (by map[string]int, repeats, posts int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	by = map[string]int{}
	for _, e := range x.events {
		cause, _ := e.Extensions()["causationid"].(string)
		by[e.Type()+" of "+cause]++
	}
	return by, x.repeats, x.posts
}

func (x *farEnd) await(want map[string]int) {
	x.t.Helper()
	bridgetest.Await(x.t, "the sink", func() error {
		by, _, _ := x.by()
		if !maps.Equal(by, want) {
			return fmt.Errorf("it has %v, want %v", by, want)
		}
		return nil
	})
}

// A sink that is dead holds up nothing that is sent, also across a restart; once
// it lives, it gets all of it: results and 8x8's events, and nothing else.
func TestSinkDead(t *testing.T) {
	t.Parallel()
	x := newFarEnd(t, always(http.StatusServiceUnavailable))
	box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1})
	dir := t.TempDir()
	start := func() (*bridgetest.Bridge, *observed) {
		env := map[string]string{"K_SINK": x.server.URL, "K_CE_OVERRIDES": `{"extensions":{"tier":"gold"}}`, "BRIDGE_SINK_TOKEN": "t", "BRIDGE_COMMANDS": "true"}
		b := bridgetest.Start(t, bridgetest.Options{Env: env, Dir: dir, Sandbox: box})
		return b, watch(t, b.NATSURL)
	}
	b, o := start()
	ids := numbered("dead", 40)
	want := map[string]int{}
	send := func(ids []string) {
		t.Helper()
		s := sender{t: t, url: b.URL, client: bridgetest.Client(t)}
		for _, id := range ids {
			if err := s.postStructured(id); err != nil {
				t.Fatal(err)
			}
			want["com.8x8.action.send-sms.succeeded of "+id] = 1
		}
	}
	send(ids)
	o.awaitResults(ids) // on the bus, while the sink takes nothing
	bridgetest.Await(t, "the sink to be tried", func() error {
		answer, err := bridgetest.Do(t.Context(), bridgetest.Client(t), "GET", b.AdminURL+"/readyz", "")
		if err == nil && (answer.Status != http.StatusOK || !strings.Contains(answer.Body, "it answers 503")) {
			err = fmt.Errorf("/readyz: %d %s", answer.Status, answer.Body)
		}
		return err
	})
	o.awaitReceipts(2 * 40) // to a bridge that has stopped they would come much later
	b.Stop()
	b, o = start()
	send(numbered("later", 5))
	// A command is no event of 8x8's, and neither is what somebody else calls one.
	for subject, event := range map[string]string{
		"bridge.events.com.8x8.run.get-account-balance": `{"specversion":"1.0","id":"command","source":"/shop","type":"com.8x8.run.get-account-balance","data":{}}`,
		"bridge.events.com.8x8.sms.status":              `{"specversion":"1.0","id":"fake","source":"/shop","type":"com.8x8.sms.status","data":{}}`,
	} {
		if _, err := o.js.PublishMsg(t.Context(), &nats.Msg{Subject: subject, Header: structuredHeader, Data: []byte(event)}); err != nil {
			t.Fatal(err)
		}
	}
	want["com.8x8.action.get-account-balance.succeeded of command"] = 1
	x.becomes(always(http.StatusAccepted))
	o.awaitIdle()
	o.awaitReceipts(2*45 + 1) // and the fake one
	for _, r := range o.receipts() {
		if r.Causation != "" { // not the fake one
			want["com.8x8.sms.status of "+r.Causation]++
		}
	}
	if len(want) != 2*45+1 {
		t.Fatalf("%d kinds of event are to be posted", len(want))
	}
	x.await(want)
	for _, e := range x.events {
		if e.Extensions()["tier"] != "gold" {
			t.Errorf("%v", e)
		}
	}
	answer, err := bridgetest.Do(t.Context(), bridgetest.Client(t), "GET", b.AdminURL+"/readyz", "")
	if err != nil || strings.Contains(answer.Body, "503") {
		t.Errorf("/readyz: %v %s", err, answer.Body)
	}
	for _, line := range b.Log.Lines("") {
		if strings.Contains(line, x.server.URL+"/") || strings.Contains(line, "202555") {
			t.Errorf("in the log: %s", line)
		}
	}
}

// Two bridges share what is to be posted: no event is posted twice while nothing
// fails, and one that the sink refuses is given up in the open, beside the others.
func TestSinkShared(t *testing.T) {
	t.Parallel()
	server := bridgetest.NATSServer(t)
	box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1})
	x := newFarEnd(t, func(e *cloudevent.Event) int {
		if e.Extensions()["causationid"] == "bad" {
			return http.StatusUnprocessableEntity
		}
		return http.StatusOK
	})
	env := map[string]string{"NATS_URL": server.URL, "BRIDGE_SINK_URL": x.server.URL, "BRIDGE_SINK_ENCODING": "structured"}
	one := bridgetest.Start(t, bridgetest.Options{Env: env, Sandbox: box})
	two := bridgetest.Start(t, bridgetest.Options{Env: env, Sandbox: box})
	ids := append(numbered("shared", 60), "bad")
	want := map[string]int{}
	for i, id := range ids {
		s := sender{t: t, url: []string{one.URL, two.URL}[i%2], client: bridgetest.Client(t)}
		if err := s.postStructured(id); err != nil {
			t.Fatal(err)
		}
	}
	o := watch(t, server.URL)
	o.awaitResults(ids)
	o.awaitIdle()
	o.awaitReceipts(2 * len(ids))
	for _, id := range ids[:len(ids)-1] {
		want["com.8x8.action.send-sms.succeeded of "+id] = 1
	}
	for _, r := range o.receipts() {
		if r.Causation != "bad" {
			want["com.8x8.sms.status of "+r.Causation]++
		}
	}
	x.await(want)
	if _, repeats, _ := x.by(); repeats > 0 {
		t.Errorf("%d events were posted again", repeats)
	}
	bridgetest.Await(t, "the refused ones to be given up", func() error {
		lines := slices.Concat(one.Log.Lines("is not posted to the sink again"), two.Log.Lines("is not posted to the sink again"))
		if want := 1 + countOf(o.receipts(), "bad"); len(lines) != want {
			return fmt.Errorf("%d of %d: %v", len(lines), want, lines)
		}
		return nil
	})
}

// awaitReceipts waits until so many are on the bus: each message has two.
func (b *observed) awaitReceipts(want int) {
	b.t.Helper()
	bridgetest.Await(b.t, "receipts", func() error {
		if have := len(b.receipts()); have < want {
			return fmt.Errorf("%d of %d", have, want)
		}
		return nil
	})
}

func countOf(receipts []receipt, cause string) (n int) {
	for _, r := range receipts {
		if r.Causation == cause {
			n++
		}
	}
	return n
}

// A sink that is configured later gets what comes from then on.
func TestSinkFromNowOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := bridgetest.Start(t, bridgetest.Options{Dir: dir})
	s := sender{t: t, url: b.URL, client: bridgetest.Client(t)}
	if err := s.postStructured("before"); err != nil {
		t.Fatal(err)
	}
	o := watch(t, b.NATSURL)
	o.awaitResults([]string{"before"})
	o.awaitReceipts(2)
	b.Stop()
	x := newFarEnd(t, always(http.StatusOK))
	b = bridgetest.Start(t, bridgetest.Options{Dir: dir, Env: map[string]string{"BRIDGE_SINK_URL": x.server.URL}, Sandbox: b.Sandbox})
	s.url = b.URL
	if err := s.postStructured("after"); err != nil {
		t.Fatal(err)
	}
	o = watch(t, b.NATSURL)
	o.awaitIdle()
	o.awaitReceipts(4)
	want := map[string]int{"com.8x8.action.send-sms.succeeded of after": 1}
	for _, r := range o.receipts() {
		if r.Causation == "after" {
			want["com.8x8.sms.status of after"]++
		}
	}
	x.await(want)
	var scrape string
	bridgetest.Await(t, "the metrics", func() error {
		answer, err := bridgetest.Do(t.Context(), bridgetest.Client(t), "GET", b.AdminURL+"/metrics", "")
		if scrape = answer.Body; err == nil && !strings.Contains(scrape, fmt.Sprintf("bridge8x8_sink_posts_total{verdict=\"accepted\"} %d", len(want)+want["com.8x8.sms.status of after"]-1)) {
			err = fmt.Errorf("%s", scrape[strings.Index(scrape, "bridge8x8_sink"):][:400])
		}
		return err
	})
}
