package native

// smsPayload is what is needed of an SMS payload. Nothing of it is a phone number
// or a text (sources: 8x8 delivery-receipts-for-outbound-sms.md, inbound-sms.md,
// short-url-clicks.md).
type smsPayload struct {
	UMID            text   `json:"umid"`
	BatchID         text   `json:"batchId"`
	ClientMessageID text   `json:"clientMessageId"`
	ClientBatchID   text   `json:"clientBatchId"`
	SubAccountID    text   `json:"subAccountId"`
	Channel         text   `json:"channel"`    // chat only
	EventID         text   `json:"eventId"`    // of a click
	OccurredAt      text   `json:"occurredAt"` // of a click
	Timestamp       text   `json:"timestamp"`  // inbound only
	Status          status `json:"status"`     // receipt only
	SMSCount        text   `json:"smsCount"`
}

// status is an object; a text in the oldest receipts.
type status struct {
	State     text `json:"state"`
	Detail    text `json:"detail"`
	Timestamp text `json:"timestamp"`
	ErrorCode text `json:"errorCode"`
}

func (s *status) UnmarshalJSON(raw []byte) error {
	*s = status{}
	if !object(raw) {
		return s.State.UnmarshalJSON(raw)
	}
	type plain status
	read(raw, (*plain)(s))
	return nil
}

// sms knows receipts, inbound messages and clicks on short URLs.
func sms(b *body) (made, bool) {
	var p smsPayload
	if b.Namespace != "SMS" || !read(b.Payload, &p) || known(p.UMID) == "" {
		return made{}, false
	}
	m := made{source: under("sms", p.SubAccountID), subject: known(p.UMID), data: b.Payload}
	switch b.EventType {
	case "outbound_message_status_changed":
		// A receipt has no id of its own: one message has several.
		m.typ, m.time = TypeSMSStatus, parseTime(p.Status.Timestamp)
		m.id = hash(string(p.UMID), string(p.Status.State), string(p.Status.Detail), string(p.Status.Timestamp), string(p.Status.ErrorCode))
		m.data = withOutcome(b.Payload, outcomeOf(p.Status))
	case "inbound_message_received":
		m.typ, m.id, m.time = TypeSMSReceived, known(p.UMID), parseTime(p.Timestamp)
	case "short_url_clicked":
		// Each click is one event: its id is not the message's.
		m.typ, m.id, m.time = TypeSMSClicked, known(p.EventID), parseTime(p.OccurredAt)
	default:
		return made{}, false
	}
	return m, true
}
