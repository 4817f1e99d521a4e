package app_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
)

// Every webhook of 8x8's is on the bus once, however often 8x8 posts it, as the
// event that package native makes of it; questions are answered, and other systems'
// webhooks wrapped.
func TestWebhooksOnTheBus(t *testing.T) {
	t.Parallel()
	w := startWhole(t, wholeOptions{yaml: `
webhooks:
  - name: 8x8
    auth: {signature: {preset: 8x8, secret: "${JAAS:whsec_demo}"}, secret: ["${A:new}", "${B:old}"]}
    answers:
      com.8x8.voice.call_action: {callflow: '${ if .data.callStatus == "CALL_RECEIVED" then [{action:"say"}] else [{action:"hangup"}] end }'}
      com.8x8.video.settings_provisioning: {lobbyEnabled: true}
  - name: hub
    auth: {signature: {preset: github, secret: "${HUB:hub-secret}"}}
    event:
      type: com.github.${ .headers["x-github-event"] }.${ .body.action }
      id: ${ .headers["x-github-delivery"] }
routes: []
`})
	var events []publishedEvent
	w.collect("BRIDGE_EVENTS", &events)
	client := bridgetest.Client(t)
	post := func(path, body string, header ...string) (status int, answer string) {
		t.Helper()
		got, err := bridgetest.Do(t.Context(), client, http.MethodPost, w.public+path, body, header...)
		if err != nil {
			t.Fatal(err)
		}
		return got.Status, got.Body
	}
	const samples = "../native/testdata/samples"
	files, err := filepath.Glob(samples + "/*")
	if err != nil || len(files) < 40 {
		t.Fatal(err, len(files))
	}
	want := map[string]string{} // subjects by type and id
	for _, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
		body, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		header := []string{"Content-Type", "application/json"}
		switch name {
		case "contactcenter-message":
			header = append(header, "X-8x8-Event-Id", "e5f1-77", "X-8x8-Tenant-Id", "acme01")
		case "contactcenter-verify":
			header = append(header, "X-8x8-Event-Id", "e5f1-1", "X-8x8-Tenant-Id", "acme01")
		case "unrecognized-xml":
			header = []string{"Content-Type", "text/xml; charset=utf-8"}
		}
		answer := map[string]string{
			"voice-call-action": `{"callflow":[{"action":"hangup"}]}`, "video-settings": `{"lobbyEnabled":true}`,
		}[name]
		for _, secret := range []string{"new", "old", "new"} {
			if status, got := post("/webhooks/8x8/"+secret, string(body), header...); status != 200 || got != answer {
				t.Errorf("%s: %d %s", name, status, got)
			}
		}
		golden, err := os.ReadFile(strings.Replace(strings.TrimSuffix(path, filepath.Ext(path)), "samples", "events", 1) + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var e struct{ Type, Source, ID string }
		if err := json.Unmarshal(golden, &e); err != nil {
			t.Fatal(err)
		}
		want[e.Type+" "+e.Source+" "+e.ID] = "bridge.events." + e.Type
	}
	if len(want) != len(files) {
		t.Errorf("%d samples are %d events", len(files), len(want))
	}

	for _, forged := range []string{"/webhooks/8x8", "/webhooks/8x8/other"} {
		if status, _ := post(forged, `{}`, "X-Jaas-Signature", "t=1700000000,v1=nJIw8+pE6dEpn6cZdKFScusHbnFZEroc0PBZsHZY4HU="); status != 401 {
			t.Errorf("%s: %d", forged, status)
		}
	}
	body := `{"action":"opened"}`
	mac := hmac.New(sha256.New, []byte("hub-secret"))
	mac.Write([]byte(body))
	signed := []string{"Content-Type", "application/json", "X-GitHub-Event", "issues", "X-GitHub-Delivery", "d-1", "X-Hub-Signature-256", "sha256=" + hex.EncodeToString(mac.Sum(nil))}
	for range 2 {
		if status, answer := post("/webhooks/hub", body, signed...); status != 202 {
			t.Errorf("%d %s", status, answer)
		}
	}
	if status, _ := post("/webhooks/hub", body+" ", signed...); status != 401 {
		t.Errorf("a changed body: %d", status)
	}
	want["com.github.issues.opened /webhooks/hub d-1"] = "bridge.events.com.github.issues.opened"

	// What came last is on the bus after everything before it.
	if status, answer := post("/events", `{"specversion":"1.0","id":"last","source":"/s","type":"last"}`, "Content-Type", "application/cloudevents+json"); status != 202 {
		t.Fatal(status, answer)
	}
	want["last /s last"] = "bridge.events.last"
	w.await(t, "the last event", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(events) > 0 && events[len(events)-1].subject == "bridge.events.last"
	})
	got := map[string]string{}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, published := range events {
		var e struct {
			Type, Source, ID string
			Time             time.Time
		}
		if err := json.Unmarshal(published.body, &e); err != nil {
			t.Fatal(err)
		}
		key := e.Type + " " + e.Source + " " + e.ID
		if _, twice := got[key]; twice {
			t.Errorf("%s is there twice", key)
		}
		got[key] = published.subject
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
