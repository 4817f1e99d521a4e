package cloudevent

import "unicode/utf8"

// Members calls each for every member of a JSON object, with its name and its
// value as they stand in data. It says whether data is such an object; a name
// with escapes, or too many levels, makes it say no, and each may have been
// called before it found out.
func Members(data []byte, each func(name, value []byte)) bool {
	s := scanner{data: data}
	if !utf8.Valid(data) {
		return false
	}
	s.space()
	if !s.take('{') {
		return false
	}
	s.space()
	if !s.take('}') {
		for more := true; more; {
			if s.peek() != '"' {
				return false
			}
			name, escaped, err := s.str()
			if err != nil || escaped {
				return false
			}
			s.space()
			if !s.take(':') {
				return false
			}
			s.space()
			from := s.pos
			if s.value(1) != nil {
				return false
			}
			each(name, data[from:s.pos])
			s.space()
			if s.take('}') {
				break
			}
			if more = s.take(','); !more {
				return false
			}
			s.space()
		}
	}
	s.space()
	return s.pos == len(data)
}
