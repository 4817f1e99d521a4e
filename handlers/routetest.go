package handlers

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"

	"github.com/bridge8x8/bridge8x8/config"
)

// TestResult is one of the routes' own tests after it was run.
type TestResult struct {
	Route string     `json:"route"`
	Name  string     `json:"name"`
	Pos   config.Pos `json:"-"`
	OK    bool       `json:"ok"`
	// Problems say what is wrong, a line for each difference. Their values come from
	// the file, not from an event that was received.
	Problems []string `json:"problems,omitempty"`
}

// RunTests runs the tests of every route in the file, in file order. t must be
// the table of that file.
func RunTests(t *Table, f *config.File) []TestResult {
	var results []TestResult
	for i := range f.Routes {
		r := &f.Routes[i]
		for n, test := range r.Tests {
			name := test.Name
			if name == "" {
				name = "test " + strconv.Itoa(n+1)
			}
			problems := runTest(t, t.handlers[i], &test)
			results = append(results, TestResult{Route: r.Name, Name: name, Pos: test.Pos, OK: len(problems) == 0, Problems: problems})
		}
	}
	return results
}

func runTest(t *Table, h *Handler, test *config.RouteTest) []string {
	v, err := testView(test.Event)
	if err != nil {
		return []string{"the event is not valid: " + err.Error()}
	}
	matches := slices.Contains(t.Match(v), h)
	switch {
	case test.NoMatch && matches:
		return []string{"the event matches the route, and the test says that it does not"}
	case test.NoMatch:
		return nil
	case !matches:
		return []string{"the event does not match the route: " + whyNot(h, v)}
	}
	if _, err := h.Place(v); err != nil {
		return []string{err.Error()}
	}
	input, err := h.Input(v)
	if err != nil {
		return []string{err.Error()}
	}
	return differences("", input, test.Input, nil)
}

// whyNot says why a route does not take an event.
func whyNot(h *Handler, v *View) string {
	if !h.takesType(v.event.Type()) {
		return fmt.Sprintf("the type %q is not one that the route takes", v.event.Type())
	}
	for i, f := range h.filters {
		if !f(v) {
			return "filter " + strconv.Itoa(i+1) + " does not hold"
		}
	}
	return "it matches" // not reached: the caller saw that it does not
}

// testView makes an event of the JSON format, in which numbers may be of any Go type.
func testView(members map[string]any) (*View, error) {
	ctx := &event.EventContextV1{}
	e := &event.Event{Context: ctx}
	var source, id string
	for _, name := range slices.Sorted(maps.Keys(members)) {
		value := members[name]
		if value == nil && name != "data" {
			continue
		}
		var err error
		switch text, isText := value.(string); {
		case name == "data":
			// Decided below, by the content type.
		case name == "data_base64":
			if !isText {
				return nil, errors.New("data_base64 must be a text")
			}
			if e.DataEncoded, err = base64.StdEncoding.DecodeString(text); err != nil {
				return nil, errors.New("data_base64 is not base64")
			}
			e.DataBase64 = true
		case isAttribute(name) && !isText:
			return nil, fmt.Errorf("%s must be a text; put it in quotes", name)
		case name == "specversion":
			if text != event.CloudEventsVersionV1 {
				err = errors.New(`must be "1.0"`)
			}
		case name == "id":
			id, err = text, ctx.SetID(text)
		case name == "source":
			source, err = text, ctx.SetSource(text)
		case name == "type":
			err = ctx.SetType(text)
		case name == "subject":
			err = ctx.SetSubject(text)
		case name == "datacontenttype":
			err = ctx.SetDataContentType(text)
		case name == "dataschema":
			err = ctx.SetDataSchema(text)
		case name == "time":
			ctx.Time, err = types.ParseTimestamp(strings.ToUpper(text))
		default:
			if !isAttributeName(name) {
				return nil, fmt.Errorf("%q is not the name of an attribute: it takes small letters and digits", name)
			}
			err = ctx.SetExtension(name, value)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, required := range []struct{ name, value string }{{"id", id}, {"source", source}, {"type", ctx.Type}} {
		if required.value == "" {
			return nil, fmt.Errorf("%s is missing", required.name)
		}
	}
	if data, ok := members["data"]; ok {
		if e.DataBase64 {
			return nil, errors.New("data and data_base64 exclude each other")
		}
		if text, isText := data.(string); isText && !isJSON(e) {
			e.DataEncoded = []byte(text)
		} else if encoded, err := json.Marshal(data); err != nil {
			return nil, errors.New("data cannot be written as JSON")
		} else {
			e.DataEncoded = encoded
		}
	}
	return NewViewRaw(e, source, id), nil
}

// differences lists where two values differ, by path. Numbers are equal if
// their values are, whatever their types.
func differences(path string, got, want any, found []string) []string {
	at := path
	if at == "" {
		at = "input"
	}
	switch want := want.(type) {
	case map[string]any:
		got, ok := got.(map[string]any)
		if !ok {
			break
		}
		names := slices.Collect(maps.Keys(want))
		for name := range got {
			if _, both := want[name]; !both {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		for _, name := range names {
			g, inGot := got[name]
			w, inWant := want[name]
			switch at := join(path, name); {
			case !inGot:
				found = append(found, fmt.Sprintf("%s: missing, want %s", at, show(w)))
			case !inWant:
				found = append(found, fmt.Sprintf("%s: got %s, want no such field", at, show(g)))
			default:
				found = differences(at, g, w, found)
			}
		}
		return found
	case []any:
		got, ok := got.([]any)
		if !ok {
			break
		}
		for i := range max(len(got), len(want)) {
			switch at := path + "[" + strconv.Itoa(i) + "]"; {
			case i >= len(got):
				found = append(found, fmt.Sprintf("%s: missing, want %s", at, show(want[i])))
			case i >= len(want):
				found = append(found, fmt.Sprintf("%s: got %s, want no such item", at, show(got[i])))
			default:
				found = differences(at, got[i], want[i], found)
			}
		}
		return found
	default:
		if equalScalars(got, want) {
			return found
		}
	}
	return append(found, fmt.Sprintf("%s: got %s, want %s", at, show(got), show(want)))
}

func equalScalars(a, b any) bool {
	x, xIsNumber := rational(a)
	y, yIsNumber := rational(b)
	if xIsNumber && yIsNumber {
		return x.Cmp(y) == 0
	}
	switch a.(type) {
	case nil, string, bool, json.Number:
		return a == b
	}
	return false
}

func rational(v any) (*big.Rat, bool) {
	switch v := v.(type) {
	case int:
		return new(big.Rat).SetInt64(int64(v)), true
	case float64:
		r := new(big.Rat).SetFloat64(v)
		return r, r != nil
	case *big.Int:
		return new(big.Rat).SetInt(v), true
	case json.Number:
		if len(v) > 400 {
			return nil, false // 1e999999999 would be written out
		}
		if f, err := v.Float64(); err != nil || f == 0 && strings.ContainsAny(string(v), "eE") {
			return nil, false
		}
		return new(big.Rat).SetString(string(v))
	}
	return nil, false
}

// show writes a value as JSON, on one line of readable length.
func show(v any) string {
	const longest = 200
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(v) != nil {
		return "a value that JSON does not have"
	}
	text := strings.TrimSuffix(b.String(), "\n")
	if r := []rune(text); len(r) > longest {
		return string(r[:longest]) + "…"
	}
	return text
}
