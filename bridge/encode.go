package bridge

import (
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"
)

// A record is written twice and a result once for each event, so they are
// encoded by hand: package encoding/json took a seventh of an event's whole
// cost. What is written is what the struct tags say; the tests compare the two.

// object appends a JSON object's members one after the other.
type object struct {
	b     []byte
	comma bool
}

func (o *object) name(name string) {
	if o.comma {
		o.b = append(o.b, ',')
	}
	o.comma = true
	o.b = append(o.b, '"')
	o.b = append(o.b, name...)
	o.b = append(o.b, '"', ':')
}

func (o *object) open(name string) {
	o.name(name)
	o.b, o.comma = append(o.b, '{'), false
}

func (o *object) close() { o.b, o.comma = append(o.b, '}'), true }

// text, num, flag, at, raw and value leave the member out where it is empty.
func (o *object) text(name, s string) {
	if s != "" {
		o.must(name, s)
	}
}

func (o *object) must(name, s string) {
	o.name(name)
	o.b = appendText(o.b, s)
}

func (o *object) num(name string, n int64) {
	if n != 0 {
		o.mustNum(name, n)
	}
}

func (o *object) mustNum(name string, n int64) {
	o.name(name)
	o.b = strconv.AppendInt(o.b, n, 10)
}

func (o *object) flag(name string, v bool) {
	if v {
		o.name(name)
		o.b = append(o.b, "true"...)
	}
}

func (o *object) at(name string, t time.Time) {
	if !t.IsZero() {
		o.name(name)
		o.b = append(o.b, '"')
		o.b = t.AppendFormat(o.b, time.RFC3339Nano)
		o.b = append(o.b, '"')
	}
}

func (o *object) raw(name string, v json.RawMessage) {
	if len(v) != 0 {
		o.name(name)
		o.b = append(o.b, v...)
	}
}

// value is for what is rare enough to be encoded the usual way.
func (o *object) value(name string, v any) {
	if body, err := json.Marshal(v); err == nil {
		o.raw(name, body)
	}
}

func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			quoted, _ := json.Marshal(s) // never fails for a string
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// AppendJSON appends the record as JSON.
func (r *Record) AppendJSON(dst []byte) []byte {
	o := object{b: append(dst, '{')}
	o.mustNum("v", int64(r.Version))
	o.must("state", string(r.State))
	o.must("content", r.Content)
	o.open("cause")
	o.must("source", r.Cause.Source)
	o.must("id", r.Cause.ID)
	o.must("type", r.Cause.Type)
	o.text("subject", r.Cause.Subject)
	o.at("time", r.Cause.Time)
	o.text("correlationid", r.Cause.CorrelationID)
	o.text("traceparent", r.Cause.TraceParent)
	o.text("tracestate", r.Cause.TraceState)
	o.text("partitionkey", r.Cause.PartitionKey)
	o.close()
	o.must("route", r.Route)
	o.num("replay", int64(r.Replay))
	o.name("routes")
	o.b, o.comma = append(o.b, '['), false
	for i, f := range r.Routes {
		if i > 0 {
			o.b = append(o.b, ',')
		}
		o.b, o.comma = append(o.b, '{'), false
		o.must("route", f.Route)
		o.text("name", f.Name)
		o.must("action", f.Action)
		o.text("connection", f.Connection)
		o.text("connectionId", f.ConnID)
		o.text("connectionKey", f.ConnKey)
		o.text("tenant", f.Tenant)
		o.flag("oneCall", f.OneCall)
		o.text("call", f.Call)
		o.close()
	}
	o.b, o.comma = append(o.b, ']'), true
	o.text("try", r.Try)
	o.num("attempts", int64(r.Attempts))
	o.at("claimedAt", r.ClaimedAt)
	o.at("notBefore", r.NotBefore)
	o.text("why", string(r.Why))
	o.num("unclear", int64(r.Unclear))
	o.at("concludedAt", r.ConcludedAt)
	o.text("actionRunId", r.RunID)
	o.num("durationMs", r.DurationMs)
	o.raw("output", r.Output)
	o.flag("outputTruncated", r.OutputTruncated)
	if r.SMS != nil {
		o.value("sms", r.SMS)
	}
	o.text("reason", string(r.Reason))
	o.text("message", r.Message)
	if len(r.Details) > 0 {
		o.value("details", r.Details)
	}
	if r.Shape != nil {
		o.value("shape", r.Shape)
	}
	if r.Follow != nil {
		o.value("follow", r.Follow)
	}
	o.flag("overturned", r.Overturned)
	o.flag("decided", r.Decided)
	o.flag("published", r.Published)
	return append(o.b, '}')
}

// appendJSON appends the data of a result event as JSON.
func (d *ResultData) appendJSON(dst []byte) []byte {
	o := object{b: append(dst, '{')}
	o.must("action", d.Action)
	o.must("route", d.Route)
	o.text("connection", d.Connection)
	o.text("actionRunId", d.ActionRunID)
	o.mustNum("attempts", int64(d.Attempts))
	if d.StartedAt != nil {
		o.at("startedAt", *d.StartedAt)
	}
	o.mustNum("durationMs", d.DurationMs)
	o.open("cause")
	o.must("source", d.Cause.Source)
	o.must("id", d.Cause.ID)
	o.must("type", d.Cause.Type)
	o.text("subject", d.Cause.Subject)
	if d.Cause.Time != nil {
		o.at("time", *d.Cause.Time)
	}
	o.close()
	o.raw("output", d.Output)
	o.flag("outputTruncated", d.OutputTruncated)
	if d.SMS != nil {
		o.open("sms")
		o.must("encoding", d.SMS.Encoding)
		o.mustNum("smsCount", int64(d.SMS.SMSCount))
		o.close()
	}
	if d.FollowUp != nil {
		o.value("followUp", d.FollowUp)
	}
	if d.Error != nil {
		o.value("error", d.Error)
	}
	o.text("unshaped", d.Unshaped)
	return append(o.b, '}')
}
