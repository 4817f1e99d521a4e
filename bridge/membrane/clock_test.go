package membrane

import (
	"net/http/httptrace"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
)

// setWall moves the wall clock of t and leaves its monotonic reading, as it is
// with a clock that is set.
func setWall(t time.Time, by time.Duration) time.Time {
	(*struct{ wall uint64 })(unsafe.Pointer(&t)).wall += uint64(by/time.Second) << 30
	return t
}

func TestSetWall(t *testing.T) {
	t.Parallel()
	before := time.Now()
	for _, by := range []time.Duration{10 * time.Minute, -10 * time.Minute} {
		after := setWall(before, by)
		if got := after.Round(0).Sub(before.Round(0)); got != by {
			t.Errorf("the wall moves by %v, want %v", got, by)
		}
		if got := after.Sub(before); got != 0 {
			t.Errorf("the monotonic clock moves by %v, want not at all", got)
		}
	}
}

// A clock that is set by ten minutes between claim and send, in either
// direction, lets nothing out after send-by: one clock or the other tells (R5).
func TestClockIsSetBeforeTheSend(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name        string
		wall, pause time.Duration // of what happens once the connection is there
		late        bool
	}{
		{"forwards", 10 * time.Minute, 0, true},
		{"backwards", -10 * time.Minute, 0, false},
		{"backwards, over a pause", -10 * time.Minute, 6 * time.Minute, true}, // only the monotonic clock tells
		{"over a pause", 0, 6 * time.Minute, true},
		{"over a sleep of the machine", 6 * time.Minute, 0, true}, // over which the monotonic clock stands still
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, body(200, `{"output":{},"actionRunId":"r1"}`)).start(t)
			var wall, pause atomic.Int64
			c := connect(t, s.URL, func(o *Options) {
				o.Now = func() time.Time {
					return setWall(time.Now().Add(time.Duration(pause.Load())), time.Duration(wall.Load()))
				}
			})
			r := request()
			r.SendBy = time.Now().Add(5 * time.Minute)
			_, err := c.Run(httptrace.WithClientTrace(background, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
				wall.Store(int64(test.wall))
				pause.Store(int64(test.pause))
			}}), r)
			want, requests := "", int64(1)
			if test.late {
				want, requests = "outage: send-by passed before the request could be written", 0
			}
			if got := errorText(err); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			if n := s.requests.Load(); n != requests {
				t.Errorf("%d requests arrived, want %d", n, requests)
			}
		})
	}
}
