package app_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// sdkProject is the Node project that holds the official SDK, and the script
// that checks request bodies with its strict schemas.
const (
	sdkProject   = "../sandbox/testdata/sdk"
	requestCheck = "check-requests.mjs"
)

// officialSDK gives the folder of a project in which the SDK is installed.
func officialSDK(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("the official SDK needs Node.js and a package registry")
	}
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s is missing: install Node.js 20 or later, or run with -short", program)
		}
	}
	// npm writes this file last.
	if _, err := os.Stat(filepath.Join(sdkProject, "node_modules", ".package-lock.json")); err == nil {
		return sdkProject
	}
	// The sandbox's own tests may be installing there right now, and two
	// installations in one folder destroy each other: this one gets its own.
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", requestCheck} {
		content, err := os.ReadFile(filepath.Join(sdkProject, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	install := exec.CommandContext(t.Context(), "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	return dir
}

// Each action's input as a route would give it, and the data of the event that
// the route makes it of.
var requestInputs = map[string]string{
	"send-sms": `{"destination":"+12025550100","text":"Grüße ✓ \"quoted\" <b>","source":"Shop","encoding":"AUTO"}`,
	"send-batch-sms": `{"messages":[{"destination":"+12025550101"},{"destination":"+12025550102","text":"two"}],
		"template":{"text":"all"}}`,
	"get-sms-status":            `{"umid":"0f3c8a1e-2b4d-4c6e-8f90-123456789abc"}`,
	"get-account-balance":       `{}`,
	"list-contacts":             `{"limit":5,"offset":0,"query":"Bo"}`,
	"create-contact":            `{"addresses":{"msisdn":"+12025550103"},"firstName":"Bo","groups":[{"id":1}],"customAttributes":{"vip":true,"none":null}}`,
	"list-groups":               `{"name":"vip"}`,
	"add-contacts-to-group":     `{"groupId":2,"contacts":[9001]}`,
	"request-sms-log-export":    `{"from":"2026-01-01","to":"2026-01-02","phoneNumber":"+12025550104","countries":["US"],"limit":10}`,
	"get-sms-log-export-result": `{"jobId":"0123456789abcdef"}`,
}

// Every body that the bridge posts to Membrane passes the strict schema of the
// official SDK: by key and by id, over a connection's key and id, and with none.
func TestRequestsPassTheOfficialSchema(t *testing.T) {
	t.Parallel()
	project := officialSDK(t)
	ids := sandboxActionIDs(t)

	var yaml strings.Builder
	yaml.WriteString("connections:\n  by-key: {key: 8x8-sandbox}\n  by-id: {id: " + sandbox.ConnectionID + "}\nroutes:\n")
	want := map[string]string{} // the body's dispatch and connection, by the event's id
	for _, key := range catalog.Builtin().Keys() {
		if requestInputs[key] == "" {
			t.Fatalf("there is no input for action %s", key)
		}
		for _, how := range []struct{ name, run, connection, want string }{
			{"key-key", key, "by-key", "key=" + key + " connectionKey=8x8-sandbox"},
			{"key-id", key, "by-id", "key=" + key + " connectionId=" + sandbox.ConnectionID},
			{"key-none", key, "", "key=" + key},
			{"id-key", "{id: " + ids[key] + "}", "by-key", "id=" + ids[key] + " connectionKey=8x8-sandbox"},
			{"id-none", "{id: " + ids[key] + "}", "", "id=" + ids[key]},
		} {
			name := key + "-" + how.name
			fmt.Fprintf(&yaml, "  - name: %s\n    on: com.example.%[1]s\n    run: %s\n    retry: {attempts: 1}\n    input:\n", name, how.run)
			var fields map[string]any
			if err := json.Unmarshal([]byte(requestInputs[key]), &fields); err != nil {
				t.Fatal(err)
			}
			if len(fields) == 0 {
				yaml.WriteString("      accountId: ${ .data.account }\n")
			}
			for field := range fields {
				fmt.Fprintf(&yaml, "      %s: ${ .data.%[1]s }\n", field)
			}
			if how.connection != "" {
				fmt.Fprintf(&yaml, "    connection: %s\n", how.connection)
			}
			want[name] = how.want
		}
	}
	w := startWhole(t, wholeOptions{yaml: yaml.String()})
	for name := range want {
		key := actionOfRequest(name)
		data := json.RawMessage(requestInputs[key])
		if string(data) == "{}" {
			data = json.RawMessage(`{"account":"acme"}`)
		}
		body, err := json.Marshal(map[string]any{
			"specversion": "1.0", "id": name, "source": trialSource, "type": "com.example." + name, "data": data,
		})
		if err != nil {
			t.Fatal(err)
		}
		w.post(t, body)
	}
	w.await(t, "not every action was run", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.acts) == len(want)
	})
	for name := range want {
		w.awaitOutcome(t, name)
	}

	w.mu.Lock()
	bodies := slices.Clone(w.bodies)
	w.mu.Unlock()
	for _, body := range bodies {
		var request struct {
			Key, ID, ConnectionKey, ConnectionID string
			Input                                map[string]any
			Meta                                 struct{ EventID string }
		}
		if err := json.Unmarshal(body, &request); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, field := range []struct{ name, value string }{
			{"key", request.Key}, {"id", request.ID}, {"connectionKey", request.ConnectionKey}, {"connectionId", request.ConnectionID},
		} {
			if field.value != "" {
				got = append(got, field.name+"="+field.value)
			}
		}
		if got := strings.Join(got, " "); got != want[request.Meta.EventID] {
			t.Errorf("the request of %s has %q, want %q", request.Meta.EventID, got, want[request.Meta.EventID])
		}
		if len(request.Input) == 0 {
			t.Errorf("the request of %s has no input", request.Meta.EventID)
		}
	}

	script := exec.CommandContext(t.Context(), "node", requestCheck)
	script.Dir = project
	script.Stdin = bytes.NewReader(slices.Concat([]byte("["), bytes.Join(bodies, []byte(",")), []byte("]")))
	var stderr bytes.Buffer
	script.Stderr = &stderr
	out, err := script.Output()
	if err != nil {
		t.Errorf("the script says no: %v\n%s", err, stderr.String())
	}
	verdicts := 0
	for line := range bytes.Lines(out) {
		var verdict struct {
			Name  string
			OK    bool
			Error string
		}
		if err := json.Unmarshal(line, &verdict); err != nil {
			t.Fatalf("the script printed %q", line)
		}
		if !verdict.OK {
			t.Errorf("%s: %s: %s", verdict.Name, verdict.Error, bodies[verdicts])
		}
		verdicts++
	}
	if verdicts != len(bodies) || verdicts < len(want) {
		t.Errorf("%d verdicts on %d requests of %d routes", verdicts, len(bodies), len(want))
	}
}

// actionOfRequest undoes the naming of the routes.
func actionOfRequest(name string) string {
	for _, how := range []string{"-key-key", "-key-id", "-key-none", "-id-key", "-id-none"} {
		if key, ok := strings.CutSuffix(name, how); ok {
			return key
		}
	}
	panic(name)
}

// sandboxActionIDs asks a sandbox for the ids of its actions, by key.
func sandboxActionIDs(t *testing.T) map[string]string {
	t.Helper()
	w := startWhole(t, wholeOptions{yaml: routesYAML([]string{"unused"}, nil)})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.boxURL+"/actions", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+sandbox.Token)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var list struct {
		Items []struct{ ID, Key string }
	}
	if err := json.NewDecoder(answer.Body).Decode(&list); err != nil {
		t.Fatal(err)
	}
	ids := map[string]string{}
	for _, item := range list.Items {
		ids[item.Key] = item.ID
	}
	if len(ids) != 10 {
		t.Fatalf("the sandbox lists %d actions, want 10", len(ids))
	}
	return ids
}
