package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/bus"
)

// personal is a person's own token, as an identity provider makes it.
func personal(t *testing.T, expires time.Time) string {
	t.Helper()
	claims, err := json.Marshal(map[string]any{"sub": "jane", "aud": "kubernetes", "exp": expires.Unix()})
	if err != nil {
		t.Fatal(err)
	}
	return "e30." + base64.RawURLEncoding.EncodeToString(claims) + ".c2ln"
}

// apiServer knows what `weir bus credentials` asks for: who the bearer of a token is,
// the trust anchors, and a ServiceAccount's tokens.
func apiServer(t *testing.T, people map[string]string) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, value any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(value); err != nil {
			t.Error(err)
		}
	}
	mux.HandleFunc("POST /apis/authentication.k8s.io/v1/selfsubjectreviews", func(w http.ResponseWriter, r *http.Request) {
		user := people[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
		if user == "" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		answer(w, map[string]any{
			"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1",
			"status": map[string]any{"userInfo": map[string]any{"username": user}},
		})
	})
	mux.HandleFunc("GET /api/v1/namespaces/weir/configmaps/weir-trust-anchors", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"kind": "ConfigMap", "apiVersion": "v1", "data": map[string]string{"ca.crt": "ANCHORS\n"}})
	})
	mux.HandleFunc("POST /api/v1/namespaces/shop/serviceaccounts/watcher/token", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{
			"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
			"status": map[string]any{"token": "the-account's", "expirationTimestamp": "2030-01-02T03:04:05Z"},
		})
	})
	s := httptest.NewTLSServer(mux)
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	return s
}

// kubeconfig writes one whose user is as given.
func kubeconfig(t *testing.T, s *httptest.Server, user string) string {
	t.Helper()
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	file := filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: x,
clusters: [{name: x, cluster: {server: %q, certificate-authority-data: %s}}],
contexts: [{name: x, context: {cluster: x, user: x}}],
users: [{name: x, user: %s}]}`, s.URL, ca, user)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// plugin writes a program that prints a credential, as those of clouds do.
func plugin(t *testing.T, status string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "plugin")
	text := "#!/bin/sh\necho '{\"apiVersion\": \"client.authentication.k8s.io/v1\", \"kind\": \"ExecCredential\", \"status\": " + status + "}'\n"
	if err := os.WriteFile(file, []byte(text), 0o755); err != nil { //nolint:gosec // it is executed
		t.Fatal(err)
	}
	return fmt.Sprintf("{exec: {apiVersion: client.authentication.k8s.io/v1, command: %q, interactiveMode: Never}}", file)
}

// TestCredentialsOfPeople holds that a person's own token is found wherever a
// kubeconfig may have it, with the inbox that the bus will grant to them.
func TestCredentialsOfPeople(t *testing.T) {
	expires := time.Now().Add(time.Hour).Truncate(time.Second).UTC()
	token := personal(t, expires)
	s := apiServer(t, map[string]string{token: "jane@example.org"})
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, user := range map[string]string{
		"written": "{token: " + token + "}",
		"a file":  "{tokenFile: " + file + "}",
		"plugin":  plugin(t, `{"token": "`+token+`"}`),
	} {
		code, out, said := weir(t.Context(), "bus", "credentials", "-o", "json", "--kubeconfig", kubeconfig(t, s, user))
		var got busCredentials
		if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 {
			t.Errorf("%s: exit code %d, %v: %s%s", name, code, err, out, said)
			continue
		}
		want := busCredentials{
			Server: "tls://weir-bus.weir.svc:4222", User: "jane@example.org", Expires: expires, Token: token,
			InboxPrefix: bus.InboxPrefix("", "jane@example.org"), TrustAnchors: "ANCHORS\n",
		}
		if got != want {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

// TestCredentialsWithoutToken holds that whoever has no token is told why, and what to
// do instead; and that this works.
func TestCredentialsWithoutToken(t *testing.T) {
	s := apiServer(t, nil)
	certificate, key := selfSigned(t)
	asFiles := fmt.Sprintf("{client-certificate-data: %s, client-key-data: %s}",
		base64.StdEncoding.EncodeToString([]byte(certificate)), base64.StdEncoding.EncodeToString([]byte(key)))
	text := func(s string) string { return strings.ReplaceAll(s, "\n", `\\n`) }
	for user, why := range map[string]string{
		asFiles: "by a client certificate; name a ServiceAccount",
		plugin(t, `{"clientCertificateData": "`+text(certificate)+`", "clientKeyData": "`+text(key)+`"}`): "which the program ",
		"{username: jane, password: secret}": "by a password; name a ServiceAccount",
		"{}":                                 "anonymously; name a ServiceAccount",
		"{token: abc, as: joe}":              `acts as "joe"`,
	} {
		config := kubeconfig(t, s, user)
		code, out, said := weir(t.Context(), "bus", "credentials", "--kubeconfig", config)
		if code != 1 || out != "" || !strings.Contains(said, why) || !strings.Contains(said, "--service-account NAMESPACE/NAME") {
			t.Errorf("%s: exit code %d: %s%s", user, code, out, said)
		}
		code, out, said = weir(t.Context(), "bus", "credentials", "--kubeconfig", config, "--service-account", "shop/watcher", "-o", "token")
		if code != 0 || out != "the-account's\n" {
			t.Errorf("of a ServiceAccount: exit code %d: %s%s", code, out, said)
		}
	}
	// A token that the API server does not know is no use with the bus either.
	code, _, said := weir(t.Context(), "bus", "credentials", "--kubeconfig", kubeconfig(t, s, "{token: old}"))
	if code != 1 || !strings.Contains(said, "cannot ask Kubernetes who you are") {
		t.Errorf("exit code %d: %s", code, said)
	}
	if code, _, said := weir(t.Context(), "bus", "credentials", "--service-account", "a/b/c"); code != 2 || !strings.Contains(said, "NAMESPACE/NAME") {
		t.Errorf("exit code %d: %s", code, said)
	}
}

// selfSigned makes a certificate and its key, PEM.
func selfSigned(t *testing.T) (certificate, private string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return text("CERTIFICATE", der), text("EC PRIVATE KEY", keyDER)
}
