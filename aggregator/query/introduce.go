package query

import (
	"slices"
	"strings"
)

// Introduce gives the edges that clients' sides have counted the identities that
// servers' sides have verified, and leaves the witnesses out. The two sides are of
// different partitions, so it is for the whole answer, after [Merge]. Where the
// clients of an edge have several identities, as a workload in two versions with
// two ServiceAccounts has, they are named with commas between, sorted.
func Introduce(edges []Edge) []Edge {
	type pair struct {
		source, destination Selector
		security            string
	}
	known := map[pair][]string{}
	for i := range edges {
		if e := &edges[i]; e.SeenBy == Witness {
			at := pair{e.Source, e.Destination, e.Security}
			if !slices.Contains(known[at], e.SourceID) {
				known[at] = append(known[at], e.SourceID)
			}
		}
	}
	edges = slices.DeleteFunc(edges, func(e Edge) bool { return e.SeenBy == Witness })
	for i := range edges {
		e := &edges[i]
		if ids := known[pair{e.Source, e.Destination, e.Security}]; e.SourceID == "" && len(ids) > 0 {
			slices.Sort(ids)
			e.SourceID = strings.Join(ids, ",")
		}
	}
	return edges
}
