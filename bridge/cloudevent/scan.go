package cloudevent

import (
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxDepth is how deeply arrays and objects may be nested in an event, the
// event's own braces included.
const MaxDepth = 128

// scanner walks JSON text (RFC 8259) without building anything. Its input is
// known to be UTF-8.
type scanner struct {
	data []byte
	pos  int
}

// notJSON is the error at the scanner's place.
func (s *scanner) notJSON() *MalformedError {
	if s.pos >= len(s.data) {
		return malformed("", "not JSON: it ends too early")
	}
	return malformed("", fmt.Sprintf("not JSON: unexpected character at byte %d", s.pos+1))
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// peek is the byte at the scanner's place, 0 at the end.
func (s *scanner) peek() byte {
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

// take steps over c.
func (s *scanner) take(c byte) bool {
	if s.pos < len(s.data) && s.data[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

// value steps over one value, which lies depth levels deep.
func (s *scanner) value(depth int) *MalformedError {
	switch c := s.peek(); c {
	case '"':
		_, _, err := s.str()
		return err
	case '{', '[':
		return s.nested(depth + 1)
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		return s.number()
	}
}

// nested steps over an array or object, which is level depth.
func (s *scanner) nested(depth int) *MalformedError {
	if depth > MaxDepth {
		return malformed("", fmt.Sprintf("is nested deeper than %d levels", MaxDepth))
	}
	object := s.data[s.pos] == '{'
	end := byte(']')
	if object {
		end = '}'
	}
	s.pos++
	s.space()
	if s.take(end) {
		return nil
	}
	for {
		if object {
			if s.peek() != '"' {
				return s.notJSON()
			}
			if _, _, err := s.str(); err != nil {
				return err
			}
			s.space()
			if !s.take(':') {
				return s.notJSON()
			}
			s.space()
		}
		if err := s.value(depth); err != nil {
			return err
		}
		s.space()
		if s.take(end) {
			return nil
		}
		if !s.take(',') {
			return s.notJSON()
		}
		s.space()
	}
}

func (s *scanner) word(w string) *MalformedError {
	for i := range len(w) {
		if !s.take(w[i]) {
			return s.notJSON()
		}
	}
	return nil
}

func (s *scanner) digits() bool {
	from := s.pos
	for s.pos < len(s.data) && s.data[s.pos] >= '0' && s.data[s.pos] <= '9' {
		s.pos++
	}
	return s.pos > from
}

func (s *scanner) number() *MalformedError {
	s.take('-')
	if !s.take('0') && !s.digits() {
		return s.notJSON()
	}
	if s.take('.') && !s.digits() {
		return s.notJSON()
	}
	if s.take('e') || s.take('E') {
		if !s.take('+') {
			s.take('-')
		}
		if !s.digits() {
			return s.notJSON()
		}
	}
	return nil
}

// str steps over a string and gives what stands between its quotes, and whether
// escapes are in it.
func (s *scanner) str() (raw []byte, escaped bool, err *MalformedError) {
	s.pos++
	from := s.pos
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; {
		case c == '"':
			raw = s.data[from:s.pos]
			s.pos++
			return raw, escaped, nil
		case c == '\\':
			escaped = true
			s.pos++
			switch s.peek() {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
				s.pos++
			case 'u':
				s.pos++
				for range 4 {
					if _, ok := unhex(s.peek()); !ok {
						return nil, false, s.notJSON()
					}
					s.pos++
				}
			default:
				return nil, false, s.notJSON()
			}
		case c < 0x20:
			return nil, false, s.notJSON()
		default:
			s.pos++
		}
	}
	return nil, false, s.notJSON()
}

// unescape undoes the escapes of a string that str has stepped over. It fails on
// half a surrogate pair, which stands for no text.
func unescape(raw []byte) ([]byte, bool) {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			continue
		}
		i++
		switch raw[i] {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r := hex4(raw[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				if i+6 >= len(raw) || raw[i+1] != '\\' || raw[i+2] != 'u' {
					return nil, false
				}
				if r = utf16.DecodeRune(r, hex4(raw[i+3:])); r == utf8.RuneError {
					return nil, false
				}
				i += 6
			}
			out = utf8.AppendRune(out, r)
		default: // a quote, a backslash or a slash
			out = append(out, raw[i])
		}
	}
	return out, true
}

func hex4(b []byte) rune {
	n, _ := strconv.ParseUint(string(b[:4]), 16, 16)
	return rune(n)
}

func unhex(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	default:
		return 0, false
	}
}

// validJSON says whether data is one JSON value, in UTF-8 and not too deep to be
// the data of an event.
func validJSON(data []byte) bool {
	if !utf8.Valid(data) {
		return false
	}
	s := scanner{data: data}
	s.space()
	if s.value(1) != nil {
		return false
	}
	s.space()
	return s.pos == len(data)
}
