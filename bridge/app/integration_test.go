package app_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

func TestMain(m *testing.M) {
	if key := os.Getenv(poisonVariable); key != "" {
		os.Exit(servePoisoned(bridge.Key(key)))
	}
	flag.Parse()
	if err := flag.Set("test.parallel", strconv.Itoa(max(4, runtime.GOMAXPROCS(0)))); err != nil { // most of them wait, for others and for clocks
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		bridgetest.Clean()
		os.Exit(code)
	}))
}

// The whole thing on real parts: a nats-server, a sandbox and a bridge, each a
// process of its own; a thousand events come in every way there is, a tenth of
// them twice, and each becomes one text message, one result and its receipts.
func TestThousandEventsBecomeAThousandTexts(t *testing.T) {
	t.Parallel()
	const events = 1000
	server := bridgetest.NATSServer(t)
	box := bridgetest.StartSandbox(t)
	served := bridgetest.Serve(t, server.URL, box, "", nil)
	served.Start()
	served.AwaitReady()
	b := watch(t, server.URL)

	ids := make([]string, events)
	for i := range ids {
		ids[i] = fmt.Sprintf("evt-%04d", i)
	}
	s := sender{t: t, js: b.js, url: served.URL, client: served.Client}
	var sends []func() error
	for first := 0; first < events; first += 20 {
		twenty := ids[first : first+20]
		for _, id := range twenty[:4] {
			sends = append(sends, func() error { return s.postStructured(id) })
		}
		for _, id := range twenty[4:7] {
			sends = append(sends, func() error { return s.postBinary(id) })
		}
		sends = append(sends, func() error { return s.postBatch(twenty[7:10]...) })
		for _, id := range twenty[10:15] {
			sends = append(sends, func() error { return s.publishStructured(id) })
		}
		for _, id := range twenty[15:] {
			sends = append(sends, func() error { return s.publishBinary(id) })
		}
		// Twice, and the second time another way.
		sends = append(sends,
			func() error { return s.publishStructured(twenty[0]) },
			func() error { return s.postBinary(twenty[10]) })
	}
	if err := together(8, sends); err != nil {
		t.Fatal(err)
	}

	bridgetest.Await(t, "1000 results", func() error { return b.atLeast("BRIDGE_RESULTS", events) })
	b.awaitIdle()

	results := b.results()
	if diff := cmp.Diff(once(ids), counts(results)); diff != "" {
		t.Errorf("results by event (-want +got):\n%s", diff)
	}
	distinct := map[string]bool{}
	effects := bridgetest.ByEvent(box.Effects())
	if diff := cmp.Diff(once(ids), counts(effects)); diff != "" {
		t.Errorf("effects by event (-want +got):\n%s", diff)
	}
	for id, of := range results {
		for _, r := range of {
			distinct[r.Event.RawID] = true
			if r.Subject != "bridge.results.send-sms.succeeded" {
				t.Errorf("event %s: its result is on %s", id, r.Subject)
			}
			if want := effects[id][0].ActionRunID; r.Data.ActionRunID != want {
				t.Errorf("event %s: result of run %q, and it was run %q", id, r.Data.ActionRunID, want)
			}
		}
	}
	if len(distinct) != events {
		t.Errorf("%d distinct ids of results, want %d", len(distinct), events)
	}
	if letters := b.letters(); len(letters) != 0 {
		t.Errorf("dead letters: %v", letters)
	}

	// Each text's receipts come back, tied to the event that it was sent for.
	bridgetest.Await(t, "two receipts for each text", func() error {
		return b.atLeast("BRIDGE_EVENTS", events+events/10+2*events)
	})
	b.awaitIdle()
	all := b.receipts()
	states := map[string]map[string]int{"sent": {}, "delivered": {}}
	for _, r := range all {
		states[r.State][r.Causation]++
		if r.Causation == "" || r.CausationSource != "/shop" || r.Correlation != r.Causation {
			t.Errorf("receipt %+v is not tied to its event", r)
		}
	}
	if diff := cmp.Diff(map[string]map[string]int{"sent": once(ids), "delivered": once(ids)}, states); diff != "" {
		t.Errorf("receipts by state and event (-want +got):\n%s", diff)
	}
	t.Logf("%d events stored and %d receipts; %d effects, %d results, %d distinct, 0 dead, nothing pending",
		b.count("BRIDGE_EVENTS")-len(all), len(all), len(box.Effects()), b.count("BRIDGE_RESULTS"), len(distinct))
}

// phone is a made-up number that the sandbox delivers to.
func phone(id string) string {
	sum := 0
	for _, c := range []byte(id) {
		sum += int(c)
	}
	return fmt.Sprintf("+120255501%02d", 10+sum%90)
}

func structured(id string) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/shop","type":"com.acme.order.shipped","subject":"9",`+
		`"datacontenttype":"application/json","data":{"phone":%q}}`, id, phone(id))
}

// sender sends events in each way there is.
type sender struct {
	t      *testing.T
	js     jetstream.JetStream
	url    string
	client *http.Client
}

func (s sender) post(body string, header ...string) error {
	answer, err := bridgetest.Do(s.t.Context(), s.client, "POST", s.url+"/events", body, header...)
	if err == nil && answer.Status != http.StatusAccepted {
		err = fmt.Errorf("POST /events answers %d: %s", answer.Status, answer.Body)
	}
	return err
}

func (s sender) postStructured(id string) error {
	return s.post(structured(id), "Content-Type", cloudevent.ContentTypeStructured)
}

func (s sender) postBatch(ids ...string) error {
	items := make([]string, len(ids))
	for i, id := range ids {
		items[i] = structured(id)
	}
	return s.post("["+strings.Join(items, ",")+"]", "Content-Type", cloudevent.ContentTypeBatched)
}

func (s sender) postBinary(id string) error {
	return s.post(fmt.Sprintf(`{"phone":%q}`, phone(id)), "ce-specversion", "1.0", "ce-id", id, "ce-source", "/shop",
		"ce-type", "com.acme.order.shipped", "ce-subject", "9", "Content-Type", "application/json")
}

func (s sender) publish(m *nats.Msg) error {
	m.Subject = "bridge.events.com.acme.order.shipped"
	_, err := s.js.PublishMsg(s.t.Context(), m)
	return err
}

func (s sender) publishStructured(id string) error {
	return s.publish(&nats.Msg{Header: nats.Header{"Content-Type": {cloudevent.ContentTypeStructured}}, Data: []byte(structured(id))})
}

func (s sender) publishBinary(id string) error {
	return s.publish(&nats.Msg{
		Header: nats.Header{
			"ce-specversion": {"1.0"}, "ce-id": {id}, "ce-source": {"/shop"}, "ce-type": {"com.acme.order.shipped"},
			"ce-subject": {"9"}, "ce-datacontenttype": {"application/json"},
		},
		Data: fmt.Appendf(nil, `{"phone":%q}`, phone(id)),
	})
}

// together does all of it, so many at a time.
func together(atOnce int, do []func() error) error {
	work := make(chan func() error, len(do))
	for _, f := range do {
		work <- f
	}
	close(work)
	var wg sync.WaitGroup
	failed := make([]error, atOnce)
	for i := range atOnce {
		wg.Go(func() {
			for f := range work {
				if err := f(); err != nil {
					failed[i] = errors.Join(failed[i], err)
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(failed...)
}

// observed is the bus as anybody can see it.
type observed struct {
	t  *testing.T
	nc *nats.Conn
	js jetstream.JetStream
}

func watch(t *testing.T, url string) *observed {
	t.Helper()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.Name("test"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(bridgetest.Deadline))
	if err != nil {
		t.Fatal(err)
	}
	return &observed{t: t, nc: nc, js: js}
}

// count is how many messages a stream holds.
func (b *observed) count(stream string) int {
	b.t.Helper()
	s, err := b.js.Stream(b.t.Context(), stream)
	if err != nil {
		b.t.Fatal(err)
	}
	return int(s.CachedInfo().State.Msgs)
}

func (b *observed) atLeast(stream string, want int) error {
	if have := b.count(stream); have < want {
		return fmt.Errorf("stream %s holds %d messages of %d", stream, have, want)
	}
	return nil
}

// messages reads a stream, or those of its messages that are on a subject.
func (b *observed) messages(stream string, subjects ...string) []jetstream.Msg {
	b.t.Helper()
	consumer, err := b.js.OrderedConsumer(b.t.Context(), stream, jetstream.OrderedConsumerConfig{FilterSubjects: subjects})
	if err != nil {
		b.t.Fatal(err)
	}
	var messages []jetstream.Msg
	for {
		batch, err := consumer.FetchNoWait(500)
		if err != nil {
			b.t.Fatal(err)
		}
		before := len(messages)
		for m := range batch.Messages() {
			messages = append(messages, m)
		}
		if err := batch.Error(); err != nil {
			b.t.Fatal(err)
		}
		if len(messages) == before {
			return messages
		}
	}
}

type result struct {
	Subject string
	Event   cloudevent.Event
	Data    bridge.ResultData
}

// results are the results by the id of the event that they answer.
func (b *observed) results() map[string][]result {
	b.t.Helper()
	by := map[string][]result{}
	for _, m := range b.messages("BRIDGE_RESULTS") {
		e, err := cloudevent.FromNATS(m.Headers(), m.Data())
		if err != nil {
			b.t.Fatalf("a result on %s is no CloudEvent: %v", m.Subject(), err)
		}
		r := result{Subject: m.Subject(), Event: e}
		if err := json.Unmarshal(e.Data(), &r.Data); err != nil {
			b.t.Fatalf("a result's data: %v", err)
		}
		cause, _ := e.Extensions()["causationid"].(string)
		by[cause] = append(by[cause], r)
	}
	return by
}

type letter struct {
	Subject, Reason, Cause, Data string
	Header                       nats.Header
}

func (l letter) String() string {
	return fmt.Sprintf("%s about %q: %s", l.Subject, l.Cause, l.Header.Get("Bridge8x8-Message"))
}

// letters are the dead letters, in their order.
func (b *observed) letters() []letter {
	b.t.Helper()
	var letters []letter
	for _, m := range b.messages("BRIDGE_DEAD") {
		letters = append(letters, letter{
			Subject: m.Subject(), Reason: m.Headers().Get("Bridge8x8-Reason"), Cause: m.Headers().Get("Bridge8x8-Cause-Id"),
			Data: string(m.Data()), Header: m.Headers(),
		})
	}
	return letters
}

// receipt is what a com.8x8.sms.status event says.
type receipt struct {
	State                                   string
	Causation, CausationSource, Correlation string
}

func (b *observed) receipts() []receipt {
	b.t.Helper()
	var receipts []receipt
	for _, m := range b.messages("BRIDGE_EVENTS", "bridge.events.com.8x8.sms.status") {
		e, err := cloudevent.FromNATS(m.Headers(), m.Data())
		if err != nil {
			b.t.Fatalf("a receipt is no CloudEvent: %v", err)
		}
		var data struct{ Status struct{ State string } }
		if err := json.Unmarshal(e.Data(), &data); err != nil {
			b.t.Fatalf("a receipt's data: %v", err)
		}
		r := receipt{State: data.Status.State}
		r.Causation, _ = e.Extensions()["causationid"].(string)
		r.CausationSource, _ = e.Extensions()["causationsource"].(string)
		r.Correlation, _ = e.Extensions()["correlationid"].(string)
		receipts = append(receipts, r)
	}
	return receipts
}

// awaitIdle waits until every durable consumer of the bridge has taken and
// settled all there is.
func (b *observed) awaitIdle() {
	b.t.Helper()
	bridgetest.Await(b.t, "nothing pending", func() error {
		var durables, names []string
		for name := range b.js.StreamNames(b.t.Context()).Name() {
			names = append(names, name)
		}
		for _, name := range names {
			s, err := b.js.Stream(b.t.Context(), name)
			if err != nil {
				return err
			}
			var busy error
			for c := range s.ListConsumers(b.t.Context()).Info() { // to its end: who lists them would hang otherwise
				if c.Config.Durable == "" {
					continue
				}
				durables = append(durables, c.Name)
				if c.NumPending > 0 || c.NumAckPending > 0 {
					busy = fmt.Errorf("consumer %s of %s: %d pending, %d not acknowledged", c.Name, name, c.NumPending, c.NumAckPending)
				}
			}
			if busy != nil {
				return busy
			}
		}
		for _, want := range []string{"bridge-events", "bridge-wait-_"} {
			if !slices.Contains(durables, want) {
				return fmt.Errorf("there is no consumer %s, only %v", want, durables)
			}
		}
		return nil
	})
}

// once wants one of each.
func once(ids []string) map[string]int {
	want := map[string]int{}
	for _, id := range ids {
		want[id] = 1
	}
	return want
}

func counts[T any](by map[string][]T) map[string]int {
	n := map[string]int{}
	for id, of := range by {
		n[id] = len(of)
	}
	return n
}

// expectCounts says in few words how got differs from want.
func expectCounts(want, got map[string]int) error {
	differ := 0
	example := ""
	for id, n := range want {
		if got[id] != n {
			differ++
			example = fmt.Sprintf("%s has %d of %d", id, got[id], n)
		}
	}
	for id, n := range got {
		if _, ok := want[id]; !ok {
			differ++
			example = fmt.Sprintf("%q has %d of 0", id, n)
		}
	}
	if differ > 0 {
		return fmt.Errorf("%d differ; for one, %s", differ, example)
	}
	return nil
}

// textOf is the text of the message that an effect is.
func textOf(t *testing.T, e sandbox.Effect) string {
	t.Helper()
	var input struct{ Text string }
	if err := json.Unmarshal(e.Input, &input); err != nil {
		t.Fatal(err)
	}
	return input.Text
}
