package native

import "encoding/json"

// survey knows the answers of SMS Engage, which have no envelope (source: 8x8
// sms-engage-response-webhook.md).
func survey(b *body) (made, bool) {
	var p struct {
		UMID        text            `json:"umid"`
		SurveyID    text            `json:"surveyId"`
		SubmittedAt text            `json:"surveySubmittedAt"`
		Answers     json.RawMessage `json:"answers"`
	}
	if b.Namespace != "" || !read(b.raw, &p) || p.SurveyID == "" || p.Answers == nil || known(p.UMID) == "" {
		return made{}, false
	}
	return made{
		typ: TypeSMSSurvey, source: "/8x8/sms", id: hash(string(p.UMID), string(p.SubmittedAt)), subject: known(p.UMID),
		time: parseTime(p.SubmittedAt), data: b.raw,
	}, true
}
