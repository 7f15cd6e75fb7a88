package cli

import (
	"cmp"
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/api/client"
	"github.com/weirmesh/weir/api/weirpb"
)

type edgesCommand struct {
	*app
	scope  scope
	window windowFlags
	before compareFlag
	output output
}

func newEdges(a *app) *cobra.Command {
	e := &edgesCommand{app: a}
	cmd := &cobra.Command{
		Use:   "edges (TYPE [NAME...] | TYPE/NAME...)",
		Short: "Show who talks to whom, and whether it is secured",
		Long: `Show the pairs of workloads between which there was traffic, one of them as
named. SECURED is √ for mutual TLS between both proxies, else the reason why
not. A request that both proxies saw counts once, as the client's saw it. With
--compare CHANGE says what is new and what is gone since the same window so long
before, and -o wide has the differences in brackets.`,
		Example: `  weir edges deploy -n emojivoto
  weir edges deploy/web -n emojivoto -o wide
  weir edges ns/emojivoto -t 10m --compare 24h`,
		ValidArgsFunction: completeResources,
		RunE:              e.run,
	}
	e.scope.flags(cmd)
	e.window.flags(cmd)
	e.before.flags(cmd)
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
	if ofPods(resources) {
		return Usagef(cmd, "edges are between workloads, not pods: ask for these, as in `weir edges deploy`, or tap a pod")
	}
	if err := e.scope.check(cmd); err != nil {
		return err
	}
	w, err := e.window.resolve(cmd, e.now())
	if err != nil {
		return err
	}
	if err := e.before.check(cmd); err != nil {
		return err
	}
	c, err := e.dial(cmd.Context())
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	out, err := e.show(cmd.Context(), c, resources, w)
	if err != nil {
		return err
	}
	return e.write(out)
}

// show asks and renders.
func (e *edgesCommand) show(ctx context.Context, c *client.Client, resources []*weirpb.Resource, w *weirpb.Window) ([]byte, error) {
	now, covered, err := e.ask(ctx, c, resources, w, true)
	if err != nil {
		return nil, err
	}
	var before []*weirpb.EdgeRow
	var with *comparison
	if earlier := e.before.window(covered); earlier != nil {
		var reached *weirpb.Coverage
		if before, reached, err = e.ask(ctx, c, resources, earlier, false); err != nil {
			return nil, err
		}
		what := compareEdges
		if e.output == outputWide {
			what = compareNumbers
		}
		if with = e.compare(what, earlier, reached); with == nil {
			before = nil
		}
	}
	rows := pair(now, before, edgeKey)
	if with != nil {
		rows = sorted(rows, func(a, b *weirpb.EdgeRow) int {
			return cmp.Or(compareResources(a.GetSource(), b.GetSource()), compareResources(a.GetDestination(), b.GetDestination()))
		})
	}
	if e.output == outputJSON {
		return edgesJSON(rows, covered, with)
	}
	if len(rows) == 0 {
		return nil, nil
	}
	if e.output == outputWide {
		e.notef("%s", quantileNote(covered))
	}
	return e.table(rows, resources, with), nil
}

func (e *edgesCommand) ask(ctx context.Context, c *client.Client, resources []*weirpb.Resource, w *weirpb.Window, explain bool) ([]*weirpb.EdgeRow, *weirpb.Coverage, error) {
	seen := map[edgeID]bool{}
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
			if explain {
				e.noteCoverage(w, covered)
			}
		}
		if len(resp.GetRows()) == 0 && explain {
			e.explainMissing(ctx, c, &question{resource: r}, &e.scope, covered)
		}
		for _, row := range resp.GetRows() {
			// An edge between two of the named resources is in both answers.
			if key := edgeKey(row); !seen[key] {
				seen[key] = true
				rows = append(rows, row)
			}
		}
	}
	return rows, covered, nil
}

// edgeID tells rows apart.
type edgeID struct {
	source, destination                 [4]string
	tls, reason, seenBy, client, server string
}

func edgeKey(r *weirpb.EdgeRow) edgeID {
	names := func(n *weirpb.Resource) [4]string {
		return [4]string{n.GetCluster(), n.GetNamespace(), n.GetKind(), n.GetName()}
	}
	return edgeID{names(r.GetSource()), names(r.GetDestination()), r.GetTls(), r.GetTlsReason(), r.GetSeenBy(), r.GetSourceIdentity(), r.GetDestinationIdentity()}
}

func (e *edgesCommand) table(rows []beside[weirpb.EdgeRow], asked []*weirpb.Resource, with *comparison) []byte {
	heads := []string{"SRC", "DST", "SRC_NS", "DST_NS"}
	if e.output == outputWide {
		heads = append(heads, "CLIENT_ID", "SERVER_ID")
	}
	heads = append(heads, "SECURED")
	if with != nil {
		heads = append(heads, "CHANGE")
	}
	t := &table{left: len(heads)}
	if e.output == outputWide {
		heads = append(heads, "SEEN_BY", "REQUESTS")
		heads = append(append(heads, trafficHeads...), wideHeads...)
		t.left++
	}
	t.add(heads...)
	for _, both := range rows {
		r := both.row()
		cells := []string{
			nameBeside(r.GetSource(), asked), nameBeside(r.GetDestination(), asked),
			orNone(r.GetSource().GetNamespace()), orNone(r.GetDestination().GetNamespace()),
		}
		if e.output == outputWide {
			cells = append(cells, orNone(printable(r.GetSourceIdentity())), orNone(printable(r.GetDestinationIdentity())))
		}
		cells = append(cells, secured(r))
		if with != nil {
			cells = append(cells, both.change())
		}
		if e.output == outputWide {
			cells = append(cells, orNone(r.GetSeenBy()), fmt.Sprint(both.now.GetStats().GetRequests()))
			cells = append(cells, with.traffic(both.now.GetStats(), both.before.GetStats(), true)...)
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
	compared
}

func edgesJSON(rows []beside[weirpb.EdgeRow], c *weirpb.Coverage, with *comparison) ([]byte, error) {
	var out []edgeRow
	for _, both := range rows {
		r := both.row()
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
			traffic:     newTraffic(both.now.GetStats()),
			span:        newSpan(c),
			compared:    with.json(both.now.GetStats(), both.before.GetStats()),
		})
	}
	return renderJSON(out)
}
