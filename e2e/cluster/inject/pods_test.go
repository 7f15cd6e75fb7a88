package inject

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/e2e/cluster/clustertest"
)

const server = `
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  selector: {app: server}
  ports: [{port: 80, targetPort: http}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: server}
spec:
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec:
      initContainers:
      - {name: before, image: "` + clustertest.ImageTestapp + `", imagePullPolicy: Never, args: [lookup, localhost]}
      containers:
      - name: server
        image: ` + clustertest.ImageTestapp + `
        imagePullPolicy: Never
        args: [serve, "0.0.0.0:8080"]
        ports: [{name: http, containerPort: 8080}]
        startupProbe: {httpGet: {path: /, port: http}, periodSeconds: 1, failureThreshold: 60}
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
        livenessProbe: {tcpSocket: {port: http}, periodSeconds: 1}
`

// client is a Job that makes requests.
func client(name string, requests int) string {
	return fmt.Sprintf(`
apiVersion: batch/v1
kind: Job
metadata: {name: %s}
spec:
  backoffLimit: 0
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      restartPolicy: Never
      containers:
      - {name: client, image: "%s", imagePullPolicy: Never, args: [get, "http://server", "%d"]}
`, name, clustertest.ImageTestapp, requests)
}

// TestPodsWork: injected pods pass their probes, serve, and are called; a Job with a
// sidecar completes; and after uninject all is as before.
func TestPodsWork(t *testing.T) {
	s := suite.Start(t)
	s.Apply(injected(t, s, server))
	s.Rollout("server")
	s.Apply(injected(t, s, client("client", 20)))
	s.Kubectl("wait", "--for=condition=Complete", "job/client", clustertest.Timeout)
	if out := s.Kubectl("logs", "job/client", "-c", "client"); !strings.HasPrefix(out, "20 200 OK server-") {
		t.Errorf("the client's answers: %q", out)
	}
	// The server's pod has seen its client through its own proxy: as itself.
	pod := strings.TrimSpace(s.Kubectl("get", "pods", "-l", "app=server", "-o", "jsonpath={.items[0].metadata.name}"))
	metrics := s.Kubectl("exec", "-c", "server", pod, "--", "/testapp", "get", "http://127.0.0.1:4191/metrics")
	if !strings.Contains(metrics, `weir_proxy_connections_total{direction="inbound"}`) {
		t.Errorf("the proxy's metrics: %s", metrics)
	}
	if restarts := s.Kubectl("get", "pod", pod, "-o", "jsonpath={.status.initContainerStatuses[*].restartCount} {.status.containerStatuses[*].restartCount}"); strings.Trim(restarts, "0 \n") != "" {
		t.Errorf("containers were restarted: %s", restarts)
	}

	// As kubectl prints it, and taken out again.
	file := t.TempDir() + "/deploy.yaml"
	if err := os.WriteFile(file, []byte(s.Kubectl("get", "deploy", "server", "-o", "yaml")), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := s.Weir("uninject", file)
	if err != nil {
		t.Fatal(err)
	}
	s.Apply(out)
	s.Rollout("server")
	if names := s.Kubectl("get", "deploy", "server", "-o", "jsonpath={.spec.template.spec.initContainers[*].name} {.spec.template.spec.containers[*].name}"); strings.TrimSpace(names) != "before server" {
		t.Errorf("after uninject the containers are %q", names)
	}
}

// TestPlainContainer: without native sidecars, a server starts, serves, and ends.
func TestPlainContainer(t *testing.T) {
	s := suite.Start(t)
	s.Apply(injected(t, s, server, "--native-sidecar=false"))
	s.Rollout("server")
	s.Apply(injected(t, s, client("client", 5)))
	s.Kubectl("wait", "--for=condition=Complete", "job/client", clustertest.Timeout)
	s.Kubectl("delete", "deploy", "server", clustertest.Timeout)
}

const pod = `
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %[1]s}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: app, image: "` + clustertest.ImageTestapp + `", imagePullPolicy: Never, args: [serve, "0.0.0.0:8080"]}
`

// TestPodStartOverhead logs how much longer a pod takes to be ready when it is
// injected. It judges nothing: machines differ.
func TestPodStartOverhead(t *testing.T) {
	s := suite.Start(t)
	var plain, meshed []time.Duration
	for i := range 5 {
		name := fmt.Sprintf("plain-%d", i)
		plain = append(plain, ready(s, name, fmt.Sprintf(pod, name)))
		name = fmt.Sprintf("meshed-%d", i)
		meshed = append(meshed, ready(s, name, injected(t, s, fmt.Sprintf(pod, name))))
	}
	slices.Sort(plain)
	slices.Sort(meshed)
	t.Logf("ready after: plain %v, injected %v; medians differ by %s", plain, meshed, meshed[len(meshed)/2]-plain[len(plain)/2])
}

// ready applies a pod and tells how long it takes to be ready.
func ready(s *clustertest.Space, name, manifest string) time.Duration {
	s.Apply(manifest)
	began := time.Now()
	s.Until(name+" is ready", func() error {
		var p struct {
			Status struct {
				Conditions []struct{ Type, Status string }
			}
		}
		if err := s.Cluster.Get(s.Ctx, "/api/v1/namespaces/"+s.Name+"/pods/"+name, &p); err != nil {
			return err
		}
		for _, c := range p.Status.Conditions {
			if c.Type == "Ready" && c.Status == "True" {
				return nil
			}
		}
		return fmt.Errorf("it is not")
	})
	return time.Since(began).Round(10 * time.Millisecond)
}
