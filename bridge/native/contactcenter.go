package native

import (
	"encoding/base64"
	"encoding/json"
)

// contactCenter knows the chat gateway of Contact Center (sources: 8x8
// webhooks-events-reference.md, validating-webhook-events.md). Without its header
// an event is known by its shape, and told from others by its body.
func contactCenter(b *body) (made, bool) {
	var p struct {
		ConversationID      text `json:"conversationId"`
		Timestamp           text `json:"timestamp"`
		NotificationVersion text `json:"notificationVersion"`
	}
	id, what := text(b.header.Get("X-8x8-Event-Id")), kind(string(b.EventType))
	if b.Namespace != "" || what == "" || !read(b.raw, &p) || id == "" && p.ConversationID == "" && p.NotificationVersion == "" {
		return made{}, false
	}
	return made{
		typ: PrefixContactCenter + what, source: under("contactcenter", text(b.header.Get("X-8x8-Tenant-Id"))), id: known(id),
		subject: known(p.ConversationID), time: parseTime(p.Timestamp), data: b.raw,
	}, true
}

// streamRoots are the only members of the messages of Contact Center's event
// stream, one in each.
var streamRoots = [...]string{"Interaction", "AgentStatusChange", "AgentProvChange"}

// stream knows a message of Contact Center's event stream that somebody passes on:
// the frame as it came from the WebSocket, or the message in it (sources: 8x8
// streaming message-format.mdx, event-reference.md, field-reference.mdx). The data
// is the message.
func stream(b *body) (made, bool) {
	var frame struct {
		MessageID text `json:"messageId"`
		Payload   text `json:"payload"`
	}
	message, id := b.raw, ""
	if b.Namespace != "" || b.EventType != "" || !read(b.raw, &frame) {
		return made{}, false
	}
	if frame.MessageID != "" {
		decoded, err := base64.StdEncoding.DecodeString(string(frame.Payload))
		if err != nil {
			return made{}, false
		}
		// A frame that comes again has other counters around the same message.
		message, id = decoded, hash(string(frame.MessageID), string(decoded))
	}
	var roots map[string]json.RawMessage
	if !read(message, &roots) || len(roots) != 1 {
		return made{}, false
	}
	for _, root := range streamRoots {
		inner, ok := roots[root]
		if !ok {
			continue
		}
		var p struct {
			Event              text `json:"event"`
			InteractionGUID    text `json:"interactionGUID"`
			AgentID            text `json:"agentId"`
			EventTS            text `json:"eventTS"`
			InteractionEventTS text `json:"interactionEventTS"`
			StatusEventTS      text `json:"statusEventTS"`
			MsgInfo            struct {
				Timestamp text `json:"timestamp"`
			} `json:"msgInfo"`
		}
		if !read(inner, &p) {
			return made{}, false
		}
		m := made{source: "/8x8/contactcenter", id: id, subject: known(p.InteractionGUID), data: message}
		if m.subject == "" {
			m.subject = known(p.AgentID)
		}
		for _, at := range []text{p.MsgInfo.Timestamp, p.InteractionEventTS, p.StatusEventTS, p.EventTS} {
			if m.time.IsZero() && at != "" {
				m.time = parseTime(at)
			}
		}
		what := kind(string(p.Event))
		if what == "" {
			what = kind(root)
		}
		m.typ = PrefixContactCenter + what
		return m, true
	}
	return made{}, false
}
