package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bridge8x8/bridge8x8/config"
)

// scriptSandbox is "sandbox flags…": it starts one, and sets SANDBOX to its address.
func scriptSandbox(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("usage: sandbox [flags...]")
	}
	box := exec.Command("bridge8x8", append([]string{"sandbox", "--addr", "127.0.0.1:0"}, args...)...)
	out, err := box.StdoutPipe()
	ts.Check(err)
	ts.Check(box.Start())
	ts.Defer(func() {
		_ = box.Process.Signal(os.Interrupt)
		_ = box.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	ts.Check(err)
	fields := strings.Fields(line) // sandbox: http://127.0.0.1:1234 (token …
	if len(fields) < 2 {
		ts.Fatalf("the sandbox said %q", line)
	}
	ts.Setenv("SANDBOX", fields[1])
}

var (
	pageAddress = regexp.MustCompile(`(?m)^\s+(https?://\S+)$`)
	hidden      = regexp.MustCompile(`name="([^"]+)" value="([^"]*)"`)
)

// press opens a page as a browser would, and presses the button of a decision.
// It gives the address that the browser ends on.
func press(address, decision string) (string, error) {
	client := &http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	page, err := client.Get(address)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(page.Body)
	_ = page.Body.Close()
	if err != nil {
		return "", err
	}
	form := url.Values{}
	for _, m := range hidden.FindAllStringSubmatch(string(body), -1) {
		form.Set(m[1], strings.NewReplacer("&#43;", "+", "&amp;", "&").Replace(m[2]))
	}
	if page.StatusCode != http.StatusOK || len(form) == 0 {
		return "", errors.New("the page is " + page.Status + ": " + string(body))
	}
	form.Set("decision", decision)
	at, err := url.Parse(address)
	if err != nil {
		return "", err
	}
	at.RawQuery = ""
	answer, err := client.PostForm(at.String(), form)
	if err != nil {
		return "", err
	}
	defer func() { _ = answer.Body.Close() }()
	if to := answer.Header.Get("Location"); to != "" {
		return to, nil
	}
	if answer.StatusCode != http.StatusOK {
		return "", errors.New("the page answered " + answer.Status)
	}
	return address, nil
}

// scriptDecide is "decide DECISION": it opens the address that the last command
// printed on the standard output, presses a button there, and sets BACK to where
// the browser ends.
func scriptDecide(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: decide decision")
	}
	found := pageAddress.FindStringSubmatch(ts.ReadFile("stdout"))
	var page struct{ URL string }
	if json.Unmarshal([]byte(ts.ReadFile("stdout")), &page) == nil {
		found = []string{"", page.URL}
	}
	if found == nil {
		ts.Fatalf("no address in %q", ts.ReadFile("stdout"))
	}
	back, err := press(found[1], args[0])
	ts.Check(err)
	ts.Setenv("BACK", back)
}

// scriptDecides is "decides CODE DECISION program args…": it runs a program that
// waits for a person, opens the address that it prints on the standard error,
// presses a button, lets the browser go where it is sent, and leaves what the
// program printed in the files out and err.
func scriptDecides(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: decides code decision program [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	cmd := exec.Command(args[2], args[3:]...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "XDG_CONFIG_HOME", "MEMBRANE_API_URL", "MEMBRANE_TOKEN", "MEMBRANE_CONNECTION"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	var out, errs bytes.Buffer
	cmd.Stdout = &out
	stderr, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	pressed := false
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		errs.WriteString(lines.Text() + "\n")
		found := pageAddress.FindStringSubmatch(lines.Text())
		if found == nil || pressed {
			continue
		}
		pressed = true
		back, err := press(found[1], args[1])
		if err == nil && back != found[1] {
			var answer *http.Response
			if answer, err = http.Get(back); err == nil {
				_ = answer.Body.Close()
			}
		}
		if err != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			ts.Fatalf("%v", err)
		}
	}
	code := 0
	if err := cmd.Wait(); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	ts.Check(os.WriteFile(ts.MkAbs("out"), out.Bytes(), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("err"), errs.Bytes(), 0o600))
	if code != want || !pressed {
		ts.Fatalf("exit code %d, want %d; it said\n%s%s", code, want, &out, &errs)
	}
}

// scriptServe is "serve": it runs a bridge on free ports until the script ends,
// waits until it is ready, and sets NATS_URL to its server.
func scriptServe(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: serve")
	}
	port := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		defer func() { _ = l.Close() }()
		return l.Addr().String()
	}
	admin, bus := port(), port()
	bridge := exec.Command("bridge8x8", "serve")
	bridge.Dir = ts.MkAbs(".")
	bridge.Env = []string{
		"NATS_URL=embedded", "BRIDGE_NATS_ADDR=" + bus, "BRIDGE_HTTP_ADDR=", "BRIDGE_ADMIN_ADDR=" + admin,
		"BRIDGE_DATA_DIR=" + ts.MkAbs("data"), "LOG_FORMAT=text",
	}
	for _, name := range []string{"PATH", "HOME", "XDG_CONFIG_HOME", "BRIDGE_CONFIG"} {
		bridge.Env = append(bridge.Env, name+"="+ts.Getenv(name))
	}
	var said bytes.Buffer
	bridge.Stdout, bridge.Stderr = &said, &said
	ts.Check(bridge.Start())
	ended := make(chan struct{})
	go func() { _ = bridge.Wait(); close(ended) }()
	ts.Defer(func() {
		_ = bridge.Process.Signal(os.Interrupt)
		<-ended
	})
	tick, late := time.NewTicker(50*time.Millisecond), time.After(60*time.Second)
	defer tick.Stop()
	for {
		answer, err := http.Get("http://" + admin + "/readyz")
		if err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				break
			}
		}
		select {
		case <-ended:
			ts.Fatalf("the bridge ended:\n%s", said.String())
		case <-late:
			ts.Fatalf("the bridge is not ready")
		case <-tick.C:
		}
	}
	ts.Setenv("NATS_URL", "nats://"+bus)
}

// scriptRoute is "route FILE": it saves the route that actions show printed.
func scriptRoute(ts *testscript.TestScript, neg bool, args []string) {
	_, route, ok := strings.Cut(ts.ReadFile("stdout"), "\nroute:\n\n")
	if neg || len(args) != 1 || !ok {
		ts.Fatalf("usage: route file, after actions show")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(route), 0o600))
}

// scriptControl is "control PATH JSON": a control of the sandbox.
func scriptControl(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: control path json")
	}
	answer, err := http.Post(ts.Getenv("SANDBOX")+"/_sandbox/"+args[0], "application/json", strings.NewReader(args[1]))
	ts.Check(err)
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode/100 != 2 {
		body, _ := io.ReadAll(answer.Body)
		ts.Fatalf("%s: %s", answer.Status, body)
	}
}

// scriptEffects is "effects ACTION N": an action had so many effects at 8x8.
func scriptEffects(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: effects action number")
	}
	answer, err := http.Get(ts.Getenv("SANDBOX") + "/_sandbox/effects")
	ts.Check(err)
	defer func() { _ = answer.Body.Close() }()
	var all struct{ Items []struct{ Action string } }
	ts.Check(json.NewDecoder(answer.Body).Decode(&all))
	n := 0
	for _, e := range all.Items {
		if e.Action == args[0] {
			n++
		}
	}
	if strconv.Itoa(n) != args[1] {
		ts.Fatalf("%d effects of %s, want %s", n, args[0], args[1])
	}
}

// scriptRunID is "run-id": it sets RUN to the first run that runs list --json printed.
func scriptRunID(ts *testscript.TestScript, neg bool, args []string) {
	var list struct{ Items []struct{ ID string } }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &list))
	if neg || len(args) > 0 || len(list.Items) == 0 {
		ts.Fatalf("usage: run-id, after runs list --json")
	}
	ts.Setenv("RUN", list.Items[0].ID)
}

func TestExpiryOfAToken(t *testing.T) {
	t.Parallel()
	for token, want := range map[string]string{
		"pat-sandbox": "", "": "", "a.b.c": "", "e30.eyJleHAiOjE3NjcyMjU2MDB9.x": "2026-01-01T00:00:00Z", "e30.e30.x": "",
	} {
		if got := stamp(expiry(config.Secret(token))); got != want {
			t.Errorf("%q: got %q, want %q", token, got, want)
		}
	}
}
