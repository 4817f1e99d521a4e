// Package native turns 8x8's own webhooks into CloudEvents. Its functions are
// pure: what a request proves about its sender is for others to check.
//
// The data of an event is 8x8's payload object, byte for byte. Phone numbers and
// texts stay inside it: a CloudEvent's attributes travel and are logged in clear,
// so the subject is always 8x8's message id.
package native

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
)

// The types of the events that come from 8x8.
const (
	TypeSMSStatus   = "com.8x8.sms.status"
	TypeSMSReceived = "com.8x8.sms.received"
	// TypeUnrecognized is a webhook of a kind that is not known here. Its data is the
	// whole body.
	TypeUnrecognized = "com.8x8.unrecognized"
)

// ErrNotJSON is a webhook whose body is no JSON.
var ErrNotJSON = errors.New("the body is not JSON")

// envelope is what 8x8 wraps SMS webhooks in (source: 8x8 webhook-object-structure.md).
type envelope struct {
	Namespace string          `json:"namespace"`
	EventType string          `json:"eventType"`
	Payload   json.RawMessage `json:"payload"`
}

// sms is what is needed of an SMS payload. Nothing of it is a phone number or a
// text (sources: 8x8 delivery-receipts-for-outbound-sms.md, inbound-sms.md).
type sms struct {
	UMID            string          `json:"umid"`
	BatchID         string          `json:"batchId"`
	ClientMessageID string          `json:"clientMessageId"`
	ClientBatchID   string          `json:"clientBatchId"`
	SubAccountID    string          `json:"subAccountId"`
	Timestamp       string          `json:"timestamp"` // inbound only
	Status          status          `json:"status"`    // receipt only
	SMSCount        json.RawMessage `json:"smsCount"`
}

type status struct {
	State     string          `json:"state"`
	Detail    string          `json:"detail"`
	Timestamp string          `json:"timestamp"`
	ErrorCode json.RawMessage `json:"errorCode"`
}

// Convert makes a CloudEvent of one webhook of 8x8. The same webhook, posted
// again, gives the same source and id. receivedAt is the event's time where 8x8
// gives none that can be read.
//
// A kind of webhook that is not known here gives an event of TypeUnrecognized:
// 8x8 repeats what is refused and then drops it. The error is ErrNotJSON.
func Convert(body []byte, receivedAt time.Time) (event.Event, error) {
	if !utf8.Valid(body) || !json.Valid(body) {
		return event.Event{}, ErrNotJSON
	}
	var (
		env envelope
		p   sms
	)
	// What does not fit these shapes is no SMS webhook; it is kept all the same.
	if json.Unmarshal(body, &env) == nil && env.Namespace == "SMS" && json.Unmarshal(env.Payload, &p) == nil && isID(p.UMID) {
		switch env.EventType {
		case "outbound_message_status_changed":
			// A receipt has no id of its own: one message has several.
			id := hash(p.UMID, p.Status.State, p.Status.Detail, p.Status.Timestamp, number(p.Status.ErrorCode))
			return newEvent(TypeSMSStatus, source(p.SubAccountID), id, p.UMID, p.Status.Timestamp, receivedAt, env.Payload), nil
		case "inbound_message_received":
			return newEvent(TypeSMSReceived, source(p.SubAccountID), p.UMID, p.UMID, p.Timestamp, receivedAt, env.Payload), nil
		}
	}
	return newEvent(TypeUnrecognized, "/8x8", hash(string(body)), "", "", receivedAt, body), nil
}

func newEvent(typ, source, id, subject, at string, receivedAt time.Time, data []byte) event.Event {
	e := event.New()
	e.SetType(typ)
	e.SetSource(source)
	e.SetID(id)
	if subject != "" {
		e.SetSubject(subject)
	}
	t, ok := parseTime(at)
	if !ok {
		t = receivedAt
	}
	e.SetTime(t)
	e.SetDataContentType(event.ApplicationJSON)
	e.DataEncoded = data
	return e
}

// source names the sub-account that a message belongs to.
func source(subAccountID string) string {
	if subAccountID == "" || strings.Trim(subAccountID, ".") == "" {
		return "/8x8/sms"
	}
	return "/8x8/sms/" + url.PathEscape(subAccountID)
}

// isID says whether s may be an event's id: some printable ASCII, which every
// UUID is. Anything else would not be 8x8's message id.
func isID(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for _, c := range []byte(s) {
		if c <= 0x20 || c >= 0x7f {
			return false
		}
	}
	return true
}

// hash is the same for the same parts, and for no others.
func hash(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write(strconv.AppendInt(nil, int64(len(p)), 10))
		h.Write([]byte{':'})
		h.Write([]byte(p))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// number is the text of a JSON number, also of one in quotes; empty if there is none.
func number(raw json.RawMessage) string {
	s := strings.Trim(string(raw), `"`)
	if s == "null" {
		return ""
	}
	return s
}

// parseTime reads 8x8's timestamps: RFC 3339 with 0 to 9 digits of a second's
// fraction, in UTC where no zone is given.
func parseTime(s string) (time.Time, bool) {
	for _, layout := range [...]string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04:05-0700"} {
		if t, err := time.Parse(layout, strings.ToUpper(s)); err == nil {
			// A year that RFC 3339 cannot write in UTC would make an event nobody can read.
			if t = t.UTC(); t.Year() > 0 && t.Year() < 10000 {
				return t, true
			}
		}
	}
	return time.Time{}, false
}

// Receipt is what an SMS delivery receipt says about a message, without its
// phone numbers.
type Receipt struct {
	UMID            string // 8x8's message id
	BatchID         string // of a batch only
	ClientMessageID string // what the sender gave as clientMessageId
	ClientBatchID   string
	SubAccountID    string
	State           string    // such as "delivered"
	Detail          string    // such as "delivered_to_recipient"
	Timestamp       time.Time // of the state, in UTC; zero if it could not be read
	ErrorCode       int       // 0 if there is none
	SMSCount        int       // parts; 0 if it is not said
}

// ParseReceipt reads the receipt in an event of TypeSMSStatus. ok is false for
// any other event.
func ParseReceipt(e *event.Event) (r Receipt, ok bool) {
	if e.Context == nil || e.Type() != TypeSMSStatus {
		return Receipt{}, false
	}
	var p sms
	if json.Unmarshal(e.Data(), &p) != nil || p.UMID == "" {
		return Receipt{}, false
	}
	r = Receipt{
		UMID: p.UMID, BatchID: p.BatchID, ClientMessageID: p.ClientMessageID, ClientBatchID: p.ClientBatchID,
		SubAccountID: p.SubAccountID, State: p.Status.State, Detail: p.Status.Detail,
	}
	r.Timestamp, _ = parseTime(p.Status.Timestamp)
	r.ErrorCode, _ = strconv.Atoi(number(p.Status.ErrorCode))
	r.SMSCount, _ = strconv.Atoi(number(p.SMSCount))
	return r, true
}
