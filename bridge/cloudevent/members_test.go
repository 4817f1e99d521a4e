package cloudevent

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What Members reads, encoding/json reads alike; and what it takes for no
// object may only be too deep, or have a name with escapes.
func FuzzMembers(f *testing.F) {
	for _, s := range []string{
		`{}`, ` { "a" : 1 , "b":{"c":[1,2,{"d":"}"}]} } `, `{"a":1,}`, `{"a":1`, `[1]`, `{"a" 1}`, `{"a":1}x`, `{"a":"\u00e9\\","b":null}`, `{,}`, "{\"a\":\"\xff\"}", ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got := map[string]string{}
		ok := Members(data, func(name, value []byte) { got[string(name)] = string(value) })
		var want map[string]json.RawMessage
		err := json.Unmarshal(data, &want)
		if !ok {
			return
		}
		if err != nil || want == nil {
			t.Fatalf("taken for an object, and it is none: %q", data)
		}
		as := map[string]string{}
		for k, v := range want {
			as[k] = string(v)
		}
		if diff := cmp.Diff(as, got); diff != "" {
			t.Errorf("%q (-encoding/json +Members):\n%s", data, diff)
		}
	})
}

func TestMembersTakesObjects(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]bool{
		`{}`: true, ` {"a":1, "b" : [ ] } `: true, `{"output":{"x":"}"},"actionRunId":"r"}`: true,
		`{"a":1,}`: false, `[]`: false, `"x"`: false, ``: false, `{"a":1}}`: false, `{"a"}`: false, `null`: false, `<html>`: false,
	} {
		if got := Members([]byte(data), func(_, _ []byte) {}); got != want {
			t.Errorf("Members(%s) = %v", data, got)
		}
	}
}
