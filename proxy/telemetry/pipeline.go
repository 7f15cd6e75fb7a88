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
// hold. It is reached only when the flusher gets no processor for that long;
// recorders then seal it themselves. Of MaxExchanges and MaxConnections, which are
// there to save memory, it is half as many again.
const hardFactor = 4

// maxReserved is for how many exchanges a buffer holds memory from its beginning,
// at the most.
const maxReserved = 1024

// Pipeline records events and publishes them. It implements relay.Recorder.
// All methods are safe for concurrent use.
type Pipeline struct {
	o Options
	// bySecond: a batch has events of one second, if it can be.
	bySecond bool
	// hardEvents and hardBytes are where a shard takes no more.
	hardEvents, hardBytes int

	shards []shard
	shed   atomic.Uint64 // events that were coalesced
	late   atomic.Uint64 // events that came after the end

	tapUntil atomic.Int64  // UnixNano until which TapEvery applies
	large    chan struct{} // a shard reached one of the bounds of a batch
	tap      chan struct{} // a tap began
	recheck  chan struct{} // the queue ran empty, or publishing works again

	sealer sealer
	spares spares
	queue  queue

	stop        chan struct{} // closed by Close: flush and end
	stopOnce    sync.Once
	cancel      context.CancelFunc // ends publisher and tap watcher
	flusherDone chan struct{}
	publishDone chan struct{}
	watchDone   chan struct{}
}

// buffer is what events are recorded into: an encoder, and its journal where
// there is a spool.
type buffer struct {
	enc     *event.Encoder
	journal *journal
}

// shard is one buffer and its lock. Recorders prefer the first shard whose
// lock is free: low traffic makes one batch, high traffic spreads.
type shard struct {
	mu       sync.Mutex
	buffer   // current; swapped by whoever seals, under mu
	events   [3]uint64
	requests [3]uint64
	seconds       // whose events current holds, and those of the second before
	signaled bool // the flusher was told that the buffer is large
	closed   bool
	_        [64]byte // shards on cache lines of their own
}

// New makes a Pipeline that records, but publishes nothing before Start. Where
// Options.Spool names a directory, it takes over what an earlier process left
// there; the error names the file or directory.
func New(o Options) (*Pipeline, error) {
	o = o.withDefaults(runtime.GOMAXPROCS(0))
	p := &Pipeline{
		o:           o,
		bySecond:    o.FlushEvery >= time.Second,
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
	s := &p.sealer
	for s.instance == 0 {
		s.instance = rand.Uint64()
	}
	p.spares.most = o.Shards
	p.queue.wake = make(chan struct{}, 1)
	p.queue.bound = o.RetainBytes
	p.queue.connected = true
	if o.Spool != "" {
		left, err := p.openSpool()
		if err != nil {
			return nil, err
		}
		for _, b := range left {
			p.queue.push(b)
		}
	}
	for i := range p.shards {
		p.shards[i].buffer = p.newBuffer(i)
	}
	s.spare = p.newBuffer(len(p.shards))
	return p, nil
}

// newBuffer makes the one that has a journal's number. All are encoded under the
// sealer's lock.
func (p *Pipeline) newBuffer(journal int) buffer {
	enc := new(event.Encoder)
	enc.Use(&p.sealer.work)
	// Distinct paths shall not take more memory than one.
	enc.Reserve(min(p.o.MaxExchanges+p.o.MaxExchanges/8, maxReserved))
	return buffer{enc, p.sealer.spool.journal(journal)}
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

// Discard lets go what New took, of a Pipeline that is not to be started.
func (p *Pipeline) Discard() { p.sealer.spool.close() }

// Instance is the random number under which this process publishes.
func (p *Pipeline) Instance() uint64 { return p.sealer.instance }

// Record takes one event. It allocates nothing in the steady state, and waits
// for no more than another recorder's few hundred nanoseconds, or, where
// recording outruns the flusher by far, for sealing one batch.
func (p *Pipeline) Record(e *event.Event) {
	for {
		for i := range p.shards {
			s := &p.shards[i]
			if s.mu.TryLock() && p.add(s, e) {
				return
			}
		}
		s := &p.shards[e.Connection%uint64(len(p.shards))]
		s.mu.Lock()
		if p.add(s, e) {
			return
		}
		p.sealer.mu.Lock()
		p.sealShards(false)
		p.sealer.mu.Unlock()
	}
}

// add encodes e into s, whose lock is held, and unlocks it. It reports false
// where s takes no more.
func (p *Pipeline) add(s *shard, e *event.Event) bool {
	if s.closed {
		s.count(e)
		s.mu.Unlock()
		p.late.Add(1)
		return true
	}
	if p.bySecond {
		p.turn(s, e.Start+int64(e.Duration))
	}
	n, size := s.enc.Len(), s.enc.Size()
	if n >= p.hardEvents || size >= p.hardBytes || p.distinct(s.enc, 3, 2) || s.journal.full() {
		s.signaled = true
		s.mu.Unlock()
		return false
	}
	exchange, connection := s.enc.Add(e)
	crowded := p.distinct(s.enc, 1, 1)
	s.crowded = s.crowded || crowded
	large := n+1 >= p.o.MaxEvents || size >= p.o.MaxBytes || crowded
	if s.journal != nil {
		large = s.journal.add(e, exchange, connection) || large
	}
	s.count(e)
	tell := large && !s.signaled
	s.signaled = s.signaled || large
	s.mu.Unlock()
	if tell {
		notify(p.large)
	}
	return true
}

// distinct tells whether what a batch names has reached a multiple of a bound.
func (p *Pipeline) distinct(enc *event.Encoder, times, by int) bool {
	return by*enc.Exchanges() >= times*p.o.MaxExchanges || by*enc.Connections() >= times*p.o.MaxConnections
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
	st := Stats{Shed: p.shed.Load(), Late: p.late.Load(), Tapped: p.tapped(), SpoolErrors: p.sealer.spool.errors()}
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
// acknowledged or ctx ends; its error then says what was not delivered: what a
// spool keeps, the next process delivers. Events recorded later are counted as
// late, and published no more. Close may be called more than once, but only after
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
	p.sealer.spool.close()
	var st Stats
	p.queue.stats(&st)
	if st.RetainedBatches > 0 {
		return fmt.Errorf("cannot deliver the last telemetry: %d batches (%d bytes) not acknowledged: %w",
			st.RetainedBatches, st.RetainedBytes, p.queue.failure(ctx))
	}
	return nil
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
