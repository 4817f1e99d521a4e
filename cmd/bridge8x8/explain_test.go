package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/bridge8x8/bridge8x8/bridge/membrane"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
	"github.com/bridge8x8/bridge8x8/config"
)

// as is a session of somebody against a service.
func as(t *testing.T, by, address string) *session {
	t.Helper()
	client, err := membrane.New(membrane.Options{BaseURL: address, Token: "pat-sandbox"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	cmd := &cobra.Command{}
	cmd.SetOut(new(bytes.Buffer))
	cmd.SetErr(new(bytes.Buffer))
	return &session{ctx: t.Context(), cmd: cmd, by: by, client: client, env: config.Env{Membrane: config.MembraneEnv{APIURL: address}}}
}

// What a person reads when something is wrong: their own word, and the fix.
func TestErrorsReadWell(t *testing.T) {
	t.Parallel()
	const (
		list   = "list"
		conn   = "connection"
		action = "action"
		run    = "run"
		create = "create"
		proxy  = "proxy"
	)
	for _, test := range []struct {
		name, by, do, word string
		status             int // of a made up answer; 0: the sandbox answers
		body, retryAfter   string
		want               string
	}{
		{name: "expired sign-in", by: byLogin, do: list, status: 401, body: `{"type":"bad_request","key":"not_authenticated","message":"jwt expired"}`, want: "Membrane no longer takes your sign-in; run bridge8x8 login"},
		{name: "wrong token", by: byToken, do: list, status: 401, body: `{"type":"bad_request","key":"not_authenticated","message":"x"}`, want: "Membrane does not take MEMBRANE_TOKEN: it is wrong, or was revoked; set a new one, or unset it and run bridge8x8 login"},
		{name: "wrong secret", by: bySecret, do: list, status: 401, body: `{"type":"bad_request","key":"not_authenticated","message":"x"}`, want: `Membrane does not take a token of workspace "" that is signed with MEMBRANE_WORKSPACE_SECRET: check the secret, and MEMBRANE_WORKSPACE_KEY`},
		{name: "not allowed", do: create, status: 403, body: `{"type":"bad_request","key":"access_denied","message":"management only"}`, want: "you may not do this: management only; ask for a management token, or see bridge8x8 whoami"},
		{name: "limit with a time", do: list, status: 429, retryAfter: "7", body: `{"type":"bad_request","key":"rate_limit_exceeded","message":"slow down"}`, want: "too many requests: slow down; try again in 7s"},
		{name: "limit without", do: list, status: 429, body: `{"type":"bad_request","key":"rate_limit_exceeded","message":"slow down"}`, want: "too many requests: slow down; try again in a moment"},
		{name: "a gateway's page", do: list, status: 502, body: `<html>bad gateway</html>`, want: "Membrane, or something before it, answered 502; try again later"},
		{name: "a login page", do: list, status: 200, body: `<html>sign in</html>`, want: "Membrane answered 200 with something that is not JSON: is MEMBRANE_API_URL … right? the page of a proxy that wants a sign-in looks like that"},
		{name: "a login page for a write", do: create, status: 200, body: `<html>sign in</html>`, want: "Membrane answered 200 with something that is not JSON: it may have been done all the same; look before you repeat it: bridge8x8 runs list"},
		{name: "a refusal", do: create, status: 400, body: `{"type":"bad_request","message":"intent is too vague"}`, want: "Membrane refused it: intent is too vague"},
		{name: "a refusal without words", do: create, status: 400, body: `{"type":"configuration"}`, want: "Membrane refused it (400)"},
		{name: "words for a terminal", do: create, status: 400, body: `{"type":"bad_request","message":"a\u001b[31m\nb"}`, want: "Membrane refused it: a [31m b"},
		{name: "the token echoed", do: create, status: 400, body: `{"type":"bad_request","message":"bad pat-sandbox"}`, want: "Membrane refused it: bad <secret>"},
		{name: "a lost connection", do: run, status: 400, body: `{"type":"action_run","message":"m","causedByError":{"type":"connection","key":"connection_is_defunct","message":"disconnected"}}`, want: "8x8 no longer takes this connection: disconnected; run bridge8x8 connections connect"},
		{name: "8x8's own words", do: run, status: 400, body: `{"type":"action_run","message":"m","causedByError":{"type":"connection","message":"Request failed","data":{"response":{"status":400,"data":{"code":1002,"message":"Invalid MSISDN format"}}}}}`, want: "8x8 refused it: Invalid MSISDN format (code 1002)"},
		{name: "a run without an answer", do: run, status: -1, want: "the connection to Membrane broke: it may have been done all the same; look before you repeat it: bridge8x8 runs list"},
		{name: "a read without an answer", do: list, status: -1, want: "the connection to Membrane broke; try again"},

		{name: "connection misspelled", do: conn, word: "8x8-sanbox", want: `there is no connection "8x8-sanbox"; did you mean 8x8-sandbox?`},
		{name: "connection unknown", do: conn, word: "nothing-like-it", want: `there is no connection "nothing-like-it"; see bridge8x8 connections list`},
		{name: "action misspelled", do: action, word: "sendsms", want: `there is no action "sendsms"; did you mean send-sms?`},
		{name: "action unknown", do: action, word: "make-me-a-coffee", want: `there is no action "make-me-a-coffee"; find one with: bridge8x8 actions search "what it is to do"`},
		{name: "out of the proxy", do: proxy, word: "/%2e%2e/%2e%2e/self", want: "the path leads out of the application's API"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var handler http.Handler
			if test.status == 0 {
				box := sandbox.New(sandbox.Options{})
				t.Cleanup(box.Close)
				handler = box
			} else {
				handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					if test.status < 0 {
						panic(http.ErrAbortHandler)
					}
					if test.retryAfter != "" {
						w.Header().Set("Retry-After", test.retryAfter)
					}
					w.WriteHeader(test.status)
					_, _ = w.Write([]byte(test.body))
				})
			}
			web := httptest.NewServer(handler)
			t.Cleanup(web.Close)
			s := as(t, test.by, web.URL)
			here := membrane.ConnectionDetails{ID: sandbox.ConnectionID}
			var err error
			switch test.do {
			case list:
				_, err = s.client.Connections(s.ctx, "")
			case conn:
				_, err = s.connection(test.word)
			case action:
				_, err = s.action(here, test.word)
			case run:
				_, err = s.client.RunOnce(s.ctx, here.ID, "id", nil)
			case create:
				_, err = s.client.CreateAction(s.ctx, here.ID, "x", "")
			case proxy:
				_, err = s.client.Proxy(s.ctx, here.ID, "GET", test.word, nil, nil)
			}
			if got := strings.ReplaceAll(fmt.Sprint(s.explain(err)), web.URL, "…"); got != test.want {
				t.Errorf("\n got %s\nwant %s", got, test.want)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		t.Parallel()
		s := as(t, byToken, "http://127.0.0.1:1")
		_, err := s.client.Connections(s.ctx, "")
		const want = "Membrane cannot be reached at http://127.0.0.1:1: connection refused; is MEMBRANE_API_URL right?"
		if got := fmt.Sprint(s.explain(err)); got != want {
			t.Errorf("\n got %s\nwant %s", got, want)
		}
	})
}

// What to do about each state of a connection and an action.
func TestAdvice(t *testing.T) {
	t.Parallel()
	because := []membrane.Trouble{{Message: "no key"}, {Type: "configuration"}}
	for _, test := range []struct{ got, want string }{
		{
			connectionAdvice(membrane.ConnectionDetails{ID: "1", Key: "main", State: "BUILDING"}),
			"connection main is still being built; run bridge8x8 connections wait main",
		},
		{
			connectionAdvice(membrane.ConnectionDetails{ID: "1", State: "CLIENT_ACTION_REQUIRED"}),
			"connection 1 waits for a person: a person has to sign in to 8x8 again; run bridge8x8 connections connect --connection 1",
		},
		{
			connectionAdvice(membrane.ConnectionDetails{ID: "1", State: "CLIENT_ACTION_REQUIRED", ClientAction: &membrane.ClientAction{Description: "give the sub-account", UIURL: "https://u"}}),
			"connection 1 waits for a person: give the sub-account; open https://u or run bridge8x8 connections connect --connection 1",
		},
		{
			connectionAdvice(membrane.ConnectionDetails{ID: "1", State: "CONFIGURATION_ERROR", Errors: because}),
			"connection 1 has wrong settings: no key; configuration; change them in Membrane's console, then run bridge8x8 connections wait 1",
		},
		{
			connectionAdvice(membrane.ConnectionDetails{ID: "1", State: "SETUP_FAILED", Errors: because}),
			"connection 1 could not be set up: no key; configuration; run bridge8x8 connections connect --connection 1",
		},
		{
			connectionAdvice(membrane.ConnectionDetails{ID: "1", State: "SOMETHING_NEW", Problem: "its state is SOMETHING_NEW"}),
			"connection 1 cannot be used: its state is SOMETHING_NEW; run bridge8x8 connections connect --connection 1",
		},
		{actionAdvice(membrane.ActionDetails{ID: "1", Key: "a", State: "BUILDING"}), "action a is still being built; run bridge8x8 actions wait a"},
		{
			actionAdvice(membrane.ActionDetails{ID: "1", State: "CLIENT_ACTION_REQUIRED"}),
			"action 1 waits for a person to connect 8x8 again; run bridge8x8 connections connect",
		},
		{
			actionAdvice(membrane.ActionDetails{ID: "1", State: "CONFIGURATION_ERROR", Errors: because}),
			"action 1 has wrong settings: no key; configuration; change them in Membrane's console, or describe it in other words: bridge8x8 actions create",
		},
		{
			actionAdvice(membrane.ActionDetails{ID: "1", State: "SETUP_FAILED"}),
			"action 1 could not be made; describe it in other words: bridge8x8 actions create",
		},
		{actionAdvice(membrane.ActionDetails{ID: "1", State: "READY", Problem: "it is archived"}), "action 1 cannot be run: it is archived"},
	} {
		if test.got != test.want {
			t.Errorf("\n got %s\nwant %s", test.got, test.want)
		}
	}
}

func TestSchemaFields(t *testing.T) {
	t.Parallel()
	fields := schemaFields([]byte(`{"type":"object","required":["to"],"properties":{
		"n":{"type":["integer","null"],"minimum":1,"maximum":9,"default":3},
		"to":{"type":"string","format":"uri","maxLength":5,"description":"where"},
		"kind":{"enum":["a","b"],"allowCustom":true,"title":"Kind"},
		"list":{"type":"array","maxItems":2,"items":{"type":"object","required":["x"],"properties":{"x":{"type":"string","pattern":"^y"}}}}
	}}`))
	var got []string
	for _, f := range fields {
		got = append(got, strings.Join([]string{f.name, f.kind, yes(f.required), f.limits, f.description}, "|"))
	}
	want := []string{
		"to|string (uri)|yes|at most 5 characters|where",
		"kind|any|no|such as a, b|Kind",
		"list|array of object|no|at most 2 items|",
		"list[].x|string|yes|like ^y|",
		"n|integer or null|no|1 to 9; default 3|",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, odd := range []string{``, `null`, `[]`, `{"properties":[]}`, `{"properties":{"a":1}}`} {
		_ = schemaFields([]byte(odd)) // must not panic
	}
}

func TestExplainLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	s := as(t, byToken, "http://127.0.0.1:1")
	if err := errors.New("mine"); s.explain(err) != err || s.explain(nil) != nil {
		t.Error("an error that is not Membrane's was changed")
	}
}
