package ingress

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // some senders sign with nothing better, and HMAC does not need collisions to be hard
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"hash"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/bridge8x8/bridge8x8/config"
)

// Why a signature is refused. None of them says anything about the secret.
var (
	errUnsigned  = errors.New("the signature is missing")
	errTime      = errors.New("the signature's time is missing or cannot be read")
	errStale     = errors.New("the signature's time is too far from ours")
	errSignature = errors.New("the signature does not fit the body")
)

// Limits on what a header may make us compute.
const (
	longestSignature = 4 << 10
	mostSignatures   = 8
)

// verify says whether one of the secrets signed the request. Every pair of a
// secret and a signature is compared, each in constant time.
func verify(s *config.Signature, header http.Header, body []byte, now time.Time) error {
	value := header.Get(s.Header)
	if value == "" || len(value) > longestSignature {
		return errUnsigned
	}
	var given []string
	stamp, id := "", ""
	switch s.Style {
	case "pairs":
		for pair := range strings.SplitSeq(value, ",") {
			switch name, text, _ := strings.Cut(strings.TrimSpace(pair), "="); name {
			case "t":
				stamp = text
			case s.Key:
				given = append(given, text)
			}
		}
	case "words":
		for word := range strings.FieldsSeq(value) {
			if name, text, ok := strings.Cut(word, ","); ok && name == s.Key {
				given = append(given, text)
			}
		}
	default:
		if text, ok := strings.CutPrefix(value, s.Prefix); ok {
			given = []string{text}
		}
	}
	if len(given) == 0 || len(given) > mostSignatures {
		return errUnsigned
	}
	if s.Timestamp != "" {
		stamp = header.Get(s.Timestamp)
	}
	if strings.Contains(s.Signed, "{timestamp}") {
		if err := fresh(stamp, now, s.Tolerance); err != nil {
			return err
		}
	}
	if s.ID != "" {
		if id = header.Get(s.ID); id == "" {
			return errUnsigned
		}
	}
	fits := 0
	for _, secret := range s.Secrets {
		mac := hmac.New(algorithm(s.Algorithm), key(s, secret))
		// The body is put in by itself: one that holds "{id}" stays as it is.
		for i, part := range strings.Split(s.Signed, "{body}") {
			if i > 0 {
				mac.Write(body)
			}
			mac.Write([]byte(strings.NewReplacer("{timestamp}", stamp, "{id}", id).Replace(part)))
		}
		sum := mac.Sum(nil)
		for _, text := range given {
			if signature, ok := decode(s.Encoding, text); ok && hmac.Equal(signature, sum) {
				fits++
			}
		}
	}
	if fits == 0 {
		return errSignature
	}
	return nil
}

// fresh checks a time in seconds since 1970, or in milliseconds where it is as
// long as these.
func fresh(stamp string, now time.Time, tolerance time.Duration) error {
	n, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || n <= 0 || n > 1e14 {
		return errTime
	}
	at := time.UnixMilli(n)
	if n < 1e11 {
		at = time.Unix(n, 0)
	}
	if d := now.Sub(at); d > tolerance || d < -tolerance {
		return errStale
	}
	return nil
}

func algorithm(name string) func() hash.Hash {
	switch name {
	case "sha512":
		return sha512.New
	case "sha1":
		return sha1.New
	default:
		return sha256.New
	}
}

// key is the secret as the sender uses it. One that should be base64 and is not is
// used as it is written: it fits nothing then.
func key(s *config.Signature, secret config.Secret) []byte {
	if s.Decoded {
		if decoded, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret.Reveal(), "whsec_")); err == nil {
			return decoded
		}
	}
	return []byte(secret.Reveal())
}

func decode(encoding, text string) (signature []byte, ok bool) {
	var err error
	if encoding == "base64" {
		signature, err = base64.StdEncoding.DecodeString(text)
	} else {
		signature, err = hex.DecodeString(text)
	}
	return signature, err == nil
}
