package store_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
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

func newStore(tiers []store.Tier, maxBytes int) *store.Store[name] {
	return store.New[name](func() store.Summer { return &counter{} }, tiers, maxBytes)
}

func add(t *testing.T, s *store.Store[name], second int64, key name, n uint64) bool {
	t.Helper()
	kept, err := s.Add(second, key, binary.AppendUvarint(nil, n))
	if err != nil {
		t.Fatal(err)
	}
	return kept
}

func sum(t *testing.T, s *store.Store[name], since, until int64, prefix string) (n uint64, rows int) {
	t.Helper()
	s.Scan(since, until, func(k name) func(int64, []byte) {
		if !strings.HasPrefix(string(k), prefix) {
			return nil
		}
		rows++
		return func(at int64, data []byte) {
			if at < since || at >= until {
				t.Errorf("a value at %d in [%d, %d)", at, since, until)
			}
			var c counter
			if err := c.Add(data); err != nil {
				t.Error(err)
			}
			n += c.n
		}
	})
	return n, rows
}

const now = int64(1_800_000_000)

func TestWindows(t *testing.T) {
	s := newStore(nil, 0)
	if err := s.Compact(now); err != nil {
		t.Fatal(err)
	}
	// One a second for 900 s, in several portions, in any order.
	rng := rand.New(rand.NewPCG(1, 2))
	for range 3 {
		for _, i := range rng.Perm(900) {
			add(t, s, now-int64(i), "w/a", 1)
		}
	}
	for range 200 {
		since := now - rng.Int64N(900)
		until := since + rng.Int64N(now-since+1)
		if n, _ := sum(t, s, since, until, "w/"); n != uint64(3*(until-since)) {
			t.Fatalf("[%d, %d): %d", since-now, until-now, n)
		}
	}
	if s.Oldest() != now-899 {
		t.Errorf("oldest %d", s.Oldest()-now)
	}
}

// TestTiers: as time goes by, whole windows keep their sums, and windows that
// follow each other count everything once.
func TestTiers(t *testing.T) {
	s := newStore([]store.Tier{{Step: 1, Keep: 100}, {Step: 10, Keep: 1000}, {Step: 60, Keep: 5000}}, 0)
	total := uint64(0)
	for i := range int64(4000) {
		at := now + i
		for j := range uint64(3) {
			add(t, s, at, name(fmt.Sprintf("w/%d", j)), j+1)
			total += j + 1
		}
		if i%50 == 0 {
			late := at - i%700 // late values go to where they belong
			add(t, s, late, "w/0", 1)
			total++
		}
		if i%7 == 0 {
			if err := s.Compact(at); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n, rows := sum(t, s, 0, 1<<40, ""); n != total || rows != 3 {
		t.Fatalf("%d in %d rows, want %d", n, rows, total)
	}
	var n uint64
	for since := now - 700; since < now+4000; since += 77 {
		part, _ := sum(t, s, since, since+77, "")
		n += part
	}
	if n != total {
		t.Errorf("windows that follow each other hold %d, want %d", n, total)
	}
	if s.Finest() > now+4000-90 || s.Finest() < now+4000-120 {
		t.Errorf("finest from %d", s.Finest()-now-4000)
	}
	if err := s.Compact(now + 100_000); err != nil {
		t.Fatal(err)
	}
	if n, _ := sum(t, s, 0, 1<<40, ""); n != 0 || s.Keys() != 0 || s.Oldest() != 0 {
		t.Errorf("%d left of what is too old, of %d keys", n, s.Keys())
	}
	if add(t, s, now, "w/0", 1) {
		t.Error("kept what is older than the last tier")
	}
}

// TestRows: in coarser tiers only the heaviest keep rows of their own.
func TestRows(t *testing.T) {
	s := newStore([]store.Tier{{Step: 1, Keep: 10}, {Step: 10, Keep: 1000, Rows: 5}}, 0)
	total := uint64(0)
	for i := range int64(30) {
		for j := range uint64(100) {
			add(t, s, now+i, name(fmt.Sprintf("w/%02d", j)), 1+j)
			total += 1 + j
		}
		add(t, s, now+i, "total", 5050)
	}
	if err := s.Compact(now + 500); err != nil {
		t.Fatal(err)
	}
	if n, rows := sum(t, s, 0, 1<<40, "w/"); n != total || rows != 6 {
		t.Errorf("%d in %d rows, want %d in 6", n, rows, total)
	}
	if n, _ := sum(t, s, 0, 1<<40, "w/99"); n != 3000 {
		t.Errorf("the heaviest has %d", n)
	}
	if n, _ := sum(t, s, 0, 1<<40, "total"); n != total {
		t.Errorf("total %d, want %d", n, total)
	}
}

// TestMaxBytes: memory is bounded; what goes is the oldest, and first into
// coarser steps.
func TestMaxBytes(t *testing.T) {
	const limit = 200_000
	s := newStore(nil, limit)
	for i := range int64(900) {
		for j := range 50 {
			add(t, s, now+i, name(fmt.Sprintf("w/%d", j)), 1)
		}
		if i%10 == 0 {
			if err := s.Compact(now + i); err != nil {
				t.Fatal(err)
			}
			if s.Bytes() > limit {
				t.Fatalf("%d bytes after %d s", s.Bytes(), i)
			}
		}
	}
	if n, _ := sum(t, s, now+880, now+900, ""); n != 20*50 {
		t.Errorf("the youngest are %d", n)
	}
	if s.Finest() <= now {
		t.Error("nothing went into coarser steps")
	}
}

func TestBadValues(t *testing.T) {
	s := newStore(nil, 0)
	add(t, s, now, "w/a", 1)
	if _, err := s.Add(now, "w/a", []byte{0xff}); err == nil {
		t.Error("a bad value was added")
	}
	if n, _ := sum(t, s, now, now+1, ""); n != 1 {
		t.Errorf("the good one is %d now", n)
	}
}

func BenchmarkAdd(b *testing.B) {
	s := newStore(nil, 0)
	keys := make([]name, 100)
	for i := range keys {
		keys[i] = name(fmt.Sprintf("w/%d", i))
	}
	value := binary.AppendUvarint(nil, 5)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		at := now + int64(i/1000)
		if _, err := s.Add(at, keys[i%100], value); err != nil {
			b.Fatal(err)
		}
		if i%10_000 == 0 {
			if err := s.Compact(at); err != nil {
				b.Fatal(err)
			}
		}
	}
}
