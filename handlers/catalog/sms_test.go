package catalog

import (
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
)

func TestParts(t *testing.T) {
	t.Parallel()
	r := strings.Repeat
	for _, test := range []struct {
		name, text, encoding string
		want                 SMS
	}{
		{"empty", "", "", SMS{"GSM7", 0}},
		{"160 letters", r("a", 160), "", SMS{"GSM7", 1}},
		{"161 letters", r("a", 161), "AUTO", SMS{"GSM7", 2}},
		{"306 letters", r("a", 306), "", SMS{"GSM7", 2}},
		{"307 letters", r("a", 307), "", SMS{"GSM7", 3}},
		{"1530 letters", r("a", 1530), "", SMS{"GSM7", 10}},
		{"1531 letters", r("a", 1531), "", SMS{"GSM7", 11}},
		{"158 letters and a euro", r("a", 158) + "€", "", SMS{"GSM7", 1}},
		{"159 letters and a euro", r("a", 159) + "€", "", SMS{"GSM7", 2}},
		{"euro fills the first part", r("a", 151) + "€" + r("a", 153), "", SMS{"GSM7", 2}},
		{"euro would be split, 305 septets", r("a", 152) + "€" + r("a", 151), "", SMS{"GSM7", 2}},
		{"euro would be split, 306 septets", r("a", 152) + "€" + r("a", 152), "", SMS{"GSM7", 3}},
		{"80 braces", r("{", 80), "", SMS{"GSM7", 1}},
		{"81 braces", r("{", 81), "", SMS{"GSM7", 2}},
		{"152 braces", r("{", 152), "", SMS{"GSM7", 2}},
		{"153 braces", r("{", 153), "", SMS{"GSM7", 3}},
		{"all extension characters", r("^{}\\[~]|€\f", 8), "", SMS{"GSM7", 1}},
		{"small e acute", r("é", 160), "", SMS{"GSM7", 1}},
		{"capital c cedilla", r("Ç", 160), "", SMS{"GSM7", 1}},
		{"small c cedilla", r("ç", 71), "", SMS{"UCS2", 2}},
		{"capital delta", r("Δ", 160), "", SMS{"GSM7", 1}},
		{"small alpha", r("α", 71), "", SMS{"UCS2", 2}},
		{"line feeds", r("\n", 161), "", SMS{"GSM7", 2}},
		{"tabs", r("\t", 71), "", SMS{"UCS2", 2}},
		{"backtick", "`", "", SMS{"UCS2", 1}},
		{"escape alone", "\x1b", "", SMS{"UCS2", 1}},
		{"70 ideographs", r("字", 70), "", SMS{"UCS2", 1}},
		{"71 ideographs", r("字", 71), "", SMS{"UCS2", 2}},
		{"134 ideographs", r("字", 134), "", SMS{"UCS2", 2}},
		{"135 ideographs", r("字", 135), "", SMS{"UCS2", 3}},
		{"670 ideographs", r("字", 670), "", SMS{"UCS2", 10}},
		{"671 ideographs", r("字", 671), "", SMS{"UCS2", 11}},
		{"35 emoji", r("😀", 35), "", SMS{"UCS2", 1}},
		{"36 emoji", r("😀", 36), "", SMS{"UCS2", 2}},
		{"66 emoji", r("😀", 66), "", SMS{"UCS2", 2}},
		{"67 emoji", r("😀", 67), "", SMS{"UCS2", 3}},
		{"100 emoji", r("😀", 100), "", SMS{"UCS2", 4}},
		{"emoji fills the first part", r("字", 65) + "😀" + r("字", 67), "", SMS{"UCS2", 2}},
		{"emoji would be split, 133 units", r("字", 66) + "😀" + r("字", 65), "", SMS{"UCS2", 2}},
		{"emoji would be split, 134 units", r("字", 66) + "😀" + r("字", 66), "", SMS{"UCS2", 3}},
		{"asked for UCS2", r("a", 71), "UCS2", SMS{"UCS2", 2}},
		{"asked for GSM7", r("字", 161), "GSM7", SMS{"GSM7", 2}},
	} {
		if got := Parts(test.text, test.encoding); got != test.want {
			t.Errorf("%s: got %+v, want %+v", test.name, got, test.want)
		}
	}
}

func TestGSMTableHolds127Characters(t *testing.T) {
	t.Parallel()
	basic, extended := 0, 1 // the euro sign lies beyond the table
	for _, septets := range gsmSeptets {
		switch septets {
		case 1:
			basic++
		case 2:
			extended++
		}
	}
	// 128 codes, one of which is the escape to the extension table.
	if basic != 127 || extended != 10 {
		t.Errorf("got %d basic and %d extension characters, want 127 and 10", basic, extended)
	}
}

func TestMeasure(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 161)
	for _, test := range []struct {
		name, key string
		input     map[string]any
		want      *SMS
	}{
		{"one", "send-sms", map[string]any{"text": long}, &SMS{"GSM7", 2}},
		{"one with an encoding", "send-sms", map[string]any{"text": long, "encoding": "UCS2"}, &SMS{"UCS2", 3}},
		{"no text", "send-sms", map[string]any{}, nil},
		{"text not known yet", "send-sms", map[string]any{"text": RunTime}, nil},
		{"batch of own texts", "send-batch-sms", map[string]any{"messages": []any{
			map[string]any{"text": "Hi"}, map[string]any{"text": long},
		}}, &SMS{"GSM7", 3}},
		{"template's text and encoding", "send-batch-sms", map[string]any{
			"messages": []any{map[string]any{}, map[string]any{"encoding": "UCS2"}, map[string]any{"text": "Hi"}},
			"template": map[string]any{"text": long, "encoding": "GSM7"},
		}, &SMS{"MIXED", 2 + 3 + 1}},
		{"stays mixed", "send-batch-sms", map[string]any{"messages": []any{
			map[string]any{"text": "Hi"}, map[string]any{"text": "字"}, map[string]any{"text": "字"},
		}}, &SMS{"MIXED", 3}},
		{"destinations", "send-batch-sms", map[string]any{
			"destinations": []any{"+12025550101", "+12025550102", "+12025550103"},
			"template":     map[string]any{"text": long},
		}, &SMS{"GSM7", 6}},
		{"messages win over destinations", "send-batch-sms", map[string]any{
			"messages":     []any{map[string]any{"text": "Hi"}},
			"destinations": []any{"+12025550101", "+12025550102"},
			"template":     map[string]any{"text": long},
		}, &SMS{"GSM7", 1}},
		{"nothing to count", "send-batch-sms", map[string]any{"messages": []any{5, map[string]any{}}}, nil},
	} {
		action, _ := Builtin().Lookup(test.key)
		if diff := cmp.Diff(test.want, action.Measure(test.input)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// cut is the slow and plain way: it cuts a text into parts.
func cut(text string, gsm bool) []string {
	single, several := 70, 67
	size := func(r rune) int { return len(utf16.Encode([]rune{r})) }
	if gsm {
		single, several = 160, 153
		size = func(r rune) int {
			if strings.ContainsRune("\f^{}\\[~]|€", r) {
				return 2
			}
			return 1
		}
	}
	total := 0
	for _, r := range text {
		total += size(r)
	}
	if total <= single {
		return []string{text}
	}
	parts, used := []string{""}, 0
	for _, r := range text {
		if used+size(r) > several {
			parts, used = append(parts, ""), 0
		}
		parts[len(parts)-1] += string(r)
		used += size(r)
	}
	return parts
}

func FuzzParts(f *testing.F) {
	r := strings.Repeat
	for _, text := range []string{
		"", "Hi Bo", r("a", 152) + "€" + r("a", 152), r("字", 66) + "😀" + r("字", 66),
		r("{", 400), r("a€", 333), r("😀", 340), "\xff\xfe", r("a", 669) + "字",
	} {
		f.Add(text, "more")
	}
	f.Fuzz(func(t *testing.T, text, more string) {
		text = strings.ToValidUTF8(text, "\uFFFD")
		more = strings.ToValidUTF8(more, "\uFFFD")
		for _, encoding := range []string{"AUTO", "GSM7", "UCS2"} {
			got := Parts(text, encoding)
			if text == "" {
				if got.SMSCount != 0 {
					t.Fatalf("%s: an empty text has %d parts", encoding, got.SMSCount)
				}
				continue
			}
			if want := len(cut(text, got.Encoding == "GSM7")); got.SMSCount != want {
				t.Fatalf("%s: got %d parts of %s, cut into %d", encoding, got.SMSCount, got.Encoding, want)
			}
			if longer := Parts(text+more, encoding); longer.SMSCount < got.SMSCount {
				t.Fatalf("%s: %d parts, fewer with more text: %d", encoding, got.SMSCount, longer.SMSCount)
			}
			if len(text) <= harmlessBytes && got.SMSCount > MaxParts {
				t.Fatalf("%s: %d bytes make %d parts", encoding, len(text), got.SMSCount)
			}
		}
	})
}

func BenchmarkParts(b *testing.B) {
	for _, bench := range []struct{ name, text string }{
		{"gsm7-100", strings.Repeat("Hi Bo, it's on its way. ", 5)[:100]},
		{"ucs2-70", strings.Repeat("字", 70)},
		{"gsm7-1530", strings.Repeat("a", 1530)},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Parts(bench.text, "AUTO")
			}
		})
	}
}
