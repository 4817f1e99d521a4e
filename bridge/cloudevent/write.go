package cloudevent

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/types"
)

// ToJSON writes an event in the JSON format.
func ToJSON(e *Event) ([]byte, error) {
	return AppendJSON(make([]byte, 0, 256+len(e.DataEncoded)*4/3), e)
}

// AppendJSON appends an event in the JSON format to dst. Data that claims to be
// JSON and is not is written as data_base64, so that it is never lost. The error
// names an attribute that the event must have and has not, or an extension whose
// value is no CloudEvents value.
func AppendJSON(dst []byte, e *Event) ([]byte, error) {
	sep := `{"`
	err := each(e, func(name string, value any) error {
		dst = append(dst, sep...)
		sep = `,"`
		dst = append(append(dst, name...), '"', ':')
		switch v := value.(type) {
		case string:
			dst = appendString(dst, v)
		case bool, int32:
			dst = fmt.Append(dst, v)
		default:
			s, err := types.Format(v)
			if err != nil {
				return malformed(quoted(name), "is no CloudEvents value")
			}
			dst = appendString(dst, s)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	switch data := e.DataEncoded; {
	case data == nil:
	case !e.DataBase64 && isJSONData(&e.Event) && validJSON(data):
		dst = append(append(dst, `,"data":`...), data...)
	case !e.DataBase64 && !isJSONData(&e.Event) && utf8.Valid(data):
		dst = appendString(append(dst, `,"data":`...), string(data))
	default:
		dst = append(dst, `,"data_base64":"`...)
		dst = append(base64.StdEncoding.AppendEncode(dst, data), '"')
	}
	return append(dst, '}'), nil
}

// ToBinary writes an event in the binary mode of NATS: every attribute, the
// data's content type too, is a ce- header.
func ToBinary(e *Event) (header map[string][]string, data []byte, err error) {
	header = make(map[string][]string, 10)
	err = each(e, func(name string, value any) error {
		s, err := format(name, value)
		header["ce-"+name] = []string{encodeHeader(s)}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if impliedJSON(e) {
		header["ce-datacontenttype"] = []string{"application/json"}
	}
	return header, e.DataEncoded, nil
}

// HTTPHeader writes an event in the binary mode of HTTP, where the data's
// content type is Content-Type.
func HTTPHeader(e *Event) (header http.Header, body []byte, err error) {
	header = make(http.Header, 10)
	err = each(e, func(name string, value any) error {
		s, err := format(name, value)
		if name == "datacontenttype" {
			header.Set("Content-Type", s)
		} else {
			header.Set("ce-"+name, encodeHeader(s))
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if impliedJSON(e) {
		header.Set("Content-Type", "application/json")
	}
	return header, e.DataEncoded, nil
}

// impliedJSON says whether the data is JSON without saying so, as the JSON
// format allows and the others do not.
func impliedJSON(e *Event) bool {
	return e.DataContentType() == "" && e.DataEncoded != nil && !e.DataBase64 && validJSON(e.DataEncoded)
}

func format(name string, value any) (string, error) {
	if s, ok := value.(string); ok {
		return s, nil
	}
	s, err := types.Format(value)
	if err != nil {
		return "", malformed(quoted(name), "is no CloudEvents value")
	}
	return s, nil
}

// each calls f for every attribute that has a value, extensions last and in
// order. Identity is written as it was received.
func each(e *Event, f func(name string, value any) error) error {
	if e.Context == nil {
		return malformed("specversion", "is missing")
	}
	id, source := e.RawID, e.RawSource
	if id == "" {
		id = e.ID()
	}
	if source == "" {
		source = e.Source()
	}
	put := func(name, value string, required bool) error {
		switch {
		case value == "" && required:
			return malformed(name, "is missing")
		case value == "":
			return nil
		case !isText(value):
			return malformed(name, notText)
		default:
			return f(name, value)
		}
	}
	at := ""
	if t := e.Time(); !t.IsZero() {
		at = t.UTC().Format(time.RFC3339Nano)
	}
	for _, a := range [...]struct {
		name, value string
		required    bool
	}{
		{"specversion", "1.0", true},
		{"id", id, true},
		{"source", source, true},
		{"type", e.Type(), true},
		{"subject", e.Subject(), false},
		{"time", at, false},
		{"datacontenttype", e.DataContentType(), false},
		{"dataschema", e.DataSchema(), false},
	} {
		if err := put(a.name, a.value, a.required); err != nil {
			return err
		}
	}
	ext := e.Extensions()
	if len(ext) == 0 {
		return nil
	}
	names := make([]string, 0, len(ext))
	for name := range ext {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		value := ext[name]
		if s, ok := value.(string); ok && !isText(s) {
			return malformed(quoted(name), notText)
		}
		if err := f(name, value); err != nil {
			return err
		}
	}
	return nil
}

// appendString appends s as a JSON string. What is not UTF-8 in it becomes
// U+FFFD.
func appendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				dst = append(append(dst, s[from:i]...), "\ufffd"...)
				from = i + 1
			}
			i += n
			continue
		}
		if c >= 0x20 && c != '"' && c != '\\' {
			i++
			continue
		}
		dst = append(dst, s[from:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		from = i
	}
	return append(append(dst, s[from:]...), '"')
}
