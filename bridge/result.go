package bridge

import (
	"cmp"
	"encoding/json"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
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
	ReasonUnledgered: true, ReasonUnauthorized: true, ReasonActionMissing: true, ReasonNotReady: true,
}

// ResultType is the type of a result event.
func ResultType(action string, s State) string { return "com.8x8.action." + action + "." + string(s) }

// result makes the result event of a final record. Everything in it comes from
// the record, so it is the same event whoever publishes it, and however often.
func (b *Bridge) result(p *pair) Result {
	rec, frozen := &p.rec, p.rec.frozen()
	data := ResultData{
		Action: frozen.Action, Route: cmp.Or(frozen.Name, rec.Route), Connection: frozen.Connection, ActionRunID: rec.RunID,
		Attempts: rec.Attempts, DurationMs: rec.DurationMs, Output: rec.Output, OutputTruncated: rec.OutputTruncated, SMS: rec.SMS,
		Cause:     ResultCause{Source: rec.Cause.Source, ID: rec.Cause.ID, Type: rec.Cause.Type, Subject: rec.Cause.Subject, Time: some(rec.Cause.Time)},
		StartedAt: some(rec.ClaimedAt),
	}
	if f := rec.Follow; f != nil {
		data.FollowUp = &ResultFollowUp{
			Action: f.Action, Polls: f.Polls, Receipt: f.Receipt, Output: f.Output, OutputTruncated: f.OutputTruncated,
			DurationMs: max(0, rec.ConcludedAt.Sub(f.Since)).Milliseconds(),
		}
	}
	if rec.State == Failed {
		data.Output, data.OutputTruncated = nil, false // of what is not a success
		data.Error = &ResultError{Reason: rec.Reason, Message: rec.Message, Retryable: retryable[rec.Reason], Details: rec.Details}
	}
	return Result{
		ID: string(p.key), Action: frozen.Action, State: rec.State,
		Event: cloudevent.Written{
			Data: data.appendJSON(make([]byte, 0, 512+len(data.Output))),
			Attributes: []cloudevent.Attribute{
				{Name: "id", Value: string(p.key)}, {Name: "source", Value: b.source}, {Name: "type", Value: ResultType(frozen.Action, rec.State)},
				{Name: "subject", Value: rec.Cause.ID}, {Name: "time", Value: rec.ConcludedAt.UTC().Format(time.RFC3339Nano)},
				{Name: "causationid", Value: rec.Cause.ID}, {Name: "causationsource", Value: rec.Cause.Source},
				{Name: "correlationid", Value: rec.Cause.Correlation()}, {Name: "traceparent", Value: rec.Cause.TraceParent},
				{Name: "tracestate", Value: rec.Cause.TraceState}, {Name: "partitionkey", Value: rec.Cause.PartitionKey},
			},
		},
	}
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
