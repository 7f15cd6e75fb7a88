package scan

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/weirmesh/weir/aggregator/match"
	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

// maxValue bounds a dimension's value; a longer one is cut.
const maxValue = 512

// group is what has the same values.
type group struct {
	cell rollup.Cell
	// missing is how many requests and connections of it may have gone to
	// (other) before it was kept.
	missing uint64
}

// table sums up events by their values, in bounded memory: where there are too
// many groups, the smaller half becomes (other). What is frequent stays; the
// sum of all is exact.
type table struct {
	by     []*match.Field
	most   int
	groups map[string]*group
	other  rollup.Cell
	// evicted is the weight of the greatest group that became (other).
	evicted uint64
	key     []byte
	free    []*group
}

func newTable(by []*match.Field, most int) *table {
	return &table{by: by, most: most, groups: map[string]*group{}}
}

// add adds one event.
func (t *table) add(h *event.Header, e *event.Event) {
	// Each value is followed by its length, so that no two lists of values have
	// the same key.
	key := t.key[:0]
	for _, f := range t.by {
		at := len(key)
		key = f.Append(key, h, e)
		if len(key)-at > maxValue {
			key = append(key[:at], strings.ToValidUTF8(string(key[at:at+maxValue]), "")...)
		}
		key = binary.LittleEndian.AppendUint16(key, uint16(len(key)-at))
	}
	t.key = key
	g := t.groups[string(key)]
	if g == nil {
		g = t.open(string(key))
	}
	g.cell.Add(e)
}

// values reads a key back.
func (t *table) values(key string) []string {
	out := make([]string, len(t.by))
	for i := len(out) - 1; i >= 0; i-- {
		end := len(key) - 2
		begin := end - int(binary.LittleEndian.Uint16([]byte(key[end:])))
		out[i] = key[begin:end]
		key = key[:begin]
	}
	return out
}

func (t *table) open(key string) *group {
	if len(t.groups) >= t.most {
		t.shrink(t.most / 2)
	}
	g := &group{}
	if n := len(t.free); n > 0 {
		g, t.free = t.free[n-1], t.free[:n-1]
	}
	g.missing = t.evicted
	t.groups[key] = g
	return g
}

// shrink keeps the greatest groups.
func (t *table) shrink(keep int) {
	for _, key := range t.ranked()[keep:] {
		g := t.groups[key]
		t.evicted = max(t.evicted, g.cell.Weight()+g.missing)
		t.other.Merge(&g.cell)
		delete(t.groups, key)
		g.cell.Reset()
		t.free = append(t.free, g)
	}
}

// ranked are the keys, those of the greatest groups first.
func (t *table) ranked() []string {
	keys := make([]string, 0, len(t.groups))
	for key := range t.groups {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int {
		return cmp.Or(cmp.Compare(t.groups[b].cell.Weight(), t.groups[a].cell.Weight()), strings.Compare(a, b))
	})
	return keys
}

// merge adds all of o, which must not be used any more.
func (t *table) merge(o *table) {
	for key, g := range t.groups {
		if o.groups[key] == nil {
			g.missing += o.evicted
		}
	}
	for key, from := range o.groups {
		if g := t.groups[key]; g != nil {
			g.cell.Merge(&from.cell)
			g.missing += from.missing
		} else {
			from.missing += t.evicted
			t.groups[key] = from
		}
	}
	t.other.Merge(&o.other)
	t.evicted += o.evicted
}

// Row is the sum for one list of values.
type Row struct {
	// Values are in the order of the dimensions.
	Values []string
	Stats  query.Stats
	// Missing is how many more requests and connections may have had these
	// values at most, and be counted in (other); 0: the sum is exact.
	Missing uint64
}

// rows gives the greatest, the sum of the others with their number, and the
// total. The table is used up.
func (t *table) rows(top int) (rows []Row, other, total query.Stats, others int) {
	ranked := t.ranked()
	for i, key := range ranked {
		g := t.groups[key]
		if i < top {
			rows = append(rows, Row{Values: t.values(key), Stats: stats(&g.cell), Missing: g.missing})
			continue
		}
		t.other.Merge(&g.cell)
		others++
	}
	other = stats(&t.other)
	for i := range rows {
		total.Add(&rows[i].Stats)
	}
	total.Add(&other)
	return rows, other, total, others
}

// stats is all that a cell holds.
func stats(c *rollup.Cell) query.Stats {
	var whole rollup.Cell
	whole.Merge(c)
	latency, duration := whole.Distributions()
	return query.Stats{
		Requests:      whole.Requests,
		Successes:     whole.Successes,
		RequestBytes:  whole.RequestBytes,
		ResponseBytes: whole.ResponseBytes,
		Connections:   whole.Connections,
		Status:        counts(whole.Status),
		GRPC:          counts(whole.GRPC),
		Errors:        counts(whole.Errors),
		Latency:       latency,
		Duration:      duration,
	}
}

func counts[T comparable](all []rollup.Count[T]) map[T]uint64 {
	if len(all) == 0 {
		return nil
	}
	m := make(map[T]uint64, len(all))
	for _, n := range all {
		m[n.Value] = n.N
	}
	return m
}
