package membrane

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// offer is an action in Membrane's form, read as what a connection offers.
type offer struct {
	catalog.Offer
}

// UnmarshalJSON reads Membrane's form, and forgives fields of another type.
func (o *offer) UnmarshalJSON(b []byte) error {
	var d ActionDetails
	if err := d.UnmarshalJSON(b); err != nil {
		return err
	}
	var more struct{ Type text }
	if err := tolerant(json.Unmarshal(b, &more)); err != nil {
		return err
	}
	o.Offer = catalog.Offer{
		Key: Printable(d.Key), ID: Printable(d.ID), Name: d.Name, Description: d.Description, Type: Printable(string(more.Type)),
		Problem: d.Problem, Input: schemaOf(d.InputSchema), Output: schemaOf(d.OutputSchema),
	}
	return nil
}

func schemaOf(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 || raw[0] != '{' {
		return nil
	}
	return raw
}

// Offers lists what a place's connection offers, sorted by key and id, and looks
// up what is wanted by key or id and not in the listing: a connection can run
// more than it lists. What is wanted and does not exist is not in the answer.
// Errors are *bridge.Failure; a listing that was not read to its end is one.
func (c *Client) Offers(ctx context.Context, at bridge.Place, wanted []string) ([]catalog.Offer, error) {
	q := url.Values{"limit": {pageSize}}
	switch {
	case at.ConnectionID != "":
		q.Set("connectionId", at.ConnectionID)
	case at.ConnectionKey != "":
		q.Set("connectionKey", at.ConnectionKey)
	default:
		return nil, &bridge.Failure{Kind: bridge.Blocked, Reason: bridge.ReasonNotReady, Message: "no connection is named: set MEMBRANE_CONNECTION"}
	}
	var offers []catalog.Offer
	seen := map[string]bool{}
	for {
		var page struct {
			Items  []offer
			Cursor text
		}
		u := c.base.JoinPath("actions")
		u.RawQuery = q.Encode()
		if err := c.getAhead(ctx, at.Tenant, u, decodeInto(&page)); err != nil {
			return nil, bridge.AsFailure(err)
		}
		if page.Items == nil {
			return nil, outageOf("membrane's answer is not a list of actions")
		}
		before := len(offers)
		for _, o := range page.Items {
			if o.ID != "" && !seen[o.ID] {
				seen[o.ID] = true
				offers = append(offers, o.Offer)
			}
		}
		if page.Cursor == "" {
			break
		}
		if len(offers) == before { // it would lead here for ever
			return nil, outageOf("membrane's list of actions does not come to an end")
		}
		q.Set("cursor", string(page.Cursor))
	}
	for _, name := range wanted {
		if slices.ContainsFunc(offers, func(o catalog.Offer) bool { return o.Key == name || o.ID == name }) {
			continue
		}
		var one offer
		u := c.base.JoinPath("actions", url.PathEscape(name))
		scope := url.Values{}
		for _, key := range []string{"connectionId", "connectionKey"} {
			if v := q.Get(key); v != "" {
				scope.Set(key, v)
			}
		}
		u.RawQuery = scope.Encode()
		err := c.getAhead(ctx, at.Tenant, u, decodeInto(&one))
		switch {
		case isNotFound(err):
		case err != nil:
			return nil, bridge.AsFailure(err)
		case one.ID == "":
			return nil, outageOf(fmt.Sprintf("membrane's answer about the action %q is not an action", name))
		default:
			offers = append(offers, one.Offer)
		}
	}
	slices.SortFunc(offers, func(a, b catalog.Offer) int { return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.ID, b.ID)) })
	return offers, nil
}
