package deploy_test

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A pod's life, as a kubelet leads it after the chart: the sidecar starts, then
// the application, once the startup probe holds; the application posts, and gets
// its outcome at its own endpoint; it ends with its last events just posted, and
// only then the sidecar, which finishes within its grace what it has begun. What
// it has not, the next pod's finishes. Nothing is lost, and nothing sent twice.
func TestPodLife(t *testing.T) {
	t.Parallel()
	c := loadChart(t, "shop")
	c.AddDependency(loadChart(t, "bridge8x8"))
	manifests, err := render(t, c, "")
	if err != nil {
		t.Fatal(err)
	}
	pod := pods(t, objects(t, manifests))[0]
	grace, err := time.ParseDuration(pod.env("BRIDGE_GRACE"))
	if err != nil {
		t.Fatal(err)
	}
	server, box, public, admin, outcomes := freeAddr(t), freeAddr(t), freeAddr(t), freeAddr(t), freeAddr(t)
	startNATS(t, server)
	start(t, nil, "sandbox", "--addr", box, "--latency", "300ms")
	env := map[string]string{
		"NATS_URL": "nats://" + server, "BRIDGE_CONFIG": "compose/bridge.yaml", "BRIDGE_HTTP_ADDR": public, "BRIDGE_ADMIN_ADDR": admin,
		"MEMBRANE_API_URL": "http://" + box, "MEMBRANE_TOKEN": "pat-sandbox", "BRIDGE_GRACE": grace.String(), "BRIDGE_CONCURRENCY": "4",
		"BRIDGE_SINK_URL": "http://" + outcomes + "/outcomes",
	}
	app := filepath.Join(t.TempDir(), "shop")
	if out, err := exec.Command("go", "build", "-o", app, "./examples/go").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	holds := func(words []string) bool {
		_, err := command(t, map[string]string{"BRIDGE_ADMIN_ADDR": admin}, imageProgram(t), words[1:]...)
		return err == nil
	}

	sidecar := process(t, env)
	eventually(t, "the startup probe holds", func() bool { return holds(pod.bridge.StartupProbe.Exec.Command) })
	// The application starts now, whether the bridge is ready or not: it posts until its event is taken.
	shop := exec.Command(app, "first", "+12025550111")
	shop.Env = environ(map[string]string{"EVENTS_URL": "http://" + public + "/events", "OUTCOMES_ADDR": outcomes})
	said := new(output)
	shop.Stdout, shop.Stderr = said, said
	if err := shop.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the readiness probe holds", func() bool { return holds(pod.bridge.ReadinessProbe.Exec.Command) })
	if err := shop.Wait(); err != nil || strings.TrimSpace(said.String()) != "com.8x8.action.send-sms.succeeded shipped-first" {
		t.Fatalf("the application: %v, it said %q", err, said)
	}
	if !holds(pod.bridge.LivenessProbe.Exec.Command) {
		t.Error("the liveness probe fails")
	}

	// The application's last events, and its end. preStop, which only sleeps, has run meanwhile.
	const last = 20
	for i := range last {
		if code := postOrder(t, public, i); code != http.StatusAccepted {
			t.Fatalf("event %d is answered %d", i, code)
		}
	}
	eventually(t, "some are under way", func() bool { return len(effects(t, box)) > 1 })
	begun := time.Now()
	sidecar.stop(t)
	if took := time.Since(begun); took > grace {
		t.Errorf("it took %v to end, with a grace of %v", took, grace)
	}
	// What it had begun it has finished: each message that was sent has its result.
	sent := effects(t, box)
	if len(sent) == last+1 {
		t.Error("it ended with nothing left: this test shows nothing of the next one")
	}
	if results := streamMessages(t, server, "BRIDGE_RESULTS"); results != len(sent) {
		t.Errorf("it ended in good order with %d messages sent, and %d results", len(sent), results)
	}

	next := process(t, env)
	eventually(t, "every event has its result", func() bool { return streamMessages(t, server, "BRIDGE_RESULTS") >= last+1 })
	next.stop(t)
	sent = effects(t, box)
	slices.Sort(sent)
	if once := slices.Compact(slices.Clone(sent)); len(once) != last+1 || len(sent) != last+1 {
		t.Errorf("%d messages were sent, %d different ones, want %d: %q", len(sent), len(once), last+1, sent)
	}
	for stream, want := range map[string]int{"BRIDGE_RESULTS": last + 1, "BRIDGE_DEAD": 0, "BRIDGE_WAIT": 0} {
		if n := streamMessages(t, server, stream); n != want {
			t.Errorf("%d messages in %s, want %d", n, stream, want)
		}
	}
}

// streamMessages is how many messages a stream has.
func streamMessages(t *testing.T, server, stream string) int {
	t.Helper()
	nc, err := nats.Connect("nats://" + server)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(fmt.Errorf("%s: %w", stream, err))
	}
	return int(s.CachedInfo().State.Msgs)
}
