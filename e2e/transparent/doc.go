// Package transparent holds the tests of interception: several hosts on one
// network, each with applications and a sidecar that know nothing of each
// other, real clients and real servers. The hosts are network namespaces; they
// need root, and end with the test.
package transparent
