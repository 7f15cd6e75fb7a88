package aggregator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/aggregator/store"
	"github.com/weirmesh/weir/event"
)

// Timing of a partition.
const (
	// fullEvery is how often a rollup holds all sources; it is published even
	// where nothing happens, lest the last rollup expires.
	fullEvery   = time.Minute
	sweepEvery  = time.Minute
	retryLeast  = 100 * time.Millisecond
	retryMost   = 5 * time.Second
	saveTimeout = 5 * time.Second
	// idleIsLive: who had to wait so long for the next batch has caught up.
	idleIsLive = time.Second
	// recentIsLive: a batch so young tells the same.
	recentIsLive = 10 * time.Second
)

// errFenced ends a term: another has written.
var errFenced = errors.New("another member has written to the partition")

// partition is one part of the stream, and what we know of it while we own it.
type partition struct {
	a      *Aggregator
	number int

	// full asks for a rollup at once; room tells that there is one.
	full, room chan struct{}
	// jobs are for coarsen; idle holds something while it has none.
	jobs chan job
	idle chan struct{}
	// tiers are those of the store.
	tiers []store.Tier
	// recalls are what was answered lately.
	recalls recalls

	mu sync.RWMutex
	// The following are guarded by mu.

	// ready: taken over; folder and store are complete then, else nil.
	ready   bool
	folder  *rollup.Folder
	store   *store.Store[rollup.Key]
	summary *summary
	// end is where the stream ended at the takeover; until folder has come there,
	// or it is answerBy, the partition does not answer.
	end      uint64
	answerBy time.Time
	// complete: history is loaded; adopting: a coarse group is being put into
	// the store. holed: finer tiers have lost what coarser ones have, so that there
	// are no answers before history is loaded.
	complete, adopting, holed bool
	// live: what comes now has just arrived.
	live     bool
	lastRead time.Time

	// The following belong to the goroutine of run.

	// lasts are the sequences of the newest rollup of each tier, saved the
	// position in that of the finest; wrote tells that this term wrote it.
	lasts []uint64
	saved event.Mark
	wrote bool
	// spent is what was published last, here or elsewhere, whose memory is for the
	// next rollup.
	spent *rollup.Delta
	// turn is that of the newest rollup of the finest tier, wasFull tells that it
	// held all sources, wantFull that the next is to.
	turn              uint64
	wasFull, wantFull bool
	// through is up to where each tier sums up the finer one, and folded when
	// that was (zero: never). They, due (when
	// the next group of each is) and the coarse tiers' lasts belong to whom
	// the token of idle belongs. turns and events are what each coarse tier's last
	// group says it has of the finest tier; ends, which takeOver alone uses, are where
	// each tier's last whole group ends.
	through     []uint64
	folded, due []time.Time
	// gathered is how many sums the newest group of each coarse tier has, for whose next
	// group room is made at once; whom the token of idle belongs to has them.
	gathered []int
	turns    []uint64
	events   []event.Mark
	ends     []uint64
	// begin ends the first group that takeOver has read; whole: it has read all
	// there are.
	begin               uint64
	whole               bool
	lastFull, lastSweep time.Time
}

func newPartition(a *Aggregator, number int) *partition {
	tiers := a.o.Tiers
	return &partition{
		a: a, number: number, full: make(chan struct{}, 1), room: make(chan struct{}, 1),
		tiers: tiers, lasts: make([]uint64, len(tiers)), through: make([]uint64, len(tiers)), folded: make([]time.Time, len(tiers)), due: make([]time.Time, len(tiers)),
		turns: make([]uint64, len(tiers)), events: make([]event.Mark, len(tiers)), ends: make([]uint64, len(tiers)), gathered: make([]int, len(tiers)),
	}
}

// run owns the partition until ctx ends. After a fence or a failure it begins
// again from the stream.
func (p *partition) run(ctx context.Context) {
	log := p.a.log.With("partition", p.number)
	delay := retryLeast
	for ctx.Err() == nil {
		began := time.Now()
		err := p.term(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errFenced):
			p.a.metrics.fenced.Inc()
			log.Warn("another member has written to the partition; reading it again")
		default:
			log.Warn("lost a partition; taking it over again", "error", err)
		}
		if time.Since(began) > 10*retryMost {
			delay = retryLeast
		}
		sleep(ctx, delay/2+rand.N(delay))
		delay = min(2*delay, retryMost)
	}
}

// term is one tenure: take over, then read and publish until something ends it.
func (p *partition) term(ctx context.Context) error {
	defer p.drop()
	read, err := p.takeOver(ctx)
	if err != nil {
		return err
	}
	p.jobs, p.idle = make(chan job, 1), make(chan struct{}, 1)
	p.idle <- struct{}{}
	working, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var group sync.WaitGroup
	// Whichever fails ends the others.
	work := func(fn func() error) {
		group.Go(func() {
			if err := fn(); err != nil {
				stop(err)
			}
		})
	}
	work(func() error {
		err := p.a.o.Source.ConsumeEvents(working, p.number, read, func(at event.Mark, subject string, data []byte) error {
			return p.take(working, at, subject, data)
		})
		return fmt.Errorf("cannot read events: %w", err)
	})
	work(func() error { return p.loadHistory(working) })
	work(func() error { return p.coarsen(working) })
	// What was counted is published also when ctx has ended.
	saving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })()
	err = p.publishing(working, saving)
	cause := context.Cause(working)
	stop(err)
	group.Wait()
	switch {
	case err != nil:
		return err
	case errors.Is(cause, errFenced):
		return cause
	}
	if err := p.publish(saving); err != nil || ctx.Err() != nil {
		return err
	}
	return cause
}

// untilPublish is how long after now the next rollup is due: partitions take turns
// throughout the wall clock's second, so that questions do not wait for them all at
// once. Without traffic it may be that none is written.
func (p *partition) untilPublish(now time.Time) time.Duration {
	every := p.a.o.RollupEvery
	phase := float64(p.number) / float64(p.a.o.Partitions)
	now = now.Round(0)
	next := now.Truncate(every).Add(time.Duration(phase * float64(every)))
	if !next.After(now) {
		next = next.Add(every)
	}
	return next.Sub(now)
}

// publishing publishes every second until ctx ends (nil), or something fails.
func (p *partition) publishing(ctx, saving context.Context) error {
	timer := time.NewTimer(p.untilPublish(time.Now()))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			timer.Reset(p.untilPublish(time.Now()))
			p.maintain()
		case <-p.full:
		}
		if err := p.publish(saving); err != nil {
			return err
		}
		p.order()
	}
}

// order has the next group of a coarse tier made, if it is due. All that is in
// the store has been published now. Only what this term wrote last is known to
// end a group.
func (p *partition) order() {
	p.mu.RLock()
	complete := p.complete
	p.mu.RUnlock()
	if !complete || !p.wrote {
		return
	}
	select {
	case <-p.idle:
	default:
		return
	}
	if j, due := p.nextJob(1, p.lasts[0]); due {
		p.jobs <- j
		return
	}
	p.idle <- struct{}{}
}

// drop forgets everything: memory is a cache.
func (p *partition) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready, p.folder, p.store, p.summary = false, nil, nil, nil
	p.recalls.drop()
}

// take counts one message of the stream.
func (p *partition) take(ctx context.Context, at event.Mark, subject string, data []byte) error {
	if err := p.waitRoom(ctx); err != nil {
		return err
	}
	w, err := p.a.o.Subjects.Parse(subject)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.folder.Skip(at)
		p.a.refused(subject, &rollup.Refusal{Reason: rollup.WrongSubject, Err: err})
		return nil
	}
	now := p.a.o.Now()
	p.lively(now)
	m := rollup.Message{
		Sequence: at.Sequence,
		Stored:   at.Stored,
		Data:     data,
		Now:      now.UnixMicro(),
		Matches:  func(said event.Workload) bool { return p.a.matches(w, said) },
		Visit: func(h *event.Header, sent int64) func(int, *event.Event) bool {
			return p.a.tap.Batch(h, time.UnixMicro(sent), now)
		},
	}
	if p.live {
		m.Arrived = m.Now
	}
	result, err := p.folder.Fold(m)
	p.lastRead = p.a.o.Now()
	if err != nil {
		p.a.refused(subject, err)
		return nil
	}
	if age := now.Sub(time.UnixMicro(result.Sent)); !result.Duplicate && age.Abs() < recentIsLive {
		p.live = true
	}
	p.a.metrics.folded(&result, now)
	return nil
}

// lively finds out whether the stream's end was reached.
func (p *partition) lively(now time.Time) {
	if p.lastRead.IsZero() {
		return
	}
	if now.Sub(p.lastRead) >= idleIsLive {
		p.live = true
	}
}

// waitRoom waits while too much is to be published, or is kept.
func (p *partition) waitRoom(ctx context.Context) error {
	if p.a.awaitRoom(ctx) {
		p.mu.Lock()
		// That was our own wait, not the stream's.
		p.lastRead = p.a.o.Now()
		p.mu.Unlock()
	}
	for {
		p.mu.RLock()
		full := p.folder.Full()
		p.mu.RUnlock()
		if !full {
			return nil
		}
		select {
		case p.full <- struct{}{}:
		default:
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.room:
		}
		p.mu.Lock()
		// That was our own wait, not the stream's.
		p.lastRead = p.a.o.Now()
		p.mu.Unlock()
	}
}

// maintain does what is to be done from time to time.
func (p *partition) maintain() {
	now := p.a.o.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if lost := p.folder.Tick(now.Unix()); lost > 0 {
		p.a.metrics.lost.Add(int(lost))
		p.a.log.Warn("batches are missing", "partition", p.number, "lost", lost)
	}
	if !p.adopting {
		if err := p.store.Compact(now.Unix()); err != nil {
			p.a.log.Error("a stored value was not valid", "partition", p.number, "error", err)
		}
	}
	if now.Sub(p.lastSweep) >= sweepEvery {
		p.lastSweep = now
		if n := p.folder.Sweep(now.Unix()); n > 0 {
			p.a.metrics.evicted.Add(n)
			p.a.log.Warn("too many sources; those not heard of for longest were forgotten", "partition", p.number, "forgotten", n)
		}
	}
	p.recalls.expire(now.Unix(), p.a.o.StoreBytes/recallShare/len(p.a.partitions))
	p.a.blame(p.number, p.folder.Offences(), now)
	p.summary.publish(p, now)
}

// publish writes what was counted since the last rollup, if anything was.
func (p *partition) publish(ctx context.Context) error {
	memory, _ := p.a.telling.Get().(*telling)
	if memory == nil {
		memory = &telling{}
	}
	p.spent, memory.spent = memory.spent, nil
	d := p.cut()
	if d == nil {
		p.spent, memory.spent = nil, p.spent
		p.a.telling.Put(memory)
		return nil
	}
	meta := rollup.Meta{Partition: p.number, Owner: p.a.owner, Group: p.lasts[0], Written: p.a.o.Now().UnixMicro(), Turn: p.turn + 1}
	for _, part := range memory.encoder.Encode(d, meta, p.a.o.MaxPart) {
		if err := p.save(ctx, 0, part); err != nil {
			return err
		}
		p.a.metrics.parts.Inc()
		p.a.metrics.partBytes.Add(len(part))
	}
	p.saved, p.wrote = event.Mark{Sequence: d.Position, Stored: d.Stored}, true
	p.turn, p.wasFull = p.turn+1, d.Full
	p.a.metrics.rollups.Inc()
	memory.spent = d
	p.a.telling.Put(memory)
	return nil
}

// telling is the memory of a rollup that was published, for the next one: as
// partitions take turns, one or two serve them all.
type telling struct {
	spent   *rollup.Delta
	encoder rollup.Encoder
}

// cut moves what was counted from the folder to the store, and returns it; or
// nil where there is nothing to publish.
func (p *partition) cut() *rollup.Delta {
	now := p.a.o.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	full := p.wantFull || now.Sub(p.lastFull) >= fullEvery
	if p.folder.Pending() == 0 && p.folder.Mark() == p.saved && (!full || p.lasts[0] == 0) {
		return nil
	}
	if full {
		p.lastFull, p.wantFull = now, false
	}
	if p.spent != nil {
		p.folder.Reuse(p.spent)
		p.spent = nil
	}
	d := p.folder.Take(full)
	p.keep(d)
	p.summary.add(d, now)
	select {
	case p.room <- struct{}{}:
	default:
	}
	return d
}

// keep puts a delta into the store. p.mu is held.
func (p *partition) keep(d *rollup.Delta) {
	now := p.a.o.Now().Unix()
	for i := range d.Items {
		it := &d.Items[i]
		if _, err := p.store.AddKnown(0, it.Second, &it.Key, it.Number, it.Sums, now); err != nil {
			p.a.log.Error("cannot keep a value", "partition", p.number, "error", err)
		}
	}
	p.a.grew(d.Items)
}

// save stores one part as the partition's next rollup of a tier. Where it can't be known
// whether that was done, it looks before it tries again.
func (p *partition) save(ctx context.Context, tier int, part []byte) error {
	delay := retryLeast
	for {
		sequence, err := p.tryPublish(ctx, tier, part)
		if err == nil {
			p.lasts[tier] = sequence
			return nil
		}
		if !errors.Is(err, p.a.o.ErrFenced) {
			p.a.log.Warn("cannot publish a rollup; looking whether it was stored", "partition", p.number, "error", err)
		}
		stored, err := p.look(ctx, tier, part)
		switch {
		case errors.Is(err, errFenced), ctx.Err() != nil:
			return errors.Join(err, ctx.Err())
		case stored:
			return nil
		}
		sleep(ctx, delay/2+rand.N(delay))
		delay = min(2*delay, retryMost)
	}
}

func (p *partition) tryPublish(ctx context.Context, tier int, part []byte) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	return p.a.o.Rollups.PublishRollup(ctx, p.number, tier, part, p.lasts[tier])
}

// look tells whether the newest rollup is part (true), or still the one before
// it (false); else the error is errFenced. Other errors leave it open.
func (p *partition) look(ctx context.Context, tier int, part []byte) (stored bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	data, sequence, err := p.a.o.Rollups.LastRollup(ctx, p.number, tier)
	switch {
	case err != nil:
		p.a.log.Debug("cannot look up the last rollup", "partition", p.number, "error", err)
		return false, err
	case sequence == p.lasts[tier]:
		return false, nil
	case sequence > p.lasts[tier] && bytes.Equal(data, part):
		p.lasts[tier] = sequence
		return true, nil
	default:
		return false, errFenced
	}
}
