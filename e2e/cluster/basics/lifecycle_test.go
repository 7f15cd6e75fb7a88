package basics

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// developer is a cluster as `make cluster-up` starts it, beside the suite's own.
type developer struct {
	t            *testing.T
	program      string
	name, source string
	home         string
}

func newDeveloper(t *testing.T) *developer {
	t.Helper()
	source, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	d := &developer{
		t: t, program: filepath.Join(t.TempDir(), "weir-cluster"), source: source,
		name: fmt.Sprintf("beside-%d", os.Getpid()), home: filepath.Join(cache, "weir", "cluster"),
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-o", d.program, "./cmd/weir-cluster")
	build.Dir, build.Env = source, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build weir-cluster: %v: %s", err, out)
	}
	t.Cleanup(func() {
		_, _ = d.run("down") // in case the test failed before
		if _, err := d.run("sweep"); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *developer) run(verb string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, d.program, append([]string{verb, "--name", d.name, "--source", d.source, "--"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("weir-cluster %s: %w: %s", verb, err, out)
	}
	return string(out), err
}

// remains lists what there is of the cluster: processes, cgroups, folders, mounts.
func (d *developer) remains() []string {
	d.t.Helper()
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup/weir-" + d.name, "/sys/fs/cgroup/*/weir-" + d.name, filepath.Join(d.home, "run", d.name+"*")} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			d.t.Fatal(err)
		}
		found = append(found, paths...)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		d.t.Fatal(err)
	}
	if strings.Contains(string(mounts), d.name) {
		found = append(found, string(mounts))
	}
	return append(found, d.processes()...)
}

// processes lists those that were started with a path or a name of the cluster.
func (d *developer) processes() []string {
	d.t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		d.t.Fatal(err)
	}
	var found []string
	for _, path := range all {
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), d.name) {
			found = append(found, strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	return found
}

// supervisor is the number of the process that everything hangs on.
func (d *developer) supervisor() int {
	d.t.Helper()
	text, err := os.ReadFile(filepath.Join(d.home, "run", d.name, "supervisor.pid"))
	if err != nil {
		d.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		d.t.Fatal(err)
	}
	return pid
}

// TestUpAndDown starts a second cluster in the background beside the suite's, uses it,
// and ends it twice: as one should, and by killing the one process that it hangs on.
func TestUpAndDown(t *testing.T) {
	d := newDeveloper(t)
	if out, err := d.run("kubectl", "get", "nodes"); err == nil || !strings.Contains(out, "make cluster-up") {
		t.Errorf("without a cluster kubectl says %q, %v", out, err)
	}
	if _, err := d.run("up"); err != nil {
		t.Fatal(err)
	}
	if out, err := d.run("kubectl", "get", "nodes", "-o", "wide"); err != nil || !strings.Contains(out, " Ready ") {
		t.Errorf("the second cluster's node: %q, %v", out, err)
	}
	if out, err := d.run("up"); err == nil || !strings.Contains(out, "is up already") {
		t.Errorf("a second start says %q, %v", out, err)
	}
	if out, err := d.run("exec", "sh", "-c", "exit 7"); err == nil {
		t.Errorf("the exit code of a command is lost: %q", out)
	}
	began := time.Now()
	if _, err := d.run("down"); err != nil {
		t.Fatal(err)
	}
	t.Logf("down after %v", time.Since(began).Round(10*time.Millisecond))
	if left := d.remains(); len(left) > 0 {
		t.Errorf("down left %q", left)
	}

	if _, err := d.run("up"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(d.supervisor(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s := suite.Start(t)
	s.Until("nothing of the cluster runs", func() error {
		if left := d.processes(); len(left) > 0 {
			return errors.New(strings.Join(left, "\n"))
		}
		return nil
	})
	if _, err := d.run("sweep"); err != nil {
		t.Fatal(err)
	}
	if left := d.remains(); len(left) > 0 {
		t.Errorf("a kill left %q", left)
	}
	// The suite's own cluster has not noticed.
	s.Kubectl("get", "nodes")
}
