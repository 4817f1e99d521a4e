package main

import (
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/bridge8x8/bridge8x8/bridge/app"
	"github.com/bridge8x8/bridge8x8/config"
)

// gcPercent is how much garbage there may be beside what is in use, of which there
// is little: 3 MB more than with Go's 100, for 3 % less work.
const gcPercent = 150

func newServe() *cobra.Command {
	return &cobra.Command{
		Use: "serve", Short: "run the bridge", Args: noArgs,
		Long: `Runs the bridge from the environment and the YAML file that BRIDGE_CONFIG names,
until SIGTERM or SIGINT. It waits for a NATS that is away. SIGHUP, or a change
of the file, loads the routes and webhooks again: the whole table, or nothing.
Files that hold secrets and certificates are read again when they change.

Without MEMBRANE_TOKEN, or the workspace's key and secret, it uses the sign-in of
bridge8x8 login.`,
		Example: `  MEMBRANE_TOKEN_FILE=/run/secrets/membrane NATS_URL=nats://nats:4222 bridge8x8 serve
  NATS_URL=embedded BRIDGE_DATA_DIR=/var/lib/bridge8x8 bridge8x8 serve`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			env, err := environment(log)
			if err != nil {
				return err
			}
			signIn, err := storedSignIn(&env)
			if err != nil {
				return err
			}
			a, err := app.New(app.Options{Env: env, Environ: func() (config.Env, config.Problems) { return config.LoadEnv(environMap()) }, Version: versionText(), Logger: log, SignIn: signIn})
			if err != nil {
				return err
			}
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(gcPercent)
			}
			hup := make(chan os.Signal, 1)
			signal.Notify(hup, syscall.SIGHUP)
			defer signal.Stop(hup)
			go func() {
				for range hup {
					_ = a.Reload() // it says itself what is wrong
				}
			}()
			go func() {
				<-a.Ready()
				forgetStart()
			}()
			return a.Run(cmd.Context())
		},
	}
}
