// Package catalog knows what can be run: each action's key, its input and
// output schemas, whether repeating it is safe, which input field carries the
// bridge's own reference, and whether an HTTP 200 was a yes.
//
// Actions are data in one list (builtin.go) and two schema files each
// (schema/<key>.input.json, schema/<key>.output.json).
package catalog

import (
	"encoding/json"
	"time"
)

// Action is one thing that can be run at 8x8 through Membrane.
type Action struct {
	// Key is Membrane's action key, such as "send-sms".
	Key string
	// ID is set instead of Key for an action that has no key.
	ID          string
	Name        string
	Description string
	Input       *Schema
	Output      *Schema
	// Safe says that running it twice has the effect of running it once.
	Safe bool
	// OneCall says that the action makes one call to 8x8, so that a refusal wrapped
	// in an action_run error means that nothing happened.
	OneCall bool
	// Gap is the least time between two calls that 8x8 allows; zero if it says nothing
	// that a bridge could come near.
	Gap time.Duration
	// Reference is the input field that carries our reference to 8x8 and back.
	Reference Reference
	// Check reads the output of an HTTP 200 (nil: every 200 with JSON is a success).
	Check func(output json.RawMessage) Verdict
	// Normalize fixes what can be fixed in an input (phone numbers to E.164, nulls
	// left out) and refuses what cannot be right with an *InputError. It may change
	// the map it is given, but nothing below it. It and Input.Validate may be
	// called in either order: each leaves to the other what is the other's. nil:
	// nothing to do.
	Normalize func(input map[string]any) error
	// Measure counts the parts of the text messages in an input; nil where there are none.
	Measure func(input map[string]any) *SMS
}

// Reference names the input field that carries our reference.
type Reference string

// The reference fields: clientMessageId takes up to 350 characters, clientBatchId 20.
// source: 8x8 sms_api.json.
const (
	NoReference     Reference = ""
	ClientMessageID Reference = "clientMessageId"
	ClientBatchID   Reference = "clientBatchId"
)

// Max is how many characters the field takes; 0 if there is no such field.
func (r Reference) Max() int {
	switch r {
	case ClientMessageID:
		return 350
	case ClientBatchID:
		return 20
	}
	return 0
}

// Verdict is what an output says about what happened.
type Verdict struct {
	// OK is false for a business rejection: 8x8 answered, and said no.
	OK bool
	// Unclear is true where the output cannot be read as either.
	Unclear bool
	// Message says why not, without numbers or texts.
	Message string
	// Details are facts worth keeping, such as {"code":"REJECTED"}.
	Details map[string]any
}

// SMS is how a text will be cut and billed (8x8 bills per part).
type SMS struct {
	Encoding string `json:"encoding"` // GSM7, UCS2, or MIXED for a batch with both
	SMSCount int    `json:"smsCount"` // parts, over all messages of the input
}

// InputError is an input that the action would refuse. Its text names fields
// and rules and never holds a value.
type InputError struct {
	// Field is a dotted path, such as "messages[2].destination".
	Field string
	// Rule says what is wrong in words: "is required", "is not a valid phone number".
	Rule string
}

func (e *InputError) Error() string {
	if e.Field == "" {
		return "input " + e.Rule
	}
	return "input field " + e.Field + " " + e.Rule
}
