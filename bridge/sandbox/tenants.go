package sandbox

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// tenants is what tenants have said of themselves.
type tenants struct {
	mu    sync.Mutex
	about map[string]about
}

type about struct {
	name   string
	fields any
	meta   json.RawMessage
}

func (s *Server) tenantRoutes(handle func(pattern, on string, serve handler)) {
	handle("PATCH /self", OnReads, func(w http.ResponseWriter, r *http.Request, at *world, who caller) {
		var body struct {
			Name   string
			Fields map[string]any
			Meta   json.RawMessage
		}
		if failed := selfPatch.read(w, r, &body); failed != nil {
			writeError(w, failed)
			return
		}
		at.tenants.mu.Lock()
		if at.tenants.about == nil {
			at.tenants.about = map[string]about{}
		}
		said := at.tenants.about[who.tenant]
		said.name = cmp.Or(body.Name, said.name)
		if body.Fields != nil {
			said.fields = body.Fields
		}
		if body.Meta != nil {
			said.meta = body.Meta
		}
		at.tenants.about[who.tenant] = said // credentials are taken, and never shown
		at.tenants.mu.Unlock()
		writeJSON(w, http.StatusOK, s.self(at, who))
	})
	// What the official command line derives a tenant's token with.
	handle("POST /org-workspaces/{workspace}/access-token", OnReads, func(w http.ResponseWriter, r *http.Request, _ *world, who caller) {
		var body struct {
			IsAdmin                   bool
			TenantID, TenantKey, Name string
			Fields                    map[string]any
		}
		failed := tokenBody.read(w, r, &body)
		switch {
		case failed != nil:
		case !who.admin:
			failed = &apiError{Type: "bad_request", Key: "access_denied", Message: "a tenant's token gives out no tokens"}
		case !slices.Contains([]string{WorkspaceKey, stableID("workspace")}, r.PathValue("workspace")):
			failed = notFound("Workspace %q not found; the sandbox's is %q", r.PathValue("workspace"), WorkspaceKey)
		}
		if failed != nil {
			writeError(w, failed)
			return
		}
		claims := jwt.MapClaims{"workspaceKey": WorkspaceKey, "exp": s.opts.Now().Add(2 * time.Hour).Unix(), "jti": newID()}
		for name, value := range map[string]string{"tenantKey": cmp.Or(body.TenantKey, body.TenantID), "name": body.Name} {
			if value != "" {
				claims[name] = value
			}
		}
		if body.IsAdmin {
			claims["isAdmin"] = true
		}
		if body.Fields != nil {
			claims["fields"] = body.Fields
		}
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS512, claims).SignedString([]byte(WorkspaceSecret))
		if err != nil {
			panic(err)
		}
		writeJSON(w, http.StatusOK, map[string]string{"token": token})
	})
}

// tenantElement is the caller as Membrane shows it. source: @membranehq/sdk
// TenantSelfResponse.
type tenantElement struct {
	ID           string          `json:"id"`
	Name         string          `json:"name"`
	InternalID   string          `json:"internalId"`
	Fields       any             `json:"fields,omitempty"`
	Meta         json.RawMessage `json:"meta,omitempty"`
	WorkspaceKey string          `json:"workspaceKey"`
	IsTest       bool            `json:"isTest"`
	CreatedAt    string          `json:"createdAt"`
}

func (s *Server) self(at *world, who caller) tenantElement {
	at.tenants.mu.Lock()
	said := at.tenants.about[who.tenant]
	at.tenants.mu.Unlock()
	e := tenantElement{
		ID: who.id(), Name: cmp.Or(who.name, said.name, who.tenant), InternalID: who.tenant, Fields: who.fields, Meta: said.meta,
		WorkspaceKey: WorkspaceKey, IsTest: true, CreatedAt: s.createdAt.Format(time.RFC3339),
	}
	if e.Fields == nil {
		e.Fields = said.fields
	}
	return e
}
