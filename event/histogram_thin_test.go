package event

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// someHistogram has values of a distribution that varies.
func someHistogram(rng *rand.Rand) *Histogram {
	var h Histogram
	for range rng.IntN(300) {
		h.RecordN(rng.Uint64()>>(10+rng.IntN(54)), 1+rng.Uint64()>>(40+rng.IntN(24)))
	}
	return &h
}

func TestMergeBinary(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		a, b := someHistogram(rng), someHistogram(rng)
		var want, got Histogram
		want.Merge(a)
		want.Merge(b)
		for _, h := range []*Histogram{b, a} {
			if err := got.MergeBinary(h.AppendBinary(nil)); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got.AppendBinary(nil), want.AppendBinary(nil)) {
			t.Fatal("merging encoded histograms gives something else than merging them")
		}
	}
}

func TestMergeBinaryRefuses(t *testing.T) {
	var h Histogram
	h.Record(100)
	h.Record(5000)
	good := h.AppendBinary(nil)
	for cut := 1; cut < len(good); cut++ {
		bad := good[:cut]
		var sum, single Histogram
		sum.Record(7)
		err := sum.MergeBinary(bad)
		if err == nil || single.UnmarshalBinary(bad) == nil {
			t.Errorf("%x was accepted", bad)
		}
		if sum.Count() != 0 || len(sum.AppendBinary(nil)) != 0 {
			t.Errorf("%x: the histogram is not empty after the error", bad)
		}
		sum.Record(1)
		if sum.Quantile(1) != 1 || sum.Quantile(0.5) != 1 {
			t.Errorf("%x: something is left of what was refused", bad)
		}
	}
	if err := h.MergeBinary([]byte{9, 1, 1, 1}); err == nil {
		t.Error("another format was accepted")
	}
}

func TestThin(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	qs := []float64{0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999}
	var thin SparseHistogram
	for range 500 {
		h := someHistogram(rng)
		h.Thin(&thin, qs...)
		if n := len(thin.at); n > len(qs)+2 {
			t.Fatalf("%d buckets are left, want at most %d", n, len(qs)+2)
		}
		var back SparseHistogram
		if err := back.UnmarshalBinary(thin.AppendBinary(nil)); err != nil {
			t.Fatal(err)
		}
		for _, s := range []*SparseHistogram{&thin, &back} {
			if s.moments != h.moments {
				t.Fatalf("moments %+v, want %+v", s.moments, h.moments)
			}
			for _, q := range append([]float64{0, 1}, qs...) {
				if got, want := s.Quantile(q), h.Quantile(q); got != want {
					t.Fatalf("quantile %g of %d values is %g, want %g", q, h.Count(), got, want)
				}
			}
		}
	}
}
