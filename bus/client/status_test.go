package client_test

import (
	"testing"
	"time"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/event"
)

func TestStreams(t *testing.T) {
	c := bustest.Connect(t, bustest.Run(t))
	before := time.Now().Add(-time.Minute)
	if err := c.Publish(t.Context(), event.Workload{Cluster: "c", Namespace: "n", Kind: "deploy", Name: "web"}, 1, 1, []byte("batch")); err != nil {
		t.Fatal(err)
	}
	streams, err := c.Streams(t.Context())
	if err != nil || len(streams) != 6 {
		t.Fatalf("%d streams, %v", len(streams), err)
	}
	for _, s := range streams {
		if !s.Exists || s.Replicas != 1 || s.Current != 1 {
			t.Errorf("%+v", s)
		}
		if s.Name == bus.StreamEvents && (s.Messages != 1 || s.Bytes == 0 || s.Newest.Before(before)) {
			t.Errorf("%+v", s)
		}
	}
	if c.ServerVersion() == "" {
		t.Error("the server has no version")
	}
}
