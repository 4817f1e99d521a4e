//go:build unix

package chaos_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
)

// TestUpgrade lets older bridges and newer ones, which write everything in a newer
// format, share the work under load, and then ends the older ones. Nothing is
// repeated, lost or misread: what the newer ones have written, the older ones
// leave alone. Guarantees 1 and 2.
//
// The newer program is this one with every format one higher. With
// BRIDGE_UPGRADE_FROM, the path of an older program, that one is the older one, and
// this one as it is the newer.
//
// Short: 300 events. Long: 5,000.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 8005, form(300, 5000), true)
	server := bridgetest.NATSServerConfig(t, synced)
	w.connect(server.URL)
	older, newer := bridgetest.Binary(t), bridgetest.NextBinary(t)
	if from := os.Getenv("BRIDGE_UPGRADE_FROM"); from != "" {
		older, newer = from, bridgetest.Binary(t)
	}
	w.binary = older
	w.serve(2, server.URL, nil)
	published := w.publish(form(6*time.Second, time.Minute))
	some := func(share int) {
		w.await(fmt.Sprintf("%d %% of the effects", share), time.Minute, func() error {
			if n := len(w.box.Effects()); n < len(w.pairs)*share/100 {
				return fmt.Errorf("%d effects of %d", n, len(w.pairs))
			}
			return nil
		})
	}
	some(20)
	w.binary = newer
	w.serve(2, server.URL, nil)
	some(60) // side by side
	both := w.versions()
	for _, r := range w.bridges[:2] {
		if code := r.Terminate(); code != 0 {
			t.Errorf("an older bridge ended with exit code %d, want 0", code)
		}
	}
	published()
	v := w.judge(form(time.Minute, 10*time.Minute), false)
	t.Logf("records by version while both ran: %v, and in the end: %v; %s", both, w.versions(), v)
	if older != os.Getenv("BRIDGE_UPGRADE_FROM") && (both[1] == 0 || both[3] == 0) {
		t.Errorf("the two did not share the work: records by version %v", both)
	}
	for i, r := range w.bridges {
		for _, misread := range []string{"is no record", "panic", "cannot be read", "malformed"} {
			for _, line := range r.Log.Lines(misread) {
				if !strings.Contains(line, "membrane's answer") { // that is cut off, by a fault
					t.Errorf("bridge %d: %s", i, line)
				}
			}
		}
	}
	w.bridges = w.bridges[2:]
	w.terminate()
}

// versions counts the records in the ledger by the version of their format.
func (w *world) versions() map[int]int {
	w.t.Helper()
	count := map[int]int{}
	err := w.read("KV_BRIDGE_LEDGER", func(m jetstream.Msg) error {
		if key := strings.TrimPrefix(m.Subject(), "$KV.BRIDGE_LEDGER."); strings.Count(key, ".") != 1 || len(key) != 45 {
			return nil
		}
		var rec struct{ V int }
		err := json.Unmarshal(m.Data(), &rec)
		count[rec.V]++
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return count
}
