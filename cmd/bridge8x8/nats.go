package main

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bridge8x8/bridge8x8/bridge/app"
	"github.com/bridge8x8/bridge8x8/config"
)

func newNATS() *cobra.Command {
	cmd := &cobra.Command{
		Use: "nats", Short: "what an administrator of NATS has to set up", Args: noArgs,
		Long: `Prints what an administrator of NATS has to set up for a bridge with this
environment and BRIDGE_CONFIG. It connects to nothing.`,
		Example: `  bridge8x8 nats permissions
  bridge8x8 nats streams | sh`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPermissions(), newStreams())
	return cmd
}

// access lists what each command needs.
var access = []struct {
	command string
	of      func(*config.Env, *config.File) []app.Permission
}{
	{"serve", func(e *config.Env, f *config.File) []app.Permission { return app.Access(e, f).Serve() }},
	{"send", func(e *config.Env, f *config.File) []app.Permission { return app.Access(e, f).Send() }},
	{"tail", func(e *config.Env, f *config.File) []app.Permission { return app.Access(e, f).Tail() }},
	{"trace", func(e *config.Env, f *config.File) []app.Permission { return app.Access(e, f).Trace() }},
	{"dead", func(e *config.Env, f *config.File) []app.Permission { return app.Access(e, f).Letters() }},
}

func newPermissions() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "permissions [serve|send|tail|trace|dead...]", Short: "the least that a user of NATS must be permitted",
		Long: `Prints the least that a user of NATS must be permitted, for serve (default) or for
other commands, as the server's configuration has it, with what each line is for.
It follows from BRIDGE_PREFIX, NATS_JS_DOMAIN, BRIDGE_COMMANDS, and streams: and
sources: in BRIDGE_CONFIG.

Whoever publishes events needs what send does, and with --wait what tail does.`,
		Example: `  bridge8x8 nats permissions
  bridge8x8 nats permissions dead trace tail --json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			env, file, err := natsSettings()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				args = []string{"serve"}
			}
			list := []app.Permission{}
			for _, name := range args {
				i := slices.IndexFunc(access, func(a struct {
					command string
					of      func(*config.Env, *config.File) []app.Permission
				}) bool {
					return a.command == name
				})
				if i < 0 {
					return usagef("%q needs no permissions of its own; name serve, send, tail, trace or dead", name)
				}
				for _, p := range access[i].of(&env, file) {
					if !slices.ContainsFunc(list, func(have app.Permission) bool { return have.Verb == p.Verb && have.Entry() == p.Entry() }) {
						list = append(list, p)
					}
				}
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), list)
			}
			cmd.Printf("# what a user of NATS must be permitted for: bridge8x8 %s\n%s", strings.Join(args, ", "), app.PermissionsConfig(list))
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the list as JSON")
	return cmd
}

func newStreams() *cobra.Command {
	var asJSON bool
	var size int64
	cmd := &cobra.Command{
		Use: "streams", Short: "the bridge's streams, for who makes them instead of the bridge", Args: noArgs,
		Long: `Prints the bridge's five streams as commands of the nats CLI, or with --json as
the server's API takes them, for an administrator who makes them: a bridge with
streams: existing in BRIDGE_CONFIG makes and changes none. They follow from
BRIDGE_PREFIX, BRIDGE_RETENTION and BRIDGE_REPLICAS. Sizes may be changed, each
must have one; the rest must stay as it is, and is looked at when a bridge starts.`,
		Example: `  bridge8x8 nats streams | sh
  bridge8x8 nats streams --gib 36 --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			env, _, err := natsSettings()
			if err != nil {
				return err
			}
			if size < 1 || size > 1<<20 {
				return usagef("--gib %d: must be 1 to %d", size, 1<<20)
			}
			streams := app.WantedStreams(&env, size<<30)
			if asJSON {
				return printJSON(cmd.OutOrStdout(), streams)
			}
			domain := ""
			if env.NATS.JSDomain != "" {
				domain = " --js-domain " + env.NATS.JSDomain
			}
			for _, s := range streams {
				body, err := json.MarshalIndent(s, "", "  ")
				if err != nil {
					return err
				}
				cmd.Printf("nats%s stream add %s --config /dev/stdin <<'EOF'\n%s\nEOF\n", domain, s.Name, body)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the streams as JSON")
	cmd.Flags().Int64Var(&size, "gib", 9, "what they may take together, in GiB")
	return cmd
}

// natsSettings are the environment and the file; a file that is not there is an
// empty one, unless it was named.
func natsSettings() (config.Env, *config.File, error) {
	environ := environMap()
	env, problems := config.LoadEnv(environ)
	if problems.Errors() {
		return env, nil, problems
	}
	if _, err := os.Stat(env.Bridge.Config); os.IsNotExist(err) && environ["BRIDGE_CONFIG"] == "" {
		return env, &config.File{Streams: config.StreamsMake}, nil
	}
	file, problems := config.Load(env.Bridge.Config, os.LookupEnv)
	if problems.Errors() {
		return env, nil, problems
	}
	return env, file, nil
}

// liveNATS asks NATS what only it knows: the connection, what its user may, and
// the streams. A file that does not let the bridge make streams wants them all.
func (c *checker) liveNATS(ask func(string, func(context.Context) error) bool, env *config.Env, files []*config.File) {
	if env.NATS.Embedded() {
		return
	}
	for i, file := range files {
		suffix := ""
		if i > 0 {
			suffix = " of " + file.Path
		}
		var client *app.Client
		ok := ask("nats"+suffix, func(ctx context.Context) (err error) {
			client, err = app.DialAsBridge(ctx, *env, file)
			return err
		})
		if !ok {
			return
		}
		note := ""
		ask("nats: permissions"+suffix, func(ctx context.Context) (err error) {
			note, err = client.CheckPermissions(ctx)
			return err
		})
		c.Live[len(c.Live)-1].Note = note
		ask("nats: streams"+suffix, client.CheckStreams)
		client.Close()
	}
}
