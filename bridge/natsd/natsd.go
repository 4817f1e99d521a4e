//go:build !slim

package natsd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/bridge8x8/bridge8x8/bridge/filelock"
)

// Included says whether this build has the server in it: see the tag slim.
const Included = true

// Server is a running embedded NATS server. Its methods may be called by
// several goroutines at once.
type Server struct {
	nats *server.Server
	lock *os.File
	opts Options
	stop sync.Once
}

// Start locks the folder, starts a server on it and returns once it is ready:
// streams are recovered and, with an Addr, the port is bound. The caller must
// Stop it.
func Start(o Options) (*Server, error) {
	if o.Dir == "" {
		return nil, errors.New("embedded NATS needs a folder for its data: set BRIDGE_DATA_DIR")
	}
	if o.Name == "" {
		o.Name = "bridge8x8"
	}
	if o.MaxStore <= 0 {
		o.MaxStore = DefaultMaxStore
	}
	if o.MaxMemory <= 0 {
		o.MaxMemory = DefaultMaxMemory
	}
	if o.MaxPayload <= 0 {
		o.MaxPayload = DefaultMaxPayload
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	host, port, err := listenAddr(o)
	if err != nil {
		return nil, err
	}

	// 0700: events hold phone numbers and texts.
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the folder of the embedded NATS: %w", err)
	}
	// The server itself would let two processes write to one folder.
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}

	ns, err := server.NewServer(&server.Options{
		ServerName:             o.Name,
		Host:                   host,
		Port:                   port,
		DontListen:             o.Addr == "",
		Username:               o.User,
		Password:               o.Password,
		Authorization:          o.Token,
		JetStream:              true,
		StoreDir:               o.Dir,
		JetStreamMaxMemory:     o.MaxMemory,
		JetStreamMaxStore:      o.MaxStore,
		SyncAlways:             !o.Fast,
		MaxPayload:             o.MaxPayload,
		NoSigs:                 true,
		DisableJetStreamBanner: true,
	})
	if err != nil {
		filelock.Unlock(lock)
		return nil, fmt.Errorf("cannot start the embedded NATS on folder %q: %w", o.Dir, err)
	}

	log := &serverLog{to: o.Logger}
	ns.SetLoggerV2(log, false, false, false)
	s := &Server{nats: ns, lock: lock, opts: o}

	// Start returns when all is up or when it gave up. That it gave up shows only
	// in the fatal line it logs: by its own account the server is then running.
	ns.Start()
	if err := log.fatal(); err != nil {
		s.Stop()
		return nil, fmt.Errorf("cannot start the embedded NATS on folder %q: %w", o.Dir, err)
	}
	return s, nil
}

// Option makes nats.Connect reach this server inside the process, without a
// port, whatever URL it is given.
func (s *Server) Option() nats.Option {
	return func(c *nats.Options) error {
		if s.opts.Token != "" {
			c.Token = s.opts.Token
		}
		if s.opts.User != "" {
			c.User, c.Password = s.opts.User, s.opts.Password
		}
		return nats.InProcessServer(s.nats)(c)
	}
}

// Connect opens a connection inside the process. The caller must close it, best
// before Stop.
func (s *Server) Connect(opts ...nats.Option) (*nats.Conn, error) {
	return nats.Connect("", append([]nats.Option{s.Option()}, opts...)...)
}

// Addr is the bound address, or nil if the server listens on nothing.
func (s *Server) Addr() net.Addr {
	if s.opts.Addr == "" {
		return nil
	}
	return s.nats.Addr()
}

// ClientURL is the address for a program on this machine, such as
// nats://127.0.0.1:4222, without credentials. It is empty if the server listens
// on nothing.
func (s *Server) ClientURL() string {
	addr, ok := s.Addr().(*net.TCPAddr)
	if !ok {
		return ""
	}
	host := addr.IP.String()
	if addr.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "nats://" + net.JoinHostPort(host, strconv.Itoa(addr.Port))
}

// MaxStore is what all streams together may take on disk, in bytes.
func (s *Server) MaxStore() int64 { return s.opts.MaxStore }

// Check says whether the server can store: JetStream turns itself off when the
// disk is full, while connections stay up.
func (s *Server) Check(context.Context) error {
	h := s.nats.Healthz(&server.HealthzOptions{JSEnabledOnly: true})
	if h.Error != "" {
		return fmt.Errorf("embedded NATS: %s", h.Error)
	}
	return nil
}

// Stop closes all connections, waits until everything is on disk, and gives
// the folder free. Calling it again does nothing.
func (s *Server) Stop() {
	s.stop.Do(func() {
		s.nats.Shutdown()
		s.nats.WaitForShutdown()
		filelock.Unlock(s.lock)
	})
}

// listenAddr splits Addr for the server's options, in which port -1 is any
// free one and an empty host is every interface.
func listenAddr(o Options) (host string, port int, err error) {
	if o.Addr == "" {
		return "", 0, nil
	}
	host, service, err := net.SplitHostPort(o.Addr)
	if err != nil {
		return "", 0, fmt.Errorf("embedded NATS cannot listen on %q: want host:port, such as 127.0.0.1:4222", o.Addr)
	}
	number, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("embedded NATS cannot listen on %q: the port must be a number from 0 to 65535", o.Addr)
	}
	port = int(number)
	if port == 0 {
		port = server.RANDOM_PORT
	}
	if host == "" {
		host = "127.0.0.1"
	}
	if o.Token == "" && o.User == "" && !o.AllowUnauthenticated && !isLoopback(host) {
		return "", 0, fmt.Errorf("embedded NATS will not listen on %q, where others could send messages without a password: "+
			"set NATS_TOKEN, or NATS_USER and NATS_PASSWORD, or listen on 127.0.0.1", o.Addr)
	}
	return host, port, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
