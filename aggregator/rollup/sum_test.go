package rollup_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/weirmesh/weir/aggregator/rollup"
)

// randomCell has some of everything that a cell may hold.
func randomCell(rng *rand.Rand) *rollup.Cell {
	c := &rollup.Cell{}
	for _, into := range []*uint64{&c.Requests, &c.Successes, &c.RequestBytes, &c.ResponseBytes, &c.Connections, &c.Batches, &c.Events, &c.Shed} {
		if rng.IntN(3) > 0 {
			*into = rng.Uint64() >> (8 + rng.IntN(56))
		}
	}
	c.Lost = int64(rng.IntN(5)) - 2
	for i := range rng.IntN(4) {
		c.Status = append(c.Status, rollup.Count[uint16]{Value: uint16(100*i + rng.IntN(100)), N: 1 + rng.Uint64N(1e6)})
	}
	for i := range max(rng.IntN(4)-1, 0) {
		c.GRPC = append(c.GRPC, rollup.Count[int16]{Value: int16(i - 1), N: 1 + rng.Uint64N(300)})
	}
	for i := range max(rng.IntN(4)-1, 0) {
		c.Errors = append(c.Errors, rollup.Count[string]{Value: string(rune('a' + i)), N: 1 + rng.Uint64N(300)})
	}
	for range rng.IntN(20) {
		c.Latency.Record(rng.Uint64N(1e7))
		c.Duration.Record(rng.Uint64N(1e7))
	}
	return c
}

// An Adder gives what a Decoder gives.
func TestAdder(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	var adder rollup.Adder
	var decoder rollup.Decoder
	var got rollup.Cell
	for range 500 {
		var want rollup.Cell
		got.Reset()
		for range 1 + rng.IntN(5) {
			data := randomCell(rng).AppendBinary(nil)
			if err := decoder.Add(&want, data); err != nil {
				t.Fatal(err)
			}
			if err := adder.Add(&got, data); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := got.AppendBinary(nil), want.AppendBinary(nil); !bytes.Equal(got, want) {
			t.Fatalf("%x\nwant\n%x", got, want)
		}
	}
}

// What a Decoder refuses an Adder refuses, and neither panics.
func TestAdderRefuses(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	refused := 0
	for range 5000 {
		data := randomCell(rng).AppendBinary(nil)
		if len(data) == 0 {
			continue
		}
		if rng.IntN(2) == 0 {
			data = data[:rng.IntN(len(data))]
		} else {
			data[rng.IntN(len(data))] ^= byte(1 + rng.IntN(255))
		}
		var adder rollup.Adder
		var decoder rollup.Decoder
		var sum, want rollup.Cell
		err := adder.Add(&sum, data)
		if decoder.Add(&want, data) != nil {
			refused++
			continue
		}
		// Some of the broken are still valid; fields may be in another order
		// then, which the Adder need not take.
		if err == nil && sum.Requests != want.Requests {
			t.Fatalf("%x: %d requests, want %d", data, sum.Requests, want.Requests)
		}
	}
	if refused == 0 {
		t.Error("nothing was broken")
	}
}
