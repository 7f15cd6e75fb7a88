package rollup

import (
	"cmp"

	"github.com/weirmesh/weir/aggregator/route"
	"github.com/weirmesh/weir/event"
)

// Limits bound what one partition keeps. The zero value of a field means its
// default.
type Limits struct {
	// Workloads that have rows of their own; default 2,000. The rest is summed
	// up as the workload OtherName of kind External.
	Workloads int
	// Pods, Peers and Routes of a workload and direction that have rows of
	// their own; default 500 each.
	Pods, Peers, Routes int
	// Authorities and Methods of a workload and direction that its routes tell
	// apart; default 64 and 32. The others are OtherName.
	Authorities, Methods int
	// Keys are all rows of all workloads; default 65,536, of about 600 bytes
	// each. Beyond, only the rows of OtherName are added.
	Keys int
	// PathNodes is how many segments of paths are remembered, to learn which
	// vary; default 20,000, of about 200 bytes each.
	PathNodes int
	// Sources that are remembered; default 20,000. The workloads with the most
	// give some up, those heard of only once first; should one of them repeat a
	// batch it would count twice.
	Sources int
	// Pending is how many cells may wait for the next rollup before it is due;
	// default 4,096. A cell takes some KiB.
	Pending int
}

// DefaultLimits are those that the zero Limits stand for.
func DefaultLimits() Limits { return Limits{}.withDefaults() }

// withDefaults sets the fields that are zero.
func (l Limits) withDefaults() Limits {
	l.Workloads = cmp.Or(l.Workloads, 2000)
	l.Pods = cmp.Or(l.Pods, 500)
	l.Peers = cmp.Or(l.Peers, 500)
	l.Routes = cmp.Or(l.Routes, 500)
	l.Authorities = cmp.Or(l.Authorities, 64)
	l.Methods = cmp.Or(l.Methods, 32)
	l.Keys = cmp.Or(l.Keys, 65_536)
	l.PathNodes = cmp.Or(l.PathNodes, 20_000)
	l.Sources = cmp.Or(l.Sources, 20_000)
	l.Pending = cmp.Or(l.Pending, 4096)
	return l
}

// keyMemory is for how long an unused key counts against a cap, seconds.
const keyMemory = 900

// maxSpare cells are kept for use again, or as many as the last rollup took.
const maxSpare = 256

// Folder adds the batches of one partition up. It holds what was counted since
// the last Take, the position up to which it was, and what is known of each
// source. It is not safe for concurrent use.
type Folder struct {
	limits  Limits
	at      event.Mark
	sources map[SourceID]*Source
	// changed since the last Take; gaps are those with gaps.
	changed, gaps map[SourceID]*Source
	// slots by the id of their key.
	slots map[string]*slot
	id    []byte
	// groups counts the slots by what Other says of their keys.
	groups map[Key]int
	// workloads that have rows of their own, and when they last were used.
	workloads map[event.Workload]int64
	// routings are the routes of each side, their trees within budget; path is
	// scratch.
	routings map[side]*routing
	budget   route.Budget
	path     []byte
	offences map[Offender]*Offence
	pending  int
	// taken is how many bytes the takenCells had that the last Take gave.
	taken, takenCells int
	dirty             []*slot
	// items and arena are memory for the next Take.
	items   []Item
	arena   []byte
	spare   spares
	decoder event.Decoder
	batch   batch
	scratch scratch
	// event, whole and name are scratch, too.
	event, whole event.Event
	rows         event.Rows
	name         []byte
	// counts are the outcomes of the sum at hand.
	counts []outcomeCount
	loaded uint64
	// latency and duration are those of the summary at hand.
	latency, duration event.Histogram
}

// slot is a key and its cells that wait for the next rollup.
type slot struct {
	key   Key
	used  int64
	cells []pendingCell
	// gone: it is none of the folder's slots any more.
	gone bool
	// spare is where the slot's last cell waits to be used again, and 1 more; 0:
	// nowhere.
	spare int32
	// total is the slot of a pod's workload, once it was asked for.
	total *slot
	// number is what who keeps its values remembers of it.
	number uint32
}

type pendingCell struct {
	second int64
	cell   *Cell
}

// NewFolder returns a folder that knows nothing.
func NewFolder(l Limits) *Folder {
	l = l.withDefaults()
	f := &Folder{
		limits:    l,
		spare:     spares{most: min(maxSpare, l.Pending)},
		budget:    route.Budget{Nodes: l.PathNodes},
		routings:  map[side]*routing{},
		offences:  map[Offender]*Offence{},
		sources:   map[SourceID]*Source{},
		changed:   map[SourceID]*Source{},
		gaps:      map[SourceID]*Source{},
		slots:     map[string]*slot{},
		groups:    map[Key]int{},
		workloads: map[event.Workload]int64{},
	}
	f.decoder.ReadSums(true)
	return f
}

// Position is the sequence in the stream of the last message folded.
func (f *Folder) Position() uint64 { return f.at.Sequence }

// Mark is the last message folded.
func (f *Folder) Mark() event.Mark { return f.at }

// Pending is how many cells wait for the next rollup.
func (f *Folder) Pending() int { return f.pending }

// Full tells that the next rollup is due at once.
func (f *Folder) Full() bool { return f.pending >= f.limits.Pending }

// SetKeys bounds how many keys may have a row of their own from now on. Those
// that have one keep it until they have not been used for long.
func (f *Folder) SetKeys(most int) { f.limits.Keys = most }

// Keys is how many keys have a row of their own.
func (f *Folder) Keys() int { return len(f.slots) }

// Sources calls fn with each known source, in no particular order, until it
// returns false. fn must not keep or change it.
func (f *Folder) Sources(fn func(*Source) bool) {
	for _, s := range f.sources {
		if !fn(s) {
			return
		}
	}
}

// Restore sets the position and sources to those of an earlier rollup.
func (f *Folder) Restore(at event.Mark, sources map[SourceID]Source) {
	f.at = at
	for id, s := range sources {
		own := s.clone()
		f.sources[id] = &own
		if len(own.Missing) > 0 {
			f.gaps[id] = &own
		}
		f.workloads[id.Workload] = max(f.workloads[id.Workload], own.LastSeen)
	}
	clear(f.offences) // noted by whoever owned the partition then
}

// Touch makes a key known that an earlier rollup used at a second.
func (f *Folder) Touch(k Key, second int64) {
	if k.Dimension == ByRoute && k.Route.Path != OtherName {
		r := f.routing(k.Workload, k.Direction)
		r.methods.admit(k.Route.Method, f.limits.Methods, second)
		r.authorities.admit(k.Route.Authority, f.limits.Authorities, second)
		if folds(&k.Route) {
			k.Route.Path = string(r.tree.Template(f.path[:0], k.Route.Path, second))
		}
	} else {
		k.Route = f.Canonical(&k)
	}
	f.slot(k, second)
}

// Scan calls what pick returns for a key with each of the key's pending cells
// in [since, until), Unix seconds. pick may return nil. Of a Total there may be
// several cells a second.
func (f *Folder) Scan(since, until int64, pick func(Key) func(second int64, c *Cell)) {
	for _, s := range f.dirty {
		s.scan(s.key, since, until, pick)
		if s.key.Dimension == ByPod {
			s.scan(s.key.total(), since, until, pick)
		}
	}
}

// Oldest is the second of the oldest pending cell, or 0 where none is pending.
func (f *Folder) Oldest() (second int64) {
	for _, s := range f.dirty {
		for i := range s.cells {
			if at := s.cells[i].second; second == 0 || at < second {
				second = at
			}
		}
	}
	return second
}

// scan calls what pick returns for k with the slot's cells in [since, until).
func (s *slot) scan(k Key, since, until int64, pick func(Key) func(second int64, c *Cell)) {
	var visit func(int64, *Cell)
	for i := range s.cells {
		if at := s.cells[i].second; at < since || at >= until {
			continue
		}
		if visit == nil {
			if visit = pick(k); visit == nil {
				return
			}
		}
		visit(s.cells[i].second, s.cells[i].cell)
	}
}

// total is the key of the total that a pod's cell is part of.
func (k *Key) total() Key {
	return Key{Dimension: Total, Direction: k.Direction, Workload: k.Workload}
}

// addTotals makes the cells of the totals from those of the pods.
func (f *Folder) addTotals() {
	for _, s := range f.dirty {
		if s.key.Dimension != ByPod {
			continue
		}
		if s.total == nil || s.total.gone {
			s.total = f.slot(s.key.total(), 0)
		}
		total := s.total
		for i := range s.cells {
			f.cell(total, s.cells[i].second).absorb(s.cells[i].cell)
		}
	}
}

// Tick declares gaps lost that have not closed in time and forgets what has not
// been used for long. now is in Unix seconds. It returns how many batches are
// lost.
func (f *Folder) Tick(now int64) (lost int64) {
	for id, s := range f.gaps {
		n, changed := s.expire(now)
		if changed {
			f.changed[id] = s
		}
		if len(s.Missing) == 0 {
			delete(f.gaps, id)
		}
		if n > 0 {
			lost += n
			f.ledger(s, now).Lost += n
		}
	}
	return lost
}

// Sweep forgets keys and sources that have not been used for long, and as many
// more sources as the bound demands. now is in Unix seconds. It returns how
// many sources had to go before their time.
func (f *Folder) Sweep(now int64) (evicted int) {
	for id, s := range f.slots {
		if len(s.cells) == 0 && now-s.used > keyMemory {
			delete(f.slots, id)
			s.gone = true
			f.ungroup(s.key)
		}
	}
	for w, used := range f.workloads {
		if now-used > keyMemory {
			delete(f.workloads, w)
		}
	}
	f.sweepRoutes(now)
	for id, s := range f.sources {
		silent := now - s.LastSeen
		if silent > sourceMemory || s.Final && silent > gapMemory {
			f.forget(id)
		}
	}
	return f.evict()
}

// sourceMemory is how long a silent source is remembered, seconds.
const sourceMemory = 24 * 3600

func (f *Folder) forget(id SourceID) {
	delete(f.sources, id)
	delete(f.changed, id)
	delete(f.gaps, id)
}

// admitWorkload gives a workload a row of its own, or the others' row.
func (f *Folder) admitWorkload(w event.Workload, second int64) event.Workload {
	if used, ok := f.workloads[w]; ok || len(f.workloads) < f.limits.Workloads {
		f.workloads[w] = max(used, second)
		return w
	}
	other := event.Workload{Kind: External, Name: OtherName}
	f.offend(other, OffenceWorkload, w.String())
	return other
}

// slot finds or makes the slot of a key, or of the others' key where a cap is
// reached.
func (f *Folder) slot(k Key, second int64) *slot {
	f.id = k.appendID(f.id[:0])
	if s, ok := f.slots[string(f.id)]; ok {
		s.used = max(s.used, second)
		return s
	}
	other := k.Other()
	capped := k != other
	if capped && (f.groups[other] >= f.limit(k.Dimension) || len(f.slots) >= f.limits.Keys) {
		f.offendKey(&k)
		return f.slot(other, second)
	}
	id := string(f.id)
	k.adopt(id)
	if capped {
		f.groups[k.Other()]++
	}
	s := &slot{key: k, used: second}
	f.slots[id] = s
	return s
}

func (f *Folder) ungroup(k Key) {
	other := k.Other()
	if k == other {
		return
	}
	if f.groups[other]--; f.groups[other] <= 0 {
		delete(f.groups, other)
	}
}

func (f *Folder) limit(d Dimension) int {
	switch d {
	case ByPod, Ledger:
		return f.limits.Pods
	case ByPeer:
		return f.limits.Peers
	default:
		return f.limits.Routes
	}
}

// cell is a slot's cell of a second.
func (f *Folder) cell(s *slot, second int64) *Cell {
	for i := len(s.cells) - 1; i >= 0; i-- {
		if s.cells[i].second == second {
			return s.cells[i].cell
		}
	}
	if len(s.cells) == 0 {
		f.dirty = append(f.dirty, s)
	}
	c := f.spare.take(s)
	s.cells = append(s.cells, pendingCell{second, c})
	s.used = max(s.used, second)
	f.pending++
	return c
}

// spares are empty cells that are kept for use again, no more than most. A slot
// gets its own again, as a rule: that has room for what the slot counts, and no
// more. Any cell would grow, time after time, into room for what all slots count.
type spares struct {
	cells []spare
	most  int
}

type spare struct {
	cell *Cell
	// owner is whose cell it was, and knows where it is; nil: nobody does.
	owner *slot
}

// take returns an empty cell for a slot.
func (s *spares) take(to *slot) *Cell {
	n := len(s.cells)
	if n == 0 {
		return new(Cell)
	}
	at := n - 1
	if to.spare > 0 {
		at = int(to.spare) - 1
	}
	taken, last := s.cells[at], s.cells[n-1]
	if taken.owner != nil {
		taken.owner.spare = 0
	}
	if at < n-1 {
		if s.cells[at] = last; last.owner != nil {
			last.owner.spare = int32(at + 1)
		}
	}
	s.cells[n-1] = spare{}
	s.cells = s.cells[:n-1]
	return taken.cell
}

// put keeps a slot's cell that nobody uses any more, where there is room.
func (s *spares) put(c *Cell, of *slot) {
	if len(s.cells) >= s.most {
		return
	}
	c.Reset()
	if of.spare > 0 {
		of = nil // it has one
	} else {
		of.spare = int32(len(s.cells) + 1)
	}
	s.cells = append(s.cells, spare{c, of})
}

// keep bounds how many are kept, from now on.
func (s *spares) keep(most int) {
	s.most = most
	for i := most; i < len(s.cells); i++ {
		if of := s.cells[i].owner; of != nil {
			of.spare = 0
		}
		s.cells[i] = spare{}
	}
	s.cells = s.cells[:min(len(s.cells), most)]
}

// ledger is the cell of a source's pod in the ledger.
func (f *Folder) ledger(s *Source, second int64) *Cell {
	w := f.admitWorkload(s.ID.Workload, second)
	return f.cell(f.slot(ledgerKey(w, s.Pod), second), second)
}

func ledgerKey(w event.Workload, pod string) Key {
	return Key{Dimension: Ledger, Workload: w, Pod: cut(pod, maxName)}
}

// Item is one encoded cell.
type Item struct {
	Key    Key
	Second int64
	// Sums is the message Sums of rollup.proto.
	Sums []byte
	// Number is where who keeps values may remember something of the key, from one
	// Take to the next; at first it is 0. It is nil where the item is of no folder.
	Number *uint32
}

// Delta is what was counted between two positions.
type Delta struct {
	Position uint64
	// Stored is when the events stream got the message at Position, Unix ns; 0 where
	// that is not known, or Position is of another stream.
	Stored int64
	// Full: Sources and Learned are all there are, else those that have changed.
	Full    bool
	Items   []Item
	Sources []Source
	Learned []Learned
	// arena is the memory of all Sums; grouped: items of the same key follow one
	// another.
	arena   []byte
	grouped bool
}

// Empty tells that the delta holds nothing but a position.
func (d *Delta) Empty() bool { return len(d.Items) == 0 && len(d.Sources) == 0 && len(d.Learned) == 0 }

// Take returns what was counted since the last Take, and begins anew. With full
// it holds all sources, else those that have changed.
func (f *Folder) Take(full bool) *Delta {
	f.addTotals()
	d := &Delta{Position: f.at.Sequence, Stored: f.at.Stored, Full: full, Items: f.items, grouped: true}
	if cap(d.Items) < f.pending {
		d.Items = make([]Item, 0, f.pending)
	}
	arena := f.arena
	if expected := f.expected(); cap(arena) < expected {
		arena = make([]byte, 0, expected)
	}
	f.items, f.arena = nil, nil
	// The next rollup takes nearly as many cells, as a rule.
	f.spare.keep(min(max(maxSpare, f.pending+f.pending/8), f.limits.Pending))
	for n, s := range f.dirty {
		if n%atOnce == 0 {
			f.load(f.dirty[n:min(n+atOnce, len(f.dirty))])
		}
		for i := range s.cells {
			start := len(arena)
			arena = s.cells[i].cell.appendBinary(arena, &f.scratch)
			d.Items = append(d.Items, Item{s.key, s.cells[i].second, arena[start:len(arena):len(arena)], &s.number})
			f.spare.put(s.cells[i].cell, s)
			s.cells[i].cell = nil
		}
		s.cells = s.cells[:0]
	}
	clear(f.dirty)
	d.arena = arena
	f.taken, f.takenCells = len(arena), len(d.Items)
	f.dirty, f.pending = f.dirty[:0], 0
	d.Learned = f.learned(full)
	from := f.changed
	if full {
		from = f.sources
	}
	d.Sources = make([]Source, 0, len(from))
	for _, s := range from {
		d.Sources = append(d.Sources, s.clone())
	}
	clear(f.changed)
	sortSources(d.Sources)
	return d
}

// atOnce is how many slots' cells are read a little before they are encoded.
const atOnce = 8

// load reads a little of the cells of slots, which no near cache holds: where nothing
// else is to be done in between, a core waits for several at a time.
func (f *Folder) load(slots []*slot) {
	for _, s := range slots {
		for i := range s.cells {
			f.loaded += s.cells[i].cell.touch()
		}
	}
}

// Reuse gives the memory of what Take returned back, for the next Take: nobody may
// hold its Items or their Sums any more. Much more than was needed is left to
// the collector.
func (f *Folder) Reuse(d *Delta) {
	if cap(d.Items) <= 4*len(d.Items) {
		f.items = d.Items[:0]
	}
	if cap(d.arena) <= 4*len(d.arena) {
		f.arena = d.arena[:0]
	}
	*d = Delta{}
}

// expected is about how many bytes the pending cells have: nearly as much each as
// last time, as a rule, and no more than twice as much in all. Growing means
// copying.
func (f *Folder) expected() int {
	if f.takenCells == 0 {
		return 0
	}
	return min(f.pending*(f.taken/f.takenCells+1)*5/4, 2*f.taken)
}

// Skip moves the position past a message that is not to be counted.
func (f *Folder) Skip(at event.Mark) { f.at = at }

// SourceCount is how many sources are known.
func (f *Folder) SourceCount() int { return len(f.sources) }
