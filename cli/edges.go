package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/api/client"
	"github.com/weirmesh/weir/api/weirpb"
)

type edgesCommand struct {
	*app
	scope  scope
	window windowFlags
	output output
}

func newEdges(a *app) *cobra.Command {
	e := &edgesCommand{app: a}
	cmd := &cobra.Command{
		Use:   "edges (TYPE [NAME...] | TYPE/NAME...)",
		Short: "Show who talks to whom, and whether it is secured",
		Long: `Show the pairs of workloads between which there was traffic, one of them as
named. SECURED is √ for mutual TLS between both proxies, else the reason why
not. A request that both proxies saw counts once, as the client's saw it.`,
		Example: `  weir edges deploy -n emojivoto
  weir edges deploy/web -n emojivoto -o wide`,
		ValidArgsFunction: completeResources,
		RunE:              e.run,
	}
	e.scope.flags(cmd)
	e.window.flags(cmd)
	outputFlag(cmd, &e.output, outputTable, outputWide, outputJSON)
	return cmd
}

func (e *edgesCommand) run(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return Usagef(cmd, "which resource? Give TYPE, TYPE NAME or TYPE/NAME, as in `weir edges deploy`")
	}
	resources, err := parseResources(args)
	if err != nil {
		return Usagef(cmd, "%w", err)
	}
	if err := e.scope.check(cmd); err != nil {
		return err
	}
	w, err := e.window.resolve(cmd, e.now())
	if err != nil {
		return err
	}
	c, err := e.dial(cmd.Context())
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	rows, covered, err := e.ask(cmd.Context(), c, resources, w)
	if err != nil {
		return err
	}
	if e.output == outputJSON {
		out, err := edgesJSON(rows, covered)
		if err != nil {
			return err
		}
		return e.write(out)
	}
	if len(rows) == 0 {
		return nil
	}
	if e.output == outputWide {
		e.notef("%s", quantileNote(covered))
	}
	return e.write(e.table(rows, resources))
}

func (e *edgesCommand) ask(ctx context.Context, c *client.Client, resources []*weirpb.Resource, w *weirpb.Window) ([]*weirpb.EdgeRow, *weirpb.Coverage, error) {
	var rows []*weirpb.EdgeRow
	var covered *weirpb.Coverage
	for _, r := range resources {
		e.scope.apply(r)
		req := &weirpb.EdgesRequest{Resource: r, Window: w}
		if covered != nil {
			req.Window = exactly(covered)
		}
		resp, err := c.Edges(ctx, req)
		if err != nil {
			return nil, nil, callError("get the edges", err)
		}
		if covered == nil {
			covered = resp.GetCoverage()
			e.noteCoverage(w, covered)
		}
		if len(resp.GetRows()) == 0 {
			e.explainMissing(ctx, c, r, &e.scope, covered)
		}
		for _, row := range resp.GetRows() {
			// An edge between two of the named resources is in both answers.
			if !slices.ContainsFunc(rows, func(have *weirpb.EdgeRow) bool { return sameEdge(have, row) }) {
				rows = append(rows, row)
			}
		}
	}
	return rows, covered, nil
}

func sameEdge(a, b *weirpb.EdgeRow) bool {
	return compareResources(a.GetSource(), b.GetSource()) == 0 && compareResources(a.GetDestination(), b.GetDestination()) == 0 &&
		a.GetTls() == b.GetTls() && a.GetTlsReason() == b.GetTlsReason() && a.GetSeenBy() == b.GetSeenBy() &&
		a.GetSourceIdentity() == b.GetSourceIdentity() && a.GetDestinationIdentity() == b.GetDestinationIdentity()
}

func (e *edgesCommand) table(rows []*weirpb.EdgeRow, asked []*weirpb.Resource) []byte {
	heads := []string{"SRC", "DST", "SRC_NS", "DST_NS"}
	if e.output == outputWide {
		heads = append(heads, "CLIENT_ID", "SERVER_ID")
	}
	heads = append(heads, "SECURED")
	t := &table{left: len(heads)}
	if e.output == outputWide {
		heads = append(heads, "SEEN_BY", "REQUESTS")
		heads = append(heads, trafficHeads...)
		t.left++
	}
	t.add(heads...)
	for _, r := range rows {
		cells := []string{
			nameBeside(r.GetSource(), asked), nameBeside(r.GetDestination(), asked),
			orNone(r.GetSource().GetNamespace()), orNone(r.GetDestination().GetNamespace()),
		}
		if e.output == outputWide {
			cells = append(cells, orNone(printable(r.GetSourceIdentity())), orNone(printable(r.GetDestinationIdentity())))
		}
		cells = append(cells, secured(r))
		if e.output == outputWide {
			cells = append(cells, orNone(r.GetSeenBy()), fmt.Sprint(r.GetStats().GetRequests()))
			cells = append(cells, trafficCells(r.GetStats())...)
		}
		t.add(cells...)
	}
	return t.render()
}

// nameBeside is a resource's name, with its kind where that is not what was
// asked for.
func nameBeside(r *weirpb.Resource, asked []*weirpb.Resource) string {
	for _, a := range asked {
		if a.GetKind() != r.GetKind() {
			return orNone(printable(describe(r)))
		}
	}
	return orNone(printable(r.GetName()))
}

func secured(r *weirpb.EdgeRow) string {
	switch {
	case r.GetTls() == "mutual":
		return "√"
	case r.GetTls() == "passthrough":
		return "passthrough"
	case r.GetTlsReason() != "":
		return printable(r.GetTlsReason())
	}
	return "none"
}

// edgeRow is a row of the JSON output: Linkerd's keys, then ours.
type edgeRow struct {
	Src         string `json:"src"`
	SrcNS       string `json:"src_namespace"`
	Dst         string `json:"dst"`
	DstNS       string `json:"dst_namespace"`
	ClientID    string `json:"client_id"`
	ServerID    string `json:"server_id"`
	NoTLSReason string `json:"no_tls_reason"`
	SrcKind     string `json:"src_kind"`
	DstKind     string `json:"dst_kind"`
	TLS         string `json:"tls"`
	SeenBy      string `json:"seen_by"`
	traffic
	span
}

func edgesJSON(rows []*weirpb.EdgeRow, c *weirpb.Coverage) ([]byte, error) {
	var out []edgeRow
	for _, r := range rows {
		out = append(out, edgeRow{
			Src:         r.GetSource().GetName(),
			SrcNS:       r.GetSource().GetNamespace(),
			Dst:         r.GetDestination().GetName(),
			DstNS:       r.GetDestination().GetNamespace(),
			ClientID:    r.GetSourceIdentity(),
			ServerID:    r.GetDestinationIdentity(),
			NoTLSReason: r.GetTlsReason(),
			SrcKind:     r.GetSource().GetKind(),
			DstKind:     r.GetDestination().GetKind(),
			TLS:         r.GetTls(),
			SeenBy:      r.GetSeenBy(),
			traffic:     newTraffic(r.GetStats()),
			span:        newSpan(c),
		})
	}
	return renderJSON(out)
}
