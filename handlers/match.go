package handlers

import (
	"slices"
	"strings"

	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// CommandType is what the type of a command begins with; the rest is the action's key.
const CommandType = "com.8x8.run."

// Table is the compiled routes of one file. It never changes.
type Table struct {
	options      Options
	catalog      *catalog.Catalog
	defaultPlace Place

	handlers   []*Handler // of the routes, in file order
	commands   []*Handler // of the built-in route, by action
	byIdentity map[string]*Handler

	// byType has, for each type that some route names, every handler that takes it,
	// in file order. patterns are those that take types which no route names.
	byType   map[string][]*Handler
	patterns []pattern

	replies, unreferenced bool // of any handler: see Replies and Unreferenced

	answers map[string]*template // by the type of 8x8's question
	wraps   map[string]*wrap     // by the name of the webhook
}

// pattern takes every type that is longer than prefix and begins with it.
type pattern struct {
	prefix  string
	handler *Handler
}

// add puts a route behind the others. It takes every type if it names none.
func (t *Table) add(h *Handler, on []config.Typed) {
	t.handlers = append(t.handlers, h)
	t.replies = t.replies || h.Replies
	t.unreferenced = t.unreferenced || h.Action != nil && h.Action.Unreferenced()
	t.byIdentity[h.Identity] = h
	if t.byType == nil {
		t.byType = map[string][]*Handler{}
	}
	if len(on) == 0 {
		on = []config.Typed{{Value: "*"}}
	}
	for _, typed := range on {
		h.on = append(h.on, typed.Value)
		if prefix, isPattern := strings.CutSuffix(typed.Value, "*"); isPattern {
			t.patterns = append(t.patterns, pattern{prefix, h})
			for name, takers := range t.byType {
				if takes(prefix, name) {
					t.byType[name] = appendOnce(takers, h)
				}
			}
			continue
		}
		takers, known := t.byType[typed.Value]
		if !known {
			for _, p := range t.patterns {
				if takes(p.prefix, typed.Value) {
					takers = appendOnce(takers, p.handler)
				}
			}
		}
		t.byType[typed.Value] = appendOnce(takers, h)
	}
}

// takesType is what Match's index answers for all handlers at once.
func (h *Handler) takesType(name string) bool {
	return slices.ContainsFunc(h.on, func(on string) bool {
		prefix, isPattern := strings.CutSuffix(on, "*")
		return on == name || isPattern && takes(prefix, name)
	})
}

func takes(prefix, name string) bool {
	return len(name) > len(prefix) && strings.HasPrefix(name, prefix)
}

func appendOnce(hs []*Handler, h *Handler) []*Handler {
	if slices.Contains(hs, h) {
		return hs
	}
	return append(hs, h)
}

// Match returns the handlers that take an event, all of them, in file order and
// then the built-in route's. It is nil if there is none.
func (t *Table) Match(v *View) []*Handler {
	name := v.event.Type()
	var matched []*Handler
	if takers, known := t.byType[name]; known {
		for _, h := range takers {
			if all(h.filters, v) {
				matched = append(matched, h)
			}
		}
	} else {
		for _, p := range t.patterns {
			// A route with several patterns stands several times in a row.
			if takes(p.prefix, name) && (len(matched) == 0 || matched[len(matched)-1] != p.handler) && all(p.handler.filters, v) {
				matched = append(matched, p.handler)
			}
		}
	}
	if key, isCommand := strings.CutPrefix(name, CommandType); isCommand && key != "" && t.options.Commands {
		matched = append(matched, t.command(key))
	}
	return matched
}

// ByIdentity finds the handler whose ledger keys are made from identity.
func (t *Table) ByIdentity(identity string) (*Handler, bool) {
	if h, ok := t.byIdentity[identity]; ok {
		return h, true
	}
	if key, isCommand := strings.CutPrefix(identity, commandIdentity); isCommand && key != "" && t.options.Commands {
		return t.command(key), true
	}
	return nil, false
}

// Handlers returns every handler: the routes' in file order, then the built-in
// route's by action key.
func (t *Table) Handlers() []*Handler { return slices.Concat(t.handlers, t.commands) }

// Places is how many places the handlers run at, as far as that is known before
// an event has come: a connection whose tenants are told by the events is many.
func (t *Table) Places() int {
	places, many := map[Place]bool{}, 0
	for _, h := range t.Handlers() {
		if h.tenant != nil {
			many = 2
		}
		places[h.place] = true
	}
	return max(many, len(places))
}

// Replies says whether any route wants replies tied to what it sent.
func (t *Table) Replies() bool { return t.replies }

// Unreferenced says whether any route runs an action that may send something
// without our reference.
func (t *Table) Unreferenced() bool { return t.unreferenced }

// Options returns what the table was compiled with.
func (t *Table) Options() Options { return t.options }
