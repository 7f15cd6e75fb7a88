package inject

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const shapes = "../../../deploy/inject/testdata/shapes"

// refused are shapes that kubectl does not read, injected or not: kinds that the API
// server does not have, documents that are no objects, directives.
var refused = map[string]bool{"unknown-documents": true, "directive": true}

// TestShapes: the API server takes every shape once it is injected, with all that
// admission does but keep it.
func TestShapes(t *testing.T) {
	s := suite.Start(t)
	// Those that shapes name.
	for name, labels := range map[string]string{"locked": "pod-security.kubernetes.io/enforce=restricted", "shop": "a=b"} {
		s.Kubectl("create", "namespace", name)
		t.Cleanup(func() {
			if _, err := s.Cluster.Kubectl(context.WithoutCancel(t.Context()), "delete", "namespace", name, "--wait=false"); err != nil {
				t.Error(err)
			}
		})
		s.Kubectl("label", "namespace", name, labels)
	}
	values := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(values, []byte("proxy: {spool: 16Mi}\nissuer:\n  key: k\n  certificate: c\n  trustAnchors: |\n    -----BEGIN CERTIFICATE-----\n    AAAA\n    -----END CERTIFICATE-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(shapes + "/*")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 40 {
		t.Fatalf("there are %d shapes, want at least 40", len(files))
	}
	// Namespaces that there are are applied, pods that Kubernetes is to name created.
	verbs := map[string]string{"apply": t.TempDir(), "create": t.TempDir()}
	plain := 0
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
		if refused[name] {
			continue
		}
		args := []string{"inject", "--values", values}
		if strings.HasSuffix(name, "-plain") {
			args = append(args, "--native-sidecar=false")
			plain++
		}
		if strings.HasSuffix(name, "-opaque") {
			args = append(args, "--opaque-ports=5432")
		}
		out, err := s.Weir(append(args, file)...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		dir := verbs["create"]
		if strings.HasPrefix(name, "namespace") {
			dir = verbs["apply"]
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), []byte(out), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	taken := 0
	for verb, dir := range verbs {
		// Without a namespace: shapes name theirs.
		out, err := s.Cluster.Kubectl(s.Ctx, verb, "--dry-run=server", "-o", "name", "-f", dir)
		if err != nil {
			t.Errorf("the API server refuses: %v", err)
		}
		taken += strings.Count(out, "\n")
	}
	// Each has one object at least.
	if want := len(files) - len(refused); taken < want {
		t.Errorf("the API server takes %d objects, want at least %d", taken, want)
	}
	t.Logf("%d shapes, %d objects taken", len(files)-len(refused), taken)
	if plain == 0 {
		t.Error("no shape has a plain container")
	}
}
