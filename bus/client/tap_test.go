package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/event"
)

// listening waits until the tap behind c gets what is published for w, takes the
// probes out of got, and returns how many there were.
func listening(t *testing.T, c *client.Client, w event.Workload, got <-chan string) int {
	t.Helper()
	// Those of a call before this one may be on their way yet: each has a name.
	began := time.Now().UnixNano()
	probe := func(n int) string { return fmt.Sprintf("probe %d of %d", n, began) }
	tried, published := 0, 0
	eventually(t, "the tap listens", func() bool {
		tried++
		if c.PublishInterest(bus.TapSubject(w), []byte(probe(tried))) {
			published = tried
		}
		select {
		case <-got:
			return true
		case <-time.After(20 * time.Millisecond):
			return false
		}
	})
	// What follows one that arrived arrives, too, and then this one.
	for published++; !c.PublishInterest(bus.TapSubject(w), []byte(probe(published))); published++ {
		time.Sleep(5 * time.Millisecond)
	}
	for last := probe(published); receive(t, got) != last; {
	}
	return published
}

func TestInterest(t *testing.T) {
	s := bustest.Run(t)
	publisher, subscriber := bustest.Connect(t, s), bustest.Connect(t, s)
	subject := bus.TapSubject(web)
	if !publisher.Interested(subject) {
		t.Error("nobody is known to be absent, and yet there is no interest")
	}
	if publisher.Listened(subject) {
		t.Error("somebody is known to listen before anything was published")
	}
	if !publisher.PublishInterest(subject, []byte("probe")) {
		t.Error("the first message is no probe")
	}
	// It is known for a second.
	eventually(t, "nothing is published where nobody listens", func() bool {
		return !publisher.Interested(subject) && !publisher.PublishInterest(subject, []byte("x")) && !publisher.Listened(subject)
	})
	if other := bus.TapSubject(event.Workload{Name: "other"}); !publisher.Interested(other) {
		t.Error("one subject's absence counts for another")
	}
	// How often a message is encoded while nobody listens: once a second.
	encoded, began := 0, time.Now()
	for time.Since(began) < 2500*time.Millisecond {
		eventually(t, "a second is over", func() bool { return publisher.Interested(subject) })
		encoded++
		publisher.PublishInterest(subject, nil)
		eventually(t, "the absence is known", func() bool { return !publisher.Interested(subject) })
	}
	if most := int(time.Since(began)/time.Second) + 2; encoded > most {
		t.Errorf("%d messages were encoded for nobody in %s", encoded, time.Since(began))
	}
	// Someone listens now: every message arrives, in order.
	got := make(chan string, 20000)
	stop := background(t, func(ctx context.Context) error {
		return subscriber.Tap(ctx, event.Workload{Namespace: web.Namespace}, func(data []byte) { got <- string(data) }, nil)
	})
	listening(t, publisher, web, got)
	const n = 5000
	for i := range n {
		if !publisher.Interested(subject) || !publisher.PublishInterest(subject, fmt.Append(nil, i)) {
			t.Fatalf("message %d was not published to a listener", i)
		}
		if i%1000 == 999 {
			time.Sleep(300 * time.Millisecond) // so that further probes come in between
		}
	}
	for i := range n {
		if data := receive(t, got); data != fmt.Sprint(i) {
			t.Fatalf("got %q, want %d", data, i)
		}
	}
	eventually(t, "the listener is known", func() bool { // for two seconds after a message
		publisher.PublishInterest(subject, nil)
		return publisher.Listened(subject)
	})
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("Tap gives %v at the end", err)
	}
	eventually(t, "the absence is known again", func() bool {
		publisher.PublishInterest(subject, nil)
		return !publisher.Interested(subject) && !publisher.Listened(subject)
	})
}

func TestInterestIsBounded(t *testing.T) {
	c := newBus(t)
	for i := range 40000 {
		c.PublishInterest(fmt.Sprint("weir.v1.tap.a.b.c.", i), nil)
	}
	subject := bus.TapSubject(web)
	eventually(t, "the absence is known", func() bool {
		c.PublishInterest(subject, nil)
		return !c.Interested(subject)
	})
}

func TestTapMatches(t *testing.T) {
	s := bustest.Run(t)
	publisher, subscriber := bustest.Connect(t, s), bustest.Connect(t, s)
	voting := web
	voting.Name = "voting.v2"
	elsewhere := web
	elsewhere.Namespace = "books"
	f := func(tap event.Workload, want ...string) {
		t.Helper()
		got := make(chan string, 100)
		stop := background(t, func(ctx context.Context) error {
			return subscriber.Tap(ctx, tap, func(data []byte) { got <- string(data) }, nil)
		})
		match := map[string]event.Workload{"web": web, "voting": voting, "elsewhere": elsewhere}
		listening(t, publisher, match[want[0]], got)
		for _, name := range []string{"web", "voting", "elsewhere"} {
			eventually(t, "it is not taken for one that nobody listens to", func() bool {
				return publisher.PublishInterest(bus.TapSubject(match[name]), []byte(name))
			})
			time.Sleep(20 * time.Millisecond) // let a wrong one show
		}
		seen := map[string]bool{}
		for range want {
			seen[receive(t, got)] = true
		}
		for _, name := range want {
			if !seen[name] {
				t.Errorf("tap of %v got %v, want %v", tap, seen, want)
			}
		}
		if err := stop(); !errors.Is(err, context.Canceled) {
			t.Errorf("Tap gives %v at the end", err)
		}
		if len(got) > 0 {
			t.Errorf("tap of %v got %q beside %q", tap, <-got, want)
		}
		// Let what is known of listeners expire for the next case.
		for _, w := range match {
			eventually(t, "interest is open again", func() bool { return publisher.Interested(bus.TapSubject(w)) })
		}
	}
	f(web, "web")
	f(voting, "voting")
	f(event.Workload{Namespace: "emojivoto"}, "web", "voting")
	f(event.Workload{Name: "web"}, "web", "elsewhere")
	f(event.Workload{}, "web", "voting", "elsewhere")
}

// TestSlowTap: a reader that does not keep up loses messages, and knows how
// many; the bus and the others notice nothing.
func TestSlowTap(t *testing.T) {
	s := bustest.Run(t)
	publisher, slow, fast := bustest.Connect(t, s), bustest.Connect(t, s), bustest.Connect(t, s)
	const n = 30000
	release := make(chan struct{})
	var handled, reported atomic.Uint64
	stopSlow := background(t, func(ctx context.Context) error {
		return slow.Tap(ctx, event.Workload{}, func([]byte) {
			<-release
			handled.Add(1)
		}, reported.Store)
	})
	quick := make(chan string, 2*n)
	background(t, func(ctx context.Context) error {
		return fast.Tap(ctx, event.Workload{}, func(data []byte) { quick <- string(data) }, nil)
	})
	probes := listening(t, publisher, web, quick)
	for i := range n {
		if !publisher.PublishInterest(bus.TapSubject(web), fmt.Append(nil, i)) {
			t.Fatalf("message %d was not published", i)
		}
		if i%500 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	for i := range n {
		if data := receive(t, quick); data != fmt.Sprint(i) {
			t.Fatalf("the fast tap got %q, want %d", data, i)
		}
	}
	close(release)
	eventually(t, "the slow tap works off what was kept for it", func() bool { return handled.Load()+reported.Load() >= n })
	err := stopSlow()
	var dropped *bus.DroppedError
	if !errors.As(err, &dropped) || dropped.Count == 0 {
		t.Fatalf("the slow tap ends with %v", err)
	}
	if reported.Load() != dropped.Count {
		t.Errorf("%d drops were reported, then %d", reported.Load(), dropped.Count)
	}
	// Beside the n there are the probes that found the tap.
	if total := handled.Load() + dropped.Count; total < n || total > uint64(n+probes) {
		t.Errorf("%d handled and %d dropped of %d", handled.Load(), dropped.Count, n)
	}
	if !slow.Connected() {
		t.Error("the slow tap was disconnected")
	}
	if err := s.Ready(); err != nil {
		t.Error(err)
	}
	if err := publisher.Publish(bounded(t), web, 1, 1, nil); err != nil {
		t.Error(err)
	}
}

func TestTapAcrossRestart(t *testing.T) {
	s := bustest.Run(t)
	publisher, subscriber := bustest.Connect(t, s), bustest.Connect(t, s)
	got := make(chan string, 1000)
	background(t, func(ctx context.Context) error {
		return subscriber.Tap(ctx, web, func(data []byte) { got <- string(data) }, nil)
	})
	listening(t, publisher, web, got)
	bustest.Restart(t, s)
	listening(t, publisher, web, got)
}

func TestWatchTap(t *testing.T) {
	s := bustest.Run(t)
	proxy, aggregator := bustest.Connect(t, s), bustest.Connect(t, s)
	tapped := make(chan struct{}, 1000)
	stop := background(t, func(ctx context.Context) error {
		return proxy.WatchTap(ctx, web, func() { tapped <- struct{}{} })
	})
	eventually(t, "the notice arrives", func() bool {
		if err := aggregator.AnnounceTapped(web); err != nil {
			t.Fatal(err)
		}
		return len(tapped) > 0
	})
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("WatchTap gives %v at the end", err)
	}
	proxy.Close()
	if err := proxy.WatchTap(bounded(t), web, nil); !errors.Is(err, bus.ErrNotConnected) {
		t.Errorf("WatchTap gives %v on a closed client", err)
	}
	if err := proxy.Tap(bounded(t), web, nil, nil); !errors.Is(err, bus.ErrNotConnected) {
		t.Errorf("Tap gives %v on a closed client", err)
	}
}

// TestPlainSubscriber: any NATS client sees the taps.
func TestPlainSubscriber(t *testing.T) {
	s := bustest.Run(t)
	c := bustest.Connect(t, s)
	nc, _ := raw(t, s)
	got := make(chan *nats.Msg, 10)
	if _, err := nc.ChanSubscribe("weir.v1.tap.*.emojivoto.>", got); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if !c.PublishInterest(bus.TapSubject(web), []byte(`{"x":1}`)) {
		t.Fatal("not published")
	}
	if m := receive(t, got); m.Subject != "weir.v1.tap.local.emojivoto.deploy.web" || string(m.Data) != `{"x":1}` {
		t.Errorf("got %q on %q", m.Data, m.Subject)
	}
}

// TestInterestInMany has many subjects probed at once, of which some have a listener.
func TestInterestInMany(t *testing.T) {
	s := bustest.Run(t)
	publisher := bustest.Connect(t, s)
	subject := func(n int) string { return bus.TapSubject(event.Workload{Name: fmt.Sprintf("many-%d", n)}) }
	listener, err := nats.Connect(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	const subjects = 40
	for n := 0; n < subjects; n += 2 {
		if _, err := listener.Subscribe(subject(n), func(*nats.Msg) {}); err != nil {
			t.Fatal(err)
		}
	}
	if err := listener.Flush(); err != nil {
		t.Fatal(err)
	}
	for n := range subjects {
		if !publisher.PublishInterest(subject(n), []byte("probe")) {
			t.Errorf("the first message of subject %d is no probe", n)
		}
	}
	for n := 0; n < subjects; n += 2 {
		eventually(t, "a subject with a listener is known to have one", func() bool { return publisher.Listened(subject(n)) })
	}
	for n := 1; n < subjects; n += 2 {
		if publisher.Listened(subject(n)) {
			t.Errorf("subject %d has no listener, and yet somebody got its probe", n)
		}
	}
}
