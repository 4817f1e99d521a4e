package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/bridge8x8/bridge8x8/bridge/membrane"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

func newActions() *cobra.Command {
	return parent(&cobra.Command{
		Use: "actions", Short: "what a connection can do",
		Long: `Finds, shows, makes and runs actions: what a connection can do at 8x8.`,
		Example: `  bridge8x8 actions search "send a text message"
  bridge8x8 actions show send-sms
  bridge8x8 actions run send-sms --input '{"destination":"+12025550100","text":"Hi"}'
  bridge8x8 actions create "cancel a scheduled message"`,
	}, actionsList(), actionsSearch(), actionsShow(), actionsRun(), actionsCreate(), actionsWait(), actionsSync())
}

func actionsList() *cobra.Command {
	var asJSON bool
	var connection string
	cmd := &cobra.Command{
		Use: "list", Short: "list the actions of a connection", Args: noArgs,
		Long:    "Lists the actions of a connection.",
		Example: "  bridge8x8 actions list\n  bridge8x8 actions list --connection 8x8-main --json",
	}
	cmd.RunE = membraneCommand(func(s *session, _ []string) error {
		return s.listActions(connection, "", 0, asJSON)
	})
	connectionFlag(cmd, &connection)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func actionsSearch() *cobra.Command {
	var asJSON bool
	var connection string
	var limit int
	cmd := &cobra.Command{
		Use: "search <intent>", Short: "find actions by what they are to do", Args: one("what the action is to do, in your words"),
		Long:    "Finds the actions of a connection that come closest to what you mean, the closest first.",
		Example: "  bridge8x8 actions search \"send a text message\"\n  bridge8x8 actions search \"who is in this group\" --limit 3 --json",
	}
	cmd.RunE = membraneCommand(func(s *session, args []string) error {
		intent := strings.TrimSpace(args[0])
		switch n := utf8.RuneCountInString(intent); {
		case n == 0:
			return usagef("search needs what the action is to do, in your words")
		case n > membrane.MaxIntent:
			return usagef("say it in %d characters: these are %d", membrane.MaxIntent, n)
		case limit < 1 || limit > 1000:
			return usagef("--limit %d: want a number from 1 to 1000", limit)
		}
		return s.listActions(connection, intent, limit, asJSON)
	})
	connectionFlag(cmd, &connection)
	cmd.Flags().IntVar(&limit, "limit", 10, "how many at most")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// actionRow is an action in a list: its JSON is stable, and has no schemas.
type actionRow struct {
	ID          string `json:"id"`
	Key         string `json:"key,omitempty"`
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	State       string `json:"state"`
	Ready       bool   `json:"ready"`
}

func (s *session) listActions(connection, intent string, limit int, asJSON bool) error {
	c, err := s.connection(connection)
	if err != nil {
		return err
	}
	all, err := s.client.Actions(s.ctx, c.ID, intent, limit)
	if err != nil {
		return err
	}
	items, rows := []actionRow{}, [][]string{}
	for _, a := range all {
		items = append(items, actionRow{a.ID, a.Key, a.Name, a.Description, a.State, a.Ready})
		rows = append(rows, []string{cmp.Or(a.Key, a.ID), a.State, a.Name, a.Description})
	}
	switch {
	case asJSON:
		return s.printJSON(map[string]any{"items": items})
	case len(rows) == 0 && intent != "":
		s.cmd.Printf("nothing comes close; have it made with: bridge8x8 actions create %q\n", intent)
		return nil
	case len(rows) == 0:
		s.cmd.Printf("connection %s has no actions; have one made with: bridge8x8 actions create \"what it is to do\"\n", nameOf(c))
		return nil
	}
	return s.printTable([]string{"ACTION", "STATE", "NAME", "DESCRIPTION"}, rows)
}

func actionsShow() *cobra.Command {
	var asJSON bool
	var connection string
	cmd := &cobra.Command{
		Use: "show <key or id>", Short: "show an action, its input, and a route for it", Args: one("the key or id of an action"),
		Long:    "Shows an action: its state, the fields of its input, and a route to paste into bridge.yaml.",
		Example: "  bridge8x8 actions show send-sms\n  bridge8x8 actions show send-sms --json",
	}
	cmd.RunE = membraneCommand(func(s *session, args []string) error {
		c, a, err := s.actionAt(connection, args[0])
		if err != nil {
			return err
		}
		if asJSON {
			return s.printJSON(a)
		}
		s.facts("key", a.Key, "id", a.ID, "name", a.Name, "description", a.Description, "state", a.State, "ready", yes(a.Ready), "problem", a.Problem)
		if !a.Ready {
			s.cmd.Printf("\n%s\n", actionAdvice(a))
		}
		fields := schemaFields(a.InputSchema)
		s.cmd.Println("\ninput:")
		if len(fields) == 0 {
			s.cmd.Println("  its fields are not described; it takes an object")
		} else {
			var rows [][]string
			for _, f := range fields {
				rows = append(rows, []string{f.name, f.kind, yes(f.required), f.limits, f.description})
			}
			if err := s.printTable([]string{"FIELD", "TYPE", "REQUIRED", "LIMITS", "DESCRIPTION"}, rows); err != nil {
				return err
			}
		}
		s.cmd.Println("\nroute:\n\n" + exampleRoute(a, c, fields))
		return nil
	})
	connectionFlag(cmd, &connection)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// field is a row of the table of an input.
type field struct {
	name, kind, limits, description string
	required, top                   bool
}

// maxDepth bounds the fields shown: a schema may lie within itself.
const maxDepth = 4

// schemaFields lists the fields of a schema, required ones first, those of
// objects and lists below them: address.city, messages[].text.
func schemaFields(schema json.RawMessage) []field {
	var root map[string]any
	if json.Unmarshal(schema, &root) != nil {
		return nil
	}
	var list []field
	var walk func(s map[string]any, prefix string, depth int)
	walk = func(s map[string]any, prefix string, depth int) {
		properties, _ := s["properties"].(map[string]any)
		required := map[string]bool{}
		names, _ := s["required"].([]any)
		for _, n := range names {
			if name, ok := n.(string); ok {
				required[name] = true
			}
		}
		var order []string
		for name := range properties {
			order = append(order, name)
		}
		slices.SortFunc(order, func(a, b string) int {
			if required[a] != required[b] {
				if required[a] {
					return -1
				}
				return 1
			}
			return cmp.Compare(a, b)
		})
		for _, name := range order {
			p, _ := properties[name].(map[string]any)
			kind := kindOf(p)
			list = append(list, field{
				name: prefix + name, kind: kind, limits: limitsOf(p), description: textOf(p["description"], textOf(p["title"], "")),
				required: required[name], top: depth == 0,
			})
			if depth+1 >= maxDepth {
				continue
			}
			walk(p, prefix+name+".", depth+1)
			if items, ok := p["items"].(map[string]any); ok {
				walk(items, prefix+name+"[].", depth+1)
			}
		}
	}
	walk(root, "", 0)
	return list
}

func textOf(value any, otherwise string) string {
	if text, ok := value.(string); ok && text != "" {
		return text
	}
	return otherwise
}

func kindOf(p map[string]any) string {
	var kinds []string
	switch t := p["type"].(type) {
	case string:
		kinds = append(kinds, t)
	case []any:
		for _, one := range t {
			if text, ok := one.(string); ok {
				kinds = append(kinds, text)
			}
		}
	}
	kind := cmp.Or(strings.Join(kinds, " or "), "any")
	if items, ok := p["items"].(map[string]any); ok && kind == "array" {
		kind = "array of " + kindOf(items)
	}
	if format := textOf(p["format"], ""); format != "" {
		kind += " (" + format + ")"
	}
	return kind
}

func limitsOf(p map[string]any) string {
	var parts []string
	between := func(low, high, what string) {
		l, hasLow := p[low].(float64)
		h, hasHigh := p[high].(float64)
		switch {
		case hasLow && hasHigh:
			parts = append(parts, fmt.Sprintf("%v to %v%s", l, h, what))
		case hasLow:
			parts = append(parts, fmt.Sprintf("at least %v%s", l, what))
		case hasHigh:
			parts = append(parts, fmt.Sprintf("at most %v%s", h, what))
		}
	}
	between("minLength", "maxLength", " characters")
	between("minimum", "maximum", "")
	between("minItems", "maxItems", " items")
	if enum, ok := p["enum"].([]any); ok {
		var words []string
		for _, e := range enum {
			words = append(words, fmt.Sprint(e))
		}
		what := "one of "
		if p["allowCustom"] == true {
			what = "such as "
		}
		parts = append(parts, what+strings.Join(words, ", "))
	}
	if pattern := textOf(p["pattern"], ""); pattern != "" {
		parts = append(parts, "like "+pattern)
	}
	if value, ok := p["default"]; ok && value != nil {
		parts = append(parts, fmt.Sprintf("default %v", value))
	}
	return strings.Join(parts, "; ")
}

// exampleRoute is a piece of bridge.yaml that runs the action, with the required
// fields taken from fields of the same names in the event's data.
func exampleRoute(a membrane.ActionDetails, c membrane.ConnectionDetails, fields []field) string {
	quoted := func(s string) string {
		b, _ := json.Marshal(s) // a JSON string is a YAML one
		return string(b)
	}
	var b strings.Builder
	place := "{id: " + quoted(c.ID) + "}"
	if c.Key != "" {
		place = "{key: " + quoted(c.Key) + "}"
	}
	run := "{id: " + quoted(a.ID) + "}"
	if _, known := catalog.Builtin().Lookup(a.Key); known {
		run = a.Key
	}
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(cmp.Or(a.Key, a.ID)))
	fmt.Fprintf(&b, "connections:\n  main: %s\nroutes:\n  - name: %s\n    on: com.example.%s\n    run: %s\n    connection: main\n", place, name, name, run)
	var lines []string
	for _, f := range fields {
		if f.top && f.required {
			lines = append(lines, fmt.Sprintf("      %s: %s\n", quoted(f.name), quoted("${ .data["+quoted(f.name)+"] }")))
		}
	}
	if len(lines) == 0 {
		b.WriteString("    input: {}\n")
	} else {
		b.WriteString("    input:\n" + strings.Join(lines, ""))
	}
	return strings.TrimRight(b.String(), "\n")
}

// actionAdvice says why an action cannot be run, and what to do next.
func actionAdvice(a membrane.ActionDetails) string {
	name := cmp.Or(a.Key, a.ID)
	switch a.State {
	case membrane.StateBuilding:
		return fmt.Sprintf("action %s is still being built; run bridge8x8 actions wait %s", name, name)
	case membrane.StateClientAction:
		return fmt.Sprintf("action %s waits for a person to connect 8x8 again%s; run bridge8x8 connections connect", name, because(a.Errors))
	case membrane.StateConfiguration:
		return fmt.Sprintf("action %s has wrong settings%s; change them in Membrane's console, or describe it in other words: bridge8x8 actions create", name, because(a.Errors))
	case membrane.StateSetupFailed:
		return fmt.Sprintf("action %s could not be made%s; describe it in other words: bridge8x8 actions create", name, because(a.Errors))
	}
	return fmt.Sprintf("action %s cannot be run: %s", name, cmp.Or(a.Problem, "its state is "+a.State))
}

func actionsRun() *cobra.Command {
	var asJSON bool
	var connection, input string
	cmd := &cobra.Command{
		Use: "run <key or id>", Short: "run an action once, now", Args: one("the key or id of an action"),
		Long: `Runs an action once, now, past the bridge: no event, no ledger, no retry. The input is
checked first. Prints the output; the run's id goes to the standard error.`,
		Example: `  bridge8x8 actions run send-sms --input '{"destination":"+12025550100","text":"Hi"}'
  bridge8x8 actions run send-sms --input @sms.json --json
  echo '{}' | bridge8x8 actions run get-account-balance --input -`,
	}
	cmd.RunE = membraneCommand(func(s *session, args []string) error {
		raw, err := readArgument(cmd, "--input", input)
		if err != nil {
			return err
		}
		value, err := inputObject(input, raw)
		if err != nil {
			return err
		}
		c, a, err := s.actionAt(connection, args[0])
		switch {
		case err != nil:
			return err
		case !a.Ready:
			return errors.New(actionAdvice(a))
		case !c.Ready:
			return errors.New(connectionAdvice(c))
		}
		if err := checkInput(a, value); err != nil {
			return err
		}
		ran, err := s.client.RunOnce(s.ctx, c.ID, a.ID, raw)
		if r, ok := errors.AsType[*membrane.Refusal](err); ok {
			switch {
			case r.RunID != "" && r.Status >= 500:
				return fmt.Errorf("Membrane failed (%d) while it ran: %s: %s", r.Status, cmp.Or(r.Message, "it did not say why"), doubt("show "+r.RunID)) //nolint:staticcheck // a name
			case r.Status >= 500 && r.Status != 503: // 503 is a refusal
				return fmt.Errorf("Membrane, or something before it, answered %d: %s", r.Status, doubt("list")) //nolint:staticcheck // a name
			case r.RunID != "":
				cmd.PrintErrf("run %s failed; see bridge8x8 runs show %s\n", r.RunID, r.RunID)
			}
		}
		if err != nil {
			return err
		}
		if asJSON {
			return s.printJSON(ran)
		}
		if ran.RunID != "" {
			cmd.PrintErrf("run %s succeeded\n", ran.RunID)
		}
		return s.printRaw(ran.Output)
	})
	connectionFlag(cmd, &connection)
	cmd.Flags().StringVar(&input, "input", "{}", "the input: `JSON`, @file, or - for the standard input")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// inputObject reads an input, and says where it is no JSON; it quotes no more than
// the one character that is wrong.
func inputObject(given string, raw []byte) (map[string]any, error) {
	what := "--input"
	if given == "-" || strings.HasPrefix(given, "@") {
		what += " " + given
	}
	const like = `write it like '{"text":"Hi"}', or give a file: --input @file.json`
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil, usagef("%s holds nothing; %s", what, like)
	}
	var value any
	err := json.Unmarshal(raw, &value)
	if at, ok := errors.AsType[*json.SyntaxError](err); ok {
		before := raw[:min(max(int(at.Offset)-1, 0), len(raw))]
		line := bytes.Count(before, []byte("\n")) + 1
		column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
		return nil, usagef("%s is not JSON: line %d, column %d: %s; %s", what, line, column, at.Error(), like)
	}
	object, ok := value.(map[string]any)
	if err != nil || !ok {
		return nil, usagef("%s is JSON, but no object; %s", what, like)
	}
	return object, nil
}

// printRaw prints JSON as it is, on lines that a person can read.
func (s *session) printRaw(raw json.RawMessage) error {
	var pretty bytes.Buffer
	if json.Indent(&pretty, raw, "", "  ") != nil {
		pretty.Reset()
		pretty.Write(raw)
	}
	pretty.WriteByte('\n')
	_, err := s.cmd.OutOrStdout().Write(pretty.Bytes())
	return err
}

// checkInput finds all that is wrong with an input before anything is sent. The
// messages name fields and rules, and hold no values.
func checkInput(a membrane.ActionDetails, input map[string]any) error {
	if len(a.InputSchema) == 0 || string(a.InputSchema) == "null" {
		return nil
	}
	schema := catalog.ParseOffered(a.InputSchema) // one that cannot be read is the service's to check
	var lines []string
	for _, p := range schema.ValidateAll(input) {
		lines = append(lines, p.Error())
	}
	if len(lines) == 0 {
		return nil
	}
	name := cmp.Or(a.Key, a.ID)
	return fmt.Errorf("nothing was run: %s; see bridge8x8 actions show %s", strings.Join(lines, "; "), name)
}

func actionsCreate() *cobra.Command {
	var asJSON, wait bool
	var connection, name string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "create <description>", Short: "have Membrane make an action", Args: one("what the action is to do, in your words"),
		Long: `Has Membrane make an action of a connection from what you say it is to do, and waits
until it is built. Exit code 0 if it can be run then, else 1, with why not.`,
		Example: "  bridge8x8 actions create \"cancel a scheduled message\"\n  bridge8x8 actions create \"delete a contact\" --wait=false --json",
	}
	cmd.RunE = membraneCommand(func(s *session, args []string) error {
		intent := strings.TrimSpace(args[0])
		if intent == "" {
			return usagef("create needs what the action is to do, in your words")
		}
		if timeout <= 0 {
			return usagef("--timeout %v: must be longer than nothing", timeout)
		}
		c, err := s.connection(connection)
		if err != nil {
			return err
		}
		a, err := s.client.CreateAction(s.ctx, c.ID, intent, name)
		if err != nil {
			return err
		}
		if !wait {
			if asJSON {
				return s.printJSON(a)
			}
			cmd.Printf("action %s is %s (id %s); run bridge8x8 actions wait %s\n", cmp.Or(a.Key, a.ID), a.State, a.ID, cmp.Or(a.Key, a.ID))
			return nil
		}
		return s.waitAction(c, a, timeout, asJSON)
	})
	connectionFlag(cmd, &connection)
	cmd.Flags().StringVar(&name, "name", "", "name of the action")
	cmd.Flags().BoolVar(&wait, "wait", true, "wait until it is built; --wait=false ends at once, and bridge8x8 actions wait goes on")
	timeoutFlag(cmd, &timeout, 10*time.Minute)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func actionsWait() *cobra.Command {
	var asJSON bool
	var connection string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "wait <key or id>", Short: "wait until an action is built", Args: one("the key or id of an action"),
		Long:    "Waits while an action is BUILDING. Exit code 0 if it can be run then, else 1, with why not.",
		Example: "  bridge8x8 actions wait cancel-scheduled-message --timeout 2m",
	}
	cmd.RunE = membraneCommand(func(s *session, args []string) error {
		c, a, err := s.actionAt(connection, args[0])
		if err != nil {
			return err
		}
		return s.waitAction(c, a, timeout, asJSON)
	})
	connectionFlag(cmd, &connection)
	timeoutFlag(cmd, &timeout, 10*time.Minute)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (s *session) waitAction(c membrane.ConnectionDetails, a membrane.ActionDetails, timeout time.Duration, asJSON bool) error {
	name := cmp.Or(a.Key, a.ID)
	a, err := built(s, "action "+name, "actions wait "+name, timeout, a,
		func(a membrane.ActionDetails) bool { return a.State == membrane.StateBuilding },
		func(ctx context.Context, left time.Duration) (membrane.ActionDetails, error) {
			return s.client.ActionDetails(ctx, c.ID, a.ID, left)
		})
	if err != nil {
		return err
	}
	if asJSON {
		if err := s.printJSON(a); err != nil || a.Ready {
			return err
		}
		return errSilent
	}
	if !a.Ready {
		return errors.New(actionAdvice(a))
	}
	s.cmd.Printf("action %s is ready (id %s)\n", cmp.Or(a.Key, a.ID), a.ID)
	return nil
}
