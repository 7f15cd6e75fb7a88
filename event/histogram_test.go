package event_test

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/weirmesh/weir/event"
)

var quantiles = []float64{0, 0.001, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 1}

// exact is the value at rank ⌈q·n⌉; q in ten-thousandths, so that the rank is
// computed in whole numbers.
func exact(sorted []uint64, q float64) float64 {
	n := len(sorted)
	rank := (int(math.Round(q*10_000))*n + 9_999) / 10_000
	return float64(sorted[max(rank, 1)-1])
}

func checkQuantiles(t rapid.TB, h *event.Histogram, values []uint64) {
	t.Helper()
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	for _, q := range quantiles {
		got, want := h.Quantile(q), exact(sorted, q)
		if math.Abs(got-want) > want*event.HistogramError {
			t.Errorf("quantile %v is %v, want %v within 1/128", q, got, want)
		}
	}
	if h.Min() != sorted[0] || h.Max() != sorted[len(sorted)-1] || h.Count() != uint64(len(sorted)) {
		t.Errorf("min %d max %d count %d, want %d %d %d", h.Min(), h.Max(), h.Count(), sorted[0], sorted[len(sorted)-1], len(sorted))
	}
}

func record(values []uint64) *event.Histogram {
	var h event.Histogram
	for _, v := range values {
		h.Record(v)
	}
	return &h
}

func TestQuantiles(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	f := func(name string, draw func(i int) uint64) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			values := make([]uint64, 10_000)
			for i := range values {
				values[i] = draw(i)
			}
			checkQuantiles(t, record(values), values)
		})
	}
	f("exactly 1 s", func(int) uint64 { return 1_000_000 })
	f("5001 ms", func(int) uint64 { return 5_001_000 })
	f("two values", func(i int) uint64 { return []uint64{1_000_000, 5_001_000}[i%2] })
	f("bimodal", func(i int) uint64 { return []uint64{300, 30_000_000}[i&1] + rng.Uint64N(100) })
	f("heavy tail", func(int) uint64 { return uint64(min(100/math.Pow(rng.Float64(), 2), 1<<39)) })
	f("powers of two", func(i int) uint64 { return 1 << (i % 40) })
	f("below powers of two", func(i int) uint64 { return 1<<(i%41) - 1 })
	f("small", func(i int) uint64 { return uint64(i % 200) })
	f("zero", func(int) uint64 { return 0 })
	f("one in 10,000", func(i int) uint64 { return uint64(1000 + i/9_999*1_000_000) })
}

func TestQuantilesAny(t *testing.T) {
	value := rapid.OneOf(rapid.Uint64Max(300), rapid.Uint64Max(1<<20), rapid.Uint64Max(1<<40-1))
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(value, 1, 200).Draw(t, "values")
		checkQuantiles(t, record(values), values)
	})
}

func TestHistogramBounds(t *testing.T) {
	var h event.Histogram
	if h.Quantile(0.5) != 0 || h.Mean() != 0 || h.Max() != 0 {
		t.Error("the empty histogram is not 0 throughout")
	}
	h.Record(1 << 50)
	h.Record(10)
	if h.Max() != 1<<50 || h.Quantile(0.99) != 1<<50 || h.Quantile(0.5) != 10 {
		t.Errorf("a value beyond the range: max %d, p99 %v, p50 %v", h.Max(), h.Quantile(0.99), h.Quantile(0.5))
	}
	if got := h.Quantile(math.NaN()); got != 0 {
		t.Errorf("quantile NaN is %v", got)
	}
	h.RecordN(math.MaxUint64, math.MaxUint64)
	h.RecordN(5, 0)
	if h.Count() != math.MaxUint64 || h.Sum() != math.MaxUint64 || h.Min() != 10 {
		t.Errorf("count %d sum %d min %d after more than they hold", h.Count(), h.Sum(), h.Min())
	}
	h.Reset()
	if h.Count() != 0 || len(h.AppendBinary(nil)) != 0 {
		t.Error("Reset leaves something")
	}
}

// TestMerge: whatever the order and grouping, the same values give the same
// bytes, and those of recording them into one.
func TestMerge(t *testing.T) {
	value := rapid.OneOf(rapid.Uint64Max(300), rapid.Uint64Max(1<<24), rapid.Uint64())
	values := rapid.SliceOfN(value, 0, 50)
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := values.Draw(t, "a"), values.Draw(t, "b"), values.Draw(t, "c")
		want := record(slices.Concat(a, b, c)).AppendBinary(nil)
		merge := func(first, second *event.Histogram) *event.Histogram {
			var sum event.Histogram
			sum.Merge(first)
			sum.Merge(second)
			return &sum
		}
		x, y, z := record(a), record(b), record(c)
		for i, h := range []*event.Histogram{
			merge(merge(x, y), z), merge(x, merge(y, z)), merge(merge(z, x), y), merge(y, merge(z, x)),
		} {
			if got := h.AppendBinary(nil); string(got) != string(want) {
				t.Fatalf("order %d gives %x, want %x", i, got, want)
			}
		}
		h := record(a)
		h.Merge(h)
		if string(h.AppendBinary(nil)) != string(merge(x, x).AppendBinary(nil)) {
			t.Fatal("merging with itself is not doubling")
		}
	})
}

func TestHistogramBinary(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := record(rapid.SliceOf(rapid.Uint64()).Draw(t, "values"))
		data := h.AppendBinary([]byte("x"))
		back := record([]uint64{1, 2, 3})
		if err := back.UnmarshalBinary(data[1:]); err != nil {
			t.Fatal(err)
		}
		if string(back.AppendBinary(nil)) != string(data[1:]) || back.Count() != h.Count() || back.Sum() != h.Sum() ||
			back.Min() != h.Min() || back.Max() != h.Max() || back.Quantile(0.5) != h.Quantile(0.5) {
			t.Fatal("what was read is not what was written")
		}
	})
	f := func(data string) {
		t.Helper()
		h := record([]uint64{1})
		if err := h.UnmarshalBinary([]byte(data)); err == nil || h.Count() != 0 {
			t.Errorf("%q: error %v, count %d; want an error and nothing", data, err, h.Count())
		}
	}
	f("\x02")
	f("\x01\x05\x05")                     // no max
	f("\x01\x05\x05\x00")                 // no bucket
	f("\x01\x05\x05\x00\x05")             // no count
	f("\x01\x05\x05\x00\x05\x00")         // count 0
	f("\x01\x05\x05\x00\x06\x01")         // bucket without min
	f("\x01\x06\x05\x00\x05\x01")         // sum too great
	f("\x01\x04\x05\x00\x05\x01")         // sum too small
	f("\x01\x05\x05\x00\x85\x00\x01")     // varint longer than needed
	f("\x01\x05\x05\x00\xff\xff\x7f\x01") // bucket beyond the last
}

func TestHistogramJSON(t *testing.T) {
	type holder struct {
		Latency event.Histogram `json:"latency"`
	}
	in := holder{*record([]uint64{7, 1_000_000})}
	text, err := json.Marshal(in)
	if want := `{"latency":"AceEPQe5hD0HAbIHAQ=="}`; err != nil || string(text) != want {
		t.Fatalf("got %s, %v, want %s", text, err, want)
	}
	var out holder
	if err := json.Unmarshal(text, &out); err != nil || out.Latency.Sum() != 1_000_007 {
		t.Fatalf("%s gives sum %d, %v", text, out.Latency.Sum(), err)
	}
	if err := json.Unmarshal([]byte(`{"latency":"AQ=="}`), &out); err == nil {
		t.Error("a bad histogram in JSON is accepted")
	}
	if err := json.Unmarshal([]byte(`{"latency":5}`), &out); err == nil {
		t.Error("a number is accepted as a histogram")
	}
}

func TestHistogramAllocations(t *testing.T) {
	var h, sum event.Histogram
	var out []byte
	once := func() {
		for v := range uint64(1000) {
			h.Record(v * 997)
		}
		sum.Merge(&h)
		out = sum.AppendBinary(out[:0])
		_ = sum.UnmarshalBinary(out)
		sum.Reset()
		h.Reset()
	}
	if n := testing.AllocsPerRun(20, once); n != 0 {
		t.Errorf("%v allocations in the steady state", n)
	}
}
