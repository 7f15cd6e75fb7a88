package rollup_test

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"testing"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

// Events that somebody sees count as those that nobody does, however many are
// seen, and each is seen once, in order.
func TestVisitedCountAlike(t *testing.T) {
	for _, d := range []event.Direction{event.Inbound, event.Outbound} {
		batches := benchmarkBatches(d, 300)[:4]
		counted := func(want int) (encoded []byte) {
			f := rollup.NewFolder(rollup.Limits{})
			for i, data := range batches {
				seen := 0
				m := rollup.Message{
					Sequence: uint64(i + 1), Data: data, Now: t0 + second, Matches: func(event.Workload) bool { return true },
				}
				if want > 0 {
					m.Visit = func(*event.Header, int64) func(int, *event.Event) bool {
						return func(index int, e *event.Event) bool {
							if index != seen || e.Path == "" {
								t.Fatalf("saw event %d of %q, want %d", index, e.Path, seen)
							}
							seen++
							return seen < want
						}
					}
				}
				if r, err := f.Fold(m); err != nil || r.Events != 300 || seen != min(want, 300) {
					t.Fatalf("%+v, %v; %d events seen, want %d", r, err, seen, want)
				}
			}
			// Rows come in the order in which they were first needed, which may differ.
			delta := f.Take(true)
			slices.SortFunc(delta.Items, func(a, b rollup.Item) int {
				return cmp.Or(cmp.Compare(a.Second, b.Second), cmp.Compare(fmt.Sprint(a.Key), fmt.Sprint(b.Key)))
			})
			return bytes.Join(rollup.Encode(delta, rollup.Meta{}, 0), nil)
		}
		want := counted(0)
		for _, n := range []int{1, 2, 127, 128, 129, 299, 1000} {
			if got := counted(n); !bytes.Equal(got, want) {
				t.Errorf("%v: %d events seen, and the sums are others", d, n)
			}
		}
	}
}
