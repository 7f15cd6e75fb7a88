package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/api/client"
	"github.com/weirmesh/weir/api/weirpb"
	"google.golang.org/protobuf/types/known/durationpb"
)

type seriesCommand struct {
	*app
	scope  scope
	peers  peers
	window windowFlags
	step   time.Duration
	output output
}

func newSeries(a *app) *cobra.Command {
	s := &seriesCommand{app: a}
	cmd := &cobra.Command{
		Use:   "series (TYPE [NAME...] | TYPE/NAME...)",
		Short: "Show success rates, request rates and latencies over time",
		Long: `Show what ` + "`weir stat`" + ` sums up as a row of equal steps of time, the oldest first
and none left out. A step begins at its TIME. Steps lie on a fixed grid, so that
those asked for again are the same.`,
		Example: `  weir series deploy/web -n emojivoto -t 10m --step 1m
  weir series deploy/web --to deploy/voting -n emojivoto --since 14:00 --until 14:05 -o json`,
		ValidArgsFunction: completeResources,
		RunE:              s.run,
	}
	s.scope.flags(cmd)
	s.peers.flags(cmd)
	s.window.flags(cmd)
	cmd.Flags().Var((*lengthValue)(&s.step), "step", "length of a step, whole seconds (default: a sixtieth of the window)")
	outputFlag(cmd, &s.output, outputTable, outputWide, outputJSON)
	return cmd
}

func (s *seriesCommand) run(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return Usagef(cmd, "which resource? Give TYPE, TYPE NAME or TYPE/NAME, as in `weir series deploy/web`")
	}
	resources, err := parseResources(args)
	if err != nil {
		return Usagef(cmd, "%w", err)
	}
	if err := s.scope.check(cmd); err != nil {
		return err
	}
	to, from, err := s.peers.one(cmd, &s.scope)
	if err != nil {
		return err
	}
	w, err := s.window.resolve(cmd, s.now())
	if err != nil {
		return err
	}
	if cmd.Flags().Changed("step") && (s.step < time.Second || s.step%time.Second != 0) {
		return Usagef(cmd, "--step %s: a step is a whole number of seconds, as 10s", s.step)
	}
	c, err := s.dial(cmd.Context())
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	var requests []*weirpb.SeriesRequest
	for _, r := range resources {
		s.scope.apply(r)
		req := &weirpb.SeriesRequest{Resource: r, To: to, From: from, Window: w}
		if s.step > 0 {
			req.Step = durationpb.New(s.step)
		}
		requests = append(requests, req)
	}
	return s.show(cmd.Context(), c, requests)
}

// show asks and writes.
func (s *seriesCommand) show(ctx context.Context, c *client.Client, requests []*weirpb.SeriesRequest) error {
	var rows []*weirpb.SeriesRow
	var first *weirpb.SeriesResponse
	for _, req := range requests {
		if first != nil {
			req.Window, req.Step = exactly(first.GetCoverage()), first.GetStep()
		}
		resp, err := c.Series(ctx, req)
		if err != nil {
			return callError("get the series", err)
		}
		if first == nil {
			first = resp
			s.noteCoverage(req.GetWindow(), resp.GetCoverage())
		}
		if len(resp.GetRows()) == 0 {
			s.explainMissing(ctx, c, &question{req.GetResource(), req.GetTo(), req.GetFrom()}, &s.scope, resp.GetCoverage())
		}
		rows = append(rows, resp.GetRows()...)
	}
	if s.output == outputJSON {
		out, err := seriesJSON(rows, first)
		if err != nil {
			return err
		}
		return s.write(out)
	}
	if len(rows) == 0 {
		return nil
	}
	if s.output == outputWide {
		s.notef("%s", quantileNote(first.GetCoverage()))
	}
	return s.write(s.table(rows))
}

func (s *seriesCommand) table(rows []*weirpb.SeriesRow) []byte {
	var heads []string
	if len(rows) > 1 {
		heads = append(heads, "RESOURCE")
	}
	heads = append(heads, "TIME")
	t := &table{left: len(heads)}
	heads = append(heads, trafficHeads...)
	if s.output == outputWide {
		heads = append(heads, "LATENCY_MAX", "REQUESTS", "FAILURES", "READ_BYTES", "WRITE_BYTES")
	}
	t.add(heads...)
	for _, r := range rows {
		for _, p := range r.GetPoints() {
			var cells []string
			if len(rows) > 1 {
				name := describe(r.GetResource())
				if s.scope.all {
					name = describeFull(r.GetResource())
				}
				cells = append(cells, printable(name))
			}
			cells = append(append(cells, clock(p.GetStart().AsTime(), s.now())), pointCells(p)...)
			if s.output == outputWide {
				slowest := none
				if p.GetRequests() > 0 {
					slowest = millis(p.GetLatencyMsMax())
				}
				cells = append(cells, slowest, fmt.Sprint(p.GetRequests()), fmt.Sprint(p.GetFailures()), fmt.Sprint(p.GetRequestBytes()), fmt.Sprint(p.GetResponseBytes()))
			}
			t.add(cells...)
		}
	}
	return t.render()
}

// pointCells are the cells of trafficHeads.
func pointCells(p *weirpb.Point) []string {
	if p.GetRequests() == 0 {
		return []string{none, none, none, none, none}
	}
	return []string{percent(p.GetSuccess()), rate(p.GetRps()), millis(p.GetLatencyMsP50()), millis(p.GetLatencyMsP95()), millis(p.GetLatencyMsP99())}
}

// seriesRow is a row of the JSON output, seriesPoint one of its steps. Times
// are null where there was no request, as is success.
type (
	seriesRow struct {
		Cluster     string        `json:"cluster"`
		Namespace   string        `json:"namespace"`
		Kind        string        `json:"kind"`
		Name        string        `json:"name"`
		Direction   string        `json:"direction"`
		StepSeconds float64       `json:"step_seconds"`
		Points      []seriesPoint `json:"points"`
		span
	}
	seriesPoint struct {
		Start         time.Time `json:"start"`
		Success       *float64  `json:"success"`
		RPS           float64   `json:"rps"`
		LatencyP50    *float64  `json:"latency_ms_p50"`
		LatencyP95    *float64  `json:"latency_ms_p95"`
		LatencyP99    *float64  `json:"latency_ms_p99"`
		LatencyMax    *float64  `json:"latency_ms_max"`
		Requests      uint64    `json:"requests"`
		Failures      uint64    `json:"failures"`
		RequestBytes  uint64    `json:"request_bytes"`
		ResponseBytes uint64    `json:"response_bytes"`
	}
)

func seriesJSON(rows []*weirpb.SeriesRow, resp *weirpb.SeriesResponse) ([]byte, error) {
	var out []seriesRow
	for _, r := range rows {
		row := seriesRow{
			Cluster:     r.GetResource().GetCluster(),
			Namespace:   r.GetResource().GetNamespace(),
			Kind:        r.GetResource().GetKind(),
			Name:        r.GetResource().GetName(),
			Direction:   r.GetDirection(),
			StepSeconds: resp.GetStep().AsDuration().Seconds(),
			Points:      []seriesPoint{},
			span:        newSpan(resp.GetCoverage()),
		}
		for _, p := range r.GetPoints() {
			point := seriesPoint{
				Start: p.GetStart().AsTime(), RPS: p.GetRps(), Requests: p.GetRequests(), Failures: p.GetFailures(),
				RequestBytes: p.GetRequestBytes(), ResponseBytes: p.GetResponseBytes(),
			}
			if p.GetRequests() > 0 {
				point.Success, point.LatencyMax = &p.Success, &p.LatencyMsMax
				point.LatencyP50, point.LatencyP95, point.LatencyP99 = &p.LatencyMsP50, &p.LatencyMsP95, &p.LatencyMsP99
			}
			row.Points = append(row.Points, point)
		}
		out = append(out, row)
	}
	return renderJSON(out)
}
