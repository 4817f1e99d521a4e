package config

import (
	"encoding/json"
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// checkSink checks the sink's address, which is shown in no log and no error.
func (l *envLoader) checkSink(name string, b *BridgeEnv) {
	known := len(l.problems)
	l.checkHTTPURL(name, b.SinkURL)
	if len(l.problems) > known {
		return
	}
	u, _ := url.Parse(b.SinkURL)
	if u.User != nil {
		l.fail(name, "bad-url", "put a bearer token into BRIDGE_SINK_TOKEN", "holds a user or a password")
	}
	if u.Fragment != "" {
		l.fail(name, "bad-url", "leave it out", "holds a fragment (#…), which is never sent")
	}
	if b.SinkToken != "" && u.Scheme == "http" && !Loopback(net.JoinHostPort(u.Hostname(), "80")) {
		l.warn(name, "token-in-clear", "use https", "is a http address, so BRIDGE_SINK_TOKEN can be read on the way")
	}
}

// extensionName is how the names of extensions look; the specification wants them
// to have 20 characters at most.
var extensionName = regexp.MustCompile(`^[a-z0-9]{1,20}$`)

// overrides reads K_CE_OVERRIDES (source: Knative, SinkBinding: ceOverrides).
func (l *envLoader) overrides(text string) map[string]string {
	if text == "" {
		return nil
	}
	const name, hint = "K_CE_OVERRIDES", `write {"extensions": {"name": "value"}}`
	var o struct {
		Extensions map[string]string `json:"extensions"`
	}
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		l.fail(name, "bad-value", hint, "is no JSON object with texts under extensions")
		return nil
	}
	attributes := []string{"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "data"}
	for _, extension := range slices.Sorted(maps.Keys(o.Extensions)) {
		value := o.Extensions[extension]
		switch {
		case slices.Contains(attributes, extension):
			l.fail(name, "bad-value", "only extensions can be set", "sets %q, which is no extension", extension)
		case !extensionName.MatchString(extension):
			l.fail(name, "bad-value", "use up to 20 small letters and digits", "sets %q, which cannot be the name of an extension", extension)
		case value == "" || strings.ContainsFunc(value, unicode.IsControl):
			l.fail(name, "bad-value", "", "sets %q to a text that is empty or holds control characters", extension)
		}
	}
	return o.Extensions
}
