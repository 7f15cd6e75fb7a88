package http1_test

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// loop is a raw client and server with a proxy between, as lean as can be, so
// that the figures are the relay's.
func loop(b testing.TB) (p *proxy, exchange func() error) {
	p, client, server := raw(b, nil)
	_ = client.SetDeadline(time.Time{})
	_ = server.SetDeadline(time.Time{})
	request := []byte("GET /api/leaderboard?page=2 HTTP/1.1\r\nHost: web-svc.emojivoto:80\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n" +
		"Accept: text/html,application/xhtml+xml\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n" +
		"Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n")
	response := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Sat, 21 Nov 2026 09:00:00 GMT\r\nContent-Length: 128\r\n\r\n" +
		"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456\n")
	into := make([]byte, 4096)
	return p, func() error {
		if err := pass(client.TCPConn, server.TCPConn, request, into); err != nil {
			return err
		}
		return pass(server.TCPConn, client.TCPConn, response, into)
	}
}

func pass(from, to net.Conn, msg, into []byte) error {
	if _, err := from.Write(msg); err != nil {
		return err
	}
	_, err := io.ReadFull(to, into[:len(msg)])
	return err
}

// TestAllocations holds that an exchange allocates nothing in the steady
// state. What the recorder of the test takes is not the relay's.
func TestAllocations(t *testing.T) {
	p, exchange := loop(t)
	p.rec.quiet.Store(true)
	one := func() {
		if err := exchange(); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 {
		one()
	}
	if n := testing.AllocsPerRun(500, one); n > poolLoss {
		t.Errorf("an exchange allocates %v times, want %d", n, poolLoss)
	}
}

func BenchmarkExchange(b *testing.B) {
	p, exchange := loop(b)
	p.rec.quiet.Store(true)
	b.ReportAllocs()
	for b.Loop() {
		if err := exchange(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkConnections is BenchmarkExchange on 32 connections at once.
func BenchmarkConnections(b *testing.B) {
	const connections = 32
	b.ReportAllocs()
	var wg sync.WaitGroup
	var exchanges [connections]func() error
	for i := range exchanges {
		var p *proxy
		p, exchanges[i] = loop(b)
		p.rec.quiet.Store(true)
	}
	b.ResetTimer()
	for i, exchange := range exchanges {
		wg.Go(func() {
			for n := i; n < b.N; n += connections {
				if err := exchange(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkDirect is BenchmarkExchange without a proxy: what is left is the
// kernel's and the benchmark's own.
func BenchmarkDirect(b *testing.B) {
	client, server := direct(b)
	request, response, into := make([]byte, 330), make([]byte, 240), make([]byte, 4096)
	for b.Loop() {
		if pass(client, server, request, into) != nil || pass(server, client, response, into) != nil {
			b.Fatal("broken")
		}
	}
}

func direct(b testing.TB) (client, server net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		b.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = client.Close(); _ = server.Close() })
	return client, server
}
