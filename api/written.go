package api

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/api/wire"
	"google.golang.org/protobuf/proto"
)

// Aggregators repeat byte for byte the rows that have not changed since they were
// last asked, and what the API makes of a row depends on nothing but these bytes,
// the window's length and what Kubernetes knows. So what was written of it is
// remembered, and a row that comes again is not read, added up, sorted or written.

// Bounds of what is remembered.
const (
	// writtenFor is for how long after it was asked for.
	writtenFor = 10 * time.Second
	// maxWritings questions are, of maxWrittenRows rows together: some 25 MB.
	maxWritings    = 4
	maxWrittenRows = 32_000
)

// writings remember what was written of questions that were put lately. They are
// safe for concurrent use.
type writings struct {
	mu      sync.Mutex
	all     map[string]*writing
	stopped bool
}

// take gives what is remembered of a question, to be given back; or nil, where
// nothing is to be, or somebody else has it.
func (w *writings) take(question string) *writing {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.all[question]
	if w.stopped || g != nil && g.taken || g == nil && len(w.all) >= maxWritings {
		return nil
	}
	if g == nil {
		if w.all == nil {
			w.all = map[string]*writing{}
		}
		g = &writing{}
		w.all[question] = g
	} else {
		g.forget.Stop()
	}
	g.taken = true
	return g
}

// give gives back what take gave; keep tells whether it is to be kept.
func (w *writings) give(question string, g *writing, keep bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g.taken = false
	rows := 0
	for _, other := range w.all {
		if !other.taken {
			rows += len(other.rows)
		}
	}
	if w.stopped || !keep || rows > maxWrittenRows {
		delete(w.all, question)
		return
	}
	g.forget = time.AfterFunc(writtenFor, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.all[question] == g && !g.taken {
			delete(w.all, question)
		}
	})
}

// stop forgets all and keeps nothing from now on.
func (w *writings) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	for _, g := range w.all {
		if !g.taken {
			g.forget.Stop()
		}
	}
	w.all = nil
}

// writing is what was written of a question's rows. It is not safe for
// concurrent use.
type writing struct {
	// taken and forget are the writings'.
	taken  bool
	forget *time.Timer

	// seconds is the length of the window.
	seconds float64
	// round counts the answers, from 1.
	round uint32
	rows  []writtenRow
	// index leads to a row by its resource, as rows have it packed; free are
	// rows that are none any more.
	index map[string]int32
	free  []int32
	// order is that in which the rows are told; added are those that it lacks.
	order, added []int32
	// stale are those that have to be written.
	stale []int32
	// bytes is how much all rows took.
	bytes int
}

// writtenRow is a row, and what was written of it.
type writtenRow struct {
	resource query.Selector
	// packed is what an aggregator told of it: nothing, where it was told whole,
	// by several maybe, or by none.
	packed []byte
	// whole is what was told of it whole, in this round only.
	whole *query.Row
	// known is what Kubernetes knows of it, or nil.
	known *knownRow
	// written is the row as it is sent.
	written []byte
	// next is the row that came after it in its member's answer, from 1.
	next int32
	// round is the last one that it was told in, knownIn the last one in which
	// Kubernetes knew of it.
	round, knownIn uint32
	// idle: it has no traffic, Kubernetes alone knows of it.
	idle bool
}

// errWriting says that a row can be read or written in no other way than all are
// where nothing is remembered.
var errWriting = errors.New("a row cannot be told as it was packed")

// write gives all rows of a merged reply as they are sent, as show and
// answer.write do. After an error nothing that is remembered is of use.
func (g *writing) write(reply *query.Reply, known *known, all bool, seconds float64) ([]byte, error) {
	if g.index == nil {
		g.index = map[string]int32{}
	}
	// As long as there is less history than the window asks for, each answer is of
	// a longer one than the one before.
	another := g.seconds != seconds
	g.seconds = seconds
	g.round++
	g.stale, g.added = g.stale[:0], g.added[:0]
	for _, raw := range reply.Raw() {
		if err := g.walk(raw); err != nil {
			return nil, err
		}
	}
	for i := range reply.Rows {
		at, err := g.tell(query.AppendResource(nil, &reply.Rows[i].Resource))
		if err != nil {
			return nil, err
		}
		r := &g.rows[at]
		r.packed, r.whole, r.idle = r.packed[:0], &reply.Rows[i], false
		g.stale = append(g.stale, at)
	}
	if err := g.beside(known, all); err != nil {
		return nil, err
	}
	g.arrange()
	if another {
		g.stale = append(g.stale[:0], g.order...)
	}
	if err := g.renew(); err != nil {
		return nil, err
	}
	out := make([]byte, 0, g.bytes+g.bytes/64)
	for _, at := range g.order {
		out = append(out, g.rows[at].written...)
	}
	g.bytes = len(out)
	return out, nil
}

// walk goes through what a member told.
func (g *writing) walk(raw query.Raw) error {
	last := int32(-1)
	at := g.first(&raw)
	for raw.Len() > 0 {
		if at >= 0 && raw.Repeats(g.rows[at].packed) {
			if g.rows[at].round == g.round {
				return fmt.Errorf("a row came twice: %w", query.ErrBrief)
			}
			g.rows[at].round = g.round
		} else {
			packed, resource, err := raw.Next()
			if err != nil {
				return fmt.Errorf("cannot read an aggregator's reply: %w", err)
			}
			if at, err = g.tell(resource); err != nil {
				return err
			}
			if r := &g.rows[at]; string(r.packed) != string(packed) {
				r.packed, r.idle = append(r.packed[:0], packed...), false
				g.stale = append(g.stale, at)
			}
		}
		if last >= 0 {
			g.rows[last].next = at + 1
		}
		last = at
		at = g.rows[at].next - 1
	}
	return nil
}

// first is where the row is that comes first, or -1.
func (g *writing) first(raw *query.Raw) int32 {
	peek := *raw
	if _, resource, err := peek.Next(); err == nil {
		if at, ok := g.index[string(resource)]; ok {
			return at
		}
	}
	return -1
}

// tell finds the row of a resource, or makes it, for this round.
func (g *writing) tell(resource []byte) (int32, error) {
	at, ok := g.index[string(resource)]
	if !ok {
		name, err := query.ReadResource(resource)
		if err != nil {
			return 0, fmt.Errorf("cannot read an aggregator's reply: %w", err)
		}
		if n := len(g.free); n > 0 {
			at, g.free = g.free[n-1], g.free[:n-1]
		} else {
			at = int32(len(g.rows))
			g.rows = append(g.rows, writtenRow{})
		}
		r := &g.rows[at]
		*r = writtenRow{resource: name, packed: r.packed[:0], written: r.written[:0]}
		g.index[string(resource)] = at
		g.added = append(g.added, at)
	}
	r := &g.rows[at]
	if r.round == g.round {
		return 0, fmt.Errorf("a row came twice: %w", query.ErrBrief)
	}
	r.round = g.round
	return at, nil
}

// beside puts what Kubernetes knows beside the rows, and adds those that it knows
// and that have no traffic, as show does.
func (g *writing) beside(known *known, all bool) error {
	var rows []knownRow
	if known != nil {
		rows = known.rows
	}
	var name []byte
	for i := range rows {
		k := &rows[i]
		name = query.AppendResource(name[:0], &k.resource)
		at, ok := g.index[string(name)]
		if !ok || g.rows[at].round != g.round {
			if !all || k.pods.GetTotal() == 0 && ends(k.resource.Kind) {
				continue
			}
			var err error
			if at, err = g.tell(name); err != nil {
				return err
			}
			if r := &g.rows[at]; !r.idle {
				r.packed, r.idle = r.packed[:0], true
				g.stale = append(g.stale, at)
			}
		}
		r := &g.rows[at]
		if !r.known.equal(k) {
			g.stale = append(g.stale, at)
		}
		r.known, r.knownIn = k, g.round
	}
	for at := range g.rows {
		if r := &g.rows[at]; r.known != nil && r.knownIn != g.round {
			r.known = nil
			g.stale = append(g.stale, int32(at))
		}
	}
	return nil
}

// equal tells whether two say the same.
func (k *knownRow) equal(o *knownRow) bool {
	if k == nil || o == nil {
		return k == o
	}
	owner := k.owner == o.owner || k.owner != nil && o.owner != nil && *k.owner == *o.owner
	return owner && k.resource == o.resource && k.status == o.status && k.proxy == o.proxy && proto.Equal(k.pods, o.pods)
}

// arrange brings the order up to date: without the rows that nobody has told of,
// with those that are new.
func (g *writing) arrange() {
	compare := func(a, b int32) int { return compareSelectors(g.rows[a].resource, g.rows[b].resource) }
	g.order = slices.DeleteFunc(g.order, func(at int32) bool {
		r := &g.rows[at]
		if r.round == g.round {
			return false
		}
		delete(g.index, string(query.AppendResource(nil, &r.resource)))
		g.free = append(g.free, at)
		*r = writtenRow{packed: r.packed[:0], written: r.written[:0]}
		return true
	})
	if len(g.added) == 0 {
		return
	}
	slices.SortFunc(g.added, compare)
	// Both are sorted: the greatest go to the end first.
	i, j := len(g.order)-1, len(g.added)-1
	g.order = append(g.order, g.added...)
	for at := len(g.order) - 1; j >= 0; at-- {
		if i >= 0 && compare(g.order[i], g.added[j]) > 0 {
			g.order[at] = g.order[i]
			i--
		} else {
			g.order[at] = g.added[j]
			j--
		}
	}
}

// renew writes the rows that are stale, side by side where there are many.
func (g *writing) renew() error {
	slices.Sort(g.stale)
	g.stale = slices.Compact(g.stale)
	parts := min(runtime.GOMAXPROCS(0), len(g.stale)/renewedAtOnce+1)
	failed := make([]error, parts)
	var group sync.WaitGroup
	for part := range parts {
		group.Go(func() {
			failed[part] = g.renewAll(g.stale[part*len(g.stale)/parts : (part+1)*len(g.stale)/parts])
		})
	}
	group.Wait()
	return errors.Join(failed...)
}

// renewedAtOnce rows are worth a goroutine of their own.
const renewedAtOnce = 256

func (g *writing) renewAll(stale []int32) error {
	w := rowWriter{codes: map[int]string{}}
	for _, at := range stale {
		r := &g.rows[at]
		if r.round != g.round {
			continue // it is none any more
		}
		if err := w.write(r, g.seconds); err != nil {
			return err
		}
	}
	return nil
}

// rowWriter writes rows one after the other.
type rowWriter struct {
	in   query.RowReader
	out  wire.Writer
	room statRoom
	also wire.Counts
	// codes are the names of those that there were.
	codes map[int]string
}

// write writes a row anew.
func (w *rowWriter) write(r *writtenRow, seconds float64) error {
	row, also := r.whole, (*wire.Counts)(nil)
	r.whole = nil
	switch {
	case r.idle:
		row = &query.Row{Resource: r.resource, Direction: query.Inbound}
	case row == nil:
		raw, err := w.in.Read(r.packed)
		if err != nil {
			return fmt.Errorf("cannot read an aggregator's reply: %w", err)
		}
		w.count(raw)
		row, also = &raw.Row, &w.also
		row.Resource = r.resource
	}
	var ok bool
	if r.written, ok = w.out.Append(r.written[:0], statRow(&w.room, shownRow{row, r.known}, seconds), also); !ok {
		return errWriting
	}
	return nil
}

// count has a row's counts beside it.
func (w *rowWriter) count(row *query.RawRow) {
	w.also.Status, w.also.GRPC, w.also.Errors = w.also.Status[:0], w.also.GRPC[:0], w.also.Errors[:0]
	for _, c := range row.Status {
		w.also.Status = append(w.also.Status, wire.Count{Key: w.code(int(c.Value), math.MaxUint16), N: c.N})
	}
	for _, c := range row.GRPC {
		w.also.GRPC = append(w.also.GRPC, wire.Count{Key: w.code(int(c.Value), math.MaxInt16), N: c.N})
	}
	for _, c := range row.Errors {
		w.also.Errors = append(w.also.Errors, wire.Count{Key: c.Value, N: c.N})
	}
}

// code is as codeName.
func (w *rowWriter) code(code, other int) string {
	if code == other {
		return codeName(code, other)
	}
	name, ok := w.codes[code]
	if !ok {
		name = codeName(code, other)
		w.codes[code] = name
	}
	return name
}
