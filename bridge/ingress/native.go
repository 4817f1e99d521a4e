package ingress

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/native"
	"github.com/bridge8x8/bridge8x8/config"
)

// proofs are what shows that a webhook comes from 8x8. Its families prove it in
// different ways, so one that fits is enough; but where it comes from must fit too,
// and a signature that is there must be good.
type proofs struct {
	secrets, authorizations tokens
	signature               *config.Signature
	keys                    *keyring
	jwt                     *bearer
	addresses, proxies      []netip.Prefix
}

func newProofs(o *Options) proofs {
	secrets, authorizations := []config.Secret{o.WebhookSecret}, []config.Secret{o.WebhookAuth}
	var p proofs
	for _, w := range o.Webhooks {
		if w.Name != nativeName {
			continue
		}
		secrets, authorizations = append(secrets, w.Secrets...), append(authorizations, w.Authorizations...)
		p.signature, p.addresses, p.jwt = w.Signature, w.Addresses, o.Shared.bearer(w.JWT)
		p.proxies = slices.Concat(w.Proxies, o.Shared.proxies)
		if w.Keys != "" {
			p.keys = o.Shared.keyring(w.Keys)
		}
	}
	p.secrets, p.authorizations = newTokens(secrets), newTokens(authorizations)
	return p
}

// beforeBody refuses what no body could prove to be 8x8's.
func (p *proofs) beforeBody(ctx context.Context, secret string, hasSecret bool, r *http.Request) *answer {
	if len(p.addresses) > 0 && !comesFrom(r, p.addresses, p.proxies) {
		refusal := refuse(http.StatusForbidden, "address_not_allowed", "the sender's address is not one of those that are allowed here")
		return &refusal
	}
	// Both are always compared, so that time tells nothing.
	bySecret, byHeader := p.secrets.fit(secret), p.authorizations.fit(r.Header.Get("Authorization"))
	open := len(p.secrets)+len(p.authorizations) == 0 && p.signature == nil && p.keys == nil && p.jwt == nil && !hasSecret
	if !bySecret && !byHeader && p.jwt != nil {
		err := p.jwt.verify(ctx, r, time.Now())
		if errors.Is(err, errKeys) {
			a := unavailable(err)
			return &a
		}
		byHeader = err == nil
	}
	if !bySecret && !byHeader && !open && !p.signed(r) && !p.gatewaySigned(r) {
		refusal := unauthorized("neither the secret in the address nor the Authorization header fits what is configured")
		return &refusal
	}
	return nil
}

func (p *proofs) signed(r *http.Request) bool {
	return p.signature != nil && r.Header.Get(p.signature.Header) != ""
}

func (p *proofs) gatewaySigned(r *http.Request) bool {
	return p.keys != nil && r.Header.Get("X-8x8-Signature") != ""
}

// withBody checks the signatures that are there.
func (p *proofs) withBody(ctx context.Context, r *http.Request, body []byte, now time.Time) *answer {
	var err error
	if p.signed(r) {
		err = verify(p.signature, r.Header, body, now)
	}
	if err == nil && p.gatewaySigned(r) {
		err = verifyGateway(r.Header, body, now, func(kid string) (*rsa.PublicKey, error) { return p.keys.find(ctx, kid, now) })
	}
	var a answer
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errKeys):
		a = unavailable(err)
	default:
		a = unauthorized(err.Error())
	}
	return &a
}

// answerTo is what 8x8 is told once its webhook is stored. A question that nobody
// configured an answer to is kept, and refused in the open: 8x8 would take an empty
// answer for one, and end the call or open the meeting as it likes.
func (h *handler) answerTo(e *event.Event) answer {
	if typ := e.Type(); typ != native.TypeCallAction && typ != native.TypeMeetingSettings {
		return answer{status: http.StatusOK}
	}
	if h.Answer != nil {
		switch body, ok, err := h.Answer(e); {
		case err != nil:
			a := refuse(http.StatusInternalServerError, "no_answer", "the answer that is configured could not be made; the event is stored")
			a.cause = err
			return a
		case ok:
			return answer{status: http.StatusOK, body: body}
		}
	}
	a := refuse(http.StatusNotImplemented, "no_answer", "no answer is configured for this webhook; the event is stored")
	a.cause = fmt.Errorf("8x8 asks for an answer: give the webhook %q an entry for %s under answers", nativeName, e.Type())
	return a
}

// takeWrapped takes a body that is no CloudEvent, where the configuration says how
// to make one of it.
func (h *handler) takeWrapped(ctx context.Context, e *endpoint, r *http.Request, body []byte, seen *Request) answer {
	made, err := h.Wrap(e.name, r.Header, body)
	if err != nil {
		a := refuse(http.StatusUnprocessableEntity, "not_mapped", "no CloudEvent could be made of the request, as the configuration says how to")
		a.cause = err
		return a
	}
	m, err := stored(made)
	if err != nil {
		return unreadable(&cloudevent.MalformedError{Attr: "type"})
	}
	if a := h.admit(cloudevent.Structured, []cloudevent.Message{m}); a != nil {
		return *a
	}
	carryTrace(m.Header, r.Header)
	if err := h.Accept.Accept(ctx, []cloudevent.Message{m}); err != nil {
		return notStored(err)
	}
	seen.Events = 1
	return answer{status: http.StatusAccepted}
}

// stored is an event that we made, as it is written to the bus. Its sender, who
// knows of no CloudEvents, posts it again when our answer is lost: it is stored
// once.
func stored(made event.Event) (cloudevent.Message, error) {
	e := cloudevent.Event{Event: made, RawSource: made.Source(), RawID: made.ID()}
	header, data, err := cloudevent.ToNATS(&e, cloudevent.Structured)
	sum := sha256.Sum256([]byte(made.Source() + "\x00" + made.ID()))
	return cloudevent.Message{Event: e, Header: header, Data: data, Once: hex.EncodeToString(sum[:16])}, err
}
