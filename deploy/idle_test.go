package deploy_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	maxIdle  = 25_000_000 // bytes of memory
	maxReady = 100 * time.Millisecond
)

// image is the program as the image has it: stripped, and without what the tag
// slim leaves out. It is built once.
var image = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(program), "slim")
	build := exec.Command("go", "build", "-buildvcs=false", "-tags", "slim", "-ldflags", "-s -w", "-o", path, "./cmd/bridge8x8")
	build.Dir, build.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
})

func imageProgram(t *testing.T) string {
	t.Helper()
	path, err := image()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A sidecar that has nothing to do takes little memory, and also the next one,
// which finds its streams there.
func TestIdleSidecar(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("memory is read from /proc")
	}
	idle := idleSidecar(t, 2)
	for _, life := range idle {
		t.Logf("ready after %v, %.1f MB of memory", life.ready, float64(life.memory)/1e6)
		if life.memory > maxIdle {
			t.Errorf("an idle sidecar takes %.1f MB, want at most %.1f MB", float64(life.memory)/1e6, maxIdle/1e6)
		}
	}
}

// How soon a sidecar is ready says nothing on a machine that is busy: it is
// measured by make idle.
func TestReadyTime(t *testing.T) { //nolint:paralleltest // it measures time
	if os.Getenv("BRIDGE_MEASURE") == "" {
		t.Skip("make idle measures this, on a machine that has nothing else to do")
	}
	var times []time.Duration
	var most int64
	for _, life := range idleSidecar(t, 21) {
		times, most = append(times, life.ready), max(most, life.memory)
	}
	first := times[0] // makes the streams
	slices.Sort(times)
	median := times[len(times)/2]
	fmt.Printf("ready after %v (median of %d starts), %v to %v, the first after %v; at most %.1f MB when idle\n",
		median, len(times), times[0], times[len(times)-1], first, float64(most)/1e6)
	if median > maxReady {
		t.Errorf("ready after %v, want at most %v", median, maxReady)
	}
}

type sidecarLife struct {
	ready  time.Duration // from the start of its process to its saying so
	memory int64         // resident, in bytes, when nothing is left to do
}

// idleSidecar starts a sidecar so many times on one NATS server.
func idleSidecar(t *testing.T, times int) []sidecarLife {
	t.Helper()
	nats, public, admin := freeAddr(t), freeAddr(t), freeAddr(t)
	startNATS(t, nats)
	env := map[string]string{
		"NATS_URL": "nats://" + nats, "BRIDGE_CONFIG": "kubernetes/sidecar/bridge.yaml", "BRIDGE_HTTP_ADDR": public, "BRIDGE_ADMIN_ADDR": admin,
		"MEMBRANE_API_URL": "http://127.0.0.1:1", "MEMBRANE_TOKEN": "a-token", // nothing is asked of Membrane
	}
	slim := imageProgram(t)
	// Only what follows counts: neither the server's start, nor the first reading of the program from disk.
	eventually(t, "NATS listens", func() bool {
		conn, err := net.Dial("tcp", nats)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	if out, err := command(t, nil, slim, "version"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var lives []sidecarLife
	for range times {
		ready := &signal{text: []byte("bridge8x8 is ready"), seen: make(chan time.Time, 1)}
		begun := time.Now()
		p := processOf(t, slim, env, ready)
		var life sidecarLife
		select {
		case at := <-ready.seen:
			life.ready = at.Sub(begun)
		case <-time.After(60 * time.Second):
			t.Fatalf("it is not ready after a minute; it said\n%s", p.out)
		}
		// What the start took is given back soon after; what stays is what counts.
		same := 0
		eventually(t, "its memory stays the same", func() bool {
			now := resident(t, p.cmd.Process.Pid)
			if same++; max(now-life.memory, life.memory-now) > 256<<10 {
				same, life.memory = 0, now
			}
			return same == 10
		})
		lives = append(lives, life)
		p.stop(t)
	}
	return lives
}

// signal tells when a text is written for the first time.
type signal struct {
	output
	text []byte
	seen chan time.Time
	told bool
}

func (s *signal) Write(b []byte) (int, error) {
	n, err := s.output.Write(b)
	if s.mu.Lock(); !s.told && bytes.Contains(s.all.Bytes(), s.text) {
		s.told = true
		s.seen <- time.Now()
	}
	s.mu.Unlock()
	return n, err
}

// resident is the memory of a process that is in RAM, in bytes.
func resident(t *testing.T, pid int) int64 {
	t.Helper()
	for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d/status", pid))) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
