package bridge

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// TimeoutHeader is how long who makes a request waits for the reply, such as "5s".
// Without it, it is the longest that a run may take.
const TimeoutHeader = "Bridge8x8-Timeout"

const longestPatience = 24 * time.Hour

func (a *Ask) patience(otherwise time.Duration) (time.Duration, error) {
	for name, values := range a.Header {
		if !strings.EqualFold(name, TimeoutHeader) || len(values) == 0 {
			continue
		}
		d, err := time.ParseDuration(values[0])
		if err != nil || d <= 0 || d > longestPatience {
			return 0, errors.New("its header " + TimeoutHeader + " is no duration such as 5s, of 24h at most")
		}
		return d, nil
	}
	return otherwise, nil
}

// hurry replies to a request that has no outcome when its time is up: the run goes
// on, and its outcome will be on the bus. stored says that who ends it replies,
// which may have happened by then. late says that its time was up, and keeps it
// from being up later.
func (b *Bridge) hurry(ctx context.Context, a Ask, p *pair, patience time.Duration, stored bool) (late func() bool) {
	q := *p // p goes on meanwhile
	t := time.AfterFunc(patience, func() {
		if stored {
			if b.Draining() {
				return // another replica has it, or will
			}
			entry, err := b.Ledger.Get(ctx, q.key)
			if s := entry.Record.State; err == nil && (s.Final() || s == UnknownSt) {
				return
			}
		}
		q.rec = q.failed(ReasonOutcomeUnknown, fmt.Sprintf("no outcome within %v: it goes on, and its result will be published; ask again with the same id to be told", patience), map[string]any{"waited": patience.String()})
		q.rec.ConcludedAt = b.Now().UTC()
		b.reply(a.ReplyTo, &q, string(q.key)+".late."+newTry())
	})
	return func() bool { return !t.Stop() }
}
