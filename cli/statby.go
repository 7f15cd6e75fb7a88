package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/api/client"
	"github.com/weirmesh/weir/api/weirpb"
)

// scanNoteAfter is how long a scan may take before it says how far it is.
const scanNoteAfter = time.Second

// lateFlags are the flags of questions that only the events can answer.
type lateFlags struct {
	by     string
	top    uint32
	filter filterFlags
}

func (l *lateFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&l.by, "by", "", "tell apart by these fields of the events, with commas between, as path,status")
	cmd.Flags().Uint32Var(&l.top, "top", 20, "with --by: how many rows; the rest is summed up as (other)")
	l.filter.flags(cmd)
}

// check refuses what says nothing.
func (l *lateFlags) check(cmd *cobra.Command) error {
	by := cmd.Flags().Changed("by")
	switch {
	case by && strings.Trim(l.by, ", ") == "":
		return Usagef(cmd, "--by is empty: by which fields, as in --by path,status?")
	case cmd.Flags().Changed("top") && !by:
		return Usagef(cmd, "--top goes with --by: without it there is one row for each resource")
	case by && l.top == 0:
		return Usagef(cmd, "--top 0: at least one row, or (other) would be all")
	}
	return nil
}

// late tells whether the events have to be read.
func (l *lateFlags) late(cmd *cobra.Command) bool {
	return cmd.Flags().Changed("by") || len(l.filter.given(cmd)) > 0
}

// scan answers from the events themselves.
func (s *statCommand) scan(cmd *cobra.Command, resources []*weirpb.Resource) error {
	if s.watch {
		return Usagef(cmd, "-w and --by, or a filter, contradict each other: reading the events each second would be too much")
	}
	if s.before.ago > 0 {
		return Usagef(cmd, "--compare and --by, or a filter, contradict each other: ask twice, with --since and --until")
	}
	if len(resources) != 1 {
		return Usagef(cmd, "which resource? --by and filters go with one TYPE, TYPE NAME or TYPE/NAME, as in `weir stat deploy/web --by path`")
	}
	filter, err := s.late.filter.resolve(cmd, &s.peers, &s.scope)
	if err != nil {
		return err
	}
	w, err := s.window.resolve(cmd, s.now())
	if err != nil {
		return err
	}
	req := &weirpb.ScanRequest{Resource: resources[0], Filter: filter, Window: w, Top: s.late.top}
	s.scope.apply(req.GetResource())
	for one := range strings.SplitSeq(s.late.by, ",") {
		if one = strings.TrimSpace(one); one != "" {
			req.By = append(req.By, one)
		}
	}
	ctx := cmd.Context()
	c, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	r, err := s.scanned(ctx, c, req)
	if err != nil {
		return err
	}
	s.noteScan(ctx, c, req, r)
	if s.output == outputJSON {
		out, err := scanJSON(r)
		if err != nil {
			return err
		}
		return s.write(out)
	}
	if len(r.GetRows()) == 0 && r.GetOther() == nil {
		return nil
	}
	if s.output == outputWide {
		s.notef("%s", quantileNote(r.GetCoverage()))
	}
	return s.write(scanTable(r, s.output == outputWide))
}

// scanned gets the result, and says how far it is where that takes long.
func (s *statCommand) scanned(ctx context.Context, c *client.Client, req *weirpb.ScanRequest) (*weirpb.ScanResult, error) {
	stream, err := c.Scan(ctx, req)
	if err != nil {
		return nil, callError("read the events", err)
	}
	said := time.Now()
	var result *weirpb.ScanResult
	for {
		item, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, callError("read the events", err)
		}
		if item.GetResult() != nil {
			result = item.GetResult()
		}
		if p := item.GetProgress(); p != nil && time.Since(said) >= scanNoteAfter {
			said = time.Now()
			s.notef("Read %d of %d batches: %d of %d events match.", p.GetBatches(), p.GetBatchesTotal(), p.GetMatched(), p.GetEvents())
		}
	}
	if result == nil {
		return nil, errors.New("cannot read the events: the API's answer has no result")
	}
	return result, nil
}

// noteScan says what the rows do not show.
func (s *statCommand) noteScan(ctx context.Context, c *client.Client, req *weirpb.ScanRequest, r *weirpb.ScanResult) {
	covered := r.GetCoverage()
	s.noteCoverage(req.GetWindow(), covered)
	if r.GetProgress().GetEvents() == 0 {
		s.explainMissing(ctx, c, &question{req.GetResource(), req.GetFilter().GetTo(), req.GetFilter().GetFrom()}, &s.scope, covered)
		return
	}
	if r.GetProgress().GetMatched() == 0 {
		s.notef("None of %d events match.", r.GetProgress().GetEvents())
	}
	if r.GetDirection() == outbound && req.GetFilter().GetDirection() == "" && req.GetFilter().GetTo() == nil {
		s.notef("%s only sends: shown is what it sent.", describe(req.GetResource()))
	}
	if n := r.GetMissing(); n > 0 || r.GetMissingBatches() > 0 {
		s.notef("%d events are missing, of them those of %d batches that never arrived (-o json tells whose).", n, r.GetMissingBatches())
	}
	for _, row := range r.GetRows() {
		if row.GetMissing() > 0 {
			s.notef("There are more groups than can be told apart: rows marked + may have up to %d more, which are in (other). The sum of all is exact.", maxMissing(r))
			return
		}
	}
}

func maxMissing(r *weirpb.ScanResult) (most uint64) {
	for _, row := range r.GetRows() {
		most = max(most, row.GetMissing())
	}
	return most
}

// otherName stands for what has no row.
const otherName = "(other)"

func scanTable(r *weirpb.ScanResult, wide bool) []byte {
	t := &table{left: max(1, len(r.GetBy()))}
	var heads []string
	for _, by := range r.GetBy() {
		heads = append(heads, strings.ToUpper(by))
	}
	if len(heads) == 0 {
		heads = append(heads, "EVENTS")
	}
	heads = append(append(heads, "REQUESTS"), trafficHeads...)
	if wide {
		heads = append(append(heads, wideHeads...), "TCP_ENDED", "READ_BYTES", "WRITE_BYTES")
	}
	t.add(heads...)
	add := func(values []string, st *weirpb.Stats, mark string) {
		var cells []string
		for i, v := range values {
			by := ""
			if i < len(r.GetBy()) {
				by = r.GetBy()[i]
			}
			cells = append(cells, scanValue(by, v))
		}
		cells = append(append(cells, fmt.Sprint(st.GetRequests())+mark), trafficCells(st)...)
		if wide {
			cells = append(append(cells, wideCells(st)...), fmt.Sprint(st.GetTcpConnections()), fmt.Sprint(st.GetRequestBytes()), fmt.Sprint(st.GetResponseBytes()))
		}
		t.add(cells...)
	}
	for _, row := range r.GetRows() {
		values, mark := row.GetValues(), ""
		if len(r.GetBy()) == 0 {
			values = []string{kindAll}
		}
		if row.GetMissing() > 0 {
			mark = "+"
		}
		add(values, row.GetStats(), mark)
	}
	if r.GetOther() != nil {
		values := make([]string, max(1, len(r.GetBy())))
		values[0] = otherName
		add(values, r.GetOther().GetStats(), "")
	}
	return t.render()
}

// scanValue is a value of the field by in a table.
func scanValue(by, v string) string {
	switch by {
	case "route":
		return orNone(printableRoute(v))
	case "latency", "duration", "detection_time":
		if v != "" && v != otherName {
			return v + "µs"
		}
	}
	return orNone(printable(v))
}

// scanRow is a row of the JSON output.
type scanRow struct {
	// By has the value of each field, as text; empty for (other).
	By map[string]string `json:"by"`
	// Other marks the sum of all that has no row of its own.
	Other bool `json:"other"`
	// MissingAtMost is how many more may have these values.
	MissingAtMost uint64 `json:"missing_at_most"`
	Direction     string `json:"direction"`
	traffic
	TCPConnections uint64 `json:"tcp_connections"`
	span
}

func scanJSON(r *weirpb.ScanResult) ([]byte, error) {
	var out []scanRow
	add := func(row *weirpb.ScanRow, other bool) {
		o := scanRow{By: map[string]string{}, Other: other, MissingAtMost: row.GetMissing(), Direction: r.GetDirection(),
			traffic: newTraffic(row.GetStats()), TCPConnections: row.GetStats().GetTcpConnections(), span: newSpan(r.GetCoverage())}
		for i, v := range row.GetValues() {
			o.By[r.GetBy()[i]] = v
		}
		out = append(out, o)
	}
	for _, row := range r.GetRows() {
		add(row, false)
	}
	if r.GetOther() != nil {
		add(r.GetOther(), true)
	}
	return renderJSON(out)
}
