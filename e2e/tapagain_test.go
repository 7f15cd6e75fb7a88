package e2e

import (
	"encoding/json"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// apiProcess is a `weir api` beside that of the demo, to be killed.
type apiProcess struct {
	t          *testing.T
	args       []string
	cmd        *exec.Cmd
	grpc, http string
	log        *syncBuffer
}

func startAPI(t *testing.T, m *mesh) *apiProcess {
	t.Helper()
	port := freePorts(t, 2)
	a := &apiProcess{t: t, grpc: "127.0.0.1:" + strconv.Itoa(port), http: "127.0.0.1:" + strconv.Itoa(port+1), log: &syncBuffer{}}
	a.args = []string{"api", "--bus", "nats://" + m.bus, "--grpc-addr", a.grpc, "--http-addr", a.http}
	a.start()
	t.Cleanup(func() {
		a.kill()
		if t.Failed() {
			t.Logf("weir api said:\n%s", a.log)
		}
	})
	return a
}

func (a *apiProcess) start() {
	a.t.Helper()
	a.cmd = exec.Command(filepath.Join(bin, "weir"), a.args...)
	a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
}

// awaitUp waits until it accepts connections: `weir version` is content without.
func (a *apiProcess) awaitUp() {
	a.t.Helper()
	eventually(a.t, 30*time.Second, func() string {
		for _, at := range []string{a.grpc, a.http} {
			conn, err := net.Dial("tcp", at)
			if err != nil {
				return err.Error()
			}
			_ = conn.Close()
		}
		return ""
	})
}

func (a *apiProcess) kill() {
	_ = a.cmd.Process.Kill() // it may have ended
	_ = a.cmd.Wait()         // as it was told to
}

// ids are those of a tap's lines; none may come twice.
func (l *tapLines) ids(t *testing.T) map[string]bool {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	found := map[string]bool{}
	for _, line := range l.lines {
		var e struct{ ID string }
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.ID == "" {
			t.Fatalf("%v in %s", err, line)
		}
		if found[e.ID] {
			t.Errorf("%s comes twice", e.ID)
		}
		found[e.ID] = true
	}
	return found
}

// loadAndKill sends a counted load, and kills the API and starts it again in the
// middle, twice, when the tap has shown some of it.
func loadAndKill(t *testing.T, m *mesh, a *apiProcess, shows *tapLines) sent {
	t.Helper()
	const each = 10_000
	all := sent{status: map[string]uint64{}}
	for round := range 3 {
		loaded := make(chan sent, 1)
		go func() { loaded <- load(t, m.botOut(), each, 50, uint64(8+round)) }()
		if round < 2 {
			shown := shows.count()
			eventually(t, time.Minute, func() string {
				if shows.count() < shown+each/10 {
					return "the tap does not show the load"
				}
				return ""
			})
			a.kill()
			time.Sleep(time.Duration(1+round) * time.Second)
			a.start()
		}
		all.add(<-loaded)
	}
	return all
}

// TestTapsOutliveTheAPI: the API is killed and started again in the middle of a
// counted load. Taps go on where they were: no request is shown twice, and none is
// left out.
func TestTapsOutliveTheAPI(t *testing.T) {
	m := startDemo(t)
	a := startAPI(t, m)
	tap := func(args ...string) *tapLines {
		return startTap(t, m, append([]string{"tap", "deploy/web", "-n", "emojivoto", "--direction", "inbound", "-o", "json", "--api-addr", a.grpc}, args...)...)
	}
	a.awaitUp()
	live := tap()
	eventually(t, 30*time.Second, func() string {
		load(t, m.botOut(), 5, 1, 7)
		time.Sleep(300 * time.Millisecond)
		if live.count() == 0 {
			return "weir tap shows nothing"
		}
		return ""
	})
	live.quiet(t)
	before := live.ids(t)
	began := time.Now().UTC().Format(time.RFC3339Nano)
	followed, failed := tap("--since", began, "-f"), tap("--since", began, "-f", "--status", "500")

	all := loadAndKill(t, m, a, followed)
	eventually(t, time.Minute, func() string {
		if got := followed.count(); got < int(all.requests) {
			return "the tap shows " + strconv.Itoa(got) + " of " + strconv.Itoa(int(all.requests))
		}
		return ""
	})
	// What the demo's own API reads back is what there was.
	back := m.weir("tap", "deploy/web", "-n", "emojivoto", "--direction", "inbound", "-o", "json", "--since", began)
	want := (&tapLines{lines: strings.Split(strings.TrimSpace(back), "\n")}).ids(t)
	if len(want) != int(all.requests) {
		t.Errorf("%d requests were read back, %d were sent", len(want), all.requests)
	}
	compare := func(name string, got map[string]bool) {
		t.Helper()
		missing, more := 0, 0
		for id := range want {
			if !got[id] {
				missing++
			}
		}
		for id := range got {
			if !want[id] && !before[id] {
				more++
			}
		}
		if missing > 0 || more > 0 {
			t.Errorf("%s: %d requests are missing, %d are too many", name, missing, more)
		}
	}
	time.Sleep(2 * time.Second) // what comes twice would show by now
	compare("--since -f", followed.ids(t))
	compare("live", live.ids(t))
	if got := failed.ids(t); len(got) != int(all.status["500"]) {
		t.Errorf("%d failed requests were shown of %d", len(got), all.status["500"])
	}
	for _, l := range []*tapLines{live, followed, failed} {
		said := l.errOut.String()
		// One that is slow may find the API only when it was killed twice.
		lost := strings.Count(said, "Lost the Weir API at "+a.grpc)
		if lost < 1 || lost > 2 || strings.Count(said, "going on from where the tap was") != lost || strings.Contains(said, "Gap") {
			t.Errorf("the tap said:\n%s", said)
		}
	}
}
