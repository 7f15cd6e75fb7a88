package measure

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
)

// A Spread is the median of some values, between the least and the greatest.
type Spread struct{ Least, Median, Greatest float64 }

// SpreadOf sorts the values and is their spread; zero where there are none.
func SpreadOf(values []float64) Spread {
	n := len(values)
	if n == 0 {
		return Spread{}
	}
	slices.Sort(values)
	return Spread{values[0], (values[(n-1)/2] + values[n/2]) / 2, values[n-1]}
}

// Format is the median with the least and the greatest in brackets, with so
// many decimals.
func (s Spread) Format(decimals int) string {
	return fmt.Sprintf("%.*f (%.*f–%.*f)", decimals, s.Median, decimals, s.Least, decimals, s.Greatest)
}

// Quantile is the value at rank ⌈q·n⌉ of the values, which it sorts; 0 where
// there are none.
func Quantile(values []float64, q float64) float64 {
	n := len(values)
	if n == 0 {
		return 0
	}
	slices.Sort(values)
	rank := int(q * float64(n))
	if float64(rank) < q*float64(n) {
		rank++
	}
	return values[min(max(rank, 1), n)-1]
}

// Thousands is a whole number with commas.
func Thousands(v float64) string {
	digits := fmt.Sprintf("%.0f", v)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// Megabytes is a number of bytes in MB (10⁶ bytes), with one decimal.
func Megabytes(bytes uint64) string { return fmt.Sprintf("%.1f", float64(bytes)/1e6) }

// Plural is a number and a noun, which takes an s unless it is one.
func Plural(n int, noun string) string {
	if n == 1 {
		return fmt.Sprintf("%d %s", n, noun)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Note tells who watches how it goes, on stderr.
func Note(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// A Section is the part of a document that a run replaces, between two lines
// that nobody sees in its rendering.
type Section struct {
	// Begin and End are those lines.
	Begin, End string
}

// SectionOf is the section that the named make target writes.
func SectionOf(target string) Section {
	return Section{
		Begin: "<!-- " + target + ": written by `make " + target + "`; what is between the marks is replaced -->",
		End:   "<!-- " + target + ": end -->",
	}
}

// Insert puts text between the document's marks, or with them at its end.
func (s Section) Insert(doc, text []byte) []byte {
	before, rest, found := bytes.Cut(doc, []byte(s.Begin))
	var after []byte
	if found {
		_, after, _ = bytes.Cut(rest, []byte(s.End))
	} else {
		before = append(bytes.TrimRight(before, "\n"), "\n\n"...)
		after = []byte("\n")
	}
	return bytes.Join([][]byte{before, []byte(s.Begin), []byte("\n"), text, []byte(s.End), after}, nil)
}

// Write inserts text into the document, a file's name.
func (s Section) Write(file string, text []byte) error {
	doc, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	Note("writing %s", file)
	return os.WriteFile(file, s.Insert(doc, text), 0o644)
}

// A Goal is a bound on a figure, and what the figure was.
type Goal struct {
	What string
	// Bound is the greatest value allowed, or with AtLeast the least.
	Bound   float64
	AtLeast bool
	// Unit stands behind the figures; without one they are ratios.
	Unit     string
	Measured float64
}

// Met tells whether the figure keeps the bound.
func (g Goal) Met() bool {
	if g.AtLeast {
		return g.Measured >= g.Bound
	}
	return g.Measured <= g.Bound
}

// WriteGoals writes a table of goals beside what was measured.
func WriteGoals(w io.Writer, goals []Goal) {
	fmt.Fprintf(w, "| | budget | measured | |\n|---|---|---|---|\n")
	for _, g := range goals {
		sign, verdict, precision := "≤", "met", 2
		if g.AtLeast {
			sign = "≥"
		}
		if !g.Met() {
			verdict = "**missed**"
		}
		if g.Unit != "" {
			precision = 1
		}
		fmt.Fprintf(w, "| %s | %s %g%s | %.*f%s | %s |\n", g.What, sign, g.Bound, g.Unit, precision, g.Measured, g.Unit, verdict)
	}
}
