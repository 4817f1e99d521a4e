package handlers

import (
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// withFilters is a file with one route that has these filters, written in flow style.
func withFilters(filters string) string {
	return "routes:\n  - name: r\n    on: com.acme.order.shipped\n    run: {id: 66f1}\n    filters: " + filters + "\n"
}

func TestFilters(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		filters string
		want    bool
	}{
		"none":                               {"[]", true},
		"exact":                              {"[{exact: {subject: '9'}}]", true},
		"exact, other":                       {"[{exact: {subject: '99'}}]", false},
		"exact, case counts":                 {"[{exact: {source: /SHOP}}]", false},
		"exact, all entries must hold":       {"[{exact: {subject: '9', source: /other}}]", false},
		"exact, several entries":             {"[{exact: {subject: '9', source: /shop, id: evt-17, specversion: '1.0'}}]", true},
		"exact, an attribute that is absent": {"[{exact: {dataschema: x}}]", false},
		"exact, extension":                   {"[{exact: {tenantid: acme}}]", true},
		"exact, integer extension":           {"[{exact: {priority: '7'}}]", true},
		"exact, boolean extension":           {"[{exact: {urgent: 'true'}}]", true},
		"prefix":                             {"[{prefix: {type: com.acme.}}]", true},
		"prefix, other":                      {"[{prefix: {type: com.acme.delivery}}]", false},
		"prefix, absent":                     {"[{prefix: {nope: a}}]", false},
		"suffix":                             {"[{suffix: {type: .shipped}}]", true},
		"suffix, other":                      {"[{suffix: {type: .paid}}]", false},
		"all":                                {"[{all: [{exact: {subject: '9'}}, {prefix: {source: /}}]}]", true},
		"all, one does not hold":             {"[{all: [{exact: {subject: '9'}}, {prefix: {source: x}}]}]", false},
		"any":                                {"[{any: [{exact: {subject: '8'}}, {exact: {subject: '9'}}]}]", true},
		"any, none holds":                    {"[{any: [{exact: {subject: '8'}}, {exact: {subject: '7'}}]}]", false},
		"not":                                {"[{not: {exact: {subject: '8'}}}]", true},
		"not, holds":                         {"[{not: {exact: {subject: '9'}}}]", false},
		"not, absent":                        {"[{not: {exact: {nope: x}}}]", true},
		"nested":                             {"[{not: {any: [{all: [{exact: {subject: '9'}}, {not: {suffix: {type: shipped}}}]}]}}]", true},
		"several, all hold":                  {"[{exact: {subject: '9'}}, {prefix: {type: com}}]", true},
		"several, one does not":              {"[{exact: {subject: '9'}}, {prefix: {type: org}}]", false},
		"sql":                                {`[{sql: "source LIKE '/sh%' AND subject = '9'"}]`, true},
		"sql, false":                         {`[{sql: "source = '/other'"}]`, false},
		"sql, not boolean":                   {`[{sql: "priority"}]`, false},
		"sql, true with an error":            {`[{sql: "nope = 'x' OR TRUE"}]`, false},
		"sql, absent attribute":              {`[{sql: "nope != 'x'"}]`, false},
		"sql, guarded":                       {`[{sql: "NOT (EXISTS nope) OR nope = 'x'"}]`, true},
		"sql, integer":                       {`[{sql: "priority > 5 AND urgent"}]`, true},
		"sql, division by zero":              {`[{sql: "1 / 0 = 0"}]`, false},
		"sql, small letters":                 {`[{sql: "exists tenantid and upper(tenantid) in ('ACME', 'B')"}]`, true},
		"sql, data is not seen":              {`[{sql: "EXISTS data"}]`, false},
		"sql beside another":                 {`[{sql: "TRUE"}, {exact: {subject: '8'}}]`, false},
		"sql inside not":                     {`[{not: {sql: "source = '/other'"}}]`, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			table, _, problems := compileText(t, withFilters(tt.filters), Options{})
			if problems.Errors() {
				t.Fatal(problems)
			}
			if got := len(table.Match(orderView())) == 1; got != tt.want {
				t.Errorf("matches is %v, want %v", got, tt.want)
			}
		})
	}
}

// A source is compared as it was received, not as the SDK would write it.
func TestFiltersSeeTheRawSource(t *testing.T) {
	t.Parallel()
	const raw = "/a b/%7Ec"
	for _, filter := range []string{`{exact: {source: "/a b/%7Ec"}}`, `{sql: "source = '/a b/%7Ec'"}`} {
		table, _, problems := compileText(t, withFilters("["+filter+"]"), Options{})
		if problems.Errors() {
			t.Fatal(problems)
		}
		e := order()
		e.SetSource(raw)
		if len(table.Match(NewViewRaw(&e, raw, "evt-17"))) != 1 {
			t.Errorf("%s does not match", filter)
		}
	}
}

func TestFilterProblems(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		filters string
		want    string
	}{
		"unknown dialect":         {"[{exat: {type: a}}]", `6:16: there is no filter dialect "exat" | did you mean "exact"?`},
		"two dialects":            {"[{exact: {type: a}, prefix: {type: b}}]", "6:15: a filter must be a mapping with one dialect: exact, prefix, suffix, all, any, not, sql, jq | write each filter as an item of its own, such as - exact: {subject: order-9}"},
		"no mapping inside":       {"[{not: a}]", "6:21: a filter must be a mapping with one dialect: exact, prefix, suffix, all, any, not, sql, jq | write each filter as an item of its own, such as - exact: {subject: order-9}"},
		"exact without entries":   {"[{exact: {}}]", `6:16: the filter "exact" takes a mapping of attributes to texts | such as {subject: order-9}`},
		"exact of a text":         {"[{exact: a}]", `6:16: the filter "exact" takes a mapping of attributes to texts | such as {subject: order-9}`},
		"empty text":              {"[{prefix: {subject: ''}}]", `6:34: the value for "subject" is empty | no attribute is ever empty; leave the filter out`},
		"a number":                {"[{exact: {priority: 7}}]", `6:34: the filter "exact" compares texts, and the value for "priority" is none | put numbers, true and false in quotes`},
		"data":                    {"[{exact: {data: a}}]", `6:24: "data" is not the name of an attribute | filters see attributes such as type, source or subject, and extensions; jq sees the data too`},
		"not a name":              {"[{exact: {data.a: a}}]", `6:24: "data.a" is not the name of an attribute | filters see attributes such as type, source or subject, and extensions; jq sees the data too`},
		"all without filters":     {"[{all: []}]", `6:16: the filter "all" takes a list with at least one filter | `},
		"any of a mapping":        {"[{any: {exact: {type: a}}}]", `6:16: the filter "any" takes a list with at least one filter | `},
		"bad one inside":          {"[{not: {all: [{exact: {type: a}}, {nope: 1}]}}]", `6:49: there is no filter dialect "nope" | the dialects are exact, prefix, suffix, all, any, not, sql, jq`},
		"sql of a number":         {"[{sql: 1}]", `6:21: the filter "sql" takes a text | such as sql: source = '/shop'`},
		"sql, empty":              {"[{sql: ' '}]", "6:21: the CESQL expression cannot be used: it is empty | "},
		"sql, cut off":            {`[{sql: "source LIKE"}]`, "6:21: the CESQL expression cannot be used: its syntax is wrong | "},
		"sql, words in a row":     {`[{sql: "source source"}]`, "6:21: the CESQL expression cannot be used: its syntax is wrong | "},
		"sql, unknown character":  {`[{sql: "source = '/a' ~"}]`, "6:21: the CESQL expression cannot be used: its syntax is wrong at character 15 | put texts in single quotes"},
		"sql, open quote":         {`[{sql: "source = 'a"}]`, "6:21: the CESQL expression cannot be used: its syntax is wrong | "},
		"sql, brackets":           {`[{sql: "((("}]`, "6:21: the CESQL expression cannot be used: its syntax is wrong, or a number in it is too large | "},
		"sql, large number":       {`[{sql: "priority = 99999999999"}]`, "6:21: the CESQL expression cannot be used: its syntax is wrong, or a number in it is too large | "},
		"sql, unknown function":   {`[{sql: "LENGHT(source) > 1"}]`, `6:21: the CESQL expression cannot be used: there is no function "LENGHT" | did you mean LENGTH?`},
		"sql, too many arguments": {`[{sql: "LENGTH(source, 1) > 1"}]`, "6:21: the CESQL expression cannot be used: a function is called with the wrong number of arguments | "},
		"jq of a number":          {"[{jq: 1}]", `6:20: the filter "jq" takes a text | such as jq: .data.total > 100`},
		"sql, too long":           {`[{sql: "` + strings.Repeat("TRUE AND ", 500) + `TRUE"}]`, "6:21: the CESQL expression cannot be used: it has more than 4096 bytes | "},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := "# a comment, so that the filters are in line 6\n" + withFilters(tt.filters)
			f, problems := config.Parse("bridge.yaml", []byte(text), nil)
			if problems.Errors() {
				t.Fatal(problems)
			}
			table, problems := Compile(f, catalog.Builtin(), Options{})
			var got []string
			for _, p := range problems {
				if p.Code != "filter-invalid" || p.Level != config.LevelError || !strings.HasPrefix(p.Msg, `route "r": `) {
					t.Errorf("unexpected problem: %v", p)
				}
				got = append(got, strings.TrimPrefix(p.Pos.String(), "bridge.yaml:")+": "+strings.TrimPrefix(p.Msg, `route "r": `)+" | "+p.Hint)
			}
			if diff := cmp.Diff([]string{tt.want}, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if table != nil {
				t.Error("there is a table, in spite of the problem")
			}
		})
	}
}

func TestSQLConcurrently(t *testing.T) {
	t.Parallel()
	table, _, problems := compileText(t, withFilters(`[{sql: "source LIKE '/sh%' AND CONCAT(subject, tenantid) = '9acme'"}]`), Options{})
	if problems.Errors() {
		t.Fatal(problems)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if len(table.Match(orderView())) != 1 {
					t.Error("no match")
					return
				}
			}
		})
	}
	// Reloads compile while events are matched.
	for range 2 {
		wg.Go(func() {
			for range 20 {
				if _, _, err := parseSQL("subject IN ('a', 'b') OR NOT source LIKE '%x'"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func FuzzSQL(f *testing.F) {
	for _, seed := range []string{"source = '/a'", "source LIKE", "(((", "1/0", "LEFT('é', 1)", "ABS(-2147483648)", "SUBSTRING('abc', -2147483648)", "x IN (1, 'a')"} {
		f.Add(seed)
	}
	view := orderView()
	f.Fuzz(func(t *testing.T, text string) {
		expression, _, err := parseSQL(text)
		if err != nil {
			return
		}
		first, firstErr := evaluateSQL(expression, view.raw())
		again, againErr := evaluateSQL(expression, view.raw())
		if first != again || (firstErr == nil) != (againErr == nil) {
			t.Fatalf("%q gives %v, %v and then %v, %v", text, first, firstErr, again, againErr)
		}
	})
}
