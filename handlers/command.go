package handlers

import (
	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// CommandName is the name of the built-in route. No route may have it.
const CommandName = "run"

// commandIdentity is what the identities of its handlers begin with. They have
// one each, so that a redelivered command finds its action again.
const commandIdentity = CommandName + ":"

// CommandIdentity is the identity of the handler of the built-in route for an
// action's key.
func CommandIdentity(key string) string { return commandIdentity + key }

func (t *Table) addCommand(a *catalog.Action) {
	h := t.newCommand(a.Key)
	h.Action = a
	t.commands = append(t.commands, h)
	t.byIdentity[h.Identity] = h
}

func (t *Table) newCommand(key string) *Handler {
	h := &Handler{Name: CommandName, Identity: commandIdentity + key, Retry: commandRetry, OnUnknown: config.OnUnknownHold}
	h.place = t.defaultPlace
	return h
}

// command is the handler for an action's key. One for a key that the catalog
// does not know gives the command a definite answer.
func (t *Table) command(key string) *Handler {
	if h, ok := t.byIdentity[commandIdentity+key]; ok {
		return h
	}
	h := t.newCommand(key)
	h.missing = &ActionMissingError{Key: key, Nearest: t.catalog.Nearest(key)}
	return h
}

// commandInput is a command's data, which is the action's input.
func commandInput(v *View) (map[string]any, error) {
	data, err := v.data()
	if err != nil {
		return nil, &MappingError{Msg: "input: " + err.Error()}
	}
	if v.event.DataEncoded == nil || data.value == nil && data.base64 == "" {
		return map[string]any{}, nil
	}
	whole := &template{field: "input"}
	m := making{view: v, left: largestInput}
	value, err := m.own(whole, data.value)
	if err != nil {
		return nil, err
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, &catalog.InputError{Rule: "must be a JSON object: a command's data is the action's input"}
	}
	return object, nil
}
