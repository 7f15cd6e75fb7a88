package cli

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

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
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var out bytes.Buffer
	for _, row := range t.rows {
		var line strings.Builder
		for i, cell := range row {
			if i > 0 {
				line.WriteString("   ")
			}
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
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
