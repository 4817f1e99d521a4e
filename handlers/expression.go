package handlers

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/itchyny/gojq"

	"github.com/bridge8x8/bridge8x8/config"
)

// Bounds of expressions.
//
// Steps bound loops: they are counted, not timed, so that a busy host never
// makes an expression fail, and about a million of them take 50 ms. The time
// bounds steps that are slow one by one. Neither can interrupt a single step,
// and some steps make values of any size, so the ones whose size an event could
// choose are refused or bounded in other ways: repeating a text (multiply) and
// patterns made from data (checkCalls). What is left, such as doubling a text
// in a loop, only the author of the route can write, and routes are trusted.
const (
	longestExpression = 8 << 10 // bytes
	maxSteps          = 1_000_000
	maxEvaluation     = 2 * time.Second
	longestRepeated   = longestText
)

var errBudget = errors.New("it does not come to an end")

// budget is the steps that the expressions of one input may take together. It
// is a context because gojq asks its context whether to go on at every step.
type budget struct {
	steps   int
	started time.Time
}

var over = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func (b *budget) Done() <-chan struct{} {
	b.steps++
	if b.steps == 1 {
		b.started = time.Now()
	}
	if b.steps > maxSteps || b.steps%64 == 0 && time.Since(b.started) > maxEvaluation {
		b.steps = maxSteps
		return over
	}
	return nil
}

func (b *budget) Err() error                  { return errBudget }
func (b *budget) Deadline() (time.Time, bool) { return time.Time{}, false }
func (b *budget) Value(any) any               { return nil }

// expression is one compiled ${ }.
type expression struct {
	pos   config.Pos // of the text that holds it
	field string     // where its result goes, in words: "input field text"
	text  string     // what the operator wrote between the braces
	path  []string   // set instead of code where the expression is only a path
	code  *gojq.Code
}

// result evaluates the expression, which must have exactly one. It may share
// memory with the view, with other results and with the compiled expression.
func (x *expression) result(m *making) (any, error) {
	if x.path != nil {
		return x.walk(m.view)
	}
	object, err := m.view.object()
	if err != nil {
		return nil, x.fail(err.Error())
	}
	results := x.code.RunWithContext(&m.budget, object, m.variables...)
	result, ok := results.Next()
	if !ok {
		return nil, x.failed("gives no result; use // to give it a default")
	}
	if err, failed := result.(error); failed {
		return nil, x.failed(failure(err))
	}
	second, ok := results.Next()
	if err, failed := second.(error); failed {
		return nil, x.failed(failure(err))
	}
	if ok {
		return nil, x.failed("gives more than one result; use [ ] to make a list of them, or first( )")
	}
	return result, nil
}

// walk does what gojq would for a path of names.
func (x *expression) walk(v *View) (any, error) {
	value, err := v.at(x.path)
	if none, ok := errors.AsType[*noObjectError](err); ok {
		return nil, x.failed("fails on this event: " + none.Error())
	}
	if err != nil {
		return nil, x.fail(err.Error())
	}
	return value, nil
}

func (x *expression) fail(msg string) *MappingError {
	return &MappingError{Pos: x.pos, Msg: x.field + ": " + msg}
}

func (x *expression) failed(msg string) *MappingError {
	return x.fail("${ " + shorten(x.text) + " } " + msg)
}

// shorten keeps an error to one line.
func shorten(text string) string {
	const longest = 60
	text = strings.Join(strings.Fields(text), " ")
	if r := []rune(text); len(r) > longest {
		return string(r[:longest]) + "…"
	}
	return text
}

// failures are the beginnings of gojq's messages up to where they quote a
// value; what follows in these is the value's type.
var failures = []string{
	"expected an object but got: ", "expected an array but got: ", "cannot iterate over: ",
	"expected a string for object key but got: ", "expected a number for indexing an array but got: ",
	"expected a number for indexing a string but got: ",
}

// failure says what went wrong without saying on which value: gojq's messages
// quote the event.
func failure(err error) string {
	if errors.Is(err, errBudget) {
		return fmt.Sprintf("was stopped after %d steps or %v: it loops, or does too much", maxSteps, maxEvaluation)
	}
	if long, ok := errors.AsType[*repeatError](err); ok {
		return long.Error()
	}
	if long, ok := errors.AsType[*sumError](err); ok {
		return long.Error()
	}
	text := err.Error()
	for _, known := range failures {
		rest, found := strings.CutPrefix(text, known)
		if !found {
			continue
		}
		for _, kind := range []string{"null", "boolean", "number", "string", "array", "object"} {
			if strings.HasPrefix(rest, kind) {
				return "fails on this event: " + strings.TrimSuffix(known, ": ") + " " + withArticle(kind)
			}
		}
	}
	return "fails on this event"
}

func typeName(value any) string { return withArticle(gojq.TypeOf(value)) }

func withArticle(kind string) string {
	switch kind {
	case "null":
		return kind
	case "array", "object":
		return "an " + kind
	default:
		return "a " + kind
	}
}

// repeatError is a text that was to be repeated too often. It holds no value.
type repeatError struct{}

func (*repeatError) Error() string {
	return fmt.Sprintf("repeats a text to more than %d bytes", longestRepeated)
}

// multiply stands for the operator *, which would make a text of any size of a
// number in an event, in one step that nothing can interrupt.
const multiply = "_bridge_multiply"

var product = operator(".[0] * .[1]")

func operator(text string) *gojq.Code {
	q, err := gojq.Parse(text)
	if err != nil {
		panic(err)
	}
	code, err := gojq.Compile(q)
	if err != nil {
		panic(err)
	}
	return code
}

func multiplied(_ any, operands []any) any {
	text, isText := operands[0].(string)
	times, isNumber := gojq.ToFloat64(operands[1])
	if !isText {
		text, isText = operands[1].(string)
		times, isNumber = gojq.ToFloat64(operands[0])
	}
	if isText && isNumber && float64(len(text))*times > longestRepeated {
		return &repeatError{}
	}
	if isLongNumber(operands[0]) || isLongNumber(operands[1]) {
		return &sumError{}
	}
	result, _ := product.Run(operands).Next()
	return result
}

// plus stands for the operator +, by which a loop of a few steps would make a text or
// a list of any size.
const plus = "_bridge_plus"

var sum = operator(".[0] + .[1]")

func added(_ any, operands []any) any {
	long := func(v any) int {
		switch v := v.(type) {
		case string:
			return len(v)
		case []any:
			return len(v)
		}
		return 0
	}
	if long(operands[0])+long(operands[1]) > largestInput {
		return &sumError{}
	}
	result, _ := sum.Run(operands).Next()
	return result
}

// sumError is a text or a list that became too long. It holds no value.
type sumError struct{}

func (*sumError) Error() string {
	return fmt.Sprintf("adds up to a text or a list of more than %d", largestInput)
}

// longestNumber bounds what numbers are multiplied: their digits double each time.
const longestNumber = 10_000 // bits

func isLongNumber(v any) bool {
	n, ok := v.(*big.Int)
	if text, isText := v.(json.Number); isText {
		return len(text) > longestNumber/4
	}
	return ok && n.BitLen() > longestNumber
}

// indexes are the functions beside the updates that make a list as long as an
// index says, and slow those that loop as often as a number in an event says.
var indexes = []string{"setpath", "fromstream"}

var slow = []string{"jn", "yn"}

// largestIndex is what a list may be made to be long by an update.
const largestIndex = 10_000

// hasFixedPlaces says whether the lists that an update may make have a length that
// no event can choose.
func hasFixedPlaces(path *gojq.Query) bool {
	fixed := true
	visit(reflect.ValueOf(path), func(node any) {
		i, ok := node.(*gojq.Index)
		if !ok || i.Name != "" || i.Str != nil || i.IsSlice {
			return
		}
		if _, isName := indexName(i); isName {
			return
		}
		n := -1
		if i.Start != nil && i.Start.Term != nil && i.Start.Term.Type == gojq.TermTypeNumber && len(i.Start.Term.SuffixList) == 0 {
			n, _ = strconv.Atoi(i.Start.Term.Number)
		}
		fixed = fixed && 0 <= n && n <= largestIndex
	})
	return fixed
}

// unavailable are the words through which jq reaches beyond its input.
var unavailable = []string{
	"env", "$ENV", "input", "inputs", "input_filename", "input_line_number", "debug", "stderr",
	"halt", "halt_error", "modulemeta", "get_search_list", "$__prog_args",
}

// formats are jq's @ words. gojq finds out about others only as it runs.
var formats = []string{"@text", "@json", "@html", "@uri", "@urid", "@csv", "@tsv", "@sh", "@base64", "@base64d"}

// patterns are the functions whose first argument is a regular expression.
var patterns = []string{"test", "match", "capture", "scan", "splits", "sub", "gsub"}

// jqError is an expression that cannot be used. Offset counts bytes from the
// expression's beginning.
type jqError struct {
	code, msg, hint string
	offset          int
}

// compileJQ compiles the text of an expression, in which there are variables
// besides the event.
func compileJQ(text string, variables ...string) (path []string, code *gojq.Code, failed *jqError) {
	if len(text) > longestExpression {
		return nil, nil, &jqError{code: "jq-compile", msg: fmt.Sprintf("the expression has %d bytes, more than %d", len(text), longestExpression)}
	}
	if strings.TrimSpace(text) == "" {
		return nil, nil, &jqError{code: "jq-syntax", msg: "the expression is empty", hint: "write $${ for a plain ${"}
	}
	if i := strings.IndexByte(text, 0); i >= 0 {
		// gojq would leave out what comes after it.
		return nil, nil, &jqError{code: "jq-syntax", msg: "the expression holds the control character U+0000", offset: i}
	}
	query, err := gojq.Parse(text)
	if err != nil {
		return nil, nil, syntaxError(err)
	}
	if failed := checkCalls(query, text); failed != nil {
		return nil, nil, failed
	}
	path = asPath(query)
	code, err = gojq.Compile(query, gojq.WithFunction(multiply, 2, 2, multiplied), gojq.WithFunction(plus, 2, 2, added), gojq.WithVariables(variables))
	if err != nil {
		// These name functions and variables of the expression, and hold no data.
		failed := &jqError{code: "jq-compile", msg: err.Error()}
		if name, ok := named(err.Error()); ok {
			failed.offset = indexWord(text, name)
		}
		return nil, nil, failed
	}
	return path, code, nil
}

func syntaxError(err error) *jqError {
	failed := &jqError{code: "jq-syntax", msg: err.Error()}
	if parse, ok := errors.AsType[*gojq.ParseError](err); ok {
		failed.offset = max(0, parse.Offset-len(parse.Token))
		if parse.Error() == "unexpected EOF" {
			failed.msg = "the expression ends too early"
		}
	}
	return failed
}

// named is the function or variable in a message such as "function not defined: foo/1".
func named(msg string) (string, bool) {
	_, name, ok := strings.Cut(msg, "not defined: ")
	name, _, _ = strings.Cut(name, "/")
	return name, ok && name != ""
}

// checkCalls refuses what would reach beyond the event or let the event choose
// how much memory is used, and puts multiply in place of the operator *.
func checkCalls(query *gojq.Query, text string) (failed *jqError) {
	refuse := func(at, hint, format string, args ...any) {
		if failed == nil {
			failed = &jqError{code: "jq-compile", msg: fmt.Sprintf(format, args...), hint: hint, offset: indexWord(text, at)}
		}
	}
	visit(reflect.ValueOf(query), func(node any) {
		switch node := node.(type) {
		case *gojq.Query:
			if node.Meta != nil || len(node.Imports) > 0 {
				refuse("", "", "modules are not available in a route")
			}
			switch node.Op {
			case gojq.OpUpdateMul:
				refuse("*=", "write .a = .a * 2 for .a *= 2", "the operator *= is not available in a route")
			case gojq.OpAssign, gojq.OpModify, gojq.OpUpdateAdd, gojq.OpUpdateSub, gojq.OpUpdateDiv, gojq.OpUpdateMod, gojq.OpUpdateAlt:
				if !hasFixedPlaces(node.Left) {
					refuse("", "write the place as a number, up to 10000, or build the list with map( )", "the place in a list that is updated must be the same for all events")
				}
			case gojq.OpAdd:
				node.Term = &gojq.Term{Type: gojq.TermTypeFunc, Func: &gojq.Func{Name: plus, Args: []*gojq.Query{node.Left, node.Right}}}
				node.Op, node.Left, node.Right = 0, nil, nil
			case gojq.OpMul:
				node.Term = &gojq.Term{Type: gojq.TermTypeFunc, Func: &gojq.Func{Name: multiply, Args: []*gojq.Query{node.Left, node.Right}}}
				node.Op, node.Left, node.Right = 0, nil, nil
			}
		case *gojq.Term:
			if node.Format != "" && !slices.Contains(formats, node.Format) {
				refuse(node.Format, "the formats are "+strings.Join(formats, ", "), "there is no format %q", node.Format)
			}
		case *gojq.Func:
			if slices.Contains(unavailable, node.Name) {
				refuse(node.Name, "an expression sees the event, and nothing else", "%q is not available in a route", node.Name)
			}
			if slices.Contains(slow, node.Name) || slices.Contains(indexes, node.Name) ||
				node.Name == "pick" && len(node.Args) == 1 && !hasFixedPlaces(node.Args[0]) {
				refuse(node.Name, "", "%q is not available in a route: an event could choose how much it takes", node.Name)
			}
			isPattern := len(node.Args) > 0 && slices.Contains(patterns, node.Name) || node.Name == "split" && len(node.Args) == 2
			if isPattern && !isConstant(node.Args[0]) {
				refuse(node.Name, "put the pattern in quotes, without \\( ) in it",
					"the pattern of %q must be the same for all events", node.Name)
			}
		}
	})
	return failed
}

// indexWord finds a name in an expression, and not the names that it is a part
// of: the tree has no places. It is 0 if it finds none.
func indexWord(text, word string) int {
	isName := func(c byte) bool {
		return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
	}
	for from := 0; word != ""; {
		i := strings.Index(text[from:], word)
		if i < 0 {
			break
		}
		i += from
		from = i + len(word)
		before := i > 0 && (isName(text[i-1]) || text[i-1] == '.' || text[i-1] == '$') && isName(word[0])
		if !before && (from == len(text) || !isName(text[from]) || !isName(word[len(word)-1])) {
			return i
		}
	}
	return 0
}

// isConstant tells whether a query is a text, or a list that begins with one.
func isConstant(q *gojq.Query) bool {
	t := q.Term
	switch {
	case t == nil || len(t.SuffixList) > 0:
		return false
	case t.Type == gojq.TermTypeString:
		return t.Str.Queries == nil
	case t.Type == gojq.TermTypeArray && t.Array.Query != nil:
		items := t.Array.Query
		if items.Op == gojq.OpComma {
			return isConstant(items.Left) && isConstant(items.Right)
		}
		return isConstant(items)
	}
	return false
}

// visit calls f for every node of a syntax tree that is a pointer, parents
// before children.
func visit(v reflect.Value, f func(node any)) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return
		}
		f(v.Interface())
		visit(v.Elem(), f)
	case reflect.Struct:
		for i := range v.NumField() {
			visit(v.Field(i), f)
		}
	case reflect.Slice:
		for i := range v.Len() {
			visit(v.Index(i), f)
		}
	}
}

// asPath is the names of an expression such as .data.customer["first name"],
// nil if it is anything else.
func asPath(q *gojq.Query) []string {
	t := q.Term
	if t == nil || len(q.FuncDefs) > 0 || len(q.Imports) > 0 || t.Type != gojq.TermTypeIndex {
		return nil
	}
	name, ok := indexName(t.Index)
	if !ok {
		return nil
	}
	path := []string{name}
	for _, s := range t.SuffixList {
		if s.Index == nil || s.Iter || s.Optional {
			return nil
		}
		name, ok := indexName(s.Index)
		if !ok {
			return nil
		}
		path = append(path, name)
	}
	return path
}

func indexName(i *gojq.Index) (string, bool) {
	switch {
	case i == nil || i.IsSlice:
		return "", false
	case i.Name != "":
		return i.Name, true
	case i.Str != nil:
		return i.Str.Str, i.Str.Queries == nil
	case i.Start != nil && i.Start.Term != nil && i.Start.Term.Type == gojq.TermTypeString &&
		i.Start.Term.Str.Queries == nil && len(i.Start.Term.SuffixList) == 0 && len(i.Start.FuncDefs) == 0:
		return i.Start.Term.Str.Str, true
	}
	return "", false
}
