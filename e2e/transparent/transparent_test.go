package transparent

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/event"
)

// pair is a host with clients and one with servers, each with a sidecar, and a
// plain one without.
type pair struct {
	*world
	client, server, plain *host
}

func newPair(t *testing.T) *pair {
	t.Helper()
	w := newWorld(t)
	p := &pair{world: w, client: w.host("client"), server: w.host("server"), plain: w.host("plain")}
	p.server.role("apps")
	p.plain.role("apps")
	p.client.mesh()
	p.server.mesh()
	return p
}

// both waits for the events of one exchange between client and server over a
// version of IP: the client's sidecar's, which names where it went, and the
// server's sidecar's, which names whence it came. f holds for both.
func (p *pair) both(t *testing.T, version, what string, f func(e *event.JSONEvent) bool) {
	t.Helper()
	from, to := p.client.ip(version), p.server.ip(version)
	p.seen(t, what+", outbound", func(e *event.JSONEvent) bool {
		return e.Direction == "outbound" && e.Source.Name == "client" && e.Destination.IP == to && f(e)
	})
	p.seen(t, what+", inbound", func(e *event.JSONEvent) bool {
		return e.Direction == "inbound" && e.Destination.Name == "server" && e.Source.IP == from && f(e)
	})
}

// ip is a host's address in a version of IP.
func (h *host) ip(version string) string {
	if version == "IPv6" {
		return h.ip6
	}
	return h.ip4
}

// addresses are a host's in URLs, by version of IP.
func (h *host) addresses() map[string]string {
	return map[string]string{"IPv4": h.ip4, "IPv6": "[" + h.ip6 + "]"}
}

func TestProtocols(t *testing.T) {
	p := newPair(t)
	for version, at := range p.server.addresses() {
		curl := func(t *testing.T, want string, args ...string) {
			t.Helper()
			out, err := p.client.output(append([]string{"curl", "-sS", "-m", "60"}, args...)...)
			if err != nil || !strings.Contains(out, want) {
				t.Fatalf("curl %q: %v\n%s\nwant %q", args, err, out, want)
			}
		}
		t.Run("HTTP1 over "+version, func(t *testing.T) {
			path := "/one/" + version
			curl(t, "HTTP/1.1 POST "+path+"\nbody", "-d", "body", "http://"+at+":"+httpPort+path)
			p.both(t, version, path, func(e *event.JSONEvent) bool {
				return e.Path == path && e.Protocol == "http/1" && e.Method == "POST" && e.Status == 200 && e.Detection == "bytes"
			})
		})
		t.Run("HTTP2 over "+version, func(t *testing.T) {
			path := "/two/" + version
			curl(t, "HTTP/2.0 GET "+path, "--http2-prior-knowledge", "http://"+at+":"+httpPort+path)
			p.both(t, version, path, func(e *event.JSONEvent) bool { return e.Path == path && e.Protocol == "http/2" && e.Status == 200 })
		})
		t.Run("gRPC over "+version, func(t *testing.T) {
			out, err := p.client.output("/usr/bin/env", roleVariable+"=grpc "+at+":"+grpcPort, self)
			if err != nil || out != "SERVING\n" {
				t.Fatalf("%v\n%s", err, out)
			}
			p.both(t, version, "gRPC over "+version, func(e *event.JSONEvent) bool {
				return e.Protocol == "grpc" && e.Path == "/grpc.health.v1.Health/Check" && e.GRPCStatus != nil && *e.GRPCStatus == 0 &&
					e.Authority == at+":"+grpcPort
			})
		})
		t.Run("TCP over "+version, func(t *testing.T) {
			c := p.client.dial(at + ":" + echoPort)
			for _, line := range []string{"\x01 first\n", "second\n"} {
				if _, err := io.WriteString(c, line); err != nil {
					t.Fatal(err)
				}
				expect(t, c, line)
			}
			// Half-closed, and answered to the end.
			_ = c.(*net.TCPConn).CloseWrite()
			if b, err := io.ReadAll(c); err != nil || len(b) != 0 {
				t.Fatalf("read %q, %v", b, err)
			}
			_ = c.Close()
			p.both(t, version, "TCP over "+version, func(e *event.JSONEvent) bool {
				return e.Protocol == "tcp" && e.RequestBytes == 15 && e.ResponseBytes == 15 && e.Detection == "bytes" && to(e, echoPort)
			})
		})
		t.Run("server speaks first over "+version, func(t *testing.T) {
			for _, detection := range []string{"server_first", "remembered"} {
				c := p.client.dial(at + ":" + bannerPort)
				expect(t, c, "220 banner\r\n")
				_, _ = io.WriteString(c, detection)
				expect(t, c, detection)
				_ = c.Close()
				p.seen(t, detection, func(e *event.JSONEvent) bool {
					return e.Protocol == "tcp" && e.Direction == "outbound" && e.Destination.IP == p.server.ip(version) && e.RequestBytes == uint64(len(detection)) &&
						to(e, bannerPort) && e.Detection == detection
				})
			}
		})
		t.Run("NATS over "+version, func(t *testing.T) { p.callNATS(t, version) })
	}
}

// callNATS makes a request over each of the server's NATS ports, by a real
// client; one of them speaks WebSocket.
func (p *pair) callNATS(t *testing.T, version string) {
	t.Helper()
	at := p.server.addresses()[version]
	for _, url := range []string{"nats://" + at + ":" + natsPort, "nats://" + at + ":" + natsOtherPort, "ws://" + at + ":" + websocketPort} {
		out, err := p.client.output("/usr/bin/env", roleVariable+"=nats "+url, self)
		if err != nil || out != "over "+url+"\n" {
			t.Fatalf("%s: %v\n%s", url, err, out)
		}
	}
	for port, want := range map[string][2]string{
		natsPort: {"tcp", "opaque"}, natsOtherPort: {"tcp", "server"}, websocketPort: {"websocket", "bytes"},
	} {
		p.both(t, version, port, func(e *event.JSONEvent) bool {
			return e.Protocol == want[0] && strings.HasPrefix(e.Detection, want[1]) && to(e, port)
		})
	}
}

// to tells whether an event is of a connection to the port. Inbound, the
// server is the workload itself, and events name no port of it.
func to(e *event.JSONEvent, port string) bool {
	return e.Direction == "inbound" || fmt.Sprint(e.Destination.Port) == port
}

func TestRealServers(t *testing.T) {
	p := newPair(t)
	p.server.startRedis()
	p.server.startMariaDB()
	p.server.startNginx()
	for _, version := range []string{"IPv4", "IPv6"} {
		at := p.server.ip(version)
		t.Run("Redis over "+version, func(t *testing.T) {
			for _, port := range []string{redisPort, redisOtherPort} {
				out, err := p.client.output("redis-cli", "-h", at, "-p", port, "SET", "key", version)
				if err != nil || out != "OK\n" {
					t.Fatalf("%v\n%s", err, out)
				}
				if out, err = p.client.output("redis-cli", "-h", at, "-p", port, "GET", "key"); err != nil || out != version+"\n" {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			for _, detection := range []string{"opaque", "bytes"} {
				p.both(t, version, detection, func(e *event.JSONEvent) bool {
					return e.Protocol == "tcp" && e.Detection == detection && e.ResponseBytes > 0
				})
			}
		})
		t.Run("MariaDB over "+version, func(t *testing.T) {
			out, err := p.client.output("mariadb", "--no-defaults", "--host="+at, "--port="+mariadbPort, "--user=weir", "--connect-timeout=20",
				"--batch", "--skip-column-names", "--execute=SELECT 6*7, USER()")
			if err != nil || !strings.HasPrefix(out, "42\tweir@") {
				t.Fatalf("%v\n%s", err, out)
			}
			p.both(t, version, "MariaDB", func(e *event.JSONEvent) bool { return e.Protocol == "tcp" && e.Detection == "server_first" })
		})
		t.Run("TLS over "+version, func(t *testing.T) {
			name := strings.ToLower(version) + ".shop.example"
			connect := at
			if version == "IPv6" {
				connect = "[" + at + "]"
			}
			out, err := p.client.output("curl", "-sSk", "-m", "60", "--connect-to", name+":443:"+connect+":"+tlsPort, "https://"+name+"/")
			if err != nil || out != "nginx for "+name+"\n" {
				t.Fatalf("%v\n%s", err, out)
			}
			p.both(t, version, name, func(e *event.JSONEvent) bool {
				return e.Protocol == "tls" && e.Authority == name && e.Security == "passthrough"
			})
		})
	}
}

// who connects to the role "apps" on a host and returns who it says connected.
func who(t *testing.T, from *host, addr string) string {
	t.Helper()
	b, err := io.ReadAll(from.dial(addr))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// accepted is how many connections a sidecar took over, by direction.
func (h *host) accepted() [2]string {
	return [2]string{
		h.metric(`weir_proxy_connections_total{direction="inbound"}`),
		h.metric(`weir_proxy_connections_total{direction="outbound"}`),
	}
}

// changes tells whether the host's sidecar took connections over while f ran.
func (h *host) changes(f func()) bool {
	h.w.t.Helper()
	before := h.accepted()
	f()
	return h.accepted() != before
}

// skips are flags for init: of the ports of the role "apps", who to skip on
// the server, and on the client the plain host, too.
func (p *pair) skips() (server, client []string) {
	return []string{"--validate=false", "--skip-inbound-ports", "22,7002-7003"},
		[]string{"--validate=false", "--skip-outbound-ports", "7000-7002", "--skip-subnets", p.plain.ip4 + "/32," + p.plain.ip6 + "/128"}
}

func TestRedirected(t *testing.T) {
	p := newPair(t)
	// Through the sidecar, the application sees its own host as the client.
	for version, at := range p.server.addresses() {
		if got := who(t, p.plain, at+":"+whoPort); got != p.server.ip(version) {
			t.Errorf("%s: seen as %s: not through the sidecar", version, got)
		}
		if !p.client.changes(func() { p.client.sh(t, "curl -fsSg -m 10 http://"+p.plain.addresses()[version]+":"+httpPort+"/") }) {
			t.Errorf("%s: the client's sidecar does not have what it sent to a host without one", version)
		}
	}
}

func TestExempt(t *testing.T) {
	p := newPair(t)
	p.client.role("apps")
	for _, at := range []string{"127.0.0.1", "[::1]", p.client.ip4, "[" + p.client.ip6 + "]"} {
		if p.client.changes(func() {
			if got, want := who(t, p.client, at+":"+whoPort), strings.Trim(at, "[]"); got != want {
				t.Errorf("%s: seen as %s", at, got)
			}
			p.client.sh(t, "curl -fsSg -m 10 http://"+at+":"+httpPort+"/")
		}) {
			t.Errorf("%s: the sidecar took what its host said to itself", at)
		}
	}
	for _, at := range p.plain.addresses() {
		if p.client.changes(func() {
			curl := p.client.start(proxyUID, "curl", "-fsSg", "-m", "10", "http://"+at+":"+httpPort+"/")
			curl.ends = true
			<-curl.done
			if curl.err != nil {
				t.Errorf("%v: %s", curl.err, curl.out.tail(1000))
			}
		}) {
			t.Errorf("%s: the sidecar took what its own user sent", at)
		}
	}
}

func TestSkipped(t *testing.T) {
	p := newPair(t)
	server, client := p.skips()

	p.server.init(server...)
	for version, at := range p.server.addresses() {
		if p.server.changes(func() {
			if got := who(t, p.plain, at+":"+whoPort); got != p.plain.ip(version) {
				t.Errorf("%s: seen as %s", version, got)
			}
		}) {
			t.Errorf("%s: the sidecar took a skipped inbound port", version)
		}
		if !p.server.changes(func() { p.plain.sh(t, "curl -fsSg -m 10 http://"+at+":"+httpPort+"/") }) {
			t.Errorf("%s: an inbound port that is not skipped is not redirected", version)
		}
	}

	p.client.init(client...)
	for version, at := range p.server.addresses() {
		if p.client.changes(func() {
			if got := who(t, p.client, at+":"+whoPort); got != p.client.ip(version) {
				t.Errorf("%s: seen as %s", version, got)
			}
		}) {
			t.Errorf("%s: the sidecar took a skipped outbound port", version)
		}
		if p.client.changes(func() { p.client.sh(t, "curl -fsSg -m 10 http://"+p.plain.addresses()[version]+":"+httpPort+"/") }) {
			t.Errorf("%s: the sidecar took a skipped subnet", version)
		}
		if !p.client.changes(func() { p.client.sh(t, "curl -fsSg -m 10 http://"+at+":"+httpPort+"/") }) {
			t.Errorf("%s: what is not skipped is not redirected", version)
		}
	}
}

// Twice is once, and undone is as if it had never been.
func TestTwiceAndUndo(t *testing.T) {
	p := newPair(t)
	_, flags := p.skips()
	p.client.init(flags...)
	const dump = "nft -s -a list ruleset" // with handles, which a rule that is made anew would have anew
	before := p.client.sh(t, dump)
	if said := p.client.init(flags...); !strings.Contains(said, "in place already") {
		t.Errorf("the second init says %q", said)
	}
	if again := p.client.sh(t, dump); again != before {
		t.Errorf("before\n%s\nafter\n%s", before, again)
	}
	for _, h := range []*host{p.client, p.server} {
		for range 2 {
			h.init("--undo")
		}
		if left := h.sh(t, "nft list ruleset"); left != "" {
			t.Errorf("left on %s is\n%s", h.name, left)
		}
	}
	for version, at := range p.server.addresses() {
		if got := who(t, p.client, at+":"+whoPort); got != p.client.ip(version) {
			t.Errorf("%s: after --undo: seen as %s", version, got)
		}
	}
}

// init proves the redirect, and a host whose redirect does not work gets told:
// here another table takes the packets first.
func TestValidation(t *testing.T) {
	w := newWorld(t)
	h := w.host("client")
	if said := h.init(); !strings.Contains(said, "IPv4") || !strings.Contains(said, "IPv6") {
		t.Errorf("init says %q, and not what it has proved", said)
	}
	h.init("--check")
	h.sh(t, "nft add table inet other")
	h.sh(t, "nft add chain inet other out { type nat hook output priority -150 ; }")
	h.sh(t, "nft add rule inet other out meta l4proto tcp redirect to :9")
	for _, mode := range []string{"--check", "--check=false"} {
		out, err := h.output(bin+"/weir-proxy", "init", "--validate-timeout", "1s", mode)
		if err == nil || !strings.Contains(out, "redirection does not work") {
			t.Errorf("init %s where another table redirects: %v\n%s", mode, err, out)
		}
	}
}

// Whoever connects to the proxy's own ports is refused, and the proxy is never
// led to itself.
func TestLoops(t *testing.T) {
	p := newPair(t)
	refused := func(from *host, addr string) {
		t.Helper()
		c, err := from.tryDial(addr)
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: loop\r\n\r\n")
		b, _ := io.ReadAll(c)
		_ = c.Close()
		if len(b) > 0 && !strings.HasPrefix(string(b), "HTTP/1.1 502 ") && !strings.HasPrefix(string(b), "HTTP/1.1 508 ") {
			t.Errorf("%s from %s: %q", addr, from.name, b)
		}
	}
	for _, at := range []string{p.server.ip4, "[" + p.server.ip6 + "]"} {
		refused(p.plain, at+":4143")
		refused(p.client, at+":4143")
		refused(p.server, at+":4143")
		if c, err := p.plain.tryDial(at + ":4140"); err == nil {
			_ = c.Close()
			t.Errorf("the outbound port is open to other hosts")
		}
	}
	for _, at := range []string{"127.0.0.1", "[::1]"} {
		refused(p.server, at+":4143")
		refused(p.server, at+":4140")
	}
	p.seen(t, "loop", func(e *event.JSONEvent) bool { return e.Error == "loop" })
	// Nothing went round: each of these is one connection.
	eventually(t, "the end of all connections", func() bool {
		return p.server.metric(`weir_proxy_connections_open{direction="inbound"}`) == "0"
	})
	p.client.sh(t, "curl -fsS -m 10 http://"+p.server.ip4+":"+httpPort+"/")
}

// A server that is away, and one that does not answer, look so to clients.
func TestAbsentServers(t *testing.T) {
	p := newPair(t)
	out, err := p.client.output("curl", "-sS", "-m", "60", "-o", "/dev/null", "-w", "%{http_code}", "http://"+p.server.ip4+":1/away")
	if err != nil || out != "502" {
		t.Fatalf("%v %q", err, out)
	}
	p.seen(t, "the refusal", func(e *event.JSONEvent) bool {
		return e.Path == "/away" && e.Error == "connect_refused" && e.Direction == "inbound"
	})
}

// A sidecar that drains loses no request; while there is none, nothing passes
// it by; the next one goes on.
func TestRestart(t *testing.T) {
	p := newPair(t)
	url := "http://" + p.server.ip4 + ":" + httpPort + "/"
	// A request that is under way when the sidecar is told to end.
	slow := p.client.start(0, "curl", "-sS", "-m", "60", "-w", "%{http_code}", url+"slow")
	slow.ends = true
	eventually(t, "a request under way", func() bool {
		return p.server.metric(`weir_proxy_connections_open{direction="inbound"}`) == "1"
	})
	p.server.proxy.stop(t)
	<-slow.done
	if out := slow.out.tail(1000); slow.err != nil || !strings.HasSuffix(out, "GET /slow\n200") {
		t.Errorf("the request under way: %v, %q", slow.err, out)
	}
	if out, err := p.client.output("curl", "-fsS", "-m", "5", url); err == nil {
		t.Errorf("served without a sidecar: %s", out)
	}
	p.server.startProxy()
	p.client.sh(t, "curl -fsS -m 10 "+url+"after")
	p.both(t, "IPv4", "/after", func(e *event.JSONEvent) bool { return e.Path == "/after" && e.Status == http.StatusOK })
	// The rules were not touched: a second init finds them in place.
	if out := p.server.init("--validate=false"); !strings.Contains(out, "in place already") {
		t.Errorf("init says %q", out)
	}
}

// A server that speaks first is not held up by a client that is silent: once
// its host is known to have no proxy to introduce, not even for a hello.
func TestServerSpeaksAtOnce(t *testing.T) {
	p := newPair(t)
	best := time.Hour
	for i := range 10 {
		began := time.Now()
		c := p.client.dial(p.server.ip4 + ":" + bannerPort)
		expect(t, c, "220 banner\r\n")
		if took := time.Since(began); i > 0 {
			best = min(best, took)
		}
		_ = c.Close()
	}
	t.Logf("the banner came after %s", best)
	if best > 50*time.Millisecond { // as long as nothing waits for a timeout, it is one or two
		t.Errorf("the banner came after %s at best", best)
	}
}
