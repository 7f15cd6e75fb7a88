package store

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
)

// label is a key; the odd ones are of detail.
type label uint16

func (l label) Other() label { return l % 2 }
func (l label) Detail() bool { return l%2 == 1 }

// adder adds up numbers of eight bytes, with as many more as the value says.
type adder struct{ sum uint64 }

func (a *adder) Add(data []byte) error {
	if len(data) < 8 {
		return errors.New("too short")
	}
	a.sum += binary.LittleEndian.Uint64(data)
	return nil
}

func (a *adder) AppendBinary(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, a.sum)
	return append(dst, make([]byte, a.sum%40)...)
}
func (a *adder) Weight() uint64 { return a.sum }
func (a *adder) Reset()         { a.sum = 0 }

// counted adds up what all blocks of a shelf take, one by one.
func (s *shelf[K]) counted() (n int) {
	for i := range s.tiers {
		t := &s.tiers[i]
		all := []map[int64]*block{t.blocks, t.late, t.folding}
		for j := range t.levels {
			all = append(all, t.levels[j].blocks)
		}
		for _, blocks := range all {
			for _, b := range blocks {
				n += b.bytes()
			}
		}
	}
	return n
}

// TestCount: what a store says that its blocks take is what they take, whatever
// is done to it; and hints, right or wrong, change nothing.
func TestCount(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	now := int64(1_800_000_000)
	tiers := []Tier{{Step: 1, Keep: 300}, {Step: 10, Keep: 3600, Rows: 4}}
	hinted, plain := New[label](func() Summer { return &adder{} }, tiers, now), New[label](func() Summer { return &adder{} }, tiers, now)
	both := [...]*Store[label]{hinted, plain}
	for _, s := range both {
		s.Loaded(0)
	}
	var hints [60]uint32
	var value [8]byte
	for second := range int64(900) {
		now++
		for range 20 {
			key := label(rng.IntN(len(hints)))
			if second/100%2 == 1 {
				key %= 8 // the others' numbers become free
			}
			binary.LittleEndian.PutUint64(value[:], rng.Uint64N(100))
			at, hint := now-rng.Int64N(4), &hints[key]
			if rng.IntN(50) == 0 {
				at = now - rng.Int64N(400)
				hint = &hints[(key+2)%label(len(hints))] // another key's
			}
			if _, err := hinted.AddKnown(0, at, &key, hint, value[:], now); err != nil {
				t.Fatal(err)
			}
			if _, err := plain.Add(0, at, key, value[:], now); err != nil {
				t.Fatal(err)
			}
		}
		limit := 4000 + rng.IntN(100_000)
		for _, s := range both {
			var failed error
			failed = errors.Join(failed, s.Compact(now))
			if second%60 == 0 {
				failed = errors.Join(failed, s.Fold(0))
			}
			if second%60 == 1 {
				failed = errors.Join(failed, s.Folded(0, now-1))
			}
			if second%97 == 96 {
				s.Trim(limit, now)
			}
			if second%301 == 300 {
				s.Relax(now)
			}
			if failed != nil {
				t.Fatal(failed)
			}
			for _, c := range s.both() {
				if c.counted() != c.blockBytes {
					t.Fatalf("second %d: blocks take %d bytes, counted are %d", second, c.counted(), c.blockBytes)
				}
			}
		}
		if second%50 == 49 {
			a, b := sums(hinted, now), sums(plain, now)
			if len(a) != len(b) {
				t.Fatalf("second %d: %d keys with hints, %d without", second, len(a), len(b))
			}
			for key, sum := range b {
				if a[key] != sum {
					t.Fatalf("second %d: key %d has %d with hints, %d without", second, key, a[key], sum)
				}
			}
		}
	}
}

// sums are those of all that a store has.
func sums(s *Store[label], now int64) map[label]uint64 {
	all := map[label]uint64{}
	s.Scan(0, now+1, 0, func(key label) func(int64, []byte) {
		return func(_ int64, data []byte) { all[key] += binary.LittleEndian.Uint64(data) }
	})
	return all
}
