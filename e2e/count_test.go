package e2e

import (
	"fmt"
	"maps"
	"strconv"
	"testing"
	"time"
)

// TestEveryRequestIsCounted sends a counted load through the whole mesh: what
// was sent is what is reported, to the request.
func TestEveryRequestIsCounted(t *testing.T) {
	m := startDemo(t)
	requests := 100_000
	if testing.Short() {
		requests = 10_000
	}
	began := time.Now()
	s := load(t, m.botOut(), requests, 128, 1)
	t.Logf("%d requests over 128 connections in %v", s.requests, time.Since(began).Round(time.Second))

	m.settle(s)
	time.Sleep(3 * time.Second) // longer than a rollup: what is counted twice would show by now
	if problem := m.compare(s); problem != "" {
		t.Errorf("after it had settled: %s", problem)
	}
	m.compareEdges(s)
	m.compareRoutes(s)
	for name, row := range m.stat() {
		if row.Shed != 0 || row.Lost != 0 {
			t.Errorf("%s shed %d events and lost %d batches", name, row.Shed, row.Lost)
		}
		if row.Meshed != "1/1" {
			t.Errorf("%s is meshed %s; want 1/1", name, row.Meshed)
		}
	}
}

// settle waits until the statistics are what was sent.
func (m *mesh) settle(s sent) {
	m.t.Helper()
	eventually(m.t, 30*time.Second, func() string { return m.compare(s) })
}

// compare says where the statistics differ from what was sent.
func (m *mesh) compare(s sent) string {
	m.t.Helper()
	rows := m.stat()
	want := map[string]statRow{
		"web":    {Requests: s.requests, Status: s.status},
		"emoji":  {Requests: s.emoji, Status: map[string]uint64{"200": s.emoji}},
		"voting": {Requests: s.voting, Status: map[string]uint64{"200": s.voting}},
		// It receives nothing: its row is what it sends.
		"vote-bot": {Requests: s.requests, Status: s.status},
	}
	for name, w := range want {
		got := rows[name]
		if got.Requests != w.Requests || !maps.Equal(got.Status, w.Status) {
			return fmt.Sprintf("%s: %d requests %v; want %d %v", name, got.Requests, got.Status, w.Requests, w.Status)
		}
	}
	if got := rows["voting"].GRPCStatus["2"]; got != s.votingFailed {
		return fmt.Sprintf("voting failed %d times; want %d", got, s.votingFailed)
	}
	if got, want := rows["voting"].Success, 1-float64(s.votingFailed)/float64(s.voting); got < want-1e-4 || got > want+1e-4 {
		return fmt.Sprintf("voting's success is %v; want %v", got, want)
	}
	return ""
}

func (m *mesh) compareEdges(s sent) {
	m.t.Helper()
	var answer struct {
		Rows []struct {
			Source      struct{ Name string }
			Destination struct{ Name string }
			Stats       struct{ Requests string }
		}
	}
	m.get("/api/v1/edges?resource.namespace=emojivoto&window.length=600s", &answer)
	got := map[string]string{}
	for _, r := range answer.Rows {
		got[r.Source.Name+" to "+r.Destination.Name] += r.Stats.Requests
	}
	count := func(n uint64) string { return strconv.FormatUint(n, 10) }
	want := map[string]string{
		"vote-bot to web": count(s.requests),
		"web to emoji":    count(s.emoji),
		"web to voting":   count(s.voting),
	}
	if !maps.Equal(got, want) {
		m.t.Errorf("edges: %v; want %v", got, want)
	}
}

func (m *mesh) compareRoutes(s sent) {
	m.t.Helper()
	var answer struct {
		Rows []struct {
			Route string
			Stats struct{ Requests, Failures string }
		}
	}
	m.get("/api/v1/routes?resource.namespace=emojivoto&resource.kind=deploy&resource.name=voting&window.length=600s", &answer)
	var total uint64
	for _, r := range answer.Rows {
		n, err := strconv.ParseUint(r.Stats.Requests, 10, 64)
		if err != nil {
			m.t.Fatal(err)
		}
		total += n
		failed := "0"
		if r.Route == "emojivoto.v1.VotingService/VoteDoughnut" {
			failed = strconv.FormatUint(s.votingFailed, 10)
		}
		if r.Stats.Failures != failed {
			m.t.Errorf("%s failed %s times; want %s", r.Route, r.Stats.Failures, failed)
		}
	}
	if total != s.voting {
		m.t.Errorf("the routes of voting have %d requests; want %d", total, s.voting)
	}
}
