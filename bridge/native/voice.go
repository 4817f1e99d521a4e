package native

// voice knows the webhooks of Connect's calls: call actions (VCA) and statuses
// (VCS), summaries of sessions (VSS), recordings (VRU) and virtual numbers (VNU).
// Another kind than these is kept under its own name (sources: 8x8
// webhooks-overview.md, voice-call-action-webhook-guide.md,
// number-masking-call-status.md, session-summary-ivr.md,
// number-masking-call-recordings.md, virtual-number-updated.md).
func voice(b *body) (made, bool) {
	var p struct {
		EventID      text `json:"eventId"`
		SessionID    text `json:"sessionId"`
		SubAccountID text `json:"subAccountId"`
		RecordingID  text `json:"recordingId"`
		Status       text `json:"status"` // of a recording
		Timestamp    text `json:"timestamp"`
		EndTime      text `json:"endTime"`
	}
	what := kind(string(b.EventType))
	if b.Namespace.upper() != "VOICE" || what == "" || !read(b.Payload, &p) {
		return made{}, false
	}
	m := made{
		typ: PrefixVoice + what, source: under("voice", p.SubAccountID), subject: known(p.SessionID),
		time: parseTime(p.Timestamp), data: b.Payload,
	}
	switch what {
	case "call_action", "call_status":
		m.id = known(p.EventID)
	case "session_summary":
		m.id, m.time = known(p.SessionID), parseTime(p.EndTime)
	case "call_recording_status":
		if p.RecordingID != "" {
			m.id = hash(string(p.RecordingID), string(p.Status))
		}
	}
	return m, true
}
