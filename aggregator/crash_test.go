package aggregator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/aggregator/store"
	"github.com/weirmesh/weir/event"
)

var (
	errOtherWrote = errors.New("fenced")
	errLost       = errors.New("answer lost")
	errDead       = errors.New("dead")
)

// memory is a bus in memory, with one partition, that can fail.
type memory struct {
	events [][]byte
	// times are when the stream got events, as far as anybody asked; clock is the
	// last of all that it ever got.
	times []int64
	clock int64
	// rollups of each tier.
	rollups [3][]stored
	// fault is asked before each write: whether to store, and what to answer.
	fault func() (store bool, err error)
	// looked, where set, is called after a tier's last rollup was looked up.
	looked func()
	// reading, where set, is called before a rollup is read.
	reading func()
	// short, where set, tells whether a reading ends before its time.
	short func() bool
	// dead makes everything fail.
	dead bool
	// now is the time at which rollups are stored, where it matters.
	now func() time.Time
}

type stored struct {
	sequence uint64
	at       time.Time
	data     []byte
}

// mark is the message at a sequence.
func (m *memory) mark(sequence uint64) event.Mark {
	for uint64(len(m.times)) < sequence {
		m.clock++
		m.times = append(m.times, m.clock)
	}
	return event.Mark{Sequence: sequence, Stored: m.times[sequence-1]}
}

// settle is where to go on after what was read: after the newest that is still there.
// Of a last one nobody knows when, nobody can tell.
func (m *memory) settle(read []event.Mark) uint64 {
	for i, at := range slices.Backward(read) {
		unknown := at.Stored == 0 && i == len(read)-1
		if at.Sequence == 0 || at.Sequence <= uint64(len(m.events)) && (unknown || m.mark(at.Sequence) == at) {
			return at.Sequence
		}
	}
	return 0
}

// loseEvents lets the stream lose its last n messages, and get others.
func (m *memory) loseEvents(n int, others [][]byte) {
	kept := len(m.events) - n
	m.mark(uint64(len(m.events)))
	m.times = m.times[:kept]
	m.events = append(m.events[:kept:kept], others...)
}

func (m *memory) ConsumeEvents(ctx context.Context, _ int, read []event.Mark, fn func(event.Mark, string, []byte) error) error {
	for after := m.settle(read); ctx.Err() == nil && after < uint64(len(m.events)); after++ {
		if err := fn(m.mark(after+1), "", m.events[after]); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

func (m *memory) LastBatch(context.Context, int) (uint64, error) {
	if m.dead {
		return 0, errDead
	}
	return uint64(len(m.events)), nil
}

func (m *memory) LastRollup(_ context.Context, _, tier int) ([]byte, uint64, error) {
	if m.dead {
		return nil, 0, errDead
	}
	if m.looked != nil {
		defer m.looked()
	}
	if len(m.rollups[tier]) == 0 {
		return nil, 0, nil
	}
	last := m.rollups[tier][len(m.rollups[tier])-1]
	return last.data, last.sequence, nil
}

func (m *memory) PublishRollup(_ context.Context, _, tier int, data []byte, expectLast uint64) (uint64, error) {
	var last uint64
	if n := len(m.rollups[tier]); n > 0 {
		last = m.rollups[tier][n-1].sequence
	}
	store, err := true, error(nil)
	if m.fault != nil {
		store, err = m.fault()
	}
	if store && expectLast != last {
		return 0, fmt.Errorf("rollup: %w", errOtherWrote)
	}
	if store {
		last += uint64(1 + len(data)%3)
		m.rollups[tier] = append(m.rollups[tier], stored{last, m.time(), slices.Clone(data)})
	}
	return last, err
}

func (m *memory) time() time.Time {
	if m.now == nil {
		return time.Time{}
	}
	return m.now()
}

func (m *memory) ReadRollups(_ context.Context, _, tier int, after uint64, since time.Time, fn func(uint64, []byte) error) error {
	for _, r := range m.rollups[tier] {
		if r.sequence <= after || after == 0 && r.at.Before(since) {
			continue
		}
		if m.reading != nil {
			m.reading()
		}
		if m.short != nil && m.short() {
			return nil
		}
		if err := fn(r.sequence, r.data); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) Heartbeat(context.Context, string) error   { return nil }
func (m *memory) Members(context.Context) ([]string, error) { return []string{"m"}, nil }
func (m *memory) Leave(context.Context, string) error       { return nil }
func (m *memory) Interested(string) bool                    { return false }
func (m *memory) Listened(string) bool                      { return false }
func (m *memory) PublishInterest(string, []byte) bool       { return false }
func (m *memory) AnnounceTapped(event.Workload) error       { return nil }
func (m *memory) Serve(ctx context.Context, _, _ string, _ func([]byte) []byte) error {
	<-ctx.Done()
	return ctx.Err()
}

// everyone: the subjects of a bus in memory name nobody in particular.
var everyone = event.Workload{Name: "everyone"}

func memoryOptions(m *memory, id string, now func() time.Time) Options {
	anyone := func(event.Workload) string { return "" }
	return Options{
		ID: id, Source: m, Rollups: m, Members: m, Server: m, Publisher: m,
		Subjects: Subjects{
			Parse:  func(string) (event.Workload, error) { return everyone, nil },
			Events: anyone, Tap: anyone, Stats: anyone,
		},
		ErrFenced: errOtherWrote, Partitions: 1, Logger: slog.New(slog.DiscardHandler), Now: now,
		MaxPart: 1500,
		// Quick enough for a test to see windows go through all of them.
		Tiers: []store.Tier{{Step: 1, Keep: 80}, {Step: 3, Keep: 300}, {Step: 9, Keep: 100_000}},
	}
}

// world is two members, a bus that fails, and what must come out.
type world struct {
	t       *testing.T
	rng     *rand.Rand
	bus     *memory
	members [2]*partition
	now     time.Time
	// began is when the first batches were sent.
	began time.Time
	// each, where set, is called after each step.
	each func(i int)
	// toSend are batches not on the bus yet.
	toSend [][]byte
	// want by workload name.
	want    map[string]uint64
	batches uint64
	lost    int64
	// reads are what the members were told was read before they took over, and what
	// they have read since.
	reads map[*partition][]event.Mark
	// synced is how many rollups of each tier the bus can't lose any more.
	synced [3]int
}

func (w *world) partition(id string) *partition {
	a, err := New(memoryOptions(w.bus, id, func() time.Time { return w.now }))
	if err != nil {
		w.t.Fatal(err)
	}
	return a.partitions[0]
}

// inherit lets a member take over, and load what there was.
func (w *world) inherit(p *partition) {
	w.t.Helper()
	read, err := p.takeOver(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	w.reads[p] = read
	if err := p.loadHistory(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

// save lets a member publish what it counted, and the coarse groups that are
// due.
func (w *world) save(ctx context.Context, p *partition) error {
	p.maintain()
	if err := p.publish(ctx); err != nil || !p.wrote || w.bus.dead {
		return err
	}
	for tier := 1; tier < len(p.tiers); tier++ {
		if j, due := p.nextJob(tier, p.lasts[tier-1]); due {
			if err := p.fold(ctx, j); err != nil || w.bus.dead {
				return err
			}
		}
	}
	return nil
}

// invent makes up batches of some sources: out of order, some twice, some never
// sent.
func (w *world) invent() {
	for source := range 4 {
		name := fmt.Sprintf("w%d", source%3)
		for sequence := uint64(1); sequence <= 30; sequence++ {
			var enc event.Encoder
			n := 1 + w.rng.IntN(5)
			for range n {
				end := w.now.UnixMicro() - w.rng.Int64N(5e6)
				if w.rng.IntN(4) == 0 {
					end -= w.rng.Int64N(500e6) // very late
				}
				e := event.Event{Direction: event.Inbound, Protocol: event.HTTP1, Status: 200, GRPCStatus: -1, Method: "GET",
					Path: fmt.Sprintf("/%c", 'a'+w.rng.IntN(20)), Start: end - 100, Duration: 100, Latency: 50, Connection: 1, Stream: 1}
				e.Peer.Addr = netip.MustParseAddrPort("10.0.0.1:1")
				enc.Add(&e)
			}
			// The last is never missing, so that each gap can be seen.
			if sequence < 30 && w.rng.IntN(20) == 0 {
				w.lost++
				continue
			}
			data := enc.Encode(nil, &event.Header{
				Source:   event.Source{Workload: event.Workload{Namespace: "ns", Kind: "deploy", Name: name}, Pod: name + "-0"},
				Instance: uint64(source + 1), Sequence: sequence, Sent: w.now.UnixMicro(),
			})
			w.want[name] += uint64(n)
			w.batches++
			w.toSend = append(w.toSend, data)
			if w.rng.IntN(5) == 0 {
				w.toSend = append(w.toSend, data)
			}
		}
	}
	// Only neighbours change places, more or less.
	for i := range w.toSend {
		j := min(i+w.rng.IntN(8), len(w.toSend)-1)
		w.toSend[i], w.toSend[j] = w.toSend[j], w.toSend[i]
	}
}

// fail lets writes fail in all the ways they can.
func (w *world) fail() (store bool, err error) {
	switch w.rng.IntN(12) {
	case 0:
		return false, errLost
	case 1:
		return true, errLost
	case 2:
		w.bus.dead = true // the member dies before the write
		return false, errDead
	case 3:
		w.bus.dead = true // and after it
		return true, errDead
	default:
		return true, nil
	}
}

// step lets a member do something. It may die of it.
func (w *world) step(i int) {
	p := w.members[i]
	// Once the bus has failed it for good, a member is as good as dead.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if !p.ready {
		// The other one may go on until it finds out.
		w.bus.looked = func() { w.goOn(ctx, 1-i) }
		read, err := p.takeOver(ctx)
		w.bus.looked, w.reads[p] = nil, read
		if w.bus.dead || err != nil {
			w.bus.dead = false
			w.members[i] = w.partition(fmt.Sprint("member", i))
		} else if err := p.loadHistory(ctx); errors.Is(err, errShort) {
			w.members[i] = w.partition(fmt.Sprint("member", i))
		} else if err != nil {
			w.t.Fatal(err)
		}
		return
	}
	switch w.rng.IntN(8) {
	case 0, 1, 2, 3:
		w.read(p, 1+w.rng.IntN(10))
	case 4, 5, 6:
		err := w.save(ctx, p)
		if w.bus.dead || err != nil {
			w.bus.dead = false
			w.members[i] = w.partition(fmt.Sprint("member", i))
		}
	case 7:
		if w.rng.IntN(4) == 0 {
			w.members[i] = w.partition(fmt.Sprint("member", i))
		}
	}
}

// goOn lets a member count and publish while somebody takes its partition over.
func (w *world) goOn(ctx context.Context, i int) {
	p, looked, fault := w.members[i], w.bus.looked, w.bus.fault
	if !p.ready || w.rng.IntN(3) > 0 {
		return
	}
	w.bus.looked, w.bus.fault = nil, nil
	w.read(p, 1+w.rng.IntN(10))
	w.now = w.now.Add(time.Duration(w.rng.IntN(20)) * time.Second)
	if err := w.save(ctx, p); err != nil {
		w.members[i] = w.partition(fmt.Sprint("member", i))
	}
	w.bus.looked, w.bus.fault = looked, fault
}

// read lets a member take the next messages from the stream.
func (w *world) read(p *partition, n int) {
	for position := w.bus.settle(w.reads[p]); n > 0 && position < uint64(len(w.bus.events)); n-- {
		at := w.bus.mark(position + 1)
		if err := p.take(context.Background(), at, "", w.bus.events[position]); err != nil {
			w.t.Fatal(err)
		}
		position++
		w.reads[p] = append(w.reads[p], at)
	}
}

// TestCrashes: two members that both believe to own a partition, which die
// before, between and after their writes, on a bus that loses answers: nothing
// is counted twice, nothing is lost, and what is missing is known.
func TestCrashes(t *testing.T) {
	eachSeed(t, 80, func(w *world) { w.crashes() })
}

// TestShortReadings: the bus ends readings of rollups early, as if nothing more were
// there. Nobody takes that for all there is.
func TestShortReadings(t *testing.T) {
	eachSeed(t, 40, func(w *world) {
		w.bus.short = func() bool { return w.rng.IntN(40) == 0 }
		w.crashes()
	})
}

// eachSeed runs a test in so many worlds, up to the first in which it fails, and tells
// which that was. What happens in one is nearly the same each time: maps have no order.
func eachSeed(t *testing.T, n uint64, test func(w *world)) {
	t.Helper()
	for seed := range n {
		synctest.Test(t, func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			}()
			test(newWorld(t, seed))
		})
	}
}

// slow is how far the bus's clock is behind, by seed.
var slow = [...]time.Duration{0, time.Minute, 6 * time.Minute, 7 * time.Minute, 10 * time.Minute, 2 * time.Hour}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 7)), bus: &memory{}, now: time.Unix(1_800_000_000, 0), want: map[string]uint64{}, reads: map[*partition][]event.Mark{}}
	w.began = w.now
	w.bus.fault, w.bus.now = w.fail, func() time.Time { return w.now.Add(-slow[seed%uint64(len(slow))]) }
	w.members = [2]*partition{w.partition("member0"), w.partition("member1")}
	w.invent()
	return w
}

// crashes lets members live and die, and looks what came out.
func (w *world) crashes() {
	for steps := 0; steps < 300 || len(w.toSend) > 0; steps++ {
		if n := min(w.rng.IntN(4), len(w.toSend)); n > 0 {
			w.bus.events = append(w.bus.events, w.toSend[:n]...)
			w.toSend = w.toSend[n:]
		}
		if w.rng.IntN(10) == 0 {
			w.now = w.now.Add(time.Duration(w.rng.IntN(20)) * time.Second)
		}
		w.step(w.rng.IntN(2))
	}
	w.settle()
}

// settle lets one member finish, and another find what it left.
func (w *world) settle() {
	w.bus.fault, w.bus.short = nil, nil
	ctx := context.Background()
	last := w.partition("last")
	w.inherit(last)
	w.read(last, 1<<30)
	for range 1 + w.rng.IntN(20) {
		w.now = w.now.Add(15 * time.Second)
		if err := w.save(ctx, last); err != nil {
			w.t.Fatal(err)
		}
		w.check("while time goes by", last.a)
	}
	heir := w.partition("heir")
	w.inherit(heir)
	w.check("after its death", heir.a)
	// Whole steps of the coarsest tier are the same to both.
	for since := w.now.Unix()/9*9 - 900; since < w.now.Unix(); since += 9 * (1 + w.rng.Int64N(20)) {
		request := fmt.Appendf(nil, `{"since":%d,"until":%d}`, since, since+9*(1+w.rng.Int64N(20)))
		for _, method := range []string{query.MethodStat, query.MethodRoutes} {
			want, got := w.answer(last.a, method, request), w.answer(heir.a, method, request)
			if !bytes.Equal(want, got) {
				w.t.Errorf("%s %s: before its death\n%s\nafter it\n%s", method, request, want, got)
			}
		}
	}
}

// answer is what a member says, but for who it is and how fine it knows it.
func (w *world) answer(a *Aggregator, method string, request []byte) []byte {
	w.t.Helper()
	var reply query.Reply
	if err := a.fill(&reply, method, request); err != nil {
		w.t.Fatal(err)
	}
	reply.Exact, reply.Resolution, reply.Oldest = 0, 0, 0
	data, err := json.Marshal(&reply)
	if err != nil {
		w.t.Fatal(err)
	}
	return data
}

func (w *world) check(when string, a *Aggregator) {
	w.t.Helper()
	var reply query.Reply
	request := fmt.Sprintf(`{"since":%d,"until":%d}`, w.now.Unix()-36000, w.now.Unix()+3600)
	if err := a.fill(&reply, query.MethodStat, []byte(request)); err != nil {
		w.t.Fatal(err)
	}
	var lost uint64
	for _, r := range reply.Rows {
		lost += r.LostBatches
		if r.Stats.Requests != w.want[r.Resource.Name] || r.Stats.Latency.Count() != r.Stats.Requests {
			w.t.Errorf("%s: %s has %d requests, want %d", when, r.Resource.Name, r.Stats.Requests, w.want[r.Resource.Name])
		}
	}
	if len(reply.Rows) != 3 || lost != uint64(w.lost) {
		w.t.Errorf("%s: %d rows, %d lost batches; want 3, %d", when, len(reply.Rows), lost, w.lost)
	}
	var ledger rollup.Cell
	q := &question{a: a, reply: &reply, Request: query.Request{Until: 1 << 40}}
	if err := q.scan(func(k rollup.Key) adder {
		if k.Dimension != rollup.Ledger {
			return nil
		}
		return in(&ledger)
	}); err != nil {
		w.t.Fatal(err)
	}
	if ledger.Batches != w.batches {
		w.t.Errorf("%s: %d batches, want %d", when, ledger.Batches, w.batches)
	}
}
