package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Native is the name of the webhook that 8x8 itself posts to.
const Native = "8x8"

// Questions are the types of 8x8's webhooks that 8x8 wants an answer to.
var questions = []string{"com.8x8.voice.call_action", "com.8x8.video.settings_provisioning"}

// Webhook is an endpoint served at /webhooks/<name>.
type Webhook struct {
	Pos    Pos
	Name   string
	Bearer []Secret // one or two live tokens
	// Signature is what a body's signature must look like; nil asks for none.
	Signature *Signature
	// Authorizations are whole Authorization values, such as "Basic …": one or two.
	Authorizations []Secret
	// JWT is what a signed bearer token must be; nil asks for none.
	JWT *JWT
	// Clients are the names, one of which a client's certificate must have, or "*" for
	// any certificate; empty asks for none.
	Clients []string
	// Addresses are where requests may come from, empty for anywhere; Proxies are
	// the only peers whose X-Forwarded-For is believed.
	Addresses, Proxies []netip.Prefix
	// Event makes CloudEvents of bodies that are none; nil takes CloudEvents alone.
	Event *WebhookEvent

	// The rest is of the entry named Native only.

	// Secrets are as BRIDGE_WEBHOOK_SECRET, one or two beside it.
	Secrets []Secret
	// Keys is the address of Contact Center's public keys, with {kid} in it; empty
	// checks no x-8x8-signature.
	Keys string
	// Answers are what 8x8's questions are answered with.
	Answers []WebhookAnswer
}

// Authenticated says whether the configuration of a webhook asks for any proof.
func (w *Webhook) Authenticated() bool {
	return len(w.Bearer)+len(w.Secrets)+len(w.Authorizations)+len(w.Addresses)+len(w.Clients) > 0 || w.Signature != nil || w.JWT != nil || w.Keys != ""
}

// JWT is a bearer token that an OAuth server signed, with RS256 or ES256.
type JWT struct {
	Issuer   string // of the token, exactly
	Audience string // one of the token's
	Keys     string // address of the server's key set (JWKS)
}

// WebhookEvent are texts that may hold ${ jq } over {"headers": …, "body": …}; the
// names of headers are in small letters.
type WebhookEvent struct {
	Type    Value
	Source  Value // KindNone: /webhooks/<name>
	ID      Value // KindNone: made of the whole body
	Subject Value // KindNone: none
}

// WebhookAnswer is the body that a question is answered with: a tree whose texts
// may hold ${ jq } over the question's event.
type WebhookAnswer struct {
	Pos  Pos
	Type string
	Body Value
}

// Signature says how a sender signs its requests with HMAC.
type Signature struct {
	Header string // that holds the signature
	// Style is how the header is written: "plain" is the signature alone after
	// Prefix, "pairs" is k=v,k=v with the signature under Key and the time under t,
	// "words" is words such as v1,<signature> with Key before the comma.
	Style     string
	Prefix    string
	Key       string
	Algorithm string // "sha256", "sha512" or "sha1"
	Encoding  string // "hex" or "base64"
	// Timestamp and ID are headers; of style "pairs" the time is in the signature's.
	Timestamp string
	ID        string
	// Signed is the text that is signed: {body}, {timestamp} and {id} stand for
	// themselves.
	Signed string
	// Decoded says that a secret is base64 after the prefix whsec_.
	Decoded bool
	// Tolerance is how far the time may be from ours, where there is one.
	Tolerance time.Duration
	Secrets   []Secret // one or two live ones
}

const defaultTolerance = 5 * time.Minute

// presets are how well-known senders sign. sources: the Standard Webhooks
// specification; GitHub, Stripe, Slack and Shopify, their pages on verifying
// webhooks; 8x8 webhooks-signatures.md (JaaS).
var presets = map[string]Signature{
	"standard-webhooks": {Header: "Webhook-Signature", Style: "words", Key: "v1", Encoding: "base64", Timestamp: "Webhook-Timestamp", ID: "Webhook-Id", Signed: "{id}.{timestamp}.{body}", Decoded: true},
	"github":            {Header: "X-Hub-Signature-256", Style: "plain", Prefix: "sha256=", Encoding: "hex", Signed: "{body}"},
	"stripe":            {Header: "Stripe-Signature", Style: "pairs", Key: "v1", Encoding: "hex", Signed: "{timestamp}.{body}"},
	"slack":             {Header: "X-Slack-Signature", Style: "plain", Prefix: "v0=", Encoding: "hex", Timestamp: "X-Slack-Request-Timestamp", Signed: "v0:{timestamp}:{body}"},
	"shopify":           {Header: "X-Shopify-Hmac-Sha256", Style: "plain", Encoding: "base64", Signed: "{body}"},
	"8x8":               {Header: "X-Jaas-Signature", Style: "pairs", Key: "v1", Encoding: "base64", Signed: "{timestamp}.{body}"},
}

// Preset is the scheme of a well-known sender, without secrets. ok is false for a
// name that is none of theirs.
func Preset(name string) (s Signature, ok bool) {
	s, ok = presets[name]
	s.Algorithm, s.Tolerance = "sha256", defaultTolerance
	return s, ok
}

func presetNames() []string {
	names := make([]string, 0, len(presets))
	for name := range presets {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (d *decoder) webhook(v Value, at string) {
	name, _ := v.Get("name")
	native := name.Scalar == Native
	keys := []string{"name", "auth", "event"}
	if native {
		keys = []string{"name", "auth", "answers"}
	}
	o := d.object(v, at, keys...)
	if v.Kind != KindMap {
		return
	}
	w := Webhook{Pos: v.Pos, Name: d.name(o, "name")}
	if auth, ok := o.get("auth"); ok {
		d.webhookAuth(&w, auth, native)
	}
	if e, ok := o.get("event"); ok && !native {
		m := d.object(e, "event", "type", "source", "id", "subject")
		w.Event = &WebhookEvent{Source: d.template(m, "source"), ID: d.template(m, "id"), Subject: d.template(m, "subject")}
		if _, ok := d.required(m, "type"); ok {
			w.Event.Type = d.template(m, "type")
		}
	}
	if answers, ok := o.get("answers"); ok && native {
		for _, e := range d.object(answers, "answers", questions...).Map {
			if e.Value.Kind != KindMap {
				d.wrongType(e.Value, e.Key, "a mapping")
				continue
			}
			w.Answers = append(w.Answers, WebhookAnswer{Pos: e.Pos, Type: e.Key, Body: e.Value})
		}
	}
	d.file.Webhooks = append(d.file.Webhooks, w)
}

// template is a text that may hold ${ jq }; KindNone if the key is not set.
func (d *decoder) template(o object, key string) Value {
	if _, ok := d.text(o, key); !ok {
		return Value{}
	}
	v, _ := o.get(key)
	return v
}

func (d *decoder) webhookAuth(w *Webhook, v Value, native bool) {
	keys := []string{"bearer", "authorization", "jwt", "mtls", "signature", "addresses", "proxies"}
	if native {
		keys = []string{"secret", "authorization", "jwt", "signature", "keys", "addresses", "proxies"}
	}
	o := d.object(v, "auth", keys...)
	if native {
		w.Secrets = d.secrets(o, "secret", false)
		if text, ok := d.text(o, "keys"); ok {
			if !secureAddress(text) || strings.Count(text, "{kid}") != 1 {
				d.fail(o.pos("keys"), "bad-address", "write https://api.8x8.com/chat-gateway/v1/jwk/{kid}/public", `"keys" must be an https address with {kid} in its path`)
			}
			w.Keys = text
		}
	} else {
		w.Bearer = d.secrets(o, "bearer", false)
	}
	w.Authorizations = d.secrets(o, "authorization", true)
	if j, ok := o.get("jwt"); ok {
		w.JWT = d.jwt(j)
	}
	if m, ok := o.get("mtls"); ok && !native {
		w.Clients = d.clients(m)
	}
	if n := count(o, "bearer", "authorization", "jwt"); n > 1 && !native {
		d.fail(v.Pos, "bad-value", "keep one of them", "bearer, authorization and jwt are all about the Authorization header, and all that is asked for must fit")
	}
	if s, ok := o.get("signature"); ok {
		w.Signature = d.signature(s)
	}
	w.Addresses, w.Proxies = d.prefixes(o, "addresses"), d.prefixes(o, "proxies")
	if len(w.Proxies) > 0 && len(w.Addresses) == 0 {
		d.fail(o.pos("proxies"), "bad-value", "name the senders' addresses under addresses:", `"proxies" says whose X-Forwarded-For counts for "addresses", which is missing`)
	}
	if v.Kind == KindMap && !slices.ContainsFunc(keys, o.has) {
		d.fail(v.Pos, "missing-key", "", "auth has none of %s", andList(keys))
	}
}

func count(o object, keys ...string) (n int) {
	for _, key := range keys {
		if o.has(key) {
			n++
		}
	}
	return n
}

// secureAddress says whether nobody between here and there can change what it says.
func secureAddress(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.Host != "" && !strings.Contains(u.Host, "{") && (u.Scheme == "https" || u.Scheme == "http" && Loopback(u.Host))
}

func (d *decoder) jwt(v Value) *JWT {
	o := d.object(v, "jwt", "issuer", "audience", "keys")
	var j JWT
	for _, c := range []struct {
		key string
		to  *string
	}{{"issuer", &j.Issuer}, {"audience", &j.Audience}, {"keys", &j.Keys}} {
		if _, ok := d.required(o, c.key); ok {
			*c.to, _ = d.text(o, c.key)
		}
	}
	if j.Keys != "" && !secureAddress(j.Keys) {
		d.fail(o.pos("keys"), "bad-address", "such as https://login.example.com/.well-known/jwks.json", `"keys" must be an https address`)
	}
	return &j
}

// clients are the names of mtls: {names: …}.
func (d *decoder) clients(v Value) []string {
	o := d.object(v, "mtls", "names")
	if _, ok := d.required(o, "names"); !ok {
		return nil
	}
	var names []string
	for _, text := range d.texts(o, "names") {
		if name := strings.TrimSpace(text.Value); name != "" {
			names = append(names, name)
		}
	}
	if len(names) == 0 && o.has("names") {
		d.fail(o.pos("names"), "bad-value", "such as shop.acme.internal or spiffe://acme.internal/shop, or \"*\" for any certificate", `"names" names nobody`)
	}
	return names
}

// secrets are the one or two live values of a secret.
func (d *decoder) secrets(o object, key string, spaces bool) []Secret {
	v, ok := o.get(key)
	if !ok {
		return nil
	}
	if v.Kind == KindList && (len(v.List) < 1 || len(v.List) > 2) {
		word := key
		if key == "bearer" {
			word = "token"
		}
		d.fail(v.Pos, "bad-value", "keep the newest "+word+" and the one before it", "%q takes one or two %ss, not %d", key, word, len(v.List))
		return nil
	}
	var secrets []Secret
	for _, text := range d.texts(o, key) {
		if secret, ok := d.secret(text, key, spaces); ok {
			secrets = append(secrets, secret)
		}
	}
	return secrets
}

func (d *decoder) signature(v Value) *Signature {
	o := d.object(v, "signature", "preset", "secret", "header", "style", "prefix", "key", "algorithm", "encoding", "timestamp", "id", "signed", "decoded", "tolerance")
	s := Signature{Style: "plain", Algorithm: "sha256", Encoding: "hex", Signed: "{body}", Tolerance: defaultTolerance}
	if name, ok := d.text(o, "preset"); ok {
		if s, ok = Preset(name); !ok {
			hint := "the presets are " + andList(presetNames())
			if near := Nearest(name, presetNames()); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			d.fail(o.pos("preset"), "unknown-preset", hint, "there is no preset %q", name)
			return nil
		}
	} else {
		d.required(o, "header")
	}
	for _, c := range []struct {
		key string
		to  *string
	}{{"header", &s.Header}, {"prefix", &s.Prefix}, {"key", &s.Key}, {"timestamp", &s.Timestamp}, {"id", &s.ID}, {"signed", &s.Signed}} {
		if text, ok := d.text(o, c.key); ok {
			*c.to = text
		}
	}
	for _, c := range []struct {
		key  string
		to   *string
		from []string
	}{
		{"style", &s.Style, []string{"plain", "pairs", "words"}},
		{"algorithm", &s.Algorithm, []string{"sha256", "sha512", "sha1"}},
		{"encoding", &s.Encoding, []string{"hex", "base64"}},
	} {
		if text, ok := d.text(o, c.key); ok {
			if *c.to = text; !slices.Contains(c.from, text) {
				d.fail(o.pos(c.key), "bad-value", "", "%q must be one of %s", c.key, andList(c.from))
			}
		}
	}
	if o.has("decoded") {
		s.Decoded = d.boolean(o, "decoded")
	}
	s.Tolerance = d.duration(o, "tolerance", s.Tolerance)
	if _, ok := d.required(o, "secret"); ok {
		s.Secrets = d.secrets(o, "secret", false)
	}
	timed := s.Timestamp != "" || s.Style == "pairs"
	switch {
	case !strings.Contains(s.Signed, "{body}"):
		d.fail(o.pos("signed"), "bad-value", "write {body}, or for example {timestamp}.{body}", `"signed" leaves out {body}, so anybody could change it`)
	case strings.Contains(s.Signed, "{timestamp}") && !timed:
		d.fail(o.Pos, "missing-key", "name the header with the time under timestamp:", `"signed" has {timestamp}, and nothing says where it is`)
	case s.Timestamp != "" && !strings.Contains(s.Signed, "{timestamp}"):
		d.fail(o.pos("signed"), "bad-value", "", `"signed" leaves out {timestamp}, so a request could be played again for ever`)
	case strings.Contains(s.Signed, "{id}") != (s.ID != ""):
		d.fail(o.Pos, "bad-value", "set both, or none", `"id" names a header, and "signed" says where its {id} stands`)
	case s.Style != "plain" && s.Key == "":
		d.fail(o.Pos, "missing-key", "such as v1", "style %q needs a key", s.Style)
	}
	return &s
}

// prefixes are addresses, or networks of them.
func (d *decoder) prefixes(o object, key string) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, text := range d.texts(o, key) {
		if prefix, err := parsePrefix(text.Value); err == nil {
			prefixes = append(prefixes, prefix)
		} else {
			d.fail(text.Pos, "bad-address", "write an address such as 52.220.117.120, or a network such as 10.0.0.0/8", "%q is no address", text.Value)
		}
	}
	return prefixes
}

// parsePrefix reads an address or a network.
func parsePrefix(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		return netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	return prefix.Masked(), err
}
