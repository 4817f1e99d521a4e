//go:build slim

package natsd

import (
	"context"
	"errors"
	"net"

	"github.com/nats-io/nats.go"
)

// Included says whether this build has the server in it: see the tag slim.
const Included = false

// Server is none: its methods are here to be compiled, and Start never makes one.
type Server struct{}

var errNone = errors.New("there is no embedded NATS in this build, which was made with the tag slim: give NATS_URL a server's address")

// Start refuses.
func Start(Options) (*Server, error) { return nil, errNone }

// What follows is that of the server that is not there.

// Option changes nothing.
func (*Server) Option() nats.Option { return func(*nats.Options) error { return nil } }

// Rotate refuses.
func (*Server) Rotate(_, _ string) error { return errNone }

// Connect refuses.
func (*Server) Connect(...nats.Option) (*nats.Conn, error) { return nil, errNone }

// Addr is none.
func (*Server) Addr() net.Addr { return nil }

// ClientURL is none.
func (*Server) ClientURL() string { return "" }

// MaxStore is nothing.
func (*Server) MaxStore() int64 { return 0 }

// Check refuses.
func (*Server) Check(context.Context) error { return errNone }

// Stop does nothing.
func (*Server) Stop() {}
