package bustest_test

import (
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRestartKeepsAddressAndData(t *testing.T) {
	s := bustest.Run(t)
	c := bustest.Connect(t, s)
	sequence, err := c.PublishRollup(t.Context(), 1, 0, []byte("kept"), 0)
	if err != nil {
		t.Fatal(err)
	}
	again := bustest.Restart(t, s)
	if again.URL() != s.URL() {
		t.Errorf("the address changed from %s to %s", s.URL(), again.URL())
	}
	if err := s.Ready(); err == nil {
		t.Error("the bus before says that it is ready")
	}
	if data, last, err := bustest.Connect(t, again).LastRollup(t.Context(), 1, 0); err != nil || string(data) != "kept" || last != sequence {
		t.Errorf("the last rollup is %q at %d, %v", data, last, err)
	}
}

func TestBusesAreApart(t *testing.T) {
	a, b := bustest.Connect(t, bustest.Run(t)), bustest.Connect(t, bustest.Run(t))
	if err := a.Publish(t.Context(), event.Workload{Cluster: "c", Namespace: "n", Kind: "deploy", Name: "web"}, 1, 1, nil); err != nil {
		t.Fatal(err)
	}
	if err := a.Heartbeat(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if members, err := b.Members(t.Context()); err != nil || len(members) != 0 {
		t.Errorf("one bus sees the members %q of another, %v", members, err)
	}
	if _, err := b.Ask(t.Context(), "aggregator", "stat", nil); !errors.Is(err, bus.ErrNoResponders) {
		t.Errorf("Ask gives %v", err)
	}
}
