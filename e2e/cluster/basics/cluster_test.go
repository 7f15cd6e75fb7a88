package basics

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/e2e/cluster/clustertest"
)

const plainServer = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: server, labels: {app: server}}
spec:
  replicas: 2
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec:
      containers:
      - name: server
        image: ` + clustertest.ImageTestapp + `
        imagePullPolicy: Never
        args: [serve, "0.0.0.0:8080"]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  selector: {app: server}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  containers:
  - name: client
    image: ` + clustertest.ImageTestapp + `
    imagePullPolicy: Never
    args: [serve, "0.0.0.0:8080"]
`

func TestVersions(t *testing.T) {
	s := suite.Start(t)
	out := s.Kubectl("version")
	if strings.Count(out, "v1.36.3") != 2 || strings.Contains(out, "WARNING") {
		t.Errorf("client and server are not both v1.36.3:\n%s", out)
	}
	if out := s.Kubectl("get", "node", "node1", "-o", "wide"); !strings.Contains(out, " Ready ") || !strings.Contains(out, "containerd://1.") {
		t.Errorf("the node is not ready, or not on containerd 1:\n%s", out)
	}
}

// TestPods holds what every other test needs: an image imported, replicas, their
// Service by name and address, and kubectl's ways into a pod.
func TestPods(t *testing.T) {
	s := suite.Start(t)
	s.Apply(plainServer)
	s.Rollout("server")
	s.Kubectl("wait", "--for=condition=Ready", "pod/client", clustertest.Timeout)

	servers := map[string]bool{}
	for _, p := range pods(t, s, "server").Items {
		servers[p.Metadata.Name] = true
	}
	if len(servers) != 2 {
		t.Errorf("servers %v, want two", servers)
	}
	address := strings.TrimSpace(s.Kubectl("get", "service", "server", "-o", "jsonpath={.spec.clusterIP}"))
	if got := strings.TrimSpace(s.Kubectl("exec", "client", "--", "/testapp", "lookup", "server")); got != address {
		t.Errorf("a pod resolves server to %q, want %q", got, address)
	}
	for _, url := range []string{"http://server", "http://server." + s.Name + ".svc.cluster.local", "http://" + address} {
		out := s.Kubectl("exec", "client", "--", "/testapp", "get", url, "5")
		name := strings.TrimPrefix(strings.TrimSpace(out), "5 200 OK ")
		if !servers[name] {
			t.Errorf("%s from a pod: %q, want five answers of one of %v", url, out, servers)
		}
	}
	// The host's own way in, which tests use.
	if name, err := get(s, "http://"+address); err != nil || !servers[name] {
		t.Errorf("the Service from the node: %q, %v", name, err)
	}
	if name, err := get(s, "http://"+s.Forward("deployment/server", 8080)); err != nil || !servers[name] {
		t.Errorf("port-forward: %q, %v", name, err)
	}
	if out := s.Kubectl("logs", "client"); !strings.Contains(out, "serving 0.0.0.0:8080") {
		t.Errorf("logs: %q", out)
	}
}

// TestHostIsReachable holds that pods reach what a test listens on, and nothing
// beyond the cluster.
func TestHostIsReachable(t *testing.T) {
	s := suite.Start(t)
	s.Apply(strings.Split(plainServer, "---")[2])
	s.Kubectl("wait", "--for=condition=Ready", "pod/client", clustertest.Timeout)
	l, err := s.Cluster.Listen(s.Ctx, "tcp", fmt.Sprintf("%s:0", s.Cluster.Config().Address.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, "a test")
	})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(l) // until it is closed
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
	if out := s.Kubectl("exec", "client", "--", "/testapp", "get", "http://"+l.Addr().String()); strings.TrimSpace(out) != "1 200 OK a test" {
		t.Errorf("a pod got %q from the test", out)
	}
	if out, err := s.Try("exec", "client", "--", "/testapp", "get", "http://192.0.2.1"); err == nil || !strings.Contains(err.Error(), "unreachable") {
		t.Errorf("a pod reached the world: %q, %v", out, err)
	}
	// And the cluster's address is none of the host's.
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range own {
		if strings.HasPrefix(a.String(), s.Cluster.Config().Address.Addr().String()+"/") {
			t.Errorf("the node's address %s is in the host's network", a)
		}
	}
}
