package sandbox_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
)

// What somebody else wrote is text on the sandbox's pages, and never markup.
func TestPagesEscape(t *testing.T) {
	t.Parallel()
	box := sandbox.New(sandbox.Options{})
	t.Cleanup(box.Close)
	server := httptest.NewServer(box)
	t.Cleanup(server.Close)
	const hostile = `"><script>alert('x')</script>&`

	registered, err := http.Post(server.URL+"/oauth/register", "application/json",
		strings.NewReader(`{"client_name": "\"><script>alert('x')</script>&", "redirect_uris": ["http://127.0.0.1:1/back"]}`))
	if err != nil {
		t.Fatal(err)
	}
	defer registered.Body.Close()
	text, err := io.ReadAll(registered.Body)
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), `"client_id":"`)
	id, _, found := strings.Cut(after, `"`)
	if !found {
		t.Fatalf("registered: %s", text)
	}
	query := url.Values{
		"response_type": {"code"}, "client_id": {id}, "redirect_uri": {"http://127.0.0.1:1/back"}, "state": {hostile},
		"code_challenge": {strings.Repeat("a", 43)}, "code_challenge_method": {"S256"},
	}
	asked, err := http.Get(server.URL + "/oauth/authorize?" + query.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer asked.Body.Close()
	page, err := io.ReadAll(asked.Body)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(page), "<script") {
		t.Errorf("the page runs somebody else's script:\n%s", page)
	}
	const escaped = "&#34;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;"
	if n := strings.Count(string(page), escaped); n != 2 { // the name, and the state
		t.Errorf("the text is there %d times, want 2:\n%s", n, page)
	}
}
