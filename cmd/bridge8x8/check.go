package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/app"
	"github.com/bridge8x8/bridge8x8/bridge/membrane"
	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

func newCheck() *cobra.Command {
	var asJSON, live bool
	cmd := &cobra.Command{
		Use: "check [file...]", Short: "what is wrong with the configuration",
		Long: `Checks everything about the configuration that can be known without running it:
the environment, each file (default: BRIDGE_CONFIG), every expression, filter and
input, and runs the routes' own tests. All problems are reported at once.

With --live it also asks NATS and Membrane: permissions and streams, the token,
each connection's state, and each action; and the sink, if there is one, with a
request (OPTIONS) that has no effect. Exit code 1 if there is any error.`,
		Example: `  bridge8x8 check
  bridge8x8 check routes/*.yaml --json
  bridge8x8 check --live`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c := checker{cmd: cmd, json: asJSON, ctx: cmd.Context()}
			return c.run(args, live)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	cmd.Flags().BoolVar(&live, "live", false, "also ask NATS and Membrane")
	return cmd
}

// report is what check found; its JSON is stable.
type report struct {
	OK       bool            `json:"ok"`
	Problems []reportProblem `json:"problems"`
	Tests    []reportTest    `json:"tests"`
	Live     []reportLive    `json:"live,omitempty"`
	routes   int
}

type reportProblem struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	Col  int    `json:"column,omitempty"`
	config.Problem
}

type reportTest struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"`
	handlers.TestResult
}

type reportLive struct {
	What  string `json:"what"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
	Note  string `json:"note,omitempty"`
}

type checker struct {
	ctx  context.Context
	cmd  *cobra.Command
	json bool
	report
}

func (c *checker) run(paths []string, live bool) error {
	c.OK, c.Problems, c.Tests = true, []reportProblem{}, []reportTest{}
	environ := environMap()
	env, problems := config.LoadEnv(environ)
	c.add(problems)
	c.add(app.CheckBuild(&env))
	if len(paths) == 0 {
		paths = []string{env.Bridge.Config}
	}
	var files []*config.File
	for _, path := range paths {
		if file := c.file(path, &env); file != nil {
			files = append(files, file)
		}
	}
	if live && c.OK {
		c.live(&env, files)
	}
	c.print()
	if !c.OK {
		return errSilent
	}
	return nil
}

func (c *checker) file(path string, env *config.Env) *config.File {
	file, problems := config.Load(path, os.LookupEnv)
	if file == nil {
		if path != env.Bridge.Config {
			for i := range problems {
				problems[i].Hint = "" // it is about BRIDGE_CONFIG
			}
		}
		c.add(problems)
		return nil
	}
	synced, err := app.ReadSynced(app.SyncedPath(path))
	if err != nil {
		problems = append(problems, config.Problem{
			Pos: config.Pos{File: app.SyncedPath(path)}, Level: config.LevelError, Code: "actions-unreadable", Msg: err.Error(), Hint: "bridge8x8 actions sync writes it again",
		})
	}
	known := synced.Known(true)
	table, more := handlers.Compile(file, catalog.Builtin(), handlers.Options{
		Commands: env.Bridge.Commands, DefaultConnection: env.Membrane.Connection, Actions: known,
	})
	problems = append(problems, news(problems, more)...)
	problems = append(problems, news(problems, config.Check(env, file))...)
	problems = append(problems, env.CheckListeners(file)...)
	slices.SortStableFunc(problems, func(a, b config.Problem) int {
		return cmp.Or(cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Col, b.Pos.Col))
	})
	c.add(problems)
	c.routes += len(file.Routes)
	if problems.Errors() {
		return nil
	}
	for _, t := range handlers.RunTests(table, file) {
		c.OK = c.OK && t.OK
		c.Tests = append(c.Tests, reportTest{File: t.Pos.File, Line: t.Pos.Line, TestResult: t})
	}
	return file
}

// news are the later problems that the earlier ones did not cause: what could
// not be read is missing from the file, and is missed wherever it is used.
func news(earlier, later config.Problems) config.Problems {
	if !earlier.Errors() {
		return later
	}
	return slices.DeleteFunc(slices.Clone(later), func(p config.Problem) bool {
		return p.Pos.Line == 0 || slices.ContainsFunc(earlier, func(e config.Problem) bool {
			return e.Level == config.LevelError && e.Pos == p.Pos
		})
	})
}

func (c *checker) add(problems config.Problems) {
	for _, p := range problems {
		c.Problems = append(c.Problems, reportProblem{File: p.Pos.File, Line: p.Pos.Line, Col: p.Pos.Col, Problem: p})
	}
	c.OK = c.OK && !problems.Errors()
}

// live asks NATS and Membrane what only they know.
func (c *checker) live(env *config.Env, files []*config.File) {
	ask := func(what string, f func(context.Context) error) bool {
		ctx, cancel := context.WithTimeout(c.ctx, 10*time.Second)
		defer cancel()
		l := reportLive{What: what, OK: true}
		if err := f(ctx); err != nil {
			l.OK, l.Error, c.OK = false, err.Error(), false
			if f, ok := errors.AsType[*bridge.Failure](err); ok {
				l.Error = f.Message // its kind is about events
			}
		}
		c.Live = append(c.Live, l)
		return l.OK
	}
	c.liveNATS(ask, env, files)
	if env.Bridge.SinkURL != "" {
		said := ""
		ask("sink", func(ctx context.Context) (err error) {
			said, err = app.AskSink(ctx, env, versionText())
			return err
		})
		c.Live[len(c.Live)-1].Note = said
	}
	var client *membrane.Client
	ok := ask("membrane: token", func(ctx context.Context) error {
		signIn, err := storedSignIn(env)
		if err != nil {
			return err
		}
		if problems := env.RequireMembrane(); problems.Errors() && signIn == nil {
			return problems
		}
		m := env.Membrane
		client, err = membrane.New(membrane.Options{
			SignIn:  signIn,
			BaseURL: m.APIURL, Token: m.Token, WorkspaceKey: m.WorkspaceKey, WorkspaceSecret: m.WorkspaceSecret,
			TenantKey: m.TenantKey, RunLimit: m.RunLimit, UserAgent: "bridge8x8/" + versionText(),
		})
		if err != nil {
			return err
		}
		_, err = client.Self(ctx)
		return err
	})
	if !ok {
		return
	}
	defer client.Close()
	for _, file := range files {
		places := map[string]config.Connection{}
		for _, conn := range file.Connections {
			places[conn.Name] = conn
			if conn.Tenant.Kind != config.KindNone {
				continue // whose it is, each event says
			}
			ask("connection "+conn.Name, func(ctx context.Context) error { return healthy(ctx, client, conn.ID+conn.Key) })
			c.runLogs(ask, client, conn, env.Bridge.Name)
		}
		for _, r := range file.Routes {
			conn := places[r.Connection]
			if conn.Tenant.Kind != config.KindNone || r.Request != nil {
				continue
			}
			names := []string{r.RunKey + r.RunID}
			if r.Then != nil && r.Then.RunKey+r.Then.RunID != "" {
				names = append(names, r.Then.RunKey+r.Then.RunID)
			}
			for _, name := range names {
				ask("action "+name+" of route "+r.Name, func(ctx context.Context) error { return runnable(ctx, client, conn, name) })
			}
		}
		c.fit(ask, client, file, env)
	}
}

// fit asks what the connections offer, and says of each route whether it fits.
func (c *checker) fit(ask func(string, func(context.Context) error) bool, client *membrane.Client, file *config.File, env *config.Env) {
	var offered app.Synced
	if !ask("actions of the connections", func(ctx context.Context) (err error) {
		offered, err = app.Ask(ctx, client, app.ToAsk(file, env))
		return err
	}) {
		return
	}
	synced, _ := app.ReadSynced(app.SyncedPath(file.Path)) // was read before
	known := synced.Known(true)
	for connection, offers := range offered {
		at := known[connection]
		if at.Known == nil {
			at.Known = catalog.Builtin()
		}
		at.Live = at.Known.Overlay(offers)
		known[connection] = at
	}
	_, problems := handlers.Compile(file, catalog.Builtin(), handlers.Options{Commands: env.Bridge.Commands, DefaultConnection: env.Membrane.Connection, Actions: known})
	for _, p := range problems {
		if p.Level == config.LevelError || p.Code == "action-changed" {
			ask("fit at "+p.Pos.String(), func(context.Context) error { return errors.New(p.Msg) })
		}
	}
}

// runLogsSince is how far back check looks for runs of the bridge.
const runLogsSince = 24 * time.Hour

// runLogs asks whether run logs can be listed, which is what settles a crash, and
// looks for runs of this bridge among them: only those prove that logs are kept.
func (c *checker) runLogs(ask func(string, func(context.Context) error) bool, client *membrane.Client, conn config.Connection, name string) {
	ours := 0
	ok := ask("run logs of connection "+conn.Name, func(ctx context.Context) error {
		at := bridge.Place{ConnectionID: conn.ID, ConnectionKey: conn.Key}
		return client.RunLogs(ctx, at, time.Now().Add(-runLogsSince), func(log bridge.RunLog) {
			if log.Meta.Bridge == name {
				ours++
			}
		})
	})
	switch said := &c.Live[len(c.Live)-1]; {
	case !ok:
	case ours == 0:
		said.Note = "none of this bridge in the last 24 hours: whether runs are logged shows with the first"
	default:
		said.Note = strconv.Itoa(ours) + " of this bridge in the last 24 hours"
	}
}

func (c *checker) print() {
	if c.json {
		enc := json.NewEncoder(c.cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		_ = enc.Encode(c.report)
		return
	}
	for _, p := range c.Problems {
		c.cmd.Println(p.Problem.String())
	}
	passed := 0
	for _, t := range c.Tests {
		if t.OK {
			passed++
			continue
		}
		c.cmd.Printf("%s:%d: test %q of route %q failed\n", t.File, t.Line, t.Name, t.Route)
		for _, p := range t.TestResult.Problems {
			c.cmd.Println("    " + p)
		}
	}
	for _, l := range c.Live {
		if l.OK {
			c.cmd.Println(strings.TrimSuffix("ok:     "+l.What+": "+l.Note, ": "))
		} else {
			c.cmd.Println("failed: " + l.What + ": " + l.Error)
		}
	}
	verdict := "ok"
	if !c.OK {
		verdict = "not ok"
	}
	errs, warnings := 0, 0
	for _, p := range c.Problems {
		if p.Level == config.LevelError {
			errs++
		} else {
			warnings++
		}
	}
	c.cmd.Printf("%s: %s, %d of %s passed, %s, %s\n", verdict, count(c.routes, "route"), passed, count(len(c.Tests), "test"), count(errs, "error"), count(warnings, "warning"))
}

func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

func healthy(ctx context.Context, client *membrane.Client, idOrKey string) error {
	conn, err := client.Connection(ctx, idOrKey)
	if err == nil && conn.Problem != "" {
		err = errors.New(conn.Problem)
	}
	return err
}

func runnable(ctx context.Context, client *membrane.Client, conn config.Connection, keyOrID string) error {
	action, err := client.Action(ctx, bridge.Place{ConnectionID: conn.ID, ConnectionKey: conn.Key}, keyOrID)
	if err == nil && action.Problem != "" {
		err = errors.New(action.Problem)
	}
	return err
}
