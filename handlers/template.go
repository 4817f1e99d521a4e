package handlers

import (
	"encoding/json"
	"math"
	"math/big"
	"strconv"
	"strings"

	"github.com/itchyny/gojq"

	"github.com/bridge8x8/bridge8x8/config"
)

// Bounds of what a template makes, in bytes of JSON.
const (
	longestText  = 64 << 10
	largestInput = 1 << 20
)

// template is a compiled part of a route's input: a tree whose texts may hold
// ${ jq }.
//
// A text that is one ${ } keeps the type of its result; white space around it
// does not count. A result of null leaves the field out, as if it were not
// written: what is required is then missed by the schema, and what is optional
// is absent, which is what the service takes (it refuses nulls). In a list, where
// nothing can be left out, null is an error.
//
// In a text with anything around it, results are put in: texts as they are,
// numbers, true and false as JSON writes them. Null, lists and objects are
// errors: a misspelt path must not send "Hi null".
type template struct {
	pos    config.Pos
	field  string // in words: "input field text"
	parts  []part // of a text with expressions, in order
	fields []field
	items  []*template
	value  any // a constant, where kind is scalar and there are no parts
	kind   config.Kind
}

type field struct {
	name string
	*template
}

// part is constant text or, where there is one, an expression.
type part struct {
	text string
	expr *expression
}

// template compiles a tree. where is the tree in words, and prefix what comes
// before a field's name.
func (c *compiler) template(v config.Value, where string, fieldPath string) *template {
	t := &template{pos: v.Pos, field: where, kind: v.Kind}
	if fieldPath != "" {
		t.field = where + " field " + fieldPath
	}
	switch v.Kind {
	case config.KindMap:
		for _, e := range v.Map {
			t.fields = append(t.fields, field{e.Key, c.template(e.Value, where, join(fieldPath, e.Key))})
		}
	case config.KindList:
		for i, item := range v.List {
			t.items = append(t.items, c.template(item, where, fieldPath+"["+strconv.Itoa(i)+"]"))
		}
	default:
		t.value = v.Scalar
		if text, ok := v.Scalar.(string); ok {
			c.text(t, text)
		}
	}
	return t
}

func join(parent, name string) string {
	if parent == "" {
		return name
	}
	return parent + "." + name
}

func (c *compiler) text(t *template, text string) {
	pieces, failed := splitText(text)
	if failed != nil {
		c.failAt(t, text, failed)
		return
	}
	if trimmed, lone := loneExpression(pieces); lone {
		pieces = trimmed
	}
	holds := false
	for _, p := range pieces {
		if !p.isExpr {
			t.parts = append(t.parts, part{text: p.text})
			continue
		}
		holds = true
		path, code, failed := compileJQ(p.text, c.variables...)
		if failed != nil {
			failed.offset += p.offset
			c.failAt(t, text, failed)
			continue
		}
		t.parts = append(t.parts, part{expr: &expression{pos: t.pos, field: t.field, text: strings.TrimSpace(p.text), path: path, code: code}})
	}
	if !holds {
		t.value, t.parts = "", nil
		if len(pieces) > 0 {
			t.value = pieces[0].text
		}
	}
}

// failAt reports an expression that cannot be compiled, at the place in the
// text where that shows.
func (c *compiler) failAt(t *template, text string, failed *jqError) {
	c.fail(within(t.pos, text, failed.offset), failed.code, failed.hint, "%s: %s", t.field, failed.msg)
}

// within is the place of a byte of a scalar. The tree does not say how the
// scalar was written: one that cannot have been plain is taken as quoted, and
// of one with several lines the beginning is all that is known.
func within(pos config.Pos, text string, offset int) config.Pos {
	if pos.Line == 0 || strings.Contains(text, "\n") {
		return pos
	}
	pos.Col += len([]rune(text[:min(offset, len(text))]))
	if text != strings.TrimSpace(text) || strings.Contains(text, ": ") || strings.Contains(text, " #") ||
		text != "" && strings.ContainsRune("\"'{}[],&*!|>%@`#", rune(text[0])) {
		pos.Col++
	}
	return pos
}

// piece is a part of a text: constant, or the inside of a ${ }.
type piece struct {
	text   string
	isExpr bool
	offset int // of an expression's inside, in bytes of the whole text
}

// splitText cuts a text at its ${ }, and reads $${ as a literal ${.
func splitText(text string) ([]piece, *jqError) {
	if !strings.Contains(text, "${") {
		return []piece{{text: text}}, nil
	}
	var pieces []piece
	var constant strings.Builder
	flush := func() {
		if constant.Len() > 0 {
			pieces = append(pieces, piece{text: constant.String()})
			constant.Reset()
		}
	}
	for i := 0; i < len(text); {
		switch rest := text[i:]; {
		case strings.HasPrefix(rest, "$${"):
			constant.WriteString("${")
			i += len("$${")
		case strings.HasPrefix(rest, "${"):
			flush()
			start := i + len("${")
			end := endOfCode(text, start, '{', '}')
			if end < 0 {
				return nil, &jqError{code: "jq-syntax", offset: i, msg: "the expression that begins with ${ has no end", hint: "close it with }, or write $${ for a plain ${"}
			}
			pieces = append(pieces, piece{text: text[start:end], isExpr: true, offset: start})
			i = end + 1
		default:
			constant.WriteByte(text[i])
			i++
		}
	}
	flush()
	return pieces, nil
}

// endOfCode finds the bracket that closes jq code, looking past strings, the
// code in their \( ), and comments; -1 if there is none.
func endOfCode(text string, i int, opens, closes byte) int {
	depth := 0
	for ; i < len(text); i++ {
		switch ch := text[i]; ch {
		case opens:
			depth++
		case closes:
			if depth == 0 {
				return i
			}
			depth--
		case '"':
			if i = endOfString(text, i+1); i < 0 {
				return -1
			}
		case '#':
			i = endOfComment(text, i+1)
		}
	}
	return -1
}

// endOfString finds the quote that closes a jq string, -1 if there is none.
func endOfString(text string, i int) int {
	for ; i < len(text); i++ {
		switch text[i] {
		case '"':
			return i
		case '\\':
			if i++; i < len(text) && text[i] == '(' {
				if i = endOfCode(text, i+1, '(', ')'); i < 0 {
					return -1
				}
			}
		}
	}
	return -1
}

// endOfComment is the last byte of a comment: a backslash before the end of the
// line continues it.
func endOfComment(text string, i int) int {
	for ; i < len(text); i++ {
		switch text[i] {
		case '\n', '\r':
			return i
		case '\\':
			if strings.HasPrefix(text[i+1:], "\r\n") {
				i += 2
			} else if i+1 < len(text) && strings.IndexByte("\\\r\n", text[i+1]) >= 0 {
				i++
			}
		}
	}
	return i
}

// loneExpression is the one expression of a text that has nothing else but
// white space.
func loneExpression(pieces []piece) ([]piece, bool) {
	var lone []piece
	for _, p := range pieces {
		if p.isExpr {
			lone = append(lone, p)
		} else if strings.TrimSpace(p.text) != "" {
			return nil, false
		}
	}
	return lone, len(lone) == 1
}

// lone is the expression of a text that is nothing else, or nil.
func (t *template) lone() *expression {
	if len(t.parts) == 1 {
		return t.parts[0].expr
	}
	return nil
}

func (t *template) hasExpressions() bool {
	for _, p := range t.parts {
		if p.expr != nil {
			return true
		}
	}
	for _, f := range t.fields {
		if f.hasExpressions() {
			return true
		}
	}
	for _, item := range t.items {
		if item.hasExpressions() {
			return true
		}
	}
	return false
}

func (t *template) fail(msg string) *MappingError {
	return &MappingError{Pos: t.pos, Msg: t.field + ": " + msg}
}

// making is one evaluation of a template.
type making struct {
	view      *View
	variables []any // the values of those that it was compiled with
	budget    budget
	left      int // bytes
}

// evaluate makes a value of an event. The caller owns it.
func (t *template) evaluate(v *View) (any, error) { return t.evaluateWith(v) }

// evaluateWith is evaluate for a template that was compiled with variables.
func (t *template) evaluateWith(v *View, variables ...any) (any, error) {
	m := making{view: v, variables: variables, left: largestInput}
	return t.make(&m)
}

func (t *template) make(m *making) (any, error) {
	switch t.kind {
	case config.KindMap:
		object := make(map[string]any, len(t.fields))
		for _, f := range t.fields {
			value, err := f.make(m)
			if err != nil {
				return nil, err
			}
			if value == nil && f.lone() != nil {
				continue
			}
			if err := m.take(f.template, len(f.name)+3); err != nil {
				return nil, err
			}
			object[f.name] = value
		}
		return object, nil
	case config.KindList:
		list := make([]any, len(t.items))
		for i, item := range t.items {
			value, err := item.make(m)
			if err != nil {
				return nil, err
			}
			if x := item.lone(); value == nil && x != nil {
				return nil, x.failed("gives null, which a list cannot leave out")
			}
			list[i] = value
		}
		return list, nil
	}
	if x := t.lone(); x != nil {
		value, err := x.result(m)
		if err != nil {
			return nil, err
		}
		return m.own(t, value)
	}
	if t.parts == nil {
		return m.own(t, t.value)
	}
	var b strings.Builder
	b.Grow(128) // most messages
	for _, p := range t.parts {
		if p.expr == nil {
			b.WriteString(p.text)
			continue
		}
		value, err := p.expr.result(m)
		if err != nil {
			return nil, err
		}
		if err := p.expr.appendTo(&b, value); err != nil {
			return nil, err
		}
		if b.Len() > longestText {
			break
		}
	}
	return m.own(t, b.String())
}

// appendTo puts a result into a text.
func (x *expression) appendTo(b *strings.Builder, value any) error {
	switch value := value.(type) {
	case string:
		b.WriteString(value)
	case bool:
		b.WriteString(strconv.FormatBool(value))
	case int:
		b.WriteString(strconv.Itoa(value))
	case json.Number:
		b.WriteString(value.String())
	case *big.Int:
		b.WriteString(value.String())
	case float64:
		if math.IsNaN(value) || math.IsInf(value, 0) {
			return x.failed(noNumber)
		}
		text, err := gojq.Marshal(value)
		if err != nil {
			return x.failed("cannot be written as text")
		}
		b.Write(text)
	case nil:
		return x.failed(`gives null, which has no place in a text; use // to give it a default`)
	default:
		return x.failed("gives " + typeName(value) + ", which has no place in a text")
	}
	return nil
}

const noNumber = "gives a number that JSON does not have"

// own copies a value, so that whoever gets the input may change it, and bounds it.
func (m *making) own(t *template, value any) (any, error) {
	switch value := value.(type) {
	case string:
		if len(value) > longestText {
			return nil, t.fail("has a text of more than " + strconv.Itoa(longestText) + " bytes")
		}
		return value, m.take(t, len(value)+2)
	case map[string]any:
		object := make(map[string]any, len(value))
		for name, item := range value {
			if err := m.take(t, len(name)+3); err != nil {
				return nil, err
			}
			item, err := m.own(t, item)
			if err != nil {
				return nil, err
			}
			object[name] = item
		}
		return object, m.take(t, 2)
	case []any:
		// Not made at its full length: that is only bounded as it is filled.
		list := make([]any, 0, min(len(value), 1024))
		for _, item := range value {
			item, err := m.own(t, item)
			if err != nil {
				return nil, err
			}
			list = append(list, item)
		}
		return list, m.take(t, 2)
	case float64:
		if math.IsNaN(value) || math.IsInf(value, 0) {
			return nil, t.fail(noNumber)
		}
		return value, m.take(t, 8)
	case json.Number:
		return value, m.take(t, len(value))
	case *big.Int:
		return value, m.take(t, value.BitLen()/3)
	default:
		return value, m.take(t, 4)
	}
}

func (m *making) take(t *template, bytes int) error {
	if m.left -= bytes; m.left < 0 {
		return t.fail("makes the input larger than " + strconv.Itoa(largestInput) + " bytes")
	}
	return nil
}
