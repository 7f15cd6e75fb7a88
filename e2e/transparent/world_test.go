package transparent

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/event"
)

// proxyUID is the user that sidecars run as.
const proxyUID = 1337

// bin is the folder of the built binaries, self this program.
var bin, self string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if role := os.Getenv(roleVariable); role != "" {
		return play(role)
	}
	dir, err := os.MkdirTemp("", "weir-transparent-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = os.Chmod(dir, 0o755) // sidecars are not root
	}
	if err == nil {
		self, err = os.Executable()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "weir-proxy"), "../../cmd/weir-proxy")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "cannot build weir-proxy: %v\n%s", err, out)
		return 1
	}
	bin = dir
	return m.Run()
}

// world is a network of hosts. All of it ends with the test: a namespace lives
// as long as a process or an open file holds it, and nobody else holds these.
type world struct {
	t      *testing.T
	dir    string
	bridge *namespace
	hosts  int
	events *output // of the role "events"
	bus    *host
}

// namespace is a network namespace, held by a file.
type namespace struct{ file *os.File }

func (n *namespace) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// newWorld makes the network, and a host with the bus and without a sidecar.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	for dir := w.dir; strings.HasPrefix(dir, os.TempDir()) && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil { // servers that are not root live in it
			t.Fatal(err)
		}
	}
	w.bridge = newNamespace(t)
	w.bridge.sh(t, "ip link set lo up")
	w.bridge.sh(t, "ip link add br0 type bridge")
	w.bridge.sh(t, "ip addr add 10.77.0.1/24 dev br0")
	w.bridge.sh(t, "ip addr add fd77::1/64 dev br0 nodad")
	w.bridge.sh(t, "ip link set br0 up")
	w.bus = w.host("bus")
	w.bus.role("bus", t.TempDir())
	w.events = w.bus.role("events", "nats://127.0.0.1:4222")
	return w
}

// newNamespace makes a namespace without anything in it.
func newNamespace(t *testing.T) *namespace {
	t.Helper()
	type result struct {
		file *os.File
		err  error
	}
	made := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err == nil {
			defer home.Close()
			err = unix.Unshare(unix.CLONE_NEWNET)
		}
		var f *os.File
		if err == nil {
			f, err = os.Open("/proc/thread-self/ns/net")
			goHome(home)
		}
		made <- result{f, err}
	}()
	r := <-made
	switch {
	case r.err == nil:
	case os.Getenv("CI") == "true":
		t.Fatalf("cannot make a network namespace: %v; the tests of interception need root", r.err)
	default:
		t.Skipf("NOT TESTED: cannot make a network namespace: %v; run this as root", r.err)
	}
	t.Cleanup(func() { _ = r.file.Close() })
	return &namespace{r.file}
}

// in calls f on a thread in the namespace: sockets and processes that f itself
// makes are in there.
func (n *namespace) in(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			result <- err
			return
		}
		defer home.Close()
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- err
			return
		}
		err = f()
		goHome(home)
		result <- err
	}()
	return <-result
}

// goHome takes the locked thread back to its first namespace, and unlocks it.
// It must not end instead: processes are killed with the thread that made them,
// and it may have made some.
func goHome(home *os.File) {
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err == nil {
		runtime.UnlockOSThread()
	}
}

// sh runs a command in the namespace, which must succeed.
func (n *namespace) sh(t *testing.T, line string) string {
	t.Helper()
	out, err := n.output(strings.Fields(line)...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return out
}

// output runs a command in the namespace and returns all that it wrote.
func (n *namespace) output(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var b bytes.Buffer
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &b, &b
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := n.in(cmd.Start); err != nil {
		return "", fmt.Errorf("%w; make test-deps installs what the tests run", err)
	}
	err := cmd.Wait()
	return b.String(), err
}

// host is a namespace on the network.
type host struct {
	*namespace
	w        *world
	name     string
	ip4, ip6 string
	proxy    *process
}

// host makes a host without anything running on it.
func (w *world) host(name string) *host {
	w.t.Helper()
	w.hosts++
	h := &host{
		namespace: newNamespace(w.t), w: w, name: name,
		ip4: fmt.Sprintf("10.77.0.%d", 10+w.hosts), ip6: fmt.Sprintf("fd77::%x", 10+w.hosts),
	}
	port := fmt.Sprintf("p%d", w.hosts)
	w.bridge.sh(w.t, fmt.Sprintf("ip link add %s type veth peer name eth0 netns %s", port, h.path()))
	w.bridge.sh(w.t, fmt.Sprintf("ip link set %s master br0 up", port))
	for _, line := range []string{
		"ip link set lo up",
		"ip addr add " + h.ip4 + "/24 dev eth0",
		"ip addr add " + h.ip6 + "/64 dev eth0 nodad",
		"ip link set eth0 up",
		"ip route add default via 10.77.0.1",
		"ip -6 route add default via fd77::1",
	} {
		h.sh(w.t, line)
	}
	return h
}

// process is a program on a host.
type process struct {
	cmd  *exec.Cmd
	out  *output
	done chan struct{}
	err  error
	// ends: it is meant to end before the test does.
	ends bool
}

// start runs a program on the host until the test ends.
func (h *host) start(uid uint32, args ...string) *process {
	t := h.w.t
	t.Helper()
	p := &process{cmd: exec.Command(args[0], args[1:]...), out: &output{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if err := h.in(p.cmd.Start); err != nil {
		t.Fatalf("cannot start %s: %v; make test-deps installs what the tests run", args[0], err)
	}
	go func() { defer close(p.done); p.err = p.cmd.Wait() }()
	t.Cleanup(func() {
		select {
		case <-p.done:
			if !p.ends {
				t.Errorf("%q on %s ended before the test: %v", args, h.name, p.err)
			}
		default:
		}
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
			_ = p.cmd.Process.Kill()
			<-p.done
		}
		if t.Failed() {
			t.Logf("%s on %s:\n%s", args[0], h.name, p.out.tail(4000))
		}
	})
	return p
}

// stop ends the program in order and returns when it has ended.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.ends = true
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s does not end:\n%s", p.cmd.Path, p.out.tail(4000))
	}
	if p.err != nil {
		t.Fatalf("%s: %v\n%s", p.cmd.Path, p.err, p.out.tail(4000))
	}
}

// await waits until the program wrote what it says when it is ready.
func (p *process) await(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if strings.Contains(p.out.tail(1<<20), text) {
			return
		}
		select {
		case <-p.done:
			t.Fatalf("%s ended: %v\n%s", p.cmd.Path, p.err, p.out.tail(4000))
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not say %q:\n%s", p.cmd.Path, text, p.out.tail(4000))
		}
	}
}

// role runs this program in another role on the host, until it is ready.
func (h *host) role(args ...string) *output {
	h.w.t.Helper()
	p := h.start(0, append([]string{"/usr/bin/env", roleVariable + "=" + strings.Join(args, " ")}, self)...)
	p.await(h.w.t, ready)
	return p.out
}

// mesh redirects the host's traffic and starts its sidecar.
func (h *host) mesh(initArgs ...string) *host {
	h.w.t.Helper()
	h.init(initArgs...)
	h.startProxy()
	return h
}

// init runs `weir-proxy init` as root.
func (h *host) init(args ...string) string {
	h.w.t.Helper()
	out, err := h.output(append([]string{bin + "/weir-proxy", "init"}, args...)...)
	if err != nil {
		h.w.t.Fatalf("weir-proxy init %q on %s: %v\n%s", args, h.name, err, out)
	}
	return out
}

// startProxy starts the sidecar as a user of its own.
func (h *host) startProxy(args ...string) {
	h.w.t.Helper()
	h.proxy = h.start(proxyUID, append([]string{bin + "/weir-proxy", "run", "--transparent", "--workload", "test/deploy/" + h.name, "--pod", h.name + "-0",
		"--bus", "nats://" + h.w.bus.ip4 + ":4222", "--drain-delay", "0s", "--drain-timeout", "5s"}, args...)...)
	h.proxy.await(h.w.t, "accepting connections")
	eventually(h.w.t, "a ready sidecar", func() bool {
		_, err := h.output("curl", "-fsS", "-m", "2", "http://127.0.0.1:4191/ready")
		return err == nil
	})
}

// metric reads one number of the sidecar's.
func (h *host) metric(name string) string {
	h.w.t.Helper()
	text := h.sh(h.w.t, "curl -fsS -m 10 http://127.0.0.1:4191/metrics")
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	h.w.t.Fatalf("there is no metric %s in\n%s", name, text)
	return ""
}

// dial connects from the host.
func (h *host) dial(addr string) net.Conn {
	h.w.t.Helper()
	c, err := h.tryDial(addr)
	if err != nil {
		h.w.t.Fatal(err)
	}
	return c
}

func (h *host) tryDial(addr string) (c net.Conn, err error) {
	err = h.in(func() error {
		c, err = net.DialTimeout("tcp", addr, 10*time.Second)
		return err
	})
	if err == nil {
		h.w.t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	}
	return c, err
}

// expect reads what a server must say.
func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

// seen waits for an end event of which f holds.
func (w *world) seen(t *testing.T, what string, f func(e *event.JSONEvent) bool) event.JSONEvent {
	t.Helper()
	var found event.JSONEvent
	deadline := time.Now().Add(time.Minute)
	for ; time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		for _, e := range w.list(t) {
			if e.Event == "end" && f(&e) {
				return e
			}
		}
	}
	t.Fatalf("no event of %s among\n%s", what, w.events.tail(6000))
	return found
}

// list is every event so far.
func (w *world) list(t *testing.T) []event.JSONEvent {
	t.Helper()
	var out []event.JSONEvent
	s := bufio.NewScanner(strings.NewReader(w.events.tail(1 << 30)))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if !strings.HasPrefix(s.Text(), "{") {
			continue
		}
		e, err := event.ParseJSON(s.Bytes())
		if err != nil {
			continue // a line that is being written
		}
		out = append(out, e)
	}
	return out
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// output is what a program wrote, for several goroutines.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// tail is the last n bytes.
func (o *output) tail(n int) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	b := o.b.Bytes()
	return string(b[max(len(b)-n, 0):])
}
