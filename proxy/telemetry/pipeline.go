package telemetry

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/event"
)

// hardFactor bounds what a shard holds while the flusher has not come yet to
// seal it: so many times MaxEvents and MaxBytes, and never more than a batch may
// hold. It is reached only when the flusher gets no processor for that long.
const hardFactor = 4

// Pipeline records events and publishes them. It implements relay.Recorder.
// All methods are safe for concurrent use.
type Pipeline struct {
	o        Options
	instance uint64
	// hardEvents and hardBytes are where a shard takes no more.
	hardEvents, hardBytes int

	shards []shard
	shed   atomic.Uint64

	tapUntil atomic.Int64  // UnixNano until which TapEvery applies
	large    chan struct{} // a shard reached MaxEvents or MaxBytes
	tap      chan struct{} // a tap began
	recheck  chan struct{} // the queue ran empty, or publishing works again

	sealer sealer // owned by the flusher
	queue  queue

	stop        chan struct{} // closed by Close: flush and end
	stopOnce    sync.Once
	cancel      context.CancelFunc // ends publisher and tap watcher
	flusherDone chan struct{}
	publishDone chan struct{}
	watchDone   chan struct{}
}

// shard is one encoder and its lock. Recorders prefer the first shard whose
// lock is free: low traffic makes one batch, high traffic spreads.
type shard struct {
	mu       sync.Mutex
	enc      *event.Encoder // current; swapped by the flusher under mu
	events   [3]uint64
	requests [3]uint64
	signaled bool // the flusher was told that enc is large
	closed   bool
	_        [64]byte // shards on cache lines of their own
}

// sealer is the flusher's state: what numbering and exactness need.
type sealer struct {
	spare    *event.Encoder // empty; swapped with a shard's
	scratch  []byte
	sequence uint64
	carried  uint64 // events in all batches sealed so far
	reported uint64 // Shed of the last batch
	last     time.Time
}

// New makes a Pipeline that records, but publishes nothing before Start.
func New(o Options) *Pipeline {
	o = o.withDefaults(runtime.GOMAXPROCS(0))
	p := &Pipeline{
		o:           o,
		hardEvents:  min(hardFactor*o.MaxEvents, event.MaxEvents),
		hardBytes:   min(hardFactor*o.MaxBytes, event.MaxBatchBytes-event.MaxEventBytes-event.MaxHeaderBytes),
		shards:      make([]shard, o.Shards),
		large:       make(chan struct{}, 1),
		tap:         make(chan struct{}, 1),
		recheck:     make(chan struct{}, 1),
		stop:        make(chan struct{}),
		flusherDone: make(chan struct{}),
		publishDone: make(chan struct{}),
		watchDone:   make(chan struct{}),
	}
	for p.instance == 0 {
		p.instance = rand.Uint64()
	}
	for i := range p.shards {
		p.shards[i].enc = new(event.Encoder)
	}
	p.sealer.spare = new(event.Encoder)
	p.queue.wake = make(chan struct{}, 1)
	p.queue.bound = o.RetainBytes
	p.queue.connected = true
	return p
}

// Start begins to publish; a first, empty batch goes out at once. It is called
// once, and the caller must Close the Pipeline after it.
func (p *Pipeline) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	go p.flushLoop()
	go p.publishLoop(ctx)
	go p.watchLoop(ctx)
}

// Instance is the random number under which this process publishes.
func (p *Pipeline) Instance() uint64 { return p.instance }

// Record takes one event. It allocates nothing in the steady state and waits
// for no more than another recorder's few hundred nanoseconds.
func (p *Pipeline) Record(e *event.Event) {
	if p.queue.full.Load() {
		p.recordShed(e)
		return
	}
	for i := range p.shards {
		s := &p.shards[i]
		if !s.mu.TryLock() {
			continue
		}
		if p.add(s, e) {
			return
		}
	}
	s := &p.shards[e.Connection%uint64(len(p.shards))]
	s.mu.Lock()
	if !p.add(s, e) {
		p.recordShed(e)
	}
}

// add encodes e into s, whose lock is held, and unlocks it. It reports false
// where s takes no more.
func (p *Pipeline) add(s *shard, e *event.Event) bool {
	n, size := s.enc.Len(), s.enc.Size()
	if s.closed || n >= p.hardEvents || size >= p.hardBytes {
		s.mu.Unlock()
		return false
	}
	s.enc.Add(e)
	s.count(e)
	tell := false
	if !s.signaled && (n+1 >= p.o.MaxEvents || size >= p.o.MaxBytes) {
		s.signaled, tell = true, true
	}
	s.mu.Unlock()
	if tell {
		notify(p.large)
	}
	return true
}

// recordShed counts an event that no batch will carry.
func (p *Pipeline) recordShed(e *event.Event) {
	s := &p.shards[e.Connection%uint64(len(p.shards))]
	s.mu.Lock()
	s.count(e)
	s.mu.Unlock()
	p.shed.Add(1)
}

// count adds e to the shard's own totals; its lock is held.
func (s *shard) count(e *event.Event) {
	d := int(e.Direction)
	if d >= len(s.events) {
		d = 0
	}
	s.events[d]++
	if e.IsRequest() {
		s.requests[d]++
	}
}

// notify sends on a channel of capacity 1 unless a notice is already waiting.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Stats returns the counters.
func (p *Pipeline) Stats() Stats {
	st := Stats{Shed: p.shed.Load(), Tapped: p.tapped()}
	for i := range p.shards {
		s := &p.shards[i]
		s.mu.Lock()
		for d := range s.events {
			st.Events[d] += s.events[d]
			st.Requests[d] += s.requests[d]
		}
		s.mu.Unlock()
	}
	p.queue.stats(&st)
	return st
}

// Close seals what was recorded, then a final batch, and waits until all are
// acknowledged or ctx ends; its error then says what was not delivered. Events
// recorded later are shed. Close may be called more than once, but only after
// Start.
func (p *Pipeline) Close(ctx context.Context) error {
	p.stopOnce.Do(func() { close(p.stop) })
	<-p.flusherDone
	select {
	case <-p.publishDone:
	case <-ctx.Done():
	}
	p.cancel()
	<-p.publishDone
	<-p.watchDone
	var st Stats
	p.queue.stats(&st)
	if st.RetainedBatches > 0 {
		return fmt.Errorf("cannot deliver the last telemetry: %d batches (%d bytes) not acknowledged: %w",
			st.RetainedBatches, st.RetainedBytes, p.queue.failure(ctx))
	}
	return nil
}

// flushLoop owns the sealer. It ends after Close with the final batch.
func (p *Pipeline) flushLoop() {
	defer close(p.flusherDone)
	p.seal(nil, false)
	// Jittered start: proxies that boot together do not publish together.
	timer := time.NewTimer(p.o.FlushEvery/10 + rand.N(p.o.FlushEvery))
	defer timer.Stop()
	for {
		select {
		case <-p.stop:
			p.finish()
			return
		case <-p.large:
			p.sealShards(false)
			continue
		case <-p.tap:
			p.tick()
		case <-p.recheck:
			p.tick()
		case <-timer.C:
			p.tick()
		}
		if p.tapped() {
			timer.Reset(p.o.TapEvery)
		} else {
			timer.Reset(p.o.FlushEvery)
		}
	}
}

// tick seals what is due. While publishing fails, events are left in their
// encoders until those are large: fewer, denser batches make the retention
// bound reach further.
func (p *Pipeline) tick() {
	if p.queue.full.Load() || !p.queue.flowing() {
		return
	}
	p.sealShards(true)
	due := time.Since(p.sealer.last) >= p.o.Heartbeat
	if due || p.shed.Load() != p.sealer.reported {
		p.seal(nil, false)
	}
}

// finish seals everything and the final batch, which is never shed.
func (p *Pipeline) finish() {
	for i := range p.shards {
		s := &p.shards[i]
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
	}
	p.sealShards(true)
	p.seal(nil, true)
	p.queue.close()
}

// sealShards seals the shards that are large, or with all those that hold
// anything.
func (p *Pipeline) sealShards(all bool) {
	for i := range p.shards {
		s := &p.shards[i]
		s.mu.Lock()
		if s.enc.Len() == 0 || !all && !s.signaled {
			s.mu.Unlock()
			continue
		}
		enc := s.enc
		s.enc, s.signaled = p.sealer.spare, false
		s.mu.Unlock()
		p.seal(enc, false)
		enc.Reset()
		p.sealer.spare = enc
	}
}

// seal numbers one batch and queues it. A nil enc is an empty batch.
func (p *Pipeline) seal(enc *event.Encoder, final bool) {
	if enc == nil {
		enc = p.sealer.spare
	}
	now := time.Now()
	s := &p.sealer
	s.sequence++
	s.carried += uint64(enc.Len())
	s.reported = p.shed.Load()
	s.last = now
	h := event.Header{
		Source:          p.o.Source,
		Instance:        p.instance,
		Sequence:        s.sequence,
		Sent:            now.UnixMicro(),
		Produced:        s.carried + s.reported,
		Shed:            s.reported,
		OpenConnections: p.o.OpenConnections(),
		Final:           final,
		Version:         p.o.Version,
	}
	s.scratch = enc.Encode(s.scratch[:0], &h)
	data := append([]byte(nil), s.scratch...)
	p.queue.push(s.sequence, data)
}

// tapped tells whether a notice still holds.
func (p *Pipeline) tapped() bool { return time.Now().UnixNano() < p.tapUntil.Load() }

// noticeTap is told by the sink that somebody watches.
func (p *Pipeline) noticeTap() {
	was := p.tapped()
	p.tapUntil.Store(time.Now().Add(p.o.TapFor).UnixNano())
	if !was {
		notify(p.tap)
	}
}
