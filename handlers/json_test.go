package handlers

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzDecodeJSON compares with encoding/json, which is slower and right.
func FuzzDecodeJSON(f *testing.F) {
	for _, seed := range []string{
		orderData, "", " ", "null", "true", " false ", "-0.5e+10", "1 2", `"a\"\\\u00e9\ud83d\ude00\ud800"`, "\"\xff\"", "\"é\"", "{}", "[]", "[ ]", "{ }",
		`{"a":1,"a":{"b":[1,{"c":[]}]} , "":null}`, "[1,]", `{"a"}`, "[[[[", "\ufeff1", strings.Repeat("[", 10001) + strings.Repeat("]", 10001),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		var want any
		wantErr := d.Decode(&want)
		if wantErr == nil {
			if _, err := d.Token(); err != io.EOF {
				wantErr = errNotJSON
			}
		}
		got, err := decodeJSON(data)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%q: got %v, encoding/json says %v", data, err, wantErr)
		}
		if err != nil {
			return
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%q (-want +got):\n%s", data, diff)
		}
	})
}
