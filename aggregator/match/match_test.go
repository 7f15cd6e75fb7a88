package match

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/event"
)

// header and exchange are a failed call that web's proxy sent to voting.
func header() *event.Header {
	return &event.Header{Source: event.Source{Workload: event.Workload{Cluster: "c", Namespace: "emojivoto", Kind: "deploy", Name: "web"}, Pod: "web-0", Node: "n1"}}
}

func exchange() *event.Event {
	return &event.Event{
		Direction: event.Outbound, Protocol: event.GRPC, Method: "POST", Authority: "voting.emojivoto", Path: "/emojivoto.v1.VotingService/VoteDoughnut",
		Status: 200, GRPCStatus: 14, Error: "server_reset", Fate: event.Retried | event.TimedOut, Attempt: 1, SecurityReason: "no_identity",
		Start: 1_773_489_900_000_000, Latency: 250_000, Duration: 1_500_000, RequestBytes: 1000, ResponseBytes: 24, Connection: 0xc0ffee, Stream: 3,
		Peer: event.Peer{Workload: event.Workload{Cluster: "c", Namespace: "emojivoto", Kind: "deploy", Name: "voting"}, Pod: "voting-0", Addr: netip.MustParseAddrPort("10.1.0.9:8080")},
	}
}

func TestFilters(t *testing.T) {
	f := func(want bool, filter Filter) {
		t.Helper()
		for _, not := range []bool{false, true} {
			filter.Not = not
			m, err := Compile(&filter)
			if err != nil {
				t.Fatalf("%+v: %v", filter, err)
			}
			if got := m.Match(header(), exchange()); got != (want != not) {
				t.Errorf("%+v: %v", filter, got)
			}
		}
	}
	f(true, Filter{Method: "get,post"})
	f(false, Filter{Method: "GET"})
	f(true, Filter{Path: "/emojivoto.v1."})
	f(false, Filter{Path: "/api"})
	f(true, Filter{Authority: "VOTING.emojivoto"})
	f(true, Filter{Status: "2xx"})
	f(true, Filter{Status: "404,200"})
	f(true, Filter{Status: ">=200"})
	f(false, Filter{Status: ">200"})
	f(false, Filter{Status: "5xx"})
	f(true, Filter{GRPCStatus: "Unavailable"})
	f(true, Filter{GRPCStatus: "unavailable, 2"})
	f(true, Filter{GRPCStatus: ">0"})
	f(false, Filter{GRPCStatus: "DEADLINE_EXCEEDED"})
	f(false, Filter{GRPCStatus: "none"})
	f(true, Filter{Latency: ">=250ms"})
	f(false, Filter{Latency: ">250ms"})
	f(true, Filter{Duration: "> 1.4s"})
	f(true, Filter{Bytes: "=1024B"})
	f(true, Filter{Bytes: ">1kB"})
	f(true, Filter{Bytes: ">=1024"})
	f(false, Filter{Bytes: ">1KiB"})
	f(true, Filter{Pod: "voting-0"})
	f(true, Filter{Pod: "web-0"})
	f(false, Filter{Pod: "bot-0"})
	f(true, Filter{TLS: "no_identity"})
	f(true, Filter{TLS: "mutual,none"})
	f(false, Filter{TLS: "true"})
	f(true, Filter{Fate: "retried"})
	f(true, Filter{Fate: "any"})
	f(false, Filter{Fate: "denied,shed"})
	f(true, Filter{Protocol: "http1,grpc"})
	f(false, Filter{Protocol: "http/2"})
	f(true, Filter{Error: "any"})
	f(true, Filter{Error: "goaway,server_reset"})
	f(false, Filter{Error: "none"})
	f(true, Filter{Direction: "outbound"})
	f(false, Filter{Direction: "inbound"})
	f(true, Filter{To: &query.Selector{Kind: "deploy", Name: "voting"}})
	f(true, Filter{To: &query.Selector{Kind: "ns", Namespace: "emojivoto"}})
	f(true, Filter{From: &query.Selector{Kind: "pod", Name: "web-0"}})
	f(false, Filter{From: &query.Selector{Name: "voting"}})
	f(true, Filter{Method: "POST", Status: "200", Where: "latency > 100ms"})
	f(false, Filter{Method: "POST", Status: "200", Where: "latency > 300ms"})
}

func TestExpressions(t *testing.T) {
	f := func(want bool, where string) {
		t.Helper()
		m, err := Compile(&Filter{Where: where})
		if err != nil {
			t.Errorf("%s: %v", where, err)
			return
		}
		if got := m.Match(header(), exchange()); got != want {
			t.Errorf("%s: %v", where, got)
		}
	}
	f(true, `latency == 250ms`)
	f(true, `latency > 249999 and latency<250001`)
	f(true, `duration - latency == 1.25s`)
	f(true, `0.5m > duration && 1h>duration`)
	f(false, `latency > 250ms`)
	f(true, `bytes == 1KiB and request_bytes == 1kB`)
	f(true, `method == "POST" or false`)
	f(true, `not (method == 'GET')`)
	f(true, `!success`)
	f(true, `success == false`)
	f(true, `path startsWith "/emojivoto" and path endsWith "Doughnut" and path contains "Voting"`)
	f(true, `path not contains "250ms"`)
	f(true, `method in ["GET", "POST"] and status in [200, 404] and latency in [250ms]`)
	f(false, `status not in [200]`)
	f(true, `grpc_status == 14 and fate contains "retried" and error != ""`)
	f(true, `src == "deploy/web" and dst == "deploy/voting" and dst_pod == "voting-0" and src_pod == pod`)
	f(true, `dst_ip == "10.1.0.9" and dst_port == 8080 and src_ip == "" and src_port == 0`)
	f(true, `dst_namespace == src_namespace and namespace == "emojivoto" and name == "web" and node == "n1"`)
	f(true, `protocol == "grpc" and direction == "outbound" and kind == "end" and request`)
	f(true, `status_class == "2xx" and tls == "none" and tls_reason == "no_identity"`)
	f(true, `connection == "0000000000c0ffee" and stream == 3 and trace_id == ""`)
	f(true, `minute == "2026-03-14T12:05Z" and second == "2026-03-14T12:05:01Z"`)
	f(true, `response_bytes / request_bytes < 0.1 and -1 < 0 and request_bytes*2 > response_bytes + 0`)
	f(true, "path == `/emojivoto.v1.VotingService/VoteDoughnut`")
	f(true, `path < "~" and path >= "/" and path > "" and path <= "~"`)
	f(true, `meshed != true and detection == "none"`)
	f(true, `attempt / 0 > 5`) // infinite
}

func TestErrorsSayWhereAndWhat(t *testing.T) {
	f := func(field, want string, filter Filter) {
		t.Helper()
		_, err := Compile(&filter)
		var e *Error
		if !errors.As(err, &e) || e.Field != field || !strings.Contains(e.Reason, want) {
			t.Errorf("%+v: %v; want %q of %s", filter, err, want, field)
		}
	}
	w := func(want, where string) {
		t.Helper()
		f("where", want, Filter{Where: where})
	}
	w(`at character 1: there is no field "latencyy"; did you mean latency?`, `latencyy > 250ms`)
	w(`at character 21: there is no field "statuz"; did you mean status`, `latency > 250ms and statuz == 5`)
	w(`at character 24: there is no field "pth"`, `path == "ü" and true &&pth == "a"`)
	w(`did you mean src_pod or dst_pod`, `method == "" or sr_pod == "x"`)
	w(`there are method, path`, `zzzzzzzzzzz > 1`)
	w(`at character 11: "250mm" is no number, or its unit is none of us`, `latency > 250mm`)
	w(`at character 9: > cannot be used between a number and a text`, `latency > "x"`)
	w(`cannot be compared`, `latency > 10kB`)
	w(`> cannot be used with a true or false`, `success > true`)
	w(`matches is not possible here; there are fields`, `path matches "(a+)+$"`)
	w(`this is a number, not a condition; compare it, as in latency > 250ms`, `latency`)
	w(`this is a text, not a condition; compare it, as in path == "x"`, `path`)
	w(`a call of a function is not possible here`, `len(path) > 5`)
	w(`not possible here`, `path[0] == "a"`)
	w(`not possible here`, `all([1], {# > 0})`)
	w(`not possible here`, `true ? true : false`)
	w(`not possible here`, `let a = 1; a == 1`)
	w(`not possible here`, `{"a": 1}`)
	w(`.. is not possible here`, `1..1000000000`)
	w(`at character 9: it ends too early`, `latency >`)
	w(`at character 8: = compares nothing; use ==`, `status = 500`)
	w(`at character 15: "0" is not expected here`, `latency > 1ms 0`)
	w(`at character 8: "GET" is not expected here`, `method "GET"`)
	w(`did you mean latency`, `lat > 5ms`)
	w(`at character 16`, `latency > 250ms)`)
	w(`the list must hold values`, `method in ["a", path]`)
	w(`the list must hold values`, `status in ["a"]`)
	w(`list of values in brackets`, `method in path`)
	w(`maximum allowed nodes`, strings.Repeat("success and ", 150)+"success")
	w(`at most 2048 are allowed`, strings.Repeat(" ", 2049))
	f("status", `"abc" is neither a status`, Filter{Status: "200,abc"})
	f("status", `"~5" is neither`, Filter{Status: "~5"})
	f("status", `"6xx" is neither`, Filter{Status: "6xx"})
	f("status", `"99" is neither`, Filter{Status: "99"})
	f("status", `"," says nothing`, Filter{Status: ","})
	f("method", `" , " says nothing`, Filter{Method: " , "})
	f("method", `"GE T" is no HTTP method such as GET`, Filter{Method: "GE T"})
	f("method", `">GET" is no HTTP method`, Filter{Method: ">GET"})
	f("latency", `">-5ms" is no comparison`, Filter{Latency: ">-5ms"})
	f("bytes", `comparisons are >, >=, <, <=, = and !=`, Filter{Bytes: "1kB"})
	f("path", `"api" begins with neither / nor *`, Filter{Path: "api"})
	f("grpc_status", `did you mean Unavailable`, Filter{GRPCStatus: "Unavailabel"})
	f("latency", `as >250ms`, Filter{Latency: "250ms"})
	f("latency", `as >250ms`, Filter{Latency: ">250"})
	f("latency", `as >250ms`, Filter{Latency: ">10kB"})
	f("bytes", `as >10kB`, Filter{Bytes: ">x"})
	f("fate", `"retry" is no fate`, Filter{Fate: "retry"})
	f("protocol", `"http3" is no protocol`, Filter{Protocol: "http3"})
	f("direction", `neither inbound nor outbound`, Filter{Direction: "up"})
	f("not", `no other filter`, Filter{Not: true})
}

func TestFieldsAsDimensions(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range Fields() {
		if seen[f.Name] || f.Doc == "" {
			t.Errorf("field %q comes twice or has no description", f.Name)
		}
		seen[f.Name] = true
		g, err := Lookup("by", f.Name)
		if err != nil {
			t.Fatal(err)
		}
		// Neither direction, nor nothing at all, may trouble a field.
		for _, e := range []*event.Event{exchange(), {}, {Direction: event.Inbound, Peer: exchange().Peer}} {
			g.Append(nil, header(), e)
		}
	}
	f := func(name, want string) {
		t.Helper()
		g, err := Lookup("by", name)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(g.Append(nil, header(), exchange())); got != want {
			t.Errorf("%s is %q; want %q", name, got, want)
		}
	}
	f("path", "/emojivoto.v1.VotingService/VoteDoughnut")
	f("status", "200")
	f("grpc_status", "14")
	f("success", "false")
	f("dst", "deploy/voting")
	if _, err := Lookup("by", "pathh"); err == nil || !strings.Contains(err.Error(), `by: there is no field "pathh"; did you mean path?`) {
		t.Error(err)
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	m, err := Compile(&Filter{Where: `latency > 250ms and path startsWith "/api" or fate contains "retried" and dst_name == "x"`, Status: "5xx,200", To: &query.Selector{Kind: "deploy"}})
	if err != nil {
		t.Fatal(err)
	}
	h, e := header(), exchange()
	e.Fate = event.Retried
	if n := testing.AllocsPerRun(100, func() { m.Match(h, e) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzWhere(f *testing.F) {
	for _, s := range []string{
		`latency > 250ms`, `path in ["a"] and not (status >= 500)`, "`", `"`, `1.5MB`, `((((`, `a ?? b`, `1..2`, `'\x`, `/* `, `#`, `{}`, `x |> y`, `not not not`, `-- -1ms`,
	} {
		f.Add(s)
	}
	h, e := header(), exchange()
	f.Fuzz(func(t *testing.T, s string) {
		m, err := Compile(&Filter{Where: s, Not: true})
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without words")
			}
			return
		}
		m.Match(h, e)
		m.Match(&event.Header{}, &event.Event{})
	})
}

func BenchmarkMatch(b *testing.B) {
	m, err := Compile(&Filter{Where: `latency > 250ms and path startsWith "/emoji" and status >= 200`})
	if err != nil {
		b.Fatal(err)
	}
	h, e := header(), exchange()
	e.Latency++
	for b.Loop() {
		if !m.Match(h, e) {
			b.Fatal("no match")
		}
	}
}
