package intercept

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// PortRange is the ports From to To, both included.
type PortRange struct{ From, To uint16 }

// Contains tells whether port is in the range.
func (r PortRange) Contains(port uint16) bool { return r.From <= port && port <= r.To }

// String is "22" or "8000-8010".
func (r PortRange) String() string {
	if r.From == r.To {
		return strconv.Itoa(int(r.From))
	}
	return fmt.Sprintf("%d-%d", r.From, r.To)
}

// ParsePorts parses a list of ports and ranges, such as "22,8000-8010". The
// error names the entry that is none. An empty list is none.
func ParsePorts(v string) ([]PortRange, error) {
	var out []PortRange
	for entry := range strings.SplitSeq(v, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		from, to, isRange := strings.Cut(entry, "-")
		first, err := parsePort(from)
		last := first
		if err == nil && isRange {
			last, err = parsePort(to)
		}
		if err != nil {
			return nil, fmt.Errorf("%q is neither a port nor a range of ports: %w", entry, err)
		}
		if last < first {
			return nil, fmt.Errorf("the range %q ends before it begins", entry)
		}
		out = append(out, PortRange{first, last})
	}
	return out, nil
}

func parsePort(v string) (uint16, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a number from 1 to 65535", v)
	}
	return uint16(n), nil
}

// mergePorts sorts ranges and joins those that overlap or touch.
func mergePorts(in []PortRange) []PortRange {
	sorted := slices.Clone(in)
	slices.SortFunc(sorted, func(a, b PortRange) int { return int(a.From) - int(b.From) })
	var out []PortRange
	for _, r := range sorted {
		if n := len(out); n > 0 && int(r.From) <= int(out[n-1].To)+1 {
			out[n-1].To = max(out[n-1].To, r.To)
			continue
		}
		out = append(out, r)
	}
	return out
}
