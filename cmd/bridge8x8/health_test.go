package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/bridge8x8/bridge8x8/bridge/admin"
)

func TestHealth(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	later := admin.Check{Name: "nats", Func: func(context.Context) error {
		if asked.Add(1) < 3 {
			return errors.New("not connected")
		}
		return nil
	}}
	ready := admin.New(admin.Options{Checks: []admin.Check{{Name: "nats", Func: func(context.Context) error { return nil }}}})
	broken := admin.New(admin.Options{Checks: []admin.Check{{Name: "nats", Func: func(context.Context) error { return errors.New("not connected") }}}})
	slow := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	other := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") })
	away := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
	})

	tests := map[string]struct {
		handler  http.Handler
		args     []string
		code     int
		out, err string // a part
	}{
		"ready":               {ready, nil, exitDone, "ready\n  nats     ok\n", ""},
		"not ready":           {broken, nil, exitFail, "not ready\n  nats     not connected\n", ""},
		"as JSON":             {broken, []string{"--json"}, exitFail, `"ready": false`, ""},
		"alive though":        {broken, []string{"--live"}, exitDone, "alive\n", ""},
		"ready later":         {admin.New(admin.Options{Checks: []admin.Check{later}}), []string{"--wait", "20s"}, exitDone, "ready\n", ""},
		"never ready":         {broken, []string{"--wait", "300ms"}, exitFail, "not connected", ""},
		"no answer":           {slow, []string{"--timeout", "50ms"}, exitFail, "", "did not answer in 50ms"},
		"somebody else":       {other, nil, exitFail, "", "which no bridge's admin listener does; BRIDGE_ADMIN_ADDR tells where it is"},
		"somebody else lives": {other, []string{"--live"}, exitFail, "", "which no bridge's admin listener does"},
		"sends us elsewhere":  {away, nil, exitFail, "", "302 Found"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewUnstartedServer(test.handler)
			server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
			server.Start()
			defer server.Close()
			var out, errs bytes.Buffer
			args := append([]string{"health", "--addr", server.Listener.Addr().String()}, test.args...)
			code := run(t.Context(), args, nil, &out, &errs)
			if code != test.code || !strings.Contains(out.String(), test.out) || !strings.Contains(errs.String(), test.err) || (test.err == "") != (errs.Len() == 0) {
				t.Errorf("exit code %d, want %d; it said %q and %q, want %q and %q", code, test.code, out.String(), errs.String(), test.out, test.err)
			}
		})
	}
}

// A bridge that listens everywhere is asked on loopback.
func TestHealthAddress(t *testing.T) { //nolint:paralleltest // it sets the environment
	tests := map[string]string{
		"127.0.0.1:9090": "http://127.0.0.1:9090",
		":9090":          "http://127.0.0.1:9090",
		"0.0.0.0:9090":   "http://127.0.0.1:9090",
		"[::]:9090":      "http://[::1]:9090",
		"localhost:1":    "http://localhost:1",
	}
	for addr, want := range tests {
		for _, f := range []healthFlags{{addr: addr}, {}} {
			t.Setenv(adminAddr, addr)
			if got, err := f.base(); err != nil || got != want {
				t.Errorf("%+v with %s=%s: %q, %v, want %q", f, adminAddr, addr, got, err, want)
			}
		}
	}
}
