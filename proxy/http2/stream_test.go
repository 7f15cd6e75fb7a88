package http2

import (
	"math/rand/v2"
	"testing"
)

// TestStreamTable compares a table with a map.
func TestStreamTable(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 300 {
		var table streamTable
		model := map[uint32]*stream{}
		next := uint32(1)
		for range random.IntN(400) {
			if random.IntN(5) < 3 {
				next += 2 * uint32(1+random.IntN(1+random.IntN(20)))
				st := &stream{id: next}
				table.put(st)
				model[next] = st
			} else {
				for id := range model {
					table.remove(id)
					delete(model, id)
					break
				}
			}
		}
		if table.count != len(model) {
			t.Fatalf("%d streams, want %d", table.count, len(model))
		}
		for id := uint32(1); id < next+40; id += 2 {
			if got := table.get(id); got != model[id] {
				t.Fatalf("stream %d: got %v, want %v", id, got, model[id])
			}
		}
		// Every stream is seen once while half of them are removed.
		seen := map[uint32]bool{}
		table.each(func(st *stream) {
			if seen[st.id] || model[st.id] != st {
				t.Fatalf("stream %d twice, or gone", st.id)
			}
			seen[st.id] = true
			if st.id&2 != 0 {
				table.remove(st.id)
			}
		})
		if len(seen) != len(model) {
			t.Fatalf("%d streams seen of %d", len(seen), len(model))
		}
		table.each(func(st *stream) { table.remove(st.id) })
		if table.count != 0 || table.get(1) != nil {
			t.Fatal("not empty")
		}
	}
}
