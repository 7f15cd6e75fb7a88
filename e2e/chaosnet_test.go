package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// netns is a network namespace, held by a file: it is gone when nothing uses it
// any more, however the test ends.
type netns struct {
	file *os.File
	// use is held while the file is used, and locked to close it: connections
	// may still be carried then.
	use    sync.RWMutex
	closed bool
}

// newNetns makes a namespace without anything in it.
func newNetns(t *testing.T) *netns {
	t.Helper()
	made := make(chan error, 1)
	n := &netns{}
	go func() {
		made <- elsewhere(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() (err error) {
			n.file, err = os.Open("/proc/thread-self/ns/net")
			return err
		})
	}()
	if err := <-made; err != nil {
		t.Fatalf("cannot make a network namespace: %v", err)
	}
	t.Cleanup(func() {
		n.use.Lock()
		defer n.use.Unlock()
		n.closed = true
		_ = n.file.Close()
	})
	return n
}

// elsewhere calls f on a thread that enter took to another network namespace.
// The goroutine must be one that does nothing else.
func elsewhere(enter, f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	if err := enter(); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = f()
	// The thread must go home instead of ending: processes are killed with the
	// thread that made them. Where it cannot, it stays locked and ends.
	if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return err
}

// in calls f on a thread in the namespace: sockets and processes that f itself
// makes are in there.
func (n *netns) in(f func() error) error {
	n.use.RLock()
	defer n.use.RUnlock()
	if n.closed {
		return os.ErrClosed
	}
	done := make(chan error, 1)
	go func() {
		done <- elsewhere(func() error { return unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET) }, f)
	}()
	return <-done
}

// run runs a command in the namespace.
func (n *netns) run(line string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	args := strings.Fields(line)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := n.in(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", line, err, out.String())
	}
	return nil
}

func (n *netns) must(t *testing.T, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if err := n.run(line); err != nil {
			t.Fatalf("%v (make test-deps installs what the tests run)", err)
		}
	}
}

// dial connects from within the namespace.
func (n *netns) dial(ctx context.Context, addr string) (c net.Conn, err error) {
	err = n.in(func() error {
		d := net.Dialer{Timeout: 5 * time.Second}
		c, err = d.DialContext(ctx, "tcp", addr)
		return err
	})
	return c, err
}

// listen listens within the namespace.
func (n *netns) listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	var ln net.Listener
	if err := n.in(func() (err error) { ln, err = net.Listen("tcp", addr); return err }); err != nil {
		t.Fatal(err)
	}
	return ln
}

// network is a switch, and hosts that are plugged into it.
type network struct {
	t      *testing.T
	bridge *netns
	hosts  int
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{t: t, bridge: newNetns(t)}
	n.bridge.must(t, "ip link set lo up", "ip link add br0 type bridge", "ip link set br0 up",
		"nft add table bridge chaos",
		"nft add chain bridge chaos forward { type filter hook forward priority 0 ; }",
		"nft add set bridge chaos deaf { type ifname ; }",
		"nft add rule bridge chaos forward oifname @deaf drop")
	return n
}

// netHost is a host on a network.
type netHost struct {
	*netns
	n        *network
	ip, port string
}

func (n *network) host() *netHost {
	n.t.Helper()
	n.hosts++
	h := &netHost{netns: newNetns(n.t), n: n, ip: "10.78.0." + strconv.Itoa(10+n.hosts), port: "p" + strconv.Itoa(n.hosts)}
	n.bridge.must(n.t,
		fmt.Sprintf("ip link add %s type veth peer name eth0 netns /proc/%d/fd/%d", h.port, os.Getpid(), h.file.Fd()),
		"ip link set "+h.port+" master br0 up")
	h.must(n.t, "ip link set lo up", "ip addr add "+h.ip+"/24 dev eth0", "ip link set eth0 up")
	return h
}

// cut takes the host off the network, or puts it back.
func (h *netHost) cut(off bool) error {
	state := "up"
	if off {
		state = "down"
	}
	return h.n.bridge.run("ip link set " + h.port + " " + state)
}

// deafen lets nothing through to the host, but all from it: what it sends
// arrives, and nobody's answer comes back.
func (h *netHost) deafen(on bool) error {
	verb := "delete"
	if on {
		verb = "add"
	}
	return h.n.bridge.run("nft " + verb + " element bridge chaos deaf { " + h.port + " }")
}

// forward gives an address of this machine's that leads to one in the namespace.
func (h *netHost) forward(addr string) string {
	t := h.n.t
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go carry(ln, func() (net.Conn, error) { return h.dial(context.Background(), addr) })
	return ln.Addr().String()
}

// disk is a file system of its own, in memory, that nothing but an open file
// holds: it is gone with the test, however that ends.
type disk struct {
	mount int
	// filled and freed are when it last was.
	filled, freed time.Time
}

func newDisk(t *testing.T, size string) *disk {
	t.Helper()
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatalf("cannot make a disk: %v", err)
	}
	defer func() { _ = unix.Close(fs) }()
	if err := unix.FsconfigSetString(fs, "size", size); err != nil {
		t.Fatalf("cannot make a disk: %v", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		t.Fatalf("cannot make a disk: %v", err)
	}
	d := &disk{}
	if d.mount, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0); err != nil {
		t.Fatalf("cannot make a disk: %v", err)
	}
	t.Cleanup(func() { _ = unix.Close(d.mount) })
	return d
}

// path is where every process of this user finds the disk.
func (d *disk) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), d.mount) }

func (d *disk) ballast() string { return d.path() + "/ballast" }

// fill leaves no room on the disk.
func (d *disk) fill() error {
	d.filled = time.Now()
	f, err := os.Create(d.ballast())
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for {
		// In ever smaller pieces, to the last page.
		if _, err := f.Write(block); err != nil {
			if len(block) == 1 {
				return nil
			}
			block = block[:len(block)/2]
		}
	}
}

// excuses tells whether who started at a time may have ended by itself: a bus does
// not come up on a full disk, and says so, maybe a little after there is room again.
func (d *disk) excuses(started time.Time) bool {
	const start = 5 * time.Second // takes no longer
	return started.After(d.filled.Add(-start)) && started.Before(d.freed) && time.Since(d.freed) < 2*start
}

// free gives the room back.
func (d *disk) free() error {
	defer func() { d.freed = time.Now() }()
	if err := os.Remove(d.ballast()); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}
