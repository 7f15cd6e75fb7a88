package main

import (
	"fmt"
	"strconv"
	"strings"
)

// byteCount is a flag's number of bytes.
type byteCount int64

// String writes the number as Set reads it.
func (n *byteCount) String() string {
	for shift, unit := range map[int]string{30: "GiB", 20: "MiB", 10: "KiB"} {
		if v := int64(*n); v != 0 && v%(1<<shift) == 0 && v>>shift < 1024 {
			return strconv.FormatInt(v>>shift, 10) + unit
		}
	}
	return strconv.FormatInt(int64(*n), 10)
}

// Type names what is wanted, in the help.
func (n *byteCount) Type() string { return "size" }

// Set reads a number of bytes, or one with KiB, MiB or GiB behind.
func (n *byteCount) Set(s string) error {
	number, unit := s, int64(1)
	for i, suffix := range []string{"KiB", "MiB", "GiB"} {
		if rest, ok := strings.CutSuffix(s, suffix); ok {
			number, unit = rest, 1<<(10*(i+1))
		}
	}
	v, err := strconv.ParseInt(number, 10, 64)
	if err != nil || v <= 0 || v > 1<<50/unit {
		return fmt.Errorf("%q is no size: want bytes, or a number with KiB, MiB or GiB, as 256MiB", s)
	}
	*n = byteCount(v * unit)
	return nil
}
