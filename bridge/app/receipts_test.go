package app_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

// long says whether the long forms are to run, as make receipts does.
func long() bool { return os.Getenv("BRIDGE_CHAOS") == "long" }

// postman stands in for the time that 8x8 waits before it posts again, 1, 10, 30
// and 90 s: it holds back whatever would wait for a second or more until the test
// lets it go.
type postman struct {
	mu      sync.Mutex
	waiting []func()
}

func (p *postman) after(d time.Duration, f func()) {
	if d < time.Second {
		time.AfterFunc(d, f)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = append(p.waiting, f)
}

// again lets everything go that waits now, and returns once it was tried.
func (p *postman) again() int {
	p.mu.Lock()
	due := p.waiting
	p.waiting = nil
	p.mu.Unlock()
	var wg sync.WaitGroup
	for _, f := range due {
		wg.Go(f)
	}
	wg.Wait()
	return len(due)
}

// status is what a consumer sees of a receipt.
type status struct {
	ID, Causation, Correlation string
	UMID                       string
	Status                     struct{ State, Detail string }
	Outcome                    struct {
		State string
		Final bool
		Rank  int
	}
	Data string
}

// statuses are the receipts on the bus, in their order.
func (b *observed) statuses() []status {
	b.t.Helper()
	var all []status
	for _, m := range b.messages("BRIDGE_EVENTS", "bridge.events.com.8x8.sms.status", "bridge.events.com.8x8.chat.status") {
		e, err := cloudevent.FromNATS(m.Headers(), m.Data())
		if err != nil {
			b.t.Fatalf("a receipt is no CloudEvent: %v", err)
		}
		s := status{ID: e.RawID, Data: string(e.Data())}
		if err := json.Unmarshal(e.Data(), &s); err != nil {
			b.t.Fatalf("a receipt's data: %v", err)
		}
		s.Causation, _ = e.Extensions()["causationid"].(string)
		s.Correlation, _ = e.Extensions()["correlationid"].(string)
		all = append(all, s)
	}
	return all
}

// sent is a message as the sandbox shows it.
type sent struct {
	Umid, Destination string
	Webhooks          []struct {
		State    string
		Posts    int
		Status   int
		Accepted bool
	}
}

func messagesOf(t *testing.T, box string) []sent {
	t.Helper()
	var listed struct{ Items []sent }
	answer, err := bridgetest.Do(t.Context(), bridgetest.Client(t), http.MethodGet, box+"/_sandbox/messages", "")
	if err == nil {
		err = json.Unmarshal([]byte(answer.Body), &listed)
	}
	if err != nil {
		t.Fatal(err)
	}
	return listed.Items
}

// finalOf is how far the sandbox's messages come, by the end of their number.
var finalOf = map[string]string{
	"00": "delivered", "01": "undelivered", "02": "sent", "03": "rejected", "04": "delivered_to_operator", "07": "delivered",
}

// Receipts come twice and in the wrong order, and the bridge is killed while they
// do. Each distinct status of each message is one event, tied to its cause, and of
// those of one message the one with the highest rank says how it ended.
//
// Long: 2,000 messages.
func TestReceiptsAcrossARestart(t *testing.T) {
	t.Parallel()
	events := 240
	if long() {
		events = 1600
	}
	server := bridgetest.NATSServer(t)
	var later postman
	box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: 2 * time.Second, AfterFunc: later.after})
	served := bridgetest.Serve(t, server.URL, box.Listening(t), batchRoutes, nil)
	served.Start()
	served.AwaitReady()
	b := watch(t, server.URL)

	scripts := []string{"00", "01", "02", "03", "04", "07", "07", "07"}
	messages := 0
	var sends []func() error
	for i := range events {
		id, typ := fmt.Sprintf("evt-%04d", i), "com.acme.order.shipped"
		number := fmt.Sprintf("+120255501%s", scripts[i%len(scripts)])
		data, n := fmt.Sprintf(`{"phone":%q}`, number), 1
		if i%8 == 5 { // a batch that lists its messages, and one that does not
			typ, n = "com.acme.lists", 3
			if i%16 == 5 {
				typ = "com.acme.numbers"
			}
			data = fmt.Sprintf(`{"phones":[%q,"+12025550100","+12025550101"]}`, number)
		}
		messages += n
		sends = append(sends, func() error {
			answer, err := bridgetest.Do(t.Context(), served.Client, http.MethodPost, served.URL+"/events",
				fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/shop","type":%q,"subject":"9","data":%s}`, id, typ, data), "Content-Type", cloudevent.ContentTypeStructured)
			if err == nil && answer.Status != http.StatusAccepted {
				err = fmt.Errorf("%d %s", answer.Status, answer.Body)
			}
			return err
		})
	}
	if err := together(8, sends); err != nil {
		t.Fatal(err)
	}
	bridgetest.Await(t, "all to be sent", func() error { return b.atLeast("BRIDGE_RESULTS", events) })
	posted := make(chan struct{})
	go func() {
		defer close(posted)
		later.again()
	}()
	bridgetest.Await(t, "receipts in the middle of it", func() error { return b.atLeast("BRIDGE_EVENTS", events+messages/8) })
	served.Kill()
	<-posted
	later.again() // nobody is there
	served.Start()
	served.AwaitReady()
	bridgetest.Await(t, "the receipts to be taken", func() error {
		later.again()
		if !box.Idle() {
			return errors.New("there are receipts under way")
		}
		return nil
	})

	want, final, unacknowledged := map[string]int{}, map[string]string{}, 0
	all := messagesOf(t, box.URL)
	if len(all) != messages {
		t.Errorf("%d messages, want %d", len(all), messages)
	}
	for _, m := range all {
		for _, w := range m.Webhooks {
			if want[m.Umid+" "+w.State] = 1; !w.Accepted {
				unacknowledged++
			}
		}
		final[m.Umid] = finalOf[m.Destination[len(m.Destination)-2:]]
	}
	got, last, ids := map[string]int{}, map[string]status{}, map[string]bool{}
	repeated := 0
	for _, s := range b.statuses() {
		got[s.UMID+" "+s.Status.State]++
		if s.Causation == "" || s.Correlation != s.Causation {
			t.Errorf("%+v is not tied to its event", s)
		}
		if ids[s.ID] {
			repeated++
		}
		ids[s.ID] = true
		if before, ok := last[s.UMID]; !ok || s.Outcome.Rank > before.Outcome.Rank {
			last[s.UMID] = s
		}
	}
	if err := expectCounts(want, got); err != nil || unacknowledged > 0 || repeated > 0 {
		t.Errorf("events by message and status: %v; %d ids twice, %d posts that nobody took", err, repeated, unacknowledged)
	}
	states := map[string]string{}
	for umid, s := range last {
		if states[umid] = s.Outcome.State; s.Outcome.Final != slices.Contains([]string{"delivered", "undelivered", "rejected"}, s.Outcome.State) {
			t.Errorf("%+v", s)
		}
	}
	if diff := cmp.Diff(final, states); diff != "" {
		t.Errorf("final states (-want +got):\n%s", diff)
	}
	t.Logf("%d messages, %d distinct statuses, %d events", len(all), len(want), len(got))
}

// While NATS is away 8x8 is told to come again, and what comes again is taken once
// NATS is back: every event is on the bus after the fourth repeat, and none that was
// acknowledged is missing.
//
// Long: NATS is away for 100 s, and 8x8's repeats come when they come, 1, 10, 30 and 90 s
// after one another.
func TestNATSAwayWhile8x8Repeats(t *testing.T) {
	t.Parallel()
	const texts, replies = 40, 20
	server := bridgetest.NATSServer(t)
	var later postman
	o := sandbox.Options{ReceiptDelay: 2 * time.Second, AfterFunc: later.after}
	if long() {
		o = sandbox.Options{ReceiptDelay: 2 * time.Second}
	}
	box := bridgetest.NewSandbox(t, o)
	served := bridgetest.Serve(t, server.URL, box.Listening(t), "", nil)
	served.Start()
	served.AwaitReady()
	b := watch(t, server.URL)
	ids := numbered("evt", texts)
	publishOrders(t, b, ids)
	b.awaitResults(ids)

	killed := make(chan struct{})
	go func() { // some posts are under way
		defer close(killed)
		for i := range replies {
			if _, err := box.Inbound(fmt.Sprintf("+120255502%02d", i), "", "YES"); err != nil {
				t.Error(err)
			}
		}
		later.again()
	}()
	bridgetest.Await(t, "some to be taken", func() error { return b.atLeast("BRIDGE_EVENTS", texts+5) })
	server.Kill()
	<-killed
	if long() {
		<-time.After(100 * time.Second)
	} else {
		// The repeats after 1, 10 and 30 s. The second receipt of a message is due after the
		// first was posted, whatever came of that.
		for range 3 {
			later.again()
		}
	}
	refused, taken := 0, 0
	for _, m := range messagesOf(t, box.URL) {
		for _, w := range m.Webhooks {
			switch {
			case w.Accepted:
				taken++ // before it was killed
			case w.Status == http.StatusServiceUnavailable || w.Posts == 0:
				refused++
			default:
				t.Errorf("a %s receipt was answered %d after %d posts", w.State, w.Status, w.Posts)
			}
		}
	}
	if refused == 0 {
		t.Fatal("nothing came while NATS was away")
	}
	server.Start()
	served.AwaitReady()
	bridgetest.Await(t, "the end of the repeats", func() error {
		later.again()
		if !box.Idle() {
			return errors.New("8x8 is not done")
		}
		return nil
	})

	want := map[string]int{}
	for _, m := range messagesOf(t, box.URL) {
		for _, w := range m.Webhooks {
			if !w.Accepted || w.Posts > 5 {
				t.Errorf("a webhook was posted %d times and answered %d", w.Posts, w.Status)
			}
			want[strings.TrimSpace(m.Umid+" "+w.State)] = 1
		}
	}
	got := map[string]int{}
	for _, s := range b.statuses() {
		got[s.UMID+" "+s.Status.State]++
		if s.Causation == "" {
			t.Errorf("%+v is not tied to its event", s)
		}
	}
	for _, m := range b.messages("BRIDGE_EVENTS", "bridge.events.com.8x8.sms.received") {
		e, err := cloudevent.FromNATS(m.Headers(), m.Data())
		if err != nil {
			t.Fatal(err)
		}
		got[e.RawID]++
	}
	if err := expectCounts(want, got); err != nil {
		t.Error(err)
	}
	t.Logf("%d webhooks, of which %d were taken before NATS was killed, and %d refused while it was away", len(want), taken, refused)
}
