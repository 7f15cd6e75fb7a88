// Package clustertest gives the tests of a package a Kubernetes cluster: one for all
// of them, and a namespace for each.
//
//	var suite clustertest.Suite
//
//	func TestMain(m *testing.M) { os.Exit(suite.Main(m)) }
//
//	func TestX(t *testing.T) {
//		s := suite.Start(t)
//		s.Apply(`apiVersion: …`)
//	}
//
// A cluster that does not come up fails the tests; where the machine can't run one,
// so does that, for whoever asked for these tests must not believe that they ran.
package clustertest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weirmesh/weir/e2e/cluster"
)

// Images are the names of the images that every suite's cluster has, each of this
// source tree, beside the cluster's own.
const (
	ImageWeir      = "ghcr.io/weirmesh/weir:e2e"
	ImageProxy     = "ghcr.io/weirmesh/weir-proxy:e2e"
	ImageEmojivoto = "ghcr.io/weirmesh/emojivoto:e2e"
	ImageTestapp   = "localhost/testapp:e2e"
)

// Timeout is kubectl's bound for whatever it waits for in a test: many times what that
// takes on a busy machine. Until and the like are bounded by little more.
const Timeout = "--timeout=330s"

// wait bounds each wait of a test.
const wait = 6 * time.Minute

// A Suite is the tests of one package, over one cluster.
type Suite struct {
	cluster *cluster.Cluster
	bin     string
	next    atomic.Uint64
}

// Main starts the cluster, runs the tests and ends the cluster, whatever became of
// them. It returns what to exit with.
func (s *Suite) Main(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	began := time.Now()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	dir, err := os.MkdirTemp("", "weir-cluster-test-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, "clustertest:", err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }() // a temporary folder
	c, err := s.start(ctx, dir, log)
	if err != nil {
		fmt.Fprintln(os.Stderr, "clustertest:", err)
		return 1
	}
	log.Info("cluster up", "after", time.Since(began).Round(100*time.Millisecond))
	s.cluster = c
	// On a signal the tests fail soon, for want of a cluster.
	defer context.AfterFunc(ctx, func() { _ = c.Down() })()
	code := m.Run()
	began = time.Now()
	if err := c.Down(); err != nil {
		fmt.Fprintln(os.Stderr, "clustertest:", err)
		return max(code, 1)
	}
	log.Info("cluster down", "after", time.Since(began).Round(10*time.Millisecond))
	return code
}

// start makes the images, in dir, and starts the cluster.
func (s *Suite) start(ctx context.Context, dir string, log *slog.Logger) (*cluster.Cluster, error) {
	began := time.Now()
	out, err := exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", "github.com/weirmesh/weir/e2e/cluster").Output()
	if err != nil {
		return nil, fmt.Errorf("cannot find this module: %w", err)
	}
	source := strings.TrimSpace(string(out))
	build := exec.CommandContext(ctx, filepath.Join(source, "../../hack/images.sh"), dir)
	s.bin = filepath.Join(dir, "bin")
	build.Env = append(os.Environ(), "VERSION=e2e", "REGISTRY=ghcr.io/weirmesh", "BIN="+s.bin)
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot build the images: %w: %s", err, out)
	}
	log.Info("images built", "after", time.Since(began).Round(100*time.Millisecond))
	images, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil {
		return nil, err
	}
	// The process's number: two checkouts may be tested at the same time.
	c, err := cluster.Up(ctx, cluster.Options{Name: fmt.Sprintf("test-%d", os.Getpid()), Source: source, Images: images, Timeout: 2 * wait, Logger: log})
	if err != nil {
		return nil, err
	}
	tar := filepath.Join(dir, "testapp.tar")
	app := cluster.GoImage{Name: ImageTestapp, Package: "testapp", User: "65532:65532"}
	if err := c.BuildImage(ctx, app, tar); err != nil {
		return nil, fmt.Errorf("%w, %w", err, c.Down())
	}
	if err := c.ImportImage(ctx, tar); err != nil {
		return nil, fmt.Errorf("%w, %w", err, c.Down())
	}
	return c, nil
}

// A Space is a namespace of a test's own. Its methods end the test on failure, and
// are for the test's goroutine.
type Space struct {
	// Cluster is the suite's.
	Cluster *cluster.Cluster
	// Name is the namespace's.
	Name string
	// Ctx ends with the test.
	Ctx context.Context
	// Bin is the folder of the binaries that the images are of: weir, weir-proxy,
	// emojivoto.
	Bin string

	t testing.TB
}

var unnamed = regexp.MustCompile(`[^a-z0-9]+`)

// Start makes a namespace for a test, in which pods can be made at once. It goes with
// the test, and its pods with it; if the test fails, what there was is logged before.
func (s *Suite) Start(t testing.TB) *Space {
	t.Helper()
	name := strings.Trim(unnamed.ReplaceAllString(strings.ToLower(strings.TrimPrefix(t.Name(), "Test")), "-"), "-")
	name = fmt.Sprintf("%.40s-%d", name, s.next.Add(1))
	sp := &Space{Cluster: s.cluster, Name: name, Ctx: t.Context(), Bin: s.bin, t: t}
	sp.Kubectl("create", "namespace", name)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		defer cancel()
		sp.Ctx = ctx
		if t.Failed() {
			sp.evidence()
		}
		if _, err := s.cluster.Kubectl(ctx, "delete", "namespace", name, "--wait=false"); err != nil {
			t.Errorf("cannot delete the test's namespace: %v", err)
		}
	})
	sp.Until("pods can be made", func() error { return s.cluster.NamespaceReady(sp.Ctx, name) })
	return sp
}

// evidence logs what is in the namespace.
func (sp *Space) evidence() {
	for _, args := range [][]string{
		{"get", "pods,deployments,jobs,services", "-o", "wide"},
		{"get", "events", "--sort-by=.lastTimestamp"},
		{"logs", "--selector=app", "--all-containers", "--prefix", "--tail=15", "--ignore-errors"},
	} {
		out, err := sp.Cluster.Kubectl(sp.Ctx, append([]string{"-n", sp.Name}, args...)...)
		sp.t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// Kubectl runs kubectl in the namespace and returns what it printed.
func (sp *Space) Kubectl(args ...string) string {
	sp.t.Helper()
	out, err := sp.Try(args...)
	if err != nil {
		sp.t.Fatal(err)
	}
	return out
}

// Try is Kubectl for what may fail.
func (sp *Space) Try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(sp.Ctx, wait)
	defer cancel()
	return sp.Cluster.Kubectl(ctx, append([]string{"--namespace", sp.Name}, args...)...)
}

// Weir runs weir in the node's network, with the cluster's KUBECONFIG, and returns what
// it printed; the error has what it said.
func (sp *Space) Weir(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(sp.Ctx, wait)
	defer cancel()
	cmd := sp.Cluster.Command(ctx, filepath.Join(sp.Bin, "weir"), args...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("weir %q: %w: %s", args, err, bytes.TrimSpace(said.Bytes()))
	}
	return out.String(), nil
}

// Apply applies manifests in the namespace.
func (sp *Space) Apply(manifests string) {
	sp.t.Helper()
	cmd := sp.Cluster.Command(sp.Ctx, "kubectl", "--namespace", sp.Name, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifests)
	if out, err := cmd.CombinedOutput(); err != nil {
		sp.t.Fatalf("cannot apply: %v: %s\n%s", err, out, manifests)
	}
}

// Rollout waits until all of a deployment's pods are ready.
func (sp *Space) Rollout(deployments ...string) {
	sp.t.Helper()
	for _, d := range deployments {
		sp.Kubectl("rollout", "status", "deployment/"+d, Timeout)
	}
}

// Until waits until try returns nil; if it does not in minutes, the test ends.
func (sp *Space) Until(what string, try func() error) {
	sp.t.Helper()
	ctx, cancel := context.WithTimeout(sp.Ctx, wait)
	defer cancel()
	if err := sp.Cluster.Until(ctx, what, try); err != nil {
		sp.t.Fatal(err)
	}
}

// Forward runs kubectl port-forward until the test ends, and returns the address, in
// the node's network, that leads to the port.
func (sp *Space) Forward(target string, port int) string {
	sp.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(sp.Ctx))
	cmd := sp.Cluster.Command(ctx, "kubectl", "--namespace", sp.Name, "port-forward", target, fmt.Sprintf(":%d", port))
	r, w, err := os.Pipe()
	if err != nil {
		sp.t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &said
	err = cmd.Start()
	_ = w.Close() // kubectl has its own
	if err != nil {
		sp.t.Fatal(err)
	}
	sp.t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // killed
		_ = r.Close()  // only read
	})
	// Forwarding from 127.0.0.1:33113 -> 4222
	buf := make([]byte, 256)
	n, err := r.Read(buf)
	_, rest, ok := strings.Cut(string(buf[:n]), "from ")
	address, _, _ := strings.Cut(rest, " ")
	if err != nil || !ok {
		cancel()
		_ = cmd.Wait() // its output is whole then
		sp.t.Fatalf("cannot forward %s: %v: %q %s", target, err, buf[:n], said.String())
	}
	return address
}
