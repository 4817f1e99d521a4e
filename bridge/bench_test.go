package bridge_test

import (
	"context"
	"encoding/json"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// easy is a ledger, an outbox and a runner to which nothing ever happens, so
// that what a benchmark measures is the bridge.
type easy struct {
	revision                    atomic.Uint64
	puts, runs, results, deaths atomic.Int64
}

func (e *easy) Put(_ context.Context, _ bridge.Key, _ bridge.Record, _ uint64) (uint64, error) {
	e.puts.Add(1)
	return e.revision.Add(1), nil
}

func (*easy) Get(context.Context, bridge.Key) (bridge.Entry, error) {
	return bridge.Entry{}, bridge.ErrNotFound
}
func (*easy) Event(context.Context, string) ([]bridge.Entry, error) { return nil, nil }
func (*easy) Note(context.Context, string) ([]byte, uint64, error)  { return nil, 0, nil }
func (*easy) PutNote(context.Context, string, []byte, uint64, time.Duration) (uint64, error) {
	return 1, nil
}
func (*easy) Hide(_ context.Context, text string) (string, error) { return text, nil }
func (*easy) Batch(context.Context, string, bridge.Key) error     { return nil }
func (*easy) Mark(context.Context, string, bridge.Mark, uint64) (uint64, error) {
	return 1, nil
}
func (*easy) Marked(context.Context, string) (bridge.Mark, uint64, error) {
	return bridge.Mark{}, 0, nil
}
func (*easy) Now(context.Context) (time.Time, error)               { return time.Now(), nil }
func (*easy) Usable() error                                        { return nil }
func (*easy) Remembers(string, time.Time) bool                     { return true }
func (e *easy) Result(context.Context, bridge.Result) error        { e.results.Add(1); return nil }
func (e *easy) Remove(context.Context, bridge.Key, []uint64) error { return nil }
func (e *easy) Dead(context.Context, bridge.DeadLetter) error      { e.deaths.Add(1); return nil }
func (*easy) Withdraw(context.Context, bridge.Key, string) error   { return nil }
func (*easy) Probe(context.Context, bridge.Place) error            { return nil }
func (*easy) Ack()                                                 {}
func (*easy) Nak(time.Duration)                                    {}
func (*easy) SetAside(context.Context, *bridge.Delivery, bridge.Pair, bridge.Key, string) error {
	return nil
}

func (*easy) NoteReceipt(context.Context, bridge.Key, string, bridge.Receipt) error { return nil }
func (*easy) ReceiptOf(context.Context, bridge.Key, string) (bridge.Receipt, error) {
	return bridge.Receipt{}, bridge.ErrNotFound
}
func (*easy) Unknowns(context.Context) ([]bridge.Key, error)            { return nil, nil }
func (*easy) Settled(context.Context, bridge.Key) error                 { return nil }
func (*easy) Turn(context.Context, string, time.Duration) (bool, error) { return true, nil }
func (*easy) Held(context.Context, bridge.Key, string) (*bridge.Delivery, error) {
	return nil, bridge.ErrNotFound
}

func (*easy) RunLogs(context.Context, bridge.Place, time.Time, func(bridge.RunLog)) error {
	return nil
}

func (*easy) RunLog(context.Context, bridge.Place, string) (bridge.RunLog, bool, error) {
	return bridge.RunLog{}, false, nil
}

func (e *easy) Run(context.Context, bridge.Request) (bridge.Reply, error) {
	e.runs.Add(1)
	return bridge.Reply{RunID: "0123456789abcdef01234567", Output: json.RawMessage(`{"umid":"5a0c0d5e-3e4b-4b1c-9b8f-0d6c6f7b8a90","status":{"code":"QUEUED","description":"SMS is accepted"}}`)}, nil
}

const benchRoutes = `
connections:
  main: {key: 8x8-main}
routes:
  - name: order-shipped
    on: com.acme.order.shipped
    run: send-sms
    connection: main
    input:
      destination: ${ .data.customer.phone }
      text: Hi ${ .data.customer.name }, order ${ .subject } is on its way.
`

// BenchmarkHandle is one event from its delivery to its ack: decoded, matched,
// mapped, checked, claimed, run, recorded and its result made, with nothing
// behind it that costs anything.
func BenchmarkHandle(b *testing.B) {
	file, problems := config.Parse("bridge.yaml", []byte(benchRoutes), func(string) (string, bool) { return "", false })
	if problems.Errors() {
		b.Fatal(problems)
	}
	table, problems := handlers.Compile(file, catalog.Builtin(), handlers.Options{})
	if problems.Errors() {
		b.Fatal(problems)
	}
	seams := &easy{}
	br, err := bridge.New(bridge.Options{Name: "b", Ledger: seams, Outbox: seams, Runner: seams, Catalog: catalog.Builtin()})
	if err != nil {
		b.Fatal(err)
	}
	br.SetTable(table)
	const body = `{"specversion":"1.0","source":"/shop","type":"com.acme.order.shipped","subject":"order-9","time":"2026-01-02T03:04:05Z",` +
		`"datacontenttype":"application/json","data":{"customer":{"name":"Bo","phone":"+12025550101"},"total":129.9},"id":"`
	ctx, now := context.Background(), time.Now()
	header := map[string][]string{"Content-Type": {"application/cloudevents+json"}}
	b.ReportAllocs()
	n := int64(0)
	for b.Loop() {
		n++
		br.Handle(ctx, &bridge.Delivery{
			Source: "events", Header: header, Data: []byte(body + strconv.FormatInt(n, 10) + `"}`), Stream: "BRIDGE_EVENTS", Seq: uint64(n), Stored: now, Settle: seams,
		})
	}
	if seams.runs.Load() != n || seams.results.Load() != n || seams.puts.Load() != 2*n || seams.deaths.Load() != 0 {
		b.Fatalf("of %d events, %d ran and %d gave results; %d writes, %d dead letters", n, seams.runs.Load(), seams.results.Load(), seams.puts.Load(), seams.deaths.Load())
	}
}

func BenchmarkRecordEncode(b *testing.B) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 123456789, time.UTC)
	rec := &bridge.Record{
		Version: 1, State: bridge.Succeeded, Content: "AAAAAAAAAAAAAAAAAAAAAA",
		Cause: bridge.Cause{Source: "/shop", ID: "evt-17", Type: "com.acme.order.shipped", Subject: "order-9", Time: at},
		Route: "order-shipped", Routes: []bridge.Frozen{{Route: "order-shipped", Action: "send-sms", Connection: "main", ConnKey: "8x8-main"}},
		Try: "abcdefghijkl", Attempts: 1, ClaimedAt: at, ConcludedAt: at, RunID: "0123456789abcdef01234567", DurationMs: 212,
		Output: json.RawMessage(`{"umid":"5a0c0d5e-3e4b-4b1c-9b8f-0d6c6f7b8a90","status":{"code":"QUEUED"}}`), SMS: &catalog.SMS{Encoding: "GSM7", SMSCount: 1},
	}
	b.Run("by hand", func(b *testing.B) {
		b.ReportAllocs()
		var buf []byte
		for b.Loop() {
			buf = rec.AppendJSON(buf[:0])
		}
	})
	b.Run("encoding json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := json.Marshal(rec); err != nil {
				b.Fatal(err)
			}
		}
	})
}
