package deploy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// What we use of other people's kinds, whose own modules are large.
type (
	scaledObject struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct {
			ScaleTargetRef  struct{ Name string } `json:"scaleTargetRef"`
			MinReplicaCount int                   `json:"minReplicaCount"`
			MaxReplicaCount int                   `json:"maxReplicaCount"`
			Triggers        []struct {
				Type     string            `json:"type"`
				Metadata map[string]string `json:"metadata"`
			} `json:"triggers"`
		} `json:"spec"`
	}
	sinkBinding struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct {
			Subject corev1.ObjectReference `json:"subject"`
			Sink    struct {
				Ref corev1.ObjectReference `json:"ref"`
			} `json:"sink"`
			CEOverrides struct {
				Extensions map[string]string `json:"extensions"`
			} `json:"ceOverrides"`
		} `json:"spec"`
	}
	trigger struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct {
			Broker     string                                 `json:"broker"`
			Filter     struct{ Attributes map[string]string } `json:"filter"`
			Subscriber struct {
				Ref corev1.ObjectReference `json:"ref"`
				URI string                 `json:"uri"`
			} `json:"subscriber"`
			Delivery struct {
				Retry         int    `json:"retry"`
				BackoffPolicy string `json:"backoffPolicy"`
				BackoffDelay  string `json:"backoffDelay"`
			} `json:"delivery"`
		} `json:"spec"`
	}
)

// kinds is what each kind is decoded into, strictly.
var kinds = map[string]func() any{
	"v1/ConfigMap":                            func() any { return new(corev1.ConfigMap) },
	"v1/Service":                              func() any { return new(corev1.Service) },
	"v1/ServiceAccount":                       func() any { return new(corev1.ServiceAccount) },
	"apps/v1/Deployment":                      func() any { return new(appsv1.Deployment) },
	"policy/v1/PodDisruptionBudget":           func() any { return new(policyv1.PodDisruptionBudget) },
	"autoscaling/v2/HorizontalPodAutoscaler":  func() any { return new(autoscalingv2.HorizontalPodAutoscaler) },
	"networking.k8s.io/v1/NetworkPolicy":      func() any { return new(networkingv1.NetworkPolicy) },
	"monitoring.coreos.com/v1/ServiceMonitor": func() any { return new(monitoring.ServiceMonitor) },
	"monitoring.coreos.com/v1/PrometheusRule": func() any { return new(monitoring.PrometheusRule) },
	"keda.sh/v1alpha1/ScaledObject":           func() any { return new(scaledObject) },
	"eventing.knative.dev/v1/Trigger":         func() any { return new(trigger) },
	"sources.knative.dev/v1/SinkBinding":      func() any { return new(sinkBinding) },
}

// objects decodes manifests into their kinds; a field that the kind does not
// have, or one that is there twice, fails.
func objects(t *testing.T, manifests string) []any {
	t.Helper()
	var all []any
	for doc := range strings.SplitSeq("\n"+manifests, "\n---") {
		var head metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if head.Kind == "" {
			if left := stripped(doc); left != "" {
				t.Fatalf("no kind in\n%s", left)
			}
			continue
		}
		name := head.APIVersion + "/" + head.Kind
		newObject := kinds[name]
		if newObject == nil {
			t.Fatalf("a kind that nobody expects: %s", name)
		}
		object := newObject()
		if err := yaml.UnmarshalStrict([]byte(doc), object); err != nil {
			t.Fatalf("%s: %v in\n%s", name, err, doc)
		}
		all = append(all, object)
	}
	return all
}

// stripped is YAML without comments and empty lines.
func stripped(doc string) string {
	var left []string
	for line := range strings.Lines(doc) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			left = append(left, line)
		}
	}
	return strings.Join(left, "\n")
}

// find returns the objects of a kind.
func find[T any](all []any) []T {
	var found []T
	for _, o := range all {
		if one, ok := o.(T); ok {
			found = append(found, one)
		}
	}
	return found
}

// bridgePod is a pod with a bridge in it.
type bridgePod struct {
	name    string
	spec    corev1.PodSpec
	bridge  corev1.Container
	sidecar bool
}

// pods finds the bridge in every Deployment, and insists that there is one.
func pods(t *testing.T, all []any) []bridgePod {
	t.Helper()
	var found []bridgePod
	for _, d := range find[*appsv1.Deployment](all) {
		pod := bridgePod{name: d.Name, spec: d.Spec.Template.Spec}
		for _, c := range pod.spec.Containers {
			if c.Name == "bridge8x8" {
				pod.bridge = c
			}
		}
		for _, c := range pod.spec.InitContainers {
			if c.Name == "bridge8x8" {
				pod.bridge, pod.sidecar = c, true
			}
		}
		if pod.bridge.Name == "" {
			t.Fatalf("Deployment %s has no bridge", d.Name)
		}
		for key, value := range d.Spec.Selector.MatchLabels {
			if d.Spec.Template.Labels[key] != value {
				t.Errorf("Deployment %s selects %s=%s, which its pods do not have", d.Name, key, value)
			}
		}
		found = append(found, pod)
	}
	return found
}

func (p bridgePod) env(name string) string {
	for _, e := range p.bridge.Env {
		if e.Name == name {
			return e.Value
		}
	}
	return ""
}

// checkPolicy is what every bridge in a cluster must be, however it got there.
func checkPolicy(t *testing.T, p bridgePod) {
	t.Helper()
	must := func(ok bool, format string, args ...any) {
		t.Helper()
		if !ok {
			t.Errorf("pod %s: %s", p.name, fmt.Sprintf(format, args...))
		}
	}
	yes := func(b *bool) bool { return b != nil && *b }
	no := func(b *bool) bool { return b != nil && !*b }
	c, s := p.bridge, p.bridge.SecurityContext
	if s == nil || s.Capabilities == nil || s.SeccompProfile == nil || s.RunAsUser == nil {
		t.Fatalf("pod %s: no complete security context: %+v", p.name, s)
	}
	must(yes(s.RunAsNonRoot) && *s.RunAsUser > 0, "runs as root")
	must(yes(s.ReadOnlyRootFilesystem), "its file system can be written")
	must(no(s.AllowPrivilegeEscalation) && no(s.Privileged), "can get privileges")
	must(slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) && len(s.Capabilities.Add) == 0, "has capabilities")
	must(s.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault, "may make every system call")
	must(!p.spec.HostNetwork && !p.spec.HostPID && !p.spec.HostIPC, "shares the host's namespaces")
	must(p.sidecar || no(p.spec.AutomountServiceAccountToken), "gets a token of the cluster")
	must(!c.Resources.Requests.Cpu().IsZero() && !c.Resources.Requests.Memory().IsZero() && !c.Resources.Limits.Memory().IsZero(), "has no resources set")
	must(!strings.HasSuffix(c.Image, ":latest") && strings.Contains(c.Image[strings.LastIndex(c.Image, "/")+1:], ":") || strings.Contains(c.Image, "@"), "image %q has no fixed version", c.Image)
	must(p.spec.SecurityContext != nil && p.spec.SecurityContext.FSGroup != nil && *p.spec.SecurityContext.FSGroup == 65532, "cannot read its secrets' files")

	for name, probe := range map[string]*corev1.Probe{"startup": c.StartupProbe, "readiness": c.ReadinessProbe, "liveness": c.LivenessProbe} {
		if probe == nil || probe.Exec == nil {
			t.Errorf("pod %s: %s probe does not ask the program itself, which is the only way to a listener on loopback", p.name, name)
			continue
		}
		must(probe.Exec.Command[0] == "/bridge8x8" && probe.Exec.Command[1] == "health", "%s probe runs %v", name, probe.Exec.Command)
		must(probe.TimeoutSeconds > 2, "%s probe gives up before health does", name)
	}

	// The grace that it is told must fit into the one that the pod has.
	grace := int64(0)
	if _, err := fmt.Sscanf(p.env("BRIDGE_GRACE"), "%ds", &grace); err != nil {
		t.Errorf("pod %s: BRIDGE_GRACE %q", p.name, p.env("BRIDGE_GRACE"))
	}
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
		must(c.Lifecycle.PreStop.Sleep != nil, "there is no shell in the image for its preStop")
		grace += c.Lifecycle.PreStop.Sleep.Seconds
	}
	must(p.spec.TerminationGracePeriodSeconds != nil && *p.spec.TerminationGracePeriodSeconds > grace, "is killed before its %d s are over", grace)

	volumes := map[string]bool{}
	for _, v := range p.spec.Volumes {
		volumes[v.Name] = true
	}
	for _, m := range c.VolumeMounts {
		must(volumes[m.Name], "mounts %q, which is no volume of the pod", m.Name)
		must(m.ReadOnly && m.SubPath == "", "mount %q can be written, or never changes", m.Name)
	}
	must(p.env("BRIDGE_ALLOW_UNAUTHENTICATED") == "", "every listener may be open to everybody")
	for _, e := range c.Env {
		secret := slices.ContainsFunc([]string{"TOKEN", "TOKEN_2", "SECRET", "PASSWORD", "AUTHORIZATION"}, func(end string) bool { return strings.HasSuffix(e.Name, "_"+end) })
		must(!secret, "variable %s would hold a secret", e.Name)
	}
	if p.sidecar {
		must(c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways, "the sidecar would have to end before the application starts")
		for _, name := range []string{"BRIDGE_HTTP_ADDR", "BRIDGE_ADMIN_ADDR"} {
			must(p.env(name) == "" || strings.HasPrefix(p.env(name), "127.0.0.1:"), "the sidecar listens on %s=%s", name, p.env(name))
		}
		must(len(c.Ports) == 0, "the sidecar opens ports")
		must(c.Lifecycle != nil && c.Lifecycle.PreStop != nil, "the sidecar has no preStop")
	}
}

// checkConfiguration lets the program itself judge the variables, secrets and
// routes of a pod, with its mounts in a folder of ours.
func checkConfiguration(t *testing.T, p bridgePod, all []any) {
	t.Helper()
	dir := t.TempDir()
	maps := find[*corev1.ConfigMap](all)
	for _, v := range p.spec.Volumes {
		if v.ConfigMap == nil {
			continue
		}
		i := slices.IndexFunc(maps, func(m *corev1.ConfigMap) bool { return m.Name == v.ConfigMap.Name })
		if i < 0 {
			t.Errorf("pod %s: nobody makes ConfigMap %s", p.name, v.ConfigMap.Name)
			continue
		}
		for name, content := range maps[i].Data {
			write(t, filepath.Join(dir, v.Name, name), content)
		}
	}
	env := map[string]string{}
	for _, e := range p.bridge.Env {
		env[e.Name] = e.Value
		for _, m := range p.bridge.VolumeMounts {
			file, inside := strings.CutPrefix(e.Value, m.MountPath+"/")
			if !inside {
				continue
			}
			env[e.Name] = filepath.Join(dir, m.Name, file)
			if m.Name == "bridge8x8-secrets" {
				write(t, env[e.Name], "a-secret-of-this-test")
			}
		}
	}
	out, err := command(t, env, program, "check")
	if err != nil || strings.Contains(out, "warning:") {
		t.Errorf("pod %s: check says %v\n%s", p.name, err, out)
	}
}

// checkSelectors insists that whatever selects pods by labels finds the bridge's.
func checkSelectors(t *testing.T, all []any) {
	t.Helper()
	deployments := find[*appsv1.Deployment](all)
	selects := func(what string, labels map[string]string) {
		t.Helper()
		found := slices.ContainsFunc(deployments, func(d *appsv1.Deployment) bool {
			for key, value := range labels {
				if d.Spec.Template.Labels[key] != value {
					return false
				}
			}
			return len(labels) > 0
		})
		if !found {
			t.Errorf("%s selects no pod: %v", what, labels)
		}
	}
	for _, o := range find[*corev1.Service](all) {
		selects("Service", o.Spec.Selector)
		for _, port := range o.Spec.Ports {
			if !slices.ContainsFunc(pods(t, all)[0].bridge.Ports, func(p corev1.ContainerPort) bool { return p.Name == port.TargetPort.StrVal }) {
				t.Errorf("Service port %s leads to no port of the container", port.Name)
			}
		}
	}
	for _, o := range find[*policyv1.PodDisruptionBudget](all) {
		selects("PodDisruptionBudget", o.Spec.Selector.MatchLabels)
	}
	for _, o := range find[*networkingv1.NetworkPolicy](all) {
		selects("NetworkPolicy", o.Spec.PodSelector.MatchLabels)
	}
	for _, o := range find[*autoscalingv2.HorizontalPodAutoscaler](all) {
		if o.Spec.ScaleTargetRef.Name != deployments[0].Name {
			t.Errorf("HorizontalPodAutoscaler scales %q", o.Spec.ScaleTargetRef.Name)
		}
	}
	for _, o := range find[*scaledObject](all) {
		if o.Spec.ScaleTargetRef.Name != deployments[0].Name {
			t.Errorf("ScaledObject scales %q", o.Spec.ScaleTargetRef.Name)
		}
	}
}

func TestKustomize(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"base", "example"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join("kubernetes", name))
			if err != nil {
				t.Fatal(err)
			}
			manifests, err := made.AsYaml()
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "kustomize-"+name+".yaml", string(manifests))
			all := objects(t, string(manifests))
			found := pods(t, all)
			for _, p := range found {
				if p.sidecar != (name == "example") {
					t.Errorf("pod %s: sidecar %v", p.name, p.sidecar)
				}
				checkPolicy(t, p)
				checkConfiguration(t, p, all)
			}
			if len(found) != 1 {
				t.Errorf("%d pods, want one", len(found))
			}
			checkSelectors(t, all)
		})
	}
}

func TestKnative(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("knative/trigger.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all := objects(t, string(content))
	triggers, policies := find[*trigger](all), find[*networkingv1.NetworkPolicy](all)
	if len(triggers) != 1 || len(policies) != 1 {
		t.Fatalf("%d triggers and %d policies, want one of each", len(triggers), len(policies))
	}
	if to := triggers[0].Spec.Subscriber; to.URI != "/events" || to.Ref.Kind != "Service" || to.Ref.Name != "bridge8x8" {
		t.Errorf("the trigger posts to %+v", to)
	}
	// As the comment says: a token cannot be shown, and a SinkBinding makes it a source.
	env := map[string]string{
		"BRIDGE_CONFIG": "kubernetes/base/bridge.yaml", "BRIDGE_HTTP_ADDR": ":8080", "BRIDGE_ALLOW_UNAUTHENTICATED": "true", "MEMBRANE_TOKEN": "pat-sandbox",
	}
	if out, err := command(t, env, program, "check"); err != nil {
		t.Errorf("without a token: %v\n%s", err, out)
	}
	env["K_SINK"], env["K_CE_OVERRIDES"] = "http://broker.example", `{"extensions":{"origin":"bridge8x8"}}`
	if out, err := command(t, env, program, "check"); err != nil {
		t.Errorf("with a sink: %v\n%s", err, out)
	}
}

func TestKnativeSource(t *testing.T) {
	t.Parallel()
	bindings := find[*sinkBinding](objects(t, read(t, "knative/sinkbinding.yaml")))
	if len(bindings) != 1 {
		t.Fatalf("%d bindings, want one", len(bindings))
	}
	// What it is bound to is what kustomize makes.
	made := find[*appsv1.Deployment](objects(t, read(t, "testdata/kustomize-base.yaml")))
	if b := bindings[0].Spec; b.Subject.Kind != "Deployment" || b.Subject.Name != made[0].Name || b.Sink.Ref.Kind != "Broker" {
		t.Errorf("it binds %+v to %+v", b.Subject, b.Sink)
	}
}
