package rollup

import "github.com/weirmesh/weir/event"

// Summer adds encoded cells up and writes the sum: what a store of encoded
// cells needs to know of them. The zero value is empty; it is not safe for
// concurrent use.
type Summer struct {
	adder   Adder
	decoder Decoder
	scratch scratch
	// added are the values in the sum.
	added [][]byte
	// cell is the sum so far, but for the distributions that follow.
	cell              Cell
	latency, duration event.DenseHistogram
}

// Add adds an encoded cell, or fails and leaves the sum as it was. data must
// stay as it is until Reset.
func (s *Summer) Add(data []byte) error {
	if err := s.adder.add(&s.cell, &s.latency, &s.duration, data); err == nil {
		s.added = append(s.added, data)
		return nil
	}
	// The sum is spoilt; once more, by one who is slow and leaves it.
	s.empty()
	for _, before := range s.added {
		if err := s.decoder.Add(&s.cell, before); err != nil {
			return err // it was fine before
		}
	}
	err := s.decoder.Add(&s.cell, data)
	if err == nil {
		s.added = append(s.added, data)
	}
	return err
}

// AppendBinary appends the sum.
func (s *Summer) AppendBinary(dst []byte) []byte {
	c := &s.cell
	if c.Latency.Count() > 0 || c.Duration.Count() > 0 {
		// Some was added by the slow way, all of it or the last.
		s.latency.AddTo(&c.Latency)
		s.duration.AddTo(&c.Duration)
		s.latency.Reset()
		s.duration.Reset()
		return c.appendBinary(dst, &s.scratch)
	}
	dst = c.appendCounters(dst)
	dst = appendLen(dst, 12, s.latency.AppendBinary)
	dst = appendLen(dst, 13, s.duration.AppendBinary)
	return c.appendLedger(dst)
}

// Weight is the sum's weight.
func (s *Summer) Weight() uint64 { return s.cell.Weight() }

// Reset begins anew.
func (s *Summer) Reset() {
	s.empty()
	clear(s.added)
	s.added = s.added[:0]
}

func (s *Summer) empty() {
	s.cell.Reset()
	s.latency.Reset()
	s.duration.Reset()
}
