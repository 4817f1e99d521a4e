package sandbox_test

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

// sdkDir is a Node project with the official SDK in it.
const sdkDir = "testdata/sdk"

var installing sync.Mutex

// needSDK installs the SDK where it is missing.
func needSDK(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("the official SDK needs Node.js and a package registry")
	}
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s is missing: install Node.js 20 or later, or run with -short", program)
		}
	}
	installing.Lock() // the tests run at once
	defer installing.Unlock()
	if _, err := os.Stat(sdkDir + "/node_modules/@membranehq/sdk/package.json"); err == nil {
		return
	}
	install := exec.CommandContext(t.Context(), "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	install.Dir = sdkDir
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
}

// check is a line that the scripts print.
type check struct {
	Name  string `json:"name"`
	OK    bool   `json:"ok"`
	Error string `json:"error"`
}

func readChecks(t *testing.T, out []byte) []check {
	t.Helper()
	var checks []check
	for line := range bytes.Lines(out) {
		var c check
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatalf("the script printed %q", line)
		}
		checks = append(checks, c)
	}
	return checks
}

// The official SDK drives the sandbox, and reads each answer with its own schemas.
func TestOfficialSDK(t *testing.T) {
	t.Parallel()
	runScript(t, "contract.mjs", 171)
}

// The sandbox refuses what the SDK's request schemas refuse, and nothing else for
// a field's sake.
func TestRequestSchemas(t *testing.T) {
	t.Parallel()
	runScript(t, "schemas.mjs", 11)
}

// runScript runs a script against a sandbox of its own; each check that it prints
// is a test.
func runScript(t *testing.T, name string, atLeast int) {
	t.Helper()
	needSDK(t)
	server := sandbox.New(sandbox.Options{BuildDelay: 20 * time.Millisecond})
	t.Cleanup(server.Close)
	web := httptest.NewServer(server)
	t.Cleanup(web.Close)

	script := exec.CommandContext(t.Context(), "node", name, web.URL)
	script.Dir = sdkDir
	var stderr bytes.Buffer
	script.Stderr = &stderr
	out, err := script.Output()
	checks := readChecks(t, out)
	for _, c := range checks {
		t.Run(c.Name, func(t *testing.T) {
			if !c.OK {
				t.Error(c.Error)
			}
		})
	}
	if err != nil {
		t.Fatalf("the script ended early: %v\n%s", err, stderr.String())
	}
	if len(checks) < atLeast {
		t.Errorf("%d checks ran, want %d or more", len(checks), atLeast)
	}
}

func TestRequestCheck(t *testing.T) {
	t.Parallel()
	needSDK(t)
	script := exec.CommandContext(t.Context(), "node", "check-requests.mjs")
	script.Dir = sdkDir
	script.Stdin = strings.NewReader(`[
		{"key":"send-sms","connectionKey":"8x8-sandbox","input":{"text":"x"},"meta":{"try":"1"}},
		{"key":"send-sms","extra":1},
		{"key":"send-sms","connectionId":null},
		{"key":"send-sms","id":"1"}
	]`)
	out, err := script.Output()
	if err == nil {
		t.Error("the script said yes to bad requests")
	}
	var verdicts []bool
	for _, c := range readChecks(t, out) {
		verdicts = append(verdicts, c.OK)
	}
	if len(verdicts) != 4 || !verdicts[0] || verdicts[1] || verdicts[2] || verdicts[3] {
		t.Errorf("verdicts %v, want only the first to pass", verdicts)
	}
}
