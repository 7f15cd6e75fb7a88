package balance_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirmesh/weir/proxy/balance"
)

func endpoints(n int) []balance.Endpoint {
	var out []balance.Endpoint
	for i := range n {
		out = append(out, balance.Endpoint{Addr: fmt.Sprintf("10.0.0.%d:80", i+1)})
	}
	return out
}

// drive sends requests one every period and returns how many each endpoint got;
// latency says how long each takes.
func drive(s *balance.Set, requests int, period time.Duration, latency func(addr string) time.Duration) map[string]int {
	got := map[string]int{}
	var wait sync.WaitGroup
	for range requests {
		m := s.Pick(nil)
		addr := m.Endpoint().Addr
		got[addr]++
		m.Begin()
		d := latency(addr)
		wait.Go(func() {
			time.Sleep(d)
			m.Observe(d, false)
			m.End()
		})
		time.Sleep(period)
	}
	wait.Wait()
	return got
}

func TestLoadSpreads(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10} {
		synctest.Test(t, func(t *testing.T) {
			s := balance.New(balance.Options{}, endpoints(n)...)
			const requests = 3000
			got := drive(s, requests, time.Millisecond, func(string) time.Duration { return 5 * time.Millisecond })
			for _, e := range endpoints(n) {
				if share := got[e.Addr]; share < requests/n/2 || share > requests/n*3/2+1 {
					t.Errorf("of %d endpoints %s got %d of %d", n, e.Addr, share, requests)
				}
			}
		})
	}
}

// TestNewEndpointIsTried has an endpoint join others that answer faster than any is
// taken to: it gets its share at once, although its first request, which makes a
// connection, takes long.
func TestNewEndpointIsTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := balance.New(balance.Options{}, endpoints(2)...)
		first := map[string]bool{}
		latency := func(addr string) time.Duration {
			if !first[addr] {
				first[addr] = true
				return 20 * time.Millisecond
			}
			return 300 * time.Microsecond
		}
		drive(s, 1000, 25*time.Millisecond, latency)
		s.Set(endpoints(3))
		const requests = 300
		got := drive(s, requests, 25*time.Millisecond, latency)
		for _, e := range endpoints(3) {
			if share := got[e.Addr]; share < requests/6 {
				t.Errorf("%s got %d of %d requests: %v", e.Addr, share, requests, got)
			}
		}
	})
}

func TestSlowEndpointGetsLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := balance.New(balance.Options{}, endpoints(3)...)
		got := drive(s, 3000, time.Millisecond, func(addr string) time.Duration {
			if addr == "10.0.0.1:80" {
				return 200 * time.Millisecond
			}
			return 2 * time.Millisecond
		})
		if slow := got["10.0.0.1:80"]; slow == 0 || slow > 300 {
			t.Errorf("the slow endpoint got %d of 3000: %v", slow, got)
		}
	})
}

// TestFailingEndpointGetsLess has an endpoint that fails at once, which must not
// draw the traffic.
func TestFailingEndpointGetsLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := balance.New(balance.Options{}, endpoints(2)...)
		bad := 0
		for range 1000 {
			m := s.Pick(nil)
			m.Begin()
			if m.Endpoint().Addr == "10.0.0.1:80" {
				bad++
				m.Observe(time.Microsecond, true)
			} else {
				time.Sleep(10 * time.Millisecond)
				m.Observe(10*time.Millisecond, false)
			}
			m.End()
		}
		if bad == 0 || bad > 100 {
			t.Errorf("the failing endpoint got %d of 1000", bad)
		}
	})
}

// TestRecovery has an endpoint that was slow and is not any more.
func TestRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := balance.New(balance.Options{}, endpoints(2)...)
		s.Members()[0].Observe(5*time.Second, false)
		time.Sleep(2 * time.Minute)
		got := drive(s, 2000, 5*time.Millisecond, func(string) time.Duration { return 5 * time.Millisecond })
		if n := got["10.0.0.1:80"]; n < 500 {
			t.Errorf("the recovered endpoint got %d of 2000", n)
		}
	})
}

func TestEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := balance.New(balance.Options{}, endpoints(3)...)
		dead := s.Members()[1]
		up := false
		tries, longest, last := 0, time.Duration(0), time.Now()
		try := func() {
			m := s.Pick(nil)
			if m != dead {
				m.Connected()
				return
			}
			if tries > 0 {
				longest = max(longest, time.Since(last))
			}
			tries, last = tries+1, time.Now()
			if up {
				m.Connected()
			} else {
				m.Failed()
			}
		}
		for range 60_000 { // one minute
			try()
			time.Sleep(time.Millisecond)
		}
		if tries < 5 || tries > 20 {
			t.Errorf("the dead endpoint was tried %d times in a minute", tries)
		}
		if longest < balance.DefaultMaxBackoff/2 || longest > balance.DefaultMaxBackoff+100*time.Millisecond {
			t.Errorf("the longest ejection was %s", longest)
		}
		if st := dead.Stats(); !st.Ejected || st.Ejections != uint64(tries) {
			t.Errorf("wrong stats %+v after %d tries", st, tries)
		}
		up, tries = true, 0
		for range 60_000 {
			try()
			time.Sleep(time.Millisecond)
		}
		if tries < 10_000 {
			t.Errorf("the endpoint that came back got %d of 60000", tries)
		}
	})
}

// TestOneProbe has many at once ask when an ejection is over.
func TestOneProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := balance.New(balance.Options{}, endpoints(2)...)
		dead := s.Members()[0]
		dead.Failed()
		time.Sleep(time.Second)
		probes := 0
		for range 100 {
			if s.Pick(nil) == dead {
				probes++
			}
		}
		if probes != 1 {
			t.Errorf("%d probes, want 1", probes)
		}
	})
}

func TestAllEjected(t *testing.T) {
	s := balance.New(balance.Options{}, endpoints(3)...)
	for _, m := range s.Members() {
		m.Failed()
	}
	if s.Pick(nil) == nil {
		t.Error("nothing to try")
	}
	if s := balance.New(balance.Options{}); s.Pick(nil) != nil {
		t.Error("something of nothing")
	}
}

func TestAvoid(t *testing.T) {
	s := balance.New(balance.Options{}, endpoints(2)...)
	first := s.Members()[0]
	for range 100 {
		if s.Pick(first) == first {
			t.Fatal("picked what was to be avoided")
		}
	}
	s.Set(endpoints(1))
	if s.Pick(first) != first {
		t.Error("the only one was not picked")
	}
}

func TestSet(t *testing.T) {
	s := balance.New(balance.Options{}, endpoints(2)...)
	var gone []string
	s.OnRemove(func(m *balance.Member) { gone = append(gone, m.Endpoint().Addr) })
	kept := s.Members()[1]
	s.Set(append(endpoints(3)[1:], endpoints(3)[1]))
	if len(s.Members()) != 2 || s.Members()[0] != kept || kept.Removed() {
		t.Errorf("wrong members %v", s.Members())
	}
	if len(gone) != 1 || gone[0] != "10.0.0.1:80" {
		t.Errorf("removed %v", gone)
	}
}

// TestConcurrent is for the race detector.
func TestConcurrent(t *testing.T) {
	s := balance.New(balance.Options{MinBackoff: 1}, endpoints(4)...)
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			for j := range 2000 {
				m := s.Pick(nil)
				m.Begin()
				switch {
				case j%100 == 0:
					m.Failed()
				case i == 0 && j%50 == 0:
					s.Set(endpoints(2 + j%3))
				default:
					m.Connected()
				}
				m.Observe(time.Duration(j), j%7 == 0)
				m.End()
				m.Stats()
			}
		})
	}
	wait.Wait()
	for _, m := range s.Members() {
		if n := m.Stats().Outstanding; n != 0 {
			t.Errorf("%d requests under way", n)
		}
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	s := balance.New(balance.Options{}, endpoints(5)...)
	if n := testing.AllocsPerRun(1000, func() {
		m := s.Pick(nil)
		m.Begin()
		m.Observe(time.Millisecond, false)
		m.End()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPick(b *testing.B) {
	s := balance.New(balance.Options{}, endpoints(10)...)
	b.ReportAllocs()
	for b.Loop() {
		m := s.Pick(nil)
		m.Begin()
		m.Observe(time.Millisecond, false)
		m.End()
	}
}
