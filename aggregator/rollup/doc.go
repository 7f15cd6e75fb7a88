// Package rollup is the arithmetic of Weir's statistics: it adds the events of
// a partition up, once each, and writes down what it counted together with how
// far it has come.
//
// [Folder] folds batches into [Cell]s, one for each [Key] and second. A
// statistic belongs to the second in which its exchange ended (start plus
// duration, by the clock of the proxy that saw it; a clock that is minutes off
// is corrected by when its batches arrive). Events may come late: what a rollup
// says of a second is added to what earlier ones said of it, and the sum over
// all rollups is exact.
//
// Keys are marginals, not their cross product: a workload's total, and by pod,
// by peer, by route (outbound also by peer and route). Each has a cap, and a
// row for what is beyond it, so that hostile or careless names cost no memory
// and no count.
//
// Each proxy process numbers its batches. [Source] remembers which have been
// counted: repetitions change nothing, batches may overtake each other, and
// what does not come within ten seconds is counted as lost (and taken off
// again, should it come after all).
//
// A [Delta] is written as one group of messages (rollup.proto): the sums, the
// position in the stream of events, and the sources' marks, so that state and
// position commit together. [Assembler] reads groups back.
package rollup
