package ingress

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Contact Center's chat gateway signs with a detached JWS over a few headers and
// the body's checksum (source: 8x8 validating-webhook-events.md).

const gatewayTolerance = 5 * time.Minute

// errKeys is a public key that could not be asked for: nothing is known about the
// request then.
var errKeys = errors.New("the sender's public key could not be fetched")

// gatewayClaims are what is signed, as compact JSON in this order. The numbers are
// the gateway's own digits.
type gatewayClaims struct {
	Checksum uint32      `json:"checksum"`
	Customer string      `json:"cid"`
	Event    string      `json:"eid"`
	Retry    json.Number `json:"retry"`
	Tenant   string      `json:"tid"`
	Time     json.Number `json:"tt"`
}

// verifyGateway checks x-8x8-signature. find gives the public key of a kid, nil if
// there is none.
func verifyGateway(header http.Header, body []byte, now time.Time, find func(kid string) (*rsa.PublicKey, error)) error {
	value := header.Get("X-8x8-Signature")
	parts := strings.Split(value, ".")
	if value == "" || len(value) > longestSignature || len(parts) != 3 || parts[1] != "" {
		return errUnsigned
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil {
		return errUnsigned
	}
	var jose struct {
		Algorithm string   `json:"alg"`
		KeyID     string   `json:"kid"`
		Base64    *bool    `json:"b64"`
		Critical  []string `json:"crit"`
	}
	// Another algorithm, or a demand that is not understood, is no signature of theirs.
	if json.Unmarshal(raw, &jose) != nil || jose.Algorithm != "RS256" || jose.Base64 == nil || *jose.Base64 ||
		len(jose.Critical) != 1 || jose.Critical[0] != "b64" {
		return errSignature
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return errSignature
	}
	claims := gatewayClaims{
		Checksum: crc32.ChecksumIEEE(body), Customer: header.Get("X-8x8-Customer-Id"), Event: header.Get("X-8x8-Event-Id"),
		Retry: json.Number(header.Get("X-8x8-Retry")), Tenant: header.Get("X-8x8-Tenant-Id"), Time: json.Number(header.Get("X-8x8-Transmission-Time")),
	}
	if claims.Customer == "" || claims.Event == "" || claims.Tenant == "" || !digits(claims.Retry.String()) {
		return errUnsigned
	}
	if err := fresh(claims.Time.String(), now, gatewayTolerance); err != nil {
		return err
	}
	var signed bytes.Buffer
	signed.WriteString(parts[0] + ".")
	encoder := json.NewEncoder(&signed)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(claims) != nil {
		return errUnsigned
	}
	public, err := find(jose.KeyID)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(bytes.TrimSuffix(signed.Bytes(), []byte("\n")))
	if public == nil || rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], signature) != nil {
		return errSignature
	}
	return nil
}

func digits(s string) bool {
	n, err := strconv.ParseUint(s, 10, 32)
	return err == nil && strconv.FormatUint(n, 10) == s
}

// keyring fetches the gateway's public keys, and remembers them.
type keyring struct {
	address string // with {kid}
	client  *http.Client

	fetching sync.Mutex

	mu   sync.Mutex
	keys map[string]knownKey
}

// knownKey is a key, or that there is none of this name.
type knownKey struct {
	key   *rsa.PublicKey
	until time.Time
}

const (
	keyLife     = time.Hour
	noKeyLife   = time.Minute
	mostKeys    = 32 // of names that anybody may make up
	keyTimeout  = 2 * time.Second
	longestKey  = 64 << 10
	smallestKey = 2048 // bits
)

func newKeyring(address string) *keyring {
	return &keyring{address: address, keys: make(map[string]knownKey), client: &http.Client{
		Timeout: keyTimeout,
		// A redirect would let somebody else say which key is 8x8's.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// find is the key of a name, nil if 8x8 has none. It asks for one key at a time:
// a flood of made-up names is no flood at 8x8, and delays nobody whose key is known.
func (k *keyring) find(ctx context.Context, kid string, now time.Time) (*rsa.PublicKey, error) {
	if kid == "" || len(kid) > 128 {
		return nil, nil
	}
	if known, ok := k.lookup(kid); ok && now.Before(known.until) {
		return known.key, nil
	}
	k.fetching.Lock()
	defer k.fetching.Unlock()
	known, ok := k.lookup(kid) // somebody else may have fetched it meanwhile
	if ok && now.Before(known.until) {
		return known.key, nil
	}
	key, err := k.fetch(ctx, kid)
	life := keyLife
	switch {
	case err != nil && ok && known.key != nil:
		key, life = known.key, noKeyLife // better an old key than no word from 8x8
	case err != nil:
		return nil, err
	case key == nil:
		life = noKeyLife
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, known := range k.keys {
		if len(k.keys) >= mostKeys && (known.key == nil || !now.Before(known.until)) {
			delete(k.keys, name)
		}
	}
	if _, here := k.keys[kid]; here || len(k.keys) < mostKeys {
		k.keys[kid] = knownKey{key, now.Add(life)}
	}
	return key, nil
}

func (k *keyring) lookup(kid string) (knownKey, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	known, ok := k.keys[kid]
	return known, ok
}

func (k *keyring) fetch(ctx context.Context, kid string) (*rsa.PublicKey, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.Replace(k.address, "{kid}", url.PathEscape(kid), 1), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: the address of the keys cannot be used", errKeys)
	}
	response, err := k.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("%w: no answer", errKeys)
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(response.Body, longestKey))
	switch {
	case response.StatusCode == http.StatusNotFound || response.StatusCode == http.StatusBadRequest:
		return nil, nil
	case err != nil || response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%w: status %d", errKeys, response.StatusCode)
	}
	var written jwk
	if json.Unmarshal(raw, &written) != nil || written.KID != "" && written.KID != kid {
		return nil, nil
	}
	key, _ := written.public().(*rsa.PublicKey)
	return key, nil
}
