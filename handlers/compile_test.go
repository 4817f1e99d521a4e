package handlers

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

func TestCompileProblems(t *testing.T) {
	t.Parallel()
	const head = `connections:
  main: {key: 8x8-main}
routes:
  - name: r
    on: com.acme.order.shipped
`
	const sms = head + "    run: send-sms\n    input:\n"
	tests := map[string]struct {
		text string
		want string
		// table tells that there is one, since the problems are only warnings
		table bool
	}{
		"none": {sms + `      destination: ${ .data.phone }
      text: hello
`, "", true},
		"unknown action": {head + "    run: send-smss\n", `bridge.yaml:6:10: error: route "r": there is no action "send-smss" (unknown-action)
    hint: did you mean "send-sms"?`, false},
		"unknown action, nothing near": {head + "    run: make-coffee\n", `bridge.yaml:6:10: error: route "r": there is no action "make-coffee" (unknown-action)
    hint: an action that is not in the catalog is named by its id: run: {id: …}`, false},
		"unknown connection": {head + "    run: {id: abc}\n    connection: mian\n", `bridge.yaml:7:17: error: route "r": there is no connection "mian" (unknown-connection)
    hint: did you mean "main"?`, false},
		"unknown connection, nothing near": {head + "    run: {id: abc}\n    connection: x\n", `bridge.yaml:7:17: error: route "r": there is no connection "x" (unknown-connection)
    hint: add it under connections:, or leave it out to use MEMBRANE_CONNECTION`, false},
		"required field missing": {sms + "      text: hello\n",
			`bridge.yaml:8:7: error: route "r": input field destination is required (input-unsatisfiable)`, false},
		"no input at all": {head + "    run: send-sms\n",
			`bridge.yaml:4:5: error: route "r": input field destination is required (input-unsatisfiable)
bridge.yaml:4:5: error: route "r": input field text is required (input-unsatisfiable)`, false},
		"constant of a wrong type": {sms + `      destination: ${ .data.phone }
      text: [1]
`, `bridge.yaml:9:13: error: route "r": input field text must be a string (input-unsatisfiable)`, false},
		"constant null in a required field": {sms + `      destination: ${ .data.phone }
      text: null
`, `bridge.yaml:9:13: error: route "r": input field text is required (input-unsatisfiable)`, false},
		"constant phone number that is none": {sms + `      destination: "+1"
      text: hello
`, `bridge.yaml:8:7: error: route "r": input field destination is not a phone number (input-unsatisfiable)`, false},
		"constants that are right": {sms + `      destination: "+12025550101"
      text: hello
`, "", true},
		"the reference": {sms + `      destination: ${ .data.phone }
      text: hello
      clientMessageId: ${ .id }
`, `bridge.yaml:10:7: error: route "r": the input field clientMessageId is set by the bridge, to know its runs again (reference-mapped)
    hint: leave it out; the result event names the cause`, false},
		"a field that the schema does not know": {sms + `      destination: ${ .data.phone }
      text: hello
      sourc: ACME
`, `bridge.yaml:10:7: warning: route "r": the action "send-sms" has no input field "sourc" (unknown-input)
    hint: did you mean "source"?`, true},
		"all at once, in file order": {head + `    run: send-smss
    connection: mian
    filters: [{nope: 1}]
    input:
      a: ${ .x ] }
      b: [{c: '${ foo }'}]
`, `bridge.yaml:6:10: error: route "r": there is no action "send-smss" (unknown-action)
    hint: did you mean "send-sms"?
bridge.yaml:7:17: error: route "r": there is no connection "mian" (unknown-connection)
    hint: did you mean "main"?
bridge.yaml:8:16: error: route "r": there is no filter dialect "nope" (filter-invalid)
    hint: the dialects are exact, prefix, suffix, all, any, not, sql
bridge.yaml:10:16: error: route "r": input field a: unexpected token "]" (jq-syntax)
bridge.yaml:11:18: error: route "r": input field b[0].c: function not defined: foo/0 (jq-compile)`, false},
		"a tenant": {`connections:
  main: {key: a, tenant: "${ .tenantid | foo }"}
`, `bridge.yaml:2:41: error: connection "main": tenant: function not defined: foo/0 (jq-compile)`, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, problems := config.Parse("bridge.yaml", []byte(tt.text), nil)
			problems = slices.DeleteFunc(problems, func(p config.Problem) bool { return p.Level == config.LevelWarning || p.Code == "unknown-connection" })
			if problems.Errors() {
				t.Fatal(problems)
			}
			table, problems := Compile(f, catalog.Builtin(), Options{})
			if diff := cmp.Diff(tt.want, problems.Error()); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if (table != nil) != tt.table {
				t.Errorf("there is a table: %v, want %v", table != nil, tt.table)
			}
		})
	}
}

// routesOn is a file with a route for each list of types.
func routesOn(on ...string) string {
	var b strings.Builder
	b.WriteString("routes:\n")
	for i, types := range on {
		b.WriteString("  - {name: r" + string(rune('0'+i)) + ", run: {id: abc}, on: " + types + "}\n")
	}
	return b.String()
}

func names(hs []*Handler) string {
	list := make([]string, len(hs))
	for i, h := range hs {
		list[i] = h.Name
	}
	return strings.Join(list, " ")
}

func TestMatchByType(t *testing.T) {
	t.Parallel()
	table, _, problems := compileText(t, routesOn(
		`"*"`, "com.acme.order.shipped", "com.acme.order.*", "[com.acme.order.shipped, com.acme.order.*, com.acme.*]",
		"[com.acme.order.paid, com.acme.order.shipped]", "org.other.*",
	), Options{})
	if problems.Errors() {
		t.Fatal(problems)
	}
	for name, want := range map[string]string{
		"com.acme.order.shipped":      "r0 r1 r2 r3 r4",
		"com.acme.order.paid":         "r0 r2 r3 r4",
		"com.acme.order.paid.partly":  "r0 r2 r3",
		"com.acme.order.":             "r0 r3",
		"com.acme.order":              "r0 r3",
		"com.acme.Order.shipped":      "r0 r3",
		"com.acme":                    "r0",
		"org.other.x":                 "r0 r5",
		"com.acme.order.shipped.late": "r0 r2 r3",
	} {
		e := order()
		e.SetType(name)
		if got := names(table.Match(NewView(&e))); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	// The index and the routes one by one agree.
	for _, h := range table.Handlers() {
		for _, name := range []string{"com.acme.order.shipped", "com.acme.order.paid", "com.acme", "org.other.x", "x"} {
			e := order()
			e.SetType(name)
			if got, want := h.takesType(name), slices.Contains(table.Match(NewView(&e)), h); got != want {
				t.Errorf("%s, %s: takesType is %v, and Match %v", h.Name, name, got, want)
			}
		}
	}
}

//nolint:paralleltest // what others allocate meanwhile would be counted
func TestMatchingNothingAllocatesNothing(t *testing.T) {
	table, _, problems := compileText(t, routesOn("com.acme.order.paid", "org.other.*"), Options{Commands: true})
	if problems.Errors() {
		t.Fatal(problems)
	}
	v := orderView()
	if n := testing.AllocsPerRun(100, func() {
		if table.Match(v) != nil {
			t.Error("a match")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestHandlerCarriesTheRoute(t *testing.T) {
	t.Parallel()
	table, _, problems := compileText(t, `connections:
  main: {id: c1, tenant: acme}
  other: {key: k2}
routes:
  - name: new-name
    formerly: old-name
    on: a
    run: send-sms
    connection: main
    input: {destination: "${ .data.phone }", text: hello}
    ttl: 15m
    retry: {attempts: 3, backoff: {initial: 2s, max: 1m}}
    on_unknown: retry
  - {name: by-id, on: a, run: {id: 66f1}, connection: other}
  - {name: plain, on: a, run: {id: 66f1}}
`, Options{DefaultConnection: "8x8-main"})
	if problems.Errors() {
		t.Fatal(problems)
	}
	v := orderView()
	h, ok := table.ByIdentity("old-name")
	if !ok || h.Name != "new-name" || h.Identity != "old-name" || h.Action.Key != "send-sms" || h.Connection != "main" ||
		h.TTL != 15*time.Minute || h.Retry != (config.Retry{Attempts: 3, Initial: 2 * time.Second, Max: time.Minute}) || h.OnUnknown != config.OnUnknownRetry {
		t.Errorf("got %+v, %v", h, ok)
	}
	if _, ok := table.ByIdentity("new-name"); ok {
		t.Error("the new name of a renamed route is taken for its identity")
	}
	for identity, want := range map[string]Place{
		"old-name": {Connection: "main", ConnectionID: "c1", Tenant: "acme"},
		"by-id":    {Connection: "other", ConnectionKey: "k2"},
		"plain":    {ConnectionKey: "8x8-main"},
	} {
		h, _ := table.ByIdentity(identity)
		if got, err := h.Place(v); err != nil || got != want {
			t.Errorf("%s: got %+v, %v; want %+v", identity, got, err, want)
		}
	}
	h, _ = table.ByIdentity("by-id")
	if h.Action.ID != "66f1" || h.Action.Key != "" || h.Action.Input != nil {
		t.Errorf("got the action %+v", h.Action)
	}
	if input, err := h.Input(v); err != nil || input == nil || len(input) != 0 {
		t.Errorf("a route without an input gives %v, %v", input, err)
	}
	if got := names(table.Handlers()); got != "new-name by-id plain" {
		t.Errorf("got the handlers %s", got)
	}
}

func TestDefaultConnection(t *testing.T) {
	t.Parallel()
	for connection, want := range map[string]Place{
		"":                         {},
		"8x8-main":                 {ConnectionKey: "8x8-main"},
		"66f1a2b3c4d5e6f708192a3b": {ConnectionID: "66f1a2b3c4d5e6f708192a3b"},
		"66f1a2b3c4d5e6f708192a3":  {ConnectionKey: "66f1a2b3c4d5e6f708192a3"},
	} {
		if got := defaultPlace(connection); got != want {
			t.Errorf("%q: got %+v, want %+v", connection, got, want)
		}
	}
}

func TestTenantExpression(t *testing.T) {
	t.Parallel()
	table, _, problems := compileText(t, `connections:
  lone: {key: k, tenant: "${ .tenantid }"}
  text: {key: k, tenant: "t-${ .tenantid }"}
  number: {key: k, tenant: "${ .priority }"}
routes:
  - {name: lone, on: "*", run: {id: a}, connection: lone}
  - {name: text, on: "*", run: {id: a}, connection: text}
  - {name: number, on: "*", run: {id: a}, connection: number}
`, Options{})
	if problems.Errors() {
		t.Fatal(problems)
	}
	without := order()
	without.SetExtension("tenantid", nil)
	empty := order()
	empty.SetExtension("tenantid", "")
	with := order()
	const none = `tenant: gives no tenant: it must be a text that is not empty`
	tests := []struct {
		route, want, err string
		e                *event.Event
	}{
		{"lone", "acme", "", &with},
		{"text", "t-acme", "", &with},
		{"number", "", `bridge.yaml:4:28: connection "number": ` + none, &with},
		{"lone", "", `bridge.yaml:2:26: connection "lone": ` + none, &without},
		{"lone", "", `bridge.yaml:2:26: connection "lone": ` + none, &empty},
		{"text", "", `bridge.yaml:3:26: connection "text": tenant: ${ .tenantid } gives null, which has no place in a text; use // to give it a default`, &without},
	}
	for _, tt := range tests {
		h, _ := table.ByIdentity(tt.route)
		place, err := h.Place(NewView(tt.e))
		if place.Tenant != tt.want || place.ConnectionKey != "k" || place.Connection != tt.route {
			t.Errorf("%s: got %+v, want the tenant %q", tt.route, place, tt.want)
		}
		var mapping *MappingError
		if tt.err != "" && (!errors.As(err, &mapping) || err.Error() != tt.err) || tt.err == "" && err != nil {
			t.Errorf("%s: got the error %v, want %s", tt.route, err, tt.err)
		}
	}
}

func TestInputIsCheckedAgainstTheSchema(t *testing.T) {
	t.Parallel()
	table, _, problems := compileText(t, `routes:
  - name: fields
    on: "*"
    run: send-sms
    input: {destination: "${ .data.phone }", text: "${ .data.text }", source: "${ .data.sender }"}
`, Options{})
	if problems.Errors() {
		t.Fatal(problems)
	}
	const phone = "+1 (202) 555-0101"
	tests := map[string]struct {
		data    string
		want    map[string]any
		err     string // of a *catalog.InputError
		mapping string // of a *MappingError
	}{
		"normalised":             {`{"phone":"` + phone + `","text":"hi"}`, map[string]any{"destination": "+12025550101", "text": "hi"}, "", ""},
		"with an optional field": {`{"phone":"` + phone + `","text":"hi","sender":"ACME"}`, map[string]any{"destination": "+12025550101", "text": "hi", "source": "ACME"}, "", ""},
		"required is missing":    {`{"phone":"` + phone + `"}`, nil, "input field text is required", ""},
		"wrong type":             {`{"phone":"` + phone + `","text":{"a":1}}`, nil, "input field text must be a string", ""},
		"no phone number":        {`{"phone":"+1","text":"hi"}`, nil, "input field destination is not a phone number", ""},
		"broken data":            {`{"destination":`, nil, "", "bridge.yaml:5:26: input field destination: the event's data is not the JSON that its content type promises"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := order()
			e.DataEncoded = []byte(tt.data)
			h, _ := table.ByIdentity("fields")
			input, err := h.Input(NewView(&e))
			var invalid *catalog.InputError
			var mapping *MappingError
			switch {
			case tt.err != "":
				if !errors.As(err, &invalid) || err.Error() != tt.err {
					t.Errorf("got %v, %v; want the error %q", input, err, tt.err)
				}
			case tt.mapping != "":
				if !errors.As(err, &mapping) || err.Error() != tt.mapping {
					t.Errorf("got %v, %v; want the error %q", input, err, tt.mapping)
				}
			default:
				if diff := cmp.Diff(tt.want, input); err != nil || diff != "" {
					t.Errorf("error %v, input (-want +got):\n%s", err, diff)
				}
			}
			if err != nil && input != nil {
				t.Errorf("an input comes with the error: %v", input)
			}
		})
	}
}

func TestNullInAList(t *testing.T) {
	t.Parallel()
	table, _, problems := compileText(t, "routes:\n  - name: r\n    on: \"*\"\n    run: {id: a}\n    input: {tags: ['${ .subject }', '${ .data.none }'], kept: {a: '${ .data.none }', b: null}}\n", Options{})
	if problems.Errors() {
		t.Fatal(problems)
	}
	_, err := table.Handlers()[0].Input(orderView())
	if want := "bridge.yaml:5:37: input field tags[1]: ${ .data.none } gives null, which a list cannot leave out"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestCommands(t *testing.T) {
	t.Parallel()
	text := routesOn(`"com.8x8.run.*"`)
	off, _, _ := compileText(t, text, Options{})
	on, _, _ := compileText(t, text, Options{Commands: true, DefaultConnection: "8x8-main"})
	command := func(key, data string) *View {
		e := event.New()
		e.SetID("1")
		e.SetSource("/x")
		e.SetType(CommandType + key)
		if data != "" {
			e.DataEncoded = []byte(data)
		}
		return NewView(&e)
	}
	const good = `{"destination":"+1 202 555 0101","text":"hi"}`
	if got := names(off.Match(command("send-sms", good))); got != "r0" {
		t.Errorf("with commands off, %q match", got)
	}
	if _, ok := off.ByIdentity("run:send-sms"); ok {
		t.Error("with commands off, there is a handler for them")
	}
	matched := on.Match(command("send-sms", good))
	if got := names(matched); got != "r0 run" {
		t.Fatalf("got %q", got)
	}
	h := matched[1]
	if h.Identity != "run:send-sms" || h.Action.Key != "send-sms" || h.Retry.Attempts != 8 || h.OnUnknown != config.OnUnknownHold || h.TTL != 0 {
		t.Errorf("got %+v", h)
	}
	if again, ok := on.ByIdentity("run:send-sms"); !ok || again != h {
		t.Error("the handler is not found by its identity")
	}
	input, err := h.Input(command("send-sms", good))
	if diff := cmp.Diff(map[string]any{"destination": "+12025550101", "text": "hi"}, input); err != nil || diff != "" {
		t.Errorf("%v, input (-want +got):\n%s", err, diff)
	}
	if place, err := h.Place(command("send-sms", good)); err != nil || place != (Place{ConnectionKey: "8x8-main"}) {
		t.Errorf("got the place %+v, %v", place, err)
	}
	for data, want := range map[string]string{
		"":               "input field destination is required",
		"null":           "input field destination is required",
		"[]":             "input must be a JSON object: a command's data is the action's input",
		`"x"`:            "input must be a JSON object: a command's data is the action's input",
		`{"text":"hi"}`:  "input field destination is required",
		`{"destination"`: "input: the event's data is not the JSON that its content type promises",
		good[:len(good)-1] + `,"clientMessageId":"a"}`: "input field clientMessageId is set by the bridge and must be left out",
	} {
		if _, err := h.Input(command("send-sms", data)); err == nil || err.Error() != want {
			t.Errorf("data %s: got %v, want %s", data, err, want)
		}
	}

	// An action that the catalog does not know has a definite answer, now and on redelivery.
	unknown := on.Match(command("send-smss", good))
	if got := names(unknown); got != "r0 run" {
		t.Fatalf("got %q", got)
	}
	again, ok := on.ByIdentity(unknown[1].Identity)
	if !ok {
		t.Fatal("no handler by the identity of an unknown command")
	}
	for _, h := range []*Handler{unknown[1], again} {
		_, err := h.Input(command("send-smss", good))
		var missing *ActionMissingError
		if !errors.As(err, &missing) || err.Error() != `there is no action "send-smss"; did you mean "send-sms"?` {
			t.Errorf("got %v", err)
		}
		if _, err := h.Place(command("send-smss", good)); !errors.As(err, &missing) {
			t.Errorf("place: got %v", err)
		}
		if h.Action != nil {
			t.Errorf("got the action %+v", h.Action)
		}
	}
	if got := names(on.Match(command("", good))); got != "" {
		t.Errorf("a command without a key matches %q", got)
	}
	if got, want := len(on.Handlers()), 1+len(catalog.Builtin().Keys()); got != want {
		t.Errorf("%d handlers, want %d", got, want)
	}
	if !on.Options().Commands || off.Options().Commands {
		t.Error("the options are not kept")
	}
}

func TestView(t *testing.T) {
	t.Parallel()
	with := func(change func(e *event.Event)) *event.Event {
		e := event.New()
		e.SetID("1")
		e.SetSource("/x")
		e.SetType("t")
		change(&e)
		return &e
	}
	tests := map[string]struct {
		e    *event.Event
		want string
	}{
		"no data":         {with(func(*event.Event) {}), `{}`},
		"null":            {with(func(e *event.Event) { e.DataEncoded = []byte("null") }), `{"data":null}`},
		"no content type": {with(func(e *event.Event) { e.DataEncoded = []byte(`{"a":12345678901234567890}`) }), `{"data":{"a":12345678901234567890}}`},
		"JSON, another name": {with(func(e *event.Event) {
			e.SetDataContentType("Application/VND.x+JSON; charset=utf-8")
			e.DataEncoded = []byte(`[1.50]`)
		}), `{"data":[1.50],"datacontenttype":"Application/VND.x+JSON; charset=utf-8"}`},
		"JSON that came as base64": {with(func(e *event.Event) {
			e.SetDataContentType("application/json")
			e.DataBase64, e.DataEncoded = true, []byte(`{"a":1}`)
		}), `{"data":{"a":1},"datacontenttype":"application/json"}`},
		"text": {with(func(e *event.Event) {
			e.SetDataContentType("text/plain")
			e.DataEncoded = []byte("grüezi")
		}), `{"data":"grüezi","datacontenttype":"text/plain"}`},
		"empty text": {with(func(e *event.Event) {
			e.SetDataContentType("text/plain")
			e.DataEncoded = []byte{}
		}), `{"data":"","datacontenttype":"text/plain"}`},
		"XML": {with(func(e *event.Event) {
			e.SetDataContentType("application/xml")
			e.DataEncoded = []byte("<a/>")
		}), `{"data":"<a/>","datacontenttype":"application/xml"}`},
		"binary": {with(func(e *event.Event) {
			e.SetDataContentType("application/octet-stream")
			e.DataEncoded = []byte{0xff, 0}
		}), `{"data_base64":"/wA=","datacontenttype":"application/octet-stream"}`},
		"base64 without a content type": {with(func(e *event.Event) {
			e.DataBase64, e.DataEncoded = true, []byte("abc")
		}), `{"data_base64":"YWJj"}`},
		"every attribute": {with(func(e *event.Event) {
			e.SetSubject("s")
			e.SetTime(time.Date(2026, 1, 2, 3, 4, 5, 120e6, time.FixedZone("", 3600)))
			e.SetDataSchema("https://example.com/schema")
			e.SetExtension("flag", false)
			e.SetExtension("number", -3)
			e.SetExtension("bytes", []byte("abc"))
			e.SetExtension("moment", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
		}), `{"subject":"s","time":"2026-01-02T03:04:05.12+01:00","dataschema":"https://example.com/schema","flag":false,"number":-3,"bytes":"YWJj","moment":"2026-01-02T03:04:05Z"}`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := NewViewRaw(tt.e, "/raw %7E", "raw-id")
			whole, err := v.object()
			if err != nil {
				t.Fatal(err)
			}
			object := whole.(map[string]any)
			want, err := decodeJSON([]byte(tt.want))
			if err != nil {
				t.Fatal(err)
			}
			members := want.(map[string]any)
			maps.Copy(members, map[string]any{"specversion": "1.0", "id": "raw-id", "source": "/raw %7E", "type": "t"})
			number := func(v any) any {
				if n, ok := v.(int); ok {
					return json.Number(show(n))
				}
				return v
			}
			for name, value := range object {
				object[name] = number(value)
			}
			if diff := cmp.Diff(want, any(object)); diff != "" {
				t.Errorf("object (-want +got):\n%s", diff)
			}
			// One field at a time, it is the same.
			for name, value := range object {
				if got, err := v.field(name); err != nil || cmp.Diff(value, number(got)) != "" {
					t.Errorf("%s alone: got %v, %v; want %v", name, got, err, value)
				}
			}
		})
	}
}
