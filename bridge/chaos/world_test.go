//go:build unix

// Package chaos_test shows the guarantees by killing things: bridges, servers
// of NATS, a cluster's leader, the way between the two. Everything is a process
// of its own, as its users run it; the sandbox, which counts every effect and
// knows every run log, is the judge.
//
// Each scenario has a short form, which every run of the tests includes, and a
// long one (make chaos), which BRIDGE_CHAOS=long chooses. BRIDGE_CHAOS_SEED
// replaces the fixed seed. A seed decides what is published, what fails for
// whom, and who is killed in which order; what the kill finds half done is up
// to the machine.
package chaos_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if !explicit("test.parallel") && !long() {
		_ = flag.Set("test.parallel", "4") // most of their time they wait for a silence to be long enough
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		bridgetest.Clean()
		os.Exit(code)
	}))
}

func explicit(name string) (is bool) {
	flag.Visit(func(f *flag.Flag) { is = is || f.Name == name })
	return is
}

func long() bool { return os.Getenv("BRIDGE_CHAOS") == "long" }

// form chooses what the form that runs takes.
func form[T any](short, longer T) T {
	if long() {
		return longer
	}
	return short
}

const (
	source = "/shop"
	// Two routes, each with a connection and so a gate of its own. The second takes
	// a part of what the first takes.
	first, second = "order-shipped", "order-vip"
	plainType     = "com.acme.order.shipped"
	vipType       = "com.acme.order.vip"
	routes        = `
connections:
  main: {key: 8x8-sandbox}
  vip: {key: 8x8-sandbox}
routes:
  - name: order-shipped
    on: [com.acme.order.shipped, com.acme.order.vip]
    run: send-sms
    connection: main
    input: {destination: "${ .data.phone }", text: "Order ${ .subject } is on its way."}
  - name: order-vip
    on: com.acme.order.vip
    run: send-sms
    connection: vip
    input: {destination: "${ .data.phone }", text: "Order ${ .subject }, with care."}
`
)

// settings let a dead process' work be taken over soon, and a run's silence be
// judged 13 s after its claim: 5 s send-by, the run limit, 7 s for its log to show.
var settings = map[string]string{"BRIDGE_ACK_WAIT": "1s", "MEMBRANE_RUN_LIMIT": "1s", "BRIDGE_CONCURRENCY": "16"}

// pair is one route's share of an event.
type pair struct{ event, route string }

func (p pair) key() bridge.Key { return bridge.NewKey(bridge.EventHash(source, p.event), p.route, 0) }

// world is all that a scenario works with.
type world struct {
	t       *testing.T
	seed    uint64
	rand    *rand.Rand // of the test's own goroutine
	box     *bridgetest.Sandbox
	client  *http.Client
	bridges []*replica
	binary  string // of the next bridges; "" for the program that is shipped
	nc      *nats.Conn
	js      jetstream.JetStream

	ids    []string        // of the events
	vip    map[string]bool // those that match two routes
	order  []string        // ids as they are published: a tenth of them twice
	pairs  []pair
	hidden map[pair]bool // whose run logs never show
}

type replica struct {
	*bridgetest.Program
	admin string
}

// newWorld draws events, and a sandbox that fails a fifth of the calls for them.
func newWorld(t *testing.T, seed uint64, events int, faults bool) *world {
	t.Helper()
	if s := os.Getenv("BRIDGE_CHAOS_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("BRIDGE_CHAOS_SEED: %v", err)
		}
	}
	t.Logf("seed %d, %d events", seed, events)
	w := &world{
		t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, seed)), client: bridgetest.Client(t),
		vip: map[string]bool{}, hidden: map[pair]bool{},
	}
	var mu sync.Mutex
	dice := rand.New(rand.NewPCG(seed, 1))
	w.box = bridgetest.NewSandbox(t, sandbox.Options{
		ReceiptDelay: -1, // no webhook: a receipt would tell of what a hidden log does not
		Latency: func() time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return 5*time.Millisecond + time.Duration(dice.Int64N(int64(75*time.Millisecond)))
		},
	})

	type copied struct {
		id string
		at float64
	}
	var copies []copied
	for i := range events {
		id := fmt.Sprintf("evt-%05d", i)
		w.ids = append(w.ids, id)
		w.pairs = append(w.pairs, pair{id, first})
		if w.rand.IntN(10) == 0 {
			w.vip[id] = true
			w.pairs = append(w.pairs, pair{id, second})
		}
		copies = append(copies, copied{id, float64(i)})
		if w.rand.IntN(10) == 0 {
			copies = append(copies, copied{id, float64(i) + w.rand.Float64()*float64(events-i)})
		}
	}
	slices.SortStableFunc(copies, func(x, y copied) int {
		switch {
		case x.at < y.at:
			return -1
		case x.at > y.at:
			return 1
		}
		return 0
	})
	for _, c := range copies {
		w.order = append(w.order, c.id)
	}
	if faults {
		w.fail()
	}
	return w
}

// fail lays down what goes wrong for each pair, so that it does not hang on who
// comes first. Not among it: a 500 after the effect whose run log says error
// too. Such a log shows and settles nothing; the pair is rightly held.
func (w *world) fail() {
	drawn := map[sandbox.Kind]int{}
	add := func(p pair, f sandbox.Fault) {
		f.Match = string(p.key())
		drawn[f.Kind]++
		if err := w.box.Fault(f); err != nil {
			w.t.Fatal(err)
		}
	}
	// After the effect, these three leave only the run log to tell of it.
	mute := []sandbox.Fault{
		{Kind: sandbox.DropAfter},
		{Kind: sandbox.HalfBody},
		{Kind: sandbox.Status, After: true, Status: 500, Body: json.RawMessage(`{"type":"internal","message":"Something went wrong"}`)},
	}
	for i, p := range w.pairs {
		calls := 0
		switch {
		case i%400 == 7: // and its reply is lost: nobody can know
			w.hidden[p] = true
			add(p, mute[w.rand.IntN(len(mute))])
		case i%200 == 7:
			w.hidden[p] = true
		default:
			for ; w.rand.IntN(5) == 0; calls++ { // each call is one in five to fail
				kind := w.rand.IntN(6)
				if kind == 0 {
					add(p, sandbox.Fault{Kind: sandbox.RateLimit, RetryAfter: w.rand.IntN(2)})
					continue
				}
				if kind == 1 {
					add(p, sandbox.Fault{Kind: sandbox.Refuse, RetryAfter: w.rand.IntN(2)})
					continue
				}
				if kind == 2 && calls == 0 {
					add(p, sandbox.Fault{Kind: sandbox.Slow, After: true, DelayMs: 8000}) // longer than anybody waits for it
				} else {
					add(p, mute[w.rand.IntN(len(mute))])
				}
				break // it has happened: there is no other call
			}
		}
		switch {
		case w.hidden[p]:
			add(p, sandbox.Fault{Kind: sandbox.HideLog, Times: -1})
		case w.rand.IntN(4) == 0:
			add(p, sandbox.Fault{Kind: sandbox.DelayLog, Times: -1, DelayMs: 1 + w.rand.IntN(3000)})
		}
	}
	w.t.Logf("%d pairs, %d messages; faults: %v", len(w.pairs), len(w.order), drawn)
}

// connect is the test's own way to NATS, past whatever the bridges go through.
func (w *world) connect(urls ...string) {
	w.t.Helper()
	nc, err := nats.Connect(strings.Join(urls, ","), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond), nats.Name("test"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(5*time.Second))
	if err != nil {
		w.t.Fatal(err)
	}
	w.nc, w.js = nc, js
}

// serve makes bridges and starts them all at once; env is laid over settings.
func (w *world) serve(n int, natsURL string, env map[string]string) {
	w.t.Helper()
	dir := w.t.TempDir()
	path := dir + "/bridge.yaml"
	if err := os.WriteFile(path, []byte(routes), 0o600); err != nil {
		w.t.Fatal(err)
	}
	for range n {
		addr := bridgetest.FreeAddr(w.t)
		environ := map[string]string{
			"NATS_URL": natsURL, "BRIDGE_CONFIG": path, "BRIDGE_DATA_DIR": dir,
			"BRIDGE_HTTP_ADDR": "", "BRIDGE_ADMIN_ADDR": addr, "LOG_FORMAT": "text",
			"MEMBRANE_API_URL": w.box.URL, "MEMBRANE_TOKEN": sandbox.Token, "MEMBRANE_CONNECTION": sandbox.ConnectionKey,
		}
		maps.Copy(environ, settings)
		maps.Copy(environ, env)
		r := &replica{Program: bridgetest.NewProgram(w.t, environ, "serve"), admin: "http://" + addr}
		if w.binary != "" {
			r.As(w.binary)
		}
		w.bridges = append(w.bridges, r)
		r.Start()
	}
	for _, r := range w.bridges {
		w.awaitReady(r)
	}
	for i, r := range w.bridges {
		// They started at once on an empty server: the first to come is no loss to the others.
		for _, line := range r.Log.Lines("does not know a source") {
			w.t.Errorf("bridge %d: %s", i, line)
		}
	}
}

func (w *world) awaitReady(r *replica) {
	w.t.Helper()
	w.await("a bridge to be ready", time.Minute, func() error {
		if !r.Running() {
			w.t.Fatalf("a bridge has ended by itself")
		}
		answer, err := bridgetest.Do(w.t.Context(), w.client, http.MethodGet, r.admin+"/readyz", "")
		if err == nil && answer.Status != http.StatusOK {
			err = fmt.Errorf("/readyz answers %d: %s", answer.Status, answer.Body)
		}
		return err
	})
}

// await asks until cond returns nil.
func (w *world) await(what string, most time.Duration, cond func() error) {
	w.t.Helper()
	begun := time.Now()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for tell := 10 * time.Second; ; <-again.C {
		err := cond()
		if err == nil {
			return
		}
		if waited := time.Since(begun); waited > most {
			w.t.Fatalf("waiting for %s: after %v: %v", what, most, err)
		} else if waited > tell {
			w.t.Logf("waiting for %s: after %v: %v", what, tell, err)
			tell *= 2
		}
	}
}

// publish stores every message in its order, spread over so much time, and
// again until it is stored: a publisher that got no answer repeats itself. The
// function that it returns waits for the end.
func (w *world) publish(over time.Duration) (wait func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	w.t.Cleanup(cancel)
	work := make(chan string)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(work)
		begun := time.Now()
		pace := time.NewTicker(max(time.Millisecond, min(20*time.Millisecond, over/time.Duration(len(w.order)))))
		defer pace.Stop()
		for sent := 0; sent < len(w.order); {
			due := min(len(w.order), int(time.Since(begun).Seconds()/over.Seconds()*float64(len(w.order)))+1)
			for ; sent < due; sent++ {
				select {
				case work <- w.order[sent]:
				case <-ctx.Done():
					return
				}
			}
			<-pace.C
		}
	})
	for range 8 {
		wg.Go(func() {
			for id := range work {
				for stored := false; !stored && ctx.Err() == nil; {
					stored = w.store(ctx, id) == nil
				}
			}
		})
	}
	w.t.Cleanup(func() { cancel(); wg.Wait() })
	return wg.Wait
}

func (w *world) store(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	eventType := plainType
	if w.vip[id] {
		eventType = vipType
	}
	_, err := w.js.PublishMsg(ctx, &nats.Msg{
		Subject: "bridge.events." + eventType, Header: nats.Header{"Content-Type": {cloudevent.ContentTypeStructured}},
		Data: fmt.Appendf(nil, `{"specversion":"1.0","id":%q,"source":%q,"type":%q,"subject":"9","datacontenttype":"application/json","data":{"phone":"+12025550111"}}`,
			id, source, eventType),
	})
	if err != nil {
		select { // the connection comes back by itself; there is no signal for a stream that does
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return err
}

// --- what came of it -------------------------------------------------------------

// outcome is what anybody can see of a pair.
type outcome struct {
	results map[string]int // by id, how often each was stored
	failed  int            // of them
	letters map[string]int // by reason, how often each was stored
	tries   []string       // of the letters
}

// read is a stream's messages as they are now.
func (w *world) read(stream string, each func(jetstream.Msg) error) error {
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	st, err := w.js.Stream(ctx, stream)
	if err != nil {
		return err
	}
	left := int(st.CachedInfo().State.Msgs)
	if left == 0 {
		return nil
	}
	consumer, err := st.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return err
	}
	for left > 0 {
		batch, err := consumer.Fetch(min(500, left), jetstream.FetchMaxWait(time.Second))
		if err != nil {
			return err
		}
		before := left
		for m := range batch.Messages() { // to its end: it has a goroutine
			left--
			err = errors.Join(err, each(m))
		}
		if err = errors.Join(err, batch.Error()); err != nil {
			return err
		}
		if left == before {
			return fmt.Errorf("stream %s ended %d messages too early", stream, left)
		}
	}
	return nil
}

func (w *world) outcomes() (map[pair]*outcome, error) {
	all := map[pair]*outcome{}
	of := func(event, route string) *outcome {
		p := pair{event, route}
		if all[p] == nil {
			all[p] = &outcome{results: map[string]int{}, letters: map[string]int{}}
		}
		return all[p]
	}
	err := w.read("BRIDGE_RESULTS", func(m jetstream.Msg) error {
		e, err := cloudevent.FromNATS(m.Headers(), m.Data())
		if err != nil {
			return err
		}
		var data bridge.ResultData
		if err := json.Unmarshal(e.Data(), &data); err != nil {
			return err
		}
		cause, _ := e.Extensions()["causationid"].(string)
		o := of(cause, data.Route)
		o.results[e.RawID]++
		if !strings.HasSuffix(m.Subject(), ".succeeded") {
			o.failed++
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, w.read("BRIDGE_DEAD", func(m jetstream.Msg) error {
		h := m.Headers()
		o := of(h.Get("Bridge8x8-Cause-Id"), h.Get("Bridge8x8-Route"))
		o.letters[h.Get("Bridge8x8-Reason")]++
		o.tries = append(o.tries, h.Get("Bridge8x8-Try"))
		return nil
	})
}

// awaitOutcomes waits until every pair has ended, and nothing is in anybody's hand.
func (w *world) awaitOutcomes(most time.Duration) map[pair]*outcome {
	w.t.Helper()
	var last map[pair]*outcome
	w.await("an outcome for each pair", most, func() error {
		stored := 0
		for _, name := range []string{"BRIDGE_RESULTS", "BRIDGE_DEAD"} {
			st, err := w.js.Stream(w.t.Context(), name)
			if err != nil {
				return err
			}
			stored += int(st.CachedInfo().State.Msgs)
		}
		if stored < len(w.pairs) {
			return fmt.Errorf("%d outcomes are stored, of %d pairs; %d effects", stored, len(w.pairs), len(w.box.Effects()))
		}
		if err := w.idle(); err != nil {
			return err
		}
		all, err := w.outcomes()
		if err != nil {
			return err
		}
		missing := 0
		example := pair{}
		for _, p := range w.pairs {
			if all[p] == nil {
				missing++
				example = p
			}
		}
		if missing > 0 {
			return fmt.Errorf("%d pairs have no outcome, such as %s", missing, w.explain(example, all, nil))
		}
		last = all
		return nil
	})
	return last
}

// idle says what the durable consumers of the bridge have still to do.
func (w *world) idle() error {
	for _, stream := range []string{"BRIDGE_EVENTS", "BRIDGE_WAIT"} {
		st, err := w.js.Stream(w.t.Context(), stream)
		if err != nil {
			return err
		}
		list := st.ListConsumers(w.t.Context())
		for c := range list.Info() {
			if c.Config.Durable != "" && c.NumPending+uint64(c.NumAckPending) > 0 {
				err = fmt.Errorf("consumer %s of %s: %d pending, %d not acknowledged", c.Name, stream, c.NumPending, c.NumAckPending)
			}
		}
		if err := errors.Join(err, list.Err()); err != nil {
			return err
		}
	}
	return nil
}

type runLog struct {
	ID, Status, CreatedAt string
	Meta                  struct{ EventID, Route, Key, Try string }
}

// logs are the run logs that show, by the key of their pair.
func (w *world) logs() map[string][]runLog {
	w.t.Helper()
	by := map[string][]runLog{}
	for cursor := ""; ; {
		answer, err := bridgetest.Do(w.t.Context(), w.client, http.MethodGet,
			w.box.URL+"/action-run-logs?limit=100&cursor="+cursor, "", "Authorization", "Bearer "+sandbox.Token)
		if err != nil || answer.Status != http.StatusOK {
			w.t.Fatalf("listing run logs: %d, %v", answer.Status, err)
		}
		var page struct {
			Items  []runLog
			Cursor string
		}
		if err := json.Unmarshal([]byte(answer.Body), &page); err != nil {
			w.t.Fatal(err)
		}
		for _, l := range page.Items {
			by[l.Meta.Key] = append(by[l.Meta.Key], l)
		}
		if cursor = page.Cursor; cursor == "" {
			return by
		}
	}
}

func (w *world) effects() map[pair][]sandbox.Effect {
	w.t.Helper()
	by := map[pair][]sandbox.Effect{}
	for _, e := range w.box.Effects() {
		var meta struct{ EventID, Route string }
		if err := json.Unmarshal(e.Meta, &meta); err != nil {
			w.t.Fatalf("an effect without our meta: %s", e.Meta)
		}
		p := pair{meta.EventID, meta.Route}
		by[p] = append(by[p], e)
	}
	return by
}

// verdict is what a scenario came to.
type verdict struct {
	succeeded, heldHidden, heldUnsent int
	again                             int // outcomes stored a second time, under the same id
}

func (v verdict) String() string {
	return fmt.Sprintf("%d succeeded; held: %d whose log is hidden, %d that were never sent; %d outcomes stored again under their id; no effect twice",
		v.succeeded, v.heldHidden, v.heldUnsent, v.again)
}

// judge waits for the end and compares it with the guarantees. unsent is
// whether a pair may be held of which nothing was ever sent: one whose claimer
// was killed before its request. Whatever else is held must have a hidden log.
func (w *world) judge(most time.Duration, unsent bool) verdict {
	w.t.Helper()
	all := w.awaitOutcomes(most)
	effects, logs := w.effects(), w.logs()
	var v verdict
	shown := 0
	wrong := func(p pair, format string, args ...any) {
		w.t.Helper()
		if shown++; shown <= 5 {
			w.t.Errorf("%s: %s\n%s", p, fmt.Sprintf(format, args...), w.explain(p, all, logs))
		} else {
			w.t.Errorf("%s: %s", p, fmt.Sprintf(format, args...))
		}
	}
	known := map[pair]bool{}
	for _, p := range w.pairs {
		known[p] = true
		o, n := all[p], len(effects[p])
		for _, of := range []map[string]int{o.results, o.letters} {
			for _, times := range of {
				v.again += times - 1
			}
		}
		switch {
		case n > 1: // guarantee 1
			wrong(p, "%d effects", n)
		case len(o.results)+len(o.letters) != 1: // guarantee 2
			wrong(p, "%d results and %d dead letters, want one of either", len(o.results), len(o.letters))
		case len(o.results) == 1 && o.failed > 0:
			wrong(p, "its result says that it failed")
		case len(o.results) == 1 && n == 0:
			wrong(p, "a success without an effect")
		case len(o.results) == 1:
			v.succeeded++
		case o.letters["outcome_unknown"] == 0:
			wrong(p, "given up on as %v", slices.Sorted(maps.Keys(o.letters)))
		case slices.ContainsFunc(logs[string(p.key())], func(l runLog) bool { return slices.Contains(o.tries, l.Meta.Try) }): // guarantee 5
			wrong(p, "held, although the log of its try shows")
		case n == 1 && !w.hidden[p]:
			wrong(p, "held, although it was sent and its log is not hidden")
		case n == 0 && !unsent:
			wrong(p, "held, although it was never sent and nobody was killed who could have")
		case n == 1:
			v.heldHidden++
		default:
			v.heldUnsent++
		}
	}
	for p := range all {
		if !known[p] {
			wrong(p, "an outcome of what nobody published")
		}
	}
	for p := range effects {
		if !known[p] {
			wrong(p, "an effect of what nobody published")
		}
	}
	return v
}

func (p pair) String() string { return p.event + "/" + p.route }

// explain is all that is known of a pair. logs may be nil.
func (w *world) explain(p pair, all map[pair]*outcome, logs map[string][]runLog) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, seed %d: key %s, hidden %v, two routes %v\n", p, w.seed, p.key(), w.hidden[p], w.vip[p.event])
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
	defer cancel()
	if st, err := w.js.Stream(ctx, "KV_BRIDGE_LEDGER"); err != nil {
		fmt.Fprintf(&b, "  the ledger: %v\n", err)
	} else if m, err := st.GetLastMsgForSubject(ctx, "$KV.BRIDGE_LEDGER."+string(p.key())); err != nil {
		fmt.Fprintf(&b, "  its record: %v\n", err)
	} else {
		fmt.Fprintf(&b, "  its record, revision %d of %s: %s\n", m.Sequence, m.Time.Format(time.RFC3339Nano), m.Data)
	}
	if o := all[p]; o != nil {
		fmt.Fprintf(&b, "  results by id %v, dead letters by reason %v, of tries %v\n", o.results, o.letters, o.tries)
	}
	for _, e := range w.effects()[p] {
		fmt.Fprintf(&b, "  effect of run %s at %s: %s\n", e.ActionRunID, e.At.Format(time.RFC3339Nano), e.Meta)
	}
	for _, l := range logs[string(p.key())] {
		fmt.Fprintf(&b, "  log %s of %s: %s, try %s\n", l.ID, l.CreatedAt, l.Status, l.Meta.Try)
	}
	for i, r := range w.bridges {
		for _, line := range r.Log.Lines(string(p.key())) {
			fmt.Fprintf(&b, "  bridge %d: %s\n", i, line)
		}
	}
	return b.String()
}
