package deploy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A sidecar's life, as a kubelet leads it by the probes of the chart: it starts
// before anything else is there, is alive but not ready, becomes ready, takes
// the application's last events, and ends within its grace with events in hand.
// The next one finishes them: each is sent once.
func TestSidecarLife(t *testing.T) {
	t.Parallel()
	c := loadChart(t, "shop")
	c.AddDependency(loadChart(t, "bridge8x8"))
	manifests, err := render(t, c, "")
	if err != nil {
		t.Fatal(err)
	}
	probes := pods(t, objects(t, manifests))[0].bridge
	nats, box, public, admin := freeAddr(t), freeAddr(t), freeAddr(t), freeAddr(t)
	env := map[string]string{
		"NATS_URL": "nats://" + nats, "BRIDGE_CONFIG": "compose/bridge.yaml", "BRIDGE_HTTP_ADDR": public, "BRIDGE_ADMIN_ADDR": admin,
		"MEMBRANE_API_URL": "http://" + box, "MEMBRANE_TOKEN": "pat-sandbox", "BRIDGE_GRACE": "300ms", "BRIDGE_CONCURRENCY": "4", "BRIDGE_ACK_WAIT": "2s",
	}
	probe := func(words []string) (string, error) {
		return command(t, map[string]string{"BRIDGE_ADMIN_ADDR": admin}, program, words[1:]...)
	}

	first := process(t, env)
	eventually(t, "it lives", func() bool { _, err := probe(probes.StartupProbe.Exec.Command); return err == nil })
	if out, err := probe(probes.ReadinessProbe.Exec.Command); err == nil || !strings.HasPrefix(out, "not ready\n") {
		t.Errorf("without NATS: %v, %q", err, out)
	}
	if code := postOrder(t, public, 0); code != http.StatusServiceUnavailable {
		t.Errorf("without NATS an event is answered %d, want 503", code)
	}

	start(t, nil, "sandbox", "--addr", box, "--latency", "500ms")
	startNATS(t, nats)
	eventually(t, "it is ready", func() bool { _, err := probe(probes.ReadinessProbe.Exec.Command); return err == nil })

	const orders = 12
	for i := range orders {
		if code := postOrder(t, public, i); code != http.StatusAccepted {
			t.Fatalf("event %d is answered %d", i, code)
		}
	}
	eventually(t, "some are sent", func() bool { return len(effects(t, box)) > 0 })
	begun := time.Now()
	first.stop(t)
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it took %v to end, with a grace of 300ms", took)
	}
	if n := len(effects(t, box)); n == orders {
		t.Error("it ended with nothing in hand: this test shows nothing")
	}

	second := process(t, env)
	eventually(t, "all are sent", func() bool { return len(effects(t, box)) >= orders })
	seen := map[string]int{}
	for _, text := range effects(t, box) {
		seen[text]++
	}
	for text, times := range seen {
		if times != 1 {
			t.Errorf("%q was sent %d times", text, times)
		}
	}
	if len(seen) != orders {
		t.Errorf("%d of %d were sent: %v", len(seen), orders, seen)
	}
	second.stop(t)
}

// natsServer is the version that the program is built with. It is built once.
var natsServer = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(program), "nats-server")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", path, "github.com/nats-io/nats-server/v2")
	build.Dir, build.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
})

// startNATS runs a nats-server with JetStream there.
func startNATS(t *testing.T, addr string) {
	t.Helper()
	server, err := natsServer()
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(server, "--addr", "127.0.0.1", "--port", port, "--jetstream", "--store_dir", t.TempDir())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

func postOrder(t *testing.T, public string, i int) int {
	t.Helper()
	body := fmt.Sprintf(`{"specversion":"1.0","id":"%d","source":"/shop","type":"com.acme.order.shipped","subject":"%d","data":{"customer":{"name":"Bo","phone":"+12025550111"}}}`, i, i)
	response, err := http.Post("http://"+public+"/events", "application/cloudevents+json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

// effects are the texts that the sandbox has sent.
func effects(t *testing.T, box string) []string {
	t.Helper()
	response, err := http.Get("http://" + box + "/_sandbox/effects")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		Items []struct{ Input struct{ Text string } }
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, item := range answer.Items {
		texts = append(texts, item.Input.Text)
	}
	return texts
}

// bridgeProcess is a bridge that a test ends when it wants.
type bridgeProcess struct {
	cmd   *exec.Cmd
	out   words
	ended chan error
}

// words are what a process said.
type words interface {
	io.Writer
	fmt.Stringer
}

// process is the image's program.
func process(t *testing.T, env map[string]string) *bridgeProcess {
	t.Helper()
	return processOf(t, imageProgram(t), env, new(output))
}

func processOf(t *testing.T, program string, env map[string]string, out words) *bridgeProcess {
	t.Helper()
	p := &bridgeProcess{cmd: exec.Command(program, "serve"), out: out, ended: make(chan error, 1)}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = environ(env), p.out, p.out
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("serve said\n%s", p.out)
		}
	})
	return p
}

// stop ends it as a kubelet does.
func (p *bridgeProcess) stop(t *testing.T) {
	t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-p.ended:
		if err != nil {
			t.Errorf("SIGTERM: %v\n%s", err, p.out)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("SIGTERM did not end it in 30 s\n%s", p.out)
	}
}
