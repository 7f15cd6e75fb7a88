package cli

import (
	"slices"
	"testing"
	"testing/quick"
)

func TestNumbers(t *testing.T) {
	f := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	f(percent(1), "100.00%")
	f(percent(0.9873), "98.73%")
	f(percent(0.99999), "99.99%")
	f(percent(0.29), "29.00%")
	f(percent(0), "0.00%")
	f(rate(100), "100.0rps")
	f(rate(0.04), "0.0rps")
	f(millis(0.004), "0.00ms")
	f(millis(0.42), "0.42ms")
	f(millis(0.996), "1.0ms")
	f(millis(4.24), "4.2ms")
	f(millis(9.96), "10ms")
	f(millis(420.4), "420ms")
	f(printable("/plain?ü"), "/plain?ü")
	f(printable("a b"), `"a b"`)
	f(printable("\x1b[2J"), `"\x1b[2J"`)
	f(printable("\u202e"), `"\u202e"`)
	f(printable("\xff"), `"\xff"`)
}

func TestNear(t *testing.T) {
	f := func(s string, want ...string) {
		t.Helper()
		if got := near(s, []string{"voting", "web", "emoji", "web", "web-admin", "vote-bot"}); !slices.Equal(got, want) {
			t.Errorf("near %q: %v, want %v", s, got, want)
		}
	}
	f("vting", "voting")
	f("wbe", "web")
	f("wb", "web")
	f("x")
	f("web", "web-admin")
	f("cassandra")
	f("vot", "voting", "vote-bot")
}

func TestLevenshteinIsADistance(t *testing.T) {
	if got := levenshtein("kitten", "sitting"); got != 3 {
		t.Errorf("kitten, sitting: %d", got)
	}
	f := func(a, b, c string) bool {
		ab, bc, ac := levenshtein(a, b), levenshtein(b, c), levenshtein(a, c)
		return ab == levenshtein(b, a) && ac <= ab+bc && (ab == 0) == (a == b) && ab <= max(len(a), len(b))
	}
	if err := quick.Check(f, nil); err != nil {
		t.Error(err)
	}
}

func TestParseKind(t *testing.T) {
	f := func(s, want string) {
		t.Helper()
		if got, err := parseKind(s); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %s", s, got, err, want)
		}
	}
	f("deploy", "deploy")
	f("Deployment", "deploy")
	f("po", "pod")
	f("namespaces", "ns")
	f("cj", "cronjob")
	f("replicasets", "rs")
	f("all", "all")
	if _, err := parseKind("service"); err == nil {
		t.Error("service is no type of Weir's")
	}
}
