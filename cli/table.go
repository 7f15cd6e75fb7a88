package cli

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// Colours of a terminal. They take no room.
const (
	red   = "\x1b[31m"
	green = "\x1b[32m"
	plain = "\x1b[0m"
)

// width is how much room a cell takes.
func width(cell string) int {
	n := utf8.RuneCountInString(cell)
	if strings.Contains(cell, "\x1b") {
		for _, c := range []string{red, green, plain} {
			n -= len(c) * strings.Count(cell, c)
		}
	}
	return n
}

// table lines up columns, three spaces apart: the first `left` of them to the
// left, numbers to the right.
type table struct {
	left int
	rows [][]string
}

// add appends a row; the first one is the heading.
func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// render gives the table with a line break after each row.
func (t *table) render() []byte {
	var widths []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], width(cell))
		}
	}
	var out bytes.Buffer
	for _, row := range t.rows {
		var line strings.Builder
		for i, cell := range row {
			if i > 0 {
				line.WriteString("   ")
			}
			pad := strings.Repeat(" ", widths[i]-width(cell))
			if i < t.left {
				line.WriteString(cell + pad)
			} else {
				line.WriteString(pad + cell)
			}
		}
		out.WriteString(strings.TrimRight(line.String(), " "))
		out.WriteByte('\n')
	}
	return out.Bytes()
}
