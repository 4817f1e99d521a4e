// Package config reads what the operator wrote: where things are, from the
// environment (Env), and what happens, from one YAML file (File). Both are
// strict, both report every problem they find at once, and neither ever prints
// a secret.
package config

import (
	"time"
)

// Pos is a place in a configuration file. Line and Col count from 1; a zero
// Pos means "no place known" (for example a value that came from a default).
type Pos struct {
	File string
	Line int
	Col  int
}

// File is one bridge.yaml, decoded strictly and checked for everything that
// can be seen without knowing actions or compiling expressions.
type File struct {
	// Path is the file's name as the operator gave it.
	Path string
	// Streams says who makes the bridge's own streams.
	Streams     Streams
	Sources     []Source
	Webhooks    []Webhook
	Connections []Connection // in file order
	Routes      []Route
	// SecretFiles are the files that variables of the file were read from.
	SecretFiles []string
}

// Streams says who makes the bridge's streams and its ledger.
type Streams string

// The values of Streams.
const (
	StreamsMake     Streams = "make"     // the bridge, where they are missing (default)
	StreamsExisting Streams = "existing" // somebody else: the bridge looks at them, and changes nothing
)

// Source is a place on the bus, besides BRIDGE_EVENTS, that events are taken from.
type Source struct {
	Pos  Pos
	Name string
	NATS SourceNATS
}

// SourceNATS says where on NATS a source's events are.
type SourceNATS struct {
	// Stream is an existing JetStream stream. Empty for a core source.
	Stream string
	// Domain is the JetStream domain that Stream is in. Empty for the bridge's own.
	Domain string
	// Subjects filter the stream, or are subscribed to when Core is set.
	Subjects []string
	// Core takes plain NATS messages, with a queue group: at most once until stored.
	Core bool
	// Start says where a stream that neither the ledger nor a durable knows
	// begins: StartNew (default), StartAll, or StartTime with StartAt.
	Start   Start
	StartAt time.Time
}

// Start is where an existing stream begins when it is first taken from.
type Start string

// The values of Start.
const (
	StartNew  Start = "new"
	StartAll  Start = "all"
	StartTime Start = "time"
)

// Connection is a Membrane connection to 8x8, under the name that routes use.
type Connection struct {
	Pos  Pos
	Name string
	// ID or Key select it at Membrane; exactly one is set.
	ID  string
	Key string
	// Tenant is a Membrane tenant key, or a ${ } expression over the event; empty
	// means the tenant of the environment.
	Tenant Value
}

// Route maps events to one action.
type Route struct {
	Pos  Pos
	Name string
	// Formerly is the identity the route had before it was renamed; empty if never.
	Formerly string
	// On holds CloudEvents types: exact, or a prefix that ends in ".*" or is "*".
	On []Typed
	// Filters are CloudEvents Subscriptions filters, all of which must hold. Each
	// is the untyped tree; package handlers compiles them.
	Filters []Value
	// Run names the action by Key or by ID; exactly one is set.
	RunKey string
	RunID  string
	RunPos Pos
	// Request is a request of 8x8's own API instead of an action; nil if there is none.
	Request *Request
	// Connection is the name of an entry of File.Connections; empty means MEMBRANE_CONNECTION.
	Connection    string
	ConnectionPos Pos
	// Input is the tree whose strings may hold ${ jq }.
	Input Value
	// TTL ends a wait; zero means none.
	TTL       time.Duration
	Retry     Retry
	OnUnknown OnUnknown
	// ProxyForwards says that a proxy stands before Membrane which may pass a request
	// on and then answer 503 itself, so that a 503 proves nothing.
	ProxyForwards bool
	// Replies ties inbound messages to the last one that was sent to their number.
	Replies    bool
	RepliesPos Pos
	AtMost     AtMost
	// Then is what the route waits for once its action has run; nil for nothing.
	Then *Then
	// Result shapes the events of successes, ResultFailed those of failures; nil
	// leaves them as they are.
	Result, ResultFailed *ResultShape
	Tests                []RouteTest
}

// ResultShape is what a result event gets in place of what it has: texts and a
// tree that may hold ${ jq }. A part of KindNone stays as it is.
type ResultShape struct {
	Pos                 Pos
	Type, Subject, Data Value
}

// AtMost is how often a route may run. Times is zero if it says nothing.
type AtMost struct {
	// Per is a ${ jq } expression for what is counted by itself; empty: all events are
	// counted together.
	Per   Value
	Times int
	Every time.Duration
}

// Then is a route's follow-up: what must come about before the work that an
// action began is done.
type Then struct {
	Pos Pos
	// RunKey or RunID name the action that is polled. With neither, a delivery receipt
	// is awaited.
	RunKey string
	RunID  string
	RunPos Pos
	// Input is the polled action's, over the event and $output.
	Input Value
	// Until is the condition that ends it well, an expression over the answer, or the
	// state that a receipt must report.
	Until Value
	// Fails is the condition that ends it badly; KindNone if there is none.
	Fails Value
	// Initial and Max are the pauses between two polls: the first, and the longest.
	Initial  time.Duration
	Max      time.Duration
	Deadline time.Duration
}

// Typed is a string with its place.
type Typed struct {
	Pos   Pos
	Value string
}

// Retry is a route's schedule of attempts.
type Retry struct {
	Attempts int           // default 8
	Initial  time.Duration // default 1s
	Max      time.Duration // default 5m
}

// OnUnknown is what happens to a run whose outcome nobody can tell.
type OnUnknown string

// The values of OnUnknown.
const (
	OnUnknownHold  OnUnknown = "hold"
	OnUnknownRetry OnUnknown = "retry"
)

// RouteTest is a case in the file itself: an event and the input it must give.
type RouteTest struct {
	Pos   Pos
	Name  string
	Event map[string]any // a CloudEvent in the JSON format, without specversion if that is 1.0
	// Input is the expected action input; nil when NoMatch.
	Input   map[string]any
	NoMatch bool
}

// Value is a YAML tree that remembers where each part stood.
// Exactly one of Map, List, Scalar is meaningful, told by Kind.
type Value struct {
	Pos    Pos
	Kind   Kind
	Scalar any // nil, bool, string, int, float64, json.Number
	Map    []Entry
	List   []Value
}

// Entry is one key of a mapping, in file order.
type Entry struct {
	Pos   Pos // of the key
	Key   string
	Value Value
}

// Kind tells what a Value is.
type Kind int

// The kinds of Value. KindNone is the zero Value: the key was absent.
const (
	KindNone Kind = iota
	KindScalar
	KindMap
	KindList
)
