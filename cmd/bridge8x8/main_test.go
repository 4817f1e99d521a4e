package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
	"github.com/bridge8x8/bridge8x8/config"
)

// The program itself is run by the scripts in testdata/script, as a process of
// its own with an environment of its own.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"bridge8x8": main})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			if filepath.Base(e.WorkDir) == "script-dead" {
				e.Setenv("NATS_URL", bridgeForScripts(t, filepath.Join(e.WorkDir, "bridge.yaml")))
			}
			return os.WriteFile(filepath.Join(e.WorkDir, "sample.yaml"), config.Sample(), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   scriptExits,
			"events":  scriptEvents,
			"letters": scriptLetters,
			"sandbox": scriptSandbox,
			"decide":  scriptDecide,
			"decides": scriptDecides,
			"control": scriptControl,
			"route":   scriptRoute,
			"serve":   scriptServe,

			"promised": scriptPromised,
			"effects":  scriptEffects,
			"run-id":   scriptRunID,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// bridgeForScripts runs a bridge with the routes of a file, and returns where its
// NATS is. One message that is no CloudEvent has come to it already.
func bridgeForScripts(t *testing.T, path string) string {
	t.Helper()
	routes, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	box := bridgetest.NewSandbox(t, sandbox.Options{})
	b := bridgetest.Start(t, bridgetest.Options{YAML: string(routes), Sandbox: box})
	box.SetWebhook("", "") // a receipt would tell what the scripts hold as unknown
	conn, err := nats.Connect(b.NATSURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Request("bridge.events.junk", []byte("no event"), bridgetest.Deadline); err != nil {
		t.Fatal(err)
	}
	bridgetest.Await(t, "the dead letter of what is no event", func() error {
		stream, err := conn.Request("$JS.API.STREAM.INFO.BRIDGE_DEAD", nil, bridgetest.Deadline)
		if err == nil && !strings.Contains(string(stream.Data), `"messages":1,`) {
			err = errors.New("there is none")
		}
		return err
	})
	return b.NATSURL
}

// scriptExits is "exits CODE program args…": exec with a certain exit code.
func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code program [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d; it said\n%s%s", got, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

// scriptLetters is "letters N": waits until there are so many dead letters.
func scriptLetters(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: letters number")
	}
	deadline := time.Now().Add(bridgetest.Deadline)
	for {
		ts.Check(ts.Exec("bridge8x8", "dead", "list"))
		if strings.HasSuffix(ts.ReadFile("stdout"), "\n"+args[0]+" dead letters\n") {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("in vain waited for %s dead letters; there are\n%s", args[0], ts.ReadFile("stdout"))
		}
	}
}

// scriptEvents is "events type…": the last output is one CloudEvent a line, and
// each type is that of one of them. "type@id" is one whose cause has that id.
func scriptEvents(ts *testscript.TestScript, neg bool, args []string) {
	seen := map[string]bool{}
	lines := bufio.NewScanner(strings.NewReader(ts.ReadFile("stdout")))
	for lines.Scan() {
		var e struct{ SpecVersion, ID, Source, Type, CausationID, CausationSource string }
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			ts.Fatalf("%v in the line %q", err, lines.Text())
		}
		if e.SpecVersion != "1.0" || e.ID == "" || e.Source == "" || e.Type == "" {
			ts.Fatalf("no CloudEvent: %s", lines.Text())
		}
		seen[e.Type] = true
		if e.CausationID != "" && e.CausationSource != "" {
			seen[e.Type+"@"+e.CausationID] = true
		}
	}
	ts.Check(lines.Err())
	for _, want := range args {
		if seen[want] == neg {
			ts.Fatalf("%q: found %v, among %v", want, seen[want], slices.Sorted(maps.Keys(seen)))
		}
	}
}

// Every command says what it does, and shows how it is called.
func TestEveryCommandHasExamples(t *testing.T) {
	t.Parallel()
	commands := newRoot().Commands()
	for _, cmd := range commands {
		if !slices.Contains([]string{"completion", "help"}, cmd.Name()) {
			commands = append(commands, cmd.Commands()...)
		}
	}
	for _, cmd := range commands {
		if cmd.Short == "" || cmd.Short[0] >= 'A' && cmd.Short[0] <= 'Z' && cmd.Name() != "sandbox" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: %q is no lower-case phrase", cmd.Name(), cmd.Short)
		}
		if !strings.Contains(cmd.Example, cmd.CommandPath()) {
			t.Errorf("%s: no example shows how it is called: %q", cmd.Name(), cmd.Example)
		}
		for line := range strings.Lines(cmd.Long + "\n" + cmd.Example) {
			if len([]rune(strings.TrimRight(line, "\n"))) > 100 {
				t.Errorf("%s: a line of its help is longer than 100 characters: %s", cmd.Name(), line)
			}
		}
	}
}
