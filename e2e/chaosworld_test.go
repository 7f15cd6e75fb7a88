package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// actor is a program that chaos comes upon: it has a host of its own.
type actor struct {
	*netHost
	name string
	args []string
	dir  string // of its log

	mu      sync.Mutex
	cmd     *exec.Cmd
	done    chan struct{} // closed when it has ended
	started time.Time
	kills   int
	crashes []string
}

// start starts the program, which must not run.
func (a *actor) start() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	log, err := os.OpenFile(a.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd, done := exec.Command(a.args[0], a.args[1:]...), make(chan struct{})
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := a.in(cmd.Start); err != nil {
		return fmt.Errorf("cannot start %s: %w", a.name, err)
	}
	go func() { defer close(done); _ = cmd.Wait() }()
	a.cmd, a.done, a.started = cmd, done, time.Now()
	return nil
}

func (a *actor) log() string { return filepath.Join(a.dir, a.name+".log") }

// began is when the program was started last.
func (a *actor) began() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.started
}

// running tells whether the program runs.
func (a *actor) running() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done == nil {
		return false
	}
	select {
	case <-a.done:
		return false
	default:
		return true
	}
}

// signal sends a signal to the program, if it runs.
func (a *actor) signal(s syscall.Signal) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cmd == nil {
		return nil
	}
	if err := a.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("cannot signal %s: %w", a.name, err)
	}
	return nil
}

// end ends the program by a signal.
func (a *actor) end(s syscall.Signal) error {
	a.mu.Lock()
	done := a.done
	if s == syscall.SIGKILL {
		a.kills++
	}
	a.mu.Unlock()
	if done == nil {
		return nil
	}
	if err := a.signal(s); err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-time.After(30 * time.Second):
	}
	if err := a.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-done
	a.mu.Lock()
	a.kills++
	a.mu.Unlock()
	return fmt.Errorf("%s did not end within 30 s of %v", a.name, s)
}

// revive does what Kubernetes would: it starts what has ended by itself, which
// is a crash unless it may.
func (a *actor) revive(may bool) error {
	if a.running() {
		return nil
	}
	if !may {
		a.mu.Lock()
		a.crashes = append(a.crashes, fmt.Sprintf("%s, started at %s, ended by itself: %v", a.name, a.started.Format("15:04:05.000"), a.cmd.ProcessState))
		a.mu.Unlock()
	}
	return a.start()
}

// Whom chaos comes upon.
const (
	chaosPods        = 4
	chaosAggregators = 3
)

// chaosWorld is a mesh whose every process has a host, a network between them,
// and a disk for the bus.
type chaosWorld struct {
	*mesh
	net         *network
	disk        *disk
	busAt       *actor
	aggregators []*actor
	api         *actor
	pods        []*chaosPod
	logs        string // folder
	began       time.Time

	asking sync.Mutex
	// told is the last whole answer, answers how many there were; guarded by asking.
	told    map[string]podRow
	answers int
}

// everyone is all that may be made to fail, and the API.
func (w *chaosWorld) everyone() []*actor {
	all := append([]*actor{w.busAt, w.api}, w.aggregators...)
	for _, p := range w.pods {
		all = append(all, p.actor)
	}
	return all
}

func (w *chaosWorld) actor(name string, args func(h *netHost) []string) *actor {
	h := w.net.host()
	all := args(h)
	return &actor{netHost: h, name: name, dir: w.logs, args: append([]string{filepath.Join(bin, all[0])}, all[1:]...)}
}

// newChaosWorld starts a mesh with pods that have clients of their own, logging
// to WEIR_CHAOS_LOGS, where that is set. What it
// makes is gone with the process of the test, whatever becomes of that.
func newChaosWorld(t *testing.T) *chaosWorld {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("chaos needs network namespaces and a disk of its own: run this as root")
		}
		t.Skip("NOT TESTED: chaos needs network namespaces and a disk of its own: run this as root")
	}
	w := &chaosWorld{mesh: &mesh{t: t, log: &syncBuffer{}}, net: newNetwork(t), disk: newDisk(t, "512m"), logs: os.Getenv("WEIR_CHAOS_LOGS")}
	if w.logs == "" {
		w.logs = t.TempDir()
	}
	t.Cleanup(w.end)
	w.busAt = w.actor("bus", func(h *netHost) []string {
		return []string{"weir", "bus", "--listen", h.ip + ":4222", "--insecure", "--data", w.disk.path() + "/data", "--admin", "127.0.0.1:9000",
			"--events-max-bytes", strconv.Itoa(200 << 20), "--rollups-max-bytes", strconv.Itoa(64 << 20)}
	})
	at := "nats://" + w.busAt.ip + ":4222"
	w.api = w.actor("api", func(*netHost) []string {
		return []string{"weir", "api", "--bus", at, "--grpc-addr", "127.0.0.1:8085", "--http-addr", "127.0.0.1:8086"}
	})
	for i := range chaosAggregators {
		id := "agg-" + strconv.Itoa(i)
		w.aggregators = append(w.aggregators, w.actor(id, func(*netHost) []string {
			return []string{"weir", "aggregator", "--bus", at, "--id", id, "--admin", "127.0.0.1:9000"}
		}))
	}
	for i := range chaosPods {
		w.pods = append(w.pods, w.newPod(i, at))
	}
	for _, a := range w.everyone() {
		if err := a.start(); err != nil {
			t.Fatal(err)
		}
	}
	w.bus, w.grpc, w.http = w.busAt.forward(w.busAt.ip+":4222"), w.api.forward("127.0.0.1:8085"), w.api.forward("127.0.0.1:8086")
	w.began = time.Now().Truncate(time.Second)
	w.mesh.began = w.began.Format(time.RFC3339)
	return w
}

// newPod makes a pod, two a workload: an application, its proxy with a spool,
// and clients. The last one has a small buffer and large paths, so that it
// cannot keep what it records while the bus is away.
func (w *chaosWorld) newPod(i int, at string) *chaosPod {
	t := w.t
	name := fmt.Sprintf("shop-%d-%d", i/2, i)
	p := &chaosPod{answered: map[int]bool{}, clients: 3, pause: 40 * time.Millisecond}
	buffer := "4MiB"
	if p.small = i == chaosPods-1; p.small {
		buffer, p.clients, p.pause = "64KiB", 6, 30*time.Millisecond
	}
	spool := t.TempDir()
	p.actor = w.actor(name, func(*netHost) []string {
		return []string{"weir-proxy", "--inbound", "127.0.0.1:4143=127.0.0.1:8080", "--bus", at, "--workload", fmt.Sprintf("chaos/deploy/shop-%d", i/2),
			"--pod", name, "--admin", "127.0.0.1:9000", "--telemetry-spool", spool, "--telemetry-buffer", buffer,
			"--drain-delay", "0s", "--drain-timeout", "3s"}
	})
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = rw.Write([]byte("ok"))
	})}
	ln := p.listen(t, "127.0.0.1:8080")
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close() })
	return p
}

// end ends everything, and shows what it said where the test failed.
func (w *chaosWorld) end() {
	for _, a := range w.everyone() {
		if a == nil || !a.running() {
			continue
		}
		_ = a.signal(syscall.SIGCONT)
		if err := a.end(syscall.SIGKILL); err != nil {
			w.t.Error(err)
		}
	}
	if !w.t.Failed() {
		return
	}
	for _, a := range w.everyone() {
		if a == nil {
			continue
		}
		b, err := os.ReadFile(a.log())
		w.t.Logf("%s said at last (%v):\n%s", a.name, err, b[max(0, len(b)-3000):])
	}
}
