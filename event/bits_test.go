package event

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestBits: what is written is read again, whatever the distribution of values
// over buckets.
func TestBits(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var all [][]BucketCount
	var sizes []uint64
	add := func(counts ...BucketCount) {
		n := uint64(0)
		for _, c := range counts {
			n += c.Count()
		}
		all, sizes = append(all, counts), append(sizes, n)
	}
	add(makeBucketCount(0, 1))
	add(makeBucketCount(buckets-1, MaxEvents))
	add(makeBucketCount(0, 1), makeBucketCount(buckets-1, 1))
	add(makeBucketCount(5, 60_000), makeBucketCount(6, 1), makeBucketCount(7, 1), makeBucketCount(2000, 3))
	for range 200 {
		var counts []BucketCount
		step, most := 1+rng.IntN(40), 1+rng.IntN(200)
		for at := rng.IntN(step); at < buckets && len(counts) < 300; at += 1 + rng.IntN(step) {
			counts = append(counts, makeBucketCount(at, uint32(1+rng.IntN(most))))
		}
		add(counts...)
	}
	var w bitWriter
	for i, counts := range all {
		w.histogram(counts, sizes[i])
	}
	data := w.end()
	written := len(data)
	r := bitReader{data: append(data, make([]byte, padding)...)}
	for i, counts := range all {
		got, err := r.histogram(nil, counts[0].Bucket(), counts[len(counts)-1].Bucket(), sizes[i])
		if err != nil || !slices.Equal(got, counts) {
			t.Fatalf("histogram %d: %v, got %v, want %v", i, err, got, counts)
		}
	}
	if left := 8*written - int(r.at); left < 0 || left > 7 {
		t.Errorf("%d bits are left", left)
	}
	// Cut short, it is an error and no endless loop.
	for _, length := range []int{0, 1, 10, written / 2} {
		r := bitReader{data: append(data[:length:length], make([]byte, padding)...)}
		var err error
		for i := 0; i < len(all) && err == nil; i++ {
			_, err = r.histogram(nil, all[i][0].Bucket(), all[i][len(all[i])-1].Bucket(), sizes[i])
		}
		if err == nil {
			t.Errorf("%d bytes of %d were enough", length, written)
		}
	}
}
