// Command bridge8x8 puts an organisation's events to work on 8x8: it takes
// CloudEvents from NATS and webhooks, runs the 8x8 action that each one's route
// names through Membrane, once, and publishes the outcome as a CloudEvent.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/bridge8x8/bridge8x8/bridge/telemetry"
	"github.com/bridge8x8/bridge8x8/config"
)

// version is set when a release is built.
var version = ""

// Exit codes.
const (
	exitDone  = 0
	exitFail  = 1 // failed, or found problems
	exitUsage = 2 // wrong usage
)

// usageError is a wrong way to call the program.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errSilent ends a command that has already said what is wrong.
var errSilent = errors.New("")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	cmd, err := root.ExecuteContextC(ctx)
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errSilent):
		return exitFail
	}
	if problems, ok := errors.AsType[config.Problems](err); ok {
		_, _ = fmt.Fprintln(errs, problems.Error())
		return exitFail
	}
	_, _ = fmt.Fprintln(errs, "bridge8x8:", err)
	if _, ok := errors.AsType[usageError](err); ok || strings.HasPrefix(err.Error(), "unknown command") {
		if cmd.Name() == "help" {
			cmd = root
		}
		_, _ = fmt.Fprintf(errs, "try: %s --help\n", cmd.CommandPath())
		return exitUsage
	}
	return exitFail
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "bridge8x8",
		Short: "CloudEvents in, 8x8 actions run once, outcomes back on the bus",
		Long: `bridge8x8 listens on NATS and webhooks for CloudEvents, maps each event type to
an 8x8 action run through Membrane, runs it once, and publishes the outcome back
on the bus as a CloudEvent.

Where things are comes from environment variables, what happens from a YAML
file (BRIDGE_CONFIG). Exit codes: 0 done, 1 failed or found problems, 2 wrong usage.`,
		Example: `  bridge8x8 dev              everything on this machine, without any account
  bridge8x8 check            what is wrong with bridge.yaml
  bridge8x8 serve            run the bridge`,
		SilenceErrors: true, SilenceUsage: true,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newServe(), newDev(), newCheck(), newSend(), newTail(), newTrace(), newDead(), newAsyncAPI(), newSchema(), newSandbox(), newNATS(), newHealth(), newVersion(), newMan())
	root.AddCommand(newLogin(), newLogout(), newWhoami(), newConnections(), newActions(), newRuns(), newRequest())
	root.SetHelpCommand(newHelp())
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.Short, c.Args = "print a completion script for your shell", noArgs
			c.Example = "  bridge8x8 completion bash > /etc/bash_completion.d/bridge8x8"
			c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	}
	return root
}

// noArgs refuses arguments. Those of a command that has others below it are
// commands that do not exist.
func noArgs(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case cmd.HasSubCommands():
		return unknownCommand(cmd, args[0])
	}
	return usagef("%s takes no arguments, and got %q", cmd.Name(), args[0])
}

func unknownCommand(parent *cobra.Command, name string) error {
	if parent.SuggestionsMinimumDistance <= 0 {
		parent.SuggestionsMinimumDistance = 2
	}
	if near := parent.SuggestionsFor(name); len(near) > 0 {
		return usagef("unknown command %q; did you mean %s?", name, strings.Join(near, " or "))
	}
	return usagef("unknown command %q", name)
}

// newHelp stands for cobra's own, which takes a command that does not exist for none.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use: "help [command]", Short: "print the help of a command",
		Example: "  bridge8x8 help send",
		RunE: func(cmd *cobra.Command, args []string) error {
			target, left, err := cmd.Root().Find(args)
			if err != nil || len(left) > 0 {
				return unknownCommand(cmd.Root(), args[0])
			}
			target.InitDefaultHelpFlag()
			return target.Help()
		},
	}
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version", Args: noArgs,
		Long: `Prints the version: the number of a release, or else the commit that it was built
from, where that is known.`,
		Example: "  bridge8x8 version",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.Println("bridge8x8 " + versionText())
			return nil
		},
	}
}

func versionText() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "dev-" + s.Value[:12]
		}
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	return "dev"
}

// environment reads the variables, and warns about what is odd.
func environment(log *slog.Logger) (config.Env, error) {
	env, problems := config.LoadEnv(environMap())
	if problems.Errors() {
		return env, problems
	}
	for _, p := range problems {
		log.Warn("environment", "problem", p.String())
	}
	return env, nil
}

// logger logs to w as LOG_LEVEL and LOG_FORMAT say.
func logger(w io.Writer) (*slog.Logger, error) {
	level := os.Getenv("LOG_LEVEL")
	if level == "" {
		level = "info"
	}
	log, err := telemetry.NewLogger(w, level, os.Getenv("LOG_FORMAT"), isTerminal(w))
	if err != nil {
		return nil, usageError{err}
	}
	return log, nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func environMap() map[string]string {
	environ := map[string]string{}
	for _, kv := range os.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		environ[name] = value
	}
	return environ
}
