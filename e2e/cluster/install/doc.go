// Package install holds the tests of weir install, upgrade and uninstall, and of who
// may use the bus of an installation, on a real cluster.
package install
