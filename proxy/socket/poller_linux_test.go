package socket_test

import (
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirmesh/weir/proxy/socket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// poller is a Poller until the test ends.
func poller(t *testing.T) *socket.Poller {
	t.Helper()
	p, err := socket.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// told waits for what a Poller tells.
func told(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(30 * time.Second):
		t.Fatal("the Poller says nothing")
	}
}

func TestPollerTells(t *testing.T) {
	p := poller(t)
	f := func(name string, happen func(a closer)) {
		t.Helper()
		a, b := pair(t)
		ready := make(chan struct{}, 2)
		stop := p.Watch(b, func() { ready <- struct{}{} })
		if stop == nil {
			t.Fatalf("%s: not watched", name)
		}
		happen(a)
		told(t, ready)
		if stop() {
			t.Errorf("%s: stop says that nothing was told", name)
		}
		if len(ready) != 0 {
			t.Errorf("%s: told twice", name)
		}
	}
	f("bytes", func(a closer) { _, _ = a.Write([]byte("x")) })
	f("end", func(a closer) { _ = a.CloseWrite() })
	f("reset", func(a closer) { _ = a.SetLinger(0); _ = a.Close() })
}

// closer is what these tests do to a connection.
type closer interface {
	Write([]byte) (int, error)
	CloseWrite() error
	SetLinger(int) error
	Close() error
}

// TestPollerTellsOfWhatWasThere watches a connection that has bytes already,
// and the same again.
func TestPollerTellsOfWhatWasThere(t *testing.T) {
	p := poller(t)
	a, b := pair(t)
	if _, err := a.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		ready := make(chan struct{}, 1)
		stop := p.Watch(b, func() { ready <- struct{}{} })
		told(t, ready)
		stop()
	}
}

// TestPollerStops holds that a stopped watch tells nothing, and that others go
// on beside it.
func TestPollerStops(t *testing.T) {
	p := poller(t)
	a, b := pair(t)
	var calls atomic.Int32
	stop := p.Watch(b, func() { calls.Add(1) })
	if !stop() || stop == nil {
		t.Error("stop says that something was told")
	}
	if _, err := a.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	c, d := pair(t)
	ready := make(chan struct{}, 1)
	defer p.Watch(d, func() { ready <- struct{}{} })()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	told(t, ready)
	if n := calls.Load(); n != 0 {
		t.Errorf("told %d times after stop", n)
	}
}

// TestPollerForgetsTheClosed watches many connections whose descriptors have
// the numbers of earlier ones.
func TestPollerForgetsTheClosed(t *testing.T) {
	p := poller(t)
	for range 100 {
		a, b := pair(t)
		ready := make(chan struct{}, 1)
		stop := p.Watch(b, func() { ready <- struct{}{} })
		_ = b.Close()
		if !stop() {
			t.Fatal("told of a connection that was closed here")
		}
		_ = a.Close()
		if p.Watch(b, func() {}) != nil {
			t.Fatal("a closed connection is watched")
		}
	}
}

func TestWaiting(t *testing.T) {
	a, b := pair(t)
	check := func(what string, n int, open bool) {
		t.Helper()
		if gotN, gotOpen := socket.Waiting(b); gotN != n || gotOpen != open {
			t.Errorf("%s: got %d, %t", what, gotN, gotOpen)
		}
	}
	_ = b.SetReadDeadline(time.Unix(1, 0)) // is of no matter
	check("silent", 0, true)
	p := poller(t)
	await := func() {
		ready := make(chan struct{}, 1)
		defer p.Watch(b, func() { ready <- struct{}{} })()
		told(t, ready)
	}
	_, _ = a.Write([]byte("xy"))
	await()
	check("bytes", 1, true)
	_ = b.SetReadDeadline(time.Time{})
	_, _ = b.Read(make([]byte, 2))
	_ = a.CloseWrite()
	await()
	check("ended", 0, false)
	_ = b.Close()
	check("closed", 0, false)
}
