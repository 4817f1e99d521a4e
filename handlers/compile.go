package handlers

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// Options are what a table needs to know besides the file.
type Options struct {
	// Commands turns on the built-in route "run": an event of type
	// com.8x8.run.<action key> runs that action with the event's data as its input.
	Commands bool
	// DefaultConnection is the id or key of the connection for routes that name
	// none (MEMBRANE_CONNECTION). 24 hexadecimal digits are an id.
	DefaultConnection string
}

// compiled is what Compile adds to a Handler.
type compiled struct {
	on      []string // types, and beginnings of types that end in *
	filters []filter
	input   *template // nil in the built-in route
	place   Place     // without the tenant, if tenant is set
	tenant  *template // set if the tenant depends on the event
	result  [2]*shape // of failures and of successes; nil leaves them as they are
	missing *ActionMissingError
}

// Compile makes a table of the file's routes: everything that can be parsed,
// compiled or looked up before an event has come. It reports every problem, in
// file order. The table is nil if any of them is an error.
func Compile(f *config.File, cat *catalog.Catalog, o Options) (*Table, config.Problems) {
	c := &compiler{file: f, catalog: cat, defaultPlace: defaultPlace(o.DefaultConnection), tenants: map[string]*template{}}
	t := &Table{options: o, catalog: cat, byIdentity: make(map[string]*Handler, len(f.Routes)), defaultPlace: c.defaultPlace}
	for _, connection := range f.Connections {
		if connection.Tenant.Kind != config.KindNone {
			c.tenants[connection.Name] = c.template(connection.Tenant, fmt.Sprintf("connection %q: tenant", connection.Name), "")
		}
	}
	for i := range f.Routes {
		t.add(c.handler(&f.Routes[i]), f.Routes[i].On)
	}
	c.webhooks(t)
	if o.Commands {
		for _, a := range cat.All() {
			if a.Key != "" {
				t.addCommand(a)
			}
		}
	}
	slices.SortStableFunc(c.problems, func(a, b config.Problem) int {
		if a.Pos.Line != b.Pos.Line {
			return a.Pos.Line - b.Pos.Line
		}
		return a.Pos.Col - b.Pos.Col
	})
	if c.problems.Errors() {
		return nil, c.problems
	}
	return t, c.problems
}

// compiler collects the problems of a file while its routes are compiled.
type compiler struct {
	file         *config.File
	catalog      *catalog.Catalog
	defaultPlace Place
	tenants      map[string]*template
	problems     config.Problems
	// route is put before messages: many routes look alike.
	route string
	// variables are what expressions see besides the event.
	variables []string
}

func (c *compiler) fail(pos config.Pos, code, hint, format string, args ...any) {
	c.report(config.LevelError, pos, code, hint, format, args...)
}

func (c *compiler) report(level config.Level, pos config.Pos, code, hint, format string, args ...any) {
	c.problems = append(c.problems, config.Problem{
		Pos: pos, Level: level, Code: code, Msg: c.route + fmt.Sprintf(format, args...), Hint: hint,
	})
}

func (c *compiler) handler(r *config.Route) *Handler {
	c.route = fmt.Sprintf("route %q: ", r.Name)
	defer func() { c.route = "" }()
	h := &Handler{
		Name: r.Name, Identity: r.Name, Connection: r.Connection,
		TTL: r.TTL, Retry: r.Retry, OnUnknown: r.OnUnknown, ProxyForwards: r.ProxyForwards,
	}
	if r.Formerly != "" {
		h.Identity = r.Formerly
	}
	for _, v := range r.Filters {
		h.filters = append(h.filters, c.filter(v))
	}
	h.Action = c.action(r)
	c.connection(h, r)
	if r.Input.Kind != config.KindMap && r.Input.Kind != config.KindNone {
		c.fail(r.Input.Pos, "input-unsatisfiable", "write the action's fields, one a line", "the input is not a mapping")
		return h
	}
	h.result = [2]*shape{c.shape(r.ResultFailed), c.shape(r.Result)}
	known := len(c.problems)
	h.input = c.template(config.Value{Pos: r.Input.Pos, Kind: config.KindMap, Map: r.Input.Map}, "input", "")
	if h.Action != nil && len(c.problems) == known {
		c.checkInput(h.Action, h.input, r)
	}
	h.Then = c.followUp(h, r)
	return h
}

// action finds what a route runs. An action named by its id is not in the
// catalog, as a rule: it then has no schemas and is checked by the service.
func (c *compiler) action(r *config.Route) *catalog.Action {
	if r.RunID != "" {
		if a, ok := c.catalog.ByID(r.RunID); ok {
			return a
		}
		return &catalog.Action{ID: r.RunID, Name: r.RunID}
	}
	if a, ok := c.catalog.Lookup(r.RunKey); ok {
		return a
	}
	hint := "an action that is not in the catalog is named by its id: run: {id: …}"
	if near := c.catalog.Nearest(r.RunKey); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	c.fail(r.RunPos, "unknown-action", hint, "there is no action %q", r.RunKey)
	return nil
}

func (c *compiler) connection(h *Handler, r *config.Route) {
	h.place = c.defaultPlace
	if r.Connection == "" {
		return
	}
	names := make([]string, len(c.file.Connections))
	for i, connection := range c.file.Connections {
		if connection.Name != r.Connection {
			names[i] = connection.Name
			continue
		}
		h.place = Place{Connection: connection.Name, ConnectionID: connection.ID, ConnectionKey: connection.Key}
		if t := c.tenants[connection.Name]; t != nil {
			if t.hasExpressions() {
				h.tenant = t
			} else {
				h.place.Tenant, _ = t.value.(string)
			}
		}
		return
	}
	hint := "add it under connections:, or leave it out to use MEMBRANE_CONNECTION"
	if near := config.Nearest(r.Connection, names); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	c.fail(r.ConnectionPos, "unknown-connection", hint, "there is no connection %q", r.Connection)
}

// databaseID is how Membrane's ids look (source: Membrane's documentation, by its examples).
var databaseID = regexp.MustCompile(`^[0-9a-f]{24}$`)

func defaultPlace(connection string) Place {
	if databaseID.MatchString(connection) {
		return Place{ConnectionID: connection}
	}
	return Place{ConnectionKey: connection}
}

// checkInput finds what no event could put right: constants and missing fields
// that the action's schema refuses.
func (c *compiler) checkInput(a *catalog.Action, input *template, r *config.Route) {
	ref := string(a.Reference)
	if v, ok := r.Input.Get(ref); ok && ref != "" {
		pos := v.Pos
		for _, e := range r.Input.Map {
			if e.Key == ref {
				pos = e.Pos
			}
		}
		c.fail(pos, "reference-mapped", "leave it out; the result event names the cause", "the input field %s is set by the bridge, to know its runs again", ref)
	}
	sample, _ := input.sample().(map[string]any)
	delete(sample, ref)
	known := len(c.problems)
	for _, e := range a.Input.ValidateAll(sample) {
		if e.Field != ref {
			c.fail(place(r.Input, r.Pos, e.Field), "input-unsatisfiable", "", "%s", e.Error())
		}
	}
	if len(c.problems) == known && a.Normalize != nil && !input.hasExpressions() {
		if err := check(a, sample); err != nil {
			c.fail(inputPos(r), "input-unsatisfiable", "", "%s", err.Error())
		}
	}
	fields := a.Input.Properties()
	for _, e := range r.Input.Map {
		if len(fields) == 0 || e.Key == ref || slices.Contains(fields, e.Key) {
			continue
		}
		hint := "the fields are " + strings.Join(fields, ", ")
		if near := config.Nearest(e.Key, fields); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		c.report(config.LevelWarning, e.Pos, "unknown-input", hint, "the action %q has no input field %q", a.Key, e.Key)
	}
}

func inputPos(r *config.Route) config.Pos {
	if r.Input.Pos.Line != 0 {
		return r.Input.Pos
	}
	return r.Pos
}

// place is where the value of a field such as messages[2].text stands, or as
// much of it as there is.
func place(v config.Value, whole config.Pos, field string) config.Pos {
	pos := whole
	if v.Pos.Line != 0 {
		pos = v.Pos
	}
	for _, name := range strings.FieldsFunc(field, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		var next config.Value
		if i, err := strconv.Atoi(name); err == nil && v.Kind == config.KindList && i < len(v.List) {
			next = v.List[i]
		} else if next, _ = v.Get(name); next.Kind == config.KindNone {
			break
		}
		v, pos = next, next.Pos
	}
	return pos
}

// sample is the input with catalog.RunTime for what only an event tells.
func (t *template) sample() any {
	switch {
	case len(t.parts) > 0:
		return catalog.RunTime
	case t.kind == config.KindMap:
		object := make(map[string]any, len(t.fields))
		for _, f := range t.fields {
			object[f.name] = f.sample()
		}
		return object
	case t.kind == config.KindList:
		list := make([]any, len(t.items))
		for i, item := range t.items {
			list[i] = item.sample()
		}
		return list
	}
	return t.value
}

// makeInput is Input before any check.
func (h *Handler) makeInput(v *View) (map[string]any, error) {
	if h.input == nil {
		return commandInput(v)
	}
	value, err := h.input.evaluate(v)
	if err != nil {
		return nil, err
	}
	return value.(map[string]any), nil // Compile takes nothing but mappings
}

// What a command does, which has no route to say it.
var commandRetry = config.Retry{Attempts: 8, Initial: time.Second, Max: 5 * time.Minute}
