package sandbox

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// words is what of a text counts in a search.
func words(text string) []string {
	all := strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
	return slices.DeleteFunc(all, func(w string) bool {
		return slices.Contains([]string{"a", "an", "the", "to", "of", "in", "is", "my", "i", "and", "or", "for", "with"}, w)
	})
}

// nearness is how much of a search a text has: a word of it counts three, the
// beginning of one, as in send and sends, two.
func nearness(search []string, text string) (n int) {
	in := words(text)
	for _, w := range search {
		best := 0
		for _, have := range in {
			switch {
			case have == w:
				best = 3
			case best < 2 && len(w) > 2 && (strings.HasPrefix(have, w) || len(have) > 2 && strings.HasPrefix(w, have)):
				best = 2
			}
		}
		n += best
	}
	return n
}

// integrationElement is the one integration there is. source: @membranehq/sdk
// IntegrationApiResponse.
type integrationElement struct {
	ID               string             `json:"id"`
	Key              string             `json:"key"`
	Name             string             `json:"name"`
	Description      string             `json:"description"`
	LogoURI          string             `json:"logoUri"`
	State            string             `json:"state"`
	ConnectorID      string             `json:"connectorId"`
	ConnectorVersion string             `json:"connectorVersion"`
	ExternalAppID    string             `json:"externalAppId"`
	AuthType         string             `json:"authType"`
	AuthOptions      []authOption       `json:"authOptions"`
	Connection       *connectionElement `json:"connection,omitempty"`
	CreatedAt        string             `json:"createdAt"`
	UpdatedAt        string             `json:"updatedAt"`
}

type authOption struct {
	Key         string         `json:"key"`
	Type        string         `json:"type"`
	Title       string         `json:"title"`
	InputSchema map[string]any `json:"inputSchema"`
}

// appElement is 8x8 in Membrane's catalog, also as a connector.
type appElement struct {
	ID        string `json:"id"`
	Key       string `json:"key"`
	Name      string `json:"name"`
	LogoURI   string `json:"logoUri"`
	AppURL    string `json:"appUrl"`
	Category  string `json:"category"`
	CreatedAt string `json:"createdAt"`
	UpdatedAt string `json:"updatedAt"`
}

const (
	externalAppID = "66a08b8000000000000000a1"
	appCategory   = "communication"
	// logo is an 8 by 8 square: a real one would lead out of this machine.
	logo = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'%3E%3Cpath d='M0 0h8v8H0z'/%3E%3C/svg%3E"
)

var authOptions = []authOption{{
	Key: "api-key", Type: "client-credentials", Title: "API key",
	InputSchema: map[string]any{
		"type": "object", "required": []string{"apiKey"},
		"properties": map[string]any{"apiKey": map[string]any{"type": "string", "title": "API key", "isSensitive": true}},
	},
}}

func (s *Server) integration(at *world, who caller) integrationElement {
	created := timestamp(s.createdAt)
	e := integrationElement{
		ID: IntegrationID, Key: IntegrationKey, Name: "8x8", Description: "8x8 Connect: messages and contacts", LogoURI: logo, State: stateReady,
		ConnectorID: connectorID, ConnectorVersion: "1.0.0", ExternalAppID: externalAppID, AuthType: "client-credentials", AuthOptions: authOptions,
		CreatedAt: created, UpdatedAt: created,
	}
	if c, missing := s.findConnection(at, who, IntegrationKey); missing == nil {
		e.Connection = c
	}
	return e
}

func (s *Server) app(id string) appElement {
	created := timestamp(s.createdAt)
	return appElement{
		ID: id, Key: connectorKey, Name: "8x8", LogoURI: logo, AppURL: "https://www.8x8.com", Category: appCategory,
		CreatedAt: created, UpdatedAt: created,
	}
}

func (s *Server) searchRoutes(handle func(pattern, on string, serve handler)) {
	handle("GET /search", OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		found, failed := s.search(at, who, r.URL.Query())
		if failed != nil {
			writeError(w, failed)
			return
		}
		answerPage(w, r.URL.Query(), found)
	})
	handle("GET /semantic-search", OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		found, failed := s.search(at, who, r.URL.Query())
		var page listing[foundElement]
		if failed == nil {
			page, failed = paginate(r.URL.Query(), found)
		}
		if failed != nil {
			writeError(w, failed)
			return
		}
		writeJSON(w, http.StatusOK, page.Items) // the array itself
	})
	handle("GET /integrations", OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		q := r.URL.Query()
		for _, name := range []string{"connectors", "externalApps", "websearch"} {
			if _, err := strconv.ParseFloat(cmp.Or(q.Get(name), "0"), 64); err != nil {
				writeError(w, misfit(name, "want 0 or 1"))
				return
			}
		}
		items := []integrationElement{}
		if e := s.integration(at, who); matches(q, e.Key+" "+e.Name+" "+e.Description) {
			items = append(items, e)
		}
		answerPage(w, q, items)
	})
	handle("GET /integrations/{integration}", OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		if failed := knownIntegration(r.PathValue("integration")); failed != nil {
			writeError(w, failed)
			return
		}
		writeJSON(w, http.StatusOK, s.integration(at, who))
	})
	handle("PATCH /integrations/{integration}/parameters", OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		failed := knownIntegration(r.PathValue("integration"))
		if failed == nil && !who.admin {
			failed = &apiError{Type: "bad_request", Key: "access_denied", Message: "the parameters of an integration need a management token"}
		}
		if failed == nil {
			_, failed = readObject(w, r)
		}
		if failed != nil {
			writeError(w, failed)
			return
		}
		writeJSON(w, http.StatusOK, s.integration(at, who))
	})
	handle("GET /integrations/{integration}/actions", OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		if failed := knownIntegration(r.PathValue("integration")); failed != nil {
			writeError(w, failed)
			return
		}
		q := r.URL.Query()
		q.Set("layer", "integration")
		s.listActions(w, q, at, who, "")
	})
	handle("GET /integrations/{integration}/actions/{action}", OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		if failed := knownIntegration(r.PathValue("integration")); failed != nil {
			writeError(w, failed)
			return
		}
		s.getAction(w, r, at, who, r.PathValue("action"), "")
	})
	handle("GET /external-apps", OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		q := r.URL.Query()
		connected, set, failed := readBool(q, "isConnected")
		if failed != nil {
			writeError(w, failed)
			return
		}
		items := []appElement{}
		e, is := s.app(externalAppID), s.integration(at, who).Connection != nil
		if matches(q, e.Key+" "+e.Name) && (q.Get("category") == "" || q.Get("category") == e.Category) && (!set || connected == is) {
			items = append(items, e)
		}
		answerPage(w, q, items)
	})
	handle("GET /external-apps/{app}", OnReads, func(w http.ResponseWriter, r *http.Request, _ *world, _ caller) {
		if id := r.PathValue("app"); id != externalAppID && id != connectorKey {
			writeError(w, notFound("App %q not found; the sandbox has %q", id, connectorKey))
			return
		}
		writeJSON(w, http.StatusOK, s.app(externalAppID))
	})
	handle("POST /connection-options", OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		var body struct{ ConnectorID, ConnectionID, IntegrationID, IntegrationKey string }
		failed := optionsBody.read(w, r, &body)
		if failed == nil && cmp.Or(body.ConnectorID, body.ConnectionID, body.IntegrationID, body.IntegrationKey) == "" {
			failed = badRequest("one of connectorId, connectionId, integrationId and integrationKey must say of what")
		}
		if failed == nil {
			failed = leadsTo8x8(body.IntegrationID, body.IntegrationKey, body.ConnectorID, "")
		}
		if failed == nil && body.ConnectionID != "" {
			_, failed = s.findConnection(at, who, body.ConnectionID)
		}
		if failed != nil {
			writeError(w, failed)
			return
		}
		writeJSON(w, http.StatusOK, authOptions)
	})
}

// matches says that a list's filter takes a text.
func matches(q url.Values, text string) bool {
	return strings.Contains(strings.ToLower(text), strings.ToLower(q.Get("search")))
}

// foundElement is what a search finds. source: @membranehq/sdk WorkspaceElementSearchResult.
type foundElement struct {
	ElementType string `json:"elementType"`
	Element     any    `json:"element"`
}

const (
	maxSearch     = 200
	maxSearchPage = 100
)

// search finds what has a word of the query, the nearest first. source:
// @membranehq/sdk WorkspaceElementSearchQuery.
func (s *Server) search(at *world, who caller, q url.Values) ([]foundElement, *apiError) {
	limit, _, failed := readPage(q)
	n := utf8.RuneCountInString(q.Get("q"))
	switch {
	case failed != nil:
	case n < 1 || n > maxSearch:
		failed = misfit("q", "want 1 to 200 characters")
	case q.Get("limit") != "" && limit > maxSearchPage:
		failed = misfit("limit", "want a whole number from 1 to 100")
	default:
		failed = queryOneOf(q, "elementType", elementTypes...)
	}
	if failed != nil {
		return nil, failed
	}
	type scored struct {
		foundElement
		near int
	}
	var all []scored
	wanted := words(q.Get("q"))
	add := func(kind, text string, element any) {
		if near := nearness(wanted, text); near > 0 && (q.Get("elementType") == "" || q.Get("elementType") == kind) {
			all = append(all, scored{foundElement{kind, element}, near})
		}
	}
	add("app", "8x8 app", s.app(externalAppID))
	add("connector", "8x8 connector", s.app(connectorID))
	add("integration", "8x8 integration", s.integration(at, who))
	for _, c := range s.connectionsOf(at, who) {
		if c.ArchivedAt == "" {
			add("connection", "8x8 connection "+c.Key+" "+c.Name, c)
		}
	}
	for _, a := range s.actions.list {
		add("action", a.text(), s.element(a, ""))
	}
	for _, a := range at.built.of(who.tenant) {
		if a.archivedAt == "" {
			add("action", a.text(), s.element(a, ""))
		}
	}
	slices.SortStableFunc(all, func(a, b scored) int { return cmp.Compare(b.near, a.near) })
	items := make([]foundElement, len(all))
	for i := range all {
		items[i] = all[i].foundElement
	}
	return items, nil
}

func (a *action) text() string { return a.key + " " + a.name + " " + a.description }
