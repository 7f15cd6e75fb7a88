package telemetry

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/weirmesh/weir/event"
)

// sealer numbers batches and hands them to the queue; or coalesces them, where
// that is full. Its lock is taken before a shard's.
type sealer struct {
	mu       sync.Mutex // guards all below
	instance uint64
	sequence uint64
	carried  uint64 // events told one by one in all batches sealed so far
	summed   uint64 // those told as sums
	last     time.Time
	spare    buffer // empty; swapped with a shard's
	scratch  []byte
	work     event.Workspace // of all encoders
	sums     coalescer
	spool    *spool // nil where there is none
}

// flushLoop seals in time. It ends after Close with the final batch.
func (p *Pipeline) flushLoop() {
	defer close(p.flusherDone)
	p.locked(func() { p.seal(&p.sealer.spare, false) })
	phase := rand.Float64() * flushSpread
	first := untilFlush(time.Now(), p.o.FlushEvery, phase)
	if first < p.o.FlushEvery/10 {
		first += p.o.FlushEvery // there is nothing to tell yet
	}
	timer := time.NewTimer(first)
	defer timer.Stop()
	for {
		select {
		case <-p.stop:
			p.locked(p.finish)
			return
		case <-p.large:
			p.locked(func() { p.sealShards(false) })
			continue
		case <-p.tap:
			p.locked(p.tick)
		case <-p.recheck:
			p.locked(p.tick)
		case <-timer.C:
			p.locked(p.tick)
		}
		every := p.o.FlushEvery
		if p.tapped() {
			every = p.o.TapEvery
		}
		timer.Reset(untilFlush(time.Now(), every, phase))
	}
}

// flushSpread is the part of an interval, from its beginning, over which the
// flushes of all proxies are spread.
const flushSpread = 0.5

// untilFlush is how long it is until the next flush. Flushes keep to the wall
// clock, at a phase of the interval (in [0, 1)) that is the proxy's own: so
// everything of one second has left all proxies by half past the next, and who
// asks for statistics need not wait for a flush at the worst time; and proxies
// that boot together do not publish together.
func untilFlush(now time.Time, every time.Duration, phase float64) time.Duration {
	// Round drops the monotonic clock, so that the distance is one of wall time.
	next := now.Round(0).Truncate(every).Add(time.Duration(phase * float64(every)))
	wait := next.Sub(now.Round(0))
	if wait <= 0 {
		wait += every
	}
	return wait
}

func (p *Pipeline) locked(f func()) {
	p.sealer.mu.Lock()
	defer p.sealer.mu.Unlock()
	f()
}

// tick seals what is due. While publishing fails, events are left in their
// encoders until those are large: fewer, denser batches make the retention
// bound reach further.
func (p *Pipeline) tick() {
	if p.queue.full.Load() || !p.queue.flowing() {
		return
	}
	if !p.sealer.sums.empty() {
		p.sealSums()
	}
	p.sealShards(true)
	p.moreSpares()
	if time.Since(p.sealer.last) >= p.o.Heartbeat {
		p.seal(&p.sealer.spare, false)
	}
}

// finish seals everything and the final batch, whatever the bound: where the
// queue is full that is only sums.
func (p *Pipeline) finish() {
	for i := range p.shards {
		s := &p.shards[i]
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
	}
	p.sealShards(true)
	if !p.sealer.sums.empty() {
		p.sealSums()
	}
	p.seal(&p.sealer.spare, true)
	p.queue.close()
}

// sealShards seals the shards that are large, or with all those that hold
// anything that is due. Where the queue is full it coalesces them instead.
func (p *Pipeline) sealShards(all bool) {
	now, tapped, crowded := time.Now().UnixMicro(), p.tapped(), false
	for i := range p.shards {
		s := &p.shards[i]
		s.mu.Lock()
		older := s.takeOlder(all)
		crowded = crowded || s.crowded
		full := s.enc.Len() > 0 && (s.signaled || all && (tapped || !p.bySecond || s.closed || s.due(now)))
		b := s.buffer
		if full {
			s.buffer, s.signaled = p.sealer.spare, false
		}
		s.mu.Unlock()
		if older.enc != nil {
			p.empty(&older)
			p.spares.put(older)
		}
		if full {
			p.empty(&b)
			p.sealer.spare = b
		}
	}
	if crowded {
		p.spares.shrink(&p.sealer.work)
	}
}

// empty seals what a buffer holds, or coalesces it where the queue is full.
func (p *Pipeline) empty(b *buffer) {
	if p.queue.full.Load() {
		p.coalesce(b)
	} else {
		p.seal(b, false)
	}
	b.enc.Reset()
}

// seal makes a batch of what a buffer holds.
func (p *Pipeline) seal(b *buffer, final bool) {
	p.sealer.last = time.Now()
	p.submit(b.enc, b.journal, false, final)
}

// sealSums makes a batch of all that was coalesced.
func (p *Pipeline) sealSums() {
	s := &p.sealer
	enc := s.spare.enc
	s.sums.put(enc)
	s.sums.reset()
	p.submit(enc, nil, true, false)
	enc.Reset()
}

// submit numbers a batch, keeps it in the spool, and queues it.
func (p *Pipeline) submit(enc *event.Encoder, j *journal, sums, final bool) {
	s := &p.sealer
	_, summed := enc.Summaries()
	s.sequence++
	s.carried += uint64(enc.Len())
	s.summed += summed
	h := event.Header{
		Source:          p.o.Source,
		Instance:        s.instance,
		Sequence:        s.sequence,
		Sent:            time.Now().UnixMicro(),
		Produced:        s.carried + s.summed,
		Shed:            s.summed,
		OpenConnections: p.o.OpenConnections(),
		Final:           final,
		Version:         p.o.Version,
	}
	s.scratch = enc.Encode(s.scratch[:0], &h)
	b := batch{instance: s.instance, sequence: s.sequence, source: p.o.Source.Workload, data: append(p.queue.room(len(s.scratch)), s.scratch...)}
	b.size = len(b.data)
	b.path = s.spool.keep(&h, b.data, j, sums)
	p.queue.push(b)
}

// coalesce sums up what a buffer holds.
func (p *Pipeline) coalesce(b *buffer) {
	s := &p.sealer
	s.scratch = b.enc.Encode(s.scratch[:0], &event.Header{Sent: time.Now().UnixMicro()})
	if err := s.sums.add(s.scratch); err != nil {
		// It never happens: what an encoder makes, a decoder takes.
		p.o.Logger.Error("cannot coalesce events", "events", b.enc.Len(), "error", err)
		return
	}
	p.shed.Add(uint64(b.enc.Len()))
	s.spool.keepSums(&s.sums, b.journal)
}
