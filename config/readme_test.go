package config

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The README's table of variables is what the code reads.
func TestReadmeTable(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(readme), "<!-- environment: this table is compared with the code by a test -->\n")
	got, _, ok := strings.Cut(after, "<!-- /environment -->")
	if !ok {
		t.Fatal("README.md has no table between the environment comments")
	}
	var want strings.Builder
	want.WriteString("| Variable | Default | Meaning |\n| --- | --- | --- |\n")
	for _, v := range EnvReference() {
		standard := v.Default
		if standard != "" {
			standard = "`" + standard + "`"
		}
		fmt.Fprintf(&want, "| `%s` | %s | %s |\n", v.Name, standard, v.Doc)
	}
	if diff := cmp.Diff(want.String(), got); diff != "" {
		t.Errorf("README.md differs from the code (-code +README):\n%s", diff)
	}
}
