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
	// Actions are what each connection offers, by its name in the configuration; that
	// of DefaultConnection is "". Of one that is not there, the catalog is all.
	Actions map[string]Actions
}

// Actions is what is known of the actions of a connection.
type Actions struct {
	// Known is the catalog, or what was written down of the connection laid over it.
	Known *catalog.Catalog
	// Live is what the connection offers now, laid over Known; nil if nobody has asked.
	Live *catalog.Catalog
	// Later says that an action which nobody knows may turn up once somebody has: a
	// route of it is no mistake yet, and the service has the last word.
	Later bool
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
	inline  bool // input is an inline request
}

// Compile makes a table of the file's routes: everything that can be parsed,
// compiled or looked up before an event has come. It reports every problem, in
// file order. The table is nil if any of them is an error.
func Compile(f *config.File, cat *catalog.Catalog, o Options) (*Table, config.Problems) {
	c := &compiler{file: f, catalog: cat, byConnection: o.Actions, defaultPlace: DefaultPlace(o.DefaultConnection), tenants: map[string]*template{}}
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
		if at := c.actions(""); at.Live != nil {
			t.catalog = at.Live
		} else {
			t.catalog = at.Known
		}
		for _, a := range t.catalog.All() {
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
	byConnection map[string]Actions
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
	c.connection(h, r)
	if r.Request != nil {
		c.request(h, r)
		h.Then = c.followUp(h, r)
		return h
	}
	h.Action = c.action(r)
	if r.Input.Kind != config.KindMap && r.Input.Kind != config.KindNone {
		c.fail(r.Input.Pos, "input-unsatisfiable", "write the action's fields, one a line", "the input is not a mapping")
		return h
	}
	c.replies(h, r)
	h.AtMost = c.atMost(r)
	h.result = [2]*shape{c.shape(r.ResultFailed), c.shape(r.Result)}
	known := len(c.problems)
	h.input = c.template(config.Value{Pos: r.Input.Pos, Kind: config.KindMap, Map: r.Input.Map}, "input", "")
	if h.Action != nil && len(c.problems) == known {
		c.fit(h, r)
	}
	h.Then = c.followUp(h, r)
	return h
}

// actions is what is known of a connection.
func (c *compiler) actions(connection string) Actions {
	if at, ok := c.byConnection[connection]; ok {
		return at
	}
	return Actions{Known: c.catalog}
}

// action finds what a route runs: as its connection offers it now, or else as it is
// known. An action named by its id need not be known: it then has no schemas and
// is checked by the service.
func (c *compiler) action(r *config.Route) *catalog.Action {
	at := c.actions(r.Connection)
	for _, from := range []*catalog.Catalog{at.Live, at.Known} {
		if a, ok := find(from, r); ok {
			c.missed(r, at.Live != nil && !a.Offered())
			if r.RunID != "" && a.Key != "" { // it is asked for, and its results are named, as the route does
				byID := *a
				byID.Key = ""
				return &byID
			}
			return a
		}
	}
	if r.RunID != "" {
		c.missed(r, at.Live != nil)
		return &catalog.Action{ID: r.RunID, Name: r.RunID}
	}
	from := at.Known
	if at.Live != nil {
		from = at.Live
	}
	near := from.Nearest(r.RunKey)
	if at.Later && at.Live == nil {
		hint := "bridge8x8 actions sync writes down what it offers"
		if near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		c.report(config.LevelWarning, r.RunPos, "action-not-known", hint, "the action %q is not known, and its connection could not be asked yet", r.RunKey)
		return &catalog.Action{Key: r.RunKey, Name: r.RunKey}
	}
	hint := "bridge8x8 actions sync writes down what a connection offers beyond the ten; an action without a key is named by its id: run: {id: …}"
	if near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	c.fail(r.RunPos, "unknown-action", hint, "there is no action %q", r.RunKey)
	return nil
}

// missed warns of an action that the connection does not offer. Membrane has the
// last word: if it does not know the action either, the route's events wait.
func (c *compiler) missed(r *config.Route, missing bool) {
	if missing {
		c.report(config.LevelWarning, r.RunPos, "action-missing", "see bridge8x8 actions list, and actions sync --check",
			"its connection does not offer the action %q", r.RunKey+r.RunID)
	}
}

// find finds the action of a route in a catalog, which may be nil.
func find(from *catalog.Catalog, r *config.Route) (*catalog.Action, bool) {
	switch {
	case from == nil:
		return nil, false
	case r.RunID != "":
		return from.ByID(r.RunID)
	}
	return from.Lookup(r.RunKey)
}

// fit checks that a route's input can be what its action takes. A route that fits
// what was known of the action, and not what its connection offers now, is no
// mistake of the file's: it waits until either is mended, and the others go on.
func (c *compiler) fit(h *Handler, r *config.Route) {
	at := c.actions(r.Connection)
	known, wasKnown := find(at.Known, r)
	if h.Problem = h.Action.Problem; h.Problem != "" {
		c.report(config.LevelWarning, r.RunPos, "action-not-ready", "its events wait until it is; see bridge8x8 actions show "+actionName(h.Action),
			"the action %q cannot be run: %s", actionName(h.Action), h.Problem)
		h.Problem = fmt.Sprintf("the action %s cannot be run: %s", actionName(h.Action), h.Problem)
	}
	if !wasKnown || at.Live == nil {
		c.checkInput(h.Action, h.input, r)
		return
	}
	before := c.problems
	c.problems = nil
	c.checkInput(h.Action, h.input, r)
	found := c.problems
	c.problems = before
	if !found.Errors() {
		c.problems = append(c.problems, found...)
		return
	}
	offered := h.Action
	h.Action = known
	c.checkInput(h.Action, h.input, r)
	h.Action = offered
	if c.problems[len(before):].Errors() {
		return // a mistake by any measure
	}
	for _, p := range found {
		p.Level, p.Code = config.LevelWarning, "action-changed"
		if p.Hint == "" {
			p.Hint = "its events wait; change the route, or see bridge8x8 actions sync --check"
		}
		c.problems = append(c.problems, p)
	}
	if h.Problem == "" {
		h.Problem = fmt.Sprintf("the action %s has changed, and the route does not fit it any more", actionName(h.Action))
	}
}

func actionName(a *catalog.Action) string {
	if a.Key != "" {
		return a.Key
	}
	return a.ID
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

// DefaultPlace is where routes run that name no connection (MEMBRANE_CONNECTION).
func DefaultPlace(connection string) Place {
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
		c.report(config.LevelWarning, e.Pos, "unknown-input", hint, "the action %q has no input field %q", actionName(a), e.Key)
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
