package proxy_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/proxy/listen"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errAway = errors.New("the bus is away")

// sink is a bus: it decodes what it is given, as an aggregator would.
type sink struct {
	mu       sync.Mutex
	away     bool
	headers  map[uint64]event.Header // the last of each instance
	events   []event.Event
	carried  map[uint64]uint64
	problems []string
}

func (s *sink) Publish(_ context.Context, source event.Workload, instance, sequence uint64, batch []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return errAway
	}
	if s.headers == nil {
		s.headers, s.carried = make(map[uint64]event.Header), make(map[uint64]uint64)
	}
	var d event.Decoder
	if err := d.Reset(append([]byte(nil), batch...)); err != nil {
		s.problems = append(s.problems, err.Error())
		return nil
	}
	h := *d.Header()
	var e event.Event
	for d.Next(&e) {
		s.events = append(s.events, e)
		s.carried[instance]++
	}
	if h.Produced != s.carried[instance]+h.Shed || h.Sequence != s.headers[instance].Sequence+1 ||
		h.Sequence != sequence || h.Source.Workload != source {
		s.problems = append(s.problems, "a batch does not add up")
	}
	s.headers[instance] = h
	return nil
}

func (s *sink) WatchTap(context.Context, event.Workload, func()) error { return nil }

func (s *sink) setAway(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

// ended are the End events of one side.
func (s *sink) ended(d event.Direction) []event.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []event.Event
	for _, e := range s.events {
		if e.Kind == event.End && e.Direction == d {
			out = append(out, e)
		}
	}
	return out
}

// sources are the workloads that published.
func (s *sink) sources() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]bool)
	for _, h := range s.headers {
		out[h.Source.Workload.Name] = true
	}
	return out
}

// check fails the test where batches did not add up, or an instance that
// ended did not say so.
func (s *sink) check(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.problems {
		t.Error(p)
	}
	for _, h := range s.headers {
		if !h.Final {
			t.Errorf("%s has no final batch", h.Source.Workload)
		}
	}
}

// running is a Proxy and what ends it.
type running struct {
	*proxy.Proxy
	t    *testing.T
	stop context.CancelFunc
	done chan struct{}
	err  error
}

// begin lets the proxy drain.
func (r *running) begin() { r.stop() }

// end drains the proxy and returns when it has ended.
func (r *running) end() error {
	r.stop()
	select {
	case <-r.done:
	case <-time.After(time.Minute):
		r.t.Fatal("the proxy does not end")
	}
	return r.err
}

func config(name string, specs ...listen.Spec) proxy.Config {
	c := proxy.DefaultConfig()
	c.Self.Workload.Namespace, c.Self.Workload.Kind, c.Self.Workload.Name = "test", "deploy", name
	c.Self.Pod = name + "-0"
	c.Admin.Listen = "127.0.0.1:0"
	c.Traffic.DrainDelay = 0
	c.Traffic.DrainTimeout = 10 * time.Second
	for _, s := range specs {
		if s.Listen == "" {
			s.Listen = "127.0.0.1:0"
		}
		c.Traffic.Listeners = append(c.Traffic.Listeners, s)
	}
	return c
}

func run(t *testing.T, cfg proxy.Config, s *sink) *running {
	t.Helper()
	p, err := proxy.New(context.Background(), cfg, s, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &running{Proxy: p, t: t, stop: stop, done: make(chan struct{})}
	go func() { defer close(r.done); r.err = p.Run(ctx) }()
	t.Cleanup(func() { _ = r.end() })
	return r
}

// mesh is a client's proxy in front of a server's, and the bus of both.
type mesh struct {
	*sink
	out, in *running
	addr    string // where the client's application connects
}

func newMesh(t *testing.T, target string, change func(*proxy.Config)) *mesh {
	t.Helper()
	m := &mesh{sink: &sink{}}
	in := config("server", listen.Spec{Direction: event.Inbound, Target: target})
	if change != nil {
		change(&in)
	}
	m.in = run(t, in, m.sink)
	out := config("client", listen.Spec{Direction: event.Outbound, Target: m.in.Addrs()[0].String(), Mesh: true})
	if change != nil {
		change(&out)
	}
	m.out = run(t, out, m.sink)
	m.addr = m.out.Addrs()[0].String()
	return m
}

// end ends both proxies, the client's first, and checks all batches.
func (m *mesh) end(t *testing.T) {
	t.Helper()
	for _, r := range []*running{m.out, m.in} {
		if err := r.end(); err != nil {
			t.Fatal(err)
		}
	}
	m.check(t)
}

// key identifies an exchange on both sides.
type key struct {
	connection uint64
	stream     uint32
}

// joined checks that each of n exchanges was seen by both sides, with each
// other named as peer, and returns the server's events.
func (m *mesh) joined(t *testing.T, n int) []event.Event {
	t.Helper()
	out, in := m.ended(event.Outbound), m.ended(event.Inbound)
	if len(out) != n || len(in) != n {
		t.Fatalf("%d outbound and %d inbound events of %d exchanges; without a counterpart, or with more than one, are %+v", len(out), len(in), n, unpaired(out, in))
	}
	sent := make(map[key]event.Event)
	for _, e := range out {
		sent[key{e.Connection, e.Stream}] = e
		if e.Peer.Workload.Name != "server" || e.Peer.Pod != "server-0" || !e.Peer.Meshed || !e.Peer.Addr.IsValid() {
			t.Fatalf("outbound peer %+v", e.Peer)
		}
	}
	if len(sent) != n {
		t.Fatalf("%d distinct numbers of %d exchanges", len(sent), n)
	}
	for _, e := range in {
		o, ok := sent[key{e.Connection, e.Stream}]
		if !ok {
			t.Fatalf("%+v has no counterpart", e)
		}
		if o.Protocol != e.Protocol || o.Path != e.Path || o.Status != e.Status || o.GRPCStatus != e.GRPCStatus || o.Error != e.Error {
			t.Fatalf("the sides differ:\n%+v\n%+v", o, e)
		}
		if e.Peer.Workload.Name != "client" || e.Peer.Pod != "client-0" || !e.Peer.Meshed {
			t.Fatalf("inbound peer %+v", e.Peer)
		}
	}
	return in
}

// unpaired are some of the events that are not one of each side's of an exchange.
func unpaired(out, in []event.Event) []event.Event {
	sides := make(map[key][2]int)
	for i, events := range [][]event.Event{out, in} {
		for _, e := range events {
			n := sides[key{e.Connection, e.Stream}]
			n[i]++
			sides[key{e.Connection, e.Stream}] = n
		}
	}
	var left []event.Event
	for _, e := range slices.Concat(out, in) {
		if sides[key{e.Connection, e.Stream}] != [2]int{1, 1} {
			left = append(left, e)
		}
	}
	return left[:min(4, len(left))]
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// tcpServer serves each connection by f until the test ends.
func tcpServer(t *testing.T, f func(c net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(time.Minute))
				f(c)
			})
		}
	})
	return ln.Addr().String()
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return c.(*net.TCPConn)
}

func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

func mustContain(t *testing.T, text string, wants ...string) {
	t.Helper()
	for _, w := range wants {
		if !strings.Contains(text, w) {
			t.Errorf("%q is missing in\n%s", w, text)
		}
	}
}
