package proxy

import (
	"fmt"
	"strings"
	"testing"
)

func TestGateways(t *testing.T) {
	// 10.244.0.1, as a little-endian machine writes it.
	got := gateways4(strings.NewReader("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n" +
		"eth0\t00000000\t0100F40A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" +
		"eth0\t0000F40A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n" +
		"eth0\t00000000\tnonsense\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"))
	if s := fmt.Sprint(got); s != "[10.244.0.1]" && s != "[1.0.244.10]" {
		t.Error(s)
	}
	got = gateways6(strings.NewReader("00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003 eth0\n" +
		"fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001 eth0\n" +
		"00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200 lo\n"))
	if s := fmt.Sprint(got); s != "[fd00::1]" {
		t.Error(s)
	}
	if _, err := defaultGateways(); err != nil {
		t.Error(err)
	}
}
