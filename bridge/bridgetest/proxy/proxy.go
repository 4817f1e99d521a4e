// Package proxy stands between a client and NATS, and can hold back what
// passes, lose it, or cut the connections.
package proxy

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
)

// Proxy is one that listens.
type Proxy struct {
	listener net.Listener
	target   string
	swallow  func(subject string, payload []byte) bool
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

// Start listens for clients of the server at target, until the test ends.
func Start(t testing.TB, target string) *Proxy {
	t.Helper()
	return StartSwallowing(t, target, nil)
}

// StartSwallowing is a proxy that loses those of the server's messages of which
// swallow says so. It is asked for one message after the other of a connection;
// payload holds the headers, too.
func StartSwallowing(t testing.TB, target string, swallow func(subject string, payload []byte) bool) *Proxy {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: listener, target: target, swallow: swallow, open: map[net.Conn]struct{}{}}
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

// URL is where clients connect.
func (p *Proxy) URL() string { return "nats://" + p.listener.Addr().String() }

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target) //nolint:noctx // it ends with the listener of a test
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
		p.done.Go(func() { p.copy(server, client, true, chunks(client)) })
		down := chunks(server)
		if p.swallow != nil {
			down = p.messages(server)
		}
		p.done.Go(func() { p.copy(client, server, false, down) })
	}
}

func (p *Proxy) copy(to, from net.Conn, up bool, next func() ([]byte, error)) {
	defer func() { _, _ = to.Close(), from.Close() }()
	for {
		part, err := next()
		if len(part) > 0 {
			p.mu.Lock()
			for (up && p.up || !up && p.down) && !p.closed {
				p.free.Wait()
			}
			lose := !up && p.lost
			p.mu.Unlock()
			if !lose {
				if _, err := to.Write(part); err != nil {
					return
				}
			}
		}
		if err != nil {
			return
		}
	}
}

// chunks reads whatever comes.
func chunks(from io.Reader) func() ([]byte, error) {
	buf := make([]byte, 32<<10)
	return func() ([]byte, error) {
		n, err := from.Read(buf)
		return buf[:n], err
	}
}

// messages reads one line of the protocol after the other, each with the
// message that it announces, but for the messages that are swallowed.
// source: docs.nats.io, the client protocol
func (p *Proxy) messages(from io.Reader) func() ([]byte, error) {
	r := bufio.NewReaderSize(from, 64<<10)
	return func() ([]byte, error) {
		line, err := r.ReadBytes('\n')
		words := bytes.Fields(line)
		if err != nil || len(words) < 4 || !bytes.Equal(words[0], []byte("MSG")) && !bytes.Equal(words[0], []byte("HMSG")) {
			return line, err
		}
		size, err := strconv.Atoi(string(words[len(words)-1]))
		if err != nil {
			return line, nil //nolint:nilerr // the client will say what is wrong with it
		}
		body := make([]byte, size+len("\r\n"))
		if _, err := io.ReadFull(r, body); err != nil {
			return line, err
		}
		if p.swallow(string(words[1]), body[:size]) {
			return nil, nil
		}
		return append(line, body...), nil
	}
}

// Hold keeps what the client says from the server, and what the server says
// from the client.
func (p *Proxy) Hold(up, down bool) {
	p.mu.Lock()
	p.up, p.down = up, down
	p.free.Broadcast()
	p.mu.Unlock()
}

// Lose throws away what the server says.
func (p *Proxy) Lose(on bool) {
	p.mu.Lock()
	p.lost = on
	p.mu.Unlock()
}

// Away cuts all connections, and new ones, until it is told otherwise.
func (p *Proxy) Away(on bool) {
	p.mu.Lock()
	p.away = on
	p.mu.Unlock()
	if on {
		p.Cut()
	}
}

// Cut ends all connections; new ones are taken.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		_ = c.Close()
		delete(p.open, c)
	}
}
