package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge"
)

// takenAway is how long an entry lives that says that a mark is gone. Nothing
// is deleted in a ledger: it would leave something behind for ever.
const takenAway = 5 * time.Second

// Mark implements bridge.Ledger. A mark that nobody takes away goes with the
// retention: the message that it stands beside has long ended then.
func (l *Ledger) Mark(ctx context.Context, id string, m bridge.Mark, rev uint64) (uint64, error) {
	w := writes.Get().(*write)
	defer writes.Put(w)
	if m.Times == 0 {
		return l.put(ctx, w, markToken+"."+id, nil, rev, takenAway)
	}
	m.Version = bridge.Format
	body, err := json.Marshal(m)
	if err != nil {
		return 0, err
	}
	return l.put(ctx, w, markToken+"."+id, body, rev, l.o.Retention)
}

// Marked implements bridge.Ledger.
func (l *Ledger) Marked(ctx context.Context, id string) (m bridge.Mark, rev uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	msg, err := l.stream.GetLastMsgForSubject(ctx, l.subject(markToken+"."+id))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return m, 0, nil
	case err != nil:
		return m, 0, fmt.Errorf("read the ledger: %w", err)
	case len(msg.Data) == 0: // taken away
		return m, msg.Sequence, nil
	}
	if err := json.Unmarshal(msg.Data, &m); err != nil {
		return bridge.Mark{}, 0, fmt.Errorf("the ledger's entry %s.%s is no mark: %w", markToken, id, err)
	}
	if m.Version > bridge.Format {
		return bridge.Mark{}, 0, fmt.Errorf("the ledger's entry %s.%s: %w", markToken, id, bridge.ErrNewer)
	}
	m.Version = 0 // of how it is kept, and not of what it says
	return m, msg.Sequence, nil
}
