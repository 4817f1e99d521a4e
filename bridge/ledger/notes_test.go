package ledger_test

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/ledger"
)

// A note is changed by compare-and-set, ends with its time, and is no record.
func TestNotes(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	c := connect(t, startServer(t).ClientURL())
	l := open(t, options(c))
	if body, rev, err := l.Note(ctx, "message.a"); body != nil || rev != 0 || err != nil {
		t.Fatalf("%q, %d, %v", body, rev, err)
	}
	first, err := l.PutNote(ctx, "message.a", []byte("1"), 0, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.PutNote(ctx, "message.a", []byte("2"), 0, time.Hour); !errors.Is(err, bridge.ErrConflict) {
		t.Errorf("%v, want a conflict", err)
	}
	if _, err := l.PutNote(ctx, "message.a", []byte("2"), first, time.Second); err != nil {
		t.Fatal(err)
	}
	if body, rev, err := l.Note(ctx, "message.a"); string(body) != "2" || rev <= first || err != nil {
		t.Errorf("%q, %d, %v", body, rev, err)
	}
	if l.Usable() != nil {
		t.Error("a conflict is no trouble")
	}
	for deadline := time.After(30 * time.Second); ; {
		body, rev, err := l.Note(ctx, "message.a")
		if err != nil {
			t.Fatal(err)
		}
		if rev == 0 {
			break
		}
		select {
		case <-deadline:
			t.Fatalf("it is still there: %q", body)
		case <-time.After(50 * time.Millisecond):
		}
	}
	if _, err := l.PutNote(ctx, "message.a", []byte("3"), 0, 0); err != nil {
		t.Errorf("after its time it cannot be written anew: %v", err)
	}
	if found, read, err := l.Find(ctx, "3"); len(found) != 0 || read != 0 || err != nil {
		t.Errorf("%v, %d, %v", found, read, err)
	}
}

// What others say leaves room for what is to be claimed.
func TestCrowded(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	c := connect(t, startServer(t).ClientURL())
	o := options(c)
	o.MaxBytes = 64 << 10
	l := open(t, o)
	if err := l.Crowded(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.PutNote(ctx, "message.a", make([]byte, 54<<10), 0, 0); err != nil { // 84 %
		t.Fatal(err)
	}
	watch(t, l)
	eventually(t, "the watch to see how full it is", func() bool { return l.Crowded() != nil })
	if err := l.Usable(); err != nil {
		t.Errorf("nothing is claimed any more: %v", err)
	}
}

// What is hidden is the same for all replicas and after a restart, another in
// another ledger, and not a hash of the text alone.
func TestHide(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	c := connect(t, startServer(t).ClientURL())
	o := options(c)
	const number = "12025550111"
	replicas := []*ledger.Ledger{open(t, o), open(t, o), open(t, o), open(t, o)}
	names := make([]string, len(replicas))
	var wg sync.WaitGroup
	for i, l := range replicas {
		wg.Go(func() {
			var err error
			if names[i], err = l.Hide(ctx, number); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	again, err := open(t, o).Hide(ctx, number)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if name != again || strings.Contains(name, "2025") || strings.ContainsAny(name, ".*> ") {
			t.Errorf("%q, and after a restart %q", name, again)
		}
	}
	if other, err := replicas[0].Hide(ctx, "12025550112"); err != nil || other == again {
		t.Errorf("%q, %v", other, err)
	}
	elsewhere := options(connect(t, startServer(t).ClientURL()))
	if other, err := open(t, elsewhere).Hide(ctx, number); err != nil || other == again || bytes.Equal([]byte(other), nil) {
		t.Errorf("in another ledger: %q, %v", other, err)
	}
}
