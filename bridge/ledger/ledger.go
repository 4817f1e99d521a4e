// Package ledger remembers, on JetStream, what was claimed and how it ended. It
// is a KV bucket whose backing stream the bridge makes itself: reads go to the
// leader, since followers lag; only the write that ends a record gives it a
// time to live; and a full bucket refuses rather than forgets (rule R13).
package ledger

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge"
)

// Options is what a Ledger is made of.
type Options struct {
	JetStream jetstream.JetStream
	// Publish stores one message and returns its sequence. It must not keep header or
	// data. Unclear tells which of its errors leave open whether it was stored.
	Publish func(ctx context.Context, subject string, header nats.Header, data []byte) (uint64, error)
	Unclear func(error) bool
	// NoRoom tells which errors of making a stream say that it is too large for the server.
	NoRoom func(error) bool
	// Target is what the subjects begin with that the ledger is written on, where its
	// stream is in another JetStream domain; see WriteIn.
	Target string
	// Existing says that somebody else makes the stream, and changes it.
	Existing  bool
	Prefix    string        // of all names, such as "bridge"
	Retention time.Duration // how long final records are kept
	Replicas  int
	MaxBytes  int64 // of the bucket; the first size that the server has room for is used
	Logger    *slog.Logger
	// Healthy says why nothing should be claimed for reasons outside the ledger; nil: always healthy.
	Healthy func() error
	// Failed is called for each write that failed or stayed unclear; nil: nobody counts.
	Failed func()
	// Now is the wall clock. Defaults to time.Now.
	Now func() time.Time
}

// Ledger implements bridge.Ledger.
type Ledger struct {
	o      Options
	bucket string
	stream jetstream.Stream
	id     string // which ledger this is, so that a lost one is noticed (R12)
	since  time.Time

	mu      sync.RWMutex
	sources map[string]Source

	unusable atomic.Pointer[string] // why nothing may be claimed; nil: it may
	failing  atomic.Bool            // the last write failed
	crowded  atomic.Bool            // over crowdedShare full
	hiding   atomic.Pointer[[]byte] // the key of Hide; nil: nobody has needed it yet
}

// Names that the ledger gives its entries beside the records, which are "<22 characters>.<22 characters>".
const (
	sourceToken = "source"
	batchToken  = "batch"
	probeToken  = "probe"
	markToken   = "suspect"
	idMetadata  = "bridge8x8-ledger"
	formatKey   = "bridge8x8-format"
	format      = "1"
	// fullShare is how full the bucket may be before nothing more is claimed (R13).
	fullShare = 0.9
	// crowdedShare is how full it may be before nothing new is remembered of what others
	// say: what anybody can post must not take the room that claims need.
	crowdedShare = 0.8
	// forgetShare is how much of the retention an event may have waited before it could have been forgotten (R12).
	forgetShare = 0.9
	opTimeout   = 5 * time.Second
	watchEvery  = 5 * time.Second
)

// StreamName is the backing stream of the ledger with a prefix.
func StreamName(prefix string) string { return "KV_" + strings.ToUpper(prefix) + "_LEDGER" }

// Open makes the ledger's bucket, or joins the one that is there.
func Open(ctx context.Context, o Options) (*Ledger, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Ledger{o: o, bucket: strings.ToUpper(o.Prefix) + "_LEDGER", sources: map[string]Source{}}
	name := StreamName(o.Prefix)
	st, err := o.JetStream.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) && !o.Existing {
		st, err = l.createStream(ctx, name)
	}
	if err != nil {
		return nil, fmt.Errorf("ledger stream %s: %w", name, err)
	}
	l.stream = st
	cfg := st.CachedInfo().Config
	if err := l.acceptable(ctx, cfg); err != nil {
		return nil, err
	}
	l.id, l.since = cfg.Metadata[idMetadata], st.CachedInfo().Created
	if l.id == "" { // somebody else's: one that is made anew is another one
		l.id = "made " + l.since.UTC().Format(time.RFC3339Nano)
	}
	if err := l.loadSources(ctx); err != nil {
		return nil, err
	}
	return l, l.watchOnce(ctx)
}

// StreamConfig is the backing stream of the ledger with a prefix, without what
// tells one ledger from another.
func StreamConfig(prefix string, replicas int, maxBytes int64) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: StreamName(prefix), Description: "bridge8x8: what was claimed and how it ended",
		Subjects: []string{"$KV." + strings.ToUpper(prefix) + "_LEDGER.>"}, MaxMsgsPerSubject: 1,
		Storage: jetstream.FileStorage, Replicas: max(1, replicas), Discard: jetstream.DiscardNew,
		AllowDirect: false, AllowMsgTTL: true, AllowRollup: true, DenyDelete: true,
		Duplicates: 2 * time.Minute, MaxBytes: maxBytes, Metadata: map[string]string{formatKey: format},
	}
}

func (l *Ledger) createStream(ctx context.Context, name string) (jetstream.Stream, error) {
	cfg := StreamConfig(l.o.Prefix, l.o.Replicas, l.o.MaxBytes)
	cfg.Metadata[idMetadata] = rand.Text()
	for {
		st, err := l.o.JetStream.CreateStream(ctx, cfg)
		switch {
		case err == nil:
			return st, nil
		case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse): // another replica was quicker, or made it differently
			return l.o.JetStream.Stream(ctx, name)
		case l.o.NoRoom(err) && cfg.MaxBytes > 64<<20:
			cfg.MaxBytes /= 2
		default:
			return nil, err
		}
	}
}

// acceptable refuses a stream that cannot keep the promises, and mends what can be mended.
func (l *Ledger) acceptable(ctx context.Context, cfg jetstream.StreamConfig) error {
	switch {
	case cfg.Metadata[formatKey] != "" && cfg.Metadata[formatKey] != format:
		return fmt.Errorf("ledger stream %s has format %q, and this bridge knows %q: run a newer bridge", cfg.Name, cfg.Metadata[formatKey], format)
	case cfg.MaxMsgsPerSubject != 1:
		return fmt.Errorf("ledger stream %s keeps %d revisions of a key, and the ledger needs 1: let the bridge make the stream", cfg.Name, cfg.MaxMsgsPerSubject)
	case cfg.MaxAge != 0 || cfg.Discard != jetstream.DiscardNew:
		return fmt.Errorf("ledger stream %s forgets by itself (max age %v, discard %v): let the bridge make the stream", cfg.Name, cfg.MaxAge, cfg.Discard)
	}
	if l.o.Existing || !cfg.AllowDirect && cfg.AllowMsgTTL && cfg.Metadata[idMetadata] != "" {
		return nil
	}
	cfg.AllowDirect, cfg.AllowMsgTTL = false, true
	if cfg.Metadata == nil {
		cfg.Metadata = map[string]string{}
	}
	cfg.Metadata[formatKey] = format
	if cfg.Metadata[idMetadata] == "" {
		cfg.Metadata[idMetadata] = rand.Text()
	}
	st, err := l.o.JetStream.UpdateStream(ctx, cfg)
	if err != nil {
		return fmt.Errorf("ledger stream %s: %w", cfg.Name, err)
	}
	l.stream = st
	return nil
}

// ID names this ledger; a new one has a new name.
func (l *Ledger) ID() string { return l.id }

// Since is when this ledger began.
func (l *Ledger) Since() time.Time { return l.since }

// WriteIn is the Target of a ledger in a JetStream domain. source: nats-server,
// which maps such subjects to those of the bucket, and lets no other pass a leaf node.
func WriteIn(domain string) string {
	if domain == "" {
		return ""
	}
	return "$JS." + domain + ".API."
}

func (l *Ledger) subject(key string) string { return "$KV." + l.bucket + "." + key }

// Put implements bridge.Ledger.
func (l *Ledger) Put(ctx context.Context, key bridge.Key, rec bridge.Record, rev uint64) (uint64, error) {
	if rec.State == bridge.UnknownSt {
		if err := l.noteUnknown(ctx, key); err != nil {
			return 0, err
		}
	}
	w := writes.Get().(*write)
	defer writes.Put(w)
	w.body = rec.AppendJSON(w.body[:0])
	ttl := time.Duration(0)
	if rec.Expires() {
		ttl = l.o.Retention
	}
	return l.put(ctx, w, string(key), w.body, rev, ttl)
}

// write is what one write needs, kept for the next one.
type write struct {
	body          []byte
	expected, ttl [1]string
	header        nats.Header
}

var writes = sync.Pool{New: func() any { return &write{header: make(nats.Header, 2)} }}

func (l *Ledger) put(ctx context.Context, w *write, key string, body []byte, rev uint64, ttl time.Duration) (uint64, error) {
	w.expected[0] = strconv.FormatUint(rev, 10)
	w.header[jetstream.ExpectedLastSubjSeqHeader] = w.expected[:]
	delete(w.header, jetstream.MsgTTLHeader)
	if ttl > 0 {
		w.ttl[0] = ttl.String()
		w.header[jetstream.MsgTTLHeader] = w.ttl[:]
	}
	seq, err := l.o.Publish(ctx, l.o.Target+l.subject(key), w.header, body)
	if err != nil {
		return 0, l.note(l.classify(err))
	}
	if l.failing.Load() {
		l.failing.Store(false)
	}
	return seq, nil
}

// note remembers that the ledger is in trouble, so that nothing is claimed
// until a write succeeds again (R13). A conflict is an answer, not trouble.
func (l *Ledger) note(err error) error {
	trouble := !errors.Is(err, bridge.ErrConflict)
	l.failing.Store(trouble)
	if trouble && l.o.Failed != nil {
		l.o.Failed()
	}
	return err
}

// classify tells a conflict, a write that nobody knows of, and one that did not happen.
func (l *Ledger) classify(err error) error {
	if conflict(err) {
		return bridge.ErrConflict
	}
	if l.o.Unclear(err) {
		return fmt.Errorf("%w: %w", bridge.ErrUnclear, err)
	}
	return fmt.Errorf("the ledger cannot be written: %w", err)
}

// conflict says whether a stream refused a write because of its expected
// revision. source: nats-server, error codes 10071, and 10164 on some replicated paths.
func conflict(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == 10164)
}

// Get implements bridge.Ledger.
func (l *Ledger) Get(ctx context.Context, key bridge.Key) (bridge.Entry, error) {
	return l.get(ctx, l.subject(string(key)))
}

func (l *Ledger) get(ctx context.Context, subject string) (bridge.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	m, err := l.stream.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return bridge.Entry{}, bridge.ErrNotFound
	}
	if err != nil {
		return bridge.Entry{}, fmt.Errorf("read the ledger: %w", err)
	}
	e := bridge.Entry{Key: bridge.Key(strings.TrimPrefix(m.Subject, l.subject(""))), Revision: m.Sequence, StoredAt: m.Time}
	if err := json.Unmarshal(m.Data, &e.Record); err != nil {
		return bridge.Entry{}, fmt.Errorf("the ledger's entry %s is no record: %w", e.Key, err)
	}
	return e, nil
}

// Event implements bridge.Ledger.
func (l *Ledger) Event(ctx context.Context, eventHash string) ([]bridge.Entry, error) {
	infoCtx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	info, err := l.stream.Info(infoCtx, jetstream.WithSubjectFilter(l.subject(eventHash+".*")))
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	entries := make([]bridge.Entry, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		e, err := l.get(ctx, subject)
		if errors.Is(err, bridge.ErrNotFound) {
			continue // expired between the two reads
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// Now implements bridge.Ledger.
func (l *Ledger) Now(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	info, err := l.stream.Info(ctx)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the ledger: %w", err)
	}
	return info.TimeStamp, nil
}

// Batch notes which key a 20-character batch reference stands for.
func (l *Ledger) Batch(ctx context.Context, ref string, key bridge.Key) error {
	w := writes.Get().(*write)
	defer writes.Put(w)
	_, err := l.put(ctx, w, batchToken+"."+ref, []byte(key), 0, l.o.Retention)
	return err
}

// ByBatch finds the record that a batch reference stands for. Error: bridge.ErrNotFound.
func (l *Ledger) ByBatch(ctx context.Context, ref string) (bridge.Entry, error) {
	if ref == "" || strings.ContainsAny(ref, ".*> \t") {
		return bridge.Entry{}, bridge.ErrNotFound
	}
	readCtx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	m, err := l.stream.GetLastMsgForSubject(readCtx, l.subject(batchToken+"."+ref))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return bridge.Entry{}, bridge.ErrNotFound
	}
	if err != nil {
		return bridge.Entry{}, fmt.Errorf("read the ledger: %w", err)
	}
	return l.Get(ctx, bridge.Key(m.Data))
}

// Usable implements bridge.Ledger.
func (l *Ledger) Usable() error {
	if why := l.unusable.Load(); why != nil {
		return errors.New(*why)
	}
	if l.failing.Load() {
		return errors.New("the last write to the ledger failed")
	}
	if l.o.Healthy != nil {
		return l.o.Healthy()
	}
	return nil
}

// Watch keeps an eye on the bucket's fullness and, while the last write
// failed, tries a write of its own, until ctx ends.
func (l *Ledger) Watch(ctx context.Context) {
	for {
		wait := watchEvery
		if l.failing.Load() {
			wait = time.Second
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		if l.failing.Load() {
			l.probe(ctx)
		}
		if err := l.watchOnce(ctx); err != nil && ctx.Err() == nil {
			l.o.Logger.Debug("cannot watch the ledger", "error", err)
		}
	}
}

func (l *Ledger) probe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	if _, err := l.o.JetStream.Publish(ctx, l.o.Target+l.subject(probeToken), nil); err == nil {
		l.failing.Store(false)
	}
}

func (l *Ledger) watchOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	info, err := l.stream.Info(ctx)
	if err != nil {
		return err
	}
	was := l.unusable.Load()
	limit := info.Config.MaxBytes
	l.crowded.Store(limit > 0 && float64(info.State.Bytes) > crowdedShare*float64(limit))
	if limit > 0 && float64(info.State.Bytes) > fullShare*float64(limit) {
		why := fmt.Sprintf("the ledger is over %d %% full (%d of %d bytes): raise the limit of stream %s, or lower BRIDGE_RETENTION",
			int(fullShare*100), info.State.Bytes, limit, info.Config.Name)
		if was == nil {
			l.o.Logger.Error("nothing more is claimed", "reason", why)
		}
		l.unusable.Store(&why)
		return nil
	}
	if was != nil {
		l.o.Logger.Info("the ledger has room again")
	}
	l.unusable.Store(nil)
	return nil
}
