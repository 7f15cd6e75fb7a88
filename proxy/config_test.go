package proxy_test

import (
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/proxy/listen"
)

func noEnv(string) string { return "" }

func TestParse(t *testing.T) {
	got, err := proxy.Parse([]string{
		"--inbound", "127.0.0.1:4143=127.0.0.1:8080",
		"--inbound=:5143=[::1]:5432,opaque",
		"--outbound", "127.0.0.1:4140=10.0.0.7:4143,mesh,peer=emojivoto/deploy/emoji",
		"--outbound", "127.0.0.1:4150=db.example:443,protocol=http/2",
		"--workload", "emojivoto/deploy/web", "--pod", "web-0", "--node", "n1", "--cluster", "east",
		"--bus", "nats://a:4222,nats://b:4222", "--bus", "nats://c:4222",
		"--admin", "off", "--drain-delay", "0s", "--drain-timeout", "1m", "--connect-timeout", "2s",
		"--max-connections", "7", "--max-head-bytes", "128KiB", "--head-timeout", "7s", "--telemetry-buffer", "1MiB",
		"--log-level", "debug", "--log-format", "json",
	}, noEnv)
	if err != nil {
		t.Fatal(err)
	}
	want := proxy.Config{
		Self: event.Source{Workload: event.Workload{Cluster: "east", Namespace: "emojivoto", Kind: "deploy", Name: "web"}, Pod: "web-0", Node: "n1"},
		Traffic: proxy.Traffic{
			Listeners: []listen.Spec{
				{Direction: event.Inbound, Listen: "127.0.0.1:4143", Target: "127.0.0.1:8080"},
				{Direction: event.Inbound, Listen: ":5143", Target: "[::1]:5432", Opaque: true},
				{Direction: event.Outbound, Listen: "127.0.0.1:4140", Target: "10.0.0.7:4143", Mesh: true,
					Peer: event.Workload{Cluster: "east", Namespace: "emojivoto", Kind: "deploy", Name: "emoji"}},
				{Direction: event.Outbound, Listen: "127.0.0.1:4150", Target: "db.example:443", Protocol: event.HTTP2},
			},
			InboundPort: 4143, OutboundPort: 4140, OpaquePorts: proxy.DefaultConfig().Traffic.OpaquePorts,
			ConnectTimeout: 2 * time.Second, MaxConnections: 7, MaxHeadBytes: 128 << 10, HeadTimeout: 7 * time.Second,
			DrainTimeout: time.Minute,
		},
		Identity:  proxy.Identity{TrustDomain: "cluster.local"},
		Telemetry: proxy.Telemetry{Bus: "nats://a:4222,nats://b:4222,nats://c:4222", RetainBytes: 1 << 20},
		Log:       proxy.Log{Level: slog.LevelDebug, JSON: true},
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
}

func TestParseEnvironment(t *testing.T) {
	env := map[string]string{
		"WEIR_PROXY_INBOUND":       "127.0.0.1:1=127.0.0.1:2,opaque,peer=a/deploy/b 127.0.0.1:3=127.0.0.1:4,mesh,127.0.0.1:5=127.0.0.1:6",
		"WEIR_PROXY_WORKLOAD":      "a/deploy/b",
		"WEIR_PROXY_DRAIN_TIMEOUT": "3s",
		"WEIR_PROXY_LOG_LEVEL":     "warn",
		"WEIR_PROXY_TELEMETRY":     "off",
	}
	got, err := proxy.Parse([]string{"--log-level", "error"}, func(k string) string { return env[k] })
	if err != nil {
		t.Fatal(err)
	}
	l := got.Traffic.Listeners
	if len(l) != 3 || !l[0].Opaque || l[0].Peer.Name != "b" || !l[1].Mesh || l[2].Listen != "127.0.0.1:5" {
		t.Fatalf("listeners %+v", l)
	}
	if got.Traffic.DrainTimeout != 3*time.Second || !got.Telemetry.Off || got.Log.Level != slog.LevelError {
		t.Fatalf("%+v", got)
	}
	// Flags replace the variable's list, they do not add to it.
	got, err = proxy.Parse([]string{"--inbound", "127.0.0.1:7=127.0.0.1:8"}, func(k string) string { return env[k] })
	if err != nil || len(got.Traffic.Listeners) != 1 {
		t.Fatalf("%+v, %v", got.Traffic.Listeners, err)
	}
}

func TestParseErrors(t *testing.T) {
	const in = "--inbound=127.0.0.1:1=127.0.0.1:2"
	f := func(args []string, want ...string) {
		t.Helper()
		_, err := proxy.Parse(args, noEnv)
		if err == nil {
			t.Fatalf("%q is accepted", args)
		}
		for _, w := range append(want, "") {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q: error %q does not contain %q", args, err, w)
			}
		}
		if strings.ContainsRune(err.Error(), '\n') {
			t.Errorf("%q: error %q is more than a line", args, err)
		}
	}
	f([]string{"--inbound", "nonsense"}, "--inbound", `"nonsense"`, "LISTEN=TARGET", "for example --inbound 127.0.0.1:4143=127.0.0.1:8080")
	f([]string{"--outbound", "a=b"}, "--outbound", `"a=b"`, "HOST:PORT")
	f([]string{"--inbound", "127.0.0.1:1=127.0.0.1:1"}, "itself")
	f([]string{"--inbound", "127.0.0.1:1=127.0.0.1:0"}, `port "0"`)
	f([]string{"--inbound", "127.0.0.1:99999=127.0.0.1:1"}, `port "99999"`)
	f([]string{"--inbound", "127.0.0.1:1=:2"}, "no host")
	f([]string{"--inbound", "127.0.0.1:1=http://x:2"}, `target "http://x:2"`)
	f([]string{"--inbound", "127.0.0.1:1=127.0.0.1:2,fast"}, `unknown option "fast"`)
	f([]string{"--inbound", "127.0.0.1:1=127.0.0.1:2,protocol=gopher"}, `unknown protocol "gopher"`)
	f([]string{"--inbound", "127.0.0.1:1=127.0.0.1:2,peer=x"}, `"x"`)
	f([]string{"--inbound", "127.0.0.1:1=127.0.0.1:2,opaque,protocol=tcp"}, "exclude")
	f([]string{}, "--inbound", "--outbound")
	f([]string{in, "--bus", "nats://127.0.0.1:4222"}, "--workload")
	f([]string{in, "--bus", "127.0.0.1:4222"}, "--bus", "nats://")
	f([]string{in, "--workload", "web"}, "--workload", `"web"`, "NS/KIND/NAME")
	f([]string{in, "--workload", "a/deployment/web"}, `"deployment"`, "deploy, sts")
	f([]string{in, "--workload", "a/deploy/w*"}, "'*'")
	f([]string{in, "--workload", "a/deploy/"}, "empty")
	f([]string{in, "--cluster", "a b"}, "--cluster")
	f([]string{in, "--admin", "x"}, "--admin", `"x"`)
	f([]string{in, "--drain-delay", "-1s"}, "--drain-delay", `"-1s"`)
	f([]string{in, "--drain-timeout", "soon"}, "--drain-timeout", `"soon"`)
	f([]string{in, "--connect-timeout", "0"}, "--connect-timeout")
	f([]string{in, "--max-connections", "0"}, "--max-connections")
	f([]string{in, "--max-head-bytes", "1"}, "--max-head-bytes")
	f([]string{in, "--telemetry-buffer", "99999999999"}, "--telemetry-buffer")
	f([]string{in, "--telemetry", "maybe"}, "--telemetry", `"maybe"`)
	f([]string{in, "--log-level", "loud"}, "--log-level", `"loud"`)
	f([]string{in, "--log-format", "xml"}, "--log-format")
	f([]string{in, "--pod", "a", "--pod", "b"}, "--pod", "once")
	f([]string{in, "--nope"}, "--nope", "--help")
	f([]string{in, "stray"}, `"stray"`)
	f([]string{"--inbound"}, "--inbound")
}

func TestParseHelpAndVersion(t *testing.T) {
	if _, err := proxy.Parse([]string{"--help"}, noEnv); !errors.Is(err, proxy.ErrHelp) {
		t.Fatal(err)
	}
	if _, err := proxy.Parse([]string{"--version"}, noEnv); !errors.Is(err, proxy.ErrVersion) {
		t.Fatal(err)
	}
	for _, flag := range []string{"--inbound", "--bus", "--drain-delay", "WEIR_PROXY_MAX_HEAD_BYTES", "peer="} {
		if !strings.Contains(proxy.Usage(), flag) {
			t.Errorf("the help does not know %s", flag)
		}
	}
}

func TestParseTransparent(t *testing.T) {
	f := func(args []string, opaque string, wants ...string) {
		t.Helper()
		c, err := proxy.Parse(append(args, "--transparent"), noEnv)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range c.Traffic.Listeners {
			if !s.Transparent || !reflect.DeepEqual(s.OpaquePorts, c.Traffic.OpaquePorts) {
				t.Errorf("%+v", s)
			}
			got = append(got, s.Direction.String()+" "+s.Listen)
		}
		if !reflect.DeepEqual(got, wants) {
			t.Errorf("%q: got %q, want %q", args, got, wants)
		}
		var ranges []string
		for _, r := range c.Traffic.OpaquePorts {
			ranges = append(ranges, r.String())
		}
		if s := strings.Join(ranges, ","); s != opaque {
			t.Errorf("%q: opaque are %q, want %q", args, s, opaque)
		}
	}
	f(nil, "25,587,3306,4222,4444,5432,6222,6379,7422,9300,11211",
		"inbound 0.0.0.0:4143", "inbound [::]:4143", "outbound 127.0.0.1:4140", "outbound [::1]:4140")
	f([]string{"--inbound-port", "15006", "--outbound-port", "15001", "--opaque-ports", "9000-9010,25,9005-9020"}, "25,9000-9020",
		"inbound 0.0.0.0:15006", "inbound [::]:15006", "outbound 127.0.0.1:15001", "outbound [::1]:15001")
	f([]string{"--opaque-ports", "none"}, "",
		"inbound 0.0.0.0:4143", "inbound [::]:4143", "outbound 127.0.0.1:4140", "outbound [::1]:4140")
}

func TestParseTransparentRefuses(t *testing.T) {
	f := func(flag, value string, wants ...string) {
		t.Helper()
		_, err := proxy.Parse([]string{"--transparent", flag + "=" + value}, noEnv)
		if err == nil {
			t.Fatalf("%s=%s is accepted", flag, value)
		}
		mustContain(t, err.Error(), append(wants, flag)...)
	}
	f("--transparent", "perhaps", "2 times")
	f("--inbound-port", "0", `"0"`)
	f("--inbound-port", "4140", "4140", "differ")
	f("--outbound-port", "http", `"http"`)
	f("--opaque-ports", "25,x", `"25,x"`, `"x"`, "9000-9010")
}
