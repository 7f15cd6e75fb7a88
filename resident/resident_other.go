//go:build !linux

package resident

// DropText does nothing here: what a program's pages cost is Linux's to say.
func DropText() {}
