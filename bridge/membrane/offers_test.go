package membrane

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// A listing is read to its end, in one order, with what is wanted beside it; a
// state that nobody knows is not ready, and a field of another type is left out.
func TestOffers(t *testing.T) {
	t.Parallel()
	a := &answers{pages: map[string][]string{
		"/actions": {
			`{"items":[{"id":"2","key":"b","name":"B","state":"READY","type":"api-request-to-external-app","inputSchema":{"type":"object"}},{"id":"1","key":"a","state":"PONDERING","inputSchema":"none","name":7}],"cursor":"x"}`,
			`{"items":[{"id":"2","key":"b","name":"B"},{"id":"3","name":"C","archivedAt":"2026-01-01"}]}`,
		},
		"/actions/9": {`{"id":"9","key":"z","name":"Z","isDeactivated":true}`},
	}}
	c := connect(t, serve(t, a.ServeHTTP).start(t).URL)
	got, err := c.Offers(background, bridge.Place{ConnectionKey: "k 1"}, []string{"a", "9", "gone", "2"})
	if err != nil {
		t.Fatal(err)
	}
	want := []catalog.Offer{
		{ID: "3", Name: "C", Problem: "it is archived"},
		{ID: "1", Key: "a", Problem: "its state is PONDERING"},
		{ID: "2", Key: "b", Name: "B", Type: "api-request-to-external-app", Input: []byte(`{"type":"object"}`)},
		{ID: "9", Key: "z", Name: "Z", Problem: "it is deactivated"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the offers (-want +got):\n%s", diff)
	}
	asked := []string{
		"GET /actions?connectionKey=k+1&limit=1000", "GET /actions?connectionKey=k+1&cursor=x&limit=1000",
		"GET /actions/9?connectionKey=k+1", "GET /actions/gone?connectionKey=k+1",
	}
	if diff := cmp.Diff(asked, a.asked); diff != "" {
		t.Errorf("what was asked (-want +got):\n%s", diff)
	}
}

// What is asked at a start opens no connection that runs do not use; and where
// runs use them all, it has another.
func TestOffersOverTheRunsConnections(t *testing.T) {
	t.Parallel()
	release, arrived := make(chan struct{}), make(chan struct{}, 2)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			arrived <- struct{}{}
			<-release
		}
		body(200, `{"items":[{"id":"1","key":"a"}],"output":{},"actionRunId":"66f1"}`)(w, r)
	}).start(t)
	c := connect(t, s.URL, func(o *Options) { o.Concurrency = 1 })
	ask := func() {
		t.Helper()
		if got, err := c.Offers(background, bridge.Place{ConnectionKey: "k"}, nil); err != nil || len(got) != 1 {
			t.Fatalf("got %+v, %v", got, err)
		}
	}
	ask()
	ran := make(chan error, 1)
	go func() {
		_, err := c.Run(background, request())
		ran <- err
	}()
	await(t, "the run", arrived)
	if n := s.conns.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	c.ahead = 50 * time.Millisecond
	ask()
	if n := s.conns.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
	close(release)
	if err := <-ran; err != nil {
		t.Error(err)
	}
}

// Half a listing is none: what it leaves out would look as if it were gone.
func TestOffersThatAreNone(t *testing.T) {
	t.Parallel()
	for name, pages := range map[string][]string{
		"no list":          {`{"cursor":"x"}`},
		"a page":           {`<html>`},
		"half a page":      {`half {"items":[{"id":"1"}`},
		"a lost page":      {`{"items":[{"id":"1"}],"cursor":"x"}`, "500"},
		"a loop":           {`{"items":[{"id":"1"}],"cursor":"x"}`, `{"items":[{"id":"1"}],"cursor":"y"}`},
		"a rate limit":     {"429"},
		"another's answer": {`[]`},
	} {
		a := &answers{pages: map[string][]string{"/actions": pages}}
		c := connect(t, serve(t, a.ServeHTTP).start(t).URL)
		got, err := c.Offers(background, bridge.Place{ConnectionID: "c1"}, nil)
		if _, ok := errors.AsType[*bridge.Failure](err); !ok || got != nil {
			t.Errorf("%s: %v, %v; want a failure", name, got, err)
		}
		if n := len(slices.Compact(a.asked)); n > 3 {
			t.Errorf("%s: asked %d times", name, n)
		}
	}
	a := &answers{}
	if _, err := connect(t, serve(t, a.ServeHTTP).start(t).URL).Offers(background, bridge.Place{}, nil); err == nil || !strings.Contains(err.Error(), "MEMBRANE_CONNECTION") {
		t.Errorf("without a connection: %v", err)
	}
}
