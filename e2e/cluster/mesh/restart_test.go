package mesh

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirmesh/weir/e2e/cluster/clustertest"
)

// bot follows the logs of the sample application's bot, which says at its end what
// became of its requests.
type bot struct {
	pod  string
	logs lockedBuffer
	done chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// follow begins with the bot that runs now.
func follow(t *testing.T, s *clustertest.Space) *bot {
	t.Helper()
	var list struct {
		Items []struct {
			Metadata struct{ Name, DeletionTimestamp string }
		}
	}
	if err := s.Cluster.Get(s.Ctx, "/api/v1/namespaces/"+s.Name+"/pods?labelSelector=app%3Dvote-bot", &list); err != nil {
		t.Fatal(err)
	}
	b := &bot{done: make(chan error, 1)}
	for _, pod := range list.Items {
		if pod.Metadata.DeletionTimestamp == "" {
			b.pod = pod.Metadata.Name
		}
	}
	if b.pod == "" {
		t.Fatalf("no bot runs: %+v", list)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.Ctx))
	cmd := s.Cluster.Command(ctx, "kubectl", "-n", s.Name, "logs", "-f", b.pod, "-c", "vote-bot")
	cmd.Stdout, cmd.Stderr = &b.logs, &b.logs
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		b.done <- cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return b
}

// counted is in the bot's last line: requests by status, of which 0 is none.
var counted = regexp.MustCompile(`map\[([0-9: ]*)\]`)

// ended waits for the bot's end and returns what became of its requests.
func (b *bot) ended(t *testing.T) map[int]uint64 {
	t.Helper()
	select {
	case <-b.done:
	case <-time.After(6 * time.Minute):
		t.Fatalf("the bot %s does not end: %s", b.pod, b.logs.String())
	}
	found := counted.FindAllStringSubmatch(b.logs.String(), -1)
	if len(found) == 0 {
		t.Fatalf("the bot %s does not say what became of its requests: %s", b.pod, b.logs.String())
	}
	counts := map[int]uint64{}
	for _, pair := range strings.Fields(found[len(found)-1][1]) {
		status, n, _ := strings.Cut(pair, ":")
		code, err := strconv.Atoi(status)
		if err != nil {
			t.Fatal(err)
		}
		if counts[code], err = strconv.ParseUint(n, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("bot %s: %v", b.pod, counts)
	return counts
}

// answers adds up the bots' requests, and fails for each that failed: the application
// itself answers 200, and 500 for one emoji.
func answers(t *testing.T, bots ...*bot) uint64 {
	t.Helper()
	var sum uint64
	for _, b := range bots {
		for status, n := range b.ended(t) {
			sum += n
			if status != 200 && status != 500 {
				t.Errorf("%d requests of %s ended with status %d", n, b.pod, status)
			}
		}
	}
	if sum == 0 {
		t.Error("the bots made no request")
	}
	return sum
}

// balanced waits until the bot's requests that are counted are as many as it made.
func balanced(s *clustertest.Space, want uint64) {
	s.Until("every request is counted", func() error {
		rows, err := stat(s, "deploy/vote-bot")
		if err != nil {
			return err
		}
		if len(rows) != 1 || rows[0].Requests != want {
			return fmt.Errorf("weir stat says %+v, want %d requests", rows, want)
		}
		if err := whole(rows); err != nil {
			return err
		}
		// What web was asked is what the bot asked, probes of the kubelet aside.
		rows, err = stat(s, "deploy/web", "--from", "deploy/vote-bot")
		if err != nil {
			return err
		}
		if len(rows) != 1 || rows[0].Requests != want {
			return fmt.Errorf("weir stat says of web %+v, want %d requests", rows, want)
		}
		return whole(rows)
	})
}

// TestRestarts restarts every deployment, the bus and the control plane under load: no
// request fails, and all are counted.
func TestRestarts(t *testing.T) {
	s := start(t)
	vote(t, s, 20)
	s.Until("the application is busy", func() error { return busy(s) })

	first := follow(t, s)
	for _, name := range []string{"web", "emoji", "voting", "vote-bot"} {
		s.Kubectl("rollout", "restart", "deployment/"+name)
		s.Rollout(name)
	}
	s.Until("the first bot has gone", func() error {
		if _, err := s.Try("get", "pod", first.pod); err == nil {
			return fmt.Errorf("it is there")
		}
		return nil
	})
	second := follow(t, s)
	for _, c := range components() {
		if _, err := s.Cluster.Kubectl(s.Ctx, "-n", "weir", "rollout", "restart", c); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Cluster.Kubectl(s.Ctx, "-n", "weir", "rollout", "status", c, clustertest.Timeout); err != nil {
			t.Fatal(err)
		}
	}
	s.Kubectl("scale", "deployment/vote-bot", "--replicas=0")
	balanced(s, answers(t, first, second))
}

// client is a pod from which requests can be made.
const client = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: client}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      containers:
      - name: client
        image: ` + clustertest.ImageTestapp + `
        imagePullPolicy: Never
        args: [serve, "0.0.0.0:8080"]
`

// outage is for how long there is no control plane: long enough that proxies have
// tried in vain to connect again, more than once.
const outage = 15 * time.Second

// TestAway takes the whole control plane and the bus away: the application goes on,
// a service that a pod never asked before is reached, if without mutual TLS, and what
// happened meanwhile is counted once they are back.
func TestAway(t *testing.T) {
	s := start(t)
	inject(t, s, server)
	inject(t, s, client)
	vote(t, s, 20)
	s.Rollout("server", "client")
	s.Until("the application is busy", func() error { return busy(s) })
	b := follow(t, s)
	weir := func(args ...string) {
		t.Helper()
		if out, err := s.Cluster.Kubectl(s.Ctx, append([]string{"-n", "weir"}, args...)...); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	const requests = 10
	ask := func() {
		t.Helper()
		if out := s.Kubectl("exec", "deploy/client", "-c", "client", "--", "/testapp", "get", "http://server", strconv.Itoa(requests)); strings.Count(out, "\n") != strings.Count(out, " 200 OK ") {
			t.Errorf("a service that is new to the client: %s", out)
		}
	}
	for _, c := range components() {
		weir("scale", c, "--replicas=0")
	}
	weir("wait", "--for=delete", "pod", "--all", clustertest.Timeout)
	ask()
	time.Sleep(outage)
	for _, c := range components() {
		weir("scale", c, "--replicas=1")
	}
	for _, c := range components() {
		weir("rollout", "status", c, clustertest.Timeout)
	}
	ask()
	s.Kubectl("scale", "deployment/vote-bot", "--replicas=0")
	balanced(s, answers(t, b))
	s.Until("what was asked of the new service is counted, and is mutual TLS again", func() error {
		rows, err := stat(s, "deploy/server")
		if err != nil {
			return err
		}
		if len(rows) != 1 || rows[0].Requests < 2*requests {
			return fmt.Errorf("weir stat says %+v, want %d requests", rows, 2*requests)
		}
		edges, err := edgesOf(s, "deploy/client")
		if err != nil {
			return err
		}
		reasons := map[string]bool{}
		for _, e := range edges {
			if e.Src == "client" {
				reasons[e.NoTLSReason] = true
			}
		}
		if !reasons[""] {
			ask() // the proxy may not have found discovery again yet when it was asked last
		}
		if !reasons[""] || !reasons["discovery_unavailable"] {
			return fmt.Errorf("edges %+v, want one with identities and one without", edges)
		}
		return whole(rows)
	})
}
