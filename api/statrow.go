package api

import (
	"sync"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/api/weirpb"
)

func compareRows(a, b query.Row) int { return compareSelectors(a.Resource, b.Resource) }

// statRoom is all that a row takes: ten thousands of them are made at once.
type statRoom struct {
	row      weirpb.StatRow
	resource weirpb.Resource
	stats    statsRoom
}

func statRow(room *statRoom, r *query.Row, seconds float64) *weirpb.StatRow {
	row := &room.row
	row.Resource = fillResource(&room.resource, &r.Resource)
	row.Stats = fillStats(&room.stats, &r.Stats, seconds)
	row.PodsSeen, row.PodsLive = uint32(r.PodsSeen), uint32(r.PodsLive)
	row.TcpOpenConnections = r.OpenConnections
	row.Shed, row.LostBatches = r.Shed, r.LostBatches
	row.Direction = r.Direction
	if r.Owner != nil {
		row.Owner = resource(*r.Owner)
	} else {
		row.Owner = nil
	}
	return row
}

// portion is how many rows are worth a goroutine of their own.
const portion = 512

// inParallel calls fn with each number below n, on all processors where there
// are many.
func inParallel(n int, fn func(i int)) {
	var group sync.WaitGroup
	for from := 0; from < n; from += portion {
		work := func() {
			for i := from; i < min(from+portion, n); i++ {
				fn(i)
			}
		}
		if n <= portion {
			work()
			break
		}
		group.Go(work)
	}
	group.Wait()
}

// offenders are the worst of them, which come first.
func offenders(all []query.Offender) []*weirpb.Offender {
	var out []*weirpb.Offender
	for _, o := range all[:min(len(all), query.MaxOffenders)] {
		out = append(out, &weirpb.Offender{Source: resource(o.Source), Reason: o.Reason, Count: o.Count, Last: timestamp(o.Last)})
	}
	return out
}
