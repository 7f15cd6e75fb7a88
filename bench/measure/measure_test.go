package measure

import (
	"strings"
	"testing"
)

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   Spread
	}{
		{nil, Spread{}},
		{[]float64{3}, Spread{3, 3, 3}},
		{[]float64{9, 1, 2}, Spread{1, 2, 9}},
		{[]float64{4, 1, 3, 2}, Spread{1, 2.5, 4}},
	} {
		if got := SpreadOf(c.values); got != c.want {
			t.Errorf("%v: got %v, want %v", c.values, got, c.want)
		}
	}
}

func TestQuantile(t *testing.T) {
	values := []float64{5, 1, 4, 2, 3}
	for q, want := range map[float64]float64{0: 1, 0.2: 1, 0.21: 2, 0.5: 3, 0.8: 4, 0.81: 5, 1: 5} {
		if got := Quantile(values, q); got != want {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if got := Quantile(nil, 0.5); got != 0 {
		t.Errorf("quantile of nothing is %v", got)
	}
}

func TestInsert(t *testing.T) {
	s := SectionOf("bench-x")
	first := string(s.Insert([]byte("# Title\n\ntext\n"), []byte("one\n")))
	want := "# Title\n\ntext\n\n" + s.Begin + "\none\n" + s.End + "\n"
	if first != want {
		t.Errorf("got %q, want %q", first, want)
	}
	second := string(s.Insert([]byte(first+"\n## After\n"), []byte("two\n")))
	if want := strings.Replace(want, "one", "two", 1) + "\n## After\n"; second != want {
		t.Errorf("got %q, want %q", second, want)
	}
}

func TestSumMetric(t *testing.T) {
	const text = "# TYPE a counter\na 1\na_b 5\nb{x=\"y z\",k=\"}\"} 2\nb{x=\"w\"} 3.5 1700000000\nbad{} x\n"
	for name, want := range map[string]float64{"a": 1, "a_b": 5, "b": 5.5} {
		if got, found, err := SumMetric(text, name); err != nil || !found || got != want {
			t.Errorf("%s: got %v, %v, %v, want %v", name, got, found, err, want)
		}
	}
	if _, found, err := SumMetric(text, "c"); found || err != nil {
		t.Errorf("c: found %v, error %v", found, err)
	}
	if _, _, err := SumMetric(text, "bad"); err == nil {
		t.Error("no error from a value that is no number")
	}
}

func TestGoals(t *testing.T) {
	var out strings.Builder
	WriteGoals(&out, []Goal{
		{What: "a", Bound: 1, Measured: 1},
		{What: "b", Bound: 1, Measured: 1.25},
		{What: "c", Bound: 3, AtLeast: true, Unit: " M", Measured: 2.9},
		{What: "d", Bound: 3, AtLeast: true, Unit: " M", Measured: 3},
	})
	for _, want := range []string{
		"| a | ≤ 1 | 1.00 | met |\n", "| b | ≤ 1 | 1.25 | **missed** |\n",
		"| c | ≥ 3 M | 2.9 M | **missed** |\n", "| d | ≥ 3 M | 3.0 M | met |\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no line %q in:\n%s", want, out.String())
		}
	}
}

func TestFormat(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 999: "999", 1000: "1,000", 1234567.6: "1,234,568"} {
		if got := Thousands(v); got != want {
			t.Errorf("%v is %q, want %q", v, got, want)
		}
	}
	if got := (Spread{1, 2, 3}).Format(1); got != "2.0 (1.0–3.0)" {
		t.Errorf("got %q", got)
	}
}

func TestQuiet(t *testing.T) {
	for load, quiet := range map[string]bool{"0.40 8 9": true, "1.00 0 0": true, "1.01 0 0": false, "unknown": false} {
		if got := (Machine{Load: load}).Quiet(); strings.Contains(got, "nothing else") != quiet {
			t.Errorf("load %q: %s", load, got)
		}
	}
}
