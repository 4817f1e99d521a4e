package sandbox

import (
	"net/http"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// smsRequest is one message to send. source: 8x8 sms_api.json, SmsRequest.
type smsRequest struct {
	SubAccountID    string  `json:"subAccountId"`
	Destination     string  `json:"destination"`
	Text            string  `json:"text"`
	Country         string  `json:"country"`
	Source          string  `json:"source"`
	ClientMessageID *string `json:"clientMessageId"`
	Encoding        string  `json:"encoding"`
	Scheduled       string  `json:"scheduled"`
	Expiry          string  `json:"expiry"`
	DlrCallbackURL  string  `json:"dlrCallbackUrl"`
	ClientIP        string  `json:"clientIp"`
}

type batchRequest struct {
	SubAccountID              string       `json:"subAccountId"`
	Messages                  []smsRequest `json:"messages"`
	Destinations              []string     `json:"destinations"`
	ClientBatchID             *string      `json:"clientBatchId"`
	Template                  smsRequest   `json:"template"`
	IncludeMessagesInResponse bool         `json:"includeMessagesInResponse"`
	ClientIP                  string       `json:"clientIp"`
}

// smsResponse is the answer to one message. source: 8x8 sms_api.json, SmsResponse.
type smsResponse struct {
	Umid            string     `json:"umid"`
	ClientMessageID *string    `json:"clientMessageId"`
	Destination     string     `json:"destination"`
	Encoding        string     `json:"encoding"`
	Status          sendStatus `json:"status"`
}

type sendStatus struct {
	Code        string `json:"code"`
	Description string `json:"description"`
}

type batchResponse struct {
	BatchID       string        `json:"batchId"`
	ClientBatchID *string       `json:"clientBatchId"`
	AcceptedCount int           `json:"acceptedCount"`
	RejectedCount int           `json:"rejectedCount"`
	Messages      []smsResponse `json:"messages"`
}

// Limits. source: 8x8 send-sms-api-reference.md, sms_api.json.
const (
	maxSource          = 16
	maxClientMessageID = 350
	maxClientBatchID   = 20
	maxBatch           = 10_000
	maxSchedule        = 7 * 24 * time.Hour
)

// message is one SMS, out or in. Nothing but its receipts changes once it is
// stored: the state it shows follows from the time.
type message struct {
	umid            string
	batchID         string
	clientMessageID *string
	clientBatchID   *string
	subAccountID    string
	inbound         bool
	country         string
	source          string
	destination     string // with +
	text            string
	encoding        string
	smsCount        int
	free            bool // refused by 8x8, so not charged
	createdAt       time.Time
	startAt         time.Time // when it is sent
	cancelled       bool      // before that
	timeline        []moment  // the first is when it was queued
	receipts        []*notice
}

// moment is when a message takes on a state.
type moment struct {
	at           time.Time
	state        string
	detail       string
	errorCode    int
	errorMessage string
}

// messageStatus is a moment as 8x8 writes it. source: 8x8
// message-status-references.md.
type messageStatus struct {
	State        string `json:"state"`
	Detail       string `json:"detail,omitempty"`
	Timestamp    string `json:"timestamp"`
	ErrorCode    int    `json:"errorCode,omitempty"`
	ErrorMessage string `json:"errorMessage,omitempty"`
}

func (m moment) status() messageStatus {
	return messageStatus{m.state, m.detail, timestamp(m.at), m.errorCode, m.errorMessage}
}

func (m *message) price() price {
	if m.free {
		return price{money(0), money(centsPerSMS), currency}
	}
	return price{money(centsPerSMS * m.smsCount), money(centsPerSMS), currency}
}

// now is the latest state that has been reached.
func (m *message) now(now time.Time) moment {
	current := m.timeline[0]
	for _, next := range m.timeline[1:] {
		if next.at.After(now) {
			break
		}
		current = next
	}
	return current
}

// check is 8x8's validation; which code stands for which rule is our choice
// where sms_api.json names only the codes.
func (a *account) check(r *smsRequest, now time.Time) (startAt time.Time, failed *vendorError) {
	startAt = now
	switch {
	case !msisdnPattern.MatchString(r.Destination):
		return now, refused(1002, "Invalid MSISDN format: not an E.164 international number")
	case r.Text == "":
		return now, refused(1004, "Invalid text: it is empty")
	case a.server.opts.RefuseLongTexts && catalog.Parts(r.Text, r.Encoding).SMSCount > catalog.MaxParts:
		return now, refused(1004, "Invalid text: it takes more than 10 parts")
	case utf8.RuneCountInString(r.Source) > maxSource:
		return now, refused(1005, "Invalid source: it is too long")
	case r.Encoding != "" && r.Encoding != "AUTO" && r.Encoding != "GSM7" && r.Encoding != "UCS2":
		return now, refused(1003, "Invalid encoding")
	case r.Country != "" && !countryPattern.MatchString(r.Country):
		return now, refused(1009, "Invalid country")
	case r.ClientMessageID != nil && utf8.RuneCountInString(*r.ClientMessageID) > maxClientMessageID:
		return now, refused(3009, "clientMessageId is too long")
	case r.DlrCallbackURL != "" && !isURL(r.DlrCallbackURL):
		return now, refused(3020, "Invalid DR callback URL")
	}
	if r.ClientIP != "" {
		if _, err := netip.ParseAddr(r.ClientIP); err != nil {
			return now, refused(1012, "Invalid IP address")
		}
	}
	if r.Scheduled != "" {
		at, err := time.Parse(time.RFC3339, r.Scheduled)
		if err != nil || at.Before(now) || at.After(now.Add(maxSchedule)) {
			return now, refused(1011, "Invalid schedule time: want a time with an offset, at most 7 days ahead")
		}
		startAt = at
	}
	if r.Expiry != "" {
		if at, err := time.Parse(time.RFC3339, r.Expiry); err != nil || at.Before(now) {
			return now, refused(1006, "Invalid expiry: it has passed")
		}
	}
	return startAt, nil
}

// script is the last two digits of a destination, which choose what becomes of it.
func script(destination string) string {
	if len(destination) < 2 {
		return ""
	}
	return destination[len(destination)-2:]
}

// newMessage is a checked request as a message, with all that will become of it.
func (a *account) newMessage(r *smsRequest, startAt, now time.Time) *message {
	m := &message{
		umid: newUUID(), clientMessageID: r.ClientMessageID, subAccountID: r.SubAccountID,
		country: strings.ToUpper(r.Country), source: r.Source, destination: "+" + strings.TrimPrefix(r.Destination, "+"),
		text: r.Text, createdAt: now, startAt: startAt,
	}
	parts := catalog.Parts(r.Text, r.Encoding)
	// Longer texts are cut off and sent. source: 8x8 getting-started.md.
	m.encoding, m.smsCount = parts.Encoding, min(parts.SMSCount, catalog.MaxParts)
	if parts.SMSCount > catalog.MaxParts {
		m.text = cut(r.Text, r.Encoding)
	}
	step := a.server.opts.ReceiptDelay
	m.timeline = []moment{{at: now, state: "queued"}}
	sent := moment{at: startAt.Add(step), state: "sent"}
	last := moment{at: startAt.Add(2 * step), state: "delivered", detail: "delivered_to_recipient"}
	switch script(r.Destination) {
	case "01":
		last = moment{at: last.at, state: "undelivered", detail: "rejected_by_operator", errorCode: 15, errorMessage: "Invalid destination"}
	case "02":
		m.timeline = append(m.timeline, sent)
		return m
	case "03":
		m.free = true
		m.timeline = append(m.timeline, moment{at: sent.at, state: "rejected", errorCode: 42, errorMessage: "No credit"})
		return m
	case "04":
		last.detail = "delivered_to_operator"
	}
	m.timeline = append(m.timeline, sent, last)
	return m
}

// accept stores messages and sends their receipts off.
func (a *account) accept(messages []*message, requests []*smsRequest) {
	for i, m := range messages {
		to := a.server.webhookOf(m.subAccountID)
		if requests[i].DlrCallbackURL != "" {
			to = webhook{url: requests[i].DlrCallbackURL}
		}
		if to.url == "" {
			continue
		}
		for _, moment := range m.timeline[1:] {
			m.receipts = append(m.receipts, m.receipt(to, moment))
		}
		if script(m.destination) == "07" {
			sent, last := m.receipts[0], m.receipts[1]
			again := func(n *notice) *notice {
				return &notice{url: n.url, authorization: n.authorization, body: n.body, state: n.state, due: last.due}
			}
			m.receipts = []*notice{last, again(sent), again(sent), again(last)}
		}
	}
	a.mu.Lock()
	for _, m := range messages {
		a.messages[m.umid] = m
		a.order = append(a.order, m)
		if !m.free {
			a.spent += centsPerSMS * m.smsCount
		}
	}
	a.mu.Unlock()
	for _, m := range messages {
		a.courier.send(m.receipts)
	}
}

// receiptPayload. source: 8x8 delivery-receipts-for-outbound-sms.md.
type receiptPayload struct {
	Umid            string        `json:"umid"`
	BatchID         string        `json:"batchId,omitempty"`
	ClientMessageID *string       `json:"clientMessageId,omitempty"`
	ClientBatchID   *string       `json:"clientBatchId,omitempty"`
	SubAccountID    string        `json:"subAccountId"`
	Source          string        `json:"source"`
	Destination     string        `json:"destination"`
	Status          messageStatus `json:"status"`
	Price           *price        `json:"price,omitempty"`
	SMSCount        int           `json:"smsCount"`
}

func (m *message) receipt(to webhook, at moment) *notice {
	payload := receiptPayload{
		Umid: m.umid, BatchID: m.batchID, ClientMessageID: m.clientMessageID, ClientBatchID: m.clientBatchID,
		SubAccountID: m.subAccountID, Source: m.source, Destination: m.destination, Status: at.status(), SMSCount: m.smsCount,
	}
	if !m.free {
		charged := m.price()
		payload.Price = &charged
	}
	n := newNotice(to, at.at, "outbound_message_status_changed", "Status of an outgoing SMS has changed", payload)
	n.state = at.state
	return n
}

func (a *account) sendSMS(x *exchange) (int, any, bool, *vendorError) {
	var r smsRequest
	if failed := read(x.input, &r, &r.SubAccountID); failed != nil {
		return 0, nil, false, failed
	}
	now := a.server.opts.Now()
	startAt, failed := a.check(&r, now)
	if failed != nil {
		return 0, nil, false, failed
	}
	if failed := a.admit(r.SubAccountID, r.ClientIP, now); failed != nil {
		return 0, nil, false, failed
	}
	if script(r.Destination) == "06" {
		return 0, nil, false, &vendorError{status: http.StatusTooManyRequests, code: 429, message: "Rate limit exceeded, try again in 1 second", retryAfter: 1}
	}
	m := a.newMessage(&r, startAt, now)
	if script(r.Destination) == "08" {
		return http.StatusOK, m.response("REJECTED", "SMS is rejected"), false, nil
	}
	a.accept([]*message{m}, []*smsRequest{&r})
	if script(r.Destination) == "05" {
		return 0, nil, true, &vendorError{status: http.StatusInternalServerError, code: 2000, message: "Internal server error", happened: true}
	}
	return http.StatusOK, m.response("QUEUED", "SMS is accepted and queued for processing"), true, nil
}

// response echoes the destination without +, as 8x8 does.
func (m *message) response(code, description string) smsResponse {
	return smsResponse{
		Umid: m.umid, ClientMessageID: m.clientMessageID, Destination: strings.TrimPrefix(m.destination, "+"),
		Encoding: m.encoding, Status: sendStatus{code, description},
	}
}

func (a *account) sendBatch(x *exchange) (int, any, bool, *vendorError) {
	var r batchRequest
	if failed := read(x.input, &r, &r.SubAccountID); failed != nil {
		return 0, nil, false, failed
	}
	if len(r.Messages) == 0 { // messages wins where both are given
		for _, destination := range r.Destinations {
			r.Messages = append(r.Messages, smsRequest{Destination: destination})
		}
	}
	switch {
	case len(r.Messages) == 0:
		return 0, nil, false, refused(3012, "No messages")
	case len(r.Messages) > maxBatch:
		return 0, nil, false, refused(1100, "Bulk limit exceeded: at most 10000 messages")
	case r.ClientBatchID != nil && utf8.RuneCountInString(*r.ClientBatchID) > maxClientBatchID:
		return 0, nil, false, refused(3014, "clientBatchId is too long")
	}
	now := a.server.opts.Now()
	if failed := a.admit(r.SubAccountID, r.ClientIP, now); failed != nil {
		return 0, nil, false, failed
	}
	answer := batchResponse{BatchID: newUUID(), ClientBatchID: r.ClientBatchID}
	var responses []smsResponse
	var accepted []*message
	var requests []*smsRequest
	for i := range r.Messages {
		item := r.Messages[i].withDefaults(&r)
		startAt, failed := a.check(item, now)
		m := a.newMessage(item, startAt, now)
		m.batchID, m.clientBatchID = answer.BatchID, r.ClientBatchID
		switch {
		case failed != nil:
			answer.RejectedCount++
			responses = append(responses, m.response("REJECTED", failed.message))
		case script(item.Destination) == "08":
			answer.RejectedCount++
			responses = append(responses, m.response("REJECTED", "SMS is rejected"))
		case script(item.Destination) == "06":
			// One number that 8x8 has no room for holds up the whole request.
			return 0, nil, false, &vendorError{status: http.StatusTooManyRequests, code: 429, message: "Rate limit exceeded, try again in 1 second", retryAfter: 1}
		default:
			answer.AcceptedCount++
			responses = append(responses, m.response("QUEUED", "SMS is accepted and queued for processing"))
			accepted = append(accepted, m)
			requests = append(requests, item)
		}
	}
	a.accept(accepted, requests)
	for _, m := range accepted {
		if script(m.destination) == "05" {
			return 0, nil, true, &vendorError{status: http.StatusInternalServerError, code: 2000, message: "Internal server error", happened: true}
		}
	}
	if r.IncludeMessagesInResponse {
		answer.Messages = responses
	}
	return http.StatusOK, answer, len(accepted) > 0, nil
}

// withDefaults fills an item from the batch's template.
func (r smsRequest) withDefaults(batch *batchRequest) *smsRequest {
	r.SubAccountID = batch.SubAccountID
	for _, field := range []struct {
		own      *string
		fallback string
	}{
		{&r.Text, batch.Template.Text},
		{&r.Source, batch.Template.Source},
		{&r.Encoding, batch.Template.Encoding},
		{&r.Scheduled, batch.Template.Scheduled},
		{&r.Expiry, batch.Template.Expiry},
		{&r.DlrCallbackURL, batch.Template.DlrCallbackURL},
		{&r.ClientIP, batch.ClientIP},
	} {
		if *field.own == "" {
			*field.own = field.fallback
		}
	}
	return &r
}

// statusResponse. source: 8x8 sms_api.json, get-sms-message-details.
type statusResponse struct {
	Umid            string        `json:"umid"`
	SubAccountID    string        `json:"subAccountId"`
	Direction       string        `json:"direction"`
	Country         string        `json:"country,omitempty"`
	Status          messageStatus `json:"status"`
	Msisdn          string        `json:"msisdn"`
	Source          string        `json:"source"`
	Body            string        `json:"body"`
	Encoding        string        `json:"encoding"`
	CreatedAt       string        `json:"createdAt"`
	SMSCount        int           `json:"smsCount"`
	Price           price         `json:"price"`
	ClientMessageID *string       `json:"clientMessageId,omitempty"`
	ClientBatchID   *string       `json:"clientBatchId,omitempty"`
	BatchID         string        `json:"batchId,omitempty"`
}

const maskedBody = "**MASKED**"

// mask hides the last four digits of a number.
func mask(number string) string {
	if len(number) < 4 {
		return "xxxx"
	}
	return number[:len(number)-4] + "xxxx"
}

func (a *account) getStatus(x *exchange) (int, any, bool, *vendorError) {
	var r struct {
		SubAccountID string `json:"subAccountId"`
		Umid         string `json:"umid"`
	}
	if failed := read(x.input, &r, &r.SubAccountID); failed != nil {
		return 0, nil, false, failed
	}
	if !uuidPattern.MatchString(r.Umid) {
		return 0, nil, false, refused(1000, "Invalid parameter: umid is no UUID")
	}
	now := a.server.opts.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	// One a second for each sub-account. source: 8x8 sms_api.json.
	if last, ok := a.lastStatus[r.SubAccountID]; ok && now.Sub(last) < time.Second && !now.Before(last) {
		return 0, nil, false, &vendorError{status: http.StatusTooManyRequests, code: 429, message: "Rate limit exceeded, try again in 1 second", retryAfter: 1}
	}
	a.lastStatus[r.SubAccountID] = now
	m, ok := a.messages[strings.ToLower(r.Umid)]
	if !ok || m.subAccountID != r.SubAccountID {
		return 0, nil, false, unknownObject("Message not found")
	}
	return http.StatusOK, m.details(now), false, nil
}

func (m *message) details(now time.Time) statusResponse {
	answer := statusResponse{
		Umid: m.umid, SubAccountID: m.subAccountID, Direction: "outbound", Country: m.country, Status: m.now(now).status(),
		Msisdn: mask(m.destination), Source: m.source, Body: maskedBody, Encoding: m.encoding, CreatedAt: timestamp(m.createdAt),
		SMSCount: m.smsCount, Price: m.price(), ClientMessageID: m.clientMessageID, ClientBatchID: m.clientBatchID, BatchID: m.batchID,
	}
	if m.inbound {
		answer.Direction, answer.Msisdn, answer.Source = "inbound", mask(m.source), m.destination
	}
	return answer
}
