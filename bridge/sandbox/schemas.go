package sandbox

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// What Membrane takes, field by field, in the words of the SDK's zod schemas: a
// field that is unknown is dropped, one of another type is refused, and null is a
// value, not an absent field. The contract suite holds each shape against the
// schema that it copies. source: @membranehq/sdk 0.28.3

// rule says what is wrong with a value; "" is nothing.
type rule func(json.RawMessage) string

// shape is the fields of a body. A field whose name ends in "!" is required.
type shape map[string]rule

// misfit is a refusal by a schema: it names the field.
func misfit(field, problem string) *apiError {
	return &apiError{Type: "bad_request", Message: field + ": " + problem, Data: map[string]string{"field": field}}
}

// read reads a body into a struct, as far as it is of this shape.
func (s shape) read(w http.ResponseWriter, r *http.Request, into any) *apiError {
	fields, failed := readObject(w, r)
	if failed != nil {
		return failed
	}
	if failed := s.check(fields); failed != nil {
		return failed
	}
	for name := range fields {
		if s[name] == nil && s[name+"!"] == nil {
			delete(fields, name)
		}
	}
	encoded, err := json.Marshal(fields)
	if err == nil {
		err = json.Unmarshal(encoded, into)
	}
	if err != nil {
		return badRequest("the body has a field of the wrong type: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

func (s shape) check(fields map[string]json.RawMessage) *apiError {
	names := make([]string, 0, len(s))
	for name := range s {
		names = append(names, name)
	}
	slices.Sort(names) // the same complaint each time
	for _, name := range names {
		field, required := strings.CutSuffix(name, "!")
		value, there := fields[field]
		switch {
		case !there && required:
			return misfit(field, "is required")
		case !there:
		default:
			if problem := s[name](value); problem != "" {
				return misfit(field, problem)
			}
		}
	}
	return nil
}

func (s shape) object(value json.RawMessage) string {
	var fields map[string]json.RawMessage
	if problem := isObject(value); problem != "" {
		return problem
	}
	_ = json.Unmarshal(value, &fields)
	if failed := s.check(fields); failed != nil {
		return failed.Message
	}
	return ""
}

func isText(value json.RawMessage) string {
	if value[0] != '"' {
		return "want a string"
	}
	return ""
}

// textUpTo is a text that is not empty, of so many characters; 0 is no end.
// JavaScript counts UTF-16 units, which matters to nobody here.
func textUpTo(to int) rule {
	return func(value json.RawMessage) string {
		if problem := isText(value); problem != "" {
			return problem
		}
		var text string
		_ = json.Unmarshal(value, &text)
		if n := utf8.RuneCountInString(text); n < 1 || to > 0 && n > to {
			return "want 1 or more characters" + upTo(to)
		}
		return ""
	}
}

func upTo(to int) string {
	if to == 0 {
		return ""
	}
	return ", up to " + strconv.Itoa(to)
}

func isObject(value json.RawMessage) string {
	if value[0] != '{' {
		return "want an object"
	}
	return ""
}

func isBool(value json.RawMessage) string {
	if value[0] != 't' && value[0] != 'f' {
		return "want true or false"
	}
	return ""
}

func isNumber(value json.RawMessage) string {
	if value[0] != '-' && (value[0] < '0' || value[0] > '9') {
		return "want a number"
	}
	return ""
}

func isAny(json.RawMessage) string { return "" }

func orNull(of rule) rule {
	return func(value json.RawMessage) string {
		if string(value) == "null" {
			return ""
		}
		return of(value)
	}
}

func listOf(of rule) rule {
	return func(value json.RawMessage) string {
		var items []json.RawMessage
		if value[0] != '[' || json.Unmarshal(value, &items) != nil {
			return "want a list"
		}
		for _, item := range items {
			if problem := of(item); problem != "" {
				return "in the list: " + problem
			}
		}
		return ""
	}
}

func recordOf(of rule) rule {
	return func(value json.RawMessage) string {
		var fields map[string]json.RawMessage
		if value[0] != '{' || json.Unmarshal(value, &fields) != nil {
			return "want an object"
		}
		for _, field := range fields {
			if problem := of(field); problem != "" {
				return problem
			}
		}
		return ""
	}
}

func oneOf(words ...string) rule {
	return func(value json.RawMessage) string {
		var text string
		if value[0] != '"' || json.Unmarshal(value, &text) != nil || !slices.Contains(words, text) {
			return "want one of " + strings.Join(words, ", ")
		}
		return ""
	}
}

func either(a, b rule) rule {
	return func(value json.RawMessage) string {
		if a(value) == "" {
			return ""
		}
		return b(value)
	}
}

func isAddress(value json.RawMessage) string {
	var text string
	if value[0] != '"' || json.Unmarshal(value, &text) != nil {
		return "want a URL"
	}
	if u, err := url.Parse(text); err != nil || u.Scheme == "" {
		return "want a URL"
	}
	return ""
}

// isDate is what JavaScript makes a date of: any text, or a number.
func isDate(value json.RawMessage) string {
	if isText(value) != "" && isNumber(value) != "" {
		return "want a time"
	}
	return ""
}

// isAppAddress is an address of an application: a host with a dot, and no IP.
func isAppAddress(value json.RawMessage) string {
	if problem := textUpTo(2000)(value); problem != "" {
		return problem
	}
	var text string
	_ = json.Unmarshal(value, &text)
	if appHost(text) == "" {
		return "want an address such as https://www.8x8.com"
	}
	return ""
}

func appHost(text string) string {
	if lower := strings.ToLower(text); !strings.HasPrefix(lower, "https://") && !strings.HasPrefix(lower, "http://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil || !strings.Contains(u.Hostname(), ".") {
		return ""
	}
	if ip, err := netip.ParseAddr(strings.TrimPrefix(u.Hostname(), "www.")); err == nil && ip.Is4() {
		return ""
	}
	return u.Hostname()
}

// isDataSchema is Membrane's dialect of JSON Schema, which is open.
var isDataSchema = recursive(func(self rule) shape {
	return shape{
		"title": isText, "description": isText, "format": isText, "referenceUdm": isText, "$ref": isText,
		"referenceCollectionPath": isText, "referenceCollectionUri": isText,
		"type": either(isText, listOf(isText)), "properties": recordOf(self), "items": self,
		"additionalProperties": either(isBool, self), "enum": listOf(isText), "referenceRecords": listOf(isAny),
		"referenceCollection": shape{"key": isAny, "parameters": isObject}.object,
		"allowCustom":         isBool, "readOnly": isBool, "writeOnly": isBool, "isImplied": isBool, "isSensitive": isBool,
		"required": listOf(isText), "minLength": isNumber, "maxLength": isNumber, "minimum": isNumber, "maximum": isNumber,
		"maxItems": isNumber, "examples": listOf(isAny), "anyOf": listOf(self),
	}
})

// isErrorData is an error, which may be caused by another. source: @membranehq/sdk
// ErrorDataSchema.
var isErrorData = recursive(func(self rule) shape {
	return shape{
		"type": oneOf(errorTypes...), "key": isText, "message!": isText, "data": isAny, "stack": isAny, "logs": listOf(isAny),
		"causedByError": self,
	}
})

// recursive is the rule of a shape that lies within itself.
func recursive(of func(self rule) shape) rule {
	var s shape
	s = of(func(value json.RawMessage) string { return s.object(value) })
	return s.object
}

var (
	actionTypes = []string{
		"list-data-records", "find-data-record-by-id", "match-data-record", "create-data-record", "find-or-create-data-record",
		"update-data-record", "delete-data-record", "search-data-record", "connector-operation", "api-request-to-external-app",
		"api-request-to-your-app", "http-request", "run-javascript", "api-request",
	}
	errorTypes = []string{
		"bad_request", "connection", "configuration", "dependency_error", "flow_run", "flow_instance_setup", "concurrency", "internal",
		"action_run", "action_instance_setup", "unit_run", "custom_code", "insufficient_credit", "openrouter_not_configured",
	}
	elementTypes = []string{
		"customer", "app", "connector", "integration", "flow", "flow-instance", "flow-run", "action", "package", "action-instance",
		"connection", "field-mapping", "field-mapping-instance", "data-source", "data-source-instance", "data-link-table",
		"data-link-table-instance", "app-event-type", "app-event-subscription", "app-event-log-record", "app-data-schema",
		"app-data-schema-instance", "external-event-subscription", "external-event-log-record", "external-event-pull", "screen",
		"action-run-log-record", "external-api-log-record", "incoming-webhook-log-record", "connected-product",
	}
	agentNames = []string{"membrane", "membrane-core", "self-integrating", "connection-building", "action-building", "universe"}
	modelIDs   = []string{
		"anthropic/claude-sonnet-4.6", "anthropic/claude-opus-4.6", "anthropic/claude-sonnet-4.5", "anthropic/claude-opus-4.5",
		"openai/gpt-5.2", "openai/gpt-5-nano", "google/gemini-3-pro-preview", "moonshotai/kimi-k2.5",
	}
	sessionStatuses = []string{sessionQueued, sessionStarting, sessionRunning, sessionCompleted, sessionFailed, sessionCancelled}
	sessionStates   = []string{sessionBusy, sessionIdle}
)

// The bodies, each named like the SDK's schema.
var (
	actionBody = shape{ // CreateActionRequest, UpdateActionRequest
		"uuid": isText, "key": isText, "name": isText, "description": isText, "meta": isObject, "integrationId": isText,
		"integrationUuid": isText, "integrationKey": isText, "parentId": isText, "parentUuid": isText, "parentKey": isText,
		"connectionId": isText, "instanceKey": isText, "isUniversal": isBool, "externalAppId": isText, "externalAppUuid": isText,
		"externalAppKey": isText, "inputSchema": isDataSchema, "type": oneOf(actionTypes...), "config": isObject,
		"outputMapping": isAny, "customOutputSchema": isDataSchema, "intent": isText,
	}
	connectionBody = shape{ // CreateConnectionRequest, UpdateConnectionRequest
		"name": isText, "meta": isObject, "authOptionKey": isText, "key": orNull(textUpTo(maxConnectionKey)), "integrationId": isText,
		"integrationUuid": isText, "integrationKey": isText, "connectorId": isText, "connectorUuid": isText, "connectorKey": isText,
		"connectorVersion": isText, "externalAppId": isText, "externalAppUuid": isText, "credentials": isAny,
		"connectorParameters": isAny, "input": isAny, "intent": isText,
	}
	ensureBody            = shape{"appUrl!": isAppAddress, "name": isText} // EnsureConnectionRequest
	connectionRequestBody = shape{                                         // CreateConnectionRequestPayload
		"integrationId": isText, "integrationKey": isText, "connectorId": isText, "connectorKey": isText, "connectorVersion": isText,
		"connectionId": isText, "connectionKey": textUpTo(maxConnectionKey), "name": isText, "allowMultipleConnections": isBool,
		"connectorParameters": isObject, "redirectUri": isAddress, "prompt": isText,
	}
	runBody     = shape{"input": isAny, "meta": isObject} // RunActionRequest
	attachments = listOf(shape{"title!": isText, "data": isAny}.object)
	sessionBody = shape{ // CreateAgentSession
		"workspaceElementType": oneOf(elementTypes...), "workspaceElementId": textUpTo(0), "prompt!": textUpTo(0),
		"testCustomerId": isText, "isExternal": isBool, "modelId": oneOf(modelIDs...), "agentName": oneOf(agentNames...),
		"promptAttachments": attachments,
	}
	sessionMessage = shape{"input!": textUpTo(0), "synthetic": isBool, "attachments": attachments} // AgentSessionInputSchema
	sessionPatch   = shape{                                                                        // PatchAgentSessionSchema
		"state": oneOf(sessionStates...), "lastActivityAt": isDate, "title": isText, "summary": isText, "error": isErrorData,
		"opencodeSessionUuid": isText, "output": isObject, "status": oneOf(sessionStatuses...),
	}
	tokenBody = shape{ // GenerateWorkspaceAccessTokenRequest
		"isAdmin": isBool, "tenantId": isText, "tenantKey": isText, "name": isText, "fields": isObject, "connectedProductId": isText,
	}
	selfPatch = shape{"name": isText, "fields": isObject, "credentials": isAny, "meta": isObject}
	// What the SDK posts to /connection-options; it has no schema for it.
	optionsBody = shape{
		"connectorId": isText, "connectionId": isText, "integrationId": isText, "integrationKey": isText, "connectorParameters": isAny,
	}
)

// queryOneOf is a word of a query that must be one of a few.
func queryOneOf(q url.Values, name string, words ...string) *apiError {
	if text := q.Get(name); text != "" && !slices.Contains(words, text) {
		return misfit(name, "want one of "+strings.Join(words, ", "))
	}
	return nil
}
