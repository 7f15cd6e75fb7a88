package event

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// A dense histogram gives what a histogram does, whatever is added up.
func TestDenseHistogram(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var dense DenseHistogram
	for round := range 500 {
		dense.Reset()
		var want Histogram
		for range 1 + rng.IntN(4) {
			h := someHistogram(rng)
			if round%2 == 0 { // few values near one another, as most are
				h = &Histogram{}
				for range rng.IntN(400) {
					h.Record(400 + uint64(rng.ExpFloat64()*900))
				}
			}
			want.Merge(h)
			if err := dense.MergeBinary(h.AppendBinary(nil)); err != nil {
				t.Fatal(err)
			}
		}
		prefix := []byte("before")
		if got := dense.AppendBinary(bytes.Clone(prefix)); !bytes.Equal(got, append(prefix, want.AppendBinary(nil)...)) {
			t.Fatalf("%x\nwant\n%x", got, want.AppendBinary(nil))
		}
		var poured Histogram
		dense.AddTo(&poured)
		if !bytes.Equal(poured.AppendBinary(nil), want.AppendBinary(nil)) {
			t.Fatal("adding a dense histogram gives something else than merging its parts")
		}
	}
}

// A dense histogram refuses what a histogram refuses, and is empty then.
func TestDenseHistogramRefuses(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	var dense DenseHistogram
	for range 3000 {
		h := someHistogram(rng)
		data := h.AppendBinary(nil)
		for range rng.IntN(3) {
			if len(data) > 0 {
				data[rng.IntN(len(data))] = byte(rng.Uint32())
			}
		}
		data = data[:len(data)-rng.IntN(len(data)+1)/4]
		dense.Reset()
		if err := dense.MergeBinary([]byte{1, 5, 5, 0, 5, 1}); err != nil {
			t.Fatal(err)
		}
		want := Histogram{}
		want.Record(5)
		err, wantErr := dense.MergeBinary(data), want.MergeBinary(data)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%x: %v, want %v", data, err, wantErr)
		}
		if !bytes.Equal(dense.AppendBinary(nil), want.AppendBinary(nil)) {
			t.Fatalf("%x: not as a histogram", data)
		}
		if err != nil && dense != (DenseHistogram{}) {
			t.Fatalf("%x: something is left of what was refused", data)
		}
	}
}

// Buckets beyond the last are refused wherever they are among four.
func TestDenseHistogramBeyond(t *testing.T) {
	for ahead := range 6 {
		data := []byte{histogramFormat}
		for _, v := range []uint64{0, 0, 1 << 41, 0, 1} {
			data = binary.AppendUvarint(data, v)
		}
		data = append(binary.AppendUvarint(data, uint64(buckets-4-ahead)), 1)
		for range 8 {
			data = append(data, 0, 1)
		}
		var dense DenseHistogram
		if dense.MergeBinary(data) == nil || dense != (DenseHistogram{}) {
			t.Errorf("%d before: accepted, or something is left", ahead)
		}
	}
}

// Counts as large as they can be stay so.
func TestDenseHistogramSaturates(t *testing.T) {
	var h, want Histogram
	h.RecordN(7, 1<<63)
	h.RecordN(8, 3)
	var dense DenseHistogram
	for range 3 {
		want.Merge(&h)
		if err := dense.MergeBinary(h.AppendBinary(nil)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(dense.AppendBinary(nil), want.AppendBinary(nil)) {
		t.Fatal("not as a histogram")
	}
}

// BenchmarkDenseMerge adds up sixty encoded histograms of 260 values and encodes the
// sum.
func BenchmarkDenseMerge(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	var parts [][]byte
	for range 60 {
		var h Histogram
		for range 260 {
			h.Record(400 + uint64(rng.ExpFloat64()*900))
		}
		parts = append(parts, h.AppendBinary(nil))
	}
	var out []byte
	b.Run("dense", func(b *testing.B) {
		var sum DenseHistogram
		for b.Loop() {
			sum.Reset()
			for _, p := range parts {
				if err := sum.MergeBinary(p); err != nil {
					b.Fatal(err)
				}
			}
			out = sum.AppendBinary(out[:0])
		}
	})
	b.Run("pages", func(b *testing.B) {
		var sum Histogram
		for b.Loop() {
			sum.Reset()
			for _, p := range parts {
				if err := sum.MergeBinary(p); err != nil {
					b.Fatal(err)
				}
			}
			out = sum.AppendBinary(out[:0])
		}
	})
	var tally Tally
	var moments Moments
	for range 260 {
		v := 400 + uint64(rng.ExpFloat64()*900)
		tally.add(bucket(v))
		moments.Record(v)
	}
	b.Run("tally", func(b *testing.B) {
		for b.Loop() {
			out = tally.AppendBinary(out[:0], &moments)
		}
	})
}
