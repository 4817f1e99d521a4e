package bus

import (
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge/natsd"
)

// BenchmarkPublisherStore compares our publisher with the client library's
// asynchronous publishing, 64 messages at a time, as 64 workers store them.
func BenchmarkPublisherStore(b *testing.B) {
	body := []byte(`{"v":1,"state":"running","content":"AAAAAAAAAAAAAAAAAAAAAA","cause":{"source":"/shop","id":"evt-17","type":"com.acme.order.shipped"}}`)
	header := nats.Header{jetstream.MsgTTLHeader: {"72h0m0s"}}
	const workers = 64
	for name, begin := range map[string]func(*Conn) func() error{
		"ours": func(c *Conn) func() error {
			ctx := within(b)
			return func() error {
				_, err := c.Publisher.Store(ctx, "s.a", header, body)
				return err
			}
		},
		"PublishMsgAsync": func(c *Conn) func() error {
			return func() error {
				f, err := c.JS.PublishMsgAsync(&nats.Msg{Subject: "s.a", Header: header, Data: body})
				if err != nil {
					return err
				}
				select {
				case <-f.Ok():
					return nil
				case err := <-f.Err():
					return err
				}
			}
		},
	} {
		b.Run(name, func(b *testing.B) {
			c := connect(b, startServer(b, natsd.Options{}).ClientURL())
			makeStream(b, c, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Storage: jetstream.MemoryStorage, MaxMsgs: 10_000, MaxBytes: 32 << 20, AllowMsgTTL: true})
			store := begin(c)
			b.ReportAllocs()
			b.ResetTimer()
			var failed atomic.Pointer[error]
			done := make(chan struct{}, workers)
			var next atomic.Int64
			for range workers {
				go func() {
					defer func() { done <- struct{}{} }()
					for next.Add(1) <= int64(b.N) {
						if err := store(); err != nil {
							failed.Store(&err)
							return
						}
					}
				}()
			}
			for range workers {
				<-done
			}
			if err := failed.Load(); err != nil {
				b.Fatal(*err)
			}
		})
	}
}
