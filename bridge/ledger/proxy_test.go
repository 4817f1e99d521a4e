package ledger_test

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
	held   bool // nothing reaches the server, until it is let go
	lost   bool // nothing that the server says reaches the client
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
		if p.closed {
			p.mu.Unlock()
			_, _ = client.Close(), server.Close()
			return
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
			for up && p.held && !p.closed {
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

// Hold keeps what the client says from the server.
func (p *proxy) Hold(on bool) {
	p.mu.Lock()
	p.held = on
	p.free.Broadcast()
	p.mu.Unlock()
}

// Lose throws away what the server says.
func (p *proxy) Lose(on bool) {
	p.mu.Lock()
	p.lost = on
	p.mu.Unlock()
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
