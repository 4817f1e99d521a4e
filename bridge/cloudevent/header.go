package cloudevent

import (
	"strings"
	"unicode/utf8"
)

// encodeHeader writes an attribute's text as a header value: the UTF-8 bytes of
// blanks, quotes, percent signs and all that is not printable ASCII are
// percent-encoded (CloudEvents HTTP binding 3.1.3.2).
func encodeHeader(s string) string {
	plain := func(c byte) bool { return c > 0x20 && c < 0x7f && c != '"' && c != '%' }
	n := 0
	for i := range len(s) {
		if !plain(s[i]) {
			n++
		}
	}
	if n == 0 {
		return s
	}
	const hex = "0123456789ABCDEF"
	b := make([]byte, 0, len(s)+2*n)
	for i := range len(s) {
		if c := s[i]; plain(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(b)
}

// decodeHeader reads a header value: first a quoted string is undone, then one
// round of percent-encoding. With a "%" that starts no escape the text is taken
// as it stands, which bare reports. It fails if the result is not UTF-8.
func decodeHeader(v string) (s string, bare, ok bool) {
	if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
		v = unquote(v)
	}
	if strings.IndexByte(v, '%') < 0 {
		return v, false, utf8.ValidString(v)
	}
	b := make([]byte, 0, len(v))
	for i := 0; i < len(v); i++ {
		if v[i] != '%' {
			b = append(b, v[i])
			continue
		}
		if i+2 >= len(v) {
			return v, true, utf8.ValidString(v)
		}
		hi, ok1 := unhex(v[i+1])
		lo, ok2 := unhex(v[i+2])
		if !ok1 || !ok2 {
			return v, true, utf8.ValidString(v)
		}
		b = append(b, hi<<4|lo)
		i += 2
	}
	return string(b), false, utf8.Valid(b)
}

// unquote undoes a double-quoted string with backslash escapes; what is none is
// left alone.
func unquote(v string) string {
	inner := v[1 : len(v)-1]
	if strings.IndexByte(inner, '\\') < 0 {
		if strings.IndexByte(inner, '"') >= 0 {
			return v
		}
		return inner
	}
	b := make([]byte, 0, len(inner))
	for i := 0; i < len(inner); i++ {
		switch c := inner[i]; c {
		case '"':
			return v // a quote inside: no quoted string
		case '\\':
			if i++; i == len(inner) {
				return v // the closing quote was escaped: no quoted string
			}
			b = append(b, inner[i])
		default:
			b = append(b, c)
		}
	}
	return string(b)
}

// attributeName gives the attribute that a header stands for, in lower case.
// buf must be large enough for the known ones; a longer name is allocated.
func attributeName(key string, buf *[32]byte) ([]byte, bool) {
	if len(key) < 3 || key[2] != '-' || key[0]|0x20 != 'c' || key[1]|0x20 != 'e' {
		return nil, false
	}
	name := append(buf[:0], key[3:]...)
	for i, c := range name {
		if c >= 'A' && c <= 'Z' {
			name[i] = c + 'a' - 'A'
		}
	}
	return name, true
}

// fromHeader gathers the attributes of binary mode. contentType is the
// transport's own; with outranks it wins over a ce-datacontenttype, as it does
// over HTTP. If several attributes are at fault, the first by name is reported.
func fromHeader(header map[string][]string, contentType string, outranks bool) (*reading, *MalformedError) {
	r := new(reading)
	var first *MalformedError
	report := func(err *MalformedError) {
		if err != nil && (first == nil || err.Attr < first.Attr) {
			first = err
		}
	}
	var buf [32]byte
	for key, values := range header {
		name, ok := attributeName(key, &buf)
		if !ok || len(values) == 0 {
			continue
		}
		a := attrOf(name)
		if a == attrDataContentType && outranks && contentType != "" {
			continue
		}
		report(r.header(a, name, values))
	}
	if contentType != "" && r.seen&(1<<attrDataContentType) == 0 {
		report(r.set(attrDataContentType, contentType))
	}
	return r, first
}

func (r *reading) header(a attr, name []byte, values []string) *MalformedError {
	var ext string
	var err *MalformedError
	if a == extension {
		ext = string(name)
		if ext == "data" {
			return malformed("data", "is not an attribute")
		}
		err = r.nameExtension(ext)
	} else {
		err = r.name(a)
		ext = a.String()
	}
	if err != nil {
		return err
	}
	if len(values) > 1 {
		return malformed(quoted(ext), "is given more than once")
	}
	v, bare, ok := decodeHeader(values[0])
	if !ok {
		return malformed(quoted(ext), "is not UTF-8 after percent-decoding")
	}
	r.bare = r.bare || bare
	if a == extension {
		return r.extend(ext, v)
	}
	return r.set(a, v)
}

// headerValue finds a header whatever its case.
func headerValue(header map[string][]string, name string) string {
	// The two ways in which nearly everybody writes it.
	if v := header[name]; len(v) > 0 {
		return v[0]
	}
	for key, v := range header {
		if len(key) == len(name) && len(v) > 0 && strings.EqualFold(key, name) {
			return v[0]
		}
	}
	return ""
}
