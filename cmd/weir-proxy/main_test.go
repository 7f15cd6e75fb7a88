package main

import (
	"net"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestExitCodes(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f := func(want int, args ...string) {
		t.Helper()
		if got := run(args); got != want {
			t.Errorf("%q: exit code %d, want %d", args, got, want)
		}
	}
	f(exitOK, "--version")
	f(exitOK, "--help")
	f(exitUsage)
	f(exitUsage, "--inbound", "nonsense")
	f(exitUsage, "--bus", "nonsense")
	f(exitUsage, "--nope")
	f(exitFailed, "--admin", "off", "--inbound", ln.Addr().String()+"=127.0.0.1:1")
	f(exitFailed, "--inbound", "127.0.0.1:0=127.0.0.1:1", "--admin", ln.Addr().String())
	f(exitFailed, "--inbound", ln.Addr().String()+"=127.0.0.1:1", "--admin", "off",
		"--bus", "nats://127.0.0.1:1", "--workload", "a/deploy/b")
}
