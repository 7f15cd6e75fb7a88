package rollup

import (
	"encoding/binary"
	"strings"

	"github.com/weirmesh/weir/event"
)

// What batches of one source have in common is remembered from one to the next,
// so that most of a batch is found by few look-ups. Nothing depends on it: what
// is remembered is what would be found.

// memo is what is remembered of a source.
type memo struct {
	// workload is the one that the source's counts go to, as admitted at a
	// second, pod its pod.
	workload event.Workload
	second   int64
	pod      string
	ledger   *slot
	// By direction.
	pods     [3]*slot
	routings [3]*routing
}

// recall finds out where the counts of a source go to, at a second.
func (f *Folder) recall(s *Source, h *event.Header, second int64) *memo {
	if s.memo == nil {
		s.memo = &memo{second: -1}
	}
	m := s.memo
	if m.second != second {
		w := f.admitWorkload(s.ID.Workload, second)
		if w != m.workload {
			*m = memo{workload: w}
		}
		m.second = second
		if w != s.ID.Workload {
			m.second = -1 // each batch is an offence
		}
	}
	if pod := cut(h.Source.Pod, maxName); pod != m.pod {
		m.pod, m.pods = strings.Clone(pod), [3]*slot{}
	}
	return m
}

// knownRoute is a route whose slot is remembered.
type knownRoute struct {
	method, authority, path string
	slot                    *slot
	// times it was asked for since the tree was told, and when last.
	times  uint32
	second int64
}

// appendName appends what a route is found by: its protocol, method, authority
// and path.
func appendName(dst []byte, e *event.Event) []byte {
	dst = append(dst, byte(e.Protocol))
	dst = binary.AppendUvarint(dst, uint64(len(e.Method)))
	dst = binary.AppendUvarint(dst, uint64(len(e.Authority)))
	dst = append(dst, e.Method...)
	dst = append(dst, e.Authority...)
	return append(dst, e.Path...)
}

// remembered is the slot of a route, or nil where it is to be worked out.
func (r *routing) remembered(name []byte, second int64) *slot {
	k := r.known[string(name)]
	switch {
	case k == nil:
		return nil
	case r.knownAt != r.tree.Version():
		r.settle()
		clear(r.known)
		return nil
	case k.slot.gone:
		r.settle()
		delete(r.known, string(name))
		return nil
	}
	if k.times == 0 {
		r.owing = append(r.owing, k)
		k.second = second
	}
	k.times++
	k.second = max(k.second, second)
	return k.slot
}

// remember keeps the slot of an event's route, where the route is called as the
// event's path is: of those there are no more than rows.
func (r *routing) remember(name []byte, e *event.Event, s *slot) {
	at := &s.key.Route
	if at.Method != e.Method || at.Authority != e.Authority || at.Path != e.Path {
		return
	}
	if version := r.tree.Version(); r.known == nil || r.knownAt != version {
		r.settle()
		r.known, r.knownAt = map[string]*knownRoute{}, version
	}
	r.known[string(name)] = &knownRoute{method: at.Method, authority: at.Authority, path: at.Path, slot: s}
}

// settle tells the tree and the names what was asked for, as if each had been
// worked out.
func (r *routing) settle() {
	for _, k := range r.owing {
		r.methods.touch(k.method, k.second)
		r.authorities.touch(k.authority, k.second)
		if folds(&k.slot.key.Route) {
			r.tree.Seen(k.path, k.second, k.times)
		}
		k.times = 0
	}
	clear(r.owing)
	r.owing = r.owing[:0]
}

// touch notes the use of a name that was admitted.
func (n *names) touch(name string, second int64) {
	if used, ok := n.used[name]; ok && used < second {
		n.used[name] = second
	}
}
