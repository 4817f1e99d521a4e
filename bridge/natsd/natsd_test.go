//go:build !slim

package natsd_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/bridge8x8/bridge8x8/bridge/natsd"
)

// holdDir tells a child process of these tests to run a server on that folder,
// to say so on its output, and to wait for its input to end.
const holdDir = "NATSD_TEST_HOLD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(holdDir); dir != "" {
		os.Exit(hold(dir))
	}
	goleak.VerifyTestMain(m)
}

func hold(dir string) int {
	s, err := natsd.Start(natsd.Options{Dir: dir})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if err := store(s, "from the child"); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	s.Stop()
	return 0
}

// start runs a server for one test.
func start(t *testing.T, o natsd.Options) *natsd.Server {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s, err := natsd.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func connect(t *testing.T, s *natsd.Server) *nats.Conn {
	t.Helper()
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// store writes one message to a file stream that it makes if need be.
func store(s *natsd.Server, text string) error {
	return withStream(s, func(ctx context.Context, js jetstream.JetStream, _ jetstream.Stream) error {
		_, err := js.Publish(ctx, "kept.it", []byte(text))
		return err
	})
}

// stored reads the stream's messages back.
func stored(t *testing.T, s *natsd.Server) []string {
	t.Helper()
	var texts []string
	err := withStream(s, func(ctx context.Context, _ jetstream.JetStream, stream jetstream.Stream) error {
		info, err := stream.Info(ctx)
		if err != nil {
			return err
		}
		for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
			msg, err := stream.GetMsg(ctx, seq)
			if err != nil {
				return err
			}
			texts = append(texts, string(msg.Data))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

func withStream(s *natsd.Server, do func(context.Context, jetstream.JetStream, jetstream.Stream) error) error {
	nc, err := s.Connect()
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	stream, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: "KEPT", Subjects: []string{"kept.>"}, Storage: jetstream.FileStorage,
	})
	if err != nil {
		return err
	}
	return do(ctx, js, stream)
}

func TestRestartKeepsMessages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i, text := range []string{"first", "second"} {
		s := start(t, natsd.Options{Dir: dir})
		if err := store(s, text); err != nil {
			t.Fatalf("run %d: %v", i, err)
		}
		s.Stop()
		s.Stop() // again does nothing
	}
	s := start(t, natsd.Options{Dir: dir})
	if diff := cmp.Diff([]string{"first", "second"}, stored(t, s)); diff != "" {
		t.Errorf("messages after two restarts (-want +got):\n%s", diff)
	}
}

// What a killed process had been promised is there for the next one, and its
// lock is gone with it.
func TestKilledProcessLosesNothingAndFreesTheFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	child := startChild(t, dir)

	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // "signal: killed"
	s := start(t, natsd.Options{Dir: dir})
	if diff := cmp.Diff([]string{"from the child"}, stored(t, s)); diff != "" {
		t.Errorf("messages after the kill (-want +got):\n%s", diff)
	}
}

func TestFolderIsLockedAgainstASecondProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	child := startChild(t, dir)

	_, err := natsd.Start(natsd.Options{Dir: dir})
	want := fmt.Sprintf("folder %q is in use by process %d: stop it, or give this one another BRIDGE_DATA_DIR", dir, child.Process.Pid)
	if err == nil || err.Error() != want {
		t.Errorf("second process:\n got error %v\nwant error %s", err, want)
	}
}

func TestFolderIsLockedAgainstASecondStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := start(t, natsd.Options{Dir: dir})

	_, err := natsd.Start(natsd.Options{Dir: dir})
	want := fmt.Sprintf("folder %q is in use by process %d: stop it, or give this one another BRIDGE_DATA_DIR", dir, os.Getpid())
	if err == nil || err.Error() != want {
		t.Errorf("second start:\n got error %v\nwant error %s", err, want)
	}
	first.Stop()
	start(t, natsd.Options{Dir: dir})
}

// startChild runs a server on dir in another process and returns once it has
// stored a message.
func startChild(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), holdDir+"="+dir)
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = child.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("child said %q (%v), want ready", line, err)
	}
	return child
}

func TestListensOnNothingUnlessTold(t *testing.T) {
	t.Parallel()
	s := start(t, natsd.Options{Fast: true})
	if s.Addr() != nil || s.ClientURL() != "" {
		t.Errorf("without Addr: Addr() = %v, ClientURL() = %q, want none", s.Addr(), s.ClientURL())
	}
	if err := connect(t, s).Flush(); err != nil {
		t.Errorf("inside the process: %v", err)
	}
}

func TestListensWhereTold(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"127.0.0.1:0", ":0", "localhost:0"} {
		t.Run(addr, func(t *testing.T) {
			t.Parallel()
			s := start(t, natsd.Options{Addr: addr, Fast: true})
			if tcp, ok := s.Addr().(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() || tcp.Port == 0 {
				t.Fatalf("Addr() = %v, want a port on loopback", s.Addr())
			}
			if want := "nats://" + s.Addr().String(); s.ClientURL() != want {
				t.Errorf("ClientURL() = %q, want %q", s.ClientURL(), want)
			}
			outside, err := nats.Connect(s.ClientURL())
			if err != nil {
				t.Fatal(err)
			}
			defer outside.Close()
			sub, err := outside.SubscribeSync("hello")
			if err != nil {
				t.Fatal(err)
			}
			if err := outside.Flush(); err != nil {
				t.Fatal(err)
			}
			if err := connect(t, s).Publish("hello", []byte("from inside")); err != nil {
				t.Fatal(err)
			}
			msg, err := sub.NextMsg(10 * time.Second)
			if err != nil || string(msg.Data) != "from inside" {
				t.Errorf("got %v (%v), want the message from inside", msg, err)
			}
		})
	}
}

func TestCredentialsGuardThePortAndAreShownFromInside(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		options natsd.Options
		login   nats.Option
	}{
		"token":             {natsd.Options{Token: "let-me-in"}, nats.Token("let-me-in")},
		"user and password": {natsd.Options{User: "bo", Password: "let-me-in"}, nats.UserInfo("bo", "let-me-in")},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.options.Addr, test.options.Fast = "0.0.0.0:0", true
			s := start(t, test.options)
			if !strings.HasPrefix(s.ClientURL(), "nats://127.0.0.1:") {
				t.Errorf("ClientURL() = %q, want one that can be dialled", s.ClientURL())
			}
			if nc, err := nats.Connect(s.ClientURL()); !errors.Is(err, nats.ErrAuthorization) {
				if nc != nil {
					nc.Close()
				}
				t.Errorf("without credentials: got %v, want %v", err, nats.ErrAuthorization)
			}
			outside, err := nats.Connect(s.ClientURL(), test.login)
			if err != nil {
				t.Fatalf("with credentials: %v", err)
			}
			outside.Close()
			connect(t, s)
		})
	}
}

func TestStartRefuses(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	tests := map[string]struct {
		options natsd.Options
		want    string
	}{
		"no folder": {
			natsd.Options{},
			"embedded NATS needs a folder for its data: set BRIDGE_DATA_DIR",
		},
		"no port": {
			natsd.Options{Dir: dir, Addr: "localhost"},
			`embedded NATS cannot listen on "localhost": want host:port, such as 127.0.0.1:4222`,
		},
		"named port": {
			natsd.Options{Dir: dir, Addr: "localhost:nats"},
			`embedded NATS cannot listen on "localhost:nats": the port must be a number from 0 to 65535`,
		},
		"every interface without a password": {
			natsd.Options{Dir: dir, Addr: "0.0.0.0:4222"},
			`embedded NATS will not listen on "0.0.0.0:4222", where others could send messages without a password: ` +
				`set NATS_TOKEN, or NATS_USER and NATS_PASSWORD, or listen on 127.0.0.1`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := natsd.Start(test.options)
			if err == nil || err.Error() != test.want {
				t.Errorf("\n got error %v\nwant error %s", err, test.want)
			}
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("it made its folder all the same (%v)", err)
			}
		})
	}
}

func TestUnusableFolder(t *testing.T) {
	t.Parallel()

	t.Run("a file stands in its place", func(t *testing.T) {
		t.Parallel()
		dir := filepath.Join(t.TempDir(), "data")
		writeFile(t, dir)
		_, err := natsd.Start(natsd.Options{Dir: dir})
		want := "cannot make the folder of the embedded NATS: mkdir " + dir + ": not a directory"
		if err == nil || err.Error() != want {
			t.Errorf("\n got error %v\nwant error %s", err, want)
		}
	})

	// NewServer does not see this, and the server would say that it runs.
	t.Run("a file stands where JetStream stores", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, "jetstream"))
		_, err := natsd.Start(natsd.Options{Dir: dir})
		prefix := fmt.Sprintf("cannot start the embedded NATS on folder %q: can't start JetStream: ", dir)
		if err == nil || !strings.HasPrefix(err.Error(), prefix) {
			t.Fatalf("\n got error %v\nwant error %s…", err, prefix)
		}
		// It left nothing behind that would be in the way of the next try.
		if err := os.Remove(filepath.Join(dir, "jetstream")); err != nil {
			t.Fatal(err)
		}
		start(t, natsd.Options{Dir: dir})
	})
}

func writeFile(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestPortInUse(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()

	_, err = natsd.Start(natsd.Options{Dir: dir, Addr: taken.Addr().String()})
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("got error %v, want one that wraps EADDRINUSE", err)
	}
	if !strings.Contains(err.Error(), taken.Addr().String()) {
		t.Errorf("error %q does not name %s", err, taken.Addr())
	}
	start(t, natsd.Options{Dir: dir}) // the folder is free again
}

func TestLimits(t *testing.T) {
	t.Parallel()
	s := start(t, natsd.Options{MaxStore: 1 << 20, MaxPayload: 2048, Fast: true})
	if s.MaxStore() != 1<<20 {
		t.Errorf("MaxStore() = %d, want %d", s.MaxStore(), 1<<20)
	}
	nc := connect(t, s)
	if nc.MaxPayload() != 2048 {
		t.Errorf("clients see a largest message of %d bytes, want 2048", nc.MaxPayload())
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "BIG", Subjects: []string{"big"}, MaxBytes: 1 << 21})
	apiError, ok := errors.AsType[*jetstream.APIError](err)
	if !ok || apiError.ErrorCode != 10047 { // insufficient storage resources available
		t.Errorf("a stream beyond the store limit: got %v, want error code 10047", err)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	s := start(t, natsd.Options{Fast: true})
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("while it runs: %v", err)
	}
	s.Stop()
	if err := s.Check(t.Context()); err == nil {
		t.Error("after it stopped: got no error")
	}
}

// The server's lines arrive at our levels, and a fatal one does not end the
// process.
func TestLogs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "jetstream"))
	var out bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if _, err := natsd.Start(natsd.Options{Dir: dir, Logger: logger}); err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{
		`level=DEBUG msg="embedded NATS: Starting nats-server"`,
		`level=ERROR msg="embedded NATS: Can't start JetStream:`,
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("log has no line with %s:\n%s", want, out.String())
		}
	}
}
