package proxy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/proxy/discover"
	"github.com/weirmesh/weir/proxy/listen"
	"github.com/weirmesh/weir/proxy/mtls/mtlstest"
)

// overBus is the control plane as cmd/weir-proxy reaches it.
type overBus struct{ *client.Client }

func (b overBus) WatchEndpoints(ctx context.Context, fn func([]byte), missed func()) error {
	return b.Watch(ctx, bus.EndpointsFilter, fn, missed)
}

// controller answers for discovery, over a bus.
type controller struct {
	t      *testing.T
	client *client.Client

	mu      sync.Mutex
	version uint64
	answers map[netip.AddrPort]control.Destination
}

func newController(t *testing.T, c *client.Client) *controller {
	t.Helper()
	ct := &controller{t: t, client: c, answers: make(map[netip.AddrPort]control.Destination)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.Answer(ctx, control.DiscoveryService, control.ResolveMethod, ct.resolve)
	}()
	t.Cleanup(func() { cancel(); <-done })
	question, err := json.Marshal(control.ResolveRequest{Addr: vip})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the controller", func() bool {
		bounded, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := c.Request(bounded, control.DiscoveryService, control.ResolveMethod, question)
		return err == nil
	})
	return ct
}

func (c *controller) resolve(_ context.Context, request []byte) []byte {
	var r control.ResolveRequest
	if err := control.Decode(request, &r); err != nil {
		c.t.Error(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.answers[r.Addr]
	d.Epoch = 1
	b, _ := json.Marshal(&d)
	return b
}

// set changes what is behind the addresses of d, and tells of it.
func (c *controller) set(d control.Destination) {
	c.t.Helper()
	c.mu.Lock()
	c.version++
	d.Epoch, d.Version, d.Known = 1, c.version, true
	for _, a := range d.Addrs {
		c.answers[a] = d
	}
	c.mu.Unlock()
	b, err := json.Marshal(&d)
	if err == nil {
		err = c.client.Announce(bus.EndpointsSubject(d.Namespace, d.Service), b)
	}
	if err != nil {
		c.t.Error(err)
	}
}

// nameServer answers with its name, in all versions of HTTP, and to bare words. A
// request that is to wait connects to an address, until that ends the connection.
func nameServer(t *testing.T, name string) string {
	t.Helper()
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if at := r.URL.Query().Get("wait"); at != "" {
			if c, err := net.Dial("tcp", at); err == nil {
				_, _ = c.Read(make([]byte, 1)) // until it is closed there
				_ = c.Close()
			}
		}
		_, _ = io.WriteString(w, name)
	}))
	h.Config.Protocols = new(http.Protocols)
	h.Config.Protocols.SetHTTP1(true)
	h.Config.Protocols.SetUnencryptedHTTP2(true)
	h.Start()
	t.Cleanup(h.Close)
	return h.Listener.Addr().String()
}

// city is a client's proxy, two meshed servers and a plain one, and the service
// that is all three.
type city struct {
	*sink
	ct      *controller
	service control.Destination
	out     *running
	// identity is the client's.
	identity proxy.Identity
	url      string
	servers  map[string]*running
	ends     map[string]control.Endpoint
}

var vip = netip.MustParseAddrPort("192.0.2.7:80")

func newCity(t *testing.T) *city {
	t.Helper()
	b := bustest.Run(t)
	ca := mtlstest.New(t)
	c := &city{sink: &sink{}, ct: newController(t, bustest.Connect(t, b)), servers: make(map[string]*running), ends: make(map[string]control.Endpoint)}
	for _, name := range []string{"a", "b"} {
		cfg := certified(t, ca, config("server-"+name, listen.Spec{Direction: event.Inbound, Target: nameServer(t, name)}), "server")
		cfg.Identity.RequireMutual = true
		c.servers[name] = run(t, cfg, c.sink)
		c.ends[name] = control.Endpoint{Addr: c.servers[name].Addrs()[0], Namespace: "test", Kind: "deploy", Name: "server-" + name, Pod: "server-" + name + "-0", Identity: identityOf("server")}
	}
	c.ends["plain"] = control.Endpoint{Addr: netip.MustParseAddrPort(nameServer(t, "plain")), Namespace: "test", Kind: "deploy", Name: "old", Pod: "old-0", Reason: "peer_not_meshed"}
	c.service = control.Destination{Namespace: "test", Service: "server", Port: 80, Addrs: []netip.AddrPort{vip}}
	cfg := certified(t, ca, config("client", listen.Spec{Direction: event.Outbound, Target: vip.String(), Discover: true}), "client")
	cfg.Control = overBus{bustest.Connect(t, b)}
	c.identity = cfg.Identity
	c.out = run(t, cfg, c.sink)
	c.url = "http://" + c.out.Addrs()[0].String()
	return c
}

// offer makes the named endpoints those of the service.
func (c *city) offer(names ...string) {
	d := c.service
	for _, n := range names {
		d.Endpoints = append(d.Endpoints, c.ends[n])
	}
	c.ct.set(d)
}

// learn waits until the client's proxy knows the service: on a busy machine its
// first question may take longer than it waits, and then it tries the address itself.
func (c *city) learn(t *testing.T) {
	t.Helper()
	tr := transport(false)
	defer tr.CloseIdleConnections()
	eventually(t, "discovery", func() bool {
		resp, err := (&http.Client{Transport: tr, Timeout: time.Minute}).Get(c.url)
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

func transport(two bool) *http.Transport {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetHTTP1(!two)
	tr.Protocols.SetUnencryptedHTTP2(two)
	return tr
}

// ask returns who answered how often.
func (c *city) ask(t *testing.T, tr *http.Transport, n int) map[string]int {
	t.Helper()
	got := make(map[string]int)
	for range n {
		resp, err := (&http.Client{Transport: tr, Timeout: time.Minute}).Get(c.url)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s %q, %v: %v", resp.Status, b, err, resp.Header)
		}
		got[string(b)]++
	}
	return got
}

// TestDiscovery has a client's proxy balance the requests to a service's address
// over its endpoints, by mutual TLS where they are meshed; changes take effect
// at once, on open connections too.
func TestDiscovery(t *testing.T) {
	for _, two := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/2 %v", two), func(t *testing.T) {
			c := newCity(t)
			c.offer("a", "b", "plain")
			c.learn(t)
			tr := transport(two)
			defer tr.CloseIdleConnections()
			if got := c.ask(t, tr, 60); got["a"] == 0 || got["b"] == 0 || got["plain"] == 0 {
				t.Errorf("answered by %v", got)
			}
			// One goes while a request is under way there: that ends in order, and no
			// other comes.
			c.offer("a")
			eventually(t, "the change", func() bool { return c.ask(t, tr, 1)["a"] == 1 && c.ask(t, tr, 10)["a"] == 10 })
			slow := make(chan string, 1)
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			go func() {
				resp, err := (&http.Client{Transport: tr}).Get(c.url + "/?wait=" + ln.Addr().String())
				if err != nil {
					slow <- err.Error()
					return
				}
				b, _ := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				slow <- string(b)
			}()
			_ = ln.(*net.TCPListener).SetDeadline(time.Now().Add(time.Minute))
			held, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer held.Close()
			c.offer("b")
			eventually(t, "the change", func() bool { return c.ask(t, tr, 1)["b"] == 1 && c.ask(t, tr, 10)["b"] == 10 })
			_ = held.Close()
			if got := <-slow; got != "a" {
				t.Errorf("the slow request got %q", got)
			}
			shown := body(t, fmt.Sprintf("http://%s/metrics", c.out.AdminAddr()))
			mustContain(t, shown, "weir_proxy_destinations 1", "weir_proxy_discovery_requests_total ", `weir_proxy_handshake_errors_total{direction="outbound"} 0`)
			for _, r := range append([]*running{c.out}, c.servers["a"], c.servers["b"]) {
				if err := r.end(); err != nil {
					t.Fatal(err)
				}
			}
			c.check(t)
			for _, e := range c.ended(event.Outbound) {
				mutual := e.Peer.Workload.Name != "old"
				if mutual && (e.Security != event.Mutual || e.Peer.Identity != identityOf("server") || !e.Peer.Meshed) ||
					!mutual && (e.Security != event.Plain || e.SecurityReason != "peer_not_meshed" || e.Peer.Pod != "old-0") {
					t.Fatalf("%+v", e)
				}
			}
			for _, e := range c.ended(event.Inbound) {
				if e.Fate&event.Denied != 0 && e.RequestBytes == 0 {
					continue // a connection that its client gave up before it said anything
				}
				if e.Peer.Identity != identityOf("client") {
					t.Fatalf("%+v", e)
				}
			}
		})
	}
}

// TestDiscoveryWithoutBus goes on with what is known while the bus is away, and
// endpoints that die are left out.
func TestDiscoveryWithoutBus(t *testing.T) {
	c := newCity(t)
	c.offer("a", "b")
	c.learn(t)
	tr := transport(false)
	defer tr.CloseIdleConnections()
	c.ask(t, tr, 1)
	c.ct.client.Close() // with it the controller is away
	if err := c.servers["a"].end(); err != nil {
		t.Fatal(err)
	}
	if got := c.ask(t, tr, 30); got["b"] != 30 {
		t.Errorf("answered by %v", got)
	}
}

// TestDiscoveryOfConnections: what is no HTTP is balanced by connection, and
// opaque services are carried undetected.
func TestDiscoveryOfConnections(t *testing.T) {
	c := newCity(t)
	greeter := tcpServer(t, func(conn net.Conn) {
		_, _ = io.WriteString(conn, "220 ready\r\n")
		_, _ = io.Copy(conn, conn)
	})
	ca := mtlstest.New(t)
	server := run(t, certified(t, ca, config("mail", listen.Spec{Direction: event.Inbound, Target: greeter}), "mail"), c.sink)
	d := c.service
	d.Opaque = true
	d.Endpoints = []control.Endpoint{{Addr: server.Addrs()[0], Namespace: "test", Kind: "sts", Name: "mail", Pod: "mail-0", Identity: identityOf("mail")}}
	c.ct.set(d)
	cfg := certified(t, ca, config("client", listen.Spec{Direction: event.Outbound, Target: vip.String(), Discover: true}), "client")
	cfg.Control = overBus{c.ct.client}
	out := run(t, cfg, c.sink)
	for range 3 {
		conn := dial(t, out.Addrs()[0].String())
		expect(t, conn, "220 ready\r\n")
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\n\r\n")
		expect(t, conn, "GET / HTTP/1.1\r\n\r\n")
		_ = conn.Close()
	}
	if err := out.end(); err != nil {
		t.Fatal(err)
	}
	events := c.ended(event.Outbound)
	if len(events) != 3 {
		t.Fatalf("%d events", len(events))
	}
	for _, e := range events {
		if e.Protocol != event.TCP || e.Detection != event.DetectOpaque || e.Security != event.Mutual || e.Peer.Workload.Name != "mail" {
			t.Errorf("%+v", e)
		}
	}
}

// TestDiscoveryOfAddresses: a single pod is connected to by mutual TLS, an
// address that nobody knows as it is, and one of nobody who can be asked too.
func TestDiscoveryOfAddresses(t *testing.T) {
	c := newCity(t)
	end := c.ends["a"]
	c.ct.set(control.Destination{Namespace: "test", Addrs: []netip.AddrPort{end.Addr}, Endpoints: []control.Endpoint{end}})
	unknown := netip.MustParseAddrPort(nameServer(t, "outside"))
	f := func(target netip.AddrPort, plane proxy.Control, want string, check func(event.Event) bool) {
		t.Helper()
		s := &sink{}
		cfg := config("client", listen.Spec{Direction: event.Outbound, Target: target.String(), Discover: true})
		cfg.Identity = c.identity
		cfg.Control = plane
		r := run(t, cfg, s)
		resp, err := httpClient(t).Get("http://" + r.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err := r.end(); err != nil || !strings.Contains(string(b), want) {
			t.Fatalf("%q, %v", b, err)
		}
		if e := s.ended(event.Outbound); len(e) != 1 || !check(e[0]) {
			t.Errorf("%+v", e)
		}
	}
	f(end.Addr, overBus{c.ct.client}, "a", func(e event.Event) bool {
		return e.Security == event.Mutual && e.Peer.Identity == identityOf("server") && e.Peer.Pod == "server-a-0"
	})
	f(unknown, overBus{c.ct.client}, "outside", func(e event.Event) bool {
		return e.Security == event.Plain && e.SecurityReason == discover.ReasonUnknown && e.Peer.Addr == unknown
	})
	f(unknown, &plane{away: true}, "outside", func(e event.Event) bool { return e.SecurityReason == discover.ReasonUnavailable })
}

// TestWithoutOwnCertificate: a proxy that cannot prove itself connects in plain
// text, and says so.
func TestWithoutOwnCertificate(t *testing.T) {
	c := newCity(t)
	end := c.ends["plain"]
	end.Identity, end.Reason = identityOf("server"), ""
	c.ct.set(control.Destination{Namespace: "test", Addrs: []netip.AddrPort{end.Addr}, Endpoints: []control.Endpoint{end}})
	s := &sink{}
	cfg := config("client", listen.Spec{Direction: event.Outbound, Target: end.Addr.String(), Discover: true})
	cfg.Identity.Token = filepath.Join(t.TempDir(), "token")
	cfg.Identity.Anchors = c.identity.Anchors
	cfg.Control = overBus{c.ct.client} // where nobody certifies
	r := run(t, cfg, s)
	if got := body(t, "http://"+r.Addrs()[0].String()); got != "plain" {
		t.Fatalf("%q", got)
	}
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	if e := s.ended(event.Outbound); len(e) != 1 || e[0].Security != event.Plain || e[0].SecurityReason != listen.ReasonNotReady {
		t.Errorf("%+v", e)
	}
}

// TestDiscoveryNoEndpoints has a service lose its endpoints.
func TestDiscoveryNoEndpoints(t *testing.T) {
	c := newCity(t)
	c.offer("a")
	c.learn(t)
	c.offer()
	for _, two := range []bool{false, true} {
		tr := transport(two)
		defer tr.CloseIdleConnections()
		eventually(t, "the change", func() bool {
			resp, err := (&http.Client{Transport: tr, Timeout: time.Minute}).Get(c.url)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			return resp.StatusCode == http.StatusServiceUnavailable
		})
	}
	if err := c.out.end(); err != nil {
		t.Fatal(err)
	}
	got := make(map[event.Protocol]int)
	for _, e := range c.ended(event.Outbound) {
		if e.Error == event.ErrNoEndpoints && e.Status == http.StatusServiceUnavailable {
			got[e.Protocol]++
		}
	}
	if got[event.HTTP1] == 0 || got[event.HTTP2] == 0 {
		t.Errorf("events of requests without endpoints, by protocol: %v", got)
	}
}
