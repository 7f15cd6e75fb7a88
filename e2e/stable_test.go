package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

// steady is what of a row of `weir stat` changes with what happened only.
type steady struct {
	Requests   uint64            `json:"requests"`
	Status     map[string]uint64 `json:"status"`
	Success    float64           `json:"success"`
	P50        float64           `json:"latency_ms_p50"`
	P95        float64           `json:"latency_ms_p95"`
	P99        float64           `json:"latency_ms_p99"`
	P9999      float64           `json:"latency_ms_p9999"`
	Max        float64           `json:"latency_ms_max"`
	Bytes      uint64            `json:"response_bytes"`
	Since      time.Time         `json:"since"`
	Until      time.Time         `json:"until"`
	RPS        float64           `json:"rps"`
	Connection uint64            `json:"tcp_connections"`
}

// steadyStat asks about the last two hours.
func (m *mesh) steadyStat() (steady, error) {
	out, errOut, err := m.try("stat", "deploy/steady", "-n", "test", "-t", "2h", "-o", "json")
	if err != nil {
		return steady{}, fmt.Errorf("%w: %s", err, errOut)
	}
	var rows []steady
	if err := json.Unmarshal([]byte(out), &rows); err != nil || len(rows) > 1 {
		return steady{}, fmt.Errorf("%v in %s", err, out)
	}
	if len(rows) == 0 {
		return steady{}, nil
	}
	return rows[0], nil
}

// steadyLoad sends to one proxy of a demo, and counts.
type steadyLoad struct {
	t    *testing.T
	m    *mesh
	addr string
	sent uint64
	// longest is what a request took, as the client saw it, ms.
	longest float64
}

// startSteady starts a proxy whose server answers after ?ms milliseconds.
func startSteady(t *testing.T, m *mesh) *steadyLoad {
	t.Helper()
	target := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if ms, err := strconv.Atoi(r.URL.Query().Get("ms")); err == nil {
			time.Sleep(time.Duration(ms) * time.Millisecond)
		}
	}))
	t.Cleanup(target.Close)
	base := freePorts(t, 2)
	addr := func(i int) string { return "127.0.0.1:" + strconv.Itoa(base+i) }
	proxyProcess(t, "--bus=nats://"+m.bus, "--workload=test/deploy/steady", "--pod=steady-0",
		"--inbound="+addr(0)+"="+strings.TrimPrefix(target.URL, "http://"), "--admin="+addr(1))
	eventually(t, 30*time.Second, func() string {
		if resp, err := http.Get("http://" + addr(1) + "/metrics"); err != nil {
			return err.Error()
		} else if err := resp.Body.Close(); err != nil {
			return err.Error()
		}
		return ""
	})
	return &steadyLoad{t: t, m: m, addr: addr(0)}
}

// send sends n requests that take ms milliseconds.
func (l *steadyLoad) send(n, ms int) {
	l.t.Helper()
	for range n {
		began := time.Now()
		resp, err := http.Get(fmt.Sprintf("http://%s/?ms=%d", l.addr, ms))
		if err != nil {
			l.t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil {
			l.t.Fatal(err)
		}
		l.sent++
		l.longest = max(l.longest, float64(time.Since(began))/float64(time.Millisecond))
	}
}

// settled waits until all that was sent is counted.
func (l *steadyLoad) settled() (row steady) {
	l.t.Helper()
	eventually(l.t, 30*time.Second, func() string {
		var err error
		if row, err = l.m.steadyStat(); err != nil || row.Requests != l.sent {
			return fmt.Sprintf("%d requests, want %d (%v)", row.Requests, l.sent, err)
		}
		return ""
	})
	return row
}

// TestStatDoesNotJump: statistics of a long window, asked for each second, change
// by what happened and nothing else.
func TestStatDoesNotJump(t *testing.T) {
	m := startDemo(t)
	l := startSteady(t, m)
	l.send(300, 0)
	l.send(20, 20)
	before := l.settled()

	// Nothing happens: nothing changes, but for the time that goes by.
	for range 6 {
		time.Sleep(time.Second)
		row, err := m.steadyStat()
		if err != nil {
			t.Fatal(err)
		}
		if row.Until.Before(before.Until) {
			t.Errorf("time goes back: %v after %v", row.Until, before.Until)
		}
		if want := float64(row.Requests) / row.Until.Sub(row.Since).Seconds(); row.RPS < want*0.999 || row.RPS > want*1.001 {
			t.Errorf("%v requests a second; %d in %v are %v", row.RPS, row.Requests, row.Until.Sub(row.Since), want)
		}
		same := row
		same.Since, same.Until, same.RPS = before.Since, before.Until, before.RPS
		if !reflect.DeepEqual(same, before) {
			t.Errorf("nothing happened, and stat went from %+v to %+v", before, row)
		}
	}
	// One slow request: one more, the slowest; what most of them are stays.
	l.send(1, 700)
	after := l.settled()
	if after.Max < 700 || after.P9999 < 690 || after.P50 > before.P50*1.05 || after.P95 > before.P95*1.05 || after.Status["200"] != l.sent {
		t.Errorf("one slow request took stat from %+v to %+v", before, after)
	}
	// Steady traffic: never fewer than were seen before, never more than sent.
	seen := after.Requests
	for range 8 {
		l.send(25, 0)
		time.Sleep(500 * time.Millisecond)
		row, err := m.steadyStat()
		if err != nil {
			t.Fatal(err)
		}
		if row.Requests < seen || row.Requests > l.sent || row.Max < after.Max || row.Max > max(after.Max, l.longest*1.05) {
			t.Errorf("after %d of %d requests stat has %d, the slowest %vms; it was %vms", seen, l.sent, row.Requests, row.Max, after.Max)
		}
		seen = row.Requests
	}
	l.settled()
}
