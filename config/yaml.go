package config

import (
	"bytes"
	"fmt"

	"go.yaml.in/yaml/v4"
)

// JSONToYAML writes JSON as YAML, in its own order.
func JSONToYAML(data []byte) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil { // JSON is YAML
		return nil, fmt.Errorf("read JSON: %w", err)
	}
	block(&doc)
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(&doc); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	return bytes.TrimRight(out.Bytes(), "\n"), e.Close()
}

// block makes a node look as people write YAML. Texts keep their quotes where they
// would not be texts without them.
func block(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		block(c)
	}
}
