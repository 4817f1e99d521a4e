package cloudevent

import (
	"mime"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
)

// attr is one of the attributes that the specification defines.
type attr uint8

const (
	extension attr = iota // any other
	attrSpecVersion
	attrID
	attrSource
	attrType
	attrSubject
	attrTime
	attrDataContentType
	attrDataSchema
)

func attrOf(name []byte) attr {
	switch string(name) {
	case "specversion":
		return attrSpecVersion
	case "id":
		return attrID
	case "source":
		return attrSource
	case "type":
		return attrType
	case "subject":
		return attrSubject
	case "time":
		return attrTime
	case "datacontenttype":
		return attrDataContentType
	case "dataschema":
		return attrDataSchema
	default:
		return extension
	}
}

func (a attr) String() string {
	return [...]string{"extension", "specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"}[a]
}

// reading is an event while its attributes are being gathered.
type reading struct {
	// ctx becomes the event's context; the values that it points to lie beside it, so
	// that all cost one allocation.
	ctx         event.EventContextV1
	subject     string
	contentType string
	time        types.Timestamp
	schema      types.URI

	seen      uint16 // bit per attr that was named, whether or not it had a value
	has       uint16 // bit per attr that has a value
	rawSource string
	nulls     []string // extensions that were named with a null
	bare      bool
}

// name notes that an attribute was named, which may happen once.
func (r *reading) name(a attr) *MalformedError {
	if r.seen&(1<<a) != 0 {
		return malformed(a.String(), "is given more than once")
	}
	r.seen |= 1 << a
	return nil
}

// set takes the text of an attribute other than an extension.
func (r *reading) set(a attr, v string) *MalformedError {
	if v == "" {
		if a == attrSubject {
			return nil // written by serializers for "no subject"
		}
		return malformed(a.String(), "must not be empty")
	}
	if !isText(v) {
		return malformed(a.String(), notText)
	}
	switch a {
	case attrSpecVersion:
		if v != event.CloudEventsVersionV1 {
			return malformed(a.String(), `must be "1.0"`)
		}
	case attrID:
		if blank(v) {
			return malformed(a.String(), "must not be empty")
		}
		r.ctx.ID = v
	case attrSource:
		u, err := url.Parse(v)
		if err != nil || blank(v) {
			return malformed(a.String(), "is not a URI-reference")
		}
		r.rawSource, r.ctx.Source.URL = v, *u
	case attrType:
		if blank(v) {
			return malformed(a.String(), "must not be empty")
		}
		r.ctx.Type = v
	case attrSubject:
		if blank(v) {
			return nil
		}
		r.subject = v
		r.ctx.Subject = &r.subject
	case attrTime:
		t, ok := parseTime(v)
		if !ok {
			return malformed(a.String(), "is not an RFC 3339 timestamp")
		}
		r.time.Time = t
		r.ctx.Time = &r.time
	case attrDataContentType:
		if v != "application/json" {
			if _, _, err := mime.ParseMediaType(v); err != nil {
				return malformed(a.String(), "is not a media type")
			}
			if isJSONType(v) && !isUTF8(v) {
				return malformed(a.String(), "names a character set other than UTF-8, which JSON must be in")
			}
		}
		r.contentType = v
		r.ctx.DataContentType = &r.contentType
	case attrDataSchema:
		u, err := url.Parse(v)
		if err != nil || !u.IsAbs() {
			return malformed(a.String(), "is not an absolute URI")
		}
		r.schema.URL = *u
		r.ctx.DataSchema = &r.schema
	}
	r.has |= 1 << a
	return nil
}

// mostExtensions is far beyond what anybody uses. Without a bound an event of a
// megabyte is tens of thousands of them, each a member of a map.
const mostExtensions = 256

// nameExtension checks an extension's name, which may be used once.
func (r *reading) nameExtension(name string) *MalformedError {
	if len(r.ctx.Extensions)+len(r.nulls) >= mostExtensions {
		return malformed("", "has more than "+strconv.Itoa(mostExtensions)+" extension attributes")
	}
	if name == "" {
		return malformed("", "an attribute has an empty name")
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			if shown := quoted(name); shown != "" {
				return malformed(shown, "is not an attribute name: use a to z and 0 to 9 only")
			}
			return malformed("", "an attribute has a name with characters other than a to z and 0 to 9")
		}
	}
	_, twice := r.ctx.Extensions[name]
	for _, n := range r.nulls {
		twice = twice || n == name
	}
	if twice {
		return malformed(quoted(name), "is given more than once")
	}
	return nil
}

// extend takes an extension, whose value is a string, a bool or an int32.
func (r *reading) extend(name string, value any) *MalformedError {
	if s, ok := value.(string); ok && !isText(s) {
		return malformed(quoted(name), notText)
	}
	if r.ctx.Extensions == nil {
		r.ctx.Extensions = make(map[string]any)
	}
	r.ctx.Extensions[name] = value
	return nil
}

// event is what was gathered, if nothing that must be there is missing.
func (r *reading) event() (Event, *MalformedError) {
	for _, a := range [...]attr{attrSpecVersion, attrID, attrSource, attrType} {
		if r.has&(1<<a) == 0 {
			return Event{}, malformed(a.String(), "is missing")
		}
	}
	return Event{Event: event.Event{Context: &r.ctx}, RawSource: r.rawSource, RawID: r.ctx.ID, BarePercent: r.bare}, nil
}

const notText = "holds a control character or a code point that is no character"

// isText says whether s holds only what a CloudEvents String may hold.
func isText(s string) bool {
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c < 0x20 || c == 0x7f {
				return false
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 || r <= 0x9f || r >= 0xfdd0 && r <= 0xfdef || r&0xfffe == 0xfffe {
			return false
		}
		i += n
	}
	return true
}

func blank(s string) bool { return strings.TrimSpace(s) == "" }

// parseTime reads an RFC 3339 timestamp, whose "T" and "Z" may be lower-case.
func parseTime(s string) (time.Time, bool) {
	if strings.ContainsAny(s, "tz") {
		s = strings.ToUpper(s)
	}
	// Go lets a one-digit hour and a decimal comma pass, which RFC 3339 does not.
	if len(s) < len("2006-01-02T15:04:05Z") || s[len("2006-01-02T15")] != ':' || strings.IndexByte(s, ',') >= 0 {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339, s)
	return t, err == nil
}

// mediaType is a content type without its parameters.
func mediaType(contentType string) string {
	if i := strings.IndexByte(contentType, ';'); i >= 0 {
		contentType = contentType[:i]
	}
	return strings.TrimSpace(contentType)
}

// isJSONType says whether a content type declares JSON: */json or *+json.
func isJSONType(contentType string) bool {
	m := mediaType(contentType)
	return hasSuffixFold(m, "/json") || hasSuffixFold(m, "+json")
}

// isUTF8 says whether a content type leaves its text in UTF-8.
func isUTF8(contentType string) bool {
	if strings.IndexByte(contentType, ';') < 0 {
		return true
	}
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	switch strings.ToLower(params["charset"]) {
	case "", "utf-8", "utf8", "us-ascii", "ascii":
		return true
	default:
		return false
	}
}

func isJSONData(e *event.Event) bool {
	if t := e.DataContentType(); t != "" {
		return isJSONType(t)
	}
	return !e.DataBase64
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

func hasSuffixFold(s, suffix string) bool {
	return len(s) >= len(suffix) && strings.EqualFold(s[len(s)-len(suffix):], suffix)
}
