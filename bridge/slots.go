package bridge

import (
	"slices"
	"sync"
	"time"
)

// slots are the runs that may be in flight, and who gets the next one (R10).
//
// Where all routes run at one place, there is nobody to be fair to, and it may
// have them all. Otherwise a place may hold three quarters of what the others
// have left: however long its runs take, there is room for another's, and
// however many places are slow, each leaves some. It comes to so many only by degrees: it
// begins with an eighth, has one more for each run that has come back, and begins
// anew when none comes back any more. So a place that never answers keeps an
// eighth of the slots from the others until its gate closes.
//
// Who finds its share taken waits, as long as runs there are so quick that its
// turn comes soon. If not, the pair is set aside, so that it keeps nobody who
// takes events from those of other places: there it waits among its own, or,
// where a connection has several tenants, comes again in turn.
const (
	shareOf, shareIn = 3, 4
	firstShare       = 8 // one in so many
	// slotSilence is how long nothing comes back from a place, at least, until it
	// counts as silent.
	slotSilence = time.Second
	// slotPatience is how long a pair of an event waits for a slot before it is set aside.
	slotPatience = 500 * time.Millisecond
)

type slots struct {
	now func() time.Time

	mu     sync.Mutex
	most   int
	used   int
	shared bool
	shares map[slotKey]*share
	line   []*share // with somebody who waits; whose turn is next stands first
}

type slotKey struct{ connection, id, key, tenant string }

// share is what one place has of the slots.
type share struct {
	key   slotKey
	held  int
	queue []chan struct{} // of those who wait; closed when a slot is given
	took  time.Duration   // how long its runs have taken of late
	most  int             // it may have for now
	back  time.Time       // when a run came back last, or the first one began
	line  line            // of those who were sent away
}

// slot is one that is held.
type slot struct {
	s  *slots
	sh *share
	at time.Time
}

// answers of take.
type taken int

const (
	slotTaken taken = iota
	slotLater       // it would take too long
	slotNever       // stop was closed
)

func (s *slots) init(most int, now func() time.Time) {
	s.most, s.now, s.shares = most, now, map[slotKey]*share{}
}

// take waits for a slot: as long as it takes if limit is zero, and otherwise
// only if one is likely to come within half of it, and then no longer than that.
func (s *slots) take(f Frozen, stop <-chan struct{}, limit time.Duration) (slot, taken) {
	s.mu.Lock()
	sh := s.share(f)
	if len(sh.queue) == 0 && s.fits(sh) {
		s.give(sh)
		s.mu.Unlock()
		return slot{s, sh, s.now()}, slotTaken
	}
	if limit > 0 && s.wait(sh) > limit/2 {
		s.tidy(sh)
		s.mu.Unlock()
		return slot{}, slotLater
	}
	ready := make(chan struct{})
	sh.queue = append(sh.queue, ready)
	if len(sh.queue) == 1 {
		s.line = append(s.line, sh)
	}
	s.mu.Unlock()

	var late <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		late = timer.C
	}
	var answer taken
	select {
	case <-ready:
		return slot{s, sh, s.now()}, slotTaken
	case <-late:
		answer = slotLater
	case <-stop:
		answer = slotNever
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(sh.queue, ready)
	if i < 0 { // it was given meanwhile
		if answer == slotLater {
			return slot{s, sh, s.now()}, slotTaken
		}
		s.takeBack(sh)
		return slot{}, answer
	}
	if answer == slotLater {
		sh.took = max(sh.took, limit) // so long at least; nobody has come back to tell
	}
	sh.queue = slices.Delete(sh.queue, i, i+1)
	s.tidy(sh)
	return slot{}, answer
}

// free gives the slot back. ran says whether something was run, so that how
// long that took tells of the next.
func (x slot) free(ran bool) {
	s := x.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if ran {
		now := s.now()
		x.sh.took += (now.Sub(x.at) - x.sh.took) / 8
		x.sh.back, x.sh.most = now, min(x.sh.most+1, s.most)
	}
	s.takeBack(x.sh)
}

// later is when somebody whose place has no slot for him may come again.
func (s *slots) later(f Frozen) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh, now, lines := s.shares[slotKeyOf(f)], s.now(), 1
	if sh == nil {
		return gateRetry // there is room by now
	}
	for _, other := range s.shares {
		if other != sh && other.line.at.After(now) {
			lines++
		}
	}
	return sh.line.next(now, gateRetry, lines)
}

// setShared says whether there are several places to be fair to.
func (s *slots) setShared(shared bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shared = shared
	s.serve()
}

func (s *slots) isShared() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shared
}

func (s *slots) inUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

func slotKeyOf(f Frozen) slotKey { return slotKey{f.Connection, f.ConnID, f.ConnKey, f.Tenant} }

// --- with the lock held ---

func (s *slots) share(f Frozen) *share {
	k := slotKeyOf(f)
	sh := s.shares[k]
	if sh == nil {
		sh = &share{key: k, most: max(1, s.most/firstShare)}
		s.shares[k] = sh
	}
	return sh
}

func (s *slots) fits(sh *share) bool {
	switch {
	case s.used >= s.most:
		return false
	case !s.shared:
		return true
	}
	others := s.used - sh.held
	if sh.held > 0 && s.now().Sub(sh.back) > slotSilence+2*sh.took {
		sh.most = max(1, s.most/firstShare)
	}
	return sh.held < max(1, min(sh.most, (s.most-others)*shareOf/shareIn))
}

// wait is how long the next one would wait, going by how long runs have taken,
// or for how long none has come back.
func (s *slots) wait(sh *share) time.Duration {
	took := sh.took
	if sh.held > 0 {
		took = max(took, s.now().Sub(sh.back))
	}
	return took * time.Duration(len(sh.queue)+1) / time.Duration(max(1, sh.held))
}

func (s *slots) give(sh *share) {
	if sh.held == 0 {
		sh.back = s.now()
	}
	sh.held++
	s.used++
}

func (s *slots) takeBack(sh *share) {
	sh.held--
	s.used--
	s.serve()
	s.tidy(sh)
}

// serve gives what is free to those who wait, in turn.
func (s *slots) serve() {
	for {
		i := slices.IndexFunc(s.line, s.fits)
		if i < 0 {
			return
		}
		sh := s.line[i]
		close(sh.queue[0])
		sh.queue = sh.queue[1:]
		s.give(sh)
		s.line = slices.Delete(s.line, i, i+1)
		if len(sh.queue) > 0 {
			s.line = append(s.line, sh)
		}
	}
}

// tidy forgets a share that nobody has or wants any of.
func (s *slots) tidy(sh *share) {
	if len(sh.queue) > 0 {
		return
	}
	if i := slices.Index(s.line, sh); i >= 0 {
		s.line = slices.Delete(s.line, i, i+1)
	}
	if sh.held == 0 {
		delete(s.shares, sh.key)
	}
}
