// Package bus is the bridge's side of NATS: it connects, makes the streams,
// takes messages, settles them, and publishes what comes of them.
package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
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
	domain    string // of JetStream; "" for the server's own
	api       string // prefix of the subjects of JetStream's API
	denials   denials
	dialer    *dialer
	awaits    atomic.Pointer[error] // why JetStream does not answer, where that is known
	// reconnects counts them: what was asked for before one is gone.
	reconnects atomic.Int64
	connected  atomic.Pointer[nats.Conn] // NC, for what may happen before Connect ends
}

// Connect begins to connect and returns at once: a server that is away is
// waited for, for ever. It fails only on what waiting cannot mend, such as a
// credentials file that cannot be read. extra is for an in-process server.
//
// The connection has no reconnect buffer: what cannot be written now fails now,
// and is never sent later behind the back of whoever asked (rule R7).
// changed is told whether the connection is up, whenever that changes; it may be nil.
func Connect(env config.NATSEnv, name string, log *slog.Logger, changed func(up bool), extra ...nats.Option) (*Conn, error) {
	c := &Conn{log: log, domain: env.JSDomain, api: apiPrefix(env.JSDomain)}
	c.dialer = &dialer{Dialer: net.Dialer{Timeout: 2 * time.Second}, conn: c, nkey: env.NKey}
	if changed == nil {
		changed = func(bool) {}
	}
	var publisher atomic.Pointer[Publisher]
	var down atomic.Bool // one line for each change of state
	opts := []nats.Option{
		nats.Name(name), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true), nats.ReconnectBufSize(-1),
		nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(reconnectWait, reconnectWait),
		nats.Timeout(2 * time.Second), nats.SetCustomDialer(c.dialer), nats.PingInterval(10 * time.Second), nats.MaxPingsOutstanding(2),
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
				log.Warn("NATS is away", "error", Text(err))
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
				log.Warn("NATS cannot be reached", "error", Text(err))
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			denied := c.denials.explain(err)
			if denied == nil {
				log.Warn("NATS reports an error", "error", Text(err))
				return
			}
			if p := publisher.Load(); p != nil && denied.Verb == Publish {
				p.denied(denied)
			}
			if c.refused(denied) {
				log.Error("a permission is missing on NATS", "error", Text(denied))
			}
		}),
		// A secret that is refused today is another tomorrow, or is on its way: it was
		// changed at the server first.
		nats.IgnoreAuthErrorAbort(),
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
		return nil, fmt.Errorf("connect to NATS: %s", Text(err))
	}
	// Where the first attempt does not say why it failed, the next one does.
	if err := c.NC.LastError(); err != nil && !c.NC.IsConnected() && !down.Swap(true) {
		log.Warn("NATS cannot be reached", "error", Text(err))
	}
	c.JS, err = c.jetStream(c.domain)
	if err == nil {
		c.Publisher, err = newPublisher(c.NC)
	}
	if err != nil {
		c.NC.Close()
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	publisher.Store(c.Publisher)
	c.connected.Store(c.NC)
	return c, nil
}

func (c *Conn) jetStream(domain string) (jetstream.JetStream, error) {
	timeout := jetstream.WithDefaultTimeout(5 * time.Second)
	if domain == "" {
		return jetstream.New(c.NC, timeout)
	}
	return jetstream.NewWithDomain(c.NC, domain, timeout)
}

// StreamIn is how a stream of another JetStream domain is called here; a stream
// of ours, with an empty domain, by its name alone. A stream's name has no dots.
func StreamIn(domain, stream string) string {
	if domain == "" {
		return stream
	}
	return domain + "." + stream
}

// place is where a stream is, by what StreamIn calls it.
func (c *Conn) place(stream string) (js jetstream.JetStream, api, name string, err error) {
	domain, name, elsewhere := strings.Cut(stream, ".")
	if !elsewhere {
		return c.JS, c.api, stream, nil
	}
	js, err = c.jetStream(domain)
	return js, apiPrefix(domain), name, err
}

// signInRefused says whether a server does not take our credentials.
func signInRefused(err error) bool {
	return slices.ContainsFunc([]error{
		nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired,
		nats.ErrNkeysNotSupported,
	}, func(refusal error) bool { return errors.Is(err, refusal) })
}

// Text is an error of the connection in words for an operator, on one line.
func Text(err error) string {
	const variables = "NATS_USER and NATS_PASSWORD, NATS_TOKEN, NATS_CREDS or NATS_NKEY"
	unknown, isUnknown := errors.AsType[x509.UnknownAuthorityError](err)
	switch {
	case err == nil:
		return "the connection was closed"
	case signInRefused(err):
		// The client writes the server's own word in capitals, and its own for it without.
		return fmt.Sprintf("the server refuses our credentials (%s): %s", variables, strings.ToLower(strings.TrimPrefix(err.Error(), "nats: ")))
	case isUnknown:
		return fmt.Sprintf("the server's certificate is signed by an authority that NATS_TLS_CA does not name: %v", unknown)
	case strings.Contains(err.Error(), "remote error: tls:"): // an alert of the server's has no type
		return "the server wants a client certificate that it trusts (NATS_TLS_CERT and NATS_TLS_KEY): " + err.Error()
	case errors.Is(err, nats.ErrSecureConnRequired):
		return "the server requires TLS: write tls:// in NATS_URL, or set NATS_TLS_CA"
	case errors.Is(err, nats.ErrSecureConnWanted):
		return "the server offers no TLS, which NATS_URL or NATS_TLS_CA ask for"
	}
	return err.Error()
}

func authOptions(env config.NATSEnv) ([]nats.Option, error) {
	var opts []nats.Option
	if env.Creds != "" {
		if _, err := os.Stat(env.Creds); err != nil {
			return nil, fmt.Errorf("NATS_CREDS: cannot read %q", env.Creds)
		}
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

// Credentials asks for a token, or a user's password, anew whenever the connection
// is made again, so that the newest is shown. What files hold (credentials, NKeys,
// certificates) is read anew in any case.
func Credentials(newest func() config.NATSEnv) nats.Option {
	return func(o *nats.Options) error {
		for _, server := range o.Servers {
			if strings.Contains(server, "@") {
				return nil // what an address says comes first, and stays
			}
		}
		if o.Token != "" {
			o.Token, o.TokenHandler = "", func() string { return newest().Token.Reveal() }
		}
		if o.User != "" {
			o.User, o.Password = "", ""
			o.UserInfo = func() (user, password string) {
				e := newest()
				return e.User, e.Password.Reveal()
			}
		}
		return nil
	}
}

// Close ends the connection. Who waits for a PubAck is told that it is unclear.
func (c *Conn) Close() {
	c.Publisher.close()
	c.NC.Close()
	c.dialer.close()
}

// Await waits until JetStream answers, or ctx ends. An impatient one waits for no
// server that has refused its credentials.
func (c *Conn) Await(ctx context.Context, impatient bool) error {
	return c.Permitted(ctx, func(ctx context.Context) error { return c.await(ctx, impatient) })
}

// Awaits is why JetStream does not answer, where that is known; else nil.
func (c *Conn) Awaits() error {
	if why := c.awaits.Load(); why != nil {
		return *why
	}
	return nil
}

func (c *Conn) await(ctx context.Context, impatient bool) error {
	for {
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := c.JS.AccountInfo(try)
		cancel()
		if err == nil {
			c.awaits.Store(nil)
			return nil
		}
		if refused := c.NC.LastError(); impatient && signInRefused(refused) {
			return errors.New(Text(refused))
		}
		if c.domain != "" && errors.Is(err, jetstream.ErrJetStreamNotEnabled) {
			away := fmt.Errorf("no JetStream answers in the domain %q of NATS_JS_DOMAIN: is it the right one, and the leaf node connected?", c.domain)
			c.awaits.Store(&away)
		} else if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
			return fmt.Errorf("NATS at %s: %w: start the server with JetStream, or enable it for this account", c.NC.ConnectedUrlRedacted(), err)
		}
		select {
		case <-ctx.Done():
			if err := c.Awaits(); err != nil {
				return err
			}
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
		errAsked,
		jetstream.ErrStreamNotFound, // of ours: another replica is making it right now
	}, func(passing error) bool { return errors.Is(err, passing) })
}

// Healthy says whether the connection is up.
func (c *Conn) Healthy() error {
	if c.NC.IsConnected() {
		return nil
	}
	if err := c.NC.LastError(); signInRefused(err) {
		return fmt.Errorf("NATS is %s: %s", c.NC.Status(), Text(err))
	}
	return fmt.Errorf("NATS is %s", c.NC.Status())
}
