package deploy_test

import (
	"bytes"
	"context"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// withSink lets a bridge of that environment post its outcomes there. Where the
// program has no sink of its own, the function that it returns, which is to be
// called once the bridge is ready, posts the results in its place.
func withSink(t *testing.T, env map[string]string, server, url string) func() {
	t.Helper()
	with := maps.Clone(env)
	with["BRIDGE_SINK_URL"] = url
	if out, err := command(t, with, program, "check"); err == nil || !strings.Contains(out, "(sink-unsupported)") {
		env["BRIDGE_SINK_URL"] = url
		return func() {}
	}
	return func() { forwardResults(t, server, url) }
}

// forwardResults posts each result to url until it is taken, in structured mode.
func forwardResults(t *testing.T, server, url string) {
	t.Helper()
	nc, err := nats.Connect("nats://" + server)
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	results, err := js.OrderedConsumer(t.Context(), "BRIDGE_RESULTS", jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	messages, err := results.Messages()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var forwarding sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		messages.Stop()
		forwarding.Wait()
		nc.Close()
	})
	forwarding.Go(func() {
		for {
			message, err := messages.Next()
			if err != nil {
				return
			}
			for !posted(ctx, url, message.Data()) {
				select {
				case <-ctx.Done():
					return
				case <-time.After(50 * time.Millisecond):
				}
			}
		}
	})
}

func posted(ctx context.Context, url string, body []byte) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return false
	}
	request.Header.Set("Content-Type", "application/cloudevents+json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode/100 == 2
}
