// Package aggregator turns the stream of events into statistics. Members share
// the partitions of the stream among them; the owner of a partition reads its
// batches in order, counts each once, publishes once a second what it counted
// together with how far it has come (package rollup), keeps it by time (package
// store), hands live events on to those who listen (package tap), and answers
// queries (package query).
//
// Memory is a cache, the streams are the truth: an owner that dies, or whose
// rollup is refused because another has written since, leaves nothing behind
// but what it published; the next goes on from there. So two members that both
// believe to own a partition do no harm.
//
// The package knows the bus only by the interfaces below. bus/client.Client
// implements them all.
package aggregator

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/aggregator/store"
	"github.com/weirmesh/weir/aggregator/tap"
	"github.com/weirmesh/weir/event"
)

// Source is the stream of events.
type Source interface {
	// ConsumeEvents calls fn with every message of a partition that comes after
	// those that were read, in order, until ctx ends or fn fails, whose error it
	// returns. It sits out absences of the bus. read is the last of them and, before
	// it, some that came before, oldest first; nil: none. Where the stream has lost
	// what came last of them, and others may have the sequences, fn begins after one
	// that is still there, or with the oldest: some come again.
	ConsumeEvents(ctx context.Context, partition int, read []event.Mark, fn func(at event.Mark, subject string, data []byte) error) error
	// LastBatch returns the stream's sequence of a partition's newest message; 0
	// where there is none.
	LastBatch(ctx context.Context, partition int) (sequence uint64, err error)
}

// Rollups are the streams of rollups: one a tier, the finest first. Sequences
// are a stream's own.
type Rollups interface {
	// LastRollup returns the newest of a partition; nil and 0 where there is none.
	LastRollup(ctx context.Context, partition, tier int) (data []byte, sequence uint64, err error)
	// PublishRollup stores one, provided that the newest is still that at
	// expectLast; else its error is Options.ErrFenced. After any other error it
	// may have been stored or not. It must not keep data.
	PublishRollup(ctx context.Context, partition, tier int, data []byte, expectLast uint64) (sequence uint64, err error)
	// ReadRollups calls fn with those that come after the sequence after, or
	// where that is 0 were stored at since or later, oldest first, up to the
	// present end.
	ReadRollups(ctx context.Context, partition, tier int, after uint64, since time.Time, fn func(sequence uint64, data []byte) error) error
}

// Members is the list of live aggregators.
type Members interface {
	// Heartbeat says that id is live, for some seconds.
	Heartbeat(ctx context.Context, id string) error
	// Members returns the live ids.
	Members(ctx context.Context) ([]string, error)
	// Leave says that id is not live any more.
	Leave(ctx context.Context, id string) error
}

// Server answers requests.
type Server interface {
	// Serve answers each request for a method with what handler returns, which
	// it may call concurrently, until ctx ends.
	Serve(ctx context.Context, service, method string, handler func(request []byte) []byte) error
}

// Subjects are the names on the bus.
type Subjects struct {
	// Parse reads the workload from the subject of a message.
	Parse func(subject string) (event.Workload, error)
	// Events, Tap and Stats are the subjects of a workload's batches, of its
	// live events, and of its summaries.
	Events, Tap, Stats func(event.Workload) string
}

// Publisher sends live events and summaries to those who listen. It must be safe
// for concurrent use.
type Publisher interface {
	tap.Publisher
	// Listened tells whether somebody got a message of the subject within the last
	// two seconds; false, where that is not known.
	Listened(subject string) bool
}

// Options say what an aggregator works with. All but the last group must be
// set.
type Options struct {
	// ID names the member; no two live members may have the same.
	ID        string
	Source    Source
	Rollups   Rollups
	Members   Members
	Server    Server
	Publisher Publisher
	Subjects  Subjects
	// ErrFenced is what PublishRollup's error wraps when another has written.
	ErrFenced error
	// Partitions is how many parts the stream of events has.
	Partitions int

	// Limits bound what a partition keeps.
	Limits rollup.Limits
	// Tiers are the resolutions that statistics are kept at, as many as
	// Rollups has at most; nil: store.Tiers.
	Tiers []store.Tier
	// StoreBytes bounds what all partitions keep in memory; default 128 MiB.
	// The rest is in Rollups; an owner whose memory is short answers with
	// coarser edges.
	StoreBytes int
	// Keys bounds the rows of all partitions together; 0 leaves it to Limits.
	// See Divide.
	Keys int
	// RollupEvery is how often what was counted is published; default 1 s.
	RollupEvery time.Duration
	// MaxReply bounds a reply, bytes; default 7 MiB.
	MaxReply int
	// MaxPart bounds a message of rollups, bytes; default rollup.MaxPart.
	MaxPart int
	// Logger; default slog.Default().
	Logger *slog.Logger
	// Now is the clock; default time.Now.
	Now func() time.Time
}

func (o *Options) check() error {
	switch {
	case o.ID == "":
		return errors.New("cannot start an aggregator without an id")
	case o.Source == nil || o.Rollups == nil || o.Members == nil || o.Server == nil || o.Publisher == nil:
		return errors.New("cannot start an aggregator without Source, Rollups, Members, Server and Publisher")
	case o.Subjects.Parse == nil || o.Subjects.Events == nil || o.Subjects.Tap == nil || o.Subjects.Stats == nil:
		return errors.New("cannot start an aggregator without all of Subjects")
	case o.ErrFenced == nil || o.Partitions <= 0:
		return errors.New("cannot start an aggregator without ErrFenced and Partitions")
	}
	if o.Tiers == nil {
		o.Tiers = store.Tiers()
	}
	if err := store.CheckTiers(o.Tiers); err != nil {
		return fmt.Errorf("cannot start an aggregator: %w", err)
	}
	o.StoreBytes = cmp.Or(o.StoreBytes, 128<<20)
	o.RollupEvery = cmp.Or(o.RollupEvery, time.Second)
	o.MaxReply = cmp.Or(o.MaxReply, 7<<20)
	o.Logger = cmp.Or(o.Logger, slog.Default())
	if o.Now == nil {
		o.Now = time.Now
	}
	return nil
}

// Aggregator is one member.
type Aggregator struct {
	o   Options
	log *slog.Logger
	// owner is ID and something that no other process has: it tells our own
	// rollups from those of a predecessor of the same ID.
	owner      string
	tap        *tap.Fanout
	metrics    *counters
	refusalLog limiter
	trimmer    trimmer
	// gathering holds something while a partition sums up groups.
	gathering chan struct{}
	// telling has the memory of rollups that were published.
	telling    sync.Pool
	offenders  offenders
	partitions []*partition

	mu sync.Mutex
	// members and heard are guarded by mu: how many there are, as we last heard, and
	// when we began the last heartbeat that was told; zero before the first.
	members int
	heard   time.Time
}

// New returns an aggregator that does nothing until Run. The error names what is
// missing or out of bounds in o.
func New(o Options) (*Aggregator, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	var nonce [6]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return nil, fmt.Errorf("cannot make up a name for the aggregator's process: %w", err)
	}
	a := &Aggregator{
		o:       o,
		log:     o.Logger.With("member", o.ID),
		owner:   o.ID + "/" + hex.EncodeToString(nonce[:]),
		tap:     tap.New(o.Publisher, o.Subjects.Tap),
		members: 1,

		gathering: make(chan struct{}, 1),
		trimmer:   newTrimmer(),
	}
	for n := range o.Partitions {
		a.partitions = append(a.partitions, newPartition(a, n))
	}
	a.metrics = newCounters(a)
	return a, nil
}

// WriteMetrics writes the aggregator's metrics in the Prometheus text format.
// It is safe for concurrent use.
func (a *Aggregator) WriteMetrics(w io.Writer) {
	a.metrics.set.WritePrometheus(w)
	a.offenders.write(w)
}

// Owned is how many partitions are owned and have come far enough to answer. It is safe for
// concurrent use.
func (a *Aggregator) Owned() (n int) {
	for _, p := range a.partitions {
		p.mu.RLock()
		if p.answering() {
			n++
		}
		p.mu.RUnlock()
	}
	return n
}

// Timing of membership and taps.
const (
	// A member that stalls for less than lease less beatEvery, two seconds, keeps
	// its partitions; those of one that dies are another's after lease and
	// beatEvery, three seconds, at most, and what the takeover takes.
	beatEvery   = 500 * time.Millisecond
	beatTimeout = 2 * time.Second
	// lease is how long after a heartbeat the others leave a member its partitions,
	// at least: Members' some seconds. stale is how long ago the last one may have
	// been for the next one surely to come within the lease.
	lease    = 2500 * time.Millisecond
	stale    = lease - 2*beatEvery
	tapEvery = 100 * time.Millisecond
	// grace is how long a partition that is given up may take to publish what
	// it counted last.
	grace = 3 * time.Second
)

// Run works until ctx ends; it then publishes what it counted last, leaves the
// members, and returns nil. It sits out absences of the bus. It must not be
// called twice.
func (a *Aggregator) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, method := range []string{query.MethodStat, query.MethodSeries, query.MethodEdges, query.MethodRoutes, query.MethodWorkloads} {
		wg.Go(func() { a.serve(ctx, method) })
	}
	wg.Go(func() { a.tick(ctx) })
	a.own(ctx)
	wg.Wait()
	leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := a.o.Members.Leave(leave, a.o.ID); err != nil {
		a.log.Warn("the others will notice by themselves that this member is gone", "error", err)
	}
	return nil
}

// serve answers one method, and tries again if that can't be done.
func (a *Aggregator) serve(ctx context.Context, method string) {
	for ctx.Err() == nil {
		err := a.o.Server.Serve(ctx, query.Service, method, func(request []byte) []byte { return a.answer(method, request) })
		if ctx.Err() != nil {
			return
		}
		a.log.Error("cannot answer queries; trying again", "method", method, "error", err)
		sleep(ctx, time.Second)
	}
}

func (a *Aggregator) tick(ctx context.Context) {
	ticker := time.NewTicker(tapEvery)
	defer ticker.Stop()
	a.trimmer.running.Store(true)
	defer a.trimmer.running.Store(false)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			a.tap.Tick(a.o.Now())
			a.trim(a.o.Now())
		}
	}
}

// tenure is a partition that we own, or are giving up.
type tenure struct {
	cancel context.CancelFunc
	done   chan struct{}
	ending bool
}

// own sends heartbeats and starts and stops partitions as the members change.
// It returns when all have stopped.
func (a *Aggregator) own(ctx context.Context) {
	tenures := map[int]*tenure{}
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		began := time.Now()
		if a.untouched(began, stale) {
			a.lookAgain(ctx)
		}
		if members, err := a.beat(ctx); err == nil {
			a.touched(began)
			a.assign(ctx, tenures, members)
		} else if ctx.Err() == nil {
			// Whatever the others do meanwhile: the fence guards the partitions.
			a.log.Debug("keeping the partitions while the members are not known", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	for _, t := range tenures {
		t.cancel()
	}
	for _, t := range tenures {
		<-t.done
	}
}

func (a *Aggregator) beat(ctx context.Context) (members []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	if err := a.o.Members.Heartbeat(ctx, a.o.ID); err != nil {
		return nil, err
	}
	if members, err = a.o.Members.Members(ctx); err != nil {
		return nil, err
	}
	if !slices.Contains(members, a.o.ID) {
		members = append(members, a.o.ID)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.members != len(members) {
		a.log.Info("members changed", "members", members)
	}
	a.members = len(members)
	return members, nil
}

// assign starts and stops partitions. One that is ending is started again only
// when it has ended.
func (a *Aggregator) assign(ctx context.Context, tenures map[int]*tenure, members []string) {
	for n, p := range a.partitions {
		t, mine := tenures[n], Owner(members, n) == a.o.ID
		if t != nil && t.ending {
			select {
			case <-t.done:
				delete(tenures, n)
				t = nil
			default:
				continue
			}
		}
		switch {
		case mine && t == nil:
			pctx, cancel := context.WithCancel(ctx)
			t = &tenure{cancel: cancel, done: make(chan struct{})}
			tenures[n] = t
			go func() {
				defer close(t.done)
				defer cancel()
				p.run(pctx)
			}()
		case !mine && t != nil:
			t.ending = true
			t.cancel()
		}
	}
}

// Owner is which of the members owns a partition: rendezvous hashing, so that a
// member that comes or goes moves only its own share. members must not be
// empty.
func Owner(members []string, partition int) string {
	best, score := "", uint64(0)
	for _, id := range members {
		if s := weigh(id, partition); best == "" || s > score || s == score && id < best {
			best, score = id, s
		}
	}
	return best
}

// weigh is a hash: FNV-1a of the id, then the finalizer of splitmix64.
func weigh(id string, partition int) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(id) {
		h = (h ^ uint64(id[i])) * 1099511628211
	}
	h += uint64(partition+1) * 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// sleep waits, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
