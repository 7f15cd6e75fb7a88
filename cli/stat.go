package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/api/client"
	"github.com/weirmesh/weir/api/weirpb"
)

// outbound is the direction of a row whose resource only sends.
const outbound = "outbound"

// watchInterval is how often --watch asks again.
const watchInterval = time.Second

type statCommand struct {
	*app
	scope  scope
	peers  peers
	window windowFlags
	late   lateFlags
	output output
	watch  bool
}

func newStat(a *app) *cobra.Command {
	s := &statCommand{app: a}
	cmd := &cobra.Command{
		Use:   "stat (TYPE [NAME...] | TYPE/NAME...)",
		Short: "Show success rates, request rates and latencies",
		Long: `Show the traffic of resources over a window of time.

Types: deploy, sts, ds, job, cronjob, rs, rc, pod, ns, ext (what is no
workload), each also by kubectl's other names, and all.

The numbers are what a resource was asked for (inbound); those of a resource
that only sends are what it sent. With --to they are what it sent there, with
--from what it got from there. Counts are exact. Latency is the time to the
first byte of the response, with two digits below 10ms; its quantiles are exact
within a bound that -o wide and -o json name. MESHED is how many of the pods
that were seen within the window report now.

With --by, or any filter, the answer comes from the events themselves, which
are read back from the stream: any field may be asked for, after the fact. The
fields, and what --where takes, are in docs/cli.md.`,
		Example: `  weir stat deploy -n emojivoto
  weir stat deploy/web --to deploy/voting -n emojivoto -t 10m
  weir stat ns --since 14:00 --until 14:30
  weir stat deploy/web --by path,status --where 'latency > 250ms' --since 30m
  weir stat pod -A -o json`,
		ValidArgsFunction: completeResources,
		RunE:              s.run,
	}
	s.scope.flags(cmd)
	s.peers.flags(cmd)
	s.window.flags(cmd)
	s.late.flags(cmd)
	outputFlag(cmd, &s.output, outputTable, outputWide, outputJSON)
	cmd.Flags().BoolVarP(&s.watch, "watch", "w", false, "show it anew each second, until interrupted")
	return cmd
}

func (s *statCommand) run(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return Usagef(cmd, "which resource? Give TYPE, TYPE NAME or TYPE/NAME, as in `weir stat deploy`")
	}
	resources, err := parseResources(args)
	if err != nil {
		return Usagef(cmd, "%w", err)
	}
	if err := s.scope.check(cmd); err != nil {
		return err
	}
	to, from, err := s.peers.resolve(cmd, &s.scope)
	if err != nil {
		return err
	}
	if to != nil && from != nil {
		return Usagef(cmd, "--to and --from contradict each other: traffic is either what a resource sends or what it gets")
	}
	if _, err := s.window.resolve(cmd, s.now()); err != nil {
		return err
	}
	if s.late.late(cmd) {
		return s.scan(cmd, resources)
	}
	ctx := cmd.Context()
	c, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	var requests []*weirpb.StatRequest
	for _, r := range resources {
		s.scope.apply(r)
		requests = append(requests, &weirpb.StatRequest{Resource: r, To: to, From: from})
	}
	once := func(ctx context.Context) ([]byte, error) {
		w, err := s.window.resolve(cmd, s.now())
		if err != nil {
			return nil, err
		}
		return s.show(ctx, c, requests, w)
	}
	if s.watch {
		return s.repeat(ctx, watchInterval, once)
	}
	out, err := once(ctx)
	if err != nil {
		return err
	}
	return s.write(out)
}

// show asks and renders.
func (s *statCommand) show(ctx context.Context, c *client.Client, requests []*weirpb.StatRequest, w *weirpb.Window) ([]byte, error) {
	var rows []*weirpb.StatRow
	var covered *weirpb.Coverage
	for _, req := range requests {
		req.Window = w
		if covered != nil {
			// All rows are about the same time.
			req.Window = exactly(covered)
		}
		resp, err := c.Stat(ctx, req)
		if err != nil {
			return nil, callError("get statistics", err)
		}
		if covered == nil {
			covered = resp.GetCoverage()
			s.noteCoverage(w, covered)
		}
		if len(resp.GetRows()) == 0 {
			s.explainMissing(ctx, c, req.GetResource(), &s.scope, covered)
		}
		rows = append(rows, resp.GetRows()...)
	}
	slices.SortStableFunc(rows, func(a, b *weirpb.StatRow) int { return compareResources(a.GetResource(), b.GetResource()) })
	// "deploy/web deploy" names web twice.
	rows = slices.CompactFunc(rows, func(a, b *weirpb.StatRow) bool {
		return compareResources(a.GetResource(), b.GetResource()) == 0
	})
	if s.output == outputJSON {
		return statJSON(rows, covered)
	}
	if len(rows) == 0 {
		return nil, nil
	}
	s.noteRows(rows, requests[0].GetTo() != nil)
	if s.output == outputWide {
		s.notef("%s", quantileNote(covered))
	}
	return s.table(rows, requests), nil
}

// noteRows says what a table does not show.
func (s *statCommand) noteRows(rows []*weirpb.StatRow, sent bool) {
	var senders []string
	var shed, lost uint64
	for _, r := range rows {
		if r.GetDirection() == outbound && !sent {
			senders = append(senders, describe(r.GetResource()))
		}
		shed += r.GetShed()
		lost += r.GetLostBatches()
	}
	if len(senders) > 0 {
		s.notef("%s only %s: shown is what %s sent.", andList(senders), plural(len(senders), "sends", "send"), plural(len(senders), "it", "they"))
	}
	if shed > 0 {
		s.notef("Proxies had to shed the detail of %d events, which these numbers lack (-o wide tells whose).", shed)
	}
	if lost > 0 {
		s.notef("%d batches of events never arrived (-o wide tells whose).", lost)
	}
}

func (s *statCommand) table(rows []*weirpb.StatRow, requests []*weirpb.StatRequest) []byte {
	withNamespace := s.scope.all
	withCluster := manyClusters(rows)
	withKind := manyKinds(requests)
	var heads []string
	if withCluster {
		heads = append(heads, "CLUSTER")
	}
	if withNamespace {
		heads = append(heads, "NAMESPACE")
	}
	heads = append(heads, "NAME")
	t := &table{left: len(heads)}
	heads = append(append(heads, "MESHED"), trafficHeads...)
	heads = append(heads, "TCP_CONN")
	if s.output == outputWide {
		heads = append(append(heads, wideHeads...), "READ_BYTES/SEC", "WRITE_BYTES/SEC", "REQUESTS", "SHED", "LOST", "DIRECTION")
	}
	t.add(heads...)
	for _, r := range rows {
		var cells []string
		if withCluster {
			cells = append(cells, orNone(r.GetResource().GetCluster()))
		}
		if withNamespace {
			cells = append(cells, orNone(r.GetResource().GetNamespace()))
		}
		name := r.GetResource().GetName()
		if withKind {
			name = describe(r.GetResource())
		}
		cells = append(append(cells, orNone(printable(name)), meshed(r)), trafficCells(r.GetStats())...)
		cells = append(cells, fmt.Sprint(r.GetTcpOpenConnections()))
		if s.output == outputWide {
			st := r.GetStats()
			cells = append(append(cells, wideCells(st)...), byteRate(st.GetTcpReadBytesRate()), byteRate(st.GetTcpWriteBytesRate()),
				fmt.Sprint(st.GetRequests()), fmt.Sprint(r.GetShed()), fmt.Sprint(r.GetLostBatches()), orNone(r.GetDirection()))
		}
		t.add(cells...)
	}
	return t.render()
}

// meshed is how many of the pods seen report now. What has no proxy of its own
// is not meshed.
func meshed(r *weirpb.StatRow) string {
	if r.GetPodsSeen() == 0 && r.GetPodsLive() == 0 {
		return none
	}
	return fmt.Sprintf("%d/%d", r.GetPodsLive(), max(r.GetPodsSeen(), r.GetPodsLive()))
}

// statRow is a row of the JSON output.
type statRow struct {
	Cluster   string `json:"cluster"`
	Namespace string `json:"namespace"`
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	// Owner is a pod's workload, kind/name.
	Owner     string `json:"owner,omitempty"`
	Meshed    string `json:"meshed"`
	Direction string `json:"direction"`
	traffic
	TCPOpenConnections uint64  `json:"tcp_open_connections"`
	TCPConnections     uint64  `json:"tcp_connections"`
	TCPReadBytesRate   float64 `json:"tcp_read_bytes_rate"`
	TCPWriteBytesRate  float64 `json:"tcp_write_bytes_rate"`
	Shed               uint64  `json:"shed"`
	LostBatches        uint64  `json:"lost_batches"`
	span
}

func statJSON(rows []*weirpb.StatRow, c *weirpb.Coverage) ([]byte, error) {
	var out []statRow
	for _, r := range rows {
		row := statRow{
			Cluster:            r.GetResource().GetCluster(),
			Namespace:          r.GetResource().GetNamespace(),
			Kind:               r.GetResource().GetKind(),
			Name:               r.GetResource().GetName(),
			Meshed:             meshed(r),
			Direction:          r.GetDirection(),
			traffic:            newTraffic(r.GetStats()),
			TCPOpenConnections: r.GetTcpOpenConnections(),
			TCPConnections:     r.GetStats().GetTcpConnections(),
			TCPReadBytesRate:   r.GetStats().GetTcpReadBytesRate(),
			TCPWriteBytesRate:  r.GetStats().GetTcpWriteBytesRate(),
			Shed:               r.GetShed(),
			LostBatches:        r.GetLostBatches(),
			span:               newSpan(c),
		}
		if r.GetOwner() != nil {
			row.Owner = describe(r.GetOwner())
		}
		out = append(out, row)
	}
	return renderJSON(out)
}

// manyKinds tells whether rows may be of more than one kind.
func manyKinds(requests []*weirpb.StatRequest) bool {
	for _, r := range requests {
		if r.GetResource().GetKind() == "" || r.GetResource().GetKind() != requests[0].GetResource().GetKind() {
			return true
		}
	}
	return false
}

func manyClusters(rows []*weirpb.StatRow) bool {
	for _, r := range rows {
		if r.GetResource().GetCluster() != rows[0].GetResource().GetCluster() {
			return true
		}
	}
	return false
}

// compareResources orders by namespace, name, kind and cluster.
func compareResources(a, b *weirpb.Resource) int {
	return cmp.Or(strings.Compare(a.GetNamespace(), b.GetNamespace()), strings.Compare(a.GetName(), b.GetName()),
		strings.Compare(a.GetKind(), b.GetKind()), strings.Compare(a.GetCluster(), b.GetCluster()))
}

func orNone(s string) string {
	if s == "" {
		return none
	}
	return s
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
