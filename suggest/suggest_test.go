package suggest

import (
	"slices"
	"strings"
	"testing"
	"testing/quick"
)

func TestNear(t *testing.T) {
	known := []string{"voting", "web", "emoji", "web", "web-admin", "vote-bot", "grpc_status", "status", "dst", "latency", strings.Repeat("a", 100)}
	f := func(s string, want ...string) {
		t.Helper()
		if got := Near(s, known); !slices.Equal(got, want) {
			t.Errorf("near %q: %v, want %v", s, got, want)
		}
	}
	f("vting", "voting")
	f("wbe", "web")
	f("wb", "web")
	f("x")
	f("")
	f("web", "web-admin")
	f("cassandra")
	f("vot", "voting", "vote-bot", "dst")
	f("stats", "status")
	f("lat", "latency", "dst")
	f("status", "grpc_status")
	f(strings.Repeat("a", 99))
}

func TestDistanceIsOne(t *testing.T) {
	if got := distance("kitten", "sitting"); got != 3 {
		t.Errorf("kitten, sitting: %d", got)
	}
	f := func(a, b, c string) bool {
		ab, bc, ac := distance(a, b), distance(b, c), distance(a, c)
		return ab == distance(b, a) && ac <= ab+bc && (ab == 0) == (a == b) && ab <= max(len(a), len(b))
	}
	if err := quick.Check(f, nil); err != nil {
		t.Error(err)
	}
}
