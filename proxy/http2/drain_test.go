package http2_test

import (
	"bytes"
	"io"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/relay"
)

const lastStream = 1<<31 - 1

// TestDrainRefuses drains while a stream is under way: new ones are refused
// and never reach the server, whose HPACK table stays of use all the same.
func TestDrainRefuses(t *testing.T) {
	c, s, m := rawPair(t, nil)
	c.request(1, false, "x-kept", "one")
	s.headers(1)
	close(m.drain)
	c.goAway(lastStream, xhttp2.ErrCodeNo)
	c.request(3, false) // on its way before the client knew
	s.headers(3)
	c.goAway(3, xhttp2.ErrCodeNo)

	c.request(5, false, "x-lost", "two")
	c.ok(c.WriteData(5, false, make([]byte, 100)))
	c.respond(5, true, "x-trailer", "lost too") // trailers
	c.ok(c.WriteRSTStream(5, xhttp2.ErrCodeCancel))
	c.reset(5, xhttp2.ErrCodeRefusedStream)
	if f, ok := c.next().(*xhttp2.WindowUpdateFrame); !ok || f.StreamID != 0 || f.Increment != 100 {
		t.Fatalf("the window is not given back: %v", f)
	}
	// Trailers that name entries of both blocks.
	c.respond(1, true, "x-kept", "one", "x-lost", "two", "x-new", "three")
	c.respond(3, true, "x-new", "three")
	for _, id := range []uint32{1, 3} {
		f := s.headers(id)
		if last := f.Fields[len(f.Fields)-1]; last.Name != "x-new" || last.Value != "three" || !f.StreamEnded() {
			t.Fatalf("wrong trailers %v", f)
		}
		if id == 1 && (len(f.Fields) != 3 || f.Fields[0].Value != "one" || f.Fields[1].Value != "two") {
			t.Fatalf("wrong trailers %v", f)
		}
	}
	s.respond(3, true, ":status", "204")
	c.headers(3)
	s.respond(1, true, ":status", "200")
	c.headers(1)
	s.closed()
	c.closed()
	_ = c.conn.Close()
	m.ended(t)
	for i, want := range []event.Event{
		{Stream: 3, Error: event.ErrGoAway, Fate: event.Drained}, {Stream: 2, Status: 204}, {Stream: 1, Status: 200},
	} {
		if e := m.wait(t, 3)[i]; e.Stream != want.Stream || e.Status != want.Status || e.Error != want.Error || e.Fate != want.Fate || e.Path != "/raw" {
			t.Errorf("wrong event %+v, want %+v", e, want)
		}
	}
}

// TestDrainInsideFrame sees to it that the relay's GOAWAY does not tear a
// frame that is being forwarded.
func TestDrainInsideFrame(t *testing.T) {
	c, s, m := rawPair(t, nil)
	c.request(1, true)
	s.headers(1)
	s.respond(1, false, ":status", "200")
	c.headers(1)
	var frame bytes.Buffer
	body := bytes.Repeat([]byte("b"), 10000)
	_ = xhttp2.NewFramer(&frame, nil).WriteData(1, true, body)
	_, err := s.conn.Write(frame.Next(5000))
	s.ok(err)
	got := make([]byte, 5000)
	_, err = io.ReadFull(c.conn, got) // the first half is through
	c.ok(err)
	close(m.drain)
	time.Sleep(400 * time.Millisecond) // both GOAWAY frames wait
	_, err = s.conn.Write(frame.Bytes())
	s.ok(err)
	rest := make([]byte, 5009)
	_, err = io.ReadFull(c.conn, rest)
	c.ok(err)
	if !bytes.Equal(append(got, rest...)[9:], body) {
		t.Fatal("the frame is torn")
	}
	c.goAway(lastStream, xhttp2.ErrCodeNo)
	c.goAway(1, xhttp2.ErrCodeNo)
	c.closed()
	_ = c.conn.Close()
	m.ended(t)
	if e := m.wait(t, 1)[0]; e.Error != "" || e.Status != 200 || e.ResponseBytes < 10009 {
		t.Errorf("wrong event %+v", e)
	}
}

// TestDrainBoth has the server go away in the middle of a drain: the client is
// never told of a later last stream than before.
func TestDrainBoth(t *testing.T) {
	c, s, m := rawPair(t, nil)
	c.request(1, true)
	s.headers(1)
	close(m.drain)
	c.goAway(lastStream, xhttp2.ErrCodeNo)
	c.goAway(1, xhttp2.ErrCodeNo)
	s.ok(s.WriteGoAway(lastStream, xhttp2.ErrCodeNo, []byte("server")))
	if text := c.goAway(1, xhttp2.ErrCodeNo); text != "server" {
		t.Errorf("debug text %q", text)
	}
	s.respond(1, true, ":status", "200")
	c.headers(1)
	c.closed()
	_ = c.conn.Close()
	m.ended(t)
	if e := m.wait(t, 1)[0]; e.Error != "" || e.Status != 200 {
		t.Errorf("wrong event %+v", e)
	}

	c, s, m = rawPair(t, nil)
	s.ok(s.WriteGoAway(0, xhttp2.ErrCodeNo, nil))
	c.goAway(0, xhttp2.ErrCodeNo)
	close(m.drain)
	c.goAway(0, xhttp2.ErrCodeNo)
	c.goAway(0, xhttp2.ErrCodeNo)
	c.closed()
}

func TestDrainIdle(t *testing.T) {
	c, s, m := rawPair(t, nil)
	close(m.drain)
	c.goAway(lastStream, xhttp2.ErrCodeNo)
	c.goAway(0, xhttp2.ErrCodeNo)
	c.closed()
	s.closed()
	_ = c.conn.Close()
	m.ended(t)
	m.wait(t, 0)
}

func TestHardStop(t *testing.T) {
	c, s, m := rawPair(t, nil)
	c.request(1, true)
	s.headers(1)
	m.cancel()
	c.closed()
	s.closed()
	m.ended(t)
	if e := m.wait(t, 1)[0]; e.Fate != event.Drained || e.Error == "" {
		t.Errorf("wrong event %+v", e)
	}
}

// TestServerGoAway ends streams that the server says it will not answer, those
// that come later too.
func TestServerGoAway(t *testing.T) {
	c, s, m := rawPair(t, nil)
	for id := uint32(1); id <= 9; id += 2 {
		c.request(id, true)
		s.headers(id)
	}
	s.ok(s.WriteGoAway(3, xhttp2.ErrCodeNo, []byte("bye")))
	if text := c.goAway(3, xhttp2.ErrCodeNo); text != "bye" {
		t.Errorf("debug text %q", text)
	}
	for i, e := range m.wait(t, 3) {
		if e.Error != event.ErrGoAway || e.Stream < 3 || e.Fate != 0 {
			t.Errorf("wrong event %d: %+v", i, e)
		}
	}
	c.request(11, true)
	s.headers(11)
	if e := m.wait(t, 4)[3]; e.Error != event.ErrGoAway || e.Stream != 6 {
		t.Errorf("wrong event %+v", e)
	}
	s.respond(1, true, ":status", "200")
	c.headers(1)
	_ = s.conn.Close()
	c.closed()
	_ = c.conn.Close()
	m.ended(t)
	events := m.wait(t, 6)
	if e := events[4]; e.Stream != 1 || e.Error != "" {
		t.Errorf("wrong event %+v", e)
	}
	if e := events[5]; e.Stream != 2 || e.Error != event.ErrServerClosed {
		t.Errorf("wrong event %+v", e)
	}
}

func TestClientGone(t *testing.T) {
	c, s, m := rawPair(t, nil)
	c.request(1, false)
	c.request(3, false)
	s.headers(1)
	s.headers(3)
	s.respond(3, true, ":status", "200") // before the request is whole
	c.headers(3)
	_ = c.conn.Close()
	s.closed()
	m.ended(t)
	for _, e := range m.wait(t, 2) {
		if gone := e.Error == event.ErrClientClosed || e.Error == event.ErrClientReset; gone != (e.Stream == 1) {
			t.Errorf("wrong event %+v", e)
		}
	}
}

// TestEndings ends a stream in each way that frames can.
func TestEndings(t *testing.T) {
	c, s, m := rawPair(t, nil)
	id := uint32(1)
	f := func(wantError string, wantStatus uint16, play func(id uint32)) {
		t.Helper()
		play(id)
		n := int(id+1) / 2
		if e := m.wait(t, n)[n-1]; e.Error != wantError || e.Status != wantStatus || e.Stream != uint32(n) {
			t.Errorf("wrong event %+v", e)
		}
		id += 2
	}
	open := func(id uint32, end bool) {
		t.Helper()
		c.request(id, end)
		s.headers(id)
	}
	answer := func(id uint32, end bool, fields ...string) {
		t.Helper()
		s.respond(id, end, fields...)
		c.headers(id)
	}
	f("", 200, func(id uint32) { open(id, true); answer(id, true, ":status", "200") })
	f("", 200, func(id uint32) { // informational responses, trailers
		open(id, true)
		answer(id, false, ":status", "103")
		answer(id, false, ":status", "200")
		answer(id, true, "x-trailer", "1")
	})
	f("", 413, func(id uint32) { // an early answer; the rest is not wanted
		open(id, false)
		answer(id, true, ":status", "413")
		s.ok(s.WriteRSTStream(id, xhttp2.ErrCodeNo))
		c.reset(id, xhttp2.ErrCodeNo)
	})
	f("", 200, func(id uint32) { // an early answer; the client gives up the rest
		open(id, false)
		answer(id, true, ":status", "200")
		c.ok(c.WriteRSTStream(id, xhttp2.ErrCodeCancel))
		if _, ok := s.next().(*xhttp2.RSTStreamFrame); !ok {
			t.Error("no RST_STREAM")
		}
	})
	f("", 200, func(id uint32) { // an early answer, then a whole request
		open(id, false)
		answer(id, true, ":status", "200")
		c.ok(c.WriteDataPadded(id, true, []byte("data"), make([]byte, 50)))
		s.next()
	})
	f(event.ErrServerReset, 0, func(id uint32) {
		open(id, true)
		s.ok(s.WriteRSTStream(id, xhttp2.ErrCodeRefusedStream))
		c.reset(id, xhttp2.ErrCodeRefusedStream)
	})
	f(event.ErrClientReset, 0, func(id uint32) {
		open(id, true)
		c.ok(c.WriteRSTStream(id, xhttp2.ErrCodeCancel))
		s.reset(id, xhttp2.ErrCodeCancel)
		answer(id, true, ":status", "200") // crossed it
	})
	// PRIORITY and padding in HEADERS, and a frame of an unknown type.
	f("", 200, func(id uint32) {
		c.ok(c.WriteRawFrame(0xbe, 0, id, []byte("extension")))
		c.ok(c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, EndStream: true, EndHeaders: true, PadLength: 200,
			Priority: xhttp2.PriorityParam{StreamDep: 1, Weight: 3}, BlockFragment: c.block(":method", "PUT", ":path", "/p")}))
		s.next()
		s.headers(id)
		answer(id, true, ":status", "200")
	})
}

// TestWebSocket is an extended CONNECT.
func TestWebSocket(t *testing.T) {
	c, s, m := rawPair(t, nil)
	c.ok(c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: c.block(
		":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", "/chat?x=1", ":authority", "a")}))
	if f, err := s.ReadFrame(); err != nil && f == nil {
		t.Fatal(err)
	}
	s.respond(1, false, ":status", "200")
	c.headers(1)
	c.ok(c.WriteData(1, true, []byte("up")))
	s.ok(s.WriteData(1, true, []byte("down")))
	e := m.wait(t, 1)[0]
	if e.Protocol != event.WebSocket || e.Path != "/chat" || e.Method != "CONNECT" || e.Status != 200 || e.Error != "" {
		t.Errorf("wrong event %+v", e)
	}
}

// TestSettings follows what both sides announce: larger frames, and a table
// size that is lowered in passing.
func TestSettings(t *testing.T) {
	c, s, m := rawPair(t, nil)
	s.ok(s.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingMaxFrameSize, Val: 1 << 20},
		xhttp2.Setting{ID: xhttp2.SettingHeaderTableSize, Val: 1 << 30}))
	f, err := c.ReadFrame()
	c.ok(err)
	if size, _ := f.(*xhttp2.SettingsFrame).Value(xhttp2.SettingHeaderTableSize); size != 1<<16 {
		t.Errorf("table size %d", size)
	}
	s.ReadMetaHeaders.SetAllowedMaxDynamicTableSize(1 << 16)
	c.enc.SetMaxDynamicTableSizeLimit(1 << 16)
	c.enc.SetMaxDynamicTableSize(1 << 16)
	big := string(bytes.Repeat([]byte("z"), 20000))
	c.request(1, false, "x-big", big)
	s.SetMaxReadFrameSize(1 << 20)
	s.headers(1)
	c.request(3, true, "x-big", big) // from the table
	s.headers(3)
	c.ok(c.WriteData(1, true, make([]byte, 300000)))
	if f := s.next(); f.Header().Length != 300000 {
		t.Errorf("got %v", f)
	}
	s.respond(1, true, ":status", "200")
	c.headers(1)
	if e := m.wait(t, 1)[0]; e.RequestBytes < 300000 || e.Error != "" {
		t.Errorf("wrong event %+v", e)
	}
}

// TestEarly hands the relay bytes that were read before.
func TestEarly(t *testing.T) {
	c, s, m := rawPair(t, func(c *relay.Conn) {
		c.Early = make([]byte, 10)
		if _, err := io.ReadFull(c.Client, c.Early); err != nil {
			t.Error(err)
		}
	})
	c.request(1, true)
	s.headers(1)
	s.respond(1, true, ":status", "200")
	c.headers(1)
	m.wait(t, 1)
}
