package balance

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Member is an endpoint of a Set. Its methods are safe for concurrent use.
type Member struct {
	set      *Set
	endpoint Endpoint

	outstanding atomic.Int64
	picks       atomic.Uint64
	ejections   atomic.Uint64
	removed     atomic.Bool
	// ejected is until when the endpoint is not picked, in the set's time; 0:
	// it is not ejected.
	ejected atomic.Int64

	mu       sync.Mutex // guards all below
	cost     float64    // peak EWMA of the latency, ns
	seen     int64      // when cost was last brought up to date
	observed int        // latencies, up to known
	failures int        // to connect, in a row
}

// known is how many latencies tell what an endpoint is like: the first has the
// making of a connection in it.
const known = 2

func newMember(s *Set, e Endpoint) *Member {
	return &Member{set: s, endpoint: e, seen: s.now()}
}

// Endpoint is what the member stands for.
func (m *Member) Endpoint() Endpoint { return m.endpoint }

// Removed tells whether the endpoint has been taken out of its set.
func (m *Member) Removed() bool { return m.removed.Load() }

// Begin notes that a request is under way; End must follow.
func (m *Member) Begin() { m.outstanding.Add(1) }

// End notes that a request is over.
func (m *Member) End() { m.outstanding.Add(-1) }

// Observe takes a request's latency: until its response began or, where it
// failed, until then.
func (m *Member) Observe(latency time.Duration, failed bool) {
	if failed {
		latency = max(latency, m.set.o.Penalty)
	}
	now := m.set.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case failed:
		m.observed = known + 1
	case m.observed <= known:
		m.observed++
	}
	m.observe(now, float64(max(latency, 0)))
}

// observe brings the average up to date: at once where it rises, decaying
// where it falls.
func (m *Member) observe(now int64, latency float64) {
	elapsed := now - m.seen
	switch {
	case latency >= m.cost || m.observed <= known && latency > 0:
		m.cost = latency
	case elapsed <= 0:
		return
	default:
		w := math.Exp(-float64(elapsed) / float64(m.set.o.Decay))
		m.cost = m.cost*w + latency*(1-w)
	}
	m.seen = now
}

// refresh is how old an average may be before a look at it lets it decay, ns.
const refresh = int64(10 * time.Millisecond)

// load is what Pick compares: the expected latency of one more request. An
// endpoint that nobody asks forgets its latency, and so is tried again. A new one
// is tried at once, by one request after the other.
func (m *Member) load(now int64) float64 {
	m.mu.Lock()
	if m.observed < known {
		m.mu.Unlock()
		return float64(m.set.o.RTT) * float64(m.outstanding.Load())
	}
	if now-m.seen > refresh {
		m.observe(now, 0)
	}
	cost := m.cost
	m.mu.Unlock()
	return max(cost, 1) * float64(m.outstanding.Load()+1)
}

// available tells whether the endpoint may be picked, and whether that would
// be the probe of one whose ejection is over; it is granted to one caller.
func (m *Member) available(now int64) (ok, probe bool) {
	until := m.ejected.Load()
	switch {
	case until == 0:
		return true, false
	case now < until:
		return false, false
	}
	// A probe that nobody reports on is granted again later.
	granted := m.ejected.CompareAndSwap(until, now+int64(m.set.o.MaxBackoff))
	return granted, granted
}

// Connected notes that the endpoint could be connected to, and ends its
// ejection.
func (m *Member) Connected() {
	m.mu.Lock()
	m.failures = 0
	m.ejected.Store(0)
	m.mu.Unlock()
}

// Failed notes that the endpoint could not be connected to, and ejects it.
func (m *Member) Failed() {
	o := &m.set.o
	now := m.set.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	backoff := o.MaxBackoff
	if m.failures < 16 {
		backoff = min(backoff, o.MinBackoff<<m.failures)
	}
	m.failures++
	backoff = backoff/2 + rand.N(backoff/2+1)
	m.ejected.Store(now + int64(backoff))
	m.ejections.Add(1)
}

// MemberStats is what a member counted since it is there.
type MemberStats struct {
	// Addr is the endpoint's.
	Addr string
	// Picks counts requests and tries, Ejections failures to connect.
	Picks, Ejections uint64
	// Outstanding is how many requests are under way.
	Outstanding int64
	// Ejected tells that the endpoint is not picked for now.
	Ejected bool
	// Latency is the moving average.
	Latency time.Duration
}

// Stats returns the counters.
func (m *Member) Stats() MemberStats {
	m.mu.Lock()
	cost := m.cost
	m.mu.Unlock()
	return MemberStats{
		Addr: m.endpoint.Addr, Picks: m.picks.Load(), Ejections: m.ejections.Load(),
		Outstanding: m.outstanding.Load(), Ejected: m.ejected.Load() != 0, Latency: time.Duration(cost),
	}
}
