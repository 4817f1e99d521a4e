package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
)

// replayToken is where decisions about dead letters wait, among the connections
// in BRIDGE_WAIT: the sign is followed by hexadecimal digits in the name of any
// connection that begins with it.
const replayToken = "=replay"

// DecisionToken is the subject token of decisions about dead letters in BRIDGE_WAIT.
func DecisionToken() string { return replayToken }

// Letters reads the dead letters, and stores what people decide about them.
type Letters struct {
	Conn  *Conn
	Names Names
	// Hook is called between storing a decision and removing its letter; only tests set it.
	Hook func()
}

// Letter is one dead letter, with what it says about itself.
type Letter struct {
	// ID is its sequence in BRIDGE_DEAD. No other letter ever gets it.
	ID         uint64
	Stored     time.Time // by the server's clock
	Reason     bridge.Reason
	Message    string
	Route      string // its identity; "" for what had none yet
	Action     string
	Connection string
	Key        bridge.Key // "" for what is no CloudEvent
	Try        string
	Replay     int // which replay ended in it; 0 for the event's first handling
	Attempts   int
	// Unclear counts the runs before the last that may have had an effect.
	Unclear   int
	RunID     string
	ClaimedAt time.Time // zero if it was never claimed
	Source    string    // the configured name of where its event came from
	// Stream and Seq are where its event was stored.
	Stream string
	Seq    uint64
	// Cause is its event: id, type and source; empty for what is no CloudEvent.
	Cause bridge.Cause
	// Reference says that the letter holds no payload, which was too large: it is
	// that of the message at Stream and Seq.
	Reference bool

	recorded bool // a record stands behind it
	header   map[string][]string
	data     []byte
}

// The answers of Letters that are no failures.
var (
	ErrNoLetter     = errors.New("there is no such dead letter")
	ErrLetterGone   = errors.New("the dead letter is gone: it was replayed, discarded, or withdrawn because its outcome became known")
	ErrOriginalGone = errors.New("the event was too large to be kept in the dead letter, and the message that the letter names is gone from its stream")
)

// MayBeSent says whether the event may have had its effect already, or has.
func (l *Letter) MayBeSent() bool { return mayBeSent(l.Reason) || l.Unclear > 0 }

func mayBeSent(r bridge.Reason) bool {
	return r == bridge.ReasonOutcomeUnknown || r == bridge.ReasonUnledgered || r == bridge.ReasonFollowUpFailed
}

// Replayable says why the letter cannot be replayed, or nil.
func (l *Letter) Replayable() error {
	switch {
	case l.Reason == bridge.ReasonMalformed:
		return errors.New("what came is no CloudEvent, so that no route can take it: mend it where it comes from, and discard the letter")
	case l.Reason == bridge.ReasonIDReused:
		return errors.New("its source and id are those of another event: publish it again under an id of its own, and discard the letter")
	case l.Key == "" || l.Route == "" || !l.recorded:
		return errors.New("it does not say which route it is for")
	}
	return nil
}

// Same finds, among all letters, those that are about the same pair as one: a
// letter stored again after the server's window for duplicates is two.
func Same(all []Letter) func(l *Letter) []uint64 {
	type pair struct {
		key    bridge.Key
		replay int
	}
	const most = 50 // of one pair: the decision about them must stay small
	by := map[pair][]uint64{}
	for i := range all {
		l := &all[i]
		if p := (pair{l.Key, l.Replay}); l.recorded && len(by[p]) < most {
			by[p] = append(by[p], l.ID)
		}
	}
	return func(l *Letter) []uint64 {
		if same := by[pair{l.Key, l.Replay}]; l.recorded && slices.Contains(same, l.ID) {
			return same
		}
		return []uint64{l.ID}
	}
}

// LetterFilter says which letters are meant. What is empty excludes none.
type LetterFilter struct {
	Route  string // identity
	Reason bridge.Reason
	// Type is of the event, exactly, or all those that begin with what stands before a last "*".
	Type         string
	Since, Until time.Time // of Stored
}

// Takes says whether a letter is meant.
func (f LetterFilter) Takes(l *Letter) bool {
	prefix, pattern := strings.CutSuffix(f.Type, "*")
	return (f.Route == "" || l.Route == f.Route) && (f.Reason == "" || l.Reason == f.Reason) &&
		(f.Type == "" || l.Cause.Type == f.Type || pattern && strings.HasPrefix(l.Cause.Type, prefix)) &&
		(f.Since.IsZero() || !l.Stored.Before(f.Since)) && (f.Until.IsZero() || !l.Stored.After(f.Until))
}

// Now is the server's time.
func (s *Letters) Now(ctx context.Context) (time.Time, error) {
	st, err := s.stream(ctx)
	if err != nil {
		return time.Time{}, err
	}
	return st.CachedInfo().TimeStamp, nil
}

func (s *Letters) stream(ctx context.Context) (jetstream.Stream, error) {
	st, err := s.Conn.JS.Stream(ctx, s.Names.Dead())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("there is no stream %s here: no bridge with this BRIDGE_PREFIX has run on this NATS yet", s.Names.Dead())
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", s.Names.Dead(), err)
	}
	return st, nil
}

// List reads the letters that the filter takes, without their events, the oldest first.
func (s *Letters) List(ctx context.Context, f LetterFilter) ([]Letter, error) {
	st, err := s.stream(ctx)
	if err != nil {
		return nil, err
	}
	route, reason := "*", "*"
	if f.Route != "" {
		route = token(f.Route)
	}
	if f.Reason != "" {
		reason = token(string(f.Reason))
	}
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{s.Names.prefix + ".dead." + route + "." + reason}, HeadersOnly: true}
	if !f.Since.IsZero() {
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &f.Since
	}
	cons, err := st.OrderedConsumer(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("read the dead letters: %w", err)
	}
	defer drop(st, cons)
	var letters []Letter
	for {
		batch, err := cons.FetchNoWait(500)
		if err != nil {
			return nil, fmt.Errorf("read the dead letters: %w", err)
		}
		n := 0
		for m := range batch.Messages() {
			n++
			meta, err := m.Metadata()
			if err != nil {
				return nil, fmt.Errorf("read the dead letters: %w", err)
			}
			if l := readLetter(meta.Sequence.Stream, meta.Timestamp, m.Headers()); f.Takes(&l) {
				letters = append(letters, l)
			}
		}
		if err := batch.Error(); err != nil {
			return nil, fmt.Errorf("read the dead letters: %w", err)
		}
		if n == 0 {
			return letters, nil
		}
	}
}

// drop removes a consumer that has been read to its end: the server would keep it
// for minutes, and a stream has only so many.
func drop(st jetstream.Stream, cons jetstream.Consumer) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = st.DeleteConsumer(ctx, cons.CachedInfo().Name)
}

// Get reads one letter. Errors: ErrLetterGone; ErrNoLetter where there never was one.
func (s *Letters) Get(ctx context.Context, id uint64) (Letter, error) {
	st, err := s.stream(ctx)
	if err != nil {
		return Letter{}, err
	}
	if id == 0 || id > st.CachedInfo().State.LastSeq {
		return Letter{}, ErrNoLetter
	}
	m, err := st.GetMsg(ctx, id)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Letter{}, ErrLetterGone
	}
	if err != nil {
		return Letter{}, fmt.Errorf("read a dead letter: %w", err)
	}
	l := readLetter(m.Sequence, m.Time, m.Header)
	l.data = m.Data
	return l, nil
}

func readLetter(id uint64, stored time.Time, h nats.Header) Letter {
	number := func(name string) int {
		n, _ := strconv.Atoi(h.Get(name)) // absent is none
		return n
	}
	l := Letter{
		ID: id, Stored: stored, Reason: bridge.Reason(h.Get(HeaderReason)), Message: h.Get(HeaderMessage), Route: h.Get(HeaderRoute),
		Action: h.Get(HeaderAction), Connection: h.Get(HeaderConnection), Key: bridge.Key(h.Get(HeaderKey)), Try: h.Get(HeaderTry),
		Replay: number(HeaderReplay), Attempts: number(HeaderAttempts), Unclear: number(HeaderUnclear), RunID: h.Get(HeaderRunID), Source: h.Get(HeaderSource),
		Cause:     bridge.Cause{ID: h.Get(HeaderCauseID), Type: h.Get(HeaderCauseType), Source: h.Get(HeaderCauseSrc)},
		Reference: h.Get(HeaderReference) != "", recorded: h.Get(HeaderReplay) != "", header: h,
	}
	l.ClaimedAt, _ = time.Parse(time.RFC3339Nano, h.Get(HeaderClaimedAt))
	stream, seq, _ := strings.Cut(h.Get(HeaderOrigin), " ")
	l.Stream = stream
	l.Seq, _ = strconv.ParseUint(seq, 10, 64)
	return l
}

// Original is the message that the letter, as Get returned it, is about.
// Error: ErrOriginalGone.
func (s *Letters) Original(ctx context.Context, l *Letter) (header map[string][]string, data []byte, err error) {
	if !l.Reference {
		return original(l.header), l.data, nil
	}
	m, err := s.Conn.message(ctx, l.Stream, l.Seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil, ErrOriginalGone
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the original, message %d of stream %s: %w", l.Seq, l.Stream, err)
	}
	return original(m.Header), m.Data, nil
}

// Decide stores what a person decided about a letter where only bridges take it
// from (rule R11), and then removes the letter. same are the IDs of all letters
// of its pair; asked is a time at which they were there, by the server's clock.
// If it fails after the decision was stored, the letter may still be there, and
// deciding again changes nothing. To discard what has no record of its own is
// no more than to remove it. Errors: ErrLetterGone, ErrNoLetter, ErrOriginalGone.
func (s *Letters) Decide(ctx context.Context, id uint64, same []uint64, asked time.Time, discard bool) error {
	l, err := s.Get(ctx, id)
	if err != nil {
		return err
	}
	replayable := l.Replayable()
	if replayable != nil && !discard {
		return replayable
	}
	if replayable == nil {
		if err := s.store(ctx, &l, same, asked, discard); err != nil {
			return err
		}
		if s.Hook != nil {
			s.Hook()
		}
	}
	st, err := s.stream(ctx)
	if err != nil {
		return err
	}
	for _, id := range same {
		if err := deleteMessage(ctx, st, id); err != nil {
			return fmt.Errorf("remove a dead letter: %w", err)
		}
	}
	return nil
}

func (s *Letters) store(ctx context.Context, l *Letter, same []uint64, asked time.Time, discard bool) error {
	header, data, err := s.Original(ctx, l)
	if errors.Is(err, ErrOriginalGone) && discard { // what it was about is enough to say that it ended
		if bridge.EventHash(l.Cause.Source, l.Cause.ID) != l.Key.Event() {
			return nil // and even that did not fit into a header: the letter goes, and no more
		}
		header = map[string][]string{"Content-Type": {cloudevent.ContentTypeStructured}}
		data, err = json.Marshal(map[string]string{"specversion": "1.0", "id": l.Cause.ID, "source": l.Cause.Source, "type": l.Cause.Type})
	}
	if err != nil {
		return err
	}
	decision := bridge.Decision{
		Discard: discard, Reason: l.Reason, Action: l.Action, Connection: l.Connection, Unclear: l.Unclear, Letters: same, Asked: asked,
	}
	if mayBeSent(l.Reason) {
		decision.Unclear++
	}
	facts, err := json.Marshal(aside{
		Pair: bridge.Pair{Route: l.Route, Replay: l.Replay + 1, Decision: &decision}, Source: l.Source, Stream: l.Stream, Seq: l.Seq, Stored: asked,
	})
	if err != nil {
		return err
	}
	key := bridge.NewKey(l.Key.Event(), l.Route, l.Replay+1)
	m := &nats.Msg{Subject: s.Names.prefix + ".wait." + replayToken + "." + string(key), Header: original(header), Data: data}
	m.Header.Set(headerPair, string(facts))
	if (&Outbox{conn: s.Conn}).shrink(m); m.Header.Get(HeaderReference) != "" {
		if _, err := s.Conn.message(ctx, l.Stream, l.Seq); err != nil { // without it the event would be lost here
			return fmt.Errorf("the event is too large to be stored beside the decision, and message %d of stream %s cannot be read: %w", l.Seq, l.Stream, err)
		}
	}
	if _, err := s.Conn.Publisher.Store(ctx, m.Subject, m.Header, m.Data); err != nil {
		return fmt.Errorf("publish to %s: %w", m.Subject, err)
	}
	return nil
}

// Remove implements bridge.Outbox.
func (o *Outbox) Remove(ctx context.Context, key bridge.Key, letters []uint64) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	st, err := o.conn.JS.Stream(ctx, o.names.Dead())
	if err != nil {
		return err
	}
	for _, seq := range letters {
		m, err := st.GetMsg(ctx, seq)
		if err == nil && m.Header.Get(HeaderKey) != string(key) {
			continue // of a stream that was made anew
		}
		if err == nil {
			err = deleteMessage(ctx, st, seq)
		}
		if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
			return err
		}
	}
	return nil
}

// deleteMessage deletes one message, or finds that somebody else has. The server
// refuses a deletion for several reasons with one code, so it is asked which.
func deleteMessage(ctx context.Context, st jetstream.Stream, seq uint64) error {
	err := st.DeleteMsg(ctx, seq)
	if err == nil || errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	if _, gone := st.GetMsg(ctx, seq); errors.Is(gone, jetstream.ErrMsgNotFound) {
		return nil
	}
	return err
}
