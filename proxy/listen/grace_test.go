package listen_test

import (
	"net"
	"testing"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/hello"
	"github.com/weirmesh/weir/proxy/listen"
)

// A server that speaks first is held back for a client's hello once; then it
// is known of the client's host that it sends none, until one comes after all.
func TestGraceIsWaitedOnce(t *testing.T) {
	const grace = 2 * time.Second
	n := start(t, listen.Options{Self: web, HelloGrace: grace},
		listen.Spec{Direction: event.Inbound, Opaque: true, Target: server(t, func(c net.Conn) { _, _ = c.Write([]byte("220 hi\r\n")) })})
	waited := func(i int) bool {
		t.Helper()
		exchangeBanner(t, dial(t, n.addr))
		c, _ := n.conn(t, i)
		return time.Duration(c.DetectionTime)*time.Microsecond >= grace/2
	}
	if !waited(0) {
		t.Error("a client of which nothing is known was not waited for")
	}
	if waited(1) {
		t.Error("waited again for a hello of a client that sends none")
	}
	b, err := (&hello.Hello{Workload: emoji.Workload, Pod: emoji.Pod, Connection: 7}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	// It is still waited for a little, which the machine may take for itself.
	next := 2
	eventually(t, "a hello that comes in time", func() bool {
		c := dial(t, n.addr)
		defer c.Close()
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		next++
		if _, err := hello.Read(c); err != nil {
			return false
		}
		exchangeBanner(t, c)
		return true
	})
	if !waited(next) {
		t.Error("a host that has a proxy after all was not waited for")
	}
}

func exchangeBanner(t *testing.T, c net.Conn) {
	t.Helper()
	got := make([]byte, len("220 hi\r\n"))
	if n, err := c.Read(got); err != nil || string(got[:n]) != "220 hi\r\n" {
		t.Fatalf("read %q, %v", got[:n], err)
	}
}
