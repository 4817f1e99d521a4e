package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/ledger"
)

// All records of an id are found, of whatever source, and nothing that only
// looks like it.
func TestFind(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	c := connect(t, startServer(t).ClientURL())
	if _, err := ledger.Peek(ctx, c.JS, "bridge"); !errors.Is(err, bridge.ErrNotFound) {
		t.Errorf("before there is a ledger: %v", err)
	}
	l := open(t, options(c))
	peek := func() *ledger.Ledger {
		t.Helper()
		p, err := ledger.Peek(ctx, c.JS, "bridge")
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if found, read, err := peek().Find(ctx, "1"); err != nil || read != 0 || len(found) != 0 {
		t.Errorf("in an empty ledger: %v, %d, %v", found, read, err)
	}
	const odd = `a "b\ é<`
	records := 0
	for _, source := range []string{"/shop", "/other"} {
		for _, id := range []string{"1", "11", odd} {
			rec := record(bridge.Succeeded)
			rec.Cause.Source, rec.Cause.ID, rec.Cause.Subject = source, id, "1"
			put(t, l, bridge.NewKey(bridge.EventHash(source, id), "shipped", 0), rec, 0)
			records++
		}
	}
	if err := errors.Join(l.Batch(ctx, "ref", key("1")), l.NoteReceipt(ctx, key("1"), "abcdefghijkl", bridge.Receipt{UMID: "1"})); err != nil {
		t.Fatal(err)
	}
	if _, err := l.AddSource(ctx, "1", ledger.Source{Since: time.Now()}); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]int{"1": 2, odd: 2, "2": 0} {
		found, read, err := peek().Find(ctx, id)
		if err != nil || len(found) != want || read < records {
			t.Errorf("%q: %d found, %d read, %v", id, len(found), read, err)
		}
		for _, e := range found {
			if got, err := l.Get(ctx, e.Key); err != nil || got.Revision != e.Revision || got.Record.Cause.ID != id || e.StoredAt.IsZero() {
				t.Errorf("%q: found %+v, and there is %+v, %v", id, e, got, err)
			}
		}
	}
	for i := range 2000 {
		put(t, l, key(fmt.Sprint("more-", i)), record(bridge.Running), 0)
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if _, _, err := peek().Find(over, "1"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
