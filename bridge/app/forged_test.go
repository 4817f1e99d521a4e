package app_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
)

// What is forged, stale or truncated is refused at every kind of webhook, and
// none of it comes to the bus; what is played again while it is good is the same
// event, as a sender's own repeat is.
func TestForgedWebhooks(t *testing.T) {
	t.Parallel()
	const secret = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" // base64, for those who decode it
	sum := func(key, text string) []byte {
		mac := hmac.New(sha256.New, []byte(key))
		mac.Write([]byte(text))
		return mac.Sum(nil)
	}
	decoded := func(key string) string {
		raw, err := base64.StdEncoding.DecodeString(key)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	b64 := base64.StdEncoding.EncodeToString
	schemes := map[string]struct {
		timed bool
		sign  func(key, body, at string) []string // headers; the signature is the last
	}{
		"github": {false, func(key, body, _ string) []string {
			return []string{"X-Hub-Signature-256", "sha256=" + hex.EncodeToString(sum(key, body))}
		}},
		"shopify": {false, func(key, body, _ string) []string {
			return []string{"X-Shopify-Hmac-Sha256", b64(sum(key, body))}
		}},
		"stripe": {true, func(key, body, at string) []string {
			return []string{"Stripe-Signature", "t=" + at + ",v1=" + hex.EncodeToString(sum(key, at+"."+body))}
		}},
		"slack": {true, func(key, body, at string) []string {
			return []string{"X-Slack-Request-Timestamp", at, "X-Slack-Signature", "v0=" + hex.EncodeToString(sum(key, "v0:"+at+":"+body))}
		}},
		"standard-webhooks": {true, func(key, body, at string) []string {
			return []string{"Webhook-Id", "msg_1", "Webhook-Timestamp", at, "Webhook-Signature", "v1," + b64(sum(decoded(key), "msg_1."+at+"."+body))}
		}},
		"8x8": {true, func(key, body, at string) []string {
			return []string{"X-Jaas-Signature", "t=" + at + ",v1=" + b64(sum(key, at+"."+body))}
		}},
	}
	var yaml strings.Builder
	yaml.WriteString("webhooks:\n")
	for preset := range schemes {
		fmt.Fprintf(&yaml, "  - {name: of-%s, auth: {signature: {preset: %s, secret: \"${S:%s}\"}}, event: {type: com.acme.%s}}\n", preset, preset, secret, preset)
	}
	w := startWhole(t, wholeOptions{yaml: yaml.String() + "routes: []\n"})
	var events []publishedEvent
	w.collect("BRIDGE_EVENTS", &events)

	client := bridgetest.Client(t)
	post := func(path, body string, header []string) int {
		t.Helper()
		answer, err := bridgetest.Do(t.Context(), client, http.MethodPost, w.public+path, body, append([]string{"Content-Type", "application/json"}, header...)...)
		if err != nil {
			t.Fatal(err)
		}
		return answer.Status
	}
	const body = `{"type":"invoice.paid","data":{"object":{"id":"in_1"}}}`
	at := func(d time.Duration) string { return strconv.FormatInt(time.Now().Add(d).Unix(), 10) }
	for preset, scheme := range schemes {
		path, now := "/webhooks/of-"+preset, at(0)
		good := scheme.sign(secret, body, now)
		last := good[len(good)-1]
		cut := append(append([]string{}, good[:len(good)-1]...), last[:len(last)-4])
		bad := map[string]func() int{
			"without a signature": func() int { return post(path, body, nil) },
			"forged": func() int {
				return post(path, body, scheme.sign(b64([]byte("another secret altogether 012345")), body, now))
			},
			"with another body":     func() int { return post(path, strings.Replace(body, "in_1", "in_2", 1), good) },
			"truncated":             func() int { return post(path, body[:len(body)-1], good) },
			"a truncated signature": func() int { return post(path, body, cut) },
		}
		if scheme.timed {
			bad["stale"] = func() int { return post(path, body, scheme.sign(secret, body, at(-6*time.Minute))) }
			bad["of the future"] = func() int { return post(path, body, scheme.sign(secret, body, at(6*time.Minute))) }
			bad["replayed as new"] = func() int { // an old signature beside another time
				old := scheme.sign(secret, body, at(-6*time.Minute))
				for i, value := range old {
					old[i] = strings.Replace(value, at(-6*time.Minute), now, 1)
				}
				return post(path, body, old)
			}
		}
		for what, do := range bad {
			if status := do(); status != http.StatusUnauthorized {
				t.Errorf("%s, %s: %d", preset, what, status)
			}
		}
		for range 2 {
			if status := post(path, body, good); status != http.StatusAccepted {
				t.Errorf("%s, good: %d", preset, status)
			}
		}
	}
	if status := post("/events", `{"specversion":"1.0","id":"last","source":"/s","type":"last"}`, []string{"Content-Type", "application/cloudevents+json"}); status != http.StatusAccepted {
		t.Fatal(status)
	}
	w.await(t, "the last event", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(events) > 0 && events[len(events)-1].subject == "bridge.events.last"
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	got := map[string]int{}
	for _, e := range events {
		got[e.subject]++
	}
	for preset := range schemes {
		if n := got["bridge.events.com.acme."+preset]; n != 1 {
			t.Errorf("%s: %d events", preset, n)
		}
	}
	if len(events) != len(schemes)+1 {
		t.Errorf("on the bus: %v", got)
	}
}
