package listen_test

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/hello"
	"github.com/weirmesh/weir/proxy/listen"
	"github.com/weirmesh/weir/proxy/mtls/mtlstest"
)

// heard is what servers were sent, by connection.
type heard struct {
	mu    sync.Mutex
	conns []*strings.Builder
}

// greet is a server that speaks first, echoes, and remembers what it was sent.
func (h *heard) greet(c net.Conn) {
	all := new(strings.Builder)
	h.mu.Lock()
	h.conns = append(h.conns, all)
	h.mu.Unlock()
	if _, err := c.Write([]byte("220 ready\r\n")); err != nil {
		return
	}
	b := make([]byte, 4096)
	for {
		n, err := c.Read(b)
		h.mu.Lock()
		all.Write(b[:n])
		h.mu.Unlock()
		if _, werr := c.Write(b[:n]); err != nil || werr != nil {
			return
		}
	}
}

func (h *heard) all() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for _, c := range h.conns {
		out = append(out, c.String())
	}
	return out
}

// A hello that comes after the server's own bytes were let through is not carried
// to the server, and its client has a connection all the same.
func TestLateHello(t *testing.T) {
	ca := mtlstest.New(t)
	f := func(name string, in, out listen.Options, identity string, security event.Security) {
		t.Run(name, func(t *testing.T) {
			var h heard
			in.Self, in.HelloGrace, in.HelloTimeout = emoji, 10*time.Millisecond, patience
			srv := start(t, in, listen.Spec{Direction: event.Inbound, Target: server(t, h.greet)})
			var seen func() string
			var once sync.Once
			var ready sync.WaitGroup
			ready.Add(1)
			addr, seen := wiretap(t, srv.addr, func([]byte) {
				once.Do(func() {
					ready.Wait()
					eventually(t, "the greeting", func() bool { return strings.Contains(seen(), "220 ready") })
				})
			})
			ready.Done()
			out.Self, out.HelloTimeout = web, patience
			client := start(t, out, listen.Spec{Direction: event.Outbound, Target: addr, Mesh: true, Identity: identity})
			c := dial(t, client.addr)
			expect(t, c, "220 ready\r\n")
			exchange(t, c, "EHLO\r\n")
			if rc, p := client.conn(t, 0); p != event.TCP || !rc.Peer.Meshed || rc.Security != security {
				t.Errorf("the client's proxy relays %v with %+v", p, rc)
			}
			if rc, p := srv.conn(t, 1); p != event.TCP || rc.Peer.Workload != web.Workload || rc.Security != security {
				t.Errorf("the server's proxy relays %v with %+v", p, rc)
			}
			if got := h.all(); len(got) != 2 || got[0] != "" || got[1] != "EHLO\r\n" {
				t.Errorf("servers heard %q", got)
			}
			eventually(t, "the first connection's event", func() bool { return len(srv.ended()) > 0 })
			if e := srv.ended()[0]; e.Error != event.ErrProtocol || e.RequestBytes != 0 {
				t.Errorf("the first connection is told as %+v", e)
			}
			for why, n := range client.group.Stats().Denied {
				if n != 0 {
					t.Errorf("%d denied: %s", n, why)
				}
			}
		})
	}
	f("plain", listen.Options{}, listen.Options{}, "", event.Plain)
	f("mutual", listen.Options{Identity: ca.Identity(t, emojiID)}, listen.Options{Identity: ca.Identity(t, webID)}, emojiID, event.Mutual)
}

// Where only meshed clients are served, a server that speaks first waits for their
// hello; and one that is silent waits anyhow.
func TestHelloIsWaitedFor(t *testing.T) {
	ca := mtlstest.New(t)
	delayed := func(target string) string {
		var once sync.Once
		addr, _ := wiretap(t, target, func([]byte) { once.Do(func() { time.Sleep(300 * time.Millisecond) }) })
		return addr
	}
	var h heard
	srv := start(t, listen.Options{Self: emoji, Identity: ca.Identity(t, emojiID), RequireMutual: true, HelloGrace: time.Millisecond, HelloTimeout: patience},
		listen.Spec{Direction: event.Inbound, Target: server(t, h.greet)})
	client := start(t, listen.Options{Self: web, Identity: ca.Identity(t, webID), ConnectTimeout: patience},
		listen.Spec{Direction: event.Outbound, Target: delayed(srv.addr), Identity: emojiID})
	c := dial(t, client.addr)
	expect(t, c, "220 ready\r\n")
	exchange(t, c, "EHLO\r\n")
	if got := h.all(); len(got) != 1 || got[0] != "EHLO\r\n" {
		t.Errorf("servers heard %q", got)
	}
	silent := start(t, listen.Options{Self: emoji, HelloGrace: time.Millisecond, DetectTimeout: time.Millisecond},
		listen.Spec{Direction: event.Inbound, Target: server(t, echo)})
	client = start(t, listen.Options{Self: web, ConnectTimeout: patience},
		listen.Spec{Direction: event.Outbound, Target: delayed(silent.addr), Mesh: true, Protocol: event.HTTP1})
	exchange(t, dial(t, client.addr), "??")
	if rc, p := silent.conn(t, 0); p != event.HTTP1 || rc.Detection != event.DetectHello {
		t.Errorf("%v %v", p, rc.Detection)
	}
}

// What only looks like a hello at first is the application's.
func TestNoLateHello(t *testing.T) {
	var h heard
	srv := start(t, listen.Options{Self: emoji, HelloGrace: time.Millisecond}, listen.Spec{Direction: event.Inbound, Target: server(t, h.greet)})
	for i, first := range []string{hello.Magic[:4] + "D and so on", hello.Magic[:1], "\x16\x03\x01\x00\x05abcde"} {
		c := dial(t, srv.addr)
		expect(t, c, "220 ready\r\n")
		exchange(t, c, first)
		if got := h.all(); len(got) != i+1 || got[i] != first {
			t.Errorf("servers heard %q", got)
		}
	}
}
