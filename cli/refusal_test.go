package cli

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestRefusals: whatever is wrong with a flag, the error names the flag, what was
// wrong and what to do, and nothing else is said.
// TestRefusalsAreUsageErrors: what the API finds wrong with a question is wrong
// with how the command was called, as what the command itself finds.
func TestRefusalsAreUsageErrors(t *testing.T) {
	addr := start(t, emojivoto())
	f := func(usage bool, command string, args ...string) {
		t.Helper()
		_, _, err := weir(t, append([]string{command, "deploy/web", "--api-addr", addr}, args...)...)
		var wrong *UsageError
		if err == nil || errors.As(err, &wrong) != usage {
			t.Errorf("weir %s %v: %v", command, args, err)
		}
	}
	f(true, "tap", "--status", "6xx")
	f(true, "top", "--where", "latency >", "-o", "table")
	f(true, "stat", "--by", "pth")
	f(true, "stat", "-t", "90d")
	f(true, "series", "-t", "1m", "--step", "7m")
	f(false, "routes") // that no aggregator answers is nobody's mistake
}

func TestRefusals(t *testing.T) {
	addr := start(t, emojivoto())
	f := func(want, command string, args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		c := newCommand(append([]string{command, "deploy/web", "--api-addr", addr}, args...)...)
		err := c.root.ExecuteContext(ctx)
		if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("weir %s %v: %v; want %q", command, args, err, want)
		}
		if out := c.out.String() + c.errOut.String(); out != "" {
			t.Errorf("weir %s %v also says %q", command, args, out)
		}
	}
	f(`--since: 2099-01-01T00:00:00Z lies in the future`, "stat", "--since", "2099-01-01T00:00:00Z")
	f(`--until: 2099-01-01T00:00:00Z lies in the future`, "stat", "--until", "2099-01-01T00:00:00Z")
	f(`longer than the longest window`, "stat", "-t", "90d")
	f(`"1w" is no length of time such as 30s, 10m, 2h or 1d`, "routes", "-t", "1w")
	f(`"long" is no length of time`, "edges", "--compare", "long")
	f(`nor how long ago (10m)`, "stat", "--since", "-5m")
	f(`--step: 1 s over a window of 86400 s would give 86400 points; at most 3600 are allowed`, "series", "--step", "1s", "-t", "24h")
	f(`--step 1.5s: a step is a whole number of seconds`, "series", "--step", "1500ms")
	f(`cannot tap: --status: "6xx" is neither a status such as 404`, "tap", "--status", "6xx")
	f(`--grpc-status: "Unavail" is neither`, "tap", "--grpc-status", "Unavail")
	f(`--latency: "250ms" is no comparison with an amount such as >250ms`, "tap", "--latency", "250ms")
	f(`--duration: ">1"`, "top", "--duration", ">1")
	f(`--bytes: ">1x" is no comparison with an amount such as >10kB`, "stat", "--bytes", ">1x")
	f(`--fate: "retryed" is no fate; there are any, retried`, "tap", "--fate", "retryed")
	f(`--protocol: "htp" is no protocol`, "tap", "--protocol", "htp")
	f(`--direction: "up" is neither in nor out`, "tap", "--direction", "up")
	f(`--path: "api" begins with neither / nor *`, "tap", "--path", "api")
	f(`--method is empty`, "tap", "--method", "")
	f(`--to: unknown resource type "web"`, "tap", "--to", "web")
	f(`--not: there is no other filter to be turned round`, "tap", "--not")
	f(`--where: at character 1: there is no field "latencyy"; did you mean latency?`, "tap", "--where", "latencyy > 1s")
	f(`--where: at character 9: it ends too early`, "stat", "--where", "latency >")
	f(`--where: at character 1: a call of a function is not possible here`, "top", "--where", "len(path) > 5")
	f(`--max-rps -1 is no rate`, "tap", "--max-rps", "-1")
	f(`--limit: "-1" is no whole number from 0 on`, "tap", "--limit", "-1")
	f(`--limit: "5000000000" is no number that is possible here: it is too large`, "tap", "--limit", "5000000000")
	f(`--max-rps: "many" is no number`, "tap", "--max-rps", "many")
	f(`--since is empty: leave it out`, "stat", "--since", "")
	f(`--until is empty: leave it out`, "top", "--until=", "-o", "table")
	f(`--namespace is empty: leave it out`, "edges", "-n", "")
	f(`--to is empty: leave it out`, "routes", "--to", "")
	f(`--until needs --since`, "tap", "--until", "5m")
	f(`--until and -f contradict`, "tap", "--since", "5m", "--until", "2m", "-f")
	f(`--since 1m is not before --until 2m`, "tap", "--since", "1m", "--until", "2m")
	f(`--since: 2099-01-01T00:00:00Z lies in the future`, "tap", "--since", "2099-01-01T00:00:00Z")
	f(`--by: there is no field "pth"; did you mean path`, "stat", "--by", "pth")
	f(`--by: 9 fields are given; at most 8 are allowed`, "stat", "--by", "path,path,path,path,path,path,path,path,path")
	f(`--by: "path" is given twice`, "stat", "--by", "path,status,path")
	f(`--step: 7m0s is longer than the window, 1m0s`, "series", "-t", "1m", "--step", "7m")
	f(`--by is empty`, "stat", "--by", "")
	f(`--top: 5000 rows are asked for; at most 1000 are possible`, "stat", "--by", "path", "--top", "5000")
	f(`--top 0: at least one row`, "stat", "--by", "path", "--top", "0")
	f(`--top goes with --by`, "stat", "--top", "5")
	f(`-w and --by, or a filter, contradict`, "stat", "--by", "path", "-w")
	f(`--compare and --by, or a filter`, "stat", "--by", "path", "--compare", "10m")
	f(`--sort speed: there are count`, "top", "--sort", "speed")
	f(`--for 0s is no length of time`, "top", "--for", "0s")
	f(`--for goes with the present`, "top", "--for", "1s", "--since", "5m")
	f(`--since 2099-01-01T00:00:00Z lies in the future`, "top", "--since", "2099-01-01T00:00:00Z")
	f(`must be one of live, table, json`, "top", "-o", "wide")
}
