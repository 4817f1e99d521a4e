package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// checkLimit is how long all checks together may take. Kubernetes gives a probe
// one second by default, and a late answer tells less than an early no.
const checkLimit = 800 * time.Millisecond

// Check is one thing that the process needs in order to work.
type Check struct {
	// Name is a word or two, such as "nats".
	Name string
	// Func returns nil, or why not in words for an operator, without secrets. It
	// must be cheap, may be called by several goroutines at once, and must return
	// when its context ends.
	Func func(context.Context) error
	// Detail says that the process is ready all the same if it fails.
	Detail bool
}

// Options is what the admin listener serves.
type Options struct {
	// Version of the program, for the index.
	Version string
	// Checks decide about readiness. Without any the process is always ready.
	Checks []Check
	// Metrics serves /metrics. Without it there is no such page.
	Metrics http.Handler
}

// Readiness is the answer of GET /readyz.
type Readiness struct {
	Ready  bool          `json:"ready"`
	Checks []CheckResult `json:"checks"` // in the order of Options.Checks
}

// CheckResult is how one check went.
type CheckResult struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Detail: it does not decide about readiness.
	Detail bool   `json:"detail,omitempty"`
	Error  string `json:"error,omitempty"`
}

// New makes the handler of the admin listener:
//
//	GET /healthz   200 while the process lives
//	GET /readyz    200 if every check holds, else 503; a Readiness either way
//	GET /metrics   Prometheus
//	GET /          what there is
func New(o Options) http.Handler {
	mux := http.NewServeMux()
	index := fmt.Sprintf("bridge8x8 %s\n\n/healthz   the process lives\n/readyz    it can work, and if not, why\n", o.Version)
	if o.Metrics != nil {
		index += "/metrics   Prometheus metrics\n"
		mux.Handle("GET /metrics", o.Metrics)
	}
	mux.HandleFunc("GET /{$}", text(index))
	mux.HandleFunc("GET /healthz", text("ok\n"))
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		readiness := check(r.Context(), o.Checks)
		body, err := json.MarshalIndent(readiness, "", "  ")
		if err != nil { // text and bools: cannot fail
			http.Error(w, "cannot encode the answer", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if !readiness.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write(append(body, '\n'))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		mux.ServeHTTP(w, r)
	})
}

// NewServer makes a server for a handler of this package, with limits that a
// slow or hostile client cannot hold it by. What goes wrong with a connection is
// logged as a warning.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}

// check makes all checks at once.
func check(ctx context.Context, checks []Check) Readiness {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	readiness := Readiness{Ready: true, Checks: make([]CheckResult, len(checks))}
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() {
			result := CheckResult{Name: c.Name, OK: true, Detail: c.Detail}
			if err := c.Func(ctx); err != nil {
				result.OK, result.Error = false, err.Error()
			}
			readiness.Checks[i] = result
		})
	}
	wg.Wait()
	for _, result := range readiness.Checks {
		readiness.Ready = readiness.Ready && (result.OK || result.Detail)
	}
	return readiness
}

func text(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte(body))
	}
}
