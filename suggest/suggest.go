// Package suggest finds what somebody may have meant who wrote a name that does
// not exist.
package suggest

import (
	"cmp"
	"slices"
	"strings"
)

const (
	// most is how many names are suggested.
	most = 3
	// longest is the longest name worth the comparison, in bytes.
	longest = 64
)

// Near gives those of known that s may have been meant to be, at most three,
// each once: first those that begin with s, and those of which s is the last word
// after an underscore, then those that differ in a third of the letters or in
// two; of each kind the nearest first. It is empty where s is longer than 64 bytes, or known itself holds
// nothing like it.
func Near(s string, known []string) []string {
	if len(s) > longest {
		return nil
	}
	type candidate struct {
		name     string
		distance int
		// kind is 0 where s is part of the name.
		kind int
	}
	// A third of the letters may be wrong; two, as when they are swapped, where
	// that leaves any.
	bound := max(len(s)/3, min(2, len(s)-1))
	var found []candidate
	for _, name := range known {
		d := distance(s, name)
		part := len(s) >= 3 && (strings.HasPrefix(name, s) || strings.HasSuffix(name, "_"+s))
		if s != name && (d <= bound || part) {
			c := candidate{name: name, distance: d, kind: 1}
			if part {
				c.kind = 0
			}
			found = append(found, c)
		}
	}
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.distance, b.distance), strings.Compare(a.name, b.name))
	})
	var out []string
	for _, c := range found {
		if len(out) < most && !slices.Contains(out, c.name) {
			out = append(out, c.name)
		}
	}
	return out
}

// distance is the number of bytes to insert, delete or replace to make b of a
// (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
