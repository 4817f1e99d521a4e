package catalog

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What a schema of Membrane's refuses, in its dialect: what is missing, what is of
// another type, and what an enum lacks; nothing else.
func TestOfferedSchemasAreLenient(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, schema, input, want string
	}{
		{"a limit", `{"properties":{"a":{"type":"string","minLength":3,"maxLength":4,"pattern":"^x"}}}`, `{"a":"y"}`, ""},
		{"a bound", `{"properties":{"a":{"type":"number","minimum":3,"maximum":4}}}`, `{"a":9}`, ""},
		{"too many items", `{"properties":{"a":{"type":"array","maxItems":1}}}`, `{"a":[1,2]}`, ""},
		{"required", `{"required":["a"]}`, `{}`, "input field a is required"},
		{"required below what is there", `{"properties":{"a":{"type":"object","required":["b"]}}}`, `{"a":{}}`, "input field a.b is required"},
		{"required below what is optional and absent", `{"properties":{"a":{"type":"object","required":["b"]}}}`, `{}`, ""},
		{"required of an item", `{"properties":{"a":{"type":"array","items":{"type":"object","required":["b"]}}}}`, `{"a":[{}]}`, ""},
		{"required below an item", `{"properties":{"a":{"items":{"properties":{"b":{"required":["c"]}}}}}}`, `{"a":[{"b":{}}]}`, ""},
		{"the type of an item", `{"properties":{"a":{"type":"array","items":{"type":"string"}}}}`, `{"a":[1]}`, "input field a[0] must be a string"},
		{"a type", `{"properties":{"a":{"type":"string"}}}`, `{"a":1}`, "input field a must be a string"},
		{"one of two types", `{"properties":{"a":{"type":["string","number"]}}}`, `{"a":1}`, ""},
		{"no type", `{"properties":{"a":{"title":"x"}}}`, `{"a":[1]}`, ""},
		{"a type that nobody knows", `{"properties":{"a":{"type":"file"}}}`, `{"a":1}`, ""},
		{"a whole number", `{"properties":{"a":{"type":"integer"}}}`, `{"a":1.5}`, "input field a must be a whole number"},
		{"other fields", `{"properties":{},"additionalProperties":false}`, `{"a":1}`, ""},
		{"an enum", `{"properties":{"a":{"type":"string","enum":["x"]}}}`, `{"a":"y"}`, "input field a must be one of x"},
		{"an enum of numbers", `{"properties":{"a":{"enum":[1,2]}}}`, `{"a":2}`, ""},
		{"an enum that is a suggestion", `{"properties":{"a":{"type":"string","enum":["x"],"allowCustom":true}}}`, `{"a":"y"}`, ""},
		{"an enum beside a boolean", `{"properties":{"a":{"type":"boolean","enum":["x"]}}}`, `{"a":true}`, ""},
		{"a boolean required, which is invalid", `{"properties":{"a":{"type":"string","required":true}},"required":true}`, `{}`, ""},
		{"properties that are none", `{"properties":[1],"required":["a"]}`, `{"a":1}`, ""},
		{"a type that is none", `{"properties":{"a":{"type":7}}}`, `{"a":1}`, ""},
		{"references", `{"properties":{"a":{"referenceCollection":{"key":"x"},"$ref":"#/x","anyOf":[{"type":"string"}],"isImplied":true}}}`, `{"a":1}`, ""},
		{"null for what is optional", `{"properties":{"a":{"type":"string"}}}`, `{"a":null}`, ""},
	} {
		var input any
		if err := json.Unmarshal([]byte(test.input), &input); err != nil {
			t.Fatal(err)
		}
		got := ""
		if err := ParseOffered(json.RawMessage(test.schema)).Validate(input); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	for _, broken := range []string{"", "null", "7", `"x"`, "[1]", `{"a"`, "{} {}"} {
		if s := ParseOffered(json.RawMessage(broken)); s != nil || s.Validate(map[string]any{}) != nil {
			t.Errorf("%s is a schema", broken)
		}
	}
}

func lookupIn(t *testing.T, c *Catalog, key string) *Action {
	t.Helper()
	a, ok := c.Lookup(key)
	if !ok {
		t.Fatalf("there is no action %s", key)
	}
	return a
}

// An object of which no field is described says nothing against what is known.
func TestOverlayThatSaysNothing(t *testing.T) {
	t.Parallel()
	for schema, like := range map[string]bool{
		``: true, `{}`: true, `null`: true, `{"type":"object"}`: true, `{"type":["object","null"],"properties":{}}`: true,
		`{"type":"object","additionalProperties":{}}`: true, `{"type":"object","additionalProperties":true}`: true,
		`{"type":"object","additionalProperties":false}`: false, `{"type":"object","required":["to"]}`: false,
		`{"type":"object","properties":{"to":{}}}`: false, `{"type":"string"}`: false,
	} {
		send := lookupIn(t, Builtin().Overlay([]Offer{{Key: "send-sms", ID: "1", Input: json.RawMessage(schema), Output: json.RawMessage(schema)}}), "send-sms")
		if known := !send.Unlike && send.Reference == ClientMessageID && !send.Unreferenced(); known != like {
			t.Errorf("%s: unlike %t, reference %q", schema, send.Unlike, send.Reference)
		}
	}
}

// The same schema as ours makes no difference, as to what is refused.
func TestOverlayOfTheSame(t *testing.T) {
	t.Parallel()
	var offers []Offer
	for _, a := range Builtin().All() {
		offers = append(offers, Offer{Key: a.Key, ID: "id-" + a.Key, Input: a.Input.Raw(), Output: a.Output.Raw()})
	}
	over := Builtin().Overlay(offers)
	for _, a := range over.All() {
		if a.Unlike || a.Problem != "" || a.ID != "id-"+a.Key || !a.Offered() {
			t.Errorf("%s: %+v", a.Key, a)
		}
		was := lookupIn(t, Builtin(), a.Key)
		if a.Safe != was.Safe || a.OneCall != was.OneCall || a.Reference != was.Reference || (a.Check == nil) != (was.Check == nil) || (a.Measure == nil) != (was.Measure == nil) {
			t.Errorf("%s: it is not what it was", a.Key)
		}
	}
	send := lookupIn(t, over, "send-sms")
	for input, want := range map[string]string{
		`{"destination":"+12025550111","text":"Hi"}`:                              "",
		`{"destination":"+12025550111"}`:                                          "input field text is required",
		`{"destination":"+12025550111","text":"Hi","source":"12345678901234567"}`: "input field source must have at most 16 characters",
		`{"destination":"+12025550111","text":"Hi","encoding":"ASCII"}`:           "input field encoding must be one of AUTO, GSM7, UCS2",
	} {
		var value map[string]any
		if err := json.Unmarshal([]byte(input), &value); err != nil {
			t.Fatal(err)
		}
		got := ""
		if err := send.Input.Validate(value); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", input, got, want)
		}
	}
}

func TestOverlay(t *testing.T) {
	t.Parallel()
	schema := func(text string) json.RawMessage { return json.RawMessage(text) }
	full := `{"type":"object","required":["destination","text"],"properties":{"destination":{"type":"string"},"text":{"type":"string","maxLength":70},"source":{"type":"string"}`
	over := Builtin().Overlay([]Offer{
		{Key: "send-sms", ID: "1", Name: "Send", Input: schema(full + `,"clientMessageId":{"type":"string","maxLength":50}}}`)},
		{Key: "send-batch-sms", ID: "2", Input: schema(`{"type":"object","properties":{"numbers":{"type":"array"}},"required":["numbers"]}`)},
		{Key: "list-groups", ID: "3", Type: "run-javascript"},
		{Key: "create-contact", ID: "4", Problem: "its state is BUILDING", Input: schema(`{}`)},
		{Key: "cancel", ID: "5", Type: "api-request-to-external-app", Input: schema(`{"properties":{"umid":{"type":"string"}},"required":["umid"]}`)},
		{ID: "6", Name: "Without a key", Type: "connector-operation"},
		{Key: "twice", ID: "7"}, {Key: "twice", ID: "8", Problem: "it is archived"},
		{},
	})
	send := lookupIn(t, over, "send-sms")
	if send.Reference != NoReference || send.Normalize == nil || send.Name != "Send" || !send.OneCall || send.Check == nil {
		t.Errorf("send-sms, whose reference has no room: %+v", send)
	}
	if err := send.Input.Validate(map[string]any{"destination": "+1", "text": "Hi", "source": "12345678901234567"}); err == nil {
		t.Error("what 8x8 limits, and the service says nothing about, is held no longer")
	}
	batch := lookupIn(t, over, "send-batch-sms")
	if !batch.Unlike || batch.Normalize != nil || batch.Measure != nil || batch.Reference != NoReference {
		t.Errorf("send-batch-sms with other fields: %+v", batch)
	}
	if err := batch.Input.Validate(map[string]any{"numbers": []any{}}); err != nil {
		t.Error(err)
	}
	if a := lookupIn(t, over, "list-groups"); a.Safe || a.OneCall || a.Input != lookupIn(t, Builtin(), "list-groups").Input {
		t.Errorf("code of somebody's own is taken for the built-in action: %+v", a)
	}
	if a := lookupIn(t, over, "create-contact"); a.Problem != "its state is BUILDING" || len(a.Input.Required()) == 0 {
		t.Errorf("create-contact: %+v", a)
	}
	cancel := lookupIn(t, over, "cancel")
	if cancel.Safe || !cancel.OneCall || cancel.Check != nil || cancel.Input.Validate(map[string]any{}) == nil {
		t.Errorf("cancel: %+v", cancel)
	}
	if a, ok := over.ByID("6"); !ok || a.Key != "" || a.OneCall {
		t.Errorf("the one without a key: %+v", a)
	}
	if a := lookupIn(t, over, "twice"); a.Problem != "" {
		t.Errorf("of two with one key the one that cannot be run was taken: %+v", a)
	}
	if got := len(over.All()); got != len(Builtin().All())+3 {
		t.Errorf("%d actions", got)
	}
	if a := lookupIn(t, over, "get-account-balance"); a.Offered() || a.ID != "" {
		t.Error("what is not offered is taken for it")
	}
	if _, ok := Builtin().Lookup("cancel"); ok || lookupIn(t, Builtin(), "send-sms").ID != "" {
		t.Error("the built-in catalog was changed")
	}
}

func TestRequestAnswers(t *testing.T) {
	t.Parallel()
	check := Request("POST", "x").Check
	for output, want := range map[string]Verdict{
		`{"status":200}`:                                                      {OK: true},
		`{"status":"204","data":null}`:                                        {OK: true},
		`{"Status":202,"body":{"code":"x"}}`:                                  {OK: true},
		`{"status":404,"data":{"code":1300}}`:                                 {Status: 404, Message: "8x8 answered 404, code 1300", Details: map[string]any{"status": 404, "code": 1300}},
		`{"status":400,"body":{"code":1002}}`:                                 {Status: 400, Message: "8x8 answered 400, code 1002", Details: map[string]any{"status": 400, "code": 1002}},
		`{"status":400,"data":{"code":12025550111,"message":"+12025550111"}}`: {Status: 400, Message: "8x8 answered 400", Details: map[string]any{"status": 400}},
		`{"status":429,"headers":{"Retry-After":"7"}}`:                        {Status: 429, Message: "8x8 answered 429", RetryAfter: 7 * time.Second, Details: map[string]any{"status": 429}},
		`{"status":429,"headers":{"retry-after":["9"]}}`:                      {Status: 429, Message: "8x8 answered 429", RetryAfter: 9 * time.Second, Details: map[string]any{"status": 429}},
		`{"status":429,"headers":{"retry-after":1e300}}`:                      {Status: 429, Message: "8x8 answered 429", RetryAfter: time.Hour, Details: map[string]any{"status": 429}},
		`{"status":429,"headers":{"retry-after":"Wed, 21 Oct 2026"}}`:         {Status: 429, Message: "8x8 answered 429", Details: map[string]any{"status": 429}},
		`{"status":302}`:  {Status: 302, Message: "8x8 answered 302", Details: map[string]any{"status": 302}},
		`{}`:              {Unclear: true, Message: "the output has no HTTP status"},
		`{"status":"ok"}`: {Unclear: true, Message: "the output has no HTTP status"},
		`{"status":0}`:    {Unclear: true, Message: "the output has no HTTP status"},
		`[200]`:           {Unclear: true, Message: "the output has no HTTP status"},
		``:                {Unclear: true, Message: "the output has no HTTP status"},
		`{"status":2`:     {Unclear: true, Message: "the output has no HTTP status"},
	} {
		if diff := cmp.Diff(want, check(json.RawMessage(output))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", output, diff)
		}
	}
}
