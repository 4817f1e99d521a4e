package bridge

import (
	"errors"
	"fmt"
	"time"
)

// Reason is why a pair did not succeed. The list is closed; it is a metric
// label, part of a dead letter's subject and a field of a result.
type Reason string

// The reasons.
const (
	ReasonMalformed         Reason = "malformed"          // not a CloudEvent
	ReasonIDReused          Reason = "id_reused"          // the same source and id with other content
	ReasonMapping           Reason = "mapping"            // an expression failed on this event
	ReasonInvalidInput      Reason = "invalid_input"      // the input breaks the action's schema, or the service says so
	ReasonRejected          Reason = "rejected"           // 8x8 answered, and said no
	ReasonExpired           Reason = "expired"            // ttl or expirytime ran out while it waited
	ReasonAttemptsExhausted Reason = "attempts_exhausted" // the route's attempts are used up
	ReasonOutcomeUnknown    Reason = "outcome_unknown"    // nobody can tell whether it happened
	ReasonRouteRemoved      Reason = "route_removed"      // its route left the configuration while it waited
	ReasonUnledgered        Reason = "unledgered"         // older than the ledger's memory: may have been sent before
	ReasonUnauthorized      Reason = "unauthorized"       // the service refuses our credentials or rights
	ReasonActionMissing     Reason = "action_missing"     // the service does not know the action
	ReasonNotReady          Reason = "not_ready"          // the connection or action needs a person
	ReasonFollowUpFailed    Reason = "follow_up_failed"   // what had to be awaited did not come about
	ReasonDiscarded         Reason = "discarded"          // a person gave up on it
)

// WhyBusy is why a pair was set aside that waits for its connection's other
// runs (rule R10). No outcome has it.
const WhyBusy Reason = "busy"

// WhyFollowing is why a pair was set aside whose action has run, and which waits
// for what is to come of it. No outcome has it.
const WhyFollowing Reason = "following"

// Reasons is every reason, in the order of the list above.
var Reasons = []Reason{
	ReasonMalformed, ReasonIDReused, ReasonMapping, ReasonInvalidInput, ReasonRejected, ReasonExpired,
	ReasonAttemptsExhausted, ReasonOutcomeUnknown, ReasonRouteRemoved, ReasonUnledgered, ReasonUnauthorized,
	ReasonActionMissing, ReasonNotReady, ReasonFollowUpFailed, ReasonDiscarded,
}

// Kind says what a failed run means for its event.
type Kind int

// The kinds of Failure (rule R8).
const (
	// Unknown: it may have had an effect. Never repeated; settled by evidence.
	Unknown Kind = iota
	// Outage: it certainly did not happen, for reasons that have nothing to do with
	// this event (refused connection, 429, 503). It waits, and no attempt is counted.
	Outage
	// Blocked: it certainly did not happen, and will not until somebody mends the
	// route, the connection or the rights. It waits, and no attempt is counted.
	Blocked
	// Temporary: it certainly did not happen, and the answer was about this event,
	// but another attempt may go better. An attempt is counted.
	Temporary
	// Permanent: a definite no about this event.
	Permanent
)

func (k Kind) String() string {
	switch k {
	case Outage:
		return "outage"
	case Blocked:
		return "blocked"
	case Temporary:
		return "temporary"
	case Permanent:
		return "permanent"
	default:
		return "unknown"
	}
}

// Failure is what a Runner returns when a run did not succeed. Message and
// Details are shown to people and put into results: they hold no phone number,
// text or secret.
type Failure struct {
	Kind    Kind
	Reason  Reason
	Message string
	// RetryAfter is how long the service asked to wait; zero if it did not say.
	RetryAfter time.Duration
	// RunID is Membrane's actionRunId, where the answer had one.
	RunID   string
	Details map[string]any

	late bool
}

func (f *Failure) Error() string {
	if f.Reason == "" {
		return f.Kind.String() + ": " + f.Message
	}
	return fmt.Sprintf("%s (%s): %s", f.Kind, f.Reason, f.Message)
}

// TooLate is the Failure of a request that was not begun because its send-by
// had passed (rule R5).
func TooLate() *Failure {
	return &Failure{Kind: Outage, Message: "send-by passed before the request could be written", late: true}
}

func (f *Failure) tooLate() bool { return f != nil && f.late }

// AsFailure finds the Failure in err. An error that is none is Unknown: what
// nobody classified may have had an effect.
func AsFailure(err error) *Failure {
	if err == nil {
		return nil
	}
	if f, ok := errors.AsType[*Failure](err); ok {
		return f
	}
	return &Failure{Kind: Unknown, Reason: ReasonOutcomeUnknown, Message: "the run ended with an error that says nothing about its effect"}
}
