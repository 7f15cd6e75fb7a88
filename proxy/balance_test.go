package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/proxy/listen"
	"github.com/weirmesh/weir/proxy/mtls/mtlstest"
)

// TestBalance has one client's proxy balance over two servers' proxies, in all
// protocols, and both sides tell of each exchange in the same terms.
func TestBalance(t *testing.T) {
	s := &sink{}
	var servers []*running
	var endpoints []string
	for range 2 {
		h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			_, _ = w.Write(body)
		}))
		h.Config.Protocols = new(http.Protocols)
		h.Config.Protocols.SetHTTP1(true)
		h.Config.Protocols.SetUnencryptedHTTP2(true)
		h.Start()
		t.Cleanup(h.Close)
		r := run(t, config("server", listen.Spec{Direction: event.Inbound, Target: h.Listener.Addr().String()}), s)
		servers = append(servers, r)
		endpoints = append(endpoints, r.Addrs()[0].String())
	}
	out := run(t, config("client", listen.Spec{Direction: event.Outbound, Endpoints: endpoints, Mesh: true}), s)
	url := fmt.Sprintf("http://%s/path", out.Addrs()[0])
	const each = 40
	for _, two := range []bool{false, true} {
		tr := &http.Transport{Protocols: new(http.Protocols)}
		tr.Protocols.SetHTTP1(!two)
		tr.Protocols.SetUnencryptedHTTP2(two)
		for range each {
			resp, err := (&http.Client{Transport: tr}).Post(url, "text/plain", strings.NewReader("hello"))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || string(body) != "hello" {
				t.Fatalf("%q, %v", body, err)
			}
		}
		tr.CloseIdleConnections()
	}
	resp, err := httpClient(t).Get(fmt.Sprintf("http://%s/metrics", out.AdminAddr()))
	if err != nil {
		t.Fatal(err)
	}
	metrics, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	mustContain(t, string(metrics), "weir_proxy_endpoints{listen=", "weir_proxy_retries_total{listen=",
		fmt.Sprintf("endpoint=%q} ", endpoints[0]), fmt.Sprintf("endpoint=%q} ", endpoints[1]), "weir_proxy_endpoint_ejected{")
	m := &mesh{sink: s, out: out, in: servers[0]}
	if err := servers[1].end(); err != nil {
		t.Fatal(err)
	}
	m.end(t)
	m.joined(t, 2*each)
	peers := map[string]int{}
	for _, e := range s.ended(event.Outbound) {
		peers[e.Peer.Addr.String()]++
	}
	if len(peers) != 2 {
		t.Errorf("all went to one endpoint: %v", peers)
	}
}

// TestSlowToSpeak has clients of a balanced listener silent until an endpoint is
// connected to, in case its server speaks first: their requests go over that
// connection, and no end tells of one that no client made.
func TestSlowToSpeak(t *testing.T) {
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	h.Config.Protocols = new(http.Protocols)
	h.Config.Protocols.SetHTTP1(true)
	h.Config.Protocols.SetUnencryptedHTTP2(true)
	h.Start()
	t.Cleanup(h.Close)
	ca := mtlstest.New(t)
	for _, mutual := range []bool{false, true} {
		for _, two := range []bool{false, true} {
			t.Run(fmt.Sprintf("mutual=%v,http2=%v", mutual, two), func(t *testing.T) { slowToSpeak(t, ca, h.Listener.Addr().String(), mutual, two) })
		}
	}
}

func slowToSpeak(t *testing.T, ca *mtlstest.Authority, target string, mutual, two bool) {
	s := &sink{}
	in := config("server", listen.Spec{Direction: event.Inbound, Target: target})
	spec := listen.Spec{Direction: event.Outbound, Mesh: true}
	if mutual {
		in = certified(t, ca, in, "server")
		spec.Identity = identityOf("server")
	}
	server := run(t, in, s)
	spec.Endpoints = []string{server.Addrs()[0].String()}
	c := config("client", spec)
	if mutual {
		c = certified(t, ca, c, "client")
	}
	out := run(t, c, s)
	for _, p := range []*running{server, out} {
		eventually(t, "readiness", func() bool { return body(t, fmt.Sprintf("http://%s/ready", p.AdminAddr())) == "ready\n" })
	}
	dialled := 0
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		dialled++
		want := fmt.Sprintf("weir_proxy_connections_total{direction=%q} %d\n", event.Inbound, dialled)
		eventually(t, "the endpoint's connection", func() bool {
			return strings.Contains(body(t, fmt.Sprintf("http://%s/metrics", server.AdminAddr())), want)
		})
		return conn, err
	}
	const clients, each = 2, 3
	for range clients {
		tr := &http.Transport{Protocols: new(http.Protocols), DialContext: dial}
		tr.Protocols.SetHTTP1(!two)
		tr.Protocols.SetUnencryptedHTTP2(two)
		for range each {
			resp, err := (&http.Client{Transport: tr}).Post("http://"+out.Addrs()[0].String()+"/path", "text/plain", strings.NewReader("hello"))
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Fatal(resp.Status)
			}
		}
		tr.CloseIdleConnections()
	}
	m := &mesh{sink: s, out: out, in: server}
	m.end(t)
	m.joined(t, clients*each)
	for _, e := range s.ended(event.Outbound) {
		if (e.Security == event.Mutual) != mutual {
			t.Errorf("%+v", e)
		}
	}
}

// TestBalanceTCP balances connections whose server speaks first; one of the
// endpoints is away.
func TestBalanceTCP(t *testing.T) {
	addr := tcpServer(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "220 ready\r\n")
		_, _ = io.Copy(io.Discard, c)
	})
	_, away := socket(t)
	s := &sink{}
	out := run(t, config("client", listen.Spec{Direction: event.Outbound, Endpoints: []string{away, addr}}), s)
	for range 5 {
		c := dial(t, out.Addrs()[0].String())
		expect(t, c, "220 ready\r\n")
		_ = c.Close()
	}
	if err := out.end(); err != nil {
		t.Fatal(err)
	}
	events := s.ended(event.Outbound)
	for _, e := range events {
		if e.Protocol != event.TCP || e.Peer.Addr.String() != addr {
			t.Errorf("wrong event %+v", e)
		}
	}
	if len(events) != 5 {
		t.Errorf("%d events", len(events))
	}
}

func TestParseBalance(t *testing.T) {
	c, err := proxy.Parse([]string{"--outbound", "127.0.0.1:1=a:2+b:3,mesh", "--outbound", "127.0.0.1:4=c:5,balance"}, noEnv)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"[a:2 b:3]", "[c:5]"} {
		if got := fmt.Sprint(c.Traffic.Listeners[i].Endpoints); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	for _, args := range [][]string{
		{"--inbound", "127.0.0.1:1=a:2+b:3"}, {"--outbound", "127.0.0.1:1=a:2+b"}, {"--outbound", "127.0.0.1:1=a:2+127.0.0.1:1"},
	} {
		if _, err := proxy.Parse(args, noEnv); err == nil {
			t.Errorf("%v was accepted", args)
		}
	}
}
