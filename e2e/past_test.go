package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// oneOfMany serves requests of which one alone fails and is slow.
func oneOfMany(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/the-one":
		time.Sleep(1200 * time.Millisecond)
		w.WriteHeader(http.StatusInternalServerError)
	case "/slow":
		time.Sleep(1200 * time.Millisecond)
	case "/failing":
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// many sends n requests to addr, most of them ordinary, and counts the answers by
// status.
func many(t *testing.T, addr string, n int) map[string]uint64 {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	var next atomic.Int64
	var mu sync.Mutex
	counts := map[string]uint64{}
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				path := "/ordinary/" + strconv.Itoa(int(i%10))
				switch {
				case i == int64(n/2):
					path = "/the-one"
				case i%5000 == 7:
					path = "/slow"
				case i%100 == 9:
					path = "/failing"
				}
				resp, err := client.Get("http://" + addr + path)
				if err != nil {
					t.Error(err)
					return
				}
				_, err = io.Copy(io.Discard, resp.Body)
				if cerr := resp.Body.Close(); err != nil || cerr != nil {
					t.Error(err, cerr)
				}
				mu.Lock()
				counts[strconv.Itoa(resp.StatusCode)]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return counts
}

// past taps what was, and gives the requests by id with their paths.
func (m *mesh) past(args ...string) map[string]string {
	m.t.Helper()
	out, errOut, err := m.try(append([]string{"tap", "deploy/target", "-n", "test", "--since", m.began, "-o", "json"}, args...)...)
	if err != nil {
		return map[string]string{"error": err.Error() + errOut}
	}
	found := map[string]string{}
	for line := range strings.Lines(out) {
		var e struct {
			ID               string
			RequestInitEvent struct{ Path string }
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			m.t.Fatalf("%v in %s", err, line)
		}
		if _, twice := found[e.ID]; twice {
			m.t.Errorf("%s comes twice", e.ID)
		}
		found[e.ID] = e.RequestInitEvent.Path
	}
	if strings.Contains(errOut, "gap") {
		m.t.Errorf("gaps: %s", errOut)
	}
	return found
}

// by is `weir stat --by status`: requests by status.
func (m *mesh) by() map[string]uint64 {
	m.t.Helper()
	var rows []struct {
		By       map[string]string
		Requests uint64
	}
	out := m.weir("stat", "deploy/target", "-n", "test", "--by", "status", "--since", m.began, "-o", "json")
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		m.t.Fatalf("%v in %s", err, out)
	}
	found := map[string]uint64{}
	for _, r := range rows {
		found[r.By["status"]] = r.Requests
	}
	return found
}

// ofThePresent is what `weir stat` says of now, of its window's edges, and by
// the window's length: later the edges lie on coarser steps.
var ofThePresent = []string{"meshed", "tcp_open_connections", "oldest", "since", "until", "rps", "tcp_read_bytes_rate", "tcp_write_bytes_rate"}

// numbers is `weir stat` of a fixed window, without what is of the present.
func (m *mesh) numbers(since, until time.Time) string {
	m.t.Helper()
	out, errOut, err := m.try("stat", "deploy/target", "-n", "test", "-o", "json", "--since", since.Format(time.RFC3339), "--until", until.Format(time.RFC3339))
	if err != nil {
		return errOut
	}
	var rows []map[string]any
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		m.t.Fatalf("%v in %s", err, out)
	}
	for _, r := range rows {
		for _, key := range ofThePresent {
			delete(r, key)
		}
	}
	return fmt.Sprint(rows)
}

// kill ends the demo's processes of these roles, which it then starts anew.
func (m *mesh) kill(roles ...string) {
	m.t.Helper()
	for pid, line := range children(m.t, m.cmd.Process.Pid) {
		for _, role := range roles {
			if !strings.Contains(line, "weir "+role+" ") {
				continue
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				m.t.Fatal(err)
			}
		}
	}
}

// pastAge is how long ago the past is that is asked about after the kill: a
// moment, or as long as WEIR_PAST says ("1h": the events are kept for that
// long, so say a little less).
func pastAge(t *testing.T) time.Duration {
	t.Helper()
	if os.Getenv("WEIR_PAST") == "" {
		return 0
	}
	d, err := time.ParseDuration(os.Getenv("WEIR_PAST"))
	if err != nil {
		t.Fatalf("WEIR_PAST: %v", err)
	}
	return d
}

// checkPast looks for the one request, and adds all up by status.
func (m *mesh) checkPast(when string, filter []string, sent map[string]uint64) {
	m.t.Helper()
	for _, args := range [][]string{filter, {"--where", "status >= 500 and latency > 1s"}} {
		if found := m.past(args...); len(found) != 1 || !strings.Contains(fmt.Sprint(found), "/the-one") {
			m.t.Errorf("%s: tap --since %v found %v; want the one", when, args, found)
		}
	}
	// Statistics end a moment ago, when all of it has settled.
	eventually(m.t, 30*time.Second, func() string {
		by := m.by()
		if by["500"] != sent["500"] || by["503"] != sent["503"] || by["200"] < sent["200"] {
			return fmt.Sprintf("%s: stat --by status gives %v; sent were %v, and some to warm up", when, by, sent)
		}
		return ""
	})
}

// warmUp sends a request until problem says that all is well.
func warmUp(t *testing.T, addr string, problem func() string) {
	t.Helper()
	eventually(t, 30*time.Second, func() string {
		resp, err := http.Get("http://" + addr + "/warm-up")
		if err != nil {
			return err.Error()
		}
		if err := resp.Body.Close(); err != nil {
			return err.Error()
		}
		return problem()
	})
}

// TestOneRequestAmongMany: a filter finds the one request that it is about, live
// and in the past; and the past is the same after the bus and the aggregator
// were killed.
func TestOneRequestAmongMany(t *testing.T) {
	m := startDemo(t)
	began := time.Now()
	m.began = began.Format(time.RFC3339)
	target := httptest.NewServer(http.HandlerFunc(oneOfMany))
	defer target.Close()
	base := freePorts(t, 2)
	addr := func(i int) string { return "127.0.0.1:" + strconv.Itoa(base+i) }
	proxyProcess(t, "--bus=nats://"+m.bus, "--workload=test/deploy/target", "--pod=target-0",
		"--inbound="+addr(0)+"="+strings.TrimPrefix(target.URL, "http://"), "--admin="+addr(1))
	warmUp(t, addr(0), func() string {
		if len(m.past("--path", "/warm-up")) == 0 {
			return "no request shows in the past"
		}
		return ""
	})
	filter := []string{"--status", "5xx", "--latency", ">1s"}
	live := startTap(t, m, append([]string{"tap", "deploy/target", "-n", "test", "-o", "json"}, filter...)...)
	ordinary := startTap(t, m, "tap", "deploy/target", "-n", "test", "--path", "/warm-up")
	warmUp(t, addr(0), func() string {
		if ordinary.count() == 0 {
			return "the live tap shows nothing"
		}
		return ""
	})
	time.Sleep(time.Second) // the other tap was started before

	const n = 100_000
	sent := many(t, addr(0), n)
	var all map[string]string
	eventually(t, 60*time.Second, func() string {
		all = m.past("--where", `request and path != "/warm-up"`)
		if len(all) != n {
			kinds := map[string]int{}
			for _, path := range all {
				kinds[path]++
			}
			return fmt.Sprintf("%d requests in the past, want %d: %v (%s)", len(all), n, kinds, all["error"])
		}
		return ""
	})
	check := func(when string) { m.checkPast(when, filter, sent) }
	check("after the load")
	eventually(t, 10*time.Second, func() string {
		if live.count() != 1 {
			return fmt.Sprintf("the live tap shows %d requests; want the one", live.count())
		}
		return ""
	})
	if !strings.Contains(strings.Join(live.lines, ""), "/the-one") {
		t.Errorf("the live tap shows %v", live.lines)
	}

	until, numbers := m.settled(t, began)
	time.Sleep(pastAge(t))
	m.kill("bus", "aggregator")
	eventually(t, 60*time.Second, func() string {
		again := m.past("--where", `request and path != "/warm-up"`)
		if !maps.Equal(again, all) {
			return fmt.Sprintf("after the kill %d requests in the past; want the same %d (%s)", len(again), len(all), again["error"])
		}
		return ""
	})
	check("after the kill")
	eventually(t, 60*time.Second, func() string {
		if again := m.numbers(began, until); again != numbers {
			return fmt.Sprintf("after the kill stat says\n%s\nwant\n%s", again, numbers)
		}
		return ""
	})
}

// settled waits until what stat says of the time from began until now does not
// change any more.
func (m *mesh) settled(t *testing.T, began time.Time) (until time.Time, numbers string) {
	t.Helper()
	if pastAge(t) > 0 {
		time.Sleep(10 * time.Second) // the edge may later be that much earlier
	}
	until = time.Now().Truncate(time.Second)
	eventually(t, 30*time.Second, func() string {
		numbers = m.numbers(began, until)
		if !strings.Contains(numbers, "requests") || time.Since(until) < 5*time.Second {
			return "not settled: " + numbers
		}
		return ""
	})
	return until, m.numbers(began, until)
}
