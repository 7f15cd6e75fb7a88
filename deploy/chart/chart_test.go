package chart

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/deploy/authority"
	"github.com/weirmesh/weir/deploy/values"
)

// fixed are values with an issuer, so that rendering gives the same each time.
func fixed(t *testing.T, given string) *values.Values {
	t.Helper()
	var m map[string]any
	if err := yaml.Unmarshal([]byte(given), &m); err != nil {
		t.Fatal(err)
	}
	v, err := values.Decode(values.Default(), m)
	if err != nil {
		t.Fatal(err)
	}
	v.Issuer = values.Issuer{TrustAnchors: "ANCHORS\n", Certificate: "CERTIFICATE\n", Key: "KEY\n"}
	return v
}

func render(t *testing.T, v *values.Values) []Object {
	t.Helper()
	objects, err := Render(v, "weir", "v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func TestGolden(t *testing.T) {
	for name, given := range map[string]string{
		"default": "createNamespace: true",
		"ha":      "{createNamespace: true, highAvailability: true}",
		"other": `{clusterName: east, clusterDomain: east.example, trustDomain: example.org, verbose: true,
			images: {registry: 'localhost:5000', tag: e2e, pullPolicy: Never, pullSecrets: [pull]},
			bus: {storage: {persistent: false, size: 1Gi}, resources: {cpu: {request: '', limit: '2'}}}, controller: {replicas: 3},
			injector: {enabled: false}, networkPolicies: {namespaces: [monitoring]},
			scheduling: {priority: 0, nodeSelector: {a: b}, tolerations: [{key: k, operator: Exists}]}}`,
	} {
		got := Text(render(t, fixed(t, given)))
		if again := Text(render(t, fixed(t, given))); !bytes.Equal(got, again) {
			t.Errorf("%s: rendered twice it differs", name)
		}
		golden(t, "testdata/"+name+".yaml", got)
	}
}

// reasons says why each component needs each right. A right that is not here is
// one too many.
var reasons = map[string]string{
	"ClusterRole/weir-bus: create authentication.k8s.io/tokenreviews":                                             "whose the token is that a client shows",
	"ClusterRole/weir-bus: create authorization.k8s.io/subjectaccessreviews":                                      "whether a person may watch taps",
	"ClusterRole/weir-bus: get pods":                                                                              "the owner of the pod whose proxy connects",
	"ClusterRole/weir-bus: list namespaces":                                                                       "in which namespaces a person may watch taps",
	"ClusterRole/weir-bus: get apps/replicasets":                                                                  "the Deployment above a pod",
	"ClusterRole/weir-bus: get batch/jobs":                                                                        "the CronJob above a pod",
	"ClusterRole/weir-controller: create authentication.k8s.io/tokenreviews":                                      "whose the token is of a proxy that asks for a certificate",
	"ClusterRole/weir-controller: list services":                                                                  "discovery: what an address stands for",
	"ClusterRole/weir-controller: watch services":                                                                 "discovery: and how that changes",
	"ClusterRole/weir-controller: list pods":                                                                      "discovery: which endpoints are meshed, and as whom",
	"ClusterRole/weir-controller: watch pods":                                                                     "discovery: and how that changes",
	"ClusterRole/weir-controller: list discovery.k8s.io/endpointslices":                                           "discovery: the endpoints of a service",
	"ClusterRole/weir-controller: watch discovery.k8s.io/endpointslices":                                          "discovery: and how they change",
	"ClusterRole/weir-controller: get apps/replicasets":                                                           "injection: the Deployment above a pod that is created just now",
	"ClusterRole/weir-controller: list apps/replicasets":                                                          "discovery: the Deployment above a pod",
	"ClusterRole/weir-controller: watch apps/replicasets":                                                         "discovery: and of new pods",
	"ClusterRole/weir-controller: list apps/statefulsets":                                                         "inventory: those that are scaled to 0",
	"ClusterRole/weir-controller: watch apps/statefulsets":                                                        "inventory: and how that changes",
	"ClusterRole/weir-controller: get batch/jobs":                                                                 "injection: the CronJob above a pod that is created just now",
	"ClusterRole/weir-controller: list batch/jobs":                                                                "discovery: the CronJob above a pod",
	"ClusterRole/weir-controller: watch batch/jobs":                                                               "discovery: and of new pods",
	"ClusterRole/weir-controller: get namespaces":                                                                 "injection: annotations of a pod's namespace",
	"ClusterRole/weir-controller: get admissionregistration.k8s.io/mutatingwebhookconfigurations weir-injector":   "injection: whether the webhook knows the certificate's authority",
	"ClusterRole/weir-controller: patch admissionregistration.k8s.io/mutatingwebhookconfigurations weir-injector": "injection: to tell it",
	"Role/weir-controller: get secrets weir-bus-tls":                                                              "whether the bus's certificate is good still",
	"Role/weir-controller: update secrets weir-bus-tls":                                                           "to renew it",
	"Role/weir-controller: delete secrets weir-bus-tls":                                                           "to give it an owner; it takes this where OwnerReferencesPermissionEnforcement is on",
	"Role/weir-controller: get serviceaccounts weir-controller":                                                   "the owner, with which Kubernetes deletes the bus's certificate",
	"Role/weir-controller: create secrets":                                                                        "to make it; Kubernetes cannot bind this to a name",
	"Role/weir-config: get configmaps weir-config,weir-trust-anchors":                                             "everyone's: what weir inject and weir bus credentials read",
	"ClusterRole/weir-tap: watch weir.dev/taps":                                                                   "nobody's, until an administrator binds it to whom may hear taps",
}

func TestRights(t *testing.T) {
	seen := map[string]bool{}
	for _, o := range render(t, fixed(t, "highAvailability: true")) {
		if o.Kind != "ClusterRole" && o.Kind != "Role" {
			continue
		}
		var role rbac.ClusterRole
		if err := yaml.UnmarshalStrict([]byte(o.YAML), &role); err != nil {
			t.Fatal(err)
		}
		for _, rule := range role.Rules {
			for _, right := range rights(rule) {
				right = o.Kind + "/" + o.Name + ": " + right
				seen[right] = true
				if reasons[right] == "" {
					t.Errorf("%s: there is no reason for this", right)
				}
				if strings.Contains(right, "*") {
					t.Errorf("%s: a wildcard", right)
				}
			}
		}
	}
	for right := range reasons {
		if !seen[right] {
			t.Errorf("%s: a reason for what the chart does not give", right)
		}
	}
}

func rights(rule rbac.PolicyRule) (out []string) {
	for _, verb := range rule.Verbs {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				if group != "" {
					resource = group + "/" + resource
				}
				out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s", verb, resource, strings.Join(rule.ResourceNames, ","))))
			}
		}
	}
	return out
}

// TestPods holds what every pod of the control plane must be.
func TestPods(t *testing.T) {
	n := 0
	for _, o := range render(t, fixed(t, "")) {
		if o.Kind != "Deployment" && o.Kind != "StatefulSet" {
			continue
		}
		n++
		var w struct {
			Spec struct {
				Template core.PodTemplateSpec
			}
		}
		if err := yaml.Unmarshal([]byte(o.YAML), &w); err != nil {
			t.Fatal(err)
		}
		pod := w.Spec.Template.Spec
		if s := pod.SecurityContext; s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.SeccompProfile == nil || s.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s: not as a restricted pod must be", o)
		}
		if w.Spec.Template.Annotations["checksum/config"] == "" || pod.PriorityClassName != "weir-control-plane" {
			t.Errorf("%s: no checksum or no priority", o)
		}
		for _, c := range pod.Containers {
			s := c.SecurityContext
			if s == nil || !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation || len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL" || len(s.Capabilities.Add) > 0 {
				t.Errorf("%s: its container may more than it must", o)
			}
			if c.LivenessProbe == nil || c.ReadinessProbe == nil || c.StartupProbe == nil {
				t.Errorf("%s: a probe is missing", o)
			}
			if c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
				t.Errorf("%s: resources are missing", o)
			}
		}
	}
	if n != 4 {
		t.Errorf("%d workloads", n)
	}
}

// TestHelmAlone holds that the chart installs without weir: Helm takes it from
// its folder, and it makes an authority that Weir's controller can use. No
// secret is in what everybody may read.
func TestHelmAlone(t *testing.T) {
	c, err := loader.Load(".")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	all, err := chartutil.ToRenderValues(c, nil, chartutil.ReleaseOptions{Name: "mesh", Namespace: "elsewhere"}, chartutil.DefaultCapabilities)
	if err != nil {
		t.Fatal(err)
	}
	rendered, err := engine.Render(c, all)
	if err != nil {
		t.Fatal(err)
	}
	var g authority.Generated
	for _, text := range strings.Split(rendered["weir/templates/config.yaml"], "\n---\n") {
		var secret core.Secret
		if err := yaml.Unmarshal([]byte(text), &secret); err == nil && secret.Kind == "Secret" {
			g = authority.Generated{Anchors: secret.Data["ca.crt"], Certificate: secret.Data["tls.crt"], Key: secret.Data["tls.key"]}
		}
	}
	if err := authority.Check(&g); err != nil {
		t.Error(err)
	}
	for name, text := range rendered {
		if strings.Contains(text, "PRIVATE KEY") {
			t.Errorf("%s: a key in plain text", name)
		}
	}
	// What is wrong is refused by Helm, too.
	if _, err := chartutil.ToRenderValues(c, map[string]any{"bus": map[string]any{"sise": 1}}, chartutil.ReleaseOptions{}, nil); err == nil || !strings.Contains(err.Error(), "sise") {
		t.Errorf("an unknown value: %v", err)
	}
}

func TestSecretsAreOnlyInSecrets(t *testing.T) {
	key := base64.StdEncoding.EncodeToString([]byte("KEY\n"))
	for _, o := range render(t, fixed(t, "")) {
		if has := strings.Contains(o.YAML, key) || strings.Contains(o.YAML, "KEY\n"); has != (o.Kind == "Secret") {
			t.Errorf("%s: holds the key: %v", o, has)
		}
	}
	v := fixed(t, "")
	v.Issuer = values.Issuer{Existing: true}
	for _, o := range render(t, v) {
		if o.Kind == "Secret" || o.Name == "weir-trust-anchors" {
			t.Errorf("%s is rendered although others make it", o)
		}
	}
}

// TestEmbedded holds that nothing of the folder is missing in the program.
func TestEmbedded(t *testing.T) {
	entries, err := os.ReadDir("templates")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Load("v1")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Templates) != len(entries) {
		t.Errorf("%d templates are embedded, of %d", len(c.Templates), len(entries))
	}
}
