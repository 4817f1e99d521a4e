package bridge

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func newSlots(most int, shared bool) *slots {
	s := &slots{}
	s.init(most, time.Now)
	s.setShared(shared)
	return s
}

// fill takes slots for f, whose runs have been quick, until there is none for it.
func fill(t *testing.T, s *slots, f Frozen) (held []slot) {
	t.Helper()
	s.mu.Lock()
	s.share(f).most = s.most
	s.mu.Unlock()
	closed := make(chan struct{})
	close(closed)
	for {
		x, got := s.take(f, closed, 0)
		if got != slotTaken {
			return held
		}
		held = append(held, x)
	}
}

func TestShares(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		most   int
		shared bool
		want   []int // by place, each taking all that it gets
	}{
		"one place":         {64, false, []int{64}},
		"several":           {64, true, []int{48, 12, 3, 1, 0}},
		"few":               {4, true, []int{3, 1, 0}},
		"two":               {2, true, []int{1, 1}},
		"one at a time":     {1, true, []int{1, 0}},
		"nobody to fear":    {1, false, []int{1}},
		"as many as it may": {100, true, []int{75, 18}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSlots(test.most, test.shared)
			var all []slot
			for i, want := range test.want {
				got := fill(t, s, Frozen{Connection: string(rune('a' + i))})
				if len(got) != want {
					t.Errorf("place %d has %d slots, want %d", i, len(got), want)
				}
				all = append(all, got...)
			}
			for _, x := range all {
				x.free(true)
			}
			if s.inUse() != 0 || len(s.shares) != 0 || len(s.line) != 0 {
				t.Errorf("%d in use, %d shares, %d wait", s.inUse(), len(s.shares), len(s.line))
			}
		})
	}
}

// Whoever waits is served in turn, one place after the other, and nobody waits
// while there is something for him.
func TestSlotsInTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(4, true)
		held := append(fill(t, s, shipped), fill(t, s, abroad)...)
		var mu sync.Mutex
		var order string
		var wg sync.WaitGroup
		wait := func(f Frozen, name string) {
			wg.Go(func() {
				x, got := s.take(f, nil, 0)
				if got != slotTaken {
					t.Errorf("%s: %v", name, got)
				}
				mu.Lock()
				order += name
				mu.Unlock()
				<-time.After(time.Second)
				x.free(true)
			})
			synctest.Wait()
		}
		third := Frozen{Connection: "third"}
		for range 3 {
			wait(shipped, "s")
		}
		for range 3 {
			wait(abroad, "a")
		}
		wait(third, "t")
		for _, x := range held {
			x.free(true)
			synctest.Wait()
		}
		wg.Wait()
		// The third has nothing yet, and the others more than would be theirs.
		if len(order) != 7 || order[:3] != "tsa" {
			t.Errorf("in the order %q", order)
		}
		if s.inUse() != 0 || len(s.shares) != 0 || len(s.line) != 0 {
			t.Errorf("%d in use, %d shares, %d wait", s.inUse(), len(s.shares), len(s.line))
		}
	})
}

// A place whose runs take long makes nobody wait for it who could do something
// else; one whose runs are quick is waited for.
func TestSlotsOfASlowPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(4, true)
		held := fill(t, s, shipped)
		begun := time.Now()
		if _, got := s.take(shipped, nil, slotPatience); got != slotLater || time.Since(begun) != slotPatience {
			t.Errorf("%v after %v", got, time.Since(begun))
		}
		// Now it is known: one may try, and no second beside it.
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, got := s.take(shipped, nil, slotPatience); got != slotLater {
				t.Errorf("%v", got)
			}
		})
		synctest.Wait()
		begun = time.Now()
		if _, got := s.take(shipped, nil, slotPatience); got != slotLater || time.Since(begun) != 0 {
			t.Errorf("%v after %v", got, time.Since(begun))
		}
		wg.Wait()
		<-time.After(time.Minute)
		for _, x := range held {
			x.free(true)
		}
		if len(s.shares) != 0 {
			t.Errorf("%d shares", len(s.shares))
		}

		for range 100 { // quick ones
			x, _ := s.take(shipped, nil, slotPatience)
			<-time.After(10 * time.Millisecond)
			x.free(true)
		}
		for range 50 {
			wg.Go(func() {
				x, got := s.take(shipped, nil, slotPatience)
				if got != slotTaken {
					t.Errorf("%v", got)
					return
				}
				<-time.After(10 * time.Millisecond)
				x.free(true)
			})
		}
		wg.Wait()
	})
}

// Stopping ends all waits, and loses no slot.
func TestSlotsStopped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(4, true)
		held := fill(t, s, shipped)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if x, got := s.take(shipped, stop, 0); got == slotTaken {
					x.free(false)
				}
			})
		}
		synctest.Wait()
		close(stop)
		for _, x := range held {
			x.free(true)
		}
		wg.Wait()
		if s.inUse() != 0 || len(s.shares) != 0 || len(s.line) != 0 {
			t.Errorf("%d in use, %d shares, %d wait", s.inUse(), len(s.shares), len(s.line))
		}
	})
}

// A place begins with few slots and comes to its share by runs that end. One from
// which nothing comes back begins anew: what it can keep from the others is little,
// even if it was as quick as they are until just now.
func TestSlotsByDegrees(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(64, true)
		closed := make(chan struct{})
		close(closed)
		all := func(f Frozen) (held []slot) {
			for {
				x, got := s.take(f, closed, 0)
				if got != slotTaken {
					return held
				}
				held = append(held, x)
			}
		}
		one, _ := s.take(shipped, closed, 0) // a place that holds nothing is forgotten
		for _, want := range []int{8, 15, 29, 48, 48} {
			held := all(shipped)
			if len(held)+1 != want {
				t.Errorf("%d slots, want %d", len(held)+1, want)
			}
			<-time.After(100 * time.Millisecond)
			for _, x := range held {
				x.free(true)
			}
		}
		<-time.After(slotSilence + time.Second)
		silent := all(shipped)
		if len(silent)+1 != 8 {
			t.Errorf("%d slots after a silence, want 8", len(silent)+1)
		}
		if _, got := s.take(shipped, nil, slotPatience); got != slotLater {
			t.Errorf("%v: nobody waits for a place that is silent", got)
		}
		if other := fill(t, s, abroad); len(other) != 42 { // three quarters of what is left
			t.Errorf("another place has %d slots, want 42", len(other))
		}
		one.free(true)
	})
}

// Those who find no slot come again, but not all at once.
func TestSlotsComeAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(8, true)
		if got := s.later(shipped); got != gateRetry {
			t.Errorf("%v, although there are slots", got)
		}
		fill(t, s, shipped)
		var last time.Duration
		for range 4 * lineMost {
			last = s.later(shipped)
		}
		if want := 4 * gateRetry; last != want {
			t.Errorf("the last of %d comes again in %v, want %v", 4*lineMost, last, want)
		}
	})
}
