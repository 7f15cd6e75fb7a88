package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/control"
)

// Controller puts a request to the controller of the mesh's Kubernetes cluster
// and returns its reply. The error wraps [ErrNoController] where none answers.
// It must be safe for concurrent use.
type Controller func(ctx context.Context, service, method string, request []byte) ([]byte, error)

// ErrNoController says that no controller answers: there is no Kubernetes, or
// its controller is away.
var ErrNoController = errors.New("no controller answers")

const (
	// controllerTimeout bounds the wait for the controller: statistics must not
	// wait long for what only stands beside them.
	controllerTimeout = time.Second
	// controllerPause is how long a controller that failed is left alone.
	controllerPause = 5 * time.Second
	// maxPages bounds one answer: some 100 MiB.
	maxPages = 200
)

// inventory asks the controller what Kubernetes knows.
type inventory struct {
	ask Controller
	// failed is when the controller last failed to answer, Unix nanoseconds.
	failed atomic.Int64
}

// call asks for a method's answer; every error that is not a refusal makes the
// inventory wait before it asks again.
func (v *inventory) call(ctx context.Context, method string, request any, reply control.Checker) error {
	if v.ask == nil {
		return ErrNoController
	}
	if time.Since(time.Unix(0, v.failed.Load())) < controllerPause {
		return errors.New("the controller did not answer a moment ago")
	}
	body, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("cannot encode the question: %w", err)
	}
	cctx, cancel := context.WithTimeout(ctx, controllerTimeout)
	defer cancel()
	data, err := v.ask(cctx, control.InventoryService, method, body)
	if err == nil {
		err = control.Decode(data, reply)
	} else if !errors.Is(err, ErrNoController) && ctx.Err() == nil {
		v.failed.Store(time.Now().UnixNano())
	}
	return err
}

// known is what Kubernetes knows of resources.
type known struct {
	cluster string
	rows    []knownRow
}

// knownRow is a resource of Kubernetes, as a row of statistics shows it.
type knownRow struct {
	resource      query.Selector
	owner         *query.Selector
	pods          *weirpb.PodCounts
	status, proxy string
}

// resources asks for all that sel selects.
func (v *inventory) resources(ctx context.Context, sel query.Selector) (*known, error) {
	request := control.InventoryRequest{Namespace: sel.Namespace, Kind: sel.Kind, Name: sel.Name}
	out := &known{}
	for range maxPages {
		var reply control.InventoryReply
		if err := v.call(ctx, control.WorkloadsMethod, &request, &reply); err != nil {
			return nil, err
		}
		if reply.Error != nil {
			return nil, reply.Error
		}
		out.cluster = reply.Cluster
		if sel.Cluster != "" && sel.Cluster != reply.Cluster {
			return out, nil
		}
		for i := range reply.Rows {
			out.rows = append(out.rows, workloadRow(reply.Cluster, &reply.Rows[i]))
		}
		for i := range reply.Pods {
			out.rows = append(out.rows, podRow(reply.Cluster, &reply.Pods[i]))
		}
		if request.After = reply.Next; request.After == "" {
			return out, nil
		}
	}
	return nil, fmt.Errorf("the controller's answer has more than %d pages", maxPages)
}

func workloadRow(cluster string, w *control.WorkloadState) knownRow {
	r := knownRow{resource: query.Selector{Cluster: cluster, Namespace: w.Namespace, Kind: w.Kind, Name: w.Name}, pods: podCounts(&w.PodCounts)}
	if w.Kind == kindNamespace {
		r.resource.Name = ""
	}
	return r
}

func podRow(cluster string, p *control.PodState) knownRow {
	one := func(yes bool) uint32 {
		if yes {
			return 1
		}
		return 0
	}
	counts := &weirpb.PodCounts{}
	switch p.Phase {
	case "Failed":
		counts.Finished, counts.Failed = 1, 1
	case "Succeeded":
		counts.Finished = 1
	default:
		counts = &weirpb.PodCounts{
			Total: 1, Meshed: one(p.Meshed), Ready: one(p.Ready), ProxyReady: one(p.ProxyReady),
			Pending: one(p.Phase == "Pending"), Running: one(p.Phase == "Running"),
		}
		counts.Unknown = 1 - counts.Pending - counts.Running
	}
	r := knownRow{
		resource: query.Selector{Cluster: cluster, Namespace: p.Namespace, Kind: kindPod, Name: p.Name},
		pods:     counts, status: p.Status, proxy: p.ProxyVersion,
	}
	if p.Kind != kindPod {
		r.owner = &query.Selector{Cluster: cluster, Namespace: p.Namespace, Kind: p.Kind, Name: p.Workload}
	}
	return r
}

func podCounts(c *control.PodCounts) *weirpb.PodCounts {
	n := func(i int) uint32 { return uint32(max(i, 0)) }
	return &weirpb.PodCounts{
		Total: n(c.Total), Meshed: n(c.Meshed), Ready: n(c.Ready), ProxyReady: n(c.ProxyReady), Pending: n(c.Pending),
		Running: n(c.Running), Unknown: n(c.Unknown), Finished: n(c.Finished), Failed: n(c.Failed),
	}
}

// knows tells whether there may be anything to put beside rows.
func (v *inventory) knows(sel query.Selector) bool { return v.ask != nil && sel.Kind != "ext" }

// known asks for all that Kubernetes knows of what sel selects; nil where it
// knows nothing, or cannot be asked.
func (s *service) known(ctx context.Context, sel query.Selector) *known {
	if !s.inventory.knows(sel) {
		return nil
	}
	known, err := s.inventory.resources(ctx, sel)
	if err == nil {
		return known
	}
	if !errors.Is(err, ErrNoController) {
		s.log.Warn("statistics without what Kubernetes knows of pods", "error", err)
	}
	return nil
}

// shownRow is a row of statistics, with what Kubernetes knows of its resource, or
// nil.
type shownRow struct {
	*query.Row
	known *knownRow
}

// show puts what Kubernetes knows beside rows, which are sorted, and adds a row
// for each resource that it knows and that has no traffic, where all says so.
func show(rows []query.Row, known *known, all bool) []shownRow {
	out := make([]shownRow, len(rows))
	for i := range rows {
		out[i].Row = &rows[i]
	}
	if known == nil || len(known.rows) == 0 {
		return out
	}
	index := make(map[query.Selector]int, len(rows))
	for i := range rows {
		index[byNamespace(rows[i].Resource)] = i
	}
	for i := range known.rows {
		k := &known.rows[i]
		if at, ok := index[k.resource]; ok {
			out[at].known = k
			continue
		}
		if !all || k.pods.GetTotal() == 0 && ends(k.resource.Kind) {
			continue
		}
		index[k.resource] = len(out)
		out = append(out, shownRow{&query.Row{Resource: k.resource, Direction: query.Inbound}, k})
	}
	if len(out) > len(rows) { // those that there were are sorted
		slices.SortStableFunc(out, func(a, b shownRow) int { return compareSelectors(byNamespace(a.Resource), byNamespace(b.Resource)) })
	}
	return out
}

// ends tells whether what is of a kind ends by itself: without pods that run, it is
// over rather than scaled to 0.
func ends(kind string) bool {
	switch kind {
	case kindPod, kindNamespace, "job", "cronjob":
		return true
	}
	return false
}

// byNamespace names a namespace as Kubernetes' own rows do, whoever says it.
func byNamespace(sel query.Selector) query.Selector {
	if sel.Kind == kindNamespace {
		sel.Namespace, sel.Name = cmp.Or(sel.Namespace, sel.Name), ""
	}
	return sel
}
