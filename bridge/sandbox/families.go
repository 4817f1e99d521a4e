package sandbox

import (
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// The parts of 8x8's APIs that no action here covers, as inline requests reach
// them: one endpoint or two of each family. Really they are of several hosts, with
// keys of their own, and need a connection each; every connection here leads to
// all of them. Requests are checked as far as 8x8 documents them; what an answer
// holds beyond what is quoted there is ours.
// source: 8x8 voice_v1_api.json, business_messaging_api.json, contacts_api.json,
// sms_api.json, user-api-v1.yaml, ringgroup-api-v1.yaml, work_analytics.json,
// automation_api.json.
type families struct {
	mu         sync.Mutex
	operations map[string]time.Time // by id, when each was begun
	feedback   map[string]string    // by umid
}

// What is there from the beginning: no endpoint here makes one.
const (
	// UserID is a user of the account, PBXID its telephone system with one queue, and
	// SessionID a call that was recorded.
	UserID    = "usr-0001"
	PBXID     = "pbx-0001"
	SessionID = "5e551077-0000-4000-8000-000000000001"
)

// operationTime is how long an operation of the Administration API is PENDING.
const operationTime = 100 * time.Millisecond

type familyCall func(*account, *inline, map[string]string) (status int, output any, effect bool, failed *vendorError)

var familyEndpoints = []struct {
	method, path string
	call         familyCall
}{
	{"POST", "/api/v1/subaccounts/{subAccountId}/callflows", (*account).startCall},
	{"GET", "/api/v1/subaccounts/{subAccountId}/recordings/{sessionId}", (*account).getRecording},
	{"POST", "/api/v1/subaccounts/{subAccountId}/messages", (*account).sendChat}, // with a user; else it is an SMS
	{"POST", "/api/v1/subaccounts/{subAccountId}/messages/{umid}/feedback", (*account).giveFeedback},
	{"GET", "/admin-provisioning/users/{userId}", (*account).getUser},
	{"GET", "/analytics/work/v2/pbxes/{pbxId}/queues", (*account).listQueues},
	{"POST", "/admin-provisioning/ring-groups", (*account).createRingGroup},
	{"GET", "/admin-provisioning/operations/{operationId}", (*account).getOperation},
	{"GET", "/api/v1/accounts/{accountId}/usage/messages", (*account).getUsage},
	{"POST", "/api/v1/accounts/{accountId}/triggers/http_request", (*account).triggerAutomation},
}

// family makes a request of one of them; ok is false if it is of none.
func (a *account) family(in *inline) (x *exchange, effect, ok bool) {
	parts := strings.Split(in.path, "/")
	for _, endpoint := range familyEndpoints {
		variables, fits := fitPath(endpoint.path, parts)
		if !fits || endpoint.method != in.method {
			continue
		}
		x = &exchange{method: in.method, path: in.path, input: in.body}
		x.status, x.output, effect, x.failed = endpoint.call(a, in, variables)
		if x.status == 0 && x.failed == nil {
			continue // it is another one's
		}
		return x, effect && x.failed == nil, true
	}
	return nil, false, false
}

func fitPath(pattern string, parts []string) (map[string]string, bool) {
	wanted := strings.Split(pattern, "/")
	if len(wanted) != len(parts) {
		return nil, false
	}
	variables := map[string]string{}
	for i, want := range wanted {
		name, isVariable := strings.CutPrefix(want, "{")
		if !isVariable {
			if want != parts[i] {
				return nil, false
			}
			continue
		}
		decoded, err := url.PathUnescape(parts[i])
		if err != nil || decoded == "" {
			return nil, false
		}
		variables[strings.TrimSuffix(name, "}")] = decoded
	}
	return variables, true
}

func (in *inline) object() map[string]any {
	var body map[string]any
	_ = json.Unmarshal(in.body, &body)
	return body
}

func (a *account) startCall(in *inline, _ map[string]string) (int, any, bool, *vendorError) {
	flow, _ := in.object()["callflow"].([]any)
	if len(flow) == 0 {
		return 0, nil, false, refused(1000, "Invalid parameter: callflow")
	}
	for _, step := range flow {
		if s, _ := step.(map[string]any); textIn(s, "action") == "" {
			return 0, nil, false, refused(1000, "Invalid parameter: a step of the callflow has no action")
		}
	}
	return http.StatusOK, map[string]any{"sessionId": newUUID(), "sessionStatus": "CREATED", "callFlowRequestId": newUUID(), "statusCode": 1}, true, nil
}

func textIn(object map[string]any, name string) string {
	text, _ := object[name].(string)
	return text
}

func (a *account) getRecording(_ *inline, v map[string]string) (int, any, bool, *vendorError) {
	if v["sessionId"] != SessionID {
		return 0, nil, false, unknownObject("Recording not found")
	}
	return http.StatusOK, map[string]any{"sessionId": SessionID, "recordingUrl": "https://voice.8x8.com/recordings/" + SessionID}, false, nil
}

// maxChatReference. source: 8x8 business_messaging_api.json.
const maxChatReference = 50

func (a *account) sendChat(in *inline, v map[string]string) (int, any, bool, *vendorError) {
	body := in.object()
	user, isChat := body["user"].(map[string]any)
	reference := textIn(body, "clientMessageId")
	switch {
	case !isChat:
		return 0, nil, false, nil
	case !subAccountPattern.MatchString(v["subAccountId"]):
		return 0, nil, false, refused(1001, "Illegal sub-account")
	case textIn(user, "msisdn")+textIn(user, "channelUserId")+textIn(user, "lineUserId") == "":
		return 0, nil, false, refused(3001, "User is missing")
	case textIn(user, "msisdn") != "" && !msisdnPattern.MatchString(textIn(user, "msisdn")):
		return 0, nil, false, refused(3003, "Invalid MSISDN")
	case textIn(body, "type") == "":
		return 0, nil, false, refused(3010, "Content type is missing")
	case body["content"] == nil:
		return 0, nil, false, refused(3004, "Content is missing")
	case utf8.RuneCountInString(reference) > maxChatReference:
		return 0, nil, false, refused(3009, "clientMessageId is too long")
	}
	answer := map[string]any{"umid": newUUID(), "status": map[string]any{"state": "queued"}, "user": user}
	if reference != "" {
		answer["clientMessageId"] = reference
	}
	return http.StatusOK, answer, true, nil
}

func (a *account) giveFeedback(in *inline, v map[string]string) (int, any, bool, *vendorError) {
	outcome := textIn(in.object(), "outcome")
	if outcome != "success" && outcome != "failure" {
		return 0, nil, false, refused(1000, "Invalid parameter: outcome")
	}
	a.mu.Lock()
	m, ok := a.messages[strings.ToLower(v["umid"])]
	a.mu.Unlock()
	if !ok || m.subAccountID != v["subAccountId"] {
		return 0, nil, false, unknownObject("Message not found")
	}
	f := &a.families
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.feedback == nil {
		f.feedback = map[string]string{}
	}
	f.feedback[m.umid] = outcome
	return http.StatusOK, nil, true, nil
}

func (a *account) getUser(_ *inline, v map[string]string) (int, any, bool, *vendorError) {
	if v["userId"] != UserID {
		return 0, nil, false, unknownObject("User not found")
	}
	return http.StatusOK, map[string]any{
		"userId":      UserID,
		"basicInfo":   map[string]any{"firstName": "Sam", "lastName": "Sample", "status": "ACTIVE"},
		"serviceInfo": map[string]any{"licenses": []any{map[string]any{"licenseId": "lic-0001", "product": "X2"}}},
	}, false, nil
}

func (a *account) listQueues(_ *inline, v map[string]string) (int, any, bool, *vendorError) {
	if v["pbxId"] != PBXID {
		return 0, nil, false, unknownObject("PBX not found")
	}
	return http.StatusOK, []any{map[string]any{"queueId": "que-0001", "queueName": "Support"}}, false, nil
}

var ringPatterns = map[string]bool{"ROUND_ROBIN": true, "SEQUENTIAL": true, "SIMULTANEOUS": true}

func (a *account) createRingGroup(in *inline, _ map[string]string) (int, any, bool, *vendorError) {
	body := in.object()
	switch {
	case textIn(body, "name") == "":
		return 0, nil, false, refused(1000, "Invalid parameter: name")
	case !ringPatterns[textIn(body, "ringPattern")]:
		return 0, nil, false, refused(1000, "Invalid parameter: ringPattern")
	case body["ringTimeout"] == nil || body["inboundCallerIdFormat"] == nil:
		return 0, nil, false, refused(1000, "Invalid parameter: ringTimeout and inboundCallerIdFormat are required")
	}
	f := &a.families
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.operations == nil {
		f.operations = map[string]time.Time{}
	}
	id := newUUID()
	f.operations[id] = a.server.opts.Now()
	return http.StatusAccepted, map[string]any{"operationId": id, "status": "PENDING"}, true, nil
}

func (a *account) getOperation(_ *inline, v map[string]string) (int, any, bool, *vendorError) {
	f := &a.families
	f.mu.Lock()
	begun, ok := f.operations[v["operationId"]]
	f.mu.Unlock()
	if !ok {
		return 0, nil, false, unknownObject("Operation not found")
	}
	status := "COMPLETED"
	if a.server.opts.Now().Before(begun.Add(operationTime)) {
		status = "PENDING"
	}
	return http.StatusOK, map[string]any{"operationId": v["operationId"], "status": status}, false, nil
}

var billingPeriod = regexp.MustCompile(`^20[0-9]{2}-(0[1-9]|1[0-2])$`)

func (a *account) getUsage(in *inline, _ map[string]string) (int, any, bool, *vendorError) {
	period := in.query.Get("billingPeriod")
	if !billingPeriod.MatchString(period) || period >= a.server.opts.Now().UTC().Format("2006-01") {
		return 0, nil, false, refused(1000, "Invalid parameter: billingPeriod must be a closed month, such as 2026-02")
	}
	return http.StatusOK, map[string]any{"billingPeriod": period, "items": []any{}}, false, nil
}

func (a *account) triggerAutomation(in *inline, _ map[string]string) (int, any, bool, *vendorError) {
	if !subAccountPattern.MatchString(in.query.Get("subAccountId")) {
		return 0, nil, false, refused(1001, "Illegal sub-account")
	}
	if len(in.body) == 0 {
		return 0, nil, false, refused(1000, "Invalid parameter: there is no body")
	}
	return http.StatusOK, map[string]any{"id": newUUID()}, true, nil
}
