package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/membrane"
	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// Synced is what connections offered when it was written down, by their names in
// the configuration; that of MEMBRANE_CONNECTION is "".
type Synced map[string][]catalog.Offer

// defaultName stands for MEMBRANE_CONNECTION in the file; no connection can have that name.
const defaultName = "MEMBRANE_CONNECTION"

// SyncedPath is where the actions of a configuration file are written down:
// bridge.actions.json beside bridge.yaml.
func SyncedPath(file string) string {
	return strings.TrimSuffix(file, filepath.Ext(file)) + ".actions.json"
}

const (
	aboutSynced = "What the connections offer, as bridge8x8 actions sync found it: for check, for a start without Membrane, and for review."
	maxSynced   = 32 << 20
)

type syncedFile struct {
	About       string                     `json:"about"`
	Connections map[string][]catalog.Offer `json:"connections"`
}

// ReadSynced reads what was written down; a file that is not there holds nothing.
func ReadSynced(path string) (Synced, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err == nil && info.Size() > maxSynced:
		return nil, fmt.Errorf("%s: is larger than %d MiB", path, maxSynced>>20)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return ParseSynced(path, data)
}

// ParseSynced is ReadSynced for what was read already; name is what errors call it.
func ParseSynced(name string, data []byte) (Synced, error) {
	var f syncedFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("%s: is not what bridge8x8 actions sync writes: %w", name, err)
	}
	if f.Connections == nil {
		return nil, fmt.Errorf(`%s: is not what bridge8x8 actions sync writes: it has no "connections"`, name)
	}
	s := Synced{}
	for connection, offers := range f.Connections {
		if connection == defaultName {
			connection = ""
		}
		s[connection] = offers
	}
	return s, nil
}

// Encode writes it down: sorted, indented, the same bytes for the same actions.
func (s Synced) Encode() ([]byte, error) {
	f := syncedFile{About: aboutSynced, Connections: map[string][]catalog.Offer{}}
	for connection, offers := range s {
		if connection == "" {
			connection = defaultName
		}
		offers = slices.Clone(offers)
		for i := range offers {
			for _, schema := range []*json.RawMessage{&offers[i].Input, &offers[i].Output} {
				sorted, err := sortedJSON(*schema)
				if err != nil {
					return nil, fmt.Errorf("the schema of action %s: %w", offers[i].Key+offers[i].ID, err)
				}
				*schema = sorted
			}
		}
		f.Connections[connection] = offers
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(f)
	return b.Bytes(), err
}

// sortedJSON writes the members of objects by name. Numbers stay as they are.
func sortedJSON(raw json.RawMessage) (json.RawMessage, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var value any
	if err := dec.Decode(&value); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(value)
	return bytes.TrimSpace(b.Bytes()), err
}

// Known is what is known of each connection's actions without asking: the
// built-in ones, with what was written down laid over them. With states, the
// ones that could not be run then are taken as such.
func (s Synced) Known(states bool) map[string]handlers.Actions {
	known := map[string]handlers.Actions{}
	for connection, offers := range s {
		offers = slices.Clone(offers)
		for i := range offers {
			if !states {
				offers[i].Problem = "" // it was so then
			}
		}
		known[connection] = handlers.Actions{Known: catalog.Builtin().Overlay(offers)}
	}
	return known
}

// Asked is a connection whose actions are asked for.
type Asked struct {
	Name   string // in the configuration; "" is MEMBRANE_CONNECTION
	Place  bridge.Place
	Wanted []string // keys and ids that routes name
}

// ToAsk lists the connections whose actions matter to a file. One whose tenant
// each event says is none of them: nobody knows yet whose it will be.
func ToAsk(file *config.File, env *config.Env) []Asked {
	wanted := map[string][]string{}
	if env.Bridge.Commands {
		wanted[""] = nil
	}
	for _, r := range file.Routes {
		if name := r.RunKey + r.RunID; name != "" {
			wanted[r.Connection] = append(wanted[r.Connection], name)
		}
	}
	var list []Asked
	if names, ok := wanted[""]; ok && env.Membrane.Connection != "" {
		at := handlers.DefaultPlace(env.Membrane.Connection)
		list = append(list, Asked{Place: bridge.Place{ConnectionID: at.ConnectionID, ConnectionKey: at.ConnectionKey}, Wanted: names})
	}
	for _, c := range file.Connections {
		names, ok := wanted[c.Name]
		tenant, isText := c.Tenant.Scalar.(string)
		if !ok || c.Tenant.Kind != config.KindNone && (!isText || strings.Contains(tenant, "${")) {
			continue
		}
		list = append(list, Asked{Name: c.Name, Place: bridge.Place{Tenant: tenant, ConnectionID: c.ID, ConnectionKey: c.Key}, Wanted: names})
	}
	return list
}

// askLimit is how long one connection may take to tell.
const askLimit = 15 * time.Second

// Ask asks Membrane what connections offer. A connection that could not be asked
// is missing from the answer, and the error, the first one, says why. They are
// asked one after the other: what settles a crash uses the same few connections.
func Ask(ctx context.Context, client *membrane.Client, list []Asked) (offered Synced, first error) {
	offered = Synced{}
	for _, one := range list {
		limited, cancel := context.WithTimeout(ctx, askLimit)
		offers, err := client.Offers(limited, one.Place, one.Wanted)
		cancel()
		switch {
		case err == nil:
			offered[one.Name] = offers
		case first == nil:
			name := "connection " + one.Name
			if one.Name == "" {
				name = defaultName
			}
			first = fmt.Errorf("%s: %s", name, bridge.AsFailure(err).Message)
		}
	}
	return offered, first
}
