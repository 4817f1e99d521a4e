package bridge

import (
	"context"
	"encoding/json"
	"time"
)

// Runner runs an action, once, and reads back what has been run.
type Runner interface {
	// Run sends one request. It never repeats it by itself, follows no redirect, and
	// does not start it after SendBy (rules R5, R8). The error is a *Failure.
	Run(ctx context.Context, r Request) (Reply, error)
	// RunLogs lists the runs of one connection that were logged since from, in any
	// order, and calls each for every one. It returns nil only if the listing was
	// complete: every page was read, and the cursor came to its end (rule R5).
	RunLogs(ctx context.Context, at Place, from time.Time, each func(RunLog)) error
	// Probe reads something harmless at the place, to learn whether runs there may be
	// tried again (rule R9). It has no effect.
	Probe(ctx context.Context, at Place) error
	// RunLog fetches one run by its actionRunId. found is false if there is no such log.
	RunLog(ctx context.Context, at Place, id string) (log RunLog, found bool, err error)
}

// Place is where a run happens: a connection of a tenant.
type Place struct {
	Tenant        string // Membrane tenant key; empty means the client's own
	ConnectionID  string // one of the two, or neither for the action's default
	ConnectionKey string
}

// Request is one try of one action.
type Request struct {
	Place
	ActionKey string // or ActionID
	ActionID  string
	// Inline says that the input is a request of 8x8's API itself, and no action's.
	Inline bool
	// OneCall: see catalog.Action.
	OneCall bool
	// ProxyForwards: see config.Route.
	ProxyForwards bool
	Input         map[string]any
	// Meta is stored by Membrane on the run log, and is how we know our own run again.
	Meta Meta
	// SendBy is the last moment at which the first byte may leave. It carries a
	// monotonic reading, and is looked at by both clocks.
	SendBy time.Time
}

// Meta is what we tell Membrane about a run.
type Meta struct {
	Bridge  string `json:"bridge"`  // the bridge's name
	Source  string `json:"source"`  // of the causing event, as received
	EventID string `json:"eventId"` // of the causing event, as received
	Route   string `json:"route"`
	Key     string `json:"key"` // the ledger key
	Try     string `json:"try"` // the claim's nonce
	Attempt int    `json:"attempt"`
}

// Reply is a run that came back with HTTP 200 and JSON. Whether its output is
// a yes is for the action's Check to say.
type Reply struct {
	RunID  string
	Output json.RawMessage
}

// RunLog is one run as Membrane remembers it.
type RunLog struct {
	ID        string
	Meta      Meta
	Succeeded bool
	Output    json.RawMessage // where it succeeded
	// Failure is why it did not, classified as Run would have done for an action that
	// makes several calls, and OneCallFailure for one that makes one. The log does not
	// say which it was: see FailureOf.
	Failure        *Failure
	OneCallFailure *Failure
	CreatedAt      time.Time
}

// FailureOf is why the run did not succeed. oneCall: see catalog.Action.
func (l RunLog) FailureOf(oneCall bool) *Failure {
	if oneCall && l.OneCallFailure != nil {
		return l.OneCallFailure
	}
	return l.Failure
}
