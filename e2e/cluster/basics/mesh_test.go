package basics

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/e2e/cluster/clustertest"
)

// hardened is the security context of all containers but the init's, for one user.
// Of the image's user and group the kubelet takes the user alone: the group is said
// here, or it is root's.
func hardened(user int) string {
	return fmt.Sprintf(`{runAsNonRoot: true, runAsUser: %[1]d, runAsGroup: %[1]d, `, user) + confined
}

const confined = `allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}`

// The users of Weir's images.
const (
	proxyUser = 1337
	appUser   = 65532
)

// control is the smallest control plane: a bus, an aggregator and the API.
func control() string {
	return `
apiVersion: v1
kind: Pod
metadata: {name: control, labels: {app: control}}
spec:
  securityContext: {seccompProfile: {type: RuntimeDefault}, fsGroup: 65532}
  containers:
  - name: bus
    image: ` + clustertest.ImageWeir + `
    imagePullPolicy: Never
    args: [bus, --listen, "0.0.0.0:4222", --insecure, --data, /data, --admin, "0.0.0.0:9001"]
    readinessProbe: {httpGet: {path: /ready, port: 9001}, periodSeconds: 1}
    volumeMounts: [{name: data, mountPath: /data}]
    securityContext: ` + hardened(appUser) + `
  - name: aggregator
    image: ` + clustertest.ImageWeir + `
    imagePullPolicy: Never
    args: [aggregator, --bus, "nats://127.0.0.1:4222", --id, aggregator-0, --admin, "0.0.0.0:9002"]
    readinessProbe: {httpGet: {path: /ready, port: 9002}, periodSeconds: 1}
    securityContext: ` + hardened(appUser) + `
  - name: api
    image: ` + clustertest.ImageWeir + `
    imagePullPolicy: Never
    args: [api, --bus, "nats://127.0.0.1:4222", --grpc-addr, "0.0.0.0:8085", --http-addr, "0.0.0.0:8086"]
    readinessProbe: {httpGet: {path: /ready, port: 8086}, periodSeconds: 1}
    securityContext: ` + hardened(appUser) + `
  volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: bus}
spec:
  selector: {app: control}
  ports: [{port: 4222}]
`
}

// sidecar is what injection is to add: the init container and a native sidecar.
func sidecar(namespace, workload string) string {
	return `
      securityContext: {seccompProfile: {type: RuntimeDefault}}
      initContainers:
      - name: weir-init
        image: ` + clustertest.ImageProxy + `
        imagePullPolicy: Never
        args: [init]
        securityContext: {runAsUser: 0, runAsNonRoot: false, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL], add: [NET_ADMIN]}}
      - name: weir-proxy
        image: ` + clustertest.ImageProxy + `
        imagePullPolicy: Never
        restartPolicy: Always
        args:
        - --transparent
        - --workload=` + namespace + `/` + workload + `
        - --pod=$(POD)
        - --bus=nats://bus.` + namespace + `.svc.cluster.local:4222
        - --admin=0.0.0.0:4191
        env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
        startupProbe: {httpGet: {path: /ready, port: 4191}, periodSeconds: 1, failureThreshold: 60}
        securityContext: ` + hardened(proxyUser)
}

// meshedServer answers on port 8080. Its probe does not go through the proxy, so
// that what is counted are the test's own requests.
func meshedServer(namespace string) string {
	return `
apiVersion: apps/v1
kind: Deployment
metadata: {name: server}
spec:
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec:` + sidecar(namespace, "deploy/server") + `
      containers:
      - name: server
        image: ` + clustertest.ImageTestapp + `
        imagePullPolicy: Never
        args: [serve, "0.0.0.0:8080"]
        readinessProbe: {exec: {command: [/testapp, get, "http://127.0.0.1:8080"]}, periodSeconds: 1}
        securityContext: ` + hardened(appUser) + `
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  selector: {app: server}
  ports: [{port: 80, targetPort: 8080}]
`
}

func meshedJob(namespace string, requests int) string {
	return `
apiVersion: batch/v1
kind: Job
metadata: {name: client}
spec:
  backoffLimit: 0
  template:
    metadata: {labels: {app: client}}
    spec:` + sidecar(namespace, "job/client") + `
      restartPolicy: Never
      containers:
      - name: client
        image: ` + clustertest.ImageTestapp + `
        imagePullPolicy: Never
        args: [get, "http://server", "` + strconv.Itoa(requests) + `"]
        securityContext: ` + hardened(appUser) + `
`
}

// TestProxiesCarryPodsTraffic runs a Job with a sidecar against a server with one, and
// asks Weir what it saw: the images, interception, telemetry from within pods, and
// a sidecar that ends with its Job.
func TestProxiesCarryPodsTraffic(t *testing.T) {
	const requests = 70
	s := suite.Start(t)
	s.Apply(control())
	s.Apply(meshedServer(s.Name))
	s.Kubectl("wait", "--for=condition=Ready", "pod/control", clustertest.Timeout)
	s.Rollout("server")
	checkConfinement(t, s)

	s.Apply(meshedJob(s.Name, requests))
	s.Kubectl("wait", "--for=condition=Complete", "job/client", clustertest.Timeout)
	if out := s.Kubectl("logs", "job/client", "-c", "client"); !strings.HasPrefix(out, fmt.Sprintf("%d 200 OK server-", requests)) {
		t.Errorf("the client's answers: %q", out)
	}

	api := s.Forward("pod/control", 8085)
	for workload, direction := range map[string]string{"deploy/server": "inbound", "job/client": "outbound"} {
		s.Until(workload+" is counted", func() error {
			out, err := s.Weir("--api-addr", api, "stat", workload, "-n", s.Name, "-t", "10m", "-o", "json")
			if err != nil {
				return err
			}
			var rows []struct {
				Direction           string
				Requests, Successes int
				Shed                int
				LostBatches         int `json:"lost_batches"`
			}
			if err := json.Unmarshal([]byte(out), &rows); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			if len(rows) != 1 || rows[0].Direction != direction || rows[0].Requests != requests || rows[0].Successes != requests {
				return fmt.Errorf("weir stat says %+v, want %d requests %s", rows, requests, direction)
			}
			if rows[0].Shed+rows[0].LostBatches > 0 {
				return fmt.Errorf("events are missing: %+v", rows)
			}
			return nil
		})
	}
	table, err := s.Weir("--api-addr", api, "stat", "deploy/server", "-n", s.Name, "-t", "10m")
	t.Logf("weir stat: %v\n%s", err, table)
}

// checkConfinement looks at the server's sidecar from outside: its user, what it may
// do, its root, and how much memory it takes.
func checkConfinement(t *testing.T, s *clustertest.Space) {
	t.Helper()
	uid := pods(t, s, "server").Items[0].Metadata.UID
	pid := processOf(t, uid, "weir-proxy")
	status := readStatus(t, pid)
	for field, want := range map[string]string{
		"Uid": "1337\t1337\t1337\t1337", "Gid": "1337\t1337\t1337\t1337",
		"CapEff": "0000000000000000", "CapPrm": "0000000000000000", "CapBnd": "0000000000000000",
		"NoNewPrivs": "1", "Seccomp": "2",
	} {
		if status[field] != want {
			t.Errorf("the sidecar's %s is %q, want %q", field, status[field], want)
		}
	}
	mounts, err := os.ReadFile(filepath.Join("/proc", pid, "mountinfo"))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(strings.Split(string(mounts), "\n"), func(line string) bool {
		fields := strings.Fields(line)
		return len(fields) > 5 && fields[4] == "/" && strings.HasPrefix(fields[5], "ro,")
	}) {
		t.Errorf("the sidecar's root is not read-only:\n%s", mounts)
	}
	t.Logf("the sidecar's resident memory: %s (of it of its own: %s)", status["VmRSS"], status["RssAnon"])
}

// processOf finds a process of a pod by its program's name.
func processOf(t *testing.T, podUID, name string) string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), podUID) {
			continue // it ended, or is another's
		}
		pid := filepath.Base(filepath.Dir(path))
		if comm, err := os.ReadFile(filepath.Join("/proc", pid, "comm")); err == nil && strings.TrimSpace(string(comm)) == name {
			return pid
		}
	}
	t.Fatalf("no process %s in the pod %s", name, podUID)
	return ""
}

func readStatus(t *testing.T, pid string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.TrimSpace(value)
	}
	return fields
}

// TestPodStartOverhead logs how much longer a pod takes to be ready with a sidecar.
// It judges nothing: machines differ.
func TestPodStartOverhead(t *testing.T) {
	s := suite.Start(t)
	s.Apply(control())
	s.Kubectl("wait", "--for=condition=Ready", "pod/control", clustertest.Timeout)
	bare := func(name, spec string) string {
		return `
apiVersion: v1
kind: Pod
metadata: {name: ` + name + `, labels: {app: ` + name + `}}
spec:` + strings.ReplaceAll(spec, "\n      ", "\n  ") + `
  containers:
  - name: app
    image: ` + clustertest.ImageTestapp + `
    imagePullPolicy: Never
    args: [serve, "0.0.0.0:8080"]
`
	}
	var plain, meshed []time.Duration
	for i := range 3 {
		for _, c := range []struct {
			name, spec string
			into       *[]time.Duration
		}{
			{fmt.Sprintf("plain-%d", i), "", &plain},
			{fmt.Sprintf("meshed-%d", i), sidecar(s.Name, "pod/meshed"), &meshed},
		} {
			s.Apply(bare(c.name, c.spec))
			began := time.Now()
			s.Until(c.name+" is ready", func() error {
				for _, condition := range pods(t, s, c.name).Items[0].Status.Conditions {
					if condition.Type == "Ready" && condition.Status == "True" {
						return nil
					}
				}
				return fmt.Errorf("it is not")
			})
			*c.into = append(*c.into, time.Since(began).Round(10*time.Millisecond))
		}
	}
	t.Logf("ready after: plain %v, with a sidecar %v", plain, meshed)
}
