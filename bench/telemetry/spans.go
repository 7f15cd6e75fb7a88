package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	"github.com/weirmesh/weir/event"
)

const exportMethod = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

// sendSpans does the same order for the Collector: the same exchanges as OTLP
// spans, over gRPC. The requests are encoded beforehand, one a workload and up
// to 64, so that the sender takes as little of the machine as can be.
func sendSpans(ctx context.Context, address, text string, out io.Writer) error {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return fmt.Errorf("cannot read the order: %w", err)
	}
	requests, err := encodeSpans(&o)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing more is sent
	var next, events, batches, bytes atomic.Uint64
	total := tally{Began: time.Now().UnixMicro()}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for range max(o.Workers, 1) {
		wg.Go(func() {
			for {
				n := next.Add(1) - 1
				if int(n)*o.Batch >= o.Events || ctx.Err() != nil {
					return
				}
				request := requests[int(n)%len(requests)]
				if err := export(ctx, conn, request); err != nil {
					cancel(fmt.Errorf("cannot send spans to the Collector: %w", err))
					return
				}
				events.Add(uint64(o.Batch))
				batches.Add(1)
				bytes.Add(uint64(len(request)))
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	total.Events, total.Batches, total.Payload = events.Load(), batches.Load(), bytes.Load()
	total.Wire = total.Payload + total.Batches*uint64(len(exportMethod)+5)
	total.Ended = time.Now().UnixMicro()
	return json.NewEncoder(out).Encode(total)
}

// encodeSpans makes the requests of an order. With uniform routes every
// workload has one; else a few dozen are enough.
func encodeSpans(o *order) ([][]byte, error) {
	count := min(o.Workloads, 64)
	if o.Uniform {
		count = o.Workloads
	}
	r := newRing(1, o.Uniform)
	rng := rand.New(rand.NewPCG(1, 1))
	var all [][]byte
	for n := range count {
		p := newProxy(rng, n, o.Workloads, o.Prefix)
		batch := newSpans(p)
		r.span(o.Batch, func(i int, _ float64) {
			batch.add(rng, &r.events[i])
		})
		request, err := batch.encode()
		if err != nil {
			return nil, err
		}
		all = append(all, request)
	}
	return all, nil
}

// spans is one export request under construction.
type spans struct {
	traces ptrace.Traces
	list   ptrace.SpanSlice
	now    time.Time
}

func newSpans(p *virtualProxy) *spans {
	s := &spans{traces: ptrace.NewTraces(), now: time.Now()}
	resource := s.traces.ResourceSpans().AppendEmpty()
	resource.Resource().Attributes().PutStr("service.name", p.source.Workload.Name)
	resource.Resource().Attributes().PutStr("k8s.pod.name", p.source.Pod)
	s.list = resource.ScopeSpans().AppendEmpty().Spans()
	return s
}

// add adds an exchange as what an HTTP instrumentation makes of it, with the
// three attributes that say least: less than the event tells.
func (s *spans) add(rng *rand.Rand, e *event.Event) {
	span := s.list.AppendEmpty()
	var trace pcommon.TraceID
	var id pcommon.SpanID
	for i := range trace {
		trace[i] = byte(rng.Uint32())
	}
	for i := range id {
		id[i] = byte(rng.Uint32())
	}
	span.SetTraceID(trace)
	span.SetSpanID(id)
	span.SetKind(ptrace.SpanKindServer)
	span.SetName(e.Method + " " + e.Path)
	span.SetStartTimestamp(pcommon.NewTimestampFromTime(s.now.Add(-time.Duration(e.Duration) * time.Microsecond)))
	span.SetEndTimestamp(pcommon.NewTimestampFromTime(s.now))
	span.Attributes().PutStr("http.request.method", e.Method)
	span.Attributes().PutStr("url.path", e.Path)
	span.Attributes().PutInt("http.response.status_code", int64(e.Status))
	if !e.Success() {
		span.Status().SetCode(ptrace.StatusCodeError)
	}
}

func (s *spans) encode() ([]byte, error) {
	return ptraceotlp.NewExportRequestFromTraces(s.traces).MarshalProto()
}

// export sends one encoded request and reads the answer.
func export(ctx context.Context, conn *grpc.ClientConn, request []byte) error {
	var reply []byte
	if err := conn.Invoke(ctx, exportMethod, request, &reply, grpc.ForceCodecV2(rawCodec{})); err != nil {
		return err
	}
	response := ptraceotlp.NewExportResponse()
	if err := response.UnmarshalProto(reply); err != nil {
		return err
	}
	if n := response.PartialSuccess().RejectedSpans(); n > 0 {
		return fmt.Errorf("%d spans were rejected: %s", n, strings.TrimSpace(response.PartialSuccess().ErrorMessage()))
	}
	return nil
}

// rawCodec hands bytes through.
type rawCodec struct{}

var _ encoding.CodecV2 = rawCodec{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}
