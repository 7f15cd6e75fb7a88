package listen

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/detect"
	"github.com/weirmesh/weir/proxy/hello"
)

// grace is how long a server that spoke is held back for the client's hello.
func (c *conn) grace() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.l.Direction == event.Outbound || c.greeted:
		return 0
	case c.l.Mesh, c.mustBeMutual():
		return c.g.o.HelloTimeout // no other client is served
	case c.g.late.Knows(c.clientHost(), c.accepted):
		return max(c.g.o.HelloTimeout/lateShare, c.g.o.HelloGrace)
	case c.g.plain.Knows(c.clientHost(), c.accepted):
		return min(plainGrace, c.g.o.HelloGrace)
	}
	return c.g.o.HelloGrace
}

// tooLate is a relay.Conn.Check of a client whose server's bytes were let through
// before it said a word. A hello is not for the server: the connection ends, and
// the client's proxy, which could not make sense of these bytes either, connects
// again.
func (g *Group) tooLate(client *net.TCPConn) func(first []byte) (reason string) {
	return func(first []byte) string {
		if v, _ := detect.Client(first); !g.proxied(v, first) {
			return ""
		}
		host := hostOf(client)
		g.helloErrors.Add(1)
		g.plain.Forget(host)
		g.late.Remember(host, time.Now())
		g.log.Debug("a hello came too late", "client", client.RemoteAddr())
		return event.ErrProtocol
	}
}

// clientHost is the client's IP address.
func (c *conn) clientHost() string { return hostOf(c.client) }

func hostOf(c *net.TCPConn) string { return addrOf(c.RemoteAddr()).Addr().String() }

// greet sends the proxy's hello, own with this proxy's names, to the server's
// proxy and reads its answer. Where that fails, reason is an event.Error;
// overtaken says that other bytes came instead.
func (g *Group) greet(server net.Conn, own hello.Hello) (answer *hello.Hello, reason string, overtaken bool) {
	own.Workload, own.Pod = g.o.Self.Workload, g.o.Self.Pod
	stop := context.AfterFunc(g.hard, func() { _ = server.SetDeadline(past()) })
	defer stop()
	_ = server.SetDeadline(time.Now().Add(g.o.HelloTimeout))
	b, err := own.Append(make([]byte, 0, 256))
	if err == nil {
		_, err = server.Write(b)
	}
	var h hello.Hello
	if err == nil {
		h, err = hello.Read(server)
	}
	_ = server.SetDeadline(time.Time{})
	if err == nil {
		return &h, "", false
	}
	g.helloErrors.Add(1)
	g.log.Debug("cannot exchange hellos", "target", own.Destination, "error", err)
	return nil, helloReason(err), errors.Is(err, hello.ErrNotHello)
}

// helloReason maps an error of the exchange to an event.Err constant.
func helloReason(err error) string {
	var timeout net.Error
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Op == "remote error":
		return ErrHandshake // an alert: the server's proxy did not like this one
	case errors.Is(err, hello.ErrNotHello), errors.Is(err, hello.ErrVersion), errors.Is(err, hello.ErrMalformed):
		return event.ErrProtocol
	case errors.As(err, &timeout) && timeout.Timeout():
		return event.ErrConnectTimeout
	}
	return event.ErrServerClosed
}
