package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// proxyFails runs a weir-proxy that must end by itself, and returns its exit
// code and what it said.
func proxyFails(t *testing.T, args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "weir-proxy"), args...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("weir-proxy %v: %v; want it to end with an error\n%s", args, err, out)
	}
	return exit.ExitCode(), string(out)
}

func TestProxyNamesWhatIsWrong(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	f := func(code int, want []string, args ...string) {
		t.Helper()
		got, said := proxyFails(t, args...)
		if got != code {
			t.Errorf("%v: exit %d; want %d", args, got, code)
		}
		for _, w := range want {
			if !strings.Contains(said, w) {
				t.Errorf("%v does not name %q: %s", args, w, said)
			}
		}
	}
	f(2, []string{"--inbound", "nonsense"}, "--inbound", "nonsense")
	f(2, []string{"--workload", "x"}, "--inbound", "127.0.0.1:0=127.0.0.1:1", "--workload", "x")
	f(2, []string{"--bus", "ftp"}, "--inbound", "127.0.0.1:0=127.0.0.1:1", "--workload", "a/deploy/b", "--bus", "ftp://x")
	f(1, []string{"--inbound", taken.Addr().String()}, "--inbound", taken.Addr().String()+"=127.0.0.1:1", "--workload", "a/deploy/b")
}

// TestTrafficGoesOnWithoutBus: no bus at the start; when there is one, what
// was recorded meanwhile arrives.
func TestTrafficGoesOnWithoutBus(t *testing.T) {
	m := startDemo(t)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello")
	}))
	defer app.Close()
	base := freePorts(t, 3)
	addr := func(i int) string { return "127.0.0.1:" + strconv.Itoa(base+i) }
	proxyProcess(t, "--bus=nats://"+addr(1), "--workload=test/deploy/early", "--pod=early-0",
		"--inbound="+addr(0)+"="+app.Listener.Addr().String(), "--admin="+addr(2))
	eventually(t, 10*time.Second, func() string {
		c, err := net.Dial("tcp", addr(0))
		if err != nil {
			return err.Error()
		}
		return errString(c.Close())
	})
	for range 500 {
		if body := get(t, "http://"+addr(0)+"/"); body != "hello" {
			t.Fatalf("through a proxy without a bus: %q", body)
		}
	}
	relay(t, addr(1), m.bus) // now the bus is there
	eventually(t, 30*time.Second, func() string {
		if got := m.stat("-n", "test")["early"].Requests; got != 500 {
			return fmt.Sprintf("%d requests are counted; want 500", got)
		}
		return ""
	})
}

// relay carries connections from one address to another until the test ends.
func relay(t *testing.T, from, to string) {
	t.Helper()
	ln, err := net.Listen("tcp", from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go carry(ln, func() (net.Conn, error) { return net.Dial("tcp", to) })
}

// carry carries what a listener accepts to what dial gives, until it is closed.
func carry(ln net.Listener, dial func() (net.Conn, error)) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return // closed
		}
		go func() {
			s, err := dial()
			if err != nil {
				_ = c.Close()
				return
			}
			go func() { _, _ = io.Copy(s, c); _ = s.Close() }()
			_, _ = io.Copy(c, s)
			_ = c.Close()
		}()
	}
}

func errString(err error) string {
	if err != nil {
		return err.Error()
	}
	return ""
}

// TestMalformedRequests are refused, counted, and never reach the application.
func TestMalformedRequests(t *testing.T) {
	m := startDemo(t)
	refused := []string{
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
	}
	for _, request := range refused {
		c, err := net.Dial("tcp", m.web)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(c.SetDeadline(time.Now().Add(time.Minute)), errOf(io.WriteString(c, request))); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "HTTP/1.1 400 ") {
			t.Errorf("%q is answered with %q, %v; want 400", request, line, err)
		}
		_ = c.Close()
	}
	s := load(t, m.botOut(), 1_000, 4, 3)
	eventually(t, 30*time.Second, func() string {
		web := m.stat()["web"]
		if want := s.requests + uint64(len(refused)); web.Requests != want || web.Status["400"] != uint64(len(refused)) {
			return fmt.Sprintf("web: %d requests %v; want %d with %d refused", web.Requests, web.Status, want, len(refused))
		}
		return ""
	})
}

func errOf(_ int, err error) error { return err }

// TestHostileBatches: what a stranger publishes as a proxy's batch is refused
// and said, and the statistics of everyone stay what they are.
func TestHostileBatches(t *testing.T) {
	m := startDemo(t)
	before := load(t, m.botOut(), 1_000, 4, 4)
	m.settle(before)

	nc, err := nats.Connect("nats://" + m.bus)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	stolen := make(chan []byte, 1)
	sub, err := nc.Subscribe("weir.v1.events.local.emojivoto.deploy.web", func(msg *nats.Msg) {
		select {
		case stolen <- msg.Data:
		default:
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	before.add(load(t, m.botOut(), 500, 4, 5))
	var batch []byte
	select {
	case batch = <-stolen:
	case <-time.After(time.Minute):
		t.Fatal("no batch of web within a minute")
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	publish := func(subject string, data []byte) {
		t.Helper()
		if err := nc.Publish(subject, data); err != nil {
			t.Fatal(err)
		}
	}
	const web = "weir.v1.events.local.emojivoto.deploy.web"
	publish(web, []byte("this is no batch"))
	publish(web, nil)
	publish(web, make([]byte, 1000))
	for cut := 1; cut < len(batch); cut += 1 + len(batch)/64 {
		publish(web, batch[:cut])
	}
	publish(web, batch)                                            // replayed
	publish("weir.v1.events.local.emojivoto.deploy.voting", batch) // under another's name
	publish("weir.v1.events.local.emojivoto.deploy.phantom", batch)
	publish("weir.v1.events.too.short", batch)
	for i := range batch { // one bit of each byte
		hostile := append([]byte(nil), batch...)
		hostile[i] ^= 1 << (i % 8)
		publish("weir.v1.events.local.emojivoto.deploy.voting", hostile)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	before.add(load(t, m.botOut(), 1_000, 4, 6))
	m.settle(before)
	if !strings.Contains(m.log.String(), "refused") {
		t.Error("nothing is said of the refused batches")
	}
	rows := m.stat()
	if rows["phantom"].Requests != 0 {
		t.Error("requests are counted of a workload that is none")
	}
	for _, name := range []string{"web", "voting", "phantom"} {
		if len(rows[name].Offenders) == 0 {
			t.Errorf("stat does not say that batches of %s were refused: %+v", name, rows[name])
		}
	}
}
