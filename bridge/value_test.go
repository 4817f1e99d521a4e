package bridge

import (
	"encoding/json"
	"math"
	"math/big"
	"testing"
)

// Values are written as encoding/json writes them, but for HTML's characters,
// which JSON does not need escaped.
func TestAppendValue(t *testing.T) {
	t.Parallel()
	huge, _ := new(big.Int).SetString("12345678901234567890", 10)
	values := []any{
		nil, true, "", "plain", "quo\"te\\ \n é 😀 \u2028", 17, -1, huge, 1.5, 1e300, json.Number("0.10"), []any{}, map[string]any{},
		map[string]any{"b": []any{1, nil, "x"}, "a": map[string]any{"é": "ü", "": false}},
	}
	for _, v := range values {
		got, err := AppendValue(nil, v)
		if err != nil {
			t.Fatalf("%v: %v", v, err)
		}
		want, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if _, err := AppendValue(nil, map[string]any{"a": []any{math.Inf(1)}}); err == nil || err.Error() != "a value of type float64 cannot be written as JSON" {
		t.Errorf("infinity: %v", err)
	}
}

func TestMetaJSON(t *testing.T) {
	t.Parallel()
	m := Meta{Bridge: "b", Source: "/s \"q\"", EventID: "é", Route: "r", Key: "k", Try: "t", Attempt: 3}
	want, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(m.AppendJSON(nil)); got != string(want) {
		t.Errorf("got %s, want %s", got, want)
	}
}
