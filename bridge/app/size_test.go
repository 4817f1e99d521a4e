//go:build linux

package app_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

// TestSizes measures what an event costs a nats-server: bytes in each stream, on
// the disk, and of its memory. deploy/nats.md has the figures, of
//
//	BRIDGE_SIZES=10000 go test -run TestSizes -v ./bridge/app
//
// With few events, as in every run, it holds the page to what the streams say.
func TestSizes(t *testing.T) { //nolint:paralleltest // it measures when it is asked to
	if os.Getenv("BRIDGE_SIZES") == "" {
		t.Parallel()
	}
	events := 200
	if n, err := strconv.Atoi(os.Getenv("BRIDGE_SIZES")); err == nil {
		events = n
	}
	dir := t.TempDir()
	server := bridgetest.NATSServerConfig(t, fmt.Sprintf("server_name: test\njetstream { store_dir: %q }", dir))
	b := watch(t, server.URL)
	box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1})
	bridgetest.Start(t, bridgetest.Options{Env: map[string]string{"NATS_URL": server.URL}, Sandbox: box})
	box.SetWebhook("", "") // a receipt is an event like any other
	idle := resident(t, server.PID())
	ids := numbered("evt-0000-0000", events)
	var sends []func() error
	for _, id := range ids {
		sends = append(sends, func() error {
			_, err := b.js.Publish(t.Context(), "bridge.events.com.acme.order.shipped", []byte(structured(id)))
			return err
		})
	}
	if err := together(8, sends); err != nil {
		t.Fatal(err)
	}
	bridgetest.Await(t, "the results", func() error { return b.atLeast("BRIDGE_RESULTS", events) })
	b.awaitIdle()
	page, err := os.ReadFile(filepath.Join(root, "deploy/nats.md"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d events of %d bytes each:", events, len(structured(ids[0])))
	for _, stream := range []string{"BRIDGE_EVENTS", "BRIDGE_RESULTS", "KV_BRIDGE_LEDGER"} {
		st, err := b.js.Stream(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		state := st.CachedInfo().State
		each := int(state.Bytes / state.Msgs)
		t.Logf("%-18s %6d bytes a message, %d messages", stream, each, state.Msgs)
		said := 0
		for line := range strings.Lines(string(page)) {
			if cells := strings.Split(line, "|"); len(cells) > 3 && strings.Contains(cells[1], "`"+stream+"`") {
				said, _ = strconv.Atoi(strings.Fields(cells[3])[0])
			}
		}
		if said < each*4/5 || said > each*5/4 {
			t.Errorf("deploy/nats.md says %d bytes for a message of %s, and it is %d", said, stream, each)
		}
	}
	var disk int64
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				disk += info.Size()
			}
		}
		return nil
	})
	t.Logf("%-18s %6d bytes an event", "on disk", disk/int64(events))
	t.Logf("%-18s %6d bytes an event: %d KiB resident, %d before", "memory", (resident(t, server.PID())-idle)/events, resident(t, server.PID())>>10, idle>>10)
}

// resident is a process' memory in bytes.
func resident(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
