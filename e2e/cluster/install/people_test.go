package install

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPersonsOwnToken holds that the token by which a person reaches the API server
// is good for the bus, too, for what they may watch; and that one who has none, but a
// client certificate, is told what to do.
func TestPersonsOwnToken(t *testing.T) {
	s := suite.Start(t)
	install(t, s, local...)
	if _, err := s.Weir("bus", "credentials"); err == nil || !strings.Contains(err.Error(), "by a client certificate; name a ServiceAccount") {
		t.Errorf("with a client certificate: %v", err)
	}

	// A token of the API server's own audience, as a person's is.
	s.Kubectl("create", "serviceaccount", "jane")
	s.Kubectl("create", "rolebinding", "jane", "--clusterrole=weir-tap", "--serviceaccount="+s.Name+":jane")
	token := strings.TrimSpace(s.Kubectl("create", "token", "jane"))
	admin, err := os.ReadFile(s.Cluster.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(config, admin, 0o600); err != nil {
		t.Fatal(err)
	}
	context := strings.TrimSpace(kubectl(t, s, "", "--kubeconfig", config, "config", "current-context"))
	kubectl(t, s, "", "--kubeconfig", config, "config", "set-credentials", "jane", "--token="+token)
	kubectl(t, s, "", "--kubeconfig", config, "config", "set-context", context, "--user=jane")

	var got credentials
	if err := json.Unmarshal([]byte(printed(t, s, "bus", "credentials", "--kubeconfig", config, "-o", "json")), &got); err != nil {
		t.Fatal(err)
	}
	if got.Token != token {
		t.Errorf("the token is %q, want the kubeconfig's", got.Token)
	}
	c, err := dialBus(t, s, got.TrustAnchors, got.Token)
	if err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"weir.v1.tap.local." + s.Name + ".>", "weir.v1.stats.local." + s.Name + ".>", got.InboxPrefix + ".>"} {
		if err := c.say("SUB " + subject + " 1"); err != nil {
			t.Errorf("may not hear %s: %v", subject, err)
		}
	}
	for _, line := range []string{"SUB weir.v1.tap.local.kube-system.> 2", "SUB weir.v1.events.> 2", "SUB > 2", "PUB weir.v1.rpc.identity.certify 0\r\n"} {
		if err := c.say(line); err == nil || !strings.Contains(err.Error(), "Permissions Violation") {
			t.Errorf("%s: %v, want a refusal", strings.TrimSpace(line), err)
		}
	}
}
