package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/api/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/test/bufconn"
)

// Options of a [Server].
type Options struct {
	// Backend answers; required. The server does not close it.
	Backend Backend
	// GRPCAddr and HTTPAddr are where to listen, host:port; port 0 takes a
	// free one.
	GRPCAddr, HTTPAddr string
	// Controller asks the controller of the mesh's Kubernetes cluster. Nil:
	// there is none.
	Controller Controller
	// BusState tells how the bus does; beside an error it returns what it
	// learnt, or nil. Nil: nobody knows.
	BusState func(ctx context.Context) (*BusState, error)
	// MeshMetrics answers GET /metrics/mesh, the mesh's statistics for
	// Prometheus. Nil: there are none.
	MeshMetrics http.Handler
	// Build is what Version answers.
	Build Build
	// Ready says why the server cannot answer now (nil: it can), for /ready.
	// Nil: it always can.
	Ready func() error
	// Logger takes the log. Nil: slog.Default().
	Logger *slog.Logger
}

// Server is a running API server. Its methods are safe for concurrent use.
type Server struct {
	grpcListener net.Listener
	httpListener net.Listener
	// loop is how the HTTP gateway reaches the gRPC server of its own process.
	loop     *bufconn.Listener
	loopConn *grpc.ClientConn

	service *service
	grpc    *grpc.Server
	http    *http.Server
	health  *health.Server
	log     *slog.Logger
	wg      sync.WaitGroup
	// failed gets the first error of a listener that ended by itself.
	failed chan error
	close  func() error
}

// Start listens and serves until Close. An address that cannot be listened on
// is named in the error.
func Start(o Options) (*Server, error) {
	if o.Backend == nil {
		return nil, errors.New("cannot start the API server without a backend")
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	s := &Server{log: o.Logger, failed: make(chan error, 3), loop: bufconn.Listen(64 << 10)}
	s.close = sync.OnceValue(s.shutdown)
	var err error
	if s.grpcListener, err = net.Listen("tcp", o.GRPCAddr); err != nil {
		return nil, fmt.Errorf("cannot listen for gRPC on %s: %w", o.GRPCAddr, err)
	}
	if s.httpListener, err = net.Listen("tcp", o.HTTPAddr); err != nil {
		_ = s.grpcListener.Close()
		return nil, fmt.Errorf("cannot listen for HTTP on %s: %w", o.HTTPAddr, err)
	}
	m := newMetrics()
	s.service = newService(&o, m)
	s.grpc = newGRPC(m)
	weirpb.RegisterWeirServer(s.grpc, s.service)
	s.health = health.NewServer()
	s.health.SetServingStatus(weirpb.Weir_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)

	s.loopConn, err = grpc.NewClient("passthrough:///loop",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.ForceCodecV2(wire.New())), // it is our own
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return s.loop.DialContext(ctx) }))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start the HTTP gateway: %w", err), s.grpcListener.Close(), s.httpListener.Close())
	}
	s.http = &http.Server{
		Handler:           newHTTP(s.loopConn, m, &o),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    MaxMessageBytes,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn),
	}
	s.wg.Go(func() { s.ended("gRPC", s.grpc.Serve(s.grpcListener)) })
	s.wg.Go(func() { s.ended("the HTTP gateway", s.grpc.Serve(s.loop)) })
	s.wg.Go(func() { s.ended("HTTP", s.http.Serve(s.httpListener)) })
	return s, nil
}

func newGRPC(m *serverMetrics) *grpc.Server {
	return grpc.NewServer(
		grpc.MaxRecvMsgSize(MaxMessageBytes),
		grpc.ForceServerCodecV2(wire.New()),
		grpc.MaxConcurrentStreams(256),
		grpc.ConnectionTimeout(10*time.Second),
		// A consumer whose machine vanished must not keep its tap.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(m.unary),
		grpc.ChainStreamInterceptor(m.stream),
	)
}

func (s *Server) ended(what string, err error) {
	if err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, grpc.ErrServerStopped) {
		s.failed <- fmt.Errorf("cannot go on serving %s: %w", what, err)
	}
}

// GRPCAddr is where the server listens for gRPC, host:port.
func (s *Server) GRPCAddr() string { return s.grpcListener.Addr().String() }

// HTTPAddr is where the server listens for HTTP, host:port.
func (s *Server) HTTPAddr() string { return s.httpListener.Addr().String() }

// Failed gives an error if a listener ends by itself.
func (s *Server) Failed() <-chan error { return s.failed }

// stopTimeout bounds how long questions under way are waited for.
const stopTimeout = 5 * time.Second

// Close takes no more questions, ends taps with a reason, waits for what is
// under way, at most 5 s, and frees everything. It may be called again.
func (s *Server) Close() error { return s.close() }

func (s *Server) shutdown() error {
	s.health.Shutdown()
	s.service.stop()
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	// HTTP first: its requests are served by gRPC.
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("cannot wait for HTTP requests under way: %w", err), s.http.Close())
	}
	stopped := make(chan struct{})
	s.wg.Go(func() {
		s.grpc.GracefulStop()
		close(stopped)
	})
	select {
	case <-stopped:
	case <-ctx.Done():
		s.grpc.Stop()
	}
	err = errors.Join(err, s.loopConn.Close())
	s.wg.Wait()
	return err
}
