package rollup

// Admit says what to do with a batch of a sequence: whether it is new, how many
// batches are thereby known to be missing for good (negative: found again), and
// whether such a sequence is possible at all. It notes a new one as taken. now is
// in Unix seconds. Exporters, which read the stream on their own, ask it as a
// Folder does.
func (s *Source) Admit(sequence uint64, now int64) (fresh bool, lost int64, ok bool) {
	return s.admit(sequence, now)
}

// Expire declares gaps lost that did not close in time, and forgets those that
// can't any more. now is in Unix seconds. It returns how many batches are lost
// thereby.
func (s *Source) Expire(now int64) (lost int64) {
	lost, _ = s.expire(now)
	return lost
}
