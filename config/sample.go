package config

import (
	_ "embed"
	"slices"
)

//go:embed sample.yaml
var sample []byte

// Sample is a complete bridge.yaml with a comment on every part. It refers to
// the variable SHOP_TOKEN.
func Sample() []byte { return slices.Clone(sample) }
