package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/event"
)

// Bounds of a flood of distinct paths.
const (
	floodRate = 50_000 // events a second
	// floodMemory is what the aggregator may take, KiB.
	floodMemory = 256 << 10
	// floodProxy is what a proxy may take while it carries distinct paths, KiB,
	// and floodDrift, how much more of its own memory it may keep then than it has
	// while it carries one.
	floodProxy = 20 << 10
	floodDrift = 256
	// floodSettled is by how much a proxy's memory may still grow from one round to
	// the next where it has settled, KiB, and floodRounds, after how many rounds
	// it has, at the latest.
	floodSettled = 64
	floodRounds  = 12
	// floodLeast is how many rounds of distinct paths there are at least, and
	// floodTail, of how many of the last ones the least counts. A relay asks for so
	// little memory that Go's collector comes once in some ten rounds of 15,000
	// requests, and until then garbage is resident, too.
	floodLeast = 6
	floodTail  = 3
)

// floodTime is how long a flood lasts: a moment, or as long as WEIR_FLOOD says
// ("20s": a million paths).
func floodTime(t *testing.T) time.Duration {
	t.Helper()
	if os.Getenv("WEIR_FLOOD") == "" {
		return 3 * time.Second
	}
	d, err := time.ParseDuration(os.Getenv("WEIR_FLOOD"))
	if err != nil {
		t.Fatalf("WEIR_FLOOD: %v", err)
	}
	return d
}

// word is a name without digits, another one for each number.
func word(i int) string {
	b := []byte("w")
	for ; i > 0; i /= 16 {
		b = append(b, "bcdfghjklmnpqrst"[i%16])
	}
	return string(b)
}

// TestDistinctPathsOnTheBus publishes batches in which each event has a path,
// an authority and a peer of its own: the aggregator keeps within its memory,
// and counts them all.
func TestDistinctPathsOnTheBus(t *testing.T) {
	m := startDemo(t)
	pid := m.role("weir aggregator ")
	idle := vmRSS(t, pid)
	n, most := m.flood(floodTime(t), func() int { return vmRSS(t, pid) })
	eventually(t, time.Minute, func() string {
		if got := m.stat()["flood"]; got.Requests != uint64(n) || got.Shed != 0 || got.Lost != 0 {
			return fmt.Sprintf("%d requests, %d shed, %d lost; want %d requests", got.Requests, got.Shed, got.Lost, n)
		}
		return ""
	})
	most = max(most, vmRSS(t, pid))
	t.Logf("%d distinct paths: the aggregator has %d MiB at most, %d MiB before", n, most>>10, idle>>10)
	if most > floodMemory {
		t.Errorf("the aggregator has %d KiB; want at most %d", most, floodMemory)
	}
	var answer struct {
		Rows []struct {
			Route string
			Stats struct{ Requests string }
		}
	}
	m.get("/api/v1/routes?resource.namespace=emojivoto&resource.kind=deploy&resource.name=flood&window.length=600s", &answer)
	var total uint64
	learned := false
	for _, r := range answer.Rows {
		got, err := strconv.ParseUint(r.Stats.Requests, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		total += got
		learned = learned || r.Route == "GET /users/{*}/orders"
	}
	if total != uint64(n) || len(answer.Rows) > 501 || !learned {
		t.Errorf("%d routes, learned: %v, have %d requests together; want %d", len(answer.Rows), learned, total, n)
	}
}

// role is the process of the demo whose command line has a word.
func (m *mesh) role(word string) int {
	m.t.Helper()
	for pid, line := range children(m.t, m.cmd.Process.Pid) {
		if strings.Contains(line, word) {
			return pid
		}
	}
	m.t.Fatalf("no process is a %s", word)
	return 0
}

// flood publishes as ten proxies of the workload flood would, and returns how
// many events, and the most that watch saw meanwhile.
func (m *mesh) flood(length time.Duration, watch func() int) (events, most int) {
	m.t.Helper()
	c, err := client.Connect(m.t.Context(), client.Options{URL: "nats://" + m.bus, Name: "flood"})
	if err != nil {
		m.t.Fatal(err)
	}
	defer c.Close()
	workload := event.Workload{Cluster: "demo", Namespace: "emojivoto", Kind: "deploy", Name: "flood"}
	const pods, tick = 10, 100 * time.Millisecond
	var encoder event.Encoder
	var batch []byte
	began := time.Now()
	for i := 0; time.Duration(i)*tick < length; i++ {
		if wait := time.Until(began.Add(time.Duration(i) * tick)); wait > 0 {
			time.Sleep(wait)
		}
		now := time.Now().UnixMicro()
		for range floodRate / int(time.Second/tick) {
			events++
			encoder.Add(&event.Event{
				Direction: event.Inbound, Protocol: event.HTTP1, Method: "GET", Status: 200, GRPCStatus: event.NoGRPCStatus,
				Authority: word(events) + ".example", Path: "/users/" + word(events) + "/orders",
				Start: now - 2000, Latency: 900, Duration: 1000, RequestBytes: 100, ResponseBytes: 200,
				Peer:       event.Peer{Workload: event.Workload{Cluster: "demo", Namespace: "x", Kind: "deploy", Name: word(events)}},
				Connection: uint64(events), Stream: 1, SecurityReason: "no_identity",
			})
		}
		pod := i % pods
		h := event.Header{
			Source:   event.Source{Workload: workload, Pod: "flood-" + strconv.Itoa(pod)},
			Instance: uint64(pod + 1), Sequence: uint64(i/pods + 1), Sent: now, Produced: uint64(events), Version: "test",
		}
		batch = encoder.Encode(batch[:0], &h)
		encoder.Reset()
		if err := c.Publish(m.t.Context(), workload, h.Instance, h.Sequence, batch); err != nil {
			m.t.Fatal(err)
		}
		if i%10 == 0 {
			most = max(most, watch())
		}
	}
	m.t.Logf("%d events in %v", events, time.Since(began).Round(time.Millisecond))
	return events, most
}

// TestDistinctPathsThroughAProxy sends requests through real proxies: first for one
// path, until their memory has settled, and then, on the same connections, each
// with a path of its own. What they keep is what it was: there are so many rounds
// that the collector has come, or that what paths leave behind is plain to see.
func TestDistinctPathsThroughAProxy(t *testing.T) {
	m := startDemo(t)
	requests := int(floodTime(t)/time.Second) * 5000
	transport := m.botTransport()
	defer transport.CloseIdleConnections()
	sizes := map[int][]int{}
	// measure tells whether no proxy has grown since the time before.
	measure := func() bool {
		settled := true
		for pid, line := range children(t, m.cmd.Process.Pid) {
			if strings.Contains(line, "weir-proxy") {
				sizes[pid] = append(sizes[pid], anonymous(t, pid))
				if n := len(sizes[pid]); n < 2 || sizes[pid][n-1] > sizes[pid][n-2]+floodSettled {
					settled = false
				}
				if all := vmRSS(t, pid); all > floodProxy {
					t.Errorf("a proxy takes %d KiB", all)
				}
			}
		}
		return settled
	}
	sent := 0
	for quiet := 0; quiet < 3 && sent < floodRounds*requests; sent += requests {
		m.paths(transport, requests, func(int) string { return "/missing" })
		if quiet++; !measure() {
			quiet = 0
		}
	}
	one := sent / requests
	grown := func(size []int) bool {
		return slices.Min(size[len(size)-floodTail:]) > slices.Max(size[:one])+floodDrift
	}
	for round, more := 0, true; more && round < floodRounds; round++ {
		m.paths(transport, requests, func(i int) string { return "/missing/" + word(sent+i) })
		sent += requests
		measure()
		more = round+1 < floodLeast
		for _, size := range sizes {
			more = more || grown(size)
		}
	}
	for _, size := range sizes {
		t.Logf("a proxy's own memory after each %d requests: %d KiB for one path, then %d for distinct ones", requests, size[:one], size[one:])
		if grown(size) {
			t.Errorf("a proxy's own memory grows by distinct paths: %d KiB", size)
		}
	}
	eventually(t, time.Minute, func() string {
		if got, want := m.stat()["web"], uint64(sent); got.Requests != want || got.Shed != 0 || got.Lost != 0 {
			return fmt.Sprintf("%d requests, %d shed, %d lost; want %d requests", got.Requests, got.Shed, got.Lost, want)
		}
		return ""
	})
}

// floodConnections is how many connections requests are sent over.
const floodConnections = 32

// botTransport connects as the vote-bot.
func (m *mesh) botTransport() *http.Transport {
	return &http.Transport{
		MaxIdleConnsPerHost: floodConnections, MaxConnsPerHost: floodConnections,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, m.botOut())
		},
	}
}

// paths sends so many requests at a time as there are connections.
func (m *mesh) paths(transport *http.Transport, requests int, path func(int) string) {
	m.t.Helper()
	c := &http.Client{Transport: transport, Timeout: time.Minute}
	next := make(chan int)
	var wg sync.WaitGroup
	for range floodConnections {
		wg.Go(func() {
			for i := range next {
				res, err := c.Get("http://web.emojivoto" + path(i))
				if err != nil {
					m.t.Errorf("request %d: %v", i, err)
					continue
				}
				_, _ = io.Copy(io.Discard, res.Body)
				if err := res.Body.Close(); err != nil || res.StatusCode != http.StatusNotFound {
					m.t.Errorf("request %d: %s, %v", i, res.Status, err)
				}
			}
		})
	}
	for i := range requests {
		next <- i
	}
	close(next)
	wg.Wait()
}
