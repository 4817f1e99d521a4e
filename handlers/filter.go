package handlers

import (
	"fmt"
	"strings"

	"github.com/bridge8x8/bridge8x8/config"
)

// filter is one CloudEvents Subscriptions filter
// (source: CloudEvents Subscriptions API 1.0.0-wip, 3.2.4.1).
type filter func(*View) bool

var dialects = []string{"exact", "prefix", "suffix", "all", "any", "not", "sql", "jq"}

// filter compiles one element of filters: an object with exactly one dialect.
// It reports what is wrong and then returns nil.
func (c *compiler) filter(v config.Value) filter {
	if v.Kind != config.KindMap || len(v.Map) != 1 {
		c.fail(v.Pos, "filter-invalid", "write each filter as an item of its own, such as - exact: {subject: order-9}",
			"a filter must be a mapping with one dialect: %s", strings.Join(dialects, ", "))
		return nil
	}
	dialect := v.Map[0]
	switch dialect.Key {
	case "exact":
		return c.compare(dialect, func(attribute, value string) bool { return attribute == value })
	case "prefix":
		return c.compare(dialect, strings.HasPrefix)
	case "suffix":
		return c.compare(dialect, strings.HasSuffix)
	case "all":
		fs := c.filters(dialect)
		return func(v *View) bool { return all(fs, v) }
	case "any":
		fs := c.filters(dialect)
		return func(v *View) bool {
			for _, f := range fs {
				if f(v) {
					return true
				}
			}
			return false
		}
	case "not":
		f := c.filter(dialect.Value)
		return func(v *View) bool { return !f(v) }
	case "sql":
		return c.sql(dialect.Value)
	case "jq":
		return c.jq(dialect.Value)
	default:
		hint := "the dialects are " + strings.Join(dialects, ", ")
		if near := config.Nearest(dialect.Key, dialects); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		c.fail(dialect.Pos, "filter-invalid", hint, "there is no filter dialect %q", dialect.Key)
		return nil
	}
}

func all(fs []filter, v *View) bool {
	for _, f := range fs {
		if !f(v) {
			return false
		}
	}
	return true
}

func (c *compiler) filters(dialect config.Entry) []filter {
	list := dialect.Value
	if list.Kind != config.KindList || len(list.List) == 0 {
		c.fail(dialect.Pos, "filter-invalid", "", "the filter %q takes a list with at least one filter", dialect.Key)
		return nil
	}
	fs := make([]filter, len(list.List))
	for i, item := range list.List {
		fs[i] = c.filter(item)
	}
	return fs
}

// compare compiles the dialects that compare attributes with texts: all of
// their entries must hold, and an attribute that the event lacks never does.
func (c *compiler) compare(dialect config.Entry, holds func(attribute, value string) bool) filter {
	const hint = "such as {subject: order-9}"
	if dialect.Value.Kind != config.KindMap || len(dialect.Value.Map) == 0 {
		c.fail(dialect.Pos, "filter-invalid", hint, "the filter %q takes a mapping of attributes to texts", dialect.Key)
		return nil
	}
	type want struct{ attribute, value string }
	wants := make([]want, 0, len(dialect.Value.Map))
	for _, e := range dialect.Value.Map {
		value, ok := e.Value.Scalar.(string)
		switch {
		case e.Key == "data" || !isAttributeName(e.Key):
			c.fail(e.Pos, "filter-invalid", "filters see attributes such as type, source or subject, and extensions; jq sees the data too",
				"%q is not the name of an attribute", e.Key)
		case e.Value.Kind != config.KindScalar || !ok:
			c.fail(e.Value.Pos, "filter-invalid", "put numbers, true and false in quotes", "the filter %q compares texts, and the value for %q is none", dialect.Key, e.Key)
		case value == "":
			c.fail(e.Value.Pos, "filter-invalid", "no attribute is ever empty; leave the filter out", "the value for %q is empty", e.Key)
		}
		wants = append(wants, want{e.Key, value})
	}
	return func(v *View) bool {
		for _, w := range wants {
			attribute, ok := v.text(w.attribute)
			if !ok || !holds(attribute, w.value) {
				return false
			}
		}
		return true
	}
}

// jq compiles the one dialect that is not of CloudEvents Subscriptions, and the one
// that sees the data. An event matches if the expression gives true and nothing
// else, without an error.
func (c *compiler) jq(v config.Value) filter {
	text, ok := v.Scalar.(string)
	if v.Kind != config.KindScalar || !ok {
		c.fail(v.Pos, "filter-invalid", "such as jq: .data.total > 100", "the filter \"jq\" takes a text")
		return nil
	}
	path, code, failed := compileJQ(text)
	if failed != nil {
		if strings.HasPrefix(strings.TrimSpace(text), "${") {
			failed.hint = "write the expression alone, without ${ }"
		}
		c.fail(within(v.Pos, text, failed.offset), failed.code, failed.hint, "the filter \"jq\": %s", failed.msg)
		return nil
	}
	x := &expression{pos: v.Pos, field: "filter", text: text, path: path, code: code}
	return func(v *View) bool {
		result, err := x.result(&making{view: v})
		return err == nil && result == true
	}
}

func isAttributeName(name string) bool {
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}
