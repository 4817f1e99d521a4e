package config

import (
	_ "embed"
	"slices"
)

//go:embed sample.yaml
var sample []byte

//go:embed auto-reply.yaml
var autoReply []byte

// AutoReply is a complete bridge.yaml that answers STOP, HELP and YES.
func AutoReply() []byte { return slices.Clone(autoReply) }

// Sample is a complete bridge.yaml with a comment on every part. It refers to
// the variable SHOP_TOKEN.
func Sample() []byte { return slices.Clone(sample) }
