package bridge

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Whether run logs are kept is found out from runs of our own, and only from
// those: a log that shows late is no missing one, and nor is a question that
// nobody answers (R6).
func TestRunLogsKept(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		shows time.Duration
		away  time.Duration // for how long nobody answers
		news  []bool
	}{
		"at once":                {0, 0, []bool{true}},
		"late":                   {90 * time.Second, 0, []bool{true}},
		"never":                  {1000 * time.Hour, 0, []bool{false}},
		"after an outage":        {0, 30 * time.Minute, []bool{true}},
		"never, after an outage": {1000 * time.Hour, 30 * time.Minute, []bool{false}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s, b := alone(t, oneRoute)
				began := time.Now()
				b.Runner = awayRunner{s, func() bool { return time.Since(began) < test.away }}
				s.run = func(r Request) (Reply, error) { return s.happen(r, test.shows), nil }
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				go b.Run(ctx)
				if _, known := b.RunLogsKept(); known {
					t.Error("known before anything has run")
				}
				for _, id := range []string{"1", "2", "3"} { // one of them is enough
					deliver(t, b, orderEvent(id, "+12025550101"))
				}
				<-time.After(50 * time.Minute)
				if kept, known := b.RunLogsKept(); !known || kept != test.news[0] {
					t.Errorf("known %v, kept %v", known, kept)
				}
				// Somebody switches them on: the next run after an hour shows that.
				<-time.After(time.Hour)
				s.run = func(r Request) (Reply, error) { return s.happen(r, 0), nil }
				deliver(t, b, orderEvent("4", "+12025550101"))
				<-time.After(2 * time.Minute)
				want := test.news
				if !want[0] {
					want = append(slices.Clone(want), true)
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				if !slices.Equal(s.kept, want) {
					t.Errorf("said %v, want %v", s.kept, want)
				}
			})
		})
	}
}

// awayRunner is a service that does not tell of runs while it is away.
type awayRunner struct {
	*seams
	away func() bool
}

func (r awayRunner) RunLog(ctx context.Context, at Place, id string) (RunLog, bool, error) {
	if r.away() {
		return RunLog{}, false, errors.New("away")
	}
	return r.seams.RunLog(ctx, at, id)
}
