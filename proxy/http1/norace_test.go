//go:build !race

package http1_test

// poolLoss is how many allocations an exchange may make.
const poolLoss = 0
