package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/bench/measure"
)

// manyWorkloads is how many there are when questions are timed.
const manyWorkloads = 10_000

// measureQueries times questions to the API while 10,000 workloads report.
func measureQueries(ctx context.Context, l *lab, f *findings) error {
	m, err := l.startMesh(ctx, 2, placement{})
	defer m.close()
	if err != nil {
		return err
	}
	generated := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, err := m.generate(ctx, "", order{Prefix: "q", Proxies: manyWorkloads, Workloads: manyWorkloads, Rate: 1, Seconds: 3600, Workers: 16, Links: 2})
		generated <- err
	}()
	defer func() {
		cancel()
		<-generated
	}()
	one := &weirpb.Resource{Kind: "deploy", Namespace: "q-ns-7", Name: "q-777"}
	every := &weirpb.Resource{Kind: "deploy"}
	minute := &weirpb.Window{Length: durationpb.New(time.Minute)}
	most := 0
	err = m.await(ctx, 2*time.Minute, fmt.Sprintf("%d workloads to be seen", manyWorkloads), func() (bool, error) {
		began := time.Now()
		r, err := m.client.Stat(ctx, &weirpb.StatRequest{Resource: every, Window: minute})
		if n := len(r.GetRows()); n > most {
			most = n
			measure.Note("stat tells of %d workloads, after %v", n, time.Since(began).Round(time.Millisecond))
		}
		return most >= manyWorkloads, err
	})
	if err != nil {
		return fmt.Errorf("stat told of %d workloads at most: %w", most, err)
	}
	if err := sleepUntil(ctx, time.Now().Add(l.o.step)); err != nil {
		return err
	}
	f.printf("%s workloads, a proxy each, report once a second meanwhile; two aggregators; over gRPC, one question at a time, a minute's\n"+
		"window.\n\n| question | rows | p50, ms | p99, ms |\n|---|---|---|---|\n", measure.Thousands(manyWorkloads))
	rows := 0
	for _, q := range []struct {
		name  string
		times int
		ask   func() error
	}{
		{"`stat deploy -A`, every workload", 50, func() error {
			r, err := m.client.Stat(ctx, &weirpb.StatRequest{Resource: every, Window: minute})
			rows = len(r.GetRows())
			return err
		}},
		{"`stat deploy -n q-ns-7`, a namespace", 200, func() error {
			r, err := m.client.Stat(ctx, &weirpb.StatRequest{Resource: &weirpb.Resource{Kind: "deploy", Namespace: "q-ns-7"}, Window: minute})
			rows = len(r.GetRows())
			return err
		}},
		{"`stat deploy/q-777`", 200, func() error {
			r, err := m.client.Stat(ctx, &weirpb.StatRequest{Resource: one, Window: minute})
			rows = len(r.GetRows())
			return err
		}},
		{"`routes deploy/q-777`", 200, func() error {
			r, err := m.client.Routes(ctx, &weirpb.RoutesRequest{Resource: one, Window: minute})
			rows = len(r.GetRows())
			return err
		}},
		{"series of one workload, by the second", 200, func() error {
			r, err := m.client.Series(ctx, &weirpb.SeriesRequest{Resource: one, Window: minute, Step: durationpb.New(time.Second)})
			rows = 0
			for _, row := range r.GetRows() {
				rows += len(row.GetPoints())
			}
			return err
		}},
	} {
		times, err := timed(ctx, q.times, q.ask)
		if err != nil {
			return fmt.Errorf("cannot ask for %s: %w", q.name, err)
		}
		p50, p99 := measure.Quantile(times, 0.5), measure.Quantile(times, 0.99)
		measure.Note("%s: %d rows, p50 %.1f ms, p99 %.1f ms", q.name, rows, p50, p99)
		f.printf("| %s | %s | %.1f | %.1f |\n", q.name, measure.Thousands(float64(rows)), p50, p99)
		if q.times == 50 {
			f.goal(measure.Goal{What: "`stat` of 10,000 workloads, p99", Bound: 100, Unit: " ms", Measured: p99})
		}
	}
	return nil
}
