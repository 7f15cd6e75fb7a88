package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// bin is the folder of the built binaries.
var bin string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "weir-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"weir", "weir-proxy"} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, name), "../cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "cannot build %s: %v\n%s", name, err, out)
			return 1
		}
	}
	bin = dir
	return m.Run()
}

// mesh is a running `weir demo`, without traffic of its own.
type mesh struct {
	t   *testing.T
	cmd *exec.Cmd
	log *syncBuffer

	bus, grpc, http, dashboard, web string
	portBase                        int
	// began is when what a test is about did, RFC 3339.
	began  string
	exited chan error
}

// syncBuffer is a bytes.Buffer for several goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// startDemo runs a demo on free ports until the test ends. TMPDIR is the
// demo's own, so that what it leaves behind is seen.
func startDemo(t *testing.T, args ...string) *mesh {
	t.Helper()
	for range 5 {
		if m := tryDemo(t, args...); m != nil {
			return m
		}
	}
	t.Fatal("no free ports")
	return nil
}

// tryDemo returns nil where somebody took a port that was free.
func tryDemo(t *testing.T, args ...string) *mesh {
	t.Helper()
	m := &mesh{t: t, log: &syncBuffer{}, exited: make(chan error, 1)}
	m.portBase = freePorts(t, 14)
	addr := func(i int) string { return "127.0.0.1:" + strconv.Itoa(m.portBase+i) }
	m.bus, m.grpc, m.http, m.dashboard, m.web = addr(9), addr(10), addr(11), addr(12), addr(13)
	m.cmd = exec.Command(filepath.Join(bin, "weir"), append([]string{"demo", "--rate=0", "--port-base", strconv.Itoa(m.portBase),
		"--bus-addr", m.bus, "--grpc-addr", m.grpc, "--http-addr", m.http, "--dashboard-addr", m.dashboard, "--web-addr", m.web}, args...)...)
	m.cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	m.cmd.Stderr = m.log
	stdout, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.stop)
	ready := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			fmt.Fprintln(m.log, lines.Text())
			if strings.Contains(lines.Text(), "Ctrl-C stops everything") {
				close(ready)
			}
		}
		m.exited <- m.cmd.Wait()
	}()
	select {
	case <-ready:
	case err := <-m.exited:
		m.exited <- err
		if strings.Contains(m.log.String(), "address already in use") {
			return nil
		}
		t.Fatalf("weir demo ended: %v\n%s", err, m.log)
	case <-time.After(2 * time.Minute):
		t.Fatalf("weir demo is not up after two minutes:\n%s", m.log)
	}
	return m
}

// botOut is the vote-bot's own sidecar: what is sent there goes to web.
func (m *mesh) botOut() string { return "127.0.0.1:" + strconv.Itoa(m.portBase) }

func (m *mesh) stop() {
	_ = m.cmd.Process.Signal(syscall.SIGINT) // it may have ended already
	select {
	case err := <-m.exited:
		m.exited <- err
	case <-time.After(60 * time.Second):
		_ = m.cmd.Process.Kill()
		m.t.Errorf("weir demo did not stop within a minute:\n%s", m.log)
	}
	if m.t.Failed() {
		m.t.Logf("weir demo said:\n%s", m.log)
	}
}

// freePorts returns the first of n consecutive ports that are free now, below
// those that the system gives to outgoing connections.
func freePorts(t *testing.T, n int) int {
	t.Helper()
	const first, last = 12_000, 32_000
	start := os.Getpid() % 997 * 20
next:
	for tried := 0; tried < last-first; tried += n {
		base := first + (start+tried)%(last-first-n)
		for i := range n {
			ln, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(base+i))
			if err != nil {
				continue next
			}
			_ = ln.Close()
		}
		return base
	}
	t.Fatal("no free ports")
	return 0
}

// weir runs the CLI against the mesh and returns its standard output.
func (m *mesh) weir(args ...string) string {
	m.t.Helper()
	out, errOut, err := m.try(args...)
	if err != nil {
		m.t.Fatalf("weir %s: %v\n%s%s", strings.Join(args, " "), err, out, errOut)
	}
	return out
}

func (m *mesh) try(args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "weir"), args...)
	cmd.Env = append(os.Environ(), "WEIR_API_ADDR="+m.grpc)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	return out.String(), errOut.String(), err
}

// statRow is what `weir stat -o json` says of a workload.
type statRow struct {
	Namespace  string            `json:"namespace"`
	Kind       string            `json:"kind"`
	Name       string            `json:"name"`
	Meshed     string            `json:"meshed"`
	Success    float64           `json:"success"`
	RPS        float64           `json:"rps"`
	Requests   uint64            `json:"requests"`
	Status     map[string]uint64 `json:"status"`
	GRPCStatus map[string]uint64 `json:"grpc_status"`
	Shed       uint64            `json:"shed"`
	Lost       uint64            `json:"lost_batches"`
	Offenders  []struct {
		Reason string `json:"reason"`
		Count  uint64 `json:"count"`
	} `json:"offenders"`
}

// stat returns the rows of the last ten minutes by name.
func (m *mesh) stat(args ...string) map[string]statRow {
	m.t.Helper()
	out := m.weir(append([]string{"stat", "deploy", "-n", "emojivoto", "-t", "10m", "-o", "json"}, args...)...)
	var rows []statRow
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		m.t.Fatalf("%v in %s", err, out)
	}
	byName := map[string]statRow{}
	for _, r := range rows {
		byName[r.Name] = r
	}
	return byName
}

// get reads JSON from the HTTP API.
func (m *mesh) get(path string, into any) {
	m.t.Helper()
	body := get(m.t, "http://"+m.http+path)
	if err := json.Unmarshal([]byte(body), into); err != nil {
		m.t.Fatalf("%s: %v in %s", path, err, body)
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %s, %v", url, resp.Status, body, err)
	}
	return string(body)
}

// eventually waits until check returns "", or fails with what it said last. It
// waits for a minute at least: others may have the machine.
func eventually(t *testing.T, within time.Duration, check func() string) {
	t.Helper()
	within = max(within, time.Minute)
	deadline := time.Now().Add(within)
	for {
		problem := check()
		if problem == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v still: %s", within, problem)
		}
		time.Sleep(200 * time.Millisecond)
	}
}
