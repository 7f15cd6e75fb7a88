package rollup

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/weirmesh/weir/event"
)

// Bounds of what is known of a source's sequence.
const (
	// maxJump is how far ahead of the highest sequence the next may be. A proxy
	// can't lose so many batches; who says so is refused.
	maxJump = 1 << 20
	// maxGaps are remembered; the oldest go, as lost for good.
	maxGaps = 64
	// gapGrace is how long a gap may take to close, seconds.
	gapGrace = 10
	// gapMemory is how long a lost batch is still taken when it comes after
	// all, seconds. It outlives the events stream.
	gapMemory = 7200
	// newSource is how high the first sequence of an unknown source may be for
	// the ones below to be missing. Beyond, the source is older than what we
	// know, and its past is not ours to judge.
	newSource = 1024
)

// SourceID names a proxy process. The workload is part of it, so that nobody
// can speak for another workload's process.
type SourceID struct {
	Instance uint64
	Workload event.Workload
}

// Gap is a run of sequences that did not come, both ends included.
type Gap struct {
	From, To uint64
	// Since is when it was noticed, Unix seconds.
	Since int64
	// Lost gaps are counted as lost already.
	Lost bool
}

// Source is what is known of one proxy process.
type Source struct {
	ID                 SourceID
	Pod, Node, Version string
	// High is the highest sequence that was counted, Missing the gaps below,
	// ascending.
	High    uint64
	Missing []Gap
	// Produced, Shed and OpenConnections are as its newest batch said.
	Produced, Shed, OpenConnections uint64
	// Batches, and Events that were counted one by one.
	Batches, Events uint64
	// FirstSeen and LastSeen are Unix seconds of its batches.
	FirstSeen, LastSeen int64
	// Final: it said that it ended.
	Final bool
	// ClockRight: its clock has agreed with ours.
	ClockRight bool

	// memo is what a Folder remembers of it.
	memo *memo
}

// admit says what to do with a sequence: whether it is new, how many batches
// are lost thereby (negative: found again), and whether it is acceptable.
func (s *Source) admit(sequence uint64, now int64) (fresh bool, lost int64, ok bool) {
	if sequence == 0 {
		return false, 0, false
	}
	if sequence > s.High {
		known := s.High > 0 || sequence <= newSource
		if known && sequence-s.High > maxJump {
			return false, 0, false
		}
		if known && sequence > s.High+1 {
			s.Missing = append(s.Missing, Gap{From: s.High + 1, To: sequence - 1, Since: now})
			lost = s.shrink()
		}
		s.High = sequence
		return true, lost, true
	}
	for i := range s.Missing {
		g := &s.Missing[i]
		if sequence < g.From || sequence > g.To {
			continue
		}
		if g.Lost {
			lost = -1
		}
		return true, lost + s.close(i, sequence), true
	}
	return false, 0, true
}

// close takes a sequence out of a gap and returns what is lost by the bound on
// the number of gaps.
func (s *Source) close(i int, sequence uint64) (lost int64) {
	g := &s.Missing[i]
	switch {
	case g.From == g.To:
		s.Missing = slices.Delete(s.Missing, i, i+1)
	case sequence == g.From:
		g.From++
	case sequence == g.To:
		g.To--
	default:
		right := *g
		right.From = sequence + 1
		g.To = sequence - 1
		s.Missing = slices.Insert(s.Missing, i+1, right)
		return s.shrink()
	}
	return 0
}

// shrink keeps the bound on gaps.
func (s *Source) shrink() (lost int64) {
	for len(s.Missing) > maxGaps {
		if g := s.Missing[0]; !g.Lost {
			lost += int64(g.To - g.From + 1)
		}
		s.Missing = slices.Delete(s.Missing, 0, 1)
	}
	return lost
}

// expire declares gaps lost that did not close in time, and forgets those that
// can't any more. It returns how many batches are lost thereby, and whether
// anything changed.
func (s *Source) expire(now int64) (lost int64, changed bool) {
	for i := range s.Missing {
		if g := &s.Missing[i]; !g.Lost && now-g.Since >= gapGrace {
			g.Lost, changed = true, true
			lost += int64(g.To - g.From + 1)
		}
	}
	n := len(s.Missing)
	s.Missing = slices.DeleteFunc(s.Missing, func(g Gap) bool { return g.Lost && now-g.Since >= gapMemory })
	return lost, changed || len(s.Missing) != n
}

func sortSources(all []Source) {
	slices.SortFunc(all, func(a, b Source) int {
		return cmp.Or(cmp.Compare(a.ID.Instance, b.ID.Instance), strings.Compare(a.ID.Workload.String(), b.ID.Workload.String()))
	})
}

// Sorted lists sources in the order in which groups hold them.
func Sorted(sources map[SourceID]Source) []Source {
	all := slices.AppendSeq(make([]Source, 0, len(sources)), maps.Values(sources))
	sortSources(all)
	return all
}

// clone copies what a Source shares.
func (s *Source) clone() Source {
	c := *s
	c.Missing, c.memo = slices.Clone(s.Missing), nil
	return c
}
