package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge"
)

// Reader reads a ledger without a part in it: it makes nothing and changes nothing.
type Reader struct{ l *Ledger }

// Read looks at the ledger with a prefix. Error: bridge.ErrNotFound if there is none.
func Read(ctx context.Context, js jetstream.JetStream, prefix string) (Reader, error) {
	name := StreamName(prefix)
	st, err := js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return Reader{}, bridge.ErrNotFound
	}
	if err != nil {
		return Reader{}, fmt.Errorf("ledger stream %s: %w", name, err)
	}
	return Reader{&Ledger{bucket: name[len("KV_"):], stream: st}}, nil
}

// Get reads the newest record of a pair. Error: bridge.ErrNotFound.
func (r Reader) Get(ctx context.Context, key bridge.Key) (bridge.Entry, error) {
	return r.l.Get(ctx, key)
}
