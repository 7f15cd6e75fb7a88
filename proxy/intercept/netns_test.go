package intercept_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/proxy/intercept"
	"github.com/weirmesh/weir/proxy/ports"
)

// inNamespace calls f on a thread that is alone in a new network namespace,
// which ends with it. Sockets and processes that f itself makes are in there.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		defer func() { done <- err }()
		if err == nil {
			f()
		}
	}()
	err := <-done
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatalf("cannot make a network namespace: %v; the tests of interception need root", err)
	default:
		t.Skipf("NOT TESTED: cannot make a network namespace: %v; run this as root", err)
	}
}

// sh runs a program in the thread's namespace.
func sh(t *testing.T, line string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	words := strings.Fields(line)
	out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s; make test-deps installs what the tests run", line, err, out)
	}
	return string(out)
}

// network gives the namespace loopback and a network with a default route.
func network(t *testing.T) {
	t.Helper()
	for _, line := range []string{
		"ip link set lo up",
		"ip link add eth0 type veth peer name other0",
		"ip link set other0 up",
		"ip addr add 10.1.1.2/24 dev eth0",
		"ip addr add fd01::2/64 dev eth0 nodad",
		"ip link set eth0 up",
		"ip route add default via 10.1.1.1",
		"ip -6 route add default via fd01::1",
	} {
		sh(t, line)
	}
}

const list = "nft -s list table inet weir"

func config(change func(c *intercept.Config)) intercept.Config {
	c := intercept.DefaultConfig()
	if change != nil {
		change(&c)
	}
	return c
}

func mustPorts(t *testing.T, v string) []ports.Range {
	t.Helper()
	p, err := ports.Parse(v)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// What the kernel has is what nft makes of the text, to the letter.
func TestKernelHasTheRules(t *testing.T) {
	f := func(change func(c *intercept.Config)) {
		t.Helper()
		c := config(change)
		text, err := c.Rules()
		if err != nil {
			t.Fatal(err)
		}
		file := t.TempDir() + "/rules"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		inNamespace(t, func() {
			if changed, err := intercept.Apply(c); err != nil || !changed {
				t.Errorf("changed %t, %v", changed, err)
				return
			}
			if got := sh(t, list); got != text {
				t.Errorf("got\n%s\nwant\n%s", got, text)
			}
			if err := intercept.Installed(c); err != nil {
				t.Error(err)
			}
			sh(t, "nft delete table inet weir")
			sh(t, "nft -f "+file)
			if got := sh(t, list); got != text {
				t.Errorf("nft reads it as\n%s\nwant\n%s", got, text)
			}
			if changed, err := intercept.Apply(c); err != nil || changed {
				t.Errorf("what nft reads is not what Apply wants: changed %t, %v", changed, err)
			}
		})
	}
	f(nil)
	f(func(c *intercept.Config) {
		c.InboundPort, c.OutboundPort, c.AdminPort, c.ProxyUID = 1, 65535, 9, 4294967294
		c.SkipInbound, c.SkipOutbound = mustPorts(t, "22,8000-8010"), mustPorts(t, "1-65535")
		for _, s := range []string{"10.0.0.0/8", "192.0.2.1/32", "172.16.0.0/13", "fd00::/8", "2001:db8::1/128", "2001:db8:8000::/33"} {
			c.SkipSubnets = append(c.SkipSubnets, netip.MustParsePrefix(s))
		}
	})
	f(func(c *intercept.Config) { // the most that is accepted, in one transaction
		for i := range 64 {
			p := ports.Range{From: uint16(1000 + 3*i), To: uint16(1001 + 3*i)}
			c.SkipInbound, c.SkipOutbound = append(c.SkipInbound, p), append(c.SkipOutbound, p)
			c.SkipSubnets = append(c.SkipSubnets, netip.MustParsePrefix(fmt.Sprintf("fd00:%x::/32", i+1)))
		}
	})
}

func TestApplyTwiceChangesNothing(t *testing.T) {
	inNamespace(t, func() {
		c := config(func(c *intercept.Config) { c.SkipInbound = mustPorts(t, "22,8000-8010") })
		if _, err := intercept.Apply(c); err != nil {
			t.Error(err)
			return
		}
		// With handles, which differ wherever a rule was written anew.
		before := sh(t, "nft -a list ruleset")
		if changed, err := intercept.Apply(c); err != nil || changed {
			t.Errorf("changed %t, %v", changed, err)
		}
		if after := sh(t, "nft -a list ruleset"); after != before {
			t.Errorf("before\n%s\nafter\n%s", before, after)
		}
		// Another Config replaces it as a whole, and others' tables stay.
		sh(t, "nft add table inet theirs")
		c.SkipInbound = nil
		if changed, err := intercept.Apply(c); err != nil || !changed {
			t.Errorf("changed %t, %v", changed, err)
		}
		want, _ := c.Rules()
		if got := sh(t, list); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
		sh(t, "nft list table inet theirs")
	})
}

// Whatever somebody else does to the table is seen, and put right.
func TestInstalledSeesChanges(t *testing.T) {
	f := func(change, wants string) {
		t.Helper()
		inNamespace(t, func() {
			c := intercept.DefaultConfig()
			if _, err := intercept.Apply(c); err != nil {
				t.Error(err)
				return
			}
			sh(t, change)
			err := intercept.Installed(c)
			if !errors.Is(err, intercept.ErrNotInstalled) || !strings.Contains(err.Error(), wants) {
				t.Errorf("%s: got %v", change, err)
			}
			if changed, err := intercept.Apply(c); err != nil || !changed {
				t.Errorf("%s: changed %t, %v", change, changed, err)
			}
			if err := intercept.Installed(c); err != nil {
				t.Errorf("%s: %v", change, err)
			}
		})
	}
	f("nft delete table inet weir", "no table")
	f("nft flush chain inet weir output", "chain output has 0 rules")
	f("nft flush chain inet weir prerouting", "chain prerouting has 0 rules")
	f("nft insert rule inet weir output tcp dport 80 return", "chain output has 4 rules")
	f("nft add chain inet weir more", "3 chains")
	f("nft replace rule inet weir output handle 9 meta skuid 7 return", "rule 1 of chain output")
}

func TestUndo(t *testing.T) {
	inNamespace(t, func() {
		run := func(wants string, args ...string) {
			t.Helper()
			_, talk, err := command(nil, args...)
			if err != nil || !strings.Contains(talk, wants) {
				t.Errorf("%q: %q, %v", args, talk, err)
			}
		}
		run("there were no rules", "--undo")
		run("rules written", "--validate=false")
		run("rules removed", "--undo")
		if got := sh(t, "nft list ruleset"); got != "" {
			t.Errorf("left is\n%s", got)
		}
		run("there were no rules", "--undo")
	})
}

func TestValidation(t *testing.T) {
	inNamespace(t, func() {
		network(t)
		run := func(wants string, args ...string) {
			t.Helper()
			_, talk, err := command(nil, args...)
			if err != nil || !strings.Contains(talk, wants) {
				t.Errorf("%q: %q, %v", args, talk, err)
			}
		}
		fail := func(want error, wants string, args ...string) {
			t.Helper()
			_, _, err := command(nil, append(args, "--validate-timeout", "300ms")...)
			if !errors.Is(err, want) || !strings.Contains(err.Error(), wants) {
				t.Errorf("%q: got %v", args, err)
			}
		}
		fail(intercept.ErrNotInstalled, "no table inet weir", "--check")
		run("redirection works over IPv4 and IPv6")
		run("rules were in place already")
		run("redirection works over IPv4 and IPv6", "--check")
		run("redirection works over IPv4 and IPv6", "--skip-outbound-ports", "20000-20001")
		run("redirection works over IPv4 and IPv6", "--skip-outbound-ports", "1-30000")
		run("redirection works over IPv4 and IPv6", "--skip-subnets", "192.0.2.0/24,2001:db8::/32")
		run("redirection works over IPv6\n", "--skip-subnets", "0.0.0.0/0")
		run("every outbound port is skipped", "--skip-outbound-ports", "1-65535")
		fail(intercept.ErrNotInstalled, "chain output has", "--check")
		run("redirection works")
		// The rules are there, and something takes the packets before them.
		sh(t, "nft add table inet theirs")
		sh(t, "nft add chain inet theirs out { type filter hook output priority -300 ; }")
		sh(t, "nft add rule inet theirs out tcp dport 20001 drop")
		fail(intercept.ErrNotRedirected, "NET_ADMIN", "--check")
		sh(t, "nft delete table inet theirs")
		// The proxy listens already.
		ln, err := net.Listen("tcp4", "127.0.0.1:4140")
		if err != nil {
			t.Error(err)
			return
		}
		defer ln.Close()
		if _, _, err := command(nil, "--check"); err == nil || !strings.Contains(err.Error(), "does the proxy run already") {
			t.Errorf("got %v", err)
		}
	})
}

// Where only neighbours can be reached, one of them is what is tried; where
// nobody can, nothing can be proven.
func TestValidationWithoutDefaultRoute(t *testing.T) {
	inNamespace(t, func() {
		sh(t, "ip link set lo up")
		if _, _, err := command(nil); err == nil || !strings.Contains(err.Error(), "neither IPv4 nor IPv6") {
			t.Errorf("got %v", err)
		}
		sh(t, "ip link add eth0 type veth peer name other0")
		sh(t, "ip link set other0 up")
		sh(t, "ip addr add 10.1.1.254/24 dev eth0")
		sh(t, "ip link set eth0 up")
		if _, talk, err := command(nil); err != nil || !strings.Contains(talk, "works over IPv4\n") {
			t.Errorf("%q, %v", talk, err)
		}
	})
}

func TestRefusalIsExplained(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: run this as root")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: nobody else gets a thread without capabilities
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Capset(&header, &none[0]); err != nil {
			t.Error(err)
			return
		}
		for _, args := range [][]string{{}, {"--undo"}, {"--check"}} {
			if _, _, err := command(nil, args...); err == nil || !strings.Contains(err.Error(), "NET_ADMIN") {
				t.Errorf("%q: got %v", args, err)
			}
		}
	}()
	<-done
}
