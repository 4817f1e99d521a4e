package app_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/app"
	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/config"
)

// poisonVariable makes the test program a bridge that dies whenever it maps the
// pair with that key.
const poisonVariable = "BRIDGE8X8_TEST_POISON"

const poisonExit = 86

// servePoisoned is bridge8x8 serve, but for the mapping that ends the process.
// What it had claimed by then it sees through first: what a death leaves in
// doubt is not what the test is about.
func servePoisoned(poison bridge.Key) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	environ := map[string]string{}
	for _, line := range os.Environ() {
		name, value, _ := strings.Cut(line, "=")
		environ[name] = value
	}
	env, problems := config.LoadEnv(environ)
	if problems.Errors() {
		log.Error("environment", "problems", problems)
		return 2
	}
	var mu sync.Mutex
	changed := sync.NewCond(&mu)
	claimed, dying := 0, false
	hook := func(step string, key bridge.Key) {
		mu.Lock()
		defer mu.Unlock()
		switch step {
		case "mapping":
			if key == poison {
				dying = true
				for claimed > 0 {
					changed.Wait()
				}
				os.Exit(poisonExit)
			}
			for dying {
				changed.Wait()
			}
		case "claimed":
			claimed++
		case "published":
			claimed--
			changed.Broadcast()
		}
	}
	a, err := app.New(app.Options{Env: env, Version: "test", Logger: log, Hook: hook})
	if err != nil {
		log.Error("start", "error", err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := a.Run(ctx); err != nil {
		log.Error("run", "error", err)
		return 1
	}
	return 0
}

// One event among others takes every process down that maps it. It ends as a
// dead letter that says so; all the others end as if it had never been (R14).
func TestEventThatKillsTheProcess(t *testing.T) {
	t.Parallel()
	server := bridgetest.NATSServer(t)
	box := bridgetest.StartSandbox(t)
	key := bridge.NewKey(bridge.EventHash("/shop", "evt-020"), "order-shipped", 0)
	served := bridgetest.Serve(t, server.URL, box, "", quick).Itself(poisonVariable, string(key))
	served.Start()
	served.AwaitReady()
	b := watch(t, server.URL)
	ids := numbered("evt", 60)
	publishOrders(t, b, ids)

	deaths := 0
	bridgetest.Await(t, "all outcomes, the process being started whenever it has died", func() error {
		if !served.Running() {
			if code := served.Wait(); code != poisonExit {
				t.Fatalf("it ended with exit code %d", code)
			}
			deaths++
			served.Start()
		}
		if n := b.count("BRIDGE_RESULTS") + b.count("BRIDGE_DEAD"); n < len(ids) {
			return fmt.Errorf("%d outcomes after %d deaths", n, deaths)
		}
		return nil
	})
	b.awaitIdle()

	// A run that was claimed and not sent when the process died is held; nobody could
	// tell it from one that was sent. It had no effect, and is not repeated.
	var poisoned []letter
	held := map[string]bool{}
	for _, l := range b.letters() {
		if strings.HasSuffix(l.Subject, ".outcome_unknown") {
			held[l.Header.Get("Bridge8x8-Cause-Id")] = true
		} else {
			poisoned = append(poisoned, l)
		}
	}
	others := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return id == "evt-020" || held[id] })
	if err := errors.Join(
		expectCounts(once(others), counts(b.results())),
		expectCounts(once(others), counts(bridgetest.ByEvent(box.Effects()))),
	); err != nil {
		t.Error(err)
	}
	if len(poisoned) != 1 || poisoned[0].Subject != "bridge.dead._.malformed" || poisoned[0].Data != structured("evt-020") ||
		!strings.Contains(poisoned[0].Header.Get("Bridge8x8-Message"), "the process that decoded and mapped it ended") {
		t.Errorf("dead letters: %v", poisoned)
	}
	if deaths < 2 || deaths > 5 {
		t.Errorf("%d processes died of it, want 3 deliveries that are not marked and 2 that are", deaths)
	}
	// Nothing accuses the others, or will be kept.
	marks := map[string]bool{}
	for _, m := range b.messages("KV_BRIDGE_LEDGER", "$KV.BRIDGE_LEDGER.suspect.>") {
		if len(m.Data()) > 0 {
			marks[m.Subject()] = true
			if m.Headers().Get("Nats-TTL") == "" {
				t.Errorf("%s is kept for ever", m.Subject())
			}
		}
	}
	if len(marks) != 1 {
		t.Errorf("marked in the end: %v", slices.Collect(maps.Keys(marks)))
	}
	if code := served.Terminate(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if diff := cmp.Diff(1+len(held), b.count("BRIDGE_DEAD")); diff != "" {
		t.Error(diff)
	}
	t.Logf("%d processes died of it; %d other events had one effect and one result each, %d were held", deaths, len(others), len(held))
}
