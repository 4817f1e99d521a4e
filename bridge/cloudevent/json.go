package cloudevent

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strconv"
	"unicode/utf8"
)

// FromJSON reads one event in the JSON format (structured mode). The error is a
// *MalformedError.
func FromJSON(data []byte) (Event, error) {
	e, err := fromJSON(data)
	if err != nil {
		return Event{}, err
	}
	return e, nil
}

// payload is the data of an event while it is being read: where its content
// type stands is known only at the end.
type payload struct {
	data, base64 []byte // as they stand, quotes included
	isNull       bool   // data_base64 is null
}

func fromJSON(data []byte) (Event, *MalformedError) {
	if !utf8.Valid(data) {
		return Event{}, malformed("", "not JSON: not in UTF-8")
	}
	s := scanner{data: data}
	s.space()
	if !s.take('{') {
		if s.pos == len(data) {
			return Event{}, malformed("", "there is nothing in it")
		}
		return Event{}, malformed("", "not a JSON object")
	}
	var (
		r reading
		p payload
	)
	s.space()
	if !s.take('}') {
		for {
			if s.peek() != '"' {
				return Event{}, s.notJSON()
			}
			if err := s.member(&r, &p); err != nil {
				return Event{}, err
			}
			s.space()
			if s.take('}') {
				break
			}
			if !s.take(',') {
				return Event{}, s.notJSON()
			}
			s.space()
		}
	}
	s.space()
	if s.pos < len(data) {
		return Event{}, malformed("", "something follows the event's closing brace")
	}
	e, err := r.event()
	if err != nil {
		return Event{}, err
	}
	if err := p.into(&e); err != nil {
		return Event{}, err
	}
	return e, nil
}

// member reads one member of the event.
func (s *scanner) member(r *reading, p *payload) *MalformedError {
	name, escaped, err := s.str()
	if err != nil {
		return err
	}
	if escaped {
		var ok bool
		if name, ok = unescape(name); !ok {
			return malformed("", "an attribute's name is no text")
		}
	}
	s.space()
	if !s.take(':') {
		return s.notJSON()
	}
	s.space()

	from := s.pos
	switch string(name) {
	case "data":
		if p.data != nil {
			return malformed("data", "is given more than once")
		}
		if err := s.value(1); err != nil {
			return err
		}
		p.data = s.data[from:s.pos]
		return nil
	case "data_base64":
		if p.base64 != nil || p.isNull {
			return malformed("data_base64", "is given more than once")
		}
		first := s.peek()
		if err := s.value(1); err != nil {
			return err
		}
		switch first {
		case '"':
			p.base64 = s.data[from:s.pos]
		case 'n':
			p.isNull = true
		default:
			return malformed("data_base64", "must be a string in base64")
		}
		return nil
	}

	a := attrOf(name)
	ext := ""
	if a == extension {
		ext = string(name)
		err = r.nameExtension(ext)
	} else {
		err = r.name(a)
	}
	if err != nil {
		return err
	}
	called := func() string {
		if a == extension {
			return quoted(ext)
		}
		return a.String()
	}

	switch c := s.peek(); {
	case c == '"':
		raw, escaped, err := s.str()
		if err != nil {
			return err
		}
		if escaped {
			var ok bool
			if raw, ok = unescape(raw); !ok {
				return malformed(called(), notText)
			}
		}
		if a == extension {
			return r.extend(ext, string(raw))
		}
		return r.set(a, string(raw))
	case c == 'n':
		if err := s.word("null"); err != nil {
			return err
		}
		if a == extension {
			r.nulls = append(r.nulls, ext)
		}
		return nil // the same as absent
	case a != extension:
		if err := s.value(1); err != nil {
			return err
		}
		return malformed(called(), "must be a string")
	case c == 't' || c == 'f':
		if err := s.value(1); err != nil {
			return err
		}
		return r.extend(ext, c == 't')
	case c == '{' || c == '[':
		if err := s.value(1); err != nil {
			return err
		}
		return malformed(called(), "must be a string, an integer or a boolean, not an object or array")
	default:
		if err := s.number(); err != nil {
			return err
		}
		n, bad := strconv.ParseInt(string(s.data[from:s.pos]), 10, 32)
		if bad != nil {
			return malformed(called(), "is not an integer of 32 bits")
		}
		return r.extend(ext, int32(n))
	}
}

// into gives the event its data.
func (p *payload) into(e *Event) *MalformedError {
	switch {
	case p.data != nil && p.base64 != nil:
		return malformed("data_base64", "is given together with data")
	case p.base64 != nil:
		raw := p.base64[1 : len(p.base64)-1]
		if bytes.IndexByte(raw, '\\') >= 0 {
			raw, _ = unescape(raw) // half a surrogate pair gives nothing that is base64
			if raw == nil {
				return malformed("data_base64", "is not base64")
			}
		}
		out := make([]byte, base64.StdEncoding.DecodedLen(len(raw)))
		n, err := base64.StdEncoding.Decode(out, raw)
		if err != nil {
			return malformed("data_base64", "is not base64")
		}
		e.DataEncoded, e.DataBase64 = out[:n], true
	case p.data == nil:
	case e.IsJSON():
		e.DataEncoded = p.data
	case p.data[0] == 'n':
		// A null under a content type that has no null: no data.
	case p.data[0] != '"':
		return malformed("data", "must be a string, because datacontenttype is not JSON")
	default:
		raw := p.data[1 : len(p.data)-1]
		if bytes.IndexByte(raw, '\\') >= 0 {
			var ok bool
			if raw, ok = unescape(raw); !ok {
				return malformed("data", "holds half a surrogate pair")
			}
		}
		e.DataEncoded = raw
	}
	return nil
}

// MostInBatch is how many events a batch may hold. A batch of more is ErrTooMany,
// whatever they are: millions of items fit into a few megabytes.
const MostInBatch = 1000

// ErrTooMany is a batch that holds more than MostInBatch items.
var ErrTooMany = errors.New("a batch may hold " + strconv.Itoa(MostInBatch) + " events; split it")

// SplitBatch gives the items of a batch in the JSON format, without reading
// them as events. The error is a *MalformedError.
func SplitBatch(data []byte) ([]json.RawMessage, error) {
	if !utf8.Valid(data) {
		return nil, malformed("", "not JSON: not in UTF-8")
	}
	s := scanner{data: data}
	s.space()
	if !s.take('[') {
		return nil, malformed("", "a batch must be a JSON array")
	}
	var items []json.RawMessage
	s.space()
	if !s.take(']') {
		for {
			from := s.pos
			if err := s.value(0); err != nil {
				return nil, err
			}
			if len(items) == MostInBatch {
				return nil, ErrTooMany
			}
			items = append(items, json.RawMessage(s.data[from:s.pos]))
			s.space()
			if s.take(']') {
				break
			}
			if !s.take(',') {
				return nil, s.notJSON()
			}
			s.space()
		}
	}
	s.space()
	if s.pos < len(data) {
		return nil, malformed("", "something follows the batch's closing bracket")
	}
	return items, nil
}

// claimsToBe says whether data is the beginning of a JSON object with a member
// specversion at its top, however it goes on.
func claimsToBe(data []byte) bool {
	s := scanner{data: data}
	s.space()
	if !s.take('{') {
		return false
	}
	for {
		s.space()
		if s.peek() != '"' {
			return false
		}
		name, _, err := s.str()
		if err != nil {
			return false
		}
		if string(name) == "specversion" {
			return true
		}
		s.space()
		if !s.take(':') {
			return false
		}
		s.space()
		if s.value(1) != nil {
			return false
		}
		s.space()
		if !s.take(',') {
			return false
		}
	}
}
