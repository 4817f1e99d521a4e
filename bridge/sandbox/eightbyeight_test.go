package sandbox_test

import (
	"context"
	"encoding/csv"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

func TestSendIsValidated(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const start = "2026-03-01T10:00:00Z" // of the clock
	for _, tt := range []struct {
		name  string
		input object
		code  int // 0: accepted
	}{
		{"digits", object{"destination": "12025550100"}, 0},
		{"no number", object{"destination": "hello"}, 1002},
		{"leading zero", object{"destination": "02025550100"}, 1002},
		{"too short", object{"destination": "+12025"}, 1002},
		{"16 digits", object{"destination": "+1202555010012345"}, 1002},
		{"empty text", object{"text": ""}, 1004},
		{"20 parts are cut", object{"text": strings.Repeat("a", 20*153)}, 0},
		{"source of 16", object{"source": "1234567890123456"}, 0},
		{"source of 17", object{"source": "12345678901234567"}, 1005},
		{"encoding", object{"encoding": "UTF8"}, 1003},
		{"country", object{"country": "USA"}, 1009},
		{"clientMessageId of 350", object{"clientMessageId": strings.Repeat("x", 350)}, 0},
		{"clientMessageId of 351", object{"clientMessageId": strings.Repeat("x", 351)}, 3009},
		{"client IP", object{"clientIp": "300.1.1.1"}, 1012},
		{"callback", object{"dlrCallbackUrl": "not a url"}, 3020},
		{"scheduled in 7 days", object{"scheduled": "2026-03-08T10:00:00Z"}, 0},
		{"scheduled in 8 days", object{"scheduled": "2026-03-09T10:00:00Z"}, 1011},
		{"scheduled before now", object{"scheduled": "2026-03-01T11:59:59+02:00"}, 1011},
		{"scheduled without offset", object{"scheduled": "2026-03-02T10:00:00"}, 1011},
		{"expired", object{"expiry": "2026-03-01T09:59:59Z"}, 1006},
		{"expires now", object{"expiry": start}, 0},
		{"sub-account", object{"subAccountId": "no spaces"}, 1001},
	} {
		t.Run(tt.name, func(t *testing.T) {
			input := object{"destination": "+12025550100", "text": "Hi"}
			maps.Copy(input, tt.input)
			before := len(b.Effects())
			if tt.code == 0 {
				var sent sentSMS
				b.act("send-sms", input, http.StatusOK, &sent)
				if sent.Status.Code != "QUEUED" {
					t.Errorf("status %q", sent.Status.Code)
				}
				return
			}
			var e envelope
			b.act("send-sms", input, http.StatusBadRequest, &e)
			if e.Type != "action_run" || e.ActionRunID == "" || e.CausedByError.Type != "connection" {
				t.Errorf("envelope %+v", e)
			}
			if got := e.CausedByError.Data.Response; got.Status != 400 || got.Data.Code != tt.code {
				t.Errorf("8x8 answered %d with code %d, want 400 with %d", got.Status, got.Data.Code, tt.code)
			}
			if len(b.Effects()) != before {
				t.Error("a refusal had an effect")
			}
		})
	}
}

func TestSendAnswers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var gsm, ucs sentSMS
	b.act("send-sms", object{"destination": "+12025550100", "text": "Hi", "clientMessageId": "evt-1"}, http.StatusOK, &gsm)
	b.act("send-sms", object{"destination": "12025550100", "text": "字"}, http.StatusOK, &ucs)
	if gsm.Destination != "12025550100" || gsm.Encoding != "GSM7" || gsm.ClientMessageID == nil || *gsm.ClientMessageID != "evt-1" {
		t.Errorf("first answer %+v", gsm)
	}
	if ucs.Encoding != "UCS2" || ucs.ClientMessageID != nil {
		t.Errorf("second answer %+v", ucs)
	}
}

// TestScripts plays each outcome that a destination's last two digits choose.
func TestScripts(t *testing.T) {
	t.Parallel()
	delivered := []string{"sent", "delivered delivered_to_recipient"}
	for _, tt := range []struct {
		digits   string
		status   int // HTTP status of /act
		vendor   int // 8x8's own, where it refused
		effects  int
		receipts []string
		final    string
	}{
		{"00", 200, 0, 1, delivered, "delivered delivered_to_recipient"},
		{"77", 200, 0, 1, delivered, "delivered delivered_to_recipient"},
		{"01", 200, 0, 1, []string{"sent", "undelivered rejected_by_operator 15"}, "undelivered rejected_by_operator 15"},
		{"02", 200, 0, 1, []string{"sent"}, "sent"},
		{"03", 200, 0, 1, []string{"rejected 42"}, "rejected 42"},
		{"04", 200, 0, 1, []string{"sent", "delivered delivered_to_operator"}, "delivered delivered_to_operator"},
		{"05", 400, 500, 1, delivered, ""},
		{"06", 429, 429, 0, nil, ""},
		{"07", 200, 0, 1, []string{delivered[1], "sent", "sent", delivered[1]}, "delivered delivered_to_recipient"},
		{"08", 200, 0, 0, nil, ""},
	} {
		t.Run(tt.digits, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			answer := b.do("POST", "/act", object{"key": "send-sms", "input": object{"destination": "+120255501" + tt.digits, "text": "Hi"}})
			if answer.status != tt.status {
				t.Fatalf("status %d, want %d: %s", answer.status, tt.status, answer.body)
			}
			var run struct{ Output sentSMS }
			answer.json(t, &run)
			if tt.vendor != 0 {
				var e envelope
				answer.json(t, &e)
				if got := e.CausedByError.Data.Response.Status; got != tt.vendor {
					t.Errorf("8x8 answered %d, want %d", got, tt.vendor)
				}
			}
			if tt.digits == "06" && (answer.header.Get("Retry-After") != "1" || !strings.Contains(answer.body, `"retry-after":"1"`)) {
				t.Errorf("no Retry-After: %v %s", answer.header, answer.body)
			}
			if tt.digits == "08" && run.Output.Status.Code != "REJECTED" {
				t.Errorf("status code %q", run.Output.Status.Code)
			}
			if got := len(b.Effects()); got != tt.effects {
				t.Errorf("%d effects, want %d", got, tt.effects)
			}
			b.settle()
			close(b.posts)
			var receipts []string
			for p := range b.posts {
				receipts = append(receipts, p.receipt(t).status())
			}
			if diff := cmp.Diff(tt.receipts, receipts); diff != "" {
				t.Errorf("receipts (-want +got):\n%s", diff)
			}
			if tt.final != "" {
				var got receipt
				b.act("get-sms-status", object{"umid": run.Output.Umid}, http.StatusOK, &got.Payload)
				if got.status() != tt.final {
					t.Errorf("final status %q, want %q", got.status(), tt.final)
				}
			}
		})
	}
}

func (r receipt) status() string {
	s := r.Payload.Status
	text := strings.TrimSpace(s.State + " " + s.Detail)
	if s.ErrorCode != 0 {
		text += fmt.Sprint(" ", s.ErrorCode)
	}
	return text
}

func TestEqualSendsAreNotMerged(t *testing.T) {
	t.Parallel()
	b := setup(t)
	input := object{"destination": "+12025550100", "text": "Hi", "clientMessageId": "evt-1"}
	var first, second sentSMS
	b.act("send-sms", input, http.StatusOK, &first)
	b.act("send-sms", input, http.StatusOK, &second)
	if first.Umid == second.Umid || len(b.Effects()) != 2 {
		t.Errorf("umids %s and %s, %d effects", first.Umid, second.Umid, len(b.Effects()))
	}
	b.settle()
	if len(b.posts) != 4 {
		t.Errorf("%d receipts, want two for each", len(b.posts))
	}
}

func TestStatusFollowsTheClock(t *testing.T) {
	t.Parallel()
	b := setup(t)
	sent := b.send("+12025550100")
	at := func(after time.Duration) string {
		t.Helper()
		b.clock.advance(after)
		var got receipt
		b.act("get-sms-status", object{"umid": sent.Umid}, http.StatusOK, &got.Payload)
		return got.status()
	}
	got := []string{at(0), at(time.Second), at(time.Second), at(time.Hour)}
	want := []string{"queued", "sent", "delivered delivered_to_recipient", "delivered delivered_to_recipient"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
}

func TestScheduledMessageWaits(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var sent sentSMS
	b.act("send-sms", object{"destination": "+12025550100", "text": "Hi", "scheduled": "2026-03-01T11:00:00Z"}, http.StatusOK, &sent)
	b.clock.advance(59 * time.Minute)
	var got receipt
	b.act("get-sms-status", object{"umid": sent.Umid}, http.StatusOK, &got.Payload)
	if got.status() != "queued" {
		t.Errorf("%q before its time", got.status())
	}
	b.settle()
	if p := b.next(); p.at.Before(time.Date(2026, 3, 1, 11, 0, 1, 0, time.UTC)) {
		t.Errorf("the first receipt came at %v", p.at)
	}
}

func TestGetStatus(t *testing.T) {
	t.Parallel()
	b := setup(t)
	sent := b.send("+12025550100")
	for _, tt := range []struct {
		name   string
		input  object
		status int
		code   int
	}{
		{"no UUID", object{"umid": "x"}, 400, 1000},
		{"unknown", object{"umid": "00000000-0000-4000-8000-000000000000"}, 404, 1300},
		{"of another sub-account", object{"umid": sent.Umid, "subAccountId": "other_hq"}, 404, 1300},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b.clock.advance(time.Second)
			var e envelope
			b.act("get-sms-status", tt.input, http.StatusBadRequest, &e)
			if got := e.CausedByError.Data.Response; got.Status != tt.status || got.Data.Code != tt.code {
				t.Errorf("%d with code %d, want %d with %d", got.Status, got.Data.Code, tt.status, tt.code)
			}
		})
	}
	b.clock.advance(time.Second)
	var masked struct{ Msisdn, Body, SubAccountID, Direction string }
	b.act("get-sms-status", object{"umid": strings.ToUpper(sent.Umid)}, http.StatusOK, &masked)
	if masked.Msisdn != "+1202555xxxx" || masked.Body != "**MASKED**" || masked.SubAccountID != sandbox.SubAccountID || masked.Direction != "outbound" {
		t.Errorf("got %+v", masked)
	}
	var e envelope
	b.act("get-sms-status", object{"umid": sent.Umid}, http.StatusTooManyRequests, &e)
	if e.CausedByError.Key != "rate_limit_exceeded" || e.CausedByError.Data.Response.Data.Code != 429 {
		t.Errorf("the second look within a second: %+v", e)
	}
	b.clock.advance(time.Second)
	b.act("get-sms-status", object{"umid": sent.Umid}, http.StatusOK, &masked)
}

func TestReceipts(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var sent sentSMS
	b.act("send-sms", object{"destination": "+12025550100", "text": strings.Repeat("a", 161), "source": "ACME", "clientMessageId": "evt-1"}, http.StatusOK, &sent)
	b.awaitTimer()
	b.clock.advance(time.Second)
	p := b.next()
	want := `{"namespace":"SMS","eventType":"outbound_message_status_changed","description":"Status of an outgoing SMS has changed",` +
		`"payload":{"umid":"` + sent.Umid + `","clientMessageId":"evt-1","subAccountId":"sandbox_hq","source":"ACME","destination":"+12025550100",` +
		`"status":{"state":"sent","timestamp":"2026-03-01T10:00:01.000Z"},"price":{"total":0.04,"perSms":0.02,"currency":"USD"},"smsCount":2}}`
	if p.body != want {
		t.Errorf("receipt\n%s\nwant\n%s", p.body, want)
	}
	if p.path != "/webhooks/8x8" || p.authorization != "Bearer hook" {
		t.Errorf("posted to %s with %q", p.path, p.authorization)
	}
}

func TestReceiptOfAnUnchargedMessageHasNoPrice(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.send("+12025550103")
	b.settle()
	if r := b.next().receipt(t); r.Payload.Price != nil {
		t.Errorf("price %+v", r.Payload.Price)
	}
}

func TestReceiptsToTheMessagesOwnURL(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var sent sentSMS
	hook := strings.TrimSuffix(b.control("GET", "/_sandbox/webhook", nil, 200).hookURL(t), "/webhooks/8x8")
	b.act("send-sms", object{"destination": "+12025550102", "text": "Hi", "dlrCallbackUrl": hook + "/mine"}, http.StatusOK, &sent)
	b.settle()
	if p := b.next(); p.path != "/mine" || p.authorization != "" {
		t.Errorf("posted to %s with authorization %q", p.path, p.authorization)
	}
}

func (r response) hookURL(t *testing.T) string {
	t.Helper()
	var hook struct{ URL string }
	r.json(t, &hook)
	return hook.URL
}

func TestRetrySchedule(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		statuses []int
		want     []time.Duration // since the first post
	}{
		{"accepted at once", []int{204}, []time.Duration{0}},
		{"a redirect is not repeated", []int{302}, []time.Duration{0}},
		{"4xx and 5xx are", []int{400, 503, 200}, []time.Duration{0, 1 * time.Second, 11 * time.Second}},
		{"given up after five", []int{500, 500, 500, 500, 500, 200}, []time.Duration{0, 1 * time.Second, 11 * time.Second, 41 * time.Second, 131 * time.Second}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			left := slices.Clone(tt.statuses)
			b.answer = func(post) int {
				status := left[0]
				left = left[1:]
				return status
			}
			b.send("+12025550102") // one receipt
			var got []time.Duration
			var first post
			for range tt.want {
				b.clock.advance(b.awaitTimer())
				p := b.next()
				if first.body == "" {
					first = p
				} else if p.body != first.body {
					t.Error("the body has changed")
				}
				got = append(got, p.at.Sub(first.at))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("posts (-want +got):\n%s", diff)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := b.WaitReceipts(ctx); err != nil {
				t.Errorf("it goes on: %v", err)
			}
			var messages struct {
				Items []struct {
					Webhooks []struct {
						State    string
						Posts    int
						Accepted bool
					}
				}
			}
			b.control("GET", "/_sandbox/messages", nil, 200).json(t, &messages)
			hook := messages.Items[0].Webhooks[0]
			if accepted := tt.statuses[len(tt.want)-1] < 400; hook.State != "sent" || hook.Posts != len(tt.want) || hook.Accepted != accepted {
				t.Errorf("listed as %+v", hook)
			}
		})
	}
}

func TestRetryWhenNobodyListens(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *sandbox.Options) { o.WebhookURL = "http://127.0.0.1:1/" })
	b.send("+12025550102")
	b.settle()
	if got := b.clock.Now().Sub(newClock().Now()); got < 132*time.Second {
		t.Errorf("it gave up after %v", got)
	}
}

func TestBatch(t *testing.T) {
	t.Parallel()
	type batch struct {
		BatchID                      string
		ClientBatchID                *string
		AcceptedCount, RejectedCount int
		Messages                     []sentSMS
	}
	text := object{"text": "Hi", "source": "ACME"}
	for _, tt := range []struct {
		name     string
		input    object
		accepted int
		codes    []string // of the messages in the answer
		effects  int
	}{
		{"messages", object{"messages": []object{{"destination": "+12025550100", "text": "1"}, {"destination": "+12025550110", "text": "2"}}}, 2, nil, 1},
		{"destinations", object{"destinations": []string{"+12025550100", "+12025550110"}, "template": text, "includeMessagesInResponse": true}, 2, []string{"QUEUED", "QUEUED"}, 1},
		{"both: destinations are ignored", object{"messages": []object{{"destination": "+12025550100"}}, "destinations": []string{"+12025550110", "+12025550111"}, "template": text}, 1, nil, 1},
		{
			"partly rejected",
			object{"messages": []object{{"destination": "+12025550100"}, {"destination": "x"}, {"destination": "+12025550108"}, {"destination": "+12025550110", "source": strings.Repeat("x", 17)}}, "template": text, "includeMessagesInResponse": true},
			1,
			[]string{"QUEUED", "REJECTED", "REJECTED", "REJECTED"},
			1,
		},
		{"all rejected", object{"messages": []object{{"destination": "+12025550100"}}, "includeMessagesInResponse": true}, 0, []string{"REJECTED"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			tt.input["clientBatchId"] = "b-1"
			var got batch
			b.act("send-batch-sms", tt.input, http.StatusOK, &got)
			var codes []string
			for _, m := range got.Messages {
				codes = append(codes, m.Status.Code)
			}
			if got.AcceptedCount != tt.accepted || got.ClientBatchID == nil || *got.ClientBatchID != "b-1" {
				t.Errorf("answer %+v", got)
			}
			if tt.codes != nil && got.RejectedCount != len(tt.codes)-tt.accepted {
				t.Errorf("rejectedCount %d", got.RejectedCount)
			}
			if diff := cmp.Diff(tt.codes, codes); diff != "" {
				t.Errorf("codes (-want +got):\n%s", diff)
			}
			if len(b.Effects()) != tt.effects {
				t.Errorf("%d effects, want %d", len(b.Effects()), tt.effects)
			}
			b.settle()
			if len(b.posts) != 2*tt.accepted {
				t.Errorf("%d receipts, want %d", len(b.posts), 2*tt.accepted)
			}
			if tt.accepted > 0 {
				r := b.next().receipt(t)
				if r.Payload.BatchID != got.BatchID || r.Payload.ClientBatchID != "b-1" {
					t.Errorf("receipt %+v of batch %s", r.Payload, got.BatchID)
				}
			}
		})
	}
}

func TestBatchIsRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	many := make([]string, 10_001)
	for i := range many {
		many[i] = "+12025550100"
	}
	for _, tt := range []struct {
		name   string
		input  object
		status int
		code   int
	}{
		{"nothing to send", object{"messages": []object{}}, 400, 3012},
		{"too many", object{"destinations": many, "template": object{"text": "Hi"}}, 400, 1100},
		{"long clientBatchId", object{"destinations": many[:1], "template": object{"text": "Hi"}, "clientBatchId": strings.Repeat("x", 21)}, 400, 3014},
		{"8x8 has no room", object{"destinations": []string{"+12025550100", "+12025550106"}, "template": object{"text": "Hi"}}, 429, 429},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var e envelope
			b.act("send-batch-sms", tt.input, tt.status, &e)
			if got := e.CausedByError.Data.Response.Data.Code; got != tt.code {
				t.Errorf("code %d, want %d", got, tt.code)
			}
		})
	}
	if len(b.Effects()) != 0 {
		t.Error("a refused batch had an effect")
	}
}

type contactView struct {
	ID               int64
	FirstName        string
	LastName         string
	Addresses        map[string]string
	CustomAttributes map[string]any
	Groups           []groupView
}

type groupView struct {
	ID          int64
	Name        string
	Contacts    int
	IsBlacklist bool
}

func TestContacts(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var ana, merged, bo contactView
	b.act("create-contact", object{"firstName": "Ana", "addresses": object{"msisdn": "+12025550101", "email": "ana@example.com"}, "groups": []object{{"id": 2}}, "customAttributes": object{"tier": "gold"}}, 200, &ana)
	b.act("create-contact", object{"lastName": "Lee", "addresses": object{"email": "ANA@example.com", "lineId": "ana"}, "customAttributes": object{"vip": true}}, 200, &merged)
	b.act("create-contact", object{"firstName": "Bo", "addresses": object{"msisdn": "12025550102"}}, 200, &bo)
	want := contactView{
		ID: ana.ID, FirstName: "Ana", LastName: "Lee",
		Addresses:        map[string]string{"msisdn": "12025550101", "email": "ANA@example.com", "lineId": "ana"},
		CustomAttributes: map[string]any{"tier": "gold", "vip": true},
		Groups:           []groupView{{ID: 2, Name: "vip", Contacts: 1}},
	}
	if diff := cmp.Diff(want, merged); diff != "" {
		t.Errorf("merged contact (-want +got):\n%s", diff)
	}
	if bo.ID == ana.ID || bo.Groups == nil {
		t.Errorf("second contact %+v", bo)
	}
	for _, tt := range []struct {
		name         string
		input        object
		status, code int
	}{
		{"two contacts match", object{"addresses": object{"msisdn": "+12025550102", "email": "ana@example.com"}}, 409, 5003},
		{"no address", object{"addresses": object{}}, 400, 1000},
		{"bad number", object{"addresses": object{"msisdn": "1"}}, 400, 1002},
		{"unknown group", object{"addresses": object{"lineId": "x"}, "groups": []object{{"id": 99}}}, 404, 1300},
		{"long name", object{"addresses": object{"lineId": "x"}, "firstName": strings.Repeat("x", 201)}, 400, 1010},
		{"country", object{"addresses": object{"lineId": "x"}, "country": "USA"}, 400, 1009},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var e envelope
			b.act("create-contact", tt.input, 400, &e)
			if got := e.CausedByError.Data.Response; got.Status != tt.status || got.Data.Code != tt.code {
				t.Errorf("%d with code %d, want %d with %d", got.Status, got.Data.Code, tt.status, tt.code)
			}
		})
	}
	type page struct {
		Items                                       []contactView
		Page, TotalPages, TotalCount, TotalFiltered int
		HasPreviousPage, HasNextPage                bool
	}
	for _, tt := range []struct {
		name  string
		input object
		names []string
		page  page
	}{
		{"all", object{}, []string{"Ana", "Bo"}, page{Page: 1, TotalPages: 1, TotalCount: 2, TotalFiltered: 2}},
		{"offset counts pages", object{"limit": 1, "offset": 1}, []string{"Bo"}, page{Page: 2, TotalPages: 2, TotalCount: 2, TotalFiltered: 2, HasPreviousPage: true}},
		{"first of two", object{"limit": 1}, []string{"Ana"}, page{Page: 1, TotalPages: 2, TotalCount: 2, TotalFiltered: 2, HasNextPage: true}},
		{"by name", object{"query": "lee"}, []string{"Ana"}, page{Page: 1, TotalPages: 1, TotalCount: 2, TotalFiltered: 1}},
		{"by number", object{"query": "+12025550102"}, []string{"Bo"}, page{Page: 1, TotalPages: 1, TotalCount: 2, TotalFiltered: 1}},
		{"by group", object{"groupId": 2}, []string{"Ana"}, page{Page: 1, TotalPages: 1, TotalCount: 2, TotalFiltered: 1}},
		{"nobody", object{"query": "zzz"}, nil, page{Page: 1, TotalCount: 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got page
			b.act("list-contacts", tt.input, 200, &got)
			var names []string
			for _, c := range got.Items {
				names = append(names, c.FirstName)
			}
			got.Items = nil
			if diff := cmp.Diff(tt.names, names); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.page, got); diff != "" {
				t.Errorf("page (-want +got):\n%s", diff)
			}
		})
	}
	var e envelope
	b.act("list-contacts", object{"limit": 501}, 400, &e)
	if e.CausedByError.Data.Response.Data.Code != 1010 {
		t.Errorf("limit 501: %+v", e)
	}
}

func TestGroups(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var c contactView
	b.act("create-contact", object{"addresses": object{"msisdn": "+12025550101"}}, 200, &c)
	var groups struct{ Items []groupView }
	b.act("list-groups", object{"name": "OPT"}, 200, &groups)
	want := []groupView{{ID: 3, Name: "opted-out", IsBlacklist: true}}
	if diff := cmp.Diff(want, groups.Items); diff != "" {
		t.Errorf("groups (-want +got):\n%s", diff)
	}
	var g groupView
	for range 2 { // a member twice is a member
		b.act("add-contacts-to-group", object{"groupId": 3, "contacts": []int64{c.ID}}, 200, &g)
	}
	if g.Contacts != 1 {
		t.Errorf("%d members", g.Contacts)
	}
	for _, input := range []object{{"groupId": 99, "contacts": []int64{c.ID}}, {"groupId": 3, "contacts": []int64{1}}} {
		var e envelope
		b.act("add-contacts-to-group", input, 400, &e)
		if got := e.CausedByError.Data.Response; got.Status != 404 || got.Data.Code != 1300 {
			t.Errorf("%v: %+v", input, got)
		}
	}
}

func TestBalance(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.send("+12025550100")
	b.send("+12025550103") // refused later, and not charged
	answer := b.do("POST", "/act", object{"key": "get-account-balance"})
	if !strings.Contains(answer.body, `"output":{"balance":99999.98,"currency":"USD"}`) {
		t.Errorf("balance: %s", answer.body)
	}
	postpaid := setup(t, func(o *sandbox.Options) { o.Postpaid = true })
	var e envelope
	postpaid.act("get-account-balance", object{}, 400, &e)
	if got := e.CausedByError.Data.Response; got.Status != 403 || got.Data.Code != 1201 {
		t.Errorf("postpaid: %+v", got)
	}
}

func TestExport(t *testing.T) {
	t.Parallel()
	b := setup(t)
	sent := b.send("+12025550100")
	b.send("+12025550110")
	var job struct{ JobID string }
	b.act("request-sms-log-export", object{"phoneNumber": "12025550100"}, 200, &job)
	if len(job.JobID) != 64 {
		t.Errorf("job id %q", job.JobID)
	}
	var result struct {
		Status  string
		Data    []string
		Expires string
	}
	for _, want := range []string{"queued", "running", "succeeded"} {
		b.act("get-sms-log-export-result", object{"jobId": job.JobID}, 200, &result)
		if result.Status != want || (want == "succeeded") != (len(result.Data) == 1) {
			t.Fatalf("%+v, want %s", result, want)
		}
		b.clock.advance(time.Second)
	}
	if result.Expires != "2026-04-01T10:00:00.000Z" {
		t.Errorf("expires %s", result.Expires)
	}
	file := b.do("GET", strings.TrimPrefix(result.Data[0], b.url), nil)
	rows, err := csv.NewReader(strings.NewReader(file.body)).ReadAll()
	if err != nil || len(rows) != 2 || len(rows[0]) != 24 {
		t.Fatalf("%v: %s", err, file.body)
	}
	got := map[string]string{}
	for i, name := range rows[0] {
		got[name] = rows[1][i]
	}
	if got["umid"] != sent.Umid || got["direction"] != "1" || got["status_value"] != "delivered" || got["msisdn"] != "+1202555xxxx" || got["body"] != "**MASKED**" || got["price_total"] != "0.02" {
		t.Errorf("row %v", got)
	}

	for name, input := range map[string]object{
		"another number": {"phoneNumber": "+12025550199"}, "another time": {"from": "2026-01-01", "to": "2026-01-31"},
		"another country": {"countries": []string{"SG"}}, "another sub-account": {"subAccountId": "other_hq"},
	} {
		b.act("request-sms-log-export", input, 200, &job)
		b.clock.advance(2 * time.Second)
		ask := object{"jobId": job.JobID}
		if sub, ok := input["subAccountId"]; ok {
			ask["subAccountId"] = sub
		}
		b.act("get-sms-log-export-result", ask, 200, &result)
		if result.Status != "empty" {
			t.Errorf("%s: %s", name, result.Status)
		}
	}
	var e envelope
	b.act("get-sms-log-export-result", object{"jobId": "nothing"}, 400, &e)
	if got := e.CausedByError.Data.Response; got.Status != 404 || got.Data.Code != 4018 {
		t.Errorf("unknown job: %+v", got)
	}
	b.act("request-sms-log-export", object{"from": "2026-03-01", "to": "2026-02-01"}, 400, &e)
	if e.CausedByError.Data.Response.Data.Code != 1010 {
		t.Errorf("from after to: %+v", e)
	}
	if answer := b.do("GET", "/8x8/api/v1/subaccounts/sandbox_hq/messages/download/nothing", nil); answer.status != 404 {
		t.Errorf("download of nothing: %d", answer.status)
	}
}
