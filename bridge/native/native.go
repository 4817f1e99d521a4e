// Package native turns 8x8's own webhooks into CloudEvents. Its functions are
// pure: what a request proves about its sender is for others to check.
//
// The data of an event is what 8x8 sent, byte for byte: the payload object where
// the webhook has an envelope, or else the whole body. Only a receipt's data has
// one member more, at its end: outcome (see Outcome). Phone numbers, names and
// texts stay in the data: a CloudEvent's attributes travel and are logged in
// clear, so they are made of 8x8's own ids alone.
package native

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
)

// The types of the events that come from 8x8. Those of WhatsApp, Voice, Contact
// Center and Video are a prefix and 8x8's own word for what happened in small
// letters, such as com.8x8.voice.session_summary.
const (
	TypeSMSStatus       = "com.8x8.sms.status"
	TypeSMSReceived     = "com.8x8.sms.received"
	TypeSMSClicked      = "com.8x8.sms.clicked"
	TypeSMSSurvey       = "com.8x8.sms.survey"
	TypeChatReceived    = "com.8x8.chat.received"
	TypeChatStatus      = "com.8x8.chat.status"
	TypeChatEcho        = "com.8x8.chat.echo"
	PrefixWhatsApp      = "com.8x8.whatsapp."
	PrefixVoice         = "com.8x8.voice."
	PrefixContactCenter = "com.8x8.contactcenter."
	PrefixVideo         = "com.8x8.video."
	// TypeUnrecognized is a webhook of a kind that is not known here. Its data is the
	// whole body, whatever that is.
	TypeUnrecognized = "com.8x8.unrecognized"
)

// The two kinds of webhook that are questions: 8x8 acts on the body that they are
// answered with.
const (
	TypeCallAction      = PrefixVoice + "call_action"
	TypeMeetingSettings = PrefixVideo + "settings_provisioning"
)

// VersionExtension is the extension with the version that 8x8 gives in the
// envelope: it says how to read the data, and is not in it. Absent where 8x8 gives
// none.
const VersionExtension = "payloadversion"

// body is what tells 8x8's webhooks apart (source: 8x8
// webhook-object-structure.md and the page of each family).
type body struct {
	raw    []byte
	header http.Header

	Namespace text            `json:"namespace"`
	EventType text            `json:"eventType"`
	Version   text            `json:"version"`
	Payload   json.RawMessage `json:"payload"`
}

// made is a webhook that was recognized. An empty id stands for the hash of the
// whole body: what is posted again is the same event.
type made struct {
	typ, source, id, subject string
	time                     time.Time
	data                     []byte
}

// families are tried in this order; the first that knows a body makes the event.
// An envelope's namespace decides before the flat bodies are looked at.
var families = [...]func(*body) (made, bool){
	sms, chat, voice, survey, whatsapp, video, contactCenter, stream, wavecell,
}

// Convert makes a CloudEvent of one webhook of 8x8. The same webhook, posted
// again, gives the same source and id. receivedAt is the event's time where 8x8
// gives none that can be read. Of the header only what 8x8 says of the event is
// read; it may be nil.
//
// A kind of webhook that is not known here gives an event of TypeUnrecognized, and
// so does what is no JSON: 8x8 repeats what is refused and then drops it.
func Convert(header http.Header, raw []byte, receivedAt time.Time) event.Event {
	contentType, version := event.ApplicationJSON, ""
	m, known := made{}, false
	if b := (body{raw: raw, header: header}); !utf8.Valid(raw) || !json.Valid(raw) {
		contentType = typeOf(header)
	} else if json.Unmarshal(raw, &b) == nil {
		for _, family := range families {
			if m, known = family(&b); known {
				if b.Payload != nil { // without an envelope it is in the data
					version = string(b.Version)
				}
				break
			}
		}
	}
	if !known {
		m = made{typ: TypeUnrecognized, source: "/8x8", data: raw}
	}
	if m.id == "" {
		m.id = hash(string(raw))
	}
	if m.time.IsZero() {
		m.time = receivedAt
	}
	e := event.New()
	e.SetType(m.typ)
	e.SetSource(m.source)
	e.SetID(m.id)
	if m.subject != "" {
		e.SetSubject(m.subject)
	}
	e.SetTime(m.time)
	if n, err := strconv.ParseUint(version, 10, 31); err == nil {
		e.SetExtension(VersionExtension, int32(n))
	}
	if len(m.data) > 0 {
		e.SetDataContentType(contentType)
		e.DataEncoded = m.data
	}
	return e
}

// typeOf is the media type of a body that is no JSON.
func typeOf(header http.Header) string {
	media, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil || strings.HasSuffix(media, "json") || strings.HasPrefix(media, "application/cloudevents") || !isID(media) {
		return "application/octet-stream"
	}
	return media
}

// text is a JSON string, or a number or a boolean as it is written; anything else
// is empty. So one odd member does not make a webhook unreadable, and "15" is 15.
type text string

func (t *text) UnmarshalJSON(raw []byte) error {
	*t = ""
	switch raw[0] {
	case '"':
		return json.Unmarshal(raw, (*string)(t))
	case '{', '[', 'n': // n is null
	default:
		*t = text(raw)
	}
	return nil
}

func (t text) upper() string { return strings.ToUpper(string(t)) }

// object says whether raw is a JSON object.
func object(raw []byte) bool {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	return len(raw) > 0 && raw[0] == '{'
}

// read reads a JSON object into v. Members of v are texts, raw messages or
// structs of them.
func read(raw []byte, v any) bool { return object(raw) && json.Unmarshal(raw, v) == nil }

// under is a source: the family, and whose account it is if that is known.
func under(family string, account text) string {
	if account == "" || len(account) > 256 || strings.Trim(string(account), ".") == "" || isNumber(string(account)) {
		return "/8x8/" + family
	}
	return "/8x8/" + family + "/" + url.PathEscape(string(account))
}

// kind is 8x8's word for what happened as the end of an event type, such as
// room_created for ROOM_CREATED and interaction_created for InteractionCreated;
// empty if it cannot be one.
func kind(word string) string {
	if word == "" || len(word) > 64 {
		return ""
	}
	small := make([]byte, 0, len(word)+8)
	for i := range len(word) {
		c := word[i]
		switch {
		case c >= 'A' && c <= 'Z':
			if i > 0 && word[i-1] >= 'a' && word[i-1] <= 'z' {
				small = append(small, '_')
			}
			small = append(small, c+'a'-'A')
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '_':
			small = append(small, c)
		case c == ' ' || c == '-' || c == '/':
			small = append(small, '_')
		default:
			return ""
		}
	}
	return string(small)
}

// known is s if it may be an event's id or subject; empty otherwise.
func known(s text) string {
	if isID(string(s)) && !isNumber(string(s)) {
		return string(s)
	}
	return ""
}

// isID says whether s may be an event's id: some printable ASCII, which every
// UUID is. Anything else would not be one of 8x8's ids.
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

// isNumber says whether s could be a phone number, which is no id, whatever field
// it stands in.
func isNumber(s string) bool {
	digits := 0
	for _, c := range []byte(s) {
		switch {
		case c >= '0' && c <= '9':
			digits++
		case c != '+' && c != '-' && c != '(' && c != ')' && c != '.' && c != ' ':
			return false
		}
	}
	return digits >= 7 && digits <= 15
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

// parseTime reads 8x8's timestamps: RFC 3339 with 0 to 9 digits of a second's
// fraction, in UTC where no zone is given; or a number of seconds or of
// milliseconds since 1970. It is zero for anything else.
func parseTime(s text) time.Time {
	if n, err := strconv.ParseInt(string(s), 10, 64); err == nil {
		// Seconds reach this number in the year 5138; milliseconds had it in 1973.
		if n < 1e11 {
			n *= 1000
		}
		return writable(time.UnixMilli(n))
	}
	for _, layout := range [...]string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04:05-0700"} {
		if t, err := time.Parse(layout, s.upper()); err == nil {
			return writable(t)
		}
	}
	return time.Time{}
}

// writable is t in UTC. A year that RFC 3339 cannot write would make an event
// nobody can read.
func writable(t time.Time) time.Time {
	if t = t.UTC(); t.Year() > 0 && t.Year() < 10000 {
		return t
	}
	return time.Time{}
}
