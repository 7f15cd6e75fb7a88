package listen_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/hello"
	"github.com/weirmesh/weir/proxy/listen"
	"github.com/weirmesh/weir/proxy/mtls"
	"github.com/weirmesh/weir/proxy/mtls/mtlstest"
	"github.com/weirmesh/weir/proxy/ports"
)

var (
	webID   = control.SPIFFE(mtlstest.TrustDomain, "emojivoto", "web")
	emojiID = control.SPIFFE(mtlstest.TrustDomain, "emojivoto", "emoji")
	evilID  = control.SPIFFE(mtlstest.TrustDomain, "evil", "web")
)

// wiretap is a TCP hop that keeps what passes, and may change what the client
// sends.
func wiretap(t *testing.T, target string, change func([]byte)) (addr string, seen func() string) {
	t.Helper()
	var mu sync.Mutex
	var all strings.Builder
	return server(t, func(c net.Conn) {
			up, err := net.Dial("tcp", target)
			if err != nil {
				return
			}
			defer up.Close()
			carry := func(dst, src net.Conn, change func([]byte)) {
				b := make([]byte, 4096)
				for {
					n, err := src.Read(b)
					if change != nil && n > 0 {
						change(b[:n])
					}
					mu.Lock()
					all.Write(b[:n])
					mu.Unlock()
					if _, werr := dst.Write(b[:n]); err != nil || werr != nil {
						_ = dst.(*net.TCPConn).CloseWrite()
						return
					}
				}
			}
			var wg sync.WaitGroup
			wg.Go(func() { carry(up, c, change) })
			carry(c, up, nil)
			wg.Wait()
		}), func() string {
			mu.Lock()
			defer mu.Unlock()
			return all.String()
		}
}

func TestMutual(t *testing.T) {
	ca := mtlstest.New(t)
	webs, emojis := ca.Identity(t, webID), ca.Identity(t, emojiID)
	f := func(name string, handler func(net.Conn), first, answer string, out, in listen.Spec, want event.Protocol) {
		t.Run(name, func(t *testing.T) {
			in.Direction, in.Target = event.Inbound, server(t, handler)
			srv := start(t, listen.Options{Self: emoji, Identity: emojis, RequireMutual: true}, in)
			addr, seen := wiretap(t, srv.addr, nil)
			out.Direction, out.Target, out.Identity = event.Outbound, addr, emojiID
			client := start(t, listen.Options{Self: web, Identity: webs}, out)
			c := dial(t, client.addr)
			if answer != "" {
				expect(t, c, answer)
			}
			exchange(t, c, first)
			exchange(t, c, strings.Repeat("again and again ", 10_000))
			a, p := client.conn(t, 0)
			b, q := srv.conn(t, 0)
			if p != want || q != want {
				t.Fatalf("relays %v and %v, want %v", p, q, want)
			}
			if a.ID != b.ID || a.Security != event.Mutual || b.Security != event.Mutual || a.SecurityReason != "" || b.SecurityReason != "" {
				t.Fatalf("%+v\n%+v", a, b)
			}
			if a.Peer.Identity != emojiID || a.Peer.Workload != emoji.Workload || b.Peer.Identity != webID || b.Peer.Workload != web.Workload || !b.Peer.Meshed {
				t.Fatalf("peers %+v and %+v", a.Peer, b.Peer)
			}
			// The end of one stream leaves the other open.
			if err := c.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
				t.Fatalf("%q, %v", rest, err)
			}
			if s := seen(); strings.Contains(s, first) || strings.Contains(s, "again") || strings.Contains(s, "emojivoto") {
				t.Fatal("in the clear")
			}
			if h := client.group.Stats().Handshakes[event.Outbound]; h != 1 {
				t.Errorf("%d handshakes", h)
			}
		})
	}
	http := "GET / HTTP/1.1\r\n\r\n"
	f("http", echo, http, "", listen.Spec{}, listen.Spec{}, event.HTTP1)
	f("tcp", echo, "\x01\x02\x03 and what cannot come by chance", "", listen.Spec{}, listen.Spec{}, event.TCP)
	f("opaque", echo, http, "", listen.Spec{Opaque: true}, listen.Spec{Opaque: true}, event.TCP)
	f("server first", greeter, "EHLO there\r\n", "220 ready\r\n", listen.Spec{}, listen.Spec{}, event.TCP)
	f("known protocol", echo, http, "", listen.Spec{Protocol: event.HTTP1}, listen.Spec{}, event.HTTP1)
	f("the application's TLS", echo, clientHello(t, "example.com"), "", listen.Spec{}, listen.Spec{}, event.TCP) // by the relay of TCP
}

// A reset on one side of the mesh is one on the other, not an orderly end.
func TestMutualPassesResets(t *testing.T) {
	ca := mtlstest.New(t)
	ended := make(chan error, 1)
	srv := start(t, listen.Options{Self: emoji, Identity: ca.Identity(t, emojiID)}, listen.Spec{Direction: event.Inbound, Target: server(t, func(c net.Conn) {
		_, err := io.Copy(c, c)
		ended <- err
	})})
	client := start(t, listen.Options{Self: web, Identity: ca.Identity(t, webID)}, listen.Spec{Direction: event.Outbound, Target: srv.addr, Identity: listen.AnyIdentity})
	c := dial(t, client.addr)
	exchange(t, c, "\x01\x02\x03")
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
	if err := <-ended; err == nil {
		t.Error("the server saw an orderly end")
	}
}

// Clients that are no proxies of Weir's, but speak its protocol.
func TestMutualRefusesClients(t *testing.T) {
	ca, stranger := mtlstest.New(t), mtlstest.New(t)
	srv := start(t, listen.Options{Self: emoji, Identity: ca.Identity(t, emojiID)}, listen.Spec{Direction: event.Inbound, Target: server(t, echo)})
	helloOf := func(self event.Source) []byte {
		h := hello.Hello{Workload: self.Workload, Pod: self.Pod, Connection: 7, Protocol: event.TCP}
		b, err := h.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	f := func(name string, files mtls.Files, first []byte, want string, fate event.Fate) {
		t.Run(name, func(t *testing.T) {
			before := srv.ended()
			pair, err := tls.LoadX509KeyPair(files.Certificate, files.Key)
			if err != nil {
				t.Fatal(err)
			}
			c := tls.Client(dial(t, srv.addr), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{control.ALPN}, Certificates: []tls.Certificate{pair}})
			_, _ = c.Write(first)
			if b, err := io.ReadAll(c); len(b) > 0 {
				t.Fatalf("answered %q, %v", b, err)
			}
			eventually(t, "the event", func() bool { return len(srv.ended()) > len(before) })
			if e := srv.ended()[len(before)]; e.Error != want || e.Fate != fate {
				t.Errorf("%+v, want %s", e, want)
			}
		})
	}
	good := helloOf(web)
	f("expired", ca.Files(t, webID, -1), good, listen.ErrUntrusted, event.Denied)
	f("another authority", stranger.Files(t, webID, 1<<40), good, listen.ErrUntrusted, event.Denied)
	f("another trust domain", ca.Files(t, control.SPIFFE("elsewhere.org", "emojivoto", "web"), 1<<40), good, listen.ErrUntrusted, event.Denied)
	f("another namespace", ca.Files(t, evilID, 1<<40), good, listen.ErrWrongIdentity, event.Denied)
	f("tampered hello", ca.Files(t, webID, 1<<40), append([]byte("\xf7WEIR\x01\x00\x04"), 1, 2, 3, 4), event.ErrMalformed, event.Refused)
	f("no hello", ca.Files(t, webID, 1<<40), []byte("GET / HTTP/1.1\r\n\r\n"), event.ErrMalformed, event.Refused)
	denied := srv.group.Stats().Denied
	if denied[listen.ErrUntrusted] != 3 || denied[listen.ErrWrongIdentity] != 1 {
		t.Errorf("denied %v", denied)
	}
}

// The server that the client's proxy comes to has another identity than
// discovery said, is nobody's that is trusted, or is no proxy at all.
func TestMutualRefusesServers(t *testing.T) {
	ca, stranger := mtlstest.New(t), mtlstest.New(t)
	webs := ca.Identity(t, webID)
	meshed := func(id *mtls.Identity) string {
		return start(t, listen.Options{Self: emoji, Identity: id}, listen.Spec{Direction: event.Inbound, Target: server(t, echo)}).addr
	}
	f := func(name, target, identity, want string, self *mtls.Identity) {
		t.Run(name, func(t *testing.T) {
			client := start(t, listen.Options{Self: web, Identity: self}, listen.Spec{Direction: event.Outbound, Target: target, Identity: identity})
			c := dial(t, client.addr)
			_, _ = io.WriteString(c, "\x01\x02\x03")
			if b, err := io.ReadAll(c); len(b) > 0 && err == nil {
				t.Fatalf("answered: %q", b)
			}
			eventually(t, "the event", func() bool { return len(client.ended()) == 1 })
			if e := client.ended()[0]; e.Error != want || e.Security == event.Mutual {
				t.Errorf("%+v, want %s", e, want)
			}
		})
	}
	good := meshed(ca.Identity(t, emojiID))
	f("another identity", good, control.SPIFFE(mtlstest.TrustDomain, "emojivoto", "voting"), listen.ErrWrongIdentity, webs)
	f("another authority", meshed(stranger.Identity(t, emojiID)), emojiID, listen.ErrUntrusted, webs)
	f("no proxy", server(t, echo), emojiID, listen.ErrHandshake, webs)
	f("its own certificate is missing", good, emojiID, listen.ErrNoCertificate, mtls.New(mtls.Options{TrustDomain: mtlstest.TrustDomain}))
	changed, _ := wiretap(t, good, func(b []byte) { b[len(b)/2] ^= 1 })
	f("a changed handshake", changed, emojiID, listen.ErrHandshake, webs)
}

func TestRequireMutual(t *testing.T) {
	ca := mtlstest.New(t)
	target := server(t, greeter)
	port := netip.MustParseAddrPort(target).Port()
	f := func(name string, o listen.Options, first string, served bool) {
		t.Run(name, func(t *testing.T) {
			o.Self, o.Identity, o.RequireMutual = emoji, ca.Identity(t, emojiID), true
			n := start(t, o, listen.Spec{Direction: event.Inbound, Target: target})
			c := dial(t, n.addr)
			if _, err := io.WriteString(c, first); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 3)
			if _, err := io.ReadFull(c, b); (err == nil) != served {
				t.Fatalf("read %q, %v", b, err)
			}
			if served {
				if rc, _ := n.conn(t, 0); rc.Peer.Workload != (event.Workload{Kind: "ext", Name: "node"}) {
					t.Errorf("a probe's client is %+v", rc.Peer)
				}
			}
			if !served {
				eventually(t, "the event", func() bool { return len(n.ended()) == 1 })
				if e := n.ended()[0]; e.Error != listen.ErrMutualRequired || e.Fate != event.Denied || e.SecurityReason != listen.ReasonUnmeshed {
					t.Errorf("%+v", e)
				}
				if n.group.Stats().Denied[listen.ErrMutualRequired] != 1 {
					t.Error("not counted")
				}
			}
		})
	}
	local, other := netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")
	f("plain", listen.Options{}, "GET / HTTP/1.1\r\n\r\n", false)
	f("silent", listen.Options{}, "", false)
	f("the application's TLS", listen.Options{}, clientHello(t, "example.com"), false)
	f("an unproven hello", listen.Options{}, func() string {
		h := hello.Hello{Workload: web.Workload, Connection: 7, Protocol: event.TCP}
		b, _ := h.Append(nil)
		return string(b)
	}(), false)
	f("a probe", listen.Options{PlainFrom: []netip.Prefix{other, local}}, "GET / HTTP/1.1\r\n\r\n", true)
	f("a probe's port", listen.Options{PlainFrom: []netip.Prefix{local}, PlainPorts: []ports.Range{{From: port, To: port}}}, "GET / HTTP/1.1\r\n\r\n", true)
	f("another port", listen.Options{PlainFrom: []netip.Prefix{local}, PlainPorts: []ports.Range{{From: 1, To: 1}}}, "GET / HTTP/1.1\r\n\r\n", false)
	f("another address", listen.Options{PlainFrom: []netip.Prefix{other}}, "GET / HTTP/1.1\r\n\r\n", false)
}

// Who connects and ends without a word, as probes of ports do, is not denied: it
// is an empty connection, and the server's first words do not reach it.
func TestRequireMutualEmpty(t *testing.T) {
	ca := mtlstest.New(t)
	for name, end := range map[string]func(c *net.TCPConn){
		"closed": func(c *net.TCPConn) { _ = c.Close() },
		"reset":  func(c *net.TCPConn) { _ = c.SetLinger(0); _ = c.Close() },
		"half closed": func(c *net.TCPConn) {
			_ = c.CloseWrite()
			if b, err := io.ReadAll(c); len(b) > 0 {
				t.Errorf("read %q, %v", b, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := start(t, listen.Options{Self: emoji, Identity: ca.Identity(t, emojiID), RequireMutual: true},
				listen.Spec{Direction: event.Inbound, Target: server(t, echo)})
			end(dial(t, n.addr).(*net.TCPConn))
			eventually(t, "the event", func() bool { return len(n.ended()) == 1 })
			e := n.ended()[0]
			if e.Error != "" || e.Fate != 0 || e.Protocol != event.TCP || e.RequestBytes+e.ResponseBytes != 0 {
				t.Errorf("%+v", e)
			}
			if denied := n.group.Stats().Denied[listen.ErrMutualRequired]; denied != 0 {
				t.Errorf("%d denied", denied)
			}
		})
	}
}

// A client whose TLS is its own business passes, whatever the proxy's identity.
func TestOtherTLSPasses(t *testing.T) {
	ca := mtlstest.New(t)
	n := start(t, listen.Options{Self: emoji, Identity: ca.Identity(t, emojiID)}, listen.Spec{Direction: event.Inbound, Target: server(t, echo)})
	exchange(t, dial(t, n.addr), clientHello(t, "example.com"))
	if rc, p := n.conn(t, 0); p != event.TCP || rc.Security != event.Passthrough || rc.ServerName != "example.com" {
		t.Fatalf("%v %+v", p, rc)
	}
	if err := n.group.Stats().HandshakeErrors[event.Inbound]; err != 0 {
		t.Error(errors.New("a handshake was tried"))
	}
}
