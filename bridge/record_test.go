package bridge

import (
	"math/rand"
	"regexp"
	"strings"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
)

// kvKey is a key that NATS KV takes and that every tool shows as it is: two
// tokens. source: nats.go, jetstream/kv.go, validKeyRe.
var kvKey = regexp.MustCompile(`^[-/_=a-zA-Z0-9]+\.[-/_=a-zA-Z0-9]+$`)

func TestKeyShape(t *testing.T) {
	t.Parallel()
	for seed := range draws {
		d := dice{rand.New(rand.NewSource(int64(seed)))}
		source, id, route := d.text(), d.text(), d.text()
		k := NewKey(EventHash(source, id), route, d.number())
		if !kvKey.MatchString(string(k)) || len(k) != 45 {
			t.Fatalf("seed %d: %q is no key", seed, k)
		}
		if k.Event() != EventHash(source, id) {
			t.Fatalf("seed %d: the event of %q is %q", seed, k, k.Event())
		}
	}
}

// Identities that differ have keys that differ, wherever they could be taken
// for one another when they are joined.
func TestKeysDiffer(t *testing.T) {
	t.Parallel()
	seen := map[Key][]string{}
	for _, one := range [][3]string{
		{"a", "bc", "r"}, {"ab", "c", "r"}, {"abc", "", "r"}, {"", "abc", "r"}, {"a", "b", "cr"}, {"1:a", "bc", "r"}, {"a1", ":bc", "r"},
		{"a\x00", "bc", "r"}, {"a", "\x00bc", "r"}, {"A", "bc", "r"}, {"a ", "bc", "r"}, {"é", "1", "r"}, {"e\u0301", "1", "r"},
	} {
		k := NewKey(EventHash(one[0], one[1]), one[2], 0)
		if other, taken := seen[k]; taken {
			t.Errorf("%q and %q have one key", one, other)
		}
		seen[k] = one[:]
	}
	event := EventHash("a", "b")
	keys := map[Key]bool{}
	for _, k := range []Key{NewKey(event, "r", 0), NewKey(event, "r", 1), NewKey(event, "r1", 0), NewKey(event, "r", 10), NewKey(event, "r1", 1), NewKey(event, "", 11)} {
		if keys[k] {
			t.Errorf("%s stands for two pairs", k)
		}
		keys[k] = true
	}
	if len(keys) != 6 {
		t.Errorf("%d keys, want 6", len(keys))
	}
}

// A key's text is stored: it must not change from one release to the next, or
// everything would be sent once more.
func TestKeyStays(t *testing.T) {
	t.Parallel()
	// The first 16 bytes of SHA-256 of "5:/shop6:evt-17" and of "13:order-shipped1:0", in URL-safe base64.
	const want = Key("fAOhC5ua40t0oTz5hYJuQA.Jv7uoBl-q5y_PyIwugceQA")
	if got := NewKey(EventHash("/shop", "evt-17"), "order-shipped", 0); got != want {
		t.Errorf("key %q, want %q", got, want)
	}
}

func TestReference(t *testing.T) {
	t.Parallel()
	for seed := range draws {
		d := dice{rand.New(rand.NewSource(int64(seed)))}
		k, try := NewKey(EventHash(d.text(), d.text()), d.text(), d.Intn(3)), newTry()
		ref := Reference(k, try)
		for _, suffix := range []string{"", "#0", "#17", "#9999"} {
			gotKey, gotTry, ok := ParseReference(ref + suffix)
			if !ok || gotKey != k || gotTry != try {
				t.Fatalf("seed %d: %q led to %q, %q, %v", seed, ref+suffix, gotKey, gotTry, ok)
			}
		}
	}
}

func TestReferenceFits(t *testing.T) {
	t.Parallel()
	ref := Reference(NewKey(EventHash("/shop", "1"), "r", 0), newTry())
	if len(ref) != 58 {
		t.Errorf("reference %q has %d characters, want 58: 8x8 takes 64, and a batch adds #n", ref, len(ref))
	}
}

func TestForeignReferences(t *testing.T) {
	t.Parallel()
	const a22 = "aaaaaaaaaaaaaaaaaaaaaa"
	for name, ref := range map[string]string{
		"empty":            "",
		"somebody's own":   "order-17",
		"a uuid":           "3f0c1b8e-6c43-4c3e-9c7f-1a2b3c4d5e6f",
		"without a try":    a22 + "." + a22,
		"short try":        a22 + "." + a22 + ".bbbbbbbbbbb",
		"long try":         a22 + "." + a22 + ".bbbbbbbbbbbbb",
		"no dots":          strings.Repeat("a", 58),
		"first dot astray": a22[:21] + ".a" + a22 + ".bbbbbbbbbbbb",
		"only a place":     "#1",
		// What is not of the keys' alphabet would be a wildcard or a subject of its own to NATS.
		"wildcards":   strings.Repeat("*", 22) + "." + a22 + ".bbbbbbbbbbbb",
		"full wild":   strings.Repeat(">", 22) + "." + a22 + ".bbbbbbbbbbbb",
		"more tokens": "aaaaaaaaaa.aaaaaaaaaaa." + a22 + ".bbbbbbbbbbbb",
		"spaces":      a22 + "." + strings.Repeat(" ", 22) + ".bbbbbbbbbbbb",
		"line break":  a22 + "." + a22[:21] + "\n.bbbbbbbbbbbb",
		"not ascii":   a22 + "." + strings.Repeat("é", 11) + ".bbbbbbbbbbbb",
		"wild try":    a22 + "." + a22 + ".bbbbbbbbbbb*",
	} {
		if k, try, ok := ParseReference(ref); ok {
			t.Errorf("%s: %q was taken for ours: key %q, try %q", name, ref, k, try)
		}
	}
}

func TestBatchReference(t *testing.T) {
	t.Parallel()
	k := NewKey(EventHash("/shop", "1"), "r", 0)
	first, second := newTry(), newTry()
	ref := BatchReference(k, first)
	if len(ref) != 20 || !regexp.MustCompile(`^[-_a-zA-Z0-9]+$`).MatchString(ref) {
		t.Errorf("%q is not what clientBatchId takes: 20 plain characters", ref)
	}
	if ref != BatchReference(k, first) || ref == BatchReference(k, second) {
		t.Error("a batch reference stands for one try, and always for that")
	}
}

func TestNewTry(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 10_000 {
		try := newTry()
		if len(try) != 12 || seen[try] {
			t.Fatalf("try %q: again, or not 12 characters", try)
		}
		seen[try] = true
	}
}

// An identity stands for its type, subject and data, and for nothing else.
func TestContentHash(t *testing.T) {
	t.Parallel()
	event := func(change func(*cloudevent.Event)) string {
		e := &cloudevent.Event{Event: cloudevents.New()}
		e.SetID("1")
		e.SetSource("/shop")
		e.SetType("t")
		e.SetSubject("s")
		e.DataEncoded = []byte(`{"a":1}`)
		change(e)
		return contentHash(e)
	}
	same := event(func(*cloudevent.Event) {})
	for name, change := range map[string]func(*cloudevent.Event){
		"time":      func(e *cloudevent.Event) { e.SetTime(time.Unix(1, 0)) },
		"extension": func(e *cloudevent.Event) { e.SetExtension("traceparent", "x") },
	} {
		if event(change) != same {
			t.Errorf("another %s makes another content", name)
		}
	}
	seen := map[string]string{same: "nothing"}
	for name, change := range map[string]func(*cloudevent.Event){
		"type":    func(e *cloudevent.Event) { e.SetType("u") },
		"subject": func(e *cloudevent.Event) { e.SetSubject("u") },
		"data":    func(e *cloudevent.Event) { e.DataEncoded = []byte(`{"a":2}`) },
		"no data": func(e *cloudevent.Event) { e.DataEncoded = nil },
		"a shift": func(e *cloudevent.Event) { e.SetType("ts"); e.SetSubject("") },
	} {
		h := event(change)
		if other, taken := seen[h]; taken {
			t.Errorf("changing %s and changing %s gives one content", name, other)
		}
		seen[h] = name
	}
}

func TestFrozenRoute(t *testing.T) {
	t.Parallel()
	own := Frozen{Route: "b", Action: "send-sms", ConnKey: "8x8-main", Tenant: "acme"}
	r := Record{Route: "b", Routes: []Frozen{{Route: "a", Action: "send-mms"}, own}}
	if diff := cmp.Diff(own, r.frozen()); diff != "" {
		t.Errorf("a record's own route (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(Place{Tenant: "acme", ConnectionKey: "8x8-main"}, own.Place()); diff != "" {
		t.Errorf("its place (-want +got):\n%s", diff)
	}
	r.Route = "gone"
	if diff := cmp.Diff(Frozen{Route: "gone"}, r.frozen()); diff != "" {
		t.Errorf("a route that the record does not list (-want +got):\n%s", diff)
	}
}

func TestStates(t *testing.T) {
	t.Parallel()
	for state, final := range map[State]bool{Waiting: false, Running: false, UnknownSt: false, Succeeded: true, Failed: true, "": false} {
		if state.Final() != final {
			t.Errorf("%q is final: %v, want %v", state, state.Final(), final)
		}
	}
}
