package cli

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/api/weirpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// compareFlag is --compare: how long before the window the one that it is
// compared with lies. Both are of the same length.
type compareFlag struct{ ago time.Duration }

func (f *compareFlag) flags(cmd *cobra.Command) {
	cmd.Flags().Var((*lengthValue)(&f.ago), "compare", "show how it differs from the same window so long before, as 10m")
}

// check refuses what is no distance.
func (f *compareFlag) check(cmd *cobra.Command) error {
	if cmd.Flags().Changed("compare") && f.ago < time.Second {
		return Usagef(cmd, "--compare %s: how long before? Give at least 1s, as in --compare 10m", f.ago)
	}
	return nil
}

// window is the one to compare with, of what an answer covered; nil where
// nothing is to be compared.
func (f *compareFlag) window(covered *weirpb.Coverage) *weirpb.Window {
	if f.ago == 0 || covered == nil {
		return nil
	}
	return &weirpb.Window{
		Since: timestamppb.New(covered.GetSince().AsTime().Add(-f.ago)),
		Until: timestamppb.New(covered.GetUntil().AsTime().Add(-f.ago)),
	}
}

// comparison is a table's second window; nil where there is none. Its methods
// may be called on nil.
type comparison struct {
	// covered is what that window's answer is about.
	covered *weirpb.Coverage
	// bound is how exact quantiles are, relative.
	bound float64
	// coloured marks what became better or worse.
	coloured bool
}

// What the numbers in brackets are, and the changes of edges.
const (
	compareNumbers = "In brackets is the difference (=: none, or none that the bound of quantiles can tell)"
	compareEdges   = "CHANGE is the difference"
)

// compare gives the comparison that the answer about the window asked allows,
// and says what it is and where it falls short; nil where statistics do not reach
// back so far.
func (a *app) compare(what string, asked *weirpb.Window, covered *weirpb.Coverage) *comparison {
	since, until, oldest := asked.GetSince().AsTime(), asked.GetUntil().AsTime(), covered.GetOldest()
	if oldest == nil {
		a.notef("There is nothing to compare with: no statistics are kept.")
		return nil
	}
	if from := oldest.AsTime(); !from.Before(until) {
		a.notef("There is nothing to compare with: statistics reach back to %s, the window before ended at %s.",
			clock(from, a.now()), clock(until, a.now()))
		return nil
	}
	c := &comparison{covered: covered, bound: covered.GetQuantileError(), coloured: colours(a)}
	note := fmt.Sprintf("%s from %s to %s", what, clock(covered.GetSince().AsTime(), a.now()), clock(covered.GetUntil().AsTime(), a.now()))
	if covered.GetSince().AsTime().After(since) {
		note += ", which is all that is kept of it"
	}
	a.notef("%s.", note)
	return c
}

// colours tells whether output may be coloured: on a terminal that can, unless
// https://no-color.org is asked for.
func colours(a *app) bool {
	return isTerminal(a.Streams.Out) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// beside is one row of both windows; either may be nil, not both.
type beside[R any] struct{ now, before *R }

// row is where the names are.
func (b beside[R]) row() *R { return cmp.Or(b.now, b.before) }

// pair joins the rows of both windows that have the same key. What was only
// before comes last.
func pair[R any, K comparable](now, before []*R, key func(*R) K) []beside[R] {
	out := make([]beside[R], 0, len(now))
	at := make(map[K]int, len(now))
	for _, r := range now {
		at[key(r)] = len(out)
		out = append(out, beside[R]{now: r})
	}
	for _, r := range before {
		if i, ok := at[key(r)]; ok {
			out[i].before = r
		} else {
			out = append(out, beside[R]{before: r})
		}
	}
	return out
}

// sorted orders pairs as their rows are.
func sorted[R any](rows []beside[R], compare func(a, b *R) int) []beside[R] {
	slices.SortStableFunc(rows, func(a, b beside[R]) int { return compare(a.row(), b.row()) })
	return rows
}

// comparedColumn is how a column of statistics is compared.
type comparedColumn struct {
	value func(*weirpb.Stats) float64
	// format shows an absolute difference.
	format func(float64) string
	// better is the sign of a difference for the better; 0: neither is.
	better float64
	// bounded values have an error of their own.
	bounded bool
}

// comparedColumns are those of trafficCells and wideCells.
var comparedColumns = [...]comparedColumn{
	{value: func(s *weirpb.Stats) float64 { return math.Floor(s.GetSuccess()*1e4+1e-9) / 100 }, format: func(v float64) string { return fmt.Sprintf("%.2f", v) }, better: 1},
	{value: func(s *weirpb.Stats) float64 { return math.Round(s.GetRps()*10) / 10 }, format: func(v float64) string { return fmt.Sprintf("%.1f", v) }},
	{value: func(s *weirpb.Stats) float64 { return s.GetLatencyMs().GetP50() }, format: millis, better: -1, bounded: true},
	{value: func(s *weirpb.Stats) float64 { return s.GetLatencyMs().GetP95() }, format: millis, better: -1, bounded: true},
	{value: func(s *weirpb.Stats) float64 { return s.GetLatencyMs().GetP99() }, format: millis, better: -1, bounded: true},
	{value: func(s *weirpb.Stats) float64 { return s.GetLatencyMs().GetP999() }, format: millis, better: -1, bounded: true},
	{value: func(s *weirpb.Stats) float64 { return s.GetLatencyMs().GetP9999() }, format: millis, better: -1, bounded: true},
	{value: func(s *weirpb.Stats) float64 { return s.GetLatencyMs().GetMax() }, format: millis, better: -1},
}

// traffic gives the cells of trafficCells, and of wideCells, with the
// differences.
func (c *comparison) traffic(now, before *weirpb.Stats, wide bool) []string {
	cells := trafficCells(now)
	if wide {
		cells = append(cells, wideCells(now)...)
	}
	if c == nil {
		return cells
	}
	was := trafficCells(before)
	if wide {
		was = append(was, wideCells(before)...)
	}
	for i, cell := range cells {
		switch {
		case cell == none && was[i] == none:
		case cell == none:
			cells[i] = fmt.Sprintf("%s (was %s)", none, was[i])
		case was[i] == none && i == 0:
			cells[i] = cell + " (new)"
		case was[i] != none:
			cells[i] = fmt.Sprintf("%s (%s)", cell, c.difference(&comparedColumns[i], now, before))
		}
	}
	return cells
}

func (c *comparison) difference(column *comparedColumn, now, before *weirpb.Stats) string {
	a, b := column.value(now), column.value(before)
	d := a - b
	if column.bounded && math.Abs(d) <= c.bound*(a+b) {
		d = 0
	}
	sign := "+"
	if d < 0 {
		sign = "-"
	}
	text := column.format(math.Abs(d))
	if !strings.ContainsAny(text, "123456789") {
		return "="
	}
	return c.paint(sign+text, d*column.better)
}

// paint colours text by whether it is for the better (above 0) or the worse.
func (c *comparison) paint(text string, better float64) string {
	switch {
	case !c.coloured || better == 0:
		return text
	case better > 0:
		return green + text + plain
	}
	return red + text + plain
}

// change says in one word what became of a row.
func (b beside[R]) change() string {
	switch {
	case b.before == nil:
		return "new"
	case b.now == nil:
		return "gone"
	}
	return none
}

// compared is what --compare adds to a JSON row.
type compared struct {
	Compare    *comparedSpan `json:"compare,omitempty"`
	Difference *difference   `json:"difference,omitempty"`
}

// comparedSpan is the row of the window before.
type comparedSpan struct {
	traffic
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
}

// difference is this window's value less that of the one before; null where
// either has none.
type difference struct {
	Success *float64 `json:"success"`
	RPS     float64  `json:"rps"`
	latencies
	Requests int64 `json:"requests"`
}

// json gives the members of a row.
func (c *comparison) json(now, before *weirpb.Stats) compared {
	if c == nil {
		return compared{}
	}
	a, b := newTraffic(now), newTraffic(before)
	less := func(x, y *float64) *float64 {
		if x == nil || y == nil {
			return nil
		}
		d := *x - *y
		return &d
	}
	return compared{
		&comparedSpan{b, c.covered.GetSince().AsTime(), c.covered.GetUntil().AsTime()},
		&difference{
			Success: less(a.Success, b.Success), RPS: a.RPS - b.RPS, Requests: int64(a.Requests) - int64(b.Requests),
			latencies: latencies{
				LatencyP50: less(a.LatencyP50, b.LatencyP50), LatencyP75: less(a.LatencyP75, b.LatencyP75), LatencyP90: less(a.LatencyP90, b.LatencyP90),
				LatencyP95: less(a.LatencyP95, b.LatencyP95), LatencyP99: less(a.LatencyP99, b.LatencyP99), LatencyP999: less(a.LatencyP999, b.LatencyP999),
				LatencyP9999: less(a.LatencyP9999, b.LatencyP9999), LatencyMax: less(a.LatencyMax, b.LatencyMax), LatencyMean: less(a.LatencyMean, b.LatencyMean),
			},
		},
	}
}
