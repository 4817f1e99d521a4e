package handlers

import (
	"encoding/json"
	"math/big"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRunTests(t *testing.T) {
	t.Parallel()
	const head = `routes:
  - name: r
    on: [com.acme.order.shipped, com.acme.return.*]
    filters: [{exact: {source: /shop}}, {not: {exact: {subject: secret}}}]
    run: send-sms
    input:
      destination: ${ .data.phone }
      text: Order ${ .subject }, ${ .data.total // 0 } EUR
    tests:
      - `
	const shop = `event: {id: "1", source: /shop, type: com.acme.order.shipped, subject: "9", data: {phone: "+1 202 555 0101", total: 12345678901234567890}}`
	tests := map[string]struct {
		test string
		want []string
	}{
		"passes": {shop + `
        input: {destination: "+12025550101", text: "Order 9, 12345678901234567890 EUR"}`, nil},
		"another text": {shop + `
        input: {destination: "+12025550101", text: Order 9}`, []string{`text: got "Order 9, 12345678901234567890 EUR", want "Order 9"`}},
		"a field too few, one too many": {shop + `
        input: {destination: "+12025550101", source: ACME}`, []string{
			`source: missing, want "ACME"`, `text: got "Order 9, 12345678901234567890 EUR", want no such field`,
		}},
		"no match, as it should": {`event: {id: "1", source: /other, type: com.acme.order.shipped}
        no_match: true`, nil},
		"matches, and should not": {shop + `
        no_match: true`, []string{"the event matches the route, and the test says that it does not"}},
		"another type": {`event: {id: "1", source: /shop, type: com.acme.order.paid}
        input: {}`, []string{
			`the event does not match the route: the type "com.acme.order.paid" is not one that the route takes`,
		}},
		"a filter does not hold": {`event: {id: "1", source: /shop, type: com.acme.return.x, subject: secret}
        input: {}`, []string{
			"the event does not match the route: filter 2 does not hold",
		}},
		"the mapping fails": {`event: {id: "1", source: /shop, type: com.acme.return.x, data: {phone: "+12025550101"}}
        input: {}`, []string{
			"bridge.yaml:8:13: input field text: ${ .subject } gives null, which has no place in a text; use // to give it a default",
		}},
		"the input is not valid": {`event: {id: "1", source: /shop, type: com.acme.return.x, subject: "9", data: {phone: 12}}
        input: {}`, []string{
			"input field destination must be a string",
		}},
		"a bad name": {`event: {id: "1", source: /shop, type: t, tenant_id: a}
        input: {}`, []string{`the event is not valid: "tenant_id" is not the name of an attribute: it takes small letters and digits`}},
		"data twice": {`event: {id: "1", source: /shop, type: t, data: 1, data_base64: YQ==}
        input: {}`, []string{"the event is not valid: data and data_base64 exclude each other"}},
		"bad base64": {`event: {id: "1", source: /shop, type: t, data_base64: "?"}
        input: {}`, []string{"the event is not valid: data_base64 is not base64"}},
		"another version": {`event: {specversion: "0.3", id: "1", source: /shop, type: t}
        input: {}`, []string{`the event is not valid: specversion: must be "1.0"`}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			table, f, problems := compileText(t, head+tt.test+"\n", Options{})
			if problems.Errors() {
				t.Fatal(problems)
			}
			results := RunTests(table, f)
			if len(results) != 1 {
				t.Fatalf("%d results", len(results))
			}
			r := results[0]
			if r.Route != "r" || r.Name != "test 1" || r.Pos.Line != 10 || r.OK != (tt.want == nil) {
				t.Errorf("got %+v", r)
			}
			if diff := cmp.Diff(tt.want, r.Problems); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDifferences(t *testing.T) {
	t.Parallel()
	large, _ := new(big.Int).SetString("12345678901234567890", 10)
	tests := map[string]struct {
		got, want any
		diff      []string
	}{
		"equal numbers of several types": {[]any{1, 2.0, json.Number("3.0"), large, json.Number("1e400")}, []any{1.0, json.Number("2"), 3, json.Number("12345678901234567890"), json.Number("1e400")}, nil},
		"near numbers":                   {json.Number("12345678901234567890"), json.Number("12345678901234567891"), []string{"input: got 12345678901234567890, want 12345678901234567891"}},
		"number and text":                {1, "1", []string{`input: got 1, want "1"`}},
		"null and false":                 {nil, false, []string{"input: got null, want false"}},
		"deep": {
			map[string]any{"a": []any{map[string]any{"b": "x"}, 1}}, map[string]any{"a": []any{map[string]any{"b": "y"}}},
			[]string{`a[0].b: got "x", want "y"`, "a[1]: got 1, want no such item"},
		},
		"shorter":         {[]any{}, []any{"a"}, []string{`[0]: missing, want "a"`}},
		"list and object": {map[string]any{"a": []any{1}}, map[string]any{"a": map[string]any{}}, []string{"a: got [1], want {}"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.diff, differences("", tt.got, tt.want, nil)); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
		})
	}
}
