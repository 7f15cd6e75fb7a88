package store_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/weirmesh/weir/aggregator/store"
)

// name is a key: "group/member", whose other is "group/other".
type name string

func (n name) Other() name {
	group, _, ok := strings.Cut(string(n), "/")
	if !ok {
		return n
	}
	return name(group + "/other")
}

// Detail: names that begin so are of detail.
func (n name) Detail() bool { return strings.HasPrefix(string(n), "d") }

// counter adds uvarints up.
type counter struct{ n uint64 }

func (c *counter) Add(data []byte) error {
	n, size := binary.Uvarint(data)
	if size != len(data) || size <= 0 {
		return errors.New("no number")
	}
	c.n += n
	return nil
}

func (c *counter) AppendBinary(dst []byte) []byte { return binary.AppendUvarint(dst, c.n) }
func (c *counter) Weight() uint64                 { return c.n }
func (c *counter) Reset()                         { c.n = 0 }

const now = int64(1_800_000_000)

func newSummer() store.Summer { return &counter{} }

func newStore(tiers []store.Tier) *store.Store[name] {
	s := store.New[name](newSummer, tiers, now)
	s.Loaded(0)
	return s
}

func add(t *testing.T, s *store.Store[name], second int64, key name, n uint64) bool {
	t.Helper()
	kept, err := s.Add(0, second, key, binary.AppendUvarint(nil, n), second)
	if err != nil {
		t.Fatal(err)
	}
	return kept
}

func value(t *testing.T, data []byte) uint64 {
	t.Helper()
	var c counter
	if err := c.Add(data); err != nil {
		t.Error(err)
	}
	return c.n
}

// rows are the sums by key.
func rows(t *testing.T, s *store.Store[name], since, until int64) map[name]uint64 {
	t.Helper()
	found := map[name]uint64{}
	s.Scan(since, until, 0, func(k name) func(int64, []byte) {
		return func(at int64, data []byte) {
			if at < since || at >= until {
				t.Errorf("a value at %d in [%d, %d)", at, since, until)
			}
			found[k] += value(t, data)
		}
	})
	return found
}

func sum(t *testing.T, s *store.Store[name], since, until int64, prefix string) (n uint64, count int) {
	t.Helper()
	for k, v := range rows(t, s, since, until) {
		if strings.HasPrefix(string(k), prefix) {
			n, count = n+v, count+1
		}
	}
	return n, count
}

func TestWindows(t *testing.T) {
	s := newStore(nil)
	// One a second for 900 s, in several portions, in any order.
	rng := rand.New(rand.NewPCG(1, 2))
	for range 3 {
		for _, i := range rng.Perm(900) {
			add(t, s, now-int64(i), "w/a", 1)
		}
	}
	for i := range 300 {
		if err := s.Compact(now + int64(i)); err != nil { // makes sums over many seconds
			t.Fatal(err)
		}
		since := now - rng.Int64N(590)
		until := since + rng.Int64N(now-since+1)
		if n, _ := sum(t, s, since, until, "w/"); n != uint64(3*(until-since)) {
			t.Fatalf("[%d, %d): %d", since-now, until-now, n)
		}
		// Cut into steps, each value belongs to one of them.
		step := 1 + rng.Int64N(100)
		points := make([]uint64, (until-since)/step+1)
		s.Scan(since, until, step, func(name) func(int64, []byte) {
			return func(at int64, data []byte) { points[(at-since)/step] += value(t, data) }
		})
		for j, n := range points {
			if want := max(0, min(step, until-since-int64(j)*step)); n != uint64(3*want) {
				t.Fatalf("point %d of [%d, %d) by %d: %d, want %d", j, since-now, until-now, step, n, 3*want)
			}
		}
	}
	if s.Oldest() < now-899 || s.Reaches() != 0 {
		t.Errorf("oldest %d, reaches %d", s.Oldest()-now, s.Reaches())
	}
}

// entry is one value of a group.
type entry struct {
	at   int64
	key  name
	data []byte
}

// chain is what feeds a store: groups of each tier, each folded into the next.
type chain struct {
	t      *testing.T
	s      *store.Store[name]
	tiers  []store.Tier
	groups [][][]entry
	// through is how many groups of the finer tier each has.
	through []int
	due     []int64
}

func newChain(t *testing.T, tiers []store.Tier) *chain {
	n := len(tiers)
	return &chain{t: t, s: newStore(tiers), tiers: tiers, groups: make([][][]entry, n), through: make([]int, n), due: make([]int64, n)}
}

// put adds a group to the finest tier, and folds what is due.
func (c *chain) put(at int64, group []entry) {
	c.t.Helper()
	c.add(c.s, 0, group, at)
	c.groups[0] = append(c.groups[0], group)
	for i := 1; i < len(c.tiers); i++ {
		if c.due[i] == 0 {
			c.due[i] = at + c.tiers[i].Every()
		}
		if at >= c.due[i] {
			c.due[i] = at + c.tiers[i].Every()
			c.fold(i, at)
		}
	}
	if err := c.s.Compact(at); err != nil {
		c.t.Fatal(err)
	}
}

func (c *chain) add(s *store.Store[name], i int, group []entry, at int64) {
	c.t.Helper()
	for _, e := range group {
		if _, err := s.Add(i, e.at, e.key, e.data, at); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *chain) fold(i int, at int64) {
	c.t.Helper()
	if err := c.s.Fold(i - 1); err != nil {
		c.t.Fatal(err)
	}
	g := store.NewGather[name](newSummer, c.tiers[i])
	for _, group := range c.groups[i-1][c.through[i]:] {
		for _, e := range group {
			g.Add(e.at, e.key, e.data)
		}
	}
	c.through[i] = len(c.groups[i-1])
	var group []entry
	if err := g.Sums(func(start int64, key name, data []byte) { group = append(group, entry{start, key, data}) }); err != nil {
		c.t.Fatal(err)
	}
	c.groups[i] = append(c.groups[i], group)
	c.add(c.s, i, group, at)
	if err := c.s.Folded(i-1, at); err != nil {
		c.t.Fatal(err)
	}
}

// heir is a store that knows only the groups.
func (c *chain) heir(at int64) *store.Store[name] {
	c.t.Helper()
	s := store.New[name](newSummer, c.tiers, at)
	for i, groups := range c.groups {
		for n, group := range groups {
			if i+1 == len(c.tiers) || n >= c.through[i+1] {
				c.add(s, i, group, at)
				continue
			}
			for _, e := range group {
				if _, err := s.Recall(i, e.at, e.key, e.data); err != nil {
					c.t.Fatal(err)
				}
			}
		}
	}
	s.Loaded(0)
	return s
}

func one(at int64, key name, n uint64) entry { return entry{at, key, binary.AppendUvarint(nil, n)} }

// quick are tiers that a test sees through.
func quick(rows int) []store.Tier {
	return []store.Tier{{Step: 1, Keep: 300}, {Step: 10, Keep: 1500, Rows: rows}, {Step: 60, Keep: 8000, Rows: rows}}
}

// TestTiers: as time goes by, whole windows keep their sums, however late values
// come, windows that follow each other count everything once, and an heir of the
// groups finds the same.
func TestTiers(t *testing.T) {
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 5))
		c := newChain(t, quick(0))
		total := uint64(0)
		for i := range int64(4000) {
			at := now + i
			var group []entry
			for j := range uint64(3) {
				group = append(group, one(at-rng.Int64N(3), name(fmt.Sprintf("w/%d", j)), j+1))
				total += j + 1
			}
			if rng.IntN(20) == 0 {
				group = append(group, one(at-rng.Int64N(3600), "w/0", 1)) // very late
				total++
			}
			c.put(at, group)
			if i%97 != 0 {
				continue
			}
			// Nothing moves while it goes from tier to tier.
			if n, _ := sum(t, c.s, now-4000, at+1, ""); n != total {
				t.Fatalf("seed %d: %d after %d s, want %d", seed, n, i, total)
			}
			var n uint64
			for since := (now - 4000) / 60 * 60; since <= at; since += 420 {
				part, _ := sum(t, c.s, since, since+420, "")
				n += part
			}
			if n != total {
				t.Fatalf("seed %d: windows that follow each other hold %d, want %d", seed, n, total)
			}
		}
		at := now + 3999
		heir := c.heir(at)
		for range 50 {
			since := at/60*60 - 60*rng.Int64N(70)
			until := since + 60*rng.Int64N(70)
			if a, b := rows(t, c.s, since, until), rows(t, heir, since, until); !maps.Equal(a, b) {
				t.Fatalf("seed %d: [%d, %d): %v, and to the heir %v", seed, since-at, until-at, a, b)
			}
		}
		if c.s.Finest() > at-290 || c.s.Finest() < at-400 {
			t.Errorf("finest from %d", c.s.Finest()-at)
		}
	}
}

// TestOldest: the oldest value's time is told as it is, whatever sums there are
// over long times before it, and while values go from tier to tier. Those sums are
// made when a store begins, and its first groups of coarse tiers come later.
func TestOldest(t *testing.T) {
	for _, before := range []int64{1, 7, 59, 60, 119, 600, 3599} {
		c := newChain(t, store.Tiers())
		for at := now - before; at < now+1500; at++ {
			c.put(at, []entry{one(at, "w/a", 1)})
			// To the step of the tier that it is in by now.
			first := now - before
			if early := first - c.s.Oldest(); early < 0 || early >= c.s.Step(first) {
				t.Fatalf("%d s before an hour's end, after %d s: the oldest is said to be %d s early", before, at-first, early)
			}
			if n, _ := sum(t, c.s, 0, 1<<40, ""); n != uint64(at-first+1) {
				t.Fatalf("%d s before an hour's end: %d values of %d", before, n, at-first+1)
			}
		}
	}
}

// TestSlidingWindows: while time goes by and values come late, any window, and any
// cut of it into steps, has what a list of all values has.
func TestSlidingWindows(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 8))
		c := newChain(t, store.Tiers())
		begin := now + rng.Int64N(7200)
		c.s = store.New[name](newSummer, nil, begin)
		if seed%2 == 0 {
			c.s.Loaded(0)
		}
		all := map[int64]uint64{}
		for i := int64(0); i < 700; i++ {
			if rng.IntN(40) == 0 {
				i += rng.Int64N(50) // the process stalls
			}
			at := begin + i
			var group []entry
			for range rng.IntN(4) {
				late := rng.Int64N(4)
				if rng.IntN(10) == 0 {
					late = rng.Int64N(200) // for some later than the next tier waits
				}
				group = append(group, one(at-late, "w/a", 1))
				all[at-late]++
			}
			c.put(at, group)
			for range 3 {
				since := at - rng.Int64N(250)
				until := since + 1 + rng.Int64N(at-since+10)
				checkWindow(t, c.s, all, since, until, 1+rng.Int64N(until-since))
			}
			if i < 650 {
				continue
			}
			// Who reads the groups back finds the same, before it has put anything in
			// order and after.
			heir := c.heir(at)
			for range 4 {
				since := at - rng.Int64N(600)
				until := since + 1 + rng.Int64N(at-since+10)
				checkWindow(t, heir, all, since, until, 1+rng.Int64N(until-since))
				if err := heir.Compact(at); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// checkWindow compares a window, whole and cut into steps, with a list of all.
func checkWindow(t *testing.T, s *store.Store[name], all map[int64]uint64, since, until, step int64) {
	t.Helper()
	var want uint64
	points := make([]uint64, (until-since-1)/step+1)
	for second := since; second < until; second++ {
		want += all[second]
		points[(second-since)/step] += all[second]
	}
	if got, _ := sum(t, s, since, until, ""); got != want {
		t.Fatalf("[%d, %d): %d, want %d", since-now, until-now, got, want)
	}
	got := make([]uint64, len(points))
	s.Scan(since, until, step, func(name) func(int64, []byte) {
		return func(at int64, data []byte) { got[(at-since)/step] += value(t, data) }
	})
	if !slices.Equal(got, points) {
		t.Fatalf("[%d, %d) by %d: %v, want %v", since-now, until-now, step, got, points)
	}
}

// TestForgets: what is older than the last tier keeps goes, and the store says
// so.
func TestForgets(t *testing.T) {
	c := newChain(t, quick(0))
	for i := range int64(3000) {
		c.put(now+i, []entry{one(now+i, "w/a", 1)})
	}
	if c.s.Reaches() != 0 {
		t.Errorf("reaches %d", c.s.Reaches()-now)
	}
	for i := int64(3000); i < 12_000; i += 10 {
		c.put(now+i, nil)
	}
	if n, _ := sum(t, c.s, 0, 1<<40, ""); n != 0 || c.s.Keys() != 0 || c.s.Oldest() != 0 {
		t.Errorf("%d left of what is too old, of %d keys", n, c.s.Keys())
	}
	if c.s.Reaches() < now+3000 {
		t.Errorf("reaches %d", c.s.Reaches()-now)
	}
	if kept, err := c.s.Add(0, now, "w/a", []byte{1}, now+12_000); kept || err != nil {
		t.Errorf("kept what is older than the last tier: %v, %v", kept, err)
	}
}

// TestRows: in coarser tiers only the heaviest keep rows of their own.
func TestRows(t *testing.T) {
	c := newChain(t, quick(5))
	total := uint64(0)
	for i := range int64(600) {
		var group []entry
		for j := range uint64(50) {
			group = append(group, one(now+i, name(fmt.Sprintf("w/%02d", j)), 1+j))
			if i < 10 {
				total += 1 + j
			}
		}
		c.put(now+i, append(group, one(now+i, "total", 50*51/2)))
	}
	if c.s.Finest() <= now+10 {
		t.Fatal("nothing is coarse")
	}
	if n, rows := sum(t, c.s, now, now+10, "w/"); n != total || rows != 6 {
		t.Errorf("%d in %d rows, want %d in 6", n, rows, total)
	}
	if n, _ := sum(t, c.s, now, now+10, "w/49"); n != 500 {
		t.Errorf("the heaviest has %d", n)
	}
	if n, _ := sum(t, c.s, now, now+10, "total"); n != total {
		t.Errorf("total %d, want %d", n, total)
	}
}

// TestTrim: memory is bounded; what goes is the oldest of the finest, and no sum
// changes.
func TestTrim(t *testing.T) {
	const limit = 700_000
	c := newChain(t, []store.Tier{{Step: 1, Keep: 900}, {Step: 10, Keep: 20_000}, {Step: 60, Keep: 80_000}})
	total := uint64(0)
	for i := range int64(1500) {
		var group []entry
		for j := range 50 {
			group = append(group, one(now+i, name(fmt.Sprintf("w/%d", j)), 1))
			total++
		}
		c.put(now+i, group)
		if i%10 != 0 {
			continue
		}
		if bytes, _ := c.s.Trim(limit, now+i); bytes > limit || bytes != c.s.Bytes() {
			t.Fatalf("%d bytes after %d s, %d counted", bytes, i, c.s.Bytes())
		}
		if n, _ := sum(t, c.s, now, now+i+1, ""); n != total {
			t.Fatalf("%d after %d s, want %d", n, i, total)
		}
	}
	if c.s.Finest() < now+700 || c.s.Step(now) != 10 || c.s.Reaches() != 0 {
		t.Errorf("finest from %d, then steps of %d, reaches %d", c.s.Finest()-now, c.s.Step(now), c.s.Reaches())
	}
	if _, trimmed := c.s.Trim(1, now+1499); !trimmed {
		t.Error("Trim does not tell that it trimmed")
	}
}

func TestBadValues(t *testing.T) {
	s := newStore(nil)
	add(t, s, now, "w/a", 1)
	if _, err := s.Add(0, now, "w/a", []byte{0xff}, now); err == nil {
		t.Error("a bad value was added")
	}
	if n, _ := sum(t, s, now, now+1, ""); n != 1 {
		t.Errorf("the good one is %d now", n)
	}
	g := store.NewGather[name](newSummer, store.Tier{Step: 10})
	for _, data := range [][]byte{{1}, {0xff}, {2}} {
		g.Add(now, "w/a", data)
	}
	var got uint64
	if err := g.Sums(func(_ int64, _ name, data []byte) { got += value(t, data) }); err == nil || got != 3 {
		t.Errorf("gathered %d of values one of which is bad: %v", got, err)
	}
}

func TestCheckTiers(t *testing.T) {
	if err := store.CheckTiers(store.Tiers()); err != nil {
		t.Error(err)
	}
	f := func(why string, tiers ...store.Tier) {
		t.Helper()
		if err := store.CheckTiers(tiers); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%v: %v, want %q", tiers, err, why)
		}
	}
	f("no tiers")
	f("for a step", store.Tier{Step: 10, Keep: 1})
	f("a multiple", store.Tier{Step: 10, Keep: 5000}, store.Tier{Step: 15, Keep: 100})
	f("the least is 240 s", store.Tier{Step: 1, Keep: 239}, store.Tier{Step: 10, Keep: 100})
}

func BenchmarkAdd(b *testing.B) {
	s := newStore(nil)
	keys := make([]name, 100)
	for i := range keys {
		keys[i] = name(fmt.Sprintf("w/%d", i))
	}
	value := binary.AppendUvarint(nil, 5)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		at := now + int64(i/1000)
		if _, err := s.Add(0, at, keys[i%100], value, at); err != nil {
			b.Fatal(err)
		}
		if i%10_000 == 0 {
			if err := s.Compact(at); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// TestLoadedTooLittle: a tier that was loaded since a time which the next does not have
// wholly yet is what the store reaches back to, whatever the next has.
func TestLoadedTooLittle(t *testing.T) {
	s := store.New[name](newSummer, nil, now)
	s.LoadedTier(0, now-5, false)
	s.LoadedTier(1, 0, false)
	s.LoadedTier(2, 0, true)
	if got := s.Reaches(); got != now-5 {
		t.Errorf("reaches back to %d s ago, want 5", now-got)
	}
	s = store.New[name](newSummer, nil, now)
	// Two minutes later the next tier has it.
	s.LoadedTier(0, now-200, false)
	s.LoadedTier(1, 0, false)
	s.LoadedTier(2, 0, true)
	if got := s.Reaches(); got != 0 {
		t.Errorf("reaches back to %d, want 0", got)
	}
}
