package ingress_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/bridge8x8/bridge8x8/bridge/ingress"
	"github.com/bridge8x8/bridge8x8/config"
)

func sum(secret, text string) []byte {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

func jaas(secret, body string, at time.Time) string {
	stamp := fmt.Sprint(at.Unix())
	return "t=" + stamp + ",v1=" + base64.StdEncoding.EncodeToString(sum(secret, stamp+"."+body))
}

const (
	room     = `{"idempotencyKey":"k1","appId":"app","eventType":"ROOM_CREATED","sessionId":"m1","timestamp":1772359200123,"fqn":"app/room","data":{}}`
	settings = `{"fqn":"app/room"}`
	call     = `{"namespace":"VOICE","eventType":"CALL_ACTION","payload":{"eventId":"v1","sessionId":"s1","callStatus":"CALL_RECEIVED","source":"+12025550101"}}`
)

// Whatever is wrong with a proof, the request is refused and nothing is stored.
func TestNativeProofs(t *testing.T) {
	t.Parallel()
	signature, _ := config.Preset("8x8")
	signature.Secrets = []config.Secret{"whsec_new", "whsec_old"}
	entry := config.Webhook{
		Name: "8x8", Secrets: []config.Secret{"path-new", "path-old"}, Authorizations: []config.Secret{"Bearer new", "Basic old"}, Signature: &signature,
	}
	here, elsewhere := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, []netip.Prefix{netip.MustParsePrefix("52.220.117.120/32")}
	from := func(addresses, proxies []netip.Prefix) config.Webhook {
		w := entry
		w.Addresses, w.Proxies = addresses, proxies
		return w
	}
	now := time.Now()
	for _, test := range []struct {
		name   string
		entry  config.Webhook
		path   string
		header []string
		body   string
		want   int
	}{
		{"nothing", entry, "", nil, inbound, 401},
		{"the environment's secret", entry, "/path-env", nil, inbound, 200},
		{"the new secret", entry, "/path-new", nil, inbound, 200},
		{"the old secret", entry, "/path-old", nil, inbound, 200},
		{"a secret that is nearly it", entry, "/path-ne", nil, inbound, 401},
		{"the environment's Authorization", entry, "", []string{"Authorization", "Bearer env"}, inbound, 200},
		{"the new Authorization", entry, "", []string{"Authorization", "Bearer new"}, inbound, 200},
		{"the old Authorization", entry, "", []string{"Authorization", "Basic old"}, inbound, 200},
		{"another Authorization", entry, "", []string{"Authorization", "Bearer old"}, inbound, 401},
		{"signed with the new secret", entry, "", []string{"X-Jaas-Signature", jaas("whsec_new", room, now)}, room, 200},
		{"signed with the old secret", entry, "", []string{"X-Jaas-Signature", jaas("whsec_old", room, now)}, room, 200},
		{"forged", entry, "", []string{"X-Jaas-Signature", jaas("whsec_no", room, now)}, room, 401},
		{"forged, with a good secret", entry, "/path-new", []string{"X-Jaas-Signature", jaas("whsec_no", room, now)}, room, 401},
		{"stale", entry, "", []string{"X-Jaas-Signature", jaas("whsec_new", room, now.Add(-6*time.Minute))}, room, 401},
		{"from the future", entry, "", []string{"X-Jaas-Signature", jaas("whsec_new", room, now.Add(6*time.Minute))}, room, 401},
		{"truncated", entry, "", []string{"X-Jaas-Signature", jaas("whsec_new", room, now)}, room[:len(room)-1], 401},
		{"another body", entry, "", []string{"X-Jaas-Signature", jaas("whsec_new", room, now)}, inbound, 401},
		{"no signature in it", entry, "", []string{"X-Jaas-Signature", "t=" + fmt.Sprint(now.Unix())}, room, 401},
		{"from here", from(here, nil), "/path-new", nil, inbound, 200},
		{"from here without a proof", from(here, nil), "", nil, inbound, 401},
		{"from elsewhere", from(elsewhere, nil), "/path-new", nil, inbound, 403},
		{"says that it is from elsewhere", from(elsewhere, nil), "/path-new", []string{"X-Forwarded-For", "52.220.117.120"}, inbound, 403},
		{"over our proxy", from(elsewhere, here), "/path-new", []string{"X-Forwarded-For", "52.220.117.120"}, inbound, 200},
		{"over our proxy, made up", from(elsewhere, here), "/path-new", []string{"X-Forwarded-For", "52.220.117.120, 1.2.3.4"}, inbound, 403},
		{"a signature nobody asks for", config.Webhook{Name: "8x8"}, "/path-env", []string{"X-Jaas-Signature", "x", "X-8x8-Signature", "x"}, room, 200},
		{"the gateway without a signature", config.Webhook{Name: "8x8", Keys: "http://127.0.0.1:1/{kid}"}, "", []string{"X-8x8-Event-Id", "e"}, room, 401},
		{"the gateway with half a signature", config.Webhook{Name: "8x8", Keys: "http://127.0.0.1:1/{kid}"}, "", []string{"X-8x8-Signature", "e30.."}, room, 401},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, ingress.Options{WebhookSecret: "path-env", WebhookAuth: "Bearer env", Webhooks: []config.Webhook{test.entry}})
			got := do(t, "POST", b.url+"/webhooks/8x8"+test.path, test.body, test.header...)
			if got.Status != test.want {
				t.Errorf("%+v", got)
			}
			if stored := len(b.stored(t)); (stored == 1) != (test.want == 200) {
				t.Errorf("%d stored", stored)
			}
			for _, secret := range []string{"whsec", "path-", "Bearer new", "2025550"} {
				if strings.Contains(b.logged()+got.Body, secret) {
					t.Errorf("%q is told: %s %s", secret, got.Body, b.logged())
				}
			}
		})
	}
}

// With no other proof asked for, the address alone lets 8x8 in.
func TestNativeAddressAlone(t *testing.T) {
	t.Parallel()
	b := setup(t, ingress.Options{Webhooks: []config.Webhook{{Name: "8x8", Addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}}})
	if got := do(t, "POST", b.url+"/webhooks/8x8", inbound); got.Status != 200 {
		t.Errorf("%+v", got)
	}
	if got := do(t, "POST", b.url+"/webhooks/8x8/x", inbound); got.Status != 401 {
		t.Errorf("%+v", got)
	}
}

// A question is stored like any webhook, and then answered.
func TestQuestions(t *testing.T) {
	t.Parallel()
	answers := func(e *event.Event) ([]byte, bool, error) {
		switch e.Type() {
		case "com.8x8.voice.call_action":
			return []byte(`{"callflow":[{"action":"hangup"}]}`), true, nil
		case "com.8x8.video.settings_provisioning":
			return nil, true, errors.New("bridge.yaml:8:1: no room")
		}
		return nil, false, nil
	}
	for _, test := range []struct {
		name, body string
		answer     func(*event.Event) ([]byte, bool, error)
		status     int
		want       string
	}{
		{"answered", call, answers, 200, `{"callflow":[{"action":"hangup"}]}`},
		{"no answer can be made", settings, answers, 500, problem(500, "no_answer", "the answer that is configured could not be made; the event is stored", "")},
		{"no answer is configured", call, nil, 501, problem(501, "no_answer", "no answer is configured for this webhook; the event is stored", "")},
		{"no answer to this one", settings, func(*event.Event) ([]byte, bool, error) { return nil, false, nil }, 501, problem(501, "no_answer", "no answer is configured for this webhook; the event is stored", "")},
		{"no question", room, answers, 200, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, ingress.Options{Answer: test.answer})
			got := do(t, "POST", b.url+"/webhooks/8x8", test.body)
			if got.Status != test.status || got.Body != test.want {
				t.Errorf("%+v", got)
			}
			if test.want != "" && test.status == 200 && got.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%v", got.Header)
			}
			if len(b.stored(t)) != 1 {
				t.Error("the question was not stored")
			}
			if (test.status == 200) == strings.Contains(b.logged(), "level=WARN") {
				t.Errorf("the log: %s", b.logged())
			}
		})
	}
	b := setup(t, ingress.Options{Answer: answers})
	b.err = errors.New("nats: timeout")
	if got := do(t, "POST", b.url+"/webhooks/8x8", call); got.Status != 503 {
		t.Errorf("answered without being stored: %+v", got)
	}
}

// Declared webhooks: all that is asked for must fit, and what is no CloudEvent is
// wrapped where the configuration says how.
func TestDeclaredWebhooks(t *testing.T) {
	t.Parallel()
	github, _ := config.Preset("github")
	github.Secrets = []config.Secret{"hub-secret"}
	body := `{"action":"opened"}`
	signed := func(secret, body string) string { return "sha256=" + hex.EncodeToString(sum(secret, body)) }
	wrap := func(webhook string, header map[string][]string, body []byte) (event.Event, error) {
		e := event.New()
		switch http.Header(header).Get("X-Github-Event") {
		case "run":
			e.SetType("com.8x8.run.send-sms")
		case "":
			return e, errors.New("bridge.yaml:4:1: no type")
		default:
			e.SetType("com.github." + http.Header(header).Get("X-Github-Event"))
		}
		e.SetSource("/webhooks/" + webhook)
		e.SetID("d-1")
		e.SetDataContentType("application/json")
		e.DataEncoded = body
		return e, nil
	}
	hub := config.Webhook{Name: "hub", Signature: &github, Event: &config.WebhookEvent{}}
	both := hub
	both.Bearer = []config.Secret{"token"}
	away := hub
	away.Addresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	basic := hub
	basic.Authorizations = []config.Secret{"Basic bmV3", "Basic b2xk"}
	plain := config.Webhook{Name: "hub", Signature: &github}
	for _, test := range []struct {
		name   string
		entry  config.Webhook
		body   string
		header []string
		status int
		want   string
	}{
		{"wrapped", hub, body, []string{"X-Hub-Signature-256", signed("hub-secret", body), "X-Github-Event", "issues"}, 202, "/webhooks/hub d-1 com.github.issues " + body},
		{"a CloudEvent", hub, body, []string{"X-Hub-Signature-256", signed("hub-secret", body), "ce-specversion", "1.0", "ce-id", "1", "ce-source", "/s", "ce-type", "t"}, 202, "/s 1 t " + body},
		{"forged", hub, body, []string{"X-Hub-Signature-256", signed("other", body), "X-Github-Event", "issues"}, 401, ""},
		{"a forged CloudEvent", hub, body, []string{"ce-specversion", "1.0", "ce-id", "1", "ce-source", "/s", "ce-type", "t"}, 401, ""},
		{"changed", hub, body + " ", []string{"X-Hub-Signature-256", signed("hub-secret", body), "X-Github-Event", "issues"}, 401, ""},
		{"cannot be wrapped", hub, body, []string{"X-Hub-Signature-256", signed("hub-secret", body)}, 422, ""},
		{"a command", hub, body, []string{"X-Hub-Signature-256", signed("hub-secret", body), "X-Github-Event", "run"}, 403, ""},
		{"signed without the token", both, body, []string{"X-Hub-Signature-256", signed("hub-secret", body), "X-Github-Event", "issues"}, 401, ""},
		{"signed with the token", both, body, []string{"X-Hub-Signature-256", signed("hub-secret", body), "X-Github-Event", "issues", "Authorization", "Bearer token"}, 202, "/webhooks/hub d-1 com.github.issues " + body},
		{"signed without a password", basic, body, []string{"X-Hub-Signature-256", signed("hub-secret", body), "X-Github-Event", "issues"}, 401, ""},
		{"signed with another password", basic, body, []string{"X-Hub-Signature-256", signed("hub-secret", body), "X-Github-Event", "issues", "Authorization", "Basic bmV"}, 401, ""},
		{"signed with the old password", basic, body, []string{"X-Hub-Signature-256", signed("hub-secret", body), "X-Github-Event", "issues", "Authorization", "Basic b2xk"}, 202, "/webhooks/hub d-1 com.github.issues " + body},
		{"the password alone", basic, body, []string{"X-Github-Event", "issues", "Authorization", "Basic b2xk"}, 401, ""},
		{"from elsewhere", away, body, []string{"X-Hub-Signature-256", signed("hub-secret", body), "X-Github-Event", "issues"}, 403, ""},
		{"no mapping", plain, body, []string{"X-Hub-Signature-256", signed("hub-secret", body), "X-Github-Event", "issues"}, 415, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, ingress.Options{Webhooks: []config.Webhook{test.entry}, Wrap: wrap})
			got := do(t, "POST", b.url+"/webhooks/hub", test.body, append([]string{"Content-Type", "application/json"}, test.header...)...)
			if got.Status != test.status {
				t.Errorf("%+v", got)
			}
			if stored := strings.Join(b.stored(t), "\n"); stored != test.want {
				t.Errorf("stored %q", stored)
			}
		})
	}
	b := setup(t, ingress.Options{Webhooks: []config.Webhook{hub}, Wrap: wrap})
	b.err = errors.New("nats: timeout")
	if got := do(t, "POST", b.url+"/webhooks/hub", body, "X-Hub-Signature-256", signed("hub-secret", body), "X-Github-Event", "issues"); got.Status != 503 {
		t.Errorf("%+v", got)
	}
}
