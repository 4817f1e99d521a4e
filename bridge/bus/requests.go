package bus

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
)

// Headers of a reply that tells of a failure, as the services of NATS name them.
// source: nats-architecture-and-design ADR-32
const (
	HeaderServiceError     = "Nats-Service-Error"
	HeaderServiceErrorCode = "Nats-Service-Error-Code"
)

// Requests implements bridge.Requests on NATS (rule R19).
type Requests struct {
	Conn  *Conn
	Names Names
	Mode  cloudevent.Mode // of replies
}

// RunSubject is where an action is requested.
func (n Names) RunSubject(action string) string { return n.runSubject(action) }

// runSubject is where an action is requested.
func (n Names) runSubject(action string) string { return n.prefix + ".run." + action }

// runQueue is the group in which replicas share requests.
func (n Names) runQueue() string { return n.prefix + "-run" }

// Listen calls each for every request, one after the other; replicas share them.
// The function it returns ends that, and returns once the last has been given.
func (r Requests) Listen(each func(bridge.Ask)) (func(), error) {
	sub, err := r.Conn.NC.QueueSubscribe(r.Names.runSubject("*"), r.Names.runQueue(), func(m *nats.Msg) {
		if m.Reply == "" {
			return // nobody asks: a command is published as an event
		}
		each(bridge.Ask{Action: strings.TrimPrefix(m.Subject, r.Names.runSubject("")), Header: m.Header, Data: m.Data, ReplyTo: m.Reply})
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", r.Names.runSubject("*"), err)
	}
	if err := r.Conn.NC.FlushTimeout(5 * time.Second); err != nil && r.Conn.NC.IsConnected() { // whoever sees that it is ready may ask
		return nil, fmt.Errorf("subscribe to %s: %w", r.Names.runSubject("*"), err)
	}
	return func() {
		done := sub.StatusChanged(nats.SubscriptionClosed)
		if sub.Drain() != nil {
			return
		}
		select {
		case <-done:
		case <-time.After(2 * time.Second): // NATS is away
		}
	}, nil
}

// Store implements bridge.Requests.
func (r Requests) Store(ctx context.Context, m cloudevent.Message, replyTo string) error {
	header := original(m.Header)
	header.Set(HeaderReplyTo, replyTo)
	_, err := r.Conn.Publisher.Store(ctx, r.Names.EventSubject(m.Event.Type()), header, m.Data)
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return cloudevent.ErrTooLarge
	case errors.Is(err, ErrUnclear):
		return fmt.Errorf("%w: %w", bridge.ErrUnclear, err)
	}
	return err
}

// Reply implements bridge.Requests.
func (r Requests) Reply(to string, result bridge.Result, failure *bridge.ResultError) error {
	if !r.mayReply(to) {
		return errors.New("the reply is wanted on a subject of the bridge or of the server")
	}
	m := &nats.Msg{Subject: to}
	if r.Mode == cloudevent.Binary {
		m.Header, m.Data = result.Event.Binary(), result.Event.Data
	} else {
		m.Header, m.Data = nats.Header{"Content-Type": structuredContent}, result.Event.AppendJSON(nil)
	}
	if failure != nil {
		m.Header.Set(HeaderServiceErrorCode, strconv.Itoa(code(failure.Reason)))
		m.Header.Set(HeaderServiceError, strings.Join(strings.Fields(string(failure.Reason)+": "+failure.Message), " "))
	}
	return r.Conn.NC.PublishMsg(m)
}

// mayReply keeps a header that somebody put into a stream from making the
// bridge publish where that somebody may not.
func (r Requests) mayReply(subject string) bool {
	return subject != "" && !strings.HasPrefix(subject, "$") && !strings.HasPrefix(subject, r.Names.prefix+".") &&
		!strings.ContainsAny(subject, "*> \t\r\n")
}

// code tells a reason in the words of HTTP.
func code(reason bridge.Reason) int {
	switch reason {
	case bridge.ReasonMalformed, bridge.ReasonInvalidInput, bridge.ReasonMapping:
		return http.StatusBadRequest
	case bridge.ReasonUnauthorized:
		return http.StatusForbidden
	case bridge.ReasonActionMissing:
		return http.StatusNotFound
	case bridge.ReasonExpired:
		return http.StatusRequestTimeout
	case bridge.ReasonIDReused:
		return http.StatusConflict
	case bridge.ReasonRejected:
		return http.StatusUnprocessableEntity
	case bridge.ReasonAttemptsExhausted:
		return http.StatusBadGateway
	case bridge.ReasonNotReady:
		return http.StatusServiceUnavailable
	case bridge.ReasonOutcomeUnknown: // or not known in time
		return http.StatusGatewayTimeout
	default:
		return http.StatusInternalServerError
	}
}

var _ bridge.Requests = Requests{}
