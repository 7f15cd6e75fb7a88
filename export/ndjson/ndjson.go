// Package ndjson writes every event out as one JSON object on one line, in the
// schema of the tap subjects, to rotated files or to a stream.
//
// To files it writes each event exactly once. A cursor names the file and its
// length, the positions in the stream and what is known of each source; it is
// put in place, by a rename, only after the file was synced to the disk. Whoever
// begins again cuts the file to that length and reads on from those positions:
// what was written after the last cursor is written anew.
//
// What has gone down a pipe cannot be taken back: there, what was written since
// the last cursor comes again after a kill. instance, sequence and index of a line
// are unique, so that a reader can tell.
package ndjson

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/weirmesh/weir/aggregator/match"
	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/export"
)

// Stream is the stream of events. bus/client.Client is one.
type Stream interface {
	export.Stream
	// PositionAt is the sequence after which the batches come that were stored
	// at since or later.
	PositionAt(ctx context.Context, since time.Time) (after uint64, err error)
}

// Options of an export. Stream and one of Dir and Out must be set.
type Options struct {
	Stream Stream
	// Dir is the folder for files; made if missing.
	Dir string
	// Out takes the lines where there is no Dir.
	Out io.Writer
	// Cursor is the file that says how far the export has come. Default: cursor.json
	// in Dir; without Dir and Cursor, nothing does.
	Cursor string
	// MaxFileBytes is when the next file is begun; 0: never. Lines are not split.
	MaxFileBytes int64
	// MaxFiles is how many files are kept, the newest; 0: all.
	MaxFiles int
	// Since is where to begin where there is no cursor yet; zero: with the oldest
	// event that the stream has.
	Since time.Time
	// Once ends the export when it has all that the stream had when it began.
	Once bool
	// Match says which events are written; nil: all.
	Match *match.Matcher
	// Every is how often a cursor is put in place; default 1 s.
	Every time.Duration
	// Progress, where not nil, is told now and then how it goes.
	Progress func(Progress)
	// Logger; default slog.Default().
	Logger *slog.Logger
}

// Progress says how an export goes.
type Progress struct {
	// Written are the lines of this export, since its first run.
	Written uint64
	// Lag is the age of the oldest batch in the stream that is not written; 0:
	// there is none. Negative: it is not known, for the bus is away.
	Lag time.Duration
	// Counts are of this run.
	Counts export.Counts
}

const (
	progressEvery = 5 * time.Second
	sweepEvery    = time.Minute
	bufferBytes   = 256 << 10
	// once is looked up so often.
	onceEvery   = 200 * time.Millisecond
	lookTimeout = 5 * time.Second
)

// Run exports until ctx ends, or, with Once, all is written; it then puts the
// last cursor in place and returns nil. It sits out absences of the bus. Any
// other error, such as a full disk, ends it; a later run goes on from the last
// cursor.
func Run(ctx context.Context, o Options) (err error) {
	if o.Stream == nil || (o.Dir == "") == (o.Out == nil) {
		return errors.New("cannot export without a stream and either a folder or a writer")
	}
	o.Every = cmp.Or(o.Every, time.Second)
	o.Logger = cmp.Or(o.Logger, slog.Default())
	x := &exporter{o: o, began: time.Now(), failed: make(chan error, bus.Partitions)}
	if err := x.open(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.close()) }()
	return x.run(ctx)
}

// exporter is an export under way.
type exporter struct {
	o      Options
	began  time.Time
	keeper *keeper
	failed chan error

	mu sync.Mutex
	// The following are guarded by mu.

	sink   sink
	buffer *bufio.Writer
	// cursor is what will be put in place next; its partitions are brought up to
	// date then.
	cursor  *cursor
	intakes [bus.Partitions]*export.Intake
	dirty   [bus.Partitions]bool
	line    []byte
	broken  error
}

// open reads the cursor, or makes the first one, and makes the sink agree with
// it.
func (x *exporter) open(ctx context.Context) error {
	var err error
	if x.keeper, err = newKeeper(&x.o); err != nil {
		return err
	}
	if x.cursor, err = x.keeper.load(); err == nil && x.cursor == nil {
		err = x.first(ctx)
	}
	if err == nil {
		for n := range x.intakes {
			if x.intakes[n], err = x.cursor.intake(n); err != nil {
				err = fmt.Errorf("cannot go on from %s: %w", x.keeper.path, err)
				break
			}
		}
	}
	if err == nil {
		if x.o.Dir != "" {
			x.sink, err = openFiles(&x.o, x.cursor)
		} else {
			x.sink = stream{x.o.Out}
		}
	}
	if err != nil {
		return errors.Join(err, x.keeper.close())
	}
	x.buffer = bufio.NewWriterSize(x.sink, bufferBytes)
	return nil
}

// first makes the cursor of an export that was never run.
func (x *exporter) first(ctx context.Context) error {
	if x.o.Dir != "" {
		if err := checkEmpty(x.o.Dir, x.keeper.path); err != nil {
			return err
		}
	}
	var after uint64
	for !x.o.Since.IsZero() {
		var err error
		if after, err = x.o.Stream.PositionAt(ctx, x.o.Since); err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		x.o.Logger.Debug("cannot look up where to begin; trying again", "error", err)
		sleep(ctx, x.o.Every)
	}
	x.cursor = newCursor(after, x.o.Since)
	return x.keeper.save(x.cursor)
}

func (x *exporter) close() error { return errors.Join(x.sink.close(), x.keeper.close()) }

func (x *exporter) run(ctx context.Context) error {
	reading, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for n, in := range x.intakes {
		read := in.Read()
		wg.Go(func() {
			err := x.o.Stream.ConsumeEvents(reading, n, read, func(at event.Mark, subject string, data []byte) error {
				return x.take(n, at, subject, data)
			})
			if err != nil && reading.Err() == nil {
				x.failed <- err
			}
		})
	}
	err := x.committing(ctx)
	stop()
	wg.Wait()
	if err == nil {
		err = x.commit()
	}
	x.tell(context.WithoutCancel(ctx))
	return err
}

// take writes the events of one message.
func (x *exporter) take(n int, at event.Mark, subject string, data []byte) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.broken != nil {
		return x.broken
	}
	in := x.intakes[n]
	x.dirty[n] = true
	d, err := in.Take(at, subject, data, time.Now())
	if err != nil {
		x.o.Logger.Debug("a message is not exported", "subject", subject, "sequence", at.Sequence, "error", err)
	}
	if d == nil {
		return nil
	}
	h := d.Header()
	var e event.Event
	for i := 0; d.Next(&e); i++ {
		if x.o.Match != nil && !x.o.Match.Match(h, &e) {
			continue
		}
		x.line = append(event.AppendJSON(x.line[:0], h, i, &e), '\n')
		if err := x.write(x.line); err != nil {
			// Half of the batch is written: nothing may be committed any more.
			x.broken = err
			return err
		}
		x.cursor.Lines++
	}
	return nil
}

// write puts one line into the buffer, and begins the next file before it where
// it is time to.
func (x *exporter) write(line []byte) error {
	if f, ok := x.sink.(*files); ok && f.full(int64(x.buffer.Buffered()), int64(len(line))) {
		if err := x.buffer.Flush(); err != nil {
			return err
		}
		if err := f.next(); err != nil {
			return err
		}
	}
	_, err := x.buffer.Write(line)
	return err
}

// committing puts cursors in place until ctx ends, or all that is asked for is
// done.
func (x *exporter) committing(ctx context.Context) error {
	commit, look := time.NewTicker(x.o.Every), time.NewTicker(onceEvery)
	defer commit.Stop()
	defer look.Stop()
	told, swept := time.Now(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-x.failed:
			return err
		case <-look.C:
			if x.o.Once && x.reached(ctx) {
				return nil
			}
			continue
		case <-commit.C:
		}
		if err := x.commit(); err != nil {
			return err
		}
		if time.Since(swept) >= sweepEvery {
			x.sweep()
			swept = time.Now()
		}
		if time.Since(told) >= progressEvery {
			x.tell(ctx)
			told = time.Now()
		}
	}
}

// commit makes what was written stay, and then says so in the cursor.
func (x *exporter) commit() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.broken != nil {
		return x.broken
	}
	changed := false
	for n, dirty := range x.dirty {
		if !dirty {
			continue
		}
		changed = true
		if x.keeper.path != "" {
			x.cursor.note(x.intakes[n])
		}
	}
	if !changed {
		return nil
	}
	err := x.buffer.Flush()
	if err == nil {
		err = x.sink.sync(x.cursor)
	}
	if err == nil {
		err = x.keeper.save(x.cursor)
	}
	if err == nil {
		err = x.sink.committed(x.cursor)
	}
	if err != nil {
		x.broken = err
		return err
	}
	x.dirty = [bus.Partitions]bool{}
	return nil
}

func (x *exporter) sweep() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for n, in := range x.intakes {
		in.Sweep(time.Now())
		x.dirty[n] = true
	}
}

// waiting is since when the oldest batch waits that is not written; zero where
// there is none.
func (x *exporter) waiting(ctx context.Context) (oldest time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	for n, in := range x.intakes {
		x.mu.Lock()
		after := in.Position()
		x.mu.Unlock()
		at, err := x.o.Stream.NextStored(ctx, n, after)
		if err != nil {
			return time.Time{}, err
		}
		if oldest.IsZero() || !at.IsZero() && at.Before(oldest) {
			oldest = at
		}
	}
	return oldest, nil
}

// reached tells whether all is written that there was when the export began.
func (x *exporter) reached(ctx context.Context) bool {
	oldest, err := x.waiting(ctx)
	return err == nil && (oldest.IsZero() || oldest.After(x.began))
}

func (x *exporter) tell(ctx context.Context) {
	if x.o.Progress == nil {
		return
	}
	p := Progress{Lag: -1}
	if oldest, err := x.waiting(ctx); err == nil {
		p.Lag = 0
		if !oldest.IsZero() {
			p.Lag = max(time.Since(oldest), 0)
		}
	}
	x.mu.Lock()
	p.Written = x.cursor.Lines
	for _, in := range x.intakes {
		p.Counts.Batches += in.Counts.Batches
		p.Counts.Duplicates += in.Counts.Duplicates
		p.Counts.Refused += in.Counts.Refused
		p.Counts.Lost += in.Counts.Lost
		p.Counts.Shed += in.Counts.Shed
	}
	x.mu.Unlock()
	x.o.Progress(p)
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
