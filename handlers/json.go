package handlers

import (
	"encoding/json"
	"unicode/utf8"
)

// decodeJSON is json.Unmarshal into an any, with every number as a json.Number.
// json.Decoder takes several times as long for that, which is most of what an
// event costs here: the text is checked first, and then only cut up.
func decodeJSON(data []byte) (any, error) {
	text, err := checkJSON(data)
	if err != nil {
		return nil, err
	}
	return text.value(), nil
}

// jsonText is JSON that was checked: each of its values can be read without the others.
type jsonText struct {
	text  string // strings in the values are parts of it
	clean bool   // it is UTF-8
}

func checkJSON(data []byte) (jsonText, error) {
	if !json.Valid(data) {
		return jsonText{}, errNotJSON
	}
	return jsonText{string(data), utf8.Valid(data)}, nil
}

func (t jsonText) value() any {
	r := jsonReader{data: t.text, clean: t.clean}
	return r.value()
}

// find is the value at a path of names, as gojq would walk it: null has no
// fields, of two fields with one name the last counts, and anything else that
// has no fields ends the walk with a *noObjectError.
func (t jsonText) find(path []string) (any, error) {
	r := jsonReader{data: t.text, clean: t.clean}
	for _, name := range path {
		if c := r.next(); c != '{' {
			r.at--
			if c == 'n' {
				return nil, nil
			}
			return nil, &noObjectError{r.value()}
		}
		if r.at = r.member(name); r.at < 0 {
			return nil, nil
		}
	}
	return r.value(), nil
}

// noObjectError is a value in which a name was looked for, and which has none.
type noObjectError struct{ value any }

func (e *noObjectError) Error() string { return "expected an object but got " + typeName(e.value) }

// jsonReader reads valid JSON, whose nesting json.Valid has bounded.
type jsonReader struct {
	data  string // strings in the value are parts of it
	at    int
	clean bool // it is UTF-8
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

// member is where the value of a field begins, of an object whose brace was
// read; -1 if it has no such field.
func (r *jsonReader) member(name string) int {
	at := -1
	if r.next() == '}' {
		return at
	}
	for {
		if r.text() == name {
			r.next() // the colon
			at = r.at
		} else {
			r.next()
		}
		r.skip()
		if r.next() == '}' {
			return at
		}
		r.next() // the quote of the next name
	}
}

// skip steps over a value.
func (r *jsonReader) skip() {
	switch c := r.next(); c {
	case '{', '[':
		for depth := 1; depth > 0; {
			switch c := r.data[r.at]; c {
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			case '"':
				r.at++
				r.quoted()
				continue
			}
			r.at++
		}
	case '"':
		r.quoted()
	default:
		for r.at < len(r.data) && !endsWord(r.data[r.at]) {
			r.at++
		}
	}
}

// endsWord tells what comes after a number, true, false or null.
func endsWord(c byte) bool {
	return c == ',' || c == '}' || c == ']' || c == ' ' || c == '\t' || c == '\n' || c == '\r'
}

// quoted steps over a string whose first quote was read. It says whether the
// string is plain: without escapes.
func (r *jsonReader) quoted() (plain bool) {
	plain = true
	for r.data[r.at] != '"' {
		if r.data[r.at] == '\\' {
			plain = false
			r.at++
		}
		r.at++
	}
	r.at++
	return plain
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
	start := r.at
	plain := r.quoted()
	raw := r.data[start : r.at-1]
	if plain && r.clean {
		return raw
	}
	var text string
	_ = json.Unmarshal([]byte(r.data[start-1:r.at]), &text) // valid as all of it is
	return text
}
