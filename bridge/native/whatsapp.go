package native

import "encoding/json"

// sameUpdate are updates that 8x8's pages call by two names.
var sameUpdate = map[string]string{
	"whatsapp_user_id_update": "user_id_update",
	"whatsapp_contact":        "contacts",
	"whatsapp_preference":     "user_preferences",
}

// whatsapp knows the updates about a WhatsApp business account, its templates and
// its numbers, which 8x8 calls CABM (sources: 8x8 whatsapp-account-update-webhook.md,
// whatsapp-template-change-webhook.md, whatsapp-phone-number-quality-change-webhook.md,
// whatsapp-business-scoped-user-ids.md).
func whatsapp(b *body) (made, bool) {
	var p struct {
		EventID           text            `json:"eventId"`
		Timestamp         text            `json:"timestamp"`
		Provider          text            `json:"provider"`
		AccountID         text            `json:"accountId"`
		BusinessAccountID text            `json:"businessAccountId"`
		EventDetails      json.RawMessage `json:"eventDetails"`
	}
	if b.Namespace != "" || !read(b.raw, &p) || p.Provider == "" || p.EventDetails == nil {
		return made{}, false
	}
	update := kind(string(b.EventType))
	if same, ok := sameUpdate[update]; ok {
		update = same
	}
	if update == "" {
		return made{}, false
	}
	m := made{typ: PrefixWhatsApp + update, source: under("whatsapp", p.AccountID), id: known(p.EventID), time: parseTime(p.Timestamp), data: b.raw}
	// A business account's id is digits alone, and as long as a phone number. Those
	// that are written as one, with a +, are none.
	if s := string(p.BusinessAccountID); isID(s) && s[0] != '+' {
		m.subject = s
	}
	return m, true
}
