package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge/app"
	"github.com/bridge8x8/bridge8x8/config"
)

// The page's tables of permissions are what the code asks for.
func TestNATSPage(t *testing.T) {
	t.Parallel()
	const path, begin, end = "../../deploy/nats.md", "./cmd/bridge8x8 -->\n", "<!-- /permissions -->"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, after, _ := strings.Cut(string(page), begin)
	got, rest, ok := strings.Cut(after, end)
	if !ok {
		t.Fatal("the page has no place for permissions")
	}
	want := permissionTables(t)
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(path, []byte(before+begin+want+end+rest), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("deploy/nats.md differs from the code; UPDATE=1 writes it anew (-code +page):\n%s", diff)
	}
}

func permissionTables(t *testing.T) string {
	t.Helper()
	lists := func(commands, sink, existing bool, sources ...config.Source) map[string][]app.Permission {
		env, problems := config.LoadEnv(nil)
		if problems.Errors() {
			t.Fatal(problems)
		}
		env.Bridge.Commands = commands
		if sink {
			env.Bridge.SinkURL = "http://127.0.0.1:8090"
		}
		file := &config.File{Sources: sources, Streams: config.StreamsMake}
		if existing {
			file.Streams = config.StreamsExisting
		}
		by := map[string][]app.Permission{}
		for _, a := range access {
			by[a.command] = a.of(&env, file)
		}
		return by
	}
	sources := []config.Source{
		{Name: "orders", NATS: config.SourceNATS{Stream: "ORDERS", Subjects: []string{"orders.>"}}},
		{Name: "alerts", NATS: config.SourceNATS{Subjects: []string{"alerts.*"}, Core: true}},
	}
	all, plain, existing := lists(true, true, false, sources...), lists(false, false, false), lists(false, false, true)
	commands, sink := lists(true, false, false), lists(false, true, false)
	has := func(list []app.Permission, p app.Permission) bool { return slices.Contains(list, p) }
	var b strings.Builder
	b.WriteString("\n| | Subject of `serve` | Needed | Only |\n| --- | --- | --- | --- |\n")
	for _, p := range all["serve"] {
		only := ""
		switch {
		case has(plain["serve"], p) && !has(existing["serve"], p):
			only = "unless `streams: existing`"
		case has(plain["serve"], p):
		case has(commands["serve"], p):
			only = "`BRIDGE_COMMANDS=true`"
		case has(sink["serve"], p):
			only = "`BRIDGE_SINK_URL`"
		default:
			only = "with that source"
		}
		queue := ""
		if p.Queue != "" {
			queue = fmt.Sprintf(", queue group `%s`", p.Queue)
		}
		fmt.Fprintf(&b, "| %s | `%s`%s | %s | %s |\n", p.Verb, p.Subject, queue, p.For, only)
	}
	b.WriteString("\n| | Subject of the other commands | `send` | `tail` | `trace` | `dead` |\n| --- | --- | --- | --- | --- | --- |\n")
	var listed []string
	for _, a := range access[1:] {
		for _, p := range all[a.command] {
			if slices.Contains(listed, p.String()) {
				continue
			}
			listed = append(listed, p.String())
			fmt.Fprintf(&b, "| %s | `%s` |", p.Verb, p.Subject)
			for _, other := range access[1:] {
				mark := " "
				if slices.ContainsFunc(all[other.command], func(q app.Permission) bool { return q.String() == p.String() }) {
					mark = " x "
				}
				b.WriteString(mark + "|")
			}
			b.WriteString("\n")
		}
	}
	b.WriteString("\n")
	return b.String()
}
