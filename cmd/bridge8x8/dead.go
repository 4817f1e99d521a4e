package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/time/rate"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/app"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

func newDead() *cobra.Command {
	cmd := &cobra.Command{
		Use: "dead", Short: "dead letters: what was given up on, and what to do about it", Args: noArgs,
		Long: `A dead letter is an event that the bridge gave up on for one route, with the
reason. Its ID is its sequence in the stream BRIDGE_DEAD, and is never used again.
Look at letters, replay them (once what was wrong is mended), or discard them.`,
		Example: `  bridge8x8 dead list
  bridge8x8 dead show 17
  bridge8x8 dead replay --route order-shipped --since 2h
  bridge8x8 dead discard 17 18`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDeadList(), newDeadShow(), newDeadReplay(), newDeadDiscard())
	return cmd
}

func newDeadList() *cobra.Command {
	var f letterFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "print the dead letters, the oldest first", Args: noArgs,
		Long: `Prints the dead letters, the oldest first: of all, or of those that every filter
given takes. Numbers and texts are not shown; "dead show" has the event.`,
		Example: `  bridge8x8 dead list
  bridge8x8 dead list --reason outcome_unknown
  bridge8x8 dead list --type 'com.acme.order.*' --since 2026-01-02T03:04:05Z --until 1h
  bridge8x8 dead list --json | jq '.letters[].id'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := f.filter(time.Now())
			if err != nil {
				return err
			}
			client, done, err := dialBridge(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			letters, err := client.Letters(cmd.Context(), filter)
			if err != nil {
				return err
			}
			return printLetters(cmd.OutOrStdout(), letters, asJSON)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the letters as JSON")
	return cmd
}

func newDeadShow() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show <id>", Short: "print all that is known about a dead letter",
		Long: `Prints a dead letter: why it was given up on, the event itself, the input that the
route would send now if its configuration (BRIDGE_CONFIG) is at hand, what the
ledger knows, and what can be done. It shows phone numbers and texts.`,
		Example: `  bridge8x8 dead show 17
  bridge8x8 dead show 17 --json | jq .event`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("show takes the id of one dead letter; try: bridge8x8 dead list")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := letterIDs(args)
			if err != nil {
				return err
			}
			env, err := environment(slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			client, done, err := dialBridge(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			file, err := client.Letter(cmd.Context(), ids[0])
			if err != nil {
				return fmt.Errorf("dead letter %d: %w", ids[0], err)
			}
			return showLetter(cmd.OutOrStdout(), file, &env, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the letter as JSON")
	return cmd
}

func newDeadReplay() *cobra.Command {
	d := decider{verb: "replay", done: "replayed"}
	cmd := &cobra.Command{
		Use: "replay [id...]", Short: "handle the events of dead letters once more",
		Long: `Lets a running bridge handle the events of dead letters once more, each by the one
route of its letter: single ones by their ids, or all that the filters take. A
letter is gone at once; if its replay fails, that is a new letter. Replayed twice,
or by two people at once, it is sent once.

An event that may have been sent already (outcome_unknown, unledgered), or has
been (follow_up_failed), may arrive twice. Before such a replay the bridge looks for evidence once more: an outcome
that became known is published, and nothing is sent. Filters leave these letters
out unless --include-unknown is given.`,
		Example: `  bridge8x8 dead replay 17
  bridge8x8 dead replay --route order-shipped --reason mapping
  bridge8x8 dead replay --all --since 1d --rate 5 --yes`,
		RunE: func(cmd *cobra.Command, args []string) error { return d.run(cmd, args) },
	}
	d.flags(cmd)
	cmd.Flags().Float64Var(&d.rate, "rate", 10, "letters per `second`")
	cmd.Flags().BoolVar(&d.unknown, "include-unknown", false, "with filters: also what may have been sent already")
	return cmd
}

func newDeadDiscard() *cobra.Command {
	d := decider{verb: "discard", done: "discarded", unknown: true, discard: true}
	cmd := &cobra.Command{
		Use: "discard [id...]", Short: "give up on the events of dead letters",
		Long: `Gives up on the events of dead letters: single ones by their ids, or all that the
filters take. The letter is gone; the ledger records that a person gave up, and a
failed result with reason "discarded" says so to consumers, once. What is no
CloudEvent (malformed), or came under another event's id (id_reused), has no
result, and is only removed.`,
		Example: `  bridge8x8 dead discard 17
  bridge8x8 dead discard --reason malformed --until 30d --yes`,
		RunE: func(cmd *cobra.Command, args []string) error { return d.run(cmd, args) },
	}
	d.flags(cmd)
	return cmd
}

// dialBridge connects to the bridge of the environment.
func dialBridge(ctx context.Context) (*app.Client, func(), error) {
	env, err := environment(slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	client, err := app.Dial(ctx, env)
	if err != nil {
		return nil, nil, err
	}
	return client, client.Close, nil
}

// --- which letters -------------------------------------------------------------

type letterFlags struct{ route, reason, eventType, since, until string }

func (f *letterFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.route, "route", "", "letters of this `route`")
	flags.StringVar(&f.reason, "reason", "", "letters with this `reason`, such as outcome_unknown")
	flags.StringVar(&f.eventType, "type", "", "letters of events of this `type`; a * at the end stands for anything")
	flags.StringVar(&f.since, "since", "", "letters from this `time` on: 2026-01-02T03:04:05Z, 2026-01-02, or how long ago: 90m, 2h, 7d")
	flags.StringVar(&f.until, "until", "", "letters up to this `time`, in the same forms")
}

func (f *letterFlags) any() bool { return *f != letterFlags{} }

func (f *letterFlags) filter(now time.Time) (app.LetterFilter, error) {
	filter := app.LetterFilter{Route: identityOf(f.route), Reason: bridge.Reason(f.reason), Type: f.eventType}
	if f.reason != "" && !slices.Contains(bridge.Reasons, filter.Reason) {
		words := make([]string, len(bridge.Reasons))
		for i, r := range bridge.Reasons {
			words[i] = string(r)
		}
		return filter, usagef("--reason %q is none; want one of %s", f.reason, strings.Join(words, ", "))
	}
	if i := strings.IndexByte(f.eventType, '*'); i >= 0 && i < len(f.eventType)-1 {
		return filter, usagef("--type %q: a * may only be the last character", f.eventType)
	}
	var err error
	if filter.Since, err = moment("--since", f.since, now); err != nil {
		return filter, err
	}
	if filter.Until, err = moment("--until", f.until, now); err != nil {
		return filter, err
	}
	if !filter.Since.IsZero() && !filter.Until.IsZero() && filter.Since.After(filter.Until) {
		return filter, usagef("--since %s is after --until %s: no letter is both", f.since, f.until)
	}
	return filter, nil
}

// moment reads a point in time: RFC 3339, a day (its beginning, here), or how
// long before now.
func moment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, text, time.Local); err == nil {
		return t, nil
	}
	ago, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok && err != nil {
		var n int
		if n, err = strconv.Atoi(days); err == nil && n <= 36500 {
			ago = time.Duration(n) * 24 * time.Hour
		}
	}
	if err != nil || ago < 0 {
		return time.Time{}, usagef("%s %q is no time; write 2026-01-02T03:04:05Z, 2026-01-02, or how long ago: 90m, 2h, 7d", flag, text)
	}
	return now.Add(-ago), nil
}

// identityOf is the identity of a route, which a renamed one has of old, if the
// configuration is at hand to tell.
func identityOf(route string) string {
	if route == "" {
		return ""
	}
	env, problems := config.LoadEnv(environMap())
	if problems.Errors() {
		return route
	}
	table, _ := tableAtHand(&env)
	if table == nil {
		return route
	}
	for _, h := range table.Handlers() {
		if h.Name == route {
			return h.Identity
		}
	}
	return route
}

// tableAtHand compiles the configuration. The text says why there is none.
func tableAtHand(env *config.Env) (*handlers.Table, string) {
	path := env.Bridge.Config
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Sprintf("there is no %s here; set BRIDGE_CONFIG to the bridge's", path)
	}
	file, problems := config.Load(path, os.LookupEnv)
	if file == nil || problems.Errors() {
		return nil, path + " has problems; try: bridge8x8 check"
	}
	table, problems := handlers.Compile(file, catalog.Builtin(), handlers.Options{Commands: env.Bridge.Commands, DefaultConnection: env.Membrane.Connection})
	if problems.Errors() {
		return nil, path + " has problems; try: bridge8x8 check"
	}
	return table, ""
}

func letterIDs(args []string) ([]uint64, error) {
	ids := make([]uint64, 0, len(args))
	for _, arg := range args {
		id, err := strconv.ParseUint(arg, 10, 64)
		if err != nil || id == 0 {
			return nil, usagef("%q is no id of a dead letter, which is a number; try: bridge8x8 dead list", arg)
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// --- list ----------------------------------------------------------------------

// letterJSON is a letter for programs; its fields are stable.
type letterJSON struct {
	ID          uint64        `json:"id"`
	Stored      time.Time     `json:"stored"`
	Reason      bridge.Reason `json:"reason"`
	Message     string        `json:"message"`
	Route       string        `json:"route,omitempty"`
	Action      string        `json:"action,omitempty"`
	Connection  string        `json:"connection,omitempty"`
	Cause       *letterCause  `json:"cause,omitempty"` // absent for what is no CloudEvent
	Replay      int           `json:"replay"`
	Attempts    int           `json:"attempts"`
	ActionRunID string        `json:"actionRunId,omitempty"`
	ClaimedAt   time.Time     `json:"claimedAt,omitzero"`
	Try         string        `json:"try,omitempty"`
	Key         bridge.Key    `json:"key,omitempty"`
	Source      string        `json:"source,omitempty"` // the configured one
	Origin      letterOrigin  `json:"origin"`
	MayBeSent   bool          `json:"mayBeSent"`
	Replayable  bool          `json:"replayable"`
}

type letterCause struct {
	Source string `json:"source"`
	ID     string `json:"id"`
	Type   string `json:"type"`
}

type letterOrigin struct {
	Stream   string `json:"stream"`
	Sequence uint64 `json:"sequence"`
}

func newLetterJSON(l *app.Letter) letterJSON {
	j := letterJSON{
		ID: l.ID, Stored: l.Stored.UTC(), Reason: l.Reason, Message: l.Message, Route: l.Route, Action: l.Action, Connection: l.Connection,
		Replay: l.Replay, Attempts: l.Attempts, ActionRunID: l.RunID, ClaimedAt: l.ClaimedAt, Try: l.Try, Key: l.Key, Source: l.Source,
		Origin: letterOrigin{l.Stream, l.Seq}, MayBeSent: l.MayBeSent(), Replayable: l.Replayable() == nil,
	}
	if c := l.Cause; c.ID != "" {
		j.Cause = &letterCause{c.Source, c.ID, c.Type}
	}
	return j
}

func printLetters(out io.Writer, letters []app.Letter, asJSON bool) error {
	if asJSON {
		list := make([]letterJSON, len(letters))
		for i := range letters {
			list[i] = newLetterJSON(&letters[i])
		}
		return printJSON(out, map[string]any{"letters": list})
	}
	if len(letters) == 0 {
		_, err := fmt.Fprintln(out, "no dead letters")
		return err
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "ID\tSTORED\tREASON\tROUTE\tTYPE\tEVENT\tMESSAGE")
	for i := range letters {
		l := &letters[i]
		_, _ = fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", l.ID, l.Stored.Local().Format(time.DateTime), l.Reason,
			dash(clean(l.Route)), dash(clean(l.Cause.Type)), dash(clean(l.Cause.ID)), clean(l.Message))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, count(len(letters), "dead letter"))
	return err
}

func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// clean keeps what came from outside from steering a terminal or breaking a table.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// --- show ----------------------------------------------------------------------

// letterFileJSON is all about a letter for programs; its fields are stable.
type letterFileJSON struct {
	letterJSON
	Event json.RawMessage `json:"event"` // null if it is gone, or none
	// Body is what came, in base64, where it is no CloudEvent.
	Body []byte `json:"body,omitempty"`
	// OriginalGone: the event was too large for the letter, and its message is gone.
	OriginalGone bool `json:"originalGone"`
	// Input is what the route would send now, or InputProblem why that is not known.
	Input        map[string]any `json:"input,omitempty"`
	InputProblem string         `json:"inputProblem,omitempty"`
	Record       *bridge.Record `json:"record,omitempty"`
	Next         *bridge.Record `json:"next,omitempty"`
}

func showLetter(out io.Writer, f *app.LetterFile, env *config.Env, asJSON bool) error {
	j := letterFileJSON{letterJSON: newLetterJSON(&f.Letter), OriginalGone: f.Gone, Record: f.Record, Next: f.Next}
	var err error
	switch {
	case f.Event != nil:
		if j.Event, err = cloudevent.ToJSON(f.Event); err != nil {
			return err
		}
		j.Input, j.InputProblem = mappedInput(f, env)
	case f.Gone:
		j.InputProblem = "the event is gone"
	default:
		j.Body, j.InputProblem = f.Data, "it is no CloudEvent"
	}
	if asJSON {
		return printJSON(out, j)
	}
	p := &page{out: out}
	p.head(f)
	p.text("\nEvent, as it came (message %d of stream %s):\n", f.Seq, clean(f.Stream))
	switch {
	case f.Gone:
		p.text("  gone: it was too large to be kept in the letter, and message %d has left stream %s since\n", f.Seq, clean(f.Stream))
	case f.Event != nil:
		p.json(j.Event)
	case utf8.Valid(f.Data):
		p.text("  no CloudEvent: %q\n", f.Data)
	default:
		p.text("  no CloudEvent, and no text: %s\n", count(len(f.Data), "byte"))
	}
	if f.Route != "" {
		p.text("\nInput that the route makes of it now:\n")
		if j.InputProblem != "" {
			p.text("  not known: %s\n", clean(j.InputProblem))
		} else {
			p.json(j.Input)
		}
	}
	p.record(f)
	p.choice(f)
	return p.err
}

// mappedInput is what the route would send of the event now, without our reference.
func mappedInput(f *app.LetterFile, env *config.Env) (map[string]any, string) {
	if f.Route == "" {
		return nil, "it was for no route"
	}
	table, why := tableAtHand(env)
	if table == nil {
		return nil, why
	}
	h, ok := table.ByIdentity(f.Route)
	if !ok {
		return nil, fmt.Sprintf("%s has no route %q", env.Bridge.Config, f.Route)
	}
	input, err := h.Input(handlers.NewViewRaw(&f.Event.Event, f.Event.RawSource, f.Event.RawID))
	if err != nil {
		return nil, err.Error()
	}
	return input, ""
}

// page writes a letter for people.
type page struct {
	out io.Writer
	err error
}

func (p *page) text(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.out, format, args...)
	}
}

func (p *page) row(name, value string) {
	if value != "" {
		p.text("%-12s  %s\n", name, clean(value))
	}
}

func (p *page) json(v any) {
	body, err := json.MarshalIndent(v, "  ", "  ")
	if err != nil {
		p.err = cmp.Or(p.err, err)
		return
	}
	p.text("  %s\n", body)
}

func (p *page) head(f *app.LetterFile) {
	p.text("Dead letter %d\n", f.ID)
	p.row("stored", f.Stored.Local().Format(time.RFC3339))
	p.row("reason", string(f.Reason))
	p.row("message", f.Message)
	p.row("route", f.Route)
	p.row("action", f.Action)
	p.row("connection", f.Connection)
	if c := f.Cause; c.ID != "" {
		p.row("event", c.Type+" "+c.ID+" from "+c.Source)
	}
	p.row("taken from", f.Source)
	if f.Replay > 0 {
		p.row("replay", strconv.Itoa(f.Replay))
	}
	p.row("attempts", strconv.Itoa(f.Attempts))
	p.row("run id", f.RunID)
	if !f.ClaimedAt.IsZero() {
		p.row("claimed at", f.ClaimedAt.Local().Format(time.RFC3339Nano))
	}
	p.row("try", f.Try)
}

func (p *page) record(f *app.LetterFile) {
	if f.Key == "" {
		return
	}
	p.text("\nIn the ledger:\n")
	if f.Reason == bridge.ReasonIDReused {
		p.text("  what follows is about the event that had this id first\n")
	}
	r := f.Record
	if r == nil {
		p.text("  nothing any more: records of what has ended are kept for BRIDGE_RETENTION\n")
	} else {
		line := fmt.Sprintf("%s after %s", r.State, count(r.Attempts, "attempt"))
		if r.Reason != "" {
			line += ", " + string(r.Reason)
		}
		if !r.ConcludedAt.IsZero() {
			line += ", since " + r.ConcludedAt.Local().Format(time.RFC3339)
		}
		p.text("  %s\n", line)
		if r.Message != "" && r.Message != f.Message {
			p.text("  %s\n", clean(r.Message))
		}
		if len(r.Details) > 0 {
			p.text("  the answer to the last attempt:\n")
			p.json(r.Details)
		}
		if len(r.Output) > 0 {
			p.text("  its output:\n")
			p.json(r.Output)
		}
	}
	if n := f.Next; n != nil {
		p.text("  replay %d of it: %s", n.Replay, n.State)
		if n.Reason != "" {
			p.text(", %s", n.Reason)
		}
		p.text("\n")
	}
}

func (p *page) choice(f *app.LetterFile) {
	p.text("\nWhat can be done:\n")
	discard := func(what string) { p.text("  bridge8x8 dead discard %d   %s\n", f.ID, what) }
	err := f.Replayable()
	switch {
	case err != nil:
		p.text("  it cannot be replayed: %s\n", err)
		discard("removes the letter")
		return
	case f.Gone:
		p.text("  it cannot be replayed: its event is gone\n")
		discard("gives up on it: consumers get a failed result, \"discarded\"")
		return
	case f.Reason == bridge.ReasonOutcomeUnknown:
		p.text("  Nobody knows whether it was sent. If the action has come about where it shows\n" +
			"  (at the recipient, or in 8x8's own log), discard the letter.\n")
		p.text("  bridge8x8 dead replay %d    looks for evidence once more; without any it is sent, maybe for the second time\n", f.ID)
	case f.Reason == bridge.ReasonFollowUpFailed:
		p.text("  Its action has run; what the route waits for did not come about.\n")
		p.text("  bridge8x8 dead replay %d    runs the action once more\n", f.ID)
	case f.MayBeSent():
		p.text("  It may have been sent already.\n")
		p.text("  bridge8x8 dead replay %d    sends it, maybe for the second time\n", f.ID)
	default:
		p.text("  bridge8x8 dead replay %d    handles it once more, by this route\n", f.ID)
	}
	discard("gives up on it: consumers get a failed result, \"discarded\"")
}

// --- replay and discard --------------------------------------------------------

// decider replays or discards letters.
type decider struct {
	verb, done string
	discard    bool
	letterFlags
	all, unknown, yes, json bool
	rate                    float64 // letters per second; 0 for no limit

	report decisionReport
}

// decisionReport is what became of each letter; its JSON is stable.
type decisionReport struct {
	Replayed  []uint64          `json:"replayed,omitempty"`
	Discarded []uint64          `json:"discarded,omitempty"`
	Gone      []uint64          `json:"gone,omitempty"`    // somebody was quicker
	LeftOut   []uint64          `json:"leftOut,omitempty"` // by filters: they may have been sent already, or cannot be replayed
	Failed    []decisionFailure `json:"failed,omitempty"`
}

type decisionFailure struct {
	ID    uint64 `json:"id"`
	Error string `json:"error"`
}

func (d *decider) flags(cmd *cobra.Command) {
	d.add(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&d.all, "all", false, "all letters; the same as no filter, said on purpose")
	flags.BoolVar(&d.yes, "yes", false, "do not ask first")
	flags.BoolVar(&d.json, "json", false, "print what became of each letter as JSON")
}

func (d *decider) run(cmd *cobra.Command, args []string) error {
	ids, err := letterIDs(args)
	if err != nil {
		return err
	}
	filter, err := d.filter(time.Now())
	switch {
	case err != nil:
		return err
	case len(ids) > 0 && (d.any() || d.all):
		return usagef("give ids or filters, not both")
	case len(ids) == 0 && !d.any() && !d.all:
		return usagef("which dead letters? give their ids, filters such as --route, or --all")
	case len(ids) > 0 && !d.discard && d.unknown:
		return usagef("--include-unknown goes with filters: a letter named by its id is meant")
	case !d.discard && (d.rate <= 0 || d.rate > 1000):
		return usagef("--rate %v: want more than 0 and at most 1000 letters per second", d.rate)
	case !d.yes && !isPerson(cmd.InOrStdin()):
		return usagef("%s asks first, and there is no terminal to ask on: add --yes", d.verb)
	}
	client, done, err := dialBridge(cmd.Context())
	if err != nil {
		return err
	}
	defer done()
	decisions, err := client.Decisions(cmd.Context())
	if err != nil {
		return err
	}
	letters, err := d.choose(cmd.Context(), decisions, ids, filter)
	if err != nil {
		return err
	}
	if ok, err := d.confirm(cmd, letters); err != nil || !ok {
		return err
	}
	stopped := d.decide(cmd, decisions, letters)
	err = d.tell(cmd.OutOrStdout())
	return cmp.Or(stopped, err)
}

// choose finds the letters that are meant. What cannot be is in the report.
func (d *decider) choose(ctx context.Context, decisions *app.Decisions, ids []uint64, filter app.LetterFilter) ([]app.Letter, error) {
	var letters []app.Letter
	for _, id := range ids {
		l, err := decisions.Find(ctx, id)
		switch {
		case errors.Is(err, app.ErrLetterGone):
			d.report.Gone = append(d.report.Gone, id)
		case errors.Is(err, app.ErrNoLetter):
			d.fail(id, err)
		case err != nil:
			return nil, err
		case !d.discard && l.Replayable() != nil:
			d.fail(id, fmt.Errorf("it cannot be replayed: %w", l.Replayable()))
		default:
			letters = append(letters, l)
		}
	}
	if len(ids) > 0 {
		return letters, nil
	}
	for i := range decisions.Letters {
		switch l := &decisions.Letters[i]; {
		case !filter.Takes(l):
		case !d.discard && (l.Replayable() != nil || l.MayBeSent() && !d.unknown):
			d.report.LeftOut = append(d.report.LeftOut, l.ID)
		default:
			letters = append(letters, *l)
		}
	}
	return letters, nil
}

func (d *decider) fail(id uint64, err error) {
	d.report.Failed = append(d.report.Failed, decisionFailure{id, err.Error()})
}

// confirm asks whether to go on.
func (d *decider) confirm(cmd *cobra.Command, letters []app.Letter) (bool, error) {
	if d.yes || len(letters) == 0 {
		return true, nil
	}
	unknown := 0
	for i := range letters {
		if letters[i].MayBeSent() {
			unknown++
		}
	}
	question := fmt.Sprintf("%s %s", d.verb, count(len(letters), "dead letter"))
	if unknown > 0 && !d.discard {
		question += fmt.Sprintf(" (%d of which may have been sent already, and may arrive twice)", unknown)
	}
	errs := cmd.ErrOrStderr()
	_, _ = fmt.Fprintf(errs, "%s? [y/N] ", question)
	answer, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true, nil
	}
	_, _ = fmt.Fprintln(errs, "nothing was done")
	return false, errSilent
}

// isPerson says whether somebody can answer on in.
func isPerson(in io.Reader) bool {
	f, ok := in.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	nobody, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, nobody)
}

func (d *decider) decide(cmd *cobra.Command, decisions *app.Decisions, letters []app.Letter) error {
	ctx := cmd.Context()
	pace := rate.NewLimiter(rate.Inf, 1)
	if d.rate > 0 {
		pace.SetLimit(rate.Limit(d.rate))
	}
	bar := progress{out: cmd.ErrOrStderr(), what: d.done, total: len(letters), on: isTerminal(cmd.ErrOrStderr())}
	defer bar.end()
	for i := range letters {
		l := &letters[i]
		if err := pace.Wait(ctx); err != nil {
			return fmt.Errorf("stopped after %d of %s", i, count(len(letters), "dead letter"))
		}
		decide, into := decisions.Replay, &d.report.Replayed
		if d.discard {
			decide, into = decisions.Discard, &d.report.Discarded
		}
		switch err := decide(ctx, l); {
		case err == nil:
			*into = append(*into, l.ID)
		case errors.Is(err, app.ErrLetterGone):
			d.report.Gone = append(d.report.Gone, l.ID)
		case errors.Is(err, app.ErrOriginalGone):
			d.fail(l.ID, fmt.Errorf("it cannot be replayed: %w; discard the letter", err))
		default:
			d.fail(l.ID, err)
		}
		bar.step(i + 1)
	}
	return nil
}

func (d *decider) tell(out io.Writer) error {
	r := &d.report
	failed := error(nil)
	if len(r.Failed) > 0 {
		failed = errSilent
	}
	if d.json {
		return errors.Join(printJSON(out, r), failed)
	}
	for _, f := range r.Failed {
		_, _ = fmt.Fprintf(out, "%d: %s\n", f.ID, clean(f.Error))
	}
	line := fmt.Sprintf("%s: %s", d.done, count(len(r.Replayed)+len(r.Discarded), "dead letter"))
	if n := len(r.Gone); n > 0 {
		line += fmt.Sprintf("; %d gone before", n)
	}
	if n := len(r.Failed); n > 0 {
		line += fmt.Sprintf("; %d failed", n)
	}
	_, _ = fmt.Fprintln(out, line)
	if n := len(r.LeftOut); n > 0 {
		_, _ = fmt.Fprintf(out, "left out: %s that may have been sent already (--include-unknown takes those) or cannot be replayed\n", count(n, "dead letter"))
	}
	return failed
}

// progress is one line on a terminal that is written over and over.
type progress struct {
	out   io.Writer
	what  string
	total int
	on    bool
	last  time.Time
}

func (p *progress) step(n int) {
	const width = 30
	if now := time.Now(); p.on && (n == p.total || now.Sub(p.last) > 100*time.Millisecond) {
		p.last = now
		done := width * n / p.total
		_, _ = fmt.Fprintf(p.out, "\r[%s%s] %d of %d %s", strings.Repeat("#", done), strings.Repeat(".", width-done), n, p.total, p.what)
	}
}

func (p *progress) end() {
	if p.on && !p.last.IsZero() {
		_, _ = fmt.Fprintln(p.out)
	}
}
