package membrane_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/membrane"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

// TestContract runs the client against the sandbox, which knows whether a text
// message really left: no failure may claim that it did not when it did, and the
// run log must tell the same story.
func TestContract(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name        string
		fault       *sandbox.Fault
		destination string
		action      string
		want        string // the kind and reason of the failure; "" for a success
		effects     int
		log         string // the same, out of the run log; "none" if there is none
	}{
		{"a success", nil, "+12025550100", "send-sms", "", 1, ""},
		{"rejected in a 200", nil, "+12025550108", "send-sms", "", 0, ""},
		{"8x8 answers 500 and sends", nil, "+12025550105", "send-sms", "unknown outcome_unknown", 1, "unknown outcome_unknown"},
		{"8x8 answers 429", nil, "+12025550106", "send-sms", "outage ", 0, "outage "},
		{"invalid input", nil, "", "send-sms", "permanent invalid_input", 0, "permanent invalid_input"},
		{"unknown action", nil, "+12025550100", "send-pigeon", "blocked action_missing", 0, "none"},
		{"refused", &sandbox.Fault{Kind: sandbox.Refuse}, "+12025550100", "send-sms", "outage ", 0, "none"},
		{"rate limit", &sandbox.Fault{Kind: sandbox.RateLimit}, "+12025550100", "send-sms", "outage ", 0, "none"},
		{"unauthorized", &sandbox.Fault{Kind: sandbox.Unauthorized, Times: -1}, "+12025550100", "send-sms", "blocked unauthorized", 0, "none"},
		{"forbidden", &sandbox.Fault{Kind: sandbox.Forbidden}, "+12025550100", "send-sms", "blocked unauthorized", 0, "none"},
		{"dropped before", &sandbox.Fault{Kind: sandbox.DropBefore}, "+12025550100", "send-sms", "unknown outcome_unknown", 0, "none"},
		{"error before", &sandbox.Fault{Kind: sandbox.ErrorBefore}, "+12025550100", "send-sms", "unknown outcome_unknown", 0, "unknown outcome_unknown"},
		{"8x8's rate limit", &sandbox.Fault{Kind: sandbox.VendorRateLimit}, "+12025550100", "send-sms", "outage ", 0, "outage "},
		{"defunct", &sandbox.Fault{Kind: sandbox.Defunct}, "+12025550100", "send-sms", "blocked not_ready", 0, "blocked not_ready"},
		{"error after", &sandbox.Fault{Kind: sandbox.ErrorAfter}, "+12025550100", "send-sms", "unknown outcome_unknown", 1, "unknown outcome_unknown"},
		{"dropped after", &sandbox.Fault{Kind: sandbox.DropAfter}, "+12025550100", "send-sms", "unknown outcome_unknown", 1, ""},
		{"half a body", &sandbox.Fault{Kind: sandbox.HalfBody}, "+12025550100", "send-sms", "unknown outcome_unknown", 1, ""},
		{"a gateway before", &sandbox.Fault{Kind: sandbox.HTML}, "+12025550100", "send-sms", "unknown outcome_unknown", 0, "none"},
		{"a gateway after", &sandbox.Fault{Kind: sandbox.HTML, Status: 504, After: true}, "+12025550100", "send-sms", "unknown outcome_unknown", 1, ""},
		{"a hidden log", &sandbox.Fault{Kind: sandbox.HideLog}, "+12025550100", "send-sms", "", 1, "none"},
	} {
		for _, minting := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/minting=%v", test.name, minting), func(t *testing.T) {
				t.Parallel()
				service := sandbox.New(sandbox.Options{ReceiptDelay: -1})
				defer service.Close()
				server := httptest.NewServer(service)
				defer server.Close()
				o := membrane.Options{BaseURL: server.URL, Concurrency: 2}
				if minting {
					o.WorkspaceKey, o.WorkspaceSecret, o.TenantKey = sandbox.WorkspaceKey, sandbox.WorkspaceSecret, "acme"
				} else {
					o.Token = sandbox.Token
				}
				client, err := membrane.New(o)
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				place := bridge.Place{ConnectionKey: sandbox.ConnectionKey}
				if err := client.Probe(t.Context(), place); err != nil {
					t.Fatal(err)
				}
				if test.fault != nil {
					if err := service.Fault(*test.fault); err != nil {
						t.Fatal(err)
					}
				}
				began := time.Now()
				input := map[string]any{"text": "Hi", "destination": test.destination}
				if test.destination == "" {
					delete(input, "destination")
				}
				meta := bridge.Meta{Bridge: "b1", Source: "/shop", EventID: "evt-17", Route: "r", Key: "k", Try: "t1", Attempt: 1}
				reply, err := client.Run(t.Context(), bridge.Request{
					Place: place, ActionKey: test.action, OneCall: true, Input: input, Meta: meta, SendBy: began.Add(time.Minute),
				})
				if got := described(bridge.AsFailure(err)); got != test.want {
					t.Errorf("the run: got %q, want %q (%v)", got, test.want, err)
				}
				if err == nil && (reply.RunID == "" || !json.Valid(reply.Output)) {
					t.Errorf("got %+v", reply)
				}
				if n := len(service.Effects()); n != test.effects {
					t.Errorf("%d effects, want %d", n, test.effects)
				}

				logged := "none"
				var id string
				if err := client.RunLogs(context.WithoutCancel(t.Context()), place, began.Add(-10*time.Minute), func(l bridge.RunLog) {
					if l.Meta != meta {
						t.Errorf("got meta %+v, want %+v", l.Meta, meta)
					}
					logged, id = described(l.FailureOf(true)), l.ID
				}); err != nil {
					t.Fatal(err)
				}
				if logged != test.log {
					t.Errorf("the log: got %q, want %q", logged, test.log)
				}
				if id == "" {
					id = "66a08b80000000000000dead"
				}
				log, found, err := client.RunLog(t.Context(), place, id)
				if err != nil || found != (test.log != "none") || found && log.Meta != meta {
					t.Errorf("the run by its id: got %+v, %v, %v", log, found, err)
				}
			})
		}
	}
}

func described(f *bridge.Failure) string {
	if f == nil {
		return ""
	}
	return f.Kind.String() + " " + string(f.Reason)
}
