package discover_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/discover"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source is a control plane that tests play.
type source struct {
	mu      sync.Mutex
	answers map[netip.AddrPort]control.Destination
	away    bool
	asked   map[netip.AddrPort]int
	hold    chan struct{} // answers wait for it, where it is not nil
	fn      func(*control.Destination)
	missed  func()
	watched chan struct{}
}

func newSource() *source {
	return &source{answers: make(map[netip.AddrPort]control.Destination), asked: make(map[netip.AddrPort]int), watched: make(chan struct{})}
}

func (s *source) Resolve(ctx context.Context, r *control.ResolveRequest) (*control.Destination, error) {
	s.mu.Lock()
	s.asked[r.Addr]++
	d, away, hold := s.answers[r.Addr], s.away, s.hold
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if away {
		return nil, errors.New("away")
	}
	return &d, nil
}

func (s *source) Watch(ctx context.Context, fn func(*control.Destination), missed func()) error {
	s.mu.Lock()
	s.fn, s.missed = fn, missed
	s.mu.Unlock()
	close(s.watched)
	<-ctx.Done()
	return ctx.Err()
}

// set is what the next question about the destination's addresses gets.
func (s *source) set(d control.Destination) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range d.Addrs {
		s.answers[a] = d
	}
}

func (s *source) setAway(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

func (s *source) count(a netip.AddrPort) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[a]
}

// tell announces a change.
func (s *source) tell(d control.Destination) {
	<-s.watched
	s.fn(&d)
}

func run(t *testing.T, s *source, max int) *discover.Resolver {
	t.Helper()
	r := discover.New(discover.Options{Source: s, Cluster: "east", Namespace: "shop", Max: max, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

var vip, pod = netip.MustParseAddrPort("10.96.0.7:80"), netip.MustParseAddrPort("10.244.0.9:8080")

func service(version uint64, addrs ...string) control.Destination {
	d := control.Destination{Namespace: "shop", Service: "cart", Port: 80, Addrs: []netip.AddrPort{vip}, Epoch: 1, Version: version, Known: true, Protocol: "grpc"}
	for _, a := range addrs {
		d.Endpoints = append(d.Endpoints, control.Endpoint{Addr: netip.MustParseAddrPort(a), Namespace: "shop", Kind: "deploy", Name: "cart", Pod: "cart-1",
			Identity: control.SPIFFE("cluster.local", "shop", "cart")})
	}
	return d
}

func members(d *discover.Destination) string {
	var out []string
	for _, m := range d.Set().Members() {
		out = append(out, m.Endpoint().Addr)
	}
	return fmt.Sprint(out)
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestResolve(t *testing.T) {
	s := newSource()
	s.set(service(1, "10.244.0.1:8080", "10.244.0.2:8080"))
	r := run(t, s, 0)
	d := r.Resolve(t.Context(), vip)
	defer d.Release()
	v := d.View()
	if !v.Known || !v.Service || v.Protocol != event.HTTP2 || members(d) != "[10.244.0.1:8080 10.244.0.2:8080]" {
		t.Fatalf("%+v %s", v, members(d))
	}
	e := d.Set().Members()[0].Endpoint()
	if e.Identity == "" || e.Pod != "cart-1" || e.Workload != (event.Workload{Cluster: "east", Namespace: "shop", Kind: "deploy", Name: "cart"}) {
		t.Errorf("%+v", e)
	}
	again := r.Resolve(t.Context(), vip)
	again.Release()
	if again != d || s.count(vip) != 1 {
		t.Errorf("asked %d times", s.count(vip))
	}
	f := func(what string, change control.Destination, want string) {
		t.Helper()
		s.tell(change)
		if got := members(d); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	f("a change", service(3, "10.244.0.3:8080"), "[10.244.0.3:8080]")
	f("a late change", service(2, "10.244.0.1:8080"), "[10.244.0.3:8080]")
	other := service(9, "10.244.0.1:8080")
	other.Addrs = []netip.AddrPort{pod}
	f("another's", other, "[10.244.0.3:8080]")
	ending := service(4, "10.244.0.3:8080", "10.244.0.4:8080")
	ending.Endpoints[0].Terminating = true
	f("one that ends", ending, "[10.244.0.4:8080]")
	ending = service(5, "10.244.0.3:8080")
	ending.Endpoints[0].Terminating = true
	f("the last one ends", ending, "[10.244.0.3:8080]")
	f("none", service(6), "[]")
	next := service(1, "10.244.0.5:8080")
	next.Epoch = 2
	f("another controller", next, "[10.244.0.5:8080]")
	if v := d.View(); !v.Known || !v.Service {
		t.Errorf("%+v", v)
	}
}

func TestSinglePod(t *testing.T) {
	s := newSource()
	one := control.Destination{Addrs: []netip.AddrPort{pod}, Epoch: 1, Version: 1, Known: true, Opaque: true, Protocol: "http/1",
		Endpoints: []control.Endpoint{{Addr: pod, Namespace: "shop", Kind: "pod", Name: "db-0", Pod: "db-0", Reason: "not_ready"}}}
	s.set(one)
	r := run(t, s, 0)
	d := r.Resolve(t.Context(), pod)
	defer d.Release()
	v := d.View()
	if !v.Known || v.Service || !v.Opaque || v.Protocol != event.ProtocolUnknown || v.Endpoint.Addr != pod.String() || v.Endpoint.Reason != "not_ready" || v.Endpoint.Identity != "" {
		t.Fatalf("%+v", v)
	}
	// Something happens to the pod: it is asked for again.
	one.Endpoints[0].Identity, one.Endpoints[0].Reason, one.Version = "spiffe://cluster.local/ns/shop/sa/db", "", 2
	s.set(one)
	s.tell(control.Destination{Addrs: []netip.AddrPort{netip.AddrPortFrom(pod.Addr(), 0)}, Epoch: 1, Version: 2})
	eventually(t, "the identity", func() bool { return d.View().Endpoint.Identity != "" })
	// It goes.
	s.set(control.Destination{Addrs: []netip.AddrPort{pod}, Epoch: 1, Version: 3})
	s.tell(control.Destination{Addrs: []netip.AddrPort{netip.AddrPortFrom(pod.Addr(), 0)}, Epoch: 1, Version: 3})
	eventually(t, "the pod's end", func() bool { return !d.View().Known })
	if d.View().Reason != discover.ReasonUnknown {
		t.Errorf("%+v", d.View())
	}
}

func TestGoesOnWithoutControlPlane(t *testing.T) {
	s := newSource()
	s.set(service(1, "10.244.0.1:8080"))
	r := run(t, s, 0)
	d := r.Resolve(t.Context(), vip)
	defer d.Release()
	s.setAway(true)
	<-s.watched
	s.missed()
	eventually(t, "a failure", func() bool { return r.Stats().Failed > 0 })
	if !d.View().Known || members(d) != "[10.244.0.1:8080]" {
		t.Errorf("forgot %+v", d.View())
	}
	u := r.Resolve(t.Context(), pod)
	defer u.Release()
	if v := u.View(); v.Known || v.Reason != discover.ReasonUnavailable {
		t.Errorf("%+v", v)
	}
	if r.Resolve(t.Context(), pod).Release(); s.count(pod) != 1 {
		t.Error("a failure is not remembered")
	}
	s.setAway(false)
	s.set(service(2, "10.244.0.2:8080"))
	s.set(control.Destination{Addrs: []netip.AddrPort{pod}, Epoch: 1})
	s.missed()
	eventually(t, "what was missed", func() bool { return members(d) == "[10.244.0.2:8080]" })
	eventually(t, "an answer", func() bool { return u.View().Reason == discover.ReasonUnknown })
}

// Many connections to one new address are one question; whoever asks about
// another does not wait for it.
func TestAsksOnce(t *testing.T) {
	s := newSource()
	s.set(service(1, "10.244.0.1:8080"))
	s.hold = make(chan struct{})
	r := run(t, s, 0)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			d := r.Resolve(context.Background(), vip)
			defer d.Release()
			if !d.View().Known {
				t.Error("not known")
			}
		})
	}
	eventually(t, "the question", func() bool { return s.count(vip) == 1 })
	// A change that is told meanwhile wins over the older answer.
	s.tell(service(2, "10.244.0.2:8080"))
	close(s.hold)
	wg.Wait()
	d := r.Resolve(t.Context(), vip)
	defer d.Release()
	if n := s.count(vip); n != 1 || members(d) != "[10.244.0.2:8080]" {
		t.Errorf("%d questions, %s", n, members(d))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.mu.Lock()
	s.hold = make(chan struct{})
	s.mu.Unlock()
	u := r.Resolve(ctx, pod)
	defer u.Release()
	if u.View().Reason != discover.ReasonUnavailable {
		t.Errorf("%+v", u.View())
	}
}

func TestIsBounded(t *testing.T) {
	s := newSource()
	r := run(t, s, 3)
	at := func(i int) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(i+1)) }
	used := r.Resolve(t.Context(), at(0))
	ended := 0
	for i := 1; i < 10; i++ {
		d := r.Resolve(t.Context(), at(i))
		d.AtEnd(func() { ended++ })
		d.Release()
	}
	if st := r.Stats(); st.Known != 3 || st.Evicted != 7 || ended != 7 {
		t.Errorf("%+v, %d ended", st, ended)
	}
	if again := r.Resolve(t.Context(), at(0)); again != used {
		t.Error("one in use was forgotten")
	}
	// Where all are in use, one more is used without being remembered.
	a, b := r.Resolve(t.Context(), at(20)), r.Resolve(t.Context(), at(21))
	c := r.Resolve(t.Context(), at(22))
	over := false
	c.AtEnd(func() { over = true })
	c.Release()
	if st := r.Stats(); st.Known != 3 || !over {
		t.Errorf("%+v, over %v", st, over)
	}
	a.Release()
	b.Release()
}

// TestControllerAway has the control plane gone for days: what is known of a
// destination stays, whoever asks about a new one is held up for a second at most
// and then goes where it would have gone without a mesh, and once somebody answers
// again, both are asked about.
func TestControllerAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		s.set(service(1, "10.244.0.1:8080"))
		r := run(t, s, 0)
		use := func(a netip.AddrPort) (*discover.View, string, time.Duration) {
			began := time.Now()
			d := r.Resolve(t.Context(), a)
			defer d.Release()
			return d.View(), members(d), time.Since(began)
		}
		use(vip)
		s.mu.Lock()
		s.hold = make(chan struct{}) // nobody answers, nor says so
		s.mu.Unlock()
		for day := 0; day < 3; day++ {
			for range 24 {
				if v, m, took := use(vip); !v.Known || !v.Service || m != "[10.244.0.1:8080]" || took != 0 {
					t.Fatalf("day %d: %+v %s after %s", day, v, m, took)
				}
				if v, _, took := use(pod); v.Known || v.Reason != discover.ReasonUnavailable || took > time.Second {
					t.Fatalf("day %d: an address that is not known: %+v after %s", day, v, took)
				}
				time.Sleep(time.Hour)
			}
		}
		if st := r.Stats(); st.Failed == 0 || st.Evicted != 0 {
			t.Errorf("%+v", st)
		}
		s.set(service(9, "10.244.0.2:8080"))
		s.set(control.Destination{Addrs: []netip.AddrPort{pod}, Epoch: 1, Version: 9, Known: true, Endpoints: []control.Endpoint{{Addr: pod, Namespace: "shop", Kind: "pod", Name: "db-0"}}})
		s.mu.Lock()
		s.hold = nil
		s.mu.Unlock()
		time.Sleep(2 * time.Second) // a question under way ends, and its failure is old
		if v, _, _ := use(pod); !v.Known {
			t.Errorf("not asked about again: %+v", v)
		}
		use(vip)
		synctest.Wait()
		if _, m, _ := use(vip); m != "[10.244.0.2:8080]" {
			t.Errorf("not asked about again: %s", m)
		}
	})
}
