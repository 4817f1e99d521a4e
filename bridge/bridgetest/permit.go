package bridgetest

import (
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/bridge8x8/bridge8x8/bridge/app"
	"github.com/bridge8x8/bridge8x8/config"
)

// Whatever runs against a nats-server of a test is a user with exactly the
// permissions that are documented for it, and no more. The test itself, and who
// brings other credentials, may do everything.

// openDoor is the configuration of a server's users: who shows nothing is "test".
const openDoor = "no_auth_user: test\nauthorization {users: [\n  {user: test, password: test}\n%s]}\n"

// servers are the nats-servers of all tests of this process.
var servers struct {
	mu  sync.Mutex
	all []*NATS
}

// users are who a server knows, by their permissions.
type users struct {
	file string // "" if the test's own configuration says who may what
	by   map[string]string
}

// enter makes a server known, until its test ends.
func (n *NATS) enter() {
	servers.mu.Lock()
	defer servers.mu.Unlock()
	servers.all = append(servers.all, n)
	n.t.Cleanup(func() {
		servers.mu.Lock()
		defer servers.mu.Unlock()
		for i, other := range servers.all {
			if other == n {
				servers.all = append(servers.all[:i], servers.all[i+1:]...)
				return
			}
		}
	})
}

// permit makes a user for a command of bridge8x8 on each server of the test, with
// the least permissions that it needs, and adds its name to the environment.
func permit(t testing.TB, environ map[string]string, command string, file *config.File) {
	t.Helper()
	for _, own := range []string{"NATS_USER", "NATS_TOKEN", "NATS_CREDS", "NATS_NKEY"} {
		if environ[own] != "" {
			return
		}
	}
	env, problems := config.LoadEnv(maps.Clone(environ))
	if problems.Errors() || env.NATS.Embedded() {
		return // the command will say so itself
	}
	var list []app.Permission
	switch access := app.Access(&env, file); command {
	case "serve":
		list = access.Serve()
	case "send":
		list = access.Send()
	case "tail":
		list = access.Tail()
	case "trace":
		list = access.Trace()
	case "dead":
		list = access.Letters()
	default:
		return
	}
	permissions := app.PermissionsConfig(list)
	servers.mu.Lock()
	defer servers.mu.Unlock()
	for _, n := range servers.all {
		if n.users.file != "" && (t.Name() == n.t.Name() || strings.HasPrefix(t.Name(), n.t.Name()+"/")) {
			environ["NATS_USER"] = n.admit(t, permissions)
			environ["NATS_PASSWORD"] = "bridge"
		}
	}
}

// admit makes a user where there is none with the same permissions, and returns its name.
func (n *NATS) admit(t testing.TB, permissions string) string {
	t.Helper()
	name := n.users.by[permissions]
	if name != "" {
		return name
	}
	name = fmt.Sprintf("bridge-%d", len(n.users.by))
	n.users.by[permissions] = name
	n.writeUsers(t)
	if !n.Running() {
		return name
	}
	const done = "Reloaded server configuration"
	before := len(n.Log.Lines(done))
	if err := n.life.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	Await(t, "the server to know "+name, func() error {
		if len(n.Log.Lines(done)) == before {
			return fmt.Errorf("its log ends with: %s", n.Log.tail(3))
		}
		return nil
	})
	return name
}

func (n *NATS) writeUsers(t testing.TB) {
	t.Helper()
	var entries strings.Builder
	for permissions, name := range n.users.by {
		fmt.Fprintf(&entries, "  {user: %s, password: bridge, %s}\n", name, permissions)
	}
	if err := os.WriteFile(n.users.file, fmt.Appendf(nil, openDoor, entries.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}
