package ingress

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"

	"github.com/bridge8x8/bridge8x8/config"
)

// tokens are the hashes of the tokens that are good for an endpoint. Hashes are
// of one length, so that comparing them does not tell the length of a token.
type tokens [][sha256.Size]byte

func newTokens(secrets []config.Secret) tokens {
	var t tokens
	for _, s := range secrets {
		if s != "" {
			t = append(t, sha256.Sum256([]byte(s.Reveal())))
		}
	}
	return t
}

// fit says whether s is one of the tokens, in a time that does not depend on
// which or how nearly.
func (t tokens) fit(s string) bool {
	sum := sha256.Sum256([]byte(s))
	found := 0
	for i := range t {
		found |= subtle.ConstantTimeCompare(t[i][:], sum[:])
	}
	return found == 1
}

// check finds the bearer token of a request, in the header or as access_token in
// the address (both are required by CloudEvents Web Hooks 3). It returns the
// refusal, or nil, and whether the token came in the address.
func (t tokens) check(r *http.Request) (a *answer, byQuery bool) {
	if len(t) == 0 {
		return nil, false
	}
	header := r.Header.Get("Authorization")
	query := ""
	if r.URL.RawQuery != "" {
		query = r.URL.Query().Get("access_token")
	}
	var refusal answer
	switch scheme, token, _ := strings.Cut(header, " "); {
	case header != "" && !strings.EqualFold(scheme, "Bearer"):
		refusal = unauthorized(`the Authorization header is not of the form "Bearer <token>"`)
	case header != "" && t.fit(strings.TrimSpace(token)):
		return nil, false
	case header == "" && query == "":
		refusal = unauthorized(`no token; send "Authorization: Bearer <token>"`)
	case header == "" && t.fit(query):
		return nil, true
	default:
		refusal = unauthorized("the token is not valid here").with("WWW-Authenticate", `Bearer error="invalid_token"`)
	}
	return &refusal, false
}

func unauthorized(detail string) answer {
	return refuse(http.StatusUnauthorized, "unauthorized", detail).with("WWW-Authenticate", "Bearer")
}
