package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
	"github.com/bridge8x8/bridge8x8/config"
)

func newSandbox() *cobra.Command {
	var addr, webhook, authorization string
	var latency, build, tokenLife, receipts time.Duration
	cmd := &cobra.Command{
		Use: "sandbox", Short: "Membrane and 8x8 pretended over HTTP", Args: noArgs,
		Long: `Runs the sandbox alone: Membrane and 8x8 pretended over HTTP. It sends nothing to
anybody and counts every effect.

  ways in    token pat-sandbox, or JWTs of workspace "sandbox" with secret
             "sandbox-secret" for any tenant; connection key 8x8-sandbox
             or bridge8x8 login, whose page has a button instead of an account
  controls   GET /_sandbox/effects, POST /_sandbox/faults, /_sandbox/inbound, /_sandbox/builds,
             /_sandbox/connections/{key}, /_sandbox/reset`,
		Example: `  bridge8x8 sandbox --addr 127.0.0.1:8070 --webhook http://127.0.0.1:8080/webhooks/8x8
  MEMBRANE_API_URL=http://127.0.0.1:8070 MEMBRANE_TOKEN=pat-sandbox bridge8x8 serve`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, _, err := net.SplitHostPort(addr); err != nil {
				return usagef("--addr %q is no address to listen on; write host:port, such as 127.0.0.1:8070", addr)
			}
			if !config.Loopback(addr) {
				return usagef("--addr %s is not on this machine: everybody knows the sandbox's token", addr)
			}
			log, err := logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			options := sandbox.Options{WebhookURL: webhook, WebhookAuthorization: authorization, Logger: log, BuildDelay: build, TokenLife: tokenLife, ReceiptDelay: receipts}
			if latency > 0 {
				options.Latency = func() time.Duration { return latency }
			}
			box := sandbox.New(options)
			defer box.Close()
			listener, err := new(net.ListenConfig).Listen(cmd.Context(), "tcp", addr)
			if err != nil {
				return fmt.Errorf("--addr: %w", err)
			}
			cmd.Printf("sandbox: http://%s (token %s, connection %s)\n", listener.Addr(), sandbox.Token, sandbox.ConnectionKey)
			return serveUntil(cmd.Context(), listener, box)
		},
	}
	f := cmd.Flags()
	f.StringVar(&addr, "addr", "127.0.0.1:8070", "where to listen, `host:port` on this machine")
	f.StringVar(&webhook, "webhook", "", "`URL` that receipts and inbound messages are posted to")
	f.StringVar(&authorization, "webhook-authorization", "", "Authorization header of those posts")
	f.DurationVar(&latency, "latency", 0, "how long each run takes")
	f.DurationVar(&receipts, "receipt-delay", 100*time.Millisecond, "time between two states of a message, and of a log export")
	f.DurationVar(&build, "build-delay", 100*time.Millisecond, "how long an action or a connection is BUILDING")
	f.DurationVar(&tokenLife, "token-life", time.Hour, "how long an access token of bridge8x8 login is good")
	return cmd
}

// serveUntil serves h on l until ctx ends.
func serveUntil(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := server.Shutdown(stop); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return server.Close()
}
