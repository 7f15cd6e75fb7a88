package api

import (
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

// statRow makes the message of a row, over so many seconds, in a room that may
// have been another's.
func statRow(room *statRoom, r shownRow, seconds float64) *weirpb.StatRow {
	row := &room.row
	row.Resource = fillResource(&room.resource, &r.Resource)
	row.Stats = fillStats(&room.stats, &r.Stats, seconds)
	row.PodsSeen, row.PodsLive = uint32(r.PodsSeen), uint32(r.PodsLive)
	row.TcpOpenConnections = r.OpenConnections
	row.Shed, row.LostBatches = r.Shed, r.LostBatches
	row.Direction = r.Direction
	row.Owner, row.Pods, row.PodStatus, row.ProxyVersion = nil, nil, "", ""
	if r.Owner != nil {
		row.Owner = resource(*r.Owner)
	}
	if k := r.known; k != nil {
		row.Pods, row.PodStatus, row.ProxyVersion = k.pods, k.status, k.proxy
		if row.Owner == nil && k.owner != nil {
			row.Owner = resource(*k.owner)
		}
	}
	return row
}

// portion is how many rows are worth being written at once.
const portion = 512

// offenders are the worst of them, which come first.
func offenders(all []query.Offender) []*weirpb.Offender {
	var out []*weirpb.Offender
	for _, o := range all[:min(len(all), query.MaxOffenders)] {
		out = append(out, &weirpb.Offender{Source: resource(o.Source), Reason: o.Reason, Count: o.Count, Last: timestamp(o.Last)})
	}
	return out
}
