package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/app"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
	"github.com/bridge8x8/bridge8x8/config"
)

const onceLimit = 30 * time.Second

func newDev() *cobra.Command {
	var once, asJSON bool
	var file string
	cmd := &cobra.Command{
		Use: "dev", Short: "everything on this machine, without any account", Args: noArgs,
		Long: `Runs the whole thing on this machine without any account: a bridge with NATS in
the same process, the sandbox for Membrane and 8x8, and the routes of the sample
configuration (or of --config). Nothing is sent to anybody, and nothing is kept.

With --once it sends the sample events, which are those of the routes' own tests,
prints each outcome and each delivery receipt, and exits 0 when all ended well.`,
		Example: `  bridge8x8 dev
  bridge8x8 dev --once
  bridge8x8 dev --once --json | jq .type`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON && !once {
				return usagef("--json goes with --once; to follow a running dev: bridge8x8 tail --json")
			}
			d := &dev{cmd: cmd, once: once, json: asJSON}
			return d.run(file)
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "send the sample events, print what comes of them, and exit")
	cmd.Flags().BoolVar(&asJSON, "json", false, "with --once: one CloudEvent per line")
	cmd.Flags().StringVar(&file, "config", "", "routes to use instead of the sample's, from this `file`")
	return cmd
}

type dev struct {
	cmd        *cobra.Command
	once, json bool
}

func (d *dev) run(path string) (err error) {
	log := slog.New(slog.DiscardHandler)
	if !d.once || os.Getenv("LOG_LEVEL") != "" {
		if log, err = logger(d.cmd.ErrOrStderr()); err != nil {
			return err
		}
	}
	file, err := sampleRoutes(path)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bridge8x8-dev-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	env, err := d.environment(dir)
	if err != nil {
		return err
	}
	box := sandbox.New(sandbox.Options{Logger: log})
	defer box.Close()
	listener, err := new(net.ListenConfig).Listen(d.cmd.Context(), "tcp", d.port("127.0.0.1:8070"))
	if err != nil {
		return err
	}
	env.Membrane.APIURL = "http://" + listener.Addr().String()
	a, err := app.New(app.Options{Env: env, Version: versionText(), Logger: log, File: file})
	if err != nil {
		_ = listener.Close()
		return err
	}
	public, admin := a.Addrs()
	box.SetWebhook("http://"+public+"/webhooks/8x8", "")

	ctx, cancel := context.WithCancel(d.cmd.Context())
	defer cancel()
	var wg sync.WaitGroup
	failed := make(chan error, 2)
	wg.Go(func() { failed <- serveUntil(ctx, listener, box) })
	wg.Go(func() { failed <- a.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	select {
	case <-a.Ready():
	case err := <-failed:
		return err
	}
	if d.once {
		return d.sendSamples(ctx, a, file)
	}
	d.greet(public, admin, listener.Addr().String(), a.NATSURL(), file)
	stop, err := a.Client().Follow(ctx, (&printer{out: d.cmd.OutOrStdout()}).print)
	if err != nil {
		return err
	}
	defer stop()
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

// sampleRoutes are the routes of the sample, or of a file, on the sandbox's connection.
func sampleRoutes(path string) (*config.File, error) {
	var file *config.File
	var problems config.Problems
	if path == "" {
		unset := func(string) (string, bool) { return "sample", true }
		file, problems = config.Parse("sample.yaml", config.Sample(), unset)
	} else {
		file, problems = config.Load(path, os.LookupEnv)
	}
	if problems.Errors() {
		return nil, problems
	}
	if path == "" {
		file.Sources, file.Webhooks = nil, nil // they speak of streams and senders that are not here
	}
	for i := range file.Connections {
		file.Connections[i].Key, file.Connections[i].ID = sandbox.ConnectionKey, ""
	}
	return file, nil
}

func (d *dev) environment(dir string) (config.Env, error) {
	env, problems := config.LoadEnv(map[string]string{
		"NATS_URL": "embedded", "BRIDGE_DATA_DIR": dir, "BRIDGE_COMMANDS": "true", "BRIDGE_GRACE": "2s",
		"BRIDGE_HTTP_ADDR": d.port("127.0.0.1:8080"), "BRIDGE_ADMIN_ADDR": d.port("127.0.0.1:9090"), "BRIDGE_NATS_ADDR": d.port("127.0.0.1:4222"),
		"MEMBRANE_WORKSPACE_KEY": sandbox.WorkspaceKey, "MEMBRANE_WORKSPACE_SECRET": sandbox.WorkspaceSecret,
		"MEMBRANE_TENANT_KEY": sandbox.DefaultTenant, "MEMBRANE_CONNECTION": sandbox.ConnectionKey,
	})
	if problems.Errors() {
		return env, problems
	}
	if app.CheckBuild(&env).Errors() {
		return env, errors.New("dev runs a NATS server of its own, and this build has none: it was made with the tag slim, as the image is; " +
			"take a package's or an archive's bridge8x8, an image built with TAGS=, or from the source: go run ./cmd/bridge8x8 dev")
	}
	return env, nil
}

// port is the usual address if it is free and dev stays; else any free port.
func (d *dev) port(usual string) string {
	if !d.once {
		if l, err := new(net.ListenConfig).Listen(d.cmd.Context(), "tcp", usual); err == nil {
			_ = l.Close()
			return usual
		}
	}
	host, _, _ := net.SplitHostPort(usual)
	return net.JoinHostPort(host, "0")
}

// samples are the events of the routes' tests that some route takes.
func samples(file *config.File) ([]cloudevent.Event, error) {
	var events []cloudevent.Event
	for _, r := range file.Routes {
		for _, t := range r.Tests {
			if t.NoMatch {
				continue
			}
			members := map[string]any{"specversion": "1.0", "time": time.Now().UTC().Format(time.RFC3339Nano)}
			maps.Copy(members, t.Event)
			if _, ok := members["id"].(string); !ok {
				members["id"] = uuid.NewString()
			}
			if members["data"] != nil && members["datacontenttype"] == nil {
				members["datacontenttype"] = "application/json"
			}
			body, err := json.Marshal(members)
			if err != nil {
				return nil, err
			}
			e, err := cloudevent.FromJSON(body)
			if err != nil {
				return nil, fmt.Errorf("%s: the event of a test of route %q: %w", t.Pos, r.Name, err)
			}
			events = append(events, e)
		}
	}
	if len(events) == 0 {
		return nil, errors.New("the routes have no tests, and so there are no sample events; add tests: to a route")
	}
	return events, nil
}

// sendSamples sends the sample events and waits until each has its outcome and
// each text message its last receipt.
func (d *dev) sendSamples(ctx context.Context, a *app.App, file *config.File) error {
	events, err := samples(file)
	if err != nil {
		return err
	}
	p := &printer{out: d.cmd.OutOrStdout(), json: d.json}
	seen := make(chan app.Seen, 1024)
	client := a.Client()
	stop, err := client.Follow(ctx, func(s app.Seen) { p.print(s); seen <- s })
	if err != nil {
		return err
	}
	defer stop()
	waiting := map[string]bool{} // event ids without an outcome
	for _, e := range events {
		waiting[e.RawID] = true
		if !d.json {
			d.cmd.Printf("%s  event        %s  %s\n", time.Now().Format("15:04:05.000"), e.Type(), e.RawID)
		}
		if err := client.Send(ctx, e); err != nil {
			return err
		}
	}
	texts, delivered := 0, 0
	failed, letters := map[string]bool{}, map[string]bool{} // event ids
	limit := time.NewTimer(onceLimit)
	defer limit.Stop()
	for len(waiting) > 0 || delivered < texts {
		select {
		case s := <-seen:
			id := s.Event.RawID // of the original of a dead letter
			switch s.What {
			case app.SawDeadLetter:
				letters[id] = true
				if s.Reason == string(bridge.ReasonOutcomeUnknown) {
					failed[id] = true // and no result tells of it
				}
			case app.SawFrom8x8:
				if final(s) {
					delivered++
				}
				continue
			default:
				var data app.ResultData
				_ = json.Unmarshal(s.Event.Data(), &data)
				_, id = app.Causation(&s.Event)
				if !s.Failed {
					delete(waiting, id)
					texts += accepted(data)
					continue
				}
				failed[id] = true
			}
			if failed[id] && letters[id] {
				delete(waiting, id)
			}
		case <-limit.C:
			return fmt.Errorf("after %v, %s have no outcome, and %d of %d text messages no last receipt", onceLimit, count(len(waiting), "event"), texts-delivered, texts)
		case <-ctx.Done():
			return errSilent
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d of %s did not end well", len(failed), count(len(events), "event"))
	}
	if !d.json {
		d.cmd.Printf("done: %s, %s delivered (to the sandbox)\n", count(len(events), "event"), count(delivered, "text message"))
	}
	return nil
}

// accepted is how many text messages 8x8 took, and will send receipts for.
func accepted(data app.ResultData) int {
	var output struct {
		UMID          string `json:"umid"`
		AcceptedCount int    `json:"acceptedCount"`
	}
	_ = json.Unmarshal(data.Output, &output)
	if strings.HasPrefix(data.Action, "send-") && output.UMID != "" {
		return 1
	}
	return output.AcceptedCount
}

// final says whether a receipt is the last one that its message will get.
func final(s app.Seen) bool {
	var data struct {
		Status struct{ State, Detail string } `json:"status"`
	}
	_ = json.Unmarshal(s.Event.Data(), &data)
	switch data.Status.State {
	case "undelivered", "rejected", "failed", "read":
		return true
	}
	return data.Status.State == "delivered" && data.Status.Detail != "delivered_to_operator"
}

func (d *dev) greet(public, admin, box, natsURL string, file *config.File) {
	var names []string
	for _, r := range file.Routes {
		names = append(names, r.Name)
	}
	example := `{"specversion":"1.0","id":"try-1","source":"/shop","type":"com.acme.order.shipped","subject":"9","data":{"customer":{"name":"Bo","phone":"+12025550111"}}}`
	d.cmd.Printf(`
bridge8x8 dev: nothing leaves this machine, nothing is kept.

  events    POST http://%s/events
  nats      %s
  admin     http://%s
  sandbox   http://%s
  routes    %s

try, in another terminal:

  curl -i http://%s/events -H 'Content-Type: application/cloudevents+json' \
    -d '%s'

  nats --server %s pub bridge.events.com.acme.order.shipped '%s'

outcomes appear here; end with Ctrl-C.

`, public, natsURL, admin, box, strings.Join(names, ", "), public, example, natsURL, strings.Replace(example, "try-1", "try-2", 1))
}
