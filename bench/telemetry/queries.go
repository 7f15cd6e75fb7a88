package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/bench/measure"
)

// workloadCounts are how many workloads there are when questions are timed.
var workloadCounts = []int{1000, 10_000}

// queryLoad is how many requests a second all workloads get together, each of
// which comes in a batch of its own: the machine has to answer questions beside.
const queryLoad = 1000

// How long after an answer the next question is put: at once, nearly, so that the
// API shares most answers; or when it does not any more, at another time of the
// second than the one before.
const (
	askPause  = 10 * time.Millisecond
	anewPause = 1070 * time.Millisecond
)

// questionPatience is what an answer may take: the API gives up after as long.
const questionPatience = 5 * time.Second

// measureQueries times questions to the API while many workloads report.
func measureQueries(ctx context.Context, l *lab, f *findings) error {
	f.printf("A proxy each workload; a thousand requests a second over all of them meanwhile, each in a batch of its own; two aggregators; over\n" +
		"gRPC, one question at a time, a minute's window.\n\n| workloads | question | rows | p50, ms | p99, ms |\n|---|---|---|---|---|\n")
	for _, workloads := range workloadCounts {
		if err := measureQueriesAt(ctx, l, f, workloads); err != nil {
			return err
		}
	}
	return nil
}

// awaitWorkloads asks for the statistics of every workload until they are all
// there. all is false where that does not come to pass; most is how many came.
func awaitWorkloads(ctx context.Context, m *mesh, workloads int) (most int, all bool, err error) {
	err = m.await(ctx, time.Minute, fmt.Sprintf("%d workloads to be seen", workloads), func() (bool, error) {
		began := time.Now()
		ask, cancel := context.WithTimeout(ctx, questionPatience)
		defer cancel()
		r, err := m.client.Stat(ask, &weirpb.StatRequest{Resource: &weirpb.Resource{Kind: "deploy"}, Window: &weirpb.Window{Length: durationpb.New(time.Minute)}})
		if n := len(r.GetRows()); n > most {
			most = n
			measure.Note("stat tells of %d workloads, after %v", n, time.Since(began).Round(time.Millisecond))
		}
		return most >= workloads, err
	})
	if err != nil && ctx.Err() == nil && measure.Alive(m.procs) == nil {
		measure.Note("%v", err)
		return most, false, nil
	}
	return most, err == nil, err
}

// notAnswered reports that so many workloads are too many.
func notAnswered(f *findings, workloads, most int) {
	f.printf("| %s | `stat deploy -A`, every workload: not answered within %s for a minute; the most rows told were %s | | | |\n",
		measure.Thousands(float64(workloads)), questionPatience, measure.Thousands(float64(most)))
	if workloads == workloadCounts[len(workloadCounts)-1] {
		f.goal(measure.Goal{What: "`stat` of 10,000 workloads, p99 (no answer in so long)", Bound: 100, Unit: " ms", Measured: float64(questionPatience.Milliseconds())})
	}
}

func measureQueriesAt(ctx context.Context, l *lab, f *findings, workloads int) error {
	m, err := l.startMesh(ctx, 2, placement{})
	defer m.close()
	if err != nil {
		return err
	}
	generated := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer close(generated)
		// It is told to end; what went wrong before is seen by what is not answered.
		_, _ = m.generate(ctx, "", order{Prefix: "q", Proxies: workloads, Workloads: workloads, Rate: queryLoad / float64(workloads), Seconds: 3600, Workers: 16, Links: 2})
	}()
	defer func() {
		cancel()
		<-generated // it was told to end
	}()
	most, all, err := awaitWorkloads(ctx, m, workloads)
	if err != nil {
		return err
	}
	if !all {
		notAnswered(f, workloads, most)
		return nil
	}
	if err := sleepUntil(ctx, time.Now().Add(l.o.step)); err != nil {
		return err
	}
	return ask(ctx, m, f, workloads)
}

// ask asks each question many times.
func ask(ctx context.Context, m *mesh, f *findings, workloads int) error {
	one := &weirpb.Resource{Kind: "deploy", Namespace: "q-ns-7", Name: "q-777"}
	every := &weirpb.Resource{Kind: "deploy"}
	minute := &weirpb.Window{Length: durationpb.New(time.Minute)}
	rows := 0
	for i, q := range []struct {
		name  string
		times int
		anew  bool
		ask   func() error
	}{
		{"`stat deploy -A`, every workload", 200, false, func() error {
			r, err := m.client.Stat(ctx, &weirpb.StatRequest{Resource: every, Window: minute})
			rows = len(r.GetRows())
			return err
		}},
		{"the same, each as nobody has asked it before", 200, true, func() error {
			r, err := m.client.Stat(ctx, &weirpb.StatRequest{Resource: every, Window: minute})
			rows = len(r.GetRows())
			return err
		}},
		{"`stat deploy -n q-ns-7`, a namespace", 200, false, func() error {
			r, err := m.client.Stat(ctx, &weirpb.StatRequest{Resource: &weirpb.Resource{Kind: "deploy", Namespace: "q-ns-7"}, Window: minute})
			rows = len(r.GetRows())
			return err
		}},
		{"`stat deploy/q-777`", 200, false, func() error {
			r, err := m.client.Stat(ctx, &weirpb.StatRequest{Resource: one, Window: minute})
			rows = len(r.GetRows())
			return err
		}},
		{"`routes deploy/q-777`", 200, false, func() error {
			r, err := m.client.Routes(ctx, &weirpb.RoutesRequest{Resource: one, Window: minute})
			rows = len(r.GetRows())
			return err
		}},
		{"series of one workload, by the second", 200, false, func() error {
			r, err := m.client.Series(ctx, &weirpb.SeriesRequest{Resource: one, Window: minute, Step: durationpb.New(time.Second)})
			rows = 0
			for _, row := range r.GetRows() {
				rows += len(row.GetPoints())
			}
			return err
		}},
	} {
		pause := askPause
		if q.anew {
			pause = anewPause
		}
		times, err := timed(ctx, q.times, pause, q.ask)
		if err != nil {
			return fmt.Errorf("cannot ask for %s: %w", q.name, err)
		}
		p50, p99 := measure.Quantile(times, 0.5), measure.Quantile(times, 0.99)
		measure.Note("%s: %d rows, p50 %.1f ms, p99 %.1f ms", q.name, rows, p50, p99)
		f.printf("| %s | %s | %s | %.1f | %.1f |\n", measure.Thousands(float64(workloads)), q.name, measure.Thousands(float64(rows)), p50, p99)
		if i < 2 && workloads == workloadCounts[len(workloadCounts)-1] {
			what := "`stat` of 10,000 workloads, p99"
			if q.anew {
				what += ", each as nobody has asked it before"
			}
			f.goal(measure.Goal{What: what, Bound: 100, Unit: " ms", Measured: p99})
		}
	}
	return nil
}
