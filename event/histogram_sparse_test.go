package event

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// A sparse histogram merges to the bytes that the whole one merges to.
func TestMergeSparse(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var sparse SparseHistogram
	for round := range 200 {
		var a, b, whole, merged Histogram
		for range r.IntN(50) {
			a.Record(r.Uint64() >> r.IntN(64))
		}
		for range r.IntN(50) {
			b.Record(r.Uint64() >> r.IntN(64))
		}
		whole.Merge(&a)
		merged.Merge(&a)
		whole.Merge(&b)
		data := b.AppendBinary(nil)
		if err := sparse.UnmarshalBinary(data); err != nil {
			t.Fatal(err)
		}
		merged.MergeSparse(&sparse)
		if want, got := whole.AppendBinary(nil), merged.AppendBinary(nil); !bytes.Equal(want, got) {
			t.Fatalf("round %d: %x, want %x", round, got, want)
		}
		if len(data) > 1 {
			if err := sparse.UnmarshalBinary(data[:len(data)-1]); err == nil {
				t.Fatalf("round %d: a truncated histogram was read", round)
			}
			before := merged.AppendBinary(nil)
			merged.MergeSparse(&sparse)
			if !bytes.Equal(before, merged.AppendBinary(nil)) {
				t.Fatalf("round %d: what could not be read was merged", round)
			}
		}
	}
}
