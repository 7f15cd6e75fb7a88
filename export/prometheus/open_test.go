package prometheus

import (
	"bufio"
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/event"
)

// TestOpenConnections: the gauge is that of the newest batch of each live proxy,
// whichever exporter has read it.
func TestOpenConnections(t *testing.T) {
	c := bustest.Connect(t, bustest.Run(t))
	first, second := newProxy("web", 0), newProxy("web", 1)
	h := NewHandler(options(&process{Client: c}))
	var text string
	want := func(pods map[string]float64) {
		t.Helper()
		eventually(t, func() error {
			var samples map[string]float64
			samples, text = scrape(t, h)
			if got := sum(samples, "tcp_open_connections", `deployment="web"`); got != pods["web-0"]+pods["web-1"] {
				return fmt.Errorf("%v connections are open, want %v", got, pods)
			}
			for pod, n := range pods {
				key := `tcp_open_connections{cluster="east",namespace="shop",deployment="web",pod="` + pod + `",peer="src"}`
				if got, ok := samples[key]; !ok || got != n {
					return fmt.Errorf("%s is %v, %v; want %v", key, got, ok, n)
				}
			}
			if got := strings.Count(text, "tcp_open_connections{"); got != len(pods) {
				return fmt.Errorf("%d pods have the gauge, want %d", got, len(pods))
			}
			return nil
		})
	}
	send := func(p *proxy, open uint64) {
		p.open = open
		publish(t, c, p, 1, p.batch(call("x", 200, 1)))
	}
	stop := start(t, c, nil)
	send(first, 3)
	send(second, 4)
	want(map[string]float64{"web-0": 3, "web-1": 4})
	stop(true)
	send(first, 1)
	stop = start(t, c, nil)
	want(map[string]float64{"web-0": 1, "web-1": 4})
	second.final = true
	send(second, 2)
	want(map[string]float64{"web-0": 1})
	stop(false)
	checkMetrics(t, text)

	// What nobody keeps up any more is shown no longer.
	old := &state{written: time.Now().Add(-2 * openFor).UnixMicro()}
	h.parts[0].state, h.parts[0].sequence, h.parts[0].open = old, 1<<40, []gauge{{open: 7}}
	if samples, _ := scrape(t, h); sum(samples, "tcp_open_connections") > 4 {
		t.Errorf("an old state's connections are shown: %v", sum(samples, "tcp_open_connections"))
	}
}

// TestOpenConnectionsAreBounded: pods beyond the bound are summed up.
func TestOpenConnectionsAreBounded(t *testing.T) {
	var all []gauge
	for i := range 100 {
		w := event.Workload{Cluster: "east", Namespace: "shop", Kind: "deploy", Name: "web"}
		all = append(all, gauge{ofPod(w, fmt.Sprintf("web-%d", i)), 2})
	}
	var out bytes.Buffer
	w := bufio.NewWriter(&out)
	writeOpen(w, all, 10)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Count(out.String(), "\ntcp_open_connections{")
	if lines != 11 || !strings.Contains(out.String(), `pod="(other)",peer="src"} 180`) {
		t.Errorf("%d rows:\n%s", lines, out.String())
	}
}

// TestDstPods: pods that are sent to are bounded, and go when they are no longer.
func TestDstPods(t *testing.T) {
	p := newProxy("web", 0)
	var events []event.Event
	for i := range 1000 {
		e := call("api", 200, 1000)
		e.Direction, e.Connection = event.Outbound, uint64(i+1)
		e.Peer.Workload = event.Workload{Cluster: "east", Namespace: "shop", Kind: "deploy", Name: "api"}
		e.Peer.Pod = fmt.Sprintf("api-%d", i)
		events = append(events, e)
	}
	table := newTable(&budget{limit: 50_000})
	fold := func(now int64, events ...event.Event) {
		var d event.Decoder
		if err := d.Reset(p.batch(events...)); err != nil {
			t.Fatal(err)
		}
		table.fold(&d, now)
	}
	count := func() (pods, other, total uint64) {
		for _, r := range table.rows {
			if r.family != requests {
				continue
			}
			total += r.n[countTotal]
			if r.labels[labelDstPod] == otherName {
				other += r.n[countTotal]
			} else {
				pods++
			}
		}
		return pods, other, total
	}
	fold(100, events...)
	if pods, other, total := count(); pods != maxDstPods || total != 1000 || other != 1000-maxDstPods {
		t.Errorf("%d pods have rows, %d requests, %d of them to others", pods, total, other)
	}
	fold(200, events[0])
	live := func(*labels) bool { return true }
	table.sweep(live, 150, 200)
	if pods, other, total := count(); pods != 1 || other != 1000-maxDstPods || total != other+2 {
		t.Errorf("later %d pods have rows, %d requests, %d of them to others", pods, total, other)
	}
	fold(201, events[500:510]...)
	if pods, _, _ := count(); pods != 11 {
		t.Errorf("%d pods have rows, want new ones in place of those that went", pods)
	}
	pod := ofPod(event.Workload{Namespace: "shop", Kind: "pod", Name: "single"}, "")
	e := events[0]
	e.Peer.Workload, e.Peer.Pod = event.Workload{Namespace: "shop", Kind: "pod", Name: "single"}, ""
	l := common(&event.Header{Source: p.source}, &e)
	if text := string(l.append(nil)); strings.Count(text, `dst_pod="single"`) != 1 || strings.Count(text, "dst_pod=") != 1 || pod[labelPod] != "single" {
		t.Errorf("a pod of no workload is %s", text)
	}
}
