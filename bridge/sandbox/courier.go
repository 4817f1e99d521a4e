package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// How 8x8 posts to a webhook. source: 8x8 delivery-receipts-for-outbound-sms.md,
// inbound-sms.md (the schedule), whatsapp-webhooks.md (an answer within 5 s).
const (
	postTimeout = 5 * time.Second
	maxPosts    = 64 // under way at once
)

var retrySchedule = []time.Duration{1 * time.Second, 10 * time.Second, 30 * time.Second, 90 * time.Second}

// notice is one webhook request, with what became of it.
type notice struct {
	url           string
	authorization string
	body          []byte
	state         string // that it tells of, if any
	due           time.Time

	mu       sync.Mutex
	posts    int // tries so far
	status   int // HTTP status of the last one; 0: no answer
	accepted bool
	gone     bool // what it tells of was taken back
}

// cancel has a notice that was not posted yet never be.
func (n *notice) cancel() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gone = true
}

// courier posts notices, and again on connection errors, time-outs, 4xx and
// 5xx: five posts in all.
type courier struct {
	ctx    context.Context
	server *Server
	slots  chan struct{}

	mu      sync.Mutex
	pending int
	posting sync.WaitGroup
	stopped bool
	waiters []chan struct{}
}

// send posts notices one after the other, none before it is due; a second try
// of one does not hold up the next.
func (c *courier) send(notices []*notice) {
	if len(notices) == 0 {
		return
	}
	c.after(notices[0].due.Sub(c.server.opts.Now()), func() {
		c.post(notices[0], 0)
		c.send(notices[1:])
	})
}

func (c *courier) post(n *notice, try int) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-c.ctx.Done():
		return
	}
	n.mu.Lock()
	gone := n.gone
	n.mu.Unlock()
	if gone {
		return
	}
	status := c.request(n)
	ok := status > 0 && status < 400
	n.mu.Lock()
	n.posts++
	n.status = status
	n.accepted = ok
	n.mu.Unlock()
	switch {
	case ok || c.ctx.Err() != nil:
	case try < len(retrySchedule):
		c.after(retrySchedule[try], func() { c.post(n, try+1) })
	default:
		c.server.opts.Logger.Warn("a webhook was given up after 5 posts", "lastStatus", status)
	}
}

// request returns the HTTP status, 0 where there was no answer.
func (c *courier) request(n *notice) int {
	r, err := http.NewRequestWithContext(c.ctx, http.MethodPost, n.url, bytes.NewReader(n.body))
	if err != nil {
		return 0
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Sandbox", "bridge8x8")
	if n.authorization != "" {
		r.Header.Set("Authorization", n.authorization)
	}
	response, err := c.server.client.Do(r)
	if err != nil {
		return 0
	}
	_ = response.Body.Close() // 8x8 does not read it
	return response.StatusCode
}

// after calls f after d, unless the courier has stopped, and counts it as
// pending until f has returned.
func (c *courier) after(d time.Duration, f func()) {
	c.mu.Lock()
	c.pending++
	c.mu.Unlock()
	c.server.opts.AfterFunc(max(d, 0), func() {
		c.mu.Lock()
		stopped := c.stopped
		if !stopped {
			c.posting.Add(1)
		}
		c.mu.Unlock()
		if !stopped {
			f()
			c.posting.Done()
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.pending--
		c.release()
	})
}

// release lets the waiters go once there is nothing to wait for. c.mu is held.
func (c *courier) release() {
	if c.pending > 0 && !c.stopped {
		return
	}
	for _, waiter := range c.waiters {
		close(waiter)
	}
	c.waiters = nil
}

func (c *courier) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pending == 0 || c.stopped
}

func (c *courier) wait(ctx context.Context) error {
	c.mu.Lock()
	if c.pending == 0 || c.stopped {
		c.mu.Unlock()
		return nil
	}
	waiter := make(chan struct{})
	c.waiters = append(c.waiters, waiter)
	c.mu.Unlock()
	select {
	case <-waiter:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop lets nothing start any more and waits for what is being posted; the
// context of the courier has been cancelled.
func (c *courier) stop() {
	c.mu.Lock()
	c.stopped = true
	c.release()
	c.mu.Unlock()
	c.posting.Wait()
}

// webhookBody is the envelope of 8x8's webhooks. source: 8x8
// webhook-object-structure.md.
type webhookBody struct {
	Namespace   string `json:"namespace"`
	EventType   string `json:"eventType"`
	Description string `json:"description"`
	Payload     any    `json:"payload"`
}

func newNotice(to webhook, due time.Time, eventType, description string, payload any) *notice {
	body, err := json.Marshal(webhookBody{Namespace: "SMS", EventType: eventType, Description: description, Payload: payload})
	if err != nil {
		panic("a webhook that is no JSON: " + err.Error())
	}
	return &notice{url: to.url, authorization: to.authorization, body: body, due: due}
}
