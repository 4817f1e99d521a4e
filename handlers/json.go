package handlers

import (
	"encoding/json"
	"unicode/utf8"
)

// decodeJSON is json.Unmarshal into an any, with every number as a json.Number.
// json.Decoder takes several times as long for that, which is most of what an
// event costs here: the text is checked first, and then only cut up.
func decodeJSON(data []byte) (any, error) {
	if !json.Valid(data) {
		return nil, errNotJSON
	}
	r := jsonReader{data: string(data), clean: utf8.Valid(data)}
	value := r.value()
	if r.broken {
		return nil, errNotJSON
	}
	return value, nil
}

// jsonReader reads valid JSON, whose nesting json.Valid has bounded.
type jsonReader struct {
	data   string // strings in the value are parts of it
	at     int
	clean  bool // it is UTF-8
	broken bool
}

// next skips white space, and the byte that it returns.
func (r *jsonReader) next() byte {
	for {
		c := r.data[r.at]
		r.at++
		if c != ' ' && c != '\t' && c != '\n' && c != '\r' {
			return c
		}
	}
}

func (r *jsonReader) value() any {
	switch c := r.next(); c {
	case '{':
		return r.object()
	case '[':
		return r.list()
	case '"':
		return r.text()
	case 't':
		r.at += len("true") - 1
		return true
	case 'f':
		r.at += len("false") - 1
		return false
	case 'n':
		r.at += len("null") - 1
		return nil
	default:
		start := r.at - 1
		for r.at < len(r.data) && inNumber(r.data[r.at]) {
			r.at++
		}
		return json.Number(r.data[start:r.at])
	}
}

func inNumber(c byte) bool {
	return '0' <= c && c <= '9' || c == '.' || c == 'e' || c == 'E' || c == '+' || c == '-'
}

func (r *jsonReader) object() map[string]any {
	object := map[string]any{}
	for {
		if r.next() == '}' { // otherwise it is the quote of a name
			return object
		}
		name := r.text()
		r.next() // the colon
		object[name] = r.value()
		if r.next() == '}' { // otherwise it is a comma
			return object
		}
	}
}

func (r *jsonReader) list() []any {
	list := []any{}
	if r.next() == ']' {
		return list
	}
	r.at-- // it begins the first item
	for {
		list = append(list, r.value())
		if r.next() == ']' {
			return list
		}
	}
}

// text reads a string whose first quote was read.
func (r *jsonReader) text() string {
	start, plain := r.at, true
	for r.data[r.at] != '"' {
		if r.data[r.at] == '\\' {
			plain = false
			r.at++
		}
		r.at++
	}
	raw := r.data[start:r.at]
	r.at++
	if plain && r.clean {
		return raw
	}
	var text string
	if json.Unmarshal([]byte(r.data[start-1:r.at]), &text) != nil {
		r.broken = true
	}
	return text
}
