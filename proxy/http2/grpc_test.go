package http2_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/event"
)

// grpcTest is a gRPC service of all four kinds of calls over strings.
var grpcTest = grpc.ServiceDesc{
	ServiceName: "test.Echo",
	HandlerType: (*any)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Unary", Handler: unary}},
	Streams: []grpc.StreamDesc{
		{StreamName: "Client", ClientStreams: true, Handler: collect},
		{StreamName: "Server", ServerStreams: true, Handler: repeat},
		{StreamName: "Both", ClientStreams: true, ServerStreams: true, Handler: both},
	},
}

func unary(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	in := new(wrapperspb.StringValue)
	if err := decode(in); err != nil {
		return nil, err
	}
	switch in.Value {
	case "fail":
		return nil, status.Error(codes.PermissionDenied, "no")
	case "wait":
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "set"))
	return in, nil
}

func collect(_ any, stream grpc.ServerStream) error {
	total := 0
	for {
		in := new(wrapperspb.StringValue)
		if err := stream.RecvMsg(in); errors.Is(err, io.EOF) {
			return stream.SendMsg(wrapperspb.String(fmt.Sprint(total)))
		} else if err != nil {
			return err
		}
		total += len(in.Value)
	}
}

func repeat(_ any, stream grpc.ServerStream) error {
	in := new(wrapperspb.StringValue)
	if err := stream.RecvMsg(in); err != nil {
		return err
	}
	for range 100 {
		if err := stream.SendMsg(in); err != nil {
			return err
		}
	}
	return nil
}

func both(_ any, stream grpc.ServerStream) error {
	for {
		in := new(wrapperspb.StringValue)
		if err := stream.RecvMsg(in); errors.Is(err, io.EOF) {
			return status.Error(codes.DataLoss, "at the end")
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(in); err != nil {
			return err
		}
	}
}

func grpcServer(t testing.TB) (*grpc.Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	s.RegisterService(&grpcTest, nil)
	served := make(chan struct{})
	go func() { _ = s.Serve(l); close(served) }()
	t.Cleanup(func() { s.Stop(); <-served })
	return s, l.Addr().String()
}

func grpcClient(t testing.TB, addr string) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestGRPCUnary(t *testing.T) {
	_, addr := grpcServer(t)
	m := relayTo(t, addr, nil)
	cc, ctx := grpcClient(t, m.addr), testContext(t)
	f := func(in string, want codes.Code) event.Event {
		t.Helper()
		m.mu.Lock()
		before := len(m.events)
		m.mu.Unlock()
		out := new(wrapperspb.StringValue)
		err := cc.Invoke(ctx, "/test.Echo/Unary", wrapperspb.String(in), out)
		if status.Code(err) != want || err == nil && out.Value != in {
			t.Fatalf("%v, want %v", err, want)
		}
		e := m.wait(t, before+1)[before]
		if e.Protocol != event.GRPC || e.Status != 200 || e.Path != "/test.Echo/Unary" || e.Method != "POST" ||
			codes.Code(e.GRPCStatus) != want || e.Error != "" || e.Stream != uint32(before+1) {
			t.Fatalf("wrong event %+v", e)
		}
		return e
	}
	f("hello", codes.OK)
	f("fail", codes.PermissionDenied) // trailers-only
	big := strings.Repeat("x", 2<<20)
	if e := f(big, codes.OK); e.RequestBytes < 2<<20 || e.ResponseBytes < 2<<20 {
		t.Errorf("wrong bytes %+v", e)
	}
	if e := f("again", codes.OK); !e.Success() {
		t.Error("no success")
	}
}

// streamMessages makes a call of the i-th streaming method, which is to answer with
// receive messages and end in want, and returns the method's path.
func streamMessages(ctx context.Context, t *testing.T, cc *grpc.ClientConn, i, send, receive int, last string, want codes.Code) (path string) {
	t.Helper()
	desc := &grpcTest.Streams[i]
	path = "/test.Echo/" + desc.StreamName
	stream, err := cc.NewStream(ctx, desc, path)
	if err != nil {
		t.Fatal(err)
	}
	for range send {
		if err := stream.SendMsg(wrapperspb.String("message")); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	out := new(wrapperspb.StringValue)
	for range receive {
		if err := stream.RecvMsg(out); err != nil {
			t.Fatal(err)
		}
	}
	if out.Value != last {
		t.Errorf("got %q, want %q", out.Value, last)
	}
	if err := stream.RecvMsg(out); want == codes.OK && !errors.Is(err, io.EOF) || want != codes.OK && status.Code(err) != want {
		t.Errorf("got %v, want %v", err, want)
	}
	return path
}

func TestGRPCStreams(t *testing.T) {
	_, addr := grpcServer(t)
	m := relayTo(t, addr, nil)
	cc, ctx := grpcClient(t, m.addr), testContext(t)
	f := func(i int, send, receive int, last string, want codes.Code) {
		t.Helper()
		path := streamMessages(ctx, t, cc, i, send, receive, last, want)
		e := m.wait(t, i+1)[i]
		if e.Protocol != event.GRPC || e.Path != path || codes.Code(e.GRPCStatus) != want ||
			e.Error != "" || e.Status != 200 || e.Stream != uint32(i+1) {
			t.Errorf("wrong event %+v", e)
		}
	}
	f(0, 200, 1, "1400", codes.OK)
	f(1, 1, 100, "message", codes.OK)
	f(2, 50, 50, "message", codes.DataLoss)
}

func TestGRPCCancel(t *testing.T) {
	_, addr := grpcServer(t)
	m := relayTo(t, addr, nil)
	cc := grpcClient(t, m.addr)
	ctx, cancel := context.WithTimeout(testContext(t), 2*time.Second) // it has to be sent by then
	defer cancel()
	err := cc.Invoke(ctx, "/test.Echo/Unary", wrapperspb.String("wait"), new(wrapperspb.StringValue))
	if status.Code(err) != codes.DeadlineExceeded {
		t.Fatal(err)
	}
	// The server knows the deadline too and may be first.
	e := m.wait(t, 1)[0]
	if e.Error != event.ErrClientReset && e.Error != event.ErrServerReset && codes.Code(e.GRPCStatus) != codes.DeadlineExceeded {
		t.Fatalf("wrong event %+v", e)
	}
}

// TestGRPCGracefulStop lets a call under way end while the server goes away.
func TestGRPCGracefulStop(t *testing.T) {
	s, addr := grpcServer(t)
	m := relayTo(t, addr, nil)
	cc, ctx := grpcClient(t, m.addr), testContext(t)
	stream, err := cc.NewStream(ctx, &grpcTest.Streams[2], "/test.Echo/Both")
	if err != nil {
		t.Fatal(err)
	}
	exchange := func() {
		t.Helper()
		out := new(wrapperspb.StringValue)
		if err := stream.SendMsg(wrapperspb.String("m")); err != nil {
			t.Fatal(err)
		}
		if err := stream.RecvMsg(out); err != nil || out.Value != "m" {
			t.Fatal(out, err)
		}
	}
	exchange()
	stopped := make(chan struct{})
	go func() { s.GracefulStop(); close(stopped) }()
	for range 100 {
		exchange()
	}
	_ = stream.CloseSend()
	if err := stream.RecvMsg(new(wrapperspb.StringValue)); status.Code(err) != codes.DataLoss {
		t.Fatal(err)
	}
	<-stopped
	m.ended(t)
	if e := m.wait(t, 1)[0]; e.Error != "" || codes.Code(e.GRPCStatus) != codes.DataLoss {
		t.Fatalf("wrong event %+v", e)
	}
}

// TestGRPCServerCut cuts the server's connection inside calls.
func TestGRPCServerCut(t *testing.T) {
	s, addr := grpcServer(t)
	m := relayTo(t, addr, nil)
	cc, ctx := grpcClient(t, m.addr), testContext(t)
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
	if e := m.wait(t, 1)[0]; e.Error != event.ErrServerClosed && e.Error != event.ErrServerReset || e.GRPCStatus != event.NoGRPCStatus {
		t.Fatalf("wrong event %+v", e)
	}
}

func TestGRPCNoServer(t *testing.T) {
	m := relayTo(t, "", nil)
	err := grpcClient(t, m.addr).Invoke(testContext(t), "/test.Echo/Unary", wrapperspb.String(strings.Repeat("x", 100000)), new(wrapperspb.StringValue))
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), event.ErrConnectRefused) {
		t.Fatal(err)
	}
	if e := m.wait(t, 1)[0]; e.Error != event.ErrConnectRefused || e.GRPCStatus != 14 || e.Protocol != event.GRPC {
		t.Fatalf("wrong event %+v", e)
	}
}

// TestGRPCDrainUnderLoad drains while calls come without a break: the client
// moves to another connection, and no call fails.
func TestGRPCDrainUnderLoad(t *testing.T) {
	_, addr := grpcServer(t)
	m := relayTo(t, addr, nil)
	cc, ctx := grpcClient(t, m.addr), testContext(t)
	done := make(chan error, 8)
	stop := make(chan struct{})
	for range cap(done) {
		go func() {
			for {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				if err := cc.Invoke(ctx, "/test.Echo/Unary", wrapperspb.String("x"), new(wrapperspb.StringValue)); err != nil {
					done <- err
					return
				}
			}
		}()
	}
	m.waitSome(t, 100)
	close(m.drain) // of all connections, now and later
	m.ended(t)
	close(stop)
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// waitSome waits until n events or more have come.
func (r *recorder) waitSome(t testing.TB, n int) {
	t.Helper()
	late := time.After(patience)
	for {
		r.mu.Lock()
		enough, came := len(r.events) >= n, r.came
		r.mu.Unlock()
		if enough {
			return
		}
		select {
		case <-came:
		case <-late:
			t.Fatalf("fewer than %d events", n)
		}
	}
}
