package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for something that must come. It is no figure of
// the proxy's: the machine may be busy.
const patience = 60 * time.Second

// binary is the proxy under test.
var binary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if address := os.Getenv(envServer); address != "" {
		fmt.Fprintln(os.Stderr, serveHello(address))
		return 1
	}
	dir, err := os.MkdirTemp("", "weir-conformance-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "weir-proxy")
	args := []string{"build", "-trimpath", "-ldflags=-s -w", "-o", binary}
	env := append(os.Environ(), "CGO_ENABLED=0")
	if raced {
		args = append(args, "-race")
		env = append(os.Environ(), "CGO_ENABLED=1")
	}
	cmd := exec.Command("go", append(args, "../../cmd/weir-proxy")...)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "cannot build weir-proxy: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// tool returns the path of a program that tools/conformance builds.
func tool(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("../../hack/tools.sh", "conformance").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("cannot build the tools: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), name)
}

// program returns the path of a program of the system.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is not installed: run 'make test-deps'", name)
	}
	return path
}

// output is a bytes.Buffer for several goroutines.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// process is a program that runs until the test ends, or stop.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  *output
	done chan struct{} // closed when it has ended
	err  error         // its end; valid then
}

// start runs a program. It fails the test if the program had to be killed.
func start(t *testing.T, path string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(path, args...), log: &output{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() && p.log.String() != "" {
			t.Logf("%s said:\n%s", filepath.Base(path), lastLines(p.log.String(), 60))
		}
	})
	return p
}

// lastLines keeps a log readable.
func lastLines(s string, n int) string {
	lines := strings.SplitAfter(s, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

// ended tells whether p has ended.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop asks p to end and waits for it.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.done
		p.t.Errorf("%s did not end within %v", p.cmd.Path, patience)
	}
}

// proxy is a weir-proxy that is ready.
type proxy struct {
	*process
	args  []string
	addr  string // of its only listener
	admin string
}

// startProxy runs a weir-proxy with one listener, "inbound" or "outbound",
// that carries to target ("HOST:PORT", options after it).
func startProxy(t *testing.T, direction, target string, args ...string) *proxy {
	t.Helper()
	for range 5 {
		p := &proxy{addr: freeAddr(t), admin: freeAddr(t)}
		p.args = append([]string{"--" + direction, p.addr + "=" + target, "--admin", p.admin}, args...)
		if !slices.Contains(args, "--drain-delay") {
			p.args = append(p.args, "--drain-delay", "0s", "--drain-timeout", "5s")
		}
		p.process = start(t, binary, p.args...)
		if p.ready() {
			return p
		}
		if !strings.Contains(p.log.String(), "address already in use") {
			t.Fatalf("weir-proxy %s: not ready:\n%s", strings.Join(p.args, " "), p.log)
		}
	}
	t.Fatal("no free ports")
	return nil
}

// ready waits until p accepts; false: it has ended instead.
func (p *proxy) ready() bool {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if p.ended() {
			return false
		}
		resp, err := http.Get("http://" + p.admin + "/ready")
		if err != nil {
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return true
		}
	}
	return false
}

// pair starts an inbound proxy before target and an outbound one before that:
// what a meshed call passes. It returns them in the order of a request.
func pair(t *testing.T, target string, args ...string) (out, in *proxy) {
	t.Helper()
	in = startProxy(t, "inbound", target, args...)
	return startProxy(t, "outbound", in.addr+",mesh", args...), in
}

// metric reads one of the proxy's metrics; 0 where it is not there.
func (p *proxy) metric(name string) float64 {
	p.t.Helper()
	body := p.metrics()
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				p.t.Fatalf("%s: %v", line, err)
			}
			return v
		}
	}
	return 0
}

func (p *proxy) metrics() string {
	p.t.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + p.admin + "/metrics")
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(body)
}

// descriptors counts the files that the proxy has open.
func (p *proxy) descriptors() int {
	p.t.Helper()
	entries, err := os.ReadDir("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/fd")
	if err != nil {
		p.t.Fatal(err)
	}
	return len(entries)
}

// rss is the proxy's resident memory, in bytes.
func (p *proxy) rss() int {
	p.t.Helper()
	status, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/status")
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if err != nil {
				p.t.Fatal(err)
			}
			return kb << 10
		}
	}
	p.t.Fatal("no VmRSS")
	return 0
}

// freeAddr is a loopback address that is free now, outside of the range that
// the system chooses from for connections.
func freeAddr(t *testing.T) string {
	t.Helper()
	for range 100 {
		addr := "127.0.0.1:" + strconv.Itoa(10000+rand.IntN(20000))
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		_ = ln.Close()
		return addr
	}
	t.Fatal("no free port")
	return ""
}

// listenLocal listens until the test ends.
func listenLocal(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// dial connects to address until the test ends.
func dial(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(2 * patience))
	return conn.(*net.TCPConn)
}

// eventually waits until check returns "", or fails with what it said last.
func eventually(t *testing.T, check func() string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		problem := check()
		if problem == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v still: %s", patience, problem)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
