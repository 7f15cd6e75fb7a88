package store

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

// TestRooms: stores that get each value in two pieces, whose blocks are packed and give
// their memory to those of others, keep their sums, each in a goroutine of its own.
func TestRooms(t *testing.T) {
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(n), 1))
			now := int64(1_800_000_000)
			s := New[label](func() Summer { return &adder{} }, []Tier{{Step: 1, Keep: 600}}, now)
			s.Loaded(0)
			want := map[label]uint64{}
			var hints [100]uint32
			for range 200 {
				now++
				for _, at := range []int64{now - 1, now} {
					for key := range label(len(hints)) {
						v := rng.Uint64N(1000)
						want[key] += v
						if _, err := s.AddKnown(0, at, &key, &hints[key], binary.LittleEndian.AppendUint64(nil, v), now); err != nil {
							t.Error(err)
							return
						}
					}
				}
				if err := s.Compact(now); err != nil {
					t.Error(err)
					return
				}
			}
			for key, sum := range sums(s, now) {
				if want[key] != sum {
					t.Errorf("store %d: key %d has %d, want %d", n, key, sum, want[key])
				}
			}
			if !s.totals.tiers[0].wasteful {
				t.Error("no block was packed")
			}
		})
	}
	all.Wait()
}

// TestAdding: pieces are put in order by id, and where ids are alike as they came, be
// ids dense or not.
func TestAdding(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	add := &adding{}
	for _, most := range []uint32{1, 2, 30, 1000, 1 << 20, 1 << 31} {
		for _, n := range []int{0, 1, 2, 100, 3000} {
			add.pieces = add.pieces[:0]
			for i := range n {
				add.pieces = append(add.pieces, piece{rng.Uint32N(most), []byte{byte(i), byte(i >> 8)}})
			}
			want := slices.Clone(add.pieces)
			slices.SortStableFunc(want, func(a, b piece) int { return int(int64(a.id) - int64(b.id)) })
			if n > 0 {
				add.sort()
				for i, at := range add.order {
					if p := add.pieces[at]; p.id != want[i].id || !slices.Equal(p.data, want[i].data) {
						t.Fatalf("%d ids, %d pieces: the one at %d is of %d, want %d", most, n, i, p.id, want[i].id)
					}
				}
			}
			emitted := 0
			if _, err := add.sums(&total{}, nil, func(uint32, []byte) { emitted++ }); err != nil {
				t.Fatal(err)
			}
			ids := map[uint32]bool{}
			for i := range want {
				ids[want[i].id] = true
			}
			if emitted != len(ids) {
				t.Fatalf("%d ids, %d pieces: %d sums, want %d", most, n, emitted, len(ids))
			}
		}
	}
}
