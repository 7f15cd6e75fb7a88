package cli

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/weirmesh/weir/deploy/authority"
)

const plainPod = `# a pod
apiVersion: v1
kind: Pod
metadata: {name: "web"}
spec:
  containers:
  - {name: web, image: web}
`

// runInject runs weir with args and an input, over a cluster that has the ConfigMaps.
func runInject(t *testing.T, in string, maps []*core.ConfigMap, args ...string) (out, said string, err error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	a := &app{
		Options: Options{Streams: Streams{In: strings.NewReader(in), Out: &stdout, ErrOut: &stderr}, Build: Build{Version: "v9"}},
		now:     time.Now,
		newCluster: func(f *kubeFlags) (*kubeCluster, error) {
			if maps == nil {
				return nil, errNoCluster
			}
			k := fake.NewClientset()
			for _, m := range maps {
				if _, err := k.CoreV1().ConfigMaps(m.Namespace).Create(t.Context(), m, meta.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			return &kubeCluster{Interface: k, context: "test", namespace: f.namespace}, nil
		},
	}
	root := newRoot(a)
	root.SetArgs(args)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err = root.ExecuteContext(ctx)
	return stdout.String(), stderr.String(), err
}

func configMap(name, key, value string) *core.ConfigMap {
	return &core.ConfigMap{ObjectMeta: meta.ObjectMeta{Name: name, Namespace: "weir"}, Data: map[string]string{key: value}}
}

// TestInjectAndUninject: from stdin, with the installation's settings, a flag on top;
// then back.
func TestInjectAndUninject(t *testing.T) {
	ca, err := authority.Generate("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	config := configMap(configMapConfig, configKeyValues, "clusterName: east\nproxy: {logLevel: warn}\n")
	config.Data[configKeyVersion] = "v8"
	maps := []*core.ConfigMap{
		config,
		configMap(configMapAnchors, configKeyAnchors, string(ca.Anchors)),
	}
	out, said, err := runInject(t, plainPod, maps, "inject", "--skip-outbound-ports", "3306", "-")
	if err != nil {
		t.Fatal(err)
	}
	if said != "pod \"web\" injected\n" {
		t.Errorf("it says %q", said)
	}
	for _, want := range []string{
		"# a pod\n", `{name: web, image: web}`, "value: east", "value: warn", "--skip-outbound-ports=3306",
		"weir-proxy:v8", `weir/cli v9`, "BEGIN CERTIFICATE", "tls://weir-bus.weir.svc.cluster.local:4222",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("there is no %q in\n%s", want, out)
		}
	}
	back, said, err := runInject(t, out, nil, "uninject", "-")
	if err != nil || back != plainPod || said != "pod \"web\" uninjected\n" {
		t.Errorf("uninject: %q, %q, %v", back, said, err)
	}
}

// TestInjectSources reads a folder, a file and a URL.
func TestInjectSources(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"a.yaml": plainPod, "b.json": `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"}}`, "c.txt": "{"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/huge" {
			for range manifestBytes/1024 + 1 {
				if _, err := w.Write(make([]byte, 1024)); err != nil {
					return
				}
			}
			return
		}
		if r.URL.Path != "/app.yml" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(plainPod)) // the client may be gone
	}))
	defer s.Close()
	out, said, err := runInject(t, "", nil, "inject", "--ignore-cluster", dir, s.URL+"/app.yml")
	if err != nil {
		t.Fatal(err)
	}
	if want := "pod \"web\" injected\nconfigmap \"c\" skipped: it has no pods\npod \"web\" injected\n"; said != want {
		t.Errorf("it says %q, want %q", said, want)
	}
	if strings.Count(out, "---\n") != 2 || strings.Contains(out, "weir-identity") {
		t.Errorf("not three documents without identity:\n%s", out)
	}
	f := func(want string, args ...string) {
		t.Helper()
		out, said, err := runInject(t, "a: [", nil, append([]string{"inject"}, args...)...)
		if err == nil || !strings.Contains(err.Error(), want) || out != "" || said != "" {
			t.Errorf("inject %q: %v, want %q; it prints %q and says %q", args, err, want, out, said)
		}
	}
	f("404 Not Found", "--ignore-cluster", s.URL+"/none")
	f("it is longer than 32 MiB", "--ignore-cluster", s.URL+"/huge")
	f("no such file or directory", "--ignore-cluster", filepath.Join(dir, "none"))
	f("the folder has no .yaml, .yml or .json file", "--ignore-cluster", t.TempDir())
	f("stdin: cannot read the document that begins in line 1", "--ignore-cluster", "-")
	f("there is no kubeconfig", "-")
	f("exclude each other", "--ignore-cluster", "--values", "x", "-")
	f("cannot read the values", "--values", filepath.Join(dir, "none"), "-")
	f("require-mtls needs the installation's trust anchors", "--ignore-cluster", "--require-mtls", "-")
	for _, args := range [][]string{{}, {"--ignore-cluster", "--drain-delay", "soon", "-"}, {"--skip-ports", "1", "-"}} {
		_, _, err := runInject(t, "", nil, append([]string{"inject"}, args...)...)
		var usage *UsageError
		if !errors.As(err, &usage) {
			t.Errorf("inject %q: %v is no error of usage", args, err)
		}
	}
	if _, _, err := runInject(t, plainPod, []*core.ConfigMap{}, "inject", "-"); err == nil || !strings.Contains(err.Error(), "weir install") {
		t.Errorf("without an installation: %v", err)
	}
}
