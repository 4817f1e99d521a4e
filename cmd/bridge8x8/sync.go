package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bridge8x8/bridge8x8/bridge/app"
	"github.com/bridge8x8/bridge8x8/bridge/membrane"
	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

func actionsSync() *cobra.Command {
	var asJSON, check bool
	cmd := &cobra.Command{
		Use: "sync", Short: "write down what the connections offer", Args: noArgs,
		Long: `Asks Membrane what the connections of BRIDGE_CONFIG offer (and MEMBRANE_CONNECTION)
and writes it beside that file: bridge.actions.json for bridge.yaml. With it, check
knows every action without Membrane, serve starts without it, and a change at the
service shows as a difference. Keep it with bridge.yaml.

With --check nothing is written: it prints what has changed since, and exits 1 if
anything has.`,
		Example: `  bridge8x8 actions sync
  bridge8x8 actions sync --check
  bridge8x8 actions sync --check --json`,
	}
	cmd.RunE = membraneCommand(func(s *session, _ []string) error { return s.syncActions(check, asJSON) })
	cmd.Flags().BoolVar(&check, "check", false, "write nothing; exit 1 if anything has changed")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// difference is one change of an action; its JSON is stable.
type difference struct {
	Connection string `json:"connection"` // "" is MEMBRANE_CONNECTION
	Action     string `json:"action"`
	Change     string `json:"change"` // added, removed or changed
	// Details are the places that changed, such as "inputSchema.properties.text.maxLength: 160, now 1530".
	Details []string `json:"details,omitempty"`
}

// synced is what sync found; its JSON is stable.
type synced struct {
	File        string       `json:"file"`
	Connections int          `json:"connections"`
	Actions     int          `json:"actions"`
	Changed     bool         `json:"changed"`
	Differences []difference `json:"differences"`
}

func (s *session) syncActions(check, asJSON bool) error {
	env := &s.env
	file, problems := config.Load(env.Bridge.Config, os.LookupEnv)
	if file == nil {
		if env.Membrane.Connection == "" {
			return problems
		}
		file = &config.File{Path: env.Bridge.Config} // MEMBRANE_CONNECTION alone is a beginning
	} else if problems.Errors() {
		return problems
	}
	list := app.ToAsk(file, env)
	if env.Membrane.Connection != "" && !slices.ContainsFunc(list, func(a app.Asked) bool { return a.Name == "" }) {
		commands := *env
		commands.Bridge.Commands = true
		list = app.ToAsk(file, &commands)
	}
	if len(list) == 0 {
		return fmt.Errorf("%s has no connection whose actions could be listed; add one under connections:, or set MEMBRANE_CONNECTION", env.Bridge.Config)
	}
	path := app.SyncedPath(env.Bridge.Config)
	before, err := app.ReadSynced(path)
	if err != nil && check {
		return err
	}
	now, err := app.Ask(s.ctx, s.client, list)
	if err != nil {
		return fmt.Errorf("nothing was written: %w", err)
	}
	encoded, err := now.Encode()
	if err != nil {
		return err
	}
	r := synced{File: path, Connections: len(now), Differences: differencesOf(before, now)}
	for _, offers := range now {
		r.Actions += len(offers)
	}
	was, _ := os.ReadFile(path)
	r.Changed = len(r.Differences) > 0 || !bytes.Equal(was, encoded)
	if !check && r.Changed {
		if err := replaceFile(path, encoded); err != nil {
			return err
		}
	}
	if asJSON {
		if err := s.printJSON(r); err != nil {
			return err
		}
	} else {
		for _, d := range r.Differences {
			s.cmd.Println(d.String())
		}
		switch {
		case !r.Changed:
			s.cmd.Printf("%s is up to date: %s of %s\n", path, count(r.Actions, "action"), count(r.Connections, "connection"))
		case check:
			s.cmd.Printf("%s is out of date; bridge8x8 actions sync writes it again\n", path)
		default:
			s.cmd.Printf("wrote %s: %s of %s\n", path, count(r.Actions, "action"), count(r.Connections, "connection"))
		}
	}
	if check && r.Changed {
		return errSilent
	}
	return nil
}

// replaceFile puts a whole file in the place of another, so that a bridge which
// watches it never reads half of one.
func replaceFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func (d difference) String() string {
	where := cmp.Or(d.Connection, "MEMBRANE_CONNECTION") + ": " + d.Action
	switch d.Change {
	case "added":
		return "+ " + where
	case "removed":
		return "- " + where
	}
	return "~ " + where + "\n    " + strings.Join(d.Details, "\n    ")
}

func differencesOf(before, now app.Synced) []difference {
	found := []difference{}
	names := map[string]bool{}
	for _, s := range []app.Synced{before, now} {
		for name := range s {
			names[name] = true
		}
	}
	for _, connection := range slices.Sorted(maps.Keys(names)) {
		was, is := byName(before[connection]), byName(now[connection])
		actions := maps.Clone(was)
		maps.Copy(actions, is)
		for _, name := range slices.Sorted(maps.Keys(actions)) {
			d := difference{Connection: connection, Action: membrane.Printable(name), Change: "changed"}
			old, hadIt := was[name]
			current, hasIt := is[name]
			switch {
			case !hadIt:
				d.Change = "added"
			case !hasIt:
				d.Change = "removed"
			default:
				if d.Details = changes("", old, current, nil); len(d.Details) == 0 {
					continue
				}
			}
			found = append(found, d)
		}
	}
	return found
}

// byName are actions by key, or else by id, as trees. Of several with one key
// all but the first are told apart by their ids.
func byName(offers []catalog.Offer) map[string]any {
	all := map[string]any{}
	for _, o := range offers {
		name := cmp.Or(o.Key, o.ID)
		if _, taken := all[name]; taken {
			name += " (" + o.ID + ")"
		}
		var tree any
		encoded, _ := json.Marshal(o) // it was JSON before
		dec := json.NewDecoder(bytes.NewReader(encoded))
		dec.UseNumber()
		_ = dec.Decode(&tree)
		all[name] = tree
	}
	return all
}

// changes lists where two trees differ, by path.
func changes(path string, was, is any, found []string) []string {
	old, isObject := was.(map[string]any)
	current, stillIs := is.(map[string]any)
	if isObject && stillIs {
		names := maps.Clone(old)
		maps.Copy(names, current)
		for _, name := range slices.Sorted(maps.Keys(names)) {
			at := strings.TrimPrefix(path+"."+name, ".")
			before, hadIt := old[name]
			now, hasIt := current[name]
			switch {
			case !hadIt:
				found = append(found, membrane.Printable(at+": added "+short(now)))
			case !hasIt:
				found = append(found, membrane.Printable(at+": removed "+short(before)))
			default:
				found = changes(at, before, now, found)
			}
		}
		return found
	}
	if !reflect.DeepEqual(was, is) {
		found = append(found, membrane.Printable(path+": "+shortFrom(was, is)+", now "+shortFrom(is, was)))
	}
	return found
}

// longestShown is how much of a value is shown.
const longestShown = 120

func short(value any) string { return cut(asJSON(value)) }

// shortFrom is short, from where a long value differs from another.
func shortFrom(value, other any) string {
	text, beside := asJSON(value), asJSON(other)
	same := 0
	for same < min(len(text), len(beside)) && text[same] == beside[same] {
		same++
	}
	const before = 20
	if len(text) <= longestShown && len(beside) <= longestShown || same <= before {
		return cut(text)
	}
	return "…" + cut(text[same-before:])
}

func cut(text []rune) string {
	if len(text) > longestShown {
		return string(text[:longestShown]) + "…"
	}
	return string(text)
}

func asJSON(value any) []rune {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(value) // it was JSON before
	return []rune(strings.TrimSpace(b.String()))
}
