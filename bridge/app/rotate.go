package app

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/bridge8x8/bridge8x8/bridge/bus"
	"github.com/bridge8x8/bridge8x8/bridge/ingress"
	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers"
)

// Secrets change while the bridge runs. Those of files are read again every few
// seconds, on SIGHUP, and at the moment at which they count: when NATS is connected
// to, and when Membrane refuses the one in hand. Nobody is disconnected for it, and
// what was under way keeps the one that it began with.

// inUse is a configuration, and what was made of it.
type inUse struct {
	file  *config.File
	table *handlers.Table
}

// watchFiles reads the secrets and the certificates again until life ends.
func (a *App) watchFiles(life context.Context) {
	tick := time.NewTicker(reloadEvery)
	defer tick.Stop()
	for {
		select {
		case <-life.Done():
			return
		case <-tick.C:
			a.rotate()
		}
	}
}

// rotate reads the files that hold secrets and certificates again, and hands on what
// changed. What cannot be read changes nothing, and is told once.
func (a *App) rotate() {
	if a.tls != nil {
		a.tls.Reload()
	}
	if a.o.Environ == nil {
		return
	}
	a.rotating.Lock()
	defer a.rotating.Unlock()
	newest, problems := a.o.Environ()
	trouble := ""
	if problems.Errors() {
		trouble = problems.Error()
	}
	if trouble != a.trouble && trouble != "" {
		a.log.Error("the secrets were not read again; those before stay in use", "problems", trouble)
	}
	if a.trouble = trouble; trouble != "" {
		return
	}
	before := a.env.Load()
	now := *before // only secrets change: the rest is bound at the start
	now.NATS.Token, now.NATS.Password = newest.NATS.Token, newest.NATS.Password
	now.Membrane.Token, now.Membrane.WorkspaceSecret = newest.Membrane.Token, newest.Membrane.WorkspaceSecret
	now.Bridge.HTTPTokens, now.Bridge.SinkToken = newest.Bridge.HTTPTokens, newest.Bridge.SinkToken
	now.Bridge.WebhookSecret, now.Bridge.WebhookAuth = newest.Bridge.WebhookSecret, newest.Bridge.WebhookAuth

	var changed []string
	if now.Membrane != before.Membrane {
		if err := a.client.SetSecrets(now.Membrane.Token, now.Membrane.WorkspaceSecret); err != nil {
			a.log.Error("the new secret of Membrane is not used", "error", err)
			now.Membrane = before.Membrane
		} else {
			changed = append(changed, "Membrane")
		}
	}
	if now.NATS != before.NATS {
		changed = append(changed, "NATS")
		if a.server != nil {
			if err := a.server.Rotate(now.NATS.Password.Reveal(), now.NATS.Token.Reveal()); err != nil {
				a.log.Error("the new secret of NATS is not used", "error", err)
				now.NATS = before.NATS
			}
		}
	}
	if now.Bridge.SinkToken != before.Bridge.SinkToken {
		changed = append(changed, "the sink")
	}
	door := !slices.Equal(now.Bridge.HTTPTokens, before.Bridge.HTTPTokens) ||
		now.Bridge.WebhookSecret != before.Bridge.WebhookSecret || now.Bridge.WebhookAuth != before.Bridge.WebhookAuth
	if door {
		changed = append(changed, "HTTP")
	}
	a.env.Store(&now)
	if door && a.public != nil {
		if err := a.openDoor(nil); err != nil {
			a.log.Error("the new secrets of the public listener are not used", "error", err)
		}
	}
	if len(changed) > 0 {
		a.log.Info("secrets were read again", "of", changed)
	}
}

// newestNATS is what a new connection shows. It is called with the client's lock,
// and so waits for nothing.
func (a *App) newestNATS() config.NATSEnv {
	if a.o.Environ != nil && a.server == nil { // who is a part of us changes when we say so
		if newest, problems := a.o.Environ(); !problems.Errors() {
			return newest.NATS
		}
	}
	return a.env.Load().NATS
}

// openDoor lets the public listener's requests in by the newest secrets and the
// configuration in use, which becomes that one if next is given; or changes nothing.
func (a *App) openDoor(next *inUse) error {
	a.door.Lock()
	defer a.door.Unlock()
	if next == nil {
		next = a.serving.Load()
	}
	if a.public != nil {
		h, err := a.publicHandler(next)
		if err != nil {
			return err
		}
		a.handler.Store(&h)
	}
	a.serving.Store(next)
	return nil
}

func (a *App) publicHandler(u *inUse) (http.Handler, error) {
	b := a.env.Load().Bridge
	return ingress.New(ingress.Options{
		Accept: bus.Intake{Conn: a.conn, Names: a.names}, Correlate: a.correlate,
		Tokens: b.HTTPTokens, WebhookSecret: b.WebhookSecret, WebhookAuth: b.WebhookAuth,
		Webhooks: u.file.Webhooks, Origins: b.HTTPOrigins, Rate: b.HTTPRate,
		Clients: b.TLSClientNames, TLS: a.tls, Shared: a.shared,
		Answer: func(e *event.Event) ([]byte, bool, error) { return u.table.Answer(e) },
		Wrap: func(webhook string, header map[string][]string, body []byte) (event.Event, error) {
			return u.table.Wrap(webhook, header, body)
		},
		MaxEvent: b.MaxEvent, Commands: b.Commands, Ready: a.notReady, Logger: a.log,
	})
}

// servePublic is what answers the public listener's requests.
func (a *App) servePublic() *http.Server {
	s := ingress.NewServer(a.public.Addr().String(), a.metrics.Requests(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		(*a.handler.Load()).ServeHTTP(w, r)
	})), a.log)
	if a.tls != nil {
		s.ConnContext = a.tls.Connected
	}
	s.ConnState = a.connections.State
	return s
}
