package rollup_test

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

// sumsField is the number of Batch.sums.
const sumsField = 18

// withoutSums is a batch as a proxy would write it that knows no sums.
func withoutSums(t *testing.T, data []byte) []byte {
	t.Helper()
	var out []byte
	for len(data) > 0 {
		field, _, n := protowire.ConsumeField(data)
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		if field != sumsField {
			out = append(out, data[:n]...)
		}
		data = data[n:]
	}
	return out
}

// TestSumsCountAsEventsDo: batches with sums are to the rollup what they are
// without, on top of batches that have none, of all clocks.
func TestSumsCountAsEventsDo(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	summed := 0
	for round := range 15 {
		with, without := rollup.NewFolder(rollup.Limits{Peers: 6}), rollup.NewFolder(rollup.Limits{Peers: 6})
		for sequence := uint64(1); sequence < 5; sequence++ {
			var events []event.Event
			n := 1 + rng.IntN(15_000)
			for range n {
				e := anyEvent(rng, t0+rng.Int64N(second/10))
				if e.Direction == 0 {
					e.Direction = event.Inbound
				}
				e.Path = fmt.Sprintf("/%c", 'a'+rng.IntN(3))
				if e.Status >= 500 {
					e.Status = uint16(500 + rng.IntN(3))
				}
				e.Latency = uint64(rng.ExpFloat64() * 3000)
				e.Duration = e.Latency + rng.Uint64N(100)
				e.Start = t0 + rng.Int64N(second) - int64(e.Duration)
				events = append(events, e)
			}
			now := t0 + second
			data := encode(header(uint64(round+1), sequence, t0+second), events...)
			switch round % 5 {
			case 3: // a clock that is wrong
				now += 3 * 3600 * second / 2
			case 4: // in the middle of a second
				now -= 400 * second
			}
			bare := withoutSums(t, data)
			if len(bare) < len(data) {
				summed++
			}
			one, err := fold(with, data, now)
			if err != nil {
				t.Fatal(err)
			}
			two, err := fold(without, bare, now)
			if err != nil || one != two {
				t.Fatalf("with sums %+v, without %+v, %v", one, two, err)
			}
		}
		if got, want := encoded(with), encoded(without); !bytes.Equal(got, want) {
			t.Fatalf("round %d: the rollups differ: %d and %d bytes", round, len(got), len(want))
		}
	}
	if summed < 25 {
		t.Errorf("only %d batches had sums", summed)
	}
}

// encoded is the next rollup. Rows come in the order in which they were first
// needed, which may differ.
func encoded(f *rollup.Folder) []byte {
	delta := f.Take(true)
	slices.SortFunc(delta.Items, func(a, b rollup.Item) int {
		return cmp.Or(cmp.Compare(a.Second, b.Second), cmp.Compare(fmt.Sprint(a.Key), fmt.Sprint(b.Key)))
	})
	return bytes.Join(rollup.Encode(delta, rollup.Meta{}, 0), nil)
}
