package app_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

// holding stands before a sandbox and holds the runs of some events until it is
// told to let them go.
type holding struct {
	url  string
	let  func()
	mu   sync.Mutex
	now  int // runs that are held
	most int // at any time
}

func holdRuns(t *testing.T, box *bridgetest.Sandbox, of string) *holding {
	t.Helper()
	target, err := url.Parse(box.URL)
	if err != nil {
		t.Fatal(err)
	}
	h := &holding{}
	gate := make(chan struct{})
	h.let = sync.OnceFunc(func() { close(gate) })
	proxy := httputil.NewSingleHostReverseProxy(target)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(string(body))), int64(len(body))
		if r.Method == http.MethodPost && strings.Contains(string(body), `"eventId":"`+of) {
			h.add(1)
			<-gate
			h.add(-1)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	t.Cleanup(h.let)
	h.url = server.URL
	return h
}

func (h *holding) add(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now += n
	h.most = max(h.most, h.now)
}

// held is how many runs are held now, and how many there were at most.
func (h *holding) held() (now, most int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now, h.most
}

const twoConnections = `
connections:
  slow: {key: 8x8-sandbox}
  quick: {key: 8x8-sandbox}
routes:
  - name: slow
    on: com.acme.slow
    run: send-sms
    connection: slow
    input: {destination: "${ .data.phone }", text: hello}
  - name: quick
    on: com.acme.quick
    run: send-sms
    connection: quick
    input: {destination: "${ .data.phone }", text: hello}
`

// A connection whose runs do not come back leaves room for another's, and none
// of its own events is lost (R10).
func TestSlowConnectionLeavesRoom(t *testing.T) {
	t.Parallel()
	const concurrency = 16
	box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1})
	h := holdRuns(t, box, "slow-")
	b := bridgetest.Start(t, bridgetest.Options{
		Sandbox: box, YAML: twoConnections, Env: map[string]string{"MEMBRANE_API_URL": h.url, "BRIDGE_CONCURRENCY": fmt.Sprint(concurrency)},
	})
	o := watch(t, b.NATSURL)
	publish := func(kind string, ids []string) {
		t.Helper()
		var sends []func() error
		for _, id := range ids {
			sends = append(sends, func() error {
				_, err := o.js.PublishMsg(t.Context(), &nats.Msg{
					Subject: "bridge.events.com.acme." + kind, Header: nats.Header{"Content-Type": {cloudevent.ContentTypeStructured}},
					Data: fmt.Appendf(nil, `{"specversion":"1.0","id":%q,"source":"/shop","type":"com.acme.%s","data":{"phone":%q}}`, id, kind, phone(id)),
				})
				return err
			})
		}
		if err := together(8, sends); err != nil {
			t.Fatal(err)
		}
	}
	slow, quick := numbered("slow", 500), numbered("quick", 50)
	publish("slow", slow)
	publish("quick", quick)
	o.awaitResults(quick) // while all of the others are still held
	now, most := h.held()
	if n := len(o.results()); n != len(quick) || now != concurrency/8 || most != now {
		t.Errorf("%d results; %d runs of the slow connection in flight, and %d at most, want %d", n, now, most, concurrency/8)
	}
	h.let()
	all := append(slow, quick...)
	o.awaitResults(all)
	o.awaitIdle()
	if err := errors.Join(expectCounts(once(all), counts(o.results())), expectCounts(once(all), counts(bridgetest.ByEvent(box.Effects())))); err != nil {
		t.Error(err)
	}
	if letters := o.letters(); len(letters) > 0 {
		t.Errorf("held: %v", letters)
	}
}

// Where there is only one connection, it has all there is.
func TestOneConnectionHasAllSlots(t *testing.T) {
	t.Parallel()
	const concurrency = 16
	box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1})
	h := holdRuns(t, box, "evt-")
	b := bridgetest.Start(t, bridgetest.Options{Sandbox: box, Env: map[string]string{"MEMBRANE_API_URL": h.url, "BRIDGE_CONCURRENCY": fmt.Sprint(concurrency)}})
	o := watch(t, b.NATSURL)
	ids := numbered("evt", 3*concurrency)
	publishOrders(t, o, ids)
	bridgetest.Await(t, "all slots in use", func() error {
		if n, _ := h.held(); n < concurrency {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
	h.let()
	o.awaitResults(ids)
	o.awaitIdle()
	waits, err := o.js.Stream(t.Context(), "BRIDGE_WAIT")
	if err != nil {
		t.Fatal(err)
	}
	if _, most := h.held(); waits.CachedInfo().State.LastSeq != 0 || most != concurrency {
		t.Errorf("%d were set aside, %d runs at once", waits.CachedInfo().State.LastSeq, most)
	}
}
