package catalog

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func lookup(t testing.TB, key string) *Action {
	t.Helper()
	action, ok := Builtin().Lookup(key)
	if !ok {
		t.Fatalf("no action %s", key)
	}
	return action
}

// bigBatch is an input of send-batch-sms with so many messages.
func bigBatch(size int) map[string]any {
	messages := make([]any, size)
	for i := range messages {
		messages[i] = map[string]any{
			"destination": fmt.Sprintf("+120255501%02d", i%100), "text": "Hi Bo, order 9 is on its way.",
			"clientMessageId": fmt.Sprint("order-", i),
		}
	}
	return map[string]any{"messages": messages, "template": map[string]any{"source": "ACME"}}
}

func TestBuiltin(t *testing.T) {
	t.Parallel()
	type row struct {
		Safe, OneCall, Check, Measure bool
		Reference                     Reference
	}
	want := map[string]row{
		"add-contacts-to-group":     {OneCall: true},
		"create-contact":            {Safe: true, OneCall: true},
		"get-account-balance":       {Safe: true, OneCall: true, Check: true},
		"get-sms-log-export-result": {Safe: true, OneCall: true, Check: true},
		"get-sms-status":            {Safe: true, OneCall: true, Check: true},
		"list-contacts":             {Safe: true, OneCall: true, Check: true},
		"list-groups":               {Safe: true, OneCall: true, Check: true},
		"request-sms-log-export":    {OneCall: true, Check: true},
		"send-batch-sms":            {OneCall: true, Check: true, Measure: true, Reference: ClientBatchID},
		"send-sms":                  {OneCall: true, Check: true, Measure: true, Reference: ClientMessageID},
	}
	got := map[string]row{}
	for _, a := range Builtin().All() {
		got[a.Key] = row{a.Safe, a.OneCall, a.Check != nil, a.Measure != nil, a.Reference}
		if a.Name == "" || a.Description == "" || a.ID != "" || a.Normalize == nil {
			t.Errorf("%s: name %q, description %q, id %q, Normalize %t", a.Key, a.Name, a.Description, a.ID, a.Normalize != nil)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Each action has its two schemas, and no schema is left over.
func TestSchemaFiles(t *testing.T) {
	t.Parallel()
	files, err := fs.Glob(schemas, "schema/*")
	if err != nil || len(files) != 2*len(Builtin().All()) {
		t.Errorf("got %d schema files for %d actions (%v)", len(files), len(Builtin().All()), err)
	}
	var check func(at string, s *Schema)
	check = func(at string, s *Schema) {
		if s == nil {
			return
		}
		var keywords struct{ Pattern, Type, Enum any }
		if err := json.Unmarshal(s.raw, &keywords); err != nil {
			t.Errorf("%s: %v", at, err)
		}
		if keywords.Type == nil {
			t.Errorf("%s has no type", at)
		}
		if keywords.Type != nil && s.types == typeAny {
			t.Errorf("%s has a type that we do not know", at)
		}
		if keywords.Pattern != nil && s.pattern == nil {
			t.Errorf("%s has a pattern that does not compile", at)
		}
		for _, name := range s.required {
			if _, named := s.Property(name); !named {
				t.Errorf("%s requires %s, which it does not name", at, name)
			}
		}
		for _, p := range s.properties {
			check(joinPath(at, p.name), p.schema)
		}
		check(at+"[]", s.items)
	}
	for _, a := range Builtin().All() {
		check(a.Key+".input", a.Input)
		check(a.Key+".output", a.Output)
		if field := string(a.Reference); field != "" {
			reference, named := a.Input.Property(field)
			if !named || reference.maxLength != a.Reference.Max() {
				t.Errorf("%s: its reference %s is not in its input with at most %d characters", a.Key, field, a.Reference.Max())
			}
		}
	}
	if n := NoReference.Max(); n != 0 {
		t.Errorf("no reference takes %d characters", n)
	}
}

func TestExampleInputs(t *testing.T) {
	t.Parallel()
	for _, action := range Builtin().All() {
		data, err := os.ReadFile("testdata/" + action.Key + ".json")
		if err != nil {
			t.Error(err)
			continue
		}
		var inputs []map[string]any
		if err := json.Unmarshal(data, &inputs); err != nil || len(inputs) == 0 {
			t.Errorf("%s: %d inputs, %v", action.Key, len(inputs), err)
		}
		for i, input := range inputs {
			for name := range input {
				if _, named := action.Input.Property(name); !named {
					t.Errorf("%s %d: its schema does not name %s", action.Key, i, name)
				}
			}
			// Either order will do.
			if err := action.Input.Validate(input); err != nil {
				t.Errorf("%s %d: %v", action.Key, i, err)
			}
			if err := action.Normalize(input); err != nil {
				t.Errorf("%s %d: %v", action.Key, i, err)
			}
			if err := action.Input.Validate(input); err != nil {
				t.Errorf("%s %d, normalized: %v", action.Key, i, err)
			}
			if action.Measure != nil && action.Measure(input) == nil {
				t.Errorf("%s %d: nothing measured", action.Key, i)
			}
		}
	}
}

// What the actions refuse, by schema or else by Normalize.
func TestRefusedInputs(t *testing.T) {
	t.Parallel()
	long := func(s string, n int) string { return `"` + strings.Repeat(s, n) + `"` }
	for _, test := range []struct{ key, input, want string }{
		{"send-sms", `{}`, "input field destination is required"},
		{"send-sms", `{"destination":"+12025550101"}`, "input field text is required"},
		{"send-sms", `{"destination":null,"text":"Hi"}`, "input field destination is required"},
		{"send-sms", `{"destination":"","text":"Hi"}`, "input field destination must not be empty"},
		{"send-sms", `{"destination":12025550101,"text":"Hi"}`, "input field destination must be a string"},
		{"send-sms", `{"destination":"+1202","text":"Hi"}`, "input field destination is too short for a phone number of its country"},
		{"send-sms", `{"destination":"81110001","country":"XX","text":"Hi"}`, "input field country must be the ISO 3166-1 code of a country with phone numbers, such as SG"},
		{"send-sms", `{"destination":"81110001","country":"SGP","text":"Hi"}`, "input field country must have at most 2 characters"},
		{"send-sms", `{"destination":"+12025550101","text":""}`, "input field text must not be empty"},
		{"send-sms", `{"destination":"+12025550101","text":["Hi"]}`, "input field text must be a string"},
		{"send-sms", `{"destination":"+12025550101","text":` + long("a", 1531) + `}`, "input field text makes 11 parts, and 8x8 sends at most 10"},
		{"send-sms", `{"destination":"+12025550101","encoding":"UCS2","text":` + long("a", 671) + `}`, "input field text makes 11 parts, and 8x8 sends at most 10"},
		{"send-sms", `{"destination":"+12025550101","text":"Hi","encoding":"gsm"}`, "input field encoding must be one of AUTO, GSM7, UCS2"},
		{"send-sms", `{"destination":"+12025550101","text":"Hi","source":"ACME Incorporated"}`, "input field source must have at most 16 characters"},
		{"send-sms", `{"destination":"+12025550101","text":"Hi","clientMessageId":` + long("a", 351) + `}`, "input field clientMessageId must have at most 350 characters"},
		{"send-sms", `{"destination":"+12025550101","text":"Hi","subAccountId":"a/b"}`, `input field subAccountId must match ^[A-Za-z0-9\-._&]*$`},
		{"send-batch-sms", `{}`, "input field messages is required, or destinations and template.text"},
		{"send-batch-sms", `{"messages":[]}`, "input field messages is required, or destinations and template.text"},
		{"send-batch-sms", `{"messages":[],"destinations":[]}`, "input field messages is required, or destinations and template.text"},
		{"send-batch-sms", `{"messages":{}}`, "input field messages must be a list"},
		{"send-batch-sms", `{"destinations":"+12025550101"}`, "input field destinations must be a list"},
		{"send-batch-sms", `{"messages":[5]}`, "input field messages[0] must be an object"},
		{"send-batch-sms", `{"messages":[null]}`, "input field messages[0] must be an object"},
		{"send-batch-sms", `{"messages":[{"text":"Hi"}]}`, "input field messages[0].destination is required"},
		{"send-batch-sms", `{"messages":[{"destination":"+12025550101"}]}`, "input field messages[0].text is required, or template.text"},
		{"send-batch-sms", `{"messages":[{"destination":"+12025550101","text":null}],"template":{"text":null}}`, "input field messages[0].text is required, or template.text"},
		{"send-batch-sms", `{"messages":[{"destination":"+12025550101","text":"Hi"},{"destination":"+1202","text":"Hi"}]}`, "input field messages[1].destination is too short for a phone number of its country"},
		{"send-batch-sms", `{"messages":[{"destination":"202","country":"XX","text":"Hi"}]}`, "input field messages[0].country must be the ISO 3166-1 code of a country with phone numbers, such as SG"},
		{"send-batch-sms", `{"messages":[{"destination":"+12025550101","text":` + long("a", 671) + `}],"template":{"encoding":"UCS2"}}`, "input field messages[0].text makes 11 parts, and 8x8 sends at most 10"},
		{"send-batch-sms", `{"messages":[{"destination":"+12025550101","encoding":"UCS2"}],"template":{"text":` + long("a", 671) + `}}`, "input field template.text makes 11 parts, and 8x8 sends at most 10"},
		{"send-batch-sms", `{"messages":[{"destination":"+12025550101"}],"template":{"text":` + long("a", 1531) + `}}`, "input field template.text makes 11 parts, and 8x8 sends at most 10"},
		{"send-batch-sms", `{"destinations":["+12025550101"]}`, "input field template.text is required with destinations"},
		{"send-batch-sms", `{"destinations":["+12025550101","02025550102"],"template":{"text":"Hi"}}`, "input field destinations[1] must start with + and the country calling code"},
		{"send-batch-sms", `{"destinations":[5],"template":{"text":"Hi"}}`, "input field destinations[0] must be a string"},
		{"send-batch-sms", `{"destinations":["+12025550101"],"template":"Hi"}`, "input field template must be an object"},
		{"send-batch-sms", `{"destinations":["+12025550101"],"template":{"text":"Hi"},"clientBatchId":` + long("a", 21) + `}`, "input field clientBatchId must have at most 20 characters"},
		{"send-batch-sms", `{"destinations":["+12025550101"],"template":{"text":"Hi"},"includeMessagesInResponse":"yes"}`, "input field includeMessagesInResponse must be true or false"},
		{"get-sms-status", `{}`, "input field umid is required"},
		{"get-sms-status", `{"umid":""}`, "input field umid must not be empty"},
		{"list-contacts", `{"limit":501}`, "input field limit must be at most 500"},
		{"list-contacts", `{"limit":0}`, "input field limit must be at least 1"},
		{"list-groups", `{"offset":-1}`, "input field offset must be at least 0"},
		{"list-groups", `{"offset":0.5}`, "input field offset must be a whole number"},
		{"create-contact", `{}`, "input field addresses is required"},
		{"create-contact", `{"addresses":{}}`, "input field addresses must have at least one address"},
		{"create-contact", `{"addresses":{"msisdn":null}}`, "input field addresses must have at least one address"},
		{"create-contact", `{"addresses":{"msisdn":"ana"}}`, "input field addresses.msisdn is not a phone number"},
		{"create-contact", `{"addresses":{"msisdn":"81110001"},"country":"XX"}`, "input field country must be the ISO 3166-1 code of a country with phone numbers, such as SG"},
		{"create-contact", `{"addresses":{"email":"ana@example.com"},"groups":[{}]}`, "input field groups[0].id is required"},
		{"create-contact", `{"addresses":{"email":"ana@example.com"},"country":"S"}`, "input field country must have at least 2 characters"},
		{"add-contacts-to-group", `{"groupId":12}`, "input field contacts is required"},
		{"add-contacts-to-group", `{"groupId":"12","contacts":[1]}`, "input field groupId must be a whole number"},
		{"add-contacts-to-group", `{"groupId":12,"contacts":["101"]}`, "input field contacts[0] must be a whole number"},
		{"request-sms-log-export", `{"limit":-1}`, "input field limit must be at least 0"},
		{"request-sms-log-export", `{"countries":["SGP"]}`, "input field countries[0] must have at most 2 characters"},
		{"get-sms-log-export-result", `{}`, "input field jobId is required"},
		{"get-account-balance", `{"accountId":5}`, "input field accountId must be a string"},
	} {
		action := lookup(t, test.key)
		input := decode(t, test.input).(map[string]any)
		err := action.Input.Validate(input)
		if err == nil {
			err = action.Normalize(input)
		}
		if err == nil || err.Error() != test.want {
			t.Errorf("%s %.80s:\n got %v\nwant %s", test.key, test.input, err, test.want)
		}
		if _, ok := err.(*InputError); !ok {
			t.Errorf("%s %.80s: got a %T, want an *InputError", test.key, test.input, err)
		}
		// In the other order something is refused as well.
		input = decode(t, test.input).(map[string]any)
		if action.Normalize(input) == nil && action.Input.Validate(input) == nil {
			t.Errorf("%s %.80s: passes when normalized first", test.key, test.input)
		}
	}
}

func TestNormalize(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, key, input, want string }{
		{"number and nulls", "send-sms",
			`{"destination":"(202) 555-0101","country":"us","text":"Hi","source":null,"own":null}`,
			`{"destination":"+12025550101","country":"us","text":"Hi","own":null}`},
		{"nothing to do", "send-sms",
			`{"destination":"+12025550101","text":"Hi"}`, `{"destination":"+12025550101","text":"Hi"}`},
		{"messages", "send-batch-sms",
			`{"messages":[{"destination":"+6581110001","text":"Hi"},{"destination":"81110002","country":"SG","text":null},{"destination":"6581110003"}],"template":{"text":"Yo","source":null}}`,
			`{"messages":[{"destination":"+6581110001","text":"Hi"},{"destination":"+6581110002","country":"SG"},{"destination":"+6581110003"}],"template":{"text":"Yo"}}`},
		{"destinations", "send-batch-sms",
			`{"destinations":["+12025550101","1 202 555 0102"],"template":{"text":"Hi"}}`,
			`{"destinations":["+12025550101","+12025550102"],"template":{"text":"Hi"}}`},
		{"messages win, destinations stay", "send-batch-sms",
			`{"messages":[{"destination":"12025550101","text":"Hi"}],"destinations":["nobody"]}`,
			`{"messages":[{"destination":"+12025550101","text":"Hi"}],"destinations":["nobody"]}`},
		{"contact", "create-contact",
			`{"addresses":{"msisdn":"81110001","email":null},"country":"SG"}`,
			`{"addresses":{"msisdn":"+6581110001"},"country":"SG"}`},
		{"contact without a number", "create-contact",
			`{"addresses":{"lineId":"x"},"firstName":null}`, `{"addresses":{"lineId":"x"}}`},
		{"a template's text counts only as it is sent", "send-batch-sms",
			`{"messages":[{"destination":"+12025550101","encoding":"GSM7"},{"destination":"+12025550102","encoding":"GSM7"}],"template":{"encoding":"UCS2","text":"` + strings.Repeat("a", 700) + `"}}`,
			`{"messages":[{"destination":"+12025550101","encoding":"GSM7"},{"destination":"+12025550102","encoding":"GSM7"}],"template":{"encoding":"UCS2","text":"` + strings.Repeat("a", 700) + `"}}`},
		{"nulls of any action", "list-contacts", `{"limit":null,"groupId":12}`, `{"groupId":12}`},
	} {
		action := lookup(t, test.key)
		event := decode(t, test.input).(map[string]any)
		input := maps.Clone(event)
		if err := action.Normalize(input); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if diff := cmp.Diff(decode(t, test.want), any(input)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
		if diff := cmp.Diff(decode(t, test.input), any(event)); diff != "" {
			t.Errorf("%s: what the input shares with the event has changed (-want +got):\n%s", test.name, diff)
		}
	}
}

// An input with expressions in it can be checked before there is an event.
func TestInputsKnownInPart(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		key   string
		input map[string]any
		want  string
	}{
		{"send-sms", map[string]any{"destination": RunTime, "text": RunTime, "country": RunTime}, ""},
		{"send-sms", map[string]any{"destination": RunTime, "text": RunTime, "encoding": "x"}, "input field encoding must be one of AUTO, GSM7, UCS2"},
		{"send-sms", map[string]any{"destination": "nobody", "text": RunTime}, "input field destination is not a phone number"},
		{"send-batch-sms", map[string]any{"messages": RunTime}, ""},
		{"send-batch-sms", map[string]any{"destinations": RunTime, "template": RunTime}, ""},
		{"send-batch-sms", map[string]any{"messages": []any{map[string]any{"destination": RunTime}}, "template": RunTime}, ""},
		{"send-batch-sms", map[string]any{"destinations": []any{RunTime}, "template": RunTime}, ""},
		{"create-contact", map[string]any{"addresses": RunTime}, ""},
		{"create-contact", map[string]any{"addresses": map[string]any{"msisdn": RunTime}}, ""},
	} {
		action := lookup(t, test.key)
		err := action.Input.Validate(test.input)
		if err == nil {
			err = action.Normalize(test.input)
		}
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s %v: got %q, want %q", test.key, test.input, got, test.want)
		}
		if action.Measure != nil {
			action.Measure(test.input)
		}
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ key, want string }{
		{"send-sms", "send-sms"},
		{"send_sms", "send-sms"},
		{"sendSMS", "send-sms"},
		{"sned-sms", "send-sms"},
		{"sms-send", ""},
		{"send-batch", "send-batch-sms"},
		{"list-contact", "list-contacts"},
		{"get-balance", ""},
		{"get-sms-log-export-results", "get-sms-log-export-result"},
		{"create-invoice", ""},
		{"", ""},
		{"x", ""},
		{strings.Repeat("send-sms", 20), ""},
	} {
		if got := Builtin().Nearest(test.key); got != test.want {
			t.Errorf("%q: got %q, want %q", test.key, got, test.want)
		}
	}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	c := newCatalog([]Action{{ID: "66f1", Name: "second"}, {Key: "b", Name: "b"}, {Key: "a", ID: "66f0", Name: "a"}, {ID: "66e9", Name: "first"}})
	if diff := cmp.Diff([]string{"a", "b"}, c.Keys()); diff != "" {
		t.Errorf("Keys (-want +got):\n%s", diff)
	}
	var names []string
	for _, action := range c.All() {
		names = append(names, action.Name)
	}
	if diff := cmp.Diff([]string{"first", "second", "a", "b"}, names); diff != "" {
		t.Errorf("All (-want +got):\n%s", diff)
	}
	c.All()[0] = nil // the caller's own list
	if c.All()[0] == nil {
		t.Error("All gives out the catalog's own list")
	}
	if a, ok := c.ByID("66f0"); !ok || a.Key != "a" {
		t.Errorf("ByID: %v, %t", a, ok)
	}
	if _, ok := c.ByID(""); ok {
		t.Error("ByID finds an action without an id")
	}
	if _, ok := c.Lookup(""); ok {
		t.Error("Lookup finds an action without a key")
	}
	if _, ok := Builtin().Lookup("send-fax"); ok {
		t.Error("Lookup finds an action that is not there")
	}
	if first := Builtin(); first != Builtin() {
		t.Error("the catalog is built twice")
	}
}

func BenchmarkNormalize(b *testing.B) {
	send := lookup(b, "send-sms")
	for _, bench := range []struct{ name, destination, country string }{
		{"send-sms-e164", "+12025550101", ""},
		{"send-sms-national", "81110001", "SG"},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			input := map[string]any{"text": "Hi Bo, order 9 is on its way.", "source": "ACME", "country": bench.country}
			var destination any = bench.destination
			for b.Loop() {
				input["destination"] = destination
				if err := send.Normalize(input); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	batch := lookup(b, "send-batch-sms")
	b.Run("send-batch-sms-1000", func(b *testing.B) {
		b.ReportAllocs()
		input := bigBatch(1000)
		for b.Loop() {
			if err := batch.Normalize(input); err != nil {
				b.Fatal(err)
			}
		}
	})
}
