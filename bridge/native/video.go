package native

// video knows the webhooks of 8x8's meetings (JaaS). Every kind of them has an
// idempotencyKey; only the question for a meeting's settings is nothing but the
// meeting's name (sources: 8x8 webhooks-payload.md, webhooks-events.md,
// jaas-console-webhooks.md).
func video(b *body) (made, bool) {
	var p struct {
		IdempotencyKey text `json:"idempotencyKey"`
		AppID          text `json:"appId"`
		SessionID      text `json:"sessionId"`
		Timestamp      text `json:"timestamp"`
		FQN            text `json:"fqn"`
	}
	if b.Namespace != "" || !read(b.raw, &p) || p.FQN == "" && b.header.Get("X-Jaas-Signature") == "" {
		return made{}, false
	}
	if b.EventType == "" && p.IdempotencyKey == "" && p.FQN != "" {
		return made{typ: TypeMeetingSettings, source: "/8x8/video", data: b.raw}, true
	}
	what := kind(string(b.EventType))
	if what == "" || p.IdempotencyKey == "" {
		return made{}, false
	}
	return made{
		typ: PrefixVideo + what, source: under("video", p.AppID), id: known(p.IdempotencyKey), subject: known(p.SessionID),
		time: parseTime(p.Timestamp), data: b.raw,
	}, true
}
