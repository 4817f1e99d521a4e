package handlers

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"github.com/itchyny/gojq"

	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// secret stands in events where an error must not show it.
const secret = "+12025550199"

// orderData is the data of the event that most tests use.
const orderData = `{"customer":{"name":"Bo Łucja 😀","phone":"` + secret + `","vip":true,"first name":"Bo"},
	"total":12.5,"count":3,"big":12345678901234567890,"huge":1e400,"none":null,"empty":"",
	"items":[{"sku":"a"},{"sku":"b"}],"flags":[true,false],"text":"null"}`

func order() event.Event {
	e := event.New()
	e.SetID("evt-17")
	e.SetSource("/shop")
	e.SetType("com.acme.order.shipped")
	e.SetSubject("9")
	e.SetExtension("tenantid", "acme")
	e.SetExtension("priority", 7)
	e.SetExtension("urgent", true)
	e.DataEncoded = []byte(orderData)
	return e
}

func orderView() *View {
	e := order()
	return NewView(&e)
}

// textField is a field of a configuration with a text.
func textField(name, text string) config.Entry {
	pos := config.Pos{File: "bridge.yaml", Line: 7, Col: 10}
	return config.Entry{Pos: pos, Key: name, Value: config.Value{Pos: pos, Kind: config.KindScalar, Scalar: text}}
}

// oneField compiles an input whose only field holds a text.
func oneField(t testing.TB, text string) (*Handler, config.Problems) {
	t.Helper()
	f := &config.File{Path: "bridge.yaml", Routes: []config.Route{{
		Name: "r", On: []config.Typed{{Value: "*"}}, RunID: "66f1",
		Input: config.Value{Kind: config.KindMap, Map: []config.Entry{textField("text", text)}},
	}}}
	table, problems := Compile(f, catalog.Builtin(), Options{})
	if table == nil {
		return nil, problems
	}
	return table.Handlers()[0], problems
}

func TestExpressions(t *testing.T) {
	t.Parallel()
	bigInt, _ := new(big.Int).SetString("24691357802469135780", 10)
	tests := map[string]struct {
		text string
		want any // the field's value; absent if the field is left out
		err  string
	}{
		"constant":                   {text: "hello", want: "hello"},
		"empty constant":             {text: "", want: ""},
		"lone string":                {text: "${ .subject }", want: "9"},
		"no spaces":                  {text: "${.subject}", want: "9"},
		"white space around":         {text: " ${ .data.count }\n", want: json.Number("3")},
		"lone number":                {text: "${ .data.count }", want: json.Number("3")},
		"lone fraction":              {text: "${ .data.total }", want: json.Number("12.5")},
		"lone computed number":       {text: "${ .data.count + 1 }", want: 4},
		"lone computed fraction":     {text: "${ .data.total * 2 }", want: 25.0},
		"lone boolean":               {text: "${ .data.customer.vip }", want: true},
		"lone list":                  {text: "${ .data.items | map(.sku) }", want: []any{"a", "b"}},
		"lone object":                {text: "${ {a: .subject} }", want: map[string]any{"a": "9"}},
		"lone null is left out":      {text: "${ .data.none }", want: absent},
		"missing path is left out":   {text: "${ .data.nope.deeper }", want: absent},
		"big integer":                {text: "${ .data.big }", want: json.Number("12345678901234567890")},
		"big integer computed":       {text: "${ .data.big * 2 }", want: bigInt},
		"big integer in a text":      {text: "n=${ .data.big }", want: "n=12345678901234567890"},
		"big integer through gojq":   {text: "n=${ .data.big + 0 }", want: "n=12345678901234567890"},
		"number out of range":        {text: "${ .data.huge }", want: json.Number("1e400")},
		"concatenation":              {text: "Hi ${ .data.customer.name }, order ${ .subject }!", want: "Hi Bo Łucja 😀, order 9!"},
		"two expressions, no text":   {text: "${ .subject }${ .data.count }", want: "93"},
		"number in a text":           {text: "${ .data.total } EUR", want: "12.5 EUR"},
		"boolean in a text":          {text: "vip: ${ .data.customer.vip }", want: "vip: true"},
		"computed number in a text":  {text: "x${ .data.count / 2 }", want: "x1.5"},
		"empty string in a text":     {text: "a${ .data.empty }b", want: "ab"},
		"null in a text":             {text: "Hi ${ .data.none }", err: `input field text: ${ .data.none } gives null, which has no place in a text; use // to give it a default`},
		"missing path in a text":     {text: "Hi ${ .data.custmer.name }", err: `input field text: ${ .data.custmer.name } gives null, which has no place in a text; use // to give it a default`},
		"the text null is a text":    {text: "a ${ .data.text }", want: "a null"},
		"default":                    {text: "Hi ${ .data.none // \"you\" }", want: "Hi you"},
		"list in a text":             {text: "a ${ .data.items }", err: "input field text: ${ .data.items } gives an array, which has no place in a text"},
		"object in a text":           {text: "a ${ .data }", err: "input field text: ${ .data } gives an object, which has no place in a text"},
		"literal":                    {text: "pay $${amount} now", want: "pay ${amount} now"},
		"literal and expression":     {text: "$${x} ${ .subject } $${", want: "${x} 9 ${"},
		"dollar before a literal":    {text: "$$${x}", want: "$${x}"},
		"dollar alone":               {text: "5$ {x} $", want: "5$ {x} $"},
		"brace in a string":          {text: `${ .subject | {a: "}"} | .a }`, want: "}"},
		"escaped quote in a string":  {text: `${ "\"}" }`, want: `"}`},
		"interpolation":              {text: `${ "<\(.data | {b: ")}"} | .b)>" }`, want: "<)}>"},
		"nested interpolation":       {text: `${ "a\("b\("}" + ")")")c" }!`, want: "ab})c!"},
		"brace in a comment":         {text: "${ .subject # }\n }", want: "9"},
		"nested braces":              {text: "${ {a: {b: {}}} | .a.b }", want: map[string]any{}},
		"object after object":        {text: "x${ {a: 1} | .a }y${ {b: 2} | .b }z", want: "x1y2z"},
		"quoted field":               {text: `${ .data.customer["first name"] }`, want: "Bo"},
		"quoted field, dotted":       {text: `${ .data.customer."first name" }`, want: "Bo"},
		"extension":                  {text: "${ .tenantid }", want: "acme"},
		"integer extension":          {text: "${ .priority }", want: 7},
		"boolean extension":          {text: "${ .urgent }", want: true},
		"no result":                  {text: "${ empty }", err: "input field text: ${ empty } gives no result; use // to give it a default"},
		"several results":            {text: "${ .data.items[].sku }", err: "input field text: ${ .data.items[].sku } gives more than one result; use [ ] to make a list of them, or first( )"},
		"second result is an error":  {text: "${ 1, error(.data.customer.phone) }", err: "input field text: ${ 1, error(.data.customer.phone) } fails on this event"},
		"field of a text":            {text: "${ .data.customer.phone.x }", err: "input field text: ${ .data.customer.phone.x } fails on this event: expected an object but got a string"},
		"field of a list":            {text: "${ .data.items.sku }", err: "input field text: ${ .data.items.sku } fails on this event: expected an object but got an array"},
		"iterate over a text":        {text: "${ [.data.customer.phone[]] }", err: "input field text: ${ [.data.customer.phone[]] } fails on this event: cannot iterate over a string"},
		"error with data":            {text: "${ error(.data.customer.phone) }", err: "input field text: ${ error(.data.customer.phone) } fails on this event"},
		"error with an object":       {text: "${ error(.data.customer) }", err: "input field text: ${ error(.data.customer) } fails on this event"},
		"fromjson of data":           {text: "${ .data.customer.phone | fromjson }", err: "input field text: ${ .data.customer.phone | fromjson } fails on this event"},
		"test of a wrong type":       {text: `${ .data.customer | test("x") }`, err: `input field text: ${ .data.customer | test("x") } fails on this event`},
		"arithmetic on data":         {text: "${ .data.customer - 1 }", err: "input field text: ${ .data.customer - 1 } fails on this event"},
		"not a number":               {text: "${ nan }", err: "input field text: gives a number that JSON does not have"},
		"infinity in a text":         {text: "a ${ infinite }", err: "input field text: ${ infinite } gives a number that JSON does not have"},
		"tail call forever":          {text: "${ def f: f; f }", err: endless("def f: f; f")},
		"range forever":              {text: "${ range(infinite) | select(false) }", err: endless("range(infinite) | select(false)")},
		"list forever":               {text: "${ [limit(1e9; repeat(1))] }", err: endless("[limit(1e9; repeat(1))]")},
		"recursion forever":          {text: "${ def f: 1 + f; f }", err: endless("def f: 1 + f; f")},
		"forever, caught":            {text: "${ try (def f: f; f) catch 1 }", err: endless("try (def f: f; f) catch 1")},
		"forever after a result":     {text: "${ 1, (def f: f; f) }", err: endless("1, (def f: f; f)")},
		"repeat a text":              {text: `${ "ab" * 2 }`, want: "abab"},
		"repeat a text, turned":      {text: `${ 2 * "ab" }`, want: "abab"},
		"repeat a text too often":    {text: `${ "a" * 1000000000 }`, err: `input field text: ${ "a" * 1000000000 } repeats a text to more than 65536 bytes`},
		"repeat by data":             {text: `${ .data.customer.name * .data.big }`, err: `input field text: ${ .data.customer.name * .data.big } repeats a text to more than 65536 bytes`},
		"product of several results": {text: "${ [(1, 2) * (10, 100)] }", want: []any{10, 20, 100, 200}},
		"product of objects":         {text: "${ {a: {b: 1}} * {a: {c: 2}} }", want: map[string]any{"a": map[string]any{"b": 1, "c": 2}}},
		"product that fails":         {text: "${ .data.items * 2 }", err: "input field text: ${ .data.items * 2 } fails on this event"},
		"text too long":              {text: `${ [range(70000) | "a"] | add }`, err: "input field text: has a text of more than 65536 bytes"},
		"input too large":            {text: `${ [range(300) | "a" * 4000] }`, err: "input field text: makes the input larger than 1048576 bytes"},
		"a long expression is cut":   {text: "a ${ .data.none | . | . | . | . | . | . | . | . | . | . | . | . | . | . | . }", err: "input field text: ${ .data.none | . | . | . | . | . | . | . | . | . | . | . | . |… } gives null, which has no place in a text; use // to give it a default"},
		"pattern":                    {text: `${ .subject | test("^[0-9]+$") }`, want: true},
		"split by a text of data":    {text: `${ . as $e | .type | split($e.data.none // ".") | last }`, want: "shipped"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, problems := oneField(t, tt.text)
			if len(problems) != 0 {
				t.Fatalf("problems:\n%v", problems)
			}
			input, err := h.Input(orderView())
			if tt.err != "" {
				if _, ok := errors.AsType[*MappingError](err); !ok {
					t.Fatalf("got %v, %v; want the error %q", input, err, tt.err)
				}
				if want := "bridge.yaml:7:10: " + tt.err; err.Error() != want {
					t.Errorf("got the error\n%s, want\n%s", err, want)
				}
				if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "Łucja") {
					t.Errorf("the error quotes the event: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]any{"text": tt.want}
			if tt.want == absent {
				want = map[string]any{}
			}
			if diff := cmp.Diff(want, input, cmp.Comparer(func(a, b *big.Int) bool { return a.Cmp(b) == 0 })); diff != "" {
				t.Errorf("input (-want +got):\n%s", diff)
			}
		})
	}
}

// absent is the value of a field that is left out.
var absent any = struct{ absent bool }{true}

func endless(expr string) string {
	return "input field text: ${ " + expr + " } was stopped after 1000000 steps or 2s: it loops, or does too much"
}

func TestExpressionsThatDoNotCompile(t *testing.T) {
	t.Parallel()
	problem := func(col int, code, msg, hint string) config.Problem {
		return config.Problem{
			Pos: config.Pos{File: "bridge.yaml", Line: 7, Col: col}, Level: config.LevelError, Code: code,
			Msg: `route "r": input field text: ` + msg, Hint: hint,
		}
	}
	const sees = "an expression sees the event, and nothing else"
	tests := map[string]struct {
		text string
		want config.Problem
	}{
		"no end":               {"Hi ${ .a", problem(13, "jq-syntax", "the expression that begins with ${ has no end", "close it with }, or write $${ for a plain ${")},
		"no end of a string":   {`${ "a }`, problem(10, "jq-syntax", "the expression that begins with ${ has no end", "close it with }, or write $${ for a plain ${")},
		"no end of a comment":  {"${ .a # }", problem(11, "jq-syntax", "the expression that begins with ${ has no end", "close it with }, or write $${ for a plain ${")},
		"empty":                {"a ${ }", problem(14, "jq-syntax", "the expression is empty", "write $${ for a plain ${")},
		"unexpected token":     {"é ${ .a ] }", problem(18, "jq-syntax", `unexpected token "]"`, "")},
		"ends early":           {"${ .a | }", problem(18, "jq-syntax", "the expression ends too early", "")},
		"bad escape":           {`${ "\q" }`, problem(14, "jq-syntax", `invalid escape sequence "\q" in string literal`, "")},
		"unknown function":     {"Hi ${ .a | uper }", problem(21, "jq-compile", "function not defined: uper/0", "")},
		"unknown variable":     {"${ $route.x }", problem(13, "jq-compile", "variable not defined: $route", "")},
		"unknown format":       {"${ @base65 }", problem(13, "jq-compile", `there is no format "@base65"`, "the formats are @text, @json, @html, @uri, @urid, @csv, @tsv, @sh, @base64, @base64d")},
		"environment":          {"${ .env | env.HOME }", problem(20, "jq-compile", `"env" is not available in a route`, sees)},
		"environment variable": {"${ $ENV.HOME }", problem(13, "jq-compile", `"$ENV" is not available in a route`, sees)},
		"input":                {"${ [inputs] }", problem(14, "jq-compile", `"inputs" is not available in a route`, sees)},
		"hidden in a string":   {`${ "\(input)" }`, problem(16, "jq-compile", `"input" is not available in a route`, sees)},
		"hidden in a function": {"${ def f: env; f }", problem(21, "jq-compile", `"env" is not available in a route`, sees)},
		"debug":                {"${ .a | debug }", problem(18, "jq-compile", `"debug" is not available in a route`, sees)},
		"halt":                 {"${ halt }", problem(13, "jq-compile", `"halt" is not available in a route`, sees)},
		"import":               {`${ import "a" as a; 1 }`, problem(12, "jq-compile", "modules are not available in a route", "")},
		"include":              {`${ include "a"; 1 }`, problem(12, "jq-compile", "modules are not available in a route", "")},
		"pattern of data":      {`${ .a | test(.data.re) }`, problem(18, "jq-compile", `the pattern of "test" must be the same for all events`, `put the pattern in quotes, without \( ) in it`)},
		"pattern with data":    {`${ .a | sub("\(.b)"; "") }`, problem(18, "jq-compile", `the pattern of "sub" must be the same for all events`, `put the pattern in quotes, without \( ) in it`)},
		"update by product":    {`${ .a *= 2 }`, problem(16, "jq-compile", "the operator *= is not available in a route", "write .a = .a * 2 for .a *= 2")},
		"too long":             {"${" + strings.Repeat(" ", 9000) + "}", problem(12, "jq-compile", "the expression has 9000 bytes, more than 8192", "")},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, problems := oneField(t, tt.text)
			if h != nil {
				t.Error("there is a table, in spite of the problem")
			}
			if diff := cmp.Diff(config.Problems{tt.want}, problems); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

// A path that is looked up without gojq must give what gojq gives.
func TestPathsAgreeWithGojq(t *testing.T) {
	t.Parallel()
	names := []string{"data", "id", "subject", "time", "tenantid", "priority", "customer", "phone", "items", "none", "nope", `"first name"`, "data_base64", "specversion", "count"}
	v := orderView()
	object, err := v.object()
	if err != nil {
		t.Fatal(err)
	}
	paths := 0
	try := func(text string) {
		query, err := gojq.Parse(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		path := asPath(query)
		if path == nil {
			t.Fatalf("%s is not seen as a path", text)
		}
		paths++
		want, ok := query.Run(object).Next()
		if !ok {
			t.Fatalf("%s: gojq gives nothing", text)
		}
		x := &expression{text: text, path: path}
		got, err := x.result(&making{view: v})
		if wantErr, fails := want.(error); fails {
			if err == nil {
				t.Errorf("%s: got %v, gojq fails with %v", text, got, wantErr)
			}
			return
		}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: got %v, %v; gojq gives %v", text, got, err, want)
		}
	}
	for _, a := range names {
		try("." + a)
		for _, b := range names {
			try("." + a + "." + b)
			for _, c := range names {
				try("." + a + "." + b + `["` + strings.Trim(c, `"`) + `"]`)
			}
		}
	}
	if paths < 3000 {
		t.Errorf("only %d paths were tried", paths)
	}
	for _, text := range []string{".", "..", ".a?", ".a[]", ".a[0]", ".a[1:2]", ".[.a]", `.["\(.a)"]`, ".a | .b", ".a // .b", "1", `"a"`, ".a.b?", ".a as $x | .b", "def f: 1; .a", "-.a", "(.a)", `.a["b"|.]`} {
		query, err := gojq.Parse(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if path := asPath(query); path != nil {
			t.Errorf("%s is taken for the path %q", text, path)
		}
	}
}

func TestExpressionsDoNotChangeEventOrEachOther(t *testing.T) {
	t.Parallel()
	h, problems := oneField(t, "${ {items: .data.items, fixed: {a: [1]}, all: . } }")
	if len(problems) != 0 {
		t.Fatal(problems)
	}
	v := orderView()
	before, err := h.Input(v)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := json.Marshal(before)
	// Whoever gets an input may write into it: the bridge puts its reference there.
	text := before["text"].(map[string]any)
	text["items"].([]any)[0].(map[string]any)["clientMessageId"] = "x"
	text["fixed"].(map[string]any)["a"].([]any)[0] = "x"
	text["all"].(map[string]any)["data"].(map[string]any)["count"] = "x"
	after, err := h.Input(v)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := json.Marshal(after); string(got) != string(want) {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestExpressionsConcurrently(t *testing.T) {
	t.Parallel()
	h, problems := oneField(t, `${ [.data.items[].sku, (.subject | test("^9")), .data.count * 2, .data.customer.name] | tojson }`)
	if len(problems) != 0 {
		t.Fatal(problems)
	}
	v := orderView()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				input, err := h.Input(v)
				if want := `["a","b",true,6,"Bo Łucja 😀"]`; err != nil || input["text"] != want {
					t.Errorf("got %v, %v", input, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func FuzzSplitText(f *testing.F) {
	for _, seed := range []string{
		"", "a", "${", "${}", "$${", "$$${", "a ${ .b } c", `${ "}" }`, `${ "\(")}")" }`, "${ # }\n }", "${ # \\\n } }", "${{}}", "${ } }", "é${é}é",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		pieces, failed := splitText(text)
		if failed != nil {
			if failed.offset < 0 || !strings.HasPrefix(text[failed.offset:], "${") {
				t.Fatalf("%q: the place %d is none where an expression begins", text, failed.offset)
			}
			return
		}
		// Nothing is lost or added: written again, the pieces are the text.
		var again strings.Builder
		for i, p := range pieces {
			if !p.isExpr {
				if i > 0 && !pieces[i-1].isExpr {
					t.Fatalf("%q: two constants in a row", text)
				}
				again.WriteString(strings.ReplaceAll(p.text, "${", "$${"))
				continue
			}
			if text[p.offset:p.offset+len(p.text)] != p.text {
				t.Fatalf("%q: %q is not at %d", text, p.text, p.offset)
			}
			again.WriteString("${" + p.text + "}")
		}
		if again.String() != text {
			t.Fatalf("%q became %q", text, again.String())
		}
	})
}

// Whatever gojq takes as a program is found whole between ${ and }.
func FuzzWholeExpression(f *testing.F) {
	for _, seed := range []string{".a", `"}"`, `{a: "}"}`, `"\("\("}")")"`, ".a # }\n", `@base64 "\(.a)}"`, "{} | {}", `"\\"`, "1 # \\\\\n|2", `"\u007d"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, program string) {
		// A comment at the end would take the closing brace in, as it would in jq. The
		// first line end may be escaped.
		program += "\n\n"
		if _, err := gojq.Parse(program); err != nil || strings.ContainsRune(program, 0) {
			return
		}
		pieces, failed := splitText("<${" + program + "}>")
		if failed != nil {
			t.Fatalf("%q: %s", program, failed.msg)
		}
		want := []piece{{text: "<"}, {text: program, isExpr: true, offset: 3}, {text: ">"}}
		if diff := cmp.Diff(want, pieces, cmp.AllowUnexported(piece{})); diff != "" {
			t.Fatalf("%q (-want +got):\n%s", program, diff)
		}
	})
}

func ExampleHandler_Input() {
	f := &config.File{Routes: []config.Route{{
		Name: "order-shipped", On: []config.Typed{{Value: "com.acme.order.*"}}, RunKey: "send-sms",
		Input: config.Value{Kind: config.KindMap, Map: []config.Entry{
			textField("destination", "${ .data.phone }"),
			textField("text", "Order ${ .subject } is on its way."),
		}},
	}}}
	table, problems := Compile(f, catalog.Builtin(), Options{})
	if problems.Errors() {
		fmt.Println(problems)
		return
	}
	e := event.New()
	e.SetID("1")
	e.SetSource("/shop")
	e.SetType("com.acme.order.shipped")
	e.SetSubject("9")
	_ = e.SetData("application/json", map[string]any{"phone": "+1 202 555 0101"})
	view := NewView(&e)
	for _, h := range table.Match(view) {
		input, err := h.Input(view)
		fmt.Println(h.Name, input, err)
	}
	// Output: order-shipped map[destination:+12025550101 text:Order 9 is on its way.] <nil>
}
