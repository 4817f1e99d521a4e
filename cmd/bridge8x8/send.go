package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/bridge8x8/bridge8x8/bridge/app"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/config"
)

type sendFlags struct {
	id, source, eventType, subject, data string
	extensions                           []string
	http, tokenFile                      string
	wait                                 bool
	timeout                              time.Duration
	json                                 bool
}

func newSend() *cobra.Command {
	var f sendFlags
	cmd := &cobra.Command{
		Use: "send [file | -]", Short: "publish a CloudEvent",
		Long: `Publishes a CloudEvent to the bridge: from a file or the standard input ("-") in
the JSON format, or made from flags. It goes over NATS (NATS_URL), or over HTTP
with --http. --wait prints what comes of it: exit code 0 if every outcome is a
success, 1 if one is a failure or none came in time.`,
		Example: `  bridge8x8 send --type com.acme.order.shipped --source /shop --subject 9 \
      --data '{"customer":{"name":"Bo","phone":"+12025550111"}}' --wait
  bridge8x8 send event.json --http http://127.0.0.1:8080/events --token-file token`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("send takes one file, and got %d", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return send(cmd, args, f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.eventType, "type", "", "the event's type")
	flags.StringVar(&f.source, "source", "/bridge8x8/send", "the event's source")
	flags.StringVar(&f.id, "id", "", "the event's id (default: a random one)")
	flags.StringVar(&f.subject, "subject", "", "the event's subject")
	flags.StringVar(&f.data, "data", "", "the event's data, as JSON")
	flags.StringArrayVar(&f.extensions, "ext", nil, "an extension attribute, `name=value`; may be repeated")
	flags.StringVar(&f.http, "http", "", "post to this `URL` instead of publishing on NATS")
	flags.StringVar(&f.tokenFile, "token-file", "", "`file` with the bearer token for --http (default: BRIDGE_HTTP_TOKEN)")
	flags.BoolVar(&f.wait, "wait", false, "wait for what comes of it, over NATS")
	flags.DurationVar(&f.timeout, "timeout", 90*time.Second, "with --wait: how long")
	flags.BoolVar(&f.json, "json", false, "with --wait: print outcomes as CloudEvents, one per line")
	return cmd
}

func send(cmd *cobra.Command, args []string, f sendFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	e, err := f.event(cmd.InOrStdin(), args)
	if err != nil {
		return err
	}
	env, err := environment(slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	var client *app.Client
	if f.http == "" || f.wait {
		dial, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if client, err = app.Dial(dial, env); err != nil {
			return err
		}
		defer client.Close()
	}
	outcomes := make(chan bool, 64)
	if f.wait {
		p := &printer{out: cmd.OutOrStdout(), json: f.json}
		stop, err := client.Follow(ctx, func(s app.Seen) { follow(s, e, p, outcomes) })
		if err != nil {
			return err
		}
		defer stop()
	}
	if f.http != "" {
		token := ""
		if len(env.Bridge.HTTPTokens) > 0 {
			token = env.Bridge.HTTPTokens[0].Reveal()
		}
		if f.tokenFile != "" {
			b, err := os.ReadFile(f.tokenFile)
			if err != nil {
				return fmt.Errorf("--token-file: %w", err)
			}
			token = strings.TrimSpace(string(b))
		}
		err = post(ctx, f.http, token, e)
	} else {
		err = client.Send(ctx, e)
	}
	if err != nil {
		return err
	}
	if !f.json {
		cmd.Printf("sent: event %s from %s\n", e.RawID, e.RawSource)
	}
	if !f.wait {
		return nil
	}
	return f.await(ctx, outcomes)
}

// check refuses flags that would be without effect, before anything is done.
func (f *sendFlags) check() error {
	if f.http != "" {
		u, err := url.Parse(f.http)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return usagef("--http %q is no http or https address; write it like http://127.0.0.1:8080/events", config.MaskURL(f.http))
		}
	}
	switch {
	case f.tokenFile != "" && f.http == "":
		return usagef("--token-file goes with --http")
	case f.json && !f.wait:
		return usagef("--json goes with --wait: without it there are no outcomes to print")
	case f.timeout <= 0:
		return usagef("--timeout %v: must be longer than nothing", f.timeout)
	}
	return nil
}

// follow reports what concerns e: true for a success, false for a failure.
func follow(s app.Seen, e cloudevent.Event, p *printer, outcomes chan<- bool) {
	source, id := app.Causation(&s.Event)
	if s.What == app.SawDeadLetter {
		source, id = s.Event.RawSource, s.Event.RawID
	}
	if source != e.RawSource || id != e.RawID {
		return
	}
	p.print(s)
	switch s.What {
	case app.SawResult:
		outcomes <- !s.Failed
	case app.SawDeadLetter:
		outcomes <- false
	case app.SawFrom8x8: // comes after an outcome
	}
}

// await waits for the first outcome, and a moment for those of other routes.
func (f *sendFlags) await(ctx context.Context, outcomes <-chan bool) error {
	const others = 500 * time.Millisecond
	deadline := time.NewTimer(f.timeout)
	defer deadline.Stop()
	some, good := false, true
	for {
		select {
		case ok := <-outcomes:
			good = good && ok
			if !some {
				some = true
				deadline.Reset(others)
			}
		case <-ctx.Done():
			return errSilent
		case <-deadline.C:
			switch {
			case !some:
				return fmt.Errorf("no outcome within %v: does a route match this event? try: bridge8x8 check", f.timeout)
			case !good:
				return errSilent
			}
			return nil
		}
	}
}

func (f *sendFlags) event(in io.Reader, args []string) (cloudevent.Event, error) {
	if len(args) == 1 {
		if f.eventType != "" || f.data != "" || f.id != "" || f.subject != "" || len(f.extensions) > 0 {
			return cloudevent.Event{}, usagef("give the event as a file or as flags, not both")
		}
		var body []byte
		var err error
		if args[0] == "-" {
			body, err = io.ReadAll(io.LimitReader(in, 16<<20))
		} else {
			body, err = os.ReadFile(args[0])
		}
		if err != nil {
			return cloudevent.Event{}, err
		}
		e, err := cloudevent.FromJSON(bytes.TrimSpace(body))
		if err != nil {
			from := args[0]
			if from == "-" {
				from = "the standard input"
			}
			return cloudevent.Event{}, fmt.Errorf("%s holds no event: %w", from, err)
		}
		return e, nil
	}
	if f.eventType == "" {
		return cloudevent.Event{}, usagef("an event needs a type: give --type, or a file")
	}
	members := map[string]any{"specversion": "1.0", "id": f.id, "source": f.source, "type": f.eventType, "time": time.Now().UTC().Format(time.RFC3339Nano)}
	if f.id == "" {
		members["id"] = uuid.NewString()
	}
	if f.subject != "" {
		members["subject"] = f.subject
	}
	for _, x := range f.extensions {
		name, value, ok := strings.Cut(x, "=")
		if !ok {
			return cloudevent.Event{}, usagef("--ext %q is not name=value", x)
		}
		members[name] = value
	}
	if f.data != "" {
		if !json.Valid([]byte(f.data)) {
			return cloudevent.Event{}, usagef("--data is not JSON; a text needs quotes of its own: '\"text\"'")
		}
		members["data"], members["datacontenttype"] = json.RawMessage(f.data), event.ApplicationJSON
	}
	body, err := json.Marshal(members)
	if err != nil {
		return cloudevent.Event{}, err
	}
	e, err := cloudevent.FromJSON(body)
	if err != nil {
		return cloudevent.Event{}, usagef("the flags give no event: %w", err)
	}
	return e, nil
}

// post sends an event over HTTP in structured mode.
func post(ctx context.Context, address, token string, e cloudevent.Event) error {
	body, err := cloudevent.ToJSON(&e)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("--http: %w", err)
	}
	req.Header.Set("Content-Type", cloudevent.ContentTypeStructured)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Timeout: 30 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("post to %s: %w", address, errors.Unwrap(err))
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode/100 == 2 {
		return nil
	}
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var problem struct{ Title, Detail string }
	if json.Unmarshal(answer, &problem) == nil && problem.Title != "" {
		return fmt.Errorf("%s answered %d: %s: %s", address, resp.StatusCode, problem.Title, problem.Detail)
	}
	return fmt.Errorf("%s answered %s", address, resp.Status)
}
