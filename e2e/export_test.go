package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// prometheus is the real one, scraping the API of a mesh each second.
type prometheus struct {
	t   *testing.T
	url string
}

func startPrometheus(t *testing.T, target string) *prometheus {
	t.Helper()
	program, err := exec.LookPath("prometheus")
	if err != nil {
		t.Fatalf("%v: `make test-deps` installs it", err)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	err = os.WriteFile(config, []byte(`global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
- job_name: weir-mesh
  metrics_path: /metrics/mesh
  honor_labels: true
  static_configs: [{targets: ["`+target+`"]}]
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	addr := "127.0.0.1:" + strconv.Itoa(freePorts(t, 1))
	log := &syncBuffer{}
	cmd := exec.Command(program, "--config.file", config, "--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", addr)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // what it has stored is of no use any more
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("prometheus said:\n%s", log)
		}
	})
	p := &prometheus{t: t, url: "http://" + addr}
	eventually(t, time.Minute, func() string {
		resp, err := http.Get(p.url + "/-/ready")
		if err != nil {
			return err.Error()
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return resp.Status
		}
		return ""
	})
	return p
}

// query evaluates an expression of one value; none counts as 0.
func (p *prometheus) query(expression string) float64 {
	p.t.Helper()
	var answer struct {
		Status string
		Data   struct {
			Result []struct{ Value [2]any }
		}
	}
	body := get(p.t, p.url+"/api/v1/query?query="+url.QueryEscape(expression))
	if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.Status != "success" || len(answer.Data.Result) > 1 {
		p.t.Fatalf("%s: %v, %s", expression, err, body)
	}
	if len(answer.Data.Result) == 0 {
		return 0
	}
	v, err := strconv.ParseFloat(fmt.Sprint(answer.Data.Result[0].Value[1]), 64)
	if err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// compare says where Prometheus's counters differ from what was sent.
func (p *prometheus) compare(s sent) string {
	p.t.Helper()
	in := func(name string) string { return `direction="inbound",namespace="emojivoto",deployment="` + name + `"` }
	want := map[string]uint64{
		`sum(request_total{` + in("web") + `})`:                                                                                      s.requests,
		`sum(request_total{` + in("emoji") + `})`:                                                                                    s.emoji,
		`sum(response_total{` + in("voting") + `})`:                                                                                  s.voting,
		`sum(response_total{` + in("voting") + `,classification="failure",grpc_status="2"})`:                                         s.votingFailed,
		`sum(response_latency_ms_count{` + in("web") + `})`:                                                                          s.requests,
		`sum(response_latency_ms_bucket{` + in("web") + `,le="+Inf"})`:                                                               s.requests,
		`sum(request_total{direction="outbound",namespace="emojivoto",deployment="vote-bot",dst_deployment="web",pod="vote-bot-0"})`: s.requests,
		`sum(request_total{direction="outbound",deployment="web",dst_namespace="emojivoto",dst_deployment="voting"})`:                s.voting,
	}
	for code, n := range s.status {
		want[`sum(response_total{`+in("web")+`,status_code="`+code+`"})`] = n
	}
	for expression, n := range want {
		if got := p.query(expression); got != float64(n) {
			return fmt.Sprintf("%s is %v; want %d", expression, got, n)
		}
	}
	return ""
}

// export is a running `weir export ndjson` into a folder.
type export struct {
	cmd *exec.Cmd
	log *syncBuffer
}

func (m *mesh) export(dir string) (*export, error) {
	e := &export{log: &syncBuffer{}}
	e.cmd = exec.Command(filepath.Join(bin, "weir"), "export", "ndjson", "--bus", "nats://"+m.bus, "--output", dir, "--max-file-size", "1MB")
	e.cmd.Stdout, e.cmd.Stderr = e.log, e.log
	return e, e.cmd.Start()
}

// kill ends an export by force.
func (e *export) kill() error {
	err := e.cmd.Process.Kill()
	_ = e.cmd.Wait() // killed
	return err
}

// lines counts the events in the files of an export by direction and server, and
// checks that none is there twice.
func lines(t *testing.T, dir string) (counts map[string]uint64, files int) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "events-*.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	counts = map[string]uint64{}
	type id struct {
		Instance        string
		Sequence, Index uint64
	}
	seen := map[id]bool{}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(data) {
			var e struct {
				id
				Direction, Event string
				Destination      struct{ Name string }
			}
			if err := json.Unmarshal(line, &e); err != nil {
				t.Fatalf("%s: %v in %q", name, err, line)
			}
			if seen[e.id] {
				t.Fatalf("event %v is there twice", e.id)
			}
			seen[e.id] = true
			if e.Event == "end" {
				counts[e.Direction+" "+e.Destination.Name]++
			}
		}
	}
	return counts, len(names)
}

// TestExportsAreExact holds a scraping Prometheus and the files of `weir export
// ndjson` against a counted load, while both exports, the aggregator and the bus
// are killed by force again and again.
func TestExportsAreExact(t *testing.T) {
	m := startDemo(t)
	p := startPrometheus(t, m.http)
	dir := filepath.Join(t.TempDir(), "events")
	writing, err := m.export(dir)
	if err != nil {
		t.Fatal(err)
	}
	killed := make(chan error, 1)
	go func() {
		var err error
		for _, role := range []string{"weir api ", "weir aggregator ", "weir api ", "weir bus ", "weir api "} {
			// Longer than it takes until an API counts in place of one that was killed.
			time.Sleep(6 * time.Second)
			if err = m.killNow(role); err == nil {
				err = writing.kill()
			}
			if err == nil {
				writing, err = m.export(dir)
			}
			if err != nil {
				break
			}
		}
		killed <- err
	}()
	s, over := load(t, m.botOut(), 1_000, 8, 21), false
	for seed := uint64(22); !over; seed++ {
		s.add(load(t, m.botOut(), 1_000, 16, seed))
		select {
		case err := <-killed:
			if err != nil {
				t.Fatal(err)
			}
			over = true
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Logf("%d requests", s.requests)

	eventually(t, 90*time.Second, func() string { return p.compare(s) })
	want := map[string]uint64{
		"inbound web": s.requests, "outbound web": s.requests, "inbound emoji": s.emoji, "outbound emoji": s.emoji,
		"inbound voting": s.voting, "outbound voting": s.voting,
	}
	eventually(t, 60*time.Second, func() string {
		// Files that are being written to may end in half a line.
		if err := writing.kill(); err != nil {
			return err.Error()
		}
		if writing, err = m.export(dir); err != nil {
			return err.Error()
		}
		time.Sleep(2 * time.Second)
		return m.finish(writing, dir, want)
	})
	time.Sleep(6 * time.Second) // longer than a store: what is counted twice would show by now
	if problem := p.compare(s); problem != "" {
		t.Errorf("after it had settled: %s", problem)
	}
	for _, counter := range []string{"request_total", "response_total", "response_latency_ms_bucket", "tcp_write_bytes_total", "export_events_total"} {
		if resets := p.query("sum(resets(" + counter + "[1h]))"); resets != 0 {
			t.Errorf("%s went back %v times", counter, resets)
		}
	}
	eventually(t, time.Minute, func() string {
		if lag := p.query("export_lag_seconds"); lag > 15 {
			return fmt.Sprintf("lag is %v s", lag)
		}
		return ""
	})
	checkMetrics(t, get(t, "http://"+m.http+"/metrics/mesh"))
}

// finish ends an export as Ctrl-C does, and says where its files differ from
// what they should have.
func (m *mesh) finish(e *export, dir string, want map[string]uint64) string {
	m.t.Helper()
	if err := e.cmd.Process.Signal(syscall.SIGINT); err != nil {
		m.t.Fatal(err)
	}
	if err := e.cmd.Wait(); err != nil {
		m.t.Fatalf("Ctrl-C ends the export with %v\n%s", err, e.log)
	}
	got, files := lines(m.t, dir)
	if !maps.Equal(got, want) {
		return fmt.Sprintf("the files have %v; want %v", got, want)
	}
	if files < 3 {
		m.t.Errorf("%d files: none was rotated", files)
	}
	return ""
}

// killNow kills a role by force. It may be called from any goroutine.
func (m *mesh) killNow(command string) error {
	for pid, line := range children(m.t, m.cmd.Process.Pid) {
		if strings.Contains(line, command) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
	}
	return nil
}

// checkMetrics asks promtool what it thinks of an exposition.
func checkMetrics(t *testing.T, text string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	for line := range bytes.Lines(out) {
		// The name is Linkerd's.
		if !bytes.HasPrefix(line, []byte("response_latency_ms ")) || !bytes.Contains(line, []byte("unit")) {
			t.Errorf("promtool: %s", line)
		}
	}
	for _, part := range []string{"# TYPE response_latency_ms histogram", "# TYPE tcp_open_connections gauge", `,dst_pod="web-0"`} {
		if !strings.Contains(text, part) {
			t.Errorf("the exposition has no %s", part)
		}
	}
}

// TestExportToPipe: what comes down a pipe while it is cut off and taken up again
// has every event; with --once it ends.
func TestExportToPipe(t *testing.T) {
	m := startDemo(t)
	s := load(t, m.botOut(), 1_000, 8, 23)
	m.settle(s)
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "weir"), "export", "ndjson", "--bus", "nats://"+m.bus, "--once",
		"--direction", "inbound", "--to", "deploy/web", "-n", "emojivoto")
	cmd.Stdout, cmd.Stderr = &out, io.Discard
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(out.Bytes(), []byte("\n")); uint64(n) != s.requests {
		t.Errorf("%d lines; want %d", n, s.requests)
	}
	out2, errOut, err := m.try("export", "ndjson", "--bus", "nats://"+m.bus, "--once", "--since", "0s")
	if err != nil || out2 != "" || !strings.Contains(errOut, "0 events written, nothing waits") {
		t.Errorf("of what is to come: %q, %s, %v", out2, errOut, err)
	}
}
