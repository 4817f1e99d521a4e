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

// FuzzFind compares a walk over the text with one over what decodeJSON makes of it.
func FuzzFind(f *testing.F) {
	for _, seed := range []string{
		`{"a":{"b":1}}`, `{"a":{"b":1},"a":{"c":2}}`, `{"a":null}`, `{"a":[{"b":1}],"b":"}"}`, `{"a":"{\"b\":1}","b":{}}`, `[]`, `null`, `1`,
		` { "x" : [ "]" , { "y" : -1.5e3 } , true ] , "\u0061" : { "b" : "\\" } } `, `{"":{"":{"":0}}}`, `{"a":{"b":{"a":{}}},"b":2}`, `{}`,
	} {
		f.Add([]byte(seed), "a", "b")
	}
	f.Fuzz(func(t *testing.T, data []byte, first, second string) {
		text, err := checkJSON(data)
		if err != nil {
			return
		}
		for _, path := range [][]string{nil, {first}, {first, second}, {first, second, first}} {
			var wantErr error
			want := text.value()
			for _, name := range path {
				object, isObject := want.(map[string]any)
				if want == nil {
					break
				}
				if !isObject {
					want, wantErr = nil, &noObjectError{want}
					break
				}
				want = object[name]
			}
			got, err := text.find(path)
			if diff := cmp.Diff([]any{want, message(wantErr)}, []any{got, message(err)}); diff != "" {
				t.Fatalf("%q at %q (-want +got):\n%s", data, path, diff)
			}
		}
	})
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
