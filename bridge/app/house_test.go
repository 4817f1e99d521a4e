package app_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The rules of this house that no compiler checks. Each says why it stands, so
// that whoever runs into one can judge whether it still should.

const (
	root   = "../.."
	module = "github.com/bridge8x8/bridge8x8"
)

const apart = "adapters meet in bridge/app only: each can be replaced and tested alone"

// house is which packages of ours each package may import, outside its tests,
// and why no others. Imports point one way: cmd, app, adapters, bridge, handlers,
// config; adapters never know each other.
var house = map[string]struct {
	may []string
	why string
}{
	"config":            {nil, "reading settings must not depend on what they set"},
	"handlers/catalog":  {[]string{"bridge/cloudevent"}, "what can be run is data, of use without routes or a bridge; it reads JSON as the codec does"},
	"bridge/cloudevent": {nil, "a codec is a pure function of bytes"},
	"bridge/native":     {nil, "8x8's formats become CloudEvents by pure functions, which are fuzzed"},
	"handlers":          {[]string{"config", "handlers/catalog", "bridge/cloudevent"}, "routes are checked offline, by check and by users' CI, without NATS or Membrane"},
	"bridge":            {[]string{"config", "handlers", "handlers/catalog", "bridge/cloudevent"}, "the order of work does no I/O of its own: it is read and tested without any"},

	"bridge/bus":             {adapter(), apart},
	"bridge/ledger":          {adapter(), apart},
	"bridge/deadletter":      {adapter(), apart},
	"bridge/filelock":        {nil, "a lock knows nothing of what it guards"},
	"bridge/natsd":           {adapter("bridge/filelock"), apart},
	"bridge/admin":           {adapter(), apart},
	"bridge/sink":            {adapter(), apart},
	"bridge/telemetry":       {adapter(), apart},
	"bridge/ingress":         {adapter("bridge/native"), "ingress stores what comes in through an interface; how is the bus' business"},
	"bridge/membrane":        {adapter("handlers/catalog"), "the client must not know the sandbox that it is tested against"},
	"bridge/membrane/signin": {adapter("bridge/filelock"), "who somebody is, is found out and kept apart from what they do"},
	"bridge/sandbox":         {adapter("handlers/catalog"), "the sandbox must not share code with the client: both would be wrong alike"},

	"bridge/asyncapi": {[]string{
		"config", "handlers", "handlers/catalog", "bridge", "bridge/cloudevent", "bridge/native", "bridge/bus",
	}, "it describes a bridge in the names and schemas of those that speak, and speaks to nobody itself"},
	"bridge/app": {[]string{
		"config", "handlers", "handlers/catalog", "bridge", "bridge/cloudevent", "bridge/native", "bridge/bus", "bridge/ledger",
		"bridge/deadletter", "bridge/natsd", "bridge/admin", "bridge/telemetry", "bridge/ingress", "bridge/membrane", "bridge/sandbox", "bridge/sink",
	}, "app puts everything together, and nothing but cmd stands above it"},
	"bridge/bridgetest":       {[]string{"config", "bridge", "bridge/cloudevent", "bridge/app", "bridge/natsd", "bridge/sandbox"}, "tests see a bridge as its users do"},
	"bridge/bridgetest/proxy": {nil, "the tests of the packages that bridgetest runs use it, too"},
	"cmd/bridge8x8": {[]string{
		"config", "handlers", "handlers/catalog", "bridge", "bridge/cloudevent", "bridge/app", "bridge/asyncapi", "bridge/admin", "bridge/membrane", "bridge/membrane/signin", "bridge/sandbox", "bridge/telemetry",
	}, "cmd parses flags and prints; what it runs is in bridge/app, where tests can reach it"},

	"deploy/release":     {nil, "what is shipped is built from outside, as anybody would build it"},
	"deploy/examples/go": {nil, "an application knows a bridge by its addresses only"},
}

func adapter(more ...string) []string {
	return append([]string{"config", "bridge", "bridge/cloudevent"}, more...)
}

// outside is which of our packages may import certain packages of others, and
// why no other may. An entry covers what is below it too, but for the standard
// library.
var outside = []struct {
	path string
	only []string
	why  string
}{
	{"github.com/nats-io/nats-server", []string{"bridge/natsd"}, "the server adds 11 MB and belongs behind one door"},
	{"github.com/nats-io/nats.go", []string{"bridge/bus", "bridge/ledger", "bridge/deadletter", "bridge/natsd", "bridge/app", "deploy/examples/go"}, "the rest speaks the words of bridge, not of NATS"},
	{"github.com/prometheus", []string{"bridge/telemetry"}, "others tell the Observer what happens, not Prometheus"},
	{"github.com/lmittmann/tint", []string{"bridge/telemetry"}, "others log to the slog.Logger that they are given"},
	{"github.com/spf13", []string{"cmd/bridge8x8"}, "only cmd parses command lines"},
	{"github.com/caarlos0/env", []string{"config"}, "only config reads the environment"},
	{"go.yaml.in/yaml", []string{"config"}, "only config reads YAML, strictly and with positions"},
	{"github.com/cloudevents/sdk-go/v2/client", nil, "its engine finds handlers by reflection and drags a logger in; we use its event type"},
	{"github.com/cloudevents/sdk-go/v2/protocol", nil, "its transports know no delay and no terminate; our codecs are in bridge/cloudevent"},
	{"html/template", nil, "it finds methods by name, and so the linker keeps every method of every type: 4 MB of the program"},
	{"text/template", nil, "likewise"},
	{"log", nil, "a global; log/slog is passed in"},
	{"expvar", nil, "it registers itself on the global mux"},
	{"net/http/pprof", nil, "it registers itself on the global mux"},
	{"net/http/httptest", nil, "it is for tests, and adds flags to the program"},
	{"testing", []string{"bridge/bridgetest", "bridge/bridgetest/proxy"}, "it is for tests, and adds flags to the program"},
	{"github.com/google/go-cmp", []string{"bridge/bridgetest"}, "it is for tests, and panics where it cannot compare"},
	{"go.uber.org/goleak", []string{"bridge/bridgetest"}, "it is for tests"},
	{"pgregory.net/rapid", nil, "it is for tests"},
}

// pureIO are packages that a package without I/O has no use for.
var pureIO = []string{"net", "net/http", "os", "os/exec", "syscall", "io/fs"}

// withoutIO do none: they get what they need and return what they made.
var withoutIO = map[string][]string{ // to what it may import all the same
	"bridge":            nil,
	"handlers":          nil,
	"handlers/catalog":  nil,
	"bridge/native":     {"net/http"}, // for http.Header, and no more
	"bridge/cloudevent": {"net/http"}, // likewise
}

func TestImports(t *testing.T) {
	t.Parallel()
	for _, f := range goFiles(t) {
		if f.test {
			continue // a test may use whatever proves its point
		}
		for _, spec := range f.ast.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if problem := importProblem(f.pkg, imported); problem != "" {
				t.Errorf("%s: %s", f.path, problem)
			}
		}
	}
}

// importProblem says why pkg may not import that, or "".
func importProblem(pkg, imported string) string {
	rule, known := house[pkg]
	if !known {
		return fmt.Sprintf("package %q is not in the table of bridge/app/house_test.go: add it, with what it may import and why no more", pkg)
	}
	if ours, ok := strings.CutPrefix(imported, module+"/"); ok && !slices.Contains(rule.may, ours) {
		return fmt.Sprintf("imports %q, which %q may not: %s", ours, pkg, rule.why)
	}
	for _, o := range outside {
		isModule := strings.Contains(o.path, ".") // log/slog is not a part of log
		if imported != o.path && !(isModule && strings.HasPrefix(imported, o.path+"/")) {
			continue
		}
		if !slices.Contains(o.only, pkg) {
			return fmt.Sprintf("imports %q, which %q may not: %s", imported, pkg, o.why)
		}
	}
	if except, ok := withoutIO[pkg]; ok && slices.Contains(pureIO, imported) && !slices.Contains(except, imported) {
		return fmt.Sprintf("imports %q, which %q may not: it does no I/O", imported, pkg)
	}
	return ""
}

func TestImportProblem(t *testing.T) {
	t.Parallel()
	tests := []struct{ pkg, imported, want string }{
		{"bridge/bus", module + "/bridge", ""},
		{"bridge/bus", "github.com/nats-io/nats.go/jetstream", ""},
		{"bridge/bus", "log/slog", ""},
		{
			"bridge/bus", module + "/bridge/ledger",
			`imports "bridge/ledger", which "bridge/bus" may not: adapters meet in bridge/app only: each can be replaced and tested alone`,
		},
		{
			"handlers", "github.com/nats-io/nats.go/jetstream",
			`imports "github.com/nats-io/nats.go/jetstream", which "handlers" may not: the rest speaks the words of bridge, not of NATS`,
		},
		{"bridge", "net/http", `imports "net/http", which "bridge" may not: it does no I/O`},
		{"bridge/bus", "log", `imports "log", which "bridge/bus" may not: a global; log/slog is passed in`},
		{
			"bridge/utils", "fmt",
			`package "bridge/utils" is not in the table of bridge/app/house_test.go: add it, with what it may import and why no more`,
		},
	}
	for _, test := range tests {
		if got := importProblem(test.pkg, test.imported); got != test.want {
			t.Errorf("%s imports %s:\n got %q\nwant %q", test.pkg, test.imported, got, test.want)
		}
	}
}

// A package explains itself in one place, which a reader can find.
func TestEveryPackageHasOneComment(t *testing.T) {
	t.Parallel()
	comments := map[string][]string{}
	for _, f := range goFiles(t) {
		if f.test {
			continue
		}
		if _, seen := comments[f.pkg]; !seen {
			comments[f.pkg] = nil
		}
		if f.ast.Doc != nil {
			comments[f.pkg] = append(comments[f.pkg], f.path)
		}
	}
	for pkg, in := range comments {
		if len(in) != 1 {
			t.Errorf("package %s has %d package comments, want one: %v", pkg, len(in), in)
		}
	}
}

// A sleep is either too short, now and then, or too long, always.
func TestNoTestSleeps(t *testing.T) {
	t.Parallel()
	for _, f := range goFiles(t) {
		if !f.test {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "Sleep" {
				if pkg, ok := s.X.(*ast.Ident); ok && pkg.Name == "time" {
					t.Errorf("%s: time.Sleep in a test: wait on a signal, or poll with a deadline", f.fset.Position(s.Pos()))
				}
			}
			return true
		})
	}
}

// A replaced module builds here and nowhere else.
func TestNoReplacedModules(t *testing.T) {
	t.Parallel()
	for i, line := range lines(t, "go.mod") {
		if strings.HasPrefix(strings.TrimSpace(line), "replace") {
			t.Errorf("go.mod:%d: %s: a replaced module breaks go install for everybody else", i+1, strings.TrimSpace(line))
		}
	}
}

// The top level is what a newcomer sees first, and stays as it is.
func TestTopLevel(t *testing.T) {
	t.Parallel()
	optional := []string{"deploy", "go.sum"}
	want := []string{
		".ci", ".editorconfig", ".gitignore", ".golangci.yml", "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "SECURITY.md",
		"bridge", "cmd", "config", "go.mod", "handlers",
	}
	ignored := []string{".git"}
	for _, line := range lines(t, ".gitignore") {
		if !strings.HasPrefix(line, "#") && line != "" {
			ignored = append(ignored, strings.Trim(line, "/"))
		}
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, entry := range entries {
		name := entry.Name()
		skip := slices.ContainsFunc(ignored, func(pattern string) bool {
			matched, err := path.Match(pattern, name)
			return matched || err != nil
		})
		if !skip && !slices.Contains(optional, name) {
			got = append(got, name)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries of the top level (-want +got):\n%s", diff)
	}
}

// README and Makefile promise the same one command for all tests; CI runs the
// README's.
func TestOneCommandRunsAllTests(t *testing.T) {
	t.Parallel()
	const command = "go test -race ./..."
	readme := strings.Join(lines(t, "README.md"), "\n")
	_, section, _ := strings.Cut(readme, "\n## Tests\n")
	section, _, _ = strings.Cut(section, "\n## ")
	if _, block, _ := strings.Cut(section, "```sh\n"); !strings.HasPrefix(block, command+"\n```") {
		t.Errorf("README.md: the first sh block under \"## Tests\" is not the one line %q", command)
	}
	if !slices.Contains(lines(t, "Makefile"), "\t"+command) {
		t.Errorf("Makefile: no target runs %q", command)
	}
}

type sign struct {
	pattern *regexp.Regexp
	why     string
}

// What belongs to one machine or to one way of fetching modules has no place in
// the source. The patterns are written so that they do not find themselves.
var foreign = []sign{
	{regexp.MustCompile(`(^|[^\w.])/(wor[k]|tm[p]|roo[t]|far[m])/`), "a path of one machine: use a relative one, or t.TempDir"},
	{regexp.MustCompile(`registr[y]\.npmjs\.org|prox[y]\.golang\.org|su[m]\.golang\.org|de[b]\.debian\.org`), "a registry's host: how to reach it is the machine's business"},
}

func TestNothingOfOneMachine(t *testing.T) {
	t.Parallel()
	walk(t, func(name string) {
		if name == "go.sum" {
			return
		}
		for i, line := range lines(t, name) {
			for _, s := range foreign {
				if found := s.pattern.FindString(line); found != "" {
					t.Errorf("%s:%d: %q is %s", name, i+1, strings.TrimSpace(found), s.why)
				}
			}
		}
	})
}

func TestForeignPatterns(t *testing.T) {
	t.Parallel()
	slash := "/"
	tests := map[string]bool{
		"cd " + slash + "work/main":                         true,
		`"` + slash + "tmp/x" + `"`:                         true,
		slash + "root/.cache":                               true,
		"https://registry" + ".npmjs.org/x":                 true,
		"https://example.com/work/orders":                   false,
		"the work/rest balance":                             false,
		"source: /shop/orders":                              false,
		"https://www.npmjs.com/package/@membranehq/sdk":     false,
		"go install github.com/bridge8x8/bridge8x8@v1.0.0/": false,
	}
	for _, line := range slices.Sorted(maps.Keys(tests)) {
		found := slices.ContainsFunc(foreign, func(s sign) bool { return s.pattern.MatchString(line) })
		if found != tests[line] {
			t.Errorf("%q: found %v, want %v", line, found, tests[line])
		}
	}
}

// goFile is one parsed file.
type goFile struct {
	path string // from the root
	pkg  string // its folder from the root
	test bool
	fset *token.FileSet
	ast  *ast.File
}

func goFiles(t *testing.T) []goFile {
	t.Helper()
	var files []goFile
	fset := token.NewFileSet()
	walk(t, func(name string) {
		if path.Ext(name) != ".go" {
			return
		}
		parsed, err := parser.ParseFile(fset, filepath.Join(root, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Error(err)
			return
		}
		files = append(files, goFile{path: name, pkg: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), fset: fset, ast: parsed})
	})
	if len(files) == 0 {
		t.Fatal("found no Go files: the rules would hold for nothing")
	}
	return files
}

// walk visits every file of the source, by its slash-separated path from the
// root. What is installed, built or stored there is not source.
func walk(t *testing.T, visit func(name string)) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name == ".git" || name == "bin" || name == "data" || d.Name() == "node_modules" {
				return fs.SkipDir
			}
			return nil
		}
		visit(name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func lines(t *testing.T, name string) []string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Error(err)
		return nil
	}
	return strings.Split(string(content), "\n")
}

// Every test that the README calls to witness is there.
func TestWitnessesOfTheGuarantees(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, f := range goFiles(t) {
		for _, d := range f.ast.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				there[f.Name.Name] = true
			}
		}
	}
	named := regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllSubmatch(readme, -1)
	if len(named) == 0 {
		t.Error("the README names no test")
	}
	for _, name := range named {
		if !there[string(name[1])] {
			t.Errorf("the README names %s, and there is no such test", name[1])
		}
	}
}
