package http2_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/event"
)

func call(ctx context.Context, cc *grpc.ClientConn, in string) error {
	out := new(wrapperspb.StringValue)
	err := cc.Invoke(ctx, "/test.Echo/Unary", wrapperspb.String(in), out)
	if err == nil && out.Value != in {
		return fmt.Errorf("got %d bytes, sent %d", len(out.Value), len(in))
	}
	return err
}

// load calls from n goroutines until stop, and returns the errors.
func load(ctx context.Context, cc *grpc.ClientConn, n int, stop <-chan struct{}) (calls int, failed []error) {
	var mu sync.Mutex
	var wait sync.WaitGroup
	for range n {
		wait.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				err := call(ctx, cc, "x")
				mu.Lock()
				calls++
				if err != nil {
					failed = append(failed, err)
				}
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	return calls, failed
}

// byPeer counts the events of each endpoint, and checks what all have in common.
func byPeer(t *testing.T, events []event.Event) map[string]int {
	t.Helper()
	got := map[string]int{}
	for _, e := range events {
		if e.Kind != event.End || e.Protocol != event.GRPC || e.Direction != event.Outbound || e.Connection == 0 || e.Stream == 0 ||
			e.Peer.Workload.Name != "voting" {
			t.Fatalf("wrong event %+v", e)
		}
		got[e.Peer.Addr.String()]++
	}
	return got
}

func TestOutboundSpreads(t *testing.T) {
	var addrs []string
	for range 3 {
		_, addr := grpcServer(t)
		addrs = append(addrs, addr)
	}
	b := balanceTo(t, addrs...)
	cc, ctx := grpcClient(t, b.addr), testContext(t)
	const calls = 900
	var wait sync.WaitGroup
	for range 9 {
		wait.Go(func() {
			for range calls / 9 {
				if err := call(ctx, cc, "hello"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
	// A busy machine makes one endpoint look slower than another for a while, not idle.
	got := byPeer(t, b.wait(t, calls))
	for _, addr := range addrs {
		if got[addr] < calls/30 {
			t.Errorf("%s got %d of %d: %v", addr, got[addr], calls, got)
		}
	}
	if n := b.dials.Load(); n != 3 {
		t.Errorf("%d connections to 3 endpoints", n)
	}
	b.idle(t)
}

func TestOutboundCalls(t *testing.T) {
	_, one := grpcServer(t)
	_, two := grpcServer(t)
	b := balanceTo(t, one, two)
	cc, ctx := grpcClient(t, b.addr), testContext(t)
	f := func(i int, send, receive int, last string, want codes.Code) {
		t.Helper()
		before := len(b.all())
		path := streamMessages(ctx, t, cc, i, send, receive, last, want)
		e := b.wait(t, before+1)[before]
		if e.Protocol != event.GRPC || e.Path != path || codes.Code(e.GRPCStatus) != want || e.Error != "" || e.Status != 200 {
			t.Errorf("wrong event %+v", e)
		}
	}
	f(0, 200, 1, "1400", codes.OK)
	f(1, 1, 100, "message", codes.OK)
	f(2, 50, 50, "message", codes.DataLoss)
	if err := call(ctx, cc, "fail"); status.Code(err) != codes.PermissionDenied {
		t.Error(err)
	}
	if err := call(ctx, cc, strings.Repeat("x", 3<<20)); err != nil {
		t.Error(err)
	}
	if e := b.wait(t, 5)[4]; e.RequestBytes < 3<<20 || e.ResponseBytes < 3<<20 {
		t.Errorf("wrong bytes %+v", e)
	}
	short, cancel := context.WithTimeout(ctx, 2*time.Second) // it has to be sent by then
	defer cancel()
	if err := call(short, cc, "wait"); status.Code(err) != codes.DeadlineExceeded {
		t.Error(err)
	}
	b.wait(t, 6)
	b.idle(t)
}

// TestOutboundManyStreams has 1,000 streams open at once on one connection.
func TestOutboundManyStreams(t *testing.T) {
	_, one := grpcServer(t)
	_, two := grpcServer(t)
	b := balanceTo(t, one, two)
	cc, ctx := grpcClient(t, b.addr), testContext(t)
	const streams = 1000
	var wait sync.WaitGroup
	var open atomic.Int64
	all := make(chan struct{})
	for range streams {
		wait.Go(func() {
			stream, err := cc.NewStream(ctx, &grpcTest.Streams[2], "/test.Echo/Both")
			if err != nil {
				t.Error(err)
				return
			}
			for range 3 {
				if err := stream.SendMsg(wrapperspb.String("m")); err != nil {
					t.Error(err)
				}
				if err := stream.RecvMsg(new(wrapperspb.StringValue)); err != nil {
					t.Error(err)
					return
				}
				if open.Add(1) == streams {
					close(all)
				}
				<-all
			}
			_ = stream.CloseSend()
			if err := stream.RecvMsg(new(wrapperspb.StringValue)); status.Code(err) != codes.DataLoss {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	byPeer(t, b.wait(t, streams))
	b.idle(t)
}

// TestOutboundKilled has one of three servers die under load: only what was
// under way there fails, and says so.
func TestOutboundKilled(t *testing.T) {
	var addrs []string
	dying, addr := grpcServer(t)
	addrs = append(addrs, addr)
	for range 2 {
		_, addr := grpcServer(t)
		addrs = append(addrs, addr)
	}
	b := balanceTo(t, addrs...)
	cc, ctx := grpcClient(t, b.addr), testContext(t)
	stop := make(chan struct{})
	go func() {
		b.waitSome(t, 300)
		dying.Stop()
		b.waitSome(t, 2000)
		close(stop)
	}()
	const parallel = 16
	calls, failed := load(ctx, cc, parallel, stop)
	if len(failed) > parallel {
		t.Errorf("%d of %d calls failed: %v", len(failed), calls, failed[0])
	}
	for _, err := range failed {
		if status.Code(err) != codes.Unavailable {
			t.Error(err)
		}
	}
	marked := 0
	for _, e := range b.wait(t, calls) {
		if e.Error != "" {
			marked++
			if e.Peer.Addr.String() != addr {
				t.Errorf("wrong event %+v", e)
			}
		}
	}
	if marked != len(failed) {
		t.Errorf("%d calls failed, %d events say so", len(failed), marked)
	}
	b.idle(t)
}

// TestOutboundGoAway stops servers gracefully under load, one after the other,
// with new ones in their place: no call fails.
func TestOutboundGoAway(t *testing.T) {
	s, addr := grpcServer(t)
	_, other := grpcServer(t)
	b := balanceTo(t, addr, other)
	cc, ctx := grpcClient(t, b.addr), testContext(t)
	stop := make(chan struct{})
	var stopping sync.WaitGroup
	stopping.Go(func() {
		defer close(stop)
		for i := range 5 {
			b.waitSome(t, 300*(i+1))
			s.GracefulStop()
			var next string
			s, next = grpcServer(t)
			b.set.Set(endpointsOf([]string{next, other}))
		}
		b.waitSome(t, 2000)
	})
	calls, failed := load(ctx, cc, 16, stop)
	stopping.Wait()
	for _, err := range failed {
		t.Error(err)
	}
	for _, e := range b.wait(t, calls) {
		if e.Error != "" || e.Attempt > 0 != (e.Fate&event.Retried != 0) {
			t.Errorf("wrong event %+v", e)
		}
	}
	b.idle(t)
}

func TestOutboundNoServer(t *testing.T) {
	s, addr := grpcServer(t)
	s.Stop()
	b := balanceTo(t, addr)
	err := call(testContext(t), grpcClient(t, b.addr), strings.Repeat("x", 100000))
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), event.ErrConnectRefused) {
		t.Fatal(err)
	}
	e := b.wait(t, 1)[0]
	if e.Error != event.ErrConnectRefused || e.GRPCStatus != 14 || e.Protocol != event.GRPC || e.Peer.Addr.String() != addr {
		t.Fatalf("wrong event %+v", e)
	}
}

func TestOutboundNoEndpoints(t *testing.T) {
	b := balanceTo(t)
	err := call(testContext(t), grpcClient(t, b.addr), "x")
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), event.ErrNoEndpoints) {
		t.Fatal(err)
	}
	if e := b.wait(t, 1)[0]; e.Error != event.ErrNoEndpoints || e.GRPCStatus != 14 || e.Protocol != event.GRPC || e.Success() {
		t.Errorf("wrong event %+v", e)
	}
	resp, err := h2Client(t).Get("http://" + b.addr + "/x")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(resp.Header.Get("Weir-Error"), event.ErrNoEndpoints) {
		t.Errorf("%s, %v", resp.Status, resp.Header)
	}
	if e := b.wait(t, 2)[1]; e.Error != event.ErrNoEndpoints || e.Status != http.StatusServiceUnavailable || e.Protocol != event.HTTP2 {
		t.Errorf("wrong event %+v", e)
	}
}

// TestOutboundConnectRetry has an endpoint that is away: nobody notices.
func TestOutboundConnectRetry(t *testing.T) {
	s, dead := grpcServer(t)
	s.Stop()
	_, addr := grpcServer(t)
	b := balanceTo(t, dead, addr)
	b.set.Members()[1].Observe(time.Second, false) // the other seems better
	cc, ctx := grpcClient(t, b.addr), testContext(t)
	for range 50 {
		if err := call(ctx, cc, "x"); err != nil {
			t.Fatal(err)
		}
	}
	retried := 0
	for _, e := range b.wait(t, 50) {
		if e.Peer.Addr.String() != addr || e.Error != "" {
			t.Errorf("wrong event %+v", e)
		}
		if e.Fate&event.Retried != 0 && e.Attempt == 1 {
			retried++
		}
	}
	if retried == 0 || uint64(retried) != b.set.Retries() {
		t.Errorf("%d events say retried, %d were", retried, b.set.Retries())
	}
}

// TestOutboundServerCut cuts a server inside a stream whose response has begun.
func TestOutboundServerCut(t *testing.T) {
	s, addr := grpcServer(t)
	b := balanceTo(t, addr)
	cc, ctx := grpcClient(t, b.addr), testContext(t)
	stream, err := cc.NewStream(ctx, &grpcTest.Streams[2], "/test.Echo/Both")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendMsg(wrapperspb.String("m")); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(new(wrapperspb.StringValue)); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	if err := stream.RecvMsg(new(wrapperspb.StringValue)); status.Code(err) != codes.Unavailable {
		t.Fatal(err)
	}
	if e := b.wait(t, 1)[0]; e.Error != event.ErrServerClosed && e.Error != event.ErrServerReset {
		t.Fatalf("wrong event %+v", e)
	}
}

// TestOutboundDrain drains while calls come without a break.
func TestOutboundDrain(t *testing.T) {
	_, addr := grpcServer(t)
	b := balanceTo(t, addr)
	cc, ctx := grpcClient(t, b.addr), testContext(t)
	stop := make(chan struct{})
	go func() {
		b.waitSome(t, 100)
		close(b.drain)
		time.Sleep(600 * time.Millisecond)
		close(stop)
	}()
	_, failed := load(ctx, cc, 8, stop)
	for _, err := range failed {
		t.Error(err)
	}
}
