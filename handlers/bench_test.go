package handlers

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
)

func benchEvent() event.Event {
	e := event.New()
	e.SetID("8d0f0c1e-6f0e-4a53-9f6e-2f5a7f1c9a10")
	e.SetSource("/shop/eu")
	e.SetType("com.acme.order.shipped")
	e.SetSubject("order-9")
	e.SetExtension("tenantid", "acme")
	e.SetDataContentType("application/json")
	e.DataEncoded = []byte(`{"customer":{"id":"c-1841","name":"Bo Example","phone":"+12025550101","email":"bo@example.com","country":"US"},` +
		`"order":{"id":"order-9","total":129.90,"currency":"EUR","items":[{"sku":"a-1","count":2},{"sku":"b-7","count":1}]},` +
		`"shipping":{"carrier":"Example Post","tracking":"EX123456789","eta":"2026-01-04T12:00:00Z"}}`)
	return e
}

// BenchmarkInput makes the input of one event from nothing: the view, its data,
// five expressions, the check against the schema.
func BenchmarkInput(b *testing.B) {
	const paths = `      destination: ${ .data.customer.phone }
      text: Hi ${ .data.customer.name }, order ${ .subject } is on its way with ${ .data.shipping.carrier } as ${ .data.shipping.tracking }.
`
	for name, route := range map[string]string{
		"paths, no schema": "    run: {id: 66f1}\n    input:\n" + paths,
		"paths, send-sms":  "    run: send-sms\n    input:\n" + paths,
		"jq, no schema": "    run: {id: 66f1}\n    input:\n" +
			"      destination: ${ .data.customer.phone }\n      text: '${ \"Hi \\(.data.customer.name), order \\(.subject) has \\(.data.order.items | map(.count) | add) items\" }'\n",
	} {
		b.Run(name, func(b *testing.B) {
			table, _, problems := compileText(b, "routes:\n  - name: r\n    on: com.acme.order.shipped\n"+route, Options{})
			if problems.Errors() {
				b.Fatal(problems)
			}
			e := benchEvent()
			b.ReportAllocs()
			for b.Loop() {
				v := NewViewRaw(&e, "/shop/eu", "1")
				if _, err := table.Match(v)[0].Input(v); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkMatch(b *testing.B) {
	var text strings.Builder
	text.WriteString("routes:\n")
	for i := range 100 {
		fmt.Fprintf(&text, "  - {name: exact-%d, on: com.acme.thing%d, run: {id: a}}\n", i, i)
	}
	text.WriteString("  - {name: beginning, on: com.acme.order.*, run: {id: a}, filters: [{exact: {source: /shop/eu}}]}\n")
	text.WriteString("  - {name: sql, on: com.acme.sql, run: {id: a}, filters: [{sql: \"source LIKE '/shop/%' AND tenantid = 'acme'\"}]}\n")
	table, _, problems := compileText(b, text.String(), Options{})
	if problems.Errors() {
		b.Fatal(problems)
	}
	for _, bench := range []struct {
		name, eventType string
		matches         int
	}{{"exact", "com.acme.thing50", 1}, {"beginning", "com.acme.order.shipped", 1}, {"sql", "com.acme.sql", 1}, {"none", "com.acme.none", 0}} {
		b.Run(bench.name, func(b *testing.B) {
			e := benchEvent()
			e.SetType(bench.eventType)
			v := NewViewRaw(&e, "/shop/eu", e.ID())
			b.ReportAllocs()
			for b.Loop() {
				if len(table.Match(v)) != bench.matches {
					b.Fatal("another number of matches")
				}
			}
		})
	}
}
