package mesh

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/e2e/cluster/clustertest"
)

// pods are the names of the pods of an app, which do not end.
func pods(s *clustertest.Space, app string) []string {
	var list struct {
		Items []struct {
			Metadata struct{ Name, DeletionTimestamp string }
		}
	}
	if err := json.Unmarshal([]byte(s.Kubectl("get", "pods", "-l", "app="+app, "-o", "json")), &list); err != nil {
		return nil
	}
	var names []string
	for _, p := range list.Items {
		if p.Metadata.DeletionTimestamp == "" {
			names = append(names, p.Metadata.Name)
		}
	}
	return names
}

// counter adds a counter of the pods of an app up, as their proxies give it.
func counter(s *clustertest.Space, app, name string) (uint64, error) {
	var sum uint64
	for _, pod := range pods(s, app) {
		n, err := s.Metric(s.Name, pod, 4191, name)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// counts waits until the proxies of an app have counted something.
func counts(s *clustertest.Space, app, name string) {
	s.Until(name+" is counted by "+app, func() error {
		n, err := counter(s, app, name)
		if err == nil && n == 0 {
			err = errors.New("it is 0")
		}
		return err
	})
}

// strict serves on two ports, of which the kubelet probes one by its number and the
// other by its name, and lets nobody else in who is not of the mesh.
const strict = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: strict}
spec:
  replicas: 1
  selector: {matchLabels: {app: strict}}
  template:
    metadata:
      labels: {app: strict}
      annotations: {weir.dev/require-mtls: "true"}
    spec:
      containers:
      - name: numbered
        image: ` + clustertest.ImageTestapp + `
        imagePullPolicy: Never
        args: [serve, "0.0.0.0:8080"]
        readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1, timeoutSeconds: 10}
        livenessProbe: {httpGet: {path: /live, port: 8080}, periodSeconds: 2, timeoutSeconds: 10}
      - name: named
        image: ` + clustertest.ImageTestapp + `
        imagePullPolicy: Never
        args: [serve, "0.0.0.0:8081"]
        ports: [{name: web, containerPort: 8081}]
        readinessProbe: {httpGet: {path: /ready, port: web}, periodSeconds: 1, timeoutSeconds: 10}
---
apiVersion: v1
kind: Service
metadata: {name: strict}
spec:
  selector: {app: strict}
  ports: [{name: a, port: 80, targetPort: 8080}, {name: b, port: 81, targetPort: web}]
`

// plainClient makes requests from outside the mesh until it is answered, and ends
// with what came of it.
func plainClient(name, url string) string {
	return `
apiVersion: v1
kind: Pod
metadata: {name: ` + name + `, labels: {app: ` + name + `}}
spec:
  restartPolicy: Never
  containers:
  - name: client
    image: ` + clustertest.ImageTestapp + `
    imagePullPolicy: Never
    args: [get, "` + url + `", "3"]
`
}

// TestRequireMutual holds that a workload that wants mutual TLS of all becomes ready,
// for the kubelet's probes are let in, that it serves clients of the mesh, and that
// it refuses others and says so.
func TestRequireMutual(t *testing.T) {
	s := start(t)
	inject(t, s, strict)
	s.Rollout("strict")
	for n, url := range []string{"http://strict", "http://strict:81"} {
		name := fmt.Sprintf("plain-%d", n)
		s.Apply(plainClient(name, url))
		s.Kubectl("wait", "--for=jsonpath={.status.phase}=Failed", "pod/"+name, clustertest.Timeout)
		t.Logf("a client without identity: %s", s.Kubectl("logs", name))
	}
	counts(s, "strict", `weir_proxy_denied_total{reason="mtls_required"}`)
	inject(t, s, strings.ReplaceAll(job("meshed", 5), "http://server", "http://strict"))
	s.Kubectl("wait", "--for=condition=Complete", "job/meshed", clustertest.Timeout)

	s.Until("the edges tell clients, refusals and probes apart", func() error {
		edges, err := edgesOf(s, "deploy/strict")
		if err != nil {
			return err
		}
		var meshed, refused, probes bool
		for _, e := range edges {
			switch {
			case e.Src == "meshed":
				meshed = e.NoTLSReason == "" && strings.Contains(e.ServerID+e.ClientID, "default")
			case e.Src == "node":
				probes = true
			default:
				refused = e.NoTLSReason != ""
			}
		}
		// An edge is of requests that were served; who was refused has connections.
		if !meshed || !probes {
			return fmt.Errorf("meshed %v, refused %v, probes %v: %+v", meshed, refused, probes, edges)
		}
		return nil
	})
	restarts := s.Kubectl("get", "pods", "-l", "app=strict", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}")
	if restarts != "0 0" {
		t.Errorf("the kubelet restarted containers, as if its probes had failed: %q", restarts)
	}
}

// edge is what the tests read of a row of `weir edges`.
type edge struct {
	Src, Dst    string
	ClientID    string `json:"client_id"`
	ServerID    string `json:"server_id"`
	NoTLSReason string `json:"no_tls_reason"`
}

func edgesOf(s *clustertest.Space, args ...string) ([]edge, error) {
	out, err := s.Weir(append([]string{"edges", "-n", s.Name, "-t", "10m", "-o", "json"}, args...)...)
	if err != nil {
		return nil, err
	}
	var edges []edge
	if err := json.Unmarshal([]byte(out), &edges); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return edges, nil
}

// TestStolenToken has a pod's proxy use the token of a pod of another namespace. The
// rights that come with it are of no use for its own pod: the bus takes nothing that
// it says of its workload and lets it hear no answer, so it has no certificate, is
// not ready, and what it tried is logged and counted.
func TestStolenToken(t *testing.T) {
	s, victim := start(t), suite.Start(t)
	inject(t, victim, server)
	victim.Rollout("server")
	token := strings.TrimSpace(victim.Kubectl("create", "token", "default", "--audience=weir", "--bound-object-kind=Pod", "--bound-object-name="+pods(victim, "server")[0]))
	s.Apply(fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: stolen}\nstringData: {token: %q}\n", token))

	file := filepath.Join(t.TempDir(), "thief.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(client, "client", "thief")), 0o600); err != nil {
		t.Fatal(err)
	}
	injected, err := s.Weir("inject", file)
	if err != nil {
		t.Fatal(err)
	}
	before := violations(t, s)
	s.Apply(replaceVolume(t, injected))
	var log string
	s.Until("the thief's proxy has asked for a certificate in vain", func() error {
		log, err = s.Try("logs", "deploy/thief", "-c", "weir-proxy")
		if err == nil && !strings.Contains(log, "cannot renew the proxy's certificate") {
			err = errors.New("it says nothing of that")
		}
		return err
	})
	if strings.Contains(log, "certificate in use") {
		t.Errorf("the thief has a certificate:\n%s", log)
	}
	if ready := s.Kubectl("get", "deploy", "thief", "-o", "jsonpath={.status.readyReplicas}"); ready != "" {
		t.Errorf("%s pods of the thief are ready", ready)
	}
	s.Until("the bus counts and says what the thief may not do", func() error {
		if now := violations(t, s); now <= before {
			return fmt.Errorf("%d violations, as before", now)
		}
		said, err := s.Cluster.Kubectl(s.Ctx, "-n", "weir", "logs", "statefulset/weir-bus", "--tail=-1")
		if err == nil && !strings.Contains(said, "weir.v1.events.local."+s.Name+".deploy.thief") {
			err = fmt.Errorf("the bus does not say what it refused:\n%s", said)
		}
		return err
	})
	if rows, err := stat(s, "deploy/thief"); err == nil && len(rows) > 0 && rows[0].Requests > 0 {
		t.Errorf("what the thief said was taken: %+v", rows)
	}
}

// replaceVolume gives an injected pod the token of the secret "stolen" in place of its
// own.
func replaceVolume(t *testing.T, injected string) string {
	t.Helper()
	lines := strings.Split(injected, "\n")
	for i, line := range lines {
		name, is := strings.CutSuffix(line, "name: weir-identity")
		if indent := strings.TrimSuffix(name, "- "); is && i+1 < len(lines) && strings.HasPrefix(lines[i+1], strings.ReplaceAll(indent, "-", " ")+"  projected:") {
			rest := i + 2
			for rest < len(lines) && strings.HasPrefix(lines[rest], indent+"    ") {
				rest++
			}
			return strings.Join(append(append(lines[:i+1:i+1], indent+"  secret: {secretName: stolen}"), lines[rest:]...), "\n")
		}
	}
	t.Fatalf("there is no token's volume in\n%s", injected)
	return ""
}

// violations is how often the bus refused what a client tried.
func violations(t *testing.T, s *clustertest.Space) uint64 {
	t.Helper()
	n, err := s.Metric("weir", "weir-bus-0", 9990, "weir_bus_violations_total")
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestExpired has somebody come with a certificate of the mesh's own issuer that was
// good until a minute ago: it is refused and counted, where one that is good still is
// not.
func TestExpired(t *testing.T) {
	s := start(t)
	inject(t, s, server)
	s.Rollout("server")
	const untrusted = `weir_proxy_denied_total{reason="peer_untrusted"}`
	before, err := counter(s, "server", untrusted)
	if err != nil {
		t.Fatal(err)
	}
	ip := s.Kubectl("get", "pod", pods(s, "server")[0], "-o", "jsonpath={.status.podIP}")
	if err := greet(t, s, ip, time.Hour); err != nil {
		t.Errorf("a good certificate is refused: %v", err)
	}
	if n, err := counter(s, "server", untrusted); err != nil || n != before {
		t.Errorf("a good certificate is counted as refused: %d, %v", n, err)
	}
	if err := greet(t, s, ip, -time.Minute); err == nil {
		t.Error("an expired certificate is not refused")
	}
	counts(s, "server", untrusted)
}

// greet makes a certificate for the namespace's default identity, which ends so long
// from now, shows it to the proxy of a pod, and returns what that said to it.
func greet(t *testing.T, s *clustertest.Space, ip string, life time.Duration) error {
	t.Helper()
	file := func(key string) []byte {
		text, err := base64.StdEncoding.DecodeString(s.Kubectl("-n", "weir", "get", "secret", "weir-identity-issuer", "-o", `jsonpath={.data.tls\.`+key+"}"))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	issuer, err := tls.X509KeyPair(file("crt"), file("key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id := &url.URL{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/" + s.Name + "/sa/default"}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life), URIs: []*url.URL{id},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, issuer.Leaf, &key.PublicKey, issuer.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := s.Cluster.DialContext(s.Ctx, "tcp", net.JoinHostPort(ip, "8080"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = plain.Close() })
	_ = plain.SetDeadline(time.Now().Add(5 * time.Minute)) // a socket takes one
	c := tls.Client(plain, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"weir/1"}, InsecureSkipVerify: true, // the server's is not what is tested
		Certificates: []tls.Certificate{{Certificate: append([][]byte{der}, issuer.Certificate...), PrivateKey: key}},
	})
	if err := c.HandshakeContext(s.Ctx); err != nil {
		return err
	}
	// In TLS 1.3 the client learns only now that it was refused. Who is not waits for
	// the client's greeting, and says goodbye when that does not come.
	if _, err = c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
