package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// children returns the processes whose parent is pid, with their command lines.
func children(t *testing.T, pid int) map[int]string {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]string{}
	for _, stat := range stats {
		b, err := os.ReadFile(stat)
		if err != nil {
			continue // it ended meanwhile
		}
		// The command's name, in brackets, may hold anything; the parent is the
		// second field after it.
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if fields[1] != strconv.Itoa(pid) {
			continue
		}
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
		if err != nil {
			t.Fatal(err)
		}
		line, err := os.ReadFile(filepath.Join(filepath.Dir(stat), "cmdline"))
		if err != nil {
			continue
		}
		found[child] = strings.ReplaceAll(string(line), "\x00", " ")
	}
	return found
}

func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func gone(pids []int) string {
	for _, pid := range pids {
		if running(pid) {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			return fmt.Sprintf("process %d is left: %s", pid, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return ""
}

func TestCtrlCLeavesNothing(t *testing.T) {
	m := startDemo(t, "--rate=200")
	var pids []int
	for pid := range children(t, m.cmd.Process.Pid) {
		pids = append(pids, pid)
	}
	if len(pids) != 8 {
		t.Errorf("the demo has %d processes; want 4 roles and 4 proxies", len(pids))
	}
	if err := m.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-m.exited:
		m.exited <- err
		if err != nil {
			t.Errorf("exit after Ctrl-C: %v", err)
		}
	case <-time.After(60 * time.Second):
		t.Fatal("still there a minute after Ctrl-C")
	}
	if problem := gone(pids); problem != "" {
		t.Error(problem)
	}
	if !strings.Contains(m.log.String(), "vote-bot sent") {
		t.Error("the demo does not say what its bot sent")
	}
	for _, env := range m.cmd.Env {
		if dir, ok := strings.CutPrefix(env, "TMPDIR="); ok && dir != os.Getenv("TMPDIR") {
			left, err := os.ReadDir(dir)
			if err != nil || len(left) > 0 {
				t.Errorf("files left: %v, %v", left, err)
			}
		}
	}
}

func TestKilledDemoTakesItsProcessesAlong(t *testing.T) {
	m := startDemo(t)
	var pids []int
	for pid := range children(t, m.cmd.Process.Pid) {
		pids = append(pids, pid)
	}
	if err := m.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 15*time.Second, func() string { return gone(pids) })
}

func TestDemoStopsWhenItsParentDies(t *testing.T) {
	// Where the tests run under nohup, hangups are ignored, and a demo then
	// means to outlive its parent; a signal that is caught here is not ignored
	// in what is started from here.
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	base := freePorts(t, 14)
	addr := func(i int) string { return "127.0.0.1:" + strconv.Itoa(base+i) }
	shell := exec.Command("sh", "-c", `"$@" & echo "pid $!"; wait`, "sh", filepath.Join(bin, "weir"), "demo",
		"--port-base", strconv.Itoa(base), "--bus-addr", addr(9), "--grpc-addr", addr(10), "--http-addr", addr(11),
		"--dashboard-addr", addr(12), "--web-addr", addr(13))
	shell.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	stdout, err := shell.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []int
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "pid "); ok {
			pid, err := strconv.Atoi(rest)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
		if strings.Contains(lines.Text(), "Ctrl-C stops everything") {
			break
		}
	}
	if len(pids) == 0 {
		t.Fatal("the demo did not start")
	}
	for pid := range children(t, pids[0]) {
		pids = append(pids, pid)
	}
	if err := shell.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = shell.Wait() // killed
	eventually(t, 60*time.Second, func() string { return gone(pids) })
}

// TestNothingIsLostWhenRolesAreKilled kills the bus, the aggregator and the API
// by force while a counted load runs. The application must not notice, and in
// the end every request is counted once.
func TestNothingIsLostWhenRolesAreKilled(t *testing.T) {
	m := startDemo(t)
	killed := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				killed <- nil
				return
			case <-time.After(2500 * time.Millisecond):
			}
			what := []string{"weir aggregator ", "weir bus ", "weir api "}[i%3]
			for pid, line := range children(t, m.cmd.Process.Pid) {
				if strings.Contains(line, what) {
					if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
						killed <- err
						return
					}
				}
			}
		}
	}()
	s := load(t, m.botOut(), 40_000, 32, 2)
	close(stop)
	if err := <-killed; err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(m.log.String(), "starting it again") {
		t.Error("nothing was killed while the load ran")
	}
	eventually(t, 60*time.Second, func() string {
		if _, errOut, err := m.try("stat", "deploy", "-n", "emojivoto"); err != nil {
			return errOut
		}
		return m.compare(s)
	})
	time.Sleep(3 * time.Second)
	if problem := m.compare(s); problem != "" {
		t.Errorf("after it had settled: %s", problem)
	}
}

// proxyProcess runs a weir-proxy until the test ends and returns its pid.
func proxyProcess(t *testing.T, args ...string) (*exec.Cmd, *syncBuffer) {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "weir-proxy"), args...)
	log := &syncBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	})
	return cmd, log
}

func TestIdleProxyIsSmall(t *testing.T) {
	m := startDemo(t)
	base := freePorts(t, 3)
	addr := func(i int) string { return "127.0.0.1:" + strconv.Itoa(base+i) }
	cmd, _ := proxyProcess(t, "--bus=nats://"+m.bus, "--workload=test/deploy/idle", "--pod=idle-0",
		"--inbound="+addr(0)+"="+m.web, "--outbound="+addr(1)+"="+m.web, "--admin="+addr(2))
	eventually(t, 15*time.Second, func() string {
		if _, ok := m.stat("-n", "test")["idle"]; !ok {
			return "a workload that no Kubernetes knows is not in stat"
		}
		return ""
	})
	// What only its start needed goes when it has settled.
	rss := 0
	eventually(t, 15*time.Second, func() string {
		if rss = vmRSS(t, cmd.Process.Pid); rss > 10*1024 {
			return fmt.Sprintf("it has %d KiB", rss)
		}
		return ""
	})
	t.Logf("idle weir-proxy: VmRSS %d KiB", rss)
	var sizes []string
	for pid, line := range children(t, m.cmd.Process.Pid) {
		words := strings.Fields(line)
		sizes = append(sizes, fmt.Sprintf("%s %s: %d KiB", filepath.Base(words[0]), words[1], vmRSS(t, pid)))
	}
	slices.Sort(sizes)
	t.Logf("the demo's processes:\n%s", strings.Join(sizes, "\n"))
}

// vmRSS is a process's resident memory in KiB.
func vmRSS(t *testing.T, pid int) int {
	t.Helper()
	return statusKiB(t, pid, "VmRSS")
}

// anonymous is the part of a process's resident memory that is not its program's
// pages, which come and go: what can grow.
func anonymous(t *testing.T, pid int) int {
	t.Helper()
	return statusKiB(t, pid, "RssAnon")
}

// statusKiB is a field of a process's status.
func statusKiB(t *testing.T, pid int, field string) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s in %s", field, status)
	return 0
}
