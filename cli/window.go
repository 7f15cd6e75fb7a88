package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/api/weirpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// windowFlags are -t, --since and --until.
type windowFlags struct {
	length       time.Duration
	since, until string
}

func (w *windowFlags) flags(cmd *cobra.Command) {
	w.length = time.Minute
	cmd.Flags().VarP((*lengthValue)(&w.length), "time-window", "t", "length of the window, as 30s, 2h")
	cmd.Flags().StringVar(&w.since, "since", "", "begin of the window: a time (RFC 3339, or 15:04[:05] today) or how long ago, as 10m")
	cmd.Flags().StringVar(&w.until, "until", "", "end of the window, as --since (default: now)")
}

// resolve turns the flags into a window of the API.
func (w *windowFlags) resolve(cmd *cobra.Command, now time.Time) (*weirpb.Window, error) {
	lengthGiven := cmd.Flags().Changed("time-window")
	if w.length < time.Second {
		return nil, Usagef(cmd, "-t %s: a window lasts at least 1s", w.length)
	}
	if lengthGiven && w.since != "" && w.until != "" {
		return nil, Usagef(cmd, "-t cannot be given beside both --since and --until")
	}
	out := &weirpb.Window{}
	var since, until time.Time
	var err error
	if w.since != "" {
		if since, err = parseTime(w.since, now); err != nil {
			return nil, Usagef(cmd, "--since: %w", err)
		}
		out.Since = timestamppb.New(since)
	}
	if w.until != "" {
		if until, err = parseTime(w.until, now); err != nil {
			return nil, Usagef(cmd, "--until: %w", err)
		}
		out.Until = timestamppb.New(until)
	}
	if w.since != "" && w.until != "" && !since.Before(until) {
		return nil, Usagef(cmd, "--since %s is not before --until %s", w.since, w.until)
	}
	if w.since == "" || lengthGiven {
		out.Length = durationpb.New(w.length)
	}
	return out, nil
}

// pastFlags are -t, --since and --until of what reads the events: without any
// of them it begins now.
type pastFlags struct{ windowFlags }

func (p *pastFlags) flags(cmd *cobra.Command) {
	p.windowFlags.flags(cmd)
	for name, usage := range map[string]string{
		"time-window": "begin with so much of the past, as 10m",
		"since":       "begin with the past: a time (RFC 3339, or 15:04[:05] today) or how long ago, as 10m",
		"until":       "end there, as --since",
	} {
		cmd.Flags().Lookup(name).Usage = usage
	}
	cmd.Flags().Lookup("time-window").DefValue = "0" // is not shown
}

// given tells whether any of the flags was.
func (p *pastFlags) given(cmd *cobra.Command) bool {
	return cmd.Flags().Changed("time-window") || p.since != "" || p.until != ""
}

// bounds gives since, and until where it is not now. Both are nil where none of
// the flags was given.
func (p *pastFlags) bounds(cmd *cobra.Command, now time.Time) (since, until *timestamppb.Timestamp, err error) {
	if !p.given(cmd) {
		return nil, nil, nil
	}
	w, err := p.resolve(cmd, now)
	if err != nil {
		return nil, nil, err
	}
	since, until = w.GetSince(), w.GetUntil()
	length := w.GetLength().AsDuration()
	switch {
	case since == nil && until == nil:
		since = timestamppb.New(now.Add(-length))
	case since == nil:
		since = timestamppb.New(until.AsTime().Add(-length))
	case until == nil && length > 0:
		until = timestamppb.New(since.AsTime().Add(length))
	}
	if since.AsTime().After(now) {
		return nil, nil, Usagef(cmd, "--since %s lies in the future", p.since)
	}
	return since, until, nil
}

// parseLength reads a length of time: Go's, as 1h30m, or whole days, as 2d.
func parseLength(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is no length of time such as 30s, 10m, 2h or 1d", s)
	}
	return d, nil
}

// lengthValue is a flag that parseLength reads.
type lengthValue time.Duration

// String is "0" for none, which the help leaves out.
func (v *lengthValue) String() string {
	switch d := time.Duration(*v); {
	case d == 0:
		return "0"
	case d%time.Second == 0:
		return length(d)
	default:
		return d.String()
	}
}

func (v *lengthValue) Type() string { return "duration" }

func (v *lengthValue) Set(s string) error {
	d, err := parseLength(s)
	*v = lengthValue(d)
	return err
}

// parseTime reads RFC 3339, a time of day (the last one that was), or how long
// ago.
func parseTime(s string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	for _, layout := range []string{"15:04", "15:04:05"} {
		t, err := time.ParseInLocation(layout, s, now.Location())
		if err != nil {
			continue
		}
		y, m, d := now.Date()
		t = time.Date(y, m, d, t.Hour(), t.Minute(), t.Second(), 0, now.Location())
		if t.After(now) {
			t = t.AddDate(0, 0, -1)
		}
		return t, nil
	}
	d, err := parseLength(s)
	if err != nil || d < 0 {
		return time.Time{}, fmt.Errorf("%q is neither a time (2006-01-02T15:04:05Z, 15:04) nor how long ago (10m)", s)
	}
	return now.Add(-d), nil
}

// exactly is the window that an answer covered, to ask for the same again.
func exactly(c *weirpb.Coverage) *weirpb.Window {
	return &weirpb.Window{Since: c.GetSince(), Until: c.GetUntil()}
}

// noteCoverage says where an answer is less than what was asked for.
func (a *app) noteCoverage(asked *weirpb.Window, c *weirpb.Coverage) {
	if c.GetPartitionsMissing() > 0 {
		a.notef("No aggregator answered for %d of %d parts of the mesh: the numbers are too low.", c.GetPartitionsMissing(), c.GetPartitionsTotal())
	} else if c.GetAggregatorsAnswered() < c.GetAggregatorsTotal() {
		a.notef("Only %d of %d aggregators answered: the numbers may be too low.", c.GetAggregatorsAnswered(), c.GetAggregatorsTotal())
	}
	if n := c.GetPartitionsBehind(); n > 0 {
		a.notef("%d of %d parts of the mesh have changed hands, and not all their events are read again: the numbers may be too low.", n, c.GetPartitionsTotal())
	}
	if gone(c) {
		a.notef("Nothing is kept of that window: statistics reach back to %s.", clock(c.GetOldest().AsTime(), a.now()))
		return
	}
	until := c.GetUntil().AsTime()
	want, wanted := asked.GetLength().AsDuration(), ", not "+length(asked.GetLength().AsDuration())
	if s := asked.GetSince(); s != nil {
		from := s.AsTime().Truncate(time.Second)
		want, wanted = until.Sub(from), ", not from "+clock(from, a.now())+" on"
	}
	// A little less than asked for changes little.
	got := until.Sub(c.GetSince().AsTime())
	if got < want*9/10 && c.GetOldest().AsTime().After(until.Add(-want)) {
		a.notef("Statistics reach back to %s: this is about %s%s.", clock(c.GetOldest().AsTime(), a.now()), length(got), wanted)
	}
}

// gone tells whether statistics begin only after the window that was asked for.
func gone(c *weirpb.Coverage) bool {
	return c.GetOldest() != nil && !c.GetOldest().AsTime().Before(c.GetUntil().AsTime())
}

// length is a length of time as one would give it: 10m, 1h30m, 2d.
func length(d time.Duration) string {
	d = d.Round(time.Second)
	if d != 0 && d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	out := d.String()
	if strings.HasSuffix(out, "m0s") {
		out = strings.TrimSuffix(out, "0s")
	}
	if strings.HasSuffix(out, "h0m") {
		out = strings.TrimSuffix(out, "0m")
	}
	return out
}

// clock is a time as short as can be, in the zone of now.
func clock(t, now time.Time) string {
	t = t.In(now.Location())
	ty, tm, td := t.Date()
	if y, m, d := now.Date(); ty == y && tm == m && td == d {
		return t.Format("15:04:05")
	}
	return t.Format("2006-01-02 15:04:05")
}
