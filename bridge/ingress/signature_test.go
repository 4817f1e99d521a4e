package ingress

import (
	"crypto"
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
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/config"
)

// vectors are signed requests. Those of GitHub, Slack and Standard Webhooks are
// the ones that their documentation publishes; the others were made with openssl.
var vectors = []struct {
	preset, secret, body string
	at                   int64 // 0: not signed
	header               map[string]string
}{
	{
		"standard-webhooks", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", `{"test": 2432232314}`, 1614265330,
		map[string]string{"Webhook-Id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "Webhook-Timestamp": "1614265330", "Webhook-Signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
	},
	{
		"github", "It's a Secret to Everybody", "Hello, World!", 0,
		map[string]string{"X-Hub-Signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"},
	},
	{
		"slack", "8f742231b10e8888abcd99yyyzzz85a5",
		"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c",
		1531420618,
		map[string]string{"X-Slack-Request-Timestamp": "1531420618", "X-Slack-Signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"},
	},
	{
		"stripe", "whsec_stripe", `{"id":"evt_1"}`, 1700000000,
		map[string]string{"Stripe-Signature": "t=1700000000,v1=881f7ed0fa1ed08a7f9383302d02ecf24f710c914423bb9d1b830fd60b6a93bb,v0=6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39"},
	},
	{
		"shopify", "shpss_x", `{"id":1}`, 0,
		map[string]string{"X-Shopify-Hmac-Sha256": "QtDkIkY13DEn2wNorNow01Pg7Mhl+8SmcSyF6UFzlLg="},
	},
	{
		"8x8", "whsec_demo", `{"eventType":"ROOM_CREATED","idempotencyKey":"k-1"}`, 1700000000,
		map[string]string{"X-Jaas-Signature": "t=1700000000,v1=nJIw8+pE6dEpn6cZdKFScusHbnFZEroc0PBZsHZY4HU="},
	},
}

func headerOf(values map[string]string) http.Header {
	h := http.Header{}
	for name, value := range values {
		h.Set(name, value)
	}
	return h
}

func TestSignatures(t *testing.T) {
	t.Parallel()
	for _, v := range vectors {
		s, ok := config.Preset(v.preset)
		if !ok {
			t.Fatal(v.preset)
		}
		now := time.Unix(v.at, 0)
		if v.at == 0 {
			now = time.Now()
		}
		check := func(what string, want error, now time.Time, body string, change func(http.Header), secrets ...config.Secret) {
			t.Helper()
			h := headerOf(v.header)
			if change != nil {
				change(h)
			}
			if s.Secrets = secrets; secrets == nil {
				s.Secrets = []config.Secret{config.Secret(v.secret)}
			}
			if err := verify(&s, h, []byte(body), now); !errors.Is(err, want) || (err == nil) != (want == nil) {
				t.Errorf("%s, %s: %v, want %v", v.preset, what, err, want)
			}
		}
		value := headerOf(v.header).Get(s.Header)
		set := func(to string) func(http.Header) { return func(h http.Header) { h.Set(s.Header, to) } }
		check("as it came", nil, now, v.body, nil)
		check("the secret before", nil, now, v.body, nil, "new", config.Secret(v.secret))
		check("the secret after", nil, now, v.body, nil, config.Secret(v.secret), "old")
		check("another secret", errSignature, now, v.body, nil, "other", "another")
		check("a secret that is nearly it", errSignature, now, v.body, nil, config.Secret(v.secret[:len(v.secret)-4]))
		check("a changed body", errSignature, now, v.body[:len(v.body)-1]+" ", nil)
		check("a truncated body", errSignature, now, v.body[:len(v.body)-1], nil)
		check("no body", errSignature, now, "", nil)
		check("no signature", errUnsigned, now, v.body, func(h http.Header) { h.Del(s.Header) })
		check("something else for a signature", errUnsigned, now, v.body, set(strings.Repeat("x", longestSignature+1)))
		check("a long list of signatures", errUnsigned, now, v.body, set(strings.Repeat(value+map[string]string{"words": " ", "pairs": ",", "plain": ","}[s.Style], 200)))
		if s.Prefix != "" {
			check("another version", errUnsigned, now, v.body, set("v9="+strings.TrimPrefix(value, s.Prefix)))
		}
		if s.Key != "" {
			check("another version", errUnsigned, now, v.body, set(strings.ReplaceAll(value, s.Key, "v9")))
		}
		if s.Style == "words" {
			check("a second signature", nil, now, v.body, set("v1,AAAA v1a,x "+value))
			check("a truncated signature", errSignature, now, v.body, set(value[:len(value)-4]))
		}
		if v.at == 0 {
			continue
		}
		check("at the edge", nil, now.Add(5*time.Minute), v.body, nil)
		check("a slow clock", nil, now.Add(-5*time.Minute), v.body, nil)
		check("stale", errStale, now.Add(5*time.Minute+time.Second), v.body, nil)
		check("from the future", errStale, now.Add(-5*time.Minute-time.Second), v.body, nil)
		check("another time", errSignature, now, v.body, func(h http.Header) {
			for name := range h {
				h.Set(name, strings.Replace(h.Get(name), fmt.Sprint(v.at), fmt.Sprint(v.at+1), 1))
			}
		})
		check("no time", errTime, now, v.body, func(h http.Header) {
			for name := range h {
				h.Set(name, strings.Replace(h.Get(name), fmt.Sprint(v.at), "", 1))
			}
		})
		if s.ID != "" {
			check("another id", errSignature, now, v.body, func(h http.Header) { h.Set(s.ID, "msg_other") })
			check("no id", errUnsigned, now, v.body, func(h http.Header) { h.Del(s.ID) })
		}
	}
}

// A body that looks like a placeholder is signed as it is.
func TestSignedTextIsNotATemplate(t *testing.T) {
	t.Parallel()
	s, _ := config.Preset("standard-webhooks")
	s.Secrets, s.Decoded = []config.Secret{"s"}, false
	now := time.Unix(1700000000, 0)
	mac := hmac.New(sha256.New, []byte("s"))
	mac.Write([]byte("{body}.1700000000.{timestamp}{body}"))
	h := headerOf(map[string]string{
		s.ID: "{body}", s.Timestamp: "1700000000", s.Header: "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)),
	})
	if err := verify(&s, h, []byte("{timestamp}{body}"), now); err != nil {
		t.Error(err)
	}
}

// gateway is Contact Center's chat gateway, as far as it signs.
type gateway struct {
	key    *rsa.PrivateKey
	server *httptest.Server
	asked  atomic.Int64
	status atomic.Int64 // instead of an answer, if not 0
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{key: key}
	g.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.asked.Add(1)
		switch status := int(g.status.Load()); {
		case status != 0:
			w.Header().Set("Location", "/jwk/k1/public")
			w.WriteHeader(status)
		case r.URL.Path != "/jwk/k1/public":
			w.WriteHeader(http.StatusNotFound)
		default:
			_ = json.NewEncoder(w).Encode(map[string]string{
				"kty": "RSA", "kid": "k1",
				"n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()),
				"e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes()),
			})
		}
	}))
	t.Cleanup(g.server.Close)
	return g
}

// sign makes the headers of a body. jose is the first part of the JWS, and checksum
// the body's as the gateway writes it.
func (g *gateway) sign(t *testing.T, jose, checksum string, at time.Time) http.Header {
	t.Helper()
	stamp := strconv.FormatInt(at.UnixMilli(), 10)
	head := base64.RawURLEncoding.EncodeToString([]byte(jose))
	sum := sha256.Sum256([]byte(head + `.{"checksum":` + checksum + `,"cid":"cust<1>","eid":"e-1","retry":0,"tid":"acme01","tt":` + stamp + `}`))
	signature, err := rsa.SignPKCS1v15(rand.Reader, g.key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return headerOf(map[string]string{
		"X-8x8-Tenant-Id": "acme01", "X-8x8-Customer-Id": "cust<1>", "X-8x8-Event-Id": "e-1", "X-8x8-Transmission-Time": stamp,
		"X-8x8-Retry": "0", "X-8x8-Signature": head + ".." + base64.RawURLEncoding.EncodeToString(signature),
	})
}

const (
	transfer         = `{"eventType":"TRANSFER","conversationId":"c-1","timestamp":1}`
	transferChecksum = "1234462547"
	jose             = `{"alg":"RS256","kid":"k1","b64":false,"crit":["b64"]}`
)

func TestGatewaySignature(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	now := time.Now()
	good := g.sign(t, jose, transferChecksum, now)
	with := func(name, value string) http.Header {
		h := good.Clone()
		h.Set(name, value)
		return h
	}
	signature := good.Get("X-8x8-Signature")
	for _, test := range []struct {
		name   string
		header http.Header
		body   string
		want   error
	}{
		{"as it came", good, transfer, nil},
		{"a changed body", good, strings.Replace(transfer, "c-1", "c-2", 1), errSignature},
		{"a truncated body", good, transfer[:len(transfer)-1], errSignature},
		{"another event", with("X-8x8-Event-Id", "e-2"), transfer, errSignature},
		{"another tenant", with("X-8x8-Tenant-Id", "acme02"), transfer, errSignature},
		{"another customer", with("X-8x8-Customer-Id", "cust"), transfer, errSignature},
		{"another retry", with("X-8x8-Retry", "1"), transfer, errSignature},
		{"a retry that is no number", with("X-8x8-Retry", `0,"tid":"x"`), transfer, errUnsigned},
		{"no event", with("X-8x8-Event-Id", ""), transfer, errUnsigned},
		{"another time", with("X-8x8-Transmission-Time", strconv.FormatInt(now.UnixMilli()+1, 10)), transfer, errSignature},
		{"no time", with("X-8x8-Transmission-Time", ""), transfer, errTime},
		{"no signature", with("X-8x8-Signature", ""), transfer, errUnsigned},
		{"a truncated signature", with("X-8x8-Signature", signature[:len(signature)-4]), transfer, errSignature},
		{"no dots", with("X-8x8-Signature", strings.ReplaceAll(signature, ".", "")), transfer, errUnsigned},
		{"a payload", with("X-8x8-Signature", strings.Replace(signature, "..", ".e30.", 1)), transfer, errUnsigned},
		{"stale", g.sign(t, jose, transferChecksum, now.Add(-5*time.Minute-time.Second)), transfer, errStale},
		{"from the future", g.sign(t, jose, transferChecksum, now.Add(5*time.Minute+time.Second)), transfer, errStale},
		{"a clock that is off", g.sign(t, jose, transferChecksum, now.Add(-4*time.Minute)), transfer, nil},
		{"a key of nobody", g.sign(t, strings.Replace(jose, "k1", "k2", 1), transferChecksum, now), transfer, errSignature},
		{"a key elsewhere", g.sign(t, strings.Replace(jose, "k1", "../k1", 1), transferChecksum, now), transfer, errSignature},
		{"no key", g.sign(t, strings.Replace(jose, "k1", "", 1), transferChecksum, now), transfer, errSignature},
		{"no algorithm", g.sign(t, strings.Replace(jose, "RS256", "none", 1), transferChecksum, now), transfer, errSignature},
		{"another algorithm", g.sign(t, strings.Replace(jose, "RS256", "HS256", 1), transferChecksum, now), transfer, errSignature},
		{"an encoded payload", g.sign(t, strings.Replace(jose, "false", "true", 1), transferChecksum, now), transfer, errSignature},
		{"a demand nobody knows", g.sign(t, strings.Replace(jose, `"crit":["b64"]`, `"crit":["b64","x"]`, 1), transferChecksum, now), transfer, errSignature},
		{"another checksum", g.sign(t, jose, "1411811814", now), transfer, errSignature},
		{"a secret of our own", newGateway(t).sign(t, jose, transferChecksum, now), transfer, errSignature},
	} {
		k := newKeyring(g.server.URL + "/jwk/{kid}/public")
		err := verifyGateway(test.header, []byte(test.body), now, func(kid string) (*rsa.PublicKey, error) { return k.find(t.Context(), kid, now) })
		if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		k.client.CloseIdleConnections()
	}
}

func TestKeysAreRememberedAndFetchedAgain(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	k := newKeyring(g.server.URL + "/jwk/{kid}/public")
	t.Cleanup(k.client.CloseIdleConnections)
	now := time.Now()
	find := func(kid string, at time.Time, wantKey bool, wantErr error, wantAsked int64) {
		t.Helper()
		key, err := k.find(t.Context(), kid, at)
		if (key != nil) != wantKey || !errors.Is(err, wantErr) || g.asked.Load() != wantAsked {
			t.Errorf("%s: %v, %v after %d requests, want %d", kid, key != nil, err, g.asked.Load(), wantAsked)
		}
	}
	g.status.Store(500)
	find("k1", now, false, errKeys, 1)
	g.status.Store(302)
	find("k1", now, false, errKeys, 2)
	g.status.Store(0)
	find("k1", now, true, nil, 3)
	find("k1", now.Add(keyLife-time.Second), true, nil, 3)
	find("k2", now, false, nil, 4)
	find("k2", now, false, nil, 4)
	find("k2", now.Add(noKeyLife), false, nil, 5)
	g.status.Store(500)
	find("k1", now.Add(keyLife), true, nil, 6)
	find("k1", now.Add(keyLife), true, nil, 6)
	g.status.Store(0)
	find("k1", now.Add(keyLife+noKeyLife), true, nil, 7)
	for i := range 3 * mostKeys {
		if _, err := k.find(t.Context(), fmt.Sprint("made-up-", i), now); err != nil {
			t.Fatal(err)
		}
	}
	if len(k.keys) > mostKeys {
		t.Errorf("%d keys are remembered", len(k.keys))
	}
	if key, err := k.find(t.Context(), "k1", now.Add(keyLife+noKeyLife)); key == nil || err != nil || g.asked.Load() != 7+3*mostKeys {
		t.Errorf("a flood of made-up names drove the good key out: %v", err)
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	prefixes := func(texts ...string) (ps []netip.Prefix) {
		for _, s := range texts {
			ps = append(ps, netip.MustParsePrefix(s))
		}
		return ps
	}
	allowed, proxies := prefixes("52.220.117.120/32", "2001:db8::/32"), prefixes("10.0.0.0/8", "fd00::/8")
	for _, test := range []struct {
		peer    string
		forward []string
		proxies []netip.Prefix
		want    bool
	}{
		{"52.220.117.120:443", nil, nil, true},
		{"52.220.117.121:443", nil, nil, false},
		{"[::ffff:52.220.117.120]:443", nil, nil, true},
		{"[2001:db8::1]:443", nil, nil, true},
		{"10.0.0.1:443", nil, nil, false},
		{"10.0.0.1:443", []string{"52.220.117.120"}, nil, false},                        // no proxy is trusted
		{"52.220.117.121:443", []string{"52.220.117.120"}, proxies, false},              // the peer is no proxy
		{"52.220.117.120:443", []string{"1.2.3.4"}, proxies, true},                      // and says nothing
		{"10.0.0.1:443", []string{"52.220.117.120"}, proxies, true},                     // the usual way
		{"10.0.0.1:443", []string{"52.220.117.120, 10.0.0.2"}, proxies, true},           // over two proxies
		{"10.0.0.1:443", []string{"52.220.117.120", "10.0.0.2"}, proxies, true},         // in two headers
		{"10.0.0.1:443", []string{"52.220.117.120, 1.2.3.4"}, proxies, false},           // the first is made up
		{"10.0.0.1:443", []string{"52.220.117.120, 1.2.3.4, 10.0.0.2"}, proxies, false}, // also over two proxies
		{"10.0.0.1:443", []string{"52.220.117.120, unknown, 10.0.0.2"}, proxies, false}, // who sent to 10.0.0.2?
		{"10.0.0.1:443", []string{"52.220.117.120:1234"}, proxies, false},               // no address
		{"10.0.0.1:443", nil, proxies, false},                                           // the proxy says nothing
		{"10.0.0.1:443", []string{""}, proxies, false},                                  // nor does this one
		{"10.0.0.1:443", []string{"10.0.0.3"}, proxies, false},                          // a proxy is no sender
		{"[fd00::1]:443", []string{"2001:db8::7"}, proxies, true},                       //
		{"52.220.117.120", nil, nil, false},                                             // without a port it is no peer
		{"@", nil, nil, false},                                                          // a unix socket
	} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.RemoteAddr = test.peer
		r.Header["X-Forwarded-For"] = test.forward
		if got := comesFrom(r, allowed, test.proxies); got != test.want {
			t.Errorf("%s for %q: %v", test.peer, test.forward, got)
		}
	}
}
