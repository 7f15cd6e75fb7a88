package bus_test

import (
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/bus"
)

func TestRetentionDefaults(t *testing.T) {
	r, err := bus.Retention{}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	want := bus.Retention{EventAge: time.Hour, EventBytes: 4 << 30, RollupAge: 15 * time.Minute, Rollup10sAge: 6 * time.Hour, Rollup1mAge: 7 * 24 * time.Hour, RollupBytes: 2 << 30, Replicas: 1}
	if r != want {
		t.Errorf("defaults are %+v, want %+v", r, want)
	}
	f := func(r bus.Retention, names string) {
		t.Helper()
		if _, err := r.WithDefaults(); err == nil || !strings.Contains(err.Error(), names) {
			t.Errorf("%+v gives %v, want an error about %s", r, err, names)
		}
	}
	f(bus.Retention{EventAge: -1}, "events for -1ns")
	f(bus.Retention{RollupAge: time.Millisecond}, "rollups for 1ms")
	f(bus.Retention{Rollup10sAge: 1}, "rollups of 10 s for 1ns")
	f(bus.Retention{Rollup1mAge: 1}, "rollups of 1 min for 1ns")
	f(bus.Retention{EventBytes: 1}, "events in 1 bytes")
	f(bus.Retention{RollupBytes: -1}, "rollups in -1 bytes")
	f(bus.Retention{Replicas: 6}, "6 replicas")
}

func TestStreams(t *testing.T) {
	r, err := bus.Retention{EventAge: time.Minute, EventBytes: 1 << 30}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	streams := bus.Streams(r)
	byName := map[string]bus.Stream{}
	for _, s := range streams {
		byName[s.Name] = s
		if s.MaxAge <= 0 || s.MaxBytes <= 0 || s.MaxMessage <= 0 || s.Replicas != 1 {
			t.Errorf("stream %s is not bounded: %+v", s.Name, s)
		}
		if s.Dedup > s.MaxAge {
			t.Errorf("stream %s remembers ids for %v, longer than its messages (%v)", s.Name, s.Dedup, s.MaxAge)
		}
	}
	if s := byName[bus.StreamEvents]; s.MaxAge != time.Minute || s.MaxBytes != 1<<30 || s.TransformTo == "" || s.Memory {
		t.Errorf("events stream is %+v", s)
	}
	if s := byName[bus.StreamRollups]; s.MaxAge != 16*time.Minute || s.Memory {
		t.Errorf("rollups stream is %+v", s)
	}
	if s := byName[bus.StreamMembers]; s.MaxAge != bus.MemberTTL || !s.Memory || !s.Latest {
		t.Errorf("members stream is %+v", s)
	}
	if s := byName[bus.StreamExports]; s.MaxAge < 30*24*time.Hour || s.Memory || !s.Latest {
		t.Errorf("exports stream is %+v", s)
	}
}
