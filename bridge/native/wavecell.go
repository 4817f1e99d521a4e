package native

// wavecell knows the flat webhooks of accounts that 8x8 has not moved to the
// envelope yet (source: 8x8 webhook-migration-guide.md). They are of chat apps, and
// become the same events.
func wavecell(b *body) (made, bool) {
	var p smsPayload
	if b.Namespace != "" || !read(b.raw, &p) || known(p.UMID) == "" {
		return made{}, false
	}
	m := made{source: under("chat", p.SubAccountID), id: known(p.UMID), subject: known(p.UMID), time: parseTime(p.Timestamp), data: b.raw}
	switch b.EventType {
	case "inboundMessage":
		m.typ = TypeChatReceived
	case "outboundMessageDelivery":
		m.typ, m.id, m.data = TypeChatStatus, hash(string(p.UMID), string(p.Status.State)), withOutcome(b.raw, outcomeOf(p.Status))
	default:
		return made{}, false
	}
	return m, true
}
