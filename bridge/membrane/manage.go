package membrane

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge"
)

// The states of an element. Others exist, and are not ready.
// source: @membranehq/sdk 0.28.3, WorkspaceElementState
const (
	StateReady         = "READY"
	StateBuilding      = "BUILDING"
	StateClientAction  = "CLIENT_ACTION_REQUIRED"
	StateConfiguration = "CONFIGURATION_ERROR"
	StateSetupFailed   = "SETUP_FAILED"
)

const (
	// pollTime is the longest that Membrane holds a long poll. source: its documentation
	pollTime  = 60 * time.Second
	pollSlack = 10 * time.Second
)

// Trouble is one of the reasons that an element gives for not being ready.
type Trouble struct {
	Type    string `json:"type,omitempty"`
	Key     string `json:"key,omitempty"`
	Message string `json:"message"`
}

// UnmarshalJSON reads Membrane's form, and forgives fields of another type.
func (t *Trouble) UnmarshalJSON(b []byte) error {
	var got errorData
	if err := tolerant(json.Unmarshal(b, &got)); err != nil {
		return err
	}
	*t = Trouble{Type: Printable(string(got.Type)), Key: Printable(string(got.Key)), Message: Printable(string(got.Message))}
	return nil
}

// ClientAction is what a person has to do for a connection.
type ClientAction struct {
	Type        string `json:"type"`
	Description string `json:"description"`
	UIURL       string `json:"uiUrl,omitempty"`
}

// ConnectionDetails is a connection with all that a person wants to know of it.
type ConnectionDetails struct {
	ID           string        `json:"id"`
	Key          string        `json:"key,omitempty"`
	Name         string        `json:"name"`
	State        string        `json:"state"`
	Ready        bool          `json:"ready"`
	Problem      string        `json:"problem,omitempty"`
	Errors       []Trouble     `json:"errors,omitempty"`
	ClientAction *ClientAction `json:"clientAction,omitempty"`
	CreatedAt    string        `json:"createdAt,omitempty"`
	UpdatedAt    string        `json:"updatedAt,omitempty"`
}

// UnmarshalJSON reads Membrane's form, and forgives fields of another type.
func (d *ConnectionDetails) UnmarshalJSON(b []byte) error {
	var got struct {
		ID, Key, Name, State, ArchivedAt, CreatedAt, UpdatedAt text
		Connected                                              *bool
		Disconnected, IsDeactivated                            bool
		Errors                                                 []Trouble
		ClientAction                                           *struct{ Type, Description, UIURL text }
	}
	if err := tolerant(json.Unmarshal(b, &got)); err != nil {
		return err
	}
	*d = ConnectionDetails{
		ID: string(got.ID), Key: string(got.Key), Name: Printable(string(got.Name)), State: Printable(string(got.State)),
		Errors: got.Errors, CreatedAt: string(got.CreatedAt), UpdatedAt: string(got.UpdatedAt),
	}
	if a := got.ClientAction; a != nil {
		d.ClientAction = &ClientAction{Type: string(a.Type), Description: Printable(string(a.Description)), UIURL: Printable(string(a.UIURL))}
	}
	if d.State == "" && got.ID != "" {
		d.State = StateReady // absent means ready. source: docs.getmembrane.com, connections
	}
	switch {
	case got.ArchivedAt != "":
		d.Problem = "it is archived"
	case got.IsDeactivated:
		d.Problem = "it is deactivated"
	case d.State != StateReady:
		d.Problem = "its state is " + d.State
	case got.Disconnected, got.Connected != nil && !*got.Connected:
		d.Problem = "it is disconnected"
	}
	d.Ready = d.Problem == ""
	return nil
}

// Connections lists the tenant's connections; integration, if not empty, is the
// key of the integration that they must belong to.
func (c *Client) Connections(ctx context.Context, integration string) ([]ConnectionDetails, error) {
	q := url.Values{}
	if integration != "" {
		q.Set("integrationKey", integration)
	}
	return list(ctx, c, "connections", q, 0, func(d ConnectionDetails) string { return d.ID })
}

// ConnectionDetails reads one connection. With a wait it is not answered before
// the connection is built, or the wait (at most a minute) is over.
func (c *Client) ConnectionDetails(ctx context.Context, idOrKey string, wait time.Duration) (ConnectionDetails, error) {
	u := c.base.JoinPath("connections", url.PathEscape(idOrKey))
	q, longest := polling(wait)
	q.Set("includeSecrets", "false")
	u.RawQuery = q.Encode()
	var d ConnectionDetails
	if err := c.ask(ctx, http.MethodGet, u, nil, &d, longest); err != nil {
		return ConnectionDetails{}, err
	}
	if d.ID == "" {
		return ConnectionDetails{}, outageOf("membrane's answer is not a connection")
	}
	return d, nil
}

// polling is a long poll's query, and how long to wait for its answer.
func polling(wait time.Duration) (url.Values, time.Duration) {
	q := url.Values{}
	if wait <= 0 {
		return q, lookupTimeout
	}
	wait = min(max(wait.Round(time.Second), time.Second), pollTime)
	q.Set("wait", "true")
	q.Set("timeout", strconv.Itoa(int(wait/time.Second)))
	return q, wait + pollSlack
}

// TestConnection has Membrane try the connection, and says whether it worked.
func (c *Client) TestConnection(ctx context.Context, id string) (bool, error) {
	var got struct{ Success bool }
	err := c.ask(ctx, http.MethodPost, c.base.JoinPath("connections", url.PathEscape(id), "test"), nil, &got, lookupTimeout)
	return got.Success, err
}

// NewConnection is what a person is asked to connect: a connector for the first
// time, or a connection again.
type NewConnection struct {
	ConnectorKey  string `json:"connectorKey,omitempty"`
	ConnectionID  string `json:"connectionId,omitempty"`
	ConnectionKey string `json:"connectionKey,omitempty"`
	Name          string `json:"name,omitempty"`
	// Another permits a connection beside those that there are.
	Another bool `json:"allowMultipleConnections,omitempty"`
}

// The states of a ConnectionRequest.
const (
	RequestPending   = "pending"
	RequestSuccess   = "success"
	RequestCancelled = "cancelled"
	RequestError     = "error"
)

// ConnectionRequest is a page on which a person connects, and what came of it.
type ConnectionRequest struct {
	ID           string   `json:"requestId"`
	Status       string   `json:"status"`
	URL          string   `json:"url"`
	ConnectionID string   `json:"connectionId,omitempty"`
	Error        *Trouble `json:"error,omitempty"`
}

// UnmarshalJSON reads Membrane's form, and forgives fields of another type.
func (r *ConnectionRequest) UnmarshalJSON(b []byte) error {
	var got struct {
		RequestID, Status, URL, ResultConnectionID text
		ResultError                                *Trouble
	}
	if err := tolerant(json.Unmarshal(b, &got)); err != nil {
		return err
	}
	*r = ConnectionRequest{string(got.RequestID), Printable(string(got.Status)), Printable(string(got.URL)), string(got.ResultConnectionID), got.ResultError}
	return nil
}

// RequestConnection asks for a connection; a person has to open the URL.
func (c *Client) RequestConnection(ctx context.Context, n NewConnection) (ConnectionRequest, error) {
	var r ConnectionRequest
	err := c.ask(ctx, http.MethodPost, c.base.JoinPath("connection-requests"), n, &r, lookupTimeout)
	if err == nil && (r.ID == "" || r.URL == "") {
		err = outageOf("membrane's answer is not a connection request")
	}
	return r, err
}

// ConnectionRequest reads what came of a request.
func (c *Client) ConnectionRequest(ctx context.Context, id string) (ConnectionRequest, error) {
	var r ConnectionRequest
	err := c.ask(ctx, http.MethodGet, c.base.JoinPath("connection-requests", url.PathEscape(id)), nil, &r, lookupTimeout)
	return r, err
}

// ActionDetails is an action with all that a person wants to know of it.
type ActionDetails struct {
	ID           string          `json:"id"`
	Key          string          `json:"key,omitempty"`
	Name         string          `json:"name"`
	Description  string          `json:"description,omitempty"`
	State        string          `json:"state"`
	Ready        bool            `json:"ready"`
	Problem      string          `json:"problem,omitempty"`
	Errors       []Trouble       `json:"errors,omitempty"`
	ConnectionID string          `json:"connectionId,omitempty"`
	InputSchema  json.RawMessage `json:"inputSchema,omitempty"`
	OutputSchema json.RawMessage `json:"outputSchema,omitempty"`
}

// UnmarshalJSON reads Membrane's form, and forgives fields of another type.
func (d *ActionDetails) UnmarshalJSON(b []byte) error {
	var got struct {
		ID, Key, Name, Description, State, ArchivedAt, ConnectionID text
		IsDeactivated                                               bool
		Errors                                                      []Trouble
		InputSchema, OutputSchema                                   json.RawMessage
	}
	if err := tolerant(json.Unmarshal(b, &got)); err != nil {
		return err
	}
	*d = ActionDetails{
		ID: string(got.ID), Key: string(got.Key), Name: Printable(string(got.Name)), Description: Printable(string(got.Description)),
		State: Printable(string(got.State)), Errors: got.Errors, ConnectionID: string(got.ConnectionID),
		InputSchema: got.InputSchema, OutputSchema: got.OutputSchema,
	}
	if d.State == "" && d.ID != "" {
		d.State = StateReady
	}
	switch {
	case got.ArchivedAt != "":
		d.Problem = "it is archived"
	case got.IsDeactivated:
		d.Problem = "it is deactivated"
	case d.State != StateReady:
		d.Problem = "its state is " + d.State
	}
	d.Ready = d.Problem == ""
	return nil
}

// MaxIntent is how many characters an intent takes. source: @membranehq/sdk 0.28.3
const MaxIntent = 200

// Actions lists what a connection can run; intent, if not empty, ranks them by
// what is meant. limit 0 is all.
func (c *Client) Actions(ctx context.Context, connectionID, intent string, limit int) ([]ActionDetails, error) {
	q := url.Values{"connectionId": {connectionID}}
	if intent != "" {
		q.Set("intent", intent)
	}
	return list(ctx, c, "actions", q, limit, func(d ActionDetails) string { return d.ID })
}

// ActionDetails reads one action as a connection sees it. See ConnectionDetails for wait.
func (c *Client) ActionDetails(ctx context.Context, connectionID, keyOrID string, wait time.Duration) (ActionDetails, error) {
	u := c.base.JoinPath("actions", url.PathEscape(keyOrID))
	q, longest := polling(wait)
	q.Set("connectionId", connectionID)
	u.RawQuery = q.Encode()
	var d ActionDetails
	if err := c.ask(ctx, http.MethodGet, u, nil, &d, longest); err != nil {
		return ActionDetails{}, err
	}
	if d.ID == "" {
		return ActionDetails{}, outageOf("membrane's answer is not an action")
	}
	return d, nil
}

// CreateAction has Membrane build an action for a connection, from what it is to
// do in a person's words. It is BUILDING at first.
func (c *Client) CreateAction(ctx context.Context, connectionID, intent, name string) (ActionDetails, error) {
	body := struct {
		Intent       string `json:"intent"`
		ConnectionID string `json:"connectionId"`
		Name         string `json:"name,omitempty"`
	}{intent, connectionID, name}
	var d ActionDetails
	err := c.ask(ctx, http.MethodPost, c.base.JoinPath("actions"), body, &d, lookupTimeout)
	if err == nil && d.ID == "" {
		err = outageOf("membrane's answer is not an action")
	}
	return d, err
}

// Ran is what came of a run.
type Ran struct {
	Output json.RawMessage `json:"output"`
	RunID  string          `json:"actionRunId,omitempty"`
}

// RunOnce runs an action for a person: once, and never again by itself.
func (c *Client) RunOnce(ctx context.Context, connectionID, actionID string, input json.RawMessage) (Ran, error) {
	body := struct {
		ID           string          `json:"id"`
		ConnectionID string          `json:"connectionId"`
		Input        json.RawMessage `json:"input,omitempty"`
	}{actionID, connectionID, input}
	var got struct {
		Output      json.RawMessage
		ActionRunID text
	}
	err := c.ask(ctx, http.MethodPost, c.actURL, body, &got, c.wait)
	if err == nil && got.Output == nil && got.ActionRunID == "" {
		err = doubtful("membrane answered 200 with neither output nor actionRunId")
	}
	return Ran{got.Output, string(got.ActionRunID)}, err
}

// RunDetails is an action run log.
type RunDetails struct {
	ID           string          `json:"id"`
	Action       string          `json:"action"`
	Status       string          `json:"status"`
	ConnectionID string          `json:"connectionId,omitempty"`
	CreatedAt    string          `json:"createdAt"`
	CompletedAt  string          `json:"completedAt,omitempty"`
	DurationMs   float64         `json:"durationMs,omitempty"`
	Meta         json.RawMessage `json:"meta,omitempty"`
	Input        json.RawMessage `json:"input,omitempty"`
	Output       json.RawMessage `json:"output,omitempty"`
	Error        *Trouble        `json:"error,omitempty"`
}

// UnmarshalJSON reads Membrane's form, and forgives fields of another type.
func (d *RunDetails) UnmarshalJSON(b []byte) error {
	var got struct {
		ID, Name, Status, ConnectionID, CreatedAt, CompletedAt text
		Duration                                               float64
		Meta, Input, Output, Error                             json.RawMessage
		Action                                                 struct {
			Key, ID     text
			Meta, Input json.RawMessage
		}
	}
	if err := tolerant(json.Unmarshal(b, &got)); err != nil {
		return err
	}
	first := func(raw ...json.RawMessage) json.RawMessage {
		for _, r := range raw {
			if len(r) > 0 && string(r) != "null" {
				return r
			}
		}
		return nil
	}
	*d = RunDetails{
		ID: string(got.ID), Status: Printable(string(got.Status)), ConnectionID: string(got.ConnectionID),
		CreatedAt: Printable(string(got.CreatedAt)), CompletedAt: Printable(string(got.CompletedAt)), DurationMs: got.Duration,
		Meta: first(got.Meta, got.Action.Meta), Input: first(got.Input, got.Action.Input), Output: first(got.Output),
	}
	for _, name := range []text{got.Action.Key, got.Name, got.Action.ID} {
		if d.Action == "" {
			d.Action = Printable(string(name))
		}
	}
	if said := read(got.Error, time.Time{}); len(said.levels) > 0 {
		deepest := said.levels[len(said.levels)-1]
		d.Error = &Trouble{Type: string(deepest.Type), Key: string(deepest.Key), Message: Printable(string(deepest.Message))}
		for _, level := range said.levels {
			if words := vendorWords(level.Data); words != "" {
				d.Error.Message = Printable(words)
			}
		}
	}
	return nil
}

// RunFilter chooses runs; what is empty chooses all.
type RunFilter struct {
	ConnectionID string
	Status       string // success or error
	From         time.Time
	Limit        int
}

// Runs lists action run logs, in the order in which Membrane gives them.
func (c *Client) Runs(ctx context.Context, f RunFilter) ([]RunDetails, error) {
	q := url.Values{}
	if f.ConnectionID != "" {
		q.Set("connectionId", f.ConnectionID)
	}
	if f.Status != "" {
		q.Set("status", f.Status)
	}
	if !f.From.IsZero() {
		q.Set("from", f.From.UTC().Format("2006-01-02T15:04:05.000Z07:00"))
	}
	return list(ctx, c, "action-run-logs", q, f.Limit, func(d RunDetails) string { return d.ID })
}

// RunDetails reads one run.
func (c *Client) RunDetails(ctx context.Context, id string) (RunDetails, error) {
	var d RunDetails
	err := c.ask(ctx, http.MethodGet, c.base.JoinPath("action-run-logs", url.PathEscape(id)), nil, &d, lookupTimeout)
	if err == nil && d.ID == "" {
		err = outageOf("membrane's answer is not a run log")
	}
	return d, err
}

// Answer is what came back through the proxy.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Proxy makes a request of the application itself, which Membrane signs with the
// connection's credentials. path may have a query. What the application answers
// is an Answer whatever its status; only Membrane's own refusal is an error.
func (c *Client) Proxy(ctx context.Context, connectionID, method, path string, header http.Header, body []byte) (Answer, error) {
	path, query, _ := strings.Cut(path, "?")
	inside := c.base.JoinPath("connections", url.PathEscape(connectionID), "proxy")
	u := inside.JoinPath(strings.TrimPrefix(path, "/"))
	// A path with ".." would lead out of the proxy, to Membrane's own API.
	if !strings.HasPrefix(u.EscapedPath(), inside.EscapedPath()+"/") || strings.Contains(strings.ToLower(u.EscapedPath()), "%2e%2e") {
		return Answer{}, &bridge.Failure{Kind: bridge.Permanent, Reason: bridge.ReasonInvalidInput, Message: "the path leads out of the application's API"}
	}
	u.RawQuery = query
	got, sent, err := c.send(ctx, method, u, header, body, lookupTimeout)
	if err != nil {
		return Answer{}, err
	}
	// Membrane's own errors have its envelope, those of 8x8 have a code and no type.
	if got.status >= http.StatusBadRequest && read(got.body, c.now()).envelope {
		return Answer{}, c.refusal(got.status, got.body, got.header, sent)
	}
	return Answer{got.status, got.header, got.body}, nil
}
