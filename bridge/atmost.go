package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// counted is what is remembered of one at_most, and of one value of its per: the
// events that it let through lately, so that one which is met again is the same.
type counted struct {
	Keys []Key       `json:"keys"`
	At   []time.Time `json:"at"`
}

// within says whether a route's at_most lets the pair through, and counts it if
// so. Whoever counts does so by compare-and-set on what it has read: replicas share
// the limit.
func (b *Bridge) within(ctx context.Context, p *pair) (bool, error) {
	limit := p.handler.AtMost
	by, err := b.Ledger.Hide(ctx, hash("at_most", p.route, p.per))
	if err != nil {
		return false, err
	}
	for {
		body, rev, err := b.Ledger.Note(ctx, "limit."+by)
		if err != nil {
			return false, err
		}
		var was, now counted
		if body != nil {
			if err := json.Unmarshal(body, &was); err != nil || len(was.Keys) != len(was.At) {
				was = counted{} // written by nobody that we know: it goes with its time
			}
		}
		at := b.Now().UTC()
		for i, k := range was.Keys {
			if k == p.key {
				return true, nil // counted by somebody who did not come to claim it
			}
			if at.Sub(was.At[i]) < limit.Every {
				now.Keys, now.At = append(now.Keys, k), append(now.At, was.At[i])
			}
		}
		if len(now.Keys) >= limit.Times {
			return false, nil
		}
		now.Keys, now.At = append(now.Keys, p.key), append(now.At, at)
		if body, err = json.Marshal(now); err != nil {
			return false, err
		}
		if _, err = b.Ledger.PutNote(ctx, "limit."+by, body, rev, limit.Every); err == nil {
			return true, nil
		}
		if !errors.Is(err, ErrConflict) {
			return false, err // it may be counted, and is the same when it comes again
		}
	}
}
