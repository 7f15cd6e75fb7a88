package proxy_test

import (
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

// TestBalanceTCP balances connections whose server speaks first; one of the
// endpoints is away.
func TestBalanceTCP(t *testing.T) {
	addr := tcpServer(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "220 ready\r\n")
		_, _ = io.Copy(io.Discard, c)
	})
	away, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = away.Close()
	s := &sink{}
	out := run(t, config("client", listen.Spec{Direction: event.Outbound, Endpoints: []string{away.Addr().String(), addr}}), s)
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
