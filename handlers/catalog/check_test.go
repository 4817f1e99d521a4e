package catalog

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	const (
		noAnswer = "the action's output is not what 8x8 answers"
		noObject = "the action's output is not a JSON object"
		noCounts = "8x8's counts of accepted and rejected messages cannot be read"
		noStatus = "8x8 answered with a status that is neither QUEUED nor REJECTED"
	)
	ok := Verdict{OK: true}
	unclear := func(message string) Verdict { return Verdict{Unclear: true, Message: message} }
	details := func(v Verdict, pairs ...any) Verdict {
		v.Details = map[string]any{}
		for i := 0; i < len(pairs); i += 2 {
			v.Details[pairs[i].(string)] = pairs[i+1]
		}
		return v
	}
	rejected := func(about string) Verdict {
		message := "8x8 rejected the message"
		if about != "" {
			message += ": its answer names " + about
		}
		return details(Verdict{Message: message}, "code", "REJECTED", "umid", "u1")
	}
	reject := func(description string) string {
		return `{"umid":"u1","destination":"12025550101","status":{"code":"REJECTED","description":"` + description + `"}}`
	}
	for _, test := range []struct {
		key, output string
		want        Verdict
	}{
		{"send-sms", `{"umid":"u1","clientMessageId":null,"destination":"6581110001","encoding":"GSM7","status":{"code":"QUEUED","description":"SMS is accepted and queued for processing"}}`, ok},
		{"send-sms", ` {"umid":"u1","status":{"code":"queued"}} `, ok},
		{"send-sms", `{"Umid":"u1","Status":{"Code":"QUEUED"}}`, ok},
		{"send-sms", `{"status":{"code":"QUEUED"}}`, ok},
		{"send-sms", `{"umid":"u1","status":"QUEUED"}`, ok},
		{"send-sms", `{"umid":"u1"}`, ok},
		{"send-sms", `{"umid":"u1","status":null}`, ok},
		{"send-sms", `{"data":{"umid":"u1","status":{"code":"QUEUED"}}}`, ok},
		{"send-sms", `{"status":200,"headers":{},"body":{"umid":"u1","status":{"code":"QUEUED"}}}`, ok},
		{"send-sms", `{"status":"success","response":{"umid":"u1","status":{"code":"QUEUED"}}}`, ok},
		{"send-sms", reject("SMS is rejected"), rejected("")},
		{"send-sms", reject("Invalid MSISDN 12025550101"), rejected("the destination")},
		{"send-sms", reject("Message text 'Hi Bo' is too long"), rejected("the text")},
		{"send-sms", reject("Source is over the limit"), rejected("the source")},
		{"send-sms", reject("Expiry date has passed"), rejected("the expiry")},
		{"send-sms", reject("Internal error"), rejected("an internal error")},
		{"send-sms", `{"output":` + reject("") + `}`, rejected("")},
		{"send-sms", `{"status":{"code":"Rejected"}}`, details(Verdict{Message: "8x8 rejected the message"}, "code", "REJECTED")},
		{"send-sms", `{"umid":"u1","status":{"code":"PENDING"}}`, details(unclear(noStatus), "code", "PENDING")},
		{"send-sms", `{"umid":"u1","status":{"code":"12025550101 is bad"}}`, unclear(noStatus)},
		{"send-sms", `{"umid":"u1","status":{}}`, unclear(noStatus)},
		{"send-sms", `{"umid":"u1","status":{"code":5}}`, unclear(noStatus)},
		{"send-sms", `{"umid":"u1","status":[]}`, unclear(noStatus)},
		{"send-sms", `{"umid":""}`, unclear(noAnswer)},
		{"send-sms", `{"umid":5}`, unclear(noAnswer)},
		{"send-sms", `{}`, unclear(noAnswer)},
		{"send-sms", `{"status":400,"data":{"code":1002,"message":"Invalid MSISDN format"}}`, unclear(noAnswer)},
		{"send-sms", `{"code":1002,"message":"Invalid MSISDN format","errorId":"e1"}`, unclear(noAnswer)},
		{"send-sms", `null`, unclear(noAnswer)},
		{"send-sms", ``, unclear(noAnswer)},
		{"send-sms", `"<html>"`, unclear(noAnswer)},
		{"send-sms", `[{"umid":"u1"}]`, unclear(noAnswer)},
		{"send-sms", `{"umid":"u1`, unclear(noAnswer)},

		{"send-batch-sms", `{"batchId":"b1","clientBatchId":null,"acceptedCount":2,"rejectedCount":0,"messages":null}`, ok},
		{"send-batch-sms", `{"batchId":"b1","acceptedCount":2}`, ok},
		{"send-batch-sms", `{"batchId":"b1"}`, ok},
		{"send-batch-sms", `{"result":{"batchId":"b1","acceptedCount":1,"rejectedCount":0}}`, ok},
		{"send-batch-sms", `{"batchId":"b1","acceptedCount":1,"rejectedCount":2}`, details(ok, "acceptedCount", 1, "rejectedCount", 2)},
		{"send-batch-sms", `{"batchId":"b1","acceptedCount":0,"rejectedCount":2}`,
			details(Verdict{Message: "8x8 rejected every message of the batch"}, "acceptedCount", 0, "rejectedCount", 2)},
		{"send-batch-sms", `{"acceptedCount":0,"rejectedCount":0}`,
			details(unclear("8x8 neither accepted nor rejected a message of the batch"), "acceptedCount", 0, "rejectedCount", 0)},
		{"send-batch-sms", `{"batchId":"b1","rejectedCount":1}`, unclear("8x8's answer lacks a count of accepted or rejected messages")},
		{"send-batch-sms", `{"batchId":"b1","acceptedCount":0}`, unclear("8x8's answer lacks a count of accepted or rejected messages")},
		{"send-batch-sms", `{"batchId":"b1","acceptedCount":"many","rejectedCount":0}`, unclear(noCounts)},
		{"send-batch-sms", `{"batchId":"b1","acceptedCount":1,"rejectedCount":-1}`, unclear(noCounts)},
		{"send-batch-sms", `{"batchId":"b1","acceptedCount":1.5,"rejectedCount":0}`, unclear(noCounts)},
		{"send-batch-sms", `{}`, unclear(noAnswer)},
		{"send-batch-sms", `[]`, unclear(noAnswer)},
		{"send-batch-sms", `{"batchId":"b1"`, unclear(noAnswer)},

		{"get-sms-status", `{"umid":"u1","status":{"state":"undelivered"}}`, ok},
		{"get-account-balance", `{"balance":1234.5678901,"currency":"USD"}`, ok},
		{"list-contacts", `{"items":[]}`, ok},
		{"list-groups", ` []`, ok},
		{"request-sms-log-export", `{"jobId":"x"}`, ok},
		{"get-sms-log-export-result", `{"status":"failed"}`, ok},
		{"get-sms-status", `null`, unclear(noObject)},
		{"list-contacts", `"<html>"`, unclear(noObject)},
		{"get-account-balance", `{"balance":1`, unclear(noObject)},
		{"request-sms-log-export", ``, unclear(noObject)},
		{"request-sms-log-export", "\v{}", unclear(noObject)},
	} {
		got := lookup(t, test.key).Check(json.RawMessage(test.output))
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", test.key, test.output, diff)
		}
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(`{"umid":"u1","status":{"code":"QUEUED"}}`)
	f.Add(`{"batchId":"b1","acceptedCount":1,"rejectedCount":2}`)
	f.Add(`{"data":{"umid":"u1","status":{"code":"REJECTED"}}}`)
	f.Add("\v{}")
	f.Fuzz(func(t *testing.T, output string) {
		for _, action := range Builtin().All() {
			if action.Check == nil {
				continue
			}
			v := action.Check(json.RawMessage(output))
			if v.OK && v.Unclear {
				t.Fatalf("%s: both a yes and unclear", action.Key)
			}
			if !v.OK && v.Message == "" {
				t.Fatalf("%s: no yes, and no reason", action.Key)
			}
			if v.OK && !json.Valid([]byte(output)) {
				t.Fatalf("%s: a yes read from what is not JSON", action.Key)
			}
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	action := lookup(b, "send-sms")
	output := json.RawMessage(`{"umid":"0f3c2a68-6d1c-4c55-9a4e-0d6f3f1b2a10","clientMessageId":"order-9","destination":"6581110001","encoding":"GSM7","status":{"code":"QUEUED","description":"SMS is accepted and queued for processing"}}`)
	b.ReportAllocs()
	for b.Loop() {
		if v := action.Check(output); !v.OK {
			b.Fatal(v)
		}
	}
}
