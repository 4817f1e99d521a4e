package telemetry_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/telemetry"
)

// scrape reads the metrics as Prometheus would: series to value.
func scrape(t *testing.T, m *telemetry.Metrics) map[string]string {
	t.Helper()
	server := httptest.NewServer(m.Handler())
	defer server.Close()
	response, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("scrape answered %d (%v)", response.StatusCode, err)
	}
	values := map[string]string{}
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		values[line[:i]] = strings.TrimSpace(line[i:])
	}
	return values
}

// moved is what became other than zero between two scrapes, without times.
func moved(t *testing.T, m *telemetry.Metrics) map[string]string {
	t.Helper()
	values := map[string]string{}
	for series, value := range scrape(t, m) {
		if strings.HasPrefix(series, "bridge8x8_") && value != "0" && !strings.HasPrefix(series, "bridge8x8_build_info") &&
			!strings.Contains(series, "_seconds_bucket") && !strings.Contains(series, "timestamp") {
			values[series] = value
		}
	}
	return values
}

func newMetrics(t *testing.T) *telemetry.Metrics {
	t.Helper()
	m := telemetry.NewMetrics("v1.2.3")
	m.Preset([]string{"orders"}, []telemetry.Route{{Name: "order-shipped", Action: "send-sms"}})
	return m
}

func TestEverySeriesIsThereAtZero(t *testing.T) {
	t.Parallel()
	values := scrape(t, newMetrics(t))
	want := []string{
		`bridge8x8_events_taken_total{source="orders"}`,
		`bridge8x8_events_unrouted_total{source="orders"}`,
		`bridge8x8_runs_in_flight`,
		`bridge8x8_troubles_total`,
		`bridge8x8_ledger_failed_total`,
		`bridge8x8_nats_connected`,
		`bridge8x8_run_logs_missing`,
		`bridge8x8_config_last_reload_successful`,
		`bridge8x8_run_seconds_count{action="send-sms"}`,
		`bridge8x8_event_seconds_count{route="order-shipped"}`,
		`bridge8x8_waits_total{route="order-shipped",why="outage"}`,
		`bridge8x8_waits_total{route="order-shipped",why="unauthorized"}`,
	}
	for _, state := range []string{"succeeded", "failed", "unknown"} {
		want = append(want, fmt.Sprintf(`bridge8x8_outcomes_total{action="send-sms",route="order-shipped",state=%q}`, state))
	}
	for _, kind := range []string{"ok", "outage", "blocked", "temporary", "permanent", "unknown"} {
		want = append(want, fmt.Sprintf(`bridge8x8_runs_total{action="send-sms",kind=%q}`, kind))
	}
	for _, reason := range bridge.Reasons {
		want = append(want, fmt.Sprintf(`bridge8x8_failures_total{reason=%q,route="order-shipped"}`, reason))
	}
	for _, series := range want {
		if value, ok := values[series]; value != "0" {
			t.Errorf("%s = %q (present: %v), want 0", series, value, ok)
		}
	}
	if len(values) == 0 || values[`go_goroutines`] == "" {
		t.Error("the Go runtime's own metrics are missing")
	}
	for series := range values {
		if strings.HasPrefix(series, "bridge8x8_build_info") && !strings.Contains(series, `version="v1.2.3"`) {
			t.Errorf("%s does not name the version", series)
		}
	}
}

func TestMetricsCountWhatHappens(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		happens func(*telemetry.Metrics)
		want    map[string]string
	}{
		"an event that no route matches": {
			func(m *telemetry.Metrics) { m.Taken("orders"); m.Unrouted("orders") },
			map[string]string{
				`bridge8x8_events_taken_total{source="orders"}`:    "1",
				`bridge8x8_events_unrouted_total{source="orders"}`: "1",
			},
		},
		"a success": {
			func(m *telemetry.Metrics) {
				m.Ran("send-sms", "ok", 250*time.Millisecond)
				m.Ended("order-shipped", "send-sms", bridge.Succeeded, "", 2*time.Second)
			},
			map[string]string{
				`bridge8x8_runs_total{action="send-sms",kind="ok"}`:                                   "1",
				`bridge8x8_run_seconds_count{action="send-sms"}`:                                      "1",
				`bridge8x8_run_seconds_sum{action="send-sms"}`:                                        "0.25",
				`bridge8x8_outcomes_total{action="send-sms",route="order-shipped",state="succeeded"}`: "1",
				`bridge8x8_event_seconds_count{route="order-shipped"}`:                                "1",
				`bridge8x8_event_seconds_sum{route="order-shipped"}`:                                  "2",
			},
		},
		"a failure, and a clock that went back": {
			func(m *telemetry.Metrics) {
				m.Ended("order-shipped", "send-sms", bridge.Failed, bridge.ReasonRejected, -time.Second)
			},
			map[string]string{
				`bridge8x8_outcomes_total{action="send-sms",route="order-shipped",state="failed"}`: "1",
				`bridge8x8_failures_total{reason="rejected",route="order-shipped"}`:                "1",
				`bridge8x8_event_seconds_count{route="order-shipped"}`:                             "1",
			},
		},
		"waits for known and new whys": {
			func(m *telemetry.Metrics) {
				m.Waits("order-shipped", "")
				m.Waits("order-shipped", bridge.ReasonRejected)
				m.Waits("removed", bridge.ReasonRejected)
			},
			map[string]string{
				`bridge8x8_waits_total{route="order-shipped",why="outage"}`:   "1",
				`bridge8x8_waits_total{route="order-shipped",why="rejected"}`: "1",
				`bridge8x8_waits_total{route="_",why="rejected"}`:             "1",
			},
		},
		"names that are not in the configuration": {
			func(m *telemetry.Metrics) {
				m.Taken("+12025550101")
				m.Unrouted("+12025550101")
				m.Ran("+12025550101", "ok", 0)
				m.Ended("+12025550101", "send-sms", bridge.Failed, bridge.ReasonMapping, 0)
				m.Ended("order-shipped", "send-sms", "nonsense", "nonsense", 0)
			},
			map[string]string{
				`bridge8x8_events_taken_total{source="_"}`:                      "1",
				`bridge8x8_events_unrouted_total{source="_"}`:                   "1",
				`bridge8x8_runs_total{action="_",kind="ok"}`:                    "1",
				`bridge8x8_run_seconds_count{action="_"}`:                       "1",
				`bridge8x8_outcomes_total{action="_",route="_",state="failed"}`: "1",
				`bridge8x8_failures_total{reason="mapping",route="_"}`:          "1",
				`bridge8x8_event_seconds_count{route="_"}`:                      "1",
				`bridge8x8_event_seconds_count{route="order-shipped"}`:          "1",
			},
		},
		"the process": {
			func(m *telemetry.Metrics) {
				m.Connected(true)
				m.Reloaded(true)
				m.InFlight(func() int { return 7 })
				m.Trouble()
				m.LedgerFailed()
				m.Logged(false)
			},
			map[string]string{
				`bridge8x8_nats_connected`:                "1",
				`bridge8x8_config_last_reload_successful`: "1",
				`bridge8x8_runs_in_flight`:                "7",
				`bridge8x8_run_logs_missing`:              "1",
				`bridge8x8_troubles_total`:                "1",
				`bridge8x8_ledger_failed_total`:           "1",
			},
		},
		"the process, after better days": {
			func(m *telemetry.Metrics) {
				m.Connected(true)
				m.Connected(false)
				m.Reloaded(true)
				m.Reloaded(false)
			},
			map[string]string{},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMetrics(t)
			test.happens(m)
			if diff := cmp.Diff(test.want, moved(t, m)); diff != "" {
				t.Errorf("series (-want +got):\n%s", diff)
			}
		})
	}
}

// A reload adds what is new and keeps what was counted, while events go on.
func TestPresetAgain(t *testing.T) {
	t.Parallel()
	m := newMetrics(t)
	m.Ended("order-shipped", "send-sms", bridge.Succeeded, "", time.Second)
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 1000 {
			m.Taken("orders")
		}
	})
	m.Preset([]string{"alerts"}, []telemetry.Route{{Name: "alarm", Action: "send-sms"}, {Name: "order-shipped", Action: "send-batch-sms"}})
	wg.Wait()

	values := scrape(t, m)
	want := map[string]string{
		`bridge8x8_events_taken_total{source="orders"}`:                                             "1000",
		`bridge8x8_events_taken_total{source="alerts"}`:                                             "0",
		`bridge8x8_outcomes_total{action="send-sms",route="order-shipped",state="succeeded"}`:       "1",
		`bridge8x8_outcomes_total{action="send-batch-sms",route="order-shipped",state="succeeded"}`: "0",
		`bridge8x8_outcomes_total{action="send-sms",route="alarm",state="succeeded"}`:               "0",
		`bridge8x8_failures_total{reason="rejected",route="alarm"}`:                                 "0",
	}
	for series, value := range want {
		if values[series] != value {
			t.Errorf("%s = %q, want %q", series, values[series], value)
		}
	}
}

func TestRequestsAreCountedByPattern(t *testing.T) {
	t.Parallel()
	m := telemetry.NewMetrics("v1.2.3")
	mux := http.NewServeMux()
	mux.HandleFunc("POST /events", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) })
	mux.HandleFunc("POST /webhooks/{name}", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok")
		_ = http.NewResponseController(w).Flush() // what wraps the writer must not hide it
	})
	server := httptest.NewServer(m.Requests(mux))
	defer server.Close()

	for _, path := range []string{"/events", "/webhooks/shop", "/webhooks/+12025550101", "/+12025550101"} {
		response, err := http.Post(server.URL+path, "text/plain", nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
	}
	want := map[string]string{
		`bridge8x8_http_requests_total{code="202",endpoint="/events"}`:          "1",
		`bridge8x8_http_requests_total{code="200",endpoint="/webhooks/{name}"}`: "2",
		`bridge8x8_http_requests_total{code="404",endpoint="_"}`:                "1",
	}
	if diff := cmp.Diff(want, moved(t, m)); diff != "" {
		t.Errorf("series (-want +got):\n%s", diff)
	}
}

func BenchmarkEnded(b *testing.B) {
	m := telemetry.NewMetrics("v1.2.3")
	m.Preset(nil, []telemetry.Route{{Name: "order-shipped", Action: "send-sms"}})
	b.ReportAllocs()
	for b.Loop() {
		m.Ended("order-shipped", "send-sms", bridge.Succeeded, "", time.Second)
	}
}
