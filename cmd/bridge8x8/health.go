package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bridge8x8/bridge8x8/bridge/admin"
	"github.com/bridge8x8/bridge8x8/config"
)

const (
	adminAddr = "BRIDGE_ADMIN_ADDR"
	// healthEvery is how soon --wait asks again.
	healthEvery = 100 * time.Millisecond
	// maxReadiness is more than /readyz ever answers, in bytes.
	maxReadiness = 64 << 10
)

type healthFlags struct {
	addr          string
	live, json    bool
	timeout, wait time.Duration
}

func newHealth() *cobra.Command {
	var f healthFlags
	cmd := &cobra.Command{
		Use: "health", Short: "ask a running bridge whether it can work", Args: noArgs,
		Long: `Asks the admin listener of a running bridge whether it can work (/readyz), or with
--live only whether it lives (/healthz), and prints what it is waiting for. For
container health checks and probes, where there is neither shell nor curl.

Exit code 0 if so, 1 if not or if nobody answers.`,
		Example: `  bridge8x8 health
  bridge8x8 health --live --timeout 1s
  bridge8x8 health --wait 30s`,
		RunE: func(cmd *cobra.Command, _ []string) error { return health(cmd, f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.addr, "addr", "", "the admin listener, `host:port` (default: "+adminAddr+")")
	flags.BoolVar(&f.live, "live", false, "only ask whether the process lives")
	flags.DurationVar(&f.timeout, "timeout", 2*time.Second, "how long to wait for an answer")
	flags.DurationVar(&f.wait, "wait", 0, "ask again until it is so, for so long")
	flags.BoolVar(&f.json, "json", false, "print the answer as JSON")
	return cmd
}

// health asks once, or until the answer is yes, and prints the last answer.
func health(cmd *cobra.Command, f healthFlags) error {
	base, err := f.base()
	if err != nil {
		return err
	}
	if f.timeout <= 0 || f.wait < 0 {
		return usagef("--timeout must be longer than nothing, and --wait not negative")
	}
	limit := f.timeout
	if f.wait > 0 {
		limit = f.wait
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), limit)
	defer cancel()
	ticker := time.NewTicker(healthEvery)
	defer ticker.Stop()
	var said *admin.Readiness // what it answered last
	var trouble error         // or why it did not
	for {
		readiness, err := askHealth(ctx, base, f.live, f.timeout)
		switch {
		case err == nil && readiness.Ready:
			return f.print(cmd, readiness)
		case err == nil:
			said = &readiness
		case said == nil && (trouble == nil || ctx.Err() == nil): // not that our own time was up
			trouble = err
		}
		if f.wait > 0 {
			select {
			case <-ctx.Done():
			case <-ticker.C:
				continue
			}
		}
		if said == nil {
			return trouble
		}
		if err := f.print(cmd, *said); err != nil {
			return err
		}
		return errSilent
	}
}

// base is where to ask, as a URL without a path.
func (f *healthFlags) base() (string, error) {
	addr, name := f.addr, "--addr"
	if addr == "" {
		// Only this variable: a probe must not fail over a secret that is just being changed.
		environ := map[string]string{}
		if value, ok := os.LookupEnv(adminAddr); ok {
			environ[adminAddr] = value
		}
		env, problems := config.LoadEnv(environ)
		if problems.Errors() {
			return "", problems
		}
		addr, name = env.Bridge.AdminAddr, adminAddr
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port == "" {
		return "", usagef("%s %q is no address to ask; write host:port, such as 127.0.0.1:9090", name, addr)
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1" // it listens everywhere, and so also here
		if ip.Is6() {
			host = "::1"
		}
	}
	return "http://" + net.JoinHostPort(host, port), nil
}

// askHealth asks once. A no is no error; nobody there, or somebody else, is.
func askHealth(ctx context.Context, base string, live bool, timeout time.Duration) (admin.Readiness, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	path := "/readyz"
	if live {
		path = "/healthz"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, http.NoBody)
	if err != nil {
		return admin.Readiness{}, err
	}
	// No proxy of the environment: it is this machine, or this pod, that is asked.
	transport := &http.Transport{DisableKeepAlives: true}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return admin.Readiness{}, fmt.Errorf("%s did not answer in %v", base+path, timeout)
		}
		return admin.Readiness{}, fmt.Errorf("nobody to ask; is the bridge running there? %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxReadiness))
	if err != nil {
		return admin.Readiness{}, fmt.Errorf("%s: %w", base+path, err)
	}
	if live {
		if response.StatusCode != http.StatusOK || strings.TrimSpace(string(body)) != "ok" {
			return admin.Readiness{}, notAdmin(base+path, response)
		}
		return admin.Readiness{Ready: true, Checks: []admin.CheckResult{}}, nil
	}
	var readiness admin.Readiness
	known := response.StatusCode == http.StatusOK || response.StatusCode == http.StatusServiceUnavailable
	if !known || json.Unmarshal(body, &readiness) != nil || readiness.Ready != (response.StatusCode == http.StatusOK) {
		return admin.Readiness{}, notAdmin(base+path, response)
	}
	return readiness, nil
}

func notAdmin(url string, response *http.Response) error {
	return fmt.Errorf("%s answered %s, which no bridge's admin listener does; %s tells where it is", url, response.Status, adminAddr)
}

func (f *healthFlags) print(cmd *cobra.Command, r admin.Readiness) error {
	if f.json {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	switch {
	case f.live:
		cmd.Println("alive")
		return nil
	case r.Ready:
		cmd.Println("ready")
	default:
		cmd.Println("not ready")
	}
	for _, c := range r.Checks {
		state := "ok"
		if !c.OK {
			state = c.Error
		}
		cmd.Printf("  %-8s %s\n", c.Name, state)
	}
	return nil
}
