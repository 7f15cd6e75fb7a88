package api

import "time"

// limiter lets a rate through, with bursts of a second's worth. It is not safe
// for concurrent use.
type limiter struct {
	rate, tokens, burst float64
	last                time.Time
}

// newLimiter has no limit where rate is 0.
func newLimiter(rate float64, now time.Time) *limiter {
	burst := max(1, rate)
	return &limiter{rate: rate, tokens: burst, burst: burst, last: now}
}

func (l *limiter) allow(now time.Time) bool {
	if l.rate == 0 {
		return true
	}
	l.tokens = min(l.burst, l.tokens+l.rate*now.Sub(l.last).Seconds())
	l.last = now
	if l.tokens < 1 {
		return false
	}
	l.tokens--
	return true
}
