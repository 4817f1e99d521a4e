package handlers

import (
	"fmt"
	"slices"
	"time"

	"github.com/bridge8x8/bridge8x8/config"
)

// AtMost is how often a route may run: a guard against two automatic answerers
// that answer each other, and not a way to smooth a load.
type AtMost struct {
	Times int
	Every time.Duration
	per   *template // nil: all events are counted together
}

// String says it in words that hold nothing of an event.
func (a *AtMost) String() string {
	per := ""
	if a.per != nil {
		per = " for each value of its per"
	}
	return fmt.Sprintf("the route runs at most %d times in %s%s", a.Times, config.FormatDuration(a.Every), per)
}

// By is what an event is counted by. The error is a *MappingError.
func (a *AtMost) By(v *View) (string, error) {
	if a.per == nil {
		return "", nil
	}
	value, err := a.per.evaluate(v)
	if err != nil {
		return "", err
	}
	if text, ok := value.(string); ok && text != "" {
		return text, nil
	}
	if n, ok := rational(plain(value)); ok && n.IsInt() {
		return n.Num().String(), nil
	}
	// Events that are counted together by mistake would use up each other's runs.
	return "", a.per.fail("gives nothing to count by: it must be a text that is not empty, or a whole number")
}

func (c *compiler) atMost(r *config.Route) *AtMost {
	if r.AtMost.Times == 0 {
		return nil
	}
	a := &AtMost{Times: r.AtMost.Times, Every: r.AtMost.Every}
	if r.AtMost.Per.Kind == config.KindNone {
		return a
	}
	known := len(c.problems)
	a.per = c.template(r.AtMost.Per, "at_most: per", "")
	if len(c.problems) == known && !a.per.hasExpressions() {
		c.fail(r.AtMost.Per.Pos, "constant-per", "such as per: ${ .data.source }, or leave it out", "at_most: per is the same for every event")
	}
	return a
}

// replies checks that what the route sends goes to one phone number, which its
// input names.
func (c *compiler) replies(h *Handler, r *config.Route) {
	h.Replies = r.Replies
	if !r.Replies || h.Action == nil {
		return
	}
	named := func(field string) bool {
		_, ok := r.Input.Get(field)
		return ok
	}
	fields := h.Action.Input.Properties()
	if (named("destination") || named("user")) && (len(fields) == 0 || slices.Contains(fields, "destination") || slices.Contains(fields, "user")) {
		return
	}
	c.fail(r.RepliesPos, "replies-without-number", "it is for actions that write to one number, such as send-sms",
		"replies are tied to what was sent to a number, and the input has no destination, and no user, that holds one")
}
