package membrane

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
)

// maxStale is how many connections that turn out to be closed, before they took
// a byte, a run may go through.
const maxStale = 4

// encode writes the body of POST /act, by hand since it is written for every
// event. The service refuses unknown fields and nulls.
// source: @membranehq/sdk 0.28.3, ActRequest
func encode(r bridge.Request) ([]byte, *bridge.Failure) {
	if r.ActionKey == "" && r.ActionID == "" {
		return nil, &bridge.Failure{Kind: bridge.Blocked, Reason: bridge.ReasonActionMissing, Message: "the route names no action"}
	}
	// The bytes are not pooled: the transport may read them until it closes the
	// body, which can be after we have the answer.
	b := make([]byte, 0, 1024)
	put := func(name, value string) {
		b = append(append(append(b, '"'), name...), `":`...)
		b, _ = bridge.AppendValue(b, value) // a text can always be written
		b = append(b, ',')
	}
	b = append(b, '{')
	switch {
	case r.Inline:
	case r.ActionKey != "":
		put("key", r.ActionKey)
	default:
		put("id", r.ActionID)
	}
	switch {
	case r.ConnectionID != "":
		put("connectionId", r.ConnectionID)
	case r.ConnectionKey != "":
		put("connectionKey", r.ConnectionKey)
	}
	if r.Inline {
		b = append(b, `"api":`...)
	} else {
		b = append(b, `"input":`...)
	}
	var err error
	if r.Input == nil {
		b = append(b, "{}"...)
	} else {
		b, err = bridge.AppendValue(b, r.Input)
	}
	b = append(r.Meta.AppendJSON(append(b, `,"meta":`...)), '}')
	switch {
	case err != nil: // its text may quote a value
		return nil, &bridge.Failure{Kind: bridge.Permanent, Reason: bridge.ReasonInvalidInput, Message: "the input cannot be written as JSON"}
	case len(b) > maxRequest:
		return nil, &bridge.Failure{Kind: bridge.Permanent, Reason: bridge.ReasonInvalidInput, Message: "the input is larger than the 10 MB that membrane takes"}
	}
	return b, nil
}

// Run posts the action once. See bridge.Runner.
//
// It writes again only what was never written: when a pooled connection turned
// out to be closed before it took a byte, and when a token that we minted
// ourselves was refused, for which a new one is minted once. Send-by holds for
// each writing.
func (c *Client) Run(ctx context.Context, r bridge.Request) (bridge.Reply, error) {
	body, failure := encode(r)
	if failure != nil {
		return bridge.Reply{}, failure
	}
	for stale, renewed := 0, false; ; {
		header, err := c.tokens.header(r.Tenant)
		if err != nil {
			return bridge.Reply{}, noToken(err)
		}
		reply, failure, next := c.act(ctx, r, header, body)
		switch {
		case failure == nil:
			return reply, nil
		case next == staleConnection && stale < maxStale:
			stale++
		case next == tokenRefused && !renewed && c.tokens.renew(r.Tenant, header):
			renewed = true
		default:
			return bridge.Reply{}, failure
		}
	}
}

// next is what may be done about a failure.
type next int

const (
	giveBack next = iota
	staleConnection
	tokenRefused
)

// act is one writing of the request, and the reading of its answer.
func (c *Client) act(ctx context.Context, r bridge.Request, header http.Header, body []byte) (bridge.Reply, *bridge.Failure, next) {
	a := &attempt{caller: ctx, sendBy: r.SendBy, now: c.now, limit: c.wait}
	if a.isLate() {
		return bridge.Reply{}, bridge.TooLate(), giveBack
	}
	runCtx, end := a.begin()
	defer end()

	// No GetBody, no Idempotency-Key: either would let net/http repeat the POST.
	req := (&http.Request{
		Method:        http.MethodPost,
		URL:           c.actURL,
		Host:          c.actURL.Host,
		Header:        header,
		Body:          io.NopCloser(bytes.NewReader(body)),
		ContentLength: int64(len(body)),
		Proto:         "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(runCtx)
	resp, err := c.runs.RoundTrip(req)
	if err != nil {
		failure, next := a.failed(runCtx, err)
		return bridge.Reply{}, failure, next
	}
	defer resp.Body.Close()

	buf := buffers.Get().(*bytes.Buffer)
	defer putBuffer(buf)
	answer, err := readAll(buf, resp)
	switch {
	case err != nil:
		return bridge.Reply{}, proxied(r, resp, cutOff(resp.StatusCode, r.OneCall, why(runCtx, err))), giveBack
	case resp.StatusCode == http.StatusOK:
		reply, failure := readReply(answer)
		return reply, failure, giveBack
	}
	now := c.now()
	said := read(answer, now)
	failure := said.classify(resp.StatusCode, parseRetryAfter(resp.Header.Get("Retry-After"), now), r.OneCall)
	if resp.StatusCode == http.StatusUnauthorized && failure.Reason == bridge.ReasonUnauthorized && !said.ran {
		return bridge.Reply{}, failure, tokenRefused
	}
	return bridge.Reply{}, proxied(r, resp, failure), giveBack
}

// proxied doubts a 503 that a proxy may have made after it passed the request on (R8).
func proxied(r bridge.Request, resp *http.Response, f *bridge.Failure) *bridge.Failure {
	if r.ProxyForwards && resp.StatusCode == http.StatusServiceUnavailable && f.Kind != bridge.Unknown {
		return doubtful(f.Message + ", or a proxy did that may have passed the request on first")
	}
	return f
}

// cutOff is for an answer of which only the status is known. The part that is
// missing may have said that a run was under way.
func cutOff(status int, oneCall bool, why string) *bridge.Failure {
	f := doubtful("membrane answered " + strconv.Itoa(status) + ", and the answer " + why)
	switch {
	case status == http.StatusUnauthorized:
		f.Kind, f.Reason = bridge.Blocked, bridge.ReasonUnauthorized
	case status == http.StatusServiceUnavailable, status == http.StatusTooManyRequests && oneCall:
		f.Kind, f.Reason = bridge.Outage, ""
	}
	return f
}

// failed says what became of a request that has no answer. err is not shown once
// there was a connection, since it may quote what the other side wrote.
func (a *attempt) failed(ctx context.Context, err error) (*bridge.Failure, next) {
	if !a.nothingLeft() {
		return doubtful("membrane gave no answer: the connection " + why(ctx, err)), giveBack
	}
	switch a.state.Load() {
	case late:
		return bridge.TooLate(), giveBack
	case cancelled:
		return &bridge.Failure{Kind: bridge.Outage, Message: "cancelled before the request was written"}, giveBack
	}
	switch {
	case !a.gotConn:
		return &bridge.Failure{Kind: bridge.Outage, Message: "membrane cannot be reached: " + err.Error()}, giveBack
	case a.reused:
		return &bridge.Failure{Kind: bridge.Outage, Message: "membrane closed the connection before anything was written"}, staleConnection
	}
	return &bridge.Failure{Kind: bridge.Outage, Message: "the connection to membrane broke before anything was written"}, giveBack
}

func doubtful(message string) *bridge.Failure {
	return &bridge.Failure{Kind: bridge.Unknown, Reason: bridge.ReasonOutcomeUnknown, Message: message}
}

var errTooLarge = errors.New("larger than 30 MB")

// why puts a network error into words of ours.
func why(ctx context.Context, err error) string {
	switch {
	case errors.Is(context.Cause(ctx), errRunLimit), errors.Is(err, context.DeadlineExceeded):
		return "did not come within the run limit"
	case errors.Is(err, errTooLarge):
		return "is larger than 30 MB"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return "ended half way"
	}
	return "broke"
}

// readReply reads the body of an HTTP 200. What is not Membrane's answer to a run
// (a login page, a proxy's greeting, half a body) proves nothing about the run.
func readReply(body []byte) (bridge.Reply, *bridge.Failure) {
	var output, run []byte
	usual := cloudevent.Members(body, func(name, value []byte) {
		switch string(name) {
		case "output":
			output = value
		case "actionRunId":
			run = value
		}
	})
	if usual && output != nil && run != nil {
		var id text
		_ = id.UnmarshalJSON(run)
		return bridge.Reply{RunID: identifier(string(id)), Output: bytes.Clone(output)}, nil
	}
	var answer struct {
		Output      json.RawMessage `json:"output"`
		ActionRunID json.RawMessage `json:"actionRunId"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		if len(bytes.TrimSpace(body)) == 0 {
			return bridge.Reply{}, doubtful("membrane answered 200 without a body")
		}
		return bridge.Reply{}, doubtful("membrane answered 200 with something that is not the JSON of a run")
	}
	if answer.Output == nil && answer.ActionRunID == nil {
		return bridge.Reply{}, doubtful("membrane answered 200 with neither output nor actionRunId")
	}
	var id text
	_ = id.UnmarshalJSON(answer.ActionRunID)
	return bridge.Reply{RunID: identifier(string(id)), Output: answer.Output}, nil
}

// buffers are for reading answers; nothing of one may be kept.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func putBuffer(b *bytes.Buffer) {
	if b.Cap() <= 64<<10 {
		b.Reset()
		buffers.Put(b)
	}
}

// readAll reads an answer to its end, so that its connection can be used again.
func readAll(buf *bytes.Buffer, resp *http.Response) ([]byte, error) {
	if resp.ContentLength > maxResponse {
		return nil, errTooLarge
	}
	if n := resp.ContentLength; n > 0 && n <= 1<<20 {
		buf.Grow(int(n) + bytes.MinRead)
	}
	if _, err := buf.ReadFrom(io.LimitReader(resp.Body, maxResponse+1)); err != nil {
		return nil, err
	}
	if buf.Len() > maxResponse {
		return nil, errTooLarge
	}
	return buf.Bytes(), nil
}
