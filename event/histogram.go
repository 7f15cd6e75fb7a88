package event

// Histogram is a mergeable distribution (being written).
type Histogram struct{}
