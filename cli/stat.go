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
	before compareFlag
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
within a bound that -o wide and -o json name. MESHED is how many pods have a
proxy, of all that the resource has now in Kubernetes, where it is shown also
without traffic; elsewhere how many report now, of those that were seen within
the window. Pods have the STATUS that kubectl shows.

With --compare each number has in brackets how it differs from the same window
so long before; what is new or gone is marked.

With --by, or any filter, the answer comes from the events themselves, which
are read back from the stream: any field may be asked for, after the fact. The
fields, and what --where takes, are in docs/cli.md.`,
		Example: `  weir stat deploy -n emojivoto
  weir stat deploy/web --to deploy/voting -n emojivoto -t 10m
  weir stat ns --since 14:00 --until 14:30
  weir stat deploy -n emojivoto -t 5m --compare 1h
  weir stat deploy/web --by path,status --where 'latency > 250ms' --since 30m
  weir stat pod -A -o json`,
		ValidArgsFunction: completeResources,
		RunE:              s.run,
	}
	s.scope.flags(cmd)
	s.peers.flags(cmd)
	s.window.flags(cmd)
	s.before.flags(cmd)
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
	to, from, err := s.peers.one(cmd, &s.scope)
	if err != nil {
		return err
	}
	if _, err := s.window.resolve(cmd, s.now()); err != nil {
		return err
	}
	if err := s.before.check(cmd); err != nil {
		return err
	}
	if err := s.late.check(cmd); err != nil {
		return err
	}
	if s.late.late(cmd) {
		return s.scan(cmd, resources)
	}
	if (to != nil || from != nil) && ofPods(resources) {
		return Usagef(cmd, "--to and --from are about workloads, not pods: ask for these, as in `weir stat deploy`; or with --by src_pod,dst_pod for pods")
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
	now, offenders, covered, err := s.ask(ctx, c, requests, w)
	if err != nil {
		return nil, err
	}
	s.noteCoverage(w, covered)
	var before []*weirpb.StatRow
	var with *comparison
	if earlier := s.before.window(covered); earlier != nil {
		var reached *weirpb.Coverage
		if before, _, reached, err = s.ask(ctx, c, requests, earlier); err != nil {
			return nil, err
		}
		if with = s.compare(compareNumbers, earlier, reached); with == nil {
			before = nil
		}
	}
	rows := sorted(pair(now, before, statKey), func(a, b *weirpb.StatRow) int { return compareResources(a.GetResource(), b.GetResource()) })
	for _, req := range requests {
		if !slices.ContainsFunc(rows, func(b beside[weirpb.StatRow]) bool { return stands(req.GetResource(), b.row().GetResource()) }) {
			s.explainMissing(ctx, c, &question{req.GetResource(), req.GetTo(), req.GetFrom()}, &s.scope, covered)
		}
	}
	if s.output == outputJSON {
		rows = withOffenders(rows, offenders, requests[0].GetResource().GetKind() == kindNamespace)
		return statJSON(rows, offenders, covered, with)
	}
	s.noteOffenders(offenders)
	if len(rows) == 0 {
		return nil, nil
	}
	s.noteRows(now, requests[0].GetTo() != nil)
	if s.output == outputWide {
		s.notef("%s", quantileNote(covered))
	}
	return s.table(rows, requests, with), nil
}

// ask gets the rows of all requests, each once: "deploy/web deploy" names web
// twice; and the offenders among what they select.
func (s *statCommand) ask(ctx context.Context, c *client.Client, requests []*weirpb.StatRequest, w *weirpb.Window) (rows []*weirpb.StatRow, offenders []*weirpb.Offender, covered *weirpb.Coverage, err error) {
	seen := map[statID]bool{}
	for _, req := range requests {
		req.Window = w
		if covered != nil {
			// All rows are about the same time.
			req.Window = exactly(covered)
		}
		resp, err := c.Stat(ctx, req)
		if err != nil {
			return nil, nil, nil, callError("get statistics", err)
		}
		if covered == nil {
			covered = resp.GetCoverage()
		}
		offenders = addOffenders(offenders, resp.GetOffenders())
		for _, r := range resp.GetRows() {
			if key := statKey(r); !seen[key] {
				seen[key] = true
				rows = append(rows, r)
			}
		}
	}
	return rows, offenders, covered, nil
}

// statID tells rows apart.
type statID struct{ cluster, namespace, kind, name, direction string }

func statKey(r *weirpb.StatRow) statID {
	n := r.GetResource()
	return statID{n.GetCluster(), n.GetNamespace(), n.GetKind(), n.GetName(), r.GetDirection()}
}

// stands tells whether a row's resource is one that asked stands for.
func stands(asked, n *weirpb.Resource) bool {
	if asked.GetKind() != "" && asked.GetKind() != n.GetKind() || asked.GetName() != "" && asked.GetName() != n.GetName() {
		return false
	}
	return asked.GetKind() == kindNamespace || asked.GetNamespace() == "" || asked.GetNamespace() == n.GetNamespace()
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
		s.notef("Proxies had to shed the detail of %d events: these numbers have them, taps and --where do not (-o wide tells whose).", shed)
	}
	if lost > 0 {
		s.notef("%d batches of events never arrived (-o wide tells whose).", lost)
	}
}

func (s *statCommand) table(rows []beside[weirpb.StatRow], requests []*weirpb.StatRequest, with *comparison) []byte {
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
	withStatus := slices.ContainsFunc(rows, func(b beside[weirpb.StatRow]) bool { return b.row().GetPodStatus() != "" })
	if withStatus {
		heads = append(heads, "STATUS")
	}
	t := &table{left: len(heads)}
	heads = append(append(heads, "MESHED"), trafficHeads...)
	heads = append(heads, "TCP_CONN")
	if s.output == outputWide {
		heads = append(append(heads, wideHeads...), "READ_BYTES/SEC", "WRITE_BYTES/SEC", "REQUESTS", "SHED", "LOST", "DIRECTION")
	}
	t.add(heads...)
	for _, both := range rows {
		r := both.row()
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
		cells = append(cells, orNone(printable(name)))
		if withStatus {
			cells = append(cells, orNone(printable(r.GetPodStatus())))
		}
		now := both.now
		stats := with.traffic(now.GetStats(), both.before.GetStats(), s.output == outputWide)
		cells = append(append(cells, meshed(now)), stats[:len(trafficHeads)]...)
		cells = append(cells, openConnections(now))
		if s.output == outputWide {
			st := now.GetStats()
			cells = append(append(cells, stats[len(trafficHeads):]...), byteRate(st.GetTcpReadBytesRate()), byteRate(st.GetTcpWriteBytesRate()),
				fmt.Sprint(st.GetRequests()), fmt.Sprint(now.GetShed()), fmt.Sprint(now.GetLostBatches()), orNone(r.GetDirection()))
		}
		t.add(cells...)
	}
	return t.render()
}

// meshed is how many of the pods that Kubernetes knows have a proxy; where it
// knows none, how many of those seen report now. What has no proxy of its own is
// not meshed.
func meshed(r *weirpb.StatRow) string {
	pods := r.GetPods()
	if pods.GetTotal() > 0 || pods != nil && !reported(r) {
		return fmt.Sprintf("%d/%d", pods.GetMeshed(), pods.GetTotal())
	}
	if !reported(r) {
		return none
	}
	return fmt.Sprintf("%d/%d", r.GetPodsLive(), max(r.GetPodsSeen(), r.GetPodsLive()))
}

// reported tells whether a proxy of a row's resource reported anything within the
// window, or does now.
func reported(r *weirpb.StatRow) bool { return r.GetPodsSeen() > 0 || r.GetPodsLive() > 0 }

// openConnections is a dash where no proxy counts them.
func openConnections(r *weirpb.StatRow) string {
	if !reported(r) && r.GetTcpOpenConnections() == 0 {
		return none
	}
	return fmt.Sprint(r.GetTcpOpenConnections())
}

// statRow is a row of the JSON output.
type statRow struct {
	Cluster   string `json:"cluster"`
	Namespace string `json:"namespace"`
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	// Owner is a pod's workload, kind/name.
	Owner  string `json:"owner,omitempty"`
	Meshed string `json:"meshed"`
	// Pods is what Kubernetes knows; absent where it knows nothing.
	Pods *statPods `json:"pods,omitempty"`
	// PodStatus and ProxyVersion are a pod's.
	PodStatus    string `json:"pod_status,omitempty"`
	ProxyVersion string `json:"proxy_version,omitempty"`
	Direction    string `json:"direction"`
	traffic
	TCPOpenConnections uint64  `json:"tcp_open_connections"`
	TCPConnections     uint64  `json:"tcp_connections"`
	TCPReadBytesRate   float64 `json:"tcp_read_bytes_rate"`
	TCPWriteBytesRate  float64 `json:"tcp_write_bytes_rate"`
	Shed               uint64  `json:"shed"`
	LostBatches        uint64  `json:"lost_batches"`
	// Offenders are absent where there are none.
	Offenders []statOffender `json:"offenders,omitempty"`
	span
	compared
}

// statPods are numbers of pods.
type statPods struct {
	Total      uint32 `json:"total"`
	Meshed     uint32 `json:"meshed"`
	Ready      uint32 `json:"ready"`
	ProxyReady uint32 `json:"proxy_ready"`
	Finished   uint32 `json:"finished"`
	Failed     uint32 `json:"failed"`
}

func newStatPods(p *weirpb.PodCounts) *statPods {
	if p == nil {
		return nil
	}
	return &statPods{p.GetTotal(), p.GetMeshed(), p.GetReady(), p.GetProxyReady(), p.GetFinished(), p.GetFailed()}
}

func statJSON(rows []beside[weirpb.StatRow], offenders []*weirpb.Offender, c *weirpb.Coverage, with *comparison) ([]byte, error) {
	var out []statRow
	for _, both := range rows {
		names, r := both.row(), both.now
		row := statRow{
			Cluster:            names.GetResource().GetCluster(),
			Namespace:          names.GetResource().GetNamespace(),
			Kind:               names.GetResource().GetKind(),
			Name:               names.GetResource().GetName(),
			Meshed:             meshed(r),
			Pods:               newStatPods(r.GetPods()),
			PodStatus:          names.GetPodStatus(),
			ProxyVersion:       names.GetProxyVersion(),
			Direction:          names.GetDirection(),
			traffic:            newTraffic(r.GetStats()),
			TCPOpenConnections: r.GetTcpOpenConnections(),
			TCPConnections:     r.GetStats().GetTcpConnections(),
			TCPReadBytesRate:   r.GetStats().GetTcpReadBytesRate(),
			TCPWriteBytesRate:  r.GetStats().GetTcpWriteBytesRate(),
			Shed:               r.GetShed(),
			LostBatches:        r.GetLostBatches(),
			Offenders:          offendersOf(names.GetResource(), offenders),
			span:               newSpan(c),
			compared:           with.json(r.GetStats(), both.before.GetStats()),
		}
		if names.GetOwner() != nil {
			row.Owner = describe(names.GetOwner())
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

func manyClusters(rows []beside[weirpb.StatRow]) bool {
	for _, r := range rows {
		if r.row().GetResource().GetCluster() != rows[0].row().GetResource().GetCluster() {
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
