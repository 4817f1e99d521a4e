package ingress

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/config"
)

// login is an OAuth server, as far as its keys go.
type login struct {
	rsa    *rsa.PrivateKey
	ec     *ecdsa.PrivateKey
	server *httptest.Server
	asked  atomic.Int64
	status atomic.Int64
	more   atomic.Bool // it has the key "later" too
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func newLogin(t *testing.T) *login {
	t.Helper()
	l := &login{}
	var err error
	if l.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	if l.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	point, err := l.ec.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	l.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		l.asked.Add(1)
		if status := int(l.status.Load()); status != 0 {
			w.WriteHeader(status)
			return
		}
		n, e := b64(l.rsa.N.Bytes()), b64(big.NewInt(int64(l.rsa.E)).Bytes())
		keys := []map[string]string{
			{"kty": "RSA", "kid": "rsa", "use": "sig", "n": n, "e": e},
			{"kty": "EC", "kid": "ec", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])},
			{"kty": "EC", "kid": "off the curve", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[1:33])},
			{"kty": "RSA", "kid": "weak", "n": b64(l.rsa.N.Bytes()[:64]), "e": e},
			{"kty": "RSA", "kid": "for encryption", "use": "enc", "n": n, "e": e},
			{"kty": "oct", "kid": "secret", "k": "AAAA"},
		}
		if l.more.Load() {
			keys = append(keys, map[string]string{"kty": "RSA", "kid": "later", "n": n, "e": e})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": keys})
	}))
	t.Cleanup(l.server.Close)
	return l
}

func (l *login) token(t *testing.T, head, claims string) string {
	t.Helper()
	signed := b64([]byte(head)) + "." + b64([]byte(claims))
	sum := sha256.Sum256([]byte(signed))
	switch {
	case strings.Contains(head, "ES256"):
		r, s, err := ecdsa.Sign(rand.Reader, l.ec, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		signature := make([]byte, 64)
		r.FillBytes(signature[:32])
		s.FillBytes(signature[32:])
		return signed + "." + b64(signature)
	case strings.Contains(head, "HS256"):
		// The old trick: the public key as an HMAC secret.
		mac := hmac.New(sha256.New, l.rsa.N.Bytes())
		mac.Write([]byte(signed))
		return signed + "." + b64(mac.Sum(nil))
	case strings.Contains(head, "none"):
		return signed + "."
	}
	signature, err := rsa.SignPKCS1v15(rand.Reader, l.rsa, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + b64(signature)
}

func (l *login) bearer(t *testing.T) *bearer {
	t.Helper()
	b := newBearer(&config.JWT{Issuer: "https://login", Audience: "bridge", Keys: l.server.URL})
	t.Cleanup(b.client.CloseIdleConnections)
	return b
}

func withToken(value string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	r.Header.Set("Authorization", value)
	return r
}

func TestTokens(t *testing.T) {
	t.Parallel()
	l := newLogin(t)
	b := l.bearer(t)
	now := time.Now()
	const rs, es = `{"alg":"RS256","kid":"rsa"}`, `{"alg":"ES256","kid":"ec"}`
	claims := func(exp time.Time, more string) string {
		return fmt.Sprintf(`{"iss":"https://login","aud":["other","bridge"],"exp":%d%s}`, exp.Unix(), more)
	}
	hour := claims(now.Add(time.Hour), "")
	good := l.token(t, rs, hour)
	other := newLogin(t)
	for _, test := range []struct {
		name, value string
		good        bool
	}{
		{"RSA", "Bearer " + good, true},
		{"another case", "bearer " + good, true},
		{"elliptic curve", "Bearer " + l.token(t, es, hour), true},
		{"one audience", "Bearer " + l.token(t, rs, strings.Replace(hour, `["other","bridge"]`, `"bridge"`, 1)), true},
		{"a time with a fraction", "Bearer " + l.token(t, rs, strings.Replace(hour, `}`, `.5}`, 1)), true},
		{"a clock that is off", "Bearer " + l.token(t, rs, claims(now.Add(-50*time.Second), fmt.Sprintf(`,"nbf":%d`, now.Add(50*time.Second).Unix()))), true},
		{"nothing", "", false},
		{"no bearer", "Basic " + good, false},
		{"two parts", "Bearer " + good[:strings.LastIndex(good, ".")], false},
		{"truncated", "Bearer " + good[:len(good)-4], false},
		{"too long", "Bearer " + good + strings.Repeat("A", longestToken), false},
		{"forged", "Bearer " + other.token(t, rs, hour), false},
		{"other claims", "Bearer " + strings.Replace(good, b64([]byte(hour)), b64([]byte(claims(now.Add(2*time.Hour), ""))), 1), false},
		{"expired", "Bearer " + l.token(t, rs, claims(now.Add(-61*time.Second), "")), false},
		{"without an end", "Bearer " + l.token(t, rs, `{"iss":"https://login","aud":"bridge"}`), false},
		{"not yet", "Bearer " + l.token(t, rs, claims(now.Add(time.Hour), fmt.Sprintf(`,"nbf":%d`, now.Add(2*time.Minute).Unix()))), false},
		{"another issuer", "Bearer " + l.token(t, rs, strings.Replace(hour, "https://login", "https://login/", 1)), false},
		{"another audience", "Bearer " + l.token(t, rs, strings.Replace(hour, `"bridge"`, `"bridges"`, 1)), false},
		{"no audience", "Bearer " + l.token(t, rs, strings.Replace(hour, `["other","bridge"]`, `null`, 1)), false},
		{"unsigned", "Bearer " + l.token(t, `{"alg":"none","kid":"rsa"}`, hour), false},
		{"signed with the public key", "Bearer " + l.token(t, `{"alg":"HS256","kid":"rsa"}`, hour), false},
		{"RSA with the key of a curve", "Bearer " + l.token(t, `{"alg":"RS256","kid":"ec"}`, hour), false},
		{"a curve with the key of RSA", "Bearer " + l.token(t, `{"alg":"ES256","kid":"rsa"}`, hour), false},
		{"a key for something else", "Bearer " + l.token(t, `{"alg":"RS256","kid":"for encryption"}`, hour), false},
		{"a weak key", "Bearer " + l.token(t, `{"alg":"RS256","kid":"weak"}`, hour), false},
		{"a point off the curve", "Bearer " + l.token(t, `{"alg":"ES256","kid":"off the curve"}`, hour), false},
		{"a shared secret", "Bearer " + l.token(t, `{"alg":"HS256","kid":"secret"}`, hour), false},
		{"a key of nobody", "Bearer " + l.token(t, `{"alg":"RS256","kid":"x"}`, hour), false},
		{"no key", "Bearer " + l.token(t, `{"alg":"RS256"}`, hour), false},
		{"a demand nobody knows", "Bearer " + l.token(t, `{"alg":"RS256","kid":"rsa","crit":["b64"],"b64":false}`, hour), false},
	} {
		err := b.verify(t.Context(), withToken(test.value), now)
		if (err == nil) != test.good || err != nil && !errors.Is(err, errToken) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	if asked := l.asked.Load(); asked != 1 {
		t.Errorf("the keys were asked for %d times", asked)
	}
}

func TestKeySetsAreFetchedAgain(t *testing.T) {
	t.Parallel()
	l := newLogin(t)
	b := l.bearer(t)
	now := time.Now()
	check := func(kid string, at time.Time, want error, asked int64) {
		t.Helper()
		token := l.token(t, `{"alg":"RS256","kid":"`+kid+`"}`, fmt.Sprintf(`{"iss":"https://login","aud":"bridge","exp":%d}`, at.Add(time.Hour).Unix()))
		if err := b.verify(t.Context(), withToken("Bearer "+token), at); !errors.Is(err, want) || l.asked.Load() != asked {
			t.Errorf("%s: %v after %d requests, want %v after %d", kid, err, l.asked.Load(), want, asked)
		}
	}
	l.status.Store(500)
	check("rsa", now, errKeys, 1)
	check("rsa", now, errKeys, 2)
	l.status.Store(0)
	check("rsa", now, nil, 3)
	check("rsa", now.Add(keyLife), nil, 3)
	check("later", now, errToken, 3) // made-up names are no flood there
	l.more.Store(true)
	check("later", now.Add(noKeyLife), nil, 4)
	l.status.Store(500)
	check("rsa", now.Add(2*keyLife), nil, 5)
	check("rsa", now.Add(2*keyLife), nil, 5)
	check("never", now.Add(3*keyLife), errKeys, 6)
}

// A token lets 8x8 and other senders in; without its server's word nobody is let in
// nor sent away.
func TestTokensAtTheEndpoints(t *testing.T) {
	t.Parallel()
	l := newLogin(t)
	jwt := &config.JWT{Issuer: "https://login", Audience: "bridge", Keys: l.server.URL}
	h := &handler{native: proofs{jwt: newBearer(jwt)}}
	e := &endpoint{jwt: newBearer(jwt)}
	t.Cleanup(h.native.jwt.client.CloseIdleConnections)
	t.Cleanup(e.jwt.client.CloseIdleConnections)
	good := withToken("Bearer " + l.token(t, `{"alg":"RS256","kid":"rsa"}`, fmt.Sprintf(`{"iss":"https://login","aud":"bridge","exp":%d}`, time.Now().Add(time.Hour).Unix())))
	for _, test := range []struct {
		status int64
		r      *http.Request
		want   int
	}{{500, good, 503}, {0, good, 0}, {0, withToken("Bearer a.b.c"), 401}, {0, withToken(""), 401}} {
		l.status.Store(test.status)
		for name, a := range map[string]*answer{
			"8x8": h.native.beforeBody(t.Context(), "", false, test.r), "declared": e.checkToken(test.r),
		} {
			got := 0
			if a != nil {
				got = a.status
			}
			if got != test.want {
				t.Errorf("%s: %d, want %d", name, got, test.want)
			}
		}
	}
}
