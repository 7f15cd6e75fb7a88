package aggregator

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

func TestOffendersAreNamed(t *testing.T) {
	var out bytes.Buffer
	a := &Aggregator{log: slog.New(slog.NewTextHandler(&out, nil)), offenders: offenders{all: map[offender]*record{}}}
	now := time.Unix(1_800_000_000, 0)
	bad := event.Workload{Namespace: "shop", Kind: "deploy", Name: `we"b`}
	for i := range 100 {
		a.blame(3, []rollup.Offence{{Workload: bad, Kind: rollup.OffenceRoute, Limit: 500, Count: 7, Example: "/x"}}, now.Add(time.Duration(i)*time.Second))
	}
	if n := strings.Count(out.String(), "\n"); n != 2 {
		t.Errorf("%d lines in 100 s: %s", n, out.String())
	}
	for _, want := range []string{"kind=route", "limit=500", "times=7", "times=420", "example=/x", "shop/deploy/we"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log does not say %s: %s", want, out.String())
		}
	}
	for i := range 5000 {
		w := event.Workload{Namespace: "made-up", Kind: "deploy", Name: fmt.Sprint(i)}
		a.blame(3, []rollup.Offence{{Workload: w, Kind: rollup.OffencePeer, Count: 1}}, now)
	}
	if n := len(a.offenders.all); n > maxOffenders {
		t.Errorf("%d offenders are remembered", n)
	}
	var metrics bytes.Buffer
	a.offenders.write(&metrics)
	want := `weir_aggregator_overflow_total{kind="route",cluster="",namespace="shop",workload_kind="deploy",name="we\"b"} 700` + "\n"
	if !strings.HasPrefix(metrics.String(), want) || strings.Count(metrics.String(), "\n") != shownOffenders {
		t.Errorf("metrics: %s", metrics.String())
	}
}
