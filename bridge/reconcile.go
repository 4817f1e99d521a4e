package bridge

import (
	"context"
	"sync"
	"time"
)

// The reconciler settles doubts: pairs whose record says running, but of whose
// run nobody here knows the end. There is one in each process. It holds their
// messages, keeps no worker busy, and asks for the run logs of a connection
// with one listing for all that are open there (rule R6).
//
// Evidence counts at any time. Silence counts only when it is complete: a
// listing that read every page, begun after the last moment at which the run
// could still have shown up, by the server's clock (rule R5).
const (
	lookFirst = 250 * time.Millisecond // pause before the second look
	lookMost  = 2 * time.Second        // and the longest between two,
	lookEach  = 100 * time.Millisecond // unless there are many places: those of many tenants take turns
	maxDoubts = 20_000                 // messages held at most; more are handed back for later
)

type reconciler struct {
	b    *Bridge
	mu   sync.Mutex
	open map[Key]*doubtful
	wake chan struct{}
	done bool
	// looking are the places that are being looked at: one that does not answer holds
	// up none of the others.
	looking map[Place]bool
	looks   sync.WaitGroup
}

type doubtful struct {
	e  *occurrence
	p  *pair
	at Place // of p, which belongs to who looks at it
}

func newReconciler(b *Bridge) *reconciler {
	return &reconciler{b: b, open: map[Key]*doubtful{}, looking: map[Place]bool{}, wake: make(chan struct{}, 1)}
}

// take holds a pair in doubt until its outcome is known.
func (r *reconciler) take(e *occurrence, p *pair) {
	r.mu.Lock()
	_, twice := r.open[p.key]
	if r.done || twice || len(r.open) >= maxDoubts {
		r.mu.Unlock()
		e.d.Settle.Nak(lookMost)
		return
	}
	r.open[p.key] = &doubtful{e: e, p: p, at: p.frozen.Place()}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *reconciler) run(ctx context.Context) {
	defer r.handBack()
	defer r.looks.Wait()
	pause := lookFirst
	for {
		if r.empty() {
			pause = lookFirst
			select {
			case <-ctx.Done():
				return
			case <-r.wake:
			}
		}
		if !sleep(ctx, pause) {
			return
		}
		places := r.look(ctx)
		pause = min(2*pause, lookMost) // although some were settled: what a crash left may show bit by bit
		pause = max(pause, time.Duration(places)*lookEach)
	}
}

func (r *reconciler) empty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.open) == 0
}

func (r *reconciler) handBack() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = true
	for k, d := range r.open {
		d.e.d.Settle.Nak(0)
		delete(r.open, k)
	}
}

// look begins to list each place that is not being listed, to settle what can be
// settled, and returns how many these are.
func (r *reconciler) look(ctx context.Context) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	places := map[Place][]*doubtful{}
	for _, d := range r.open {
		if !r.looking[d.at] {
			places[d.at] = append(places[d.at], d)
		}
	}
	for at, doubts := range places {
		r.looking[at] = true
		r.looks.Go(func() {
			defer func() {
				r.mu.Lock()
				defer r.mu.Unlock()
				delete(r.looking, at)
				for _, d := range doubts {
					d.at = d.p.frozen.Place()
				}
			}()
			r.lookAt(ctx, at, doubts)
		})
	}
	return len(places)
}

func (r *reconciler) lookAt(ctx context.Context, at Place, doubts []*doubtful) {
	b := r.b
	// The record as it is now decides, not as it was when the doubt began: most
	// doubts are about a run that is under way elsewhere and ends well there.
	var open []*doubtful
	for _, d := range doubts {
		try := d.p.rec.Try
		switch err := b.reread(ctx, d.p); {
		case err != nil:
			return
		case d.p.rec.State != Running || d.p.rec.Try != try || d.p.rec.Version > recordVersion:
			r.settle(d, r.guarded(d, func() fate { return b.fromRecord(ctx, d.e, d.p) }))
		default:
			open = append(open, d)
		}
	}
	if len(open) == 0 {
		return
	}
	begun, err := b.Ledger.Now(ctx)
	if err != nil {
		return
	}
	since := begun
	wanted := make(map[string]Key, len(open))
	for _, d := range open {
		wanted[d.p.rec.Try] = d.p.key
		for _, claimed := range []time.Time{d.p.rec.ClaimedAt, d.p.storedAt} { // by the clock of who claimed, and the server's
			if claimed.Before(since) {
				since = claimed
			}
		}
	}
	found, listErr := b.logsOf(ctx, at, since, wanted)
	if listErr != nil {
		b.Observer.Trouble("cannot list run logs", "error", listErr)
	}
	for _, d := range open {
		log, ok := found[d.p.rec.Try]
		last := d.p.storedAt.Add(sendBy + b.RunLimit + b.LogMargin)
		var f fate
		switch {
		case ok:
			f = r.guarded(d, func() fate {
				return b.weigh(ctx, d.e, d.p, log, max(0, log.CreatedAt.Sub(d.p.rec.ClaimedAt)))
			})
		case !begun.After(last):
			continue
		case r.receipted(ctx, d, &f): // sent, whatever the logs show (R15); and so not to be repeated (R17)
		case listErr == nil: // silence (R5)
			f = r.guarded(d, func() fate {
				return b.undecided(ctx, d.e, d.p, &Failure{Kind: Unknown, Message: "no reply came, and no run log shows its try: it may or may not have been sent"})
			})
		default:
			continue
		}
		r.settle(d, f)
	}
}

// logsOf lists the run logs of a place, from before since, for those of the
// wanted tries, each of a record with that key: only a record's current try is
// evidence (R3). What it found is good even if the listing was not complete.
func (b *Bridge) logsOf(ctx context.Context, at Place, since time.Time, wanted map[string]Key) (map[string]RunLog, error) {
	found := map[string]RunLog{} // by try
	err := b.Runner.RunLogs(ctx, at, since.Add(-listBefore), func(log RunLog) {
		try := log.Meta.Try
		if key, ok := wanted[try]; ok && log.Meta.Key == string(key) && !found[try].Succeeded {
			found[try] = log
		}
	})
	return found, err
}

// receipted ends a pair by its receipt, if there is one.
func (r *reconciler) receipted(ctx context.Context, d *doubtful, f *fate) bool {
	ok := false
	*f = r.guarded(d, func() (f fate) {
		f, ok = r.b.byReceipt(ctx, d.e, d.p)
		return f
	})
	return ok || f.kind != none
}

// guarded keeps a fault over one event from ending the process (R14).
func (r *reconciler) guarded(d *doubtful, decide func() fate) (f fate) {
	defer r.b.guard(d.e.d, &f)
	return decide()
}

// settle lets go of a pair that is no longer in doubt, unless it was handed
// back meanwhile.
func (r *reconciler) settle(d *doubtful, f fate) {
	if f.kind == inDoubt {
		return
	}
	r.mu.Lock()
	held := r.open[d.p.key] == d
	if held {
		delete(r.open, d.p.key)
	}
	r.mu.Unlock()
	if !held {
		return
	}
	if f.kind == ended {
		r.b.answer(d.e, d.p)
		d.e.d.Settle.Ack()
	} else {
		d.e.d.Settle.Nak(f.delay)
	}
}
