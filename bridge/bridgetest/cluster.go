package bridgetest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
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
	path := filepath.Join(dir, "nats.conf")
	n := &NATS{URL: "nats://" + addr, addr: addr, users: users{by: map[string]string{}}}
	if !ownUsers.MatchString(conf) {
		n.users.file = filepath.Join(dir, "users.conf")
		n.writeUsers(t)
		conf += "\ninclude users.conf"
	}
	conf = fmt.Sprintf("listen: %q\n%s\n", addr, strings.ReplaceAll(conf, "{{dir}}", filepath.ToSlash(filepath.Join(dir, "store"))))
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Program = newProgram(t, "nats-server", build(t, "nats-server", natsPackage), nil, "--config", path)
	n.enter()
	return n
}

// ownUsers finds a configuration that says itself who may what.
var ownUsers = regexp.MustCompile(`(?m)^\s*(authorization|accounts|operator|no_auth_user)\b`)

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
