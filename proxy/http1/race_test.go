//go:build race

package http1_test

// poolLoss is how many allocations an exchange may make: under the race
// detector sync.Pool drops what it is given at random.
const poolLoss = 3
