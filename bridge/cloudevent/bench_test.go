package cloudevent_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
)

// usual is an event of 700 bytes with 9 attributes and 340 bytes of data.
var usual = func() string {
	data := fmt.Sprintf(`{"orderId":"order-91827","customer":{"name":"Bo Example","phone":"+12025550101","tags":["new","vip"]},"items":[{"sku":"A-1","qty":2,"price":19.95},{"sku":"B-2","qty":1,"price":5.5}],"note":"%s"}`, strings.Repeat("x", 150))
	return fmt.Sprintf(`{"specversion":"1.0","id":"0f3c5e0e-6f0a-4c58-9b6d-3a1f1f6f0001","source":"https://shop.example.com/orders","type":"com.acme.order.shipped","subject":"order-91827","time":"2026-03-01T10:00:05.123Z","datacontenttype":"application/json","partitionkey":"customer-17","traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","data":%s}`, data)
}()

func BenchmarkFromNATSStructured(b *testing.B) {
	header := map[string][]string{"Content-Type": {"application/cloudevents+json"}}
	data := []byte(usual)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := cloudevent.FromNATS(header, data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFromNATSBinary(b *testing.B) {
	e, err := cloudevent.FromJSON([]byte(usual))
	if err != nil {
		b.Fatal(err)
	}
	header, data, err := cloudevent.ToBinary(&e)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := cloudevent.FromNATS(header, data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkToJSON(b *testing.B) {
	e, err := cloudevent.FromJSON([]byte(usual))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := cloudevent.ToJSON(&e); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkToBinary(b *testing.B) {
	e, err := cloudevent.FromJSON([]byte(usual))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := cloudevent.ToBinary(&e); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSDK is what FromNATSStructured is to be compared with.
func BenchmarkSDK(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		var e event.Event
		if err := json.Unmarshal([]byte(usual), &e); err != nil {
			b.Fatal(err)
		}
	}
}
