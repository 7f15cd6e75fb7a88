// Package e2e holds the end-to-end tests of Weir: they build the binaries, run
// them as a user would, and hold what they report against what was really
// sent. They know nothing of Weir's insides.
package e2e
