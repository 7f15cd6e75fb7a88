package event

// Each calls fn with every value that was recorded, ascending, and how often it
// was. Values are within [HistogramError] of those recorded, as quantiles are.
func (h *Histogram) Each(fn func(value float64, n uint64)) {
	for i, p := range h.octaves {
		if p == nil {
			continue
		}
		for j, n := range p {
			if n > 0 {
				fn(h.value(i<<subBits+j), n)
			}
		}
	}
}
