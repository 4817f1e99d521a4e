package bridge

import (
	"cmp"
	"encoding/json"
	"errors"
	"runtime/debug"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/handlers"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// ResultData is the data of a result event.
type ResultData struct {
	Action      string          `json:"action"`
	Route       string          `json:"route"`
	Connection  string          `json:"connection,omitempty"`
	ActionRunID string          `json:"actionRunId,omitempty"`
	Attempts    int             `json:"attempts"`
	StartedAt   *time.Time      `json:"startedAt,omitempty"`
	DurationMs  int64           `json:"durationMs"`
	Cause       ResultCause     `json:"cause"`
	Output      json.RawMessage `json:"output,omitempty"`
	// OutputTruncated says that the output was too large to carry; actionRunId leads to it.
	OutputTruncated bool `json:"outputTruncated,omitempty"`
	// SMS is how the texts were cut, and so what they cost.
	SMS *catalog.SMS `json:"sms,omitempty"`
	// FollowUp is what came of it, where the route waits for that.
	FollowUp *ResultFollowUp `json:"followUp,omitempty"`
	Error    *ResultError    `json:"error,omitempty"`
	// Unshaped is why the event has its standard form although its route has another for it.
	Unshaped string `json:"unshaped,omitempty"`
}

// ResultFollowUp is how a follow-up ended.
type ResultFollowUp struct {
	// Action was polled, Polls times; or else a receipt was awaited, and Receipt is the
	// state that it reported.
	Action  string `json:"action,omitempty"`
	Polls   int    `json:"polls,omitempty"`
	Receipt string `json:"receipt,omitempty"`
	// DurationMs is from the action's end to the follow-up's.
	DurationMs int64 `json:"durationMs"`
	// Output is the last answer of the polled action, also where it says that all failed.
	Output          json.RawMessage `json:"output,omitempty"`
	OutputTruncated bool            `json:"outputTruncated,omitempty"`
}

// ResultCause names the event that a result answers.
type ResultCause struct {
	Source  string     `json:"source"`
	ID      string     `json:"id"`
	Type    string     `json:"type"`
	Subject string     `json:"subject,omitempty"`
	Time    *time.Time `json:"time,omitempty"`
}

// ResultError says why there is no output.
type ResultError struct {
	Reason    Reason         `json:"reason"`
	Message   string         `json:"message"`
	Retryable bool           `json:"retryable"` // whether replaying the dead letter may go better
	Details   map[string]any `json:"details,omitempty"`
}

// retryable are the reasons after which the same event may well succeed when
// somebody replays it: what was wrong was not the event.
var retryable = map[Reason]bool{
	ReasonMapping: true, ReasonExpired: true, ReasonAttemptsExhausted: true, ReasonRouteRemoved: true,
	ReasonUnledgered: true, ReasonUnauthorized: true, ReasonActionMissing: true, ReasonNotReady: true, ReasonOverLimit: true,
}

// ResultType is the type of a result event.
func ResultType(action string, s State) string { return "com.8x8.action." + action + "." + string(s) }

// data is a final record as the data of a result.
func (r *Record) data() ResultData {
	frozen := r.frozen()
	data := ResultData{
		Action: frozen.Action, Route: cmp.Or(frozen.Name, r.Route), Connection: frozen.Connection, ActionRunID: r.RunID,
		Attempts: r.Attempts, DurationMs: r.DurationMs, Output: r.Output, OutputTruncated: r.OutputTruncated, SMS: r.SMS,
		Cause:     ResultCause{Source: r.Cause.Source, ID: r.Cause.ID, Type: r.Cause.Type, Subject: r.Cause.Subject, Time: some(r.Cause.Time)},
		StartedAt: some(r.ClaimedAt),
	}
	if f := r.Follow; f != nil {
		data.FollowUp = &ResultFollowUp{
			Action: f.Action, Polls: f.Polls, Receipt: f.Receipt, Output: f.Output, OutputTruncated: f.OutputTruncated,
			DurationMs: max(0, r.ConcludedAt.Sub(f.Since)).Milliseconds(),
		}
	}
	if r.State == Failed {
		data.Output, data.OutputTruncated = nil, false // of what is not a success
		data.Error = &ResultError{Reason: r.Reason, Message: r.Message, Retryable: retryable[r.Reason], Details: r.Details}
	}
	if r.Shape != nil {
		data.Unshaped = r.Shape.Failed
	}
	return data
}

func (d *ResultData) json() []byte { return d.appendJSON(make([]byte, 0, 512+len(d.Output))) }

// result makes the result event of a final record. Everything in it comes from
// the record, so it is the same event whoever publishes it, and however often.
func (b *Bridge) result(p *pair) Result {
	rec := &p.rec
	data := rec.data()
	shape := rec.Shape
	if shape == nil {
		shape = &Shape{}
	}
	body := []byte(shape.Data)
	if body == nil {
		body = data.json()
	}
	return Result{
		ID: string(p.key), Action: data.Action, State: rec.State,
		Event: cloudevent.Written{
			Data: body,
			Attributes: []cloudevent.Attribute{
				{Name: "id", Value: string(p.key)}, {Name: "source", Value: b.source}, {Name: "type", Value: cmp.Or(shape.Type, ResultType(data.Action, rec.State))},
				{Name: "subject", Value: cmp.Or(shape.Subject, rec.Cause.ID)}, {Name: "time", Value: rec.ConcludedAt.UTC().Format(time.RFC3339Nano)},
				{Name: "causationid", Value: rec.Cause.ID}, {Name: "causationsource", Value: rec.Cause.Source},
				{Name: "correlationid", Value: rec.Cause.Correlation()}, {Name: "traceparent", Value: rec.Cause.TraceParent},
				{Name: "tracestate", Value: rec.Cause.TraceState}, {Name: "partitionkey", Value: rec.Cause.PartitionKey},
			},
		},
	}
}

// shape gives an outcome that is about to be recorded the look that its route
// wants. Whatever fails in that, the outcome keeps its standard look, and says so:
// it must not wait for a shape, or be lost over one.
func (b *Bridge) shape(e *occurrence, p *pair, rec *Record) {
	if p.handler == nil || !rec.State.Final() {
		return
	}
	succeeded := rec.State == Succeeded
	shapes, _ := p.handler.ShapesResult(succeeded)
	if !shapes {
		return
	}
	rec.Shape = nil
	made, err := func() (made handlers.Shaped, err error) {
		defer func() {
			if fault := recover(); fault != nil {
				b.Observer.Trouble("panic while shaping a result", "route", p.handler.Name, "stack", string(debug.Stack()))
				err = errors.New("the program faults over it")
			}
		}()
		data := rec.data()
		var view *handlers.View
		if e.whole {
			view = e.view()
		}
		return p.handler.ShapeResult(succeeded, data.json(), view)
	}()
	if err != nil {
		b.Observer.Trouble("a result could not be shaped, and has its standard form", "route", p.handler.Name, "error", err)
		rec.Shape = &Shape{Failed: err.Error()}
		return
	}
	rec.Shape = &Shape{Type: made.Type, Subject: made.Subject, Data: made.Data}
}

// Correlation is the cause's correlationid, or else its id.
func (c Cause) Correlation() string {
	if c.CorrelationID != "" {
		return c.CorrelationID
	}
	return c.ID
}

func some(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
