package bridgetest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// NATSServerConfig starts the nats-server that go.mod names with a
// configuration of the test's own, to which its address and the folder of its
// store, {{dir}}, are added. Killed and started again, it has the same address
// and what it had stored.
func NATSServerConfig(t testing.TB, conf string) *NATS {
	t.Helper()
	n := newNATSServer(t, conf)
	n.Start()
	return n
}

func newNATSServer(t testing.TB, conf string) *NATS {
	t.Helper()
	dir, addr := t.TempDir(), FreeAddr(t)
	n := &NATS{
		URL: "nats://" + addr, addr: addr, conf: filepath.Join(dir, "nats.conf"), store: filepath.ToSlash(filepath.Join(dir, "store")),
		users: users{by: map[string]string{}},
	}
	n.Program = newProgram(t, "nats-server", build(t, "nats-server", natsPackage), nil, "--config", n.conf)
	if !ownUsers.MatchString(conf) {
		n.users.file = filepath.Join(dir, "users.conf")
		n.writeUsers(t)
		conf += "\ninclude users.conf"
	}
	n.write(conf)
	n.enter()
	return n
}

// ownUsers finds a configuration that says itself who may what.
var ownUsers = regexp.MustCompile(`(?m)^\s*(authorization|accounts|operator|no_auth_user)\b`)

func (n *NATS) write(conf string) {
	n.t.Helper()
	conf = fmt.Sprintf("listen: %q\n%s\n", n.addr, strings.ReplaceAll(conf, "{{dir}}", n.store))
	if err := os.WriteFile(n.conf, []byte(conf), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

// Reconfigure gives a server that runs another configuration.
func (n *NATS) Reconfigure(conf string) {
	n.t.Helper()
	reloads := len(n.Log.Lines("Reloaded server configuration"))
	n.write(conf)
	n.Signal(syscall.SIGHUP)
	Await(n.t, "the server to take its new configuration", func() error {
		if len(n.Log.Lines("Reloaded server configuration")) == reloads {
			return errors.New("it has not")
		}
		return nil
	})
}

// NATSCluster starts three servers that replicate JetStream, each a process of
// its own, named n0, n1 and n2. A client knows only the addresses that it was
// given: none is told of the others.
func NATSCluster(t testing.TB) []*NATS {
	t.Helper()
	const size = 3
	var own, routes [size]string
	for i := range size {
		own[i] = FreeAddr(t)
		routes[i] = fmt.Sprintf("%q", "nats-route://"+own[i])
	}
	nodes := make([]*NATS, size)
	for i := range nodes {
		nodes[i] = newNATSServer(t, fmt.Sprintf(`
			server_name: "n%d"
			jetstream { store_dir: "{{dir}}", max_file_store: 8GB }
			cluster { name: test, listen: %q, no_advertise: true, routes: [%s] }`, i, own[i], strings.Join(routes[:], ", ")))
		nodes[i].Start()
	}
	return nodes
}

// Addr is the host and port that a server listens on.
func (n *NATS) Addr() string { return n.addr }
