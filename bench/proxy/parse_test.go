package main

import (
	"strings"
	"testing"
	"time"
)

const wrkReport = `Running 1s test @ http://127.0.0.1:20901/128
  2 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    44.35us   74.58us   2.06ms   98.92%
    Req/Sec    81.21k     6.13k   89.58k    63.64%
  Latency Distribution
     50%   36.00us
     75%   46.00us
     90%   57.00us
     99%    1.25ms
  88680 requests in 1.10s, 12.85MB read
Requests/sec:  80623.31
Transfer/sec:     11.69MB
`

const h2loadReport = `starting benchmark...
finished in 1.00s, 2000.00 req/s, 138.80KB/s
requests: 2004 total, 2006 started, 2004 done, 2004 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 2004 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 138.80KB (142132) total, 93.75KB (96000) headers (space savings 51.02%), 9.77KB (10000) data
                     min         max         mean         sd        +/- sd
time for request:       23us      1.77ms       140us       142us    95.05%
time for connect:       57us       118us        87us        42us   100.00%
`

func TestParseWrk(t *testing.T) {
	got, err := parseWrk(wrkReport)
	want := result{units: 88680, elapsed: 1100 * time.Millisecond, p50: 36 * time.Microsecond, p99: 1250 * time.Microsecond}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{
		"", "unable to connect",
		strings.Replace(wrkReport, "Requests/sec", "  Non-2xx or 3xx responses: 3\nRequests/sec", 1),
		strings.Replace(wrkReport, "Requests/sec", "  Socket errors: connect 0, read 1, write 0, timeout 0\nRequests/sec", 1),
	} {
		if got, err := parseWrk(bad); err == nil {
			t.Errorf("no error, but %+v, from %q", got, bad)
		}
	}
}

func TestParseH2load(t *testing.T) {
	got, err := parseH2load(h2loadReport)
	want := result{units: 2004, mean: 140 * time.Microsecond}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{
		"",
		strings.Replace(h2loadReport, "0 failed", "1 failed", 1),
		strings.Replace(h2loadReport, "0 errored", "1 errored", 1),
		strings.Replace(h2loadReport, "0 5xx", "1 5xx", 1),
	} {
		if got, err := parseH2load(bad); err == nil {
			t.Errorf("no error, but %+v, from %q", got, bad)
		}
	}
}

func TestGoals(t *testing.T) {
	at := func(contender string, cpu time.Duration) *cell {
		return &cell{load: &load{name: "h1-32"}, contender: contender, samples: []sample{{result{units: 10, elapsed: time.Second}, cpu}}}
	}
	var out strings.Builder
	(&report{cells: []*cell{at(weirIn, 50), at(nginx, 50), at(haproxy, 40), at(reverseProxy, 500)}}).writeGoals(&out)
	for _, want := range []string{
		"| HTTP/1.1, 32 connections, 128 B: CPU, × nginx | ≤ 1 | 1.00 | met |",
		"| HTTP/1.1, 32 connections, 128 B: CPU, × haproxy | ≤ 1 | 1.25 | **missed** |",
		"| HTTP/1.1, 32 connections, 128 B: CPU, × ReverseProxy | ≤ 0.3 | 0.10 | met |",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no line %q in:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "VmRSS") {
		t.Errorf("goals that were not measured are judged:\n%s", out.String())
	}
}
