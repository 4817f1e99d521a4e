package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge/admin"
)

func holds(context.Context) error { return nil }

func serve(t *testing.T, o admin.Options) string {
	t.Helper()
	server := httptest.NewServer(admin.New(o))
	t.Cleanup(server.Close)
	return server.URL
}

// ask makes one request and returns the answer with its body.
func ask(t *testing.T, method, url string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

func TestPages(t *testing.T) {
	t.Parallel()
	full := admin.Options{
		Version: "v1.2.3",
		Checks:  []admin.Check{{Name: "nats", Func: func(context.Context) error { return errors.New("not connected") }}},
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up 1\n") }),
	}
	tests := map[string]struct {
		options      admin.Options
		method, path string
		code         int
		body         string
		allow        string
	}{
		"it lives, ready or not": {options: full, method: "GET", path: "/healthz", code: 200, body: "ok\n"},
		"a probe without a body": {options: full, method: "HEAD", path: "/healthz", code: 200},
		"metrics":                {options: full, method: "GET", path: "/metrics", code: 200, body: "up 1\n"},
		"no metrics":             {method: "GET", path: "/metrics", code: 404, body: "404 page not found\n"},
		"reading only":           {options: full, method: "POST", path: "/readyz", code: 405, body: "Method Not Allowed\n", allow: "GET, HEAD"},
		"nothing else":           {options: full, method: "GET", path: "/debug/pprof/", code: 404, body: "404 page not found\n"},
		"the index names what there is": {options: full, method: "GET", path: "/", code: 200,
			body: "bridge8x8 v1.2.3\n\n/healthz   the process lives\n/readyz    it can work, and if not, why\n/metrics   Prometheus metrics\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			response, body := ask(t, test.method, serve(t, test.options)+test.path)
			if response.StatusCode != test.code || body != test.body || response.Header.Get("Allow") != test.allow {
				t.Errorf("%s %s answered %d %q (Allow: %q)\nwant %d %q (Allow: %q)", test.method, test.path,
					response.StatusCode, body, response.Header.Get("Allow"), test.code, test.body, test.allow)
			}
			if got := response.Header.Get("Cache-Control"); got != "no-store" {
				t.Errorf("Cache-Control: %q, want no-store", got)
			}
		})
	}
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	hangs := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	tests := map[string]struct {
		checks []admin.Check
		code   int
		want   admin.Readiness
	}{
		"nothing to check": {nil, 200, admin.Readiness{Ready: true, Checks: []admin.CheckResult{}}},
		"all holds": {
			[]admin.Check{{Name: "nats", Func: holds}, {Name: "config", Func: holds}},
			200, admin.Readiness{Ready: true, Checks: []admin.CheckResult{{Name: "nats", OK: true}, {Name: "config", OK: true}}},
		},
		"one does not": {
			[]admin.Check{{Name: "nats", Func: func(context.Context) error { return errors.New(`no server at "nats://127.0.0.1:4222"`) }}, {Name: "config", Func: holds}},
			503, admin.Readiness{Checks: []admin.CheckResult{
				{Name: "nats", Error: `no server at "nats://127.0.0.1:4222"`}, {Name: "config", OK: true},
			}},
		},
		"a detail does not": {
			[]admin.Check{{Name: "nats", Func: holds}, {Name: "run logs", Detail: true, Func: func(context.Context) error { return errors.New("none are shown") }}},
			200, admin.Readiness{Ready: true, Checks: []admin.CheckResult{
				{Name: "nats", OK: true}, {Name: "run logs", Detail: true, Error: "none are shown"},
			}},
		},
		"one does not answer": {
			[]admin.Check{{Name: "nats", Func: hangs}, {Name: "config", Func: holds}},
			503, admin.Readiness{Checks: []admin.CheckResult{{Name: "nats", Error: "context deadline exceeded"}, {Name: "config", OK: true}}},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			response, body := ask(t, "GET", serve(t, admin.Options{Checks: test.checks})+"/readyz")
			if response.StatusCode != test.code || response.Header.Get("Content-Type") != "application/json" {
				t.Errorf("answered %d %s, want %d application/json", response.StatusCode, response.Header.Get("Content-Type"), test.code)
			}
			var got admin.Readiness
			if err := json.Unmarshal([]byte(body), &got); err != nil {
				t.Fatalf("%v in %s", err, body)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

// A panic in the handler reaches the log as a line of ours, and the next request
// is answered.
func TestServerLogsWhatGoesWrong(t *testing.T) {
	t.Parallel()
	lines := make(chan string, 10)
	log := slog.New(slog.NewTextHandler(writer(func(b []byte) { lines <- string(b) }), nil))
	config := admin.NewServer(admin.New(admin.Options{Metrics: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("broken page") })}), log)
	server := httptest.NewUnstartedServer(config.Handler)
	server.Config = config
	server.Start()
	defer server.Close()

	if response, err := http.Get(server.URL + "/metrics"); err == nil {
		response.Body.Close()
		t.Fatalf("the broken page answered %d", response.StatusCode)
	}
	if line := <-lines; !strings.Contains(line, "level=WARN") || !strings.Contains(line, "broken page") {
		t.Errorf("log line %q, want a warning that tells of the broken page", line)
	}
	if response, _ := ask(t, "GET", server.URL+"/healthz"); response.StatusCode != http.StatusOK {
		t.Errorf("afterwards /healthz answered %d", response.StatusCode)
	}
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) { w(b); return len(b), nil }
