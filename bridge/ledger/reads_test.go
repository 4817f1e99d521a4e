package ledger_test

import (
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge"
)

// Every read goes to the leader of the ledger's stream: direct reads, which any
// follower may answer from what it had, are off, and none is asked for, not even
// of a stream that somebody else made with them on (R13).
func TestReadsGoToTheLeader(t *testing.T) {
	t.Parallel()
	for _, found := range []bool{false, true} {
		name := "made by us"
		if found {
			name = "found with direct reads on"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := within(t)
			server := startServer(t)
			c := connect(t, server.ClientURL())
			if found {
				if _, err := c.JS.CreateStream(ctx, jetstream.StreamConfig{
					Name: stream, Subjects: []string{subject + ">"}, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, AllowDirect: true, AllowRollup: true, DenyDelete: true,
				}); err != nil {
					t.Fatal(err)
				}
			}
			l := open(t, options(c))
			rev := put(t, l, key("1"), record(bridge.Running), 0)
			if err := l.Batch(ctx, "batch", key("1")); err != nil {
				t.Fatal(err)
			}

			var mu sync.Mutex
			asked := map[string]int{}
			ear, err := nats.Connect(server.ClientURL())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(ear.Close)
			if _, err := ear.Subscribe("$JS.API.>", func(m *nats.Msg) {
				mu.Lock()
				defer mu.Unlock()
				asked[strings.TrimPrefix(m.Subject, "$JS.API.")]++
			}); err != nil {
				t.Fatal(err)
			}
			if err := ear.FlushWithContext(ctx); err != nil {
				t.Fatal(err)
			}

			if e, err := l.Get(ctx, key("1")); err != nil || e.Revision != rev {
				t.Errorf("get: revision %d, %v", e.Revision, err)
			}
			if _, err := l.Get(ctx, key("2")); !errors.Is(err, bridge.ErrNotFound) {
				t.Errorf("get of what is not there: %v", err)
			}
			if entries, err := l.Event(ctx, key("1").Event()); err != nil || len(entries) != 1 {
				t.Errorf("the event: %d records, %v", len(entries), err)
			}
			if e, err := l.ByBatch(ctx, "batch"); err != nil || e.Revision != rev {
				t.Errorf("by batch: revision %d, %v", e.Revision, err)
			}
			if _, err := l.Now(ctx); err != nil {
				t.Error(err)
			}

			want := map[string]int{"STREAM.MSG.GET." + stream: 5, "STREAM.INFO." + stream: 2}
			eventually(t, "every read to be heard of", func() bool {
				mu.Lock()
				defer mu.Unlock()
				n := 0
				for v := range maps.Values(asked) {
					n += v
				}
				return n >= 7
			})
			mu.Lock()
			defer mu.Unlock()
			if diff := cmp.Diff(want, asked); diff != "" {
				t.Errorf("the reads (-want +got):\n%s", diff)
			}
			st, err := c.JS.Stream(ctx, stream)
			if err != nil {
				t.Fatal(err)
			}
			if st.CachedInfo().Config.AllowDirect {
				t.Error("direct reads are on")
			}
		})
	}
}
