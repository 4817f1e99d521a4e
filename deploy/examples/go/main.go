// Command go is an application with a bridge beside it: it posts an event to
// localhost over HTTP, and receives the outcome from NATS.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
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
	server := cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL)

	// Listen first, then post. A durable consumer, which an application that lives
	// longer would use, also gets what came while it was away.
	nc, err := nats.Connect(server)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	results, err := js.OrderedConsumer(ctx, "BRIDGE_RESULTS", jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{"bridge.results.>"}, DeliverPolicy: jetstream.DeliverNewPolicy,
	})
	if err != nil {
		return err
	}
	messages, err := results.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	context.AfterFunc(ctx, messages.Stop)

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
		message, err := messages.Next()
		if err != nil {
			return fmt.Errorf("no outcome of %s: %w", e.ID, err)
		}
		var result event
		if err := json.Unmarshal(message.Data(), &result); err != nil || result.CausationID != e.ID {
			continue // somebody else's
		}
		fmt.Fprintf(out, "%s %s\n", result.Type, result.CausationID)
		return nil
	}
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
