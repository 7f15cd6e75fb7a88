package server_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, o server.Options) (*server.Server, error) {
	t.Helper()
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	if o.DataDir == "" {
		o.DataDir = t.TempDir()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := server.Start(ctx, o)
	if err == nil {
		t.Cleanup(s.Close)
	}
	return s, err
}

func mustStart(t *testing.T, o server.Options) *server.Server {
	t.Helper()
	s, err := start(t, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func connect(t *testing.T, url string, options ...nats.Option) *nats.Conn {
	t.Helper()
	closed := make(chan struct{})
	nc, err := nats.Connect(url, append(options, nats.Timeout(time.Minute), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nc.Close()
		<-closed
	})
	return nc
}

func streams(t *testing.T, s *server.Server) map[string]jetstream.StreamConfig {
	t.Helper()
	js, err := jetstream.New(connect(t, s.URL()))
	if err != nil {
		t.Fatal(err)
	}
	configs := map[string]jetstream.StreamConfig{}
	list := js.ListStreams(t.Context())
	for info := range list.Info() {
		configs[info.Config.Name] = info.Config
	}
	if err := list.Err(); err != nil {
		t.Fatal(err)
	}
	return configs
}

func TestStartSetsUpStreams(t *testing.T) {
	s := mustStart(t, server.Options{Retention: bus.Retention{EventAge: 30 * time.Minute}})
	if err := s.Ready(); err != nil {
		t.Fatal(err)
	}
	configs := streams(t, s)
	if len(configs) != 6 {
		t.Errorf("there are %d streams, want 6", len(configs))
	}
	events := configs[bus.StreamEvents]
	if events.MaxAge != 30*time.Minute || events.MaxBytes != bus.DefaultEventBytes || events.MaxMsgSize < bus.MaxBatch || events.MaxMsgSize > 2*bus.MaxBatch ||
		events.Storage != jetstream.FileStorage || events.Discard != jetstream.DiscardOld || events.Duplicates != bus.DedupWindow {
		t.Errorf("events stream is %+v", events)
	}
	if rollups := configs[bus.StreamRollups]; rollups.MaxAge != 45*time.Minute {
		t.Errorf("rollups stream is %+v", rollups)
	}
	// The members are a bucket that any NATS client can read.
	js, err := jetstream.New(connect(t, s.URL()))
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(t.Context(), bus.BucketMembers)
	if err != nil {
		t.Fatal(err)
	}
	if status, err := kv.Status(t.Context()); err != nil || status.TTL() != bus.MemberTTL {
		t.Errorf("bucket's status is %+v, %v", status, err)
	}
}

func TestChangedLimitsApply(t *testing.T) {
	dir := t.TempDir()
	first := mustStart(t, server.Options{DataDir: dir})
	first.Close()
	second := mustStart(t, server.Options{DataDir: dir, Retention: bus.Retention{EventAge: 10 * time.Minute, EventBytes: 64 << 20, RollupAge: time.Minute, Rollup10sAge: time.Hour, Rollup1mAge: 24 * time.Hour}})
	configs := streams(t, second)
	if c := configs[bus.StreamEvents]; c.MaxAge != 10*time.Minute || c.MaxBytes != 64<<20 {
		t.Errorf("events stream keeps %v and %d bytes after the change", c.MaxAge, c.MaxBytes)
	}
	// One-second rollups outlive the events that they count.
	for name, age := range map[string]time.Duration{bus.StreamRollups: 25 * time.Minute, bus.StreamRollups10s: time.Hour, bus.StreamRollups1m: 24 * time.Hour} {
		if c := configs[name]; c.MaxAge != age {
			t.Errorf("stream %s keeps %v after the change, want %v", name, c.MaxAge, age)
		}
	}
	second.Close()
	second.Close() // again does nothing
	if err := second.Ready(); err == nil {
		t.Error("a closed bus says that it is ready")
	}
}

func TestStartRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	running := mustStart(t, server.Options{})
	f := func(o server.Options, says string) {
		t.Helper()
		if _, err := start(t, o); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("start with %+v gives %v, want an error with %q", o, err, says)
		}
	}
	f(server.Options{Listen: taken.Addr().String()}, taken.Addr().String()+": the address is in use")
	f(server.Options{Listen: "nonsense"}, `"nonsense": want host:port`)
	f(server.Options{Listen: "127.0.0.1:http"}, `"http" is no port`)
	f(server.Options{Listen: "127.0.0.1:70000"}, `"70000" is no port`)
	f(server.Options{Listen: "0.0.0.0:0"}, "without a password")
	f(server.Options{Listen: ":0"}, "without a password")
	f(server.Options{Listen: "203.0.113.1:0", Insecure: true}, "203.0.113.1:0")
	f(server.Options{DataDir: file}, file)
	f(server.Options{DataDir: running.Options().DataDir}, "another bus is using it")
	f(server.Options{Retention: bus.Retention{EventAge: time.Nanosecond}}, "events for 1ns")
	f(server.Options{Name: "two words"}, "two words")
	f(server.Options{MaxConnections: -1}, "negative")
	f(server.Options{Users: []server.User{{Name: "a"}}}, `"a"`)
	f(server.Options{Users: []server.User{{Name: "weir-bus", Password: "x"}}}, "its own")
	if _, err := server.Start(t.Context(), server.Options{}); err == nil || !strings.Contains(err.Error(), "folder") {
		t.Errorf("start without a folder gives %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := server.Start(cancelled, server.Options{DataDir: t.TempDir(), Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("start with an ended context gives no error")
	}
}

func TestUsers(t *testing.T) {
	s := mustStart(t, server.Options{Listen: "0.0.0.0:0", Users: []server.User{
		{Name: "all", Password: "secret"},
		{Name: "proxy", Password: "secret", Publish: []string{"weir.v1.events.>"}, Subscribe: []string{"_INBOX.>"}},
	}})
	if !strings.HasPrefix(s.URL(), "nats://127.0.0.1:") {
		t.Errorf("URL of a bus on all addresses is %s", s.URL())
	}
	for _, option := range []nats.Option{nats.Name("nobody"), nats.UserInfo("all", "wrong"), nats.UserInfo("weir-bus", "")} {
		if nc, err := nats.Connect(s.URL(), option); err == nil {
			nc.Close()
			t.Error("a client without a password was let in")
		}
	}
	connect(t, s.URL(), nats.UserInfo("all", "secret"))
	refused := make(chan error, 2)
	proxy := connect(t, s.URL(), nats.UserInfo("proxy", "secret"), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	if _, err := proxy.Request("weir.v1.events.a.b.c.d", []byte("x"), 10*time.Second); err != nil {
		t.Errorf("a permitted publish gives %v", err)
	}
	if err := proxy.Publish("weir.v1.rollups.1", nil); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-refused:
		if !strings.Contains(strings.ToLower(err.Error()), "permissions violation") {
			t.Errorf("a forbidden publish gives %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("a forbidden publish was not refused")
	}
}

func TestStrayClientsAreHarmless(t *testing.T) {
	s := mustStart(t, server.Options{MaxConnections: 2})
	// Bytes that are no NATS.
	raw, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, err := raw.Write([]byte("GET / HTTP/1.1\r\n" + strings.Repeat("x", 64<<10))); err != nil {
		t.Log("the bus hung up while being written to:", err)
	}
	if err := raw.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	answer := new(bytes.Buffer)
	_, _ = answer.ReadFrom(raw) // ends when the bus hangs up, in whatever way
	if !strings.Contains(answer.String(), "INFO") {
		t.Errorf("the bus answered %q", answer)
	}
	// A connection too many.
	connect(t, s.URL())
	connect(t, s.URL())
	if nc, err := nats.Connect(s.URL()); err == nil {
		nc.Close()
		t.Error("a third client was let in where two may be")
	}
	if err := s.Ready(); err != nil {
		t.Error(err)
	}
}

// lockedBuffer is a log that many goroutines write to.
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

func TestLogsWithSlog(t *testing.T) {
	var log lockedBuffer
	s := mustStart(t, server.Options{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	s.Close()
	for _, want := range []string{`msg="bus is ready" listen=127.0.0.1:`, "component=nats-server", "level=DEBUG"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has no %q", want)
		}
	}
	if strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("the log of a plain start and stop has an error:\n%s", log.String())
	}
}
