package bridge

import (
	"encoding/json"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// dice draws values that are awkward to encode.
type dice struct{ *rand.Rand }

var awkward = []string{
	"", "a", "plain text", `"`, `\`, `\"`, "\n\r\t", "\x00\x01\x1f", "\x7f", "<script>&amp;</script>", "é", "日本語", "😀", "\u2028\u2029", "\ufffd", "\ufeff",
	"null", "{}", "/shop/orders?x=1#y", "https://example.com/ä", strings.Repeat("long ", 400),
}

func (d dice) text() string {
	var b strings.Builder
	for range d.Intn(4) {
		b.WriteString(awkward[d.Intn(len(awkward))])
	}
	return b.String()
}

func (d dice) number() int {
	return []int{0, 1, -1, 7, 1 << 40, d.Int()}[d.Intn(6)]
}

func (d dice) flag() bool { return d.Intn(2) == 0 }

func (d dice) time() time.Time {
	switch d.Intn(4) {
	case 0:
		return time.Time{}
	case 1:
		return time.Unix(d.Int63n(4e9), 0).UTC()
	case 2:
		return time.Unix(d.Int63n(4e9), d.Int63n(1e9)).In(time.FixedZone("", 60*(d.Intn(1440)-720)))
	default:
		return time.Unix(d.Int63n(4e9), d.Int63n(1e9)).UTC()
	}
}

// value is any JSON value, as encoding/json decodes one.
func (d dice) value(depth int) any {
	kinds := 6
	if depth == 0 {
		kinds = 4
	}
	switch d.Intn(kinds) {
	case 0:
		return nil
	case 1:
		return d.flag()
	case 2:
		return d.text()
	case 3:
		return []float64{0, -1, 0.1, 1e300, 12345678901, d.NormFloat64()}[d.Intn(6)]
	case 4:
		list := []any{}
		for range d.Intn(4) {
			list = append(list, d.value(depth-1))
		}
		return list
	default:
		return d.members(depth - 1)
	}
}

func (d dice) members(depth int) map[string]any {
	m := map[string]any{}
	for range d.Intn(4) {
		m[d.text()] = d.value(depth)
	}
	return m
}

func (d dice) raw() json.RawMessage {
	if d.Intn(3) == 0 {
		return nil
	}
	body, err := json.Marshal(d.value(3))
	if err != nil {
		panic(err)
	}
	return body
}

func (d dice) sms() *catalog.SMS {
	if d.flag() {
		return nil
	}
	return &catalog.SMS{Encoding: d.text(), SMSCount: d.number()}
}

func (d dice) shape() *Shape {
	if d.flag() {
		return nil
	}
	return &Shape{Type: d.text(), Subject: d.text(), Data: d.raw(), Failed: d.text()}
}

func (d dice) record() Record {
	r := Record{
		Version: d.number(), State: State(d.text()), Content: d.text(),
		Cause: Cause{
			Source: d.text(), ID: d.text(), Type: d.text(), Subject: d.text(), Time: d.time(),
			CorrelationID: d.text(), TraceParent: d.text(), TraceState: d.text(), PartitionKey: d.text(),
		},
		Route: d.text(), Replay: d.number(), Routes: []Frozen{}, Try: d.text(), Attempts: d.number(), ClaimedAt: d.time(),
		NotBefore: d.time(), Why: Reason(d.text()), Unclear: d.number(), ConcludedAt: d.time(), RunID: d.text(), DurationMs: int64(d.number()),
		Output: d.raw(), OutputTruncated: d.flag(), SMS: d.sms(), Reason: Reason(d.text()), Message: d.text(), Details: d.members(3), Shape: d.shape(), Decided: d.flag(), Published: d.flag(),
	}
	for range d.Intn(4) {
		r.Routes = append(r.Routes, Frozen{
			Route: d.text(), Name: d.text(), Action: d.text(), Connection: d.text(), ConnID: d.text(), ConnKey: d.text(), Tenant: d.text(), OneCall: d.flag(), Call: d.text(),
		})
	}
	return r
}

func (d dice) resultData() ResultData {
	r := ResultData{
		Action: d.text(), Route: d.text(), Connection: d.text(), ActionRunID: d.text(), Attempts: d.number(), StartedAt: some(d.time()), DurationMs: int64(d.number()),
		Cause:  ResultCause{Source: d.text(), ID: d.text(), Type: d.text(), Subject: d.text(), Time: some(d.time())},
		Output: d.raw(), OutputTruncated: d.flag(), SMS: d.sms(),
	}
	if d.flag() {
		r.Error = &ResultError{Reason: Reason(d.text()), Message: d.text(), Retryable: d.flag(), Details: d.members(3)}
	}
	return r
}

// draws is how many random values each test looks at. The seed is the number of
// the draw, so that one that fails can be repeated.
const draws = 500

func plainJSON(t *testing.T, body []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return v
}

// A record comes back from its JSON as it was.
func TestRecordComesBack(t *testing.T) {
	t.Parallel()
	for seed := range draws {
		want := dice{rand.New(rand.NewSource(int64(seed)))}.record()
		body := want.AppendJSON(nil)
		var got Record
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatalf("seed %d: %v in %s", seed, err, body)
		}
		// An absent list or map and an empty one are the same to everybody; a time is the
		// same in any zone.
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("seed %d (-want +got):\n%s\nfrom %s", seed, diff, body)
		}
	}
}

// What is written by hand says what the struct tags say.
func TestEncodedLikeTheTags(t *testing.T) {
	t.Parallel()
	compare := func(seed int, v any, got []byte) {
		t.Helper()
		want, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(plainJSON(t, want), plainJSON(t, got)); diff != "" {
			t.Fatalf("seed %d, %T (-encoding/json +by hand):\n%s", seed, v, diff)
		}
	}
	for seed := range draws {
		d := dice{rand.New(rand.NewSource(int64(seed)))}
		record, data := d.record(), d.resultData()
		compare(seed, record, record.AppendJSON(nil))
		compare(seed, data, data.appendJSON(nil))
	}
	compare(-1, Record{Routes: []Frozen{}}, (&Record{}).AppendJSON(nil))
	compare(-1, ResultData{}, (&ResultData{}).appendJSON(nil))
}

// Text that is not UTF-8 must not make a record that nobody can read.
func TestEncodedTextIsAlwaysJSON(t *testing.T) {
	t.Parallel()
	for _, s := range append([]string{"\xff", "a\xc3", "\xed\xa0\x80", "ok\x80\"", "\xf0\x9f\x98"}, awkward...) {
		want, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(plainJSON(t, want), plainJSON(t, appendText(nil, s))); diff != "" {
			t.Errorf("%q (-want +got):\n%s", s, diff)
		}
	}
}

func TestEncodedAtTheEnd(t *testing.T) {
	t.Parallel()
	r := Record{Version: 1, State: Running}
	if got, want := string(r.AppendJSON([]byte("before "))), "before "+string(r.AppendJSON(nil)); got != want {
		t.Errorf("appended to something:\n%s, want\n%s", got, want)
	}
}

// A record is read with its times in whatever zone they were written.
func TestRecordTimes(t *testing.T) {
	t.Parallel()
	east := time.FixedZone("", 2*3600)
	r := Record{ClaimedAt: time.Date(2026, 1, 2, 5, 4, 5, 100, east), NotBefore: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	members, _ := plainJSON(t, r.AppendJSON(nil)).(map[string]any)
	for name, want := range map[string]any{"claimedAt": "2026-01-02T05:04:05.0000001+02:00", "notBefore": "2026-01-02T03:04:05Z", "concludedAt": nil} {
		if members[name] != want {
			t.Errorf("%s: %v, want %v", name, members[name], want)
		}
	}
}
