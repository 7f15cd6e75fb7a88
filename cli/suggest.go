package cli

import "strings"

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
