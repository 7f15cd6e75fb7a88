package proxy_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/proxy/listen"
	"github.com/weirmesh/weir/proxy/mtls/mtlstest"
)

// BenchmarkHopHTTP2 carries bursts of 32 HTTP/2 requests on one connection through
// a pair of proxies of which the outer one balances, in plain text and by mutual
// TLS. Client, server and both proxies are this process, as in BenchmarkHop; the
// ends do as little as they can.
func BenchmarkHopHTTP2(b *testing.B) {
	for _, size := range []int{128, 16 << 10} {
		for _, mutual := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d bytes/mutual=%v", size, mutual), func(b *testing.B) { benchmarkHopHTTP2(b, size, mutual) })
		}
	}
}

// frameHTTP2 appends a frame.
func frameHTTP2(dst []byte, kind, flags byte, stream uint32, payload []byte) []byte {
	dst = append(dst, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), kind, flags)
	return append(binary.BigEndian.AppendUint32(dst, stream), payload...)
}

// windowHTTP2 lets a peer send another MiB.
var windowHTTP2 = []byte{0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 16, 0, 0}

const prefaceHTTP2 = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"

func benchmarkHopHTTP2(b *testing.B, size int, mutual bool) {
	const streams = 32
	conn, err := net.Dial("tcp", balancedHop(b, echoHTTP2(b, size), mutual))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	_, _ = io.WriteString(conn, prefaceHTTP2)
	r := bufio.NewReaderSize(conn, 64<<10)
	id := uint32(1)
	var out []byte
	burst := func() {
		out = append(out[:0], windowHTTP2...)
		for range streams {
			out = frameHTTP2(out, 1, 5, id, []byte("\x82\x86\x84\x01\x06server"))
			id += 2
		}
		if _, err := conn.Write(out); err != nil {
			b.Fatal(err)
		}
		for ended := 0; ended < streams; {
			kind, flags, _, n, err := readHTTP2(r)
			if err == nil {
				_, err = r.Discard(n)
			}
			if err != nil || kind == 3 || kind == 7 {
				b.Fatal(kind, err)
			}
			if kind <= 1 && flags&1 == 1 {
				ended++
			}
		}
	}
	for range 20 {
		burst()
	}
	b.ResetTimer()
	before := cpuTime(b)
	for n := 0; n < b.N; n += streams {
		burst()
	}
	b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
}

// readHTTP2 reads a frame's header.
func readHTTP2(r *bufio.Reader) (kind, flags byte, stream uint32, n int, err error) {
	h, err := r.Peek(9)
	if err != nil {
		return 0, 0, 0, 0, err
	}
	kind, flags, stream, n = h[3], h[4], binary.BigEndian.Uint32(h[5:]), int(h[0])<<16|int(h[1])<<8|int(h[2])
	_, err = r.Discard(9)
	return kind, flags, stream, n, err
}

// balancedHop begins a pair of proxies in front of a server, the outer one with a
// balanced listener, and returns where that is.
func balancedHop(b *testing.B, server string, mutual bool) string {
	in := config("server", listen.Spec{Direction: event.Inbound, Target: server})
	out := listen.Spec{Direction: event.Outbound, Mesh: true, Listen: "127.0.0.1:0"}
	cc := config("client")
	if mutual {
		ca := mtlstest.New(b)
		for name, c := range map[string]*proxy.Config{"server": &in, "client": &cc} {
			f := ca.Files(b, identityOf(name), time.Hour)
			c.Identity.Certificate, c.Identity.Key, c.Identity.Anchors = f.Certificate, f.Key, f.Anchors
		}
		out.Identity = identityOf("server")
	}
	out.Endpoints = []string{begin(b, in).Addrs()[0].String()}
	cc.Traffic.Listeners = []listen.Spec{out}
	client := begin(b, cc)
	time.Sleep(100 * time.Millisecond) // certificates
	return client.Addrs()[0].String()
}

// echoHTTP2 answers each request with as many bytes, all requests of one read in
// one write.
func echoHTTP2(b *testing.B, size int) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { answerHTTP2(conn, size) })
		}
	})
	b.Cleanup(func() { _ = ln.Close(); conns.Wait() })
	return ln.Addr().String()
}

func answerHTTP2(conn net.Conn, size int) {
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 64<<10)
	if _, err := r.Discard(24); err != nil {
		return
	}
	body := make([]byte, size)
	out := frameHTTP2(nil, 4, 0, 0, nil)
	for {
		kind, flags, stream, n, err := readHTTP2(r)
		if err == nil {
			_, err = r.Discard(n)
		}
		switch {
		case err != nil:
			return
		case kind == 4 && flags == 0:
			out = frameHTTP2(out, 4, 1, 0, nil)
		case kind == 1:
			out = frameHTTP2(frameHTTP2(out, 1, 4, stream, []byte{0x88}), 0, 1, stream, body)
		}
		if r.Buffered() == 0 {
			out = append(out, windowHTTP2...)
			if _, err := conn.Write(out); err != nil {
				return
			}
			out = out[:0]
		}
	}
}
