package listen_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/hello"
	"github.com/weirmesh/weir/proxy/listen"
)

// patience is how long a busy machine may take to connect.
const patience = time.Minute

// pair is a client's proxy that goes through a server's.
func pair(t *testing.T, target string, out, in listen.Spec) (client, srv *node) {
	t.Helper()
	in.Direction, in.Target = event.Inbound, target
	srv = start(t, listen.Options{Self: emoji, ConnectTimeout: patience}, in)
	out.Direction, out.Target, out.Mesh = event.Outbound, srv.addr, true
	return start(t, listen.Options{Self: web, ConnectTimeout: patience}, out), srv
}

func TestHello(t *testing.T) {
	f := func(name string, handler func(net.Conn), first, answer string, out, in listen.Spec, want event.Protocol) {
		t.Run(name, func(t *testing.T) {
			client, srv := pair(t, server(t, handler), out, in)
			var last uint64
			for i := range 3 {
				c := dial(t, client.addr)
				if answer != "" {
					expect(t, c, answer)
				}
				exchange(t, c, first)
				a, p := client.conn(t, i)
				b, q := srv.conn(t, i)
				if p != want || q != want {
					t.Fatalf("relays %v and %v, want %v", p, q, want)
				}
				if a.ID != b.ID || a.ID == 0 {
					t.Fatalf("connection numbers %x and %x", a.ID, b.ID)
				}
				if last != 0 && a.ID != last+1 {
					t.Fatalf("connection number %x follows %x", a.ID, last)
				}
				last = a.ID
				if a.Peer.Workload != emoji.Workload || a.Peer.Pod != emoji.Pod || !a.Peer.Meshed {
					t.Fatalf("client's peer %+v", a.Peer)
				}
				if b.Peer.Workload != web.Workload || b.Peer.Pod != web.Pod || !b.Peer.Meshed {
					t.Fatalf("server's peer %+v", b.Peer)
				}
				if a.SecurityReason != listen.ReasonNoIdentity || b.SecurityReason != listen.ReasonNoIdentity {
					t.Fatalf("reasons %q and %q", a.SecurityReason, b.SecurityReason)
				}
				_ = c.Close()
			}
		})
	}
	http := "GET / HTTP/1.1\r\n\r\n"
	f("http", echo, http, "", listen.Spec{}, listen.Spec{}, event.HTTP1)
	f("tcp", echo, "\x01\x02", "", listen.Spec{}, listen.Spec{}, event.TCP)
	f("opaque", echo, http, "", listen.Spec{Opaque: true}, listen.Spec{}, event.TCP)
	f("opaque server", echo, "\x01\x02", "", listen.Spec{}, listen.Spec{Opaque: true}, event.TCP)
	f("server first", greeter, "EHLO\r\n", "220 ready\r\n", listen.Spec{}, listen.Spec{Mesh: true}, event.TCP)
}

// What an opaque client's proxy says, the server's need not detect.
func TestHelloNamesTheProtocol(t *testing.T) {
	client, srv := pair(t, server(t, echo), listen.Spec{Protocol: event.HTTP1}, listen.Spec{})
	exchange(t, dial(t, client.addr), "??")
	if rc, p := srv.conn(t, 0); p != event.HTTP1 || rc.Detection != event.DetectHello {
		t.Fatalf("%v %v", p, rc.Detection)
	}
}

func TestHostileHello(t *testing.T) {
	n := start(t, listen.Options{Self: emoji}, listen.Spec{Direction: event.Inbound, Target: server(t, echo)})
	f := func(name, bytes, want string) {
		t.Helper()
		before := len(n.ended())
		c := dial(t, n.addr)
		if _, err := io.WriteString(c, bytes); err != nil {
			t.Fatal(err)
		}
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c) // until the proxy closes
		eventually(t, name, func() bool { return len(n.ended()) > before })
		if e := n.ended()[before]; e.Error != want || e.Fate != event.Refused {
			t.Fatalf("%s: %+v", name, e)
		}
	}
	f("oversized", hello.Magic+"\x01\xff\xff", event.ErrMalformed)
	f("unknown version", hello.Magic+"\x09\x00\x00", event.ErrMalformed)
	f("no connection number", hello.Magic+"\x01\x00\x00", event.ErrMalformed)
	f("truncated", hello.Magic+"\x01\x00\x20abc", event.ErrClientClosed)
	if got := n.group.Stats().HelloErrors; got != 4 {
		t.Fatalf("%d errors counted", got)
	}
}

func TestMeshTargetWithoutProxy(t *testing.T) {
	n := start(t, listen.Options{Self: web}, listen.Spec{Direction: event.Outbound, Mesh: true, Target: server(t, greeter)})
	c := dial(t, n.addr)
	if b, err := io.ReadAll(c); err != nil || len(b) != 0 {
		t.Fatalf("read %q, %v", b, err)
	}
	eventually(t, "the event", func() bool { return len(n.ended()) == 1 })
	if e := n.ended()[0]; e.Error != event.ErrProtocol {
		t.Fatalf("%+v", e)
	}
}
