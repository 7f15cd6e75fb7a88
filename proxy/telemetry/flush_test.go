package telemetry

import (
	"testing"
	"time"
)

// TestUntilFlush: flushes keep to the wall clock, at the proxy's own phase.
func TestUntilFlush(t *testing.T) {
	second := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f := func(after, every time.Duration, phase float64, want time.Duration) {
		t.Helper()
		if got := untilFlush(second.Add(after), every, phase); got != want {
			t.Errorf("%v after the second, every %v at phase %v: %v, want %v", after, every, phase, got, want)
		}
	}
	f(0, time.Second, 0.25, 250*time.Millisecond)
	f(100*time.Millisecond, time.Second, 0.25, 150*time.Millisecond)
	f(250*time.Millisecond, time.Second, 0.25, time.Second)
	f(300*time.Millisecond, time.Second, 0.25, 950*time.Millisecond)
	f(0, time.Second, 0, time.Second)
	f(999*time.Millisecond, time.Second, 0, time.Millisecond)
	f(130*time.Millisecond, 100*time.Millisecond, 0.5, 20*time.Millisecond)
	f(170*time.Millisecond, 100*time.Millisecond, 0.5, 80*time.Millisecond)
}
