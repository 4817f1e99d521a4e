package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/bridge8x8/bridge8x8/bridge/app"
)

type traceFlags struct {
	source  string
	since   time.Duration
	timeout time.Duration
	json    bool
}

func newTrace() *cobra.Command {
	var f traceFlags
	cmd := &cobra.Command{
		Use: "trace <event id>", Short: "print the life of an event",
		Long: `Prints what became of an event, in the order of time: when it was received,
claimed and ended on each route, its results, its dead letters and what 8x8 said
about it. It needs NATS (NATS_URL) and neither Membrane nor a configuration, and
shows no data of the event: no phone number and no text.

An event is known by its source and id. Without --source every event with the id
is shown, and the whole ledger is gone through for them. Exit code 1: there is none.`,
		Example: `  bridge8x8 trace evt-17
  bridge8x8 trace evt-17 --source /shop --since 24h
  bridge8x8 trace evt-17 --json | jq '.events[].pairs[] | {route, state}'`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) != 1:
				return usagef("trace takes one event id, and got %d", len(args))
			case args[0] == "":
				return usagef("trace takes an event id, and got an empty one")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return trace(cmd, args[0], f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.source, "source", "", "the event's source, exactly as it was sent (default: any)")
	flags.DurationVar(&f.since, "since", 0, "leave out what the streams stored longer ago than this (default: read all)")
	flags.DurationVar(&f.timeout, "timeout", time.Minute, "how long reading may take")
	flags.BoolVar(&f.json, "json", false, "print one JSON document")
	return cmd
}

func trace(cmd *cobra.Command, id string, f traceFlags) error {
	switch {
	case f.since < 0:
		return usagef("--since %v: must not be negative", f.since)
	case f.timeout <= 0:
		return usagef("--timeout %v: must be positive", f.timeout)
	case cmd.Flags().Changed("source") && f.source == "":
		return usagef("--source is empty: leave it out to look for every source")
	}
	env, err := environment(slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	dial, cancelDial := context.WithTimeout(cmd.Context(), 10*time.Second)
	defer cancelDial()
	client, err := app.Dial(dial, env)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
	defer cancel()
	o := app.TraceOptions{ID: id, Source: f.source}
	if f.since > 0 {
		o.Since = time.Now().Add(-f.since)
	}
	t, err := client.Trace(ctx, o)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil && cmd.Context().Err() == nil {
		return fmt.Errorf("%w after %v: give --source, --since or a longer --timeout", err, f.timeout)
	}
	if err != nil {
		return err
	}
	if f.json {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		if err := enc.Encode(t); err != nil {
			return err
		}
	} else {
		printTrace(cmd.OutOrStdout(), t)
	}
	if len(t.Events) == 0 {
		return notFound(t, f)
	}
	return nil
}

// notFound says where was looked in vain.
func notFound(t *app.Trace, f traceFlags) error {
	var said strings.Builder
	fmt.Fprintf(&said, "nothing is known of an event with the id %q", t.ID)
	if f.source != "" {
		fmt.Fprintf(&said, " from %q", f.source)
	}
	if f.since > 0 {
		fmt.Fprintf(&said, " within %v", f.since)
	}
	said.WriteString("; looked in")
	for _, s := range t.Searched {
		said.WriteString("\n  " + s.String())
	}
	return errors.New(said.String())
}

func printTrace(w io.Writer, t *app.Trace) {
	for i, e := range t.Events {
		if i > 0 {
			_, _ = fmt.Fprintln(w)
		}
		_, _ = fmt.Fprintf(w, "event %s from %s  %s", shown(e.ID), shown(e.Source), shown(dash(e.Type)))
		if e.Subject != "" {
			_, _ = fmt.Fprintf(w, "  subject %s", shown(e.Subject))
		}
		_, _ = fmt.Fprintln(w)
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, s := range e.Steps {
			_, _ = fmt.Fprintf(tw, "  %s\t%s\t%s\t%s\n", s.At.Local().Format("2006-01-02 15:04:05.000"), s.What, dash(routeOf(s.Route, s.Replay)), shown(words(s)))
		}
		for _, p := range e.Pairs {
			_, _ = fmt.Fprintf(tw, "  %s\t%s\t%s\t%s\n", "now", p.State, routeOf(p.Route, p.Replay), dash(stands(p)))
		}
		_ = tw.Flush()
	}
}

func routeOf(route string, replay int) string {
	if replay > 0 {
		return route + " (replay " + strconv.Itoa(replay) + ")"
	}
	return route
}

// words are what a step is about, beside its route.
func words(s app.Step) string {
	var w []string
	add := func(format, value string) {
		if value != "" && value != "0" {
			w = append(w, fmt.Sprintf(format, value))
		}
	}
	place := func() {
		if s.Stream != "" {
			w = append(w, s.Stream+" "+strconv.FormatUint(s.Seq, 10))
		}
	}
	switch s.What {
	case app.StepReceived, app.StepSetAside:
		place()
	case app.StepClaimed:
		w = append(w, s.Action)
		add("over %s", s.Connection)
		add("attempt %s", strconv.Itoa(s.Attempt))
	case app.StepWaiting:
		add("%s", s.Reason)
	case app.StepEnded:
		add("%s", s.State)
		add("%s", s.Reason)
		add("run %s", s.ActionRunID)
		if s.DurationMs > 0 {
			w = append(w, strconv.FormatInt(s.DurationMs, 10)+" ms")
		}
		if s.Message != "" {
			w = append(w, s.Message)
		}
	case app.StepResult:
		add("%s", s.State)
		place()
	case app.StepDeadLetter:
		add("%s", s.Reason)
		place()
	case app.StepFrom8x8:
		add("%s", s.Type)
		add("%s", s.State)
		add("(%s)", s.Detail)
	}
	return strings.Join(w, "  ")
}

// stands is where a pair stands, in words.
func stands(p app.TracedPair) string {
	switch {
	case p.NotBefore != nil:
		return "not before " + p.NotBefore.Local().Format("2006-01-02 15:04:05.000")
	case p.Overturned:
		return "was held as outcome_unknown before"
	}
	if p.ActionRunID != "" {
		return "run " + p.ActionRunID
	}
	return ""
}

// shown is a text from outside on a terminal: what cannot be printed is quoted.
func shown(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}
