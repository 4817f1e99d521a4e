package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// Bounds of a file. They are far above any real one: they keep a broken or
// hostile file from taking the process down.
const (
	maxFileSize = 4 << 20
	maxValues   = 200_000 // after aliases are followed
	maxDepth    = 100
)

// treeReader turns YAML into a Value, and collects what is wrong with the YAML
// itself.
type treeReader struct {
	file     string
	values   int
	stopped  bool // a bound was broken and reported; the rest is not read
	problems Problems
}

func (t *treeReader) fail(pos Pos, code, hint, format string, args ...any) {
	t.problems = append(t.problems, Problem{
		Pos: pos, Level: LevelError, Code: code, Msg: fmt.Sprintf(format, args...), Hint: hint,
	})
}

// read parses the one document in data. A file without any document gives a
// Value of KindNone.
func (t *treeReader) read(data []byte) Value {
	if len(data) > maxFileSize {
		t.fail(Pos{File: t.file}, "too-large", "", "the file has %d bytes, more than %d", len(data), maxFileSize)
		return Value{}
	}
	if !t.checkText(data) {
		return Value{}
	}
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		panic(err) // only options of ours can be wrong
	}
	var document, second yaml.Node
	switch err := loader.Load(&document); {
	case errors.Is(err, io.EOF):
		return Value{}
	case err != nil:
		t.syntax(data, err)
		return Value{}
	}
	// The composer has checked the first document only.
	switch err := loader.Load(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		t.syntax(data, err)
	default:
		t.fail(t.pos(&second), "second-document", "put everything into one document, without the line ---",
			"a second YAML document begins here")
	}
	if document.Kind != yaml.DocumentNode || len(document.Content) == 0 {
		return Value{}
	}
	root := t.value(document.Content[0], 1)
	if t.stopped {
		return Value{} // what was cut off would be reported as missing
	}
	return root
}

// checkText finds what YAML refuses without saying where.
func (t *treeReader) checkText(data []byte) bool {
	line, col := 1, 1
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		pos := Pos{File: t.file, Line: line, Col: col}
		switch {
		case r == utf8.RuneError && size <= 1:
			t.fail(pos, "not-text", "save the file as UTF-8", "the file is not UTF-8 text")
			return false
		case r == '\n':
			line, col = line+1, 0
		case unicode.IsControl(r) && r != '\t' && r != '\r' && r != '\u0085':
			t.fail(pos, "not-text", `write it as an escape in a text with double quotes, such as "\u0007"`, "the file holds the control character %U", r)
			return false
		}
		data, col = data[size:], col+1
	}
	return true
}

// syntax puts an error of the YAML package into our form, with a guess at the cause.
func (t *treeReader) syntax(data []byte, err error) {
	var load *yaml.LoadError
	if !errors.As(err, &load) {
		t.fail(Pos{File: t.file}, "yaml-syntax", "", "not valid YAML: %v", err)
		return
	}
	line := sourceLine(data, load.Mark.Line)
	hint := ""
	switch {
	case strings.Contains(line, "${") && load.ContextMsg != "while scanning a quoted scalar":
		hint = "put a text that holds ${ } in quotes"
	case load.Message == "mapping values are not allowed in this context":
		hint = `put a text that holds ": " in quotes, or check the indentation`
	case strings.Contains(line, "\t"):
		hint = "indent with spaces, not with tabs"
	}
	msg := load.Message
	if load.ContextMsg != "" {
		msg += " " + load.ContextMsg
	}
	t.fail(Pos{File: t.file, Line: load.Mark.Line, Col: load.Mark.Column}, "yaml-syntax", hint, "not valid YAML: %s", msg)
}

func sourceLine(data []byte, line int) string {
	n := 0
	for text := range bytes.Lines(data) {
		if n++; n == line {
			return string(text)
		}
	}
	return ""
}

func (t *treeReader) pos(n *yaml.Node) Pos {
	return Pos{File: t.file, Line: n.Line, Col: n.Column}
}

// value follows aliases, so that what it returns is a plain tree, and counts
// what it makes, so that a few aliases of aliases cannot become millions.
func (t *treeReader) value(n *yaml.Node, depth int) Value {
	pos := t.pos(n)
	t.values++
	switch {
	case t.stopped:
		return Value{}
	case t.values > maxValues:
		t.stopped = true
		t.fail(pos, "too-large", "check for aliases of aliases", "the file grows to more than %d values here", maxValues)
		return Value{}
	case depth > maxDepth:
		t.stopped = true
		t.fail(pos, "too-deep", "check for an alias inside the value it stands for", "values are nested more than %d deep here", maxDepth)
		return Value{}
	}
	switch n.Kind {
	case yaml.AliasNode:
		return t.value(n.Alias, depth+1)
	case yaml.MappingNode:
		t.checkTag(n, "!!map")
		return Value{Pos: pos, Kind: KindMap, Map: t.entries(n, depth)}
	case yaml.SequenceNode:
		t.checkTag(n, "!!seq")
		v := Value{Pos: pos, Kind: KindList}
		for _, item := range n.Content {
			v.List = append(v.List, t.value(item, depth+1))
		}
		return v
	default:
		return Value{Pos: pos, Kind: KindScalar, Scalar: t.scalar(n)}
	}
}

func (t *treeReader) checkTag(n *yaml.Node, want string) {
	if tag := n.ShortTag(); tag != want {
		t.fail(t.pos(n), "unsupported-tag", "leave the tag out", "the tag %s is not supported here", tag)
	}
}

// entries are the keys of a mapping in file order, and after them those that
// "<<" merges in.
func (t *treeReader) entries(n *yaml.Node, depth int) []Entry {
	var entries []Entry
	var merges []Value
	seen := map[string]Pos{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, pos := n.Content[i], t.pos(n.Content[i])
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		if key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge" {
			merges = append(merges, t.merged(n.Content[i+1], depth)...)
			continue
		}
		value := t.value(n.Content[i+1], depth+1)
		if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!null" {
			t.fail(pos, "bad-key", "", "a key must be text")
			continue
		}
		if first, twice := seen[key.Value]; twice {
			t.fail(pos, "duplicate-key", "first set at "+first.String(), "the key %q is set twice", key.Value)
			continue
		}
		seen[key.Value] = pos
		entries = append(entries, Entry{Pos: pos, Key: key.Value, Value: value})
	}
	for _, merge := range merges {
		for _, e := range merge.Map {
			if _, there := seen[e.Key]; !there {
				seen[e.Key] = e.Pos
				entries = append(entries, e)
			}
		}
	}
	return entries
}

// merged are the mappings that the value of a "<<" key names.
func (t *treeReader) merged(n *yaml.Node, depth int) []Value {
	v := t.value(n, depth+1)
	list := []Value{v}
	if v.Kind == KindList {
		list = v.List
	}
	for _, m := range list {
		if m.Kind != KindMap && !t.stopped {
			t.fail(m.Pos, "wrong-type", "", `"<<" takes a mapping or a list of mappings, not %s`, m.what())
		}
	}
	return slices.DeleteFunc(list, func(m Value) bool { return m.Kind != KindMap })
}

// jsonNumber is how JSON writes numbers.
var jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

// scalar is what a scalar means. A number is what JSON would also write as
// one: +12025550101 and 0123 would lose their sign or zero, and so are text,
// as are dates, .inf and 0x1f.
func (t *treeReader) scalar(n *yaml.Node) any {
	switch tag := n.ShortTag(); tag {
	case "!!null":
		return nil
	case "!!bool":
		return strings.EqualFold(n.Value, "true")
	case "!!int", "!!float":
		if jsonNumber.MatchString(n.Value) {
			return number(n.Value)
		}
		return n.Value
	case "!!str", "!!timestamp", "!!merge":
		return n.Value
	default:
		t.fail(t.pos(n), "unsupported-tag", "leave the tag out", "the tag %s is not supported here", tag)
		return nil
	}
}

// number keeps integers exact: as int where they fit, else as json.Number.
func number(text string) any {
	if i, err := strconv.Atoi(text); err == nil {
		return i
	}
	if strings.ContainsAny(text, ".eE") {
		if f, err := strconv.ParseFloat(text, 64); err == nil {
			return f
		}
	}
	return json.Number(text)
}
