package listen

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/hello"
)

// A hello names the protocol that needs no word of the client, however soon it is
// sent: here before anybody has begun to decide.
func TestHelloNamesWhatIsForegone(t *testing.T) {
	f := func(name string, want event.Protocol, prepare func(g *Group, s *Spec)) {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			got := make(chan hello.Hello, 1)
			go func() {
				defer close(got)
				c, err := ln.Accept()
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				h, err := hello.Read(c)
				if err != nil {
					t.Error(err)
					return
				}
				own, err := (&hello.Hello{Connection: h.Connection}).Append(nil)
				if err == nil {
					_, err = c.Write(own)
				}
				if err != nil {
					t.Error(err)
				}
				got <- h
			}()
			g := New(Options{ConnectTimeout: time.Minute})
			defer g.Close()
			s := Spec{Direction: event.Outbound, Listen: "127.0.0.1:0", Target: ln.Addr().String(), Mesh: true}
			prepare(g, &s)
			addr, err := g.Listen(context.Background(), s)
			if err != nil {
				t.Fatal(err)
			}
			client, err := net.Dial("tcp", addr.String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			l := g.listeners[0]
			accepted, err := l.net.AcceptTCP()
			if err != nil {
				t.Fatal(err)
			}
			defer accepted.Close()
			c := newConn(g, l, accepted)
			c.first, c.sure = c.foregone()
			h, reason := c.dialTo(c.to)
			if reason != "" {
				t.Fatal(reason)
			}
			defer h.conn.Close()
			if said := <-got; said.Protocol != want {
				t.Errorf("the hello names %v, want %v", said.Protocol, want)
			}
		})
	}
	f("configured", event.HTTP1, func(_ *Group, s *Spec) { s.Protocol = event.HTTP1 })
	f("opaque", event.TCP, func(_ *Group, s *Spec) { s.Opaque = true })
	f("remembered", event.TCP, func(g *Group, s *Spec) { g.memory.Remember(s.Target, time.Now()) })
	f("to be detected", event.ProtocolUnknown, func(*Group, *Spec) {})
}
