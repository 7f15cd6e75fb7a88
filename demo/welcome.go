package demo

import (
	"fmt"
	"slices"
	"strings"
)

// welcome says what runs where and what to try.
func (l layout) welcome() string {
	api, bus := "", ""
	d := Defaults()
	if l.o.GRPCAddr != d.GRPCAddr {
		api = " --api-addr " + l.o.GRPCAddr
	}
	if l.o.BusAddr != d.BusAddr {
		bus = " -s nats://" + l.o.BusAddr
	}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("The mesh is up: emojivoto, four workloads, a weir-proxy beside each.")
	line("")
	line("  dashboard    http://%s", l.o.DashboardAddr)
	line("  application  http://%s", l.o.WebAddr)
	line("  API          http://%s/api/v1/stat   gRPC %s", l.o.HTTPAddr, l.o.GRPCAddr)
	line("  bus          nats://%s", l.o.BusAddr)
	line("  vote-bot     %.4g votes a second, through http://%s", l.o.Rate, l.at(portBotOut))
	line("")
	line("Try, in a second shell:")
	line("")
	line("  bin/weir stat deploy -n %s%s            # who fails?", Namespace, api)
	line("  bin/weir routes deploy/voting -n %s%s   # at which call?", Namespace, api)
	line("  bin/weir tap deploy/web -n %s%s         # every request, live", Namespace, api)
	line("  bin/weir edges deploy -n %s%s           # who talks to whom?", Namespace, api)
	line("  curl '%s/api/v1/stat?resource.namespace=%s'", l.o.HTTPAddr, Namespace)
	line("  nats sub%s 'weir.v1.tap.*.%s.>'         # any NATS client, no Weir needed", bus, Namespace)
	line("")
	line("Ctrl-C stops everything.")
	return b.String()
}

// counts formats how many requests ended with which status.
func counts(byStatus map[int]uint64) string {
	var total uint64
	var codes []int
	for code, n := range byStatus {
		total += n
		codes = append(codes, code)
	}
	slices.Sort(codes)
	parts := []string{fmt.Sprintf("%d requests", total)}
	for _, code := range codes {
		what := fmt.Sprint(code)
		if code == 0 {
			what = "no answer"
		}
		parts = append(parts, fmt.Sprintf("%s: %d", what, byStatus[code]))
	}
	return strings.Join(parts, ", ")
}
