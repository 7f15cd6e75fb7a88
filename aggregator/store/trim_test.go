package store_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/weirmesh/weir/aggregator/store"
)

// exact are all sums of a class of keys by second.
type exact struct {
	prefix  string
	seconds map[int64]uint64
}

// crowd is a chain with many keys that are active all the time.
type crowd struct {
	*chain
	rng            *rand.Rand
	totals, detail exact
	rows           int
	first          int64
}

func newCrowd(t *testing.T, seed uint64, rows int) *crowd {
	return &crowd{chain: newChain(t, store.Tiers()), rng: rand.New(rand.NewPCG(seed, 9)), rows: rows, first: now,
		totals: exact{"t", map[int64]uint64{}}, detail: exact{"d", map[int64]uint64{}}}
}

// second adds what comes in a second.
func (c *crowd) second(at int64) {
	c.t.Helper()
	var group []entry
	add := func(of *exact, key string, at int64) {
		n := 1 + c.rng.Uint64N(300)
		group = append(group, one(at, name(of.prefix+key), n))
		of.seconds[at] += n
		c.first = min(c.first, at)
	}
	for i := range c.rows {
		late := c.rng.Int64N(4)
		if c.rng.IntN(500) == 0 {
			late = c.rng.Int64N(1500) // later than even the next tier waits
		}
		add(&c.detail, fmt.Sprintf("%d/%d", i%3, i), at-late)
		if i%10 == 0 {
			add(&c.totals, fmt.Sprintf("%d/%d", i%3, i), at-late)
		}
	}
	c.put(at, group)
}

// check compares windows of a class at edges that are allowed with the exact sums.
func (c *crowd) check(s *store.Store[name], of *exact, edges store.Edges, at int64) {
	c.t.Helper()
	for i := range 6 {
		until := at + 1 - c.rng.Int64N(400)
		since := max(c.first-4000, until-1-c.rng.Int64N(1<<(2+2*i)))
		since = max(since, edges.Reaches())
		step := edges.Step(since)
		if since -= since % step; since < edges.Reaches() {
			since += step
		}
		if until -= until % edges.Step(until); until <= since {
			continue
		}
		var want, got uint64
		for second := since; second < until; second++ {
			want += of.seconds[second]
		}
		for k, n := range rows(c.t, s, since, until) {
			if strings.HasPrefix(string(k), of.prefix) {
				got += n
			}
		}
		if got != want {
			c.t.Fatalf("%s in [%d, %d) of %d: %d, want %d", of.prefix, since-now, until-now, at-now, got, want)
		}
	}
}

// TestBound: with many keys that are active all the time, and in times when nothing
// goes into the next tier, a store takes no more than it may, whatever values come
// late; all sums within edges that it allows are exact, and the same to an heir
// that has as little memory. Totals have finer edges than detail.
func TestBound(t *testing.T) {
	for seed, rows := range []int{100, 400} {
		limit := 1200*rows + 200_000
		c := newCrowd(t, uint64(seed), rows)
		for i := range int64(1300) {
			at := now + i
			if i%700 == 400 {
				c.due[1] = at + 400 // the bus takes no rollups
			}
			c.second(at)
			if bytes, _ := c.s.Trim(limit, at); bytes > limit || bytes != c.s.Bytes() {
				t.Fatalf("%d rows, after %d s: %d bytes of %d, %d counted", rows, i, bytes, limit, c.s.Bytes())
			}
			if i%11 == 0 {
				c.check(c.s, &c.totals, c.s.Totals(), at)
				c.check(c.s, &c.detail, c.s, at)
			}
			if i%600 != 599 {
				continue
			}
			heir := c.poorHeir(at, limit)
			for range 20 {
				c.check(heir, &c.totals, heir.Totals(), at)
				c.check(heir, &c.detail, heir, at)
			}
		}
		at := now + 1299
		if c.s.Totals().Step(at-60) > 5 || c.s.Step(at-5) != 1 || c.s.Finest() < at-240 {
			t.Errorf("%d rows: the totals of a minute ago are in steps of %d, detail of 5 s ago in %d, of a minute ago in %d", rows, c.s.Totals().Step(at-60), c.s.Step(at-5), c.s.Step(at-60))
		}
		t.Logf("%d rows: finest since %d, totals %d; reaches %d, totals %d; steps of totals after 10, 60, 300 s: %d, %d, %d; of detail: %d, %d, %d", rows,
			c.s.Finest()-at, c.s.Totals().Finest()-at, c.s.Reaches()-at, c.s.Totals().Reaches()-at, c.s.Totals().Step(at-10), c.s.Totals().Step(at-60), c.s.Totals().Step(at-300), c.s.Step(at-10), c.s.Step(at-60), c.s.Step(at-300))
	}
}

// poorHeir reads all groups as who takes over does: the finest tier first, and it
// never has more than the memory.
func (c *crowd) poorHeir(at int64, limit int) *store.Store[name] {
	c.t.Helper()
	s := store.New[name](newSummer, c.tiers, at)
	s.Loading(0)
	for i, groups := range c.groups {
		for n, group := range groups {
			for _, e := range group {
				var err error
				if i+1 == len(c.tiers) || n >= c.through[i+1] {
					_, err = s.Add(i, e.at, e.key, e.data, at)
				} else {
					_, err = s.Recall(i, e.at, e.key, e.data)
				}
				if err != nil {
					c.t.Fatal(err)
				}
			}
			if n%20 == 0 || n+1 == len(groups) {
				if bytes, _ := s.Trim(limit, at); bytes > limit+limit/20 {
					c.t.Fatalf("an heir takes %d bytes, of %d", bytes, limit)
				}
			}
		}
		s.LoadedTier(i, 0, i+1 == len(c.groups))
	}
	return s
}

// TestRelax: when there is room again, new values have fine edges again, and long
// windows few values to add up.
func TestRelax(t *testing.T) {
	c := newCrowd(t, 3, 300)
	for i := range int64(400) {
		c.second(now + i)
		c.s.Trim(500_000, now+i)
	}
	if c.s.Finest() < now+200 {
		t.Fatal("nothing is coarse")
	}
	c.rows = 3
	for i := int64(400); i < 2000; i++ {
		c.second(now + i)
		if i == 500 {
			c.s.Relax(now + i)
		}
		if i%50 == 0 {
			c.check(c.s, &c.totals, c.s.Totals(), now+i)
			c.check(c.s, &c.detail, c.s, now+i)
		}
	}
	if c.s.Finest() > now+1150 {
		t.Errorf("after 2000 s, edges are fine since %d only", c.s.Finest()-now)
	}
}
