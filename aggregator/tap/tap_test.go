package tap_test

import (
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator/tap"
	"github.com/weirmesh/weir/event"
)

// bus is who listens, and what they got.
type bus struct {
	listening, probed bool
	published         []string
	announced         []event.Workload
}

func (b *bus) Interested(string) bool { return b.listening || !b.probed }

func (b *bus) PublishInterest(subject string, data []byte) bool {
	if !b.Interested(subject) {
		return false
	}
	b.probed = true
	b.published = append(b.published, subject+" "+string(data))
	return true
}

func (b *bus) AnnounceTapped(w event.Workload) error {
	b.announced = append(b.announced, w)
	return nil
}

func TestFanout(t *testing.T) {
	web := event.Workload{Cluster: "c", Namespace: "ns", Kind: "deploy", Name: "web"}
	h := &event.Header{Source: event.Source{Workload: web}, Instance: 1, Sequence: 2}
	now := time.Unix(1_800_000_000, 0)
	e := &event.Event{Direction: event.Inbound, Protocol: event.HTTP1, Status: 200, GRPCStatus: -1, Method: "GET", Path: "/a"}

	b := &bus{}
	f := tap.New(b, func(w event.Workload) string { return "tap." + w.Name })
	if f.Batch(h, now.Add(-time.Hour), now) != nil {
		t.Error("handed on what is an hour old")
	}
	// Nobody listens: one event finds out, then none is encoded.
	put := f.Batch(h, now, now)
	put(0, e)
	put(1, e)
	if len(b.published) != 1 || !strings.HasPrefix(b.published[0], "tap.web {") {
		t.Fatalf("published %q", b.published)
	}
	if f.Batch(h, now, now.Add(10*time.Millisecond)) != nil {
		t.Error("publishes though nobody listens")
	}
	f.Tick(now.Add(200 * time.Millisecond))
	if len(b.announced) != 0 || f.Tapped() != 0 {
		t.Error("announced though nobody listens")
	}

	// Somebody does: all events, and the proxies are told once a second.
	b.listening = true
	now = now.Add(time.Second)
	put = f.Batch(h, now, now)
	for i := range 100 {
		put(i, e)
	}
	if len(b.published) != 101 {
		t.Errorf("%d events", len(b.published))
	}
	for i := range 30 {
		now = now.Add(100 * time.Millisecond)
		if i%5 == 0 {
			f.Batch(h, now, now)(0, e)
		}
		f.Tick(now)
	}
	if len(b.announced) != 3 || b.announced[0] != web || f.Tapped() != 1 {
		t.Errorf("announced %d times, %d tapped", len(b.announced), f.Tapped())
	}
	parsed, err := event.ParseJSON([]byte(strings.TrimPrefix(b.published[0], "tap.web ")))
	if err != nil || parsed.Path != "/a" {
		t.Errorf("%+v, %v", parsed, err)
	}

	// They leave.
	b.listening = false
	if f.Batch(h, now, now) != nil {
		t.Error("publishes though all have left")
	}
	before := len(b.announced)
	for range 50 {
		now = now.Add(100 * time.Millisecond)
		f.Tick(now)
	}
	if len(b.announced) != before || f.Tapped() != 0 {
		t.Errorf("announced %d times more", len(b.announced)-before)
	}
}
