package handlers

import (
	"testing"

	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// compileText compiles a file given as text, and fails the test on any problem of config's.
func compileText(t testing.TB, text string, o Options) (*Table, *config.File, config.Problems) {
	t.Helper()
	f, problems := config.Parse("bridge.yaml", []byte(text), func(string) (string, bool) { return "value", true })
	if problems.Errors() {
		t.Fatalf("the file does not load:\n%v", problems)
	}
	table, problems := Compile(f, catalog.Builtin(), o)
	return table, f, problems
}

func TestSampleCompilesAndPassesItsTests(t *testing.T) {
	t.Parallel()
	for name, text := range map[string][]byte{"sample.yaml": config.Sample(), "auto-reply.yaml": config.AutoReply()} {
		table, f, problems := compileText(t, string(text), Options{})
		if len(problems) != 0 {
			t.Fatalf("%s: problems:\n%v", name, problems)
		}
		results := RunTests(table, f)
		if len(results) < 3 {
			t.Fatalf("%s: %d tests ran", name, len(results))
		}
		for _, r := range results {
			if !r.OK {
				t.Errorf("%s: %s, %s: %q", name, r.Route, r.Name, r.Problems)
			}
		}
	}
}
