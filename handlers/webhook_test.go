package handlers_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

func compileWebhooks(t *testing.T, text string) *handlers.Table {
	t.Helper()
	f, problems := config.Parse("bridge.yaml", []byte(text+"\nroutes: []\n"), func(string) (string, bool) { return "secret", true })
	if problems.Errors() {
		t.Fatal(problems)
	}
	table, problems := handlers.Compile(f, catalog.Builtin(), handlers.Options{})
	if problems.Errors() {
		t.Fatal(problems)
	}
	return table
}

func TestAnswer(t *testing.T) {
	t.Parallel()
	table := compileWebhooks(t, `
webhooks:
  - name: 8x8
    answers:
      com.8x8.voice.call_action:
        clientActionId: ${ .data.clientActionId }
        callflow: ${ if .data.callStatus == "CALL_RECEIVED" then [{action:"say",params:{text:"Hi",repetition:1}}] else [{action:"hangup"}] end }
      com.8x8.video.settings_provisioning: {lobbyEnabled: true, maxOccupants: 4, name: "${ .data.fqn | split(\"/\")[1] }"}`)
	for _, test := range []struct{ typ, data, want string }{
		{"com.8x8.voice.call_action", `{"callStatus":"CALL_RECEIVED"}`, `{"callflow":[{"action":"say","params":{"repetition":1,"text":"Hi"}}]}`},
		{"com.8x8.voice.call_action", `{"callStatus":"ACTION_COMPLETED","clientActionId":"menu"}`, `{"callflow":[{"action":"hangup"}],"clientActionId":"menu"}`},
		{"com.8x8.video.settings_provisioning", `{"fqn":"app/room"}`, `{"lobbyEnabled":true,"maxOccupants":4,"name":"room"}`},
		{"com.8x8.sms.status", `{}`, ``},
	} {
		e := event.New()
		e.SetType(test.typ)
		e.SetSource("/8x8")
		e.SetID("1")
		e.SetDataContentType("application/json")
		e.DataEncoded = []byte(test.data)
		body, ok, err := table.Answer(&e)
		if err != nil || ok != (test.want != "") || string(body) != test.want {
			t.Errorf("%s %s: %s, %v, %v", test.typ, test.data, body, ok, err)
		}
	}
	e := event.New()
	e.SetType("com.8x8.video.settings_provisioning")
	e.SetDataContentType("application/json")
	e.DataEncoded = []byte(`{"fqn":{}}`)
	if _, ok, err := table.Answer(&e); !ok || err == nil || !strings.HasPrefix(err.Error(), "bridge.yaml:8:") {
		t.Errorf("%v %v", ok, err)
	}
}

func TestWrap(t *testing.T) {
	t.Parallel()
	table := compileWebhooks(t, `
webhooks:
  - name: github
    event:
      type: com.github.${ .headers["x-github-event"] }.${ .body.action }
      source: ${ .body.repository.url }
      id: ${ .headers["x-github-delivery"] }
      subject: ${ .body.issue.number }
  - name: plain
    event: {type: "${ .body.kind // \"com.acme.text\" }"}
  - name: auth
    event: {type: "t${ .headers.authorization }"}
  - name: events`)
	github := http.Header{"X-Github-Event": {"issues"}, "X-Github-Delivery": {"d-1"}, "Content-Type": {"application/json; charset=utf-8"}}
	body := `{"action":"opened","repository":{"url":"https://api.github.com/repos/a/b"},"issue":{"number":9}}`
	e, err := table.Wrap("github", github, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if e.Type() != "com.github.issues.opened" || e.Source() != "https://api.github.com/repos/a/b" || e.ID() != "d-1" || e.Subject() != "9" ||
		e.DataContentType() != "application/json" || string(e.Data()) != body {
		t.Errorf("%v", e)
	}
	for _, test := range []struct{ contentType, body, typ, media string }{
		{"", `{"kind":"com.acme.made"}`, "com.acme.made", "application/json"},
		{"application/x-www-form-urlencoded", "a=1", "", ""},
		{"application/json", "{", "", ""},
		{"text/plain", `{}`, "com.acme.text", "text/plain"},
	} {
		header := http.Header{"Content-Type": {test.contentType}}
		e, err := table.Wrap("plain", header, []byte(test.body))
		if test.typ == "" {
			if err == nil || !strings.Contains(err.Error(), "webhook \"plain\": type") {
				t.Errorf("%s: %v", test.body, err)
			}
			continue
		}
		if err != nil || e.Type() != test.typ || e.DataContentType() != test.media || e.Source() != "/webhooks/plain" || len(e.ID()) != 32 || e.Subject() != "" {
			t.Errorf("%s: %v, %v", test.body, e, err)
		}
		header.Set("X-Attempt", "2")
		again, err := table.Wrap("plain", header, []byte(test.body))
		if err != nil || again.ID() != e.ID() {
			t.Errorf("sent again it is another event: %v", err)
		}
		other, err := table.Wrap("plain", header, []byte(test.body+" "))
		if err != nil || other.ID() == e.ID() {
			t.Errorf("another body is the same event: %v", err)
		}
	}
	for name, header := range map[string]http.Header{
		"github": {"X-Github-Event": {"a b"}},          // no id in any header: made of the body; no type with a space
		"auth":   {"Authorization": {"Bearer hidden"}}, // a secret is nothing to make an attribute of
		"events": {},
		"nobody": {},
	} {
		_, err := table.Wrap(name, header, []byte(`{"action":"x","repository":{"url":"/r"}}`))
		if err == nil || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !table.Wraps("github") || table.Wraps("events") || table.Wraps("nobody") {
		t.Error("only what has an event: mapping wraps")
	}
}
