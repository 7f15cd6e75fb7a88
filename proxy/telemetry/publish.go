package telemetry

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/event"
)

// Bounds of one publication.
const (
	publishTimeout = 5 * time.Second
	minBackoff     = 100 * time.Millisecond
	maxBackoff     = 5 * time.Second
	// batchOverhead is what a queued batch costs beside its bytes.
	batchOverhead = 64
	// keepSpare bounds the memory of a batch that is used again; a small batch
	// does not hold what is larger than leastSpare.
	keepSpare, leastSpare = 128 << 10, 4 << 10
)

// errPublishing is reported where Close gave up before any attempt failed.
var errPublishing = errors.New("still publishing")

// queue holds sealed batches until they are acknowledged, oldest first.
type queue struct {
	wake  chan struct{} // something was pushed, or the queue was closed
	bound int           // of bytes
	// full says that bytes reached bound. It is written under mu, so that it
	// cannot stay behind, and read without.
	full atomic.Bool

	mu        sync.Mutex // guards all below
	batches   []batch    // batches[head:] are held
	spare     []byte     // of a batch that is acknowledged, to be used again
	head      int
	bytes     int
	sealed    uint64
	published uint64
	errors    uint64
	lastErr   error
	connected bool
	closed    bool
}

// batch is one that was sealed.
type batch struct {
	instance, sequence uint64
	source             event.Workload
	data               []byte // nil where only the spool has it
	size               int    // of data
	path               string // of its file in the spool; "" where there is none
}

// push appends a batch.
func (q *queue) push(b batch) {
	q.mu.Lock()
	q.batches = append(q.batches, b)
	q.bytes += b.size + batchOverhead
	q.full.Store(q.bytes >= q.bound)
	q.sealed++
	q.mu.Unlock()
	notify(q.wake)
}

// room is memory for the data of a batch of so many bytes.
func (q *queue) room(size int) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	if cap(q.spare) < size || cap(q.spare) > 4*size+leastSpare {
		return make([]byte, 0, size)
	}
	b := q.spare
	q.spare = nil
	return b[:0]
}

// oldest returns the oldest batch; done tells that none will come any more.
func (q *queue) oldest() (b batch, ok, done bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.head == len(q.batches) {
		return batch{}, false, q.closed
	}
	return q.batches[q.head], true, false
}

// acknowledge drops the oldest batch. It tells whether publishing had failed
// before, and whether the bound had been reached and is no more.
func (q *queue) acknowledge() (recovered, room bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes -= q.batches[q.head].size + batchOverhead
	if b := q.batches[q.head].data; cap(b) > cap(q.spare) && cap(b) <= keepSpare {
		q.spare = b
	}
	q.batches[q.head] = batch{}
	q.head++
	if q.head > len(q.batches)/2 {
		n := copy(q.batches, q.batches[q.head:])
		clear(q.batches[n:])
		q.batches, q.head = q.batches[:n], 0
	}
	full := q.bytes >= q.bound
	room = q.full.Swap(full) && !full
	q.published++
	recovered = !q.connected
	q.connected = true
	return recovered, room
}

// fail notes a failed attempt and tells whether it is the first of a row.
func (q *queue) fail(err error) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	first := q.connected
	q.connected = false
	q.errors++
	q.lastErr = err
	return first
}

// flowing tells whether the last attempt to publish succeeded.
func (q *queue) flowing() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.connected
}

// close says that no batch will follow.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	notify(q.wake)
}

// failure returns why batches are still held.
func (q *queue) failure(ctx context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case !q.connected:
		return q.lastErr
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return errPublishing
}

func (q *queue) stats(st *Stats) {
	q.mu.Lock()
	defer q.mu.Unlock()
	st.Sealed, st.Published = q.sealed, q.published
	st.RetainedBytes, st.RetainedBatches = q.bytes, len(q.batches)-q.head
	st.PublishErrors = q.errors
	st.Connected = q.connected
}

// publishLoop publishes batches in order until the queue is closed and empty,
// or ctx ends.
func (p *Pipeline) publishLoop(ctx context.Context) {
	defer close(p.publishDone)
	backoff := minBackoff
	for {
		b, ok, done := p.queue.oldest()
		if done {
			return
		}
		if !ok {
			select {
			case <-p.queue.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		if b.data == nil {
			// Left by an earlier process. Where it cannot be read, its number is
			// missing at the aggregator, which reports it.
			if b.data = p.sealer.spool.load(b.path); b.data == nil {
				p.acknowledge(b)
				continue
			}
		}
		err := p.publish(ctx, b)
		if ctx.Err() != nil && err != nil {
			return
		}
		if err != nil {
			if !p.pause(ctx, err, &backoff) {
				return
			}
			continue
		}
		backoff = minBackoff
		p.acknowledge(b)
	}
}

// publish makes one attempt.
func (p *Pipeline) publish(ctx context.Context, b batch) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	return p.o.Sink.Publish(ctx, b.source, b.instance, b.sequence, b.data)
}

// acknowledge drops the batch just published and lets recording go on where
// the bound had stopped it.
func (p *Pipeline) acknowledge(b batch) {
	p.sealer.spool.forget(b.path)
	recovered, room := p.queue.acknowledge()
	if recovered {
		p.o.Logger.Info("telemetry is published again", "shed", p.shed.Load())
	}
	if recovered || room {
		notify(p.recheck)
	}
}

// pause waits after a failed attempt: exponentially longer, with jitter, and
// no longer than the minimum once Close was called. False: ctx ended.
func (p *Pipeline) pause(ctx context.Context, err error, backoff *time.Duration) bool {
	if p.queue.fail(err) {
		p.o.Logger.Warn("cannot publish telemetry; it is retained and tried again, traffic flows on", "error", err)
	}
	wait := *backoff/2 + rand.N(*backoff)
	*backoff = min(2**backoff, maxBackoff)
	stop := p.stop
	select {
	case <-p.stop:
		stop, wait, *backoff = nil, minBackoff, minBackoff
	default:
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-stop:
	case <-timer.C:
	}
	return true
}

// watchLoop keeps the sink's tap notices coming until ctx ends.
func (p *Pipeline) watchLoop(ctx context.Context) {
	defer close(p.watchDone)
	backoff := minBackoff
	for ctx.Err() == nil {
		err := p.o.Sink.WatchTap(ctx, p.o.Source.Workload, p.noticeTap)
		if err == nil {
			// The sink goes on in the background, or ctx has ended.
			<-ctx.Done()
			return
		}
		p.o.Logger.Debug("cannot watch for taps", "error", err)
		timer := time.NewTimer(backoff/2 + rand.N(backoff))
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		backoff = min(2*backoff, maxBackoff)
	}
}
