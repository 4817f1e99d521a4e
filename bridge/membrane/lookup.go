package membrane

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"

	"github.com/bridge8x8/bridge8x8/bridge"
)

// Connection is a tenant's link to 8x8 as Membrane describes it.
type Connection struct {
	ID    string
	Key   string
	Name  string
	State string
	// Problem says why nothing can be run over it; "" if it is healthy.
	Problem string
}

// Connection reads a connection of the client's own tenant.
// Errors are *bridge.Failure; an unknown connection is Blocked, not_ready.
func (c *Client) Connection(ctx context.Context, idOrKey string) (Connection, error) {
	return c.connection(ctx, "", idOrKey)
}

func (c *Client) connection(ctx context.Context, tenant, idOrKey string) (Connection, error) {
	var got struct {
		ID, Key, Name, State, ArchivedAt text
		Connected                        *bool
		Disconnected, IsDeactivated      bool
	}
	u := c.base.JoinPath("connections", url.PathEscape(idOrKey))
	u.RawQuery = "includeSecrets=false"
	if err := c.get(ctx, tenant, u, decodeInto(&got)); err != nil {
		if isNotFound(err) {
			return Connection{}, &bridge.Failure{Kind: bridge.Blocked, Reason: bridge.ReasonNotReady, Message: "membrane does not know the connection"}
		}
		return Connection{}, err
	}
	if got.ID == "" {
		return Connection{}, outageOf("membrane's answer is not a connection")
	}
	conn := Connection{ID: string(got.ID), Key: string(got.Key), Name: string(got.Name), State: string(got.State)}
	// Every one of these must be looked at. source: docs.getmembrane.com, connections
	switch {
	case got.ArchivedAt != "":
		conn.Problem = "it is archived"
	case got.IsDeactivated:
		conn.Problem = "it is deactivated"
	case conn.State == "CLIENT_ACTION_REQUIRED":
		conn.Problem = "a person has to reconnect it"
	case conn.State != "" && conn.State != "READY":
		conn.Problem = "its state is not READY"
	case got.Disconnected, got.Connected != nil && !*got.Connected:
		conn.Problem = "it is disconnected"
	}
	return conn, nil
}

// Action is an action as Membrane describes it. The schemas are in Membrane's
// dialect, as they came.
type Action struct {
	ID    string
	Key   string
	Name  string
	State string
	// ConnectionID is set for an action that belongs to one connection. Its runs go
	// there whatever connection a request names, and so do its run logs.
	ConnectionID string
	InputSchema  json.RawMessage
	OutputSchema json.RawMessage
	// Problem says why it cannot be run; "" if it can.
	Problem string
}

// Action reads an action as the place sees it.
// Errors are *bridge.Failure; an unknown action is Blocked, action_missing.
func (c *Client) Action(ctx context.Context, at bridge.Place, keyOrID string) (Action, error) {
	var got struct {
		ID, Key, Name, State, ArchivedAt, ConnectionID text
		IsDeactivated                                  bool
		InputSchema, OutputSchema                      json.RawMessage
	}
	u := c.base.JoinPath("actions", url.PathEscape(keyOrID))
	q := url.Values{}
	if at.ConnectionID != "" {
		q.Set("connectionId", at.ConnectionID)
	} else if at.ConnectionKey != "" {
		q.Set("connectionKey", at.ConnectionKey)
	}
	u.RawQuery = q.Encode()
	if err := c.get(ctx, at.Tenant, u, decodeInto(&got)); err != nil {
		return Action{}, bridge.AsFailure(err)
	}
	if got.ID == "" {
		return Action{}, outageOf("membrane's answer is not an action")
	}
	a := Action{
		ID: string(got.ID), Key: string(got.Key), Name: string(got.Name), State: string(got.State), ConnectionID: string(got.ConnectionID),
		InputSchema: got.InputSchema, OutputSchema: got.OutputSchema,
	}
	switch {
	case got.ArchivedAt != "":
		a.Problem = "it is archived"
	case got.IsDeactivated:
		a.Problem = "it is deactivated"
	case a.State != "" && a.State != "READY":
		a.Problem = "its state is not READY"
	}
	return a, nil
}

// Tenant is who Membrane takes us for.
type Tenant struct {
	ID           string
	Key          string // the key that the caller of Membrane chose, its internalId
	Name         string
	WorkspaceKey string
}

// Self asks Membrane who we are, and so whether our token is good.
func (c *Client) Self(ctx context.Context) (Tenant, error) { return c.self(ctx, "") }

func (c *Client) self(ctx context.Context, tenant string) (Tenant, error) {
	var got struct{ ID, InternalID, Name, WorkspaceKey text }
	if err := c.get(ctx, tenant, c.base.JoinPath("self"), decodeInto(&got)); err != nil {
		return Tenant{}, err
	}
	return Tenant{ID: string(got.ID), Key: string(got.InternalID), Name: string(got.Name), WorkspaceKey: string(got.WorkspaceKey)}, nil
}

// Probe reads the place's connection, or the tenant if it names none, and fails
// unless runs can be expected to work there. See bridge.Runner.
func (c *Client) Probe(ctx context.Context, at bridge.Place) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	idOrKey := at.ConnectionID
	if idOrKey == "" {
		idOrKey = at.ConnectionKey
	}
	if idOrKey == "" {
		_, err := c.self(ctx, at.Tenant)
		return err
	}
	conn, err := c.connection(ctx, at.Tenant, idOrKey)
	if err != nil {
		return err
	}
	if conn.Problem != "" {
		return &bridge.Failure{Kind: bridge.Blocked, Reason: bridge.ReasonNotReady, Message: "the connection cannot be used: " + conn.Problem}
	}
	return nil
}

// notFound is a read of something that Membrane itself says does not exist.
type notFound struct{ *bridge.Failure }

func (n notFound) Unwrap() error { return n.Failure }

func isNotFound(err error) bool {
	_, ok := errors.AsType[notFound](err)
	return ok
}

func outageOf(message string) *bridge.Failure {
	return &bridge.Failure{Kind: bridge.Outage, Message: message}
}

// get reads u as a tenant and gives the body of a 200 to decode. A read has no
// effect, so no failure of one is Unknown.
func (c *Client) get(ctx context.Context, tenant string, u *url.URL, decode func(io.Reader) error) error {
	return c.getOver(ctx, c.lookups, tenant, u, decode)
}

// getAhead reads over a connection that runs use, so that the first of them finds
// one open, unless that takes so long that a run might be late for want of it.
func (c *Client) getAhead(ctx context.Context, tenant string, u *url.URL, decode func(io.Reader) error) error {
	soon, cancel := context.WithTimeout(ctx, c.ahead)
	defer cancel()
	err := c.getOver(soon, c.runs, tenant, u, decode)
	if err == nil || soon.Err() == nil || ctx.Err() != nil {
		return err
	}
	return c.get(ctx, tenant, u, decode)
}

func (c *Client) getOver(ctx context.Context, over *http.Transport, tenant string, u *url.URL, decode func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	if !c.turns.take(ctx, tenant) {
		return outageOf(unreachable(ctx, ctx.Err()))
	}
	defer c.turns.leave(tenant)
	for renewed := false; ; renewed = true {
		header, err := c.tokens.header(tenant)
		if err != nil {
			return noToken(err)
		}
		req := (&http.Request{
			Method: http.MethodGet, URL: u, Host: u.Host, Header: header,
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		}).WithContext(ctx)
		resp, err := over.RoundTrip(req)
		if err != nil {
			return outageOf(unreachable(ctx, err))
		}
		if resp.StatusCode != http.StatusOK {
			err := c.refused(resp)
			if resp.StatusCode == http.StatusUnauthorized && !renewed && c.tokens.renew(tenant, header) {
				continue
			}
			return err
		}
		err = func() error {
			defer resp.Body.Close()
			body := &limited{r: resp.Body, left: maxResponse}
			if err := decode(body); err != nil {
				return err
			}
			// To its end, so that the connection can be used again.
			_, err := io.Copy(io.Discard, body)
			return err
		}()
		if err != nil {
			return outageOf("membrane's answer cannot be read: it " + badAnswer(ctx, err))
		}
		return nil
	}
}

// turns lets each tenant do so much at a time, and no more.
type turns struct {
	most int
	mu   sync.Mutex
	of   map[string]*turn // of tenants who do anything, or wait to
}

type turn struct {
	slots chan struct{}
	users int
}

// take waits for the tenant's turn; false if ctx ended first.
func (t *turns) take(ctx context.Context, tenant string) bool {
	t.mu.Lock()
	one := t.of[tenant]
	if one == nil {
		one = &turn{slots: make(chan struct{}, t.most)}
		t.of[tenant] = one
	}
	one.users++
	t.mu.Unlock()
	select {
	case one.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		t.forget(tenant)
		return false
	}
}

func (t *turns) leave(tenant string) {
	t.mu.Lock()
	one := t.of[tenant]
	t.mu.Unlock()
	<-one.slots
	t.forget(tenant)
}

func (t *turns) forget(tenant string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if one := t.of[tenant]; one.users > 1 {
		one.users--
	} else {
		delete(t.of, tenant)
	}
}

// refused reads the answer to a read that failed.
func (c *Client) refused(resp *http.Response) error {
	defer resp.Body.Close()
	buf := buffers.Get().(*bytes.Buffer)
	defer putBuffer(buf)
	body, err := readAll(buf, resp)
	if err != nil {
		body = nil
	}
	now := c.now()
	said := read(body, now)
	f := said.classify(resp.StatusCode, parseRetryAfter(resp.Header.Get("Retry-After"), now), true)
	if f.Kind == bridge.Unknown {
		f.Kind, f.Reason = bridge.Outage, ""
	}
	if resp.StatusCode == http.StatusNotFound && said.envelope {
		return notFound{f}
	}
	return f
}

// unreachable puts an error into words. Only what happened before there was a
// connection is quoted; later errors may hold what the other side wrote.
func unreachable(ctx context.Context, err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok && (op.Op == "dial" || op.Op == "proxyconnect") {
		return "membrane cannot be reached: " + op.Error()
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return "cancelled while reading from membrane"
	}
	if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
		return "membrane did not answer in time"
	}
	return "the connection to membrane broke"
}

func badAnswer(ctx context.Context, err error) string {
	_, syntax := errors.AsType[*json.SyntaxError](err)
	_, broken := errors.AsType[brokenListing](err)
	switch {
	case broken:
		return err.Error()
	case ctx.Err() != nil:
		return "did not come in time"
	case errors.Is(err, errTooLarge):
		return "is larger than 30 MB"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return "ended half way"
	case syntax:
		return "is not JSON"
	}
	return "broke off"
}

// limited fails, unlike io.LimitReader, where there is more.
type limited struct {
	r    io.Reader
	left int
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left < 0 {
		return 0, errTooLarge
	}
	if len(p) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.r.Read(p)
	if l.left -= n; l.left < 0 {
		return n, errTooLarge
	}
	return n, err
}

func decodeInto(v any) func(io.Reader) error {
	return func(r io.Reader) error { return tolerant(json.NewDecoder(r).Decode(v)) }
}

// tolerant forgives a field of another type than expected: it is left out, and
// all others were read.
func tolerant(err error) error {
	if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return nil
	}
	return err
}
