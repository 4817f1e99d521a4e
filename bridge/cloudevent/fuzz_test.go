package cloudevent_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
)

// sdkEvent is what the SDK reads, or ok false: it refuses, or panics.
func sdkEvent(data []byte) (e event.Event, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	if json.Unmarshal(data, &e) != nil || e.SpecVersion() != event.CloudEventsVersionV1 || e.Validate() != nil {
		return event.Event{}, false
	}
	return e, true
}

// FuzzFromJSON reads anything without a panic, agrees with the SDK on all that
// both accept, and gets the same event back from every mode it writes.
func FuzzFromJSON(f *testing.F) {
	for _, seed := range []string{
		with(""),
		with(`"subject":"s","time":"2026-03-01T10:00:05.12+08:00","datacontenttype":"text/plain","dataschema":"https://example.com/s","data":"a\n\u00e9"`),
		with(`"foo":"x","bar":-5,"baz":true,"data":{"a":[1.5e3,null,"\ud83d\ude00"]}`),
		with(`"data_base64":"AAEC/w==","nil":null`),
		`{"specversion":"1.0","id":"a%20\"b","source":"a b/%7Ec","type":"t","datacontenttype":"application/vnd.x+json; charset=utf-8","data":[]}`,
		`{"specversion":"1.0","data_base64":5}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		e, err := cloudevent.FromJSON(in)
		if err != nil {
			if _, ok := errors.AsType[*cloudevent.MalformedError](err); !ok {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		if !json.Valid(in) {
			t.Fatal("no JSON was accepted")
		}
		got := see(e)
		if sdk, ok := sdkEvent(in); ok {
			want := see(cloudevent.Event{Event: sdk, RawSource: got.Source, RawID: sdk.ID()})
			if sdk.Source() != e.Source() {
				t.Fatalf("source %q, the SDK says %q", e.Source(), sdk.Source())
			}
			// The SDK copies data and drops some explicit nulls; empty data and none are
			// one to it.
			mine := got
			want.NoData = mine.NoData
			if e.IsJSON() && !e.DataBase64 {
				mine.Data, want.Data = compact(t, mine.Data), compact(t, want.Data)
				if mine.Data == "null" && want.Data == "" {
					want.Data = "null"
				}
			}
			if diff := cmp.Diff(want, mine); diff != "" {
				t.Fatalf("the SDK reads otherwise: %s", diff)
			}
		}
		back := roundTrip(t, &e, cloudevent.Structured)
		if !bytes.Equal(e.Data(), back.Data()) || back.RawSource != e.RawSource || back.RawID != e.RawID || back.Type() != e.Type() || !back.Time().Equal(e.Time()) {
			t.Fatalf("structured: %+v became %+v", got, see(back))
		}
		if diff := cmp.Diff(e.Extensions(), back.Extensions()); diff != "" {
			t.Fatal(diff)
		}
		back = roundTrip(t, &e, cloudevent.Binary)
		if !bytes.Equal(e.Data(), back.Data()) || back.RawSource != e.RawSource || back.RawID != e.RawID || back.Type() != e.Type() || back.Subject() != e.Subject() || len(back.Extensions()) != len(e.Extensions()) {
			t.Fatalf("binary: %+v became %+v", got, see(back))
		}
	})
}

func roundTrip(t *testing.T, e *cloudevent.Event, mode cloudevent.Mode) cloudevent.Event {
	t.Helper()
	header, data, err := cloudevent.ToNATS(e, mode)
	if err != nil {
		t.Fatal(err)
	}
	back, err := cloudevent.FromNATS(header, data)
	if err != nil {
		t.Fatalf("%s: cannot be read back: %v\n%s", mode, err, data)
	}
	return back
}

func compact(t *testing.T, s string) string {
	t.Helper()
	if s == "" {
		return ""
	}
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(s)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// FuzzFromNATS reads any header without a panic, and what it accepts in binary
// mode comes back the same.
func FuzzFromNATS(f *testing.F) {
	f.Add("ce-subject", "Euro%20%E2%82%AC", "", "{}")
	f.Add("CE-Foo", `"a \"b\" %`, "application/json; charset=utf-8", "[1]")
	f.Add("Content-Type", "application/cloudevents-batch+json", "x", "[]")
	f.Add("ce-time", "2026-03-01t10:00:05z", "text/plain", "x")
	f.Fuzz(func(t *testing.T, name, value, contentType, data string) {
		header := natsEvent()
		if contentType != "" {
			header["content-type"] = []string{contentType}
		}
		header[name] = []string{value}
		e, err := cloudevent.FromNATS(header, []byte(data))
		if err != nil {
			return
		}
		if !utf8.ValidString(e.RawID + e.RawSource + e.Type() + e.Subject()) {
			t.Fatal("an attribute is not UTF-8")
		}
		back := roundTrip(t, &e, cloudevent.Binary)
		want, got := see(e), see(back)
		// Written out, and with the escapes that were missing.
		want.BarePercent, got.BarePercent = false, false
		want.Time, got.Time = e.Time().UTC().String(), back.Time().UTC().String()
		if want.DataContentType == "" {
			want.DataContentType = got.DataContentType
		}
		if want.Base64 {
			want.Base64 = got.Base64
		}
		if len(want.Data) == 0 {
			want.NoData = got.NoData
		}
		if len(e.Extensions()) == len(back.Extensions()) {
			want.Extensions = got.Extensions // numbers became text
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}
