// Package handlers turns routes into handlers: which events they take, the
// exact input each makes of an event, and what each needs to run.
//
// Everything that can be known from the configuration alone is done once, in
// Compile. A Table and its Handlers never change and may be used by many
// goroutines.
package handlers

import (
	"strconv"
	"time"

	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// Handler is one compiled route.
type Handler struct {
	// Name is the route's name; Identity is the name its ledger keys are made from
	// (Formerly, if the route was renamed). A handler of the built-in route has the
	// name "run" and the identity "run:<action key>", which no route can have.
	Name     string
	Identity string
	// Action is what runs. It is nil only in a handler of the built-in route for a
	// key that the catalog does not know; its Input and Place are then an
	// *ActionMissingError.
	Action *catalog.Action
	// Connection is the connection's name in the configuration, "" for MEMBRANE_CONNECTION.
	Connection string
	TTL        time.Duration
	Retry      config.Retry
	OnUnknown  config.OnUnknown
	// ProxyForwards: see config.Route.
	ProxyForwards bool
	// Then is what the route waits for once the action has run; nil for nothing.
	Then *FollowUp

	// the compiled match, input and tenant: see compile.go
	compiled
}

// Place is where a handler's action runs for one event.
type Place struct {
	Connection    string // the name in the configuration
	ConnectionID  string
	ConnectionKey string
	Tenant        string // empty means the tenant of the environment
}

// MappingError is an event from which a handler could make no input, or no
// place to run in. Its text names the place in the configuration and never
// holds a value of the event.
type MappingError struct {
	Pos config.Pos
	Msg string
}

func (e *MappingError) Error() string {
	if e.Pos.Line == 0 {
		return e.Msg
	}
	return e.Pos.File + ":" + strconv.Itoa(e.Pos.Line) + ":" + strconv.Itoa(e.Pos.Col) + ": " + e.Msg
}

// ActionMissingError is a command, an event of type com.8x8.run.<action key>,
// for an action that the catalog does not know.
type ActionMissingError struct {
	Key     string
	Nearest string // a known key that Key may be a misspelling of, or ""
}

func (e *ActionMissingError) Error() string {
	if e.Nearest != "" {
		return "there is no action " + strconv.Quote(e.Key) + "; did you mean " + strconv.Quote(e.Nearest) + "?"
	}
	return "there is no action " + strconv.Quote(e.Key)
}

// Input makes the action's input of an event: it evaluates the route's
// expressions, normalises what can be normalised (phone numbers), and checks
// the result against the action's schema. The caller owns what it returns.
//
// The error is a *MappingError if no input could be made, a
// *catalog.InputError if the action would refuse it, or an *ActionMissingError.
func (h *Handler) Input(v *View) (map[string]any, error) {
	if h.Action == nil {
		return nil, h.missing
	}
	input, err := h.makeInput(v)
	if err != nil {
		return nil, err
	}
	if ref := string(h.Action.Reference); ref != "" {
		// Only a command can bring one: Compile refuses such routes. The field leads
		// receipts back to the run, so it is ours (R15).
		if _, mapped := input[ref]; mapped {
			return nil, &catalog.InputError{Field: ref, Rule: "is set by the bridge and must be left out"}
		}
	}
	if err := check(h.Action, input); err != nil {
		return nil, err
	}
	return input, nil
}

// check normalises an input in place and validates it.
func check(a *catalog.Action, input map[string]any) error {
	a.Input.DropNulls(input)
	if a.Normalize != nil {
		if err := a.Normalize(input); err != nil {
			return err
		}
	}
	return a.Input.Validate(input)
}

// Place tells where the action runs for an event. The error is a
// *MappingError if the connection's tenant is an expression that gives no
// tenant, or an *ActionMissingError.
func (h *Handler) Place(v *View) (Place, error) {
	if h.Action == nil {
		return h.place, h.missing
	}
	if h.tenant == nil {
		return h.place, nil
	}
	place := h.place
	tenant, err := h.tenant.evaluate(v)
	if err != nil {
		return place, err
	}
	// An event without a tenant must not run as the environment's.
	text, ok := tenant.(string)
	if !ok || text == "" {
		return place, h.tenant.fail("gives no tenant: it must be a text that is not empty")
	}
	place.Tenant = text
	return place, nil
}
