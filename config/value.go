package config

import "fmt"

// String is file:line:col, as far as they are known.
func (p Pos) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}

// Get returns the value under key in a mapping. ok is false if there is no
// such key, or no mapping.
func (v Value) Get(key string) (value Value, ok bool) {
	if v.Kind != KindMap {
		return Value{}, false
	}
	for _, e := range v.Map {
		if e.Key == key {
			return e.Value, true
		}
	}
	return Value{}, false
}

// at is the value that a path of keys leads to; KindNone if there is none.
func (v Value) at(path ...string) Value {
	for _, key := range path {
		v, _ = v.Get(key)
	}
	return v
}

// Plain is the tree without its places: map[string]any, []any and the scalars
// of Value. An absent value is nil. Each call makes a new tree.
func (v Value) Plain() any {
	switch v.Kind {
	case KindMap:
		m := make(map[string]any, len(v.Map))
		for _, e := range v.Map {
			m[e.Key] = e.Value.Plain()
		}
		return m
	case KindList:
		list := make([]any, len(v.List))
		for i, item := range v.List {
			list[i] = item.Plain()
		}
		return list
	default:
		return v.Scalar
	}
}

// what names what a value is, for messages.
func (v Value) what() string {
	switch v.Kind {
	case KindMap:
		return "a mapping"
	case KindList:
		return "a list"
	case KindScalar:
		switch v.Scalar.(type) {
		case nil:
			return "null"
		case bool:
			return "true or false"
		case string:
			return "text"
		default:
			return "a number"
		}
	default:
		return "nothing"
	}
}
