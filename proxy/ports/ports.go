// Package ports reads lists of ports as flags have them, such as
// "22,8000-8010".
package ports

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Range is the ports From to To, both included.
type Range struct{ From, To uint16 }

// Contains tells whether port is in the range.
func (r Range) Contains(port uint16) bool { return r.From <= port && port <= r.To }

// String is "22" or "8000-8010".
func (r Range) String() string {
	if r.From == r.To {
		return strconv.Itoa(int(r.From))
	}
	return fmt.Sprintf("%d-%d", r.From, r.To)
}

// Parse parses a list of ports and ranges, such as "22,8000-8010". The
// error names the entry that is none. An empty list is none.
func Parse(v string) ([]Range, error) {
	var out []Range
	for entry := range strings.SplitSeq(v, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		from, to, isRange := strings.Cut(entry, "-")
		first, err := ParseOne(from)
		last := first
		if err == nil && isRange {
			last, err = ParseOne(to)
		}
		if err != nil {
			return nil, fmt.Errorf("%q is neither a port nor a range of ports: %w", entry, err)
		}
		if last < first {
			return nil, fmt.Errorf("the range %q ends before it begins", entry)
		}
		out = append(out, Range{first, last})
	}
	return out, nil
}

// ParseOne parses one port, which is not 0.
func ParseOne(v string) (uint16, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a number from 1 to 65535", v)
	}
	return uint16(n), nil
}

// Merge returns the same ports in as few ranges as can be, in ascending order:
// ranges that overlap or touch are joined.
func Merge(in []Range) []Range {
	sorted := slices.Clone(in)
	slices.SortFunc(sorted, func(a, b Range) int { return int(a.From) - int(b.From) })
	var out []Range
	for _, r := range sorted {
		if n := len(out); n > 0 && int(r.From) <= int(out[n-1].To)+1 {
			out[n-1].To = max(out[n-1].To, r.To)
			continue
		}
		out = append(out, r)
	}
	return out
}

// Contain tells whether port is in one of the ranges.
func Contain(ranges []Range, port uint16) bool {
	return slices.ContainsFunc(ranges, func(r Range) bool { return r.Contains(port) })
}
