package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// StreamsError is how streams that somebody else made differ from what the
// bridge needs, one line for each stream and difference.
type StreamsError struct{ Problems []string }

func (e *StreamsError) Error() string {
	return "the streams are not as the bridge needs them (bridge8x8 nats streams prints how to make them):\n  " + strings.Join(e.Problems, "\n  ")
}

// CheckStreams looks at streams that somebody else made. All differences from
// what is wanted are in the error, a StreamsError. With missing, a stream that
// is not there is none.
func (c *Conn) CheckStreams(ctx context.Context, wanted []jetstream.StreamConfig, missing bool) error {
	var problems []string
	for i := range wanted {
		name := wanted[i].Name
		st, err := c.JS.Stream(ctx, name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			if !missing {
				problems = append(problems, fmt.Sprintf("stream %s: there is none: make it, or let the bridge do so (streams: make)", name))
			}
		case err != nil:
			return fmt.Errorf("stream %s: %w", name, err)
		default:
			if err := newerLayout(&st.CachedInfo().Config); err != nil {
				problems = append(problems, err.Error())
			}
			for _, difference := range differences(&st.CachedInfo().Config, &wanted[i]) {
				problems = append(problems, "stream "+name+": "+difference)
			}
		}
	}
	if len(problems) == 0 {
		return nil
	}
	return &StreamsError{problems}
}

// differences are what keeps a stream from serving as the one that is wanted, in
// the words of the server's API. Sizes, replicas and names are their maker's.
func differences(have, want *jetstream.StreamConfig) (d []string) {
	must := func(ok bool, field string, is, be any, why string) {
		if !ok {
			d = append(d, fmt.Sprintf("%s is %v, and must be %v: %s", field, is, be, why))
		}
	}
	const forgets, stores = "it would lose what was accepted", "it would refuse what the bridge stores"
	for _, s := range want.Subjects {
		must(slices.Contains(have.Subjects, s), "subjects", strings.Join(have.Subjects, ", "), s, "nothing else is stored there")
	}
	must(have.Storage == want.Storage, "storage", have.Storage, want.Storage, "it would be lost when the server restarts")
	must(have.Retention == want.Retention, "retention", have.Retention, want.Retention, map[bool]string{
		true: "what has ended would never leave, and it would fill", false: forgets,
	}[want.Retention == jetstream.WorkQueuePolicy])
	must(have.Discard == want.Discard, "discard", have.Discard, want.Discard, "once full it would forget, and not refuse")
	must(!have.DiscardNewPerSubject, "discard_new_per_subject", have.DiscardNewPerSubject, false, stores)
	switch want.MaxAge {
	case 0:
		must(have.MaxAge <= 0, "max_age", have.MaxAge, "0", forgets)
	default:
		must(have.MaxAge > 0 && have.MaxAge <= want.MaxAge, "max_age", have.MaxAge, "at most "+want.MaxAge.Round(time.Second).String(),
			"the ledger (BRIDGE_RETENTION) must remember for longer than the stream does")
	}
	must(have.MaxBytes > 0, "max_bytes", have.MaxBytes, "a limit", "one stream could take the room of all")
	must(have.MaxMsgsPerSubject <= 0 && want.MaxMsgsPerSubject <= 0 || have.MaxMsgsPerSubject == want.MaxMsgsPerSubject,
		"max_msgs_per_subject", have.MaxMsgsPerSubject, max(want.MaxMsgsPerSubject, 0), map[bool]string{true: "only the newest counts", false: forgets}[want.MaxMsgsPerSubject > 0])
	must(have.MaxMsgSize <= 0, "max_msg_size", have.MaxMsgSize, -1, stores)
	must(have.MaxConsumers <= 0, "max_consumers", have.MaxConsumers, -1, "the bridge could not take from it")
	must(have.ConsumerLimits == (jetstream.StreamConsumerLimits{}), "consumer_limits", "set", "none", "the bridge could not take from it")
	must(have.Duplicates >= want.Duplicates, "duplicate_window", have.Duplicates, "at least "+want.Duplicates.String(), "what is stored again would be there twice")
	must(!have.AllowDirect, "allow_direct", have.AllowDirect, false, "followers that lag would answer")
	must(have.AllowMsgTTL || !want.AllowMsgTTL, "allow_msg_ttl", have.AllowMsgTTL, true, "records that have ended would never expire")
	must(!have.NoAck, "no_ack", have.NoAck, false, "nobody would know what is stored")
	must(!have.Sealed, "sealed", have.Sealed, false, stores)
	must(!have.DenyPurge, "deny_purge", have.DenyPurge, false, "what is settled has to leave it")
	must(!have.DenyDelete || want.DenyDelete, "deny_delete", have.DenyDelete, false, "what is settled has to leave it")
	must(have.Mirror == nil, "mirror", "set", "none", stores)
	must(have.SubjectTransform == nil, "subject_transform", "set", "none", "the bridge would not find what it stores")
	must(have.PersistMode == want.PersistMode, "persist_mode", have.PersistMode, want.PersistMode, "a message would be acknowledged before it is stored")
	return d
}
