package rollup

import (
	"cmp"
	"slices"
	"strings"

	"github.com/weirmesh/weir/event"
)

// Kinds of offences: what a workload has too many of, so that the rest has no
// row of its own.
const (
	OffencePod       = "pod"
	OffencePeer      = "peer"
	OffenceRoute     = "route"
	OffencePeerRoute = "peer_route"
	OffenceMethod    = "method"
	OffenceAuthority = "authority"
	// OffenceRow: the workload is within its bounds, but all rows together are too
	// many. The example is what the row would have been of.
	OffenceRow = "row"
	// OffenceWorkload: there are too many workloads. It is charged to the
	// workload OtherName.
	OffenceWorkload = "workload"
	// OffenceSource: the workload's processes are so many that some had to be
	// forgotten.
	OffenceSource = "source"
	// OffenceClock: a batch's clock was wrong, or times in it were.
	OffenceClock = "clock"
)

// Offender is a workload, and what it did: one of the constants above, or the
// reason of a [Refusal].
type Offender struct {
	Workload event.Workload
	Kind     string
}

// Compare orders by workload, then kind, as [cmp.Compare] does.
func (o Offender) Compare(than Offender) int {
	return cmp.Or(strings.Compare(o.Workload.String(), than.Workload.String()), strings.Compare(o.Kind, than.Kind))
}

// Offence is what went beyond a bound. No count was lost by it.
type Offence struct {
	Offender
	// Limit is the bound, where the kind has one.
	Limit int
	// Count is how often: once for each name in each batch, for each source, or
	// for each batch.
	Count uint64
	// Example is one of those that were beyond: a path, a name, a pod.
	Example string
}

// offend notes an offence. Both the workloads and the kinds are few.
func (f *Folder) offend(w event.Workload, kind, example string) { f.offendTimes(w, kind, example, 1) }

func (f *Folder) offendTimes(w event.Workload, kind, example string, n int) {
	who := Offender{w, kind}
	o := f.offences[who]
	if o == nil {
		who.Workload = w.Clone()
		o = &Offence{Offender: who, Limit: f.bound(kind), Example: strings.Clone(cut(example, maxPath))}
		f.offences[who] = o
	}
	o.Count += uint64(n)
}

// Offences returns what went beyond a bound since the last call, the most
// frequent first.
func (f *Folder) Offences() []Offence {
	if len(f.offences) == 0 {
		return nil
	}
	all := make([]Offence, 0, len(f.offences))
	for _, o := range f.offences {
		all = append(all, *o)
	}
	clear(f.offences)
	slices.SortFunc(all, func(a, b Offence) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), a.Compare(b.Offender))
	})
	return all
}

func (f *Folder) bound(kind string) int {
	switch kind {
	case OffencePod:
		return f.limits.Pods
	case OffencePeer:
		return f.limits.Peers
	case OffenceRoute, OffencePeerRoute:
		return f.limits.Routes
	case OffenceMethod:
		return f.limits.Methods
	case OffenceAuthority:
		return f.limits.Authorities
	case OffenceRow:
		return f.limits.Keys
	case OffenceWorkload:
		return f.limits.Workloads
	case OffenceSource:
		return f.limits.Sources
	}
	return 0
}

// offendKey notes that a key got no row of its own.
func (f *Folder) offendKey(k *Key) {
	var kind, example string
	switch k.Dimension {
	case ByPod, Ledger:
		kind, example = OffencePod, k.Pod
	case ByPeer:
		kind, example = OffencePeer, k.Peer.Workload.Name
	case ByRoute:
		kind, example = OffenceRoute, k.Route.Path
	case ByPeerRoute:
		kind, example = OffencePeerRoute, k.Route.Path
	default:
		return
	}
	if f.groups[k.Other()] < f.limit(k.Dimension) {
		kind = OffenceRow
	}
	f.offend(k.Workload, kind, example)
}

// evict keeps the bound on sources, with some room below it. The workloads with
// the most sources give, down to a number that all may keep: who makes up
// processes pushes out nobody else's. Of a workload those go first that have
// ended, then those that were heard of only once, then those not heard of for
// longest.
func (f *Folder) evict() (evicted int) {
	if len(f.sources) <= f.limits.Sources {
		return 0
	}
	byWorkload := map[event.Workload][]*Source{}
	for _, s := range f.sources {
		byWorkload[s.ID.Workload] = append(byWorkload[s.ID.Workload], s)
	}
	sizes := make([]int, 0, len(byWorkload))
	for _, all := range byWorkload {
		sizes = append(sizes, len(all))
	}
	each := share(sizes, f.limits.Sources*9/10)
	for w, all := range byWorkload {
		if len(all) <= each {
			continue
		}
		slices.SortFunc(all, func(a, b *Source) int {
			return cmp.Or(-compareBool(a.Final, b.Final), -compareBool(a.once(), b.once()), cmp.Compare(a.LastSeen, b.LastSeen))
		})
		gone := all[:len(all)-each]
		for _, s := range gone {
			f.forget(s.ID)
		}
		evicted += len(gone)
		f.offendTimes(w, OffenceSource, gone[0].Pod, len(gone))
	}
	return evicted
}

// share is how many each may keep at most, that all together keep no more than
// total.
func share(sizes []int, total int) int {
	slices.Sort(sizes)
	for i, n := range sizes {
		rest := len(sizes) - i
		if n*rest > total {
			return total / rest
		}
		total -= n
	}
	return total
}

// once tells that no more than one batch of the source was heard of.
func (s *Source) once() bool { return s.Batches <= 1 }

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	default:
		return -1
	}
}
