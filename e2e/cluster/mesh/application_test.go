package mesh

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirmesh/weir/e2e/cluster/clustertest"
)

// TestApplication injects the sample application and looks at all that Weir says of
// it, and at what its traffic looks like on the network of the pods.
func TestApplication(t *testing.T) {
	s := start(t)
	t.Logf("Weir took %s from `weir install` until ready", installation.took.Round(100*time.Millisecond))
	vote(t, s, 5)
	rolled := time.Now()
	s.Until("every deployment is meshed and has traffic", func() error { return busy(s) })
	t.Logf("stat was whole %s after the rollout", time.Since(rolled).Round(100*time.Millisecond))
	if table, err := s.Weir("stat", "deploy", "-n", s.Name); err != nil {
		t.Error(err)
	} else {
		t.Logf("weir stat deploy\n%s", table)
	}
	s.Until("every edge is secured", func() error { return secured(t, s) })
	checkCapture(t, s)
	checkMemory(t, s)
	for _, args := range [][]string{{"check"}, {"check", "--proxy", "-n", s.Name}} {
		out, err := s.Weir(args...)
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		t.Logf("weir %s\n%s", strings.Join(args, " "), out)
	}
}

// busy errs unless all of the application's pods are meshed and have requests.
func busy(s *clustertest.Space) error {
	rows, err := stat(s, "deploy")
	if err != nil {
		return err
	}
	left := map[string]bool{}
	for _, name := range application() {
		left[name] = true
	}
	for _, r := range rows {
		if r.Meshed == "1/1" && r.Requests > 0 && r.Successes > 0 {
			delete(left, r.Name)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("not meshed, or without requests: %v; weir stat says %+v", left, rows)
	}
	return whole(rows)
}

// secured errs unless each edge between pods has both ends' identities.
func secured(t *testing.T, s *clustertest.Space) error {
	edges, err := edgesOf(s, "deploy", "-t", "10s")
	if err != nil {
		return err
	}
	want := map[string]string{"web emoji": "", "web voting": "", "vote-bot web": ""}
	for _, e := range edges {
		id := func(account string) string { return "spiffe://cluster.local/ns/" + s.Name + "/sa/" + account }
		if _, known := want[e.Src+" "+e.Dst]; !known {
			continue // the node, whose kubelet probes
		}
		if e.ClientID != id(e.Src) && !strings.HasPrefix(e.ClientID, e.Src+".") || e.ServerID != id(e.Dst) && !strings.HasPrefix(e.ServerID, e.Dst+".") || e.NoTLSReason != "" {
			return fmt.Errorf("not secured: %+v", e)
		}
		delete(want, e.Src+" "+e.Dst)
	}
	if len(want) > 0 {
		return fmt.Errorf("no edge %v in %+v", want, edges)
	}
	t.Logf("weir edges: %+v", edges)
	return nil
}

// checkCapture looks at the packets between pods: none shows HTTP in clear text while
// both ends are meshed. That it would be seen is shown by a client that is not.
func checkCapture(t *testing.T, s *clustertest.Space) {
	meshed := capture(t, s, func(file string) {
		time.Sleep(5 * time.Second)
		s.Until("the capture has seen the application", func() error {
			info, err := os.Stat(file)
			if err == nil && info.Size() < 10_000 {
				err = fmt.Errorf("it has %d bytes", info.Size())
			}
			return err
		})
	})
	for _, clear := range []string{"HTTP/1.1", "/api/vote", "VotingService", "application/grpc"} {
		if strings.Contains(meshed, clear) {
			t.Errorf("%q is in clear text between meshed pods", clear)
		}
	}
	const asked = "GET /api/list"
	plain := capture(t, s, func(file string) {
		s.Kubectl("run", "plain", "--restart=Never", "--image="+clustertest.ImageTestapp, "--image-pull-policy=Never", "--", "get", "http://web/api/list", "3")
		s.Kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/plain", clustertest.Timeout)
		s.Until("the capture shows the request of a pod that is not meshed", func() error {
			data, err := os.ReadFile(file)
			if err == nil && !strings.Contains(string(data), asked) {
				err = fmt.Errorf("it has %d bytes without it", len(data))
			}
			return err
		})
	})
	if !strings.Contains(plain, asked) {
		t.Errorf("the capture does not show the request of a pod that is not meshed: %d bytes", len(plain))
	}
}

// mostProxy is the memory (VmRSS, bytes) from which on something is wrong with a proxy
// of little traffic. docs/benchmarks.md has what they take.
const mostProxy = 16 << 20

// checkMemory holds what the proxies take after some traffic, and logs what the
// control plane does: of a program that works more pages are in memory than of one
// that has just started, which package install holds.
func checkMemory(t *testing.T, s *clustertest.Space) {
	t.Helper()
	for _, app := range application() {
		for _, pod := range pods(s, app) {
			m, err := s.Resident(s.Name, pod, 4191)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("the proxy of %s takes %d kB, %d of them its own", app, m.Resident>>10, m.Anonymous>>10)
			if m.Resident > mostProxy {
				t.Errorf("the proxy of %s takes %d bytes, want %d at most", app, m.Resident, mostProxy)
			}
		}
	}
	taken, err := s.ControlPlane()
	if err != nil {
		t.Fatal(err)
	}
	var sum clustertest.Memory
	for pod, m := range taken {
		t.Logf("%s takes %d kB, %d of them its own", pod, m.Resident>>10, m.Anonymous>>10)
		sum.Resident, sum.Anonymous = sum.Resident+m.Resident, sum.Anonymous+m.Anonymous
	}
	t.Logf("the control plane takes %d kB, %d of them its own", sum.Resident>>10, sum.Anonymous>>10)
}

// capture returns the packets between pods while f runs, which is given their file. The node itself, which
// probes pods, is none.
func capture(t *testing.T, s *clustertest.Space, f func(file string)) string {
	t.Helper()
	if _, err := exec.LookPath("tcpdump"); err != nil {
		t.Fatal("tcpdump is missing (Debian: apt-get install tcpdump)")
	}
	file := filepath.Join(t.TempDir(), "pcap")
	pods := s.Cluster.Config().PodRange
	gateway := pods.Masked().Addr().Next()
	filter := fmt.Sprintf("tcp and src net %s and dst net %s and not host %s", pods, pods, gateway)
	cmd := s.Cluster.Command(s.Ctx, "tcpdump", "-Z", "root", "-i", "any", "-U", "-w", file, filter)
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.Until("tcpdump listens", func() error { // it writes its file's head then
		info, err := os.Stat(file)
		if err == nil && info.Size() == 0 {
			err = errors.New("it has not begun its file")
		}
		return err
	})
	f(file)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("tcpdump: %v: %s", err, said.String())
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
