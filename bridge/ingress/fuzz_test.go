package ingress

import (
	"crypto/rsa"
	"net/http"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/config"
)

// FuzzProofs says that nothing but a signature with the secret gets in, and that
// nothing that a sender writes makes a check fall over.
func FuzzProofs(f *testing.F) {
	for _, v := range vectors {
		for _, value := range v.header {
			f.Add(value, "1700000000", "0", []byte(v.body))
		}
	}
	f.Add("eyJhbGciOiJSUzI1NiIsImtpZCI6ImsxIiwiYjY0IjpmYWxzZSwiY3JpdCI6WyJiNjQiXX0..AAAA", "1700000000000", "0", []byte(transfer))
	f.Fuzz(func(t *testing.T, value, stamp, id string, body []byte) {
		now := time.Unix(1700000000, 0)
		for _, v := range vectors {
			s, _ := config.Preset(v.preset)
			s.Secrets = []config.Secret{"a secret that no vector is signed with"}
			h := http.Header{}
			for _, name := range []string{s.Header, s.Timestamp, s.ID} {
				if name != "" {
					h.Set(name, map[string]string{s.Header: value, s.Timestamp: stamp, s.ID: id}[name])
				}
			}
			if verify(&s, h, body, now) == nil {
				t.Fatalf("%s: let in", v.preset)
			}
		}
		h := headerOf(map[string]string{
			"X-8x8-Signature": value, "X-8x8-Transmission-Time": stamp, "X-8x8-Retry": id,
			"X-8x8-Tenant-Id": id, "X-8x8-Customer-Id": id, "X-8x8-Event-Id": id,
		})
		if verifyGateway(h, body, now, func(string) (*rsa.PublicKey, error) { return nil, nil }) == nil {
			t.Fatal("let in without a key")
		}
		b := bearer{fetched: now, tried: now}
		if b.verify(t.Context(), withToken("Bearer "+value), now) == nil {
			t.Fatal("let in without a key")
		}
	})
}
