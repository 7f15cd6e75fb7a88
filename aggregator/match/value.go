package match

import (
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/weirmesh/weir/event"
)

func ended(e *event.Event) time.Time {
	return time.UnixMicro(e.Start + int64(min(e.Duration, math.MaxInt64/2))).UTC()
}

func minuteOf(_ *event.Header, e *event.Event) string {
	return ended(e).Format("2006-01-02T15:04Z07:00")
}

func secondOf(_ *event.Header, e *event.Event) string { return ended(e).Format(time.RFC3339) }

func traceOf(_ *event.Header, e *event.Event) string {
	if e.TraceID == ([16]byte{}) {
		return ""
	}
	var b [32]byte
	for i, v := range e.TraceID {
		b[2*i], b[2*i+1] = hexDigits[v>>4], hexDigits[v&15]
	}
	return string(b[:])
}

const hexDigits = "0123456789abcdef"

func hex(v uint64) string {
	var b [16]byte
	for i := range b {
		b[i] = hexDigits[v>>(60-4*i)&15]
	}
	return string(b[:])
}

// units are what may stand behind a number, with its factor, longest first
// where one begins another.
var units = [...]struct {
	name   string
	unit   Unit
	factor float64
}{
	{"ns", Microseconds, 1e-3}, {"us", Microseconds, 1}, {"µs", Microseconds, 1}, {"μs", Microseconds, 1},
	{"ms", Microseconds, 1e3}, {"s", Microseconds, 1e6}, {"m", Microseconds, 60e6}, {"h", Microseconds, 3600e6},
	{"B", Bytes, 1}, {"kB", Bytes, 1e3}, {"KB", Bytes, 1e3}, {"KiB", Bytes, 1 << 10}, {"MB", Bytes, 1e6}, {"MiB", Bytes, 1 << 20},
	{"GB", Bytes, 1e9}, {"GiB", Bytes, 1 << 30},
}

// quantity reads a number with or without a unit. Without one, unit is Plain.
func quantity(s string) (v float64, unit Unit, ok bool) {
	end := strings.IndexFunc(s, func(r rune) bool { return !unicode.IsDigit(r) && r != '.' && r != '-' && r != '+' })
	if end < 0 {
		end = len(s)
	}
	v, err := strconv.ParseFloat(s[:end], 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, Plain, false
	}
	if end == len(s) {
		return v, Plain, true
	}
	for _, u := range units {
		if u.name == s[end:] {
			return v * u.factor, u.unit, true
		}
	}
	return 0, Plain, false
}

// fits tells whether a quantity of unit may be compared with a field of unit
// want: a number without unit fits anything.
func fits(unit, want Unit) bool { return unit == Plain || unit == want }

func example(u Unit) string {
	switch u {
	case Microseconds:
		return "250ms (us, ms, s, m or h)"
	case Bytes:
		return "10kB (B, kB, KiB, MB, MiB, GB or GiB)"
	}
	return "200"
}

// compare reads an operator and gives what it does.
func comparator(op string) func(a, b float64) bool {
	switch op {
	case ">":
		return func(a, b float64) bool { return a > b }
	case ">=":
		return func(a, b float64) bool { return a >= b }
	case "<":
		return func(a, b float64) bool { return a < b }
	case "<=":
		return func(a, b float64) bool { return a <= b }
	case "=", "==":
		return func(a, b float64) bool { return a == b }
	case "!=":
		return func(a, b float64) bool { return a != b }
	}
	return nil
}

// splitOperator cuts a comparison operator off the front of s.
func splitOperator(s string) (op, rest string) {
	s = strings.TrimSpace(s)
	n := len(s) - len(strings.TrimLeft(s, "<>=!"))
	return s[:n], strings.TrimSpace(s[n:])
}

// clip keeps a hostile value from filling an error.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
