package event_test

import (
	"fmt"
	"testing"

	"github.com/weirmesh/weir/event"
)

// checkNames: each of the first n values has a name of its own that parses
// back, and what is beyond is "unknown".
func checkNames[T ~uint8](t *testing.T, n int, parse func(string) (T, bool)) {
	t.Helper()
	seen := map[string]bool{}
	for i := range n {
		name := fmt.Sprint(T(i))
		if got, ok := parse(name); !ok || got != T(i) || seen[name] {
			t.Errorf("%T %d is %q, which parses as %v, %v", T(0), i, name, got, ok)
		}
		seen[name] = true
	}
	if name := fmt.Sprint(T(n)); name != "unknown" {
		t.Errorf("%T %d is %q", T(0), n, name)
	}
	if _, ok := parse("nonsense"); ok {
		t.Errorf("%T: nonsense parses", T(0))
	}
}

func TestNames(t *testing.T) {
	checkNames(t, 3, event.ParseDirection)
	checkNames(t, 7, event.ParseProtocol)
	checkNames(t, 2, event.ParseKind)
	checkNames(t, 3, event.ParseSecurity)
	checkNames(t, 7, event.ParseDetection)
	f := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	f(event.HTTP1.String(), "http/1")
	f(event.TLS.String(), "tls")
	f(event.Plain.String(), "none")
	f(event.Passthrough.String(), "passthrough")
	f(event.Outbound.String(), "outbound")
	f(event.Progress.String(), "progress")
	f(event.DetectHello.String(), "hello")
}

func TestFateNames(t *testing.T) {
	for f := range event.Fate(1 << 7) {
		if got, ok := event.ParseFate(f.String()); !ok || got != f {
			t.Errorf("fate %d is %q, which parses as %d, %v", f, f, got, ok)
		}
	}
	if got := (event.Retried | event.Shed | 1<<15).String(); got != "retried,shed" {
		t.Errorf("got %q", got)
	}
	if _, ok := event.ParseFate("retried,"); ok {
		t.Error("an empty name parses")
	}
}

func TestSuccess(t *testing.T) {
	f := func(e event.Event, want bool) {
		t.Helper()
		if e.Success() != want {
			t.Errorf("%+v: success %v, want %v", e, !want, want)
		}
	}
	f(event.Event{Protocol: event.HTTP1, Status: 200}, true)
	f(event.Event{Protocol: event.HTTP1, Status: 499}, true)
	f(event.Event{Protocol: event.HTTP2, Status: 500}, false)
	f(event.Event{Protocol: event.HTTP2}, false)
	f(event.Event{Protocol: event.HTTP2, Status: 200, Error: event.ErrServerReset}, false)
	f(event.Event{Protocol: event.GRPC, Status: 200}, true)
	f(event.Event{Protocol: event.GRPC, Status: 200, GRPCStatus: 5}, true)
	f(event.Event{Protocol: event.GRPC, Status: 200, GRPCStatus: 14}, false)
	f(event.Event{Protocol: event.GRPC, Status: 200, GRPCStatus: event.NoGRPCStatus}, false)
	f(event.Event{Protocol: event.TCP}, true)
}
