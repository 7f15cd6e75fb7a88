package intercept_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/weirmesh/weir/proxy/intercept"
	"github.com/weirmesh/weir/proxy/ports"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// command runs `weir-proxy init` in this process.
func command(env map[string]string, args ...string) (stdout, stderr string, err error) {
	var out, talk bytes.Buffer
	err = intercept.Command(context.Background(), args, func(name string) string { return env[name] }, &out, &talk)
	return out.String(), talk.String(), err
}

func TestCommandRefuses(t *testing.T) {
	f := func(env map[string]string, args []string, wants ...string) {
		t.Helper()
		_, _, err := command(env, append(args, "--dry-run")...)
		if !errors.Is(err, intercept.ErrUsage) {
			t.Fatalf("%v %q: got %v", env, args, err)
		}
		for _, w := range wants {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%v %q: %q is missing in %q", env, args, w, err)
			}
		}
	}
	flags := func(args ...string) []string { return args }
	f(nil, flags("--skip-inbound-ports", "22,x"), "--skip-inbound-ports", `"22,x"`, `"x"`, "8000-8010")
	f(nil, flags("--skip-outbound-ports", "0"), "--skip-outbound-ports", `"0"`)
	f(nil, flags("--skip-outbound-ports", "65536"), `"65536"`)
	f(nil, flags("--skip-outbound-ports", "9-8"), `"9-8"`, "ends before it begins")
	f(nil, flags("--skip-subnets", "10.0.0.0/8,10.0.0.0/33"), "--skip-subnets", `"10.0.0.0/33"`, "10.96.0.0/12")
	f(nil, flags("--skip-subnets", "::ffff:10.0.0.0/104"), "write it as IPv4")
	f(nil, flags("--inbound-port", "port"), "--inbound-port", `"port"`)
	f(nil, flags("--inbound-port", "4140"), "--outbound-port", "two ports")
	f(nil, flags("--proxy-uid", "0"), "--proxy-uid", `"0"`)
	f(nil, flags("--proxy-uid", "weir"), "--proxy-uid", `"weir"`)
	f(nil, flags("--validate=perhaps"), "--validate", `"perhaps"`)
	f(nil, flags("--validate-timeout", "soon"), "--validate-timeout", `"soon"`, "5s")
	f(nil, flags("--skip", "1"), "--skip", "--help")
	f(nil, flags("up"), `"up"`, "--help")
	f(nil, flags("--undo"), "exclude each other")
	f(nil, flags("--inbound-port", "1", "--inbound-port", "2"), "2 times")
	f(map[string]string{"WEIR_PROXY_INIT_PROXY_UID": "-1"}, nil, "WEIR_PROXY_INIT_PROXY_UID", `"-1"`)
	var many []string
	for i := range 65 {
		many = append(many, ports.Range{From: uint16(1000 + 2*i), To: uint16(1000 + 2*i)}.String())
	}
	f(nil, flags("--skip-inbound-ports", strings.Join(many, ",")), "--skip-inbound-ports", "65 separate", "64")
}

func TestDryRun(t *testing.T) {
	got, _, err := command(map[string]string{
		"WEIR_PROXY_INIT_SKIP_INBOUND_PORTS": "8010,22,8000-8005,8006-8009,22",
		"WEIR_PROXY_INIT_PROXY_UID":          "1",
	}, "--dry-run", "--proxy-uid", "2102", "--inbound-port", "1143", "--skip-outbound-ports", "25",
		"--skip-subnets", "10.96.1.1/12,10.100.0.0/16,fd00::1/8,192.0.2.7/32")
	if err != nil {
		t.Fatal(err)
	}
	const want = `table inet weir {
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		iifname "lo" return comment "loopback"
		fib daddr type != local return comment "not for this pod"
		tcp dport 1143 return comment "the proxy's own port"
		tcp dport 4140 return comment "the proxy's own port"
		tcp dport 4191 return comment "the proxy's own port"
		tcp dport 22 return comment "skipped inbound port"
		tcp dport 8000-8010 return comment "skipped inbound port"
		meta l4proto tcp counter redirect to :1143 comment "to the proxy, inbound"
	}

	chain output {
		type nat hook output priority -100; policy accept;
		meta skuid 2102 return comment "the proxy itself"
		oifname "lo" return comment "loopback"
		ip daddr 10.96.0.0/12 return comment "skipped subnet"
		ip daddr 192.0.2.7 return comment "skipped subnet"
		ip6 daddr fd00::/8 return comment "skipped subnet"
		tcp dport 25 return comment "skipped outbound port"
		meta l4proto tcp counter redirect to :4140 comment "to the proxy, outbound"
	}
}
`
	if got != want {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
}

func TestHelp(t *testing.T) {
	got, _, err := command(nil, "--help")
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []string{
		"--inbound-port PORT", "--outbound-port PORT", "--admin-port PORT", "--proxy-uid UID", "--skip-inbound-ports PORTS",
		"--skip-outbound-ports PORTS", "--skip-subnets CIDRS", "--dry-run\n", "--undo\n", "--check\n", "--validate\n",
		"--validate-timeout DURATION", "WEIR_PROXY_INIT_SKIP_SUBNETS",
	} {
		if !strings.Contains(got, w) {
			t.Errorf("%q is missing in\n%s", w, got)
		}
	}
}
