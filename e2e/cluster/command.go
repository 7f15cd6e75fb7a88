package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// Command returns a command that runs in the node's network, where pods' addresses,
// Services' addresses and the API server at 127.0.0.1:6443 answer; nothing else
// does. KUBECONFIG and PATH lead to this cluster's API server and its own kubectl.
// Files and processes are the host's.
func (c *Cluster) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return c.enter(ctx, []string{"--net"}, name, args)
}

// NodeCommand is as Command, but sees the node's mounts too: /run/containerd, and
// the kubelet's folders.
func (c *Cluster) NodeCommand(ctx context.Context, name string, args ...string) *exec.Cmd {
	return c.enter(ctx, []string{"--net", "--mount"}, name, args)
}

func (c *Cluster) enter(ctx context.Context, namespaces []string, name string, args []string) *exec.Cmd {
	all := append([]string{"--target", strconv.Itoa(c.pid)}, namespaces...)
	// Entering a mount namespace would change the working folder.
	all = append(all, "--wd=.", "--", name)
	cmd := exec.CommandContext(ctx, "nsenter", append(all, args...)...)
	cmd.Env = c.Environ()
	return cmd
}

// Environ is this process's environment with what clients of the cluster need:
// KUBECONFIG, PATH, and caches of kubectl that go with the cluster.
func (c *Cluster) Environ() []string {
	return append(os.Environ(),
		"KUBECONFIG="+c.Kubeconfig(),
		"KUBECACHEDIR="+filepath.Join(c.config.Dir, "kubecache"),
		"KUBERC=off",
		"PATH="+c.config.Bin+":"+os.Getenv("PATH")+":"+searchPath,
	)
}

// Kubectl runs kubectl and returns what it printed. The error has what it said.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.kubectl(ctx, nil, args)
}

// Apply runs kubectl apply on manifests.
func (c *Cluster) Apply(ctx context.Context, manifests string) error {
	_, err := c.kubectl(ctx, bytes.NewBufferString(manifests), []string{"apply", "-f", "-"})
	return err
}

func (c *Cluster) kubectl(ctx context.Context, in io.Reader, args []string) (string, error) {
	cmd := c.Command(ctx, "kubectl", args...)
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, &said
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %q: %w: %s", args, err, bytes.TrimSpace(said.Bytes()))
	}
	return out.String(), nil
}

// ImportImage gives the node an image, from a tar file as `make images` writes it.
// Pods use it by its name, with imagePullPolicy Never or IfNotPresent; importing
// another under the same name affects new pods only.
func (c *Cluster) ImportImage(ctx context.Context, tar string) error {
	tar, err := filepath.Abs(tar)
	if err != nil {
		return fmt.Errorf("cannot import %s: %w", tar, err)
	}
	f, err := os.Open(tar)
	if err != nil {
		return fmt.Errorf("cannot import an image: %w", err)
	}
	defer f.Close()
	// By way of stdin: the node has folders of its own over some of the host's.
	cmd := c.NodeCommand(ctx, "ctr", "--namespace", "k8s.io", "images", "import", "--snapshotter", "overlayfs", "-")
	var said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = f, &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("cannot import %s: %w: %s", tar, err, tail(&said, 10))
	}
	return nil
}

// DialContext connects from within the node's network; it fits http.Transport and
// rest.Config. The address must be numeric: names are for pods to look up.
func (c *Cluster) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if err := numeric(address); err != nil {
		return nil, err
	}
	var conn net.Conn
	err := c.inNetwork(func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens within the node's network, for pods to connect to: at the node's
// own address, or all of it with an address of 0.0.0.0.
func (c *Cluster) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	if err := numeric(address); err != nil {
		return nil, err
	}
	var l net.Listener
	err := c.inNetwork(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(ctx, network, address)
		return err
	})
	return l, err
}

// numeric refuses what would be looked up: by other threads, in the host's network.
func numeric(address string) error {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return fmt.Errorf("cannot use the address %q in a cluster's network: %w", address, err)
	}
	return nil
}

// inNetwork runs f on a thread that is in the node's network. What f opens stays
// there; f must open it itself, not in another goroutine.
func (c *Cluster) inNetwork(f func() error) error {
	theirs, err := os.Open("/proc/" + strconv.Itoa(c.pid) + "/ns/net")
	if err != nil {
		return fmt.Errorf("cannot enter the cluster's network: %w", err)
	}
	defer theirs.Close()
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			result <- fmt.Errorf("cannot enter the cluster's network: %w", err)
			return
		}
		defer own.Close()
		if err := unix.Setns(int(theirs.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("cannot enter the cluster's network: %w", err)
			return
		}
		err = f()
		// A thread that cannot come back stays locked, and ends here.
		if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// errEnded says that the node is gone.
var errEnded = errors.New("the node ended")
