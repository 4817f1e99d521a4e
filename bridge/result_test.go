package bridge

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const shapedRoute = oneRoute + `    result:
      type: com.acme.order.${ .event.data.kind // "texted" }
      subject: order-${ .event.id }
      data: {umid: "${ .output.umid }", phone: "${ .event.data.phone }", route: "${ .result.route }"}
      failed:
        type: com.acme.order.not-texted
        data: "${ {why: .error.reason, attempts: .result.attempts} }"
`

// bodies keeps the results that are published, whole.
type bodies struct {
	*seams
	mu  sync.Mutex
	all []string
}

func (o *bodies) Result(ctx context.Context, r Result) error {
	o.mu.Lock()
	o.all = append(o.all, fmt.Sprintf("%s %s %s", r.Action, r.State, r.Event.AppendJSON(nil)))
	o.mu.Unlock()
	return o.seams.Result(ctx, r)
}

// last is the newest result without what differs each time.
func (o *bodies) last(t *testing.T) string {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.all) == 0 {
		t.Fatal("no result")
	}
	last := o.all[len(o.all)-1]
	before, after, _ := strings.Cut(last, `,"time":"`)
	_, after, _ = strings.Cut(after, `"`)
	return before + after
}

func (o *bodies) each(t *testing.T, want int) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.all) != want {
		t.Fatalf("%d results, want %d", len(o.all), want)
	}
	for _, r := range o.all {
		if r != o.all[0] {
			t.Errorf("published as\n%s\nand as\n%s", o.all[0], r)
		}
	}
}

func shaping(t *testing.T, routes string) (*seams, *bodies, *Bridge) {
	t.Helper()
	s, b := alone(t, routes)
	o := &bodies{seams: s}
	b.Outbox = o
	return s, o, b
}

const shapedAttributes = `"causationid":"1","causationsource":"/shop","correlationid":"1","datacontenttype":"application/json"`

// A result that its route shapes is the same event whenever it is published,
// under the standard id and subject, whatever the configuration says by then.
func TestShapedResult(t *testing.T) {
	t.Parallel()
	s, o, b := shaping(t, shapedRoute)
	deliver(t, b, orderEvent("1", "+12025550101"))
	want := `send-sms succeeded {"specversion":"1.0","id":"` + string(keyOf("1", "r")) + `","source":"/bridge8x8/b","type":"com.acme.order.texted","subject":"order-1",` + shapedAttributes + `,"data":{"phone":"+12025550101","route":"r","umid":"0f3c"}}`
	if diff := cmp.Diff(want, o.last(t)); diff != "" {
		t.Error(diff)
	}
	b.SetTable(tableOf(t, strings.Replace(shapedRoute, "com.acme.order", "com.acme.other", 2)))
	deliver(t, b, redelivered(orderEvent("1", "+12025550101"))) // once more, by who never saw the first (R18)
	o.each(t, 2)
	if rec := s.record(keyOf("1", "r")); rec.Shape == nil || string(rec.Output) == "" {
		t.Errorf("%+v", rec)
	}
}

func TestShapedFailure(t *testing.T) {
	t.Parallel()
	s, o, b := shaping(t, shapedRoute)
	refuses(&Failure{Kind: Permanent, Message: "no"})(s)
	deliver(t, b, orderEvent("1", "+12025550101"))
	want := `send-sms failed {"specversion":"1.0","id":"` + string(keyOf("1", "r")) + `","source":"/bridge8x8/b","type":"com.acme.order.not-texted","subject":"1",` + shapedAttributes + `,"data":{"attempts":1,"why":"rejected"}}`
	if diff := cmp.Diff(want, o.last(t)); diff != "" {
		t.Error(diff)
	}
	deliver(t, b, redelivered(orderEvent("1", "+12025550101")))
	o.each(t, 2)
}

// An outcome whose shape fails has its standard form, which says why, without
// anything of the event; it is neither lost nor late.
func TestUnshaped(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ result, want string }{
		"an expression fails":    {`data: "${ .event.data.phone.number }"`, `data: ${ .event.data.phone.number } fails on this event: expected an object but got a string`},
		"it does not end":        {`data: "${ [range(infinite)] }"`, "was stopped after"},
		"the type is empty":      {`type: "${ \"\" }"`, "result type: is empty"},
		"the type is ours":       {`type: "com.8x8.${ .event.id }"`, "result type: begins with com.8x8."},
		"the type has spaces":    {`type: "a ${ .event.id }"`, "result type: holds spaces"},
		"the subject is long":    {`subject: "a${ \"0123456789\" * 200 }"`, "result subject: is longer than 1024 bytes"},
		"the subject has breaks": {`subject: "${ \"a\\nb\" }"`, "result subject: holds control characters"},
		"the data is large":      {`data: "${ [range(8000) | \"0123456789\"] }"`, "result data: is larger than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, o, b := shaping(t, oneRoute+"    result: {"+test.result+"}\n")
			if got := deliver(t, b, orderEvent("1", "+12025550101")); got.acks != 1 {
				t.Fatalf("%+v", got)
			}
			got := o.last(t)
			if !strings.Contains(got, `"type":"com.8x8.action.send-sms.succeeded"`) || !strings.Contains(got, `"unshaped":"bridge.yaml:`) ||
				!strings.Contains(strings.ReplaceAll(got, `\"`, `"`), test.want) || strings.Contains(got, "2025550101") {
				t.Errorf("%s", got)
			}
			deliver(t, b, redelivered(orderEvent("1", "+12025550101")))
			o.each(t, 2)
			if s.effects[keyOf("1", "r")] != 1 {
				t.Errorf("%d effects", s.effects[keyOf("1", "r")])
			}
		})
	}
}

// An outcome that becomes known when the event itself is with a person has its
// shape all the same; without the event, its standard form, and says so.
func TestShapedLate(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		gone   bool
		routes string
		want   string
	}{
		"from its letter":              {false, shapedRoute, `"data":{"phone":"+12025550101","route":"r","umid":"0f3c"}}`},
		"its letter is gone":           {true, shapedRoute, `"unshaped":"bridge.yaml:11:7: result: it needs the event, which is no longer at hand"}}`},
		"gone, and nobody looks at it": {true, oneRoute + "    result: {data: {umid: \"${ .output.umid }\"}}\n", `"data":{"umid":"0f3c"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s, o, b := shaping(t, test.routes)
				unheard(s)
				doubted(t, b)
				<-time.After(2 * time.Minute)
				b.doubts.lookThrough(t.Context())
				if diff := cmp.Diff([]Reason{ReasonOutcomeUnknown}, s.reasons()); diff != "" {
					t.Fatal(diff)
				}
				if test.gone {
					clear(s.dead)
				}
				if err := receipted(t, b, s, keyOf("1", "r")); err != nil {
					t.Fatal(err)
				}
				if got := o.last(t); !strings.HasSuffix(got, test.want) {
					t.Error(got)
				}
			})
		})
	}
}

// A fault of ours in a shape must not come again with every delivery: the run has
// happened.
func TestShapeFaults(t *testing.T) {
	t.Parallel()
	s, o, b := shaping(t, shapedRoute)
	s.mayPanic = true
	k := keyOf("1", "r")
	p := &pair{key: k, route: "r", handler: b.table.Handlers()[0]}
	p.e = &occurrence{whole: true, view: nil} // to call it is the fault
	rec := Record{State: Succeeded, Route: "r", Output: []byte(`{}`)}
	b.shape(p.e, p, &rec)
	if rec.Shape == nil || rec.Shape.Failed != "the program faults over it" {
		t.Errorf("%+v", rec.Shape)
	}
	_ = o
}
