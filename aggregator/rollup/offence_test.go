package rollup

import (
	"testing"

	"github.com/weirmesh/weir/event"
)

// TestOffenceOfRows: where all rows together are too many, that is what is noted, and
// not that a workload has too many of a kind.
func TestOffenceOfRows(t *testing.T) {
	const second = 1_800_000_000
	pods := func(f *Folder, n int) map[string]Offence {
		for i := range n {
			w := event.Workload{Namespace: "ns", Kind: "deploy", Name: "web"}
			f.slot(Key{Dimension: ByPod, Workload: w, Pod: string(rune('a' + i))}, second)
		}
		kinds := map[string]Offence{}
		for _, o := range f.Offences() {
			kinds[o.Kind] = o
		}
		return kinds
	}
	if got := pods(NewFolder(Limits{Keys: 4, Pods: 10}), 8); len(got) != 1 || got[OffenceRow].Limit != 4 || got[OffenceRow].Count != 4 || got[OffenceRow].Example != "e" {
		t.Errorf("too many rows give %+v", got)
	}
	if got := pods(NewFolder(Limits{Keys: 10, Pods: 4}), 8); len(got) != 1 || got[OffencePod].Limit != 4 || got[OffencePod].Count != 4 {
		t.Errorf("too many pods give %+v", got)
	}
}
