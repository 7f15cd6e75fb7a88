package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/deploy/authority"
)

// installer runs `weir install` and the like against a cluster.
type installer struct {
	t       *testing.T
	cluster *kubeCluster
}

func (i *installer) run(args ...string) (out string, err error) {
	i.t.Helper()
	var stdout, stderr bytes.Buffer
	a := &app{
		Options:    Options{Streams: Streams{In: strings.NewReader("clusterName: west\n"), Out: &stdout, ErrOut: &stderr}, Build: Build{Version: "v1.2.3"}},
		newCluster: func(*kubeFlags) (*kubeCluster, error) { return i.cluster, nil },
	}
	root := newRoot(a)
	root.SetArgs(args)
	err = root.ExecuteContext(i.t.Context())
	return stdout.String(), err
}

// apply makes of manifests what the tests' cluster needs to have of them.
func (i *installer) apply(manifests string) {
	i.t.Helper()
	ctx := i.t.Context()
	for _, text := range strings.Split(manifests, "\n---\n") {
		var c core.ConfigMap
		var s core.Secret
		if yaml.Unmarshal([]byte(text), &c) == nil && c.Kind == "ConfigMap" {
			_ = i.cluster.CoreV1().ConfigMaps("weir").Delete(ctx, c.Name, meta.DeleteOptions{}) // it may not be there
			if _, err := i.cluster.CoreV1().ConfigMaps("weir").Create(ctx, &c, meta.CreateOptions{}); err != nil {
				i.t.Fatal(err)
			}
		}
		if yaml.Unmarshal([]byte(text), &s) == nil && s.Kind == "Secret" {
			_ = i.cluster.CoreV1().Secrets("weir").Delete(ctx, s.Name, meta.DeleteOptions{}) // it may not be there
			if _, err := i.cluster.CoreV1().Secrets("weir").Create(ctx, &s, meta.CreateOptions{}); err != nil {
				i.t.Fatal(err)
			}
		}
	}
}

// TestInstallTwice holds that a second installation is the first again, that one
// with other values is refused, and that an upgrade keeps all but what is said.
func TestInstallTwice(t *testing.T) {
	i := &installer{t, &kubeCluster{Interface: fake.NewClientset(), namespace: weirNamespace}}
	first, err := i.run("install", "--set", "clusterName=east")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(first, "--cluster=east") || strings.Index(first, "kind: Namespace") > strings.Index(first, "kind: Secret") {
		t.Error("the first installation is not as it should be")
	}
	i.apply(first)
	again, err := i.run("install", "--set", "clusterName=east")
	if err != nil || again != first {
		t.Errorf("the second time it differs (%d bytes, before %d): %v", len(again), len(first), err)
	}
	if out, err := i.run("install"); err == nil || out != "" || !strings.Contains(err.Error(), "clusterName is east, and would be local") {
		t.Errorf("with other values: %q, %v", out, err)
	}
	upgraded, err := i.run("upgrade", "--set", "proxy.logLevel=debug")
	if err != nil {
		t.Fatal(err)
	}
	if line := "tls.key: "; between(first, line) == "" || between(upgraded, line) != between(first, line) {
		t.Error("an upgrade does not keep the issuer")
	}
	if !strings.Contains(upgraded, "--cluster=east") || !strings.Contains(upgraded, "logLevel: debug") {
		t.Error("an upgrade forgot a value")
	}
	i.apply(upgraded)
	if reset, err := i.run("upgrade", "--reset-values"); err != nil || strings.Contains(reset, "--cluster=east") || strings.Contains(reset, "logLevel: debug") {
		t.Errorf("--reset-values keeps some: %v", err)
	}
	for _, f := range []struct{ args, want string }{
		{"upgrade --ha", "highAvailability: the bus cannot take its history along"},
		{"upgrade --set bus.storage.size=1Ti", "bus.storage: Kubernetes does not let"},
		{"upgrade --set bus.sise=1", "bus.sise: there is no such value"},
	} {
		if _, err := i.run(strings.Fields(f.args)...); err == nil || !strings.Contains(err.Error(), f.want) {
			t.Errorf("%s: %v, want %q", f.args, err, f.want)
		}
	}
	if out, err := i.run("upgrade", "--ha", "--lose-history"); err != nil || !strings.Contains(out, "replicas: 3") {
		t.Errorf("--lose-history: %v", err)
	}
}

func between(text, prefix string) string {
	_, rest, _ := strings.Cut(text, prefix)
	line, _, _ := strings.Cut(rest, "\n")
	return line
}

func TestInstallFlags(t *testing.T) {
	i := &installer{t, &kubeCluster{Interface: fake.NewClientset(), namespace: weirNamespace}}
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	g, err := authority.Generate("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	other, err := authority.Generate("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	bring := func(anchors []byte) []string {
		return []string{"install", "--identity-trust-anchors-file", file("ca", anchors),
			"--identity-issuer-certificate-file", file("crt", g.Certificate), "--identity-issuer-key-file", file("key", g.Key)}
	}
	if out, err := i.run(bring(g.Anchors)...); err != nil || !strings.Contains(out, strings.TrimSpace(strings.Split(string(g.Anchors), "\n")[1])) {
		t.Errorf("an authority that was brought: %v", err)
	}
	for _, f := range []struct {
		args []string
		want string
	}{
		{bring(other.Anchors), "does not lead to a trust anchor"},
		{[]string{"install", "--identity-issuer-key-file", "x"}, "belong together"},
		{[]string{"install", "--set", "nonsense"}, "want KEY=VALUE"},
		{[]string{"install", "--set", "controller.replicas=-1"}, "controller.replicas: -1 is not between 0 and 16"},
		{[]string{"install", "-f", filepath.Join(dir, "none")}, "cannot read the values"},
		{[]string{"install", "-f", file("bad.yaml", []byte("a: [")), "--ignore-cluster"}, "cannot read the values"},
		{[]string{"upgrade"}, "weir is not installed in the namespace weir: weir install does that"},
	} {
		if out, err := i.run(f.args...); err == nil || out != "" || !strings.Contains(err.Error(), f.want) {
			t.Errorf("%v: %v, want %q", f.args, err, f.want)
		}
	}
	out, err := i.run("install", "-f", "-", "--ha", "--dry-run")
	if err != nil || !strings.Contains(out, "statefulset/weir-bus -n weir\n") || strings.Contains(out, "kind:") {
		t.Errorf("--dry-run: %q, %v", out, err)
	}
}
