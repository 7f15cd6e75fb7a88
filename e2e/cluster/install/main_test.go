package install

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/e2e/cluster/clustertest"
)

// suite is the cluster of all tests here; TestMain starts it before them.
var suite clustertest.Suite

func TestMain(m *testing.M) { os.Exit(suite.Main(m)) }

// local are the values for the images of this tree, which are in the cluster already.
var local = []string{"--set", "images.pullPolicy=Never"}

// printed is what a command of weir's prints.
func printed(t *testing.T, s *clustertest.Space, args ...string) string {
	t.Helper()
	out, err := s.Weir(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// kubectl runs kubectl with manifests as its input.
func kubectl(t *testing.T, s *clustertest.Space, manifests string, args ...string) string {
	t.Helper()
	cmd := s.Cluster.Command(s.Ctx, "kubectl", args...)
	cmd.Stdin = strings.NewReader(manifests)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %q: %v: %s", args, err, out)
	}
	return string(out)
}

// install installs Weir and returns when it is ready, and how long that took; it goes
// with the test.
func install(t *testing.T, s *clustertest.Space, args ...string) time.Duration {
	t.Helper()
	began := time.Now()
	kubectl(t, s, printed(t, s, append([]string{"install"}, args...)...), "apply", "-f", "-")
	t.Cleanup(func() { uninstall(t, s) })
	ready(s)
	return time.Since(began)
}

// ready waits until the whole control plane is.
func ready(s *clustertest.Space) {
	for _, w := range []string{"statefulset/weir-bus", "deployment/weir-controller", "deployment/weir-aggregator", "deployment/weir-api"} {
		s.Kubectl("-n", "weir", "rollout", "status", w, clustertest.Timeout)
	}
}

// uninstall removes what the test has installed and not removed itself.
func uninstall(t *testing.T, s *clustertest.Space) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	defer func(before context.Context) { s.Ctx = before }(s.Ctx)
	s.Ctx = ctx // the test's own has ended
	out, err := s.Weir("uninstall")
	if err != nil {
		t.Logf("nothing to uninstall: %v", err)
		return
	}
	kubectl(t, s, out, "delete", "--ignore-not-found", "-f", "-")
}

// left is what the cluster has of Weir.
func left(s *clustertest.Space) string {
	found := s.Kubectl("get", "clusterroles,clusterrolebindings,priorityclasses,mutatingwebhookconfigurations,namespaces", "-o", "name")
	var weirs []string
	for _, name := range strings.Fields(found) {
		if strings.Contains(name, "weir") {
			weirs = append(weirs, name)
		}
	}
	in := s.Kubectl("-n", "weir", "get", "all,secrets,configmaps,pvc,leases,networkpolicies,poddisruptionbudgets,roles,rolebindings,serviceaccounts", "-o", "name")
	return strings.Join(append(weirs, strings.Fields(in)...), "\n")
}

// TestInstall holds the way of an installation: it is ready soon and small, applying
// it again changes nothing, an upgrade keeps what must be kept, and uninstalling it
// leaves nothing.
func TestInstall(t *testing.T) {
	s := suite.Start(t)
	took := install(t, s, local...)
	t.Logf("ready %s after the installation", took.Round(100*time.Millisecond))

	again := kubectl(t, s, printed(t, s, append([]string{"install"}, local...)...), "apply", "-f", "-")
	for _, line := range strings.Split(strings.TrimSpace(again), "\n") {
		if !strings.HasSuffix(line, " unchanged") {
			t.Errorf("applied again: %s", line)
		}
	}
	if out, err := s.Weir("install", "--set", "clusterName=other"); err == nil || out != "" || !strings.Contains(err.Error(), "clusterName is local, and would be other") {
		t.Errorf("an installation with other values: %v, %d bytes", err, len(out))
	}
	s.Until("the control plane takes 150 MB at most", func() error { return resident(t, s, 150<<10) })

	keeps := func() string {
		return s.Kubectl("-n", "weir", "get", "secret/weir-identity-issuer", "pvc/data-weir-bus-0", "configmap/weir-trust-anchors", "-o", "jsonpath={range .items[*]}{.metadata.uid}{.data}{end}")
	}
	before := keeps()
	kubectl(t, s, printed(t, s, "upgrade", "--set", "verbose=true"), "apply", "-f", "-")
	ready(s)
	if after := keeps(); after != before {
		t.Errorf("an upgrade changed the issuer, the anchors or the volume:\n%s\n%s", before, after)
	}
	if args := s.Kubectl("-n", "weir", "get", "statefulset/weir-bus", "-o", "jsonpath={..args}"); !strings.Contains(args, "--verbose") {
		t.Errorf("an upgrade changed nothing: %s", args)
	}

	kubectl(t, s, printed(t, s, "uninstall"), "delete", "-f", "-")
	if l := left(s); l != "" {
		t.Errorf("uninstalled, there is still:\n%s", l)
	}
}

// resident logs how much memory each component takes, and errs where it is too much
// or a component is missing.
func resident(t *testing.T, s *clustertest.Space, mostKB uint64) error {
	taken, err := s.ControlPlane()
	if err != nil {
		return err
	}
	var sum uint64
	for _, n := range taken {
		sum += n.Resident >> 10
	}
	if sum > mostKB {
		return fmt.Errorf("%d kB are taken, want %d at most: %v bytes", sum, mostKB, taken)
	}
	t.Logf("the control plane takes %d kB: %v bytes", sum, taken)
	return nil
}

// TestHighAvailability holds that three servers are one bus, which goes on when one of
// them is deleted.
func TestHighAvailability(t *testing.T) {
	s := suite.Start(t)
	took := install(t, s, append([]string{"--ha"}, local...)...)
	t.Logf("ready %s after the installation", took.Round(100*time.Millisecond))
	s.Kubectl("-n", "weir", "delete", "pod", "weir-bus-1")
	if out := s.Kubectl("-n", "weir", "get", "endpointslices", "-l", "kubernetes.io/service-name=weir-bus", "-o", "jsonpath={range .items[*].endpoints[*]}{.conditions.ready} {end}"); strings.Count(out, "true") < 2 {
		t.Errorf("with one server gone, the others are not ready: %s", out)
	}
	ready(s)
}
