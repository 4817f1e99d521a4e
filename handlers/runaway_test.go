package handlers

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// hostileView is an event whose values are chosen to take all there is.
func hostileView() *View {
	e := event.New()
	e.SetID("evil")
	e.SetSource("/s")
	e.SetType("t")
	e.SetSubject(strings.Repeat("a", 60_000))
	e.DataEncoded = []byte(`{"n":500000000,"text":"` + strings.Repeat("a", 100_000) + `","digits":` + strings.Repeat("9", 100_000) + `,"deep":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`)
	return NewView(&e)
}

// Whatever an expression does, and whatever is in the event, it ends, soon, and
// without taking the machine's memory.
//
//nolint:paralleltest // it counts allocations
func TestExpressionsDoNotRunAway(t *testing.T) {
	for _, expr := range []string{
		`reduce range(60) as $i ("x"; . + .)`, `reduce range(60) as $i ("x"; . + . + .)`, `reduce range(60) as $i ([1]; . + .)`, `reduce range(60) as $i (10; . * .)`,
		`[][.data.n] = 1`, `. as $e | [] | .[$e.data.n] |= 1`, `[] | .[500000000] = 1`, `. as $e | [] | setpath([$e.data.n]; 1)`, `. as $e | {} | .a[$e.data.n] += 1`, `. as $e | [] | pick(.[$e.data.n])`,
		`. as $e | fromstream([[$e.data.n], 1])`, `.data.n as $n | jn($n; 1.5)`, `.data.digits + 1`, `.data.digits * .data.digits`, `.data.text * .data.n`,
		`[range(1e9)] | length`, `[limit(1e9; repeat(1))] | length`, `until(false; . )`, `[while(true; .)]`, `last(range(1e12))`, `def f: [f]; f`, `def f(x): f(x | x); f(.)`,
		`[recurse(.)]`, `.data.text | test("(a*)*$")`, `.data.text | ltrimstr("a") | length`, `.data.text | explode | implode | length`,
	} {
		h, problems := oneField(t, "${ "+expr+" }")
		if problems.Errors() {
			continue // it is not even compiled
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		_, err := h.Input(hostileView())
		took := time.Since(start)
		runtime.ReadMemStats(&after)
		if mapping, ok := errors.AsType[*MappingError](err); err != nil && !ok {
			t.Errorf("%s: %v", expr, mapping)
		}
		// What a million steps allocate is garbage at once; what one step does is not.
		if grown := (after.TotalAlloc - before.TotalAlloc) >> 20; grown > 1024 || took > 20*time.Second {
			t.Errorf("%s took %v and %d MB", expr, took, grown)
		}
	}
}

// An expression reaches nothing but the event.
func TestExpressionsReachNothing(t *testing.T) {
	t.Parallel()
	for _, expr := range []string{
		"env", "$ENV", "env.PATH", "[env]", `"\(env)"`, "input", "inputs", "input_filename", "input_line_number", "debug", `debug("x")`, "stderr", "halt", `halt_error(1)`,
		"modulemeta", "get_search_list", "$__prog_args", `import "a" as a; a::b`, `include "a"; .`, `import "a" as $a; $a`, `getpath(["a"]) | env`, `def env: 1; $ENV`, `.a |= input`, `limit(1; inputs)`,
	} {
		if h, problems := oneField(t, "${ "+expr+" }"); h != nil || !problems.Errors() {
			t.Errorf("%s is taken", expr)
		}
	}
	h, problems := oneField(t, "${ $__loc__ }")
	if problems.Errors() {
		return
	}
	input, err := h.Input(orderView())
	if got := fmt.Sprint(input, err); strings.Contains(got, "/") && !strings.Contains(got, "<top-level>") {
		t.Errorf("$__loc__ tells of this machine: %s", got)
	}
}

// A filter ends, whatever is in the event.
func TestFiltersDoNotRunAway(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 1<<20)
	e := order()
	e.SetSubject(long)
	view := NewView(&e)
	for _, sql := range []string{
		"subject LIKE '%a%a%a%a%a%a%a%a%b'", "subject LIKE '%" + strings.Repeat("_", 50) + "b%'", "subject LIKE '" + strings.Repeat("%", 2000) + "b'",
		strings.Repeat("(", 1000) + "TRUE" + strings.Repeat(")", 1000), strings.Repeat("NOT ", 900) + "TRUE", strings.TrimSuffix(strings.Repeat("TRUE AND ", 400), "AND "),
		"CONCAT(" + strings.TrimSuffix(strings.Repeat("subject,", 20), ",") + ") = 'x'", strings.Repeat("UPPER(", 300) + "subject" + strings.Repeat(")", 300) + " = 'x'",
		"1 / 0 = 1", "2147483647 * 2147483647 = 1", "LEFT(subject, -1) = 'x'", "SUBSTRING(subject, -2147483648) = 'x'", "-2147483648 / -1 = 1", "subject IN (" + strings.TrimSuffix(strings.Repeat("subject,", 400), ",") + ")",
	} {
		start := time.Now()
		table, problems := Compile(&config.File{Routes: []config.Route{{
			Name: "r", On: []config.Typed{{Value: "*"}}, RunID: "x",
			Filters: []config.Value{{Kind: config.KindMap, Map: []config.Entry{textField("sql", sql)}}},
			Input:   config.Value{Kind: config.KindMap},
		}}}, catalog.Builtin(), Options{})
		if !problems.Errors() {
			table.Match(view)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%.40s took %v", sql, took)
		}
	}
}
