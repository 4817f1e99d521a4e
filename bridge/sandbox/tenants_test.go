package sandbox_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

// A rule about a tenant is nothing to the others, whatever the request is for.
func TestFaultsOfATenant(t *testing.T) {
	t.Parallel()
	b := setup(t)
	acme, other := tenant(t, "acme"), tenant(t, "other")
	run := object{"key": "list-groups"}
	requests := map[string]func(who func(*http.Request)) response{
		sandbox.OnRuns:  func(who func(*http.Request)) response { return b.do("POST", "/act", run, who) },
		sandbox.OnReads: func(who func(*http.Request)) response { return b.do("GET", "/self", nil, who) },
		sandbox.OnLogs:  func(who func(*http.Request)) response { return b.do("GET", "/action-run-logs", nil, who) },
	}
	for on := range requests {
		b.fault(sandbox.Fault{Kind: sandbox.RateLimit, On: on, Tenant: "acme", Times: -1})
		b.fault(sandbox.Fault{Kind: sandbox.Refuse, On: on, Tenant: "third", Times: -1})
	}
	for on, request := range requests {
		if got := request(acme); got.status != 429 {
			t.Errorf("%s: the tenant's answer is %d", on, got.status)
		}
		if got := request(other); got.status != 200 {
			t.Errorf("%s: another's is %d", on, got.status)
		}
	}
	b.control("DELETE", "/_sandbox/faults?tenant=acme", nil, http.StatusNoContent)
	for on, request := range requests {
		if got := request(acme); got.status != 200 {
			t.Errorf("%s: the tenant's answer is %d without the rule", on, got.status)
		}
		if got := request(tenant(t, "third")); got.status != 503 {
			t.Errorf("%s: another's rule is gone too: %d", on, got.status)
		}
	}
}

// What hangs is never answered, has no effect, and ends with its caller.
func TestHang(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.fault(sandbox.Fault{Kind: sandbox.Hang})
	b.fault(sandbox.Fault{Kind: sandbox.Hang, On: sandbox.OnReads})
	for _, hung := range []struct {
		method, path string
		body         any
	}{
		{"POST", "/act", object{"key": "send-sms", "input": object{"destination": "+12025550100", "text": "Hi"}}},
		{"GET", "/self", nil},
	} {
		_, err := b.request(hung.method, hung.path, hung.body, func(r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), 100*time.Millisecond)
			t.Cleanup(cancel)
			*r = *r.WithContext(ctx)
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", hung.path, err)
		}
	}
	if n := len(b.Effects()); n != 0 {
		t.Errorf("%d effects", n)
	}
	b.do("GET", "/self", nil) // the rules were for one
}
