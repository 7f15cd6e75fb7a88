package server_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/server"
)

const killDir = "WEIR_TEST_BUS_DIR"

// TestServeUntilKilled is no test of its own: it is the process that
// TestKilledServerKeepsWhatItStored kills.
func TestServeUntilKilled(t *testing.T) {
	dir := os.Getenv(killDir)
	if dir == "" {
		return
	}
	s, err := server.Start(context.Background(), server.Options{Listen: "127.0.0.1:0", DataDir: dir, SyncInterval: time.Hour, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("listening", s.URL())
	// Ends with the parent, should that not kill it.
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	s.Close()
}

// TestKilledServerKeepsWhatItStored: what was acknowledged survives kill -9,
// though nothing was synchronised to the disk.
func TestKilledServerKeepsWhatItStored(t *testing.T) {
	dir := t.TempDir()
	child := exec.Command(os.Args[0], "-test.run=^TestServeUntilKilled$")
	child.Env = append(os.Environ(), killDir+"="+dir)
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = child.Process.Kill(), child.Wait() }()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "listening ") {
		t.Fatalf("the server said %q, %v", line, err)
	}
	nc := connect(t, strings.TrimSpace(strings.TrimPrefix(line, "listening ")), nats.NoReconnect())
	const batches = 500
	for i := range batches {
		if _, err := nc.Request("weir.v1.events.c.n.deploy.web", fmt.Append(nil, i), 30*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it was killed

	s := mustStart(t, server.Options{DataDir: dir})
	js, err := jetstream.New(connect(t, s.URL()))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), bus.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	if state := stream.CachedInfo().State; state.Msgs != batches || state.LastSeq != batches {
		t.Fatalf("%d messages up to %d are left of %d", state.Msgs, state.LastSeq, batches)
	}
	for i := range batches {
		m, err := stream.GetMsg(t.Context(), uint64(i+1))
		if err != nil || string(m.Data) != fmt.Sprint(i) {
			t.Fatalf("message %d is %v, %v", i+1, m, err)
		}
	}
}
