// Package basics holds the tests of the cluster itself, and of Weir's images and
// proxy in real pods, by manifests written by hand: what all other tests on a
// cluster stand on.
package basics
