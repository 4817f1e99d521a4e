package native

import (
	"embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
)

//go:embed schema/*.json
var schemas embed.FS

// Schema is what the data of the events of a type looks like. 8x8 is free to add
// members, and to leave out those that are not required.
type Schema struct {
	// Type is that of the events; or its beginning and "*", where 8x8's own words make
	// the rest of it. Those that have a schema of their own are not meant then.
	Type string
	Data json.RawMessage // JSON Schema, draft 7
}

// Schemas are those of all events that 8x8's webhooks become, sorted by type.
func Schemas() []Schema { return slices.Clone(allSchemas()) }

var allSchemas = sync.OnceValue(func() []Schema {
	files, err := schemas.ReadDir("schema")
	if err != nil {
		panic(err) // it is in the program
	}
	var all []Schema
	for _, f := range files {
		data, err := schemas.ReadFile("schema/" + f.Name())
		if err != nil || !json.Valid(data) {
			panic(fmt.Sprintf("native: schema/%s: %v", f.Name(), err))
		}
		name := strings.TrimSuffix(f.Name(), ".json")
		if family, isFamily := strings.CutSuffix(name, ".any"); isFamily {
			name = family + ".*"
		}
		all = append(all, Schema{Type: "com.8x8." + name, Data: data})
	}
	slices.SortFunc(all, func(a, b Schema) int { return strings.Compare(a.Type, b.Type) })
	return all
})

// SchemaOf is the schema that the events of a type have; ok is false for a type
// that no webhook becomes.
func SchemaOf(eventType string) (s Schema, ok bool) {
	for _, s = range allSchemas() {
		if s.Type == eventType {
			return s, true
		}
	}
	for _, s = range allSchemas() {
		if family, isFamily := strings.CutSuffix(s.Type, "*"); isFamily && strings.HasPrefix(eventType, family) {
			return s, true
		}
	}
	return Schema{}, false
}
