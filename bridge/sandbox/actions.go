package sandbox

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// action is one of the ten, as Membrane has it.
type action struct {
	id, key, name, description string
	input, output              json.RawMessage
	// check is what Membrane itself refuses. nil takes anything.
	check *catalog.Schema
}

// directory is every action, in the order of the catalog.
type directory struct {
	list   []*action
	byName map[string]*action // by id and by key
}

func newDirectory(known []*catalog.Action) directory {
	d := directory{byName: map[string]*action{}}
	for _, k := range known {
		if _, ok := endpoints[k.Key]; !ok {
			continue // nothing here behaves like it
		}
		a := &action{id: stableID("action/" + k.Key), key: k.Key, name: k.Name, description: k.Description}
		a.input, a.output = raw(k.Input), raw(k.Output)
		a.check = lenient(a.input)
		d.list = append(d.list, a)
		d.byName[a.id], d.byName[a.key] = a, a
	}
	return d
}

func raw(s *catalog.Schema) json.RawMessage {
	if s == nil {
		return json.RawMessage(`{}`)
	}
	return s.Raw()
}

// lenient is a schema that asks for required fields and types only, which is
// all that Membrane is known to look at. The rest is for 8x8 to refuse: a wrong
// number in a batch must come as a rejected message, not as a refused run.
func lenient(schema json.RawMessage) *catalog.Schema {
	var tree any
	if err := json.Unmarshal(schema, &tree); err != nil {
		panic(fmt.Sprintf("a schema of the catalog is no JSON: %v", err))
	}
	loosen(tree)
	encoded, err := json.Marshal(tree)
	if err != nil {
		panic(err)
	}
	parsed, err := catalog.ParseSchema(encoded)
	if err != nil {
		panic(fmt.Sprintf("a schema of the catalog cannot be read: %v", err))
	}
	return parsed
}

func loosen(schema any) {
	s, ok := schema.(map[string]any)
	if !ok {
		return
	}
	for _, bound := range []string{"pattern", "format", "enum", "minLength", "maxLength", "minimum", "maximum", "maxItems"} {
		delete(s, bound)
	}
	loosen(s["items"])
	if properties, ok := s["properties"].(map[string]any); ok {
		for _, property := range properties {
			loosen(property)
		}
	}
}

// stableID is the same id every time for the same thing.
func stableID(of string) string {
	sum := sha256.Sum256([]byte(of))
	return hex.EncodeToString(sum[:12])
}

// actionElement is an action as Membrane shows it. source: @membranehq/sdk
// ActionApiResponse.
type actionElement struct {
	ID             string          `json:"id"`
	Key            string          `json:"key"`
	Name           string          `json:"name"`
	Description    string          `json:"description,omitempty"`
	State          string          `json:"state"`
	Revision       string          `json:"revision"`
	Type           string          `json:"type"`
	IntegrationID  string          `json:"integrationId"`
	IntegrationKey string          `json:"integrationKey"`
	ConnectionID   string          `json:"connectionId,omitempty"`
	CreatedAt      string          `json:"createdAt"`
	UpdatedAt      string          `json:"updatedAt"`
	InputSchema    json.RawMessage `json:"inputSchema"`
	OutputSchema   json.RawMessage `json:"outputSchema"`
}

func (s *Server) element(a *action, connectionID string) actionElement {
	created := timestamp(s.createdAt)
	return actionElement{
		ID: a.id, Key: a.key, Name: a.name, Description: a.description, State: "READY", Revision: a.id[:8], Type: "connector-operation",
		IntegrationID: IntegrationID, IntegrationKey: IntegrationKey, ConnectionID: connectionID,
		CreatedAt: created, UpdatedAt: created, InputSchema: a.input, OutputSchema: a.output,
	}
}

// connectionElement is the connection as Membrane shows it. source:
// @membranehq/sdk ConnectionApiResponse.
type connectionElement struct {
	ID               string `json:"id"`
	Key              string `json:"key"`
	Name             string `json:"name"`
	UserID           string `json:"userId"`
	TenantID         string `json:"tenantId"`
	State            string `json:"state"`
	Connected        bool   `json:"connected"`
	Disconnected     bool   `json:"disconnected"`
	IsTest           bool   `json:"isTest"`
	IntegrationID    string `json:"integrationId"`
	AuthOptionKey    string `json:"authOptionKey"`
	CreatedAt        string `json:"createdAt"`
	UpdatedAt        string `json:"updatedAt"`
	CanTest          bool   `json:"canTest"`
	ConnectorVersion string `json:"connectorVersion"`
}

func (s *Server) connection(who caller) connectionElement {
	created := timestamp(s.createdAt)
	return connectionElement{
		ID: ConnectionID, Key: ConnectionKey, Name: "8x8 sandbox", UserID: who.id(), TenantID: who.id(), State: "READY",
		Connected: true, IsTest: true, IntegrationID: IntegrationID, AuthOptionKey: "api-key",
		CreatedAt: created, UpdatedAt: created, ConnectorVersion: "1.0.0",
	}
}

// id is Membrane's own id of a tenant.
func (c caller) id() string { return stableID("tenant/" + c.tenant) }

// findConnection reads a connection selector: id, key, or the integration's key
// or id, which the tenant has one connection for.
func findConnection(selector string) *apiError {
	switch selector {
	case ConnectionID, ConnectionKey, IntegrationID, IntegrationKey:
		return nil
	}
	return notFound("Connection %q not found; the sandbox's has the key %q", selector, ConnectionKey)
}

func (s *Server) findAction(selector string) (*action, *apiError) {
	if a, ok := s.actions.byName[selector]; ok {
		return a, nil
	}
	return nil, notFound("Action %q not found", selector)
}

// scope reads the query that picks the connection of a run or an action.
func scope(q url.Values) *apiError {
	for _, name := range []string{"connectionId", "connectionKey"} {
		if selector := q.Get(name); selector != "" {
			if failed := findConnection(selector); failed != nil {
				return failed
			}
		}
	}
	for _, name := range []string{"integrationId", "integrationKey"} {
		if selector := q.Get(name); selector != "" && selector != IntegrationID && selector != IntegrationKey {
			return notFound("Integration %q not found; the sandbox's has the key %q", selector, IntegrationKey)
		}
	}
	return nil
}

// listing is one page of a list. source: @membranehq/sdk createPaginationResponseSchema.
type listing[T any] struct {
	Items  []T    `json:"items"`
	Cursor string `json:"cursor,omitempty"`
}

// The page sizes: Membrane's default is not published.
const (
	defaultPage = 100
	maxPage     = 1000
)

// readPage reads limit and cursor. Cursor 0 is the start: the SDK sends it.
func readPage(q url.Values) (limit, cursor int, failed *apiError) {
	limit = defaultPage
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxPage {
			return 0, 0, badRequest("limit %q: want a whole number from 1 to %d", text, maxPage)
		}
		limit = n
	}
	if text := q.Get("cursor"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return 0, 0, badRequest("cursor %q is none of ours", text)
		}
		cursor = n
	}
	return limit, cursor, nil
}

func paginate[T any](q url.Values, items []T) (listing[T], *apiError) {
	limit, from, failed := readPage(q)
	if failed != nil {
		return listing[T]{}, failed
	}
	from = min(from, len(items))
	to := min(from+limit, len(items))
	l := listing[T]{Items: append([]T{}, items[from:to]...)}
	if to < len(items) {
		l.Cursor = strconv.Itoa(to)
	}
	return l, nil
}

// readBool reads a boolean of a query as the SDK's schemas do; set is false
// where it is absent.
func readBool(q url.Values, name string) (value, set bool, failed *apiError) {
	switch text := q.Get(name); text {
	case "":
		return false, false, nil
	case "true", "1":
		return true, true, nil
	case "false", "0":
		return false, true, nil
	default:
		return false, false, badRequest("%s %q: want true or false", name, text)
	}
}

// readWait checks a long poll's query. Nothing here is ever being built, so
// there is nothing to wait for.
func readWait(q url.Values) *apiError {
	if _, _, failed := readBool(q, "wait"); failed != nil {
		return failed
	}
	if text := q.Get("timeout"); text != "" {
		if n, err := strconv.Atoi(text); err != nil || n < 1 || n > 60 {
			return badRequest("timeout %q: want seconds from 1 to 60", text)
		}
	}
	return nil
}

const maxIntent = 200

func (s *Server) listActions(w http.ResponseWriter, q url.Values, connectionID string) {
	if failed := scope(q); failed != nil {
		writeError(w, failed)
		return
	}
	if len([]rune(q.Get("intent"))) > maxIntent {
		writeError(w, badRequest("intent: at most %d characters", maxIntent))
		return
	}
	universal, universalSet, failed := readBool(q, "isUniversal")
	if failed != nil {
		writeError(w, failed)
		return
	}
	found := []actionElement{}
	for _, a := range s.actions.list {
		// Every action here belongs to the integration.
		if universalSet && universal || q.Get("layer") != "" && q.Get("layer") != "integration" && connectionID == "" {
			break
		}
		if search := strings.ToLower(q.Get("search")); strings.Contains(strings.ToLower(a.key+" "+a.name+" "+a.description), search) {
			found = append(found, s.element(a, connectionID))
		}
	}
	if intent := strings.Fields(strings.ToLower(q.Get("intent"))); len(intent) > 0 {
		// The nearest first, by the words that they share.
		score := func(e actionElement) (n int) {
			text := strings.ToLower(e.Key + " " + e.Name + " " + e.Description)
			for _, word := range intent {
				if strings.Contains(text, word) {
					n++
				}
			}
			return n
		}
		slices.SortStableFunc(found, func(a, b actionElement) int { return cmp.Compare(score(b), score(a)) })
	}
	answerPage(w, q, found)
}

func answerPage[T any](w http.ResponseWriter, q url.Values, items []T) {
	l, failed := paginate(q, items)
	if failed != nil {
		writeError(w, failed)
		return
	}
	writeJSON(w, http.StatusOK, l)
}

func (s *Server) getAction(w http.ResponseWriter, q url.Values, selector, connectionID string) {
	a, missing := s.findAction(selector)
	if failed := errorOf(readWait(q), scope(q), missing); failed != nil {
		writeError(w, failed)
		return
	}
	writeJSON(w, http.StatusOK, s.element(a, connectionID))
}

func (s *Server) listConnections(w http.ResponseWriter, q url.Values, who caller) {
	c := s.connection(who)
	keep := true
	for _, filter := range []struct {
		name string
		is   bool
	}{{"connected", true}, {"disconnected", false}, {"isTest", true}} {
		value, set, failed := readBool(q, filter.name)
		if failed != nil {
			writeError(w, failed)
			return
		}
		keep = keep && (!set || value == filter.is)
	}
	for name, values := range map[string][]string{
		"integrationId": {IntegrationID}, "integrationKey": {IntegrationKey}, "tenantId": {c.TenantID, who.tenant}, "userId": {c.UserID},
		"connectorId": {}, "externalAppId": {},
	} {
		keep = keep && (q.Get(name) == "" || slices.Contains(values, q.Get(name)))
	}
	keep = keep && strings.Contains(strings.ToLower(c.Key+" "+c.Name), strings.ToLower(q.Get("search")))
	items := []connectionElement{}
	if keep {
		items = append(items, c)
	}
	answerPage(w, q, items)
}

// tenantElement is the caller as Membrane shows it. source: @membranehq/sdk
// TenantSelfResponse.
type tenantElement struct {
	ID           string `json:"id"`
	Name         string `json:"name"`
	InternalID   string `json:"internalId"`
	Fields       any    `json:"fields,omitempty"`
	WorkspaceKey string `json:"workspaceKey"`
	IsTest       bool   `json:"isTest"`
	CreatedAt    string `json:"createdAt"`
}

func (s *Server) self(who caller) tenantElement {
	return tenantElement{
		ID: who.id(), Name: cmp.Or(who.name, who.tenant), InternalID: who.tenant, Fields: who.fields, WorkspaceKey: WorkspaceKey,
		IsTest: true, CreatedAt: s.createdAt.Format(time.RFC3339),
	}
}
