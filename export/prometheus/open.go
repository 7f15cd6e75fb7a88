package prometheus

import (
	"bufio"
	"maps"
	"slices"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/export"
)

// openFor is how long a proxy's gauge holds after its last batch: several
// heartbeats.
const openFor = 40 * time.Second

// gauge is how many connections of its clients a proxy has open.
type gauge struct {
	labels labels
	open   uint64
}

// gauges are those of the proxies that were live when a state was stored.
func gauges(s *state) (all []gauge, err error) {
	if len(s.marks) == 0 {
		return nil, nil
	}
	since := time.UnixMicro(s.written).Add(-openFor).Unix()
	err = export.OpenConnections(s.marks, since, func(w event.Workload, pod string, open uint64) {
		all = append(all, gauge{ofPod(w, pod), open})
	})
	return all, err
}

// writeOpen writes tcp_open_connections, with at most so many rows of pods. The
// proxies tell one number for both directions.
func writeOpen(w *bufio.Writer, all []gauge, limit int) {
	rows := map[labels]uint64{}
	for _, g := range all {
		l := g.labels
		if _, ok := rows[l]; !ok && len(rows) >= limit {
			l = l.ofWorkload()
		}
		rows[l] += g.open
	}
	if len(rows) == 0 {
		return
	}
	lines := map[string]uint64{}
	for l, open := range rows {
		lines[string(l.append(nil))+`,peer="src"`] += open
	}
	head(w, "tcp_open_connections", "Connections of clients that are open now, of all protocols and both directions.", "gauge")
	for _, text := range slices.Sorted(maps.Keys(lines)) {
		sample(w, "tcp_open_connections", "", []byte(text), "", lines[text])
	}
}
