package inject

import (
	"strings"
	"testing"

	"github.com/weirmesh/weir/e2e/cluster/clustertest"
)

// TestWebhook: once Weir is installed, pods are injected as they are made where a
// label of their namespace asks for it, and nowhere else; who cannot be is told why,
// and a wrong annotation is refused.
func TestWebhook(t *testing.T) {
	s := suite.Start(t)
	manifests, err := s.Weir("install", "--set", "images.tag=e2e", "--set", "images.pullPolicy=Never", "--set", "proxy.pullPolicy=Never")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Cluster.Apply(s.Ctx, manifests); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Cluster.Kubectl(s.Ctx, "-n", "weir", "rollout", "status", "deployment/weir-controller", clustertest.Timeout); err != nil {
		t.Fatal(err)
	}
	names := func() string {
		return s.Kubectl("get", "pods", "-l", "app=server", "--field-selector=status.phase=Running", "-o", "jsonpath={.items[*].spec.initContainers[*].name}")
	}
	s.Apply(server)
	s.Rollout("server")
	if got := names(); strings.Contains(got, "weir-proxy") {
		t.Errorf("without a label the pod is injected: %s", got)
	}
	s.Kubectl("label", "namespace", s.Name, "weir.dev/inject=enabled")
	s.Kubectl("delete", "deployment", "server", "--cascade=foreground", clustertest.Timeout)
	s.Apply(server)
	s.Rollout("server")
	if got := names(); !strings.HasPrefix(got, "weir-init weir-proxy before") {
		t.Errorf("with a label the pod's init containers are %q", got)
	}
	workload := s.Kubectl("get", "pods", "-l", "app=server", "-o", `jsonpath={.items[0].spec.initContainers[1].env[?(@.name=="WEIR_PROXY_WORKLOAD")].value}`)
	if strings.TrimSpace(workload) != "$(WEIR_NAMESPACE)/deploy/server" {
		t.Errorf("its workload is %q", workload)
	}
	image := `"image":"` + clustertest.ImageTestapp + `"`
	_, err = s.Try("run", "wrong", "--image="+clustertest.ImageTestapp, "--annotations=weir.dev/skip-inbound-port=1")
	if err == nil || !strings.Contains(err.Error(), "did you mean weir.dev/skip-inbound-ports") {
		t.Errorf("a wrong annotation: %v", err)
	}
	if _, err := s.Try("run", "node", "--image="+clustertest.ImageTestapp, `--overrides={"spec":{"hostNetwork":true,"containers":[{"name":"node",`+image+`}]}}`); err != nil {
		t.Errorf("a pod that cannot be injected is refused: %v", err)
	}
	if got := s.Kubectl("get", "pod", "node", "-o", "jsonpath={.spec.initContainers}"); got != "" {
		t.Errorf("a pod on the node's network is injected: %s", got)
	}
}
