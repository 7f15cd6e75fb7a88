package http2_test

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/balance"
	"github.com/weirmesh/weir/proxy/http2"
	"github.com/weirmesh/weir/proxy/relay"
)

// balancer is a listener whose clients' requests are balanced.
type balancer struct {
	*recorder
	*http2.Outbound
	set    *balance.Set
	addr   string
	drain  chan struct{}
	cancel context.CancelFunc
	dials  atomic.Int64
	wrap   atomic.Pointer[func(*net.TCPConn) net.Conn] // of what is dialled; may be nil
}

// balanceTo starts a balancer over the addresses.
func balanceTo(t testing.TB, targets ...string) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b := &balancer{recorder: newRecorder(), addr: l.Addr().String(), drain: make(chan struct{}), cancel: cancel,
		set: balance.New(balance.Options{MaxBackoff: 200 * time.Millisecond}, endpointsOf(targets)...)}
	b.Outbound = http2.NewOutbound(http2.OutboundOptions{Set: b.set, Dial: b.dial})
	var serving sync.WaitGroup
	serving.Go(func() {
		for id := uint64(1); ; id++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				b.Serve(ctx, &relay.Conn{Client: conn, Direction: event.Outbound, ID: id, Accepted: time.Now(),
					Recorder: b.recorder, Drain: b.drain})
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		cancel()
		serving.Wait()
		b.Close()
	})
	return b
}

func endpointsOf(targets []string) []balance.Endpoint {
	var out []balance.Endpoint
	for _, addr := range targets {
		out = append(out, balance.Endpoint{Addr: addr, Workload: event.Workload{Kind: "deploy", Name: "voting"}})
	}
	return out
}

func (b *balancer) dial(ctx context.Context, e balance.Endpoint, _ event.Protocol) (balance.Connection, string) {
	id := uint64(b.dials.Add(1)) + 1000
	peer := event.Peer{Workload: e.Workload, Addr: netip.MustParseAddrPort(e.Addr)}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", e.Addr)
	if err != nil {
		return balance.Connection{Peer: peer}, event.ErrConnectRefused
	}
	c := balance.Connection{Conn: conn, Peer: peer, ID: id, SecurityReason: "test"}
	if wrap := b.wrap.Load(); wrap != nil {
		c.Conn = (*wrap)(conn.(*net.TCPConn))
	}
	return c, ""
}

// all returns the events so far.
func (r *recorder) all() []event.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]event.Event(nil), r.events...)
}

// idle waits until no request is under way.
func (b *balancer) idle(t testing.TB) {
	t.Helper()
	for late := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		busy := int64(0)
		for _, m := range b.set.Members() {
			busy += m.Stats().Outstanding
		}
		if busy == 0 {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("%d requests are still under way", busy)
		}
	}
}
