// Package balance chooses, for each request, one of several endpoints.
//
// A [Set] holds the endpoints; it can be changed at any time. Pick looks at two
// of them at random and takes the one with the lesser load (the power of two
// choices: M. Mitzenmacher, "The Power of Two Choices in Randomized Load
// Balancing", IEEE TPDS 12(10), 2001). Load is Finagle's peak EWMA, which
// Linkerd uses too: a moving average of latencies that follows a rise at once
// and forgets it by and by, times the requests under way and this one
// (com.twitter.finagle.loadbalancer.PeakEwma; tower::load::peak_ewma). A request
// that fails counts as a slow one, lest an endpoint that fails quickly draw all
// the traffic.
//
// An endpoint that cannot be connected to is ejected for a time that doubles
// with each failure, with jitter ("full jitter" around a fixed half: M. Brooker,
// "Exponential Backoff And Jitter", AWS Architecture Blog, 2015). When the time
// is over one request is sent to it as a probe; if that connects the endpoint is
// back. Where all endpoints are ejected, the one whose time is over soonest is
// tried all the same: an error that is certain helps nobody.
package balance

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/event"
)

// Defaults of Options.
const (
	DefaultDecay      = 10 * time.Second
	DefaultRTT        = 30 * time.Millisecond
	DefaultPenalty    = time.Second
	DefaultMinBackoff = 250 * time.Millisecond
	DefaultMaxBackoff = 20 * time.Second
)

// Endpoint is one place that requests may go to.
type Endpoint struct {
	// Addr is host:port.
	Addr string
	// Workload and Pod name what is there, where they are known.
	Workload event.Workload
	Pod      string
	// Identity is the SPIFFE ID that its proxy must prove by mutual TLS; "" where
	// it is not to be asked for one. Reason then says why, as an event's security
	// reason.
	Identity, Reason string
}

// Options configures a Set; zero values mean the defaults.
type Options struct {
	// Decay is the time constant by which latencies are forgotten.
	Decay time.Duration
	// RTT is the latency that each request under way counts as at an endpoint whose
	// own is not known yet. Without any, such an endpoint is taken first.
	RTT time.Duration
	// Penalty is the least latency that a failed request counts as.
	Penalty time.Duration
	// MinBackoff and MaxBackoff bound for how long an endpoint is ejected.
	MinBackoff, MaxBackoff time.Duration
}

// Set is a set of endpoints. Its methods are safe for concurrent use.
type Set struct {
	o       Options
	base    time.Time
	members atomic.Pointer[[]*Member]
	retries atomic.Uint64

	mu      sync.Mutex // serializes Set
	removed []func(*Member)
}

// New makes a Set of the endpoints, which may be none.
func New(o Options, endpoints ...Endpoint) *Set {
	setTime := func(p *time.Duration, v time.Duration) {
		if *p <= 0 {
			*p = v
		}
	}
	setTime(&o.Decay, DefaultDecay)
	setTime(&o.RTT, DefaultRTT)
	setTime(&o.Penalty, DefaultPenalty)
	setTime(&o.MinBackoff, DefaultMinBackoff)
	setTime(&o.MaxBackoff, DefaultMaxBackoff)
	o.MaxBackoff = max(o.MaxBackoff, o.MinBackoff)
	s := &Set{o: o, base: time.Now()}
	s.members.Store(new([]*Member))
	s.Set(endpoints)
	return s
}

// Set makes the endpoints those that Pick chooses from. Endpoints that stay
// keep what is known of them, duplicates count once, and those that are no
// longer there are picked no more: Member.Removed is true for them, and the
// functions given to OnRemove are called.
func (s *Set) Set(endpoints []Endpoint) {
	s.mu.Lock()
	old := *s.members.Load()
	now := make([]*Member, 0, len(endpoints))
	have := make(map[Endpoint]*Member, len(old))
	for _, m := range old {
		have[m.endpoint] = m
	}
	seen := make(map[Endpoint]bool, len(endpoints))
	for _, e := range endpoints {
		if seen[e] {
			continue
		}
		seen[e] = true
		m := have[e]
		if m == nil {
			m = newMember(s, e)
		}
		delete(have, e)
		now = append(now, m)
	}
	s.members.Store(&now)
	tell := s.removed
	s.mu.Unlock()
	for _, m := range have {
		m.removed.Store(true)
		for _, f := range tell {
			f(m)
		}
	}
}

// OnRemove has f called for each endpoint that Set removes from now on.
func (s *Set) OnRemove(f func(*Member)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removed = append(s.removed[:len(s.removed):len(s.removed)], f)
}

// Members returns the endpoints of the moment. The slice must not be changed.
func (s *Set) Members() []*Member { return *s.members.Load() }

// Retry counts a request that is tried again.
func (s *Set) Retry() { s.retries.Add(1) }

// Retries is how many requests were tried again.
func (s *Set) Retries() uint64 { return s.retries.Load() }

// now is the monotonic time, ns since the set was made; never 0.
func (s *Set) now() int64 { return int64(time.Since(s.base)) + 1 }

// Pick chooses an endpoint for a request, if possible another one than avoid,
// which may be nil. It returns nil only where there is no endpoint at all.
// Whoever calls it must call the member's Begin if the request goes there, and
// must report the outcome of connecting (Connected, Failed) where it connects.
func (s *Set) Pick(avoid *Member) *Member {
	members := *s.members.Load()
	n := len(members)
	if n == 0 {
		return nil
	}
	now := s.now()
	random := rand.Uint64()
	first, probe := pickFrom(members, int(uint32(random))%n, now, avoid, nil)
	switch {
	case first == nil:
		return s.leastBad(members, avoid)
	case !probe:
		var second *Member
		second, probe = pickFrom(members, int(random>>32)%n, now, avoid, first)
		if second != nil && (probe || second.load(now) < first.load(now)) {
			first = second
		}
	}
	first.picks.Add(1)
	return first
}

// pickFrom returns the first endpoint from place at on that may be picked and
// is neither avoid nor other. probe tells that it was ejected and must be taken.
func pickFrom(members []*Member, at int, now int64, avoid, other *Member) (m *Member, probe bool) {
	for range members {
		m := members[at]
		if at++; at == len(members) {
			at = 0
		}
		if m == avoid || m == other {
			continue
		}
		if ok, probe := m.available(now); ok {
			return m, probe
		}
	}
	return nil, false
}

// leastBad is the choice where none may be picked: the one that is not ejected
// (it was to be avoided), or will be back soonest.
func (s *Set) leastBad(members []*Member, avoid *Member) *Member {
	var best *Member
	for _, m := range members {
		if m == avoid && m.ejected.Load() != 0 && len(members) > 1 {
			continue
		}
		if best == nil || m.ejected.Load() < best.ejected.Load() {
			best = m
		}
	}
	best.picks.Add(1)
	return best
}
