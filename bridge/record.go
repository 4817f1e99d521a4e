package bridge

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// State is where a pair's record stands (rule R4).
//
//	          claim (create)                 a definite answer, or an outcome without a run
//	(none) ──────────────────▶ running ────────────────────────────────▶ succeeded | failed
//	   │                       ▲     │ │                                        ▲
//	   │        claim (CAS)    │     │ │ silence after the last moment          │ evidence (R6)
//	   │   ┌───────────────────┘     │ └─────────────────────▶ unknown ─────────┘
//	   │   │                         │ proven not to have happened
//	   └▶ waiting ◀──────────────────┘
//
// A delivery receipt of the record's try ends it from waiting too (R15). Where the
// route waits for what is to come of a success, the record is following before it
// is succeeded or failed.
//
// A worker moves a record by compare-and-set on the revision it read, and never
// deletes one. Only succeeded and failed records expire, and unknown ones that a
// person has decided about.
type State string

// The states.
const (
	Waiting   State = "waiting"   // nothing has left; not before NotBefore; kept until it ends
	Running   State = "running"   // a request may have left; kept until it ends
	Following State = "following" // it happened, and what the route awaits has not yet; kept until it ends
	Succeeded State = "succeeded" // it happened; kept for the ledger's retention
	Failed    State = "failed"    // it did not happen, and will not; kept for the ledger's retention
	UnknownSt State = "unknown"   // nobody can tell; kept until evidence or a person ends it
)

// Expires says whether the record is kept for the ledger's retention only.
func (r *Record) Expires() bool { return r.State.Final() || r.Decided }

// happened says whether the record knows how its run ended.
func (r *Record) happened() bool { return r.State.Final() || r.State == Following }

// Final says whether nothing but time ends a record in this state.
func (s State) Final() bool { return s == Succeeded || s == Failed }

// newerDelay is after which time comes again what is left to a newer bridge.
const newerDelay = 5 * time.Second

// ErrNewer says that something was written by a newer bridge, and is left to one.
var ErrNewer = errors.New("a newer bridge8x8 wrote it, and it is left to one")

// The versions of the record's format. A bridge that meets a newer one than it
// knows leaves the pair alone. A record has the least version that can say what it
// says, so that older bridges go on with all that they understand.
const (
	plainVersion  = 1 + ahead
	followVersion = 2 + ahead // Follow
	recordVersion = followVersion
)

// Format is the version of everything else that bridges leave for each other in
// NATS: receipts and marks in the ledger, pairs set aside, dead letters. What is
// newer than a bridge knows it leaves alone; what is older it reads.
const Format = 1 + ahead

// Record is what the ledger knows of one pair of event and route.
type Record struct {
	Version int   `json:"v"`
	State   State `json:"state"`
	// Content is a hash of the event's type, subject and data (rule R2).
	Content string `json:"content"`
	// Cause is the event, without its data.
	Cause Cause `json:"cause"`
	// Route is this pair's route identity, Replay which replay of it this is.
	Route  string `json:"route"`
	Replay int    `json:"replay,omitempty"`
	// Routes are all the routes that matched the event when it was first claimed (rule R2).
	Routes []Frozen `json:"routes"`
	// Try is the nonce of the newest claim (rule R3).
	Try       string    `json:"try,omitempty"`
	Attempts  int       `json:"attempts,omitempty"`
	ClaimedAt time.Time `json:"claimedAt,omitzero"`
	// NotBefore is when a waiting record may be claimed again, and Why what it waits for.
	NotBefore time.Time `json:"notBefore,omitzero"`
	Why       Reason    `json:"why,omitempty"`
	// Unclear counts the runs that on_unknown: retry repeated (rule R17).
	Unclear int `json:"unclear,omitempty"`

	// The outcome.
	ConcludedAt     time.Time       `json:"concludedAt,omitzero"`
	RunID           string          `json:"actionRunId,omitempty"`
	DurationMs      int64           `json:"durationMs,omitempty"`
	Output          json.RawMessage `json:"output,omitempty"`
	OutputTruncated bool            `json:"outputTruncated,omitempty"`
	SMS             *catalog.SMS    `json:"sms,omitempty"`
	Reason          Reason          `json:"reason,omitempty"`
	Message         string          `json:"message,omitempty"`
	Details         map[string]any  `json:"details,omitempty"`
	// Shape is how the result event looks, where its route says so. It is made once,
	// with the outcome: a result that is published again is the same event, whatever
	// the configuration says by then, and whether or not the cause is still at hand.
	Shape *Shape `json:"shape,omitempty"`
	// Follow is what came of a success; nil where nothing is awaited.
	Follow *Follow `json:"follow,omitempty"`
	// Overturned says that the record was unknown before: a dead letter has to go (rule R6).
	Overturned bool `json:"overturned,omitempty"`
	// Decided says that a person answered the dead letter of an unknown outcome:
	// evidence still counts, but the record is kept for the retention only (rule R11).
	Decided bool `json:"decided,omitempty"`
	// Published says that the result went out a second time (rule R18).
	Published bool `json:"published,omitempty"`
}

// Shape is what a result event has in place of the standard; what is empty stays.
type Shape struct {
	Type    string          `json:"type,omitempty"`
	Subject string          `json:"subject,omitempty"`
	Data    json.RawMessage `json:"data,omitempty"`
	// Failed is why there is none although the route wants one.
	Failed string `json:"failed,omitempty"`
}

// Cause is the event that a record, a result and a dead letter are about.
type Cause struct {
	Source  string    `json:"source"`
	ID      string    `json:"id"`
	Type    string    `json:"type"`
	Subject string    `json:"subject,omitempty"`
	Time    time.Time `json:"time,omitzero"`

	CorrelationID string `json:"correlationid,omitempty"`
	TraceParent   string `json:"traceparent,omitempty"`
	TraceState    string `json:"tracestate,omitempty"`
	PartitionKey  string `json:"partitionkey,omitempty"`
}

func (c *Cause) size() int {
	return len(c.Source) + len(c.ID) + len(c.Type) + len(c.Subject) + len(c.CorrelationID) + len(c.TraceParent) + len(c.TraceState) + len(c.PartitionKey)
}

// Frozen is a route as it was when it matched.
type Frozen struct {
	Route      string `json:"route"`          // its identity
	Name       string `json:"name,omitempty"` // its name, where that is another
	Action     string `json:"action"`
	Connection string `json:"connection,omitempty"` // its name in the configuration
	ConnID     string `json:"connectionId,omitempty"`
	ConnKey    string `json:"connectionKey,omitempty"`
	Tenant     string `json:"tenant,omitempty"`
	OneCall    bool   `json:"oneCall,omitempty"`
	Call       string `json:"call,omitempty"` // of an inline request: which one
}

// Place is where the frozen route runs.
func (f Frozen) Place() Place {
	return Place{Tenant: f.Tenant, ConnectionID: f.ConnID, ConnectionKey: f.ConnKey}
}

// frozen finds the record's own route in its list.
func (r *Record) frozen() Frozen {
	for _, f := range r.Routes {
		if f.Route == r.Route {
			return f
		}
	}
	return Frozen{Route: r.Route}
}

// Key names a pair's record: "<hash(source, id)>.<hash(route, replay)>" (rule R2).
type Key string

// EventHash is the first half of every key of an event. source and id are the
// attributes exactly as received.
func EventHash(source, id string) string { return hash(source, id) }

// NewKey makes the key of one pair.
func NewKey(eventHash, route string, replay int) Key {
	return Key(eventHash + "." + hash(route, strconv.Itoa(replay)))
}

// Event is the half of the key that all pairs of one event share.
func (k Key) Event() string {
	e, _, _ := strings.Cut(string(k), ".")
	return e
}

// contentHash is the hash of what an identity stands for: type, subject and data.
func contentHash(e *cloudevent.Event) string {
	b := hashBuffers.Get().(*[]byte)
	defer keep(b)
	*b = part(part(part((*b)[:0], e.Type()), e.Subject()), e.DataEncoded)
	return digest(*b)
}

// hash is 128 bits of SHA-256 over the parts, in the alphabet that KV keys allow.
func hash(parts ...string) string {
	b := hashBuffers.Get().(*[]byte)
	defer keep(b)
	*b = (*b)[:0]
	for _, p := range parts {
		*b = part(*b, p)
	}
	return digest(*b)
}

var hashBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// keep gives a buffer back, unless a large event has made it large.
func keep(b *[]byte) {
	if cap(*b) <= 64<<10 {
		hashBuffers.Put(b)
	}
}

// part appends one part with its length in front, so that ("a", "bc") and
// ("ab", "c") differ.
func part[T string | []byte](b []byte, p T) []byte {
	b = strconv.AppendInt(b, int64(len(p)), 10)
	b = append(b, ':')
	return append(b, p...)
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// newTry draws the nonce of a claim: 72 random bits, 12 characters.
func newTry() string {
	var b [9]byte
	_, _ = rand.Read(b[:]) // never fails: see crypto/rand
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Reference is what we give 8x8 as clientMessageId: it leads from a delivery
// receipt back to the key and the try, without an index (rules R3, R15).
func Reference(k Key, try string) string { return string(k) + "." + try }

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_." // of references

// ParseReference undoes Reference. ok is false for a reference that is not ours.
func ParseReference(ref string) (k Key, try string, ok bool) {
	ref, _, _ = strings.Cut(ref, "#") // "#n" is the place in a batch
	const keyLen, tryLen = 22 + 1 + 22, 12
	if len(ref) != keyLen+1+tryLen || ref[22] != '.' || ref[keyLen] != '.' || strings.Count(ref, ".") != 2 ||
		strings.Trim(ref, alphabet) != "" { // a key becomes a subject: no wildcards
		return "", "", false
	}
	return Key(ref[:keyLen]), ref[keyLen+1:], true
}

// BatchReference is the reference in the 20 characters that clientBatchId takes.
func BatchReference(k Key, try string) string { return hash(string(k), try)[:20] }

func newCause(e *cloudevent.Event) Cause {
	c := Cause{Source: e.RawSource, ID: e.RawID, Type: e.Type(), Subject: e.Subject(), Time: e.Time()}
	ext := e.Extensions()
	str := func(name string) string {
		s, _ := ext[name].(string)
		return s
	}
	c.CorrelationID, c.TraceParent, c.TraceState, c.PartitionKey =
		str("correlationid"), str("traceparent"), str("tracestate"), str("partitionkey")
	return c
}
