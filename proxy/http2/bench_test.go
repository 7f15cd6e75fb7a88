package http2_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/http2"
	"github.com/weirmesh/weir/proxy/relay"
)

// discard takes events and drops them.
type discard struct{}

func (discard) Record(*event.Event) {}

// rawExchange is one burst of requests and of their responses as bytes, whose
// stream identifiers can be moved on.
type rawExchange struct {
	requests, responses    []byte
	requestAt, responsesAt []int // where stream identifiers stand
	streams                int
}

// newExchange makes a burst of n unary gRPC calls.
func newExchange(n int, prime bool) *rawExchange {
	x := &rawExchange{streams: n}
	var req, resp, block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	write := func(fields ...string) []byte {
		block.Reset()
		for i := 0; i < len(fields); i += 2 {
			_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
		}
		return block.Bytes()
	}
	head := []string{":method", "POST", ":scheme", "http", ":path", "/emojivoto.v1.VotingService/VoteDoughnut",
		":authority", "voting-svc.emojivoto:8080", "content-type", "application/grpc", "user-agent", "grpc-go/1.84.0", "te", "trailers"}
	reply := []string{":status", "200", "content-type", "application/grpc"}
	trailer := []string{"grpc-status", "0", "grpc-message", ""}
	frames := func(buf *bytes.Buffer, at *[]int, f func(*xhttp2.Framer)) {
		*at = append(*at, buf.Len()+5)
		f(xhttp2.NewFramer(buf, nil))
	}
	if !prime { // the tables are full already
		write(head...)
	}
	for range n {
		b := bytes.Clone(write(head...))
		frames(&req, &x.requestAt, func(f *xhttp2.Framer) {
			_ = f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: b})
		})
		frames(&req, &x.requestAt, func(f *xhttp2.Framer) { _ = f.WriteData(1, true, make([]byte, 30)) })
	}
	block.Reset()
	enc = hpack.NewEncoder(&block)
	if !prime {
		write(reply...)
		write(trailer...)
	}
	for range n {
		one, two := bytes.Clone(write(reply...)), bytes.Clone(write(trailer...))
		frames(&resp, &x.responsesAt, func(f *xhttp2.Framer) {
			_ = f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: one})
		})
		frames(&resp, &x.responsesAt, func(f *xhttp2.Framer) { _ = f.WriteData(1, false, make([]byte, 30)) })
		frames(&resp, &x.responsesAt, func(f *xhttp2.Framer) {
			_ = f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: two})
		})
	}
	x.requests, x.responses = req.Bytes(), resp.Bytes()
	return x
}

// number sets the stream identifiers, perStream frames each, from first on.
func number(b []byte, at []int, perStream int, first uint32) {
	for i, p := range at {
		id := first + 2*uint32(i/perStream)
		b[p], b[p+1], b[p+2], b[p+3] = byte(id>>24), byte(id>>16), byte(id>>8), byte(id)
	}
}

// pair is a TCP connection's two ends.
func pair(b testing.TB) (near, far net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	near, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		b.Fatal(err)
	}
	return near, far
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRelay carries bursts of unary gRPC calls over one TCP connection,
// raw at both ends; B/op and allocs/op are of one call. The CPU time includes
// that of the ends, which direct measures.
func BenchmarkRelay(b *testing.B) {
	for _, streams := range []int{1, 8, 32, 128} {
		b.Run(fmt.Sprint("relayed/", streams), func(b *testing.B) { benchmark(b, streams, true) })
		b.Run(fmt.Sprint("direct/", streams), func(b *testing.B) { benchmark(b, streams, false) })
	}
}

func benchmark(b *testing.B, streams int, relayed bool) {
	burst, stop := calls(b, streams, relayed)
	runtime.GC()
	b.ReportAllocs()
	start := cpu()
	b.ResetTimer()
	for n := 0; n < b.N; n += streams {
		burst()
	}
	b.StopTimer()
	b.ReportMetric(float64((cpu()-start).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
	stop()
}

// calls connects a client and a server, relayed or not, that have exchanged
// some bursts of as many calls as streams, and returns what exchanges another.
func calls(t testing.TB, streams int, relayed bool) (burst, stop func()) {
	clientConn, inner := pair(t)
	serverConn := inner
	served := make(chan struct{})
	if relayed {
		var outer net.Conn
		outer, serverConn = pair(t)
		go func() {
			http2.Serve(context.Background(), &relay.Conn{Client: inner, Server: outer, ID: 1, Recorder: discard{}})
			close(served)
		}()
	} else {
		close(served)
	}
	_, _ = io.WriteString(clientConn, xhttp2.ClientPreface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	_, _ = io.ReadFull(serverConn, make([]byte, 24+9))
	_, _ = io.WriteString(serverConn, "\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	_, _ = io.ReadFull(clientConn, make([]byte, 9))
	first, rest := newExchange(streams, true), newExchange(streams, false)
	go answerBursts(serverConn, first, rest)
	id := uint32(1)
	out := make([]byte, 64<<10)
	x := first
	burst = func() {
		number(x.requests, x.requestAt, 2, id)
		id += uint32(2 * streams)
		if _, err := clientConn.Write(x.requests); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(clientConn, out[:len(x.responses)]); err != nil {
			t.Fatal(err)
		}
		x = rest
	}
	for range 20 {
		burst()
	}
	return burst, func() {
		_ = clientConn.Close()
		<-served
	}
}

// answerBursts answers the first burst and then the others, until the
// connection ends.
func answerBursts(conn net.Conn, first, rest *rawExchange) {
	defer conn.Close()
	in := make([]byte, 64<<10)
	x := first
	for id := uint32(1); ; id += uint32(2 * x.streams) {
		if _, err := io.ReadFull(conn, in[:len(x.requests)]); err != nil {
			return
		}
		number(x.responses, x.responsesAt, 3, id)
		if _, err := conn.Write(x.responses); err != nil {
			return
		}
		x = rest
	}
}
