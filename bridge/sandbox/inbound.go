package sandbox

import (
	"errors"
	"strings"

	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// inboundRequest is the body of POST /_sandbox/inbound.
type inboundRequest struct {
	Source       string `json:"source"`
	Destination  string `json:"destination"`
	Body         string `json:"body"`
	SubAccountID string `json:"subAccountId"`
}

// inboundPayload. source: 8x8 inbound-sms.md.
type inboundPayload struct {
	Umid         string `json:"umid"`
	SubAccountID string `json:"subAccountId"`
	Timestamp    string `json:"timestamp"`
	Source       string `json:"source"`
	Destination  string `json:"destination"`
	Body         string `json:"body"`
	Encoding     string `json:"encoding"`
	SMSCount     int    `json:"smsCount"`
	Price        price  `json:"price"`
}

func (s *Server) inbound(r inboundRequest) (umid string, err error) {
	if r.Destination == "" {
		r.Destination = ownNumber
	}
	if r.SubAccountID == "" {
		r.SubAccountID = SubAccountID
	}
	to := s.webhookOf(r.SubAccountID)
	switch {
	case to.url == "":
		return "", errors.New("no webhook to post the message to: give the sandbox one (POST /_sandbox/webhook)")
	case r.Body == "":
		return "", errors.New("body is required: the text of the message")
	case !msisdnPattern.MatchString(r.Source):
		return "", errors.New("source must be a phone number in international form, such as +12025550101")
	case !msisdnPattern.MatchString(r.Destination):
		return "", errors.New("destination must be a phone number in international form, such as " + ownNumber)
	case !subAccountPattern.MatchString(r.SubAccountID):
		return "", errors.New("subAccountId must be 3 to 50 letters, digits or -._&")
	}
	now := s.opts.Now()
	m := &message{
		umid: newUUID(), subAccountID: r.SubAccountID, inbound: true, text: r.Body, createdAt: now,
		source: "+" + strings.TrimPrefix(r.Source, "+"), destination: "+" + strings.TrimPrefix(r.Destination, "+"),
		timeline: []moment{{at: now, state: "delivered"}},
	}
	parts := catalog.Parts(r.Body, "")
	m.encoding, m.smsCount = parts.Encoding, parts.SMSCount
	m.receipts = []*notice{newNotice(to, now, "inbound_message_received", "Inbound SMS received", inboundPayload{
		Umid: m.umid, SubAccountID: m.subAccountID, Timestamp: timestamp(now), Source: m.source, Destination: m.destination,
		Body: m.text, Encoding: m.encoding, SMSCount: m.smsCount, Price: m.price(),
	})}
	a := s.world.Load().account
	a.mu.Lock()
	a.messages[m.umid] = m
	a.order = append(a.order, m)
	a.mu.Unlock()
	a.courier.send(m.receipts)
	return m.umid, nil
}
