package catalog

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Schema is a compiled input or output schema in Membrane's DataSchema dialect.
// A nil Schema takes anything.
//
// The dialect looks like JSON Schema and is more lenient (source: Membrane SDK,
// DataSchema). A value is refused only where
//
//   - a required field is missing. The fields of an object that is itself
//     optional and absent are not missed; the items of a list are looked at;
//   - a value is of another type than the one or several in "type". No "type",
//     or a type we do not know, takes anything;
//   - minLength, maxLength (both in Unicode code points), minimum, maximum,
//     maxItems or pattern is broken. A pattern that RE2 cannot compile (one with
//     look-ahead) is not checked;
//   - "enum" does not hold the value and "allowCustom" is not true.
//
// Fields that the schema does not name are ignored, also under
// "additionalProperties": false, and so is every other keyword ("format",
// "anyOf", "$ref"). Null is read as absent: it is what an expression over a
// missing path gives. So it is an error in a required field, and DropNulls
// takes it out of the others; only a field whose type includes "null" has it as
// a value.
//
// A Schema never changes and may be used by many goroutines.
type Schema struct {
	raw   json.RawMessage
	types types
	// kind is how types reads in an error: "a string", "a string or a number".
	kind       string
	required   []string
	properties []property // sorted by name
	items      *Schema

	enum        bool // enum is to be checked
	enumStrings map[string]struct{}
	enumNumbers []float64
	enumText    string

	minLength, maxLength, maxItems int // -1: none
	minimum, maximum               *float64
	pattern                        *regexp.Regexp
	stated                         limits
}

type property struct {
	name   string
	schema *Schema
}

// types is a set of JSON types.
type types uint8

const (
	typeString types = 1 << iota
	typeNumber
	typeInteger
	typeBoolean
	typeObject
	typeArray
	typeNull

	typeAny types = 0
)

var typeNames = map[string]struct {
	bit  types
	text string
}{
	"string":  {typeString, "a string"},
	"number":  {typeNumber, "a number"},
	"integer": {typeInteger, "a whole number"},
	"boolean": {typeBoolean, "true or false"},
	"object":  {typeObject, "an object"},
	"array":   {typeArray, "a list"},
	"null":    {typeNull, "null"},
}

// RunTime stands in an input for a value that only an event will tell. It
// passes every check, so that an input with expressions in it can be checked
// before any event has come.
var RunTime any = runTime{}

type runTime struct{}

// ParseSchema compiles a schema. Keywords that it does not know are kept in Raw
// and not checked; a keyword that it knows with a value of the wrong shape is an
// error that names the place.
func ParseSchema(data []byte) (*Schema, error) {
	raw := json.RawMessage(bytes.Clone(trimJSON(data)))
	if !json.Valid(raw) {
		return nil, errors.New("schema is not valid JSON")
	}
	if raw[0] != '{' {
		return nil, errors.New("schema must be a JSON object")
	}
	return (&schemaParser{}).parse(raw, "")
}

// parseTolerant leaves out every keyword that has the wrong shape.
func parseTolerant(raw json.RawMessage) *Schema {
	s, _ := (&schemaParser{tolerant: true}).parse(raw, "") // has no error
	return s
}

type schemaParser struct{ tolerant bool }

func (sp *schemaParser) parse(raw json.RawMessage, at string) (*Schema, error) {
	s := &Schema{raw: raw, minLength: -1, maxLength: -1, maxItems: -1}
	s.stated = limits{minLength: -1, maxLength: -1, maxItems: -1}
	if string(raw) == "true" || string(raw) == "false" {
		return s, nil
	}
	var keywords map[string]json.RawMessage
	if err := json.Unmarshal(raw, &keywords); err != nil || keywords == nil {
		if sp.tolerant {
			return s, nil
		}
		return nil, schemaError(at, "", "must be an object")
	}
	// The order makes the first error the same every time.
	for _, keyword := range []struct {
		name string
		read func(json.RawMessage) error
		want string
	}{
		{"type", s.readTypes, "must be a type name or a list of them"},
		{"required", read(&s.required), "must be a list of field names"},
		{"minLength", readCount(&s.minLength), "must be a whole number from 0"},
		{"maxLength", readCount(&s.maxLength), "must be a whole number from 0"},
		{"maxItems", readCount(&s.maxItems), "must be a whole number from 0"},
		{"minimum", read(&s.minimum), "must be a number"},
		{"maximum", read(&s.maximum), "must be a number"},
		{"pattern", s.readPattern, "must be a regular expression"},
		{"enum", s.readEnum, "must be a list"},
	} {
		value, ok := keywords[keyword.name]
		if !ok || string(value) == "null" {
			continue
		}
		if keyword.read(value) != nil && !sp.tolerant {
			return nil, schemaError(at, keyword.name, keyword.want)
		}
	}
	s.stated = limits{s.minLength, s.maxLength, s.maxItems, s.minimum, s.maximum, s.stated.pattern}
	var custom bool
	if json.Unmarshal(keywords["allowCustom"], &custom) == nil && custom {
		s.enum = false
	}
	if value, ok := keywords["properties"]; ok && string(value) != "null" {
		var fields map[string]json.RawMessage
		if json.Unmarshal(value, &fields) != nil && !sp.tolerant {
			return nil, schemaError(at, "properties", "must be an object")
		}
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			field, err := sp.parse(fields[name], joinPath(joinPath(at, "properties"), name))
			if err != nil {
				return nil, err
			}
			s.properties = append(s.properties, property{name, field})
		}
	}
	// A list of schemas under "items" (a tuple) is no part of the dialect.
	if value, ok := keywords["items"]; ok && value[0] != '[' && string(value) != "null" {
		items, err := sp.parse(value, joinPath(at, "items"))
		if err != nil {
			return nil, err
		}
		s.items = items
	}
	return s, nil
}

func schemaError(at, keyword, want string) error {
	if keyword != "" {
		at = joinPath(at, keyword)
	}
	if at == "" {
		return fmt.Errorf("schema %s", want)
	}
	return fmt.Errorf("schema: %s %s", at, want)
}

func read[T any](to *T) func(json.RawMessage) error {
	return func(raw json.RawMessage) error { return json.Unmarshal(raw, to) }
}

func readCount(to *int) func(json.RawMessage) error {
	return func(raw json.RawMessage) error {
		var n float64
		if err := json.Unmarshal(raw, &n); err != nil {
			return err
		}
		if n < 0 || n != math.Trunc(n) {
			return errors.New("no count")
		}
		*to = int(min(n, math.MaxInt32))
		return nil
	}
}

func (s *Schema) readTypes(raw json.RawMessage) error {
	var names []string
	if raw[0] == '[' {
		if err := json.Unmarshal(raw, &names); err != nil {
			return err
		}
	} else {
		names = make([]string, 1)
		if err := json.Unmarshal(raw, &names[0]); err != nil {
			return err
		}
	}
	var texts []string
	for _, name := range names {
		known, ok := typeNames[name]
		if !ok {
			s.types, s.kind = typeAny, ""
			return nil
		}
		s.types |= known.bit
		if known.bit != typeNull {
			texts = append(texts, known.text)
		}
	}
	s.kind = strings.Join(texts, " or ")
	if s.kind == "" {
		s.kind = "null"
	}
	return nil
}

func (s *Schema) readPattern(raw json.RawMessage) error {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return err
	}
	s.stated.pattern = text
	if re, err := regexp.Compile(text); err == nil {
		s.pattern = re
	}
	return nil
}

// enumShown is how many values of an enum an error lists.
const enumShown = 12

func (s *Schema) readEnum(raw json.RawMessage) error {
	var values []any
	if err := json.Unmarshal(raw, &values); err != nil {
		return err
	}
	s.enumStrings = make(map[string]struct{}, len(values))
	var texts []string
	for _, value := range values {
		switch v := value.(type) {
		case string:
			s.enumStrings[v] = struct{}{}
			texts = append(texts, v)
		case float64:
			s.enumNumbers = append(s.enumNumbers, v)
			texts = append(texts, strconv.FormatFloat(v, 'f', -1, 64))
		}
	}
	s.enum = len(texts) > 0
	s.enumText = "must be one of " + strings.Join(texts, ", ")
	if len(texts) > enumShown {
		s.enumText = "must be one of the " + strconv.Itoa(len(texts)) + " values of its schema"
	}
	return nil
}

// Raw is the schema as it was given. It must not be changed.
func (s *Schema) Raw() json.RawMessage {
	if s == nil {
		return nil
	}
	return s.raw
}

// Required lists the fields that an object must have, in the order of the schema.
func (s *Schema) Required() []string {
	if s == nil {
		return nil
	}
	return slices.Clone(s.required)
}

// Properties lists the fields that the schema names, sorted.
func (s *Schema) Properties() []string {
	if s == nil {
		return nil
	}
	names := make([]string, len(s.properties))
	for i, p := range s.properties {
		names[i] = p.name
	}
	return names
}

// Property is the schema of a field, and whether the schema names that field.
func (s *Schema) Property(name string) (*Schema, bool) {
	if s == nil {
		return nil, false
	}
	i, found := slices.BinarySearchFunc(s.properties, name, func(p property, name string) int {
		return cmp.Compare(p.name, name)
	})
	if !found {
		return nil, false
	}
	return s.properties[i].schema, true
}

// Items is the schema of the items of a list; nil if they can be anything.
func (s *Schema) Items() *Schema {
	if s == nil {
		return nil
	}
	return s.items
}

// MarshalJSON writes the schema as it was given.
func (s *Schema) MarshalJSON() ([]byte, error) {
	if s == nil {
		return []byte("null"), nil
	}
	return s.raw, nil
}

// Validate checks an input, made of what encoding/json and gojq give: nil, bool,
// string, any Go number, json.Number, *big.Int, []any and map[string]any. No
// input at all (nil) is read as one without fields.
//
// The error is an *InputError for the first problem: required fields first, in
// the order of the schema, then the fields sorted by name, from the outside in.
func (s *Schema) Validate(input any) error {
	var found []*InputError
	if s.check(orEmpty(input), &found, true) {
		return nil
	}
	return found[0]
}

// ValidateAll is Validate with every problem, in the same order.
func (s *Schema) ValidateAll(input any) []*InputError {
	var found []*InputError
	s.check(orEmpty(input), &found, false)
	return found
}

func orEmpty(input any) any {
	if input == nil {
		return map[string]any(nil)
	}
	return input
}

// check adds what is wrong with a value to found and returns whether nothing
// is. The places in found are relative to the value: each caller puts its own
// name in front, so that a good value costs no path.
func (s *Schema) check(value any, found *[]*InputError, first bool) bool {
	if s == nil {
		return true
	}
	switch v := value.(type) {
	case nil:
		// As an item of a list, null has no absence to be read as.
		return s.types == typeAny || s.types&typeNull != 0 || s.refuse(found, "must be "+s.kind)
	case runTime:
		return true
	case bool:
		return s.is(typeBoolean, found)
	case string:
		return s.is(typeString, found) && s.checkString(v, found)
	case map[string]any:
		return s.is(typeObject, found) && s.checkObject(v, found, first)
	case []any:
		return s.is(typeArray, found) && s.checkArray(v, found, first)
	default:
		number, whole, ok := toNumber(value)
		if !ok {
			return s.types == typeAny || s.refuse(found, "must be "+s.kind)
		}
		if s.types&typeInteger != 0 && s.types&typeNumber == 0 && !whole {
			return s.refuse(found, "must be "+s.kind)
		}
		return s.is(typeNumber|typeInteger, found) && s.checkNumber(number, found)
	}
}

func (s *Schema) is(t types, found *[]*InputError) bool {
	return s.types == typeAny || s.types&t != 0 || s.refuse(found, "must be "+s.kind)
}

func (s *Schema) refuse(found *[]*InputError, rule string) bool {
	*found = append(*found, &InputError{Rule: rule})
	return false
}

func (s *Schema) checkString(v string, found *[]*InputError) bool {
	// A string has at most as many code points as bytes, and at least a quarter.
	if s.minLength > 0 && (len(v) < s.minLength || utf8.RuneCountInString(v) < s.minLength) {
		if v == "" {
			return s.refuse(found, "must not be empty")
		}
		return s.refuse(found, "must have at least "+strconv.Itoa(s.minLength)+" characters")
	}
	if s.maxLength >= 0 && len(v) > s.maxLength && utf8.RuneCountInString(v) > s.maxLength {
		return s.refuse(found, "must have at most "+strconv.Itoa(s.maxLength)+" characters")
	}
	if s.enum {
		if _, ok := s.enumStrings[v]; !ok {
			return s.refuse(found, s.enumText)
		}
	}
	if s.pattern != nil && !s.pattern.MatchString(v) {
		return s.refuse(found, "must match "+s.pattern.String())
	}
	return true
}

func (s *Schema) checkNumber(v float64, found *[]*InputError) bool {
	if s.minimum != nil && v < *s.minimum {
		return s.refuse(found, "must be at least "+strconv.FormatFloat(*s.minimum, 'f', -1, 64))
	}
	if s.maximum != nil && v > *s.maximum {
		return s.refuse(found, "must be at most "+strconv.FormatFloat(*s.maximum, 'f', -1, 64))
	}
	if s.enum && !slices.Contains(s.enumNumbers, v) {
		return s.refuse(found, s.enumText)
	}
	return true
}

func (s *Schema) checkObject(v map[string]any, found *[]*InputError, first bool) bool {
	ok := true
	for _, name := range s.required {
		if s.has(v, name) {
			continue
		}
		*found = append(*found, &InputError{Field: name, Rule: "is required"})
		ok = false
		if first {
			return false
		}
	}
	if len(v) == 0 {
		return ok
	}
	for i := range s.properties {
		p := &s.properties[i]
		value, present := v[p.name]
		if !present || value == nil {
			continue
		}
		mark := len(*found)
		if p.schema.check(value, found, first) {
			continue
		}
		prefix(p.name, (*found)[mark:])
		ok = false
		if first {
			return false
		}
	}
	return ok
}

// has tells whether a required field is there: null is, where its type says so.
func (s *Schema) has(v map[string]any, name string) bool {
	value, present := v[name]
	if value != nil || !present {
		return present
	}
	field, named := s.Property(name)
	return named && field.types&typeNull != 0
}

func (s *Schema) checkArray(v []any, found *[]*InputError, first bool) bool {
	if s.maxItems >= 0 && len(v) > s.maxItems {
		return s.refuse(found, "must have at most "+strconv.Itoa(s.maxItems)+" items")
	}
	ok := true
	for i, value := range v {
		mark := len(*found)
		if s.items.check(value, found, first) {
			continue
		}
		prefix("["+strconv.Itoa(i)+"]", (*found)[mark:])
		ok = false
		if first {
			return false
		}
	}
	return ok
}

func prefix(name string, found []*InputError) {
	for _, problem := range found {
		problem.Field = joinPath(name, problem.Field)
	}
}

func joinPath(parent, child string) string {
	if parent == "" || child == "" || child[0] == '[' {
		return parent + child
	}
	return parent + "." + child
}

// toNumber reads a JSON number in any of the Go types it can come in.
func toNumber(value any) (number float64, whole, ok bool) {
	switch v := value.(type) {
	case float64:
		number = v
	case int:
		return float64(v), true, true
	case json.Number:
		f, err := strconv.ParseFloat(string(v), 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return 0, false, false
		}
		number = f
	case *big.Int:
		if v == nil {
			return 0, false, false
		}
		f, _ := new(big.Float).SetInt(v).Float64()
		return f, true, true
	case float32:
		number = float64(v)
	case int8:
		return float64(v), true, true
	case int16:
		return float64(v), true, true
	case int32:
		return float64(v), true, true
	case int64:
		return float64(v), true, true
	case uint:
		return float64(v), true, true
	case uint8:
		return float64(v), true, true
	case uint16:
		return float64(v), true, true
	case uint32:
		return float64(v), true, true
	case uint64:
		return float64(v), true, true
	default:
		return 0, false, false
	}
	return number, number == math.Trunc(number), true
}

// DropNulls takes the null fields that the schema names out of an input, since
// null is read as absent here but not by everybody who reads the input next.
// It changes the map it is given and copies before it changes anything below,
// which may be shared with the event that the input was made from.
func (s *Schema) DropNulls(input map[string]any) {
	s.dropNulls(input, func() map[string]any { return input })
}

// dropNulls calls writable before each change, for the map to change.
func (s *Schema) dropNulls(input map[string]any, writable func() map[string]any) {
	if s == nil {
		return
	}
	for i := range s.properties {
		p := &s.properties[i]
		value, present := input[p.name]
		if !present {
			continue
		}
		if value == nil {
			if p.schema.types&typeNull == 0 {
				delete(writable(), p.name)
			}
			continue
		}
		if clean, changed := p.schema.withoutNulls(value); changed {
			writable()[p.name] = clean
		}
	}
}

func (s *Schema) withoutNulls(value any) (clean any, changed bool) {
	switch v := value.(type) {
	case map[string]any:
		var object map[string]any
		s.dropNulls(v, func() map[string]any {
			if object == nil {
				object = maps.Clone(v)
			}
			return object
		})
		if object != nil {
			return object, true
		}
	case []any:
		if s.items == nil {
			break
		}
		var list []any
		for i, item := range v {
			if clean, changed := s.items.withoutNulls(item); changed {
				if list == nil {
					list = slices.Clone(v)
				}
				list[i] = clean
			}
		}
		if list != nil {
			return list, true
		}
	}
	return value, false
}
