// Package asyncapi describes what one bridge takes and publishes as an AsyncAPI 3
// document: its channels, and a JSON Schema for each type of event. The names and
// schemas are those that the bridge itself works with.
package asyncapi

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/bus"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/native"
	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// Options are the bridge that is described.
type Options struct {
	Env     *config.Env
	File    *config.File
	Table   *handlers.Table // of File
	Catalog *catalog.Catalog
	Version string
}

// The parts of an AsyncAPI document that are used here; see its specification, 3.0.0.
type (
	object  = map[string]any
	members struct {
		AsyncAPI           string `json:"asyncapi"`
		Info               object `json:"info"`
		DefaultContentType string `json:"defaultContentType"`
		Servers            object `json:"servers,omitempty"`
		Channels           object `json:"channels"`
		Operations         object `json:"operations"`
		Components         object `json:"components"`
	}
)

// describer writes one document.
type describer struct {
	Options
	names bus.Names
	doc   members
}

// Document describes a bridge, as JSON. It holds no secrets: of addresses that may
// have one in them, only the host is shown.
func Document(o Options) ([]byte, error) {
	b := o.Env.Bridge
	d := describer{Options: o, names: bus.NewNames(b.Prefix), doc: members{
		AsyncAPI: "3.0.0",
		Info: object{
			"title": b.Name, "version": o.Version,
			"description": "What the bridge " + b.Name + " takes and publishes. Each event is a CloudEvent: consumers tell repetitions by source and id, " +
				"and what an event answers by causationsource and causationid.",
		},
		DefaultContentType: cloudevent.ContentTypeStructured,
		Servers:            object{}, Channels: object{}, Operations: object{},
		Components: object{"messages": object{}, "schemas": object{"CloudEvent": envelope(), "Result": resultSchema()}},
	}}
	d.servers()
	d.fromEightByEight()
	d.taken()
	d.results()
	d.deadLetters()
	d.requests()
	d.webhooks()
	d.toSink()
	return json.MarshalIndent(d.doc, "", "  ")
}

func (d *describer) servers() {
	b := d.Env.Bridge
	host := b.NATSAddr
	if !d.Env.NATS.Embedded() {
		first, _, _ := strings.Cut(d.Env.NATS.URL, ",")
		if !strings.Contains(first, "://") {
			first = "nats://" + first
		}
		if u, err := url.Parse(strings.TrimSpace(first)); err == nil {
			host = u.Host
		}
	}
	if host == "" {
		host = "localhost:4222" // an embedded server that listens to nobody
	}
	d.doc.Servers["nats"] = object{"host": host, "protocol": "nats", "description": "NATS with JetStream"}
	if b.HTTPAddr != "" {
		d.doc.Servers["http"] = object{"host": b.HTTPAddr, "protocol": "http", "description": "the public listener, BRIDGE_HTTP_ADDR"}
	}
	if b.SinkURL != "" {
		if u, err := url.Parse(b.SinkURL); err == nil {
			d.doc.Servers["sink"] = object{"host": u.Host, "protocol": u.Scheme, "description": "the sink, BRIDGE_SINK_URL"}
		}
	}
}

func ref(path ...string) object {
	for i := range path {
		path[i] = strings.NewReplacer("~", "~0", "/", "~1").Replace(path[i])
	}
	return object{"$ref": "#/" + strings.Join(path, "/")}
}

// id makes of a name one that AsyncAPI takes for a key.
func id(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, name)
}

// message adds a message of a type of event, in one of the content modes, and
// returns its name. typ may end in "*". data is the schema of its data; nil for
// any. extensions are those that it always has.
func (d *describer) message(name, typ, summary string, mode cloudevent.Mode, data any, extensions ...string) string {
	properties := object{}
	switch family, isFamily := strings.CutSuffix(typ, "*"); {
	case typ == "":
	case isFamily:
		properties["type"] = object{"type": "string", "pattern": "^" + strings.ReplaceAll(family, ".", `\.`) + "."}
	default:
		properties["type"] = object{"type": "string", "const": typ}
	}
	for _, x := range extensions {
		properties[x] = object{"type": "string", "minLength": 1}
	}
	m := object{"name": name, "title": typ, "summary": summary}
	if typ == "" {
		delete(m, "title")
	}
	if mode == cloudevent.Binary {
		headers := object{}
		for attribute, schema := range properties {
			headers["ce-"+attribute] = schema
		}
		for _, attribute := range []string{"specversion", "id", "source"} {
			headers["ce-"+attribute] = object{"type": "string", "minLength": 1}
		}
		required := []string{"ce-specversion", "ce-id", "ce-source", "ce-type"}
		for _, x := range extensions {
			required = append(required, "ce-"+x)
		}
		m["contentType"] = "application/json"
		m["headers"] = object{"type": "object", "required": required, "properties": headers}
		if data == nil {
			data = object{}
		}
		m["payload"] = data
	} else {
		if data != nil {
			properties["data"] = data
		}
		own := object{"type": "object", "properties": properties}
		if len(extensions) > 0 {
			own["required"] = extensions
		}
		m["contentType"] = cloudevent.ContentTypeStructured
		m["payload"] = object{"allOf": []any{ref("components", "schemas", "CloudEvent"), own}}
	}
	d.doc.Components["messages"].(object)[name] = m
	return name
}

// channel adds a channel. address nil is one that only the request tells.
func (d *describer) channel(name string, server string, address any, title, description string, messages []string, more object) {
	of := object{}
	for _, m := range messages {
		of[m] = ref("components", "messages", m)
	}
	c := object{"address": address, "title": title, "messages": of}
	if description != "" {
		c["description"] = description
	}
	if server != "" {
		c["servers"] = []any{ref("servers", server)}
	}
	maps.Copy(c, more)
	d.doc.Channels[name] = c
}

// operation adds what the bridge does with a channel: it receives, or it sends.
func (d *describer) operation(name, action, channel, summary string, more object) {
	o := object{"action": action, "channel": ref("channels", channel), "summary": summary}
	maps.Copy(o, more)
	d.doc.Operations[name] = o
}

func post() object { return object{"bindings": object{"http": object{"method": "POST"}}} }

// causation are the extensions of what answers an event.
var causation = []string{"causationid", "causationsource", "correlationid"}

func nativeName(s native.Schema) string {
	return strings.TrimSuffix(strings.TrimPrefix(s.Type, "com.8x8."), ".*")
}

// fromEightByEight are the events that 8x8's webhooks become.
func (d *describer) fromEightByEight() {
	for _, s := range native.Schemas() {
		short := nativeName(s)
		name := d.message("8x8."+short, s.Type, titleOf(s.Data), cloudevent.Structured, s.Data)
		address, more := d.names.EventSubject(strings.TrimSuffix(s.Type, ".*")), object(nil)
		if strings.HasSuffix(s.Type, "*") {
			address += ".{event}"
			more = object{"parameters": object{"event": object{"description": "what happened: 8x8's own word in small letters"}}}
		}
		d.channel("8x8."+short, "nats", address, s.Type, "In the stream "+d.names.Events()+". "+titleOf(s.Data)+
			" One that is about a message that the bridge sent has the extensions causationid, causationsource and correlationid.", []string{name}, more)
		d.operation("publish.8x8."+short, "send", "8x8."+short, "what 8x8 said", nil)
	}
}

func titleOf(schema json.RawMessage) string {
	var s struct {
		Description string `json:"description"`
	}
	_ = json.Unmarshal(schema, &s) // made by us
	return s.Description
}

// taken are the events that routes take, wherever they come from.
func (d *describer) taken() {
	every := d.message("event", "", "Any CloudEvent.", cloudevent.Structured, nil)
	d.channel("events", "nats", d.names.EventSubject("")+"{type}", "events to be taken", "The stream "+d.names.Events()+
		", where producers publish any CloudEvent, in structured or binary mode.", []string{every},
		object{"parameters": object{"type": object{"description": "the event's type; what a subject cannot hold becomes _"}}})
	d.operation("take.events", "receive", "events", "each event runs the routes that match it", nil)
	types := map[string][]string{}
	var all []string
	for _, r := range d.File.Routes {
		for _, on := range r.On {
			if types[on.Value] = append(types[on.Value], r.Name); !slices.Contains(all, on.Value) {
				all = append(all, on.Value)
			}
		}
	}
	var messages []string
	for _, typ := range all {
		if _, ours := native.SchemaOf(typ); ours || strings.HasSuffix(typ, "*") {
			continue // it is above, or any
		}
		name := d.message("taken."+id(typ), typ, "Runs the route "+strings.Join(types[typ], " and the route ")+".", cloudevent.Structured, nil)
		messages = append(messages, name)
		d.channel("events."+id(typ), "nats", d.names.EventSubject(typ), typ, "In the stream "+d.names.Events()+".", []string{name}, nil)
		d.operation("take."+id(typ), "receive", "events."+id(typ), "runs the route "+strings.Join(types[typ], " and the route "), nil)
	}
	if d.Env.Bridge.HTTPAddr != "" {
		d.channel("http.events", "http", "/events", "events over HTTP", "Binary, structured and batched mode. 202 once every event is stored.", append([]string{every}, messages...), nil)
		d.operation("take.http.events", "receive", "http.events", "stores an event", post())
	}
	for _, s := range d.File.Sources {
		subjects := s.NATS.Subjects
		if len(subjects) == 0 {
			subjects = []string{">"}
		}
		for i, subject := range subjects {
			name := "source." + s.Name
			if len(subjects) > 1 {
				name += "." + strconv.Itoa(i+1)
			}
			where := "Of the stream " + s.NATS.Stream + "."
			if s.NATS.Core {
				where = "Plain NATS: at most once, until it is stored."
			}
			d.channel(name, "nats", subject, "source "+s.Name, where, append([]string{every}, messages...), nil)
			d.operation("take."+name, "receive", name, "each event runs the routes that match it", nil)
		}
	}
}

func (d *describer) mode() cloudevent.Mode { return cloudevent.Mode(d.Env.Bridge.Encoding) }

// results are the outcomes of each action, in the forms that its routes give them.
func (d *describer) results() {
	var actions []string
	standard, shaped := map[string]bool{}, map[string][]string{} // by action and state
	output := map[string]*catalog.Schema{}
	for _, h := range d.Table.Handlers() {
		if h.Action == nil {
			continue
		}
		action := h.Action.Key
		if action == "" {
			action = h.Action.ID
		}
		if !slices.Contains(actions, action) {
			actions, output[action] = append(actions, action), h.Action.Output
		}
		for _, state := range []bridge.State{bridge.Succeeded, bridge.Failed} {
			of := action + "." + string(state)
			standard[of] = true // also of a route with a shape, where that fails
			look, ok := h.ResultLook(state == bridge.Succeeded)
			if !ok {
				continue
			}
			typ := look.Type
			if typ == "" {
				typ = bridge.ResultType(action, state)
			}
			data := look.Data
			if data == nil {
				data = resultOf(state, action, h.Action.Output)
			}
			shaped[of] = append(shaped[of], d.message("result."+id(h.Name)+"."+string(state), typ, "The result of the route "+h.Name+".", d.mode(), data, causation...))
		}
	}
	slices.Sort(actions)
	for _, action := range actions {
		for _, state := range []bridge.State{bridge.Succeeded, bridge.Failed} {
			of := action + "." + string(state)
			messages := shaped[of]
			if standard[of] {
				messages = append(messages, d.message("result."+id(of), bridge.ResultType(action, state), "How "+action+" ended for one event and one route.",
					d.mode(), resultOf(state, action, output[action]), causation...))
			}
			d.channel("results."+id(of), "nats", d.names.ResultSubject(action, string(state)), bridge.ResultType(action, state),
				"In the stream "+d.names.Results()+". The id follows from the event and the route: the same outcome has the same id however often it is published.", messages, nil)
			d.operation("publish.results."+id(of), "send", "results."+id(of), "an outcome", nil)
		}
	}
}

func (d *describer) deadLetters() {
	var reasons []string
	for _, r := range bridge.Reasons {
		reasons = append(reasons, string(r))
	}
	header := func(what string) object { return object{"type": "string", "description": what} }
	d.doc.Components["messages"].(object)["dead.letter"] = object{
		"name": "dead.letter", "summary": "An event that was given up on, untouched, with the bridge's facts in headers.",
		"payload": object{},
		"headers": object{"type": "object", "required": []string{bus.HeaderReason, bus.HeaderAt}, "properties": object{
			bus.HeaderReason:   object{"type": "string", "enum": reasons},
			bus.HeaderMessage:  header("why, in words"),
			bus.HeaderRoute:    header("the route"),
			bus.HeaderAction:   header("what it runs"),
			bus.HeaderKey:      header("of the ledger's record"),
			bus.HeaderAttempts: header("how many there were"),
			bus.HeaderAt:       header("when it was given up on"),
			bus.HeaderOrigin:   header("stream and sequence of the original"),
			bus.HeaderCauseID:  header("the event's id"), bus.HeaderCauseSrc: header("the event's source"), bus.HeaderCauseType: header("the event's type"),
		}},
	}
	d.channel("dead", "nats", d.names.DeadSubject("ROUTE", "REASON"), "dead letters", "In the stream "+d.names.Dead()+".", []string{"dead.letter"}, object{
		"parameters": object{"route": object{"description": "the route, or _"}, "reason": object{"description": "why", "enum": reasons}},
	})
	dead := d.doc.Channels["dead"].(object)
	dead["address"] = strings.NewReplacer("ROUTE", "{route}", "REASON", "{reason}").Replace(dead["address"].(string))
	d.operation("publish.dead", "send", "dead", "an event that a person should see", nil)
}

// requests are those for an action, and their replies.
func (d *describer) requests() {
	if !d.Env.Bridge.Commands {
		return
	}
	for _, a := range d.Catalog.All() {
		if a.Key == "" {
			continue
		}
		var input any = object{}
		if raw := a.Input.Raw(); raw != nil {
			input = jsonSchema(raw)
		}
		request := "request." + a.Key
		m := object{
			"name": request, "contentType": "application/json", "payload": input,
			"summary": "The input of " + a.Key + "; or a CloudEvent whose data is.",
			"headers": object{"type": "object", "properties": object{
				"ce-id":              object{"type": "string", "description": "tells the same request asked again"},
				"ce-source":          object{"type": "string", "description": "whose ids these are"},
				bridge.TimeoutHeader: object{"type": "string", "description": "how long the reply is waited for, such as 5s"},
			}},
		}
		if !a.Safe {
			m["headers"].(object)["required"] = []string{"ce-id"}
		}
		d.doc.Components["messages"].(object)[request] = m
		d.channel("run."+a.Key, "nats", d.names.RunSubject(a.Key), "requests for "+a.Key, a.Description, []string{request}, nil)
		var replies []string
		for _, state := range []bridge.State{bridge.Succeeded, bridge.Failed} {
			replies = append(replies, d.message("reply."+a.Key+"."+string(state), bridge.ResultType(a.Key, state), "The reply to a request for "+a.Key+".",
				d.mode(), resultOf(state, a.Key, a.Output), causation...))
		}
		d.channel("replies."+a.Key, "nats", nil, "replies of "+a.Key, "The subject that the request names. A failure has the headers "+
			bus.HeaderServiceError+" and "+bus.HeaderServiceErrorCode+".", replies, nil)
		d.operation("answer."+a.Key, "receive", "run."+a.Key, a.Description, object{"reply": object{"channel": ref("channels", "replies."+a.Key)}})
	}
}

func (d *describer) webhooks() {
	if d.Env.Bridge.HTTPAddr == "" {
		return
	}
	components := d.doc.Components["messages"].(object)
	components["webhook.8x8"] = object{
		"name": "webhook.8x8", "contentType": "application/json", "payload": object{},
		"summary": "Any of 8x8's webhooks; it becomes one of the events com.8x8.…",
	}
	d.channel("webhook.8x8", "http", "/webhooks/8x8/{secret}", "8x8's webhooks", "", []string{"webhook.8x8"},
		object{"parameters": object{"secret": object{"description": "BRIDGE_WEBHOOK_SECRET; leave it out where 8x8 proves itself in another way"}}})
	d.operation("take.webhook.8x8", "receive", "webhook.8x8", "stores what 8x8 says as an event", post())
	for _, w := range d.File.Webhooks {
		if w.Name == config.Native {
			continue
		}
		name, message := "webhook."+w.Name, "event"
		if w.Event != nil {
			message = name
			components[name] = object{"name": name, "payload": object{}, "summary": "A request that a CloudEvent is made of, as the configuration says."}
		}
		d.channel(name, "http", "/webhooks/"+w.Name, "webhook "+w.Name, "", []string{message}, nil)
		d.operation("take."+name, "receive", name, "stores an event", post())
	}
}

// toSink is what is posted to the sink: results, and what 8x8's webhooks become.
func (d *describer) toSink() {
	if d.Env.Bridge.SinkURL == "" {
		return
	}
	var messages []string
	for name := range d.doc.Components["messages"].(object) {
		if strings.HasPrefix(name, "result.") || strings.HasPrefix(name, "8x8.") {
			messages = append(messages, name)
		}
	}
	slices.Sort(messages)
	d.channel("sink", "sink", nil, "the sink", "The address that BRIDGE_SINK_URL holds. Events are posted in "+d.Env.Bridge.SinkEncoding+
		" mode, at least once each and in no order: tell repetitions by source and id.", messages, nil)
	d.operation("post.sink", "send", "sink", "results, and the events that 8x8's webhooks become", post())
}
