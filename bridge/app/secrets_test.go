package app_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
	"github.com/bridge8x8/bridge8x8/bridge/telemetry"
)

// Canaries: what may stand in an event and in an action's output, and nowhere else.
const (
	canaryPhone  = "2025550187" // the digits that every form of the number has in common
	canaryText   = "Zugangscode-Xq7w"
	canaryName   = "Ottilie-Kw3"
	canaryTenant = "tenant-Zp5k"
	canaryHTTP   = "http-token-Rn8v"
	canaryHook   = "hook-secret-Jt2m"
	canaryNATS   = "nats-token-Bd6f"
)

// A canary is looked for as it is and as it would look if it were quoted, put
// into an address or into base64.
func canaryForms() map[string][]string {
	forms := map[string][]string{}
	for name, canary := range map[string]string{
		"the phone number": canaryPhone, "the message's text": canaryText, "the customer's name": canaryName,
		"the tenant": canaryTenant, "the HTTP token": canaryHTTP, "the webhook's secret": canaryHook, "the NATS token": canaryNATS,
		"the Membrane token": sandbox.Token, "the workspace's secret": sandbox.WorkspaceSecret, "a minted token": "eyJ",
	} {
		forms[name] = []string{canary, url.QueryEscape(canary)}
		if name == "a minted token" {
			continue
		}
		for shift := range 3 { // base64 has three ways to write the same bytes
			encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + canary))
			forms[name] = append(forms[name], encoded[4:len(encoded)-2])
		}
	}
	return forms
}

// secretive fails the test for each canary in what is seen.
func secretive(t *testing.T, where, seen string) {
	t.Helper()
	for name, forms := range canaryForms() {
		for _, form := range forms {
			if at := strings.Index(seen, form); at >= 0 {
				from, to := max(0, at-200), min(len(seen), at+100)
				t.Errorf("%s shows %s: …%s…", where, name, seen[from:to])
				break
			}
		}
	}
}

// logBuffer is where a logger of many goroutines writes.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// quoted is an answer of Membrane that quotes everything it was sent, as the
// real one may.
func quoted(status int, errorType, key string) sandbox.Fault {
	all := fmt.Sprintf("to +%s: %s for %s, as %s with %s and %s", "1"+canaryPhone, canaryText, canaryName, canaryTenant, sandbox.Token, sandbox.WorkspaceSecret)
	body, err := json.Marshal(map[string]any{
		"type": errorType, "key": key, "message": all, "actionRunId": "run " + canaryPhone,
		"data": map[string]any{"input": all, canaryPhone: all, "response": map[string]any{
			"status": 400, "headers": map[string]any{"x-sent": all}, "data": map[string]any{"code": "1" + canaryPhone, "message": all, "errorId": all},
		}},
		"causedByError": map[string]any{"type": all, "key": all, "message": all},
	})
	if err != nil {
		panic(err)
	}
	f := envelope(status, string(body))
	f.Headers = map[string]string{"X-Sent": all}
	return f
}

// No phone number, text or secret is in any log line, metric, header or error,
// at the most talkative level, whatever happens.
func TestNothingSecretShows(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"text", "json"} {
		for _, signIn := range []string{"token", "workspace"} {
			t.Run(format+" "+signIn, func(t *testing.T) {
				t.Parallel()
				nothingSecretShows(t, format, signIn)
			})
		}
	}
}

func nothingSecretShows(t *testing.T, format, signIn string) {
	t.Helper()
	answered := []struct {
		name   string
		faults []sandbox.Fault
		waits  bool
	}{
		{name: "fine"},
		{name: "refused", faults: []sandbox.Fault{{Kind: sandbox.Refuse}}},
		{name: "limited", faults: []sandbox.Fault{{Kind: sandbox.RateLimit}}},
		{name: "unauthorized", faults: []sandbox.Fault{quoted(401, "bad_request", "not_authenticated")}},
		{name: "forbidden", faults: []sandbox.Fault{quoted(403, "bad_request", "access_denied")}},
		{name: "missing", faults: []sandbox.Fault{quoted(404, "bad_request", "not_found")}},
		{name: "defunct", faults: []sandbox.Fault{{Kind: sandbox.Defunct}}},
		{name: "invalid", faults: []sandbox.Fault{quoted(400, "bad_request", "")}},
		{name: "vendor", faults: []sandbox.Fault{quoted(400, "action_run", "")}},
		{name: "code", faults: []sandbox.Fault{quoted(400, "custom_code", "")}},
		{name: "strange", faults: []sandbox.Fault{quoted(418, "x", "y")}},
		{name: "broken", faults: []sandbox.Fault{quoted(500, "internal", "")}},
		{name: "error", faults: []sandbox.Fault{{Kind: sandbox.ErrorAfter}}},
		{name: "html", faults: []sandbox.Fault{{Kind: sandbox.HTML}}},
		{name: "echo", faults: []sandbox.Fault{quoted(200, "x", "y")}},
		{name: "half", faults: []sandbox.Fault{{Kind: sandbox.HalfBody}}},
		{name: "dropped", faults: []sandbox.Fault{{Kind: sandbox.DropAfter}}},
		{name: "hidden", faults: []sandbox.Fault{{Kind: sandbox.DropAfter}, {Kind: sandbox.HideLog}}},
		{name: "busy", faults: []sandbox.Fault{{Kind: sandbox.Status, Status: 400, Times: -1, Body: json.RawMessage(`{"type":"concurrency","key":"lock_timeout","message":"` + canaryText + `"}`)}}},
		{name: "stuck", faults: []sandbox.Fault{{Kind: sandbox.Defunct, Times: -1}}, waits: true},
	}
	var names []string
	routes := map[string]string{}
	for _, a := range answered {
		names = append(names, a.name)
	}
	for name, route := range map[string]string{
		"mapping": "    run: send-sms\n    input: {destination: \"${ .data.to.number.x }\", text: \"${ .data.text | fromjson }\"}\n",
		"raised":  "    run: send-sms\n    input: {destination: \"${ .data.to }\", text: \"${ .data.text | error }\"}\n",
		"added":   "    run: send-sms\n    input: {destination: \"${ .data.to + 5 }\", text: \"${ .data.text }\"}\n",
		"schema":  "    run: send-sms\n    input: {destination: \"${ .data.to }\", text: \"${ .data }\"}\n",
		"number":  "    run: send-sms\n    input: {destination: \"${ .data.to + \\\"x\\\" }\", text: \"${ .data.text }\"}\n",
		"batch":   "    run: send-batch-sms\n    input: {messages: \"${ [{destination: .data.to}, {destination: \\\"nobody\\\"}] }\", template: {text: \"${ .data.text }\"}}\n",
		"place":   sendSMSRoute,
		"nobody":  sendSMSRoute,
	} {
		names = append(names, name)
		routes[name] = route
	}
	yaml := strings.ReplaceAll(routesYAML(names, routes), "{key: 8x8-sandbox}", `{key: 8x8-sandbox, tenant: "${ .tenantid }"}`)
	env := map[string]string{
		"BRIDGE_HTTP_TOKEN": canaryHTTP, "BRIDGE_WEBHOOK_SECRET": canaryHook, "NATS_TOKEN": canaryNATS, "BRIDGE_COMMANDS": "true",
		"MEMBRANE_TOKEN": "", "MEMBRANE_WORKSPACE_KEY": sandbox.WorkspaceKey, "MEMBRANE_WORKSPACE_SECRET": sandbox.WorkspaceSecret,
		"MEMBRANE_TENANT_KEY": canaryTenant,
	}
	if signIn == "token" {
		yaml = strings.ReplaceAll(yaml, `, tenant: "${ .tenantid }"`, "")
		// A ready-made token cannot go elsewhere: this one waits for ever.
		yaml = strings.Replace(yaml, "place: {key: 8x8-sandbox}", `place: {key: 8x8-sandbox, tenant: "${ .tenantid }"}`, 1)
		for _, name := range []string{"MEMBRANE_WORKSPACE_KEY", "MEMBRANE_WORKSPACE_SECRET", "MEMBRANE_TENANT_KEY"} {
			delete(env, name)
		}
		env["MEMBRANE_TOKEN"] = sandbox.Token
	}

	var logged logBuffer
	log, err := telemetry.NewLogger(&logged, "debug", format, false)
	if err != nil {
		t.Fatal(err)
	}
	w := startWhole(t, wholeOptions{yaml: yaml, env: env, log: log, token: canaryNATS, box: sandbox.Options{Logger: log}})
	w.box.SetWebhook(w.public+"/webhooks/8x8/"+canaryHook, "")

	event := func(id, eventType string, data map[string]any) []byte {
		return bytes.Replace(trialEvent(id, eventType, data), []byte(`{`), []byte(`{"tenantid":"`+canaryTenant+`",`), 1)
	}
	data := map[string]any{"to": "+1" + canaryPhone, "text": canaryText + " for " + canaryName}
	post := func(body []byte, headers ...string) httpAnswer {
		return w.request(t, "/events", body, append([]string{"Content-Type", "application/cloudevents+json", "Authorization", "Bearer " + canaryHTTP}, headers...)...)
	}

	for _, a := range answered {
		for _, f := range a.faults {
			f.Match = a.name + "-1"
			if err := w.box.Fault(f); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range names {
		if answer := post(event(name+"-1", "com.example."+name, data)); answer.status != http.StatusAccepted {
			t.Fatalf("%s: %d %s", name, answer.status, answer.body)
		}
	}

	// What is refused over HTTP answers without a value.
	for _, request := range []struct {
		body    string
		headers []string
	}{
		{`{"specversion":"1.0","id":"` + canaryPhone + `","to":"` + canaryText + `"`, nil},
		{`{"specversion":"1.0","id":"1","source":"/s","type":"t","time":"` + canaryText + `"}`, nil},
		{`{"specversion":"1.0","id":"1","source":"/s","type":"t","` + canaryPhone + `":{}}`, nil},
		{`{"specversion":"` + canaryText + `"}`, nil},
		{canaryText, []string{"Content-Type", "text/plain"}},
		{string(event("1", "com.8x8.run.no-such-action", data)), nil},
		{string(event("1", "t", data)), []string{"Authorization", "Bearer x" + canaryHTTP}},
		{string(event("1", "t", data)), []string{"Authorization", canaryHTTP}},
		{string(event("1", "t", data)), []string{"WebHook-Request-Origin", canaryText}},
	} {
		answer := post([]byte(request.body), request.headers...)
		secretive(t, "the answer to "+fmt.Sprint(request.headers), answer.body+fmt.Sprint(answer.header))
	}
	for _, path := range []string{"/webhooks/8x8/" + canaryHook + "x", "/webhooks/" + canaryText, "/events?access_token=x" + canaryHTTP, "/" + canaryPhone} {
		answer := w.request(t, path, []byte(`{"payload":"`+canaryText+`"}`), "Content-Type", "application/cloudevents+json")
		secretive(t, "the answer at an address", answer.body+fmt.Sprint(answer.header))
	}
	for _, body := range []string{canaryText, `{"namespace":"SMS","payload":{"source":"` + canaryPhone + `","body":"` + canaryText + `"}}`} {
		answer := w.request(t, "/webhooks/8x8/"+canaryHook, []byte(body), "Content-Type", "application/json")
		secretive(t, "the answer to a webhook", answer.body+fmt.Sprint(answer.header))
	}
	if _, err := w.box.Inbound("+1"+canaryPhone, "", canaryText); err != nil {
		t.Fatal(err)
	}
	// What cannot be read on NATS.
	if _, err := w.js.Publish(t.Context(), "bridge.events.x", []byte(canaryText+canaryPhone)); err != nil {
		t.Fatal(err)
	}
	// The same id with other content.
	w.awaitOutcome(t, "fine-1")
	if answer := post(event("fine-1", "com.example.fine", map[string]any{"to": "+1" + canaryPhone, "text": canaryName})); answer.status != http.StatusAccepted {
		t.Fatalf("%d %s", answer.status, answer.body)
	}

	// Everything ends or waits.
	waits := map[string]bool{"stuck": true}
	if signIn == "token" {
		waits["place"] = true
	}
	for _, name := range names {
		if !waits[name] && name != "fine" {
			w.awaitOutcome(t, name+"-1")
		}
	}
	for name := range waits {
		w.await(t, name+" does not wait", func() bool {
			r, ok := w.record(t, name+"-1", name)
			return ok && r.State == bridge.Waiting
		})
	}
	w.await(t, "no malformed, no id_reused", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		seen := map[string]bool{}
		for _, letter := range w.dead {
			seen[letter.header.Get("Bridge8x8-Reason")] = true
		}
		return seen["malformed"] && seen["id_reused"]
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := w.box.WaitReceipts(ctx); err != nil {
		t.Fatal(err)
	}

	secretive(t, "the log", logged.String())
	if !strings.Contains(logged.String(), "run ended") {
		t.Error("the log has no debug lines: the test proves nothing")
	}
	for _, path := range []string{"/metrics", "/readyz", "/healthz", "/readyz?verbose"} {
		answer, err := http.Get(w.admin + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if path == "/metrics" && !strings.Contains(string(body), "bridge8x8_") {
			t.Errorf("/metrics has no metric of the bridge: %s", body)
		}
		secretive(t, path, string(body)+fmt.Sprint(answer.Header))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	reasons := map[string]bool{}
	for _, letter := range w.dead {
		reasons[letter.header.Get("Bridge8x8-Reason")] = true
		secretive(t, "the header of a dead letter on "+letter.subject, letter.subject+fmt.Sprint(letter.header))
	}
	for _, reason := range []string{"malformed", "id_reused", "mapping", "invalid_input", "rejected", "attempts_exhausted", "outcome_unknown"} {
		if !reasons[reason] {
			t.Errorf("no dead letter for %q: the test proves less than it should", reason)
		}
	}
	for _, m := range w.results {
		var result struct {
			ID, Source, Subject, CausationID, CorrelationID string
			Data                                            struct {
				Action, Route, Connection, ActionRunID string
				Error                                  json.RawMessage
			}
		}
		if err := json.Unmarshal(m.body, &result); err != nil {
			t.Fatal(err)
		}
		secretive(t, "a result on "+m.subject, m.subject+fmt.Sprint(m.header)+fmt.Sprintf("%+v", result)+string(result.Data.Error))
	}
}
