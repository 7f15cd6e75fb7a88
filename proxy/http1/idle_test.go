package http1_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/relay"
	"github.com/weirmesh/weir/proxy/socket"
)

// watches are the two ways in which the server of an idle connection is
// watched. watched is told of each watch by a hook that begins.
func watches(t *testing.T, f func(t *testing.T, change func(*relay.Conn), watched <-chan struct{})) {
	t.Run("goroutine", func(t *testing.T) { f(t, nil, nil) })
	t.Run("hook", func(t *testing.T) {
		p, err := socket.NewPoller()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		watched := make(chan struct{}, 100)
		f(t, func(c *relay.Conn) {
			c.OnReadable = func(conn syscall.Conn, ready func()) (stop func() bool) {
				watched <- struct{}{}
				return p.Watch(conn, ready)
			}
		}, watched)
	})
}

// idle waits until an idle connection is watched.
func idle(t *testing.T, watched <-chan struct{}) {
	t.Helper()
	if watched == nil {
		time.Sleep(300 * time.Millisecond) // longer than it is waited for
		return
	}
	select {
	case <-watched:
	case <-time.After(patience):
		t.Fatal("nobody watches the server")
	}
}

// TestIdle has connections idle for long enough to be watched, over and over.
func TestIdle(t *testing.T) {
	ask := func(client, server *conn) {
		client.send(get)
		server.expect(get)
		server.send(ok2)
		client.expect(ok2)
	}
	for name, end := range map[string]func(p *proxy, client, server *conn){
		"client closes":  func(_ *proxy, client, server *conn) { _ = client.Close(); server.expectEnd() },
		"server closes":  func(_ *proxy, client, server *conn) { _ = server.Close(); client.expectEnd() },
		"server resets":  func(_ *proxy, client, server *conn) { server.reset(); _, _ = client.Read(make([]byte, 1)) },
		"server talks":   func(_ *proxy, client, server *conn) { server.send(ok2); client.expectEnd() },
		"proxy drains":   func(p *proxy, client, server *conn) { close(p.drain); client.expectEnd(); server.expectEnd() },
		"proxy is ended": func(p *proxy, client, server *conn) { p.cancel(); client.expectEnd(); server.expectEnd() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			watches(t, func(t *testing.T, change func(*relay.Conn), watched <-chan struct{}) {
				t.Parallel()
				p, client, server := raw(t, change)
				for range 3 {
					ask(client, server)
					idle(t, watched)
				}
				ask(client, server)
				ask(client, server)
				idle(t, watched)
				end(p, client, server)
				p.ended(5)
			})
		})
	}
}

// TestDrainAnswersWhatCame holds that a request that has come when the proxy
// begins to drain is answered, though nobody has read it yet.
func TestDrainAnswersWhatCame(t *testing.T) {
	p, client, server := raw(t, func(c *relay.Conn) {
		c.OnDrain = func(f func()) (stop func() bool) {
			f()
			return func() bool { return true }
		}
		// The relay is called when the proxy drains already, and the request
		// waits in the socket.
		_ = c.Client.SetReadDeadline(time.Now().Add(patience))
		raw, err := c.Client.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Error(err)
			return
		}
		_ = raw.Read(func(fd uintptr) bool {
			n, _, _ := syscall.Recvfrom(int(fd), make([]byte, len(get)), syscall.MSG_PEEK)
			return n == len(get)
		})
	})
	client.send(get)
	server.expect(get)
	server.send(ok2)
	client.expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
	client.expectEnd()
	_ = client.Close()
	p.ended(1)
}
