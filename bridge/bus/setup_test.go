package bus

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/bridge8x8/bridge8x8/bridge/natsd"
	"github.com/bridge8x8/bridge8x8/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come about; it is never the
// measure of anything.
const patience = time.Minute

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually asks until it is so.
func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	late := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("in vain waited for: %s", what)
		}
	}
}

func startServer(t testing.TB, o natsd.Options) *natsd.Server {
	t.Helper()
	o.Fast = true
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	s, err := natsd.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// lines is a log that a test can read.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *lines) count(text string) int { return strings.Count(l.String(), text) }

func (l *lines) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func connect(t testing.TB, url string) *Conn {
	t.Helper()
	c, err := Connect(config.NATSEnv{URL: url}, "test", slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := c.Await(within(t), false); err != nil {
		t.Fatal(err)
	}
	return c
}

func makeStream(t testing.TB, c *Conn, cfg jetstream.StreamConfig) jetstream.Stream {
	t.Helper()
	st, err := c.JS.CreateStream(within(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func streamInfo(t testing.TB, c *Conn, name string) *jetstream.StreamInfo {
	t.Helper()
	st, err := c.JS.Stream(within(t), name)
	if err != nil {
		t.Fatal(err)
	}
	return st.CachedInfo()
}

func store(t testing.TB, c *Conn, subject, text string) uint64 {
	t.Helper()
	seq, err := c.Publisher.Store(within(t), subject, nil, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// everything reads a stream's messages, in their order.
func everything(t testing.TB, c *Conn, stream string) []*jetstream.RawStreamMsg {
	t.Helper()
	ctx := within(t)
	st, err := c.JS.Stream(ctx, stream)
	if err != nil {
		t.Fatal(err)
	}
	var all []*jetstream.RawStreamMsg
	state := st.CachedInfo().State
	for seq := state.FirstSeq; seq <= state.LastSeq; seq++ {
		m, err := st.GetMsg(ctx, seq)
		if err != nil {
			if strings.Contains(err.Error(), "not found") {
				continue
			}
			t.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}
