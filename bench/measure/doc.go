// Package measure is what Weir's comparisons have in common: processes, whose
// CPU time and memory are read from /proc; medians; goals; and the part of a
// document that a run replaces. It imports nothing of Weir's.
package measure
