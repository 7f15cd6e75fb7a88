package cli

import (
	"cmp"
	"slices"
	"strings"
)

// near gives those of known that s may have been meant to be, nearest first,
// at most three.
func near(s string, known []string) []string {
	type candidate struct {
		name     string
		distance int
	}
	// A third of the letters may be wrong; two, as when they are swapped, where
	// that leaves any.
	most := max(len(s)/3, min(2, len(s)-1))
	var found []candidate
	for _, name := range known {
		d := levenshtein(s, name)
		if s != name && (d <= most || len(s) >= 3 && strings.HasPrefix(name, s)) {
			found = append(found, candidate{name, d})
		}
	}
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), strings.Compare(a.name, b.name))
	})
	var out []string
	for _, c := range found {
		if len(out) < 3 && !slices.Contains(out, c.name) {
			out = append(out, c.name)
		}
	}
	return out
}

// didYouMean turns names into a question, "" where there are none.
func didYouMean(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "; did you mean " + orList(names) + "?"
}

func orList(names []string) string { return list(names, "or") }

func andList(names []string) string { return list(names, "and") }

// list joins names as in "a, b or c".
func list(names []string, word string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " " + word + " " + names[last]
}

// levenshtein is the number of bytes to insert, delete or replace to make b of a.
func levenshtein(a, b string) int {
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
