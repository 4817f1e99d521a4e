package app_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// families are 8x8's, with the routes of their examples and what each runs.
var families = map[string]map[string]string{
	"call":           {"call-customer": "request"},
	"call-recording": {"fetch-recording": "request"},
	"chat":           {"order-on-whatsapp": "request"},
	"sms":            {"code-sent": "send-sms", "code-used": "request"},
	"contact":        {"customer-to-contact": "create-contact", "opt-out": "request"},
	"user":           {"look-up-user": "request"},
	"call-queue":     {"list-queues": "request"},
	"ring-group":     {"team-to-ring-group": "request"},
	"report":         {"daily-export": "request-sms-log-export"},
	"setting":        {"set-webhook": "request"},
	"integration":    {"start-workflow": "request"},
	"subscription":   {"licences-of-user": "request"},
	"invoice":        {"balance": "get-account-balance", "usage": "request"},
}

// reads have no effect.
var reads = []string{"fetch-recording", "look-up-user", "list-queues", "licences-of-user", "balance", "usage"}

const examples = root + "/config/examples"

// Each of 8x8's families has an example that is right by itself, passes the tests
// written in it, and is in the README.
func TestExamplesAreRight(t *testing.T) {
	t.Parallel()
	found, err := filepath.Glob(examples + "/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, path := range found {
		names = append(names, strings.TrimSuffix(filepath.Base(path), ".yaml"))
	}
	slices.Sort(names)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(families)), names); diff != "" {
		t.Fatalf("the examples (-want +got):\n%s", diff)
	}
	readme, err := os.ReadFile(root + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		file, problems := config.Load(path, func(string) (string, bool) { return "", false })
		if len(problems) > 0 {
			t.Errorf("%v", problems)
			continue
		}
		table, problems := handlers.Compile(file, catalog.Builtin(), handlers.Options{})
		if len(problems) > 0 {
			t.Errorf("%v", problems)
			continue
		}
		tested := map[string]string{}
		for _, result := range handlers.RunTests(table, file) {
			tested[result.Route] = ""
			if !result.OK {
				t.Errorf("%s: route %s: %v", path, result.Route, result.Problems)
			}
		}
		if diff := cmp.Diff(slices.Sorted(maps.Keys(families[name])), slices.Sorted(maps.Keys(tested))); diff != "" {
			t.Errorf("%s: the routes with tests (-want +got):\n%s", path, diff)
		}
		if !strings.Contains(string(readme), "config/examples/"+name+".yaml") {
			t.Errorf("the README does not name %s", path)
		}
	}
}

// The events of the examples' own tests, through a bridge: each route ends well
// and has its effect, once.
func TestExamplesRun(t *testing.T) {
	t.Parallel()
	var yaml strings.Builder
	yaml.WriteString("connections:\n")
	for _, name := range []string{"main", "voice", "chat", "admin", "analytics", "automation"} {
		fmt.Fprintf(&yaml, "  %s: {key: %s}\n", name, sandbox.ConnectionKey)
	}
	yaml.WriteString("routes:\n")
	for _, family := range slices.Sorted(maps.Keys(families)) {
		text, err := os.ReadFile(examples + "/" + family + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		_, routes, _ := strings.Cut(string(text), "\nroutes:\n")
		yaml.WriteString(routes)
	}
	file, problems := config.Parse("examples.yaml", []byte(yaml.String()), os.LookupEnv)
	if problems.Errors() {
		t.Fatal(problems)
	}
	bridge := bridgetest.Start(t, bridgetest.Options{YAML: yaml.String()})
	b := watch(t, bridge.NATSURL)

	byRoute := func() map[string]result {
		all := map[string]result{}
		for _, results := range b.results() {
			for _, r := range results {
				all[r.Data.Route] = r
			}
		}
		return all
	}
	want, sent := map[string]string{}, map[string]bool{}
	for _, routes := range families {
		for route, action := range routes {
			want[route] = action + " succeeded"
		}
	}
	for _, r := range file.Routes {
		for _, test := range r.Tests {
			id := test.Event["id"].(string)
			if sent[id] {
				continue // two routes take it
			}
			sent[id] = true
			if r.Name == "code-used" { // it is about the message that was sent before
				bridgetest.Await(t, "the message", func() error {
					if byRoute()["code-sent"].Data.Output == nil {
						return fmt.Errorf("no result of code-sent")
					}
					return nil
				})
				var output struct{ UMID string }
				if err := json.Unmarshal(byRoute()["code-sent"].Data.Output, &output); err != nil {
					t.Fatal(err)
				}
				test.Event["data"].(map[string]any)["umid"] = output.UMID
			}
			test.Event["specversion"] = "1.0"
			body, err := json.Marshal(test.Event)
			if err != nil {
				t.Fatal(err)
			}
			subject := "bridge.events." + test.Event["type"].(string) // those of 8x8 are not taken over HTTP
			if _, err := b.js.Publish(t.Context(), subject, body); err != nil {
				t.Fatal(err)
			}
		}
	}
	bridgetest.Await(t, "results", func() error { return b.atLeast("BRIDGE_RESULTS", len(want)) })
	b.awaitIdle()
	got := map[string]string{}
	for route, r := range byRoute() {
		got[route] = r.Data.Action + " " + r.Subject[strings.LastIndex(r.Subject, ".")+1:]
		if want := "bridge.results." + r.Data.Action + ".succeeded"; r.Subject != want {
			t.Errorf("route %s: subject %s, want %s: %+v", route, r.Subject, want, r.Data.Error)
		}
		if r.Data.Action == "request" {
			var output struct{ Status int }
			if err := json.Unmarshal(r.Data.Output, &output); err != nil || output.Status/100 != 2 {
				t.Errorf("route %s: output %s", route, r.Data.Output)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("results by route (-want +got):\n%s", diff)
	}
	effects := map[string]int{}
	for _, e := range bridge.Sandbox.Effects() {
		var meta struct{ Route string }
		if err := json.Unmarshal(e.Meta, &meta); err != nil {
			t.Fatal(err)
		}
		effects[meta.Route]++
	}
	wantEffects := map[string]int{}
	for route := range want {
		if !slices.Contains(reads, route) {
			wantEffects[route] = 1
		}
	}
	if diff := cmp.Diff(wantEffects, effects); diff != "" {
		t.Errorf("effects by route (-want +got):\n%s", diff)
	}
	if letters := b.letters(); len(letters) > 0 {
		t.Errorf("dead letters: %v", letters)
	}
}
