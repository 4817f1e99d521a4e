package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// world is what several bridges share, in memory and with a clock of its own
// (testing/synctest): a ledger with compare-and-set, streams, and a service
// that counts its effects.
type world struct {
	t  *testing.T
	mu sync.Mutex

	seq     uint64
	records map[Key]Entry
	late    []write // on their way to the ledger

	results map[string][]State // by result id, one for each time that it was published
	dead    map[string]letter  // by letter id
	aside   map[Key]*message
	queue   chan *message
	pending int // messages that are not acknowledged

	marks map[string]marked
	notes map[string]note

	effects map[Key]int
	logs    []shownLog

	receipts map[string]Receipt // by reference
	unknowns map[Key]bool       // that evidence is looked for
	turns    map[string]time.Time
	listings int // of run logs
}

type write struct {
	key Key
	rec Record
	rev uint64
}

type letter struct {
	key    Key
	reason Reason
	seq    uint64
	of     *Delivery
}

type shownLog struct {
	log RunLog
	at  Place
	by  time.Time // not to be seen before
}

// message is one message of a stream, delivered until it is acknowledged.
type message struct {
	d     Delivery
	times int
	acked bool
}

func newWorld(t *testing.T) *world {
	return &world{
		t: t, records: map[Key]Entry{}, results: map[string][]State{}, dead: map[string]letter{}, aside: map[Key]*message{},
		marks: map[string]marked{}, notes: map[string]note{}, queue: make(chan *message, 10_000), effects: map[Key]int{},
		receipts: map[string]Receipt{}, unknowns: map[Key]bool{}, turns: map[string]time.Time{},
	}
}

// publish puts a message into the stream.
func (w *world) publish(d Delivery) *message {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seq++
	d.Stream, d.Seq = "EVENTS", w.seq
	if d.Stored.IsZero() {
		d.Stored = time.Now()
	}
	m := &message{d: d}
	w.pending++
	w.queue <- m
	return m
}

func orderEvent(id, phone string) Delivery {
	return Delivery{Source: "events", Data: fmt.Appendf(nil, `{"specversion":"1.0","id":%q,"source":"/shop","type":"com.acme.order.shipped","data":{"phone":%q}}`, id, phone)}
}

func (w *world) record(k Key) Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.records[k].Record
}

// put is the leader's compare-and-set.
func (w *world) put(p write) (uint64, error) {
	if w.records[p.key].Revision != p.rev {
		return 0, ErrConflict
	}
	w.seq++
	var rec Record
	if err := json.Unmarshal(p.rec.AppendJSON(nil), &rec); err != nil {
		w.t.Errorf("a record cannot be read back: %v", err)
	}
	if was := w.records[p.key].Record; was.State.Final() && (was.State != rec.State || was.Try != rec.Try) {
		w.t.Errorf("%s: a final record changed from %s to %s", p.key, was.State, rec.State)
	}
	w.records[p.key] = Entry{Key: p.key, Record: rec, Revision: w.seq, StoredAt: time.Now()}
	return w.seq, nil
}

// arrive stores the writes that were on their way, if they still fit.
func (w *world) arrive() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.late {
		_, _ = w.put(p)
	}
	w.late = nil
}

// seams is one process's way to the world. What its functions leave nil goes well.
type seams struct {
	*world
	// fate says what becomes of a write.
	fate func(write) writeFate
	// get fails a read.
	get func(Key) error
	// run answers a run.
	run func(Request) (Reply, error)
	// withdraw fails withdrawals.
	withdraw func() error
	// note fails what is stored beside the records, or read there.
	note func() error
	// store fails what is to be stored in a stream.
	store func() error
	// list fails a listing of run logs, or holds it up.
	list     func() error
	forgets  time.Duration // how long the ledger remembers; 0: for ever
	ended    []State
	panics   int
	mayPanic bool
	kept     []bool // what was said of run logs
}

type writeFate int

const (
	stored       writeFate = iota
	storedUnsaid           // stored, and nobody says so
	lost                   // nobody says anything
	late                   // stored later
	refused                // not stored, and said so
)

var errRefused = errors.New("refused")

func (s *seams) Put(_ context.Context, key Key, rec Record, rev uint64) (uint64, error) {
	p := write{key, rec, rev}
	what := stored
	if s.fate != nil {
		what = s.fate(p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if rec.State == UnknownSt {
		s.unknowns[key] = true // before the record, as the real one does
	}
	switch what {
	case refused:
		return 0, errRefused
	case late:
		s.late = append(s.late, p)
		return 0, ErrUnclear
	case lost:
		return 0, ErrUnclear
	}
	seq, err := s.put(p)
	if what == storedUnsaid {
		return 0, ErrUnclear
	}
	return seq, err
}

func (s *seams) Get(_ context.Context, key Key) (Entry, error) {
	if s.get != nil {
		if err := s.get(key); err != nil {
			return Entry{}, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.records[key]; ok {
		return e, nil
	}
	return Entry{}, ErrNotFound
}

func (s *seams) Event(_ context.Context, eventHash string) ([]Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var entries []Entry
	for k, e := range s.records {
		if k.Event() == eventHash {
			entries = append(entries, e)
		}
	}
	return entries, nil
}

type marked struct {
	mark Mark
	rev  uint64
}

func (s *seams) Mark(_ context.Context, id string, m Mark, rev uint64) (uint64, error) {
	what := stored
	if s.fate != nil {
		what = s.fate(write{})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if what == refused {
		return 0, errRefused
	}
	if what == lost || what == late {
		return 0, ErrUnclear
	}
	if s.marks[id].rev != rev {
		return 0, ErrConflict
	}
	s.seq++
	s.marks[id] = marked{m, s.seq}
	if what == storedUnsaid {
		return 0, ErrUnclear
	}
	return s.seq, nil
}

func (s *seams) Marked(_ context.Context, id string) (Mark, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.marks[id].mark, s.marks[id].rev, nil
}

func (s *seams) Note(_ context.Context, name string) ([]byte, uint64, error) {
	if s.note != nil {
		if err := s.note(); err != nil {
			return nil, 0, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.noteNow(name)
	return n.body, n.rev, nil
}

func (s *seams) PutNote(_ context.Context, name string, body []byte, rev uint64, ttl time.Duration) (uint64, error) {
	if s.note != nil {
		if err := s.note(); err != nil {
			return 0, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.noteNow(name).rev != rev {
		return 0, ErrConflict
	}
	s.seq++
	n := note{body: body, rev: s.seq}
	if ttl > 0 {
		n.until = time.Now().Add(ttl)
	}
	s.notes[name] = n
	return s.seq, nil
}

// noteNow is a note unless its time has run out. w.mu is held.
func (w *world) noteNow(name string) note {
	if n := w.notes[name]; n.until.IsZero() || n.until.After(time.Now()) {
		return n
	}
	return note{}
}

func (s *seams) Hide(_ context.Context, text string) (string, error) {
	return hash("hidden", text), nil
}

// note is something remembered beside the records.
type note struct {
	body  []byte
	rev   uint64
	until time.Time
}

func (s *seams) Batch(context.Context, string, Key) error { return nil }
func (s *seams) Now(context.Context) (time.Time, error)   { return time.Now(), nil }
func (s *seams) Usable() error                            { return nil }
func (s *seams) Remembers(_ string, at time.Time) bool {
	return s.forgets == 0 || time.Since(at) < s.forgets
}
func (s *seams) Taken(string)                              {}
func (s *seams) Unrouted(string)                           {}
func (s *seams) Ran(string, string, string, time.Duration) {}
func (s *seams) Waits(string, Reason)                      {}
func (s *seams) Probe(context.Context, Place) error        { return nil }
func (s *seams) Logged(kept bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = append(s.kept, kept)
}

func (s *seams) Trouble(what string, args ...any) {
	if what == "panic while handling an event" {
		s.mu.TryLock() // whoever panicked may hold it
		s.panics++
		s.mu.Unlock()
		if !s.mayPanic {
			s.t.Error(what, args)
		}
	}
}

func (s *seams) Ended(_, _ string, st State, _ Reason, _ time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = append(s.ended, st)
}

func (s *seams) Result(_ context.Context, r Result) error {
	if s.store != nil {
		if err := s.store(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.results[r.ID] = append(s.results[r.ID], r.State)
	return nil
}

func (s *seams) Dead(_ context.Context, l DeadLetter) error {
	if s.store != nil {
		if err := s.store(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, stored := s.dead[l.ID]; !stored {
		s.seq++
		s.dead[l.ID] = letter{l.Key, l.Reason, s.seq, l.Original}
	}
	return nil
}

func (s *seams) Withdraw(_ context.Context, key Key, _ string) error {
	if s.withdraw != nil {
		if err := s.withdraw(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.dead, func(_ string, l letter) bool { return l.key == key && l.reason == ReasonOutcomeUnknown })
	return nil
}

func (s *seams) Remove(_ context.Context, key Key, letters []uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.dead, func(_ string, l letter) bool { return l.key == key && slices.Contains(letters, l.seq) })
	return nil
}

func (s *seams) SetAside(_ context.Context, d *Delivery, p Pair, key Key, _ string) error {
	if s.store != nil {
		if err := s.store(); err != nil {
			return err
		}
	}
	c := *d
	c.Pair, c.Key, c.Redelivered, c.Settle = &p, key, false, nil
	m := s.world.publish(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	if was := s.aside[key]; was != nil && !was.acked { // one message for each subject
		was.acked = true
		s.pending--
	}
	s.aside[key] = m
	return nil
}

func (s *seams) Run(_ context.Context, r Request) (Reply, error) { return s.run(r) }

func (s *seams) RunLogs(_ context.Context, at Place, from time.Time, each func(RunLog)) error {
	if s.list != nil {
		if err := s.list(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	shown := slices.Clone(s.logs)
	s.listings++
	s.mu.Unlock()
	for _, l := range shown {
		if l.at == at && !l.log.CreatedAt.Before(from) && !l.by.After(time.Now()) {
			each(l.log)
		}
	}
	return nil
}

func (s *seams) RunLog(_ context.Context, _ Place, id string) (RunLog, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.logs {
		if l.log.ID == id && !l.by.After(time.Now()) {
			return l.log, true, nil
		}
	}
	return RunLog{}, false, nil
}

// happen is the effect of a request, and its log, which shows after a while.
func (s *seams) happen(r Request, shows time.Duration) Reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.effects[Key(r.Meta.Key)]++
	reply := Reply{RunID: "run-" + r.Meta.Try, Output: json.RawMessage(`{"umid":"0f3c","status":{"code":"QUEUED"}}`)}
	s.logs = append(s.logs, shownLog{at: r.Place, by: time.Now().Add(shows), log: RunLog{
		ID: reply.RunID, Meta: r.Meta, Succeeded: true, Output: reply.Output, CreatedAt: time.Now(),
	}})
	return reply
}

const oneRoute = `connections:
  main: {key: 8x8-main}
  other: {key: 8x8-other}
routes:
  - name: r
    on: com.acme.order.shipped
    run: send-sms
    connection: main
    input: {destination: "${ .data.phone }", text: hello}
`

func tableOf(t *testing.T, text string) *handlers.Table {
	t.Helper()
	f, problems := config.Parse("bridge.yaml", []byte(text), func(string) (string, bool) { return "", false })
	if problems.Errors() {
		t.Fatal(problems)
	}
	table, problems := handlers.Compile(f, catalog.Builtin(), handlers.Options{})
	if problems.Errors() {
		t.Fatal(problems)
	}
	return table
}

// newBridge makes a bridge whose every seam is s.
func newBridge(t *testing.T, s *seams, routes string, concurrency int) *Bridge {
	t.Helper()
	b, err := New(Options{Name: "b", Ledger: s, Outbox: s, Runner: s, Catalog: catalog.Builtin(), Observer: s, Concurrency: concurrency})
	if err != nil {
		t.Fatal(err)
	}
	b.SetTable(tableOf(t, routes))
	return b
}

// settled is what became of one delivery.
type settled struct {
	acks, naks int
	delay      time.Duration
}

func (s *settled) Ack()                    { s.acks++ }
func (s *settled) Nak(delay time.Duration) { s.naks++; s.delay = delay }

// deliver hands d to b once, and waits until b is through with it.
func deliver(t *testing.T, b *Bridge, d Delivery) *settled {
	t.Helper()
	s := &settled{}
	d.Settle, d.Stream, d.Stored = s, "EVENTS", time.Now()
	b.Handle(t.Context(), &d)
	return s
}

func keyOf(id, route string) Key { return NewKey(EventHash("/shop", id), route, 0) }

// lookThrough looks at each place and waits until that is done.
func (r *reconciler) lookThrough(ctx context.Context) {
	r.look(ctx)
	r.looks.Wait()
}
