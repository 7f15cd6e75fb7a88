package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"

	core "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// dialThrough gives a function that connects to a pod's port through the API
// server, as `kubectl port-forward` does: each connection is a session of its
// own, so that none outlives another's pod.
func dialThrough(config *rest.Config) func(ctx context.Context, namespace, pod string, port int) (net.Conn, error) {
	return func(ctx context.Context, namespace, pod string, port int) (net.Conn, error) {
		fail := func(err error) (net.Conn, error) {
			return nil, fmt.Errorf("cannot forward a connection to port %d of pod %s/%s: %w", port, namespace, pod, err)
		}
		dialer, err := forwardDialer(config, namespace, pod)
		if err != nil {
			return fail(err)
		}
		type dialed struct {
			session httpstream.Connection
			err     error
		}
		// The dialer knows no context: one that comes too late is closed.
		answer := make(chan dialed)
		go func() {
			session, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
			select {
			case answer <- dialed{session, err}:
			case <-ctx.Done():
				if err == nil {
					_ = session.Close()
				}
			}
		}()
		var d dialed
		select {
		case d = <-answer:
		case <-ctx.Done():
			return fail(context.Cause(ctx))
		}
		if d.err != nil {
			return fail(d.err)
		}
		conn, err := openForward(d.session, port)
		if err != nil {
			_ = d.session.Close()
			return fail(err)
		}
		return conn, nil
	}
}

// forwardDialer opens sessions over a WebSocket, or over SPDY where the API
// server or something on the way to it knows no WebSocket.
func forwardDialer(config *rest.Config, namespace, pod string) (httpstream.Dialer, error) {
	k, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	at := k.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	viaSPDY := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, at)
	viaWebSocket, err := portforward.NewSPDYOverWebsocketDialerForStreaming(at, config)
	if err != nil {
		return nil, err
	}
	return portforward.NewFallbackDialerForStreaming(viaWebSocket, viaSPDY, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}

// openForward opens the two streams of one forwarded connection and gives its
// near end. Closing that, or either stream's end, ends the session.
func openForward(session httpstream.Connection, port int) (net.Conn, error) {
	headers := http.Header{}
	headers.Set(core.StreamType, core.StreamTypeError)
	headers.Set(core.PortHeader, strconv.Itoa(port))
	headers.Set(core.PortForwardRequestIDHeader, "0")
	failure, err := session.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	// Nothing is written to it.
	_ = failure.Close()
	headers.Set(core.StreamType, core.StreamTypeData)
	data, err := session.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	conn := &forwarded{Conn: near, far: far, data: data, session: session}
	conn.copies.Go(func() {
		defer conn.end()
		message, err := io.ReadAll(io.LimitReader(failure, 4<<10))
		if len(message) > 0 {
			slog.Debug("a forwarded connection failed", "port", port, "error", string(message))
		} else if err == nil {
			<-session.CloseChan()
		}
	})
	conn.copies.Go(func() {
		defer conn.end()
		_, _ = io.Copy(far, data)
	})
	conn.copies.Go(func() {
		defer conn.end()
		_, _ = io.Copy(data, far)
	})
	return conn, nil
}

// forwarded is the near end of a forwarded connection.
type forwarded struct {
	net.Conn
	far     net.Conn
	data    httpstream.Stream
	session httpstream.Connection
	once    sync.Once
	copies  sync.WaitGroup
}

// end ends the session; what copies for it ends with it.
func (f *forwarded) end() {
	f.once.Do(func() {
		_ = f.data.Reset()
		_ = f.session.Close()
		_ = f.far.Close()
	})
}

// Close ends the connection and waits for what copied for it.
func (f *forwarded) Close() error {
	f.end()
	err := f.Conn.Close()
	f.copies.Wait()
	return err
}

// forwardListener forwards each connection that is made to l to a ready pod of
// a component, until ctx ends.
func (c *kubeCluster) forwardListener(ctx context.Context, l net.Listener, component, portName string, port int) error {
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	var running sync.WaitGroup
	defer running.Wait()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("cannot go on listening on %s: %w", l.Addr(), err)
		}
		running.Go(func() {
			defer func() { _ = conn.Close() }()
			far, err := c.dialComponent(ctx, component, portName, port)
			if err != nil {
				slog.Warn("cannot forward a connection", "error", err)
				return
			}
			splice(ctx, conn, far)
		})
	}
}

// splice carries bytes both ways until either side ends, or ctx.
func splice(ctx context.Context, a, b net.Conn) {
	end := func() {
		_ = a.Close()
		_ = b.Close()
	}
	defer context.AfterFunc(ctx, end)()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		both.Go(func() {
			defer end()
			_, _ = io.Copy(way[0], way[1])
		})
	}
	both.Wait()
}

// dialComponent connects to a port of a ready pod of a component of Weir.
func (c *kubeCluster) dialComponent(ctx context.Context, component, portName string, port int) (net.Conn, error) {
	pod, err := c.readyPod(ctx, component)
	if err != nil {
		return nil, err
	}
	return c.dial(ctx, c.namespace, pod.Name, namedPort(pod, portName, port))
}
