package rollup

import (
	"slices"
	"strings"
	"unsafe"

	"github.com/weirmesh/weir/aggregator/route"
	"github.com/weirmesh/weir/event"
)

// side is one direction of a workload, which has routes of its own.
type side struct {
	workload  event.Workload
	direction event.Direction
}

// routing is what is known of the routes of a side.
type routing struct {
	tree *route.Tree
	// written is the tree's version in the last rollup.
	written              uint64
	methods, authorities names
	// known are the slots of routes whose paths are templates already, by
	// appendName, while the tree's version is knownAt; owing are those asked
	// for that the tree and the names have not been told of yet.
	known   map[string]*knownRoute
	knownAt uint64
	owing   []*knownRoute
	// gone: the folder has forgotten the side.
	gone bool
}

// names are those that keep their own, and when each was last used, Unix
// seconds.
type names struct {
	used map[string]int64
	// last is the one that was asked for last, at a second: most often the next
	// is the same.
	last   string
	second int64
}

// admit tells whether a name is one of at most limit.
func (n *names) admit(name string, limit int, second int64) bool {
	if name == "" || name == OtherName || name == n.last && n.second >= second {
		return true
	}
	used, ok := n.used[name]
	if !ok {
		if len(n.used) >= limit {
			return false
		}
		if n.used == nil {
			n.used = map[string]int64{}
		}
		name = strings.Clone(name)
	}
	if !ok || used < second {
		n.used[name] = second
	}
	if n.last != name {
		n.last = strings.Clone(name) // it may point into a batch
	}
	n.second = second
	return true
}

func (n *names) sweep(now int64) {
	for name, used := range n.used {
		if now-used > keyMemory {
			delete(n.used, name)
			n.last = ""
		}
	}
}

// routing finds or makes that of a workload that was admitted.
func (f *Folder) routing(w event.Workload, d event.Direction) *routing {
	at := side{w, d}
	r := f.routings[at]
	if r == nil {
		at.workload = w.Clone()
		r = &routing{tree: route.NewTree(&f.budget)}
		f.routings[at] = r
	}
	return r
}

// routeOf is the route of an event: its path's template, and its method and
// authority where they are not too many. It is valid until the next call.
func (f *Folder) routeOf(w event.Workload, r *routing, e *event.Event, second int64) Route {
	r.settle()
	k := Route{
		Protocol:  e.Protocol,
		Method:    cut(e.Method, maxName),
		Authority: cut(e.Authority, maxName),
		Path:      cut(e.Path, maxPath),
	}
	if !r.methods.admit(k.Method, f.limits.Methods, second) {
		f.offend(w, OffenceMethod, k.Method)
		k.Method = OtherName
	}
	if !r.authorities.admit(k.Authority, f.limits.Authorities, second) {
		f.offend(w, OffenceAuthority, k.Authority)
		k.Authority = OtherName
	}
	if folds(&k) {
		f.path = r.tree.Template(f.path[:0], e.Path, second)
		k.Path = unsafe.String(unsafe.SliceData(f.path), len(f.path))
	}
	return k
}

// folds tells whether a route's path is to be a template: a gRPC method is one
// of a list as it is.
func folds(r *Route) bool { return r.Protocol != event.GRPC && r.Path != "" }

// Canonical is the route of a key, of this or an earlier rollup, as it would be
// written now: what was learned since has changed templates. It may run beside
// itself and other methods that change nothing.
func (f *Folder) Canonical(k *Key) Route {
	r := k.Route
	if !folds(&r) || r.Path == OtherName {
		return r
	}
	var buffer [route.MaxTemplate]byte
	path := buffer[:0]
	if known := f.routings[side{k.Workload, k.Direction}]; known != nil {
		path = known.tree.Canonical(path, r.Path)
	} else {
		path = route.Shape(path, r.Path)
	}
	if string(path) != r.Path {
		r.Path = string(path)
	}
	return r
}

// Learned is what is known of how the paths of one side vary.
type Learned struct {
	Workload  event.Workload
	Direction event.Direction
	Positions []route.Position
}

// Learn takes over what an earlier owner learned.
func (f *Folder) Learn(all []Learned) {
	for i := range all {
		l := &all[i]
		if len(f.routings) >= 2*f.limits.Workloads && f.routings[side{l.Workload, l.Direction}] == nil {
			continue
		}
		r := f.routing(l.Workload, l.Direction)
		for _, p := range l.Positions {
			r.tree.Learn(p)
		}
		r.written = r.tree.Version()
	}
}

// learned lists what is known of all sides, or of those of which more is known
// than at the last time. Rows that are called otherwise now are forgotten, so
// that they make room; it must be called when none has cells.
func (f *Folder) learned(full bool) (all []Learned) {
	changed := map[side]bool{}
	for at, r := range f.routings {
		if full || r.tree.Version() != r.written {
			// Else what is owed can wait: the tree has nothing to learn of routes
			// that it knows but how often and when they were asked for.
			r.settle()
		}
		news := r.tree.Version() != r.written
		if news {
			changed[at] = true
			r.written = r.tree.Version()
		}
		if !news && !full {
			continue
		}
		if positions := r.tree.Positions(); len(positions) > 0 {
			all = append(all, Learned{at.workload, at.direction, positions})
		}
	}
	slices.SortFunc(all, func(a, b Learned) int {
		if n := strings.Compare(a.Workload.String(), b.Workload.String()); n != 0 {
			return n
		}
		return int(a.Direction) - int(b.Direction)
	})
	if len(changed) == 0 {
		return all
	}
	for id, s := range f.slots {
		k := &s.key
		if (k.Dimension == ByRoute || k.Dimension == ByPeerRoute) && changed[side{k.Workload, k.Direction}] && f.Canonical(k) != k.Route {
			delete(f.slots, id)
			s.gone = true
			f.ungroup(s.key)
		}
	}
	return all
}

// sweepRoutes forgets what has not been used for long.
func (f *Folder) sweepRoutes(now int64) {
	for at, r := range f.routings {
		r.settle()
		for name, k := range r.known {
			if k.slot.gone {
				delete(r.known, name)
			}
		}
		r.methods.sweep(now)
		r.authorities.sweep(now)
		r.tree.Sweep(now)
		if r.tree.Nodes() == 0 && len(r.methods.used)+len(r.authorities.used) == 0 {
			r.gone = true
			delete(f.routings, at)
		}
	}
}
