package deploy

import (
	"errors"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/weirmesh/weir/deploy/authority"
	"github.com/weirmesh/weir/deploy/chart"
	"github.com/weirmesh/weir/deploy/values"
)

// TestLook holds what is made of a cluster: of an empty one, one that cannot be
// asked, one of Helm's, and one whose ConfigMap somebody spoilt.
func TestLook(t *testing.T) {
	found, err := Look(t.Context(), fake.NewClientset(), "weir")
	if err != nil || found.Values != nil || found.Issuer != nil {
		t.Errorf("an empty cluster: %+v, %v", found, err)
	}
	away := fake.NewClientset()
	away.PrependReactor("get", "*", func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("forbidden") })
	if _, err := Look(t.Context(), away, "weir"); err == nil || !strings.Contains(err.Error(), "forbidden") {
		t.Errorf("a cluster that refuses: %v", err)
	}
	config := &core.ConfigMap{
		ObjectMeta: meta.ObjectMeta{Name: ConfigMapConfig, Namespace: "weir", Annotations: map[string]string{"meta.helm.sh/release-name": "weir"}},
		Data:       map[string]string{"values.yaml": "clusterName: east\n", "version": "v1"},
	}
	found, err = Look(t.Context(), fake.NewClientset(config), "weir")
	if err != nil || found.Values.ClusterName != "east" || found.Version != "v1" || !found.Helm {
		t.Fatalf("an installation: %+v, %v", found, err)
	}
	for name, build := range map[string]func(Options) ([]chart.Object, error){"install": Install, "upgrade": Upgrade} {
		if _, err := build(Options{Namespace: "weir", Version: "v1", Found: found}); err == nil || !strings.Contains(err.Error(), "helm upgrade") {
			t.Errorf("%s over Helm: %v", name, err)
		}
	}
	config.Data["values.yaml"] = "clusterNam: east\n"
	if _, err := Look(t.Context(), fake.NewClientset(config), "weir"); err == nil || !strings.Contains(err.Error(), "clusterNam: there is no such value") {
		t.Errorf("a spoilt ConfigMap: %v", err)
	}
}

func TestInstallRefuses(t *testing.T) {
	found := &Found{Values: values.Default(), Version: "v1"}
	found.Values.CreateNamespace = true
	if _, err := Install(Options{Namespace: "weir", Version: "v2", Found: found}); err == nil || !strings.Contains(err.Error(), "weir upgrade makes it v2") {
		t.Errorf("another version: %v", err)
	}
	found.Issuer = &authority.Generated{Anchors: []byte("x"), Certificate: []byte("y"), Key: []byte("z")}
	if _, err := Install(Options{Namespace: "weir", Version: "v1", Found: found}); err == nil || !strings.Contains(err.Error(), "cannot go on using the cluster's issuer") {
		t.Errorf("an issuer that is of no use: %v", err)
	}
	given := map[string]any{"issuer": map[string]any{"existing": true}}
	if _, err := Install(Options{Namespace: "weir", Version: "v1", Given: given, Issuer: found.Issuer}); err == nil || !strings.Contains(err.Error(), "bring none") {
		t.Errorf("an issuer where others make it: %v", err)
	}
}

func TestGiven(t *testing.T) {
	got, err := Given([][]byte{[]byte("{a: {b: 1, c: 2}}"), []byte("{a: {b: 3}}")}, []string{"a.c=4,d=x", "e={f,g}"})
	if err != nil {
		t.Fatal(err)
	}
	a := got["a"].(map[string]any)
	if a["b"] != 3.0 && a["b"] != int64(3) || a["c"] != int64(4) || got["d"] != "x" || len(got["e"].([]any)) != 2 {
		t.Errorf("%v", got)
	}
}

// TestUninstall holds that all is listed that is Weir's, the namespace last, and
// nothing of others.
func TestUninstall(t *testing.T) {
	part := map[string]string{"app.kubernetes.io/part-of": "weir"}
	object := func(apiVersion, kind, namespace, name string, labels, annotations map[string]string) runtime.Object {
		return &meta.PartialObjectMetadata{
			TypeMeta:   meta.TypeMeta{APIVersion: apiVersion, Kind: kind},
			ObjectMeta: meta.ObjectMeta{Namespace: namespace, Name: name, Labels: labels, Annotations: annotations},
		}
	}
	scheme := metadatafake.NewTestScheme()
	if err := meta.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	client := metadatafake.NewSimpleMetadataClient(scheme,
		object("v1", "Namespace", "", "weir", part, nil),
		object("v1", "Namespace", "", "other", nil, nil),
		object("v1", "Secret", "weir", "weir-bus-tls", part, nil),
		object("v1", "Secret", "weir", "somebody-else's", nil, nil),
		object("v1", "PersistentVolumeClaim", "weir", "data-weir-bus-0", part, nil),
		object("rbac.authorization.k8s.io/v1", "ClusterRole", "", "weir-bus", part, nil),
		object("v1", "Pod", "shop", "web", nil, map[string]string{"weir.dev/proxy-version": "v1"}),
		object("v1", "Pod", "shop", "plain", nil, nil),
	)
	objects, meshed, err := Uninstall(t.Context(), client, "weir")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, o := range objects {
		names = append(names, o.String())
	}
	want := "persistentvolumeclaim/data-weir-bus-0 -n weir, secret/weir-bus-tls -n weir, clusterrole/weir-bus, namespace/weir"
	if got := strings.Join(names, ", "); got != want || meshed != 1 {
		t.Errorf("got %s with %d pods, want %s", got, meshed, want)
	}
}
