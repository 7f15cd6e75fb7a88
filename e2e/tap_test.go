package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// tapped is what of an event on a tap subject is compared.
type tapped struct {
	Instance  string
	Sequence  uint64
	Index     int
	Event     string
	Direction string
	Method    string
	Path      string
	Status    uint16
	Source    struct{ Name string }
	Dest      struct{ Name string } `json:"destination"`
	// Both sides of one request carry the same two.
	Connection string
	Stream     uint32
}

// tally counts what was tapped, by proxy and status.
type tally struct {
	mu    sync.Mutex
	count map[string]int
	seen  map[string]bool
	pairs map[string]int
	bad   []string
}

func (y *tally) add(subject string, data []byte) {
	y.mu.Lock()
	defer y.mu.Unlock()
	var e tapped
	if err := json.Unmarshal(data, &e); err != nil {
		y.bad = append(y.bad, fmt.Sprintf("%s: %v in %q", subject, err, data))
		return
	}
	id := fmt.Sprintf("%s-%d-%d", e.Instance, e.Sequence, e.Index)
	if y.seen[id] {
		y.bad = append(y.bad, "twice: "+id)
	}
	y.seen[id] = true
	if e.Event == "end" {
		workload := subject[strings.LastIndexByte(subject, '.')+1:]
		y.count[fmt.Sprintf("%s %s %d", workload, e.Direction, e.Status)]++
		y.pairs[fmt.Sprintf("%s/%d", e.Connection, e.Stream)]++
	}
}

// TestTapsAreComplete: a plain NATS client and `weir tap` both get every
// request of a counted load, each once.
func TestTapsAreComplete(t *testing.T) {
	m := startDemo(t)
	nc, err := nats.Connect("nats://" + m.bus)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	y := &tally{count: map[string]int{}, seen: map[string]bool{}, pairs: map[string]int{}}
	sub, err := nc.Subscribe("weir.v1.tap.*.emojivoto.>", func(msg *nats.Msg) { y.add(msg.Subject, msg.Data) })
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.SetPendingLimits(-1, 256<<20); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	lines := startTap(t, m, "tap", "deploy/web", "-n", "emojivoto", "--direction", "inbound", "-o", "json")
	// The tap is there when its first request shows.
	warm := sent{status: map[string]uint64{}}
	eventually(t, 30*time.Second, func() string {
		warm.add(load(t, m.botOut(), 5, 1, 7))
		time.Sleep(300 * time.Millisecond)
		if lines.count() == 0 {
			return "weir tap shows nothing"
		}
		return ""
	})
	missed := int(warm.requests) - lines.quiet(t)

	s := load(t, m.botOut(), 5_000, 50, 8)
	all := warm
	all.add(s)
	want := map[string]int{}
	for code, n := range all.status {
		want["web inbound "+code] = int(n)
		want["vote-bot outbound "+code] = int(n)
	}
	want["emoji inbound 200"], want["voting inbound 200"] = int(all.emoji), int(all.voting)
	want["web outbound 200"] = int(all.emoji + all.voting)
	eventually(t, 60*time.Second, func() string {
		y.mu.Lock()
		defer y.mu.Unlock()
		if !maps.Equal(y.count, want) {
			return fmt.Sprintf("tapped %v; want %v", y.count, want)
		}
		if len(y.bad) > 0 {
			return strings.Join(y.bad[:1], "")
		}
		for id, n := range y.pairs {
			if n != 2 {
				return fmt.Sprintf("request %s was seen by %d proxies; want both", id, n)
			}
		}
		return ""
	})
	eventually(t, 30*time.Second, func() string {
		if got, want := lines.count(), int(all.requests)-missed; got != want {
			return fmt.Sprintf("weir tap printed %d lines; want %d", got, want)
		}
		return ""
	})
}

// tapLines counts what `weir tap` prints.
type tapLines struct {
	mu    sync.Mutex
	lines []string
	// errOut is what it says besides.
	errOut *syncBuffer
}

func (l *tapLines) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lines)
}

// quiet waits until nothing is printed for two seconds, and returns count.
func (l *tapLines) quiet(t *testing.T) (n int) {
	t.Helper()
	n = -1
	eventually(t, time.Minute, func() string {
		before := n
		time.Sleep(2 * time.Second)
		if n = l.count(); n != before {
			return "lines are printed"
		}
		return ""
	})
	return n
}

// startTap runs a tap until the test ends, when Ctrl-C must end it well.
func startTap(t *testing.T, m *mesh, args ...string) *tapLines {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "weir"), args...)
	cmd.Env = append(os.Environ(), "WEIR_API_ADDR="+m.grpc)
	errOut := &syncBuffer{}
	cmd.Stderr = errOut
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l := &tapLines{errOut: errOut}
	done := make(chan struct{})
	go func() {
		defer close(done)
		lines := bufio.NewScanner(stdout)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			l.mu.Lock()
			l.lines = append(l.lines, lines.Text())
			l.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		<-done
		if err := cmd.Wait(); err != nil {
			t.Errorf("weir tap after Ctrl-C: %v\n%s", err, errOut)
		}
	})
	return l
}

func TestTapFiltersAndLimits(t *testing.T) {
	m := startDemo(t, "--rate=100")
	out := m.weir("tap", "deploy/voting", "-n", "emojivoto", "--limit", "3", "--path", "/emojivoto.v1.VotingService/VoteDoughnut")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines; want 3:\n%s", len(lines), out)
	}
	for _, line := range lines {
		for _, part := range []string{"proxy=in", ":path=/emojivoto.v1.VotingService/VoteDoughnut", "grpc-status=Unknown", "latency="} {
			if !strings.Contains(line, part) {
				t.Errorf("no %s in %s", part, line)
			}
		}
	}
	out = m.weir("tap", "deploy/web", "-n", "emojivoto", "--limit", "2", "--status", "5xx", "--direction", "inbound")
	if strings.Count(out, ":status=500") != 2 {
		t.Errorf("failed requests of web:\n%s", out)
	}
}
