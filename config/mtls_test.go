package config_test

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/config"
)

// A client certificate is authentication, and only where somebody checks it.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	const asks = "webhooks: [{name: shop, auth: {mtls: {names: [shop.acme.internal, \"spiffe://acme/shop\"]}}}]\n"
	with := map[string]string{"BRIDGE_TLS_CERT": "c", "BRIDGE_TLS_KEY": "k", "BRIDGE_TLS_CLIENT_CA": "a"}
	for _, test := range []struct {
		name, yaml, names string
		env               map[string]string
		want              string
	}{
		{"asked for and checked", asks, "", with, ""},
		{"asked for at /events", "routes: []\n", "*", with, ""},
		{"nobody checks", asks, "", nil, `b.yaml:1:12: error: webhook "shop" asks for a client certificate (mtls), and BRIDGE_TLS_CLIENT_CA is not set (no-client-ca)`},
		{"nobody asks", "routes: []\n", "", with, "error: BRIDGE_TLS_CLIENT_CA is set, and no client is asked for a certificate (no-effect)"},
		{"no names", "webhooks: [{name: shop, auth: {mtls: {}}}]\n", "*", with, `b.yaml:1:38: error: mtls has no "names" (missing-key)`},
		{"empty names", "webhooks: [{name: shop, auth: {mtls: {names: [\" \"]}}}]\n", "*", with, `error: "names" names nobody (bad-value)`},
		{"not 8x8's", "webhooks: [{name: 8x8, auth: {mtls: {names: a}}}]\n", "*", with, `has no key "mtls" (unknown-key)`},
	} {
		environ := map[string]string{"BRIDGE_HTTP_ADDR": ":8443", "BRIDGE_WEBHOOK_SECRET": "s", "BRIDGE_TLS_CLIENT_NAMES": test.names, "BRIDGE_HTTP_TOKEN": "t"}
		if test.names != "" {
			delete(environ, "BRIDGE_HTTP_TOKEN") // the certificate is enough beyond loopback
		}
		maps.Copy(environ, test.env)
		env, problems := config.LoadEnv(environ)
		file, more := config.Parse("b.yaml", []byte(test.yaml), nil)
		problems = append(problems, more...)
		if !problems.Errors() {
			problems = append(append(problems, config.Check(&env, file)...), env.CheckListeners(file)...)
		}
		text := ""
		if problems.Errors() {
			text = problems.Error()
		}
		if (test.want == "") != (text == "") || !strings.Contains(text, test.want) {
			t.Errorf("%s: %s, want %s", test.name, text, test.want)
		}
	}
}

// A variable of the file may be in a file of its own, as those of the environment.
func TestVariablesFromFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "shop")
	if err := os.WriteFile(path, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		vars map[string]string
		want config.Secret
		says string
	}{
		{map[string]string{"SHOP_FILE": path}, "from-file", ""},
		{map[string]string{"SHOP": "from-env", "SHOP_FILE": path}, "from-env", ""},
		{map[string]string{"SHOP_FILE": path + "x"}, "", `the variable SHOP_FILE names the file "` + path + `x", which cannot be used`},
		{nil, "", "the variable SHOP is not set"},
	} {
		lookup := func(name string) (string, bool) { v, ok := test.vars[name]; return v, ok }
		file, problems := config.Parse("b.yaml", []byte("webhooks: [{name: a, auth: {bearer: \"${SHOP}\"}}]\n"), lookup)
		if test.says != "" {
			if !problems.Errors() || !strings.Contains(problems.Error(), test.says) {
				t.Errorf("%v: %v", test.vars, problems)
			}
			continue
		}
		if problems.Errors() {
			t.Fatal(problems)
		}
		if got := file.Webhooks[0].Bearer[0]; got != test.want {
			t.Errorf("%v: another secret", test.vars)
		}
		if want := map[bool][]string{true: {path}}[test.want == "from-file"]; !cmp.Equal(want, file.SecretFiles) {
			t.Errorf("%v: watches %v", test.vars, file.SecretFiles)
		}
	}
}
