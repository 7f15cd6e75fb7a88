// Package telemetry carries events from the relays to the bus without ever
// standing in traffic's way. A [Pipeline] takes events (Record: no allocation,
// no waiting), encodes them into numbered batches, keeps each batch until the
// [Sink] has acknowledged it, and counts what a bound made it give up.
//
// # Exactness
//
// Every sealed batch states, cumulatively for the process, how many events
// were produced and of how many of them it sheds the detail (shed). At each
// batch produced = events carried up to here + shed, and the shed ones are in
// summaries: so a reader that has every sequence number has every event or its
// sums, and one that misses some knows how many.
//
// While sealed batches of Options.RetainBytes await acknowledgement, what is
// recorded is not sealed but coalesced: summed up by second, peer and outcome,
// in bounded memory, and sealed once there is room. A batch that was sealed is
// never coalesced: it may have been stored although nobody said so.
//
// # Seconds
//
// Statistics are by the second of the wall clock. So a flush, in the first half
// of a second, seals what ended in the one before; see docs/decisions/0029.
//
// # Spool
//
// With Options.Spool all of that survives the process: events go into a journal
// (memory that is mapped from a file) as they are recorded, and a sealed batch
// or the sums are in a file before the journal is used again. The next process
// publishes what the last one had not had acknowledged, under the last one's
// instance and numbers.
package telemetry

import (
	"context"
	"log/slog"
	"time"

	"github.com/weirmesh/weir/event"
)

// Sink is where batches go: the bus.
type Sink interface {
	// Publish hands over one batch and returns when it is stored, or why it is
	// not. It is idempotent by instance and sequence: the Pipeline tries again
	// with the same numbers. It keeps nothing of batch after it returned.
	Publish(ctx context.Context, source event.Workload, instance, sequence uint64, batch []byte) error
	// WatchTap calls tapped whenever somebody says that the workload's events
	// are being watched live. It may return at once and go on in the
	// background, or when ctx ends.
	WatchTap(ctx context.Context, w event.Workload, tapped func()) error
}

// Options configures a Pipeline. The zero value of each field but Source and
// Sink means its default.
type Options struct {
	// Source names the publisher in every batch.
	Source event.Source
	// Version is the build, as batches state it.
	Version string
	// Sink takes the batches.
	Sink Sink
	// Spool is a directory that what was recorded survives a kill in, best in
	// memory (tmpfs); "" for none. No two Pipelines share one.
	Spool string
	// RetainBytes bounds the batches that await acknowledgement: 4 MiB.
	RetainBytes int
	// FlushEvery is how often events are sealed into batches: 1 s. From 1 s on, a
	// flush leaves what ended in the second under way to the next one.
	FlushEvery time.Duration
	// TapEvery replaces FlushEvery for TapFor after each notice that the
	// workload is watched: 100 ms, 3 s.
	TapEvery, TapFor time.Duration
	// Heartbeat is the longest time without a batch, empty if need be: 10 s.
	Heartbeat time.Duration
	// MaxEvents and MaxBytes seal a batch early: 10,000 events, 96 KiB.
	MaxEvents, MaxBytes int
	// MaxExchanges and MaxConnections do the same where so many different
	// exchanges were recorded (a path each, say), or so many connections: 512,
	// 1,024. They are what takes memory.
	MaxExchanges, MaxConnections int
	// Shards spread concurrent recorders: GOMAXPROCS.
	Shards int
	// OpenConnections is the gauge that batches carry; nil means 0.
	OpenConnections func() uint64
	// Logger is told when publishing begins to fail and when it works again;
	// nil discards.
	Logger *slog.Logger
}

// Defaults of Options.
const (
	DefaultRetainBytes    = 4 << 20
	DefaultFlushEvery     = time.Second
	DefaultTapEvery       = 100 * time.Millisecond
	DefaultTapFor         = 3 * time.Second
	DefaultHeartbeat      = 10 * time.Second
	DefaultMaxEvents      = 10_000
	DefaultMaxBytes       = 96 << 10
	DefaultMaxExchanges   = 512
	DefaultMaxConnections = 1024
)

// Stats is what a Pipeline counted since its start.
type Stats struct {
	// Events and Requests were recorded, shed ones included; the index is the
	// event's Direction (1 inbound, 2 outbound).
	Events, Requests [3]uint64
	// Shed events are told as sums only. Late ones came after Close, and are in
	// no batch.
	Shed, Late uint64
	// Sealed batches have a number; Published ones are acknowledged.
	Sealed, Published uint64
	// RetainedBytes and RetainedBatches await acknowledgement.
	RetainedBytes, RetainedBatches int
	// PublishErrors counts failed attempts.
	PublishErrors uint64
	// SpoolErrors counts what the spool could not keep, or not read.
	SpoolErrors uint64
	// Connected tells that the last attempt to publish succeeded.
	Connected bool
	// Tapped tells that somebody watches the workload's events live.
	Tapped bool
}

// Off is the recorder of a proxy without telemetry: it does nothing.
type Off struct{}

// Record does nothing. Safe for concurrent use.
func (Off) Record(*event.Event) {}

// withDefaults fills the fields that were left zero.
func (o Options) withDefaults(shards int) Options {
	setInt := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	setTime := func(p *time.Duration, v time.Duration) {
		if *p <= 0 {
			*p = v
		}
	}
	setInt(&o.RetainBytes, DefaultRetainBytes)
	setInt(&o.MaxEvents, DefaultMaxEvents)
	setInt(&o.MaxBytes, DefaultMaxBytes)
	setInt(&o.MaxExchanges, DefaultMaxExchanges)
	setInt(&o.MaxConnections, DefaultMaxConnections)
	setInt(&o.Shards, shards)
	setTime(&o.FlushEvery, DefaultFlushEvery)
	setTime(&o.TapEvery, DefaultTapEvery)
	setTime(&o.TapFor, DefaultTapFor)
	setTime(&o.Heartbeat, DefaultHeartbeat)
	if o.OpenConnections == nil {
		o.OpenConnections = func() uint64 { return 0 }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}
