package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/bench/measure"
)

const takeoverWorkloads = 64

// measureTakeover kills one of three aggregators under load, some times, and
// measures until every workload's requests of after the kill are shown. In the
// end every event has to be counted, once.
func measureTakeover(ctx context.Context, l *lab, f *findings) error {
	var answers, shows []float64
	for range l.o.rounds {
		answered, shown, err := takeOver(ctx, l)
		if err != nil {
			return err
		}
		measure.Note("takeover: every partition answers after %.2f s, requests of after the kill are shown after %.2f s", answered, shown)
		answers, shows = append(answers, answered), append(shows, shown)
	}
	answered, shown := measure.SpreadOf(answers), measure.SpreadOf(shows)
	f.printf("One of three aggregators is killed (SIGKILL) while %d workloads report; afterwards each event is counted once.\n\n"+
		"| from the kill until | s |\n|---|---|\n| every partition answers again | %s |\n| requests made after the kill are in `stat`, of every workload | %s |\n",
		takeoverWorkloads, answered.Format(2), shown.Format(2))
	f.goal(measure.Goal{What: "takeover after SIGKILL, until every partition answers, worst", Bound: 5, Unit: " s", Measured: answered.Greatest})
	return nil
}

func takeOver(ctx context.Context, l *lab) (answered, shown float64, err error) {
	m, err := l.startMesh(ctx, 3, placement{})
	defer m.close()
	if err != nil {
		return 0, 0, err
	}
	// All three have partitions, and so has who is killed.
	began := time.Now().Truncate(time.Second)
	type done struct {
		ran
		err error
	}
	generated := make(chan done, 1)
	go func() {
		r, err := m.generate(ctx, "", order{Prefix: "takeover", Proxies: takeoverWorkloads, Workloads: takeoverWorkloads, Rate: 200, Seconds: 20, Workers: 8, Links: 1})
		generated <- done{r, err}
	}()
	answered, shown, err = watchKill(ctx, m)
	g := <-generated
	if err == nil {
		err = g.err
	}
	if err != nil {
		return 0, 0, err
	}
	var counted uint64
	err = m.await(ctx, 30*time.Second, fmt.Sprintf("%d events to be in stat", g.Events), func() (bool, error) {
		r, err := m.client.Stat(ctx, &weirpb.StatRequest{Resource: &weirpb.Resource{Kind: "deploy"}, Window: &weirpb.Window{Since: timestamppb.New(began.Add(-2 * time.Second))}})
		counted = 0
		for _, row := range r.GetRows() {
			if row.GetResource().GetNamespace() == namespaceOf("takeover", 0) {
				counted += row.GetStats().GetRequests()
			}
		}
		return counted >= g.Events, err
	})
	if err == nil && counted != g.Events {
		err = fmt.Errorf("after a takeover %d requests are counted of %d", counted, g.Events)
	}
	return answered, shown, err
}

// watchKill lets the load run for a while, kills one aggregator and watches.
func watchKill(ctx context.Context, m *mesh) (answered, shown float64, err error) {
	if err := sleepUntil(ctx, time.Now().Add(5*time.Second)); err != nil {
		return 0, 0, err
	}
	victim := m.aggregators[1]
	if owned, err := measure.Metric(ctx, victim.admin, "weir_aggregator_partitions_owned"); err != nil || owned == 0 {
		return 0, 0, fmt.Errorf("who is to be killed owns %v partitions: %w", owned, err)
	}
	killed := time.Now()
	victim.proc.Kill()
	m.forget(victim)
	err = m.await(ctx, 30*time.Second, "the takeover", func() (bool, error) {
		ask, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		r, err := m.client.Stat(ask, &weirpb.StatRequest{Resource: &weirpb.Resource{Kind: "deploy", Namespace: namespaceOf("takeover", 0)},
			Window: &weirpb.Window{Since: timestamppb.New(killed.Truncate(time.Second).Add(time.Second)), Until: timestamppb.New(time.Now().Add(2 * time.Second))}})
		now := time.Since(killed).Seconds()
		if err != nil || r.GetCoverage().GetPartitionsMissing() > 0 {
			answered = 0 // not yet, or no more; a question may also fail meanwhile
			return false, ctx.Err()
		}
		if answered == 0 {
			answered = now
		}
		with := 0
		for _, row := range r.GetRows() {
			if row.GetStats().GetRequests() > 0 {
				with++
			}
		}
		shown = now
		return with == takeoverWorkloads, nil
	})
	return answered, shown, err
}
