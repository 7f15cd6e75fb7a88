package rollup_test

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

// TestReuse: who gives the memory of what was taken back gets the same rollups as
// who doesn't, whole and cut into small parts.
func TestReuse(t *testing.T) {
	batches := slices.Concat(benchmarkBatches(event.Inbound, 300)[:6], benchmarkBatches(event.Outbound, 40)[:6])
	reused, plain := rollup.NewFolder(rollup.Limits{}), rollup.NewFolder(rollup.Limits{})
	var encoder rollup.Encoder
	var reader rollup.Reader
	for i, data := range batches {
		if i == len(batches)/2 {
			continue // a source's number is missing
		}
		var groups [2][][]byte
		for n, f := range []*rollup.Folder{reused, plain} {
			m := rollup.Message{Sequence: uint64(i + 1), Data: data, Now: t0 + second, Matches: func(event.Workload) bool { return true }}
			if _, err := f.Fold(m); err != nil {
				t.Fatal(err)
			}
			if i%3 == 1 {
				continue // so that the next takes more
			}
			d := f.Take(i%4 == 0)
			for _, limit := range []int{0, 600} {
				if f == plain {
					groups[n] = append(groups[n], rollup.Encode(d, rollup.Meta{}, limit)...)
					continue
				}
				for _, data := range encoder.Encode(d, rollup.Meta{}, limit) {
					groups[n] = append(groups[n], bytes.Clone(data))
				}
			}
			for j := range d.Items {
				if d.Items[j].Number == nil {
					t.Fatal("an item has nowhere to remember its key")
				}
			}
			if f == reused {
				f.Reuse(d)
			}
		}
		if !slices.EqualFunc(groups[0], groups[1], bytes.Equal) {
			t.Fatalf("batch %d: another rollup in memory that was used before", i)
		}
		for _, data := range groups[0] {
			want, err := rollup.Decode(data)
			if err != nil {
				t.Fatal(err)
			}
			got, err := reader.Decode(data)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("batch %d: another part in memory that was used before", i)
			}
			reader.Reuse(&got.Delta)
		}
	}
}
