package native_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/bridge8x8/bridge8x8/bridge/native"
)

func compileSchema(t *testing.T, raw []byte) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	if err := c.AddResource("data.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("data.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Every golden event fits the schema of its type, and no schema is idle.
func TestSchemas(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/events/*.json")
	if err != nil || len(files) < 40 {
		t.Fatal(err, len(files))
	}
	used := map[string]bool{"com.8x8.voice.*": true} // for kinds that 8x8 has not told of
	for _, path := range files {
		golden, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var e struct {
			Type string
			Data json.RawMessage
		}
		if err := json.Unmarshal(golden, &e); err != nil {
			t.Fatal(err)
		}
		s, ok := native.SchemaOf(e.Type)
		if !ok {
			t.Errorf("%s: there is no schema for %s", path, e.Type)
			continue
		}
		used[s.Type] = true
		schema := compileSchema(t, s.Data)
		data, err := jsonschema.UnmarshalJSON(bytes.NewReader(e.Data))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(data); err != nil {
			t.Errorf("%s does not fit the schema of %s: %v", path, s.Type, err)
		}
		var named struct {
			Properties map[string]any
			AnyOf      []struct{ Properties map[string]any }
		}
		if err := json.Unmarshal(s.Data, &named); err != nil {
			t.Fatal(err)
		}
		for _, one := range named.AnyOf {
			for name := range one.Properties {
				if named.Properties == nil {
					named.Properties = map[string]any{}
				}
				named.Properties[name] = true
			}
		}
		object, _ := data.(map[string]any)
		known := 0
		for name := range object {
			if named.Properties[name] != nil {
				known++
			}
		}
		if s.Type != native.TypeUnrecognized && known*2 < len(object) {
			t.Errorf("%s: the schema of %s names %d of %d members", path, s.Type, known, len(object))
		}
		if s.Type != native.TypeUnrecognized && schema.Validate("a text") == nil {
			t.Errorf("the schema of %s takes anything", s.Type)
		}
	}
	for _, s := range native.Schemas() {
		if !used[s.Type] {
			t.Errorf("no sample shows that the schema of %s is right", s.Type)
		}
	}
	for _, none := range []string{"com.8x8.run.send-sms", "com.8x8.action.send-sms.failed", "com.acme.x", "com.8x8.sms"} {
		if s, ok := native.SchemaOf(none); ok {
			t.Errorf("%s has the schema of %s", none, s.Type)
		}
	}
	if s, _ := native.SchemaOf("com.8x8.voice.something_new"); !strings.HasSuffix(s.Type, ".*") {
		t.Errorf("%q", s.Type)
	}
}
