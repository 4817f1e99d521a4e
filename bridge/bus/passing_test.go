package bus

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What a second attempt may mend is told from what it cannot, also where it is wrapped.
func TestPassing(t *testing.T) {
	t.Parallel()
	api := func(code int, errCode jetstream.ErrorCode, description string) error {
		return &jetstream.APIError{Code: code, ErrorCode: errCode, Description: description}
	}
	for _, c := range []struct {
		err  error
		want bool
	}{
		{context.DeadlineExceeded, true},
		{nats.ErrTimeout, true},
		{nats.ErrNoResponders, true},
		{jetstream.ErrNoStreamResponse, true},
		{jetstream.ErrStreamNotFound, true},
		{api(503, 10008, "JetStream system temporarily unavailable"), true},
		{api(400, 10005, "no suitable peers for placement, peer offline"), true},
		{api(400, 10005, "no suitable peers for placement, insufficient storage"), true},
		{api(500, 10047, "insufficient storage resources available"), false},
		{api(400, 10065, "subjects overlap with an existing stream"), false},
		{context.Canceled, false},
		{errors.New("ledger stream KV_BRIDGE_LEDGER has format \"2\", and this bridge knows \"1\""), false},
	} {
		if got := Passing(fmt.Errorf("stream BRIDGE_DEAD: %w", c.err)); got != c.want {
			t.Errorf("Passing(%v) = %v, want %v", c.err, got, c.want)
		}
	}
}

// A cluster says only in the text that it is room that its nodes lack.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	for description, want := range map[string]bool{
		"no suitable peers for placement, insufficient storage":               true,
		"no suitable peers for placement, peer offline, insufficient storage": true,
		"no suitable peers for placement, tags not matched ['eu']":            false,
	} {
		if got := NoRoom(&jetstream.APIError{Code: 400, ErrorCode: 10005, Description: description}); got != want {
			t.Errorf("NoRoom of %q is %v, want %v", description, got, want)
		}
	}
}
