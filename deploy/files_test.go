package deploy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

func TestCompose(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	project, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir: here, ConfigFiles: []types.ConfigFile{{Filename: "compose.yaml", Content: content}}, Environment: types.Mapping{},
	})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	addrs := map[string]bool{}
	for name, s := range project.Services {
		names = append(names, name)
		if !slices.Contains(s.CapDrop, "ALL") || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") || s.Privileged {
			t.Errorf("%s: has capabilities, or can get privileges", name)
		}
		if !s.ReadOnly && name != "grafana" {
			t.Errorf("%s: its file system can be written", name)
		}
		if s.Build == nil && (strings.HasSuffix(s.Image, ":latest") || !strings.Contains(s.Image, ":")) {
			t.Errorf("%s: image %q has no fixed version", name, s.Image)
		}
		for _, p := range s.Ports {
			if p.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is open to other machines", name, p.Published)
			}
		}
		for _, v := range s.Volumes {
			if v.Type == types.VolumeTypeBind {
				if _, err := os.Stat(v.Source); err != nil || !v.ReadOnly {
					t.Errorf("%s: %s: %v, read-only %v", name, v.Source, err, v.ReadOnly)
				}
			}
		}
		if strings.HasPrefix(name, "bridge-") {
			checkComposeBridge(t, project, s)
			addrs[*s.Environment["BRIDGE_ADMIN_ADDR"]] = true
		}
	}
	slices.Sort(names)
	if want := []string{"bridge-1", "bridge-2", "grafana", "nats-1", "nats-2", "nats-3", "pod", "prometheus", "sandbox"}; !slices.Equal(names, want) {
		t.Errorf("services %v, want %v", names, want)
	}
	var prometheus struct {
		ScrapeConfigs []struct {
			StaticConfigs []struct{ Targets []string } `json:"static_configs"`
		} `json:"scrape_configs"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "compose/prometheus.yaml")), &prometheus); err != nil {
		t.Fatal(err)
	}
	for _, target := range prometheus.ScrapeConfigs[0].StaticConfigs[0].Targets {
		if !addrs[target] {
			t.Errorf("Prometheus asks %s, where no bridge is; they are at %v", target, addrs)
		}
		delete(addrs, target)
	}
	if len(addrs) > 0 {
		t.Errorf("Prometheus does not ask %v", addrs)
	}
	if secret := read(t, "compose/secrets/webhook-secret"); !strings.HasSuffix(strings.Join(project.Services["sandbox"].Command, " "), "/webhooks/8x8/"+secret) {
		t.Errorf("the sandbox posts its receipts with another secret than the bridges': %v", project.Services["sandbox"].Command)
	}
}

// checkComposeBridge lets the program judge a service's variables and files.
func checkComposeBridge(t *testing.T, project *types.Project, s types.ServiceConfig) {
	t.Helper()
	files := map[string]string{} // in the container, to here
	for _, v := range s.Volumes {
		files[v.Target] = v.Source
	}
	for _, secret := range s.Secrets {
		files["/run/secrets/"+secret.Source] = project.Secrets[secret.Source].File
	}
	env := map[string]string{}
	for name, value := range s.Environment {
		env[name] = *value
		if strings.HasPrefix(*value, "/") {
			if env[name] = files[*value]; env[name] == "" {
				t.Errorf("%s: %s=%s is no file of the container", s.Name, name, *value)
			}
		}
	}
	if out, err := command(t, env, program, "check"); err != nil || !strings.Contains(out, "1 of 1 test passed") {
		t.Errorf("%s: check says %v\n%s", s.Name, err, out)
	}
	if s.User != "65532:65532" || s.NetworkMode != "service:pod" || s.StopGracePeriod == nil || s.StopGracePeriod.String() <= "25s" {
		t.Errorf("%s: user %q, network %q, grace %v", s.Name, s.User, s.NetworkMode, s.StopGracePeriod)
	}
}

// Every metric and label that dashboard and alerts speak of is one that a
// running bridge exports.
func TestDashboardAndAlerts(t *testing.T) {
	t.Parallel()
	exported := exportedMetrics(t)
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "helm/bridge8x8/files/dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, p := range dashboard.Panels {
		if len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			checkExpr(t, p.Title, strings.ReplaceAll(target.Expr, "$__rate_interval", "1m"), exported, used)
		}
	}
	var rules monitoring.PrometheusRuleSpec
	if err := yaml.UnmarshalStrict([]byte(read(t, "helm/bridge8x8/files/alerts.yaml")), &rules); err != nil {
		t.Fatal(err)
	}
	for _, r := range rules.Groups[0].Rules {
		checkExpr(t, r.Alert, r.Expr.String(), exported, used)
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" || r.Labels["severity"] == "" {
			t.Errorf("%s: an alert needs a severity, a summary and a description", r.Alert)
		}
	}
	for name := range exported {
		bare := strings.NewReplacer("_bucket", "", "_sum", "", "_count", "").Replace(name)
		if strings.HasPrefix(name, "bridge8x8_") && !used[name] && !used[bare+"_bucket"] && name != "bridge8x8_config_last_reload_success_timestamp_seconds" {
			t.Errorf("%s is neither on the dashboard nor in an alert", name)
		}
	}
}

// checkExpr parses PromQL and looks its names up. instance and job are
// Prometheus' own labels, and le is a histogram's.
func checkExpr(t *testing.T, where, expr string, exported map[string]map[string]bool, used map[string]bool) {
	t.Helper()
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		t.Errorf("%s: %s: %v", where, expr, err)
		return
	}
	known := map[string]bool{"instance": true, "job": true, "le": true}
	var grouped []string
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.AggregateExpr:
			grouped = append(grouped, n.Grouping...)
		case *parser.VectorSelector:
			used[n.Name] = true
			own := exported[n.Name]
			if own == nil {
				t.Errorf("%s: no bridge exports %s", where, n.Name)
			}
			for _, m := range n.LabelMatchers {
				if m.Name != "__name__" && !own[m.Name] && !known[m.Name] {
					t.Errorf("%s: %s has no label %s", where, n.Name, m.Name)
				}
			}
			for name := range own {
				known[name] = true
			}
		}
		return nil
	})
	for _, name := range grouped {
		if !known[name] {
			t.Errorf("%s: %s: no label %s", where, expr, name)
		}
	}
}

var series = regexp.MustCompile(`(?m)^([a-z0-9_]+)(\{[^}]*\})? `)

// exportedMetrics runs a bridge and returns its metrics, each with its labels.
func exportedMetrics(t *testing.T) map[string]map[string]bool {
	t.Helper()
	b := startBridge(t)
	response, err := http.Get("http://" + b.public + "/events") // a request to be counted
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response, err = http.Get("http://" + b.admin + "/metrics"); err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	exported := map[string]map[string]bool{}
	label := regexp.MustCompile(`([a-z_]+)="`)
	for _, match := range series.FindAllStringSubmatch(string(body), -1) {
		if exported[match[1]] == nil {
			exported[match[1]] = map[string]bool{}
		}
		for _, l := range label.FindAllStringSubmatch(match[2], -1) {
			exported[match[1]][l[1]] = true
		}
	}
	if len(exported) < 20 {
		t.Fatalf("only %d metrics in\n%s", len(exported), body)
	}
	return exported
}

// exposureLimit is the most that systemd's own judgement may be, of 10.0.
const exposureLimit = 1.5

func TestSystemdUnit(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not here")
	}
	unit := strings.ReplaceAll(read(t, "systemd/bridge8x8.service"), "/usr/bin/bridge8x8", program)
	unit = strings.ReplaceAll(unit, "man:bridge8x8(1) ", "") // it is not installed here
	path := filepath.Join(t.TempDir(), "bridge8x8.service")
	write(t, path, unit)
	if out, err := command(t, nil, analyze, "verify", "--man=no", path); err != nil || strings.Contains(out, "bridge8x8.service") {
		t.Errorf("verify: %v\n%s", err, out)
	}
	out, err := command(t, nil, analyze, "security", "--offline=true", "--no-pager", path)
	if err != nil {
		t.Fatalf("security: %v\n%s", err, out)
	}
	match := regexp.MustCompile(`Overall exposure level for bridge8x8.service: ([0-9.]+)`).FindStringSubmatch(out)
	if match == nil {
		t.Fatalf("no verdict in\n%s", out)
	}
	if level, err := strconv.ParseFloat(match[1], 64); err != nil || level > exposureLimit {
		t.Errorf("exposure %s, want at most %.1f\n%s", match[1], exposureLimit, out)
	}
	// Its own words about time must agree with the program's.
	if !strings.Contains(unit, "TimeoutStopSec=40s") {
		t.Error("TimeoutStopSec must be longer than BRIDGE_GRACE, 25s")
	}
	env := map[string]string{"MEMBRANE_TOKEN": "a-token", "BRIDGE_CONFIG": "kubernetes/base/bridge.yaml"}
	for line := range strings.Lines(read(t, "systemd/bridge8x8.env")) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(line, "#") {
			env[name] = value
		}
	}
	if out, err := command(t, env, program, "check"); err != nil {
		t.Errorf("bridge8x8.env: %v\n%s", err, out)
	}
}

// running is a bridge with the sandbox, as processes of their own.
type running struct {
	public, admin, nats, config string
	outcomes                    string // where it posts them
	out                         *output
}

// startBridge runs the sandbox and a bridge with NATS in its process, with the
// routes of compose.yaml mounted the way that a kubelet mounts a ConfigMap.
func startBridge(t *testing.T) running {
	t.Helper()
	b := running{public: freeAddr(t), admin: freeAddr(t), nats: freeAddr(t), outcomes: freeAddr(t), config: t.TempDir()}
	box := freeAddr(t)
	mountRoutes(t, b.config, "1", read(t, "compose/bridge.yaml"))
	if _, err := command(t, nil, program, "health", "--addr", b.admin); err == nil {
		t.Error("health says that a bridge can work that does not run")
	}
	start(t, nil, "sandbox", "--addr", box, "--webhook", "http://"+b.public+"/webhooks/8x8")
	env := map[string]string{
		"NATS_URL": "embedded", "BRIDGE_DATA_DIR": t.TempDir(), "BRIDGE_NATS_ADDR": b.nats, "BRIDGE_HTTP_ADDR": b.public, "BRIDGE_ADMIN_ADDR": b.admin,
		"BRIDGE_CONFIG": filepath.Join(b.config, "bridge.yaml"), "MEMBRANE_API_URL": "http://" + box, "MEMBRANE_TOKEN": "pat-sandbox", "BRIDGE_GRACE": "5s",
	}
	env["BRIDGE_SINK_URL"] = "http://" + b.outcomes + "/outcomes"
	b.out = start(t, env, "serve")
	if out, err := command(t, map[string]string{"BRIDGE_ADMIN_ADDR": b.admin}, program, "health", "--wait", "60s"); err != nil {
		t.Fatalf("health: %v\n%s\n%s", err, out, b.out)
	}
	return b
}

// mountRoutes puts a version of the routes where a link leads to it, and then
// replaces the link, all at once, as a kubelet does.
func mountRoutes(t *testing.T, dir, version, routes string) {
	t.Helper()
	write(t, filepath.Join(dir, ".."+version, "bridge.yaml"), routes)
	next := filepath.Join(dir, "..next")
	if err := os.Symlink(".."+version, next); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	if version == "1" {
		if err := os.Symlink(filepath.Join("..data", "bridge.yaml"), filepath.Join(dir, "bridge.yaml")); err != nil {
			t.Fatal(err)
		}
	}
}

// The applications of examples, each in its own language, get the outcome of
// what they post to a bridge beside them; posted again, it is not sent again.
func TestExamples(t *testing.T) {
	t.Parallel()
	b := startBridge(t)
	// They know the bridge by localhost only, and nothing of NATS.
	env := map[string]string{"EVENTS_URL": "http://" + b.public + "/events", "OUTCOMES_ADDR": b.outcomes}
	follow := map[string]string{"NATS_URL": "nats://" + b.nats}
	goExample := filepath.Join(t.TempDir(), "shop")
	if out, err := exec.Command("go", "build", "-o", goExample, "./examples/go").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	tests := []struct {
		name, runtime string
		args          []string
	}{
		{"go", goExample, nil},
		{"node", "node", []string{"examples/node/shop.js"}},
		{"python", "python3", []string{"examples/python/shop.py"}},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path, err := exec.LookPath(test.runtime)
			if err != nil {
				t.Skipf("%s is not here", test.runtime)
			}
			phone := "+1202555011" + strconv.Itoa(i)
			out, err := command(t, env, path, append(test.args, test.name, phone)...)
			if want := "com.8x8.action.send-sms.succeeded shipped-" + test.name; err != nil || strings.TrimSpace(out) != want {
				t.Errorf("%v, it said %q, want %q", err, out, want)
			}
			// 8x8 refuses numbers that end in 08, in the sandbox.
			out, err = command(t, env, path, append(test.args, test.name+"-refused", "+12025550108")...)
			if want := "com.8x8.action.send-sms.failed shipped-" + test.name + "-refused"; err != nil || strings.TrimSpace(out) != want {
				t.Errorf("%v, it said %q, want %q", err, out, want)
			}
		})
	}

	// A changed ConfigMap is loaded without a restart: another text, through the same process.
	mountRoutes(t, b.config, "2", strings.ReplaceAll(read(t, "compose/bridge.yaml"), "com.acme.order.shipped", "com.acme.order.sent"))
	eventually(t, "the new routes are in use", func() bool {
		id := strconv.FormatInt(int64(len(b.out.String())), 10)
		_, err := command(t, follow, program, "send", "--type", "com.acme.order.sent", "--id", "reload-"+id, "--subject", "9",
			"--data", `{"customer":{"name":"Bo","phone":"+12025550111"}}`, "--wait", "--timeout", "3s")
		return err == nil
	})
}

// README shows files and commands that are there.
func TestReadme(t *testing.T) {
	t.Parallel()
	text := read(t, "README.md")
	for _, match := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat(match[1]); err != nil {
			t.Errorf("README.md: %v", err)
		}
	}
	help, err := command(t, nil, program, "--help")
	if err != nil {
		t.Fatal(err)
	}
	for _, match := range regexp.MustCompile(`(?m)^\s*(?:\./)?bridge8x8 ([a-z]+)`).FindAllStringSubmatch(text, -1) {
		if !strings.Contains(help, fmt.Sprintf("\n  %s ", match[1])) {
			t.Errorf("README.md: bridge8x8 %s is no command", match[1])
		}
	}
}
