// Package weir is the root of Weir, an ultralight service mesh for Kubernetes
// whose telemetry is an event stream.
//
// The package holds no code: its tests hold the rules of the whole tree. Which
// package may import which is a table in deps_test.go, what the sidecar proxy
// may link is in the same file and in cmd/weir-proxy/deps.txt, that every
// package is documented in pkgdoc_test.go, that files and functions stay small
// in size_test.go.
//
// Begin reading at docs/design.md, then at package event: everything else
// produces, carries, folds or shows what that package declares.
package weir
