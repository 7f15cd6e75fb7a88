package prometheus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/weirmesh/weir/bus"
)

// Nobody counts as long as nobody scrapes. Handlers keep on the bus when they
// were last asked, and exporters count until Options.Idle after that. Whoever
// scrapes after a pause is answered when what came before is counted, as far back
// as the stream reaches.

// demandPart is where the demand is kept.
const demandPart = "demand"

// catchUp is for how long after a pause scrapes wait for what came in it. Later
// they show what there is, with its lag.
const catchUp = 10 * time.Minute

// demand is what is kept of scrapes, as JSON. Times are µs since 1970.
type demand struct {
	// Asked is about when somebody last scraped, and Woken when somebody last did
	// after a pause.
	Asked int64 `json:"asked"`
	Woken int64 `json:"woken"`
	// Until is the newest batch of each partition when counting was resumed, by
	// its sequence in the stream.
	Until [bus.Partitions]uint64 `json:"until"`
}

// idle tells whether nobody has scraped for so long that nobody counts.
func (d *demand) idle(now time.Time, after time.Duration) bool {
	return now.Sub(time.UnixMicro(d.Asked)) > after
}

// loadDemand reads the demand; all zero, where there was none yet.
func loadDemand(ctx context.Context, o *Options) (d demand, sequence uint64, err error) {
	data, sequence, err := o.Store.LoadExport(ctx, o.Name, demandPart)
	if err != nil || len(data) == 0 {
		return d, sequence, err
	}
	if err := json.Unmarshal(data, &d); err != nil {
		// It is written anew by the next scrape.
		o.Logger.Log(ctx, slog.LevelDebug, "cannot read when counters were last scraped", "error", err)
		return demand{}, sequence, nil
	}
	return d, sequence, nil
}

// errIdle ends a term when nobody scrapes.
var errIdle = errors.New("nobody scrapes")

// wanted tells whether events are to be counted. Where the bus does not say,
// what is the case goes on.
func (e *Exporter) wanted(ctx context.Context, so bool) bool {
	if e.o.Idle == 0 {
		return true
	}
	d, _, err := loadDemand(ctx, &e.o)
	if err != nil {
		return so
	}
	e.mu.Lock()
	e.until = d.Until
	e.mu.Unlock()
	return !d.idle(time.Now(), e.o.Idle)
}

// asked is what a handler knows of the demand. Its methods may be called from
// several goroutines.
type asked struct {
	o *Options

	mu sync.Mutex
	// at is when the demand was last written, or read as recent enough.
	at     time.Time
	demand demand
}

// note keeps that somebody scrapes, which wakes exporters, and returns the demand.
func (a *asked) note(ctx context.Context) (demand, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	renew := a.o.Idle / 10
	if a.o.Idle == 0 || !a.at.IsZero() && time.Since(a.at) < renew {
		return a.demand, nil
	}
	for try := 0; ; try++ {
		d, sequence, err := loadDemand(ctx, a.o)
		if err != nil {
			return demand{}, err
		}
		now := time.Now()
		if d.idle(now, a.o.Idle) {
			if err := a.newest(ctx, &d); err != nil {
				return demand{}, err
			}
			d.Woken = now.UnixMicro()
		}
		if d.Asked < now.Add(-renew).UnixMicro() {
			d.Asked = now.UnixMicro()
			err = a.write(ctx, &d, sequence)
		}
		if errors.Is(err, bus.ErrFenced) && try < 3 {
			continue // another handler is asked, too
		}
		if err != nil {
			return demand{}, err
		}
		a.at, a.demand = now, d
		return d, nil
	}
}

func (a *asked) write(ctx context.Context, d *demand, after uint64) error {
	data, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("cannot write when counters were last scraped: %w", err)
	}
	_, err = a.o.Store.StoreExport(ctx, a.o.Name, demandPart, data, after)
	return err
}

// newest notes the newest batch of each partition.
func (a *asked) newest(ctx context.Context, d *demand) error {
	var wg sync.WaitGroup
	var errs [bus.Partitions]error
	for n := range d.Until {
		wg.Go(func() { d.Until[n], errs[n] = a.o.Stream.LastBatch(ctx, n) })
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}

// missing is how much of the stream, in messages of all partitions, a partition's
// counters lack of what came before counting was resumed. waiting is when the
// stream got the first batch that they lack.
func (d *demand) missing(partition int, position uint64, waiting, now time.Time) uint64 {
	if position >= d.Until[partition] || waiting.IsZero() || now.Sub(time.UnixMicro(d.Woken)) >= catchUp {
		return 0
	}
	return d.Until[partition] - position
}
