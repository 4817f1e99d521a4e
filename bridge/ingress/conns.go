package ingress

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Connections bounds how many connections a listener has at a time. At that many, a
// new one takes the place of another of whoever holds the most: of one on which no
// request is under way, if there is any, the longest so first. So a flood, or a
// crowd that sends its headers a byte at a time, drives out itself, and somebody
// who holds few connections always gets in.
type Connections struct {
	net.Listener
	most int

	mu   sync.Mutex
	open map[*connection]struct{}
	of   map[netip.Addr]int
}

type connection struct {
	net.Conn
	all  *Connections
	from netip.Addr
	once sync.Once

	// Guarded by all.mu.
	busy  bool // a request is under way
	since time.Time
}

// NewConnections bounds what l accepts. Its State is for http.Server.ConnState.
func NewConnections(l net.Listener, most int) *Connections {
	return &Connections{Listener: l, most: most, open: map[*connection]struct{}{}, of: map[netip.Addr]int{}}
}

// Accept waits for a connection for which there is room.
func (l *Connections) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &connection{Conn: raw, all: l, since: time.Now()}
		if addr, err := netip.ParseAddrPort(raw.RemoteAddr().String()); err == nil {
			c.from = network(addr.Addr().Unmap().WithZone(""))
		}
		gone, ok := l.admit(c)
		if gone != nil {
			_ = gone.Close()
		}
		if ok {
			return c, nil
		}
		_ = raw.Close()
	}
}

// admit takes c in; gone is the connection that has to go for it.
func (l *Connections) admit(c *connection) (gone *connection, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) >= l.most {
		if gone = l.inTheWay(c); gone == nil {
			return nil, false
		}
		l.remove(gone)
	}
	l.open[c] = struct{}{}
	l.of[c.from]++
	return gone, true
}

func (l *Connections) inTheWay(c *connection) *connection {
	most := 0
	for _, n := range l.of {
		most = max(most, n)
	}
	own := l.of[c.from]
	var idle, busy *connection
	for o := range l.open {
		switch {
		case own >= most && o.from != c.from, own < most && l.of[o.from] != most:
		case !o.busy && (idle == nil || o.since.Before(idle.since)):
			idle = o
		case o.busy && own+1 < most && (busy == nil || o.since.Before(busy.since)):
			busy = o
		}
	}
	if idle != nil {
		return idle
	}
	return busy
}

func (l *Connections) remove(c *connection) {
	if _, there := l.open[c]; !there {
		return
	}
	delete(l.open, c)
	if l.of[c.from]--; l.of[c.from] == 0 {
		delete(l.of, c.from)
	}
}

// State is told on which connections requests are under way.
func (l *Connections) State(raw net.Conn, state http.ConnState) {
	if secured, ok := raw.(interface{ NetConn() net.Conn }); ok {
		raw = secured.NetConn()
	}
	c, ok := raw.(*connection)
	if !ok || state != http.StateActive && state != http.StateIdle {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c.busy, c.since = state == http.StateActive, time.Now()
}

// Close makes room.
func (c *connection) Close() (err error) {
	c.once.Do(func() {
		c.all.mu.Lock()
		c.all.remove(c)
		c.all.mu.Unlock()
		err = c.Conn.Close()
	})
	return err
}
