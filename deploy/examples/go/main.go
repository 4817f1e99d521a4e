// Command go is an application with a bridge beside it, which it knows by
// localhost only: it posts an event to the bridge, and receives the outcome at an
// HTTP endpoint of its own, which is the bridge's BRIDGE_SINK_URL.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	err := run(ctx, os.Args[1:], os.Stdout)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// event is a CloudEvent, as far as this application is concerned.
type event struct {
	SpecVersion string          `json:"specversion"`
	ID          string          `json:"id"`
	Source      string          `json:"source"`
	Type        string          `json:"type"`
	Subject     string          `json:"subject,omitempty"`
	CausationID string          `json:"causationid,omitempty"`
	Data        json.RawMessage `json:"data"`
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 2 {
		return errors.New("usage: go run . <order id> <phone number>")
	}
	order, phone := args[0], args[1]
	events := cmp.Or(os.Getenv("EVENTS_URL"), "http://127.0.0.1:8080/events")
	addr := cmp.Or(os.Getenv("OUTCOMES_ADDR"), "127.0.0.1:8090")

	// Listen first, then post. What the bridge cannot post now it posts later, so that
	// an application that was away misses nothing.
	outcomes := make(chan event)
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: receive(outcomes), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(listener) }()
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = server.Shutdown(stop) // the last answer is still given
	}()

	// The order's own id makes the event's: posted again, after a crash say, nothing is sent twice.
	data, err := json.Marshal(map[string]any{"customer": map[string]string{"name": "Bo", "phone": phone}})
	if err != nil {
		return err
	}
	e := event{SpecVersion: "1.0", ID: "shipped-" + order, Source: "/shop", Type: "com.acme.order.shipped", Subject: order, Data: data}
	if err := post(ctx, events, e); err != nil {
		return err
	}
	for {
		select {
		case outcome := <-outcomes:
			// Receipts of the message come too, with the same cause.
			if outcome.CausationID == e.ID && strings.HasPrefix(outcome.Type, "com.8x8.action.") {
				fmt.Fprintf(out, "%s %s\n", outcome.Type, outcome.CausationID)
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("no outcome of %s: %w", e.ID, ctx.Err())
		}
	}
}

// receive takes CloudEvents in binary mode, which is the bridge's default, and in
// structured mode. An outcome may come twice; its id tells.
func receive(outcomes chan<- event) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		e := event{ID: r.Header.Get("Ce-Id"), Source: r.Header.Get("Ce-Source"), Type: r.Header.Get("Ce-Type"), CausationID: r.Header.Get("Ce-Causationid"), Data: body}
		if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "application/cloudevents+json" {
			err = json.Unmarshal(body, &e)
		}
		if err != nil || e.ID == "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		select {
		case outcomes <- e:
			w.WriteHeader(http.StatusNoContent) // only now: what is not answered comes again
		case <-r.Context().Done():
		}
	})
}

// post posts until the event is stored: 503 and 429 mean later, and a lost
// answer is no harm, since the same id is the same event.
func post(ctx context.Context, url string, e event) error {
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	client := http.Client{Timeout: 10 * time.Second}
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body)) //nolint:gosec // the operator says where the bridge is
		if err != nil {
			return err
		}
		request.Header.Set("Content-Type", "application/cloudevents+json")
		response, err := client.Do(request) //nolint:gosec // likewise
		if err == nil {
			problem, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10))
			response.Body.Close()
			switch {
			case response.StatusCode == http.StatusAccepted:
				return nil
			case response.StatusCode != http.StatusServiceUnavailable && response.StatusCode != http.StatusTooManyRequests:
				return fmt.Errorf("the bridge refuses the event: %s", problem)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}
