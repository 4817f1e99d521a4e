package telemetry

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge"
)

// logged runs what an Observer is told and returns its log lines without times.
func logged(t *testing.T, level slog.Level, happens func(*Observer)) []string {
	t.Helper()
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey && len(groups) == 0 {
				return slog.Attr{}
			}
			return a
		},
	}))
	happens(NewObserver(NewMetrics("v1.2.3"), log))
	return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
}

func everything(o *Observer) {
	o.Taken("orders")
	o.Unrouted("orders")
	o.Ran("order-shipped", "send-sms", "ok", time.Second)
	o.Ended("order-shipped", "send-sms", bridge.Succeeded, "", 2*time.Second)
	o.Ended("order-shipped", "send-sms", bridge.Failed, bridge.ReasonRejected, 2*time.Second)
	o.Ended("order-shipped", "send-sms", bridge.UnknownSt, bridge.ReasonOutcomeUnknown, 2*time.Second)
	o.Waits("order-shipped", "")
	o.Trouble("cannot read the ledger", "error", errors.New("no responders"))
}

func TestObserverLogs(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		level slog.Level
		want  []string
	}{
		"info": {slog.LevelInfo, []string{
			`level=INFO msg="event ended" route=order-shipped action=send-sms state=failed reason=rejected since=2s`,
			`level=WARN msg="event ended" route=order-shipped action=send-sms state=unknown reason=outcome_unknown since=2s`,
			`level=ERROR msg="cannot read the ledger" error="no responders"`,
		}},
		"debug": {slog.LevelDebug, []string{
			`level=DEBUG msg="no route matches an event" source=orders`,
			`level=DEBUG msg="run ended" route=order-shipped action=send-sms kind=ok took=1s`,
			`level=DEBUG msg="event ended" route=order-shipped action=send-sms state=succeeded reason="" since=2s`,
			`level=INFO msg="event ended" route=order-shipped action=send-sms state=failed reason=rejected since=2s`,
			`level=WARN msg="event ended" route=order-shipped action=send-sms state=unknown reason=outcome_unknown since=2s`,
			`level=DEBUG msg="event waits" route=order-shipped why=outage`,
			`level=ERROR msg="cannot read the ledger" error="no responders"`,
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(test.want, logged(t, test.level, everything)); diff != "" {
				t.Errorf("log lines (-want +got):\n%s", diff)
			}
		})
	}
}

// The same trouble over and over does not flood the log, other trouble is not
// hushed with it, and what was left out is told.
func TestTroubleIsNotRepeatedWithoutEnd(t *testing.T) {
	t.Parallel()
	lines := logged(t, slog.LevelInfo, func(o *Observer) {
		now := time.Unix(1_700_000_000, 0)
		o.now = func() time.Time { return now }
		for range troubleBurst + 32 {
			o.Trouble("cannot read the ledger")
		}
		o.Trouble("cannot set a pair aside", "route", "order-shipped")
		now = now.Add(time.Second)
		o.Trouble("cannot read the ledger", "error", "timeout")
		now = now.Add(time.Second)
		o.Trouble("cannot read the ledger")
	})
	var want []string
	for range troubleBurst {
		want = append(want, `level=ERROR msg="cannot read the ledger"`)
	}
	want = append(want,
		`level=ERROR msg="cannot set a pair aside" route=order-shipped`,
		`level=ERROR msg="cannot read the ledger" error=timeout leftOut=32`,
		`level=ERROR msg="cannot read the ledger"`,
	)
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("log lines (-want +got):\n%s", diff)
	}
}

func BenchmarkObserverWithDebugOff(b *testing.B) {
	m := NewMetrics("v1.2.3")
	m.Preset([]string{"orders"}, []Route{{Name: "order-shipped", Action: "send-sms"}})
	o := NewObserver(m, slog.New(slog.DiscardHandler))
	b.ReportAllocs()
	for b.Loop() {
		o.Taken("orders")
		o.Ran("order-shipped", "send-sms", "ok", time.Second)
		o.Ended("order-shipped", "send-sms", bridge.Succeeded, "", time.Second)
	}
}
