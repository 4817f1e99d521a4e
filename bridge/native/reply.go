package native

import (
	"encoding/json"
	"strings"

	"github.com/cloudevents/sdk-go/v2/event"
)

// Reply is what an inbound message says of what it may answer.
type Reply struct {
	// UMID is the message that its writer answered, where the channel says so.
	UMID string
	// From is the phone number that it came from, in digits; "" if it came from none.
	From string
}

// ParseReply reads the inbound message in an event of TypeSMSReceived or
// TypeChatReceived. ok is false for any other event.
func ParseReply(e *event.Event) (r Reply, ok bool) {
	if e.Context == nil || e.Type() != TypeSMSReceived && e.Type() != TypeChatReceived {
		return Reply{}, false
	}
	var p struct {
		Source      text            `json:"source"`
		User        json.RawMessage `json:"user"`
		ReplyToUMID text            `json:"replyToUmid"`
	}
	if !read(e.Data(), &p) {
		return Reply{}, false
	}
	if e.Type() == TypeChatReceived {
		var user struct {
			MSISDN text `json:"msisdn"`
		}
		read(p.User, &user)
		p.Source = user.MSISDN
	}
	return Reply{UMID: known(p.ReplyToUMID), From: Digits(string(p.Source))}, true
}

// Digits is a phone number as its digits alone, for 8x8 writes it with a plus in
// some places and without in others; "" if it is none.
func Digits(number string) string {
	digits := strings.TrimPrefix(number, "+")
	if len(digits) < 7 || len(digits) > 15 || strings.Trim(digits, "0123456789") != "" {
		return ""
	}
	return digits
}
