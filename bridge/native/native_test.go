package native_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge/native"
)

var receivedAt = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// The bodies follow 8x8's documented examples (sources:
// delivery-receipts-for-outbound-sms.md, inbound-sms.md).
const (
	receiptPayload = `{"umid":"0f3c5e0e-6f0a-4c58-9b6d-3a1f1f6f0001","batchId":"b-1","clientMessageId":"evt-42","clientBatchId":"cb-1","subAccountId":"acme_hq","source":"ACME","destination":"+12025550101","status":{"state":"undelivered","detail":"rejected_by_operator","timestamp":"2026-03-01T10:00:05.12Z","errorCode":15,"errorMessage":"Invalid destination"},"price":{"total":0.02,"perSms":0.02,"currency":"USD"},"smsCount":2}`
	receipt        = `{"namespace":"SMS","eventType":"outbound_message_status_changed","description":"d","payload":` + receiptPayload + `}`
	inboundPayload = `{ "umid":"a1b2","subAccountId":"acme hq/1","timestamp":"2026-03-01T10:02:00.0170000+00:00","source":"+12025550101","destination":"+12025550102","body":"YES","encoding":"GSM7","smsCount":1}`
	inbound        = `{"namespace":"SMS","eventType":"inbound_message_received","payload":` + inboundPayload + `}`
)

type seen struct{ Type, Source, ID, Subject, Time, ContentType, Data string }

func see(e event.Event) seen {
	return seen{e.Type(), e.Source(), e.ID(), e.Subject(), e.Time().Format(time.RFC3339Nano), e.DataContentType(), string(e.Data())}
}

func TestConvert(t *testing.T) {
	t.Parallel()
	unrecognized := func(id, body string) seen {
		return seen{native.TypeUnrecognized, "/8x8", id, "", "2026-03-01T12:00:00Z", "application/json", body}
	}
	click := `{"namespace":"SMS","eventType":"short_url_clicked","payload":{"eventId":"1","umid":"0f3c"}}`
	for _, test := range []struct {
		name, body string
		want       seen
	}{
		{"receipt", receipt, seen{native.TypeSMSStatus, "/8x8/sms/acme_hq", "e64df471b4da34c9d07c527d105b77c3", "0f3c5e0e-6f0a-4c58-9b6d-3a1f1f6f0001", "2026-03-01T10:00:05.12Z", "application/json", receiptPayload}},
		{"inbound", inbound, seen{native.TypeSMSReceived, "/8x8/sms/acme%20hq%2F1", "a1b2", "a1b2", "2026-03-01T10:02:00.017Z", "application/json", inboundPayload}},
		{"without a sub-account and with a strange time", `{"namespace":"SMS","eventType":"inbound_message_received","payload":{"umid":"a1","timestamp":"yesterday"}}`,
			seen{native.TypeSMSReceived, "/8x8/sms", "a1", "a1", "2026-03-01T12:00:00Z", "application/json", `{"umid":"a1","timestamp":"yesterday"}`}},
		{"a family that is not known yet", click, unrecognized("", click)},
		{"a message id that is none", strings.Replace(inbound, "a1b2", "a b", 1), unrecognized("", strings.Replace(inbound, "a1b2", "a b", 1))},
		{"no payload", `{"namespace":"SMS","eventType":"inbound_message_received"}`, unrecognized("", `{"namespace":"SMS","eventType":"inbound_message_received"}`)},
		{"a payload of another shape", `{"namespace":"SMS","eventType":"inbound_message_received","payload":[1]}`, unrecognized("", `{"namespace":"SMS","eventType":"inbound_message_received","payload":[1]}`)},
		{"an array", `[1]`, unrecognized("", `[1]`)},
		{"null", `null`, unrecognized("", `null`)},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			e, err := native.Convert([]byte(test.body), receivedAt)
			if err != nil {
				t.Fatal(err)
			}
			if err := e.Validate(); err != nil {
				t.Error(err)
			}
			got := see(e)
			if test.want.Type == native.TypeUnrecognized {
				if len(got.ID) != 32 {
					t.Errorf("id %q is no hash", got.ID)
				}
				test.want.ID = got.ID
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			again, err := native.Convert([]byte(test.body), receivedAt.Add(time.Minute))
			if err != nil || again.ID() != e.ID() || again.Source() != e.Source() {
				t.Errorf("posted again it is another event: %v, %v", again, err)
			}
			for name, v := range map[string]string{"id": got.ID, "subject": got.Subject, "source": got.Source} {
				if strings.Contains(v, "2025550") {
					t.Errorf("%s holds a phone number", name)
				}
			}
			if len(e.Extensions()) != 0 {
				t.Errorf("extensions: %v", e.Extensions())
			}
		})
	}
}

func TestNotJSON(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", "hello", `{"a":`, "<umid>1</umid>", receipt + "x", "\"\xff\""} {
		if _, err := native.Convert([]byte(body), receivedAt); !errors.Is(err, native.ErrNotJSON) {
			t.Errorf("%q: %v", body, err)
		}
	}
}

// A receipt is told from another of the same message by what it says, and from
// itself by nothing else.
func TestReceiptIDs(t *testing.T) {
	t.Parallel()
	id := func(body string) string {
		e, err := native.Convert([]byte(body), receivedAt)
		if err != nil {
			t.Fatal(err)
		}
		return e.ID()
	}
	first := id(receipt)
	for _, change := range [][2]string{
		{`"umid":"0f`, `"umid":"1f`},
		{`"state":"undelivered"`, `"state":"sent"`},
		{`"detail":"rejected_by_operator",`, ``},
		{`05.12Z`, `05.13Z`},
		{`"errorCode":15`, `"errorCode":16`},
		{`"errorCode":15,`, ``},
	} {
		changed := strings.Replace(receipt, change[0], change[1], 1)
		if changed == receipt {
			t.Fatalf("%s is not there", change[0])
		}
		if id(changed) == first {
			t.Errorf("%s: the same id as before", change[1])
		}
	}
	for _, change := range [][2]string{
		{`"price":{"total":0.02,"perSms":0.02,"currency":"USD"},`, ``},
		{`"errorCode":15`, `"errorCode":"15"`},
		{`{"namespace"`, ` { "namespace"`},
	} {
		changed := strings.Replace(receipt, change[0], change[1], 1)
		if changed == receipt {
			t.Fatalf("%s is not there", change[0])
		}
		if id(changed) != first {
			t.Errorf("%s: another id", change[1])
		}
	}
}

func TestParseReceipt(t *testing.T) {
	t.Parallel()
	want := native.Receipt{
		UMID: "0f3c5e0e-6f0a-4c58-9b6d-3a1f1f6f0001", BatchID: "b-1", ClientMessageID: "evt-42", ClientBatchID: "cb-1",
		SubAccountID: "acme_hq", State: "undelivered", Detail: "rejected_by_operator",
		Timestamp: time.Date(2026, 3, 1, 10, 0, 5, 120e6, time.UTC), ErrorCode: 15, SMSCount: 2,
	}
	for _, timestamp := range []string{"05.12Z", "05.1200000Z", "05.1200000+00:00", "05.120", "05.12+0000", "05.12z"} {
		e, err := native.Convert([]byte(strings.Replace(receipt, "05.12Z", timestamp, 1)), receivedAt)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := native.ParseReceipt(&e)
		if !ok {
			t.Fatal("no receipt")
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", timestamp, diff)
		}
	}
	for _, body := range []string{inbound, `{}`} {
		e, err := native.Convert([]byte(body), receivedAt)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := native.ParseReceipt(&e); ok {
			t.Errorf("%s is a receipt", body)
		}
	}
	if _, ok := native.ParseReceipt(&event.Event{}); ok {
		t.Error("nothing is a receipt")
	}
}

func FuzzConvert(f *testing.F) {
	for _, seed := range []string{receipt, inbound, `{"namespace":"SMS","eventType":"outbound_message_status_changed","payload":{"umid":"1","subAccountId":"..","status":{"timestamp":"0000-01-01T00:00:00+23:59","errorCode":[1]}}}`, `[]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := native.Convert(body, receivedAt)
		if err != nil {
			return
		}
		if err := e.Validate(); err != nil {
			t.Fatal(err)
		}
		native.ParseReceipt(&e)
		again, err := native.Convert(body, receivedAt)
		if err != nil || again.ID() != e.ID() {
			t.Fatal("not the same twice")
		}
	})
}
