package client

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// pair is a connection made by a dialer, and its other end.
func pair(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if ours, err = (dialer{5 * time.Second, new(pace)}).Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ours.Close() })
	if theirs, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = theirs.Close() })
	return ours, theirs
}

func TestConnectionCarriesMoreThanSocketsHold(t *testing.T) {
	ours, theirs := pair(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	for _, way := range []struct {
		name     string
		from, to net.Conn
	}{{"written", ours, theirs}, {"read", theirs, ours}} {
		failed := make(chan error, 1)
		go func() {
			_, err := way.from.Write(sent)
			failed <- err
		}()
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(way.to, got); err != nil {
			t.Fatalf("%s: %v", way.name, err)
		}
		if err := <-failed; err != nil {
			t.Fatalf("%s: %v", way.name, err)
		}
		if !bytes.Equal(got, sent) {
			t.Errorf("%s: other bytes arrive than were sent", way.name)
		}
	}
}

func TestConnectionEnds(t *testing.T) {
	ours, theirs := pair(t)
	if err := ours.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a read past its deadline gives %v", err)
	}
	if err := ours.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if n, err := ours.Read(nil); n != 0 || err != nil {
		t.Errorf("a read of nothing gives %d, %v", n, err)
	}
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the end of the stream is %v", err)
	}
	if err := ours.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read of what is closed gives %v", err)
	}
	if _, err := ours.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write to what is closed gives %v", err)
	}
}

// Bytes arrive while a connection is read at a pace: those that come alone, and
// after a read that took just all there was.
func TestConnectionAtAPace(t *testing.T) {
	ours, theirs := pair(t)
	c, ok := ours.(*socket)
	if !ok {
		t.Fatalf("the connection is a %T", ours)
	}
	c.pace.on.Store(true)
	if err := ours.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 100)
	paced := 0
	for i := range 400 {
		size := 1 + i%2*(len(buffer)-1)
		if _, err := theirs.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if n, err := ours.Read(buffer); err != nil || n != size {
			t.Fatalf("%d bytes of %d arrive: %v", n, size, err)
		}
		if c.gathers {
			paced++
		}
		c.pace.busy, c.pace.since = c.pace.busy || i > 100 && i < 300, time.Now()
	}
	if paced < 150 {
		t.Errorf("%d of 400 reads were at a pace", paced)
	}
	c.pace.since = time.Now().Add(-time.Minute)
	for range 2 { // the last one was full, so that there might be more
		if _, err := theirs.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if n, err := ours.Read(buffer); n != 1 || err != nil {
			t.Fatalf("%d bytes arrive: %v", n, err)
		}
	}
	if c.gathers {
		t.Error("after a minute the connection is still at a pace")
	}
}

func TestDialNamesWhatIsWrong(t *testing.T) {
	if _, err := (dialer{time.Second, new(pace)}).Dial("tcp", "localhost"); err == nil {
		t.Error("an address without a port is accepted")
	}
	if _, err := (dialer{time.Second, new(pace)}).Dial("tcp", "name.invalid:4222"); err == nil {
		t.Error("a name that does not exist is found")
	}
}

func TestPlaceOfAMessage(t *testing.T) {
	want := position{stream: 7, consumer: 5, pending: 3, stored: time.Unix(1, 5)}
	for _, reply := range []string{
		"$JS.ACK.WEIR_EVENTS.abc.1.7.5.1000000005.3",
		"$JS.ACK._.hash.WEIR_EVENTS.abc.1.7.5.1000000005.3",
		"$JS.ACK.hub.hash.WEIR_EVENTS.abc.1.7.5.1000000005.3.random",
	} {
		if got, err := positionOf(reply); err != nil || got != want {
			t.Errorf("%s: %+v, %v", reply, got, err)
		}
	}
	for _, reply := range []string{"", "_INBOX.a.b", "$JS.ACK.a.b.1.2.3.4", "$JS.ACK.a.b.1.x.5.1.3", "$JS.ACK.a.b.c.1.7.5.1.3", "$JS.ACK.a.b.1.7.5.1."} {
		if got, err := positionOf(reply); err == nil {
			t.Errorf("%q is read as %+v", reply, got)
		}
	}
}
