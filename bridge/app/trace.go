package app

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/bus"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/ledger"
)

// Trace is what the bus knows of the events with an id. It holds no data of an
// event, and so no phone number and no text.
type Trace struct {
	ID       string        `json:"id"`
	Events   []TracedEvent `json:"events"` // one for each source that has used the id
	Searched []Searched    `json:"searched"`
}

// TracedEvent is one event's life.
type TracedEvent struct {
	Source  string       `json:"source"`
	ID      string       `json:"id"`
	Type    string       `json:"type,omitempty"`
	Subject string       `json:"subject,omitempty"`
	Time    *time.Time   `json:"time,omitempty"`
	Pairs   []TracedPair `json:"pairs"`
	Steps   []Step       `json:"steps"`
}

// TracedPair is where the event stands with one route now.
type TracedPair struct {
	Key         string       `json:"key"`
	Route       string       `json:"route"`
	Replay      int          `json:"replay,omitempty"`
	Action      string       `json:"action"`
	Connection  string       `json:"connection,omitempty"`
	State       bridge.State `json:"state"`
	Attempts    int          `json:"attempts"`
	ActionRunID string       `json:"actionRunId,omitempty"`
	Reason      string       `json:"reason,omitempty"`
	Message     string       `json:"message,omitempty"`
	// NotBefore is when a pair that waits goes on at the earliest, Why what it waits for.
	NotBefore *time.Time `json:"notBefore,omitempty"`
	Why       string     `json:"why,omitempty"`
	// Overturned says that it was held as unknown before evidence came.
	Overturned bool `json:"overturned,omitempty"`
}

// Step is one thing that happened to an event. At is by the server's clock
// where the step is a stored message, and by the bridge's for claimed and ended.
type Step struct {
	At     time.Time `json:"at"`
	What   StepKind  `json:"what"`
	Stream string    `json:"stream,omitempty"` // where it is stored
	Seq    uint64    `json:"seq,omitempty"`
	Type   string    `json:"type,omitempty"` // of the event or message
	ID     string    `json:"id,omitempty"`   // of the result or the event from 8x8

	Route       string `json:"route,omitempty"`
	Replay      int    `json:"replay,omitempty"`
	Action      string `json:"action,omitempty"`
	Connection  string `json:"connection,omitempty"`
	Attempt     int    `json:"attempt,omitempty"`
	State       string `json:"state,omitempty"` // of the pair, or of the message at 8x8
	Detail      string `json:"detail,omitempty"`
	Reason      string `json:"reason,omitempty"`
	Message     string `json:"message,omitempty"`
	ActionRunID string `json:"actionRunId,omitempty"`
	DurationMs  int64  `json:"durationMs,omitempty"`
	Origin      string `json:"origin,omitempty"` // "<stream> <sequence>" that a dead letter's event came from
}

// StepKind is a kind of Step.
type StepKind string

// The kinds of Step, in the order in which those of one moment happen.
const (
	StepReceived   StepKind = "received"    // stored in the stream of events
	StepSetAside   StepKind = "set aside"   // waits in its stream
	StepClaimed    StepKind = "claimed"     // for its newest attempt
	StepWaiting    StepKind = "waiting"     // for its next attempt
	StepEnded      StepKind = "ended"       // its outcome was recorded
	StepResult     StepKind = "result"      // published
	StepDeadLetter StepKind = "dead letter" // stored
	StepFrom8x8    StepKind = "from 8x8"    // a receipt, or another event from 8x8 about it
)

var stepOrder = []StepKind{StepReceived, StepSetAside, StepClaimed, StepWaiting, StepEnded, StepResult, StepDeadLetter, StepFrom8x8}

// Searched is one place that was looked at.
type Searched struct {
	Place    string     `json:"place"` // the name of a stream
	Messages int        `json:"messages"`
	From     *time.Time `json:"from,omitempty"` // of the oldest message that it holds
	// Kept is how long it keeps things, such as "61h12m0s"; "" if until they are removed.
	Kept string `json:"kept,omitempty"`
	// Missing says that there is no such stream.
	Missing bool `json:"missing,omitempty"`
}

// TraceOptions say what to look for.
type TraceOptions struct {
	ID     string
	Source string    // "": of every source
	Since  time.Time // messages stored earlier are not read; zero: all are
}

// Trace gathers what the streams and the ledger know of the events with an id.
// Nothing found is no error.
func (c *Client) Trace(ctx context.Context, o TraceOptions) (t *Trace, err error) {
	err = c.conn.Permitted(ctx, func(ctx context.Context) (err error) {
		t, err = c.trace(ctx, o)
		return err
	})
	return t, err
}

func (c *Client) trace(ctx context.Context, o TraceOptions) (*Trace, error) {
	t := &tracer{o: o, trace: &Trace{ID: o.ID, Events: []TracedEvent{}}, bySource: map[string]*TracedEvent{}}
	if o.Source != "" {
		t.hashes = map[string]string{bridge.EventHash(o.Source, o.ID): o.Source}
	} else {
		t.hashes = map[string]string{}
	}
	if err := t.ledger(ctx, c); err != nil {
		return nil, err
	}
	for _, s := range []struct {
		stream, subject string
		each            func(bus.Stored)
	}{
		{c.names.Events(), c.names.AllEvents(), t.event},
		{c.names.Results(), c.names.AllResults(), t.result},
		{c.names.Dead(), c.names.AllDead(), t.letter},
	} {
		t.stream = s.stream
		scanned, err := c.conn.Scan(ctx, s.stream, s.subject, o.Since, s.each)
		if err != nil && !errors.Is(err, bridge.ErrNotFound) {
			return nil, err
		}
		t.trace.Searched = append(t.trace.Searched, searched(scanned, err != nil))
	}
	for hash, source := range t.hashes {
		aside, err := c.conn.Aside(ctx, c.names, hash)
		if err != nil {
			return nil, err
		}
		for key, m := range aside {
			e := t.of(source)
			i := slices.IndexFunc(e.Pairs, func(p TracedPair) bool { return p.Key == string(key) })
			step := Step{At: m.At, What: StepSetAside, Stream: c.names.Wait(), Seq: m.Seq}
			if i >= 0 {
				step.Route, step.Replay = e.Pairs[i].Route, e.Pairs[i].Replay
			}
			e.Steps = append(e.Steps, step)
		}
	}
	for _, source := range slices.Sorted(maps.Keys(t.bySource)) {
		e := t.bySource[source]
		slices.SortStableFunc(e.Steps, func(x, y Step) int {
			return cmp.Or(x.At.Compare(y.At), cmp.Compare(slices.Index(stepOrder, x.What), slices.Index(stepOrder, y.What)))
		})
		slices.SortFunc(e.Pairs, func(x, y TracedPair) int {
			return cmp.Or(cmp.Compare(x.Route, y.Route), cmp.Compare(x.Replay, y.Replay))
		})
		t.trace.Events = append(t.trace.Events, *e)
	}
	return t.trace, nil
}

func searched(s bus.Scanned, missing bool) Searched {
	found := Searched{Place: s.Stream, Messages: int(s.Messages), Missing: missing}
	if !s.From.IsZero() {
		found.From = &s.From
	}
	if s.MaxAge > 0 {
		found.Kept = s.MaxAge.Round(time.Minute).String()
	}
	return found
}

// tracer gathers one trace.
type tracer struct {
	o        TraceOptions
	trace    *Trace
	bySource map[string]*TracedEvent
	hashes   map[string]string // of each event that was found, to its source
	stream   string            // that is scanned
}

// of is the event of a source.
func (t *tracer) of(source string) *TracedEvent {
	e := t.bySource[source]
	if e == nil {
		e = &TracedEvent{Source: source, ID: t.o.ID, Pairs: []TracedPair{}, Steps: []Step{}}
		t.bySource[source] = e
		t.hashes[bridge.EventHash(source, t.o.ID)] = source
	}
	return e
}

func (t *tracer) wanted(source, id string) bool {
	return id == t.o.ID && (t.o.Source == "" || t.o.Source == source)
}

// ledger reads the records: of one event by its hash, or else by going through all.
func (t *tracer) ledger(ctx context.Context, c *Client) error {
	place := Searched{Place: ledger.StreamName(c.prefix)}
	l, err := ledger.Peek(ctx, c.conn.JS, c.prefix)
	if errors.Is(err, bridge.ErrNotFound) {
		place.Missing = true
		t.trace.Searched = append(t.trace.Searched, place)
		return nil
	}
	if err != nil {
		return err
	}
	var entries []bridge.Entry
	if t.o.Source != "" {
		entries, err = l.Event(ctx, bridge.EventHash(t.o.Source, t.o.ID))
		place.Messages = len(entries)
	} else {
		entries, place.Messages, err = l.Find(ctx, t.o.ID)
	}
	if err != nil {
		return err
	}
	place.Kept = c.retention.String()
	t.trace.Searched = append(t.trace.Searched, place)
	for i := range entries {
		t.record(&entries[i])
	}
	return nil
}

func (t *tracer) record(entry *bridge.Entry) {
	rec := &entry.Record
	e := t.of(rec.Cause.Source)
	e.Type, e.Subject = rec.Cause.Type, rec.Cause.Subject
	if !rec.Cause.Time.IsZero() {
		e.Time = &rec.Cause.Time
	}
	p := TracedPair{
		Key: string(entry.Key), Route: rec.Route, Replay: rec.Replay, State: rec.State, Attempts: rec.Attempts, ActionRunID: rec.RunID,
		Reason: string(rec.Reason), Message: rec.Message, Overturned: rec.Overturned,
	}
	for _, f := range rec.Routes {
		if f.Route == rec.Route {
			p.Route, p.Action, p.Connection = cmp.Or(f.Name, rec.Route), f.Action, f.Connection
		}
	}
	if rec.State == bridge.Waiting || rec.State == bridge.Following {
		p.Why = string(rec.Why)
		if !rec.NotBefore.IsZero() {
			p.NotBefore = &rec.NotBefore
		}
	}
	e.Pairs = append(e.Pairs, p)
	step := Step{Route: p.Route, Replay: p.Replay, Action: p.Action, Connection: p.Connection}
	if !rec.ClaimedAt.IsZero() {
		claimed := step
		claimed.At, claimed.What, claimed.Attempt = rec.ClaimedAt, StepClaimed, rec.Attempts
		e.Steps = append(e.Steps, claimed)
	}
	switch {
	case rec.State == bridge.Waiting:
		step.At, step.What, step.Reason = entry.StoredAt, StepWaiting, p.Why
		e.Steps = append(e.Steps, step)
	case rec.State == bridge.Following:
		step.At, step.What, step.State, step.ActionRunID, step.DurationMs = rec.ConcludedAt, StepWaiting, string(rec.State), rec.RunID, rec.DurationMs
		step.Message = "for a receipt"
		if f := rec.Follow; f.Action != "" {
			step.Message = fmt.Sprintf("for %s, asked %d times", f.Action, f.Polls)
		}
		e.Steps = append(e.Steps, step)
	case !rec.ConcludedAt.IsZero():
		step.At, step.What, step.State, step.Reason, step.Message = rec.ConcludedAt, StepEnded, string(rec.State), p.Reason, rec.Message
		step.ActionRunID, step.DurationMs = rec.RunID, rec.DurationMs
		e.Steps = append(e.Steps, step)
	}
}

// mayConcern is a cheap look whether a message could be about the id, before
// anything is decoded: JSON may write it with escapes, headers with percents.
func (t *tracer) mayConcern(m *bus.Stored) bool {
	if bytes.Contains(m.Data, []byte(t.o.ID)) || bytes.IndexByte(m.Data, '\\') >= 0 {
		return true
	}
	for _, values := range m.Header {
		for _, v := range values {
			if strings.Contains(v, t.o.ID) || strings.Contains(v, "%") {
				return true
			}
		}
	}
	return false
}

// event is one message of the stream of events: the event itself, or one that
// 8x8 sent about it.
func (t *tracer) event(m bus.Stored) {
	if !t.mayConcern(&m) {
		return
	}
	ev, err := cloudevent.FromNATS(m.Header, m.Data)
	if err != nil {
		return
	}
	if t.wanted(ev.RawSource, ev.RawID) {
		e := t.of(ev.RawSource)
		if e.Type == "" {
			e.Type, e.Subject = ev.Type(), ev.Subject()
			if at := ev.Time(); !at.IsZero() {
				e.Time = &at
			}
		}
		e.Steps = append(e.Steps, Step{At: m.At, What: StepReceived, Stream: t.stream, Seq: m.Seq, Type: ev.Type()})
	}
	if source, id := Causation(&ev); source != "" && t.wanted(source, id) {
		var data struct {
			Status struct {
				State, Detail string
			}
		}
		_ = json.Unmarshal(ev.Data(), &data) // an event of another kind has no status
		t.of(source).Steps = append(t.of(source).Steps, Step{
			At: m.At, What: StepFrom8x8, Stream: t.stream, Seq: m.Seq, Type: ev.Type(), ID: ev.RawID, State: data.Status.State, Detail: data.Status.Detail,
		})
	}
}

func (t *tracer) result(m bus.Stored) {
	if !t.mayConcern(&m) {
		return
	}
	ev, err := cloudevent.FromNATS(m.Header, m.Data)
	if err != nil {
		return
	}
	source, id := Causation(&ev)
	if !t.wanted(source, id) {
		return
	}
	var data ResultData
	_ = json.Unmarshal(ev.Data(), &data)
	step := Step{
		At: m.At, What: StepResult, Stream: t.stream, Seq: m.Seq, Type: ev.Type(), ID: ev.RawID, Route: data.Route, Action: data.Action,
		Connection: data.Connection, Attempt: data.Attempts, State: string(bridge.Succeeded), ActionRunID: data.ActionRunID, DurationMs: data.DurationMs,
	}
	if action, failed := outcomeOn(m.Subject); data.Action == "" { // its route gave it another form
		step.Action = action
		if failed {
			step.State = string(bridge.Failed)
		}
	}
	if data.Error != nil {
		step.State, step.Reason, step.Message = string(bridge.Failed), string(data.Error.Reason), data.Error.Message
	}
	e := t.of(source)
	if e.Type == "" {
		e.Type, e.Subject, e.Time = data.Cause.Type, data.Cause.Subject, data.Cause.Time
	}
	e.Steps = append(e.Steps, step)
}

func (t *tracer) letter(m bus.Stored) {
	source, id := first(m.Header, bus.HeaderCauseSrc), first(m.Header, bus.HeaderCauseID)
	if s, ok := t.hashes[bridge.Key(first(m.Header, bus.HeaderKey)).Event()]; ok {
		source, id = s, t.o.ID // a header may hold less than an id may
	}
	if !t.wanted(source, id) {
		return
	}
	e := t.of(source)
	if e.Type == "" {
		e.Type = first(m.Header, bus.HeaderCauseType)
	}
	replay, _ := strconv.Atoi(first(m.Header, bus.HeaderReplay))
	attempts, _ := strconv.Atoi(first(m.Header, bus.HeaderAttempts))
	e.Steps = append(e.Steps, Step{
		At: m.At, What: StepDeadLetter, Stream: t.stream, Seq: m.Seq, Route: first(m.Header, bus.HeaderRoute), Replay: replay,
		Action: first(m.Header, bus.HeaderAction), Connection: first(m.Header, bus.HeaderConnection), Attempt: attempts,
		Reason: first(m.Header, bus.HeaderReason), Message: first(m.Header, bus.HeaderMessage), ActionRunID: first(m.Header, bus.HeaderRunID),
		Origin: first(m.Header, bus.HeaderOrigin),
	})
}

// String says where was looked, for how long things are kept there.
func (s Searched) String() string {
	if s.Missing {
		return s.Place + ": there is no such stream"
	}
	text := fmt.Sprintf("%s: %d read", s.Place, s.Messages)
	if s.From != nil {
		text += ", the oldest of " + s.From.Local().Format(time.DateTime)
	}
	if s.Kept == "" {
		return text + ", kept until removed"
	}
	return text + ", kept for " + s.Kept
}
