package node

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// link is the node's own interface: a pair whose two ends are both here, since
// not every kernel has dummy devices.
const link = "node0"

// mounts makes the node's view of files: all that Kubernetes and containerd write
// to fixed places is under Dir or in memory, and goes with the namespace.
func (c Config) mounts() error {
	// Nothing goes out to the host; but containers' mounts are to be shared here.
	for _, flags := range []uintptr{syscall.MS_PRIVATE, syscall.MS_SHARED} {
		if err := syscall.Mount("", "/", "", flags|syscall.MS_REC, ""); err != nil {
			return fmt.Errorf("cannot set how / is shared: %w", err)
		}
	}
	if err := syscall.Mount("proc", "/proc", "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("cannot mount /proc: %w", err)
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("cannot mount /run: %w", err)
	}
	if err := os.MkdirAll("/run/lock", 0o755); err != nil {
		return err
	}
	dirs := []string{"log", "cni", "cni-data", "etcd", "kubelet", "kubelet-plugins", "podlogs", "containerd", "fake", "var/log", "var/lib", "var/work"}
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(c.Dir, dir), 0o755); err != nil {
			return fmt.Errorf("cannot make the node's folders: %w", err)
		}
	}
	// The kubelet's device plugins and libcni's cache have fixed places in /var/lib.
	overlay := fmt.Sprintf("lowerdir=/var/lib,upperdir=%s,workdir=%s", filepath.Join(c.Dir, "var/lib"), filepath.Join(c.Dir, "var/work"))
	if err := syscall.Mount("overlay", "/var/lib", "overlay", 0, overlay); err != nil {
		return fmt.Errorf("cannot mount over /var/lib: %w", err)
	}
	if err := bind(filepath.Join(c.Dir, "var/log"), "/var/log"); err != nil {
		return err
	}
	return c.fakeSettings()
}

func bind(from, to string) error {
	if err := syscall.Mount(from, to, "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("cannot mount over %s: %w", to, err)
	}
	return nil
}

// fakeSettings shows the kubelet the kernel's settings as it wants them: it would
// write them otherwise, and they are the whole machine's.
func (c Config) fakeSettings() error {
	for setting, value := range map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	} {
		target := filepath.Join("/proc/sys", setting)
		if _, err := os.Stat(target); err != nil {
			continue // this kernel does not have it
		}
		fake := filepath.Join(c.Dir, "fake", filepath.Base(setting))
		if err := os.WriteFile(fake, []byte(value+"\n"), 0o644); err != nil {
			return fmt.Errorf("cannot hide %s: %w", target, err)
		}
		if err := bind(fake, target); err != nil {
			return err
		}
	}
	return nil
}

// network gives the node its address. There is no way out of it.
func (c Config) network(p *processes) error {
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", link, "type", "veth", "peer", "name", link + "p"},
		{"link", "set", link + "p", "up"},
		{"addr", "add", c.Address.String(), "dev", link},
		{"link", "set", link, "up"},
		// Without a route a connection to a Service fails before its address is
		// replaced by an endpoint's.
		{"route", "add", c.ServiceRange.String(), "dev", link},
	} {
		if err := p.run("ip", args...); err != nil {
			return err
		}
	}
	for setting, why := range map[string]string{
		"net/ipv4/ip_forward":                "pods reach each other through it",
		"net/bridge/bridge-nf-call-iptables": "pods reach Services through it; `modprobe br_netfilter` on the host",
	} {
		if err := os.WriteFile(filepath.Join("/proc/sys", setting), []byte("1\n"), 0o644); err != nil {
			return fmt.Errorf("cannot set %s, %s: %w", setting, why, err)
		}
	}
	return nil
}
