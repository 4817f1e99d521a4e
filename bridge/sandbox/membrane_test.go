package sandbox_test

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

func sign(t *testing.T, method jwt.SigningMethod, secret string, claims jwt.MapClaims) string {
	t.Helper()
	var key any = []byte(secret)
	if method == jwt.SigningMethodNone {
		key = jwt.UnsafeAllowNoneSignatureType
	}
	token, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func bearer(token string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
}

// tenant is the token of a tenant.
func tenant(t *testing.T, key string) func(*http.Request) {
	t.Helper()
	return bearer(sign(t, jwt.SigningMethodHS256, sandbox.WorkspaceSecret, jwt.MapClaims{"iss": "sandbox", "id": key}))
}

func TestTokens(t *testing.T) {
	t.Parallel()
	b := setup(t)
	now := b.clock.Now().Unix()
	hs256, hs512, secret := jwt.SigningMethodHS256, jwt.SigningMethodHS512, sandbox.WorkspaceSecret
	for _, tt := range []struct {
		name, token string
		tenant      string // empty: refused
	}{
		{"personal access token", "pat-sandbox", "sandbox"},
		{"SDK's dialect", sign(t, hs256, secret, jwt.MapClaims{"iss": "sandbox", "id": "acme", "exp": now + 60}), "acme"},
		{"documents' dialect", sign(t, hs512, secret, jwt.MapClaims{"workspaceKey": "sandbox", "tenantKey": "acme", "exp": now + 60}), "acme"},
		{"mixed, without expiry", sign(t, hs256, secret, jwt.MapClaims{"workspaceKey": "sandbox", "id": "acme", "name": "Acme"}), "acme"},
		{"no tenant", sign(t, hs256, secret, jwt.MapClaims{"workspaceKey": "sandbox", "isAdmin": true}), "sandbox"},
		{"expired", sign(t, hs256, secret, jwt.MapClaims{"iss": "sandbox", "id": "acme", "exp": now - 1}), ""},
		{"wrong secret", sign(t, hs256, "secret", jwt.MapClaims{"iss": "sandbox", "id": "acme"}), ""},
		{"other workspace", sign(t, hs256, secret, jwt.MapClaims{"iss": "other", "id": "acme"}), ""},
		{"two workspaces", sign(t, hs256, secret, jwt.MapClaims{"iss": "sandbox", "workspaceKey": "other"}), ""},
		{"no workspace", sign(t, hs256, secret, jwt.MapClaims{"id": "acme"}), ""},
		{"HS384", sign(t, jwt.SigningMethodHS384, secret, jwt.MapClaims{"iss": "sandbox"}), ""},
		{"unsigned", sign(t, jwt.SigningMethodNone, "", jwt.MapClaims{"iss": "sandbox"}), ""},
		{"other personal access token", "pat-other", ""},
		{"nonsense", "nonsense", ""},
		{"empty", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 2 { // the second time it is known
				answer := b.do("GET", "/self", nil, bearer(tt.token))
				if tt.tenant == "" {
					var e envelope
					answer.json(t, &e)
					if answer.status != 401 || e.Type != "bad_request" || e.Key != "not_authenticated" || e.Message == "" {
						t.Errorf("%d %s", answer.status, answer.body)
					}
					continue
				}
				var self struct{ InternalID string }
				answer.json(t, &self)
				if answer.status != 200 || self.InternalID != tt.tenant {
					t.Errorf("%d %s, want tenant %s", answer.status, answer.body, tt.tenant)
				}
			}
		})
	}
}

func TestKnownTokenExpires(t *testing.T) {
	t.Parallel()
	b := setup(t)
	token := bearer(sign(t, jwt.SigningMethodHS256, sandbox.WorkspaceSecret, jwt.MapClaims{"iss": "sandbox", "id": "acme", "exp": b.clock.Now().Unix() + 60}))
	if answer := b.do("GET", "/self", nil, token); answer.status != 200 {
		t.Fatalf("%d %s", answer.status, answer.body)
	}
	b.clock.advance(time.Minute)
	if answer := b.do("GET", "/self", nil, token); answer.status != 401 {
		t.Errorf("%d %s after it has expired", answer.status, answer.body)
	}
}

func TestActIsStrict(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, tt := range []struct {
		name, body string
		status     int
		message    string
	}{
		{"nothing", ``, 400, "one of id, key, api and code must say what to run"},
		{"no JSON", `{`, 400, "the body is no valid JSON"},
		{"two values", `{"key":"send-sms"} {}`, 400, "the body is no valid JSON"},
		{"no object", `[]`, 400, "the body must be an object"},
		{"unknown field", `{"key":"send-sms","Key":"x"}`, 400, `unknown field "Key": want id, key, api, code, integrationId, integrationKey, connectionId, connectionKey, input, meta`},
		{"null", `{"key":"send-sms","meta":null}`, 400, `field "meta" is null; leave it out`},
		{"null input", `{"key":"send-sms","input":null}`, 400, `field "input" is null; leave it out`},
		{"number", `{"key":5}`, 400, `field "key" must be a string`},
		{"meta", `{"key":"list-groups","meta":"x"}`, 400, `field "meta" must be an object`},
		{"no dispatch", `{"input":{}}`, 400, "one of id, key, api and code must say what to run"},
		{"two dispatches", `{"key":"list-groups","code":"x"}`, 400, "only one of id, key, api and code can say what to run"},
		{"inline api, a method in small letters", `{"api":{"method":"get","path":"/"}}`, 400, "field \"method\" of api has a value that it does not take"},
		{"inline api, no path", `{"api":{"method":"GET"}}`, 400, "api needs a path"},
		{"inline api, another field", `{"api":{"method":"GET","path":"/","url":"x"}}`, 400, "unknown field \"url\" of api: want method, path, query, headers, body"},
		{"inline code", `{"code":"x"}`, 400, "the sandbox runs actions by id or key and inline api, not inline code"},
		{"key as id", `{"id":"list-groups"}`, 404, `Action with the id "list-groups" not found`},
		{"unknown key", `{"key":"nothing"}`, 404, `Action "nothing" not found`},
		{"unknown connection", `{"key":"list-groups","connectionKey":"nobody"}`, 404, `Connection "nobody" not found; the sandbox's has the key "8x8-sandbox"`},
		{"unknown integration", `{"key":"list-groups","integrationKey":"other"}`, 404, `Integration "other" not found; the sandbox's has the key "8x8"`},
		{"missing input", `{"key":"send-sms","input":{"text":"x"}}`, 400, "Invalid input: input field destination is required"},
		{"wrong type", `{"key":"send-sms","input":{"destination":"+12025550100","text":5}}`, 400, "Invalid input: input field text must be a string"},
		{"input is a list", `{"key":"list-groups","input":[]}`, 400, "Invalid input: input must be an object"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answer := b.do("POST", "/act", tt.body)
			var e envelope
			answer.json(t, &e)
			if answer.status != tt.status || e.Message != tt.message {
				t.Errorf("%d %q, want %d %q", answer.status, e.Message, tt.status, tt.message)
			}
		})
	}
	large := b.do("POST", "/act", `{"key":"send-sms","input":{"text":"`+strings.Repeat("x", 10<<20)+`"}}`)
	if large.status != 400 || !strings.Contains(large.body, "larger than 10 MB") {
		t.Errorf("large body: %d %s", large.status, large.body)
	}
	if answer := b.do("POST", "/act", `{"key":"list-groups"}`, func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }); answer.status != 400 {
		t.Errorf("text/plain: %d", answer.status)
	}
	if len(b.Effects()) != 0 {
		t.Error("a refused request had an effect")
	}
}

func TestEveryWayToRun(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var list struct{ Items []struct{ ID, Key string } }
	b.do("GET", "/actions?search=send-sms", nil).json(t, &list)
	if len(list.Items) != 1 {
		t.Fatalf("found %+v", list.Items)
	}
	id := list.Items[0].ID
	input := `{"destination":"+12025550100","text":"Hi"}`
	wrapped := `{"input":` + input + `,"meta":{"n":1},"dropped":true}`
	for _, tt := range []struct{ path, body string }{
		{"/act", `{"key":"send-sms","input":` + input + `}`},
		{"/act", `{"id":"` + id + `","connectionId":"` + sandbox.ConnectionID + `","input":` + input + `}`},
		{"/actions/send-sms/run", wrapped},
		{"/actions/" + id + "/run?connectionId=" + sandbox.ConnectionID, wrapped},
		{"/action/run?key=send-sms&integrationKey=8x8&connectionKey=8x8-sandbox", wrapped},
		{"/action/run?id=" + id, wrapped},
		{"/connections/8x8-sandbox/actions/send-sms/run", input},
		{"/connections/" + sandbox.ConnectionID + "/actions/" + id + "/run", input},
		{"/connections/8x8/actions/send-sms/run", input},
	} {
		before := len(b.Effects())
		answer := b.do("POST", tt.path, tt.body)
		var run struct {
			Output      sentSMS
			ActionRunID string
		}
		answer.json(t, &run)
		if answer.status != 200 || run.Output.Status.Code != "QUEUED" || len(run.ActionRunID) != 24 {
			t.Errorf("%s: %d %s", tt.path, answer.status, answer.body)
		}
		effects := b.Effects()
		if len(effects) != before+1 || string(effects[before].Input) != input || effects[before].ActionRunID != run.ActionRunID {
			t.Errorf("%s: effects %+v", tt.path, effects[before:])
		}
	}
	form := func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") }
	for _, path := range []string{"/actions/list-groups/run", "/action/run?key=list-groups", "/connections/8x8-sandbox/actions/list-groups/run"} {
		if answer := b.do("POST", path, "", form); answer.status != 200 {
			t.Errorf("%s with an empty form: %d %s", path, answer.status, answer.body)
		}
	}
	for _, path := range []string{"/actions/nothing/run", "/action/run", "/connections/nobody/actions/send-sms/run", "/actions/send-sms/run?connectionId=nobody"} {
		if answer := b.do("POST", path, nil); answer.status != 404 {
			t.Errorf("%s: %d %s", path, answer.status, answer.body)
		}
	}
}

func TestReads(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, tt := range []struct {
		path   string
		status int
	}{
		{"/actions?limit=1000", 200}, {"/actions?limit=0", 400}, {"/actions?limit=1001", 400}, {"/actions?limit=x", 400},
		{"/actions?cursor=-1", 400}, {"/actions?cursor=x", 400}, {"/actions?cursor=999", 200},
		{"/actions?intent=" + strings.Repeat("x", 200), 200}, {"/actions?intent=" + strings.Repeat("x", 201), 400},
		{"/actions?connectionId=nobody", 404}, {"/actions?isUniversal=maybe", 400},
		{"/actions/send-sms?wait=true&timeout=60", 200}, {"/actions/send-sms?wait=true&timeout=61", 400}, {"/actions/send-sms?wait=perhaps", 400},
		{"/connections?connected=1&isTest=true", 200}, {"/connections?connected=x", 400},
		{"/connections/8x8-sandbox?wait=true", 200}, {"/connections/nobody", 404}, {"/connections/nobody/actions", 404},
		{"/connections/8x8-sandbox/actions/nothing", 404}, {"/action?key=nothing", 404}, {"/action", 404},
		{"/action-run-logs?limit=0", 400}, {"/action-run-logs?from=yesterday", 400}, {"/action-run-logs?status=running", 400},
		{"/nothing", 404},
	} {
		if answer := b.do("GET", tt.path, nil); answer.status != tt.status {
			t.Errorf("%s: %d, want %d: %s", tt.path, answer.status, tt.status, answer.body)
		}
	}
	for _, path := range []string{"/connections?connected=false", "/connections?disconnected=true", "/connections?integrationKey=x", "/connections?search=zzz", "/actions?isUniversal=true", "/actions?layer=universal", "/actions?search=zzz"} {
		if answer := b.do("GET", path, nil); answer.body != `{"items":[]}` {
			t.Errorf("%s: %s", path, answer.body)
		}
	}
	if answer := b.do("DELETE", "/account", nil); answer.status != 404 || !strings.Contains(answer.body, `"cannot DELETE /account"`) {
		t.Errorf("DELETE: %d %s", answer.status, answer.body)
	}
}

func TestRunLogs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	run := func(meta string, destination string) {
		b.do("POST", "/act", `{"key":"send-sms","input":{"destination":"`+destination+`","text":"Hi"},"meta":`+meta+`}`)
		b.clock.advance(time.Minute)
	}
	const meta = `{"eventId":"evt-0","z":1,"a":[1.50,null,"é"]}`
	run(meta, "+12025550100")           // at 10:00
	run(`{"eventId":"evt-1"}`, "wrong") // at 10:01
	run(`{"eventId":"evt-2"}`, "+12025550100")
	run(`{"eventId":"evt-3"}`, "+12025550100")
	ids := func(query string) (found []string) {
		for _, item := range b.logs(query).Items {
			found = append(found, strings.TrimSuffix(strings.TrimPrefix(string(item.Meta), `{"eventId":"`), `"}`))
		}
		return found
	}
	first := strings.TrimPrefix(meta, `{"eventId":"`)
	first = strings.TrimSuffix(first, `"}`)
	for _, tt := range []struct {
		query string
		want  []string
	}{
		{"", []string{"evt-3", "evt-2", "evt-1", first}},
		{"?cursor=0&limit=1000", []string{"evt-3", "evt-2", "evt-1", first}},
		{"?from=2026-03-01T10:02:00Z", []string{"evt-3", "evt-2"}},
		{"?from=2026-03-01T11:02:00%2B01:00", []string{"evt-3", "evt-2"}},
		{"?to=2026-03-01T10:01:00Z", []string{"evt-1", first}},
		{"?from=2026-03-01T10:01:00Z&to=2026-03-01T10:02:00Z", []string{"evt-2", "evt-1"}},
		{"?status=error", []string{"evt-1"}},
		{"?connectionId=" + sandbox.ConnectionID + "&status=success", []string{"evt-3", "evt-2", first}},
		{"?connectionId=other", nil},
		{"?connectionActionId=other", nil},
		{"?meta.eventId=evt-3", []string{"evt-3", "evt-2", "evt-1", first}}, // no such filter
		{"?limit=1", []string{"evt-3"}},
	} {
		if diff := cmp.Diff(tt.want, ids(tt.query)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.query, diff)
		}
	}
	if last := b.logs("?from=2026-03-01&to=2026-03-02&limit=4"); string(last.Items[3].Meta) != meta || last.Cursor != "" {
		t.Errorf("meta %s, want it as it came; cursor %q", last.Items[3].Meta, last.Cursor)
	}

	// A run that comes between two pages moves nothing.
	page := b.logs("?limit=2")
	run(`{"eventId":"evt-4"}`, "+12025550100")
	if diff := cmp.Diff([]string{"evt-1", first}, ids("?limit=2&cursor="+page.Cursor)); diff != "" {
		t.Errorf("second page (-want +got):\n%s", diff)
	}

	failed := b.logs("?status=error").Items[0]
	if failed.Error == nil || failed.Error.Type != "action_run" || failed.Output != nil || failed.CreatedAt != "2026-03-01T10:01:00.000Z" {
		t.Errorf("failed run %+v", failed)
	}
	var details struct {
		Request  struct{ Method, URL string }
		Response struct {
			Status int
			Data   struct{ Code int }
		}
	}
	for _, path := range []string{"/details", "?details=true"} {
		b.do("GET", "/action-run-logs/"+failed.ID+path, nil).json(t, &details)
		if details.Request.Method != "post" || details.Response.Status != 400 || details.Response.Data.Code != 1002 {
			t.Errorf("%s: %+v", path, details)
		}
	}
	if answer := b.do("GET", "/action-run-logs/"+failed.ID, nil, tenant(t, "other")); answer.status != 404 {
		t.Errorf("another tenant's: %d", answer.status)
	}
	if answer := b.do("GET", "/action-run-logs", nil, tenant(t, "other")); answer.body != `{"items":[]}` {
		t.Errorf("another tenant's: %s", answer.body)
	}
	b.do("POST", "/act", object{"key": "list-groups"}, tenant(t, "other"))
	if answer := b.do("GET", "/action-run-logs", nil, tenant(t, "other")); strings.Count(answer.body, `"completedAt"`) != 1 {
		t.Errorf("another tenant's own: %s", answer.body)
	}
}

func TestLatencyComesBeforeTheEffect(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *sandbox.Options) { o.Latency = func() time.Duration { return 300 * time.Millisecond } })
	done := make(chan sentSMS)
	go func() { done <- b.send("+12025550100") }()
	if d := b.awaitTimer(); d != 300*time.Millisecond {
		t.Errorf("it waits for %v", d)
	}
	if len(b.Effects()) != 0 {
		t.Error("the effect came first")
	}
	b.clock.advance(300 * time.Millisecond)
	<-done
	if len(b.Effects()) != 1 {
		t.Error("no effect")
	}
}

// TestLockfile keeps addresses of registries out of the repository.
func TestLockfile(t *testing.T) {
	t.Parallel()
	lock, err := os.ReadFile(sdkDir + "/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(lock), `"resolved"`) {
		t.Error("package-lock.json names a registry: npm config set omit-lockfile-registry-resolved=true, and npm install again")
	}
	if !strings.Contains(string(lock), `"integrity"`) {
		t.Error("package-lock.json has no checksums")
	}
}
