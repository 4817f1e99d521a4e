package config

import (
	_ "embed"
	"slices"
)

//go:embed schema.json
var schema []byte

// Schema is the JSON Schema (draft 7) of a bridge.yaml. It is no stricter than
// Parse, which finds more.
func Schema() []byte { return slices.Clone(schema) }
