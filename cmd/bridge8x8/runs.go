package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/bridge8x8/bridge8x8/bridge/membrane"
)

func newRuns() *cobra.Command {
	return parent(&cobra.Command{
		Use: "runs", Short: "what Membrane has run",
		Long: `Reads Membrane's logs of action runs: those of the bridge, and of everybody else.`,
		Example: `  bridge8x8 runs list
  bridge8x8 runs show 66f1c0ffee00000000000001`,
	}, runsList(), runsShow())
}

func runsList() *cobra.Command {
	var asJSON bool
	var connection, status string
	var since time.Duration
	var limit int
	cmd := &cobra.Command{
		Use: "list", Short: "list runs", Args: noArgs,
		Long: `Lists runs in Membrane's order, without inputs and outputs. A run shows once it has
ended, and not at all where the workspace's logs are switched off.`,
		Example: "  bridge8x8 runs list --since 1h\n  bridge8x8 runs list --status error --json",
	}
	cmd.RunE = membraneCommand(func(s *session, _ []string) error {
		switch {
		case status != "" && status != "success" && status != "error":
			return usagef("--status %q: want success or error", status)
		case limit < 1:
			return usagef("--limit %d: want 1 or more", limit)
		case since < 0:
			return usagef("--since %v: how long ago, such as 1h", since)
		}
		f := membrane.RunFilter{Status: status, Limit: limit}
		if since > 0 {
			f.From = time.Now().Add(-since)
		}
		if connection != "" {
			c, err := s.connection(connection)
			if err != nil {
				return err
			}
			f.ConnectionID = c.ID
		}
		all, err := s.client.Runs(s.ctx, f)
		if err != nil {
			return err
		}
		var rows [][]string
		for i := range all {
			r := &all[i]
			why := ""
			if r.Error != nil {
				why = because([]membrane.Trouble{*r.Error})
				why = trimColon(why)
			}
			rows = append(rows, []string{r.ID, r.Action, r.Status, r.CreatedAt, duration(r.DurationMs), eventOf(r.Meta), why})
			r.Input, r.Output = nil, nil // a list is no place for texts and numbers; show has them
		}
		switch {
		case asJSON:
			return s.printJSON(map[string]any{"items": all})
		case len(rows) == 0:
			cmd.Println("no run fits; one shows here once it has ended")
			return nil
		}
		return s.printTable([]string{"RUN", "ACTION", "STATUS", "CREATED", "TOOK", "EVENT", "ERROR"}, rows)
	})
	f := cmd.Flags()
	f.StringVar(&connection, "connection", "", "`key or id` of the connection (default: all)")
	f.StringVar(&status, "status", "", "success or error")
	f.DurationVar(&since, "since", 0, "how long ago at most, such as 1h")
	f.IntVar(&limit, "limit", 20, "how many at most")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func trimColon(s string) string {
	if len(s) > 2 && s[:2] == ": " {
		return s[2:]
	}
	return s
}

func duration(ms float64) string {
	if ms <= 0 {
		return ""
	}
	return fmt.Sprintf("%.0fms", ms)
}

// eventOf is the event that the bridge made a run for.
func eventOf(meta json.RawMessage) string {
	var m struct{ EventID string }
	if json.Unmarshal(meta, &m) != nil {
		return ""
	}
	return m.EventID
}

func runsShow() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show <run id>", Short: "show a run, with its input and output", Args: one("the id of a run"),
		Long:    "Shows a run with its input and output, which may hold phone numbers and texts.",
		Example: "  bridge8x8 runs show 66f1c0ffee00000000000001",
	}
	cmd.RunE = membraneCommand(func(s *session, args []string) error {
		r, err := s.client.RunDetails(s.ctx, args[0])
		if isUnknown(err) {
			return fmt.Errorf("there is no log of a run %q: it is not over, its log is late or hidden, or it never was; see bridge8x8 runs list", args[0])
		}
		if err != nil {
			return err
		}
		if asJSON {
			return s.printJSON(r)
		}
		why := ""
		if r.Error != nil {
			why = trimColon(because([]membrane.Trouble{*r.Error}))
		}
		s.facts("run", r.ID, "action", r.Action, "status", r.Status, "error", why, "connection", r.ConnectionID,
			"created", r.CreatedAt, "completed", r.CompletedAt, "took", duration(r.DurationMs), "event", eventOf(r.Meta))
		for _, part := range []struct {
			name string
			raw  json.RawMessage
		}{{"input", r.Input}, {"output", r.Output}, {"meta", r.Meta}} {
			if len(part.raw) > 0 {
				cmd.Println("\n" + part.name + ":")
				if err := s.printRaw(part.raw); err != nil {
					return err
				}
			}
		}
		return nil
	})
	jsonFlag(cmd, &asJSON)
	return cmd
}
