package scan_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator/scan"
	"github.com/weirmesh/weir/event"
)

// record is what a reading said, with the place after each event.
type record struct {
	said   []string
	places []scan.Position
	at     scan.Position
}

func recordOf(t *testing.T, s stream, q *scan.Question) *record {
	t.Helper()
	r := &record{}
	err := scan.Follow(t.Context(), s, q, &scan.Visitor{
		Opened: func(_ event.Extent, at scan.Position) { r.at = at },
		Event: func(sequence uint64, _ *event.Header, index int, e *event.Event) error {
			r.at.Sequence, r.at.Events = sequence, index+1
			r.say("event " + e.Path)
			return nil
		},
		Gap: func(g scan.Gap) error {
			r.say(fmt.Sprintf("%s %s %d-%d: %d", g.Reason, g.Source.Workload.Name, g.From, g.To, g.Events))
			return nil
		},
		Batch: func(_ *event.Header, p scan.Progress) error {
			r.at.Sequence, r.at.Events, r.at.Stored = p.Sequence, 0, p.Stored
			if n := len(r.places); n > 0 && r.said[n-1][:5] == "event" {
				r.places[n-1] = r.at
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *record) say(what string) {
	r.said, r.places = append(r.said, what), append(r.places, r.at)
}

// resumable is a stream of several events a batch, of which some come late, twice
// or never.
func resumable() stream {
	p, other := &proxy{w: web, instance: 7}, &proxy{w: bot, instance: 8}
	var s stream
	for i := range 60 {
		at := noon.Add(time.Duration(i) * time.Second)
		path := func(n int) string { return fmt.Sprintf("/%d/%d", i, n) }
		m := p.batch(at, request(path(0), 200, 5), request(path(1), 500, 5), request(path(2), 200, 5))
		switch i {
		case 20, 41: // never
		case 30: // late
		case 33:
			s = append(s, p.batch(at, request("/late", 200, 5)), m)
		case 45:
			s = append(s, m, m)
		default:
			s = append(s, m)
		}
		if i == 50 {
			p.shed = 9
		}
		if i%7 == 0 {
			s = append(s, other.batch(at, request("/other"+path(0), 200, 5)))
		}
	}
	return s
}

// Wherever a reading ends, the next says the rest: each event once, and of the
// gaps those that it had not said.
func TestFollowGoesOn(t *testing.T) {
	s := resumable()
	for _, q := range []scan.Question{{Since: noon}, {Since: noon.Add(2 * time.Second)}} {
		q.Until = noon.Add(time.Hour)
		whole := recordOf(t, s, &q)
		if len(whole.said) < 170 || !slices.ContainsFunc(whole.said, func(s string) bool { return s[:4] == "lost" }) {
			t.Fatalf("the stream has not what the test is about: %q", whole.said)
		}
		for i, at := range whole.places {
			if whole.said[i][:5] != "event" {
				continue
			}
			rest := q
			rest.After = &at
			if got, want := recordOf(t, s, &rest).said, whole.said[i+1:]; !slices.Equal(got, want) {
				t.Fatalf("after %s at %+v: %q\nwant %q", whole.said[i], at, got, want)
			}
		}
	}
}

func TestPositionMissed(t *testing.T) {
	at := scan.Position{Stream: noon, Sequence: 10}
	for _, test := range []struct {
		name   string
		stream event.Extent
		missed bool
	}{
		{"all is there", event.Extent{Created: noon, First: 1, Last: 20}, false},
		{"what was read is gone", event.Extent{Created: noon, First: 11, Last: 20}, false},
		{"nothing came", event.Extent{Created: noon, First: 11, Last: 10}, false},
		{"the next is gone", event.Extent{Created: noon, First: 12, Last: 20}, true},
		{"another stream", event.Extent{Created: noon.Add(1), First: 1, Last: 20}, true},
		{"cut off", event.Extent{Created: noon, First: 1, Last: 9}, true},
	} {
		if got := at.Missed(&test.stream); got != test.missed {
			t.Errorf("%s: missed %t", test.name, got)
		}
	}
}

// A batch that the stream has again, long after the first, and after the place to go
// on from, is not shown again; one that comes late for the first time is.
func TestFollowGoesOnPastRepetitions(t *testing.T) {
	p, quiet := &proxy{w: web, instance: 7}, &proxy{w: web, instance: 9}
	again := func(m stored, at time.Time) stored { return stored{m.from, at, slices.Clone(m.data)} }
	var s stream
	var first, second, late, silent stored
	for i := range 120 {
		at := noon.Add(time.Duration(i) * time.Second)
		m := p.batch(at, request(fmt.Sprintf("/%d", i), 200, 5))
		switch i {
		case 5:
			first = m
		case 6:
			second, silent = m, quiet.batch(at, request("/quiet", 200, 5))
			s = append(s, silent)
		case 7:
			late = m // it does not come for now
			continue
		case 100:
			s = append(s, again(first, at), again(late, at), again(second, at), again(silent, at))
		}
		s = append(s, m)
	}
	q := scan.Question{Since: noon.Add(-time.Second), Until: noon.Add(time.Hour)}
	whole := recordOf(t, s, &q)
	for i, at := range whole.places {
		if whole.said[i][:5] != "event" {
			continue
		}
		rest := q
		rest.After = &at
		got, want := recordOf(t, s, &rest).said, whole.said[i+1:]
		events := func(all []string) []string {
			return slices.DeleteFunc(slices.Clone(all), func(said string) bool { return said[:5] != "event" })
		}
		if got, want := events(got), events(want); !slices.Equal(got, want) {
			t.Fatalf("after %s at %+v: %q\nwant %q", whole.said[i], at, got, want)
		}
	}
}
