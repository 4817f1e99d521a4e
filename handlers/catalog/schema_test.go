package catalog

import (
	"encoding/json"
	"maps"
	"math/big"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func mustParse(t testing.TB, text string) *Schema {
	t.Helper()
	schema, err := ParseSchema([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func decode(t testing.TB, text string) any {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatal(err)
	}
	return value
}

func texts(problems []*InputError) []string {
	var all []string
	for _, p := range problems {
		all = append(all, p.Error())
	}
	return all
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, schema, input string
		want                []string // every problem, the first first
	}{
		{"anything", `{}`, `{"a":[1,null,"x"]}`, nil},
		{"required in the schema's order", `{"type":"object","required":["b","a"]}`, `{}`,
			[]string{"input field b is required", "input field a is required"}},
		{"no input is one without fields", `{"type":"object","required":["a"]}`, `null`, []string{"input field a is required"}},
		{"null is absent where required", `{"properties":{"a":{"type":"string"}},"required":["a"]}`, `{"a":null}`,
			[]string{"input field a is required"}},
		{"null is absent where optional", `{"properties":{"a":{"type":"string"}}}`, `{"a":null}`, nil},
		{"null is a value where its type says so", `{"properties":{"a":{"type":["string","null"]}},"required":["a"]}`, `{"a":null}`, nil},
		{"null is no item", `{"properties":{"a":{"items":{"type":"string"}}}}`, `{"a":["x",null]}`,
			[]string{"input field a[1] must be a string"}},
		{"required below an absent optional parent", `{"properties":{"a":{"type":"object","required":["b"]}}}`, `{}`, nil},
		{"required below a null optional parent", `{"properties":{"a":{"type":"object","required":["b"]}}}`, `{"a":null}`, nil},
		{"required below a present parent", `{"properties":{"a":{"type":"object","required":["b"]}}}`, `{"a":{}}`,
			[]string{"input field a.b is required"}},
		{"required in items", `{"properties":{"a":{"type":"array","items":{"required":["b"]}}}}`, `{"a":[{"b":1},{}]}`,
			[]string{"input field a[1].b is required"}},
		{"root type", `{"type":"object"}`, `[]`, []string{"input must be an object"}},
		{"root list", `{"type":"array","items":{"type":"integer"}}`, `[1,"x"]`, []string{"input field [1] must be a whole number"}},
		{"types", `{"properties":{"a":{"type":"string"},"b":{"type":"number"},"c":{"type":"integer"},"d":{"type":"boolean"},"e":{"type":"object"},"f":{"type":"array"},"g":{"type":"null"}}}`,
			`{"a":1,"b":"1","c":1.5,"d":"true","e":[],"f":{},"g":0}`,
			[]string{
				"input field a must be a string", "input field b must be a number", "input field c must be a whole number",
				"input field d must be true or false", "input field e must be an object", "input field f must be a list",
				"input field g must be null",
			}},
		{"a whole float is whole", `{"properties":{"c":{"type":"integer"}}}`, `{"c":12.0}`, nil},
		{"list of types", `{"properties":{"a":{"type":["string","number","null"]}}}`, `{"a":true}`,
			[]string{"input field a must be a string or a number"}},
		{"whole number or fraction", `{"properties":{"a":{"type":["integer","number"]}}}`, `{"a":1.5}`, nil},
		{"unknown type takes anything", `{"properties":{"a":{"type":"file"}}}`, `{"a":5}`, nil},
		{"extra fields, even if forbidden", `{"type":"object","properties":{},"additionalProperties":false}`, `{"a":1}`, nil},
		{"keywords we do not check", `{"properties":{"a":{"format":"email","minItems":3,"const":1,"anyOf":[{"type":"array"}],"oneOf":[],"$ref":"#/x"}}}`, `{"a":"x"}`, nil},
		{"lengths", `{"properties":{"a":{"minLength":1},"b":{"minLength":3},"c":{"maxLength":2}}}`, `{"a":"","b":"ab","c":"abc"}`,
			[]string{
				"input field a must not be empty", "input field b must have at least 3 characters",
				"input field c must have at most 2 characters",
			}},
		{"lengths are of code points", `{"properties":{"a":{"maxLength":2},"b":{"minLength":2}}}`, `{"a":"字😀","b":"字"}`,
			[]string{"input field b must have at least 2 characters"}},
		{"bounds", `{"properties":{"a":{"minimum":1},"b":{"maximum":0.5},"c":{"minimum":1,"maximum":500}}}`, `{"a":0,"b":0.75,"c":500}`,
			[]string{"input field a must be at least 1", "input field b must be at most 0.5"}},
		{"maxItems", `{"properties":{"a":{"maxItems":1}}}`, `{"a":[1,2]}`, []string{"input field a must have at most 1 items"}},
		{"pattern", `{"properties":{"a":{"pattern":"^[a-z]+$"}}}`, `{"a":"A"}`, []string{"input field a must match ^[a-z]+$"}},
		{"pattern that RE2 does not know", `{"properties":{"a":{"pattern":"^(?=x)"}}}`, `{"a":"A"}`, nil},
		{"pattern does not bind other types", `{"properties":{"a":{"pattern":"^x$","minLength":3}}}`, `{"a":5}`, nil},
		{"enum", `{"properties":{"a":{"enum":["AUTO","GSM7",7]},"b":{"enum":["x"]}}}`, `{"a":"auto","b":"x"}`,
			[]string{"input field a must be one of AUTO, GSM7, 7"}},
		{"enum of numbers", `{"properties":{"a":{"enum":[1,2]},"b":{"enum":[1,2]}}}`, `{"a":2,"b":3}`,
			[]string{"input field b must be one of 1, 2"}},
		{"long enum", `{"properties":{"a":{"enum":["a","b","c","d","e","f","g","h","i","j","k","l","m"]}}}`, `{"a":"z"}`,
			[]string{"input field a must be one of the 13 values of its schema"}},
		{"enum as a suggestion", `{"properties":{"a":{"enum":["x"],"allowCustom":true}}}`, `{"a":"y"}`, nil},
		{"enum before allowCustom false", `{"properties":{"a":{"enum":["x"],"allowCustom":false}}}`, `{"a":"y"}`,
			[]string{"input field a must be one of x"}},
		{"schemas that are true or false", `{"properties":{"a":true,"b":false}}`, `{"a":1,"b":2}`, nil},
		{"tuple", `{"items":[{"type":"string"}]}`, `[5]`, nil},
		{"sorted fields, required first", `{"properties":{"b":{"type":"string"},"a":{"type":"string"}},"required":["c"]}`, `{"a":1,"b":1}`,
			[]string{"input field c is required", "input field a must be a string", "input field b must be a string"}},
		{"deep path", `{"properties":{"a":{"items":{"properties":{"b":{"items":{"type":"string"}}}}}}}`, `{"a":[{"b":["x",1]}]}`,
			[]string{"input field a[0].b[1] must be a string"}},
	} {
		schema := mustParse(t, test.schema)
		input := decode(t, test.input)
		if diff := cmp.Diff(test.want, texts(schema.ValidateAll(input))); diff != "" {
			t.Errorf("%s: ValidateAll (-want +got):\n%s", test.name, diff)
		}
		first := ""
		if len(test.want) > 0 {
			first = test.want[0]
		}
		got := ""
		if err := schema.Validate(input); err != nil {
			got = err.Error()
			if _, ok := err.(*InputError); !ok {
				t.Errorf("%s: got a %T, want an *InputError", test.name, err)
			}
		}
		if got != first {
			t.Errorf("%s: got %q first, want %q", test.name, got, first)
		}
	}
}

func TestValidateGoTypes(t *testing.T) {
	t.Parallel()
	number := mustParse(t, `{"type":"number","minimum":1}`)
	integer := mustParse(t, `{"type":"integer"}`)
	text := mustParse(t, `{"type":"string"}`)
	huge, _ := new(big.Int).SetString("123456789012345678901234567890", 10)
	for _, test := range []struct {
		value           any
		number, integer bool
	}{
		{5, true, true},
		{int64(5), true, true},
		{uint8(5), true, true},
		{float32(1.5), true, false},
		{1.5, true, false},
		{json.Number("12345678901234567890"), true, true},
		{json.Number("1e3"), true, true},
		{json.Number("1.5"), true, false},
		{json.Number("1e999"), true, true},
		{json.Number("x"), false, false},
		{huge, true, true},
		{(*big.Int)(nil), false, false},
		{0, false, true}, // below the minimum
		{"5", false, false},
		{struct{}{}, false, false},
		{map[string]string{}, false, false},
	} {
		if err := number.Validate(test.value); (err == nil) != test.number {
			t.Errorf("%T %v as a number: %v", test.value, test.value, err)
		}
		if err := integer.Validate(test.value); (err == nil) != test.integer {
			t.Errorf("%T %v as a whole number: %v", test.value, test.value, err)
		}
		if _, isText := test.value.(string); !isText && text.Validate(test.value) == nil {
			t.Errorf("%T passes as a string", test.value)
		}
	}
}

func TestRunTimePassesEveryCheck(t *testing.T) {
	t.Parallel()
	schema := mustParse(t, `{"type":"object","required":["a"],"properties":{
		"a":{"type":"string","minLength":5,"enum":["x"]},"b":{"type":"object","required":["c"]},"d":{"type":"integer"}}}`)
	input := map[string]any{"a": RunTime, "b": RunTime, "d": "five"}
	if diff := cmp.Diff([]string{"input field d must be a whole number"}, texts(schema.ValidateAll(input))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := schema.Validate(RunTime); err != nil {
		t.Error(err)
	}
}

func TestParseSchemaErrors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ schema, want string }{
		{``, "schema is not valid JSON"},
		{`{"type":`, "schema is not valid JSON"},
		{`[]`, "schema must be a JSON object"},
		{`null`, "schema must be a JSON object"},
		{`{"type":5}`, "schema: type must be a type name or a list of them"},
		{`{"properties":{"a":{"required":true}}}`, "schema: properties.a.required must be a list of field names"},
		{`{"properties":[]}`, "schema: properties must be an object"},
		{`{"properties":{"a":5}}`, "schema: properties.a must be an object"},
		{`{"properties":{"a":null}}`, "schema: properties.a must be an object"},
		{`{"items":{"items":{"maxLength":-1}}}`, "schema: items.items.maxLength must be a whole number from 0"},
		{`{"maxItems":1.5}`, "schema: maxItems must be a whole number from 0"},
		{`{"minimum":"1"}`, "schema: minimum must be a number"},
		{`{"pattern":5}`, "schema: pattern must be a regular expression"},
		{`{"enum":"x"}`, "schema: enum must be a list"},
	} {
		_, err := ParseSchema([]byte(test.schema))
		if err == nil || err.Error() != test.want {
			t.Errorf("%s: got %v, want %q", test.schema, err, test.want)
		}
	}
}

func TestSchemaParts(t *testing.T) {
	t.Parallel()
	text := `{"type":"object","x-own":1,"properties":{"b":{"type":"array","items":{"type":"string"}},"a":{}},"required":["b"]}`
	schema := mustParse(t, " "+text+"\n")
	if string(schema.Raw()) != text {
		t.Errorf("Raw: %s", schema.Raw())
	}
	marshalled, err := json.Marshal(struct{ S, None *Schema }{schema, nil})
	if want := `{"S":` + text + `,"None":null}`; err != nil || string(marshalled) != want {
		t.Errorf("Marshal: got %s, %v; want %s", marshalled, err, want)
	}
	if diff := cmp.Diff([]string{"a", "b"}, schema.Properties()); diff != "" {
		t.Errorf("Properties (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"b"}, schema.Required()); diff != "" {
		t.Errorf("Required (-want +got):\n%s", diff)
	}
	if _, found := schema.Property("c"); found {
		t.Error("Property finds a field that is not there")
	}
	b, found := schema.Property("b")
	if !found || b.Items().Validate("x") != nil || b.Items().Validate(5) == nil {
		t.Error("Property and Items do not lead to the schema of the items")
	}
	var none *Schema
	_, found = none.Property("a")
	if none.Validate(5) != nil || none.Raw() != nil || none.Required() != nil || none.Properties() != nil || none.Items() != nil || found {
		t.Error("a nil schema does not take anything")
	}
}

func TestDropNulls(t *testing.T) {
	t.Parallel()
	schema := mustParse(t, `{"properties":{
		"a":{"type":"string"},"n":{"type":["string","null"]},"any":{},
		"o":{"properties":{"a":{"type":"string"}}},
		"l":{"items":{"properties":{"a":{"type":"string"},"o":{"properties":{"b":{}}}}}},
		"free":{"type":"object"}}}`)
	event := decode(t, `{"a":null,"n":null,"any":null,"unnamed":null,
		"o":{"a":null,"b":null},"free":{"x":null},
		"l":[{"a":"x"},{"a":null,"o":{"b":null,"c":1}},null]}`).(map[string]any)
	before, _ := json.Marshal(event)
	input := make(map[string]any)
	maps.Copy(input, event)
	schema.DropNulls(input)
	want := decode(t, `{"n":null,"unnamed":null,"o":{"b":null},"free":{"x":null},"l":[{"a":"x"},{"o":{"c":1}},null]}`)
	if diff := cmp.Diff(want, any(input)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if after, _ := json.Marshal(event); string(after) != string(before) {
		t.Errorf("what the input shares with the event has changed:\n%s\n%s", before, after)
	}
	var none *Schema
	none.DropNulls(input)
	schema.DropNulls(nil)
}

func TestErrorsHoldNoValues(t *testing.T) {
	t.Parallel()
	const secret = "12025550199"
	for _, action := range Builtin().All() {
		for _, name := range action.Input.Properties() {
			field, _ := action.Input.Property(name)
			for _, value := range []any{
				secret, strings.Repeat(secret, 60), json.Number(secret), 12025550199, -12025550199.5,
				[]any{secret, map[string]any{"destination": "x" + secret, "text": secret, "id": secret}},
				map[string]any{"msisdn": secret + secret, "text": strings.Repeat(secret, 600), "source": strings.Repeat(secret, 9)},
			} {
				for _, problem := range field.ValidateAll(value) {
					if strings.Contains(problem.Error(), secret) {
						t.Errorf("%s %s: %s", action.Key, name, problem)
					}
				}
				err := action.Normalize(map[string]any{name: value})
				if err != nil && strings.Contains(err.Error(), secret) {
					t.Errorf("%s %s: %s", action.Key, name, err)
				}
			}
		}
	}
}

func FuzzValidate(f *testing.F) {
	for _, action := range Builtin().All() {
		f.Add(string(action.Input.Raw()), `{"text":"Hi","destination":null,"messages":[{"text":5}],"limit":1e400}`)
	}
	f.Add(`{"type":["x"],"enum":[null,{}],"items":{"required":["a"]}}`, `[[],{},1]`)
	f.Fuzz(func(t *testing.T, schemaText, inputText string) {
		schema, err := ParseSchema([]byte(schemaText))
		if err != nil {
			return
		}
		var input any
		decoder := json.NewDecoder(strings.NewReader(inputText))
		decoder.UseNumber()
		if decoder.Decode(&input) != nil {
			return
		}
		err = schema.Validate(input)
		all := schema.ValidateAll(input)
		if (err == nil) != (len(all) == 0) {
			t.Fatalf("Validate says %v, ValidateAll %v", err, texts(all))
		}
		if err != nil && err.Error() != all[0].Error() {
			t.Fatalf("first %q, of all %q", err, all[0])
		}
		if object, ok := input.(map[string]any); ok {
			schema.DropNulls(object)
			if err == nil && schema.Validate(object) != nil {
				t.Fatalf("without its nulls: %v", schema.Validate(object))
			}
		}
		for _, action := range Builtin().All() {
			object, ok := input.(map[string]any)
			if !ok || action.Normalize(object) != nil {
				continue
			}
			if action.Measure != nil {
				action.Measure(object)
			}
		}
	})
}

func BenchmarkValidate(b *testing.B) {
	action, _ := Builtin().Lookup("send-sms")
	input := decode(b, `{"destination":"+12025550101","text":"Hi Bo, order 9 is on its way.","source":"ACME",
		"clientMessageId":"0123456789abcdef","encoding":"AUTO","subAccountId":"acme_hq"}`)
	b.Run("send-sms", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := action.Input.Validate(input); err != nil {
				b.Fatal(err)
			}
		}
	})
	batch, _ := Builtin().Lookup("send-batch-sms")
	many := bigBatch(1000)
	b.Run("send-batch-sms-1000", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := batch.Input.Validate(many); err != nil {
				b.Fatal(err)
			}
		}
	})
}

//nolint:paralleltest // it counts allocations, which others would add to
func TestValidateAllocatesNothing(t *testing.T) {
	action, _ := Builtin().Lookup("send-sms")
	input := decode(t, `{"destination":"+12025550101","text":"Hi","subAccountId":"acme_hq","encoding":"AUTO"}`)
	if n := testing.AllocsPerRun(100, func() { _ = action.Input.Validate(input) }); n > 0 {
		t.Errorf("a valid input costs %v allocations", n)
	}
}
