package config_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/config"
)

var update = flag.Bool("update", false, "write the .problems files of testdata/bad anew")

// variables are what the files under testdata may refer to.
func variables(name string) (string, bool) {
	value, ok := map[string]string{
		"SHOP_TOKEN": "token-of-the-shop",
		"OLD_TOKEN":  "older-token",
		"TWO_LINES":  "hidden\nhidden",
		"EMPTY":      "",
		"STREAM":     "ORDERS",
	}[name]
	return value, ok
}

func TestSampleHasNoProblems(t *testing.T) {
	t.Parallel()
	f, problems := config.Parse("sample.yaml", config.Sample(), variables)
	if len(problems) > 0 {
		t.Fatalf("problems:\n%v", problems)
	}
	e, problems := config.LoadEnv(map[string]string{})
	if problems = append(problems, config.Check(&e, f)...); len(problems) > 0 {
		t.Fatalf("problems:\n%v", problems)
	}
	var routes []string
	for _, r := range f.Routes {
		routes = append(routes, r.Name+" "+r.RunKey)
		if len(r.Tests) == 0 {
			t.Errorf("route %s has no test", r.Name)
		}
	}
	want := []string{"order-shipped send-sms", "delay-notice send-batch-sms", "urgent-alert send-sms", "monthly-export request-sms-log-export", "login-code send-sms"}
	if diff := cmp.Diff(want, routes); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	// The merged event of the last test has the changed source once.
	last := f.Routes[2].Tests[1]
	if last.Event["source"] != "/lab/1" || last.Event["type"] != "com.acme.alert.fire" || !last.NoMatch {
		t.Errorf("merged event: %v", last.Event)
	}
}

func TestSampleIsACopy(t *testing.T) {
	t.Parallel()
	config.Sample()[0] = 'x'
	if config.Sample()[0] == 'x' {
		t.Error("a caller can change the sample")
	}
}

// TestBadFiles compares every problem of each testdata/bad/<defect>.yaml with
// <defect>.problems.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, path := range files {
		name := filepath.Base(path)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			f, problems := config.Parse(name, data, variables)
			if len(problems) == 0 {
				t.Fatal("no problem was found")
			}
			if f == nil {
				t.Error("the file is nil")
			}
			golden := strings.TrimSuffix(path, ".yaml") + ".problems"
			got := problems.Error() + "\n"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			for _, hidden := range []string{"token-of-the-shop", "older-token", "hidden"} {
				if strings.Contains(got, hidden) {
					t.Errorf("the problems show the secret %q", hidden)
				}
			}
			for _, p := range problems {
				if p.Pos.Line == 0 && p.Code != "no-routes" {
					t.Errorf("no line: %v", p)
				}
			}
		})
	}
}

func TestRouteWithEverything(t *testing.T) {
	t.Parallel()
	f, problems := config.Load("testdata/good/everything.yaml", variables)
	if len(problems) > 0 {
		t.Fatalf("problems:\n%v", problems)
	}
	at := func(line, col int) config.Pos {
		return config.Pos{File: "testdata/good/everything.yaml", Line: line, Col: col}
	}
	text := func(line, col int, s string) config.Value {
		return config.Value{Pos: at(line, col), Kind: config.KindScalar, Scalar: s}
	}
	want := &config.File{
		Path: "testdata/good/everything.yaml",
		Sources: []config.Source{
			{Pos: at(2, 5), Name: "orders", NATS: config.SourceNATS{Stream: "ORDERS", Subjects: []string{"orders.>"}, Start: config.StartTime, StartAt: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)}},
			{Pos: at(4, 5), Name: "all", NATS: config.SourceNATS{Stream: "OLD", Start: config.StartAll}},
			{Pos: at(6, 5), Name: "plain", NATS: config.SourceNATS{Subjects: []string{"a.*", "b"}, Core: true, Start: config.StartNew}},
		},
		Webhooks: []config.Webhook{
			{Pos: at(9, 5), Name: "shop", Bearer: []config.Secret{"token-of-the-shop", "older-token"}},
			{Pos: at(11, 5), Name: "open"},
		},
		Connections: []config.Connection{
			{Pos: at(13, 3), Name: "main", Key: "8x8-main"},
			{Pos: at(14, 3), Name: "other", ID: "66aa01", Tenant: text(14, 31, "${ .tenantid }")},
		},
		Routes: []config.Route{
			{
				Pos: at(16, 5), Name: "a", Formerly: "b",
				On:            []config.Typed{{Pos: at(18, 9), Value: "com.acme.*"}},
				Filters:       []config.Value{{Pos: at(19, 15), Kind: config.KindMap, Map: []config.Entry{{Pos: at(19, 16), Key: "sql", Value: text(19, 21, "true")}}}},
				RunID:         "66f1",
				RunPos:        at(20, 10),
				Connection:    "main",
				ConnectionPos: at(21, 17),
				Input: config.Value{Pos: at(23, 7), Kind: config.KindMap, Map: []config.Entry{
					{Pos: at(23, 7), Key: "text", Value: text(23, 13, "${ .data.text }")},
				}},
				TTL:       36 * time.Hour,
				Retry:     config.Retry{Attempts: 3, Initial: 10 * time.Minute, Max: 10 * time.Minute},
				OnUnknown: config.OnUnknownRetry,
				Tests: []config.RouteTest{{
					Pos: at(28, 9), Name: "one",
					Event: map[string]any{"id": "1", "source": "/s", "type": "com.acme.x", "data": map[string]any{"n": 1, "list": []any{1.5, nil, true}}},
					Input: map[string]any{"text": nil},
				}},
			},
			{
				Pos: at(31, 5), Name: "c",
				On:        []config.Typed{{Pos: at(32, 10), Value: "x"}, {Pos: at(32, 13), Value: "*"}},
				RunKey:    "get-balance",
				RunPos:    at(33, 10),
				Input:     config.Value{Pos: at(31, 5), Kind: config.KindMap},
				Retry:     config.Retry{Attempts: 8, Initial: time.Second, Max: 5 * time.Minute},
				OnUnknown: config.OnUnknownHold,
			},
		},
	}
	if diff := cmp.Diff(want, f, cmp.Transformer("reveal", config.Secret.Reveal)); diff != "" {
		t.Errorf("file (-want +got):\n%s", diff)
	}
}

// TestScalars reads values as a route's input would hold them.
func TestScalars(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]any{
		"7":                        7,
		"-7":                       -7,
		"1.5":                      1.5,
		"1e3":                      1000.0,
		"12345678901234567890":     json.Number("12345678901234567890"),
		"1e999":                    "1e999",        // no number that JSON readers can hold
		"+12025550101":             "+12025550101", // a phone number keeps its sign
		"0123":                     "0123",         // and its leading zero
		"0x1f":                     "0x1f",
		"1_000":                    "1_000",
		".inf":                     ".inf",
		".nan":                     ".nan",
		"2026-01-02":               "2026-01-02",
		"2026-01-02T03:04:05Z":     "2026-01-02T03:04:05Z",
		"12:30":                    "12:30",
		"NO":                       "NO",
		"on":                       "on",
		"true":                     true,
		"False":                    false,
		"~":                        nil,
		"":                         nil,
		"!!str 5":                  "5",
		`"5"`:                      "5",
		"<<":                       "<<",
		"[1, {a: b}]":              []any{1, map[string]any{"a": "b"}},
		"{1: a, true: b, x: null}": map[string]any{"1": "a", "true": "b", "x": nil},
		"{}":                       map[string]any{},
	} {
		f, problems := config.Parse("x.yaml", []byte("routes:\n- name: a\n  on: b\n  run: c\n  input:\n    v: "+text+"\n"), variables)
		if len(problems) > 0 {
			t.Errorf("%s: %v", text, problems)
			continue
		}
		got, ok := f.Routes[0].Input.Get("v")
		if diff := cmp.Diff(want, got.Plain()); diff != "" || !ok {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

func TestReferences(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"${STREAM}":             "ORDERS",
		"a-${STREAM}-${STREAM}": "a-ORDERS-ORDERS",
		"${NOWHERE:x}":          "x",
		"a${NOWHERE:}":          "a",
		"${EMPTY:x}":            "x",
		"${STREAM:x}":           "ORDERS",
		"$${STREAM}":            "${STREAM}",
		"$STREAM":               "$STREAM",
		"${NOWHERE:a:b}":        "a:b",
	} {
		f, problems := config.Parse("x.yaml", []byte("connections: {c: {key: '"+text+"'}}\nroutes: []\n"), variables)
		if len(problems) > 0 {
			t.Errorf("%s: %v", text, problems)
		} else if got := f.Connections[0].Key; got != want {
			t.Errorf("%s gives %q, want %q", text, got, want)
		}
	}
}

// In a route's input, and as a tenant, ${ } is left to jq.
func TestInputIsNotExpanded(t *testing.T) {
	t.Parallel()
	f, problems := config.Parse("x.yaml", []byte("connections: {c: {key: k, tenant: '${STREAM}'}}\nroutes:\n- {name: a, on: b, run: c, input: {v: '${STREAM}'}}\n"), variables)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	v, _ := f.Routes[0].Input.Get("v")
	if v.Scalar != "${STREAM}" || f.Connections[0].Tenant.Scalar != "${STREAM}" {
		t.Errorf("expanded: %v, %v", v.Scalar, f.Connections[0].Tenant.Scalar)
	}
}

func TestMissingFile(t *testing.T) {
	t.Parallel()
	f, problems := config.Load("testdata/nowhere.yaml", variables)
	want := "testdata/nowhere.yaml: error: there is no such file (file-missing)\n" +
		"    hint: set BRIDGE_CONFIG to the file that holds the routes"
	if f != nil || problems.Error() != want || !problems.Errors() {
		t.Errorf("file %v, problems:\n%v", f, problems)
	}
	f, problems = config.Load("testdata", variables)
	want = "testdata: error: cannot read the file: is a directory (file-unreadable)"
	if f != nil || problems.Error() != want {
		t.Errorf("file %v, problems:\n%v", f, problems)
	}
}

// An empty file is valid, and most likely not what was meant.
func TestEmptyFile(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "\n", "# nothing yet\n", "---\n", "routes:\n", "~", "{}"} {
		f, problems := config.Parse("x.yaml", []byte(text), variables)
		want := "x.yaml: warning: there are no routes, so no event is handled by one (no-routes)\n    hint: add an entry under routes:"
		if problems.Error() != want || problems.Errors() || f == nil || len(f.Routes) != 0 {
			t.Errorf("%q: %v\n%v", text, f, problems)
		}
	}
}

func TestHugeFiles(t *testing.T) {
	t.Parallel()
	bomb := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := range 9 {
		bomb += strings.ReplaceAll(strings.ReplaceAll("aN: &aN [*aM, *aM, *aM, *aM, *aM, *aM, *aM, *aM, *aM, *aM]\n", "N", string(rune('1'+i))), "M", string(rune('0'+i)))
	}
	for _, c := range []struct{ name, text, code string }{
		{"alias bomb", bomb, "too-large"},
		{"alias of itself", "routes: &a [*a]\n", "too-deep"},
		{"merge of itself", "routes: &a {<<: *a}\n", "too-deep"},
		{"deep", "routes: " + strings.Repeat("[", 200) + strings.Repeat("]", 200), "too-deep"},
		{"very deep", "routes: " + strings.Repeat("[", 100_000), "yaml-syntax"},
		{"many bytes", "routes: [" + strings.Repeat("a,", 3<<20) + "]", "too-large"},
	} {
		_, problems := config.Parse("x.yaml", []byte(c.text), variables)
		if len(problems) != 1 || problems[0].Code != c.code {
			t.Errorf("%s: %v", c.name, problems)
		}
	}
}

func TestProblemsAreInFileOrder(t *testing.T) {
	t.Parallel()
	_, problems := config.Load("testdata/bad/many-at-once.yaml", variables)
	if !slices.IsSortedFunc(problems, func(a, b config.Problem) int { return a.Pos.Line - b.Pos.Line }) {
		t.Errorf("not in file order:\n%v", problems)
	}
	if len(problems) < 8 {
		t.Errorf("only %d problems:\n%v", len(problems), problems)
	}
}

func TestCheckFindsOwnTraffic(t *testing.T) {
	t.Parallel()
	const file = `sources:
- {name: a, nats: {stream: ACME_EVENTS}}
- {name: b, nats: {stream: ACME_RESULTS}}
- {name: c, nats: {stream: KV_ACME_LEDGER}}
- {name: d, nats: {subjects: [acme.run.x, other.x], core: true}}
- {name: e, nats: {subjects: [">", "*.events.x", "*", other.>, bridge.>], core: true}}
routes: []
`
	f, problems := config.Parse("x.yaml", []byte(file), variables)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	e, problems := config.LoadEnv(map[string]string{"BRIDGE_PREFIX": "acme"})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	want := strings.TrimPrefix(`
x.yaml:2:3: error: source "a" takes from ACME_EVENTS, which is a stream of the bridge itself (BRIDGE_PREFIX is "acme") (own-stream)
    hint: leave it out: what is in ACME_EVENTS is taken in anyway
x.yaml:4:3: error: source "c" takes from KV_ACME_LEDGER, which is a stream of the bridge itself (BRIDGE_PREFIX is "acme") (own-stream)
    hint: leave it out: what is in ACME_EVENTS is taken in anyway
x.yaml:5:3: error: source "d" subscribes to "acme.run.x", which covers the bridge's own subjects "acme.>" (own-subject)
    hint: name the subjects that are wanted, or set another BRIDGE_PREFIX
x.yaml:6:3: error: source "e" subscribes to ">", which covers the bridge's own subjects "acme.>" (own-subject)
    hint: name the subjects that are wanted, or set another BRIDGE_PREFIX
x.yaml:6:3: error: source "e" subscribes to "*.events.x", which covers the bridge's own subjects "acme.>" (own-subject)
    hint: name the subjects that are wanted, or set another BRIDGE_PREFIX`, "\n")
	if diff := cmp.Diff(want, config.Check(&e, f).Error()); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(config.Sample())
	for _, folder := range []string{"testdata/bad/*.yaml", "testdata/good/*.yaml"} {
		files, _ := filepath.Glob(folder)
		for _, path := range files {
			data, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, problems := config.Parse("fuzz.yaml", data, variables)
		if file == nil {
			t.Fatal("nil file")
		}
		if text := problems.Error(); strings.Contains(text, "token-of-the-shop") {
			t.Errorf("a secret in the problems:\n%s", text)
		}
		for _, p := range problems {
			if p.Code == "" || p.Msg == "" || p.Level == "" || p.Pos.File == "" {
				t.Errorf("half a problem: %#v", p)
			}
		}
		if problems.Errors() {
			return
		}
		for _, r := range file.Routes {
			// What is accepted can be handed to jq and to JSON.
			if _, err := json.Marshal(r.Input.Plain()); err != nil {
				t.Errorf("route %q: %v", r.Name, err)
			}
			if r.Name == "" || len(r.On)+len(r.Filters) == 0 || (r.RunKey == "") == (r.RunID == "") || r.Retry.Initial > r.Retry.Max {
				t.Errorf("accepted: %+v", r)
			}
		}
	})
}
