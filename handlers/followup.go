package handlers

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// FollowUp is what a route waits for once its action has run, compiled: the
// answer of an action that is polled, or a delivery receipt.
type FollowUp struct {
	// Action is polled; nil where a receipt is awaited.
	Action *catalog.Action
	// Receipt is the least state that a receipt must report: one of ReceiptStates.
	Receipt string
	// Initial and Max are the pauses between two looks: the first, and the longest.
	Initial, Max, Deadline time.Duration

	pos                 config.Pos
	input, until, fails *template
}

// ReceiptStates are what can be awaited of a message, in the order in which it
// comes to them.
var ReceiptStates = []string{"sent", "delivered_to_operator", "delivered", "read"}

// outputVariable is what the expressions of a follow-up call the output of the
// route's action.
const outputVariable = "$output"

// followUp compiles a route's follow-up.
func (c *compiler) followUp(h *Handler, r *config.Route) *FollowUp {
	t := r.Then
	if t == nil {
		return nil
	}
	f := &FollowUp{pos: t.Pos, Initial: t.Initial, Max: t.Max, Deadline: t.Deadline}
	c.variables = []string{outputVariable}
	defer func() { c.variables = nil }()
	f.until = c.template(t.Until, "then.until", "")
	expression := f.until.hasExpressions()
	if t.RunKey == "" && t.RunID == "" {
		if f.Receipt, _ = f.until.value.(string); expression || !slices.Contains(ReceiptStates, f.Receipt) {
			c.fail(t.Until.Pos, "bad-follow-up", "write "+strings.Join(ReceiptStates, ", ")+"; or name the action that is polled with run",
				"then.until must be the state of a receipt, since then names no action")
		}
		if h.Action != nil && h.Action.Reference != catalog.ClientMessageID {
			c.fail(t.Pos, "bad-follow-up", "poll an action with run, or send with send-sms", "no receipt comes for the action %q that says how it went on", r.RunKey+r.RunID)
		}
		return f
	}
	if !expression {
		c.fail(t.Until.Pos, "bad-follow-up", `write a condition over the answer, such as ${ .status == "SUCCEEDED" }`, "then.until must be an expression, since then polls an action")
	}
	if t.Fails.Kind != config.KindNone {
		if f.fails = c.template(t.Fails, "then.fails", ""); !f.fails.hasExpressions() {
			c.fail(t.Fails.Pos, "bad-follow-up", `write a condition over the answer, such as ${ .status == "FAILED" }`, "then.fails must be an expression")
		}
	}
	polled := &config.Route{Pos: t.Pos, Name: r.Name, RunKey: t.RunKey, RunID: t.RunID, RunPos: t.RunPos, Input: t.Input}
	if f.Action = c.action(polled); f.Action == nil {
		return f
	}
	switch _, known := c.catalog.Lookup(f.Action.Key); {
	case f.Action.Safe:
	case known:
		c.fail(t.RunPos, "bad-follow-up", "poll an action that only reads", "then would run %q again and again, and each time has an effect", t.RunKey)
	default:
		c.report(config.LevelWarning, t.RunPos, "bad-follow-up", "make sure that it only reads", "then runs %q again and again, and nothing says that this has no effect", t.RunKey+t.RunID)
	}
	known := len(c.problems)
	if f.input = c.template(t.Input, "then.input", ""); len(c.problems) == known {
		c.checkInput(f.Action, f.input, polled)
	}
	return f
}

// Input makes the input of the polled action, of the event and of the output of
// the route's action. Errors are those of Handler.Input.
func (f *FollowUp) Input(v *View, output json.RawMessage) (map[string]any, error) {
	began, err := decodeOutput(output)
	if err != nil {
		return nil, &MappingError{Pos: f.pos, Msg: "then.input: the output of the route's action " + err.Error()}
	}
	value, err := f.input.evaluateWith(v, began)
	if err != nil {
		return nil, err
	}
	input := value.(map[string]any) // Compile takes nothing but mappings
	return input, check(f.Action, input)
}

// Ended reads an answer of the polled action: done if the follow-up has ended
// well, failed if it has ended badly, and neither if it is to be polled again.
// The error is a *MappingError.
func (f *FollowUp) Ended(answer, output json.RawMessage) (done, failed bool, err error) {
	began, err := decodeOutput(output)
	if err != nil {
		return false, false, &MappingError{Pos: f.pos, Msg: "then: the output of the route's action " + err.Error()}
	}
	now, err := decodeOutput(answer)
	if err != nil {
		return false, false, &MappingError{Pos: f.pos, Msg: "then: the answer " + err.Error()}
	}
	v := &View{request: now, isRequest: true}
	if done, err = f.until.holds(v, began); done || err != nil || f.fails == nil {
		return done, false, err
	}
	failed, err = f.fails.holds(v, began)
	return false, failed, err
}

// holds evaluates a condition. As in jq, null and false do not hold.
func (t *template) holds(v *View, variables ...any) (bool, error) {
	value, err := t.evaluateWith(v, variables...)
	return value != nil && value != false, err
}

func decodeOutput(output json.RawMessage) (any, error) {
	if len(output) == 0 {
		return nil, nil
	}
	value, err := decodeJSON(output)
	if err != nil {
		return nil, fmt.Errorf("is not JSON")
	}
	return value, nil
}
