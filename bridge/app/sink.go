package app

import (
	"context"
	"strings"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/admin"
	"github.com/bridge8x8/bridge8x8/bridge/bus"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/ledger"
	"github.com/bridge8x8/bridge8x8/bridge/sink"
	"github.com/bridge8x8/bridge8x8/config"
)

// outlet is the way of results and 8x8's events to the sink: a durable consumer
// on each of the two streams, shared by all replicas. What was accepted is known
// to NATS alone, and nothing that sends waits for the sink.
type outlet struct {
	*sink.Sink
	posting context.Context
	end     context.CancelFunc // breaks off the posts that are under way
}

const (
	// sinkInFlight is how many posts may be under way for each of the two streams.
	sinkInFlight = 16
	// sinkGrace is how long a post under way may take once the bridge stops.
	sinkGrace = 5 * time.Second
	sinkLook  = 15 * time.Second
)

// newOutlet makes the outlet; nil without a sink.
func (a *App) newOutlet() (*outlet, error) {
	if a.o.Env.Bridge.SinkURL == "" {
		return nil, nil
	}
	s, err := sink.New(sinkOptions(&a.o.Env, a.o.Version, sink.Options{
		Token:  func() config.Secret { return a.env.Load().Bridge.SinkToken },
		Posted: func(v sink.Verdict) { a.metrics.Posted(string(v)) },
		GivenUp: func(g sink.GivenUp) {
			a.metrics.GivenUp()
			a.log.Error("an event is not posted to the sink again; it stays in its stream",
				"type", g.Type, "id", g.ID, "stream", g.Stream, "seq", g.Seq, "verdict", string(g.Verdict), "why", g.Why)
		},
		State: func(down error) {
			if down != nil {
				a.log.Warn("the sink takes no events; they wait", "error", down)
			} else {
				a.log.Info("the sink takes events again")
			}
		},
	}))
	if err != nil {
		return nil, err
	}
	o := &outlet{Sink: s}
	o.posting, o.end = context.WithCancel(context.Background()) //nolint:gosec // G118: it ends with the app's life
	return o, nil
}

// AskSink asks the sink whether it is there, without posting anything to it.
func AskSink(ctx context.Context, env *config.Env, version string) (note string, err error) {
	s, err := sink.New(sinkOptions(env, version, sink.Options{Token: func() config.Secret { return env.Bridge.SinkToken }}))
	if err != nil {
		return "", err
	}
	defer s.Close()
	return s.Ask(ctx, env.Bridge.Name)
}

// sinkOptions are those that the environment says, put into o.
func sinkOptions(env *config.Env, version string, o sink.Options) sink.Options {
	b := env.Bridge
	o.URL, o.Mode, o.Extensions = b.SinkURL, cloudevent.Mode(b.SinkEncoding), b.SinkExtensions
	o.UserAgent, o.InFlight = "bridge8x8/"+version, 2*sinkInFlight
	return o
}

// takeForSink starts to take what the sink is to have. Called again after an
// error, it goes on with what is missing.
func (a *App) takeForSink(ctx, life context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	context.AfterFunc(life, a.sink.end)
	for _, stream := range []string{a.names.Results(), a.names.Events()} {
		name := "sink/" + stream
		if a.takers[name] != nil {
			continue
		}
		durable := a.names.SinkDurable(stream)
		durable.AckWait, durable.Ledger = a.o.Env.Bridge.AckWait, a.ledger.Load().ID()
		ensure := func(ctx context.Context) error { return a.ensureForSink(ctx, name, durable) }
		if err := ensure(ctx); err != nil {
			return err
		}
		wanted := func(*cloudevent.Event) bool { return true }
		if stream == a.names.Events() {
			wanted = fromWebhook
		}
		t, err := bus.Take(bus.TakerOptions{
			Conn: a.conn, Source: name, Stream: stream, Consumer: durable.Name, AckWait: durable.AckWait, Logger: a.log,
			Workers: sinkInFlight, Paused: a.sink.Paused, Ensure: ensure,
			Handle: func(d *bridge.Delivery) { a.sink.Handle(a.sink.posting, d, wanted) },
		})
		if err != nil {
			return err
		}
		a.takers[name] = t
		a.taking.Go(func() { t.Run(life) })
	}
	return nil
}

// ensureForSink makes the consumer where it is missing. The sink gets what comes
// after it was first configured: the ledger remembers when that was, so that a
// consumer that was deleted begins there again, and posts some once more.
func (a *App) ensureForSink(ctx context.Context, name string, durable bus.Durable) error {
	l := a.ledger.Load()
	source, known := l.Source(name)
	if !known {
		now, err := l.Now(ctx)
		if err != nil {
			return err
		}
		if source, err = l.AddSource(ctx, name, ledger.Source{Since: now, From: now}); err != nil {
			return err
		}
	}
	return a.conn.EnsureDurable(ctx, durable, bus.Start{At: source.From})
}

// fromWebhook says whether an event came in as a webhook of 8x8's: others could
// publish on the same subjects.
func fromWebhook(e *cloudevent.Event) bool {
	return strings.HasPrefix(e.Type(), "com.8x8.") && (e.RawSource == "/8x8" || strings.HasPrefix(e.RawSource, "/8x8/"))
}

// watchSink tells how far the sink is behind.
func (a *App) watchSink(life context.Context) {
	look := time.NewTicker(sinkLook)
	defer look.Stop()
	for {
		behind := 0
		for _, stream := range []string{a.names.Results(), a.names.Events()} {
			ctx, cancel := context.WithTimeout(life, 5*time.Second)
			n, err := a.conn.Behind(ctx, a.names.SinkDurable(stream))
			cancel()
			if err != nil {
				behind = -1 // nobody can tell just now
				break
			}
			behind += n
		}
		if behind >= 0 {
			a.metrics.SinkWaiting(behind)
		}
		select {
		case <-look.C:
		case <-life.Done():
			return
		}
	}
}

// stop lets the posts under way come to their end, but not for long.
func (o *outlet) stop() {
	if o != nil {
		time.AfterFunc(sinkGrace, o.end)
	}
}

// checkSink adds what the sink said last to the checks, as a detail: without it
// everything else works.
func (a *App) checkSink(checks []admin.Check) []admin.Check {
	if a.sink == nil {
		return checks
	}
	return append(checks, admin.Check{Name: "sink", Detail: true, Func: func(context.Context) error { return a.sink.Healthy() }})
}
