package deploy_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

func loadChart(t *testing.T, name string) *chart.Chart {
	t.Helper()
	c, err := loader.LoadDir(filepath.Join("helm", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	return c
}

// render does what helm template does: values checked against the schema, and
// templates executed, where a value that is not there fails.
func render(t *testing.T, c *chart.Chart, values string) (string, error) {
	t.Helper()
	var given map[string]any
	if err := yaml.UnmarshalStrict([]byte(values), &given); err != nil {
		t.Fatal(err)
	}
	if err := chartutil.ProcessDependencies(c, given); err != nil {
		return "", err
	}
	release := chartutil.ReleaseOptions{Name: "shop", Namespace: "shop", Revision: 1, IsInstall: true}
	all, err := chartutil.ToRenderValues(c, given, release, chartutil.DefaultCapabilities)
	if err != nil {
		return "", err
	}
	files, err := (engine.Engine{Strict: true}).Render(c, all)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, ".yaml") && stripped(files[name]) != "" {
			b.WriteString("---\n# " + name + "\n" + strings.TrimSpace(files[name]) + "\n")
		}
	}
	return b.String(), nil
}

func TestHelm(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		chart, values string
		kinds         []string // that there are
	}{
		"service": {"bridge8x8", "", []string{"ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount"}},
		"service-monitored": {"bridge8x8", `
metrics:
  enabled: true
  serviceMonitor: {enabled: true, labels: {release: prometheus}}
  prometheusRule: {enabled: true}
autoscaling: {kind: hpa}
`, []string{"ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "PrometheusRule", "Service", "ServiceAccount", "ServiceMonitor"}},
		"service-keda": {"bridge8x8", `
image: {digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}
nats: {url: "tls://nats-1:4222,tls://nats-2:4222"}
http: {enabled: false}
metrics: {enabled: true, dashboard: {enabled: true}}
autoscaling: {kind: keda, max: 20}
podDisruptionBudget: {enabled: false}
existingConfigMap: my-routes
secrets:
  volume: {csi: {driver: secrets-store.csi.k8s.io, readOnly: true, volumeAttributes: {secretProviderClass: bridge8x8}}}
  keys: {NATS_CREDS: bridge.creds, NATS_TLS_CA: ca.crt, BRIDGE_HTTP_TOKEN: null, BRIDGE_WEBHOOK_SECRET: null}
env: {BRIDGE_CONCURRENCY: 128, BRIDGE_COMMANDS: true, BRIDGE_PREFIX: shop}
podLabels: {team: shop}
nodeSelector: {kubernetes.io/os: linux}
tolerations: [{key: dedicated, operator: Exists}]
`, []string{"ConfigMap", "Deployment", "NetworkPolicy", "ScaledObject", "Service", "ServiceAccount"}},
		"sidecar": {"shop", "", []string{"ConfigMap", "Deployment"}},
		"sidecar-without-http": {"shop", `
bridge8x8:
  http: {enabled: false}
  membrane: {connection: 8x8-shop}
  graceSeconds: 40
`, []string{"ConfigMap", "Deployment"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := loadChart(t, test.chart)
			if test.chart == "shop" {
				c.AddDependency(loadChart(t, "bridge8x8")) // what helm dependency build would fetch
			}
			manifests, err := render(t, c, test.values)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "helm-"+name+".yaml", manifests)
			all := objects(t, manifests)
			if name == "service-keda" {
				all = append(all, ownRoutes())
			}
			got := map[string]bool{}
			for line := range strings.Lines(manifests) {
				if kind, ok := strings.CutPrefix(line, "kind: "); ok {
					got[strings.TrimSpace(kind)] = true
				}
			}
			if kinds := slices.Sorted(maps.Keys(got)); !slices.Equal(kinds, test.kinds) {
				t.Errorf("kinds %v, want %v", kinds, test.kinds)
			}
			found := pods(t, all)
			if len(found) != 1 || found[0].sidecar != (test.chart == "shop") {
				t.Fatalf("%d pods, the first a sidecar: %v", len(found), found[0].sidecar)
			}
			checkPolicy(t, found[0])
			checkConfiguration(t, found[0], all)
			checkSelectors(t, all)
			if scaled := strings.Contains(name, "monitored") || strings.Contains(name, "keda"); !found[0].sidecar {
				if replicas := find[*appsv1.Deployment](all)[0].Spec.Replicas; (replicas == nil) != scaled {
					t.Errorf("replicas %v beside an autoscaler: %v", replicas, scaled)
				}
			}
		})
	}
}

// helm lint has nothing to say of either chart.
func TestHelmLint(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"bridge8x8", "shop"} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.CopyFS(dir, os.DirFS(filepath.Join("helm", name))); err != nil {
			t.Fatal(err)
		}
		if name == "shop" { // what helm dependency build would fetch
			if err := os.CopyFS(filepath.Join(dir, "charts", "bridge8x8"), os.DirFS("helm/bridge8x8")); err != nil {
				t.Fatal(err)
			}
		}
		for _, m := range lint.AllWithKubeVersion(dir, nil, "shop", &chartutil.KubeVersion{Version: "v1.30.0", Major: "1", Minor: "30"}).Messages {
			if m.Severity > support.InfoSev { // an icon is missing, and may be
				t.Errorf("%s: %s", name, m.Error())
			}
		}
	}
}

// ownRoutes is the ConfigMap that an operator made himself.
func ownRoutes() *corev1.ConfigMap {
	m := new(corev1.ConfigMap)
	m.Name, m.Data = "my-routes", map[string]string{"bridge.yaml": "connections: {main: {key: 8x8-main}}\nroutes:\n  - {name: a, on: a.b, run: send-sms, connection: main, input: {destination: \"+12025550111\", text: a}}\n"}
	return m
}

// Values that are unsafe or mistyped are refused, and the words tell how to go on.
func TestHelmRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ values, want string }{
		"an unknown mode":          {"mode: daemon", "mode"},
		"a value mistyped":         {"replica: 3", "replica"},
		"an embedded server":       {"nats: {url: embedded}", "nats.url"},
		"an even number of copies": {"nats: {replicas: 2}", "nats.replicas"},
		"an unknown secret":        {"secrets: {keys: {MEMBRANE_TOKN: x}}", "MEMBRANE_TOKN"},
		"no memory limit":          {"resources: {limits: {memory: null}}", "limits"},
		"no secret":                {`secrets: {name: ""}`, "name an existing Secret"},
		"open to everybody":        {"secrets: {keys: {BRIDGE_HTTP_TOKEN: \"\"}}", "POST /events would be open to everybody"},
		"webhooks open":            {"secrets: {keys: {BRIDGE_WEBHOOK_SECRET: null}}", "POST /webhooks/8x8 would be open to everybody"},
		"metrics on loopback":      {"metrics: {serviceMonitor: {enabled: true}}", "needs metrics.enabled=true"},
		"a sidecar that listens":   {"mode: sidecar\nmetrics: {enabled: true}", "a sidecar listens on loopback only"},
		"set twice":                {"env: {NATS_URL: x}", "env.NATS_URL is set by another value"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			manifests, err := render(t, loadChart(t, "bridge8x8"), test.values)
			if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), "/", "."), strings.ReplaceAll(test.want, "/", ".")) {
				t.Errorf("error %v, want one that says %q\n%s", err, test.want, manifests)
			}
		})
	}
}
