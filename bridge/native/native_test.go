package native_test

import (
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/native"
)

var update = flag.Bool("update", false, "write the golden events anew")

var receivedAt = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// headers are those of a sample's request that Convert reads.
var headers = map[string]http.Header{
	"contactcenter-message": {"X-8x8-Event-Id": {"e5f1-77"}, "X-8x8-Tenant-Id": {"acme01"}, "X-8x8-Retry": {"0"}},
	"contactcenter-verify":  {"X-8x8-Event-Id": {"e5f1-1"}, "X-8x8-Tenant-Id": {"acme01"}},
	"unrecognized-xml":      {"Content-Type": {"text/xml; charset=utf-8"}},
}

// sample reads the body of one of 8x8's webhooks, made after its documented field
// lists. All numbers, names and texts of them are in personal.
func sample(t testing.TB, name string) []byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", "samples", name+".*"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("%s: %v %v", name, paths, err)
	}
	body, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func samples(t testing.TB) (names []string) {
	t.Helper()
	paths, err := filepath.Glob("testdata/samples/*")
	if err != nil || len(paths) == 0 {
		t.Fatal(err, len(paths))
	}
	for _, p := range paths {
		names = append(names, strings.TrimSuffix(filepath.Base(p), filepath.Ext(p)))
	}
	return names
}

// personal is what of the samples must be in no attribute.
var personal = []string{"2025550", "Ana", "Yes, please", "private", "ana@example.org"}

func structured(t testing.TB, e *event.Event) string {
	t.Helper()
	written, err := cloudevent.ToJSON(&cloudevent.Event{Event: *e, RawSource: e.Source(), RawID: e.ID()})
	if err != nil {
		t.Fatal(err)
	}
	return string(written)
}

// Each sample becomes the event beside it, and the same one when 8x8 posts it
// again.
func TestSamples(t *testing.T) {
	t.Parallel()
	for _, name := range samples(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := sample(t, name)
			e := native.Convert(headers[name], body, receivedAt)
			if err := e.Validate(); err != nil {
				t.Error(err)
			}
			got := structured(t, &e) + "\n"
			golden := filepath.Join("testdata", "events", name+".json")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
			again := headers[name].Clone()
			if again != nil {
				again.Set("X-8x8-Retry", "3")
			}
			repeated := native.Convert(again, body, receivedAt.Add(time.Minute))
			if repeated.ID() != e.ID() || repeated.Source() != e.Source() || repeated.Type() != e.Type() {
				t.Errorf("posted again it is another event: %v", repeated)
			}
			attributes := got[:strings.Index(got, `,"data`)]
			for _, word := range personal {
				if strings.Contains(attributes, word) {
					t.Errorf("%q is in an attribute: %s", word, attributes)
				}
			}
			if word, _, _ := strings.Cut(name, "-"); !strings.Contains(e.Type(), "."+word) {
				t.Errorf("%s is of type %s", name, e.Type())
			}
		})
	}
}

// Nothing that comes is refused.
func TestUnrecognized(t *testing.T) {
	t.Parallel()
	inbound := string(sample(t, "sms-received"))
	for _, test := range []struct{ name, body, contentType, want string }{
		{"nothing", "", "application/json", ""},
		{"a text", "hello", "text/plain", "text/plain"},
		{"a text that calls itself JSON", `{"a":`, "application/json", "application/octet-stream"},
		{"a text that calls itself an event", "x", "application/cloudevents+xml", "application/octet-stream"},
		{"a content type that is none", "x", "\x00", "application/octet-stream"},
		{"bytes that are no text", "\"\xff\"", "", "application/octet-stream"},
		{"an array", "[1]", "", "application/json"},
		{"null", "null", "", "application/json"},
		{"another namespace", `{"namespace":"NEW","eventType":"x","payload":{"umid":"a1"}}`, "", "application/json"},
		{"another event", `{"namespace":"SMS","eventType":"new","payload":{"umid":"a1"}}`, "", "application/json"},
		{"no payload", `{"namespace":"SMS","eventType":"inbound_message_received"}`, "", "application/json"},
		{"a payload of another shape", `{"namespace":"SMS","eventType":"inbound_message_received","payload":[1]}`, "", "application/json"},
		{"a message id that is none", strings.Replace(inbound, `"umid":"a1b2`, `"umid":"a b`, 1), "", "application/json"},
		{"a message id that is a phone number", `{"namespace":"SMS","eventType":"inbound_message_received","payload":{"umid":"+1 (202) 555-0101"}}`, "", "application/json"},
		{"a number for an id", `{"umid":12025550101,"surveyId":"s","answers":[]}`, "", "application/json"},
		{"an update without a name", `{"provider":"WhatsApp","eventDetails":{},"eventId":"1","eventType":"Ü"}`, "", "application/json"},
		{"a meeting without a key", `{"fqn":"a/b","eventType":"ROOM_CREATED"}`, "", "application/json"},
		{"a frame without a message", `{"messageId":"CAE=","payload":"%"}`, "", "application/json"},
		{"a frame of something else", `{"messageId":"CAE=","payload":"e30="}`, "", "application/json"},
		{"a stream message of another shape", `{"Interaction":[]}`, "", "application/json"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			header := http.Header{"Content-Type": {test.contentType}}
			e := native.Convert(header, []byte(test.body), receivedAt)
			if err := e.Validate(); err != nil {
				t.Error(err)
			}
			if e.Type() != native.TypeUnrecognized || e.Source() != "/8x8" || len(e.ID()) != 32 || e.Subject() != "" || !e.Time().Equal(receivedAt) {
				t.Errorf("%v", e)
			}
			if string(e.Data()) != test.body || e.DataContentType() != test.want {
				t.Errorf("%s %q", e.DataContentType(), e.Data())
			}
			if again := native.Convert(header, []byte(test.body), receivedAt.Add(time.Minute)); again.ID() != e.ID() {
				t.Error("posted again it is another event")
			}
			if other := native.Convert(header, []byte(test.body+" "), receivedAt); other.ID() == e.ID() {
				t.Error("another body is the same event")
			}
		})
	}
}

// An event is told from another by what §5.4 of 8x8's pages leaves for it, and
// from itself by nothing else.
func TestIdentity(t *testing.T) {
	t.Parallel()
	for name, changes := range map[string]struct{ other, same [][2]string }{
		"sms-status": {
			other: [][2]string{
				{`"umid":"0f`, `"umid":"1f`}, {`"state":"undelivered"`, `"state":"sent"`}, {`"detail":"rejected_by_operator",`, ``},
				{`05.12Z`, `05.13Z`}, {`"errorCode":15`, `"errorCode":16`}, {`"errorCode":15,`, ``},
			},
			same: [][2]string{
				{`"price":{"total":0.02,"perSms":0.02,"currency":"USD"},`, ``}, {`"errorCode":15`, `"errorCode":"15"`}, {`{"namespace"`, ` { "namespace"`},
			},
		},
		"sms-received":  {other: [][2]string{{`"umid":"a1b2`, `"umid":"a1b3`}}, same: [][2]string{{`Yes, please`, `No`}}},
		"sms-clicked":   {other: [][2]string{{`"eventId":"7d`, `"eventId":"8d`}}, same: [][2]string{{`"occurredAt":"2026`, `"occurredAt":"2027`}}},
		"sms-survey":    {other: [][2]string{{`"umid":"0f`, `"umid":"1f`}, {`12:44.5Z`, `12:45.5Z`}}, same: [][2]string{{`"answerId":null`, `"answerId":"3"`}}},
		"chat-received": {other: [][2]string{{`"umid":"b2`, `"umid":"b3`}}, same: [][2]string{{`"version":3,`, ``}}},
		"chat-status": {
			other: [][2]string{{`"state":"undelivered"`, `"state":"read"`}, {`"channel":"whatsapp"`, `"channel":"viber"`}, {`09.10Z`, `09.11Z`}},
			same:  [][2]string{{`"channel":"whatsapp"`, `"channel":"WhatsApp"`}, {`"providerErrorCode":"131047"`, `"providerErrorCode":""`}},
		},
		"chat-echo":                {other: [][2]string{{`"umid":"d4`, `"umid":"d5`}}, same: [][2]string{{`Yes, please`, `No`}}},
		"chat-status-wavecell":     {other: [][2]string{{`DELIVERED TO DEVICE`, `READ`}, {`"umid":"c3`, `"umid":"c4`}}, same: [][2]string{{`"price":0.01`, `"price":0.02`}}},
		"whatsapp-account-update":  {other: [][2]string{{`"eventId":"11`, `"eventId":"12`}}, same: [][2]string{{`ACCOUNT_VIOLATION`, `ACCOUNT_RESTRICTION`}}},
		"voice-call-status":        {other: [][2]string{{`"eventId":"v2`, `"eventId":"v3`}}, same: [][2]string{{`CALL_CONNECTED`, `CALL_UPDATED`}}},
		"voice-session-summary":    {other: [][2]string{{`"sessionId":"s1`, `"sessionId":"s2`}}, same: [][2]string{{`"BUSY"`, `"FAILED"`}}},
		"voice-call-recording":     {other: [][2]string{{`"recordingId":"r1`, `"recordingId":"r2`}, {`UPLOAD_COMPLETED`, `UPLOAD_FAILED`}}, same: [][2]string{{`"durationSeconds":12`, `"durationSeconds":13`}}},
		"voice-virtual-number":     {other: [][2]string{{`"totalNumbers":1`, `"totalNumbers":2`}}},
		"contactcenter-message":    {same: [][2]string{{`"isEcho":false`, `"isEcho":true`}}},
		"contactcenter-frame":      {other: [][2]string{{`"messageId":"CAEQAQ==`, `"messageId":"CAEQAg==`}}, same: [][2]string{{`"redeliveryCount":0`, `"redeliveryCount":2`}}},
		"video-room-created":       {other: [][2]string{{`"idempotencyKey":"k1`, `"idempotencyKey":"k2`}}, same: [][2]string{{`"timestamp":17`, `"timestamp":16`}}},
		"whatsapp-preference-meta": {same: [][2]string{{`whatsapp_preference`, `user_preferences`}}},
	} {
		convert := func(change [2]string) event.Event {
			body := string(sample(t, name))
			if !strings.Contains(body, change[0]) {
				t.Fatalf("%s: %s is not there", name, change[0])
			}
			return native.Convert(headers[name], []byte(strings.Replace(body, change[0], change[1], 1)), receivedAt)
		}
		first := convert([2]string{})
		for _, change := range changes.other {
			if e := convert(change); e.ID() == first.ID() {
				t.Errorf("%s: the same id with %s", name, change[1])
			} else if e.Source() != first.Source() {
				t.Errorf("%s: another source with %s", name, change[1])
			}
		}
		for _, change := range changes.same {
			if e := convert(change); e.ID() != first.ID() || e.Type() == native.TypeUnrecognized {
				t.Errorf("%s: another event with %s: %v", name, change[1], e)
			}
		}
	}
}

// What tells the families apart does not depend on the order of the members, nor on
// members nobody has heard of.
func TestFamiliesAreToldApart(t *testing.T) {
	t.Parallel()
	for _, name := range samples(t) {
		body := sample(t, name)
		first := native.Convert(headers[name], body, receivedAt)
		if first.Type() == native.TypeUnrecognized || first.Type() == native.TypeMeetingSettings || len(body) == 0 || strings.HasPrefix(string(body), `{"Interaction"`) || strings.HasPrefix(string(body), `{"Agent`) {
			continue // these are known by having no other members
		}
		more := `{"new":{"eventType":"x","umid":1},` + strings.TrimPrefix(string(body), "{")
		if e := native.Convert(headers[name], []byte(more), receivedAt); e.Type() != first.Type() || e.Subject() != first.Subject() {
			t.Errorf("%s: %v", name, e)
		}
	}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	for written, want := range map[string]string{
		`"2026-03-01T10:00:05.12Z"`:           "2026-03-01T10:00:05.12Z",
		`"2026-03-01T10:00:05.1200000+00:00"`: "2026-03-01T10:00:05.12Z",
		`"2026-03-01T12:00:05.12+02:00"`:      "2026-03-01T10:00:05.12Z",
		`"2026-03-01t10:00:05.12z"`:           "2026-03-01T10:00:05.12Z",
		`"2026-03-01T10:00:05.120"`:           "2026-03-01T10:00:05.12Z",
		`"2026-03-01T10:00:05.12+0000"`:       "2026-03-01T10:00:05.12Z",
		`1772359205120`:                       "2026-03-01T10:00:05.12Z",
		`"1772359205120"`:                     "2026-03-01T10:00:05.12Z",
		`1772359205`:                          "2026-03-01T10:00:05Z",
		`"yesterday"`:                         "2026-03-01T12:00:00Z",
		`""`:                                  "2026-03-01T12:00:00Z",
		`null`:                                "2026-03-01T12:00:00Z",
		`{}`:                                  "2026-03-01T12:00:00Z",
		`9223372036854775807`:                 "2026-03-01T12:00:00Z",
		`"0000-01-01T00:00:00+23:59"`:         "2026-03-01T12:00:00Z",
	} {
		body := `{"namespace":"SMS","eventType":"inbound_message_received","payload":{"umid":"a1","timestamp":` + written + `}}`
		e := native.Convert(nil, []byte(body), receivedAt)
		if got := e.Time().Format(time.RFC3339Nano); got != want || e.Type() != native.TypeSMSReceived {
			t.Errorf("%s is %s of %s, want %s", written, got, e.Type(), want)
		}
	}
}

func TestSources(t *testing.T) {
	t.Parallel()
	for account, want := range map[string]string{
		"":             "/8x8/sms",
		"acme_hq":      "/8x8/sms/acme_hq",
		"acme hq/1":    "/8x8/sms/acme%20hq%2F1",
		"..":           "/8x8/sms",
		"+12025550101": "/8x8/sms",
	} {
		body := `{"namespace":"SMS","eventType":"inbound_message_received","payload":{"umid":"a1","subAccountId":"` + account + `"}}`
		if e := native.Convert(nil, []byte(body), receivedAt); e.Source() != want {
			t.Errorf("%q: %s, want %s", account, e.Source(), want)
		}
	}
}

func TestParseReceipt(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]native.Receipt{
		"sms-status": {
			UMID: "0f3c5e0e-6f0a-4c58-9b6d-3a1f1f6f0001", BatchID: "7c1e5e0e-6f0a-4c58-9b6d-3a1f1f6f0002", ClientMessageID: "evt-42", ClientBatchID: "cb-1",
			SubAccountID: "acme_hq", State: "undelivered", Detail: "rejected_by_operator",
			Timestamp: time.Date(2026, 3, 1, 10, 0, 5, 120e6, time.UTC), ErrorCode: 15, SMSCount: 2,
			Outcome: native.Outcome{State: "undelivered", Final: true, Rank: 4},
		},
		"chat-status": {
			UMID: "c3d4e5f6-0000-4000-8000-000000000003", ClientMessageID: "evt-50", SubAccountID: "acme_wa", Channel: "whatsapp",
			State: "undelivered", Detail: "rejected_by_operator", Timestamp: time.Date(2026, 7, 30, 8, 0, 9, 100e6, time.UTC), ErrorCode: 1022,
			Outcome: native.Outcome{State: "undelivered", Final: true, Rank: 4},
		},
		"chat-status-wavecell": {
			UMID: "c3d4e5f6-0000-4000-8000-000000000009", ClientMessageID: "evt-51", ClientBatchID: "b-9", SubAccountID: "acme_wa", Channel: "whatsapp",
			State: "DELIVERED TO DEVICE", Timestamp: time.Date(2026, 3, 1, 10, 0, 9, 0, time.UTC), Outcome: native.Outcome{State: "delivered", Final: true, Rank: 5},
		},
	} {
		e := native.Convert(nil, sample(t, name), receivedAt)
		got, ok := native.ParseReceipt(&e)
		if !ok {
			t.Fatalf("%s is no receipt", name)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for _, name := range []string{"sms-received", "voice-session-summary"} {
		e := native.Convert(nil, sample(t, name), receivedAt)
		if _, ok := native.ParseReceipt(&e); ok {
			t.Errorf("%s is a receipt", name)
		}
	}
	if _, ok := native.ParseReceipt(&event.Event{}); ok {
		t.Error("nothing is a receipt")
	}
}

// A message's outcome is the same in whatever order its receipts come.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	chain := []string{"unknown", "queued", "sent", "delivered_to_operator", "delivered", "read"}
	state := func(s string) native.Outcome {
		o := native.Outcome{State: s, Final: !slices.Contains(chain[:4], s), Rank: slices.Index(chain, s)}
		switch {
		case o.Rank < 0:
			o.Rank = 4
		case o.Final:
			o.Rank++ // the failures are below
		}
		return o
	}
	final := func(states ...string) (o native.Outcome) {
		for _, s := range states {
			o = state(s).After(o)
		}
		return o
	}
	for i, later := range chain {
		for _, earlier := range chain[:i+1] {
			if got := final(earlier, later); got != state(later) {
				t.Errorf("%s, %s: %v", earlier, later, got)
			}
			if got := final(later, earlier); got != state(later) {
				t.Errorf("%s, %s: %v", later, earlier, got)
			}
		}
	}
	for _, failed := range []string{"undelivered", "rejected", "failed"} {
		for _, s := range append(chain, "undelivered", "rejected", "failed") {
			if got := final(failed, s); got != state(failed) {
				t.Errorf("%s was left for %v", failed, got)
			}
		}
		for _, s := range chain[:4] {
			if got := final(s, failed); got != state(failed) {
				t.Errorf("%s, %s: %v", s, failed, got)
			}
		}
		for _, s := range chain[4:] {
			if got := final(s, failed); got != state(s) {
				t.Errorf("%s was left for %v", s, got)
			}
		}
	}
}

func TestReplies(t *testing.T) {
	t.Parallel()
	inbound := func(kind, payload string) string {
		return `{"namespace":"` + kind + `","eventType":"inbound_message_received","payload":` + payload + `}`
	}
	for body, want := range map[string]native.Reply{
		string(sample(t, "sms-received")):                                       {From: "12025550101"},
		string(sample(t, "chat-received")):                                      {From: "12025550101", UMID: "0f3c5e0e-6f0a-4c58-9b6d-3a1f1f6f0001"},
		string(sample(t, "chat-received-wavecell")):                             {From: "12025550101"},
		inbound("ChatApps", `{"umid":"a1","user":{"channelUserId":"US.1349"}}`): {},
		inbound("ChatApps", `{"umid":"a1","user":"+12025550101"}`):              {},
		inbound("ChatApps", `{"umid":"a1","replyToUmid":"+12025550101"}`):       {},
		inbound("SMS", `{"umid":"a1","source":12025550101}`):                    {From: "12025550101"},
		inbound("SMS", `{"umid":"a1","source":"ACME"}`):                         {},
		inbound("SMS", `{"umid":"a1","source":"+1202555010112345678"}`):         {},
	} {
		e := native.Convert(nil, []byte(body), receivedAt)
		if got, ok := native.ParseReply(&e); !ok || got != want {
			t.Errorf("%s: %+v, %v; want %+v", body, got, ok, want)
		}
	}
	for _, name := range []string{"sms-status", "chat-echo", "voice-session-summary"} {
		e := native.Convert(nil, sample(t, name), receivedAt)
		if _, ok := native.ParseReply(&e); ok {
			t.Errorf("%s is a reply", name)
		}
	}
}

func TestOutcomeInReceipts(t *testing.T) {
	t.Parallel()
	receipt := func(status string) event.Event {
		return native.Convert(nil, []byte(`{"namespace":"SMS","eventType":"outbound_message_status_changed","payload":{"umid":"a1","status":`+status+`}}`), receivedAt)
	}
	for status, want := range map[string]string{
		`{"state":"queued"}`:    `{"state":"queued","final":false,"rank":1}`,
		`{"state":"accepted"}`:  `{"state":"queued","final":false,"rank":1}`,
		`{"state":"sent"}`:      `{"state":"sent","final":false,"rank":2}`,
		`{"state":"delivered"}`: `{"state":"delivered","final":true,"rank":5}`,
		`{"state":"delivered","detail":"delivered_to_operator"}`:  `{"state":"delivered_to_operator","final":false,"rank":3}`,
		`{"state":"delivered","detail":"delivered_to_carrier"}`:   `{"state":"delivered_to_operator","final":false,"rank":3}`,
		`{"state":"delivered","detail":"delivered_to_the_moon"}`:  `{"state":"delivered_to_operator","final":false,"rank":3}`,
		`{"state":"delivered","detail":"delivered_to_recipient"}`: `{"state":"delivered","final":true,"rank":5}`,
		`{"state":"read"}`:        `{"state":"read","final":true,"rank":6}`,
		`{"state":"undelivered"}`: `{"state":"undelivered","final":true,"rank":4}`,
		`{"state":"rejected"}`:    `{"state":"rejected","final":true,"rank":4}`,
		`{"state":"failed"}`:      `{"state":"failed","final":true,"rank":4}`,
		`{"state":"error"}`:       `{"state":"failed","final":true,"rank":4}`,
		`{"state":"TRASHED"}`:     `{"state":"failed","final":true,"rank":4}`,
		`{"state":"new"}`:         `{"state":"unknown","final":false,"rank":0}`,
		`{"state":7}`:             `{"state":"unknown","final":false,"rank":0}`,
		`"REJECTED BY CARRIER"`:   `{"state":"undelivered","final":true,"rank":4}`,
		`null`:                    `{"state":"unknown","final":false,"rank":0}`,
	} {
		e := receipt(status)
		if want := `{"umid":"a1","status":` + status + `,"outcome":` + want + `}`; string(e.Data()) != want {
			t.Errorf("%s: %s", status, e.Data())
		}
	}
	e := receipt(`{"state":"sent"}`)
	native.SetOutcome(&e, native.Outcome{State: "delivered", Final: true, Rank: 5})
	if want := `{"umid":"a1","status":{"state":"sent"},"outcome":{"state":"delivered","final":true,"rank":5}}`; string(e.Data()) != want {
		t.Errorf("%s", e.Data())
	}
	own := native.Convert(nil, []byte(`{"namespace":"SMS","eventType":"outbound_message_status_changed","payload":{"umid":"a1","status":{"state":"sent"},"outcome":1}}`), receivedAt)
	before := string(own.Data())
	native.SetOutcome(&own, native.Outcome{State: "read", Final: true, Rank: 6})
	if want := `{"umid":"a1","status":{"state":"sent"},"outcome":1}`; before != want || string(own.Data()) != want {
		t.Errorf("8x8's own member: %s, then %s", before, own.Data())
	}
	inbound := native.Convert(nil, sample(t, "sms-received"), receivedAt)
	before = string(inbound.Data())
	native.SetOutcome(&inbound, native.Outcome{State: "read", Rank: 6})
	if string(inbound.Data()) != before {
		t.Errorf("no receipt: %s", inbound.Data())
	}
}
