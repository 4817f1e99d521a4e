package bridge

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
)

// AppendValue appends a value made of maps, lists, texts and numbers as JSON;
// keys are sorted. The error says what kind of value cannot be written, and
// never holds one.
func AppendValue(dst []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case string:
		return appendText(dst, v), nil
	case int:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case *big.Int:
		return v.Append(dst, 10), nil
	case []any:
		dst = append(dst, '[')
		for i, item := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			var err error
			if dst, err = AppendValue(dst, item); err != nil {
				return nil, err
			}
		}
		return append(dst, ']'), nil
	case map[string]any:
		dst = append(dst, '{')
		for i, key := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendText(dst, key), ':')
			var err error
			if dst, err = AppendValue(dst, v[key]); err != nil {
				return nil, err
			}
		}
		return append(dst, '}'), nil
	default: // floats, json.Number and what else there may be
		b, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("a value of type %T cannot be written as JSON", v)
		}
		return append(dst, b...), nil
	}
}

// AppendJSON appends what we tell Membrane about a run as JSON.
func (m *Meta) AppendJSON(dst []byte) []byte {
	o := object{b: append(dst, '{')}
	o.must("bridge", m.Bridge)
	o.must("source", m.Source)
	o.must("eventId", m.EventID)
	o.must("route", m.Route)
	o.must("key", m.Key)
	o.must("try", m.Try)
	o.mustNum("attempt", int64(m.Attempt))
	return append(o.b, '}')
}
