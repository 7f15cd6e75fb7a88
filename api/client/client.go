// Package client connects to Weir's query API (weir.v1.Weir). It is what the
// command line and the end-to-end tests use; any gRPC client does as well.
package client

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/api/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// DefaultAddr is where `weir api` and `weir demo` listen unless told otherwise.
const DefaultAddr = "127.0.0.1:8085"

// dialTimeout bounds how long an address may stay silent.
const dialTimeout = 5 * time.Second

// maxReply bounds one answer: 3,600 points of some thousand rows are below it.
const maxReply = 64 << 20

// Client is a connection to an API server. It is safe for concurrent use.
type Client struct {
	weirpb.WeirClient

	conn   *grpc.ClientConn
	addr   string
	server *weirpb.VersionResponse
}

// Dial connects to the API server at addr (host:port; empty: [DefaultAddr]) and
// asks who it is. Where none answers the error names the address and what to
// do. Close the client after use.
func Dial(ctx context.Context, addr string) (*Client, error) {
	if addr == "" {
		addr = DefaultAddr
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, fmt.Errorf("cannot use %q as the address of the Weir API: it is not host:port; set --api-addr or WEIR_API_ADDR", addr)
	}
	return connect(ctx, addr, addr, "start it with `weir demo` or `weir api`, or set --api-addr or WEIR_API_ADDR")
}

// DialWith is Dial over connections that dial makes: the first, and each that is
// needed after one was lost. name says in errors where they lead.
func DialWith(ctx context.Context, name string, dial func(ctx context.Context) (net.Conn, error)) (*Client, error) {
	return connect(ctx, name, "passthrough:///weir-api", "`weir check` says what is wrong there",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
}

func connect(ctx context.Context, addr, target, hint string, options ...grpc.DialOption) (*Client, error) {
	// again says when a connection that failed is tried again: an API server that
	// is restarted is soon back.
	again := backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second}
	conn, err := grpc.NewClient(target, append(options,
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: again, MinConnectTimeout: dialTimeout}),
		// A server that vanished without a word must not leave a tap waiting.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply), grpc.ForceCodecV2(wire.New())),
		grpc.WithNoProxy())...)
	if err != nil {
		return nil, fmt.Errorf("cannot use %q as the address of the Weir API: %w", addr, err)
	}
	c := &Client{WeirClient: weirpb.NewWeirClient(conn), conn: conn, addr: addr}
	dctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if c.server, err = c.Version(dctx, &weirpb.VersionRequest{}); err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &DialError{Addr: addr, Err: err, Hint: hint}
	}
	return c, nil
}

// Addr is the address that the client is connected to, or DialWith's name.
func (c *Client) Addr() string { return c.addr }

// Server names the server's build, as it said at Dial.
func (c *Client) Server() *weirpb.VersionResponse { return c.server }

// Close ends the connection and all calls on it.
func (c *Client) Close() error { return c.conn.Close() }

// DialError says that no API server answers at an address.
type DialError struct {
	// Addr is the address, host:port, or DialWith's name.
	Addr string
	// Err is what went wrong, a gRPC status.
	Err error
	// Hint is what to do.
	Hint string
}

// Error names the address, the reason and what to do.
func (e *DialError) Error() string {
	reason := status.Convert(e.Err).Message()
	switch status.Code(e.Err) {
	case codes.Unimplemented:
		reason = "what answers there is not Weir's API"
	case codes.DeadlineExceeded:
		reason = fmt.Sprintf("no answer within %s", dialTimeout)
	case codes.Unavailable:
		if reason = innermost(reason); strings.Contains(reason, "server preface") || strings.Contains(reason, "frame too large") {
			return fmt.Sprintf("cannot reach the Weir API at %s: what answers there does not speak gRPC; the API does, at port 8085 unless it was told another (8086 is for HTTP/JSON): set --api-addr or WEIR_API_ADDR", e.Addr)
		}
	}
	return fmt.Sprintf("cannot reach the Weir API at %s: %s; %s", e.Addr, reason, e.Hint)
}

// Unwrap gives the gRPC status.
func (e *DialError) Unwrap() error { return e.Err }

// innermost cuts what gRPC puts around the error of a failed dial.
func innermost(msg string) string {
	for _, mark := range []string{`desc = "`, "Error while dialing: "} {
		if i := strings.LastIndex(msg, mark); i >= 0 {
			msg = msg[i+len(mark):]
		}
	}
	return strings.TrimSuffix(msg, `"`)
}
