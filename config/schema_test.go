package config_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"github.com/bridge8x8/bridge8x8/config"
)

func fileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(config.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("bridge.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("bridge.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fitsSchema says what the schema, as an editor would use it, finds wrong.
func fitsSchema(t *testing.T, s *jsonschema.Schema, text string) error {
	t.Helper()
	var value any
	if err := yaml.Unmarshal([]byte(text), &value); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	again, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(again)
}

// The schema takes what the program takes, and refuses what it refuses, as far as a
// schema can tell.
func TestSchemaAgrees(t *testing.T) {
	t.Parallel()
	s := fileSchema(t)
	const r = "routes:\n  - {name: r, on: a, run: send-sms"
	good := map[string]string{
		"the sample": string(config.Sample()), "empty": "", "nothing set": "sources:\nroutes:\n", "one's own": "x-mine: 1\nroutes: []\n",
		"a list": r + ", on_unknown: retry, filters: [{sql: \"TRUE\"}], ttl: 1d12h, retry: {attempts: 3, backoff: {max: 1.5s}}}\n", "no value": r + ", ttl: }\n",
		"by id":       "routes:\n  - {name: r, filters: [{exact: {type: a}}], run: {id: abc}}\n",
		"a follow-up": r + ", then: {run: get-sms-status, input: {umid: \"${ $output.umid }\"}, until: \"${ .ok }\", backoff: {initial: 5s}, deadline: 1h}}\n",
		"a receipt":   r + ", then: {until: delivered, deadline: 10m}}\n",
		"a request":   "routes:\n  - {name: r, on: a, request: {method: POST, path: \"/api/${ .id }\", query: {a: 1}, headers: {x: y}, body: [1]}}\n",
		"limits":      r + ", replies: true, at_most: {per: \"${ .subject }\", times: 3, every: 1h}, filters: [{jq: .data.a}]}\n",
		"others":      "streams: existing\nsources:\n  - {name: s, nats: {stream: A, domain: hub}}\nwebhooks: [{name: w, auth: {mtls: {names: [a]}}}]\nroutes: []\n",
		"a shape":     r + ", result: {type: a.b, data: [1], failed: {subject: x}}}\n",
		"webhooks":    "webhooks:\n  - {name: w, auth: {bearer: [\"${A:a}\", \"${B:b}\"]}, event: {type: x}}\n  - {name: 8x8, auth: {secret: \"${A:a}\"}, answers: {com.8x8.voice.call_action: {a: 1}}}\nroutes: []\n",
		"signature":   "webhooks:\n  - {name: w, auth: {signature: {preset: github, secret: \"${A:a}\", tolerance: 1m}}}\nroutes: []\n",
		"sources":     "sources:\n  - {name: s, nats: {stream: A, subjects: a.>, start: all}}\n  - {name: c, nats: {core: true, subjects: [a]}}\nroutes: []\n",
		"tests":       r + ", tests: [{event: {id: \"1\", source: /a, type: b, data: 1}, input: {}}, {event: {id: \"1\", source: /a, type: b}, no_match: true}]}\n",
	}
	for name, text := range good {
		if _, problems := config.Parse("x", []byte(text), func(string) (string, bool) { return "x", true }); problems.Errors() {
			t.Errorf("%s: the program refuses it: %v", name, problems)
		}
		if err := fitsSchema(t, s, text); err != nil {
			t.Errorf("%s: the schema refuses it: %v", name, err)
		}
	}
	bad := map[string]string{
		"a list": "[]", "a text": "yes", "unknown key": "route: []", "routes no list": "routes: {a: 1}", "route no mapping": "routes: [a]",
		"no name": "routes: [{on: a, run: b}]", "no run": "routes: [{name: r, on: a}]", "no on": "routes: [{name: r, run: b}]", "bad name": "routes: [{name: R, on: a, run: b}]",
		"reserved": "routes: [{name: run, on: a, run: b}]", "bad type": "routes: [{name: r, on: \"a*b\", run: b}]", "on a number": "routes: [{name: r, on: 1, run: b}]",
		"both": "routes: [{name: r, on: a, run: {id: a, key: b}}]", "unknown in run": "routes: [{name: r, on: a, run: {id: a, x: b}}]", "spaces": "routes: [{name: r, on: a, run: a b}]",
		"unknown in route": r + ", tll: 1s}", "ttl a number": r + ", ttl: 15}", "ttl no unit": r + ", ttl: \"15\"}", "ttl of nothing": r + ", ttl: soon}",
		"attempts zero": r + ", retry: {attempts: 0}}", "attempts a text": r + ", retry: {attempts: \"3\"}}", "attempts half": r + ", retry: {attempts: 1.5}}", "unknown in backoff": r + ", retry: {backoff: {least: 1s}}}",
		"on_unknown": r + ", on_unknown: repeat}", "proxy_forwards": r + ", proxy_forwards: \"true\"}", "input a list": r + ", input: []}", "filters a mapping": r + ", filters: {sql: x}}", "filter a text": r + ", filters: [x]}",
		"result a text": r + ", result: x}", "unknown in result": r + ", result: {typ: x}}", "result type a number": r + ", result: {type: 1}}", "failed in failed": r + ", result: {failed: {failed: {}}}}",
		"then a text": r + ", then: delivered}", "then without until": r + ", then: {deadline: 1m}}", "unknown in then": r + ", then: {until: read, untill: read}}",
		"test without event": r + ", tests: [{input: {}}]}", "test without input": r + ", tests: [{event: {id: a, source: b, type: c}}]}", "event without type": r + ", tests: [{event: {id: a, source: b}, input: {}}]}",
		"connection without": "connections: {a: {}}\nroutes: []", "connection with both": "connections: {a: {id: x, key: y}}\nroutes: []", "connection name": "connections: {A: {id: x}}\nroutes: []", "unknown in connection": "connections: {a: {id: x, tennant: y}}\nroutes: []",
		"source without nats": "sources: [{name: s}]\nroutes: []", "source without stream": "sources: [{name: s, nats: {subjects: [a]}}]\nroutes: []", "core without subjects": "sources: [{name: s, nats: {core: true}}]\nroutes: []",
		"core with stream": "sources: [{name: s, nats: {core: true, subjects: [a], stream: A}}]\nroutes: []", "core with start": "sources: [{name: s, nats: {core: true, subjects: [a], start: new}}]\nroutes: []",
		"webhook without name": "webhooks: [{auth: {bearer: x}}]\nroutes: []", "webhook with answers": "webhooks: [{name: w, answers: {}}]\nroutes: []", "8x8 with event": "webhooks: [{name: 8x8, event: {type: x}}]\nroutes: []",
		"empty auth": "webhooks: [{name: w, auth: {}}]\nroutes: []", "three tokens": "webhooks: [{name: w, auth: {bearer: [a, b, c]}}]\nroutes: []", "8x8 with bearer": "webhooks: [{name: 8x8, auth: {bearer: x}}]\nroutes: []",
		"unknown answer": "webhooks: [{name: 8x8, answers: {com.8x8.sms.status: {}}}]\nroutes: []", "event without a type": "webhooks: [{name: w, event: {id: x}}]\nroutes: []",
		"unknown preset": "webhooks: [{name: w, auth: {signature: {preset: gitlab, secret: x}}}]\nroutes: []", "no secret": "webhooks: [{name: w, auth: {signature: {preset: github}}}]\nroutes: []",
		"no header": "webhooks: [{name: w, auth: {signature: {secret: x}}}]\nroutes: []", "half a jwt": "webhooks: [{name: w, auth: {jwt: {issuer: x}}}]\nroutes: []", "unsigned body": "webhooks: [{name: w, auth: {signature: {header: X, secret: x, signed: y}}}]\nroutes: []",
	}
	for name, text := range bad {
		if _, problems := config.Parse("x", []byte(text), func(string) (string, bool) { return "x", true }); !problems.Errors() {
			t.Errorf("%s: the program takes it", name)
		}
		if fitsSchema(t, s, text) == nil {
			t.Errorf("%s: the schema takes it", name)
		}
	}
}

// Every mapping that the decoder knows is one of the schema's, with the same keys,
// and the other way round: who adds a key to the one adds it to the other.
func TestSchemaHasTheKeys(t *testing.T) {
	t.Parallel()
	decoded := map[string]bool{}
	for _, path := range []string{"decode.go", "request.go", "webhook.go", "result.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		strs := func(list []ast.Expr) (keys []string) {
			for _, e := range list {
				if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					if s, err := strconv.Unquote(lit.Value); err == nil {
						keys = append(keys, s)
					}
				}
			}
			return keys
		}
		add := func(keys []string) {
			if len(keys) > 0 {
				slices.Sort(keys)
				decoded[strings.Join(keys, " ")] = true
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if f, ok := n.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "object" && len(n.Args) > 2 && !n.Ellipsis.IsValid() {
					add(strs(n.Args[2:]))
				}
			case *ast.AssignStmt: // keys := []string{…}
				if name, ok := n.Lhs[0].(*ast.Ident); ok && name.Name == "keys" && len(n.Rhs) == 1 {
					if list, ok := n.Rhs[0].(*ast.CompositeLit); ok {
						add(strs(list.Elts))
					}
				}
			case *ast.ValueSpec:
				if n.Names[0].Name == "questions" {
					add(strs(n.Values[0].(*ast.CompositeLit).Elts))
				}
			}
			return true
		})
	}
	inSchema := map[string]bool{}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if properties, ok := v["properties"].(map[string]any); ok && v["additionalProperties"] == false {
				inSchema[strings.Join(slices.Sorted(maps.Keys(properties)), " ")] = true
			}
			for _, inner := range v {
				walk(inner)
			}
		case []any:
			for _, inner := range v {
				walk(inner)
			}
		}
	}
	var doc any
	if err := json.Unmarshal(config.Schema(), &doc); err != nil {
		t.Fatal(err)
	}
	walk(doc)
	for keys := range decoded {
		if !inSchema[keys] {
			t.Errorf("config/schema.json has no mapping with the keys %s", keys)
		}
	}
	for keys := range inSchema {
		if !decoded[keys] {
			t.Errorf("config/schema.json has a mapping with the keys %s, which the decoder does not know", keys)
		}
	}
}
