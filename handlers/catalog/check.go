package catalog

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
)

// 8x8 says "no" to a send with HTTP 200: status.code is REJECTED, or a batch has
// rejectedCount. source: 8x8 sms_api.json. How Membrane's action hands that answer
// on is not documented; the checks read it as it is, and inside one of these.
var wrappers = []string{"output", "body", "data", "response", "result"}

const unreadable = "the action's output is not what 8x8 answers"

// checkMessage reads the output of send-sms.
//
// A message id without any status is read as accepted: 8x8 always gives both, so
// the action left the status out of its output. Doubting every such message
// would hold them all for a person who could learn no more than we do; the
// delivery receipt of a rejected one says so later.
func checkMessage(output json.RawMessage) Verdict {
	if isQueued(output) { // nearly every answer is this one; the rest may take its time
		return Verdict{OK: true}
	}
	answer := unwrap(output, func(fields map[string]json.RawMessage) bool {
		code, _ := statusCode(fields["status"])
		return text(fields["umid"]) != "" || strings.EqualFold(code, "QUEUED") || strings.EqualFold(code, "REJECTED")
	})
	if answer == nil {
		return Verdict{Unclear: true, Message: unreadable}
	}
	code, given := statusCode(answer["status"])
	switch {
	case strings.EqualFold(code, "QUEUED"):
		return Verdict{OK: true}
	case strings.EqualFold(code, "REJECTED"):
		verdict := Verdict{Message: "8x8 rejected the message", Details: map[string]any{"code": "REJECTED"}}
		if umid := text(answer["umid"]); umid != "" {
			verdict.Details["umid"] = umid
		}
		if about := rejectedFor(answer["status"]); about != "" {
			verdict.Message += ": " + about
		}
		return verdict
	case given:
		verdict := Verdict{Unclear: true, Message: "8x8 answered with a status that is neither QUEUED nor REJECTED"}
		if isWord(code) {
			verdict.Details = map[string]any{"code": code}
		}
		return verdict
	}
	return Verdict{OK: true} // a umid, and no status
}

// isQueued says whether an output is {"status":{"code":"QUEUED",…},…}.
func isQueued(output json.RawMessage) bool {
	var status, code []byte
	return cloudevent.Members(output, func(name, value []byte) {
		if string(name) == "status" {
			status = value
		}
	}) && cloudevent.Members(status, func(name, value []byte) {
		if string(name) == "code" {
			code = value
		}
	}) && string(code) == `"QUEUED"`
}

// statusCode reads the status of a send: {"code": …}, or the code alone. given
// is true for anything but no status at all, also for one without a code. A
// number is the HTTP status that an output may come wrapped with.
func statusCode(raw json.RawMessage) (code string, given bool) {
	if len(raw) == 0 || raw[0] == 'n' || isNumber(raw) {
		return "", false
	}
	if raw[0] != '{' {
		return text(raw), true
	}
	var status struct {
		Code json.RawMessage `json:"code"`
	}
	_ = json.Unmarshal(raw, &status)
	return text(status.Code), true
}

// rejectedFor tells what a rejection is about. 8x8's description is read for
// words and never passed on, for it may quote the number or the text. Its
// reasons: no text; text or source too long; expiry over; number not E.164;
// internal error. source: 8x8 send-sms-api-reference.md.
func rejectedFor(raw json.RawMessage) string {
	var status struct {
		Description json.RawMessage `json:"description"`
	}
	_ = json.Unmarshal(raw, &status)
	description := strings.ToLower(text(status.Description))
	for _, reason := range []struct {
		words []string
		about string
	}{
		{[]string{"msisdn", "e.164", "destination", "phone number"}, "its answer names the destination"},
		{[]string{"expiry", "expire"}, "its answer names the expiry"},
		{[]string{"source", "sender"}, "its answer names the source"},
		{[]string{"text", "body"}, "its answer names the text"},
		{[]string{"internal"}, "its answer names an internal error"},
	} {
		for _, word := range reason.words {
			if strings.Contains(description, word) {
				return reason.about
			}
		}
	}
	return ""
}

// checkBatch reads the output of send-batch-sms. A batch is one event and one
// effect, and must not be sent again for the part that was refused: it is
// rejected only if nothing was accepted. The counts of a partly accepted one are
// in Details. A batch id without counts is read as accepted, as in checkMessage.
func checkBatch(output json.RawMessage) Verdict {
	answer := unwrap(output, func(fields map[string]json.RawMessage) bool {
		return text(fields["batchid"]) != "" || isNumber(fields["acceptedcount"])
	})
	if answer == nil {
		return Verdict{Unclear: true, Message: unreadable}
	}
	accepted, hasAccepted, acceptedOK := count(answer["acceptedcount"])
	rejected, hasRejected, rejectedOK := count(answer["rejectedcount"])
	if !acceptedOK || !rejectedOK {
		return Verdict{Unclear: true, Message: "8x8's counts of accepted and rejected messages cannot be read"}
	}
	details := func() map[string]any {
		return map[string]any{"acceptedCount": accepted, "rejectedCount": rejected}
	}
	switch {
	case !hasAccepted && rejected == 0:
		return Verdict{OK: true} // a batch id, and no counts, or only good ones
	case accepted > 0 && rejected == 0:
		return Verdict{OK: true}
	case accepted > 0:
		return Verdict{OK: true, Details: details()}
	case hasAccepted && rejected > 0:
		return Verdict{Message: "8x8 rejected every message of the batch", Details: details()}
	case hasAccepted && hasRejected:
		return Verdict{Unclear: true, Message: "8x8 neither accepted nor rejected a message of the batch", Details: details()}
	}
	return Verdict{Unclear: true, Message: "8x8's answer lacks a count of accepted or rejected messages"}
}

// checkAnswer is for actions that are run for their answer: 8x8 refuses them by
// HTTP status, so an output that is an answer at all is a success.
func checkAnswer(output json.RawMessage) Verdict {
	output = trimJSON(output)
	if len(output) > 0 && (output[0] == '{' || output[0] == '[') && json.Valid(output) {
		return Verdict{OK: true}
	}
	return Verdict{Unclear: true, Message: "the action's output is not a JSON object"}
}

// unwrap finds the object that is 8x8's answer: the output itself, or what it
// holds under one of the wrappers. Names are in lower case, for their case
// differs between 8x8's surfaces. It returns nil if there is none.
func unwrap(output json.RawMessage, isAnswer func(map[string]json.RawMessage) bool) map[string]json.RawMessage {
	fields := object(output)
	if fields == nil || isAnswer(fields) {
		return fields
	}
	for _, name := range wrappers {
		if inner := object(fields[name]); inner != nil && isAnswer(inner) {
			return inner
		}
	}
	return nil
}

// trimJSON takes away what JSON counts as white space, and nothing else.
func trimJSON(raw []byte) []byte { return bytes.Trim(raw, " \t\r\n") }

func object(raw json.RawMessage) map[string]json.RawMessage {
	raw = trimJSON(raw)
	if len(raw) == 0 || raw[0] != '{' {
		return nil
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		lower := strings.ToLower(name)
		if _, exact := fields[lower]; !exact {
			fields[lower] = fields[name]
		}
	}
	return fields
}

func text(raw json.RawMessage) string {
	var s string
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// count reads a number of messages. ok is false for anything that is there and
// is none.
func count(raw json.RawMessage) (n int, given, ok bool) {
	if len(raw) == 0 || raw[0] == 'n' {
		return 0, false, true
	}
	n, err := strconv.Atoi(string(raw))
	return n, true, err == nil && n >= 0
}

func isNumber(raw json.RawMessage) bool {
	return len(raw) > 0 && (raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9')
}

// isWord tells a code, such as QUEUED, from anything that may hold a number or a text.
func isWord(s string) bool {
	for _, r := range s {
		if r != '_' && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
			return false
		}
	}
	return s != "" && len(s) <= 40
}
