package install

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/e2e/cluster/clustertest"
)

// natsClient speaks NATS's protocol, with whatever token.
type natsClient struct {
	conn  net.Conn
	lines *bufio.Reader
}

// dialBus connects to the bus by TLS and shows a token; the error has what the bus said.
func dialBus(t *testing.T, s *clustertest.Space, anchors, token string) (*natsClient, error) {
	t.Helper()
	address := strings.TrimSpace(s.Kubectl("-n", "weir", "get", "service", "weir-bus", "-o", "jsonpath={.spec.clusterIP}")) + ":4222"
	plain, err := s.Cluster.DialContext(s.Ctx, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = plain.Close() })
	_ = plain.SetDeadline(time.Now().Add(5 * time.Minute)) // a socket takes one
	// The server speaks first, a line in plain text: INFO {…}. No byte of TLS may
	// be read with it.
	one := make([]byte, 1)
	for one[0] != '\n' {
		if _, err := plain.Read(one); err != nil {
			t.Fatal(err)
		}
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(anchors)) {
		t.Fatalf("no certificate in %q", anchors)
	}
	secure := tls.Client(plain, &tls.Config{RootCAs: roots, ServerName: "weir-bus.weir.svc", MinVersion: tls.VersionTLS13})
	if err := secure.HandshakeContext(s.Ctx); err != nil {
		return nil, err
	}
	c := &natsClient{conn: secure, lines: bufio.NewReader(secure)}
	connect, err := json.Marshal(map[string]any{"auth_token": token, "verbose": true, "name": "test", "lang": "go", "version": "1", "protocol": 1})
	if err != nil {
		t.Fatal(err)
	}
	return c, c.say("CONNECT " + string(connect))
}

// say sends a line and errs with the answer unless that is +OK.
func (c *natsClient) say(line string) error {
	if _, err := fmt.Fprintf(c.conn, "%s\r\n", line); err != nil {
		return err
	}
	for {
		answer, err := c.lines.ReadString('\n')
		switch {
		case err != nil:
			return err
		case strings.HasPrefix(answer, "+OK"):
			return nil
		case strings.HasPrefix(answer, "-ERR"):
			return fmt.Errorf("%s", strings.TrimSpace(answer))
		}
	}
}

// credentials are those that `weir bus credentials` prints.
type credentials struct {
	Token        string `json:"token"`
	InboxPrefix  string `json:"inbox_prefix"`
	TrustAnchors string `json:"trust_anchors"`
}

// TestBusIsLocked holds that nobody gets anything of the bus without a token, and that
// a person hears the namespaces that Kubernetes lets them watch and nothing else.
func TestBusIsLocked(t *testing.T) {
	s := suite.Start(t)
	install(t, s, local...)
	s.Kubectl("create", "serviceaccount", "watcher")
	s.Kubectl("create", "rolebinding", "watcher", "--clusterrole=weir-tap", "--serviceaccount="+s.Name+":watcher")
	var got credentials
	if err := json.Unmarshal([]byte(printed(t, s, "bus", "credentials", "-n", s.Name, "--service-account", "watcher", "-o", "json")), &got); err != nil {
		t.Fatal(err)
	}
	nobody := strings.TrimSpace(s.Kubectl("create", "token", "default", "--audience=weir"))
	vault := strings.TrimSpace(s.Kubectl("create", "token", "watcher", "--audience=vault"))
	for name, token := range map[string]string{"no token": "", "nonsense": "nonsense", "one without rights": nobody, "one for another audience": vault} {
		if _, err := dialBus(t, s, got.TrustAnchors, token); err == nil || !strings.Contains(err.Error(), "Authorization Violation") {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}

	c, err := dialBus(t, s, got.TrustAnchors, got.Token)
	if err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{
		"weir.v1.tap.local." + s.Name + ".>", "weir.v1.tap.local." + s.Name + ".*.*", "weir.v1.tap.local." + s.Name + ".deploy.web",
		"weir.v1.stats.local." + s.Name + ".>", got.InboxPrefix + ".>", got.InboxPrefix + ".a",
	} {
		if err := c.say("SUB " + subject + " 1"); err != nil {
			t.Errorf("may not hear %s: %v", subject, err)
		}
	}
	for _, subject := range []string{
		">", "*", "*.>", "weir.>", "weir.*.>", "weir.v1.>", "weir.v1.*.>", "weir.v1.*.*.>", "weir.v1.tap.>", "weir.v1.tap.*.*.*.*", "weir.v1.tap.local.>",
		"weir.v1.tap.local.*.>", "weir.v1.tap.local.kube-system.>", "weir.v1.tap.local.kube-system.deploy.coredns", "weir.v1.tap.*." + s.Name + ".>",
		"weir.v1.stats.>", "weir.v1.stats.local.*.*.*", "weir.v1.events.>", "weir.v1.events.local." + s.Name + ".>", "weir.v1.part.>", "weir.v1.rollups.>",
		"weir.v1.rpc.>", "weir.v1.endpoints.>", "weir.v1.tapped.>", "_INBOX.>", "_INBOX.*.>", "$JS.>", "$JS.API.>", "$JS.ACK.>", "$KV.>", "$SYS.>", "$SYS.REQ.>",
	} {
		if err := c.say("SUB " + subject + " 2"); err == nil || !strings.Contains(err.Error(), "Permissions Violation") {
			t.Errorf("hears %s: %v", subject, err)
		}
	}
	for _, subject := range []string{"weir.v1.events.local." + s.Name + ".deploy.web", "weir.v1.rpc.identity.certify", "weir.v1.rollups.1", "$JS.API.INFO", "weir.v1.tap.local." + s.Name + ".deploy.web", "x"} {
		if err := c.say("PUB " + subject + " 0\r\n"); err == nil || !strings.Contains(err.Error(), "Permissions Violation") {
			t.Errorf("publishes on %s: %v", subject, err)
		}
	}
}

// TestProxyKeepsToItsWorkload holds that a pod's token is good for its own workload's
// events and nothing else, and that what was tried beyond is logged and counted.
func TestProxyKeepsToItsWorkload(t *testing.T) {
	s := suite.Start(t)
	install(t, s, local...)
	s.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: mine, labels: {app: mine}}
spec:
  containers:
  - {name: app, image: "` + clustertest.ImageTestapp + `", imagePullPolicy: Never, args: [serve, "0.0.0.0:8080"]}
`)
	s.Kubectl("wait", "--for=condition=Ready", "pod/mine", clustertest.Timeout)
	token := strings.TrimSpace(s.Kubectl("create", "token", "default", "--audience=weir", "--bound-object-kind=Pod", "--bound-object-name=mine"))
	anchors := s.Kubectl("-n", "weir", "get", "configmap", "weir-trust-anchors", "-o", `jsonpath={.data.ca\.crt}`)
	c, err := dialBus(t, s, anchors, token)
	if err != nil {
		t.Fatal(err)
	}
	own := "weir.v1.events.local." + s.Name + ".pod.mine"
	if err := c.say("PUB " + own + " 0\r\n"); err != nil {
		t.Errorf("may not publish its own events: %v", err)
	}
	inbox := "_INBOX." + s.Name + ".mine."
	if err := c.say("SUB " + inbox + "> 1"); err != nil {
		t.Errorf("may not hear its own inbox: %v", err)
	}
	for _, line := range []string{
		"PUB weir.v1.events.local." + s.Name + ".pod.yours 0\r\n", "PUB weir.v1.events.local." + s.Name + ".deploy.mine 0\r\n",
		"PUB weir.v1.events.local.kube-system.pod.mine 0\r\n", "PUB weir.v1.rollups.1 0\r\n", "PUB weir.v1.tap.local." + s.Name + ".pod.mine 0\r\n",
		"PUB $JS.API.STREAM.PURGE.WEIR_EVENTS 0\r\n", "PUB " + inbox + "x 0\r\n",
		"SUB > 2", "SUB weir.v1.events.> 2", "SUB " + own + " 2", "SUB weir.v1.tap.> 2", "SUB weir.v1.rpc.> 2", "SUB _INBOX.> 2", "SUB _INBOX." + s.Name + ".yours.> 2", "SUB $JS.> 2",
	} {
		if err := c.say(line); err == nil || !strings.Contains(err.Error(), "Permissions Violation") {
			t.Errorf("%s: %v, want a refusal", strings.TrimSpace(line), err)
		}
	}
	log := s.Kubectl("-n", "weir", "logs", "statefulset/weir-bus")
	if !strings.Contains(log, "Violation") {
		t.Errorf("the bus does not say what it refused:\n%s", log)
	}
	metrics, err := s.Try("get", "--raw", "/api/v1/namespaces/weir/pods/weir-bus-0:9990/proxy/metrics")
	if err != nil {
		t.Fatal(err)
	}
	if _, rest, found := strings.Cut(metrics, "\nweir_bus_violations_total "); !found || strings.HasPrefix(rest, "0\n") {
		t.Errorf("the bus counts no violation:\n%s", metrics)
	}
}
