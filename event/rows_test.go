package event_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/weirmesh/weir/event"
)

// NextRows gives what NextRow gives, also after some that NextRow gave.
func TestNextRows(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for _, n := range []int{0, 1, 127, 128, 129, 1000} {
		var enc event.Encoder
		for i := range n {
			enc.Add(&event.Event{
				Start: int64(1e15 + rng.Uint64N(1e6)), Direction: event.Inbound, Protocol: event.HTTP1, Method: "GET", Path: "/" + string(rune('a'+rng.IntN(9))),
				Status: 200, Latency: rng.Uint64N(1 << rng.IntN(40)), Duration: 1 << 41, RequestBytes: rng.Uint64N(1e4), ResponseBytes: rng.Uint64N(1e9),
				Connection: uint64(i % 7), Stream: uint32(i),
			})
		}
		data := enc.Encode(nil, &event.Header{Instance: 1, Sequence: 1, Sent: 1e15, Source: event.Source{Workload: event.Workload{Name: "a"}}})
		for _, before := range []int{0, event.RowsAtOnce} {
			var one, many event.Decoder
			if err := one.Reset(data); err != nil {
				t.Fatal(err)
			}
			if err := many.Reset(data); err != nil {
				t.Fatal(err)
			}
			var want, first event.Row
			for range before {
				many.NextRow(&first)
				one.NextRow(&want)
			}
			var rows event.Rows
			for many.NextRows(&rows) {
				ends, times := rows.End[:rows.N], uint64(0)
				for i := range rows.N {
					times |= rows.Latency[i] | rows.Duration[i]
				}
				if rows.First != slices.Min(ends) || rows.Last != slices.Max(ends) || rows.Times != times {
					t.Fatalf("%d events: from %d to %d, times %x, which is not so", n, rows.First, rows.Last, rows.Times)
				}
				for i := range rows.N {
					if !one.NextRow(&want) {
						t.Fatalf("%d events: NextRows gives too many", n)
					}
					got := event.Row{
						Exchange: int(rows.Exchange[i]), Connection: int(rows.Connection[i]), End: rows.End[i],
						Latency: rows.Latency[i], Duration: rows.Duration[i], RequestBytes: rows.RequestBytes[i], ResponseBytes: rows.ResponseBytes[i],
					}
					if got != want {
						t.Fatalf("%d events: got %+v, want %+v", n, got, want)
					}
				}
			}
			if one.NextRow(&want) {
				t.Errorf("%d events: NextRows gives too few", n)
			}
			if before == 0 {
				untimed(t, data)
			}
		}
	}
}

// untimed checks that without times the other numbers are the same.
func untimed(t *testing.T, data []byte) {
	t.Helper()
	var with, without event.Decoder
	if err := errors.Join(with.Reset(data), without.Reset(data)); err != nil {
		t.Fatal(err)
	}
	want, got := event.Rows{}, event.Rows{Untimed: true}
	for with.NextRows(&want) {
		want.Untimed, want.End, want.Duration = true, got.End, got.Duration
		want.First, want.Last, want.Times = got.First, got.Last, got.Times
		if !without.NextRows(&got) || got != want {
			t.Fatal("rows without times differ")
		}
	}
}
