package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestOptionsAreCompletedOrRefused(t *testing.T) {
	o, err := Options{}.complete()
	if err != nil || o.Name != "dev" || o.ServiceRange.String() != "10.96.0.0/16" {
		t.Fatalf("the zero value gives %+v, %v", o, err)
	}
	c := o.config("/cni")
	if c.APIService().String() != "10.96.0.1" || c.DNSService().String() != "10.96.0.10" || c.Cgroup != "/weir-dev" {
		t.Errorf("the node is told %+v", c)
	}
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"name":    {Options{Name: "../x"}, `"../x"`},
		"long":    {Options{Name: strings.Repeat("x", 33)}, "at most 32"},
		"IPv6":    {Options{PodRange: netip.MustParsePrefix("fd00::/64")}, "IPv4"},
		"overlap": {Options{PodRange: netip.MustParsePrefix("10.96.7.0/24")}, "overlap"},
	} {
		if _, err := c.o.complete(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestKubernetesSaysTheVersionThatItIs(t *testing.T) {
	mod, err := os.ReadFile("kubenode/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	required := regexp.MustCompile(`k8s\.io/kubernetes (v[0-9.]+)`).FindSubmatch(mod)
	if required == nil || string(required[1]) != kubernetesVersion {
		t.Errorf("kubenode/go.mod has %q, kubernetesVersion is %s", required, kubernetesVersion)
	}
}

func TestLocksExclude(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "x.lock")
	first, err := tryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tryLock(path); !errors.Is(err, errLocked) {
		t.Fatalf("a second lock: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := awaitLock(ctx, path, nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("waiting for a lock that is kept: %v", err)
	}
	got := make(chan error, 1)
	waiting := make(chan struct{})
	go func() {
		l, err := awaitLock(t.Context(), path, func() { close(waiting) })
		if err == nil {
			l.release()
		}
		got <- err
	}()
	<-waiting
	// Removing it must not leave the other with a file that nobody else sees.
	if err := first.remove(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the second lock is of no file: %v", err)
	}
}

func TestCertificatesAreTrusted(t *testing.T) {
	o, err := Options{Home: t.TempDir()}.complete()
	if err != nil {
		t.Fatal(err)
	}
	c := o.config("/cni")
	if err := certify(c); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(c.PKI(), "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	for name, use := range map[string]x509.ExtKeyUsage{
		"apiserver": x509.ExtKeyUsageServerAuth, "kubelet-serving": x509.ExtKeyUsageServerAuth,
		"admin": x509.ExtKeyUsageClientAuth, "kubelet": x509.ExtKeyUsageClientAuth, "front-proxy": x509.ExtKeyUsageClientAuth,
	} {
		pair, err := tls.LoadX509KeyPair(filepath.Join(c.PKI(), name+".crt"), filepath.Join(c.PKI(), name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{use}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if use == x509.ExtKeyUsageServerAuth && pair.Leaf.VerifyHostname("172.30.0.2") != nil {
			t.Errorf("%s is not for the node's address: %v", name, pair.Leaf.IPAddresses)
		}
	}
	if _, err := os.Stat(c.Kubeconfig("admin")); err != nil {
		t.Error(err)
	}
}

// TestBuildsAreCached builds a small program twice, and again once it is another.
func TestBuildsAreCached(t *testing.T) {
	source := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(source, "p"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(source, "p", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module p\n\ngo 1.26.0\n")
	write("go.sum", "")
	write("main.go", "package main\n\nfunc main() {}\n")
	o, err := Options{Home: t.TempDir(), Source: source, Logger: slog.New(slog.DiscardHandler)}.complete()
	if err != nil {
		t.Fatal(err)
	}
	p := program{"p", "-s -w"}
	build := func() (string, time.Time) {
		t.Helper()
		dir, err := o.cached(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dir, "p"))
		if err != nil {
			t.Fatal(err)
		}
		return dir, info.ModTime()
	}
	dir, made := build()
	if again, when := build(); again != dir || !when.Equal(made) {
		t.Error("the same program was built twice")
	}
	old := time.Now().Add(-keepFor - time.Hour)
	if err := os.Chtimes(dir, old, old); err != nil {
		t.Fatal(err)
	}
	write("main.go", "package main\n\nfunc main() { println() }\n")
	other, _ := build()
	if other == dir {
		t.Error("another program was not built")
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what nobody has used for long is still there: %v", err)
	}
	write("main.go", "package main\n\nfunc main() { x }\n")
	if _, err := o.cached(t.Context(), p); err == nil || !strings.Contains(err.Error(), "undefined: x") {
		t.Errorf("a build that fails says %v", err)
	}
}

func TestCgroupsComeAndGo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("takes root")
	}
	name := "unit-" + strings.ToLower(filepath.Base(t.TempDir()))
	if err := makeCgroups(name); err != nil {
		t.Fatal(err)
	}
	all, err := hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	for _, h := range all {
		if err := os.Mkdir(filepath.Join(h.dir, cgroup(name), "below"), 0o755); err == nil {
			made++
		}
	}
	if made == 0 {
		t.Error("no cgroup was made")
	}
	if err := removeCgroups(name); err != nil {
		t.Error(err)
	}
	for _, h := range all {
		if _, err := os.Stat(filepath.Join(h.dir, cgroup(name))); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", h.dir, err)
		}
	}
}
