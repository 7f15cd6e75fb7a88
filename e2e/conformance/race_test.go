//go:build race

package conformance

// raced: the proxies under test are built with the race detector, as the test
// is. Their memory then says nothing.
const raced = true
