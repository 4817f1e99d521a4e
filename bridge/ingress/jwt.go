package ingress

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bridge8x8/bridge8x8/config"
)

// errToken is a bearer token that is not good here. Which of its parts is wrong is
// told to nobody.
var errToken = errors.New("the token is not valid here")

const (
	clockSkew    = time.Minute
	longestToken = 16 << 10
	longestKeys  = 1 << 20
)

// bearer checks tokens that an OAuth server signed. Its keys are fetched and
// remembered; a name that is not among them lets them be fetched again, at most
// once a minute.
type bearer struct {
	config.JWT
	client *http.Client

	mu      sync.Mutex
	keys    map[string]crypto.PublicKey // by kid
	fetched time.Time
	tried   time.Time
}

func newBearer(j *config.JWT) *bearer {
	if j == nil {
		return nil
	}
	return &bearer{JWT: *j, client: newKeyring("").client}
}

// verify says whether the request carries a good token. The error is errToken, or
// errKeys if nothing can be said about it.
func (b *bearer) verify(ctx context.Context, r *http.Request, now time.Time) error {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	parts := strings.Split(token, ".")
	if !strings.EqualFold(scheme, "Bearer") || len(token) > longestToken || len(parts) != 3 {
		return errToken
	}
	var head struct {
		Algorithm string   `json:"alg"`
		KeyID     string   `json:"kid"`
		Critical  []string `json:"crit"`
	}
	var claims struct {
		Issuer    string      `json:"iss"`
		Audience  audience    `json:"aud"`
		Expires   json.Number `json:"exp"`
		NotBefore json.Number `json:"nbf"`
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || !decodePart(parts[0], &head) || !decodePart(parts[1], &claims) || head.Critical != nil {
		return errToken
	}
	key, err := b.key(ctx, head.KeyID, now)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	good := false
	switch key := key.(type) { // the key says which algorithm it is for, not the token
	case *rsa.PublicKey:
		good = head.Algorithm == "RS256" && rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signature) == nil
	case *ecdsa.PublicKey:
		good = head.Algorithm == "ES256" && len(signature) == 64 &&
			ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
	}
	expires, err := claims.Expires.Float64()
	if !good || err != nil || claims.Issuer != b.Issuer || !slices.Contains(claims.Audience, b.Audience) || now.Add(-clockSkew).Unix() >= int64(expires) {
		return errToken
	}
	if claims.NotBefore != "" {
		if from, err := claims.NotBefore.Float64(); err != nil || now.Add(clockSkew).Unix() < int64(from) {
			return errToken
		}
	}
	return nil
}

// audience is a text or a list of them.
type audience []string

func (a *audience) UnmarshalJSON(raw []byte) error {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(raw, (*[]string)(a))
}

func decodePart(part string, v any) bool {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	return err == nil && json.Unmarshal(raw, v) == nil
}

// key finds a key by its name; nil if the server has none of it.
func (b *bearer) key(ctx context.Context, kid string, now time.Time) (crypto.PublicKey, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := b.keys[kid]
	old := now.Sub(b.fetched) > keyLife
	if (key == nil || old) && now.Sub(b.tried) >= noKeyLife {
		b.tried = now
		keys, err := b.fetch(ctx)
		if err == nil {
			b.keys, b.fetched = keys, now
			return keys[kid], nil
		}
		if b.keys == nil {
			b.tried = time.Time{} // nothing is known yet: the next request asks again
		}
		if key == nil {
			return nil, err
		}
	}
	return key, nil // better an old key than no word from its server
}

func (b *bearer) fetch(ctx context.Context) (map[string]crypto.PublicKey, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, b.Keys, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: its address cannot be used", errKeys)
	}
	response, err := b.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("%w: no answer", errKeys)
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(response.Body, longestKeys))
	var set struct {
		Keys []jwk `json:"keys"`
	}
	if err != nil || response.StatusCode != http.StatusOK || json.Unmarshal(raw, &set) != nil {
		return nil, fmt.Errorf("%w: status %d, or no key set", errKeys, response.StatusCode)
	}
	keys := make(map[string]crypto.PublicKey, len(set.Keys))
	for _, k := range set.Keys {
		if key := k.public(); key != nil && k.Use != "enc" {
			keys[k.KID] = key
		}
	}
	return keys, nil
}

// jwk is a public key as RFC 7517 writes it.
type jwk struct {
	Type  string `json:"kty"`
	KID   string `json:"kid"`
	Use   string `json:"use"`
	N     string `json:"n"`
	E     string `json:"e"`
	Curve string `json:"crv"`
	X     string `json:"x"`
	Y     string `json:"y"`
}

// public is the key, or nil if it is none that we take.
func (k *jwk) public() crypto.PublicKey {
	number := func(text string) *big.Int {
		raw, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			return new(big.Int)
		}
		return new(big.Int).SetBytes(raw)
	}
	switch {
	case k.Type == "RSA":
		n, e := number(k.N), number(k.E)
		if e.BitLen() > 31 || e.Int64() < 3 || n.BitLen() < smallestKey {
			return nil
		}
		return &rsa.PublicKey{N: n, E: int(e.Int64())}
	case k.Type == "EC" && k.Curve == "P-256":
		point := make([]byte, 65)
		point[0] = 4
		x, y := number(k.X), number(k.Y)
		if x.BitLen() > 256 || y.BitLen() > 256 {
			return nil
		}
		x.FillBytes(point[1:33])
		y.FillBytes(point[33:])
		key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
		if err != nil {
			return nil // a nil key in an interface would not be nil
		}
		return key
	}
	return nil
}

// checkToken refuses a request without a good token.
func (e *endpoint) checkToken(r *http.Request) *answer {
	var a answer
	switch err := e.jwt.verify(r.Context(), r, time.Now()); {
	case err == nil:
		return nil
	case errors.Is(err, errKeys):
		a = unavailable(err)
	default:
		a = unauthorized(err.Error()).with("WWW-Authenticate", `Bearer error="invalid_token"`)
	}
	return &a
}
