// Package bus is the bridge's side of NATS: it connects, makes the streams,
// takes messages, settles them, and publishes what comes of them.
package bus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/config"
)

const reconnectWait = 250 * time.Millisecond

// Conn is a connection to NATS and its JetStream.
type Conn struct {
	NC *nats.Conn
	JS jetstream.JetStream
	// Publisher stores what the bridge publishes.
	Publisher *Publisher
	log       *slog.Logger
	// reconnects counts them: what was asked for before one is gone.
	reconnects atomic.Int64
}

// Connect begins to connect and returns at once: a server that is away is
// waited for, for ever. It fails only on what waiting cannot mend, such as a
// credentials file that cannot be read. extra is for an in-process server.
//
// The connection has no reconnect buffer: what cannot be written now fails now,
// and is never sent later behind the back of whoever asked (rule R7).
// changed is told whether the connection is up, whenever that changes; it may be nil.
func Connect(env config.NATSEnv, name string, log *slog.Logger, changed func(up bool), extra ...nats.Option) (*Conn, error) {
	c := &Conn{log: log}
	if changed == nil {
		changed = func(bool) {}
	}
	var publisher atomic.Pointer[Publisher]
	var down atomic.Bool // one line for each change of state
	opts := []nats.Option{
		nats.Name(name), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true), nats.ReconnectBufSize(-1),
		nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(reconnectWait, reconnectWait),
		nats.Timeout(2 * time.Second), nats.SetCustomDialer(dialer{net.Dialer{Timeout: 2 * time.Second}}), nats.PingInterval(10 * time.Second), nats.MaxPingsOutstanding(2),
		nats.ConnectHandler(func(nc *nats.Conn) {
			changed(true)
			if down.Swap(false) {
				log.Info("NATS is here", "server", nc.ConnectedServerName())
			}
		}),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			changed(false)
			if p := publisher.Load(); p != nil {
				p.disconnected()
			}
			if !nc.IsClosed() && !down.Swap(true) {
				log.Warn("NATS is away", "error", text(err))
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			c.reconnects.Add(1)
			changed(true)
			if down.Swap(false) {
				log.Info("NATS is back", "server", nc.ConnectedServerName())
			}
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			if !down.Swap(true) {
				log.Warn("NATS cannot be reached", "error", text(err))
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			log.Warn("NATS reports an error", "error", text(err))
		}),
	}
	auth, err := authOptions(env)
	if err != nil {
		return nil, err
	}
	opts = append(append(opts, auth...), extra...)
	servers := env.URL
	if env.Embedded() {
		servers = "nats://127.0.0.1:4222" // unused: the in-process option replaces the dialling
	}
	if c.NC, err = nats.Connect(servers, opts...); err != nil {
		if bad, ok := errors.AsType[*url.Error](err); ok {
			err = fmt.Errorf("NATS_URL: %w", bad.Err) // the whole would show a password in it
		}
		return nil, fmt.Errorf("connect to NATS: %s", text(err))
	}
	// Where the first attempt does not say why it failed, the next one does.
	if err := c.NC.LastError(); err != nil && !c.NC.IsConnected() && !down.Swap(true) {
		log.Warn("NATS cannot be reached", "error", text(err))
	}
	c.JS, err = jetstream.New(c.NC, jetstream.WithDefaultTimeout(5*time.Second))
	if err == nil {
		c.Publisher, err = newPublisher(c.NC)
	}
	if err != nil {
		c.NC.Close()
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	publisher.Store(c.Publisher)
	return c, nil
}

// text keeps an error on one line, and says something if there is none.
func text(err error) string {
	if err == nil {
		return "the connection was closed"
	}
	return err.Error()
}

func authOptions(env config.NATSEnv) ([]nats.Option, error) {
	var opts []nats.Option
	if env.Creds != "" {
		opts = append(opts, nats.UserCredentials(env.Creds))
	}
	if env.NKey != "" {
		o, err := nats.NkeyOptionFromSeed(env.NKey)
		if err != nil {
			return nil, fmt.Errorf("NATS_NKEY: cannot read a seed from %q", env.NKey)
		}
		opts = append(opts, o)
	}
	if env.Token != "" {
		opts = append(opts, nats.Token(env.Token.Reveal()))
	}
	if env.User != "" {
		opts = append(opts, nats.UserInfo(env.User, env.Password.Reveal()))
	}
	if env.TLSCA != "" {
		opts = append(opts, nats.RootCAs(env.TLSCA))
	}
	if (env.TLSCert == "") != (env.TLSKey == "") {
		return nil, errors.New("NATS_TLS_CERT and NATS_TLS_KEY go together: set both or neither")
	}
	if env.TLSCert != "" {
		opts = append(opts, nats.ClientCert(env.TLSCert, env.TLSKey))
	}
	if env.TLSCA != "" || env.TLSCert != "" {
		opts = append(opts, func(o *nats.Options) error {
			if o.TLSConfig == nil {
				o.TLSConfig = &tls.Config{}
			}
			o.TLSConfig.MinVersion = tls.VersionTLS12
			return nil
		})
	}
	return opts, nil
}

// Close ends the connection. Who waits for a PubAck is told that it is unclear.
func (c *Conn) Close() {
	c.Publisher.close()
	c.NC.Close()
}

// Await waits until JetStream answers, or ctx ends.
func (c *Conn) Await(ctx context.Context) error {
	for {
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := c.JS.AccountInfo(try)
		cancel()
		if err == nil {
			return nil
		}
		if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
			return fmt.Errorf("NATS at %s: %w: start the server with JetStream, or enable it for this account", c.NC.ConnectedUrlRedacted(), err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("NATS did not answer: %w", context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Passing says whether an error is one of a NATS that is away, restarts or
// chooses a leader, so that the same may succeed a little later.
func Passing(err error) bool {
	// No suitable peer (10005): a node is not there yet, or the cluster, which hears
	// of its nodes every few seconds, does not know yet that there is room again.
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && (api.Code == 503 || api.ErrorCode == 10005) {
		return true
	}
	return slices.ContainsFunc([]error{
		context.DeadlineExceeded, nats.ErrTimeout, nats.ErrNoResponders, nats.ErrReconnectBufExceeded, nats.ErrDisconnected,
		nats.ErrConnectionReconnecting, jetstream.ErrNoStreamResponse,
		jetstream.ErrStreamNotFound, // of ours: another replica is making it right now
	}, func(passing error) bool { return errors.Is(err, passing) })
}

// Healthy says whether the connection is up.
func (c *Conn) Healthy() error {
	if c.NC.IsConnected() {
		return nil
	}
	return fmt.Errorf("NATS is %s", c.NC.Status())
}
