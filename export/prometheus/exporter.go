// Package prometheus serves the mesh's statistics to Prometheus, under the names
// that Linkerd's proxies use, as counters that survive the pod, the aggregator
// and the exporter itself.
//
// An [Exporter] reads the stream of events, counts each event once, and every
// few seconds stores on the bus what it has counted together with how far it has
// come: one message a partition, in place of the one before, so that state and
// position commit together. It begins again from there after any end. Several
// may run: a lease says which of them counts, and each store is fenced, so that
// one that wrongly believes to hold the lease changes nothing.
//
// It counts only while somebody scrapes, and some time longer.
//
// A [Handler] shows what is stored and nothing else. So a counter never goes
// back, whichever exporter is asked, and however the ones before it ended.
package prometheus

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/export"
)

// Store keeps state on the bus. bus/client.Client is one.
type Store interface {
	// StoreExport keeps a part in place of the one at sequence expectLast, or
	// fails with an error that wraps bus.ErrFenced.
	StoreExport(ctx context.Context, exporter, part string, data []byte, expectLast uint64) (sequence uint64, err error)
	// LoadExport returns what was kept last; nil and 0 where there is nothing.
	LoadExport(ctx context.Context, exporter, part string) (data []byte, sequence uint64, err error)
}

// Stream is the stream of events. bus/client.Client is one.
type Stream interface {
	export.Stream
	// LastBatch returns the stream's sequence of a partition's newest batch, or 0
	// where there is none.
	LastBatch(ctx context.Context, partition int) (sequence uint64, err error)
}

// Options of an exporter. Stream and Store must be set.
type Options struct {
	Stream Stream
	Store  Store
	// Name is that of the state on the bus; default "prometheus".
	Name string
	// Every is how often what was counted is stored; default 5 s.
	Every time.Duration
	// Series bounds how many sets of labels are counted apart; default 50,000.
	// The rest is summed up in rows whose pod or namespace is "(other)".
	Series int
	// Expire is how long after the last sign of life of a pod its series go;
	// default 1 h.
	Expire time.Duration
	// Idle is how long after the last scrape counting goes on. It is resumed by the
	// next scrape, with what the stream still has; 0: it never pauses.
	Idle time.Duration
	// Lease is how long an exporter may be silent before another takes over;
	// default 4 s.
	Lease time.Duration
	// Logger; default slog.Default().
	Logger *slog.Logger
}

func (o *Options) setDefaults() {
	o.Name = cmp.Or(o.Name, "prometheus")
	o.Every = cmp.Or(o.Every, 5*time.Second)
	o.Series = cmp.Or(o.Series, 50_000)
	o.Expire = cmp.Or(o.Expire, time.Hour)
	o.Lease = cmp.Or(o.Lease, 4*time.Second)
	o.Logger = cmp.Or(o.Logger, slog.Default())
}

// Exporter counts.
type Exporter struct {
	o      Options
	id     string
	log    *slog.Logger
	budget *budget

	mu sync.Mutex
	// until, guarded by mu, is up to where whoever has woken us waits, by
	// partition.
	until [bus.Partitions]uint64
}

// New returns an exporter that does nothing until Run.
func New(o Options) (*Exporter, error) {
	if o.Stream == nil || o.Store == nil {
		return nil, errors.New("cannot start the Prometheus exporter without a stream and a store")
	}
	if o.Series < 0 || o.Every < 0 || o.Expire < 0 || o.Idle < 0 || o.Lease < 0 {
		return nil, errors.New("cannot start the Prometheus exporter: a bound is negative")
	}
	o.setDefaults()
	id := rand.Text()[:12]
	return &Exporter{o: o, id: id, log: o.Logger.With("exporter", o.Name, "id", id), budget: &budget{limit: int64(o.Series)}}, nil
}

const (
	retryEvery  = time.Second
	sweepEvery  = time.Minute
	saveTimeout = 5 * time.Second
	// firstStore is how soon what was counted is first stored.
	firstStore = 500 * time.Millisecond
	// grace is how long the last store may take when the exporter ends.
	grace = 3 * time.Second
)

// Run counts while somebody scrapes and it holds the lease, and waits for both
// otherwise, until ctx ends; it then stores what it counted last and returns nil. It sits out absences
// of the bus. It must not be called twice.
func (e *Exporter) Run(ctx context.Context) error {
	l := lease{e: e}
	for ctx.Err() == nil {
		if !e.wanted(ctx, false) || !l.acquire(ctx) {
			sleep(ctx, e.o.Lease/3)
			continue
		}
		e.log.Info("counting events for Prometheus")
		err := e.term(ctx, &l)
		l.release()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errIdle) {
			e.log.Info("counting events for Prometheus pauses until somebody scrapes")
			continue
		}
		e.log.Warn("stopped counting events for Prometheus; another exporter may", "error", err)
		sleep(ctx, retryEvery)
	}
	return nil
}

// term counts as long as the lease is held.
func (e *Exporter) term(ctx context.Context, l *lease) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for n := range bus.Partitions {
		wg.Go(func() {
			p := &partition{e: e, number: n}
			if err := p.run(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("partition %d: %w", n, err))
			}
		})
	}
	for ctx.Err() == nil {
		sleep(ctx, e.o.Lease/3)
		if err := l.renew(ctx); errors.Is(err, bus.ErrFenced) {
			cancel(err)
		}
		if !e.wanted(ctx, true) {
			cancel(errIdle)
		}
	}
	wg.Wait()
	return context.Cause(ctx)
}

// lease says which of several exporters counts. It spares them from working
// twice; that nothing is counted twice is not up to it.
type lease struct {
	e        *Exporter
	sequence uint64
	// seen is when sequence was new.
	seen time.Time
}

// leasePart is where the holder's id is kept; empty: it was given up.
const leasePart = "lease"

// acquire takes the lease if nobody has it, or its holder is silent.
func (l *lease) acquire(ctx context.Context) bool {
	holder, sequence, err := l.e.o.Store.LoadExport(ctx, l.e.o.Name, leasePart)
	if err != nil {
		l.e.log.Debug("cannot read who counts events for Prometheus; trying again", "error", err)
		return false
	}
	if sequence != l.sequence || l.seen.IsZero() {
		l.sequence, l.seen = sequence, time.Now()
	}
	if len(holder) > 0 && time.Since(l.seen) < l.e.o.Lease {
		return false
	}
	return l.renew(ctx) == nil
}

func (l *lease) renew(ctx context.Context) error { return l.write(ctx, []byte(l.e.id)) }

func (l *lease) write(ctx context.Context, holder []byte) error {
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	sequence, err := l.e.o.Store.StoreExport(ctx, l.e.o.Name, leasePart, holder, l.sequence)
	if err == nil {
		l.sequence, l.seen = sequence, time.Now()
	}
	return err
}

// release lets another take the lease at once.
func (l *lease) release() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := l.write(ctx, nil); err != nil {
		l.e.log.Debug("cannot give up the lease; it ends by itself", "error", err)
	}
}

// partition is one part of the stream while it is counted.
type partition struct {
	e      *Exporter
	number int

	// stored is the sequence of the state that is on the bus, position its.
	stored, position uint64
	// swept asks for a store although there was no batch.
	swept bool

	mu sync.Mutex
	// intake, table and base are guarded by mu; base is what was counted before
	// this term.
	intake *export.Intake
	table  *table
	base   totals
}

func (p *partition) part() string { return strconv.Itoa(p.number) }

// run counts the partition until ctx ends, or another exporter has written.
func (p *partition) run(ctx context.Context) error {
	if err := p.load(ctx); err != nil {
		return err
	}
	defer p.table.close()
	reading, stop := context.WithCancel(ctx)
	defer stop()
	ended, read := make(chan error, 1), p.intake.Read()
	go func() {
		ended <- p.e.o.Stream.ConsumeEvents(reading, p.number, read, p.take)
	}()
	err := p.saving(ctx, ended)
	stop()
	if streamErr := <-ended; streamErr != nil && ctx.Err() == nil {
		p.e.log.Debug("the reading of a partition ended", "partition", p.number, "error", streamErr)
	}
	if err == nil {
		// What was counted is kept also when ctx has ended.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		if err := p.save(last); err != nil {
			p.e.log.Debug("cannot keep what was counted last; it will be counted again", "partition", p.number, "error", err)
		}
	}
	return err
}

// load begins from what is stored, and waits for the bus where it is away.
func (p *partition) load(ctx context.Context) error {
	var data []byte
	for {
		var err error
		data, p.stored, err = p.e.o.Store.LoadExport(ctx, p.e.o.Name, p.part())
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.e.log.Debug("cannot read what was counted; trying again", "partition", p.number, "error", err)
		sleep(ctx, retryEvery)
	}
	p.intake = export.NewIntake(p.number, 0, time.Time{})
	s := &state{}
	if data != nil {
		var err error
		if s, err = decodeState(data); err == nil {
			p.intake, err = export.RestoreIntake(p.number, s.marks)
		}
		if err != nil {
			return fmt.Errorf("cannot go on from the state on %s (remove it there to begin anew): %w", bus.ExportSubject(p.e.o.Name, p.part()), err)
		}
	}
	p.table = newTable(p.e.budget)
	for _, r := range s.rows {
		p.table.put(r)
	}
	if s.open != nil {
		p.table.open = s.open
	}
	p.intake.Forgotten = p.table.forget
	p.base, p.position = s.totals, p.intake.Position()
	return nil
}

// take counts one message of the stream.
func (p *partition) take(at event.Mark, subject string, data []byte) error {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	d, err := p.intake.Take(at, subject, data, now)
	if err != nil {
		p.e.log.Debug("a message is not counted", "subject", subject, "sequence", at.Sequence, "error", err)
	}
	if d != nil {
		p.table.fold(d, now.Unix())
	}
	return nil
}

// saving stores what was counted again and again.
func (p *partition) saving(ctx context.Context, ended <-chan error) error {
	swept := time.Now()
	// Whoever has woken us waits for the first.
	for every := min(p.e.o.Every, firstStore); ; every = min(2*every, p.e.o.Every) {
		p.pause(ctx, every)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(swept) >= min(sweepEvery, p.e.o.Expire) {
			swept = time.Now()
			p.sweep(swept)
			p.swept = true
		}
		if len(ended) > 0 {
			return errors.New("the stream of events cannot be read")
		}
		err := p.save(ctx)
		if errors.Is(err, bus.ErrFenced) {
			return err
		}
		if err != nil && ctx.Err() == nil {
			p.e.log.Debug("cannot keep what was counted; trying again", "partition", p.number, "error", err)
		}
	}
}

// pause waits until it is time to store again: at once, where a scrape waits for
// just what has been counted.
func (p *partition) pause(ctx context.Context, every time.Duration) {
	for left := every; left > 0 && ctx.Err() == nil; left -= firstStore {
		sleep(ctx, min(left, firstStore))
		p.e.mu.Lock()
		until := p.e.until[p.number]
		p.e.mu.Unlock()
		p.mu.Lock()
		counted := p.intake.Position()
		p.mu.Unlock()
		if p.position < until && until <= counted {
			return
		}
	}
}

// save stores what was counted, if there is anything new.
func (p *partition) save(ctx context.Context) error {
	p.mu.Lock()
	position := p.intake.Position()
	if position == p.position && p.stored != 0 && !p.swept {
		p.mu.Unlock()
		return nil
	}
	data := p.snapshot().encode()
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	sequence, err := p.e.o.Store.StoreExport(ctx, p.e.o.Name, p.part(), data, p.stored)
	if err != nil {
		return err
	}
	p.stored, p.position, p.swept = sequence, position, false
	return nil
}

// snapshot is what is to be stored; valid under p.mu.
func (p *partition) snapshot() *state {
	s := &state{
		owner:    p.e.id,
		written:  time.Now().UnixMicro(),
		position: p.intake.Position(),
		marks:    p.intake.Marks(),
		rows:     make([]*row, 0, len(p.table.rows)),
		open:     p.table.open,
		totals:   p.base,
	}
	for _, r := range p.table.rows {
		s.rows = append(s.rows, r)
	}
	c := &p.intake.Counts
	s.totals.events += p.table.events
	s.totals.batches += c.Batches
	s.totals.duplicates += c.Duplicates
	s.totals.refused += c.Refused
	s.totals.lost += uint64(c.Lost)
	s.totals.shed += c.Shed
	return s
}

// sweep forgets the series of pods that are gone.
func (p *partition) sweep(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.intake.Sweep(now)
	horizon := now.Add(-p.e.o.Expire).Unix()
	p.table.sweep(livePods(p.intake, horizon), horizon, now.Unix())
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
