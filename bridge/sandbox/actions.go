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
	// built is set for one that was made here; nil for the ten.
	built *built
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
	Errors         []*apiError     `json:"errors,omitempty"`
	CreatedAt      string          `json:"createdAt"`
	UpdatedAt      string          `json:"updatedAt"`
	InputSchema    json.RawMessage `json:"inputSchema"`
	OutputSchema   json.RawMessage `json:"outputSchema"`
}

func (s *Server) element(a *action, connectionID string) actionElement {
	created := timestamp(s.createdAt)
	e := actionElement{
		ID: a.id, Key: a.key, Name: a.name, Description: a.description, State: "READY", Revision: a.id[:8], Type: "connector-operation",
		IntegrationID: IntegrationID, IntegrationKey: IntegrationKey, ConnectionID: connectionID,
		CreatedAt: created, UpdatedAt: created, InputSchema: a.input, OutputSchema: a.output,
	}
	if a.built != nil {
		a.built.describe(&e)
	}
	return e
}

// id is Membrane's own id of a tenant.
func (c caller) id() string { return stableID("tenant/" + c.tenant) }

func (s *Server) findAction(at *world, who caller, selector string) (*action, *apiError) {
	if a, ok := s.actions.byName[selector]; ok {
		return a, nil
	}
	if a := at.built.find(who.tenant, selector); a != nil {
		return a, nil
	}
	return nil, notFound("Action %q not found", selector)
}

// scope reads the query that picks the connection of a run or an action; what
// names none means the tenant's oldest.
func (s *Server) scope(at *world, who caller, q url.Values) (*connectionElement, *apiError) {
	var chosen *connectionElement
	for _, name := range []string{"connectionId", "connectionKey"} {
		if selector := q.Get(name); selector != "" {
			c, failed := s.findConnection(at, who, selector)
			if failed != nil {
				return nil, failed
			}
			if chosen == nil {
				chosen = c
			}
		}
	}
	for _, name := range []string{"integrationId", "integrationKey"} {
		if selector := q.Get(name); selector != "" && selector != IntegrationID && selector != IntegrationKey {
			return nil, notFound("Integration %q not found; the sandbox's has the key %q", selector, IntegrationKey)
		}
	}
	if chosen == nil {
		return s.findConnection(at, who, IntegrationKey)
	}
	return chosen, nil
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

const maxIntent = 200

func (s *Server) listActions(w http.ResponseWriter, q url.Values, at *world, who caller, connectionID string) {
	of, failed := s.scope(at, who, q)
	if failed != nil {
		writeError(w, failed)
		return
	}
	if connectionID != "" {
		of, failed = s.findConnection(at, who, connectionID)
		if failed != nil {
			writeError(w, failed)
			return
		}
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
	anywhere := connectionID == "" && q.Get("connectionId") == "" && q.Get("connectionKey") == ""
	for _, a := range at.built.of(who.tenant) {
		search := strings.ToLower(q.Get("search"))
		if (anywhere || a.built.connectionID == of.ID) && strings.Contains(strings.ToLower(a.key+" "+a.name+" "+a.description), search) {
			found = append(found, s.element(a, ""))
		}
	}
	// Without a connection an intent is ignored. source: the vendor's skills.
	if intent := strings.Fields(strings.ToLower(q.Get("intent"))); len(intent) > 0 && !anywhere {
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

func (s *Server) getAction(w http.ResponseWriter, r *http.Request, at *world, who caller, selector, connectionID string) {
	q := r.URL.Query()
	a, missing := s.findAction(at, who, selector)
	wait, badWait := readWait(q)
	_, badScope := s.scope(at, who, q)
	if failed := errorOf(badWait, badScope, missing); failed != nil {
		writeError(w, failed)
		return
	}
	if a.built != nil && wait > 0 {
		s.poll(r, at, a.built.done, wait)
	}
	writeJSON(w, http.StatusOK, s.element(a, connectionID))
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
