package app_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// shape is what an object of 8x8's looks like: by field, another shape, a list of
// one shape, a value, or a rule. A field whose name ends with "?" may be missing; one
// that is not named may not be there.
type shape map[string]any

type rule func(any) error

// of says in which way a value is not of a shape.
func (s shape) of(value any) error { return fits("output", value, s) }

func fits(at string, value, want any) error {
	switch want := want.(type) {
	case rule:
		if err := want(value); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
	case shape:
		fields, ok := value.(map[string]any)
		if !ok {
			return fmt.Errorf("%s is %T, want an object", at, value)
		}
		var errs []error
		left := maps.Clone(fields)
		for _, name := range slices.Sorted(maps.Keys(want)) {
			plain := strings.TrimSuffix(name, "?")
			field, given := fields[plain]
			delete(left, plain)
			switch {
			case given:
				errs = append(errs, fits(at+"."+plain, field, want[name]))
			case plain == name:
				errs = append(errs, fmt.Errorf("%s.%s is missing", at, plain))
			}
		}
		for name := range left {
			errs = append(errs, fmt.Errorf("%s.%s is nothing that 8x8 answers", at, name))
		}
		return errors.Join(errs...)
	case []shape:
		items, ok := value.([]any)
		if !ok {
			return fmt.Errorf("%s is %T, want a list", at, value)
		}
		var errs []error
		for i, item := range items {
			errs = append(errs, fits(fmt.Sprintf("%s[%d]", at, i), item, want[0]))
		}
		return errors.Join(errs...)
	default:
		if !cmp.Equal(value, want) {
			return fmt.Errorf("%s is %#v, want %#v", at, value, want)
		}
	}
	return nil
}

func matches(pattern string) rule {
	re := regexp.MustCompile(pattern)
	return func(value any) error {
		if text, ok := value.(string); !ok || !re.MatchString(text) {
			return fmt.Errorf("%#v does not match %s", value, pattern)
		}
		return nil
	}
}

func number(low, high float64, whole bool) rule {
	return func(value any) error {
		n, ok := value.(float64)
		if !ok || n < low || n > high || whole && n != math.Trunc(n) {
			return fmt.Errorf("%#v is no number from %v to %v", value, low, high)
		}
		return nil
	}
}

// The parts of 8x8's answers. source: 8x8 sms_api.json, contacts_api.json.
var (
	uuid     = matches(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	someText = matches(`.`)
	anyText  = matches(``)
	digits   = matches(`^[1-9][0-9]{6,14}$`) // a number without + in what a send answers, and in a contact
	count    = number(0, 1e9, true)
	amount   = number(0, 1e9, false)
	boolean  = rule(func(v any) error {
		_, ok := v.(bool)
		return errors.Join(map[bool]error{false: fmt.Errorf("%#v is no boolean", v)}[ok])
	})
	stamp     = rule(func(v any) error { _, err := time.Parse(time.RFC3339, fmt.Sprint(v)); return err })
	anyObject = rule(func(v any) error {
		if _, ok := v.(map[string]any); !ok {
			return fmt.Errorf("%#v is no object", v)
		}
		return nil
	})
	textOrNull = rule(func(v any) error {
		if v == nil {
			return nil
		}
		return anyText(v)
	})

	sentShape = shape{
		"umid": uuid, "destination": digits, "encoding": matches(`^(GSM7|UCS2)$`), "clientMessageId?": textOrNull,
		"status": shape{"code": matches(`^(QUEUED|REJECTED)$`), "description": someText},
	}
	batch   = shape{"batchId": uuid, "clientBatchId?": textOrNull, "acceptedCount": count, "rejectedCount": count, "messages": []shape{sentShape}}
	details = shape{
		"umid": uuid, "subAccountId": matches(`^[A-Za-z0-9\-._&]{3,50}$`), "direction": "outbound", "country?": matches(`^[A-Z]{2}$`),
		"msisdn": matches(`^\+[0-9]+x{4}$`), "source": anyText, "body": "**MASKED**", "encoding": matches(`^(GSM7|GSM8|UCS2)$`), "createdAt": stamp,
		"smsCount": number(1, 10, true), "price": shape{"total": amount, "perSms": amount, "currency": matches(`^[A-Z]{3}$`)},
		"status": shape{
			"state":   matches(`^(queued|sent|delivered|undelivered|rejected|failed|unknown)$`),
			"detail?": someText, "errorCode?": count, "errorMessage?": someText, "timestamp": stamp,
		},
		"clientMessageId?": anyText, "clientBatchId?": anyText, "batchId?": uuid,
	}
	group   = shape{"id": count, "contacts": count, "createdAt?": stamp, "name": someText, "description?": anyText, "isBlacklist": boolean}
	contact = shape{
		"id": count, "createdAt?": stamp, "firstName?": someText, "lastName?": someText, "externalId?": someText, "country?": matches(`^[A-Z]{2}$`),
		"groups?": []shape{group}, "customAttributes?": anyObject, "addresses": shape{"msisdn?": digits, "email?": someText},
	}
	link = matches(`^https?://.+/api/v1/subaccounts/[^/]+/messages/download/[^/]+$`)
)

func pageOf(item shape) shape {
	return shape{
		"items": []shape{item}, "page": number(1, 1e9, true), "totalPages": count, "totalCount": count, "totalFiltered": count,
		"hasPreviousPage": boolean, "hasNextPage": boolean,
	}
}

// with is the shape, and what this very answer must say of it.
func (s shape) with(more shape) rule {
	return func(value any) error {
		fields, _ := value.(map[string]any)
		errs := []error{s.of(value)}
		for name, want := range more {
			errs = append(errs, fits(name, fields[name], want))
		}
		return errors.Join(errs...)
	}
}

// Each of the ten popular actions, driven by events through a bridge: an input goes
// in, and what 8x8 documents for it comes out in the result event; what cannot
// be done ends with its reason, as a result event for programs and as a dead letter
// for people.
func TestTenPopularActions(t *testing.T) {
	t.Parallel()
	var yaml strings.Builder
	yaml.WriteString("connections:\n  main: {key: 8x8-sandbox}\nroutes:\n")
	for _, a := range catalog.Builtin().All() {
		fmt.Fprintf(&yaml, "  - name: %[1]s\n    on: com.acme.%[1]s\n    run: %[1]s\n    connection: main\n    retry: {attempts: 2, backoff: {initial: 10ms, max: 10ms}}\n    input:\n", a.Key)
		var schema struct{ Properties map[string]any }
		if err := json.Unmarshal(a.Input.Raw(), &schema); err != nil {
			t.Fatal(err)
		}
		for name := range schema.Properties {
			if name != string(a.Reference) { // the bridge's own
				fmt.Fprintf(&yaml, "      %[1]s: ${ .data.%[1]s }\n", name)
			}
		}
	}
	fmt.Fprint(&yaml, "  - {name: short, on: com.acme.short, run: get-account-balance, connection: main, input: {}, ttl: 1s}\n")
	box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1})
	b := bridgetest.Start(t, bridgetest.Options{Sandbox: box, YAML: yaml.String()})
	o := watch(t, b.NATSURL)
	fault := func(f sandbox.Fault) {
		t.Helper()
		if err := box.Fault(f); err != nil {
			t.Fatal(err)
		}
	}
	fault(sandbox.Fault{Kind: sandbox.ErrorBefore, Match: "balance-fails", Times: 2})
	fault(sandbox.Fault{Kind: sandbox.Status, Match: "balance-of-postpaid", Times: -1, Status: 403, Body: json.RawMessage(
		`{"type":"action_run","message":"Forbidden","causedByError":{"type":"connection","message":"Request failed","data":{"response":{"status":403,"data":{"code":1201,"message":"Forbidden"}}}}}`)})

	hear := func(subject string) *nats.Subscription {
		t.Helper()
		sub, err := o.nc.SubscribeSync(subject)
		if err == nil {
			err = o.nc.Flush()
		}
		if err != nil {
			t.Fatal(err)
		}
		return sub
	}
	next := func(sub *nats.Subscription) *nats.Msg {
		t.Helper()
		m, err := sub.NextMsg(bridgetest.Deadline)
		if err != nil {
			t.Fatalf("on %s: %v", sub.Subject, err)
		}
		return m
	}
	results, letters := hear("bridge.results.>"), hear("bridge.dead.>")
	outputs := map[string]map[string]any{} // by event, for those that come after
	type failure struct {
		Reason  bridge.Reason
		Details map[string]any
	}
	status := func(http, code int) map[string]any {
		return map[string]any{"status": float64(http), "code": float64(code)}
	}
	for _, test := range []struct {
		id, kind string // kind: the action, and so the type, unless there is a slash
		input    func() map[string]any
		output   rule    // of a success
		failure  failure // or this
	}{
		{id: "sms", kind: "send-sms", input: func() map[string]any {
			return map[string]any{"destination": "+1 202 555 0110", "text": "Grüße €", "source": "ACME"}
		}, output: sentShape.with(shape{"destination": "12025550110", "encoding": "GSM7", "status": shape{"code": "QUEUED", "description": someText}})},
		{id: "sms-to-nobody", kind: "send-sms", input: func() map[string]any {
			return map[string]any{"destination": "12", "text": "hello"}
		}, failure: failure{Reason: bridge.ReasonInvalidInput}},
		{id: "sms-without-text", kind: "send-sms", input: func() map[string]any {
			return map[string]any{"destination": "+12025550110"}
		}, failure: failure{Reason: bridge.ReasonInvalidInput}},
		{id: "sms-rejected-with-200", kind: "send-sms", input: func() map[string]any {
			return map[string]any{"destination": "+12025550108", "text": "hello"}
		}, failure: failure{bridge.ReasonRejected, map[string]any{"code": "REJECTED"}}},
		{id: "sms-too-late", kind: "send-sms", input: func() map[string]any {
			return map[string]any{"destination": "+12025550110", "text": "hello", "expiry": "2020-01-01T00:00:00Z"}
		}, failure: failure{bridge.ReasonRejected, status(400, 1006)}},

		{id: "batch", kind: "send-batch-sms", input: func() map[string]any {
			return map[string]any{
				"template": map[string]any{"text": "hello"}, "destinations": []string{"+12025550111", "+12025550112"}, "includeMessagesInResponse": true,
			}
		}, output: batch.with(shape{"acceptedCount": 2.0, "rejectedCount": 0.0})},
		{id: "batch-in-part", kind: "send-batch-sms", input: func() map[string]any {
			return map[string]any{"includeMessagesInResponse": true, "messages": []any{
				map[string]any{"destination": "+12025550111", "text": "hello"}, map[string]any{"destination": "+12025550108", "text": "hello"},
			}}
		}, output: batch.with(shape{"acceptedCount": 1.0, "rejectedCount": 1.0})},
		{id: "batch-without-details", kind: "send-batch-sms", input: func() map[string]any {
			return map[string]any{"messages": []any{map[string]any{"destination": "+12025550111", "text": "hello"}}}
		}, output: shape{"batchId": uuid, "clientBatchId?": textOrNull, "acceptedCount": 1.0, "rejectedCount": 0.0, "messages?": nil}.of},
		{id: "batch-rejected", kind: "send-batch-sms", input: func() map[string]any {
			return map[string]any{"template": map[string]any{"text": "hello"}, "destinations": []string{"+12025550108", "+12025550208"}}
		}, failure: failure{bridge.ReasonRejected, map[string]any{"acceptedCount": 0.0, "rejectedCount": 2.0}}},
		{id: "batch-of-nothing", kind: "send-batch-sms", input: func() map[string]any {
			return map[string]any{"messages": []any{}}
		}, failure: failure{Reason: bridge.ReasonInvalidInput}},

		{id: "status", kind: "get-sms-status", input: func() map[string]any {
			return map[string]any{"umid": outputs["sms"]["umid"]}
		}, output: func(v any) error {
			return details.with(shape{
				"umid": outputs["sms"]["umid"], "msisdn": "+1202555xxxx", "source": "ACME",
				"clientMessageId": outputs["sms"]["clientMessageId"],
				"status":          shape{"state": "delivered", "detail": "delivered_to_recipient", "timestamp": stamp},
			})(v)
		}},
		{id: "status-of-nothing", kind: "get-sms-status", input: func() map[string]any { // waits for 8x8's one look a second
			return map[string]any{"umid": "00000000-0000-4000-8000-000000000000"}
		}, failure: failure{bridge.ReasonRejected, status(404, 1300)}},

		{id: "balance", kind: "get-account-balance", input: func() map[string]any { return map[string]any{} },
			output: shape{"balance": amount, "currency": matches(`^[A-Z]{3}$`)}.of},
		{id: "balance-fails", kind: "get-account-balance", input: func() map[string]any { return map[string]any{} },
			failure: failure{Reason: bridge.ReasonAttemptsExhausted}},

		{id: "contact", kind: "create-contact", input: func() map[string]any {
			return map[string]any{
				"firstName": "Ana", "externalId": "crm-7", "country": "SG", "groups": []any{map[string]any{"id": 2}},
				"addresses": map[string]any{"msisdn": "+6581112222", "email": "ana@example.org"}, "customAttributes": map[string]any{"tier": "gold"},
			}
		}, output: contact.with(shape{
			"firstName": "Ana", "externalId": "crm-7", "country": "SG", "customAttributes": shape{"tier": "gold"},
			"addresses": shape{"msisdn": "6581112222", "email": "ana@example.org"},
			"groups":    []shape{{"id": 2.0, "contacts": 1.0, "createdAt": stamp, "name": "vip", "isBlacklist": false}},
		})},
		{id: "contact-merged", kind: "create-contact", input: func() map[string]any { // 200 instead of 201
			return map[string]any{"lastName": "Lim", "addresses": map[string]any{"email": "ana@example.org"}}
		}, output: func(v any) error {
			return contact.with(shape{"id": outputs["contact"]["id"], "firstName": "Ana", "lastName": "Lim"})(v)
		}},
		{id: "contact-two", kind: "create-contact", input: func() map[string]any {
			return map[string]any{"addresses": map[string]any{"email": "bo@example.org"}}
		}, output: contact.of},
		{id: "contact-of-two", kind: "create-contact", input: func() map[string]any {
			return map[string]any{"addresses": map[string]any{"msisdn": "+6581112222", "email": "bo@example.org"}}
		}, failure: failure{bridge.ReasonRejected, status(409, 5003)}},
		{id: "contact-nowhere", kind: "create-contact", input: func() map[string]any {
			return map[string]any{"firstName": "Bo", "addresses": map[string]any{}}
		}, failure: failure{Reason: bridge.ReasonInvalidInput}},

		{id: "contacts", kind: "list-contacts", input: func() map[string]any { return map[string]any{"limit": 1, "offset": 1} },
			output: pageOf(contact).with(shape{
				"page": 2.0, "totalPages": 2.0, "totalCount": 2.0, "totalFiltered": 2.0, "hasPreviousPage": true, "hasNextPage": false,
				"items": []shape{{"id": count, "createdAt": stamp, "groups?": []shape{group}, "addresses": shape{"email": "bo@example.org"}, "customAttributes?": anyObject}},
			})},
		{id: "contacts-too-many", kind: "list-contacts", input: func() map[string]any { return map[string]any{"limit": 501} },
			failure: failure{Reason: bridge.ReasonInvalidInput}},
		{id: "contacts-of-no-country", kind: "list-contacts", input: func() map[string]any { return map[string]any{"country": "1A"} },
			failure: failure{bridge.ReasonRejected, status(400, 1009)}},

		{id: "groups", kind: "list-groups", input: func() map[string]any { return map[string]any{"name": "vi"} },
			output: pageOf(group).with(shape{"totalCount": 3.0, "totalFiltered": 1.0, "items": []shape{{
				"id": 2.0, "contacts": 1.0, "createdAt": stamp, "name": "vip", "isBlacklist": false,
			}}})},
		{id: "groups-before-the-first", kind: "list-groups", input: func() map[string]any { return map[string]any{"offset": -1} },
			failure: failure{Reason: bridge.ReasonInvalidInput}},

		{id: "grouped", kind: "add-contacts-to-group", input: func() map[string]any {
			return map[string]any{"groupId": 2, "contacts": []any{outputs["contact"]["id"], outputs["contact-two"]["id"]}}
		}, output: group.with(shape{"id": 2.0, "contacts": 2.0})},
		{id: "grouped-nowhere", kind: "add-contacts-to-group", input: func() map[string]any {
			return map[string]any{"groupId": 77, "contacts": []any{outputs["contact"]["id"]}}
		}, failure: failure{bridge.ReasonRejected, status(404, 1300)}},

		{id: "export", kind: "request-sms-log-export", input: func() map[string]any { return map[string]any{} },
			output: shape{"jobId": matches(`^\S{64}$`)}.of},
		{id: "export-of-nobody", kind: "request-sms-log-export", input: func() map[string]any { return map[string]any{"phoneNumber": "+6590000000"} },
			output: shape{"jobId": someText}.of},
		{id: "export-backwards", kind: "request-sms-log-export", input: func() map[string]any {
			return map[string]any{"from": "2026-02-01", "to": "2026-01-01"}
		}, failure: failure{bridge.ReasonRejected, status(400, 1010)}},

		{id: "exported", kind: "get-sms-log-export-result", input: func() map[string]any {
			return map[string]any{"jobId": outputs["export"]["jobId"]}
		}, output: shape{"status": "succeeded", "expires": stamp, "data": rule(func(v any) error {
			links, _ := v.([]any)
			if len(links) != 1 {
				return fmt.Errorf("%d links", len(links))
			}
			return link(links[0])
		})}.of},
		{id: "exported-nothing", kind: "get-sms-log-export-result", input: func() map[string]any {
			return map[string]any{"jobId": outputs["export-of-nobody"]["jobId"]}
		}, output: shape{"status": "empty"}.of},
		{id: "exported-never", kind: "get-sms-log-export-result", input: func() map[string]any {
			return map[string]any{"jobId": strings.Repeat("0", 64)}
		}, failure: failure{bridge.ReasonRejected, status(404, 4018)}},

		// A refusal about the account is not about the event, which waits until its time
		// is up; it holds up its own route alone.
		{id: "balance-of-postpaid", kind: "get-account-balance/short", input: func() map[string]any { return map[string]any{} },
			failure: failure{Reason: bridge.ReasonExpired}},
	} {
		action, route, _ := strings.Cut(test.kind, "/")
		if route == "" {
			route = action
		}
		data, err := json.Marshal(test.input())
		if err != nil {
			t.Fatal(err)
		}
		_, err = o.js.PublishMsg(t.Context(), &nats.Msg{
			Subject: "bridge.events.com.acme." + route, Header: nats.Header{"Content-Type": {cloudevent.ContentTypeStructured}},
			Data: fmt.Appendf(nil, `{"specversion":"1.0","id":%q,"source":"/crm","type":"com.acme.%s","datacontenttype":"application/json","data":%s}`, test.id, route, data),
		})
		if err != nil {
			t.Fatal(err)
		}
		m := next(results)
		got := result{Subject: m.Subject}
		if got.Event, err = cloudevent.FromNATS(m.Header, m.Data); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(got.Event.Data(), &got.Data); err != nil {
			t.Fatal(err)
		}
		state := "succeeded"
		if test.failure.Reason != "" {
			state = "failed"
		}
		if want := "com.8x8.action." + action + "." + state; got.Event.Type() != want || got.Subject != "bridge.results."+action+"."+state {
			t.Errorf("%s: a result of type %s on %s, want %s: %s", test.id, got.Event.Type(), got.Subject, want, got.Event.Data())
			continue
		}
		if got.Data.Action != action || got.Data.Route != route || got.Event.Subject() != test.id {
			t.Errorf("%s: the result is of action %s, route %s, subject %s", test.id, got.Data.Action, got.Data.Route, got.Event.Subject())
		}
		if test.failure.Reason == "" {
			var output map[string]any
			if err := json.Unmarshal(got.Data.Output, &output); err != nil || got.Data.Error != nil {
				t.Fatalf("%s: %v, error %+v", test.id, err, got.Data.Error)
			}
			if err := test.output(output); err != nil {
				t.Errorf("%s: %s is not what 8x8 answers:\n%v", test.id, got.Data.Output, err)
			}
			outputs[test.id] = output
			continue
		}
		if len(got.Data.Output) > 0 || got.Data.Error == nil {
			t.Errorf("%s: a failure with output %s, error %v", test.id, got.Data.Output, got.Data.Error)
			continue
		}
		if got.Data.Error.Reason != test.failure.Reason {
			t.Errorf("%s: reason %s (%s), want %s", test.id, got.Data.Error.Reason, got.Data.Error.Message, test.failure.Reason)
		}
		for name, want := range test.failure.Details {
			if !cmp.Equal(got.Data.Error.Details[name], want) {
				t.Errorf("%s: details %v, want %s to be %v", test.id, got.Data.Error.Details, name, want)
			}
		}
		letter := next(letters)
		if cause := letter.Header.Get("Bridge8x8-Cause-Id"); cause != test.id || letter.Header.Get("Bridge8x8-Reason") != string(test.failure.Reason) ||
			letter.Subject != fmt.Sprintf("bridge.dead.%s.%s", route, test.failure.Reason) || !bytes.Contains(letter.Data, data) {
			t.Errorf("%s: a letter about %s on %s: %v %s", test.id, cause, letter.Subject, letter.Header, letter.Data)
		}
	}
	o.awaitIdle()
	for what, sub := range map[string]*nats.Subscription{"result": results, "letter": letters} {
		if n, _, err := sub.Pending(); err != nil || n != 0 {
			t.Errorf("%d times a %s more than there are events: %v", n, what, err)
		}
	}
}
