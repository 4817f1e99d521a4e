package handlers

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

const requestHead = "connections: {main: {key: k}}\nroutes:\n  - name: r\n    on: x\n    connection: main\n    request:\n"

func requestHandler(t *testing.T, request string) *Handler {
	t.Helper()
	table, _, problems := compileText(t, requestHead+request, Options{})
	if problems.Errors() {
		t.Fatal(problems)
	}
	return table.Handlers()[0]
}

func eventWith(t *testing.T, data string) *View {
	t.Helper()
	e := event.New()
	e.SetID("1")
	e.SetSource("/s")
	e.SetType("x")
	if err := e.SetData("application/json", json.RawMessage(data)); err != nil {
		t.Fatal(err)
	}
	return NewView(&e)
}

func TestRequestIsMapped(t *testing.T) {
	t.Parallel()
	h := requestHandler(t, `      method: POST
      path: /api/v1/accounts/${ .data.account }/contacts/${ .data.first }-${ .data.last }
      query: {limit: 10, deep: true, name: "${ .data.name }", gone: "${ .data.nothing }"}
      headers: {X-Trace: "${ .data.n }", Accept: application/json}
      body: {numbers: "${ .data.list }", text: "Hi ${ .data.name }"}
`)
	got, err := h.Input(eventWith(t, `{"account":"a/b?c#d%2e é","first":1,"last":true,"name":"Bo & Co","n":7,"list":[1,"2"]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"method":  "POST",
		"path":    "/api/v1/accounts/a%2Fb%3Fc%23d%252e%20%C3%A9/contacts/1-true",
		"query":   map[string]any{"limit": 10, "deep": true, "name": "Bo & Co"},
		"headers": map[string]any{"X-Trace": "7", "Accept": "application/json"},
		"body":    map[string]any{"numbers": []any{json.Number("1"), "2"}, "text": "Hi Bo & Co"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the request (-want +got):\n%s", diff)
	}
	if h.Action.Safe || !h.Action.OneCall || h.Action.Key != "request" || h.Action.Call == "" {
		t.Errorf("the action is %+v", h.Action)
	}
	if read := requestHandler(t, "      {method: GET, path: /x}\n"); !read.Action.Safe {
		t.Error("a GET is not safe to repeat")
	}
	if got, err := requestHandler(t, "      {method: DELETE, path: '/x', query: {a: '${ .data.no }'}}\n").Input(eventWith(t, `{}`)); err != nil || len(got) != 2 {
		t.Errorf("of a request with nothing in it: %v, %v", got, err)
	}
}

// No event leads a request elsewhere.
func TestRequestStaysInItsPath(t *testing.T) {
	t.Parallel()
	one := requestHandler(t, "      {method: GET, path: '/a/${ .data.x }/b'}\n")
	two := requestHandler(t, "      {method: GET, path: '/a/${ .data.x }${ .data.y }'}\n")
	dotted := requestHandler(t, "      {method: GET, path: '/a/.${ .data.x }'}\n")
	for _, test := range []struct {
		h    *Handler
		data string
		want string // in the error
	}{
		{one, `{"x":".."}`, "would lead out"},
		{one, `{"x":"."}`, "would lead out"},
		{one, `{"x":"../../admin"}`, "would lead out"},
		{one, `{"x":"a/../../b"}`, "would lead out"},
		{one, `{"x":"..\\..\\b"}`, "would lead out"},
		{one, `{"x":"%2e%2e"}`, "would lead out"},
		{one, `{"x":"%252e%252E%252fx"}`, "would lead out"},
		{one, `{"x":"a%2f..%2fb"}`, "would lead out"},
		{one, `{"x":""}`, "gives an empty text"},
		{one, `{"x":null}`, "gives null"},
		{one, `{"x":["a"]}`, "gives an array"},
		{one, `{"x":"a\r\nHost: evil"}`, "control character"},
		{two, `{"x":".","y":"."}`, "would lead out"},
		{two, `{"x":"%","y":"2E"}`, "leads out"},
		{two, `{"x":"%2","y":"5252e%2e"}`, "leads out"},
		{dotted, `{"x":"."}`, "would lead out"},
		{dotted, `{"x":"%2e"}`, "would lead out"},
	} {
		if got, err := test.h.Input(eventWith(t, test.data)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, %v; want an error with %q", test.data, got["path"], err, test.want)
		}
	}
	for x, want := range map[string]string{
		"http://evil.example/": "/a/http:%2F%2Fevil.example%2F/b", "//evil": "/a/%2F%2Fevil/b", "@evil": "/a/@evil/b",
		"...": "/a/.../b", "a?b=c#d": "/a/a%3Fb=c%23d/b", "100%": "/a/100%25/b",
	} {
		data, _ := json.Marshal(map[string]string{"x": x})
		got, err := one.Input(eventWith(t, string(data)))
		if err != nil || got["path"] != want {
			t.Errorf("%q: path %v, %v; want %s", x, got["path"], err, want)
		}
	}
	strict := requestHandler(t, "      {method: POST, path: /x, query: {a: '${ .data.q }'}, headers: {X-A: '${ .data.h }'}}\n")
	for data, want := range map[string]string{
		`{"q":{"a":1}}`:    "query.a: must be a single value",
		`{"q":[1]}`:        "query.a: must be a single value",
		`{"h":"a\nb"}`:     "headers.X-A: must be a text on one line",
		`{"h":{"a":"b"}}`:  "headers.X-A: must be a text on one line",
		`{"h":"x\u0000y"}`: "headers.X-A: must be a text on one line",
	} {
		if _, err := strict.Input(eventWith(t, data)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", data, err, want)
		}
	}
}

func FuzzRequestPath(f *testing.F) {
	for _, seed := range []string{"a", "..", "%2e%2E", "a/../b", `..\..`, "é", "%", "%zz", "//x", "\x00", "....//", "%25252e%25252e"} {
		f.Add(seed, seed)
	}
	table, _, problems := compileText(&testing.T{}, requestHead+"      {method: GET, path: '/a/${ .data.x }${ .data.y }/b'}\n", Options{})
	if problems.Errors() {
		f.Fatal(problems)
	}
	h := table.Handlers()[0]
	f.Fuzz(func(t *testing.T, x, y string) {
		data, err := json.Marshal(map[string]string{"x": x, "y": y})
		if err != nil {
			return
		}
		got, err := h.Input(eventWith(t, string(data)))
		if err != nil {
			return
		}
		path := got["path"].(string)
		parts := strings.Split(path, "/")
		if len(parts) != 4 || parts[1] != "a" || parts[3] != "b" {
			t.Fatalf("%q: it has %d segments", path, len(parts)-1)
		}
		for text := parts[2]; ; {
			for _, part := range strings.FieldsFunc(text, func(r rune) bool { return r == '/' || r == '\\' }) {
				if part == "." || part == ".." {
					t.Fatalf("%q leads out", path)
				}
			}
			next, err := url.PathUnescape(text)
			if err != nil || next == text {
				break
			}
			text = next
		}
		if u, err := url.Parse("https://sms.8x8.com" + path); err != nil || u.Host != "sms.8x8.com" || u.RawQuery != "" || u.Fragment != "" {
			t.Fatalf("%q is not a path only: %v", path, err)
		}
	})
}

func TestRequestProblems(t *testing.T) {
	t.Parallel()
	for request, want := range map[string]string{
		"{method: get, path: /x}":                                `"get" is not a method of a request (bad-method)`,
		"{method: HEAD, path: /x}":                               `"HEAD" is not a method of a request (bad-method)`,
		"{path: /x}":                                             `request has no "method" (missing-key)`,
		"{method: GET}":                                          `request has no "path" (missing-key)`,
		"{method: GET, path: x}":                                 "does not begin with one / (bad-path)",
		"{method: GET, path: //evil/x}":                          "does not begin with one / (bad-path)",
		"{method: GET, path: 'https://evil/x'}":                  "does not begin with one / (bad-path)",
		"{method: GET, path: '${ .data.url }'}":                  "does not begin with one / (bad-path)",
		"{method: GET, path: /a/../b}":                           "leads out of itself, by . or .. (bad-path)",
		"{method: GET, path: /a/%2e%2E/b}":                       "leads out of itself, by . or .. (bad-path)",
		"{method: GET, path: '/a?b=${ .data.x }'}":               "holds a ? (bad-path)",
		"{method: GET, path: '/a b'}":                            `holds a space, a # or a \ (bad-path)`,
		"{method: GET, path: /a%zz}":                             "holds a % without two hexadecimal digits (bad-path)",
		"{method: GET, path: /a//b}":                             "has nothing between two slashes (bad-path)",
		"{method: GET, path: '/a/${ .data. }'}":                  "(jq-syntax)",
		"{method: GET, path: /x, body: {}}":                      "a GET request has no body (bad-body)",
		"{method: GET, path: /x, headers: {Authorization: x}}":   `the header "Authorization" is Membrane's`,
		"{method: GET, path: /x, headers: {X-Forwarded-For: x}}": `the header "X-Forwarded-For" is Membrane's`,
		"{method: GET, path: /x, headers: {'a b': x}}":           `"a b" cannot be the name of a header`,
		"{method: GET, path: /x, query: {a: [1]}}":               `query "a" must be a single value, not a list`,
		"{method: GET, path: /x, query: a}":                      `"query" must be a mapping`,
		"{method: GET, path: /x, url: y}":                        `request has no key "url"`,
		"{method: GET, path: /x}\n    run: send-sms":             "(run-and-request)",
		"{method: GET, path: /x}\n    input: {a: b}":             "(run-and-request)",
		"GET /x": "request must be a mapping",
		"{method: GET, path: '/x/${ \"}\" }/${ .data.a // \"}\" }'}": "",
	} {
		_, problems := compileProblems(t, strings.Replace(requestHead, "request:\n", "request: ", 1)+request+"\n")
		text := problems.Error()
		switch {
		case want == "" && len(problems) > 0:
			t.Errorf("%s: %s", request, text)
		case want != "" && !strings.Contains(text, want):
			t.Errorf("%s: %s, want %q", request, text, want)
		}
	}
	_, problems := compileProblems(t, "routes:\n  - {name: r, on: x, request: {method: GET, path: /x}}\n")
	if !strings.Contains(problems.Error(), "a request needs a connection") {
		t.Errorf("without a connection: %v", problems)
	}
}

// compileProblems is all that is wrong with a file, of both packages.
func compileProblems(t *testing.T, text string) (*Table, config.Problems) {
	t.Helper()
	file, problems := config.Parse("bridge.yaml", []byte(text), nil)
	if problems.Errors() {
		return nil, problems
	}
	table, more := Compile(file, catalog.Builtin(), Options{})
	return table, append(problems, more...)
}

// One request is not taken for another, whatever is different.
func TestRequestsAreToldApart(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, request := range []string{
		"{method: GET, path: /x}", "{method: DELETE, path: /x}", "{method: GET, path: /y}", "{method: GET, path: /x, query: {a: 1}}",
		"{method: GET, path: /x, headers: {a: '1'}}", "{method: POST, path: /x, body: [1]}", "{method: POST, path: /x, body: [2]}",
	} {
		call := requestHandler(t, "      "+request+"\n").Action.Call
		if other, twice := seen[call]; twice {
			t.Errorf("%s is told as %s", request, other)
		}
		seen[call] = request
		if again := requestHandler(t, "      "+request+"\n").Action.Call; again != call {
			t.Errorf("%s is %s, and then %s", request, call, again)
		}
	}
}
