// Package bridgetest runs whole bridges for tests, as their users do: in this
// process (Start), or as the real program (Serve) beside a real nats-server
// (NATSServer) and a sandbox (StartSandbox), each a process of its own that can
// be killed and started again.
//
// Everything listens on free ports of this machine and keeps its data in
// folders of the test's own. A test that fails shows what its processes logged.
package bridgetest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/app"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
	"github.com/bridge8x8/bridge8x8/config"
)

// Deadline is how long whatever is waited for may take. It is for a loaded
// machine: what takes longer hangs.
const Deadline = 90 * time.Second

// Routes is the configuration that bridges get which bring none: an event of
// type com.acme.order.shipped with data {"phone"} becomes one text message.
const Routes = `
connections:
  main: {key: 8x8-sandbox}
routes:
  - name: order-shipped
    on: com.acme.order.shipped
    run: send-sms
    connection: main
    input:
      destination: ${ .data.phone }
      text: Order ${ .subject } is on its way.
`

// Await asks until cond returns nil. what completes "waiting for …"; what cond
// said last is shown if it never does.
func Await(t testing.TB, what string, cond func() error) {
	t.Helper()
	deadline := time.NewTimer(Deadline)
	defer deadline.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		err := cond()
		if err == nil {
			return
		}
		select {
		case <-again.C:
		case <-deadline.C:
			t.Fatalf("waiting for %s: after %v: %v", what, Deadline, err)
		}
	}
}

// Options are all optional.
type Options struct {
	// Env is laid over the environment that Start makes: embedded NATS that listens,
	// every port free, the sandbox's ways in.
	Env map[string]string
	// YAML is the bridge.yaml. Defaults to Routes.
	YAML string
	// Dir is the data folder of the embedded NATS; give the same to start again on
	// what was there. Defaults to a new one.
	Dir string
	// Sandbox is what the bridge works with. Defaults to a new one.
	Sandbox *Sandbox
	// LogMargin and Hook are app.Options'.
	LogMargin time.Duration
	Hook      func(step string, key bridge.Key)
}

// Bridge is a bridge that runs in this process.
type Bridge struct {
	App      *app.App
	Sandbox  *Sandbox
	URL      string // of the public listener
	AdminURL string
	NATSURL  string
	Log      *Log
	stop     func()
}

// Start runs a bridge and returns once it takes events. It is stopped when the
// test ends, which fails if the bridge ended with an error, or does not end.
func Start(t testing.TB, o Options) *Bridge {
	t.Helper()
	if o.Sandbox == nil {
		o.Sandbox = NewSandbox(t, sandbox.Options{ReceiptDelay: -1})
	}
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.YAML == "" {
		o.YAML = Routes
	}
	environ := map[string]string{
		"NATS_URL": "embedded", "BRIDGE_DATA_DIR": o.Dir, "BRIDGE_NATS_ADDR": "127.0.0.1:0",
		"BRIDGE_HTTP_ADDR": "127.0.0.1:0", "BRIDGE_ADMIN_ADDR": "127.0.0.1:0",
		"MEMBRANE_API_URL": o.Sandbox.URL, "MEMBRANE_TOKEN": sandbox.Token, "MEMBRANE_CONNECTION": sandbox.ConnectionKey,
	}
	if url := o.Env["NATS_URL"]; url != "" && url != "embedded" {
		delete(environ, "BRIDGE_NATS_ADDR")
	}
	maps.Copy(environ, o.Env)
	file, problems := config.Parse("bridge.yaml", []byte(o.YAML), os.LookupEnv)
	if problems.Errors() {
		t.Fatal(problems)
	}
	permit(t, environ, "serve", file)
	env, problems := config.LoadEnv(environ)
	if problems.Errors() {
		t.Fatal(problems)
	}
	b := &Bridge{Sandbox: o.Sandbox, Log: newLog(t, "the bridge's log")}
	a, err := app.New(app.Options{
		Env: env, File: file, Version: "test", FastStore: true, LogMargin: o.LogMargin, Hook: o.Hook,
		Logger: slog.New(slog.NewTextHandler(b.Log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	public, admin := a.Addrs()
	b.App, b.URL, b.AdminURL, b.NATSURL = a, "http://"+public, "http://"+admin, a.NATSURL()
	if b.NATSURL == "" {
		b.NATSURL = env.NATS.URL
	}
	o.Sandbox.SetWebhook(b.URL+"/webhooks/8x8", "")

	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the bridge ended with: %v", err)
			}
		case <-time.After(Deadline):
			t.Errorf("the bridge did not stop within %v; its goroutines:\n%s", Deadline, goroutines())
		}
	})
	t.Cleanup(b.stop)
	select {
	case <-a.Ready():
	case err := <-ended:
		ended <- nil
		t.Fatalf("the bridge ended before it was ready: %v", err)
	case <-time.After(Deadline):
		t.Fatalf("the bridge was not ready within %v; its goroutines:\n%s", Deadline, goroutines())
	}
	return b
}

// Stop stops the bridge as SIGTERM does, and waits for it. It may be called twice.
func (b *Bridge) Stop() { b.stop() }

func goroutines() string {
	var stacks bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
	return stacks.String()
}

// Sandbox is a sandbox in this process that listens.
type Sandbox struct {
	*sandbox.Server
	URL string
}

// NewSandbox starts a sandbox, which is closed when the test ends.
func NewSandbox(t testing.TB, o sandbox.Options) *Sandbox {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	box := sandbox.New(o)
	server := &http.Server{Handler: box, ReadHeaderTimeout: Deadline}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
		box.Close()
	})
	return &Sandbox{Server: box, URL: "http://" + listener.Addr().String()}
}

// ByEvent sorts effects by the id of the event that each was run for.
func ByEvent(effects []sandbox.Effect) map[string][]sandbox.Effect {
	by := map[string][]sandbox.Effect{}
	for _, e := range effects {
		var meta struct{ EventID string }
		_ = json.Unmarshal(e.Meta, &meta) // another's has no event, and is kept under ""
		by[meta.EventID] = append(by[meta.EventID], e)
	}
	return by
}

// Client is an HTTP client of a test's own.
func Client(t testing.TB) *http.Client {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: Deadline}
}

// Answer is what an HTTP server said.
type Answer struct {
	Status int
	Header http.Header
	Body   string
}

// Do makes one request and reads its answer. header holds pairs of name and value.
func Do(ctx context.Context, client *http.Client, method, url, body string, header ...string) (Answer, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := client.Do(r)
	if err != nil {
		return Answer{}, err
	}
	defer answer.Body.Close()
	read, err := io.ReadAll(answer.Body)
	return Answer{Status: answer.StatusCode, Header: answer.Header, Body: string(read)}, err
}

// Log is what a bridge or a program has written. It may be read at any time.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// newLog makes a log whose end is shown if the test fails.
func newLog(t testing.TB, name string) *Log {
	t.Helper()
	l := &Log{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s ends with:\n%s", name, l.tail(60))
		}
	})
	return l
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String is all of it.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Lines are those that contain part; all of them if it is empty.
func (l *Log) Lines(part string) []string {
	var lines []string
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, part) {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return lines
}

func (l *Log) tail(n int) string {
	lines := l.Lines("")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// Ports that are given out lie below those that systems pick for connections,
// so that nothing takes one before its program does, or while it is down.
const (
	firstPort = 20_000
	lastPort  = 31_999
)

var given sync.Map // by port

// FreeAddr is an address that a program can listen on, for as long as the test
// process lives.
func FreeAddr(t testing.TB) string {
	t.Helper()
	var last error
	for range 200 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		if _, taken := given.LoadOrStore(port, true); taken {
			continue
		}
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
		if err == nil {
			_ = listener.Close()
			return addr
		}
		last = err
	}
	t.Fatalf("no free port from %d to %d: %v", firstPort, lastPort, last)
	return ""
}

// ready says whether a bridge takes events, and if not, why.
func ready(ctx context.Context, client *http.Client, adminURL string) error {
	answer, err := Do(ctx, client, http.MethodGet, adminURL+"/readyz", "")
	switch {
	case err != nil:
		return err
	case answer.Status != http.StatusOK:
		return fmt.Errorf("/readyz answers %d: %s", answer.Status, answer.Body)
	}
	return nil
}
