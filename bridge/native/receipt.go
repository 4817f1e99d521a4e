package native

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
)

// Receipt is what a delivery receipt says about a message, without its phone
// numbers.
type Receipt struct {
	UMID            string // 8x8's message id
	BatchID         string // of a batch only
	ClientMessageID string // what the sender gave as clientMessageId
	ClientBatchID   string
	SubAccountID    string
	Channel         string    // such as "whatsapp"; empty for SMS
	State           string    // such as "delivered"
	Detail          string    // such as "delivered_to_recipient"
	Timestamp       time.Time // of the state, in UTC; zero if it could not be read
	ErrorCode       int       // 0 if there is none
	SMSCount        int       // parts; 0 if it is not said
	Outcome         Outcome   // what this receipt alone says
}

// ParseReceipt reads the receipt in an event of TypeSMSStatus or TypeChatStatus.
// ok is false for any other event.
func ParseReceipt(e *event.Event) (r Receipt, ok bool) {
	if e.Context == nil || e.Type() != TypeSMSStatus && e.Type() != TypeChatStatus {
		return Receipt{}, false
	}
	var p smsPayload
	if !read(e.Data(), &p) || p.UMID == "" {
		return Receipt{}, false
	}
	if p.Status.Timestamp == "" {
		p.Status.Timestamp = p.Timestamp // of the oldest receipts
	}
	r = Receipt{
		UMID: string(p.UMID), BatchID: string(p.BatchID), ClientMessageID: string(p.ClientMessageID), ClientBatchID: string(p.ClientBatchID),
		SubAccountID: string(p.SubAccountID), Channel: strings.ToLower(string(p.Channel)),
		State: string(p.Status.State), Detail: string(p.Status.Detail), Outcome: outcomeOf(p.Status),
	}
	r.Timestamp = parseTime(p.Status.Timestamp)
	r.ErrorCode, _ = strconv.Atoi(string(p.Status.ErrorCode))
	r.SMSCount, _ = strconv.Atoi(string(p.SMSCount))
	return r, true
}

// Outcome is how far a message has come, in one word for all of 8x8's channels
// and versions. Receipts come late, twice and out of order, and an outcome never
// goes back: see After.
type Outcome struct {
	// State is "queued", "sent", "delivered_to_operator", "delivered" (to the
	// recipient), "read", "undelivered", "rejected", "failed", or "unknown" for a word
	// of 8x8's that is not known here.
	State string `json:"state"`
	// Final says that the message itself has come to its end. Only "read" may follow
	// "delivered". What was only delivered to the operator may stay so for ever.
	Final bool `json:"final"`
	// Rank is how far that is: of two events about one message at one channel, the
	// one with the higher rank knows more, whichever came first.
	Rank int `json:"rank"`
}

// The states of an outcome by their rank; the failures stand beside them. sources:
// 8x8 message-status-references.md, which gives no order.
var ranks = map[string]int{
	"unknown": 0, "queued": 1, "sent": 2, "delivered_to_operator": 3,
	"undelivered": failedRank, "rejected": failedRank, "failed": failedRank,
	"delivered": 5, "read": 6,
}

const failedRank = 4

func outcome(state string) Outcome {
	return Outcome{State: state, Final: ranks[state] >= failedRank, Rank: ranks[state]}
}

// After is the outcome of a message of which before was known and o is said now.
// What ended a message is never left, but that a delivered one may be read.
func (o Outcome) After(before Outcome) Outcome {
	switch {
	case before.State == "":
		return o
	case before.Rank == failedRank || o.Rank <= before.Rank:
		return before
	default:
		return o
	}
}

// outcomeOf reads the states of receipts, and the texts of the oldest ones
// (source: 8x8's older Wavecell delivery receipts).
func outcomeOf(s status) Outcome {
	state, detail := kind(string(s.State)), kind(string(s.Detail))
	switch state {
	case "queued", "accepted":
		return outcome("queued")
	case "sent", "ok":
		return outcome("sent")
	case "delivered":
		if detail == "delivered_to_operator" || detail == "delivered_to_carrier" {
			return outcome("delivered_to_operator")
		}
		if detail == "" || detail == "delivered_to_recipient" {
			return outcome("delivered")
		}
		return outcome("delivered_to_operator") // more is not said
	case "delivered_to_carrier", "delivered_to_operator":
		return outcome("delivered_to_operator")
	case "delivered_to_device", "delivered_to_recipient":
		return outcome("delivered")
	case "read":
		return outcome("read")
	case "undelivered", "rejected_by_carrier", "rejected_by_device", "rejected_by_operator", "undelivered_to_recipient", "expired":
		return outcome("undelivered")
	case "rejected":
		return outcome("rejected")
	case "failed", "error", "trashed":
		return outcome("failed")
	default:
		return outcome("unknown")
	}
}

// withOutcome puts the outcome behind the last member of a receipt. One that has
// such a member by itself stays as it is.
func withOutcome(receipt []byte, o Outcome) []byte {
	var p struct {
		Outcome json.RawMessage `json:"outcome"`
	}
	end := bytes.LastIndexByte(receipt, '}')
	if end < 0 || !read(receipt, &p) || p.Outcome != nil {
		return receipt
	}
	with := append(make([]byte, 0, len(receipt)+64), receipt[:end]...)
	with = append(append(with, outcomeMember...), o.json()...)
	return append(with, receipt[end:]...)
}

const outcomeMember = `,"outcome":`

func (o Outcome) json() []byte {
	b, err := json.Marshal(o)
	if err != nil {
		panic(err) // a text and a boolean always marshal
	}
	return b
}

// SetOutcome replaces the outcome in the data of a receipt's event, once more is
// known than the receipt alone says.
func SetOutcome(e *event.Event, o Outcome) {
	r, ok := ParseReceipt(e)
	if !ok {
		return
	}
	// It is the last member, as withOutcome wrote it; one of 8x8's own would not be
	// touched.
	data := bytes.TrimRight(e.Data(), " \t\r\n")
	written := append(append([]byte(outcomeMember), r.Outcome.json()...), '}')
	if before, ours := bytes.CutSuffix(data, written); ours {
		with := append(bytes.Clone(before), outcomeMember...)
		e.DataEncoded = append(append(with, o.json()...), '}')
	}
}
