package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
)

// What a route does if it does not say.
const (
	defaultAttempts     = 8
	defaultRetryInitial = time.Second
	defaultRetryMax     = 5 * time.Minute
	maxAttempts         = 1000
)

// decoder makes a File of a tree, and collects what is wrong with it.
type decoder struct {
	file     *File
	lookup   func(string) (string, bool)
	problems Problems
}

func (d *decoder) fail(pos Pos, code, hint, format string, args ...any) {
	d.problems = append(d.problems, Problem{
		Pos: pos, Level: LevelError, Code: code, Msg: fmt.Sprintf(format, args...), Hint: hint,
	})
}

func (d *decoder) warn(pos Pos, code, hint, format string, args ...any) {
	d.problems = append(d.problems, Problem{
		Pos: pos, Level: LevelWarning, Code: code, Msg: fmt.Sprintf(format, args...), Hint: hint,
	})
}

func (d *decoder) decode(root Value) {
	top := object{}
	if root.Kind != KindNone && root.what() != "null" {
		// Keys that begin with x- are the writer's own: a place for anchors.
		top = d.object(withoutExtensions(root), "the file", "streams", "sources", "webhooks", "connections", "routes")
	}
	d.streams(top)
	for i, v := range d.items(top, "sources") {
		d.source(v, fmt.Sprintf("sources[%d]", i))
	}
	for i, v := range d.items(top, "webhooks") {
		d.webhook(v, fmt.Sprintf("webhooks[%d]", i))
	}
	if v, ok := top.get("connections"); ok {
		d.connections(v)
	}
	for i, v := range d.items(top, "routes") {
		d.route(v, fmt.Sprintf("routes[%d]", i))
	}
	d.checkNames()
	if _, ok := top.get("routes"); !ok && !d.problems.Errors() {
		d.warn(Pos{File: d.file.Path}, "no-routes", "add an entry under routes:", "there are no routes, so no event is handled by one")
	}
}

func withoutExtensions(root Value) Value {
	root.Map = slices.DeleteFunc(slices.Clone(root.Map), func(e Entry) bool { return strings.HasPrefix(e.Key, "x-") })
	return root
}

func (d *decoder) streams(top object) {
	d.file.Streams = StreamsMake
	text, ok := d.text(top, "streams")
	if !ok {
		return
	}
	if text, ok = d.expand(text, top.pos("streams"), "streams"); !ok {
		return
	}
	switch s := Streams(text); s {
	case StreamsMake, StreamsExisting:
		d.file.Streams = s
	default:
		d.fail(top.pos("streams"), "bad-value", "write existing if somebody else makes the bridge's streams, or make", "%q does not say who makes the streams", text)
	}
}

func (d *decoder) source(v Value, at string) {
	o := d.object(v, at, "name", "nats")
	s := Source{Pos: v.Pos}
	s.Name = d.name(o, "name")
	where, ok := d.required(o, "nats")
	if !ok {
		return
	}
	n := d.object(where, "nats", "stream", "domain", "subjects", "core", "start")
	s.NATS.Start = StartNew
	s.NATS.Core = d.boolean(n, "core")
	if stream, ok := d.text(n, "stream"); ok {
		pos := n.pos("stream")
		if s.NATS.Stream, ok = d.expand(stream, pos, "stream"); ok && (s.NATS.Stream == "" || strings.ContainsAny(s.NATS.Stream, ".*>/\\ \t\r\n")) {
			d.fail(pos, "bad-name", "use the stream's name as the server lists it", "%q cannot be the name of a stream", s.NATS.Stream)
		}
	}
	if domain, ok := d.text(n, "domain"); ok {
		pos := n.pos("domain")
		if s.NATS.Domain, ok = d.expand(domain, pos, "domain"); ok && !validDomain(s.NATS.Domain) {
			d.fail(pos, "bad-name", "use the domain as the server's configuration names it", "%q cannot be the name of a JetStream domain", s.NATS.Domain)
		}
	}
	for _, subject := range d.texts(n, "subjects") {
		text, ok := d.expand(subject.Value, subject.Pos, "subjects")
		if !ok {
			continue
		}
		if !validSubject(text) {
			d.fail(subject.Pos, "bad-subject", "write words with dots between them; * stands for one word, a last > for all that follow", "%q is no NATS subject", text)
			continue
		}
		s.NATS.Subjects = append(s.NATS.Subjects, text)
	}
	start, hasStart := d.text(n, "start")
	if hasStart {
		if start, ok := d.expand(start, n.pos("start"), "start"); ok {
			d.start(&s.NATS, start, n.pos("start"))
		}
	}
	switch {
	case n.Kind != KindMap:
	case s.NATS.Core && n.has("stream"):
		d.fail(n.pos("stream"), "core-with-stream", "leave out one of the two", "a source is either core or a stream, not both")
	case s.NATS.Core && n.has("domain"):
		d.fail(n.pos("domain"), "core-with-domain", "leave it out, or name a stream", `a core source has no "domain": plain NATS knows none`)
	case s.NATS.Core && d.empty(n, "subjects"):
		d.fail(where.Pos, "missing-key", "add subjects: [a.subject]", `a core source needs "subjects"`)
	case s.NATS.Core && hasStart:
		d.fail(n.pos("start"), "core-with-start", "leave it out, or name a stream", `a core source has no "start": plain NATS keeps nothing`)
	case !s.NATS.Core && !n.has("stream"):
		d.fail(where.Pos, "missing-key", "add stream: NAME, or core: true for plain NATS", `nats needs "stream"`)
	}
	d.file.Sources = append(d.file.Sources, s)
}

// validDomain says whether s can be a token of a subject.
func validDomain(s string) bool {
	return s != "" && !strings.ContainsAny(s, ".*>") && !strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) })
}

func (d *decoder) start(n *SourceNATS, text string, pos Pos) {
	switch s := Start(text); s {
	case StartNew, StartAll:
		n.Start = s
		return
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			n.Start, n.StartAt = StartTime, at
			return
		}
	}
	d.fail(pos, "bad-start", "write new, all, or a time such as 2026-01-02T15:04:05Z", "%q is no place to start from", text)
}

// secret is a text that must not be quoted. spaces permits them inside.
func (d *decoder) secret(t Typed, key string, spaces bool) (Secret, bool) {
	text, ok := d.expand(t.Value, t.Pos, key)
	switch {
	case !ok:
		return "", false
	case text == "" || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' && (r != ' ' || !spaces) || unicode.IsControl(r) }):
		d.fail(t.Pos, "bad-secret", "", "%q must not be empty, and must hold no spaces or line breaks", key)
		return "", false
	case text == t.Value:
		d.warn(t.Pos, "secret-in-file", fmt.Sprintf(`set a variable and write %s: "${NAME}"`, key), "%q stands in the file for everybody to read", key)
	}
	return Secret(text), true
}

func (d *decoder) connections(v Value) {
	if v.Kind != KindMap {
		d.fail(v.Pos, "wrong-type", "write name: {key: …}", `"connections" must be a mapping, not %s`, v.what())
		return
	}
	for _, e := range v.Map {
		c := Connection{Pos: e.Pos, Name: e.Key}
		d.checkName(e.Key, e.Pos)
		o := d.object(e.Value, fmt.Sprintf("connection %q", e.Key), "id", "key", "tenant")
		c.Key, c.ID = d.selector(o, "key"), d.selector(o, "id")
		if e.Value.Kind == KindMap {
			d.exactlyOne(o, fmt.Sprintf("connection %q", e.Key), "key", "id")
		}
		if tenant, ok := o.get("tenant"); ok {
			if _, isText := d.text(o, "tenant"); isText {
				c.Tenant = tenant
			}
		}
		d.file.Connections = append(d.file.Connections, c)
	}
}

// selector is what Membrane knows a connection by.
func (d *decoder) selector(o object, key string) string {
	text, ok := d.text(o, key)
	if !ok {
		return ""
	}
	text, ok = d.expand(text, o.pos(key), key)
	if ok && strings.TrimSpace(text) == "" {
		d.fail(o.pos(key), "bad-value", "", "%q must not be empty", key)
	}
	return text
}

func (d *decoder) route(v Value, at string) {
	if name, ok := v.at("name").Scalar.(string); ok && entryName.MatchString(name) {
		at = fmt.Sprintf("route %q", name)
	}
	o := d.object(v, at, "name", "formerly", "on", "filters", "run", "request", "connection", "input", "ttl", "retry", "on_unknown", "proxy_forwards", "replies", "at_most", "then", "result", "tests")
	if v.Kind != KindMap {
		return
	}
	r := Route{Pos: v.Pos, OnUnknown: OnUnknownHold}
	r.Name = d.name(o, "name")
	if r.Name == "run" {
		d.fail(o.pos("name"), "reserved-name", "choose another name", `the route name "run" is taken by the built-in route for commands`)
	}
	if o.has("formerly") {
		if r.Formerly = d.name(o, "formerly"); r.Formerly != "" && r.Formerly == r.Name {
			d.fail(o.pos("formerly"), "bad-formerly", "leave it out", "%s cannot have been renamed from its own name", at)
		}
	}

	for _, on := range d.texts(o, "on") {
		if !validType(on.Value) {
			d.fail(on.Pos, "bad-type", "write a whole type, or the beginning of one and .*", "%q is no event type to match", on.Value)
			continue
		}
		r.On = append(r.On, on)
	}
	for i, filter := range d.items(o, "filters") {
		if filter.Kind != KindMap {
			d.fail(filter.Pos, "wrong-type", `write a dialect and its condition, such as {sql: "subject LIKE 'a%'"}`, "filters[%d] must be a mapping, not %s", i, filter.what())
			continue
		}
		r.Filters = append(r.Filters, filter)
	}
	if d.empty(o, "on") && d.empty(o, "filters") {
		d.fail(v.Pos, "missing-on", `say which events it is for with "on" or "filters"; on: "*" takes every event`, `%s has neither "on" nor "filters"`, at)
	}

	if o.has("request") {
		d.request(&r, o)
	} else {
		d.run(o, &r.RunKey, &r.RunID, &r.RunPos)
	}
	if name, ok := d.text(o, "connection"); ok {
		r.Connection, r.ConnectionPos = name, o.pos("connection")
	}
	r.Input = d.input(o)
	r.TTL = d.duration(o, "ttl", 0)
	d.retry(&r.Retry, o)
	if r.TTL > 0 && r.Retry.Max > r.TTL && v.at("retry", "backoff", "max").Kind != KindNone {
		d.warn(o.pos("ttl"), "bad-nesting", "shorten retry.backoff.max, or lengthen the ttl",
			"the ttl (%s) is shorter than the longest wait between attempts (max: %s)", FormatDuration(r.TTL), FormatDuration(r.Retry.Max))
	}
	if text, ok := d.text(o, "on_unknown"); ok {
		switch u := OnUnknown(text); u {
		case OnUnknownHold, OnUnknownRetry:
			r.OnUnknown = u
		default:
			d.fail(o.pos("on_unknown"), "bad-value", "write hold or retry", `"on_unknown" is %q, and must be hold or retry`, text)
		}
	}
	r.ProxyForwards = d.boolean(o, "proxy_forwards")
	if o.has("replies") {
		r.Replies, r.RepliesPos = d.boolean(o, "replies"), o.pos("replies")
	}
	d.atMost(&r.AtMost, o)
	r.Then = d.then(o)
	d.result(&r, o)
	for i, test := range d.items(o, "tests") {
		d.test(&r, test, fmt.Sprintf("tests[%d]", i))
	}
	d.file.Routes = append(d.file.Routes, r)
}

// run is an action's key, or a mapping with its key or id.
func (d *decoder) run(o object, key, id *string, pos *Pos) {
	v, ok := d.required(o, "run")
	if !ok {
		return
	}
	*pos = v.Pos
	if v.Kind != KindMap {
		*key, _ = d.text(o, "run")
	} else {
		run := d.object(v, "run", "id", "key")
		*id, _ = d.text(run, "id")
		*key, _ = d.text(run, "key")
		if !d.exactlyOne(run, "run", "key", "id") {
			return
		}
	}
	if name := *key + *id; strings.ContainsFunc(name, unicode.IsSpace) {
		d.fail(v.Pos, "bad-name", "", "%q cannot be the name of an action", name)
	} else if s, isText := v.Scalar.(string); isText && s == "" {
		d.fail(v.Pos, "bad-name", "name an action, such as send-sms", `"run" must not be empty`)
	}
}

// input is a mapping, empty if there is none.
func (d *decoder) input(o object) Value {
	input, ok := o.get("input")
	switch {
	case !ok:
	case input.Kind != KindMap:
		d.fail(input.Pos, "wrong-type", "write the action's fields, one a line", `"input" must be a mapping, not %s`, input.what())
	default:
		return input
	}
	return Value{Pos: o.Pos, Kind: KindMap}
}

// The pauses between two polls of a follow-up, and how long it may take.
// Receipts come for 48 hours (source: 8x8's delivery receipts for outbound SMS).
const (
	defaultPollInitial     = 5 * time.Second
	defaultPollMax         = time.Minute
	defaultPollDeadline    = time.Hour
	defaultReceiptDeadline = 48 * time.Hour
)

// then is a route's follow-up; nil if it has none.
func (d *decoder) then(route object) *Then {
	v, ok := route.get("then")
	if !ok {
		return nil
	}
	o := d.object(v, "then", "run", "input", "until", "fails", "backoff", "deadline")
	if v.Kind != KindMap {
		return nil
	}
	t := &Then{Pos: v.Pos, Input: d.input(o)}
	t.Until, _ = d.required(o, "until")
	d.text(o, "until")
	d.text(o, "fails")
	t.Fails, _ = o.get("fails")
	deadline := defaultPollDeadline
	if o.has("run") {
		d.run(o, &t.RunKey, &t.RunID, &t.RunPos)
	} else {
		deadline = defaultReceiptDeadline
		for _, key := range []string{"input", "fails"} {
			if o.has(key) {
				d.fail(o.pos(key), "bad-follow-up", "name the action that is polled with run, or leave this out to await a delivery receipt", `"then" has %q, and no "run"`, key)
			}
		}
	}
	d.backoff(o, &t.Initial, &t.Max, defaultPollInitial, defaultPollMax)
	t.Deadline = d.duration(o, "deadline", max(deadline, 2*t.Initial))
	if t.Deadline < t.Initial {
		d.fail(o.pos("deadline"), "bad-nesting", "lengthen the deadline, or shorten backoff.initial",
			"the deadline (%s) ends before the first look (backoff.initial: %s)", FormatDuration(t.Deadline), FormatDuration(t.Initial))
	}
	return t
}

func (d *decoder) retry(r *Retry, route object) {
	*r = Retry{Attempts: defaultAttempts, Initial: defaultRetryInitial, Max: defaultRetryMax}
	v, ok := route.get("retry")
	if !ok {
		return
	}
	o := d.object(v, "retry", "attempts", "backoff")
	if o.has("attempts") {
		if n := d.count(o, "attempts", maxAttempts, "1 means no second attempt"); n > 0 {
			r.Attempts = n
		}
	}
	d.backoff(o, &r.Initial, &r.Max, defaultRetryInitial, defaultRetryMax)
}

func (d *decoder) backoff(o object, initial, most *time.Duration, defaultInitial, defaultMost time.Duration) {
	*initial, *most = defaultInitial, defaultMost
	backoff, ok := o.get("backoff")
	if !ok {
		return
	}
	b := d.object(backoff, "backoff", "initial", "max")
	// One of the two alone moves the default of the other, if need be.
	*initial = d.duration(b, "initial", min(defaultInitial, d.quietDuration(b, "max", defaultInitial)))
	*most = d.duration(b, "max", max(defaultMost, *initial))
	if *most < *initial {
		d.fail(b.pos("max"), "bad-nesting", "", "the longest wait (max: %s) is shorter than the first (initial: %s)", FormatDuration(*most), FormatDuration(*initial))
	}
}

const (
	maxTimes = 100
	maxEvery = 30 * 24 * time.Hour
)

func (d *decoder) atMost(a *AtMost, route object) {
	v, ok := route.get("at_most")
	if !ok {
		return
	}
	o := d.object(v, "at_most", "per", "times", "every")
	if v.Kind != KindMap {
		return
	}
	a.Per, _ = o.get("per")
	if _, ok := d.required(o, "times"); ok {
		a.Times = d.count(o, "times", maxTimes, "to let nothing through, remove the route")
	}
	if every, ok := d.required(o, "every"); ok {
		a.Every = d.duration(o, "every", time.Hour)
		if a.Every < time.Second || a.Every > maxEvery {
			d.fail(every.Pos, "bad-value", "", `"every" is %s, and must be 1s to %s`, FormatDuration(a.Every), FormatDuration(maxEvery))
		}
	}
}

// count is a whole number from 1 to most; 0 if it is wrong.
func (d *decoder) count(o object, key string, most int, hint string) int {
	v, _ := o.get(key)
	n, isInt := v.Scalar.(int)
	_, isFloat := v.Scalar.(float64)
	switch {
	case isFloat:
		d.fail(v.Pos, "wrong-type", "", `%q is %v, which is no whole number`, key, v.Scalar)
	case !isInt:
		d.fail(v.Pos, "wrong-type", "", `%q must be a whole number, not %s`, key, v.what())
	case n < 1 || n > most:
		d.fail(v.Pos, "bad-value", hint, `%q is %d, and must be 1 to %d`, key, n, most)
	default:
		return n
	}
	return 0
}

func (d *decoder) test(r *Route, v Value, at string) {
	o := d.object(v, at, "name", "event", "input", "no_match")
	if v.Kind != KindMap {
		return
	}
	t := RouteTest{Pos: v.Pos}
	t.Name, _ = d.text(o, "name")
	t.NoMatch = d.boolean(o, "no_match")
	if event, ok := d.required(o, "event"); ok {
		t.Event = d.plainMap(o, "event")
		d.attributes(event)
	}
	t.Input = d.plainMap(o, "input")
	switch {
	case t.NoMatch && o.has("input"):
		d.fail(o.pos("input"), "bad-test", "leave out one of the two", `a test with no_match has no "input"`)
	case !t.NoMatch && !o.has("input"):
		d.fail(v.Pos, "missing-key", "write the input that the event must give, or no_match: true", `%s has no "input"`, at)
	}
	r.Tests = append(r.Tests, t)
}

// attributes checks the attributes of a CloudEvent that have to be there, and
// those that have to be text, which "id: 1" is not.
func (d *decoder) attributes(event Value) {
	if event.Kind != KindMap {
		return
	}
	o := object{Value: event, called: "the event"}
	for _, key := range []string{"id", "source", "type"} {
		d.required(o, key)
	}
	for _, key := range []string{"id", "source", "type", "specversion", "subject", "time", "datacontenttype", "dataschema"} {
		d.text(o, key)
	}
}

// checkNames looks at what has to be unique, or has to exist, across the file.
func (d *decoder) checkNames() {
	sources, webhooks, routes := map[string]Pos{}, map[string]Pos{}, map[string]Pos{}
	unique := func(what, name string, pos Pos, seen map[string]Pos) {
		if name == "" {
			return
		}
		if first, twice := seen[name]; twice {
			d.fail(pos, "duplicate-name", "first used at "+first.String(), "the %s name %q is used twice", what, name)
			return
		}
		seen[name] = pos
	}
	for _, s := range d.file.Sources {
		unique("source", s.Name, s.Pos, sources)
	}
	for _, w := range d.file.Webhooks {
		unique("webhook", w.Name, w.Pos, webhooks)
	}
	for _, r := range d.file.Routes {
		unique("route", r.Name, r.Pos, routes)
	}

	var connections []string
	for _, c := range d.file.Connections {
		connections = append(connections, c.Name)
	}
	formerly := map[string]Pos{}
	for _, r := range d.file.Routes {
		if r.ConnectionPos.Line > 0 && !slices.Contains(connections, r.Connection) {
			hint := "add it under connections:"
			if near := Nearest(r.Connection, connections); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			} else if len(connections) > 0 {
				hint = "the file has " + strings.Join(connections, ", ")
			}
			d.fail(r.ConnectionPos, "unknown-connection", hint, "there is no connection %q", r.Connection)
		}
		if r.Formerly == "" || r.Formerly == r.Name {
			continue
		}
		if other, taken := routes[r.Formerly]; taken {
			d.fail(r.Pos, "bad-formerly", "the other route is at "+other.String(), "route %q cannot have been %q, since another route has that name", r.Name, r.Formerly)
		}
		if other, taken := formerly[r.Formerly]; taken {
			d.fail(r.Pos, "bad-formerly", "the other route is at "+other.String(), "route %q cannot have been %q, since another route was", r.Name, r.Formerly)
		} else {
			formerly[r.Formerly] = r.Pos
		}
	}
}

// object is a mapping whose keys have been checked.
type object struct {
	Value
	called string // what messages call it
}

// object checks that v is a mapping with no keys but these.
func (d *decoder) object(v Value, called string, keys ...string) object {
	if v.Kind != KindMap {
		d.fail(v.Pos, "wrong-type", "", "%s must be a mapping with %s, not %s", called, andList(keys), v.what())
		return object{Value: Value{Pos: v.Pos}, called: called}
	}
	for _, e := range v.Map {
		if slices.Contains(keys, e.Key) {
			continue
		}
		hint := "known keys are " + andList(keys)
		if near := Nearest(e.Key, keys); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		d.fail(e.Pos, "unknown-key", hint, "%s has no key %q", called, e.Key)
	}
	return object{Value: v, called: called}
}

func andList(words []string) string {
	last := len(words) - 1
	if last == 0 {
		return words[0]
	}
	return strings.Join(words[:last], ", ") + " and " + words[last]
}

// get finds what is set: a key without a value is not.
func (o object) get(key string) (Value, bool) {
	v, ok := o.Get(key)
	return v, ok && !(v.Kind == KindScalar && v.Scalar == nil)
}

func (o object) has(key string) bool {
	_, ok := o.get(key)
	return ok
}

// pos is where the value of a key is, or else the object.
func (o object) pos(key string) Pos {
	if v, ok := o.Get(key); ok {
		return v.Pos
	}
	return o.Pos
}

func (d *decoder) required(o object, key string) (Value, bool) {
	v, ok := o.get(key)
	if !ok && o.Kind == KindMap {
		d.fail(o.pos(key), "missing-key", "", "%s has no %q", o.called, key)
	}
	return v, ok
}

// empty tells whether a key is missing or an empty list.
func (d *decoder) empty(o object, key string) bool {
	v, ok := o.get(key)
	return !ok || v.Kind == KindList && len(v.List) == 0
}

func (d *decoder) exactlyOne(o object, called, a, b string) bool {
	if o.Kind != KindMap || o.has(a) != o.has(b) {
		return true
	}
	if o.has(a) {
		d.fail(o.Pos, "key-and-id", "leave out one of the two", "%s has both %q and %q", called, a, b)
	} else {
		d.fail(o.Pos, "missing-key", "", "%s needs %q or %q", called, a, b)
	}
	return false
}

func (d *decoder) text(o object, key string) (string, bool) {
	v, ok := o.get(key)
	if !ok {
		return "", false
	}
	text, ok := v.Scalar.(string)
	if !ok {
		d.wrongType(v, key, "text")
	}
	return text, ok
}

func (d *decoder) wrongType(v Value, key, want string) {
	hint := ""
	if v.Kind == KindScalar && strings.HasPrefix(want, "text") {
		hint = "put it in quotes"
	}
	d.fail(v.Pos, "wrong-type", hint, "%q must be %s, not %s", key, want, v.what())
}

// texts is a text or a list of texts.
func (d *decoder) texts(o object, key string) []Typed {
	v, ok := o.get(key)
	if !ok {
		return nil
	}
	if v.Kind != KindList {
		text, ok := v.Scalar.(string)
		if !ok {
			d.wrongType(v, key, "text or a list of texts")
			return nil
		}
		return []Typed{{Pos: v.Pos, Value: text}}
	}
	var texts []Typed
	for i, item := range v.List {
		text, ok := item.Scalar.(string)
		if !ok {
			d.wrongType(item, fmt.Sprintf("%s[%d]", key, i), "text")
			continue
		}
		texts = append(texts, Typed{Pos: item.Pos, Value: text})
	}
	return texts
}

func (d *decoder) items(o object, key string) []Value {
	v, ok := o.get(key)
	if ok && v.Kind != KindList {
		d.fail(v.Pos, "wrong-type", "begin each entry with -", "%q must be a list, not %s", key, v.what())
	}
	return v.List
}

func (d *decoder) boolean(o object, key string) bool {
	v, ok := o.get(key)
	if !ok {
		return false
	}
	b, ok := v.Scalar.(bool)
	if !ok {
		d.fail(v.Pos, "wrong-type", "write true or false, without quotes", "%q must be true or false, not %s", key, v.what())
	}
	return b
}

func (d *decoder) plainMap(o object, key string) map[string]any {
	v, ok := o.get(key)
	if !ok {
		return nil
	}
	m, ok := v.Plain().(map[string]any)
	if !ok {
		d.fail(v.Pos, "wrong-type", "", "%q must be a mapping, not %s", key, v.what())
	}
	return m
}

// duration is longer than nothing.
func (d *decoder) duration(o object, key string, otherwise time.Duration) time.Duration {
	v, ok := o.get(key)
	if !ok {
		return otherwise
	}
	const hint = "write numbers with units, such as 30s, 15m or 7d"
	switch scalar := v.Scalar.(type) {
	case string:
		if parsed, err := ParseDuration(scalar); err != nil {
			d.fail(v.Pos, "bad-duration", hint, "%q is %q, which is no duration", key, scalar)
		} else if parsed <= 0 {
			d.fail(v.Pos, "bad-duration", "", "%q is %q, and must be longer than nothing", key, scalar)
		} else {
			return parsed
		}
	case nil, bool:
		d.wrongType(v, key, "a duration")
	default:
		d.fail(v.Pos, "bad-duration", hint, "%q is %v, a number without a unit", key, scalar)
	}
	return otherwise
}

// quietDuration is a duration whose problems are reported elsewhere.
func (d *decoder) quietDuration(o object, key string, otherwise time.Duration) time.Duration {
	quiet := decoder{file: d.file}
	return quiet.duration(o, key, otherwise)
}

var entryName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// name is a required name that can be part of a subject or a path; "" if it is wrong.
func (d *decoder) name(o object, key string) string {
	v, ok := d.required(o, key)
	if !ok {
		return ""
	}
	text, ok := d.text(o, key)
	if !ok || !d.checkName(text, v.Pos) {
		return ""
	}
	return text
}

func (d *decoder) checkName(name string, pos Pos) bool {
	if entryName.MatchString(name) {
		return true
	}
	d.fail(pos, "bad-name", "use up to 63 small letters, digits and '-', the first a letter or digit", "%q cannot be part of a subject or an address", name)
	return false
}

// validType tells whether s is an event type, or the beginning of one and ".*",
// or "*" for all of them.
func validType(s string) bool {
	if s == "*" {
		return true
	}
	s = strings.TrimSuffix(s, ".*")
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r == '*' || unicode.IsSpace(r) || unicode.IsControl(r) })
}

func validSubject(s string) bool {
	words := strings.Split(s, ".")
	for i, word := range words {
		switch {
		case word == "" || strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || unicode.IsSpace(r) }):
			return false
		case strings.ContainsAny(word, "*>") && word != "*" && !(word == ">" && i == len(words)-1):
			return false
		}
	}
	return true
}

var reference = regexp.MustCompile(`\$?\$\{[^}]*\}?`)

var referenceName = regexp.MustCompile(`^\$\{([A-Z_][A-Z0-9_]*)(?::([^}]*))?\}$`)

// secretFile is the content of the file that a variable names; "" if it names none.
func (d *decoder) secretFile(variable string, pos Pos) (text string, failed bool) {
	path, _ := d.lookup(variable)
	if path == "" {
		return "", false
	}
	d.file.SecretFiles = append(d.file.SecretFiles, path)
	text, err := readSecretFile(path)
	if err != nil {
		d.fail(pos, "secret-file", "", "the variable %s names the file %q, which cannot be used: %v", variable, path, err)
	}
	return text, err != nil
}

// expand puts the values of variables where ${NAME} or ${NAME:default} stands;
// $${ stands for ${ itself. Values are never quoted.
func (d *decoder) expand(text string, pos Pos, key string) (string, bool) {
	ok := true
	expanded := reference.ReplaceAllStringFunc(text, func(ref string) string {
		if strings.HasPrefix(ref, "$$") {
			return ref[1:]
		}
		m := referenceName.FindStringSubmatch(ref)
		if m == nil {
			ok = false
			d.fail(pos, "bad-reference", "write ${NAME} or ${NAME:default} with capitals, digits and '_'; $${ stands for ${ itself",
				"%q holds a ${ } that names no variable", key)
			return ""
		}
		name, hasDefault := m[1], strings.Contains(ref, ":")
		value, set := "", false
		if d.lookup != nil {
			value, set = d.lookup(name)
			if value == "" {
				var failed bool
				if value, failed = d.secretFile(name+"_FILE", pos); failed {
					ok = false
					return ""
				}
			}
		}
		switch {
		case value != "":
			return value
		case hasDefault:
			return m[2]
		case set:
			d.fail(pos, "unset-variable", "give it a value, or write a default: ${"+name+":default}", "the variable %s is set but empty", name)
		default:
			d.fail(pos, "unset-variable", "set it, or write a default: ${"+name+":default}", "the variable %s is not set", name)
		}
		ok = false
		return ""
	})
	return expanded, ok
}
