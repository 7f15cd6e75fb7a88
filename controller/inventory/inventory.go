// Package inventory answers what Kubernetes knows of workloads: how many pods
// each has, how many of them have a proxy and are ready, and how Weir's own
// components do. The API puts it beside what the proxies reported, which says
// nothing of a workload without traffic or without proxies.
//
// It keeps no watch of its own: it reads the caches of the controller's shared
// informers, and makes at most one summary of them a second, while it is asked.
package inventory

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/controller/workload"
	"github.com/weirmesh/weir/event"
)

// Answerer answers requests for a method of a service until ctx ends. Package
// bus/client has one.
type Answerer interface {
	Answer(ctx context.Context, service, method string, handler func(ctx context.Context, request []byte) []byte) error
}

// Options of an Inventory; Pods and Owners are required.
type Options struct {
	// Pods is the cache of an informer. Of a pod are read: its name, labels,
	// annotations, owners and deletion time; the proxy's container, its node; and
	// its status: phase, reason, readiness, start, and of each container that
	// restarted or does not run, and of the proxy, how it does.
	Pods corelisters.PodLister
	// Owners looks up ReplicaSets and Jobs in caches.
	Owners workload.Owners
	// Scaled lists the workloads that are there though they may have no pods, being
	// scaled to 0; nil: none is known. Their Cluster is not read.
	Scaled func() []event.Workload
	// Synced tells whether the caches are complete; nil: they are.
	Synced func() bool
	// Cluster is the name under which the cluster's proxies report; Namespace
	// is Weir's own, default "weir".
	Cluster, Namespace string
	// Logger; default slog.Default().
	Logger *slog.Logger
}

// Inventory answers. Its methods are safe for concurrent use.
type Inventory struct {
	o   Options
	log *slog.Logger
	now func() time.Time

	mu sync.Mutex
	// last is guarded by mu.
	last *snapshot

	answered, refused atomic.Uint64
}

// keep is how long a summary is answered from.
const keep = time.Second

// New makes an Inventory.
func New(o Options) (*Inventory, error) {
	if o.Pods == nil || o.Owners == nil {
		return nil, fmt.Errorf("cannot make an inventory without the pods' and their owners' caches")
	}
	if o.Namespace == "" {
		o.Namespace = "weir"
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Inventory{o: o, log: o.Logger, now: time.Now}, nil
}

// Run answers on the bus until ctx ends, and returns ctx's error, or what keeps
// it from answering.
func (v *Inventory) Run(ctx context.Context, bus Answerer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 2)
	for method, handler := range map[string]func(context.Context, []byte) []byte{
		control.WorkloadsMethod: v.Workloads, control.OverviewMethod: v.Overview,
	} {
		go func() { ended <- bus.Answer(ctx, control.InventoryService, method, handler) }()
	}
	err := <-ended
	cancel()
	if other := <-ended; err == nil {
		err = other
	}
	return err
}

// Counts are how many requests were answered, and refused, so far.
func (v *Inventory) Counts() (answered, refused uint64) {
	return v.answered.Load(), v.refused.Load()
}

// Workloads answers a control.InventoryRequest with a control.InventoryReply,
// both in JSON.
func (v *Inventory) Workloads(ctx context.Context, request []byte) []byte {
	var r control.InventoryRequest
	if err := control.Decode(request, &r); err != nil {
		return v.refuse(&control.Error{Code: control.CodeInvalid, Message: err.Error()})
	}
	s, refusal := v.snapshot(ctx)
	if refusal != nil {
		return v.refuse(refusal)
	}
	reply, err := s.page(&r)
	if err != nil {
		return v.refuse(&control.Error{Code: control.CodeInternal, Message: err.Error()})
	}
	return v.reply(reply)
}

// Overview answers any request with a control.InventoryOverview in JSON.
func (v *Inventory) Overview(ctx context.Context, _ []byte) []byte {
	s, refusal := v.snapshot(ctx)
	if refusal != nil {
		return v.refuse(refusal)
	}
	return v.reply(s.overview())
}

func (v *Inventory) reply(m any) []byte {
	b, err := json.Marshal(m)
	if err != nil { // values alone: it cannot fail
		return v.refuse(&control.Error{Code: control.CodeInternal, Message: "cannot write the reply: " + err.Error()})
	}
	v.answered.Add(1)
	return b
}

// refuse is the same for all methods: each reply has an error.
func (v *Inventory) refuse(why *control.Error) []byte {
	v.refused.Add(1)
	v.log.Warn("cannot tell what is in the cluster", "code", why.Code, "reason", why.Message)
	b, err := json.Marshal(struct {
		Error *control.Error `json:"error"`
	}{why})
	if err != nil { // strings alone: it cannot fail
		return nil
	}
	return b
}

// snapshot is the summary of the moment, not older than keep.
func (v *Inventory) snapshot(ctx context.Context) (*snapshot, *control.Error) {
	if v.o.Synced != nil && !v.o.Synced() {
		return nil, &control.Error{Code: control.CodeUnavailable, Message: "the controller is still reading the cluster; ask again in a moment"}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.last != nil && v.now().Sub(v.last.made) < keep {
		return v.last, nil
	}
	s, err := v.summarize(ctx)
	if err != nil {
		return nil, &control.Error{Code: control.CodeUnavailable, Message: err.Error()}
	}
	v.last = s
	return s, nil
}
