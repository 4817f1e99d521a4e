package config

import (
	"strings"
	"testing"
)

func TestResultShape(t *testing.T) {
	t.Parallel()
	const route = "routes:\n  - name: r\n    on: a\n    run: send-sms\n    result: "
	for text, want := range map[string]string{
		`{type: a.b, subject: "${ .x }", data: {a: 1}, failed: {type: b}}`: "",
		`{data: [1, "${ .output }"]}`:                                      "",
		`{failed: {data: 1}}`:                                              "",
		`{}`:                                                               "",
		`yes`:                                                              `x:5:13: error: result must be a mapping with type, subject, data and failed, not text (wrong-type)`,
		`{typ: a}`:                                                         `x:5:14: error: result has no key "typ" (unknown-key)`,
		`{type: 1}`:                                                        `x:5:20: error: "type" must be text, not a number (wrong-type)`,
		`{failed: {failed: {}}}`:                                           `x:5:23: error: failed has no key "failed" (unknown-key)`,
		`{failed: []}`:                                                     `x:5:22: error: failed must be a mapping with type, subject and data, not a list (wrong-type)`,
	} {
		_, problems := Parse("x", []byte(route+text+"\n"), nil)
		var lines []string
		for _, p := range problems {
			p.Hint = ""
			lines = append(lines, p.String())
		}
		if got := strings.Join(lines, "\n"); got != want {
			t.Errorf("%s:\n got %s\nwant %s", text, got, want)
		}
	}
	f, _ := Parse("x", []byte(route+"{failed: {data: 1}}\n"), nil)
	if r := f.Routes[0]; r.Result != nil || r.ResultFailed == nil || r.ResultFailed.Type.Kind != KindNone || r.ResultFailed.Data.Scalar != 1 {
		t.Errorf("%+v, %+v", r.Result, r.ResultFailed)
	}
}
