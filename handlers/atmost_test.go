package handlers

import (
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
)

func inbound(t *testing.T, data string) *View {
	t.Helper()
	e := event.New()
	e.SetID("1")
	e.SetSource("/8x8/sms/acme")
	e.SetType("com.8x8.sms.received")
	if err := e.SetData(event.ApplicationJSON, []byte(data)); err != nil {
		t.Fatal(err)
	}
	return NewView(&e)
}

func TestAtMostBy(t *testing.T) {
	t.Parallel()
	route := func(atMost string) *AtMost {
		t.Helper()
		table, _, problems := compileText(t, "routes:\n  - name: r\n    on: a\n    run: get-account-balance\n    at_most: "+atMost+"\n", Options{})
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		return table.Handlers()[0].AtMost
	}
	all := route("{times: 3, every: 90m}")
	if by, err := all.By(inbound(t, `{}`)); by != "" || err != nil {
		t.Errorf("%q, %v", by, err)
	}
	if all.Times != 3 || all.Every != 90*time.Minute || all.String() != "the route runs at most 3 times in 1h30m" {
		t.Errorf("%+v: %s", all, all)
	}
	per := route(`{per: "${ .data.source }", times: 1, every: 1d}`)
	if per.String() != "the route runs at most 1 times in 24h for each value of its per" {
		t.Error(per)
	}
	for data, want := range map[string]string{`{"source":"+1"}`: "+1", `{"source":12}`: "12"} {
		if by, err := per.By(inbound(t, data)); by != want || err != nil {
			t.Errorf("%s: %q, %v", data, by, err)
		}
	}
	for _, data := range []string{`{}`, `{"source":""}`, `{"source":[1]}`, `{"source":1.5}`, `{"source":true}`} {
		if by, err := per.By(inbound(t, data)); err == nil {
			t.Errorf("%s: counted by %q", data, by)
		}
	}
}

func TestJQFilter(t *testing.T) {
	t.Parallel()
	for filter, want := range map[string]bool{
		`.data.body | test("^ *stop\\b"; "i")`: true,
		`.data.body == "Stop it"`:              true,
		`.data.body`:                           false, // not true, but a text
		`.data.more.of`:                        false,
		`.data.body.of`:                        false, // an error
		`.data.body | test("help"; "i")`:       false,
		`true, true`:                           false, // two results
		`empty`:                                false,
		`.type == "com.8x8.sms.received"`:      true,
		`.data.body | ascii_upcase | startswith("STOP")`: true,
	} {
		table, _, problems := compileText(t, "routes:\n  - name: r\n    on: com.8x8.sms.received\n    filters:\n      - jq: >-\n          "+filter+"\n    run: get-account-balance\n", Options{})
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		if got := len(table.Match(inbound(t, `{"body":"Stop it"}`))) == 1; got != want {
			t.Errorf("%s: %v", filter, got)
		}
	}
	// Data that is no JSON matches nothing, and is no fault.
	table, _, _ := compileText(t, "routes: [{name: r, on: a, filters: [{jq: .data.a}], run: get-account-balance}]", Options{})
	e := event.New()
	e.SetID("1")
	e.SetSource("/s")
	e.SetType("a")
	e.SetDataContentType(event.ApplicationJSON)
	e.DataEncoded = []byte("{")
	if table.Match(NewView(&e)) != nil {
		t.Error("it matches")
	}
}
