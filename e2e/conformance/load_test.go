package conformance

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// load is clients of all protocols, and what they need.
type load struct {
	ledger *ledger
	// http, grpc and tcp are the addresses that clients use.
	http, grpc, tcp string

	wg sync.WaitGroup
	// Connections of TCP clients that were answered, and those that may have
	// been accepted.
	tcpSure, tcpMaybe atomic.Uint64
	// pathless are requests of which the proxy may have seen no path.
	pathless atomic.Uint64
	// failed are exchanges that should have been answered and were not.
	failed   atomic.Uint64
	failures sync.Map
}

func (l *load) fail(what string, err error) {
	l.failed.Add(1)
	l.failures.LoadOrStore(what+": "+fmt.Sprint(err), true)
}

// client is one worker of a load.
type client struct {
	*load
	ctx    context.Context
	worker int
	rand   *rand.Rand
}

// begin starts n workers that run f over and over until ctx ends; first is the
// number of the first.
func (l *load) begin(ctx context.Context, first, n int, f func(c *client)) {
	for i := range n {
		l.wg.Go(func() {
			f(&client{load: l, ctx: ctx, worker: first + i, rand: rand.New(rand.NewPCG(uint64(first+i), 1))})
		})
	}
}

func (c *client) over() bool { return c.ctx.Err() != nil }

func (c *client) pause(most time.Duration) { wait(c.ctx, time.Duration(c.rand.Int64N(int64(most)))) }

// webServer answers HTTP/1 and HTTP/2: /soak/… with as many bytes as ?n says,
// after the request's; Upgrade: echo with an echo.
func webServer(t *testing.T) string {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "echo" {
			conn, buffered, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			_, _ = io.Copy(conn, buffered)
			return
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		for n > 0 {
			size := min(n, 32<<10)
			if _, err := w.Write(large[:size]); err != nil {
				return
			}
			n -= size
		}
	}))
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// dialed closes all connections of an http.Transport, also one that was still
// being made for a request given up: CloseIdleConnections does not know that
// one yet, and it stays open for good.
type dialed struct {
	mu     sync.Mutex
	conns  []net.Conn
	closed bool
}

func (d *dialed) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	d.conns = append(d.conns, conn)
	return conn, nil
}

func (d *dialed) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for _, conn := range d.conns {
		_ = conn.Close()
	}
}

// webClient sends whole requests, some given up while they are answered.
func (c *client) webClient(http2 bool) {
	dialed := &dialed{}
	defer dialed.close()
	transport := &http.Transport{DisableCompression: true, Protocols: new(http.Protocols), DialContext: dialed.dial}
	transport.Protocols.SetHTTP1(!http2)
	transport.Protocols.SetUnencryptedHTTP2(http2)
	client := &http.Client{Transport: transport, Timeout: patience}
	for !c.over() {
		path, number := c.ledger.path(c.worker)
		ctx, cancel := context.WithCancel(context.Background())
		what := c.rand.IntN(10)
		size := c.rand.IntN(100 << 10)
		if what == 0 {
			size = 4 << 20
		}
		var body io.Reader = http.NoBody
		method := http.MethodGet
		if what > 6 {
			method, body = http.MethodPost, struct{ io.Reader }{bytes.NewReader(large[:c.rand.IntN(200<<10)])}
		}
		req, err := http.NewRequestWithContext(ctx, method, "http://"+c.http+path+"?n="+strconv.Itoa(size), body)
		if err != nil {
			panic(err) // no such URL can come of the above
		}
		if what == 1 { // Given up at any time, perhaps before its connection carried it.
			c.pathless.Add(1)
			time.AfterFunc(time.Duration(c.rand.IntN(2000))*time.Microsecond, cancel)
		}
		resp, err := client.Do(req)
		switch {
		case err == nil:
			c.ledger.answer(c.worker, number)
			if what != 0 {
				_, _ = io.Copy(io.Discard, resp.Body)
			}
			_ = resp.Body.Close()
		case what != 1:
			c.fail("web client", err)
		}
		cancel()
		c.pause(4 * time.Millisecond)
	}
}

// rudeClient ends HTTP/1 connections in every wrong way.
func (c *client) rudeClient() {
	for !c.over() {
		conn, err := net.DialTimeout("tcp", c.http, patience)
		if err != nil {
			c.fail("connect", err)
			continue
		}
		tcp := conn.(*net.TCPConn)
		_ = conn.SetDeadline(time.Now().Add(patience))
		path, number := c.ledger.path(c.worker)
		switch c.rand.IntN(7) {
		case 0: // The body breaks off.
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: soak\r\nContent-Length: 1000000\r\n\r\n", path)
			_, _ = conn.Write(large[:c.rand.IntN(900_000)])
		case 1: // The same, with a reset.
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: soak\r\nTransfer-Encoding: chunked\r\n\r\n10000\r\n", path)
			_, _ = conn.Write(large[:c.rand.IntN(60_000)])
			c.pause(20 * time.Millisecond)
			_ = tcp.SetLinger(0)
		case 2: // A head that never ends.
			c.pathless.Add(1)
			for i := range c.rand.IntN(5) {
				fmt.Fprintf(conn, "%s", []string{"GET " + path, " HTTP/1.1\r\n", "Host: soak\r\n", "X-Slow", ": y\r\n"}[i])
				c.pause(100 * time.Millisecond)
			}
		case 3: // Nothing at all.
			c.pathless.Add(1)
			c.pause(100 * time.Millisecond)
		case 4: // Half-closed, and answered all the same.
			fmt.Fprintf(conn, "GET %s?n=5000 HTTP/1.1\r\nHost: soak\r\n\r\n", path)
			_ = tcp.CloseWrite()
			if all, err := io.ReadAll(conn); err == nil && len(all) > 5000 {
				c.ledger.answer(c.worker, number)
			} else {
				c.fail("half-closed", fmt.Errorf("%d bytes, %w", len(all), err))
			}
		case 5: // Not HTTP after all.
			c.pathless.Add(1)
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: soak\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", path)
			_, _ = io.Copy(io.Discard, conn)
		case 6:
			c.upgrade(tcp, path, number)
		}
		_ = conn.Close()
		c.pause(10 * time.Millisecond)
	}
}

// upgrade leaves HTTP, echoes a little, and ends in any way.
func (c *client) upgrade(conn *net.TCPConn, path string, number int) {
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: soak\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", path)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		c.fail("upgrade", err)
		return
	}
	c.ledger.answer(c.worker, number)
	got := make([]byte, 1000)
	for range c.rand.IntN(20) {
		_, _ = conn.Write(large[:len(got)])
		if _, err := io.ReadFull(r, got); err != nil {
			c.fail("echo after upgrade", err)
			return
		}
	}
	switch c.rand.IntN(3) {
	case 0:
		_ = conn.SetLinger(0)
	case 1:
		_ = conn.CloseWrite()
		_, _ = io.Copy(io.Discard, r)
	}
}

// echoServer is a TCP server that sends back what it gets.
func echoServer(t *testing.T) string {
	t.Helper()
	ln := listenLocal(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

// tcpClient echoes bytes that are no protocol's.
func (c *client) tcpClient() {
	for !c.over() {
		conn, err := net.DialTimeout("tcp", c.tcp, patience)
		if err != nil {
			c.fail("connect", err)
			continue
		}
		tcp := conn.(*net.TCPConn)
		_ = conn.SetDeadline(time.Now().Add(patience))
		size := c.rand.IntN(1 << 20)
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			_, _ = conn.Write([]byte{0, 1, 2, 3})
			_, _ = conn.Write(large[:size])
		}()
		first := make([]byte, 4)
		if _, err := io.ReadFull(conn, first); err != nil {
			c.fail("TCP echo", err)
		}
		c.tcpSure.Add(1)
		switch c.rand.IntN(3) {
		case 0: // To the end.
			<-sent
			_ = tcp.CloseWrite()
			if n, err := io.Copy(io.Discard, conn); err != nil || n != int64(size) {
				c.fail("TCP echo", fmt.Errorf("%d of %d, %w", n, size, err))
			}
		case 1: // Reset in the middle.
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
		<-sent
		c.pause(20 * time.Millisecond)
	}
}

// bytesCodec lets gRPC carry bytes as they are.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "bytes" }

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

var _ encoding.CodecV2 = bytesCodec{}

// grpcServer echoes the messages of streams of any method.
func grpcServer(t *testing.T) string {
	t.Helper()
	ln := listenLocal(t)
	srv := grpc.NewServer(grpc.ForceServerCodecV2(bytesCodec{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		for {
			var message []byte
			if err := stream.RecvMsg(&message); err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
			if err := stream.SendMsg(&message); err != nil {
				return err
			}
		}
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln)
	}()
	t.Cleanup(func() {
		srv.Stop()
		<-done
	})
	return ln.Addr().String()
}

// grpcClient streams, to the end or until it cancels.
func (c *client) grpcClient() {
	cc, err := grpc.NewClient("passthrough:///"+c.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec{})))
	if err != nil {
		c.fail("gRPC", err)
		return
	}
	defer cc.Close()
	for !c.over() {
		path, number := c.ledger.path(c.worker)
		what := c.rand.IntN(8)
		if err := c.stream(cc, path, number, what); err != nil {
			c.fail("gRPC", err)
		}
		c.pause(4 * time.Millisecond)
	}
}

// stream is one call; what 0 gives it up.
func (c *client) stream(cc *grpc.ClientConn, path string, number, what int) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, path)
	if err != nil {
		return err
	}
	for range 1 + c.rand.IntN(10) {
		message := large[:c.rand.IntN(20<<10)]
		var got []byte
		if err := stream.SendMsg(&message); err != nil {
			return err
		}
		if err := stream.RecvMsg(&got); err != nil || len(got) != len(message) {
			return fmt.Errorf("%d bytes of %d came back: %w", len(got), len(message), err)
		}
		c.ledger.answer(c.worker, number)
	}
	if what == 0 {
		return nil
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	var none []byte
	if err := stream.RecvMsg(&none); !errors.Is(err, io.EOF) {
		return fmt.Errorf("after the last message: %w", err)
	}
	return nil
}
