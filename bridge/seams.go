package bridge

import (
	"context"
	"errors"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
)

// Ledger is the memory of what was claimed and how it ended. It is the only
// authority: every decision is a compare-and-set on a revision (rule R1).
type Ledger interface {
	// Put stores rec under key if the newest revision is still rev (0: there is none),
	// and returns the new revision. A final record is given its time to live.
	// Errors: ErrConflict when another revision is there; ErrUnclear when nobody can
	// tell whether it was stored; anything else means that it was not.
	Put(ctx context.Context, key Key, rec Record, rev uint64) (uint64, error)
	// Get reads the newest record from the leader. Error: ErrNotFound.
	Get(ctx context.Context, key Key) (Entry, error)
	// Event reads all records of one event.
	Event(ctx context.Context, eventHash string) ([]Entry, error)
	// Batch notes which key a batch reference stands for; see BatchReference.
	Batch(ctx context.Context, ref string, key Key) error
	// NoteReceipt stores a receipt of a record's try beside the record; one that is
	// there stays, unless the new one says more: see Receipt.After (rule R15).
	NoteReceipt(ctx context.Context, key Key, try string, r Receipt) error
	// ReceiptOf reads the receipt of a try. Error: ErrNotFound.
	ReceiptOf(ctx context.Context, key Key, try string) (Receipt, error)
	// Unknowns lists the records that became unknown, or were about to, not longer ago
	// than evidence may still come, and for which Settled was not called (rule R6).
	Unknowns(ctx context.Context) ([]Key, error)
	// Settled takes a record off that list.
	Settled(ctx context.Context, key Key) error
	// Turn says whether it is this process's turn to do what many could: it is for one of
	// those that ask within the time every.
	Turn(ctx context.Context, what string, every time.Duration) (bool, error)
	// Mark marks a message as being examined, if its newest mark is still at rev (0: there
	// is none), and returns the mark's revision. A Mark without Times takes it away. id is
	// in the alphabet of keys. Errors are Put's (rule R14).
	Mark(ctx context.Context, id string, m Mark, rev uint64) (uint64, error)
	// Marked reads the newest mark and its revision; none is a Mark without Times.
	Marked(ctx context.Context, id string) (Mark, uint64, error)
	// Note reads what is remembered under a name, and its revision; nothing is revision 0.
	// A name begins with a word and goes on in the alphabet of keys.
	Note(ctx context.Context, name string) (body []byte, rev uint64, err error)
	// PutNote remembers it for as long as ttl (0: for the ledger's retention), if the newest
	// revision is still rev. Errors are Put's.
	PutNote(ctx context.Context, name string, body []byte, rev uint64, ttl time.Duration) (uint64, error)
	// Hide makes a part of a name of a text that must not show in one, such as a phone
	// number: the same for the same text and ledger.
	Hide(ctx context.Context, text string) (string, error)
	// Now is the server's time, the one by which StoredAt was stamped (rule R5).
	Now(ctx context.Context) (time.Time, error)
	// Usable says why nothing may be claimed right now, or nil (rule R13).
	Usable() error
	// Remembers says from when on the ledger knows of everything that a source
	// stored, and whether an event stored at that time could have been forgotten (rule R12).
	Remembers(source string, stored time.Time) bool
}

// Entry is a record as it was read.
type Entry struct {
	Key      Key
	Record   Record
	Revision uint64
	// StoredAt is the server's time of this revision.
	StoredAt time.Time
}

// The ledger's answers that are no failures.
var (
	ErrNotFound = errors.New("no such record")
	ErrConflict = errors.New("the record was changed by somebody else")
	ErrUnclear  = errors.New("nobody can tell whether the record was stored")
)

// Outbox is where outcomes go. Each call returns when the stream has stored it.
type Outbox interface {
	// Result publishes a result event under its id.
	Result(ctx context.Context, r Result) error
	// Dead stores a dead letter.
	Dead(ctx context.Context, l DeadLetter) error
	// Withdraw removes the dead letter of a pair whose outcome became known (rule R6).
	Withdraw(ctx context.Context, key Key, route string) error
	// Remove removes those of the dead letters, named by their sequences, that are about
	// the pair. Letters that are gone are none to remove (rule R11).
	Remove(ctx context.Context, key Key, letters []uint64) error
	// Held finds the event of a pair in its dead letter of reason outcome_unknown.
	// Error: ErrNotFound.
	Held(ctx context.Context, key Key, route string) (*Delivery, error)
	// SetAside copies one pair of the event in hand to BRIDGE_WAIT (rule R10).
	SetAside(ctx context.Context, d *Delivery, p Pair, key Key, connection string) error
}

// Result is a result event and where it belongs.
type Result struct {
	ID     string // of the event, and of the message
	Event  cloudevent.Written
	Action string
	State  State
}

// DeadLetter is an event that we gave up on, untouched, and our facts about it.
type DeadLetter struct {
	Original *Delivery
	Reason   Reason
	Message  string
	Key      Key    // "" for what is no CloudEvent
	ID       string // makes a repeated store of the same letter one letter
	Route    string // "" if none
	Record   *Record
	Cause    *Cause
}

// Delivery is one message in hand.
type Delivery struct {
	Source string // the configured name of where it came from
	Header map[string][]string
	Data   []byte
	Stream string
	Seq    uint64
	Stored time.Time // by the server's clock; for a pair set aside, of the original
	// Redelivered says that it was delivered before, to anybody.
	Redelivered bool
	// Deliveries is how often it was, this time included; 0 if nobody counts.
	Deliveries int
	// Pair is set where the message is one pair, set aside or replayed, not a whole event.
	Pair *Pair
	// Key is that of the pair's record, where the message says so.
	Key Key
	// Reply is where the result of a request is wanted; "" for all other events (rule R19).
	Reply string
	// Broken is why a pair set aside can never be read back; nil for all others.
	Broken error
	// Settle ends our having it. Exactly one of its methods is called, once.
	Settle Settler
}

// decision is what a person decided, where the message says so; else nil.
func (d *Delivery) decision() *Decision {
	if d.Pair == nil {
		return nil
	}
	return d.Pair.Decision
}

// Settler acknowledges a message or hands it back.
type Settler interface {
	Ack()
	// Nak hands it back, to come again after delay, or at once if delay is zero.
	Nak(delay time.Duration)
}

// Pair is one route's share of an event.
type Pair struct {
	Route  string `json:"route"` // identity
	Replay int    `json:"replay,omitempty"`
	// Decision is set on the message by which a person decided about a dead letter.
	Decision *Decision `json:"decision,omitempty"`
}

// Observer is told what happens, for metrics and logs. Its methods are called
// from many goroutines and must not block.
type Observer interface {
	Taken(source string)
	Unrouted(source string)
	// Ran is one request that ended, with its kind: "ok", or a Kind's name.
	Ran(route, action, kind string, took time.Duration)
	// Ended is one pair's outcome; reason is "" for a success. since is the time from
	// when the event was stored.
	Ended(route, action string, state State, reason Reason, since time.Duration)
	// Waits is a pair that was set aside.
	Waits(route string, why Reason)
	// Logged says whether Membrane shows the logs of our runs, when that is found out.
	Logged(kept bool)
	// Trouble is something the operator should see. what is stable, args are slog's.
	Trouble(what string, args ...any)
}
