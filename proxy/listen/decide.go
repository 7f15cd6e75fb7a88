package listen

import (
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/detect"
	"github.com/weirmesh/weir/proxy/hello"
	"github.com/weirmesh/weir/proxy/mtls"
)

// decide finds out what the connection speaks, and whether it may.
func (c *conn) decide() verdict {
	v := c.judge()
	if v.refused == "" && !v.abandoned && c.tls == nil && c.mustBeMutual() {
		if v.empty {
			// A probe of the port: it asked for nothing and gets nothing.
			return verdict{empty: true}
		}
		c.g.deny(denyPlain, c.client, "it is no meshed client", nil)
		return verdict{refused: ErrMutualRequired, denied: true}
	}
	v.empty = false
	return v
}

// judge finds out what the connection speaks. It waits on the client, for as
// long as nothing else decides.
func (c *conn) judge() verdict {
	fixed, known := c.first, c.sure
	if known && c.l.Direction == event.Outbound {
		return fixed
	}
	if c.peek.init(c.client) != nil {
		return verdict{protocol: event.TCP, detection: event.DetectBytes}
	}
	have := 0
	for {
		b, err := c.peek.wait(have)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if v, ok := c.timeUp(fixed, known, have); ok {
				return v
			}
			continue
		}
		if err != nil && len(b) <= have {
			// The client ended before it said enough.
			v := c.unspoken(fixed, known)
			v.empty = len(b) == 0
			return v
		}
		if c.firstByte.IsZero() {
			c.firstByte = time.Now()
		}
		v, name := detect.Client(b)
		switch {
		case v == detect.Hello && c.mustBeMutual():
			return verdict{} // it proves nothing, and is not answered
		case c.meets(v, b):
			w, ok := c.meet(v == detect.TLS)
			if ok {
				return w
			}
			have = 0
			c.firstByte = time.Time{}
			if fixed, known = c.foregone(); known {
				return fixed
			}
		case known && !c.mayBeHello(v, b):
			return fixed
		case v == detect.NeedMore:
			if b[0] == tlsHandshake {
				c.peek.grow()
			}
			if have == 0 {
				c.wake(time.Now().Add(c.g.o.DetectTimeout))
			}
			have = len(b)
		default:
			return c.spoken(v, name)
		}
	}
}

// tlsHandshake is the first byte of a ClientHello.
const tlsHandshake = 0x16

// meets tells whether the bytes are those of another proxy.
func (c *conn) meets(v detect.Verdict, b []byte) bool {
	if c.l.Direction != event.Inbound || c.greeted {
		return false
	}
	return c.g.proxied(v, b)
}

// proxied tells whether the bytes are the first of a proxy.
func (g *Group) proxied(v detect.Verdict, b []byte) bool {
	return v == detect.Hello || v == detect.TLS && g.o.Identity != nil && detect.Offers(b, mtls.ALPN)
}

// mayBeHello tells whether the bytes may become another proxy's yet.
func (c *conn) mayBeHello(v detect.Verdict, b []byte) bool {
	return v == detect.NeedMore && !c.greeted && (hello.Begins(b) || c.g.o.Identity != nil && len(b) > 0 && b[0] == tlsHandshake)
}

// foregone is the verdict that needs no bytes: configured, or remembered.
func (c *conn) foregone() (verdict, bool) {
	switch {
	case c.opaque:
		return verdict{protocol: event.TCP, detection: event.DetectOpaque}, true
	case c.protocol != event.ProtocolUnknown:
		return verdict{protocol: c.protocol, detection: event.DetectConfig}, true
	case c.g.memory.Knows(c.target, c.accepted):
		return verdict{protocol: event.TCP, detection: event.DetectRemembered}, true
	}
	return verdict{}, false
}

// spoken is the verdict on a client's first bytes.
func (c *conn) spoken(v detect.Verdict, name string) verdict {
	w := verdict{protocol: event.TCP, detection: event.DetectBytes}
	switch v {
	case detect.HTTP1:
		w.protocol = event.HTTP1
	case detect.HTTP2:
		w.protocol = event.HTTP2
	case detect.TLS:
		w.protocol, w.serverName = event.TLS, name
	}
	return w
}

// unspoken is the verdict where bytes decide nothing.
func (c *conn) unspoken(fixed verdict, known bool) verdict {
	if known {
		return fixed
	}
	w := verdict{protocol: event.TCP, detection: event.DetectBytes}
	if c.peek.large != nil {
		// The beginning of a ClientHello that never became whole.
		w.protocol = event.TLS
	}
	return w
}

// timeUp decides when a deadline has passed, whoever set it. Not ok: it was
// none that still holds.
func (c *conn) timeUp(fixed verdict, known bool, have int) (verdict, bool) {
	c.mu.Lock()
	_ = c.client.SetReadDeadline(time.Time{})
	c.deadline = time.Time{}
	aborted, drained, spoke, silent := c.aborted, c.drained, c.spoke, c.gone || c.dialError != ""
	c.mu.Unlock()
	if aborted {
		return verdict{abandoned: true}, true
	}
	if have > 0 {
		return c.unspoken(fixed, known), true
	}
	if c.peek.coming() {
		// It spoke in the meantime: its bytes decide.
		return verdict{}, false
	}
	switch {
	case spoke != detect.NeedMore:
		if c.l.Direction == event.Inbound && !c.greeted {
			c.g.plain.Remember(c.clientHost(), time.Now())
		}
		if known {
			return fixed, true
		}
		if spoke == detect.TCP {
			c.g.memory.Remember(c.target, time.Now())
		}
		return verdict{protocol: event.TCP, detection: event.DetectServerFirst}, true
	case silent:
		return c.unspoken(fixed, known), true
	case drained:
		return verdict{abandoned: true}, true
	}
	return verdict{}, false
}

// meet reads the client's hello, which is known to begin the stream, where
// mutual is set after a TLS handshake, and answers it. ok: the connection is
// decided.
func (c *conn) meet(mutual bool) (v verdict, ok bool) {
	g := c.g
	c.mu.Lock()
	c.helloing = true
	_ = c.client.SetDeadline(time.Now().Add(g.o.HelloTimeout))
	c.mu.Unlock()
	var h hello.Hello
	var err error
	stream := net.Conn(c.client)
	if mutual {
		if v = c.shake(); v.denied {
			err = errDenied
		} else {
			stream = c.tls
		}
	}
	if err == nil {
		h, err = hello.Read(stream)
	}
	if err == nil && mutual {
		if v = c.vouch(h); v.denied {
			err = errDenied
		}
	}
	if err == nil {
		err = c.answer(stream, h)
	}
	c.mu.Lock()
	c.helloing = false
	c.greeted = true
	_ = c.client.SetDeadline(time.Time{})
	aborted := c.aborted
	if aborted || c.spoke != detect.NeedMore {
		c.deadline = past() // the server need not be held back any more
	}
	if !c.deadline.IsZero() {
		_ = c.client.SetReadDeadline(c.deadline)
	}
	c.mu.Unlock()
	if aborted {
		return verdict{abandoned: true}, true
	}
	if v.denied {
		return v, true
	}
	if err != nil {
		g.helloErrors.Add(1)
		g.log.Debug("cannot exchange hellos", "client", c.client.RemoteAddr(), "error", err)
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return verdict{refused: event.ErrClientClosed}, true
		}
		return verdict{refused: event.ErrMalformed}, true
	}
	g.plain.Forget(c.clientHost())
	c.id = h.Connection
	c.peer.Workload, c.peer.Pod, c.peer.Meshed = h.Workload, h.Pod, true
	if mutual {
		c.peek.release()
		c.peek.over(c.tls)
	}
	if h.Protocol == event.ProtocolUnknown || c.opaque || c.protocol != event.ProtocolUnknown {
		return verdict{}, false
	}
	return verdict{protocol: carrier(h.Protocol), detection: event.DetectHello}, true
}

// carrier is the protocol whose relay carries p.
func carrier(p event.Protocol) event.Protocol {
	switch p {
	case event.GRPC:
		return event.HTTP2
	case event.WebSocket:
		return event.HTTP1
	}
	return p
}

// answer sends the proxy's own hello.
func (c *conn) answer(stream net.Conn, h hello.Hello) error {
	own := hello.Hello{
		Workload:   c.g.o.Self.Workload,
		Pod:        c.g.o.Self.Pod,
		Connection: h.Connection,
	}
	b, err := own.Append(make([]byte, 0, 256))
	if err != nil {
		return err
	}
	_, err = stream.Write(b)
	return err
}
