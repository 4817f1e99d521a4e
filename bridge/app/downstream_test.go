package app_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/bridge8x8/bridge8x8/bridge/asyncapi"
	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// described is the document that `bridge8x8 asyncapi --json` prints for a bridge.
func described(t *testing.T, environ map[string]string, yaml string) []byte {
	t.Helper()
	env, problems := config.LoadEnv(environ)
	if problems.Errors() {
		t.Fatal(problems)
	}
	file, problems := config.Parse("bridge.yaml", []byte(yaml), os.LookupEnv)
	if problems.Errors() {
		t.Fatal(problems)
	}
	table, problems := handlers.Compile(file, catalog.Builtin(), handlers.Options{Commands: env.Bridge.Commands, DefaultConnection: "c"})
	if problems.Errors() {
		t.Fatal(problems)
	}
	doc, err := asyncapi.Document(asyncapi.Options{Env: &env, File: file, Table: table, Catalog: catalog.Builtin(), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// downstream is a consumer that knows of a bridge what its AsyncAPI document says,
// and nothing else: it imports nothing of ours and guesses no name.
type downstream struct {
	t   *testing.T
	doc struct {
		Channels map[string]struct {
			Address  string
			Messages map[string]struct {
				Ref string `json:"$ref"`
			}
		}
		Operations map[string]struct {
			Action  string
			Channel struct {
				Ref string `json:"$ref"`
			}
		}
		Components struct {
			Messages map[string]struct{ Title string }
		}
	}
	compiler *jsonschema.Compiler

	mu     sync.Mutex
	events map[string]map[string]map[string]any // by title, then by source and id
}

func newDownstream(t *testing.T, doc []byte) *downstream {
	t.Helper()
	d := &downstream{t: t, compiler: jsonschema.NewCompiler(), events: map[string]map[string]map[string]any{}}
	if err := json.Unmarshal(doc, &d.doc); err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		t.Fatal(err)
	}
	d.compiler.DefaultDraft(jsonschema.Draft7)
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource("doc", value); err != nil {
		t.Fatal(err)
	}
	return d
}

// follow subscribes to the channels that the bridge sends on and that have a
// message of one of the titles, which are types of events.
func (d *downstream) follow(nc *nats.Conn, titles ...string) {
	d.t.Helper()
	for _, title := range titles {
		found := false
		for _, o := range d.doc.Operations {
			channel := d.doc.Channels[strings.TrimPrefix(o.Channel.Ref, "#/channels/")]
			schemas := map[string]*jsonschema.Schema{}
			wanted := false
			for _, m := range channel.Messages {
				name := strings.TrimPrefix(m.Ref, "#/components/messages/")
				s, err := d.compiler.Compile("doc" + m.Ref + "/payload")
				if err != nil {
					d.t.Fatal(err)
				}
				schemas[name] = s
				wanted = wanted || d.doc.Components.Messages[name].Title == title
			}
			if o.Action != "send" || !wanted || channel.Address == "" {
				continue
			}
			found = true
			if _, err := nc.Subscribe(channel.Address, func(m *nats.Msg) { d.take(m, title, schemas) }); err != nil {
				d.t.Fatal(err)
			}
		}
		if !found {
			d.t.Fatalf("the document has no channel with messages %s", title)
		}
	}
	if err := nc.Flush(); err != nil {
		d.t.Fatal(err)
	}
}

func (d *downstream) take(m *nats.Msg, title string, schemas map[string]*jsonschema.Schema) {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(m.Data))
	if err != nil {
		d.t.Errorf("%s is no JSON: %v", m.Subject, err)
		return
	}
	fits := 0
	var why error
	for _, s := range schemas {
		if err := s.Validate(value); err == nil {
			fits++
		} else {
			why = err
		}
	}
	if fits != 1 {
		d.t.Errorf("an event on %s fits %d of the %d messages there: %v\n%s", m.Subject, fits, len(schemas), why, m.Data)
		return
	}
	e := value.(map[string]any)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.events[title] == nil {
		d.events[title] = map[string]map[string]any{}
	}
	d.events[title][fmt.Sprint(e["source"], " ", e["id"])] = e
}

// by counts the events of a title by the event that they answer.
func (d *downstream) by(title string) map[string]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	by := map[string]int{}
	for _, e := range d.events[title] {
		by[fmt.Sprint(e["causationsource"], " ", e["causationid"])]++
	}
	return by
}

// A consumer that was written from the AsyncAPI document alone, with a plain NATS
// client, finds the cause of every receipt, and of every result, shaped or not.
func TestDownstream(t *testing.T) {
	t.Parallel()
	const routes = `
connections:
  main: {key: 8x8-sandbox}
routes:
  - name: order-shipped
    on: com.acme.order.shipped
    run: send-sms
    connection: main
    input: {destination: "${ .data.phone }", text: "Order ${ .subject } is on its way."}
    result:
      type: com.acme.order.texted
      subject: ${ .event.subject }
      data: {umid: "${ .output.umid }", parts: "${ .result.sms.smsCount }"}
`
	box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1})
	b := bridgetest.Start(t, bridgetest.Options{YAML: routes, Sandbox: box})
	nc, err := nats.Connect(b.NATSURL)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	d := newDownstream(t, described(t, nil, routes))
	const receipts, texted, failed = "com.8x8.sms.status", "com.acme.order.texted", "com.8x8.action.send-sms.failed"
	d.follow(nc, receipts, texted, failed)

	s := sender{t: t, url: b.URL, client: bridgetest.Client(t)}
	ids := numbered("down", 60)
	var sends []func() error
	for _, id := range ids {
		sends = append(sends, func() error { return s.postStructured(id) })
	}
	rejected := `{"specversion":"1.0","id":"no","source":"/shop","type":"com.acme.order.shipped","subject":"9","datacontenttype":"application/json","data":{"phone":"+12025550108"}}`
	sends = append(sends, func() error { return s.post(rejected, "Content-Type", "application/cloudevents+json") })
	if err := together(8, sends); err != nil {
		t.Fatal(err)
	}
	wantTexted, wantFailed := map[string]int{}, map[string]int{"/shop no": 1}
	for _, id := range ids {
		wantTexted["/shop "+id] = 1
	}
	o := watch(t, b.NATSURL)
	bridgetest.Await(t, "all results", func() error {
		if got := d.by(texted); !maps.Equal(got, wantTexted) {
			return fmt.Errorf("successes %v", got)
		}
		if got := d.by(failed); !maps.Equal(got, wantFailed) {
			return fmt.Errorf("failures %v", got)
		}
		return nil
	})
	// The sandbox says of each message that it was sent and that it was delivered.
	bridgetest.Await(t, "all receipts", func() error {
		got := d.by(receipts)
		for cause := range wantTexted {
			if got[cause] < 2 {
				return fmt.Errorf("%d receipts of %s", got[cause], cause)
			}
		}
		return nil
	})
	o.awaitIdle()
	byUMID := map[string]string{}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.events[texted] {
		byUMID[e["data"].(map[string]any)["umid"].(string)] = e["causationid"].(string)
	}
	if len(byUMID) != len(ids) {
		t.Errorf("%d messages, want %d", len(byUMID), len(ids))
	}
	for _, e := range d.events[receipts] {
		data := e["data"].(map[string]any)
		if cause := byUMID[data["umid"].(string)]; cause == "" || cause != e["causationid"] || e["causationsource"] != "/shop" || e["correlationid"] == "" {
			t.Errorf("a receipt of message %v says that it answers %v, which sent another: %v", data["umid"], e["causationid"], cause)
		}
	}
}
