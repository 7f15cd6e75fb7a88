package mesh

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirmesh/weir/e2e/cluster/clustertest"
)

// suite is the cluster of all tests here; TestMain starts it before them.
var suite clustertest.Suite

func TestMain(m *testing.M) { os.Exit(suite.Main(m)) }

// installation is Weir's, once for all tests.
var installation struct {
	sync.Once
	took time.Duration
	err  error
}

// settings are those with which Weir is installed: the images of this tree.
func settings() []string {
	return []string{"--set", "images.tag=e2e", "--set", "images.pullPolicy=Never", "--set", "proxy.pullPolicy=Never"}
}

// components are Weir's workloads.
func components() []string {
	return []string{"statefulset/weir-bus", "deployment/weir-controller", "deployment/weir-aggregator", "deployment/weir-api"}
}

// start is a namespace in a cluster in which Weir is installed.
func start(t *testing.T) *clustertest.Space {
	t.Helper()
	s := suite.Start(t)
	installation.Do(func() { installation.took, installation.err = install(s) })
	if installation.err != nil {
		t.Fatal(installation.err)
	}
	return s
}

func install(s *clustertest.Space) (time.Duration, error) {
	began := time.Now()
	manifests, err := s.Weir(append([]string{"install"}, settings()...)...)
	if err != nil {
		return 0, err
	}
	if err := s.Cluster.Apply(s.Ctx, manifests); err != nil {
		return 0, err
	}
	for _, c := range components() {
		if _, err := s.Cluster.Kubectl(s.Ctx, "-n", "weir", "rollout", "status", c, clustertest.Timeout); err != nil {
			pods, _ := s.Cluster.Kubectl(s.Ctx, "-n", "weir", "get", "pods,events", "-o", "wide")
			return 0, fmt.Errorf("%w\n%s", err, pods)
		}
	}
	return time.Since(began), nil
}

// inject runs weir inject on manifests, with the cluster's settings, and applies them.
func inject(t *testing.T, s *clustertest.Space, manifests string, flags ...string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "app.yaml")
	if err := os.WriteFile(file, []byte(manifests), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := s.Weir(append(append([]string{"inject"}, flags...), file)...)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "weir-proxy") {
		t.Fatalf("it is not injected:\n%s", out)
	}
	s.Apply(out)
}

// emojivoto is the sample application's manifests, for the test's namespace, with so
// many votes a second.
func emojivoto(t *testing.T, s *clustertest.Space, rate int) string {
	t.Helper()
	text, err := os.ReadFile("../../../demo/emojivoto.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, objects, found := strings.Cut(string(text), "  name: emojivoto\n---\n")
	if !found {
		t.Fatal("the manifests do not begin with their namespace")
	}
	for from, to := range map[string]string{
		"namespace: emojivoto\n":    "namespace: " + s.Name + "\n",
		"weirmesh/emojivoto:dev":    "weirmesh/emojivoto:e2e",
		"args: [vote-bot]":          fmt.Sprintf("args: [vote-bot, --rate, %q]", fmt.Sprint(rate)),
		"        readinessProbe:\n": "        imagePullPolicy: Never\n        readinessProbe:\n",
	} {
		if !strings.Contains(objects, from) {
			t.Fatalf("the manifests have no %q", from)
		}
		objects = strings.ReplaceAll(objects, from, to)
	}
	return objects
}

// vote has the sample application run, meshed, with so many votes a second. The bot
// comes last: what it asks before somebody answers would fail without a mesh, too.
func vote(t *testing.T, s *clustertest.Space, rate int) {
	t.Helper()
	var servers, bot []string
	for _, object := range strings.Split(emojivoto(t, s, rate), "\n---\n") {
		if strings.Contains(object, "\nkind: Deployment\n") && strings.Contains(object, "\n  name: vote-bot\n") {
			bot = append(bot, object)
		} else {
			servers = append(servers, object)
		}
	}
	if len(bot) != 1 {
		t.Fatalf("the manifests have %d deployments of a bot", len(bot))
	}
	inject(t, s, strings.Join(servers, "\n---\n"))
	s.Rollout("emoji", "voting", "web")
	inject(t, s, bot[0])
	s.Rollout("vote-bot")
}

// application are the sample application's deployments.
func application() []string { return []string{"emoji", "voting", "web", "vote-bot"} }

// row is what the tests read of a row of `weir stat`.
type row struct {
	Kind, Name, Direction, Meshed string
	Requests, Successes           uint64
	Status                        map[string]uint64
	Shed                          uint64
	LostBatches                   uint64 `json:"lost_batches"`
}

// stat asks `weir stat`, which finds the API by itself.
func stat(s *clustertest.Space, args ...string) ([]row, error) {
	out, err := s.Weir(append([]string{"stat", "-n", s.Name, "-t", "30m", "-o", "json"}, args...)...)
	if err != nil {
		return nil, err
	}
	var rows []row
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return rows, nil
}

// whole errs where rows lack anything that happened.
func whole(rows []row) error {
	for _, r := range rows {
		if r.LostBatches > 0 {
			return fmt.Errorf("events are missing: %+v", r)
		}
	}
	return nil
}
