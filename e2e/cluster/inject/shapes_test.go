package inject

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const shapes = "../../../deploy/inject/testdata/shapes"

// refused are shapes that no API server takes, injected or not: kinds that it does not
// have, and documents that are no objects.
var refused = map[string]bool{"unknown-documents": true}

// TestShapes: the API server takes every shape once it is injected, with all that
// admission does but keep it.
func TestShapes(t *testing.T) {
	s := suite.Start(t)
	// Those that shapes name.
	for name, labels := range map[string]string{"locked": "pod-security.kubernetes.io/enforce=restricted", "shop": "a=b"} {
		s.Kubectl("create", "namespace", name)
		t.Cleanup(func() {
			if _, err := s.Cluster.Kubectl(t.Context(), "delete", "namespace", name, "--wait=false"); err != nil && t.Context().Err() == nil {
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
	dir := t.TempDir()
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
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), []byte(out), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := s.Try("create", "--dry-run=server", "-o", "name", "-f", dir)
	if err != nil {
		t.Errorf("the API server refuses: %v", err)
	}
	// Each has one object at least.
	if n := strings.Count(out, "\n"); n < len(files)-len(refused) {
		t.Errorf("the API server takes %d objects of %d shapes:\n%s", n, len(files), out)
	}
	if plain == 0 {
		t.Error("no shape has a plain container")
	}
}
