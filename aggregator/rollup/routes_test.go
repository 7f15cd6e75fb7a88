package rollup_test

import (
	"maps"
	"reflect"
	"testing"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

func TestRoutesFold(t *testing.T) {
	f := rollup.NewFolder(rollup.Limits{})
	call := request(event.Inbound, t0, "/shop.v1.Cart/Add1234")
	call.Protocol = event.GRPC
	conn := request(event.Inbound, t0, "")
	conn.Protocol, conn.Method = event.TLS, ""
	events := []event.Event{call, conn}
	for _, path := range []string{"/users/1", "/users/2", "/users/3/orders/4", "/users/me", "*"} {
		events = append(events, request(event.Inbound, t0, path))
	}
	if _, err := fold(f, encode(header(1, 1, t0), events...), t0); err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{
		"/users/{id}": 2, "/users/{id}/orders/{id}": 1, "/users/me": 1, "*": 1,
		"/shop.v1.Cart/Add1234": 1, "": 0,
	}
	if got := rows(f, event.Inbound); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestLearnedRoutesSurviveATakeover: the next owner goes on with the templates
// of the one before it, and what was counted under other names is found.
func TestLearnedRoutesSurviveATakeover(t *testing.T) {
	first := rollup.NewFolder(rollup.Limits{})
	deltas := []*rollup.Delta{}
	sequence := uint64(0)
	put := func(f *rollup.Folder, from, to int) {
		t.Helper()
		var events []event.Event
		for i := from; i < to; i++ {
			events = append(events, request(event.Inbound, t0, "/users/"+word(i)), request(event.Inbound, t0, "/users/me"))
		}
		sequence++
		if _, err := fold(f, encode(header(1, sequence, t0), events...), t0); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		put(first, 10*i, 10*i+10)
		deltas = append(deltas, readBack(t, first.Take(i%7 == 0)))
	}
	want := map[string]uint64{"/users/{*}": 200, "/users/me": 200}
	count := func(f *rollup.Folder) map[string]uint64 {
		got := map[string]uint64{}
		var decoder rollup.Decoder
		for _, d := range deltas {
			for i := range d.Items {
				if k := &d.Items[i].Key; k.Dimension == rollup.ByRoute {
					var c rollup.Cell
					if err := decoder.Add(&c, d.Items[i].Sums); err != nil {
						t.Fatal(err)
					}
					got[f.Canonical(k).Path] += c.Requests
				}
			}
		}
		return got
	}
	if got := count(first); !maps.Equal(got, want) {
		t.Errorf("the owner says %v, want %v", got, want)
	}
	next := rollup.NewFolder(rollup.Limits{})
	sources := map[rollup.SourceID]rollup.Source{}
	for _, d := range deltas {
		next.Learn(d.Learned)
		for i := range d.Items {
			next.Touch(d.Items[i].Key, d.Items[i].Second)
		}
		d.Apply(sources)
	}
	next.Restore(first.Mark(), sources)
	if got := count(next); !maps.Equal(got, want) {
		t.Errorf("the next owner says %v, want %v", got, want)
	}
	put(next, 1000, 1005)
	if got, want := rows(next, event.Inbound), map[string]uint64{"/users/{*}": 5, "/users/me": 5}; !maps.Equal(got, want) {
		t.Errorf("the next owner counts %v, want %v", got, want)
	}
	a, b := first.Take(true).Learned, next.Take(true).Learned
	if len(a) != 1 || !reflect.DeepEqual(a, b) {
		t.Errorf("learned: %+v and %+v", a, b)
	}
}

// TestLearnedRoutesMakeRoom: rows that were folded into another don't count
// against the cap any more.
func TestLearnedRoutesMakeRoom(t *testing.T) {
	f := rollup.NewFolder(rollup.Limits{Routes: 120})
	var events []event.Event
	for i := range 300 {
		events = append(events, request(event.Inbound, t0, "/users/"+word(i)))
	}
	if _, err := fold(f, encode(header(1, 1, t0), events...), t0); err != nil {
		t.Fatal(err)
	}
	f.Take(false)
	events = events[:0]
	for i := range 90 {
		events = append(events, request(event.Inbound, t0, "/"+word(i)))
	}
	if _, err := fold(f, encode(header(1, 2, t0), events...), t0); err != nil {
		t.Fatal(err)
	}
	if got := rows(f, event.Inbound); got[rollup.OtherName] != 0 || len(got) != 90 {
		t.Errorf("%d rows, %d in (other)", len(got), got[rollup.OtherName])
	}
}
