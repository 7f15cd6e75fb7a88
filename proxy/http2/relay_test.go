package http2_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/http2"
	"github.com/weirmesh/weir/proxy/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of the tests.
const patience = 60 * time.Second

// recorder keeps events.
type recorder struct {
	mu     sync.Mutex
	events []event.Event
	came   chan struct{} // closed and replaced with each event
}

func newRecorder() *recorder { return &recorder{came: make(chan struct{})} }

func (r *recorder) Record(e *event.Event) {
	c := *e
	c.Method, c.Authority, c.Path = strings.Clone(e.Method), strings.Clone(e.Authority), strings.Clone(e.Path)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, c)
	close(r.came)
	r.came = make(chan struct{})
}

// wait returns the events when they are n, or what there is when it is late.
func (r *recorder) wait(t testing.TB, n int) []event.Event {
	t.Helper()
	late := time.After(patience)
	for {
		r.mu.Lock()
		events, came := append([]event.Event(nil), r.events...), r.came
		r.mu.Unlock()
		if len(events) > n {
			t.Fatalf("%d events, want %d: %+v", len(events), n, events)
		}
		if len(events) == n {
			return events
		}
		select {
		case <-came:
		case <-late:
			t.Fatalf("%d events came, want %d: %+v", len(events), n, events)
		}
	}
}

// mesh is a listener whose connections are relayed to target; "" is a target
// that cannot be reached.
type mesh struct {
	*recorder
	addr   string
	drain  chan struct{}
	cancel context.CancelFunc
	served chan struct{} // one for each Serve that returned
}

// relayTo starts a mesh; change may alter each Conn.
func relayTo(t testing.TB, target string, change func(*relay.Conn)) *mesh {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &mesh{recorder: newRecorder(), addr: l.Addr().String(), drain: make(chan struct{}),
		cancel: cancel, served: make(chan struct{}, 1000)}
	var all sync.WaitGroup
	all.Go(func() {
		for id := uint64(1); ; id++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c := &relay.Conn{Client: conn, ID: id, Direction: event.Inbound, Accepted: time.Now(),
				Recorder: m.recorder, Drain: m.drain}
			if target == "" {
				c.DialError = event.ErrConnectRefused
			} else if c.Server, err = net.Dial("tcp", target); err != nil {
				t.Errorf("cannot dial the test's server: %v", err)
				_ = conn.Close()
				continue
			}
			if change != nil {
				change(c)
			}
			all.Go(func() {
				http2.Serve(ctx, c)
				m.served <- struct{}{}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		cancel()
		all.Wait()
	})
	return m
}

// ended waits until a connection has been served.
func (m *mesh) ended(t testing.TB) {
	t.Helper()
	select {
	case <-m.served:
	case <-time.After(patience):
		t.Fatal("the relay does not end")
	}
}
