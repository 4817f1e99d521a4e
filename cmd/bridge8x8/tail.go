package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/bridge8x8/bridge8x8/bridge/app"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
)

func newTail() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "tail", Short: "print outcomes as they happen", Args: noArgs,
		Long: `Prints results, events from 8x8 and dead letters as they happen, until it is
interrupted. With --json: results and events from 8x8 as CloudEvents, one a line.`,
		Example: `  bridge8x8 tail
  bridge8x8 tail --json | jq 'select(.type | endswith(".failed"))'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			env, err := environment(slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			dial, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
			defer cancel()
			client, err := app.Dial(dial, env)
			if err != nil {
				return err
			}
			defer client.Close()
			p := &printer{out: cmd.OutOrStdout(), json: asJSON}
			stop, err := client.Follow(cmd.Context(), p.print)
			if err != nil {
				return err
			}
			defer stop()
			<-cmd.Context().Done()
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one CloudEvent per line")
	return cmd
}

// printer writes what is seen, one line each.
type printer struct {
	mu   sync.Mutex
	out  io.Writer
	json bool
}

func (p *printer) print(s app.Seen) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.json {
		if s.What == app.SawDeadLetter {
			return // its failure, if it has one, is a result too
		}
		if line, err := cloudevent.ToJSON(&s.Event); err == nil {
			_, _ = fmt.Fprintf(p.out, "%s\n", line)
		}
		return
	}
	_, _ = fmt.Fprintln(p.out, line(s))
}

// line is one thing that happened in words. It shows no numbers and no texts.
func line(s app.Seen) string {
	at := time.Now().Format("15:04:05.000")
	switch s.What {
	case app.SawDeadLetter:
		id := s.Event.RawID
		if s.Malformed {
			id = "(no CloudEvent)"
		}
		return fmt.Sprintf("%s  dead letter  %-14s  route %s  event %s: %s", at, s.Reason, dash(s.Route), id, s.Message)
	case app.SawFrom8x8:
		_, cause := app.Causation(&s.Event)
		var data struct {
			Status struct{ State, Detail string } `json:"status"`
		}
		_ = json.Unmarshal(s.Event.Data(), &data)
		what := data.Status.State
		if data.Status.Detail != "" {
			what += " (" + data.Status.Detail + ")"
		}
		return fmt.Sprintf("%s  from 8x8     %s  %s  for event %s", at, s.Event.Type(), dash(what), dash(cause))
	default:
		var data app.ResultData
		_ = json.Unmarshal(s.Event.Data(), &data)
		if data.Action == "" { // its route gave it another form
			_, id := app.Causation(&s.Event)
			ended := "succeeded"
			if s.Failed {
				ended = "failed"
			}
			return fmt.Sprintf("%s  %-11s  %s  %s  event %s", at, ended, s.Action, s.Event.Type(), id)
		}
		if e := data.Error; e != nil {
			return fmt.Sprintf("%s  failed       %s  route %s  event %s  %s: %s", at, data.Action, data.Route, data.Cause.ID, e.Reason, e.Message)
		}
		return fmt.Sprintf("%s  succeeded    %s  route %s  event %s  %d ms", at, data.Action, data.Route, data.Cause.ID, data.DurationMs)
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
