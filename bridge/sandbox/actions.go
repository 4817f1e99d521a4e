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
	"time"

	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// action is one of the ten, as Membrane has it.
type action struct {
	id, key, name, description string
	input, output              json.RawMessage
	// check is what Membrane itself refuses. nil takes anything.
	check *catalog.Schema
	// The rest is of one that was made here; built is nil for the ten.
	built        *built
	method, path string  // of 8x8's API; empty: it does nothing but count as an effect
	inline       *inline // instead of them, where it is no action but a request
	meta         json.RawMessage
	updatedAt    time.Time
	archivedAt   string
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
	ArchivedAt     string          `json:"archivedAt,omitempty"`
	IsReadOnly     bool            `json:"isReadOnly"`
	AgentSessionID string          `json:"agentSessionId,omitempty"`
	Meta           json.RawMessage `json:"meta,omitempty"`
	Config         any             `json:"config,omitempty"`
	InputSchema    json.RawMessage `json:"inputSchema"`
	OutputSchema   json.RawMessage `json:"outputSchema"`
}

func (s *Server) element(a *action, connectionID string) actionElement {
	created := timestamp(s.createdAt)
	e := actionElement{
		ID: a.id, Key: a.key, Name: a.name, Description: a.description, State: "READY", Revision: a.id[:8], Type: "connector-operation",
		IntegrationID: IntegrationID, IntegrationKey: IntegrationKey, ConnectionID: connectionID,
		CreatedAt: created, UpdatedAt: created, InputSchema: a.input, OutputSchema: a.output, IsReadOnly: true,
	}
	if a.built != nil {
		a.describe(&e)
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

var layers = []string{"universal", "integration", "connection"}

// listActions lists the ten, which are the integration's, and those that were made
// here. source: @membranehq/sdk FindActionsQuery.
func (s *Server) listActions(w http.ResponseWriter, q url.Values, at *world, who caller, connectionID string) {
	if connectionID != "" {
		q.Set("connectionId", connectionID)
	}
	of, failed := s.scope(at, who, q)
	anywhere := !q.Has("connectionId") && !q.Has("connectionKey")
	if failed != nil && anywhere && !q.Has("integrationId") && !q.Has("integrationKey") {
		failed = nil // a tenant without a connection
	}
	universal, universalSet, badUniversal := readBool(q, "isUniversal")
	archived, _, badArchived := readBool(q, "includeArchived")
	if failed = errorOf(failed, badUniversal, badArchived, queryOneOf(q, "layer", layers...)); failed != nil {
		writeError(w, failed)
		return
	}
	if len([]rune(q.Get("intent"))) > maxIntent {
		writeError(w, misfit("intent", "at most 200 characters"))
		return
	}
	found := []actionElement{}
	add := func(a *action, level string) {
		switch {
		case universalSet && universal != (level == "universal"):
		case q.Get("layer") != "" && connectionID == "" && q.Get("layer") != level:
		case a.archivedAt != "" && !archived:
		case !matches(q, a.text()):
		default:
			found = append(found, s.element(a, connectionID))
		}
	}
	for _, a := range s.actions.list {
		add(a, "integration")
	}
	for _, a := range at.built.of(who.tenant) {
		switch {
		case a.built.connectionID == "":
			add(a, "integration")
		case anywhere || a.built.connectionID == of.ID:
			add(a, "connection")
		}
	}
	// Without a connection an intent is ignored. source: the vendor's skills.
	if intent := words(q.Get("intent")); len(intent) > 0 && !anywhere {
		near := func(e actionElement) int { return nearness(intent, e.Key+" "+e.Name+" "+e.Description) }
		found = slices.DeleteFunc(found, func(e actionElement) bool { return near(e) == 0 })
		slices.SortStableFunc(found, func(a, b actionElement) int { return cmp.Compare(near(b), near(a)) })
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
