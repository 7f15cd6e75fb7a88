package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	busclient "github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/cli"
	"github.com/weirmesh/weir/event"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// buffer may be written to and read at once.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// weir runs a command to its end.
func weir(ctx context.Context, args ...string) (code int, out, errOut string) {
	var o, e buffer
	code = run(ctx, args, cli.Streams{In: strings.NewReader(""), Out: &o, ErrOut: &e})
	return code, o.String(), e.String()
}

// TestLeastMemory: a bound that an aggregator could not keep is refused, and the
// least is named, in the help too.
func TestLeastMemory(t *testing.T) {
	code, _, errOut := weir(t.Context(), "aggregator", "--id", "a", "--memory", "95MiB")
	if code != exitUsage || !strings.Contains(errOut, "--memory") || !strings.Contains(errOut, "the least is 96MiB") {
		t.Errorf("exit code %d, %q", code, errOut)
	}
	if _, out, _ := weir(t.Context(), "aggregator", "--help"); !strings.Contains(out, "96MiB or more") {
		t.Errorf("help does not name the least:\n%s", out)
	}
}

// role runs a component until the test ends, and checks that it ends well.
func role(t *testing.T, args ...string) *buffer {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var log buffer
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, args, cli.Streams{In: strings.NewReader(""), Out: &log, ErrOut: &log}) }()
	t.Cleanup(func() {
		cancel()
		select {
		case code := <-ended:
			if code != exitOK {
				t.Errorf("weir %v: exit code %d\n%s", args, code, log.String())
			}
		case <-time.After(time.Minute):
			t.Errorf("weir %v does not end\n%s", args, log.String())
		}
	})
	return &log
}

// free returns an address that was free just now, with a port that the system gives
// to nobody.
func free(t *testing.T) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 5_000+rand.IntN(5_000)))
		if err != nil {
			continue
		}
		defer l.Close()
		return l.Addr().String()
	}
	t.Fatal("no free port")
	return ""
}

// await waits until ok says nil.
func await(t *testing.T, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func answers(url string) func() error {
	return func() error {
		defer http.DefaultClient.CloseIdleConnections()
		resp, err := http.Get(url)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", url, resp.Status)
		}
		return nil
	}
}

// has waits for texts in an answer.
func has(url string, texts ...string) func() error {
	return func() error {
		defer http.DefaultClient.CloseIdleConnections()
		resp, err := http.Get(url)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		for _, text := range texts {
			if !strings.Contains(string(body), text) {
				return fmt.Errorf("%s answers %s without %q: %s (%w)", url, resp.Status, text, body, err)
			}
		}
		return err
	}
}

func TestExitCodes(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	addr := taken.Addr().String()
	f := func(want int, text string, args ...string) {
		t.Helper()
		code, out, errOut := weir(t.Context(), args...)
		if code != want || !strings.Contains(errOut, text) || out != "" {
			t.Errorf("weir %v: exit code %d, want %d; wrote %q and %q, want %q in it", args, code, want, out, errOut, text)
		}
	}
	f(exitUsage, "weir: unknown command", "nonsense")
	f(exitUsage, "--data is missing", "bus")
	f(exitUsage, "unexpected argument", "bus", "x")
	f(exitUsage, "unexpected argument", "aggregator", "x")
	f(exitUsage, "unexpected argument", "api", "x")
	f(exitUsage, "unknown flag", "api", "--nonsense")
	f(exitUsage, "--bus", "api", "--bus", "http://what")
	f(exitUsage, "--mesh-metrics-every", "api", "--mesh-metrics-every", "1ms")
	f(exitUsage, "--mesh-metrics-series", "api", "--mesh-metrics-series", "1")
	f(exitUsage, "--mesh-metrics-expire", "api", "--mesh-metrics-expire", "1s")
	f(exitUsage, "--mesh-metrics-idle", "api", "--mesh-metrics-idle", "1s")
	f(exitUsage, "--status", "export", "ndjson", "--status", "nonsense")
	f(exitUsage, "--bus", "export", "ndjson", "--bus", "http://what")
	f(exitUsage, "unknown command", "export", "nonsense")
	f(exitUsage, "--id is missing", "aggregator", "--id", "")
	f(exitFailed, "cannot reach", "stat", "deploy", "--api-addr", "127.0.0.1:1")
	f(exitFailed, "--grpc-addr", "api", "--bus", "nats://127.0.0.1:1", "--grpc-addr", addr, "--http-addr", "127.0.0.1:0")
	f(exitFailed, "--http-addr", "api", "--bus", "nats://127.0.0.1:1", "--grpc-addr", "127.0.0.1:0", "--http-addr", addr)
	f(exitFailed, "--insecure", "bus", "--data", t.TempDir(), "--listen", "0.0.0.0:0")
	f(exitFailed, addr, "bus", "--data", t.TempDir(), "--listen", addr)
	f(exitFailed, "--admin", "bus", "--data", t.TempDir(), "--listen", free(t), "--admin", addr)
	f(exitFailed, "--admin", "aggregator", "--bus", "nats://127.0.0.1:1", "--id", "a", "--admin", addr)
	f(exitFailed, "--listen", "dashboard", "--listen", addr)
}

func TestVersion(t *testing.T) {
	code, out, errOut := weir(t.Context(), "version", "--client", "-o", "json")
	var got struct {
		Client struct{ Version, GoVersion string }
	}
	if err := json.Unmarshal([]byte(out), &got); code != exitOK || err != nil || got.Client.Version == "" {
		t.Errorf("%d, %v: %s%s", code, err, out, errOut)
	}
}

// Every role runs on flags alone, in whatever order they are started; what a
// proxy publishes shows in stat.
func TestRoles(t *testing.T) {
	bus, admin, aggAdmin, grpc, http, page := free(t), free(t), free(t), free(t), free(t), free(t)
	busURL := "nats://" + bus
	apiLog := role(t, "api", "--bus", busURL, "--grpc-addr", grpc, "--http-addr", http, "--mesh-metrics-every", "200ms")
	role(t, "aggregator", "--bus", busURL, "--id", "a", "--admin", aggAdmin)
	role(t, "dashboard", "--listen", page, "--api", http)
	await(t, "the API is live without a bus", answers("http://"+http+"/live"))
	if answers("http://"+http+"/ready")() == nil {
		t.Error("the API is ready without a bus")
	}
	if code, _, errOut := weir(t.Context(), "stat", "deploy", "--api-addr", grpc); code != exitFailed || !strings.Contains(errOut, "no aggregator answers") {
		t.Errorf("stat without a bus: %d, %s", code, errOut)
	}
	role(t, "bus", "--listen", bus, "--data", t.TempDir(), "--admin", admin)
	for _, url := range []string{admin + "/ready", admin + "/metrics", aggAdmin + "/ready", aggAdmin + "/metrics", http + "/ready", page + "/api/v1/version"} {
		await(t, url, answers("http://"+url))
	}
	publish(t, busURL, 1000, 13)
	await(t, "the mesh's metrics", has("http://"+http+"/metrics/mesh", "export_events_total 1000\n",
		`response_total{direction="inbound",cluster="c",namespace="x",deployment="web",pod="web-0",authority="web",tls="no_identity",`+
			`status_code="500",classification="failure"} 13`+"\n"))
	code, out, said := weir(t.Context(), "export", "ndjson", "--bus", busURL, "--once", "--status", "5xx")
	if lines := strings.Count(out, "\n"); code != exitOK || lines != 13 || !strings.Contains(said, "13 events written, nothing waits") {
		t.Errorf("export ndjson: %d, %d lines, want 13; %s", code, lines, said)
	}
	var errOut string
	await(t, "stat", func() error {
		var out string
		_, out, errOut = weir(t.Context(), "stat", "deploy/web", "-n", "x", "-o", "json", "-t", "5m", "--api-addr", grpc)
		var rows []struct {
			Requests uint64
			Status   map[string]uint64
		}
		if err := json.Unmarshal([]byte(out), &rows); err != nil {
			return fmt.Errorf("%w: %s%s", err, out, errOut)
		}
		if len(rows) != 1 || rows[0].Requests != 1000 || rows[0].Status["200"] != 987 || rows[0].Status["500"] != 13 {
			return fmt.Errorf("%s%s%s", out, errOut, apiLog.String())
		}
		return nil
	})
}

// publish publishes as a proxy does: requests of deploy/web in x, failed of
// which with 500.
func publish(t *testing.T, busURL string, requests, failed int) {
	t.Helper()
	c, err := busclient.Connect(t.Context(), busclient.Options{URL: busURL})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	h := event.Header{
		Source:   event.Source{Workload: event.Workload{Cluster: "c", Namespace: "x", Kind: "deploy", Name: "web"}, Pod: "web-0"},
		Instance: 7, Sequence: 1, Produced: uint64(requests), Sent: time.Now().UnixMicro(),
	}
	var enc event.Encoder
	for i := range requests {
		e := event.Event{
			Direction: event.Inbound, Protocol: event.HTTP1, Status: 200, GRPCStatus: event.NoGRPCStatus, Method: "GET", Authority: "web", Path: "/",
			Start: time.Now().UnixMicro(), Latency: 500, Duration: 600, Connection: 1, Stream: uint32(i + 1),
		}
		if i < failed {
			e.Status = 500
		}
		enc.Add(&e)
	}
	if err := c.Publish(t.Context(), h.Source.Workload, h.Instance, h.Sequence, enc.Encode(nil, &h)); err != nil {
		t.Fatal(err)
	}
}
