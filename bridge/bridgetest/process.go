package bridgetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
	"github.com/bridge8x8/bridge8x8/config"
)

// The programs that tests run, as go build names them. Each is built once in a
// test process, without the race detector: it is the program that is shipped.
const (
	bridgePackage = "github.com/bridge8x8/bridge8x8/cmd/bridge8x8"
	natsPackage   = "github.com/nats-io/nats-server/v2"
)

var built struct {
	mu    sync.Mutex
	dir   string
	paths map[string]string
}

func build(t testing.TB, name, pkg string, flags ...string) string {
	t.Helper()
	built.mu.Lock()
	defer built.mu.Unlock()
	key := strings.Join(append(flags, pkg), " ")
	if path := built.paths[key]; path != "" {
		return path
	}
	if err := makeBuildDir(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(built.dir, name)
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	cmd := exec.CommandContext(context.Background(), "go", "build", "-race=false", "-buildvcs=false", "-o", path) //nolint:gosec // the two packages above
	cmd.Args = append(append(cmd.Args, flags...), pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
	built.paths[key] = path
	return path
}

// makeBuildDir makes a folder that outlives the test that needs it first.
func makeBuildDir() (err error) {
	if built.dir == "" {
		built.paths = map[string]string{}
		built.dir, err = os.MkdirTemp("", "bridge8x8-test-")
	}
	return err
}

// Binary builds the program and returns its path.
func Binary(t testing.TB) string {
	t.Helper()
	return build(t, "bridge8x8", bridgePackage)
}

// NextBinary builds the program with every format one higher than it is.
func NextBinary(t testing.TB) string {
	t.Helper()
	return build(t, "bridge8x8-next", bridgePackage, "-tags", "bridge8x8_next")
}

// As makes it another program, from its next start on.
func (p *Program) As(path string) { p.path = path }

// Clean removes what was built. Call it from TestMain, after the tests.
func Clean() {
	built.mu.Lock()
	defer built.mu.Unlock()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
		built.dir, built.paths = "", nil
	}
}

// Program is a program that a test starts, ends in every way, and starts again.
type Program struct {
	// Log is what it has written in all its lives.
	Log  *Log
	t    testing.TB
	path string
	args []string
	env  []string
	life *life // nil before the first
}

// life is one process of a program.
type life struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

func newProgram(t testing.TB, name, path string, env map[string]string, args ...string) *Program {
	t.Helper()
	p := &Program{Log: newLog(t, name), t: t, path: path, args: args}
	// Nothing of the developer's own environment may reach it.
	for _, kept := range []string{"PATH", "HOME", "TMPDIR", "SystemRoot"} {
		if value, ok := os.LookupEnv(kept); ok {
			p.env = append(p.env, kept+"="+value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		p.env = append(p.env, name+"="+env[name])
	}
	return p
}

// NewProgram runs the built bridge8x8 with a command; it is not started.
func NewProgram(t testing.TB, env map[string]string, args ...string) *Program {
	t.Helper()
	if env["NATS_URL"] != "" {
		env = maps.Clone(env)
		file, _ := config.Load(env["BRIDGE_CONFIG"], os.LookupEnv) // the command says itself what is wrong with it
		permit(t, env, args[0], file)
	}
	return newProgram(t, "bridge8x8 "+args[0], Binary(t), env, args...)
}

// Start starts it, or starts it again.
func (p *Program) Start() {
	p.t.Helper()
	if p.Running() {
		p.t.Fatalf("%s runs already", p.path)
	}
	l := &life{ended: make(chan struct{})}
	l.cmd = exec.CommandContext(context.Background(), p.path, p.args...) //nolint:gosec // what was built here
	l.cmd.Env, l.cmd.Stdout, l.cmd.Stderr = p.env, p.Log, p.Log
	if err := l.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() {
		defer close(l.ended)
		_ = l.cmd.Wait() // how it ended is in ProcessState
	}()
	p.life = l
	p.t.Cleanup(func() {
		_ = l.cmd.Process.Kill() // by its own id; an error is that it has ended
		<-l.ended
	})
}

// Running says whether it was started and has not ended.
func (p *Program) Running() bool {
	if p.life == nil {
		return false
	}
	select {
	case <-p.life.ended:
		return false
	default:
		return true
	}
}

// PID is the id of its process.
func (p *Program) PID() int { return p.life.cmd.Process.Pid }

// Signal sends it a signal.
func (p *Program) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.life.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("%v to %s: %v", s, p.path, err)
	}
}

// Kill ends it as a power cut of its own would, and waits.
func (p *Program) Kill() {
	p.t.Helper()
	p.Signal(syscall.SIGKILL)
	<-p.life.ended
}

// Terminate asks it to stop, and returns its exit code.
func (p *Program) Terminate() int {
	p.t.Helper()
	p.Signal(syscall.SIGTERM)
	return p.Wait()
}

// Wait returns its exit code once it has ended; -1 if a signal ended it.
func (p *Program) Wait() int {
	p.t.Helper()
	Await(p.t, "the end of "+filepath.Base(p.path), func() error {
		if p.Running() {
			return errors.New("it runs")
		}
		return nil
	})
	return p.life.cmd.ProcessState.ExitCode()
}

// awaitUp waits until up returns nil, as long as the program lives.
func (p *Program) awaitUp(what string, up func() error) {
	p.t.Helper()
	Await(p.t, what, func() error {
		err := up()
		if err != nil && !p.Running() {
			p.t.Fatalf("waiting for %s: it has ended with exit code %d:\n%s", what, p.life.cmd.ProcessState.ExitCode(), p.Log.tail(30))
		}
		return err
	})
}

// NATS is a nats-server with JetStream in a process of its own.
type NATS struct {
	*Program
	URL   string
	addr  string
	users users
	// Of a server with a configuration of the test's own.
	conf, store string
}

// NATSServer starts the nats-server that go.mod names. Killed and started
// again, it has the same address and what it had stored.
func NATSServer(t testing.TB) *NATS {
	t.Helper()
	return NATSServerConfig(t, `
		server_name: test
		jetstream { store_dir: "{{dir}}" }`)
}

// Start starts it and returns once clients can connect.
func (n *NATS) Start() {
	n.t.Helper()
	n.Program.Start()
	n.awaitUp("nats-server", func() error {
		conn, err := new(net.Dialer).DialContext(n.t.Context(), "tcp", n.addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		greeting := make([]byte, 5)
		if _, err := conn.Read(greeting); err != nil {
			return err
		}
		if string(greeting) != "INFO " {
			return fmt.Errorf("it greets with %q", greeting)
		}
		return nil
	})
}

// SandboxProgram is a sandbox in a process of its own.
type SandboxProgram struct {
	*Program
	URL    string
	client *http.Client
}

// StartSandbox runs bridge8x8 sandbox with flags such as "--latency", "20ms".
func StartSandbox(t testing.TB, flags ...string) *SandboxProgram {
	t.Helper()
	s := &SandboxProgram{client: Client(t)}
	s.Program = NewProgram(t, nil, append([]string{"sandbox", "--addr", "127.0.0.1:0"}, flags...)...)
	s.Start()
	s.awaitUp("the sandbox", func() error {
		_, after, ok := strings.Cut(s.Log.String(), "sandbox: ")
		url, _, whole := strings.Cut(after, " ")
		if !ok || !whole {
			return errors.New("it has not said where it listens")
		}
		s.URL = url
		return nil
	})
	return s
}

// Listening is a sandbox of this process as those see it that have one of its own.
func (s *Sandbox) Listening(t testing.TB) *SandboxProgram {
	t.Helper()
	return &SandboxProgram{Program: &Program{t: t}, URL: s.URL, client: Client(t)}
}

// Control posts to one of its controls, such as "faults".
func (s *SandboxProgram) Control(name, body string) {
	s.t.Helper()
	answer, err := Do(s.t.Context(), s.client, http.MethodPost, s.URL+"/_sandbox/"+name, body)
	if err != nil {
		s.t.Fatal(err)
	}
	if answer.Status >= 300 {
		s.t.Fatalf("the sandbox answers %d to %s: %s", answer.Status, name, answer.Body)
	}
}

// ClearFaults removes every rule of failure.
func (s *SandboxProgram) ClearFaults() {
	s.t.Helper()
	if _, err := Do(s.t.Context(), s.client, http.MethodDelete, s.URL+"/_sandbox/faults", ""); err != nil {
		s.t.Fatal(err)
	}
}

// Effects is every effect so far.
func (s *SandboxProgram) Effects() []sandbox.Effect {
	s.t.Helper()
	var effects struct{ Items []sandbox.Effect }
	s.get("/_sandbox/effects", &effects)
	return effects.Items
}

// CountEffects is how many effects there were so far.
func (s *SandboxProgram) CountEffects() int {
	s.t.Helper()
	var effects struct{ Count int }
	s.get("/_sandbox/effects?count=true", &effects)
	return effects.Count
}

func (s *SandboxProgram) get(path string, into any) {
	s.t.Helper()
	answer, err := Do(s.t.Context(), s.client, http.MethodGet, s.URL+path, "")
	if err == nil {
		err = json.Unmarshal([]byte(answer.Body), into)
	}
	if err != nil {
		s.t.Fatalf("GET %s of the sandbox: %v", path, err)
	}
}

// Served is bridge8x8 serve in a process of its own.
type Served struct {
	*Program
	URL, AdminURL string
	// Config is the path of its bridge.yaml.
	Config string
	Client *http.Client
}

// Serve makes a bridge8x8 serve that uses a NATS and a sandbox; it is not
// started. yaml is its configuration, Routes if empty; env is laid over its
// environment. It keeps its addresses when it is started again, and the sandbox
// posts its receipts there.
func Serve(t testing.TB, natsURL string, box *SandboxProgram, yaml string, env map[string]string) *Served {
	t.Helper()
	if yaml == "" {
		yaml = Routes
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "bridge.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	public, admin := FreeAddr(t), FreeAddr(t)
	environ := map[string]string{
		"NATS_URL": natsURL, "BRIDGE_CONFIG": path, "BRIDGE_DATA_DIR": filepath.Join(dir, "data"),
		"BRIDGE_HTTP_ADDR": public, "BRIDGE_ADMIN_ADDR": admin, "LOG_FORMAT": "text",
		"MEMBRANE_API_URL": box.URL, "MEMBRANE_TOKEN": sandbox.Token, "MEMBRANE_CONNECTION": sandbox.ConnectionKey,
	}
	maps.Copy(environ, env)
	box.Control("webhook", `{"url":"http://`+public+`/webhooks/8x8"}`)
	return &Served{
		Program: NewProgram(t, environ, "serve"),
		URL:     "http://" + public, AdminURL: "http://" + admin, Config: path, Client: Client(t),
	}
}

// Itself makes it the program of the test that calls it, instead of the one that
// is shipped: its TestMain sees that name in the environment, with that value,
// and serves with whatever hooks the test needs.
func (s *Served) Itself(name, value string) *Served {
	s.t.Helper()
	path, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	s.path, s.args, s.env = path, nil, append(s.env, name+"="+value)
	return s
}

// AwaitReady waits until it takes events.
func (s *Served) AwaitReady() {
	s.t.Helper()
	s.awaitUp("the bridge", func() error { return ready(s.t.Context(), s.Client, s.AdminURL) })
}

// Get asks its admin listener.
func (s *Served) Get(path string) Answer {
	s.t.Helper()
	return s.do(http.MethodGet, s.AdminURL+path, "")
}

// Post posts to its public listener.
func (s *Served) Post(path, body string, header ...string) Answer {
	s.t.Helper()
	return s.do(http.MethodPost, s.URL+path, body, header...)
}

func (s *Served) do(method, url, body string, header ...string) Answer {
	s.t.Helper()
	answer, err := Do(s.t.Context(), s.Client, method, url, body, header...)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer
}
