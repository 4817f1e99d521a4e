package bridge

import (
	"context"
	"sync"
	"time"
)

// What a crash leaves open is settled from Membrane's run logs, and those can be
// switched off, or be out of our sight. The bridge finds that out before it needs
// them: now and then it looks for the log of a run that it knows has been (R6).
const (
	witnessEvery = time.Hour
	witnessFirst = time.Minute // after the end of a run; nothing hurries
	// A log that is not there after the last of these waits, from the end of its run, is not kept.
	witnessTries = 4
	witnessAgain = 30 * time.Second // between tries; doubled with each
)

// witnesses are known runs whose logs are looked for, one for each place.
type witnesses struct {
	mu   sync.Mutex
	at   map[Place]*witness
	wake chan struct{}
}

type witness struct {
	run   string // "" while none is looked for
	tries int
	next  time.Time // of the next look, or from when the next run may be one
	known bool
	kept  bool
}

func (w *witnesses) init() { w.at, w.wake = map[Place]*witness{}, make(chan struct{}, 1) }

// saw offers a run that ended well, whose log there should be.
func (w *witnesses) saw(at Place, run string, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if run == "" {
		return
	}
	one := w.at[at]
	if one == nil {
		if len(w.at) >= maxWitnessed {
			return // tenants enough: what holds for these holds for the others
		}
		one = &witness{}
		w.at[at] = one
	}
	if one.run != "" || now.Before(one.next) {
		return
	}
	one.run, one.tries, one.next = run, 0, now.Add(witnessFirst)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// maxWitnessed bounds the places that are looked at, and so the looks: about one in
// three minutes, however many tenants there are.
const maxWitnessed = 20

// due are the runs to look for now, and how long until the next one.
func (w *witnesses) due(now time.Time) (runs map[Place]string, in time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	runs, in = map[Place]string{}, time.Hour
	for at, one := range w.at {
		if one.run == "" {
			continue
		}
		if left := one.next.Sub(now); left > 0 {
			in = min(in, left)
		} else {
			runs[at] = one.run
		}
	}
	return runs, in
}

// looked says what a look has shown; the first word, or another one than before, is news.
func (w *witnesses) looked(at Place, found bool, err error, now time.Time) (news, kept bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	one := w.at[at]
	if !found {
		if err == nil {
			one.tries++
		}
		if err != nil || one.tries < witnessTries {
			one.next = now.Add(witnessAgain << one.tries)
			return false, false
		}
	}
	news = !one.known || one.kept != found
	one.run, one.next, one.known, one.kept = "", now.Add(witnessEvery), true, found
	return news, found
}

// kept says whether run logs are kept wherever that is known; known is false
// while it is known nowhere.
func (w *witnesses) kept() (kept, known bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	kept = true
	for _, one := range w.at {
		known = known || one.known
		kept = kept && (!one.known || one.kept)
	}
	return kept, known
}

// RunLogsKept says whether Membrane keeps run logs that this bridge can read.
// Without them a crash leaves what was in flight as outcome_unknown. known is
// false until a run of its own was looked for.
func (b *Bridge) RunLogsKept() (kept, known bool) { return b.witnesses.kept() }

// watchLogs looks for the logs of known runs until ctx ends.
func (b *Bridge) watchLogs(ctx context.Context) {
	for {
		runs, in := b.witnesses.due(b.Now())
		for at, run := range runs {
			_, found, err := b.Runner.RunLog(ctx, at, run)
			if news, kept := b.witnesses.looked(at, found, err, b.Now()); news {
				all, _ := b.witnesses.kept()
				b.Observer.Logged(all)
				if !kept {
					b.Observer.Trouble("membrane shows no log of a run that ended well: switch run logs on, or let this token read them; until then a crash leaves what was in flight as outcome_unknown")
				}
			}
		}
		if len(runs) > 0 {
			continue
		}
		timer := time.NewTimer(in)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-b.witnesses.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}
