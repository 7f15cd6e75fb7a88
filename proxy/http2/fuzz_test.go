package http2_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/http2"
	"github.com/weirmesh/weir/proxy/relay"
)

// scripted is a connection whose peer says what it was given, in pieces, and
// then closes; what is written to it is kept.
type scripted struct {
	net.Conn
	mu      sync.Mutex
	in      []byte
	piece   int
	out     bytes.Buffer
	hold    chan struct{} // reads of nothing wait for it
	release sync.Once
}

func newScripted(in []byte, piece int) *scripted {
	return &scripted{in: in, piece: max(1, piece), hold: make(chan struct{})}
}

func (s *scripted) Read(b []byte) (int, error) {
	s.mu.Lock()
	if len(s.in) == 0 {
		s.mu.Unlock()
		<-s.hold
		return 0, io.EOF
	}
	defer s.mu.Unlock()
	n := copy(b[:min(len(b), s.piece)], s.in)
	s.in = s.in[n:]
	return n, nil
}

func (s *scripted) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(b)
}

func (s *scripted) let()                             { s.release.Do(func() { close(s.hold) }) }
func (s *scripted) Close() error                     { s.let(); return nil }
func (s *scripted) SetDeadline(time.Time) error      { s.let(); return nil }
func (s *scripted) SetReadDeadline(time.Time) error  { s.let(); return nil }
func (s *scripted) SetWriteDeadline(time.Time) error { return nil }

func (s *scripted) empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.in) == 0
}

// ending is what ends once: a stream of a connection.
type ending struct {
	connection uint64
	stream     uint32
}

// counter counts End events by stream.
type counter struct {
	t    *testing.T
	mu   sync.Mutex
	ends map[ending]int
	all  int
}

func (c *counter) Record(e *event.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all++
	if e.Kind != event.End {
		return
	}
	of := ending{e.Connection, e.Stream}
	if c.ends[of]++; c.ends[of] > 1 && e.Stream != 0 {
		c.t.Errorf("stream %d of connection %d ends twice", e.Stream, e.Connection)
	}
}

// FuzzRelayFrames lets arbitrary bytes through from both sides: no panic, no
// hang, one end of each stream, and what was forwarded is a prefix of what
// came as long as the relay had nothing to refuse.
func FuzzRelayFrames(f *testing.F) {
	var c, s bytes.Buffer
	c.WriteString(xhttp2.ClientPreface)
	cf, sf := xhttp2.NewFramer(&c, nil), xhttp2.NewFramer(&s, nil)
	_ = cf.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingHeaderTableSize, Val: 100})
	_ = sf.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingMaxFrameSize, Val: 1 << 20})
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for id := uint32(1); id < 9; id += 2 {
		block.Reset()
		_ = enc.WriteField(hpack.HeaderField{Name: ":path", Value: "/x?y"})
		_ = enc.WriteField(hpack.HeaderField{Name: "content-type", Value: "application/grpc"})
		_ = cf.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes()[:1], PadLength: 3})
		_ = cf.WriteContinuation(id, true, block.Bytes()[1:])
		_ = cf.WriteData(id, true, make([]byte, 100))
		_ = sf.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: []byte{0x88}, EndHeaders: true})
		_ = sf.WriteData(id, id == 7, make([]byte, 50))
		_ = cf.WriteWindowUpdate(id, 5)
	}
	_ = cf.WriteRSTStream(3, xhttp2.ErrCodeCancel)
	_ = sf.WriteGoAway(3, xhttp2.ErrCodeNo, []byte("x"))
	_ = cf.WritePing(false, [8]byte{})
	f.Add(c.Bytes(), s.Bytes(), uint16(7), byte(0))
	f.Add(c.Bytes(), s.Bytes(), uint16(40000), byte(1))
	f.Add(c.Bytes(), s.Bytes(), uint16(1), byte(2))
	f.Add(c.Bytes()[:60], s.Bytes()[:30], uint16(100), byte(3))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), []byte("HTTP/1.1 400"), uint16(100), byte(0))
	f.Fuzz(func(t *testing.T, fromClient, fromServer []byte, piece uint16, mode byte) {
		cc, sc := newScripted(fromClient, int(piece)), newScripted(fromServer, int(piece))
		rec := &counter{t: t, ends: map[ending]int{}}
		drain := make(chan struct{})
		if mode&1 != 0 {
			close(drain)
		}
		rc := &relay.Conn{Client: cc, Server: sc, Recorder: rec, Drain: drain, ID: 1, MaxHeadBytes: 4096}
		if mode&2 != 0 {
			rc.Server, rc.DialError = nil, event.ErrConnectRefused
		}
		done := make(chan struct{})
		go func() { http2.Serve(context.Background(), rc); close(done) }()
		for range 100000 { // until both have said all, or one was refused
			select {
			case <-done:
			default:
				if !cc.empty() || rc.Server != nil && !sc.empty() {
					runtime.Gosched()
					continue
				}
			}
			break
		}
		sc.let()
		cc.let()
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatal("the relay does not end")
		}
		if mode&3 == 0 {
			samePrefix(t, fromClient, sc.out.Bytes())
		}
		if cc.out.Len() > len(fromServer)+64*len(fromClient)+1000 {
			t.Errorf("%d bytes to the client for %d and %d", cc.out.Len(), len(fromServer), len(fromClient))
		}
	})
}

// samePrefix sees to it that got is what was sent, as far as it goes, but for
// table sizes that were lowered.
func samePrefix(t *testing.T, sent, got []byte) {
	t.Helper()
	if len(got) > len(sent) {
		t.Fatalf("%d bytes forwarded of %d", len(got), len(sent))
	}
	for i := range got {
		if got[i] == sent[i] {
			continue
		}
		around := got[max(0, i-3):min(len(got), i+4)]
		if !bytes.Contains(around, []byte{0, 1, 0, 0}) {
			t.Fatalf("byte %d is %x, was sent as %x", i, got[i], sent[i])
		}
	}
}
