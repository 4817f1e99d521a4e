//go:build unix

package chaos_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
)

// TestKillLeader runs on a cluster of three with BRIDGE_REPLICAS=3, and kills
// the node that leads the ledger again and again. In the middle one node is cut
// off from the bridges, though not from its peers: what they say to it is held
// back, and arrives when the way is free again. Guarantees 1, 2, 3 and 5, rules
// R7 and R13.
//
// Short: 150 events, one kill, no cut. Long: 5,000 events, a kill every 10 s,
// eight in all, and a cut of 30 s, which is longer than a client takes to notice.
func TestKillLeader(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 8003, form(150, 5000), true)
	nodes := bridgetest.NATSCluster(t)
	urls, cuts := make([]string, len(nodes)), make([]*cut, len(nodes))
	direct := make([]string, len(nodes))
	for i, n := range nodes {
		cuts[i] = startCut(t, n.Addr())
		urls[i], direct[i] = cuts[i].URL(), n.URL
	}
	w.connect(direct...)
	w.serve(3, strings.Join(urls, ","), map[string]string{"BRIDGE_REPLICAS": "3"})
	for _, stream := range []string{"KV_BRIDGE_LEDGER", "BRIDGE_EVENTS", "BRIDGE_RESULTS", "BRIDGE_DEAD", "BRIDGE_WAIT"} {
		st, err := w.js.Stream(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		if n := st.CachedInfo().Config.Replicas; n != 3 {
			t.Errorf("stream %s has %d replicas, want 3", stream, n)
		}
	}

	kills, every := form(1, 8), form(2*time.Second, 10*time.Second)
	published := w.publish(time.Duration(kills+1) * every)
	tick := time.NewTicker(every)
	defer tick.Stop()
	var heal <-chan time.Time
	var off *cut
	for i := range kills {
		for {
			select {
			case <-heal:
				off.Hold(false)
				heal = nil
				continue
			case <-tick.C:
			}
			break
		}
		if long() && i == 2 {
			at := w.rand.IntN(len(cuts))
			off = cuts[at]
			t.Logf("node n%d is cut off from the bridges, with %d connections", at, off.Hold(true))
			heal = time.After(30 * time.Second)
		}
		leader := w.leader("KV_BRIDGE_LEDGER")
		node := nodes[leader]
		node.Kill()
		away := time.NewTimer(form(time.Second, 3*time.Second))
		<-away.C
		node.Start()
	}
	if heal != nil {
		<-heal
		off.Hold(false)
	}
	published()
	effects := len(w.box.Effects())
	v := w.judge(form(time.Minute, 10*time.Minute), false)
	t.Logf("%d kills of the leader, with %d of %d effects by then: %s", kills, effects, len(w.pairs), v)
	w.terminate()
}

// leader is the number of the node that leads a stream.
func (w *world) leader(stream string) (n int) {
	w.t.Helper()
	w.await("a leader of "+stream, time.Minute, func() error {
		st, err := w.js.Stream(w.t.Context(), stream)
		if err != nil {
			return err
		}
		c := st.CachedInfo().Cluster
		if c == nil || c.Leader == "" {
			return errors.New("there is none")
		}
		_, err = fmt.Sscanf(c.Leader, "n%d", &n)
		return err
	})
	return n
}

// cut is the way between the bridges and one node. While it is held, nothing
// passes either way, and no connection ends: as when a network loses what is sent.
type cut struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu     sync.Mutex
	moved  sync.Cond
	held   bool
	closed bool
	conns  map[net.Conn]bool
}

func startCut(t *testing.T, target string) *cut {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cut{listener: listener, target: target, conns: map[net.Conn]bool{}}
	c.moved.L = &c.mu
	c.wg.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			c.wg.Go(func() { c.carry(client) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		c.mu.Lock()
		c.closed = true
		for conn := range c.conns {
			_ = conn.Close()
		}
		c.moved.Broadcast()
		c.mu.Unlock()
		c.wg.Wait()
	})
	return c
}

// URL is where clients find the node.
func (c *cut) URL() string { return "nats://" + c.listener.Addr().String() }

// Hold stops what passes, or lets it go. It returns how many connections there are.
func (c *cut) Hold(on bool) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = on
	c.moved.Broadcast()
	return len(c.conns) / 2
}

// free waits until something may pass. It is false at the end.
func (c *cut) free() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.held && !c.closed {
		c.moved.Wait()
	}
	return !c.closed
}

func (c *cut) carry(client net.Conn) {
	defer client.Close()
	if !c.free() {
		return
	}
	server, err := net.DialTimeout("tcp", c.target, 2*time.Second)
	if err != nil {
		return
	}
	defer server.Close()
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.conns[client], c.conns[server] = true, true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.conns, client)
		delete(c.conns, server)
		c.mu.Unlock()
	}()
	var both sync.WaitGroup
	both.Go(func() { c.copy(server, client) })
	both.Go(func() { c.copy(client, server) })
	both.Wait()
}

// copy ends the connection when one side does, once what that had said has arrived.
func (c *cut) copy(to, from net.Conn) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if !c.free() {
			return
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
