package cloudevent

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What is written the short way must read back like what is written the long way.
func TestWrittenReadsBack(t *testing.T) {
	t.Parallel()
	w := Written{
		Attributes: []Attribute{
			{"id", `a "quoted" id`}, {"source", "/b é"}, {"type", "com.example.x"}, {"subject", ""}, {"time", "2026-01-02T03:04:05.678Z"},
			{"causationid", "evt 17%"}, {"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
		},
		Data: []byte(`{"a":[1,2],"b":"ü"}`),
	}
	structured, err := FromNATS(map[string][]string{"Content-Type": {ContentTypeStructured}}, w.AppendJSON(nil))
	if err != nil {
		t.Fatal(err)
	}
	binary, err := FromNATS(w.Binary(), w.Data)
	if err != nil {
		t.Fatal(err)
	}
	for mode, e := range map[string]Event{"structured": structured, "binary": binary} {
		long, err := ToJSON(&e)
		if err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		again, err := FromJSON(long)
		if err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		got := []string{again.RawID, again.RawSource, again.Type(), again.Subject(), again.Time().String(), again.DataContentType(), string(again.Data())}
		want := []string{`a "quoted" id`, "/b é", "com.example.x", "", "2026-01-02 03:04:05.678 +0000 UTC", "application/json", `{"a":[1,2],"b":"ü"}`}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", mode, diff)
		}
		if diff := cmp.Diff(map[string]any{"causationid": "evt 17%", "traceparent": w.Attributes[6].Value}, again.Extensions()); diff != "" {
			t.Errorf("%s extensions (-want +got):\n%s", mode, diff)
		}
	}
}
