package ingress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
)

// answer is what a request is answered with: a status alone, or a problem.
type answer struct {
	status  int
	header  [][2]string
	body    []byte // JSON, of a success that is more than a status
	problem problem
	cause   error // for the log, of failures on our side
}

// problem is an RFC 9457 document. None of its texts holds a value of the
// request.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"` // stable; see the calls of refuse
	// Attribute is the CloudEvents attribute at fault.
	Attribute string `json:"attribute,omitempty"`
	// Errors are the items at fault of a batch.
	Errors []itemProblem `json:"errors,omitempty"`
}

type itemProblem struct {
	Index     int    `json:"index"` // counted from 0
	Attribute string `json:"attribute,omitempty"`
	Detail    string `json:"detail"`
}

func refuse(status int, code, detail string) answer {
	return answer{status: status, problem: problem{
		Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail, Code: code,
	}}
}

// with adds a header; a later value of a name replaces an earlier one.
func (a answer) with(name, value string) answer {
	a.header = append(slices.Clip(a.header), [2]string{name, value})
	return a
}

// after asks the sender to wait, in whole seconds.
func (a answer) after(d time.Duration) answer {
	return a.with("Retry-After", strconv.Itoa(max(1, int(math.Ceil(d.Seconds())))))
}

// unavailable is the answer while nothing can be stored. cause is for the log only.
func unavailable(cause error) answer {
	a := refuse(http.StatusServiceUnavailable, "unavailable", "nothing can be stored right now; send it again").after(retryAfter)
	a.cause = cause
	return a
}

func notStored(err error) answer {
	if errors.Is(err, cloudevent.ErrTooLarge) {
		return refuse(http.StatusRequestEntityTooLarge, "too_large", err.Error())
	}
	return unavailable(err)
}

func tooLarge(limit int) string {
	return fmt.Sprintf("an event may have %d bytes", limit)
}

// unreadable is the answer to what is no CloudEvent.
func unreadable(err error) answer {
	if errors.Is(err, cloudevent.ErrTooMany) {
		return refuse(http.StatusRequestEntityTooLarge, "batch_too_long", err.Error())
	}
	if e, ok := errors.AsType[*cloudevent.BatchError](err); ok {
		a := refuse(http.StatusBadRequest, "malformed", fmt.Sprintf("%d of the batch's items are no events; nothing was stored", len(e.Items)))
		if len(e.Items) == 1 {
			a.problem.Detail = "one of the batch's items is no event; nothing was stored"
		}
		// A long list helps nobody, and would be longer than the request.
		for _, item := range e.Items[:min(len(e.Items), 100)] {
			p := itemProblem{Index: item.Index, Detail: item.Err.Error()}
			if m, ok := errors.AsType[*cloudevent.MalformedError](item.Err); ok {
				p.Attribute = m.Attr
			}
			a.problem.Errors = append(a.problem.Errors, p)
		}
		return a
	}
	if e, ok := errors.AsType[*cloudevent.MalformedError](err); ok {
		a := refuse(http.StatusBadRequest, "malformed", e.Error())
		a.problem.Attribute = e.Attr
		return a
	}
	if e, ok := errors.AsType[*cloudevent.UnsupportedError](err); ok {
		return refuse(http.StatusUnsupportedMediaType, "unsupported_format", e.Error())
	}
	return refuse(http.StatusUnsupportedMediaType, "not_a_cloudevent", err.Error()+"; send Content-Type: application/cloudevents+json, or the attributes as ce- headers")
}

func (a answer) write(w http.ResponseWriter) {
	for _, h := range a.header {
		w.Header().Set(h[0], h[1])
	}
	if a.body != nil {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
		w.WriteHeader(a.status)
		_, _ = w.Write(a.body)
		return
	}
	if a.problem.Code == "" {
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(a.status)
		return
	}
	body, err := json.Marshal(a.problem)
	if err != nil { // strings and numbers always marshal
		panic(err)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(a.status)
	_, _ = w.Write(body) // a client that has gone is none of our business
}

// readBody reads a body of at most limit bytes. One that announces more is
// refused unread. done comes when the body is not needed any more.
func (h *handler) readBody(w http.ResponseWriter, r *http.Request, limit int) (body []byte, a *answer, done func()) {
	held := 0
	done = func() {
		if held > 0 {
			h.Shared.bodies.give(held)
		}
	}
	stop := func(a answer) ([]byte, *answer, func()) { return body, &a, done }
	if coding := r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return stop(refuse(http.StatusUnsupportedMediaType, "unsupported_encoding", "the body is compressed; send it as it is").with("Accept-Encoding", "identity"))
	}
	over := refuse(http.StatusRequestEntityTooLarge, "too_large", fmt.Sprintf("the body may have %d bytes", limit)).with("Connection", "close")
	if r.ContentLength > int64(limit) {
		return stop(over)
	}
	size := freeBody
	if r.ContentLength >= 0 {
		size = min(size, int(r.ContentLength))
	}
	body = make([]byte, 0, size+1) // one more, so that the end is seen without growing
	limited := newSlowBody(w, http.MaxBytesReader(w, r.Body, int64(limit)))
	for {
		n, err := limited.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case errors.Is(err, io.EOF):
			return body, nil, done
		case err != nil:
			if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
				return stop(over)
			}
			if isSlow(err) {
				return stop(refuse(http.StatusRequestTimeout, "too_slow", "the body did not come in time").with("Connection", "close"))
			}
			return stop(refuse(http.StatusBadRequest, "incomplete", "the body could not be read to its end"))
		case len(body) < cap(body):
		case held > 0:
			body = append(body, 0)[:len(body)]
		default: // a long one: so much came that it is meant
			want := limit
			if r.ContentLength >= 0 {
				want = int(r.ContentLength)
			}
			ctx, cancel := context.WithTimeout(r.Context(), bodyWait)
			waited := time.Now()
			held = h.Shared.bodies.take(ctx, want)
			cancel()
			if held == 0 {
				return stop(unavailable(errBodies).with("Connection", "close"))
			}
			limited.start = limited.start.Add(time.Since(waited))
			limited.extend()
			if r.ContentLength >= 0 {
				body = append(make([]byte, 0, want+1), body...)
			} else {
				body = append(body, 0)[:len(body)]
			}
		}
	}
}

var errBodies = errors.New("too many long bodies come in at once")
