package cloudevent_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
)

// seen is what the tests compare of an event.
type seen struct {
	ID, Source, Type, Subject, Time, DataContentType, DataSchema string
	Extensions                                                   map[string]any
	Data                                                         string
	NoData, Base64, BarePercent                                  bool
}

func see(e cloudevent.Event) seen {
	s := seen{
		ID: e.RawID, Source: e.RawSource, Type: e.Type(), Subject: e.Subject(),
		DataContentType: e.DataContentType(), DataSchema: e.DataSchema(), Extensions: e.Extensions(),
		Data: string(e.Data()), NoData: e.Data() == nil, Base64: e.DataBase64, BarePercent: e.BarePercent,
	}
	if !e.Time().IsZero() {
		s.Time = e.Time().Format(time.RFC3339Nano)
	}
	return s
}

// with is an event in the JSON format with more members.
func with(members string) string {
	s := `{"specversion":"1.0","id":"1","source":"/shop","type":"t"`
	if members != "" {
		s += "," + members
	}
	return s + "}"
}

func TestFromJSON(t *testing.T) {
	t.Parallel()
	base := seen{ID: "1", Source: "/shop", Type: "t", NoData: true}
	for _, test := range []struct {
		name, in string
		want     func(*seen)
	}{
		{"the least", with(""), func(*seen) {}},
		{"blanks around", " \r\n\t" + with("") + "\n ", func(*seen) {}},
		{"all attributes", with(`"subject":"order-9","time":"2026-03-01T10:00:05.12Z","datacontenttype":"application/json","dataschema":"https://example.com/s","data":{"a":1}`),
			func(s *seen) {
				s.Subject, s.Time, s.DataContentType, s.DataSchema = "order-9", "2026-03-01T10:00:05.12Z", "application/json", "https://example.com/s"
				s.Data, s.NoData = `{"a":1}`, false
			}},
		{"extensions of each JSON type", with(`"s":"x","e":"","b":true,"f":false,"i":-7,"z":-0,"max":2147483647,"min":-2147483648`),
			func(s *seen) {
				s.Extensions = map[string]any{"s": "x", "e": "", "b": true, "f": false, "i": int32(-7), "z": int32(0), "max": int32(2147483647), "min": int32(-2147483648)}
			}},
		{"null is absent", with(`"subject":null,"time":null,"datacontenttype":null,"dataschema":null,"foo":null,"data_base64":null`), func(*seen) {}},
		{"empty subject is absent", with(`"subject":""`), func(*seen) {}},
		{"lower-case t and z", with(`"time":"2026-03-01t10:00:05z"`), func(s *seen) { s.Time = "2026-03-01T10:00:05Z" }},
		{"time with an offset", with(`"time":"2026-03-01T10:00:05+08:00"`), func(s *seen) { s.Time = "2026-03-01T10:00:05+08:00" }},
		{"source as received", `{"specversion":"1.0","id":"1","source":"a b/%7Ec","type":"t"}`, func(s *seen) { s.Source = "a b/%7Ec" }},
		{"source that is a phone-like path", `{"specversion":"1.0","id":"1","source":"1-555-123-4567","type":"t"}`, func(s *seen) { s.Source = "1-555-123-4567" }},
		{"escapes undone", `{"specversion":"1.\u0030","\u0069d":"a\"\\\/\u00e9\ud83d\ude00","source":"\u002fshop","type":"t"}`, func(s *seen) { s.ID = `a"\/é😀` }},
		{"explicit null payload", with(`"data":null`), func(s *seen) { s.Data, s.NoData = "null", false }},
		{"data before its content type", `{"data":"hé\u00e9\n","datacontenttype":"text/plain","specversion":"1.0","id":"1","source":"/shop","type":"t"}`,
			func(s *seen) { s.Data, s.NoData, s.DataContentType = "héé\n", false, "text/plain" }},
		{"text data that is empty", with(`"datacontenttype":"text/plain","data":""`),
			func(s *seen) { s.NoData, s.DataContentType = false, "text/plain" }},
		{"null data that is not JSON", with(`"datacontenttype":"text/plain","data":null`), func(s *seen) { s.DataContentType = "text/plain" }},
		{"a JSON string as data", with(`"data":"x"`), func(s *seen) { s.Data, s.NoData = `"x"`, false }},
		{"data as it stands", with(`"data":{ "b" : 1.50, "a":[1e3 , {"a":null,"a":2}],"\u0061":"\ud800" }`),
			func(s *seen) {
				s.Data, s.NoData = `{ "b" : 1.50, "a":[1e3 , {"a":null,"a":2}],"\u0061":"\ud800" }`, false
			}},
		{"+json (sdk-go#797)", with(`"datacontenttype":"application/vnd.x+json","data":{"a":1}`),
			func(s *seen) {
				s.Data, s.NoData, s.DataContentType = `{"a":1}`, false, "application/vnd.x+json"
			}},
		{"JSON in capitals (sdk-go#1273)", with(`"datacontenttype":"Application/JSON; charset=UTF-8","data":{"a":1}`),
			func(s *seen) {
				s.Data, s.NoData, s.DataContentType = `{"a":1}`, false, "Application/JSON; charset=UTF-8"
			}},
		{"base64", with(`"data_base64":"AAEC/w=="`), func(s *seen) { s.Data, s.NoData, s.Base64 = "\x00\x01\x02\xff", false, true }},
		{"base64 with an escaped slash", with(`"data_base64":"AAEC\/w=="`), func(s *seen) { s.Data, s.NoData, s.Base64 = "\x00\x01\x02\xff", false, true }},
		{"base64 of nothing", with(`"data_base64":""`), func(s *seen) { s.NoData, s.Base64 = false, true }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			want := base
			test.want(&want)
			e, err := cloudevent.FromJSON([]byte(test.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, see(e)); diff != "" {
				t.Error(diff)
			}
			if err := e.Validate(); err != nil {
				t.Errorf("the SDK finds it invalid: %v", err)
			}
		})
	}
}

func TestFromJSONMalformed(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", cloudevent.MaxDepth) + strings.Repeat("]", cloudevent.MaxDepth)
	for _, test := range []struct{ name, in, want string }{
		{"a number as base64, where the SDK panics", `{"specversion":"1.0","data_base64":5}`, "data_base64: must be a string in base64"},
		{"an object as base64", with(`"data_base64":{}`), "data_base64: must be a string in base64"},
		{"bad base64", with(`"data_base64":"+1 202 555 0101"`), "data_base64: is not base64"},
		{"base64 of half a surrogate pair", with(`"data_base64":"\ud800"`), "data_base64: is not base64"},
		{"an extension with a fraction", with(`"weight":1.5`), "weight: is not an integer of 32 bits"},
		{"an extension with a zero fraction", with(`"weight":1.0`), "weight: is not an integer of 32 bits"},
		{"an extension with an exponent", with(`"weight":1e3`), "weight: is not an integer of 32 bits"},
		{"an extension of more than 32 bits", with(`"weight":2147483648`), "weight: is not an integer of 32 bits"},
		{"an extension that is an object", with(`"weight":{"kg":1}`), "weight: must be a string, an integer or a boolean, not an object or array"},
		{"an extension that is an array", with(`"weight":[1]`), "weight: must be a string, an integer or a boolean, not an object or array"},
		{"a name with _", with(`"order_id":"1"`), "order_id: is not an attribute name: use a to z and 0 to 9 only"},
		{"a name in camel case", with(`"orderId":"1"`), "orderId: is not an attribute name: use a to z and 0 to 9 only"},
		{"a name that holds a number", with(`"+12025550101":"1"`), "an attribute has a name with characters other than a to z and 0 to 9"},
		{"a name that is a number", with(`"12025550101":1.5`), "1202*******: is not an integer of 32 bits"},
		{"a long name", with(`"a_` + strings.Repeat("b", 60) + `":"1"`), "a_" + strings.Repeat("b", 38) + "...: is not an attribute name: use a to z and 0 to 9 only"},
		{"an empty name", with(`"":"1"`), "an attribute has an empty name"},
		{"a name that is no text", with(`"\ud800":"1"`), "an attribute's name is no text"},
		{"an attribute twice", with(`"id":"1"`), "id: is given more than once"},
		{"an attribute twice, once escaped", with(`"\u0069d":"1"`), "id: is given more than once"},
		{"an attribute twice, once null", with(`"subject":null,"subject":"x"`), "subject: is given more than once"},
		{"an extension twice", with(`"foo":"1","foo":"1"`), "foo: is given more than once"},
		{"an extension twice, once null", with(`"foo":null,"foo":"1"`), "foo: is given more than once"},
		{"data twice", with(`"data":1,"data":1`), "data: is given more than once"},
		{"base64 twice", with(`"data_base64":null,"data_base64":""`), "data_base64: is given more than once"},
		{"data and base64", with(`"data":1,"data_base64":""`), "data_base64: is given together with data"},
		{"null data and base64", with(`"data":null,"data_base64":""`), "data_base64: is given together with data"},
		{"control characters in id", `{"specversion":"1.0","id":"a\u0007","source":"/s","type":"t"}`, "id: holds a control character or a code point that is no character"},
		{"a C1 control character in subject", with(`"subject":"\u0085"`), "subject: holds a control character or a code point that is no character"},
		{"a noncharacter in type", `{"specversion":"1.0","id":"1","source":"/s","type":"\ufdd0"}`, "type: holds a control character or a code point that is no character"},
		{"a noncharacter at a plane's end", `{"specversion":"1.0","id":"1","source":"/s","type":"\ud83f\udffe"}`, "type: holds a control character or a code point that is no character"},
		{"half a surrogate pair", `{"specversion":"1.0","id":"\ud800x","source":"/s","type":"t"}`, "id: holds a control character or a code point that is no character"},
		{"two first halves", `{"specversion":"1.0","id":"\ud800\ud800","source":"/s","type":"t"}`, "id: holds a control character or a code point that is no character"},
		{"a line end in an extension", with(`"foo":"a\nb"`), "foo: holds a control character or a code point that is no character"},
		{"half a surrogate pair in text", with(`"datacontenttype":"text/plain","data":"\udc00"`), "data: holds half a surrogate pair"},
		{"bytes after the brace", with("") + "x", "something follows the event's closing brace"},
		{"a second event", with("") + with(""), "something follows the event's closing brace"},
		{"an object where data is text", with(`"datacontenttype":"text/plain","data":{}`), "data: must be a string, because datacontenttype is not JSON"},
		{"UTF-16 JSON", with(`"datacontenttype":"application/json; charset=UTF-16","data":{}`), "datacontenttype: names a character set other than UTF-8, which JSON must be in"},
		{"no media type", with(`"datacontenttype":"a/b/c d"`), "datacontenttype: is not a media type"},
		{"an empty media type", with(`"datacontenttype":""`), "datacontenttype: must not be empty"},
		{"a relative dataschema", with(`"dataschema":"/s"`), "dataschema: is not an absolute URI"},
		{"a date as time", with(`"time":"2026-03-01"`), "time: is not an RFC 3339 timestamp"},
		{"a time with a comma", with(`"time":"2026-03-01T10:00:05,12Z"`), "time: is not an RFC 3339 timestamp"},
		{"a one-digit hour", with(`"time":"2026-03-01T1:00:05Z"`), "time: is not an RFC 3339 timestamp"},
		{"a number as id", `{"specversion":"1.0","id":5}`, "id: must be a string"},
		{"an object as source", `{"specversion":"1.0","source":{}}`, "source: must be a string"},
		{"a source that is no URI-reference", `{"specversion":"1.0","id":"1","source":"%zz","type":"t"}`, "source: is not a URI-reference"},
		{"no specversion", `{"id":"1","source":"/s","type":"t"}`, "specversion: is missing"},
		{"another specversion", `{"specversion":"0.3","id":"1"}`, `specversion: must be "1.0"`},
		{"no id", `{"specversion":"1.0","source":"/s","type":"t"}`, "id: is missing"},
		{"null id", `{"specversion":"1.0","id":null,"source":"/s","type":"t"}`, "id: is missing"},
		{"an empty id", `{"specversion":"1.0","id":"","source":"/s","type":"t"}`, "id: must not be empty"},
		{"a blank id", `{"specversion":"1.0","id":" ","source":"/s","type":"t"}`, "id: must not be empty"},
		{"no source", `{"specversion":"1.0","id":"1","type":"t"}`, "source: is missing"},
		{"no type", `{"specversion":"1.0","id":"1","source":"/s"}`, "type: is missing"},
		{"nothing", "", "there is nothing in it"},
		{"blanks", " \n", "there is nothing in it"},
		{"an array", "[]", "not a JSON object"},
		{"an empty object", "{}", "specversion: is missing"},
		{"half an event", with("")[:20], "not JSON: it ends too early"},
		{"a comma too many", `{"specversion":"1.0",}`, "not JSON: unexpected character at byte 22"},
		{"no colon", `{"specversion" "1.0"}`, "not JSON: unexpected character at byte 16"},
		{"a raw line end", "{\"id\":\"a\nb\"}", "not JSON: unexpected character at byte 9"},
		{"an unknown escape", `{"id":"\x"}`, "not JSON: unexpected character at byte 9"},
		{"a short escape", `{"id":"\u00g0"}`, "not JSON: unexpected character at byte 12"},
		{"a leading zero", with(`"data":01`), "not JSON: unexpected character at byte 67"},
		{"a sign alone", with(`"data":-`), "not JSON: unexpected character at byte 67"},
		{"a point alone", with(`"data":1.`), "not JSON: unexpected character at byte 68"},
		{"an exponent alone", with(`"data":1e+`), "not JSON: unexpected character at byte 69"},
		{"half a word", with(`"data":tru`), "not JSON: unexpected character at byte 69"},
		{"not UTF-8", with(`"data":"` + "\xff" + `"`), "not JSON: not in UTF-8"},
		{"too deep", with(`"data":` + deep), "is nested deeper than 128 levels"},
		{"endless depth", with(`"data":` + strings.Repeat(`{"a":`, 1<<20)), "is nested deeper than 128 levels"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := cloudevent.FromJSON([]byte(test.in))
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(test.want, err.Error()); diff != "" {
				t.Error(diff)
			}
			if _, ok := errors.AsType[*cloudevent.MalformedError](err); !ok {
				t.Errorf("%T is no *MalformedError", err)
			}
		})
	}
}

func TestDepthThatIsAllowed(t *testing.T) {
	t.Parallel()
	n := cloudevent.MaxDepth - 1
	in := with(`"data":` + strings.Repeat("[", n) + strings.Repeat("]", n))
	if _, err := cloudevent.FromJSON([]byte(in)); err != nil {
		t.Error(err)
	}
}

// natsEvent is a header in binary mode with changes.
func natsEvent(changes ...string) map[string][]string {
	h := map[string][]string{"ce-specversion": {"1.0"}, "ce-id": {"1"}, "ce-source": {"/shop"}, "ce-type": {"t"}}
	for i := 0; i < len(changes); i += 2 {
		h[changes[i]] = []string{changes[i+1]}
	}
	return h
}

func TestFromNATS(t *testing.T) {
	t.Parallel()
	base := seen{ID: "1", Source: "/shop", Type: "t", NoData: true}
	for _, test := range []struct {
		name   string
		header map[string][]string
		data   string
		want   func(*seen)
	}{
		{"structured", map[string][]string{"Content-Type": {"application/cloudevents+json"}}, with(""), func(*seen) {}},
		{"structured, header in any case", map[string][]string{"CONTENT-type": {"Application/CloudEvents+JSON; charset=UTF-8"}}, with(""), func(*seen) {}},
		{"structured wins over ce- headers", map[string][]string{"content-type": {"application/cloudevents+json"}, "ce-specversion": {"1.0"}, "ce-id": {"other"}}, with(""), func(*seen) {}},
		{"structured without a header", nil, with(""), func(*seen) {}},
		{"structured under another content type", map[string][]string{"Content-Type": {"application/json"}}, with(""), func(*seen) {}},
		{"binary", natsEvent(), "", func(*seen) {}},
		{"binary with data", natsEvent("ce-datacontenttype", "application/json"), `{"a":1}`,
			func(s *seen) { s.DataContentType, s.Data, s.NoData = "application/json", `{"a":1}`, false }},
		{"binary, names in any case", map[string][]string{"CE-SpecVersion": {"1.0"}, "Ce-Id": {"1"}, "cE-source": {"/shop"}, "CE-TYPE": {"t"}, "Ce-PartitionKey": {"k"}}, "",
			func(s *seen) { s.Extensions = map[string]any{"partitionkey": "k"} }},
		{"binary, the SDK's content-type", natsEvent("content-type", "text/plain"), "x",
			func(s *seen) { s.DataContentType, s.Data, s.NoData = "text/plain", "x", false }},
		{"binary, ce-datacontenttype first", natsEvent("content-type", "text/plain", "ce-datacontenttype", "text/xml"), "x",
			func(s *seen) { s.DataContentType, s.Data, s.NoData = "text/xml", "x", false }},
		{"binary, all values are strings", natsEvent("ce-n", "5", "ce-e", "", "Nats-Msg-Id", "m"), "",
			func(s *seen) { s.Extensions = map[string]any{"n": "5", "e": ""} }},
		{"percent-encoded", natsEvent("ce-subject", "Euro%20%E2%82%AC%20%f0%9f%98%80%41"), "", func(s *seen) { s.Subject = "Euro € 😀A" }},
		{"decoded once", natsEvent("ce-subject", "%2541"), "", func(s *seen) { s.Subject = "%41" }},
		{"raw UTF-8", natsEvent("ce-subject", "Euro €"), "", func(s *seen) { s.Subject = "Euro €" }},
		{"a quoted string", natsEvent("ce-subject", `"a \"b\" \\ %20"`), "", func(s *seen) { s.Subject = `a "b" \  ` }},
		{"no quoted string", natsEvent("ce-subject", `"a" b "c"`), "", func(s *seen) { s.Subject = `"a" b "c"` }},
		{"an escaped closing quote", natsEvent("ce-subject", `"a\"`), "", func(s *seen) { s.Subject = `"a\"` }},
		{"a bare percent sign", natsEvent("ce-id", "100%20%"), "", func(s *seen) { s.ID, s.BarePercent = "100%20%", true }},
		{"source as received", natsEvent("ce-source", "a%20b/%257Ec"), "", func(s *seen) { s.Source = "a b/%7Ec" }},
		{"an empty subject", natsEvent("ce-subject", ""), "", func(*seen) {}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			want := base
			test.want(&want)
			e, err := cloudevent.FromNATS(test.header, []byte(test.data))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, see(e)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestFromNATSRefuses(t *testing.T) {
	t.Parallel()
	notCE := cloudevent.ErrNotCloudEvent.Error()
	twice := natsEvent()
	twice["CE-ID"] = []string{"1"}
	values := natsEvent()
	values["ce-foo"] = []string{"a", "b"}
	for _, test := range []struct {
		name   string
		header map[string][]string
		data   string
		want   string
	}{
		{"nothing", nil, "", notCE},
		{"text", nil, "hello", notCE},
		{"JSON that is no event", nil, `{"a":1}`, notCE},
		{"JSON with specversion further down", nil, `{"a":{"specversion":"1.0"}}`, notCE},
		{"half an event", nil, `{"specversion":"1.0","id"`, "not JSON: it ends too early"},
		{"a bad event without a header", nil, `{"a_b":1,"specversion":"1.0"}`, "a_b: is not an attribute name: use a to z and 0 to 9 only"},
		{"ce- headers without specversion", map[string][]string{"ce-id": {"1"}}, "", "specversion: is missing"},
		{"an announced event that is none", map[string][]string{"Content-Type": {"application/cloudevents+json"}}, "hello", "not a JSON object"},
		{"a batch", map[string][]string{"Content-Type": {"application/cloudevents-batch+json"}}, "[]", "a batch, where one event is expected"},
		{"avro", map[string][]string{"Content-Type": {"application/cloudevents+avro"}}, "", "the only CloudEvents format that is read is JSON (application/cloudevents+json)"},
		{"UTF-16", map[string][]string{"Content-Type": {"application/cloudevents+json; charset=UTF-16"}}, "", "the only character set that is read is UTF-8"},
		{"another specversion", natsEvent("ce-specversion", "0.3"), "", `specversion: must be "1.0"`},
		{"a header twice", twice, "", "id: is given more than once"},
		{"a header with two values", values, "", "foo: is given more than once"},
		{"a name with _", natsEvent("ce-order_id", "1"), "", "order_id: is not an attribute name: use a to z and 0 to 9 only"},
		{"data as a header", natsEvent("ce-data", "1"), "", "data: is not an attribute"},
		{"an empty name", natsEvent("ce-", "1"), "", "an attribute has an empty name"},
		{"not UTF-8", natsEvent("ce-subject", "%C0%A0"), "", "subject: is not UTF-8 after percent-decoding"},
		{"raw bytes that are not UTF-8", natsEvent("ce-subject", "\xe9"), "", "subject: is not UTF-8 after percent-decoding"},
		{"a control character", natsEvent("ce-id", "%0A"), "", "id: holds a control character or a code point that is no character"},
		{"several faults, the first by name", natsEvent("ce-time", "x", "ce-id", "%0A", "ce-source", "%25zz"), "", "id: holds a control character or a code point that is no character"},
		{"UTF-16 data", natsEvent("ce-datacontenttype", "application/json; charset=utf-16"), "", "datacontenttype: names a character set other than UTF-8, which JSON must be in"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := cloudevent.FromNATS(test.header, []byte(test.data))
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(test.want, err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSplitBatch(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		in   string
		want []string
		err  string
	}{
		{in: "[]"},
		{in: ` [ {"a":1} , 5,null ] `, want: []string{`{"a":1}`, "5", "null"}},
		{in: "{}", err: "a batch must be a JSON array"},
		{in: "", err: "a batch must be a JSON array"},
		{in: "[1", err: "not JSON: it ends too early"},
		{in: "[1,]", err: "not JSON: unexpected character at byte 4"},
		{in: "[1] 2", err: "something follows the batch's closing bracket"},
		{in: "[\"\xff\"]", err: "not JSON: not in UTF-8"},
	} {
		items, err := cloudevent.SplitBatch([]byte(test.in))
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != test.err {
			t.Errorf("%s: error %q, want %q", test.in, got, test.err)
		}
		var texts []string
		for _, item := range items {
			texts = append(texts, string(item))
		}
		if diff := cmp.Diff(test.want, texts); diff != "" {
			t.Errorf("%s: %s", test.in, diff)
		}
	}
	for contentType, want := range map[string]bool{
		"application/cloudevents-batch+json":                true,
		"Application/CloudEvents-Batch+JSON; charset=utf-8": true,
		"application/cloudevents+json":                      false,
		"application/json":                                  false,
	} {
		if got := cloudevent.IsBatch(map[string][]string{"content-TYPE": {contentType}}); got != want {
			t.Errorf("IsBatch %q = %v", contentType, got)
		}
	}
}

// TestBothDoors sends the same events in over HTTP, and compares what NATS then
// holds with what the HTTP side saw.
func TestBothDoors(t *testing.T) {
	t.Parallel()
	binary := func(changes ...string) http.Header {
		h := http.Header{}
		for name, v := range natsEvent(changes...) {
			h.Set(name, v[0])
		}
		return h
	}
	for _, test := range []struct {
		name   string
		header http.Header
		body   string
		want   []seen
	}{
		{"structured", http.Header{"Content-Type": {"application/cloudevents+json; charset=utf-8"}, "Ce-Id": {"other"}}, `{"specversion":"1.0","id":"é\u00e9","source":"a b/%7Ec","type":"t","data":{"x": 1}}`,
			[]seen{{ID: "éé", Source: "a b/%7Ec", Type: "t", Data: `{"x": 1}`}}},
		{"binary", binary("ce-source", `a%20b/%257Ec`, "ce-id", "Euro €", "ce-time", "2026-03-01t10:00:05+08:00", "Content-Type", "Application/JSON; charset=utf-8", "ce-n", `"5 \"6\""`, "X-Other", "y"), `{"x": 1}`,
			[]seen{{ID: "Euro €", Source: "a b/%7Ec", Type: "t", Time: "2026-03-01T10:00:05+08:00", DataContentType: "Application/JSON; charset=utf-8", Extensions: map[string]any{"n": `5 "6"`}, Data: `{"x": 1}`}}},
		{"binary, a bare percent sign", binary("ce-id", "100%"), "",
			[]seen{{ID: "100%", Source: "/shop", Type: "t", NoData: true, BarePercent: true}}},
		{"binary, Content-Type outranks ce-datacontenttype", binary("Content-Type", "text/plain", "ce-datacontenttype", "x"), "y",
			[]seen{{ID: "1", Source: "/shop", Type: "t", DataContentType: "text/plain", Data: "y"}}},
		{"binary without a content type", binary(), "y",
			[]seen{{ID: "1", Source: "/shop", Type: "t", Data: "y"}}},
		{"batch", http.Header{"Content-Type": {"application/cloudevents-batch+json; charset=utf-8"}}, "[" + with(`"data":1`) + " , " + with(`"subject":"s"`) + "]",
			[]seen{{ID: "1", Source: "/shop", Type: "t", Data: "1"}, {ID: "1", Source: "/shop", Type: "t", Subject: "s", NoData: true}}},
		{"empty batch", http.Header{"Content-Type": {"application/cloudevents-batch+json"}}, "[]", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			messages, err := cloudevent.FromHTTP(test.header, []byte(test.body))
			if err != nil {
				t.Fatal(err)
			}
			var door []seen
			for _, m := range messages {
				door = append(door, see(m.Event))
			}
			if diff := cmp.Diff(test.want, door); diff != "" {
				t.Errorf("at the door: %s", diff)
			}
			for i, m := range messages {
				for name, values := range m.Header {
					for _, v := range values {
						if strings.Trim(v, " ") != v || strings.ContainsFunc(v, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
							t.Errorf("header %s: nats.go would change %q", name, v)
						}
					}
				}
				e, err := cloudevent.FromNATS(m.Header, m.Data)
				if err != nil {
					t.Fatal(err)
				}
				want := test.want[i]
				want.BarePercent = false // it was encoded on the way
				if diff := cmp.Diff(want, see(e)); diff != "" {
					t.Errorf("from NATS: %s", diff)
				}
			}
		})
	}
}

func TestFromHTTPRefuses(t *testing.T) {
	t.Parallel()
	batch := http.Header{"Content-Type": {"application/cloudevents-batch+json"}}
	for _, test := range []struct {
		name   string
		header http.Header
		body   string
		want   string
	}{
		{"plain JSON", http.Header{"Content-Type": {"application/json"}}, `{"a":1}`, cloudevent.ErrNotCloudEvent.Error()},
		{"an event under a plain content type", http.Header{"Content-Type": {"application/json"}}, with(""), cloudevent.ErrNotCloudEvent.Error()},
		{"avro with ce- headers", http.Header{"Content-Type": {"application/cloudevents+avro"}, "Ce-Specversion": {"1.0"}}, "x", "the only CloudEvents format that is read is JSON (application/cloudevents+json)"},
		{"a format that begins like JSON", http.Header{"Content-Type": {"application/cloudevents+json5"}}, "x", "the only CloudEvents format that is read is JSON (application/cloudevents+json)"},
		{"UTF-16", http.Header{"Content-Type": {"application/cloudevents-batch+json; charset=utf-16"}}, "x", "the only character set that is read is UTF-8"},
		{"no specversion", http.Header{"Ce-Id": {"1"}, "Ce-Type": {"t"}, "Ce-Source": {"/s"}}, "", "specversion: is missing"},
		{"data that is no JSON", http.Header{"Ce-Specversion": {"1.0"}, "Ce-Id": {"1"}, "Ce-Type": {"t"}, "Ce-Source": {"/s"}, "Content-Type": {"application/json"}}, "{", "data: is not JSON, although its content type says so"},
		{"a bad batch", batch, `{}`, "a batch must be a JSON array"},
		{"a batch with a bad item", batch, "[" + with("") + ",5]", "item 1: not a JSON object"},
		{"a batch with bad items", batch, "[{}," + with("") + ",5]", "item 0: specversion: is missing (and 1 more)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := cloudevent.FromHTTP(test.header, []byte(test.body))
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(test.want, err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// sample is an event with a value of every kind.
func sample(t *testing.T) cloudevent.Event {
	e := event.New()
	e.SetID("run 1")
	e.SetSource("/bridge8x8/b")
	e.SetType("com.8x8.action.send-sms.succeeded")
	e.SetSubject(`Euro € "%"`)
	e.SetTime(time.Date(2026, 3, 1, 10, 0, 5, 120e6, time.UTC))
	e.SetDataSchema("https://example.com/s")
	e.SetExtension("causationid", "evt-17")
	e.SetExtension("attempts", 3)
	e.SetExtension("retryable", true)
	e.SetExtension("blob", []byte{1, 2})
	e.SetExtension("at", time.Date(2026, 3, 1, 10, 0, 5, 0, time.UTC))
	if err := e.SetData("application/json", map[string]string{"text": "a\"<b>"}); err != nil {
		t.Fatal(err)
	}
	if err := e.Validate(); err != nil {
		t.Fatal(err)
	}
	return cloudevent.Event{Event: e}
}

func TestToJSON(t *testing.T) {
	t.Parallel()
	e := sample(t)
	got, err := cloudevent.ToJSON(&e)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"specversion":"1.0","id":"run 1","source":"/bridge8x8/b","type":"com.8x8.action.send-sms.succeeded",` +
		`"subject":"Euro € \"%\"","time":"2026-03-01T10:00:05.12Z","datacontenttype":"application/json","dataschema":"https://example.com/s",` +
		`"at":"2026-03-01T10:00:05Z","attempts":3,"blob":"AQI=","causationid":"evt-17","retryable":true,"data":{"text":"a\"\u003cb\u003e"}}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	var sdk event.Event
	if err := json.Unmarshal(got, &sdk); err != nil {
		t.Fatalf("the SDK cannot read it: %v", err)
	}
	if sdk.Subject() != e.Subject() || string(sdk.Data()) != string(e.Data()) {
		t.Errorf("the SDK reads another event: %s", sdk)
	}
}

func TestDataIsWrittenSoThatItComesBack(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, contentType string
		data              []byte
		base64            bool
		want              string
	}{
		{"JSON", "application/json", []byte(`{"a": 1}`), false, `"data":{"a": 1}`},
		{"JSON by suffix", "application/vnd.x+json", []byte(`[1]`), false, `"data":[1]`},
		{"JSON that is none", "application/json", []byte(`{"a`), false, `"data_base64":"eyJh"`},
		{"no content type, JSON", "", []byte(`"x"`), false, `"data":"x"`},
		{"no content type, no JSON", "", []byte("x"), false, `"data_base64":"eA=="`},
		{"text", "text/plain", []byte("a\"\\\n\r\t\x01é\x7f"), false, `"data":"a\"\\\n\r\t\u0001é` + "\x7f" + `"`},
		{"text that is not UTF-8", "text/plain", []byte("\xff"), false, `"data_base64":"/w=="`},
		{"binary", "application/octet-stream", []byte{0, 255}, true, `"data_base64":"AP8="`},
		{"JSON given as base64", "application/json", []byte(`{}`), true, `"data_base64":"e30="`},
		{"nothing", "", nil, false, `"type":"t"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			e := event.New()
			e.SetID("1")
			e.SetSource("/s")
			e.SetType("t")
			if test.contentType != "" {
				e.SetDataContentType(test.contentType)
			}
			e.DataEncoded, e.DataBase64 = test.data, test.base64
			out, err := cloudevent.ToJSON(&cloudevent.Event{Event: e})
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(out), test.want) {
				t.Errorf("%s holds no %s", out, test.want)
			}
			back, err := cloudevent.FromJSON(out)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.data, back.Data()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestToNATS(t *testing.T) {
	t.Parallel()
	e := sample(t)
	for _, mode := range []cloudevent.Mode{cloudevent.Structured, cloudevent.Binary} {
		header, data, err := cloudevent.ToNATS(&e, mode)
		if err != nil {
			t.Fatal(err)
		}
		back, err := cloudevent.FromNATS(header, data)
		if err != nil {
			t.Fatal(err)
		}
		want := seen{
			ID: "run 1", Source: "/bridge8x8/b", Type: "com.8x8.action.send-sms.succeeded", Subject: `Euro € "%"`, Time: "2026-03-01T10:00:05.12Z",
			DataContentType: "application/json", DataSchema: "https://example.com/s", Data: `{"text":"a\"\u003cb\u003e"}`,
			Extensions: map[string]any{"causationid": "evt-17", "attempts": int32(3), "retryable": true, "blob": "AQI=", "at": "2026-03-01T10:00:05Z"},
		}
		if mode == cloudevent.Binary {
			want.Extensions["attempts"], want.Extensions["retryable"] = "3", "true"
			if diff := cmp.Diff([]string{"Euro%20%E2%82%AC%20%22%25%22"}, header["ce-subject"]); diff != "" {
				t.Error(diff)
			}
		}
		if diff := cmp.Diff(want, see(back)); diff != "" {
			t.Errorf("%s: %s", mode, diff)
		}
	}
	if _, _, err := cloudevent.ToNATS(&e, cloudevent.Batched); err == nil || err.Error() != "an event is written in structured or binary mode" {
		t.Errorf("batched: %v", err)
	}
}

func TestHTTPHeader(t *testing.T) {
	t.Parallel()
	e := sample(t)
	header, body, err := cloudevent.HTTPHeader(&e)
	if err != nil {
		t.Fatal(err)
	}
	want := http.Header{
		"Ce-Specversion": {"1.0"}, "Ce-Id": {"run%201"}, "Ce-Source": {"/bridge8x8/b"}, "Ce-Type": {"com.8x8.action.send-sms.succeeded"},
		"Ce-Subject": {"Euro%20%E2%82%AC%20%22%25%22"}, "Ce-Time": {"2026-03-01T10:00:05.12Z"}, "Content-Type": {"application/json"},
		"Ce-Dataschema": {"https://example.com/s"}, "Ce-Causationid": {"evt-17"}, "Ce-Attempts": {"3"}, "Ce-Retryable": {"true"},
		"Ce-Blob": {"AQI="}, "Ce-At": {"2026-03-01T10:00:05Z"},
	}
	if diff := cmp.Diff(want, header); diff != "" {
		t.Error(diff)
	}
	messages, err := cloudevent.FromHTTP(header, body)
	if err != nil || len(messages) != 1 || messages[0].Event.Subject() != e.Subject() {
		t.Errorf("it does not come back: %v, %v", messages, err)
	}
}

// What the JSON format leaves unsaid is said in the other modes.
func TestImpliedContentType(t *testing.T) {
	t.Parallel()
	e, err := cloudevent.FromJSON([]byte(with(`"data":{"a":1}`)))
	if err != nil {
		t.Fatal(err)
	}
	header, _, err := cloudevent.ToBinary(&e)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"application/json"}, header["ce-datacontenttype"]); diff != "" {
		t.Error(diff)
	}
	toHTTP, _, err := cloudevent.HTTPHeader(&e)
	if err != nil {
		t.Fatal(err)
	}
	if got := toHTTP.Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type is %q", got)
	}
}

func TestIdentityIsWrittenAsReceived(t *testing.T) {
	t.Parallel()
	e, err := cloudevent.FromJSON([]byte(`{"specversion":"1.0","id":"1","source":"a b/%7Ec","type":"t"}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []cloudevent.Mode{cloudevent.Structured, cloudevent.Binary} {
		header, data, err := cloudevent.ToNATS(&e, mode)
		if err != nil {
			t.Fatal(err)
		}
		back, err := cloudevent.FromNATS(header, data)
		if err != nil {
			t.Fatal(err)
		}
		if back.RawSource != "a b/%7Ec" {
			t.Errorf("%s: source is %q", mode, back.RawSource)
		}
	}
}

func TestWritingWhatIsNoEvent(t *testing.T) {
	t.Parallel()
	control := sample(t)
	control.SetSubject("a\nb")
	extension := sample(t)
	extension.SetExtension("foo", "a\nb")
	for _, test := range []struct {
		e    cloudevent.Event
		want string
	}{
		{cloudevent.Event{}, "specversion: is missing"},
		{cloudevent.Event{Event: event.New()}, "id: is missing"},
		{control, "subject: holds a control character or a code point that is no character"},
		{extension, "foo: holds a control character or a code point that is no character"},
	} {
		_, err1 := cloudevent.ToJSON(&test.e)
		_, _, err2 := cloudevent.ToBinary(&test.e)
		_, _, err3 := cloudevent.HTTPHeader(&test.e)
		for _, err := range []error{err1, err2, err3} {
			if got := fmt.Sprint(err); got != test.want {
				t.Errorf("error %q, want %q", got, test.want)
			}
		}
	}
}
