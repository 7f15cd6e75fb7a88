package inject

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirmesh/weir/e2e/cluster/clustertest"
)

// suite is the cluster of all tests here; TestMain starts it before them.
var suite clustertest.Suite

func TestMain(m *testing.M) { os.Exit(suite.Main(m)) }

// injected runs weir inject on manifests, with the images of this tree.
func injected(t *testing.T, s *clustertest.Space, manifests string, flags ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "app.yaml")
	if err := os.WriteFile(file, []byte(manifests), 0o600); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"inject", "--ignore-cluster", "--proxy-image", clustertest.ImageProxy, "--image-pull-policy", "Never"}, flags...)
	out, err := s.Weir(append(args, file)...)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "weir-proxy") {
		t.Fatalf("it is not injected:\n%s", out)
	}
	return out
}
