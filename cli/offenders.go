package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weirmesh/weir/api/weirpb"
)

// statOffender is an offender of a row of the JSON output.
type statOffender struct {
	// Source is kind/name of the workload whose batches they are.
	Source string `json:"source"`
	Reason string `json:"reason"`
	// Count is how many batches, since the aggregators started.
	Count uint64    `json:"count"`
	Last  time.Time `json:"last"`
}

// addOffenders adds those that are not there yet.
func addOffenders(to, all []*weirpb.Offender) []*weirpb.Offender {
	for _, o := range all {
		same := func(have *weirpb.Offender) bool {
			return have.GetReason() == o.GetReason() && compareResources(have.GetSource(), o.GetSource()) == 0
		}
		if !slices.ContainsFunc(to, same) {
			to = append(to, o)
		}
	}
	return to
}

// noteOffenders says whose batches could not be counted.
func (s *statCommand) noteOffenders(all []*weirpb.Offender) {
	var names []string
	whose := map[string][]string{}
	for _, o := range all {
		name := printable(describeFull(o.GetSource()))
		if whose[name] == nil {
			names = append(names, name)
		}
		whose[name] = append(whose[name], fmt.Sprintf("%d %s", o.GetCount(), complaint(o.GetReason())))
	}
	for i, name := range names {
		names[i] = name + " (" + strings.Join(whose[name], ", ") + ")"
	}
	if len(names) > 0 {
		s.notef("Batches of events that could not be counted, or not as they were: %s.", andList(names))
	}
}

// complaint is a reason of the API for people.
func complaint(reason string) string {
	switch reason {
	case "malformed":
		return "malformed or truncated"
	case "wrong_source":
		return "in another's name"
	case "wrong_sequence":
		return "wrongly numbered"
	case "wrong_subject":
		return "on a subject of no workload"
	case "clock":
		return "with a wrong clock"
	}
	return printable(reason)
}

// ofRow tells whether an offender belongs to a row of a resource.
func ofRow(n *weirpb.Resource, o *weirpb.Offender) bool {
	source := o.GetSource()
	if n.GetKind() == kindNamespace {
		return n.GetCluster() == source.GetCluster() && n.GetName() == source.GetNamespace()
	}
	return compareResources(n, source) == 0
}

// withOffenders adds rows for offenders that have none: nothing of theirs was
// counted, or the rows are of pods.
func withOffenders(rows []beside[weirpb.StatRow], all []*weirpb.Offender, byNamespace bool) []beside[weirpb.StatRow] {
	for _, o := range all {
		if slices.ContainsFunc(rows, func(b beside[weirpb.StatRow]) bool { return ofRow(b.row().GetResource(), o) }) {
			continue
		}
		n := o.GetSource()
		if byNamespace {
			n = &weirpb.Resource{Cluster: n.GetCluster(), Kind: kindNamespace, Name: n.GetNamespace()}
		}
		rows = append(rows, beside[weirpb.StatRow]{now: &weirpb.StatRow{Resource: n, Direction: "inbound"}})
	}
	return rows
}

// offendersOf are those of a row, for the JSON output.
func offendersOf(n *weirpb.Resource, all []*weirpb.Offender) (own []statOffender) {
	for _, o := range all {
		if ofRow(n, o) {
			own = append(own, statOffender{Source: describe(o.GetSource()), Reason: o.GetReason(), Count: o.GetCount(), Last: o.GetLast().AsTime()})
		}
	}
	return own
}
