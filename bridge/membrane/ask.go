package membrane

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge"
)

// What a person asks of Membrane from a command line. Unlike what the bridge
// asks for an event, its failures keep Membrane's own words: the person wrote
// what they may quote, and nothing of it is logged.

// Refusal is Membrane's, or 8x8's, word on why something was not done.
type Refusal struct {
	Status int    // HTTP status
	Type   string // of Membrane's envelope, such as "bad_request"; "" if the answer is none
	Key    string // the deepest one, such as "not_found"
	// Message is the deepest one, on one line, without control characters.
	Message string
	// By8x8 says that Message is 8x8's, and not Membrane's.
	By8x8 bool
	// RunID is set for a failed run that has a log.
	RunID string
	// RetryAfter is how long we were asked to wait; 0 if we were not.
	RetryAfter time.Duration
}

func (r *Refusal) Error() string {
	if r.Message == "" {
		return fmt.Sprintf("membrane answered %d", r.Status)
	}
	return fmt.Sprintf("membrane answered %d: %s", r.Status, r.Message)
}

// NotFound says that what was asked for does not exist.
func (r *Refusal) NotFound() bool {
	return r.Key == "not_found" || r.Type != "" && r.Status == http.StatusNotFound
}

// longest is how much of a foreign text is shown.
const longest = 500

// printable is a foreign text that is safe to show: one line, of bounded length,
// without what a terminal would act upon, and without the token.
func printable(s string, header http.Header) string {
	if token := strings.TrimPrefix(header.Get("Authorization"), "Bearer "); token != "" {
		s = strings.ReplaceAll(s, token, "<secret>")
	}
	return Printable(s)
}

// Printable is a foreign text on one line, without control characters, and cut
// where it is long.
func Printable(s string) string {
	clean := strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x2028 || r == 0x2029 }), " ")
	if runes := []rune(clean); len(runes) > longest {
		clean = string(runes[:longest]) + "…"
	}
	return strings.TrimSpace(clean)
}

// refusal reads an error envelope.
func (c *Client) refusal(status int, answer []byte, header, request http.Header) *Refusal {
	now := c.now()
	r := &Refusal{Status: status, RetryAfter: parseRetryAfter(header.Get("Retry-After"), now)}
	said := read(answer, now)
	r.RunID = said.runID
	if !said.envelope {
		return r // a gateway's page has nothing to say to a person
	}
	r.Type = string(said.levels[0].Type)
	for _, level := range said.levels {
		if level.Message != "" {
			r.Message, r.By8x8 = printable(string(level.Message), request), false
		}
		r.Key = cmp.Or(string(level.Key), r.Key)
		if v := vendorWords(level.Data); v != "" {
			r.Message, r.By8x8 = printable(v, request), true
		}
	}
	return r
}

// vendorWords is what 8x8 said itself.
func vendorWords(data json.RawMessage) string {
	var d struct {
		Response struct {
			Data struct {
				Code    json.Number
				Message text
			}
		}
	}
	if tolerant(json.Unmarshal(data, &d)) != nil || d.Response.Data.Message == "" {
		return ""
	}
	if code := d.Response.Data.Code; code != "" {
		return fmt.Sprintf("8x8 said %s (code %s)", d.Response.Data.Message, code)
	}
	return "8x8 said " + string(d.Response.Data.Message)
}

// answer is a response that was read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// send makes one request. It is repeated only after a 401, which Membrane gives
// before it does anything, and only with another token. Errors are
// *bridge.Failure, which say whether the request can have had an effect.
func (c *Client) send(ctx context.Context, method string, u *url.URL, extra http.Header, body []byte, wait time.Duration) (answer, http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if len(body) > maxRequest {
		return answer{}, nil, &bridge.Failure{Kind: bridge.Permanent, Reason: bridge.ReasonInvalidInput, Message: "the request is larger than the 10 MB that membrane takes"}
	}
	for renewed := false; ; renewed = true {
		shared, err := c.tokens.header("")
		if err != nil {
			return answer{}, nil, noToken(err)
		}
		header := shared.Clone()
		maps.Copy(header, extra)
		req := (&http.Request{
			Method: method, URL: u, Host: u.Host, Header: header, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		}).WithContext(ctx)
		if body != nil {
			req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		}
		resp, err := c.lookups.RoundTrip(req)
		if err != nil {
			f := outageOf(unreachable(ctx, err))
			if method != http.MethodGet && !strings.HasPrefix(f.Message, "membrane cannot be reached") {
				f.Kind, f.Reason = bridge.Unknown, bridge.ReasonOutcomeUnknown
			}
			return answer{}, nil, f
		}
		var buf bytes.Buffer
		_, err = readAll(&buf, resp)
		_ = resp.Body.Close()
		if err != nil {
			f := outageOf("membrane's answer cannot be read: it " + badAnswer(ctx, err))
			if method != http.MethodGet {
				f.Kind, f.Reason = bridge.Unknown, bridge.ReasonOutcomeUnknown
			}
			return answer{}, nil, f
		}
		got := answer{resp.StatusCode, resp.Header, buf.Bytes()}
		if resp.StatusCode == http.StatusUnauthorized && !renewed && read(got.body, c.now()).runID == "" && c.tokens.renew("", shared) {
			continue
		}
		return got, header, nil
	}
}

// ask makes one request with a JSON body (nil: none) and decodes the answer.
// Errors are *Refusal, or *bridge.Failure where there is no answer.
func (c *Client) ask(ctx context.Context, method string, u *url.URL, body, into any, wait time.Duration) error {
	var encoded []byte
	if body != nil {
		var err error
		if encoded, err = json.Marshal(body); err != nil {
			return &bridge.Failure{Kind: bridge.Permanent, Reason: bridge.ReasonInvalidInput, Message: "the input cannot be written as JSON"}
		}
	}
	got, header, err := c.send(ctx, method, u, nil, encoded, wait)
	if err != nil {
		return err
	}
	if got.status/100 != 2 {
		return c.refusal(got.status, got.body, got.header, header)
	}
	if into == nil {
		return nil
	}
	if err := tolerant(json.Unmarshal(got.body, into)); err != nil {
		f := outageOf(fmt.Sprintf("membrane answered %d with something that is not JSON", got.status))
		if method != http.MethodGet {
			f.Kind, f.Reason = bridge.Unknown, bridge.ReasonOutcomeUnknown
		}
		return f
	}
	return nil
}

// noToken is a request that could not be made for want of a token.
func noToken(err error) *bridge.Failure {
	if f, ok := errors.AsType[*bridge.Failure](err); ok {
		return f
	}
	return &bridge.Failure{Kind: bridge.Blocked, Reason: bridge.ReasonUnauthorized, Message: err.Error()}
}

// Whoami is Self, with Membrane's own words where it refuses.
func (c *Client) Whoami(ctx context.Context) (Tenant, error) {
	var got struct{ ID, InternalID, Name, WorkspaceKey text }
	if err := c.ask(ctx, http.MethodGet, c.base.JoinPath("self"), nil, &got, lookupTimeout); err != nil {
		return Tenant{}, err
	}
	return Tenant{ID: string(got.ID), Key: string(got.InternalID), Name: string(got.Name), WorkspaceKey: string(got.WorkspaceKey)}, nil
}

// list reads pages until there is no more, or at least limit items (0: all).
func list[T any](ctx context.Context, c *Client, path string, q url.Values, limit int, id func(T) string) ([]T, error) {
	items, seen := []T{}, map[string]bool{}
	q.Set("limit", pageSize)
	if limit > 0 && limit < 1000 {
		q.Set("limit", fmt.Sprint(limit))
	}
	for {
		var page struct {
			Items  []T
			Cursor text
		}
		u := c.base.JoinPath(path)
		u.RawQuery = q.Encode()
		if err := c.ask(ctx, http.MethodGet, u, nil, &page, lookupTimeout); err != nil {
			return nil, err
		}
		before := len(items)
		for _, item := range page.Items {
			if key := id(item); key != "" && !seen[key] {
				seen[key] = true
				items = append(items, item)
			}
		}
		// A page that adds nothing would be followed by itself for ever.
		if page.Cursor == "" || len(items) == before || limit > 0 && len(items) >= limit {
			if limit > 0 && len(items) > limit {
				items = items[:limit]
			}
			return items, nil
		}
		q.Set("cursor", string(page.Cursor))
	}
}
