package asyncapi_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/asyncapi"
	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// parserDir is a Node project with AsyncAPI's own parser in it.
const parserDir = "testdata/parser"

func describe(t *testing.T, environ map[string]string, yaml []byte) []byte {
	t.Helper()
	env, problems := config.LoadEnv(environ)
	if problems.Errors() {
		t.Fatal(problems)
	}
	file, problems := config.Parse("bridge.yaml", yaml, func(string) (string, bool) { return "hidden", true })
	if problems.Errors() {
		t.Fatal(problems)
	}
	table, problems := handlers.Compile(file, catalog.Builtin(), handlers.Options{Commands: env.Bridge.Commands, DefaultConnection: "c"})
	if problems.Errors() {
		t.Fatal(problems)
	}
	doc, err := asyncapi.Document(asyncapi.Options{Env: &env, File: file, Table: table, Catalog: catalog.Builtin(), Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := asyncapi.Document(asyncapi.Options{Env: &env, File: file, Table: table, Catalog: catalog.Builtin(), Version: "1.2.3"}); err != nil || !bytes.Equal(doc, again) {
		t.Error("not the same twice", err)
	}
	if bytes.Contains(doc, []byte("hidden")) {
		t.Error("a secret is shown")
	}
	return doc
}

const everything = `
sources:
  - name: orders
    nats: {stream: ORDERS, subjects: [orders.>, "returns.*"]}
  - name: alerts
    nats: {subjects: [alerts.*], core: true}
webhooks:
  - name: 8x8
    auth: {secret: "${HOOK}"}
  - name: shop
    auth: {bearer: "${SHOP}"}
  - name: hub
    auth: {bearer: "${HUB}"}
    event: {type: "com.github.${ .headers.x }"}
connections:
  main: {key: 8x8-main}
routes:
  - name: shipped
    on: [com.acme.order.shipped, "com.acme.order.*"]
    run: send-sms
    connection: main
    input: {destination: "${ .data.phone }", text: hello}
    result:
      type: com.acme.order.texted
      data: {umid: "${ .output.umid }", kind: texted, list: [1], about: "order ${ .event.subject }"}
      failed: {type: "com.acme.order.${ .error.reason }"}
  - name: by-id
    on: com.8x8.sms.received
    run: {id: 66f1a0a0a0a0a0a0a0a0a0a0}
    connection: main
    result: {subject: x}
`

// parsed is what AsyncAPI's parser says.
type parsed struct {
	Problems []struct {
		Code, Path, Message string
		Severity            int
	}
	Version                        string
	Channels, Operations, Messages []string
	errors                         int
}

// AsyncAPI's own parser finds nothing wrong with a document that has everything, as
// YAML, and with one that has little, and finds what is wrong with a broken one.
func TestAsyncAPIParser(t *testing.T) {
	t.Parallel()
	needParser(t)
	yaml := func(doc []byte) []byte {
		t.Helper()
		made, err := config.JSONToYAML(doc)
		if err != nil || bytes.HasPrefix(made, []byte("{")) {
			t.Fatalf("%v, %.100s", err, made)
		}
		return made
	}
	everything := describe(t, map[string]string{
		"BRIDGE_COMMANDS": "true", "BRIDGE_SINK_URL": "https://sink.example.com/hidden?key=hidden", "BRIDGE_SINK_TOKEN": "hidden",
		"NATS_URL": "tls://me:hidden@nats.example.com:4222,other.example.com", "BRIDGE_PREFIX": "eu", "BRIDGE_NAME": "eu-1",
	}, []byte(everything))
	little := describe(t, map[string]string{"BRIDGE_HTTP_ADDR": "", "NATS_URL": "embedded", "BRIDGE_ENCODING": "binary"}, []byte("routes: [{name: r, on: a, run: send-batch-sms, input: {messages: '${ .data }'}}]\n"))
	broken := bytes.Replace(little, []byte(`"action": "send"`), []byte(`"action": "shout"`), 1)
	script := exec.CommandContext(t.Context(), "node", "validate.mjs")
	script.Dir, script.Stdin = parserDir, bytes.NewReader(bytes.Join([][]byte{yaml(everything), little, broken}, []byte("\n---\n")))
	out, err := script.Output()
	if err != nil {
		t.Fatalf("the parser: %v", err)
	}
	var said []parsed
	for line := range bytes.Lines(out) {
		var one parsed
		if err := json.Unmarshal(line, &one); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		for _, p := range one.Problems {
			if p.Severity > 1 { // below errors and warnings are hints, such as of a newer version
				continue
			}
			if one.errors++; len(said) < 2 {
				t.Errorf("document %d: %s: %s at %s", len(said), p.Code, p.Message, p.Path)
			}
		}
		said = append(said, one)
	}
	if len(said) != 3 || said[0].Version != "3.0.0" || said[1].Version != "3.0.0" || said[2].errors == 0 {
		t.Fatalf("%+v", said)
	}
	for i, want := range [][]string{
		{
			"eu.events.com.8x8.sms.status", "eu.events.com.8x8.voice.{event}", "eu.dead.{route}.{reason}", "eu.events.com.acme.order.shipped",
			"eu.results.send-sms.succeeded", "eu.results.66f1a0a0a0a0a0a0a0a0a0a0.failed", "eu.run.get-account-balance",
			"orders.>", "returns.*", "alerts.*", "/events", "/webhooks/8x8/{secret}", "/webhooks/shop", "/webhooks/hub",
		},
		{"bridge.events.com.8x8.sms.status", "bridge.events.a", "bridge.results.send-batch-sms.failed"},
	} {
		for _, address := range want {
			if !slices.Contains(said[i].Channels, address) {
				t.Errorf("document %d: no channel %s among %v", i, address, said[i].Channels)
			}
		}
	}
	if !slices.Contains(said[0].Operations, "post.sink") || !slices.Contains(said[0].Operations, "answer.get-account-balance") || slices.Contains(said[1].Operations, "post.sink") {
		t.Errorf("operations %v and %v", said[0].Operations, said[1].Operations)
	}
}

// needParser installs the parser where it is missing.
func needParser(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("AsyncAPI's parser needs Node.js and a package registry")
	}
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s is missing: install Node.js 20 or later, or run with -short", program)
		}
	}
	if _, err := os.Stat(parserDir + "/node_modules/@asyncapi/parser/package.json"); err == nil {
		return
	}
	install := exec.CommandContext(t.Context(), "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	install.Dir = parserDir
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
}

// fits compiles the payload of a message of a document.
func fits(t *testing.T, doc []byte, message string) *jsonschema.Schema {
	t.Helper()
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	c.AssertFormat()
	if err := c.AddResource("asyncapi.json", value); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("asyncapi.json#/components/messages/" + message + "/payload")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func valid(t *testing.T, s *jsonschema.Schema, body string) error {
	t.Helper()
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(value)
}

// Every golden event of 8x8's webhooks fits its message, and not that of another type.
func TestGoldenEvents(t *testing.T) {
	t.Parallel()
	doc := describe(t, nil, config.Sample())
	files, err := filepath.Glob("../native/testdata/events/*.json")
	if err != nil || len(files) < 40 {
		t.Fatal(err, len(files))
	}
	var d struct {
		Channels map[string]struct{ Address, Title string }
	}
	if err := json.Unmarshal(doc, &d); err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		golden, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var e struct{ Type string }
		if err := json.Unmarshal(golden, &e); err != nil {
			t.Fatal(err)
		}
		short := strings.TrimPrefix(e.Type, "com.8x8.")
		family, _, _ := strings.Cut(short, ".")
		name := "8x8." + short
		if _, own := d.Channels[name]; !own {
			name = "8x8." + family
		}
		if err := valid(t, fits(t, doc, name), string(golden)); err != nil {
			t.Errorf("%s does not fit %s: %v", path, name, err)
		}
		other := "8x8.sms.clicked"
		if e.Type == "com.8x8.sms.clicked" {
			other = "8x8.sms.status"
		}
		if valid(t, fits(t, doc, other), string(golden)) == nil {
			t.Errorf("%s fits %s too", path, other)
		}
	}
}

// A result that its route shapes has the schema of its shape.
func TestShapedSchemas(t *testing.T) {
	t.Parallel()
	doc := describe(t, nil, []byte(everything))
	const head = `{"specversion":"1.0","id":"1","source":"/bridge8x8/b","causationid":"1","causationsource":"/s","correlationid":"1","time":"2026-01-02T03:04:05Z",`
	for _, test := range []struct {
		message, rest string
		fits          bool
	}{
		{"result.shipped.succeeded", `"type":"com.acme.order.texted","data":{"umid":"u","kind":"texted","list":[1],"about":"order 9"}}`, true},
		{"result.shipped.succeeded", `"type":"com.acme.order.texted","data":{"kind":"texted","list":[2],"about":"order 9"}}`, true},
		{"result.shipped.succeeded", `"type":"com.acme.order.texted","data":{"umid":"u","list":[1],"about":"order 9"}}`, false},
		{"result.shipped.succeeded", `"type":"com.acme.order.texted","data":{"umid":"u","kind":"other","list":[1],"about":"order 9"}}`, false},
		{"result.shipped.succeeded", `"type":"com.acme.order.other","data":{"umid":"u","kind":"texted","list":[1],"about":"order 9"}}`, false},
		{"result.shipped.failed", `"type":"com.acme.order.rejected","data":{"action":"send-sms","route":"shipped","attempts":1,"durationMs":1,"cause":{"source":"/s","id":"1","type":"t"},"error":{"reason":"rejected","message":"no","retryable":false}}}`, true},
		{"result.shipped.failed", `"type":"com.acme.other","data":{"action":"send-sms","route":"shipped","attempts":1,"durationMs":1,"cause":{"source":"/s","id":"1","type":"t"},"error":{"reason":"rejected","message":"no","retryable":false}}}`, false},
		{"result.send-sms.failed", `"type":"com.8x8.action.send-sms.failed","data":{"action":"send-sms","route":"shipped","attempts":1,"durationMs":1,"cause":{"source":"/s","id":"1","type":"t"}}}`, false},
		{"result.send-sms.failed", `"type":"com.8x8.action.send-sms.failed","data":{"action":"send-sms","route":"shipped","attempts":1,"durationMs":1,"cause":{"source":"/s","id":"1","type":"t"},"error":{"reason":"whim","message":"no","retryable":false}}}`, false},
	} {
		if err := valid(t, fits(t, doc, test.message), head+test.rest); (err == nil) != test.fits {
			t.Errorf("%s: %s: %v", test.message, test.rest, err)
		}
	}
}

// The schema of a result names what a result has, and nothing else.
func TestResultSchema(t *testing.T) {
	t.Parallel()
	var d struct {
		Components struct {
			Schemas struct {
				Result struct{ Properties map[string]any }
			}
		}
	}
	if err := json.Unmarshal(describe(t, nil, config.Sample()), &d); err != nil {
		t.Fatal(err)
	}
	named := d.Components.Schemas.Result.Properties
	for field := range reflect.TypeFor[bridge.ResultData]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if named[name] == nil {
			t.Errorf("the schema does not name %s", name)
		}
		delete(named, name)
	}
	if len(named) > 0 {
		t.Errorf("no result has %v", named)
	}
}
