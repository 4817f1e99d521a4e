package native

import "strings"

// chat knows Messaging Apps: inbound messages (v2, v3), receipts (v8, v9) and what
// a person wrote in the WhatsApp Business app (sources: 8x8
// inbound-chatapps-message.mdx, delivery-receipts-for-outbound-chatapps.mdx,
// whatsapp-business-scoped-user-ids.md). The versions differ in the user's ids
// only, which are for the data's reader.
func chat(b *body) (made, bool) {
	var p smsPayload
	if !strings.EqualFold(string(b.Namespace), "ChatApps") || !read(b.Payload, &p) || known(p.UMID) == "" {
		return made{}, false
	}
	m := made{source: under("chat", p.SubAccountID), id: known(p.UMID), subject: known(p.UMID), time: parseTime(p.Timestamp), data: b.Payload}
	switch b.EventType {
	case "inbound_message_received":
		m.typ = TypeChatReceived
	case "external_app_message":
		m.typ = TypeChatEcho
	case "outbound_message_status_changed":
		m.typ, m.time = TypeChatStatus, parseTime(p.Status.Timestamp)
		// With a fallback one message has receipts of several channels. The case of a
		// channel's name varies.
		m.id = hash(string(p.UMID), string(p.Status.State), string(p.Status.Detail), string(p.Status.Timestamp), string(p.Status.ErrorCode), strings.ToLower(string(p.Channel)))
		m.data = withOutcome(b.Payload, outcomeOf(p.Status))
	default:
		return made{}, false
	}
	return m, true
}
