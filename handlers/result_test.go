package handlers

import (
	"strings"
	"testing"

	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// What is wrong with a shape whatever the event is said at the load.
func TestResultProblems(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{type: ""}`:                   `x:6:20: error: route "r": result type: is empty (bad-value)`,
		`{type: a b}`:                  `x:6:20: error: route "r": result type: holds spaces (bad-value)`,
		`{type: com.8x8.sms.status}`:   `x:6:20: error: route "r": result type: begins with com.8x8., as the types of 8x8's own events and of results that are not shaped do (bad-value)`,
		`{subject: ""}`:                `x:6:23: error: route "r": result subject: is empty (bad-value)`,
		`{data: "${ .x"}`:              `x:6:20: error: route "r": result data: the expression that begins with ${ has no end (jq-syntax)`,
		`{data: {a: "${ env }"}}`:      `x:6:27: error: route "r": result data field a: "env" is not available in a route (jq-compile)`,
		`{failed: {type: "${ ... }"}}`: `x:6:36: error: route "r": result type: the expression ends too early (jq-syntax)`,
	} {
		f, problems := config.Parse("x", []byte("connections: {c: {key: k}}\nroutes:\n  - name: r\n    on: a\n    run: get-account-balance\n    result: "+text+"\n"), nil)
		if problems.Errors() {
			t.Fatal(problems)
		}
		_, problems = Compile(f, catalog.Builtin(), Options{DefaultConnection: "c"})
		var lines []string
		for _, p := range problems {
			p.Hint = ""
			lines = append(lines, p.String())
		}
		if got := strings.Join(lines, "\n"); got != want {
			t.Errorf("%s:\n got %s\nwant %s", text, got, want)
		}
	}
}

func TestShapesResult(t *testing.T) {
	t.Parallel()
	for text, reads := range map[string]bool{
		`{data: "${ .output.umid }"}`: false, `{data: {a: [{b: "${ .event.id }"}]}}`: true, `{subject: "${ .event.subject // .result.route }"}`: true,
		`{data: "${ .result.cause.id }"}`: false, `{type: a.b}`: false,
	} {
		f, _ := config.Parse("x", []byte("routes:\n  - name: r\n    on: a\n    run: get-account-balance\n    result: "+text+"\n"), nil)
		table, problems := Compile(f, catalog.Builtin(), Options{DefaultConnection: "c"})
		if problems.Errors() {
			t.Fatal(problems)
		}
		h := table.Handlers()[0]
		if shapes, got := h.ShapesResult(true); !shapes || got != reads {
			t.Errorf("%s: %v, reads the event: %v", text, shapes, got)
		}
		if shapes, _ := h.ShapesResult(false); shapes {
			t.Errorf("%s shapes failures", text)
		}
	}
}
