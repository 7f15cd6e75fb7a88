package store

import (
	"math"
	"math/rand/v2"
	"testing"
)

// word is a key.
type word string

func (w word) Other() word  { return w }
func (w word) Detail() bool { return false }

// total adds up single bytes.
type total struct{ n byte }

func (t *total) Add(data []byte) error          { t.n += data[0]; return nil }
func (t *total) AppendBinary(dst []byte) []byte { return append(dst, t.n) }
func (t *total) Weight() uint64                 { return uint64(t.n) }
func (t *total) Reset()                         { t.n = 0 }

// Keys are found by their numbers whatever comes and goes, those of the same hash
// among them.
func TestKeyIndex(t *testing.T) {
	for _, hashes := range []uint64{0, 3, math.MaxUint64} {
		s := newShelf[word](func() Summer { return &total{} }, nil, 0)
		s.index.mask = hashes
		rng := rand.New(rand.NewPCG(hashes, 1))
		have := map[word]uint32{}
		for range 5000 {
			w := word(rune('a' + rng.IntN(60)))
			id, known := s.lookup(&w)
			if want, ok := have[w]; ok != known || known && id != want {
				t.Fatalf("%q is number %d (%v), want %d (%v)", w, id, known, want, ok)
			}
			if rng.IntN(2) == 0 {
				have[w] = s.id(w)
			} else if known {
				s.drop(id)
				delete(have, w)
			}
			if s.keyCount() != len(have) {
				t.Fatalf("there are %d keys, want %d", s.keyCount(), len(have))
			}
		}
	}
}
