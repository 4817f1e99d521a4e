package main

import (
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/bridge8x8/bridge8x8/bridge/asyncapi"
	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

func newAsyncAPI() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "asyncapi [file]", Short: "describe the bus as an AsyncAPI document",
		Long: `Prints an AsyncAPI 3 document of everything that this bridge, with its environment
and its file (default: BRIDGE_CONFIG), takes and publishes: subjects, endpoints,
and a JSON Schema for each type of event. It asks nobody, and holds no secrets.`,
		Example: `  bridge8x8 asyncapi > asyncapi.yaml
  bridge8x8 asyncapi --json bridge.yaml | jq '.channels[].address'`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			env, err := environment(slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			path := env.Bridge.Config
			if len(args) > 0 {
				path = args[0]
			}
			file, problems := config.Load(path, os.LookupEnv)
			if problems.Errors() {
				return problems
			}
			known := catalog.Builtin()
			table, problems := handlers.Compile(file, known, handlers.Options{Commands: env.Bridge.Commands, DefaultConnection: env.Membrane.Connection})
			if problems.Errors() {
				return problems
			}
			doc, err := asyncapi.Document(asyncapi.Options{Env: &env, File: file, Table: table, Catalog: known, Version: versionText()})
			if err == nil && !asJSON {
				doc, err = config.JSONToYAML(doc)
			}
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(append(doc, '\n'))
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return cmd
}

func atMostOne(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("%s takes one file, and got %q", cmd.Name(), args)
	}
	return nil
}

func newSchema() *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "print the JSON Schema of bridge.yaml", Args: noArgs,
		Long: `Prints the JSON Schema of bridge.yaml, for editors: with it they complete keys and
mark mistakes. check finds more, such as unknown actions and broken expressions.`,
		Example: `  bridge8x8 schema > bridge.schema.json
  # then, as the first line of bridge.yaml:
  # yaml-language-server: $schema=bridge.schema.json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(config.Schema())
			return err
		},
	}
}
