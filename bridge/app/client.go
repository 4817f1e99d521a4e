package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/bus"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/config"
)

// Client is a tool's way to a bridge, over the bus alone: it publishes events
// and watches what comes of them.
type Client struct {
	conn  *bus.Conn
	names bus.Names
	own   bool
	// Of the bridge, as far as its settings are known.
	prefix    string
	retention time.Duration
	// Of DialAsBridge.
	env  config.Env
	file *config.File
}

// Dial connects to the bus that a bridge uses. It fails if NATS does not answer before ctx ends.
func Dial(ctx context.Context, env config.Env) (*Client, error) {
	names, access := bus.NewNames(env.Bridge.Prefix), Access(&env, nil)
	return dial(ctx, &env, names.ToolInbox(), slices.Concat(access.Send(), access.Tail(), access.Trace(), access.Letters()))
}

// DialAsBridge connects as the bridge itself would, with the file that it would
// have, so that can be asked whether all that it needs is there.
func DialAsBridge(ctx context.Context, env config.Env, file *config.File) (*Client, error) {
	c, err := dial(ctx, &env, bus.NewNames(env.Bridge.Prefix).Inbox(), Access(&env, file).Serve())
	if err == nil {
		c.env, c.file = env, file
	}
	return c, err
}

func dial(ctx context.Context, env *config.Env, inbox string, needs []Permission) (*Client, error) {
	if env.NATS.Embedded() {
		return nil, fmt.Errorf("NATS_URL=embedded runs inside the bridge: set NATS_URL to its BRIDGE_NATS_ADDR, or use --http")
	}
	conn, err := bus.Connect(env.NATS, "bridge8x8 client", slog.New(slog.DiscardHandler), nil, nats.CustomInboxPrefix(inbox))
	if err != nil {
		return nil, err
	}
	conn.Expect(needs)
	if err := conn.Await(ctx, true); err != nil {
		why := conn.NC.LastError()
		conn.Close()
		at := config.MaskURL(env.NATS.URL)
		switch {
		case !errors.Is(err, context.DeadlineExceeded):
			return nil, fmt.Errorf("NATS at %s: %w", at, err)
		case why != nil:
			return nil, fmt.Errorf("NATS at %s cannot be reached: %s: is it running, and is NATS_URL right?", at, bus.Text(why))
		}
		return nil, fmt.Errorf("NATS at %s does not answer: is it running, and is NATS_URL right?", at)
	}
	return &Client{conn: conn, names: bus.NewNames(env.Bridge.Prefix), own: true, prefix: env.Bridge.Prefix, retention: env.Bridge.Retention}, nil
}

// CheckPermissions says which of the bridge's permissions its user lacks; a note
// says that the server does not tell.
func (c *Client) CheckPermissions(ctx context.Context) (note string, err error) {
	missing, err := c.conn.Missing(ctx, Access(&c.env, c.file).Serve())
	switch {
	case err != nil:
		return "the server does not tell what this user may: what is missing shows when it is used", nil //nolint:nilerr // that is no trouble
	case len(missing) > 0:
		return "", &bus.MissingError{Missing: missing}
	}
	return "", nil
}

// CheckStreams says how the streams that are there differ from what the bridge
// needs. Those that it makes itself may be missing.
func (c *Client) CheckStreams(ctx context.Context) error {
	return c.conn.Permitted(ctx, func(ctx context.Context) error {
		return c.conn.CheckStreams(ctx, WantedStreams(&c.env, 0), c.file.Streams != config.StreamsExisting)
	})
}

// Client is a client of this very bridge.
func (a *App) Client() *Client {
	return &Client{conn: a.conn, names: a.names, prefix: a.o.Env.Bridge.Prefix, retention: a.o.Env.Bridge.Retention}
}

// Close ends a client's own connection.
func (c *Client) Close() {
	if c.own {
		c.conn.Close()
	}
}

// Send stores an event where the bridge takes events from.
func (c *Client) Send(ctx context.Context, e cloudevent.Event) error {
	header, data, err := cloudevent.ToNATS(&e, cloudevent.Structured)
	if err != nil {
		return err
	}
	return c.conn.Permitted(ctx, func(ctx context.Context) error {
		return bus.Intake{Conn: c.conn, Names: c.names}.Accept(ctx, []cloudevent.Message{{Event: e, Header: header, Data: data}})
	})
}

// Seen is something that happened.
type Seen struct {
	What  What
	Event cloudevent.Event // a result, an event from 8x8, or the original of a dead letter
	// Of a result, whatever its route makes it look like.
	Action string
	Failed bool
	// Of a dead letter.
	Reason, Route, Message string
	// Malformed says that a dead letter's original is no CloudEvent; Event is empty.
	Malformed bool
}

// What is a kind of Seen.
type What string

// The kinds of Seen.
const (
	SawResult     What = "result"
	SawFrom8x8    What = "8x8"
	SawDeadLetter What = "dead letter"
)

// Causation is the id of the event that e answers.
func Causation(e *cloudevent.Event) (source, id string) {
	source, _ = e.Extensions()["causationsource"].(string)
	id, _ = e.Extensions()["causationid"].(string)
	return source, id
}

// Follow calls each for everything that happens from now on. It returns once
// it is watching; each is called one at a time per kind.
func (c *Client) Follow(ctx context.Context, each func(Seen)) (stop func(), err error) {
	err = c.conn.Permitted(ctx, func(ctx context.Context) (err error) {
		stop, err = c.follow(ctx, each)
		return err
	})
	if err != nil && stop != nil {
		stop()
	}
	return stop, err
}

func (c *Client) follow(ctx context.Context, each func(Seen)) (stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, s := range stops {
			s()
		}
	}
	for _, w := range []struct {
		what    What
		stream  string
		subject string
	}{
		{SawResult, c.names.Results(), c.names.AllResults()},
		{SawFrom8x8, c.names.Events(), c.names.FromEightByEight()},
		{SawDeadLetter, c.names.Dead(), c.names.AllDead()},
	} {
		one, err := c.conn.Watch(ctx, w.stream, []string{w.subject}, func(m bus.Watched) {
			seen := Seen{What: w.what}
			e, err := cloudevent.FromNATS(m.Header, m.Data)
			seen.Event, seen.Malformed = e, err != nil
			switch w.what {
			case SawDeadLetter:
				seen.Reason, seen.Route, seen.Message = first(m.Header, bus.HeaderReason), first(m.Header, bus.HeaderRoute), first(m.Header, bus.HeaderMessage)
			case SawResult:
				seen.Action, seen.Failed = outcomeOn(m.Subject)
			}
			if w.what != SawDeadLetter && (err != nil || (w.what == SawFrom8x8 && strings.HasPrefix(e.Type(), "com.8x8.run."))) {
				return
			}
			each(seen)
		})
		if err != nil {
			stop()
			return nil, err
		}
		stops = append(stops, one)
	}
	return stop, nil
}

// outcomeOn is what the subject of a result says.
func outcomeOn(subject string) (action string, failed bool) {
	parts := strings.Split(subject, ".")
	if len(parts) < 2 {
		return "", false
	}
	return parts[len(parts)-2], parts[len(parts)-1] == string(bridge.Failed)
}

func first(h map[string][]string, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// ResultData is the data of a result event; see bridge.ResultData.
type ResultData = bridge.ResultData
