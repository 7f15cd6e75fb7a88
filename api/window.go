package api

import (
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/api/weirpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// window is [since, until) in Unix seconds.
type window struct{ since, until int64 }

// seconds is the window's length.
func (w window) seconds() float64 { return float64(w.until - w.since) }

// resolveWindow fills in what the request left open and checks the rest.
func (s *service) resolveWindow(w *weirpb.Window) (window, error) {
	length := defaultWindow
	if l := w.GetLength(); l != nil {
		if err := l.CheckValid(); err != nil || l.AsDuration() < time.Second {
			return window{}, invalid("window.length", "%s is no length of at least 1 s", describe(l))
		}
		if w.GetSince() != nil && w.GetUntil() != nil {
			return window{}, invalid("window.length", "cannot be given beside both since and until")
		}
		length = l.AsDuration()
	}
	now := s.now()
	until := now.Add(-settle)
	if u := w.GetUntil(); u != nil {
		if err := u.CheckValid(); err != nil {
			return window{}, invalid("window.until", "%v", err)
		}
		until = u.AsTime()
	}
	since := until.Add(-length)
	if f := w.GetSince(); f != nil {
		if err := f.CheckValid(); err != nil {
			return window{}, invalid("window.since", "%v", err)
		}
		since = f.AsTime()
		if w.GetUntil() == nil && w.GetLength() != nil {
			until = since.Add(length)
		} else if w.GetUntil() == nil && !since.Before(until) && since.Before(now) {
			// Within the last moments: nothing has settled yet.
			until = now
		}
	}
	if w.GetSince() == nil && since.After(now) {
		return window{}, invalid("window.until", "%s lies in the future", stamp(until))
	}
	return checkWindow(now, since, until)
}

func checkWindow(now, since, until time.Time) (window, error) {
	out := window{since: since.Unix(), until: until.Unix()}
	switch {
	case since.After(now):
		return out, invalid("window.since", "%s lies in the future", stamp(since))
	case until.Sub(since) > MaxWindow:
		return out, invalid("window", "%s is longer than the longest window, %s", until.Sub(since).Round(time.Second), MaxWindow)
	case until.Before(since):
		return out, invalid("window.until", "%s is before since, %s", stamp(until), stamp(since))
	case out.until <= out.since:
		// Cut to whole seconds nothing was left.
		out.until = out.since + 1
	}
	return out, nil
}

// resolveStep finds the step of a series and widens or moves the window to
// whole steps: onto a fixed grid, so that a chart that is asked for again and
// again keeps its points.
func resolveStep(req *weirpb.SeriesRequest, w window) (window, int64, error) {
	length := w.until - w.since
	step := max(1, (length+defaultPoints-1)/defaultPoints)
	if d := req.GetStep(); d != nil {
		if err := d.CheckValid(); err != nil || d.AsDuration() < time.Second || d.AsDuration()%time.Second != 0 {
			return w, 0, invalid("step", "%s is no whole number of seconds", describe(d))
		}
		step = int64(d.AsDuration() / time.Second)
		// A window to now is a little shorter than it was asked for: what has not
		// settled is not in it.
		if step > length+int64(settle/time.Second)+1 {
			return w, 0, invalid("step", "%s is longer than the window, %s", describe(d), time.Duration(length)*time.Second)
		}
	}
	out := window{since: floorTo(w.since, step), until: floorTo(w.until, step)}
	if req.GetWindow().GetUntil() != nil && out.until < w.until {
		out.until += step
	}
	if out.until <= out.since {
		out.until = out.since + step
	}
	if n := (out.until - out.since) / step; n > MaxPoints {
		return w, 0, invalid("step", "%d s over a window of %d s would give %d points; at most %d are allowed", step, length, n, MaxPoints)
	}
	return out, step, nil
}

func floorTo(t, step int64) int64 {
	r := t % step
	if r < 0 {
		r += step
	}
	return t - r
}

// coverage says what the merged reply is about: the window that the aggregators
// answered about, whose edges lie where they know them, cut to what statistics
// reach back to. A rate over time that nobody measured would be too low.
func coverage(w window, reply *query.Reply, answered int) (*weirpb.Coverage, window) {
	if len(reply.Windows) == 1 {
		w = window{reply.Windows[0].Since, reply.Windows[0].Until}
	}
	if reply.Oldest > w.since {
		w.since = min(reply.Oldest, w.until-1)
	}
	c := &weirpb.Coverage{
		Since:               timestamppb.New(time.Unix(w.since, 0)),
		Until:               timestamppb.New(time.Unix(w.until, 0)),
		QuantileError:       histogramError,
		AggregatorsAnswered: uint32(answered),
		AggregatorsTotal:    uint32(max(answered, reply.Members)),
	}
	missing, _ := query.Missing(reply)
	c.PartitionsMissing, c.PartitionsTotal = uint32(len(missing)), uint32(max(0, reply.Total))
	c.PartitionsBehind = uint32(len(reply.Behind))
	// What is older may be there in part only.
	c.Oldest, c.Exact = timestamp(max(reply.Oldest, reply.Reaches)), timestamp(reply.Exact)
	return c, w
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func describe(d *durationpb.Duration) string {
	if d.CheckValid() != nil {
		return "it"
	}
	return d.AsDuration().String()
}
