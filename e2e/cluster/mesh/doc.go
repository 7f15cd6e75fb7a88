// Package mesh tests Weir as people use it: installed by `weir install`, with the
// sample application injected by `weir inject`, and its numbers asked of `weir stat`.
package mesh
