package bus

import (
	"net"
	"sync"
	"testing"
)

// proxy stands between a client and NATS, and can hold back what passes, lose
// it, or cut the connections.
type proxy struct {
	listener net.Listener
	target   string
	done     sync.WaitGroup

	mu     sync.Mutex
	free   sync.Cond
	up     bool // nothing reaches the server, until it is let go
	down   bool // nothing reaches the client, until it is let go
	lost   bool // nothing that the server says reaches the client
	away   bool // new connections are cut at once
	closed bool
	open   map[net.Conn]struct{}
}

func startProxy(t *testing.T, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, target: target, open: map[net.Conn]struct{}{}}
	p.free.L = &p.mu
	p.done.Go(p.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		p.mu.Lock()
		p.closed = true
		p.free.Broadcast()
		p.mu.Unlock()
		p.Cut()
		p.done.Wait()
	})
	return p
}

func (p *proxy) URL() string { return "nats://" + p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		if p.closed || p.away {
			p.mu.Unlock()
			_, _ = client.Close(), server.Close()
			continue
		}
		p.open[client], p.open[server] = struct{}{}, struct{}{}
		p.mu.Unlock()
		p.done.Go(func() { p.copy(server, client, true) })
		p.done.Go(func() { p.copy(client, server, false) })
	}
}

func (p *proxy) copy(to, from net.Conn, up bool) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			p.mu.Lock()
			for (up && p.up || !up && p.down) && !p.closed {
				p.free.Wait()
			}
			lose := !up && p.lost
			p.mu.Unlock()
			if !lose {
				if _, err := to.Write(buf[:n]); err != nil {
					return
				}
			}
		}
		if err != nil {
			return
		}
	}
}

// Hold keeps what the client says from the server, and what the server says
// from the client.
func (p *proxy) Hold(up, down bool) {
	p.mu.Lock()
	p.up, p.down = up, down
	p.free.Broadcast()
	p.mu.Unlock()
}

// Lose throws away what the server says.
func (p *proxy) Lose(on bool) {
	p.mu.Lock()
	p.lost = on
	p.mu.Unlock()
}

// Away cuts all connections, and new ones, until it is told otherwise.
func (p *proxy) Away(on bool) {
	p.mu.Lock()
	p.away = on
	p.mu.Unlock()
	if on {
		p.Cut()
	}
}

// Cut ends all connections; new ones are taken.
func (p *proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		_ = c.Close()
		delete(p.open, c)
	}
}
