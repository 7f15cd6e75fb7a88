package cli

import (
	"testing"
	"time"
)

func TestScanValue(t *testing.T) {
	f := func(want, by, v string) {
		t.Helper()
		if got := scanValue(by, v); got != want {
			t.Errorf("%s %q is %q; want %q", by, v, got, want)
		}
	}
	f("1166µs", "duration", "1166")
	f("(other)", "latency", "(other)")
	f("-", "latency", "")
	f("500", "status", "500")
	f("-", "path", "")
}

func TestLength(t *testing.T) {
	f := func(want string, d time.Duration) {
		t.Helper()
		if got := length(d); got != want {
			t.Errorf("%s is %q; want %q", d, got, want)
		}
	}
	f("1m", time.Minute)
	f("1m30s", 90*time.Second)
	f("1h", time.Hour)
	f("1h0m5s", time.Hour+5*time.Second)
	f("1d", 24*time.Hour)
	f("25h", 25*time.Hour)
	f("10s", 9900*time.Millisecond)
	f("0s", 0)
}

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
