// Package handlers turns routes into handlers: which events they take, the
// exact input each makes of an event, and what each needs to run.
package handlers

import (
	"time"

	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// Handler is one compiled route.
type Handler struct {
	// Name is the route's name; Identity is the name its ledger keys are made from
	// (Formerly, if the route was renamed).
	Name     string
	Identity string
	Action   *catalog.Action
	// Connection is the connection's name in the configuration, "" for MEMBRANE_CONNECTION.
	Connection string
	TTL        time.Duration
	Retry      config.Retry
	OnUnknown  config.OnUnknown

	// the compiled match, input and tenant: see compile.go
	compiled
}

// Place is where a handler's action runs for one event.
type Place struct {
	Connection    string // the name in the configuration
	ConnectionID  string
	ConnectionKey string
	Tenant        string
}

// MappingError is an event from which a handler could make no input. Its text
// names the place in the configuration and never holds a value of the event.
type MappingError struct {
	Pos config.Pos
	Msg string
}

func (e *MappingError) Error() string { return e.Msg }
