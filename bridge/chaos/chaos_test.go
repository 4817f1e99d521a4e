//go:build unix

package chaos_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
)

// synced is a server that has on disk what it says that it stored.
const synced = `jetstream { store_dir: "{{dir}}", sync_interval: always }`

// TestKillBridge kills one of three replicas every 300 ms, and stops and
// continues another, while events flow. Guarantees 1, 2 and 5.
//
// Short: 400 events, kills for 4 s. Long: 5,000 events, kills for a minute,
// pauses of up to 20 s, which is longer than others wait before they hold.
func TestKillBridge(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 8001, form(400, 5000), true)
	server := bridgetest.NATSServerConfig(t, synced)
	w.connect(server.URL)
	w.serve(3, server.URL, nil)
	over := form(4*time.Second, time.Minute)
	published := w.publish(over)

	pauses := form([]time.Duration{300 * time.Millisecond, 1500 * time.Millisecond}, []time.Duration{300 * time.Millisecond, time.Second, 6 * time.Second, 20 * time.Second})
	var paused *replica
	var until time.Time
	kills, stops := 0, 0
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(over); time.Now().Before(end); <-tick.C {
		if paused != nil && time.Now().After(until) {
			paused.Signal(syscall.SIGCONT)
			paused = nil
		}
		// Two of the three, whatever the other may do.
		order := w.rand.Perm(len(w.bridges))
		victim, other, pause := w.bridges[order[0]], w.bridges[order[1]], pauses[w.rand.IntN(len(pauses))]
		if victim == paused {
			victim = other
		}
		if paused == nil {
			other.Signal(syscall.SIGSTOP)
			paused, until = other, time.Now().Add(pause)
			stops++
		}
		victim.Kill()
		victim.Start()
		kills++
	}
	if paused != nil {
		paused.Signal(syscall.SIGCONT)
	}
	published()
	effects := len(w.box.Effects())
	v := w.judge(form(time.Minute, 10*time.Minute), true)
	t.Logf("%d kills and %d stops, with %d of %d effects by then: %s", kills, stops, effects, len(w.pairs), v)
	w.terminate()
}

// TestKillServer kills the one nats-server again and again while events flow;
// it syncs every write. Since no bridge dies, nothing may be held but what is
// hidden. Guarantees 1, 2, 3 and 5, rule R7.
//
// Short: 300 events, two kills. Long: 5,000 events, ten kills.
func TestKillServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 8002, form(300, 5000), true)
	server := bridgetest.NATSServerConfig(t, synced)
	w.connect(server.URL)
	w.serve(3, server.URL, nil)
	kills, every := form(2, 10), form(1500*time.Millisecond, 5*time.Second)
	published := w.publish(time.Duration(kills+1) * every)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for range kills {
		<-tick.C
		server.Kill()
		away := time.NewTimer(time.Duration(w.rand.Int64N(int64(form(time.Second, 3*time.Second)))))
		<-away.C
		server.Start()
	}
	published()
	effects := len(w.box.Effects())
	v := w.judge(form(time.Minute, 10*time.Minute), false)
	t.Logf("%d kills, with %d of %d effects by then: %s", kills, effects, len(w.pairs), v)
	w.terminate()
}

// terminate ends the bridges as a deploy does; each must end well.
func (w *world) terminate() {
	w.t.Helper()
	for i, r := range w.bridges {
		if code := r.Terminate(); code != 0 {
			w.t.Errorf("bridge %d ended with exit code %d, want 0", i, code)
		}
	}
}
