// Package conformance holds weir-proxy against what others say is right and
// against what wears programs down: h2spec, grpc-go's interoperability tests,
// curl, requests made to be misunderstood, and mixed load with all the ways in
// which connections end. It runs the built binary on loopback addresses, alone
// or as a pair of proxies, and compares with the same traffic without it.
package conformance
