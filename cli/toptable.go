package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/weirmesh/weir/api/weirpb"
)

// maxTopRows bounds what top tells apart; the rest is one row, (other).
const maxTopRows = 5000

// topKey is what a row of top is about.
type topKey struct{ source, destination, method, path string }

// topRow is one row. Times are µs.
type topRow struct {
	topKey
	count, successes  uint64
	best, worst, last uint64
}

func (r *topRow) success() float64 { return float64(r.successes) / float64(max(r.count, 1)) }

// topTable counts requests. It is safe for concurrent use.
type topTable struct {
	// selection is what is tapped; hideSources and routes change the key.
	selection           *weirpb.Resource
	hideSources, routes bool

	mu sync.Mutex
	// rows is guarded by mu, as are the notes of the stream.
	rows  map[topKey]*topRow
	notes []string
	// state is where the stream is just now.
	state string
}

func newTopTable(selection *weirpb.Resource, hideSources, routes bool) *topTable {
	return &topTable{selection: selection, hideSources: hideSources, routes: routes, rows: map[topKey]*topRow{}}
}

// add counts an exchange that is over.
func (t *topTable) add(e *weirpb.TapEvent) {
	if e.GetKind() != "end" || t.twice(e) {
		return
	}
	key := topKey{source: side(e.GetSource()), destination: side(e.GetDestination()), method: e.GetMethod(), path: e.GetPath()}
	if key.method == "" && key.path == "" {
		key.method, key.path = none, "("+e.GetProtocol()+")"
	}
	if t.hideSources {
		key.source = ""
	}
	if t.routes {
		key.method, key.path = "", routeName(e, key)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rows[key]
	if r == nil {
		if len(t.rows) >= maxTopRows {
			key = topKey{path: otherName}
		}
		if r = t.rows[key]; r == nil {
			r = &topRow{topKey: key, best: e.GetLatencyUs()}
			t.rows[key] = r
		}
	}
	r.count++
	if succeeded(e) {
		r.successes++
	}
	r.best, r.worst, r.last = min(r.best, e.GetLatencyUs()), max(r.worst, e.GetLatencyUs()), e.GetLatencyUs()
}

// twice tells whether the other side's proxy is tapped as well and shows the
// same request: the server's counts.
func (t *topTable) twice(e *weirpb.TapEvent) bool {
	if e.GetProxyDirection() != outbound || !e.GetMeshed() {
		return false
	}
	s, d := t.selection, e.GetDestination()
	w := d.GetWorkload()
	if s.GetNamespace() != "" && s.GetNamespace() != w.GetNamespace() || s.GetCluster() != "" && s.GetCluster() != w.GetCluster() {
		return false
	}
	switch s.GetKind() {
	case kindNamespace:
		return true
	case kindPod:
		return s.GetName() == "" || s.GetName() == d.GetPod()
	}
	return (s.GetKind() == "" || s.GetKind() == w.GetKind()) && (s.GetName() == "" || s.GetName() == w.GetName())
}

// side is the best short name of one side.
func side(e *weirpb.Endpoint) string {
	return cmp.Or(e.GetWorkload().GetName(), e.GetPod(), e.GetIp(), none)
}

func routeName(e *weirpb.TapEvent, key topKey) string {
	if e.GetProtocol() == "grpc" {
		return strings.TrimPrefix(e.GetPath(), "/")
	}
	if key.method == none {
		return key.path
	}
	return key.method + " " + key.path
}

// succeeded classifies as the statistics do.
func succeeded(e *weirpb.TapEvent) bool {
	if e.GetError() != "" {
		return false
	}
	switch e.GetProtocol() {
	case "tcp", "tls":
		return true
	case "grpc":
		switch e.GetGrpcStatus() {
		case 2, 4, 7, 13, 14, 15:
			return false
		}
		if e.GrpcStatus == nil {
			return false
		}
	}
	return e.GetStatus() > 0 && e.GetStatus() < 500
}

// say keeps a note of the stream, of the last few.
func (t *topTable) say(note string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.notes = append(t.notes, note)
	t.notes = t.notes[max(0, len(t.notes)-3):]
}

// now notes where the stream is, "" where there is nothing to say about it.
func (t *topTable) now(state string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state = state
}

// topSorts are the columns that rows may be ordered by, with their keys.
var topSorts = [...]struct {
	key, name string
	compare   func(a, b *topRow) int
}{
	{"c", "count", func(a, b *topRow) int { return cmp.Compare(b.count, a.count) }},
	{"b", "best", func(a, b *topRow) int { return cmp.Compare(a.best, b.best) }},
	{"w", "worst", func(a, b *topRow) int { return cmp.Compare(b.worst, a.worst) }},
	{"l", "last", func(a, b *topRow) int { return cmp.Compare(b.last, a.last) }},
	{"s", "success", func(a, b *topRow) int { return cmp.Compare(a.success(), b.success()) }},
	{"S", "source", func(a, b *topRow) int { return strings.Compare(a.source, b.source) }},
	{"D", "destination", func(a, b *topRow) int { return strings.Compare(a.destination, b.destination) }},
	{"m", "method", func(a, b *topRow) int { return strings.Compare(a.method, b.method) }},
	{"p", "path", func(a, b *topRow) int { return strings.Compare(a.path, b.path) }},
}

// snapshot gives the rows in order, copied, and the notes.
func (t *topTable) snapshot(sort string) (rows []topRow, notes []string) {
	t.mu.Lock()
	for _, r := range t.rows {
		rows = append(rows, *r)
	}
	notes = slices.Clone(t.notes)
	if t.state != "" {
		notes = append(notes, t.state)
	}
	t.mu.Unlock()
	by := topSorts[0].compare
	for _, s := range topSorts {
		if s.name == sort {
			by = s.compare
		}
	}
	slices.SortFunc(rows, func(a, b topRow) int {
		return cmp.Or(by(&a, &b), cmp.Compare(b.count, a.count), strings.Compare(a.source, b.source), strings.Compare(a.destination, b.destination),
			strings.Compare(a.path, b.path), strings.Compare(a.method, b.method))
	})
	return rows, notes
}

// minPath is how much of a path is shown at least.
const minPath = 12

// within is render for a terminal of so many columns: paths, the longest of what
// there is, are shortened for the numbers to be seen. 0: however wide it is.
func (t *topTable) within(rows []topRow, columns int) []byte {
	whole := t.render(rows, 0)
	widest := 0
	for line := range strings.Lines(string(whole)) {
		widest = max(widest, width(strings.TrimSuffix(line, "\n")))
	}
	if columns == 0 || widest <= columns {
		return whole
	}
	longest := 0
	for i := range rows {
		longest = max(longest, width(t.pathCell(&rows[i])))
	}
	return t.render(rows, max(minPath, longest-(widest-columns)))
}

// pathCell is what a row shows for its path, or route.
func (t *topTable) pathCell(r *topRow) string {
	if t.routes {
		return printableRoute(r.path)
	}
	return orNone(printable(r.path))
}

// shorten keeps the end of a path, which tells more than its begin, in room
// columns; 0: all of it.
func shorten(path string, room int) string {
	if runes := []rune(path); room > 0 && len(runes) > room {
		return "…" + string(runes[len(runes)-room+1:])
	}
	return path
}

// render gives rows as a table with a head, paths in so much room (0: all).
func (t *topTable) render(rows []topRow, room int) []byte {
	var heads []string
	if !t.hideSources {
		heads = append(heads, "SOURCE")
	}
	heads = append(heads, "DESTINATION")
	if t.routes {
		heads = append(heads, "ROUTE")
	} else {
		heads = append(heads, "METHOD", "PATH")
	}
	out := &table{left: len(heads)}
	out.add(append(heads, "COUNT", "BEST", "WORST", "LAST", "SUCCESS RATE")...)
	for i := range rows {
		r := &rows[i]
		var cells []string
		if !t.hideSources {
			cells = append(cells, orNone(printable(r.source)))
		}
		cells = append(cells, orNone(printable(r.destination)))
		if !t.routes {
			cells = append(cells, orNone(printable(r.method)))
		}
		cells = append(cells, shorten(t.pathCell(r), room))
		out.add(append(cells, fmt.Sprint(r.count), shortTime(r.best), shortTime(r.worst), shortTime(r.last), percent(r.success()))...)
	}
	return out.render()
}

// shortTime is a time of µs as Linkerd's top shows it: "812µs", "12ms", "1.2s".
func shortTime(us uint64) string {
	switch {
	case us < 1000:
		return fmt.Sprintf("%dµs", us)
	case us < 1_000_000:
		return millis(float64(us) / 1000)
	}
	return fmt.Sprintf("%.1fs", float64(us)/1e6)
}
