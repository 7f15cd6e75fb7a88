//go:build !race

package conformance

// raced: see race_test.go.
const raced = false
