package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/api/client"
	"github.com/weirmesh/weir/api/weirpb"
)

type routesCommand struct {
	*app
	scope           scope
	to, toNamespace string
	window          windowFlags
	before          compareFlag
	output          output
}

func newRoutes(a *app) *cobra.Command {
	r := &routesCommand{app: a}
	cmd := &cobra.Command{
		Use:   "routes (TYPE [NAME...] | TYPE/NAME...)",
		Short: "Show traffic by route",
		Long: `Show the traffic of resources by route: method and path of HTTP requests, the
method of gRPC calls. Routes beyond what is kept apart are summed up as
"(other)", so that the sum of all is exact. With --to, routes are those of what
the resource sent there. With --compare each number has in brackets how it
differs from the same window so long before.`,
		Example: `  weir routes deploy/web -n emojivoto
  weir routes deploy/web --to deploy/voting -n emojivoto`,
		ValidArgsFunction: completeResources,
		RunE:              r.run,
	}
	r.scope.flags(cmd)
	cmd.Flags().StringVar(&r.to, "to", "", "only traffic to this resource, TYPE or TYPE/NAME")
	cmd.Flags().StringVar(&r.toNamespace, "to-namespace", "", "namespace of --to; without --to: only traffic to this namespace (default: that of the resource)")
	r.window.flags(cmd)
	r.before.flags(cmd)
	outputFlag(cmd, &r.output, outputTable, outputWide, outputJSON)
	return cmd
}

func (r *routesCommand) run(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return Usagef(cmd, "which resource? Give TYPE, TYPE NAME or TYPE/NAME, as in `weir routes deploy/web`")
	}
	resources, err := parseResources(args)
	if err != nil {
		return Usagef(cmd, "%w", err)
	}
	if err := r.scope.check(cmd); err != nil {
		return err
	}
	to, err := peer(r.to, r.toNamespace, &r.scope)
	if err != nil {
		return Usagef(cmd, "--to: %w", err)
	}
	w, err := r.window.resolve(cmd, r.now())
	if err != nil {
		return err
	}
	if err := r.before.check(cmd); err != nil {
		return err
	}
	c, err := r.dial(cmd.Context())
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	out, err := r.show(cmd.Context(), c, resources, to, w)
	if err != nil {
		return err
	}
	return r.write(out)
}

// show asks and renders.
func (r *routesCommand) show(ctx context.Context, c *client.Client, resources []*weirpb.Resource, to *weirpb.Resource, w *weirpb.Window) ([]byte, error) {
	now, covered, err := r.ask(ctx, c, resources, to, w)
	if err != nil {
		return nil, err
	}
	r.noteCoverage(w, covered)
	var before []*weirpb.RouteRow
	var with *comparison
	if earlier := r.before.window(covered); earlier != nil {
		var reached *weirpb.Coverage
		if before, reached, err = r.ask(ctx, c, resources, to, earlier); err != nil {
			return nil, err
		}
		if with = r.compare(compareNumbers, earlier, reached); with == nil {
			before = nil
		}
	}
	rows := pair(now, before, routeKey)
	if with != nil {
		rows = sorted(rows, func(a, b *weirpb.RouteRow) int {
			return cmp.Or(compareResources(a.GetResource(), b.GetResource()), strings.Compare(a.GetRoute(), b.GetRoute()), strings.Compare(a.GetAuthority(), b.GetAuthority()))
		})
	}
	for _, asked := range resources {
		if !slices.ContainsFunc(rows, func(b beside[weirpb.RouteRow]) bool { return stands(asked, b.row().GetResource()) }) {
			r.explainMissing(ctx, c, &question{resource: asked, to: to}, &r.scope, covered)
		}
	}
	if r.output == outputJSON {
		return routesJSON(rows, covered, with)
	}
	if len(rows) == 0 {
		return nil, nil
	}
	if r.output == outputWide {
		r.notef("%s", quantileNote(covered))
	}
	return r.table(rows, with), nil
}

// routeID tells rows apart.
type routeID struct{ cluster, namespace, kind, name, route, authority, protocol, direction string }

func routeKey(r *weirpb.RouteRow) routeID {
	n := r.GetResource()
	return routeID{n.GetCluster(), n.GetNamespace(), n.GetKind(), n.GetName(), r.GetRoute(), r.GetAuthority(), r.GetProtocol(), r.GetDirection()}
}

func (r *routesCommand) ask(ctx context.Context, c *client.Client, resources []*weirpb.Resource, to *weirpb.Resource, w *weirpb.Window) ([]*weirpb.RouteRow, *weirpb.Coverage, error) {
	var rows []*weirpb.RouteRow
	var covered *weirpb.Coverage
	for _, res := range resources {
		r.scope.apply(res)
		req := &weirpb.RoutesRequest{Resource: res, To: to, Window: w}
		if covered != nil {
			req.Window = exactly(covered)
		}
		resp, err := c.Routes(ctx, req)
		if err != nil {
			return nil, nil, callError("get the routes", err)
		}
		if covered == nil {
			covered = resp.GetCoverage()
		}
		rows = append(rows, resp.GetRows()...)
	}
	return rows, covered, nil
}

func (r *routesCommand) table(rows []beside[weirpb.RouteRow], with *comparison) []byte {
	several := false
	for _, both := range rows {
		several = several || compareResources(both.row().GetResource(), rows[0].row().GetResource()) != 0
	}
	var heads []string
	if r.scope.all {
		heads = append(heads, "NAMESPACE")
	}
	if several {
		heads = append(heads, "RESOURCE")
	}
	heads = append(heads, "ROUTE", "AUTHORITY")
	t := &table{left: len(heads)}
	heads = append(heads, trafficHeads...)
	if r.output == outputWide {
		heads = append(append(heads, wideHeads...), "REQUESTS", "PROTOCOL")
	}
	t.add(heads...)
	for _, both := range rows {
		row := both.row()
		var cells []string
		if r.scope.all {
			cells = append(cells, orNone(row.GetResource().GetNamespace()))
		}
		if several {
			cells = append(cells, describe(row.GetResource()))
		}
		cells = append(cells, orNone(printableRoute(row.GetRoute())), orNone(printable(row.GetAuthority())))
		cells = append(cells, with.traffic(both.now.GetStats(), both.before.GetStats(), r.output == outputWide)...)
		if r.output == outputWide {
			cells = append(cells, fmt.Sprint(both.now.GetStats().GetRequests()), orNone(row.GetProtocol()))
		}
		t.add(cells...)
	}
	return t.render()
}

// routeRow is a row of the JSON output.
type routeRow struct {
	Cluster   string `json:"cluster"`
	Namespace string `json:"namespace"`
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	Route     string `json:"route"`
	Authority string `json:"authority"`
	Protocol  string `json:"protocol"`
	traffic
	span
	compared
}

func routesJSON(rows []beside[weirpb.RouteRow], c *weirpb.Coverage, with *comparison) ([]byte, error) {
	var out []routeRow
	for _, both := range rows {
		r := both.row()
		out = append(out, routeRow{
			Cluster:   r.GetResource().GetCluster(),
			Namespace: r.GetResource().GetNamespace(),
			Kind:      r.GetResource().GetKind(),
			Name:      r.GetResource().GetName(),
			Route:     r.GetRoute(),
			Authority: r.GetAuthority(),
			Protocol:  r.GetProtocol(),
			traffic:   newTraffic(both.now.GetStats()),
			span:      newSpan(c),
			compared:  with.json(both.now.GetStats(), both.before.GetStats()),
		})
	}
	return renderJSON(out)
}
