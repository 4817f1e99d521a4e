package membrane

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"io"
	"net/url"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge"
)

// pageSize is the most that a listing gives at a time.
// source: @membranehq/sdk 0.28.3
const pageSize = "1000"

// record is what we read of an action run log.
// source: @membranehq/sdk 0.28.3, ActionRunLogRecordApiResponse
type record struct {
	ID        text            `json:"id"`
	Status    text            `json:"status"`
	CreatedAt text            `json:"createdAt"`
	Output    json.RawMessage `json:"output"`
	Error     json.RawMessage `json:"error"`
	Meta      json.RawMessage `json:"meta"`
	Action    struct {
		Meta json.RawMessage `json:"meta"` // newer servers have it here
	} `json:"action"`
}

// runLog is a record in the words of the bridge. now is for a Retry-After that
// is a date.
func (r *record) runLog(now time.Time) bridge.RunLog {
	log := bridge.RunLog{ID: string(r.ID), Meta: ourMeta(r.Meta), Succeeded: r.Status == "success"}
	if log.Meta.Try == "" {
		log.Meta = ourMeta(r.Action.Meta)
	}
	log.CreatedAt, _ = time.Parse(time.RFC3339, string(r.CreatedAt))
	if log.Succeeded {
		log.Output = r.Output
		return log
	}
	// There are only the two states success and error; what says neither is Unknown.
	raw := r.Error
	if r.Status != "error" {
		raw = nil
	}
	log.Failure, log.OneCallFailure = classifyLog(raw, false, now), classifyLog(raw, true, now)
	log.Failure.RunID, log.OneCallFailure.RunID = log.ID, log.ID
	return log
}

// ourMeta reads a meta that we wrote. Somebody else's may have any shape, and
// reads as none.
func ourMeta(raw json.RawMessage) bridge.Meta {
	var m bridge.Meta
	if len(raw) == 0 || json.Unmarshal(raw, &m) != nil {
		return bridge.Meta{}
	}
	return m
}

// RunLog reads one run. See bridge.Runner. Only Membrane's own word that there is
// no such log makes found false; an error is a *bridge.Failure.
func (c *Client) RunLog(ctx context.Context, at bridge.Place, id string) (log bridge.RunLog, found bool, err error) {
	var r record
	if err := c.get(ctx, at.Tenant, c.base.JoinPath("action-run-logs", url.PathEscape(id)), decodeInto(&r)); err != nil {
		if isNotFound(err) {
			return bridge.RunLog{}, false, nil
		}
		return bridge.RunLog{}, false, err
	}
	if r.ID == "" {
		return bridge.RunLog{}, false, outageOf("membrane's answer is not a run log")
	}
	return r.runLog(c.now()), true, nil
}

// RunLogs lists runs. See bridge.Runner. A log may be given to each more than
// once. Membrane cannot search by meta, so everything since from is read.
func (c *Client) RunLogs(ctx context.Context, at bridge.Place, from time.Time, each func(bridge.RunLog)) error {
	q := url.Values{"limit": {pageSize}, "from": {from.UTC().Format("2006-01-02T15:04:05.000Z07:00")}}
	switch {
	case at.ConnectionID != "":
		q.Set("connectionId", at.ConnectionID)
	case at.ConnectionKey != "":
		// Logs are found by id only. The key is looked up each time: it may have come to
		// mean another connection, and a listing of the wrong one would look like silence.
		conn, err := c.connection(ctx, at.Tenant, at.ConnectionKey)
		switch f := bridge.AsFailure(err); {
		case err == nil:
			q.Set("connectionId", conn.ID)
		case f.Reason == bridge.ReasonNotReady:
			// It is gone, its logs need not be: list all of the tenant's.
		default:
			return err
		}
	}
	u := c.base.JoinPath("action-run-logs")
	p := page{now: c.now(), each: each, seed: maphash.MakeSeed(), seen: map[uint64]struct{}{}}
	for {
		p.cursor, p.items, p.fresh, p.listed = "", 0, 0, false
		u.RawQuery = q.Encode()
		if err := c.get(ctx, at.Tenant, u, p.decode); err != nil {
			return err
		}
		switch {
		case p.cursor == "":
			return nil
		case p.fresh == 0:
			// A cursor that leads nowhere new would lead there for ever.
			return outageOf(fmt.Sprintf("membrane's run logs did not come to an end: a page of %d added nothing and had a cursor", p.items))
		}
		q.Set("cursor", p.cursor)
	}
}

// page reads one page of a listing as it comes.
type page struct {
	now  time.Time
	each func(bridge.RunLog)
	seed maphash.Seed
	// seen are hashes of the ids of all pages. A false hit would have to happen for a
	// whole page to matter.
	seen map[uint64]struct{}

	cursor       string
	items, fresh int
	listed       bool
}

// brokenListing is a page that is JSON, but no page.
type brokenListing string

func (b brokenListing) Error() string { return string(b) }

func (p *page) decode(r io.Reader) error {
	dec := json.NewDecoder(r)
	if err := p.expect(dec, '{'); err != nil {
		return err
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		switch key {
		case "items":
			if err := p.readItems(dec); err != nil {
				return err
			}
		case "cursor":
			var cursor any
			if err := dec.Decode(&cursor); err != nil {
				return err
			}
			switch cursor := cursor.(type) {
			case nil:
			case string:
				p.cursor = cursor
			default:
				return brokenListing("has a cursor that is not a string")
			}
		default:
			var skipped json.RawMessage
			if err := dec.Decode(&skipped); err != nil {
				return err
			}
		}
	}
	if err := p.expect(dec, '}'); err != nil {
		return err
	}
	if !p.listed {
		return brokenListing("has no items")
	}
	return nil
}

func (p *page) readItems(dec *json.Decoder) error {
	if err := p.expect(dec, '['); err != nil {
		return err
	}
	for dec.More() {
		var r record
		if err := tolerant(dec.Decode(&r)); err != nil {
			return err
		}
		if r.ID == "" {
			return brokenListing("has an item without an id")
		}
		p.items++
		hash := maphash.String(p.seed, string(r.ID))
		if _, ok := p.seen[hash]; !ok {
			p.fresh++
			p.seen[hash] = struct{}{}
		}
		p.each(r.runLog(p.now))
	}
	p.listed = true
	return p.expect(dec, ']')
}

func (p *page) expect(dec *json.Decoder, want json.Delim) error {
	got, err := dec.Token()
	if err != nil {
		return err
	}
	if got != want {
		return brokenListing("is not a list of run logs")
	}
	return nil
}
