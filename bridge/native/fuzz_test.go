package native_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/native"
)

var digits = regexp.MustCompile(`^[0-9]{7,15}$`)

var phone = regexp.MustCompile(`^\+?[0-9]{7,15}$`)

// convert makes an event and checks what must hold for every one.
func convert(t *testing.T, header http.Header, body []byte) {
	t.Helper()
	e := native.Convert(header, body, receivedAt)
	if err := e.Validate(); err != nil {
		t.Fatal(err)
	}
	again := native.Convert(header, body, receivedAt.Add(time.Hour))
	if again.ID() != e.ID() || again.Source() != e.Source() || again.Type() != e.Type() || again.Subject() != e.Subject() {
		t.Fatal("not the same twice")
	}
	if !strings.HasPrefix(e.Type(), "com.8x8.") || len(e.Type()) > 192 || strings.ContainsAny(e.Type(), " *>\t") {
		t.Fatalf("the type %q cannot be part of a subject", e.Type())
	}
	if phone.MatchString(e.ID()) || phone.MatchString(e.Subject()) && !strings.HasPrefix(e.Type(), native.PrefixWhatsApp) {
		t.Fatalf("a phone number is an attribute of %s", e.Type())
	}
	if e.Type() == native.TypeUnrecognized && !bytes.Equal(e.Data(), body) {
		t.Fatal("an unrecognized body was not kept")
	}
	for _, mode := range []cloudevent.Mode{cloudevent.Structured, cloudevent.Binary} {
		written := cloudevent.Event{Event: e, RawSource: e.Source(), RawID: e.ID()}
		h, data, err := cloudevent.ToNATS(&written, mode)
		if err != nil {
			t.Fatal(err)
		}
		read, err := cloudevent.FromNATS(h, data)
		if err != nil {
			t.Fatalf("%v: %s", err, data)
		}
		if read.RawID != e.ID() || read.RawSource != e.Source() || read.Type() != e.Type() || read.Subject() != e.Subject() || !read.Time().Equal(e.Time()) {
			t.Fatalf("written and read it is another event: %v", read)
		}
	}
	if reply, ok := native.ParseReply(&e); ok && reply.From != "" && !digits.MatchString(reply.From) {
		t.Fatalf("a reply from %q", reply.From)
	}
	receipt, ok := native.ParseReceipt(&e)
	if !ok {
		if e.Type() == native.TypeSMSStatus || e.Type() == native.TypeChatStatus {
			t.Fatal("a receipt's event without a receipt")
		}
		return
	}
	before := e.Data()
	native.SetOutcome(&e, native.Outcome{State: "read", Final: true, Rank: 6})
	changed := !bytes.Equal(before, e.Data())
	if !json.Valid(e.Data()) {
		t.Fatalf("no JSON: %s", e.Data())
	}
	if ours := []byte(`,"outcome":{"state":"` + receipt.Outcome.State + `",`); changed && !bytes.Contains(before, ours) {
		t.Fatalf("an outcome that is not ours was replaced: %s", before)
	}
}

// family fuzzes the webhooks whose samples have part in their name: their bodies, and any
// member of them or of their payload.
func family(f *testing.F, part string) {
	for _, name := range samples(f) {
		if strings.Contains(name, part) {
			body := sample(f, name)
			f.Add(body, "timestamp", "1772359200", headers[name].Get("X-8x8-Event-Id"))
			f.Add(body, "umid", "+12025550101", "")
			f.Add(body, "status", `{"state":["x"],"errorCode":{}}`, "x")
			f.Add(body, "eventType", "Ü", "12025550101")
			f.Add(body, "outcome", `{"state":"read","final":true}`, "")
			f.Add(body, "subAccountId", `..`, "")
			f.Add(body, "payload", `[1]`, "")
			f.Add(body, "event", `InteractionQueued`, "")
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, member, value, id string) {
		var header http.Header
		if id != "" {
			header = http.Header{"X-8x8-Event-Id": {id}, "X-8x8-Tenant-Id": {id}, "Content-Type": {id}}
		}
		convert(t, header, body)
		var whole map[string]json.RawMessage
		if json.Unmarshal(body, &whole) != nil || whole == nil {
			return
		}
		raw := json.RawMessage(value)
		if !json.Valid(raw) {
			raw, _ = json.Marshal(value)
		}
		var payload map[string]json.RawMessage
		if json.Unmarshal(whole["payload"], &payload) == nil && payload != nil {
			payload[member] = raw
			whole["payload"], _ = json.Marshal(payload)
			changed, _ := json.Marshal(whole)
			convert(t, header, changed)
		}
		whole[member] = raw
		changed, err := json.Marshal(whole)
		if err != nil {
			t.Fatal(err)
		}
		convert(t, header, changed)
	})
}

func FuzzSMS(f *testing.F)           { family(f, "sms-") }
func FuzzSurvey(f *testing.F)        { family(f, "sms-survey") }
func FuzzChat(f *testing.F)          { family(f, "chat-") }
func FuzzWavecell(f *testing.F)      { family(f, "wavecell") }
func FuzzWhatsApp(f *testing.F)      { family(f, "whatsapp-") }
func FuzzVoice(f *testing.F)         { family(f, "voice-") }
func FuzzContactCenter(f *testing.F) { family(f, "contactcenter-") }
func FuzzStream(f *testing.F)        { family(f, "contactcenter-frame") }
func FuzzVideo(f *testing.F)         { family(f, "video-") }

func FuzzConvert(f *testing.F) {
	for _, name := range samples(f) {
		f.Add(sample(f, name), "application/json")
	}
	f.Add([]byte(`{"namespace":"SMS","eventType":"outbound_message_status_changed","payload":{"umid":"1","subAccountId":"..","status":{"timestamp":"0000-01-01T00:00:00+23:59","errorCode":[1]}}}`), "")
	f.Add([]byte(`<a/>`), "text/xml")
	f.Fuzz(func(t *testing.T, body []byte, contentType string) {
		convert(t, http.Header{"Content-Type": {contentType}}, body)
	})
}

// FuzzOutcome says that the order of receipts does not matter, but for which of
// two failures came first.
func FuzzOutcome(f *testing.F) {
	f.Add("delivered", "delivered_to_operator", "read", "")
	f.Add("undelivered", "", "sent", "")
	f.Add("REJECTED BY CARRIER", "", "delivered", "x")
	f.Fuzz(func(t *testing.T, stateA, detailA, stateB, detailB string) {
		outcome := func(state, detail string) native.Outcome {
			body, _ := json.Marshal(map[string]any{"namespace": "SMS", "eventType": "outbound_message_status_changed", "payload": map[string]any{
				"umid": "a", "status": map[string]string{"state": state, "detail": detail},
			}})
			e := native.Convert(nil, body, receivedAt)
			r, ok := native.ParseReceipt(&e)
			if !ok {
				t.Fatalf("no receipt: %s", body)
			}
			return r.Outcome
		}
		a, b := outcome(stateA, detailA), outcome(stateB, detailB)
		ab, ba := b.After(a), a.After(b)
		failures := a.Final && b.Final && a != b && ab == a && ba == b
		if ab != ba && !failures {
			t.Fatalf("%v then %v is %v, and the other way round %v", a, b, ab, ba)
		}
		if a.Final && !ab.Final {
			t.Fatalf("%v was left for %v", a, ab)
		}
	})
}
